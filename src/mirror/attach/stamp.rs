// SPDX-License-Identifier: MIT
//! The stamp on its root: an xattr, or a file where there are none; and the lock on a root.
//!
//! Written durably or not at all. On a read both places and both namespaces are looked at, so that
//! root finds what an ordinary user wrote and the other way round; the newest whole stamp counts
//! only if no other one is damaged.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, FlockOperation, OFlags, Timespec, Timestamps};

use crate::mirror::attach::identity::{ReadError, Role, Stamp};
use crate::store::name::Name;
use crate::store::stat::Stat;
use crate::store::tree::{OWN_FILES, OWN_XATTRS};
use crate::store::walk;
use crate::sys::{Errno, Result, at, creds};

// A tree hides all four from its mount, so it is the tree that knows them.
const TRUSTED: &CStr = OWN_XATTRS[0];
const USER: &CStr = OWN_XATTRS[1];
const FILE: &CStr = OWN_FILES[0];
const TEMPORARY: &CStr = OWN_FILES[1];
/// No stamp we write is anywhere near this.
const SIZE_MAX: usize = 64 * 1024;
/// Bytes that must fit on a root for it to be taken for one that can be written.
const PROBED: usize = 64 * 1024;

/// Whether a name in a root is the stamp's: never listed, compared, copied or removed.
#[must_use]
pub fn is_ours(name: &Name) -> bool {
    OWN_FILES.contains(&name.as_c_str())
}

/// Whether an xattr of a root is the stamp's: hidden from the mount.
#[must_use]
pub fn is_our_xattr(name: &CStr) -> bool {
    OWN_XATTRS.contains(&name)
}

/// The stamp of a root, if it has one.
///
/// # Errors
/// [`ReadError::Corrupt`] when any of the places holds something that is no stamp.
pub fn read(root: BorrowedFd<'_>) -> std::result::Result<Option<Stamp>, ReadError> {
    let mut newest: Option<Stamp> = None;
    for found in [
        read_xattr(root, TRUSTED)?,
        read_xattr(root, USER)?,
        read_file(root)?,
    ] {
        let Some(bytes) = found else { continue };
        let stamp = Stamp::parse(&bytes).map_err(ReadError::Corrupt)?;
        let age = |stamp: &Stamp| (stamp.session, stamp.epoch(), stamp.written);
        if newest.as_ref().is_none_or(|kept| age(kept) < age(&stamp)) {
            newest = Some(stamp);
        }
    }
    Ok(newest)
}

fn read_xattr(root: BorrowedFd<'_>, name: &CStr) -> Result<Option<Vec<u8>>> {
    match at::get_xattr_vec(root, name) {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn read_file(root: BorrowedFd<'_>) -> Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = match walk::open_quietly(root, FILE, flags) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened?,
    };
    let mut bytes = vec![0; SIZE_MAX];
    let mut len = 0;
    while len < SIZE_MAX {
        match rustix::io::read(&fd, &mut bytes[len..]) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    bytes.truncate(len);
    Ok(Some(bytes))
}

/// Where a root carries its stamp. Both roots use the same place, or they would not be equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// An xattr: the rule.
    #[default]
    Xattr,
    /// A file: where one of the two file systems cannot hold the xattr.
    File,
}

/// Puts a stamp on a root, durably, in `place` or, if that is not possible, in a later one.
///
/// `role` counts only where the identities do not tell.
///
/// # Errors
/// The first call that failed; the stamp on the root is then the old one or the new one, whole.
pub fn write(root: BorrowedFd<'_>, stamp: &Stamp, role: Role, place: Place) -> Result<Place> {
    let bytes = stamp.for_role(role).encode();
    let before = Stat::of(root)?;
    let (ours, other) = if creds::privileged() {
        (TRUSTED, USER)
    } else {
        (USER, TRUSTED)
    };
    let set = match place {
        Place::Xattr => at::set_xattr(root, ours, &bytes, 0),
        Place::File => Err(Errno::OPNOTSUPP),
    };
    let place = match set {
        Ok(()) => {
            match rustix::fs::unlinkat(root, FILE, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
            Place::Xattr
        }
        // No xattrs here, or not in this namespace, or not so large.
        Err(Errno::OPNOTSUPP | Errno::PERM | Errno::TOOBIG | Errno::RANGE | Errno::NOSPC) => {
            write_file(root, &bytes, stamp.written)?;
            forget(root, ours)?;
            Place::File
        }
        Err(errno) => return Err(errno),
    };
    forget(root, other)?;
    keep_mtime(root, &before)?;
    rustix::fs::fsync(root)?;
    Ok(place)
}

/// Removes what an earlier session left in a place that is not used now.
fn forget(root: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    match at::remove_xattr(root, name) {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Whether a root takes what is written to it: a little file is made durable there and removed.
///
/// # Errors
/// What the first call on a file of an application would have met, or a later one.
pub fn probe(root: BorrowedFd<'_>) -> Result<()> {
    let before = Stat::of(root)?;
    let made = write_temporary(root, &[0; PROBED], before.mtime.seconds);
    let gone = remove_temporary(root);
    made.and(gone)?;
    keep_mtime(root, &before)
}

/// Whether a time set of a symlink on a root's file system is not that symlink's then: a far one may set
/// it on what the symlink points to, out of the root even (sshfs), and owners with it.
///
/// Asked of a symlink that points to itself: whoever follows it comes to nothing. It is set by
/// descriptor, and only of one that reads as the one that was made.
///
/// `None` where there cannot be any, or where there is no room to ask (sshfs calls that `EPERM`, too).
///
/// Whoever is killed here leaves a time on the root that is not the primary's: the first look at the
/// mirror in use finds that, and repairs nothing by itself.
///
/// # Errors
/// The root does not take it, though its file system knows symlinks; or what came of it proves nothing.
pub fn follows_symlinks(root: BorrowedFd<'_>) -> Result<Option<bool>> {
    let before = Stat::of(root)?;
    remove_temporary(root)?;
    let follows = match rustix::fs::symlinkat(TEMPORARY, root, TEMPORARY) {
        Ok(()) => follows_temporary(root).map(Some),
        Err(Errno::NOSPC | Errno::DQUOT) => Ok(None),
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(None),
        Err(errno) => Err(errno),
    };
    remove_temporary(root)?;
    keep_mtime(root, &before)?;
    follows
}

fn follows_temporary(root: BorrowedFd<'_>) -> Result<bool> {
    let link = walk::open(root, TEMPORARY, OFlags::PATH, 0)?;
    let own = Stat::of(link.as_fd())?;
    let target = match own.kind() {
        FileType::Symlink => rustix::fs::readlinkat(&link, c"", Vec::new())?,
        _ => return Err(Errno::STALE),
    };
    if target.as_c_str() != TEMPORARY {
        return Err(Errno::STALE);
    }
    // An even second that is not now: even the coarsest can hold it.
    let asked = 1 << 30;
    match at::utimens(link.as_fd(), &both_at(asked)) {
        Ok(()) if Stat::of(link.as_fd())?.mtime.seconds != asked => return Ok(true),
        Ok(()) => {}
        // It was followed to nothing; or it cannot be set, and nothing else is known.
        Err(Errno::NOENT | Errno::LOOP | Errno::PERM | Errno::ACCESS) => return Ok(true),
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(true),
        Err(errno) => return Err(errno),
    }
    // Whose it is already: only whoever follows it has something to complain about.
    let owner = at::chown(link.as_fd(), Some(own.uid), Some(own.gid));
    Ok(matches!(owner, Err(Errno::NOENT | Errno::LOOP)))
}

/// The fallback. The file gets the stamp's time: equal on both copies.
fn write_file(root: BorrowedFd<'_>, bytes: &[u8], written: i64) -> Result<()> {
    write_temporary(root, bytes, written)?;
    rustix::fs::renameat(root, TEMPORARY, root, FILE)
}

/// What whoever was killed has left there goes, whatever it is.
fn remove_temporary(root: BorrowedFd<'_>) -> Result<()> {
    match rustix::fs::unlinkat(root, TEMPORARY, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        done => done,
    }
}

fn write_temporary(root: BorrowedFd<'_>, bytes: &[u8], written: i64) -> Result<()> {
    remove_temporary(root)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let fd = walk::open(root, TEMPORARY, flags, 0o600)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::io::write(&fd, rest) {
            Ok(count) => rest = &rest[count..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    at::utimens(fd.as_fd(), &both_at(written))?;
    rustix::fs::fsync(&fd)
}

/// Read and written then.
fn both_at(seconds: i64) -> Timestamps {
    let then = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: then,
        last_modification: then,
    }
}

/// A stamp file comes and goes; the root's mtime is not ours to change.
fn keep_mtime(root: BorrowedFd<'_>, before: &Stat) -> Result<()> {
    if Stat::of(root)?.mtime == before.mtime {
        return Ok(());
    }
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        },
        last_modification: before.mtime.into(),
    };
    at::utimens(root, &times)
}

/// The exclusive lock on a root, held as long as this lives.
#[derive(Debug)]
pub struct Lock {
    /// A description of our own: the lock belongs to it.
    fd: OwnedFd,
}

impl Lock {
    /// Takes the lock, or says that another daemon has it.
    ///
    /// A daemon whose mount is gone holds it until it has stamped both copies: whoever unmounts
    /// and mounts again finds it still there, so it is waited for, `patience` at most.
    ///
    /// # Errors
    /// `EWOULDBLOCK` when it is taken. A file system without locks is tolerated.
    pub fn take(root: BorrowedFd<'_>, patience: Duration) -> Result<Self> {
        let fd = walk::reopen(root)?;
        let taken = match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if !patience.is_zero() => wait_for_lock(&fd, patience),
            taken => taken,
        };
        match taken {
            // NFS wants a descriptor open for writing, which no directory has.
            Ok(())
            | Err(Errno::BADF | Errno::OPNOTSUPP | Errno::NOLCK | Errno::NOSYS | Errno::INVAL) => {
                Ok(Self { fd })
            }
            Err(errno) => Err(errno),
        }
    }

    /// The root it is on.
    #[must_use]
    pub fn root(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Waits for a lock on a thread of its own, which stays behind when it takes too long: nothing ends
/// `flock` early, and the process that is refused ends soon.
fn wait_for_lock(fd: &OwnedFd, patience: Duration) -> Result<()> {
    // A duplicate has the same description, and with it the same lock.
    let same = rustix::io::fcntl_dupfd_cloexec(fd, 3)?;
    let (taken, told) = crossbeam_channel::bounded(1);
    let wait = move || {
        let done = rustix::fs::flock(&same, FlockOperation::LockExclusive);
        // Whoever asked may have given up.
        let _unheard = taken.send(done);
    };
    let thread = std::thread::Builder::new().name("lock".to_owned());
    if thread.spawn(wait).is_err() {
        return Err(Errno::WOULDBLOCK);
    }
    told.recv_timeout(patience)
        .unwrap_or(Err(Errno::WOULDBLOCK))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::attach::identity::{Corrupt, Epoch, Life, MirrorId, RootIdentity, Verdict};
    use rustix::fs::Mode;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().expect("a directory");
        let fd = rustix::fs::open(dir.path(), OFlags::DIRECTORY, Mode::empty()).expect("open");
        (dir, fd)
    }

    fn stamp(fd: BorrowedFd<'_>) -> Stamp {
        let identity = RootIdentity::of(fd).expect("identity");
        Stamp {
            id: MirrorId(5),
            history: vec![Epoch {
                number: 1,
                began: 2,
            }],
            session: 1,
            life: Life::Clean,
            verdict: Verdict::InSync,
            lacks: Default::default(),
            primary: identity,
            replicas: Vec::new(),
            covered: None,
            role: None,
            primary_path: b"/a".to_vec(),
            replica_path: b"/b".to_vec(),
            written: 1_795_183_331,
        }
    }

    #[test]
    fn a_stamp_is_found_again_and_replaced() {
        let (_dir, fd) = root();
        assert_eq!(read(fd.as_fd()), Ok(None));
        let mut first = stamp(fd.as_fd());
        write(fd.as_fd(), &first, Role::Primary, Place::Xattr).expect("write");
        assert_eq!(read(fd.as_fd()), Ok(Some(first.clone())));
        first.session = 2;
        write(fd.as_fd(), &first, Role::Primary, Place::Xattr).expect("write");
        assert_eq!(read(fd.as_fd()), Ok(Some(first)));
    }

    #[test]
    fn the_fallback_file_keeps_the_roots_times() {
        let (_dir, fd) = root();
        let stamp = stamp(fd.as_fd());
        let before = Stat::of(fd.as_fd()).expect("stat").mtime;
        write(fd.as_fd(), &stamp, Role::Primary, Place::File).expect("write");
        assert_eq!(Stat::of(fd.as_fd()).expect("stat").mtime, before);
        let file = Stat::of_name(fd.as_fd(), FILE).expect("stat");
        assert_eq!(
            (file.permissions(), file.mtime.seconds),
            (0o600, stamp.written)
        );
        assert_eq!(read(fd.as_fd()), Ok(Some(stamp)));
        assert_eq!(walk::is_empty(fd.as_fd(), is_ours), Ok(true));
    }

    #[test]
    fn both_places_are_never_used_at_once() {
        let (_dir, fd) = root();
        let mut stamp = stamp(fd.as_fd());
        for place in [Place::File, Place::Xattr, Place::File] {
            stamp.session += 1;
            let used = write(fd.as_fd(), &stamp, Role::Primary, place).expect("write");
            let file = Stat::of_name(fd.as_fd(), FILE).is_ok();
            assert_eq!(file, used == Place::File);
            let ours = at::xattr_names(fd.as_fd()).expect("names");
            assert_eq!(
                ours.iter().any(|name| is_our_xattr(name)),
                used == Place::Xattr
            );
            assert_eq!(read(fd.as_fd()), Ok(Some(stamp.clone())));
        }
    }

    #[test]
    fn whether_symlinks_are_followed_is_asked_without_a_trace() {
        let (dir, fd) = root();
        let before = Stat::of(fd.as_fd()).expect("stat").mtime;
        assert_eq!(follows_symlinks(fd.as_fd()), Ok(Some(false)));
        assert_eq!(Stat::of(fd.as_fd()).expect("stat").mtime, before);
        // What is left there, or was put there to be followed.
        let other = dir.path().join("other");
        rustix::fs::symlinkat("nowhere", &fd, "other").expect("symlink");
        let of_other = || rustix::fs::lstat(&other).expect("stat").st_mtime;
        let was = of_other();
        for target in [TEMPORARY, c"other"] {
            rustix::fs::symlinkat(target, &fd, TEMPORARY).expect("symlink");
            assert_eq!(follows_symlinks(fd.as_fd()), Ok(Some(false)));
        }
        assert_eq!(of_other(), was);
        assert_eq!(
            Stat::of_name(fd.as_fd(), TEMPORARY).map(drop),
            Err(Errno::NOENT)
        );
    }

    #[test]
    fn what_is_no_symlink_to_itself_is_not_asked() {
        let (_dir, fd) = root();
        rustix::fs::symlinkat("other", &fd, TEMPORARY).expect("symlink");
        assert_eq!(follows_temporary(fd.as_fd()), Err(Errno::STALE));
        remove_temporary(fd.as_fd()).expect("unlink");
        write_temporary(fd.as_fd(), b"", 5).expect("write");
        assert_eq!(follows_temporary(fd.as_fd()), Err(Errno::STALE));
        let file = Stat::of_name(fd.as_fd(), TEMPORARY).expect("stat");
        assert_eq!(file.mtime.seconds, 5);
    }

    #[test]
    fn half_a_stamp_is_damage_not_absence() {
        let (_dir, fd) = root();
        let bytes = stamp(fd.as_fd()).encode();
        write_file(fd.as_fd(), &bytes[..bytes.len() / 2], 0).expect("write");
        assert_eq!(read(fd.as_fd()), Err(ReadError::Corrupt(Corrupt::Damaged)));
    }

    #[test]
    fn a_second_lock_is_refused_until_the_first_is_gone() {
        let (_dir, fd) = root();
        let lock = Lock::take(fd.as_fd(), Duration::ZERO).expect("lock");
        assert_eq!(
            Lock::take(fd.as_fd(), Duration::ZERO).expect_err("taken"),
            Errno::WOULDBLOCK
        );
        drop(lock);
        Lock::take(fd.as_fd(), Duration::ZERO).expect("free again");
    }
}
