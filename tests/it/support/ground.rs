// SPDX-License-Identifier: MIT
//! Parity: one body of calls is run in a native directory and on the mount, everything it learns
//! (values, errnos, resulting stats) is written down, and the two accounts must be the same word
//! for word. A `Ground` is the directory and the account.

use std::fmt::{Debug, Display, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::{Errno, Result};

use super::compare::{Ignore, differences, report};
use super::mount::{TestMount, Wish};

/// A directory to make calls in, and the account of what they answered.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) root: PathBuf,
    account: Mutex<Vec<String>>,
}

/// Runs `body` on both grounds and compares accounts, trees as seen by users, and copies.
#[track_caller]
pub(crate) fn parity(body: impl Fn(&Ground) + Sync) {
    parity_on(TestMount::new(), body);
}

/// As `parity`, on a mount that was wished for.
#[track_caller]
pub(crate) fn parity_with(wish: Wish, body: impl Fn(&Ground) + Sync) {
    parity_on(wish.mount(), body);
}

#[track_caller]
fn parity_on(mount: TestMount, body: impl Fn(&Ground) + Sync) {
    let native = mount.scratch.join("native");
    std::fs::create_dir(&native).expect("mkdir");
    rustix::fs::chmod(&native, 0o755.into()).expect("chmod");
    let expected = account(&native, &body);
    let got = account(&mount.mountpoint, &body);
    compare_accounts(&expected, &got);
    // Pages in the primary's own cache count as data over preallocated blocks, and only the
    // primary can be asked to drop them: maps are compared there, everything else as users see it.
    let seen = Ignore {
        times: true,
        holes: true,
        ..Ignore::default()
    };
    let stored = Ignore {
        times: true,
        root: true,
        ..Ignore::default()
    };
    for (tree, ignore) in [(&mount.mountpoint, seen), (&mount.primary, stored)] {
        let found = differences(&native, tree, ignore);
        assert!(
            found.is_empty(),
            "against native: {}",
            report(&native, tree, &found)
        );
    }
    mount.finish();
}

/// Runs `body` in a thread with its own umask (022) and working directory.
fn account(root: &Path, body: &(impl Fn(&Ground) + Sync)) -> Vec<String> {
    let ground = Ground {
        root: root.to_path_buf(),
        account: Mutex::new(Vec::new()),
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            super::sys::own_fs_state();
            rustix::process::umask(0o022.into());
            body(&ground);
        });
        thread.join().unwrap_or_else(|panic| {
            eprintln!("the account so far, in {}:", ground.root.display());
            ground
                .account
                .lock()
                .iter()
                .for_each(|line| eprintln!("  {line}"));
            std::panic::resume_unwind(panic)
        });
    });
    let account = ground.account.into_inner();
    if std::env::var_os("MIRRORFS_TEST_TELL").is_some() {
        account.iter().for_each(|line| println!("{line}"));
    }
    account
}

#[track_caller]
fn compare_accounts(expected: &[String], got: &[String]) {
    let mut text = String::new();
    for (line, (a, b)) in expected.iter().zip(got).enumerate() {
        if a != b {
            let before = line.checked_sub(1).map_or("", |l| &expected[l]);
            let told = write!(text, "\n  after {before}\n    native: {a}\n    mount:  {b}");
            told.expect("a string grows");
        }
    }
    assert!(text.is_empty(), "the mount answers differently:{text}");
    assert_eq!(expected.len(), got.len(), "one account is longer");
}

fn oflags(words: &str) -> OFlags {
    let mut flags = OFlags::CLOEXEC;
    for word in words.split_whitespace() {
        flags |= match word {
            "r" => OFlags::RDONLY,
            "w" => OFlags::WRONLY,
            "rw" => OFlags::RDWR,
            "creat" => OFlags::CREATE,
            "excl" => OFlags::EXCL,
            "trunc" => OFlags::TRUNC,
            "append" => OFlags::APPEND,
            "direct" => OFlags::DIRECT,
            "sync" => OFlags::SYNC,
            "dsync" => OFlags::DSYNC,
            "dir" => OFlags::DIRECTORY,
            "nofollow" => OFlags::NOFOLLOW,
            "nonblock" => OFlags::NONBLOCK,
            "path" => OFlags::PATH,
            "noatime" => OFlags::NOATIME,
            other => panic!("no such flag: {other}"),
        };
    }
    flags
}

impl Ground {
    /// A path on this ground.
    pub(crate) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// Writes a finding down.
    pub(crate) fn note(&self, line: impl Display) {
        self.account.lock().push(line.to_string());
    }

    /// Writes the answer of a call down and hands it back.
    pub(crate) fn say<T: Debug>(&self, call: impl Display, answer: Result<T>) -> Result<T> {
        match &answer {
            Ok(value) => self.note(format_args!("{call} = {value:?}")),
            Err(errno) => self.note(format_args!("{call} = {errno}")),
        }
        answer
    }

    /// As `say`, where the value must not be compared.
    pub(crate) fn quiet<T>(&self, call: impl Display, answer: Result<T>) -> Result<T> {
        match &answer {
            Ok(_) => self.note(format_args!("{call} = ok")),
            Err(errno) => self.note(format_args!("{call} = {errno}")),
        }
        answer
    }

    /// As `say` for an answer nobody needs again.
    pub(crate) fn did<T: Debug>(&self, call: impl Display, answer: Result<T>) {
        drop(self.say(call, answer));
    }

    pub(crate) fn mkdir(&self, path: &str, mode: u32) {
        self.did(
            format_args!("mkdir {path} {mode:o}"),
            rustix::fs::mkdir(self.at(path), mode.into()),
        );
    }

    /// Creates a file with `content`; the content goes in through one descriptor.
    pub(crate) fn file(&self, path: &str, mode: u32, content: impl AsRef<[u8]>) {
        let answer = self.opened(path, "w creat trunc", mode).and_then(|fd| {
            let mut left = content.as_ref();
            while !left.is_empty() {
                left = &left[rustix::io::write(&fd, left)?..];
            }
            Ok(())
        });
        self.did(format_args!("file {} {mode:o}", short(path)), answer);
    }

    fn opened(&self, path: &str, flags: &str, mode: u32) -> Result<OwnedFd> {
        rustix::fs::open(self.at(path), oflags(flags), mode.into())
    }

    /// `open` with flags in words: `r w rw creat excl trunc append direct sync dsync dir nofollow
    /// nonblock path noatime`.
    pub(crate) fn open(&self, path: &str, flags: &str, mode: u32) -> Result<OwnedFd> {
        self.quiet(
            format_args!("open {} {flags}", short(path)),
            self.opened(path, flags, mode),
        )
    }

    /// `open` that has to work.
    #[track_caller]
    pub(crate) fn fd(&self, path: &str, flags: &str) -> OwnedFd {
        self.open(path, flags, 0o644)
            .unwrap_or_else(|e| panic!("open {path} {flags}: {e}"))
    }

    pub(crate) fn chmod(&self, path: &str, mode: u32) {
        self.did(
            format_args!("chmod {path} {mode:o}"),
            rustix::fs::chmod(self.at(path), mode.into()),
        );
    }

    /// `lchown`; -1 leaves an id as it is.
    pub(crate) fn chown(&self, path: &str, uid: i64, gid: i64) {
        let id = |n: i64| u32::try_from(n).ok();
        let (uid, gid) = (id(uid), id(gid));
        let answer = rustix::fs::chownat(
            CWD,
            self.at(path),
            uid.map(Uid::from_raw),
            gid.map(Gid::from_raw),
            AtFlags::SYMLINK_NOFOLLOW,
        );
        self.did(format_args!("lchown {path} {uid:?} {gid:?}"), answer);
    }

    pub(crate) fn link(&self, from: &str, to: &str) {
        let answer = rustix::fs::link(self.at(from), self.at(to));
        self.did(format_args!("link {from} {}", short(to)), answer);
    }

    pub(crate) fn symlink(&self, target: &str, path: &str) {
        let answer = rustix::fs::symlink(target, self.at(path));
        self.did(format_args!("symlink {} {path}", short(target)), answer);
    }

    pub(crate) fn readlink(&self, path: &str) {
        let answer = rustix::fs::readlink(self.at(path), Vec::new());
        self.did(format_args!("readlink {path}"), answer);
    }

    pub(crate) fn unlink(&self, path: &str) {
        self.did(
            format_args!("unlink {}", short(path)),
            rustix::fs::unlink(self.at(path)),
        );
    }

    pub(crate) fn rmdir(&self, path: &str) {
        self.did(
            format_args!("rmdir {}", short(path)),
            rustix::fs::rmdir(self.at(path)),
        );
    }

    pub(crate) fn rename(&self, from: &str, to: &str, flags: RenameFlags) {
        let answer = rustix::fs::renameat_with(CWD, self.at(from), CWD, self.at(to), flags);
        self.did(
            format_args!("rename {} {} {flags:?}", short(from), short(to)),
            answer,
        );
    }

    /// `mknod` with type and permission bits in one.
    pub(crate) fn mknod(&self, path: &str, mode: u32, rdev: u64) {
        let kind = rustix::fs::FileType::from_raw_mode(mode);
        let answer = rustix::fs::mknodat(CWD, self.at(path), kind, mode.into(), rdev);
        self.did(format_args!("mknod {path} {mode:o} {rdev:x}"), answer);
    }

    pub(crate) fn truncate(&self, path: &str, len: u64) {
        let answer = self
            .opened(path, "w", 0)
            .and_then(|fd| rustix::fs::ftruncate(fd, len));
        self.did(format_args!("truncate {path} {len}"), answer);
    }

    /// Reads a whole file and notes its length and, when short, its bytes.
    pub(crate) fn cat(&self, path: &str) {
        let answer = std::fs::read(self.at(path));
        match answer {
            Ok(bytes) if bytes.len() <= 64 => {
                self.note(format_args!("cat {path} = {}", bytes.escape_ascii()));
            }
            Ok(bytes) => {
                let sum = crc32fast::hash(&bytes);
                self.note(format_args!(
                    "cat {path} = {} bytes, crc {sum:08x}",
                    bytes.len()
                ));
            }
            Err(error) => self.note(format_args!("cat {path} = {error}")),
        }
    }

    /// Names in a directory, sorted.
    pub(crate) fn list(&self, path: &str) {
        let names = std::fs::read_dir(self.at(path)).and_then(|dir| {
            dir.map(|e| Ok(e?.file_name()))
                .collect::<std::io::Result<Vec<_>>>()
        });
        match names {
            Ok(mut names) => {
                names.sort();
                let sum = names.iter().map(|n| n.len()).sum::<usize>();
                if names.len() > 20 {
                    self.note(format_args!(
                        "list {path} = {} names, {sum} bytes",
                        names.len()
                    ));
                } else {
                    self.note(format_args!("list {path} = {names:?}"));
                }
            }
            Err(error) => self.note(format_args!("list {path} = {error}")),
        }
    }

    /// Type, mode, link count, owner, size and device.
    pub(crate) fn stat(&self, path: &str) {
        let answer = rustix::fs::lstat(self.at(path)).map(|s| facts(&s));
        self.did(format_args!("stat {}", short(path)), answer);
    }

    /// As `stat`, of a descriptor.
    pub(crate) fn fstat(&self, what: &str, fd: &OwnedFd) {
        self.did(
            format_args!("fstat {what}"),
            rustix::fs::fstat(fd).map(|s| facts(&s)),
        );
    }

    /// mtime and atime, exactly as they were set.
    pub(crate) fn times(&self, path: &str) {
        let answer = rustix::fs::lstat(self.at(path));
        let answer = answer.map(|s| (s.st_atime, s.st_atime_nsec, s.st_mtime, s.st_mtime_nsec));
        self.did(format_args!("times {path}"), answer);
    }

    /// Which of mtime and ctime of `path` moved while `body` ran; neither may ever go back.
    pub(crate) fn watch(&self, path: &str, body: impl FnOnce()) {
        let look = || {
            let s = rustix::fs::lstat(self.at(path)).ok()?;
            Some(((s.st_mtime, s.st_mtime_nsec), (s.st_ctime, s.st_ctime_nsec)))
        };
        let before = look();
        body();
        let after = look();
        if let (Some(before), Some(after)) = (before, after) {
            assert!(
                after.1 >= before.1,
                "ctime of {path} went back: {before:?} {after:?}"
            );
            let (m, c) = (before.0 != after.0, before.1 != after.1);
            self.note(format_args!("{path}: mtime moved {m}, ctime moved {c}"));
        } else {
            self.note(format_args!(
                "{path}: seen before {}, after {}",
                before.is_some(),
                after.is_some()
            ));
        }
    }

    /// `utimensat`; seconds and nanoseconds of atime and mtime.
    pub(crate) fn utimens(&self, path: &str, atime: (i64, i64), mtime: (i64, i64)) {
        let time = |(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec };
        let times = Timestamps {
            last_access: time(atime),
            last_modification: time(mtime),
        };
        let answer = rustix::fs::utimensat(CWD, self.at(path), &times, AtFlags::SYMLINK_NOFOLLOW);
        self.did(format_args!("utimens {path} {atime:?} {mtime:?}"), answer);
    }

    pub(crate) fn setxattr(&self, path: &str, name: &str, value: &[u8]) {
        self.setxattr_with(path, name, value, XattrFlags::empty());
    }

    pub(crate) fn setxattr_with(&self, path: &str, name: &str, value: &[u8], flags: XattrFlags) {
        let answer = rustix::fs::lsetxattr(self.at(path), name, value, flags);
        let len = value.len();
        self.did(
            format_args!("setxattr {path} {} {len} {flags:?}", short(name)),
            answer,
        );
    }

    /// Value of an xattr into a buffer of 64 KiB.
    pub(crate) fn getxattr(&self, path: &str, name: &str) {
        let mut value = vec![0; 65536];
        let answer = rustix::fs::lgetxattr(self.at(path), name, &mut value[..]);
        let answer = answer.map(|n| (n, value[..n.min(80)].escape_ascii().to_string()));
        self.did(format_args!("getxattr {path} {}", short(name)), answer);
    }

    pub(crate) fn removexattr(&self, path: &str, name: &str) {
        let answer = rustix::fs::lremovexattr(self.at(path), name);
        self.did(format_args!("removexattr {path} {}", short(name)), answer);
    }

    /// Names of all xattrs, sorted.
    pub(crate) fn listxattr(&self, path: &str) {
        let mut names = vec![0; 65536];
        let answer = rustix::fs::llistxattr(self.at(path), &mut names[..]).map(|n| {
            let mut all: Vec<_> = names[..n]
                .split(|&b| b == 0)
                .filter(|n| !n.is_empty())
                .collect();
            all.sort_unstable();
            all.join(&b' ').escape_ascii().to_string()
        });
        self.did(format_args!("listxattr {path}"), answer);
    }

    /// Sets the umask of this account's thread and of the threads it starts.
    pub(crate) fn umask(&self, mask: u32) {
        rustix::process::umask(Mode::from_bits_retain(mask));
        self.note(format_args!("umask {mask:03o}"));
    }
}

fn facts(s: &Stat) -> String {
    let kind = rustix::fs::FileType::from_raw_mode(s.st_mode);
    let (mode, nlink, uid, gid) = (s.st_mode & 0o7777, s.st_nlink, s.st_uid, s.st_gid);
    // How large a directory is depends on its history, and no two file systems agree on it.
    let size = if kind.is_dir() { 0 } else { s.st_size };
    let rdev = s.st_rdev;
    format!("{kind:?} {mode:04o} nlink {nlink} {uid}:{gid} size {size} rdev {rdev:x}")
}

fn short(name: &str) -> String {
    if name.len() > 60 {
        format!("{}...({})", &name[..20], name.len())
    } else {
        name.to_owned()
    }
}

/// Turns an I/O error of the standard library into what `say` takes.
pub(crate) fn errno<T>(answer: std::io::Result<T>) -> Result<T> {
    answer.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
}
