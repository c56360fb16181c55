// SPDX-License-Identifier: MIT
//! The bytes of one regular file: compared, repaired in place, or copied, holes and all.
//!
//! A hole is never read. What a file system calls a hole counts as zeros, so that comparing does
//! not populate the page cache of preallocated space (which `SEEK_DATA` would then call data).
//! The finest map two file systems can share has blocks of [`UNIT`] bytes.

use std::io::IoSliceMut;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Advice, FallocateFlags, SeekFrom};
use rustix::io::ReadWriteFlags;

use crate::mirror::failure::{Copy, Failure};
use crate::sys::{Errno, Result};

/// The granularity of hole maps and of repair.
pub(in crate::mirror) const UNIT: u64 = 4096;
const CHUNK: usize = 1 << 20;
/// How much of a file is mapped at a time: one with millions of holes takes no more room than others.
const WINDOW: u64 = 64 << 20;
/// `RWF_DONTCACHE` of include/uapi/linux/fs.h (Linux 6.14; not on every file system).
const RWF_DONTCACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);
/// One `copy_file_range` call, so that progress is seen and a stop is heard.
const RANGE: u64 = 16 << 20;

/// A call on one of the two files that failed.
#[derive(Debug)]
pub(in crate::mirror) struct Trouble {
    pub(in crate::mirror) copy: Copy,
    pub(in crate::mirror) call: &'static str,
    pub(in crate::mirror) errno: Errno,
}

impl Trouble {
    /// With the object it was about.
    pub(in crate::mirror) fn at(&self, path: Vec<u8>) -> Failure {
        Failure {
            copy: self.copy,
            path,
            call: self.call,
            errno: self.errno,
        }
    }
}

/// Marks the error of a call with the copy it was made on.
pub(in crate::mirror) trait On<T> {
    fn on(self, copy: Copy, call: &'static str) -> std::result::Result<T, Trouble>;
}

impl<T> On<T> for Result<T> {
    fn on(self, copy: Copy, call: &'static str) -> std::result::Result<T, Trouble> {
        self.map_err(|errno| Trouble { copy, call, errno })
    }
}

/// Sorted, disjoint `[start, end)` ranges.
type Ranges = Vec<(u64, u64)>;

/// What the file system calls data in `[from, size)`, or `None` where it cannot say.
fn data_ranges(fd: BorrowedFd<'_>, from: u64, size: u64) -> Result<Option<Ranges>> {
    let mut found = Vec::new();
    let mut at = from;
    while at < size {
        // Where `at` is in a hole that is `at` itself.
        let end = match rustix::fs::seek(fd, SeekFrom::Hole(at)) {
            Ok(end) => end.min(size),
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        if end > at {
            found.push((at, end));
        }
        if end == size {
            break;
        }
        at = match rustix::fs::seek(fd, SeekFrom::Data(end)) {
            Ok(next) => next,
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno),
        };
    }
    if found.iter().map(|&(start, end)| end - start).sum::<u64>() < size.saturating_sub(from) {
        // Readahead past the data would fill preallocated space with cached zeros, which
        // SEEK_DATA then calls data.
        let _no_advice = rustix::fs::fadvise(fd, 0, None, Advice::Random);
    }
    Ok(Some(found))
}

/// Sorts and merges ranges that touch.
fn union(mut ranges: Ranges) -> Ranges {
    ranges.sort_unstable();
    let mut merged: Ranges = Vec::with_capacity(ranges.len());
    for (start, end) in ranges {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    merged
}

/// Ranges widened to whole blocks.
fn aligned(ranges: &[(u64, u64)]) -> Ranges {
    let widen = |&(start, end): &(u64, u64)| (start - start % UNIT, end.next_multiple_of(UNIT));
    union(ranges.iter().map(widen).collect())
}

fn covers(ranges: &[(u64, u64)], at: u64) -> bool {
    let next = ranges.partition_point(|&(_, end)| end <= at);
    ranges.get(next).is_some_and(|&(start, _)| start <= at)
}

/// One read that leaves behind no pages that were not there before, where the file system can do
/// that: what is compared must not push out what applications read.
fn read_once(
    fd: BorrowedFd<'_>,
    buf: &mut [u8],
    at: u64,
    keeps_nothing: &mut bool,
) -> Result<usize> {
    if *keeps_nothing {
        match rustix::io::preadv2(fd, &mut [IoSliceMut::new(buf)], at, RWF_DONTCACHE) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => *keeps_nothing = false,
            done => return done,
        }
    }
    rustix::io::pread(fd, buf, at)
}

/// Reads `[at, at + buf.len())` of a file as it is: zeros outside `data` and past its end. Says
/// whether it held all that was called data.
fn fill(
    fd: BorrowedFd<'_>,
    data: &[(u64, u64)],
    at: u64,
    buf: &mut [u8],
    keeps_nothing: &mut bool,
) -> Result<bool> {
    let mut is_whole = true;
    buf.fill(0);
    let limit = at + buf.len() as u64;
    let first = data.partition_point(|&(_, end)| end <= at);
    for &(start, end) in data[first..].iter().take_while(|range| range.0 < limit) {
        let (mut from, to) = (start.max(at), end.min(limit));
        while from < to {
            let part = &mut buf[index(from - at)..index(to - at)];
            match read_once(fd, part, from, keeps_nothing) {
                Ok(0) => {
                    is_whole = false;
                    break;
                }
                Ok(count) => from += count as u64,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    Ok(is_whole)
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("an offset within one chunk")
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8], mut at: u64) -> Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(fd, bytes, at) {
            Ok(0) => return Err(Errno::IO),
            Ok(count) => {
                bytes = &bytes[count..];
                at += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Where the repaired bytes go: opened for writing at the first difference, not before.
pub(in crate::mirror) trait Writer {
    /// The replica's file, open for writing.
    fn open(&mut self) -> std::result::Result<OwnedFd, Trouble>;
}

/// What a comparison found, and what a repair did about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::mirror) struct Found {
    /// Offset of the first block that differs.
    pub(in crate::mirror) first: Option<u64>,
    /// Bytes in blocks that differ.
    pub(in crate::mirror) differing: u64,
    /// The hole maps differ.
    pub(in crate::mirror) holes: bool,
    /// Bytes written or punched.
    pub(in crate::mirror) written: u64,
}

impl Found {
    /// What was found further on in the same file.
    fn add(&mut self, further: Self) {
        self.first = self.first.or(further.first);
        self.differing += further.differing;
        self.holes |= further.holes;
        self.written += further.written;
    }
}

/// Two buffers, and what was learned about the two file systems on the way.
#[derive(Debug)]
pub(in crate::mirror) struct Content {
    primary: Vec<u8>,
    replica: Vec<u8>,
    can_clone: bool,
    can_range: bool,
    can_punch: bool,
    /// Whether reads can leave the page cache as it is.
    keeps_nothing: [bool; 2],
    /// Whether a file was copied in so few calls that it was one state of it, if it was there whole.
    at_once: bool,
}

/// One of the two files: descriptor and size.
#[derive(Clone, Copy, Debug)]
pub(in crate::mirror) struct File<'a> {
    pub(in crate::mirror) fd: BorrowedFd<'a>,
    pub(in crate::mirror) size: u64,
}

impl Content {
    pub(in crate::mirror) fn new() -> Self {
        Self {
            primary: vec![0; CHUNK],
            replica: vec![0; CHUNK],
            can_clone: true,
            can_range: true,
            can_punch: true,
            keeps_nothing: [true; 2],
            at_once: false,
        }
    }

    /// Whether the file copied last was read in one go: then it need not be looked at again to see
    /// that nobody wrote to it meanwhile.
    pub(in crate::mirror) fn was_at_once(&self) -> bool {
        self.at_once
    }

    /// Compares two files; with a `writer`, makes the replica's equal, block by block.
    ///
    /// `step` hears how many bytes were compared; it may stop everything with an errno.
    pub(in crate::mirror) fn compare(
        &mut self,
        primary: File<'_>,
        replica: File<'_>,
        mut writer: Option<&mut dyn Writer>,
        step: &mut dyn FnMut(u64) -> Result<()>,
    ) -> std::result::Result<Found, Trouble> {
        let mut all = Found::default();
        let mut replica = replica;
        let mut at = 0_u64;
        loop {
            let range = at..at.saturating_add(WINDOW);
            let end = range.end;
            let writer = writer
                .as_mut()
                .map(|writer| &mut **writer as &mut dyn Writer);
            let is_repair = writer.is_some();
            let found = self.compare_range(primary, replica, range, writer, step)?;
            all.add(found);
            if is_repair {
                replica.size = primary.size;
            }
            match next_data(primary, replica, end)? {
                Some(next) => at = next - next % UNIT,
                None => return Ok(all),
            }
        }
    }

    /// As [`Self::compare`], of the blocks that hold any byte in `range`, and of the two sizes.
    pub(in crate::mirror) fn compare_range(
        &mut self,
        primary: File<'_>,
        replica: File<'_>,
        range: Range<u64>,
        mut writer: Option<&mut dyn Writer>,
        step: &mut dyn FnMut(u64) -> Result<()>,
    ) -> std::result::Result<Found, Trouble> {
        let first = range.start - range.start % UNIT;
        let limit = range.end.checked_next_multiple_of(UNIT).unwrap_or(u64::MAX);
        let mut found = Found::default();
        let mut open: Option<OwnedFd> = None;
        let mut have = replica.size;
        if have != primary.size
            && let Some(writer) = writer.as_deref_mut()
        {
            let fd = open.insert(writer.open()?);
            rustix::fs::ftruncate(fd, primary.size).on(Copy::Replica, "ftruncate")?;
            have = primary.size;
        }
        let (end_p, end_r) = (primary.size.min(limit), have.min(limit));
        let size = end_p.min(end_r);
        let map_p = data_ranges(primary.fd, first, end_p).on(Copy::Primary, "lseek")?;
        let map_r = data_ranges(replica.fd, first, end_r).on(Copy::Replica, "lseek")?;
        let mapped = map_p.is_some() && map_r.is_some();
        let data_p = map_p.unwrap_or_else(|| vec![(first, end_p)]);
        let data_r = map_r.unwrap_or_else(|| vec![(first, end_r)]);
        let (blocks_p, blocks_r) = (aligned(&data_p), aligned(&data_r));
        found.holes = mapped && blocks_p != blocks_r;
        for (start, end) in union([blocks_p.clone(), blocks_r.clone()].concat()) {
            let (mut at, end) = (start, end.min(size));
            while at < end {
                let len = index((end - at).min(CHUNK as u64));
                let (p, r) = (&mut self.primary[..len], &mut self.replica[..len]);
                fill(primary.fd, &data_p, at, p, &mut self.keeps_nothing[0])
                    .on(Copy::Primary, "pread")?;
                fill(replica.fd, &data_r, at, r, &mut self.keeps_nothing[1])
                    .on(Copy::Replica, "pread")?;
                let same_map =
                    !mapped || (covers_all(&blocks_p, at, len) && covers_all(&blocks_r, at, len));
                if p != r || !same_map {
                    let mut repairs = Repairs::new(at);
                    for (i, (p, r)) in p.chunks(4096).zip(r.chunks(4096)).enumerate() {
                        let offset = at + i as u64 * UNIT;
                        let differ = p != r;
                        if differ {
                            found.first.get_or_insert(offset);
                            found.differing += p.len() as u64;
                        }
                        let data = covers(&blocks_p, offset);
                        let held = covers(&blocks_r, offset);
                        repairs.add(
                            p.len(),
                            match (data, held) {
                                (true, _) if differ => Fix::Write,
                                (true, false) if mapped => Fix::Write,
                                (false, true) if mapped && self.can_punch => Fix::Punch,
                                _ if differ => Fix::Write,
                                _ => Fix::Nothing,
                            },
                        );
                    }
                    if let Some(writer) = writer.as_deref_mut() {
                        for run in repairs.runs {
                            if open.is_none() {
                                open = Some(writer.open()?);
                            }
                            let Some(fd) = open.as_ref() else { continue };
                            found.written += run.len;
                            let from = index(run.at - at);
                            let bytes = &self.primary[from..from + index(run.len)];
                            let whole = run.len.next_multiple_of(UNIT);
                            if run.fix == Fix::Punch {
                                match rustix::fs::fallocate(
                                    fd,
                                    FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                                    run.at,
                                    whole,
                                ) {
                                    Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.can_punch = false,
                                    done => {
                                        done.on(Copy::Replica, "fallocate")?;
                                        continue;
                                    }
                                }
                            }
                            write_all(fd.as_fd(), bytes, run.at).on(Copy::Replica, "pwrite")?;
                        }
                    }
                }
                at += len as u64;
                step(len as u64).on(Copy::Primary, "pread")?;
            }
        }
        Ok(found)
    }

    /// Fills a new, empty file of the replica: a clone, else a copy by the kernel, else by us.
    pub(in crate::mirror) fn copy(
        &mut self,
        primary: File<'_>,
        replica: BorrowedFd<'_>,
        step: &mut dyn FnMut(u64) -> Result<()>,
    ) -> std::result::Result<(), Trouble> {
        self.at_once = true;
        if primary.size == 0 || self.clone_all(primary, replica, step)? {
            return Ok(());
        }
        let mut from = 0;
        while from < primary.size {
            let end = primary.size.min(from + WINDOW);
            let data = data_ranges(primary.fd, from, end).on(Copy::Primary, "lseek")?;
            let data = data.unwrap_or_else(|| vec![(from, end)]);
            if from == 0 {
                self.at_once = data == [(0, primary.size)] && primary.size <= CHUNK as u64;
                if !self.at_once {
                    // The size first: writes within it leave no preallocation behind, and the end may
                    // be a hole.
                    rustix::fs::ftruncate(replica, primary.size).on(Copy::Replica, "ftruncate")?;
                }
            }
            for &(start, end) in &data {
                let mut at = start;
                while at < end {
                    let count = self.copy_some(primary.fd, replica, &data, at, end)?;
                    at += count;
                    step(count).on(Copy::Primary, "pread")?;
                }
            }
            match data_after(primary, end).on(Copy::Primary, "lseek")? {
                Some(next) => from = next,
                None => break,
            }
        }
        Ok(())
    }

    /// Lets a new, empty file of the replica share all blocks of the primary's, where both are on one
    /// file system that can do that.
    pub(in crate::mirror) fn clone_all(
        &mut self,
        primary: File<'_>,
        replica: BorrowedFd<'_>,
        step: &mut dyn FnMut(u64) -> Result<()>,
    ) -> std::result::Result<bool, Trouble> {
        if !self.can_clone {
            return Ok(false);
        }
        match rustix::fs::ioctl_ficlone(replica, primary.fd) {
            Ok(()) => {
                step(primary.size).on(Copy::Replica, "ioctl")?;
                return Ok(true);
            }
            Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::IO | Errno::ROFS)) => {
                return Err(errno).on(Copy::Replica, "ioctl");
            }
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS) => {
                self.can_clone = false;
            }
            Err(_) => {}
        }
        Ok(false)
    }

    fn copy_some(
        &mut self,
        primary: BorrowedFd<'_>,
        replica: BorrowedFd<'_>,
        data: &[(u64, u64)],
        at: u64,
        end: u64,
    ) -> std::result::Result<u64, Trouble> {
        if self.can_range {
            let (mut from, mut to) = (at, at);
            let len = index((end - at).min(RANGE));
            match rustix::fs::copy_file_range(primary, Some(&mut from), replica, Some(&mut to), len)
            {
                Ok(count) if count > 0 => {
                    self.at_once &= count == len;
                    return Ok(count as u64);
                }
                Err(Errno::INTR) => return Ok(0),
                // Which side failed cannot be told: let read and write say it.
                Ok(_) | Err(Errno::IO) => {}
                Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => {
                    return Err(errno).on(Copy::Replica, "copy_file_range");
                }
                Err(_) => self.can_range = false,
            }
        }
        let len = index((end - at).min(CHUNK as u64));
        let buf = &mut self.primary[..len];
        let whole = fill(primary, data, at, buf, &mut self.keeps_nothing[0]);
        self.at_once &= whole.on(Copy::Primary, "pread")?;
        write_all(replica, buf, at).on(Copy::Replica, "pwrite")?;
        Ok(len as u64)
    }
}

/// Where the next data at or after `at` begins, in either file; `None` when there is none, and `at`
/// itself where the file system cannot say.
pub(in crate::mirror) fn next_data(
    primary: File<'_>,
    replica: File<'_>,
    at: u64,
) -> std::result::Result<Option<u64>, Trouble> {
    let found = [
        data_after(primary, at).on(Copy::Primary, "lseek")?,
        data_after(replica, at).on(Copy::Replica, "lseek")?,
    ];
    Ok(found.into_iter().flatten().min())
}

/// The same, of one file.
fn data_after(file: File<'_>, at: u64) -> Result<Option<u64>> {
    if at >= file.size {
        return Ok(None);
    }
    match rustix::fs::seek(file.fd, SeekFrom::Data(at)) {
        Ok(start) => Ok(Some(start).filter(|&start| start < file.size)),
        Err(Errno::NXIO) => Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(at)),
        Err(errno) => Err(errno),
    }
}

fn covers_all(blocks: &[(u64, u64)], at: u64, len: usize) -> bool {
    let next = blocks.partition_point(|&(_, end)| end <= at);
    let last = at + len as u64;
    blocks
        .get(next)
        .is_some_and(|&(start, end)| start <= at && last <= end)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fix {
    Nothing,
    Write,
    Punch,
}

#[derive(Debug)]
struct Run {
    at: u64,
    len: u64,
    fix: Fix,
}

/// Neighbouring blocks that need the same repair, as one run.
#[derive(Debug)]
struct Repairs {
    at: u64,
    runs: Vec<Run>,
}

impl Repairs {
    fn new(at: u64) -> Self {
        let runs = Vec::new();
        Self { at, runs }
    }

    fn add(&mut self, len: usize, fix: Fix) {
        let (at, len) = (self.at, len as u64);
        self.at += len;
        match self.runs.last_mut() {
            Some(last) if last.fix == fix && last.at + last.len == at => last.len += len,
            _ if fix == Fix::Nothing => {}
            _ => self.runs.push(Run { at, len, fix }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_widened_merged_and_found() {
        let map = aligned(&[(1, 2), (5000, 9000), (20_000, 20_480)]);
        assert_eq!(map, [(0, 12_288), (16_384, 20_480)]);
        for (at, inside) in [(0, true), (12_287, true), (12_288, false), (16_384, true)] {
            assert_eq!(covers(&map, at), inside, "{at}");
        }
        assert!(!covers(&map, 20_480));
        assert!(covers_all(&map, 4096, 8192) && !covers_all(&map, 4096, 8193));
        assert_eq!(aligned(&[]), []);
    }

    #[test]
    fn repairs_come_in_runs() {
        let mut repairs = Repairs::new(4096);
        for fix in [
            Fix::Nothing,
            Fix::Write,
            Fix::Write,
            Fix::Punch,
            Fix::Nothing,
            Fix::Punch,
        ] {
            repairs.add(4096, fix);
        }
        let runs: Vec<_> = repairs.runs.iter().map(|r| (r.at, r.len, r.fix)).collect();
        assert_eq!(
            runs,
            [
                (8192, 8192, Fix::Write),
                (16_384, 4096, Fix::Punch),
                (24_576, 4096, Fix::Punch)
            ]
        );
    }
}
