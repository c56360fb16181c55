// SPDX-License-Identifier: MIT
//! A replica that stops, fails or falls short where a test wants it, and stamps that are none.

use std::os::fd::AsFd as _;

use super::*;
use crate::mirror::resync::Lacks;
use crate::store::descriptor::Access;

/// The replica as a test wants it: it stops before any change, and starts again, or fails.
pub(super) struct Gate {
    pub(super) tree: Tree,
    pub(super) state: Mutex<GateState>,
    pub(super) moved: parking_lot::Condvar,
}

#[derive(Default)]
pub(super) struct GateState {
    /// Changes let through so far, and from which on none is.
    pub(super) passed: usize,
    pub(super) stop_at: Option<usize>,
    pub(super) fail_at: Option<usize>,
    /// Somebody waits to be let through.
    pub(super) waiting: bool,
    /// Writes end after this many bytes; after none at all they fail.
    pub(super) short: Option<usize>,
    /// It is a while before a change is made, now longer and now shorter, and before anyone hears
    /// that it was.
    pub(super) dawdles: bool,
    /// Contents, attributes and times of what is there reach the disk when it is synced, and are
    /// kept here until then. Names are there at once.
    pub(super) cache: Option<Vec<Cached>>,
    /// Whose times are not carried for now. (Those of others may have to be: the op that makes a
    /// file gives it its times if the clock ticked between the copies.)
    pub(super) holds_times: Option<Arc<Node>>,
    pub(super) power: Power,
    /// How far a write may go, and how far it is; `None`: it does not hang.
    pub(super) may: Option<Call>,
    pub(super) at: Call,
}

/// The power of the replica's disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Power {
    #[default]
    On,
    /// It goes with the next sync, before that has done anything.
    Failing,
    /// Whoever syncs hears nothing.
    Off,
    /// Whoever syncs hears of it.
    Missed,
}

/// A write that hangs on its way through the kernel: the file is open already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Call {
    #[default]
    None,
    Begun,
    Done,
    Answered,
}

/// What is not on the disk yet.
#[derive(Debug)]
pub(super) enum Cached {
    Change(Needs, Action, Vec<u8>),
    Times(Arc<Node>, Time, Time),
}

impl Cached {
    fn node(&self) -> Option<&Arc<Node>> {
        match self {
            Self::Times(node, ..)
            | Self::Change(
                _,
                Action::Write { node, .. }
                | Action::Truncate { node, .. }
                | Action::SetAttr { node, .. }
                | Action::SetXattr { node, .. },
                _,
            ) => Some(node),
            Self::Change(..) => None,
        }
    }

    fn write_back(self, tree: &Tree) -> Result<()> {
        let done = match self {
            Self::Times(node, atime, mtime) => tree.set_times(&node, atime, mtime),
            Self::Change(needs, action, data) => {
                let data = &data;
                let op = Op {
                    needs,
                    action,
                    data,
                };
                tree.apply(&op).map(drop)
            }
        };
        match done {
            // It has been removed since.
            Err(Errno::NOENT | Errno::STALE) => Ok(()),
            done => done,
        }
    }
}

impl Gate {
    pub(super) fn new(tree: Tree) -> Self {
        Self {
            tree,
            state: Mutex::default(),
            moved: parking_lot::Condvar::new(),
        }
    }

    pub(super) fn pass(&self) -> Result<()> {
        self.pass_some(1).map(drop)
    }

    /// Lets through as many of `most` changes as may, one at least.
    pub(super) fn pass_some(&self, most: usize) -> Result<usize> {
        let mut state = self.state.lock();
        while state.stop_at.is_some_and(|at| state.passed >= at) {
            state.waiting = true;
            self.moved.notify_all();
            self.moved.wait(&mut state);
        }
        state.waiting = false;
        if state.fail_at.is_some_and(|at| state.passed >= at) {
            return Err(Errno::IO);
        }
        let ends = [state.stop_at, state.fail_at];
        let left = ends.into_iter().flatten().map(|at| at - state.passed).min();
        let passed = left.map_or(most, |left| left.min(most));
        state.passed += passed;
        Ok(passed)
    }

    /// Lets nothing more through after `passed` changes.
    pub(super) fn stop_at(&self, passed: Option<usize>) {
        let mut state = self.state.lock();
        state.stop_at = passed;
        state.waiting &= passed.is_some_and(|at| state.passed >= at);
        self.moved.notify_all();
    }

    /// Waits until the lane stands before the gate, or `else_over` says there is nothing left.
    pub(super) fn await_standstill(&self, else_over: impl Fn() -> bool) {
        let mut state = self.state.lock();
        while !state.waiting && !else_over() {
            self.moved.wait_for(&mut state, Duration::from_millis(1));
        }
    }

    /// From now on changes are lost if they are not synced.
    pub(super) fn caches(&self) {
        self.state.lock().cache = Some(Vec::new());
    }

    /// Keeps a change that is not on the disk before a sync; false if it is no such change.
    fn keep(&self, cached: Cached) -> bool {
        let mut state = self.state.lock();
        match &mut state.cache {
            Some(cache) if cached.node().is_some() => {
                cache.push(cached);
                true
            }
            _ => false,
        }
    }

    /// Brings to the disk what is cached, in order: all, or that of one node.
    fn write_back(&self, of: Option<&Arc<Node>>) -> Result<()> {
        let mut ours = Vec::new();
        if let Some(cache) = &mut self.state.lock().cache {
            for cached in std::mem::take(cache) {
                let is_ours = match (of, cached.node()) {
                    (Some(of), Some(node)) => Arc::ptr_eq(of, node),
                    _ => true,
                };
                if is_ours { &mut ours } else { &mut *cache }.push(cached);
            }
        }
        ours.into_iter()
            .try_for_each(|one| one.write_back(&self.tree))
    }

    /// Some of what is cached has been written back by the time it is lost, in no order.
    pub(super) fn lose_some(&self, random: &mut u64) {
        let cached = self.state.lock().cache.take();
        for one in cached.into_iter().flatten() {
            if below(random, 2) == 0 {
                one.write_back(&self.tree).expect("it can be written");
            }
        }
    }

    /// The times of this node are not carried from now on; those of all are again.
    pub(super) fn hold_times(&self, node: Option<&Arc<Node>>) {
        let mut state = self.state.lock();
        state.holds_times = node.cloned();
        state.waiting = false;
        self.moved.notify_all();
    }

    /// Does something to the power, and waits for nothing.
    pub(super) fn set_power(&self, power: Power) {
        self.state.lock().power = power;
        self.moved.notify_all();
    }

    /// Lets a write that hangs go on so far, and waits until it is there. The first one is caught
    /// by `Begun`, which is not waited for.
    pub(super) fn let_go(&self, step: Call) {
        let mut state = self.state.lock();
        state.may = Some(step);
        self.moved.notify_all();
        while step > Call::Begun && state.at < step {
            self.moved.wait(&mut state);
        }
    }

    /// Whether a write hangs.
    pub(super) fn has_caught(&self) -> bool {
        self.state.lock().at >= Call::Begun
    }

    /// A write that gets no farther than it may.
    fn crawl(&self, op: &Op<'_>, node: &Arc<Node>, offset: u64) -> Result<Applied> {
        let file = self.tree.open(node, Access::Write)?;
        let wait = |at: Call, next: Call| {
            let mut state = self.state.lock();
            state.at = at;
            self.moved.notify_all();
            while state.may.is_some_and(|may| may < next) {
                self.moved.wait(&mut state);
            }
        };
        wait(Call::Begun, Call::Done);
        let written = rustix::io::pwrite((*file).as_fd(), op.data, offset)?;
        wait(Call::Done, Call::Answered);
        wait(Call::Answered, Call::Answered);
        Ok(Applied {
            written,
            made: None,
        })
    }
}

impl Target for Gate {
    fn apply(&self, op: &Op<'_>) -> Result<Applied> {
        self.pass()?;
        if let Action::Write { node, offset, .. } = &op.action
            && self.state.lock().may.is_some()
        {
            return self.crawl(op, node, *offset);
        }
        let cached = || Cached::Change(op.needs, op.action.clone(), op.data.to_vec());
        if self.state.lock().cache.is_some() && self.keep(cached()) {
            return Ok(Applied {
                written: op.data.len(),
                made: None,
            });
        }
        if let Action::Link { node, .. } = &op.action {
            // What it looks like is compared.
            self.write_back(Some(node))?;
        }
        let (short, dawdles, passed) = {
            let state = self.state.lock();
            (state.short, state.dawdles, state.passed)
        };
        let before = if dawdles { passed * 37 % 64 } else { 0 };
        (0..before).for_each(|_| std::thread::yield_now());
        let done = match (&op.action, short) {
            (Action::Write { .. }, Some(0)) => Err(Errno::NOSPC),
            (action @ Action::Write { .. }, Some(short)) => self.tree.apply(&Op {
                needs: op.needs,
                action: action.clone(),
                data: &op.data[..short.min(op.data.len())],
            }),
            _ => self.tree.apply(op),
        };
        if dawdles && passed % 3 > 0 {
            // Until somebody else has come by, or a while is over.
            let overtaken = || self.state.lock().passed != passed;
            let waits = (0..300).take_while(|_| !overtaken());
            waits.for_each(|_| std::thread::yield_now());
        }
        done
    }
    fn write_beside(&self, op: &Op<'_>, meanwhile: &mut dyn FnMut()) -> Result<Applied> {
        self.pass().inspect_err(|_| meanwhile())?;
        let short = self.state.lock().short;
        let most = short.map_or(op.data.len(), |short| short.min(op.data.len()));
        if short == Some(0) {
            meanwhile();
            return Err(Errno::NOSPC);
        }
        let part = Op {
            needs: op.needs,
            action: op.action.clone(),
            data: &op.data[..most],
        };
        self.tree.write_beside(&part, meanwhile)
    }
    fn has_open(&self, node: &Arc<Node>) -> bool {
        self.tree.has_open(node)
    }
    fn write_chain(&self, needs: Needs, pieces: &[Piece<'_>]) -> (usize, Result<()>) {
        let passed = match self.pass_some(pieces.len()) {
            Ok(passed) => passed,
            Err(errno) => return (0, Err(errno)),
        };
        let (done, end) = self.tree.write_chain(needs, &pieces[..passed]);
        // Those left over come again, one by one.
        self.state.lock().passed -= passed - done;
        (done, end)
    }
    fn has_chains(&self) -> bool {
        self.tree.has_chains()
    }
    fn adopt(&self, node: &Arc<Node>, made: Made) {
        self.tree.adopt(node, made);
    }
    fn set_times(&self, node: &Arc<Node>, atime: Time, mtime: Time) -> Result<()> {
        let mut state = self.state.lock();
        while state
            .holds_times
            .as_ref()
            .is_some_and(|held| Arc::ptr_eq(held, node))
        {
            state.waiting = true;
            self.moved.notify_all();
            self.moved.wait(&mut state);
        }
        drop(state);
        if self.keep(Cached::Times(node.clone(), atime, mtime)) {
            return Ok(());
        }
        self.tree.set_times(node, atime, mtime)
    }
    fn conform(&self, node: &Arc<Node>, like: &Stat) -> Result<()> {
        self.write_back(Some(node))?;
        self.tree.conform(node, like)
    }
    fn fault(&self) -> Option<Errno> {
        self.tree.fault()
    }
    fn barrier(&self, node: &Arc<Node>, scope: Scope) -> Result<()> {
        self.write_back(None)?;
        self.tree.barrier(node, scope)
    }
    fn space(&self) -> Result<Space> {
        Target::space(&self.tree)
    }
    fn sync_all(&self) -> Result<()> {
        let mut state = self.state.lock();
        if state.power == Power::Failing {
            state.power = Power::Off;
        }
        while state.power == Power::Off {
            state.waiting = true;
            self.moved.wait(&mut state);
        }
        if state.power == Power::Missed {
            return Err(Errno::IO);
        }
        drop(state);
        self.write_back(None)?;
        self.tree.sync_all()
    }
    fn twin(&self, node: &Arc<Node>) -> Option<Stat> {
        self.tree.twin(node)
    }
}

/// How often it was noted that the replica failed, and that it was let go of.
#[derive(Default)]
pub(super) struct Note(pub(super) AtomicUsize, pub(super) AtomicUsize);

impl Record for Note {
    fn degraded(&self, _: &Fault) -> Result<u64> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(2)
    }
    fn log_lost(&self, _: &Fault) -> Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    fn healed(&self, _: Lacks) -> std::result::Result<(), String> {
        Ok(())
    }
    fn vouches(&self) -> bool {
        true
    }
    fn leave(&self) {
        self.1.fetch_add(1, Ordering::SeqCst);
    }
    fn closed(&self, _: bool) -> std::result::Result<(), String> {
        Ok(())
    }
}
