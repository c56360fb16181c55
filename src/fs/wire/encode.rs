// SPDX-License-Identifier: MIT
//! Answers as bytes: the structures of include/uapi/linux/fuse.h, field by field in their order.

use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::super::dir::Listed;
use super::super::reply::{self, Caching};
use crate::store::{Node, Space, Stat, Time};
use crate::sys::{Errno, Result};

/// `FOPEN_DIRECT_IO`.
const OPEN_DIRECT_IO: u32 = 1;
/// Entries of a listing begin at multiples of this.
const ALIGN: usize = 8;

/// Where one answer goes. Every method fills it from the beginning and answers the length.
pub(super) struct Room<'a>(pub(super) &'a mut [u8]);

impl Room<'_> {
    fn write(&mut self, fill: impl FnOnce(&mut Answer<'_>)) -> usize {
        let mut answer = Answer::new(self.0, u32::MAX);
        fill(&mut answer);
        answer.len
    }

    /// Plain bytes.
    pub(super) fn bytes(self, bytes: &[u8]) -> Result<usize> {
        let room = self.0.get_mut(..bytes.len()).ok_or(Errno::RANGE)?;
        room.copy_from_slice(bytes);
        Ok(bytes.len())
    }

    /// `fuse_entry_out`.
    pub(super) fn entry(mut self, keep: Caching, (node, stat): &(Arc<Node>, Stat)) -> usize {
        self.write(|answer| answer.entry(keep, node.id, stat))
    }

    /// `fuse_entry_out` with node id 0: there is nothing, and the kernel may remember that.
    pub(super) fn nothing(mut self, keep: Caching) -> usize {
        self.write(|answer| {
            answer.entry_head(keep, 0, 0);
            answer.bare(0, rustix::fs::FileType::RegularFile);
        })
    }

    /// `fuse_entry_out` and `fuse_open_out`. The handle means nothing: once OPEN is answered ENOSYS
    /// no RELEASE comes for it.
    pub(super) fn created(
        mut self,
        keep: Caching,
        (node, stat): &(Arc<Node>, Stat),
        direct: bool,
    ) -> usize {
        self.write(|answer| {
            answer.entry(keep, node.id, stat);
            answer.u64(0);
            answer.u32(if direct { OPEN_DIRECT_IO } else { 0 });
            answer.u32(0);
        })
    }

    /// `fuse_attr_out`.
    pub(super) fn attributes(mut self, keep: Caching, (id, stat): &(u64, Stat)) -> usize {
        self.write(|answer| {
            let ttl = keep.ttl();
            answer.u64(ttl.as_secs());
            answer.u32(ttl.subsec_nanos());
            answer.u32(0);
            answer.attr(*id, stat);
        })
    }

    /// `fuse_write_out`, which `fuse_getxattr_out` is like.
    pub(super) fn written(mut self, bytes: usize) -> usize {
        self.write(|answer| {
            answer.u32(u32::try_from(bytes).unwrap_or(u32::MAX));
            answer.u32(0);
        })
    }

    /// `fuse_lseek_out`.
    pub(super) fn offset(mut self, offset: i64) -> usize {
        self.write(|answer| answer.u64(offset.cast_unsigned()))
    }

    /// `fuse_statfs_out`.
    pub(super) fn space(mut self, space: &Space) -> usize {
        self.write(|answer| {
            for number in space.blocks.into_iter().chain(space.inodes) {
                answer.u64(number);
            }
            for number in [space.io_bytes, space.name_max, space.block_bytes] {
                answer.u32(number);
            }
            // Padding, and what is to come.
            for _ in 0..7 {
                answer.u32(0);
            }
        })
    }

    /// `fuse_ioctl_out` and what was asked for. The two counts matter to unrestricted ioctls only.
    pub(super) fn control(mut self, told: &[u8]) -> Result<usize> {
        let head = self.write(|answer| {
            for number in [0, 0, 1, 1] {
                answer.u32(number);
            }
        });
        let rest = self.0.get_mut(head..).ok_or(Errno::RANGE)?;
        Room(rest).bytes(told).map(|bytes| head + bytes)
    }
}

/// An answer in the making: what does not fit is left out, and `full` says so.
pub(super) struct Answer<'a> {
    buffer: &'a mut [u8],
    len: usize,
}

impl<'a> Answer<'a> {
    /// An empty one of at most `room` bytes.
    pub(super) fn new(buffer: &'a mut [u8], room: u32) -> Self {
        let room = buffer.len().min(room as usize);
        Self {
            buffer: &mut buffer[..room],
            len: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes behind those that are there; the callers have looked whether they fit.
    fn put(&mut self, bytes: &[u8]) {
        if let Some(room) = self.buffer.get_mut(self.len..self.len + bytes.len()) {
            room.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }

    fn u64(&mut self, number: u64) {
        self.put(&number.to_le_bytes());
    }

    fn u32(&mut self, number: u32) {
        self.put(&number.to_le_bytes());
    }

    /// `fuse_entry_out` up to its attributes.
    fn entry_head(&mut self, keep: Caching, id: u64, generation: u64) {
        let ttl = keep.ttl();
        self.u64(id);
        self.u64(generation);
        self.u64(ttl.as_secs());
        self.u64(ttl.as_secs());
        self.u32(ttl.subsec_nanos());
        self.u32(ttl.subsec_nanos());
    }

    fn entry(&mut self, keep: Caching, id: u64, stat: &Stat) {
        self.entry_head(keep, id, keep.generation(stat).0);
        self.attr(id, stat);
    }

    /// `fuse_attr`.
    fn attr(&mut self, id: u64, stat: &Stat) {
        let times = [stat.atime, stat.mtime, stat.ctime];
        self.u64(id);
        self.u64(stat.size);
        self.u64(stat.blocks);
        for Time { seconds, .. } in times {
            self.u64(seconds.cast_unsigned());
        }
        for Time { nanos, .. } in times {
            self.u32(nanos);
        }
        self.u32(kind_bits(stat.kind()) | stat.permissions());
        self.u32(stat.nlink);
        self.u32(stat.uid);
        self.u32(stat.gid);
        self.u32(reply::kernel_rdev(stat.rdev));
        self.u32(stat.blksize);
        self.u32(0);
    }

    /// `fuse_attr` of which only the number and the type are known.
    fn bare(&mut self, id: u64, kind: rustix::fs::FileType) {
        self.u64(id);
        for _ in 0..5 {
            self.u64(0);
        }
        for _ in 0..3 {
            self.u32(0);
        }
        self.u32(kind_bits(kind));
        for _ in 0..6 {
            self.u32(0);
        }
    }

    /// Whether an entry of a listing fits whose head has `head` bytes.
    fn has_room(&self, head: usize, listed: &Listed<'_>) -> bool {
        self.len + (head + listed.name.len()).next_multiple_of(ALIGN) <= self.buffer.len()
    }

    /// `fuse_dirent`.
    fn dirent(&mut self, listed: &Listed<'_>, kind: rustix::fs::FileType) {
        self.u64(listed.ino);
        self.u64(listed.next);
        self.u32(u32::try_from(listed.name.len()).unwrap_or(0));
        self.u32(kind_bits(kind) >> 12);
        self.put(listed.name.as_bytes());
        let padding = self.len.next_multiple_of(ALIGN) - self.len;
        self.put(&[0; ALIGN][..padding]);
    }

    /// Adds an entry; false if it does not fit any more.
    pub(super) fn listed(&mut self, listed: &Listed<'_>) -> bool {
        let room = self.has_room(24, listed);
        if room {
            self.dirent(listed, listed.kind);
        }
        room
    }

    /// As [`Self::listed`], with `fuse_entry_out` in front: `fuse_direntplus`.
    pub(super) fn listed_with_attributes(
        &mut self,
        keep: Caching,
        listed: &Listed<'_>,
        stat: Option<&Stat>,
    ) -> bool {
        let room = self.has_room(128 + 24, listed);
        if room {
            match stat {
                Some(stat) => self.entry(keep, listed.ino, stat),
                None => {
                    self.entry_head(keep, listed.ino, 0);
                    self.bare(listed.ino, listed.kind);
                }
            }
            self.dirent(listed, listed.kind);
        }
        room
    }
}

/// The type as in `st_mode`; what the file system does not tell is shown as a file.
fn kind_bits(kind: rustix::fs::FileType) -> u32 {
    use rustix::fs::FileType;
    match kind {
        FileType::Unknown => FileType::RegularFile.as_raw_mode(),
        kind => kind.as_raw_mode(),
    }
}
