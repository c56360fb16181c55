// SPDX-License-Identifier: MIT
//! The credentials of a worker thread: whose new objects are, and whether set-id bits survive.
//!
//! The kernel has already checked the caller's permissions (`default_permissions`). What is left
//! for each copy's own file system is to give new objects the right owner, group and mode, and to
//! clear set-user-ID bits as it would natively. So a worker takes on the caller's fsuid, fsgid and
//! umask, keeps its capabilities (`SECBIT_NO_SETUID_FIXUP`), and drops `CAP_FSETID` where the
//! caller would not have had it, and `CAP_SYS_RESOURCE`, which would let any user past quotas and
//! into root's reserve. All of it is per thread; a change costs a system call only when
//! the next request needs other credentials than the last one.

use std::cell::Cell;

use rustix::fs::Mode;
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet};

use super::Result;

/// Who asked, as far as a file system cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// fsuid of the calling process.
    pub uid: u32,
    /// fsgid of the calling process.
    pub gid: u32,
    /// Its thread id, to look up supplementary groups; 0 when it is out of our pid namespace.
    pub pid: u32,
}

impl Caller {
    /// Us ourselves: work that no application asked for (times, resync).
    pub const DAEMON: Self = Self {
        uid: 0,
        gid: 0,
        pid: 0,
    };
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Worn {
    uid: u32,
    gid: u32,
    umask: u32,
    caps: Caps,
    /// What [`privileged`] said when the thread began: no request asks again.
    privileged: bool,
}

/// The capabilities that come and go.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Caps {
    /// Set-id bits survive.
    fsetid: bool,
    /// Quota and root's reserve do not count: only for root.
    resource: bool,
}

impl Caps {
    fn take_on(self) -> Result<()> {
        let mut sets = rustix::thread::capabilities(None)?;
        for (capability, wanted) in [
            (CapabilitySet::FSETID, self.fsetid),
            (CapabilitySet::SYS_RESOURCE, self.resource),
        ] {
            let have = sets.permitted.contains(capability);
            sets.effective.set(capability, wanted && have);
        }
        rustix::thread::set_capabilities(None, sets)
    }
}

thread_local! {
    static WORN: Cell<Option<Worn>> = const { Cell::new(None) };
}

impl Needs {
    /// For what no application asked for.
    pub const DAEMON: Self = Self {
        caller: Caller::DAEMON,
        umask: Some(0),
        fsetid: true,
    };
}

/// What an operation needs of the thread that carries it out.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Owner and group of new objects.
    pub caller: Caller,
    /// The caller's umask, for calls that create; `None` for the rest, which leave the thread's as
    /// it is.
    pub umask: Option<u32>,
    /// Keep `CAP_FSETID`: false when the file system is to clear set-id bits as for a plain user.
    pub fsetid: bool,
}

/// Whether this process may act for others at all (false for an ordinary user's mount).
#[must_use]
pub fn privileged() -> bool {
    rustix::process::geteuid().is_root()
}

/// Makes the daemon's threads keep their capabilities when they change fsuid.
///
/// Called once, before any other thread exists; later threads inherit it.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`.
pub fn keep_capabilities() -> Result<()> {
    let bits = rustix::thread::capabilities_secure_bits()?;
    rustix::thread::set_capabilities_secure_bits(bits | CapabilitiesSecureBits::NO_SETUID_FIXUP)
}

/// Gives the calling thread the credentials an operation needs.
///
/// For an unprivileged daemon only the umask changes.
///
/// # Errors
/// Whatever `unshare`, `setfsuid` or `capset` answer; the operation must then not be started.
pub fn wear(needs: Needs) -> Result<()> {
    let now = match WORN.get() {
        Some(worn) => worn,
        None => {
            let worn = first_time()?;
            WORN.set(Some(worn));
            worn
        }
    };
    let mut want = Worn {
        uid: needs.caller.uid,
        gid: needs.caller.gid,
        umask: needs.umask.map_or(now.umask, |umask| umask & 0o777),
        caps: Caps {
            fsetid: needs.fsetid,
            resource: needs.caller.uid == 0,
        },
        ..now
    };
    if !now.privileged {
        want = Worn {
            umask: want.umask,
            ..now
        };
    }
    if now == want {
        return Ok(());
    }
    // In doubt until all of it is done: an error in the middle starts from scratch next time.
    WORN.set(None);
    if now.umask != want.umask {
        rustix::process::umask(Mode::from(want.umask));
    }
    if now.gid != want.gid {
        set_fsid(libc::SYS_setfsgid, want.gid)?;
    }
    if now.uid != want.uid {
        set_fsid(libc::SYS_setfsuid, want.uid)?;
    }
    if now.caps != want.caps {
        want.caps.take_on()?;
    }
    WORN.set(Some(want));
    Ok(())
}

/// Cuts the thread's umask loose from its siblings' and puts everything into a known state.
fn first_time() -> Result<Worn> {
    // SAFETY: CLONE_FS separates umask, root and working directory only; this crate resolves
    // nothing against the working directory once the mount is up.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }?;
    rustix::process::umask(Mode::empty());
    let worn = Worn {
        uid: 0,
        gid: 0,
        umask: 0,
        caps: Caps {
            fsetid: true,
            resource: true,
        },
        privileged: privileged(),
    };
    if !worn.privileged {
        return Ok(worn);
    }
    set_fsid(libc::SYS_setfsgid, 0)?;
    set_fsid(libc::SYS_setfsuid, 0)?;
    worn.caps.take_on()?;
    Ok(worn)
}

/// `setfsuid`/`setfsgid`, which report failure only through the id they leave in place.
fn set_fsid(call: libc::c_long, id: u32) -> Result<()> {
    // SAFETY: takes one integer and touches nothing but the calling thread's credentials.
    unsafe { libc::syscall(call, id) };
    // SAFETY: as above; -1 is no valid id, so this only reads the present one.
    let present = unsafe { libc::syscall(call, u32::MAX) };
    if present == libc::c_long::from(id) {
        Ok(())
    } else {
        Err(super::Errno::PERM)
    }
}

/// Whether the caller is in group `gid`: by its fsgid, else by the supplementary groups that
/// `/proc` shows. A process that is gone, or out of sight, is in none.
#[must_use]
pub fn in_group(caller: Caller, gid: u32) -> bool {
    if caller.gid == gid {
        return true;
    }
    let path = format!("/proc/{}/status", caller.pid);
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let Ok(fd) = rustix::fs::open(path, flags, Mode::empty()) else {
        return false;
    };
    let mut text = String::new();
    if std::io::Read::read_to_string(&mut std::fs::File::from(fd), &mut text).is_err() {
        return false;
    }
    text.lines()
        .find_map(|line| line.strip_prefix("Groups:"))
        .is_some_and(|groups| groups.split_whitespace().any(|g| g.parse() == Ok(gid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread that is what is needed from the beginning costs its calls once, not for each request.
    #[test]
    fn what_a_thread_wears_is_known_from_the_first_time_on() {
        let thread = std::thread::spawn(|| {
            assert!(WORN.get().is_none());
            wear(Needs::DAEMON).expect("worn");
            assert!(WORN.get().is_some());
        });
        thread.join().expect("no panic");
    }
}
