// SPDX-License-Identifier: MIT
//! Waiting for the kernel to forget: what lost its last name keeps descriptors until then.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How many FORGETs have come, for whoever needs the room that they make.
#[derive(Debug, Default)]
pub(super) struct Forgets {
    count: Mutex<Count>,
    came: Condvar,
}

#[derive(Debug, Default)]
struct Count {
    seen: u64,
    /// Somebody waited in vain since the last one.
    in_vain: bool,
}

impl Forgets {
    /// Nothing was forgotten for so long: nothing is going to be soon.
    const PATIENCE: Duration = Duration::from_millis(500);

    pub(super) fn one_more(&self) {
        let mut count = self.count.lock();
        count.seen += 1;
        count.in_vain = false;
        drop(count);
        self.came.notify_all();
    }

    pub(super) fn seen(&self) -> u64 {
        self.count.lock().seen
    }

    /// Waits for one more than `before`; false if none comes, at once where the last one who waited
    /// did so in vain.
    pub(super) fn wait_beyond(&self, before: u64) -> bool {
        let mut count = self.count.lock();
        let none = |count: &mut Count| count.seen == before && !count.in_vain;
        let waited = self.came.wait_while_for(&mut count, none, Self::PATIENCE);
        if waited.timed_out() && count.seen == before {
            count.in_vain = true;
        }
        count.seen != before
    }
}
