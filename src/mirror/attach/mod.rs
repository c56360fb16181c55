// SPDX-License-Identifier: MIT
//! `attach`: from two root directories to a mirror that may serve, and back to two clean stamps.
//!
//! Takes the locks, reads the stamps, lets [`decide`] decide, seeds, compares or repairs, and leaves
//! both stamps open. The order on disk is what makes a crash at any point safe: "inconsistent" is
//! durable on both roots before the first byte of the replica changes, and "in-sync" is written
//! only after the replica's `syncfs`. Stamps go to the primary first, then to the replica.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::mirror::failure::{Copy, Failure, Named, show_path};
use crate::mirror::resync::progress::{Phase, Progress, grouped};
use crate::mirror::resync::{self, How, Lacks, Summary};
use crate::store::walk;
use crate::sys::{Errno, clock, random};
use decide::{Asked, Decision, Found, Root, Say, Typed};
use identity::{Epoch, Life, Match, MirrorId, ReadError, Role, RootIdentity, Stamp, Verdict};
use refusal::{Id, Refusal};
use stamp::{Lock, Place};

pub use attached::Attached;
use attached::{State, at_root};

mod attached;
pub mod decide;
pub mod identity;
pub mod refusal;
pub mod stamp;
#[cfg(test)]
mod tests;

/// What to do when the replica's file system cannot hold some metadata.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MetadataLoss {
    /// Do not mount: the default, because a silent loss is found too late.
    #[default]
    Fail,
    /// Mount, say what is missing, and remember the kinds in the stamp.
    Warn,
}

/// What was asked for, and the limits.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `degraded`, `--adopt`, `--init`
    pub asked: Asked,
    /// `--metadata-loss=`
    pub metadata_loss: MetadataLoss,
    /// How long to wait for a daemon that is ending and still holds a root.
    pub patience: Duration,
    /// Limits and the stop switch; `repair`, `quick` and `ignore` are set here as needed.
    pub how: How,
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
    let decision = decide::decide(&root_p, root_r, options.asked, typed);
    let attempt = Attempt {
        say,
        options,
        primary: primary_lock,
        replica: replica_lock.ok().map(Arc::new),
        found_p,
        found_r: found_r.ok(),
    };
    match decision {
        Decision::Refuse(refusal) => Err((*refusal).into()),
        Decision::DegradedWithout(refusal) => attempt.alone(taken.unwrap_or(*refusal), None),
        Decision::Seed => attempt.rebuild(Phase::Seed, progress),
        Decision::AdoptCompareRepair => attempt.rebuild(Phase::Resync, progress),
        Decision::AdoptCompareOnly => attempt.believe(false, progress),
        Decision::Attach => attempt.believe(true, progress),
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
    let role = |root: &Inspected, other: Option<&Inspected>| {
        let is = match (&root.found, other.map(|other| &other.found)) {
            (Found::Stamped(own), _) => own.role_of(&root.identity),
            (_, Some(Found::Stamped(other))) => {
                // The role written there is the other directory's.
                let mut unbiased = other.clone();
                unbiased.role = None;
                unbiased.role_of(&root.identity)
            }
            _ => Match::Unknown,
        };
        Root {
            found: root.found.clone(),
            is,
            empty: root.empty,
        }
    };
    let of_primary = role(primary, replica);
    (
        of_primary,
        replica.map(|replica| role(replica, Some(primary))),
    )
}

/// Everything gathered before the decision is carried out.
struct Attempt<'a> {
    say: Say<'a>,
    options: &'a Options,
    primary: Lock,
    replica: Option<Arc<Lock>>,
    found_p: Inspected,
    found_r: Option<Inspected>,
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
                role: None,
                primary_path: Vec::new(),
                replica_path: Vec::new(),
                written: now,
            },
        };
        stamp.session = session + 1;
        stamp.life = Life::Open;
        stamp.role = None;
        stamp.primary = self.found_p.identity;
        stamp.primary_path = identity::clipped_path(&self.say.typed.primary);
        stamp.written = now;
        Ok(stamp)
    }

    /// Names the replica at hand as the mirror's.
    fn take_in(&self, stamp: &mut Stamp) {
        stamp.replicas = self.found_r.iter().map(|found| found.identity).collect();
        stamp.replica_path = identity::clipped_path(&self.say.typed.replica);
    }

    fn reconcile(
        &self,
        phase: Phase,
        quick: bool,
        ignore: Lacks,
        progress: &mut dyn FnMut(Phase, &Progress),
    ) -> Result<Summary, Failure> {
        let how = How {
            repair: phase != Phase::Verify,
            quick,
            ignore,
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

    /// Makes the replica equal, then says so on both roots.
    fn rebuild(
        self,
        phase: Phase,
        progress: &mut dyn FnMut(Phase, &Progress),
    ) -> Result<Attached, AttachError> {
        let mut stamp = self.base()?;
        if phase == Phase::Seed && !stamp.replicas.is_empty() {
            // Whatever the replica it had before holds, it is not this one's past.
            stamp.next_epoch(stamp.written);
        }
        self.take_in(&mut stamp);
        stamp.verdict = Verdict::Inconsistent;
        stamp.lacks = Lacks::default();
        if let Err((copy, errno)) = self.write_both(&stamp) {
            let refusal = self.stamp_failed(copy, errno);
            return self.or_alone(copy == Copy::Replica, refusal, Some(stamp), None);
        }
        let summary = match self.reconcile(phase, false, Lacks::default(), progress) {
            Ok(summary) => summary,
            Err(failure) => {
                let excusable = failure.copy == Copy::Replica;
                let refusal = self.copy_failed(&failure);
                return self.or_alone(excusable, refusal, Some(stamp), None);
            }
        };
        if !summary.lacks.is_empty() && self.options.metadata_loss == MetadataLoss::Fail {
            let refusal = self.metadata_lost(&summary);
            return self.or_alone(true, refusal, Some(stamp), Some(summary));
        }
        if let Some(replica) = &self.replica
            && let Err(errno) = rustix::fs::syncfs(replica.root())
        {
            let failure = at_root(Copy::Replica, "syncfs", errno);
            let refusal = self.copy_failed(&failure);
            return self.or_alone(true, refusal, Some(stamp), Some(summary));
        }
        stamp.lacks = summary.lacks;
        self.in_sync(stamp, summary)
    }

    /// Believes that the copies are equal once a comparison finds no difference.
    fn believe(
        self,
        quick: bool,
        progress: &mut dyn FnMut(Phase, &Progress),
    ) -> Result<Attached, AttachError> {
        let mut stamp = self.base()?;
        let lacks = if quick { stamp.lacks } else { Lacks::default() };
        let summary = match self.reconcile(Phase::Verify, quick, lacks, progress) {
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
        self.take_in(&mut stamp);
        stamp.lacks = lacks;
        self.in_sync(stamp, summary)
    }

    fn in_sync(self, mut stamp: Stamp, summary: Summary) -> Result<Attached, AttachError> {
        stamp.verdict = Verdict::InSync;
        match self.write_both(&stamp) {
            Ok(place) => Ok(self.attached(stamp, place, true, None, Some(summary))),
            Err((copy, errno)) => {
                let refusal = self.stamp_failed(copy, errno);
                self.or_alone(copy == Copy::Replica, refusal, Some(stamp), Some(summary))
            }
        }
    }

    /// Stamps both roots, in a place that both can hold.
    fn write_both(&self, stamp: &Stamp) -> Result<Place, (Copy, Errno)> {
        let at = |copy| move |errno| (copy, errno);
        let write = |place| stamp::write(self.primary.root(), stamp, Role::Primary, place);
        let place = write(Place::Xattr).map_err(at(Copy::Primary))?;
        let Some(replica) = &self.replica else {
            return Ok(place);
        };
        let other = stamp::write(replica.root(), stamp, Role::Replica, place);
        let other = other.map_err(at(Copy::Replica))?;
        if other != place {
            write(other).map_err(at(Copy::Primary))?;
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

    /// Runs on the primary alone; the stamp says so before the first write does.
    fn alone(self, refusal: Refusal, stamp: Option<Stamp>) -> Result<Attached, AttachError> {
        // A stamp at hand means that the replica was being changed and may carry the same epoch.
        let tried = stamp.is_some();
        let mut stamp = match stamp {
            Some(stamp) => stamp,
            None => self.base()?,
        };
        if tried || stamp.verdict == Verdict::InSync {
            stamp.next_epoch(stamp.written);
        }
        if stamp.verdict == Verdict::InSync {
            stamp.verdict = Verdict::Doubt {
                reason: identity::clipped(refusal.why.trim_end_matches('.')),
                errno: 0,
            };
        }
        let place = stamp::write(self.primary.root(), &stamp, Role::Primary, Place::Xattr)
            .map_err(|errno| self.stamp_failed(Copy::Primary, errno))?;
        Ok(self.attached(stamp, place, false, Some(refusal), None))
    }

    fn attached(
        self,
        stamp: Stamp,
        place: Place,
        in_sync: bool,
        degraded: Option<Refusal>,
        summary: Option<Summary>,
    ) -> Attached {
        Attached {
            id: stamp.id,
            session: stamp.session,
            degraded,
            summary: summary.map(Box::new),
            answers_within: attached::ANSWERS_WITHIN,
            primary: self.primary,
            replica: self.replica,
            state: Mutex::new(State {
                stamp,
                place,
                in_sync,
                messenger: None,
            }),
        }
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

    fn metadata_lost(&self, summary: &Summary) -> Refusal {
        let why = format!("the replica cannot hold everything: {}.", summary.lacks);
        let mut refusal = self.say.refusal(Id::MetadataLoss, why);
        refusal.more = summary
            .losses
            .iter()
            .take(3)
            .map(|loss| format!("{}: {}", show_path(&loss.path), loss.detail))
            .collect();
        let (_, command) = self.say.compared();
        let want = "To do without".to_owned();
        refusal.next = vec![
            self.say.alone(),
            (want, format!("{command} --metadata-loss=warn")),
        ];
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
            .map(|difference| format!("{}: {}", show_path(&difference.path), difference.detail))
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
