// SPDX-License-Identifier: MIT
//! Two copies that are not mounted: opened for `sync PRIMARY REPLICA` and `promote`, or refused.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::check;
use super::mountpoint::{find, is_dead};
use super::place::Spot;
use super::refusal::{Refusal, errno_text};
use crate::mirror::failure::Shown;
use crate::sys::{Errno, mountinfo};

/// The root of a copy.
///
/// # Errors
/// It is not there, or not to be opened; or it is a mirror's mount, and not one of its copies.
pub fn root(typed: &Path) -> Result<OwnedFd, Refusal> {
    let shown = typed.shown();
    let found = find(typed).map_err(|e| Refusal::from_io("cannot read mountinfo", &e))?;
    if let Some(mount) = found.filter(mountinfo::Mount::is_mirror) {
        let place = mount.target.quoted();
        let no = if is_dead(&mount) == Some(true) {
            Refusal::refused(format!("{shown} is a dead mirrorfs mount, not a copy."))
        } else {
            Refusal::refused(format!("{shown} is a mirrorfs mount, not a copy."))
        };
        return Err(no
            .next(format!("Unmount it first: mirrorfs umount {place}"))
            .id("MF-0043"));
    }
    open(typed).map_err(|errno| {
        let why = errno_text(&errno.into());
        Refusal::system(format!("{shown} cannot be opened: {why}."))
            .next("Is its disk mounted, is the path right?")
    })
}

/// A directory, to be read.
///
/// # Errors
/// Whatever open says; `EBUSY` when a mirror is mounted there.
pub fn look(path: &Path) -> Result<OwnedFd, Errno> {
    match find(path) {
        Ok(Some(mount)) if mount.is_mirror() && is_dead(&mount) != Some(true) => Err(Errno::BUSY),
        _ => open(path),
    }
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// The same directory in a private view of its tree, without what is mounted below it, where the
/// kernel lets us have one: that is for root. Else it stays as it is.
///
/// # Errors
/// `ENOMEM`, `EMFILE`.
pub fn view(root: OwnedFd) -> Result<OwnedFd, Errno> {
    use rustix::mount::OpenTreeFlags as Flags;
    let flags = Flags::OPEN_TREE_CLONE | Flags::OPEN_TREE_CLOEXEC | Flags::AT_EMPTY_PATH;
    let view = match rustix::mount::open_tree(&root, c"", flags) {
        Err(Errno::PERM) => return Ok(root),
        view => view?,
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(&view, c".", flags, Mode::empty())
}

/// Both roots, of which neither contains the other.
///
/// # Errors
/// As [`root`]; or they are one directory, or one is inside the other.
pub fn roots(primary: &Path, replica: &Path) -> Result<(OwnedFd, OwnedFd), Refusal> {
    let roots = (root(primary)?, root(replica)?);
    let mounts = mountinfo::read().map_err(|e| Refusal::from_io("cannot read mountinfo", &e))?;
    let spot = |typed: &Path| {
        let gone = |e: std::io::Error| Refusal::from_io(&typed.shown(), &e);
        let path = typed.canonicalize().map_err(gone)?;
        Spot::of(&path, &mounts).map_err(|errno| gone(errno.into()))
    };
    let (name, shown) = (replica.shown(), primary.shown());
    check::copies(
        &spot(replica)?,
        &spot(primary)?,
        &name.to_string(),
        &shown.to_string(),
    )?;
    Ok(roots)
}
