// SPDX-License-Identifier: MIT
//! symlink: any target is kept byte for byte and never followed by us.

use crate::support::ground::parity;

/// Short, long (4095 bytes), dangling, absolute, odd: read back as written.
#[test]
fn targets() {
    parity(|g| {
        let long = "x".repeat(4095);
        let too_long = "x".repeat(4096);
        let targets = [
            "a",
            "/nowhere",
            "../..",
            "dangling/..",
            "new\nline",
            &"y".repeat(59),
            &"z".repeat(60),
            &long,
        ];
        for (n, target) in targets.into_iter().enumerate() {
            let path = format!("link{n}");
            g.symlink(target, &path);
            g.readlink(&path);
            g.stat(&path);
        }
        g.symlink(&too_long, "too-long");
        g.symlink("", "empty");
        g.symlink("a", "link0");
        g.symlink("a", "none/link");
        g.list(".");
    });
}

/// Followed by the kernel to where it leads, loops included.
#[test]
fn following() {
    parity(|g| {
        g.mkdir("dir", 0o755);
        g.file("dir/file", 0o644, "content");
        g.symlink("dir", "to-dir");
        g.symlink("dir/file", "to-file");
        g.symlink("loop2", "loop1");
        g.symlink("loop1", "loop2");
        g.cat("to-dir/file");
        g.cat("to-file");
        g.cat("loop1");
        let _refused = g.open("to-file", "r nofollow", 0);
        let _refused = g.open("to-dir", "r dir nofollow", 0);
        g.file("to-file", 0o644, "new content");
        g.cat("dir/file");
        g.symlink("made", "dangling");
        let _refused = g.open("dangling", "w creat excl", 0o644);
        g.file("dangling", 0o644, "through");
        g.cat("made");
        g.unlink("to-dir");
        g.rmdir("to-file");
        g.link("to-file", "hard");
        g.stat("hard");
        g.rename("to-file", "moved", rustix::fs::RenameFlags::empty());
        g.readlink("moved");
        g.readlink("dir");
    });
}
