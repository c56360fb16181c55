// SPDX-License-Identifier: MIT
//! Permission checks: every user, every group, supplementary ones too, on every kind of call.

use rustix::fs::Access;

use crate::need_root;
use crate::support::ground::parity;
use crate::support::user::{self, ALICE, BOB, CAROL, SHARED};

/// Every mode of a file, for its owner, its group, a member by supplementary group, a stranger.
#[test]
fn files() {
    need_root!();
    parity(|g| {
        g.file("f", 0o644, "content");
        for (owner, group) in [(ALICE.uid, SHARED), (BOB.uid, CAROL.gid), (0, 0)] {
            g.chown("f", owner.into(), group.into());
            for mode in [
                0o400, 0o040, 0o004, 0o200, 0o020, 0o002, 0o100, 0o010, 0o001, 0o060, 0o606, 0o000,
            ] {
                g.chmod("f", mode);
                for user in [ALICE, BOB, CAROL] {
                    user::with(user, || {
                        g.note(format_args!("uid {}", user.uid));
                        drop(g.open("f", "r", 0));
                        drop(g.open("f", "w", 0));
                        for want in [
                            Access::READ_OK,
                            Access::WRITE_OK,
                            Access::EXEC_OK,
                            Access::EXISTS,
                        ] {
                            g.did(
                                format_args!("access {want:?}"),
                                rustix::fs::access(g.at("f"), want),
                            );
                        }
                    });
                }
            }
        }
    });
}

/// Directories: search, list and change, each its own permission.
#[test]
fn directories() {
    need_root!();
    parity(|g| {
        g.mkdir("d", 0o755);
        g.file("d/f", 0o666, "x");
        g.chmod("d/f", 0o666);
        g.chown("d", ALICE.uid.into(), SHARED.into());
        for mode in [
            0o700, 0o070, 0o007, 0o711, 0o744, 0o733, 0o755, 0o770, 0o000,
        ] {
            g.chmod("d", mode);
            for user in [ALICE, BOB, CAROL] {
                user::with(user, || {
                    g.note(format_args!("mode {mode:o} uid {}", user.uid));
                    g.list("d");
                    g.stat("d/f");
                    g.cat("d/f");
                    g.file("d/new", 0o644, "");
                    g.unlink("d/new");
                    g.mkdir("d/sub", 0o755);
                    g.rmdir("d/sub");
                    g.link("d/f", "d/l");
                    g.unlink("d/l");
                    g.rename("d/f", "d/g", rustix::fs::RenameFlags::empty());
                    g.rename("d/g", "d/f", rustix::fs::RenameFlags::empty());
                    g.chmod("d/f", 0o666);
                });
            }
        }
        g.chmod("d", 0o755);
    });
}

/// Root's daemon does not lend its power: a path through a closed directory stays closed.
#[test]
fn closed_paths() {
    need_root!();
    parity(|g| {
        g.mkdir("private", 0o700);
        g.mkdir("private/open", 0o777);
        g.chmod("private/open", 0o777);
        g.file("private/open/f", 0o666, "x");
        for user in [ALICE, CAROL] {
            user::with(user, || {
                g.cat("private/open/f");
                g.stat("private/open");
                g.file("private/open/g", 0o644, "");
                g.rename(
                    "private/open/f",
                    "private/open/h",
                    rustix::fs::RenameFlags::empty(),
                );
            });
        }
        g.list("private/open");
    });
}
