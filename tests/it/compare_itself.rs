// SPDX-License-Identifier: MIT
//! The comparison is what every other story ends with, so it is tested first: a specimen tree with
//! everything in it is copied, one thing is spoiled, and exactly that has to be reported.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{FileType, IFlags, XattrFlags};

use crate::support::acl::{self, Ace};
use crate::support::compare::{Ignore, differences};
use crate::support::run::run;
use crate::support::{base, temp_in};
use crate::{need_programs, need_root};

fn specimen(root: &Path) {
    let at = |name: &str| root.join(name);
    std::fs::create_dir_all(at("dir/sub")).expect("mkdir");
    std::fs::write(at("plain"), b"hello\n".repeat(1000)).expect("write");
    std::fs::hard_link(at("plain"), at("dir/link")).expect("link");
    std::fs::write(at("other"), b"other").expect("write");
    let sparse = File::create(at("sparse")).expect("create");
    sparse.write_all_at(b"head", 0).expect("write");
    sparse.write_all_at(b"tail", 5 << 30).expect("write");
    sparse.sync_all().expect("fsync");
    std::os::unix::fs::symlink("plain", at("sym")).expect("symlink");
    let special = |name, kind, rdev| {
        rustix::fs::mknodat(rustix::fs::CWD, at(name), kind, 0o600.into(), rdev).expect("mknod");
    };
    special("chr", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    special("fifo", FileType::Fifo, 0);
    special("sock", FileType::Socket, 0);
    set(&at("plain"), "user.note", b"text");
    set(&at("fifo"), "trusted.onfifo", b"1");
    set(&at("other"), acl::ACCESS, &acl_of(6));
    set(&at("dir"), acl::DEFAULT, &acl_of(4));
    set(&at("."), "user.root", b"r");
}

fn acl_of(perm: u16) -> Vec<u8> {
    use Ace::{Mask, Other, Owner, OwningGroup, User};
    acl::encode(&[
        Owner(6),
        User(1234, perm),
        OwningGroup(4),
        Mask(6),
        Other(0),
    ])
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).expect("setxattr");
}

/// Copies the specimen, checks that it is equal, spoils the copy and names the kinds reported.
fn spoiled(spoil: impl FnOnce(&Path)) -> Vec<String> {
    let dir = temp_in(&base());
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    std::fs::create_dir(&a).expect("mkdir");
    specimen(&a);
    run(Command::new("cp")
        .args(["-a", "--sparse=always"])
        .arg(&a)
        .arg(&b))
    .ok();
    let found = differences(&a, &b, Ignore::default());
    assert!(found.is_empty(), "a faithful copy is equal: {found:?}");
    spoil(&b);
    let found = differences(&a, &b, Ignore::default());
    let mut kinds: Vec<_> = found.iter().map(|d| d.kind().to_owned()).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

/// Puts mtimes back, so that only the thing itself is reported.
fn keeping_times(path: &Path, change: impl FnOnce()) {
    let old = rustix::fs::lstat(path).expect("stat");
    change();
    let time = rustix::fs::Timespec {
        tv_sec: old.st_mtime,
        tv_nsec: old.st_mtime_nsec.cast_signed(),
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    let nofollow = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, nofollow).expect("utimens");
}

/// Each kind of damage is found, and called by its name.
#[test]
fn every_kind_of_difference_is_reported() {
    need_root!();
    need_programs!("cp");
    type Spoil = Box<dyn Fn(&Path)>;
    let cases: Vec<(&str, Spoil)> = vec![
        (
            "mode",
            Box::new(|b| rustix::fs::chmod(b.join("plain"), 0o600.into()).expect("chmod")),
        ),
        (
            "mode",
            Box::new(|b| rustix::fs::chmod(b, 0o700.into()).expect("chmod")),
        ),
        (
            "uid",
            Box::new(|b| std::os::unix::fs::lchown(b.join("sym"), Some(7), None).expect("chown")),
        ),
        (
            "gid",
            Box::new(|b| std::os::unix::fs::lchown(b.join("fifo"), None, Some(7)).expect("chown")),
        ),
        (
            "content at 1000",
            Box::new(|b| {
                keeping_times(&b.join("plain"), || {
                    let file = OpenOptions::new()
                        .write(true)
                        .open(b.join("plain"))
                        .expect("open");
                    file.write_all_at(b"X", 1000).expect("write");
                });
            }),
        ),
        (
            "content at 5368709122",
            Box::new(|b| {
                keeping_times(&b.join("sparse"), || {
                    let file = OpenOptions::new()
                        .write(true)
                        .open(b.join("sparse"))
                        .expect("open");
                    file.write_all_at(b"X", (5 << 30) + 2).expect("write");
                });
            }),
        ),
        ("mtime", Box::new(|b| keeping_times_not(&b.join("plain")))),
        ("mtime", Box::new(|b| keeping_times_not(&b.join("dir")))),
        ("mtime", Box::new(|b| keeping_times_not(&b.join("sym")))),
        ("mtime", Box::new(keeping_times_not)),
        (
            "xattr user.note",
            Box::new(|b| set(&b.join("plain"), "user.note", b"Text")),
        ),
        (
            "xattr trusted.onfifo",
            Box::new(|b| {
                rustix::fs::lremovexattr(b.join("fifo"), "trusted.onfifo").expect("removexattr");
            }),
        ),
        ("xattr user.root", Box::new(|b| set(b, "user.root", b""))),
        (
            "xattr system.posix_acl_access",
            Box::new(|b| set(&b.join("other"), acl::ACCESS, &acl_of(4))),
        ),
        (
            "xattr system.posix_acl_default",
            Box::new(|b| set(&b.join("dir"), acl::DEFAULT, &acl_of(6))),
        ),
        (
            "chattr flags",
            Box::new(|b| {
                let fd = File::open(b.join("other")).expect("open");
                rustix::fs::ioctl_setflags(fd, IFlags::NOATIME).expect("chattr +A");
            }),
        ),
    ];
    for (number, (kind, spoil)) in cases.into_iter().enumerate() {
        assert_eq!(spoiled(spoil), [kind], "case {number}");
    }
}

/// One nanosecond is a difference.
fn keeping_times_not(path: &Path) {
    let old = rustix::fs::lstat(path).expect("stat");
    let tv_nsec = (old.st_mtime_nsec.cast_signed() + 1) % 1_000_000_000;
    let time = rustix::fs::Timespec {
        tv_sec: old.st_mtime,
        tv_nsec,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    let nofollow = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, nofollow).expect("utimens");
}

/// Changes of names come with the directory's mtime; they are found besides it.
#[test]
fn names_types_links_and_holes_are_compared() {
    need_root!();
    need_programs!("cp");
    let has = |kinds: &[String], kind: &str| {
        assert!(
            kinds.iter().any(|k| k == kind),
            "{kind} not among {kinds:?}"
        );
    };
    has(
        &spoiled(|b| std::fs::write(b.join("dir/new"), b"").expect("write")),
        "only in B",
    );
    has(
        &spoiled(|b| std::fs::remove_file(b.join("fifo")).expect("unlink")),
        "only in A",
    );
    let kinds = spoiled(|b| {
        std::fs::remove_file(b.join("sym")).expect("unlink");
        std::os::unix::fs::symlink("other", b.join("sym")).expect("symlink");
    });
    has(&kinds, "symlink target");
    let kinds = spoiled(|b| {
        std::fs::remove_file(b.join("other")).expect("unlink");
        std::fs::create_dir(b.join("other")).expect("mkdir");
    });
    has(&kinds, "type");
    let kinds = spoiled(|b| {
        std::fs::remove_file(b.join("dir/link")).expect("unlink");
        std::fs::copy(b.join("plain"), b.join("dir/link")).expect("copy");
    });
    has(&kinds, "hard links");
    has(&kinds, "nlink");
    let kinds = spoiled(|b| {
        std::fs::remove_file(b.join("chr")).expect("unlink");
        let rdev = rustix::fs::makedev(1, 5);
        let kind = FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, b.join("chr"), kind, 0o600.into(), rdev)
            .expect("mknod");
    });
    has(&kinds, "device");
    let kinds = spoiled(|b| {
        let file = OpenOptions::new()
            .write(true)
            .open(b.join("sparse"))
            .expect("open");
        file.write_all_at(&[0; 4096], 1 << 20)
            .expect("zeros where there was a hole");
        file.sync_all().expect("fsync");
    });
    has(&kinds, "data map");
    let kinds = spoiled(|b| {
        File::options()
            .append(true)
            .open(b.join("other"))
            .and_then(|f| f.set_len(6))
            .expect("grow");
    });
    has(&kinds, "size");
}

/// A tree deeper than PATH_MAX is compared to its bottom.
#[test]
fn deeper_than_any_path() {
    let dir = temp_in(&base());
    let tops = ["a", "b"].map(|name| dir.path().join(name));
    for (number, top) in tops.iter().enumerate() {
        std::fs::create_dir(top).expect("mkdir");
        let mut fd = File::open(top)
            .map(std::os::fd::OwnedFd::from)
            .expect("open");
        let name = "d".repeat(200);
        for _ in 0..40 {
            rustix::fs::mkdirat(&fd, &name, 0o755.into()).expect("mkdir");
            let flags = rustix::fs::OFlags::DIRECTORY;
            fd = rustix::fs::openat(&fd, &name, flags, 0o000.into()).expect("open");
        }
        let target = if number == 0 { "x" } else { "y" };
        rustix::fs::symlinkat(target, &fd, "bottom").expect("symlink");
    }
    let ignore = Ignore {
        times: true,
        ..Ignore::default()
    };
    let found = differences(&tops[0], &tops[1], ignore);
    let kinds: Vec<_> = found
        .iter()
        .map(crate::support::compare::Difference::kind)
        .collect();
    assert_eq!(kinds, ["symlink target"]);
}
