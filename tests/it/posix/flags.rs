// SPDX-License-Identifier: MIT
//! FS_IOC_GETFLAGS and SETFLAGS: chattr through the mount, on both copies, and obeyed.

use rustix::fs::{IFlags, OFlags, ioctl_getflags, ioctl_setflags};

use crate::need_root;
use crate::support::ground::{Ground, parity};
use crate::support::user::{self, ALICE};

/// Opens and writes, as one answer: without OPEN requests the refusal comes with the write.
fn write(g: &Ground, path: &str) {
    let fd = rustix::fs::open(g.at(path), OFlags::WRONLY | OFlags::CLOEXEC, 0o000.into());
    g.did(
        format_args!("write {path}"),
        fd.and_then(|fd| rustix::io::write(fd, b"x")),
    );
}

fn change(g: &Ground, path: &str, flags: &str, on: IFlags, off: IFlags) {
    let fd = g.fd(path, flags);
    let answer = ioctl_getflags(&fd).and_then(|old| ioctl_setflags(&fd, (old | on) - off));
    g.did(format_args!("chattr {path} +{on:?} -{off:?}"), answer);
    let mine = IFlags::NOATIME | IFlags::NODUMP | IFlags::IMMUTABLE | IFlags::APPEND | IFlags::SYNC;
    g.did("lsattr", ioctl_getflags(&fd).map(|f| f & mine));
}

/// Flags are set, shown and taken back, on files and directories.
#[test]
fn set_and_shown() {
    need_root!();
    parity(|g| {
        g.file("f", 0o644, "content");
        g.mkdir("d", 0o755);
        let none = IFlags::empty();
        for (path, how) in [("f", "r"), ("d", "r dir")] {
            for flag in [IFlags::NOATIME, IFlags::NODUMP, IFlags::SYNC] {
                g.watch(path, || change(g, path, how, flag, none));
                change(g, path, how, none, flag);
            }
        }
        change(g, "f", "r", IFlags::NODUMP, none);
    });
}

/// An immutable file stays as it is, an append-only one only grows.
#[test]
fn immutable_and_append_only() {
    need_root!();
    parity(|g| {
        g.file("f", 0o644, "content");
        let none = IFlags::empty();
        change(g, "f", "r", IFlags::IMMUTABLE, none);
        write(g, "f");
        g.chmod("f", 0o600);
        g.unlink("f");
        g.link("f", "g");
        g.rename("f", "h", rustix::fs::RenameFlags::empty());
        g.truncate("f", 0);
        g.setxattr("f", "user.x", b"1");
        change(g, "f", "r", none, IFlags::IMMUTABLE);
        change(g, "f", "r", IFlags::APPEND, none);
        write(g, "f");
        let fd = g.open("f", "w append", 0);
        if let Ok(fd) = &fd {
            g.did("append", rustix::io::write(fd, b" more"));
        }
        g.unlink("f");
        change(g, "f", "r", none, IFlags::APPEND);
        g.cat("f");
        g.unlink("f");
    });
}

/// A user sets what owners may, and nothing that takes privilege.
#[test]
fn by_users() {
    need_root!();
    parity(|g| {
        g.file("f", 0o644, "");
        g.chown("f", ALICE.uid.into(), ALICE.gid.into());
        let none = IFlags::empty();
        user::with(ALICE, || change(g, "f", "r", IFlags::NODUMP, none));
        user::with(ALICE, || change(g, "f", "r", IFlags::IMMUTABLE, none));
        user::with(crate::support::user::BOB, || {
            change(g, "f", "r", IFlags::NOATIME, none);
        });
    });
}
