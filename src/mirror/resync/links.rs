// SPDX-License-Identifier: MIT
//! Hard links: which names are one inode, on either side. Only inodes with several names are
//! remembered, and the names of one primary inode are looked at one after the other.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::branch::Branch;
use crate::mirror::failure::show_path;
use crate::store::name::Name;
use crate::store::stat::{Ident, Stat};

/// What is wrong where a copy is none.
pub(in crate::mirror) const BOTH: &str = "one inode in both copies";

/// A name, and the directory it is in.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    pub(super) dir: Arc<Branch>,
    pub(super) name: Name,
}

impl Spot {
    pub(super) fn path(&self) -> Vec<u8> {
        self.dir.path(Some(&self.name))
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.dir, &other.dir) && self.name == other.name
    }
}

/// Where the replica has the twin of a primary inode.
#[derive(Clone, Debug)]
pub(super) struct First {
    pub(super) replica: Ident,
    pub(super) spot: Spot,
}

/// How a pair is wrong, in words, and the other name concerned.
pub(super) type Wrong = (String, Vec<u8>);

#[derive(Debug, Default)]
pub(super) struct Links {
    known: Mutex<Known>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Known {
    /// By primary inode.
    first: HashMap<Ident, First>,
    /// Replica inode to the primary inode it is the twin of, and a name of that.
    owner: HashMap<Ident, (Ident, Spot)>,
    /// Primary inodes of which a name is being looked at.
    held: HashSet<Ident>,
}

/// Nobody else looks at a name of this inode.
#[derive(Debug)]
pub(super) struct Hold<'a> {
    links: &'a Links,
    primary: Ident,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.links.known.lock().held.remove(&self.primary);
        self.links.freed.notify_all();
    }
}

impl Links {
    /// Waits until nobody else looks at a name of this inode, if it has several.
    pub(super) fn hold(&self, primary: &Stat) -> Option<Hold<'_>> {
        if primary.nlink < 2 {
            return None;
        }
        let mut known = self.known.lock();
        while !known.held.insert(primary.ident) {
            self.freed.wait(&mut known);
        }
        drop(known);
        let (links, primary) = (self, primary.ident);
        Some(Hold { links, primary })
    }

    /// How the pair is wrong, or `None` once it is noted as right.
    pub(super) fn check(&self, primary: &Stat, replica: &Stat, spot: &Spot) -> Option<Wrong> {
        if primary.nlink < 2 && replica.nlink < 2 {
            return None;
        }
        let (p, r) = (primary.ident, replica.ident);
        if replica.nlink > 1 && p == r {
            return Some((BOTH.to_owned(), spot.path()));
        }
        let mut known = self.known.lock();
        if replica.nlink > 1
            && let Some(own) = known.first.get(&r)
        {
            return Some((BOTH.to_owned(), own.spot.path()));
        }
        if let Some(first) = known.first.get(&p) {
            if first.replica == r {
                return None;
            }
            let of = first.spot.path();
            let shown = show_path(&of);
            return Some((format!("hard link of {shown} on primary only"), of));
        }
        if let Some((owner, of)) = known.owner.get(&r)
            && *owner != p
        {
            return Some(("hard link on replica only".to_owned(), of.path()));
        }
        known.note(primary, replica, spot);
        None
    }

    /// Where the replica has the twin of a primary inode, if one of its names has been seen.
    pub(super) fn first(&self, primary: Ident) -> Option<First> {
        self.known.lock().first.get(&primary).cloned()
    }

    /// Forgets that the replica's object at `spot` is the twin of `primary`.
    pub(super) fn forget(&self, primary: &Stat, spot: &Spot) {
        let mut known = self.known.lock();
        if let Some(first) = known.first.get(&primary.ident)
            && first.spot.is(spot)
        {
            let replica = first.replica;
            known.owner.remove(&replica);
            known.first.remove(&primary.ident);
        }
    }

    /// Notes a pair that was made.
    pub(super) fn note(&self, primary: &Stat, replica: &Stat, spot: &Spot) {
        self.known.lock().note(primary, replica, spot);
    }

    /// An inode that was found in both trees: a name of it on the replica, and one on the primary.
    pub(super) fn shared(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let known = self.known.lock();
        let mut both = known.first.values();
        both.find_map(|first| {
            let own = known.first.get(&first.replica)?;
            Some((first.spot.path(), own.spot.path()))
        })
    }
}

impl Known {
    fn note(&mut self, primary: &Stat, replica: &Stat, spot: &Spot) {
        if primary.nlink > 1 {
            let (replica, spot) = (replica.ident, spot.clone());
            let first = First { replica, spot };
            self.first.entry(primary.ident).or_insert(first);
        }
        if replica.nlink > 1 {
            let owner = (primary.ident, spot.clone());
            self.owner.insert(replica.ident, owner);
        }
    }
}
