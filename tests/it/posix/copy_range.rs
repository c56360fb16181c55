// SPDX-License-Identifier: MIT
//! copy_file_range: within a file, between files, over the end, onto itself.

use rustix::fs::copy_file_range;

use crate::support::ground::parity;
use crate::support::rng::Rng;

/// Offsets and lengths of every kind; the bytes arrive, the offsets move.
#[test]
fn copies() {
    parity(|g| {
        g.file("from", 0o644, Rng::new(3).bytes(300_000));
        g.file("to", 0o644, vec![0; 100_000]);
        let (from, to) = (g.fd("from", "r"), g.fd("to", "rw"));
        for (mut a, mut b, len) in [
            (0, 0, 1000),
            (4096, 8192, 4096),
            (1, 99_999, 70_000),
            (299_000, 5, 5000),
            (400_000, 0, 10),
        ] {
            let done = copy_file_range(&from, Some(&mut a), &to, Some(&mut b), len);
            g.did(format_args!("copy {len}"), done);
            g.note(format_args!("offsets {a} {b}"));
            g.cat("to");
        }
        g.watch("to", || {
            g.did(
                "by position",
                copy_file_range(&from, None, &to, None, 12_345),
            );
        });
        g.did(
            "positions",
            rustix::fs::tell(&from).and_then(|a| Ok((a, rustix::fs::tell(&to)?))),
        );
        let (mut a, mut b) = (0, 200_000);
        let same = g.fd("from", "rw");
        g.did(
            "within",
            copy_file_range(&same, Some(&mut a), &same, Some(&mut b), 50_000),
        );
        let (mut a, mut b) = (0, 10);
        g.did(
            "overlapping",
            copy_file_range(&same, Some(&mut a), &same, Some(&mut b), 50),
        );
        g.did(
            "to read-only",
            copy_file_range(&from, None, &from, None, 10),
        );
        let append = g.fd("to", "w append");
        g.did("to append", copy_file_range(&from, None, &append, None, 10));
        g.cat("from");
        g.cat("to");
    });
}

/// Copied bytes are seen by a reader who had the old ones cached, and mapped.
#[test]
fn readers_see_it() {
    parity(|g| {
        g.file("from", 0o644, vec![b'n'; 8192]);
        g.file("to", 0o644, vec![b'o'; 8192]);
        let to = g.fd("to", "rw");
        let map = crate::support::sys::Map::new(&to, 0, 8192, false, true).expect("mmap");
        g.note(format_args!("mapped {:?}", map.get(4090, 4)));
        let from = g.fd("from", "r");
        let (mut a, mut b) = (0, 4092);
        g.did(
            "copy",
            copy_file_range(&from, Some(&mut a), &to, Some(&mut b), 100),
        );
        g.note(format_args!("mapped {:?}", map.get(4090, 4)));
        g.cat("to");
    });
}
