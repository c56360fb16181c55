// SPDX-License-Identifier: MIT
//! `Lane`: how ops get to a replica, and whether they still do.
//!
//! Two ways. *Inline* (`mode=sync`): the thread that served the primary carries the op on, from
//! the same buffer, before the application is answered. *Queued* (`mode=async`): the op waits in a
//! [`Window`], with a copy of its data, for the lane's own thread.
//!
//! A lane is open until its replica fails for the first time; from then on nothing more is sent,
//! because a replica with a gap in it is worth less than one that stops at a known moment.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use smallvec::SmallVec;

use super::replica::{Done, Fault, Replica};
use super::window::{Lag, Limits, Obstacle, Ticket, Window};
use crate::store::direct::LARGE;
use crate::store::op::{Action, Op};
use crate::store::{Node, Piece, Scope, Space, Stat, Time};
use crate::sys::creds::Needs;
use crate::sys::{Errno, Result};
use crate::uring::{Buffers, Bytes};

/// From here on, in bytes, a write goes to both copies at once.
const BESIDE_MIN: usize = 512 << 10;
/// Writes that go to the replica in one chain, and their bytes: not more than it can take before
/// anyone who watches thinks that it has stalled.
const CHAIN_MAX: usize = 32;
const CHAIN_BYTES: usize = 16 << 20;

/// What waits to be done on the replica, complete in itself.
#[derive(Debug)]
pub enum Task {
    /// Do what the primary did.
    Follow {
        needs: Needs,
        action: Action,
        data: Data,
        done: Done,
    },
    /// Take over the primary's times.
    Times {
        node: Arc<Node>,
        atime: Time,
        mtime: Time,
    },
    /// Follow a change that failed on the primary.
    Conform { node: Arc<Node>, like: Stat },
}

/// A copy of an op's data, for as long as it waits.
#[derive(Debug)]
pub enum Data {
    /// In the lane's buffers.
    Pooled(Bytes),
    /// Where there was no room in them.
    Apart(Box<[u8]>),
}

impl std::ops::Deref for Data {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Pooled(bytes) => bytes,
            Self::Apart(bytes) => bytes,
        }
    }
}

impl Task {
    /// The large write that this is, and on whose behalf, if it is nothing more than that.
    fn as_piece(&self) -> Option<(Needs, Piece<'_>)> {
        let Self::Follow {
            needs,
            action:
                Action::Write {
                    node,
                    offset,
                    appending: false,
                },
            data: Data::Pooled(data),
            done,
        } = self
        else {
            return None;
        };
        let piece = Piece {
            node,
            offset: *offset,
            data,
        };
        // Who clears set-id bits has more to mind than the bytes.
        let plain = needs.fsetid && done.written == data.len();
        (plain && data.len() >= LARGE).then_some((*needs, piece))
    }
}

/// A place in the lane's order, taken before the primary begins; nothing where ops go inline.
#[derive(Debug, Default)]
pub struct Place<'a>(Option<Ticket<'a, Task>>);

/// One replica, and the way to it.
pub struct Lane {
    replica: Replica,
    window: Option<Window<Task>>,
    /// Where data waits.
    buffers: Option<Buffers>,
    open: AtomicBool,
    errors: AtomicU64,
    /// Its own thread is inside of a call of the replica.
    calling: AtomicBool,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane")
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

impl Lane {
    /// A lane to `replica`, queued if there are limits for a queue; closed from the start when
    /// mounted without the replica.
    #[must_use]
    pub fn new(replica: Replica, limits: Option<Limits>, open: bool) -> Self {
        let lane = Self {
            replica,
            window: limits.map(Window::new),
            buffers: None,
            open: AtomicBool::new(open),
            errors: AtomicU64::new(0),
            calling: AtomicBool::new(false),
        };
        if let Some(window) = lane.window.as_ref().filter(|_| !open) {
            window.close();
        }
        lane
    }

    /// The same lane, with buffers for what waits.
    #[must_use]
    pub fn with_buffers(mut self, buffers: Buffers) -> Self {
        self.buffers = Some(buffers);
        self
    }

    /// How ops get to the replica, as `status` says it.
    #[must_use]
    pub fn carrier(&self) -> &'static str {
        if self.window.is_some() && self.replica.has_chains() {
            "ring"
        } else {
            "inline"
        }
    }

    /// A copy of an op's data that can wait.
    fn keep(&self, data: &[u8]) -> Data {
        let buffers = self.buffers.as_ref().filter(|_| !data.is_empty());
        let pooled = buffers.and_then(|buffers| buffers.fill(data).ok());
        pooled.map_or_else(|| Data::Apart(data.into()), Data::Pooled)
    }

    /// Whether ops are still sent.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Whether ops wait in a queue.
    #[must_use]
    pub fn is_queued(&self) -> bool {
        self.window.is_some()
    }

    /// Whether something that was queued is still being carried out though the lane is closed.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.calling.load(Ordering::Acquire) && !self.is_open()
    }

    /// Stops sending. True for the one caller who did it.
    pub fn close(&self) -> bool {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let first = self.open.swap(false, Ordering::AcqRel);
        if let Some(window) = &self.window {
            window.close();
        }
        first
    }

    /// Bytes written to the replica, and errors it gave.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let errors = self.errors.load(Ordering::Relaxed);
        (self.replica.written_bytes(), errors)
    }

    /// How far the replica is behind what was acknowledged.
    #[must_use]
    pub fn lag(&self) -> Lag {
        self.window.as_ref().map_or_else(Lag::default, Window::lag)
    }

    /// Takes the next place in the order, for a change with `bytes` of data; waits for room. The
    /// place of a lane that is closed is as good as none.
    ///
    /// # Errors
    /// A fault when the window cannot take it, and the primary is to go on alone.
    pub fn reserve(&self, bytes: usize) -> std::result::Result<Place<'_>, Fault> {
        let Some(window) = &self.window else {
            return Ok(Place(None));
        };
        match window.reserve(bytes) {
            Ok(ticket) => Ok(Place(Some(ticket))),
            Err(Obstacle::Closed) => Ok(Place(None)),
            Err(obstacle) => Err(fault(obstacle)),
        }
    }

    /// Carries an op to the replica: now, or in its place.
    ///
    /// # Errors
    /// A fault when the replica failed or did something else: from then on it is behind.
    pub fn carry(
        &self,
        op: &Op<'_>,
        done: &Done,
        place: Place<'_>,
    ) -> std::result::Result<(), Fault> {
        if self.window.is_none() {
            return self.replica.follow(op, done);
        }
        place.fill(|| Task::Follow {
            needs: op.needs,
            action: op.action.clone(),
            data: self.keep(op.data),
            done: done.clone(),
        });
        Ok(())
    }

    /// Carries a node's times over.
    ///
    /// # Errors
    /// As [`Self::carry`].
    pub fn set_times(
        &self,
        node: &Arc<Node>,
        atime: Time,
        mtime: Time,
    ) -> std::result::Result<(), Fault> {
        if self.window.is_none() {
            return self.replica.set_times(node, atime, mtime);
        }
        let node = node.clone();
        self.reserve(0)?.fill(|| Task::Times { node, atime, mtime });
        Ok(())
    }

    /// Makes size and permission bits follow the primary after an op that failed there.
    ///
    /// # Errors
    /// As [`Self::carry`].
    pub fn conform(&self, node: &Arc<Node>, like: &Stat) -> std::result::Result<(), Fault> {
        if self.window.is_none() {
            return self.replica.conform(node, like);
        }
        let (node, like) = (node.clone(), *like);
        self.reserve(0)?.fill(|| Task::Conform { node, like });
        Ok(())
    }

    /// Waits until everything acknowledged so far is on the replica.
    ///
    /// # Errors
    /// A fault when the replica does not answer any more.
    pub fn settle(&self) -> std::result::Result<(), Fault> {
        match self.window.as_ref().map_or(Ok(()), Window::settle) {
            // Who closed it has said why.
            Ok(()) | Err(Obstacle::Closed) => Ok(()),
            Err(obstacle) => Err(fault(obstacle)),
        }
    }

    /// The fault of a replica that has not answered for too long, for whoever looks.
    #[must_use]
    pub fn stalled(&self) -> Option<Fault> {
        let stalled = self.window.as_ref().is_some_and(Window::has_stalled);
        stalled.then(|| fault(Obstacle::Stalled))
    }

    /// Makes a node durable on the replica, while `primary` does the same there; who wants everything
    /// acknowledged before to be there calls [`Self::settle`] first.
    ///
    /// # Errors
    /// As [`Self::carry`].
    pub fn barrier_beside(
        &self,
        node: &Arc<Node>,
        scope: Scope,
        primary: &mut dyn FnMut(),
    ) -> std::result::Result<(), Fault> {
        self.replica.barrier_beside(node, scope, primary)
    }

    /// Whether an op is to be carried to the replica while the primary does it: writing two large
    /// blocks at once takes less time than one after the other.
    #[must_use]
    pub fn goes_beside(&self, op: &Op<'_>) -> bool {
        // Who clears set-id bits or appends only has more to mind than the bytes.
        let plain = matches!(op.action, Action::Write { appending: false, .. } if op.needs.fsetid);
        let large = plain && op.data.len() >= BESIDE_MIN;
        // Opening it may take as long as anything there; then the primary comes first.
        large && self.window.is_none() && self.is_open() && self.replica.has_open(op)
    }

    /// Carries a write that [`Self::goes_beside`] to the replica while `primary` runs. Returns how
    /// many bytes the replica has taken.
    ///
    /// # Errors
    /// As [`Self::carry`].
    pub fn write_beside(
        &self,
        op: &Op<'_>,
        primary: &mut dyn FnMut() -> Result<usize>,
    ) -> std::result::Result<usize, Fault> {
        self.replica.write_beside(op, primary)
    }

    /// Writes what the primary holds, where the replica has taken something that the primary
    /// has not.
    ///
    /// # Errors
    /// As [`Self::carry`].
    pub fn put_back(
        &self,
        node: &Arc<Node>,
        offset: u64,
        data: &[u8],
    ) -> std::result::Result<(), Fault> {
        let action = Action::Write {
            node: node.clone(),
            offset,
            appending: false,
        };
        let op = Op {
            needs: Needs::DAEMON,
            action,
            data,
        };
        let written = data.len();
        let done = Done {
            written,
            made: None,
        };
        self.replica.follow(&op, &done)
    }

    /// The lane's own thread: carries what is queued, in order, until the lane closes. `fail`
    /// hears of the fault that ends it.
    pub fn run(&self, fail: impl FnOnce(Fault)) {
        let Some(window) = &self.window else {
            return;
        };
        let mut batch = VecDeque::new();
        while window.take(&mut batch) {
            while !batch.is_empty() {
                self.calling.store(true, Ordering::Release);
                let (mut done, mut end) = self.perform_chain(&batch);
                batch.drain(..done);
                if done == 0
                    && end.is_ok()
                    && let Some(task) = batch.pop_front()
                {
                    (done, end) = (1, self.perform(task));
                }
                self.calling.store(false, Ordering::Release);
                if let Err(fault) = end {
                    return fail(fault);
                }
                for n in (0..done).rev() {
                    if !window.carried(n > 0 || !batch.is_empty()) {
                        return;
                    }
                }
            }
        }
    }

    /// Carries the large writes at the head of `batch` in one go, and says how many that was.
    fn perform_chain(&self, batch: &VecDeque<Task>) -> (usize, std::result::Result<(), Fault>) {
        let mut pieces = SmallVec::<[Piece<'_>; CHAIN_MAX]>::new();
        let mut whose = None;
        let mut room = CHAIN_BYTES;
        for (needs, piece) in batch.iter().take(CHAIN_MAX).map_while(Task::as_piece) {
            let first = whose.get_or_insert(needs);
            if needs.caller != first.caller || piece.data.len() > room {
                break;
            }
            room -= piece.data.len();
            pieces.push(piece);
        }
        match whose {
            Some(needs) => self.replica.write_chain(needs, &pieces),
            None => (0, Ok(())),
        }
    }

    fn perform(&self, task: Task) -> std::result::Result<(), Fault> {
        match task {
            Task::Follow {
                needs,
                action,
                data,
                done,
            } => {
                let op = Op {
                    needs,
                    action,
                    data: &data,
                };
                self.replica.follow(&op, &done)
            }
            Task::Times { node, atime, mtime } => self.replica.set_times(&node, atime, mtime),
            Task::Conform { node, like } => self.replica.conform(&node, &like),
        }
    }

    /// Sizes of the replica's file system.
    ///
    /// # Errors
    /// The replica's own.
    pub fn space(&self) -> Result<Space> {
        self.replica.space()
    }
}

impl Place<'_> {
    fn fill(self, task: impl FnOnce() -> Task) {
        if let Some(ticket) = self.0 {
            ticket.fill(task());
        }
    }
}

/// What an obstacle means for the replica.
fn fault(obstacle: Obstacle) -> Fault {
    let (errno, doing) = match obstacle {
        Obstacle::Stalled => (Some(Errno::TIMEDOUT), "it does not answer"),
        Obstacle::Full | Obstacle::Closed => (None, "max-lag is reached"),
    };
    Fault {
        errno,
        doing: doing.to_owned(),
    }
}
