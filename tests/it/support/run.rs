// SPDX-License-Identifier: MIT
//! Running programs with a limit on their patience, and the product among them.

use std::ffi::OsStr;
use std::fmt;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The product under test.
pub(crate) const MIRRORFS: &str = env!("CARGO_BIN_EXE_mirrorfs");

/// How a program ended and what it said.
#[derive(Debug)]
pub(crate) struct Ran {
    command: String,
    /// Exit code; `None` after a signal.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            command,
            code,
            out,
            err,
        } = self;
        write!(
            f,
            "{command}\nended with {code:?}\n--- stdout\n{out}\n--- stderr\n{err}"
        )
    }
}

impl Ran {
    /// Insists on success.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        self.code(0)
    }

    /// Insists on an exit code.
    #[track_caller]
    pub(crate) fn code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// Insists on words in what it wrote to stderr.
    #[track_caller]
    pub(crate) fn says(self, words: &str) -> Self {
        assert!(self.err.contains(words), "stderr lacks {words:?}: {self}");
        self
    }
}

/// Runs to the end; a program that takes longer than ten minutes is killed and fails the test.
/// Output goes through files, so that a background daemon which kept them open cannot block us.
pub(crate) fn run(command: &mut Command) -> Ran {
    run_within(command, Duration::from_secs(600))
}

/// As `run`, with its own limit.
pub(crate) fn run_within(command: &mut Command, limit: Duration) -> Ran {
    let name = format!("{command:?}");
    let (mut out, mut err) = (scratch(), scratch());
    command.stdin(Stdio::null());
    command
        .stdout(out.try_clone().expect("dup"))
        .stderr(err.try_clone().expect("dup"));
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{name}: {e}"));
    let until = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break status;
        }
        if Instant::now() > until {
            child.kill().expect("kill");
            child.wait().expect("wait");
            panic!(
                "{name}: not done after {limit:?}\n{}\n{}",
                text(&mut out),
                text(&mut err)
            );
        }
        std::thread::park_timeout(Duration::from_millis(2));
    };
    Ran {
        command: name,
        code: status.code(),
        out: text(&mut out),
        err: text(&mut err),
    }
}

fn scratch() -> std::fs::File {
    tempfile::tempfile().expect("a temporary file")
}

fn text(file: &mut std::fs::File) -> String {
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .expect("read back");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs the product with these arguments.
pub(crate) fn mirrorfs<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(args: I) -> Ran {
    run_within(Command::new(MIRRORFS).args(args), Duration::from_secs(180))
}

/// Runs a shell script in a directory; it must succeed.
#[track_caller]
pub(crate) fn shell(dir: &Path, script: &str) -> String {
    let script = format!("set -euo pipefail\n{script}");
    run(Command::new("bash").arg("-c").arg(script).current_dir(dir))
        .ok()
        .out
}

/// Makes a program of some lines for bash.
pub(crate) fn script(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    // Closed before it is run: a file that is open for writing cannot be.
    std::fs::write(path, format!("#!/bin/bash\n{text}")).expect("write");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
}

/// Where a program is, as the shell would find it.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let mut places: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    places.extend(["/usr/sbin", "/sbin"].map(PathBuf::from));
    places
        .into_iter()
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// A child that is killed, by its own id, when the test is over.
#[derive(Debug)]
pub(crate) struct Guarded(pub(crate) Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        // Failing means that it has ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
