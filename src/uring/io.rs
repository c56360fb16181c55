// SPDX-License-Identifier: MIT
//! The few operations there are, as data, and what became of each.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use io_uring::squeue::{Entry, Flags};
use io_uring::{opcode, types};

use super::buffer::Bytes;
use super::counters::Opcode;
use crate::sys::Errno;

/// The most that one operation moves (the kernel's MAX_RW_COUNT); longer ones go in parts.
const PART_MAX: usize = if cfg!(test) { 2 << 20 } else { 0x7fff_f000 };

/// What a write carries: a lent slice, or [`Bytes`] of an arena.
///
/// Only these two: the unsafe code relies on the memory staying where it is.
pub trait Payload: sealed::Sealed {
    /// The bytes.
    fn bytes(&self) -> &[u8];
    /// The same bytes to keep, if they are not merely lent.
    fn owned(&self) -> Option<&Bytes>;
}

mod sealed {
    /// Nobody else implements [`super::Payload`].
    pub trait Sealed {}
    impl Sealed for &[u8] {}
    impl Sealed for super::Bytes {}
}

impl Payload for &[u8] {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn owned(&self) -> Option<&Bytes> {
        None
    }
}

impl Payload for Bytes {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn owned(&self) -> Option<&Bytes> {
        Some(self)
    }
}

/// How a write is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct How {
    /// Leave nothing in the page cache (`RWF_DONTCACHE`, Linux 6.14; not every file system).
    pub uncached: bool,
    /// Durable before it is answered (`RWF_DSYNC`).
    pub durable: bool,
    /// The file was opened `O_DIRECT`. Then, and only then, a registered buffer is used if the
    /// bytes lie in one: for buffered writes registered buffers cost more than they save.
    pub direct: bool,
}

impl How {
    /// As `pwritev2` takes it.
    pub(super) fn flags(self) -> i32 {
        let mut flags = 0;
        if self.uncached {
            flags |= libc::RWF_DONTCACHE;
        }
        if self.durable {
            flags |= libc::RWF_DSYNC;
        }
        flags
    }
}

/// One operation.
#[derive(Clone, Debug)]
pub enum Io<'fd, P = &'fd [u8]> {
    /// All of `data`, at `offset`.
    Write {
        /// The file.
        fd: BorrowedFd<'fd>,
        /// What to write.
        data: P,
        /// Where.
        offset: u64,
        /// How.
        how: How,
    },
    /// What was written before is to be durable.
    Fsync {
        /// The file or directory.
        fd: BorrowedFd<'fd>,
        /// `fdatasync` instead of `fsync`.
        data_only: bool,
    },
}

impl<'fd, P: Payload> Io<'fd, P> {
    /// The file concerned.
    pub fn fd(&self) -> BorrowedFd<'fd> {
        match self {
            Self::Write { fd, .. } | Self::Fsync { fd, .. } => *fd,
        }
    }

    /// The payload, if any.
    pub(super) fn payload(&self) -> Option<&P> {
        match self {
            Self::Write { data, .. } => Some(data),
            Self::Fsync { .. } => None,
        }
    }

    /// How many bytes are to be moved.
    pub(super) fn len(&self) -> usize {
        self.payload().map_or(0, |data| data.bytes().len())
    }

    /// Whether one submission is enough for all of it, `part` bytes having been moved before.
    pub(super) fn fits(&self, part: usize) -> bool {
        self.len() - part <= PART_MAX
    }

    /// What the kernel is told, `part` bytes having been moved before.
    pub(super) fn sqe(&self, part: usize, fixed: Option<u16>) -> Sqe {
        let fd = self.fd().as_raw_fd();
        match self {
            Self::Write {
                data, offset, how, ..
            } => {
                let rest = data.bytes().get(part..).unwrap_or_default();
                let rest = &rest[..rest.len().min(PART_MAX)];
                Sqe {
                    what: What::Write {
                        from: rest.as_ptr(),
                        len: u32::try_from(rest.len()).unwrap_or(u32::MAX),
                        offset: offset + part as u64,
                        flags: how.flags(),
                        fixed,
                    },
                    fd,
                    ..Sqe::default()
                }
            }
            Self::Fsync { data_only, .. } => Sqe {
                what: What::Fsync {
                    data_only: *data_only,
                },
                fd,
                ..Sqe::default()
            },
        }
    }
}

/// Waits until a file that answered "try again" can be asked again; regular files always can.
/// False when `limit` is over before.
pub(super) fn ready(fd: BorrowedFd<'_>, limit: Option<Duration>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    // What cannot be polled says why when it is asked again.
    poll(&mut fds, limit.as_ref()) != Ok(0)
}

/// What became of one operation of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of it, this many bytes.
    Done(usize),
    /// It failed, after this many bytes.
    Failed {
        /// Why; [`Errno::TIMEDOUT`] when its time was over and it was stopped.
        errno: Errno,
        /// How much had been written before.
        written: usize,
    },
    /// Its time was over and the kernel would not stop it: it may happen yet, at any time, until
    /// `Disk::held` says 0.
    Held,
    /// Not begun, because one before it did not succeed.
    NotRun,
}

/// A submission in our own words, so that a test can stand in for the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sqe {
    pub(super) what: What,
    pub(super) fd: RawFd,
    /// The next one starts only when this one has succeeded in full.
    pub(super) link: bool,
    /// Do not even try to do it on the submitter's time.
    pub(super) background: bool,
    pub(super) key: u64,
}

/// The operation of an [`Sqe`].
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Write {
        from: *const u8,
        len: u32,
        offset: u64,
        flags: i32,
        fixed: Option<u16>,
    },
    Fsync {
        data_only: bool,
    },
    Cancel {
        target: u64,
    },
}

impl Default for Sqe {
    fn default() -> Self {
        Self {
            what: What::Cancel { target: 0 },
            fd: -1,
            link: false,
            background: false,
            key: 0,
        }
    }
}

impl Sqe {
    /// For the counters.
    pub(super) fn opcode(&self) -> Opcode {
        match self.what {
            What::Write { fixed: Some(_), .. } => Opcode::WriteFixed,
            What::Write { fixed: None, .. } => Opcode::Write,
            What::Fsync { .. } => Opcode::Fsync,
            What::Cancel { .. } => Opcode::Cancel,
        }
    }

    /// In the kernel's words.
    pub(super) fn entry(&self) -> Entry {
        let fd = types::Fd(self.fd);
        let entry = match self.what {
            What::Write {
                from,
                len,
                offset,
                flags,
                fixed: None,
            } => opcode::Write::new(fd, from, len)
                .offset(offset)
                .rw_flags(flags)
                .build(),
            What::Write {
                from,
                len,
                offset,
                flags,
                fixed: Some(index),
            } => {
                let write = opcode::WriteFixed::new(fd, from, len, index);
                write.offset(offset).rw_flags(flags).build()
            }
            What::Fsync { data_only } => {
                let flags = if data_only {
                    types::FsyncFlags::DATASYNC
                } else {
                    types::FsyncFlags::empty()
                };
                opcode::Fsync::new(fd).flags(flags).build()
            }
            What::Cancel { target } => opcode::AsyncCancel::new(target).build(),
        };
        let mut flags = Flags::empty();
        if self.link {
            flags |= Flags::IO_LINK;
        }
        if self.background {
            flags |= Flags::ASYNC;
        }
        entry.flags(flags).user_data(self.key)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    /// As the kernel reads it (io_uring(7)).
    #[repr(C)]
    #[derive(Debug, PartialEq, Eq)]
    struct Raw {
        opcode: u8,
        flags: u8,
        ioprio: u16,
        fd: i32,
        offset: u64,
        address: u64,
        len: u32,
        op_flags: u32,
        user_data: u64,
        buf_index: u16,
        personality: u16,
        _splice: i32,
        _rest: [u64; 2],
    }

    fn raw(sqe: &Sqe) -> Raw {
        // SAFETY: both are 64 bytes of plain numbers.
        unsafe { std::mem::transmute(sqe.entry()) }
    }

    #[test]
    fn the_kernel_is_told_what_is_meant() {
        let file = tempfile::tempfile().expect("a file");
        let data = [7; 100];
        let how = How {
            uncached: true,
            durable: true,
            direct: true,
        };
        let write = Io::Write {
            fd: file.as_fd(),
            data: data.as_slice(),
            offset: 1000,
            how,
        };
        let mut sqe = Sqe {
            link: true,
            key: 5,
            ..write.sqe(30, None)
        };
        let told = raw(&sqe);
        let expected = Raw {
            opcode: opcode::Write::CODE,
            flags: 1 << 2, // IOSQE_IO_LINK
            ioprio: 0,
            fd: file.as_raw_fd(),
            offset: 1030,
            address: data[30..].as_ptr().addr() as u64,
            len: 70,
            op_flags: 0x80 | 2, // RWF_DONTCACHE, RWF_DSYNC
            user_data: 5,
            buf_index: 0,
            personality: 0,
            _splice: 0,
            _rest: [0; 2],
        };
        assert_eq!(told, expected);

        (sqe.link, sqe.background) = (false, true);
        let told = raw(&Sqe {
            what: write.sqe(0, Some(9)).what,
            ..sqe
        });
        let fixed = (opcode::WriteFixed::CODE, 1 << 4, 9); // IOSQE_ASYNC
        assert_eq!((told.opcode, told.flags, told.buf_index), fixed);
        assert_eq!((told.offset, told.len, told.op_flags), (1000, 100, 0x82));
        assert_eq!(How::default().flags(), 0);

        for (data_only, flags) in [(false, 0), (true, 1)] {
            let fsync: Io<'_> = Io::Fsync {
                fd: file.as_fd(),
                data_only,
            };
            let told = raw(&fsync.sqe(0, None));
            let expected = (opcode::Fsync::CODE, file.as_raw_fd(), flags, 0);
            assert_eq!((told.opcode, told.fd, told.op_flags, told.flags), expected);
        }

        let cancel = Sqe {
            what: What::Cancel { target: 77 },
            ..Sqe::default()
        };
        let told = raw(&cancel);
        assert_eq!((told.opcode, told.address), (opcode::AsyncCancel::CODE, 77));
    }
}
