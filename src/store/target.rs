// SPDX-License-Identifier: MIT
//! `Tree` as a [`Target`]: carrying out ops on one copy.
//!
//! The same code serves primary and replica, and leaves the decision whose result counts to the
//! mirror. Backing files are never open with `O_APPEND`: the offset is the op's own (docs/SAFETY.md,
//! trap 3), and set-id bits are cleared by each copy's own file system, given the right
//! credentials (trap 7).

use std::ffi::CStr;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Timestamps,
};
use rustix::time::Timespec;

use super::descriptor::{Access, Descriptor};
use super::node::{Node, Side};
use super::op::{Action, Flags, Op};
use super::walk::LOCKS;
use super::{Applied, Made, Name, Piece, Scope, Space, Stat, Target, Time, Tree};
use crate::sys::creds::Needs;
use crate::sys::{self, Errno, Result};
use crate::uring::{How, Io, Outcome};

/// `FS_CASEFOLD_FL` of include/uapi/linux/fs.h.
const CASEFOLD: u32 = 0x4000_0000;

impl Tree {
    fn attempt(&self, op: &Op<'_>) -> Result<Applied> {
        sys::creds::wear(op.needs)?;
        match &op.action {
            Action::Write {
                node,
                offset,
                appending,
            } => self
                .write(node, *offset, op.data, *appending)
                .map(Applied::wrote),
            Action::Truncate { node, size } => self
                .change_data(node, |file| {
                    retry(|| rustix::fs::ftruncate(file.as_fd(), *size))
                })
                .map(Applied::nothing),
            Action::Allocate {
                node,
                mode,
                offset,
                length,
            } => {
                let mode = FallocateFlags::from_bits_retain(*mode);
                self.change_data(node, |file| {
                    retry(|| rustix::fs::fallocate(file.as_fd(), mode, *offset, *length))
                })
                .map(Applied::nothing)
            }
            Action::CopyRange {
                from,
                from_offset,
                to,
                to_offset,
                length,
            } => self
                .copy_range(from, *from_offset, to, *to_offset, *length)
                .map(Applied::wrote),
            Action::SetAttr {
                node,
                uid,
                gid,
                mode,
                atime,
                mtime,
            } => {
                let object = self.open(node, Access::Path)?;
                let fd = object.as_fd();
                // chown clears set-id bits, so the mode comes after it, and times come last. Nothing
                // at all is chown(-1, -1), which clears them too.
                let times = atime.is_some() || mtime.is_some();
                if uid.is_some() || gid.is_some() || (mode.is_none() && !times) {
                    sys::at::chown(fd, *uid, *gid)?;
                }
                if let Some(mode) = mode {
                    sys::at::chmod(fd, mode & 0o7777)?;
                }
                if times {
                    sys::at::utimens(fd, &timestamps(*atime, *mtime))?;
                }
                Ok(Applied::default())
            }
            Action::SetFlags { node, flags } => {
                if flags.plain() & CASEFOLD != 0 {
                    // Two spellings of one name: nodes could no longer be found by theirs.
                    return Err(Errno::OPNOTSUPP);
                }
                let object = self.open(node, Access::Read)?;
                object.give_back()?;
                match flags {
                    Flags::Plain(flags) => sys::at::set_flags(object.as_fd(), *flags),
                    Flags::Extended(flags) => sys::at::set_extended_flags(object.as_fd(), flags),
                }?;
                self.close_writable(node);
                Ok(Applied::default())
            }
            Action::SetXattr { node, name, how } => {
                Self::refuse_own_xattr(node, name)?;
                let object = self.object(node)?;
                sys::at::set_xattr(object.as_fd(), name, op.data, *how).map(Applied::nothing)
            }
            Action::RemoveXattr { node, name } => {
                Self::refuse_own_xattr(node, name)?;
                let object = self.object(node)?;
                sys::at::remove_xattr(object.as_fd(), name).map(Applied::nothing)
            }
            Action::Create { parent, name, mode } => self.create(parent, name, *mode),
            Action::Mkdir { parent, name, mode } => self.make(parent, name, |dir, name| {
                rustix::fs::mkdirat(dir.as_fd(), name, Mode::from(mode & 0o7777))
            }),
            Action::Mknod {
                parent,
                name,
                mode,
                rdev,
            } => self.make(parent, name, |dir, name| {
                let kind = FileType::from_raw_mode(*mode);
                rustix::fs::mknodat(dir.as_fd(), name, kind, Mode::from(mode & 0o7777), *rdev)
            }),
            Action::Symlink {
                parent,
                name,
                target,
            } => self.make(parent, name, |dir, name| {
                rustix::fs::symlinkat(target.as_c_str(), dir.as_fd(), name)
            }),
            Action::Link { node, parent, name } => self.link(node, parent, name),
            Action::Unlink {
                parent,
                name,
                victim,
            } => self.remove(parent, name, victim.as_ref(), AtFlags::empty()),
            Action::Rmdir {
                parent,
                name,
                victim,
            } => self.remove(parent, name, victim.as_ref(), AtFlags::REMOVEDIR),
            Action::Rename {
                from,
                to,
                flags,
                moved,
                victim,
            } => self.rename(from, to, *flags, moved.as_ref(), victim.as_ref()),
        }
    }
}

impl Target for Tree {
    fn apply(&self, op: &Op<'_>) -> Result<Applied> {
        match self.attempt(op) {
            // What is set aside for files that grow may be what is missing.
            Err(Errno::NOSPC | Errno::DQUOT) if self.give_all_back() => self.attempt(op),
            done => done,
        }
    }

    fn write_beside(&self, op: &Op<'_>, meanwhile: &mut dyn FnMut()) -> Result<Applied> {
        let (Some(engine), Action::Write { node, offset, .. }) = (&self.engine, &op.action) else {
            meanwhile();
            return self.apply(op);
        };
        // The work itself must be done, whatever becomes of this side.
        let mut meanwhile = Once(Some(meanwhile));
        let file = sys::creds::wear(op.needs).and_then(|()| self.open(node, Access::Write));
        let file = file.inspect_err(|_| meanwhile.run())?;
        if file.append_only {
            meanwhile.run();
            return self.apply(op);
        }
        file.soil(&self.ring);
        let write = Io::Write {
            fd: file.as_fd(),
            data: op.data,
            offset: *offset,
            how: How::default(),
        };
        let ((), outcome) = engine.with_disk(|disk| disk.overlap(&write, || meanwhile.run()));
        file.soil(&self.ring);
        done(outcome).map(Applied::wrote)
    }

    fn has_open(&self, node: &Arc<Node>) -> bool {
        self.opened(node, Access::Write).is_some()
    }

    fn write_chain(&self, needs: Needs, pieces: &[Piece<'_>]) -> (usize, Result<()>) {
        self.write_past_cache(needs, pieces)
    }

    fn has_chains(&self) -> bool {
        self.goes_past_cache() && self.engine.as_ref().is_some_and(|engine| engine.has_ring())
    }

    fn barrier_beside(
        &self,
        node: &Arc<Node>,
        scope: Scope,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<()> {
        let mut meanwhile = Once(Some(meanwhile));
        let syncs = matches!(node.kind, FileType::RegularFile | FileType::Directory);
        let Some(engine) = self.engine.as_ref().filter(|_| syncs) else {
            meanwhile.run();
            return self.barrier(node, scope);
        };
        let object = self.open(node, Access::Read);
        let object = object.inspect_err(|_| meanwhile.run())?;
        object.sync(&self.ring, || {
            let sync: Io<'_> = Io::Fsync {
                fd: object.as_fd(),
                data_only: scope == Scope::Data,
            };
            let ((), outcome) = engine.with_disk(|disk| disk.overlap(&sync, || meanwhile.run()));
            done(outcome).map(drop)
        })
    }

    fn adopt(&self, node: &Arc<Node>, made: Made) {
        let mut place = node.place(self.side);
        place.set_ident(made.stat.ident);
        let fresh = made.fd.is_some();
        let own_rights = made.stat.mode & 0o600 == 0o600;
        if fresh && !own_rights && !sys::creds::privileged() && self.ring.can_pin() {
            // An ordinary user could not open it again for what the maker may still do.
            place.set_pin(self.ring.pin());
        }
        drop(place);
        if let Some(fd) = made.fd {
            let own = Descriptor::new(fd, Access::Write).of(Some(made.stat.ident));
            // Replaced already: whoever needs it opens the other one.
            drop(self.install(node, own));
        }
    }

    fn set_times(&self, node: &Arc<Node>, atime: Time, mtime: Time) -> Result<()> {
        let object = self.open(node, Access::Path)?;
        object.give_back()?;
        let stat = Stat::of(object.as_fd())?;
        // The descriptor may have outlived the object: someone emptied this copy behind our back.
        if stat.nlink == 0 {
            return Err(Errno::STALE);
        }
        // Both copies take the time of the same clock, and often the same tick of it.
        if (stat.atime, stat.mtime) == (atime, mtime) {
            return Ok(());
        }
        let times = timestamps(Some(atime), Some(mtime));
        match sys::at::utimens(object.as_fd(), &times) {
            Err(Errno::PERM) => self.set_times_of_locked(node, &times),
            done => done,
        }
    }

    fn conform(&self, node: &Arc<Node>, like: &Stat) -> Result<()> {
        let object = self.open(node, Access::Path)?;
        let stat = Stat::of(object.as_fd())?;
        if stat.size != like.size {
            self.change_data(node, |file| {
                retry(|| rustix::fs::ftruncate(file.as_fd(), like.size))
            })?;
        }
        if stat.permissions() != like.permissions() {
            sys::at::chmod(object.as_fd(), like.permissions())?;
        }
        Ok(())
    }

    fn fault(&self) -> Option<Errno> {
        self.taken_fault()
    }

    fn barrier(&self, node: &Arc<Node>, scope: Scope) -> Result<()> {
        if !matches!(node.kind, FileType::RegularFile | FileType::Directory) {
            return Ok(());
        }
        let object = self.open(node, Access::Read)?;
        let sync = || {
            retry(|| match scope {
                Scope::Data => rustix::fs::fdatasync(object.as_fd()),
                Scope::Node => rustix::fs::fsync(object.as_fd()),
            })
        };
        object.sync(&self.ring, sync).inspect_err(|errno| {
            if self.side == Side::Primary {
                node.keep_sync_error(*errno);
            }
        })
    }

    fn twin(&self, node: &Arc<Node>) -> Option<Stat> {
        let object = self.open(node, Access::Path).ok()?;
        Stat::of(object.as_fd()).ok()
    }

    fn sync_all(&self) -> Result<()> {
        self.sync_everything()
    }

    fn space(&self) -> Result<Space> {
        self.measure()
    }
}

impl Tree {
    /// A directory, for names relative to it.
    fn open_dir(&self, node: &Arc<Node>) -> Result<Arc<Descriptor>> {
        self.open(node, Access::Path)
    }

    /// Sets times that an append-only or immutable object refuses to take (`chattr +a`, `+i`): an
    /// append moved them on the primary all the same.
    fn set_times_of_locked(&self, node: &Arc<Node>, times: &Timestamps) -> Result<()> {
        let object = self.open(node, Access::Read)?;
        let fd = object.as_fd();
        let flags = sys::at::get_flags(fd)?;
        if flags & LOCKS == 0 {
            return Err(Errno::PERM);
        }
        sys::at::set_flags(fd, flags & !LOCKS)?;
        let set = sys::at::utimens(fd, times);
        sys::at::set_flags(fd, flags)?;
        set
    }

    fn write(&self, node: &Arc<Node>, offset: u64, data: &[u8], appending: bool) -> Result<usize> {
        self.change_data(node, |file| {
            if file.append_only && !appending {
                return Err(Errno::PERM);
            }
            retry(|| rustix::io::pwrite(file.as_fd(), data, offset))
        })
    }

    /// Runs a change of a file's content, and remembers that it is not durable yet.
    fn change_data<T>(
        &self,
        node: &Arc<Node>,
        change: impl FnOnce(&Descriptor) -> Result<T>,
    ) -> Result<T> {
        let file = self.open(node, Access::Write)?;
        file.give_back()?;
        file.soil(&self.ring);
        let done = change(&file);
        file.soil(&self.ring);
        done
    }

    fn copy_range(
        &self,
        from: &Arc<Node>,
        mut from_offset: u64,
        to: &Arc<Node>,
        mut to_offset: u64,
        length: u64,
    ) -> Result<usize> {
        let source = self.open(from, Access::Read)?;
        let length = usize::try_from(length.min(1 << 30)).map_err(|_| Errno::INVAL)?;
        self.change_data(to, |file| {
            retry(|| {
                rustix::fs::copy_file_range(
                    source.as_fd(),
                    Some(&mut from_offset),
                    file.as_fd(),
                    Some(&mut to_offset),
                    length,
                )
            })
        })
    }

    fn create(&self, parent: &Arc<Node>, name: &Name, mode: u32) -> Result<Applied> {
        Self::refuse_own_file(parent, name)?;
        let dir = self.open_dir(parent)?;
        let _names = self.names.read();
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW;
        let flags = flags | OFlags::CLOEXEC;
        let make = || {
            let mode = Mode::from(mode & 0o7777);
            let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            rustix::fs::openat2(dir.as_fd(), name.as_c_str(), flags, mode, how)
        };
        let fd = self.with_room(|| retry(make))?;
        let stat = Stat::of(fd.as_fd())?;
        Ok(Applied {
            written: 0,
            made: Some(Made { stat, fd: Some(fd) }),
        })
    }

    /// Makes a directory, symlink or special file and looks at what came out.
    fn make(
        &self,
        parent: &Arc<Node>,
        name: &Name,
        make: impl FnOnce(&Descriptor, &CStr) -> Result<()>,
    ) -> Result<Applied> {
        Self::refuse_own_file(parent, name)?;
        let dir = self.open_dir(parent)?;
        let _names = self.names.read();
        make(&dir, name.as_c_str())?;
        let stat = Stat::of_name(dir.as_fd(), name.as_c_str())?;
        Ok(Applied {
            written: 0,
            made: Some(Made { stat, fd: None }),
        })
    }

    fn link(&self, node: &Arc<Node>, parent: &Arc<Node>, name: &Name) -> Result<Applied> {
        Self::refuse_own_file(parent, name)?;
        let object = self.open(node, Access::Path)?;
        let dir = self.open_dir(parent)?;
        let first = {
            let place = node.place(self.side);
            place.links().first().cloned()
        };
        let old_dir = match &first {
            Some(link) => Some(self.open_dir(&link.parent)?),
            None => None,
        };
        let _names = self.names.read();
        let (fd, new_dir) = (object.as_fd(), dir.as_fd());
        // By descriptor this needs CAP_DAC_READ_SEARCH before Linux 6.10; an ordinary user falls
        // back to the name it was found under, which was checked a moment ago.
        match rustix::fs::linkat(fd, c"", new_dir, name.as_c_str(), AtFlags::EMPTY_PATH) {
            Err(Errno::NOENT) if !sys::creds::privileged() => {
                let (Some(link), Some(old_dir)) = (&first, &old_dir) else {
                    return Err(Errno::NOENT);
                };
                let old_name = link.name.as_c_str();
                let none = AtFlags::empty();
                rustix::fs::linkat(old_dir.as_fd(), old_name, new_dir, name.as_c_str(), none)?;
            }
            done => done?,
        }
        node.add_link(self.side, parent, name);
        let stat = Stat::of(object.as_fd())?;
        Ok(Applied {
            written: 0,
            made: Some(Made { stat, fd: None }),
        })
    }

    fn remove(
        &self,
        parent: &Arc<Node>,
        name: &Name,
        victim: Option<&Arc<Node>>,
        flags: AtFlags,
    ) -> Result<Applied> {
        Self::refuse_own_file(parent, name)?;
        let dir = self.open_dir(parent)?;
        victim.map_or(Ok(()), |node| self.pin(node))?;
        let _names = self.names.read();
        let done = rustix::fs::unlinkat(dir.as_fd(), name.as_c_str(), flags);
        if let Some(node) = victim {
            match done {
                Ok(()) => {
                    node.remove_link(self.side, parent, name);
                    self.unpin(node);
                }
                Err(_) => self.unpin(node),
            }
        }
        done.map(Applied::nothing)
    }

    fn rename(
        &self,
        from: &(Arc<Node>, Name),
        to: &(Arc<Node>, Name),
        flags: u32,
        moved: Option<&Arc<Node>>,
        victim: Option<&Arc<Node>>,
    ) -> Result<Applied> {
        Self::refuse_own_file(&from.0, &from.1)?;
        Self::refuse_own_file(&to.0, &to.1)?;
        let (old_dir, new_dir) = (self.open_dir(&from.0)?, self.open_dir(&to.0)?);
        let flags = RenameFlags::from_bits_retain(flags);
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        self.identify(old_dir.as_fd(), &from.1, moved)?;
        match victim {
            Some(node) if exchange => self.identify(new_dir.as_fd(), &to.1, Some(node))?,
            Some(node) => self.pin(node)?,
            None => {}
        }
        let _names = self.names.read();
        let (old_name, new_name) = (from.1.as_c_str(), to.1.as_c_str());
        let mut done =
            rustix::fs::renameat_with(old_dir.as_fd(), old_name, new_dir.as_fd(), new_name, flags);
        if done == Err(Errno::INVAL)
            && self.side == Side::Replica
            && flags == RenameFlags::NOREPLACE
        {
            // A file system that knows no flags (sshfs). Nobody else gives names in these directories
            // meanwhile, so that what is not there now is not replaced.
            done = match Stat::of_name(new_dir.as_fd(), new_name) {
                Ok(_) => Err(Errno::EXIST),
                Err(Errno::NOENT) => rustix::fs::renameat(&old_dir, old_name, &new_dir, new_name),
                Err(errno) => Err(errno),
            };
        }
        let two_names_of_one =
            matches!((moved, victim), (Some(moved), Some(victim)) if Arc::ptr_eq(moved, victim));
        if let Err(errno) = done {
            victim.into_iter().for_each(|node| self.unpin(node));
            return Err(errno);
        }
        if two_names_of_one {
            // rename(2): two links to one file stay as they are.
            victim.into_iter().for_each(|node| self.unpin(node));
            return Ok(Applied::default());
        }
        if let Some(node) = victim {
            if exchange {
                node.seen_at(self.side, &from.0, &from.1);
            }
            node.remove_link(self.side, &to.0, &to.1);
            self.unpin(node);
        }
        if let Some(node) = moved {
            // Ahead of names that lookups have seen on the primary since (mode=async): this one the
            // object has here.
            node.seen_at(self.side, &to.0, &to.1);
            node.remove_link(self.side, &from.0, &from.1);
        }
        Ok(Applied::default())
    }
}

/// Work to be done once.
struct Once<'a>(Option<&'a mut dyn FnMut()>);

impl Once<'_> {
    fn run(&mut self) {
        if let Some(work) = self.0.take() {
            work();
        }
    }
}

/// What became of an operation beside other work: a part of it is a short write.
fn done(outcome: Outcome) -> Result<usize> {
    match outcome {
        Outcome::Done(written) | Outcome::Failed { written, .. } if written > 0 => Ok(written),
        Outcome::Done(_) => Ok(0),
        Outcome::Failed { errno, .. } => Err(errno),
        Outcome::Held | Outcome::NotRun => Err(Errno::IO),
    }
}

impl Applied {
    fn wrote(written: usize) -> Self {
        Self {
            written,
            made: None,
        }
    }

    fn nothing((): ()) -> Self {
        Self::default()
    }
}

/// Runs a call again as long as a signal interrupts it.
pub(super) fn retry<T>(mut call: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match call() {
            Err(Errno::INTR | Errno::AGAIN) => {}
            done => return done,
        }
    }
}

/// Both times for `utimensat`; what is not given stays as it is.
fn timestamps(atime: Option<Time>, mtime: Option<Time>) -> Timestamps {
    let omit = Timespec {
        tv_sec: 0,
        tv_nsec: rustix::fs::UTIME_OMIT,
    };
    Timestamps {
        last_access: atime.map_or(omit, Into::into),
        last_modification: mtime.map_or(omit, Into::into),
    }
}
