// SPDX-License-Identifier: MIT
//! The replica hangs: the application waits `replica-timeout` at most, once; then the mirror is
//! degraded, and when the replica answers again it heals by itself. With `MIRRORFS_FROZEN=SECONDS` it
//! hangs for so long under full load, and the daemon's memory stays under its cap.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{THREADS, recovers, scene};
use crate::faults::oracle::client::Load;
use crate::faults::rig::{Rig, no_stall};
use crate::support::image::Frozen;
use crate::support::mount::{TestMount, Wish};
use crate::support::rng::seed;
use crate::support::setting;
use crate::{need_healing, need_product, need_programs, need_root};

const SHORT: Duration = Duration::from_secs(2);
/// max-lag, caches and the rest.
const MEMORY_MAX_KIB: u64 = 768 << 10;

/// The load goes on while it hangs, and the daemon does not grow.
#[track_caller]
fn hangs(rig: &Rig, load: &mut Load) {
    load.wait_for(100);
    rig.falls_out();
    load.wait_for(300);
    let until = Instant::now() + Duration::from_secs(setting("MIRRORFS_FROZEN", 0));
    loop {
        let status = std::fs::read_to_string(format!("/proc/{}/status", rig.mount.pid()));
        let status = status.expect("the daemon");
        let resident = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        let kib = resident.and_then(|r| r.split_whitespace().next()?.parse::<u64>().ok());
        assert!(kib.is_some_and(|kib| kib < MEMORY_MAX_KIB), "{resident:?}");
        if Instant::now() > until {
            return;
        }
        load.wait_for(100);
    }
}

/// A frozen local file system: not even SIGKILL gets a thread out of it.
fn frozen(options: &[&str]) {
    let mut scene = scene(192, &[&["replica-timeout=2s"], options].concat());
    let mut load = scene.rig.load();
    load.wait_for(300);
    let frozen = Frozen::new(&scene.image);
    hangs(&scene.rig, &mut load);
    drop(frozen);
    let tally = recovers(&mut scene.rig, load, &[]);
    no_stall(tally, SHORT);
    scene.rig.finish();
}

/// A frozen local file system, mode=sync.
#[test]
fn replica_hangs_frozen() {
    need_root!();
    need_product!();
    need_programs!("fsfreeze");
    need_healing!();
    frozen(&[]);
}

/// A frozen local file system, mode=async.
#[test]
fn replica_hangs_frozen_asynchronous() {
    need_root!();
    need_product!();
    need_programs!("fsfreeze");
    need_healing!();
    frozen(&["mode=async", "max-lag=8M", "on-congestion=pull-ahead"]);
}

/// Lets a stopped daemon go on, whatever happens.
struct Stopped<'a>(&'a TestMount);

impl<'a> Stopped<'a> {
    fn new(mount: &'a TestMount) -> Self {
        mount.signal(Signal::STOP);
        Self(mount)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::CONT);
    }
}

/// The replica is on a FUSE file system (a mirror, too) whose daemon is stopped.
fn stopped(options: &[&str]) {
    let below = TestMount::new();
    std::fs::create_dir(below.at("copy")).expect("mkdir");
    let wish = Wish::default().replica(&below.at("copy"));
    let wish = wish.arg("-o").arg("replica-timeout=2s");
    let wish = options.iter().fold(wish, |w, o| w.arg("-o").arg(*o));
    let mut rig = Rig::new(wish, THREADS, seed("matrix"));
    let mut load = rig.load();
    load.wait_for(200);
    let stopped = Stopped::new(&below);
    hangs(&rig, &mut load);
    drop(stopped);
    let tally = recovers(&mut rig, load, &[]);
    no_stall(tally, SHORT);
    rig.finish();
    below.finish();
}

/// A stopped FUSE daemon under the replica, mode=sync.
#[test]
fn replica_hangs_stopped() {
    need_root!();
    need_product!();
    need_healing!();
    stopped(&[]);
}

/// A stopped FUSE daemon under the replica, mode=async.
#[test]
fn replica_hangs_stopped_asynchronous() {
    need_root!();
    need_product!();
    need_healing!();
    stopped(&["mode=async", "max-lag=8M", "on-congestion=pull-ahead"]);
}
