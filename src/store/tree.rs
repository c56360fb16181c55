// SPDX-License-Identifier: MIT
//! `Tree`: one directory tree below a root descriptor, and the questions it answers.
//!
//! How a node's object is reached is in `reach.rs`; changing it, in `target.rs`.

use std::ffi::{CStr, CString};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use parking_lot::RwLock;
use rustix::fs::{OFlags, RawDir, SeekFrom, StatVfsMountFlags};

use rustix::io::ReadWriteFlags;

use super::cache::Atime;
use super::descriptor::{Access, Ring};
use super::node::{Node, Side};
use super::nodes::ROOT_ID;
use super::{Entry, Name, Source, Space, Stat};
use crate::sys::{self, Errno, Result};
use crate::uring::{Count, Engine};

/// `RWF_DONTCACHE` of include/uapi/linux/fs.h, which rustix does not name yet.
const RWF_DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// The stamp as an extended attribute of the root: root's, and an ordinary user's.
pub const OWN_XATTRS: [&CStr; 2] = [c"trusted.mirrorfs.stamp", c"user.mirrorfs.stamp"];
/// The stamp as a file at the root, and its next version: no part of the mirrored tree.
pub const OWN_FILES: [&CStr; 2] = [c".mirrorfs-stamp", c".mirrorfs-stamp.new"];

/// One directory tree.
#[derive(Debug)]
pub struct Tree {
    pub(super) side: Side,
    pub(super) root: OwnedFd,
    pub(super) ring: Ring,
    /// Read-held by ops that change names; write-held to look again when none does.
    pub(super) names: RwLock<()>,
    /// Reads may ask for `RWF_DONTCACHE` (Linux 6.14; not on btrfs and tmpfs).
    keeps_nothing: AtomicBool,
    /// Large writes that nobody waits for may go past the page cache.
    past_cache: AtomicBool,
    /// A sync of this tree failed behind the back of any op: the errno, or 0.
    fault: AtomicI32,
    /// How to write beside other work, if that can be done at all.
    pub(super) engine: Option<Arc<Engine>>,
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
            past_cache: AtomicBool::new(false),
            fault: AtomicI32::new(0),
            engine: None,
        }
    }

    /// The same tree, with a way to do two things at once.
    #[must_use]
    pub fn with_engine(mut self, engine: Arc<Engine>) -> Self {
        self.engine = Some(engine);
        self
    }

    /// The same tree, whose large writes go past the page cache where that can be: `files` at a
    /// time, each of which takes one more descriptor.
    #[must_use]
    pub fn past_cache(mut self, files: usize) -> Self {
        self.past_cache.store(true, Ordering::Relaxed);
        self.ring.allow_doubles(files);
        self
    }

    pub(super) fn goes_past_cache(&self) -> bool {
        self.past_cache.load(Ordering::Relaxed)
    }

    /// This file system cannot be written past the page cache: nobody tries again.
    pub(super) fn stay_in_cache(&self) {
        let first = self.past_cache.swap(false, Ordering::Relaxed);
        if let Some(engine) = self.engine.as_ref().filter(|_| first) {
            engine.counters().count(Count::CacheOnly);
        }
    }

    /// Remembers that a sync failed which no op waits for.
    pub(super) fn note_fault(&self, errno: Errno) {
        self.fault.store(errno.raw_os_error(), Ordering::Release);
    }

    /// The error of a sync that failed which no op waited for; told once.
    pub(super) fn taken_fault(&self) -> Option<Errno> {
        if self.fault.load(Ordering::Acquire) == 0 {
            return None;
        }
        let raw = self.fault.swap(0, Ordering::AcqRel);
        (raw != 0).then(|| Errno::from_raw_os_error(raw))
    }

    /// The root's attributes.
    pub fn root_stat(&self) -> Result<Stat> {
        Stat::of(self.root.as_fd())
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

    /// When reading changes an access time, by the options this tree is mounted with now.
    #[must_use]
    pub fn atime(&self) -> Atime {
        match rustix::fs::fstatvfs(self.root.as_fd()).map(|fs| fs.f_flag) {
            Ok(flags) if flags.contains(StatVfsMountFlags::NOATIME) => Atime::Never,
            Ok(flags) if flags.contains(StatVfsMountFlags::RELATIME) => Atime::Relative,
            _ => Atime::Always,
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

impl Source for Tree {
    fn lookup(&self, parent: &Arc<Node>, name: &Name) -> Result<Stat> {
        if Self::is_own_file(parent, name.as_c_str()) {
            return Err(Errno::NOENT);
        }
        let dir = self.open(parent, Access::Path)?;
        let stat = Stat::of_name(dir.as_fd(), name.as_c_str())?;
        let parent_dev = parent.place(self.side).ident().map(|ident| ident.dev);
        if parent_dev != Some(stat.ident.dev) {
            // Another device: a btrfs subvolume belongs to the tree, something mounted does not.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            super::reach::open_beneath(dir.as_fd(), name.as_c_str(), flags)?;
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

    fn handle(&self, node: &Arc<Node>) -> Box<[u8]> {
        let object = self.open(node, Access::Path);
        object.map_or_else(
            |_| Box::default(),
            |object| sys::at::file_handle(object.as_fd()),
        )
    }
}

impl Tree {
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
}
