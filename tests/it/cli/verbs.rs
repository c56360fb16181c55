// SPDX-License-Identifier: MIT
//! The verbs that ask a daemon for something, and `verify` of two directories that have none.

use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::{REFUSED, Scene};
use crate::support::compare::{Ignore, differences, report};
use crate::support::mount::{TestMount, Wish};
use crate::support::run::{Guarded, MIRRORFS, Ran, mirrorfs, run};
use crate::support::user::{self, NOBODY};
use crate::support::wait_until;
use crate::{need_product, need_programs, need_root};

/// Exit codes of the other family.
const DIFFERENT: i32 = 1;
const UNKNOWN: i32 = 2;
const INTERRUPTED: i32 = 130;

/// `mirrorfs verify PRIMARY REPLICA MORE...`.
fn verify(primary: &Path, replica: &Path, more: &[&str]) -> Ran {
    let mut command = Command::new(MIRRORFS);
    run(command.arg("verify").arg(primary).arg(replica).args(more))
}

/// Two equal trees, made by cp.
fn twins() -> Scene {
    let scene = Scene::new();
    let primary = scene.at("primary");
    std::fs::create_dir(primary.join("bin")).expect("mkdir");
    std::fs::write(primary.join("bin/backup.sh"), "#!/bin/sh\n").expect("write");
    std::fs::write(primary.join("film"), vec![7; 300_000]).expect("write");
    let odd = std::ffi::OsStr::from_bytes(b"caf\xe9 \n");
    std::fs::write(primary.join(odd), "odd").expect("write");
    std::fs::remove_dir(scene.at("replica")).expect("rmdir");
    let mut copy = Command::new("cp");
    run(copy.arg("-a").arg(&primary).arg(scene.at("replica"))).ok();
    scene
}

/// Equal: 0 and a sentence. Different: 1, a line for each kind of difference, nothing changed.
#[test]
fn verify_of_two_directories() {
    need_product!();
    let scene = twins();
    let (primary, replica) = (scene.at("primary"), scene.at("replica"));
    let ran = verify(&primary, &replica, &[]).ok();
    assert_eq!(ran.out, "No differences in 3 files.\n", "{ran}");
    assert!(ran.err.is_empty(), "{ran}");

    std::fs::set_permissions(
        replica.join("bin/backup.sh"),
        std::fs::Permissions::from_mode(0o600),
    )
    .expect("chmod");
    std::fs::write(replica.join("old"), "").expect("write");
    let times = run(Command::new("touch").arg("-r").arg(&primary).arg(&replica));
    times.ok();
    let film = std::fs::File::options()
        .write(true)
        .open(replica.join("film"))
        .expect("open");
    let before = film.metadata().expect("stat").modified().expect("mtime");
    film.write_all_at(b"x", 70_000).expect("write");
    film.set_modified(before).expect("utimens");

    let ran = verify(&primary, &replica, &[]).code(DIFFERENT);
    let lines: Vec<_> = ran.out.lines().collect();
    let has = |begin: &str, end: &str| {
        let found = lines
            .iter()
            .any(|l| l.starts_with(begin) && l.ends_with(end));
        assert!(found, "no line {begin:?} ... {end:?}: {ran}");
    };
    has("data      film  ", "  4 KiB differ at 69632");
    has("metadata  bin/backup.sh  ", "0600 on replica");
    has("entry     old  ", "on replica only");
    let repair = format!(
        "To repair: mirrorfs verify --repair {} {}",
        primary.display(),
        replica.display()
    );
    has("3 differences in 3 files.", &repair);
    assert_eq!(
        std::fs::read(replica.join("film")).expect("read")[70_000],
        b'x',
        "a report changes nothing"
    );
    // What --quick believes.
    let quick = verify(&primary, &replica, &["--quick"]).code(DIFFERENT);
    assert!(!quick.out.contains("film"), "{quick}");

    let ran = verify(&primary, &replica, &["--json"]).code(DIFFERENT);
    let json: serde_json::Value = serde_json::from_str(&ran.out).expect("json");
    assert_eq!(
        (json["schema"].as_u64(), json["compared_files"].as_u64()),
        (Some(1), Some(3))
    );
    assert!(json["compared_bytes"].as_u64() >= Some(300_000), "{json}");
    let found = json["differences"].as_array().expect("an array");
    let film = found.iter().find(|d| d["path"] == "film").expect("film");
    assert_eq!(
        (film["kind"].as_str(), film["offset"].as_u64()),
        (Some("data"), Some(69632))
    );
}

/// Names are what they are: raw in a pipe, base64 in JSON.
#[test]
fn verify_shows_names_of_any_bytes() {
    need_product!();
    let scene = twins();
    let odd = std::ffi::OsStr::from_bytes(b"caf\xe9 \n");
    std::fs::remove_file(scene.at("replica").join(odd)).expect("unlink");
    let (primary, replica) = (scene.at("primary"), scene.at("replica"));
    let mut command = Command::new(MIRRORFS);
    let out = command
        .arg("verify")
        .args([&primary, &replica])
        .output()
        .expect("run");
    assert_eq!(out.status.code(), Some(DIFFERENT));
    let name = b"entry     caf\xe9 \n";
    assert!(out.stdout.windows(name.len()).any(|w| w == name));
    let ran = verify(&primary, &replica, &["--json"]).code(DIFFERENT);
    assert!(ran.out.contains("\"path_bytes\":\"Y2Fm6SAK\""), "{ran}");
}

/// Directories that a daemon holds, or shows, are not compared behind its back: 32. What cannot be
/// opened: could not tell, and why.
#[test]
fn verify_keeps_off_what_is_in_use() {
    need_product!();
    let mut mount = TestMount::new();
    std::fs::write(mount.at("f"), "x").expect("write");
    let (primary, replica) = (mount.primary.clone(), mount.replica.clone());
    verify(&primary, &replica, &[])
        .code(REFUSED)
        .says("MF-0023");
    verify(&mount.mountpoint, &replica, &[])
        .code(REFUSED)
        .says("MF-0043");
    verify(&mount.mountpoint.join("."), &replica, &[])
        .code(REFUSED)
        .says("MF-0043");
    std::fs::create_dir(mount.at("d")).expect("mkdir");
    verify(&primary, &mount.at("d"), &[])
        .code(REFUSED)
        .says("MF-0043");
    mount.umount();
    let ran = verify(&primary, &replica, &[]).ok();
    assert_eq!(ran.out, "No differences in 1 file.\n");
    verify(&primary, &primary.join("none"), &[])
        .code(UNKNOWN)
        .says("ENOENT");
    let ran = verify(&primary, &replica, &["--repair"]).ok();
    assert_eq!(ran.out, "No differences in 1 file.\n");
    mount.mount();
    mount.finish();
}

/// Every verb that takes a mountpoint says what it is when it is no mirror, and exits 2.
#[test]
fn verbs_without_a_mirror() {
    need_product!();
    let scene = Scene::new();
    let verbs: [&[&str]; 9] = [
        &["sync"],
        &["sync", "--full", "--no-wait"],
        &["pause"],
        &["resume"],
        &["events"],
        &["events", "--json"],
        &["verify"],
        &["verify", "--quick", "--json"],
        &["status", "--dirty"],
    ];
    for words in verbs {
        let mut command = Command::new(MIRRORFS);
        let ran = run(command.args(words).arg(scene.at("mnt"))).code(UNKNOWN);
        assert!(
            ran.out.is_empty() && ran.err.starts_with("mirrorfs: "),
            "{ran}"
        );
        assert!(ran.err.contains("is not a mirror"), "{ran}");
    }
    mirrorfs(["sync"]).code(UNKNOWN);
    mirrorfs(["pause", "a", "b"]).code(UNKNOWN);
}

/// Status is for everybody; to ask for more takes root or whoever mounted it.
/// When `sync` returns both copies are equal, times included: nothing has to come to rest first.
#[test]
fn sync_brings_everything() {
    need_product!();
    for mode in ["mode=sync", "mode=async"] {
        let mount = Wish::default().arg("-o").arg(mode).mount();
        for round in 0..30 {
            let dir = mount.at(format!("{round}"));
            std::fs::create_dir(&dir).expect("mkdir");
            std::fs::write(dir.join("f"), "content").expect("write");
            mount.product("sync", &[]).ok();
            let found = differences(&mount.primary, &mount.replica, Ignore::default());
            let (a, b) = (&mount.primary, &mount.replica);
            assert!(
                found.is_empty(),
                "{mode}, {round}: {}",
                report(a, b, &found)
            );
        }
        mount.finish();
    }
}

#[test]
fn a_stranger_may_only_look() {
    need_root!();
    need_product!();
    need_programs!("setpriv");
    let mount = TestMount::new();
    let ask = |verb: &str, more: &[&str]| {
        let mut command = user::command(NOBODY, MIRRORFS);
        run(command.arg(verb).arg(&mount.mountpoint).args(more))
    };
    ask("status", &[]).ok();
    for (verb, more) in [
        ("sync", &["--no-wait"][..]),
        ("pause", &[]),
        ("resume", &[]),
        ("events", &[]),
        ("verify", &["--quick"]),
        ("status", &["--dirty"]),
    ] {
        ask(verb, more)
            .code(UNKNOWN)
            .says("only root or the user who mounted it");
    }
    assert_eq!(mount.state(), "in-sync");
    mount.finish();
}

/// `status --watch` looks until Control-C, which is 130, or until nobody reads.
#[test]
fn watching() {
    need_product!();
    let mount = TestMount::new();
    let watch = || {
        let mut command = Command::new(MIRRORFS);
        command.args(["status", "--watch", "--json"]);
        command.arg(&mount.mountpoint).stdout(Stdio::piped());
        Guarded(command.spawn().expect("spawn"))
    };
    let mut child = watch();
    let mut lines = BufReader::new(child.0.stdout.take().expect("stdout")).lines();
    for _ in 0..2 {
        let line = lines.next().expect("a line").expect("read");
        let json: serde_json::Value = serde_json::from_str(&line).expect("json");
        assert_eq!(json["state"], "in-sync");
    }
    let pid = i32::try_from(child.0.id()).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a pid"), Signal::INT).expect("kill");
    let status = child.0.wait().expect("wait");
    assert_eq!(status.code(), Some(INTERRUPTED));

    let mut child = watch();
    drop(child.0.stdout.take());
    let mut ended = None;
    wait_until("its end", || {
        ended = child.0.try_wait().expect("wait");
        ended.is_some()
    });
    mount.finish();
}

/// A mirror of an ordinary user answers that user, and root.
#[test]
fn a_users_mirror_answers_root() {
    need_root!();
    need_product!();
    need_programs!("fusermount3", "setpriv");
    crate::need_fuse_for_users!();
    let mut mount = Wish::default().user(NOBODY).prepare();
    mount.try_mount(&[]).ok();
    let ran = mirrorfs(["status".as_ref(), mount.mountpoint.as_os_str()]).ok();
    assert!(ran.out.contains("in-sync"), "{ran}");
    mount.finish();
}

/// A word that is nearly a verb, or an id in any spelling.
#[test]
fn did_you_mean() {
    need_product!();
    mirrorfs(["synk", "/x"]).code(UNKNOWN).says("sync");
    mirrorfs(["help", "verfiy"]).code(UNKNOWN).says("verify");
    for id in ["MF-0030", "mf-30", "30"] {
        let ran = mirrorfs(["help", id]).ok();
        assert!(ran.out.starts_with("MF-0030 "), "{ran}");
    }
    for verb in ["sync", "verify", "pause", "resume", "events"] {
        let ran = mirrorfs([verb, "-h"]).ok();
        assert!(ran.out.contains("MOUNTPOINT"), "{ran}");
    }
}
