// SPDX-License-Identifier: MIT
//! `Window`: what is acknowledged and not yet on the replica, in order and bounded (`mode=async`).
//!
//! A change takes its ticket *before* the primary begins it and after it has its turn, and the
//! replica follows in the order of tickets:
//!
//! ```text
//!   t1  ticket 7   primary .......... fill 7
//!   t2     ticket 8   primary . fill 8            the lane: ... 6, waits for 7, 7, 8
//! ```
//!
//! So whatever a program could have seen before it began a change is on the replica before that
//! change: at every moment the replica is a state the primary had. A change that failed on the
//! primary leaves its ticket void.
//!
//! Everybody who waits here (for room, for what is under way) watches the lane's thread as well: a
//! replica that does not answer for `patience` has stalled, and nobody waits for it any longer.
//!
//! Lock order: the window's lock is taken last and never held across I/O.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

/// What an op costs in the window besides its data, in bytes: about what it takes in memory.
const COST: u64 = 512;
/// Loads handed out at once.
const BATCH: usize = 64;

/// What has to be known of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that may wait (`max-lag`).
    pub bytes: u64,
    /// Go on without the replica when they are reached (`on-congestion=pull-ahead`).
    pub pull_ahead: bool,
    /// How long one load may take (`replica-timeout`).
    pub patience: Duration,
}

/// Why a wait ended without what was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The window is closed: nothing is carried any more.
    Closed,
    /// One load has been under way for longer than the limit.
    Stalled,
    /// The window is full, and the application is not to wait.
    Full,
}

/// How far the replica is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Operations.
    pub ops: u64,
    /// Bytes of their data.
    pub bytes: u64,
    /// Age of the oldest.
    pub age: Duration,
}

#[derive(Debug)]
enum Load<T> {
    /// The primary is at it.
    Awaited,
    Ready(T),
    /// Nothing to do.
    Void,
    /// The lane has it.
    Taken,
}

#[derive(Debug)]
struct Slot<T> {
    since: Instant,
    bytes: u64,
    load: Load<T>,
}

#[derive(Debug)]
struct State<T> {
    /// In order of tickets; the front is the oldest that is not carried.
    slots: VecDeque<Slot<T>>,
    /// The ticket of the front.
    first: u64,
    /// Filled, and not carried yet.
    lag: Lag,
    /// Reserved, filled or not.
    held: u64,
    /// Since when the lane's thread has been at what it does now.
    busy: Option<Instant>,
    closed: bool,
}

/// The queue of one lane.
#[derive(Debug)]
pub struct Window<T> {
    state: Mutex<State<T>>,
    /// The front has become ready.
    ready: Condvar,
    /// Something was carried, or the window closed.
    moved: Condvar,
    limits: Limits,
}

impl<T> Window<T> {
    /// An empty window.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            state: Mutex::new(State {
                slots: VecDeque::new(),
                first: 0,
                lag: Lag::default(),
                held: 0,
                busy: None,
                closed: false,
            }),
            ready: Condvar::new(),
            moved: Condvar::new(),
            limits,
        }
    }

    /// Takes a ticket for a change with `bytes` of data; waits for room.
    ///
    /// # Errors
    /// Why there is none, and will be none.
    pub fn reserve(self: &Arc<Self>, bytes: usize) -> Result<Ticket<T>, Obstacle> {
        let bytes = bytes as u64;
        let mut state = self.state.lock();
        // What is larger than the window goes through alone.
        while state.held > 0 && state.held + bytes + COST > self.limits.bytes && !state.closed {
            if self.limits.pull_ahead {
                return Err(Obstacle::Full);
            }
            self.wait(&mut state)?;
        }
        if state.closed {
            return Err(Obstacle::Closed);
        }
        state.held += bytes + COST;
        state.slots.push_back(Slot {
            since: Instant::now(),
            bytes,
            load: Load::Awaited,
        });
        let number = state.first + state.slots.len() as u64 - 1;
        Ok(Ticket {
            window: self.clone(),
            number,
            used: false,
        })
    }

    fn put(&self, number: u64, load: Load<T>) {
        let mut state = self.state.lock();
        let Some(at) = number.checked_sub(state.first) else {
            return; // closed meanwhile
        };
        let Some(slot) = usize::try_from(at)
            .ok()
            .and_then(|at| state.slots.get_mut(at))
        else {
            return;
        };
        let bytes = slot.bytes;
        let counts = matches!(load, Load::Ready(_));
        slot.load = load;
        if counts {
            state.lag.ops += 1;
            state.lag.bytes += bytes;
        }
        if at == 0 {
            self.ready.notify_one();
        }
    }

    /// For the lane's thread: waits for work, and hands over what is ready, oldest first, into
    /// `batch`. False when the window is closed.
    pub fn take(&self, batch: &mut VecDeque<T>) -> bool {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return false;
            }
            while matches!(state.slots.front().map(|slot| &slot.load), Some(Load::Void)) {
                self.leave(&mut state);
            }
            for slot in state.slots.iter_mut().take(BATCH) {
                match std::mem::replace(&mut slot.load, Load::Taken) {
                    Load::Ready(load) => batch.push_back(load),
                    other => {
                        slot.load = other;
                        break;
                    }
                }
            }
            if !batch.is_empty() {
                state.busy = Some(Instant::now());
                return true;
            }
            self.ready.wait(&mut state);
        }
    }

    /// For the lane's thread: the oldest load it took is on the replica. False when the window was
    /// closed meanwhile: whatever else it took is not to be carried.
    pub fn carried(&self, more: bool) -> bool {
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        self.leave(&mut state);
        state.busy = more.then(Instant::now);
        true
    }

    /// Takes the front slot out.
    fn leave(&self, state: &mut State<T>) {
        let Some(slot) = state.slots.pop_front() else {
            return;
        };
        state.first += 1;
        state.held -= slot.bytes + COST;
        if matches!(slot.load, Load::Taken) {
            state.lag.ops -= 1;
            state.lag.bytes -= slot.bytes;
        }
        self.moved.notify_all();
    }

    /// Waits until everything that has a ticket now is carried.
    ///
    /// # Errors
    /// Why it will not be.
    pub fn settle(&self) -> Result<(), Obstacle> {
        let mut state = self.state.lock();
        let end = state.first + state.slots.len() as u64;
        while state.first < end && !state.closed {
            self.wait(&mut state)?;
        }
        if state.closed {
            return Err(Obstacle::Closed);
        }
        Ok(())
    }

    /// Waits for the lane to move on, as long as it answers.
    fn wait(&self, state: &mut MutexGuard<'_, State<T>>) -> Result<(), Obstacle> {
        if Self::stalled(state, self.limits.patience) {
            return Err(Obstacle::Stalled);
        }
        let until = state.busy.unwrap_or_else(Instant::now) + self.limits.patience;
        self.moved.wait_until(state, until);
        Ok(())
    }

    fn stalled(state: &State<T>, patience: Duration) -> bool {
        state.busy.is_some_and(|since| since.elapsed() >= patience)
    }

    /// Whether one load has been under way for too long.
    #[must_use]
    pub fn has_stalled(&self) -> bool {
        Self::stalled(&self.state.lock(), self.limits.patience)
    }

    /// How far the replica is behind.
    #[must_use]
    pub fn lag(&self) -> Lag {
        let state = self.state.lock();
        let oldest = state.slots.front().filter(|_| state.lag.ops > 0);
        Lag {
            age: oldest.map_or(Duration::ZERO, |slot| slot.since.elapsed()),
            ..state.lag
        }
    }

    /// Lets nothing in any more and drops what waits.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.lag = Lag::default();
        state.held = 0;
        state.busy = None;
        let dropped = std::mem::take(&mut state.slots);
        state.first += dropped.len() as u64;
        self.ready.notify_all();
        self.moved.notify_all();
        drop(state);
        drop(dropped);
    }
}

/// A place in the order; void if it is dropped unfilled.
#[derive(Debug)]
pub struct Ticket<T> {
    window: Arc<Window<T>>,
    number: u64,
    used: bool,
}

impl<T> Ticket<T> {
    /// Hands over what the replica is to do.
    pub fn fill(mut self, load: T) {
        self.used = true;
        self.window.put(self.number, Load::Ready(load));
    }
}

impl<T> Drop for Ticket<T> {
    fn drop(&mut self) {
        if !self.used {
            self.window.put(self.number, Load::Void);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        bytes: 10 * COST,
        pull_ahead: false,
        patience: Duration::from_secs(3600),
    };

    fn drained(window: &Window<u32>) -> Vec<u32> {
        let mut batch = VecDeque::new();
        let mut all = Vec::new();
        while window.lag().ops > 0 && window.take(&mut batch) {
            while let Some(load) = batch.pop_front() {
                all.push(load);
                assert!(window.carried(!batch.is_empty()));
            }
        }
        all
    }

    #[test]
    fn loads_come_out_in_the_order_of_tickets_without_the_void_ones() {
        let window = Arc::new(Window::new(LIMITS));
        let tickets: Vec<_> = (0..5)
            .map(|_| window.reserve(0).expect("there is room"))
            .collect();
        for (n, ticket) in tickets.into_iter().enumerate().rev() {
            match n {
                1 | 4 => drop(ticket),
                _ => ticket.fill(u32::try_from(n).expect("small")),
            }
        }
        assert_eq!(window.lag().ops, 3);
        assert_eq!(drained(&window), [0, 2, 3]);
        assert_eq!(window.lag(), Lag::default());
    }

    #[test]
    fn a_full_window_says_so_or_waits_and_a_large_load_goes_alone() {
        let limits = Limits {
            pull_ahead: true,
            ..LIMITS
        };
        let window = Arc::new(Window::new(limits));
        let large = window.reserve(1 << 20).expect("alone it fits");
        assert_eq!(window.reserve(0).err(), Some(Obstacle::Full));
        large.fill(1);
        assert_eq!(drained(&window), [1]);
        assert!(window.reserve(0).is_ok());

        let window = Arc::new(Window::new(LIMITS));
        window.reserve(1 << 20).expect("alone it fits").fill(1);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| window.reserve(0).map(|ticket| ticket.fill(2)));
            let mut batch = VecDeque::new();
            assert!(window.take(&mut batch));
            assert!(window.carried(false));
            assert_eq!(waiting.join().expect("join"), Ok(()));
        });
        assert_eq!(drained(&window), [2]);
    }

    #[test]
    fn who_waits_for_a_lane_that_does_not_answer_hears_of_it() {
        let window = Arc::new(Window::new(Limits {
            patience: Duration::ZERO,
            ..LIMITS
        }));
        window.reserve(0).expect("there is room").fill(1);
        let mut batch = VecDeque::new();
        assert!(window.take(&mut batch));
        assert!(window.has_stalled());
        assert_eq!(window.settle(), Err(Obstacle::Stalled));
        window.close();
        assert_eq!(window.settle(), Err(Obstacle::Closed));
        assert_eq!(window.reserve(0).err(), Some(Obstacle::Closed));
        assert!(!window.carried(false));
        assert!(!window.take(&mut batch));
    }

    #[test]
    fn a_ticket_that_outlives_the_window_is_nothing() {
        let window = Arc::new(Window::new(LIMITS));
        let (one, two) = (window.reserve(0), window.reserve(0));
        window.close();
        one.expect("there was room").fill(1);
        drop(two);
        assert_eq!(window.lag(), Lag::default());
    }
}
