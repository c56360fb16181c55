// SPDX-License-Identifier: MIT
//! The replica fails: its disk is full, over quota, read-only, broken or gone. The application
//! notices nothing, and once the replica can again it heals by itself.

use std::path::Path;
use std::process::Command;

use super::{REPLICA_TIMEOUT, Replugged, THREADS, copy_on, ext4, recovers, scene};
use crate::faults::rig::{Ballast, Rig, no_stall};
use crate::support::image::{Bind, Image};
use crate::support::mount::Wish;
use crate::support::rng::seed;
use crate::support::run::run;
use crate::support::tamper::Tampered;
use crate::support::{base, temp_in};
use crate::{need_product, need_programs, need_root};

/// Not in-sync, and this is the reason.
#[track_caller]
fn says(rig: &Rig, errno: &str) {
    rig.falls_out();
    let json = rig.mount.status_json();
    assert_eq!(json["reason"]["errno"], errno, "{json}");
}

/// The disk is full for a while.
#[test]
fn replica_enospc() {
    need_root!();
    need_product!();
    let mut scene = scene(192, &[]);
    let rig = &mut scene.rig;
    let mut load = rig.load();
    load.wait_for(300);
    let ballast = Ballast::new(&scene.image.path());
    while rig.mount.state() == "in-sync" {
        ballast.top_up();
        load.wait_for(20);
    }
    load.wait_for(600);
    says(rig, "ENOSPC");
    drop(ballast);
    let tally = recovers(rig, load, &[]);
    no_stall(tally, REPLICA_TIMEOUT);
    scene.rig.finish();
}

/// The owner's quota is used up, and raised later.
#[test]
fn replica_edquot() {
    need_root!();
    need_product!();
    need_programs!("mkfs.btrfs", "btrfs");
    let image = Image::new("btrfs", 512, &[]);
    let at = |path: &str| image.path().join(path);
    let btrfs = |words: &[&str], path: &Path| {
        run(Command::new("btrfs").args(words).arg(path)).ok();
    };
    btrfs(&["-q", "quota", "enable"], &image.path());
    btrfs(&["-q", "subvolume", "create"], &at("sub"));
    let replica = copy_on(&at("sub"));
    let wish = Wish::default().replica(&replica);
    let mut rig = Rig::new(wish, THREADS, seed("matrix"));
    // btrfs writes the block in which a file is cut off, hole or not.
    rig.ignore.holes = true;
    let mut load = rig.load();
    load.wait_for(300);
    btrfs(&["qgroup", "limit", "1M"], &at("sub"));
    while rig.mount.state() == "in-sync" {
        load.wait_for(20);
    }
    load.wait_for(300);
    says(&rig, "EDQUOT");
    btrfs(&["qgroup", "limit", "none"], &at("sub"));
    let tally = recovers(&mut rig, load, &[]);
    no_stall(tally, REPLICA_TIMEOUT);
    rig.finish();
}

/// One file cannot be written: it is named, the rest goes on, and once it can the mirror is whole.
#[test]
fn replica_eio_in_one_place() {
    need_root!();
    need_product!();
    need_programs!("strace");
    let wish = Wish::default().arg("-o").arg("io=threads");
    let mut rig = Rig::new(wish, THREADS, seed("matrix"));
    let (victim, content) = (rig.mount.at("victim"), vec![b'a'; 10_000]);
    std::fs::write(&victim, &content).expect("write");
    rig.sync();
    let place = rig.mount.replica.join("victim");
    let writes = "write,pwrite64,pwritev,pwritev2";
    let inject = format!("inject={writes}:error=EIO");
    let trace = format!("trace={writes}");
    let words = [
        "-e",
        &trace,
        "-e",
        &inject,
        "-P",
        place.to_str().expect("text"),
    ];
    let tampered = Tampered::with(&rig.mount, &words);
    let mut orders = rig.orders();
    orders.pause_us = 500;
    let mut load = crate::faults::oracle::client::Load::start(orders);
    load.wait_for(20);
    let content = vec![b'b'; 10_000];
    std::fs::write(&victim, &content).expect("the application sees nothing");
    says(&rig, "EIO");
    assert!(rig.mount.log_text().contains("victim"), "it is named");
    load.wait_for(100);
    drop(tampered);
    recovers(&mut rig, load, &[]);
    rig.is_equal();
    assert_eq!(std::fs::read(&place).expect("read"), content);
    rig.finish();
}

/// Everything there answers EIO, the mount goes away, and the disk is plugged in again.
#[test]
fn replica_unmounted_and_back() {
    need_root!();
    need_product!();
    need_programs!("xfs_io");
    let mut scene = scene(192, &[]);
    scene.rig.sync();
    let mut load = scene.rig.load();
    load.wait_for(300);
    scene.image.shut_down();
    load.wait_for(300);
    scene.rig.falls_out();
    scene.image.unmount(true);
    load.wait_for(300);
    scene.rig.falls_out();
    let left = std::fs::read_dir(scene.image.path())
        .expect("readdir")
        .count();
    assert_eq!(left, 0, "the bare mount point was filled up");
    let plugged = Replugged::new(&scene.image);
    let tally = recovers(&mut scene.rig, load, &[]);
    no_stall(tally, REPLICA_TIMEOUT);
    scene.rig.finish();
    drop(plugged);
}

/// Unmounted lazily under the daemon and mounted again: its descriptors work all the time.
#[test]
fn replica_unmounted_lazily_and_back() {
    need_root!();
    need_product!();
    let mut scene = scene(192, &[]);
    let mut load = scene.rig.load();
    load.wait_for(300);
    scene.image.unmount(true);
    load.wait_for(300);
    let left = std::fs::read_dir(scene.image.path())
        .expect("readdir")
        .count();
    assert_eq!(left, 0, "the bare mount point was filled up");
    scene.image.mount();
    let tally = recovers(&mut scene.rig, load, &[]);
    no_stall(tally, REPLICA_TIMEOUT);
    scene.rig.finish();
}

/// It turns read-only, and writable again.
#[test]
fn replica_read_only() {
    need_root!();
    need_product!();
    let image = ext4(192);
    copy_on(&image.path());
    let place = temp_in(&base());
    let bind = Bind::new(&image.path(), place.path());
    let wish = Wish::default().replica(&place.path().join("copy"));
    let mut rig = Rig::new(wish, THREADS, seed("matrix"));
    rig.sync();
    // Nothing is open for writing there yet: the kernel would refuse.
    bind.read_only(true);
    let mut load = rig.load();
    load.wait_for(500);
    says(&rig, "EROFS");
    bind.read_only(false);
    let tally = recovers(&mut rig, load, &[]);
    no_stall(tally, REPLICA_TIMEOUT);
    rig.finish();
}
