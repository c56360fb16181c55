// SPDX-License-Identifier: MIT
//! `Intent`: which marks of the write-intent log an op needs before it may begin.
//!
//! A mark says that the copies may differ here. It is durable before either copy changes, and is
//! cleared only when both hold the change on stable storage, so that what is marked after a crash
//! is all that has to be compared. Marks are made for *objects*, and most ops need none of their
//! own:
//!
//! - What is born under a marked directory is covered by that mark, directories and what is born
//!   in them included: a tree that is unpacked costs one mark. The proof is the birth time: healing
//!   looks at what was born after the mark, so only what was is covered ([`Intent::born`]). Such a
//!   node remembers the mark ([`Node::cover`]) until that is cleared.
//! - A node that moves away from its mark is covered no longer (docs/SAFETY.md, rule 2). Under another
//!   mark that includes it by its birth it goes on; else it gets one of its own, before the move.
//! - Several small files of one directory that need marks get one of the directory together; when
//!   many directories come to that, the next ones get it with their first file.
//! - A large file has its content marked by regions, coarser ones the more of them it needs.
//!
//! That a file is small must not change between the look at its size and the end of the op: turns
//! see to that ([`SMALL_FILE`]).

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use smallvec::{SmallVec, smallvec};

use crate::journal::{Aspect, Cut, Journal, Key, Mark, Object, Origin, Pins, Twin, Want, regions};
use crate::store::op::{Action, Op, SMALL_FILE, moves_content, swaps};
use crate::store::{Name, Node, Side, Source, Stat};
use crate::sys::{Result, at};

/// So many files of one directory get marks of their own; then the directory gets one for all.
const ALONE_MAX: u32 = 3;
/// So many directories get there by and by; then each gets it with the first of its files.
const CROWDS_MAX: u32 = 16;
/// So many regions of one file get marks before they are cut coarser, and coarser again.
const CUTS: [u32; 3] = [16, 32, 64];
/// A longer path, in bytes, is not kept: its handle leads to the object.
const PATH_KEPT_MAX: usize = 64 << 10;
/// What touches more regions than this gets one mark for the whole file.
const REGIONS_MAX: usize = 8;

/// Makes the marks that ops need.
pub struct Intent {
    journal: Arc<Journal>,
    source: Arc<dyn Source>,
    crowds: Mutex<Crowds>,
    #[cfg(test)]
    pub(super) clears_early: super::tests::sabotage::Switch,
    #[cfg(test)]
    pub(super) drops: super::tests::sabotage::Drops,
}

/// How many marks were wanted since the last checkpoint.
#[derive(Debug, Default)]
struct Crowds {
    /// For files by the serial of their directory, and for regions by that of their file.
    wanted: HashMap<u64, u32>,
    /// Directories with many.
    dirs: u32,
}

impl Crowds {
    fn one_more(&mut self, node: &Node) -> u32 {
        let count = self.wanted.entry(node.serial).or_default();
        *count += 1;
        *count
    }
}

/// What a mark of the whole tree below `root`, the primary's, is about.
///
/// # Errors
/// Those of statx.
pub fn whole_tree(root: BorrowedFd<'_>) -> Result<Object> {
    Ok(Object {
        ino: Stat::of(root)?.ident.ino,
        handle: at::file_handle(root),
        path: Box::default(),
    })
}

/// The object of a node, as the log knows it.
pub fn object_of(source: &dyn Source, node: &Arc<Node>) -> Object {
    let ident = node.place(Side::Primary).ident();
    let path = node.path().filter(|path| path.len() <= PATH_KEPT_MAX);
    Object {
        ino: ident.map_or(0, |ident| ident.ino),
        handle: source.handle(node),
        // An empty one would be the root's.
        path: path.unwrap_or_else(|| b"/".to_vec()).into(),
    }
}

/// Who an object is on the replica, where the replica can be asked.
pub type AskTwin<'a> = &'a dyn Fn(&Arc<Node>) -> Option<Twin>;

/// The marks of one op: pinned, so that none is cleared before every copy has the op.
#[derive(Debug, Default)]
pub struct Marked {
    /// To be dropped once the op is on every copy that is followed.
    pub pins: Pins,
    /// What covers the names of the directories concerned, in the order of the op.
    dirs: SmallVec<[Arc<Mark>; 2]>,
    /// What covers nodes from now on, if the op succeeds.
    covers: SmallVec<[(Arc<Node>, u64); 1]>,
}

impl std::fmt::Debug for Intent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intent").finish_non_exhaustive()
    }
}

impl Intent {
    /// Marks in `journal` what changes in the tree of `source`.
    #[must_use]
    pub fn new(journal: Arc<Journal>, source: Arc<dyn Source>) -> Self {
        Self {
            journal,
            source,
            crowds: Mutex::default(),
            #[cfg(test)]
            clears_early: Default::default(),
            #[cfg(test)]
            drops: Default::default(),
        }
    }

    /// The log.
    #[must_use]
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Pins every mark that covers `op`. Those that were not there yet are durable when this
    /// returns.
    ///
    /// # Errors
    /// The log's: then the op may not begin.
    pub fn mark(&self, op: &Op<'_>, twin: AskTwin<'_>) -> Result<Marked> {
        let mut wanted = Wanted::new(self);
        match &op.action {
            Action::Write { node, offset, .. } => {
                wanted.data(node, *offset, op.data.len() as u64);
            }
            Action::Truncate { node, size } => {
                let old = self.source.stat(node).map_or(u64::MAX, |stat| stat.size);
                let start = old.min(*size);
                wanted.data(node, start, old.max(*size) - start);
            }
            Action::Allocate {
                node,
                mode,
                offset,
                length,
            } => {
                let all = moves_content(*mode);
                wanted.data(node, *offset, if all { u64::MAX } else { *length });
            }
            Action::CopyRange {
                to,
                to_offset,
                length,
                ..
            } => wanted.data(to, *to_offset, *length),
            Action::SetAttr { node, .. }
            | Action::SetFlags { node, .. }
            | Action::SetXattr { node, .. }
            | Action::RemoveXattr { node, .. } => wanted.attributes(node),
            Action::Create { parent, .. }
            | Action::Mkdir { parent, .. }
            | Action::Mknod { parent, .. }
            | Action::Symlink { parent, .. }
            | Action::Unlink { parent, .. }
            | Action::Rmdir { parent, .. } => wanted.names(parent)?,
            Action::Link { node, parent, .. } => {
                wanted.names(parent)?;
                wanted.one_more_name(node);
            }
            Action::Rename {
                from,
                to,
                flags,
                moved,
                victim,
            } => {
                wanted.names(&from.0)?;
                wanted.names(&to.0)?;
                if let Some(node) = moved {
                    wanted.moves(node, 1, from, to, twin)?;
                }
                if let Some(node) = victim.as_ref().filter(|_| swaps(*flags)) {
                    wanted.moves(node, 0, to, from, twin)?;
                }
            }
        }
        wanted.pin()?;
        Ok(wanted.marked)
    }

    /// Pins a mark for the attributes of one node.
    ///
    /// # Errors
    /// As [`Self::mark`].
    pub fn mark_attributes(&self, node: &Arc<Node>) -> Result<Pins> {
        let mut wanted = Wanted::new(self);
        wanted.attributes(node);
        wanted.pin()?;
        Ok(wanted.marked.pins)
    }

    /// Lets what `op` has just made be covered by what covers its directory, if it was born later.
    pub fn born(marked: &Marked, node: &Node, stat: &Stat) {
        if let Some(mark) = marked.dirs.first()
            && is_born_after(stat, mark)
        {
            node.set_cover(mark.id());
        }
    }

    /// The op has succeeded on the primary.
    pub fn done(marked: &Marked) {
        for (node, mark) in &marked.covers {
            node.set_cover(*mark);
        }
    }

    /// After a checkpoint files get marks of their own again.
    pub fn forget_crowds(&self) {
        *self.crowds.lock() = Crowds::default();
    }

    /// One more file of this directory needs a mark: whether it is one too many.
    fn is_crowded(&self, dir: &Node) -> bool {
        let mut crowds = self.crowds.lock();
        let count = crowds.one_more(dir);
        if count == ALONE_MAX + 1 {
            crowds.dirs += 1;
        }
        count > ALONE_MAX || crowds.dirs >= CROWDS_MAX
    }

    /// One more region of this file needs a mark: how it is to be cut.
    fn cut(&self, node: &Node) -> Cut {
        let count = self.crowds.lock().one_more(node);
        Cut::ALL[CUTS.iter().filter(|most| count > **most).count()]
    }
}

/// Whether healing takes the object of `stat` for one that was born under `mark`.
fn is_born_after(stat: &Stat, mark: &Mark) -> bool {
    let born = stat.btime.map(|time| (time.seconds, time.nanos));
    mark.aspect.is_tree() || born.is_some_and(|born| born >= mark.stamp)
}

type Parts = SmallVec<[Aspect; REGIONS_MAX]>;

/// The regions of a file that hold a part of it; all of it as one where they are too many.
fn parts(start: u64, length: u64, cut: Cut) -> Parts {
    let parts = regions(start, length, cut).take(REGIONS_MAX + 1);
    let parts: Parts = parts
        .map(|(start, end)| Aspect::Data { start, end })
        .collect();
    if parts.len() > REGIONS_MAX {
        return smallvec![Aspect::CONTENT];
    }
    parts
}

/// A mark to be pinned, of whom, and where that lay before it moved.
struct Wish {
    key: Key,
    node: Arc<Node>,
    origin: Option<Origin>,
    use_as: Use,
}

/// What a pinned mark is good for besides.
enum Use {
    Nothing,
    /// It covers the names of a directory of the op.
    Names,
    /// It covers this node from now on, if the op succeeds.
    Cover(Arc<Node>),
}

/// What an op needs, while it is being found out.
struct Wanted<'a> {
    intent: &'a Intent,
    wishes: SmallVec<[Wish; 3]>,
    renamed: Option<(Vec<u8>, Vec<u8>)>,
    marked: Marked,
}

impl<'a> Wanted<'a> {
    fn new(intent: &'a Intent) -> Self {
        Self {
            intent,
            wishes: SmallVec::new(),
            renamed: None,
            marked: Marked::default(),
        }
    }

    fn wish(&mut self, node: &Arc<Node>, aspect: Aspect, use_as: Use) {
        let (serial, node) = (node.serial, node.clone());
        self.wishes.push(Wish {
            key: Key { serial, aspect },
            node,
            origin: None,
            use_as,
        });
    }

    /// Pins all that was wished for.
    fn pin(&mut self) -> Result<()> {
        let wishes = std::mem::take(&mut self.wishes);
        #[cfg(test)]
        let wishes = self.intent.drops.sift(wishes, |wish| wish.key.aspect);
        let renamed = self.renamed.take();
        if wishes.is_empty() && renamed.is_none() {
            return Ok(());
        }
        let intent = self.intent;
        let describe = |wish: &Wish| (object_of(&*intent.source, &wish.node), wish.origin.clone());
        let described: SmallVec<[_; 3]> =
            wishes.iter().map(|wish| move || describe(wish)).collect();
        let wants = wishes.iter().zip(&described).map(|(wish, describe)| Want {
            key: wish.key,
            describe,
        });
        let wants: SmallVec<[Want<'_>; 3]> = wants.collect();
        let renamed = renamed.as_ref().map(|(from, to)| (&from[..], &to[..]));
        let pins = intent.journal.pin(&wants, renamed)?;
        // Hot ones come first: whoever has a use for one asks for one.
        debug_assert!(
            wishes.len() < 2
                || wishes
                    .iter()
                    .all(|wish| matches!(wish.use_as, Use::Nothing))
        );
        for (wish, mark) in wishes.iter().zip(pins.marks()) {
            match &wish.use_as {
                Use::Nothing => {}
                Use::Names => self.marked.dirs.push(mark.clone()),
                Use::Cover(node) => self.marked.covers.push((node.clone(), mark.id())),
            }
        }
        self.marked.pins.merge(pins);
        Ok(())
    }

    /// The mark that covers a node by its birth, pinned, if there is one.
    fn cover(&mut self, node: &Node) -> Option<Arc<Mark>> {
        let id = node.cover();
        if id == 0 {
            return None;
        }
        let Some(pins) = self.intent.journal.pin_cover(id) else {
            node.lose_cover(id);
            return None;
        };
        let mark = pins.marks().first().cloned();
        self.marked.pins.merge(pins);
        mark
    }

    /// What covered a file does so no longer: it gets a mark for all of it.
    fn leave_cover(&mut self, node: &Arc<Node>, mark: &Mark) {
        self.wish(node, Aspect::CONTENT, Use::Nothing);
        node.lose_cover(mark.id());
    }

    /// The names in a directory, and its own attributes.
    fn names(&mut self, dir: &Arc<Node>) -> Result<()> {
        match self.cover(dir) {
            Some(mark) => self.marked.dirs.push(mark),
            None => {
                self.wish(dir, Aspect::Dir, Use::Names);
                self.pin()?;
            }
        }
        Ok(())
    }

    /// A part of a file's content.
    fn data(&mut self, node: &Arc<Node>, start: u64, length: u64) {
        let is_small = start.saturating_add(length) <= SMALL_FILE;
        if let Some(mark) = self.cover(node) {
            if mark.aspect == Aspect::DirData && !is_small {
                // What that mark covers is small, or was born under it.
                self.leave_cover(node, &mark);
            }
            return;
        }
        let mut all = Cut::ALL.iter().map(|cut| parts(start, length, *cut));
        if let Some(hot) = all.find(|parts| self.are_hot(node, parts)) {
            return self.wish_all(node, &hot);
        }
        if is_small
            && let Some(dir) = self.home_of_small(node)
            && self.intent.is_crowded(&dir)
        {
            return self.wish(&dir, Aspect::DirData, Use::Cover(node.clone()));
        }
        self.wish_all(node, &parts(start, length, self.intent.cut(node)));
    }

    fn are_hot(&self, node: &Node, parts: &Parts) -> bool {
        let (serial, journal) = (node.serial, &self.intent.journal);
        let mut keys = parts.iter().map(|&aspect| Key { serial, aspect });
        keys.all(|key| journal.is_hot(&key))
    }

    fn wish_all(&mut self, node: &Arc<Node>, parts: &Parts) {
        for part in parts {
            self.wish(node, *part, Use::Nothing);
        }
    }

    /// What can be said of a node without its content.
    fn attributes(&mut self, node: &Arc<Node>) {
        if self.cover(node).is_some() {
            return;
        }
        let own = Key {
            serial: node.serial,
            aspect: Aspect::Node,
        };
        if !node.is_dir()
            && !self.intent.journal.is_hot(&own)
            && let Some((dir, _)) = self.home(node)
            && self.intent.is_crowded(&dir)
        {
            // No cover: nobody has looked whether it is small.
            return self.wish(&dir, Aspect::DirData, Use::Nothing);
        }
        self.wish(node, Aspect::Node, Use::Nothing);
    }

    /// The one directory that has the one name of a file, and what the file is.
    fn home(&self, node: &Arc<Node>) -> Option<(Arc<Node>, Stat)> {
        let link = match node.place(Side::Primary).links() {
            [link] => link.parent.clone(),
            _ => return None,
        };
        let stat = self.intent.source.stat(node).ok()?;
        (stat.nlink == 1).then_some((link, stat))
    }

    fn home_of_small(&self, node: &Arc<Node>) -> Option<Arc<Node>> {
        let (dir, stat) = self.home(node)?;
        (stat.size <= SMALL_FILE).then_some(dir)
    }

    /// A node is about to get one more name in the first directory of the op.
    fn one_more_name(&mut self, node: &Arc<Node>) {
        let here = self.marked.dirs.first().map(|mark| mark.id());
        match self.cover(node) {
            // All its names are found by way of one mark.
            Some(mark) if Some(mark.id()) == here => {}
            Some(mark) => self.leave_cover(node, &mark),
            // Whoever heals the new name finds the object by its old one.
            None => self.wish(node, Aspect::Node, Use::Nothing),
        }
    }

    /// A node is about to move, into the directory of the op with the number `into`.
    fn moves(
        &mut self,
        node: &Arc<Node>,
        into: usize,
        from: &(Arc<Node>, Name),
        to: &(Arc<Node>, Name),
        twin: AskTwin<'_>,
    ) -> Result<()> {
        let Some(there) = self.marked.dirs.get(into).cloned() else {
            return Ok(());
        };
        let stat = self.intent.source.stat(node).ok();
        let is_plain = stat.is_some_and(|stat| stat.nlink == 1 && stat.size <= SMALL_FILE);
        match self.cover(node) {
            Some(mark) if mark.id() == there.id() => return Ok(()),
            Some(mark) if node.is_dir() => {
                self.wish(node, Aspect::Tree, Use::Cover(node.clone()));
                // What was born below it cannot be found by way of that mark any more.
                self.log_rename(from, to);
                self.pin()?;
                self.intent.journal.retire_cover(mark.id());
                return Ok(());
            }
            Some(_) if stat.is_some_and(|stat| stat.nlink == 1 && is_born_after(&stat, &there)) => {
                self.marked.covers.push((node.clone(), there.id()));
            }
            Some(mark) => {
                self.leave_cover(node, &mark);
                self.log_rename(from, to);
            }
            None if !node.is_dir() && is_plain && self.intent.is_crowded(&to.0) => {
                self.wish(&to.0, Aspect::DirData, Use::Cover(node.clone()));
            }
            None => {
                self.wish(node, Aspect::Moved, Use::Nothing);
                if let (Some(wish), Some(path)) = (self.wishes.last_mut(), node.path()) {
                    wish.origin = Some(Origin {
                        path: path.into(),
                        twin: twin(node),
                    });
                }
                self.log_rename(from, to);
            }
        }
        if self.renamed.is_none() && self.intent.journal.has_marks(node.serial) {
            self.log_rename(from, to);
        }
        self.pin()
    }

    /// Paths that the log knows are others from now on.
    fn log_rename(&mut self, from: &(Arc<Node>, Name), to: &(Arc<Node>, Name)) {
        let path = |(dir, name): &(Arc<Node>, Name)| {
            let mut path = dir.path()?;
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_c_str().to_bytes());
            Some(path)
        };
        self.renamed = path(from).zip(path(to));
    }
}
