// SPDX-License-Identifier: MIT
//! One name of a reconciliation: an object made anew, or compared and repaired; and hard links.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::{Down, Engine, Frame, Kind, Lack, Outcome};
use crate::mirror::failure::{Copy, Named};
use crate::mirror::resync::attrs::Attrs;
use crate::mirror::resync::content::{File, On, Writer};
use crate::store::name::Name;
use crate::store::stat::{Ident, Stat};
use crate::store::walk;
use crate::sys::{Errno, Result, at};

/// How often a file that changes while it is copied is copied again.
const ATTEMPTS: u32 = 4;

/// What is wrong where a copy is none.
pub(in crate::mirror) const BOTH: &str = "one inode in both copies";

/// Which names are one inode, on either side. Only inodes with several names are remembered.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Primary inode to where the replica has its twin.
    first: HashMap<Ident, First>,
    /// Replica inode to the primary inode it is the twin of, and a name of that.
    owner: HashMap<Ident, (Ident, Box<[u8]>)>,
}

#[derive(Debug)]
struct First {
    replica: Ident,
    path: Box<[u8]>,
}

impl Links {
    /// How the pair is wrong, in words, and the other name concerned, or `None` once it is noted as
    /// right.
    fn check(&mut self, primary: &Stat, replica: &Stat, path: &[u8]) -> Option<(String, Vec<u8>)> {
        let (p, r) = (primary.ident, replica.ident);
        if replica.nlink > 1 && p == r {
            return Some((BOTH.to_owned(), path.to_vec()));
        }
        if replica.nlink > 1
            && let Some(own) = self.first.get(&r)
        {
            return Some((BOTH.to_owned(), own.path.to_vec()));
        }
        if let Some(first) = self.first.get(&p) {
            let of = super::super::failure::show_path(&first.path);
            let wrong = || {
                (
                    format!("hard link of {of} on primary only"),
                    first.path.to_vec(),
                )
            };
            return (first.replica != r).then(wrong);
        }
        if let Some((owner, of)) = self.owner.get(&r)
            && *owner != p
        {
            return Some(("hard link on replica only".to_owned(), of.to_vec()));
        }
        self.note(primary, replica, path);
        None
    }

    /// Forgets that the replica's object at `path` is the twin of `primary`.
    fn forget(&mut self, primary: &Stat, path: &[u8]) {
        if let Some(first) = self.first.get(&primary.ident)
            && *first.path == *path
        {
            self.owner.remove(&first.replica);
            self.first.remove(&primary.ident);
        }
    }

    fn note(&mut self, primary: &Stat, replica: &Stat, path: &[u8]) {
        if primary.nlink > 1 {
            let (replica, path) = (replica.ident, path.into());
            self.first
                .entry(primary.ident)
                .or_insert(First { replica, path });
        }
        if replica.nlink > 1 {
            let owner = (primary.ident, path.into());
            self.owner.insert(replica.ident, owner);
        }
    }
}

/// Opens what is compared: files for reading, everything else only as a place.
fn open(dir: BorrowedFd<'_>, name: &CStr, kind: FileType) -> Result<OwnedFd> {
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
        Errno::PERM | Errno::OPNOTSUPP | Errno::NAMETOOLONG | Errno::INVAL | Errno::ILSEQ
    )
}

impl Engine<'_> {
    /// No inode may have been found in both trees.
    pub(super) fn check_apart(&mut self) -> Outcome<()> {
        let shared = |first: &&First| self.links.first.contains_key(&first.replica);
        if let Some(first) = self.links.first.values().find(shared) {
            let own = self.links.first.get(&first.replica);
            let own = own.map_or_else(Vec::new, |own| own.path.to_vec());
            self.path = first.path.to_vec();
            if self.how.live {
                // A number that was free again, most likely: it is looked at once more.
                self.report_link((BOTH.to_owned(), own));
                return Ok(());
            }
            return Err(Errno::MLINK).on(Copy::Replica, "link");
        }
        Ok(())
    }

    /// Makes `name` on the replica, where nothing has that name now.
    pub(super) fn create(&mut self, name: &Name, primary: &Stat) -> Outcome<Down> {
        if primary.is_dir() {
            return self.create_dir(name);
        }
        if self.links.first.contains_key(&primary.ident) && self.link(name, primary)? {
            return Ok(Down::No);
        }
        let c_name = name.as_c_str();
        let source = open_as(self.primary.top(), c_name, primary.kind(), Copy::Primary)?;
        let made = match primary.kind() {
            FileType::RegularFile => Some(self.create_file(name, source.as_fd())?),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(&source, c"", Vec::new())
                    .on(Copy::Primary, "readlinkat")?;
                rustix::fs::symlinkat(&*target, self.replica.top(), c_name)
                    .map(|()| None)
                    .or_else(|errno| self.or_lose(errno, "symlinkat"))?
            }
            kind => rustix::fs::mknodat(
                self.replica.top(),
                c_name,
                kind,
                Mode::RUSR | Mode::WUSR,
                primary.rdev,
            )
            .map(|()| None)
            .or_else(|errno| self.or_lose(errno, "mknodat"))?,
        };
        if matches!(made, Some(Made::Lost)) {
            return Ok(Down::No);
        }
        self.summary.created += 1;
        let (fd, want) = match made {
            Some(Made::File(fd, want)) => (fd, *want),
            _ => {
                let want = Attrs::read(source.as_fd(), Copy::Primary, false)?;
                (
                    open_as(self.replica.top(), c_name, primary.kind(), Copy::Replica)?,
                    want,
                )
            }
        };
        self.carry_over(&want, Some(fd.as_fd()), true)?;
        if want.stat.nlink > 1 {
            let twin = Stat::of(fd.as_fd()).on(Copy::Replica, "statx")?;
            self.links.note(&want.stat, &twin, &self.path);
        }
        Ok(Down::No)
    }

    /// Turns an errno that means "cannot be held here" into a loss.
    fn or_lose(&mut self, errno: Errno, call: &'static str) -> Outcome<Option<Made>> {
        if !cannot_hold(errno) {
            return Err(errno).on(Copy::Replica, call);
        }
        self.lose(Lack::Entry, format!("{call}: {}", Named(errno)));
        Ok(Some(Made::Lost))
    }

    fn create_dir(&mut self, name: &Name) -> Outcome<Down> {
        let source = match walk::open_dir(self.primary.top(), name.as_c_str()) {
            Err(Errno::XDEV) if self.how.one_file_system => None,
            opened => Some(opened.on(Copy::Primary, "openat2")?),
        };
        rustix::fs::mkdirat(self.replica.top(), name.as_c_str(), Mode::RWXU)
            .on(Copy::Replica, "mkdirat")?;
        self.summary.created += 1;
        let Some(source) = source else {
            return Ok(Down::No);
        };
        let made =
            walk::open_dir(self.replica.top(), name.as_c_str()).on(Copy::Replica, "openat2")?;
        self.push(source, made)?;
        Ok(Down::New)
    }

    fn create_file(&mut self, name: &Name, source: BorrowedFd<'_>) -> Outcome<Made> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let fd = walk::open(self.replica.top(), name.as_c_str(), flags, 0o600)
            .on(Copy::Replica, "openat2")?;
        for attempt in 0..ATTEMPTS {
            let want = Attrs::read(source, Copy::Primary, false)?;
            if attempt == 0 {
                want.prepare(fd.as_fd());
            } else {
                rustix::fs::ftruncate(&fd, 0).on(Copy::Replica, "ftruncate")?;
            }
            let file = File {
                fd: source,
                size: want.stat.size,
            };
            let (seen, progress) = (&mut self.seen, &mut *self.progress);
            self.content
                .copy(file, fd.as_fd(), &mut step(seen, progress, &self.how))?;
            let now = Stat::of(source).on(Copy::Primary, "statx")?;
            if same_version(&now, &want.stat) {
                return Ok(Made::File(fd, Box::new(want)));
            }
        }
        Err(Errno::BUSY).on(Copy::Primary, "copy")
    }

    /// Makes `name` another name of the replica's twin; false when it has to be a copy after all.
    fn link(&mut self, name: &Name, primary: &Stat) -> Outcome<bool> {
        let Some(first) = self.links.first.get(&primary.ident) else {
            return Ok(false);
        };
        let (dir, old) =
            walk::open_parent(self.replica.root(), &first.path).on(Copy::Replica, "openat2")?;
        let (old, c_name, top) = (old.as_c_str(), name.as_c_str(), self.replica.top());
        let found = Stat::of_name(dir.as_fd(), old).on(Copy::Replica, "statx")?;
        if found.ident != first.replica {
            return Err(Errno::STALE).on(Copy::Replica, "linkat");
        }
        let mut linked = rustix::fs::linkat(&dir, old, top, c_name, AtFlags::empty());
        if linked == Err(Errno::PERM) && found.kind() == FileType::RegularFile {
            // An immutable or append-only file takes no new name: lift that for a moment.
            let held = open(dir.as_fd(), old, found.kind()).on(Copy::Replica, "openat2")?;
            if let Ok(flags) = at::get_flags(held.as_fd())
                && flags & walk::LOCKS != 0
            {
                at::set_flags(held.as_fd(), flags & !walk::LOCKS).on(Copy::Replica, "ioctl")?;
                linked = rustix::fs::linkat(&dir, old, top, c_name, AtFlags::empty());
                at::set_flags(held.as_fd(), flags).on(Copy::Replica, "ioctl")?;
            }
        }
        match linked {
            Err(errno @ (Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP)) => {
                self.lose(Lack::Links, format!("linkat: {}", Named(errno)));
                Ok(false)
            }
            done => {
                done.on(Copy::Replica, "linkat")?;
                self.summary.created += 1;
                Ok(true)
            }
        }
    }

    /// Takes a name away to put another object in its place.
    fn replace(&mut self, frame: &mut Frame, name: &Name, primary: &Stat) -> Outcome<Down> {
        self.unlock(frame)?;
        walk::remove(self.replica.top(), name, &mut || true).on(Copy::Replica, "unlinkat")?;
        self.links.forget(primary, &self.path);
        self.create(name, primary)
    }

    /// Compares two objects of one type that are no directories, and repairs the replica's.
    pub(super) fn compare_object(
        &mut self,
        frame: &mut Frame,
        name: &Name,
        primary: &Stat,
        replica: &Stat,
    ) -> Outcome<Down> {
        let repair = self.how.repair;
        if let Some(wrong) = self.links.check(primary, replica, &self.path)
            && (repair || !self.how.ignore.contains(Lack::Links))
        {
            self.report_link(wrong);
            if repair {
                return self.replace(frame, name, primary);
            }
        }
        let (kind, c_name) = (primary.kind(), name.as_c_str());
        let source = open_as(self.primary.top(), c_name, kind, Copy::Primary)?;
        let held = match open(self.replica.top(), c_name, kind) {
            Err(Errno::ACCESS) if repair && replica.nlink > 1 => {
                self.report(Kind::Metadata, None, || {
                    "cannot be read on replica".to_owned()
                });
                return self.replace(frame, name, primary);
            }
            Err(Errno::ACCESS) if repair => {
                let place = walk::open(self.replica.top(), c_name, OFlags::PATH, 0)
                    .on(Copy::Replica, "openat2")?;
                at::chmod(place.as_fd(), 0o600).on(Copy::Replica, "fchmodat2")?;
                open_as(self.replica.top(), c_name, kind, Copy::Replica)?
            }
            _ => open_as(self.replica.top(), c_name, kind, Copy::Replica)?,
        };
        let alone = replica.nlink == 1;
        for _ in 0..ATTEMPTS {
            let want = Attrs::read(source.as_fd(), Copy::Primary, false)?;
            let have = Attrs::read(held.as_fd(), Copy::Replica, false)?;
            let mut differs = self.report_attrs(&want, &have);
            let other = match kind {
                FileType::RegularFile => {
                    let rewriter = Rewriter {
                        dir: self.replica.top(),
                        name,
                        held: held.as_fd(),
                        ident: have.stat.ident,
                    };
                    let quick = self.how.quick
                        && ((want.stat.size, want.stat.mtime) == (have.stat.size, have.stat.mtime)
                            || !repair);
                    let found = if quick {
                        Default::default()
                    } else {
                        let (seen, progress) = (&mut self.seen, &mut *self.progress);
                        let mut rewriter = (repair && alone).then_some(rewriter);
                        self.content.compare(
                            File {
                                fd: source.as_fd(),
                                size: want.stat.size,
                            },
                            File {
                                fd: held.as_fd(),
                                size: have.stat.size,
                            },
                            rewriter.as_mut().map(|writer| writer as &mut dyn Writer),
                            &mut step(seen, progress, &self.how),
                        )?
                    };
                    self.summary.bytes_repaired += found.written;
                    let (p, r) = (want.stat.size, have.stat.size);
                    if p != r {
                        let detail = || format!("size {p} on primary, {r} on replica");
                        self.report(Kind::Data, None, detail);
                        differs = true;
                    } else if let Some(first) = found.first {
                        let bytes = crate::mirror::resync::progress::size(found.differing);
                        let detail = || format!("{bytes} differ at {first}");
                        self.report(Kind::Data, Some(first), detail);
                        differs = true;
                    } else if found.holes {
                        self.report(Kind::Data, None, || "holes differ".to_owned());
                        differs = true;
                    }
                    false
                }
                FileType::Symlink => {
                    let read = |fd, copy| {
                        rustix::fs::readlinkat(fd, c"", Vec::new()).on(copy, "readlinkat")
                    };
                    read(source.as_fd(), Copy::Primary)? != read(held.as_fd(), Copy::Replica)?
                }
                _ => want.stat.rdev != have.stat.rdev,
            };
            if other {
                self.report(Kind::Entry, None, || {
                    format!("another {}", super::word(kind))
                });
            }
            if repair && (other || (differs && !alone)) {
                return self.replace(frame, name, &want.stat);
            }
            let now = Stat::of(source.as_fd()).on(Copy::Primary, "statx")?;
            // Of live files what differs has been noted; what was equal when it was read is equal.
            if !same_version(&now, &want.stat) && !self.how.live {
                continue;
            }
            if repair && differs {
                self.carry_over(&want, Some(held.as_fd()), false)?;
            }
            return Ok(Down::No);
        }
        Err(Errno::BUSY).on(Copy::Primary, "copy")
    }
}

/// What became of a new object.
enum Made {
    /// The replica cannot hold it.
    Lost,
    File(OwnedFd, Box<Attrs>),
}

/// Counts bytes, shows progress and hears a stop.
fn step<'s>(
    seen: &'s mut super::Progress,
    progress: &'s mut dyn FnMut(&super::Progress),
    how: &'s super::How,
) -> impl FnMut(u64) -> Result<()> + 's {
    move |bytes| {
        seen.bytes += bytes;
        progress(seen);
        how.goes_on()
    }
}
