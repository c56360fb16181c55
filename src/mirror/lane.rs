// SPDX-License-Identifier: MIT
//! `Lane`: one replica, and how ops get there.
//!
//! One carrier so far, *inline*: the thread that served the primary carries the op on, from the
//! same buffer. A lane is open until its replica fails for the first time; from then on nothing
//! more is sent, because a replica with a gap in it is worth less than one that stops at a known
//! moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::resync::{Lack, Lacks};
use crate::store::op::{Action, Op};
use crate::store::{Applied, Node, Scope, Space, Stat, Target, Time};
use crate::sys::{Errno, Result};

/// Why a lane closed.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What the replica answered, or `None` when it did something other than the primary.
    pub errno: Option<Errno>,
    /// What was being done, to what: "write to photos/img.raw".
    pub doing: String,
}

/// One replica.
pub struct Lane {
    target: Arc<dyn Target>,
    open: AtomicBool,
    /// What the replica was accepted without (`--metadata-loss=warn`).
    lacks: Lacks,
    written_bytes: AtomicU64,
    errors: AtomicU64,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane")
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

impl Lane {
    /// A lane to `target`; closed from the start when mounted without the replica.
    #[must_use]
    pub fn new(target: Arc<dyn Target>, open: bool, lacks: Lacks) -> Self {
        Self {
            target,
            open: AtomicBool::new(open),
            lacks,
            written_bytes: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        }
    }

    /// Whether ops are still sent.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Stops sending. True for the one caller who did it.
    pub fn close(&self) -> bool {
        self.errors.fetch_add(1, Ordering::Relaxed);
        self.open.swap(false, Ordering::AcqRel)
    }

    /// Bytes written to the replica, and errors it gave.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (
            self.written_bytes.load(Ordering::Relaxed),
            self.errors.load(Ordering::Relaxed),
        )
    }

    /// Carries out on the replica what the primary did, and exactly that.
    ///
    /// # Errors
    /// A fault when the replica failed or did something else: from then on it is behind.
    pub fn carry(
        &self,
        op: &Op<'_>,
        primary: &Applied,
        node: Option<&Arc<Node>>,
    ) -> std::result::Result<(), Fault> {
        let done = match &op.action {
            Action::Write {
                node,
                offset,
                data,
                appending,
            } => {
                let data = &data[..primary.written.min(data.len())];
                self.write(op, node, *offset, data, *appending)
            }
            Action::CopyRange {
                from,
                from_offset,
                to,
                to_offset,
                ..
            } => self.copy_range(op, from, *from_offset, to, *to_offset, primary.written),
            _ => self
                .target
                .apply(op)
                .and_then(|applied| self.adopt(primary, applied, node)),
        };
        let done = done.and_then(|()| self.target.fault().map_or(Ok(()), Err));
        match done {
            Err(errno) if self.does_without(op, errno) => Ok(()),
            done => done.map_err(|errno| Fault {
                errno: Some(errno),
                doing: describe(op),
            }),
        }
    }

    /// Whether this is a loss that was accepted at mount.
    fn does_without(&self, op: &Op<'_>, errno: Errno) -> bool {
        let refused = matches!(errno, Errno::OPNOTSUPP | Errno::PERM | Errno::NOTTY);
        let lack = match &op.action {
            Action::SetXattr { .. } | Action::RemoveXattr { .. } => Lack::Xattr,
            Action::SetFlags { .. } => Lack::Flags,
            _ => return false,
        };
        refused && self.lacks.contains(lack)
    }

    /// Ties the replica's new object to its node, with the primary's times.
    fn adopt(&self, primary: &Applied, replica: Applied, node: Option<&Arc<Node>>) -> Result<()> {
        let (Some(node), Some(first), Some(made)) = (node, &primary.made, replica.made) else {
            return Ok(());
        };
        let same = made.stat.mode == first.stat.mode
            && (made.stat.uid, made.stat.gid) == (first.stat.uid, first.stat.gid);
        let times = (first.stat.atime, first.stat.mtime);
        let replica_times = (made.stat.atime, made.stat.mtime);
        self.target.adopt(node, made);
        if !same {
            // Another file system, another idea of what a new object looks like.
            return Err(Errno::OPNOTSUPP);
        }
        if times == replica_times {
            return Ok(());
        }
        self.target.set_times(node, times.0, times.1)
    }

    /// Writes all of `data`: what the primary took in one call, the replica takes in as many as
    /// it needs.
    fn write(
        &self,
        op: &Op<'_>,
        node: &Arc<Node>,
        offset: u64,
        data: &[u8],
        appending: bool,
    ) -> Result<()> {
        self.fully(op, data.len(), |done| Action::Write {
            node: node.clone(),
            offset: offset + done as u64,
            data: &data[done..],
            appending,
        })
    }

    /// Copies exactly `length` bytes within the replica.
    fn copy_range(
        &self,
        op: &Op<'_>,
        from: &Arc<Node>,
        from_offset: u64,
        to: &Arc<Node>,
        to_offset: u64,
        length: usize,
    ) -> Result<()> {
        self.fully(op, length, |done| Action::CopyRange {
            from: from.clone(),
            from_offset: from_offset + done as u64,
            to: to.clone(),
            to_offset: to_offset + done as u64,
            length: (length - done) as u64,
        })
    }

    /// Carries out the part of `op` that is left after `done` bytes until all `length` are done.
    fn fully<'a>(
        &self,
        op: &Op<'_>,
        length: usize,
        rest: impl Fn(usize) -> Action<'a>,
    ) -> Result<()> {
        let mut done = 0;
        while done < length {
            let part = Op {
                needs: op.needs,
                action: rest(done),
            };
            match self.target.apply(&part)?.written {
                0 => return Err(Errno::IO),
                n => done += n,
            }
        }
        self.written_bytes.fetch_add(done as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Carries a node's times over.
    pub fn set_times(
        &self,
        node: &Arc<Node>,
        atime: Time,
        mtime: Time,
    ) -> std::result::Result<(), Fault> {
        self.target
            .set_times(node, atime, mtime)
            .map_err(|errno| Fault {
                errno: Some(errno),
                doing: format!("carry times over to {}", node.display_path()),
            })
    }

    /// Makes size and permission bits follow the primary after an op that failed there.
    pub fn conform(&self, node: &Arc<Node>, like: &Stat) -> std::result::Result<(), Fault> {
        self.target.conform(node, like).map_err(|errno| Fault {
            errno: Some(errno),
            doing: format!("follow a failed change of {}", node.display_path()),
        })
    }

    /// Makes a node durable on the replica.
    pub fn barrier(&self, node: &Arc<Node>, scope: Scope) -> std::result::Result<(), Fault> {
        self.target.barrier(node, scope).map_err(|errno| Fault {
            errno: Some(errno),
            doing: format!("fsync of {}", node.display_path()),
        })
    }

    /// Sizes of the replica's file system.
    pub fn space(&self) -> Result<Space> {
        self.target.space()
    }
}

/// "write to photos/img.raw", for messages.
fn describe(op: &Op<'_>) -> String {
    let verb = op.verb();
    let below = |parent: &Node, name: &crate::store::Name| {
        let name = name
            .as_os_str()
            .to_string_lossy()
            .escape_debug()
            .to_string();
        match parent.display_path().as_str() {
            "." => name,
            dir => format!("{dir}/{name}"),
        }
    };
    let object = match &op.action {
        Action::Write { node, .. }
        | Action::Truncate { node, .. }
        | Action::Allocate { node, .. }
        | Action::CopyRange { to: node, .. }
        | Action::SetAttr { node, .. }
        | Action::SetFlags { node, .. }
        | Action::SetXattr { node, .. }
        | Action::RemoveXattr { node, .. } => node.display_path(),
        Action::Create { parent, name, .. }
        | Action::Mkdir { parent, name, .. }
        | Action::Mknod { parent, name, .. }
        | Action::Symlink { parent, name, .. }
        | Action::Link { parent, name, .. }
        | Action::Unlink { parent, name, .. }
        | Action::Rmdir { parent, name, .. } => below(parent, name),
        Action::Rename { from, .. } => below(&from.0, &from.1),
    };
    format!("{verb} {object}")
}
