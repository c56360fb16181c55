// SPDX-License-Identifier: MIT
//! create and open: every flag that decides what is made, emptied or refused.

use crate::need_root;
use crate::support::ground::parity;
use crate::support::user::{self, ALICE, BOB, CAROL, SHARED};

/// Modes under umasks; O_EXCL; O_TRUNC; types.
#[test]
fn flags_and_modes() {
    parity(|g| {
        for mask in [0o000, 0o022, 0o077] {
            g.umask(mask);
            for mode in [0o777, 0o644, 0o600, 0o000, 0o4755, 0o2755, 0o6777, 0o1666] {
                let path = format!("f{mask:o}-{mode:o}");
                let _made = g.open(&path, "rw creat excl", mode);
                g.stat(&path);
                let _again = g.open(&path, "rw creat excl", mode);
            }
        }
        g.umask(0o022);
        g.file("f", 0o644, "content");
        g.watch("f", || drop(g.open("f", "w", 0)));
        g.watch("f", || drop(g.open("f", "w creat", 0o600)));
        g.cat("f");
        g.watch("f", || drop(g.open("f", "w trunc", 0)));
        g.cat("f");
        g.watch("f", || drop(g.open("f", "w trunc", 0)));
        g.file("f", 0o644, "content");
        let _truncated = g.open("f", "r trunc", 0);
        g.cat("f");
        g.mkdir("d", 0o755);
        for flags in ["r", "w", "rw", "r creat", "r dir", "w trunc", "path"] {
            drop(g.open("d", flags, 0o644));
            drop(g.open("f", &format!("{flags} dir"), 0o644));
            drop(g.open("none", flags, 0o644));
            drop(g.open("d/", flags, 0o644));
            drop(g.open("f/x", flags, 0o644));
        }
        g.list(".");
    });
}

/// A file that may not be written can be written through the descriptor that created it.
#[test]
fn created_without_permission() {
    need_root!();
    parity(|g| {
        g.mkdir("d", 0o777);
        g.chmod("d", 0o777);
        user::with(ALICE, || {
            let fd = g.open("d/f", "rw creat excl", 0o000).expect("create");
            g.did("write", rustix::io::write(&fd, b"allowed"));
            g.did("ftruncate", rustix::fs::ftruncate(&fd, 3));
            let mut buffer = [0; 8];
            g.did("pread", rustix::io::pread(&fd, &mut buffer[..], 0));
            drop(g.open("d/f", "r", 0));
            drop(g.open("d/f", "w", 0));
            drop(fd);
            // Taking one's own permission away does not close what is open.
            g.file("d/g", 0o600, "mine");
            let fd = g.fd("d/g", "rw");
            g.chmod("d/g", 0o000);
            g.did("write", rustix::io::write(&fd, b"still"));
        });
        g.stat("d/f");
        g.cat("d/g");
    });
}

/// Owner and group of what is made, for users with supplementary groups.
#[test]
fn owners() {
    need_root!();
    parity(|g| {
        g.mkdir("d", 0o777);
        g.chmod("d", 0o777);
        g.mkdir("group", 0o770);
        g.chmod("group", 0o770);
        g.chown("group", 0, SHARED.into());
        for user in [ALICE, BOB, CAROL] {
            user::with(user, || {
                for dir in ["d", "group"] {
                    let name = format!("{dir}/{}", user.uid);
                    g.file(&name, 0o640, "x");
                    g.symlink("t", &format!("{name}s"));
                    g.mkdir(&format!("{name}d"), 0o750);
                    g.mknod(&format!("{name}p"), 0o010_640, 0);
                }
            });
            for suffix in ["", "s", "d", "p"] {
                g.stat(&format!("d/{}{suffix}", user.uid));
                g.stat(&format!("group/{}{suffix}", user.uid));
            }
        }
    });
}

/// One of many creators wins O_EXCL.
#[test]
fn one_winner() {
    parity(|g| {
        for round in 0..50 {
            let path = g.at(format!("f{round}"));
            let won = std::thread::scope(|scope| {
                let tries: Vec<_> = (0..4)
                    .map(|_| {
                        scope.spawn(|| {
                            std::fs::OpenOptions::new()
                                .write(true)
                                .create_new(true)
                                .open(&path)
                                .is_ok()
                        })
                    })
                    .collect();
                tries
                    .into_iter()
                    .filter(|_| true)
                    .map(|t| t.join().expect("join"))
                    .filter(|&w| w)
                    .count()
            });
            g.note(format_args!("{won} winner"));
        }
        g.list(".");
    });
}
