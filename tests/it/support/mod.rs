// SPDX-License-Identifier: MIT
//! What the tests stand on: mounts, users, loop images, a complete comparison, waiting.

pub(crate) mod acl;
pub(crate) mod compare;
pub(crate) mod far;
pub(crate) mod ground;
pub(crate) mod image;
pub(crate) mod mount;
pub(crate) mod rings;
pub(crate) mod rng;
pub(crate) mod run;
pub(crate) mod sys;
pub(crate) mod tamper;
pub(crate) mod user;

use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long anything that must happen may take on a loaded machine. Never slept: only the limit
/// of waiting for a condition.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// True while the bodies of the tests are tried out without the product: the mount point is then
/// a bind mount of the primary.
pub(crate) fn native() -> bool {
    std::env::var_os("MIRRORFS_TEST_NATIVE").is_some()
}

/// The switch of the fault tests: whether the product heals by itself. Without it a mirror in doubt is
/// mounted with `--adopt`, and what needs more is skipped ([`need_healing`]).
///
/// Asked of the product, so that nobody has to remember it: true as soon as it has the verb `sync`.
/// `MIRRORFS_TEST_HEALING=1` or `0` overrules that.
pub(crate) fn healing_is_there() -> bool {
    static THERE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *THERE.get_or_init(|| {
        if let Some(told) = std::env::var_os("MIRRORFS_TEST_HEALING") {
            return told == "1";
        }
        let help = run::mirrorfs(["help"]).out;
        !native() && help.lines().any(|line| line.starts_with("  sync "))
    })
}

/// The pause between two looks at a condition.
pub(crate) fn breathe() {
    std::thread::park_timeout(Duration::from_millis(10));
}

/// Waits until `condition` holds; panics when it does not within `PATIENCE`.
pub(crate) fn wait_until(what: impl Display, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "waited in vain: {what}");
        breathe();
    }
}

/// One body of work for [`together`].
pub(crate) type Work = Box<dyn FnOnce() + Send>;

/// Runs each body in a thread of its own. A deadlock fails the test instead of hanging it: when
/// they are not all done in time this panics, and what holds them ends with the mount.
#[track_caller]
pub(crate) fn together(what: &str, work: Vec<Work>) {
    let threads: Vec<_> = work.into_iter().map(std::thread::spawn).collect();
    wait_until(what, || threads.iter().all(|thread| thread.is_finished()));
    for thread in threads {
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Says that a test cannot run here. Every skip is counted by scripts/check, which knows how many
/// to expect.
pub(crate) fn skip(reason: impl Display) {
    let thread = std::thread::current();
    let line = format!("SKIPPED {}: {reason}\n", thread.name().unwrap_or("?"));
    eprint!("{line}");
    if let Some(log) = std::env::var_os("MIRRORFS_SKIP_LOG") {
        let log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(log);
        log.and_then(|mut f| f.write_all(line.as_bytes()))
            .expect("the skip log");
    }
}

/// Returns from the test when it needs root and there is none.
#[macro_export]
macro_rules! need_root {
    () => {
        if !rustix::process::geteuid().is_root() {
            return $crate::support::skip("needs root");
        }
    };
}

/// Returns from the test when it is about the product and the product is not there.
#[macro_export]
macro_rules! need_product {
    () => {
        if $crate::support::native() {
            return $crate::support::skip("needs the product, not its stand-in");
        }
    };
}

/// Returns from the test when it is about healing and the product cannot heal yet.
#[macro_export]
macro_rules! need_healing {
    () => {
        if !$crate::support::healing_is_there() {
            return $crate::support::skip("waits for healing (support::healing_is_there)");
        }
    };
}

/// Returns from the test when a program it runs is not installed.
#[macro_export]
macro_rules! need_programs {
    ($($name:literal),+) => {
        for name in [$($name),+] {
            if $crate::support::run::find(name).is_none() {
                return $crate::support::skip(format_args!("{name} is not installed"));
            }
        }
    };
}

/// Returns from the test when ordinary users may not open /dev/fuse here (udev's mode is 0666).
#[macro_export]
macro_rules! need_fuse_for_users {
    () => {
        if !rustix::fs::stat("/dev/fuse").is_ok_and(|s| s.st_mode & 0o006 == 0o006) {
            return $crate::support::skip("ordinary users may not open /dev/fuse here");
        }
    };
}

/// A number from the environment, for longer runs than CI's.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |v| v.parse().expect("a number"))
}

/// Where trees are made: `MIRRORFS_TEST_DIR` (scripts/check gives a journaled loop ext4), or the
/// target directory if every user can pass through it, or /var/tmp.
pub(crate) fn base() -> PathBuf {
    if let Some(dir) = std::env::var_os("MIRRORFS_TEST_DIR") {
        return dir.into();
    }
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let open = |p: &Path| rustix::fs::stat(p).is_ok_and(|s| s.st_mode & 0o001 != 0 && p.is_dir());
    if target.ancestors().all(open) {
        target
    } else {
        "/var/tmp".into()
    }
}

/// A temporary directory under `base` that every user can pass through.
pub(crate) fn temp_in(base: &Path) -> tempfile::TempDir {
    let dir = tempfile::Builder::new()
        .prefix("mirrorfs-")
        .tempdir_in(base);
    let dir = dir.expect("a temporary directory");
    rustix::fs::chmod(dir.path(), 0o755.into()).expect("chmod");
    dir
}
