// SPDX-License-Identifier: MIT
//! What a mirror is put together from, and what it knows about itself.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::attach::refusal::{Id, Refusal};
use super::intent::Intent;
use super::lane::Lane;
use super::replica::{Fault, Replica};
use super::settle::OnReplicaError;
use crate::store::{Nodes, Source, Target};
use crate::sys::Result;

/// Where the state of the mirror is kept across mounts: the stamps on both roots.
pub trait Record: Send + Sync {
    /// Makes durable, before it returns, that the primary goes on alone. Returns the new epoch.
    ///
    /// # Errors
    /// When no copy could take the note: then nothing may be acknowledged (02-safety rule 7).
    fn degraded(&self, fault: &Fault) -> Result<u64>;
    /// Makes durable, before it returns, that nobody knows what may differ: the write-intent log
    /// is lost.
    ///
    /// # Errors
    /// When no copy could take the note: then nothing may be acknowledged (02-safety rule 7).
    fn log_lost(&self, fault: &Fault) -> Result<()>;
    /// Makes durable that both copies are equal, and the copies before that.
    ///
    /// # Errors
    /// In words; then the replica is not in-sync.
    fn healed(&self) -> std::result::Result<(), String>;
    /// Whether the primary is the primary still: its stamp can be read.
    fn vouches(&self) -> bool;
    /// Lets go of a replica that failed, so that its disk can be unmounted. May take as long as
    /// anything there.
    fn leave(&self);
    /// Notes an orderly end: both copies equal and durable if `in_sync`.
    ///
    /// # Errors
    /// In words; the next mount compares.
    fn closed(&self, in_sync: bool) -> std::result::Result<(), String>;
}

/// Why and since when the mirror is degraded.
#[derive(Clone, Debug)]
pub struct Degraded {
    /// What happened.
    pub fault: Fault,
    /// The page of the manual.
    pub id: Id,
    /// Wall-clock seconds since 1970.
    pub since: i64,
}

/// How a replica is reached again after it failed or was away.
pub trait WayBack: Send + Sync {
    /// Opens it anew, and makes sure that it is the one. From then on its stamp says that it is
    /// inconsistent, until [`Record::healed`].
    ///
    /// # Errors
    /// Why it is not to be had, in words for people.
    fn reach(&self) -> std::result::Result<Reached, Refusal>;
}

/// A replica that is within reach.
#[derive(Debug)]
pub struct Reached {
    /// Takes the ops.
    pub replica: Replica,
    /// Its root directory.
    pub root: OwnedFd,
}

/// Whether the copies were compared since anybody could have changed them behind the mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Verified {
    /// They were, or nobody could.
    #[default]
    Yes,
    /// Not to the end.
    NotYet,
    /// They differ.
    Differs {
        /// In so many places.
        count: u64,
        /// Such as this one, in words.
        first: String,
    },
}

/// What the mirror knows about itself.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Whether the copies were compared since they lay bare.
    pub verified: Verified,
    /// The replica is being made equal, and what came of it is not durable yet.
    pub resyncing: bool,
    /// The epoch: grows when the primary goes on alone.
    pub epoch: u64,
    /// The epoch before the replica failed, if it did.
    pub epoch_before: Option<u64>,
    /// Set once the replica failed.
    pub degraded: Option<Degraded>,
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
    /// The most that healing may read and write, in bytes per second.
    pub bytes_per_second: Option<u64>,
    /// The primary's root directory.
    pub primary_root: OwnedFd,
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
}
