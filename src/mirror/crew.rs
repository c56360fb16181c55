// SPDX-License-Identifier: MIT
//! `Crew`: the threads that serve requests, of which one always stays free.
//!
//! A change may wait for the replica, and with it for a disk that does not answer. If all threads did
//! so, nobody would be left to answer a read. So the last free one does not begin a change: it
//! leaves it, with a copy of its data, to those that are inside, and goes back for the next request.
//!
//! ```text
//!   t1  change ........................ then what was left ....
//!   t2  change ...............
//!   t3  read | change: left to the others | read | read
//! ```
//!
//! A thread that the replica holds is *replaced* ([`super::watch`]): another one does what is left
//! in its stead, until it is back. What is left is bounded; at the limit the last thread waits, too.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// What may be left to others, in bytes. The kernel sends 64 requests of 1 MiB unasked for, and one
/// more for each thread of a program.
const LEFT_MAX: usize = 256 << 20;
/// What a change costs besides its data, in bytes: about what it takes in memory.
const COST: usize = 1 << 10;

/// A change that was left to others, complete in itself.
pub type Job = Box<dyn FnOnce() + Send>;

/// What the calling thread is to the crew.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Duty {
    /// A worker between changes.
    Free,
    /// Inside of a change, or doing what was left.
    Inside,
    /// Inside of a change that somebody else has ended.
    Replaced,
    /// No worker: it carries out by itself what it begins.
    Apart,
}

thread_local! {
    static DUTY: Cell<Duty> = const { Cell::new(Duty::Free) };
}

/// Whether the calling thread is inside of a change as one of the crew.
pub(super) fn is_inside() -> bool {
    DUTY.get() == Duty::Inside
}

/// Somebody else has ended what this thread was inside of.
pub(super) fn was_replaced() {
    if is_inside() {
        DUTY.set(Duty::Replaced);
    }
}

/// The calling thread is none of the crew.
pub fn stand_apart() {
    DUTY.set(Duty::Apart);
}

#[derive(Debug)]
struct State {
    /// Workers outside of changes.
    free: usize,
    /// Threads that will do what is left before they are free: workers and their replacements.
    inside: usize,
    left: VecDeque<(usize, Left)>,
    bytes: usize,
}

struct Left(Job);

impl std::fmt::Debug for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a change")
    }
}

/// The threads that serve requests.
#[derive(Debug)]
pub struct Crew {
    /// So many may be inside of changes at once; 0 where everybody stands apart.
    most: usize,
    state: Mutex<State>,
    /// Something that was left has been taken up.
    taken: Condvar,
}

impl Crew {
    /// A crew of so many workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            most: workers.saturating_sub(1),
            state: Mutex::new(State {
                free: workers,
                inside: 0,
                left: VecDeque::new(),
                bytes: 0,
            }),
            taken: Condvar::new(),
        }
    }

    /// Carries out a change with `bytes` of data: `now`, or by others when this is the last free
    /// worker, which then keeps what it needs of it in a job.
    pub fn run<W>(
        self: &Arc<Self>,
        work: W,
        bytes: usize,
        now: impl FnOnce(W),
        later: impl FnOnce(W) -> Job,
    ) {
        if self.most == 0 || DUTY.get() != Duty::Free {
            return now(work);
        }
        let mut state = self.state.lock();
        if state.free < 2 {
            drop(state);
            return self.leave(bytes + COST, later(work));
        }
        state.free -= 1;
        state.inside += 1;
        drop(state);
        DUTY.set(Duty::Inside);
        now(work);
        self.come_out(1);
        DUTY.set(Duty::Free);
    }

    /// Does what was left, until nothing is, and is inside no more; one more worker is free then.
    /// Does nothing more where somebody has replaced this thread.
    fn come_out(&self, worker: usize) {
        loop {
            let mut state = self.state.lock();
            let replaced = DUTY.get() == Duty::Replaced;
            let left = if replaced {
                None
            } else {
                state.left.pop_front()
            };
            let Some((bytes, Left(job))) = left else {
                state.free += worker;
                state.inside -= usize::from(!replaced);
                return;
            };
            state.bytes -= bytes;
            drop(state);
            self.taken.notify_one();
            job();
        }
    }

    fn leave(self: &Arc<Self>, bytes: usize, job: Job) {
        let mut state = self.state.lock();
        while state.bytes > 0 && state.bytes + bytes > LEFT_MAX {
            self.taken.wait(&mut state);
        }
        state.bytes += bytes;
        state.left.push_back((bytes, Left(job)));
        self.send_one_more(&mut state);
    }

    /// Has somebody do what is left, where fewer than may be are inside.
    fn send_one_more(self: &Arc<Self>, state: &mut State) {
        if state.inside >= self.most {
            return;
        }
        state.inside += 1;
        let crew = self.clone();
        let thread = std::thread::Builder::new().name("spare".to_owned());
        if let Err(error) = thread.spawn(move || crew.stand_in(|| ())) {
            tracing::warn!("no thread for a change that waits: {error}");
            state.inside -= 1;
        }
    }

    /// Runs `first`, and then what is left, as one of those that are inside.
    fn stand_in(self: &Arc<Self>, first: impl FnOnce()) {
        DUTY.set(Duty::Inside);
        first();
        self.come_out(0);
    }

    /// Ends a change whose thread hangs: in a thread of its own, since `rest` may go on with other
    /// changes. If that thread was `inside`, the new one is in its stead.
    pub(super) fn end_elsewhere(self: &Arc<Self>, inside: bool, rest: Job) {
        let rest = Arc::new(Mutex::new(Some(rest)));
        let (crew, taken) = (self.clone(), rest.clone());
        let run = move || {
            let Some(rest) = taken.lock().take() else {
                return;
            };
            if inside {
                crew.stand_in(rest);
            } else {
                stand_apart();
                rest();
            }
        };
        let thread = std::thread::Builder::new().name("rescue".to_owned());
        if let Err(error) = thread.spawn(run) {
            tracing::warn!("no thread to end a request in: {error}");
            if inside {
                self.state.lock().inside -= 1;
            }
            let rest = rest.lock().take();
            if let Some(rest) = rest {
                rest();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::{Receiver, Sender, unbounded};

    /// A worker of a crew: does what it is sent, one after the other.
    fn worker(crew: &Arc<Crew>) -> (Sender<Job>, std::thread::JoinHandle<()>) {
        let (send, work): (Sender<Job>, Receiver<Job>) = unbounded();
        let crew = crew.clone();
        let serve = move || {
            for job in work {
                crew.run(job, 0, |job| job(), |job| job);
            }
        };
        (send, std::thread::spawn(serve))
    }

    /// Two of three workers hang: the third leaves every change to them, and is free all the time.
    /// When one of them is replaced what was left is done.
    #[test]
    fn the_last_one_stays_free_and_what_it_left_is_done() {
        let crew = Arc::new(Crew::new(3));
        let (hang, hanging) = unbounded::<()>();
        let (tell, told) = unbounded();
        let workers: Vec<_> = (0..3).map(|_| worker(&crew)).collect();
        for (send, _) in &workers[..2] {
            let (tell, hanging) = (tell.clone(), hanging.clone());
            let job = move || {
                tell.send("inside").expect("told");
                assert!(hanging.recv().is_err());
                was_replaced();
            };
            send.send(Box::new(job)).expect("sent");
            assert_eq!(told.recv(), Ok("inside"));
        }
        let (_, second) = (&workers[0], &workers[2].0);
        for _ in 0..100 {
            let tell = tell.clone();
            let job = move || tell.send("done").expect("told");
            second.send(Box::new(job)).expect("sent");
        }
        while crew.state.lock().left.len() < 100 {
            std::thread::yield_now();
        }
        assert!(told.try_recv().is_err());
        let rest = {
            let tell = tell.clone();
            Box::new(move || tell.send("rest").expect("told"))
        };
        crew.end_elsewhere(true, rest);
        assert_eq!(told.recv(), Ok("rest"));
        for _ in 0..100 {
            assert_eq!(told.recv(), Ok("done"));
        }
        drop(hang);
        for (send, handle) in workers {
            drop(send);
            handle.join().expect("join");
        }
        // Both were taken for replaced, and one was: its stand-in has left.
        let state = crew.state.lock();
        assert_eq!((state.free, state.left.len()), (3, 0));
    }

    /// Many workers, many changes: each is done once, whoever does it.
    #[test]
    fn nothing_is_lost_between_those_that_leave_and_those_that_come() {
        let crew = Arc::new(Crew::new(3));
        let (tell, told) = unbounded();
        let workers: Vec<_> = (0..3).map(|_| worker(&crew)).collect();
        for n in 0..3000_usize {
            let tell = tell.clone();
            let job = move || tell.send(n).expect("told");
            workers[n % 3].0.send(Box::new(job)).expect("sent");
        }
        let mut seen: Vec<_> = (0..3000).filter_map(|_| told.recv().ok()).collect();
        seen.sort_unstable();
        assert!(seen.iter().copied().eq(0..3000));
        for (send, handle) in workers {
            drop(send);
            handle.join().expect("join");
        }
        let state = crew.state.lock();
        assert_eq!((state.free, state.left.len(), state.bytes), (3, 0, 0));
    }
}
