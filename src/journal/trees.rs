// SPDX-License-Identifier: MIT
//! Marks of whole trees: what may differ cannot be told any closer, or the replica has nothing yet.

use std::sync::Arc;

use super::mark::{Aspect, Draft, Mark, Object, Pins};
use super::{Journal, encode_draft};
use crate::sys::{self, Result};

/// What a tree is marked as.
#[derive(Clone, Copy)]
struct Kind {
    aspect: Aspect,
    is_dirty: bool,
}

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

    /// Puts on record, durably, that after the death of the daemon `object` and everything below it
    /// must be healed, unless the pin has been dropped and a checkpoint was made since.
    ///
    /// # Errors
    /// What broke the log.
    pub fn note_tree(&self, object: Object) -> Result<Pins> {
        let kind = Kind {
            aspect: Aspect::Tree,
            is_dirty: false,
        };
        let noted = self.record_trees(kind, &[&|| object.clone()])?;
        Ok(noted.into_iter().next().unwrap_or_default())
    }

    /// The same of all that is missing from the replica still, one pin for each: with these on record
    /// the mark that covered them together is not needed any more.
    ///
    /// # Errors
    /// What broke the log.
    pub fn note_missing(&self, objects: &[&dyn Fn() -> Object]) -> Result<Vec<Pins>> {
        let kind = Kind {
            aspect: Aspect::Fill,
            is_dirty: false,
        };
        self.record_trees(kind, objects)
    }

    fn mark_as(&self, aspect: Aspect, object: Object) -> Result<Arc<Mark>> {
        let kind = Kind {
            aspect,
            is_dirty: true,
        };
        let pins = self.record_trees(kind, &[&|| object.clone()])?;
        let mut marks = pins.iter().flat_map(|pins| pins.marks().first());
        let mark = marks.next().cloned().ok_or(sys::Errno::INVAL)?;
        if mark.is_whole() {
            self.table.set_whole(&mark);
        }
        Ok(mark)
    }

    fn record_trees(&self, kind: Kind, objects: &[&dyn Fn() -> Object]) -> Result<Vec<Pins>> {
        self.commit.check()?;
        if objects.is_empty() {
            return Ok(Vec::new());
        }
        let now = sys::clock::inode_now();
        let stamp = (now.tv_sec, u32::try_from(now.tv_nsec).unwrap_or(0));
        // A rename that is put on record from now on leads from what is described.
        let mut numbers = Vec::with_capacity(objects.len());
        let (mut records, mut marks) = (Vec::new(), Vec::new());
        for object in objects {
            let number = self.number();
            let draft = Draft {
                seq: number.seq,
                serial: None,
                aspect: kind.aspect,
                object: object(),
                origin: None,
                stamp,
            };
            numbers.push(number);
            records.push(encode_draft(&draft)?);
            marks.push(Mark::pending(draft, self.new_id(), kind.is_dirty));
        }
        let mut pins = Vec::with_capacity(marks.len());
        for mark in &marks {
            let mut own = Pins::default();
            own.push(Arc::clone(mark));
            pins.push(own);
            self.table.insert_stranger(mark);
        }
        let ticket = self.commit.submit(records, marks.clone());
        self.commit.wait(ticket, &marks, self)?;
        Ok(pins)
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
