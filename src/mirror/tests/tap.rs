// SPDX-License-Identifier: MIT
//! A replica that stops, fails or falls short where a test wants it, and stamps that are none.

use super::*;

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
    /// It is a while before anyone hears that a change was made.
    pub(super) dawdles: bool,
}

impl Gate {
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
}

impl Target for Gate {
    fn apply(&self, op: &Op<'_>) -> Result<Applied> {
        self.pass()?;
        let (short, dawdles) = {
            let state = self.state.lock();
            (state.short, state.dawdles)
        };
        let done = match (&op.action, short) {
            (Action::Write { .. }, Some(0)) => Err(Errno::NOSPC),
            (action @ Action::Write { .. }, Some(short)) => self.tree.apply(&Op {
                needs: op.needs,
                action: action.clone(),
                data: &op.data[..short.min(op.data.len())],
            }),
            _ => self.tree.apply(op),
        };
        (0..if dawdles { 50 } else { 0 }).for_each(|_| std::thread::yield_now());
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
        self.tree.set_times(node, atime, mtime)
    }
    fn conform(&self, node: &Arc<Node>, like: &Stat) -> Result<()> {
        self.tree.conform(node, like)
    }
    fn fault(&self) -> Option<Errno> {
        self.tree.fault()
    }
    fn barrier(&self, node: &Arc<Node>, scope: Scope) -> Result<()> {
        self.tree.barrier(node, scope)
    }
    fn space(&self) -> Result<Space> {
        Target::space(&self.tree)
    }
    fn sync_all(&self) -> Result<()> {
        self.tree.sync_all()
    }
    fn twin(&self, node: &Arc<Node>) -> Option<Stat> {
        self.tree.twin(node)
    }
}

#[derive(Default)]
pub(super) struct Note(pub(super) AtomicUsize);

impl Record for Note {
    fn degraded(&self, _: &Fault) -> Result<u64> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(2)
    }
    fn log_lost(&self, _: &Fault) -> Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    fn healed(&self) -> std::result::Result<(), String> {
        Ok(())
    }
    fn vouches(&self) -> bool {
        true
    }
    fn leave(&self) {}
    fn closed(&self, _: bool) -> std::result::Result<(), String> {
        Ok(())
    }
}
