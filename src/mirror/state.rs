// SPDX-License-Identifier: MIT
//! The states of a replica and of a mirror, and which one follows which. Pure.
//!
//! The words are the interface's (docs/CLI_ABI.md): `status`, JSON, events and metrics all say
//! them through [`ReplicaState::word`] and [`MirrorState::word`].

use std::fmt;

/// What is known about one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplicaState {
    /// Nothing acknowledged is missing from it.
    InSync,
    /// Believed equal; a quick comparison has still to say so.
    Unverified,
    /// An empty directory being filled for the first time.
    Seeding,
    /// Being made equal.
    Resyncing,
    /// The window overflowed: what it misses is only remembered.
    Behind,
    /// Set aside on purpose.
    Paused,
    /// Stopped taking writes.
    Failed,
    /// Not there.
    Missing,
    /// A seeding or resync had begun and not ended.
    Inconsistent,
    /// It has a history of its own.
    Diverged,
}

/// What is known about the mirror as a whole.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum MirrorState {
    /// All copies are good.
    InSync,
    /// Believed good.
    Unverified,
    /// Behind, and catching up by itself.
    Behind,
    /// Being made equal.
    Resyncing,
    /// Being filled for the first time.
    Seeding,
    /// Set aside on purpose.
    Paused,
    /// Running on one copy; someone should know.
    Degraded,
    /// Both copies changed without each other.
    SplitBrain,
}

/// What can happen to a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A call on it failed, or did not answer in time.
    Fault,
    /// Its directory is gone, or carries no stamp.
    Gone,
    /// Its directory is back and carries the right stamp.
    Returned,
    /// A copy of everything begins.
    SeedBegins,
    /// A copy of what it misses begins.
    ResyncBegins,
    /// A seeding, resync or comparison ended with equal copies.
    Equal,
    /// A seeding or resync was broken off.
    BrokenOff,
    /// The primary may have been changed behind our back.
    BareSeen,
    /// The window overflowed.
    Overflow,
    /// Someone asked to pause.
    Pause,
    /// Someone asked to go on.
    Resume,
    /// Its stamp shows a history of its own.
    Forked,
}

impl ReplicaState {
    /// All there are.
    pub const ALL: [Self; 10] = [
        Self::InSync,
        Self::Unverified,
        Self::Seeding,
        Self::Resyncing,
        Self::Behind,
        Self::Paused,
        Self::Failed,
        Self::Missing,
        Self::Inconsistent,
        Self::Diverged,
    ];

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::InSync => "in-sync",
            Self::Unverified => "unverified",
            Self::Seeding => "seeding",
            Self::Resyncing => "resyncing",
            Self::Behind => "behind",
            Self::Paused => "paused",
            Self::Failed => "failed",
            Self::Missing => "missing",
            Self::Inconsistent => "inconsistent",
            Self::Diverged => "diverged",
        }
    }

    /// The state after `event`, or `None` where the event means nothing.
    ///
    /// Only [`Event::Equal`] leads to in-sync, and only from a state in which something was
    /// compared or copied.
    #[must_use]
    pub fn after(self, event: Event) -> Option<Self> {
        use Event as E;
        Some(match (self, event) {
            (Self::Diverged, _) => return None,
            (_, E::Forked) => Self::Diverged,
            (_, E::Gone) => Self::Missing,
            (Self::Missing, E::Returned) => Self::Failed,
            (Self::Missing, E::SeedBegins) => Self::Seeding,
            (Self::Missing, _) => return None,
            (Self::Seeding | Self::Resyncing, E::Fault | E::BrokenOff) => Self::Inconsistent,
            (Self::Seeding | Self::Resyncing | Self::Unverified, E::Equal) => Self::InSync,
            (Self::Inconsistent, E::ResyncBegins | E::SeedBegins) => Self::Resyncing,
            (Self::Inconsistent, _) => return None,
            (_, E::Fault) => Self::Failed,
            (Self::InSync, E::BareSeen) => Self::Unverified,
            (Self::InSync, E::Overflow) => Self::Behind,
            (Self::InSync | Self::Behind | Self::Unverified, E::Pause) => Self::Paused,
            (Self::Failed | Self::Behind | Self::Paused | Self::Unverified, E::ResyncBegins) => {
                Self::Resyncing
            }
            (Self::Paused, E::Resume) => Self::Behind,
            (Self::Failed, E::SeedBegins) => Self::Seeding,
            _ => return None,
        })
    }
}

impl MirrorState {
    /// All there are.
    pub const ALL: [Self; 8] = [
        Self::InSync,
        Self::Unverified,
        Self::Behind,
        Self::Resyncing,
        Self::Seeding,
        Self::Paused,
        Self::Degraded,
        Self::SplitBrain,
    ];

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::InSync => "in-sync",
            Self::Unverified => "unverified",
            Self::Behind => "behind",
            Self::Resyncing => "resyncing",
            Self::Seeding => "seeding",
            Self::Paused => "paused",
            Self::Degraded => "degraded",
            Self::SplitBrain => "split-brain",
        }
    }

    /// Whether someone has to act: such a state is shown in capitals.
    #[must_use]
    pub fn needs_someone(self) -> bool {
        matches!(self, Self::Degraded | Self::SplitBrain)
    }

    /// The worst of the replicas'; without any, degraded.
    #[must_use]
    pub fn of(replicas: impl IntoIterator<Item = ReplicaState>) -> Self {
        let states = replicas.into_iter().map(|replica| match replica {
            ReplicaState::InSync => Self::InSync,
            ReplicaState::Unverified => Self::Unverified,
            ReplicaState::Seeding => Self::Seeding,
            ReplicaState::Resyncing => Self::Resyncing,
            ReplicaState::Behind => Self::Behind,
            ReplicaState::Paused => Self::Paused,
            ReplicaState::Failed | ReplicaState::Missing | ReplicaState::Inconsistent => {
                Self::Degraded
            }
            ReplicaState::Diverged => Self::SplitBrain,
        });
        states.max().unwrap_or(Self::Degraded)
    }
}

impl fmt::Display for ReplicaState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl fmt::Display for MirrorState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::Event as E;
    use super::ReplicaState as R;
    use super::*;

    const STATES: [R; 10] = R::ALL;
    const EVENTS: [E; 12] = [
        E::Fault,
        E::Gone,
        E::Returned,
        E::SeedBegins,
        E::ResyncBegins,
        E::Equal,
        E::BrokenOff,
        E::BareSeen,
        E::Overflow,
        E::Pause,
        E::Resume,
        E::Forked,
    ];

    #[test]
    fn the_transition_table() {
        // Columns as in EVENTS; `.` is None, letters are the states' in the order of STATES.
        let letters = "IUSRBPFMND";
        let table = [
            ("I", "FM.....UBP.D"),
            ("U", "FM..RI...P.D"),
            ("S", "NM...IN....D"),
            ("R", "NM...IN....D"),
            ("B", "FM..R....P.D"),
            ("P", "FM..R.....BD"),
            ("F", "FM.SR......D"),
            ("M", ".MFS.......D"),
            ("N", ".M.RR......D"),
            ("D", "............"),
        ];
        for ((state, row), (letter, expected)) in STATES.iter().zip(STATES).zip(table) {
            assert_eq!(letters.find(letter).map(|at| STATES[at]), Some(*state));
            for (event, want) in EVENTS.iter().zip(expected.chars()) {
                let want = letters.find(want).map(|at| STATES[at]);
                assert_eq!(row.after(*event), want, "{state:?} after {event:?}");
            }
        }
    }

    /// P4: in-sync is never a lie. Nothing but an equal comparison leads there.
    #[test]
    fn only_a_comparison_leads_to_in_sync() {
        for state in STATES {
            for event in EVENTS {
                if state.after(event) == Some(R::InSync) {
                    assert_eq!(event, E::Equal);
                    assert!(matches!(state, R::Seeding | R::Resyncing | R::Unverified));
                }
            }
        }
    }

    #[test]
    fn a_mirror_is_its_worst_replica() {
        assert_eq!(MirrorState::of([]), MirrorState::Degraded);
        assert_eq!(MirrorState::of([R::InSync]), MirrorState::InSync);
        assert_eq!(
            MirrorState::of([R::InSync, R::Failed]),
            MirrorState::Degraded
        );
        assert_eq!(
            MirrorState::of([R::Diverged, R::Failed]),
            MirrorState::SplitBrain
        );
    }
}
