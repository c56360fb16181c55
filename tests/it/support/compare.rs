// SPDX-License-Identifier: MIT
//! The definition of "equal": a complete comparison of two directory trees.
//!
//! Compared for every entry, the roots included: presence, type, mode, owner, size, content, mtime
//! to the nanosecond, extended attributes (ACLs and capabilities among them), link count and which
//! names are hard links of one another, hole maps in 4 KiB units, symlink targets, device numbers,
//! chattr flags. Not compared: atime, ctime, inode numbers. The walk uses directory descriptors
//! only, so that depth, odd names and planted symlinks are harmless.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsStr};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, Dir, FileType, IFlags, Mode, OFlags, RawDir, SeekFrom, Stat, fstat, ioctl_getflags,
    openat, readlinkat, seek, statat,
};
use rustix::io::{Errno, pread};

/// What to leave out, for the few comparisons that are not of two copies.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ignore {
    /// mtimes: the two trees were made by separate calls.
    pub(crate) times: bool,
    /// Attributes of the two roots themselves.
    pub(crate) root: bool,
    /// Hole maps.
    pub(crate) holes: bool,
}

/// One difference, printable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Difference {
    path: String,
    kind: String,
    a: String,
    b: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = if self.path.is_empty() {
            "."
        } else {
            &self.path
        };
        write!(f, "{shown}: {}: A {} | B {}", self.kind, self.a, self.b)
    }
}

impl Difference {
    /// What differs: "mode", "content", "only in A", ...
    pub(crate) fn kind(&self) -> &str {
        &self.kind
    }
}

/// Everything that differs, once. An unreadable entry is a difference too.
pub(crate) fn differences(a: &Path, b: &Path, ignore: Ignore) -> Vec<Difference> {
    let mut walk = Walk {
        ignore,
        found: Vec::new(),
        common: BTreeSet::new(),
        links: [const { BTreeMap::new() }; 2],
    };
    walk.run(a, b);
    walk.found
}

/// Waits until the trees are equal; after `patience` panics with what still differs.
pub(crate) fn wait_equal(a: &Path, b: &Path, patience: Duration, ignore: Ignore) {
    let until = Instant::now() + patience;
    loop {
        let found = differences(a, b, ignore);
        if found.is_empty() {
            return;
        }
        assert!(Instant::now() < until, "{}", report(a, b, &found));
        super::breathe();
    }
}

/// A report of differences for people.
pub(crate) fn report(a: &Path, b: &Path, found: &[Difference]) -> String {
    let mut text = format!(
        "{} differences: A {} | B {}\n",
        found.len(),
        a.display(),
        b.display()
    );
    for difference in found.iter().take(40) {
        text.push_str(&format!("  {difference}\n"));
    }
    text
}

/// One name in an open directory.
struct Entry<'a> {
    dir: &'a OwnedFd,
    name: CString,
    stat: Stat,
}

impl Entry<'_> {
    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    fn open(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match openat(self.dir, &self.name, flags | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::PERM) => openat(self.dir, &self.name, flags, Mode::empty()),
            other => other,
        }
    }

    fn xattrs(&self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Errno> {
        let mut path = format!("/proc/self/fd/{}/", self.dir.as_raw_fd()).into_bytes();
        path.extend_from_slice(self.name.as_bytes());
        let mut names = vec![0; 65536];
        let len = match rustix::fs::llistxattr(path.as_slice(), &mut names[..]) {
            Err(Errno::OPNOTSUPP) => 0,
            other => other?,
        };
        let mut found = BTreeMap::new();
        for name in names[..len].split(|&b| b == 0).filter(|n| !n.is_empty()) {
            // XFS shows root each ACL a second time, in its own encoding.
            if name.starts_with(b"trusted.SGI_ACL_") {
                continue;
            }
            let mut value = vec![0; 65536];
            match rustix::fs::lgetxattr(path.as_slice(), name, &mut value[..]) {
                Ok(len) => {
                    value.truncate(len);
                    found.insert(name.to_vec(), value);
                }
                Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(found)
    }
}

/// The product's own mark on a root; it names the root's role, so it differs by design.
fn is_stamp(name: &[u8]) -> bool {
    let mark = |prefix: &[u8]| {
        name.strip_prefix(prefix)
            .is_some_and(|n| n.starts_with(b"mirrorfs"))
    };
    mark(b"trusted.") || mark(b"user.")
}

/// The flags a user sets with chattr; the rest describe the file system's own layout.
fn chattr_flags(fd: &OwnedFd) -> Option<IFlags> {
    let mine = IFlags::from_bits_retain(0x2083_c0ff);
    ioctl_getflags(fd).ok().map(|flags| flags & mine)
}

type Extents = Vec<(u64, u64)>;

/// What `SEEK_DATA` calls data.
fn extents(fd: &OwnedFd, size: u64) -> Result<Extents, Errno> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < size {
        let start = match seek(fd, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(vec![(0, size)]),
            other => other?,
        };
        let end = seek(fd, SeekFrom::Hole(start))?;
        found.push((start, end.min(size)));
        at = end.max(start + 1);
    }
    Ok(found)
}

/// Extents widened to 4 KiB, the finest map that two file systems can share, and merged.
fn aligned(extents: &[(u64, u64)]) -> Extents {
    let mut merged: Extents = Vec::new();
    for &(start, end) in extents {
        let (start, end) = (start / 4096 * 4096, end.div_ceil(4096) * 4096);
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    merged
}

fn union(a: &[(u64, u64)], b: &[(u64, u64)]) -> Extents {
    let mut all: Extents = a.iter().chain(b).copied().collect();
    all.sort_unstable();
    let mut merged: Extents = Vec::new();
    for (start, end) in all {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    merged
}

fn read_full(fd: &OwnedFd, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut done = 0;
    while done < buffer.len() {
        let at = offset + u64::try_from(done).expect("small");
        match pread(fd, &mut buffer[done..], at)? {
            0 => break,
            n => done += n,
        }
    }
    Ok(done)
}

/// (dev, ino) -> names.
type NamesOfInodes = BTreeMap<(u64, u64), Vec<Vec<u8>>>;

struct Walk {
    ignore: Ignore,
    found: Vec<Difference>,
    /// Non-directories present on both sides with one type.
    common: BTreeSet<Vec<u8>>,
    /// Per side, inodes whose link count is above 1.
    links: [NamesOfInodes; 2],
}

impl Walk {
    fn differ(&mut self, path: &[u8], kind: &str, a: impl fmt::Display, b: impl fmt::Display) {
        let path = path.escape_ascii().to_string();
        let (kind, a, b) = (kind.to_owned(), a.to_string(), b.to_string());
        self.found.push(Difference { path, kind, a, b });
    }

    fn check<T: PartialEq>(
        &mut self,
        path: &[u8],
        kind: &str,
        a: T,
        b: T,
        show: impl Fn(T) -> String,
    ) {
        if a != b {
            let (a, b) = (show(a), show(b));
            self.differ(path, kind, a, b);
        }
    }

    fn run(&mut self, a: &Path, b: &Path) {
        let open = |p: &Path| {
            rustix::fs::open(
                p,
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
        };
        let (fd_a, fd_b) = match (open(a), open(b)) {
            (Ok(a), Ok(b)) => (a, b),
            (a, b) => {
                return self.differ(
                    b"",
                    "unreadable",
                    format!("{:?}", a.err()),
                    format!("{:?}", b.err()),
                );
            }
        };
        if !self.ignore.root {
            let top = |fd| {
                let stat = fstat(fd).expect("fstat of a root");
                Entry {
                    dir: fd,
                    name: c".".to_owned(),
                    stat,
                }
            };
            self.attributes(b"", &top(&fd_a), &top(&fd_b));
        }
        // A frame owns its two descriptors and the common names still to visit.
        let mut stack = vec![];
        let names = self.names(b"", &fd_a, &fd_b);
        stack.push((Vec::new(), fd_a, fd_b, names));
        while let Some((path, fd_a, fd_b, mut names)) = stack.pop() {
            while let Some(name) = names.pop() {
                let mut child = path.clone();
                if !child.is_empty() {
                    child.push(b'/');
                }
                child.extend_from_slice(name.as_bytes());
                match self.entry(&child, &fd_a, &fd_b, &name) {
                    Ok(None) => {}
                    Ok(Some((down_a, down_b))) => {
                        let below = self.names(&child, &down_a, &down_b);
                        stack.push((path, fd_a, fd_b, names));
                        stack.push((child, down_a, down_b, below));
                        break;
                    }
                    Err(errno) => self.differ(&child, "unreadable", errno, "(either side)"),
                }
            }
        }
        self.compare_links();
    }

    fn list(fd: &OwnedFd) -> Result<Vec<CString>, Errno> {
        let fd = openat(
            fd,
            c".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut buffer = Vec::with_capacity(1 << 16);
        let mut raw = RawDir::new(fd.as_fd(), buffer.spare_capacity_mut());
        let mut names = Vec::new();
        while let Some(entry) = raw.next() {
            let entry = entry?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        Ok(names)
    }

    fn names(&mut self, path: &[u8], a: &OwnedFd, b: &OwnedFd) -> Vec<CString> {
        let (in_a, in_b) = match (Self::list(a), Self::list(b)) {
            (Ok(a), Ok(b)) => (a, b),
            (a, b) => {
                self.differ(
                    path,
                    "unreadable",
                    format!("{:?}", a.err()),
                    format!("{:?}", b.err()),
                );
                return Vec::new();
            }
        };
        let (count_a, count_b) = (in_a.len(), in_b.len());
        let in_a: BTreeSet<_> = in_a.into_iter().collect();
        let in_b: BTreeSet<_> = in_b.into_iter().collect();
        if (count_a, count_b) != (in_a.len(), in_b.len()) {
            self.differ(
                path,
                "names listed twice",
                count_a - in_a.len(),
                count_b - in_b.len(),
            );
        }
        for name in in_a.difference(&in_b) {
            self.differ(
                &[path, b"/", name.as_bytes()].concat(),
                "only in A",
                "present",
                "absent",
            );
        }
        for name in in_b.difference(&in_a) {
            self.differ(
                &[path, b"/", name.as_bytes()].concat(),
                "only in B",
                "absent",
                "present",
            );
        }
        in_a.intersection(&in_b).cloned().collect()
    }

    /// Compares one common name; the two open directories when there is more below.
    fn entry(
        &mut self,
        path: &[u8],
        dir_a: &OwnedFd,
        dir_b: &OwnedFd,
        name: &CString,
    ) -> Result<Option<(OwnedFd, OwnedFd)>, Errno> {
        let get = |dir| -> Result<Entry<'_>, Errno> {
            let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(Entry {
                dir,
                name: name.clone(),
                stat,
            })
        };
        let (a, b) = (get(dir_a)?, get(dir_b)?);
        if a.kind() != b.kind() {
            self.differ(
                path,
                "type",
                format!("{:?}", a.kind()),
                format!("{:?}", b.kind()),
            );
            return Ok(None);
        }
        self.attributes(path, &a, &b);
        if a.kind() == FileType::Directory {
            return Ok(Some((
                a.open(OFlags::DIRECTORY)?,
                b.open(OFlags::DIRECTORY)?,
            )));
        }
        self.common.insert(path.to_vec());
        for (side, entry) in [&a, &b].into_iter().enumerate() {
            if entry.stat.st_nlink > 1 {
                let key = (entry.stat.st_dev, entry.stat.st_ino);
                self.links[side].entry(key).or_default().push(path.to_vec());
            }
        }
        match a.kind() {
            FileType::RegularFile => self.file(path, &a, &b)?,
            FileType::Symlink => {
                let target = |e: &Entry<'_>| readlinkat(e.dir, &e.name, Vec::new());
                self.check(path, "symlink target", target(&a)?, target(&b)?, |t| {
                    format!("{t:?}")
                });
            }
            FileType::BlockDevice | FileType::CharacterDevice => {
                self.check(path, "device", a.stat.st_rdev, b.stat.st_rdev, |d| {
                    format!("{d:#x}")
                });
            }
            _ => {}
        }
        Ok(None)
    }

    fn attributes(&mut self, path: &[u8], a: &Entry<'_>, b: &Entry<'_>) {
        let (x, y) = (&a.stat, &b.stat);
        if a.kind() != FileType::Symlink {
            self.check(path, "mode", x.st_mode & 0o7777, y.st_mode & 0o7777, |m| {
                format!("{m:04o}")
            });
        }
        self.check(path, "uid", x.st_uid, y.st_uid, |u| u.to_string());
        self.check(path, "gid", x.st_gid, y.st_gid, |g| g.to_string());
        if !self.ignore.times {
            let time = |s: &Stat| (s.st_mtime, s.st_mtime_nsec);
            self.check(path, "mtime", time(x), time(y), |(s, n)| {
                format!("{s}.{n:09}")
            });
        }
        if a.kind() != FileType::Directory {
            self.check(path, "nlink", x.st_nlink, y.st_nlink, |n| n.to_string());
        }
        match (a.xattrs(), b.xattrs()) {
            (Ok(mut in_a), Ok(mut in_b)) => {
                if path.is_empty() {
                    in_a.retain(|name, _| !is_stamp(name));
                    in_b.retain(|name, _| !is_stamp(name));
                }
                let names: BTreeSet<_> = in_a.keys().chain(in_b.keys()).cloned().collect();
                for name in names {
                    let kind = format!("xattr {}", name.escape_ascii());
                    let show = |v: Option<&Vec<u8>>| {
                        v.map_or("(absent)".into(), |v| {
                            format!("{} bytes {}", v.len(), v[..v.len().min(60)].escape_ascii())
                        })
                    };
                    self.check(path, &kind, in_a.get(&name), in_b.get(&name), show);
                }
            }
            (a, b) => self.differ(
                path,
                "xattrs unreadable",
                format!("{:?}", a.err()),
                format!("{:?}", b.err()),
            ),
        }
        if matches!(a.kind(), FileType::RegularFile | FileType::Directory)
            && let (Ok(fd_a), Ok(fd_b)) = (a.open(OFlags::empty()), b.open(OFlags::empty()))
            && let (Some(flags_a), Some(flags_b)) = (chattr_flags(&fd_a), chattr_flags(&fd_b))
        {
            self.check(path, "chattr flags", flags_a, flags_b, |f| format!("{f:?}"));
        }
    }

    fn file(&mut self, path: &[u8], a: &Entry<'_>, b: &Entry<'_>) -> Result<(), Errno> {
        let sizes = [a.stat.st_size, b.stat.st_size].map(|s| u64::try_from(s).expect("a size"));
        self.check(path, "size", sizes[0], sizes[1], |s| s.to_string());
        if (a.stat.st_dev, a.stat.st_ino) == (b.stat.st_dev, b.stat.st_ino) {
            return Ok(());
        }
        let (fd_a, fd_b) = (a.open(OFlags::empty())?, b.open(OFlags::empty())?);
        let mut maps = [extents(&fd_a, sizes[0])?, extents(&fd_b, sizes[1])?];
        if !self.ignore.holes && aligned(&maps[0]) != aligned(&maps[1]) {
            // Pages that are in the page cache over preallocated blocks count as data, even
            // clean ones: what was read on one side must not look like a difference.
            for (fd, (map, size)) in [&fd_a, &fd_b].into_iter().zip(maps.iter_mut().zip(sizes)) {
                rustix::fs::fsync(fd)?;
                rustix::fs::fadvise(fd, 0, None, rustix::fs::Advice::DontNeed)?;
                *map = extents(fd, size)?;
            }
            self.check(
                path,
                "data map",
                aligned(&maps[0]),
                aligned(&maps[1]),
                |m| format!("{m:?}"),
            );
        }
        let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        let shorter = sizes[0].min(sizes[1]);
        for (start, end) in union(&maps[0], &maps[1]) {
            let (mut at, end) = (start, end.min(shorter));
            while at < end {
                let len = usize::try_from((end - at).min(1 << 20)).expect("at most a MiB");
                let got = (
                    read_full(&fd_a, &mut left[..len], at)?,
                    read_full(&fd_b, &mut right[..len], at)?,
                );
                if got != (len, len) || left[..len] != right[..len] {
                    let first = left
                        .iter()
                        .zip(&right)
                        .position(|(x, y)| x != y)
                        .unwrap_or(0);
                    let show =
                        |v: &[u8]| v[first..(first + 16).min(len)].escape_ascii().to_string();
                    let kind = format!("content at {}", at + u64::try_from(first).expect("small"));
                    let (x, y) = (show(&left), show(&right));
                    self.differ(path, &kind, x, y);
                    return Ok(());
                }
                at += u64::try_from(len).expect("small");
            }
        }
        Ok(())
    }

    /// The names of one inode in A must be the names of one inode in B.
    fn compare_links(&mut self) {
        let groups = std::mem::take(&mut self.links).map(|inodes| {
            let mut of_name = BTreeMap::new();
            for names in inodes.into_values() {
                let common = names.into_iter().filter(|n| self.common.contains(n));
                let names: Rc<BTreeSet<_>> = Rc::new(common.collect());
                for name in names.iter() {
                    of_name.insert(name.clone(), Rc::clone(&names));
                }
            }
            of_name
        });
        let names: BTreeSet<_> = groups[0].keys().chain(groups[1].keys()).cloned().collect();
        let show = |set: Option<&Rc<BTreeSet<Vec<u8>>>>| {
            set.filter(|s| s.len() > 1)
                .map_or("(single)".into(), |set| {
                    let shown = set.iter().take(8).map(|n| n.escape_ascii().to_string());
                    format!(
                        "{} names: {}",
                        set.len(),
                        shown.collect::<Vec<_>>().join(" = ")
                    )
                })
        };
        // A pair of groups is compared once, however many names it has.
        let mut done = BTreeSet::new();
        for name in names {
            let pair = groups.each_ref().map(|g| g.get(&name));
            let key = pair.map(|set| set.map(Rc::as_ptr));
            if pair.iter().all(Option::is_some) && !done.insert(key) {
                continue;
            }
            let alone = |set: Option<&Rc<BTreeSet<Vec<u8>>>>| set.is_none_or(|s| s.len() == 1);
            if pair[0] != pair[1] && !(alone(pair[0]) && alone(pair[1])) {
                self.differ(&name, "hard links", show(pair[0]), show(pair[1]));
            }
        }
    }
}

/// Every name below `root` with its kind, for tests that only want to know what is there.
pub(crate) fn listing(root: &Path) -> Vec<(String, FileType)> {
    let mut found = Vec::new();
    let mut todo = vec![root.to_path_buf()];
    while let Some(dir) = todo.pop() {
        let fd = rustix::fs::open(&dir, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
        for entry in Dir::new(fd.expect("a directory")).expect("a directory") {
            let entry = entry.expect("an entry");
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let path = dir.join(name);
            let rel = path.strip_prefix(root).expect("below root");
            found.push((rel.to_string_lossy().into_owned(), entry.file_type()));
            if entry.file_type() == FileType::Directory {
                todo.push(path);
            }
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}
