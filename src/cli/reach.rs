// SPDX-License-Identifier: MIT
//! From what was typed to a mirror's daemon: which mounts are meant, and why one does not answer.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use crate::mirror::failure::Shown;
use crate::mirror::report::Report;
use crate::session::control::{Asked, Client};
use crate::session::mountpoint::{find, is_dead};
use crate::session::refusal::Refusal;
use crate::sys::mountinfo::{self, Mount};

fn unreadable(e: io::Error) -> Refusal {
    Refusal::from_io("cannot read mountinfo", &e)
}

/// Every mirror that is mounted, the dead ones among them; none is an answer, too. Each is there once:
/// a bind of it, or its peer below a shared mount, is the same file system.
pub(super) fn any() -> Result<Vec<Mount>, Refusal> {
    let mut all = mountinfo::read().map_err(unreadable)?;
    let mut seen = HashSet::new();
    all.retain(|mount| mount.is_mirror() && seen.insert(mount.device()));
    Ok(all)
}

/// As `any`, and there must be some.
pub(super) fn all() -> Result<Vec<Mount>, Refusal> {
    let all = any()?;
    if all.is_empty() {
        return Err(Refusal::refused("no mirror is mounted."));
    }
    Ok(all)
}

/// The mirror mounted at `typed`.
pub(super) fn one(typed: &Path) -> Result<Mount, Refusal> {
    match find(typed).map_err(unreadable)? {
        Some(mount) if mount.is_mirror() => Ok(mount),
        Some(mount) => Err(Refusal::refused(format!(
            "{} is not a mirror but {}.",
            typed.shown(),
            mount.fstype
        ))),
        None => Err(Refusal::refused(format!(
            "{} is not a mirror: nothing is mounted there.",
            typed.shown()
        ))
        .next("See all mirrors: mirrorfs status")),
    }
}

/// The mirrors that were meant: the one at `typed`, or all.
pub(super) fn wanted(typed: Option<&Path>) -> Result<Vec<Mount>, Refusal> {
    match typed {
        Some(typed) => Ok(vec![one(typed)?]),
        None => all(),
    }
}

/// How a mirror is.
pub(super) fn report(mount: &Mount) -> Result<Report, Refusal> {
    ask(mount, |client| client.report().map(Ok)).map_err(Silence::into_refusal)
}

/// Why nothing came of a question.
#[derive(Debug)]
pub(super) enum Silence {
    /// The daemon said no.
    No(Refusal),
    /// It said nothing.
    Nobody(Refusal),
}

impl Silence {
    pub(super) fn into_refusal(self) -> Refusal {
        match self {
            Self::No(refusal) | Self::Nobody(refusal) => refusal,
        }
    }
}

/// Asks the daemon behind a mount.
pub(super) fn ask<T>(
    mount: &Mount,
    question: impl FnOnce(Client) -> Asked<T>,
) -> Result<T, Silence> {
    let Ok(client) = Client::connect(mount) else {
        return Err(Silence::Nobody(nobody(mount)));
    };
    match question(client) {
        Ok(answer) => answer.map_err(Silence::No),
        Err(e) => Err(Silence::Nobody(silent(mount, &e))),
    }
}

/// There was a connection, and no answer that makes sense.
pub(super) fn silent(mount: &Mount, error: &io::Error) -> Refusal {
    let place = mount.target.shown();
    if error.kind() == io::ErrorKind::InvalidData {
        return Refusal::refused(format!(
            "the daemon of {place} answers what this command does not understand."
        ))
        .next("A daemon keeps the version it was mounted with: unmount and mount again.")
        .id("MF-0035");
    }
    Refusal::refused(format!("the daemon of {place} does not answer."))
        .next("Is it stopped, or waiting for a disk? See the log.")
        .id("MF-0047")
}

/// There is no connection.
pub(super) fn nobody(mount: &Mount) -> Refusal {
    let place = mount.target.shown();
    match is_dead(mount) {
        Some(true) => Refusal::refused(format!(
            "the daemon of {place} is gone: the mount is dead, and the copies must be compared."
        ))
        .next(format!(
            "Unmount it, then mount again: mirrorfs umount {}",
            mount.target.quoted()
        ))
        .id("MF-0047"),
        Some(false) => unreachable(mount),
        None => Refusal::refused(format!("the daemon of {place} does not answer.")).id("MF-0047"),
    }
}

/// It lives, but there is no talking to it.
pub(super) fn unreachable(mount: &Mount) -> Refusal {
    let place = mount.target.shown();
    let me = rustix::process::geteuid();
    if me.is_root() || mount.user_id() == Some(me.as_raw()) {
        return Refusal::refused(format!("the daemon of {place} has no control socket."))
            .next(format!(
                "To unmount it all the same: umount {}",
                mount.target.quoted()
            ))
            .id("MF-0047");
    }
    Refusal::usage(format!("the daemon of {place} cannot be reached by you."))
        .next("Try again as root, or as the user who mounted it.")
}
