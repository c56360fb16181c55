// SPDX-License-Identifier: MIT
//! `Doubt`: where on the replica nothing may be touched yet, because its names may be wrong.
//!
//! An op that is carried into a directory whose names differ may land on another object: what the
//! replica still has under that name may be a link to a file that is in no doubt at all, and no mark
//! would ever say so. So an op is carried only where every directory above it has been healed; else
//! it is skipped, its marks are dirty again, and its directories are in doubt from then on.
//!
//! ```text
//!   op      skipped in D: D is in doubt, its mark dirty     |  turn of D's names
//!   healing                                                 |  hold of D: mark taken, names made
//!                                                           |  equal, doubt lifted
//!   op                                                      |                    carried in D
//! ```

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::store::Ident;
use crate::store::node::{Node, Side};
use crate::store::nodes::ROOT_ID;
use crate::store::op::{Action, Op};

/// Directories between a node and the root, at most: behind the mount they can be put into a ring.
const ABOVE_MAX: usize = 1 << 16;

/// What is not to be touched, by the primary's identity.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// The marks are known: until then everything is in doubt.
    pub(super) is_open: bool,
    /// Directories whose names may differ, and with them everything below. Their nodes are kept, and
    /// tell whether they are there still.
    names: HashMap<Ident, Arc<Node>>,
    /// Directories whose names may differ, and those of all directories below that have not been
    /// healed since: the count of tops when it became one.
    tops: HashMap<Ident, u64>,
    /// Directories that have been healed while there were tops: the count of tops then.
    healed: HashMap<Ident, u64>,
    /// Tops so far.
    count: u64,
    /// What got another name by an op that was not carried: its place on the replica is unknown.
    displaced: HashSet<Ident>,
    /// Changes whose directories had been healed before, or never were in doubt.
    pub(super) missed: u64,
    /// Renames among what was not carried.
    pub(super) renames: u64,
}

impl Doubt {
    /// Whether nothing at all is in doubt.
    pub(super) fn is_over(&self) -> bool {
        self.is_open && self.names.is_empty() && self.tops.is_empty()
    }

    /// Whether no directory is in doubt but those below a top.
    pub(super) fn names_are_clear(&self) -> bool {
        self.names.is_empty()
    }

    /// The names in a directory may differ.
    pub(super) fn soil(&mut self, dir: &Arc<Node>) {
        let ident = dir.place(Side::Primary).ident();
        self.names.extend(ident.map(|ident| (ident, dir.clone())));
    }

    /// The directories that are in doubt by themselves. Those that are gone are so no longer.
    pub(super) fn soiled(&mut self) -> Vec<Arc<Node>> {
        self.names
            .retain(|_, node| node.id == ROOT_ID || !node.place(Side::Primary).links().is_empty());
        self.names.values().cloned().collect()
    }

    /// Whether a directory is in doubt by itself.
    pub(super) fn is_soiled(&self, dir: Ident) -> bool {
        self.names.contains_key(&dir)
    }

    /// The names in a directory, and those in all below it, may differ.
    pub(super) fn soil_below(&mut self, dir: Ident) {
        self.count += 1;
        self.tops.insert(dir, self.count);
    }

    /// The names of one directory are equal.
    pub(super) fn heal(&mut self, dir: Ident) {
        self.names.remove(&dir);
        if !self.tops.is_empty() {
            self.healed.insert(dir, self.count);
        }
    }

    /// A directory is in doubt by itself no longer: it is gone, or was found where it belongs.
    pub(super) fn lift(&mut self, dir: Ident) {
        self.names.remove(&dir);
        self.heal_below(&[dir]);
    }

    /// Everything below these is equal; they are no tops any more.
    pub(super) fn heal_below(&mut self, tops: &[Ident]) {
        for top in tops {
            self.tops.remove(top);
        }
        if self.tops.is_empty() {
            self.healed.clear();
        }
    }

    /// Whether this object's place on the replica is known no longer.
    pub(super) fn is_displaced(&self, object: Ident) -> bool {
        self.displaced.contains(&object)
    }

    /// Where it is on the replica is known again.
    pub(super) fn found(&mut self, object: Ident) {
        self.displaced.remove(&object);
    }

    /// Whether the names in `dir`, and those of all directories that lead to it, are equal.
    pub(super) fn is_clear(&self, dir: &Arc<Node>) -> bool {
        let mut here = dir.clone();
        let mut healed = u64::MAX;
        for _ in 0..ABOVE_MAX {
            let place = here.place(Side::Primary);
            let Some(ident) = place.ident() else {
                return false;
            };
            let above = place.links().first().map(|link| link.parent.clone());
            drop(place);
            healed = healed.min(self.healed.get(&ident).copied().unwrap_or(0));
            let unhealed = self.tops.get(&ident).is_some_and(|&since| healed < since);
            if unhealed || self.names.contains_key(&ident) {
                return false;
            }
            match above {
                Some(above) if here.id != ROOT_ID => here = above,
                // Without a name it is gone, or in the middle of a rename: only the root is sure.
                _ => return here.id == ROOT_ID,
            }
        }
        false
    }

    /// As [`Self::is_clear`], of every directory that has a name of an object.
    fn reaches(&self, node: &Arc<Node>) -> bool {
        if node.is_dir() {
            return self.is_clear(node);
        }
        let links = node.place(Side::Primary).links().to_vec();
        !links.is_empty() && links.iter().all(|link| self.is_clear(&link.parent))
    }

    /// Whether an op may be carried. If not, its directories are in doubt from now on.
    pub(super) fn admits(&mut self, op: &Op<'_>) -> bool {
        if self.is_over() {
            return true;
        }
        let named = named(op);
        let admitted = self.is_open
            && op.parents().iter().all(|dir| self.is_clear(dir))
            && named.iter().flatten().all(|node| self.reaches(node));
        if !admitted {
            // What is covered by a mark that looks at one of its directories only.
            let in_part = |node: &Arc<Node>| {
                let links = node.place(Side::Primary).links().to_vec();
                !node.is_dir() && links.iter().any(|link| self.is_clear(&link.parent))
            };
            let in_part = named.iter().flatten().any(|node| in_part(node));
            self.missed += u64::from(in_part);
            self.miss(op);
        }
        admitted
    }

    /// An op was not carried, or not to its end.
    pub(super) fn miss(&mut self, op: &Op<'_>) {
        for dir in op.parents() {
            if self.is_clear(dir) {
                self.missed += 1;
            }
            self.soil(dir);
        }
        if let Action::Rename {
            moved,
            victim,
            flags,
            ..
        } = &op.action
        {
            self.renames += 1;
            let swapped = flags & rustix::fs::RenameFlags::EXCHANGE.bits() != 0;
            for node in moved.iter().chain(victim.iter().filter(|_| swapped)) {
                self.displaced.extend(node.place(Side::Primary).ident());
                if node.is_dir() {
                    self.soil(node);
                }
            }
        }
    }
}

/// The objects an op names beside those directories.
fn named<'a>(op: &'a Op<'_>) -> [Option<&'a Arc<Node>>; 2] {
    match &op.action {
        Action::Write { node, .. }
        | Action::Truncate { node, .. }
        | Action::Allocate { node, .. }
        | Action::SetAttr { node, .. }
        | Action::SetFlags { node, .. }
        | Action::SetXattr { node, .. }
        | Action::RemoveXattr { node, .. }
        | Action::Link { node, .. } => [Some(node), None],
        Action::CopyRange { from, to, .. } => [Some(from), Some(to)],
        Action::Unlink { victim, .. } | Action::Rmdir { victim, .. } => [victim.as_ref(), None],
        Action::Rename { moved, victim, .. } => [moved.as_ref(), victim.as_ref()],
        Action::Create { .. }
        | Action::Mkdir { .. }
        | Action::Mknod { .. }
        | Action::Symlink { .. } => [None, None],
    }
}
