// SPDX-License-Identifier: MIT
//! Where the replica was there is something else: it is refused, left alone, and the true one is
//! taken when it is back.

use std::path::Path;

use super::{Replugged, Scene, copy_on, ext4, recovers, scene};
use crate::support::compare::listing;
use crate::support::image::{Bind, Image};
use crate::support::mount::Wish;
use crate::support::run::Ran;
use crate::{need_healing, need_product, need_programs, need_root};

/// The replica fails, its disk goes, and `other` is mounted in its place. Nothing but the true
/// replica is ever written to.
fn swapped(mut scene: Scene, other: &Image) {
    scene.rig.sync();
    let before = seen(&other.path());
    let mut load = scene.rig.load();
    load.wait_for(300);
    scene.image.shut_down();
    load.wait_for(200);
    scene.rig.falls_out();
    scene.image.unmount(true);
    let bind = Bind::new(&other.path(), &scene.image.path());
    refused(&scene.rig.mount.product("sync", &[]));
    load.wait_for(200);
    refused(&scene.rig.mount.product("sync", &[]));
    scene.rig.falls_out();
    assert_eq!(seen(&other.path()), before, "what is not ours was changed");
    drop(bind);
    let plugged = Replugged::new(&scene.image);
    recovers(&mut scene.rig, load, &[]);
    scene.rig.finish();
    assert_eq!(seen(&other.path()), before, "what is not ours was changed");
    drop(plugged);
}

/// Names and contents.
fn seen(top: &Path) -> Vec<(String, Option<Vec<u8>>)> {
    let all = listing(top).into_iter();
    all.map(|(name, _)| (name.clone(), std::fs::read(top.join(&name)).ok()))
        .collect()
}

/// Not in-sync, and why, with an id.
#[track_caller]
fn refused(ran: &Ran) {
    assert_eq!(ran.code, Some(1), "{ran}");
    assert!(ran.err.contains("MF-"), "an id: {ran}");
}

/// By a blank directory.
#[test]
fn replica_replaced_by_blank() {
    need_root!();
    need_product!();
    need_programs!("xfs_io");
    need_healing!();
    let other = ext4(192);
    copy_on(&other.path());
    swapped(scene(192, &[]), &other);
}

/// By the replica of another mirror.
#[test]
fn replica_replaced_by_foreign() {
    need_root!();
    need_product!();
    need_programs!("xfs_io");
    need_healing!();
    let other = ext4(192);
    let foreign = Wish::default().replica(&copy_on(&other.path())).mount();
    std::fs::write(foreign.at("theirs"), "theirs").expect("write");
    foreign.finish();
    swapped(scene(192, &[]), &other);
}
