// SPDX-License-Identifier: MIT
//! rmdir: empty directories only.

use crate::support::ground::parity;

/// What is removed, what is refused, with which word.
#[test]
fn empty_only() {
    parity(|g| {
        g.mkdir("d", 0o755);
        g.mkdir("d/sub", 0o755);
        g.file("f", 0o644, "");
        g.symlink("d", "s");
        for path in ["d", "f", "s", "none", "d/.", "d/..", ".", "f/x"] {
            g.rmdir(path);
        }
        g.watch("d", || g.rmdir("d/sub"));
        g.file("d/.hidden", 0o644, "");
        g.rmdir("d");
        g.unlink("d/.hidden");
        g.rmdir("d/");
        g.rmdir("d");
        g.stat(".");
        g.list(".");
    });
}
