// SPDX-License-Identifier: MIT
//! mmap: private and shared, read and write, together with read and write calls.

use rustix::io::{pread, pwrite};

use crate::support::ground::parity;
use crate::support::sys::Map;

/// Shared writes reach the file, private ones do not; both see the file's bytes.
#[test]
fn shared_and_private() {
    parity(|g| {
        g.file("f", 0o644, vec![b'.'; 20_000]);
        let fd = g.fd("f", "rw");
        let shared = Map::new(&fd, 0, 20_000, true, true).expect("mmap");
        let private = Map::new(&fd, 4096, 8192, true, false).expect("mmap");
        private.put(0, b"private");
        shared.put(10, b"shared");
        shared.put(4094, b"over the edge");
        let mut back = [0; 16];
        g.did("pread", pread(&fd, &mut back[..], 8).map(|_| back));
        g.did("pwrite", pwrite(&fd, b"written", 12_000));
        g.note(format_args!("shared sees {:?}", shared.get(12_000, 8)));
        g.note(format_args!("private sees {:?}", private.get(0, 8)));
        g.did("msync", shared.sync());
        g.cat("f");
        drop((shared, private));
        g.cat("f");
        g.stat("f");
    });
}

/// Permissions of the descriptor are those of the map.
#[test]
fn permissions() {
    parity(|g| {
        g.file("f", 0o644, vec![1; 4096]);
        let (read, write) = (g.fd("f", "r"), g.fd("f", "w"));
        g.quiet(
            "shared write of read-only",
            Map::new(&read, 0, 4096, true, true),
        )
        .map(drop)
        .unwrap_or(());
        g.quiet(
            "private write of read-only",
            Map::new(&read, 0, 4096, true, false),
        )
        .map(drop)
        .unwrap_or(());
        g.quiet("read of write-only", Map::new(&write, 0, 4096, false, true))
            .map(drop)
            .unwrap_or(());
        g.quiet("unaligned", Map::new(&read, 100, 4096, false, true))
            .map(drop)
            .unwrap_or(());
    });
}

/// A store into a shared map moves mtime once it is synced, and outlives the descriptor.
#[test]
fn stores_move_times() {
    parity(|g| {
        g.file("f", 0o644, vec![0; 4096 * 4]);
        g.watch("f", || {
            let map = Map::new(g.fd("f", "rw"), 0, 4096 * 4, true, true).expect("mmap");
            map.put(5000, b"late");
            g.did("msync", map.sync());
        });
        let map = Map::new(g.fd("f", "rw"), 4096, 4096, true, true).expect("mmap");
        g.unlink("f");
        map.put(0, b"nameless");
        g.did("msync", map.sync());
        g.note(format_args!("{:?}", map.get(0, 8)));
    });
}

/// Files made, grown and written through a map, the way databases do it; truncate cuts it.
#[test]
fn grown_files() {
    parity(|g| {
        let fd = g.open("f", "rw creat", 0o644).expect("open");
        g.did("ftruncate", rustix::fs::ftruncate(&fd, 1 << 20));
        let map = Map::new(&fd, 0, 1 << 20, true, true).expect("mmap");
        for page in (0..256).step_by(3) {
            map.put(page * 4096 + page, b"page");
        }
        g.did("fsync", rustix::fs::fsync(&fd));
        g.did("shorter", rustix::fs::ftruncate(&fd, 9_000));
        g.did("longer", rustix::fs::ftruncate(&fd, 20_000));
        g.note(format_args!("zeros {:?}", map.get(9_000, 8)));
        map.put(15_000, b"again");
        drop(map);
        g.cat("f");
    });
}

/// Two maps and two descriptors of one file are one file, while threads write through all.
#[test]
fn one_file_seen_from_all_sides() {
    parity(|g| {
        g.file("f", 0o644, vec![0; 4096 * 64]);
        std::thread::scope(|scope| {
            for t in 0..4_usize {
                scope.spawn(move || {
                    let fd = g.fd("f", "rw");
                    let map = Map::new(&fd, 0, 4096 * 64, true, true).expect("mmap");
                    for n in 0..16 {
                        let at = (n * 4 + t) * 4096 + 17;
                        if t % 2 == 0 {
                            map.put(at, &[b'm'; 3000]);
                        } else {
                            pwrite(&fd, &[b'w'; 3000], u64::try_from(at).expect("small"))
                                .expect("pwrite");
                        }
                        assert_eq!(
                            map.get(at + 2999, 1)[0],
                            if t % 2 == 0 { b'm' } else { b'w' }
                        );
                    }
                    map.sync().expect("msync");
                });
            }
        });
        g.cat("f");
    });
}
