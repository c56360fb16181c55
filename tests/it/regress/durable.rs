// SPDX-License-Identifier: MIT
//! What is on disk, and who is told when it is not: failed fsyncs, and the note that the primary
//! goes on alone.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::support::mount::{TestMount, Wish, alive};
use crate::support::tamper::Tampered;
use crate::{need_product, need_programs, need_root};

fn errno<T: std::fmt::Debug>(done: std::io::Result<T>) -> Option<i32> {
    done.expect_err("it must fail").raw_os_error()
}

/// The kernel tells of a failed writeback once and then drops what it could not write: the second
/// fsync succeeded, and the application believed it. (A database retries, and loses data.) And the
/// mirror was in-sync although only the replica had what was written.
#[test]
fn a_failed_fsync_of_the_primary_is_not_forgotten() {
    need_root!();
    need_product!();
    need_programs!("strace");
    let mut mount = TestMount::new();
    std::fs::write(mount.at("f"), "before").expect("write");
    std::fs::write(mount.at("other"), "before").expect("write");
    mount.assert_equal();
    let file = File::options()
        .read(true)
        .write(true)
        .open(mount.at("f"))
        .expect("open");
    file.write_all_at(b"AFTER", 0).expect("write");
    let failing = Tampered::failing_syncs(&mount, &mount.primary.join("f"));
    assert_eq!(errno(file.sync_all()), Some(libc::EIO));
    drop(failing);
    // Nothing fails any more, and still:
    for _ in 0..2 {
        assert_eq!(errno(file.sync_all()), Some(libc::EIO));
        assert_eq!(errno(file.sync_data()), Some(libc::EIO));
    }
    let again = File::options()
        .write(true)
        .open(mount.at("f"))
        .expect("open");
    assert_eq!(
        errno(again.sync_all()),
        Some(libc::EIO),
        "open twice, one file"
    );
    file.write_all_at(b"AGAIN", 0).expect("write");
    assert_eq!(errno(file.sync_all()), Some(libc::EIO));
    // Others are not concerned.
    let other = File::options()
        .write(true)
        .open(mount.at("other"))
        .expect("open");
    other.write_all_at(b"AFTER", 0).expect("write");
    other.sync_all().expect("fsync");
    assert_ne!(
        mount.state(),
        "in-sync",
        "the replica may have what the primary lost"
    );
    mount.status().code(1);
    drop((file, again, other));
    mount.umount();
    mount.mount_and_heal(&[]);
    assert_eq!(mount.state(), "in-sync");
    let file = File::options()
        .write(true)
        .open(mount.at("f"))
        .expect("open");
    file.sync_all().expect("a new daemon knows nothing of it");
    drop(file);
    mount.finish();
}

/// The same with fdatasync, with a directory, and with O_SYNC writes.
#[test]
fn other_ways_to_a_failed_sync_of_the_primary() {
    need_root!();
    need_product!();
    need_programs!("strace");
    for name in ["data", "dir", "sync"] {
        let mut mount = TestMount::new();
        let path = mount.at(name);
        let file = if name == "dir" {
            std::fs::create_dir(&path).expect("mkdir");
            File::open(&path).expect("open")
        } else {
            let mut options = File::options();
            if name == "sync" {
                std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_SYNC);
            }
            options
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .expect("open")
        };
        let failing = Tampered::failing_syncs(&mount, &mount.primary.join(name));
        let done = match name {
            "data" => file.write_all_at(b"x", 0).and_then(|()| file.sync_data()),
            "dir" => std::fs::write(path.join("f"), "x").and_then(|()| file.sync_all()),
            _ => file.write_all_at(b"x", 0),
        };
        assert_eq!(errno(done), Some(libc::EIO), "{name}");
        drop(failing);
        assert_eq!(errno(file.sync_all()), Some(libc::EIO), "{name}");
        assert_ne!(mount.state(), "in-sync", "{name}");
        drop(file);
        mount.umount();
        mount.mount_and_heal(&[]);
        mount.finish();
    }
}

/// A failed fsync of the replica is the replica's trouble: degraded, and the application hears
/// nothing.
#[test]
fn a_failed_fsync_of_the_replica_degrades() {
    need_root!();
    need_product!();
    need_programs!("strace");
    // strace sees the calls, not what goes through a ring.
    let mut mount = Wish::default().arg("--io=threads").mount();
    std::fs::write(mount.at("f"), "before").expect("write");
    mount.assert_equal();
    let file = File::options()
        .write(true)
        .open(mount.at("f"))
        .expect("open");
    file.write_all_at(b"AFTER", 0).expect("write");
    let failing = Tampered::failing_syncs(&mount, &mount.replica.join("f"));
    file.sync_all().expect("fsync");
    drop(failing);
    assert_eq!(mount.state(), "degraded", "before fsync returned");
    file.write_all_at(b"ALONE", 0).expect("write");
    file.sync_all().expect("fsync");
    let json = mount.status_json();
    assert_eq!(json["reason"]["errno"], "EIO", "{json}");
    drop(file);
    mount.umount();
    crate::degrade::heals_by_itself(mount);
}

/// The stamp of the primary, as text.
fn stamp(root: &Path) -> String {
    let mut value = vec![0; 65536];
    let len = rustix::fs::getxattr(root, "trusted.mirrorfs.stamp", &mut value[..]).expect("stamp");
    String::from_utf8_lossy(&value[..len]).into_owned()
}

/// The first call that the replica missed was answered before the note of it was on disk:
///
/// ```text
///   app:     write(f)                                   answered
///   daemon:            primary: done   replica: failed            note           (killed before it)
/// ```
///
/// Then nothing on disk said that the replica lacks something which was acknowledged. Here the note
/// takes its time, and the daemon is killed the moment the call returns.
#[test]
fn the_note_is_on_disk_before_the_answer() {
    need_root!();
    need_product!();
    need_programs!("strace");
    type Change = fn(&TestMount, &File);
    let changes: [Change; 4] = [
        |mount, _| std::fs::write(mount.at("d/new"), "").expect("write"),
        |mount, _| std::fs::create_dir(mount.at("d/new")).expect("mkdir"),
        |mount, _| std::fs::rename(mount.at("d/f"), mount.at("d/g")).expect("rename"),
        |_, file| file.sync_all().expect("fsync"),
    ];
    for change in changes {
        let mut mount = TestMount::new();
        std::fs::create_dir(mount.at("d")).expect("mkdir");
        std::fs::write(mount.at("d/f"), "before").expect("write");
        mount.assert_equal();
        mount.umount();
        mount.mount();
        let epoch = |mount: &TestMount| mount.status_json()["epoch"].as_u64().expect("an epoch");
        let before = epoch(&mount);
        std::fs::remove_dir_all(mount.replica.join("d")).expect("rm -rf");
        let file = File::open(mount.at("d/f")).expect("open");
        let slowly = Tampered::slow(&mount, "fsetxattr,setxattr,?setxattrat", true, 300_000);
        let begun = std::time::Instant::now();
        change(&mount, &file);
        let took = begun.elapsed();
        let pid = mount.pid();
        mount.kill();
        assert!(!alive(pid));
        drop(slowly);
        let (ours, theirs) = (stamp(&mount.primary), stamp(&mount.replica));
        assert!(ours.contains("verdict=doubt"), "after {took:?}: {ours}");
        assert_ne!(ours, theirs);
        drop(file);
        mount.mount_and_heal(&[]);
        assert!(epoch(&mount) > before, "{before} and {}", epoch(&mount));
        mount.umount();
        crate::degrade::heals_by_itself(mount);
    }
}
