// SPDX-License-Identifier: MIT
//! `Refusal`: why a mount does not start, and the next command to type.
//!
//! Every refusal has an id that the manual explains and that never changes its meaning.

use std::fmt;

/// The ids of docs/TROUBLESHOOTING.md: "an error keeps its id for ever".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Id {
    /// The replica stopped taking writes.
    ReplicaFailed = 3,
    /// The replica is too far behind, and the application was not to wait.
    PulledAhead = 5,
    /// The replica carries no stamp although this mirror has written there.
    NoStamp = 11,
    /// The replica's directory cannot be opened.
    ReplicaMissing = 12,
    /// The replica is not empty and not known to be a copy.
    NotEmpty = 13,
    /// The primary is empty while the replica is not.
    BlankPrimary = 14,
    /// Primary and replica were given the wrong way round.
    Swapped = 15,
    /// The directory belongs to another mirror.
    Foreign = 16,
    /// The directory is a copy of a stamped one, or was moved to another disk.
    Clone = 17,
    /// A stamp cannot be read.
    BadStamp = 18,
    /// The replica lacks changes the primary took alone.
    Stale = 19,
    /// The copies may differ: they must be compared again.
    CompareAgain = 20,
    /// Both copies have a history of their own, or the replica is ahead.
    Diverged = 21,
    /// The copies were compared and differ.
    Differences = 22,
    /// Another daemon holds one of the trees.
    InUse = 23,
    /// The replica's file system cannot hold some metadata.
    MetadataLoss = 24,
    /// Seeding, comparing or repairing failed.
    CopyFailed = 25,
    /// A stamp could not be written.
    StampFailed = 26,
    /// No write-intent log can be kept.
    LogFailed = 27,
    /// A replica is not made the primary: it cannot be shown to be complete.
    NotPromoted = 28,
    /// The write-intent log could not be written.
    LogLost = 29,
    /// Set aside by `mirrorfs pause`.
    Paused = 30,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MF-{:04}", *self as u16)
    }
}

/// Why a mount does not start: exit status 32, a message of several lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For ever.
    pub id: Id,
    /// What is not done: `cannot mount /data`.
    pub what: String,
    /// Why, in one sentence.
    pub why: String,
    /// What to look at, if there is more to say.
    pub more: Vec<String>,
    /// What one may want, and what to type for it.
    pub next: Vec<(String, String)>,
}

impl Refusal {
    /// mount(8): "mount failure".
    pub const EXIT: u8 = 32;

    /// What one may want and what to type for it, a line each, the commands below each other.
    pub fn commands(&self) -> impl Iterator<Item = String> {
        let width = self.next.iter().map(|(want, _)| want.chars().count()).max();
        let width = width.unwrap_or(0) + 4;
        self.next
            .iter()
            .map(move |(want, command)| format!("{:width$} {command}", format!("{want}:")))
    }
}

/// As in docs/CLI_ABI.md, without the leading `mirrorfs: `.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)?;
        for line in &self.more {
            write!(f, "\n  {line}")?;
        }
        for line in self.commands() {
            write!(f, "\n  {line}")?;
        }
        write!(f, "  [{}]", self.id)
    }
}

impl std::error::Error for Refusal {}
