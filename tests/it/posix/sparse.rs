// SPDX-License-Identifier: MIT
//! Sparse files and offsets beyond 4 GiB.

use rustix::fs::{FallocateFlags, fallocate, ftruncate};
use rustix::io::{pread, pwrite};

use crate::support::ground::parity;

/// Bytes around every power of two that ever broke a file system.
#[test]
fn far_offsets() {
    parity(|g| {
        let fd = g.open("f", "rw creat", 0o644).expect("open");
        for border in [1_u64 << 31, 1 << 32, 1 << 33, 1 << 40, 1 << 43] {
            for at in [border - 3, border, border + 4096] {
                g.did(format_args!("pwrite {at}"), pwrite(&fd, b"border", at));
            }
        }
        for border in [1_u64 << 31, 1 << 32, 1 << 33, 1 << 40, 1 << 43] {
            let mut back = [0; 12];
            g.did(
                format_args!("pread {border}"),
                pread(&fd, &mut back[..], border - 3).map(|_| back),
            );
        }
        g.stat("f");
        g.did("beyond the largest file", pwrite(&fd, b"x", 1 << 50));
        g.did("beyond all", pwrite(&fd, b"x", u64::MAX >> 1));
        g.did("truncate", ftruncate(&fd, (1 << 32) + 5));
        g.did("truncate", ftruncate(&fd, (1 << 41) + 5));
        g.stat("f");
    });
}

/// Holes stay holes: almost nothing is allocated, on either copy.
#[test]
fn holes_cost_nothing() {
    parity(|g| {
        let fd = g.open("f", "rw creat", 0o644).expect("open");
        for n in 0..50 {
            pwrite(&fd, b"island", n << 28).expect("pwrite");
        }
        g.did(
            "punch",
            fallocate(
                &fd,
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                10 << 28,
                1 << 30,
            ),
        );
        g.did("fsync", rustix::fs::fsync(&fd));
        let blocks = rustix::fs::fstat(&fd).map(|s| (s.st_size, s.st_blocks < 5000));
        g.did("size, few blocks", blocks);
    });
}
