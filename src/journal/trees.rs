// SPDX-License-Identifier: MIT
//! Marks of whole trees: what may differ cannot be told any closer, or the replica has nothing yet.

use std::sync::Arc;

use super::mark::{Aspect, Draft, Mark, Object, Pins};
use super::{Journal, encode_draft, stamp_now};
use crate::sys::{Errno, Result};

impl Journal {
    /// Marks `object` and everything below it, durably, as to be healed. While the mark on the
    /// whole tree (path "") is dirty, it covers every want.
    ///
    /// # Errors
    /// What broke the log.
    pub fn mark_tree(&self, object: Object) -> Result<Arc<Mark>> {
        self.mark_as(Aspect::Tree, object)
    }

    /// As [`Self::mark_tree`], where the replica has nothing yet ([`Aspect::Fill`]).
    ///
    /// # Errors
    /// What broke the log.
    pub fn mark_missing(&self, object: Object) -> Result<Arc<Mark>> {
        self.mark_as(Aspect::Fill, object)
    }

    fn mark_as(&self, aspect: Aspect, object: Object) -> Result<Arc<Mark>> {
        let (mark, _pins) = self.record_tree(aspect, true, object)?;
        if mark.is_whole() {
            self.table.set_whole(&mark);
        }
        Ok(mark)
    }

    /// Puts on record, durably, that after the death of the daemon `object` and everything below it
    /// must be healed, unless the pin has been dropped and a checkpoint was made since.
    ///
    /// # Errors
    /// What broke the log.
    pub fn note_tree(&self, object: Object) -> Result<Pins> {
        let noted = self.record_tree(Aspect::Tree, false, object);
        noted.map(|(_, pins)| pins)
    }

    /// The same of all that is missing from the replica still, a mark and a pin for each: with these on
    /// record the mark that covered them together is not needed any more.
    ///
    /// # Errors
    /// What broke the log.
    pub fn note_missing(
        &self,
        objects: impl Iterator<Item = impl FnOnce() -> Object>,
    ) -> Result<Vec<(Arc<Mark>, Pins)>> {
        self.record_trees(Aspect::Fill, false, objects)
    }

    fn record_tree(
        &self,
        aspect: Aspect,
        is_dirty: bool,
        object: Object,
    ) -> Result<(Arc<Mark>, Pins)> {
        let mut recorded = self.record_trees(aspect, is_dirty, std::iter::once(|| object))?;
        recorded.pop().ok_or(Errno::INVAL)
    }

    fn record_trees(
        &self,
        aspect: Aspect,
        is_dirty: bool,
        objects: impl Iterator<Item = impl FnOnce() -> Object>,
    ) -> Result<Vec<(Arc<Mark>, Pins)>> {
        self.commit.check()?;
        let stamp = stamp_now();
        // A rename that is put on record from now on leads from what is described.
        let mut numbers = Vec::new();
        let (mut records, mut marks) = (Vec::new(), Vec::new());
        for object in objects {
            let number = self.number();
            let draft = Draft {
                seq: number.seq,
                serial: None,
                aspect,
                object: object(),
                origin: None,
                stamp,
            };
            numbers.push(number);
            records.push(encode_draft(&draft)?);
            marks.push(Mark::pending(draft, self.new_id(), is_dirty));
        }
        if marks.is_empty() {
            return Ok(Vec::new());
        }
        let mut recorded = Vec::with_capacity(marks.len());
        for mark in &marks {
            let mut pins = Pins::default();
            pins.push(Arc::clone(mark));
            recorded.push((Arc::clone(mark), pins));
            self.table.insert_stranger(mark);
        }
        let ticket = self.commit.submit(records, marks.clone());
        self.commit.wait(ticket, &marks, self)?;
        Ok(recorded)
    }

    /// Where the trees are that must be healed whole; the root alone if that is one of them.
    #[must_use]
    pub fn dirty_trees(&self) -> Vec<Box<[u8]>> {
        let dirty = self.dirty().into_iter();
        let trees = dirty.filter(|(mark, _)| mark.aspect.is_tree());
        let paths = trees.filter_map(|(_, paths)| paths.into_iter().next());
        let mut paths: Vec<_> = paths.collect();
        if paths.iter().any(|path| path.is_empty()) {
            paths = vec![Box::default()];
        }
        paths
    }

    /// Whether parts of the replica have not been filled yet.
    #[must_use]
    pub fn is_filling(&self) -> bool {
        self.table
            .all()
            .iter()
            .any(|mark| mark.aspect == Aspect::Fill)
    }
}
