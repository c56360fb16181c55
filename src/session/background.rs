// SPDX-License-Identifier: MIT
//! Going to the background without fork: run ourselves again, wait for one byte.
//!
//! The child is the daemon. It keeps the terminal's error output while it seeds, so that its
//! messages and its progress line are the user's; when the mount is true it writes a byte to the
//! pipe, leaves the terminal's session and lets go of the standard descriptors.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::FdFlags;
use rustix::process::{Signal, set_parent_process_death_signal};

use super::refusal::{Kind, Refusal};
use crate::sys::process;

/// How the child fared.
#[derive(Debug)]
pub enum Child {
    /// It is mounted and serves.
    Ready(u32),
    /// It ended instead, and has said why; this is its exit code.
    Ended(u8),
}

/// Runs this very program again with `verb --foreground --ready-fd N arguments`, and waits until it
/// is mounted or has ended. However long that takes: seeding may take hours, and ends with its child.
///
/// # Errors
/// When it could not be started.
pub fn spawn(verb: &str, arguments: &[OsString]) -> Result<Child, Refusal> {
    let failed = |e: io::Error| Refusal::system(format!("cannot start the daemon: {e}."));
    let (mut ready, child_end) = io::pipe().map_err(failed)?;
    process::inherit_nothing();
    // Inherited on purpose; this process has one thread and starts nothing else.
    rustix::io::fcntl_setfd(&child_end, FdFlags::empty()).map_err(|e| failed(e.into()))?;
    let name = std::env::current_exe().map_err(failed)?;
    let mut child = Command::new("/proc/self/exe")
        .arg0(&name)
        .args([verb, "--foreground", "--ready-fd"])
        .arg(child_end.as_raw_fd().to_string())
        .args(arguments)
        .spawn()
        .map_err(failed)?;
    drop(child_end);
    let mut byte = [0_u8; 1];
    if ready.read(&mut byte).map_err(failed)? == 1 {
        return Ok(Child::Ready(child.id()));
    }
    let status = child.wait().map_err(failed)?;
    match status.code().map(u8::try_from) {
        Some(Ok(0)) => Ok(Child::Ended(0)),
        Some(Ok(code)) => Ok(Child::Ended(code)),
        _ => {
            let kind = match std::os::unix::process::ExitStatusExt::signal(&status) {
                Some(libc_signal) if libc_signal == Signal::ABORT.as_raw() => Kind::Bug,
                Some(_) => Kind::Interrupted,
                None => Kind::Bug,
            };
            Err(Refusal::new(
                kind,
                format!("the daemon ended before it was mounted: {status}."),
            ))
        }
    }
}

/// The child's end of it.
#[derive(Debug, Default)]
pub struct Ready {
    pipe: Option<std::fs::File>,
}

impl Ready {
    /// Takes over `--ready-fd`. From now on the death of the parent stops us, until we are ready.
    ///
    /// # Errors
    /// When there is no such descriptor.
    pub fn take(number: Option<i32>) -> Result<Self, Refusal> {
        let Some(number) = number else {
            return Ok(Self::default());
        };
        let pipe = process::inherited(number).map_err(|_| {
            Refusal::usage(format!("--ready-fd {number}: there is no such descriptor."))
        })?;
        if let Err(e) = set_parent_process_death_signal(Some(Signal::TERM)) {
            tracing::debug!("the parent's death will not be noticed: {e}");
        }
        // The kernel takes the name from the path that was executed: "exe".
        _ = rustix::thread::set_name(c"mirrorfs");
        Ok(Self {
            pipe: Some(pipe.into()),
        })
    }

    /// Mounted and true: lets the parent go, and the terminal with it.
    pub fn announce(self) {
        let Some(mut pipe) = self.pipe else {
            return;
        };
        let quiet = set_parent_process_death_signal(None)
            .and_then(|()| rustix::process::setsid())
            .and_then(|_| process::silence_stdio());
        if let Err(e) = quiet {
            tracing::info!("the terminal was not let go entirely: {e}");
        }
        if let Err(e) = pipe.write_all(b"1") {
            tracing::debug!("nobody waits for us any more: {e}");
        }
    }
}
