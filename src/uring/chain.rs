// SPDX-License-Identifier: MIT
//! `Progress`: how far a chain of operations has come, and what to ask for next. Pure.
//!
//! A chain is asked for in rounds of linked operations. A short one breaks the link: its rest is
//! asked for first, then those after it again. The order of the effects is the order of the list,
//! whatever the kernel answered.

use super::counters::{Count, Counters};
use super::io::{Io, Outcome, Payload};
use crate::sys::Errno;

/// How often one operation is asked again without getting anywhere.
const TRIES: u32 = 1000;

/// How far a chain has come.
pub(super) struct Progress {
    outcomes: Vec<Outcome>,
    next: usize,
    part: usize,
    tries: u32,
    stopped: bool,
}

impl Progress {
    pub(super) fn new(len: usize) -> Self {
        Self {
            outcomes: vec![Outcome::NotRun; len],
            next: 0,
            part: 0,
            tries: 0,
            stopped: false,
        }
    }

    /// Whether there is something left to ask for.
    pub(super) fn goes_on(&self) -> bool {
        !self.stopped && self.next < self.outcomes.len()
    }

    /// The operation to ask for next.
    pub(super) fn next(&self) -> usize {
        self.next
    }

    /// How much of it was moved before.
    pub(super) fn part(&self) -> usize {
        self.part
    }

    /// The next operation failed: nothing after it is run.
    pub(super) fn fail(&mut self, errno: Errno) {
        self.outcomes[self.next] = Outcome::Failed {
            errno,
            written: self.part,
        };
        self.stopped = true;
    }

    /// The next operation was told to stop and has ended. True if it did not get to its end.
    pub(super) fn expire<P: Payload>(&mut self, op: &Io<'_, P>, result: i32) -> bool {
        let moved = usize::try_from(result).unwrap_or(0);
        let stopped = result == -Errno::CANCELED.raw_os_error()
            || result == -Errno::INTR.raw_os_error()
            || (result > 0 && self.part + moved < op.len());
        if stopped {
            self.part += moved;
            self.fail(Errno::TIMEDOUT);
        }
        stopped
    }

    /// The next operation is with the kernel for good.
    pub(super) fn hold(&mut self) {
        self.outcomes[self.next] = Outcome::Held;
        self.stopped = true;
    }

    /// What became of all of them.
    pub(super) fn into_outcomes(self) -> Vec<Outcome> {
        self.outcomes
    }

    /// Takes note of the results of a round, which began with the next operation. True if the file
    /// of the operation that is next now was not ready.
    pub(super) fn absorb<P: Payload>(
        &mut self,
        round: &[Io<'_, P>],
        results: &[i32],
        counters: &Counters,
    ) -> bool {
        debug_assert_eq!(round.len(), results.len());
        for (at, (op, &result)) in round.iter().zip(results).enumerate() {
            let left = op.len() - self.part;
            match usize::try_from(result) {
                Ok(moved) if moved >= left => {
                    self.outcomes[self.next] = Outcome::Done(op.len());
                    self.next += 1;
                    self.part = 0;
                    self.tries = 0;
                    continue;
                }
                // Nothing at all, and no reason: asking again would ask for ever.
                Ok(0) => self.fail(Errno::IO),
                Ok(moved) => {
                    self.part += moved;
                    self.tries = 0;
                    counters.count(Count::ResubmittedShort);
                }
                Err(_) => {
                    let errno = Errno::from_raw_os_error(-result);
                    let again = matches!(errno, Errno::AGAIN | Errno::INTR | Errno::CANCELED);
                    self.tries += 1;
                    if !again || self.tries > TRIES {
                        self.fail(errno);
                    } else {
                        counters.count(Count::Retried);
                    }
                }
            }
            // The rest of the round was cancelled with this one. Were it not, it would have to run
            // again all the same, after this one: then the last word on every byte is in order.
            let ran = results[at + 1..]
                .iter()
                .filter(|later| **later >= 0)
                .count();
            counters.add(Count::OutOfOrder, ran as u64);
            return !self.stopped && result == -Errno::AGAIN.raw_os_error();
        }
        false
    }
}
