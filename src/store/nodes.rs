// SPDX-License-Identifier: MIT
//! The table of nodes: every object the kernel knows, by node id and by (device, inode number).
//!
//! Lock order: a shard of [`Nodes`], then a node's places, then the descriptor ring. None is held
//! across a system call that can block on a disk.

use std::borrow::Borrow;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::node::{Link, Node, Side};
use super::{Ident, Name, Stat};
use crate::sys::{Errno, Result, process};

/// The node id of the root, fixed by the FUSE protocol (`FUSE_ROOT_ID`).
pub const ROOT_ID: u64 = 1;
/// Ids from here up are ours: for objects whose inode number cannot serve.
const FIRST_OWN_ID: u64 = 1 << 63;
const SHARDS: usize = 32;
/// A table smaller than this is not made smaller.
const SHRINK_MIN: usize = 1024;
/// After so many forgotten nodes the allocator is asked to give back what it keeps.
const GIVE_BACK: u64 = 1 << 16;

/// A node in the table, which finds it by the id that the node has in it anyway.
#[derive(Debug)]
struct ById(Arc<Node>);

impl Borrow<u64> for ById {
    fn borrow(&self) -> &u64 {
        &self.0.id
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ById {}

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

#[derive(Debug, Default)]
struct Shard {
    by_id: HashSet<ById>,
}

impl Shard {
    /// Gives room back after many were forgotten.
    fn shrink(&mut self) {
        let (used, room) = (self.by_id.len(), self.by_id.capacity());
        if room > SHRINK_MIN && used < room / 4 {
            self.by_id.shrink_to(2 * used);
        }
    }
}

/// Every node the kernel knows: node id to node, and back from (device, inode number).
#[derive(Debug)]
pub struct Nodes {
    shards: [Mutex<Shard>; SHARDS],
    /// Ids of objects whose inode number cannot be their id: other devices (btrfs subvolumes).
    foreign: Mutex<HashMap<Ident, u64>>,
    /// Forgotten by the kernel, but still the parent of something that is not.
    zombies: Mutex<Vec<u64>>,
    root: Arc<Node>,
    root_dev: u64,
    next_own_id: AtomicU64,
    next_serial: AtomicU64,
    /// Nodes forgotten so far.
    forgotten: AtomicU64,
    /// PRIMARY may also change behind the mount.
    shared: bool,
    /// The replica is left: nothing about it is kept any more.
    left: AtomicBool,
}

impl Nodes {
    /// The table of a freshly mounted tree, which knows its root only.
    #[must_use]
    pub fn new(root: &Stat) -> Self {
        let node = Arc::new(Node::new(ROOT_ID, 1, root, false, false));
        node.count_lookup();
        let nodes = Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            foreign: Mutex::new(HashMap::from([(root.ident, ROOT_ID)])),
            zombies: Mutex::default(),
            root: node.clone(),
            root_dev: root.ident.dev,
            next_own_id: AtomicU64::new(FIRST_OWN_ID),
            next_serial: AtomicU64::new(2),
            forgotten: AtomicU64::new(0),
            shared: false,
            left: AtomicBool::new(false),
        };
        nodes.shard(ROOT_ID).lock().by_id.insert(ById(node));
        nodes
    }

    /// The same for a PRIMARY that may also change behind the mount: names and numbers can pass to
    /// other objects unasked.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.shared = true;
        self
    }

    /// Whether PRIMARY may also change behind the mount.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    fn shard(&self, id: u64) -> &Mutex<Shard> {
        // Neighbouring inode numbers are used together: spread them.
        &self.shards[usize::try_from(id % SHARDS as u64).unwrap_or(0)]
    }

    /// The root of the tree.
    #[must_use]
    pub fn root(&self) -> &Arc<Node> {
        &self.root
    }

    /// How many nodes the kernel knows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().by_id.len())
            .sum()
    }

    /// Never: the root is always there.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The node the kernel means by `id`.
    ///
    /// # Errors
    /// `ESTALE` for an id that was never given out, or was forgotten.
    pub fn get(&self, id: u64) -> Result<Arc<Node>> {
        if id == ROOT_ID {
            return Ok(self.root.clone());
        }
        self.shard(id)
            .lock()
            .by_id
            .get(&id)
            .map(|found| found.0.clone())
            .ok_or(Errno::STALE)
    }

    /// The node of an object, if the kernel knows it.
    #[must_use]
    pub fn find(&self, ident: Ident) -> Option<Arc<Node>> {
        let id = self.id_of(ident)?;
        self.get(id).ok()
    }

    fn own_number_serves(&self, ident: Ident) -> bool {
        ident.dev == self.root_dev && ident.ino > ROOT_ID && ident.ino < FIRST_OWN_ID
    }

    /// The id an object has, if it was ever looked up.
    fn id_of(&self, ident: Ident) -> Option<u64> {
        if self.own_number_serves(ident) && !self.is_root(ident) {
            return Some(ident.ino);
        }
        self.foreign.lock().get(&ident).copied()
    }

    fn is_root(&self, ident: Ident) -> bool {
        self.root.place(Side::Primary).ident() == Some(ident)
    }

    /// The number `readdir` shows for an entry: what `stat` would say.
    #[must_use]
    pub fn shown_ino(&self, ident: Ident) -> u64 {
        self.id_of(ident).unwrap_or(ident.ino)
    }

    /// Counts one more lookup of an object found as `name` in `parent`; knows it from now on.
    pub fn remember(&self, stat: &Stat, parent: &Arc<Node>, name: &Name) -> Arc<Node> {
        let id = self.id_of(stat.ident).unwrap_or_else(|| {
            let fresh = self.next_own_id.fetch_add(1, Ordering::Relaxed);
            *self.foreign.lock().entry(stat.ident).or_insert(fresh)
        });
        let mut replaced = None;
        let node = {
            let mut shard = self.shard(id).lock();
            if id >= FIRST_OWN_ID {
                // The last node of this id may be going this very moment.
                self.foreign.lock().insert(stat.ident, id);
            }
            let known = shard.by_id.get(&id).map(|found| found.0.clone());
            let node = match known {
                Some(node) if !self.shared || node.is(stat) => node,
                old => {
                    let serial = self.next_serial.fetch_add(1, Ordering::Relaxed);
                    let left = self.left.load(Ordering::Acquire);
                    let node = Arc::new(Node::new(id, serial, stat, self.shared, left));
                    if let Some(old) = old {
                        // Its number has passed to another object. The kernel forgets both under it.
                        node.inherit_lookups(&old);
                        replaced = Some(old);
                    }
                    drop(shard.by_id.replace(ById(node.clone())));
                    node
                }
            };
            node.count_lookup();
            node
        };
        // Outside the lock: closing its descriptors can be slow.
        drop(replaced);
        if stat.mode & 0o6000 != 0 {
            // Never taken back here: what was seen may be older than a chmod under way.
            node.set_id.store(true, Ordering::Release);
        }
        if self.shared {
            node.seen_at(Side::Primary, parent, name);
            node.add_link(Side::Replica, parent, name);
        } else {
            node.add_link_everywhere(parent, name);
        }
        node
    }

    /// What is seen from now on has no place on the replica.
    pub fn set_left(&self) {
        self.left.store(true, Ordering::Release);
    }

    /// Forgets everything about the replica, descriptors and all: it has failed. Names that are not
    /// followed any more would keep moved directories alive for ever.
    pub fn leave_replica(&self) {
        self.set_left();
        let mut closing = Vec::new();
        for shard in &self.shards {
            let nodes: Vec<_> = shard.lock().by_id.iter().map(|n| n.0.clone()).collect();
            closing.extend(nodes.iter().map(|node| node.leave_replica()));
        }
        // All have let go before the first is closed, which may take for ever.
        drop(closing);
    }

    /// The replica is back: what the kernel knows has a place on it again, where a name leads to it.
    pub fn rejoin_replica(&self) {
        self.left.store(false, Ordering::Release);
        for shard in &self.shards {
            let nodes: Vec<_> = shard.lock().by_id.iter().map(|n| n.0.clone()).collect();
            nodes.iter().for_each(|node| node.rejoin_replica());
        }
    }

    /// Takes back `count` lookups; the last one takes the node with it.
    pub fn forget(&self, id: u64, count: u64) {
        if id == ROOT_ID {
            return;
        }
        if !self.release(id, count) {
            self.zombies.lock().push(id);
        }
        self.sweep();
    }

    /// Lets go of forgotten parents whose last child went.
    pub fn sweep(&self) {
        loop {
            let ids = std::mem::take(&mut *self.zombies.lock());
            let before = ids.len();
            let left: Vec<u64> = ids.into_iter().filter(|&id| !self.release(id, 0)).collect();
            let gone = before - left.len();
            self.zombies.lock().extend(left);
            if gone == 0 {
                return;
            }
        }
    }

    /// False when the kernel has forgotten the node but something of ours still needs it.
    fn release(&self, id: u64, count: u64) -> bool {
        let mut shard = self.shard(id).lock();
        let Some(ById(node)) = shard.by_id.get(&id) else {
            return true;
        };
        if !node.uncount_lookups(count) {
            return true;
        }
        // Under the shard lock nobody can take a new reference, so 1 means the table's own.
        if Arc::strong_count(node) > 1 {
            return false;
        }
        let ident = node.place(Side::Primary).ident();
        let node = shard.by_id.take(&id);
        shard.shrink();
        if id >= FIRST_OWN_ID
            && let Some(ident) = ident
        {
            self.foreign.lock().remove(&ident);
        }
        // Outside the lock: closing its descriptors can be slow.
        drop(shard);
        drop(node);
        let forgotten = self.forgotten.fetch_add(1, Ordering::Relaxed) + 1;
        if forgotten.is_multiple_of(GIVE_BACK) {
            process::give_back_memory();
        }
        true
    }
}

impl Drop for Nodes {
    /// Takes the tree apart level by level: dropped as it is, a deep chain of parents would
    /// recurse as deep.
    fn drop(&mut self) {
        let shards = self.shards.iter_mut();
        let tables = shards.map(|shard| std::mem::take(&mut shard.get_mut().by_id));
        let nodes: Vec<ById> = tables.flatten().collect();
        let links: Vec<Link> = nodes.iter().flat_map(|node| node.0.take_links()).collect();
        drop(links);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::os::fd::AsFd;

    pub(in super::super) fn stat(dev: u64, ino: u64, dir: bool) -> Stat {
        let tmp = tempfile::tempdir().expect("a temporary directory");
        let flags = rustix::fs::OFlags::RDONLY;
        let fd = rustix::fs::open(tmp.path(), flags, rustix::fs::Mode::empty()).expect("open");
        let mut stat = Stat::of(fd.as_fd()).expect("statx");
        stat.ident = Ident { dev, ino };
        stat.mode = if dir { 0o040_755 } else { 0o100_644 };
        stat
    }

    pub(in super::super) fn name(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    #[test]
    fn a_node_lives_from_lookup_to_the_last_forget() {
        let nodes = Nodes::new(&stat(7, 2, true));
        let root = nodes.root().clone();
        let file = stat(7, 12, false);
        assert_eq!(nodes.remember(&file, &root, &name("a")).id, 12);
        assert_eq!(
            nodes
                .remember(&file, &root, &name("b"))
                .place(Side::Primary)
                .links()
                .len(),
            2
        );
        nodes.forget(12, 1);
        assert!(nodes.get(12).is_ok());
        nodes.forget(12, 1);
        assert_eq!(nodes.get(12).map(drop), Err(Errno::STALE));
        assert_eq!(nodes.len(), 1);
    }

    #[test]
    fn a_forgotten_parent_stays_while_a_child_needs_it() {
        let nodes = Nodes::new(&stat(7, 2, true));
        let root = nodes.root().clone();
        let dir = nodes.remember(&stat(7, 20, true), &root, &name("d"));
        let file = nodes.remember(&stat(7, 21, false), &dir, &name("f"));
        drop((dir, file));
        nodes.forget(20, 1);
        assert!(nodes.get(20).is_ok(), "its child still hangs on it");
        nodes.forget(21, 1);
        assert_eq!(nodes.len(), 1, "both are gone");
    }

    #[test]
    fn numbers_that_cannot_be_ids_get_others() {
        let nodes = Nodes::new(&stat(7, 256, true));
        let root = nodes.root().clone();
        assert_eq!(nodes.shown_ino(Ident { dev: 7, ino: 256 }), ROOT_ID);
        let one = nodes.remember(&stat(8, 256, true), &root, &name("subvolume"));
        let two = nodes.remember(&stat(9, 256, true), &root, &name("another"));
        assert!(one.id >= FIRST_OWN_ID && two.id > one.id);
        let again = nodes.remember(&stat(8, 256, true), &root, &name("subvolume"));
        assert!(Arc::ptr_eq(&one, &again));
    }

    /// A listing looked at a file, somebody set its set-user-ID bit, and the listing's older look
    /// arrived later: "no set-id bits", and a plain user's write left them in place.
    #[test]
    fn an_older_look_does_not_take_away_what_is_known_of_set_id_bits() {
        let nodes = Nodes::new(&stat(7, 2, true));
        let root = nodes.root().clone();
        let older = stat(7, 12, false);
        let node = nodes.remember(&older, &root, &name("f"));
        assert!(!node.set_id.load(Ordering::Acquire));
        // As `fs` does before a chmod.
        node.set_id.store(true, Ordering::Release);
        drop(nodes.remember(&older, &root, &name("f")));
        assert!(
            node.set_id.load(Ordering::Acquire),
            "never false when it has them"
        );
    }
}
