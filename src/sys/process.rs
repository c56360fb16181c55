// SPDX-License-Identifier: MIT
//! This process: its limits, its place in the kernel's eyes, and descriptors it was given.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Errno, Result};

/// Raises a soft limit to the hard one; answers the limit now in force (`None`: none).
///
/// # Errors
/// Whatever setrlimit says.
pub fn raise_limit(resource: Resource) -> Result<Option<u64>> {
    let now = getrlimit(resource);
    if now.current != now.maximum {
        let raised = Rlimit {
            current: now.maximum,
            maximum: now.maximum,
        };
        setrlimit(resource, raised)?;
    }
    Ok(now.maximum)
}

/// Lifts a limit altogether, hard limit included (needs `CAP_SYS_RESOURCE`), or as far as allowed.
///
/// # Errors
/// Whatever setrlimit says to raising the soft limit.
pub fn lift_limit(resource: Resource) -> Result<Option<u64>> {
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    match setrlimit(resource, unlimited) {
        Ok(()) => Ok(None),
        Err(_) => raise_limit(resource),
    }
}

/// Tells the kernel how gladly it may kill us when memory runs out (-1000 to 1000).
///
/// # Errors
/// `EACCES` when lowering it without `CAP_SYS_RESOURCE`.
pub fn set_oom_score_adj(value: i32) -> io::Result<()> {
    super::files::poke(Path::new("/proc/self/oom_score_adj"), &value.to_string())
}

/// Tells the kernel that memory it reclaims may need us to write: we must not wait for that.
///
/// # Errors
/// `EPERM` without `CAP_SYS_RESOURCE`.
pub fn set_io_flusher() -> Result<()> {
    rustix::process::configure_io_flusher_behavior(true)
}

/// Takes over a descriptor that the program which started us left open under `number`.
///
/// # Errors
/// `EBADF` when there is none, or it is one of the standard three.
pub fn inherited(number: i32) -> Result<OwnedFd> {
    if number <= 2 {
        return Err(Errno::BADF);
    }
    // SAFETY: F_GETFD reads a flag of the descriptor table and changes nothing.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: it is open, and by the contract of --ready-fd nobody else in this process owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// Keeps every descriptor but the standard three from programs we execute from now on, those that
/// others left open in us included: a daemon must not hold somebody's pipe open for days.
pub fn inherit_nothing() {
    // SAFETY: sets the close-on-exec flag of descriptors and closes none; three plain integers.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
}

/// Puts `/dev/null` over standard input, output and error.
///
/// # Errors
/// Whatever open or dup2 says.
pub fn silence_stdio() -> Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)
}

/// Hands memory that was freed back to the system, where the allocator would keep it for later.
pub fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number, gives back unused pages only, and may be called from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
