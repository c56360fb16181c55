// SPDX-License-Identifier: MIT
//! Lines for the journal: each with its priority, where stderr is the journal, and nowhere else.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::Scene;
use crate::need_product;
use crate::support::run::{Guarded, MIRRORFS};
use crate::support::wait_until;

/// What a daemon in the foreground writes to stderr, from its mount to its end.
fn logged(is_journal: bool) -> String {
    let scene = Scene::new();
    let path = scene.at("stderr");
    let file = File::create(&path).expect("create");
    let stat = file.metadata().expect("stat");
    // systemd hands the variable on to what writes elsewhere, too.
    let inode = if is_journal { stat.ino() } else { 0 };
    let mut command = Command::new(MIRRORFS);
    command.args(["mount", "--foreground"]);
    command.args([scene.at("primary"), scene.at("mnt")]);
    command.arg("--replica").arg(scene.at("replica"));
    command
        .env("STATE_DIRECTORY", scene.at("state"))
        .env("JOURNAL_STREAM", format!("{}:{inode}", stat.dev()));
    command.stdin(Stdio::null()).stderr(file);
    let mut child = Guarded(command.spawn().expect("spawn"));
    let read = || std::fs::read_to_string(&path).expect("read");
    wait_until("it is mounted", || read().contains("mounted "));
    kill_process(Pid::from_child(&child.0), Signal::TERM).expect("kill");
    assert!(child.0.wait().expect("wait").success(), "{}", read());
    read()
}

#[test]
fn lines_for_the_journal_have_a_priority() {
    need_product!();
    let text = logged(true);
    let is_line = |line: &str| {
        let rest = line.strip_prefix('<').and_then(|l| l.split_once('>'));
        rest.is_some_and(|(n, words)| matches!(n, "3" | "4" | "6" | "7") && !words.is_empty())
    };
    assert!(text.lines().all(is_line), "{text}");
    assert!(text.contains("<6>mounted "), "{text}");
    let text = logged(false);
    let is_line = |line: &str| line.starts_with("mirrorfs[");
    assert!(text.lines().all(is_line), "{text}");
}
