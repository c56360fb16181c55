// SPDX-License-Identifier: MIT
//! One name of a reconciliation: an object made anew, or compared and repaired.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::content::Found;
use super::links::First;
use super::worker::Worker;
use super::{Kind, Lack, Outcome};
use crate::mirror::failure::{Copy, Named};
use crate::mirror::resync::attrs::Attrs;
use crate::mirror::resync::content::{File, On, Writer};
use crate::store::name::Name;
use crate::store::stat::{Ident, Stat};
use crate::store::walk;
use crate::sys::{Errno, Result, at};

/// How often a file that changes while it is copied is copied again.
const ATTEMPTS: u32 = 4;

/// What came of opening an object for a comparison.
enum Opened {
    Held(OwnedFd),
    /// It cannot be read, and is replaced.
    Replace,
}

/// Opens what is compared: files for reading, everything else only as a place.
pub(in crate::mirror) fn open(dir: BorrowedFd<'_>, name: &CStr, kind: FileType) -> Result<OwnedFd> {
    if kind == FileType::RegularFile {
        // Neither a fifo nor a terminal that took the name meanwhile can hold us up.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        walk::open_quietly(dir, name, flags)
    } else {
        walk::open(dir, name, OFlags::PATH, 0)
    }
}

pub(in crate::mirror) fn open_as(
    dir: BorrowedFd<'_>,
    name: &CStr,
    kind: FileType,
    copy: Copy,
) -> Outcome<OwnedFd> {
    let fd = open(dir, name, kind).on(copy, "openat2")?;
    if Stat::of(fd.as_fd()).on(copy, "statx")?.kind() != kind {
        return Err(Errno::STALE).on(copy, "openat2");
    }
    Ok(fd)
}

/// Lets the owner read, and change, what the replica keeps from him.
pub(in crate::mirror) fn make_readable(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> Outcome<()> {
    let place = walk::open(dir, name, OFlags::PATH, 0).on(Copy::Replica, "openat2")?;
    at::chmod(place.as_fd(), mode).on(Copy::Replica, "fchmodat2")
}

fn same_version(a: &Stat, b: &Stat) -> bool {
    (a.size, a.mtime, a.ctime) == (b.size, b.mtime, b.ctime)
}

/// The replica's file, opened for writing at the first byte that differs.
pub(in crate::mirror) struct Rewriter<'a> {
    pub(in crate::mirror) dir: BorrowedFd<'a>,
    pub(in crate::mirror) name: &'a Name,
    pub(in crate::mirror) held: BorrowedFd<'a>,
    pub(in crate::mirror) ident: Ident,
}

impl Writer for Rewriter<'_> {
    fn open(&mut self) -> Outcome<OwnedFd> {
        walk::unlock(self.held).on(Copy::Replica, "unlock")?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd =
            walk::open(self.dir, self.name.as_c_str(), flags, 0).on(Copy::Replica, "openat2")?;
        match Stat::of(fd.as_fd()).on(Copy::Replica, "statx")? {
            stat if stat.ident == self.ident => Ok(fd),
            _ => Err(Errno::STALE).on(Copy::Replica, "openat2"),
        }
    }
}

/// What a replica cannot hold at all, as opposed to what went wrong. Only ever asked of symlinks
/// and special files: a mirror without one of its files or directories is none.
pub(in crate::mirror) fn cannot_hold(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::PERM
            | Errno::OPNOTSUPP
            | Errno::NOSYS
            | Errno::NAMETOOLONG
            | Errno::INVAL
            | Errno::ILSEQ
    )
}

impl Worker<'_> {
    /// Makes `name` on the replica, where nothing has that name now, from what is open.
    pub(super) fn create(
        &mut self,
        name: &Name,
        kind: FileType,
        source: BorrowedFd<'_>,
    ) -> Outcome<()> {
        let want = read(source, Copy::Primary, kind)?;
        let shared = self.shared;
        let _alone = shared.links.hold(&want.stat);
        self.create_from(name, source, want)
    }

    /// The same, of what nobody else looks at.
    fn create_from(&mut self, name: &Name, source: BorrowedFd<'_>, want: Attrs) -> Outcome<()> {
        let (pair, c_name, kind) = (self.pair.clone(), name.as_c_str(), want.stat.kind());
        if want.stat.nlink > 1
            && let Some(first) = self.shared.links.first(want.stat.ident)
            && self.link(name, &first)?
        {
            return Ok(());
        }
        let special = match kind {
            FileType::RegularFile => None,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(source, c"", Vec::new())
                    .on(Copy::Primary, "readlinkat")?;
                let made = rustix::fs::symlinkat(&*target, pair.replica(), c_name);
                Some((made, "symlinkat"))
            }
            kind => {
                let mode = Mode::RUSR | Mode::WUSR;
                let made = rustix::fs::mknodat(pair.replica(), c_name, kind, mode, want.stat.rdev);
                Some((made, "mknodat"))
            }
        };
        let (fd, want) = match special {
            None => self.create_file(name, source, want)?,
            Some((Err(errno), call)) if cannot_hold(errno) => {
                self.lose(Lack::Entry, format!("{call}: {}", Named(errno)));
                return Ok(());
            }
            Some((made, call)) => {
                made.on(Copy::Replica, call)?;
                let fd = open(pair.replica(), c_name, kind).on(Copy::Replica, "openat2")?;
                (fd, want)
            }
        };
        self.shared.counts.created.add(1);
        self.carry_over(&want, Some(fd.as_fd()), true)?;
        if want.stat.nlink > 1 {
            let twin = Stat::of(fd.as_fd()).on(Copy::Replica, "statx")?;
            let spot = self.spot(name);
            self.shared.links.note(&want.stat, &twin, &spot);
        }
        Ok(())
    }

    /// Copies a file that is what `want` says, unless somebody is writing to it.
    fn create_file(
        &mut self,
        name: &Name,
        source: BorrowedFd<'_>,
        mut want: Attrs,
    ) -> Outcome<(OwnedFd, Attrs)> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let fd = walk::open(self.pair.replica(), name.as_c_str(), flags, 0o600)
            .on(Copy::Replica, "openat2")?;
        for attempt in 0..ATTEMPTS {
            if attempt == 0 {
                want.prepare(fd.as_fd());
            } else {
                want = Attrs::read(source, Copy::Primary, false)?;
                rustix::fs::ftruncate(&fd, 0).on(Copy::Replica, "ftruncate")?;
            }
            let file = File {
                fd: source,
                size: want.stat.size,
            };
            let meter = &mut self.meter;
            let mut step = |bytes| meter.step(bytes);
            self.content.copy(file, fd.as_fd(), &mut step)?;
            if self.content.was_at_once() || is_still(source, &want)? {
                return Ok((fd, want));
            }
        }
        Err(Errno::BUSY).on(Copy::Primary, "copy")
    }

    /// Makes `name` another name of the replica's twin; false when it has to be a copy after all.
    fn link(&mut self, name: &Name, first: &First) -> Outcome<bool> {
        let there = self.shared.opened.pair(&first.spot.dir)?;
        let (dir, top) = (there.replica(), self.pair.replica());
        let (old, c_name) = (first.spot.name.as_c_str(), name.as_c_str());
        let found = Stat::of_name(dir, old).on(Copy::Replica, "statx")?;
        if found.ident != first.replica {
            return Err(Errno::STALE).on(Copy::Replica, "linkat");
        }
        let mut linked = rustix::fs::linkat(dir, old, top, c_name, AtFlags::empty());
        if linked == Err(Errno::PERM) && found.kind() == FileType::RegularFile {
            // An immutable or append-only file takes no new name: lift that for a moment.
            let held = open(dir, old, found.kind()).on(Copy::Replica, "openat2")?;
            if let Ok(flags) = at::get_flags(held.as_fd())
                && flags & walk::LOCKS != 0
            {
                at::set_flags(held.as_fd(), flags & !walk::LOCKS).on(Copy::Replica, "ioctl")?;
                linked = rustix::fs::linkat(dir, old, top, c_name, AtFlags::empty());
                at::set_flags(held.as_fd(), flags).on(Copy::Replica, "ioctl")?;
            }
        }
        match linked {
            Err(errno @ (Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS)) => {
                self.lose(Lack::Links, format!("linkat: {}", Named(errno)));
                Ok(false)
            }
            done => {
                done.on(Copy::Replica, "linkat")?;
                let made = Stat::of_name(top, c_name).on(Copy::Replica, "statx")?;
                if made.ident != first.replica {
                    // sshfs: the names of a file have numbers of their own.
                    self.lose(Lack::Links, "linkat: the names are not one file".to_owned());
                }
                self.shared.counts.created.add(1);
                Ok(true)
            }
        }
    }

    /// Takes a name away to put another object in its place.
    fn replace(&mut self, name: &Name, source: BorrowedFd<'_>, want: Attrs) -> Outcome<()> {
        self.unlock()?;
        walk::remove(self.pair.replica(), name, &mut || true).on(Copy::Replica, "unlinkat")?;
        let spot = self.spot(name);
        self.shared.links.forget(&want.stat, &spot);
        self.create_from(name, source, want)
    }

    /// Compares two objects of one type that are no directories, and repairs the replica's.
    pub(super) fn compare_object(
        &mut self,
        name: &Name,
        kind: FileType,
        source: BorrowedFd<'_>,
    ) -> Outcome<()> {
        let (repair, shared) = (self.shared.how.repair, self.shared);
        let mut want = read(source, Copy::Primary, kind)?;
        let _alone = shared.links.hold(&want.stat);
        let held = match self.open_replica(name, kind)? {
            Opened::Held(held) => held,
            Opened::Replace => return self.replace(name, source, want),
        };
        let mut have = read(held.as_fd(), Copy::Replica, kind)?;
        if let Some(wrong) = shared.links.check(&want.stat, &have.stat, &self.spot(name))
            && (repair || !shared.how.ignore.contains(Lack::Links))
        {
            self.report_link(wrong);
            if repair {
                return self.replace(name, source, want);
            }
        }
        if shared.links_only {
            return Ok(());
        }
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                want = Attrs::read(source, Copy::Primary, false)?;
                have = Attrs::read(held.as_fd(), Copy::Replica, false)?;
            }
            let alone = have.stat.nlink == 1;
            let mut differs = self.report_attrs(&want, &have);
            let other = match kind {
                FileType::RegularFile => {
                    let files = [(source, &want), (held.as_fd(), &have)];
                    differs |= self.compare_content(name, files, alone)?;
                    false
                }
                FileType::Symlink => {
                    let read = |fd, copy| {
                        rustix::fs::readlinkat(fd, c"", Vec::new()).on(copy, "readlinkat")
                    };
                    read(source, Copy::Primary)? != read(held.as_fd(), Copy::Replica)?
                }
                _ => want.stat.rdev != have.stat.rdev,
            };
            if other {
                self.report(Kind::Entry, None, || {
                    format!("another {}", super::word(kind))
                });
            }
            if repair && (other || (differs && !alone)) {
                return self.replace(name, source, want);
            }
            // What is equal was equal when it was read. Of live files what differs has been noted.
            if !differs || shared.how.live {
                return Ok(());
            }
            if is_still(source, &want)? {
                if repair {
                    self.carry_over(&want, Some(held.as_fd()), false)?;
                }
                return Ok(());
            }
        }
        Err(Errno::BUSY).on(Copy::Primary, "copy")
    }

    fn open_replica(&mut self, name: &Name, kind: FileType) -> Outcome<Opened> {
        let (top, c_name) = (self.pair.replica(), name.as_c_str());
        match open(top, c_name, kind) {
            Err(Errno::ACCESS) if self.shared.how.repair => {}
            opened => return Ok(Opened::Held(opened.on(Copy::Replica, "openat2")?)),
        }
        let replica = Stat::of_name(top, c_name).on(Copy::Replica, "statx")?;
        if replica.nlink > 1 {
            self.report(Kind::Metadata, None, || {
                "cannot be read on replica".to_owned()
            });
            return Ok(Opened::Replace);
        }
        make_readable(top, c_name, 0o600)?;
        open_as(top, c_name, kind, Copy::Replica).map(Opened::Held)
    }

    /// Compares the content of two files, and repairs the replica's if nothing else is that.
    fn compare_content(
        &mut self,
        name: &Name,
        [(source, want), (held, have)]: [(BorrowedFd<'_>, &Attrs); 2],
        alone: bool,
    ) -> Outcome<bool> {
        let how = &self.shared.how;
        let (repair, quick) = (how.repair, how.quick);
        let reads_uneven = repair || how.locates;
        let (p, r) = (&want.stat, &have.stat);
        let found = if quick && ((p.size, p.mtime) == (r.size, r.mtime) || !reads_uneven) {
            Found::default()
        } else {
            let pair = self.pair.clone();
            let mut rewriter = (repair && alone).then_some(Rewriter {
                dir: pair.replica(),
                name,
                held,
                ident: r.ident,
            });
            let file = |fd, stat: &Stat| File {
                fd,
                size: stat.size,
            };
            let meter = &mut self.meter;
            self.content.compare(
                file(source, p),
                file(held, r),
                rewriter.as_mut().map(|writer| writer as &mut dyn Writer),
                &mut |bytes| meter.step(bytes),
            )?
        };
        self.shared.counts.bytes_repaired.add(found.written);
        let (p, r) = (p.size, r.size);
        if p != r {
            let detail = || format!("size {p} on primary, {r} on replica");
            self.report(Kind::Data, None, detail);
        } else if let Some(first) = found.first {
            let bytes = crate::mirror::resync::progress::size(found.differing);
            let detail = || format!("{bytes} differ at {first}");
            self.report(Kind::Data, Some(first), detail);
        } else if found.holes {
            self.report(Kind::Data, None, || "holes differ".to_owned());
        } else {
            return Ok(false);
        }
        Ok(true)
    }
}

/// All metadata of what was opened as an object of this kind.
fn read(fd: BorrowedFd<'_>, copy: Copy, kind: FileType) -> Outcome<Attrs> {
    let attrs = Attrs::read(fd, copy, false)?;
    if attrs.stat.kind() != kind {
        return Err(Errno::STALE).on(copy, "openat2");
    }
    Ok(attrs)
}

/// Whether nobody has changed a file of the primary meanwhile.
fn is_still(source: BorrowedFd<'_>, want: &Attrs) -> Outcome<bool> {
    let now = Stat::of(source).on(Copy::Primary, "statx")?;
    Ok(same_version(&now, &want.stat))
}
