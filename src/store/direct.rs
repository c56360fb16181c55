// SPDX-License-Identifier: MIT
//! Large writes past the page cache: many in order for one system call.
//!
//! Only on a replica that is written behind (`mode=async`), where nobody waits for one write: the
//! data goes from the buffer in which it waited to the device, and the replica's pages are not kept
//! beside the primary's. A file that is written this way has a second descriptor, opened `O_DIRECT`
//! through the first, which is closed with the first; how many there may be is settled at mount.
//!
//! While a file grows from end to end, blocks are set aside ahead of it, beyond its end. What of
//! them is left is given back before anything else is done to the file, before its times are set
//! (which follows every write), and when the descriptor is closed.
//!
//! What cannot be done this way is simply left over for plain writes.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{AtFlags, FallocateFlags, FsWord, Mode, OFlags, StatxFlags};
use smallvec::SmallVec;

use super::descriptor::{Access, Descriptor, Pin};
use super::target::retry;
use super::{Node, Stat, Tree};
use crate::sys::creds::Needs;
use crate::sys::{self, Errno, Result};
use crate::uring::{Bytes, How, Io, Outcome};

/// From here on, in bytes, a write that nobody waits for goes past the page cache.
pub const LARGE: usize = 512 << 10;
/// Files that have grown this far get blocks ahead.
const GROWN: u64 = 8 << 20;
/// The most that is set aside for one file.
const AHEAD_MAX: u64 = 64 << 20;
/// And the part of the free space it may be: one of so many.
const AHEAD_PART: u64 = 64;
/// The least that a disk takes.
const SECTOR: u64 = 512;
/// ext4 (and ext3 and ext2). Measured elsewhere: on XFS plain writes are faster, and btrfs and tmpfs
/// have no way past the page cache that deserves the name.
const EXT4_SUPER_MAGIC: FsWord = 0xEF53;

/// One large write of a chain.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// The file.
    pub node: &'a Arc<Node>,
    /// Where.
    pub offset: u64,
    /// What.
    pub data: &'a Bytes,
}

impl Piece<'_> {
    fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }
}

/// A file's way past the page cache.
#[derive(Debug)]
pub(super) struct Direct {
    fd: OwnedFd,
    /// It is one descriptor more than the ring of descriptors knows of.
    _counted: Pin,
    /// Offsets and lengths must be multiples of it.
    align: u64,
    /// Blocks are set aside up to here, or 0.
    ahead: AtomicU64,
    /// Setting blocks aside was refused.
    refused: AtomicBool,
}

impl Direct {
    /// Gives back what was set aside beyond the end of the file.
    pub(super) fn give_back(&self) -> Result<()> {
        if self.ahead.swap(0, Ordering::AcqRel) == 0 {
            return Ok(());
        }
        let size = Stat::of(self.fd.as_fd())?.size;
        retry(|| rustix::fs::ftruncate(self.fd.as_fd(), size))
    }

    /// Sets blocks aside for a file that has grown to `end` and goes on to `next`.
    fn set_aside(&self, tree: &Tree, end: u64, next: u64) {
        let ahead = self.ahead.load(Ordering::Acquire);
        if end < GROWN || next <= ahead || self.refused.load(Ordering::Relaxed) {
            return;
        }
        let free = tree.measure().map_or(0, |space| {
            space.blocks[2].saturating_mul(u64::from(space.block_bytes))
        });
        let start = end.max(ahead);
        let length = AHEAD_MAX.min(free / AHEAD_PART) / self.align * self.align;
        if start + length < next {
            return;
        }
        let how = FallocateFlags::KEEP_SIZE;
        match retry(|| rustix::fs::fallocate(self.fd.as_fd(), how, start, length)) {
            Ok(()) => self.ahead.store(start + length, Ordering::Release),
            Err(_) => self.refused.store(true, Ordering::Relaxed),
        }
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        if let Err(errno) = self.give_back() {
            tracing::debug!("blocks set aside are not given back: {errno}");
        }
    }
}

impl Descriptor {
    /// Whether blocks are set aside for it.
    pub(super) fn is_growing(&self) -> bool {
        let direct = self.direct.get().and_then(Option::as_ref);
        direct.is_some_and(|direct| direct.ahead.load(Ordering::Acquire) > 0)
    }

    /// Gives back what was set aside beyond the end of the file, before anything else is done to
    /// it.
    pub(super) fn give_back(&self) -> Result<()> {
        match self.direct.get() {
            Some(Some(direct)) => direct.give_back(),
            _ => Ok(()),
        }
    }
}

/// Files of a chain, as far as it is put together.
type Ready = SmallVec<[(Arc<Descriptor>, u64); 16]>;

impl Tree {
    /// Gives back all that is set aside beyond the ends of files; true if that was something.
    pub(super) fn give_all_back(&self) -> bool {
        let growing = self.ring.growing();
        growing
            .iter()
            .filter(|file| file.give_back().is_ok())
            .count()
            > 0
    }

    /// Writes as many of `pieces` as can go past the page cache, in order, and says how many that
    /// was: the others are left.
    ///
    /// # Errors
    /// The replica's own, of the piece after those that were written.
    pub(super) fn write_past_cache(
        &self,
        needs: Needs,
        pieces: &[Piece<'_>],
    ) -> (usize, Result<()>) {
        let Some(engine) = self.engine.as_ref().filter(|_| self.goes_past_cache()) else {
            return (0, Ok(()));
        };
        if let Err(errno) = sys::creds::wear(needs) {
            return (0, Err(errno));
        }
        let mut ready = Ready::new();
        for piece in pieces {
            match self.prepare(piece, &ready) {
                Some(file) => ready.push((file, piece.end())),
                None => break,
            }
        }
        let how = How {
            direct: true,
            ..How::default()
        };
        let mut ops = SmallVec::<[Io<'_, Bytes>; 16]>::new();
        for (piece, (file, _)) in pieces.iter().zip(&ready) {
            let Some(Some(direct)) = file.direct.get() else {
                break;
            };
            file.soil(&self.ring);
            ops.push(Io::Write {
                fd: direct.fd.as_fd(),
                data: piece.data.clone(),
                offset: piece.offset,
                how,
            });
        }
        if ops.is_empty() {
            return (0, Ok(()));
        }
        let outcomes = engine.with_disk(|disk| disk.chain(&ops));
        ready.iter().for_each(|(file, _)| file.soil(&self.ring));
        let whole = |outcome: &&Outcome| matches!(outcome, Outcome::Done(_));
        let done = outcomes.iter().take_while(whole).count();
        match outcomes.get(done) {
            None => (done, Ok(())),
            Some(Outcome::Failed {
                errno: Errno::INVAL | Errno::OPNOTSUPP,
                ..
            }) => {
                self.stay_in_cache();
                (done, Ok(()))
            }
            // A plain write has the last word.
            Some(Outcome::Failed {
                errno: Errno::NOSPC | Errno::DQUOT,
                ..
            }) => (done, Ok(())),
            Some(Outcome::Failed { errno, .. }) => (done, Err(*errno)),
            Some(_) => (done, Err(Errno::IO)),
        }
    }

    /// A file ready for a write past the page cache, after those of `before`; nothing if it cannot
    /// be written that way, or not in one chain with those.
    fn prepare(&self, piece: &Piece<'_>, before: &Ready) -> Option<Arc<Descriptor>> {
        if !(piece.offset | piece.data.len() as u64).is_multiple_of(SECTOR) {
            return None; // no disk takes that
        }
        // Who cannot be opened says why when it is written plainly.
        let file = self.open(piece.node, Access::Write).ok()?;
        let direct = file.direct.get_or_init(|| self.open_direct(&file));
        let direct = direct.as_ref()?;
        if !(piece.offset | piece.data.len() as u64).is_multiple_of(direct.align) {
            return None;
        }
        let last = before
            .iter()
            .filter(|(other, _)| Arc::ptr_eq(other, &file))
            .map(|(_, end)| *end)
            .max();
        let size = Stat::of(file.as_fd()).ok()?.size;
        let end = last.map_or(size, |last| last.max(size));
        if piece.offset > end && direct.ahead.load(Ordering::Acquire) > 0 {
            // What was set aside would become part of the file.
            if last.is_some() {
                return None;
            }
            direct.give_back().ok()?;
        }
        if piece.offset == end {
            direct.set_aside(self, end, piece.end());
        }
        Some(file)
    }

    /// The file once more, for writes past the page cache, if its file system has such.
    fn open_direct(&self, file: &Descriptor) -> Option<Direct> {
        if file.append_only {
            return None;
        }
        let counted = self.ring.double()?;
        let wanted = StatxFlags::DIOALIGN;
        let stat = rustix::fs::statx(file.as_fd(), c"", AtFlags::EMPTY_PATH, wanted).ok()?;
        let known = stat.stx_mask & wanted.bits() != 0;
        let (memory, align) = (stat.stx_dio_mem_align, stat.stx_dio_offset_align);
        let fs = rustix::fs::fstatfs(file.as_fd()).map(|fs| fs.f_type);
        if fs != Ok(EXT4_SUPER_MAGIC) || !known || align == 0 || memory > 4096 {
            self.stay_in_cache();
            return None;
        }
        let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
        let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(fd) => Some(Direct {
                fd,
                _counted: counted,
                align: align.into(),
                ahead: AtomicU64::new(0),
                refused: AtomicBool::new(false),
            }),
            Err(Errno::INVAL) => {
                self.stay_in_cache();
                None
            }
            Err(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::op::{Action, Op};
    use super::super::{Name, Target};
    use super::super::{Nodes, Side};
    use super::*;
    use crate::uring::{Buffers, Engine, Wish};

    const MIB: u64 = 1 << 20;

    /// A file that grows has blocks beyond its end, until something else is done to it or its times
    /// are set.
    #[test]
    fn what_is_set_aside_is_given_back() {
        let tmp = tempfile::tempdir().expect("a temporary directory");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(tmp.path(), flags, Mode::empty()).expect("open");
        let engine = Arc::new(Engine::new(Wish::Auto).expect("there is always a way"));
        let tree = Tree::new(Side::Replica, root, 64)
            .with_engine(engine.clone())
            .past_cache(8);
        let nodes = Nodes::new(&tree.root_stat().expect("statx"));
        let name = Name::new("f").expect("a name");
        let action = Action::Create {
            parent: nodes.root().clone(),
            name: name.clone(),
            mode: 0o644,
        };
        let made = tree.apply(&Op::new(Needs::DAEMON, action)).expect("create");
        let made = made.made.expect("it was made");
        let node = nodes.remember(&made.stat, nodes.root(), &name);
        tree.adopt(&node, made);
        let buffers = Buffers::new(1 << 20, engine.counters().clone()).expect("memory");
        let data = buffers.fill(&vec![7; 1 << 20]).expect("room");
        let grow = |from: u64, to: u64| {
            for at in from..to {
                let piece = Piece {
                    node: &node,
                    offset: at * MIB,
                    data: &data,
                };
                if tree.write_chain(Needs::DAEMON, &[piece]).0 == 0 {
                    return false;
                }
            }
            true
        };
        let stat = || Stat::of(tree.open(&node, Access::Path).expect("open").as_fd());
        let ahead = || {
            let stat = stat().expect("statx");
            (stat.blocks * 512).saturating_sub(stat.size) > 64 << 10
        };
        if !grow(0, 10) || !ahead() {
            eprintln!("the file system of {tmp:?} cannot do it");
            return;
        }
        assert!(tree.give_all_back() && !ahead());
        assert!(!tree.give_all_back(), "nothing is left");
        assert!(grow(10, 11) && ahead());
        let size = 30 * MIB;
        let longer = Action::Truncate {
            node: node.clone(),
            size,
        };
        tree.apply(&Op::new(Needs::DAEMON, longer))
            .expect("truncate");
        assert!(stat().expect("statx").blocks * 512 < 12 * MIB);
        assert!(grow(30, 31) && ahead());
        let seen = stat().expect("statx");
        tree.set_times(&node, seen.atime, seen.mtime)
            .expect("set times");
        assert_eq!(stat().expect("statx").mtime, seen.mtime);
        assert!(!ahead());
        assert!(grow(31, 32) && ahead());
        drop(node.place(Side::Replica).take_open());
        assert!(!ahead(), "closed");
    }
}
