// SPDX-License-Identifier: MIT
//! Which marks changes of content get: of their own, of their directory, coarse ones, none.

use super::*;
use crate::journal::{Aspect, Journal, Key};
use crate::store::op::SMALL_FILE;

/// Directories with files in them that no mark covers.
struct Settled<'a> {
    bench: &'a Bench,
    dirs: Vec<Client<'a>>,
}

fn settled(bench: &Bench, dirs: usize, files: usize) -> Settled<'_> {
    let client = |n| {
        let mut client = bench.client(&format!("d{n}"));
        (0..files).for_each(|_| client.create());
        client
    };
    let dirs = (0..dirs).map(client).collect();
    let settled = Settled { bench, dirs };
    settled.checkpoint();
    settled
}

impl Settled<'_> {
    fn journal(&self) -> &Journal {
        let intent = self.bench.mirror.intent.as_ref().expect("a log");
        intent.journal()
    }

    fn marks(&self) -> u64 {
        self.journal().counts().alive
    }

    /// How many marks something needs.
    fn needs(&self, change: impl FnOnce()) -> u64 {
        let before = self.marks();
        change();
        self.marks() - before
    }

    fn checkpoint(&self) {
        self.bench.mirror.settle_now();
        // The first one finds what was in use since the one before.
        while self.marks() > 0 {
            self.bench.mirror.checkpoint(true, Box::new(|_| ()));
        }
    }

    /// Clears what nobody has in use: the first checkpoint finds what was used since the one before.
    fn clear(&self) {
        (0..2).for_each(|_| self.bench.mirror.checkpoint(true, Box::new(|_| ())));
    }

    /// From now on nobody but the test makes checkpoints.
    fn alone(&self) {
        self.bench.mirror.tending.end(Duration::from_secs(60));
    }

    /// Writes to a file, and does something while somebody is carrying its time.
    fn while_carried<'env, T>(
        &'env self,
        file: &Arc<Node>,
        meanwhile: impl for<'scope> FnOnce(&'scope std::thread::Scope<'scope, 'env>) -> T,
    ) -> T {
        self.bench.gate.hold_times(Some(file));
        self.write(file, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| self.bench.mirror.settle_now());
            self.bench.gate.await_standstill(|| false);
            let found = meanwhile(scope);
            self.bench.gate.hold_times(None);
            found
        })
    }

    fn file(&self, dir: usize, file: usize) -> &Arc<Node> {
        &self.dirs[dir].files[file].1
    }

    fn write(&self, node: &Arc<Node>, offset: u64) {
        let action = Action::Write {
            node: node.clone(),
            offset,
            appending: false,
        };
        self.dirs[0].apply(action, &[7; 100]);
    }

    fn truncate(&self, node: &Arc<Node>, size: u64) {
        let node = node.clone();
        self.dirs[0].apply(Action::Truncate { node, size }, &[]);
    }

    fn has(&self, node: &Arc<Node>, aspect: Aspect) -> bool {
        let serial = node.serial;
        self.journal().is_hot(&Key { serial, aspect })
    }
}

#[test]
fn several_small_files_share_one() {
    let bench = Bench::new(None);
    let all = settled(&bench, 1, 10);
    let home = &all.dirs[0].home;
    let alone = |n| all.needs(|| all.write(all.file(0, n), 0));
    assert_eq!([alone(0), alone(1), alone(2)], [1; 3]);
    assert!(!all.has(home, Aspect::DirData));
    assert_eq!(alone(3), 1);
    assert!(all.has(home, Aspect::DirData));
    assert_eq!((4..10).map(alone).sum::<u64>(), 0);
    // Cleared, they begin anew.
    all.checkpoint();
    assert_eq!(alone(9), 1);
    assert!(!all.has(home, Aspect::DirData));
    bench.mirror.drain();
}

/// What is large must not be compared because others around it are small, so it is not marked with
/// them; and what has outgrown that mark is not covered by it any more.
#[test]
fn large_files_have_their_own() {
    let bench = Bench::new(None);
    let all = settled(&bench, 1, 10);
    let (large, small) = (all.file(0, 8), all.file(0, 9));
    all.truncate(large, SMALL_FILE + 1);
    all.checkpoint();
    (0..5).for_each(|n| all.write(all.file(0, n), 0));
    // In its first bytes, in its last ones, and its size.
    assert_eq!(all.needs(|| all.write(large, 0)), 1);
    assert_eq!(
        all.needs(|| all.truncate(large, SMALL_FILE / 2)),
        0,
        "the region is marked"
    );
    all.checkpoint();
    (0..5).for_each(|n| all.write(all.file(0, n), 0));
    assert_eq!(all.needs(|| all.write(large, 0)), 0, "it is small by now");
    // One that grows.
    assert_eq!(all.needs(|| all.write(small, SMALL_FILE - 100)), 0);
    assert!(!all.has(small, Aspect::CONTENT));
    assert_eq!(all.needs(|| all.write(small, SMALL_FILE - 99)), 1);
    assert!(
        all.has(small, Aspect::CONTENT),
        "what was written before is in doubt, too"
    );
    assert_eq!(all.needs(|| all.write(small, 0)), 0);
    // The mark of its directory is in use still when that of the file is gone.
    let busy = |n| all.needs(|| all.write(all.file(0, n), 0));
    for _ in 0..2 {
        assert_eq!(busy(4), 0);
        let intent = bench.mirror.intent.as_ref().expect("a log");
        let point = intent.journal().begin_checkpoint();
        assert_eq!(busy(4), 0);
        intent
            .journal()
            .end_checkpoint(point)
            .expect("the log is good");
    }
    assert!(all.has(&all.dirs[0].home, Aspect::DirData));
    assert!(!all.has(small, Aspect::CONTENT));
    assert_eq!(all.needs(|| all.write(small, 0)), 1, "it is large");
    bench.mirror.drain();
}

/// While a small change is under way in a file, nobody makes the file large.
#[test]
fn a_small_file_stays_small_while_it_is_changed() {
    let bench = Bench::new(None);
    let all = settled(&bench, 1, 2);
    let node = all.file(0, 0).clone();
    let write = |offset| Op {
        needs: Needs::DAEMON,
        action: Action::Write {
            node: node.clone(),
            offset,
            appending: false,
        },
        data: &[7; 100],
    };
    let conflicts = |one: &Op<'_>, other: &Op<'_>| {
        let (one, other) = (one.claims(), other.claims());
        let meet = |a: &crate::store::op::Claim| other.iter().any(|b| a.conflicts(b));
        one.iter().any(meet)
    };
    let large = [
        write(SMALL_FILE),
        write(SMALL_FILE - 1),
        write(u64::MAX / 2),
        Op::new(
            Needs::DAEMON,
            Action::Truncate {
                node: node.clone(),
                size: 1 << 30,
            },
        ),
        Op::new(
            Needs::DAEMON,
            Action::Allocate {
                node: node.clone(),
                mode: 0,
                offset: 1 << 30,
                length: 1,
            },
        ),
        Op::new(
            Needs::DAEMON,
            Action::CopyRange {
                from: all.file(0, 1).clone(),
                from_offset: 0,
                to: node.clone(),
                to_offset: 1 << 30,
                length: 1,
            },
        ),
    ];
    let (from, to) = (all.dirs[0].home.clone(), all.dirs[0].home.clone());
    let name = |name| Name::new(name).expect("a name");
    let moves = Op::new(
        Needs::DAEMON,
        Action::Rename {
            from: (from, name("f1")),
            to: (to, name("g")),
            flags: 0,
            moved: Some(node.clone()),
            victim: None,
        },
    );
    for op in &large {
        assert!(conflicts(&write(0), op), "{op:?}");
        assert!(conflicts(&moves, op), "{op:?}");
    }
    assert!(
        !conflicts(&write(SMALL_FILE), &write(2 * SMALL_FILE)),
        "no reason to wait"
    );
    bench.mirror.drain();
}

/// A directory's time had been noted after the checkpoint took those that it carried, and before it
/// looked which marks nobody used: the mark was cleared, and after a SIGKILL nobody carried the time.
///
/// ```text
///   checkpoint   takes the times                 carries them   which marks are quiet?   clears D's
///   op                             in D: done                                                    SIGKILL
/// ```
#[test]
fn a_time_to_be_carried_keeps_its_mark() {
    let bench = Bench::new(None);
    let mut all = settled(&bench, 2, 1);
    let home = all.dirs[1].home.clone();
    // Nobody else makes checkpoints, and holds a directory while it is held up.
    all.alone();
    bench.gate.hold_times(Some(all.file(0, 0)));
    all.write(all.file(0, 0), 0);
    std::thread::scope(|scope| {
        let checkpoint = || bench.mirror.checkpoint(true, Box::new(|_| ()));
        let checkpoint = scope.spawn(checkpoint);
        bench.gate.await_standstill(|| checkpoint.is_finished());
        assert!(!checkpoint.is_finished(), "it carried no times");
        all.dirs[1].create();
        bench.gate.hold_times(None);
    });
    assert!(all.has(&home, Aspect::Dir), "its time is not carried yet");
    all.checkpoint();
    assert!(!all.has(&home, Aspect::Dir));
    bench.mirror.drain();
}

/// Somebody else had taken the times, and was carrying them: the checkpoint found none that waited,
/// and cleared their marks. A power cut of the replica after that lost the times.
///
/// ```text
///   drain        takes the times                                            carries them
///   checkpoint                     finds none   syncs both   clears marks                 power cut
/// ```
#[test]
fn a_time_that_somebody_else_carries_keeps_its_mark() {
    let bench = Bench::new(None);
    let all = settled(&bench, 1, 1);
    all.alone();
    let kept = all.while_carried(all.file(0, 0), |scope| {
        let checkpoint = scope.spawn(|| all.clear());
        while !checkpoint.is_finished() && !bench.mirror.times.is_awaited() {
            std::thread::yield_now();
        }
        all.marks()
    });
    assert_eq!(kept, 1, "its time is not carried yet");
    all.clear();
    assert_eq!(all.marks(), 0);
    bench.mirror.drain();
}

/// In `mode=async` an op could be done on the replica before its times were noted, and a checkpoint come
/// in between.
///
/// ```text
///   op           queued                                                            notes its times
///   lane                  done, unpinned
///   checkpoint                            takes no times   syncs   clears marks                    SIGKILL
/// ```
#[test]
fn whose_times_are_not_noted_yet_keeps_its_marks() {
    let bench = Bench::new(Some(WIDE));
    let all = settled(&bench, 1, 0);
    all.alone();
    let (parent, name) = (all.dirs[0].home.clone(), Name::new("new").expect("a name"));
    let mode = 0o644;
    let op = Op::new(Needs::DAEMON, Action::Create { parent, name, mode });
    let intent = bench.mirror.intent.as_ref().expect("a log");
    let marked = intent.mark(&op, &|_| None).expect("marked");
    let way = bench.mirror.lane.way().expect("open");
    let place = way.reserve(0).expect("room");
    let mut applied = bench.first.apply(&op).expect("created");
    let node = bench.mirror.remember(&op, &mut applied, &marked);
    let done = Done {
        written: 0,
        made: node.zip(applied.made.map(|made| made.stat)),
    };
    way.carry(&op, &done, place, &marked.pins).expect("queued");
    way.settle().expect("carried");
    all.clear();
    assert_eq!(all.marks(), 1, "its time is not noted yet");
    bench.mirror.times.touch(&all.dirs[0].home);
    drop(marked);
    all.clear();
    assert_eq!(all.marks(), 0);
    bench.mirror.drain();
}

/// While a time waits in the queue the way may begin to heal, and what is looked for by name not be there
/// yet: then the mark is all that is left of it.
#[test]
fn a_time_in_the_queue_keeps_its_mark() {
    let bench = Bench::new(Some(WIDE));
    let all = settled(&bench, 1, 1);
    all.alone();
    let cleared = all.while_carried(all.file(0, 0), |_| {
        let clear = || {
            let point = all.journal().begin_checkpoint();
            all.journal().end_checkpoint(point).expect("a good log")
        };
        [clear(), clear()]
    });
    assert_eq!(cleared, [0; 2]);
    all.checkpoint();
    bench.mirror.drain();
}

/// The primary may have made a name, or changed the times of its directory, and failed after that. When
/// the replica was away nobody looked there when it came back.
#[test]
fn what_fails_while_the_replica_is_away_is_in_doubt() {
    let bench = Bench::new(None);
    let all = settled(&bench, 1, 1);
    all.alone();
    let fails = |gate: &Gate| {
        let mut state = gate.state.lock();
        state.fail_at = Some(state.passed);
    };
    let is_in_doubt = || {
        let doubts = bench.mirror.doubts();
        doubts.iter().any(|(mark, _)| mark.aspect == Aspect::Dir)
    };
    fails(&bench.gate);
    all.write(all.file(0, 0), 0);
    assert!(!bench.mirror.lane.is_open());
    assert!(!is_in_doubt());
    fails(&bench.first);
    let action = Action::Mkdir {
        parent: all.dirs[0].home.clone(),
        name: Name::new("new").expect("a name"),
        mode: 0o755,
    };
    let failed = bench.mirror.apply(&Op::new(Needs::DAEMON, action));
    assert_eq!(failed.expect_err("it fails"), Errno::IO);
    assert!(is_in_doubt());
    bench.mirror.drain();
}

#[test]
fn in_a_rush_directories_get_theirs_at_once() {
    let bench = Bench::new(None);
    let all = settled(&bench, 20, 4);
    for dir in 0..16 {
        let marks = all.needs(|| (0..4).for_each(|n| all.write(all.file(dir, n), 0)));
        assert_eq!(marks, 4, "directory {dir}");
    }
    for dir in 16..20 {
        let marks = all.needs(|| (0..4).for_each(|n| all.write(all.file(dir, n), 0)));
        assert_eq!(marks, 1, "directory {dir}");
        assert!(all.has(&all.dirs[dir].home, Aspect::DirData));
    }
    bench.mirror.drain();
}

#[test]
fn many_regions_of_one_file_are_cut_coarser() {
    const MIB: u64 = 1 << 20;
    let bench = Bench::new(None);
    let all = settled(&bench, 1, 1);
    let file = all.file(0, 0);
    all.truncate(file, 1 << 40);
    all.checkpoint();
    let at = |offset| all.needs(|| all.write(file, offset));
    let fine = (0..16).map(|n| at(n * 80 * MIB)).sum::<u64>();
    assert_eq!(fine, 16);
    let region = |start: u64, size| Aspect::Data {
        start,
        end: start + size,
    };
    assert!(all.has(file, region(80 * MIB, 4 * MIB)));
    assert!(!all.has(file, region(64 * MIB, 64 * MIB)));
    assert_eq!(at(2048 * MIB), 1);
    assert!(all.has(file, region(2048 * MIB, 64 * MIB)));
    // What is hot stays hot, whatever comes is cut coarser.
    assert_eq!(at(80 * MIB) + at(2048 * MIB + 63 * MIB), 0);
    // Over all of it, at random, for ever: few marks.
    let mut random = 7;
    let many = (0..5000)
        .map(|_| at((next(&mut random) % (1 << 40)) & !0xfff))
        .sum::<u64>();
    assert!(many < 64, "{many}");
    assert!(all.has(file, Aspect::CONTENT));
    bench.mirror.drain();
}
