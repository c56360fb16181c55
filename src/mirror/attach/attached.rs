// SPDX-License-Identifier: MIT
//! `Attached`: the right to serve two roots, and the stamps that say how it ended.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use crate::mirror::attach::identity::{self, Life, MirrorId, Role, Stamp, Verdict};
use crate::mirror::attach::refusal::Refusal;
use crate::mirror::attach::stamp::{self, Lock, Place};
use crate::mirror::failure::{Copy, Failure, Named};
use crate::mirror::resync::{Lacks, Summary};
use crate::sys::{Errno, clock};

/// How long the replica may take to take its stamp, where nothing else was said.
pub(super) const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// How long it may take to write down what is in memory: a slow disk and a large memory take long.
const SYNCS_WITHIN: Duration = Duration::from_secs(300);

/// Two roots, locked, with open stamps: the right to serve. Dropping it leaves the stamps open.
#[derive(Debug)]
pub struct Attached {
    /// Which mirror.
    pub id: MirrorId,
    /// Which of its mounts this is.
    pub session: u64,
    /// Why it runs on the primary alone, if it does from the start.
    pub degraded: Option<Refusal>,
    /// What seeding, comparing or repairing found and did.
    pub summary: Option<Box<Summary>>,
    /// How long the replica may take to answer (`replica-timeout`).
    pub answers_within: Duration,
    pub(super) primary: Lock,
    pub(super) replica: Option<Arc<Lock>>,
    /// Held while a stamp is written: who acknowledges a write of the new epoch must wait for it.
    pub(super) state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) stamp: Stamp,
    pub(super) place: Place,
    pub(super) in_sync: bool,
    /// Tries the replica's stamp; it may hang as long as the replica does.
    pub(super) messenger: Option<JoinHandle<()>>,
}

impl Attached {
    /// The present epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.state.lock().stamp.epoch()
    }

    /// Whether both copies are good.
    #[must_use]
    pub fn is_in_sync(&self) -> bool {
        self.state.lock().in_sync
    }

    /// What this mirror does without.
    #[must_use]
    pub fn lacks(&self) -> Lacks {
        self.state.lock().stamp.lacks
    }

    /// Records durably that the primary goes on alone; until this returns, no write may be
    /// acknowledged that the replica lacks. The second time it does nothing.
    ///
    /// The replica is told too, by a thread of its own: it may be the one that hangs.
    ///
    /// # Errors
    /// The primary's stamp could not be written: nothing on disk may say yet that the replica is
    /// out of date.
    pub fn mark_degraded(&self, errno: Option<Errno>, reason: &str) -> Result<(), Failure> {
        let mut state = self.state.lock();
        if !state.in_sync {
            return Ok(());
        }
        let mut stamp = state.stamp.clone();
        stamp.written = clock::now().tv_sec;
        stamp.verdict = Verdict::Doubt {
            reason: identity::clipped(reason),
            errno: errno.map_or(0, Errno::raw_os_error),
        };
        // The replica's stamp stays in the old epoch: its history remains a prefix, "stale".
        let for_replica = stamp.clone();
        stamp.next_epoch(stamp.written);
        if let Some(replica) = self.replica.clone() {
            let place = state.place;
            let tell = move || {
                // If it fails, the primary's stamp alone has to say it.
                let _refused = stamp::write(replica.root(), &for_replica, Role::Replica, place);
            };
            let thread = std::thread::Builder::new().name("stamp".to_owned());
            state.messenger = thread.spawn(tell).ok();
        }
        stamp::write(self.primary.root(), &stamp, Role::Primary, state.place)
            .map_err(|errno| at_root(Copy::Primary, "setxattr", errno))?;
        state.stamp = stamp;
        state.in_sync = false;
        Ok(())
    }

    /// Ends the session in order: everything durable first, then `clean`, primary before replica.
    ///
    /// # Errors
    /// The copy and call that failed. Stamps that could not be written stay open, so that the next
    /// mount compares. A replica that cannot be made durable is recorded as failed first.
    pub fn close_clean(&self) -> Result<(), Failure> {
        let failed = |copy, call| move |errno| at_root(copy, call, errno);
        let replica = self.replica.as_ref().filter(|_| self.is_in_sync());
        let synced = replica.map_or(Ok(()), |replica| {
            within(SYNCS_WITHIN, replica, |root| rustix::fs::syncfs(root))
                .map_err(failed(Copy::Replica, "syncfs"))
        });
        if let Err(failure) = &synced {
            self.mark_degraded(Some(failure.errno), &Named(failure.errno).to_string())?;
        }
        rustix::fs::syncfs(self.primary.root()).map_err(failed(Copy::Primary, "syncfs"))?;
        let mut state = self.state.lock();
        state.stamp.life = Life::Clean;
        state.stamp.written = clock::now().tv_sec;
        stamp::write(
            self.primary.root(),
            &state.stamp,
            Role::Primary,
            state.place,
        )
        .map_err(failed(Copy::Primary, "setxattr"))?;
        synced?;
        let Some(replica) = self.replica.as_ref().filter(|_| state.in_sync) else {
            return Ok(());
        };
        let (last, place) = (state.stamp.clone(), state.place);
        drop(state);
        let told = within(self.answers_within, replica, move |root| {
            stamp::write(root, &last, Role::Replica, place).map(drop)
        });
        told.map_err(failed(Copy::Replica, "setxattr"))
            .inspect_err(|failure| {
                // It may take the stamp yet, or never: what it says is the past then.
                let doubt = self.mark_degraded(Some(failure.errno), "its stamp was not written");
                _ = doubt.is_ok();
            })
    }
}

/// A call of the replica, in a thread of its own: it may never return.
fn within(
    limit: Duration,
    replica: &Arc<Lock>,
    call: impl FnOnce(BorrowedFd<'_>) -> Result<(), Errno> + Send + 'static,
) -> Result<(), Errno> {
    let (tell, told) = crossbeam_channel::bounded(1);
    let replica = replica.clone();
    // Nobody listens any more when it took too long.
    let run = move || _ = tell.send(call(replica.root())).is_ok();
    let thread = std::thread::Builder::new().name("last".to_owned());
    // A thread that cannot be started has told nothing.
    _ = thread.spawn(run).is_ok();
    told.recv_timeout(limit).unwrap_or(Err(Errno::TIMEDOUT))
}

/// A failure of a call on a root itself.
pub(super) fn at_root(copy: Copy, call: &'static str, errno: Errno) -> Failure {
    Failure {
        copy,
        path: Vec::new(),
        call,
        errno,
    }
}
