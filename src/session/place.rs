// SPDX-License-Identifier: MIT
//! Where a directory really is, and whether one lies inside another.
//!
//! Two proofs, either suffices: the device and inode of every ancestor (symlinks are resolved by
//! opening), and the path inside its file system as mountinfo tells it (a bind mount of a
//! subdirectory has other ancestors, but the same root).

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fstat, open, openat};

use crate::sys::Errno;
use crate::sys::mountinfo::{self, Mount};

/// Deeper than any path a kernel resolves.
const ANCESTORS_MAX: usize = 4096;

/// How one directory lies to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    /// They are one directory.
    Same,
    /// The first is below the second.
    Inside,
    /// Neither of these.
    Apart,
}

/// An existing directory, known by what it is rather than by its name.
#[derive(Debug)]
pub(super) struct Spot {
    /// Itself first, then its ancestors up to the root.
    chain: Vec<(u64, u64)>,
    /// Its file system, and its path in it.
    inner: Option<(u32, u32, PathBuf)>,
    /// The mount it is seen through.
    pub(super) mount: Option<Mount>,
}

impl Spot {
    /// Looks at the directory `path`, which must be canonical.
    ///
    /// # Errors
    /// Whatever open says: `ENOENT`, `ENOTDIR`, `EACCES`, ...
    pub(super) fn of(path: &Path, mounts: &[Mount]) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = open(path, flags, Mode::empty())?;
        let id = mountinfo::id_of(fd.as_fd())?;
        let mount = mountinfo::by_id(mounts, id).cloned();
        let inner = mount.as_ref().and_then(|m| {
            let below = path.strip_prefix(&m.target).ok()?;
            Some((m.major, m.minor, m.root.join(below)))
        });
        Ok(Self {
            chain: chain(fd)?,
            inner,
            mount,
        })
    }

    /// How this directory lies to `outer`.
    pub(super) fn to(&self, outer: &Self) -> Relation {
        if self.chain.first() == outer.chain.first() {
            return Relation::Same;
        }
        if let (Some(a), Some(b)) = (&self.inner, &outer.inner) {
            if (a.0, a.1) == (b.0, b.1) && a.2.components().eq(b.2.components()) {
                return Relation::Same;
            }
            if (a.0, a.1) == (b.0, b.1) && a.2.starts_with(&b.2) {
                return Relation::Inside;
            }
        }
        match outer.chain.first() {
            Some(top) if self.chain.contains(top) => Relation::Inside,
            _ => Relation::Apart,
        }
    }
}

/// Device and inode of a directory and all its ancestors.
fn chain(mut fd: OwnedFd) -> Result<Vec<(u64, u64)>, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let stat = fstat(&fd)?;
    let mut chain = vec![(stat.st_dev, stat.st_ino)];
    while chain.len() < ANCESTORS_MAX {
        // An ancestor that we may not search was not resolved through either: the proof ends here.
        let Ok(parent) = openat(&fd, c"..", flags, Mode::empty()) else {
            break;
        };
        let stat = fstat(&parent)?;
        if chain.last() == Some(&(stat.st_dev, stat.st_ino)) {
            break;
        }
        chain.push((stat.st_dev, stat.st_ino));
        fd = parent;
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::{Relation, Spot};

    #[test]
    fn inside_is_seen_through_symlinks() -> Result<(), Box<dyn std::error::Error>> {
        let top = tempfile::tempdir()?;
        let deep = top.path().join("a/b/c");
        std::fs::DirBuilder::new().recursive(true).create(&deep)?;
        std::os::unix::fs::symlink(&deep, top.path().join("link"))?;
        let mounts = crate::sys::mountinfo::read()?;
        let outer = Spot::of(&top.path().join("a").canonicalize()?, &mounts)?;
        let inner = Spot::of(&top.path().join("link").canonicalize()?, &mounts)?;
        assert_eq!(inner.to(&outer), Relation::Inside);
        assert_eq!(outer.to(&inner), Relation::Apart);
        assert_eq!(inner.to(&inner), Relation::Same);
        Ok(())
    }
}
