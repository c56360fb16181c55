// SPDX-License-Identifier: MIT
//! What a file system daemon asks of the kernel for itself: descriptors, locked memory, not to be
//! killed first, not to be made to wait for its own writes.

use std::path::Path;

use rustix::process::{Resource, is_io_flusher};

use crate::sys::{files, process};

/// Lower than any ordinary program: killing us hurts everyone who uses the mount.
const OOM_SCORE_ADJ: i32 = -900;

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
pub(super) fn collect_freely((major, minor): (u32, u32)) {
    if !is_io_flusher().unwrap_or(false) {
        tracing::debug!("the kernel collects little: without PR_SET_IO_FLUSHER more could hang");
        return;
    }
    let bdi = Path::new("/sys/class/bdi").join(format!("{major}:{minor}"));
    for (knob, value) in [("strict_limit", "0"), ("max_ratio", "100")] {
        if let Err(e) = files::poke(&bdi.join(knob), value) {
            tracing::debug!("{knob} of the mount could not be set to {value}: {e}");
        }
    }
}
