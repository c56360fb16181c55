// SPDX-License-Identifier: MIT
//! Four processes of random operations on one mirror, for `MIRRORFS_SECONDS` (20 in CI; `scripts/
//! soak MINUTES` for longer): nothing differs, nothing panics, nothing grows, and SIGTERM in the
//! middle still leaves two equal copies.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::need_product;
use crate::support::compare::{Ignore, differences, report};
use crate::support::mount::{TestMount, alive, is_mounted};
use crate::support::rng::{Rng, seed};
use crate::support::run::Guarded;
use crate::support::sys::Map;
use crate::support::{setting, wait_until};

/// What marks a process of ours: this binary, run again with these in its environment.
const DIR: &str = "MIRRORFS_WORKER_DIR";
const SEED: &str = "MIRRORFS_WORKER_SEED";
const UNTIL_GONE: &str = "MIRRORFS_WORKER_UNTIL_GONE";

/// Starts one process of random operations.
fn start(dir: &Path, seed: u64, until_gone: bool) -> Guarded {
    let mut command = Command::new(std::env::current_exe().expect("ourselves"));
    command.args([
        "--exact",
        "random4::one_of_four",
        "--nocapture",
        "--test-threads=1",
    ]);
    command.env(DIR, dir).env(SEED, seed.to_string());
    if until_gone {
        command.env(UNTIL_GONE, "1");
    }
    // Standard input tells it when to end.
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    Guarded(command.spawn().expect("spawn"))
}

/// Not a story of its own: the body of the four processes. Without a directory it has nothing to do.
#[test]
fn one_of_four() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let seed = std::env::var(SEED)
        .expect("a seed")
        .parse()
        .expect("a number");
    let until_gone = std::env::var_os(UNTIL_GONE).is_some();
    let (send, stop) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        // Ends when the parent closes our standard input, however it does that.
        drop(std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
        drop(send);
    });
    let mut worker = Worker {
        dir: PathBuf::from(dir),
        rng: Rng::new(seed),
    };
    while stop.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
        match worker.step() {
            Ok(()) => {}
            Err(e) if until_gone && gone(&e, &worker.dir) => return,
            // The other three change the same tree: names come and go.
            Err(e) if expected(&e) => {}
            Err(e) => panic!("unexpected: {e}"),
        }
    }
}

/// The mount is no more: nobody answers, or the empty mount point has no such directory.
fn gone(error: &std::io::Error, dir: &Path) -> bool {
    let gone = [libc::ENOTCONN, libc::ECONNABORTED, libc::ENODEV, libc::EIO];
    error.raw_os_error().is_some_and(|e| gone.contains(&e)) || dir.metadata().is_err()
}

fn expected(error: &std::io::Error) -> bool {
    let usual = [
        libc::ENOENT,
        libc::EEXIST,
        libc::ENOTDIR,
        libc::EISDIR,
        libc::ENOTEMPTY,
        libc::ELOOP,
        libc::EINVAL,
        libc::EPERM,
        libc::EMLINK,
        libc::ENODATA,
        libc::ENXIO,
        libc::ETXTBSY,
    ];
    error.raw_os_error().is_some_and(|e| usual.contains(&e))
}

struct Worker {
    dir: PathBuf,
    rng: Rng,
}

impl Worker {
    fn path(&mut self) -> PathBuf {
        let mut path = self.dir.clone();
        for _ in 0..1 + self.rng.below(3) {
            path.push(format!("n{}", self.rng.below(8)));
        }
        path
    }

    fn step(&mut self) -> std::io::Result<()> {
        let (path, other) = (self.path(), self.path());
        if self.rng.below(300) == 0 {
            // What was moved out of reach of three components would pile up for ever.
            return std::fs::remove_dir_all(self.dir.join(format!("n{}", self.rng.below(8))));
        }
        let open = || std::fs::File::options().read(true).write(true).open(&path);
        match self.rng.below(20) {
            0..=2 => {
                let len = self.rng.below(50_000);
                std::fs::write(&path, self.rng.bytes(len))
            }
            3..=4 => {
                use std::os::unix::fs::FileExt;
                let (at, len) = (self.rng.below(200_000), self.rng.below(20_000));
                open()?.write_all_at(&self.rng.bytes(len), u64::try_from(at).expect("small"))
            }
            5 => open()?.set_len(self.rng.next() % 300_000),
            6 => {
                use std::io::Write;
                let mut file = std::fs::File::options().append(true).open(&path)?;
                file.write_all(b"appended")?;
                file.sync_all()
            }
            7 => {
                // Mapped and not touched: another process may cut the file, and a touch would be
                // SIGBUS. What it exercises is the daemon's side of opening and mapping.
                let file = open()?;
                let len = usize::try_from(file.metadata()?.len()).expect("small");
                Map::new(&file, 0, len.max(1), true, false).map(drop)?;
                Ok(())
            }
            8..=9 => std::fs::create_dir(&path),
            10 => std::fs::remove_dir(&path),
            11..=12 => std::fs::remove_file(&path),
            13..=14 => std::fs::rename(&path, &other),
            15 => std::fs::hard_link(&path, &other),
            16 => std::os::unix::fs::symlink("target", &path),
            17 => {
                use std::os::unix::fs::PermissionsExt;
                let mode = 0o600 | u32::try_from(self.rng.below(0o200)).expect("small");
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
            }
            18 => {
                let len = self.rng.below(500);
                let (name, value) = (format!("user.x{}", self.rng.below(3)), self.rng.bytes(len));
                let flags = rustix::fs::XattrFlags::empty();
                Ok(rustix::fs::setxattr(&path, &*name, &value, flags)?)
            }
            _ => {
                // How many is nobody's promise: a name that comes back meanwhile may show twice.
                std::fs::read_dir(&path)?.count();
                Ok(())
            }
        }
    }
}

/// Descriptors and resident KiB of the daemon.
fn weight(pid: u32) -> (usize, u64) {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("the daemon")
        .count();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon");
    let line = status
        .lines()
        .find(|l| l.starts_with("VmRSS:"))
        .expect("VmRSS");
    (
        fds,
        line.split_whitespace()
            .nth(1)
            .and_then(|n| n.parse().ok())
            .expect("a number"),
    )
}

fn equal(mount: &TestMount) {
    let found = differences(&mount.primary, &mount.replica, Ignore::default());
    assert!(
        found.is_empty(),
        "{}",
        report(&mount.primary, &mount.replica, &found)
    );
}

/// For the whole time: no difference, no death, no growth.
#[test]
fn four_processes() {
    need_product!();
    let mount = TestMount::new();
    let work = mount.at("work");
    std::fs::create_dir(&work).expect("mkdir");
    let seed = seed("random4");
    let workers: Vec<_> = (0..4)
        .map(|n| start(&work, seed.wrapping_add(n), false))
        .collect();
    let seconds = Duration::from_secs(setting("MIRRORFS_SECONDS", 20));
    let (begun, pid) = (Instant::now(), mount.pid());
    // What is known comes and goes: the most in the second quarter, the least in the last.
    let (mut early, mut late) = ((0, 0), (usize::MAX, u64::MAX));
    // This is the one story about a length of time: it works for so long and then looks.
    while begun.elapsed() < seconds {
        assert!(alive(pid), "the daemon died\n{}", mount.log_text());
        let quarters = begun.elapsed().as_secs_f64() * 4.0 / seconds.as_secs_f64();
        if (1.0..2.0).contains(&quarters) {
            let (fds, memory) = weight(pid);
            early = (early.0.max(fds), early.1.max(memory));
        } else if quarters >= 3.0 {
            let (fds, memory) = weight(pid);
            late = (late.0.min(fds), late.1.min(memory));
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
    let ((fds_early, memory_early), (fds, memory)) = (early, late);
    end(workers);
    assert!(
        fds <= fds_early + 200,
        "descriptors grew from {fds_early} to {fds}"
    );
    assert!(
        memory <= memory_early + 64 * 1024,
        "memory grew from {memory_early} to {memory} KiB"
    );
    assert_eq!(mount.state(), "in-sync");
    mount.assert_equal();
    mount.finish();
}

/// SIGTERM while all four work: an orderly end, two equal copies, and the next mount is in-sync.
#[test]
fn terminated_in_the_middle() {
    need_product!();
    for round in 0..3 {
        let mut mount = TestMount::new();
        let work = mount.at("work");
        std::fs::create_dir(&work).expect("mkdir");
        let seed = seed("terminated");
        let workers: Vec<_> = (0..4)
            .map(|n| start(&work, seed.wrapping_add(n), true))
            .collect();
        wait_until("the work is under way", || {
            std::fs::read_dir(&work).is_ok_and(|d| d.count() > 4 - round)
        });
        let pid = mount.pid();
        mount.signal(Signal::TERM);
        wait_until("the daemon's end", || !alive(pid));
        assert!(!is_mounted(&mount.mountpoint));
        mount.ended();
        end(workers);
        equal(&mount);
        mount.mount();
        assert_eq!(mount.state(), "in-sync");
        mount.finish();
    }
}

/// Lets the processes come to their end; none may have failed.
fn end(workers: Vec<Guarded>) {
    for mut worker in workers {
        drop(worker.0.stdin.take());
        let status = worker.0.wait().expect("wait");
        assert!(
            status.success(),
            "a process of random operations failed: {status}"
        );
    }
}
