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
    fn hand_over(&mut self) -> Arc<Batch> {
        self.batches += 1;
        self.taken = Some(self.batches);
        Arc::new(Batch {
            nodes: std::mem::take(&mut self.nodes),
            number: self.batches,
        })
    }
}

/// The nodes whose times on the replica are not final yet.
///
/// One batch of them is carried at a time: who gets the next one knows that those of the last are
/// carried, or in it. A checkpoint that did not would clear marks of times that somebody else is
/// about to carry.
#[derive(Debug, Default)]
pub struct Times {
    waiting: Mutex<Waiting>,
    some: Condvar,
}

/// Nodes whose times are to be carried now. [`Times::done`] or [`Times::give_back`] must follow.
#[derive(Debug)]
pub struct Batch {
    /// Those nodes.
    pub nodes: Vec<Arc<Node>>,
    number: u64,
}

impl Times {
    /// Notes that an op has just changed a time of `node` on both copies.
    pub fn touch(&self, node: &Arc<Node>) {
        if node.unsettled.load(Ordering::Acquire) {
            return;
        }
        let mut waiting = self.waiting.lock();
        if node.unsettled.load(Ordering::Acquire) {
            return;
        }
        waiting.nodes.push(node.clone());
        // Not before it is there: whoever finds it noted lets go of its mark.
        node.unsettled.store(true, Ordering::Release);
        if waiting.nodes.len() == 1 && waiting.taken.is_none() {
            self.some.notify_all();
        }
    }

    /// For the settling thread: waits for work, then for a moment of quiet; `None` when stopped.
    ///
    /// A node keeps its mark until its times are being carried: an op that notes it again before
    /// that is covered, one after that puts it here again.
    pub fn next(&self) -> Option<Arc<Batch>> {
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
    #[must_use]
    pub fn take(&self) -> Arc<Batch> {
        let mut waiting = self.waiting.lock();
        while waiting.taken.is_some() {
            self.some.wait(&mut waiting);
        }
        waiting.hand_over()
    }

    /// The times of this batch are carried.
    pub fn done(&self, batch: &Batch) {
        self.end(batch, false);
    }

    /// Whoever has taken this batch hangs on the replica, and carries no more of it: all of it waits
    /// again, so that what is changed in the meantime is covered. Nothing, if it is done already.
    pub fn give_back(&self, batch: &Batch) {
        self.end(batch, true);
    }

    fn end(&self, batch: &Batch, again: bool) {
        let mut waiting = self.waiting.lock();
        if waiting.taken != Some(batch.number) {
            return;
        }
        waiting.taken = None;
        if again {
            // Some of them may wait already: to be carried twice does no harm.
            waiting.nodes.extend(batch.nodes.iter().cloned());
        }
        self.some.notify_all();
    }

    /// Ends [`Self::next`], and takes what is left.
    #[must_use]
    pub fn stop(&self) -> Arc<Batch> {
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

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use rustix::fs::{Mode, OFlags};

    use super::*;
    use crate::store::{Nodes, Stat};

    fn node() -> Arc<Node> {
        let dir = tempfile::tempdir().expect("a directory");
        let fd = rustix::fs::open(dir.path(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let stat = Stat::of(fd.expect("open").as_fd()).expect("statx");
        Nodes::new(&stat).root().clone()
    }

    /// Whoever hangs with a batch is passed by, and what is in it is not forgotten: an op that finds its
    /// node noted already lets go of its mark.
    #[test]
    fn what_is_given_back_waits_again() {
        let (times, node) = (Times::default(), node());
        times.touch(&node);
        times.touch(&node);
        let hung = times.take();
        assert_eq!(hung.nodes.len(), 1);
        times.touch(&node);
        times.give_back(&hung);
        let next = times.take();
        assert!(Arc::ptr_eq(&next.nodes[0], &node));
        // It comes back late: this is not its batch any more.
        times.give_back(&hung);
        times.done(&hung);
        times.done(&next);
        assert!(times.stop().nodes.is_empty());
        assert!(times.next().is_none());
    }
}
