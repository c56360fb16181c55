// SPDX-License-Identifier: MIT
//! The log's file: what is asked of the disk, one call at a time, so that tests can refuse or cut
//! at every one of them.

use std::ffi::CString;
use std::fmt::Debug;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags};

use crate::sys::{Errno, Result};

/// No log of ours is larger (bytes): what is, is damaged.
const SIZE_MAX: u64 = 4 << 30;

/// A place for one log, and for a new one that is to replace it.
pub(crate) trait Disk: Debug + Send {
    /// The whole log; `None` if there is none.
    fn read(&mut self) -> Result<Option<Vec<u8>>>;
    /// Writes into the log.
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()>;
    /// Makes durable what was written into the log.
    fn flush(&mut self) -> Result<()>;
    /// Begins a new log, empty; an unfinished one is thrown away.
    fn begin_new(&mut self) -> Result<()>;
    /// Writes into the new log.
    fn write_new(&mut self, at: u64, bytes: &[u8]) -> Result<()>;
    /// Makes the new log durable, its size too.
    fn flush_new(&mut self) -> Result<()>;
    /// Puts the new log in the place of the old one.
    fn publish(&mut self) -> Result<()>;
    /// Makes that durable.
    fn flush_dir(&mut self) -> Result<()>;
}

/// `replica-N.log` in a directory.
#[derive(Debug)]
pub(crate) struct Directory {
    dir: OwnedFd,
    name: CString,
    new_name: CString,
    log: Option<OwnedFd>,
    new: Option<OwnedFd>,
}

impl Directory {
    /// # Errors
    /// `EINVAL` never happens: the name has no NUL.
    pub(crate) fn new(dir: OwnedFd, replica: u32) -> Result<Self> {
        let name = |ending| {
            CString::new(format!("replica-{replica}.log{ending}")).map_err(|_| Errno::INVAL)
        };
        Ok(Self {
            dir,
            name: name("")?,
            new_name: name(".tmp")?,
            log: None,
            new: None,
        })
    }
}

fn write_all(fd: Option<&OwnedFd>, mut at: u64, mut bytes: &[u8]) -> Result<()> {
    let fd = fd.ok_or(Errno::BADF)?;
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

/// A flush that was interrupted is asked for again; one that failed is not: it would succeed.
fn flushed(flush: impl Fn() -> Result<()>) -> Result<()> {
    loop {
        match flush() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

impl Disk for Directory {
    fn read(&mut self) -> Result<Option<Vec<u8>>> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let fd = match rustix::fs::openat(&self.dir, &self.name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened?,
        };
        let stat = rustix::fs::fstat(&fd)?;
        let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        if size > SIZE_MAX {
            return Err(Errno::FBIG);
        }
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| Errno::FBIG)?];
        let mut len = 0;
        while len < bytes.len() {
            match rustix::io::pread(&fd, &mut bytes[len..], len as u64) {
                Ok(0) => break,
                Ok(count) => len += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        bytes.truncate(len);
        self.log = Some(fd);
        Ok(Some(bytes))
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        write_all(self.log.as_ref(), at, bytes)
    }

    fn flush(&mut self) -> Result<()> {
        let fd = self.log.as_ref().ok_or(Errno::BADF)?;
        flushed(|| rustix::fs::fdatasync(fd))
    }

    fn begin_new(&mut self) -> Result<()> {
        match rustix::fs::unlinkat(&self.dir, &self.new_name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        self.new = Some(rustix::fs::openat(&self.dir, &self.new_name, flags, mode)?);
        Ok(())
    }

    fn write_new(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        write_all(self.new.as_ref(), at, bytes)
    }

    fn flush_new(&mut self) -> Result<()> {
        let fd = self.new.as_ref().ok_or(Errno::BADF)?;
        flushed(|| rustix::fs::fsync(fd))
    }

    fn publish(&mut self) -> Result<()> {
        rustix::fs::renameat(&self.dir, &self.new_name, &self.dir, &self.name)?;
        self.log = self.new.take();
        Ok(())
    }

    fn flush_dir(&mut self) -> Result<()> {
        flushed(|| rustix::fs::fsync(&self.dir))
    }
}
