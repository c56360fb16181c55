// SPDX-License-Identifier: MIT
//! One object that is no directory, or the attributes of any: compared and made equal.

use std::cell::Cell;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType, OFlags};

use super::item::{Item, Next, Task};
use super::place::{Pair, Way};
use super::worker::Worker;
use super::{Halt, Healing, Outcome, Stop};
use crate::mirror::failure::Copy;
use crate::mirror::replica::{Fault, Whose};
use crate::mirror::resync::attrs::Attrs;
use crate::mirror::resync::content::{File, On, Trouble, next_data};
use crate::mirror::resync::object::{Rewriter, make_readable, open, open_as};
use crate::store::node::{Link, Side};
use crate::store::{Name, Stat, walk};
use crate::sys::Errno;

/// Bytes of a file compared in one hold: writers wait no longer than this takes.
pub(super) const PART: u64 = 16 << 20;

impl Worker<'_> {
    /// Attributes alone, of whatever it is.
    pub(super) fn attributes(&mut self, item: &mut Item, way: &Way) -> Outcome<Next> {
        if !item.held.node().is_dir() {
            // Where to begin is where the content ends.
            return self.bytes(item, way, u64::MAX..u64::MAX);
        }
        let pair = way.open_dirs(self.ground)?;
        self.healing.dirs_opened.fetch_add(1, Ordering::Relaxed);
        let is_root = way.is_root();
        let want = Attrs::read(pair.primary.as_fd(), Copy::Primary, is_root)?;
        self.carry_attrs(&want, pair.replica.as_fd(), is_root)?;
        Ok(Next::Done)
    }

    /// A part of the content; with the last one, the attributes.
    pub(super) fn bytes(&mut self, item: &mut Item, way: &Way, range: Range<u64>) -> Outcome<Next> {
        let Some(Link { name, .. }) = way.last() else {
            return Err(Halt::Lost);
        };
        let pair = self.parents(way)?;
        let (above_p, above_r, c_name) =
            (pair.primary.as_fd(), pair.replica.as_fd(), name.as_c_str());
        let primary = Stat::of_name(above_p, c_name).on(Copy::Primary, "statx")?;
        if item.held.node().place(Side::Primary).ident() != Some(primary.ident) {
            return Err(Halt::Lost);
        }
        if range == (0..u64::MAX) && self.fill(item, &pair, name, &primary)? {
            return Ok(Next::Done);
        }
        let replica = Stat::of_name(above_r, c_name).on(Copy::Replica, "statx")?;
        if replica.kind() != primary.kind() || self.twins.is_anothers(&replica, &primary) {
            return Err(Halt::Unlike);
        }
        self.introduce(&primary, &replica);
        if primary.nlink > 1 || replica.nlink > 1 {
            if !item.is_late {
                return Ok(Next::Late);
            }
            if !self.is_whole && replica.nlink > 1 {
                let owner = self.links.owner(replica.ident);
                let anothers = owner.is_some_and(|owner| owner != primary.ident);
                if anothers {
                    return Err(Halt::Unlike);
                }
                if !self.healing.doubt.lock().names_are_clear() {
                    return Ok(Next::Wait);
                }
                if primary.nlink != replica.nlink {
                    // Its other names may be another object's: nothing is written to it until all
                    // names of the tree have been seen.
                    self.must_escalate = true;
                    return Ok(Next::Done);
                }
            }
            let differs =
                primary.nlink != replica.nlink || self.links.contradicts(&primary, &replica);
            if !self.is_whole && differs {
                // One of its other names is another object on the replica, perhaps one with as many
                // names as this should have; or it is still to come.
                self.links.doubt(primary.ident);
            }
        }
        let kind = primary.kind();
        let source = open_as(above_p, c_name, kind, Copy::Primary)?;
        let held = open_replica(above_r, name, &replica)?;
        self.count_opened(item);
        let mut want = Attrs::read(source.as_fd(), Copy::Primary, false)?;
        if kind == FileType::RegularFile {
            let mut have = Stat::of(held.as_fd()).on(Copy::Replica, "statx")?;
            if have.size == 0 && have.blocks == 0 {
                want.prepare(held.as_fd());
            }
            let part = range.start..range.end.min(range.start.saturating_add(PART));
            let files = |have: &Stat| {
                let (source, held) = (source.as_fd(), held.as_fd());
                let primary = File {
                    fd: source,
                    size: want.stat.size,
                };
                (
                    primary,
                    File {
                        fd: held,
                        size: have.size,
                    },
                )
            };
            let mut rewriter = Rewriter {
                dir: above_r,
                name,
                held: held.as_fd(),
                ident: have.ident,
            };
            let passed = Cell::new(0);
            let mut step = stepping(self.stop, self.healing, &passed);
            let (p, r) = files(&have);
            let found =
                self.content
                    .compare_range(p, r, part.clone(), Some(&mut rewriter), &mut step)?;
            self.healing
                .bytes_written
                .fetch_add(found.written, Ordering::Relaxed);
            self.moved_bytes += passed.get() + found.written;
            have = Stat::of(held.as_fd()).on(Copy::Replica, "statx")?;
            let (p, r) = files(&have);
            let next = next_data(p, r, part.end)?;
            if let Some(next) = next.filter(|&next| next < range.end) {
                item.task = Task::Content(next..range.end);
                return Ok(Next::More);
            }
            // Reading may have moved nothing but the time of access, which is not compared.
            want.stat = Stat::of(source.as_fd()).on(Copy::Primary, "statx")?;
        }
        self.carry_attrs(&want, held.as_fd(), false)?;
        Ok(Next::Done)
    }

    /// The directories above an object that is held. Files of one directory come one after the other: its
    /// descriptors are kept until names are changed or something was not where it should be.
    fn parents(&mut self, way: &Way) -> Outcome<Arc<Pair>> {
        let dir = way.last().map(|link| &link.parent);
        if let (Some((node, pair)), Some(dir)) = (&self.above, dir)
            && Arc::ptr_eq(node, dir)
        {
            return Ok(pair.clone());
        }
        let pair = Arc::new(way.open_parents(self.ground)?);
        self.above = dir.map(|dir| (dir.clone(), pair.clone()));
        Ok(pair)
    }

    /// Fills a file that was made for one name, is still empty, and not too large for one hold; false if
    /// it is no such file.
    fn fill(&mut self, item: &mut Item, pair: &Pair, name: &Name, primary: &Stat) -> Outcome<bool> {
        let is_file = primary.kind() == FileType::RegularFile;
        if !is_file || primary.nlink > 1 || !self.bare.contains(&primary.ident) {
            return Ok(false);
        }
        let (kind, c_name) = (primary.kind(), name.as_c_str());
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY;
        let held = match walk::open(pair.replica.as_fd(), c_name, flags, 0) {
            Err(Errno::ACCESS | Errno::PERM) => return Ok(false),
            opened => opened.on(Copy::Replica, "openat2")?,
        };
        let have = Stat::of(held.as_fd()).on(Copy::Replica, "statx")?;
        if have.kind() != kind || have.size > 0 || have.blocks > 0 || have.nlink > 1 {
            return Ok(false);
        }
        if self.twins.is_anothers(&have, primary) {
            return Err(Halt::Unlike);
        }
        let source = open(pair.primary.as_fd(), c_name, kind).on(Copy::Primary, "openat2")?;
        let want = Attrs::read(source.as_fd(), Copy::Primary, false)?;
        if want.stat.ident != primary.ident {
            return Err(Halt::Lost);
        }
        want.prepare(held.as_fd());
        let file = File {
            fd: source.as_fd(),
            size: want.stat.size,
        };
        let passed = Cell::new(0);
        let mut step = stepping(self.stop, self.healing, &passed);
        if want.stat.size <= PART {
            self.content.copy(file, held.as_fd(), &mut step)?;
        } else if !self.content.clone_all(file, held.as_fd(), &mut step)? {
            return Ok(false);
        }
        self.introduce(primary, &have);
        self.count_opened(item);
        self.healing
            .bytes_written
            .fetch_add(passed.get(), Ordering::Relaxed);
        self.moved_bytes += 2 * passed.get();
        self.summary.repaired += 1;
        let lack = &mut self.summary.lacking();
        want.carry_to_new(held.as_fd(), &self.proven, lack)?;
        Ok(true)
    }

    /// Counts an object whose content is looked at, once.
    fn count_opened(&self, item: &mut Item) {
        if !item.is_begun {
            item.is_begun = true;
            self.healing.files_opened.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Carries attributes over where they differ.
    pub(super) fn carry_attrs(
        &mut self,
        want: &Attrs,
        fd: BorrowedFd<'_>,
        is_root: bool,
    ) -> Result<(), Trouble> {
        let have = Attrs::read(fd, Copy::Replica, is_root)?;
        let ignore = self.ground.lacks().never_tried();
        if want.differences(&have, ignore).is_empty() {
            return Ok(());
        }
        self.summary.repaired += 1;
        want.carry_over(fd, is_root, &self.proven, &mut self.summary.lacking())
    }

    /// Ends the healing where the replica was seen to lack what nobody wants to do without: what goes
    /// on is called in-sync in the end.
    pub(super) fn put_up(&self, item: &Item) -> Result<(), Stop> {
        let refused = self.summary.lacks.refused(self.ground.does_without());
        refused.map_or(Ok(()), |lack| {
            let what = format!("{} of {}", lack.word(), item.held.node().display_path());
            Err(Stop::Fault(Fault::without_errno(Whose::Lack, &what)))
        })
    }
}

/// What is called with the bytes of each step of a file: they are counted, in `passed` too, and healing
/// can be stopped there.
fn stepping<'a>(
    stop: &'a AtomicBool,
    healing: &'a Healing,
    passed: &'a Cell<u64>,
) -> impl FnMut(u64) -> Result<(), Errno> + 'a {
    move |bytes| {
        passed.set(passed.get() + bytes);
        healing.bytes_compared.fetch_add(bytes, Ordering::Relaxed);
        healing.beat();
        if stop.load(Ordering::Relaxed) {
            return Err(Errno::INTR);
        }
        Ok(())
    }
}

/// Opens the replica's object; an ordinary user's own file can be made readable for that.
fn open_replica(dir: BorrowedFd<'_>, name: &Name, replica: &Stat) -> Result<OwnedFd, Trouble> {
    let (c_name, kind) = (name.as_c_str(), replica.kind());
    match open_as(dir, c_name, kind, Copy::Replica) {
        Err(Trouble {
            errno: Errno::ACCESS,
            ..
        }) => {
            make_readable(dir, c_name, 0o600)?;
            open_as(dir, c_name, kind, Copy::Replica)
        }
        opened => opened,
    }
}
