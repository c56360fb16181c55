// SPDX-License-Identifier: MIT
//! Healing: the replica is made equal wherever a mark is dirty, while the mount is in use.
//!
//! It takes the same turns as live ops: what it looks at is held, so that no op changes either copy
//! there, and once it lets go both copies are equal there and ops are carried again
//! ([`Healing::admits`]). A mark is taken (it is not dirty any more) before what it covers is looked
//! at: an op that is skipped later makes it dirty again, and it is healed again.
//!
//! One round: find the objects of all dirty marks; move what was renamed; make the names of
//! directories equal, from the top down, and what is new or doubtful in them; then the content and
//! attributes of what is left. Rounds follow until no mark is dirty. A heavy load skips something in
//! every one of them: after a few the application stands still now and then, and always for the last
//! look (`heal/still.rs`).
//!
//! Three rules keep it from doing harm. A mark is pinned until all it covers is healed, or a
//! checkpoint could clear it in between. A replica inode that may be another object's is replaced,
//! never written to. And what cannot be found out is not guessed: the whole tree is marked instead.
//!
//! Lock order: a hold (one at a time), then `doubt`. Neither is held while it waits for its turn.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::journal::{Journal, Mark, Pins};
use crate::mirror::failure::{Copy, Named};
use crate::mirror::replica::Fault;
use crate::mirror::resync::content::Trouble;
use crate::mirror::resync::{Lack, Lacks};
use crate::mirror::watch::{Hold, Standstill};
use crate::store::op::Claims;
use crate::store::{Ident, Node, Nodes, Op, Source, Time};
use crate::sys::Errno;
use census::Census;
use doubt::Doubt;
use place::is_elsewhere;
use skipped::Skipped;
use worker::Worker;

pub mod again;
mod census;
mod content;
mod count;
mod divide;
mod doubt;
mod item;
mod links;
mod moves;
mod names;
mod place;
mod skipped;
mod still;
#[cfg(test)]
mod tests;
mod worker;

/// What healing may ask of the mirror.
pub trait Ground: Sync {
    /// Answers questions: the primary.
    fn source(&self) -> &dyn Source;
    /// What the kernel knows.
    fn nodes(&self) -> &Arc<Nodes>;
    /// The primary's root.
    fn primary_root(&self) -> BorrowedFd<'_>;
    /// The replica's root.
    fn replica_root(&self) -> BorrowedFd<'_>;
    /// Takes a turn on all these claims at once, and waits until what is queued for the replica has
    /// been carried: until it is dropped no conflicting op touches either copy. Never two at once.
    /// If the replica hangs meanwhile somebody else gives it back, and the next one is refused.
    ///
    /// # Errors
    /// A fault of the replica.
    fn hold(&self, claims: Claims) -> std::result::Result<Hold<'_>, Fault>;
    /// Takes a turn as [`Self::hold`] does, to look at the primary only: what is queued for the
    /// replica may be on its way still.
    ///
    /// # Errors
    /// A fault of the replica.
    fn wait_turn(&self, claims: Claims) -> std::result::Result<Hold<'_>, Fault> {
        self.hold(claims)
    }
    /// Carries the times of a node to the replica if they are still to be: its attributes are held.
    ///
    /// # Errors
    /// A fault of the replica, or of the primary when it cannot tell them.
    fn settle_times(&self, node: &Arc<Node>) -> std::result::Result<(), Fault> {
        _ = node;
        Ok(())
    }
    /// Lets no op begin until this is ended, once those under way have ended on both copies. No turn
    /// is held then.
    ///
    /// # Errors
    /// A fault of the replica.
    fn stand_still(&self) -> std::result::Result<Standstill<'_>, Fault> {
        Ok(Standstill::default())
    }
    /// Nothing more was found while everything stands still: whether nothing is missing from the
    /// replica, which is followed without exception then.
    fn is_healed(&self) -> bool {
        true
    }
    /// Whether the replica is followed and lacks nothing that is known.
    fn is_whole(&self) -> bool {
        true
    }
    /// The log.
    fn journal(&self) -> &Journal;
    /// Makes both copies durable, and clears those marks that nobody has used or soiled meanwhile. A
    /// replica that fails at that is given up.
    fn clear(&self, marks: Vec<Arc<Mark>>);
    /// For tests: marks of what is filled are divided whenever it is possible.
    fn divides_at_once(&self) -> bool {
        false
    }
    /// The replica's object of this primary object is another one now, or has another place: its
    /// node must learn that anew.
    fn twin_replaced(&self, primary: Ident);
    /// Whether what the replica's file system cannot hold is done without, as far as that can be.
    fn does_without(&self) -> bool {
        true
    }
    /// What it is known to lack.
    fn lacks(&self) -> Lacks {
        Lacks::default()
    }
    /// Whether the primary is the primary still: its stamp can be read. Asked before anything is
    /// removed from the replica.
    fn vouches(&self) -> bool {
        true
    }
}

/// A clock that was set back by less than this, all in all, is not noticed, and makes no difference.
const CLOCK_STEP: Duration = Duration::from_millis(100);

/// Why healing ended before no mark was dirty.
#[derive(Debug)]
pub enum Stop {
    /// The replica failed, or the primary could not be read. What is not healed is dirty again.
    Fault(Fault),
    /// It was asked to stop.
    Asked,
}

/// What a whole healing did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Marks healed, again and again included.
    pub marks: u64,
    /// Rounds it took.
    pub rounds: u64,
    /// Objects of marks that are no more.
    pub gone: u64,
    /// Objects moved on the replica instead of copied.
    pub moved: u64,
    /// Objects made on the replica.
    pub created: u64,
    /// Names removed from the replica.
    pub removed: u64,
    /// Hard links made on the replica.
    pub linked: u64,
    /// Objects whose attributes were carried over.
    pub repaired: u64,
    /// Times the whole tree had to be marked.
    pub escalated: u64,
    /// Things the replica cannot hold.
    pub losses: u64,
    /// Their kinds.
    pub lacks: Lacks,
}

impl Summary {
    /// What is called with each thing the replica cannot hold.
    fn lacking(&mut self) -> impl FnMut(Lack, String) + '_ {
        |lack, detail| {
            self.losses += 1;
            self.lacks.insert(lack);
            tracing::debug!("the replica cannot hold this: {detail}");
        }
    }
}

/// How far healing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Files and other leaves opened to be compared.
    pub files_opened: u64,
    /// Directories opened to be listed.
    pub dirs_opened: u64,
    /// Bytes compared.
    pub bytes_compared: u64,
    /// Bytes written to the replica.
    pub bytes_written: u64,
    /// Marks that are not healed yet, of those found dirty.
    pub marks_left: u64,
    /// Files there are, and the bytes they use, where all are healed and were counted.
    pub all: Option<(u64, u64)>,
    /// What there is in all is being counted.
    pub is_counting: bool,
    /// When it began.
    pub began: Option<Instant>,
}

/// What is healed already, and how far it is: shared with the ops that go on meanwhile.
#[derive(Debug)]
pub struct Healing {
    doubt: Mutex<Doubt>,
    skipped: Mutex<Skipped>,
    /// Nothing is in doubt: no op has to look.
    is_over: AtomicBool,
    files_opened: AtomicU64,
    dirs_opened: AtomicU64,
    bytes_compared: AtomicU64,
    bytes_written: AtomicU64,
    marks_left: AtomicU64,
    census: Census,
    /// Grows with every step within a hold, as long as both copies answer.
    pulse: Arc<AtomicU64>,
    began: Instant,
    /// No op was skipped before; by the clock that inodes get their times from.
    since: Time,
    waiting: Mutex<()>,
    woken: Condvar,
}

impl Default for Healing {
    fn default() -> Self {
        Self::new()
    }
}

impl Healing {
    /// Nothing is healed yet, and nothing admitted before [`Self::run`] knows the marks.
    #[must_use]
    pub fn new() -> Self {
        Self {
            doubt: Mutex::default(),
            skipped: Mutex::default(),
            is_over: AtomicBool::new(false),
            files_opened: AtomicU64::new(0),
            dirs_opened: AtomicU64::new(0),
            bytes_compared: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            marks_left: AtomicU64::new(0),
            census: Census::default(),
            pulse: Arc::default(),
            began: Instant::now(),
            since: Time::of_clock(),
            waiting: Mutex::default(),
            woken: Condvar::new(),
        }
    }

    /// Whether an op may be carried: no directory above anything it names is in doubt. Asked under
    /// the op's turn. If not, the op's marks must be dirty again before its turn ends.
    #[must_use]
    pub fn admits(&self, op: &Op<'_>) -> bool {
        self.is_over.load(Ordering::Acquire) || self.changed(|doubt| doubt.admits(op))
    }

    /// An op was admitted and could not be carried after all: its directories are in doubt. Called
    /// under the op's turn, as its marks are made dirty.
    pub fn missed(&self, op: &Op<'_>) {
        self.changed(|doubt| doubt.miss(op));
    }

    /// An op goes to one copy only: what of it is to be healed, under its turn. It was not admitted,
    /// or missed.
    pub fn skipped(&self, op: &Op<'_>, pins: &Pins) {
        if !self.skipped.lock().note(op, pins) {
            pins.soil();
        }
    }

    /// An object is gone for good: nothing of it is to be healed, and nobody is to keep it.
    pub fn gone(&self, node: &Node) {
        self.skipped.lock().lose(node);
    }

    /// What was skipped could not be healed this time.
    fn remember(&self, node: &Arc<Node>, what: skipped::What, pins: &Pins) -> bool {
        self.skipped.lock().add(node, what, pins)
    }

    /// Whether anything that was skipped is not healed yet.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.skipped.lock().is_empty()
    }

    /// Changes what is in doubt.
    fn changed<T>(&self, change: impl FnOnce(&mut Doubt) -> T) -> T {
        let mut doubt = self.doubt.lock();
        let changed = change(&mut doubt);
        self.is_over.store(doubt.is_over(), Ordering::Release);
        changed
    }

    /// What grows for as long as it goes on in what it holds.
    #[must_use]
    pub fn pulse(&self) -> Arc<AtomicU64> {
        self.pulse.clone()
    }

    /// One more step is done.
    fn beat(&self) {
        self.pulse.fetch_add(1, Ordering::Relaxed);
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Progress {
            files_opened: read(&self.files_opened),
            dirs_opened: read(&self.dirs_opened),
            bytes_compared: read(&self.bytes_compared),
            bytes_written: read(&self.bytes_written),
            marks_left: read(&self.marks_left),
            all: self.census.counted(),
            is_counting: self.census.is_counting(),
            began: Some(self.began),
        }
    }

    /// What was skipped in a directory since it was `listed` was born at that time or later. `None`
    /// when the clock was set back meanwhile: then no time says anything.
    fn born_since(&self, listed: Option<Time>) -> Option<Time> {
        let by_clock = Time::of_clock().since_1970() - self.since.since_1970();
        let gone = self.began.elapsed().saturating_sub(CLOCK_STEP);
        let is_back = by_clock < i128::try_from(gone.as_nanos()).unwrap_or(i128::MAX);
        let since = listed.unwrap_or(self.since);
        (!is_back).then(|| since.minus(CLOCK_STEP))
    }

    /// Ends a pause of the throttle, so that a stop is heard at once.
    pub fn wake(&self) {
        let _waiting = self.waiting.lock();
        self.woken.notify_all();
    }

    /// Heals until no mark is dirty and the ground says that nothing is missing any more. `throttle`
    /// is how many bytes may be read and written per second, if there is a limit.
    ///
    /// # Errors
    /// Why it ended before; everything not healed is dirty again then.
    pub fn run(
        &self,
        ground: &dyn Ground,
        stop: &AtomicBool,
        throttle: Option<u64>,
    ) -> std::result::Result<Summary, Stop> {
        let work = || Worker::new(self, ground, stop, throttle).run();
        let trees = ground.journal().dirty_trees();
        if trees.is_empty() {
            return work();
        }
        self.census.during(ground.primary_root(), &trees, work)
    }

    /// Waits as long as `bytes` take at the rate allowed, unless it is stopped meanwhile.
    fn pace(&self, bytes: u64, throttle: Option<u64>, stop: &AtomicBool) {
        let Some(rate) = throttle.filter(|&rate| rate > 0) else {
            return;
        };
        let micros = u128::from(bytes) * 1_000_000 / u128::from(rate);
        let mut left = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        let mut waiting = self.waiting.lock();
        while !left.is_zero() && !stop.load(Ordering::Relaxed) {
            // Looked at now and then, because whoever stops it may not wake it.
            let part = left.min(Duration::from_millis(200));
            let began = Instant::now();
            let _woken = self.woken.wait_for(&mut waiting, part);
            left = left.saturating_sub(began.elapsed());
        }
    }
}

/// Why the work on one object ended early.
#[derive(Debug)]
enum Halt {
    /// The way to it on the primary is another one by now: look again.
    Lost,
    /// The replica does not have it where the primary has it: its directory comes first.
    Unlike,
    Trouble(Trouble),
}

type Outcome<T> = std::result::Result<T, Halt>;

impl From<Trouble> for Halt {
    fn from(trouble: Trouble) -> Self {
        match (trouble.copy, trouble.errno) {
            (Copy::Primary, errno) if is_elsewhere(errno) => Self::Lost,
            (Copy::Replica, Errno::EXIST | Errno::ISDIR | Errno::NOTEMPTY) => Self::Unlike,
            (Copy::Replica, errno) if is_elsewhere(errno) => Self::Unlike,
            _ => Self::Trouble(trouble),
        }
    }
}

impl Stop {
    /// A call that failed while `path` was being healed.
    fn of(trouble: &Trouble, path: &str) -> Self {
        let Trouble { copy, call, errno } = trouble;
        Self::Fault(Fault::new(
            *errno,
            format!("healing of {path}: {call} on the {copy}"),
        ))
    }

    /// The log could not take what had to be noted in it.
    fn of_log(errno: Errno) -> Self {
        let why = Named(errno);
        tracing::debug!("the write-intent log takes no mark: {why}");
        Self::Fault(Fault::new(
            errno,
            "a mark in the write-intent log".to_owned(),
        ))
    }
}
