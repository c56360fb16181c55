// SPDX-License-Identifier: MIT
//! lookup and stat: what a path leads to, and what is said of it.

use rustix::fs::{AtFlags, CWD, statat};

use crate::support::ground::parity;

/// Present, absent, through files, with dots and slashes: the same answers, before and after.
#[test]
fn paths_lead_where_they_lead() {
    parity(|g| {
        for path in ["nothing", "nothing/below", ".", "..", "./."] {
            g.did(
                format_args!("exists {path}"),
                statat(CWD, g.at(path), AtFlags::empty()).map(drop),
            );
        }
        g.mkdir("dir", 0o750);
        g.file("file", 0o640, "content");
        for path in [
            "dir",
            "dir/",
            "dir/.",
            "dir/..",
            "file",
            "file/",
            "file/below",
            "dir/none",
        ] {
            g.did(
                format_args!("exists {path}"),
                statat(CWD, g.at(path), AtFlags::empty()).map(drop),
            );
        }
        g.stat("dir");
        g.stat("file");
        // A name that was absent a moment ago, and one that was there.
        g.stat("late");
        g.file("late", 0o600, "");
        g.stat("late");
        g.unlink("late");
        g.stat("late");
        g.mkdir("late", 0o700);
        g.stat("late");
    });
}

/// Every name of an inode shows the same number, two inodes never do, and it stays.
#[test]
fn inode_numbers_tell_files_apart() {
    parity(|g| {
        g.file("a", 0o644, "a");
        g.file("b", 0o644, "b");
        g.link("a", "a2");
        let ino = |name: &str| rustix::fs::lstat(g.at(name)).expect("stat").st_ino;
        g.note(format_args!("a is a2: {}", ino("a") == ino("a2")));
        g.note(format_args!("a is b: {}", ino("a") == ino("b")));
        let before = ino("a");
        g.chmod("a", 0o600);
        g.note(format_args!("a stays: {}", ino("a") == before));
        let fd = g.fd("a", "r");
        let open = rustix::fs::fstat(&fd).expect("fstat").st_ino;
        g.note(format_args!("fstat agrees: {}", open == before));
    });
}

/// Sizes, link counts and blocks follow each change at once.
#[test]
fn stat_follows_every_change() {
    parity(|g| {
        g.file("f", 0o644, vec![7; 10_000]);
        g.stat("f");
        g.watch("f", || g.truncate("f", 100));
        g.watch("f", || g.chmod("f", 0o600));
        g.watch("f", || g.chown("f", 12, 34));
        g.watch("f", || g.link("f", "g"));
        g.watch("f", || g.unlink("g"));
        g.watch("f", || g.setxattr("f", "user.a", b"1"));
        g.watch("f", || g.removexattr("f", "user.a"));
        g.watch("f", || g.cat("f"));
        g.watch("f", || {
            g.rename("f", "f2", rustix::fs::RenameFlags::empty());
        });
        g.watch("f2", || {
            let fd = g.fd("f2", "w");
            g.did("write", rustix::io::write(&fd, b"x"));
        });
        g.stat("f2");
        let blocks = rustix::fs::lstat(g.at("f2")).map(|s| (s.st_blocks > 0, s.st_size));
        g.did("has blocks", blocks);
    });
}

/// A directory's times and link count follow its entries.
#[test]
fn directories_follow_their_entries() {
    parity(|g| {
        g.mkdir("d", 0o755);
        g.watch("d", || g.file("d/f", 0o644, ""));
        g.watch("d", || g.file("d/f", 0o644, "more"));
        g.watch("d", || g.link("d/f", "d/l"));
        g.watch("d", || g.symlink("f", "d/s"));
        g.watch("d", || g.mkdir("d/sub", 0o755));
        g.stat("d");
        g.watch("d", || {
            g.rename("d/l", "d/m", rustix::fs::RenameFlags::empty());
        });
        g.watch("d", || g.unlink("d/m"));
        g.watch("d", || g.rmdir("d/sub"));
        g.watch("d", || g.mknod("d/fifo", 0o010_644, 0));
        g.watch("d", || g.chmod("d/f", 0o600));
        g.watch("d", || g.stat("d/none"));
        g.stat("d");
    });
}
