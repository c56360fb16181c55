// SPDX-License-Identifier: MIT
//! The offline reconciliation: two roots compared name by name, the replica made equal if asked.
//!
//! It begins with two directory descriptors that nobody else writes through, and ends with a
//! [`Summary`] or the first [`Failure`]. The primary is only ever read. Seeding is the repair of an
//! empty tree. Making the result durable (`syncfs`), and saying "in-sync", is the caller's.
//!
//! Two rules keep a repair from reaching what is not ours: a replica inode that has other names is
//! never changed in place but replaced (its other names may lie outside the tree, or be the
//! primary's), and nothing is resolved but one name at a time ([`walk`]).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use std::vec;

use rustix::fs::{FileType, OFlags};

use crate::mirror::attach::stamp;
use crate::mirror::failure::{Copy, Failure, show_path};
use crate::store::name::Name;
use crate::store::stat::Stat;
use crate::store::walk::{self, Descent};
use crate::sys::{Errno, at};
use attrs::Attrs;
pub use attrs::{Lack, Lacks};
use content::{Content, On, Trouble};
pub use progress::Progress;

pub(super) mod attrs;
pub(super) mod content;
pub(super) mod object;
pub mod progress;
#[cfg(test)]
mod tests;

/// How to reconcile.
#[derive(Clone, Debug)]
pub struct How {
    /// Make the replica equal; otherwise only report.
    pub repair: bool,
    /// Believe size and mtime: no content and no hole map is looked at where both agree.
    pub quick: bool,
    /// Differences and losses listed in the summary; the rest are counted.
    pub kept_max: usize,
    /// Names that may be removed from the replica (`--max-delete`).
    pub deletions_max: Option<u64>,
    /// Leave out what is mounted below the primary; otherwise a mount point is a failure.
    pub one_file_system: bool,
    /// What this mirror was told to do without: such differences are none.
    pub ignore: Lacks,
    /// Both trees are in use while they are compared: what comes, goes or moves meanwhile is a
    /// difference to be looked at again, not a failure. Not together with `repair`.
    pub live: bool,
    /// Set from outside to stop with `EINTR`.
    pub stop: Option<Arc<AtomicBool>>,
    /// Give up with `ETIME` then.
    pub until: Option<Instant>,
}

impl Default for How {
    fn default() -> Self {
        Self {
            repair: false,
            quick: false,
            kept_max: 1000,
            deletions_max: None,
            one_file_system: false,
            ignore: Lacks::default(),
            live: false,
            stop: None,
            until: None,
        }
    }
}

impl How {
    /// Whether nobody wants it to stop.
    fn goes_on(&self) -> Result<(), Errno> {
        let is_set = |stop: &Arc<AtomicBool>| stop.load(Ordering::Relaxed);
        if self.stop.as_ref().is_some_and(is_set) {
            return Err(Errno::INTR);
        }
        match self.until {
            Some(until) if Instant::now() >= until => Err(Errno::TIME),
            _ => Ok(()),
        }
    }
}

/// What kind of difference; the words of `verify --json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes, size or holes of a regular file.
    Data,
    /// Mode, owner, times, xattrs, flags.
    Metadata,
    /// A name: missing, extra, of another type, or another link.
    Entry,
}

impl Kind {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Metadata => "metadata",
            Self::Entry => "entry",
        }
    }
}

/// One difference, as `verify` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Relative to the roots; empty for the roots themselves.
    pub path: Vec<u8>,
    /// What kind.
    pub kind: Kind,
    /// Of the first differing block, for data.
    pub offset: Option<u64>,
    /// In words.
    pub detail: String,
    /// Another name of the object, if this is about which names are one inode.
    pub other: Option<Vec<u8>>,
    /// Of live trees, to find it again when it has been moved: the primary's inode numbers of the
    /// directories above it, from the top down, and its own.
    pub trail: Vec<u64>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", show_path(&self.path), self.detail)
    }
}

/// Something the replica could not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Relative to the roots.
    pub path: Vec<u8>,
    /// What kind.
    pub lack: Lack,
    /// In words.
    pub detail: String,
}

/// What a whole reconciliation found and did.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Names compared, directories and all.
    pub entries: u64,
    /// Regular files among them.
    pub files: u64,
    /// Bytes compared or copied.
    pub bytes: u64,
    /// Bytes written to files that existed on the replica already.
    pub bytes_repaired: u64,
    /// Objects made on the replica.
    pub created: u64,
    /// Names removed from the replica.
    pub removed: u64,
    /// Objects that were repaired in place.
    pub repaired: u64,
    /// The first `kept_max` differences, in the order of the walk.
    pub differences: Vec<Difference>,
    /// All of them.
    pub differences_total: u64,
    /// The first `kept_max` losses.
    pub losses: Vec<Loss>,
    /// All of them.
    pub losses_total: u64,
    /// Their kinds.
    pub lacks: Lacks,
}

/// Compares two trees by their roots and, if asked, makes the replica equal.
///
/// # Errors
/// The first call that failed on either copy. After a failure in the middle of a repair the
/// replica is inconsistent: running again continues.
pub fn reconcile(
    primary: BorrowedFd<'_>,
    replica: BorrowedFd<'_>,
    how: How,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Summary, Failure> {
    let at_root = |copy| {
        move |errno| Failure {
            copy,
            path: Vec::new(),
            call: "openat2",
            errno,
        }
    };
    let used = rustix::fs::fstatvfs(primary).map_or(0, |fs| {
        fs.f_blocks
            .saturating_sub(fs.f_bfree)
            .saturating_mul(fs.f_frsize)
    });
    let mut engine = Engine {
        how,
        primary: Descent::new(primary).map_err(at_root(Copy::Primary))?,
        replica: Descent::new(replica).map_err(at_root(Copy::Replica))?,
        path: Vec::new(),
        summary: Summary::default(),
        links: object::Links::default(),
        content: Content::new(),
        seen: Progress {
            bytes_max: used,
            ..Progress::default()
        },
        progress,
    };
    match engine.run() {
        Ok(()) => Ok(engine.summary),
        Err(trouble) => Err(Failure {
            copy: trouble.copy,
            path: engine.path,
            call: trouble.call,
            errno: trouble.errno,
        }),
    }
}

type Outcome<T> = Result<T, Trouble>;

/// Where a name was listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listed {
    Primary,
    Replica,
    Both,
}

/// Whether a name is a directory both descents have just gone into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Down {
    No,
    Existing,
    /// The replica's was made just now.
    New,
}

/// One level of the walk.
#[derive(Debug)]
struct Frame {
    /// Names not visited yet.
    names: vec::IntoIter<(Name, Listed)>,
    /// Length of the parent's path.
    parent_len: usize,
    /// What the replica's directory must be like in the end.
    want: Attrs,
    /// Made by us: everything in it is new, and one difference was enough.
    is_new: bool,
    /// Its attributes differ, or we changed something in it: carry them over at the end.
    mend: bool,
    /// Made changeable.
    unlocked: bool,
}

struct Engine<'a> {
    how: How,
    primary: Descent,
    replica: Descent,
    /// The object being looked at, relative to the roots.
    path: Vec<u8>,
    summary: Summary,
    links: object::Links,
    content: Content,
    seen: Progress,
    progress: &'a mut dyn FnMut(&Progress),
}

impl Engine<'_> {
    fn run(&mut self) -> Outcome<()> {
        let mut frames = vec![self.enter(0, false)?];
        while let Some(frame) = frames.last_mut() {
            let Some((name, listed)) = frame.names.next() else {
                self.leave(frame)?;
                self.path.truncate(frame.parent_len);
                frames.pop();
                if !frames.is_empty() {
                    self.climb()?;
                }
                continue;
            };
            self.check_stop()?;
            let len = self.path.len();
            if len > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.as_c_str().to_bytes());
            let visited = self.visit(frame, &name, listed);
            let visited = visited.or_else(|trouble| self.moving(trouble, Down::No));
            let entered = match visited? {
                Down::Existing => Some(self.enter(len, false)),
                Down::New => Some(self.enter(len, true)),
                Down::No => None,
            };
            match entered {
                Some(Ok(frame)) => frames.push(frame),
                Some(Err(trouble)) => {
                    self.moving(trouble, ())?;
                    self.climb()?;
                    self.path.truncate(len);
                }
                None => self.path.truncate(len),
            }
        }
        self.summary.bytes = self.seen.bytes;
        self.check_apart()
    }

    /// In a live tree an object may be another one by the time it is opened: a difference, not a
    /// failure.
    fn moving<T>(&mut self, trouble: Trouble, then: T) -> Outcome<T> {
        let gone = matches!(
            trouble.errno,
            Errno::NOENT
                | Errno::STALE
                | Errno::NOTDIR
                | Errno::ISDIR
                | Errno::LOOP
                | Errno::NXIO
                | Errno::BUSY
                | Errno::NODATA
                | Errno::RANGE
        );
        if !self.how.live || self.how.repair || !gone {
            return Err(trouble);
        }
        let errno = crate::mirror::failure::Named(trouble.errno);
        let copy = trouble.copy;
        self.report(Kind::Entry, None, || {
            format!("changed on the {copy} while it was compared: {errno}")
        });
        Ok(then)
    }

    /// Both descents go up again.
    fn climb(&mut self) -> Outcome<()> {
        self.primary.pop().on(Copy::Primary, "openat")?;
        self.replica.pop().on(Copy::Replica, "openat")
    }

    fn check_stop(&self) -> Outcome<()> {
        self.how.goes_on().on(Copy::Primary, "walk")
    }

    /// Begins with the directory both descents are in.
    fn enter(&mut self, parent_len: usize, is_new: bool) -> Outcome<Frame> {
        let is_root = self.replica.depth() == 0;
        let want = Attrs::read(self.primary.top(), Copy::Primary, is_root)?;
        let mut mend = is_new;
        if !is_new {
            let have = Attrs::read(self.replica.top(), Copy::Replica, is_root)?;
            mend = self.report_attrs(&want, &have);
        }
        let in_primary = walk::names(self.primary.top()).on(Copy::Primary, "getdents64")?;
        let in_replica = if is_new {
            Vec::new()
        } else {
            walk::names(self.replica.top()).on(Copy::Replica, "getdents64")?
        };
        let mut names = merged(in_primary, in_replica);
        if is_root {
            names.retain(|(name, _)| !stamp::is_ours(name));
        }
        // What goes makes room for what comes: a replica may have failed because it was full.
        names.sort_by_key(|&(_, listed)| listed != Listed::Replica);
        Ok(Frame {
            names: names.into_iter(),
            parent_len,
            want,
            is_new,
            mend,
            unlocked: false,
        })
    }

    /// All names of a directory are done: now its own attributes, its times above all.
    fn leave(&mut self, frame: &Frame) -> Outcome<()> {
        if self.how.repair && frame.mend {
            self.carry_over(&frame.want, None, frame.is_new)?;
        }
        Ok(())
    }

    /// One name of the present directories.
    fn visit(&mut self, frame: &mut Frame, name: &Name, listed: Listed) -> Outcome<Down> {
        let primary = match listed {
            Listed::Replica => None,
            _ => self.stat(Copy::Primary, name)?,
        };
        let mut replica = match listed {
            Listed::Primary => None,
            _ => self.stat(Copy::Replica, name)?,
        };
        let Some(primary) = primary else {
            if replica.is_some() {
                self.report(Kind::Entry, None, || "on replica only".to_owned());
                if self.how.repair {
                    self.remove(frame, name)?;
                }
            }
            return Ok(Down::No);
        };
        self.summary.entries += 1;
        self.seen.entries += 1;
        if primary.kind() == FileType::RegularFile {
            self.summary.files += 1;
            self.seen.files += 1;
        }
        (self.progress)(&self.seen);
        let mut reported = frame.is_new;
        if let Some(other) = replica
            && other.kind() != primary.kind()
        {
            let (p, r) = (word(primary.kind()), word(other.kind()));
            self.report(Kind::Entry, None, || {
                format!("{p} on primary, {r} on replica")
            });
            if !self.how.repair {
                return Ok(Down::No);
            }
            self.remove(frame, name)?;
            reported = true;
            replica = None;
        }
        match replica {
            None => {
                // Files and directories are never among what a mirror may do without.
                let special =
                    !matches!(primary.kind(), FileType::RegularFile | FileType::Directory);
                let lost = special && self.how.ignore.contains(Lack::Entry) && !self.how.repair;
                if !reported && !lost {
                    self.report(Kind::Entry, None, || "on primary only".to_owned());
                }
                if !self.how.repair {
                    return Ok(Down::No);
                }
                self.unlock(frame)?;
                self.create(name, &primary)
            }
            Some(_) if primary.is_dir() => self.descend(frame, name),
            Some(replica) => self.compare_object(frame, name, &primary, &replica),
        }
    }

    fn stat(&self, copy: Copy, name: &Name) -> Outcome<Option<Stat>> {
        let dir = match copy {
            Copy::Primary => self.primary.top(),
            Copy::Replica => self.replica.top(),
        };
        match Stat::of_name(dir, name.as_c_str()) {
            // Gone since it was listed.
            Err(Errno::NOENT) => Ok(None),
            found => found.map(Some).on(copy, "statx"),
        }
    }

    /// Both have this directory: go down, unless something is mounted there and that is allowed.
    fn descend(&mut self, frame: &mut Frame, name: &Name) -> Outcome<Down> {
        let name = name.as_c_str();
        let below = match walk::open_dir(self.primary.top(), name) {
            Err(Errno::XDEV) if self.how.one_file_system => return Ok(Down::No),
            opened => opened.on(Copy::Primary, "openat2")?,
        };
        let other = match walk::open_dir(self.replica.top(), name) {
            Err(Errno::ACCESS) if self.how.repair => {
                let held = walk::open(self.replica.top(), name, OFlags::PATH, 0)
                    .on(Copy::Replica, "openat2")?;
                at::chmod(held.as_fd(), 0o700).on(Copy::Replica, "fchmodat2")?;
                frame.mend = true;
                walk::open_dir(self.replica.top(), name).on(Copy::Replica, "openat2")?
            }
            opened => opened.on(Copy::Replica, "openat2")?,
        };
        self.push(below, other)?;
        Ok(Down::Existing)
    }

    fn push(&mut self, primary: OwnedFd, replica: OwnedFd) -> Outcome<()> {
        self.primary.push(primary).on(Copy::Primary, "statx")?;
        let pushed = self.replica.push(replica).on(Copy::Replica, "statx");
        if pushed.is_err() {
            // Both or neither: the walk goes on when the trees are live.
            self.primary.pop().on(Copy::Primary, "openat")?;
        }
        pushed
    }

    /// Before the first change in the replica's present directory.
    fn unlock(&mut self, frame: &mut Frame) -> Outcome<()> {
        if !frame.unlocked {
            walk::unlock(self.replica.top()).on(Copy::Replica, "unlock")?;
            frame.unlocked = true;
        }
        frame.mend = true;
        Ok(())
    }

    /// Removes a name, and everything below it, from the replica.
    fn remove(&mut self, frame: &mut Frame, name: &Name) -> Outcome<()> {
        self.unlock(frame)?;
        let removed = &mut self.summary.removed;
        let limit = self.how.deletions_max.unwrap_or(u64::MAX);
        walk::remove(self.replica.top(), name, &mut || {
            *removed += 1;
            *removed <= limit
        })
        .on(Copy::Replica, "unlinkat")
    }

    /// Reports how the attributes differ; true when they do.
    fn report_attrs(&mut self, want: &Attrs, have: &Attrs) -> bool {
        // A repair tries again what could not be held before; the disk may be a better one.
        let ignore = if self.how.repair {
            Lacks::default()
        } else {
            self.how.ignore
        };
        let found = want.differences(have, ignore);
        let any = !found.is_empty();
        for detail in found {
            self.report(Kind::Metadata, None, || detail);
        }
        any
    }

    fn report(&mut self, kind: Kind, offset: Option<u64>, detail: impl FnOnce() -> String) {
        self.summary.differences_total += 1;
        if self.summary.differences.len() < self.how.kept_max {
            let trail = if self.how.live {
                self.trail()
            } else {
                Vec::new()
            };
            self.summary.differences.push(Difference {
                path: self.path.clone(),
                kind,
                offset,
                detail: detail(),
                other: None,
                trail,
            });
        }
    }

    /// Reports what two names have to do with each other.
    fn report_link(&mut self, (detail, other): (String, Vec<u8>)) {
        self.report(Kind::Entry, None, || detail);
        if let Some(last) = self.summary.differences.last_mut()
            && last.path == self.path
        {
            last.other = Some(other);
        }
    }

    /// The inode numbers that lead to the object we look at.
    fn trail(&self) -> Vec<u64> {
        use std::os::unix::ffi::OsStrExt as _;
        let mut trail: Vec<_> = self.primary.trail().collect();
        let mut parts = self.path.split(|&byte| byte == b'/');
        if trail.len() < parts.clone().count()
            && let Some(last) = parts.next_back()
            && let Ok(name) = Name::new(std::ffi::OsStr::from_bytes(last))
            && let Ok(stat) = Stat::of_name(self.primary.top(), name.as_c_str())
        {
            trail.push(stat.ident.ino);
        }
        trail
    }

    fn lose(&mut self, lack: Lack, detail: String) {
        let (path, kept_max) = (self.path.clone(), self.how.kept_max);
        lose(&mut self.summary, kept_max, path, lack, detail);
    }

    /// Carries attributes over to `fd`, or to the replica's present directory.
    fn carry_over(
        &mut self,
        want: &Attrs,
        fd: Option<BorrowedFd<'_>>,
        is_new: bool,
    ) -> Outcome<()> {
        let is_root = fd.is_none() && self.replica.depth() == 0;
        if !is_new {
            self.summary.repaired += 1;
        }
        let (summary, path, kept_max) = (&mut self.summary, &self.path, self.how.kept_max);
        let fd = fd.unwrap_or_else(|| self.replica.top());
        want.carry_over(fd, is_root, is_new, &mut |lack, detail| {
            lose(summary, kept_max, path.clone(), lack, detail);
        })
    }
}

fn lose(summary: &mut Summary, kept_max: usize, path: Vec<u8>, lack: Lack, detail: String) {
    summary.losses_total += 1;
    summary.lacks.insert(lack);
    if summary.losses.len() < kept_max {
        summary.losses.push(Loss { path, lack, detail });
    }
}

/// Two sorted lists as one.
fn merged(primary: Vec<Name>, replica: Vec<Name>) -> Vec<(Name, Listed)> {
    let mut names = Vec::with_capacity(primary.len().max(replica.len()));
    let (mut p, mut r) = (
        primary.into_iter().peekable(),
        replica.into_iter().peekable(),
    );
    loop {
        let listed = match (p.peek(), r.peek()) {
            (Some(a), Some(b)) if a == b => Listed::Both,
            (Some(a), Some(b)) if a > b => Listed::Replica,
            (Some(_), _) => Listed::Primary,
            (None, Some(_)) => Listed::Replica,
            (None, None) => return names,
        };
        let name = match listed {
            Listed::Replica => r.next(),
            Listed::Primary => p.next(),
            Listed::Both => {
                r.next();
                p.next()
            }
        };
        names.extend(name.map(|name| (name, listed)));
    }
}

pub(in crate::mirror) fn word(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        FileType::Unknown => "unknown object",
    }
}
