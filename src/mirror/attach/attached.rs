// SPDX-License-Identifier: MIT
//! `Attached`: the right to serve two roots, and the stamps that say how it ended.
//!
//! A replica comes and goes while the mirror serves: `mark_degraded`, then `reattach`,
//! `begin_resync`, `healed`, as often as it takes. What the primary's stamp says is written under
//! the lock; a call on the replica may hang as long as the replica does, and is never made under it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use crate::journal::Journal;
use crate::mirror::attach::decide::{self, Asked, Decision, Found, Log, Root, Say, Typed};
use crate::mirror::attach::identity::{
    self, Covered, Epoch, Life, Match, MirrorId, Role, Stamp, Verdict,
};
use crate::mirror::attach::refusal::{Id, Refusal};
use crate::mirror::attach::stamp::{self, Lock, Place};
use crate::mirror::attach::{AttachError, MetadataLoss, in_use, inspect, lack, role};
use crate::mirror::failure::{Copy, Failure, Named, show_path};
use crate::mirror::resync::{self, How, Lacks, Progress, Summary};
use crate::sys::{Errno, Result as SysResult, clock};

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
    /// The replica is being filled for the first time.
    pub is_seeding: bool,
    /// What seeding, comparing or repairing found and did.
    pub summary: Option<Box<Summary>>,
    /// How long the replica may take to answer (`replica-timeout`).
    pub answers_within: Duration,
    pub(super) metadata_loss: MetadataLoss,
    pub(super) typed: Typed,
    pub(super) primary: Lock,
    pub(super) journal: Mutex<Option<Journal>>,
    /// Nothing was compared since the primary lay bare.
    pub(super) unverified: AtomicBool,
    /// Held while the primary's stamp is written: who acknowledges a write of the new epoch must
    /// wait for it. Never held across a call on the replica.
    pub(super) state: Mutex<State>,
}

/// How the replica stands to the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Equal, but for what is under way.
    InSync,
    /// Being made equal.
    Resyncing,
    /// The primary goes on alone.
    Alone,
}

#[derive(Debug)]
pub(super) struct State {
    /// The primary's, as it was last written.
    pub(super) stamp: Stamp,
    pub(super) place: Place,
    pub(super) standing: Standing,
    /// The replica, while it is held.
    pub(super) replica: Option<Arc<Lock>>,
    /// The epochs in the replica's stamp.
    pub(super) replica_history: Vec<Epoch>,
    /// A resync of the replica has begun and not ended: its stamp says "inconsistent".
    pub(super) replica_halfway: bool,
    /// The mount is ending: what comes back late from the replica changes nothing any more.
    pub(super) is_closing: bool,
    /// Tries the replica's stamp; it may hang as long as the replica does.
    pub(super) messenger: Option<JoinHandle<()>>,
}

impl State {
    /// What `stamp`, the primary's, is on the replica: in the epochs it has seen, so that its history
    /// remains a prefix, "stale".
    fn for_replica(&self, stamp: &Stamp) -> Stamp {
        let verdict = if self.replica_halfway {
            // No doubt is as much.
            Verdict::Inconsistent
        } else {
            stamp.verdict.clone()
        };
        Stamp {
            history: self.replica_history.clone(),
            covered: stamp.covered.map(Covered::settled),
            verdict,
            ..stamp.clone()
        }
    }

    /// Whether the one who was last sent to the replica is back.
    fn is_answered(&mut self) -> bool {
        let answered = self.messenger.as_ref().is_none_or(JoinHandle::is_finished);
        if answered {
            self.messenger = None;
        }
        answered
    }
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
        self.state.lock().standing == Standing::InSync
    }

    /// Whether the replica is being made equal: from [`Self::begin_resync`] to [`Self::healed`] or
    /// [`Self::mark_degraded`]. A mount may begin so.
    #[must_use]
    pub fn is_resyncing(&self) -> bool {
        self.state.lock().standing == Standing::Resyncing
    }

    /// Whether the primary lay bare since the copies were last compared.
    #[must_use]
    pub fn is_unverified(&self) -> bool {
        self.unverified.load(Ordering::Acquire)
    }

    /// A comparison found no difference that lasts.
    pub fn verified(&self) {
        self.unverified.store(false, Ordering::Release);
    }

    /// Whether the primary's stamp can be read and is this mirror's.
    #[must_use]
    pub fn is_primary_stamped(&self) -> bool {
        let stamp = stamp::read(self.primary.root());
        stamp.is_ok_and(|stamp| stamp.is_some_and(|stamp| stamp.id == self.id))
    }

    /// What this mirror does without.
    #[must_use]
    pub fn lacks(&self) -> Lacks {
        self.state.lock().stamp.lacks
    }

    /// Whether the log remembers all that the replica may lack. If not, only a comparison brings it
    /// back: the log of this mount is about nothing then.
    #[must_use]
    pub fn is_covered(&self) -> bool {
        self.state.lock().stamp.covered.is_some()
    }

    /// The write-intent log of this mount, once. `None`: none was asked for or none could be kept
    /// (then the mirror is degraded and not covered), or it was taken.
    #[must_use]
    pub fn take_journal(&self) -> Option<Journal> {
        self.journal.lock().take()
    }

    /// Compares names and metadata of both copies while they are in use, and changes nothing. What
    /// changes meanwhile may be listed as a difference: look again before believing it.
    ///
    /// # Errors
    /// A failure that is not the fault of a change: an I/O error, or `EINTR` when told to stop.
    pub fn quick_check(
        &self,
        how: How,
        progress: &mut dyn FnMut(&Progress),
    ) -> Result<Summary, Failure> {
        let (replica, lacks) = {
            let state = self.state.lock();
            (state.replica.clone(), state.stamp.lacks)
        };
        let replica = replica.ok_or_else(|| at_root(Copy::Replica, "openat2", Errno::NODEV))?;
        let how = How {
            repair: false,
            quick: true,
            live: true,
            ignore: lacks,
            ..how
        };
        resync::reconcile(self.primary.root(), replica.root(), how, progress)
    }

    /// Records durably that the primary goes on alone; until this returns, no write may be
    /// acknowledged that the replica lacks. While it is alone already it does nothing.
    ///
    /// One outage is one epoch: a resync that fails is the same outage still.
    /// The replica is told too, by a thread of its own: it may be the one that hangs.
    ///
    /// # Errors
    /// The primary's stamp could not be written: nothing on disk may say yet that the replica is
    /// out of date.
    pub fn mark_degraded(&self, errno: Option<Errno>, reason: &str) -> Result<(), Failure> {
        let mut state = self.state.lock();
        if state.standing == Standing::Alone {
            return Ok(());
        }
        let mut stamp = state.stamp.clone();
        doubt(&state, &mut stamp, errno, reason);
        if state.standing == Standing::InSync {
            Self::tell(&mut state, &stamp);
        }
        self.write_primary(&mut state, stamp)?;
        state.standing = Standing::Alone;
        Ok(())
    }

    /// What of the replica may differ is not known any more: the log failed (rule 7). Both stamps
    /// are to say that the whole tree is in doubt; the primary goes on alone.
    ///
    /// # Errors
    /// Neither stamp could be written: nothing may be acknowledged any more.
    pub fn doubt_all(&self, errno: Option<Errno>, reason: &str) -> Result<(), Failure> {
        let mut state = self.state.lock();
        let mut stamp = state.stamp.clone();
        stamp.covered = None;
        doubt(&state, &mut stamp, errno, reason);
        state.standing = Standing::Alone;
        let done = self.write_primary(&mut state, stamp.clone());
        // Even where the disk did not take it: whatever is written next must say it too.
        state.stamp = stamp.clone();
        let Err(failed) = done else {
            Self::tell(&mut state, &stamp);
            return Ok(());
        };
        let (replica, place) = (state.replica.clone(), state.place);
        let word = state.for_replica(&stamp);
        drop(state);
        // The last one who can know: here we do wait for the replica.
        let replica = replica.ok_or_else(|| failed.clone())?;
        stamp::write(replica.root(), &word, Role::Replica, place)
            .map(drop)
            .map_err(|_| failed)
    }

    /// Sends someone to the replica with what `stamp` says, in the epochs the replica has seen.
    fn tell(state: &mut State, stamp: &Stamp) {
        let Some(replica) = state.replica.clone() else {
            return;
        };
        let stamp = state.for_replica(stamp);
        let (place, before) = (state.place, state.messenger.take());
        let tell = move || {
            // One after the other, or the older word would be the last.
            if let Some(before) = before {
                let _panicked = before.join();
            }
            // If it fails, the primary's stamp alone has to say it.
            let _refused = stamp::write(replica.root(), &stamp, Role::Replica, place);
        };
        let thread = std::thread::Builder::new().name("stamp".to_owned());
        state.messenger = thread.spawn(tell).ok();
    }

    fn write_primary(&self, state: &mut State, stamp: Stamp) -> Result<(), Failure> {
        state.place = stamp::write(self.primary.root(), &stamp, Role::Primary, state.place)
            .map_err(|errno| at_root(Copy::Primary, "setxattr", errno))?;
        state.stamp = stamp;
        Ok(())
    }

    /// Lets a failed replica go, so that its disk can be unmounted: our descriptor and the lock.
    /// A thread that still hangs in it keeps the lock until it is back (rule 10).
    pub fn leave_replica(&self) {
        let left = {
            let mut state = self.state.lock();
            if state.standing != Standing::Alone {
                return;
            }
            state.replica.take()
        };
        // Closing may take as long as anything else there.
        drop(left);
    }

    /// Whether nothing of the replica is held, and nobody is on the way to it.
    #[must_use]
    pub fn has_left(&self) -> bool {
        let mut state = self.state.lock();
        state.replica.is_none() && state.is_answered()
    }

    /// Looks whether the replica is back, and takes its lock if it is. Nothing is written on a
    /// directory that is not this mirror's own, covered replica. Returns its root, for the tree.
    ///
    /// `open` opens the directory anew: what was mounted there may have gone. It may be full if
    /// `makes_room`.
    ///
    /// # Errors
    /// Why it is not, with the id of the manual; try again later.
    pub fn reattach(
        &self,
        open: &dyn Fn() -> SysResult<OwnedFd>,
        makes_room: bool,
    ) -> Result<OwnedFd, Box<Refusal>> {
        let say = Say { typed: &self.typed };
        let path = show_path(&self.typed.replica);
        let (stamp, left) = {
            let mut state = self.state.lock();
            if state.standing != Standing::Alone {
                return Err(say.live(say.refusal(Id::InUse, format!("{path} is in use."))));
            }
            if !state.is_answered() {
                let why = format!("an earlier call on the replica {path} has not come back.");
                return Err(say.live(say.refusal(Id::ReplicaMissing, why)));
            }
            (state.stamp.clone(), state.replica.take())
        };
        drop(left);
        let record = stamp.lacks;
        let missing = |errno| say.live(say.missing(errno));
        let root = open().map_err(missing)?;
        let lock = Lock::take(root.as_fd(), std::time::Duration::ZERO)
            .map_err(|errno| say.live(in_use(say, Copy::Replica, errno)))?;
        let found = inspect(lock.root()).map_err(missing)?;
        let primary = Root {
            found: Found::Stamped(Box::new(stamp)),
            is: Match::Primary,
            // We serve it: what it holds is what it is to hold.
            empty: false,
        };
        let replica = Root {
            is: role(&found.found, Some(&primary.found), &found.identity),
            found: found.found,
            empty: found.empty,
        };
        // The log is at hand as long as the stamp names it.
        let asked = Asked::default();
        let decision = decide::decide(&primary, Ok(&replica), asked, &self.typed, &Log::Good);
        match decision {
            Decision::Heal => {}
            Decision::Refuse(refusal) => return Err(say.live(*refusal)),
            _ => {
                let why = "the replica cannot be told to be this mirror's own.";
                return Err(say.live(say.compare_again(why)));
            }
        }
        let known = lack::known(say, lock.root(), self.metadata_loss, record);
        let known = known.map_err(|refusal| say.live(refusal))?;
        match stamp::probe(lock.root()) {
            Ok(()) => {}
            Err(Errno::NOSPC | Errno::DQUOT) if makes_room => {}
            Err(errno) => {
                let why = format!("the replica {path} cannot be written: {}.", Named(errno));
                return Err(say.live(say.refusal(Id::ReplicaFailed, why)));
            }
        }
        let mut state = self.state.lock();
        // Written when the resync begins.
        state.stamp.lacks = state.stamp.lacks.union(known);
        if let Found::Stamped(stamp) = replica.found {
            state.replica_halfway = stamp.verdict == Verdict::Inconsistent;
            state.replica_history = stamp.history;
        }
        state.replica = Some(Arc::new(lock));
        Ok(root)
    }

    /// Makes durable on both roots that the replica is being changed, before its first byte is;
    /// from then on an older copy of it is one.
    ///
    /// # Errors
    /// A stamp could not be written; the mirror stands where it stood.
    pub fn begin_resync(&self) -> Result<(), Failure> {
        let failed = |copy| move |errno| at_root(copy, "setxattr", errno);
        let (replica, word, place) = {
            let mut state = self.state.lock();
            let replica = state.replica.clone();
            let replica = replica.ok_or_else(|| failed(Copy::Replica)(Errno::NODEV))?;
            if state.is_closing {
                return Err(failed(Copy::Replica)(Errno::CANCELED));
            }
            if !state.is_answered() {
                return Err(failed(Copy::Replica)(Errno::BUSY));
            }
            if state.stamp.covered.is_none() {
                // The log failed meanwhile: nobody knows what would have to be copied.
                return Err(failed(Copy::Replica)(Errno::CANCELED));
            }
            let mut stamp = state.stamp.clone();
            stamp.written = clock::now().tv_sec;
            stamp.verdict = Verdict::Inconsistent;
            // Until the replica says the new intake, either is right.
            stamp.covered = stamp.covered.map(Covered::next);
            self.write_primary(&mut state, stamp)?;
            state.standing = Standing::Resyncing;
            state.replica_halfway = true;
            (replica, state.for_replica(&state.stamp), state.place)
        };
        let written = stamp::write(replica.root(), &word, Role::Replica, place);
        if let Err(errno) = written {
            self.mark_degraded(Some(errno), &Named(errno).to_string())?;
        }
        let place = written.map_err(failed(Copy::Replica))?;
        let mut state = self.state.lock();
        if state.standing != Standing::Resyncing || state.is_closing {
            return Err(failed(Copy::Replica)(Errno::CANCELED));
        }
        state.place = place;
        let mut stamp = state.stamp.clone();
        stamp.covered = stamp.covered.map(Covered::settled);
        self.write_primary(&mut state, stamp)
    }

    /// Begins to serve with a resync, or alone if that was allowed.
    pub(super) fn resync(mut self, degraded: bool) -> Result<Self, AttachError> {
        if let Err(failure) = self.begin_resync() {
            let why = format!("the {} cannot be stamped: {failure}.", failure.copy);
            let say = Say { typed: &self.typed };
            let refusal = say.refusal(Id::StampFailed, why);
            if failure.copy == Copy::Primary || !degraded {
                return Err(refusal.into());
            }
            self.leave_replica();
            self.degraded = Some(refusal);
        }
        Ok(self)
    }

    /// Ends a resync: makes both copies durable, then says on both that they are in-sync, the
    /// primary first.
    ///
    /// # Errors
    /// The copy and call that failed: the replica is not in-sync, or its stamp does not say so.
    pub fn healed(&self, lacks: Lacks) -> Result<(), Failure> {
        let failed = |copy, call| move |errno| at_root(copy, call, errno);
        let replica = {
            let state = self.state.lock();
            let resyncing = state.standing == Standing::Resyncing && !state.is_closing;
            let replica = state.replica.clone().filter(|_| resyncing);
            replica.ok_or_else(|| failed(Copy::Replica, "syncfs")(Errno::CANCELED))?
        };
        rustix::fs::syncfs(replica.root()).map_err(failed(Copy::Replica, "syncfs"))?;
        rustix::fs::syncfs(self.primary.root()).map_err(failed(Copy::Primary, "syncfs"))?;
        let (word, place) = {
            let mut state = self.state.lock();
            if state.standing != Standing::Resyncing || state.is_closing {
                return Err(failed(Copy::Replica, "setxattr")(Errno::CANCELED));
            }
            let mut stamp = state.stamp.clone();
            stamp.written = clock::now().tv_sec;
            stamp.verdict = Verdict::InSync;
            stamp.lacks = stamp.lacks.union(lacks);
            // From here on the replica may carry this history.
            state.replica_history.clone_from(&stamp.history);
            self.write_primary(&mut state, stamp)?;
            // Whole again; that its stamp does not say so yet is no lie.
            state.replica_halfway = false;
            (state.for_replica(&state.stamp), state.place)
        };
        stamp::write(replica.root(), &word, Role::Replica, place)
            .map_err(failed(Copy::Replica, "setxattr"))?;
        let mut state = self.state.lock();
        if state.standing != Standing::Resyncing || state.is_closing {
            return Err(failed(Copy::Replica, "setxattr")(Errno::CANCELED));
        }
        state.standing = Standing::InSync;
        Ok(())
    }

    /// Ends the session in order: everything durable first, then `clean`, the replica before the
    /// primary: a clean primary beside a replica that is not means an older copy of the replica.
    ///
    /// # Errors
    /// The copy and call that failed. Stamps that could not be written stay open, so that the next
    /// mount is careful. A replica that cannot be made durable is recorded as failed first.
    pub fn close_clean(&self) -> Result<(), Failure> {
        let failed = |copy, call| move |errno| at_root(copy, call, errno);
        rustix::fs::syncfs(self.primary.root()).map_err(failed(Copy::Primary, "syncfs"))?;
        let written = clock::now().tv_sec;
        let (replica, mut stamp, place) = {
            let mut state = self.state.lock();
            state.is_closing = true;
            let in_sync = state.standing == Standing::InSync;
            let replica = state.replica.clone().filter(|_| in_sync);
            (replica, state.stamp.clone(), state.place)
        };
        (stamp.life, stamp.written) = (Life::Clean, written);
        let told = replica.map_or(Ok(()), |replica| {
            within(SYNCS_WITHIN, &replica, |root| rustix::fs::syncfs(root))
                .map_err(failed(Copy::Replica, "syncfs"))?;
            let word = stamp.clone();
            let tell = move |root: BorrowedFd<'_>| {
                stamp::write(root, &word, Role::Replica, place).map(drop)
            };
            // It may take the stamp yet, or never: what it says is the past then.
            within(self.answers_within, &replica, tell).map_err(failed(Copy::Replica, "setxattr"))
        });
        if let Err(failure) = &told {
            self.mark_degraded(Some(failure.errno), &Named(failure.errno).to_string())?;
        }
        let mut state = self.state.lock();
        let mut stamp = state.stamp.clone();
        (stamp.life, stamp.written) = (Life::Clean, written);
        self.write_primary(&mut state, stamp)?;
        told
    }
}

/// The verdict of a primary that goes on alone, ahead of the replica by one epoch.
fn doubt(state: &State, stamp: &mut Stamp, errno: Option<Errno>, reason: &str) {
    stamp.written = clock::now().tv_sec;
    stamp.verdict = Verdict::Doubt {
        reason: identity::clipped(reason),
        errno: errno.map_or(0, Errno::raw_os_error),
    };
    if stamp.history == state.replica_history {
        stamp.next_epoch(stamp.written);
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
    let run = move || {
        let done = call(replica.root());
        // Who hears of it may want the lock.
        drop(replica);
        _ = tell.send(done).is_ok();
    };
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
