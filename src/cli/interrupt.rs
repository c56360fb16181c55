// SPDX-License-Identifier: MIT
//! Control-C while a verb waits: it ends its line, says what goes on without it, and exits 130.
//! A second one ends it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use super::exit::Exit;
use crate::session::refusal::Refusal;
use crate::sys::signals::{Signal, block, wait};

/// Has these signals dealt with by `act`, on a thread of its own, instead of what they do otherwise.
/// Called before any other thread exists.
///
/// # Errors
/// When no thread can be made.
pub(super) fn heed(
    signals: &'static [Signal],
    mut act: impl FnMut(Signal) + Send + 'static,
) -> Result<(), Refusal> {
    let failed = |e: std::io::Error| Refusal::system(format!("cannot wait for signals: {e}."));
    block(signals).map_err(|e| failed(e.into()))?;
    let run = move || {
        while let Ok(signal) = wait(signals) {
            act(signal);
        }
    };
    let thread = std::thread::Builder::new().name("interrupt".into());
    thread.spawn(run).map(drop).map_err(failed)
}

/// Whether Control-C was pressed.
#[derive(Debug)]
pub(super) struct Interrupt {
    pressed: Receiver<()>,
    switch: Arc<AtomicBool>,
}

impl Interrupt {
    /// Begins to wait for it. Called before any other thread exists.
    ///
    /// # Errors
    /// When no thread can be made.
    pub(super) fn start() -> Result<Self, Refusal> {
        let (press, pressed) = bounded(1);
        let switch = Arc::new(AtomicBool::new(false));
        let set = Arc::clone(&switch);
        heed(&[Signal::INT], move |_| {
            if set.swap(true, Ordering::AcqRel) {
                std::process::exit(Exit::Interrupted.code().into());
            }
            // It waits in the channel until somebody looks.
            _ = press.try_send(()).is_ok();
        })?;
        Ok(Self { pressed, switch })
    }

    /// Waits that long, or until Control-C: then it is true.
    pub(super) fn comes_within(&self, time: Duration) -> bool {
        // Without the thread nothing will ever come.
        !matches!(
            self.pressed.recv_timeout(time),
            Err(RecvTimeoutError::Timeout)
        )
    }

    /// Something arrives here when it is pressed.
    pub(super) fn pressed(&self) -> &Receiver<()> {
        &self.pressed
    }

    /// What becomes of it: for work that looks now and then.
    pub(super) fn switch(&self) -> &Arc<AtomicBool> {
        &self.switch
    }

    /// Whether it was pressed.
    pub(super) fn came(&self) -> bool {
        self.switch.load(Ordering::Acquire)
    }
}
