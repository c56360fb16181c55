// SPDX-License-Identifier: MIT
//! Answers: our values into fuser's, and the one place where an errno is translated.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, Generation, INodeNo};

use crate::store::{Stat, Time};
use crate::sys::Errno;

/// How long the kernel may keep names and attributes: for ever. While mounted, the primary
/// changes only through the mount (decision 1), so what the kernel was told stays true.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long they may be wrong when PRIMARY changes behind the mount.
const SHARED: Duration = Duration::from_secs(1);

/// What the kernel may keep to itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Caching {
    /// PRIMARY may also change behind the mount: nothing is kept for long.
    pub shared_primary: bool,
    /// Small writes are collected and come later.
    pub writeback: bool,
}

impl Caching {
    /// How long names and attributes stay true, those that are not there included.
    pub(super) fn ttl(self) -> Duration {
        if self.shared_primary {
            SHARED
        } else {
            FOR_EVER
        }
    }

    /// Tells two objects apart that had the same number one after the other. Through the mount that
    /// cannot happen: a number is not free while the kernel knows it.
    pub(super) fn generation(self, stat: &Stat) -> Generation {
        let born = stat.btime.filter(|_| self.shared_primary);
        // The kernel compares 32 bits (fs/fuse/fuse_i.h, fuse_stale_inode).
        let mixed = born.map_or(0, |t| {
            let nanos = t.seconds.wrapping_mul(1_000_000_000);
            nanos.wrapping_add(t.nanos.into()).cast_unsigned() & 0xffff_ffff
        });
        Generation(mixed)
    }
}

/// The errno as it came from the system call.
pub(super) fn errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno.raw_os_error())
}

/// Attributes under the number the kernel knows the node by.
pub(super) fn attributes(id: u64, stat: &Stat) -> FileAttr {
    FileAttr {
        ino: INodeNo(id),
        size: stat.size,
        blocks: stat.blocks,
        atime: system_time(stat.atime),
        mtime: system_time(stat.mtime),
        ctime: system_time(stat.ctime),
        crtime: UNIX_EPOCH,
        kind: kind(stat.kind()),
        perm: u16::try_from(stat.permissions()).unwrap_or(0),
        nlink: stat.nlink,
        uid: stat.uid,
        gid: stat.gid,
        rdev: kernel_rdev(stat.rdev),
        blksize: stat.blksize,
        flags: 0,
    }
}

/// A device number in the kernel's own 32-bit packing (`new_encode_dev`): what FUSE carries.
pub(super) fn kernel_rdev(rdev: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The reverse: what FUSE carries into `makedev(3)`'s packing.
pub(super) fn device(kernel: u32) -> u64 {
    let major = (kernel & 0x000f_ff00) >> 8;
    let minor = (kernel & 0xff) | ((kernel >> 12) & 0x000f_ff00);
    rustix::fs::makedev(major, minor)
}

/// The type in fuser's words; what the file system does not tell is shown as a file.
pub(super) fn kind(kind: rustix::fs::FileType) -> FileType {
    match kind {
        rustix::fs::FileType::Directory => FileType::Directory,
        rustix::fs::FileType::Symlink => FileType::Symlink,
        rustix::fs::FileType::Fifo => FileType::NamedPipe,
        rustix::fs::FileType::Socket => FileType::Socket,
        rustix::fs::FileType::CharacterDevice => FileType::CharDevice,
        rustix::fs::FileType::BlockDevice => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

/// A time on its way out. fuser turns it back into the very pair it was, before 1970 too.
fn system_time(time: Time) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let second = if time.seconds >= 0 {
        UNIX_EPOCH.checked_add(whole)
    } else {
        UNIX_EPOCH.checked_sub(whole)
    };
    second
        .and_then(|t| t.checked_add(nanos))
        .unwrap_or(UNIX_EPOCH)
}

/// A time on its way in, undoing what fuser 0.18 does to those before 1970.
///
/// It turns the kernel's pair (-2 s, 500,000,000 ns), that is -1.5 s, into -2.5 s
/// (`fuser-0.18.0/src/time.rs`, `system_time_from_time`). The distance from 1970 still holds both
/// numbers as they were: whole seconds are the negated seconds, the rest the nanoseconds.
/// `known_issues` has a test that fails when a later fuser mends this.
pub(super) fn time(time: SystemTime) -> Time {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Time {
            seconds: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            nanos: after.subsec_nanos(),
        },
        Err(before) => {
            let before = before.duration();
            Time {
                seconds: 0_i64
                    .checked_sub_unsigned(before.as_secs())
                    .unwrap_or(i64::MIN),
                nanos: before.subsec_nanos(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What fuser 0.18 makes of the kernel's pair.
    fn as_fuser_hands_it_over(seconds: i64, nanos: u32) -> SystemTime {
        if seconds >= 0 {
            UNIX_EPOCH + Duration::new(seconds.unsigned_abs(), nanos)
        } else {
            UNIX_EPOCH - Duration::new(seconds.unsigned_abs(), nanos)
        }
    }

    #[test]
    fn times_before_1970_arrive_as_they_were_sent() {
        for (seconds, nanos) in [
            (-2, 500_000_000),
            (-1, 0),
            (-(1 << 31), 999_999_999),
            (0, 1),
            (1 << 33, 7),
            (-1, 1),
        ] {
            let sent = Time { seconds, nanos };
            assert_eq!(time(as_fuser_hands_it_over(seconds, nanos)), sent);
        }
    }

    #[test]
    fn times_before_1970_leave_as_they_are() {
        let half_before = system_time(Time {
            seconds: -2,
            nanos: 500_000_000,
        });
        assert_eq!(half_before, UNIX_EPOCH - Duration::from_millis(1500));
    }

    #[test]
    fn device_numbers_survive_the_wire() {
        for (major, minor) in [(1, 3), (8, 0), (259, 1_048_575), (4095, 255)] {
            let rdev = rustix::fs::makedev(major, minor);
            assert_eq!(device(kernel_rdev(rdev)), rdev, "{major}:{minor}");
        }
    }
}
