// SPDX-License-Identifier: MIT
//! FLOOR 1: asynchronous disk. Many operations at once, none lost.
//!
//! An [`Engine`] stands for one way to reach the disk: io_uring where the kernel lets us, plain
//! calls where not. Each thread asks it for a [`Disk`] of its own. Two things are to be had there
//! that plain calls do not give: an operation that runs while its caller does something else
//! ([`Disk::overlap`]), and many operations in order for one system call ([`Disk::chain`]).
//!
//! Operations are made with the credentials of the calling thread, as plain calls are.
//!
//! One of the two rooms in which `unsafe` is allowed. Imports `sys` and `metrics` at most.

mod buffer;
mod chain;
mod counters;
pub mod fuse;
mod io;
mod kernel;
mod probe;
mod ring;
mod threads;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

pub use buffer::{Buffers, Bytes, CHUNK, NoRoom, Usage};
pub use counters::{Count, Counters, Opcode};
pub use io::{How, Io, Outcome, Payload};
pub use probe::{Probe, probe};

use kernel::Kernel;
use ring::Ring;
use threads::Threads;

/// Which way to the disk is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A ring if there is one to be had.
    Auto,
    /// A ring, or an error that says why not.
    Uring,
    /// Plain calls.
    Threads,
}

/// The way that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// A ring that writes from registered buffers where that pays.
    Fixed,
    /// A ring without registered buffers.
    Plain,
    /// Plain calls by the calling thread.
    Threads,
}

impl Rung {
    /// Its name in status.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fixed => "uring-fixed",
            Self::Plain => "uring",
            Self::Threads => "threads",
        }
    }
}

/// One way to reach the disk, shared by all threads.
#[derive(Debug)]
pub struct Engine {
    /// Tells the disks of one engine from those of another, in a thread's own memory.
    id: u64,
    counters: Arc<Counters>,
    /// The lowest rung anyone stands on, and why it is not a higher one.
    stand: Mutex<(Rung, Option<String>)>,
}

static ENGINES: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The disk of this thread, and the engine it is from.
    static DISK: RefCell<Option<(u64, Disk)>> = const { RefCell::new(None) };
}

impl Engine {
    /// The way that is wished for, or the best there is.
    ///
    /// # Errors
    /// Why there is no ring, if one was insisted on.
    pub fn new(wish: Wish) -> Result<Self, String> {
        let probed = (wish != Wish::Threads).then(probe);
        let stand = match probed {
            None => (Rung::Threads, None),
            Some(Probe::Available { fixed: true }) => (Rung::Fixed, None),
            Some(Probe::Available { fixed: false }) => {
                let why = "this kernel's io_uring does not know WRITE_FIXED";
                (Rung::Plain, Some(why.to_owned()))
            }
            Some(Probe::Unavailable(why)) if wish == Wish::Uring => return Err(why),
            Some(Probe::Unavailable(why)) => (Rung::Threads, Some(why)),
        };
        Ok(Self {
            id: ENGINES.fetch_add(1, Ordering::Relaxed),
            counters: Arc::new(Counters::default()),
            stand: Mutex::new(stand),
        })
    }

    /// A disk for the calling thread, to keep.
    #[must_use]
    pub fn disk(self: &Arc<Self>) -> Disk {
        let (rung, _) = self.stand();
        if rung == Rung::Threads {
            return self.plain();
        }
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        match Kernel::new(ring::depth(cpus)) {
            Ok(kernel) => {
                self.counters.count(Count::Rings);
                let ring = Ring::new(kernel, Arc::clone(&self.counters), rung == Rung::Fixed);
                Disk {
                    way: Way::Ring(Box::new(ring)),
                    engine: Arc::clone(self),
                }
            }
            Err(errno) => {
                self.complain(Rung::Threads, format!("no ring for a thread: {errno}"));
                self.plain()
            }
        }
    }

    /// A disk that makes plain calls, whatever else there is: for what a ring does not pay for,
    /// which is most small buffered writes.
    #[must_use]
    pub fn plain(self: &Arc<Self>) -> Disk {
        Disk {
            way: Way::Threads(Threads::new(Arc::clone(&self.counters))),
            engine: Arc::clone(self),
        }
    }

    /// Lends `work` the calling thread's disk, which is made when first asked for and kept until
    /// the thread ends. Inside of `work` the same thread gets plain calls.
    pub fn with_disk<R>(self: &Arc<Self>, work: impl FnOnce(&mut Disk) -> R) -> R {
        let mut work = Some(work);
        let lent = DISK.try_with(|disk| {
            let mut disk = disk.try_borrow_mut().ok()?;
            let work = work.take()?;
            let (_, disk) = match &mut *disk {
                Some(kept) if kept.0 == self.id => kept,
                other => other.insert((self.id, self.disk())),
            };
            Some(work(disk))
        });
        match (lent, work) {
            (Ok(Some(result)), _) => result,
            (_, Some(work)) => work(&mut self.plain()),
            (_, None) => unreachable!("work that was done has a result"),
        }
    }

    /// Whether there is a ring to be had, as far as is known.
    #[must_use]
    pub fn has_ring(&self) -> bool {
        self.stand.lock().0 != Rung::Threads
    }

    /// What was asked of the disk so far, by all threads.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The lowest rung that anyone stands on, and why it is not a higher one.
    #[must_use]
    pub fn stand(&self) -> (Rung, Option<String>) {
        self.stand.lock().clone()
    }

    /// Someone stands lower than thought: said once for each rung.
    fn complain(&self, rung: Rung, why: String) {
        let mut stand = self.stand.lock();
        if rung <= stand.0 {
            return;
        }
        tracing::warn!("{why}; going on with io={}", rung.name());
        *stand = (rung, Some(why));
    }
}

/// A thread's way to the disk.
#[derive(Debug)]
pub struct Disk {
    way: Way,
    engine: Arc<Engine>,
}

#[derive(Debug)]
enum Way {
    Ring(Box<Ring<Kernel>>),
    Threads(Threads),
}

impl Disk {
    /// Runs `ops` one after the other, in order: each begins when the one before it has succeeded
    /// in full, and none after one that failed. All have ended when this returns.
    pub fn chain<P: Payload>(&mut self, ops: &[Io<'_, P>]) -> Vec<Outcome> {
        let outcomes = match &mut self.way {
            Way::Ring(ring) => ring.chain(ops),
            Way::Threads(threads) => threads.chain(ops),
        };
        self.listen();
        outcomes
    }

    /// As [`Self::chain`], but an operation that takes longer than `limit` is stopped and failed
    /// with [`crate::sys::Errno::TIMEDOUT`], or is [`Outcome::Held`] if it cannot be stopped. It
    /// costs one system call for each operation. Without a ring nothing can be stopped, and there
    /// is no limit.
    pub fn chain_within(&mut self, ops: &[Io<'_, Bytes>], limit: Duration) -> Vec<Outcome> {
        let outcomes = match &mut self.way {
            Way::Ring(ring) => ring.chain_within(ops, limit),
            Way::Threads(threads) => threads.chain(ops),
        };
        self.listen();
        outcomes
    }

    /// Starts `op`, does `work` meanwhile, then waits for `op`: both have ended when this returns
    /// or unwinds. Without a ring, `work` comes first and `op` after it.
    pub fn overlap<P: Payload, R>(
        &mut self,
        op: &Io<'_, P>,
        work: impl FnOnce() -> R,
    ) -> (R, Outcome) {
        let result = match &mut self.way {
            Way::Ring(ring) => ring.overlap(op, work),
            Way::Threads(threads) => threads.overlap(op, work),
        };
        self.listen();
        result
    }

    /// How many operations were [`Outcome::Held`] and have not ended since. While it is not 0, the
    /// files they concern may still change.
    pub fn held(&mut self) -> usize {
        match &mut self.way {
            Way::Ring(ring) => ring.held(),
            Way::Threads(_) => 0,
        }
    }

    /// Whether `op` and `work` of [`Self::overlap`] really run at once.
    #[must_use]
    pub fn overlaps(&self) -> bool {
        matches!(self.way, Way::Ring(_))
    }

    /// Passes on what the ring has to say about itself.
    fn listen(&mut self) {
        if let Way::Ring(ring) = &mut self.way
            && let Some(why) = ring.take_complaint()
        {
            self.engine.complain(Rung::Plain, why);
        }
    }
}

#[cfg(test)]
mod tests;
