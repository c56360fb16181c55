// SPDX-License-Identifier: MIT
//! Names: making, linking, removing and renaming what a directory holds.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fuser::{INodeNo, RenameFlags};

use super::{MirrorFs, Then, name, reply};
use crate::mirror::Outcome;
use crate::store::op::{Action, Op};
use crate::store::{Name, Node, Stat};
use crate::sys::creds::{Caller, Needs};
use crate::sys::{Errno, Result};

/// What was made or found, and its attributes.
type Object = (Arc<Node>, Stat);

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
    fn make(&self, needs: Needs, action: Result<Action>, then: impl Then<Object>) {
        self.act(needs, action, |done| {
            then(done.and_then(|outcome| outcome.made.ok_or(Errno::IO)));
        });
    }

    /// Carries out what has no data, if it could be said.
    pub(super) fn act(&self, needs: Needs, action: Result<Action>, then: impl Then<Outcome>) {
        match action {
            Ok(action) => self
                .mirror
                .apply_then(Op::new(needs, action), Box::new(then)),
            Err(errno) => then(Err(errno)),
        }
    }

    /// A name on the wire, and the directory it is in.
    fn place(&self, parent: INodeNo, bytes: &OsStr) -> Result<(Arc<Node>, Name)> {
        Ok((self.node(parent)?, name(bytes)?))
    }

    pub(super) fn create_file(
        &self,
        needs: Needs,
        parent: INodeNo,
        bytes: &OsStr,
        (mode, flags): (u32, i32),
        then: impl Then<Object>,
    ) {
        let place = self.place(parent, bytes);
        let action = place
            .clone()
            .map(|(parent, name)| Action::Create { parent, name, mode });
        let (Ok((parent, name)), true) = (place, flags & libc::O_EXCL == 0) else {
            return self.make(needs, action, then);
        };
        let fs = self.clone();
        self.make(needs, action, move |made| match made {
            // It came into being since the kernel looked: then this is an open like any other.
            Err(Errno::EXIST) => fs.open_existing(needs, &parent, &name, flags, then),
            made => then(made),
        });
    }

    fn open_existing(
        self,
        needs: Needs,
        parent: &Arc<Node>,
        name: &Name,
        flags: i32,
        then: impl Then<Object>,
    ) {
        let (node, stat) = match self.look_up_name(parent, name) {
            Ok(found) => found,
            Err(errno) => return then(Err(errno)),
        };
        if flags & libc::O_TRUNC == 0 || stat.is_dir() {
            return then(Ok((node, stat)));
        }
        let needs = Needs {
            fsetid: needs.caller.uid == 0,
            ..needs
        };
        let action = Action::Truncate {
            node: node.clone(),
            size: 0,
        };
        let fs = self.clone();
        self.act(needs, Ok(action), move |cut| {
            let stat = cut.and_then(|_| fs.source.stat(&node));
            let stat = stat.inspect_err(|_| fs.nodes.forget(node.id, 1));
            then(stat.map(|stat| (node, stat)));
        });
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
        (mode, rdev): (u32, u32),
        then: impl Then<Object>,
    ) {
        let rdev = reply::device(rdev);
        let place = self.place(parent, bytes);
        let action = place.map(|(parent, name)| Action::Mknod {
            parent,
            name,
            mode,
            rdev,
        });
        self.make(needs, action, then);
    }

    pub(super) fn make_dir(
        &self,
        needs: Needs,
        parent: INodeNo,
        bytes: &OsStr,
        mode: u32,
        then: impl Then<Object>,
    ) {
        let place = self.place(parent, bytes);
        let action = place.map(|(parent, name)| Action::Mkdir { parent, name, mode });
        self.make(needs, action, then);
    }

    pub(super) fn make_symlink(
        &self,
        needs: Needs,
        parent: INodeNo,
        bytes: &OsStr,
        target: &OsStr,
        then: impl Then<Object>,
    ) {
        let action = self.place(parent, bytes).and_then(|(parent, name)| {
            let target = CString::new(target.as_bytes()).map_err(|_| Errno::INVAL)?;
            Ok(Action::Symlink {
                parent,
                name,
                target,
            })
        });
        self.make(needs, action, then);
    }

    pub(super) fn link_node(
        &self,
        needs: Needs,
        ino: INodeNo,
        parent: INodeNo,
        bytes: &OsStr,
        then: impl Then<Object>,
    ) {
        let action = self.node(ino).and_then(|node| {
            let (parent, name) = self.place(parent, bytes)?;
            Ok(Action::Link { node, parent, name })
        });
        self.make(needs, action, then);
    }

    pub(super) fn remove(
        &self,
        needs: Needs,
        parent: INodeNo,
        bytes: &OsStr,
        dir: bool,
        then: impl Then<()>,
    ) {
        let action = self.place(parent, bytes).and_then(|(parent, name)| {
            let victim = self.mirror.find(&parent, &name)?;
            Ok(if dir {
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
            })
        });
        self.act(needs, action, |done| then(done.map(drop)));
    }

    pub(super) fn rename_entry(
        &self,
        needs: Needs,
        from: (INodeNo, &OsStr),
        to: (INodeNo, &OsStr),
        flags: RenameFlags,
        then: impl Then<()>,
    ) {
        let flags = flags.bits();
        let action = self.place(from.0, from.1).and_then(|from| {
            let to = self.place(to.0, to.1)?;
            let moved = self.mirror.find(&from.0, &from.1)?;
            let victim = match self.mirror.find(&to.0, &to.1) {
                Err(Errno::NOENT) => None,
                found => found?,
            };
            Ok(Action::Rename {
                from,
                to,
                flags,
                moved,
                victim,
            })
        });
        self.act(needs, action, |done| then(done.map(drop)));
    }
}
