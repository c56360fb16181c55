// SPDX-License-Identifier: MIT
//! `Switch`: a fault built into the mirror on purpose, so that a test can see whether the tests
//! would notice it. Test builds only; each mirror has switches of its own, and all are off.
//!
//! | switch | what goes wrong | where |
//! |---|---|---|
//! | `Intent::clears_early` | a checkpoint clears its marks before the copies are durable | `tend.rs` |
//! | `Intent::drops` | an op begins without one of the marks it needs | `intent.rs` |
//! | `Order::skips` | an op does not wait for its turn | `order.rs` |
//! | `Watch::is_blind` | a replica is taken in while a call to it that was given up is under way | `tend.rs` |

use std::sync::atomic::{AtomicUsize, Ordering};

use smallvec::{Array, SmallVec};

use crate::journal::{Aspect, Checkpoint, Journal};

/// Whether something goes wrong, and how often.
#[derive(Debug, Default)]
pub(in crate::mirror) struct Switch {
    /// At every so many chances; 0: never.
    every: AtomicUsize,
    chances: AtomicUsize,
}

impl Switch {
    /// From now on it goes wrong at every `every`-th chance.
    pub(in crate::mirror) fn turn_on(&self, every: usize) {
        self.every.store(every, Ordering::Relaxed);
    }

    /// One more chance: whether it goes wrong now.
    pub(in crate::mirror) fn goes_wrong(&self) -> bool {
        let every = self.every.load(Ordering::Relaxed);
        every > 0 && (self.chances.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(every)
    }

    /// Clears what `point` holds, now, and hands out the next checkpoint; or nothing is amiss.
    pub(in crate::mirror) fn end_early(&self, journal: &Journal, point: Checkpoint) -> Checkpoint {
        if !self.goes_wrong() {
            return point;
        }
        journal.end_checkpoint(point).expect("the log is good");
        journal.begin_checkpoint()
    }
}

/// Which marks are left out: a switch for each kind.
///
/// The mark of what moves is none of them: names are marked on both ends of the way, and healing them
/// brings it along. It saves the copying.
#[derive(Debug, Default)]
pub(in crate::mirror) struct Drops {
    pub(in crate::mirror) data: Switch,
    pub(in crate::mirror) node: Switch,
    pub(in crate::mirror) dir: Switch,
    pub(in crate::mirror) dir_data: Switch,
}

impl Drops {
    /// What is left of `all` that an op needs.
    pub(in crate::mirror) fn sift<A: Array>(
        &self,
        mut all: SmallVec<A>,
        aspect: impl Fn(&A::Item) -> Aspect,
    ) -> SmallVec<A> {
        all.retain(|one| match aspect(one) {
            Aspect::Data { .. } => !self.data.goes_wrong(),
            Aspect::Node => !self.node.goes_wrong(),
            Aspect::Dir => !self.dir.goes_wrong(),
            Aspect::DirData => !self.dir_data.goes_wrong(),
            Aspect::Moved | Aspect::Tree | Aspect::Fill => true,
        });
        all
    }
}
