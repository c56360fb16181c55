// SPDX-License-Identifier: MIT
//! The load: this very test binary once more, as a process of its own. A thread that waits for a
//! dead or frozen disk, or that stores into a mapping of a dead mount, takes no test with it.
//!
//! Each thread appends lines to a journal of its own outside the mount, each line with one write:
//! `i N JSON` before op N, `a N ERRNO MILLISECONDS` after its answer.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::model::Model;
use super::op::{Held, Op};
use crate::support::rng::Rng;
use crate::support::{PATIENCE, breathe, wait_until};

/// What a load is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    /// Thread N works in `wN` below it.
    pub(crate) root: PathBuf,
    /// Where the journals go.
    pub(crate) notes: PathBuf,
    pub(crate) seed: u64,
    pub(crate) threads: usize,
    /// Ops of each thread, at most.
    pub(crate) ops: u64,
    /// Of 100 ops, so many are fsyncs.
    pub(crate) syncs: usize,
    /// Pause between ops, in microseconds.
    pub(crate) pause_us: u64,
}

const ORDERS: &str = "MIRRORFS_TEST_LOAD";

/// The load itself: nothing, unless it was ordered.
#[test]
fn serve() {
    let Some(orders) = std::env::var_os(ORDERS) else {
        return;
    };
    let orders: Orders = serde_json::from_str(orders.to_str().expect("text")).expect("orders");
    crate::support::sys::own_fs_state();
    rustix::process::umask(rustix::fs::Mode::empty());
    std::thread::scope(|scope| {
        for number in 0..orders.threads {
            let orders = &orders;
            scope.spawn(move || work(orders, number));
        }
    });
}

/// Errors by which a thread learns that the mount is gone.
pub(crate) fn is_the_end(errno: i32) -> bool {
    // ECANCELED: what was in a ring (fs/fuse/dev_uring.c). EINTR: what was on its way into one; the
    // mirror never answers it.
    matches!(
        errno,
        libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED | libc::EINTR
    )
}

/// One thread of the load.
fn work(orders: &Orders, number: usize) {
    let root = orders.root.join(format!("w{number}"));
    let mut notes = File::options()
        .create(true)
        .append(true)
        .open(orders.notes.join(number.to_string()))
        .expect("a journal");
    let mut note = |line: String| {
        notes.write_all(line.as_bytes()).expect("a note");
    };
    // What is there is what the one before left; the judge has looked at it.
    let mut model = match Model::scan(&root) {
        Ok(model) => model,
        // Killed before it began.
        Err(e) if e.raw_os_error().is_some_and(is_the_end) => return note("end\n".to_owned()),
        Err(e) => return note(format!("failed {e}\n")),
    };
    let stop = orders.notes.join("stop");
    let mut rng = Rng::new(orders.seed ^ ((number as u64 + 1) << 40));
    let mut held = Held::new();
    for n in 0..orders.ops {
        if stop.exists() {
            break;
        }
        if orders.pause_us > 0 {
            std::thread::park_timeout(Duration::from_micros(orders.pause_us));
        }
        let op = Op::choose(&mut rng, &model, orders.syncs);
        let id = op.file().and_then(|path| model.find(path));
        hold(&mut rng, &mut held, &root, &op, id);
        let words = serde_json::to_string(&op).expect("JSON");
        note(format!("i {n} {words}\n"));
        let began = Instant::now();
        let answer = op.carry_out(&root, &held, id);
        let ms = began.elapsed().as_millis();
        let errno = answer.err().map_or(0, Errno::raw_os_error);
        note(format!("a {n} {errno} {ms}\n"));
        match answer {
            Ok(()) => model.apply(&op).expect("it was chosen because it works"),
            Err(Errno::NOSPC | Errno::DQUOT) => model.failed(&op),
            Err(_) => break,
        }
    }
    note("end\n".to_owned());
}

/// Keeps some descriptors open over many ops, and lets them go again.
fn hold(rng: &mut Rng, held: &mut Held, root: &Path, op: &Op, id: Option<usize>) {
    if rng.below(40) == 0 {
        held.clear();
    }
    if let (Some(path), Some(id)) = (op.file(), id)
        && rng.below(4) == 0
        && let Ok(file) = File::options().read(true).write(true).open(root.join(path))
    {
        held.insert(id, file);
    }
}

/// A load that runs; it is ended when the value is dropped.
#[derive(Debug)]
pub(crate) struct Load {
    child: Child,
    pub(crate) orders: Orders,
}

impl Load {
    /// Starts it; the subtrees have to be there.
    pub(crate) fn start(orders: Orders) -> Self {
        std::fs::create_dir_all(&orders.notes).expect("a directory for notes");
        let said = File::create(orders.notes.join("said")).expect("its output");
        let own = std::env::current_exe().expect("this program");
        let child = Command::new(own)
            .args(["--exact", "faults::oracle::client::serve", "--nocapture"])
            .env(ORDERS, serde_json::to_string(&orders).expect("JSON"))
            .stdin(Stdio::null())
            .stdout(said.try_clone().expect("dup"))
            .stderr(said)
            .spawn()
            .expect("the load");
        Self { child, orders }
    }

    /// How many ops all threads together have been answered.
    pub(crate) fn answered(&self) -> usize {
        let lines = |n: usize| {
            let text = std::fs::read(self.orders.notes.join(n.to_string())).unwrap_or_default();
            text.split(|&b| b == b'\n')
                .filter(|line| line.starts_with(b"a "))
                .count()
        };
        (0..self.orders.threads).map(lines).sum()
    }

    /// Waits until so many more ops have been answered, or the load has ended.
    pub(crate) fn wait_for(&mut self, more: usize) {
        let goal = self.answered() + more;
        let until = Instant::now() + PATIENCE;
        while self.answered() < goal && self.child.try_wait().expect("wait").is_none() {
            if Instant::now() > until {
                let said = self.said();
                panic!(
                    "the load does not get on: {} of {goal}\n{said}",
                    self.answered()
                );
            }
            breathe();
        }
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// Waits for its end, which has to come by itself (the mount died).
    pub(crate) fn ended(mut self) -> PathBuf {
        wait_until("the load's end", || !self.runs());
        self.orders.notes.clone()
    }

    /// Asks it to end and waits; hands back where its notes are.
    pub(crate) fn stop(mut self) -> PathBuf {
        File::create(self.orders.notes.join("stop")).expect("a sign");
        wait_until("the load's end", || !self.runs());
        self.orders.notes.clone()
    }

    fn said(&self) -> String {
        let notes = &self.orders.notes;
        std::fs::read_to_string(notes.join("said")).unwrap_or_default()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Failing means that it has ended already.
        drop(self.child.kill());
        if self.child.try_wait().is_ok_and(|done| done.is_none()) && !std::thread::panicking() {
            drop(self.child.wait());
        }
    }
}
