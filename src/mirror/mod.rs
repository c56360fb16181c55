// SPDX-License-Identifier: MIT
//! FLOOR 3: replication. [`Mirror`] is the one door through which every change goes.
//!
//! Behind the door an op takes its turn, is carried out on the primary, then on the replica by its
//! lane, and is settled into one answer. Whatever the replica could not follow closes the lane;
//! that the primary goes on alone is on disk before the op is answered.
//!
//! Lock order: the gate, a turn, then `health`. Only `health` is held across I/O, once: while the
//! first failure of the replica is put on record.

pub mod attach;
mod degrade;
pub mod events;
pub mod failure;
pub mod heal;
pub mod intent;
pub mod lane;
pub mod order;
pub mod pace;
mod parts;
pub mod replica;
pub mod report;
pub mod resync;
pub mod settle;
pub mod state;
pub mod tend;
pub mod times;
pub mod window;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};

use crate::journal::Pins;
use crate::store::op::{Action, Claim, Claims, Op};
use crate::store::{Applied, Ident, Made, Name, Node, Nodes, Scope, Source, Space, Stat, Target};
use crate::sys::creds::Needs;
use crate::sys::{Errno, Result};
use intent::{Intent, Marked};
use lane::{Carry, Lane, Place, Way};
use order::{Order, Turn};
pub use parts::{Degraded, Health, Parts, Reached, Record, Verified, WayBack};
use replica::{Done, Fault};
use settle::{Carried, OnReplicaError, settle};
use times::Times;
use window::Lag;

/// How much of a file is copied at a time, in bytes.
const COPIED: usize = 128 << 10;

/// What is on record about a failed replica.
const NOTHING: u8 = 0;
const RECORDED: u8 = 1;
const UNRECORDABLE: u8 = 2;

/// The result of an op, for whoever asked.
#[derive(Debug)]
pub struct Outcome {
    /// Bytes written or copied.
    pub written: usize,
    /// The node and attributes of what the op made or linked; one more lookup is counted on it.
    pub made: Option<(Arc<Node>, Stat)>,
}

/// The one door.
pub struct Mirror {
    source: Arc<dyn Source>,
    primary: Arc<dyn Target>,
    lane: Lane,
    intent: Option<Intent>,
    log_lost: AtomicBool,
    tending: tend::Tending,
    nodes: Arc<Nodes>,
    record: Arc<dyn Record>,
    policy: OnReplicaError,
    sync_both: bool,
    order: Order,
    times: Times,
    health: Mutex<Health>,
    recorded: AtomicU8,
    /// False once the mirror drains: nothing new comes in.
    gate: RwLock<bool>,
    primary_bytes: AtomicU64,
    primary_errors: AtomicU64,
}

impl std::fmt::Debug for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirror")
            .field("lane", &self.lane)
            .finish_non_exhaustive()
    }
}

impl Mirror {
    /// A mirror of what the session has opened and attached.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let known = if parts.health.degraded.is_some() {
            RECORDED
        } else {
            NOTHING
        };
        let mut health = parts.health;
        health.resyncing = parts.to_heal;
        let tending = tend::Tending::new(parts.primary_root, parts.way_back, parts.replica_path)
            .at_once(parts.at_once)
            .limited(parts.bytes_per_second);
        if let Some(reached) = parts.replica {
            tending.begin(&parts.lane, reached, parts.to_heal);
        }
        Self {
            source: parts.source,
            primary: parts.primary,
            lane: parts.lane,
            intent: parts.intent,
            log_lost: AtomicBool::new(false),
            tending,
            nodes: parts.nodes,
            record: parts.record,
            policy: parts.policy,
            sync_both: parts.sync_both,
            order: Order::default(),
            times: Times::default(),
            health: Mutex::new(health),
            recorded: AtomicU8::new(known),
            gate: RwLock::new(true),
            primary_bytes: AtomicU64::new(0),
            primary_errors: AtomicU64::new(0),
        }
    }

    /// Carries out one change on both copies.
    ///
    /// # Errors
    /// The primary's, unchanged; then nothing happened on the replica either. `EIO` while the
    /// mirror drains, or as [`settle()`] says.
    pub fn apply(&self, op: &Op<'_>) -> Result<Outcome> {
        let gate = self.gate.read();
        if !*gate || (self.policy == OnReplicaError::Fail && !self.lane.is_open()) {
            return Err(Errno::IO);
        }
        let turn = self.order.enter(&op.claims());
        let mut way = self.lane.way();
        let mut marked = self.mark(op, way.as_ref())?;
        if let Some(way) = way.as_ref().filter(|way| way.goes_beside(op)) {
            return self.write_beside(op, turn, way, marked);
        }
        let place = way.as_ref().map(|way| way.reserve(op.data.len()));
        let place = match place {
            None => Place::default(),
            Some(Ok(place)) => place,
            Some(Err(fault)) => {
                way.take().into_iter().for_each(|way| {
                    self.fail(fault.clone(), &way);
                });
                Place::default()
            }
        };
        let done = self.primary.apply(op);
        self.mind_background();
        let mut applied = match done {
            Ok(applied) => applied,
            Err(errno) => {
                drop(place);
                drop(turn);
                self.failed(op, errno, None, way.as_ref(), &mut marked);
                return Err(errno);
            }
        };
        Intent::done(&marked);
        let node = self.remember(op, &mut applied, &marked);
        self.primary_bytes
            .fetch_add(applied.written as u64, Ordering::Relaxed);
        let done = Done {
            written: applied.written,
            made: node.zip(applied.made.map(|made| made.stat)),
        };
        let carried = self.carry(op, &done, place, way.as_ref(), &mut marked);
        let outcome = Outcome {
            written: done.written,
            made: done.made,
        };
        let id = outcome.made.as_ref().map(|(node, _)| node.id);
        settle(Ok(outcome), carried, self.policy).inspect_err(|_| {
            // Nobody hears of the node, so nobody will forget it.
            id.into_iter().for_each(|id| self.nodes.forget(id, 1));
        })
    }

    /// Pins every mark that covers `op`; without a log there are none.
    ///
    /// # Errors
    /// `EIO` when the log has just been lost, and that could not be noted on any copy.
    fn mark(&self, op: &Op<'_>, way: Option<&Arc<Way>>) -> Result<Marked> {
        let Some(intent) = self.log() else {
            return Ok(Marked::default());
        };
        let twin = |node: &Arc<Node>| way.and_then(|way| way.twin(node));
        match intent.mark(op, &twin) {
            Ok(marked) => {
                let is_whole = || way.is_some_and(|way| way.healing().is_none());
                if intent.journal().is_crowded() && is_whole() {
                    self.tending.crowded();
                }
                Ok(marked)
            }
            Err(errno) => self.lose_log(errno).map(|()| Marked::default()),
        }
    }

    /// The write-intent log, while it can be written.
    fn log(&self) -> Option<&Intent> {
        let lost = self.log_lost.load(Ordering::Acquire);
        self.intent.as_ref().filter(|_| !lost)
    }

    /// Carries out a large write on both copies at once.
    fn write_beside(
        &self,
        op: &Op<'_>,
        turn: Turn<'_>,
        way: &Arc<Way>,
        mut marked: Marked,
    ) -> Result<Outcome> {
        let mut done = Err(Errno::IO);
        let carried = way.write_beside(op, &mut || {
            done = self.primary.apply(op).map(|applied| applied.written);
            done
        });
        self.mind_background();
        let written = done.unwrap_or(0);
        self.primary_bytes
            .fetch_add(written as u64, Ordering::Relaxed);
        let taken = carried.as_ref().map_or(0, |taken| *taken as u64);
        let carried = match carried {
            Ok(_) => {
                op.content().into_iter().for_each(|n| self.times.touch(n));
                Carried::Done
            }
            Err(fault) => {
                marked.pins.soil();
                self.fail(fault, way)
            }
        };
        if written < op.data.len() {
            // The replica may have more of it than the primary.
            let ahead = op.written_range();
            let ahead = ahead.map(|range| range.start..range.start.saturating_add(taken));
            drop(turn);
            match done {
                Err(errno) => self.failed(op, errno, ahead, Some(way), &mut marked),
                Ok(_) => self.put_right(op, ahead, Some(way), &mut marked),
            }
        }
        let outcome = Outcome {
            written,
            made: None,
        };
        settle(done.map(|_| outcome), carried, self.policy)
    }

    /// A sync of the primary that ran behind the back of any op has failed: what the replica has
    /// and the primary lost, nobody knows.
    fn mind_background(&self) {
        if let Some(errno) = self.primary.fault() {
            self.primary_errors.fetch_add(1, Ordering::Relaxed);
            self.doubt(errno, "a sync of the primary failed".to_owned());
        }
    }

    /// Knows the object an op made, or the node one more name was given to.
    fn remember(&self, op: &Op<'_>, applied: &mut Applied, marked: &Marked) -> Option<Arc<Node>> {
        let (parent, name) = match &op.action {
            Action::Create { parent, name, .. }
            | Action::Mkdir { parent, name, .. }
            | Action::Mknod { parent, name, .. }
            | Action::Symlink { parent, name, .. }
            | Action::Link { parent, name, .. } => (parent, name),
            _ => return None,
        };
        let made = applied.made.as_mut()?;
        let node = self.nodes.remember(&made.stat, parent, name);
        if !matches!(op.action, Action::Link { .. }) {
            Intent::born(marked, &node, &made.stat);
        }
        let fd = made.fd.take();
        self.primary.adopt(
            &node,
            Made {
                stat: made.stat,
                fd,
            },
        );
        Some(node)
    }

    /// Brings the replica along, and notes whose times are to follow.
    fn carry(
        &self,
        op: &Op<'_>,
        done: &Done,
        place: Place,
        way: Option<&Arc<Way>>,
        marked: &mut Marked,
    ) -> Carried {
        let Some(way) = way else {
            lane::skip(op, &marked.pins);
            return self.on_record();
        };
        match way.carry(op, done, place, &mut marked.pins) {
            Ok(Carry::Done) => {}
            Ok(Carry::Skipped) => return Carried::Skipped,
            Err(fault) if self.is_orphan(op.object(), &fault) => return Carried::Done,
            Err(fault) => {
                marked.pins.soil();
                return self.fail(fault, way);
            }
        }
        if !self.lane.goes_by(way) {
            // What waited there is not carried any more; all marks are dirty by now.
            return self.on_record();
        }
        for dir in op.directories() {
            self.times.touch(dir);
        }
        if let Some(node) = op.content() {
            self.times.touch(node);
        }
        self.touch_whiteout(op);
        Carried::Done
    }

    /// `RENAME_WHITEOUT` makes an object that nobody asked to see: its times follow like others'.
    fn touch_whiteout(&self, op: &Op<'_>) {
        let Action::Rename {
            from: (parent, name),
            flags,
            ..
        } = &op.action
        else {
            return;
        };
        if flags & rustix::fs::RenameFlags::WHITEOUT.bits() == 0 {
            return;
        }
        if let Ok(stat) = self.source.lookup(parent, name) {
            let node = self.nodes.remember(&stat, parent, name);
            self.times.touch(&node);
            self.nodes.forget(node.id, 1);
        }
    }

    /// An op that failed on the primary may have been done there in part: a full disk leaves a
    /// longer file, new times, cleared set-id bits. The replica is made to follow; where the
    /// content itself is in question, the mirror says so.
    fn failed(
        &self,
        op: &Op<'_>,
        errno: Errno,
        ahead: Option<Range<u64>>,
        way: Option<&Arc<Way>>,
        marked: &mut Marked,
    ) {
        // A rename that ext4 takes back leaves new times on the directories.
        for dir in op.directories() {
            self.times.touch(dir);
        }
        if matches!(errno, Errno::IO | Errno::NODEV | Errno::UCLEAN) {
            self.primary_errors.fetch_add(1, Ordering::Relaxed);
            let doing = format!("the primary failed in the middle of {}", op.verb());
            self.doubt(errno, doing);
        }
        self.put_right(op, ahead, way, marked);
    }

    /// Makes the replica's file like the primary's after an op that was done in part: its size and
    /// permissions, and the bytes in `ahead` that the replica may have and the primary not.
    fn put_right(
        &self,
        op: &Op<'_>,
        ahead: Option<Range<u64>>,
        way: Option<&Arc<Way>>,
        marked: &mut Marked,
    ) {
        let Some(node) = op.content() else {
            return;
        };
        let Some(way) = way.filter(|way| self.lane.goes_by(way)) else {
            return marked.pins.soil();
        };
        if way.healing().is_some_and(|healing| !healing.admits(op)) {
            return marked.pins.soil();
        }
        self.times.touch(node);
        // The whole file: a write at its end that reached one copy only would look like a leftover.
        let _turn = self.order.enter(&Claim::whole(node));
        if self.nodes.is_shared() && matches!(self.source.stat(node), Err(Errno::STALE)) {
            return; // removed behind the mount, as it may be; nothing was done to it
        }
        let conformed = self
            .put_back(node, ahead.unwrap_or_default(), way)
            .and_then(|()| {
                let stat = self.source.stat(node);
                stat.map_err(|errno| unreadable(errno, "size", node))
            })
            .and_then(|stat| way.conform(node, &stat, &mut marked.pins));
        if let Err(fault) = conformed {
            marked.pins.soil();
            self.fail(fault, way);
        }
    }

    /// Copies a part of the primary's file to the replica.
    fn put_back(
        &self,
        node: &Arc<Node>,
        part: Range<u64>,
        way: &Way,
    ) -> std::result::Result<(), Fault> {
        let mut block = vec![0; COPIED];
        let mut at = part.start;
        while at < part.end {
            let most = usize::try_from(part.end - at).map_or(COPIED, |left| left.min(COPIED));
            let read = self.source.read(node, &mut block[..most], at);
            match read.map_err(|errno| unreadable(errno, "content", node))? {
                0 => break,
                n => {
                    way.put_back(node, at, &block[..n])?;
                    at += n as u64;
                }
            }
        }
        Ok(())
    }

    /// The copies may differ, and not because of the replica.
    fn doubt(&self, errno: Errno, doing: String) {
        if let Some(way) = self.lane.way() {
            self.fail(Fault::new(errno, doing), &way);
        }
    }

    /// Makes everything done to `node` durable on both copies.
    ///
    /// # Errors
    /// The primary's. A failed sync is kept on the node and answered again until it is forgotten
    /// (02-safety rule 14).
    pub fn barrier(&self, node: &Arc<Node>, scope: Scope) -> Result<()> {
        node.sync_error()?;
        if node.unsettled.load(Ordering::Acquire) {
            self.carry_times(node);
        }
        let mut done = Ok(());
        let mut primary = || done = self.primary.barrier(node, scope);
        let way = self.lane.way();
        let beside = match way.as_ref().filter(|_| self.sync_both) {
            Some(way) => way.barrier_beside(node, scope, &mut primary),
            None => {
                primary();
                Ok(())
            }
        };
        if let Err(errno) = node.sync_error() {
            // A failed sync is a failed write: the kernel drops what it could not write, and the
            // replica may have it.
            self.doubt(
                errno,
                format!("fsync of {} on the primary", node.display_path()),
            );
            return Err(errno);
        }
        done?;
        let carried = match (beside, &way) {
            (Ok(()), Some(way)) if self.lane.goes_by(way) => Carried::Done,
            (Err(fault), _) if self.is_orphan(Some(node), &fault) => Carried::Done,
            (Err(fault), Some(way)) => self.fail(fault, way),
            _ => self.on_record(),
        };
        settle(Ok(()), carried, self.policy)
    }

    /// Copies a node's times from the primary to the replica.
    fn carry_times(&self, node: &Arc<Node>) {
        let claims: Claims = smallvec::smallvec![Claim::attributes(node)];
        let _turn = self.order.enter(&claims);
        node.unsettled.store(false, Ordering::Release);
        let Some(way) = self.lane.way() else {
            return;
        };
        let mut pins = Pins::default();
        if let Some(healing) = way.healing() {
            if !healing.admits(&attributes_of(node)) {
                // Once it has been healed.
                return self.times.touch(node);
            }
            match self.log().map(|intent| intent.mark_attributes(node)) {
                Some(Err(errno)) => return self.log_is_lost(errno),
                Some(Ok(marked)) => pins = marked,
                None => {}
            }
        }
        let done = match self.source.stat(node) {
            // No name leads to it any more on either copy.
            Ok(stat) if stat.nlink == 0 => return,
            Err(Errno::STALE) if self.nodes.is_shared() => return,
            Ok(stat) => way.set_times(node, (stat.atime, stat.mtime), pins),
            Err(errno) => Err(unreadable(errno, "times", node)),
        };
        if let Err(fault) = done {
            self.fail(fault, &way);
        }
    }

    /// Carries over the times of nodes that have come to rest, until [`Self::drain`].
    pub fn settle_times(&self) {
        while let Some(nodes) = self.times.next() {
            self.carry_all(nodes);
        }
    }

    fn carry_all(&self, nodes: Vec<Arc<Node>>) {
        for node in &nodes {
            self.carry_times(node);
        }
        drop(nodes);
        self.nodes.sweep();
    }

    /// Carries what is queued by `way`, until that closes.
    fn carry_queued(&self, way: &Arc<Way>) {
        way.run(|fault| {
            self.fail(fault, way);
        });
    }

    /// Brings the replica up to date, times and all, while the mount goes on.
    pub fn settle_now(&self) {
        self.carry_all(self.times.take());
        self.settle_lane();
    }

    /// Lets nothing new in, finishes what is under way and settles every time.
    pub fn drain(&self) {
        *self.gate.write() = false;
        self.carry_all(self.times.stop());
        self.settle_lane();
    }

    fn settle_lane(&self) {
        if let Some(way) = self.lane.way()
            && let Err(fault) = way.settle()
        {
            self.fail(fault, &way);
        }
    }

    /// How far the replica is behind what was acknowledged. One that does not answer is found out
    /// here at the latest.
    #[must_use]
    pub fn lag(&self) -> Lag {
        if let Some(way) = self.lane.way()
            && let Some(fault) = way.stalled()
        {
            self.fail(fault, &way);
        }
        self.lane.lag()
    }

    /// Drains and notes the orderly end on both stamps.
    ///
    /// # Errors
    /// When the stamps could not be written: then the next mount compares.
    pub fn close(&self) -> std::result::Result<(), String> {
        self.drain();
        self.tending.end();
        let whole = self.is_whole();
        if whole {
            self.checkpoint();
        }
        self.record.closed(whole && self.is_whole())
    }

    /// The node that `name` in `parent` means, if the kernel knows it.
    ///
    /// # Errors
    /// `ENOENT` and whatever else the primary says of the name.
    pub fn find(&self, parent: &Arc<Node>, name: &Name) -> Result<Option<Arc<Node>>> {
        let ident: Ident = self.source.lookup(parent, name)?.ident;
        Ok(self.nodes.find(ident))
    }

    /// Sizes of the smaller of the two copies: what can still be written is what fits on both.
    pub fn space(&self) -> Result<Space> {
        let mut space = self.primary.space()?;
        if let Some(way) = self.lane.way()
            && let Ok(replica) = way.space()
        {
            let unit = u64::from(space.block_bytes.max(1));
            for at in 1..3 {
                let bytes = replica.blocks[at].saturating_mul(u64::from(replica.block_bytes));
                space.blocks[at] = space.blocks[at].min(bytes / unit);
            }
            // A file system without a fixed number of inodes says 0 of 0 (btrfs).
            if replica.inodes[0] > 0 {
                space.inodes[1] = space.inodes[1].min(replica.inodes[1]);
            }
        }
        Ok(space)
    }

    /// What the mirror knows about itself, for `status`.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.lock().clone()
    }

    /// Bytes written to the primary, and errors it gave.
    #[must_use]
    pub fn primary_counts(&self) -> (u64, u64) {
        (
            self.primary_bytes.load(Ordering::Relaxed),
            self.primary_errors.load(Ordering::Relaxed),
        )
    }

    /// How ops get to the replica.
    #[must_use]
    pub fn carrier(&self) -> &'static str {
        self.lane.carrier()
    }

    /// Bytes written to the replica, and errors it gave.
    #[must_use]
    pub fn replica_counts(&self) -> (u64, u64) {
        self.lane.counts()
    }
}

/// A change of nothing but a node's attributes.
fn attributes_of(node: &Arc<Node>) -> Op<'static> {
    let action = Action::SetAttr {
        node: node.clone(),
        uid: None,
        gid: None,
        mode: None,
        atime: None,
        mtime: None,
    };
    Op::new(Needs::DAEMON, action)
}

/// The replica cannot follow what the primary does not tell.
fn unreadable(errno: Errno, what: &str, node: &Node) -> Fault {
    let path = node.display_path();
    Fault::new(
        errno,
        format!("the primary could not tell the {what} of {path}"),
    )
}

#[cfg(test)]
mod tests;
