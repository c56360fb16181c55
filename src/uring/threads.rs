// SPDX-License-Identifier: MIT
//! `Threads`: the same without io_uring. Plain calls, made by the calling thread.

use std::io::IoSlice;
use std::sync::Arc;

use rustix::io::ReadWriteFlags;

use super::chain::Progress;
use super::counters::{Count, Counters};
use super::io::{Io, Outcome, Payload, ready};

/// The rung below a ring.
#[derive(Debug)]
pub(super) struct Threads {
    counters: Arc<Counters>,
}

impl Threads {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Self { counters }
    }

    /// Runs `ops` one after the other, and none after one that failed.
    pub(super) fn chain<P: Payload>(&self, ops: &[Io<'_, P>]) -> Vec<Outcome> {
        let mut progress = Progress::new(ops.len());
        while progress.goes_on() {
            let op = &ops[progress.next()];
            let result = self.call(op, progress.part());
            if progress.absorb(std::slice::from_ref(op), &[result], &self.counters) {
                ready(op.fd(), None);
            }
        }
        progress.into_outcomes()
    }

    /// Does `work`, then `op`: one after the other, the primary's part first.
    pub(super) fn overlap<P: Payload, R>(
        &self,
        op: &Io<'_, P>,
        work: impl FnOnce() -> R,
    ) -> (R, Outcome) {
        let done = work();
        let outcomes = self.chain(std::slice::from_ref(op));
        (done, outcomes.into_iter().next().unwrap_or(Outcome::NotRun))
    }

    /// One call, its answer as a ring would give it.
    fn call<P: Payload>(&self, op: &Io<'_, P>, part: usize) -> i32 {
        self.counters.count(Count::Entered);
        self.counters.submit(op.sqe(part, None).opcode());
        let done = match op {
            Io::Write {
                fd,
                data,
                offset,
                how,
            } => {
                let rest = &data.bytes()[part..];
                let flags = ReadWriteFlags::from_bits_retain(how.flags().cast_unsigned());
                rustix::io::pwritev2(fd, &[IoSlice::new(rest)], offset + part as u64, flags)
            }
            Io::Fsync {
                fd,
                data_only: true,
            } => rustix::fs::fdatasync(fd).map(|()| 0),
            Io::Fsync {
                fd,
                data_only: false,
            } => rustix::fs::fsync(fd).map(|()| 0),
        };
        self.counters.count(Count::Completed);
        match done {
            Ok(moved) => i32::try_from(moved).unwrap_or(i32::MAX),
            Err(errno) => -errno.raw_os_error(),
        }
    }
}
