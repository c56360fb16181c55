// SPDX-License-Identifier: MIT
//! What we keep of what root may do: docs/decisions/0021.
//!
//! Of daemons only root's has anything to give up: an ordinary user's has no capabilities, and must
//! be able to start fusermount3, which is set-user-ID, when it unmounts.

use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::thread::CapabilitySet;

use super::refusal::Refusal;
use crate::mirror::failure::Named;
use crate::sys::{confine, creds, mountinfo};

/// What it takes to give every object of both copies what its user asked for.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    // The kernel has checked the user's permissions; the copies belong to whomever.
    .union(CapabilitySet::DAC_OVERRIDE)
    // Also: objects are found again by handle (`open_by_handle_at`).
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    // `security.capability`.
    .union(CapabilitySet::SETFCAP)
    // New objects are their makers'.
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    // chattr +i, +a.
    .union(CapabilitySet::LINUX_IMMUTABLE)
    // `trusted.*`, and to unmount.
    .union(CapabilitySet::SYS_ADMIN)
    // Root's reserve and quotas, for requests of root.
    .union(CapabilitySet::SYS_RESOURCE)
    // Buffers registered with io_uring are locked memory.
    .union(CapabilitySet::IPC_LOCK);

/// Gives up capabilities, and being given any: before any other thread exists, which inherit it.
///
/// # Errors
/// Without `CAP_SETPCAP`: nothing could be done in the name of a user either.
pub fn give_up() -> Result<(), Refusal> {
    if !creds::privileged() {
        return Ok(());
    }
    let no = |errno| {
        Refusal::system(format!("capabilities cannot be set: {}.", Named(errno)))
            .next("root needs CAP_SETPCAP to act for the users of the mount.")
    };
    creds::keep_capabilities().map_err(no)?;
    let mut kept = KEPT;
    if hides_processes() {
        kept |= CapabilitySet::SYS_PTRACE;
    }
    confine::keep_only(kept).map_err(no)?;
    confine::gain_nothing().map_err(no)
}

/// Gives up the system calls of no use, on all threads: once the mount is attached.
pub(super) fn forbid_calls() {
    if let Err(why) = confine::forbid_calls() {
        tracing::warn!("nothing keeps this process from calls it does not need: {why}");
    }
}

/// What a command that works on two trees which are not mounted may still do and reach. Before
/// it starts a thread that looks into them.
pub fn stay_in(trees: [BorrowedFd<'_>; 2]) {
    // Mounts, processors, the time of day here.
    let read = ["/proc", "/sys", "/etc/localtime", "/usr/share/zoneinfo"].map(Path::new);
    let done = confine::gain_nothing()
        .map_err(|errno| Named(errno).to_string())
        .and_then(|()| confine::stay_below(&trees, &read))
        .and_then(|()| confine::forbid_calls());
    if let Err(why) = done {
        tracing::debug!("this command could reach more than the two trees: {why}");
    }
}

/// Whether `/proc` shows users their own processes only (`hidepid`): the groups of the users of
/// the mount are read there, and root sees them by this capability alone.
fn hides_processes() -> bool {
    let Ok(mounts) = mountinfo::read() else {
        return false;
    };
    mountinfo::at(&mounts, Path::new("/proc")).is_some_and(|proc| {
        let mut words = proc.super_options.split(',');
        words.any(|word| {
            word.strip_prefix("hidepid=")
                .is_some_and(|how| !matches!(how, "0" | "off"))
        })
    })
}
