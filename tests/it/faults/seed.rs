// SPDX-License-Identifier: MIT
//! A mirror is in use while its empty replica is filled: nothing of what happens meanwhile is lost, and
//! whatever ends the filling, the next mount goes on with it.

use std::os::unix::fs::FileExt;
use std::process::Command;

use super::oracle::client::Load;
use super::rig::{Rig, honest};
use crate::support::image::Image;
use crate::support::mount::Wish;
use crate::support::rng::{Rng, seed};
use crate::support::run::{MIRRORFS, run};
use crate::support::{setting, wait_until};
use crate::{need_product, need_root};

const THREADS: usize = 3;
/// So slow that a test has something to do meanwhile.
const SLOWLY: [&str; 3] = ["--init", "-o", "bwlimit=4M"];

/// A mirror that was in use. Now its primary has a new, empty replica, which takes a few seconds to be
/// filled.
fn with_an_empty_replica(wish: Wish) -> Rig {
    let mut rig = Rig::new(wish, THREADS, seed("seed"));
    let mut load = rig.load();
    load.wait_for(300);
    rig.judge(load, &[]);
    let rest = rig.mount.at("rest");
    std::fs::create_dir(&rest).expect("mkdir");
    for n in 0..24_u8 {
        let dir = rest.join((n % 4).to_string());
        std::fs::create_dir_all(&dir).expect("mkdir");
        std::fs::write(dir.join(n.to_string()), vec![n; 1 << 19]).expect("write");
    }
    std::fs::hard_link(rest.join("1/1"), rest.join("2/linked")).expect("link");
    let sparse = std::fs::File::create(rest.join("sparse")).expect("create");
    sparse.write_all_at(b"far", 1 << 30).expect("write");
    drop(sparse);
    gets_an_empty_replica(&mut rig);
    rig
}

/// Unmounted; everything in the replica is gone.
fn gets_an_empty_replica(rig: &mut Rig) {
    rig.mount.umount();
    std::fs::remove_dir_all(&rig.mount.replica).expect("removed");
    std::fs::create_dir(&rig.mount.replica).expect("mkdir");
}

/// Mounts, and says whether it is being filled.
#[track_caller]
fn mounts(rig: &mut Rig, words: &[&str]) -> bool {
    rig.mount.try_mount(words).ok();
    let json = rig.mount.status_json();
    honest(&json);
    matches!(json["state"].as_str(), Some("seeding" | "resyncing"))
}

fn stirs(rig: &mut Rig, ops: usize) -> Load {
    let mut load = rig.load();
    load.wait_for(ops);
    load
}

#[test]
fn used_while_it_is_filled() {
    need_root!();
    need_product!();
    let mut rig = with_an_empty_replica(Wish::default());
    assert!(mounts(&mut rig, &SLOWLY));
    assert_eq!(rig.mount.state(), "seeding");
    rig.mount.product("verify", &[]).says("being made equal");
    // What is there, and what is not there yet, on the other copy.
    let rest = rig.mount.at("rest");
    for n in 0..24_u8 {
        let path = rest.join(format!("{}/{n}", n % 4));
        assert_eq!(std::fs::read(&path).expect("read"), vec![n; 1 << 19]);
        let file = std::fs::File::options().write(true).open(&path);
        file.expect("open")
            .write_all_at(b"changed", 300_000)
            .expect("write");
    }
    std::fs::rename(rest.join("3"), rest.join("0/3")).expect("rename");
    std::fs::rename(rest.join("2/linked"), rest.join("linked")).expect("rename");
    std::fs::remove_file(rest.join("1/5")).expect("unlink");
    let load = stirs(&mut rig, 300);
    assert_eq!(
        rig.mount.state(),
        "seeding",
        "it was too quick for this test"
    );
    rig.becomes_in_sync(std::time::Duration::from_secs(120));
    rig.judge(load, &[]);
    rig.finish();
}

/// Filled and then compared, over and over, while programs go on: nothing they do is lost, and no
/// comparison sees a difference. `MIRRORFS_REFILLS`: how often, in each mode.
#[test]
fn filled_and_compared_under_load() {
    need_root!();
    need_product!();
    for mode in ["mode=sync", "mode=async"] {
        let mut rig = with_an_empty_replica(Wish::default().arg("-o").arg(mode));
        let (mut ops, mut compared) = (0, 0);
        for round in 0..setting("MIRRORFS_REFILLS", 1) {
            if round > 0 {
                gets_an_empty_replica(&mut rig);
            }
            assert!(mounts(&mut rig, &SLOWLY));
            let mut load = stirs(&mut rig, 100);
            assert_eq!(
                rig.mount.state(),
                "seeding",
                "it was too quick for this test"
            );
            rig.becomes_in_sync(std::time::Duration::from_secs(120));
            for how in [&[][..], &["--quick"], &[]] {
                load.wait_for(100);
                let ran = rig.mount.product("verify", how).ok();
                assert!(ran.out.starts_with("No differences in "), "{ran}");
                compared += 1;
            }
            load.wait_for(100);
            ops += rig.judge(load, &[]).ops;
            rig.is_equal();
        }
        eprintln!("refills: {mode}: {ops} ops, {compared} comparisons");
        rig.finish();
    }
}

#[test]
fn ended_and_gone_on_with() {
    need_root!();
    need_product!();
    let mut rig = with_an_empty_replica(Wish::default());
    assert!(mounts(&mut rig, &SLOWLY));
    let load = stirs(&mut rig, 50);
    rig.judge(load, &[]);
    rig.mount.umount();
    // The same words, and others.
    assert!(mounts(&mut rig, &SLOWLY));
    let load = stirs(&mut rig, 50);
    rig.judge(load, &[]);
    rig.mount.umount();
    mounts(&mut rig, &[]);
    rig.heals_by_itself();
    rig.finish();
}

#[test]
fn killed_while_it_is_filled() {
    need_root!();
    need_product!();
    let seed = seed("seed");
    let mut random = Rng::new(seed);
    let mut rig = with_an_empty_replica(Wish::default());
    let mut caught = 0;
    let mut words = SLOWLY.to_vec();
    let rounds = setting("MIRRORFS_SEED_KILLS", 8);
    for _ in 0..rounds {
        caught += u32::from(mounts(&mut rig, &words));
        words.retain(|word| *word != "--init");
        let load = stirs(&mut rig, random.below(300));
        rig.kill(load, false);
        let mut promote = Command::new(MIRRORFS);
        let half = run(promote.arg("promote").arg(&rig.mount.replica));
        assert_ne!(half.code, Some(0), "{half}");
    }
    assert!(caught > 2, "{caught} of {rounds}");
    mounts(&mut rig, &[]);
    rig.heals_by_itself();
    rig.finish();
}

/// What was complete when the daemon died is not looked at again.
#[test]
fn goes_on_where_it_was() {
    need_root!();
    need_product!();
    let mut mount = Wish::default().prepare();
    for n in 0..48_u8 {
        let dir = mount.primary.join(format!("{}/{n}", n % 3));
        std::fs::create_dir_all(&dir).expect("mkdir");
        std::fs::write(dir.join("file"), vec![n; 1 << 19]).expect("write");
    }
    mount.try_mount(&["-o", "bwlimit=8M"]).ok();
    let cleared = |json: &serde_json::Value| json["replicas"][0]["log"]["cleared"].as_u64();
    wait_until("its mark was divided", || {
        let json = mount.status_json();
        assert_eq!(json["state"], "seeding", "it was too quick for this test");
        cleared(&json) > Some(0)
    });
    mount.kill();
    mount.try_mount(&["-o", "bwlimit=8M"]).ok();
    assert_eq!(mount.state(), "seeding");
    mount.product("sync", &[]).ok();
    let json = mount.status_json();
    assert_eq!(json["state"], "in-sync");
    let looked_at = json["replicas"][0]["resync"]["files_done"].as_u64();
    assert!(looked_at > Some(0) && looked_at < Some(48), "{json}");
    mount.finish();
}

/// It does not all fit: the primary goes on alone, and what is missing comes once there is room.
#[test]
fn into_a_replica_that_is_too_small() {
    need_root!();
    need_product!();
    let image = Image::new("ext4", 24, &["-b", "4096"]);
    let copy = image.path().join("copy");
    std::fs::create_dir(&copy).expect("mkdir");
    let mut mount = Wish::default().replica(&copy).prepare();
    for n in 0..8 {
        std::fs::write(mount.primary.join(n.to_string()), vec![n; 4 << 20]).expect("write");
    }
    mount.try_mount(&["-o", "bwlimit=64M"]).ok();
    wait_until("it is full", || mount.state() == "degraded");
    let json = mount.status_json();
    assert_eq!(json["reason"]["errno"], "ENOSPC", "{json}");
    std::fs::write(mount.at("new"), "the application goes on").expect("write");
    for n in 2..8 {
        std::fs::remove_file(mount.at(n.to_string())).expect("unlink");
    }
    wait_until("it is healed", || mount.state() == "in-sync");
    mount.finish();
}

/// A small tree is in-sync when the mount is there, and nothing is marked.
#[test]
fn at_once() {
    need_product!();
    let mut mount = Wish::default().prepare();
    for n in 0..20 {
        std::fs::write(mount.primary.join(n.to_string()), vec![n; 4000]).expect("write");
    }
    mount.mount();
    let json = mount.status_json();
    assert_eq!(json["state"], "in-sync");
    assert_eq!(json["replicas"][0]["log"]["marks"], 0, "{json}");
    mount.finish();
}
