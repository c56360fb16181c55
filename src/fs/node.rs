// SPDX-License-Identifier: MIT
//! Questions about one node: lookup, attributes.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::UNIX_EPOCH;

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

use super::{MirrorFs, Then, name, reply};
use crate::store::op::{Action, Op};
use crate::store::{Name, Node, Stat, Time};
use crate::sys::creds::{self, Caller, Needs};
use crate::sys::{Errno, Result, clock};

/// What a SETATTR asks for; `None` leaves it as it is.
pub(super) struct Change {
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) size: Option<u64>,
    /// Access and modification time.
    pub(super) times: (Option<Time>, Option<Time>),
}

/// The time that "now" stands for in one request, so that both copies get the same nanosecond.
pub(super) fn now() -> Time {
    clock::inode_now().into()
}

/// fuser's times in ours.
pub(super) fn resolve(
    atime: Option<TimeOrNow>,
    mtime: Option<TimeOrNow>,
) -> (Option<Time>, Option<Time>) {
    let now = now();
    let resolve = |time| match time {
        TimeOrNow::Now => now,
        TimeOrNow::SpecificTime(time) => reply::time(time),
    };
    (atime.map(resolve), mtime.map(resolve))
}

/// The answer "no such name", which the kernel remembers: node id 0.
pub(super) fn nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

/// What a listing tells of "." and "..", which the kernel does not look up there.
pub(super) fn bare(id: u64, kind: rustix::fs::FileType) -> FileAttr {
    FileAttr {
        ino: INodeNo(id),
        kind: reply::kind(kind),
        ..nothing()
    }
}

impl MirrorFs {
    /// As [`Self::look_up`]; `None` is "nothing there", for the kernel to remember.
    pub(super) fn look_up_or_nothing(
        &self,
        parent: INodeNo,
        bytes: &OsStr,
    ) -> Result<Option<(Arc<Node>, Stat)>> {
        match self.look_up(parent, bytes) {
            Err(Errno::NOENT) => Ok(None),
            found => found.map(Some),
        }
    }

    pub(super) fn read_target(&self, ino: INodeNo) -> Result<Vec<u8>> {
        self.source.read_link(&self.node(ino)?)
    }

    pub(super) fn look_up(&self, parent: INodeNo, bytes: &OsStr) -> Result<(Arc<Node>, Stat)> {
        self.look_up_name(&self.node(parent)?, &name(bytes)?)
    }

    pub(super) fn look_up_name(
        &self,
        parent: &Arc<Node>,
        name: &Name,
    ) -> Result<(Arc<Node>, Stat)> {
        let stat = self.source.lookup(parent, name)?;
        Ok((self.nodes.remember(&stat, parent, name), stat))
    }

    pub(super) fn get_attributes(&self, ino: INodeNo) -> Result<(u64, Stat)> {
        let node = self.node(ino)?;
        let stat = self.source.stat(&node)?;
        Ok((node.id, stat))
    }

    pub(super) fn set_attributes(
        &self,
        caller: Caller,
        ino: INodeNo,
        change: Change,
        then: impl Then<(u64, Stat)>,
    ) {
        let node = match self.node(ino) {
            Ok(node) => node,
            Err(errno) => return then(Err(errno)),
        };
        let Some(size) = change.size else {
            return self.clone().set_others(caller, node, &change, then);
        };
        // A plain user's truncate clears set-id bits; fuser hides the kernel's signal for it.
        let needs = Needs {
            caller,
            umask: None,
            fsetid: caller.uid == 0,
        };
        let action = Action::Truncate {
            node: node.clone(),
            size,
        };
        let fs = self.clone();
        self.change(ino, Op::new(needs, action), move |cut| match cut {
            Ok(_) => fs.set_others(caller, node, &change, then),
            Err(errno) => then(Err(errno)),
        });
    }

    /// The part of a change that is not the size, which may be nothing; and the answer.
    fn set_others(
        self,
        caller: Caller,
        node: Arc<Node>,
        change: &Change,
        then: impl Then<(u64, Stat)>,
    ) {
        let (atime, mtime) = change.times;
        let Change { mode, uid, gid, .. } = *change;
        if mode.is_some_and(|mode| mode & 0o6000 != 0) {
            node.set_id.store(true, Ordering::Release);
        }
        let times = atime.is_some() || mtime.is_some();
        let owner = uid.is_some() || gid.is_some();
        // A request for nothing at all is chown(-1, -1), which clears set-id bits natively.
        let nothing = !owner && mode.is_none() && !times && change.size.is_none();
        if !(owner || nothing || mode.is_some() || times) {
            return then(self.source.stat(&node).map(|stat| (node.id, stat)));
        }
        // chown by a plain user keeps a set-group-ID bit without group execute only for a
        // member of the group (fs/attr.c, setattr_should_drop_sgid).
        let fsetid = !(owner || nothing) || caller.uid == 0 || self.is_member(caller, &node);
        let needs = Needs {
            caller,
            umask: None,
            fsetid,
        };
        let action = Action::SetAttr {
            node: node.clone(),
            uid,
            gid,
            mode,
            atime,
            mtime,
        };
        let source = self.source.clone();
        self.act(needs, Ok(action), move |done| {
            let stat = done.and_then(|_| source.stat(&node));
            then(stat.map(|stat| (node.id, stat)));
        });
    }

    /// Whether the caller is in the group that owns `node`.
    pub(super) fn is_member(&self, caller: Caller, node: &Arc<Node>) -> bool {
        self.source
            .stat(node)
            .is_ok_and(|stat| creds::in_group(caller, stat.gid))
    }
}
