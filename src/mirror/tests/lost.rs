// SPDX-License-Identifier: MIT
//! Whatever the replica lost, the marks say where: it is stopped anywhere in a random history with
//! checkpoints in it, the daemon dies, and healing what is marked makes the copies equal.
//!
//! It may lose the end of what it was sent, and what it was sent since it was synced last, too, or
//! any part of that: what a checkpoint clears must be on the disk. The power may fail in the middle of
//! a checkpoint.

use std::os::fd::OwnedFd;

use super::tap::Power;
use super::*;
use crate::mirror::resync::How;
use crate::mirror::state::ReplicaState;
use crate::store::op::SMALL_FILE;

/// Someone who does anything to a small tree, by paths.
struct Anyone<'a> {
    bench: &'a Bench,
    /// Every path there is, directories and others.
    dirs: Vec<String>,
    others: Vec<String>,
    /// What was looked up and not forgotten.
    known: Vec<u64>,
    fresh: usize,
    random: u64,
}

impl Anyone<'_> {
    fn pick<'b>(&mut self, among: &'b [String]) -> Option<&'b String> {
        among.get(below(&mut self.random, among.len().max(1)))
    }

    fn node(&mut self, path: &str) -> Arc<Node> {
        let mut node = self.bench.nodes.root().clone();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let name = Name::new(name).expect("a name");
            let stat = self.bench.mirror.source.lookup(&node, &name);
            let stat = stat.unwrap_or_else(|errno| panic!("{path}: {errno}"));
            node = self.bench.nodes.remember(&stat, &node, &name);
            self.known.push(node.id);
        }
        node
    }

    /// The kernel forgets all.
    fn forget(&mut self) {
        self.known
            .drain(..)
            .rev()
            .for_each(|id| self.bench.nodes.forget(id, 1));
    }

    fn fresh_path(&mut self) -> (String, Arc<Node>, Name) {
        let dirs = self.dirs.clone();
        let dir = self.pick(&dirs).cloned().unwrap_or_default();
        self.fresh += 1;
        let name = format!("n{}", self.fresh);
        let node = self.node(&dir);
        let path = format!("{dir}/{name}");
        (path, node, Name::new(name).expect("a name"))
    }

    fn split(&mut self, path: &str) -> (Arc<Node>, Name) {
        let (dir, name) = path.rsplit_once('/').expect("a path");
        (self.node(dir), Name::new(name).expect("a name"))
    }

    fn apply(&mut self, action: Action, data: &[u8]) {
        let op = Op {
            needs: Needs::DAEMON,
            action,
            data,
        };
        if let Some((node, _)) = self.bench.mirror.apply(&op).expect("it must succeed").made {
            self.known.push(node.id);
        }
    }

    fn rename(&mut self, from: &str, to: &str, flags: u32, victim: bool) {
        let moved = Some(self.node(from));
        let victim = victim.then(|| self.node(to));
        let (from, to) = (self.split(from), self.split(to));
        let action = Action::Rename {
            from,
            to,
            flags,
            moved,
            victim,
        };
        self.apply(action, &[]);
    }

    /// One random change.
    fn change(&mut self) {
        let (dirs, others) = (self.dirs.clone(), self.others.clone());
        let kind = below(&mut self.random, 25);
        match kind {
            0 | 1 => {
                let (path, parent, name) = self.fresh_path();
                let mode = 0o755;
                self.apply(Action::Mkdir { parent, name, mode }, &[]);
                self.dirs.push(path);
            }
            2..=5 => self.create(),
            6 => {
                let (path, parent, name) = self.fresh_path();
                let target = c"somewhere".to_owned();
                self.apply(
                    Action::Symlink {
                        parent,
                        name,
                        target,
                    },
                    &[],
                );
                // Not among those that are written to.
                drop(path);
            }
            7 => {
                let Some(old) = self.pick(&others) else {
                    return;
                };
                let node = self.node(old);
                let (path, parent, name) = self.fresh_path();
                self.apply(Action::Link { node, parent, name }, &[]);
                self.others.push(path);
            }
            8 | 9 => {
                let Some(path) = self.pick(&others) else {
                    return;
                };
                let victim = Some(self.node(path));
                let (parent, name) = self.split(path);
                self.apply(
                    Action::Unlink {
                        parent,
                        name,
                        victim,
                    },
                    &[],
                );
                self.others.retain(|other| other != path);
            }
            10 => {
                let inner = |dir: &String| {
                    let below = format!("{dir}/");
                    dir.is_empty()
                        || dirs
                            .iter()
                            .chain(&others)
                            .any(|path| path.starts_with(&below))
                };
                let Some(path) = dirs.iter().find(|dir| !inner(dir)) else {
                    return;
                };
                let victim = Some(self.node(path));
                let (parent, name) = self.split(path);
                let op = Op::new(
                    Needs::DAEMON,
                    Action::Rmdir {
                        parent,
                        name,
                        victim,
                    },
                );
                // A symlink may be in it.
                if self.bench.mirror.apply(&op).is_ok() {
                    self.dirs.retain(|dir| dir != path);
                }
            }
            11 | 12 => {
                let Some(from) = self.pick(&others) else {
                    return;
                };
                let (to, ..) = self.fresh_path();
                self.rename(from, &to, 0, false);
                self.others.retain(|other| other != from);
                self.others.push(to);
            }
            13 => {
                let (Some(from), Some(to)) = (self.pick(&others), self.pick(&others)) else {
                    return;
                };
                let (one, two) = (self.node(from), self.node(to));
                self.rename(from, to, 0, true);
                // Two names of one file stay both.
                if from != to && !Arc::ptr_eq(&one, &two) {
                    self.others.retain(|other| other != from);
                }
            }
            14 => {
                let (Some(from), Some(to)) = (self.pick(&others), self.pick(&others)) else {
                    return;
                };
                self.rename(from, to, rustix::fs::RenameFlags::EXCHANGE.bits(), true);
            }
            15 | 16 => {
                let Some(from) = self.pick(&dirs).filter(|dir| !dir.is_empty()) else {
                    return;
                };
                let (to, ..) = self.fresh_path();
                if to.starts_with(&format!("{from}/")) {
                    return;
                }
                self.rename(from, &to, 0, false);
                let inner = format!("{from}/");
                for path in self.dirs.iter_mut().chain(&mut self.others) {
                    if path == from {
                        path.clone_from(&to);
                    } else if let Some(rest) = path.strip_prefix(&inner) {
                        *path = format!("{to}/{rest}");
                    }
                }
            }
            17 => {
                let Some(path) = self.pick(&others) else {
                    return;
                };
                let node = self.node(path);
                let most = self.small_or_large();
                let size = next(&mut self.random) % most;
                self.apply(Action::Truncate { node, size }, &[]);
            }
            18 => {
                let among = [dirs, others].concat();
                let Some(path) = self.pick(&among) else {
                    return;
                };
                let node = self.node(path);
                let mode = 0o600 | u32::try_from(below(&mut self.random, 64)).expect("small");
                let action = Action::SetAttr {
                    node,
                    uid: None,
                    gid: None,
                    mode: Some(mode | 0o100),
                    atime: None,
                    mtime: None,
                };
                self.apply(action, &[]);
            }
            19 => {
                let among = [dirs, others].concat();
                let Some(path) = self.pick(&among) else {
                    return;
                };
                let (node, name) = (self.node(path), c"user.note".to_owned());
                let value = next(&mut self.random).to_le_bytes();
                self.apply(Action::SetXattr { node, name, how: 0 }, &value);
            }
            20 => self.crowd(),
            _ => {
                if let Some(path) = self.pick(&others) {
                    let among = self.small_or_large();
                    self.write(path, among);
                }
            }
        }
    }

    /// Files become large and small again: how they are marked depends on that.
    fn small_or_large(&mut self) -> u64 {
        [SMALL_FILE / 4, SMALL_FILE + SMALL_FILE / 4, 12 << 20][below(&mut self.random, 3)]
    }

    fn create(&mut self) {
        let (path, parent, name) = self.fresh_path();
        let mode = 0o644;
        self.apply(Action::Create { parent, name, mode }, &[]);
        self.others.push(path);
    }

    /// Writes to so many files of one directory that it gets a mark for all of them. Some outgrow it.
    fn crowd(&mut self) {
        let others = self.others.clone();
        let is_above = |path: &&String| path.rfind('/') == Some(0);
        let together = others.iter().filter(is_above);
        for path in together.take(8) {
            self.write(path, 4096);
            if below(&mut self.random, 4) == 0 {
                self.write(path, 8 * SMALL_FILE);
            }
        }
    }

    /// Writes somewhere in the first bytes of a file.
    fn write(&mut self, path: &str, among: u64) {
        let node = self.node(path);
        let offset = next(&mut self.random) % among;
        let data = vec![next(&mut self.random).to_le_bytes()[0]; 3000];
        let appending = false;
        self.apply(
            Action::Write {
                node,
                offset,
                appending,
            },
            &data,
        );
    }
}

/// All differences between two trees, in words.
pub(super) fn differences(bench: &Bench) -> Vec<String> {
    let [primary, replica] = [Side::Primary, Side::Replica].map(|side| open(&bench.path(side)));
    let how = How::default();
    let found = resync::reconcile(primary.as_fd(), replica.as_fd(), how, &mut |_| {});
    let found = found.expect("both can be read");
    let word = |one: &resync::Difference| {
        let path = failure::show_path(&one.path);
        format!("{path}: {} {}", one.kind.word(), one.detail)
    };
    found.differences.iter().map(word).collect()
}

fn open(path: &Path) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).expect("open")
}

use std::os::fd::AsFd;

/// The same mirror after its daemon died: what the log says is to be healed.
fn revived(bench: &Bench) -> Arc<Mirror> {
    let log = open(&bench.dir.path().join("log"));
    let known = bench
        .mirror
        .intent
        .as_ref()
        .expect("a log")
        .journal()
        .log_id();
    let journal = Journal::open(log, 1, 0, known, Survives::Crash).expect("the log is good");
    let [primary, replica] = [Side::Primary, Side::Replica].map(|side| open(&bench.path(side)));
    let roots = [&primary, &replica].map(|root| root.try_clone().expect("dup"));
    let again = primary.try_clone().expect("dup");
    let source = Arc::new(Tree::new(Side::Primary, primary, 4096));
    let target: Arc<dyn Target> = Arc::new(Tree::new(Side::Replica, replica, 4096));
    let [primary_root, root] = roots;
    Arc::new(Mirror::new(Parts {
        nodes: Arc::new(Nodes::new(&source.root_stat().expect("statx"))),
        intent: Some(Intent::new(Arc::new(journal), source.clone())),
        source,
        primary: Arc::new(Tree::new(Side::Primary, again, 4096)),
        lane: Lane::new(None),
        replica: Some(Reached {
            replica: replica::Replica::new(target, resync::Lacks::default()),
            root,
        }),
        to_heal: true,
        way_back: None,
        at_once: true,
        does_without: false,
        replica_path: String::new(),
        bytes_per_second: None,
        primary_root,
        record: Arc::new(Note::default()),
        policy: OnReplicaError::Degrade,
        sync_both: true,
        health: Health::default(),
        patience: LIMITS.patience,
        workers: 0,
    }))
}

/// What the replica loses in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Some of what comes last does not reach it.
    Stopped,
    /// That, and contents, attributes and times since its last sync.
    Unsynced,
    /// The power fails when a checkpoint syncs it: contents, attributes and times since the last
    /// sync before that one.
    Cut,
}

impl End {
    /// All of them take turns.
    pub(super) fn of(seed: u64) -> Self {
        match seed % 3 {
            0 => Self::Stopped,
            1 => Self::Unsynced,
            _ => Self::Cut,
        }
    }
}

/// Plays one random history on a mirror with this sabotage, and tells in words what healing what
/// is marked has left different.
pub(super) fn lose(seed: u64, end: End, sabotage: impl FnOnce(&Mirror)) -> Vec<String> {
    let bench = Bench::new(Some(WIDE));
    sabotage(&bench.mirror);
    if end != End::Stopped {
        bench.gate.caches();
    }
    let mut anyone = Anyone {
        bench: &bench,
        dirs: vec![String::new()],
        others: Vec::new(),
        known: Vec::new(),
        fresh: 0,
        random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
    };
    // There is but one directory yet: a crowd.
    (0..10).for_each(|_| anyone.create());
    let steps = 40 + below(&mut anyone.random, 200);
    let stop = below(&mut anyone.random, steps);
    // Much that is lost is marked many times over. After a checkpoint a few changes need each mark.
    let few = below(&mut anyone.random, 2) == 0;
    let steps = match few {
        true => stop + 1 + below(&mut anyone.random, 8),
        false => steps,
    };
    for step in 0..steps {
        if step == stop {
            bench.mirror.settle_now();
            if few {
                bench.mirror.checkpoint(false, Box::new(|_| ()));
            }
            let passed = bench.gate.state.lock().passed;
            let more = below(&mut anyone.random, if few { 3 } else { 20 });
            if end != End::Cut {
                bench.gate.stop_at(Some(passed + more));
            }
        }
        if few && step == stop && below(&mut anyone.random, 2) == 0 {
            anyone.crowd();
        }
        anyone.change();
        let quiet = step >= stop && (few || end != End::Cut);
        match below(&mut anyone.random, 40) {
            0 | 1 if !quiet => bench.mirror.checkpoint(false, Box::new(|_| ())),
            2 => anyone.forget(),
            _ => {}
        }
    }
    let last = (end == End::Cut).then(|| {
        // A daemon that died has nothing under way any more: not what is queued, where all that is marked
        // is in use and the checkpoint has nothing to sync, and no checkpoint of anybody else.
        bench.mirror.tending.end(LIMITS.patience);
        bench.mirror.settle_lane();
        bench.gate.set_power(Power::Failing);
        let mirror = bench.mirror.clone();
        std::thread::spawn(move || mirror.checkpoint(false, Box::new(|_| ())))
    });
    bench.gate.await_standstill(|| match &last {
        // Where there is nothing to clear there is nothing to sync.
        Some(last) => last.is_finished(),
        None => bench.mirror.lag().ops == 0,
    });
    if below(&mut anyone.random, 2) == 0 {
        bench.gate.lose_some(&mut anyone.random);
    }
    let mirror = revived(&bench);
    let tended = mirror.clone();
    std::thread::spawn(move || tended.tend());
    while mirror.replica_state() != ReplicaState::InSync && mirror.lane.is_open() {
        std::thread::yield_now();
    }
    let mut found = differences(&bench);
    if let Some(degraded) = mirror.health().degraded {
        found.push(format!("it could not be healed: {}", degraded.fault));
    }
    mirror.close().expect("closed");
    bench.gate.stop_at(None);
    bench.gate.set_power(Power::Missed);
    if let Some(last) = last {
        last.join().expect("joined");
    }
    found
}

#[test]
fn whatever_the_replica_lost_is_marked() {
    let seeds = std::env::var("MIRRORFS_LOST_SEEDS").ok();
    let seeds: u64 = seeds.map_or(45, |text| text.parse().expect("a number"));
    let first = std::env::var("MIRRORFS_LOST_FIRST").ok();
    let first: u64 = first.map_or(1, |text| text.parse().expect("a number"));
    for seed in first..first + seeds {
        let end = End::of(seed);
        assert_eq!(lose(seed, end, |_| ()), [""; 0], "seed {seed}, {end:?}");
    }
}
