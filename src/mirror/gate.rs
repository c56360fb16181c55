// SPDX-License-Identifier: MIT
//! `Gate`: lets changes in until it is shut, and knows when the last one is out.
//!
//! Who goes in gets a [`Pass`]. It can be handed to another thread, because the one that went in may
//! hang on a replica for ever, while its change is ended by somebody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex};

/// The door in the door.
#[derive(Debug, Default)]
pub struct Gate {
    inside: AtomicUsize,
    shut: AtomicBool,
    waiting: Mutex<()>,
    left: Condvar,
}

/// One change that is under way.
#[derive(Debug)]
pub struct Pass(Arc<Gate>);

impl Gate {
    /// Goes in; `None` once it is shut.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Option<Pass> {
        self.inside.fetch_add(1, Ordering::SeqCst);
        let pass = Pass(self.clone());
        // Counted first: who shuts the gate either sees us or is seen.
        (!self.shut.load(Ordering::SeqCst)).then_some(pass)
    }

    /// Lets nothing in any more, and waits until nothing is inside.
    pub fn shut(&self) {
        self.shut.store(true, Ordering::SeqCst);
        let mut waiting = self.waiting.lock();
        while self.inside.load(Ordering::SeqCst) > 0 {
            self.left.wait(&mut waiting);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let last = self.0.inside.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.0.shut.load(Ordering::SeqCst) {
            drop(self.0.waiting.lock());
            self.0.left.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shutting_waits_for_those_inside_wherever_their_pass_went() {
        let gate = Arc::new(Gate::default());
        let pass = gate.enter().expect("open");
        let shutting = std::thread::spawn({
            let gate = gate.clone();
            move || gate.shut()
        });
        while gate.enter().is_some() {
            std::thread::yield_now();
        }
        assert!(!shutting.is_finished());
        std::thread::spawn(move || drop(pass)).join().expect("join");
        shutting.join().expect("join");
        assert!(gate.enter().is_none());
    }
}
