// SPDX-License-Identifier: MIT
//! `Watch`: nobody waits for a replica that hangs (docs/SAFETY.md, rules 9 and 10).
//!
//! A thread cannot be called back from a system call on a disk that does not answer. So whoever calls
//! the replica leaves an [`Errand`] here: since when, and what is to be done without it - the turn to
//! give back, and the rest of the request, down to its answer. A watchdog looks at all errands; the
//! first one that takes longer than `replica-timeout` closes the lane, and the rest of each is done
//! elsewhere:
//!
//! ```text
//!   worker    begin(turn, rest)  replica.write() ......................... end(): too late, forget it
//!   watchdog                                     fail(); turn; rest -> answer
//! ```
//!
//! Whoever comes back finds that it is not wanted any more. Until it has, its call may still change the
//! replica: [`Watch::late`] counts those, and while there is one the replica is not made equal.
//!
//! A sync may take long on a healthy disk. It has ten times as long, unless the replica does not even
//! answer statfs(2); and its time begins when the primary's part is over.
//!
//! An errand belongs to the [`Way`] it was begun on. When that is closed nobody waits for it any more;
//! the replica may have been taken in again by another way meanwhile, but never while one is late.
//!
//! Healing makes many calls in one hold. What waits for it waits only as long as it goes on: its
//! errand has a *pulse*, and its time begins anew with each beat ([`Hold`]).
//!
//! Lock order: a shard's lock is taken last, and never held across I/O.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::crew;
use super::lane::Way;
use super::order::Turn;
use super::replica::Fault;
use super::settle::Carried;
use super::{Mirror, Room};
use crate::store::Node;
use crate::store::op::{Action, Op};
use crate::sys::Errno;

/// What is left to do of a request once it is known what became of the replica's part.
pub type Rest = Box<dyn FnOnce(Carried) + Send>;

/// Errands are kept in so many places: threads should not meet there.
const SHARDS: usize = 16;
/// The watchdog looks so many times within the patience.
const LOOKS: u32 = 8;
/// A sync has so many times as long, if the replica answers otherwise.
const SYNC_TIMES: u32 = 10;

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SHARD: Cell<usize> = Cell::new(THREADS.fetch_add(1, Ordering::Relaxed) % SHARDS);
}

/// What the replica is asked to do, for messages.
#[derive(Debug)]
pub struct What {
    verb: &'static str,
    node: Option<Arc<Node>>,
    sync: bool,
}

impl What {
    /// Something that concerns no object in particular.
    #[must_use]
    pub fn new(verb: &'static str) -> Self {
        Self {
            verb,
            node: None,
            sync: false,
        }
    }

    /// Something done to a node.
    #[must_use]
    pub fn to(verb: &'static str, node: &Arc<Node>) -> Self {
        Self {
            node: Some(node.clone()),
            ..Self::new(verb)
        }
    }

    /// Something that may take long.
    #[must_use]
    pub fn long(verb: &'static str) -> Self {
        Self {
            sync: true,
            ..Self::new(verb)
        }
    }

    /// A sync of a node, which may take long.
    #[must_use]
    pub fn sync(node: &Arc<Node>) -> Self {
        Self {
            sync: true,
            ..Self::to("fsync of", node)
        }
    }

    /// An op.
    #[must_use]
    pub fn of(op: &Op<'_>) -> Self {
        let node = match &op.action {
            Action::SetAttr { node, .. }
            | Action::SetFlags { node, .. }
            | Action::SetXattr { node, .. }
            | Action::RemoveXattr { node, .. } => Some(node),
            _ => op.content(),
        };
        match (node, op.directories().first()) {
            (Some(node), _) => Self::to(op.verb(), node),
            (None, Some(dir)) => Self::to(op.verb(), dir),
            (None, None) => Self::new(op.verb()),
        }
    }

    fn words(&self) -> String {
        match &self.node {
            Some(node) if node.is_dir() => format!("{} in {}", self.verb, node.display_path()),
            Some(node) => format!("{} {}", self.verb, node.display_path()),
            None => self.verb.to_owned(),
        }
    }
}

/// What the one who comes to the end of an errand owes: the turn goes back, the rest is done.
pub struct Owed {
    turn: Option<Turn>,
    rest: Option<Rest>,
}

impl Owed {
    /// Ends the op.
    pub fn settle(self, carried: Carried) {
        drop(self.turn);
        if let Some(rest) = self.rest {
            rest(carried);
        }
    }

    /// Gives the turn back, and leaves the rest to the caller.
    #[must_use]
    pub fn without_turn(self) -> Rest {
        drop(self.turn);
        self.rest.unwrap_or_else(|| Box::new(|_| ()))
    }

    /// What is left to do; there is no turn.
    #[must_use]
    pub fn into_rest(self) -> Option<Rest> {
        self.rest
    }

    /// The turn, for whoever has only asked something and begins now.
    #[must_use]
    pub fn into_turn(self) -> Option<Turn> {
        self.turn
    }
}

impl std::fmt::Debug for Owed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Owed").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Entry {
    ticket: u64,
    /// The number of the way it goes by; 0 for none in particular.
    way: u64,
    since: Instant,
    /// What goes on as long as the replica answers, and how far it was at `since`.
    pulse: Option<(Arc<AtomicU64>, u64)>,
    what: What,
    owed: Owed,
    /// Its thread is one of those that serve requests.
    inside: bool,
    /// It is busy with the primary.
    paused: bool,
    /// Somebody else has done the rest.
    taken: bool,
}

impl Entry {
    /// How long it has been waiting for one answer.
    fn age(&mut self) -> Duration {
        if let Some((pulse, seen)) = &mut self.pulse {
            let now = pulse.load(Ordering::Relaxed);
            if std::mem::replace(seen, now) != now {
                self.since = Instant::now();
            }
        }
        self.since.elapsed()
    }
}

#[derive(Debug, Default)]
struct Shard {
    entries: Vec<Entry>,
    tickets: u64,
}

/// Everybody who waits for the replica.
#[derive(Debug)]
pub struct Watch {
    shards: [Mutex<Shard>; SHARDS],
    late: AtomicUsize,
    /// One that was late has come back since anyone asked.
    returned: AtomicBool,
    patience: Duration,
    over: Mutex<bool>,
    ending: Condvar,
    #[cfg(test)]
    pub(super) is_blind: super::tests::sabotage::Switch,
}

impl Watch {
    /// A watch with so much patience (`replica-timeout`).
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            late: AtomicUsize::new(0),
            returned: AtomicBool::new(false),
            patience,
            over: Mutex::new(false),
            ending: Condvar::new(),
            #[cfg(test)]
            is_blind: Default::default(),
        }
    }

    /// The calling thread is about to call the replica. It holds on to `way` until it is back;
    /// without one, what it calls does not depend on which replica is followed.
    pub fn begin(
        &self,
        way: Option<&Arc<Way>>,
        what: What,
        turn: Option<Turn>,
        rest: Option<Rest>,
    ) -> Errand<'_> {
        self.enter(way, what, Owed { turn, rest }, None)
    }

    /// Healing is about to look at what it holds.
    pub fn hold(&self, way: &Arc<Way>, turn: Turn, rest: Rest, pulse: Arc<AtomicU64>) -> Hold<'_> {
        let owed = Owed {
            turn: Some(turn),
            rest: Some(rest),
        };
        let seen = pulse.load(Ordering::Relaxed);
        let errand = self.enter(Some(way), What::new("healing"), owed, Some((pulse, seen)));
        Hold {
            turn: None,
            errand: Some(errand),
        }
    }

    fn enter(
        &self,
        way: Option<&Arc<Way>>,
        what: What,
        owed: Owed,
        pulse: Option<(Arc<AtomicU64>, u64)>,
    ) -> Errand<'_> {
        let shard = &self.shards[SHARD.get()];
        let mut held = shard.lock();
        let ticket = held.tickets;
        held.tickets += 1;
        held.entries.push(Entry {
            ticket,
            way: way.map_or(0, |way| way.number()),
            since: Instant::now(),
            pulse,
            what,
            owed,
            inside: crew::is_inside(),
            paused: false,
            taken: false,
        });
        drop(held);
        Errand {
            watch: self,
            shard,
            ticket,
        }
    }

    /// Calls that somebody else has ended and that have not come back: each may still change the
    /// replica.
    #[must_use]
    pub fn late(&self) -> usize {
        self.late.load(Ordering::Acquire)
    }

    /// Whether one that was late has come back since this was asked last.
    #[must_use]
    pub fn has_returned(&self) -> bool {
        self.returned.swap(false, Ordering::AcqRel)
    }

    /// How long a replica may take to answer.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// How long anything may take that may take long.
    #[must_use]
    pub fn long_patience(&self) -> Duration {
        self.patience.saturating_mul(SYNC_TIMES)
    }

    /// What has taken too long on this way, if anything has.
    fn overdue(&self, way: &Way, room: &Room) -> Option<String> {
        for shard in &self.shards {
            for entry in &mut shard.lock().entries {
                if entry.taken || entry.paused || entry.way != way.number() {
                    continue;
                }
                let age = entry.age();
                if age < self.patience / 2 {
                    continue;
                }
                let over = if entry.what.sync && age < self.long_patience() {
                    let silent = room.ask();
                    age >= self.patience && silent >= self.patience / 4
                } else {
                    age >= self.patience
                };
                if over {
                    return Some(entry.what.words());
                }
            }
        }
        None
    }

    /// Takes over everything that has been under way for a moment on another way than `open`: all
    /// others are closed. What belongs to none has as long as the replica. The turns go back at
    /// once: what is left of one request may wait for another's.
    fn take(&self, open: Option<&Arc<Way>>) -> Vec<(bool, Owed)> {
        let open = open.map_or(0, |way| way.number());
        let mut taken = Vec::new();
        let mut turns = Vec::new();
        for shard in &self.shards {
            for entry in &mut shard.lock().entries {
                let moment = match entry.way {
                    0 => self.patience,
                    way if way == open => continue,
                    _ => self.patience / LOOKS,
                };
                if entry.taken || entry.paused || entry.since.elapsed() < moment {
                    continue;
                }
                entry.taken = true;
                self.late.fetch_add(1, Ordering::AcqRel);
                turns.extend(entry.owed.turn.take());
                let rest = entry.owed.rest.take();
                taken.push((entry.inside, Owed { turn: None, rest }));
            }
        }
        taken
    }

    /// Waits until it is time to look again; false when there is nothing to look at any more.
    fn rest(&self) -> bool {
        let mut over = self.over.lock();
        if !*over {
            self.ending.wait_for(&mut over, self.patience / LOOKS);
        }
        !*over
    }

    /// Ends the watchdog.
    pub fn close(&self) {
        *self.over.lock() = true;
        self.ending.notify_all();
    }
}

/// A call of the replica, while it lasts.
#[derive(Debug)]
#[must_use]
pub struct Errand<'a> {
    watch: &'a Watch,
    shard: &'a Mutex<Shard>,
    ticket: u64,
}

impl Errand<'_> {
    fn entry<T>(&self, look: impl FnOnce(&mut Entry) -> T) -> T {
        let mut shard = self.shard.lock();
        let mut entries = shard.entries.iter_mut();
        let entry = entries.find(|entry| entry.ticket == self.ticket);
        look(entry.expect("only its own errand takes an entry out"))
    }

    /// The calling thread turns to the primary: nobody takes over meanwhile. False if somebody has:
    /// then the primary's part has been done, too.
    #[must_use]
    pub fn pause(&self) -> bool {
        self.entry(|entry| {
            entry.paused = !entry.taken;
            entry.paused
        })
    }

    /// The primary's part is done, and this is what is left now.
    pub fn resume(&self, rest: Rest) {
        let old = self.entry(|entry| {
            entry.paused = false;
            entry.since = Instant::now();
            entry.owed.rest.replace(rest)
        });
        drop(old);
    }

    /// The replica has answered. `None` if that was too late: all is done that the calling thread
    /// was to do.
    #[must_use]
    pub fn end(self) -> Option<Owed> {
        let mut shard = self.shard.lock();
        let mut entries = shard.entries.iter();
        let at = entries.position(|entry| entry.ticket == self.ticket);
        let entry = shard
            .entries
            .swap_remove(at.expect("only its own errand takes an entry out"));
        drop(shard);
        if !entry.taken {
            return Some(entry.owed);
        }
        crew::was_replaced();
        self.watch.returned.store(true, Ordering::Release);
        self.watch.late.fetch_sub(1, Ordering::AcqRel);
        tracing::info!("the replica has answered after all: {}", entry.what.words());
        None
    }
}

/// A turn of healing, which the watchdog gives back if the replica hangs meanwhile.
#[derive(Debug)]
#[must_use]
pub struct Hold<'a> {
    turn: Option<Turn>,
    errand: Option<Errand<'a>>,
}

impl From<Turn> for Hold<'_> {
    fn from(turn: Turn) -> Self {
        Self {
            turn: Some(turn),
            errand: None,
        }
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        drop(self.turn.take());
        if let Some(errand) = self.errand.take() {
            drop(errand.end());
        }
    }
}

/// Everything stands still for healing, until this is ended or the replica hangs.
#[derive(Debug, Default)]
#[must_use]
pub struct Standstill<'a> {
    errand: Option<Errand<'a>>,
    limit: Duration,
    /// What keeps the clients of a test still.
    #[cfg(test)]
    _kept: Option<parking_lot::RwLockWriteGuard<'a, ()>>,
}

impl<'a> Standstill<'a> {
    pub(super) fn of(errand: Errand<'a>, limit: Duration) -> Self {
        Self {
            errand: Some(errand),
            limit,
            #[cfg(test)]
            _kept: None,
        }
    }

    /// Clients of a test stand still until this is dropped.
    #[cfg(test)]
    pub fn keeping(guard: parking_lot::RwLockWriteGuard<'a, ()>) -> Self {
        Self {
            errand: None,
            limit: Duration::from_secs(1),
            _kept: Some(guard),
        }
    }

    /// How long it may last.
    #[must_use]
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Everything goes on once what this returns is dropped. `None`: it does so already.
    #[must_use]
    pub fn end(mut self) -> Option<Option<Owed>> {
        match self.errand.take() {
            Some(errand) => errand.end().map(Some),
            None => Some(None),
        }
    }
}

impl Drop for Standstill<'_> {
    fn drop(&mut self) {
        if let Some(errand) = self.errand.take() {
            drop(errand.end());
        }
    }
}

/// An answer that two may give, of whom one comes first.
pub(super) struct Either<T>(Arc<Mutex<Option<T>>>);

impl<T> Either<T> {
    pub(super) fn new(answer: T) -> Self {
        Self(Arc::new(Mutex::new(Some(answer))))
    }

    /// For the other one.
    pub(super) fn share(&self) -> Self {
        Self(self.0.clone())
    }

    /// The one who comes first has it.
    pub(super) fn take(&self) -> Option<T> {
        self.0.lock().take()
    }
}

impl Mirror {
    /// The watchdog: looks after those who wait for the replica, until [`Self::close`].
    pub fn watch(self: &Arc<Self>) {
        while self.watch.rest() {
            self.look();
        }
    }

    /// What goes into a queue may have to wait for room there, and minds that by itself.
    pub(super) fn wait_in_line(way: &Way, errand: &Errand<'_>) {
        if way.is_queued() {
            _ = errand.pause();
        }
    }

    /// Ends what has waited for the replica for too long.
    pub(super) fn look(self: &Arc<Self>) {
        if let Some(way) = self.lane.way() {
            let overdue = || self.watch.overdue(&way, &self.room);
            let overdue = || overdue().map(|doing| Fault::new(Errno::TIMEDOUT, doing));
            if let Some(fault) = way.stalled().or_else(overdue) {
                self.fail(fault, &way);
            }
        }
        let taken = self.watch.take(self.lane.way().as_ref());
        if taken.is_empty() {
            return;
        }
        let carried = match self.on_record() {
            Carried::Skipped => Carried::Failed,
            other => other,
        };
        for (inside, owed) in taken {
            let rest = Box::new(move || owed.settle(carried));
            self.crew.end_elsewhere(inside, rest);
        }
    }

    /// Calls that the replica has not answered and may still carry out.
    #[must_use]
    pub fn late_calls(&self) -> usize {
        self.watch.late() + usize::from(self.lane.is_late())
    }

    /// Asks the replica for its room whenever somebody wants to know, until [`Self::close`].
    pub fn measure(self: &Arc<Self>) {
        self.room.answer(|| {
            let way = self.lane.way()?;
            let what = What::new("statfs");
            let errand = self.watch.begin(Some(&way), what, None, None);
            let space = way.space().ok();
            errand.end().and(space)
        });
    }

    /// Runs `work` with the replica in a thread of its own, and waits for it as long as the replica
    /// answers. `work` gets what is to be done if it does not.
    pub(super) fn within_reason(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>, Rest) + Send + 'static,
    ) {
        let (done, over) = crossbeam_channel::bounded(2);
        let mirror = self.clone();
        let run = move || {
            crew::stand_apart();
            let too_long = done.clone();
            // There is room for both words, and one of them is enough.
            work(
                &mirror,
                Box::new(move |_| _ = too_long.try_send(()).is_ok()),
            );
            _ = done.try_send(()).is_ok();
        };
        let thread = std::thread::Builder::new().name("settle".to_owned());
        match thread.spawn(run) {
            // An end without a word there is none.
            Ok(_) => drop(over.recv()),
            Err(error) => tracing::error!("no thread to bring the replica up to date: {error}"),
        }
    }
}

#[cfg(test)]
impl Mirror {
    /// [`Self::apply_then`], waited for.
    pub(crate) fn apply(self: &Arc<Self>, op: &Op<'_>) -> crate::sys::Result<super::Outcome> {
        let (tell, told) = crossbeam_channel::bounded(1);
        self.apply_now(op, Box::new(move |done| drop(tell.send(done))));
        told.recv().expect("an answer")
    }

    /// [`Self::barrier_then`], waited for.
    pub(crate) fn barrier(
        self: &Arc<Self>,
        node: &Arc<Node>,
        scope: crate::store::Scope,
    ) -> crate::sys::Result<()> {
        let (tell, told) = crossbeam_channel::bounded(1);
        let then = Box::new(move |done| _ = tell.send(done).is_ok());
        self.barrier_then(node.clone(), scope, then);
        told.recv().expect("an answer")
    }
}
