// SPDX-License-Identifier: MIT
//! rename: every pair of types under every flag, over open files, of directories in use.

use rustix::fs::RenameFlags;
use rustix::io::{pread, pwrite};

use crate::need_root;
use crate::support::ground::{Ground, parity};
use crate::support::user::{self, ALICE};

const PLAIN: RenameFlags = RenameFlags::empty();

fn make(g: &Ground, kind: &str, path: &str) {
    match kind {
        "file" => g.file(path, 0o644, path),
        "dir" => g.mkdir(path, 0o755),
        "full" => {
            g.mkdir(path, 0o755);
            g.file(&format!("{path}/in"), 0o644, "in");
        }
        "link" => g.symlink("target", path),
        "fifo" => g.mknod(path, 0o010_644, 0),
        "none" => {}
        other => panic!("no such kind: {other}"),
    }
}

/// The whole matrix: six kinds onto six kinds, plain, NOREPLACE, EXCHANGE, both, WHITEOUT.
#[test]
fn every_kind_onto_every_kind() {
    need_root!();
    parity(|g| {
        let kinds = ["file", "dir", "full", "link", "fifo", "none"];
        let all = [
            PLAIN,
            RenameFlags::NOREPLACE,
            RenameFlags::EXCHANGE,
            RenameFlags::NOREPLACE | RenameFlags::EXCHANGE,
            RenameFlags::WHITEOUT,
            RenameFlags::WHITEOUT | RenameFlags::NOREPLACE,
            RenameFlags::WHITEOUT | RenameFlags::EXCHANGE,
        ];
        for (f, flags) in all.into_iter().enumerate() {
            for (i, from) in kinds.iter().enumerate() {
                for (j, to) in kinds.iter().enumerate() {
                    let dir = format!("{f}{i}{j}");
                    g.mkdir(&dir, 0o755);
                    make(g, from, &format!("{dir}/a"));
                    make(g, to, &format!("{dir}/b"));
                    g.rename(&format!("{dir}/a"), &format!("{dir}/b"), flags);
                    g.stat(&format!("{dir}/a"));
                    g.stat(&format!("{dir}/b"));
                    g.stat(&dir);
                    g.list(&dir);
                }
            }
        }
    });
}

/// Into another directory, into itself, onto itself, onto its own hard link.
#[test]
fn places() {
    parity(|g| {
        g.mkdir("d", 0o755);
        g.mkdir("d/e", 0o755);
        g.mkdir("x", 0o755);
        g.rename("d", "d/e/f", PLAIN);
        g.rename("d", "d", PLAIN);
        g.rename("d/e", "d", PLAIN);
        g.watch("x", || g.watch("d", || g.rename("d/e", "x/e", PLAIN)));
        g.stat("d");
        g.stat("x");
        g.file("f", 0o644, "f");
        g.link("f", "g");
        g.rename("f", "g", PLAIN);
        g.list(".");
        g.rename("f", "none/f", PLAIN);
        g.rename("none", "f", PLAIN);
        g.rename("f", "f/x", PLAIN);
        g.rename("f", "x/", PLAIN);
        g.rename(".", "y", PLAIN);
        g.rename("f", "..", PLAIN);
        g.rename("f", &"n".repeat(256), PLAIN);
        g.rename("f", &"n".repeat(255), PLAIN);
        g.list(".");
    });
}

/// Descriptors follow the inode: the moved file stays open, the replaced one lives on nameless.
#[test]
fn over_open_files() {
    parity(|g| {
        g.file("a", 0o644, "this is a");
        g.file("b", 0o644, "this is b");
        let (a, b) = (g.fd("a", "rw"), g.fd("b", "rw"));
        g.rename("a", "b", PLAIN);
        g.did("pwrite", pwrite(&a, b"AAAA", 0));
        g.did("pwrite", pwrite(&b, b"BBBB", 0));
        g.fstat("a", &a);
        g.fstat("b", &b);
        g.cat("b");
        let mut buffer = [0; 9];
        g.did(
            "pread",
            pread(&b, &mut buffer[..], 0).map(|n| buffer[..n].to_vec()),
        );

        g.file("c", 0o644, "this is c");
        g.rename("b", "c", RenameFlags::EXCHANGE);
        g.did("pwrite", pwrite(&a, b"aaaa", 0));
        g.cat("b");
        g.cat("c");
        g.fstat("a", &a);
    });
}

/// A directory moves while files below it are open and a process stands in it.
#[test]
fn directories_in_use() {
    parity(|g| {
        g.mkdir("d", 0o755);
        g.mkdir("d/deep", 0o755);
        g.mkdir("x", 0o755);
        g.file("d/deep/f", 0o644, "content");
        let fd = g.fd("d/deep/f", "rw");
        let dir = g.fd("d/deep", "r dir");
        g.rename("d", "x/moved", PLAIN);
        g.did("pwrite", pwrite(&fd, b"CON", 0));
        g.cat("x/moved/deep/f");
        g.did("mkdirat", rustix::fs::mkdirat(&dir, "new", 0o755.into()));
        g.list("x/moved/deep");
        let up = rustix::fs::statat(&dir, "../../moved", rustix::fs::AtFlags::empty()).map(drop);
        g.did("dot dot", up);
        g.mkdir("other", 0o700);
        g.rename("x/moved", "other", RenameFlags::EXCHANGE);
        g.did(
            "unlinkat",
            rustix::fs::unlinkat(&dir, "f", rustix::fs::AtFlags::empty()),
        );
        g.list("other/deep");
        g.stat("x/moved");
    });
}

/// What a user may move where.
#[test]
fn by_users() {
    need_root!();
    parity(|g| {
        g.mkdir("his", 0o777);
        g.chmod("his", 0o777);
        g.mkdir("roots", 0o755);
        g.file("roots/f", 0o666, "");
        user::with(ALICE, || {
            g.mkdir("his/d", 0o755);
            g.file("his/f", 0o644, "");
            g.rename("his/f", "roots/g", PLAIN);
            g.rename("roots/f", "his/g", PLAIN);
            g.rename("his/d", "his/e", PLAIN);
            g.rename("his/f", "his/g", RenameFlags::NOREPLACE);
        });
        g.list("his");
        g.list("roots");
    });
}
