// SPDX-License-Identifier: MIT
//! FLOOR 4: the kernel's questions.
//!
//! [`MirrorFs`] is the thin wire: one short method per request, which turns fuser's words into
//! ours, asks the room that knows, and turns the answer back. fuser's types end here. It holds a
//! [`Source`], which cannot write, and the [`Mirror`], the one door for changes.
//!
//! OPEN, OPENDIR, FLUSH and their releases are answered ENOSYS once, and never come again
//! (decision 1): descriptors belong to nodes.

mod dir;
mod entry;
mod file;
mod forgets;
mod kernel;
mod node;
mod reply;
mod wire;
mod xattr;

use std::cell::RefCell;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::metrics::{Pending, Request as Asked, Requests};
use crate::mirror::Mirror;
use crate::store::{Name, Node, Nodes, Source, Stat};
use crate::sys::Result;
use crate::sys::creds::{Caller, Needs};
use forgets::Forgets;
pub use kernel::Kernel;
pub use reply::Caching;
use reply::{attributes, errno, kind};
pub use wire::{Incoming, Late};

/// Largest write or read in one request, in bytes: what `max_pages_limit` allows by default.
pub const MAX_IO: u32 = 1 << 20;

thread_local! {
    /// Where a worker reads into before it answers.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The file system that the kernel talks to. Cheap to clone: each transport has one.
#[derive(Clone)]
pub struct MirrorFs {
    source: Arc<dyn Source>,
    mirror: Arc<Mirror>,
    nodes: Arc<Nodes>,
    caching: Caching,
    kernel: Kernel,
    requests: Arc<Requests>,
    forgets: Arc<Forgets>,
}

impl std::fmt::Debug for MirrorFs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MirrorFs")
            .field("nodes", &self.nodes.len())
            .finish_non_exhaustive()
    }
}

impl MirrorFs {
    /// A file system that reads from `source` and changes things through `mirror`.
    #[must_use]
    pub fn new(
        source: Arc<dyn Source>,
        mirror: Arc<Mirror>,
        nodes: Arc<Nodes>,
        caching: Caching,
    ) -> Self {
        Self {
            source,
            mirror,
            nodes,
            caching,
            kernel: Kernel::default(),
            requests: Arc::default(),
            forgets: Arc::default(),
        }
    }

    /// What the kernel has asked so far, for whoever shows it.
    #[must_use]
    pub fn requests(&self) -> Arc<Requests> {
        self.requests.clone()
    }

    /// For the session to connect, before it gives the file system away.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.kernel.clone()
    }

    fn node(&self, ino: INodeNo) -> Result<Arc<Node>> {
        self.nodes.get(ino.0)
    }

    /// Answers with an entry, once it is known.
    fn entry(&self, reply: ReplyEntry) -> impl Then<(Arc<Node>, Stat)> + use<> {
        let keep = self.caching;
        move |found| match found {
            Ok((node, stat)) => {
                let attr = attributes(node.id, &stat);
                reply.entry(&keep.ttl(), &attr, keep.generation(&stat));
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    /// Answers with attributes, once they are known.
    fn attr(&self, reply: ReplyAttr) -> impl Then<(u64, Stat)> + use<> {
        let ttl = self.caching.ttl();
        move |found| match found {
            Ok((id, stat)) => reply.attr(&ttl, &attributes(id, &stat)),
            Err(error) => reply.error(errno(error)),
        }
    }

    /// Counts a request and takes its time, until what this returns goes away.
    fn asked(&self, what: Asked) -> Pending {
        self.requests.begin(what)
    }
}

/// Whom to tell how a request went, once that is known: not always by the thread that began it.
trait Then<T>: FnOnce(Result<T>) + Send + 'static {}

impl<T, F: FnOnce(Result<T>) + Send + 'static> Then<T> for F {}

/// Who asks.
fn caller(req: &Request) -> Caller {
    Caller {
        uid: req.uid(),
        gid: req.gid(),
        pid: req.pid(),
    }
}

/// Credentials for an op that creates nothing and leaves set-id bits alone.
fn plain(req: &Request) -> Needs {
    entry::changing(caller(req))
}

/// Credentials for an op that creates.
fn creating(req: &Request, umask: u32) -> Needs {
    entry::creating(caller(req), umask)
}

/// The same, and the time of the request ends with its answer.
fn timed<T>(asked: Pending, then: impl Then<T>) -> impl Then<T> {
    move |done| {
        then(done);
        drop(asked);
    }
}

fn empty(reply: ReplyEmpty) -> impl Then<()> {
    move |done| match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

fn written(reply: ReplyWrite) -> impl Then<usize> {
    move |done| match done {
        Ok(bytes) => reply.written(u32::try_from(bytes).unwrap_or(u32::MAX)),
        Err(error) => reply.error(errno(error)),
    }
}

fn answer_data(reply: ReplyData, done: Result<Vec<u8>>) {
    match done {
        Ok(data) => reply.data(&data),
        Err(error) => reply.error(errno(error)),
    }
}

impl fuser::Filesystem for MirrorFs {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Asked for one by one: what this kernel lacks it does without.
        for wanted in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS | InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_HAS_IOCTL_DIR,
            InitFlags::FUSE_NO_OPEN_SUPPORT,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
            // The umask counts only where there is no default ACL: each copy decides (decision 7).
            InitFlags::FUSE_POSIX_ACL | InitFlags::FUSE_DONT_MASK,
            // Without it every cached write asks for security.capability first.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ] {
            if config.add_capabilities(wanted).is_err() {
                tracing::debug!("this kernel has no {wanted:?}");
            }
        }
        // What the session promised hangs on these.
        let needed = match self.caching {
            // A time or size that changed takes the cached content with it, of directories too.
            Caching {
                shared_primary: true,
                ..
            } => InitFlags::FUSE_AUTO_INVAL_DATA,
            Caching {
                writeback: true, ..
            } => InitFlags::FUSE_CACHE_SYMLINKS | InitFlags::FUSE_WRITEBACK_CACHE,
            _ => InitFlags::FUSE_CACHE_SYMLINKS,
        };
        if config.add_capabilities(needed).is_err() {
            let why = format!("this kernel has no {needed:?}");
            return Err(std::io::Error::new(std::io::ErrorKind::Unsupported, why));
        }
        // Both answer with the nearest value they take; a smaller one is as good.
        if let Err(nearest) = config.set_max_write(MAX_IO) {
            let _ = config.set_max_write(nearest);
        }
        if let Err(nearest) = config.set_max_readahead(MAX_IO) {
            let _ = config.set_max_readahead(nearest);
        }
        let _ = config.set_max_background(64);
        if self.kernel.wants_rings() {
            let agreed = config.add_capabilities(InitFlags::FUSE_OVER_IO_URING);
            self.kernel.agree_on_rings(agreed.is_ok());
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _asked = self.asked(Asked::Lookup);
        match self.look_up_or_nothing(parent, name) {
            Ok(None) => reply.entry(&self.caching.ttl(), &node::nothing(), Generation(0)),
            Ok(Some(found)) => self.entry(reply)(Ok(found)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, nlookup: u64) {
        self.requests.count(Asked::Forget);
        let forgets = self.forgets.clone();
        self.mirror
            .forget_then(ino.0, nlookup, move || forgets.one_more());
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let _asked = self.asked(Asked::Getattr);
        self.attr(reply)(self.get_attributes(ino));
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let asked = self.asked(Asked::Setattr);
        let change = node::Change {
            mode,
            uid,
            gid,
            size,
            times: node::resolve(atime, mtime),
        };
        self.set_attributes(caller(req), ino, change, timed(asked, self.attr(reply)));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let _asked = self.asked(Asked::Readlink);
        answer_data(reply, self.read_target(ino));
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let asked = self.asked(Asked::Mknod);
        let needs = creating(req, umask);
        self.make_node(
            needs,
            parent,
            name,
            (mode, rdev),
            timed(asked, self.entry(reply)),
        );
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let asked = self.asked(Asked::Mkdir);
        let needs = creating(req, umask);
        self.make_dir(needs, parent, name, mode, timed(asked, self.entry(reply)));
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let asked = self.asked(Asked::Unlink);
        self.remove(plain(req), parent, name, false, timed(asked, empty(reply)));
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let asked = self.asked(Asked::Rmdir);
        self.remove(plain(req), parent, name, true, timed(asked, empty(reply)));
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let asked = self.asked(Asked::Symlink);
        let then = timed(asked, self.entry(reply));
        self.make_symlink(plain(req), parent, name, target.as_os_str(), then);
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let asked = self.asked(Asked::Rename);
        let (from, to) = ((parent, name), (newparent, newname));
        self.rename_entry(plain(req), from, to, flags, timed(asked, empty(reply)));
    }

    fn link(
        &self,
        req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let asked = self.asked(Asked::Link);
        self.link_node(
            plain(req),
            ino,
            newparent,
            newname,
            timed(asked, self.entry(reply)),
        );
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let _asked = self.asked(Asked::Open);
        reply.error(fuser::Errno::ENOSYS);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let _asked = self.asked(Asked::Read);
        BUFFER.with_borrow_mut(|buffer| {
            let size = size as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            match self.read_file(ino, offset, &mut buffer[..size]) {
                Ok(bytes) => reply.data(&buffer[..bytes]),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let asked = self.asked(Asked::Write);
        let write = file::Write {
            offset,
            data,
            kill: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
            delayed: write_flags.contains(WriteFlags::FUSE_WRITE_CACHE),
            open_flags: flags.0,
        };
        self.write_file(plain(req), ino, write, timed(asked, written(reply)));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        let _asked = self.asked(Asked::Flush);
        reply.error(fuser::Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, data: bool, reply: ReplyEmpty) {
        let asked = self.asked(Asked::Fsync);
        self.sync_node(ino, data, timed(asked, empty(reply)));
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let _asked = self.asked(Asked::Opendir);
        reply.error(fuser::Errno::ENOSYS);
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let _asked = self.asked(Asked::Readdir);
        let listed = self.list(ino, offset, &mut |entry| {
            !reply.add(INodeNo(entry.ino), entry.next, kind(entry.kind), entry.name)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let _asked = self.asked(Asked::Readdirplus);
        let keep = self.caching;
        let listed = self.list_with_attributes(ino, offset, &mut |entry, stat| {
            let (attr, generation) = match stat {
                Some(stat) => (attributes(entry.ino, stat), keep.generation(stat)),
                None => (node::bare(entry.ino, entry.kind), Generation(0)),
            };
            let name = entry.name;
            !reply.add(attr.ino, entry.next, name, &keep.ttl(), &attr, generation)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, data: bool, reply: ReplyEmpty) {
        let asked = self.asked(Asked::Fsyncdir);
        self.sync_node(ino, data, timed(asked, empty(reply)));
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let _asked = self.asked(Asked::Statfs);
        match self.mirror.space() {
            Ok(space) => {
                let ([all, free, available], [files, files_free]) = (space.blocks, space.inodes);
                let (io, name_max, block) = (space.io_bytes, space.name_max, space.block_bytes);
                reply.statfs(all, free, available, files, files_free, io, name_max, block);
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let asked = self.asked(Asked::Setxattr);
        self.set_xattr(
            caller(req),
            ino,
            name,
            (value, flags),
            timed(asked, empty(reply)),
        );
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let _asked = self.asked(Asked::Getxattr);
        xattr::answer(reply, self.get_xattr(ino, name, size));
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let _asked = self.asked(Asked::Listxattr);
        xattr::answer(reply, self.list_xattr(caller(req), ino, size));
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let asked = self.asked(Asked::Removexattr);
        self.remove_xattr(plain(req), ino, name, timed(asked, empty(reply)));
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let asked = self.asked(Asked::Create);
        let needs = creating(req, umask);
        let keep = self.caching;
        let how = if self.is_direct(flags) {
            FopenFlags::FOPEN_DIRECT_IO
        } else {
            FopenFlags::empty()
        };
        let then = move |made: Result<(Arc<Node>, Stat)>| match made {
            Ok((node, stat)) => {
                let attr = attributes(node.id, &stat);
                // A handle without meaning: once OPEN is answered ENOSYS no RELEASE comes for it.
                let (ttl, generation) = (keep.ttl(), keep.generation(&stat));
                reply.created(&ttl, &attr, generation, FileHandle(0), how);
            }
            Err(error) => reply.error(errno(error)),
        };
        self.create_file(needs, parent, name, (mode, flags), timed(asked, then));
    }

    fn ioctl(
        &self,
        req: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        let asked = self.asked(Asked::Ioctl);
        let then = |told: Result<Vec<u8>>| match told {
            Ok(data) => reply.ioctl(0, &data),
            Err(error) => reply.error(errno(error)),
        };
        self.control(plain(req), ino, cmd, in_data, timed(asked, then));
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let asked = self.asked(Asked::Fallocate);
        self.allocate(
            plain(req),
            ino,
            (offset, length),
            mode,
            timed(asked, empty(reply)),
        );
    }

    fn lseek(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let _asked = self.asked(Asked::Lseek);
        match self.seek(ino, offset, whence) {
            Ok(offset) => reply.offset(offset),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        _: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _: FileHandle,
        offset_out: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let asked = self.asked(Asked::CopyFileRange);
        let (from, to) = ((ino_in, offset_in), (ino_out, offset_out));
        self.copy_range(plain(req), from, to, len, timed(asked, written(reply)));
    }
}

/// One component from the wire.
fn name(bytes: &OsStr) -> Result<Name> {
    Name::new(bytes)
}
