// SPDX-License-Identifier: MIT
//! A file system like sshfs: it shows a directory by the paths of what is in it, with inode numbers of its
//! own, and what is set of a symlink is set on what that points to. No extended attributes, no hard
//! links.

use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{Error, Result};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, Mode, Timespec, Timestamps};

/// Nothing is remembered: what is seen is what is there.
const TTL: Duration = Duration::ZERO;

/// Shown as long as the value lives.
#[derive(Debug)]
pub(crate) struct Far {
    /// Takes no new symlink, and says so in the words of sshfs for a full disk.
    pub(crate) is_full: Arc<AtomicBool>,
    /// Unmounts it when it is dropped, before the directory goes.
    _session: BackgroundSession,
    dir: tempfile::TempDir,
}

impl Far {
    pub(crate) fn new() -> Self {
        let dir = super::temp_in(&super::base());
        for name in ["end", "fs"] {
            std::fs::create_dir(dir.path().join(name)).expect("mkdir");
        }
        let is_full = Arc::new(AtomicBool::new(false));
        let paths = Mutex::new(vec![Some(dir.path().join("end"))]);
        let shown = Shown(paths, is_full.clone());
        let mut config = Config::default();
        config.mount_options = vec![fuser::MountOption::FSName("far".to_owned())];
        let session = fuser::spawn_mount(shown, dir.path().join("fs"), &config);
        Self {
            is_full,
            _session: session.expect("mounted"),
            dir,
        }
    }

    /// Where its files are seen.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("fs")
    }

    /// Where nothing of it is: for files that it has no business with.
    pub(crate) fn outside(&self) -> &Path {
        self.dir.path()
    }
}

/// The path of each inode, its number less one being the place; whether it is full.
struct Shown(Mutex<Vec<Option<PathBuf>>>, Arc<AtomicBool>);

impl Shown {
    fn path(&self, inode: INodeNo) -> Result<PathBuf> {
        let known = self.0.lock();
        let path = known.get(inode.0 as usize - 1).cloned().flatten();
        path.ok_or_else(|| Error::from_raw_os_error(libc::ENOENT))
    }

    fn below(&self, parent: INodeNo, name: &OsStr) -> Result<PathBuf> {
        Ok(self.path(parent)?.join(name))
    }

    fn attributes(&self, path: &Path) -> Result<FileAttr> {
        let stat = std::fs::symlink_metadata(path)?;
        let mut known = self.0.lock();
        let place = known
            .iter()
            .position(|known| known.as_deref() == Some(path));
        let place = place.unwrap_or_else(|| {
            known.push(Some(path.to_owned()));
            known.len() - 1
        });
        Ok(attributes(place as u64 + 1, &stat))
    }

    /// What was at `from` is at `to` now, or nowhere.
    fn moved(&self, from: &Path, to: Option<&Path>) {
        for known in self.0.lock().iter_mut() {
            let path = known.as_deref();
            if let Some(rest) = path.and_then(|path| path.strip_prefix(from).ok()) {
                let rest = rest.to_owned();
                *known = to.map(|to| to.components().chain(rest.components()).collect());
            } else if to.is_some_and(|to| path == Some(to)) {
                *known = None;
            }
        }
    }

    /// Makes a name, and says what it is.
    fn make(
        &self,
        (parent, name): (INodeNo, &OsStr),
        reply: ReplyEntry,
        make: impl FnOnce(&Path) -> Result<()>,
    ) {
        let made = self.below(parent, name).and_then(|path| {
            make(&path)?;
            self.attributes(&path)
        });
        match made {
            Ok(found) => reply.entry(&TTL, &found, Generation(0)),
            Err(error) => reply.error(error.into()),
        }
    }

    fn remove(
        &self,
        (parent, name): (INodeNo, &OsStr),
        reply: ReplyEmpty,
        remove: impl FnOnce(&Path) -> Result<()>,
    ) {
        let removed = self.below(parent, name).and_then(|path| {
            remove(&path)?;
            self.moved(&path, None);
            Ok(())
        });
        ended(removed, reply);
    }

    fn file(&self, inode: INodeNo, writing: bool) -> Result<File> {
        let path = self.path(inode)?;
        OpenOptions::new().read(!writing).write(writing).open(path)
    }
}

fn shown(found: Result<FileAttr>, reply: ReplyAttr) {
    match found {
        Ok(found) => reply.attr(&TTL, &found),
        Err(error) => reply.error(error.into()),
    }
}

fn ended(done: Result<()>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error.into()),
    }
}

fn attributes(inode: u64, stat: &Metadata) -> FileAttr {
    let time = |seconds: i64, nanos: i64| {
        SystemTime::UNIX_EPOCH + Duration::new(seconds.unsigned_abs(), nanos as u32)
    };
    FileAttr {
        ino: INodeNo(inode),
        size: stat.size(),
        blocks: stat.blocks(),
        atime: time(stat.atime(), stat.atime_nsec()),
        mtime: time(stat.mtime(), stat.mtime_nsec()),
        ctime: time(stat.ctime(), stat.ctime_nsec()),
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::from_std(stat.file_type()).expect("a type"),
        perm: (stat.mode() & 0o7777) as u16,
        nlink: stat.nlink() as u32,
        uid: stat.uid(),
        gid: stat.gid(),
        rdev: stat.rdev() as u32,
        blksize: 4096,
        flags: 0,
    }
}

fn time(wanted: Option<TimeOrNow>) -> Timespec {
    let special = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    match wanted {
        None => special(rustix::fs::UTIME_OMIT),
        Some(TimeOrNow::Now) => special(rustix::fs::UTIME_NOW),
        Some(TimeOrNow::SpecificTime(time)) => {
            let since = time.duration_since(SystemTime::UNIX_EPOCH);
            let since = since.expect("after 1970");
            Timespec {
                tv_sec: since.as_secs() as i64,
                tv_nsec: since.subsec_nanos().into(),
            }
        }
    }
}

impl Filesystem for Shown {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.make((parent, name), reply, |_| Ok(()));
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        shown(
            self.path(inode).and_then(|path| self.attributes(&path)),
            reply,
        );
    }

    /// Each of these calls follows a symlink.
    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = self.path(inode).and_then(|path| {
            if uid.is_some() || gid.is_some() {
                chown(&path, uid, gid)?;
            }
            if let Some(mode) = mode {
                std::fs::set_permissions(&path, PermissionsExt::from_mode(mode & 0o7777))?;
            }
            if let Some(size) = size {
                self.file(inode, true)?.set_len(size)?;
            }
            if atime.is_some() || mtime.is_some() {
                let times = Timestamps {
                    last_access: time(atime),
                    last_modification: time(mtime),
                };
                rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty())?;
            }
            self.attributes(&path)
        });
        shown(set, reply);
    }

    fn readlink(&self, _: &Request, inode: INodeNo, reply: ReplyData) {
        match self.path(inode).and_then(std::fs::read_link) {
            Ok(target) => reply.data(target.as_os_str().as_bytes()),
            Err(error) => reply.error(error.into()),
        }
    }

    fn mknod(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        self.make((parent, name), reply, |path| {
            let kind = rustix::fs::FileType::from_raw_mode(mode);
            rustix::fs::mknodat(CWD, path, kind, Mode::RUSR, rdev.into())?;
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode & 0o7777))
        });
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        self.make((parent, name), reply, |path| {
            std::fs::create_dir(path)?;
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode & 0o7777))
        });
    }

    fn symlink(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        if self.1.load(Ordering::Relaxed) {
            return reply.error(fuser::Errno::EPERM);
        }
        self.make((parent, name), reply, |path| symlink(target, path));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove((parent, name), reply, |path| std::fs::remove_file(path));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove((parent, name), reply, |path| std::fs::remove_dir(path));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renamed = self.below(parent, name).and_then(|from| {
            let to = self.below(new_parent, new_name)?;
            if !flags.is_empty() {
                return Err(Error::from_raw_os_error(libc::EINVAL));
            }
            std::fs::rename(&from, &to)?;
            self.moved(&from, Some(&to));
            Ok(())
        });
        ended(renamed, reply);
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut bytes = vec![0; size as usize];
        let file = self.file(inode, false);
        match file.and_then(|file| file.read_at(&mut bytes, offset)) {
            Ok(length) => reply.data(&bytes[..length]),
            Err(error) => reply.error(error.into()),
        }
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let file = self.file(inode, true);
        match file.and_then(|file| file.write_at(data, offset)) {
            Ok(length) => reply.written(length as u32),
            Err(error) => reply.error(error.into()),
        }
    }

    fn readdir(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.path(inode).and_then(std::fs::read_dir);
        let entries = match listed.and_then(Iterator::collect::<Result<Vec<_>>>) {
            Ok(entries) => entries,
            Err(error) => return reply.error(error.into()),
        };
        let dots = [".", ".."].map(|name| (name.into(), FileType::Directory));
        let names = entries.iter().map(|entry| {
            let kind = entry.file_type().ok().and_then(FileType::from_std);
            (entry.file_name(), kind.unwrap_or(FileType::RegularFile))
        });
        let all = dots.into_iter().chain(names).enumerate();
        for (n, (name, kind)) in all.skip(offset as usize) {
            if reply.add(inode, n as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 20, 1 << 19, 1 << 19, 1 << 20, 1 << 19, 4096, 255, 4096);
    }
}
