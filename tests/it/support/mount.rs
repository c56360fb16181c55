// SPDX-License-Identifier: MIT
//! `TestMount`: a mirror of its own for one test, made by the real binary, and at the end
//! unmounted and both copies compared.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::compare::{Ignore, differences, report, wait_equal};
use super::run::{MIRRORFS, Ran, run, run_within};
use super::user::User;
use super::{base, native, temp_in, wait_until};

/// Mount options that the whole run is to be made with, besides each test's own.
fn other_options() -> Vec<OsString> {
    std::env::var_os("MIRRORFS_TEST_OPTIONS")
        .filter(|options| !options.is_empty())
        .map_or_else(Vec::new, |options| vec!["-o".into(), options])
}

/// What a test wants of its mount.
#[derive(Debug, Default)]
pub(crate) struct Wish {
    args: Vec<OsString>,
    base: Option<PathBuf>,
    replica: Option<PathBuf>,
    over_primary: bool,
    descriptors: Option<u32>,
    user: Option<User>,
}

impl Wish {
    /// One more argument for `mirrorfs mount`.
    pub(crate) fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Everything in a new directory under `base`.
    pub(crate) fn base(mut self, base: &Path) -> Self {
        self.base = Some(base.to_path_buf());
        self
    }

    /// This directory is the replica.
    pub(crate) fn replica(mut self, dir: &Path) -> Self {
        self.replica = Some(dir.to_path_buf());
        self
    }

    /// Mounted over the primary itself.
    pub(crate) fn over_primary(mut self) -> Self {
        self.over_primary = true;
        self
    }

    /// The daemon may have this many descriptors.
    pub(crate) fn descriptors(mut self, limit: u32) -> Self {
        self.descriptors = Some(limit);
        self
    }

    /// The daemon runs as this user, through fusermount3.
    pub(crate) fn user(mut self, user: User) -> Self {
        self.user = Some(user);
        self
    }

    /// Makes the directories and does not mount yet.
    pub(crate) fn prepare(self) -> TestMount {
        let dir = temp_in(self.base.as_deref().unwrap_or(&base()));
        let own = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).expect("a directory of the test");
            rustix::fs::chmod(&path, 0o755.into()).expect("chmod");
            if let Some(user) = self.user {
                std::os::unix::fs::chown(&path, Some(user.uid), Some(user.gid)).expect("chown");
            }
            path
        };
        let primary = own("primary");
        let replica = self.replica.clone().unwrap_or_else(|| own("replica"));
        let mountpoint = if self.over_primary {
            primary.clone()
        } else {
            own("mnt")
        };
        let scratch = own("scratch");
        own("state");
        TestMount {
            wish: self,
            primary,
            replica,
            mountpoint,
            scratch,
            mounted: false,
            pid: None,
            dir,
        }
    }

    /// Makes the directories and mounts.
    #[track_caller]
    pub(crate) fn mount(self) -> TestMount {
        let mut mount = self.prepare();
        mount.mount();
        mount
    }
}

/// One mirror in a directory of its own.
#[derive(Debug)]
pub(crate) struct TestMount {
    wish: Wish,
    pub(crate) primary: PathBuf,
    pub(crate) replica: PathBuf,
    pub(crate) mountpoint: PathBuf,
    /// Beside the trees, on the same file system: native directories for comparison, logs.
    pub(crate) scratch: PathBuf,
    mounted: bool,
    pid: Option<u32>,
    dir: tempfile::TempDir,
}

impl TestMount {
    /// A mirror as most tests want it.
    #[track_caller]
    pub(crate) fn new() -> Self {
        Wish::default().mount()
    }

    /// A path on the mount.
    pub(crate) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.mountpoint.join(path)
    }

    fn log(&self) -> PathBuf {
        self.scratch.join("daemon.log")
    }

    /// The mount command with `more` arguments, not yet run.
    pub(crate) fn command(&self, more: &[&str]) -> Command {
        let mut words: Vec<OsString> = Vec::new();
        if let Some(limit) = self.wish.descriptors {
            words.extend([
                "prlimit".into(),
                format!("--nofile={limit}:{limit}").into(),
                "--".into(),
            ]);
        }
        words.push(MIRRORFS.into());
        let mut command = match self.wish.user {
            Some(user) => super::user::command(user, words[0].to_str().expect("text")),
            None => Command::new(&words[0]),
        };
        command
            .args(&words[1..])
            .arg("mount")
            .arg(&self.primary)
            .arg(&self.mountpoint);
        command
            .arg("--replica")
            .arg(&self.replica)
            .args(other_options())
            .args(self.own_state())
            .args(&self.wish.args)
            .args(more);
        command.arg("--log").arg(self.log());
        command
    }

    /// Logs of a test stay with the test.
    fn own_state(&self) -> Vec<OsString> {
        let said = |arg: &OsString| arg.to_string_lossy().contains("state-dir");
        if self.wish.args.iter().any(said) {
            return Vec::new();
        }
        vec!["--state-dir".into(), self.dir.path().join("state").into()]
    }

    /// Tries to mount, with more arguments.
    pub(crate) fn try_mount(&mut self, more: &[&str]) -> Ran {
        let ran = run_within(&mut self.command(more), Duration::from_secs(180));
        if ran.code == Some(0) {
            self.mounted = true;
            self.pid = Some(self.ask_pid());
        }
        ran
    }

    /// Mounts.
    #[track_caller]
    pub(crate) fn mount(&mut self) {
        if native() {
            let bind = run(Command::new("mount")
                .arg("--bind")
                .arg(&self.primary)
                .arg(&self.mountpoint));
            bind.ok();
            self.mounted = true;
            return;
        }
        self.try_mount(&[]).ok();
    }

    /// Mounts again after something went wrong: what may differ is healed without a word.
    #[track_caller]
    pub(crate) fn mount_and_heal(&mut self, more: &[&str]) {
        self.try_mount(more).ok();
        wait_until("the replica is healed", || self.state() == "in-sync");
    }

    /// Runs `mirrorfs VERB MOUNTPOINT MORE...` as the user of this mount.
    pub(crate) fn product(&self, verb: &str, more: &[&str]) -> Ran {
        let mut command = match self.wish.user {
            Some(user) => super::user::command(user, MIRRORFS),
            None => Command::new(MIRRORFS),
        };
        run_within(
            command.arg(verb).arg(&self.mountpoint).args(more),
            Duration::from_secs(180),
        )
    }

    /// `mirrorfs status`, as text.
    pub(crate) fn status(&self) -> Ran {
        self.product("status", &[])
    }

    /// `mirrorfs status --json`, whatever its exit code says.
    #[track_caller]
    pub(crate) fn status_json(&self) -> Value {
        let ran = self.product("status", &["--json"]);
        serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("not JSON ({e}): {ran}"))
    }

    /// The state, as JSON says it.
    #[track_caller]
    pub(crate) fn state(&self) -> String {
        self.status_json()["state"]
            .as_str()
            .expect("a state")
            .to_owned()
    }

    fn ask_pid(&self) -> u32 {
        let json = self.status_json();
        json["pid"]
            .as_u64()
            .and_then(|p| p.try_into().ok())
            .expect("a pid in status --json")
    }

    /// The daemon's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.expect("mounted")
    }

    /// Sends the daemon, and nobody else, a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a pid"), signal).expect("kill");
    }

    /// SIGKILL, and wait until the daemon is no more; the dead mount is left for the next mount.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        let pid = self.pid.take().expect("mounted");
        wait_until("the daemon's end", || !alive(pid));
        self.mounted = false;
    }

    /// Notes that the daemon ended on its own.
    pub(crate) fn ended(&mut self) {
        self.mounted = false;
        self.pid = None;
    }

    /// The copies are equal: content and metadata at once, times after they have settled.
    #[track_caller]
    pub(crate) fn assert_equal(&self) {
        if !native() {
            wait_equal(
                &self.primary,
                &self.replica,
                Duration::from_secs(10),
                Ignore::default(),
            );
        }
    }

    /// Unmounts, which drains and waits for the daemon's end.
    #[track_caller]
    pub(crate) fn umount(&mut self) {
        if native() {
            run(Command::new("umount").arg(&self.mountpoint)).ok();
        } else {
            // Another story that starts a program this moment has our files open in the child, until
            // it has become that program.
            let until = Instant::now() + Duration::from_secs(5);
            let ran = loop {
                let ran = self.product("umount", &[]);
                if !ran.err.contains("it is busy") || Instant::now() > until {
                    break ran;
                }
                super::breathe();
            };
            ran.ok();
            let pid = self.pid.take().expect("mounted");
            assert!(
                !alive(pid),
                "umount returned before the daemon was gone\n{}",
                self.log_text()
            );
        }
        self.mounted = false;
    }

    /// Unmounts and compares the copies completely. The end of nearly every test.
    #[track_caller]
    pub(crate) fn finish(mut self) {
        self.umount();
        if !native() {
            let found = differences(&self.primary, &self.replica, Ignore::default());
            let report = report(&self.primary, &self.replica, &found);
            assert!(found.is_empty(), "{report}\n{}", self.log_text());
        }
    }

    /// The last of what the daemon logged.
    pub(crate) fn log_text(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let from = text.len().saturating_sub(4000);
        let from = (from..=text.len())
            .find(|&i| text.is_char_boundary(i))
            .unwrap_or(0);
        format!("--- daemon log\n{}", &text[from..])
    }

    /// Where everything of this test is.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for TestMount {
    fn drop(&mut self) {
        if std::thread::panicking() && !native() {
            eprintln!("{}", self.log_text());
        }
        // A test that failed half way, or one that left a dead mount: nothing may stay behind.
        end_all_below(self.dir.path());
    }
}

/// Ends every daemon that was given a directory below `dir`, each by its own id, and unmounts
/// everything below it.
pub(crate) fn end_all_below(dir: &Path) {
    let top = format!("{}/", dir.to_str().expect("test paths are text"));
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let below = |line: &&str| {
        line.split(' ')
            .nth(4)
            .is_some_and(|at| at.starts_with(&top))
    };
    for at in table
        .lines()
        .rev()
        .filter(below)
        .filter_map(|l| l.split(' ').nth(4))
    {
        drop(run(Command::new("umount").arg("-l").arg(at)));
    }
    let daemons = || -> Vec<u32> {
        let processes = std::fs::read_dir("/proc").expect("proc").flatten();
        let pids = processes.filter_map(|p| p.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).into_owned();
            let program = words.split('\0').next().unwrap_or_default();
            program.ends_with("mirrorfs") && words.contains(&top) && alive(*pid)
        })
        .collect()
    };
    for (signal, rounds) in [(Signal::TERM, 500), (Signal::KILL, 500)] {
        for pid in daemons() {
            let pid = i32::try_from(pid)
                .ok()
                .and_then(Pid::from_raw)
                .expect("a pid");
            kill_process(pid, signal).ok();
        }
        for _ in 0..rounds {
            if daemons().is_empty() {
                return;
            }
            super::breathe();
        }
    }
}

/// Whether any thread of a process runs (a zombie does not).
pub(crate) fn alive(pid: u32) -> bool {
    // Every thread counts: the first can be a zombie while another still holds the trees' locks.
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    threads.flatten().any(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat"));
        stat.is_ok_and(|s| {
            let state = s.rsplit(')').next().unwrap_or_default();
            !state.starts_with(" Z") && !state.starts_with(" X")
        })
    })
}

/// Whether something is mounted exactly here, dead or alive.
pub(crate) fn is_mounted(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let path = path.to_str().expect("test paths are text");
    table
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(path))
}
