// SPDX-License-Identifier: MIT
//! unlink, and files that live on without a name while somebody has them open.

use rustix::fs::{FallocateFlags, RenameFlags, fallocate, fchmod, fchown, fsync, ftruncate};
use rustix::io::{pread, pwrite};

use crate::need_root;
use crate::support::ground::{Ground, parity};
use crate::support::user::{self, ALICE, BOB};

/// What can and what cannot be unlinked.
#[test]
fn refusals() {
    parity(|g| {
        g.mkdir("d", 0o755);
        g.file("f", 0o644, "");
        g.unlink("d");
        g.unlink("none");
        g.unlink("f/below");
        g.unlink("f");
        g.unlink("f");
        g.symlink("nowhere", "s");
        g.mknod("p", 0o010_644, 0);
        g.unlink("s");
        g.unlink("p");
        g.list(".");
    });
}

/// Everything a descriptor could do before, it can do after the name is gone.
fn use_nameless(g: &Ground, fd: &std::os::fd::OwnedFd) {
    g.fstat("nameless", fd);
    let mut buffer = [0; 32];
    g.did(
        "pread",
        pread(fd, &mut buffer[..], 0).map(|n| buffer[..n].to_vec()),
    );
    g.did("pwrite", pwrite(fd, b"written without a name", 3));
    g.did("fchmod", fchmod(fd, 0o604.into()));
    g.did("ftruncate", ftruncate(fd, 12));
    g.did("fsync", fsync(fd));
    let mut buffer = [0; 32];
    g.did(
        "pread",
        pread(fd, &mut buffer[..], 0).map(|n| buffer[..n].to_vec()),
    );
    g.did(
        "fsetxattr",
        rustix::fs::fsetxattr(fd, "user.late", b"1", rustix::fs::XattrFlags::empty()),
    );
    let mut value = [0; 8];
    g.did(
        "fgetxattr",
        rustix::fs::fgetxattr(fd, "user.late", &mut value[..]),
    );
    g.did("fallocate", fallocate(fd, FallocateFlags::empty(), 0, 100));
    let time = rustix::fs::Timespec {
        tv_sec: 5,
        tv_nsec: 6,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    g.did("futimens", rustix::fs::futimens(fd, &times));
    g.fstat("nameless", fd);
}

/// After unlink, and after rename over it.
#[test]
fn open_files_outlive_their_names() {
    parity(|g| {
        g.file("f", 0o644, "content of f");
        let fd = g.fd("f", "rw");
        g.unlink("f");
        g.stat("f");
        use_nameless(g, &fd);
        // A new file of the old name is another file.
        g.file("f", 0o600, "somebody else");
        use_nameless(g, &fd);
        g.cat("f");
        drop(fd);

        g.file("old", 0o644, "content of old");
        g.file("new", 0o644, "content of new");
        let fd = g.fd("old", "rw");
        g.rename("new", "old", RenameFlags::empty());
        use_nameless(g, &fd);
        g.cat("old");
        g.stat("old");
    });
}

/// Removed through one name, alive under the other.
#[test]
fn other_names_stay() {
    parity(|g| {
        g.file("a", 0o644, "linked");
        g.link("a", "b");
        let fd = g.fd("a", "rw");
        g.unlink("a");
        g.fstat("fd", &fd);
        g.did("pwrite", pwrite(&fd, b"LINK", 0));
        g.did("fchmod", fchmod(&fd, 0o640.into()));
        g.cat("b");
        g.stat("b");
        g.unlink("b");
        g.fstat("fd", &fd);
        use_nameless(g, &fd);
    });
}

/// Removed with its directory; a hundred at once.
#[test]
fn with_their_directories() {
    parity(|g| {
        g.mkdir("d", 0o755);
        let files: Vec<_> = (0..100)
            .map(|n| {
                let name = format!("d/f{n}");
                g.file(&name, 0o644, name.as_bytes());
                let fd = g.fd(&name, "rw");
                g.unlink(&name);
                fd
            })
            .collect();
        g.rmdir("d");
        for (n, fd) in files.iter().enumerate() {
            let mut buffer = [0; 16];
            g.did(
                n,
                pread(fd, &mut buffer[..], 0).map(|n| buffer[..n].to_vec()),
            );
            g.did(n, pwrite(fd, &[b'x'; 5000], 4000));
            g.fstat("f", fd);
        }
    });
}

/// An open directory that was removed: empty, and nothing can be made in it.
#[test]
fn removed_directories() {
    parity(|g| {
        g.mkdir("d", 0o755);
        let dir = g.fd("d", "r dir");
        g.rmdir("d");
        let nlink = rustix::fs::fstat(&dir).map(|s| s.st_nlink);
        g.did("nlink", nlink);
        g.did("mkdirat", rustix::fs::mkdirat(&dir, "x", 0o755.into()));
        let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
        g.quiet("openat", rustix::fs::openat(&dir, "x", flags, 0o644.into()))
            .map(drop)
            .unwrap_or(());
        g.did("fchmod", fchmod(&dir, 0o700.into()));
        let read = rustix::fs::Dir::read_from(&dir).map(|d| {
            d.filter(|e| {
                e.as_ref()
                    .is_ok_and(|e| !e.file_name().to_bytes().starts_with(b"."))
            })
            .count()
        });
        g.did("entries", read);
        g.mkdir("d", 0o755);
        g.file("d/new", 0o644, "");
        g.list("d");
    });
}

/// The sticky bit: only owners of the file or the directory remove.
#[test]
fn sticky_directories() {
    need_root!();
    parity(|g| {
        g.mkdir("tmp", 0o1777);
        g.chmod("tmp", 0o1777);
        user::with(ALICE, || {
            g.file("tmp/a", 0o666, "");
            g.mkdir("tmp/ad", 0o777);
        });
        user::with(BOB, || {
            g.unlink("tmp/a");
            g.rmdir("tmp/ad");
            g.rename("tmp/a", "tmp/b", RenameFlags::empty());
            g.file("tmp/bb", 0o666, "");
            g.rename("tmp/bb", "tmp/a", RenameFlags::empty());
        });
        user::with(ALICE, || g.unlink("tmp/a"));
        g.did(
            "chown",
            fchown(
                g.fd("tmp", "r dir"),
                Some(rustix::fs::Uid::from_raw(BOB.uid)),
                None,
            ),
        );
        user::with(BOB, || g.rmdir("tmp/ad"));
        g.list("tmp");
    });
}
