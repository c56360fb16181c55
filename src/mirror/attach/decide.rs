// SPDX-License-Identifier: MIT
//! The start-up decision: what two roots, their stamps and the options amount to. Pure.
//!
//! The stakes: a wrong `Attach` is a lie about in-sync (P4), a wrong `Seed` or repair deletes a
//! good copy (P7, P10). So the primary is judged first, and every doubt ends in a [`Refusal`] that
//! names the next command. `degraded` excuses any trouble with the replica, never one with the
//! primary: fstab lines carry it for ever, so it is no answer to a question asked today.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::mirror::attach::identity::{
    Corrupt, Epoch, History, Life, Match, MirrorId, Stamp, Verdict,
};
use crate::mirror::attach::refusal::{Id, Refusal};
use crate::mirror::failure::{Named, Shown, harmless, show_path};
use crate::sys::{Errno, clock};

/// The stamp a root was found with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// None.
    Unstamped,
    /// One, and what the directory is by its own stamp.
    Stamped(Box<Stamp>),
    /// Something that is no stamp.
    Corrupt(Corrupt),
}

impl Found {
    fn stamp(&self) -> Option<&Stamp> {
        match self {
            Self::Stamped(stamp) => Some(stamp),
            _ => None,
        }
    }
}

/// One root, as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Its stamp.
    pub found: Found,
    /// Which root of a stamp this directory is: its own stamp's, else the other root's.
    pub is: Match,
    /// Nothing in it but our own stamp.
    pub empty: bool,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// `-o degraded`
    pub degraded: bool,
    /// `--adopt`
    pub adopt: bool,
    /// `--init`
    pub init: bool,
    /// `sync --discard`: what only the replica has may be lost.
    pub discard: bool,
}

/// What became of the write-intent log that the primary's stamp names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Log {
    /// Nobody looked: the stamp names none, or the caller wants none.
    NotLooked,
    /// Whole, and as new as the stamp.
    Good,
    /// Not there.
    Missing,
    /// There, and not to be relied upon: why, in words.
    Damaged(String),
    /// Whole, but older than the stamp.
    Older,
    /// The log of something else.
    Other,
}

impl Log {
    /// Why it cannot be relied upon; `None` when it can.
    fn fault(&self) -> Option<String> {
        Some(match self {
            Self::Good => return None,
            Self::NotLooked => "no write-intent log was looked at".to_owned(),
            Self::Missing => "the write-intent log is missing".to_owned(),
            Self::Damaged(why) => format!("the write-intent log cannot be read: {why}"),
            Self::Older => "the write-intent log is older than the mirror".to_owned(),
            Self::Other => "the write-intent log is another mirror's".to_owned(),
        })
    }
}

/// The paths as typed, for messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Typed {
    /// PRIMARY
    pub primary: Vec<u8>,
    /// MOUNTPOINT
    pub mountpoint: Vec<u8>,
    /// DIR of `--replica`
    pub replica: Vec<u8>,
    /// It is not about a mount: `mirrorfs sync PRIMARY REPLICA`.
    pub offline: bool,
}

impl Typed {
    /// Two directories, and no mount.
    #[must_use]
    pub fn offline(primary: &Path, replica: &Path) -> Self {
        let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
        Self {
            primary: bytes(primary),
            replica: bytes(replica),
            offline: true,
            ..Self::default()
        }
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Fill the empty replica; the mirror keeps the identity of the primary's stamp, if it has one.
    Seed,
    /// Both stamps say in-sync, and the log covers the replica: believe them, and compare later.
    Attach,
    /// Both stamps say in-sync, no log says more: believe them once a quick comparison agrees.
    AttachCompared,
    /// The log remembers all that the replica may lack: attach at once, heal that live.
    Heal,
    /// Compare everything, repair the replica from the primary.
    AdoptCompareRepair,
    /// Compare everything, change nothing; go on only if nothing differs.
    AdoptCompareOnly,
    /// Run on the primary alone.
    DegradedWithout(Box<Refusal>),
    /// Do not run.
    Refuse(Box<Refusal>),
}

/// Decides. `replica` is the errno when its directory could not be opened.
#[must_use]
pub fn decide(
    primary: &Root,
    replica: Result<&Root, Errno>,
    asked: Asked,
    typed: &Typed,
    log: &Log,
) -> Decision {
    let say = Say { typed };
    if let Some(refusal) = primary_unfit(primary, replica.ok(), asked, &say) {
        return Decision::Refuse(Box::new(refusal));
    }
    let replica = match replica {
        Ok(replica) => replica,
        Err(errno) => return excused(asked, say.missing(errno)),
    };
    let both = asked.adopt && asked.init;
    // A known identity is the only thing that makes a replica ours; all else needs an empty
    // directory and --init, or (never for what belongs to someone else) both words at once.
    let start_over = |refusal: Refusal, taken: bool| {
        if replica.empty && asked.init {
            Decision::Seed
        } else if both && !taken {
            Decision::AdoptCompareRepair
        } else {
            excused(asked, refusal)
        }
    };
    match (&primary.found, &replica.found) {
        (_, Found::Corrupt(corrupt)) => start_over(say.bad_stamp("replica", *corrupt), false),
        (Found::Unstamped, Found::Unstamped) if replica.empty => Decision::Seed,
        (Found::Unstamped | Found::Corrupt(_), Found::Unstamped) if asked.adopt => adopt(asked),
        (Found::Unstamped | Found::Corrupt(_), Found::Unstamped) => {
            start_over(say.not_empty(), false)
        }
        (Found::Stamped(_), Found::Unstamped) if asked.adopt && !replica.empty => adopt(asked),
        // A promoted copy has never had a replica: no disk of one can be missing.
        (Found::Stamped(stamp), Found::Unstamped)
            if replica.empty && stamp.replicas.is_empty() && stamp.is_at_rest() =>
        {
            Decision::Seed
        }
        (Found::Stamped(stamp), Found::Unstamped) => {
            start_over(say.no_stamp(stamp, replica.empty), false)
        }
        (Found::Unstamped | Found::Corrupt(_), Found::Stamped(stamp)) => {
            // The very directory the replica's stamp knows as its primary lost its own stamp.
            let known = primary.is == Match::Primary && replica.is == Match::Replica;
            if asked.adopt && known {
                Decision::AdoptCompareRepair
            } else if asked.adopt && !replica.empty {
                adopt(asked)
            } else if known {
                start_over(say.primary_lost_its_stamp(), false)
            } else {
                start_over(say.belongs_elsewhere(stamp.id, None), true)
            }
        }
        (Found::Stamped(p), Found::Stamped(r)) => {
            if p.id != r.id {
                return start_over(say.belongs_elsewhere(r.id, Some(p.id)), true);
            }
            stamped_pair((primary, p), (replica, r), asked, &say, log)
        }
    }
}

/// Two stamps of one mirror.
fn stamped_pair(
    (primary, p): (&Root, &Stamp),
    (replica, r): (&Root, &Stamp),
    asked: Asked,
    say: &Say<'_>,
    log: &Log,
) -> Decision {
    let history = p.compare_history(r);
    let fork = match history {
        History::Diverged { since } => Some((since, "both copies changed without each other")),
        History::Newer { since } => Some((since, "the replica is ahead of the primary")),
        _ if r.session > p.session => Some((p.epoch(), "the replica is ahead of the primary")),
        _ => None,
    };
    if replica.empty && asked.init && !primary.empty {
        return Decision::Seed;
    }
    if let Some((since, how)) = fork.filter(|_| !asked.discard) {
        // Not excused by `degraded`: the primary may be the wrong, older one.
        return Decision::Refuse(Box::new(say.diverged(since, how)));
    }
    if asked.adopt {
        return Decision::AdoptCompareRepair;
    }
    if was_promoted(primary, replica) {
        return excused(asked, say.was_primary(p, r));
    }
    if replica.is != Match::Replica {
        return excused(asked, say.clone_of("replica"));
    }
    if primary.empty && !replica.empty {
        // Only with `degraded`: healing and verifying are no answer to an emptied primary.
        return excused(asked, say.blank_primary(true));
    }
    let at_rest = are_at_rest(p, r);
    if at_rest && p.covered.is_none() && r.covered.is_none() {
        return Decision::AttachCompared;
    }
    let uncovered = uncovered(p, r, log);
    if uncovered.is_none() {
        if at_rest && replica.empty != primary.empty {
            return Decision::AttachCompared;
        }
        if at_rest {
            return Decision::Attach;
        }
        // A primary at rest was stamped after its replica: that one is an older copy of itself.
        if !p.is_at_rest() {
            return Decision::Heal;
        }
    }
    let mut refusal = not_believed(p, r, history, say, uncovered.as_deref());
    if let (Some(why), Some(_)) = (uncovered, p.covered)
        && !refusal.why.contains(&why)
    {
        refusal.more.insert(0, format!("And {why}."));
    }
    excused(asked, refusal)
}

/// Whether both stamps of a mirror say that the copies were equal when they were last mounted.
pub(super) fn are_at_rest(p: &Stamp, r: &Stamp) -> bool {
    let same = p.compare_history(r) == History::Same && p.session == r.session;
    same && p.is_at_rest() && r.is_at_rest()
}

/// Why the log does not remember all that the replica may lack; `None` when it does.
fn uncovered(p: &Stamp, r: &Stamp, log: &Log) -> Option<String> {
    if p.covered.is_none() {
        return Some("no write-intent log covers this replica".to_owned());
    }
    if let Some(fault) = log.fault() {
        return Some(fault);
    }
    let why = "the replica is an older copy of itself than the write-intent log is about";
    (!p.covers(r)).then(|| why.to_owned())
}

/// Why two stamps of one mirror cannot be believed without a comparison.
fn not_believed(
    p: &Stamp,
    r: &Stamp,
    history: History,
    say: &Say<'_>,
    uncovered: Option<&str>,
) -> Refusal {
    if let History::Stale { since } = history {
        return say.stale(since, p.history.iter().find(|e| e.number > since));
    }
    if r.session < p.session && p.life == Life::Clean {
        return say.stale(p.epoch(), None);
    }
    for stamp in [p, r] {
        let why = match (&stamp.verdict, stamp.life) {
            (Verdict::Inconsistent, _) => {
                "a seeding or resync of the replica was not finished".into()
            }
            (Verdict::Doubt { reason, .. }, _) => {
                format!("the replica failed: {}", harmless(reason))
            }
            (Verdict::InSync, Life::Open) => "the last mount did not end in order".into(),
            (Verdict::InSync, Life::Clean) => continue,
        };
        return say.compare_again(&why);
    }
    say.compare_again(uncovered.unwrap_or("their stamps do not agree"))
}

/// Both were made the primary of this mirror, one after the other.
fn was_promoted(primary: &Root, replica: &Root) -> bool {
    let (Found::Stamped(p), Found::Stamped(r)) = (&primary.found, &replica.found) else {
        return false;
    };
    let both = primary.is == Match::Primary && replica.is == Match::Primary;
    both && p.id == r.id && p.primary != r.primary
}

fn adopt(asked: Asked) -> Decision {
    if asked.init {
        Decision::AdoptCompareRepair
    } else {
        Decision::AdoptCompareOnly
    }
}

fn excused(asked: Asked, refusal: Refusal) -> Decision {
    if asked.degraded {
        Decision::DegradedWithout(Box::new(refusal))
    } else {
        Decision::Refuse(Box::new(refusal))
    }
}

/// What is wrong with the primary, whatever the replica is like.
fn primary_unfit(
    primary: &Root,
    replica: Option<&Root>,
    asked: Asked,
    say: &Say<'_>,
) -> Option<Refusal> {
    let both = asked.adopt && asked.init;
    if primary.is == Match::Replica {
        return Some(say.swapped("primary"));
    }
    let swapped = |replica: &Root| replica.is == Match::Primary && !was_promoted(primary, replica);
    if replica.is_some_and(swapped) {
        return Some(say.swapped("replica"));
    }
    let full = replica.is_some_and(|replica| !replica.empty);
    let stamped = replica.is_some_and(|replica| replica.found != Found::Unstamped);
    if primary.empty && primary.found.stamp().is_none() && (full || (stamped && !asked.init)) {
        // An unmounted primary disk looks exactly like this; nothing is ever deleted on it.
        return Some(say.blank_primary(false));
    }
    if primary.empty && full && !both && !asked.degraded {
        return Some(say.blank_primary(true));
    }
    match &primary.found {
        Found::Corrupt(corrupt) if !both => Some(say.bad_stamp("primary", *corrupt)),
        Found::Stamped(_) if primary.is != Match::Primary && !asked.adopt => {
            Some(say.clone_of("primary"))
        }
        _ => None,
    }
}

/// The messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Say<'a> {
    pub(super) typed: &'a Typed,
}

impl Say<'_> {
    fn primary(&self) -> String {
        show_path(&self.typed.primary)
    }

    fn replica(&self) -> String {
        show_path(&self.typed.replica)
    }

    /// Both as they are typed.
    fn quoted(&self) -> (String, String) {
        (self.typed.primary.quoted(), self.typed.replica.quoted())
    }

    pub(super) fn mount(&self, words: &str) -> String {
        let (primary, replica) = self.quoted();
        if self.typed.offline {
            let words = if words.contains("--init") {
                "--init "
            } else {
                ""
            };
            return format!("mirrorfs sync {words}{primary} {replica}");
        }
        let mountpoint = self.typed.mountpoint.quoted();
        format!("mirrorfs mount {primary} {mountpoint} --replica {replica} {words}")
    }

    pub(super) fn refusal(&self, id: Id, why: String) -> Refusal {
        let what = if self.typed.offline {
            format!("cannot sync {} to {}", self.primary(), self.replica())
        } else {
            format!("cannot mount {}", show_path(&self.typed.mountpoint))
        };
        Refusal {
            id,
            what,
            why,
            more: Vec::new(),
            next: Vec::new(),
        }
    }

    /// A refusal to take the replica back while the mirror serves: it is told to a log, not to
    /// somebody who is about to mount.
    pub(super) fn live(&self, mut refusal: Refusal) -> Box<Refusal> {
        refusal.what = format!("cannot take the replica {} back", self.replica());
        let alone = self.alone();
        refusal.next.retain(|next| *next != alone);
        if !refusal.next.is_empty() {
            let first = format!("mirrorfs umount {}", self.typed.mountpoint.quoted());
            refusal.next.insert(0, ("First".to_owned(), first));
        }
        Box::new(refusal)
    }

    pub(super) fn alone(&self) -> (String, String) {
        let command = self.mount("-o degraded");
        ("To run on one copy for now".to_owned(), command)
    }

    fn afresh(&self, empty: bool) -> (String, String) {
        let mount = self.mount("--init");
        if empty {
            ("To start over with this one".to_owned(), mount)
        } else {
            ("To start over, empty it and".to_owned(), mount)
        }
    }

    pub(super) fn compared(&self) -> (String, String) {
        (
            "To compare, and repair the replica".to_owned(),
            self.mount("--adopt"),
        )
    }

    pub(super) fn missing(&self, errno: Errno) -> Refusal {
        let why = format!(
            "the replica {} cannot be opened: {}.",
            self.replica(),
            Named(errno)
        );
        let mut refusal = self.refusal(Id::ReplicaMissing, why);
        refusal.next = vec![self.alone()];
        refusal
    }

    fn no_stamp(&self, stamp: &Stamp, empty: bool) -> Refusal {
        let why = format!("the replica {} carries no mirrorfs stamp.", self.replica());
        let mut refusal = self.refusal(Id::NoStamp, why);
        if stamp.replicas.is_empty() {
            refusal.more = vec!["This mirror has never had a replica.".to_owned()];
        } else {
            let day = clock::rfc3339(stamp.written);
            let day = day.get(..16).unwrap_or_default().replace('T', " ");
            let there = if stamp.replica_path == self.typed.replica {
                "there".to_owned()
            } else {
                format!("to {}", show_path(&stamp.replica_path))
            };
            refusal.more = vec![format!(
                "This mirror last wrote {there} at {day} UTC. Is the disk mounted?"
            )];
        }
        refusal.next = vec![self.alone(), self.afresh(empty)];
        if !empty {
            let want = "To compare it, if it is a copy".to_owned();
            refusal.next.push((want, self.mount("--adopt")));
        }
        refusal
    }

    fn not_empty(&self) -> Refusal {
        let why = format!(
            "the replica {} is not empty and carries no mirrorfs stamp.",
            self.replica()
        );
        let mut refusal = self.refusal(Id::NotEmpty, why);
        refusal.next = vec![
            (
                "To compare it, if it is a copy".to_owned(),
                self.mount("--adopt"),
            ),
            (
                "To make it a copy, deleting what differs".to_owned(),
                self.mount("--adopt --init"),
            ),
        ];
        refusal
    }

    fn blank_primary(&self, stamped: bool) -> Refusal {
        let why = format!(
            "the primary {} is empty, but the replica {} is not.",
            self.primary(),
            self.replica()
        );
        let mut refusal = self.refusal(Id::BlankPrimary, why);
        refusal.more = vec!["Is the primary's disk mounted? Nothing was deleted.".to_owned()];
        if stamped {
            let want = "If all of it was deleted on purpose".to_owned();
            refusal.next = vec![(want, self.mount("--adopt --init"))];
        }
        refusal
    }

    fn swapped(&self, which: &str) -> Refusal {
        let (path, is) = match which {
            "primary" => (self.primary(), "replica"),
            _ => (self.replica(), "primary"),
        };
        let why = format!("{path} is the {is} of a mirror, not its {which}.");
        let mut refusal = self.refusal(Id::Swapped, why);
        let mountpoint = self.typed.mountpoint.quoted();
        let (primary, replica) = self.quoted();
        let right = if self.typed.offline {
            format!("mirrorfs sync {replica} {primary}")
        } else {
            format!("mirrorfs mount {replica} {mountpoint} --replica {primary}")
        };
        refusal.next = vec![("The other way round".to_owned(), right)];
        refusal
    }

    fn belongs_elsewhere(&self, theirs: MirrorId, ours: Option<MirrorId>) -> Refusal {
        let mut why = format!("the replica {} belongs to mirror {theirs}", self.replica());
        why += &match ours {
            Some(ours) => format!(", the primary {} to mirror {ours}.", self.primary()),
            None => format!("; the primary {} carries no stamp.", self.primary()),
        };
        let mut refusal = self.refusal(Id::Foreign, why);
        refusal.more =
            vec!["Are both disks mounted, and are these the right directories?".to_owned()];
        refusal.next = vec![self.alone(), self.afresh(false)];
        refusal
    }

    fn primary_lost_its_stamp(&self) -> Refusal {
        let why = format!(
            "the primary {} has lost its mirrorfs stamp.",
            self.primary()
        );
        let mut refusal = self.refusal(Id::CompareAgain, why);
        refusal.next = vec![self.compared()];
        refusal
    }

    fn clone_of(&self, which: &str) -> Refusal {
        let path = if which == "primary" {
            self.primary()
        } else {
            self.replica()
        };
        let why = format!("the {which} {path} carries the stamp of another directory.");
        let mut refusal = self.refusal(Id::Clone, why);
        refusal.more = vec!["It is a copy of it, or was moved to another disk.".to_owned()];
        refusal.next = vec![self.compared()];
        if which == "replica" {
            refusal.next.insert(0, self.alone());
        }
        refusal
    }

    fn bad_stamp(&self, which: &str, corrupt: Corrupt) -> Refusal {
        let path = if which == "primary" {
            self.primary()
        } else {
            self.replica()
        };
        let why = format!("the mirrorfs stamp of the {which} {path} is {corrupt}.");
        let mut refusal = self.refusal(Id::BadStamp, why);
        if corrupt == Corrupt::Damaged {
            let want = "To compare, repair the replica and stamp both".to_owned();
            refusal.next = vec![(want, self.mount("--adopt --init"))];
        }
        if which == "replica" {
            refusal.next.insert(0, self.alone());
        }
        refusal
    }

    fn stale(&self, since: u64, left: Option<&Epoch>) -> Refusal {
        let when = left.map_or_else(String::new, |epoch| {
            format!(" ({})", clock::rfc3339(epoch.began))
        });
        let why = format!(
            "the replica {} is stale: it lacks changes made after epoch {since}{when}.",
            self.replica()
        );
        let mut refusal = self.refusal(Id::Stale, why);
        refusal.next = vec![self.alone(), self.compared()];
        refusal
    }

    fn was_primary(&self, p: &Stamp, r: &Stamp) -> Refusal {
        let why = format!(
            "the replica {} was this mirror's primary until epoch {}; it lacks what was changed since.",
            self.replica(),
            r.epoch()
        );
        let mut refusal = self.refusal(Id::Stale, why);
        let when = p.history.iter().find(|epoch| epoch.number > r.epoch());
        refusal.more = when
            .map(|epoch| {
                format!(
                    "{} was promoted at {}.",
                    self.primary(),
                    clock::rfc3339(epoch.began)
                )
            })
            .into_iter()
            .collect();
        refusal.next = vec![self.alone(), self.compared()];
        refusal
    }

    pub(super) fn compare_again(&self, reason: &str) -> Refusal {
        let why = format!("the copies must be compared again: {reason}.");
        let mut refusal = self.refusal(Id::CompareAgain, why);
        refusal.next = vec![self.alone(), self.compared()];
        refusal
    }

    fn diverged(&self, since: u64, how: &str) -> Refusal {
        let why = format!("{how} after epoch {since}. mirrorfs will not choose.");
        let mut refusal = self.refusal(Id::Diverged, why);
        refusal.more =
            vec!["Was one of the two promoted, or restored from an older copy?".to_owned()];
        let (primary, replica) = self.quoted();
        refusal.next = vec![
            (
                "To look".to_owned(),
                format!("mirrorfs verify {primary} {replica}"),
            ),
            (
                "To keep the primary's changes only".to_owned(),
                format!("mirrorfs sync --discard {replica} {primary} {replica}"),
            ),
            (
                "To keep the replica's changes only".to_owned(),
                format!(
                    "mirrorfs promote --force {replica} && \
                     mirrorfs sync --discard {primary} {replica} {primary}"
                ),
            ),
        ];
        refusal
    }
}

#[cfg(test)]
mod tests;
