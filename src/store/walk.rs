// SPDX-License-Identifier: MIT
//! Steps from one directory descriptor to the next, for whoever walks a tree.
//!
//! One [`Name`] at a time below a descriptor, never a path string, never through a symlink or a
//! mount point. No recursion, and no more than [`KEPT`] descriptors however deep the tree is:
//! [`Descent`] closes the levels far above and finds them again through `..`, accepting only the
//! very directory it came from.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, SeekFrom};

use super::name::Name;
use super::stat::{Ident, Stat};
use crate::sys::{Errno, Result, at, creds};

/// How many levels of one descent keep their descriptor, the root's not counted.
pub const KEPT: usize = 64;

/// `FS_IMMUTABLE_FL | FS_APPEND_FL`: what keeps even root from changing an object.
pub const LOCKS: u32 = 0x30;

/// How every name is resolved: never out of its directory, never through a link or a mount.
pub(super) const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// A race with a rename makes `openat2` give up with `EAGAIN`: ask again, but not for ever.
const ATTEMPTS: usize = 128;

/// Opens one name below `dir`; `O_NOFOLLOW | O_CLOEXEC` are implied.
///
/// # Errors
/// `EXDEV` when the name is a mount point, `ELOOP` when it is a symlink and `flags` lack `O_PATH`.
pub fn open(dir: BorrowedFd<'_>, name: &CStr, flags: OFlags, mode: u32) -> Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut left = ATTEMPTS;
    loop {
        match rustix::fs::openat2(dir, name, flags, Mode::from(mode), BENEATH) {
            Err(Errno::AGAIN | Errno::INTR) if left > 0 => left -= 1,
            done => return done,
        }
    }
}

/// Opens for reading without leaving a trace in the atime, where the kernel permits that.
pub fn open_quietly(dir: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd> {
    match open(dir, name, flags | OFlags::NOATIME, 0) {
        // O_NOATIME is for the owner and root.
        Err(Errno::PERM) => open(dir, name, flags, 0),
        done => done,
    }
}

/// Opens a directory for listing.
pub fn open_dir(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd> {
    open_quietly(dir, name, OFlags::RDONLY | OFlags::DIRECTORY)
}

/// Opens the same directory again, with an offset of its own.
pub fn reopen(dir: BorrowedFd<'_>) -> Result<OwnedFd> {
    open_dir(dir, c".")
}

/// Opens the directory that holds the last component of `path`, component by component.
///
/// # Errors
/// `EINVAL` for a path that is empty or not made of [`Name`]s.
pub fn open_parent(root: BorrowedFd<'_>, path: &[u8]) -> Result<(OwnedFd, Name)> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut parts = path.split(|&byte| byte == b'/');
    let last = parts.next_back().ok_or(Errno::INVAL)?;
    let mut dir = reopen(root)?;
    for part in parts {
        let name = Name::new(std::ffi::OsStr::from_bytes(part))?;
        dir = open_dir(dir.as_fd(), name.as_c_str())?;
    }
    Ok((dir, Name::new(std::ffi::OsStr::from_bytes(last))?))
}

/// One name of a directory.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The name.
    pub name: Name,
    kind: FileType,
}

impl Entry {
    /// What kind of object it was when it was listed, where the file system says so.
    #[must_use]
    pub fn kind(&self) -> Option<FileType> {
        Some(self.kind).filter(|kind| *kind != FileType::Unknown)
    }
}

/// All entries of a directory that was opened just now, in byte order, without `.` and `..`.
pub fn entries(dir: BorrowedFd<'_>) -> Result<Vec<Entry>> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut found = Vec::new();
    let mut buf = Vec::with_capacity(64 * 1024);
    let mut raw = RawDir::new(dir, buf.spare_capacity_mut());
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let bytes = entry.file_name().to_bytes();
        if !matches!(bytes, b"." | b"..") {
            let name = Name::new(std::ffi::OsStr::from_bytes(bytes))?;
            let kind = entry.file_type();
            found.push(Entry { name, kind });
        }
    }
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    found.dedup_by(|a, b| a.name == b.name);
    Ok(found)
}

/// All names in a directory, in byte order, without `.` and `..`.
pub fn names(dir: BorrowedFd<'_>) -> Result<Vec<Name>> {
    rustix::fs::seek(dir, SeekFrom::Start(0))?;
    let entries = entries(dir)?;
    Ok(entries.into_iter().map(|entry| entry.name).collect())
}

/// Whether a directory holds nothing but names that `ours` claims and an empty `lost+found`.
pub fn is_empty(dir: BorrowedFd<'_>, ours: impl Fn(&Name) -> bool) -> Result<bool> {
    for name in names(dir)? {
        if ours(&name) {
            continue;
        }
        if name.as_c_str() != c"lost+found" {
            return Ok(false);
        }
        match open_dir(dir, name.as_c_str()) {
            Ok(lost) if names(lost.as_fd())?.is_empty() => {}
            Ok(_) | Err(Errno::NOTDIR | Errno::LOOP | Errno::ACCESS | Errno::XDEV) => {
                return Ok(false);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(true)
}

/// A way down from a root, one directory at a time, and back up.
#[derive(Debug)]
pub struct Descent {
    levels: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    /// `None` only far above the deepest level.
    fd: Option<OwnedFd>,
    ident: Ident,
}

impl Descent {
    /// Starts at `root`, with a description of its own.
    pub fn new(root: BorrowedFd<'_>) -> Result<Self> {
        let mut descent = Self { levels: Vec::new() };
        descent.push(reopen(root)?)?;
        Ok(descent)
    }

    /// The directory we are in.
    #[must_use]
    pub fn top(&self) -> BorrowedFd<'_> {
        let top = self.levels.last().and_then(|level| level.fd.as_ref());
        top.expect("the deepest level is always open").as_fd()
    }

    /// The directory we started in.
    #[must_use]
    pub fn root(&self) -> BorrowedFd<'_> {
        let root = self.levels.first().and_then(|level| level.fd.as_ref());
        root.expect("the root is always open").as_fd()
    }

    /// Goes down into `fd`, a directory in the one we are in.
    pub fn push(&mut self, fd: OwnedFd) -> Result<()> {
        let ident = Stat::of(fd.as_fd())?.ident;
        self.levels.push(Level {
            fd: Some(fd),
            ident,
        });
        let len = self.levels.len();
        if len > KEPT + 1 {
            self.levels[len - 1 - KEPT].fd = None;
        }
        Ok(())
    }

    /// Goes up again.
    ///
    /// # Errors
    /// `ESTALE` when the directory above is no longer the one we came through.
    pub fn pop(&mut self) -> Result<()> {
        assert!(self.levels.len() > 1, "never above the root");
        let Some(left) = self.levels.pop() else {
            return Err(Errno::STALE);
        };
        let Some(top) = self.levels.last_mut() else {
            return Err(Errno::STALE);
        };
        if top.fd.is_some() {
            return Ok(());
        }
        let below = left.fd.ok_or(Errno::STALE)?;
        // Not openat2: `..` is exactly what RESOLVE_BENEATH forbids. The identity is the guard.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let up = match rustix::fs::openat(&below, c"..", flags | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::PERM) => rustix::fs::openat(&below, c"..", flags, Mode::empty())?,
            done => done?,
        };
        if Stat::of(up.as_fd())?.ident != top.ident {
            return Err(Errno::STALE);
        }
        top.fd = Some(up);
        Ok(())
    }
}

/// Makes an object changeable: no immutable or append-only flag, and for an ordinary user `rwx`.
///
/// Returns whether anything had to be changed. A refusal is left to the change itself to report:
/// it may be possible all the same.
pub fn unlock(fd: BorrowedFd<'_>) -> Result<bool> {
    let mut changed = false;
    if let Ok(flags) = at::get_flags(fd)
        && flags & LOCKS != 0
    {
        changed |= at::set_flags(fd, flags & !LOCKS).is_ok();
    }
    if !creds::privileged() {
        let stat = Stat::of(fd)?;
        if stat.permissions() & 0o700 != 0o700 {
            changed |= at::chmod(fd, stat.permissions() | 0o700).is_ok();
        }
    }
    Ok(changed)
}

/// Removes `name` from `dir`, with everything below it, whatever flags stand in the way.
///
/// `permit` is asked before each single name goes; `false` stops with `ECANCELED`.
pub fn remove(dir: BorrowedFd<'_>, name: &Name, permit: &mut dyn FnMut() -> bool) -> Result<()> {
    let mut descent = Descent::new(dir)?;
    // What is still to be removed at each level; the name of a level is last in the one above.
    let mut pending = vec![vec![name.clone()]];
    while let Some(level) = pending.last_mut() {
        let Some(name) = level.last() else {
            pending.pop();
            if pending.is_empty() {
                break;
            }
            descent.pop()?;
            let emptied = pending.last_mut().and_then(Vec::pop).ok_or(Errno::STALE)?;
            if !permit() {
                return Err(Errno::CANCELED);
            }
            rustix::fs::unlinkat(descent.top(), emptied.as_c_str(), AtFlags::REMOVEDIR)?;
            continue;
        };
        let stat = match Stat::of_name(descent.top(), name.as_c_str()) {
            Err(Errno::NOENT) => {
                level.pop();
                continue;
            }
            other => other?,
        };
        if stat.is_dir() {
            let below = match open_dir(descent.top(), name.as_c_str()) {
                Err(Errno::ACCESS) => {
                    let held = open(descent.top(), name.as_c_str(), OFlags::PATH, 0)?;
                    at::chmod(held.as_fd(), 0o700)?;
                    open_dir(descent.top(), name.as_c_str())?
                }
                other => other?,
            };
            unlock(below.as_fd())?;
            pending.push(names(below.as_fd())?);
            descent.push(below)?;
            continue;
        }
        if !permit() {
            return Err(Errno::CANCELED);
        }
        unlink(descent.top(), name)?;
        level.pop();
    }
    Ok(())
}

/// Removes one name that is not a directory, clearing its immutable flag if it must.
fn unlink(dir: BorrowedFd<'_>, name: &Name) -> Result<()> {
    match rustix::fs::unlinkat(dir, name.as_c_str(), AtFlags::empty()) {
        Err(Errno::PERM) => {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
            let held = open(dir, name.as_c_str(), flags, 0).map_err(|_| Errno::PERM)?;
            let flags = at::get_flags(held.as_fd()).map_err(|_| Errno::PERM)?;
            at::set_flags(held.as_fd(), flags & !LOCKS)?;
            rustix::fs::unlinkat(dir, name.as_c_str(), AtFlags::empty())
        }
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).expect("a name")
    }

    #[test]
    fn deep_trees_need_few_descriptors_and_go_away_whole() {
        let top = tempfile::tempdir().expect("a directory");
        let root = rustix::fs::open(top.path(), OFlags::DIRECTORY, Mode::empty()).expect("open");
        let mut descent = Descent::new(root.as_fd()).expect("descent");
        let long = "d".repeat(200);
        for _ in 0..1000 {
            rustix::fs::mkdirat(descent.top(), &*long, Mode::RWXU).expect("mkdir");
            let below = open_dir(descent.top(), name(&long).as_c_str()).expect("open");
            descent.push(below).expect("push");
        }
        let open = descent.levels.iter().filter(|level| level.fd.is_some());
        assert!(open.count() <= KEPT + 2);
        for _ in 0..1000 {
            descent.pop().expect("pop");
        }
        assert_eq!(descent.levels.len(), 1);
        let mut removed = 0;
        remove(root.as_fd(), &name(&long), &mut || {
            removed += 1;
            true
        })
        .expect("remove");
        assert_eq!(removed, 1000);
        assert_eq!(names(root.as_fd()).expect("names"), []);
    }

    #[test]
    fn a_directory_moved_away_is_not_mistaken_for_the_one_above() {
        let top = tempfile::tempdir().expect("a directory");
        let root = rustix::fs::open(top.path(), OFlags::DIRECTORY, Mode::empty()).expect("open");
        let mut descent = Descent::new(root.as_fd()).expect("descent");
        for _ in 0..KEPT + 8 {
            rustix::fs::mkdirat(descent.top(), "d", Mode::RWXU).expect("mkdir");
            let below = open_dir(descent.top(), c"d").expect("open");
            descent.push(below).expect("push");
        }
        for _ in 0..KEPT - 1 {
            descent.pop().expect("pop");
        }
        rustix::fs::mkdirat(&root, "elsewhere", Mode::RWXU).expect("mkdir");
        let mut path = top.path().to_path_buf();
        path.extend(std::iter::repeat_n("d", 9));
        std::fs::metadata(&path).expect("it is there");
        rustix::fs::renameat(rustix::fs::CWD, &path, &root, "elsewhere/d").expect("rename");
        let outcome = (0..8).try_for_each(|_| descent.pop());
        assert_eq!(outcome, Err(Errno::STALE));
    }

    #[test]
    fn nothing_is_opened_through_a_symlink() {
        let top = tempfile::tempdir().expect("a directory");
        let root = rustix::fs::open(top.path(), OFlags::DIRECTORY, Mode::empty()).expect("open");
        rustix::fs::symlinkat("/", &root, "link").expect("symlink");
        for flags in [OFlags::RDONLY, OFlags::RDONLY | OFlags::DIRECTORY] {
            let got = open(root.as_fd(), c"link", flags, 0).expect_err("refused");
            assert!(matches!(got, Errno::LOOP | Errno::NOTDIR), "{got:?}");
        }
        assert_eq!(
            open(root.as_fd(), c"..", OFlags::PATH, 0).expect_err("refused"),
            Errno::XDEV
        );
    }

    #[test]
    fn lost_and_found_does_not_make_a_directory_full() {
        let top = tempfile::tempdir().expect("a directory");
        let root = rustix::fs::open(top.path(), OFlags::DIRECTORY, Mode::empty()).expect("open");
        let ours = |name: &Name| name.as_c_str() == c"ours";
        rustix::fs::mkdirat(&root, "lost+found", Mode::RWXU).expect("mkdir");
        rustix::fs::mkdirat(&root, "ours", Mode::RWXU).expect("mkdir");
        assert_eq!(is_empty(root.as_fd(), ours), Ok(true));
        rustix::fs::mkdirat(&root, "lost+found/x", Mode::RWXU).expect("mkdir");
        assert_eq!(is_empty(root.as_fd(), ours), Ok(false));
    }
}
