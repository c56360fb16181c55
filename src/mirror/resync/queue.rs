// SPDX-License-Identifier: MIT
//! What is still to be done, for several workers: the last thing found comes first, so that as few as
//! possible wait, and who finds nothing waits until everybody has.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How long to wait for something to do before anybody is told that we still wait.
const TICK: Duration = Duration::from_millis(100);

/// A stack of tasks.
#[derive(Debug)]
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    moved: Condvar,
}

#[derive(Debug)]
struct State<T> {
    tasks: Vec<T>,
    /// Those, and what is being done.
    open: usize,
    is_over: bool,
}

impl<T> Queue<T> {
    pub(super) fn new(first: T) -> Self {
        Self {
            state: Mutex::new(State {
                tasks: vec![first],
                open: 1,
                is_over: false,
            }),
            moved: Condvar::new(),
        }
    }

    /// Adds tasks; the last one is done first.
    pub(super) fn push(&self, tasks: impl IntoIterator<Item = T>) {
        let mut state = self.state.lock();
        let before = state.tasks.len();
        state.tasks.extend(tasks);
        let added = state.tasks.len() - before;
        state.open += added;
        drop(state);
        match added {
            0 => {}
            1 => drop(self.moved.notify_one()),
            _ => drop(self.moved.notify_all()),
        }
    }

    /// The next task, to be followed by [`Self::done`]; `None` when all is done or given up. `idle` is
    /// called now and then meanwhile.
    pub(super) fn next(&self, idle: &mut dyn FnMut()) -> Option<T> {
        let mut state = self.state.lock();
        loop {
            if state.is_over || state.open == 0 {
                return None;
            }
            if let Some(task) = state.tasks.pop() {
                return Some(task);
            }
            if self.moved.wait_for(&mut state, TICK).timed_out() {
                drop(state);
                idle();
                state = self.state.lock();
            }
        }
    }

    /// One that was taken is done.
    pub(super) fn done(&self) {
        let mut state = self.state.lock();
        state.open -= 1;
        if state.open == 0 {
            drop(state);
            self.moved.notify_all();
        }
    }

    /// Nobody is to take another one.
    pub(super) fn give_up(&self) {
        self.state.lock().is_over = true;
        self.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn everything_is_done_once_by_whoever_is_free() {
        let (queue, count) = (Queue::new(15_u32), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Some(task) = queue.next(&mut || ()) {
                        count.fetch_add(1, Ordering::Relaxed);
                        queue.push((0..task).rev());
                        queue.done();
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), 1 << 15);
    }

    #[test]
    fn who_waits_is_told_that_it_is_given_up() {
        let queue = Queue::new(());
        queue.next(&mut || ()).expect("the first one");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| queue.next(&mut || queue.give_up()));
            assert_eq!(waits.join().expect("no panic"), None);
        });
    }
}
