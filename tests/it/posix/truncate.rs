// SPDX-License-Identifier: MIT
//! truncate: shorter, longer, huge, and what a longer file reads as.

use crate::need_root;
use crate::support::ground::parity;
use crate::support::user::{self, ALICE, BOB};

/// Down and up again leaves zeros, not old bytes.
#[test]
fn shrink_and_grow() {
    parity(|g| {
        g.file("f", 0o644, vec![0x55; 20_000]);
        for len in [
            20_000, 19_999, 8192, 8191, 4097, 4096, 1, 0, 1, 4096, 5000, 100_000, 0, 70_000,
        ] {
            g.watch("f", || g.truncate("f", len));
            g.stat("f");
            g.cat("f");
        }
        g.truncate("f", 1 << 40);
        g.stat("f");
        g.truncate("f", 10);
        g.truncate("f", u64::MAX >> 1);
        g.truncate("none", 1);
        g.mkdir("d", 0o755);
        g.did("truncate a directory", g_truncate(&g.at("d"), 1));
        g.cat("f");
        g.truncate("f", 10);
    });
}

fn g_truncate(path: &std::path::Path, len: u64) -> rustix::io::Result<()> {
    let flags = rustix::fs::OFlags::WRONLY;
    rustix::fs::ftruncate(rustix::fs::open(path, flags, 0o000.into())?, len)
}

/// Through a read-only descriptor, a fifo, and bytes written on both sides of the cut.
#[test]
fn through_descriptors() {
    parity(|g| {
        g.file("f", 0o644, "0123456789");
        let read_only = g.fd("f", "r");
        g.did("ftruncate read-only", rustix::fs::ftruncate(&read_only, 3));
        let fd = g.fd("f", "rw");
        g.did("ftruncate", rustix::fs::ftruncate(&fd, 4));
        g.did("pwrite", rustix::io::pwrite(&fd, b"AB", 6));
        g.did("ftruncate", rustix::fs::ftruncate(&fd, 7));
        g.fstat("f", &read_only);
        g.cat("f");
        g.did("ftruncate", rustix::fs::ftruncate(&fd, 0));
        g.did("pwrite", rustix::io::pwrite(&fd, b"end", 10_000));
        g.cat("f");
    });
}

/// Writing permission is what it takes.
#[test]
fn permissions() {
    need_root!();
    parity(|g| {
        g.file("f", 0o644, "0123456789");
        g.chown("f", ALICE.uid.into(), ALICE.gid.into());
        user::with(BOB, || g.truncate("f", 1));
        user::with(ALICE, || g.truncate("f", 2));
        g.chmod("f", 0o444);
        user::with(ALICE, || g.truncate("f", 1));
        g.truncate("f", 1);
        g.stat("f");
    });
}
