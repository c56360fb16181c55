// SPDX-License-Identifier: MIT
//! What becomes of a mirror whose replica, or write-intent log, fails: the way is closed, the stamps
//! say so, and what was known of the replica is let go.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::failure::Named;
use super::intent::{Intent, whole_tree};
use super::lane::Way;
use super::replica::{Fault, Whose};
use super::settle::Carried;
use super::{Degraded, Health, Mirror, NOTHING, RECORDED, UNRECORDABLE};
use crate::sys::creds::{self, Needs};
use crate::sys::{Errno, Result, clock};

impl Mirror {
    /// The write-intent log, while it can be written.
    pub(super) fn log(&self) -> Option<&Intent> {
        let lost = self.log_lost.load(Ordering::Acquire);
        self.intent.as_ref().filter(|_| !lost)
    }

    /// Notes that all of the replica has to be compared.
    pub(super) fn mark_whole(&self, intent: &Intent) -> Result<()> {
        let object = whole_tree(self.tending.primary_root.as_fd())?;
        intent.journal().mark_tree(object).map(drop)
    }

    /// The log cannot be written any more. What may differ is not known from now on: the replica
    /// is given up, and both stamps say so before anything goes on (docs/SAFETY.md, rule 7).
    ///
    /// # Errors
    /// `EIO` when no stamp could be written.
    pub(super) fn lose_log(&self, errno: Errno) -> Result<()> {
        let fault = Fault::of_log(errno);
        match self.lane.way() {
            Some(way) => self.fail(fault, &way),
            None => {
                let mut health = self.health.lock();
                if !self.log_lost.load(Ordering::Acquire) {
                    self.note_lost_log(&fault, &mut health);
                }
                drop(health);
                self.tell();
                Carried::Skipped
            }
        };
        match self.on_record() {
            Carried::Unrecorded => Err(Errno::IO),
            _ => Ok(()),
        }
    }

    /// As [`Self::lose_log`], where nobody waits for an answer.
    pub(super) fn log_is_lost(&self, errno: Errno) {
        // That it could not be noted anywhere is answered to the next change.
        let _every_change_hears = self.lose_log(errno);
    }

    /// Notes on the stamps that the log is lost.
    fn note_lost_log(&self, fault: &Fault, health: &mut Health) {
        // That it could not be noted anywhere is answered to every change.
        let _unrecordable = self.note(fault, health);
        self.log_lost.store(true, Ordering::Release);
        health.degraded = Some(Degraded {
            id: fault.id(),
            fault: fault.clone(),
            since: clock::now().tv_sec,
        });
    }

    /// Notes durably what a fault means: that the primary goes on alone, or that the log is lost.
    fn note(&self, fault: &Fault, health: &mut Health) -> Result<()> {
        let before = health.epoch;
        // The stamp is ours, whoever's op this thread is carrying out.
        let noted = creds::wear(Needs::DAEMON).and_then(|()| match fault.whose {
            Whose::Log => self.record.log_lost(fault).map(|()| before),
            _ => self.record.degraded(fault),
        });
        let recorded = if noted.is_ok() {
            RECORDED
        } else {
            UNRECORDABLE
        };
        self.recorded.store(recorded, Ordering::Release);
        let epoch = noted?;
        if epoch != before {
            (health.epoch, health.epoch_before) = (epoch, Some(before));
        }
        Ok(())
    }

    /// The replica failed: closes its lane and puts on record that the primary goes on alone.
    pub(super) fn fail(&self, fault: Fault, way: &Arc<Way>) -> Carried {
        let mut health = self.health.lock();
        if !self.lane.close(way) {
            drop(health);
            return match self.on_record() {
                Carried::Skipped => Carried::Failed,
                other => other,
            };
        }
        if fault.whose == Whose::Log {
            self.note_lost_log(&fault, &mut health);
            drop(health);
            self.leave_replica(way);
            self.tell();
            return Carried::Failed;
        }
        // What it has got it may not have kept: whatever is marked may differ. And if it is not what
        // it was left as, somebody was at it, and may have been anywhere.
        if let Some(intent) = &self.intent {
            let tampered = fault.is_about_names() && way.healing().is_none();
            intent.journal().soil_all();
            if tampered && let Err(errno) = self.mark_whole(intent) {
                self.note_lost_log(&Fault::of_log(errno), &mut health);
            }
        }
        let carried = match self.note(&fault, &mut health) {
            Ok(()) => Carried::Failed,
            Err(errno) => {
                let note = Named(errno);
                tracing::error!(
                    "{fault}, and no copy could take a note of it: {note}; \
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
        (health.resyncing, health.seeding) = (false, false);
        drop(health);
        self.leave_replica(way);
        self.tell();
        self.tending.fell();
        carried
    }

    /// Tries again to take the note that no copy could take: from then on the primary goes on alone.
    pub(super) fn note_again(&self) {
        if self.recorded.load(Ordering::Acquire) != UNRECORDABLE {
            return;
        }
        let mut health = self.health.lock();
        let Some(fault) = health.degraded.as_ref().map(|why| why.fault.clone()) else {
            return;
        };
        if self.note(&fault, &mut health).is_err() {
            return;
        }
        drop(health);
        tracing::warn!(
            "it could be noted after all that the replica failed: changes go on [MF-0004]"
        );
        self.record.leave();
    }

    /// What the kernel knows has no place on the replica any more. Closing its descriptors may
    /// take as long as anything else there: not on a thread that someone waits for.
    fn leave_replica(&self, way: &Arc<Way>) {
        let (nodes, record, way) = (self.nodes.clone(), self.record.clone(), way.clone());
        nodes.set_left();
        let leave = move || {
            nodes.leave_replica();
            record.leave();
            // Not before: while something holds it, the replica is not taken in again.
            drop(way);
        };
        let thread = std::thread::Builder::new().name("leave".to_owned());
        if let Err(error) = thread.spawn(leave) {
            tracing::debug!("descriptors of the replica stay open: {error}");
        }
    }

    /// Waits until nothing of us holds the replica any more, so that its disk can be unmounted; not for
    /// one that hangs.
    pub fn wait_until_left(&self) {
        // The tending thread holds it until it looks for it again.
        self.tending.ask();
        let until = Instant::now() + self.watch.patience();
        while Instant::now() < until && (self.lane.is_haunted() || !self.record.has_left()) {
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// Whether the lane's end is on disk; waits for the thread that is writing it.
    pub(super) fn on_record(&self) -> Carried {
        if self.recorded.load(Ordering::Acquire) == NOTHING {
            drop(self.health.lock());
        }
        match self.recorded.load(Ordering::Acquire) {
            UNRECORDABLE => Carried::Unrecorded,
            _ => Carried::Skipped,
        }
    }

    /// The copies may differ, and not because of the replica.
    pub(super) fn doubt(&self, errno: Errno, doing: String) {
        if let Some(way) = self.lane.way() {
            self.fail(Fault::new(errno, doing), &way);
        }
    }
}
