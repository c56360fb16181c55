// SPDX-License-Identifier: MIT
//! `Tree`: one directory tree below a root descriptor, and the questions it answers.
//!
//! Everything is relative to a directory descriptor, one [`Name`] at a time, opened with
//! `openat2(RESOLVE_BENEATH | NO_SYMLINKS | NO_MAGICLINKS | NO_XDEV)`; there is no path string.
//! A node's descriptor is found in its place, or opened anew under one of its names and checked
//! against its identity. A check that fails may only mean that a rename is under way: then the
//! name is tried once more when none is (`names`), and only then is the node stale.

use std::ffi::{CStr, CString};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use rustix::fs::{FileType, Mode, OFlags, RawDir, ResolveFlags, SeekFrom};

use rustix::io::ReadWriteFlags;

use super::descriptor::{Access, Descriptor, Ring, Room};
use super::node::{Link, Node, ROOT_ID, Side};
use super::{Entry, Name, Source, Space, Stat};
use crate::sys::{self, Errno, Result};

/// How every name is resolved.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// `RWF_DONTCACHE` of include/uapi/linux/fs.h, which rustix does not name yet.
const RWF_DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// Names at the root that belong to mirrorfs and are not part of the mirrored tree.
pub const OWN_FILES: [&CStr; 2] = [c".mirrorfs-stamp", c".mirrorfs-stamp.new"];
/// Extended attributes of the root that belong to mirrorfs.
pub const OWN_XATTRS: [&CStr; 2] = [c"trusted.mirrorfs.stamp", c"user.mirrorfs.stamp"];

/// One directory tree.
#[derive(Debug)]
pub struct Tree {
    pub(super) side: Side,
    root: OwnedFd,
    pub(super) ring: Ring,
    /// Read-held by ops that change names; write-held to look again when none does.
    pub(super) names: RwLock<()>,
    /// Reads may ask for `RWF_DONTCACHE` (Linux 6.14; not on btrfs and tmpfs).
    keeps_nothing: AtomicBool,
}

impl Tree {
    /// A tree below `root` (an `O_PATH` or readable directory) with at most `descriptors` open.
    #[must_use]
    pub fn new(side: Side, root: OwnedFd, descriptors: usize) -> Self {
        Self {
            side,
            root,
            ring: Ring::new(side, descriptors),
            names: RwLock::new(()),
            keeps_nothing: AtomicBool::new(true),
        }
    }

    /// The root's attributes.
    pub fn root_stat(&self) -> Result<Stat> {
        Stat::of(self.root.as_fd())
    }

    /// A descriptor of `node` that allows at least `access`.
    ///
    /// # Errors
    /// `ESTALE` when no known name leads to it any more: the tree was changed behind our back.
    pub fn open(&self, node: &Arc<Node>, access: Access) -> Result<Arc<Descriptor>> {
        if let Some(open) = self.opened(node, access) {
            return Ok(open);
        }
        let fd = match self.reopen(node, access) {
            Err(Errno::STALE | Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                let _quiet = self.names.write();
                self.reopen(node, access).map_err(|errno| match errno {
                    Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Errno::STALE,
                    other => other,
                })?
            }
            other => other?,
        };
        let mut descriptor = Descriptor::new(fd, access);
        if access == Access::Write {
            let flags = rustix::fs::fcntl_getfl(&descriptor)?;
            descriptor.append_only = flags.contains(OFlags::APPEND);
        }
        Ok(self.install(node, descriptor))
    }

    /// Lets go of a writable descriptor, so that the next write is checked against what the file
    /// has become.
    pub(super) fn close_writable(&self, node: &Arc<Node>) {
        let mut place = node.place(self.side);
        if place.pin.is_some()
            || place
                .open
                .as_ref()
                .is_none_or(|o| o.access != Access::Write)
        {
            return;
        }
        let closing = place.open.take();
        drop(place);
        if let Some(open) = closing
            && let Err(errno) = rustix::fs::fsync(open.as_fd())
        {
            node.keep_sync_error(errno);
        }
    }

    /// The descriptor a node already has, if it allows `access`.
    fn opened(&self, node: &Arc<Node>, access: Access) -> Option<Arc<Descriptor>> {
        let place = node.place(self.side);
        let open = place.open.as_ref().filter(|open| open.access >= access)?;
        open.touch();
        Some(open.clone())
    }

    /// Makes `new` the node's descriptor, unless another thread was first with as good a one.
    pub(super) fn install(&self, node: &Arc<Node>, new: Descriptor) -> Arc<Descriptor> {
        let mut place = node.place(self.side);
        if let Some(open) = place.open.as_ref().filter(|open| open.access >= new.access) {
            return open.clone();
        }
        let fresh = Arc::new(new);
        let replaced = place.open.replace(fresh.clone());
        let in_ring = replaced.is_some() || place.pin.is_some();
        drop(place);
        drop(replaced);
        if !in_ring && self.ring.insert(node) == Room::NeedsSync {
            self.sync_for_room();
        }
        fresh
    }

    /// All descriptors carry unsynced writes: makes everything durable at once, so that they may
    /// be closed without losing the error that a failed writeback would report.
    fn sync_for_room(&self) {
        if let Err(errno) = self
            .ring
            .sync_once(|| rustix::fs::syncfs(self.root.as_fd()))
        {
            for node in self.ring.nodes() {
                node.keep_sync_error(errno);
            }
        }
        // What is still too much after a sync is in use this very moment: over the limit for now.
        let _ = self.ring.make_room();
    }

    /// Opens `node` anew: through the descriptor it has, else under one of its names.
    fn reopen(&self, node: &Arc<Node>, access: Access) -> Result<OwnedFd> {
        if node.id == ROOT_ID {
            return open_beneath(self.root.as_fd(), c".", flags_for(node.kind, access)?);
        }
        let (links, pinned) = {
            let place = node.place(self.side);
            (
                place.links.clone(),
                place.pin.is_some().then(|| place.open.clone()).flatten(),
            )
        };
        if let Some(open) = pinned {
            // No name is left. The magic link leads to this very object, wherever it is.
            let path = format!("/proc/self/fd/{}", open.as_fd().as_raw_fd());
            let flags = flags_for(node.kind, access)? & !OFlags::NOFOLLOW;
            return rustix::fs::open(path, flags, Mode::empty());
        }
        let mut last = Errno::STALE;
        for Link { parent, name } in &links {
            let dir = self.dir(parent)?;
            match self.open_child(dir.as_fd(), name.as_c_str(), node, access) {
                Ok(fd) => return Ok(fd),
                Err(errno) => last = errno,
            }
        }
        Err(last)
    }

    /// A directory's descriptor for names relative to it. Climbs to the nearest ancestor that has
    /// one and comes down again, without recursion: trees are deeper than stacks.
    pub fn dir(&self, node: &Arc<Node>) -> Result<Arc<Descriptor>> {
        let mut missing = Vec::new();
        let mut here = node.clone();
        let mut open = loop {
            if let Some(open) = self.opened(&here, Access::Path) {
                break open;
            }
            if here.id == ROOT_ID {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let fd = open_beneath(self.root.as_fd(), c".", flags)?;
                break self.install(&here, Descriptor::new(fd, Access::Path));
            }
            let link = here
                .place(self.side)
                .links
                .first()
                .cloned()
                .ok_or(Errno::STALE)?;
            missing.push((here, link.name));
            here = link.parent;
        };
        while let Some((child, name)) = missing.pop() {
            let fd = self.open_child(open.as_fd(), name.as_c_str(), &child, Access::Path)?;
            open = self.install(&child, Descriptor::new(fd, Access::Path));
        }
        Ok(open)
    }

    /// Opens `name` in `dir` and makes sure that it is `node`.
    fn open_child(
        &self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        node: &Node,
        access: Access,
    ) -> Result<OwnedFd> {
        let flags = flags_for(node.kind, access)?;
        let fd = match open_beneath(dir, name, flags) {
            // An append-only file (chattr +a) opens for appending only.
            Err(Errno::PERM) if access == Access::Write => open_beneath(
                dir,
                name,
                OFlags::WRONLY | OFlags::APPEND | flags & !OFlags::RDWR,
            )?,
            other => other?,
        };
        self.verify(node, &Stat::of(fd.as_fd())?)?;
        Ok(fd)
    }

    /// Whether `stat` is of `node`, on this side. The first sight of a replica's object, under a
    /// name that it shares with its twin, settles who it is.
    fn verify(&self, node: &Node, stat: &Stat) -> Result<()> {
        if stat.kind() != node.kind {
            return Err(Errno::STALE);
        }
        let mut place = node.place(self.side);
        match place.ident {
            Some(ident) if ident != stat.ident => Err(Errno::STALE),
            Some(_) => Ok(()),
            None => {
                place.ident = Some(stat.ident);
                Ok(())
            }
        }
    }

    /// Whether `name` at the root belongs to mirrorfs itself.
    pub(super) fn is_own_file(parent: &Node, name: &CStr) -> bool {
        parent.id == ROOT_ID && OWN_FILES.contains(&name)
    }

    fn is_own_xattr(node: &Node, name: &CStr) -> bool {
        node.id == ROOT_ID && OWN_XATTRS.contains(&name)
    }

    /// `EPERM` for an extended attribute of the root that belongs to mirrorfs itself.
    pub(super) fn refuse_own_xattr(node: &Node, name: &CStr) -> Result<()> {
        if Self::is_own_xattr(node, name) {
            Err(Errno::PERM)
        } else {
            Ok(())
        }
    }

    /// `EPERM` for a name at the root that belongs to mirrorfs itself.
    pub(super) fn refuse_own_file(parent: &Node, name: &Name) -> Result<()> {
        if Self::is_own_file(parent, name.as_c_str()) {
            Err(Errno::PERM)
        } else {
            Ok(())
        }
    }

    pub(super) fn measure(&self) -> Result<Space> {
        let fs = rustix::fs::fstatvfs(self.root.as_fd())?;
        Ok(Space {
            blocks: [fs.f_blocks, fs.f_bfree, fs.f_bavail],
            inodes: [fs.f_files, fs.f_ffree],
            io_bytes: u32::try_from(fs.f_bsize).unwrap_or(4096),
            block_bytes: u32::try_from(fs.f_frsize).unwrap_or(4096),
            name_max: u32::try_from(fs.f_namemax).unwrap_or(255),
        })
    }
}

/// `openat2` of one name, never out of `dir`, never through a link.
pub(super) fn open_beneath(dir: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd> {
    loop {
        match rustix::fs::openat2(dir, name, flags, Mode::empty(), BENEATH) {
            // A rename somewhere else made the walk uncertain (openat2(2), ERRORS).
            Err(Errno::AGAIN) => {}
            done => return done,
        }
    }
}

/// The flags that open an object of this kind for `access`.
fn flags_for(kind: FileType, access: Access) -> Result<OFlags> {
    let base = OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(match (kind, access) {
        (FileType::Directory, Access::Path) => base | OFlags::PATH | OFlags::DIRECTORY,
        (_, Access::Path) => base | OFlags::PATH,
        (FileType::Directory, Access::Read) => base | OFlags::RDONLY | OFlags::DIRECTORY,
        (FileType::Directory, Access::Write) => return Err(Errno::ISDIR),
        (FileType::RegularFile, Access::Read) => base | OFlags::RDONLY,
        (FileType::RegularFile, Access::Write) => base | OFlags::RDWR,
        // Opening a fifo or a device would do something.
        _ => return Err(Errno::OPNOTSUPP),
    })
}

impl Source for Tree {
    fn lookup(&self, parent: &Arc<Node>, name: &Name) -> Result<Stat> {
        if Self::is_own_file(parent, name.as_c_str()) {
            return Err(Errno::NOENT);
        }
        let dir = self.dir_again(parent)?;
        let stat = Stat::of_name(dir.as_fd(), name.as_c_str())?;
        let parent_dev = parent.place(self.side).ident.map(|ident| ident.dev);
        if parent_dev != Some(stat.ident.dev) {
            // Another device: a btrfs subvolume belongs to the tree, something mounted does not.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            open_beneath(dir.as_fd(), name.as_c_str(), flags)?;
        }
        Ok(stat)
    }

    fn stat(&self, node: &Arc<Node>) -> Result<Stat> {
        Stat::of(self.open(node, Access::Path)?.as_fd())
    }

    fn read_link(&self, node: &Arc<Node>) -> Result<Vec<u8>> {
        let link = self.open(node, Access::Path)?;
        rustix::fs::readlinkat(link.as_fd(), c"", Vec::new()).map(CString::into_bytes)
    }

    fn read(&self, node: &Arc<Node>, buf: &mut [u8], offset: u64) -> Result<usize> {
        let file = self.open(node, Access::Read)?;
        let mut done = 0;
        while done < buf.len() {
            match self.read_once(file.as_fd(), &mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    }

    fn read_dir(
        &self,
        node: &Arc<Node>,
        cookie: u64,
        room: usize,
        take: &mut dyn FnMut(&Entry<'_>) -> bool,
    ) -> Result<()> {
        let dir = self.open(node, Access::Read)?;
        // One descriptor, one position: readers of the same directory take turns.
        let position = dir.position();
        rustix::fs::seek(dir.as_fd(), SeekFrom::Start(cookie))?;
        let mut space = [MaybeUninit::<u8>::uninit(); 32 * 1024];
        // Names arrive in about the size they leave in; what does not fit is read again.
        let used = room.clamp(2048, space.len());
        let mut entries = RawDir::new(dir.as_fd(), &mut space[..used]);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            if Self::is_own_file(node, entry.file_name()) {
                continue;
            }
            let entry = Entry {
                ino: entry.ino(),
                next: entry.next_entry_cookie(),
                kind: entry.file_type(),
                name: entry.file_name(),
            };
            if !take(&entry) {
                break;
            }
        }
        drop(position);
        Ok(())
    }

    fn get_xattr(&self, node: &Arc<Node>, name: &CStr, buf: &mut [u8]) -> Result<usize> {
        if Self::is_own_xattr(node, name) {
            return Err(Errno::NODATA);
        }
        sys::at::get_xattr(self.object(node)?.as_fd(), name, buf)
    }

    fn list_xattr(&self, node: &Arc<Node>) -> Result<Vec<CString>> {
        let mut names = sys::at::xattr_names(self.object(node)?.as_fd())?;
        names.retain(|name| !Self::is_own_xattr(node, name));
        Ok(names)
    }

    fn seek(&self, node: &Arc<Node>, offset: u64, hole: bool) -> Result<u64> {
        let file = self.open(node, Access::Read)?;
        let offset = if hole {
            SeekFrom::Hole(offset)
        } else {
            SeekFrom::Data(offset)
        };
        rustix::fs::seek(file.as_fd(), offset)
    }

    fn flags(&self, node: &Arc<Node>) -> Result<u32> {
        sys::at::get_flags(self.open(node, Access::Read)?.as_fd())
    }

    fn extended_flags(&self, node: &Arc<Node>) -> Result<sys::at::ExtendedFlags> {
        sys::at::get_extended_flags(self.open(node, Access::Read)?.as_fd())
    }

    fn space(&self) -> Result<Space> {
        self.measure()
    }
}

impl Tree {
    /// A descriptor for extended attributes, whose calls work best on one that is really open.
    pub(super) fn object(&self, node: &Arc<Node>) -> Result<Arc<Descriptor>> {
        match node.kind {
            FileType::RegularFile | FileType::Directory => self
                .open(node, Access::Read)
                .or_else(|_| self.open(node, Access::Path)),
            _ => self.open(node, Access::Path),
        }
    }

    /// One read that leaves no pages behind, where the file system can do that.
    ///
    /// The kernel keeps what it reads through the mount in the mount's own page cache; a second
    /// copy below would be memory for nothing. And pages over a preallocated range would make
    /// `SEEK_DATA` call it data on this copy only.
    fn read_once(&self, file: BorrowedFd<'_>, buf: &mut [u8], offset: u64) -> Result<usize> {
        if self.keeps_nothing.load(Ordering::Relaxed) {
            let parts = &mut [IoSliceMut::new(buf)];
            match rustix::io::preadv2(file, parts, offset, RWF_DONTCACHE) {
                Err(Errno::OPNOTSUPP) => self.keeps_nothing.store(false, Ordering::Relaxed),
                done => return done,
            }
        }
        rustix::io::pread(file, buf, offset)
    }

    /// As [`Self::dir`], looking again when a rename may have been in the way.
    pub(super) fn dir_again(&self, node: &Arc<Node>) -> Result<Arc<Descriptor>> {
        self.open(node, Access::Path)
    }
}
