// SPDX-License-Identifier: MIT
//! chmod and chown: every combination of set-uid, set-gid and sticky with every change of owner.

use crate::need_root;
use crate::support::ground::{Ground, parity};
use crate::support::user::{self, ALICE, BOB, SHARED};

fn each_kind(g: &Ground, body: impl Fn(&str)) {
    g.file("file", 0o644, "x");
    g.mkdir("dir", 0o755);
    g.mknod("fifo", 0o010_644, 0);
    for path in ["file", "dir", "fifo"] {
        body(path);
    }
}

/// All 4096 modes can be set and are shown as set.
#[test]
fn chmod_sets_every_mode() {
    parity(|g| {
        each_kind(g, |path| {
            for special in 0..8 {
                for rest in [0o000, 0o111, 0o222, 0o444, 0o755, 0o640, 0o070, 0o007] {
                    g.chmod(path, special << 9 | rest);
                    g.stat(path);
                }
            }
        });
        for mode in 0..0o10000_u32 {
            rustix::fs::chmod(g.at("file"), mode.into()).expect("chmod");
            let got = rustix::fs::lstat(g.at("file")).expect("stat").st_mode & 0o7777;
            assert_eq!(got, mode);
        }
        g.chmod("file", 0o644);
    });
}

/// Root changes owners under every special bit and every group-execute bit.
#[test]
fn chown_by_root_and_special_bits() {
    need_root!();
    parity(|g| {
        each_kind(g, |path| {
            for special in 0..8 {
                for rest in [0o755, 0o645, 0o611, 0o777] {
                    for (uid, gid) in [(-1, -1), (1, -1), (-1, 2), (3, 4), (0, 0)] {
                        g.chmod(path, special << 9 | rest);
                        g.chown(path, uid, gid);
                        g.stat(path);
                    }
                }
            }
        });
    });
}

/// An owner gives a file to each of its groups, and to none other; the special bits go as they
/// go natively.
#[test]
fn chown_by_owners() {
    need_root!();
    parity(|g| {
        each_kind(g, |path| {
            g.chown(path, ALICE.uid.into(), ALICE.gid.into());
            for special in 0..8 {
                for rest in [0o755, 0o645] {
                    for gid in [
                        i64::from(SHARED),
                        i64::from(ALICE.gid),
                        i64::from(BOB.gid),
                        -1,
                    ] {
                        g.chmod(path, special << 9 | rest);
                        user::with(ALICE, || g.chown(path, -1, gid));
                        g.stat(path);
                        user::with(ALICE, || g.chown(path, i64::from(ALICE.uid), gid));
                        g.stat(path);
                    }
                    user::with(BOB, || g.chown(path, -1, i64::from(SHARED)));
                    user::with(ALICE, || g.chown(path, i64::from(BOB.uid), -1));
                    g.stat(path);
                }
            }
        });
    });
}

/// chmod by owners, members of the group and strangers; set-gid falls for non-members.
#[test]
fn chmod_by_users() {
    need_root!();
    parity(|g| {
        each_kind(g, |path| {
            for gid in [ALICE.gid, SHARED, BOB.gid] {
                g.chown(path, ALICE.uid.into(), gid.into());
                for mode in [0o6755, 0o2755, 0o2644, 0o4711, 0o1777, 0o640] {
                    user::with(ALICE, || g.chmod(path, mode));
                    g.stat(path);
                    user::with(BOB, || g.chmod(path, mode));
                }
            }
        });
    });
}

/// The links themselves have owners.
#[test]
fn chown_of_symlinks() {
    need_root!();
    parity(|g| {
        g.file("target", 0o644, "");
        g.symlink("target", "link");
        g.chown("link", 5, 6);
        g.stat("link");
        g.stat("target");
        g.did(
            "chown follows",
            rustix::fs::chown(g.at("link"), Some(rustix::fs::Uid::from_raw(9)), None),
        );
        g.stat("link");
        g.stat("target");
    });
}
