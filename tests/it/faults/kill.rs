// SPDX-License-Identifier: MIT
//! SIGKILL at random points of a mixed load, over and over on the same mirror.

use super::oracle::client::Load;
use super::rig::{Rig, honest};
use crate::support::mount::Wish;
use crate::support::rng::{Rng, seed};
use crate::support::{healing_is_there, setting};
use crate::{need_healing, need_product, need_root};

const THREADS: usize = 4;

/// What was seen over all rounds.
#[derive(Debug, Default)]
struct Seen {
    ops: usize,
    under_way: usize,
    while_healing: usize,
}

/// Kills it, mounts it, lets it heal, compares. Now and then the load begins while it heals, and now
/// and then the next SIGKILL comes while it heals.
fn rounds(options: &[&str], is_sync: bool, rounds: u64) {
    let seed = seed("kill");
    let mut rng = Rng::new(seed);
    let wish = options
        .iter()
        .fold(Wish::default(), |wish, option| wish.arg("-o").arg(*option));
    let mut rig = Rig::new(wish, THREADS, seed);
    let mut seen = Seen::default();
    let mut was_in_sync = true;
    for round in 0..rounds {
        let mut orders = rig.orders();
        orders.syncs = [0, 1, 10][rng.below(3)];
        let mut load = Load::start(orders);
        load.wait_for(1 + rng.below(400));
        spin(rng.below(3000));
        eprintln!("kill: round {round} of {rounds}");
        let tally = rig.kill(load, is_sync && was_in_sync);
        seen.ops += tally.ops;
        seen.under_way += tally.under_way;
        rig.remount();
        // More deaths, before it has healed.
        while rng.below(4) == 0 {
            spin(rng.below(20_000));
            let json = rig.mount.status_json();
            honest(&json);
            seen.while_healing += usize::from(json["state"] != "in-sync");
            rig.mount.kill();
            rig.judge.still(&rig.mount.primary);
            rig.remount();
        }
        was_in_sync = !healing_is_there() || rng.below(3) > 0;
        if was_in_sync {
            rig.heals_by_itself();
            rig.is_equal();
        }
    }
    rig.heals_by_itself();
    eprintln!("kill: {rounds} rounds: {seen:?}");
    assert!(seen.under_way > 0, "no op was ever interrupted: {seen:?}");
    rig.finish();
}

/// A moment of this many microseconds: where in the daemon's work the signal comes is to be random.
fn spin(us: usize) {
    let until = std::time::Instant::now() + std::time::Duration::from_micros(us as u64);
    while std::time::Instant::now() < until {
        std::hint::spin_loop();
    }
}

/// mode=sync: everything acknowledged is on both copies, before anything is healed.
#[test]
fn sync() {
    need_root!();
    need_product!();
    rounds(&[], true, setting("MIRRORFS_KILLS", 40) / 2);
}

/// mode=async: everything acknowledged is on the primary, and on the replica once it is in-sync.
#[test]
fn asynchronous() {
    need_root!();
    need_product!();
    rounds(&["mode=async"], false, setting("MIRRORFS_KILLS", 40) / 2);
}

/// intent=crash: the log survives the death of the daemon, which is all that happens here.
#[test]
fn intent_crash() {
    need_root!();
    need_product!();
    need_healing!();
    rounds(&["intent=crash"], true, setting("MIRRORFS_KILLS", 40) / 4);
}
