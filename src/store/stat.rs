// SPDX-License-Identifier: MIT
//! `Stat`: everything one `statx` tells, once, for replies, comparisons and (later) the cache.
//!
//! Times stay raw `(i64 seconds, u32 nanoseconds)` pairs from end to end: `SystemTime` arithmetic
//! is where other file systems lose the years before 1970.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, StatxTimestamp};

use crate::sys::{Result, clock};

/// A point in time as the file system keeps it; `nanos` counts up from `seconds`, also before 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Seconds since 1970-01-01 00:00:00 UTC.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

impl Time {
    /// What an inode that is made or changed now gets, or a little earlier.
    #[must_use]
    pub fn of_clock() -> Self {
        clock::inode_now().into()
    }

    /// Nanoseconds since 1970.
    #[must_use]
    pub fn since_1970(self) -> i128 {
        i128::from(self.seconds) * 1_000_000_000 + i128::from(self.nanos)
    }

    /// So much earlier; the earliest there is, at least.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        let span = i128::try_from(span.as_nanos()).unwrap_or(i128::MAX);
        let nanos = self.since_1970().saturating_sub(span);
        let seconds = nanos.div_euclid(1_000_000_000);
        Self {
            seconds: i64::try_from(seconds).unwrap_or(i64::MIN),
            nanos: u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0),
        }
    }
}

impl From<StatxTimestamp> for Time {
    fn from(t: StatxTimestamp) -> Self {
        Self {
            seconds: t.tv_sec,
            nanos: t.tv_nsec,
        }
    }
}

impl From<rustix::time::Timespec> for Time {
    fn from(t: rustix::time::Timespec) -> Self {
        Self {
            seconds: t.tv_sec,
            nanos: u32::try_from(t.tv_nsec).unwrap_or(0),
        }
    }
}

impl From<Time> for rustix::time::Timespec {
    fn from(t: Time) -> Self {
        Self {
            tv_sec: t.seconds,
            tv_nsec: t.nanos.into(),
        }
    }
}

/// What an inode is, on its own file system: device and inode number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ident {
    /// Device number, as `makedev(3)` packs it.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
}

/// Everything one `statx` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Device and inode number.
    pub ident: Ident,
    /// Type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// Number of hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, as `makedev(3)` packs it.
    pub rdev: u64,
    /// Bytes.
    pub size: u64,
    /// Allocated units of 512 bytes.
    pub blocks: u64,
    /// Preferred I/O size in bytes.
    pub blksize: u32,
    /// Last read.
    pub atime: Time,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
    /// Birth, where the file system keeps it.
    pub btime: Option<Time>,
}

impl Stat {
    /// What is behind a descriptor, `O_PATH` included.
    pub fn of(fd: BorrowedFd<'_>) -> Result<Self> {
        Self::at(fd, c"", AtFlags::EMPTY_PATH)
    }

    /// What `name` is in the directory `dir`; a symlink is itself.
    pub fn of_name(dir: BorrowedFd<'_>, name: &CStr) -> Result<Self> {
        Self::at(dir, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)
    }

    fn at(dir: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<Self> {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        rustix::fs::statx(dir, name, flags, wanted).map(|raw| Self::from(&raw))
    }

    /// The kind of object.
    #[must_use]
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    /// Whether this is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// The permission bits, set-id and sticky bits included.
    #[must_use]
    pub fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }
}

impl From<&Statx> for Stat {
    fn from(raw: &Statx) -> Self {
        let has_btime = raw.stx_mask & StatxFlags::BTIME.bits() != 0;
        Self {
            ident: Ident {
                dev: rustix::fs::makedev(raw.stx_dev_major, raw.stx_dev_minor),
                ino: raw.stx_ino,
            },
            mode: u32::from(raw.stx_mode),
            nlink: raw.stx_nlink,
            uid: raw.stx_uid,
            gid: raw.stx_gid,
            rdev: rustix::fs::makedev(raw.stx_rdev_major, raw.stx_rdev_minor),
            size: raw.stx_size,
            blocks: raw.stx_blocks,
            blksize: raw.stx_blksize,
            atime: raw.stx_atime.into(),
            mtime: raw.stx_mtime.into(),
            ctime: raw.stx_ctime.into(),
            btime: has_btime.then(|| raw.stx_btime.into()),
        }
    }
}
