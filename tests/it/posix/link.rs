// SPDX-License-Identifier: MIT
//! link: one inode under many names, its count right under each of them.

use crate::need_root;
use crate::support::ground::parity;
use crate::support::user::{self, ALICE};

/// Counts, content and attributes are shared, through every name and every removal.
#[test]
fn counts_and_content() {
    parity(|g| {
        g.file("a", 0o644, "one");
        g.mkdir("d", 0o755);
        g.link("a", "b");
        g.link("b", "d/c");
        let see = || ["a", "b", "d/c"].iter().for_each(|p| g.stat(p));
        see();
        g.file("d/c", 0o644, "changed through c");
        g.cat("a");
        g.chmod("b", 0o600);
        g.setxattr("a", "user.x", b"1");
        g.getxattr("d/c", "user.x");
        see();
        g.unlink("a");
        see();
        g.rename("b", "e", rustix::fs::RenameFlags::empty());
        g.stat("e");
        g.stat("d/c");
        g.unlink("e");
        g.stat("d/c");
        g.cat("d/c");
        g.link("d", "dir");
        g.link("none", "x");
        g.link("d/c", "d/c");
        g.link("d/c", "none/c");
    });
}

/// A hundred names, and special files have them too.
#[test]
fn many_names() {
    need_root!();
    parity(|g| {
        g.file("f", 0o644, "x");
        for n in 0..100 {
            g.link("f", &format!("f{n}"));
        }
        g.stat("f77");
        g.mknod("fifo", 0o010_644, 0);
        g.link("fifo", "fifo2");
        g.symlink("t", "s");
        g.link("s", "s2");
        g.stat("s2");
        g.stat("fifo2");
        for n in (0..100).step_by(3) {
            g.unlink(&format!("f{n}"));
        }
        g.stat("f");
    });
}

/// The kernel's protection of hard links, and directories that may not be written.
#[test]
fn by_users() {
    need_root!();
    parity(|g| {
        g.mkdir("d", 0o777);
        g.chmod("d", 0o777);
        g.file("d/roots", 0o600, "");
        g.file("d/open", 0o666, "");
        g.chmod("d/open", 0o666);
        user::with(ALICE, || {
            g.link("d/roots", "d/stolen");
            g.link("d/open", "d/shared");
            g.link("d/open", "above");
        });
        g.list("d");
    });
}

/// A descriptor is given a name again through /proc.
#[test]
fn linkat_of_a_descriptor() {
    use std::os::fd::AsRawFd;
    parity(|g| {
        g.file("f", 0o644, "x");
        let fd = g.fd("f", "r");
        let proc = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let flags = rustix::fs::AtFlags::SYMLINK_FOLLOW;
        let cwd = rustix::fs::CWD;
        g.did(
            "linkat",
            rustix::fs::linkat(cwd, &proc, cwd, g.at("g"), flags),
        );
        g.unlink("f");
        g.unlink("g");
        g.did(
            "linkat of the unlinked",
            rustix::fs::linkat(cwd, &proc, cwd, g.at("h"), flags),
        );
        g.fstat("fd", &fd);
    });
}

/// As many names as the file system takes: 65,000 on ext4, then EMLINK.
#[test]
fn as_many_as_the_file_system_takes() {
    parity(|g| {
        g.file("f", 0o644, "x");
        let (from, dir) = (g.at("f"), g.fd(".", "r dir"));
        let cwd = rustix::fs::CWD;
        let flags = rustix::fs::AtFlags::empty();
        let mut names = 0..70_000;
        let refused =
            names.find_map(|n| rustix::fs::linkat(cwd, &from, &dir, n.to_string(), flags).err());
        g.note(format_args!("{refused:?} leaving {} names", names.len()));
        g.stat("f");
        g.unlink("0");
        g.link("f", "one-more");
        g.stat("f");
    });
}
