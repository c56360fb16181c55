// SPDX-License-Identifier: MIT
//! The table of marks alive: found by node and aspect, by cover id, or all of them.
//!
//! Lock order: one shard at a time, and nothing else under it.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::mark::{Aspect, Key, Mark};

const SHARDS: usize = 64;

/// For numbers that are handed out one after the other.
#[derive(Default)]
pub(crate) struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        // The low bits choose the bucket: within a shard those of the number are all the same.
        self.0.rotate_left(32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // Fibonacci hashing (Knuth, TAOCP 6.4): 2^64 / phi.
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

type Map<T> = HashMap<u64, T, BuildHasherDefault<Spread>>;
type Shards<T> = [Mutex<Map<T>>; SHARDS];

/// The marks of one node.
#[derive(Debug, Default)]
struct Marks {
    /// All but regions with an end.
    few: SmallVec<[Arc<Mark>; 2]>,
    /// Regions with an end, by their first byte.
    regions: Vec<(u64, Arc<Mark>)>,
}

impl Marks {
    fn region_of(mark: &Mark) -> Option<u64> {
        match mark.aspect {
            Aspect::Data { end: u64::MAX, .. } => None,
            Aspect::Data { start, .. } => Some(start),
            _ => None,
        }
    }

    /// Pins a mark that covers `aspect`.
    fn pin(&self, aspect: &Aspect) -> Option<Arc<Mark>> {
        let pinned = |mark: &&Arc<Mark>| mark.aspect.covers(aspect) && mark.pin();
        if let Some(mark) = self.few.iter().find(pinned) {
            return Some(Arc::clone(mark));
        }
        let from = match aspect {
            Aspect::Data { start, .. } => {
                let after = self.regions.partition_point(|(first, _)| first <= start);
                let (nearest, _) = self.regions.get(after.checked_sub(1)?)?;
                self.regions.partition_point(|(first, _)| first < nearest)
            }
            Aspect::Node => 0,
            _ => return None,
        };
        // For the attributes any region will do, but one that is being cleared.
        let mut some = self.regions[from..].iter().map(|(_, mark)| mark).take(8);
        some.find(pinned).map(Arc::clone)
    }

    fn insert(&mut self, mark: &Arc<Mark>) {
        let Some(start) = Self::region_of(mark) else {
            self.few.push(Arc::clone(mark));
            return;
        };
        let at = self.regions.partition_point(|(first, _)| *first < start);
        match self.regions.get_mut(at) {
            // The one before is on its way out, or it would have been pinned.
            Some((first, old)) if *first == start && old.is_retired() => *old = Arc::clone(mark),
            _ => self.regions.insert(at, (start, Arc::clone(mark))),
        }
    }

    fn remove(&mut self, mark: &Arc<Mark>) {
        let Some(start) = Self::region_of(mark) else {
            self.few.retain(|other| !Arc::ptr_eq(other, mark));
            return;
        };
        let from = self.regions.partition_point(|(first, _)| *first < start);
        let mut same = self.regions[from..]
            .iter()
            .take_while(|(first, _)| *first == start);
        if let Some(at) = same.position(|(_, other)| Arc::ptr_eq(other, mark)) {
            self.regions.remove(from + at);
        }
    }

    fn is_empty(&self) -> bool {
        self.few.is_empty() && self.regions.is_empty()
    }
}

/// All marks alive.
#[derive(Debug)]
pub(crate) struct Table {
    nodes: Shards<Marks>,
    covers: Shards<Arc<Mark>>,
    /// Marks of no node: those read from the log, and whole trees.
    strangers: Mutex<BTreeMap<u64, Arc<Mark>>>,
    /// A mark on the whole tree: while it is dirty it covers all that comes.
    whole: Mutex<Option<Arc<Mark>>>,
    has_whole: AtomicBool,
    alive: AtomicUsize,
}

fn shard<T>(shards: &Shards<T>, number: u64) -> &Mutex<Map<T>> {
    &shards[usize::try_from(number % SHARDS as u64).unwrap_or(0)]
}

impl Default for Table {
    fn default() -> Self {
        Self {
            nodes: std::array::from_fn(|_| Mutex::default()),
            covers: std::array::from_fn(|_| Mutex::default()),
            strangers: Mutex::default(),
            whole: Mutex::default(),
            has_whole: AtomicBool::new(false),
            alive: AtomicUsize::new(0),
        }
    }
}

impl Table {
    pub(crate) fn alive(&self) -> usize {
        self.alive.load(Ordering::Acquire)
    }

    /// The mark on the whole tree, pinned, while it is dirty. Once healing has taken it up it
    /// would have to be healed again for each op that is skipped: then others are made.
    fn pin_whole(&self) -> Option<Arc<Mark>> {
        if !self.has_whole.load(Ordering::Acquire) {
            return None;
        }
        let whole = self.whole.lock();
        let whole = whole.as_ref().filter(|mark| mark.is_dirty())?;
        whole.pin().then(|| Arc::clone(whole))
    }

    /// From now on `mark` covers everything, as long as it is dirty.
    pub(crate) fn set_whole(&self, mark: &Arc<Mark>) {
        *self.whole.lock() = Some(Arc::clone(mark));
        self.has_whole.store(true, Ordering::Release);
    }

    /// Pins a mark that covers `key`, if there is one.
    pub(crate) fn pin(&self, key: &Key) -> Option<Arc<Mark>> {
        self.pin_whole().or_else(|| {
            let nodes = shard(&self.nodes, key.serial).lock();
            nodes.get(&key.serial)?.pin(&key.aspect)
        })
    }

    /// Puts `mark` in, or pins the one that covers `key` since.
    pub(crate) fn pin_or_insert(&self, key: &Key, mark: &Arc<Mark>) -> Option<Arc<Mark>> {
        if let Some(whole) = self.pin_whole() {
            return Some(whole);
        }
        let mut nodes = shard(&self.nodes, key.serial).lock();
        let marks = nodes.entry(key.serial).or_default();
        if let Some(other) = marks.pin(&key.aspect) {
            return Some(other);
        }
        marks.insert(mark);
        drop(nodes);
        self.joined(mark);
        None
    }

    /// Puts in a mark of no node.
    pub(crate) fn insert_stranger(&self, mark: &Arc<Mark>) {
        self.strangers.lock().insert(mark.seq, Arc::clone(mark));
        self.joined(mark);
    }

    fn joined(&self, mark: &Arc<Mark>) {
        let id = mark.id();
        shard(&self.covers, id).lock().insert(id, Arc::clone(mark));
        self.alive.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes out a mark that was retired.
    pub(crate) fn remove(&self, mark: &Arc<Mark>) {
        if let Some(serial) = mark.serial {
            let mut nodes = shard(&self.nodes, serial).lock();
            if let Some(marks) = nodes.get_mut(&serial) {
                marks.remove(mark);
                if marks.is_empty() {
                    nodes.remove(&serial);
                }
            }
        } else {
            self.strangers.lock().remove(&mark.seq);
            let mut whole = self.whole.lock();
            if whole.as_ref().is_some_and(|other| Arc::ptr_eq(other, mark)) {
                *whole = None;
                self.has_whole.store(false, Ordering::Release);
            }
        }
        let id = mark.id();
        shard(&self.covers, id).lock().remove(&id);
        self.alive.fetch_sub(1, Ordering::AcqRel);
    }

    /// Pins the mark with that cover id.
    pub(crate) fn pin_cover(&self, id: u64) -> Option<Arc<Mark>> {
        let covers = shard(&self.covers, id).lock();
        let mark = covers.get(&id)?;
        mark.pin().then(|| Arc::clone(mark))
    }

    /// The whole tree is nobody's cover once healing has taken it up (see `pin_whole`).
    pub(crate) fn is_spent(&self, mark: &Arc<Mark>) -> bool {
        let is_whole = |whole: &Arc<Mark>| Arc::ptr_eq(whole, mark);
        self.has_whole.load(Ordering::Acquire)
            && !mark.is_dirty()
            && self.whole.lock().as_ref().is_some_and(is_whole)
    }

    /// Gives the mark with cover id `id` another one.
    pub(crate) fn retire_cover(&self, id: u64, next: u64) {
        let Some(mark) = shard(&self.covers, id).lock().remove(&id) else {
            return;
        };
        mark.set_id(next);
        let mut covers = shard(&self.covers, next).lock();
        covers.insert(next, Arc::clone(&mark));
        // It may have left meanwhile, looking for an id that was not there yet.
        if mark.is_retired() {
            covers.remove(&next);
        }
    }

    /// The node has been made anew on the replica ([`Mark::lose_twin`]).
    pub(crate) fn lose_twin(&self, serial: u64) {
        let nodes = shard(&self.nodes, serial).lock();
        let few = nodes.get(&serial).into_iter().flat_map(|marks| &marks.few);
        few.for_each(|mark| mark.lose_twin());
    }

    /// Whether a node has marks of its own.
    pub(crate) fn has_marks(&self, serial: u64) -> bool {
        shard(&self.nodes, serial).lock().contains_key(&serial)
    }

    /// Every mark, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<Mark>> {
        let mut all = Vec::with_capacity(self.alive());
        for nodes in &self.nodes {
            for marks in nodes.lock().values() {
                all.extend(marks.few.iter().cloned());
                all.extend(marks.regions.iter().map(|(_, mark)| Arc::clone(mark)));
            }
        }
        all.extend(self.strangers.lock().values().cloned());
        all
    }
}
