// SPDX-License-Identifier: MIT
//! FLOOR 3: replication. [`Mirror`] is the one door through which every change goes.
//!
//! Behind the door an op takes its turn, is carried out on the primary, then on the replica by its
//! lane, and is settled into one answer. Whatever the replica could not follow closes the lane;
//! that the primary goes on alone is on disk before the op is answered.
//!
//! What a request still has to do is handed down with it, so that whoever comes to know the end of it
//! can do that: the thread that carried it out, or another one when a replica hangs ([`watch`]).
//!
//! Lock order: a turn, then `health`. Only `health` is held across I/O, once: while the
//! first failure of the replica is put on record.

pub mod attach;
pub mod crew;
mod durable;
pub mod failure;
pub mod gate;
pub mod lane;
pub mod order;
pub mod replica;
pub mod report;
pub mod resync;
pub mod room;
pub mod settle;
pub mod state;
pub mod times;
pub mod watch;
pub mod window;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::store::op::{Action, Claim, Op};
use crate::store::{Applied, Ident, Made, Name, Node, Nodes, Source, Space, Stat, Target};
use crate::sys::creds::{self, Needs};
use crate::sys::{Errno, Result, clock};
use attach::refusal::Id;
use crew::Crew;
use failure::Named;
use gate::{Gate, Pass};
use lane::{Lane, Place};
use order::{Order, Turn};
use replica::{Done, Fault};
use room::Room;
use settle::{Carried, OnReplicaError, settle};
use times::Times;
use watch::{Either, Rest, Watch, What};
use window::Lag;

/// Where the state of the mirror is kept across mounts: the stamps on both roots.
pub trait Record: Send + Sync {
    /// Makes durable, before it returns, that the primary goes on alone. Returns the new epoch.
    ///
    /// # Errors
    /// When no copy could take the note: then nothing may be acknowledged (02-safety rule 7).
    fn degraded(&self, fault: &Fault) -> Result<u64>;
    /// Notes an orderly end: both copies equal and durable if `in_sync`.
    ///
    /// # Errors
    /// In words; the next mount compares.
    fn closed(&self, in_sync: bool) -> std::result::Result<(), String>;
}

/// Why and since when the mirror is degraded.
#[derive(Clone, Debug)]
pub struct Degraded {
    /// What happened.
    pub fault: Fault,
    /// The page of the manual.
    pub id: Id,
    /// Wall-clock seconds since 1970.
    pub since: i64,
}

/// What the mirror knows about itself.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// The epoch: grows when the primary goes on alone.
    pub epoch: u64,
    /// The epoch before the replica failed, if it did.
    pub epoch_before: Option<u64>,
    /// Set once the replica failed.
    pub degraded: Option<Degraded>,
}

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

/// The parts of a mirror, as the session puts them together.
#[allow(
    missing_debug_implementations,
    reason = "a parcel of trait objects, opened at once"
)]
pub struct Parts {
    /// Answers questions: the primary.
    pub source: Arc<dyn Source>,
    /// Takes every change first: the primary.
    pub primary: Arc<dyn Target>,
    /// Takes every change second.
    pub lane: Lane,
    /// What the kernel knows.
    pub nodes: Arc<Nodes>,
    /// The stamps.
    pub record: Arc<dyn Record>,
    /// What the application hears of a failing replica.
    pub policy: OnReplicaError,
    /// Whether fsync waits for the replica too.
    pub sync_both: bool,
    /// Epoch, and why the replica is missing if it is from the start.
    pub health: Health,
    /// How long the replica may take to answer.
    pub patience: Duration,
    /// Threads that serve requests, so that one of them stays free; 0 where nobody minds.
    pub workers: usize,
}

/// Who is to hear how an op ended: from the thread that asked, or from another.
pub type Answer = Box<dyn FnOnce(Result<Outcome>) + Send>;
/// The same for a barrier.
pub type Durable = Box<dyn FnOnce(Result<()>) + Send>;

/// The one door.
pub struct Mirror {
    source: Arc<dyn Source>,
    primary: Arc<dyn Target>,
    lane: Lane,
    nodes: Arc<Nodes>,
    record: Arc<dyn Record>,
    policy: OnReplicaError,
    sync_both: bool,
    order: Arc<Order>,
    times: Times,
    health: Mutex<Health>,
    recorded: AtomicU8,
    /// Shut once the mirror drains: nothing new comes in.
    gate: Arc<Gate>,
    watch: Watch,
    crew: Arc<Crew>,
    room: Room,
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
        Self {
            source: parts.source,
            primary: parts.primary,
            lane: parts.lane,
            nodes: parts.nodes,
            record: parts.record,
            policy: parts.policy,
            sync_both: parts.sync_both,
            order: Arc::default(),
            times: Times::default(),
            health: Mutex::new(parts.health),
            recorded: AtomicU8::new(known),
            gate: Arc::default(),
            watch: Watch::new(parts.patience),
            crew: Arc::new(Crew::new(parts.workers)),
            room: Room::default(),
            primary_bytes: AtomicU64::new(0),
            primary_errors: AtomicU64::new(0),
        }
    }

    /// Carries out one change on both copies, and tells `then` how it went: before this returns, or
    /// later and from another thread.
    ///
    /// An error is the primary's, unchanged; then nothing happened on the replica either. `EIO` while
    /// the mirror drains, or as [`settle()`] says.
    pub fn apply_then(self: &Arc<Self>, op: Op<'_>, then: Answer) {
        let (bytes, mirror) = (op.data.len(), self.clone());
        let later = move |(op, then): (Op<'_>, Answer)| -> crew::Job {
            let (needs, action, data) = (op.needs, op.action, Box::<[u8]>::from(op.data));
            Box::new(move || {
                let data = &data;
                mirror.apply_now(
                    &Op {
                        needs,
                        action,
                        data,
                    },
                    then,
                );
            })
        };
        let now = |(op, then): (Op<'_>, Answer)| self.apply_now(&op, then);
        self.crew.run((op, then), bytes, now, later);
    }

    fn apply_now(self: &Arc<Self>, op: &Op<'_>, then: Answer) {
        let pass = self.gate.enter();
        let refused = self.policy == OnReplicaError::Fail && !self.lane.is_open();
        let Some(pass) = pass.filter(|_| !refused) else {
            return then(Err(Errno::IO));
        };
        let turn = self.order.enter(&op.claims());
        if self.lane.goes_beside(op) {
            return self.write_beside(op, turn, (pass, then));
        }
        let place = self.lane.reserve(op.data.len());
        let place = place.unwrap_or_else(|fault| {
            self.fail(fault);
            Place::default()
        });
        let done = self.primary.apply(op);
        self.mind_background();
        let mut applied = match done {
            Ok(applied) => applied,
            Err(errno) => {
                drop(place);
                drop(turn);
                return self.failed(op, errno, None, told((pass, then), Err(errno)));
            }
        };
        let node = self.remember(op, &mut applied);
        self.primary_bytes
            .fetch_add(applied.written as u64, Ordering::Relaxed);
        let done = Done {
            written: applied.written,
            made: node.zip(applied.made.map(|made| made.stat)),
        };
        let outcome = Outcome {
            written: done.written,
            made: done.made.clone(),
        };
        let mirror = self.clone();
        let rest: Rest = Box::new(move |carried| {
            let id = outcome.made.as_ref().map(|(node, _)| node.id);
            let answer = settle(Ok(outcome), carried, mirror.policy).inspect_err(|_| {
                // Nobody hears of the node, so nobody will forget it.
                id.into_iter().for_each(|id| mirror.nodes.forget(id, 1));
            });
            drop(pass);
            then(answer);
        });
        self.carry(op, &done, place, (turn, rest));
    }

    /// Carries out a large write on both copies at once.
    fn write_beside(self: &Arc<Self>, op: &Op<'_>, turn: Turn, owed: (Pass, Answer)) {
        let mut done = Err(Errno::IO);
        let owed = Either::new(owed);
        let first = owed.share();
        // The replica hangs before the primary was asked. Its file is open (`goes_beside`), so that
        // hardly ever happens; the data is not ours to keep.
        let lost: Rest = Box::new(move |_| {
            if let Some(owed) = first.take() {
                told(owed, Err(Errno::IO))(Carried::Failed);
            }
        });
        let errand = self.watch.begin(What::of(op), Some(turn), Some(lost));
        let carried = self.lane.write_beside(op, &mut || {
            if !errand.pause() {
                return Err(Errno::CANCELED);
            }
            done = self.primary.apply(op).map(|applied| applied.written);
            let (mirror, then, done) = (self.clone(), owed.share(), done);
            errand.resume(Box::new(move |carried| {
                let outcome = done.map(Outcome::wrote);
                let answer = settle(outcome, carried, mirror.policy);
                if let Some(owed) = then.take() {
                    told(owed, answer)(carried);
                }
            }));
            done
        });
        let Some(ours) = errand.end() else {
            return;
        };
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
            Err(fault) => self.fail(fault),
        };
        if written == op.data.len() {
            return ours.settle(carried);
        }
        // The replica may have more of it than the primary.
        let ahead = op.written_range();
        let ahead = ahead.map(|range| range.start..range.start.saturating_add(taken));
        let rest: Rest = {
            let rest = ours.without_turn();
            Box::new(move |_| rest(carried))
        };
        match done {
            Err(errno) => self.failed(op, errno, ahead, rest),
            Ok(_) => self.put_right(op, ahead, rest),
        }
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
    fn remember(&self, op: &Op<'_>, applied: &mut Applied) -> Option<Arc<Node>> {
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

    /// Brings the replica along, notes whose times are to follow, and does the rest.
    fn carry(
        self: &Arc<Self>,
        op: &Op<'_>,
        done: &Done,
        place: Place<'_>,
        (turn, rest): (Turn, Rest),
    ) {
        if !self.lane.is_open() {
            let carried = self.on_record();
            drop(turn);
            return rest(carried);
        }
        let errand = self.watch.begin(What::of(op), Some(turn), Some(rest));
        let carried = self.lane.carry(op, done, place);
        let Some(owed) = errand.end() else {
            return;
        };
        if let Err(fault) = carried {
            return owed.settle(self.fail(fault));
        }
        for dir in op.directories() {
            self.times.touch(dir);
        }
        if let Some(node) = op.content() {
            self.times.touch(node);
        }
        self.touch_whiteout(op);
        owed.settle(Carried::Done);
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

    /// The replica failed: closes its lane and puts on record that the primary goes on alone.
    fn fail(&self, fault: Fault) -> Carried {
        let mut health = self.health.lock();
        if !self.lane.close() {
            drop(health);
            return match self.on_record() {
                Carried::Skipped => Carried::Failed,
                other => other,
            };
        }
        // The stamp is ours, whoever's op this thread is carrying out.
        let worn = creds::wear(Needs::DAEMON);
        let recorded = worn.and_then(|()| self.record.degraded(&fault));
        health.epoch_before = Some(health.epoch);
        let why = fault.errno.map_or_else(
            || "it is too far behind".to_owned(),
            |errno| Named(errno).to_string(),
        );
        let doing = &fault.doing;
        let carried = match recorded {
            Ok(epoch) => {
                health.epoch = epoch;
                self.recorded.store(RECORDED, Ordering::Release);
                tracing::error!(
                    "replica failed: {why} ({doing}); running degraded, epoch {epoch} [{}]",
                    fault.id()
                );
                Carried::Failed
            }
            Err(errno) => {
                self.recorded.store(UNRECORDABLE, Ordering::Release);
                let note = Named(errno);
                tracing::error!(
                    "replica failed: {why} ({doing}), and no copy could take a note of it: {note}; \
                     every change is answered EIO [MF-0004]"
                );
                Carried::Unrecorded
            }
        };
        health.degraded = Some(Degraded {
            id: fault.id(),
            fault,
            since: clock::now().tv_sec,
        });
        self.leave_replica();
        carried
    }

    /// What the kernel knows has no place on the replica any more. Closing its descriptors may
    /// take as long as anything else there: not on a thread that someone waits for.
    fn leave_replica(&self) {
        let nodes = self.nodes.clone();
        let leave = move || nodes.leave_replica();
        let thread = std::thread::Builder::new().name("leave".to_owned());
        if let Err(error) = thread.spawn(leave) {
            tracing::debug!("descriptors of the replica stay open: {error}");
        }
    }

    /// Whether the lane's end is on disk; waits for the thread that is writing it.
    fn on_record(&self) -> Carried {
        if self.recorded.load(Ordering::Acquire) == NOTHING {
            drop(self.health.lock());
        }
        match self.recorded.load(Ordering::Acquire) {
            RECORDED => Carried::Skipped,
            _ => Carried::Unrecorded,
        }
    }

    /// An op that failed on the primary may have been done there in part: a full disk leaves a
    /// longer file, new times, cleared set-id bits. The replica is made to follow; where the
    /// content itself is in question, the mirror says so.
    fn failed(&self, op: &Op<'_>, errno: Errno, ahead: Option<Range<u64>>, rest: Rest) {
        // A rename that ext4 takes back leaves new times on the directories.
        for dir in op.directories() {
            self.times.touch(dir);
        }
        if matches!(errno, Errno::IO | Errno::NODEV | Errno::UCLEAN) {
            self.primary_errors.fetch_add(1, Ordering::Relaxed);
            let doing = format!("the primary failed in the middle of {}", op.verb());
            self.doubt(errno, doing);
        }
        self.put_right(op, ahead, rest);
    }

    /// Makes the replica's file like the primary's after an op that was done in part: its size and
    /// permissions, and the bytes in `ahead` that the replica may have and the primary not.
    fn put_right(&self, op: &Op<'_>, ahead: Option<Range<u64>>, rest: Rest) {
        let Some(node) = op.content().filter(|_| self.lane.is_open()) else {
            return rest(Carried::Done);
        };
        self.times.touch(node);
        // The whole file: a write at its end that reached one copy only would look like a leftover.
        let turn = self.order.enter(&Claim::whole(node));
        if self.nodes.is_shared() && matches!(self.source.stat(node), Err(Errno::STALE)) {
            // Removed behind the mount, as it may be; nothing was done to it.
            drop(turn);
            return rest(Carried::Done);
        }
        let errand = self.watch.begin(What::of(op), Some(turn), Some(rest));
        self.wait_in_line(&errand);
        let conformed = self
            .put_back(node, ahead.unwrap_or_default())
            .and_then(|()| {
                let stat = self.source.stat(node);
                stat.map_err(|errno| unreadable(errno, "size", node))
            })
            .and_then(|stat| self.lane.conform(node, &stat));
        let Some(owed) = errand.end() else {
            return;
        };
        owed.settle(conformed.map_or_else(|fault| self.fail(fault), |()| Carried::Done));
    }

    /// Copies a part of the primary's file to the replica.
    fn put_back(&self, node: &Arc<Node>, part: Range<u64>) -> std::result::Result<(), Fault> {
        let mut block = vec![0; COPIED];
        let mut at = part.start;
        while at < part.end {
            let most = usize::try_from(part.end - at).map_or(COPIED, |left| left.min(COPIED));
            let read = self.source.read(node, &mut block[..most], at);
            match read.map_err(|errno| unreadable(errno, "content", node))? {
                0 => break,
                n => {
                    self.lane.put_back(node, at, &block[..n])?;
                    at += n as u64;
                }
            }
        }
        Ok(())
    }

    /// The copies may differ, and not because of the replica.
    fn doubt(&self, errno: Errno, doing: String) {
        if self.lane.is_open() {
            self.fail(Fault::new(errno, doing));
        }
    }

    /// Carries what is queued for the replica, until that fails.
    pub fn carry_queued(&self) {
        self.lane.run(|fault| {
            self.fail(fault);
        });
    }

    /// Brings the replica up to date, times and all, while the mount goes on.
    pub fn settle_now(self: &Arc<Self>) {
        let nodes = self.times.take();
        self.within_reason(move |mirror, too_long| mirror.carry_all(nodes, too_long));
        self.settle_lane();
    }

    /// Lets nothing new in, finishes what is under way and settles every time.
    pub fn drain(self: &Arc<Self>) {
        self.gate.shut();
        let nodes = self.times.stop();
        self.within_reason(move |mirror, too_long| mirror.carry_all(nodes, too_long));
        self.settle_lane();
    }

    fn settle_lane(&self) {
        if let Err(fault) = self.lane.settle() {
            self.fail(fault);
        }
    }

    /// How far the replica is behind what was acknowledged. One that does not answer is found out
    /// here at the latest.
    #[must_use]
    pub fn lag(&self) -> Lag {
        if let Some(fault) = self.lane.stalled() {
            self.fail(fault);
        }
        self.lane.lag()
    }

    /// Drains and notes the orderly end on both stamps.
    ///
    /// # Errors
    /// When the stamps could not be written: then the next mount compares.
    pub fn close(self: &Arc<Self>) -> std::result::Result<(), String> {
        self.drain();
        self.watch.close();
        self.room.close();
        self.record.closed(self.lane.is_open())
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
        if self.lane.is_open()
            && let Some(replica) = self.room.space()
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

impl Outcome {
    fn wrote(written: usize) -> Self {
        Self {
            written,
            made: None,
        }
    }
}

/// What is left of an op whose answer is known already.
fn told((pass, then): (Pass, Answer), answer: Result<Outcome>) -> Rest {
    Box::new(move |_| {
        drop(pass);
        then(answer);
    })
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
