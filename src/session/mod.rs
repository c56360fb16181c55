// SPDX-License-Identifier: MIT
//! FLOOR 5: the life of one mount: assemble, serve, drain, unmount.
//!
//! The only place where the house is built. One thread decides (`serve`): signals, the control
//! socket and the end of the FUSE session all arrive as events on one channel, so that no two of
//! them ever unmount at the same time.

mod assemble;
pub mod background;
mod check;
pub mod config;
pub mod confine;
pub mod control;
mod events;
mod first_look;
mod fusermount;
mod keeper;
mod limits;
pub mod log;
pub mod mountpoint;
pub mod notify;
pub mod pair;
mod place;
pub mod refusal;
mod serve;
pub mod signals;
mod transport;
mod verify;

use assemble::{House, assemble};
use background::Ready;
use config::MountConfig;
pub use control::Controlled;
pub use refusal::Refusal;
use serve::{Session, serve};
use signals::Signals;

/// The exit code of a second signal: mount(8)'s "interrupted".
pub(crate) const EXIT_INTERRUPTED: i32 = 8;

/// A whole mount, in this process: returns when it is unmounted and both copies are stamped.
///
/// # Errors
/// Why it could not be mounted, or did not end well.
pub fn run(config: &MountConfig, signals: &Signals, ready: Ready) -> Result<(), Refusal> {
    log::start(config)?;
    // On a terminal the command itself has said them.
    if matches!(config.log, config::Log::Syslog | config::Log::File(_)) {
        for note in &config.notes {
            tracing::info!("{note}");
        }
    }
    limits::raise();
    let House {
        fs,
        keeper,
        transport,
    } = assemble(config, signals)?;
    let session = Session {
        fs,
        transport,
        threads: workers(),
    };
    serve(config, signals, session, keeper, || ready.announce())
}

/// Threads that answer the kernel. A request may wait for a disk, so there are more than
/// processors; beyond three their number makes no difference, and beyond four they begin to follow
/// one another from processor to processor (docs/decisions/0009). One of them stays free of changes,
/// whatever the others wait for (`mirror::crew`).
fn workers() -> usize {
    std::thread::available_parallelism().map_or(4, |n| (2 * n.get()).clamp(4, 16))
}
