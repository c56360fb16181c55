// SPDX-License-Identifier: MIT
//! `Links`: which names are one inode, on either copy, of all that healing has seen.

use std::collections::{HashMap, HashSet};

use super::place::Held;
use crate::store::{Ident, Stat};

/// Pairs of objects of which one has several names.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// The primary's object, kept so that its names are known, and the replica's.
    first: HashMap<Ident, (Held, Ident)>,
    /// Whose the replica's inode is.
    owner: HashMap<Ident, Ident>,
    /// The primary's objects whose names were not as many on both copies, or were changed.
    uneven: HashSet<Ident>,
}

impl Links {
    /// Whether a pair of one name cannot be right, from all that was seen before.
    pub(super) fn contradicts(&self, primary: &Stat, replica: &Stat) -> bool {
        let (p, r) = (primary.ident, replica.ident);
        let other_twin = self.first.get(&p).is_some_and(|(_, twin)| *twin != r);
        let other_owner = self.owner.get(&r).is_some_and(|owner| *owner != p);
        (primary.nlink == 1 && replica.nlink > 1) || other_twin || other_owner
    }

    /// Notes a pair that is right.
    pub(super) fn note(&mut self, primary: &Stat, replica: &Stat, held: impl FnOnce() -> Held) {
        let (p, r) = (primary.ident, replica.ident);
        if primary.nlink > 1 || replica.nlink > 1 {
            self.first.entry(p).or_insert_with(|| (held(), r));
            self.owner.insert(r, p);
        }
        if primary.nlink != replica.nlink {
            self.uneven.insert(p);
        }
    }

    /// The names of this one are to be counted in the end.
    pub(super) fn doubt(&mut self, primary: Ident) {
        self.uneven.insert(primary);
    }

    /// Those whose names are to be counted; with a name of theirs, where one was kept.
    pub(super) fn uneven(&self) -> impl Iterator<Item = (Ident, Option<&Held>)> {
        let kept = |primary: &Ident| self.first.get(primary).map(|(held, _)| held);
        self.uneven
            .iter()
            .map(move |primary| (*primary, kept(primary)))
    }

    /// Whose the replica's inode is, if it was seen.
    pub(super) fn owner(&self, replica: Ident) -> Option<Ident> {
        self.owner.get(&replica).copied()
    }

    /// A name of the replica's inode is gone: it may be another's with its next name.
    pub(super) fn forget(&mut self, replica: &Stat) {
        if replica.nlink <= 1
            && let Some(owner) = self.owner.remove(&replica.ident)
            && self
                .first
                .get(&owner)
                .is_some_and(|(_, twin)| *twin == replica.ident)
        {
            self.first.remove(&owner);
        }
    }

    /// The primary's object, if it was seen under another name.
    pub(super) fn seen(&self, primary: Ident) -> Option<&Held> {
        self.first.get(&primary).map(|(held, _)| held)
    }

    /// Those whose names are to be counted, and those among them of which no name was kept.
    pub(super) fn take_uneven(&mut self) -> (Vec<Held>, Vec<Ident>) {
        let (mut held, mut lost) = (Vec::new(), Vec::new());
        for primary in std::mem::take(&mut self.uneven) {
            match self.first.remove(&primary) {
                Some((one, _)) => held.push(one),
                None => lost.push(primary),
            }
        }
        self.first.clear();
        self.owner.clear();
        (held, lost)
    }
}
