// SPDX-License-Identifier: MIT
//! What a file system daemon asks of the kernel for itself: descriptors, locked memory, not to be
//! killed first, not to be made to wait for its own writes.

use std::path::PathBuf;

use rustix::process::Resource;

use crate::sys::{files, process};

/// Lower than any ordinary program: killing us hurts everyone who uses the mount.
const OOM_SCORE_ADJ: i32 = -900;

/// How far the kernel reads ahead in the mount, in KiB; it begins with 128. Fewer and larger
/// requests make reading from the start to the end faster; a page fault in a mapped file reads
/// as much around it, which speaks against more.
const READ_AHEAD_KIB: u32 = 256;

/// Lets the kernel read further ahead on the mounted file system `device` (major, minor).
pub(super) fn read_ahead(device: (u32, u32)) {
    let (major, minor) = device;
    let knob = PathBuf::from(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"));
    if let Err(e) = files::poke(&knob, &READ_AHEAD_KIB.to_string()) {
        tracing::debug!("the kernel reads ahead as far as it does by itself: {e}");
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
