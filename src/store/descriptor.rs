// SPDX-License-Identifier: MIT
//! Descriptors belong to nodes, not to opens, and stay within `RLIMIT_NOFILE` (decision 1).
//!
//! The kernel never tells us about `open(2)`, so a node gets a descriptor when something needs
//! one, and keeps it until others need the room: a second-chance ring per tree. Two kinds stay
//! out of the ring's reach: descriptors of nodes that no name leads to any more (pinned until
//! FORGET), and those with writes that were never synced, because the error of a failed writeback
//! is reported through the descriptor that wrote (docs/SAFETY.md, rule 14).

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

use super::Ident;
use super::direct::Direct;
use super::node::{Node, Side};

/// Descriptors a ring can always use, however many are pinned.
const ROOM_MIN: usize = 8;

/// What a descriptor can be used for; a later one can do all that an earlier one can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// `O_PATH`: attributes, and names relative to it.
    Path,
    /// `O_RDONLY`.
    Read,
    /// `O_RDWR`.
    Write,
}

/// An open descriptor of one node on one side.
#[derive(Debug)]
pub struct Descriptor {
    fd: OwnedFd,
    /// What it was opened for.
    pub access: Access,
    /// Whose it is, where that was looked at: a node whose object on the replica was replaced
    /// meanwhile must not get it.
    pub ident: Option<Ident>,
    /// The file is append-only (`chattr +a`): writes go to its end whatever their offset.
    pub append_only: bool,
    /// Used since the ring's hand last passed.
    hot: AtomicBool,
    /// The ring's write epoch at the last unsynced write, or 0.
    dirty: AtomicU64,
    /// Writes noted so far: tells a sync whether another came while it ran.
    writes: AtomicU64,
    position: Mutex<()>,
    /// Once asked for: the same file past the page cache, where that can be.
    pub(super) direct: OnceLock<Option<Direct>>,
}

impl Descriptor {
    /// Wraps a freshly opened descriptor.
    #[must_use]
    pub fn new(fd: OwnedFd, access: Access) -> Self {
        Self {
            fd,
            access,
            ident: None,
            append_only: false,
            hot: AtomicBool::new(true),
            dirty: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            position: Mutex::default(),
            direct: OnceLock::new(),
        }
    }

    /// The same, known to be of this object.
    #[must_use]
    pub fn of(mut self, ident: Option<Ident>) -> Self {
        self.ident = ident;
        self
    }

    /// Marks it used, so that the ring's hand passes it once more.
    pub fn touch(&self) {
        self.hot.store(true, Ordering::Relaxed);
    }

    /// Notes a write that is not durable yet: once before it, so that the descriptor is not
    /// closed under it, and once after, so that no sync that ran before it counts.
    pub fn soil(&self, ring: &Ring) {
        self.writes.fetch_add(1, Ordering::AcqRel);
        let epoch = ring.epoch.load(Ordering::Acquire);
        self.dirty.store(epoch, Ordering::Release);
    }

    /// Runs `sync`, and notes that everything written through the descriptor before is durable.
    ///
    /// # Errors
    /// What `sync` says; then nothing is.
    pub fn sync<E>(&self, ring: &Ring, sync: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let writes = self.writes.load(Ordering::Acquire);
        sync()?;
        self.dirty.store(0, Ordering::Release);
        if self.writes.load(Ordering::Acquire) != writes {
            // One came meanwhile; whether the sync saw it, nobody knows.
            let epoch = ring.epoch.load(Ordering::Acquire);
            self.dirty.store(epoch, Ordering::Release);
        }
        Ok(())
    }

    /// Holds the file position (of a directory being listed) for one user at a time.
    pub fn position(&self) -> parking_lot::MutexGuard<'_, ()> {
        self.position.lock()
    }

    fn is_dirty(&self, ring: &Ring) -> bool {
        self.dirty.load(Ordering::Acquire) > ring.synced.load(Ordering::Acquire)
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The descriptors of one tree, and how many there may be.
#[derive(Debug)]
pub struct Ring {
    side: Side,
    limit: usize,
    pinned: Arc<AtomicUsize>,
    doubles: Arc<AtomicUsize>,
    doubles_max: usize,
    /// The epoch that writes belong to now; a sync of the whole file system begins the next.
    epoch: AtomicU64,
    /// The last epoch whose writes are all durable.
    synced: AtomicU64,
    hand: Mutex<VecDeque<Weak<Node>>>,
    syncing: Mutex<()>,
}

/// What to do about a full ring.
#[derive(Debug, PartialEq, Eq)]
pub enum Room {
    /// There is room now.
    Made,
    /// Everything left is unsynced: sync the file system with [`Ring::sync_once`].
    NeedsSync,
}

impl Ring {
    /// A ring of at most `limit` descriptors for one side.
    #[must_use]
    pub fn new(side: Side, limit: usize) -> Self {
        Self {
            side,
            limit: limit.max(2 * ROOM_MIN),
            pinned: Arc::default(),
            doubles: Arc::default(),
            doubles_max: 0,
            epoch: AtomicU64::new(1),
            synced: AtomicU64::new(0),
            hand: Mutex::default(),
            syncing: Mutex::default(),
        }
    }

    /// Puts a node that has just got a descriptor into the ring, and makes room for it.
    #[must_use]
    pub fn insert(&self, node: &Arc<Node>) -> Room {
        self.hand.lock().push_back(Arc::downgrade(node));
        self.make_room()
    }

    /// Whether one more descriptor may be pinned: the ring needs a few to go on.
    #[must_use]
    pub fn can_pin(&self) -> bool {
        self.pinned.load(Ordering::Relaxed) + ROOM_MIN < self.limit
    }

    /// Besides its limit, the ring may give open files this many second descriptors.
    pub fn allow_doubles(&mut self, most: usize) {
        self.doubles_max = most;
    }

    /// Counts a second descriptor of an open file, if there may be one more.
    #[must_use]
    pub fn double(&self) -> Option<Pin> {
        let one_more = |n| (n < self.doubles_max).then_some(n + 1);
        self.doubles
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()?;
        Some(Pin(self.doubles.clone()))
    }

    /// Closes descriptors until the limit holds.
    #[must_use]
    pub fn make_room(&self) -> Room {
        let pinned = self.pinned.load(Ordering::Relaxed);
        self.shrink_to(self.limit.saturating_sub(pinned).max(ROOM_MIN))
    }

    /// Closes a good part of what can be closed: the process has run out of descriptors, for
    /// reasons of its own.
    pub fn shrink(&self) -> Room {
        // Let go of the hand before it is taken again.
        let half = self.hand.lock().len() / 2;
        self.shrink_to(half.max(1))
    }

    fn shrink_to(&self, room: usize) -> Room {
        // Everything may be hot or dirty: twice round is enough to know.
        let mut tries = 2 * self.hand.lock().len();
        let mut dirty = 0;
        let mut closing = Vec::new();
        loop {
            let mut hand = self.hand.lock();
            if hand.len() <= room {
                return Room::Made;
            }
            if tries == 0 {
                return if dirty > 0 {
                    Room::NeedsSync
                } else {
                    Room::Made
                };
            }
            tries -= 1;
            let Some(weak) = hand.pop_front() else {
                return Room::Made;
            };
            drop(hand);
            let Some(node) = weak.upgrade() else { continue };
            let mut place = node.place(self.side);
            match place.open() {
                None => {}
                Some(_) if place.is_pinned() => {}
                Some(open) if open.hot.swap(false, Ordering::Relaxed) => {
                    self.hand.lock().push_back(weak);
                }
                // In somebody's hands: it may have been opened just now, for a write to come.
                Some(open) if Arc::strong_count(open) > 1 => {
                    self.hand.lock().push_back(weak);
                }
                Some(open) if open.is_dirty(self) => {
                    dirty += 1;
                    self.hand.lock().push_back(weak);
                }
                // Closed outside the lock: closing can be slow.
                Some(_) => closing.extend(place.take_open()),
            }
            drop(place);
            closing.clear();
        }
    }

    /// Counts one more descriptor that cannot be closed, for as long as the guard lives.
    #[must_use]
    pub fn pin(&self) -> Pin {
        self.pinned.fetch_add(1, Ordering::Relaxed);
        Pin(self.pinned.clone())
    }

    /// Runs `sync` once for all who find the ring full of unsynced descriptors; what was written
    /// before it is durable then.
    pub fn sync_once<E>(&self, sync: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let seen = self.synced.load(Ordering::Acquire);
        let one = self.syncing.lock();
        if self.synced.load(Ordering::Acquire) != seen {
            return Ok(());
        }
        self.sync_held(&one, sync)
    }

    /// Runs `sync`, which makes everything written before it durable.
    pub fn sync_now<E>(&self, sync: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        self.sync_held(&self.syncing.lock(), sync)
    }

    fn sync_held<E>(
        &self,
        _one: &parking_lot::MutexGuard<'_, ()>,
        sync: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let epoch = self.epoch.fetch_add(1, Ordering::AcqRel);
        let done = sync();
        self.synced.store(epoch, Ordering::Release);
        done
    }

    /// The descriptors of files that blocks are set aside for.
    pub(super) fn growing(&self) -> Vec<Arc<Descriptor>> {
        let nodes: Vec<_> = self.hand.lock().iter().filter_map(Weak::upgrade).collect();
        let open = |node: &Arc<Node>| node.place(self.side).open().cloned();
        let all = nodes.iter().filter_map(open);
        all.filter(|open| open.is_growing()).collect()
    }

    /// The nodes with unsynced writes: those whom a failed sync concerns.
    #[must_use]
    pub fn unsynced(&self) -> Vec<Arc<Node>> {
        let nodes: Vec<_> = self.hand.lock().iter().filter_map(Weak::upgrade).collect();
        let dirty = |node: &Arc<Node>| {
            let place = node.place(self.side);
            place
                .open()
                .is_some_and(|open| open.dirty.load(Ordering::Acquire) > 0)
        };
        nodes.into_iter().filter(dirty).collect()
    }
}

/// Counts a descriptor that the ring cannot close, while it lives.
#[derive(Debug)]
pub struct Pin(Arc<AtomicUsize>);

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Name, Nodes, Stat};
    use super::*;
    use crate::sys::Errno;

    fn fd() -> OwnedFd {
        let (flags, mode) = (rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
        rustix::fs::open(c"/dev/null", flags, mode).expect("open")
    }

    /// A ring as full as it may be, and the nodes in it, each with a descriptor that nobody uses.
    fn full(dirty: bool) -> (Ring, Nodes, Vec<Arc<Node>>) {
        let ring = Ring::new(Side::Primary, 0);
        let nodes = Nodes::new(&Stat::of(fd().as_fd()).expect("statx"));
        let mut all = Vec::new();
        for _ in 0..ring.limit {
            let (node, open) = add(&nodes, all.len());
            if dirty {
                open.soil(&ring);
            }
            open.hot.store(false, Ordering::Relaxed);
            drop(open);
            assert_eq!(ring.insert(&node), Room::Made);
            all.push(node);
        }
        (ring, nodes, all)
    }

    fn add(nodes: &Nodes, n: usize) -> (Arc<Node>, Arc<Descriptor>) {
        let mut stat = Stat::of(fd().as_fd()).expect("statx");
        stat.ident.ino = 1000 + n as u64;
        let name = Name::new(n.to_string()).expect("a name");
        let node = nodes.remember(&stat, nodes.root(), &name);
        let open = Arc::new(Descriptor::new(fd(), Access::Write));
        node.place(Side::Primary).replace_open(open.clone());
        (node, open)
    }

    /// The process had run out of descriptors, and the thread that was to make room waited for
    /// itself: it held the ring's hand for counting what is in it.
    #[test]
    fn half_of_a_ring_is_given_back() {
        let (ring, _nodes, all) = full(false);
        ring.shrink();
        assert_eq!(open(&all), all.len() / 2);
    }

    fn open(nodes: &[Arc<Node>]) -> usize {
        let is_open = |node: &&Arc<Node>| node.place(Side::Primary).open().is_some();
        nodes.iter().filter(is_open).count()
    }

    /// All were unsynced but the one just opened, for a write to come: it was closed, and the ring
    /// said that there was room. So a full ring never synced, and the write was not accounted for.
    #[test]
    fn a_ring_full_of_unsynced_descriptors_asks_for_a_sync() {
        let (ring, nodes, old) = full(true);
        let (fresh, held) = add(&nodes, old.len());
        assert_eq!(ring.insert(&fresh), Room::NeedsSync);
        assert_eq!(open(&old), old.len(), "unsynced ones stay");
        let place = fresh.place(Side::Primary).open().cloned();
        assert!(
            place.is_some_and(|open| Arc::ptr_eq(&open, &held)),
            "it was closed"
        );
        held.soil(&ring);
        let syncs = AtomicUsize::new(0);
        let sync = || -> Result<(), Errno> {
            syncs.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        ring.sync_once(sync).expect("sync");
        assert_eq!(ring.make_room(), Room::Made);
        assert_eq!((syncs.into_inner(), open(&old)), (1, old.len() - 1));
        assert!(fresh.place(Side::Primary).open().is_some(), "it is in use");
    }

    /// Descriptors that carry nothing are closed without a sync.
    #[test]
    fn a_ring_full_of_synced_descriptors_closes_one() {
        let (ring, nodes, old) = full(false);
        let (fresh, _held) = add(&nodes, old.len());
        assert_eq!(ring.insert(&fresh), Room::Made);
        assert_eq!(open(&old), old.len() - 1);
        assert!(fresh.place(Side::Primary).open().is_some());
    }

    /// A write that comes while a sync of the whole file system runs is not covered by it.
    #[test]
    fn a_write_during_a_sync_stays_unsynced() {
        let (ring, nodes, _old) = full(true);
        let (node, held) = add(&nodes, 99);
        ring.sync_once(|| -> Result<(), Errno> {
            held.soil(&ring);
            Ok(())
        })
        .expect("sync");
        assert!(held.is_dirty(&ring));
        held.sync(&ring, || -> Result<(), Errno> { Ok(()) })
            .expect("fsync");
        assert!(!held.is_dirty(&ring), "nothing came meanwhile");
        drop(node);
    }

    /// A whole write came and went while an fsync ran, after a sync of the whole file system: the
    /// note of it was put back as one of the first epoch, which counts as synced since then. So
    /// the descriptor could be closed, and the error of a failed writeback with it.
    #[test]
    fn a_write_during_an_fsync_stays_unsynced() {
        let (ring, nodes, _old) = full(true);
        ring.sync_once(|| -> Result<(), Errno> { Ok(()) })
            .expect("sync");
        let (_node, held) = add(&nodes, 99);
        held.sync(&ring, || -> Result<(), Errno> {
            held.soil(&ring);
            held.soil(&ring);
            Ok(())
        })
        .expect("fsync");
        assert!(
            held.is_dirty(&ring),
            "whether the fsync saw it, nobody knows"
        );
    }

    /// Pins are bounded, so that the ring can go on; each is given back.
    #[test]
    fn only_so_many_descriptors_can_be_pinned() {
        let ring = Ring::new(Side::Primary, 3 * ROOM_MIN);
        let mut pins = Vec::new();
        while ring.can_pin() {
            pins.push(ring.pin());
        }
        assert_eq!(pins.len(), 2 * ROOM_MIN);
        pins.pop();
        assert!(ring.can_pin());
    }
}
