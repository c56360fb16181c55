// SPDX-License-Identifier: MIT
//! Marks: what may differ between the copies, who holds it that way, and whether it must be healed.
//!
//! All that changes of a mark while it lives is one atomic word. That is what makes "cleared only
//! if nobody used it since" one comparison instead of a lock:
//!
//! ```text
//!   63 RETIRED   left the journal: a pin that finds it makes a new mark
//!   62 USED      pinned since the checkpoint began
//!   61 DIRTY     must be healed before it may be cleared
//!   60 PENDING   not on disk yet: whoever pinned it waits
//!   .. 0         pins
//! ```

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use smallvec::SmallVec;

const RETIRED: u64 = 1 << 63;
const USED: u64 = 1 << 62;
const DIRTY: u64 = 1 << 61;
const PENDING: u64 = 1 << 60;
const PINS: u64 = PENDING - 1;

/// What of an object a mark covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Aspect {
    /// Its attributes.
    Node,
    /// Its bytes from `start` up to `end` (bytes; `u64::MAX`: to the end of the file), and its
    /// attributes.
    Data {
        /// The first byte.
        start: u64,
        /// The byte after the last one.
        end: u64,
    },
    /// The names in a directory, its attributes, and all of what was born in it since the stamp
    /// (birth time at or after it), through directories born since as well.
    Dir,
    /// `Dir`, the attributes of all files in it, and the content of those that are small on either
    /// copy (`store::op::SMALL_FILE`). One that becomes larger needs another mark.
    DirData,
    /// It got another name: all of it, through everything below, unless the twin proves who it is
    /// on the replica.
    Moved,
    /// It and everything below it.
    Tree,
    /// `Tree`, of which the replica has nothing but what was brought there for the sake of this mark,
    /// or of one that it was a part of.
    Fill,
}

impl Aspect {
    /// All of a file's bytes.
    pub const CONTENT: Self = Self::Data {
        start: 0,
        end: u64::MAX,
    };

    /// Whether a mark of this aspect covers `other` of the same object too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tree | Self::Fill, _) => true,
            (
                Self::Data { start, end },
                Self::Data {
                    start: from,
                    end: to,
                },
            ) => start <= from && end >= to,
            (Self::Data { .. } | Self::Dir | Self::DirData, Self::Node)
            | (Self::DirData, Self::Dir) => true,
            (mine, other) => mine == other,
        }
    }

    /// Whether everything below is covered, whatever it is and wherever it came from.
    #[must_use]
    pub fn is_tree(&self) -> bool {
        matches!(self, Self::Tree | Self::Fill)
    }

    /// How many bytes of the object it covers, where that is known.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        match self {
            Self::Data { end: u64::MAX, .. } => None,
            Self::Data { start, end } => Some(end.saturating_sub(*start)),
            _ => None,
        }
    }
}

/// What a mark is found by while its node is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The node's serial: never used twice in one session.
    pub serial: u64,
    /// What of it.
    pub aspect: Aspect,
}

/// How an object is found again by another session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object {
    /// Its inode number on the primary; 0 when there is none.
    pub ino: u64,
    /// Type and bytes of `name_to_handle_at(2)` on the primary; empty if none. One of more than
    /// 255 bytes is not kept (the kernel's are at most 132).
    pub handle: Box<[u8]>,
    /// Its path relative to the root, without a slash at either end; empty for the root, `/` where
    /// it is not known.
    pub path: Box<[u8]>,
}

/// Who an object is on the replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Twin {
    /// Its inode number there.
    pub ino: u64,
    /// Its birth time there: seconds since 1970 and nanoseconds.
    pub btime: Option<(i64, u32)>,
}

/// Where a moved object came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its path before, relative to the root.
    pub path: Box<[u8]>,
    /// Who it is on the replica.
    pub twin: Option<Twin>,
}

/// Tells what a mark is about: asked for only when the mark must be made.
pub type Describe<'a> = dyn Fn() -> (Object, Option<Origin>) + 'a;

/// A mark that an op needs.
#[derive(Clone, Copy)]
pub struct Want<'a> {
    /// What it is found by.
    pub key: Key,
    /// Called only when the mark is cold, with no lock of the journal held.
    pub describe: &'a Describe<'a>,
}

impl std::fmt::Debug for Want<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Want")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// Where the object of a mark may be by now; replaced when the list of renames is folded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Whereabouts {
    /// Paths, likeliest first, in place of the object's; empty: the object's path.
    pub(crate) paths: Vec<Box<[u8]>>,
    /// The last rename (by its sequence number) that is in them already.
    pub(crate) since: u64,
}

/// Something that may differ between the copies, on record.
#[derive(Debug)]
pub struct Mark {
    /// Number in the log: later marks and renames have higher ones.
    pub seq: u64,
    /// What it is about, as it was when the mark was made (or when the log was read).
    pub object: Object,
    /// What of it.
    pub aspect: Aspect,
    /// Where it came from; of `Moved` marks.
    origin: Option<Origin>,
    /// Its twin on the replica is another one by now.
    is_stray: AtomicBool,
    /// The kernel's coarse wall clock before the mark was written: what is born under it has a
    /// birth time at or after this. Seconds since 1970 and nanoseconds.
    pub stamp: (i64, u32),
    /// The node's serial, if the mark was made for a node of this session.
    pub(crate) serial: Option<u64>,
    pub(crate) whereabouts: Mutex<Whereabouts>,
    word: AtomicU64,
    id: AtomicU64,
    /// The mark that took over when this one was given up with pins on it.
    heir: OnceLock<Arc<Self>>,
}

impl PartialEq for Mark {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Mark {}

impl Hash for Mark {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::ptr::hash(self, state);
    }
}

/// What a mark is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Draft {
    pub(crate) seq: u64,
    pub(crate) serial: Option<u64>,
    pub(crate) aspect: Aspect,
    pub(crate) object: Object,
    pub(crate) origin: Option<Origin>,
    pub(crate) stamp: (i64, u32),
}

impl Mark {
    fn new(draft: Draft, whereabouts: Whereabouts, id: u64, word: u64) -> Arc<Self> {
        Arc::new(Self {
            seq: draft.seq,
            object: draft.object,
            aspect: draft.aspect,
            origin: draft.origin,
            is_stray: AtomicBool::new(false),
            stamp: draft.stamp,
            serial: draft.serial,
            whereabouts: Mutex::new(whereabouts),
            word: AtomicU64::new(word),
            id: AtomicU64::new(id),
            heir: OnceLock::new(),
        })
    }

    /// One that is not on disk yet, with one pin for whoever makes it.
    pub(crate) fn pending(draft: Draft, id: u64, dirty: bool) -> Arc<Self> {
        let whereabouts = Whereabouts {
            paths: Vec::new(),
            since: draft.seq,
        };
        let dirty = if dirty { DIRTY } else { 0 };
        Self::new(draft, whereabouts, id, PENDING | USED | dirty | 1)
    }

    /// One read from a log: on disk, dirty, pinned by nobody.
    pub(crate) fn replayed(draft: Draft, whereabouts: Whereabouts, id: u64) -> Arc<Self> {
        Self::new(draft, whereabouts, id, DIRTY)
    }

    /// Whether it is about all there is.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.aspect.is_tree() && self.object.path.is_empty()
    }

    /// What it was made of.
    pub(crate) fn draft(&self) -> Draft {
        Draft {
            seq: self.seq,
            serial: self.serial,
            aspect: self.aspect,
            object: self.object.clone(),
            origin: self.origin.clone(),
            stamp: self.stamp,
        }
    }

    /// Where it came from, of `Moved` marks: where its twin is, unless that has been replaced.
    #[must_use]
    pub fn origin(&self) -> Option<&Origin> {
        let is_stray = self.is_stray.load(Ordering::Acquire);
        self.origin.as_ref().filter(|_| !is_stray)
    }

    /// The object has been made anew on the replica: whatever was its twin there is so no longer. (What
    /// was healed of it since is in the new one; another session finds every mark dirty again.)
    pub fn lose_twin(&self) {
        self.is_stray.store(true, Ordering::Release);
    }

    /// Its cover id: not 0, and never used twice in one session.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id.load(Ordering::Acquire)
    }

    pub(crate) fn set_id(&self, id: u64) {
        self.id.store(id, Ordering::Release);
    }

    /// Whether it must be healed.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.word.load(Ordering::Acquire) & DIRTY != 0
    }

    /// It must be healed. To be sure that it is still alive, hold a pin ([`Pins::of`]).
    pub fn set_dirty(&self) {
        self.word.fetch_or(DIRTY, Ordering::AcqRel);
        // Given up meanwhile: its heir answers for it.
        if let Some(heir) = self.heir.get() {
            heir.set_dirty();
        }
    }

    /// Whether it had to be healed; from now on it has not.
    ///
    /// Whoever heals holds a pin on it ([`Pins::of`], taken before) until it is healed: a clean
    /// mark that nobody pins is cleared by the next checkpoint.
    #[must_use]
    pub fn take_dirty(&self) -> bool {
        self.word.fetch_and(!DIRTY, Ordering::AcqRel) & DIRTY != 0
    }

    /// Whether its record may not be on disk yet.
    pub(crate) fn is_pending(&self) -> bool {
        self.word.load(Ordering::Acquire) & PENDING != 0
    }

    /// Its record is on disk.
    pub(crate) fn recorded(&self) {
        self.word.fetch_and(!PENDING, Ordering::AcqRel);
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.word.load(Ordering::Acquire) & RETIRED != 0
    }

    /// Pins it, unless it has left the journal.
    pub(crate) fn pin(&self) -> bool {
        let pinned = |word: u64| (word & RETIRED == 0).then_some((word + 1) | USED);
        self.word
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, pinned)
            .is_ok()
    }

    /// Pins it once more, for somebody who holds a pin: so it cannot have left.
    fn pin_again(&self) {
        let before = self.word.fetch_add(1, Ordering::AcqRel);
        debug_assert!(before & PINS > 0, "nobody held it");
    }

    fn unpin(&self) {
        let before = self.word.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before & PINS > 0, "unpinned more often than pinned");
        if before & PINS == 1 && before & RETIRED != 0 {
            self.leave();
        }
    }

    /// The last pin of a mark that was given up is gone.
    fn leave(&self) {
        if let Some(heir) = self.heir.get() {
            heir.unpin();
        }
    }

    #[cfg(test)]
    pub(crate) fn pins(&self) -> u64 {
        self.word.load(Ordering::Acquire) & PINS
    }

    /// First half of a checkpoint: true if it is quiet. From now on a use of it shows.
    pub(crate) fn quiet(&self) -> bool {
        let word = self
            .word
            .compare_exchange(USED, 0, Ordering::AcqRel, Ordering::Acquire);
        matches!(word, Ok(_) | Err(0))
    }

    /// Second half: true if it was still quiet. It is retired then.
    pub(crate) fn retire(&self) -> bool {
        self.word
            .compare_exchange(0, RETIRED, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Gives it up in favour of a dirty `heir`, on which it holds a pin for as long as somebody
    /// holds one on it. False if it has left already.
    pub(crate) fn give_up(&self, heir: &Arc<Self>) -> bool {
        if self.is_retired() || !heir.pin() {
            return false;
        }
        if self.heir.set(Arc::clone(heir)).is_err() {
            heir.unpin();
            return false;
        }
        let before = self.word.fetch_or(RETIRED, Ordering::AcqRel);
        // A checkpoint was quicker: then there were no pins either.
        if before & PINS == 0 {
            heir.unpin();
        }
        before & RETIRED == 0
    }
}

/// Pins on marks: as long as they live, nothing clears the marks.
#[derive(Debug, Default)]
pub struct Pins(SmallVec<[Arc<Mark>; 3]>);

impl Pins {
    /// A pin on a mark somebody knows, such as one of [`super::Journal::dirty`]; `None` if it has
    /// left the journal.
    #[must_use]
    pub fn of(mark: &Arc<Mark>) -> Option<Self> {
        mark.pin()
            .then(|| Self(SmallVec::from_iter([Arc::clone(mark)])))
    }

    /// Takes over a pin that is counted already.
    pub(crate) fn push(&mut self, mark: Arc<Mark>) {
        self.0.push(mark);
    }

    /// What is pinned; the same mark may be there more than once.
    #[must_use]
    pub fn marks(&self) -> &[Arc<Mark>] {
        &self.0
    }

    /// All of them must be healed.
    pub fn soil(&self) {
        for mark in &self.0 {
            mark.set_dirty();
        }
    }

    /// Pins on the same marks, for somebody else.
    #[must_use]
    pub fn share(&self) -> Self {
        self.0.iter().for_each(|mark| mark.pin_again());
        Self(self.0.clone())
    }

    /// Holds what `other` held, too.
    pub fn merge(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        for mark in &self.0 {
            mark.unpin();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(seq: u64) -> Arc<Mark> {
        let draft = Draft {
            seq,
            serial: None,
            aspect: Aspect::Node,
            object: Object::default(),
            origin: None,
            stamp: (0, 0),
        };
        Mark::pending(draft, seq, false)
    }

    /// A mark on disk that nobody pins and nobody used.
    fn quiet(seq: u64) -> Arc<Mark> {
        let mark = mark(seq);
        mark.recorded();
        mark.unpin();
        assert!(mark.quiet());
        mark
    }

    #[test]
    fn what_covers_what() {
        let data = |start, end| Aspect::Data { start, end };
        let yes = [
            (Aspect::Tree, Aspect::Moved),
            (Aspect::Tree, data(0, u64::MAX)),
            (data(0, u64::MAX), data(4, 8)),
            (data(4, 8), data(4, 8)),
            (data(4, 8), Aspect::Node),
            (Aspect::Dir, Aspect::Node),
            (Aspect::DirData, Aspect::Node),
            (Aspect::DirData, Aspect::Dir),
        ];
        for (mine, other) in yes {
            assert!(mine.covers(&other), "{mine:?} {other:?}");
        }
        let no = [
            (Aspect::Node, data(0, 1)),
            (data(4, 8), data(0, 8)),
            (data(4, 8), data(4, u64::MAX)),
            (Aspect::Dir, Aspect::DirData),
            (Aspect::Dir, data(0, 1)),
            (Aspect::DirData, data(0, 1)),
            (Aspect::Moved, Aspect::Node),
            (Aspect::Moved, Aspect::Tree),
            (Aspect::DirData, Aspect::Tree),
        ];
        for (mine, other) in no {
            assert!(!mine.covers(&other), "{mine:?} {other:?}");
        }
    }

    #[test]
    fn only_a_quiet_mark_is_retired() {
        assert!(quiet(1).retire());
        let used = quiet(2);
        drop(Pins::of(&used).expect("alive"));
        assert!(!used.retire(), "it was used since");
        assert!(used.quiet() && used.retire());
        let pinned = quiet(3);
        let pins = Pins::of(&pinned).expect("alive");
        assert!(!pinned.retire() && !pinned.quiet());
        drop(pins);
        let dirty = quiet(4);
        dirty.set_dirty();
        assert!(!dirty.retire() && !dirty.quiet());
        assert!(dirty.take_dirty() && !dirty.take_dirty());
        assert!(dirty.retire());
        let pending = mark(5);
        pending.unpin();
        assert!(!pending.quiet() && !pending.retire());
    }

    #[test]
    fn a_retired_mark_takes_no_pin() {
        let mark = quiet(1);
        assert!(mark.retire());
        assert!(Pins::of(&mark).is_none());
        assert!(!mark.retire());
    }

    #[test]
    fn an_heir_answers_for_what_was_given_up() {
        let heir = quiet(9);
        heir.set_dirty();
        let (held, idle) = (quiet(1), quiet(2));
        let pins = Pins::of(&held).expect("alive");
        assert!(held.give_up(&heir) && idle.give_up(&heir));
        assert!(!idle.give_up(&heir));
        assert!(heir.take_dirty());
        assert!(!heir.quiet(), "pinned by what is still held");
        pins.soil();
        assert!(heir.take_dirty(), "soiled through what was given up");
        drop(pins);
        assert!(heir.quiet() && heir.retire());
    }
}
