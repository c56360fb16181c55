// SPDX-License-Identifier: MIT
//! Nodes: the objects the kernel knows, and where each copy keeps them.
//!
//! A `Node` lives from its first lookup to the kernel's FORGET. It holds no path: on each side it
//! knows its identity (device and inode number), the names it was last seen under, each relative
//! to a parent node, and at most one descriptor, which comes and goes (`descriptor.rs`). Whatever
//! is found under a name is checked against the identity before it is used: a node is never
//! mistaken for what took its place.
//!
//! Lock order: a shard of [`Nodes`], then a node's place, then the descriptor ring. None is held
//! across a system call that can block on a disk.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use rustix::fs::FileType;
use smallvec::SmallVec;

use super::descriptor::{Descriptor, Pin};
use super::{Ident, Name, Stat, Time};
use crate::sys::{Errno, Result};

/// The node id of the root, fixed by the FUSE protocol (`FUSE_ROOT_ID`).
pub const ROOT_ID: u64 = 1;
/// Ids from here up are ours: for objects whose inode number cannot serve.
const FIRST_OWN_ID: u64 = 1 << 63;
const SHARDS: usize = 32;
/// Names kept per node: enough to find it by. A file with more stays open once these are gone.
const LINKS_MAX: usize = 16;
/// Components of a path in a message.
const SHOWN_MAX: usize = 256;

/// Which copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The tree that serves reads and decides every outcome.
    Primary = 0,
    /// The tree that receives every op.
    Replica = 1,
}

/// One name of a node.
#[derive(Clone, Debug)]
pub struct Link {
    /// The directory.
    pub parent: Arc<Node>,
    /// The name in it.
    pub name: Name,
}

/// What one side knows of a node.
#[derive(Debug, Default)]
pub struct Place {
    /// Its identity there, once seen.
    pub ident: Option<Ident>,
    /// The names it was seen under, up to a limit.
    pub links: SmallVec<[Link; 1]>,
    /// Its descriptor, while it has one.
    pub open: Option<Arc<Descriptor>>,
    /// Held while the descriptor may not be closed: no name leads back to the object.
    pub pin: Option<Pin>,
}

/// An object the kernel knows.
#[derive(Debug)]
pub struct Node {
    /// What the kernel calls it, and what `st_ino` shows.
    pub id: u64,
    /// Never used twice, unlike `id`: what our own tables call it.
    pub serial: u64,
    /// Its type, which never changes.
    pub kind: FileType,
    /// When it was made: tells it from what gets its number after it. Only where PRIMARY may change
    /// behind the mount; else no number is free while the kernel knows it.
    pub born: Option<Time>,
    lookups: AtomicU64,
    places: [Mutex<Place>; 2],
    /// Its times on the replica wait to be carried over.
    pub unsettled: AtomicBool,
    /// It may have set-id bits, so that writes must mind them (never false when it has).
    pub set_id: AtomicBool,
    sync_error: AtomicI32,
}

impl Node {
    fn new(id: u64, serial: u64, stat: &Stat, shared: bool) -> Self {
        let primary = Place {
            ident: Some(stat.ident),
            ..Place::default()
        };
        Self {
            id,
            serial,
            kind: stat.kind(),
            born: stat.btime.filter(|_| shared),
            lookups: AtomicU64::new(0),
            places: [Mutex::new(primary), Mutex::default()],
            unsettled: AtomicBool::new(false),
            // Behind the mount anybody may set them.
            set_id: AtomicBool::new(shared || stat.mode & 0o6000 != 0),
            sync_error: AtomicI32::new(0),
        }
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// What one side knows of it.
    pub fn place(&self, side: Side) -> MutexGuard<'_, Place> {
        self.places[side as usize].lock()
    }

    /// Adds a name on one side.
    pub fn add_link(&self, side: Side, parent: &Arc<Self>, name: &Name) {
        let mut place = self.place(side);
        let known = |l: &Link| Arc::ptr_eq(&l.parent, parent) && l.name == *name;
        if place.links.iter().any(known) {
            return;
        }
        if place.links.len() == LINKS_MAX {
            return;
        }
        place.links.push(Link {
            parent: parent.clone(),
            name: name.clone(),
        });
    }

    /// Notes where it was seen just now, ahead of the names it was seen under before: behind the
    /// mount those may have gone.
    fn seen_at(&self, side: Side, parent: &Arc<Self>, name: &Name) {
        let mut place = self.place(side);
        let is_new = |l: &Link| !(Arc::ptr_eq(&l.parent, parent) && l.name == *name);
        if place.links.first().is_some_and(|first| !is_new(first)) {
            return;
        }
        // A directory has no other name, and old ones could make a ring of parents.
        let is_dir = self.is_dir();
        place.links.retain(|link| !is_dir && is_new(link));
        place.links.truncate(LINKS_MAX - 1);
        let (parent, name) = (parent.clone(), name.clone());
        place.links.insert(0, Link { parent, name });
    }

    /// Whether this is the object of `stat`, and not one that got its number after it.
    #[must_use]
    pub fn is(&self, stat: &Stat) -> bool {
        let born = self.born.zip(stat.btime);
        self.kind == stat.kind() && born.is_none_or(|(mine, its)| mine == its)
    }

    /// Drops a name on one side; without the last one the object is out of reach of names.
    pub fn remove_link(&self, side: Side, parent: &Arc<Self>, name: &Name) {
        let mut place = self.place(side);
        place
            .links
            .retain(|l| !(Arc::ptr_eq(&l.parent, parent) && l.name == *name));
    }

    /// Its first known name, for messages only.
    #[must_use]
    pub fn display_path(&self) -> String {
        let mut parts = Vec::new();
        let mut link = self.place(Side::Primary).links.first().cloned();
        while let Some(Link { parent, name }) = link {
            if parts.len() == SHOWN_MAX {
                parts.push("...".to_owned());
                break;
            }
            parts.push(
                name.as_os_str()
                    .to_string_lossy()
                    .escape_debug()
                    .to_string(),
            );
            link = parent.place(Side::Primary).links.first().cloned();
        }
        parts.reverse();
        if parts.is_empty() {
            ".".to_owned()
        } else {
            parts.join("/")
        }
    }

    /// Remembers that making this node durable failed: every later fsync says so, until FORGET.
    pub fn keep_sync_error(&self, errno: Errno) {
        self.sync_error
            .store(errno.raw_os_error(), Ordering::Release);
    }

    /// The kept error of a failed sync.
    ///
    /// # Errors
    /// The errno that [`Self::keep_sync_error`] was given.
    pub fn sync_error(&self) -> Result<()> {
        match self.sync_error.load(Ordering::Acquire) {
            0 => Ok(()),
            raw => Err(Errno::from_raw_os_error(raw)),
        }
    }
}

#[derive(Debug, Default)]
struct Shard {
    by_id: HashMap<u64, Arc<Node>>,
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
    /// PRIMARY may also change behind the mount.
    shared: bool,
    /// The replica is left: nothing about it is kept any more.
    left: AtomicBool,
}

impl Nodes {
    /// The table of a freshly mounted tree, which knows its root only.
    #[must_use]
    pub fn new(root: &Stat) -> Self {
        let node = Arc::new(Node::new(ROOT_ID, 1, root, false));
        node.lookups.store(1, Ordering::Relaxed);
        let nodes = Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            foreign: Mutex::new(HashMap::from([(root.ident, ROOT_ID)])),
            zombies: Mutex::default(),
            root: node.clone(),
            root_dev: root.ident.dev,
            next_own_id: AtomicU64::new(FIRST_OWN_ID),
            next_serial: AtomicU64::new(2),
            shared: false,
            left: AtomicBool::new(false),
        };
        nodes.shard(ROOT_ID).lock().by_id.insert(ROOT_ID, node);
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
            .cloned()
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
        self.root.place(Side::Primary).ident == Some(ident)
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
            let fresh = || {
                let serial = self.next_serial.fetch_add(1, Ordering::Relaxed);
                Arc::new(Node::new(id, serial, stat, self.shared))
            };
            let node = shard.by_id.entry(id).or_insert_with(fresh);
            if self.shared && !node.is(stat) {
                // Its number has passed to another object. The kernel forgets both under it.
                let counted = node.lookups.load(Ordering::Relaxed);
                replaced = Some(std::mem::replace(node, fresh()));
                node.lookups.store(counted, Ordering::Relaxed);
            }
            node.lookups.fetch_add(1, Ordering::Relaxed);
            node.clone()
        };
        // Outside the lock: closing its descriptors can be slow.
        drop(replaced);
        if stat.mode & 0o6000 != 0 {
            // Never taken back here: what was seen may be older than a chmod under way.
            node.set_id.store(true, Ordering::Release);
        }
        if self.shared {
            node.seen_at(Side::Primary, parent, name);
        } else {
            node.add_link(Side::Primary, parent, name);
        }
        if !self.left.load(Ordering::Acquire) {
            node.add_link(Side::Replica, parent, name);
        }
        node
    }

    /// Forgets everything about one side, descriptors and all: it has failed. Names that are not
    /// followed any more would keep moved directories alive for ever.
    pub fn leave(&self, side: Side) {
        self.left.store(true, Ordering::Release);
        for shard in &self.shards {
            let nodes: Vec<_> = shard.lock().by_id.values().cloned().collect();
            for node in nodes {
                let place = std::mem::take(&mut *node.place(side));
                drop(place);
            }
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
        let Some(node) = shard.by_id.get(&id) else {
            return true;
        };
        let before = node.lookups.fetch_sub(count, Ordering::Relaxed);
        if before > count {
            return true;
        }
        // Under the shard lock nobody can take a new reference, so 1 means the table's own.
        if Arc::strong_count(node) > 1 {
            return false;
        }
        let ident = node.place(Side::Primary).ident;
        let node = shard.by_id.remove(&id);
        if id >= FIRST_OWN_ID
            && let Some(ident) = ident
        {
            self.foreign.lock().remove(&ident);
        }
        // Outside the lock: closing its descriptors can be slow.
        drop(shard);
        drop(node);
        true
    }
}

impl Drop for Nodes {
    /// Takes the tree apart level by level: dropped as it is, a deep chain of parents would
    /// recurse as deep.
    fn drop(&mut self) {
        let maps = self
            .shards
            .iter_mut()
            .map(|s| std::mem::take(&mut s.get_mut().by_id));
        let nodes: Vec<Arc<Node>> = maps.flat_map(HashMap::into_values).collect();
        let places = nodes
            .iter()
            .flat_map(|n| [Side::Primary, Side::Replica].map(|s| n.place(s)));
        let mut links = Vec::new();
        for mut place in places {
            links.append(&mut place.links.to_vec());
            place.links.clear();
        }
        drop(links);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn stat(dev: u64, ino: u64, dir: bool) -> Stat {
        let tmp = tempfile::tempdir().expect("a temporary directory");
        let flags = rustix::fs::OFlags::RDONLY;
        let fd = rustix::fs::open(tmp.path(), flags, rustix::fs::Mode::empty()).expect("open");
        let mut stat = Stat::of(fd.as_fd()).expect("statx");
        stat.ident = Ident { dev, ino };
        stat.mode = if dir { 0o040_755 } else { 0o100_644 };
        stat
    }

    fn name(text: &str) -> Name {
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
                .links
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
