// SPDX-License-Identifier: MIT
//! Listing directories.
//!
//! There is no open directory: every READDIR brings the file system's own cookie back and goes on
//! from there, so listings stay right while names come and go, and survive the descriptor.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fuser::{Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::reply::{attributes, kind};
use super::{MirrorFs, node};
use crate::store::{Entry, Ident, Name, Node, Side};
use crate::sys::Result;

/// About the bytes of entries one READDIR has room for (the kernel's page); more is read again.
const ROOM: usize = 4096;

impl MirrorFs {
    pub(super) fn list(&self, ino: INodeNo, cookie: u64, reply: &mut ReplyDirectory) -> Result<()> {
        let dir = self.node(ino)?;
        let dev = device_of(&dir);
        self.source.read_dir(&dir, cookie, ROOM, &mut |entry| {
            let ino = self.shown(&dir, dev, entry);
            let name = OsStr::from_bytes(entry.name.to_bytes());
            !reply.add(INodeNo(ino), entry.next, kind(entry.kind), name)
        })
    }

    /// As [`Self::list`], with every entry looked up on the way.
    pub(super) fn list_with_attributes(
        &self,
        ino: INodeNo,
        cookie: u64,
        reply: &mut ReplyDirectoryPlus,
    ) -> Result<()> {
        let dir = self.node(ino)?;
        let dev = device_of(&dir);
        let (keep, ttl) = (self.caching, self.caching.ttl());
        self.source.read_dir(&dir, cookie, ROOM, &mut |entry| {
            let text = OsStr::from_bytes(entry.name.to_bytes());
            let Ok(name) = Name::new(text) else {
                // "." and ".." are shown and not looked up: the kernel counts nothing on them.
                let ino = INodeNo(self.shown(&dir, dev, entry));
                let attr = fuser::FileAttr {
                    ino,
                    kind: kind(entry.kind),
                    ..node::nothing()
                };
                return !reply.add(ino, entry.next, text, &ttl, &attr, Generation(0));
            };
            // What went away since it was listed is left out.
            let Ok(stat) = self.source.lookup(&dir, &name) else {
                return true;
            };
            let node = self.nodes.remember(&stat, &dir, &name);
            let attr = attributes(node.id, &stat);
            let full = reply.add(
                attr.ino,
                entry.next,
                text,
                &ttl,
                &attr,
                keep.generation(&stat),
            );
            if full {
                self.nodes.forget(node.id, 1);
            }
            !full
        })
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
