// SPDX-License-Identifier: MIT
//! What a file system daemon asks of the kernel for itself: descriptors, locked memory, not to be
//! killed first, not to be made to wait for its own writes.

use rustix::process::Resource;

use crate::sys::process;

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
