// SPDX-License-Identifier: MIT
//! What a file system daemon asks of the kernel for itself: descriptors, locked memory, not to be
//! killed first, not to be made to wait for its own writes.

use std::path::Path;

use rustix::process::{Resource, is_io_flusher};

use crate::sys::{files, process};

/// Lower than any ordinary program: killing us hurts everyone who uses the mount.
const OOM_SCORE_ADJ: i32 = -900;

/// How far the kernel reads ahead in the mount, in KiB; it begins with 128. Fewer and larger
/// requests make reading from the start to the end faster; a page fault in a mapped file reads
/// as much around it, which speaks against more.
const READ_AHEAD_KIB: u32 = 256;

/// Lets the kernel read further ahead on the mounted file system `device` (major, minor).
pub(super) fn read_ahead(device: (u32, u32)) {
    adjust(device, "read_ahead_kb", &READ_AHEAD_KIB.to_string());
}

/// Turns one knob of the mount's backing device; the mount works without it.
fn adjust((major, minor): (u32, u32), knob: &str, value: &str) {
    let path = format!("/sys/class/bdi/{major}:{minor}/{knob}");
    if let Err(e) = files::poke(Path::new(&path), value) {
        tracing::debug!("{knob} of the mount could not be set to {value}: {e}");
    }
}

/// Asks for everything and says in the log what was refused; nothing here is fatal.
pub(super) fn raise() {
    match process::raise_limit(Resource::Nofile) {
        Ok(Some(limit)) if limit < 4096 => {
            tracing::info!("only {limit} open files are allowed; large trees will be slower");
        }
        Ok(_) => {}
        Err(e) => tracing::info!("the limit on open files could not be raised: {e}"),
    }
    if let Err(e) = process::lift_limit(Resource::Memlock) {
        tracing::debug!("the limit on locked memory could not be raised: {e}");
    }
    if let Err(e) = process::set_oom_score_adj(OOM_SCORE_ADJ) {
        tracing::debug!("the OOM score could not be lowered: {e}");
    }
    if let Err(e) = process::set_io_flusher() {
        tracing::debug!("PR_SET_IO_FLUSHER was refused: {e}");
    }
}

/// Lets the kernel collect as many dirty pages for the mount as for a disk: it gives a FUSE file
/// system one in a hundred. Only if we need not wait for our own writes ourselves when memory runs out.
pub(super) fn collect_freely(device: (u32, u32)) {
    if !is_io_flusher().unwrap_or(false) {
        tracing::debug!("the kernel collects little: without PR_SET_IO_FLUSHER more could hang");
        return;
    }
    adjust(device, "strict_limit", "0");
    adjust(device, "max_ratio", "100");
}
