// SPDX-License-Identifier: MIT
//! Lines for the journal: with fields where it takes them, else each with its priority, and neither
//! where stderr is not the journal.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use super::Scene;
use crate::support::run::{Guarded, MIRRORFS};
use crate::support::wait_until;
use crate::{need_product, need_root};

/// What a daemon in the foreground writes to stderr, from its mount to its end.
fn logged(is_journal: bool) -> String {
    let scene = Scene::new();
    let path = scene.at("stderr");
    let file = File::create(&path).expect("create");
    let stat = file.metadata().expect("stat");
    // systemd hands the variable on to what writes elsewhere, too.
    let inode = if is_journal { stat.ino() } else { 0 };
    let mut command = scene.foreground();
    command.env("JOURNAL_STREAM", format!("{}:{inode}", stat.dev()));
    command.stderr(file);
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

/// A journal of our own, in a mount namespace of the calling thread: nobody else sees it.
fn journal() -> UnixDatagram {
    use rustix::mount::{MountFlags, mount};
    crate::support::sys::own_mounts();
    mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), None).expect("tmpfs");
    std::fs::create_dir_all("/run/systemd/journal").expect("mkdir");
    let socket = UnixDatagram::bind("/run/systemd/journal/socket").expect("bind");
    let patience = crate::support::PATIENCE;
    socket.set_read_timeout(Some(patience)).expect("a limit");
    socket
}

/// An entry of the journal, its fields by name.
fn entry(socket: &UnixDatagram) -> BTreeMap<String, String> {
    let mut bytes = vec![0; 65536];
    let length = socket.recv(&mut bytes).expect("an entry");
    let text = std::str::from_utf8(&bytes[..length]).expect("text");
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// As a service, and in the background with a journal as syslog.
#[test]
fn the_journal_is_told_in_fields() {
    need_root!();
    need_product!();
    for as_a_service in [true, false] {
        let thread = std::thread::spawn(move || {
            let socket = journal();
            let stdout = UnixListener::bind("/run/systemd/journal/stdout").expect("bind");
            let stderr = UnixStream::connect("/run/systemd/journal/stdout").expect("connect");
            let scene = Scene::new();
            let mountpoint = scene.at("mnt");
            let mut command = scene.foreground();
            if as_a_service {
                command.stderr(OwnedFd::from(stderr));
            } else {
                command.arg("--log=syslog");
            }
            let mut child = Guarded(command.spawn().expect("spawn"));
            let pid = child.0.id().to_string();
            let found = |entry: &BTreeMap<String, String>, words: &[(&str, &str)]| {
                words
                    .iter()
                    .all(|(name, value)| entry.get(*name).is_some_and(|told| told == value))
            };
            let mirror = mountpoint.display().to_string();
            let mounted = entry(&socket);
            assert!(mounted["MESSAGE"].starts_with("mounted "), "{mounted:?}");
            let words = [
                ("PRIORITY", "6"),
                ("SYSLOG_IDENTIFIER", "mirrorfs"),
                ("SYSLOG_PID", &pid),
                ("MIRRORFS_MIRROR", &mirror),
            ];
            assert!(found(&mounted, &words), "{mounted:?}");
            let tell = |verb: &str| {
                let status = Command::new(MIRRORFS).arg(verb).arg(&mountpoint).status();
                assert!(status.expect(verb).success());
            };
            tell("pause");
            let paused = entry(&socket);
            let replica = scene.at("replica").display().to_string();
            let words = [
                ("PRIORITY", "4"),
                ("MIRRORFS_ID", "MF-0030"),
                ("MIRRORFS_REPLICA", &replica),
                ("MIRRORFS_FROM", "in-sync"),
                ("MIRRORFS_TO", "paused"),
            ];
            assert!(found(&paused, &words), "{paused:?}");
            assert!(!paused["MESSAGE"].contains("from="), "{paused:?}");
            tell("resume");
            let mut states = vec!["paused".to_owned()];
            while states.last().is_some_and(|state| state != "in-sync") {
                let change = entry(&socket);
                // Right after a pause it may be said that it cannot be taken in yet.
                if let Some(to) = change.get("MIRRORFS_TO") {
                    assert_eq!(states.last(), change.get("MIRRORFS_FROM"), "{change:?}");
                    states.push(to.clone());
                }
            }
            // It is never said to be missing or to have failed: nothing was wrong with it.
            assert_eq!(states[..2], ["paused", "behind"], "{states:?}");
            let known = ["paused", "behind", "resyncing", "in-sync"];
            assert!(
                states.iter().all(|state| known.contains(&&**state)),
                "{states:?}"
            );
            kill_process(Pid::from_child(&child.0), Signal::TERM).expect("kill");
            assert!(child.0.wait().expect("wait").success());
            drop(stdout);
        });
        thread.join().expect("no panic");
    }
}
