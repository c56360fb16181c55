// SPDX-License-Identifier: MIT
//! `Tending`: what one thread of the mirror does as long as it is mounted.
//!
//! - The replica is followed and whole: from time to time a *checkpoint* makes both copies durable
//!   and clears the marks that are done with.
//! - It has come back, or was found in doubt: it is *healed*, live. When no mark is dirty any more
//!   the mirror stands still for a moment, to be sure; then both copies are made durable, their
//!   stamps say so, and only then is anybody told that it is in-sync.
//! - It failed or is away: every few seconds it is looked for, once nothing of ours is under way to it
//!   any more.
//!
//! The replica may hang here, too. No request waits for this thread: what healing holds is given
//! back by the watchdog, and whoever ends the mount goes on without it (`Tending::abandon`).
//!
//! Lock order: the state of [`Tending`], then the health of the mirror.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::attach::refusal::{Id, Refusal};
use super::events::{Change, Events};
use super::failure::errno_name;
use super::heal::{Ground, Healing, Stop};
use super::intent::Intent;
use super::lane::{Lane, Way};
use super::pace::{self, Pace};
use super::replica::{Fault, Whose};
use super::report::{Resync, Syncs};
use super::state::ReplicaState;
use super::watch::{Hold, Rest, Standstill, What};
use super::{Mirror, NOTHING, Reached, Verified, WayBack};
use crate::journal::{Checkpoint, Counts, Dirty, Journal, Mark, Pins};
use crate::store::op::Claims;
use crate::store::{Ident, Node, Nodes, Source};
use crate::sys::{Errno, clock};

/// Between two looks for a replica that failed or is away.
const RETRY: Duration = Duration::from_secs(10);
/// How long the application may stand still for healing.
const STILL_MAX: Duration = Duration::from_secs(4);
/// Between two checkpoints, while there is something to clear.
const CHECKPOINT: Duration = Duration::from_secs(30);

/// What the tending thread and those who ask it for something share.
pub struct Tending {
    pub(super) primary_root: OwnedFd,
    way_back: Option<Box<dyn WayBack>>,
    /// As typed.
    replica_path: String,
    events: Arc<Events>,
    /// A replica that is back is healed without being asked for.
    at_once: bool,
    /// What the replica's file system cannot hold is done without.
    does_without: bool,
    /// The most that healing may read and write, in bytes per second.
    bytes_per_second: Option<u64>,
    state: Mutex<State>,
    moved: Condvar,
    /// Healing is to stop where it is.
    stop: AtomicBool,
    /// Something was removed from the primary since a replica was last tried that may be full.
    freed: AtomicBool,
}

impl std::fmt::Debug for Tending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tending")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    /// Of the replica that is followed or healed.
    replica_root: Option<Arc<OwnedFd>>,
    /// Someone wants it done now.
    asked: bool,
    /// The replica has just been given up: it is looked for sooner than the next checkpoint was due.
    fell: bool,
    paused: bool,
    ended: bool,
    /// The thread is at work.
    busy: bool,
    /// It hangs on the replica: nobody is to wait for it.
    abandoned: bool,
    /// Why the replica could not be reached the last time.
    why_not: Option<Refusal>,
    /// What was told last.
    told: Option<ReplicaState>,
    /// The present healing, or the last one.
    healing: Option<(Arc<Healing>, Pace)>,
    /// The number of the last `sync` asked for, and what became of them.
    sync: u64,
    syncs: Syncs,
}

/// Whether someone asked for it, and the last `sync` that was asked for by then.
struct Asked {
    asked: bool,
    sync: u64,
}

impl Tending {
    pub(super) fn new(
        primary_root: OwnedFd,
        way_back: Option<Box<dyn WayBack>>,
        replica_path: String,
    ) -> Self {
        Self {
            primary_root,
            way_back,
            replica_path,
            events: Arc::default(),
            at_once: true,
            does_without: false,
            bytes_per_second: None,
            state: Mutex::default(),
            moved: Condvar::new(),
            stop: AtomicBool::new(false),
            // What was removed before this mount, nobody has counted.
            freed: AtomicBool::new(true),
        }
    }

    /// Something was removed that the replica has still: healing makes room there.
    pub(super) fn note_freed(&self) {
        self.freed.store(true, Ordering::Relaxed);
    }

    /// The same, that waits to be asked before it takes a replica in again unless `at_once`.
    pub(super) fn at_once(mut self, at_once: bool) -> Self {
        self.at_once = at_once;
        self
    }

    /// The same, that puts up with what the replica cannot hold if it `does_without`.
    pub(super) fn without(mut self, does_without: bool) -> Self {
        self.does_without = does_without;
        self
    }

    /// The same, that reads and writes no more than so many bytes per second for healing.
    pub(super) fn limited(mut self, bytes_per_second: Option<u64>) -> Self {
        self.bytes_per_second = bytes_per_second;
        self
    }

    /// Opens the way to a replica that is within reach.
    pub(super) fn begin(&self, lane: &Lane, reached: Reached, to_heal: bool) -> Arc<Way> {
        let healing = to_heal.then(|| Arc::new(Healing::new()));
        let mut state = self.state.lock();
        if let Some(healing) = &healing {
            state.healing = Some((healing.clone(), pace()));
        }
        state.replica_root = Some(Arc::new(reached.root));
        state.asked = to_heal;
        lane.open(reached.replica, healing)
    }

    /// Wakes the thread.
    pub(super) fn ask(&self) {
        self.state.lock().asked = true;
        self.moved.notify_all();
    }

    /// Ends the thread, and waits until it does nothing more, for `limit` at most and not at all where
    /// it hangs.
    pub(super) fn end(&self, limit: Duration) {
        self.stop.store(true, Ordering::Release);
        let until = Instant::now() + limit;
        let mut state = self.state.lock();
        state.ended = true;
        self.moved.notify_all();
        while state.busy && !state.abandoned {
            if self.moved.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
    }

    /// The replica has been given up.
    pub(super) fn fell(&self) {
        self.state.lock().fell = true;
        self.moved.notify_all();
    }

    /// The thread hangs on the replica.
    fn abandon(&self) {
        self.state.lock().abandoned = true;
        self.moved.notify_all();
    }

    /// Waits until it is asked for something, `limit` is over, or the mount ends: `None` then.
    fn wait(&self, limit: Duration) -> Option<Asked> {
        let mut until = Instant::now() + limit;
        let mut state = self.state.lock();
        (state.busy, state.abandoned) = (false, false);
        self.moved.notify_all();
        while !state.ended && !state.asked {
            if std::mem::take(&mut state.fell) {
                until = until.min(Instant::now() + RETRY);
            }
            if self.moved.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
        let asked = std::mem::take(&mut state.asked);
        state.busy = !state.ended;
        let sync = state.sync;
        state.busy.then_some(Asked { asked, sync })
    }
}

impl Mirror {
    /// Looks after the replica until the mirror is closed.
    pub fn tend(self: &Arc<Self>) {
        let mut way = self.lane.way();
        way.iter().for_each(|way| self.start_lane(way));
        let mut limit = Duration::ZERO;
        let first = self.replica_state();
        self.tending.state.lock().told = Some(first);
        while let Some(Asked { asked, sync }) = self.tending.wait(limit) {
            if way.as_ref().is_none_or(|way| !way.is_open()) {
                // Who holds on to a way that is closed keeps the replica from being taken in.
                let left = (way.take(), self.tending.state.lock().replica_root.take());
                self.ask_replica(None, What::new("close"), || drop(left));
                self.note_again();
                way = self.reach(asked);
            }
            limit = match &way {
                None => RETRY,
                Some(way) if self.lacks_something(way) => {
                    self.heal(way);
                    self.checkpoint(asked, self.abandoning());
                    if way.healing().is_some() {
                        RETRY
                    } else {
                        CHECKPOINT
                    }
                }
                Some(_) => {
                    self.checkpoint(asked, self.abandoning());
                    CHECKPOINT
                }
            };
            self.note_syncs(sync);
        }
    }

    /// What is to be done if this thread hangs.
    fn abandoning(self: &Arc<Self>) -> Rest {
        let mirror = self.clone();
        Box::new(move |_| mirror.tending.abandon())
    }

    /// Calls the replica from this thread.
    fn ask_replica<T>(
        self: &Arc<Self>,
        way: Option<&Arc<Way>>,
        what: What,
        call: impl FnOnce() -> T,
    ) -> T {
        let errand = self.watch.begin(way, what, None, Some(self.abandoning()));
        let answer = call();
        drop(errand.end());
        answer
    }

    /// Whether the replica is to be healed.
    fn lacks_something(&self, way: &Way) -> bool {
        let dirty = self
            .log()
            .is_some_and(|intent| intent.journal().has_dirty());
        if dirty && way.healing().is_none() {
            let healing = way.heal_again();
            self.tending.state.lock().healing = Some((healing, pace()));
            self.health.lock().resyncing = true;
        }
        dirty || way.healing().is_some()
    }

    /// Starts the thread that carries what is queued by a way.
    fn start_lane(self: &Arc<Self>, way: &Arc<Way>) {
        if !way.is_queued() {
            return;
        }
        let (mirror, carried) = (self.clone(), way.clone());
        let thread = std::thread::Builder::new().name("lane-1".to_owned());
        if let Err(error) = thread.spawn(move || mirror.carry_queued(&carried)) {
            let fault = Fault::new(Errno::AGAIN, format!("starting a thread: {error}"));
            self.fail(fault, way);
        }
    }

    /// Looks for a replica that is away, and begins to heal it if it is there.
    fn reach(self: &Arc<Self>, asked: bool) -> Option<Arc<Way>> {
        let wanted = asked || self.tending.at_once;
        let way_back = self.tending.way_back.as_ref().filter(|_| wanted)?;
        // What is still under way to it could change it behind our back. Without the log nobody
        // knows what it lacks.
        let is_haunted = self.lane.is_haunted() || self.late_calls() > 0;
        #[cfg(test)]
        let is_haunted = is_haunted && !self.watch.is_blind.goes_wrong();
        if self.tending.state.lock().paused || is_haunted || self.log().is_none() {
            return None;
        }
        let freed = self.tending.freed.swap(false, Ordering::Relaxed);
        let found = self.ask_replica(None, What::new("open"), || {
            if self.watch.has_returned() {
                // What came back late may have left descriptors behind.
                self.nodes.leave_replica();
            }
            way_back.reach(freed || asked)
        });
        match found {
            // That took until nobody waited for it any more.
            Ok(_) if self.tending.state.lock().ended => None,
            Ok(reached) => {
                self.nodes.rejoin_replica();
                let way = self.tending.begin(&self.lane, reached, true);
                self.start_lane(&way);
                self.tending.state.lock().why_not = None;
                let seeding = self.log().is_some_and(|log| log.journal().is_filling());
                let mut health = self.health.lock();
                (health.resyncing, health.seeding) = (true, seeding);
                drop(health);
                self.tell();
                Some(way)
            }
            Err(refusal) => {
                self.tending.freed.fetch_or(freed, Ordering::Relaxed);
                let mut state = self.tending.state.lock();
                let known = state.why_not.as_ref();
                if known.is_none_or(|known| (known.id, &known.why) != (refusal.id, &refusal.why)) {
                    tracing::warn!(
                        "the replica cannot be taken in: {} [{}]",
                        refusal.why,
                        refusal.id
                    );
                }
                state.why_not = Some(refusal);
                None
            }
        }
    }

    /// Heals the replica until nothing is missing from it.
    fn heal(self: &Arc<Self>, way: &Arc<Way>) {
        let root = self.tending.state.lock().replica_root.clone();
        let (Some(healing), Some(root), Some(intent)) = (way.healing(), root, self.log()) else {
            return;
        };
        let ground = Live {
            mirror: self,
            way,
            healing: &healing,
            is_tending: true,
            replica_root: root,
            journal: intent.journal(),
        };
        let throttle = self.tending.bytes_per_second;
        let healed = healing.run(&ground, &self.tending.stop, throttle);
        if !way.is_open() {
            // What was taken for healed after that may not be.
            intent.journal().soil_all();
        }
        let lacks = match healed {
            Ok(summary) => summary.lacks,
            Err(Stop::Asked) => return,
            Err(Stop::Fault(fault)) => {
                self.fail(fault, way);
                return;
            }
        };
        way.replica().accept(lacks);
        let what = What::long("making both copies durable");
        let healed = self.ask_replica(Some(way), what, || self.record.healed(lacks));
        if let Err(why) = healed {
            self.fail(Fault::new(Errno::IO, why), way);
            return;
        }
        if let Some((_, pace)) = &mut self.tending.state.lock().healing {
            pace.end(Instant::now());
        }
        let mut health = self.health.lock();
        if way.is_open() {
            health.degraded = None;
            health.epoch_before = None;
            (health.resyncing, health.seeding) = (false, false);
            self.recorded.store(NOTHING, Ordering::Release);
        }
        drop(health);
        self.tell();
    }

    /// Tells whoever listens, and the log, when the state of the replica is another one.
    pub(super) fn tell(&self) {
        let mut state = self.tending.state.lock();
        let now = self.state_when(state.paused);
        let before = state.told.replace(now).unwrap_or(ReplicaState::InSync);
        if before == now {
            return;
        }
        drop(state);
        self.tending.moved.notify_all();
        let health = self.health();
        let mut change = Change::now(&self.tending.replica_path, before, now);
        let over = |id| id == Id::Paused && now != ReplicaState::Paused;
        let why = health.degraded.filter(|why| !over(why.id));
        if let Some(degraded) = why.filter(|_| self.lane.way().is_none()) {
            change.id = degraded.id.to_string();
            change.errno = degraded.fault.errno.and_then(errno_name).map(str::to_owned);
            change.epoch = health.epoch_before.map(|_| health.epoch);
            change.why = degraded.fault.to_string();
        }
        if now == ReplicaState::Resyncing {
            change.dirty_bytes = Some(self.dirty().dirty_bytes);
        }
        self.tending.events.publish(change);
    }

    /// What became of the syncs that were asked for up to `number`.
    fn note_syncs(&self, number: u64) {
        let dirty = self.has_dirty();
        let whole = self.is_whole() && !dirty;
        let health = self.health();
        let mut state = self.tending.state.lock();
        if number <= state.syncs.over || (!whole && self.lane.is_open()) {
            return;
        }
        state.syncs.over = number;
        if whole {
            state.syncs.done = number;
            state.syncs.why = None;
        } else {
            let no = state
                .why_not
                .as_ref()
                .map(|no| format!("{} [{}]", no.why, no.id));
            let fault = health.degraded.map(|degraded| degraded.fault.to_string());
            state.syncs.why = no.or(fault);
        }
    }

    /// Looks, while everything stands still, whether anything is missing from the replica. If not, it
    /// is followed from now on without exception.
    fn is_still_whole(&self, way: &Arc<Way>, journal: &Journal) -> bool {
        let behind = way.healing().is_some_and(|healing| healing.is_behind());
        let whole = !journal.has_dirty() && !behind && way.is_open();
        if whole {
            way.healed();
        }
        whole
    }

    /// Whether the replica is followed and lacks nothing.
    pub(super) fn is_whole(&self) -> bool {
        self.lane.way().is_some_and(|way| way.healing().is_none()) && self.is_settled()
    }

    fn is_settled(&self) -> bool {
        let health = self.health.lock();
        health.degraded.is_none() && !health.resyncing
    }

    /// Makes both copies durable and clears the marks that are done with; without such marks only if
    /// somebody asked for it. `too_long` is done if the replica hangs.
    pub(super) fn checkpoint(self: &Arc<Self>, asked: bool, too_long: Rest) {
        let (Some(intent), Some(way)) = (self.log(), self.lane.way()) else {
            return;
        };
        if way.healing().is_some() {
            return;
        }
        let point = intent.journal().begin_checkpoint();
        if (asked || !point.is_empty()) && self.make_durable(&way, intent, point, too_long) {
            intent.forget_crowds();
        }
    }

    /// Makes both copies durable and clears what a checkpoint began with; whether it did.
    fn make_durable(
        self: &Arc<Self>,
        way: &Arc<Way>,
        intent: &Intent,
        point: Checkpoint,
        too_long: Rest,
    ) -> bool {
        // A time that is still to be carried is a mark (docs/SAFETY.md, rule 16). Whoever used one that
        // is to be cleared has noted its times by now; what is noted from now on keeps its mark.
        let too_long = self.carry_all(self.times.take(), too_long);
        #[cfg(test)]
        let point = intent.clears_early.end_early(intent.journal(), point);
        if let Err(errno) = self.primary.sync_all() {
            self.doubt(errno, "a sync of the primary failed".to_owned());
            return false;
        }
        let what = What::long("making everything durable");
        let errand = self.watch.begin(Some(way), what, None, too_long);
        let synced = way.sync_all();
        drop(errand.end());
        if let Err(fault) = synced {
            self.fail(fault, way);
            return false;
        }
        if !way.is_open() {
            return false;
        }
        match intent.journal().end_checkpoint(point) {
            Ok(_) => true,
            Err(errno) => {
                self.log_is_lost(errno);
                false
            }
        }
    }

    /// Asks for what is missing from the replica to be brought there, and for a checkpoint, now;
    /// `full`: for all of it to be compared. The number is found in [`Self::syncs`] when it is over.
    ///
    /// # Errors
    /// The log's: what may differ cannot be noted.
    pub fn sync_soon(&self, full: bool) -> Result<u64, Errno> {
        let intent = self.log().ok_or(Errno::NODATA)?;
        if full {
            self.mark_whole(intent)?;
        }
        let mut state = self.tending.state.lock();
        state.sync += 1;
        state.asked = true;
        let number = state.sync;
        drop(state);
        self.tending.moved.notify_all();
        Ok(number)
    }

    /// What became of the syncs that were asked for.
    #[must_use]
    pub fn syncs(&self) -> Syncs {
        self.tending.state.lock().syncs.clone()
    }

    /// Where changes of state are published.
    #[must_use]
    pub fn events(&self) -> Arc<Events> {
        self.tending.events.clone()
    }

    /// What may differ, by the marks that must be healed.
    #[must_use]
    pub fn doubts(&self) -> Vec<Dirty> {
        let intent = self.intent.as_ref();
        intent.map_or_else(Vec::new, |intent| intent.journal().dirty())
    }

    /// Sets the replica aside until [`Self::resume`].
    pub fn pause(self: &Arc<Self>) {
        self.tending.state.lock().paused = true;
        if let Some(way) = self.lane.way() {
            self.settle_now();
            self.fail(Fault::without_errno(Whose::Pause, "paused"), &way);
        }
    }

    /// Takes the replica in again.
    pub fn resume(&self) {
        self.tending.state.lock().paused = false;
        self.tell();
        self.tending.ask();
    }

    /// Why the replica could not be taken in the last time that was tried.
    #[must_use]
    pub fn why_away(&self) -> Option<Refusal> {
        self.tending.state.lock().why_not.clone()
    }

    /// Lets `work` look at both copies while they are in use; `None` unless the replica is followed
    /// and lacks nothing.
    pub fn on_ground<T>(self: &Arc<Self>, work: impl FnOnce(&dyn Ground) -> T) -> Option<T> {
        let way = self.lane.way()?;
        let replica_root = self.tending.state.lock().replica_root.clone()?;
        let ground = Live {
            mirror: self,
            way: &way,
            healing: &Healing::new(),
            is_tending: false,
            replica_root,
            journal: self.log()?.journal(),
        };
        ground.is_whole().then(|| work(&ground))
    }

    /// Notes what a comparison of the copies has shown.
    pub fn set_verified(&self, verified: Verified) {
        self.health.lock().verified = verified;
        self.tell();
    }

    /// Waits until something has changed about the replica, or `limit` is over.
    pub fn await_change(&self, limit: Duration) {
        let mut state = self.tending.state.lock();
        self.tending.moved.wait_for(&mut state, limit);
    }

    /// What is known about the replica, in one word.
    #[must_use]
    pub fn replica_state(&self) -> ReplicaState {
        let paused = self.is_paused();
        self.state_when(paused)
    }

    fn state_when(&self, paused: bool) -> ReplicaState {
        let health = self.health();
        let verified = health.verified == Verified::Yes;
        let degraded = health.degraded.as_ref().map(|degraded| degraded.id);
        let whole = |way: &Way| way.healing().is_none() && !health.resyncing && !self.has_dirty();
        match (self.lane.way(), degraded) {
            (Some(way), None) if whole(&way) && verified => ReplicaState::InSync,
            (Some(way), None) if whole(&way) => ReplicaState::Unverified,
            (Some(_), _) if health.seeding => ReplicaState::Seeding,
            (Some(_), _) => ReplicaState::Resyncing,
            (None, _) if paused => ReplicaState::Paused,
            // Resumed, and about to be taken in.
            (None, Some(Id::PulledAhead | Id::Paused)) => ReplicaState::Behind,
            (None, Some(Id::ReplicaFailed | Id::LogLost | Id::MetadataLoss)) => {
                ReplicaState::Failed
            }
            (None, _) => ReplicaState::Missing,
        }
    }

    /// Whether the replica was set aside.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.tending.state.lock().paused
    }

    /// Whether anything may differ, by the write-intent log.
    fn has_dirty(&self) -> bool {
        let intent = self.intent.as_ref();
        intent.is_some_and(|intent| intent.journal().has_dirty())
    }

    /// What the write-intent log holds.
    #[must_use]
    pub fn dirty(&self) -> Counts {
        let counts = self.intent.as_ref().map(|intent| intent.journal().counts());
        counts.unwrap_or_default()
    }

    /// How far healing is, or how far it came the last time.
    #[must_use]
    pub fn healing(&self) -> Option<Resync> {
        let marked = self.dirty().dirty_bytes;
        let mut state = self.tending.state.lock();
        let (healing, pace) = state.healing.as_mut()?;
        let (now, seen) = (Instant::now(), healing.progress());
        let (files, bytes) = seen.all.unwrap_or_default();
        let counts = pace::Counts {
            files_done: seen.files_opened,
            files_left: files.saturating_sub(seen.files_opened).max(seen.marks_left),
            bytes_done: seen.bytes_compared,
            bytes_left: bytes.saturating_sub(seen.bytes_compared).max(marked),
        };
        pace.note(now, counts);
        let shown = pace.shown(now);
        Some(Resync {
            dirs_done: seen.dirs_opened,
            is_counting: seen.is_counting,
            eta_seconds: shown.eta_seconds.filter(|_| !seen.is_counting),
            ..shown
        })
    }
}

/// A healing that begins now.
fn pace() -> Pace {
    Pace::new(Instant::now(), clock::now().tv_sec)
}

/// The ground that healing stands on: a mirror in use.
struct Live<'a> {
    mirror: &'a Arc<Mirror>,
    way: &'a Arc<Way>,
    healing: &'a Healing,
    /// This is the thread that looks after the replica, which others may wait for.
    is_tending: bool,
    replica_root: Arc<OwnedFd>,
    journal: &'a Journal,
}

impl Ground for Live<'_> {
    fn source(&self) -> &dyn Source {
        &*self.mirror.source
    }

    fn nodes(&self) -> &Arc<Nodes> {
        &self.mirror.nodes
    }

    fn primary_root(&self) -> BorrowedFd<'_> {
        self.mirror.tending.primary_root.as_fd()
    }

    fn replica_root(&self) -> BorrowedFd<'_> {
        self.replica_root.as_fd()
    }

    fn hold(&self, claims: Claims) -> Result<Hold<'_>, Fault> {
        let turn = self.mirror.order.enter(&claims);
        self.way.settle()?;
        if !self.way.is_open() {
            return Err(Fault::new(Errno::CANCELED, "healing".to_owned()));
        }
        let abandon = if self.is_tending {
            self.mirror.abandoning()
        } else {
            Box::new(|_| ())
        };
        let pulse = self.healing.pulse();
        Ok(self.mirror.watch.hold(self.way, turn, abandon, pulse))
    }

    fn wait_turn(&self, claims: Claims) -> Result<Hold<'_>, Fault> {
        Ok(self.mirror.order.enter(&claims).into())
    }

    fn settle_times(&self, node: &Arc<Node>) -> Result<(), Fault> {
        if !node.unsettled.load(Ordering::Acquire) {
            return Ok(());
        }
        // It stays noted: who looks after it carries the same times once more, or later ones.
        let stat = self.mirror.source.stat(node);
        let stat = stat.map_err(|errno| super::unreadable(errno, "times", node))?;
        let pins = Pins::default();
        self.way.set_times(node, (stat.atime, stat.mtime), pins)?;
        self.way.settle()
    }

    fn stand_still(&self) -> Result<Standstill<'_>, Fault> {
        let still = self.mirror.gate.hold();
        self.way.settle()?;
        if !self.way.is_open() {
            return Err(Fault::new(Errno::CANCELED, "healing".to_owned()));
        }
        let go_on: Rest = Box::new(move |_| drop(still));
        let what = What::long("healing while everything stands still");
        let errand = self
            .mirror
            .watch
            .begin(Some(self.way), what, None, Some(go_on));
        // A program that waits for this is to see no more of it than of a replica that is given up.
        let limit = STILL_MAX.min(self.mirror.watch.patience()) * 3 / 4;
        Ok(Standstill::of(errand, limit))
    }

    fn is_healed(&self) -> bool {
        self.mirror.is_still_whole(self.way, self.journal)
    }

    fn is_whole(&self) -> bool {
        self.way.is_open() && self.way.healing().is_none() && !self.journal.has_dirty()
    }

    fn journal(&self) -> &Journal {
        self.journal
    }

    fn does_without(&self) -> bool {
        self.mirror.tending.does_without
    }

    fn lacks(&self) -> super::resync::Lacks {
        self.way.replica().lacks()
    }

    fn clear(&self, marks: Vec<Arc<Mark>>) {
        let point = self.journal.begin_clearing(marks);
        if let Some(intent) = self.mirror.log().filter(|_| !point.is_empty()) {
            let too_long = self.mirror.abandoning();
            self.mirror.make_durable(self.way, intent, point, too_long);
        }
    }

    fn twin_replaced(&self, primary: Ident) {
        if let Some(node) = self.mirror.nodes.find(primary) {
            drop(node.forget_twin());
        }
    }

    fn vouches(&self) -> bool {
        self.mirror.record.vouches()
    }
}
