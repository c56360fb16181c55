// SPDX-License-Identifier: MIT
//! Content: read, write, durability, allocation, holes, copies, inode flags.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fuser::INodeNo;

use super::MirrorFs;
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

impl MirrorFs {
    pub(super) fn read_file(&self, ino: INodeNo, offset: u64, into: &mut [u8]) -> Result<usize> {
        self.source.read(&self.node(ino)?, into, offset)
    }

    pub(super) fn write_file(
        &self,
        needs: Needs,
        ino: INodeNo,
        offset: u64,
        data: &[u8],
        kill: bool,
        open_flags: i32,
    ) -> Result<usize> {
        let node = self.node(ino)?;
        // The kernel asks to clear set-id bits on every write of a plain user: only a file that
        // may have some needs the extra care.
        let fsetid = !(kill && node.set_id.load(Ordering::Acquire));
        let appending = open_flags & libc::O_APPEND != 0;
        let offset = if appending && self.caching.shared_primary {
            // Where the kernel believes the end to be, others may have written.
            self.source.stat(&node)?.size
        } else {
            offset
        };
        let action = Action::Write {
            node: node.clone(),
            offset,
            appending,
        };
        let needs = Needs { fsetid, ..needs };
        let op = Op {
            needs,
            action,
            data,
        };
        let written = self.change(ino, &op)?.written;
        if open_flags & libc::O_SYNC == libc::O_SYNC {
            self.mirror.barrier(&node, Scope::Node)?;
        } else if open_flags & libc::O_DSYNC != 0 {
            self.mirror.barrier(&node, Scope::Data)?;
        }
        Ok(written)
    }

    /// Changes content. After a failure the kernel asks for the attributes again: an op that
    /// failed half way may have changed them, and an error tells it nothing.
    pub(super) fn change(&self, ino: INodeNo, op: &Op<'_>) -> Result<Outcome> {
        self.mirror
            .apply(op)
            .inspect_err(|_| self.kernel.forget_attributes(ino))
    }

    pub(super) fn sync_node(&self, ino: INodeNo, data_only: bool) -> Result<()> {
        let scope = if data_only { Scope::Data } else { Scope::Node };
        self.mirror.barrier(&self.node(ino)?, scope)
    }

    pub(super) fn allocate(
        &self,
        needs: Needs,
        ino: INodeNo,
        offset: u64,
        length: u64,
        mode: i32,
    ) -> Result<()> {
        let node = self.node(ino)?;
        let mode = mode.cast_unsigned();
        let action = Action::Allocate {
            node: node.clone(),
            mode,
            offset,
            length,
        };
        let needs = clearing(needs, &node);
        self.change(ino, &Op::new(needs, action)).map(drop)
    }

    pub(super) fn copy_range(
        &self,
        needs: Needs,
        from: (INodeNo, u64),
        to: (INodeNo, u64),
        length: u64,
    ) -> Result<usize> {
        let (source, target) = (self.node(from.0)?, self.node(to.0)?);
        let needs = clearing(needs, &target);
        let action = Action::CopyRange {
            from: source,
            from_offset: from.1,
            to: target,
            to_offset: to.1,
            length,
        };
        self.change(to.0, &Op::new(needs, action))
            .map(|outcome| outcome.written)
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
    ) -> Result<Vec<u8>> {
        let node = self.node(ino)?;
        let flags = match command {
            GET_FLAGS => return Ok(self.source.flags(&node)?.to_le_bytes().to_vec()),
            GET_EXTENDED_FLAGS => return Ok(self.source.extended_flags(&node)?.to_vec()),
            SET_FLAGS => Flags::Plain(u32::from_le_bytes(*data.first_chunk().ok_or(Errno::INVAL)?)),
            SET_EXTENDED_FLAGS => Flags::Extended(*data.first_chunk().ok_or(Errno::INVAL)?),
            _ => return Err(Errno::NOTTY),
        };
        let action = Action::SetFlags { node, flags };
        self.mirror.apply(&Op::new(needs, action))?;
        // The kernel does not expect a new ctime from this ioctl.
        self.kernel.forget_attributes(ino);
        Ok(Vec::new())
    }
}

/// A plain user's change of content clears set-id bits; these requests carry no signal for it.
fn clearing(needs: Needs, node: &Arc<Node>) -> Needs {
    let fsetid = needs.caller.uid == 0 || !node.set_id.load(Ordering::Acquire);
    Needs { fsetid, ..needs }
}
