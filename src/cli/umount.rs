// SPDX-License-Identifier: MIT
//! `mirrorfs umount`: drain, unmount, wait for the daemon to be gone.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, pidfd_open};

use super::args::UmountArgs;
use super::complain;
use super::exit::Exit;
use super::reach::unreachable;
use crate::mirror::failure::Shown;
use crate::session::control::Client;
use crate::session::mountpoint::{find, is_dead, unmount_corpse};
use crate::session::refusal::{Kind, Refusal};
use crate::sys::files;
use crate::sys::mountinfo::Mount;

/// How often is looked whether a daemon that does not end hangs.
const LOOK: Duration = Duration::from_secs(1);
/// How long threads that do not hang may take to follow their process.
const ENDING: Duration = Duration::from_secs(2);

/// A lazy unmount of a mount that nobody uses ends the daemon at once, or nearly.
const LAZY_GRACE: Duration = Duration::from_millis(500);

pub(super) fn run(args: &UmountArgs) -> Exit {
    match unmount(args) {
        Ok(()) => Exit::Success,
        Err(no) => {
            complain(&format!("cannot unmount {}: {no}", args.mountpoint.shown()));
            Exit::mount(no.kind)
        }
    }
}

fn unmount(args: &UmountArgs) -> Result<(), Refusal> {
    let limit = Instant::now() + args.timeout;
    let mount = mirror_at(&args.mountpoint)?;
    let Ok(client) = Client::connect(&mount) else {
        return without_daemon(&mount);
    };
    let pid = client.pid();
    let pidfd = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    match client.unmount(args.lazy, left(limit).max(Duration::from_millis(1))) {
        Ok(Ok(())) => {}
        Ok(Err(no)) => return Err(explained(no, &mount)),
        Err(e) if late(&e) => return Err(too_late(&mount)),
        // It may have ended between its unmount and its answer.
        Err(_) if !still_mounted(&mount) => {}
        Err(e) => return Err(Refusal::from_io("the daemon did not answer", &e)),
    }
    let Some(pidfd) = pidfd else { return Ok(()) };
    if args.lazy {
        if !gone(&pidfd, LAZY_GRACE) {
            let pid = pid.map_or(0, |p| p.as_raw_nonzero().get());
            complain(&format!(
                "{} is hidden; the mirror (pid {pid}) ends when the last file in it is closed",
                mount.target.shown()
            ));
        }
        return Ok(());
    }
    while !gone(&pidfd, left(limit).min(LOOK)) {
        let pid = pid.map_or(0, |p| p.as_raw_nonzero().get());
        if has_left_threads(pid) && !gone(&pidfd, ENDING) {
            complain(&format!(
                "{} is unmounted, but the replica has not answered everything; until it does, \
                 process {pid} keeps the locks on both copies",
                mount.target.shown()
            ));
            return Ok(());
        }
        if left(limit).is_zero() {
            return Err(too_late(&mount));
        }
    }
    Ok(())
}

/// Whether a process has ended but for threads that hang in the kernel.
fn has_left_threads(pid: i32) -> bool {
    let stat = files::read(Path::new(&format!("/proc/{pid}/stat"))).unwrap_or_default();
    let state = stat.rsplit(|&byte| byte == b')').next();
    state.is_some_and(|rest| rest.starts_with(b" Z"))
}

fn left(limit: Instant) -> Duration {
    limit.saturating_duration_since(Instant::now())
}

fn late(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

fn still_mounted(mount: &Mount) -> bool {
    let mounts = crate::sys::mountinfo::read().unwrap_or_default();
    mounts.iter().any(|m| m.device() == mount.device())
}

/// The mirror mounted at `typed`.
fn mirror_at(typed: &Path) -> Result<Mount, Refusal> {
    match find(typed) {
        Ok(Some(mount)) if mount.is_mirror() => Ok(mount),
        Ok(Some(mount)) => Err(Refusal::refused(format!(
            "it is not a mirrorfs mount but {}.",
            mount.fstype
        ))
        .next("Use umount(8).")),
        Ok(None) => {
            Err(Refusal::refused("nothing is mounted there.").next("See what is: mirrorfs status"))
        }
        Err(e) => Err(Refusal::from_io("cannot read mountinfo", &e)),
    }
}

fn without_daemon(mount: &Mount) -> Result<(), Refusal> {
    let place = mount.target.shown();
    match is_dead(mount) {
        Some(true) => {
            unmount_corpse(&mount.target)?;
            complain(&format!(
                "{place} is unmounted, but its daemon had ended before: the copies must be \
                 compared at the next mount  [MF-0047]"
            ));
            Ok(())
        }
        Some(false) => Err(unreachable(mount)),
        None => Err(Refusal::refused("its daemon does not answer.")
            .next(format!(
                "If it hangs for good, end it, and: umount -l {}",
                mount.target.quoted()
            ))
            .id("MF-0047")),
    }
}

fn explained(no: Refusal, mount: &Mount) -> Refusal {
    let place = mount.target.quoted();
    if no.kind != Kind::Refused || !no.why.contains("busy") {
        return no;
    }
    no.next(format!(
        "Who uses it:            fuser -vm {place}    (or: lsof {place})"
    ))
    .next(format!(
        "To hide it at once:     mirrorfs umount --lazy {place}"
    ))
    .id("MF-0046")
}

fn too_late(mount: &Mount) -> Refusal {
    Refusal::refused("it was not done in time. The daemon goes on draining and ends by itself.")
        .next(format!(
            "How far it is:          mirrorfs status {}",
            mount.target.quoted()
        ))
        .next("To wait longer:         --timeout 1h")
        .id("MF-0048")
}

/// Waits until the process behind `pidfd` has ended.
fn gone(pidfd: &std::os::fd::OwnedFd, limit: Duration) -> bool {
    let until = Instant::now() + limit;
    loop {
        let Ok(timeout) = Timespec::try_from(left(until)) else {
            return false;
        };
        let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            done => return done.is_ok_and(|n| n > 0),
        }
    }
}
