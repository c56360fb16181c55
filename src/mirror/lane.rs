// SPDX-License-Identifier: MIT
//! `Lane`: how ops get to a replica, and whether they still do.
//!
//! Two ways. *Inline* (`mode=sync`): the thread that served the primary carries the op on, from
//! the same buffer, before the application is answered. *Queued* (`mode=async`): the op waits in a
//! [`Window`], with a copy of its data, for the lane's own thread.
//!
//! A [`Way`] leads to the replica from its attaching to its first failure; from then on nothing
//! more is sent by it, because a replica with a gap in it is worth less than one that stops at a
//! known moment. An op keeps to the way it found when it began, or does without one: so what is
//! under way on an old one never mixes with what goes by the next.
//!
//! While a way is *healing*, the replica lacks what the dirty marks of the log say. Then an op goes
//! by it only where the replica is known to be as the primary was (`Healing::admits`); where it does
//! not go its marks become dirty again, and healing comes past once more.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::RwLock;
use smallvec::SmallVec;

use super::attributes_of;
use super::heal::Healing;
use super::replica::{Done, Fault, Replica, Whose};
use super::window::{Lag, Limits, Obstacle, Ticket, Window};
use crate::journal::{Pins, Twin};
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
        pins: Pins,
    },
    /// Take over the primary's times.
    Times {
        node: Arc<Node>,
        atime: Time,
        mtime: Time,
        pins: Pins,
    },
    /// Follow a change that failed on the primary.
    Conform {
        node: Arc<Node>,
        like: Stat,
        pins: Pins,
    },
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
            ..
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
pub struct Place(Option<Ticket<Task>>);

/// Whether the replica has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carry {
    /// It has, or will have in its turn.
    Done,
    /// It lacks it, as the marks of the op say.
    Skipped,
}

/// One replica, and the way to it while there is one.
pub struct Lane {
    way: RwLock<Option<Arc<Way>>>,
    /// The way before, for as long as something is still under way by it.
    former: RwLock<Weak<Way>>,
    limits: Option<Limits>,
    /// Where data waits.
    buffers: Option<Buffers>,
    /// Ways so far.
    ways: AtomicU64,
    /// Bytes written by ways that are closed.
    written_before: AtomicU64,
    errors: AtomicU64,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane")
            .field("open", &self.is_open())
            .finish_non_exhaustive()
    }
}

impl Lane {
    /// A lane with no way to any replica yet, queued if there are limits for a queue.
    #[must_use]
    pub fn new(limits: Option<Limits>) -> Self {
        Self {
            way: RwLock::default(),
            former: RwLock::default(),
            limits,
            buffers: None,
            ways: AtomicU64::new(0),
            written_before: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        }
    }

    /// The same lane, with buffers for what waits.
    #[must_use]
    pub fn with_buffers(mut self, buffers: Buffers) -> Self {
        self.buffers = Some(buffers);
        self
    }

    /// Opens a way to `replica`. With `healing` the replica lacks what the dirty marks say.
    pub fn open(&self, replica: Replica, healing: Option<Arc<Healing>>) -> Arc<Way> {
        let way = Arc::new(Way {
            number: self.ways.fetch_add(1, Ordering::Relaxed) + 1,
            replica,
            window: self.limits.map(|limits| Arc::new(Window::new(limits))),
            buffers: self.buffers.clone(),
            is_closed: AtomicBool::new(false),
            is_calling: AtomicBool::new(false),
            is_healing: AtomicBool::new(healing.is_some()),
            healing: RwLock::new(healing),
        });
        *self.way.write() = Some(way.clone());
        way
    }

    /// The way to the replica, if there is one now.
    #[must_use]
    pub fn way(&self) -> Option<Arc<Way>> {
        self.way.read().clone()
    }

    /// Whether ops are still sent.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.way.read().is_some()
    }

    /// Whether something that was queued for a replica that was given up is still being carried out.
    #[must_use]
    pub fn is_late(&self) -> bool {
        let former = self.former.read().upgrade();
        former.is_some_and(|way| way.is_calling.load(Ordering::Acquire))
    }

    /// Whether something is still under way to a replica that was given up: it may still change.
    #[must_use]
    pub fn is_haunted(&self) -> bool {
        self.former.read().strong_count() > 0
    }

    /// Stops sending by `way`. True for the one caller who did it, if it was not closed before.
    pub fn close(&self, way: &Arc<Way>) -> bool {
        let mut present = self.way.write();
        if !present.as_ref().is_some_and(|now| Arc::ptr_eq(now, way)) {
            return false;
        }
        *present = None;
        // Before any mark is made dirty: who pins one later sees it.
        way.is_closed.store(true, Ordering::SeqCst);
        *self.former.write() = Arc::downgrade(way);
        drop(present);
        self.errors.fetch_add(1, Ordering::Relaxed);
        let written = way.replica.written_bytes();
        self.written_before.fetch_add(written, Ordering::Relaxed);
        if let Some(window) = &way.window {
            window.close();
        }
        true
    }

    /// How ops get to the replica, as `status` says it.
    #[must_use]
    pub fn carrier(&self) -> &'static str {
        match self.way() {
            Some(way) if way.window.is_some() && way.replica.has_chains() => "ring",
            _ => "inline",
        }
    }

    /// Bytes written to the replica, and errors it gave.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let now = self.way().map_or(0, |way| way.replica.written_bytes());
        let before = self.written_before.load(Ordering::Relaxed);
        (before + now, self.errors.load(Ordering::Relaxed))
    }

    /// How far the replica is behind what was acknowledged.
    #[must_use]
    pub fn lag(&self) -> Lag {
        let window = self.way().and_then(|way| way.window.clone());
        window.map_or_else(Lag::default, |window| window.lag())
    }
}

/// The way to a replica, until that fails.
pub struct Way {
    /// Its number, from 1.
    number: u64,
    replica: Replica,
    window: Option<Arc<Window<Task>>>,
    buffers: Option<Buffers>,
    is_closed: AtomicBool,
    /// Its own thread is inside of a call of the replica.
    is_calling: AtomicBool,
    is_healing: AtomicBool,
    healing: RwLock<Option<Arc<Healing>>>,
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Way")
            .field("healing", &self.is_healing)
            .finish_non_exhaustive()
    }
}

impl Way {
    /// Its number, never used again; none has 0.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The replica that it leads to.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Whether ops are still sent by it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.is_closed.load(Ordering::SeqCst)
    }

    /// What is known of a replica that is being healed.
    #[must_use]
    pub fn healing(&self) -> Option<Arc<Healing>> {
        if !self.is_healing.load(Ordering::Acquire) {
            return None;
        }
        self.healing.read().clone()
    }

    /// The replica lacks something after all.
    pub fn heal_again(&self) -> Arc<Healing> {
        let healing = Arc::new(Healing::new());
        *self.healing.write() = Some(healing.clone());
        self.is_healing.store(true, Ordering::Release);
        healing
    }

    /// The replica lacks nothing any more.
    pub fn healed(&self) {
        *self.healing.write() = None;
        self.is_healing.store(false, Ordering::Release);
    }

    /// Whether ops wait for the lane's thread.
    #[must_use]
    pub fn is_queued(&self) -> bool {
        self.window.is_some()
    }

    /// A copy of an op's data that can wait.
    fn keep(&self, data: &[u8]) -> Data {
        let buffers = self.buffers.as_ref().filter(|_| !data.is_empty());
        let pooled = buffers.and_then(|buffers| buffers.fill(data).ok());
        pooled.map_or_else(|| Data::Apart(data.into()), Data::Pooled)
    }

    /// Takes the next place in the order, for a change with `bytes` of data; waits for room. The
    /// place of a way that is closed is as good as none.
    ///
    /// # Errors
    /// A fault when the window cannot take it, and the primary is to go on alone.
    pub fn reserve(&self, bytes: usize) -> std::result::Result<Place, Fault> {
        let Some(window) = &self.window else {
            return Ok(Place(None));
        };
        match window.reserve(bytes) {
            Ok(ticket) => Ok(Place(Some(ticket))),
            Err(Obstacle::Closed) => Ok(Place(None)),
            Err(obstacle) => Err(fault(obstacle)),
        }
    }

    /// Carries an op to the replica: now, or in its place, with pins of its own. The caller keeps
    /// `pins` until it has noted whose times are to follow: they are a mark until then.
    ///
    /// # Errors
    /// A fault when the replica failed or did something else: from then on it is behind.
    pub fn carry(
        &self,
        op: &Op<'_>,
        done: &Done,
        place: Place,
        pins: &Pins,
    ) -> std::result::Result<Carry, Fault> {
        if self.window.is_none() {
            return self.follow(op, done, pins);
        }
        place.fill(|| Task::Follow {
            needs: op.needs,
            action: op.action.clone(),
            data: self.keep(op.data),
            done: done.clone(),
            pins: pins.share(),
        });
        Ok(Carry::Done)
    }

    fn follow(&self, op: &Op<'_>, done: &Done, pins: &Pins) -> std::result::Result<Carry, Fault> {
        if let Some(healing) = self.healing().filter(|healing| !healing.admits(op)) {
            healing.skipped(op, pins);
            align(op);
            return Ok(Carry::Skipped);
        }
        self.minding(op, pins, self.replica.follow(op, done))
    }

    /// While the replica is healing, a name that is not there, or is taken, is no failure of it.
    fn minding(
        &self,
        op: &Op<'_>,
        pins: &Pins,
        done: std::result::Result<(), Fault>,
    ) -> std::result::Result<Carry, Fault> {
        match done {
            Ok(()) => Ok(Carry::Done),
            Err(fault) => match self.healing().filter(|_| fault.is_about_names()) {
                Some(healing) => {
                    healing.missed(op);
                    healing.skipped(op, pins);
                    align(op);
                    Ok(Carry::Skipped)
                }
                None => Err(fault),
            },
        }
    }

    /// Carries a node's times over; `pins` are of a mark for its attributes.
    ///
    /// # Errors
    /// As [`Self::carry`].
    pub fn set_times(
        &self,
        node: &Arc<Node>,
        (atime, mtime): (Time, Time),
        pins: Pins,
    ) -> std::result::Result<(), Fault> {
        if self.window.is_none() {
            let done = self.replica.set_times(node, atime, mtime);
            return self.minding(&attributes_of(node), &pins, done).map(drop);
        }
        let node = node.clone();
        self.reserve(0)?.fill(|| Task::Times {
            node,
            atime,
            mtime,
            pins,
        });
        Ok(())
    }

    /// Makes size and permission bits follow the primary after an op that failed there.
    ///
    /// # Errors
    /// As [`Self::carry`].
    pub fn conform(
        &self,
        node: &Arc<Node>,
        like: &Stat,
        pins: &Pins,
    ) -> std::result::Result<(), Fault> {
        if self.window.is_none() {
            let done = self.replica.conform(node, like);
            return self.minding(&attributes_of(node), pins, done).map(drop);
        }
        let (node, like, pins) = (node.clone(), *like, pins.share());
        self.reserve(0)?.fill(|| Task::Conform { node, like, pins });
        Ok(())
    }

    /// Waits until everything acknowledged so far is on the replica.
    ///
    /// # Errors
    /// A fault when the replica does not answer any more.
    pub fn settle(&self) -> std::result::Result<(), Fault> {
        match self
            .window
            .as_ref()
            .map_or(Ok(()), |window| window.settle())
        {
            // Who closed it has said why.
            Ok(()) | Err(Obstacle::Closed) => Ok(()),
            Err(obstacle) => Err(fault(obstacle)),
        }
    }

    /// The fault of a replica that has not answered for too long, for whoever looks.
    #[must_use]
    pub fn stalled(&self) -> Option<Fault> {
        let stalled = self
            .window
            .as_ref()
            .is_some_and(|window| window.has_stalled());
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
        match self.replica.barrier_beside(node, scope, primary) {
            // What it lacks, its marks say.
            Err(fault) if fault.is_about_names() && self.is_healing.load(Ordering::Acquire) => {
                Ok(())
            }
            done => done,
        }
    }

    /// Makes everything that the replica has durable there.
    ///
    /// # Errors
    /// A fault when it is not.
    pub fn sync_all(&self) -> std::result::Result<(), Fault> {
        self.settle()?;
        self.replica.sync_all()
    }

    /// Who a node is on the replica, where that can be told.
    #[must_use]
    pub fn twin(&self, node: &Arc<Node>) -> Option<Twin> {
        let stat = self.replica.stat(node)?;
        Some(Twin {
            ino: stat.ident.ino,
            btime: stat.btime.map(|time| (time.seconds, time.nanos)),
        })
    }

    /// Whether an op is to be carried to the replica while the primary does it: writing two large
    /// blocks at once takes less time than one after the other.
    #[must_use]
    pub fn goes_beside(&self, op: &Op<'_>) -> bool {
        // Who clears set-id bits or appends only has more to mind than the bytes.
        let plain = matches!(op.action, Action::Write { appending: false, .. } if op.needs.fsetid);
        let healing = self.is_healing.load(Ordering::Acquire);
        let large = plain && op.data.len() >= BESIDE_MIN;
        // Opening it may take as long as anything there; then the primary comes first.
        large && self.window.is_none() && !healing && self.is_open() && self.replica.has_open(op)
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

    /// The lane's own thread: carries what is queued, in order, until the way closes. `fail`
    /// hears of the fault that ends it.
    pub fn run(&self, fail: impl FnOnce(Fault)) {
        let Some(window) = &self.window else {
            return;
        };
        let mut batch = VecDeque::new();
        while window.take(&mut batch) {
            while !batch.is_empty() {
                self.is_calling.store(true, Ordering::Release);
                let (mut done, mut end) = self.perform_chain(&batch);
                batch.drain(..done);
                if done == 0
                    && end.is_ok()
                    && let Some(task) = batch.pop_front()
                {
                    (done, end) = (1, self.perform(task));
                }
                self.is_calling.store(false, Ordering::Release);
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
        if self.is_healing.load(Ordering::Acquire) {
            return (0, Ok(()));
        }
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
                pins,
            } => {
                let op = Op {
                    needs,
                    action,
                    data: &data,
                };
                self.follow(&op, &done, &pins).map(drop)
            }
            Task::Times {
                node,
                atime,
                mtime,
                pins,
            } => {
                let done = self.replica.set_times(&node, atime, mtime);
                self.minding(&attributes_of(&node), &pins, done).map(drop)
            }
            Task::Conform { node, like, pins } => {
                let done = self.replica.conform(&node, &like);
                self.minding(&attributes_of(&node), &pins, done).map(drop)
            }
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

impl Place {
    fn fill(self, task: impl FnOnce() -> Task) {
        if let Some(ticket) = self.0 {
            ticket.fill(task());
        }
    }
}

/// An op does not go to the replica: its marks say so, and once it is healed what the op has moved
/// has the same names there.
pub(super) fn skip(op: &Op<'_>, pins: &Pins) {
    pins.soil();
    align(op);
}

fn align(op: &Op<'_>) {
    match &op.action {
        Action::Link { node, .. } => node.align_names(),
        Action::Unlink { victim, .. } | Action::Rmdir { victim, .. } => {
            victim.iter().for_each(|node| node.align_names());
        }
        Action::Rename { moved, victim, .. } => {
            let both = moved.iter().chain(victim);
            both.for_each(|node| node.align_names());
        }
        _ => {}
    }
}

/// What an obstacle means for the replica.
fn fault(obstacle: Obstacle) -> Fault {
    match obstacle {
        Obstacle::Stalled => Fault::new(Errno::TIMEDOUT, "it does not answer".to_owned()),
        Obstacle::Full | Obstacle::Closed => {
            Fault::without_errno(Whose::Congestion, "max-lag is reached")
        }
    }
}
