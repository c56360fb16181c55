// SPDX-License-Identifier: MIT
//! Files by path: start-up, `/proc`, the log and the socket's directory. Never the two trees.
//!
//! The linter forbids `std::fs` by path everywhere else, because in a tree that others change a
//! path is a race. The files here are the machine's or our own.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// The whole of a small file, such as one of `/proc`.
///
/// # Errors
/// Whatever open or read says.
#[allow(clippy::disallowed_methods, reason = "a file of /proc or /sys")]
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(path)
}

/// Opens a file of `/proc` or `/sys` for reading.
///
/// # Errors
/// Whatever open says.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).open(path)
}

/// Writes `text` into an existing file of `/proc` or `/sys` in one write.
///
/// # Errors
/// Whatever open or write says.
pub fn poke(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(text.as_bytes())
}

/// Opens a log for appending and makes it, readable by its owner and group, when it is new.
///
/// # Errors
/// Whatever open says.
pub fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

/// Makes the directory `path` with `mode`, or checks that the one there belongs to `uid` and,
/// for a private one, that nobody else may write to it.
///
/// # Errors
/// `EACCES` when it belongs to somebody else or others may write to it; else whatever mkdir says.
pub fn own_directory(path: &Path, mode: u32, uid: u32) -> io::Result<()> {
    let made = std::fs::DirBuilder::new().mode(mode).create(path);
    match made {
        Ok(()) => std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            if owned_directory(path, uid)? {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(libc::EACCES))
            }
        }
        Err(e) => Err(e),
    }
}

/// Makes the directory `path`, and those above it that are missing, for us alone (0700); or checks
/// that the one there is ours and nobody else may write to it.
///
/// # Errors
/// As [`own_directory`].
pub fn own_directories(path: &Path) -> io::Result<()> {
    if let Some(above) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(above)?;
    }
    own_directory(path, 0o700, rustix::process::geteuid().as_raw())
}

/// Whether `path` is a real directory of `uid` to which nobody else may write.
///
/// # Errors
/// Whatever lstat says.
pub fn owned_directory(path: &Path, uid: u32) -> io::Result<bool> {
    let meta = std::fs::symlink_metadata(path)?;
    Ok(meta.is_dir() && meta.uid() == uid && meta.mode() & 0o022 == 0)
}

/// Removes a socket of ours; one that is gone already is no error.
///
/// # Errors
/// Whatever unlink says, but `ENOENT`.
#[allow(clippy::disallowed_methods, reason = "the daemon's own socket")]
pub fn remove_socket(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Gives a file of ours its permission bits.
///
/// # Errors
/// Whatever chmod says.
pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// Device and inode number of what a path leads to; a symlink is itself.
#[must_use]
pub fn identity(path: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::lstat(path).ok()?;
    Some((stat.st_dev, stat.st_ino))
}
