// SPDX-License-Identifier: MIT
//! Append-only and immutable objects (`chattr +a`, `+i`): they refuse what the mirror does on its
//! own account, and that is no fault of the replica.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use crate::support::mount::TestMount;
use crate::support::run::run;
use crate::{need_product, need_programs, need_root};

/// What is locked cannot be removed: unlocks everything below at the end, whatever happened.
struct Unlocked(PathBuf);

impl Drop for Unlocked {
    fn drop(&mut self) {
        drop(run(Command::new("chattr")
            .args(["-R", "-f", "-ia"])
            .arg(&self.0)));
    }
}

/// `chattr` through the mount: of the two locks, exactly `flags`.
#[track_caller]
fn chattr(path: &Path, flags: IFlags) {
    let file = File::open(path).expect("open");
    let others = ioctl_getflags(&file).expect("lsattr") - (IFlags::APPEND | IFlags::IMMUTABLE);
    ioctl_setflags(&file, others | flags).expect("chattr");
}

fn append(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    File::options().append(true).open(path)?.write_all(bytes)
}

/// The first append to an append-only file degraded the mirror: the daemon opened it without
/// O_APPEND, and its time could not be carried over. A `cat` afterwards failed, for want of a
/// descriptor that may be opened; and a write in place, which must fail, went through a descriptor
/// from before.
#[test]
fn append_only_files() {
    need_root!();
    need_product!();
    need_programs!("chattr");
    let mut mount = TestMount::new();
    let _unlocked = Unlocked(mount.dir().to_path_buf());
    let path = mount.at("log");
    std::fs::write(&path, "one ").expect("write");
    let before = File::options()
        .read(true)
        .write(true)
        .open(&path)
        .expect("open");
    chattr(&path, IFlags::APPEND);
    append(&path, b"two ").expect("append");
    assert_eq!(std::fs::read(&path).expect("cat"), b"one two ");
    append(&path, b"three ").expect("append");
    for file in [
        &before,
        &File::options().write(true).open(&path).expect("open"),
    ] {
        let refused = file.write_at(b"X", 0).expect_err("in place");
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    }
    assert_eq!(mount.state(), "in-sync");
    mount.assert_equal();
    // A new daemon, which has nothing open.
    drop(before);
    mount.umount();
    mount.mount();
    append(&path, b"four ").expect("append");
    File::open(&path).and_then(|f| f.sync_all()).expect("fsync");
    mount.assert_equal();
    append(&path, b"five ").expect("append");
    assert_eq!(
        std::fs::read(&path).expect("cat"),
        b"one two three four five "
    );
    let refused = File::options()
        .write(true)
        .open(&path)
        .and_then(|f| f.write_at(b"X", 3));
    assert_eq!(
        refused.map_err(|e| e.raw_os_error()),
        Err(Some(libc::EPERM))
    );
    assert_eq!(mount.state(), "in-sync");
    mount.assert_equal();
    chattr(&path, IFlags::empty());
    File::options()
        .write(true)
        .open(&path)
        .and_then(|f| f.write_at(b"X", 0))
        .expect("write");
    mount.finish();
}

/// `echo > f; chattr +i f` at once: the time of the write is carried over 40 ms later, and the
/// replica's twin refused it with EPERM.
#[test]
fn immutable_before_the_times_are_carried() {
    need_root!();
    need_product!();
    need_programs!("chattr");
    let mut mount = TestMount::new();
    let _unlocked = Unlocked(mount.dir().to_path_buf());
    let paths: Vec<_> = (0..20).map(|n| mount.at(format!("f{n}"))).collect();
    for (n, path) in paths.iter().enumerate() {
        std::fs::write(path, format!("{n}")).expect("write");
        chattr(
            path,
            if n % 3 == 0 {
                IFlags::APPEND
            } else {
                IFlags::IMMUTABLE
            },
        );
    }
    std::fs::create_dir(mount.at("d")).expect("mkdir");
    std::fs::write(mount.at("d/f"), "").expect("write");
    chattr(&mount.at("d"), IFlags::IMMUTABLE);
    mount.assert_equal();
    assert_eq!(mount.state(), "in-sync");
    let refused = std::fs::write(mount.at("d/g"), "").expect_err("immutable");
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    mount.umount();
    mount.mount();
    for path in paths.iter().chain([&mount.at("d")]) {
        chattr(path, IFlags::empty());
    }
    assert_eq!(mount.state(), "in-sync");
    mount.finish();
}

/// Names may be added to an append-only directory and none taken away; adding one moved its mtime,
/// which could not be carried over.
#[test]
fn creating_in_an_append_only_directory() {
    need_root!();
    need_product!();
    need_programs!("chattr");
    let mount = TestMount::new();
    let _unlocked = Unlocked(mount.dir().to_path_buf());
    let dir = mount.at("d");
    std::fs::create_dir(&dir).expect("mkdir");
    chattr(&dir, IFlags::APPEND);
    std::fs::write(dir.join("f"), "content").expect("write");
    mount.assert_equal();
    std::fs::create_dir(dir.join("e")).expect("mkdir");
    std::os::unix::fs::symlink("f", dir.join("s")).expect("symlink");
    std::fs::hard_link(dir.join("f"), dir.join("g")).expect("link");
    File::open(&dir).and_then(|d| d.sync_all()).expect("fsync");
    let errno = |done: std::io::Result<()>| done.map_err(|e| e.raw_os_error());
    assert_eq!(
        errno(std::fs::remove_file(dir.join("f"))),
        Err(Some(libc::EPERM))
    );
    assert_eq!(
        errno(std::fs::remove_dir(dir.join("e"))),
        Err(Some(libc::EPERM))
    );
    assert_eq!(
        errno(std::fs::rename(dir.join("f"), dir.join("h"))),
        Err(Some(libc::EPERM))
    );
    mount.assert_equal();
    assert_eq!(mount.state(), "in-sync");
    // What is made below inherits the flag on ext4.
    chattr(&dir.join("e"), IFlags::empty());
    chattr(&dir.join("f"), IFlags::empty());
    chattr(&dir, IFlags::empty());
    mount.finish();
}

/// A large write to a locked file is refused by both copies, who are asked at once: the replica's
/// refusal degraded the mirror.
#[test]
fn large_writes_to_locked_files() {
    need_root!();
    need_product!();
    need_programs!("chattr");
    let mount = TestMount::new();
    let _unlocked = Unlocked(mount.dir().to_path_buf());
    for (name, lock) in [("i", IFlags::IMMUTABLE), ("a", IFlags::APPEND)] {
        let path = mount.at(name);
        std::fs::write(&path, "before").expect("write");
        let file = File::options().write(true).open(&path).expect("open");
        chattr(&path, lock);
        let refused = file.write_at(&vec![1; 1 << 20], 0);
        let refused = refused.expect_err("locked").raw_os_error();
        assert_eq!(refused, Some(libc::EPERM));
        assert_eq!(mount.state(), "in-sync", "{name}");
        chattr(&path, IFlags::empty());
    }
    mount.finish();
}
