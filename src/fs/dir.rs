// SPDX-License-Identifier: MIT
//! Listing directories.
//!
//! There is no open directory: every READDIR brings the file system's own cookie back and goes on
//! from there, so listings stay right while names come and go, and survive the descriptor.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fuser::INodeNo;

use super::MirrorFs;
use crate::store::{Entry, Ident, Name, Node, Side, Stat};
use crate::sys::Result;

/// About the bytes of entries one READDIR has room for (the kernel's page); more is read again.
const ROOM: usize = 4096;

/// A name as it is listed.
pub(super) struct Listed<'a> {
    pub(super) name: &'a OsStr,
    /// The cookie to go on from.
    pub(super) next: u64,
    /// The number to show.
    pub(super) ino: u64,
    pub(super) kind: rustix::fs::FileType,
}

impl MirrorFs {
    /// Lists from `cookie` on, until `add` finds no room.
    pub(super) fn list(
        &self,
        ino: INodeNo,
        cookie: u64,
        add: &mut dyn FnMut(&Listed<'_>) -> bool,
    ) -> Result<()> {
        let dir = self.node(ino)?;
        let dev = device_of(&dir);
        self.source.read_dir(&dir, cookie, ROOM, &mut |entry| {
            add(&self.listed(&dir, dev, entry))
        })
    }

    /// As [`Self::list`], with every entry looked up on the way but "." and "..": those are shown,
    /// and the kernel counts nothing on them.
    pub(super) fn list_with_attributes(
        &self,
        ino: INodeNo,
        cookie: u64,
        add: &mut dyn FnMut(&Listed<'_>, Option<&Stat>) -> bool,
    ) -> Result<()> {
        let dir = self.node(ino)?;
        let dev = device_of(&dir);
        self.source.read_dir(&dir, cookie, ROOM, &mut |entry| {
            let text = OsStr::from_bytes(entry.name.to_bytes());
            let Ok(name) = Name::new(text) else {
                return add(&self.listed(&dir, dev, entry), None);
            };
            // What went away since it was listed is left out.
            let Ok(stat) = self.source.lookup(&dir, &name) else {
                return true;
            };
            let node = self.nodes.remember(&stat, &dir, &name);
            let listed = Listed {
                name: text,
                next: entry.next,
                ino: node.id,
                kind: stat.kind(),
            };
            let added = add(&listed, Some(&stat));
            if !added {
                self.nodes.forget(node.id, 1);
            }
            added
        })
    }

    fn listed<'a>(&self, dir: &Arc<Node>, dev: u64, entry: &Entry<'a>) -> Listed<'a> {
        Listed {
            name: OsStr::from_bytes(entry.name.to_bytes()),
            next: entry.next,
            ino: self.shown(dir, dev, entry),
            kind: entry.kind,
        }
    }

    /// The inode number to show for an entry; the root's ".." is the root, not what is outside.
    fn shown(&self, dir: &Arc<Node>, dev: u64, entry: &Entry<'_>) -> u64 {
        match entry.name.to_bytes() {
            b"." => dir.id,
            b".." => {
                let place = dir.place(Side::Primary);
                place.links().first().map_or(dir.id, |link| link.parent.id)
            }
            _ => self.nodes.shown_ino(Ident {
                dev,
                ino: entry.ino,
            }),
        }
    }
}

fn device_of(dir: &Arc<Node>) -> u64 {
    dir.place(Side::Primary).ident().unwrap_or_default().dev
}
