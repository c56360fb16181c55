// SPDX-License-Identifier: MIT
//! fallocate: every mode, on ranges that are aligned and that are not.

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::pwrite;

use crate::need_root;
use crate::support::ground::parity;
use crate::support::user::{self, ALICE};

/// The whole matrix of modes and ranges; size, content and holes afterwards. (COLLAPSE_RANGE and
/// INSERT_RANGE end in the kernel: known_issues.rs.)
#[test]
fn every_mode() {
    parity(|g| {
        let keep = FallocateFlags::KEEP_SIZE;
        let modes = [
            FallocateFlags::empty(),
            keep,
            FallocateFlags::PUNCH_HOLE | keep,
            FallocateFlags::PUNCH_HOLE,
            FallocateFlags::ZERO_RANGE,
            FallocateFlags::ZERO_RANGE | keep,
            FallocateFlags::UNSHARE_RANGE,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE | keep,
        ];
        let ranges = [
            (0, 4096),
            (4096, 8192),
            (100, 200),
            (5000, 10_000),
            (60_000, 10_000),
            (200_000, 4096),
            (0, 65_536),
            (0, 0),
        ];
        for (m, mode) in modes.into_iter().enumerate() {
            for (offset, len) in ranges {
                let path = format!("f{m}-{offset}-{len}");
                g.file(&path, 0o644, vec![0xaa; 65_536]);
                let fd = g.fd(&path, "rw");
                g.watch(&path, || {
                    g.did(
                        format_args!("{mode:?} {offset} {len}"),
                        fallocate(&fd, mode, offset, len),
                    );
                });
                g.did("fsync", rustix::fs::fsync(&fd));
                g.stat(&path);
                g.cat(&path);
            }
        }
    });
}

/// Preallocated space takes no part in the size until it is written, and reads as zeros.
#[test]
fn preallocation() {
    parity(|g| {
        let fd = g.open("f", "rw creat", 0o644).expect("open");
        g.did(
            "keep size",
            fallocate(&fd, FallocateFlags::KEEP_SIZE, 0, 1 << 20),
        );
        g.stat("f");
        g.did("pwrite", pwrite(&fd, b"data", 5000));
        g.stat("f");
        g.did(
            "grow",
            fallocate(&fd, FallocateFlags::empty(), 1 << 20, 4096),
        );
        g.stat("f");
        g.did(
            "punch",
            fallocate(
                &fd,
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                4096,
                4096,
            ),
        );
        g.cat("f");
        g.did(
            "read-only",
            fallocate(g.fd("f", "r"), FallocateFlags::empty(), 0, 1),
        );
        g.mknod("p", 0o010_644, 0);
        let fifo = g.fd("p", "rw nonblock");
        g.did("fifo", fallocate(&fifo, FallocateFlags::empty(), 0, 1));
        g.did(
            "too far",
            fallocate(&fd, FallocateFlags::empty(), u64::MAX >> 1, 4096),
        );
    });
}

/// fallocate by someone without privilege takes set-uid away.
#[test]
fn takes_suid_away() {
    need_root!();
    parity(|g| {
        let keep = FallocateFlags::KEEP_SIZE;
        for (n, mode) in [
            FallocateFlags::empty(),
            FallocateFlags::PUNCH_HOLE | keep,
            FallocateFlags::ZERO_RANGE,
            keep,
        ]
        .into_iter()
        .enumerate()
        {
            for bits in [0o6777, 0o4777, 0o2777, 0o2767] {
                let path = format!("f{n}-{bits:o}");
                g.file(&path, 0o666, vec![1; 8192]);
                g.chmod(&path, bits);
                user::with(ALICE, || {
                    let fd = g.fd(&path, "rw");
                    g.did("fallocate", fallocate(&fd, mode, 0, 4096));
                });
                g.stat(&path);
                g.chmod(&path, bits);
                g.did("by root", fallocate(g.fd(&path, "rw"), mode, 0, 4096));
                g.stat(&path);
            }
        }
    });
}
