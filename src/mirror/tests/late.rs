// SPDX-License-Identifier: MIT
//! A write hangs in the kernel, is given up, and is carried out after all when much has happened: at
//! no moment do the copies differ while the mirror says that they are in-sync.

use std::path::PathBuf;
use std::time::Instant;

use super::lost::differences;
use super::tap::Call;
use super::*;
use crate::mirror::state::ReplicaState;

/// The way back to a replica that lies here.
pub(super) struct Back(pub(super) PathBuf);

impl WayBack for Back {
    fn reach(&self, _: bool) -> std::result::Result<Reached, attach::refusal::Refusal> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = || rustix::fs::open(&self.0, flags, Mode::empty()).expect("open");
        let target: Arc<dyn Target> = Arc::new(Tree::new(Side::Replica, open(), 4096));
        Ok(Reached {
            replica: replica::Replica::new(target, resync::Lacks::default()),
            root: open(),
        })
    }
}

/// Shorter than anyone would set it: nobody looks but where the test says so.
const PATIENCE: Duration = Duration::from_millis(20);
/// For what must happen, on any machine.
const FOR_EVER: Duration = Duration::from_secs(60);

/// Waits for `what`.
fn await_that(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < FOR_EVER, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// Asks for the replica to be made equal, and waits until that is over, whatever came of it.
fn sync(mirror: &Mirror) -> ReplicaState {
    let number = mirror.sync_soon(false).expect("there is a log");
    await_that("a sync", || mirror.syncs().over >= number);
    mirror.replica_state()
}

/// What the mirror says that is not so.
fn lies(bench: &Bench, when: &str) -> Vec<String> {
    if bench.mirror.replica_state() != ReplicaState::InSync {
        return Vec::new();
    }
    let found = differences(bench);
    let lie = |one: String| format!("in-sync {when}: {one}");
    found.into_iter().map(lie).collect()
}

/// The story, on a mirror with this sabotage; tells in words where the mirror lied.
pub(super) fn come_late(
    limits: Option<window::Limits>,
    sabotage: impl FnOnce(&Mirror),
) -> Vec<String> {
    let limits = limits.map(|limits| window::Limits {
        patience: PATIENCE,
        ..limits
    });
    let bench = Bench::with(limits, PATIENCE, true);
    sabotage(&bench.mirror);
    let mut client = bench.client("home");
    client.create();
    let node = client.files[0].1.clone();
    let write = |byte: u8| {
        let action = Action::Write {
            node: node.clone(),
            offset: 0,
            appending: false,
        };
        let op = Op {
            needs: Needs::DAEMON,
            action,
            data: &[byte; 3000],
        };
        assert_eq!(bench.mirror.apply(&op).expect("written").written, 3000);
    };
    write(1);
    bench.mirror.settle_now();
    let mut found = Vec::new();
    bench.gate.let_go(Call::Begun);
    std::thread::scope(|scope| {
        scope.spawn(|| write(2));
        await_that("a write that hangs", || bench.gate.has_caught());
        await_that("it is given up", || {
            bench.mirror.look();
            let left = bench.note.1.load(Ordering::SeqCst) > 0;
            left && bench.mirror.late_calls() > 0
        });
        // The application goes on; and who asks for the replica is to have it, but not yet.
        write(3);
        _ = sync(&bench.mirror);
        found.extend(lies(&bench, "while a call is late"));
        bench.gate.let_go(Call::Done);
        found.extend(lies(&bench, "while a late call returns"));
        bench.gate.let_go(Call::Answered);
    });
    await_that("it is taken in again", || {
        sync(&bench.mirror) == ReplicaState::InSync
    });
    found.extend(lies(&bench, "in the end"));
    bench.mirror.close().expect("closed");
    found
}

#[test]
fn a_call_that_comes_late_changes_nothing_behind_our_back() {
    for limits in [None, Some(WIDE)] {
        assert_eq!(come_late(limits, |_| ()), [""; 0]);
    }
}
