// SPDX-License-Identifier: MIT
//! Set-uid and set-gid bits fall when the file is changed by someone without privilege, whichever
//! way it is changed, on both copies.

use rustix::fs::ftruncate;
use rustix::io::pwrite;

use crate::need_root;
use crate::support::ground::{Ground, parity};
use crate::support::user::{self, ALICE};

type Way = (&'static str, fn(&Ground, &str));

fn ways() -> Vec<Way> {
    vec![
        ("write", |g, path| {
            g.did("write", rustix::io::write(g.fd(path, "w"), b"x"));
        }),
        ("append", |g, path| {
            g.did("append", rustix::io::write(g.fd(path, "w append"), b"x"));
        }),
        ("nothing", |g, path| {
            g.did("write nothing", rustix::io::write(g.fd(path, "w"), b""));
        }),
        ("direct", |g, path| {
            let buffer = vec![7_u8; 8192];
            let at = buffer.as_ptr().align_offset(4096);
            let fd = g.fd(path, "w direct");
            g.did("direct write", pwrite(&fd, &buffer[at..at + 4096], 0));
        }),
        ("ftruncate", |g, path| {
            g.did("ftruncate", ftruncate(g.fd(path, "w"), 10));
        }),
        ("same size", |g, path| {
            g.did("ftruncate", ftruncate(g.fd(path, "w"), 6000));
        }),
        ("O_TRUNC", |g, path| drop(g.open(path, "w trunc", 0))),
        ("chmod", |g, path| g.chmod(path, 0o6777)),
        ("touch", |g, path| g.utimens(path, (1, 2), (3, 4))),
        ("read", |g, path| g.cat(path)),
        ("mmap", |g, path| {
            let map = crate::support::sys::Map::new(g.fd(path, "rw"), 0, 4096, true, true);
            map.as_ref().expect("mmap").put(5, b"stored");
            g.did("msync", map.expect("mmap").sync());
        }),
        ("copy_file_range", |g, path| {
            let (from, to) = (g.fd("from", "r"), g.fd(path, "w"));
            g.did(
                "copy",
                rustix::fs::copy_file_range(&from, None, &to, None, 100),
            );
        }),
    ]
}

/// By another user, by the owner, by root, under every combination of bits.
#[test]
fn every_way_to_change_a_file() {
    need_root!();
    parity(|g| {
        g.file("from", 0o666, vec![b'f'; 200]);
        for (n, (what, change)) in ways().into_iter().enumerate() {
            for bits in [0o6777, 0o4777, 0o2777, 0o2767, 0o6767, 0o6666] {
                for owner in [0, ALICE.uid] {
                    g.note(format_args!("{what} of {bits:o}, owner {owner}"));
                    let path = format!("f{n}-{bits:o}-{owner}");
                    g.file(&path, 0o666, vec![1; 6000]);
                    g.chown(&path, owner.into(), owner.into());
                    g.chmod(&path, bits);
                    user::with(ALICE, || change(g, &path));
                    g.stat(&path);
                    g.chmod(&path, bits);
                    change(g, &path);
                    g.stat(&path);
                }
            }
        }
    });
}

/// The second write of an open file, after somebody set the bits again.
#[test]
fn bits_set_between_writes() {
    need_root!();
    parity(|g| {
        g.file("f", 0o666, "");
        g.chmod("f", 0o666);
        let fd = g.fd("f", "rw");
        for _ in 0..3 {
            g.chmod("f", 0o6777);
            g.stat("f");
            user::with(ALICE, || g.did("write", rustix::io::write(&fd, b"two")));
            g.stat("f");
        }
    });
}
