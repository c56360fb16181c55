// SPDX-License-Identifier: MIT
//! Extended attributes, POSIX ACLs and file capabilities among them.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;

use fuser::{INodeNo, ReplyXattr};

use super::{MirrorFs, Then, reply};
use crate::store::op::{Action, Op};
use crate::sys::creds::{Caller, Needs};
use crate::sys::{Errno, Result};

/// A value, or only how many bytes it has: the question and the answer of a call with size 0.
pub(super) enum Value {
    Bytes(Vec<u8>),
    Size(usize),
}

/// Answers both kinds of call.
pub(super) fn answer(reply: ReplyXattr, value: Result<Value>) {
    match value {
        Ok(Value::Size(bytes)) => reply.size(u32::try_from(bytes).unwrap_or(u32::MAX)),
        Ok(Value::Bytes(bytes)) => reply.data(&bytes),
        Err(errno) => reply.error(reply::errno(errno)),
    }
}

fn c_name(name: &OsStr) -> Result<CString> {
    CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)
}

impl MirrorFs {
    pub(super) fn get_xattr(&self, ino: INodeNo, name: &OsStr, room: u32) -> Result<Value> {
        let (node, name) = (self.node(ino)?, c_name(name)?);
        let mut bytes = vec![0; room as usize];
        let size = self.source.get_xattr(&node, &name, &mut bytes)?;
        if room == 0 {
            return Ok(Value::Size(size));
        }
        bytes.truncate(size);
        Ok(Value::Bytes(bytes))
    }

    pub(super) fn list_xattr(&self, caller: Caller, ino: INodeNo, room: u32) -> Result<Value> {
        let mut names = self.source.list_xattr(&self.node(ino)?)?;
        if caller.uid != 0 {
            // The daemon sees trusted.* because it is root; the caller would not.
            names.retain(|name| !name.to_bytes().starts_with(b"trusted."));
        }
        let list: Vec<u8> = names
            .iter()
            .flat_map(|n| n.to_bytes_with_nul())
            .copied()
            .collect();
        match room as usize {
            0 => Ok(Value::Size(list.len())),
            room if list.len() > room => Err(Errno::RANGE),
            _ => Ok(Value::Bytes(list)),
        }
    }

    pub(super) fn set_xattr(
        &self,
        caller: Caller,
        ino: INodeNo,
        name: &OsStr,
        (data, flags): (&[u8], i32),
        then: impl Then<()>,
    ) {
        let (node, name) = match self.node(ino).and_then(|node| Ok((node, c_name(name)?))) {
            Ok(found) => found,
            Err(errno) => return then(Err(errno)),
        };
        // Setting an access ACL changes the mode, and takes the set-group-ID bit of a file whose
        // group the caller is not in (posix_acl_update_mode). The kernel's own signal for it
        // needs SETXATTR_EXT, which fuser 0.18 cannot take.
        let acl = name.as_c_str() == c"system.posix_acl_access";
        let fsetid = !acl || caller.uid == 0 || self.is_member(caller, &node);
        let needs = Needs {
            caller,
            umask: None,
            fsetid,
        };
        let how = flags.cast_unsigned();
        let action = Action::SetXattr { node, name, how };
        let op = Op {
            needs,
            action,
            data,
        };
        self.mirror
            .apply_then(op, Box::new(|done| then(done.map(drop))));
    }

    pub(super) fn remove_xattr(
        &self,
        needs: Needs,
        ino: INodeNo,
        name: &OsStr,
        then: impl Then<()>,
    ) {
        let action = self.node(ino).and_then(|node| {
            let name = c_name(name)?;
            Ok(Action::RemoveXattr { node, name })
        });
        self.act(needs, action, |done| then(done.map(drop)));
    }
}
