// SPDX-License-Identifier: MIT
//! `Attrs`: all metadata of one object, read, compared, and carried over to the replica.
//!
//! The order of repair is the only one that leaves nothing behind: chown (clears set-id bits and
//! capabilities), chmod, xattrs and ACLs, flags, times, and last the immutable and append-only
//! flags, after which nothing can be changed any more. What the replica's file system cannot hold
//! becomes a [`Lack`]: named, never silent.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::BorrowedFd;

use parking_lot::Mutex;
use rustix::fs::{FileType, Timespec, Timestamps};

use crate::mirror::failure::{Copy, Named, show_path};
use crate::mirror::resync::content::{On, Trouble};
use crate::store::stat::{Stat, Time};
use crate::store::walk::LOCKS;
use crate::sys::{Errno, Result, at, clock, creds};

/// The flags a user sets with chattr; the rest describe the file system's own layout.
const FLAGS: u32 = 0x2083_c0ff;

/// XFS shows root each ACL a second time, in its own encoding.
const SHADOWS: [&CStr; 2] = [c"trusted.SGI_ACL_FILE", c"trusted.SGI_ACL_DEFAULT"];

/// Our own stamp on the two roots: identity, not content.
pub(in crate::mirror) const STAMPS: [&CStr; 2] =
    [c"trusted.mirrorfs.stamp", c"user.mirrorfs.stamp"];

/// What a replica's file system, or an ordinary user on it, could not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Lack {
    /// A whole symlink or special file: a device without the right to make one, a target too long.
    Entry = 0,
    /// Owner or group.
    Owner = 1,
    /// Permission bits.
    Mode = 2,
    /// Extended attributes, ACLs and capabilities among them.
    Xattr = 3,
    /// chattr flags.
    Flags = 4,
    /// Times to the nanosecond.
    Times = 5,
    /// Which names are one inode.
    Links = 6,
    /// Times, owners and xattrs of symlinks: they would be set on what a symlink points to.
    Symlinks = 7,
}

impl Lack {
    /// Every kind, in order.
    pub const ALL: [Self; 8] = [
        Self::Entry,
        Self::Owner,
        Self::Mode,
        Self::Xattr,
        Self::Flags,
        Self::Times,
        Self::Links,
        Self::Symlinks,
    ];

    /// The word for it in stamps and messages.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Entry => "entry",
            Self::Owner => "owner",
            Self::Mode => "mode",
            Self::Xattr => "xattr",
            Self::Flags => "flags",
            Self::Times => "times",
            Self::Links => "links",
            Self::Symlinks => "symlinks",
        }
    }
}

/// A set of [`Lack`]s: what a mirror was told to do without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lacks(u8);

impl Lacks {
    /// Adds one kind.
    pub fn insert(&mut self, lack: Lack) {
        self.0 |= 1 << lack as u8;
    }

    /// Whether this kind is lacking.
    #[must_use]
    pub fn contains(self, lack: Lack) -> bool {
        self.0 & (1 << lack as u8) != 0
    }

    /// Whether nothing is lacking.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Both sets together.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// A kind that is not done without: any, unless told to; never which names are one inode. A file with
    /// two names would be two files, and a change would reach one of them.
    #[must_use]
    pub fn refused(self, does_without: bool) -> Option<Lack> {
        self.iter()
            .find(|&lack| !does_without || lack == Lack::Links)
    }

    /// Whether nothing is set of an object of this kind, ever: a symlink, where that would reach what it
    /// points to, out of the replica even.
    #[must_use]
    pub fn leaves_alone(self, kind: FileType) -> bool {
        kind == FileType::Symlink && self.contains(Lack::Symlinks)
    }

    /// The kinds that are not tried again, whatever the disk is by now: trying does harm.
    #[must_use]
    pub fn never_tried(self) -> Self {
        Self(self.0 & 1 << Lack::Symlinks as u8)
    }

    /// The kinds, in order.
    pub fn iter(self) -> impl Iterator<Item = Lack> {
        Lack::ALL
            .into_iter()
            .filter(move |&lack| self.contains(lack))
    }
}

impl fmt::Display for Lacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, lack) in self.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { "," })?;
            f.write_str(lack.word())?;
        }
        Ok(())
    }
}

/// What the replica's file system was seen to keep as it was told: some round times, and some give
/// another owner or mode than was asked for, and call that success.
#[derive(Debug, Default)]
pub(in crate::mirror) struct Proven {
    /// Types with modes, owners and groups.
    modes: HashSet<(u32, u32, u32)>,
    /// Times to the nanosecond.
    times: bool,
    /// What it is known not to hold.
    lacks: Lacks,
}

impl Proven {
    /// Of a file system that is known to lack these.
    pub(in crate::mirror) fn lacking(lacks: Lacks) -> Mutex<Self> {
        Mutex::new(Self {
            lacks,
            ..Self::default()
        })
    }

    /// Whether nothing new would be learned from looking.
    fn keeps(&self, want: &Stat) -> bool {
        // Before 1970 and after 2038 some keep times that others cut.
        let is_usual = (0..1 << 31).contains(&want.mtime.seconds);
        let mode = (want.mode, want.uid, want.gid);
        self.times && is_usual && self.modes.contains(&mode)
    }

    /// Learns from what became of one object whether the file system keeps such things.
    fn has_kept(&mut self, want: &Stat, found: &Stat) -> bool {
        let modes = [want, found].map(|stat| (stat.kind(), stat.permissions()));
        let same_mode = want.kind() == FileType::Symlink || modes[0] == modes[1];
        let same_owner = (want.uid, want.gid) == (found.uid, found.gid);
        if !(same_mode && same_owner && want.mtime == found.mtime) {
            return false;
        }
        self.modes.insert((want.mode, want.uid, want.gid));
        self.times |= !want.mtime.nanos.is_multiple_of(100);
        true
    }
}

/// All metadata of one object.
#[derive(Clone, Debug)]
pub(in crate::mirror) struct Attrs {
    pub(in crate::mirror) stat: Stat,
    xattrs: BTreeMap<CString, Vec<u8>>,
    /// chattr flags; `None` where the file system keeps none, and for what cannot be opened.
    flags: Option<u32>,
}

impl Attrs {
    /// Reads everything by descriptor; `O_PATH` will do for what is neither file nor directory.
    pub(in crate::mirror) fn read(
        fd: BorrowedFd<'_>,
        copy: Copy,
        is_root: bool,
    ) -> std::result::Result<Self, Trouble> {
        let stat = Stat::of(fd).on(copy, "statx")?;
        let mut xattrs = BTreeMap::new();
        for name in at::xattr_names(fd).on(copy, "listxattr")? {
            if SHADOWS.contains(&&*name) || (is_root && STAMPS.contains(&&*name)) {
                continue;
            }
            match at::get_xattr_vec(fd, &name) {
                Ok(value) => drop(xattrs.insert(name, value)),
                Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(errno).on(copy, "getxattr"),
            }
        }
        let flags = match stat.kind() {
            FileType::RegularFile | FileType::Directory => at::get_flags(fd).ok(),
            _ => None,
        };
        Ok(Self {
            stat,
            xattrs,
            flags,
        })
    }

    /// The immutable and append-only flags that are set.
    pub(in crate::mirror) fn locks(&self) -> u32 {
        self.flags.unwrap_or(0) & LOCKS
    }

    /// One sentence per difference, what `ignore` holds left out.
    pub(in crate::mirror) fn differences(&self, replica: &Self, ignore: Lacks) -> Vec<String> {
        let (p, r) = (&self.stat, &replica.stat);
        let mut found = Vec::new();
        if ignore.leaves_alone(p.kind()) {
            return found;
        }
        if p.kind() != FileType::Symlink
            && p.permissions() != r.permissions()
            && !ignore.contains(Lack::Mode)
        {
            let (p, r) = (p.permissions(), r.permissions());
            found.push(format!("mode {p:04o} on primary, {r:04o} on replica"));
        }
        if (p.uid, p.gid) != (r.uid, r.gid) && !ignore.contains(Lack::Owner) {
            found.push(format!(
                "owner {}:{} on primary, {}:{} on replica",
                p.uid, p.gid, r.uid, r.gid
            ));
        }
        // Told to do without exact times, we still want them to the two seconds of the coarsest; but
        // those of symlinks some cannot set at all.
        let close = ignore.contains(Lack::Times)
            && (p.kind() == FileType::Symlink || p.mtime.seconds.abs_diff(r.mtime.seconds) <= 2);
        if p.mtime != r.mtime && !close {
            let (p, r) = (show_time(p.mtime), show_time(r.mtime));
            found.push(format!("modified {p} on primary, {r} on replica"));
        }
        if !ignore.contains(Lack::Xattr) {
            for (name, value) in &self.xattrs {
                let what = match replica.xattrs.get(name) {
                    Some(other) if other == value => continue,
                    Some(_) => "differs",
                    None => "on primary only",
                };
                found.push(format!("xattr {} {what}", show_path(name.to_bytes())));
            }
            for name in replica.xattrs.keys() {
                if !self.xattrs.contains_key(name) {
                    let name = show_path(name.to_bytes());
                    found.push(format!("xattr {name} on replica only"));
                }
            }
        }
        if let (Some(p), Some(r)) = (self.flags, replica.flags)
            && (p ^ r) & FLAGS != 0
            && !ignore.contains(Lack::Flags)
        {
            let (p, r) = (p & FLAGS, r & FLAGS);
            found.push(format!("flags {p:#x} on primary, {r:#x} on replica"));
        }
        found
    }

    /// Before a new file gets its first byte: flags that only work on an empty one.
    pub(in crate::mirror) fn prepare(&self, fd: BorrowedFd<'_>) {
        const NOCOW: u32 = 0x0080_0000;
        if let Some(flags) = self.flags
            && flags & NOCOW != 0
            && let Ok(have) = at::get_flags(fd)
        {
            // A refusal is noticed, and named, when the flags are carried over.
            let _refused = at::set_flags(fd, have | NOCOW);
        }
    }

    /// As [`Self::carry_over`], of an object that was made just now: what nothing is known to be in the
    /// way of is set without looking first, and looked at afterwards only where that tells something
    /// new of the replica's file system.
    pub(in crate::mirror) fn carry_to_new(
        &self,
        fd: BorrowedFd<'_>,
        proven: &Mutex<Proven>,
        lack: &mut dyn FnMut(Lack, String),
    ) -> std::result::Result<(), Trouble> {
        if self.is_left_alone(proven, lack) {
            return Ok(());
        }
        match self.set_plain(fd, proven) {
            Ok(true) => Ok(()),
            // What went wrong it finds again, and names.
            Ok(false) | Err(_) => self.carry(fd, false, true, lack),
        }
    }

    /// Whether nothing of this may be set there. That is a loss, and it is named.
    fn is_left_alone(&self, proven: &Mutex<Proven>, lack: &mut dyn FnMut(Lack, String)) -> bool {
        let leaves_alone = proven.lock().lacks.leaves_alone(self.stat.kind());
        if leaves_alone {
            lack(Lack::Symlinks, "its time and owner are not set".to_owned());
        }
        leaves_alone
    }

    /// Sets owner, mode and times; false where there is more to carry, or this was not kept.
    fn set_plain(&self, fd: BorrowedFd<'_>, proven: &Mutex<Proven>) -> Result<bool> {
        let want = &self.stat;
        let own = self.flags.unwrap_or(0) & FLAGS;
        if own != 0 || !self.xattrs.is_empty() || !at::xattr_names(fd)?.is_empty() {
            return Ok(false);
        }
        if self.flags.is_some() && at::get_flags(fd)? & FLAGS != 0 {
            return Ok(false);
        }
        at::chown(fd, Some(want.uid), Some(want.gid))?;
        if want.kind() != FileType::Symlink {
            at::chmod(fd, want.permissions())?;
        }
        let times = Timestamps {
            last_access: want.atime.into(),
            last_modification: want.mtime.into(),
        };
        at::utimens(fd, &times)?;
        if proven.lock().keeps(want) {
            return Ok(true);
        }
        let found = Stat::of(fd)?;
        Ok(proven.lock().has_kept(want, &found))
    }

    /// Makes the replica's object behind `fd` equal to these, and looks whether it is.
    pub(in crate::mirror) fn carry_over(
        &self,
        fd: BorrowedFd<'_>,
        is_root: bool,
        proven: &Mutex<Proven>,
        lack: &mut dyn FnMut(Lack, String),
    ) -> std::result::Result<(), Trouble> {
        if self.is_left_alone(proven, lack) {
            return Ok(());
        }
        self.carry(fd, is_root, false, lack)
    }

    fn carry(
        &self,
        fd: BorrowedFd<'_>,
        is_root: bool,
        is_new: bool,
        lack: &mut dyn FnMut(Lack, String),
    ) -> std::result::Result<(), Trouble> {
        let mut have = Self::read(fd, Copy::Replica, is_root)?;
        if have.locks() != 0 && (is_new || !self.differences(&have, Lacks::default()).is_empty()) {
            let flags = have.flags.unwrap_or(0) & !LOCKS;
            at::set_flags(fd, flags).on(Copy::Replica, "ioctl")?;
            have.flags = Some(flags);
        }
        let mut lacking = Lacks::default();
        let mut note = |kind, detail| {
            lacking.insert(kind);
            lack(kind, detail);
        };
        self.carry_owner(fd, &mut have.stat, &mut note)?;
        if self.stat.kind() != FileType::Symlink
            && self.stat.permissions() != have.stat.permissions()
        {
            match at::chmod(fd, self.stat.permissions()) {
                Err(errno @ (Errno::PERM | Errno::OPNOTSUPP)) => {
                    let mode = self.stat.permissions();
                    note(Lack::Mode, format!("mode {mode:04o}: {}", Named(errno)));
                }
                done => done.on(Copy::Replica, "fchmodat2")?,
            }
        }
        self.carry_xattrs(fd, &have, &mut note)?;
        self.carry_flags(fd, &mut have, &mut note);
        self.carry_times(fd, &have.stat, is_new)?;
        if self.locks() != 0
            && have
                .flags
                .is_some_and(|flags| flags & LOCKS != self.locks())
        {
            let flags = have.flags.unwrap_or(0) & !LOCKS | self.locks();
            if let Err(errno) = at::set_flags(fd, flags) {
                note(
                    Lack::Flags,
                    format!("immutable or append-only: {}", Named(errno)),
                );
            }
        }
        // Some file systems round or ignore what they are told and report success.
        let now = Stat::of(fd).on(Copy::Replica, "statx")?;
        if now.mtime != self.stat.mtime {
            let (want, got) = (show_time(self.stat.mtime), show_time(now.mtime));
            note(Lack::Times, format!("time {want} became {got}"));
        }
        if (now.uid, now.gid) != (self.stat.uid, self.stat.gid) && !lacking.contains(Lack::Owner) {
            lack(Lack::Owner, format!("owner became {}:{}", now.uid, now.gid));
        } else if self.stat.kind() != FileType::Symlink
            && now.permissions() != self.stat.permissions()
            && !lacking.contains(Lack::Mode)
        {
            lack(Lack::Mode, format!("mode became {:04o}", now.permissions()));
        }
        Ok(())
    }

    fn carry_owner(
        &self,
        fd: BorrowedFd<'_>,
        have: &mut Stat,
        note: &mut dyn FnMut(Lack, String),
    ) -> std::result::Result<(), Trouble> {
        let want = &self.stat;
        if (want.uid, want.gid) == (have.uid, have.gid) {
            return Ok(());
        }
        match at::chown(fd, Some(want.uid), Some(want.gid)) {
            Err(errno @ (Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP)) => {
                if !creds::privileged() && want.gid != have.gid {
                    // One's own groups can be given without any privilege.
                    let _refused = at::chown(fd, None, Some(want.gid));
                }
                let (uid, gid) = (want.uid, want.gid);
                note(Lack::Owner, format!("owner {uid}:{gid}: {}", Named(errno)));
            }
            done => done.on(Copy::Replica, "fchownat")?,
        }
        *have = Stat::of(fd).on(Copy::Replica, "statx")?;
        Ok(())
    }

    fn carry_xattrs(
        &self,
        fd: BorrowedFd<'_>,
        have: &Self,
        note: &mut dyn FnMut(Lack, String),
    ) -> std::result::Result<(), Trouble> {
        for name in have
            .xattrs
            .keys()
            .filter(|name| !self.xattrs.contains_key(*name))
        {
            match at::remove_xattr(fd, name) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(errno @ (Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP)) => {
                    let name = show_path(name.to_bytes());
                    note(
                        Lack::Xattr,
                        format!("xattr {name} cannot be removed: {}", Named(errno)),
                    );
                }
                Err(errno) => return Err(errno).on(Copy::Replica, "removexattr"),
            }
        }
        for (name, value) in &self.xattrs {
            // chown drops capabilities, so those are never taken as already there.
            let kept = name.as_c_str() != c"security.capability";
            if kept && have.xattrs.get(name) == Some(value) {
                continue;
            }
            let shown = || {
                format!(
                    "xattr {} ({} bytes)",
                    show_path(name.to_bytes()),
                    value.len()
                )
            };
            match at::set_xattr(fd, name, value, 0) {
                Ok(()) => {}
                Err(
                    errno @ (Errno::PERM
                    | Errno::ACCESS
                    | Errno::OPNOTSUPP
                    | Errno::TOOBIG
                    | Errno::RANGE
                    | Errno::INVAL),
                ) => note(Lack::Xattr, format!("{}: {}", shown(), Named(errno))),
                // ext4 says ENOSPC for more than fits one inode, however empty the disk is.
                Err(Errno::NOSPC) if has_room(fd) => {
                    note(
                        Lack::Xattr,
                        format!("{}: too big for its file system", shown()),
                    );
                }
                Err(errno) => return Err(errno).on(Copy::Replica, "setxattr"),
            }
        }
        Ok(())
    }

    fn carry_flags(&self, fd: BorrowedFd<'_>, have: &mut Self, note: &mut dyn FnMut(Lack, String)) {
        let want = self.flags.unwrap_or(0) & FLAGS & !LOCKS;
        let Some(present) = have.flags else {
            if self.flags.unwrap_or(0) & FLAGS != 0 {
                note(Lack::Flags, "the file system keeps no flags".to_owned());
            }
            return;
        };
        if self.flags.is_none() || present & FLAGS & !LOCKS == want {
            return;
        }
        let layout = present & (!FLAGS | LOCKS);
        if at::set_flags(fd, layout | want).is_ok() {
            have.flags = Some(layout | want);
            return;
        }
        // One by one, so that what it does know is carried over all the same.
        let mut now = present;
        for bit in (0..u32::BITS).map(|shift| 1 << shift) {
            if FLAGS & !LOCKS & bit == 0 || (now ^ want) & bit == 0 {
                continue;
            }
            match at::set_flags(fd, now ^ bit) {
                Ok(()) => now ^= bit,
                Err(errno) => note(Lack::Flags, format!("flag {bit:#x}: {}", Named(errno))),
            }
        }
        have.flags = Some(now);
    }

    fn carry_times(
        &self,
        fd: BorrowedFd<'_>,
        have: &Stat,
        is_new: bool,
    ) -> std::result::Result<(), Trouble> {
        if have.mtime == self.stat.mtime && !is_new {
            return Ok(());
        }
        let omit = Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        };
        let times = Timestamps {
            last_access: if is_new { self.stat.atime.into() } else { omit },
            last_modification: self.stat.mtime.into(),
        };
        at::utimens(fd, &times).on(Copy::Replica, "utimensat")
    }
}

/// Whether the file system has room, so that ENOSPC meant something else.
fn has_room(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fstatvfs(fd)
        .is_ok_and(|fs| fs.f_bavail > 256 && (fs.f_files == 0 || fs.f_favail > 0))
}

/// A time with all its nanoseconds.
pub(in crate::mirror) fn show_time(time: Time) -> String {
    let text = clock::rfc3339(time.seconds);
    format!("{}.{:09}Z", text.trim_end_matches('Z'), time.nanos)
}
