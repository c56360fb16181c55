// SPDX-License-Identifier: MIT
//! SEEK_HOLE and SEEK_DATA: the map of a sparse file is the native one.

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, fsync, seek};
use rustix::io::pwrite;

use crate::support::ground::parity;

/// Every border of every extent, found from every offset near it.
#[test]
fn maps() {
    parity(|g| {
        let fd = g.open("f", "rw creat", 0o644).expect("open");
        for offset in [0, 1 << 16, 3 << 16, 1 << 30, 5 << 30] {
            g.did("pwrite", pwrite(&fd, &[1; 8192], offset));
        }
        g.did(
            "truncate",
            rustix::fs::ftruncate(&fd, (5 << 30) + (1 << 20)),
        );
        g.did(
            "punch",
            fallocate(
                &fd,
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                1 << 16,
                4096,
            ),
        );
        g.did("fsync", fsync(&fd));
        for near in [
            0_u64,
            4096,
            8192,
            1 << 16,
            (1 << 16) + 4096,
            3 << 16,
            1 << 30,
            5 << 30,
            (5 << 30) + (1 << 20),
            6 << 30,
        ] {
            for at in [near.saturating_sub(1), near, near + 1] {
                g.did(format_args!("data {at}"), seek(&fd, SeekFrom::Data(at)));
                g.did(format_args!("hole {at}"), seek(&fd, SeekFrom::Hole(at)));
            }
        }
        let empty = g.open("empty", "rw creat", 0o644).expect("open");
        g.did("data in nothing", seek(&empty, SeekFrom::Data(0)));
        g.did("hole in nothing", seek(&empty, SeekFrom::Hole(0)));
        g.did("position", rustix::fs::tell(&fd));
    });
}

/// cp --sparse=always and tar -S make the same holes through the mount.
#[test]
fn tools_keep_holes() {
    crate::need_programs!("cp", "tar");
    parity(|g| {
        let fd = g.open("f", "rw creat", 0o644).expect("open");
        g.did("pwrite", pwrite(&fd, &[7; 10_000], 1 << 20));
        g.did("truncate", rustix::fs::ftruncate(&fd, 4 << 20));
        g.did("fsync", fsync(&fd));
        crate::support::run::shell(
            &g.root,
            "cp --sparse=always f g; tar -S -cf t.tar f; mkdir x; tar -C x -xf t.tar; rm t.tar; sync f g x/f",
        );
        for path in ["f", "g", "x/f"] {
            let fd = g.fd(path, "r");
            g.did(path, seek(&fd, SeekFrom::Data(0)));
            g.did(path, seek(&fd, SeekFrom::Hole(1 << 20)));
        }
    });
}
