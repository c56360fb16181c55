// SPDX-License-Identifier: MIT
//! What io_uring can do here, found out by asking and by trying, never by the kernel's version;
//! and if it cannot, why, in words.

use std::path::Path;

use io_uring::{opcode, register};

use super::kernel::{Kernel, errno};
use crate::sys::{Errno, files};

/// Whether there is a ring to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// There is.
    Available {
        /// Writes from registered buffers.
        fixed: bool,
    },
    /// There is none: why, for people.
    Unavailable(String),
}

/// What a ring must be able to do, by name. Registered buffers are not needed.
const NEEDED: [(u8, &str); 4] = [
    (opcode::Nop::CODE, "NOP"),
    (opcode::Write::CODE, "WRITE"),
    (opcode::Fsync::CODE, "FSYNC"),
    (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
];

/// Asks this kernel, from this process, now.
#[must_use]
pub fn probe() -> Probe {
    let mut kernel = match Kernel::new(2) {
        Ok(kernel) => kernel,
        Err(errno) => return Probe::Unavailable(no_ring(errno, disabled().as_deref())),
    };
    let mut known = register::Probe::new();
    if let Err(error) = kernel.ring().submitter().register_probe(&mut known) {
        let why = refused("io_uring_register", errno(&error));
        return Probe::Unavailable(why);
    }
    let timed = kernel.ring().params().is_feature_ext_arg();
    let probe = judge(&|code| known.is_supported(code), timed);
    match (&probe, kernel.try_out()) {
        (Probe::Available { .. }, Err(errno)) => {
            Probe::Unavailable(refused("io_uring_enter", errno))
        }
        _ => probe,
    }
}

/// What follows from the operations the kernel knows.
fn judge(knows: &dyn Fn(u8) -> bool, timed: bool) -> Probe {
    let lacking: Vec<_> = NEEDED
        .iter()
        .filter(|(code, _)| !knows(*code))
        .map(|(_, name)| *name)
        .collect();
    if !lacking.is_empty() {
        let lacking = lacking.join(", ");
        return Probe::Unavailable(format!("this kernel's io_uring does not know {lacking}"));
    }
    if !timed {
        let why = "this kernel's io_uring cannot wait with a time limit (Linux 5.11)";
        return Probe::Unavailable(why.to_owned());
    }
    Probe::Available {
        fixed: knows(opcode::WriteFixed::CODE),
    }
}

/// The sysctl that forbids io_uring, where the kernel has one.
fn disabled() -> Option<String> {
    let value = files::read(Path::new("/proc/sys/kernel/io_uring_disabled")).ok()?;
    Some(String::from_utf8_lossy(&value).trim().to_owned())
}

/// Why no ring can be set up.
fn no_ring(errno: Errno, disabled: Option<&str>) -> String {
    match (errno, disabled) {
        (Errno::NOSYS, _) => "this kernel has no io_uring".to_owned(),
        (Errno::PERM, Some("2")) => {
            "io_uring is forbidden to everyone (sysctl kernel.io_uring_disabled=2)".to_owned()
        }
        (Errno::PERM, Some("1")) => "io_uring is forbidden to ordinary users (sysctl \
            kernel.io_uring_disabled=1; kernel.io_uring_group names who may)"
            .to_owned(),
        (Errno::NOMEM, _) => {
            "no memory for a ring, or the limit on locked memory is too low (RLIMIT_MEMLOCK)"
                .to_owned()
        }
        (errno, _) => refused("io_uring_setup", errno),
    }
}

/// A call that was refused.
fn refused(call: &str, errno: Errno) -> String {
    match errno {
        Errno::PERM | Errno::ACCESS | Errno::NOSYS => {
            format!(
                "{call} is forbidden, probably by a seccomp filter (containers have one): {errno}"
            )
        }
        errno => format!("{call} failed: {errno}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_operation_a_kernel_may_lack_is_named() {
        for (missing, name) in NEEDED {
            let Probe::Unavailable(why) = judge(&|code| code != missing, true) else {
                panic!("available without {name}");
            };
            assert!(why.ends_with(&format!("does not know {name}")), "{why}");
        }
        let none = judge(&|_| false, true);
        let Probe::Unavailable(why) = none else {
            panic!("available without anything");
        };
        assert!(why.ends_with("NOP, WRITE, FSYNC, ASYNC_CANCEL"), "{why}");
        let without = judge(&|code| code != opcode::WriteFixed::CODE, true);
        assert_eq!(without, Probe::Available { fixed: false });
        assert_eq!(judge(&|_| true, true), Probe::Available { fixed: true });
        assert!(matches!(judge(&|_| true, false), Probe::Unavailable(why) if why.contains("time")));
    }

    #[test]
    fn a_refusal_says_who_refused() {
        let table = [
            (Errno::NOSYS, None, "no io_uring"),
            (Errno::PERM, Some("2"), "io_uring_disabled=2"),
            (Errno::PERM, Some("1"), "io_uring_disabled=1"),
            (Errno::PERM, Some("0"), "seccomp"),
            (Errno::PERM, None, "seccomp"),
            (Errno::NOMEM, Some("0"), "RLIMIT_MEMLOCK"),
            (Errno::MFILE, Some("0"), "io_uring_setup failed"),
        ];
        for (errno, disabled, expected) in table {
            let why = no_ring(errno, disabled);
            assert!(why.contains(expected), "{errno:?} {disabled:?}: {why}");
        }
    }
}
