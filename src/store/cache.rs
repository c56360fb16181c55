// SPDX-License-Identifier: MIT
//! The stat cache: what the primary told us, for when the kernel asks again.
//!
//! [`Cached`] stands before a tree and is both its [`Source`] and its [`Target`], so that every
//! answer and every change passes through it. Objects are known by their identity on the primary,
//! not by their node: answers outlive FORGET, after which the kernel asks for all of them again.
//!
//! What is kept is true because the primary changes only through the mount (decision 1), and
//! because `Cache::change` takes away whatever an op may change before it begins. A question
//! that was put before or during a change must not leave its answer behind after it:
//!
//! ```text
//!   t1  statx: size 0                                      size 0 is kept    (wrong)
//!   t2                  begin, write, end
//! ```
//!
//! So each shard counts the changes begun in it, and those under way. An answer is kept only if
//! none began since the question was put, and none is under way.
//!
//! Lock order: one shard's lock at a time, never across I/O.

use std::ffi::{CStr, CString};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lru::LruCache;
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use super::node::{Node, Side};
use super::op::{Action, Op};
use super::{Applied, Entry, Ident, Made, Name, Scope, Source, Space, Stat, Target, Time};
use crate::metrics::CacheCounts;
use crate::sys::at::ExtendedFlags;
use crate::sys::{Errno, Result, clock};

const SHARDS: usize = 16;
/// One change begun, and one under way, in a shard's count of changes.
const BEGUN: u64 = 1 << 32;
const UNDER_WAY: u64 = 1;
/// What one kept object and one kept name cost, their part of the tables included.
const OBJECT_BYTES: usize = 240;
const NAME_BYTES: usize = 128;
/// Extended attributes that the kernel, or `ls -l`, asks for unasked, and most objects do not have.
const RARE_XATTRS: [&CStr; 4] = [
    c"security.capability",
    c"security.selinux",
    c"system.posix_acl_access",
    c"system.posix_acl_default",
];
/// `relatime` takes a new access time after a day; two seconds early is soon enough.
const ATIME_AGE: i64 = 24 * 60 * 60 - 2;

/// When reading changes an access time, by the mount options of the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atime {
    /// `noatime`.
    Never,
    /// `relatime`: when it is older than the last change, or than a day.
    Relative,
    /// `strictatime`.
    Always,
}

impl Atime {
    /// Whether reading an object leaves its access time as it is in `stat`.
    fn stays(self, stat: &Stat) -> bool {
        let (atime, now) = (stat.atime, clock::inode_now().tv_sec);
        match self {
            Self::Never => true,
            Self::Always => false,
            Self::Relative => {
                atime > stat.mtime && atime > stat.ctime && now - atime.seconds < ATIME_AGE
            }
        }
    }
}

/// What is known of one object.
#[derive(Debug, Default)]
struct Object {
    stat: Option<Stat>,
    /// Which of [`RARE_XATTRS`] it does not have, one bit each.
    lacks: u8,
}

/// A name in a directory, by the directory's identity.
type Place = (Ident, Name);

#[derive(Debug)]
struct Known {
    objects: LruCache<Ident, Object>,
    /// What a name leads to; `None`: there is no such name.
    names: LruCache<Place, Option<Ident>>,
    bytes: usize,
}

impl Known {
    fn object(&mut self, ident: Ident) -> &mut Object {
        if !self.objects.contains(&ident) {
            self.bytes += OBJECT_BYTES;
        }
        self.objects.get_or_insert_mut(ident, Object::default)
    }

    fn forget_object(&mut self, ident: Ident) {
        if self.objects.pop(&ident).is_some() {
            self.bytes -= OBJECT_BYTES;
        }
    }

    fn keep_name(&mut self, place: Place, found: Option<Ident>) {
        let bytes = name_bytes(&place);
        if self.names.put(place, found).is_none() {
            self.bytes += bytes;
        }
    }

    fn forget_name(&mut self, place: &Place) -> Option<Ident> {
        let known = self.names.pop(place)?;
        self.bytes -= name_bytes(place);
        known
    }

    /// Drops what was not asked for longest, until the limit holds.
    fn shrink_to(&mut self, limit: usize) {
        while self.bytes > limit {
            // Names are the smaller part: they go with as many objects.
            let object = self.objects.pop_lru();
            self.bytes -= object.map_or(0, |_| OBJECT_BYTES);
            let name = self.names.pop_lru();
            self.bytes -= name.map_or(0, |(place, _)| name_bytes(&place));
        }
    }
}

fn name_bytes(place: &Place) -> usize {
    NAME_BYTES + place.1.heap_bytes()
}

#[derive(Debug)]
struct Shard {
    /// [`BEGUN`] and [`UNDER_WAY`] for each change.
    changes: AtomicU64,
    known: Mutex<Known>,
}

impl Shard {
    fn now(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Whether an answer may be kept that was asked for at `ticket`; under the shard's lock.
    fn is_quiet_since(&self, ticket: u64) -> bool {
        let now = self.now();
        now == ticket && now.is_multiple_of(BEGUN)
    }
}

/// Every shard's count of changes at one moment.
type Tickets = [u64; SHARDS];

/// What the primary told us, up to so many bytes.
#[derive(Debug)]
pub struct Cache {
    shards: [Shard; SHARDS],
    atime: Atime,
    /// Of each shard; 0: nothing is ever kept.
    limit: usize,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Cache {
    /// A cache of at most `bytes`; 0 switches it off, for a primary that others change as well.
    #[must_use]
    pub fn new(bytes: usize, atime: Atime) -> Self {
        let limit = bytes / SHARDS;
        let known = || Known {
            objects: LruCache::unbounded(),
            names: LruCache::unbounded(),
            bytes: 0,
        };
        Self {
            shards: std::array::from_fn(|_| Shard {
                changes: AtomicU64::new(0),
                known: Mutex::new(known()),
            }),
            atime,
            limit,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// What it was good for so far.
    #[must_use]
    pub fn counts(&self) -> CacheCounts {
        let bytes = |shard: &Shard| shard.known.lock().bytes as u64;
        CacheCounts {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            bytes: self.shards.iter().map(bytes).sum(),
            capacity_bytes: (self.limit * SHARDS) as u64,
        }
    }

    fn is_off(&self) -> bool {
        self.limit == 0
    }

    fn shard_at(ident: Ident) -> usize {
        // Neighbouring inode numbers are used together: spread them.
        usize::try_from((ident.ino ^ ident.dev) % SHARDS as u64).unwrap_or(0)
    }

    fn shard(&self, ident: Ident) -> &Shard {
        &self.shards[Self::shard_at(ident)]
    }

    fn tickets(&self) -> Tickets {
        std::array::from_fn(|at| self.shards[at].now())
    }

    /// The shard of `ident`, locked, if what was asked for at `ticket` may be kept there.
    fn keep(&self, ident: Ident, ticket: u64) -> Option<MutexGuard<'_, Known>> {
        let shard = self.shard(ident);
        let known = shard.known.lock();
        shard.is_quiet_since(ticket).then_some(known)
    }

    fn counted<T>(&self, known: Option<T>) -> Option<T> {
        let counter = if known.is_some() {
            &self.hits
        } else {
            &self.misses
        };
        counter.fetch_add(1, Ordering::Relaxed);
        known
    }

    fn stat(&self, ident: Ident) -> Option<Stat> {
        self.shard(ident).known.lock().objects.get(&ident)?.stat
    }

    fn keep_stat(&self, stat: &Stat, ticket: u64) {
        match self.keep(stat.ident, ticket) {
            Some(mut known) => {
                known.object(stat.ident).stat = Some(*stat);
                known.shrink_to(self.limit);
            }
            // What is kept may be of an object that had this number before.
            None => self
                .shard(stat.ident)
                .known
                .lock()
                .forget_object(stat.ident),
        }
    }

    fn lookup(&self, place: &Place) -> Option<Result<Stat>> {
        let shard = self.shard(place.0);
        let (ticket, found) = {
            let mut known = shard.known.lock();
            (shard.now(), *known.names.get(place)?)
        };
        let Some(ident) = found else {
            return Some(Err(Errno::NOENT));
        };
        let stat = self.stat(ident)?;
        // Between the two looks the name may have gone, and its number to another object.
        (shard.now() == ticket).then_some(Ok(stat))
    }

    fn keep_lookup(&self, place: Place, found: &Result<Stat>, tickets: &Tickets) {
        let child = match found {
            Ok(stat) => {
                self.keep_stat(stat, tickets[Self::shard_at(stat.ident)]);
                Some(stat.ident)
            }
            Err(Errno::NOENT) => None,
            Err(_) => return,
        };
        if let Some(mut known) = self.keep(place.0, tickets[Self::shard_at(place.0)]) {
            known.keep_name(place, child);
            known.shrink_to(self.limit);
        }
    }

    fn lacks(&self, ident: Ident, xattr: usize) -> bool {
        let mut known = self.shard(ident).known.lock();
        let object = known.objects.get(&ident);
        object.is_some_and(|object| object.lacks & (1 << xattr) != 0)
    }

    fn keep_lack(&self, ident: Ident, xattr: usize, ticket: u64) {
        if let Some(mut known) = self.keep(ident, ticket) {
            known.object(ident).lacks |= 1 << xattr;
            known.shrink_to(self.limit);
        }
    }

    /// Something is read, which may change its access time: as a change, but what is kept stays
    /// if it says that the time will.
    fn reading(&self, node: &Node) -> Change<'_> {
        let mut change = Change::new(self);
        let stays = |stat: &Stat| self.atime.stays(stat);
        change.add_unless(ident(node), stays);
        change
    }

    /// Takes away all that `op` may change, and lets nothing of it in until the guard is dropped.
    fn change(&self, op: &Op<'_>) -> Change<'_> {
        let mut change = Change::new(self);
        let touched = touched(op);
        for node in touched.nodes {
            change.add(ident(node));
        }
        if let Action::SetXattr { node, .. } = &op.action {
            let ident = ident(node);
            let forget = |ident| self.shard(ident).known.lock().forget_object(ident);
            ident.into_iter().for_each(forget);
        }
        for (dir, name) in touched.names {
            let Some(dir) = ident(dir) else { continue };
            let place = (dir, name.clone());
            let led_to = self.shard(dir).known.lock().forget_name(&place);
            // Most often a node of the op; else what the kernel does not know under this name.
            change.add(led_to);
        }
        change
    }

    /// As [`Self::change`], of the attributes of one node.
    fn change_of(&self, node: &Node) -> Change<'_> {
        let mut change = Change::new(self);
        change.add(ident(node));
        change
    }

    /// A new object has this number: what is known under it is of an older one.
    fn was_made(&self, ident: Ident) {
        let shard = self.shard(ident);
        let mut known = shard.known.lock();
        shard.changes.fetch_add(BEGUN, Ordering::AcqRel);
        known.forget_object(ident);
    }
}

/// A change under way.
struct Change<'a> {
    cache: &'a Cache,
    idents: SmallVec<[Ident; 4]>,
}

impl<'a> Change<'a> {
    fn new(cache: &'a Cache) -> Self {
        let idents = SmallVec::new();
        Self { cache, idents }
    }

    fn add(&mut self, ident: Option<Ident>) {
        self.add_unless(ident, |_| false);
    }

    /// Takes away what is kept of one object, unless it is true afterwards as well.
    fn add_unless(&mut self, ident: Option<Ident>, stays: impl Fn(&Stat) -> bool) {
        let Some(ident) = ident.filter(|ident| !self.idents.contains(ident)) else {
            return;
        };
        if self.cache.is_off() {
            return;
        }
        let shard = self.cache.shard(ident);
        shard.changes.fetch_add(BEGUN + UNDER_WAY, Ordering::AcqRel);
        if let Some(object) = shard.known.lock().objects.peek_mut(&ident) {
            object.stat = object.stat.filter(stays);
        }
        self.idents.push(ident);
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        for &ident in &self.idents {
            let shard = self.cache.shard(ident);
            shard.changes.fetch_sub(UNDER_WAY, Ordering::AcqRel);
        }
    }
}

/// Who an object is on the primary.
fn ident(node: &Node) -> Option<Ident> {
    node.place(Side::Primary).ident()
}

/// What an op may change of what is kept.
#[derive(Default)]
struct Touched<'a> {
    /// Objects whose attributes may change.
    nodes: SmallVec<[&'a Arc<Node>; 4]>,
    /// Names that may come, go, or lead elsewhere.
    names: SmallVec<[(&'a Arc<Node>, &'a Name); 2]>,
}

/// What `op` may change, whether it succeeds or not.
fn touched<'a>(op: &'a Op<'_>) -> Touched<'a> {
    let mut all = Touched::default();
    match &op.action {
        Action::Write { node, .. }
        | Action::Truncate { node, .. }
        | Action::Allocate { node, .. }
        | Action::SetAttr { node, .. }
        | Action::SetFlags { node, .. }
        | Action::SetXattr { node, .. }
        | Action::RemoveXattr { node, .. } => all.nodes.push(node),
        // The source is read: its access time.
        Action::CopyRange { from, to, .. } => all.nodes.extend([from, to]),
        Action::Create { parent, name, .. }
        | Action::Mkdir { parent, name, .. }
        | Action::Mknod { parent, name, .. }
        | Action::Symlink { parent, name, .. } => {
            all.nodes.push(parent);
            all.names.push((parent, name));
        }
        Action::Link { node, parent, name } => {
            all.nodes.extend([node, parent]);
            all.names.push((parent, name));
        }
        Action::Unlink {
            parent,
            name,
            victim,
        }
        | Action::Rmdir {
            parent,
            name,
            victim,
        } => {
            all.nodes.push(parent);
            all.nodes.extend(victim);
            all.names.push((parent, name));
        }
        Action::Rename {
            from,
            to,
            flags: _,
            moved,
            victim,
        } => {
            all.nodes.extend([&from.0, &to.0]);
            all.nodes.extend(moved.iter().chain(victim));
            all.names.extend([(&from.0, &from.1), (&to.0, &to.1)]);
        }
    }
    all
}

/// A tree with a cache before it.
#[derive(Debug)]
pub struct Cached<T> {
    tree: Arc<T>,
    cache: Arc<Cache>,
}

impl<T> Cached<T> {
    /// `tree`, which nobody changes but through what is made here.
    #[must_use]
    pub fn new(tree: Arc<T>, cache: Arc<Cache>) -> Self {
        Self { tree, cache }
    }
}

impl<T: Source> Source for Cached<T> {
    fn lookup(&self, parent: &Arc<Node>, name: &Name) -> Result<Stat> {
        let cache = &self.cache;
        let Some(dir) = ident(parent).filter(|_| !cache.is_off()) else {
            return self.tree.lookup(parent, name);
        };
        let place = (dir, name.clone());
        if let Some(known) = cache.counted(cache.lookup(&place)) {
            return known;
        }
        let tickets = cache.tickets();
        let found = self.tree.lookup(parent, name);
        cache.keep_lookup(place, &found, &tickets);
        found
    }

    fn stat(&self, node: &Arc<Node>) -> Result<Stat> {
        let cache = &self.cache;
        let Some(ident) = ident(node).filter(|_| !cache.is_off()) else {
            return self.tree.stat(node);
        };
        if let Some(stat) = cache.counted(cache.stat(ident)) {
            return Ok(stat);
        }
        let ticket = cache.shard(ident).now();
        let stat = self.tree.stat(node)?;
        cache.keep_stat(&stat, ticket);
        Ok(stat)
    }

    fn read_link(&self, node: &Arc<Node>) -> Result<Vec<u8>> {
        let _reading = self.cache.reading(node);
        self.tree.read_link(node)
    }

    fn read(&self, node: &Arc<Node>, buf: &mut [u8], offset: u64) -> Result<usize> {
        let _reading = self.cache.reading(node);
        self.tree.read(node, buf, offset)
    }

    fn read_dir(
        &self,
        node: &Arc<Node>,
        cookie: u64,
        room: usize,
        take: &mut dyn FnMut(&Entry<'_>) -> bool,
    ) -> Result<()> {
        let _reading = self.cache.reading(node);
        self.tree.read_dir(node, cookie, room, take)
    }

    fn get_xattr(&self, node: &Arc<Node>, name: &CStr, buf: &mut [u8]) -> Result<usize> {
        let cache = &self.cache;
        let rare = RARE_XATTRS.iter().position(|rare| *rare == name);
        let ident = ident(node).filter(|_| !cache.is_off());
        let (Some(rare), Some(ident)) = (rare, ident) else {
            return self.tree.get_xattr(node, name, buf);
        };
        if cache
            .counted(cache.lacks(ident, rare).then_some(()))
            .is_some()
        {
            return Err(Errno::NODATA);
        }
        let ticket = cache.shard(ident).now();
        self.tree.get_xattr(node, name, buf).inspect_err(|errno| {
            if *errno == Errno::NODATA {
                cache.keep_lack(ident, rare, ticket);
            }
        })
    }

    fn list_xattr(&self, node: &Arc<Node>) -> Result<Vec<CString>> {
        self.tree.list_xattr(node)
    }

    fn seek(&self, node: &Arc<Node>, offset: u64, hole: bool) -> Result<u64> {
        self.tree.seek(node, offset, hole)
    }

    fn flags(&self, node: &Arc<Node>) -> Result<u32> {
        self.tree.flags(node)
    }

    fn extended_flags(&self, node: &Arc<Node>) -> Result<ExtendedFlags> {
        self.tree.extended_flags(node)
    }

    fn space(&self) -> Result<Space> {
        Source::space(&*self.tree)
    }

    fn handle(&self, node: &Arc<Node>) -> Box<[u8]> {
        self.tree.handle(node)
    }
}

impl<T: Target> Target for Cached<T> {
    fn apply(&self, op: &Op<'_>) -> Result<Applied> {
        let change = self.cache.change(op);
        let applied = self.tree.apply(op);
        if let Ok(Applied {
            made: Some(made), ..
        }) = &applied
        {
            self.cache.was_made(made.stat.ident);
        }
        drop(change);
        applied
    }

    fn adopt(&self, node: &Arc<Node>, made: Made) {
        self.tree.adopt(node, made);
    }

    fn set_times(&self, node: &Arc<Node>, atime: Time, mtime: Time) -> Result<()> {
        let _change = self.cache.change_of(node);
        self.tree.set_times(node, atime, mtime)
    }

    fn conform(&self, node: &Arc<Node>, like: &Stat) -> Result<()> {
        let _change = self.cache.change_of(node);
        self.tree.conform(node, like)
    }

    fn fault(&self) -> Option<Errno> {
        self.tree.fault()
    }

    fn barrier(&self, node: &Arc<Node>, scope: Scope) -> Result<()> {
        // What was to be allocated later is allocated now: the count of blocks may change.
        let _change = self.cache.change_of(node);
        self.tree.barrier(node, scope)
    }

    fn sync_all(&self) -> Result<()> {
        self.tree.sync_all()
    }

    fn space(&self) -> Result<Space> {
        Target::space(&*self.tree)
    }
}

#[cfg(test)]
mod tests {
    use super::super::nodes::tests::stat;
    use super::*;

    const ROOM: usize = SHARDS * 4 * (OBJECT_BYTES + NAME_BYTES);

    fn place(n: usize) -> Place {
        let name = Name::new(n.to_string()).expect("a name");
        (Ident { dev: 7, ino: 2 }, name)
    }

    /// A file went, and another one got its number: what is known under it is of the first.
    #[test]
    fn a_number_used_again_is_another_object() {
        let cache = Cache::new(ROOM, Atime::Relative);
        let old = stat(7, 12, false);
        let before = cache.shard(old.ident).now();
        cache.keep_stat(&old, before);
        assert_eq!(cache.stat(old.ident), Some(old));
        cache.was_made(old.ident);
        assert_eq!(cache.stat(old.ident), None);
        cache.keep_stat(&old, before);
        assert_eq!(cache.stat(old.ident), None, "asked before it was made");
    }

    /// An answer that may not be kept takes away one that may be of an older object.
    #[test]
    fn a_late_answer_is_not_kept_and_nothing_else_either() {
        let cache = Cache::new(ROOM, Atime::Relative);
        let old = stat(7, 12, false);
        cache.keep_stat(&old, cache.shard(old.ident).now());
        let tickets = cache.tickets();
        // Its neighbour in the shard, so that only the count of changes is in the way.
        let mut change = Change::new(&cache);
        change.add(Some(Ident {
            dev: 7,
            ino: 12 + SHARDS as u64,
        }));
        cache.keep_lookup(place(1), &Ok(stat(7, 12, true)), &tickets);
        assert_eq!(cache.stat(old.ident), None);
        cache.keep_stat(&old, cache.shard(old.ident).now());
        assert_eq!(cache.stat(old.ident), None, "a change is under way");
        drop(change);
        cache.keep_stat(&old, cache.shard(old.ident).now());
        assert_eq!(cache.stat(old.ident), Some(old));
    }

    #[test]
    fn it_holds_no_more_than_it_may() {
        let cache = Cache::new(ROOM, Atime::Relative);
        for n in 0..1000 {
            let tickets = cache.tickets();
            let found = stat(7, 100 + n as u64, false);
            cache.keep_lookup(place(n), &Ok(found), &tickets);
            let counts = cache.counts();
            assert!(counts.bytes <= counts.capacity_bytes, "{counts:?}");
        }
        assert!(cache.lookup(&place(999)).is_some(), "the last one is there");
        assert!(cache.lookup(&place(0)).is_none(), "the first one went");
    }

    /// Room is counted with these: what the allocator and the tables take for one of each.
    #[test]
    fn what_an_entry_costs() {
        let links = 2 * size_of::<usize>();
        let object = size_of::<Ident>() + size_of::<Object>() + links;
        let name = size_of::<Place>() + size_of::<Option<Ident>>() + links;
        assert!(object + 40 <= OBJECT_BYTES, "{object}");
        assert!(name + 32 <= NAME_BYTES, "{name}");
    }
}
