// SPDX-License-Identifier: MIT
//! An empty replica is filled, by one daemon after the other: what one has done the next one does not do
//! again, and nothing is lost between them.

use std::sync::atomic::{AtomicBool, Ordering};

use super::Stop;
use super::bench::{Bench, Way};
use super::live::{Client, Working, seeds};
use crate::journal::{Aspect, Object};

const FILES: u64 = 10;

/// A primary with some trees, a replica with nothing, and a log that says so.
fn to_fill() -> Bench {
    let bench = Bench::new();
    for top in ["a", "b", "c", "d"] {
        bench.mkdir(top);
        for below in ["x", "y", "z"] {
            bench.mkdir(&format!("{top}/{below}"));
            for n in 0..FILES {
                let path = format!("{top}/{below}/{n}");
                bench.put(&path, 0, path.as_bytes());
            }
        }
    }
    empty(&bench);
    bench
}

/// Takes the replica away, and puts an empty one in its place.
fn empty(bench: &Bench) {
    bench.settle();
    bench.checkpoint();
    for entry in std::fs::read_dir(bench.r("")).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            std::fs::remove_dir_all(path).expect("removed");
        } else {
            std::fs::remove_file(path).expect("removed");
        }
    }
    let missing = bench.journal.mark_missing(Object::default());
    drop(missing.expect("marked"));
}

/// Whether the whole tree must be looked at.
fn is_all_dirty(bench: &Bench) -> bool {
    bench
        .journal
        .dirty_trees()
        .iter()
        .any(|path| path.is_empty())
}

/// Heals until so many holds have been taken, or to the end. Whether it was stopped.
fn heals_for(bench: &Bench, holds: u32) -> bool {
    bench.before_hold(holds, |bench| bench.stop.store(true, Ordering::Relaxed));
    match bench.go_on_healing() {
        Ok(_) => false,
        Err(Stop::Asked) => true,
        Err(stop) => panic!("{stop:?}"),
    }
}

#[test]
fn what_was_filled_is_not_filled_again() {
    let mut bench = to_fill();
    let (mut opened, mut daemons) = (0, 0);
    while heals_for(&bench, 40) {
        opened += bench.opened().0;
        daemons += 1;
        assert!(bench.journal.is_filling());
        bench = bench.dies();
        let dirty = bench.journal.dirty();
        assert!(dirty.iter().all(|(mark, _)| mark.aspect == Aspect::Fill));
        assert!(!is_all_dirty(&bench), "the whole tree once more");
    }
    opened += bench.opened().0;
    assert!(daemons > 2, "{daemons} daemons");
    // Those of one directory at most, for each of them.
    let most = 4 * 3 * FILES + daemons * FILES;
    assert!(opened <= most, "{opened} of {most}");
    bench.assert_equal();
    bench.checkpoint();
    assert!(!bench.journal.is_filling());
}

/// A tree that is no longer missing, but in doubt, is looked at as one.
#[test]
fn what_is_in_doubt_is_not_divided() {
    let bench = to_fill();
    assert!(heals_for(&bench, 30));
    drop(bench.journal.mark_tree(Object::default()).expect("marked"));
    assert!(heals_for(&bench, 60));
    let bench = bench.dies();
    assert!(is_all_dirty(&bench));
    bench.heal();
    bench.assert_equal();
}

/// Whoever uses the mount meanwhile, whenever the daemon dies.
#[test]
fn nothing_is_lost_between_two_daemons() {
    let mut deaths = 0;
    for seed in seeds(1..=20) {
        deaths += lost_under_load(seed, |bench, _| empty(bench));
    }
    assert!(deaths > 0, "nobody died");
}

/// The same after an outage: what must be healed then is on record, too.
#[test]
fn nothing_of_an_outage_is_lost_between_two_daemons() {
    let mut deaths = 0;
    for seed in seeds(1..=20) {
        deaths += lost_under_load(seed, |bench, clients| {
            bench.start();
            for tag in 0..clients {
                let mut one = client(bench, seed, tag, 77);
                (0..150).for_each(|_| one.change());
            }
        });
    }
    assert!(deaths > 0, "nobody died");
}

fn client(bench: &Bench, seed: u64, tag: usize, part: u64) -> Client<'_> {
    let random = seed * 1_000_003 + part * 7_919 + tag as u64 + 1;
    Client { bench, random, tag }
}

/// Healing after `lose`, by daemons of which each dies in the middle of it but the last.
fn lost_under_load(seed: u64, lose: impl FnOnce(&Bench, usize)) -> u32 {
    let clients = 1 + usize::try_from(seed % 2).expect("few");
    let mut bench = Bench::new();
    for tag in 0..clients {
        bench.mkdir(&format!("t{tag}"));
        let mut one = client(&bench, seed, tag, 0);
        (0..400).for_each(|_| one.change());
    }
    lose(&bench, clients);
    let mut deaths = 0;
    for part in 1..=5 {
        bench
            .notes
            .store(!seed.is_multiple_of(3), Ordering::Relaxed);
        bench.go(Way::Healing);
        bench.working.store(clients, Ordering::Release);
        let holds = u32::try_from(client(&bench, seed, 9, part).draw(150)).expect("few");
        let over = AtomicBool::new(false);
        let stopped = std::thread::scope(|scope| {
            for tag in 0..clients {
                let (bench, over) = (&bench, &over);
                scope.spawn(move || {
                    let _working = Working(bench);
                    let mut one = client(bench, seed, tag, part);
                    for _ in 0..200 {
                        if over.load(Ordering::Relaxed) {
                            break;
                        }
                        one.change();
                    }
                });
            }
            let stopped = heals_for(&bench, holds);
            over.store(true, Ordering::Relaxed);
            stopped
        });
        if !stopped {
            break;
        }
        // In the middle of an op of each of them.
        bench.go(Way::Last);
        for tag in 0..clients {
            client(&bench, seed, tag, part + 1000).change();
        }
        deaths += 1;
        bench = bench.dies();
    }
    // The same healing once more, if it has skipped what came in its last moment.
    while !bench.journal.dirty().is_empty() || bench.healing.lock().is_behind() {
        bench.go_on_healing().expect("healed");
    }
    bench.settle();
    assert_eq!(bench.differences(), [""; 0], "seed {seed}");
    deaths
}
