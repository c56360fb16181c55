// SPDX-License-Identifier: MIT
//! The primary fails: the application gets the error, and the replica is put back to what the
//! primary has.

use rustix::io::Errno;

use super::{Replugged, THREADS, ext4};
use crate::faults::oracle::client::Load;
use crate::faults::power::{Cut, promises_kept};
use crate::faults::rig::{Ballast, Rig};
use crate::support::mount::Wish;
use crate::support::rng::seed;
use crate::support::{base, temp_in};
use crate::{need_product, need_programs, need_root};

/// The disk is full for a while.
#[test]
fn primary_enospc() {
    need_root!();
    need_product!();
    let image = ext4(192);
    rustix::fs::chmod(image.path(), 0o755.into()).expect("chmod");
    let replica = temp_in(&base());
    let wish = Wish::default().base(&image.path()).replica(replica.path());
    let mut rig = Rig::new(wish, THREADS, seed("matrix"));
    // A write into a hole that fails half way leaves blocks of zeros on ext4 that is nearly full.
    rig.ignore.holes = true;
    let mut load = rig.load();
    load.wait_for(300);
    let ballast = Ballast::new(&image.path());
    load.wait_for(500);
    ballast.top_up();
    load.wait_for(300);
    drop(ballast);
    load.wait_for(300);
    rig.judge(load, &[Errno::NOSPC]);
    rig.heals_by_itself();
    rig.finish();
}

/// The disk dies, is plugged in again and lacks what had not been synced: the replica, which had it,
/// is put back.
#[test]
fn primary_eio() {
    need_root!();
    need_product!();
    need_programs!("xfs_io");
    let mut image = ext4(192);
    rustix::fs::chmod(image.path(), 0o755.into()).expect("chmod");
    let replica = temp_in(&base());
    let wish = Wish::default().base(&image.path()).replica(replica.path());
    let mut rig = Rig::new(wish, THREADS, seed("matrix"));
    rig.sync();
    let synced = std::process::Command::new("sync")
        .arg("-f")
        .arg(image.path())
        .status();
    assert!(synced.is_ok_and(|s| s.success()));
    let base = rig.judge.base().to_vec();
    let mut orders = rig.orders();
    orders.syncs = 10;
    let mut load = Load::start(orders);
    load.wait_for(500);
    let before = Cut::lengths(&load);
    image.shut_down();
    let notes = load.stop();
    rig.mount.kill();
    image.unmount(true);
    let plugged = Replugged::new(&image);
    let cut = Cut::without_copy(before);
    promises_kept(&cut, &base, &notes, &[&*rig.mount.primary]);
    rig.judge.believe(&rig.mount.primary);
    rig.remount();
    rig.heals_by_itself();
    rig.finish();
    drop(plugged);
}
