// SPDX-License-Identifier: MIT
//! A replica that fails never hurts the application: the mirror says DEGRADED, says why, goes on,
//! and no later mount calls that replica in-sync before it was compared.

use std::path::{Path, PathBuf};

use crate::support::image::{Bind, Image};
use crate::support::mount::{TestMount, Wish};
use crate::support::{temp_in, wait_until};
use crate::{need_product, need_programs, need_root};

/// A mirror whose replica is a directory on a file system of its own.
fn on_image(image: &Image) -> (TestMount, PathBuf) {
    let replica = image.path().join("copy");
    std::fs::create_dir(&replica).expect("mkdir");
    let mount = Wish::default().replica(&replica).mount();
    std::fs::create_dir(mount.at("d")).expect("mkdir");
    std::fs::write(mount.at("d/before"), "from before").expect("write");
    assert_eq!(mount.state(), "in-sync");
    (mount, replica)
}

/// A working day on the mount; every call has to succeed.
fn work(dir: &Path, mib: usize) {
    std::fs::create_dir_all(dir.join("work/deep")).expect("mkdir");
    std::fs::write(dir.join("work/big"), vec![b'x'; mib << 20]).expect("write");
    for n in 0..50 {
        let file = dir.join(format!("work/deep/{n}"));
        std::fs::write(&file, format!("number {n}")).expect("write");
        std::fs::rename(&file, dir.join(format!("work/{n}"))).expect("rename");
    }
    std::fs::write(dir.join("d/before"), "changed").expect("write");
    std::fs::remove_file(dir.join("work/7")).expect("unlink");
    std::fs::hard_link(dir.join("work/8"), dir.join("work/link")).expect("link");
    std::fs::remove_file(dir.join("work/link")).expect("unlink");
    std::os::unix::fs::symlink("8", dir.join("work/sym")).expect("symlink");
    std::fs::rename(dir.join("work/sym"), dir.join("work/symlink")).expect("rename");
    let file = std::fs::OpenOptions::new()
        .append(true)
        .open(dir.join("work/9"))
        .expect("open");
    file.sync_all().expect("fsync");
    assert_eq!(
        std::fs::read(dir.join("work/8")).expect("read"),
        b"number 8"
    );
    assert_eq!(
        std::fs::read(dir.join("work/big")).expect("read").len(),
        mib << 20
    );
}

/// The mirror says that it is degraded, why and what to do, in text and JSON.
#[track_caller]
fn says_degraded(mount: &TestMount, errno: &[&str]) {
    wait_until("DEGRADED", || mount.state() == "degraded");
    let json = mount.status_json();
    let reason = json["reason"]["errno"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(errno.contains(&reason.as_str()), "{json}");
    assert!(
        json["reason"]["id"]
            .as_str()
            .is_some_and(|id| id.starts_with("MF-")),
        "{json}"
    );
    assert!(
        json["reason"]["since"]
            .as_str()
            .is_some_and(|t| t.contains('T')),
        "{json}"
    );
    assert_ne!(json["replicas"][0]["state"], "in-sync", "{json}");
    assert!(
        json["replicas"][0]["errors"]
            .as_u64()
            .is_some_and(|n| n > 0),
        "{json}"
    );
    assert_eq!(json["primary"]["state"], "online");
    let text = mount.status().code(1);
    for words in ["DEGRADED", "status:", "action:", reason.as_str()] {
        assert!(text.out.contains(words), "lacks {words:?}: {text}");
    }
}

/// Mounts again: what the replica misses is healed without a word.
#[track_caller]
pub(crate) fn heals_by_itself(mut mount: TestMount) {
    mount.mount_and_heal(&[]);
    std::fs::write(mount.at("together"), "on both").expect("write");
    mount.umount();
    mount.mount();
    assert_eq!(mount.state(), "in-sync");
    mount.finish();
}

/// The replica's disk is full.
#[test]
fn no_space() {
    need_root!();
    need_product!();
    let image = Image::new("ext4", 24, &[]);
    let (mut mount, _) = on_image(&image);
    work(&mount.mountpoint, 60);
    says_degraded(&mount, &["ENOSPC"]);
    work(&mount.mountpoint, 1);
    std::fs::remove_file(mount.at("work/big")).expect("unlink");
    mount.umount();
    heals_by_itself(mount);
}

/// The replica's disk has no inodes left.
#[test]
fn no_inodes() {
    need_root!();
    need_product!();
    let image = Image::new("ext4", 24, &["-N", "64"]);
    let (mut mount, _) = on_image(&image);
    for n in 0..200 {
        std::fs::write(mount.at(format!("f{n}")), "x").expect("write");
    }
    says_degraded(&mount, &["ENOSPC"]);
    for n in 0..200 {
        std::fs::remove_file(mount.at(format!("f{n}"))).expect("unlink");
    }
    mount.umount();
    heals_by_itself(mount);
}

/// The replica's disk turns read-only, and writable again later.
#[test]
fn read_only() {
    need_root!();
    need_product!();
    let image = Image::new("ext4", 64, &[]);
    let place = temp_in(&crate::support::base());
    let bind = Bind::new(&image.path(), place.path());
    let replica = place.path().join("copy");
    std::fs::create_dir(&replica).expect("mkdir");
    let mut mount = Wish::default().replica(&replica).mount();
    std::fs::create_dir(mount.at("d")).expect("mkdir");
    std::fs::write(mount.at("d/before"), "from before").expect("write");
    // A new daemon: one that had written would still hold files open there, and the kernel would
    // refuse to turn the mount read-only.
    mount.umount();
    mount.mount();
    bind.read_only(true);
    work(&mount.mountpoint, 1);
    says_degraded(&mount, &["EROFS"]);
    mount.umount();
    bind.read_only(false);
    heals_by_itself(mount);
}

/// The replica's disk answers everything with EIO, on ext4 and on XFS.
#[test]
fn input_output_errors() {
    need_root!();
    need_product!();
    need_programs!("xfs_io", "mkfs.xfs");
    for (kind, mib) in [("ext4", 64), ("xfs", 320)] {
        let mut image = Image::new(kind, mib, &[]);
        let (mut mount, _) = on_image(&image);
        crate::support::run::run(
            std::process::Command::new("sync")
                .arg("-f")
                .arg(image.path()),
        )
        .ok();
        image.shut_down();
        work(&mount.mountpoint, 1);
        says_degraded(&mount, &["EIO"]);
        mount.umount();
        image.unmount(true);
        image.mount();
        heals_by_itself(mount);
    }
}

/// The replica's file system is taken away lazily and its mount point left bare: the bare
/// directory is recognised at the next mount and never filled.
#[test]
fn gone() {
    need_root!();
    need_product!();
    let mut image = Image::new("ext4", 64, &[]);
    let mut mount = Wish::default().replica(&image.path()).prepare();
    // lost+found came with the file system.
    std::fs::remove_dir(image.path().join("lost+found")).expect("rmdir");
    mount.mount();
    std::fs::create_dir(mount.at("d")).expect("mkdir");
    std::fs::write(mount.at("d/before"), "from before").expect("write");
    image.unmount(true);
    work(&mount.mountpoint, 1);
    mount.umount();
    mount.try_mount(&[]).code(32).says("[MF-0011]");
    assert_eq!(
        std::fs::read_dir(image.path()).expect("readdir").count(),
        0,
        "never filled up"
    );
    image.mount();
    mount.mount_and_heal(&[]);
    mount.finish();
}

/// Somebody empties the replica behind the mount: it is noticed when something there is missing.
#[test]
fn blanked() {
    need_product!();
    let mut mount = TestMount::new();
    std::fs::create_dir(mount.at("d")).expect("mkdir");
    std::fs::write(mount.at("d/before"), "from before").expect("write");
    // A new daemon: one that has the twin open goes on writing to it, name or no name.
    mount.umount();
    mount.mount();
    std::fs::remove_dir_all(mount.replica.join("d")).expect("rm -rf");
    work(&mount.mountpoint, 1);
    wait_until("DEGRADED", || mount.state() == "degraded");
    mount.status().code(1);
    mount.umount();
    heals_by_itself(mount);
}

/// With on-replica-error=fail the application is told, and the copies stay together.
#[test]
fn failing_on_request() {
    need_root!();
    need_product!();
    let image = Image::new("ext4", 64, &[]);
    let replica = image.path().join("copy");
    std::fs::create_dir(&replica).expect("mkdir");
    let mount = Wish::default()
        .replica(&replica)
        .arg("--on-replica-error=fail")
        .mount();
    std::fs::write(mount.at("f"), "content").expect("write");
    image.shut_down();
    let refused = std::fs::write(mount.at("g"), "content").expect_err("EIO is asked for");
    assert_eq!(refused.raw_os_error(), Some(libc::EIO));
    assert_eq!(std::fs::read(mount.at("f")).expect("read"), b"content");
    wait_until("not in-sync", || mount.state() != "in-sync");
    mount.status().code(1);
}

/// SIGKILL in the middle of work: everything acknowledged is there, and nobody says in-sync.
#[test]
fn killed() {
    need_product!();
    let mut mount = TestMount::new();
    std::fs::create_dir(mount.at("d")).expect("mkdir");
    std::fs::write(mount.at("d/before"), "from before").expect("write");
    let at = mount.mountpoint.clone();
    let acknowledged = parking_lot::Mutex::new(0);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            for n in 0_u32.. {
                if std::fs::write(at.join(format!("d/{n}")), n.to_string()).is_err() {
                    return;
                }
                *acknowledged.lock() = n;
            }
        });
        wait_until("some work is done", || *acknowledged.lock() > 300);
        mount.kill();
        worker.join().expect("join");
    });
    let last = acknowledged.into_inner();
    for n in 0..=last {
        for copy in [&mount.primary, &mount.replica] {
            let read = std::fs::read(copy.join(format!("d/{n}"))).expect("acknowledged");
            assert_eq!(read, n.to_string().as_bytes());
        }
    }
    heals_by_itself(mount);
}

/// What the replica's file system cannot hold, found while it is filled or healed behind the mount: that
/// is no in-sync, now or at the next mount, unless somebody says to do without.
#[test]
fn what_a_replica_cannot_hold_is_not_in_sync() {
    need_root!();
    need_product!();
    need_programs!("mkfs.ext4");
    // Inodes too small for more than whole seconds.
    let image = Image::new("ext4", 64, &["-I", "128"]);
    let replica = image.path().join("copy");
    std::fs::create_dir(&replica).expect("mkdir");
    // Nothing is copied before it is mounted.
    let mut mount = Wish::default()
        .replica(&replica)
        .arg("--bwlimit=1G")
        .prepare();
    let make = |dir: &Path, name: &str| std::fs::write(dir.join(name), name).expect("write");
    make(&mount.primary, "before");
    mount.mount();
    for _ in 0..2 {
        wait_until("it is known", || mount.state() == "degraded");
        mount.status().code(1);
        assert!(mount.status().out.contains("MF-0024"), "{}", mount.status());
        make(&mount.mountpoint, "goes-on");
        mount.umount();
        mount.try_mount(&[]).ok();
    }
    mount.umount();
    mount.try_mount(&["--metadata-loss=warn"]).ok();
    wait_until("it does without", || mount.state() == "in-sync");
    make(&mount.mountpoint, "later");
    assert_eq!(mount.state(), "in-sync");
    mount.product("verify", &[]).ok();
    mount.umount();
}
