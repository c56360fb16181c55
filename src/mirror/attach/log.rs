// SPDX-License-Identifier: MIT
//! Where the write-intent log of a mirror is kept, and how it is opened for one more mount.
//!
//! `STATE_DIR/<mirror id, 32 hex digits>/`, mode 0700. The directory belongs to the mirror, not to
//! its paths: a mirror keeps its log when its disks are mounted elsewhere.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};

use super::decide::Log;
use super::identity::{LogId, MirrorId};
use crate::journal::{Intent, Journal, Unreadable};
use crate::mirror::failure::Named;
use crate::sys::{Errno, Result, files};

/// Which of the mirror's replicas the log is about: there is one.
const REPLICA: u32 = 1;

/// Where logs are kept, and what they are to survive.
#[derive(Clone, Debug)]
pub struct Keeping {
    /// `--state-dir`, absolute.
    pub state_dir: PathBuf,
    /// `--intent`
    pub intent: Intent,
}

impl Keeping {
    /// The log that a stamp names, for one more mount; all it holds is in doubt.
    ///
    /// # Errors
    /// Why it cannot be relied upon.
    pub(super) fn open(&self, id: MirrorId, known: LogId) -> std::result::Result<Journal, Log> {
        let broken = |errno| Log::Damaged(Named(errno).to_string());
        let dir = match self.directory(id) {
            Err(Errno::NOENT) => return Err(Log::Missing),
            opened => opened.map_err(broken)?,
        };
        Journal::open(dir, REPLICA, id.0, known, self.intent).map_err(|unreadable| match unreadable
        {
            Unreadable::Missing => Log::Missing,
            Unreadable::Damaged(why) => Log::Damaged(why),
            Unreadable::Other => Log::Other,
            Unreadable::Older => Log::Older,
            Unreadable::Io(errno) => broken(errno),
        })
    }

    /// A new log that holds nothing: for copies that are equal, or that nothing covers.
    ///
    /// # Errors
    /// Whatever making the directory or the file says.
    pub(super) fn create(&self, id: MirrorId) -> Result<Journal> {
        let path = self.path(id);
        files::own_directories(&path).map_err(|error| errno_of(&error))?;
        let dir = self.directory(id)?;
        // A log whose directory a power cut takes away is a missing one.
        if let Ok(above) = open_dir(&self.state_dir) {
            rustix::fs::fsync(&above)?;
        }
        Journal::create(dir, REPLICA, id.0, self.intent)
    }

    fn path(&self, id: MirrorId) -> PathBuf {
        self.state_dir.join(format!("{:032x}", id.0))
    }

    fn directory(&self, id: MirrorId) -> Result<OwnedFd> {
        open_dir(&self.path(id))
    }
}

fn open_dir(path: &std::path::Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
