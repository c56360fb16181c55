// SPDX-License-Identifier: MIT
//! Listing directories.
//!
//! There is no open directory: every READDIR brings the file system's own cookie back and goes on
//! from there, so listings stay right while names come and go, and survive the descriptor.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fuser::{Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::reply::{TTL, attributes, kind};
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
        self.source.read_dir(&dir, cookie, ROOM, &mut |entry| {
            let text = OsStr::from_bytes(entry.name.to_bytes());
            let found = Name::new(text).ok().and_then(|name| {
                let stat = self.source.lookup(&dir, &name).ok()?;
                Some((self.nodes.remember(&stat, &dir, &name), stat))
            });
            let (id, attr) = match &found {
                Some((node, stat)) => (node.id, attributes(node.id, stat)),
                // "." and "..", and what went away since: a name without a lookup. The kernel
                // takes the number and the type from here, and counts nothing on node 0.
                None => {
                    let shown = self.shown(&dir, dev, entry);
                    (
                        shown,
                        fuser::FileAttr {
                            kind: kind(entry.kind),
                            ..node::nothing()
                        },
                    )
                }
            };
            let full = reply.add(INodeNo(id), entry.next, text, &TTL, &attr, Generation(0));
            if full && let Some((node, _)) = &found {
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
                place.links.first().map_or(dir.id, |link| link.parent.id)
            }
            _ => self.nodes.shown_ino(Ident {
                dev,
                ino: entry.ino,
            }),
        }
    }
}

fn device_of(dir: &Arc<Node>) -> u64 {
    dir.place(Side::Primary).ident.unwrap_or_default().dev
}
