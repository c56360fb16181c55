// SPDX-License-Identifier: MIT
//! Being somebody else: a closure in a thread with another user's ids, or a command.

use std::process::Command;

use rustix::process::{Gid, Uid};

/// A user by numbers; no account is needed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: &'static [u32],
}

/// Three users of no account, with groups of their own and one in common.
pub(crate) const ALICE: User = User {
    uid: 71_001,
    gid: 72_001,
    groups: &[72_001, 72_009],
};
pub(crate) const BOB: User = User {
    uid: 71_002,
    gid: 72_002,
    groups: &[72_002, 72_009],
};
pub(crate) const CAROL: User = User {
    uid: 71_003,
    gid: 72_003,
    groups: &[],
};
/// An ordinary user with an account, as fusermount3 wants one.
pub(crate) const NOBODY: User = User {
    uid: 65_534,
    gid: 65_534,
    groups: &[],
};
/// The group that Alice and Bob share.
pub(crate) const SHARED: u32 = 72_009;

/// Runs `body` as `user`. Linux keeps ids per thread, so a thread that ends is all it takes; it
/// shares umask and working directory with the caller.
pub(crate) fn with<T: Send>(user: User, body: impl FnOnce() -> T + Send) -> T {
    let become_user = || {
        let groups: Vec<_> = user.groups.iter().map(|&g| Gid::from_raw(g)).collect();
        rustix::thread::set_thread_groups(&groups).expect("setgroups");
        let gid = Gid::from_raw(user.gid);
        rustix::thread::set_thread_res_gid(gid, gid, gid).expect("setresgid");
        let uid = Uid::from_raw(user.uid);
        rustix::thread::set_thread_res_uid(uid, uid, uid).expect("setresuid");
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            become_user();
            body()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A command that runs as `user`, without any capability.
pub(crate) fn command(user: User, program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command
        .arg(format!("--reuid={}", user.uid))
        .arg(format!("--regid={}", user.gid));
    if user.groups.is_empty() {
        command.arg("--clear-groups");
    } else {
        let groups: Vec<_> = user.groups.iter().map(ToString::to_string).collect();
        command.arg(format!("--groups={}", groups.join(",")));
    }
    command.arg("--").arg(program);
    command
}
