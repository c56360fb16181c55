// SPDX-License-Identifier: MIT
//! `mirrorfs verify MOUNTPOINT`: the copies compared while they are in use, and repaired if asked.
//!
//! First a walk through both trees as they are: it holds nobody up, and takes some changes under way
//! for differences. Each of these is then looked at again, held in place (`mirror/heal/again.rs`);
//! what is left is reported. A repair marks that in the write-intent log, has it healed as after an
//! outage, from the primary to the replica, and looks at it once more.
//!
//! One difference can be missed: that of an object which is moved, during the walk, from a directory
//! that has not been looked at into one that has been. The next comparison finds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::control::Verify;
use super::refusal::{Kind, Refusal};
use crate::mirror::Mirror;
use crate::mirror::failure::{Failure, Named};
use crate::mirror::heal::Ground;
use crate::mirror::heal::again::{Again, Broken};
use crate::mirror::resync::{Difference, How, Lacks, Progress, Summary, reconcile};
use crate::mirror::state::ReplicaState;
use crate::sys::Errno;

/// Suspicions that are kept to be looked at again.
const KEPT_MAX: usize = 100_000;
/// Between two looks whether the replica is still followed.
const CHECK: Duration = Duration::from_millis(100);
/// Between two looks whether a repair is over.
const TICK: Duration = Duration::from_millis(20);

/// One comparison of a mirror in use.
pub(super) struct Comparison<'a> {
    pub(super) mirror: &'a Arc<Mirror>,
    /// What this mirror does without.
    pub(super) ignore: Lacks,
    /// As it is typed in a shell.
    pub(super) mountpoint: &'a str,
    pub(super) bytes_per_second: Option<u64>,
    pub(super) how: Verify,
    pub(super) stop: &'a Arc<AtomicBool>,
}

impl Comparison<'_> {
    /// What differs, and what of it a repair has left.
    pub(super) fn run(
        &self,
        progress: &mut dyn FnMut(&Progress),
    ) -> Result<(Summary, Vec<Difference>), Refusal> {
        let mut summary = self.looked(|ground| {
            let mut summary = self.walk(ground, progress)?;
            let seen = std::mem::take(&mut summary.differences);
            let more = summary.differences_total - seen.len() as u64;
            summary.differences = self.again(ground).look(&seen)?;
            let found = summary.differences.len() as u64;
            if self.how.repair {
                self.again(ground).mark(&summary.differences)?;
            }
            // More than can be looked at again are differences only if some of the others are.
            summary.differences_total = found + more;
            Ok(summary)
        })?;
        if summary.differences.is_empty() {
            if summary.differences_total > 0 {
                return Err(Refusal::system(
                    "too much changed while it was compared to look at all of it again.",
                )
                .next("Try again when less is going on."));
            }
            return Ok((summary, Vec::new()));
        }
        if !self.how.repair {
            return Ok((summary, Vec::new()));
        }
        // What was not listed is not marked either.
        let listed = summary.differences.len() as u64;
        self.heal(summary.differences_total > listed)?;
        let left = self.looked(|ground| self.again(ground).look(&summary.differences))?;
        summary.repaired = listed - (left.len() as u64).min(listed);
        Ok((summary, left))
    }

    /// The answer to whoever asked: with something left a repair is none.
    pub(super) fn answer(&self, summary: Summary, left: &[Difference]) -> Result<Summary, Refusal> {
        let Some(first) = left.first() else {
            return Ok(summary);
        };
        let why = format!(
            "the replica still differs in {} of {} places, such as {first}.",
            left.len(),
            summary.differences_total
        );
        let next = format!(
            "To compare and repair everything: mirrorfs sync --full {}",
            self.mountpoint
        );
        Err(Refusal::refused(why).next(next).id("MF-0022"))
    }

    fn again<'g>(&'g self, ground: &'g dyn Ground) -> Again<'g> {
        Again::new(ground, self.how.quick, self.ignore, self.stop)
    }

    /// The walk through both trees.
    fn walk(
        &self,
        ground: &dyn Ground,
        progress: &mut dyn FnMut(&Progress),
    ) -> Result<Summary, Broken> {
        let stop = Arc::new(AtomicBool::new(false));
        let how = How {
            quick: self.how.quick,
            kept_max: KEPT_MAX,
            // What is mounted below is no part of the mirror.
            one_file_system: true,
            ignore: self.ignore,
            live: true,
            stop: Some(stop.clone()),
            bytes_per_second: self.bytes_per_second,
            ..How::default()
        };
        let mut checked = Instant::now();
        let roots = (ground.primary_root(), ground.replica_root());
        let walked = reconcile(roots.0, roots.1, how, &mut |seen| {
            progress(seen);
            let is_due = checked.elapsed() >= CHECK;
            if is_due {
                checked = Instant::now();
            }
            // A replica that failed is to be let go soon.
            if self.is_stopped() || (is_due && !ground.is_whole()) {
                stop.store(true, Ordering::Release);
            }
        });
        walked.map_err(|failure| {
            if self.is_stopped() {
                Broken::Asked
            } else if ground.is_whole() {
                Broken::Failed(failure)
            } else {
                Broken::Away(None)
            }
        })
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Has what is marked healed, or everything, and waits until it is.
    fn heal(&self, all: bool) -> Result<(), Refusal> {
        let number = self
            .mirror
            .sync_soon(all)
            .map_err(|errno| self.refusal(Broken::Log(errno)))?;
        loop {
            let syncs = self.mirror.syncs();
            if syncs.done >= number {
                return Ok(());
            }
            if syncs.over >= number {
                let why = syncs.why.unwrap_or_else(|| "the replica failed".to_owned());
                let why = format!("the repair was given up: {why}.");
                return Err(Refusal::refused(why).next(self.see()).id("MF-0025"));
            }
            if self.is_stopped() {
                return Err(Refusal::new(
                    Kind::Interrupted,
                    "it was asked to stop; what was found to differ is marked and will be repaired.",
                ));
            }
            std::thread::park_timeout(TICK);
        }
    }

    /// Looks at the copies, or says why that cannot be.
    fn looked<T>(&self, look: impl FnOnce(&dyn Ground) -> Result<T, Broken>) -> Result<T, Refusal> {
        let looked = self.mirror.on_ground(look);
        looked
            .unwrap_or(Err(Broken::Away(None)))
            .map_err(|broken| self.refusal(broken))
    }

    fn see(&self) -> String {
        format!("See how it is: mirrorfs status {}", self.mountpoint)
    }

    fn refusal(&self, broken: Broken) -> Refusal {
        match broken {
            Broken::Asked => Refusal::new(Kind::Interrupted, "it was asked to stop."),
            Broken::Log(errno) => Refusal::system(format!(
                "the write-intent log takes no mark: {}.",
                Named(errno)
            ))
            .next(self.see()),
            Broken::Failed(failure) => self.failed(&failure),
            Broken::Away(fault) => self.away(fault.map(|fault| fault.to_string())),
        }
    }

    fn failed(&self, failure: &Failure) -> Refusal {
        let no = Refusal::system(format!("{failure}.")).id("MF-0025");
        if failure.errno == Errno::STALE {
            return no.next("Try again when less is going on.");
        }
        no.next(self.see())
    }

    /// There is nothing to compare with now.
    fn away(&self, why: Option<String>) -> Refusal {
        let at = self.mountpoint;
        let (is, next) = match self.mirror.replica_state() {
            ReplicaState::Paused => (
                "the replica is set aside.",
                format!("To take it in again: mirrorfs resume {at}"),
            ),
            ReplicaState::Resyncing | ReplicaState::Seeding => (
                "the replica is being made equal.",
                format!("To wait for that: mirrorfs sync {at}"),
            ),
            ReplicaState::InSync | ReplicaState::Unverified => (
                "the replica was not followed for a moment.",
                "Try again.".to_owned(),
            ),
            _ => (
                "the replica does not get the changes now: it is known to differ.",
                format!("To bring it up to date: mirrorfs sync {at}"),
            ),
        };
        let why = why.map_or_else(String::new, |why| format!(" ({why})"));
        Refusal::refused(format!("{is}{why}")).next(next)
    }
}
