// SPDX-License-Identifier: MIT
//! Names: making, linking, removing and renaming what a directory holds.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fuser::{INodeNo, RenameFlags};

use super::{MirrorFs, name, reply};
use crate::store::op::{Action, Op};
use crate::store::{Node, Stat};
use crate::sys::creds::{Caller, Needs};
use crate::sys::{Errno, Result};

type Made = Result<(Arc<Node>, Stat)>;

/// Credentials for an op that creates nothing and leaves set-id bits alone.
pub(super) fn changing(caller: Caller) -> Needs {
    Needs {
        caller,
        umask: None,
        fsetid: true,
    }
}

/// Credentials for an op that creates.
pub(super) fn creating(caller: Caller, umask: u32) -> Needs {
    Needs {
        umask: Some(umask),
        ..changing(caller)
    }
}

impl MirrorFs {
    fn make(&self, needs: Needs, action: Action) -> Made {
        self.mirror
            .apply(&Op::new(needs, action))?
            .made
            .ok_or(Errno::IO)
    }

    pub(super) fn create_file(
        &self,
        needs: Needs,
        parent: INodeNo,
        bytes: &OsStr,
        mode: u32,
        flags: i32,
    ) -> Made {
        let (parent_node, name) = (self.node(parent)?, name(bytes)?);
        let action = Action::Create {
            parent: parent_node,
            name,
            mode,
        };
        match self.make(needs, action) {
            // It came into being since the kernel looked: then this is an open like any other.
            Err(Errno::EXIST) if flags & libc::O_EXCL == 0 => {
                let (node, stat) = self.look_up(parent, bytes)?;
                if flags & libc::O_TRUNC == 0 || stat.is_dir() {
                    return Ok((node, stat));
                }
                let needs = Needs {
                    fsetid: needs.caller.uid == 0,
                    ..needs
                };
                let action = Action::Truncate {
                    node: node.clone(),
                    size: 0,
                };
                let cut = self.mirror.apply(&Op::new(needs, action));
                let stat = cut.and_then(|_| self.source.stat(&node));
                let stat = stat.inspect_err(|_| self.nodes.forget(node.id, 1))?;
                Ok((node, stat))
            }
            made => made,
        }
    }

    /// Whether a file made with these flags goes past the kernel's page cache: what is only
    /// written needs none on the way (decision 2). Mapping it is allowed all the same
    /// (`DIRECT_IO_ALLOW_MMAP`).
    pub(super) fn is_direct(&self, flags: i32) -> bool {
        flags & libc::O_ACCMODE == libc::O_WRONLY && !self.caching.writeback
    }

    pub(super) fn make_node(
        &self,
        needs: Needs,
        parent: INodeNo,
        bytes: &OsStr,
        mode: u32,
        rdev: u32,
    ) -> Made {
        let (parent, name) = (self.node(parent)?, name(bytes)?);
        let rdev = reply::device(rdev);
        self.make(
            needs,
            Action::Mknod {
                parent,
                name,
                mode,
                rdev,
            },
        )
    }

    pub(super) fn make_dir(&self, needs: Needs, parent: INodeNo, bytes: &OsStr, mode: u32) -> Made {
        let (parent, name) = (self.node(parent)?, name(bytes)?);
        self.make(needs, Action::Mkdir { parent, name, mode })
    }

    pub(super) fn make_symlink(
        &self,
        needs: Needs,
        parent: INodeNo,
        bytes: &OsStr,
        target: &OsStr,
    ) -> Made {
        let (parent, name) = (self.node(parent)?, name(bytes)?);
        let target = CString::new(target.as_bytes()).map_err(|_| Errno::INVAL)?;
        self.make(
            needs,
            Action::Symlink {
                parent,
                name,
                target,
            },
        )
    }

    pub(super) fn link_node(
        &self,
        needs: Needs,
        ino: INodeNo,
        parent: INodeNo,
        bytes: &OsStr,
    ) -> Made {
        let (node, parent, name) = (self.node(ino)?, self.node(parent)?, name(bytes)?);
        self.make(needs, Action::Link { node, parent, name })
    }

    pub(super) fn remove(
        &self,
        needs: Needs,
        parent: INodeNo,
        bytes: &OsStr,
        dir: bool,
    ) -> Result<()> {
        let (parent, name) = (self.node(parent)?, name(bytes)?);
        let victim = self.mirror.find(&parent, &name)?;
        let action = if dir {
            Action::Rmdir {
                parent,
                name,
                victim,
            }
        } else {
            Action::Unlink {
                parent,
                name,
                victim,
            }
        };
        self.mirror.apply(&Op::new(needs, action)).map(drop)
    }

    pub(super) fn rename_entry(
        &self,
        needs: Needs,
        from: (INodeNo, &OsStr),
        to: (INodeNo, &OsStr),
        flags: RenameFlags,
    ) -> Result<()> {
        let from = (self.node(from.0)?, name(from.1)?);
        let to = (self.node(to.0)?, name(to.1)?);
        let moved = self.mirror.find(&from.0, &from.1)?;
        let victim = match self.mirror.find(&to.0, &to.1) {
            Err(Errno::NOENT) => None,
            found => found?,
        };
        let flags = flags.bits();
        self.mirror
            .apply(&Op::new(
                needs,
                Action::Rename {
                    from,
                    to,
                    flags,
                    moved,
                    victim,
                },
            ))
            .map(drop)
    }
}
