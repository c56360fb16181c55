// SPDX-License-Identifier: MIT
//! `promote`: from the root of a replica to the root of a primary. Which one may be, is pure.
//!
//! One stamp alone proves nothing (rule 19): a replica that was never told that the primary went on
//! without it still says in-sync. So the primary is looked at where it can be seen, and where it
//! cannot somebody has to say that it is lost.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::decide::{Found, Root, Say, Typed};
use super::identity::{History, Life, Match, Role, RootIdentity, Stamp, TEXT_MAX, Verdict};
use super::refusal::{Id, Refusal};
use super::stamp::{self, Lock, Place};
use super::{in_use, inspect};
use crate::mirror::failure::{Copy, Named, Shown, harmless, show_path};
use crate::mirror::resync::Lacks;
use crate::sys::{Errno, clock};

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// `--force`: lose what the replica lacks.
    pub force: bool,
    /// `--primary-lost`: nobody will ever ask the primary again.
    pub primary_lost: bool,
}

/// What promoting a replica came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promoted {
    /// The epoch that begins.
    pub epoch: u64,
    /// What may be missing, and when the primary was last heard of.
    pub notes: Vec<String>,
}

/// Promotes the replica at `root`; its path is `typed.replica`. `look` opens what was the primary's
/// directory, and says `EBUSY` where a mirror is mounted over it.
///
/// # Errors
/// Why not, and the next command.
pub fn promote(
    root: BorrowedFd<'_>,
    look: &dyn Fn(&[u8]) -> Result<OwnedFd, Errno>,
    typed: &Typed,
    patience: Duration,
    asked: Asked,
) -> Result<Promoted, Refusal> {
    let say = Say { typed };
    let lock = Lock::take(root, patience).map_err(|errno| in_use(say, Copy::Replica, errno))?;
    let unread = |errno| {
        let why = format!(
            "{} cannot be read: {}",
            show_path(&typed.replica),
            Named(errno)
        );
        not(typed, Id::CopyFailed, why, Vec::new())
    };
    let found = inspect(lock.root()).map_err(unread)?;
    let stamp = match &found.found {
        Found::Stamped(stamp) => (**stamp).clone(),
        Found::Unstamped => {
            let why = format!("{} carries no mirrorfs stamp", show_path(&typed.replica));
            return Err(not(typed, Id::NoStamp, why, Vec::new()));
        }
        Found::Corrupt(corrupt) => {
            let path = show_path(&typed.replica);
            let why = format!("the mirrorfs stamp of {path} is {corrupt}");
            return Err(not(typed, Id::BadStamp, why, Vec::new()));
        }
    };
    let replica = Root {
        is: stamp.role_of(&found.identity),
        found: found.found,
        empty: found.empty,
    };
    if replica.is == Match::Primary {
        let why = format!(
            "{} is the primary of its mirror already",
            show_path(&typed.replica)
        );
        return Err(not(typed, Id::Swapped, why, Vec::new()));
    }
    // Held until the end: nobody mounts it while the replica takes its place.
    let primary = seen_primary(&stamp, look, typed, patience)?;
    let seen = primary.as_ref().map(|(_, stamp)| stamp);
    let notes = may_promote(&replica, &stamp, seen, asked, typed)?;
    let now = clock::now().tv_sec;
    let promoted = promoted(&stamp, seen, found.identity, &typed.replica, now);
    // What the last mount left behind is to be as durable as the stamp that vouches for it.
    rustix::fs::syncfs(lock.root()).map_err(unread)?;
    stamp::write(lock.root(), &promoted, Role::Primary, Place::Xattr).map_err(|errno| {
        let why = format!(
            "{} cannot be stamped: {}",
            show_path(&typed.replica),
            Named(errno)
        );
        not(typed, Id::StampFailed, why, Vec::new())
    })?;
    Ok(Promoted {
        epoch: promoted.epoch(),
        notes,
    })
}

/// The primary's stamp, if the very directory can still be seen; and its lock.
fn seen_primary(
    replica: &Stamp,
    look: &dyn Fn(&[u8]) -> Result<OwnedFd, Errno>,
    typed: &Typed,
    patience: Duration,
) -> Result<Option<(Lock, Stamp)>, Refusal> {
    let typed = Typed {
        primary: replica.primary_path.clone(),
        ..typed.clone()
    };
    let held = |errno| in_use(Say { typed: &typed }, Copy::Primary, errno);
    let root = match look(&replica.primary_path) {
        Ok(root) => root,
        // A mirror is mounted over it.
        Err(Errno::BUSY) => return Err(held(Errno::WOULDBLOCK)),
        Err(_) => return Ok(None),
    };
    let known = RootIdentity::of(root.as_fd()).is_ok_and(|identity| identity == replica.primary);
    if !known {
        return Ok(None);
    }
    let lock = Lock::take(root.as_fd(), patience).map_err(held)?;
    match stamp::read(lock.root()) {
        Ok(Some(stamp)) if stamp.id == replica.id => Ok(Some((lock, stamp))),
        _ => Ok(None),
    }
}

/// Whether a replica may become the primary, and what is to be said if it may.
///
/// # Errors
/// Why not, and the next command.
pub(super) fn may_promote(
    replica: &Root,
    r: &Stamp,
    primary: Option<&Stamp>,
    asked: Asked,
    typed: &Typed,
) -> Result<Vec<String>, Refusal> {
    let (path, quoted) = (typed.replica.shown(), typed.replica.quoted());
    // As it was typed, and cut where it was too long: not everything leads there.
    let from = match &*r.primary_path {
        path if path.starts_with(b"/") && path.len() < TEXT_MAX => path.quoted(),
        _ => "PRIMARY".to_owned(),
    };
    let forced = || {
        let want = "To promote it anyway and lose them".to_owned();
        vec![(want, format!("mirrorfs promote --force {quoted}"))]
    };
    if r.verdict == Verdict::Inconsistent {
        let why = format!(
            "{path} is inconsistent: a seeding or resync of it was not finished, and parts of it \
             are newer than others"
        );
        let want = "To finish it, with the primary".to_owned();
        let next = vec![(want, format!("mirrorfs sync {from} {quoted}"))];
        return Err(not(typed, Id::CompareAgain, why, next));
    }
    let mut notes = Vec::new();
    let mut doubt = |id, why: String, next: Vec<(String, String)>| {
        if !asked.force {
            return Err(not(typed, id, why, next));
        }
        notes.push(format!("{why}."));
        Ok(())
    };
    if replica.is != Match::Replica {
        let why = format!("{path} carries the stamp of another directory: it is a copy of it");
        let want = "To promote it anyway".to_owned();
        let next = vec![(want, format!("mirrorfs promote --force {quoted}"))];
        doubt(Id::Clone, why, next)?;
    }
    if let Verdict::Doubt { reason, .. } = &r.verdict {
        let (when, reason) = (day(r.written), harmless(reason));
        let why =
            format!("{path} is stale: it lacks changes made after it failed ({when}, {reason})");
        doubt(Id::Stale, why, forced())?;
    } else if let Some(p) = primary {
        if let Some((id, why)) = behind(p, r, &path) {
            let mut next = forced();
            if id == Id::CompareAgain {
                let want = "To bring it along first".to_owned();
                next = vec![(want, format!("mirrorfs sync {from} {quoted}"))];
            }
            doubt(id, why, next)?;
        }
    } else {
        let (from, when) = (show_path(&r.primary_path), day(r.written));
        let last = match r.life {
            Life::Clean => format!("The mirror was last unmounted, in order, at {when}"),
            Life::Open => {
                format!("The mirror was last mounted at {when}, and did not end in order")
            }
        };
        if !asked.primary_lost && !asked.force {
            let why = format!(
                "the primary {from} cannot be seen, and what {path} lacks cannot be told without it"
            );
            let want = "If the primary is lost for good".to_owned();
            let next = vec![(want, format!("mirrorfs promote --primary-lost {quoted}"))];
            let mut refusal = not(typed, Id::NotPromoted, why, next);
            refusal.more = vec![format!("{last}.")];
            return Err(refusal);
        }
        notes.push(format!("{last}."));
        if r.life == Life::Open {
            notes.push(
                "With mode=async it may lack up to max-lag of the last changes; if it was out when \
                 the primary was lost, all since."
                    .to_owned(),
            );
        }
    }
    Ok(notes)
}

/// What a replica lacks of a primary that can be seen.
fn behind(p: &Stamp, r: &Stamp, path: &str) -> Option<(Id, String)> {
    match p.compare_history(r) {
        History::Stale { since } => {
            let left = p.history.iter().find(|epoch| epoch.number > since);
            let when = left.map_or_else(String::new, |epoch| format!(" ({})", day(epoch.began)));
            let why = format!("{path} is stale: it lacks changes made after epoch {since}{when}");
            Some((Id::Stale, why))
        }
        History::Diverged { since } => {
            let why = format!(
                "{path} and the primary changed without each other after epoch {since}: promoting \
                 it loses what only the primary has"
            );
            Some((Id::Diverged, why))
        }
        History::Newer { .. } => None,
        History::Same if !p.is_at_rest() || !r.is_at_rest() => {
            let why = format!(
                "the last mount of {path} did not end in order: it may lack what was under way"
            );
            Some((Id::CompareAgain, why))
        }
        History::Same if r.session < p.session => {
            let why = format!("{path} is stale: it is a copy from before the last mount");
            Some((Id::Stale, why))
        }
        History::Same => None,
    }
}

/// The stamp of the new primary. Its epoch leaves one number out: a primary that goes on alone
/// counts one, so the two are never taken for each other, whatever their clocks say.
pub(super) fn promoted(
    r: &Stamp,
    primary: Option<&Stamp>,
    identity: RootIdentity,
    path: &[u8],
    now: i64,
) -> Stamp {
    let mut stamp = r.clone();
    stamp.next_epoch(now);
    if let Some(last) = stamp.history.last_mut() {
        last.number += 1;
    }
    stamp.session = r.session.max(primary.map_or(0, |p| p.session)) + 1;
    stamp.life = Life::Clean;
    stamp.verdict = Verdict::InSync;
    stamp.primary = identity;
    stamp.replicas = Vec::new();
    stamp.covered = None;
    // What it lacks is nobody's loss any more: it is what there is.
    stamp.lacks = Lacks::default();
    stamp.role = None;
    stamp.primary_path = super::identity::clipped_path(path);
    stamp.replica_path = Vec::new();
    stamp.written = now;
    stamp
}

fn day(seconds: i64) -> String {
    let text = clock::rfc3339(seconds);
    let text = text.get(..16).unwrap_or_default().replace('T', " ");
    format!("{text} UTC")
}

fn not(typed: &Typed, id: Id, why: String, next: Vec<(String, String)>) -> Refusal {
    Refusal {
        id,
        what: format!("cannot promote {}", show_path(&typed.replica)),
        why: format!("{why}. Not promoted."),
        more: Vec::new(),
        next,
    }
}

#[cfg(test)]
mod tests;
