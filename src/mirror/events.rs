// SPDX-License-Identifier: MIT
//! Changes of state, told to whoever listens.
//!
//! The mirror publishes and goes on: it never waits for a listener. The last [`KEPT_MAX`] changes
//! are kept in one ring that all listeners read at their own pace; one that falls further behind
//! loses the oldest and is told how many ([`Told::Lost`]: the named overflow).

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use super::state::ReplicaState;
use crate::mirror::failure::Shown;
use crate::sys::clock;

/// Changes that are kept for slow listeners.
pub const KEPT_MAX: usize = 256;

/// A replica went from one state to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Milliseconds since 1970, by the wall clock; order is by arrival, not by this.
    pub at_ms: i64,
    /// The replica, as typed at mount.
    pub replica: String,
    /// What it was.
    pub from: ReplicaState,
    /// What it is.
    pub to: ReplicaState,
    /// The page of the manual, `MF-0003`.
    pub id: String,
    /// The errno by name, `ENOSPC`, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
    /// The epoch, where this change began a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Bytes that may differ, where that is known and of interest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty_bytes: Option<u64>,
    /// What happened, for the log: a clause without a full stop.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl Change {
    /// A change that happens now, with the page that explains the new state.
    #[must_use]
    pub fn now(replica: &str, from: ReplicaState, to: ReplicaState) -> Self {
        let now = clock::now();
        Self {
            at_ms: now
                .tv_sec
                .saturating_mul(1000)
                .saturating_add(now.tv_nsec / 1_000_000),
            replica: replica.to_owned(),
            from,
            to,
            id: page(to).to_owned(),
            errno: None,
            epoch: None,
            dirty_bytes: None,
            why: String::new(),
        }
    }

    /// The line of the log: it says what the id is about, so that the log alone tells the history.
    fn log(&self) {
        let id = self.id.as_str();
        let replica = self.replica.shown();
        let (from, to) = (self.from.word(), self.to.word());
        match self.to {
            ReplicaState::Failed
            | ReplicaState::Missing
            | ReplicaState::Inconsistent
            | ReplicaState::Diverged => tracing::error!(id, replica, from, to, "{self}"),
            ReplicaState::Behind | ReplicaState::Paused | ReplicaState::Unverified => {
                tracing::warn!(id, replica, from, to, "{self}");
            }
            ReplicaState::InSync | ReplicaState::Seeding | ReplicaState::Resyncing => {
                tracing::info!(id, replica, from, to, "{self}");
            }
        }
    }
}

/// `replica /backup/data failed: No space left on device (ENOSPC); running degraded, epoch 8`.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "replica {} {}", self.replica.shown(), self.to)?;
        if self.to == ReplicaState::InSync {
            write!(f, " again")?;
        }
        if !self.why.is_empty() && self.why != self.to.word() {
            write!(f, ": {}", self.why)?;
        }
        if let Some(bytes) = self.dirty_bytes {
            write!(f, "; {bytes} bytes to compare")?;
        }
        if let Some(epoch) = self.epoch {
            write!(f, "; running degraded, epoch {epoch}")?;
        }
        Ok(())
    }
}

/// The page of the manual that explains a state one got into.
#[must_use]
pub fn page(to: ReplicaState) -> &'static str {
    match to {
        ReplicaState::Failed => "MF-0003",
        ReplicaState::Behind => "MF-0005",
        ReplicaState::Missing => "MF-0012",
        ReplicaState::Diverged => "MF-0021",
        ReplicaState::Paused => "MF-0030",
        ReplicaState::Resyncing | ReplicaState::Seeding => "MF-0031",
        ReplicaState::InSync => "MF-0032",
        ReplicaState::Unverified => "MF-0033",
        ReplicaState::Inconsistent => "MF-0034",
    }
}

/// What a listener is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Something changed.
    Change(Change),
    /// It was too slow: that many changes are gone.
    Lost(u64),
    /// Nothing happened for as long as it wanted to wait.
    Quiet,
    /// Nothing will happen any more: the mirror ends in order.
    Ended,
}

/// All changes of one mirror since it was mounted.
#[derive(Debug, Default)]
pub struct Events {
    ring: Mutex<Ring>,
    /// Something was added to the ring, or it was closed.
    more: Condvar,
}

#[derive(Debug, Default)]
struct Ring {
    kept: VecDeque<Change>,
    /// The number of the first one kept.
    first: u64,
    closed: bool,
}

impl Events {
    /// Logs a change and tells it to all listeners. Never waits for one.
    pub fn publish(&self, change: Change) {
        change.log();
        let mut ring = self.ring.lock();
        if ring.closed {
            return;
        }
        if ring.kept.len() == KEPT_MAX {
            ring.kept.pop_front();
            ring.first += 1;
        }
        ring.kept.push_back(change);
        drop(ring);
        self.more.notify_all();
    }

    /// The mirror ends in order: listeners are told so once they have heard everything.
    pub fn close(&self) {
        self.ring.lock().closed = true;
        self.more.notify_all();
    }

    /// Hears of everything that happens from now on.
    #[must_use]
    pub fn listen(self: &Arc<Self>) -> Listener {
        let ring = self.ring.lock();
        let next = ring.first + ring.kept.len() as u64;
        drop(ring);
        Listener {
            events: Arc::clone(self),
            next,
        }
    }
}

/// One who listens. Owns nothing of the mirror but a number.
#[derive(Debug)]
pub struct Listener {
    events: Arc<Events>,
    /// The number of the change to hear of next.
    next: u64,
}

impl Listener {
    /// What happened next; waits for it at most that long.
    pub fn hear(&mut self, patience: Duration) -> Told {
        let until = Instant::now() + patience;
        let mut ring = self.events.ring.lock();
        loop {
            if self.next < ring.first {
                let lost = ring.first - self.next;
                self.next = ring.first;
                return Told::Lost(lost);
            }
            let place = usize::try_from(self.next - ring.first).unwrap_or(usize::MAX);
            if let Some(change) = ring.kept.get(place) {
                self.next += 1;
                return Told::Change(change.clone());
            }
            if ring.closed {
                return Told::Ended;
            }
            if self.events.more.wait_until(&mut ring, until).timed_out() {
                return Told::Quiet;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ReplicaState::{Failed, InSync, Paused, Resyncing};

    fn numbered(n: u64) -> Change {
        Change {
            epoch: Some(n),
            ..Change::now("/r", InSync, Failed)
        }
    }

    fn epochs(listener: &mut Listener) -> Vec<Option<u64>> {
        let mut heard = Vec::new();
        loop {
            match listener.hear(Duration::ZERO) {
                Told::Change(change) => heard.push(change.epoch),
                Told::Quiet | Told::Ended => return heard,
                Told::Lost(_) => heard.push(None),
            }
        }
    }

    /// Each listener hears everything after it began, in order, and no one else's share less.
    #[test]
    fn everyone_hears_everything() {
        let events = Arc::new(Events::default());
        events.publish(numbered(0));
        let (mut one, mut other) = (events.listen(), events.listen());
        for n in 1..4 {
            events.publish(numbered(n));
        }
        let all = [1, 2, 3].map(Some);
        assert_eq!(epochs(&mut one), all);
        assert_eq!(epochs(&mut one), []);
        assert_eq!(epochs(&mut other), all);
    }

    /// The overflow has a number, and what follows is the oldest that is left.
    #[test]
    fn who_is_too_slow_is_told_how_much_was_lost() {
        let events = Arc::new(Events::default());
        let mut slow = events.listen();
        let most = KEPT_MAX as u64;
        for n in 0..most + 7 {
            events.publish(numbered(n));
        }
        assert_eq!(slow.hear(Duration::ZERO), Told::Lost(7));
        let rest: Vec<_> = (7..most + 7).map(Some).collect();
        assert_eq!(epochs(&mut slow), rest);
    }

    /// A listener that waits is woken; the end comes after everything that was said.
    #[test]
    fn a_waiting_listener_is_woken() {
        let events = Arc::new(Events::default());
        let mut listener = events.listen();
        let waiter = std::thread::spawn(move || {
            let patience = Duration::from_secs(60);
            [listener.hear(patience), listener.hear(patience)]
        });
        let change = numbered(1);
        events.publish(change.clone());
        events.close();
        let heard = waiter.join().expect("the listener");
        assert_eq!(heard, [Told::Change(change), Told::Ended]);
        assert_eq!(events.listen().hear(Duration::from_secs(60)), Told::Ended);
    }

    /// The sample of the interface, and the id that the log puts in brackets.
    #[test]
    fn the_line_of_the_log() {
        let failed = Change {
            why: "No space left on device (ENOSPC)".to_owned(),
            epoch: Some(8),
            ..Change::now("/backup/data", InSync, Failed)
        };
        assert_eq!(
            failed.to_string(),
            "replica /backup/data failed: No space left on device (ENOSPC); running degraded, epoch 8"
        );
        assert_eq!(failed.id, "MF-0003");
        let paused = Change {
            why: "paused".to_owned(),
            epoch: Some(9),
            ..Change::now("/backup/data", InSync, Paused)
        };
        assert_eq!(
            paused.to_string(),
            "replica /backup/data paused; running degraded, epoch 9"
        );
        let back = Change::now("/backup/data", Resyncing, InSync);
        assert_eq!(back.to_string(), "replica /backup/data in-sync again");
    }

    /// Over the wire a state is the word that people see.
    #[test]
    fn states_travel_as_their_words() {
        for state in ReplicaState::ALL {
            let json = serde_json::to_string(&state).expect("json");
            assert_eq!(json, format!("\"{state}\""));
            assert!(page(state).starts_with("MF-00"));
        }
    }
}
