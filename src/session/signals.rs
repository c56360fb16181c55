// SPDX-License-Identifier: MIT
//! SIGTERM and SIGINT: stop gently; a second one: stop now. SIGUSR1: status to the log.
//!
//! They are blocked everywhere and taken by one thread, which calls back: no handler of ours ever
//! runs in signal context.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::refusal::Refusal;
use crate::sys::signals::{Signal, block, ignore, wait};

const OURS: [Signal; 3] = [Signal::TERM, Signal::INT, Signal::USR1];

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Drain, unmount, exit 0.
    Stop,
    /// Exit at once; the next mount will compare.
    StopNow,
    /// Status to the log.
    Report,
}

type Listener = Box<dyn Fn(Wish) + Send>;

struct Shared {
    stopping: Arc<AtomicBool>,
    listener: Mutex<Option<Listener>>,
}

/// The thread that waits for signals, and who listens to it.
#[derive(Clone)]
pub struct Signals {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Signals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signals")
            .field("stopping", &self.stopping())
            .finish_non_exhaustive()
    }
}

impl Signals {
    /// Blocks the signals and starts to wait for them. Called before any other thread exists.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn start() -> Result<Self, Refusal> {
        let failed = |e: std::io::Error| Refusal::system(format!("cannot wait for signals: {e}."));
        ignore(Signal::PIPE);
        ignore(Signal::HUP);
        block(&OURS).map_err(|e| failed(e.into()))?;
        let shared = Arc::new(Shared {
            stopping: Arc::default(),
            listener: Mutex::new(None),
        });
        let signals = Self {
            shared: Arc::clone(&shared),
        };
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || run(&shared))
            .map_err(failed)?;
        Ok(signals)
    }

    /// Whether somebody asked us to stop. Seeding looks at this between files.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Acquire)
    }

    /// What [`Self::stopping`] looks at, for work below this floor.
    #[must_use]
    pub fn stop_switch(&self) -> Arc<AtomicBool> {
        self.shared.stopping.clone()
    }

    /// From now on `listener` hears of each signal; a stop that came earlier is told at once.
    pub(super) fn listen(&self, listener: Listener) {
        let mut slot = self.shared.listener.lock();
        if self.stopping() {
            listener(Wish::Stop);
        }
        *slot = Some(listener);
    }
}

fn run(shared: &Shared) {
    while let Ok(signal) = wait(&OURS) {
        let wish = match signal {
            Signal::USR1 => Wish::Report,
            _ if shared.stopping.swap(true, Ordering::AcqRel) => Wish::StopNow,
            _ => Wish::Stop,
        };
        match &*shared.listener.lock() {
            Some(listener) => listener(wish),
            // Nothing is mounted yet: a stop is noticed between files, a second one ends us here.
            None if wish == Wish::StopNow => std::process::exit(super::EXIT_INTERRUPTED),
            None => {}
        }
    }
}
