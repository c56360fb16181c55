// SPDX-License-Identifier: MIT
//! Every exit code, named once. They are an interface: docs/CLI_ABI.md promises them.

use std::ffi::OsStr;
use std::process::ExitCode;

use crate::session::refusal::Kind;

/// How mirrorfs ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// Mounted; unmounted and drained; in-sync; done.
    Success,
    /// mount(8): usage or permission.
    MountUsage,
    /// mount(8): the system lacks something.
    MountSystem,
    /// mount(8): our mistake.
    MountBug,
    /// mount(8): a signal came first.
    MountInterrupted,
    /// mount(8): refused or failed.
    MountRefused,
    /// diff(1): not in-sync, differences remain, refused.
    No,
    /// diff(1): could not tell, usage.
    Unknown,
    /// The shell's number for a process that Control-C ended.
    Interrupted,
    /// What a child ended with, which chose among these.
    Child(u8),
}

impl Exit {
    /// The number the shell sees.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::MountUsage | Self::No => 1,
            Self::MountSystem | Self::Unknown => 2,
            Self::MountBug => 4,
            Self::MountInterrupted => 8,
            Self::MountRefused => 32,
            Self::Interrupted => 130,
            Self::Child(code) => code,
        }
    }

    /// What a refusal means in the mount family.
    pub(super) fn mount(kind: Kind) -> Self {
        match kind {
            Kind::Usage => Self::MountUsage,
            Kind::System => Self::MountSystem,
            Kind::Bug => Self::MountBug,
            Kind::Interrupted => Self::MountInterrupted,
            Kind::Refused => Self::MountRefused,
        }
    }
}

impl Exit {
    /// What a refusal means in the other family: no, or could not tell.
    pub(super) fn answer(kind: Kind) -> Self {
        match kind {
            Kind::Refused => Self::No,
            // A daemon that was interrupted; who pressed Control-C here is not told by a refusal.
            Kind::Interrupted | Kind::Usage | Kind::System | Kind::Bug => Self::Unknown,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// Two conventions, one program: mount(8)'s, and that of diff(1) and grep(1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// `mount`, `umount` and the helpers.
    Mount,
    /// Everything else.
    Answer,
}

impl Family {
    /// The family of a verb.
    pub(super) fn of(verb: Option<&OsStr>) -> Self {
        match verb.and_then(OsStr::to_str) {
            Some("mount" | "umount" | "mount-helper" | "umount-helper") => Self::Mount,
            _ => Self::Answer,
        }
    }

    /// The code for words that make no sense.
    pub(super) fn usage(self) -> Exit {
        match self {
            Self::Mount => Exit::MountUsage,
            Self::Answer => Exit::Unknown,
        }
    }
}

/// What the codes mean, family by family: mirrorfs(1) prints it, and docs/CLI_ABI.md says the same.
pub(super) const MEANINGS: [(&str, &[(Exit, &str)]); 2] = [
    (
        "mount, umount and the helpers follow mount(8):",
        &[
            (Exit::Success, "mounted; or unmounted and drained"),
            (Exit::MountUsage, "usage, or no permission"),
            (
                Exit::MountSystem,
                "the system lacks something: no /dev/fuse, no memory, no fusermount3",
            ),
            (Exit::MountBug, "our mistake"),
            (
                Exit::MountInterrupted,
                "interrupted: a signal came first, or a second signal ended the daemon",
            ),
            (
                Exit::MountRefused,
                "refused, or tried and failed: busy, no stamp, copies differ, not done in time",
            ),
        ],
    ),
    (
        "All others follow diff(1) and grep(1):",
        &[
            (
                Exit::Success,
                "in-sync; no differences, or all repaired; done",
            ),
            (
                Exit::No,
                "not in-sync; differences (sync --dry-run too); refused",
            ),
            (
                Exit::Unknown,
                "could not tell: not a mirror, the daemon is gone or does not answer, I/O error, usage, \
                 no permission",
            ),
            (
                Exit::MountRefused,
                "verify, sync, promote of directories that a daemon holds or shows",
            ),
            (Exit::Interrupted, "Control-C"),
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/CLI_ABI.md promises these codes, in these words.
    #[test]
    fn the_promise_says_the_same() {
        let abi = include_str!("../../docs/CLI_ABI.md").replace('`', "");
        let part = abi.split("\n## ").find(|s| s.starts_with("Exit codes"));
        let mut promised = part
            .unwrap_or_default()
            .lines()
            .filter(|l| !l.is_empty() && !l.starts_with("|---") && *l != "| code | meaning |");
        assert_eq!(promised.next(), Some("Exit codes"));
        for (family, codes) in MEANINGS {
            assert_eq!(promised.next(), Some(family));
            for (exit, meaning) in codes {
                let row = format!("| {} | {meaning} |", exit.code());
                assert_eq!(promised.next(), Some(row.as_str()));
            }
        }
        assert!(promised.all(|line| !line.starts_with('|')));
    }

    #[test]
    fn the_numbers_are_those_of_the_manual() {
        for (exit, code) in [
            (Exit::Success, 0),
            (Exit::mount(Kind::Usage), 1),
            (Exit::mount(Kind::System), 2),
            (Exit::mount(Kind::Bug), 4),
            (Exit::mount(Kind::Interrupted), 8),
            (Exit::mount(Kind::Refused), 32),
            (Exit::No, 1),
            (Exit::Unknown, 2),
            (Exit::answer(Kind::Refused), 1),
            (Exit::answer(Kind::Usage), 2),
            (Exit::answer(Kind::System), 2),
            (Exit::answer(Kind::Interrupted), 2),
            (Exit::Interrupted, 130),
        ] {
            assert_eq!(exit.code(), code, "{exit:?}");
        }
        assert_eq!(
            i32::from(Exit::MountInterrupted.code()),
            crate::session::EXIT_INTERRUPTED
        );
    }

    #[test]
    fn usage_is_1_for_mount_and_2_for_the_rest() {
        for (verb, code) in [("mount", 1), ("umount", 1), ("status", 2), ("bogus", 2)] {
            assert_eq!(
                Family::of(Some(OsStr::new(verb))).usage().code(),
                code,
                "{verb}"
            );
        }
    }
}
