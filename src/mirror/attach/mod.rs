// SPDX-License-Identifier: MIT
//! `attach`: from two root directories to a mirror that may serve, and back to two clean stamps.
//!
//! Takes the locks, reads the stamps, opens the write-intent log, lets [`decide`] decide, seeds,
//! compares or repairs, and leaves both stamps open. The order on disk is what makes a crash at any
//! point safe: "inconsistent" is durable on both roots before the first byte of the replica changes,
//! and "in-sync" is written only after the `syncfs` of both. The log comes first (a log one
//! generation ahead of the stamps is that of a crash in between), then the primary's stamp, then
//! the replica's.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::journal::Journal;
use crate::mirror::failure::{Copy, Failure, Named, Shown, show_path};
use crate::mirror::intent::whole_tree;
use crate::mirror::resync::progress::{Phase, Progress, grouped};
use crate::mirror::resync::{self, How, Lacks, Summary};
use crate::store::walk;
use crate::sys::{Errno, clock, random};
use decide::{Asked, Decision, Found, Log, Root, Say, Typed};
use identity::{
    Covered, Epoch, Life, Match, MirrorId, ReadError, Role, RootIdentity, Stamp, Verdict,
};
use log::Keeping;
use refusal::{Id, Refusal};
use stamp::{Lock, Place};

pub use attached::Attached;
use attached::{Standing, State};
pub use lack::MetadataLoss;

mod attached;
pub mod decide;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub mod identity;
mod lack;
pub mod log;
pub mod promote;
pub mod refusal;
pub mod stamp;
#[cfg(test)]
mod tests;

/// What was asked for, and the limits.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `degraded`, `--adopt`, `--init`
    pub asked: Asked,
    /// `--metadata-loss=`
    pub metadata_loss: MetadataLoss,
    /// Where the write-intent log is kept; `None`: without one.
    pub log: Option<Keeping>,
    /// How long to wait for a daemon that is ending and still holds a root.
    pub patience: Duration,
    /// How long to wait for an empty replica to be filled; what is missing then is healed live.
    /// `None`: until it is full.
    pub fills_for: Option<Duration>,
    /// Limits and the stop switch; `repair`, `quick` and `ignore` are set here as needed.
    pub how: How,
}

impl Options {
    /// Whether an empty replica may be filled while it is served.
    #[must_use]
    pub fn goes_on_live(&self) -> bool {
        // What it cannot hold is found out and put up with only by the one who looks at everything.
        let is_exact = self.metadata_loss == MetadataLoss::Fail;
        is_exact && self.fills_for.is_some() && self.log.is_some()
    }
}

/// Why a mount does not start.
#[derive(Clone, Debug)]
pub struct AttachError {
    /// The message, the id, the next command.
    pub refusal: Refusal,
    /// What a comparison found, for a listing.
    pub summary: Option<Box<Summary>>,
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.refusal.fmt(f)
    }
}

impl std::error::Error for AttachError {}

impl From<Refusal> for AttachError {
    fn from(refusal: Refusal) -> Self {
        Self {
            refusal,
            summary: None,
        }
    }
}

/// Attaches two roots. `replica` is the errno when its directory could not be opened.
///
/// # Errors
/// A [`Refusal`] for every reason not to serve; with `degraded` only those about the primary.
pub fn attach(
    primary: BorrowedFd<'_>,
    replica: Result<BorrowedFd<'_>, Errno>,
    typed: &Typed,
    options: &Options,
    progress: &mut dyn FnMut(Phase, &Progress),
) -> Result<Attached, AttachError> {
    let (attempt, decision) = look(primary, replica, typed, options)?;
    let done = match decision {
        Decision::Refuse(refusal) => Err((*refusal).into()),
        Decision::DegradedWithout(refusal) => attempt.alone(*refusal, None),
        Decision::Seed => attempt.rebuild(Phase::Seed, progress),
        Decision::AdoptCompareRepair => attempt.rebuild(Phase::Resync, progress),
        Decision::AdoptCompareOnly => attempt.believe(false, progress),
        Decision::AttachCompared => attempt.believe(true, progress),
        Decision::Attach => attempt.trust(),
        Decision::Heal => attempt.heal(),
    };
    done.map_err(|error| worded(error, typed))
}

/// Nobody who has nothing to mount is told to mount one copy.
fn worded(mut error: AttachError, typed: &Typed) -> AttachError {
    if typed.offline {
        let alone = Say { typed }.alone();
        error.refusal.next.retain(|next| *next != alone);
    }
    error
}

/// What [`attach`] would have to do to make the copies equal; nothing is changed.
///
/// # Errors
/// As [`attach`].
pub fn preview(
    primary: BorrowedFd<'_>,
    replica: BorrowedFd<'_>,
    typed: &Typed,
    options: &Options,
    progress: &mut dyn FnMut(Phase, &Progress),
) -> Result<Summary, AttachError> {
    let (attempt, decision) = look(primary, Ok(replica), typed, options)?;
    if let Decision::Refuse(refusal) | Decision::DegradedWithout(refusal) = decision {
        return Err(worded((*refusal).into(), typed));
    }
    let quick = attempt.is_quick();
    let untried = attempt.base()?.lacks.never_tried();
    attempt
        .reconcile(Phase::Verify, quick, untried, None, progress)
        .map_err(|failure| worded(attempt.copy_failed(&failure).into(), typed))
}

/// Takes the locks, reads the stamps and decides.
fn look<'a>(
    primary: BorrowedFd<'_>,
    replica: Result<BorrowedFd<'_>, Errno>,
    typed: &'a Typed,
    options: &'a Options,
) -> Result<(Attempt<'a>, Decision), AttachError> {
    let say = Say { typed };
    let primary_lock =
        Lock::take(primary, options.patience).map_err(|errno| in_use(say, Copy::Primary, errno))?;
    let mut taken = None;
    let replica_lock = replica.and_then(|fd| {
        Lock::take(fd, options.patience).inspect_err(|&errno| {
            if errno == Errno::WOULDBLOCK {
                taken = Some(in_use(say, Copy::Replica, errno));
            }
        })
    });
    if let Some(refusal) = taken.take_if(|_| !options.asked.degraded) {
        return Err(refusal.into());
    }
    let found_p = inspect(primary).map_err(|errno| {
        let why = format!(
            "the primary {} cannot be read: {}.",
            show_path(&typed.primary),
            Named(errno)
        );
        say.refusal(Id::CopyFailed, why)
    })?;
    let found_r = replica_lock.as_ref().map_err(|&errno| errno);
    let found_r = found_r.and_then(|lock| inspect(lock.root()));
    let (root_p, root_r) = roles(&found_p, found_r.as_ref().ok());
    let root_r = match (&root_r, &found_r) {
        (Some(root), _) => Ok(root),
        (None, Err(errno)) => Err(*errno),
        (None, Ok(_)) => Err(Errno::NODEV),
    };
    let decide = |log: &Log| decide::decide(&root_p, root_r, options.asked, typed, log);
    // Opening a log changes it: that is only done when the answer depends on nothing else.
    let (mut journal, known) = (None, named_log(&found_p));
    let decision = match (&options.log, known) {
        (Some(keeping), Some((id, known))) => match decide(&Log::Good) {
            decision @ (Decision::Attach | Decision::Heal | Decision::DegradedWithout(_)) => {
                match keeping.open(id, known) {
                    Ok(opened) => {
                        journal = Some(opened);
                        decision
                    }
                    Err(fault) => decide(&fault),
                }
            }
            decision => decision,
        },
        _ => decide(&Log::NotLooked),
    };
    let attempt = Attempt {
        say,
        options,
        primary: primary_lock,
        replica: replica_lock.ok().map(Arc::new),
        found_p,
        found_r: found_r.ok(),
        journal,
    };
    let decision = match (decision, taken) {
        (Decision::DegradedWithout(_), Some(taken)) => Decision::DegradedWithout(Box::new(taken)),
        (decision, _) => decision,
    };
    Ok((attempt, decision))
}

/// The log that the primary's stamp names.
fn named_log(primary: &Inspected) -> Option<(MirrorId, identity::LogId)> {
    match &primary.found {
        Found::Stamped(stamp) => stamp.covered.map(|covered| (stamp.id, covered.log)),
        _ => None,
    }
}

fn in_use(say: Say<'_>, copy: Copy, errno: Errno) -> Refusal {
    let path = match copy {
        Copy::Primary => &say.typed.primary,
        Copy::Replica => &say.typed.replica,
    };
    let path = show_path(path);
    if errno != Errno::WOULDBLOCK {
        let why = format!("the {copy} {path} cannot be locked: {}.", Named(errno));
        return say.refusal(Id::CopyFailed, why);
    }
    let why = format!("the {copy} {path} is in use by another mirrorfs.");
    let mut refusal = say.refusal(Id::InUse, why);
    refusal.next = vec![("To see which".to_owned(), "mirrorfs status".to_owned())];
    refusal
}

/// Both copies are equal and durable: nothing is in doubt.
fn forget_all(journal: &Journal) -> Result<(), Errno> {
    for (mark, _) in journal.dirty() {
        let _was_dirty = mark.take_dirty();
    }
    journal.end_checkpoint(journal.begin_checkpoint()).map(drop)
}

/// What one root shows.
#[derive(Debug)]
struct Inspected {
    identity: RootIdentity,
    found: Found,
    empty: bool,
}

fn inspect(root: BorrowedFd<'_>) -> Result<Inspected, Errno> {
    let found = match stamp::read(root) {
        Ok(None) => Found::Unstamped,
        Ok(Some(stamp)) => Found::Stamped(Box::new(stamp)),
        Err(ReadError::Corrupt(corrupt)) => Found::Corrupt(corrupt),
        Err(ReadError::Errno(errno)) => return Err(errno),
    };
    let own = walk::reopen(root)?;
    Ok(Inspected {
        identity: RootIdentity::of(root)?,
        found,
        empty: walk::is_empty(own.as_fd(), stamp::is_ours)?,
    })
}

/// What each root is: by its own stamp, else by the other root's.
fn roles(primary: &Inspected, replica: Option<&Inspected>) -> (Root, Option<Root>) {
    let of = |root: &Inspected, other: Option<&Inspected>| Root {
        found: root.found.clone(),
        is: role(&root.found, other.map(|other| &other.found), &root.identity),
        empty: root.empty,
    };
    let of_replica = replica.map(|replica| of(replica, Some(primary)));
    (of(primary, replica), of_replica)
}

fn role(own: &Found, other: Option<&Found>, identity: &RootIdentity) -> Match {
    match (own, other) {
        (Found::Stamped(own), _) => own.role_of(identity),
        (_, Some(Found::Stamped(other))) => {
            // The role written there is the other directory's.
            let mut unbiased = other.clone();
            unbiased.role = None;
            unbiased.role_of(identity)
        }
        _ => Match::Unknown,
    }
}

/// Everything gathered before the decision is carried out.
struct Attempt<'a> {
    say: Say<'a>,
    options: &'a Options,
    primary: Lock,
    replica: Option<Arc<Lock>>,
    found_p: Inspected,
    found_r: Option<Inspected>,
    /// The log that the primary's stamp names, or a new one.
    journal: Option<Journal>,
}

impl Attempt<'_> {
    /// The stamp to go on from: the primary's, else one that knows this primary, else a new one.
    fn base(&self) -> Result<Stamp, AttachError> {
        let now = clock::now().tv_sec;
        let replica = self.found_r.as_ref().map(|found| &found.found);
        let mut session = 0;
        let mut base = None;
        if let Some(Found::Stamped(stamp)) = replica {
            session = stamp.session;
            if stamp.primary == self.found_p.identity {
                base = Some((**stamp).clone());
            }
        }
        if let Found::Stamped(stamp) = &self.found_p.found {
            session = session.max(stamp.session);
            base = Some((**stamp).clone());
        }
        let mut stamp = match base {
            Some(stamp) => stamp,
            None => Stamp {
                id: MirrorId(
                    random::u128().map_err(|errno| self.stamp_failed(Copy::Primary, errno))?,
                ),
                history: vec![Epoch {
                    number: 1,
                    began: now,
                }],
                session: 0,
                life: Life::Open,
                verdict: Verdict::InSync,
                lacks: Lacks::default(),
                primary: self.found_p.identity,
                replicas: Vec::new(),
                covered: None,
                role: None,
                primary_path: Vec::new(),
                replica_path: Vec::new(),
                written: now,
            },
        };
        // Only a log that was opened, and found whole, is carried on.
        let log = self.journal.as_ref().map(Journal::log_id);
        stamp.covered = stamp
            .covered
            .zip(log)
            .map(|(covered, log)| Covered { log, ..covered });
        stamp.session = session + 1;
        stamp.life = Life::Open;
        stamp.role = None;
        stamp.primary = self.found_p.identity;
        stamp.primary_path = identity::clipped_path(&self.say.typed.primary);
        stamp.written = now;
        Ok(stamp)
    }

    /// Names the replica at hand as the mirror's, with `lacks` and what it is known to lack besides.
    fn take_in(&self, stamp: &mut Stamp, lacks: Lacks) -> Result<(), Refusal> {
        let mut known = Lacks::default();
        if let Some(replica) = &self.replica {
            let loss = self.options.metadata_loss;
            known = lack::known(self.say, replica.root(), loss, stamp.lacks)?;
        }
        stamp.lacks = lacks.union(known);
        stamp.replicas = self.found_r.iter().map(|found| found.identity).collect();
        stamp.replica_path = identity::clipped_path(&self.say.typed.replica);
        Ok(())
    }

    fn reconcile(
        &self,
        phase: Phase,
        quick: bool,
        ignore: Lacks,
        until: Option<Instant>,
        progress: &mut dyn FnMut(Phase, &Progress),
    ) -> Result<Summary, Failure> {
        let how = How {
            repair: phase != Phase::Verify,
            quick,
            ignore,
            until,
            ..self.options.how.clone()
        };
        let replica = self
            .replica
            .as_ref()
            .map_or(self.primary.root(), |lock| lock.root());
        resync::reconcile(self.primary.root(), replica, how, &mut |seen| {
            progress(phase, seen);
        })
    }

    /// Whether size and time are believed: if that was asked for, of copies that were left equal.
    fn is_quick(&self) -> bool {
        let replica = self.found_r.as_ref().map(|root| &root.found);
        let Options { asked, how, .. } = self.options;
        match (&self.found_p.found, replica) {
            (Found::Stamped(p), Some(Found::Stamped(r))) => {
                let are_one = p.id == r.id && !asked.init && !asked.discard;
                how.quick && are_one && decide::are_at_rest(p, r)
            }
            _ => false,
        }
    }

    /// Makes the replica equal, then says so on both roots.
    fn rebuild(
        mut self,
        phase: Phase,
        progress: &mut dyn FnMut(Phase, &Progress),
    ) -> Result<Attached, AttachError> {
        let mut stamp = self.base()?;
        if phase == Phase::Seed && !stamp.replicas.is_empty() {
            // Whatever the replica it had before holds, it is not this one's past.
            stamp.next_epoch(stamp.written);
        }
        if let Err(refusal) = self.take_in(&mut stamp, Lacks::default()) {
            return self.or_alone(true, refusal, None, None);
        }
        stamp.verdict = Verdict::Inconsistent;
        let until = self.until(phase);
        if until.is_some()
            && let Err(errno) = self.begin_log_of_all(&mut stamp)
        {
            let refusal = self.log_failed(errno);
            return self.or_alone(true, refusal, Some(stamp), None);
        }
        let place = match self.write_both(&stamp) {
            Ok(place) => place,
            Err((copy, errno)) => {
                let refusal = self.stamp_failed(copy, errno);
                return self.or_alone(copy == Copy::Replica, refusal, Some(stamp), None);
            }
        };
        let quick = self.is_quick();
        let summary = match self.reconcile(phase, quick, stamp.lacks, until, progress) {
            Ok(summary) => summary,
            Err(failure) if until.is_some() && failure.errno == Errno::TIME => {
                return self.fill_live(stamp, place);
            }
            Err(failure) => {
                let excusable = failure.copy == Copy::Replica;
                let refusal = self.copy_failed(&failure);
                return self.or_alone(excusable, refusal, Some(stamp), None);
            }
        };
        let does_without = self.options.metadata_loss.does_without();
        if summary.lacks.refused(does_without).is_some() {
            let refusal = lack::found(self.say, &summary);
            return self.or_alone(true, refusal, Some(stamp), Some(summary));
        }
        if let Err(failure) = self.sync_both() {
            let refusal = self.copy_failed(&failure);
            let excusable = failure.copy == Copy::Replica;
            return self.or_alone(excusable, refusal, Some(stamp), Some(summary));
        }
        if let Some(journal) = &self.journal
            && let Err(errno) = forget_all(journal)
        {
            let refusal = self.log_failed(errno);
            return self.or_alone(true, refusal, Some(stamp), Some(summary));
        }
        stamp.lacks = stamp.lacks.union(summary.lacks);
        self.in_sync(stamp, Some(summary))
    }

    /// When filling the replica goes on live; `None`: never.
    fn until(&self, phase: Phase) -> Option<Instant> {
        let live = phase == Phase::Seed && self.options.goes_on_live();
        let limit = self.options.fills_for.filter(|_| live);
        limit.map(|limit| Instant::now() + limit)
    }

    /// Begins a log that says that all of the replica is missing: whatever ends this attempt, the next
    /// one goes on.
    fn begin_log_of_all(&mut self, stamp: &mut Stamp) -> Result<(), Errno> {
        stamp.covered = None;
        self.begin_log(stamp)?;
        let journal = self.journal.as_ref().ok_or(Errno::NOENT)?;
        let missing = journal.mark_missing(whole_tree(self.primary.root())?);
        missing.map(drop)
    }

    /// Serves while the replica is filled.
    fn fill_live(mut self, mut stamp: Stamp, place: Place) -> Result<Attached, AttachError> {
        stamp.covered = stamp.covered.map(Covered::settled);
        if let Some(found) = &mut self.found_r {
            found.found = Found::Stamped(Box::new(stamp.clone()));
        }
        let degraded = self.options.asked.degraded;
        let attached = self.attached(stamp, place, Standing::Resyncing, None, None);
        // Everything is compared before it is called in-sync.
        attached.verified();
        attached.resync(degraded)
    }

    fn sync_both(&self) -> Result<(), Failure> {
        let sync = |copy, root| {
            rustix::fs::syncfs(root).map_err(|errno| attached::at_root(copy, "syncfs", errno))
        };
        if let Some(replica) = &self.replica {
            sync(Copy::Replica, replica.root())?;
        }
        sync(Copy::Primary, self.primary.root())
    }

    /// Believes that the copies are equal once a comparison finds no difference.
    fn believe(
        self,
        quick: bool,
        progress: &mut dyn FnMut(Phase, &Progress),
    ) -> Result<Attached, AttachError> {
        let mut stamp = self.base()?;
        let lacks = if quick { stamp.lacks } else { Lacks::default() };
        if let Err(refusal) = self.take_in(&mut stamp, lacks) {
            return self.or_alone(true, refusal, None, None);
        }
        let summary = match self.reconcile(Phase::Verify, quick, stamp.lacks, None, progress) {
            Ok(summary) => summary,
            Err(failure) => {
                let excusable = failure.copy == Copy::Replica;
                let refusal = self.copy_failed(&failure);
                return self.or_alone(excusable, refusal, None, None);
            }
        };
        if summary.differences_total > 0 {
            let refusal = self.differ(quick, &summary);
            return self.or_alone(true, refusal, None, Some(summary));
        }
        self.in_sync(stamp, Some(summary))
    }

    /// Believes the stamps and the log. What was changed behind the mirror's back is for the
    /// comparison that follows.
    fn trust(self) -> Result<Attached, AttachError> {
        if self
            .journal
            .as_ref()
            .is_some_and(|journal| journal.counts().alive > 0)
        {
            // An orderly end leaves none; healing what is marked is cheap, a wrong guess is not.
            return self.heal();
        }
        let mut stamp = self.base()?;
        let lacks = stamp.lacks;
        if let Err(refusal) = self.take_in(&mut stamp, lacks) {
            return self.or_alone(true, refusal, None, None);
        }
        self.in_sync(stamp, None)
    }

    /// Takes in a replica of which the log knows what it may lack; that is healed live.
    fn heal(self) -> Result<Attached, AttachError> {
        let mut stamp = self.base()?;
        let lacks = stamp.lacks;
        if let Err(refusal) = self.take_in(&mut stamp, lacks) {
            return self.or_alone(true, refusal, None, None);
        }
        let degraded = self.options.asked.degraded;
        self.attached(stamp, Place::Xattr, Standing::Resyncing, None, None)
            .resync(degraded)
    }

    fn in_sync(
        mut self,
        mut stamp: Stamp,
        summary: Option<Summary>,
    ) -> Result<Attached, AttachError> {
        stamp.verdict = Verdict::InSync;
        stamp.covered = stamp.covered.map(Covered::next);
        if let Err(errno) = self.begin_log(&mut stamp) {
            let refusal = self.log_failed(errno);
            return self.or_alone(true, refusal, Some(stamp), summary);
        }
        match self.write_both(&stamp) {
            Ok(place) => {
                stamp.covered = stamp.covered.map(Covered::settled);
                Ok(self.attached(stamp, place, Standing::InSync, None, summary))
            }
            Err((copy, errno)) => {
                let refusal = self.stamp_failed(copy, errno);
                self.or_alone(copy == Copy::Replica, refusal, Some(stamp), summary)
            }
        }
    }

    /// Begins a log for a stamp that names none: from now on it remembers what may differ.
    fn begin_log(&mut self, stamp: &mut Stamp) -> Result<(), Errno> {
        let Some(keeping) = self
            .options
            .log
            .as_ref()
            .filter(|_| stamp.covered.is_none())
        else {
            return Ok(());
        };
        let journal = keeping.create(stamp.id)?;
        stamp.covered = Some(Covered {
            log: journal.log_id(),
            intake: 1,
            intake_before: None,
        });
        self.journal = Some(journal);
        Ok(())
    }

    /// Stamps both roots, in a place that both can hold.
    fn write_both(&self, stamp: &Stamp) -> Result<Place, (Copy, Errno)> {
        let at = |copy| move |errno| (copy, errno);
        let write = |stamp, place| stamp::write(self.primary.root(), stamp, Role::Primary, place);
        let place = write(stamp, Place::Xattr).map_err(at(Copy::Primary))?;
        let Some(replica) = &self.replica else {
            return Ok(place);
        };
        let settled = Stamp {
            covered: stamp.covered.map(Covered::settled),
            ..stamp.clone()
        };
        let other = stamp::write(replica.root(), &settled, Role::Replica, place);
        let other = other.map_err(at(Copy::Replica))?;
        if other != place || settled != *stamp {
            write(&settled, other).map_err(at(Copy::Primary))?;
        }
        Ok(other)
    }

    /// Runs without the replica if that was allowed; refuses otherwise.
    fn or_alone(
        self,
        excusable: bool,
        refusal: Refusal,
        stamp: Option<Stamp>,
        summary: Option<Summary>,
    ) -> Result<Attached, AttachError> {
        if excusable && self.options.asked.degraded {
            return self.alone(refusal, stamp);
        }
        Err(AttachError {
            refusal,
            summary: summary.map(Box::new),
        })
    }

    /// Runs on the primary alone; the stamp says so before the first write does. The log goes on
    /// remembering what the replica lacks, if it ever covered it.
    fn alone(mut self, refusal: Refusal, stamp: Option<Stamp>) -> Result<Attached, AttachError> {
        // A stamp at hand means that the replica was being changed and may carry the same epoch.
        let tried = stamp.is_some();
        let mut stamp = match stamp {
            Some(stamp) => stamp,
            None => self.base()?,
        };
        let doubted = matches!(stamp.verdict, Verdict::Doubt { .. });
        if tried || !doubted {
            stamp.next_epoch(stamp.written);
        }
        if !doubted {
            stamp.verdict = Verdict::Doubt {
                reason: identity::clipped(refusal.why.trim_end_matches('.')),
                errno: 0,
            };
        }
        let place = stamp::write(self.primary.root(), &stamp, Role::Primary, Place::Xattr)
            .map_err(|errno| self.stamp_failed(Copy::Primary, errno))?;
        if self.journal.is_none()
            && let Some(keeping) = &self.options.log
        {
            // No stamp names it, so it is about nothing; but who serves finds one as ever.
            self.journal = keeping.create(stamp.id).ok();
        }
        // What does not answer to its name is not held: its disk may be the wrong one.
        self.replica = None;
        Ok(self.attached(stamp, place, Standing::Alone, Some(refusal), None))
    }

    fn attached(
        self,
        stamp: Stamp,
        place: Place,
        standing: Standing,
        degraded: Option<Refusal>,
        summary: Option<Summary>,
    ) -> Attached {
        let replica_history = match self.found_r.as_ref().map(|found| &found.found) {
            Some(Found::Stamped(replica)) if standing == Standing::Resyncing => {
                replica.history.clone()
            }
            _ if standing == Standing::InSync => stamp.history.clone(),
            _ => Vec::new(),
        };
        let is_filling = self.journal.as_ref().is_some_and(Journal::is_filling);
        Attached {
            id: stamp.id,
            session: stamp.session,
            degraded,
            typed: self.say.typed.clone(),
            is_seeding: standing == Standing::Resyncing && is_filling,
            unverified: AtomicBool::new(summary.is_none()),
            summary: summary.map(Box::new),
            answers_within: attached::ANSWERS_WITHIN,
            metadata_loss: self.options.metadata_loss,
            primary: self.primary,
            journal: Mutex::new(self.journal),
            state: Mutex::new(State {
                stamp,
                place,
                standing,
                replica: self.replica,
                replica_history,
                replica_halfway: false,
                is_closing: false,
                messenger: None,
            }),
        }
    }

    fn log_failed(&self, errno: Errno) -> Refusal {
        let dir = self.options.log.as_ref().map(|keeping| &keeping.state_dir);
        let dir = dir.map_or_else(String::new, |dir| format!(" in {}", dir.shown()));
        let why = format!(
            "the write-intent log cannot be kept{dir}: {}.",
            Named(errno)
        );
        let mut refusal = self.say.refusal(Id::LogFailed, why);
        refusal.next = vec![
            self.say.alone(),
            (
                "To keep it elsewhere".to_owned(),
                "--state-dir DIR".to_owned(),
            ),
        ];
        refusal
    }

    fn stamp_failed(&self, copy: Copy, errno: Errno) -> Refusal {
        let why = format!("the {copy} cannot be stamped: {}.", Named(errno));
        self.say.refusal(Id::StampFailed, why)
    }

    fn copy_failed(&self, failure: &Failure) -> Refusal {
        let mut refusal = self.say.refusal(Id::CopyFailed, format!("{failure}."));
        refusal.next = vec![("When that is put right".to_owned(), self.say.compared().1)];
        if failure.copy == Copy::Replica {
            refusal.next.insert(0, self.say.alone());
        }
        refusal
    }

    fn differ(&self, quick: bool, summary: &Summary) -> Refusal {
        let (total, entries) = (grouped(summary.differences_total), grouped(summary.entries));
        let why = format!("the copies differ: {total} differences in {entries} names.");
        let mut refusal = self.say.refusal(Id::Differences, why);
        refusal.more = summary
            .differences
            .iter()
            .take(3)
            .map(ToString::to_string)
            .collect();
        let (want, command) = self.say.compared();
        refusal.next = if quick {
            vec![self.say.alone(), (want, command)]
        } else {
            let want = "To make the replica equal to the primary".to_owned();
            vec![self.say.alone(), (want, format!("{command} --init"))]
        };
        refusal
    }
}
