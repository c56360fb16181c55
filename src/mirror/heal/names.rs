// SPDX-License-Identifier: MIT
//! The names in one directory made equal, and what in it has to be looked at next.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::item::{Depth, Item, Next, Task};
use super::place::{Held, Pair, Way};
use super::worker::Worker;
use super::{Halt, Outcome};
use crate::mirror::attach::stamp;
use crate::mirror::failure::{Copy, Named};
use crate::mirror::resync::Lack;
use crate::mirror::resync::attrs::Attrs;
use crate::mirror::resync::content::{On, Trouble};
use crate::mirror::resync::object::cannot_hold;
use crate::store::node::{Link, Node, Side};
use crate::store::op::SMALL_FILE;
use crate::store::{Ident, Name, Stat, Time, walk};
use crate::sys::Errno;

/// Twins looked up for new hard links in one hold.
const WITH_MAX: usize = 32;

/// One directory that is held.
struct Dir<'a> {
    pair: &'a Pair,
    /// The directory itself, held.
    here: &'a Held,
    depth: Depth,
    job: usize,
    /// Something was changed in it.
    is_changed: bool,
    /// What to look at next.
    next: Vec<Item>,
    /// Directories among those of which everything is in doubt.
    tops: Vec<Ident>,
    /// Objects that have their place now.
    placed: Vec<Ident>,
    /// Objects whose other names are wanted, for a hard link.
    wanted: Vec<Held>,
}

impl Worker<'_> {
    /// The names in a directory once more, without a mark that says from when on. What stands under a
    /// name on the replica may be what stood there on the primary before: all that was born since it
    /// was looked at is looked at. What was born earlier and came here by a rename is displaced.
    pub(super) fn names_again(&self, dir: &Node) -> Task {
        let ident = dir.place(Side::Primary).ident();
        let listed = ident.and_then(|ident| self.listed.get(&ident).copied());
        Task::Names(Depth::names(self.healing.born_since(listed)))
    }

    /// Makes the names in a directory equal, then its attributes.
    pub(super) fn names(
        &mut self,
        item: &Item,
        way: &Way,
        depth: Depth,
        others: &[(&Held, Way)],
    ) -> Outcome<Next> {
        let ident = item.held.ident();
        if depth.whole && self.wholes.contains(&ident) {
            let mut doubt = self.healing.doubt.lock();
            if !doubt.is_soiled(ident) {
                doubt.heal(ident);
                return Ok(Next::Done); // for another mark, in this round
            }
        }
        let pair = way.open_dirs(self.ground)?;
        self.healing.dirs_opened.fetch_add(1, Ordering::Relaxed);
        let (is_root, now) = (way.is_root(), Time::of_clock());
        let want = Attrs::read(pair.primary.as_fd(), Copy::Primary, is_root)?;
        let in_primary = walk::names(pair.primary.as_fd()).on(Copy::Primary, "getdents64")?;
        self.healing.beat();
        let in_replica = walk::names(pair.replica.as_fd()).on(Copy::Replica, "getdents64")?;
        let listed = |names: Vec<Name>| -> Vec<Name> {
            let ours = |name: &Name| is_root && stamp::is_ours(name);
            names.into_iter().filter(|name| !ours(name)).collect()
        };
        let (in_primary, in_replica) = (listed(in_primary), listed(in_replica));
        let mut dir = Dir {
            pair: &pair,
            here: &item.held,
            depth,
            job: item.job,
            is_changed: false,
            next: Vec::new(),
            tops: Vec::new(),
            placed: Vec::new(),
            wanted: Vec::new(),
        };
        match self.make_missing(&mut dir, &in_primary, &in_replica, others) {
            Err(Halt::Trouble(Trouble {
                errno: Errno::NOSPC | Errno::DQUOT,
                copy: Copy::Replica,
                ..
            })) => {
                // What goes makes room for what comes.
                self.remove_extra(&mut dir, &in_primary, &in_replica)?;
                (dir.next, dir.tops, dir.placed) = Default::default();
                dir.wanted.clear();
                let by_now = walk::names(pair.replica.as_fd()).on(Copy::Replica, "getdents64")?;
                self.make_missing(&mut dir, &in_primary, &listed(by_now), others)?;
            }
            done => done?,
        }
        self.remove_extra(&mut dir, &in_primary, &in_replica)?;
        let wanted = std::mem::take(&mut dir.wanted);
        if wanted.is_empty() {
            self.carry_attrs(&want, pair.replica.as_fd(), is_root)?;
        }
        let (next, tops, placed) = (dir.next, dir.tops, dir.placed);
        self.healing.changed(|doubt| {
            tops.iter().for_each(|&top| doubt.soil_below(top));
            placed.iter().for_each(|&object| doubt.found(object));
            if wanted.is_empty() {
                doubt.heal(ident);
            }
        });
        self.jobs[item.job].tops.extend(tops);
        next.into_iter().for_each(|item| self.push(item));
        if !wanted.is_empty() {
            return Ok(Next::With(wanted));
        }
        self.listed.insert(ident, now);
        if depth.whole {
            self.wholes.insert(ident);
        }
        Ok(Next::Done)
    }

    /// Makes what the replica lacks or has wrong.
    fn make_missing(
        &mut self,
        dir: &mut Dir<'_>,
        names: &[Name],
        in_replica: &[Name],
        others: &[(&Held, Way)],
    ) -> Outcome<()> {
        // What is there already comes first: it may be what another name has to become. And among
        // that, first what has as many names as it should: it shows whose the others are.
        let (there, missing): (Vec<_>, Vec<_>) = names
            .iter()
            .partition(|name| in_replica.binary_search(name).is_ok());
        let mut later = Vec::new();
        for name in there {
            self.healing.beat();
            let Some((primary, replica)) = look(dir, name)? else {
                continue;
            };
            if primary.nlink > 1 && !primary.is_dir() && replica.is_none_or(|r| r.nlink == 1) {
                later.push(name);
            } else {
                self.make_one(dir, name, &primary, replica, others)?;
            }
        }
        for name in later {
            self.healing.beat();
            if let Some((primary, replica)) = look(dir, name)? {
                self.make_one(dir, name, &primary, replica, others)?;
            }
        }
        for name in missing {
            self.healing.beat();
            if let Some(primary) = look_primary(dir, name)? {
                self.make_one(dir, name, &primary, None, others)?;
            }
        }
        Ok(())
    }

    /// Makes one name of the replica what it is on the primary.
    fn make_one(
        &mut self,
        dir: &mut Dir<'_>,
        name: &Name,
        primary: &Stat,
        mut replica: Option<Stat>,
        others: &[(&Held, Way)],
    ) -> Outcome<()> {
        if let Some(wrong) = replica
            && !self.is_right(dir, name, primary, &wrong)?
        {
            self.remove(dir, name)?;
            self.links.forget(&wrong);
            replica = None;
        }
        let is_new = replica.is_none();
        let replica = match replica {
            Some(replica) => replica,
            None => match self.make(dir, name, primary, others)? {
                Some(made) => made,
                None => return Ok(()),
            },
        };
        self.introduce(primary, &replica);
        self.look_further(dir, name, primary, &replica, is_new)
    }

    /// Whether what the replica has under a name can be the primary's object.
    fn is_right(
        &self,
        dir: &Dir<'_>,
        name: &Name,
        primary: &Stat,
        replica: &Stat,
    ) -> Outcome<bool> {
        let kind = primary.kind();
        if kind != replica.kind() || self.twins.is_anothers(replica, primary) {
            return Ok(false);
        }
        if kind == FileType::Directory {
            return Ok(true);
        }
        let displaced = self.healing.doubt.lock().is_displaced(primary.ident);
        if self.links.contradicts(primary, replica) || (displaced && replica.nlink > 1) {
            return Ok(false);
        }
        if primary.nlink > 1
            && self.links.seen(primary.ident).is_none()
            && self.is_another_elsewhere(dir, primary, replica)
        {
            return Ok(false);
        }
        Ok(match kind {
            FileType::RegularFile => true,
            FileType::Symlink => {
                let read = |fd, copy| {
                    rustix::fs::readlinkat(fd, name.as_c_str(), Vec::new()).on(copy, "readlinkat")
                };
                read(dir.pair.primary.as_fd(), Copy::Primary)?
                    == read(dir.pair.replica.as_fd(), Copy::Replica)?
            }
            _ => primary.rdev == replica.rdev,
        })
    }

    /// Whether the replica has the object under another of its names, in a directory that is in no
    /// doubt, and it is not this one. As many links on both copies prove nothing: one too many may
    /// stand for one too few.
    fn is_another_elsewhere(&self, dir: &Dir<'_>, primary: &Stat, replica: &Stat) -> bool {
        let Some(node) = self.ground.nodes().find(primary.ident) else {
            return false;
        };
        let links = node.place(Side::Primary).links().to_vec();
        let own = dir.here.node();
        let elsewhere = links.iter().filter(|link| {
            !Arc::ptr_eq(&link.parent, own) && self.healing.doubt.lock().is_clear(&link.parent)
        });
        elsewhere.into_iter().any(|link| {
            let Ok(Some((Some(there), Some(twin)))) = self.look_at(link) else {
                return false;
            };
            there.ident == primary.ident && twin.ident != replica.ident
        })
    }

    /// Makes one object, empty: what is in it comes when the directory is held no longer.
    fn make(
        &mut self,
        dir: &mut Dir<'_>,
        name: &Name,
        primary: &Stat,
        others: &[(&Held, Way)],
    ) -> Outcome<Option<Stat>> {
        let (c_name, kind) = (name.as_c_str(), primary.kind());
        if primary.nlink > 1 && kind != FileType::Directory {
            match self.link(dir, name, primary, others)? {
                Linked::Done(stat) => return Ok(Some(stat)),
                Linked::Wanted => return Ok(None),
                Linked::No => self.links.doubt(primary.ident),
            }
        }
        unlock(dir)?;
        let at = dir.pair.replica.as_fd();
        let special = match kind {
            FileType::Directory => {
                rustix::fs::mkdirat(at, c_name, Mode::RWXU).on(Copy::Replica, "mkdirat")?;
                Ok(())
            }
            FileType::RegularFile => {
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
                walk::open(at, c_name, flags, 0o600).on(Copy::Replica, "openat2")?;
                Ok(())
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&dir.pair.primary, c_name, Vec::new())
                    .on(Copy::Primary, "readlinkat")?;
                rustix::fs::symlinkat(&*target, at, c_name)
            }
            kind => rustix::fs::mknodat(at, c_name, kind, Mode::RUSR | Mode::WUSR, primary.rdev),
        };
        match special {
            Err(errno) if cannot_hold(errno) => {
                self.summary.lacking()(Lack::Entry, Named(errno).to_string());
                return Ok(None);
            }
            made => made.on(Copy::Replica, "mknodat")?,
        }
        self.made_anew(primary.ident);
        self.bare.insert(primary.ident);
        let stat = Stat::of_name(at, c_name).on(Copy::Replica, "statx")?;
        Ok(Some(stat))
    }

    /// Makes a name one more of an object that the replica has under another name.
    fn link(
        &mut self,
        dir: &mut Dir<'_>,
        name: &Name,
        primary: &Stat,
        others: &[(&Held, Way)],
    ) -> Outcome<Linked> {
        let own = dir.here.node().clone();
        let seen = self.links.seen(primary.ident);
        let node = seen.map(|held| held.node().clone());
        // Names of this directory are held, and right once they were seen.
        let links = node
            .iter()
            .flat_map(|node| node.place(Side::Primary).links().to_vec());
        for link in links.collect::<Vec<_>>() {
            if Arc::ptr_eq(&link.parent, &own)
                && link.name != *name
                && let Some(stat) = self.link_to(dir, name, primary, &link)?
            {
                return Ok(Linked::Done(stat));
            }
        }
        let nodes = self.ground.nodes();
        let Some(node) = node.or_else(|| nodes.find(primary.ident)) else {
            return Ok(Linked::No);
        };
        let mut links = node.place(Side::Primary).links().to_vec();
        links.retain(|link| {
            !Arc::ptr_eq(&link.parent, &own) && self.healing.doubt.lock().is_clear(&link.parent)
        });
        if links.is_empty() {
            return Ok(Linked::No);
        }
        if !others
            .iter()
            .any(|(held, _)| Arc::ptr_eq(held.node(), &node))
        {
            if dir.wanted.len() < WITH_MAX {
                dir.wanted.push(Held::known(nodes, &node));
            }
            return Ok(Linked::Wanted);
        }
        // Held: none of its names comes or goes.
        for link in links {
            if let Some(stat) = self.link_to(dir, name, primary, &link)? {
                return Ok(Linked::Done(stat));
            }
        }
        Ok(Linked::No)
    }

    /// Links to the replica's object under `other`, if it is the twin.
    fn link_to(
        &mut self,
        dir: &mut Dir<'_>,
        name: &Name,
        primary: &Stat,
        other: &Link,
    ) -> Outcome<Option<Stat>> {
        let Some(way) = Way::to(&other.parent, |_| true) else {
            return Ok(None);
        };
        let Ok(above) = way.open_dirs(self.ground) else {
            return Ok(None);
        };
        let old = other.name.as_c_str();
        let there = Stat::of_name(above.primary.as_fd(), old);
        let twin = Stat::of_name(above.replica.as_fd(), old);
        let (Ok(there), Ok(twin)) = (there, twin) else {
            return Ok(None);
        };
        if there.ident != primary.ident
            || twin.kind() != primary.kind()
            || self.links.contradicts(primary, &twin)
            || self.twins.is_anothers(&twin, primary)
        {
            return Ok(None);
        }
        unlock(dir)?;
        let (from, to) = (above.replica.as_fd(), dir.pair.replica.as_fd());
        match rustix::fs::linkat(from, old, to, name.as_c_str(), AtFlags::empty()) {
            Err(errno @ (Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS)) => {
                self.summary.lacking()(Lack::Links, format!("a hard link: {}", Named(errno)));
                return Ok(None);
            }
            linked => linked.on(Copy::Replica, "linkat")?,
        }
        self.summary.linked += 1;
        self.links.doubt(primary.ident);
        let stat = Stat::of_name(to, name.as_c_str()).on(Copy::Replica, "statx")?;
        if stat.ident != twin.ident {
            // sshfs: the names of a file have numbers of their own.
            self.summary.lacking()(Lack::Links, "a hard link is not one file".to_owned());
        }
        Ok(Some(stat))
    }

    /// Puts on the list what of one pair has to be looked at next.
    fn look_further(
        &mut self,
        dir: &mut Dir<'_>,
        name: &Name,
        primary: &Stat,
        replica: &Stat,
        is_new: bool,
    ) -> Outcome<()> {
        let parent = dir.here.node();
        let nodes = self.ground.nodes();
        let hold = || Held::new(nodes, primary, parent, name);
        let born = dir.depth.since.is_none_or(|since| {
            // The same clock on both sides: a mark is stamped with the time that inodes get.
            primary.btime.is_none_or(|born| born >= since)
        });
        // Made a moment ago, and left when its directory had to be looked at again.
        let is_new = is_new || self.bare.contains(&primary.ident);
        let displaced = self.healing.doubt.lock().is_displaced(primary.ident);
        let whole = is_new || dir.depth.whole || born || displaced;
        if primary.is_dir() {
            let is_way = self.ways.contains(&primary.ident);
            if !(whole || is_way) {
                return Ok(());
            }
            if is_new {
                self.wholes.remove(&primary.ident);
            }
            if self.wholes.contains(&primary.ident)
                && !self.healing.doubt.lock().is_soiled(primary.ident)
            {
                return Ok(());
            }
            if primary.ident.dev != dir.here.ident().dev
                && self.ground.source().lookup(parent, name) == Err(Errno::XDEV)
            {
                return Ok(()); // something else is mounted there
            }
            dir.tops.push(primary.ident);
            // What came into a directory that was born has a mark of its own if it was not born.
            let below = if is_new || dir.depth.whole || displaced {
                Depth::WHOLE
            } else {
                Depth {
                    leaves: false,
                    ..dir.depth
                }
            };
            let task = Task::Names(below);
            dir.next.push(Item::new(dir.job, hold(), task));
        } else {
            self.links.note(primary, replica, hold);
            let is_small = primary.size.min(replica.size) <= SMALL_FILE;
            let differs = primary.size != replica.size || primary.mtime != replica.mtime;
            // What differs in a large file with marks of its own, those know best.
            let differs = differs && (is_small || !self.marked.contains(&primary.ident));
            let task = if whole || differs || (dir.depth.leaves && is_small) {
                Task::Content(0..u64::MAX)
            } else if dir.depth.leaves {
                Task::Attributes
            } else {
                return Ok(());
            };
            let mut item = Item::new(dir.job, hold(), task);
            item.is_late = primary.nlink > 1 || replica.nlink > 1;
            dir.next.push(item);
        }
        dir.placed.push(primary.ident);
        Ok(())
    }

    /// Removes what only the replica has.
    fn remove_extra(
        &mut self,
        dir: &mut Dir<'_>,
        in_primary: &[Name],
        in_replica: &[Name],
    ) -> Outcome<()> {
        for name in in_replica {
            if in_primary.binary_search(name).is_ok() {
                continue;
            }
            self.healing.beat();
            let c_name = name.as_c_str();
            let extra = match Stat::of_name(dir.pair.replica.as_fd(), c_name) {
                Err(Errno::NOENT) => continue,
                found => found.on(Copy::Replica, "statx")?,
            };
            // Once more by name: a listing that left one out is no evidence.
            match Stat::of_name(dir.pair.primary.as_fd(), c_name) {
                Err(Errno::NOENT) => {}
                Ok(_) => return Err(Halt::Lost),
                Err(errno) => return Err(errno).on(Copy::Primary, "statx").map_err(Halt::from),
            }
            self.remove(dir, name)?;
            self.links.forget(&extra);
        }
        Ok(())
    }

    /// Removes one name from the replica, with everything below it.
    fn remove(&mut self, dir: &mut Dir<'_>, name: &Name) -> Outcome<()> {
        // An empty directory where the primary's disk is not mounted is no evidence at all.
        if !self.ground.vouches() {
            return Err(Errno::NODEV)
                .on(Copy::Primary, "reading the stamp")
                .map_err(Halt::from);
        }
        unlock(dir)?;
        let (removed, stop, healing) = (&mut self.summary.removed, self.stop, self.healing);
        walk::remove(dir.pair.replica.as_fd(), name, &mut || {
            *removed += 1;
            healing.beat();
            !stop.load(Ordering::Relaxed)
        })
        .map_err(|errno| match errno {
            Errno::CANCELED => Errno::INTR,
            other => other,
        })
        .on(Copy::Replica, "unlinkat")?;
        Ok(())
    }
}

fn look_primary(dir: &Dir<'_>, name: &Name) -> Outcome<Option<Stat>> {
    match Stat::of_name(dir.pair.primary.as_fd(), name.as_c_str()) {
        Err(Errno::NOENT) => Ok(None), // gone behind the mount
        found => Ok(Some(found.on(Copy::Primary, "statx")?)),
    }
}

/// What both copies have under a name; `None` when the primary has nothing any more.
fn look(dir: &Dir<'_>, name: &Name) -> Outcome<Option<(Stat, Option<Stat>)>> {
    let Some(primary) = look_primary(dir, name)? else {
        return Ok(None);
    };
    let name = name.as_c_str();
    let replica = match Stat::of_name(dir.pair.replica.as_fd(), name) {
        Err(Errno::NOENT) => None,
        found => Some(found.on(Copy::Replica, "statx")?),
    };
    Ok(Some((primary, replica)))
}

/// What came of a hard link.
enum Linked {
    Done(Stat),
    /// Its other names have to be held first.
    Wanted,
    /// No other name is known: it becomes a copy.
    No,
}

/// Before the first change in the replica's directory.
fn unlock(dir: &mut Dir<'_>) -> Outcome<()> {
    if !dir.is_changed {
        walk::unlock(dir.pair.replica.as_fd()).on(Copy::Replica, "unlock")?;
        dir.is_changed = true;
    }
    Ok(())
}
