// SPDX-License-Identifier: MIT
//! The two queues that lead into the kernel and back, and the one place that touches them.

use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{Builder, IoUring};

use super::io::Sqe;
use crate::sys::{Errno, Result};

/// What a ring needs of the kernel. The tests put a stand-in here that answers late, short, in
/// the wrong order or not at all.
pub(super) trait Queue {
    /// How many submissions fit at once.
    fn depth(&self) -> usize;

    /// Queues a submission; there must be room.
    ///
    /// # Safety
    /// What `sqe` points to must stay valid and unchanged until its completion is reaped.
    unsafe fn push(&mut self, sqe: &Sqe);

    /// Hands over what is queued and waits for `want` completions, or until `limit` is over
    /// ([`Errno::TIME`]). It may also come back earlier.
    fn enter(&mut self, want: usize, limit: Option<Duration>) -> Result<()>;

    /// The next completion: key and result.
    fn reap(&mut self) -> Option<(u64, i32)>;

    /// Makes a table for `slots` buffers, empty.
    fn register_table(&mut self, slots: u32) -> Result<()>;

    /// Puts a buffer into the table.
    ///
    /// # Safety
    /// The memory must stay mapped as long as the queue exists.
    unsafe fn register(&mut self, slot: u32, at: *mut u8, len: usize) -> Result<()>;
}

/// The kernel's own.
pub(super) struct Kernel(IoUring);

/// An error of the io_uring crate in our words.
pub(super) fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

impl Kernel {
    /// Queues for `depth` submissions, of the calling thread alone.
    ///
    /// No SQPOLL: it would burn a core for a stream of waits. Completions are worked off only when
    /// we ask for them (DEFER_TASKRUN), where the kernel knows how; older ones get less.
    pub(super) fn new(depth: u32) -> Result<Self> {
        let best: [fn(&mut Builder) -> &mut Builder; 3] = [
            |b| {
                b.setup_single_issuer()
                    .setup_defer_taskrun()
                    .setup_submit_all()
            },
            |b| b.setup_coop_taskrun().setup_submit_all(),
            |b| b,
        ];
        let mut refused = Errno::INVAL;
        for flags in best {
            let mut builder = IoUring::builder();
            match flags(builder.setup_clamp()).build(depth) {
                Ok(ring) => return Ok(Self(ring)),
                Err(error) => refused = errno(&error),
            }
            if refused != Errno::INVAL {
                break;
            }
        }
        Err(refused)
    }

    /// Sends a no-op there and back: a filter may allow a ring and forbid its use.
    pub(super) fn try_out(&mut self) -> Result<()> {
        let nop = io_uring::opcode::Nop::new().build();
        // SAFETY: it points to nothing.
        let pushed = unsafe { self.0.submission().push(&nop) };
        pushed.map_err(|_| Errno::BUSY)?;
        while self.reap().is_none() {
            match self.enter(1, None) {
                Ok(()) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// The ring itself, for questions about it.
    pub(super) fn ring(&self) -> &IoUring {
        &self.0
    }
}

impl Queue for Kernel {
    fn depth(&self) -> usize {
        self.0.params().sq_entries() as usize
    }

    /// # Safety
    /// As above.
    unsafe fn push(&mut self, sqe: &Sqe) {
        let entry = sqe.entry();
        // SAFETY: the caller keeps what the entry points to valid until its completion.
        let pushed = unsafe { self.0.submission().push(&entry) };
        assert!(
            pushed.is_ok(),
            "a ring was asked to hold more than its depth"
        );
    }

    fn enter(&mut self, want: usize, limit: Option<Duration>) -> Result<()> {
        let entered = match limit {
            None => self.0.submit_and_wait(want),
            Some(limit) => {
                let timespec = Timespec::from(limit);
                self.0
                    .submitter()
                    .submit_with_args(want, &SubmitArgs::new().timespec(&timespec))
            }
        };
        entered.map(drop).map_err(|error| errno(&error))
    }

    fn reap(&mut self) -> Option<(u64, i32)> {
        let completion = self.0.completion().next()?;
        Some((completion.user_data(), completion.result()))
    }

    fn register_table(&mut self, slots: u32) -> Result<()> {
        let made = self.0.submitter().register_buffers_sparse(slots);
        made.map_err(|error| errno(&error))
    }

    /// # Safety
    /// As above.
    unsafe fn register(&mut self, slot: u32, at: *mut u8, len: usize) -> Result<()> {
        let buffer = libc::iovec {
            iov_base: at.cast(),
            iov_len: len,
        };
        // SAFETY: the caller keeps the memory mapped as long as the queue exists.
        let registered = unsafe {
            self.0
                .submitter()
                .register_buffers_update(slot, &[buffer], Some(&[0]))
        };
        registered.map(drop).map_err(|error| errno(&error))
    }
}
