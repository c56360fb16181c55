// SPDX-License-Identifier: MIT
//! The offline reconciliation: two roots compared name by name, the replica made equal if asked.
//!
//! It begins with two directory descriptors that nobody else writes through, and ends with a
//! [`Summary`] or the first [`Failure`]. The primary is only ever read. Seeding is the repair of an
//! empty tree. Making the result durable (`syncfs`), and saying "in-sync", is the caller's.
//!
//! Several workers walk both trees together (worker.rs); what they find does not depend on which of
//! them found it.
//!
//! Two rules keep a repair from reaching what is not ours: a replica inode that has other names is
//! never changed in place but replaced (its other names may lie outside the tree, or be the
//! primary's), and nothing is resolved but one name at a time ([`walk`]).

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use rustix::fs::FileType;

use crate::mirror::failure::{Copy, Failure, show_path};
use crate::store::walk;
use crate::sys::Errno;
use attrs::{Attrs, Proven};
pub use attrs::{Lack, Lacks};
use branch::{Branch, Opened, Pair};
use content::{On, Trouble};
use links::Links;
pub use progress::Progress;
use queue::Queue;
use worker::Worker;

pub(super) mod attrs;
mod branch;
pub(super) mod content;
pub(super) mod links;
pub(super) mod object;
pub mod progress;
mod queue;
#[cfg(test)]
mod tests;
mod worker;

/// How to reconcile.
#[derive(Clone, Debug)]
pub struct How {
    /// Make the replica equal; otherwise only report.
    pub repair: bool,
    /// Believe size and mtime: no content and no hole map is looked at where both agree.
    pub quick: bool,
    /// With `quick`, and where nothing is repaired: read content where size or mtime differ, to say
    /// where it does.
    pub locates: bool,
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
    /// Bytes to compare or copy per second, at most.
    pub bytes_per_second: Option<u64>,
    /// Threads that walk, this one included: at least 1.
    pub workers: usize,
}

/// More would only wait for the disks.
const WORKERS_MAX: usize = 8;

impl Default for How {
    fn default() -> Self {
        Self {
            repair: false,
            quick: false,
            locates: false,
            kept_max: 1000,
            deletions_max: None,
            one_file_system: false,
            ignore: Lacks::default(),
            live: false,
            stop: None,
            until: None,
            bytes_per_second: None,
            workers: std::thread::available_parallelism()
                .map_or(1, |cpus| cpus.get().min(WORKERS_MAX)),
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

/// Compares two trees by their roots and, if asked, makes the replica equal. `progress` is called on
/// this thread.
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
    let used = rustix::fs::fstatvfs(primary).map_or(0, |fs| {
        fs.f_blocks
            .saturating_sub(fs.f_bfree)
            .saturating_mul(fs.f_frsize)
    });
    let open = |dir, copy| {
        let opened = walk::reopen(dir).on(copy, "openat2");
        opened.map_err(|trouble| trouble.at(Vec::new()))
    };
    let roots = || -> Result<_, Failure> {
        let (p, r) = (open(primary, Copy::Primary)?, open(replica, Copy::Replica)?);
        Ok(Arc::new(Pair::new(p, r)))
    };
    let root = roots()?;
    let mut shared = Shared::new(how, &root, used);
    shared.walk(&root, progress)?;
    if shared.has_uneven.load(Ordering::Relaxed) {
        // Which of two names is wrong depends on which was seen first.
        let root = roots()?;
        let alone = How {
            workers: 1,
            ..shared.how.clone()
        };
        let mut again = Shared::new(alone, &root, used);
        again.links_only = true;
        std::mem::swap(&mut again.found, &mut shared.found);
        again.walk(&root, &mut |_| ())?;
        shared.found = again.found;
    }
    Ok(shared.summary())
}

type Outcome<T> = Result<T, Trouble>;

/// Something to do.
#[derive(Debug)]
enum Task {
    /// Go into a directory, and look at its names.
    Enter(Arc<Branch>),
    /// Help with the names of a directory that somebody is in.
    Names(Arc<Branch>),
}

/// What all who work on one reconciliation have in common.
#[derive(Debug)]
struct Shared {
    how: How,
    queue: Queue<Task>,
    opened: Opened,
    links: Links,
    proven: Mutex<Proven>,
    counts: Counts,
    found: Mutex<Findings>,
    /// Directories whose attributes would lock us out: done in the end.
    late: Mutex<Vec<(Arc<Branch>, Attrs)>>,
    /// The first one.
    failure: Mutex<Option<Failure>>,
    began: Instant,
    bytes_max: u64,
    /// Only which names are one inode is looked at.
    links_only: bool,
    /// Hard links differ, and were not reported.
    has_uneven: AtomicBool,
}

impl Shared {
    fn new(how: How, root: &Arc<Pair>, bytes_max: u64) -> Self {
        Self {
            found: Mutex::new(Findings::new(how.kept_max)),
            queue: Queue::new(Task::Enter(Branch::root(root.clone()))),
            opened: Opened::new(),
            links: Links::default(),
            proven: Proven::lacking(how.ignore),
            counts: Counts::default(),
            late: Mutex::default(),
            failure: Mutex::default(),
            began: Instant::now(),
            bytes_max,
            links_only: false,
            has_uneven: AtomicBool::new(false),
            how,
        }
    }

    /// Walks both trees from their roots to the end.
    fn walk(&self, root: &Arc<Pair>, progress: &mut dyn FnMut(&Progress)) -> Result<(), Failure> {
        let mut own = Worker::new(self, root, Some(progress));
        std::thread::scope(|scope| {
            for _ in 1..self.how.workers {
                let work = || {
                    let _over = GivesUp(&self.queue);
                    Worker::new(self, root, None).run();
                };
                let builder = std::thread::Builder::new().name("resync".to_owned());
                if builder.spawn_scoped(scope, work).is_err() {
                    break; // the others do it
                }
            }
            let _over = GivesUp(&self.queue);
            own.run();
        });
        let failed = self.failure.lock().take();
        failed.map_or(Ok(()), Err)?;
        own.leave_late().map_err(|trouble| trouble.at(own.path()))?;
        self.check_apart()
    }

    /// No inode may have been found in both trees.
    fn check_apart(&self) -> Result<(), Failure> {
        let Some((path, own)) = self.links.shared() else {
            return Ok(());
        };
        if !self.how.live {
            let (copy, call) = (Copy::Replica, "link");
            let errno = Errno::MLINK;
            return Err(Failure {
                copy,
                path,
                call,
                errno,
            });
        }
        // A number that was free again, most likely: it is looked at once more.
        self.found.lock().report(Difference {
            path,
            kind: Kind::Entry,
            offset: None,
            detail: links::BOTH.to_owned(),
            other: Some(own),
            trail: Vec::new(),
        });
        Ok(())
    }

    /// Ends the work of all.
    fn fail(&self, failure: Failure) {
        self.failure.lock().get_or_insert(failure);
        self.queue.give_up();
    }

    fn progress(&self) -> Progress {
        Progress {
            entries: self.counts.entries.get(),
            files: self.counts.files.get(),
            bytes: self.counts.bytes.get(),
            bytes_max: self.bytes_max,
        }
    }

    fn summary(&self) -> Summary {
        let counts = &self.counts;
        let found = std::mem::take(&mut *self.found.lock());
        Summary {
            entries: counts.entries.get(),
            files: counts.files.get(),
            bytes: counts.bytes.get(),
            bytes_repaired: counts.bytes_repaired.get(),
            created: counts.created.get(),
            removed: counts.removed.get(),
            repaired: counts.repaired.get(),
            differences_total: found.differences_total,
            differences: found.differences.into_values().collect(),
            losses_total: found.losses_total,
            losses: found.losses.into_values().collect(),
            lacks: found.lacks,
        }
    }
}

/// Whoever panics keeps nobody waiting.
struct GivesUp<'a>(&'a Queue<Task>);

impl Drop for GivesUp<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.give_up();
        }
    }
}

/// A number that several threads count up.
#[derive(Debug, Default)]
struct Count(AtomicU64);

impl Count {
    /// Returns what it was before.
    fn add(&self, more: u64) -> u64 {
        self.0.fetch_add(more, Ordering::Relaxed)
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
struct Counts {
    entries: Count,
    files: Count,
    bytes: Count,
    bytes_repaired: Count,
    created: Count,
    removed: Count,
    repaired: Count,
}

/// Where in a list something belongs: its path, a directory before what is in it; among what is said of
/// one path what it is about, and then which came first.
type Order = (Vec<u8>, u8, u64);

/// What was found, the same whoever found it first.
#[derive(Debug, Default)]
struct Findings {
    kept_max: usize,
    differences: BTreeMap<Order, Difference>,
    differences_total: u64,
    losses: BTreeMap<Order, Loss>,
    losses_total: u64,
    lacks: Lacks,
}

impl Findings {
    fn new(kept_max: usize) -> Self {
        Self {
            kept_max,
            ..Self::default()
        }
    }

    fn order(path: &[u8], rank: u8, count: u64) -> Order {
        let key = |&byte: &u8| if byte == b'/' { 0 } else { byte };
        (path.iter().map(key).collect(), rank, count)
    }

    fn report(&mut self, found: Difference) {
        let rank = match found.kind {
            Kind::Entry => 0,
            Kind::Metadata => 1,
            Kind::Data => 2,
        };
        let order = Self::order(&found.path, rank, self.differences_total);
        self.differences_total += 1;
        self.differences.insert(order, found);
        if self.differences.len() > self.kept_max {
            self.differences.pop_last();
        }
    }

    fn lose(&mut self, path: Vec<u8>, lack: Lack, detail: String) {
        let order = Self::order(&path, lack as u8, self.losses_total);
        self.losses_total += 1;
        self.lacks.insert(lack);
        self.losses.insert(order, Loss { path, lack, detail });
        if self.losses.len() > self.kept_max {
            self.losses.pop_last();
        }
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
