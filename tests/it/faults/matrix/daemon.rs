// SPDX-License-Identifier: MIT
//! The daemon dies in the middle of healing, the power does; there are two daemons, too few
//! descriptors, a clock that jumps, and changes that nobody told the daemon of.

use std::os::unix::fs::FileExt;
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use super::{Replugged, THREADS, recovers, scene, slowly};
use crate::faults::disk::{Disk, Layout};
use crate::faults::oracle::client::Load;
use crate::faults::power::{Cut, promises_kept, rig_on};
use crate::faults::rig::{Rig, honest};
use crate::support::image::Frozen;
use crate::support::mount::{Wish, alive};
use crate::support::rng::{Rng, seed};
use crate::support::run::{MIRRORFS, run, run_within};
use crate::support::{PATIENCE, base, breathe, healing_is_there, skip, temp_in, wait_until};
use crate::{need_healing, need_product, need_programs, need_root};

/// SIGKILL while a long outage of the replica is healed, again and again: it goes on where it was.
#[test]
fn daemon_killed_during_resync() {
    need_root!();
    need_product!();
    need_programs!("xfs_io");
    let mut rng = Rng::new(seed("daemon_killed_during_resync"));
    let mut scene = scene(192, &slowly(&[]));
    scene.rig.sync();
    let mut load = scene.rig.load();
    load.wait_for(300);
    scene.image.shut_down();
    load.wait_for(1500);
    scene.rig.falls_out();
    scene.rig.kill(load, false);
    scene.image.unmount(true);
    let plugged = Replugged::new(&scene.image);
    let mut caught = 0;
    for _ in 0..8 {
        scene.rig.remount();
        for _ in 0..rng.below(12) {
            breathe();
        }
        let json = scene.rig.mount.status_json();
        honest(&json);
        caught += usize::from(json["state"] != "in-sync");
        scene.rig.mount.kill();
        scene.rig.judge.still(&scene.rig.mount.primary);
    }
    assert!(caught > 0 || !healing_is_there(), "it was never healing");
    scene.rig.remount();
    let load = scene.rig.load();
    recovers(&mut scene.rig, load, &[]);
    scene.rig.finish();
    drop(plugged);
}

/// The power fails while it heals.
#[test]
fn power_cut_during_resync() {
    need_root!();
    need_product!();
    need_programs!("mkfs.xfs", "mkfs.ext4");
    let seed = seed("power_cut_during_resync");
    let mut rng = Rng::new(seed);
    let mut disk = Disk::new(Layout::Three, 192);
    let options = slowly(&["mode=async"]);
    let mut rig = rig_on(&disk, &options, THREADS, seed);
    let mut caught = 0;
    for _ in 0..3 {
        disk.sync();
        let base = rig.judge.base().to_vec();
        let mut orders = rig.orders();
        orders.syncs = 3;
        let mut load = Load::start(orders);
        load.wait_for(700);
        let notes = load.orders.notes.clone();
        rig.kill(load, false);
        rig.remount();
        for _ in 0..rng.below(5) {
            breathe();
        }
        caught += usize::from(rig.mount.state() != "in-sync");
        let cut = Cut::of_all(disk.copy());
        rig.mount.kill();
        run(Command::new("umount").arg("-l").arg(&rig.mount.mountpoint)).ok();
        disk.restart_from(cut.copy().expect("a copy"));
        promises_kept(
            &cut,
            &base,
            &notes,
            &[&*rig.mount.primary, &*rig.mount.replica],
        );
        rig.judge.believe(&rig.mount.primary);
        rig.remount();
        rig.heals_by_itself();
        rig.is_equal();
    }
    assert!(caught > 0 || !healing_is_there(), "it was never healing");
    rig.finish();
}

/// A second daemon on the same trees is refused, whatever the first one does.
#[test]
fn two_daemons() {
    need_root!();
    need_product!();
    let mut rig = Rig::new(Wish::default(), THREADS, seed("matrix"));
    let mut load = rig.load();
    load.wait_for(50);
    let elsewhere = temp_in(&base());
    let other = |name: &str| {
        let path = elsewhere.path().join(name);
        std::fs::create_dir_all(&path).expect("mkdir");
        path
    };
    let (primary, replica) = (rig.mount.primary.clone(), rig.mount.replica.clone());
    for (a, b) in [
        (&primary, &replica),
        (&replica, &primary),
        (&primary, &other("replica")),
        (&other("primary"), &replica),
    ] {
        let mut second = Command::new(MIRRORFS);
        let second = second.arg("mount").arg(a).arg(other("mnt"));
        run(second.arg("--replica").arg(b)).code(32).says("MF-");
    }
    if healing_is_there() {
        for words in [&["sync"][..], &["verify", "--repair"]] {
            let ran = run(Command::new(MIRRORFS)
                .args(words)
                .arg(&primary)
                .arg(&replica));
            assert!(ran.code.is_some_and(|c| c != 0), "{ran}");
        }
    }
    load.wait_for(50);
    rig.judge(load, &[]);
    rig.finish();
}

/// The daemon may have fewer descriptors than it would like, also while it heals.
#[test]
fn out_of_descriptors() {
    need_root!();
    need_product!();
    need_programs!("prlimit");
    let mut rig = Rig::new(Wish::default().descriptors(160), THREADS, seed("matrix"));
    for _ in 0..2 {
        let mut load = rig.load();
        load.wait_for(1000);
        rig.kill(load, false);
        rig.remount();
        rig.heals_by_itself();
        rig.is_equal();
    }
    // Less than it has already, while it runs: it gets on, or says so.
    let mut load = rig.load();
    load.wait_for(100);
    let pid = rig.mount.pid().to_string();
    let limit = |n: &str| {
        let soft = format!("--nofile={n}:160");
        run(Command::new("prlimit").args(["--pid", &pid, &soft])).ok();
    };
    limit("24");
    load.wait_for(200);
    limit("160");
    recovers(
        &mut rig,
        load,
        &[rustix::io::Errno::MFILE, rustix::io::Errno::NFILE],
    );
    rig.finish();
}

/// The clock jumps back a day and forward two, under the load and between mounts. Only where it may
/// be set (`MIRRORFS_MAY_SET_CLOCK`: a machine of the test's own).
#[test]
fn clock_jumps() {
    need_root!();
    need_product!();
    if std::env::var_os("MIRRORFS_MAY_SET_CLOCK").is_none() {
        return skip("the clock is the whole machine's: MIRRORFS_MAY_SET_CLOCK is not set");
    }
    let clock = Clock::new();
    let mut rig = Rig::new(Wish::default(), THREADS, seed("matrix"));
    for days in [-1, 2, -400, 400, -1] {
        let mut load = rig.load();
        load.wait_for(200);
        clock.jump(days);
        load.wait_for(300);
        rig.kill(load, true);
        rig.remount();
        rig.heals_by_itself();
        rig.is_equal();
    }
    drop(clock);
    rig.finish();
}

/// The machine's clock; put right when the value is dropped.
struct Clock {
    real: rustix::time::Timespec,
    monotonic: rustix::time::Timespec,
}

impl Clock {
    fn new() -> Self {
        use rustix::time::{ClockId, clock_gettime};
        Self {
            real: clock_gettime(ClockId::Realtime),
            monotonic: clock_gettime(ClockId::Monotonic),
        }
    }

    /// To so many days from what it should show.
    fn jump(&self, days: i64) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let seconds = self.real.tv_sec + now.tv_sec - self.monotonic.tv_sec + days * 86_400;
        run(Command::new("date").arg("-s").arg(format!("@{seconds}"))).ok();
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.jump(0);
    }
}

/// Changes made behind the mount, while it is mounted and while it is not: `verify` names each and
/// nothing else, `--quick` those that show in size or time; `--repair` mends.
#[test]
fn change_behind_the_mount_is_found() {
    need_root!();
    need_product!();
    need_healing!();
    let mut rig = Rig::new(Wish::default(), THREADS, seed("matrix"));
    let mut orders = rig.orders();
    orders.ops = 600;
    let load = Load::start(orders);
    let notes = load.ended();
    rig.judge_notes(&notes, &[]);
    for name in ["bit", "mode", "lost"] {
        std::fs::write(rig.mount.at(name), vec![7; 70_000]).expect("write");
    }
    rig.is_equal();
    let (found, code) = verify(&rig, &[]);
    assert_eq!((found.len(), code), (0, 0), "a false alarm: {found:?}");
    let replica = rig.mount.replica.clone();
    // A bit that flipped on the disk: size and times are as they were.
    let file = std::fs::File::options()
        .write(true)
        .open(replica.join("bit"))
        .expect("open");
    let mtime = file.metadata().and_then(|m| m.modified()).expect("mtime");
    file.write_all_at(&[6], 65_537).expect("write");
    file.set_modified(mtime).expect("utimens");
    rustix::fs::chmod(replica.join("mode"), 0o777.into()).expect("chmod");
    std::fs::remove_file(replica.join("lost")).expect("unlink");
    std::fs::write(replica.join("extra"), "").expect("write");
    let (found, code) = verify(&rig, &[]);
    let paths: Vec<_> = found.iter().map(String::as_str).collect();
    for path in ["bit", "mode", "lost", "extra"] {
        assert!(paths.contains(&path), "{path} is not among {paths:?}");
    }
    assert_eq!(code, 1);
    assert!(
        paths
            .iter()
            .all(|p| ["bit", "mode", "lost", "extra", ""].contains(p)),
        "{paths:?}"
    );
    assert_ne!(rig.mount.state(), "in-sync", "it is known that it differs");
    let (found, code) = verify(&rig, &["--quick"]);
    assert_eq!(code, 1);
    assert!(
        !found.contains(&"bit".to_owned()),
        "quick believes size and time: {found:?}"
    );
    rig.mount.product("verify", &["--repair"]).ok();
    rig.is_equal();
    assert!(!replica.join("extra").exists());
    rig.finish();
}

/// The paths that verify names, and its exit code.
#[track_caller]
fn verify(rig: &Rig, more: &[&str]) -> (Vec<String>, i32) {
    let ran = rig.mount.product("verify", &[&["--json"], more].concat());
    let json: Value = serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran}"));
    let all = json["differences"].as_array().expect("differences");
    let path = |d: &Value| d["path"].as_str().expect("a path").to_owned();
    let mut paths: Vec<_> = all.iter().map(path).collect();
    paths.dedup();
    (paths, ran.code.expect("an exit code"))
}

/// A daemon that was killed while threads of it hang in a dead disk holds the trees until the last of
/// them is gone: they may write yet. A second daemon is refused until then.
#[test]
fn a_killed_daemon_in_a_frozen_disk_holds_its_trees() {
    need_root!();
    need_product!();
    need_programs!("fsfreeze");
    need_healing!();
    let mut scene = scene(192, &["replica-timeout=1s"]);
    let mut load = scene.rig.load();
    load.wait_for(100);
    let frozen = Frozen::new(&scene.image);
    scene.rig.falls_out();
    let pid = scene.rig.mount.pid();
    scene.rig.mount.signal(Signal::KILL);
    if alive(pid) {
        let elsewhere = temp_in(&base());
        let mut second = Command::new(MIRRORFS);
        let (primary, replica) = (&scene.rig.mount.primary, &scene.rig.mount.replica);
        let second = second.arg("mount").arg(primary).arg(elsewhere.path());
        let ran = run_within(second.arg("--replica").arg(replica), PATIENCE);
        // Unless all threads were just gone.
        assert!(ran.code == Some(32) || !alive(pid), "{ran}");
    }
    drop(frozen);
    wait_until("its end", || !alive(pid));
    let notes = load.ended();
    scene.rig.mount.ended();
    scene.rig.judge_notes(&notes, &[rustix::io::Errno::IO]);
    scene.rig.remount();
    scene.rig.heals_by_itself();
    scene.rig.finish();
}
