// SPDX-License-Identifier: MIT
//! A mirror with a load on it and a judge over it: what every fault test stands on.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use serde_json::Value;

use super::oracle::client::{Load, Orders};
use super::oracle::judge::{Judge, Tally};
use crate::support::compare::{Ignore, differences, report, wait_equal};
use crate::support::mount::{TestMount, Wish};
use crate::support::{breathe, healing_is_there, wait_until};

/// How long a replica that is back may take until healing begins by itself (10 s are promised),
/// and is done with little to do.
const BY_ITSELF: Duration = Duration::from_secs(40);

/// A mirror, the judge of what is in it, and where loads put their notes.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) mount: TestMount,
    pub(crate) judge: Judge,
    notes: tempfile::TempDir,
    loads: usize,
    seed: u64,
    /// What the two copies may differ in.
    pub(crate) ignore: Ignore,
}

impl Drop for Rig {
    fn drop(&mut self) {
        // What the load did, for whoever looks for the reason.
        if std::thread::panicking() && std::env::var_os("MIRRORFS_KEEP_NOTES").is_some() {
            self.notes.disable_cleanup(true);
            eprintln!("notes kept in {}", self.notes.path().display());
        }
    }
}

/// The whole of `wish` with a state directory of its own.
fn with_state(wish: Wish, state: &Path) -> Wish {
    wish.arg("--state-dir").arg(state)
}

impl Rig {
    /// Mounts what is wished for; `threads` subtrees are made.
    #[track_caller]
    pub(crate) fn new(wish: Wish, threads: usize, seed: u64) -> Self {
        let notes = crate::support::temp_in(&crate::support::base());
        let state = notes.path().join("state");
        std::fs::create_dir(&state).expect("a state directory");
        Self::with_state_dir(wish, &state, notes, threads, seed)
    }

    /// The same with a state directory somewhere else.
    #[track_caller]
    pub(crate) fn on(wish: Wish, state: &Path, threads: usize, seed: u64) -> Self {
        let notes = crate::support::temp_in(&crate::support::base());
        Self::with_state_dir(wish, state, notes, threads, seed)
    }

    #[track_caller]
    fn with_state_dir(
        wish: Wish,
        state: &Path,
        notes: tempfile::TempDir,
        threads: usize,
        seed: u64,
    ) -> Self {
        let mount = with_state(wish, state).mount();
        for thread in 0..threads {
            std::fs::create_dir(mount.at(format!("w{thread}"))).expect("mkdir");
        }
        Self {
            mount,
            judge: Judge::new(threads),
            notes,
            loads: 0,
            seed,
            ignore: Ignore::default(),
        }
    }

    /// Orders for the next load: without limits, few fsyncs, no pauses.
    pub(crate) fn orders(&mut self) -> Orders {
        self.loads += 1;
        Orders {
            root: self.mount.mountpoint.clone(),
            notes: self.notes.path().join(format!("notes{}", self.loads)),
            seed: self.seed.wrapping_add(self.loads as u64),
            threads: self.judge.threads(),
            ops: u64::MAX,
            syncs: 1,
            pause_us: 0,
        }
    }

    /// A load as most tests want it.
    pub(crate) fn load(&mut self) -> Load {
        Load::start(self.orders())
    }

    /// Ends a load and judges the primary. The application may have got the errors `foretold`, and
    /// no other.
    #[track_caller]
    pub(crate) fn judge(&mut self, load: Load, foretold: &[Errno]) -> Tally {
        let notes = load.stop();
        self.judge_notes(&notes, foretold)
    }

    /// Judges the primary by the notes of a load that has ended.
    #[track_caller]
    pub(crate) fn judge_notes(&mut self, notes: &Path, foretold: &[Errno]) -> Tally {
        self.judge.look(notes, &self.mount.primary, None, foretold)
    }

    /// SIGKILL. What was acknowledged is on the primary and, if `replica`, on the replica, before
    /// anything was healed.
    #[track_caller]
    pub(crate) fn kill(&mut self, load: Load, replica: bool) -> Tally {
        self.mount.kill();
        let notes = load.ended();
        let replica = replica.then_some(self.mount.replica.as_path());
        let gone = [Errno::IO];
        self.judge.look(&notes, &self.mount.primary, replica, &gone)
    }

    /// Mounts after the daemon's death; in doubt, nothing but mounting is needed.
    #[track_caller]
    pub(crate) fn remount(&mut self) {
        if healing_is_there() {
            self.mount.mount();
        } else {
            self.mount.try_mount(&["--adopt"]).ok();
        }
        honest(&self.mount.status_json());
    }

    /// The same when nobody may know what differs: then it is refused until all is compared.
    #[track_caller]
    pub(crate) fn remount_in_doubt(&mut self) {
        let ran = self.mount.try_mount(&[]);
        if ran.code != Some(0) {
            ran.code(32).says("--adopt");
            self.mount.try_mount(&["--adopt"]).ok();
        }
        honest(&self.mount.status_json());
    }

    /// The replica is there again and healthy: the mirror becomes in-sync by itself.
    #[track_caller]
    pub(crate) fn heals_by_itself(&mut self) {
        if healing_is_there() {
            self.becomes_in_sync(BY_ITSELF);
        } else if self.mount.state() != "in-sync" {
            self.mount.umount();
            self.remount();
        }
    }

    /// In-sync by itself, or by a complete comparison when only that can tell; then equal.
    #[track_caller]
    pub(crate) fn is_made_sure(&mut self) {
        let until = Instant::now() + Duration::from_secs(15);
        loop {
            let json = self.mount.status_json();
            honest(&json);
            let state = json["state"].as_str().unwrap_or_default().to_owned();
            if state == "in-sync" {
                break;
            }
            if state == "unverified" || Instant::now() > until {
                eprintln!("{state}: sync --full");
                self.mount.product("sync", &["--full"]).ok();
                break;
            }
            breathe();
        }
        self.is_equal();
    }

    /// `mirrorfs sync MOUNTPOINT`: in-sync now, both copies durable, no mark left.
    #[track_caller]
    pub(crate) fn sync(&mut self) {
        if healing_is_there() {
            self.mount.product("sync", &[]).ok();
            let json = self.mount.status_json();
            assert_eq!(json["state"], "in-sync", "{json}");
            honest(&json);
        } else {
            self.heals_by_itself();
        }
    }

    /// Waits until status says in-sync; on the way it never says so with something dirty.
    #[track_caller]
    pub(crate) fn becomes_in_sync(&self, patience: Duration) {
        let until = Instant::now() + patience;
        loop {
            let json = self.mount.status_json();
            honest(&json);
            if json["state"] == "in-sync" {
                return;
            }
            assert!(Instant::now() < until, "not in-sync: {json}");
            breathe();
        }
    }

    /// Waits for a state other than in-sync.
    #[track_caller]
    pub(crate) fn falls_out(&self) {
        wait_until("the failure is noticed", || {
            let json = self.mount.status_json();
            honest(&json);
            json["state"] != "in-sync"
        });
    }

    /// Nothing runs and status says in-sync: then both copies are equal, the primary is what it was,
    /// and both are durable.
    #[track_caller]
    pub(crate) fn is_equal(&mut self) {
        self.sync();
        let (a, b) = (&self.mount.primary, &self.mount.replica);
        wait_equal(a, b, Duration::from_secs(10), self.ignore);
        assert_eq!(self.mount.state(), "in-sync");
        self.judge.still(&self.mount.primary);
    }

    /// The end of every fault test: equal now, equal after an orderly end, in-sync again at once.
    #[track_caller]
    pub(crate) fn finish(mut self) {
        self.is_equal();
        self.mount.umount();
        self.copies_are_equal();
        self.mount.mount();
        assert_eq!(self.mount.state(), "in-sync");
        self.mount.umount();
        self.copies_are_equal();
    }

    /// The complete comparison of the two copies.
    #[track_caller]
    pub(crate) fn copies_are_equal(&self) {
        let (a, b) = (&self.mount.primary, &self.mount.replica);
        let found = differences(a, b, self.ignore);
        let log = self.mount.log_text();
        assert!(found.is_empty(), "{}\n{log}", report(a, b, &found));
    }
}

/// The invariant of every fault test: `in-sync` means that nothing is dirty, on any line of status.
#[track_caller]
pub(crate) fn honest(json: &Value) {
    let replica = &json["replicas"][0];
    if json["state"] == "in-sync" {
        assert_eq!(replica["state"], "in-sync", "{json}");
        assert_eq!(replica["dirty_files"], 0, "{json}");
        assert_eq!(replica["dirty_bytes"], 0, "{json}");
    }
}

/// How long the application waited at most; more than the replica may take is a stall.
#[track_caller]
pub(crate) fn no_stall(tally: Tally, replica_timeout: Duration) {
    // A busy machine of two processors adds its own.
    let most = replica_timeout + Duration::from_secs(4);
    let slowest = Duration::from_millis(tally.slowest_ms);
    assert!(slowest < most, "an op took {slowest:?}");
}

/// Fills the file system that holds `dir` with a file there, down to the last block; freed when the
/// value is dropped.
#[derive(Debug)]
pub(crate) struct Ballast(PathBuf);

impl Ballast {
    pub(crate) fn new(dir: &Path) -> Self {
        let path = dir.join("ballast");
        let file = std::fs::File::create(&path).expect("ballast");
        let mut size = 4 << 20;
        while size > 0 {
            let block = vec![1; size];
            let wrote = std::io::Write::write(&mut &file, &block);
            if !wrote.is_ok_and(|n| n > 0) {
                size /= 4;
            }
        }
        Self(path)
    }

    /// Fills what became free since.
    pub(crate) fn top_up(&self) {
        let file = std::fs::OpenOptions::new().append(true).open(&self.0);
        let file = file.expect("ballast");
        while std::io::Write::write(&mut &file, &[1; 4096]).is_ok_and(|n| n > 0) {}
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        // Failing means that its disk is gone.
        drop(std::fs::remove_file(&self.0));
    }
}
