// SPDX-License-Identifier: MIT
//! `Health`: what the mirror knows about itself.

use super::attach::refusal::Id;
use super::replica::Fault;

/// What the mirror knows about itself.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Whether the copies were compared since they lay bare.
    pub verified: Verified,
    /// The replica is being made equal, and what came of it is not durable yet.
    pub resyncing: bool,
    /// That is for the first time: it was empty.
    pub seeding: bool,
    /// The epoch: grows when the primary goes on alone.
    pub epoch: u64,
    /// The epoch before the replica failed, if it did.
    pub epoch_before: Option<u64>,
    /// Set once the replica failed.
    pub degraded: Option<Degraded>,
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
