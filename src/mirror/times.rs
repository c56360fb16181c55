// SPDX-License-Identifier: MIT
//! Times that wait to be carried over.
//!
//! Each copy's file system stamps its own clock into `mtime` when something is written or a name
//! changes, so the replica's differs by some microseconds. Setting it again after every write
//! would double the cost of small ones. So an op notes the node, and once it has been quiet for a
//! moment its times are copied, exactly, from the primary (docs/SAFETY.md, trap 6 and rule 16).
//!
//! A time noted after an op's replica part is done is carried over later than that part: whatever
//! the replica's clock wrote meanwhile is overwritten. fsync and unmount carry first.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::store::Node;

/// How long names and content rest before their times are carried over.
const QUIET: Duration = Duration::from_millis(40);

#[derive(Debug, Default)]
struct Waiting {
    nodes: Vec<Arc<Node>>,
    /// The batch that somebody has taken and is not done with.
    taken: Option<u64>,
    batches: u64,
    stopped: bool,
}

impl Waiting {
    fn hand_over(&mut self) -> Batch {
        self.batches += 1;
        self.taken = Some(self.batches);
        Batch {
            nodes: std::mem::take(&mut self.nodes),
            number: self.batches,
        }
    }
}

/// The nodes whose times on the replica are not final yet.
///
/// One batch of them is carried at a time: who gets the next one knows that those of the last are
/// carried, too. A checkpoint that did not would clear marks of times that somebody else is about to
/// carry.
#[derive(Debug, Default)]
pub struct Times {
    waiting: Mutex<Waiting>,
    some: Condvar,
}

/// Nodes whose times are to be carried now. [`Times::done`] must follow.
#[derive(Debug)]
#[must_use]
pub struct Batch {
    /// Those nodes.
    pub nodes: Vec<Arc<Node>>,
    /// For [`Times::done`].
    pub number: u64,
}

impl Times {
    /// Notes that an op has just changed a time of `node` on both copies.
    pub fn touch(&self, node: &Arc<Node>) {
        if node.unsettled.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut waiting = self.waiting.lock();
        waiting.nodes.push(node.clone());
        if waiting.nodes.len() == 1 && waiting.taken.is_none() {
            self.some.notify_all();
        }
    }

    /// For the settling thread: waits for work, then for a moment of quiet; `None` when stopped.
    ///
    /// A node keeps its mark until its times are being carried: an op that notes it again before
    /// that is covered, one after that puts it here again.
    pub fn next(&self) -> Option<Batch> {
        let mut waiting = self.waiting.lock();
        loop {
            while !waiting.stopped && (waiting.nodes.is_empty() || waiting.taken.is_some()) {
                self.some.wait(&mut waiting);
            }
            let rest = std::time::Instant::now() + QUIET;
            while !waiting.stopped && !self.some.wait_until(&mut waiting, rest).timed_out() {}
            if waiting.stopped {
                return None;
            }
            // Unless somebody else has taken them meanwhile.
            if !waiting.nodes.is_empty() && waiting.taken.is_none() {
                return Some(waiting.hand_over());
            }
        }
    }

    /// Takes all that wait now, once what was taken before is done with.
    pub fn take(&self) -> Batch {
        let mut waiting = self.waiting.lock();
        while waiting.taken.is_some() {
            self.some.wait(&mut waiting);
        }
        waiting.hand_over()
    }

    /// The times of this batch are carried; or whoever has taken it hangs on the replica, and nobody
    /// is to wait for it. To be told of both does no harm.
    pub fn done(&self, number: u64) {
        let mut waiting = self.waiting.lock();
        if waiting.taken == Some(number) {
            waiting.taken = None;
            self.some.notify_all();
        }
    }

    /// Ends [`Self::next`], and takes what is left.
    pub fn stop(&self) -> Batch {
        self.waiting.lock().stopped = true;
        self.some.notify_all();
        self.take()
    }

    /// Whether somebody waits for something here.
    #[cfg(test)]
    pub(super) fn is_awaited(&self) -> bool {
        let _held = self.waiting.lock();
        self.some.notify_all() > 0
    }
}
