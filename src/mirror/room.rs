// SPDX-License-Identifier: MIT
//! `Room`: how much room the replica has, as far as is known.
//!
//! statfs(2) must be answered while the replica hangs. So a thread of its own asks the replica; who
//! wants to know waits for it only as long as a healthy one takes, and then has the last answer.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::store::Space;

/// How long anybody waits for an answer.
const SHORT: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
struct State {
    known: Option<Space>,
    /// Questions and answers so far.
    asked: u64,
    told: u64,
    /// Since when the thread has been waiting for the replica.
    since: Option<Instant>,
    over: bool,
}

/// The replica's room.
#[derive(Debug, Default)]
pub struct Room {
    state: Mutex<State>,
    asking: Condvar,
    answered: Condvar,
}

impl Room {
    /// Asks, and waits for nothing. Returns for how long the replica has not answered.
    pub fn ask(&self) -> Duration {
        let mut state = self.state.lock();
        state.asked += 1;
        self.asking.notify_one();
        state.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Sizes of the replica's file system, now or some time ago; `None` if it never told.
    #[must_use]
    pub fn space(&self) -> Option<Space> {
        if self.ask() < SHORT {
            let mut state = self.state.lock();
            let mine = state.asked;
            let until = Instant::now() + SHORT;
            while state.told < mine
                && !state.over
                && !self.answered.wait_until(&mut state, until).timed_out()
            {}
        }
        self.state.lock().known
    }

    /// For the thread that asks: waits for a question, asks, and passes the answer on, until there
    /// are no more questions.
    pub fn answer(&self, ask: impl Fn() -> Option<Space>) {
        let mut state = self.state.lock();
        loop {
            while state.asked == state.told && !state.over {
                self.asking.wait(&mut state);
            }
            if state.over {
                return;
            }
            let asked = state.asked;
            state.since = Some(Instant::now());
            drop(state);
            let known = ask();
            state = self.state.lock();
            (state.known, state.told, state.since) = (known, asked, None);
            self.answered.notify_all();
        }
    }

    /// There will be no more questions.
    pub fn close(&self) {
        self.state.lock().over = true;
        self.asking.notify_all();
        self.answered.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn the_last_answer_serves_while_there_is_no_new_one() {
        let (room, hangs) = (Room::default(), AtomicBool::new(false));
        let (hang, hanging) = crossbeam_channel::bounded::<()>(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                room.answer(|| {
                    if hangs.load(Ordering::SeqCst) {
                        assert!(hanging.recv().is_err());
                    }
                    Some(Space {
                        name_max: 7,
                        ..Space::default()
                    })
                });
            });
            assert_eq!(room.space().map(|space| space.name_max), Some(7));
            hangs.store(true, Ordering::SeqCst);
            for _ in 0..3 {
                assert_eq!(room.space().map(|space| space.name_max), Some(7));
            }
            assert!(room.ask() >= SHORT);
            drop(hang);
            room.close();
        });
    }
}
