// SPDX-License-Identifier: MIT
//! Tampering with the daemon's system calls: strace makes them fail, or take their time.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::mount::{TestMount, alive};
use super::run::Guarded;
use super::wait_until;

/// strace on every thread of the daemon; it lets go when the value is dropped.
#[derive(Debug)]
pub(crate) struct Tampered(Guarded);

impl Tampered {
    /// Attaches with these expressions (`-e`) and waits until every thread is held.
    pub(crate) fn with(mount: &TestMount, words: &[&str]) -> Self {
        Self::attach(mount, &["-f", "-p", &mount.pid().to_string()], "", words)
    }

    /// As [`Self::with`], but only the threads whose names begin like this.
    pub(crate) fn threads(mount: &TestMount, names: &str, words: &[&str]) -> Self {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", mount.pid())).expect("daemon");
        let theirs = tasks.flatten().filter(|task| is_named(&task.path(), names));
        let ids: Vec<_> = theirs
            .flat_map(|task| ["-p".to_owned(), task.file_name().display().to_string()])
            .collect();
        let ids: Vec<_> = ids.iter().map(String::as_str).collect();
        Self::attach(mount, &ids, names, words)
    }

    fn attach(mount: &TestMount, whom: &[&str], names: &str, words: &[&str]) -> Self {
        let log = mount.scratch.join("strace.log");
        let mut command = Command::new("strace");
        command.args(whom).args(["-qq", "-o"]);
        command.arg(&log).args(words);
        let child = command.stdin(Stdio::null()).spawn().expect("strace");
        let mut tampered = Self(Guarded(child));
        let traced = |task: PathBuf| {
            let status = std::fs::read_to_string(task.join("status")).unwrap_or_default();
            !status.contains("TracerPid:\t0\n")
        };
        wait_until("strace", || {
            // What it injects may be the daemon's death, and come while it is still attaching.
            if !alive(mount.pid()) {
                return true;
            }
            let ended = tampered.0.0.try_wait().expect("wait");
            assert!(
                ended.is_none() || !alive(mount.pid()),
                "strace {words:?} ended: {ended:?}"
            );
            let tasks = std::fs::read_dir(format!("/proc/{}/task", mount.pid()));
            tasks
                .into_iter()
                .flatten()
                .flatten()
                .filter(|task| is_named(&task.path(), names))
                .all(|task| traced(task.path()))
        });
        tampered
    }

    /// These system calls (as strace names them) take `micros` longer: `before` they begin, or after
    /// they are done and nobody knows yet.
    pub(crate) fn slow(mount: &TestMount, calls: &str, before: bool, micros: u32) -> Self {
        let when = if before { "delay_enter" } else { "delay_exit" };
        let inject = format!("inject={calls}:{when}={micros}");
        Self::with(mount, &["-e", &format!("trace={calls}"), "-e", &inject])
    }

    /// Every fsync and fdatasync of `path` fails from now on.
    pub(crate) fn failing_syncs(mount: &TestMount, path: &Path) -> Self {
        let path = path.to_str().expect("text");
        let inject = "inject=fsync,fdatasync:error=EIO";
        let trace = "trace=fsync,fdatasync";
        Self::with(mount, &["-e", trace, "-e", inject, "-P", path])
    }
}

fn is_named(task: &Path, beginning: &str) -> bool {
    let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
    name.starts_with(beginning)
}

impl Drop for Tampered {
    fn drop(&mut self) {
        let child = &mut self.0.0;
        // Gently, so that it detaches. Failing means that it has ended already.
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a pid"), Signal::TERM).ok();
        // strace sometimes waits for ever for a daemon that was killed at the same time; then it
        // is killed, too.
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until && child.try_wait().expect("wait").is_none() {
            super::breathe();
        }
    }
}
