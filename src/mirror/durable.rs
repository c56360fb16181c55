// SPDX-License-Identifier: MIT
//! What makes both copies the same to the last bit and durable: fsync, times, closing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::settle::{Carried, settle};
use super::times::Batch;
use super::watch::{Either, Rest, What};
use super::{Durable, Mirror, attributes_of, crew, unreadable};
use crate::journal::Pins;
use crate::store::op::{Claim, Claims};
use crate::store::{Node, Scope};
use crate::sys::{Errno, Result};

impl Mirror {
    /// Makes everything done to `node` durable on both copies, and tells `then`: before this returns,
    /// or later and from another thread.
    ///
    /// An error is the primary's. A failed sync is kept on the node and answered again until it is
    /// forgotten (docs/SAFETY.md, rule 14).
    pub fn barrier_then(self: &Arc<Self>, node: Arc<Node>, scope: Scope, then: Durable) {
        let now = |then| self.barrier_now(&node, scope, then);
        let (mirror, kept) = (self.clone(), node.clone());
        let later =
            |then| -> crew::Job { Box::new(move || mirror.barrier_now(&kept, scope, then)) };
        self.crew.run(then, 0, now, later);
    }

    fn barrier_now(self: &Arc<Self>, node: &Arc<Node>, scope: Scope, then: Durable) {
        if let Err(errno) = node.sync_error() {
            return then(Err(errno));
        }
        let then = Either::new(then);
        // All that is left to do without the replica.
        let (mirror, of, first) = (self.clone(), node.clone(), then.share());
        let mut rest: Rest = Box::new(move |carried| {
            let done = mirror.primary.barrier(&of, scope);
            let answer = mirror.synced(&of, done, carried);
            if let Some(then) = first.take() {
                then(answer);
            }
        });
        // fdatasync promises no times: they settle when the file rests, and are a mark until then. Whoever
        // reads them makes the kernel stamp the next write to the nanosecond, so that there is a new time
        // to commit with every sync (multigrain timestamps, Linux 6.13).
        if scope == Scope::Node && node.unsettled.load(Ordering::Acquire) {
            match self.carry_times(node, rest) {
                Some(ours) => rest = ours,
                None => return,
            }
        }
        let way = self.lane.way().filter(|_| self.sync_both);
        way.iter().for_each(|way| self.settle_way(way));
        let Some(way) = way.filter(|way| way.is_open()) else {
            let carried = if self.lane.is_open() {
                Carried::Done
            } else {
                self.on_record()
            };
            return rest(carried);
        };
        let what = What::sync(node);
        let errand = self.watch.begin(Some(&way), what, None, Some(rest));
        let beside = way.barrier_beside(node, scope, &mut || {
            if errand.pause() {
                let done = self.primary.barrier(node, scope);
                let (mirror, of, then) = (self.clone(), node.clone(), then.share());
                errand.resume(Box::new(move |carried| {
                    let answer = mirror.synced(&of, done, carried);
                    if let Some(then) = then.take() {
                        then(answer);
                    }
                }));
            }
        });
        let Some(owed) = errand.end() else {
            return;
        };
        owed.settle(match beside {
            Ok(()) if way.is_open() => Carried::Done,
            Ok(()) => self.on_record(),
            Err(fault) if self.is_orphan(Some(node), &fault) => Carried::Done,
            Err(fault) => self.fail(fault, &way),
        });
    }

    /// The answer to a barrier.
    fn synced(&self, node: &Arc<Node>, done: Result<()>, carried: Carried) -> Result<()> {
        if let Err(errno) = node.sync_error() {
            // A failed sync is a failed write: the kernel drops what it could not write, and the
            // replica may have it.
            let doing = format!("fsync of {} on the primary", node.display_path());
            self.doubt(errno, doing);
            return Err(errno);
        }
        settle(done, carried, self.policy)
    }

    /// Copies a node's times from the primary to the replica. Hands back what is left to do then, or
    /// nothing if that was done by somebody else.
    fn carry_times(&self, node: &Arc<Node>, rest: Rest) -> Option<Rest> {
        let claims: Claims = smallvec::smallvec![Claim::attributes(node)];
        let turn = self.order.enter(&claims);
        // An exchange: what is asked below is asked after it.
        node.unsettled.swap(false, Ordering::AcqRel);
        let Some(way) = self.lane.way() else {
            return Some(rest);
        };
        let healing = way.healing();
        if let Some(healing) = &healing
            && !healing.admits(&attributes_of(node))
        {
            // Once it has been healed; what is gone never is, and is let go.
            if !self.source.is_removed(node) {
                self.times.touch(node);
            }
            return Some(rest);
        }
        let stat = match self.source.stat(node) {
            // No name leads to it any more on either copy.
            Ok(stat) if stat.nlink == 0 => return Some(rest),
            Err(Errno::STALE) if self.nodes.is_shared() => return Some(rest),
            stat => stat,
        };
        let mut pins = Pins::default();
        // What waits in a queue may find the way healing, and the node not where it is looked for.
        if healing.is_some() || way.is_queued() {
            match self.log().map(|intent| intent.mark_attributes(node)) {
                Some(Err(errno)) => {
                    self.log_is_lost(errno);
                    return Some(rest);
                }
                Some(Ok(marked)) => pins = marked,
                None => {}
            }
        }
        if !way.is_open() {
            // If it was closed before these were pinned they were not made dirty with the others.
            pins.soil();
            return Some(rest);
        }
        let what = What::to("carry times over to", node);
        let errand = self.watch.begin(Some(&way), what, Some(turn), Some(rest));
        Self::wait_in_line(&way, &errand);
        let done = stat
            .map_err(|errno| unreadable(errno, "times", node))
            .and_then(|stat| way.set_times(node, (stat.atime, stat.mtime), pins));
        let owed = errand.end()?;
        if let Err(fault) = done {
            self.fail(fault, &way);
        }
        Some(owed.without_turn())
    }

    /// Carries over the times of nodes that have come to rest, until [`Self::drain`].
    pub fn settle_times(self: &Arc<Self>) {
        while let Some(batch) = self.times.next() {
            drop(self.carry_all(batch, Box::new(|_| ())));
        }
    }

    /// `too_long` is done if the replica hangs, or handed back.
    pub(super) fn carry_all(self: &Arc<Self>, batch: Arc<Batch>, too_long: Rest) -> Option<Rest> {
        let (mirror, taken) = (self.clone(), Arc::downgrade(&batch));
        let mut rest: Rest = Box::new(move |carried| {
            if let Some(batch) = taken.upgrade() {
                mirror.times.give_back(&batch);
            }
            too_long(carried);
        });
        for node in &batch.nodes {
            // Where it hangs, the others are somebody else's from then on.
            rest = self.carry_times(node, rest)?;
        }
        self.times.done(&batch);
        // What is forgotten closes files of the replica.
        let way = self.lane.way();
        let errand = self
            .watch
            .begin(way.as_ref(), What::new("close"), None, Some(rest));
        drop(batch);
        self.nodes.sweep();
        errand.end()?.into_rest()
    }

    /// Takes back `count` lookups of a node, and tells `then`. What loses its last one closes files
    /// of the replica, which can take as long as anything else there.
    pub fn forget_then(
        self: &Arc<Self>,
        id: u64,
        count: u64,
        then: impl FnOnce() + Send + 'static,
    ) {
        let mirror = self.clone();
        let forget = move || {
            let way = mirror.lane.way();
            let errand = mirror
                .watch
                .begin(way.as_ref(), What::new("close"), None, None);
            mirror.nodes.forget(id, count);
            drop(errand.end());
            then();
        };
        self.crew
            .run(forget, 0, |forget| forget(), |forget| Box::new(forget));
    }
}
