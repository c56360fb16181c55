// SPDX-License-Identifier: MIT
//! What a mount begins with: what is refused, with which words, and what is taken.

use std::path::Path;
use std::process::Command;

use super::{REFUSED, Scene, USAGE};
use crate::support::compare::listing;
use crate::support::mount::{TestMount, Wish, is_mounted};
use crate::support::run::{mirrorfs, run};
use crate::support::user::NOBODY;
use crate::{need_product, need_programs, need_root};

/// A directory that is missing, or is a file, is named in the refusal.
#[test]
fn missing_directories_and_files() {
    need_product!();
    let scene = Scene::new();
    scene.refused("none", "mnt", "replica", &["none"]);
    scene.refused("primary", "none", "replica", &["none"]);
    scene.refused("primary", "mnt", "none", &["none"]);
    std::fs::write(scene.at("file"), "").expect("write");
    scene.refused("file", "mnt", "replica", &["file"]);
    scene.refused("primary", "file", "replica", &["file"]);
    scene.refused("primary", "mnt", "file", &["file"]);
}

/// The same directory twice, in any spelling, and one inside the other, either way round.
#[test]
fn overlapping_trees() {
    need_product!();
    let scene = Scene::new();
    scene.refused("primary", "mnt", "primary", &["primary"]);
    scene.refused("primary", "mnt", "replica/../primary", &["primary"]);
    std::os::unix::fs::symlink("primary", scene.at("alias")).expect("symlink");
    scene.refused("primary", "mnt", "alias", &["primary"]);
    std::fs::create_dir_all(scene.at("primary/in/side")).expect("mkdir");
    std::fs::create_dir_all(scene.at("replica/in/side")).expect("mkdir");
    scene.refused("primary", "mnt", "primary/in/side", &["primary"]);
    scene.refused("replica/in/side", "mnt", "replica", &["replica"]);
    std::fs::create_dir(scene.at("mnt/in")).expect("mkdir");
    scene.refused("primary", "mnt", "mnt/in", &["mnt"]);
}

/// A replica that holds something and was never ours is refused, and the way on is named.
#[test]
fn unstamped_replica_with_content() {
    need_product!();
    let scene = Scene::new();
    std::fs::write(scene.at("primary/ours"), "ours").expect("write");
    std::fs::write(scene.at("replica/theirs"), "theirs").expect("write");
    scene.refused("primary", "mnt", "replica", &["replica", "--adopt"]);
    // --adopt lists what differs and still refuses: nothing of theirs is destroyed.
    let ran = scene
        .mount("primary", "mnt", "replica", &["--adopt"])
        .code(REFUSED);
    assert!(
        ran.err.contains("theirs") && ran.err.contains("ours"),
        "{ran}"
    );
    assert_eq!(
        std::fs::read(scene.at("replica/theirs")).expect("still there"),
        b"theirs"
    );
    assert!(!is_mounted(&scene.at("mnt")));
}

/// A faithful copy that was never ours is taken over with --adopt.
#[test]
fn adopting_a_faithful_copy() {
    need_root!();
    need_product!();
    need_programs!("cp");
    let mut mount = Wish::default().prepare();
    std::fs::create_dir(mount.primary.join("d")).expect("mkdir");
    std::fs::write(mount.primary.join("d/f"), "content").expect("write");
    std::fs::remove_dir(&mount.replica).expect("rmdir");
    run(Command::new("cp")
        .arg("-a")
        .arg(&mount.primary)
        .arg(&mount.replica))
    .ok();
    mount.try_mount(&[]).code(REFUSED).says("--adopt");
    mount.try_mount(&["--adopt"]).ok();
    assert_eq!(mount.state(), "in-sync");
    std::fs::write(mount.at("d/g"), "more").expect("write");
    mount.umount();
    mount.mount();
    mount.finish();
}

/// An empty replica is seeded with everything the primary has, and the mount is in-sync.
#[test]
fn seeding() {
    need_root!();
    need_product!();
    let mut mount = Wish::default().prepare();
    crate::support::run::shell(
        &mount.primary,
        "
        mkdir -p a/b/c; echo hello > a/f; ln a/f a/b/g; ln -s f a/s; mkfifo a/p; mknod a/n c 1 3
        dd if=/dev/zero of=a/sparse bs=1 count=1 seek=10G status=none; sync a/sparse
        touch -d '1950-01-01 00:00:00.123456789' a/f; chmod 6751 a/b; chown 12:34 a/s -h
        for i in $(seq 1000); do echo $i > a/b/c/$i; done; touch -d 1999-01-01 a a/b .",
    );
    let ran = mount.try_mount(&[]).ok();
    assert!(ran.out.is_empty(), "{ran}");
    assert_eq!(mount.state(), "in-sync");
    mount.assert_equal();
    std::fs::write(mount.at("a/b/c/5"), "changed").expect("write");
    mount.finish();
}

/// Copies that belong to other mirrors, and the two of one mirror swapped, are told apart.
#[test]
fn foreign_and_swapped_stamps() {
    need_product!();
    let scene = Scene::new();
    for name in ["primary2", "replica2", "empty"] {
        std::fs::create_dir(scene.at(name)).expect("mkdir");
    }
    for (primary, replica) in [("primary", "replica"), ("primary2", "replica2")] {
        scene.mount(primary, "mnt", replica, &[]).ok();
        std::fs::write(scene.at("mnt/f"), primary).expect("write");
        mirrorfs(["umount".as_ref(), scene.at("mnt").as_os_str()]).ok();
    }
    scene.refused("primary", "mnt", "replica2", &["replica2"]);
    scene.refused("primary2", "mnt", "replica", &["replica"]);
    scene.refused("replica", "mnt", "primary", &["replica", "primary"]);
    scene.refused("primary", "mnt", "primary2", &["primary2"]);
    // The replica's disk is not mounted: its directory is blank.
    scene.refused(
        "primary",
        "mnt",
        "empty",
        &["empty", "no mirrorfs stamp", "degraded", "[MF-0011]"],
    );
    // The primary's disk is not mounted: nothing may be deleted from the replica.
    scene.refused("empty", "mnt", "replica", &["replica"]);
    assert_eq!(
        std::fs::read(scene.at("replica/f")).expect("still there"),
        b"primary"
    );
    // --adopt does not override identity.
    scene
        .mount("primary", "mnt", "replica2", &["--adopt"])
        .code(REFUSED);
    // Those that belong together still do.
    scene.mount("primary", "mnt", "replica", &[]).ok();
    mirrorfs(["umount".as_ref(), scene.at("mnt").as_os_str()]).ok();
}

/// A mirror whose replica's disk is not mounted can be mounted on one copy, and says so.
#[test]
fn degraded_on_request() {
    need_product!();
    let mut mount = TestMount::new();
    std::fs::write(mount.at("f"), "content").expect("write");
    mount.umount();
    let away = mount.dir().join("away");
    std::fs::rename(&mount.replica, &away).expect("rename");
    std::fs::create_dir(&mount.replica).expect("mkdir");
    mount.try_mount(&[]).code(REFUSED).says("[MF-0011]");
    mount.try_mount(&["-o", "degraded"]).ok();
    assert_eq!(mount.state(), "degraded");
    let status = mount.status().code(1);
    assert!(status.out.contains("DEGRADED"), "{status}");
    std::fs::write(mount.at("g"), "alone").expect("write");
    mount.umount();
    assert!(
        listing(&mount.replica).is_empty(),
        "the blank directory is never filled"
    );
    std::fs::remove_dir(&mount.replica).expect("rmdir");
    std::fs::rename(&away, &mount.replica).expect("rename");
    mount.mount_and_heal(&[]);
    mount.finish();
}

/// A second daemon on either tree, or on the mount point, is refused while the first runs.
#[test]
fn second_daemon() {
    need_product!();
    let mount = TestMount::new();
    std::fs::create_dir_all(mount.scratch.join("mnt2")).expect("mkdir");
    std::fs::create_dir_all(mount.scratch.join("other")).expect("mkdir");
    let try_mount = |primary: &Path, at: &str, replica: &Path| {
        let at = mount.scratch.join(at);
        let args = [
            "mount".as_ref(),
            primary.as_os_str(),
            at.as_os_str(),
            "--replica".as_ref(),
            replica.as_os_str(),
        ];
        let ran = mirrorfs(args).code(REFUSED);
        assert!(ran.err.starts_with("mirrorfs: "), "{ran}");
    };
    let other = mount.scratch.join("other");
    try_mount(&mount.primary, "mnt2", &mount.replica);
    try_mount(&mount.primary, "mnt2", &other);
    try_mount(&other, "mnt2", &mount.replica);
    try_mount(&mount.replica, "mnt2", &mount.primary);
    // A mirror of the mirror's own view is no second copy.
    try_mount(&mount.mountpoint, "mnt2", &other);
    assert_eq!(mount.state(), "in-sync");
    mount.finish();
}

/// A user without permission on a tree is refused, and told which.
#[test]
fn no_permission() {
    need_root!();
    need_product!();
    need_programs!("fusermount3", "setpriv");
    let mut mount = Wish::default().user(NOBODY).prepare();
    std::os::unix::fs::chown(&mount.replica, Some(0), Some(0)).expect("chown");
    rustix::fs::chmod(&mount.replica, 0o700.into()).expect("chmod");
    let ran = mount.try_mount(&[]);
    assert!(matches!(ran.code, Some(USAGE | REFUSED)), "{ran}");
    assert!(
        ran.err.contains(mount.replica.to_str().expect("text")),
        "{ran}"
    );
}
