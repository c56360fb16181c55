// SPDX-License-Identifier: MIT
//! write and read: offsets, sizes, append, O_DIRECT, vectors, several writers.

use std::io::{IoSlice, IoSliceMut, Write};

use rustix::fs::SeekFrom;
use rustix::io::{pread, preadv, pwrite, pwritev};

use crate::support::ground::{Ground, parity};
use crate::support::rng::Rng;

/// Writes of every awkward size at every awkward place.
#[test]
fn sizes_and_places() {
    parity(|g| {
        let mut rng = Rng::new(7);
        let fd = g.open("f", "rw creat", 0o644).expect("open");
        for offset in [0, 1, 4095, 4096, 4097, 65_535, 1 << 20, (1 << 20) + 3] {
            for len in [
                0, 1, 511, 4095, 4096, 4097, 131_072, 1_048_576, 1_048_577, 3_000_000,
            ] {
                let data = rng.bytes(len);
                g.did(
                    format_args!("pwrite {offset} {len}"),
                    pwrite(&fd, &data, offset),
                );
                let mut back = vec![0; len + 10];
                let got = pread(&fd, &mut back[..], offset);
                g.did("pread", got.map(|n| (n, crc32fast::hash(&back[..n]))));
            }
        }
        g.cat("f");
        g.did("past the end", pread(&fd, &mut [0; 10][..], 1 << 30));
        g.did("write to read-only", pwrite(g.fd("f", "r"), b"x", 0));
        g.did(
            "read from write-only",
            pread(g.fd("f", "w"), &mut [0; 1][..], 0),
        );
        g.did("write to directory", pwrite(g.fd(".", "r dir"), b"x", 0));
        let mut one = [0; 1];
        g.did("read directory", pread(g.fd(".", "r dir"), &mut one[..], 0));
    });
}

/// O_APPEND goes to the end whatever the offset; two appenders lose nothing.
#[test]
fn append() {
    parity(|g| {
        g.file("f", 0o644, "start ");
        let a = g.fd("f", "w append");
        let b = g.fd("f", "rw append");
        for n in 0..50 {
            let line = format!("line {n}\n");
            g.did(
                "append",
                rustix::io::write(if n % 2 == 0 { &a } else { &b }, line.as_bytes()),
            );
        }
        g.did("seek", rustix::fs::seek(&a, SeekFrom::Start(3)));
        g.did("append", rustix::io::write(&a, b"not at 3"));
        g.did("pwrite", pwrite(&a, b"nor at 5", 5));
        g.did("truncate", rustix::fs::ftruncate(&b, 10));
        g.did("append", rustix::io::write(&a, b"the end"));
        g.cat("f");
    });
}

/// Four threads append lines; every line is there, whole.
#[test]
fn append_from_many() {
    parity(|g| {
        std::thread::scope(|scope| {
            for t in 0..4 {
                scope.spawn(move || {
                    let path = g.at("log");
                    let mut log = std::fs::OpenOptions::new()
                        .append(true)
                        .create(true)
                        .open(path)
                        .expect("open");
                    for n in 0..200 {
                        log.write_all(format!("{t} {n} {}\n", "x".repeat(n)).as_bytes())
                            .expect("append");
                    }
                });
            }
        });
        let text = std::fs::read_to_string(g.at("log")).expect("read");
        let mut lines: Vec<_> = text.lines().collect();
        lines.sort_unstable();
        g.note(format_args!(
            "{} lines, crc {:08x}",
            lines.len(),
            crc32fast::hash(lines.concat().as_bytes())
        ));
        // Each account has its own order: leave the sorted lines for the trees' comparison.
        g.file("log", 0o644, lines.join("\n"));
    });
}

/// Bytes aligned for O_DIRECT.
fn aligned(len: usize, fill: u8) -> (Vec<u8>, usize) {
    let buffer = vec![fill; len + 4096];
    let start = buffer.as_ptr().align_offset(4096);
    (buffer, start)
}

/// O_DIRECT writes and reads, mixed with buffered ones, see each other.
#[test]
fn direct() {
    parity(|g| {
        let direct = g.open("f", "rw creat direct", 0o644).expect("open");
        let cached = g.fd("f", "rw");
        for (n, len) in [4096_usize, 8192, 65_536, 1 << 20].into_iter().enumerate() {
            let fill = b'a' + u8::try_from(n).expect("small");
            let (buffer, at) = aligned(len, fill);
            g.did("direct write", pwrite(&direct, &buffer[at..at + len], 0));
            let mut back = [0; 4];
            g.did(
                "cached read",
                pread(&cached, &mut back[..], 100).map(|_| back),
            );
            g.did("cached write", pwrite(&cached, b"cached", 4096 * 3 - 3));
            let (mut buffer, at) = aligned(len, 0);
            let got = pread(&direct, &mut buffer[at..at + len], 0);
            g.did(
                "direct read",
                got.map(|n| (n, crc32fast::hash(&buffer[at..at + n]))),
            );
        }
        let (buffer, at) = aligned(8192, b'z');
        g.did(
            "direct extends",
            pwrite(&direct, &buffer[at..at + 4096], 2 << 20),
        );
        drop((direct, cached));
        let again = g.fd("f", "rw direct");
        g.did(
            "direct overwrite",
            pwrite(&again, &buffer[at..at + 4096], 4096),
        );
        let cached = g.fd("f", "r");
        let mut back = [0; 4];
        g.did(
            "cached read",
            pread(&cached, &mut back[..], 4100).map(|_| back),
        );
        g.cat("f");
    });
}

/// readv, writev and their offset forms.
#[test]
fn vectors() {
    parity(|g| {
        let fd = g.open("f", "rw creat", 0o644).expect("open");
        let parts: Vec<_> = (0..20)
            .map(|n| vec![b'a' + n; usize::from(n) * 300])
            .collect();
        let slices: Vec<_> = parts.iter().map(|p| IoSlice::new(p)).collect();
        g.did("pwritev", pwritev(&fd, &slices, 77));
        let (mut one, mut two) = (vec![0; 1000], vec![0; 60_000]);
        let got = preadv(
            &fd,
            &mut [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)],
            0,
        );
        g.did(
            "preadv",
            got.map(|n| (n, crc32fast::hash(&one), crc32fast::hash(&two))),
        );
        g.cat("f");
    });
}

/// The file position is the open file's own, shared by its duplicates.
#[test]
fn positions() {
    parity(|g| {
        let fd = g.open("f", "rw creat", 0o644).expect("open");
        let twin = fd.try_clone().expect("dup");
        let other = g.fd("f", "rw");
        g.did("write", rustix::io::write(&fd, b"abc"));
        g.did("write", rustix::io::write(&twin, b"def"));
        g.did("write", rustix::io::write(&other, b"X"));
        g.did("tell", rustix::fs::tell(&fd));
        g.did("seek end", rustix::fs::seek(&fd, SeekFrom::End(-2)));
        g.did(
            "seek too far back",
            rustix::fs::seek(&fd, SeekFrom::Current(-100)),
        );
        g.did("seek far", rustix::fs::seek(&fd, SeekFrom::Start(1 << 40)));
        g.did("write", rustix::io::write(&twin, b"far"));
        g.stat("f");
        g.truncate("f", 100);
        g.cat("f");
    });
}

/// Two descriptors of one file, four threads in disjoint ranges: every byte as written.
#[test]
fn disjoint_writers() {
    fn fill(g: &Ground, t: usize) {
        let fd = g.open("f", "rw creat", 0o644).expect("open");
        let mut rng = Rng::new(u64::try_from(t).expect("small"));
        for n in 0..200 {
            let data = rng.bytes(1000);
            pwrite(
                &fd,
                &data,
                u64::try_from((n * 4 + t) * 1000).expect("small"),
            )
            .expect("pwrite");
        }
    }
    parity(|g| {
        std::thread::scope(|scope| {
            for t in 0..4 {
                scope.spawn(move || fill(g, t));
            }
        });
        g.cat("f");
    });
}
