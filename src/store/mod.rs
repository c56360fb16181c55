// SPDX-License-Identifier: MIT
//! FLOOR 2: one directory tree, safely walked.
//!
//! Two traits keep the door of the house. [`Source`] answers questions and changes nothing;
//! [`Target`] carries out an [`Op`] and makes it durable. `fs` is given a `Source` only, so it
//! cannot write past the mirror: it holds nothing that writes. [`Tree`] is both, for a real
//! directory; tests bring doubles.

pub mod cache;
pub mod descriptor;
pub mod direct;
pub mod name;
pub mod node;
pub mod nodes;
pub mod op;
mod reach;
pub mod stat;
mod target;
pub mod tree;
pub mod walk;

use std::sync::Arc;

use rustix::fs::FileType;

use crate::sys::Result;
use crate::sys::creds::Needs;
pub use descriptor::Access;
pub use direct::Piece;
pub use name::Name;
pub use node::{Node, Side};
pub use nodes::Nodes;
pub use op::{Action, Op};
pub use stat::{Ident, Stat, Time};
pub use tree::Tree;

/// One name in a directory, as `getdents64` gives it.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Inode number, on the directory's own device.
    pub ino: u64,
    /// Where the next entry begins: the file system's own `d_off`.
    pub next: u64,
    /// Type, `Unknown` where the file system does not tell.
    pub kind: FileType,
    /// The name's bytes; `.` and `..` included.
    pub name: &'a std::ffi::CStr,
}

/// Sizes and counts of a whole file system (`statfs(2)`), in the units of the reply.
#[derive(Clone, Copy, Debug, Default)]
pub struct Space {
    /// Blocks of `block_bytes` in all, free, and free for an ordinary user.
    pub blocks: [u64; 3],
    /// Inodes in all, and free.
    pub inodes: [u64; 2],
    /// Preferred I/O size in bytes.
    pub io_bytes: u32,
    /// Size of the blocks counted above, in bytes.
    pub block_bytes: u32,
    /// Longest name in bytes.
    pub name_max: u32,
}

/// The questions that change nothing; answered by the primary.
pub trait Source: Send + Sync {
    /// What `name` is in the directory `parent`.
    fn lookup(&self, parent: &Arc<Node>, name: &Name) -> Result<Stat>;
    /// The attributes of a node.
    fn stat(&self, node: &Arc<Node>) -> Result<Stat>;
    /// Whether an object is gone for good. That no name of it is known says less: it may have others,
    /// or be in the middle of a rename.
    fn is_removed(&self, node: &Arc<Node>) -> bool {
        let is_nameless = || node.place(Side::Primary).links().is_empty();
        node.id != nodes::ROOT_ID
            && is_nameless()
            && self.stat(node).is_ok_and(|stat| stat.nlink == 0)
    }
    /// The target of a symbolic link, byte for byte.
    fn read_link(&self, node: &Arc<Node>) -> Result<Vec<u8>>;
    /// Reads up to `buf.len()` bytes at `offset`; fewer only at the end of the file.
    fn read(&self, node: &Arc<Node>, buf: &mut [u8], offset: u64) -> Result<usize>;
    /// Hands out entries from `cookie` on (0: the beginning) until `take` says false.
    ///
    /// `room` is about how many bytes of entries the caller can use.
    fn read_dir(
        &self,
        node: &Arc<Node>,
        cookie: u64,
        room: usize,
        take: &mut dyn FnMut(&Entry<'_>) -> bool,
    ) -> Result<()>;
    /// Reads one extended attribute; an empty `buf` asks for its size.
    fn get_xattr(&self, node: &Arc<Node>, name: &std::ffi::CStr, buf: &mut [u8]) -> Result<usize>;
    /// The names of all extended attributes.
    fn list_xattr(&self, node: &Arc<Node>) -> Result<Vec<std::ffi::CString>>;
    /// `lseek(2)` with `SEEK_DATA` or `SEEK_HOLE`.
    fn seek(&self, node: &Arc<Node>, offset: u64, hole: bool) -> Result<u64>;
    /// Inode flags as `chattr(1)` sets them.
    fn flags(&self, node: &Arc<Node>) -> Result<u32>;
    /// The same and project ids, extent size hints.
    fn extended_flags(&self, node: &Arc<Node>) -> Result<crate::sys::at::ExtendedFlags>;
    /// Sizes of the file system.
    fn space(&self) -> Result<Space>;
    /// A handle by which the object is known to the file system, whatever its names; nothing where
    /// there are none.
    fn handle(&self, _node: &Arc<Node>) -> Box<[u8]> {
        Box::default()
    }
}

/// What came of an op on one tree.
#[derive(Debug, Default)]
pub struct Applied {
    /// Bytes written or copied, for the ops that do.
    pub written: usize,
    /// The object that a creating op made.
    pub made: Option<Made>,
}

/// A newly made object: what it is, and its descriptor where making it opened one.
#[derive(Debug)]
pub struct Made {
    /// Its attributes right after.
    pub stat: Stat,
    /// Open for reading and writing.
    pub fd: Option<std::os::fd::OwnedFd>,
}

/// How durable a barrier makes a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Content and the metadata needed to find it: `fdatasync(2)`.
    Data,
    /// Everything about the node: `fsync(2)`.
    Node,
}

/// One copy, as the mirror sees it: it carries out ops and makes them durable.
pub trait Target: Send + Sync {
    /// Carries out one op. Nothing is done in part, except that a write may be short.
    fn apply(&self, op: &Op<'_>) -> Result<Applied>;
    /// Carries out a write while `meanwhile` runs, where there is a way to; else after it.
    fn write_beside(&self, op: &Op<'_>, meanwhile: &mut dyn FnMut()) -> Result<Applied> {
        meanwhile();
        self.apply(op)
    }
    /// Whether a write of `node` needs nothing to be opened.
    fn has_open(&self, _node: &Arc<Node>) -> bool {
        true
    }
    /// As [`Self::barrier`], while `meanwhile` runs.
    fn barrier_beside(
        &self,
        node: &Arc<Node>,
        scope: Scope,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<()> {
        meanwhile();
        self.barrier(node, scope)
    }
    /// Writes as many of `pieces` as can be written in one go, in order, and says how many that
    /// was; the others are left for [`Self::apply`]. The error is of the one after those.
    fn write_chain(&self, _needs: Needs, _pieces: &[Piece<'_>]) -> (usize, Result<()>) {
        (0, Ok(()))
    }
    /// Whether [`Self::write_chain`] hands many writes over at once.
    fn has_chains(&self) -> bool {
        false
    }
    /// Ties an object just made by `apply` to its node.
    fn adopt(&self, node: &Arc<Node>, made: Made);
    /// Sets access and modification time, to the nanosecond.
    fn set_times(&self, node: &Arc<Node>, atime: Time, mtime: Time) -> Result<()>;
    /// Makes size and permission bits of a node like `like`, after an op that may have changed
    /// them on the other copy before it failed there.
    fn conform(&self, node: &Arc<Node>, like: &Stat) -> Result<()>;
    /// The error of a sync in the background since the last call, if one failed.
    fn fault(&self) -> Option<crate::sys::Errno>;
    /// What a node is like here, if it can be reached.
    fn twin(&self, _node: &Arc<Node>) -> Option<Stat> {
        None
    }
    /// Makes everything done so far durable.
    fn sync_all(&self) -> Result<()> {
        Ok(())
    }
    /// Makes everything done to `node` so far durable. On the primary a failed sync (not a failed
    /// attempt to open the node) is kept on the node.
    fn barrier(&self, node: &Arc<Node>, scope: Scope) -> Result<()>;
    /// Sizes of the file system.
    fn space(&self) -> Result<Space>;
}
