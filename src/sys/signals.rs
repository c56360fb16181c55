// SPDX-License-Identifier: MIT
//! Signals, taken by waiting for them on a thread rather than by handlers.

use super::{Errno, Result};

pub use rustix::process::Signal;

/// `struct sigset_t` with exactly these signals in it.
fn set_of(signals: &[Signal]) -> libc::sigset_t {
    // SAFETY: a sigset_t is plain integers; all zeroes is a value of it.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer leads to a live set.
    unsafe { libc::sigemptyset(&raw mut set) };
    for signal in signals {
        // SAFETY: the pointer leads to a live, initialised set.
        unsafe { libc::sigaddset(&raw mut set, signal.as_raw()) };
    }
    set
}

/// Blocks `signals` in the calling thread and in those it starts from now on.
///
/// # Errors
/// Never, with signals that exist.
pub fn block(signals: &[Signal]) -> Result<()> {
    let set = set_of(signals);
    // SAFETY: the set is live and initialised; the old mask is not asked for.
    let code =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    if code == 0 {
        Ok(())
    } else {
        Err(Errno::from_raw_os_error(code))
    }
}

/// Waits until one of `signals`, all blocked, arrives, and says which.
///
/// # Errors
/// Never, with signals that exist.
pub fn wait(signals: &[Signal]) -> Result<Signal> {
    let set = set_of(signals);
    let mut number = 0;
    // SAFETY: both pointers lead to live values for the duration of the call.
    let code = unsafe { libc::sigwait(&raw const set, &raw mut number) };
    if code != 0 {
        return Err(Errno::from_raw_os_error(code));
    }
    let arrived = signals.iter().find(|s| s.as_raw() == number);
    arrived.copied().ok_or(Errno::INVAL)
}

/// Ignores a signal, in this process and what it executes.
pub fn ignore(signal: Signal) {
    // SAFETY: SIG_IGN is no function of ours; nothing runs in signal context.
    unsafe { libc::signal(signal.as_raw(), libc::SIG_IGN) };
}
