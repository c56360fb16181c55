// SPDX-License-Identifier: MIT
//! mkdir: modes, umask, names that are taken, owners.

use crate::need_root;
use crate::support::ground::parity;
use crate::support::user::{self, ALICE, CAROL};

/// Every mode under several umasks.
#[test]
fn modes_and_umask() {
    parity(|g| {
        for mask in [0o000, 0o022, 0o077, 0o027, 0o777] {
            g.umask(mask);
            for mode in [0o777, 0o755, 0o700, 0o000, 0o1777, 0o2755, 0o7777] {
                let path = format!("d{mask:o}-{mode:o}");
                g.mkdir(&path, mode);
                g.stat(&path);
                g.mkdir(&path, mode);
            }
        }
        g.umask(0o022);
        g.file("file", 0o644, "");
        g.mkdir("file", 0o755);
        g.mkdir("file/below", 0o755);
        g.mkdir("none/below", 0o755);
        g.symlink("nowhere", "dangling");
        g.mkdir("dangling", 0o755);
        g.mkdir("slash/", 0o755);
        g.stat(".");
    });
}

/// Owners, and directories that may not be written.
#[test]
fn by_users() {
    need_root!();
    parity(|g| {
        g.mkdir("open", 0o777);
        g.chmod("open", 0o777);
        g.mkdir("closed", 0o755);
        for user in [ALICE, CAROL] {
            user::with(user, || {
                g.mkdir(&format!("open/{}", user.uid), 0o750);
                g.mkdir(&format!("closed/{}", user.uid), 0o750);
            });
            g.stat(&format!("open/{}", user.uid));
        }
    });
}

/// Link counts of a directory with many directories.
#[test]
fn many_below_one() {
    parity(|g| {
        for n in 0..200 {
            g.mkdir(&format!("d{n}"), 0o755);
        }
        g.stat(".");
        for n in (0..200).step_by(2) {
            g.rmdir(&format!("d{n}"));
        }
        g.stat(".");
        g.list(".");
    });
}
