// SPDX-License-Identifier: MIT
//! Nodes: the objects the kernel knows, and where each copy keeps them.
//!
//! A `Node` lives from its first lookup to the kernel's FORGET. It holds no path: on each side it
//! knows its identity (device and inode number), the names it was last seen under, each relative
//! to a parent node, and at most one descriptor, which comes and goes (`descriptor.rs`). Whatever
//! is found under a name is checked against the identity before it is used: a node is never
//! mistaken for what took its place.
//!
//! A kernel with a large cache knows millions of nodes, so a quiet one is small: the name it has
//! on both sides is kept once, and what only few have (descriptors, second names, names under
//! way from one side to the other) is boxed. `a_quiet_node_is_small` holds the number.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use rustix::fs::FileType;
use smallvec::SmallVec;

use super::descriptor::{Descriptor, Pin};
use super::{Ident, Name, Stat, Time};
use crate::sys::{Errno, Result};

/// Names kept per node: enough to find it by. A file with more stays open once these are gone.
const LINKS_MAX: usize = 16;
/// Components of a path in a message.
const SHOWN_MAX: usize = 256;
/// Packed device numbers that no device has: of an object not seen yet on a side, and of one that
/// has no place any more on a replica that is left.
const UNSEEN: u32 = u32::MAX;
const LEFT: u32 = u32::MAX - 1;

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

impl Link {
    fn is(&self, parent: &Arc<Node>, name: &Name) -> bool {
        Arc::ptr_eq(&self.parent, parent) && self.name == *name
    }
}

type Links = SmallVec<[Link; 1]>;

/// What few nodes have at any one time.
#[derive(Debug, Default)]
struct Rare {
    /// The names of each side, where they are not the one name that both have.
    links: Option<[Links; 2]>,
    open: [Option<Arc<Descriptor>>; 2],
    pin: [Option<Pin>; 2],
    /// The primary's inode number, where the node's id is another.
    ino: Option<u64>,
    /// When it was made: tells it from what gets its number after it. Only where PRIMARY may change
    /// behind the mount; else no number is free while the kernel knows it.
    born: Option<Time>,
    /// A sync of it failed.
    sync_error: Option<Errno>,
}

impl Rare {
    fn is_empty(&self) -> bool {
        self.links.is_none()
            && self.ino.is_none()
            && self.born.is_none()
            && self.sync_error.is_none()
            && self.open.iter().all(Option::is_none)
            && self.pin.iter().all(Option::is_none)
    }
}

/// What both sides know of a node.
#[derive(Debug)]
struct Places {
    /// Its name on both sides, unless `rare` has other ones.
    link: Option<Link>,
    replica_ino: u64,
    /// Packed, or [`UNSEEN`].
    primary_dev: u32,
    /// Packed, or [`UNSEEN`], or [`LEFT`].
    replica_dev: u32,
    rare: Option<Box<Rare>>,
}

impl Places {
    fn links(&self, side: Side) -> &[Link] {
        match self.rare.as_ref().and_then(|rare| rare.links.as_ref()) {
            Some(links) => &links[side as usize],
            None => self.link.as_slice(),
        }
    }

    /// Changes the names of one side or both, and keeps them once again when they are the same.
    fn edit(&mut self, sides: &[Side], change: impl Fn(&mut Links)) {
        let kept = self.rare.as_mut().and_then(|rare| rare.links.take());
        let mut links = kept.unwrap_or_else(|| {
            let one: Links = self.link.take().into_iter().collect();
            [one.clone(), one]
        });
        for side in sides {
            change(&mut links[*side as usize]);
        }
        let [primary, replica] = &links;
        let same = match (primary.as_slice(), replica.as_slice()) {
            ([], []) => true,
            ([one], [other]) => one.is(&other.parent, &other.name),
            _ => false,
        };
        if same {
            let [mut one, _] = links;
            self.link = one.pop();
            self.tidy();
        } else {
            self.rare().links = Some(links);
        }
    }

    /// The sides a change of names is made on: both once the replica is left, whose names nobody
    /// sees any more, so that they take no room.
    fn mirrored<'a>(&self, sides: &'a [Side]) -> &'a [Side] {
        match (self.replica_dev == LEFT, sides) {
            (true, [Side::Replica]) => &[],
            (true, _) => &[Side::Primary, Side::Replica],
            _ => sides,
        }
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Gives back the box once nothing is in it.
    fn tidy(&mut self) {
        if self.rare.as_ref().is_some_and(|rare| rare.is_empty()) {
            self.rare = None;
        }
    }
}

/// A device number in the 32 bits that the kernel has for one.
fn packed(dev: u64) -> u32 {
    (rustix::fs::major(dev) << 20) | (rustix::fs::minor(dev) & 0xf_ffff)
}

fn unpacked(dev: u32) -> u64 {
    rustix::fs::makedev(dev >> 20, dev & 0xf_ffff)
}

/// What one side knows of a node, held.
#[derive(Debug)]
pub struct Place<'a> {
    node: &'a Node,
    side: Side,
    places: MutexGuard<'a, Places>,
}

impl Place<'_> {
    /// Its identity there, once seen.
    #[must_use]
    pub fn ident(&self) -> Option<Ident> {
        let places = &self.places;
        let own = || places.rare.as_ref().and_then(|rare| rare.ino);
        let (dev, ino) = match self.side {
            Side::Primary => (places.primary_dev, own().unwrap_or(self.node.id)),
            Side::Replica => (places.replica_dev, places.replica_ino),
        };
        let seen = !matches!(dev, UNSEEN | LEFT);
        let dev = seen.then(|| unpacked(dev))?;
        Some(Ident { dev, ino })
    }

    /// Settles who it is there.
    pub fn set_ident(&mut self, ident: Ident) {
        let dev = packed(ident.dev);
        match self.side {
            Side::Primary => {
                self.places.primary_dev = dev;
                if ident.ino != self.node.id {
                    self.places.rare().ino = Some(ident.ino);
                }
            }
            Side::Replica if self.places.replica_dev == LEFT => {}
            Side::Replica => {
                self.places.replica_dev = dev;
                self.places.replica_ino = ident.ino;
            }
        }
    }

    /// The names it was seen under, up to a limit.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        if self.side == Side::Replica && self.places.replica_dev == LEFT {
            return &[];
        }
        self.places.links(self.side)
    }

    /// Its descriptor, while it has one.
    #[must_use]
    pub fn open(&self) -> Option<&Arc<Descriptor>> {
        self.places.rare.as_ref()?.open[self.side as usize].as_ref()
    }

    /// Gives it a descriptor, and hands out the one it had.
    pub fn replace_open(&mut self, open: Arc<Descriptor>) -> Option<Arc<Descriptor>> {
        self.places.rare().open[self.side as usize].replace(open)
    }

    /// Takes its descriptor away. To be dropped outside the lock: closing can be slow.
    #[must_use]
    pub fn take_open(&mut self) -> Option<Arc<Descriptor>> {
        let taken = self.places.rare.as_mut()?.open[self.side as usize].take();
        self.places.tidy();
        taken
    }

    /// Whether the descriptor may not be closed: no name leads back to the object.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        let rare = self.places.rare.as_ref();
        rare.is_some_and(|rare| rare.pin[self.side as usize].is_some())
    }

    /// Keeps the descriptor from being closed.
    pub fn set_pin(&mut self, pin: Pin) {
        self.places.rare().pin[self.side as usize] = Some(pin);
    }

    /// Lets the descriptor be closed again.
    pub fn take_pin(&mut self) -> Option<Pin> {
        let taken = self.places.rare.as_mut()?.pin[self.side as usize].take();
        self.places.tidy();
        taken
    }
}

/// An object the kernel knows.
#[derive(Debug)]
pub struct Node {
    /// What the kernel calls it, and what `st_ino` shows.
    pub id: u64,
    /// Never used twice, unlike `id`: what our own tables call it.
    pub serial: u64,
    /// Lookups not taken back yet; a node that ever had `u32::MAX` stays. Changed under its
    /// shard's lock only.
    lookups: AtomicU32,
    /// Its type, which never changes.
    pub kind: FileType,
    /// Its times on the replica wait to be carried over.
    pub unsettled: AtomicBool,
    /// It may have set-id bits, so that writes must mind them (never false when it has).
    pub set_id: AtomicBool,
    /// The mark in the write-intent log that covers it because it was born under one; 0 for none.
    cover: AtomicU64,
    places: Mutex<Places>,
}

impl Node {
    /// `shared`: PRIMARY may also change behind the mount; `left`: there is no replica any more.
    pub(super) fn new(id: u64, serial: u64, stat: &Stat, shared: bool, left: bool) -> Self {
        let node = Self {
            id,
            serial,
            lookups: AtomicU32::new(0),
            kind: stat.kind(),
            unsettled: AtomicBool::new(false),
            // Behind the mount anybody may set them.
            set_id: AtomicBool::new(shared || stat.mode & 0o6000 != 0),
            cover: AtomicU64::new(0),
            places: Mutex::new(Places {
                link: None,
                replica_ino: 0,
                primary_dev: UNSEEN,
                replica_dev: if left { LEFT } else { UNSEEN },
                rare: None,
            }),
        };
        node.place(Side::Primary).set_ident(stat.ident);
        if let Some(born) = stat.btime.filter(|_| shared) {
            node.places.lock().rare().born = Some(born);
        }
        node
    }

    /// Takes the place of `old` in the table; under the shard's lock.
    pub(super) fn inherit_lookups(&self, old: &Self) {
        let counted = old.lookups.load(Ordering::Relaxed);
        self.lookups.store(counted, Ordering::Relaxed);
    }

    /// One more lookup; under the shard's lock.
    pub(super) fn count_lookup(&self) {
        let count = self.lookups.load(Ordering::Relaxed);
        self.lookups
            .store(count.saturating_add(1), Ordering::Relaxed);
    }

    /// Takes back `count` lookups, and tells whether none is left; under the shard's lock.
    pub(super) fn uncount_lookups(&self, count: u64) -> bool {
        let before = self.lookups.load(Ordering::Relaxed);
        if before == u32::MAX {
            return false;
        }
        let after = before.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
        self.lookups.store(after, Ordering::Relaxed);
        after == 0
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// What one side knows of it. Both sides share one lock: hold one place at a time.
    pub fn place(&self, side: Side) -> Place<'_> {
        Place {
            node: self,
            side,
            places: self.places.lock(),
        }
    }

    /// Adds a name on one side.
    pub fn add_link(&self, side: Side, parent: &Arc<Self>, name: &Name) {
        self.add_links(&[side], parent, name);
    }

    /// Adds a name on both sides: where both are equal, what is found on one is on the other.
    pub(super) fn add_link_everywhere(&self, parent: &Arc<Self>, name: &Name) {
        self.add_links(&[Side::Primary, Side::Replica], parent, name);
    }

    fn add_links(&self, sides: &[Side], parent: &Arc<Self>, name: &Name) {
        let mut places = self.places.lock();
        let known = |links: &[Link]| {
            links.len() >= LINKS_MAX || links.iter().any(|link| link.is(parent, name))
        };
        if sides.iter().all(|&side| known(places.links(side))) {
            return;
        }
        let sides = places.mirrored(sides);
        places.edit(sides, |links| {
            if !known(links) {
                links.push(Link {
                    parent: parent.clone(),
                    name: name.clone(),
                });
            }
        });
    }

    /// Notes where it was seen or moved just now, ahead of the names it was seen under before:
    /// behind the mount those may have gone, and on a replica that lags they may still be to come.
    pub(super) fn seen_at(&self, side: Side, parent: &Arc<Self>, name: &Name) {
        let mut places = self.places.lock();
        if places
            .links(side)
            .first()
            .is_some_and(|first| first.is(parent, name))
        {
            return;
        }
        // A directory has no other name, and old ones could make a ring of parents.
        let is_dir = self.is_dir();
        let sides = places.mirrored(std::slice::from_ref(&side));
        places.edit(sides, |links| {
            links.retain(|link| !is_dir && !link.is(parent, name));
            links.truncate(LINKS_MAX - 1);
            let (parent, name) = (parent.clone(), name.clone());
            links.insert(0, Link { parent, name });
        });
    }

    /// Whether this is the object of `stat`, and not one that got its number after it.
    #[must_use]
    pub fn is(&self, stat: &Stat) -> bool {
        let rare = |places: &Places| places.rare.as_ref().and_then(|rare| rare.born);
        let born = rare(&self.places.lock()).zip(stat.btime);
        self.kind == stat.kind() && born.is_none_or(|(mine, its)| mine == its)
    }

    /// Drops a name on one side; without the last one the object is out of reach of names.
    pub fn remove_link(&self, side: Side, parent: &Arc<Self>, name: &Name) {
        let mut places = self.places.lock();
        if places.links(side).iter().any(|link| link.is(parent, name)) {
            let sides = places.mirrored(std::slice::from_ref(&side));
            places.edit(sides, |links| links.retain(|link| !link.is(parent, name)));
        }
    }

    /// Forgets everything about the replica, and hands out what has to be closed.
    pub(super) fn leave_replica(&self) -> (Option<Arc<Descriptor>>, Option<Pin>) {
        let mut place = self.place(Side::Replica);
        let left = (place.take_open(), place.take_pin());
        let primary: Links = place.places.links(Side::Primary).iter().cloned().collect();
        place
            .places
            .edit(&[Side::Replica], |links| links.clone_from(&primary));
        place.places.replica_dev = LEFT;
        left
    }

    /// Forgets who it is on the replica, and hands out what has to be closed: another object has
    /// its name there, or it has another one. It is looked for under the names of the primary.
    pub fn forget_twin(&self) -> Option<Arc<Descriptor>> {
        let mut place = self.place(Side::Replica);
        let open = place.take_open();
        if place.places.replica_dev != LEFT {
            place.places.replica_dev = UNSEEN;
        }
        drop(place);
        self.align_names();
        open
    }

    /// An op that changed its names was not carried to the replica: once that is healed it has the
    /// same ones there.
    pub fn align_names(&self) {
        let mut places = self.places.lock();
        let primary: Links = places.links(Side::Primary).iter().cloned().collect();
        if places.replica_dev != LEFT {
            places.edit(&[Side::Replica], |links| links.clone_from(&primary));
        }
    }

    /// Whether it is known on the replica as this object, under the names of the primary.
    #[must_use]
    pub fn has_twin(&self, twin: Ident) -> bool {
        let places = self.places.lock();
        let same = match places.rare.as_ref().and_then(|rare| rare.links.as_ref()) {
            Some([p, r]) => {
                let known = |l: &Link| r.iter().any(|other| other.is(&l.parent, &l.name));
                p.len() == r.len() && p.iter().all(known)
            }
            None => true,
        };
        drop(places);
        let ident = self.place(Side::Replica).ident();
        same && ident.is_none_or(|ident| ident == twin)
    }

    /// Has a place on the replica again, not seen yet, unless no name leads to it.
    pub(super) fn rejoin_replica(&self) {
        let mut places = self.places.lock();
        let named = self.id == super::nodes::ROOT_ID || !places.links(Side::Primary).is_empty();
        if places.replica_dev == LEFT && named {
            places.replica_dev = UNSEEN;
        }
    }

    /// Whether it has no place on the replica any more.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.places.lock().replica_dev == LEFT
    }

    /// The mark that covers it because it was born under one, or 0.
    #[must_use]
    pub fn cover(&self) -> u64 {
        self.cover.load(Ordering::Acquire)
    }

    /// Notes which mark covers it from now on; 0 for none.
    pub fn set_cover(&self, mark: u64) {
        self.cover.store(mark, Ordering::Release);
    }

    /// `mark` covers it no longer, unless another one does by now.
    pub fn lose_cover(&self, mark: u64) {
        let none = Ordering::AcqRel;
        // Another one by now: that one stays.
        let _other = self
            .cover
            .compare_exchange(mark, 0, none, Ordering::Acquire);
    }

    /// Where it lies on the primary, relative to the root: names joined by `/`, nothing for the
    /// root. `None` when no name is known.
    #[must_use]
    pub fn path(&self) -> Option<Vec<u8>> {
        let mut names = Vec::new();
        let mut id = self.id;
        let mut link = self.place(Side::Primary).links().first().cloned();
        while id != super::nodes::ROOT_ID {
            let Link { parent, name } = link?;
            names.push(name);
            id = parent.id;
            link = parent.place(Side::Primary).links().first().cloned();
        }
        names.reverse();
        let names = names.iter().map(|name| name.as_c_str().to_bytes());
        Some(names.collect::<Vec<_>>().join(&b'/'))
    }

    /// Takes its names out of it, for taking the whole tree apart.
    pub(super) fn take_links(&self) -> Vec<Link> {
        let mut places = self.places.lock();
        let split = places.rare.as_mut().and_then(|rare| rare.links.take());
        let one = places.link.take().into_iter();
        one.chain(split.into_iter().flatten().flatten()).collect()
    }

    /// Its first known name, for messages only.
    #[must_use]
    pub fn display_path(&self) -> String {
        let mut parts = Vec::new();
        let mut link = self.place(Side::Primary).links().first().cloned();
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
            link = parent.place(Side::Primary).links().first().cloned();
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
        self.places.lock().rare().sync_error = Some(errno);
    }

    /// The kept error of a failed sync.
    ///
    /// # Errors
    /// The errno that [`Self::keep_sync_error`] was given.
    pub fn sync_error(&self) -> Result<()> {
        let places = self.places.lock();
        let kept = places.rare.as_ref().and_then(|rare| rare.sync_error);
        kept.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Nodes;
    use super::super::nodes::tests::{name, stat};
    use super::*;

    /// What a chunk of glibc's allocator takes for so many bytes.
    fn chunk(bytes: usize) -> usize {
        (bytes + 8).next_multiple_of(16).max(32)
    }

    /// What the kernel knows costs us this much for each object with one name, descriptors aside
    /// (they are limited), and without its slot in the table: 9 to 20 bytes.
    #[test]
    fn a_quiet_node_is_small() {
        let counts = 2 * size_of::<usize>();
        let bytes = chunk(size_of::<Node>() + counts);
        assert_eq!((size_of::<Node>(), bytes), (96, 128));
        assert_eq!(size_of::<Name>(), 24);
        let nodes = Nodes::new(&stat(7, 2, true));
        let node = nodes.remember(&stat(7, 12, false), nodes.root(), &name("fifteen letters"));
        {
            let mut place = node.place(Side::Replica);
            place.set_ident(Ident { dev: 9, ino: 5 });
        }
        let places = node.places.lock();
        assert!(places.rare.is_none(), "nothing that only few have");
        let link = places.link.as_ref().expect("its name");
        assert_eq!(link.name.heap_bytes(), 0, "up to 15 bytes in place");
    }

    fn names(node: &Node, side: Side) -> Vec<String> {
        let place = node.place(side);
        let text = |link: &Link| link.name.as_os_str().to_string_lossy().into_owned();
        place.links().iter().map(text).collect()
    }

    /// A rename on the primary shows there, on the replica once it is carried over, and takes no
    /// room afterwards.
    #[test]
    fn names_differ_while_an_op_is_between_the_sides() {
        let nodes = Nodes::new(&stat(7, 2, true));
        let root = nodes.root().clone();
        let node = nodes.remember(&stat(7, 12, false), &root, &name("a"));
        for (side, want) in [(Side::Primary, ("b", "a")), (Side::Replica, ("b", "b"))] {
            node.add_link(side, &root, &name("b"));
            node.remove_link(side, &root, &name("a"));
            assert_eq!(names(&node, Side::Primary), [want.0]);
            assert_eq!(names(&node, Side::Replica), [want.1]);
        }
        assert!(node.places.lock().rare.is_none());
        node.remove_link(Side::Primary, &root, &name("b"));
        assert_eq!(names(&node, Side::Primary), [""; 0]);
        assert_eq!(names(&node, Side::Replica), ["b"]);
        node.remove_link(Side::Replica, &root, &name("b"));
        assert!(node.places.lock().rare.is_none());
    }

    #[test]
    fn hard_links_are_known_by_all_their_names_up_to_a_limit() {
        let nodes = Nodes::new(&stat(7, 2, true));
        let root = nodes.root().clone();
        let node = nodes.remember(&stat(7, 12, false), &root, &name("0"));
        for n in 1..2 * LINKS_MAX {
            nodes.remember(&stat(7, 12, false), &root, &name(&n.to_string()));
        }
        assert_eq!(names(&node, Side::Primary).len(), LINKS_MAX);
        for n in 1..LINKS_MAX {
            for side in [Side::Primary, Side::Replica] {
                node.remove_link(side, &root, &name(&n.to_string()));
            }
        }
        assert_eq!(names(&node, Side::Replica), ["0"]);
        assert!(node.places.lock().rare.is_none());
    }

    /// Once the replica is left nothing is kept for it, whatever happens to names afterwards.
    #[test]
    fn a_left_replica_takes_no_room() {
        let nodes = Nodes::new(&stat(7, 2, true));
        let root = nodes.root().clone();
        let node = nodes.remember(&stat(7, 12, false), &root, &name("a"));
        nodes.leave_replica();
        node.add_link(Side::Primary, &root, &name("b"));
        node.add_link(Side::Replica, &root, &name("c"));
        node.remove_link(Side::Primary, &root, &name("a"));
        assert_eq!(names(&node, Side::Primary), ["b"]);
        assert_eq!(names(&node, Side::Replica), [""; 0]);
        assert!(node.places.lock().rare.is_none());
    }

    #[test]
    fn every_identity_comes_back_as_it_was() {
        let nodes = Nodes::new(&stat(7, 256, true));
        let root = nodes.root().clone();
        let btrfs = rustix::fs::makedev(0, 0xf_fffe);
        let disk = rustix::fs::makedev(4094, 1 << 19);
        let subvolume = nodes.remember(&stat(btrfs, 256, true), &root, &name("s"));
        let ident = Ident {
            dev: disk,
            ino: u64::MAX,
        };
        assert_eq!(subvolume.place(Side::Replica).ident(), None);
        subvolume.place(Side::Replica).set_ident(ident);
        assert_eq!(subvolume.place(Side::Replica).ident(), Some(ident));
        let own = |node: &Node| node.place(Side::Primary).ident();
        assert_eq!(
            own(&subvolume),
            Some(Ident {
                dev: btrfs,
                ino: 256
            })
        );
        assert_eq!(own(&root), Some(Ident { dev: 7, ino: 256 }));
    }
}
