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
    /// The settling thread has taken some and is not done with them.
    busy: bool,
    stopped: bool,
}

/// The nodes whose times on the replica are not final yet.
#[derive(Debug, Default)]
pub struct Times {
    waiting: Mutex<Waiting>,
    some: Condvar,
}

impl Times {
    /// Notes that an op has just changed a time of `node` on both copies.
    pub fn touch(&self, node: &Arc<Node>) {
        if node.unsettled.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut waiting = self.waiting.lock();
        waiting.nodes.push(node.clone());
        if waiting.nodes.len() == 1 && !waiting.busy {
            self.some.notify_all();
        }
    }

    /// For the settling thread: waits for work, then for a moment of quiet; `None` when stopped.
    ///
    /// A node keeps its mark until its times are being carried: an op that notes it again before
    /// that is covered, one after that puts it here again.
    pub fn next(&self) -> Option<Vec<Arc<Node>>> {
        let mut waiting = self.waiting.lock();
        waiting.busy = false;
        self.some.notify_all();
        while waiting.nodes.is_empty() && !waiting.stopped {
            self.some.wait(&mut waiting);
        }
        let rest = std::time::Instant::now() + QUIET;
        while !waiting.stopped && !self.some.wait_until(&mut waiting, rest).timed_out() {}
        if waiting.stopped {
            return None;
        }
        waiting.busy = true;
        Some(std::mem::take(&mut waiting.nodes))
    }

    /// Takes all that wait now, once the settling thread is done with what it has taken.
    #[must_use]
    pub fn take(&self) -> Vec<Arc<Node>> {
        let mut waiting = self.waiting.lock();
        while waiting.busy {
            self.some.wait(&mut waiting);
        }
        std::mem::take(&mut waiting.nodes)
    }

    /// The settling thread hangs on the replica: nobody is to wait for it.
    pub fn abandon(&self) {
        self.waiting.lock().busy = false;
        self.some.notify_all();
    }

    /// Ends [`Self::next`], waits until the settling thread is done with what it has taken, and
    /// hands over what is left.
    #[must_use]
    pub fn stop(&self) -> Vec<Arc<Node>> {
        let mut waiting = self.waiting.lock();
        waiting.stopped = true;
        self.some.notify_all();
        while waiting.busy {
            self.some.wait(&mut waiting);
        }
        std::mem::take(&mut waiting.nodes)
    }
}
