// SPDX-License-Identifier: MIT
//! The write-intent log: what may differ between the copies is on record before it does.
//!
//! An op *pins* marks that cover what it is about to change. If all of them are hot that costs no
//! I/O; a cold one is written first, and durable when [`Journal::pin`] returns. Marks stay warm
//! until a *checkpoint* clears them: the quiet ones are noted ([`Journal::begin_checkpoint`]), the
//! caller makes both copies durable, and those still quiet are cleared
//! ([`Journal::end_checkpoint`]). After a crash what was not cleared is read back, *dirty*: it is all
//! that may differ. docs/FORMAT.md draws the file and says why it can be believed.

mod commit;
mod file;
mod frame;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod log;
mod mark;
mod record;
mod region;
mod renames;
mod table;
#[cfg(test)]
mod tests;
mod trees;

use std::collections::{BTreeSet, HashSet};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::sys::{self, Errno, Result};
use commit::{Commit, Fold, Snapshot};
use file::{Directory, Disk};
use log::{Log, Owner, RECORDS_MAX};
use mark::{Draft, Whereabouts};
use record::{CLEARED_MAX, Marked, PATHS_MAX, Record};
use renames::{Renamed, Renames};
use table::Table;

pub use mark::{Aspect, Describe, Key, Mark, Object, Origin, Pins, Twin, Want};
pub use region::{Cut, region, regions};

/// What the log is to survive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Intent {
    /// Power cuts: a cold pin waits for the disk.
    #[default]
    Power,
    /// The death of the daemon: nothing is flushed. After a restart of the machine the log is
    /// [`Unreadable::Damaged`], unless it was closed ([`Journal::close`]).
    Crash,
}

/// Which log, and which opening of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogId {
    /// Random; never 0.
    pub id: u64,
    /// One higher at every opening that reached the stamps.
    pub generation: u64,
}

/// Why a log proves nothing. All but `Io` mean that the whole tree is in doubt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// There is none.
    Missing,
    /// It is not what was written; in words.
    Damaged(String),
    /// It is another one, or one of another mirror or replica, or has been opened since.
    Other,
    /// It is a copy from before.
    Older,
    /// It could not be read, or not be written anew.
    Io(Errno),
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing => f.write_str("there is no log"),
            Self::Damaged(what) => write!(f, "the log is damaged: {what}"),
            Self::Other => f.write_str("the log is not the one that was written last"),
            Self::Older => f.write_str("the log is older than the one that was written last"),
            Self::Io(errno) => write!(f, "the log cannot be read: {errno}"),
        }
    }
}

impl std::error::Error for Unreadable {}

/// For status and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Marks that are not cleared.
    pub alive: u64,
    /// Those of them that must be healed.
    pub dirty: u64,
    /// How many objects the dirty ones are about.
    pub dirty_objects: u64,
    /// Bytes that dirty regions cover, where that is known.
    pub dirty_bytes: u64,
    /// Frames appended since the log was opened.
    pub appended: u64,
    /// How often an append was flushed since.
    pub flushes: u64,
    /// Marks cleared since.
    pub clears: u64,
    /// How often the log was written anew since.
    pub rewrites: u64,
    /// Size of the file.
    pub log_bytes: u64,
}

/// Numbers that tests make small.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The smallest file, and the step it grows by (bytes).
    size: u64,
    /// Marks alive at which a checkpoint is due.
    crowd: usize,
    /// Marks alive at which all become one.
    hard: usize,
}

const LIMITS: Limits = Limits {
    size: 4 << 20,
    crowd: 8192,
    hard: 65536,
};

/// A dirty mark, and the paths (relative to the root) where its object may be, likeliest first.
pub type Dirty = (Arc<Mark>, Vec<Box<[u8]>>);

/// Renames that stay on record although every path on record has been led through them: one that is
/// on its way may be missing in the path of a mark that is made meanwhile.
const RENAMES_KEPT: usize = 32;

/// Marks that were quiet when a checkpoint began.
#[derive(Debug)]
#[must_use = "once both copies are durable, hand it to end_checkpoint"]
pub struct Checkpoint {
    marks: Vec<Arc<Mark>>,
    /// Which one.
    number: u64,
}

impl Checkpoint {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// Whether there is nothing to clear.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }
}

/// The write-intent log of one replica.
///
/// Lock order: `collapsing`, then any one of the others alone, or `renames` and in it a mark's
/// whereabouts. None is held across I/O but
/// `collapsing`, which is taken at the hard limit only.
#[derive(Debug)]
pub struct Journal {
    /// The machine was restarted since it was written last.
    restarted: bool,
    table: Table,
    commit: Commit,
    limits: Limits,
    next_seq: AtomicU64,
    next_id: AtomicU64,
    /// Numbers of what is being described or on its way to the disk: renames from the least of
    /// them on are still needed.
    drafts: Mutex<BTreeSet<u64>>,
    renames: Mutex<Renames>,
    collapsing: Mutex<()>,
    /// The number of the last checkpoint begun.
    checkpoints: Mutex<u64>,
    /// Marks alive at which a checkpoint is due next.
    crowd_at: AtomicUsize,
    clears: AtomicU64,
}

/// A number that is being used; forgotten when dropped.
struct Numbered<'a> {
    journal: &'a Journal,
    seq: u64,
}

impl Drop for Numbered<'_> {
    fn drop(&mut self) {
        self.journal.drafts.lock().remove(&self.seq);
    }
}

/// The id of the machine's boot; 0 if unknown.
fn boot_id() -> u128 {
    let text = sys::files::read(Path::new("/proc/sys/kernel/random/boot_id")).unwrap_or_default();
    let digits = text.iter().filter(|byte| byte.is_ascii_hexdigit());
    let digits: String = digits.map(|byte| char::from(*byte)).collect();
    u128::from_str_radix(&digits, 16).unwrap_or(0)
}

fn log_id() -> Result<u64> {
    let random = sys::random::u128()?;
    Ok(u64::try_from(random >> 64).unwrap_or(1).max(1))
}

impl Journal {
    /// A new, empty log for replica `replica` of mirror `mirror` in `dir`, in place of whatever is
    /// there.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn create(dir: OwnedFd, replica: u32, mirror: u128, intent: Intent) -> Result<Self> {
        let disk = Box::new(Directory::new(dir, replica)?);
        let owner = Owner {
            mirror,
            replica,
            intent,
            boot: boot_id(),
        };
        Self::create_on(disk, &owner, LIMITS)
    }

    fn create_on(disk: Box<dyn Disk>, owner: &Owner, limits: Limits) -> Result<Self> {
        let id = LogId {
            id: log_id()?,
            generation: 1,
        };
        let log = Log::create(disk, owner, (id, 0), limits.size, &[], 1)?;
        Ok(Self::with(log, limits, 1))
    }

    /// Opens the log that `known` names: the marks that were not cleared become this journal's,
    /// all dirty, and are written anew as the next generation.
    ///
    /// `known` is what the primary's stamp says; the log may be one generation ahead of it (crashes
    /// between log and stamp, however many). The new generation must be stamped before anything is
    /// pinned.
    ///
    /// # Errors
    /// Why it proves nothing. The log is left as it is.
    pub fn open(
        dir: OwnedFd,
        replica: u32,
        mirror: u128,
        known: LogId,
        intent: Intent,
    ) -> std::result::Result<Self, Unreadable> {
        let disk = Box::new(Directory::new(dir, replica).map_err(Unreadable::Io)?);
        let owner = Owner {
            mirror,
            replica,
            intent,
            boot: boot_id(),
        };
        Self::open_on(disk, &owner, known, LIMITS)
    }

    fn open_on(
        mut disk: Box<dyn Disk>,
        owner: &Owner,
        known: LogId,
        limits: Limits,
    ) -> std::result::Result<Self, Unreadable> {
        let (header, found) = log::read(&mut *disk, owner, known)?;
        let next_seq = found.next_seq;
        let mut marks = Vec::new();
        let mut records = Vec::new();
        for marked in found.marks.into_values() {
            let mut paths = vec![marked.object.path.clone()];
            paths.extend(marked.others.iter().cloned());
            let paths = found.renames.candidates(&paths, marked.since, next_seq);
            let whereabouts = Whereabouts {
                paths,
                since: next_seq - 1,
            };
            let mut draft = Draft {
                seq: marked.seq,
                serial: None,
                aspect: marked.aspect,
                object: marked.object,
                origin: marked.origin,
                stamp: marked.stamp,
            };
            records.push(encode_again(&draft, &whereabouts));
            if let Some(likeliest) = whereabouts.paths.first() {
                draft.object.path.clone_from(likeliest);
            }
            marks.push((draft, whereabouts));
        }
        let id = LogId {
            id: header.log.id,
            generation: known.generation + 1,
        };
        // Those who died before they could stamp had the same generation, never the same epoch.
        let epoch = header.epoch + 1;
        let log = Log::create(disk, owner, (id, epoch), limits.size, &records, next_seq);
        let log = log.map_err(Unreadable::Io)?;
        let restarted = owner.boot == 0 || header.boot != owner.boot;
        let journal = Self {
            restarted,
            ..Self::with(log, limits, next_seq)
        };
        for (draft, whereabouts) in marks {
            let mark = Mark::replayed(draft, whereabouts, journal.new_id());
            journal.table.insert_stranger(&mark);
            if mark.is_whole() {
                journal.table.set_whole(&mark);
            }
        }
        Ok(journal)
    }

    fn with(log: Log, limits: Limits, next_seq: u64) -> Self {
        Self {
            restarted: false,
            table: Table::default(),
            commit: Commit::new(log),
            limits,
            next_seq: AtomicU64::new(next_seq),
            next_id: AtomicU64::new(1),
            drafts: Mutex::default(),
            renames: Mutex::default(),
            collapsing: Mutex::default(),
            checkpoints: Mutex::default(),
            crowd_at: AtomicUsize::new(limits.crowd),
            clears: AtomicU64::new(0),
        }
    }

    /// Which log this is, for the stamps.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        self.commit.id()
    }

    fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    fn number(&self) -> Numbered<'_> {
        // Under the lock: nobody finds the next number without this one among the drafts.
        let mut drafts = self.drafts.lock();
        let seq = self.next_seq.fetch_add(1, Ordering::Relaxed);
        drafts.insert(seq);
        Numbered { journal: self, seq }
    }

    /// Whether the machine was restarted since the log was written last.
    #[must_use]
    pub fn was_restarted(&self) -> bool {
        self.restarted
    }

    /// Pins marks that cover `wants`, and puts the rename `from` -> `to` (paths relative to the
    /// root) on record if one is about to be made. What is hot costs no I/O; what is cold is
    /// durable when this returns.
    ///
    /// # Errors
    /// What broke the log (from then on always the same), or `ENAMETOOLONG` for a path of a
    /// megabyte. Nothing may be begun then.
    pub fn pin(&self, wants: &[Want<'_>], renamed: Option<(&[u8], &[u8])>) -> Result<Pins> {
        self.commit.check()?;
        let mut pins = Pins::default();
        let mut cold: SmallVec<[&Want<'_>; 3]> = SmallVec::new();
        for want in wants {
            match self.table.pin(&want.key) {
                Some(mark) => pins.push(mark),
                None => cold.push(want),
            }
        }
        let mut ticket = 0;
        let mut numbers = SmallVec::new();
        if !cold.is_empty() || renamed.is_some() {
            ticket = self.record(&cold, renamed, &mut pins, &mut numbers)?;
        }
        if ticket > 0 || pins.marks().iter().any(|mark| mark.is_pending()) {
            self.commit.wait(ticket, pins.marks(), self)?;
        }
        Ok(pins)
    }

    /// Makes the marks that are wanted and puts them in the queue of the log; its ticket, or 0.
    fn record<'a>(
        &'a self,
        cold: &[&Want<'_>],
        renamed: Option<(&[u8], &[u8])>,
        pins: &mut Pins,
        numbers: &mut SmallVec<[Numbered<'a>; 4]>,
    ) -> Result<u64> {
        if self.table.alive() + cold.len() > self.limits.hard {
            self.collapse()?;
        }
        let stamp = stamp_now();
        let mut drafts = Vec::with_capacity(cold.len());
        for want in cold {
            let number = self.number();
            let (object, origin) = (want.describe)();
            let draft = Draft {
                seq: number.seq,
                serial: Some(want.key.serial),
                aspect: want.key.aspect,
                object,
                origin,
                stamp,
            };
            let record = encode_draft(&draft)?;
            let mark = Mark::pending(draft, self.new_id(), false);
            drafts.push((want.key, mark, record));
            numbers.push(number);
        }
        let rename = renamed.map(|(from, to)| {
            let number = self.number();
            let renamed = Renamed {
                seq: number.seq,
                from: from.into(),
                to: to.into(),
            };
            numbers.push(number);
            renamed
        });
        let mut records = Vec::new();
        if let Some(renamed) = rename {
            let record = Record::Renamed(renamed.clone()).encode();
            fits(&record)?;
            records.push(record);
            self.renames.lock().push(renamed);
        }
        let mut marks = Vec::new();
        for (key, mark, record) in drafts {
            if let Some(other) = self.table.pin_or_insert(&key, &mark) {
                pins.push(other);
                continue;
            }
            records.push(record);
            marks.push(Arc::clone(&mark));
            pins.push(mark);
        }
        if records.is_empty() {
            return Ok(0);
        }
        Ok(self.commit.submit(records, marks))
    }

    /// At the hard limit: one mark on the whole tree for all of them.
    fn collapse(&self) -> Result<()> {
        let _one_at_a_time = self.collapsing.lock();
        let before = self.table.alive();
        if before < self.limits.hard / 2 {
            return Ok(());
        }
        let tree = self.mark_tree(Object::default())?;
        let mut seqs = Vec::new();
        for mark in self.table.all() {
            // What is not on disk yet is waited for by whoever makes it, and stays.
            if Arc::ptr_eq(&mark, &tree) || mark.is_pending() {
                continue;
            }
            if mark.give_up(&tree) {
                self.table.remove(&mark);
                seqs.push(mark.seq);
            }
        }
        tracing::warn!(
            id = "MF-0060",
            "{before} parts of the replica may differ, more than are kept apart: all of it will be \
             compared"
        );
        let cleared = self.clear(&seqs);
        self.crowd_at.store(self.limits.crowd, Ordering::Release);
        cleared
    }

    /// Puts on record that these are no longer needed.
    fn clear(&self, seqs: &[u64]) -> Result<()> {
        if seqs.is_empty() {
            return Ok(());
        }
        let chunks = seqs.chunks(CLEARED_MAX);
        let records = chunks.map(|seqs| Record::Cleared(seqs.to_vec()).encode());
        let ticket = self.commit.submit(records.collect(), Vec::new());
        self.commit.wait(ticket, &[], self)?;
        self.clears.fetch_add(seqs.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Whether a mark covers `key` now, so that a pin would cost no I/O.
    #[must_use]
    pub fn is_hot(&self, key: &Key) -> bool {
        let mut pins = Pins::default();
        self.table.pin(key).map(|mark| pins.push(mark)).is_some()
    }

    /// Whether the node with this serial has marks of its own: paths in the log that end when it
    /// gets another name.
    #[must_use]
    pub fn has_marks(&self, serial: u64) -> bool {
        self.table.has_marks(serial)
    }

    /// The node with this serial has been made anew on the replica ([`Mark::lose_twin`]).
    pub fn lose_twin(&self, serial: u64) {
        self.table.lose_twin(serial);
    }

    /// Pins the mark whose cover id was `id` when somebody inherited from it; `None` once it has
    /// left, or somebody ended the inheritance.
    #[must_use]
    pub fn pin_cover(&self, id: u64) -> Option<Pins> {
        self.commit.check().ok()?;
        let mut pins = Pins::default();
        let mark = self.table.pin_cover(id)?;
        let bad = mark.is_pending() || self.table.is_spent(&mark);
        pins.push(mark);
        (!bad).then_some(pins)
    }

    /// Gives the mark with cover id `id` another one: who inherited from it does no longer.
    pub fn retire_cover(&self, id: u64) {
        self.table.retire_cover(id, self.new_id());
    }

    /// The marks that must be healed, oldest first, each with paths where its object may be now,
    /// likeliest first, 16 at most. Whoever heals one takes a pin on it first ([`Pins::of`]).
    #[must_use]
    pub fn dirty(&self) -> Vec<Dirty> {
        let mut marks = self.table.all();
        marks.retain(|mark| mark.is_dirty());
        marks.sort_unstable_by_key(|mark| mark.seq);
        let renames = self.renames.lock();
        let with_paths = marks.into_iter().map(|mark| {
            let paths = candidates(&renames, &mark, u64::MAX);
            (mark, paths)
        });
        with_paths.collect()
    }

    /// Every mark alive must be healed.
    pub fn soil_all(&self) {
        for mark in self.table.all() {
            mark.set_dirty();
        }
    }

    /// Notes the marks that are neither pinned nor dirty. Make both copies durable next.
    ///
    /// It ends a checkpoint that was begun before: that one clears nothing, since what was used
    /// between the two no longer shows.
    pub fn begin_checkpoint(&self) -> Checkpoint {
        self.begin_clearing(self.table.all())
    }

    /// The same for these alone. To be called by whoever makes checkpoints.
    pub fn begin_clearing(&self, mut marks: Vec<Arc<Mark>>) -> Checkpoint {
        let mut number = self.checkpoints.lock();
        *number += 1;
        marks.retain(|mark| mark.quiet());
        Checkpoint {
            marks,
            number: *number,
        }
    }

    /// Clears those that nobody has used or soiled since; how many. Only to be called when both
    /// copies have been made durable since [`Journal::begin_checkpoint`].
    ///
    /// # Errors
    /// What broke the log.
    pub fn end_checkpoint(&self, checkpoint: Checkpoint) -> Result<usize> {
        self.commit.check()?;
        let number = self.checkpoints.lock();
        let mut marks = checkpoint.marks;
        if *number != checkpoint.number {
            return Ok(0);
        }
        marks.retain(|mark| mark.retire());
        drop(number);
        let seqs: Vec<_> = marks.iter().map(|mark| mark.seq).collect();
        for mark in &marks {
            self.table.remove(mark);
        }
        // What is left cannot be cleared now: the next ones are waited for.
        let left = self.table.alive();
        let next = self.limits.crowd.max(left + self.limits.crowd / 2);
        self.crowd_at.store(next, Ordering::Release);
        self.clear(&seqs)?;
        Ok(seqs.len())
    }

    /// Whether so many marks are alive that a checkpoint is due. Says so once per half a limit: marks
    /// that cannot be cleared ask for nothing again and again.
    #[must_use]
    pub fn is_due(&self) -> bool {
        let (alive, at) = (self.table.alive(), self.crowd_at.load(Ordering::Acquire));
        let next = alive + self.limits.crowd / 2;
        alive >= at
            && self
                .crowd_at
                .compare_exchange(at, next, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    /// Whether anything is dirty.
    #[must_use]
    pub fn has_dirty(&self) -> bool {
        self.table.all().iter().any(|mark| mark.is_dirty())
    }

    /// For status and tests.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let marks = self.table.all();
        let dirty: Vec<_> = marks.iter().filter(|mark| mark.is_dirty()).collect();
        let objects: HashSet<_> = dirty.iter().map(|mark| mark.object.ino).collect();
        // A log may say anything of a file's size.
        let bytes = dirty.iter().filter_map(|mark| mark.aspect.bytes());
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            alive: marks.len() as u64,
            dirty: dirty.len() as u64,
            dirty_objects: objects.len() as u64,
            dirty_bytes: bytes.fold(0, u64::saturating_add),
            appended: of(&self.commit.tally.frames),
            flushes: of(&self.commit.tally.flushes),
            clears: of(&self.clears),
            rewrites: of(&self.commit.tally.rewrites),
            log_bytes: of(&self.commit.tally.log_bytes),
        }
    }

    /// Ends it in order: with intent=crash the log is made durable, so that it can be believed
    /// after a restart of the machine. Every later cold pin answers `ESHUTDOWN`.
    ///
    /// # Errors
    /// What broke the log.
    pub fn close(&self) -> Result<()> {
        self.commit.close(self)
    }
}

impl Fold for Journal {
    fn snapshot(&self) -> Snapshot {
        let (floor, next_seq) = {
            let drafts = self.drafts.lock();
            let next = self.next_seq.load(Ordering::Relaxed);
            (drafts.first().copied().unwrap_or(next), next)
        };
        let renames = self.renames.lock();
        let kept = renames.newest(RENAMES_KEPT).min(floor);
        let mut alive = self.table.all();
        // What is not on disk yet comes behind, out of the queue; what is retired needs no more.
        alive.retain(|mark| !mark.is_pending() && !mark.is_retired());
        alive.sort_unstable_by_key(|mark| mark.seq);
        let mut records: Vec<_> = renames
            .from(kept)
            .map(|renamed| Record::Renamed(renamed.clone()).encode())
            .collect();
        let mut marks = Vec::with_capacity(alive.len());
        for mark in alive {
            let paths = candidates(&renames, &mark, floor);
            let since = mark.whereabouts.lock().since.max(floor - 1);
            let whereabouts = Whereabouts { paths, since };
            records.push(encode_again(&mark.draft(), &whereabouts));
            marks.push((mark, whereabouts));
        }
        Snapshot {
            records,
            marks,
            kept,
            next_seq,
        }
    }

    fn adopt(&self, snapshot: Snapshot) {
        let mut renames = self.renames.lock();
        for (mark, whereabouts) in snapshot.marks {
            *mark.whereabouts.lock() = whereabouts;
        }
        renames.drop_below(snapshot.kept);
    }
}

/// Where the object of a mark may be after the renames numbered below `until`.
fn candidates(renames: &Renames, mark: &Mark, until: u64) -> Vec<Box<[u8]>> {
    let whereabouts = mark.whereabouts.lock();
    if whereabouts.paths.is_empty() {
        let path = std::slice::from_ref(&mark.object.path);
        return renames.candidates(path, whereabouts.since, until);
    }
    renames.candidates(&whereabouts.paths, whereabouts.since, until)
}

/// The time that what is born from now on has, or a later one.
fn stamp_now() -> (i64, u32) {
    let now = sys::clock::inode_now();
    (now.tv_sec, u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// # Errors
/// `ENAMETOOLONG`: no frame can hold it.
fn fits(record: &[u8]) -> Result<()> {
    if record.len() > RECORDS_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    Ok(())
}

fn encode_draft(draft: &Draft) -> Result<Vec<u8>> {
    let whereabouts = Whereabouts {
        paths: Vec::new(),
        since: draft.seq,
    };
    let record = marked(draft, &whereabouts, 0).encode();
    fits(&record)?;
    Ok(record)
}

/// A mark that was in a log before, with as many of the paths found since as fit.
fn encode_again(draft: &Draft, whereabouts: &Whereabouts) -> Vec<u8> {
    let wide = marked(draft, whereabouts, PATHS_MAX).encode();
    if wide.len() <= RECORDS_MAX {
        return wide;
    }
    // With the path it came with it fitted.
    marked(draft, whereabouts, 0).encode()
}

fn marked(draft: &Draft, whereabouts: &Whereabouts, paths: usize) -> Record {
    let mut paths = whereabouts.paths.iter().take(paths).cloned();
    let mut object = draft.object.clone();
    if let Some(path) = paths.next() {
        object.path = path;
    }
    Record::Marked(Marked {
        seq: draft.seq,
        since: whereabouts.since,
        aspect: draft.aspect,
        object,
        others: paths.collect(),
        origin: draft.origin.clone(),
        stamp: draft.stamp,
    })
}
