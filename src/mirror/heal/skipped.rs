// SPDX-License-Identifier: MIT
//! What ops that were skipped have left to be healed, in no more than the detail that is needed.
//!
//! The marks of such an op stay where they are, durable until all is healed; but one of them may
//! cover a whole tree that was unpacked. Were it made dirty again, all of that would be looked at
//! again, under a steady load for ever. So what was skipped is noted here, in memory: should the
//! daemon die, the marks say it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::journal::{Aspect, Pins};
use crate::store::Node;
use crate::store::op::{Action, Op, moves_content, swaps};

/// What of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The names in a directory, and its attributes.
    Names,
    /// Attributes.
    Attributes,
    /// Bytes in a range, and attributes.
    Content(Range<u64>),
}

/// One object, what of it, and marks that cover it.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) node: Arc<Node>,
    pub(super) what: What,
    pub(super) pins: Pins,
}

/// Everything that was skipped: names apart from the rest, each object once.
#[derive(Debug, Default)]
pub(super) struct Skipped(HashMap<(u64, bool), Left>);

impl Skipped {
    /// Notes an op that was skipped, under its turn. False when its marks do not outlive it: then
    /// they have to be dirty.
    pub(super) fn note(&mut self, op: &Op<'_>, pins: &Pins) -> bool {
        if pins.marks().is_empty() {
            return false;
        }
        for mark in pins
            .marks()
            .iter()
            .filter(|mark| mark.aspect == Aspect::Moved)
        {
            // Who it is on the replica must be known to whoever looks at names.
            mark.set_dirty();
        }
        touched(op)
            .into_iter()
            .all(|(node, what)| self.add(node, what, pins))
    }

    /// Notes one object. False when marks do not outlive it.
    pub(super) fn add(&mut self, node: &Arc<Node>, what: What, pins: &Pins) -> bool {
        let key = (node.serial, what == What::Names);
        let left = self.0.entry(key).or_insert_with(|| Left {
            node: node.clone(),
            what: what.clone(),
            pins: Pins::default(),
        });
        left.what = joined(&left.what, what);
        for mark in pins.marks() {
            if left
                .pins
                .marks()
                .iter()
                .any(|known| Arc::ptr_eq(known, mark))
            {
                continue;
            }
            match Pins::of(mark) {
                Some(pins) => left.pins.merge(pins),
                None => return false,
            }
        }
        true
    }

    /// The names in a directory have just been made equal, while it was held.
    pub(super) fn named(&mut self, dir: &Node) {
        self.0.remove(&(dir.serial, true));
    }

    /// An object is gone: there is nothing to heal of it.
    pub(super) fn lose(&mut self, node: &Node) {
        for is_names in [false, true] {
            self.0.remove(&(node.serial, is_names));
        }
    }

    /// Forgets objects of which nothing is to be healed.
    pub(super) fn forget(&mut self, is_over: impl Fn(&Arc<Node>) -> bool) {
        self.0.retain(|_, left| !is_over(&left.node));
    }

    /// Whether there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes all of it.
    pub(super) fn take(&mut self) -> Vec<Left> {
        self.0.drain().map(|(_, left)| left).collect()
    }
}

fn joined(one: &What, other: What) -> What {
    match (one, other) {
        (What::Content(a), What::Content(b)) => {
            What::Content(a.start.min(b.start)..a.end.max(b.end))
        }
        (What::Content(range), _) => What::Content(range.clone()),
        (_, other) => other,
    }
}

/// The objects an op changes, and what of them.
fn touched<'a>(op: &'a Op<'_>) -> Vec<(&'a Arc<Node>, What)> {
    let range = |offset: u64, length: u64| What::Content(offset..offset.saturating_add(length));
    let parents = op.parents().into_iter().map(|dir| (dir, What::Names));
    let own = match &op.action {
        Action::Write { node, offset, .. } => vec![(node, range(*offset, op.data.len() as u64))],
        Action::Truncate { node, .. } => vec![(node, What::Content(0..u64::MAX))],
        Action::Allocate {
            node,
            mode,
            offset,
            length,
        } => {
            let all = moves_content(*mode);
            vec![(node, range(*offset, if all { u64::MAX } else { *length }))]
        }
        Action::CopyRange {
            to,
            to_offset,
            length,
            ..
        } => vec![(to, range(*to_offset, *length))],
        Action::SetAttr { node, .. }
        | Action::SetFlags { node, .. }
        | Action::SetXattr { node, .. }
        | Action::RemoveXattr { node, .. }
        | Action::Link { node, .. } => vec![(node, What::Attributes)],
        Action::Rename {
            moved,
            victim,
            flags,
            ..
        } => {
            let swapped = victim.iter().filter(|_| swaps(*flags));
            let dirs = moved.iter().chain(swapped).filter(|node| node.is_dir());
            dirs.map(|node| (node, What::Names)).collect()
        }
        Action::Create { .. }
        | Action::Mkdir { .. }
        | Action::Mknod { .. }
        | Action::Symlink { .. }
        | Action::Unlink { .. }
        | Action::Rmdir { .. } => Vec::new(),
    };
    parents.chain(own).collect()
}
