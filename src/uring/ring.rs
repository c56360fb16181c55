// SPDX-License-Identifier: MIT
//! `Ring`: operations handed to the kernel and waited for, none lost.
//!
//! A ring belongs to the thread that made it. Every call waits for all it has handed over before
//! it returns, on every way out, panics included; so the kernel never holds memory that a caller
//! has only lent. The one exception is an operation that outlives its time and cannot be stopped:
//! the ring then keeps its bytes and its descriptor until the kernel answers, or for good.

use std::marker::PhantomData;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::buffer::{Arena, Bytes, CHUNK};
use super::chain::Progress;
use super::counters::{Count, Counters};
use super::io::{Io, Outcome, Payload, Sqe, What, ready};
use super::kernel::Queue;
use crate::sys::{Errno, Result};

/// How long an operation that was told to stop may take to obey, at most.
const GRACE: Duration = Duration::from_secs(1);

/// A ring of one thread.
pub(super) struct Ring<Q: Queue> {
    queue: Q,
    slots: Vec<Slot>,
    vacant: Vec<u32>,
    counters: Arc<Counters>,
    table: Table,
    /// To be said to people, once: why registered buffers are not used.
    unregistered: Option<String>,
    /// The kernel lets only the thread that made the ring use it.
    _of_one_thread: PhantomData<*const ()>,
}

/// One operation's place. The generation tells a late answer from one to the place's new tenant.
struct Slot {
    generation: u32,
    state: State,
}

enum State {
    Vacant,
    Waiting,
    Done(i32),
    /// Nobody waits any more. What the kernel may still use is kept until it answers.
    Held(Option<Bytes>, Rc<OwnedFd>),
}

/// An operation under way: its slot and generation.
#[derive(Clone, Copy)]
struct Key(u64);

impl Key {
    fn slot(self) -> usize {
        usize::try_from(self.0 & u64::from(u32::MAX)).unwrap_or(usize::MAX)
    }

    fn generation(self) -> u32 {
        u32::try_from(self.0 >> 32).unwrap_or(u32::MAX)
    }
}

/// The registered buffers.
enum Table {
    Empty,
    Of { arena: Arc<Arena>, known: Vec<bool> },
    Refused,
}

impl<Q: Queue> Ring<Q> {
    pub(super) fn new(queue: Q, counters: Arc<Counters>, fixed: bool) -> Self {
        Self {
            queue,
            slots: Vec::new(),
            vacant: Vec::new(),
            counters,
            table: if fixed { Table::Empty } else { Table::Refused },
            unregistered: None,
            _of_one_thread: PhantomData,
        }
    }

    /// Runs `ops` one after the other, many per system call: each begins when the one before it has
    /// succeeded in full, and none after one that failed.
    pub(super) fn chain<P: Payload>(&mut self, ops: &[Io<'_, P>]) -> Vec<Outcome> {
        self.go_on(ops, Progress::new(ops.len()))
    }

    fn go_on<P: Payload>(&mut self, ops: &[Io<'_, P>], mut progress: Progress) -> Vec<Outcome> {
        while progress.goes_on() {
            let first = progress.next();
            let round = &ops[first..ops.len().min(first + self.queue.depth())];
            let mut keys: SmallVec<[Key; 32]> = SmallVec::new();
            for (at, op) in round.iter().enumerate() {
                let part = if at == 0 { progress.part() } else { 0 };
                let mut sqe = op.sqe(part, self.fixed(op));
                // A part of an operation is a success to the kernel: nothing may follow it.
                let whole = op.fits(part);
                sqe.link = whole && at + 1 < round.len();
                // SAFETY: `ops` is borrowed until all keys are done: `wait` comes back no sooner.
                keys.push(unsafe { self.push(sqe) });
                if !whole {
                    break;
                }
            }
            let round = &round[..keys.len()];
            self.wait(&keys);
            let results: SmallVec<[i32; 32]> = keys.iter().map(|key| self.take(*key)).collect();
            if progress.absorb(round, &results, &self.counters) {
                ready(round[progress.next() - first].fd(), None);
            }
        }
        progress.into_outcomes()
    }

    /// Starts `op`, does `work`, then waits for `op`. Both have ended when this returns or unwinds.
    pub(super) fn overlap<P: Payload, R>(
        &mut self,
        op: &Io<'_, P>,
        work: impl FnOnce() -> R,
    ) -> (R, Outcome) {
        let mut sqe = op.sqe(0, self.fixed(op));
        sqe.background = true;
        // SAFETY: `op` is borrowed until the guard made next has waited for the key, which it does
        // when it is dropped, at the latest; it never leaves this function.
        let key = unsafe { self.push(sqe) };
        let mut started = Started {
            ring: self,
            key: Some(key),
        };
        started.ring.enter(0, None);
        let done = work();
        let result = started.finish();
        drop(started);
        let mut progress = Progress::new(1);
        if progress.absorb(std::slice::from_ref(op), &[result], &self.counters) {
            ready(op.fd(), None);
        }
        let outcomes = self.go_on(std::slice::from_ref(op), progress);
        (done, outcomes.into_iter().next().unwrap_or(Outcome::NotRun))
    }

    /// As [`Self::chain`], but no operation may take longer than `limit`: it is stopped then, and
    /// those after it are not run.
    ///
    /// Each operation is handed over alone, because a later one of a linked chain could not be
    /// called back: it would run whenever the hanging one came loose.
    pub(super) fn chain_within(&mut self, ops: &[Io<'_, Bytes>], limit: Duration) -> Vec<Outcome> {
        let mut progress = Progress::new(ops.len());
        let mut last: Option<(RawFd, Rc<OwnedFd>)> = None;
        while progress.goes_on() {
            let op = &ops[progress.next()];
            // The kernel may look a descriptor up late; by then the caller's could be another file.
            let fd = match last.take().filter(|(raw, _)| *raw == op.fd().as_raw_fd()) {
                Some((_, fd)) => fd,
                None => match rustix::io::fcntl_dupfd_cloexec(op.fd(), 0) {
                    Ok(fd) => Rc::new(fd),
                    Err(errno) => {
                        progress.fail(errno);
                        break;
                    }
                },
            };
            last = Some((op.fd().as_raw_fd(), Rc::clone(&fd)));
            let mut sqe = op.sqe(progress.part(), self.fixed(op));
            sqe.fd = fd.as_raw_fd();
            sqe.background = true;
            // SAFETY: the bytes are shared and never change; either the key is done before `ops`
            // is given back, or a clone of them stays in the slot until it is.
            let key = unsafe { self.push(sqe) };
            let in_time = self.wait_within(key, limit);
            if !in_time && !self.stop(key, limit.min(GRACE)) {
                self.counters.count(Count::Held);
                self.slots[key.slot()].state = State::Held(op.payload().cloned(), fd);
                progress.hold();
                break;
            }
            let result = self.take(key);
            if !in_time && progress.expire(op, result) {
                self.counters.count(Count::Cancelled);
            } else if progress.absorb(std::slice::from_ref(op), &[result], &self.counters)
                && !ready(op.fd(), Some(limit))
            {
                progress.fail(Errno::TIMEDOUT);
            }
        }
        progress.into_outcomes()
    }

    /// How many operations the kernel would not let go of when their time was over, and has not
    /// answered since.
    pub(super) fn held(&mut self) -> usize {
        let held = |ring: &Self| {
            let kept = |slot: &&Slot| matches!(slot.state, State::Held(..));
            ring.slots.iter().filter(kept).count()
        };
        if held(self) > 0 {
            self.enter(1, Some(Duration::ZERO));
        }
        held(self)
    }

    /// Why registered buffers are not used; answers once.
    pub(super) fn take_complaint(&mut self) -> Option<String> {
        self.unregistered.take()
    }

    /// Asks the kernel to stop an operation; true when it has ended, one way or the other.
    fn stop(&mut self, key: Key, grace: Duration) -> bool {
        let sqe = Sqe {
            what: What::Cancel { target: key.0 },
            ..Sqe::default()
        };
        // SAFETY: it points to nothing.
        let cancel = unsafe { self.push(sqe) };
        self.wait(&[cancel]);
        let _answer = self.take(cancel);
        self.wait_within(key, grace)
    }

    /// Queues an operation.
    ///
    /// # Safety
    /// What it points to must stay valid and unchanged until its key is done.
    unsafe fn push(&mut self, mut sqe: Sqe) -> Key {
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                state: State::Vacant,
            });
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let key = Key(u64::from(slot) | u64::from(self.slots[slot as usize].generation) << 32);
        self.slots[slot as usize].state = State::Waiting;
        sqe.key = key.0;
        self.counters.submit(sqe.opcode());
        // SAFETY: as this function asks of its caller; a key is done when its completion is reaped.
        unsafe { self.queue.push(&sqe) };
        key
    }

    /// Waits until all of `keys` are done.
    fn wait(&mut self, keys: &[Key]) {
        loop {
            let open = keys.iter().filter(|key| !self.is_done(**key)).count();
            if open == 0 {
                return;
            }
            self.enter(open, None);
        }
    }

    /// Waits until `key` is done, for `limit` at most.
    fn wait_within(&mut self, key: Key, limit: Duration) -> bool {
        let begun = Instant::now();
        while !self.is_done(key) {
            let left = limit.saturating_sub(begun.elapsed());
            self.enter(1, Some(left));
            if left.is_zero() {
                return self.is_done(key);
            }
        }
        true
    }

    fn is_done(&self, key: Key) -> bool {
        matches!(self.slots[key.slot()].state, State::Done(_))
    }

    /// The result of an operation that is done; its slot is vacant then.
    fn take(&mut self, key: Key) -> i32 {
        let slot = &mut self.slots[key.slot()];
        match std::mem::replace(&mut slot.state, State::Vacant) {
            State::Done(result) => {
                slot.generation = slot.generation.wrapping_add(1);
                self.vacant
                    .push(u32::try_from(key.slot()).unwrap_or(u32::MAX));
                result
            }
            _ => unreachable!("taken before it was done"),
        }
    }

    /// One system call: hands over what is queued, waits, takes note of what came back.
    fn enter(&mut self, want: usize, limit: Option<Duration>) {
        self.counters.count(Count::Entered);
        match self.queue.enter(want, limit) {
            Ok(()) | Err(Errno::INTR | Errno::TIME) => {}
            // Short of memory, or of room for completions, which are taken now.
            Err(Errno::AGAIN | Errno::BUSY | Errno::NOMEM) => std::thread::yield_now(),
            Err(errno) => {
                // The kernel may be reading memory that its owner is about to reuse, and cannot be
                // waited for. Nothing sound is left to do.
                tracing::error!("io_uring_enter failed: {errno}; ending at once");
                std::process::abort();
            }
        }
        while let Some((key, result)) = self.queue.reap() {
            self.note(Key(key), result);
        }
    }

    fn note(&mut self, key: Key, result: i32) {
        self.counters.count(Count::Completed);
        let Some(slot) = self.slots.get_mut(key.slot()) else {
            return;
        };
        if slot.generation != key.generation() {
            return;
        }
        match slot.state {
            State::Waiting => slot.state = State::Done(result),
            State::Held(..) => {
                slot.state = State::Done(result);
                let _late = self.take(key);
            }
            State::Vacant | State::Done(_) => {}
        }
    }

    /// The table index of the buffer in which a direct write's bytes lie, if it can be registered.
    fn fixed<P: Payload>(&mut self, op: &Io<'_, P>) -> Option<u16> {
        let Io::Write { data, how, .. } = op else {
            return None;
        };
        let (arena, chunk) = data.owned().filter(|_| how.direct)?.home();
        let index = u16::try_from(chunk).ok()?;
        match self.register(arena, chunk) {
            Ok(true) => Some(index),
            Ok(false) => None,
            Err(errno) => {
                self.table = Table::Refused;
                self.unregistered = Some(refusal(errno));
                None
            }
        }
    }

    /// Makes sure that a chunk is registered; false if it cannot be, because others are.
    fn register(&mut self, arena: &Arc<Arena>, chunk: usize) -> Result<bool> {
        if matches!(self.table, Table::Empty) {
            let slots = arena.chunks().min(usize::from(u16::MAX));
            self.queue
                .register_table(u32::try_from(slots).unwrap_or(u32::MAX))?;
            self.table = Table::Of {
                arena: Arc::clone(arena),
                known: vec![false; slots],
            };
        }
        let Table::Of { arena: ours, known } = &mut self.table else {
            return Ok(false);
        };
        if !Arc::ptr_eq(arena, ours) {
            return Ok(false);
        }
        let Some(known) = known.get_mut(chunk) else {
            return Ok(false);
        };
        if !*known {
            let slot = u32::try_from(chunk).unwrap_or(u32::MAX);
            // SAFETY: the table keeps the arena, and with it the mapping, as long as the ring lives.
            unsafe { self.queue.register(slot, arena.chunk(chunk), CHUNK) }?;
            *known = true;
        }
        Ok(true)
    }
}

/// Why buffers are not registered, for people.
fn refusal(errno: Errno) -> String {
    let why = match errno {
        Errno::NOMEM => "the limit on locked memory is too low (RLIMIT_MEMLOCK)".to_owned(),
        Errno::INVAL => "this kernel has no tables of buffers (Linux 5.19)".to_owned(),
        errno => errno.to_string(),
    };
    format!("buffers are not registered: {why}")
}

/// An operation that was started and must be waited for, whatever happens meanwhile.
struct Started<'r, Q: Queue> {
    ring: &'r mut Ring<Q>,
    key: Option<Key>,
}

impl<Q: Queue> Started<'_, Q> {
    fn finish(&mut self) -> i32 {
        let Some(key) = self.key.take() else {
            return 0;
        };
        self.ring.wait(&[key]);
        self.ring.take(key)
    }
}

impl<Q: Queue> Drop for Started<'_, Q> {
    fn drop(&mut self) {
        self.finish();
    }
}

impl<Q: Queue> Drop for Ring<Q> {
    fn drop(&mut self) {
        for slot in &mut self.slots {
            if let State::Held(bytes, fd) = std::mem::replace(&mut slot.state, State::Vacant) {
                // Closing the ring does not make the kernel let go: its memory is given up.
                std::mem::forget((bytes, fd));
            }
        }
    }
}

impl<Q: Queue> std::fmt::Debug for Ring<Q> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("slots", &self.slots.len())
            .finish_non_exhaustive()
    }
}

/// How deep a ring is for a machine of so many CPUs.
pub(super) fn depth(cpus: usize) -> u32 {
    u32::try_from((4 * cpus).clamp(32, 512)).unwrap_or(512)
}

#[cfg(test)]
mod tests;
