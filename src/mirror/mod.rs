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
//! Lock order: the gate, a turn, then `health`. Only `health` is held across I/O, once: while the
//! first failure of the replica is put on record.

mod amend;
pub mod attach;
pub mod crew;
mod durable;
pub mod events;
pub mod failure;
mod fall;
pub mod gate;
pub mod heal;
mod health;
pub mod intent;
pub mod lane;
pub mod order;
pub mod pace;
pub mod replica;
pub mod report;
pub mod resync;
pub mod room;
pub mod settle;
pub mod state;
pub mod tend;
pub mod times;
pub mod watch;
pub mod window;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use resync::Lacks;

use crate::journal::Twin;
use crate::store::op::{Action, Op};
use crate::store::{Applied, Ident, Made, Name, Node, Nodes, Source, Space, Stat, Target};
use crate::sys::creds::Needs;
use crate::sys::{Errno, Result};
use crew::Crew;
use gate::{Gate, Pass};
pub use health::{Degraded, Health, Verified};
use intent::{Intent, Marked};
use lane::{Carry, Lane, Place, Way};
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
    /// When no copy could take the note: then nothing may be acknowledged (docs/SAFETY.md, rule 7).
    fn degraded(&self, fault: &Fault) -> Result<u64>;
    /// Makes durable, before it returns, that nobody knows what may differ: the write-intent log
    /// is lost.
    ///
    /// # Errors
    /// When no copy could take the note: then nothing may be acknowledged (docs/SAFETY.md, rule 7).
    fn log_lost(&self, fault: &Fault) -> Result<()>;
    /// Makes durable that both copies are equal, but for what the replica was seen to lack, and the
    /// copies before that.
    ///
    /// # Errors
    /// In words; then the replica is not in-sync.
    fn healed(&self, lacks: Lacks) -> std::result::Result<(), String>;
    /// Whether the primary is the primary still: its stamp can be read.
    fn vouches(&self) -> bool;
    /// Lets go of a replica that failed, so that its disk can be unmounted. May take as long as
    /// anything there.
    fn leave(&self);
    /// Whether nothing of the replica is held, and nobody is on the way to it.
    fn has_left(&self) -> bool {
        true
    }
    /// Notes an orderly end: both copies equal and durable if `in_sync`.
    ///
    /// # Errors
    /// In words; the next mount compares.
    fn closed(&self, in_sync: bool) -> std::result::Result<(), String>;
}

/// How a replica is reached again after it failed or was away.
pub trait WayBack: Send + Sync {
    /// Opens it anew, and makes sure that it is the one. From then on its stamp says that it is
    /// inconsistent, until [`Record::healed`]. It may be full if `makes_room`: healing it will remove
    /// something.
    ///
    /// # Errors
    /// Why it is not to be had, in words for people.
    fn reach(&self, makes_room: bool) -> std::result::Result<Reached, attach::refusal::Refusal>;
}

/// A replica that is within reach.
#[derive(Debug)]
pub struct Reached {
    /// Takes the ops.
    pub replica: replica::Replica,
    /// Its root directory.
    pub root: std::os::fd::OwnedFd,
}

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
    /// The replica, if it is there from the start.
    pub replica: Option<Reached>,
    /// The replica lacks what the dirty marks say.
    pub to_heal: bool,
    /// The replica as typed, for events.
    pub replica_path: String,
    /// The write-intent log.
    pub intent: Option<Intent>,
    /// How a replica that was away comes back; never, without.
    pub way_back: Option<Box<dyn WayBack>>,
    /// Whether a replica that is back is healed at once, or only when someone asks for it.
    pub at_once: bool,
    /// Whether what the replica's file system cannot hold is done without.
    pub does_without: bool,
    /// The most that healing may read and write, in bytes per second.
    pub bytes_per_second: Option<u64>,
    /// The primary's root directory.
    pub primary_root: std::os::fd::OwnedFd,
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

/// What an op has taken before it begins: its turn, its pass, and who is to hear of it.
type Taken = (Turn, Pass, Answer);
/// What an op goes on with: the marks it needs, and the way it goes by.
type Marks = (Marked, Option<Arc<Way>>);

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
        let mut health = parts.health;
        health.resyncing = parts.to_heal;
        let tending = tend::Tending::new(parts.primary_root, parts.way_back, parts.replica_path)
            .at_once(parts.at_once)
            .without(parts.does_without)
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
            order: Arc::default(),
            times: Times::default(),
            health: Mutex::new(health),
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
        match self.gate.enter() {
            Some(pass) => self.apply_inside(op, pass, then),
            None => then(Err(Errno::IO)),
        }
    }

    fn apply_inside(self: &Arc<Self>, op: &Op<'_>, pass: Pass, then: Answer) {
        if self.policy == OnReplicaError::Fail && !self.lane.is_open() {
            return then(Err(Errno::IO));
        }
        let turn = self.order.enter(&op.claims());
        let Some(((marked, mut way), (turn, pass, then))) = self.mark(op, (turn, pass, then))
        else {
            return;
        };
        if let Some(way) = way.as_ref().filter(|way| way.goes_beside(op)) {
            return self.write_beside(op, turn, (way, marked), (pass, then));
        }
        let place = way.as_ref().map(|way| way.reserve(op.data.len()));
        let place = place.unwrap_or(Ok(Place::default()));
        let place = place.unwrap_or_else(|fault| {
            way.take().into_iter().for_each(|way| {
                self.fail(fault.clone(), &way);
            });
            Place::default()
        });
        let done = self.primary.apply(op);
        self.mind_background();
        let mut applied = match done {
            Ok(applied) => applied,
            Err(errno) => {
                drop(place);
                drop(turn);
                let rest = told((pass, then), Err(errno));
                return self.failed(op, errno, None, (way.as_ref(), &marked), rest);
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
        self.carry(op, &done, place, (way.as_ref(), &marked), (turn, rest));
    }

    /// Pins every mark that covers `op`; without a log there are none. Says by which way the op goes,
    /// and hands back what it has `taken`; or nothing when somebody else has carried out the op.
    ///
    /// That is where who moves must be asked of the replica, and that hangs. Where the log has just
    /// been lost, and that could not be noted on any copy, the op is answered `EIO`.
    fn mark(self: &Arc<Self>, op: &Op<'_>, taken: Taken) -> Option<(Marks, Taken)> {
        let way = self.lane.way();
        let Some(intent) = self.log() else {
            return Some(((Marked::default(), way), taken));
        };
        let taken = RefCell::new(Some(taken));
        let twin = |node: &Arc<Node>| {
            let way = way.as_ref()?;
            let (found, back) = self.ask_twin(op, node, way, taken.take()?)?;
            taken.replace(Some(back));
            found
        };
        let marked = intent.mark(op, &twin);
        let (turn, pass, then) = taken.into_inner()?;
        let marked = match marked {
            Ok(marked) => marked,
            Err(errno) => match self.lose_log(errno) {
                Ok(()) => Marked::default(),
                Err(errno) => {
                    drop(turn);
                    drop(pass);
                    then(Err(errno));
                    return None;
                }
            },
        };
        // If it was closed before these were pinned they were not made dirty with the others.
        let way = way.filter(|way| way.is_open());
        let is_whole = || way.as_ref().is_some_and(|way| way.healing().is_none());
        if is_whole() && intent.journal().is_due() {
            self.tending.ask();
        }
        Some(((marked, way), (turn, pass, then)))
    }

    /// Asks the replica who a node is there, before an op that moves it. Where that hangs the op is
    /// begun anew by somebody else: `None`.
    fn ask_twin(
        self: &Arc<Self>,
        op: &Op<'_>,
        node: &Arc<Node>,
        way: &Arc<Way>,
        (turn, pass, then): Taken,
    ) -> Option<(Option<Twin>, Taken)> {
        let owed = Either::new((pass, then));
        let (again, mirror) = (owed.share(), self.clone());
        let (needs, action) = (op.needs, op.action.clone());
        let anew: Rest = Box::new(move |_| {
            if let Some((pass, then)) = again.take() {
                mirror.apply_inside(&Op::new(needs, action), pass, then);
            }
        });
        let what = What::to("look at", node);
        let errand = self.watch.begin(Some(way), what, Some(turn), Some(anew));
        let found = way.twin(node);
        let turn = errand.end()?.into_turn()?;
        let (pass, then) = owed.take()?;
        Some((found, (turn, pass, then)))
    }

    /// Carries out a large write on both copies at once.
    fn write_beside(
        self: &Arc<Self>,
        op: &Op<'_>,
        turn: Turn,
        (way, marked): (&Arc<Way>, Marked),
        owed: (Pass, Answer),
    ) {
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
        let what = What::of(op);
        let errand = self.watch.begin(Some(way), what, Some(turn), Some(lost));
        let carried = way.write_beside(op, &mut || {
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
            return marked.pins.soil();
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
            Err(fault) => {
                marked.pins.soil();
                self.fail(fault, way)
            }
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
            Err(errno) => self.failed(op, errno, ahead, (Some(way), &marked), rest),
            Ok(_) => self.put_right(op, ahead, (Some(way), &marked), rest),
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

    /// Brings the replica along, notes whose times are to follow, and does the rest.
    fn carry(
        self: &Arc<Self>,
        op: &Op<'_>,
        done: &Done,
        place: Place,
        (way, marked): (Option<&Arc<Way>>, &Marked),
        (turn, rest): (Turn, Rest),
    ) {
        let Some(way) = way else {
            lane::skip(op, &marked.pins);
            if op.frees() {
                self.tending.note_freed();
            }
            let carried = self.on_record();
            drop(turn);
            return rest(carried);
        };
        let what = What::of(op);
        let errand = self.watch.begin(Some(way), what, Some(turn), Some(rest));
        let carried = way.carry(op, done, place, &marked.pins);
        let Some(owed) = errand.end() else {
            return marked.pins.soil();
        };
        owed.settle(self.followed(op, way, carried, marked));
    }

    /// What became of an op on the replica.
    fn followed(
        &self,
        op: &Op<'_>,
        way: &Arc<Way>,
        carried: std::result::Result<Carry, Fault>,
        marked: &Marked,
    ) -> Carried {
        if let Some(healing) = way.healing()
            && let Some(victim) = op.victim()
            && self.source.is_removed(victim)
        {
            healing.gone(victim);
        }
        match carried {
            Ok(Carry::Done) => {}
            Ok(Carry::Skipped) => return Carried::Skipped,
            Err(fault) if self.is_orphan(op.object(), &fault) => return Carried::Done,
            Err(fault) => {
                marked.pins.soil();
                return self.fail(fault, way);
            }
        }
        if !way.is_open() {
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

    /// A file that no name leads to has no twin on a replica that was away: nobody will miss it.
    fn is_orphan(&self, node: Option<&Arc<Node>>, fault: &Fault) -> bool {
        let has_left = |node: &&Arc<Node>| fault.errno == Some(Errno::STALE) && node.has_left();
        let nameless = |node: &Arc<Node>| self.source.stat(node).is_ok_and(|stat| stat.nlink == 0);
        node.filter(has_left).is_some_and(nameless)
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

    /// Carries what is queued by `way`, until that closes.
    fn carry_queued(&self, way: &Arc<Way>) {
        way.run(|fault| {
            self.fail(fault, way);
        });
    }

    /// Brings the replica up to date, times and all, while the mount goes on.
    pub fn settle_now(self: &Arc<Self>) {
        self.within_reason(|mirror, too_long| {
            drop(mirror.carry_all(mirror.times.take(), too_long));
        });
        self.settle_lane();
    }

    /// Lets nothing new in, finishes what is under way and settles every time.
    pub fn drain(self: &Arc<Self>) {
        self.gate.shut();
        self.within_reason(|mirror, too_long| {
            drop(mirror.carry_all(mirror.times.stop(), too_long));
        });
        self.settle_lane();
    }

    fn settle_lane(&self) {
        if let Some(way) = self.lane.way() {
            self.settle_way(&way);
        }
    }

    /// Waits until everything acknowledged so far is on the replica, as long as that answers.
    fn settle_way(&self, way: &Arc<Way>) {
        if let Err(fault) = way.settle() {
            self.fail(fault, way);
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
    pub fn close(self: &Arc<Self>) -> std::result::Result<(), String> {
        self.drain();
        self.tending.end(self.watch.long_patience());
        let whole = self.is_whole();
        if whole {
            self.within_reason(|mirror, too_long| mirror.checkpoint(false, too_long));
        }
        // So that it is believed after a restart of the machine, whatever is dirty in it.
        if let Some(Err(errno)) = self.log().map(|intent| intent.journal().close()) {
            self.log_is_lost(errno);
        }
        self.watch.close();
        self.room.close();
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
