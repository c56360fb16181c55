// SPDX-License-Identifier: MIT
//! `Gate`: lets changes in until it is shut, and knows when the last one is out.
//!
//! Who goes in gets a [`Pass`]. It can be handed to another thread, because the one that went in may
//! hang on a replica for ever, while its change is ended by somebody else. Who wants to look at both
//! copies while nothing changes takes [`Still`]: whoever comes then waits until that is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};

#[derive(Debug, Default)]
struct State {
    /// Nothing is let in for the moment.
    held: bool,
    /// Nothing is let in any more.
    shut: bool,
}

/// The door in the door.
#[derive(Debug, Default)]
pub struct Gate {
    inside: AtomicUsize,
    /// It is held or shut.
    closed: AtomicBool,
    state: Mutex<State>,
    moved: Condvar,
}

/// One change that is under way.
#[derive(Debug)]
pub struct Pass(Arc<Gate>);

/// Nothing is under way until this is dropped, wherever it is.
#[derive(Debug)]
pub struct Still(Arc<Gate>);

impl Gate {
    /// Goes in; waits while nothing is to be under way. `None` once it is shut.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Option<Pass> {
        loop {
            self.inside.fetch_add(1, Ordering::SeqCst);
            let pass = Pass(self.clone());
            // Counted first: who closes the gate either sees us or is seen.
            if !self.closed.load(Ordering::SeqCst) {
                return Some(pass);
            }
            drop(pass);
            let mut state = self.state.lock();
            while state.held && !state.shut {
                self.moved.wait(&mut state);
            }
            if state.shut {
                return None;
            }
        }
    }

    /// Lets nothing in for as long as this is held, and waits until nothing is inside.
    #[must_use]
    pub fn hold(self: &Arc<Self>) -> Still {
        let mut state = self.state.lock();
        while state.held {
            self.moved.wait(&mut state);
        }
        state.held = true;
        self.closed.store(true, Ordering::SeqCst);
        let still = Still(self.clone());
        while self.inside.load(Ordering::SeqCst) > 0 {
            self.moved.wait(&mut state);
        }
        drop(state);
        still
    }

    /// Lets nothing in any more, and waits until nothing is inside.
    pub fn shut(&self) {
        let mut state = self.state.lock();
        state.shut = true;
        self.closed.store(true, Ordering::SeqCst);
        self.moved.notify_all();
        while state.held || self.inside.load(Ordering::SeqCst) > 0 {
            self.moved.wait(&mut state);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let last = self.0.inside.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.0.closed.load(Ordering::SeqCst) {
            drop(self.0.state.lock());
            self.0.moved.notify_all();
        }
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.held = false;
        self.0.closed.store(state.shut, Ordering::SeqCst);
        drop(state);
        self.0.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shutting_waits_for_those_inside_wherever_their_pass_went() {
        let gate = Arc::new(Gate::default());
        let pass = gate.enter().expect("open");
        let shutting = std::thread::spawn({
            let gate = gate.clone();
            move || gate.shut()
        });
        while gate.enter().is_some() {
            std::thread::yield_now();
        }
        assert!(!shutting.is_finished());
        std::thread::spawn(move || drop(pass)).join().expect("join");
        shutting.join().expect("join");
        assert!(gate.enter().is_none());
    }

    #[test]
    fn while_it_is_held_nothing_is_under_way_and_whoever_comes_waits() {
        let gate = Arc::new(Gate::default());
        let under_way = Arc::new(AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let pass = gate.enter().expect("it is never shut");
                        under_way.fetch_add(1, Ordering::SeqCst);
                        under_way.fetch_sub(1, Ordering::SeqCst);
                        drop(pass);
                    }
                });
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let still = gate.hold();
                        assert_eq!(under_way.load(Ordering::SeqCst), 0);
                        std::thread::spawn(move || drop(still))
                            .join()
                            .expect("join");
                    }
                });
            }
        });
        let still = gate.hold();
        let waiting = std::thread::spawn({
            let gate = gate.clone();
            move || gate.enter().is_some()
        });
        while gate.inside.load(Ordering::SeqCst) > 0 || !gate.closed.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        assert!(!waiting.is_finished());
        drop(still);
        assert!(waiting.join().expect("join"));
    }
}
