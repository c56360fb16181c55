// SPDX-License-Identifier: MIT
//! The command line as promised, to the letter: messages, states and exit codes.

mod journal;
mod life;
mod metrics;
mod notify;
mod offline;
mod refused;
mod status;
mod units;
mod verbs;
mod watch;
mod words;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::support::compare::listing;
use crate::support::mount::{end_all_below, is_mounted};
use crate::support::run::{MIRRORFS, Ran, run};
use crate::support::{base, temp_in};

/// Exit codes of the mount family.
const USAGE: i32 = 1;
const REFUSED: i32 = 32;

/// Three directories for a mount that is to be refused.
struct Scene {
    dir: tempfile::TempDir,
}

impl Drop for Scene {
    fn drop(&mut self) {
        end_all_below(self.dir.path());
    }
}

impl Scene {
    fn new() -> Self {
        let dir = temp_in(&base());
        for name in ["primary", "replica", "mnt"] {
            std::fs::create_dir(dir.path().join(name)).expect("mkdir");
        }
        Self { dir }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn mount(&self, primary: &str, mountpoint: &str, replica: &str, more: &[&str]) -> Ran {
        let mut command = Command::new(MIRRORFS);
        command
            .arg("mount")
            .arg(self.at(primary))
            .arg(self.at(mountpoint));
        command.arg("--replica").arg(self.at(replica)).args(more);
        run(command.env("STATE_DIRECTORY", self.at("state")))
    }

    /// A mount of the primary that stays in the foreground.
    fn foreground(&self) -> Command {
        let mut command = Command::new(MIRRORFS);
        command.args(["mount", "--foreground"]);
        command.args([self.at("primary"), self.at("mnt")]);
        command.arg("--replica").arg(self.at("replica"));
        command.env("STATE_DIRECTORY", self.at("state"));
        command.stdin(Stdio::null());
        command
    }

    /// Tries to mount; it must be refused in words, with 32, and change nothing.
    #[track_caller]
    fn refused(&self, primary: &str, mountpoint: &str, replica: &str, words: &[&str]) {
        let before = self.everything();
        let ran = self.mount(primary, mountpoint, replica, &[]).code(REFUSED);
        assert!(ran.err.starts_with("mirrorfs: "), "{ran}");
        assert!(ran.out.is_empty(), "messages belong on stderr: {ran}");
        for word in words {
            assert!(ran.err.contains(word), "lacks {word:?}: {ran}");
        }
        assert!(!is_mounted(&self.at(mountpoint)));
        assert_eq!(self.everything(), before, "a refusal changes nothing");
    }

    /// Names and root xattrs of everything.
    fn everything(&self) -> (Vec<(String, rustix::fs::FileType)>, Vec<Vec<u8>>) {
        let stamps = ["primary", "replica"].map(|name| {
            let mut names = vec![0; 4096];
            let len = rustix::fs::listxattr(self.at(name), &mut names[..]).unwrap_or(0);
            names.truncate(len);
            names
        });
        (listing(self.dir.path()), stamps.to_vec())
    }
}
