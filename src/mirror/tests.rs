// SPDX-License-Identifier: MIT
//! The mirror as a whole, on two real trees: `mode=async` and its promise that the replica is at
//! every moment a state the primary had.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::*;
use crate::journal::{Intent as Survives, Journal};
use crate::store::direct::LARGE;
use crate::store::{Applied, Piece, Scope, Side, Time, Tree};
use crate::uring::{Buffers, Count, Engine, Opcode, Wish};

mod crowd;
mod late;
mod lost;
mod marks;
pub(super) mod sabotage;
mod switches;
mod tap;

use tap::{Gate, Note};

struct Bench {
    dir: tempfile::TempDir,
    engine: Arc<Engine>,
    gate: Arc<Gate>,
    /// Before the primary.
    first: Arc<Gate>,
    nodes: Arc<Nodes>,
    mirror: Arc<Mirror>,
    note: Arc<Note>,
}

const LIMITS: window::Limits = window::Limits {
    bytes: 1 << 20,
    pull_ahead: false,
    patience: Duration::from_secs(3600),
};

/// Room for many large writes.
const WIDE: window::Limits = window::Limits {
    bytes: 256 << 20,
    ..LIMITS
};

impl Drop for Bench {
    /// Nobody looks after the replica any more: that holds descriptors of everything.
    fn drop(&mut self) {
        self.mirror.tending.end(Duration::ZERO);
    }
}

impl Bench {
    fn new(limits: Option<window::Limits>) -> Self {
        Self::with(limits, LIMITS.patience, false)
    }

    /// One whose replica may take so long to answer, and comes back after that or never.
    fn with(limits: Option<window::Limits>, patience: Duration, comes_back: bool) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let [primary, replica, log] = ["p", "r", "log"].map(|name| {
            let path = dir.path().join(name);
            rustix::fs::mkdir(&path, Mode::RWXU).expect("mkdir");
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(&path, flags, Mode::empty()).expect("open")
        });
        let gate = |tree| Arc::new(Gate::new(tree));
        let engine = Arc::new(Engine::new(Wish::Auto).expect("some way"));
        let roots = [&primary, &replica].map(|root| root.try_clone().expect("dup"));
        let again = primary.try_clone().expect("dup");
        let first = gate(Tree::new(Side::Primary, again, 4096));
        let source = Arc::new(Tree::new(Side::Primary, primary, 4096));
        let tree = Tree::new(Side::Replica, replica, 4096).with_engine(engine.clone());
        let gate = gate(tree.past_cache(64));
        let nodes = Arc::new(Nodes::new(&source.root_stat().expect("statx")));
        let note = Arc::new(Note::default());
        let target: Arc<dyn Target> = gate.clone();
        let replica = replica::Replica::new(target, resync::Lacks::default());
        let lane = Lane::new(limits);
        let lane = match limits {
            Some(_) => {
                // Fewer than may wait: what does not fit is kept elsewhere.
                let buffers = Buffers::new(4 << 20, engine.counters().clone());
                lane.with_buffers(buffers.expect("memory"))
            }
            None => lane,
        };
        let journal = Journal::create(log, 1, 0, Survives::Crash).expect("a log");
        let [primary_root, root] = roots;
        let back = late::Back(dir.path().join("r"));
        let way_back = comes_back.then(|| Box::new(back) as Box<dyn WayBack>);
        let mirror = Arc::new(Mirror::new(Parts {
            intent: Some(Intent::new(Arc::new(journal), source.clone())),
            source,
            primary: first.clone(),
            lane,
            replica: Some(Reached { replica, root }),
            to_heal: false,
            way_back,
            at_once: true,
            does_without: false,
            replica_path: String::new(),
            bytes_per_second: None,
            primary_root,
            nodes: nodes.clone(),
            record: note.clone(),
            policy: OnReplicaError::Degrade,
            sync_both: true,
            health: Health::default(),
            patience,
            workers: 0,
        }));
        let tended = mirror.clone();
        std::thread::spawn(move || tended.tend());
        Self {
            dir,
            engine,
            gate,
            first,
            nodes,
            mirror,
            note,
        }
    }

    /// Large writes went to the replica past the page cache, where that can be: several at once.
    fn assert_chained(&self, large: bool) {
        if !self.gate.tree.has_chains() {
            eprintln!("no ring, or no way past the page cache, in {:?}", self.dir);
            return;
        }
        let counters = self.engine.counters();
        let written = counters.of(Opcode::WriteFixed) + counters.of(Opcode::Write);
        assert_eq!(written > 0, large);
        assert!(!large || counters.get(Count::Entered) < written);
        assert_eq!(counters.get(Count::OutOfOrder), 0);
    }

    fn path(&self, side: Side) -> std::path::PathBuf {
        let name = if side == Side::Primary { "p" } else { "r" };
        self.dir.path().join(name)
    }

    fn client(&self, name: &str) -> Client<'_> {
        let action = Action::Mkdir {
            parent: self.nodes.root().clone(),
            name: Name::new(name).expect("a name"),
            mode: 0o755,
        };
        let op = Op::new(Needs::DAEMON, action);
        let made = self.mirror.apply(&op).expect("mkdir").made;
        Client {
            bench: self,
            name: name.to_owned(),
            home: made.expect("it was made").0,
            files: Vec::new(),
            fresh: 0,
            large: false,
        }
    }
}

/// What a directory holds: names, kinds, modes, lengths and checksums. Times are not part of the promise.
type Seen = BTreeMap<Vec<u8>, (u32, usize, u32)>;

fn look(dir: &Path) -> Seen {
    let Ok(list) = dir.read_dir() else {
        return Seen::new();
    };
    list.map(|entry| {
        let entry = entry.expect("an entry");
        let mode = entry.metadata().expect("metadata").permissions().mode();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let content = rustix::fs::open(entry.path(), flags, Mode::empty()).map(|fd| {
            let mut all = Vec::new();
            let mut file = std::fs::File::from(fd);
            // A directory cannot be read: it has no content of its own.
            match std::io::Read::read_to_end(&mut file, &mut all) {
                Ok(_) => all,
                Err(_) => Vec::new(),
            }
        });
        let name = entry.file_name().as_bytes().to_vec();
        let content = content.expect("open");
        (name, (mode, content.len(), crc32fast::hash(&content)))
    })
    .collect()
}

/// The same while it changes: what vanishes meanwhile is left out.
fn glance(dir: &Path) -> Seen {
    let list = dir.read_dir().expect("readdir").flatten();
    list.filter_map(|entry| {
        let mode = entry.metadata().ok()?.permissions().mode();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(entry.path(), flags, Mode::empty()).ok()?;
        let mut all = Vec::new();
        std::io::Read::read_to_end(&mut std::fs::File::from(fd), &mut all).ok()?;
        let seen = (mode, all.len(), crc32fast::hash(&all));
        Some((entry.file_name().as_bytes().to_vec(), seen))
    })
    .collect()
}

/// Somebody who changes things in a directory of their own.
struct Client<'a> {
    bench: &'a Bench,
    name: String,
    home: Arc<Node>,
    files: Vec<(Name, Arc<Node>)>,
    fresh: usize,
    /// Most of what it does is large writes.
    large: bool,
}

impl Client<'_> {
    fn apply(&self, action: Action, data: &[u8]) -> Outcome {
        let op = Op {
            needs: Needs::DAEMON,
            action,
            data,
        };
        self.bench.mirror.apply(&op).expect("it must succeed")
    }

    fn fresh_name(&mut self) -> Name {
        self.fresh += 1;
        Name::new(format!("f{}", self.fresh)).expect("a name")
    }

    /// One random change, each a single op.
    fn change(&mut self, random: u64) {
        let parent = self.home.clone();
        let many = self.files.len();
        let pick = usize::try_from(random >> 32).expect("64 bits") % many.max(1);
        match random % 8 {
            _ if self.large && many > 2 && random >> 16 & 3 > 0 => {
                let data = vec![(random >> 20).to_le_bytes()[0]; LARGE];
                let action = Action::Write {
                    node: self.files[pick].1.clone(),
                    offset: (random >> 24 & 3) * LARGE as u64,
                    appending: false,
                };
                self.apply(action, &data);
            }
            0 | 1 if many < 12 => self.create(),
            _ if many == 0 => self.create(),
            2 => {
                let (name, victim) = self.files.swap_remove(pick);
                let id = victim.id;
                let action = Action::Unlink {
                    parent,
                    name,
                    victim: Some(victim),
                };
                self.apply(action, &[]);
                self.bench.nodes.forget(id, 1);
            }
            3 => {
                let to = self.fresh_name();
                let (name, node) = self.files[pick].clone();
                let action = Action::Rename {
                    from: (parent.clone(), name),
                    to: (parent, to.clone()),
                    flags: 0,
                    moved: Some(node),
                    victim: None,
                };
                self.apply(action, &[]);
                self.files[pick].0 = to;
            }
            4 => {
                let (node, size) = (self.files[pick].1.clone(), random >> 8 & 0xfff);
                self.apply(Action::Truncate { node, size }, &[]);
            }
            5 => {
                let action = Action::SetAttr {
                    node: self.files[pick].1.clone(),
                    uid: None,
                    gid: None,
                    mode: Some(u32::try_from(0o600 | (random >> 8 & 0o77)).expect("small")),
                    atime: None,
                    mtime: None,
                };
                self.apply(action, &[]);
            }
            _ => {
                let data: Vec<u8> = (0..=random >> 8 & 0x1ff)
                    .map(|n| (random >> 20 ^ n).to_le_bytes()[0])
                    .collect();
                let action = Action::Write {
                    node: self.files[pick].1.clone(),
                    offset: random >> 24 & 0xfff,
                    appending: false,
                };
                self.apply(action, &data);
            }
        }
    }

    fn create(&mut self) {
        let name = self.fresh_name();
        let action = Action::Create {
            parent: self.home.clone(),
            name: name.clone(),
            mode: 0o644,
        };
        let made = self.apply(action, &[]).made.expect("it was made");
        self.files.push((name, made.0));
    }
}

/// The same stories with large writes among the small ones.
const LARGE_SEEDS: [(u64, bool); 4] = [(101, true), (102, true), (103, true), (104, true)];

fn below(random: &mut u64, limit: usize) -> usize {
    usize::try_from(next(random) % limit as u64).expect("below a usize")
}

fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

/// The state after each change is known; wherever the lane is stopped, the replica is the state
/// after exactly as many changes as it was let through.
#[test]
fn stopped_anywhere_the_replica_is_a_state_the_primary_had() {
    for (seed, large) in (1..=20_u64).map(|n| (n, false)).chain(LARGE_SEEDS) {
        let bench = Bench::new(Some(WIDE));
        let mut client = bench.client("home");
        client.large = large;
        let home = |side| bench.path(side).join("home");
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut history = vec![Seen::new()];
        let mut stops: Vec<usize> = (0..8).map(|_| 1 + below(&mut random, 200)).collect();
        stops.sort_unstable();
        bench.gate.stop_at(Some(stops[0]));
        for _ in 0..200 {
            client.change(next(&mut random));
            history.push(look(&home(Side::Primary)));
        }
        for (n, &stop) in stops.iter().enumerate() {
            bench.gate.await_standstill(|| false);
            // The first change let through made the directory.
            assert_eq!(
                look(&home(Side::Replica)),
                history[stop - 1],
                "seed {seed}, change {stop}"
            );
            bench.gate.stop_at(stops.get(n + 1).copied());
        }
        bench.mirror.settle_now();
        assert_eq!(look(&home(Side::Replica)), history[200], "seed {seed}");
        assert_eq!(bench.mirror.lag().ops, 0);
        assert!(bench.mirror.health().degraded.is_none());
        bench.mirror.drain();
        bench.assert_chained(large);
    }
}

/// Killed anywhere the replica stays a state the primary had, and the mirror says it failed.
#[test]
fn killed_anywhere_the_replica_is_a_state_the_primary_had() {
    for (seed, large) in (1..=40_u64).map(|n| (n, false)).chain(LARGE_SEEDS) {
        let bench = Bench::new(Some(WIDE));
        let mut client = bench.client("home");
        client.large = large;
        let mut random = seed.wrapping_mul(0x2545_f491_4f6c_dd1d);
        let end = 1 + below(&mut random, 100);
        bench.gate.state.lock().fail_at = Some(end);
        let mut history = vec![Seen::new()];
        for _ in 0..100 {
            client.change(next(&mut random));
            history.push(look(&bench.path(Side::Primary).join("home")));
        }
        bench.mirror.settle_now();
        bench.mirror.drain();
        let seen = look(&bench.path(Side::Replica).join("home"));
        assert_eq!(seen, history[end - 1], "seed {seed}, change {end}");
        let why = bench.mirror.health().degraded.expect("it must say so");
        assert_eq!(why.fault.errno, Some(Errno::IO));
        assert_eq!(bench.note.0.load(Ordering::SeqCst), 1, "noted once");
        assert_eq!(bench.mirror.lag(), Lag::default());
    }
}

/// Several clients at once. Each one's directory is a state it had; and what one client had seen
/// finished before it began a change is on the replica before that change.
#[test]
fn several_clients_and_what_they_could_have_seen() {
    const CLIENTS: usize = 3;
    const CHANGES: usize = 120;
    for seed in 1..=15_u64 {
        let bench = Bench::new(Some(LIMITS));
        let names = ["a", "b", "c"];
        let finished: [AtomicUsize; CLIENTS] = std::array::from_fn(|_| AtomicUsize::new(0));
        let clients: Vec<_> = names.iter().map(|name| bench.client(name)).collect();
        let mut random = seed.wrapping_mul(0xd134_2543_de82_ef95);
        bench.first.state.lock().dawdles = true;
        let stop = CLIENTS + below(&mut random, CLIENTS * CHANGES);
        bench.gate.stop_at(Some(stop));
        // After each change: the state, and what the others had finished when it began.
        // And what it saw there, finished or not.
        type Step = (Seen, [usize; CLIENTS], [Seen; CLIENTS]);
        let histories: Vec<Vec<Step>> = std::thread::scope(|scope| {
            let all: Vec<_> = clients
                .into_iter()
                .enumerate()
                .map(|(me, mut client)| {
                    let (bench, finished) = (&bench, &finished);
                    let mut random = random.wrapping_mul(2 * me as u64 + 3);
                    scope.spawn(move || {
                        let home = bench.path(Side::Primary).join(&client.name);
                        let nothing = std::array::from_fn(|_| Seen::new());
                        let mut history = vec![(Seen::new(), [0; CLIENTS], nothing)];
                        for _ in 0..CHANGES {
                            let before =
                                std::array::from_fn(|n| finished[n].load(Ordering::SeqCst));
                            let there = |n: usize| bench.path(Side::Primary).join(names[n]);
                            let peeked = std::array::from_fn(|n| match n == me {
                                true => Seen::new(),
                                false => glance(&there(n)),
                            });
                            client.change(next(&mut random));
                            finished[me].fetch_add(1, Ordering::SeqCst);
                            history.push((look(&home), before, peeked));
                        }
                        history
                    })
                })
                .collect();
            all.into_iter()
                .map(|one| one.join().expect("join"))
                .collect()
        });
        bench.gate.await_standstill(|| bench.mirror.lag().ops == 0);
        let seen: Vec<Seen> = names
            .iter()
            .map(|name| look(&bench.path(Side::Replica).join(name)))
            .collect();
        // A state may come again: the earliest and the latest moment it can be.
        let places: Vec<(usize, usize)> = (0..CLIENTS)
            .map(|n| {
                let same = |(at, (state, ..)): (usize, &Step)| (*state == seen[n]).then_some(at);
                let mut moments = histories[n].iter().enumerate().filter_map(same);
                let first = moments
                    .next()
                    .unwrap_or_else(|| panic!("seed {seed}: client {n} never had this"));
                (first, moments.next_back().unwrap_or(first))
            })
            .collect();
        for n in 0..CLIENTS {
            let (_, before, peeked) = &histories[n][places[n].0];
            for (other, &had) in before.iter().enumerate().filter(|(other, _)| *other != n) {
                // What was seen in the middle of a change is no state of its own.
                let later = histories[other].iter().skip(had);
                let seen = later.map(|step| &step.0).position(|s| *s == peeked[other]);
                assert!(
                    places[other].1 >= had + seen.unwrap_or(0),
                    "seed {seed}: {n} is there before what it had seen of {other}"
                );
            }
        }
        bench.gate.stop_at(None);
        bench.mirror.drain();
        for (n, name) in names.iter().enumerate() {
            assert_eq!(
                look(&bench.path(Side::Replica).join(name)),
                histories[n][CHANGES].0,
                "seed {seed}"
            );
        }
    }
}

/// fsync waits for the replica; a full window makes the application wait, or leaves the replica
/// behind and says so.
#[test]
fn a_full_window_blocks_or_pulls_ahead() {
    let bench = Bench::new(Some(LIMITS));
    let mut client = bench.client("home");
    client.create();
    let node = client.files[0].1.clone();
    bench.gate.stop_at(Some(2));
    let block = vec![7; 256 << 10];
    let write = |n: u64| {
        let action = Action::Write {
            node: node.clone(),
            offset: n << 18,
            appending: false,
        };
        let op = Op {
            needs: Needs::DAEMON,
            action,
            data: &block,
        };
        bench.mirror.apply(&op).expect("write").written
    };
    (0..3).for_each(|n| assert_eq!(write(n), block.len()));
    std::thread::scope(|scope| {
        let fourth = scope.spawn(|| write(3));
        bench.gate.await_standstill(|| false);
        assert!(bench.mirror.lag().bytes <= LIMITS.bytes);
        bench.gate.stop_at(None);
        assert_eq!(fourth.join().expect("join"), block.len());
        bench.mirror.barrier(&node, Scope::Data).expect("fsync");
        assert_eq!(bench.mirror.lag().ops, 0);
    });
    bench.mirror.drain();

    let bench = Bench::new(Some(window::Limits {
        pull_ahead: true,
        ..LIMITS
    }));
    let mut client = bench.client("home");
    client.create();
    let node = client.files[0].1.clone();
    bench.gate.stop_at(Some(2));
    for n in 0..8 {
        let action = Action::Write {
            node: node.clone(),
            offset: n << 18,
            appending: false,
        };
        client.apply(action, &block);
    }
    let degraded = bench.mirror.health().degraded.expect("left behind");
    assert_eq!(degraded.id, attach::refusal::Id::PulledAhead);
    bench.gate.stop_at(None);
    bench.mirror.drain();
}

/// A replica that does not answer is given up by whoever waits for it, and only then.
#[test]
fn a_replica_that_does_not_answer_is_given_up() {
    let bench = Bench::new(Some(window::Limits {
        patience: Duration::from_millis(1),
        ..LIMITS
    }));
    let mut client = bench.client("home");
    bench.mirror.settle_now();
    bench.gate.stop_at(Some(1));
    client.create();
    let node = client.files[0].1.clone();
    bench
        .mirror
        .barrier(&node, Scope::Node)
        .expect("the primary has it");
    let degraded = bench.mirror.health().degraded.expect("given up");
    assert_eq!(degraded.fault.errno, Some(Errno::TIMEDOUT));
    client.create();
    bench.gate.stop_at(None);
    bench.mirror.drain();
}

/// To read times has a price, and fdatasync promises none.
#[test]
fn times_are_carried_by_fsync_and_not_by_fdatasync() {
    let bench = Bench::new(None);
    let mut client = bench.client("home");
    client.create();
    let node = client.files[0].1.clone();
    let waits = || node.unsettled.load(Ordering::Acquire);
    // Nobody else carries any.
    bench.mirror.tending.end(Duration::from_secs(60));
    let action = Action::Write {
        node: node.clone(),
        offset: 0,
        appending: false,
    };
    client.apply(action, b"data");
    for (scope, left) in [(Scope::Data, true), (Scope::Node, false)] {
        bench.mirror.barrier(&node, scope).expect("a sync");
        assert_eq!(waits(), left, "{scope:?}");
    }
    bench.mirror.drain();
}

/// Large writes go to both copies at once: when the primary fails or falls short, the replica has
/// already what it must not have.
#[test]
fn a_primary_that_falls_short_while_the_replica_writes() {
    for (before, short) in [(0, 0), (0, 300_000), (2 << 20, 0), (2 << 20, 700_001)] {
        let bench = Bench::new(None);
        let mut client = bench.client("home");
        client.create();
        let node = client.files[0].1.clone();
        let write = |byte: u8, length: usize, offset: u64| {
            let action = Action::Write {
                node: node.clone(),
                offset,
                appending: false,
            };
            bench.mirror.apply(&Op {
                needs: Needs::DAEMON,
                action,
                data: &vec![byte; length],
            })
        };
        if before > 0 {
            write(1, before, 0).expect("write");
        }
        bench.first.state.lock().short = Some(short);
        let written = write(2, 1 << 20, 4096).map(|outcome| outcome.written);
        let expected = if short == 0 {
            Err(Errno::NOSPC)
        } else {
            Ok(short)
        };
        assert_eq!(written, expected);
        let home = |side| look(&bench.path(side).join("home"));
        let (primary, replica) = (home(Side::Primary), home(Side::Replica));
        assert!(primary == replica, "before {before}, short {short}");
        assert!(bench.mirror.health().degraded.is_none());
        bench.mirror.drain();
    }
}

/// Both copies refuse a large write, or take as much of it: the replica misses nothing, and was
/// called failed all the same, because it had been asked for all of it.
#[test]
fn a_large_write_that_both_refuse() {
    for short in [0, 300_000] {
        let bench = Bench::new(None);
        let mut client = bench.client("home");
        client.create();
        let action = Action::Write {
            node: client.files[0].1.clone(),
            offset: 4096,
            appending: false,
        };
        for gate in [&bench.first, &bench.gate] {
            gate.state.lock().short = Some(short);
        }
        let written = bench.mirror.apply(&Op {
            needs: Needs::DAEMON,
            action,
            data: &vec![2; 1 << 20],
        });
        let expected = if short == 0 {
            Err(Errno::NOSPC)
        } else {
            Ok(short)
        };
        assert_eq!(written.map(|outcome| outcome.written), expected);
        let home = |side| look(&bench.path(side).join("home"));
        assert_eq!(home(Side::Primary), home(Side::Replica));
        assert!(bench.mirror.health().degraded.is_none());
        bench.mirror.drain();
    }
}

/// `mv a b; touch b/f; mv b c; ls`, and the replica has none of it yet: the listing showed the
/// directory under its last name, under which the replica was then asked for it too early.
#[test]
fn a_directory_moved_twice_and_seen_before_the_replica_follows() {
    let bench = Bench::new(Some(LIMITS));
    let mut client = bench.client("a");
    // Without the times: carrying them would leave a descriptor behind.
    bench.mirror.settle_lane();
    bench.gate.stop_at(Some(1));
    let root = bench.nodes.root().clone();
    let at = |name: &str| (root.clone(), Name::new(name).expect("a name"));
    let home = client.home.clone();
    let mv = |from, to| {
        let action = Action::Rename {
            from: at(from),
            to: at(to),
            flags: 0,
            moved: Some(home.clone()),
            victim: None,
        };
        let op = Op::new(Needs::DAEMON, action);
        drop(bench.mirror.apply(&op).expect("rename"));
    };
    mv("a", "b");
    client.create();
    mv("b", "c");
    let (_, name) = at("c");
    let stat = bench.mirror.source.lookup(&root, &name).expect("lookup");
    let seen = bench.nodes.remember(&stat, &root, &name);
    assert!(Arc::ptr_eq(&seen, &home));
    bench.gate.stop_at(None);
    bench.mirror.settle_now();
    let degraded = bench.mirror.health().degraded;
    assert!(degraded.is_none(), "{degraded:?}");
    let there = |side| look(&bench.path(side).join("c"));
    assert_eq!(there(Side::Primary), there(Side::Replica));
    bench.mirror.drain();
}
