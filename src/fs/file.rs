// SPDX-License-Identifier: MIT
//! Content: read, write, durability, allocation, holes, copies, inode flags.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fuser::INodeNo;

use super::{MirrorFs, Then};
use crate::mirror::Outcome;
use crate::store::op::{Action, Flags, Op};
use crate::store::{Node, Scope};
use crate::sys::creds::Needs;
use crate::sys::{Errno, Result};

/// The four ioctls of inode flags, as the kernel's FUSE client sends them (include/uapi/linux/fs.h).
const GET_FLAGS: u32 = 0x8008_6601;
const SET_FLAGS: u32 = 0x4008_6602;
const GET_EXTENDED_FLAGS: u32 = 0x801c_581f;
const SET_EXTENDED_FLAGS: u32 = 0x401c_5820;

/// A WRITE as it came.
pub(super) struct Write<'a> {
    pub(super) offset: u64,
    pub(super) data: &'a [u8],
    /// Set-id bits are to be cleared.
    pub(super) kill: bool,
    /// Out of the page cache: the program has gone on, and its next fsync or msync hears of an error.
    pub(super) delayed: bool,
    /// Of the file that is written to.
    pub(super) open_flags: i32,
}

impl MirrorFs {
    pub(super) fn read_file(&self, ino: INodeNo, offset: u64, into: &mut [u8]) -> Result<usize> {
        let bytes = self.source.read(&self.node(ino)?, into, offset)?;
        self.requests.has_read(bytes);
        Ok(bytes)
    }

    pub(super) fn write_file(
        &self,
        needs: Needs,
        ino: INodeNo,
        write: Write<'_>,
        then: impl Then<usize>,
    ) {
        let Write {
            offset,
            data,
            kill,
            delayed,
            open_flags,
        } = write;
        let length = data.len();
        let appending = open_flags & libc::O_APPEND != 0;
        let found = self.node(ino).and_then(|node| {
            // Where the kernel believes the end to be, others may have written.
            if appending && self.caching.shared_primary {
                let size = self.source.stat(&node)?.size;
                return Ok((node, size));
            }
            Ok((node, offset))
        });
        let (node, offset) = match found {
            Ok(found) => found,
            Err(errno) => return then(Err(errno)),
        };
        // The kernel asks to clear set-id bits on every write of a plain user: only a file that
        // may have some needs the extra care.
        let fsetid = !(kill && node.set_id.load(Ordering::Acquire));
        let durable = if open_flags & libc::O_SYNC == libc::O_SYNC {
            Some((self.mirror.clone(), node.clone(), Scope::Node))
        } else if open_flags & libc::O_DSYNC != 0 {
            Some((self.mirror.clone(), node.clone(), Scope::Data))
        } else {
            None
        };
        let action = Action::Write {
            node,
            offset,
            appending,
        };
        let needs = Needs { fsetid, ..needs };
        let op = Op {
            needs,
            action,
            data,
        };
        // The kernel looks at the error of such a write and not at its length
        // (fs/fuse/file.c, fuse_writepage_end): the rest would be lost without a word.
        let whole = move |outcome: Outcome| match outcome.written {
            written if delayed && written < length => Err(Errno::NOSPC),
            _ => Ok(outcome),
        };
        self.change_if(ino, op, whole, move |done| match (done, durable) {
            (Ok(Outcome { written, .. }), Some((mirror, node, scope))) => {
                let then = Box::new(move |synced: Result<()>| then(synced.map(|()| written)));
                mirror.barrier_then(node, scope, then);
            }
            (done, _) => then(done.map(|outcome| outcome.written)),
        });
    }

    /// Changes content. After a failure the kernel asks for the attributes again: an op that
    /// failed half way may have changed them, and an error tells it nothing.
    pub(super) fn change(&self, ino: INodeNo, op: Op<'_>, then: impl Then<Outcome>) {
        self.change_if(ino, op, Ok, then);
    }

    /// The same, where `judge` may call a failure what was done.
    fn change_if(
        &self,
        ino: INodeNo,
        op: Op<'_>,
        judge: impl FnOnce(Outcome) -> Result<Outcome> + Send + 'static,
        then: impl Then<Outcome>,
    ) {
        let kernel = self.kernel.clone();
        let then = move |done: Result<Outcome>| {
            let done = done.and_then(judge);
            then(done.inspect_err(|_| kernel.forget_attributes(ino)));
        };
        self.mirror.apply_then(op, Box::new(then));
    }

    pub(super) fn sync_node(&self, ino: INodeNo, data_only: bool, then: impl Then<()>) {
        let scope = if data_only { Scope::Data } else { Scope::Node };
        match self.node(ino) {
            Ok(node) => self.mirror.barrier_then(node, scope, Box::new(then)),
            Err(errno) => then(Err(errno)),
        }
    }

    pub(super) fn allocate(
        &self,
        needs: Needs,
        ino: INodeNo,
        (offset, length): (u64, u64),
        mode: i32,
        then: impl Then<()>,
    ) {
        let node = match self.node(ino) {
            Ok(node) => node,
            Err(errno) => return then(Err(errno)),
        };
        let needs = clearing(needs, &node);
        let action = Action::Allocate {
            node,
            mode: mode.cast_unsigned(),
            offset,
            length,
        };
        self.change(ino, Op::new(needs, action), |done| then(done.map(drop)));
    }

    pub(super) fn copy_range(
        &self,
        needs: Needs,
        from: (INodeNo, u64),
        to: (INodeNo, u64),
        length: u64,
        then: impl Then<usize>,
    ) {
        let found = self
            .node(from.0)
            .and_then(|from| Ok((from, self.node(to.0)?)));
        let (source, target) = match found {
            Ok(found) => found,
            Err(errno) => return then(Err(errno)),
        };
        let needs = clearing(needs, &target);
        let action = Action::CopyRange {
            from: source,
            from_offset: from.1,
            to: target,
            to_offset: to.1,
            length,
        };
        self.change(to.0, Op::new(needs, action), |done| {
            then(done.map(|outcome| outcome.written));
        });
    }

    pub(super) fn seek(&self, ino: INodeNo, offset: i64, whence: i32) -> Result<i64> {
        let hole = match whence {
            libc::SEEK_DATA => false,
            libc::SEEK_HOLE => true,
            _ => return Err(Errno::INVAL),
        };
        let offset = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
        let found = self.source.seek(&self.node(ino)?, offset, hole)?;
        i64::try_from(found).map_err(|_| Errno::OVERFLOW)
    }

    /// The ioctls of `chattr(1)`; all others belong to real devices.
    pub(super) fn control(
        &self,
        needs: Needs,
        ino: INodeNo,
        command: u32,
        data: &[u8],
        then: impl Then<Vec<u8>>,
    ) {
        let asked = self.node(ino).and_then(|node| {
            Ok(match command {
                GET_FLAGS => Asked::Told(self.source.flags(&node)?.to_le_bytes().to_vec()),
                GET_EXTENDED_FLAGS => Asked::Told(self.source.extended_flags(&node)?.to_vec()),
                SET_FLAGS => {
                    let flags = u32::from_le_bytes(*data.first_chunk().ok_or(Errno::INVAL)?);
                    Asked::Set(node, Flags::Plain(flags))
                }
                SET_EXTENDED_FLAGS => {
                    let flags = *data.first_chunk().ok_or(Errno::INVAL)?;
                    Asked::Set(node, Flags::Extended(flags))
                }
                _ => return Err(Errno::NOTTY),
            })
        });
        let (node, flags) = match asked {
            Ok(Asked::Set(node, flags)) => (node, flags),
            Ok(Asked::Told(answer)) => return then(Ok(answer)),
            Err(errno) => return then(Err(errno)),
        };
        let kernel = self.kernel.clone();
        let action = Action::SetFlags { node, flags };
        self.act(needs, Ok(action), move |done| {
            // The kernel does not expect a new ctime from this ioctl.
            then(done.map(|_| {
                kernel.forget_attributes(ino);
                Vec::new()
            }));
        });
    }
}

/// What an ioctl comes to.
enum Asked {
    Told(Vec<u8>),
    Set(Arc<Node>, Flags),
}

/// A plain user's change of content clears set-id bits; these requests carry no signal for it.
fn clearing(needs: Needs, node: &Arc<Node>) -> Needs {
    let fsetid = needs.caller.uid == 0 || !node.set_id.load(Ordering::Acquire);
    Needs { fsetid, ..needs }
}
