// SPDX-License-Identifier: MIT
//! Spellings: the fstab grammar, the flags of the mount, what findmnt shows, help.

use std::process::Command;

use super::{Scene, USAGE};
use crate::support::mount::{TestMount, is_mounted};
use crate::support::run::{MIRRORFS, mirrorfs, run};
use crate::{need_product, need_programs, need_root};

/// Every --long=x is also -o long=x, `_` is `-`, several -o add up, a comma can be escaped, and
/// what only fstab knows is accepted and dropped.
#[test]
fn fstab_grammar() {
    need_product!();
    let scene = Scene::new();
    std::fs::create_dir(scene.at("with,comma")).expect("mkdir");
    let replica = scene.at("with,comma");
    let replica = replica.to_str().expect("text").replace(',', "\\,");
    let spellings: [&[&str]; 4] = [
        &[
            "-o",
            "replica=REPLICA,nofail,_netdev,auto,user,x-systemd.automount,rw,noatime",
        ],
        &[
            "-oreplica=REPLICA",
            "-o",
            "on_replica_error=degrade,replica_timeout=5s",
        ],
        &[
            "-o",
            "replica=REPLICA,mode=sync",
            "-o",
            "on-replica-error=degrade,users,X-own",
        ],
        &["-o", "noauto,nouser", "-o", "replica=REPLICA,dev,suid"],
    ];
    for words in spellings {
        let words: Vec<_> = words
            .iter()
            .map(|w| w.replace("REPLICA", &replica))
            .collect();
        let mut command = Command::new(MIRRORFS);
        command
            .arg("mount")
            .arg(scene.at("primary"))
            .arg(scene.at("mnt"))
            .args(&words);
        run(&mut command).ok();
        std::fs::write(scene.at("mnt/f"), words.join(" ")).expect("write");
        mirrorfs(["umount".as_ref(), scene.at("mnt").as_os_str()]).ok();
        assert_eq!(
            std::fs::read(scene.at("with,comma/f")).expect("read"),
            words.join(" ").as_bytes()
        );
    }
}

/// What is not an option is refused by its name, as usage.
#[test]
fn wrong_options() {
    need_product!();
    let scene = Scene::new();
    for wrong in [
        "nonsense",
        "mode=backwards",
        "replica-timeout=soon",
        "on-replica-error",
        "modus=sync",
    ] {
        let ran = scene
            .mount("primary", "mnt", "replica", &["-o", wrong])
            .code(USAGE);
        let word = wrong.split('=').next().expect("a word");
        assert!(ran.err.contains(word), "{ran}");
        assert!(!is_mounted(&scene.at("mnt")));
    }
    let none = [("mount", ""), ("mount", "only-one"), ("umount", "")];
    for (verb, arg) in none {
        let args: Vec<_> = [verb, arg].into_iter().filter(|w| !w.is_empty()).collect();
        mirrorfs(args).code(USAGE);
    }
    mirrorfs(["mount", "--nonsense"]).code(USAGE);
    mirrorfs(["status", "--nonsense"]).code(2);
    let ran = scene
        .mount("primary", "mnt", "replica", &["-o", "replicas=x"])
        .code(USAGE);
    assert!(ran.err.contains("replica"), "did you mean: {ran}");
}

/// Options of replication: what is wrong with each is said, with what to do about it.
#[test]
fn wrong_values() {
    need_product!();
    let scene = Scene::new();
    for (words, says) in [
        ("mode=asynk", "async"),
        ("fsync=replica", "primary"),
        ("on_congestion=pullahead", "pull-ahead"),
        ("io=iouring", "uring"),
        ("cache=write-back", "writeback"),
        ("max-lag=much", "256M"),
        ("replica_timeout=5y", "ms, s, m, h or d"),
        ("max-lagg=1G", "Did you mean `max-lag`?"),
        ("on-congest=block", "Did you mean `on-congestion`?"),
        ("shared_primay", "Did you mean `shared-primary`?"),
        ("replica_time=1s", "Did you mean `replica-timeout`?"),
        ("shared-primary=yes", "shared-primary"),
        ("fsync=primary", "mode=async"),
        ("max_lag=1G", "mode=async"),
        ("on-congestion=pull_ahead", "pull-ahead"),
        ("on-congestion=pull-ahead", "mode=async"),
        ("mode=async,max-lag=1M", "4M or more"),
        ("replica-timeout=1ms", "100ms or more"),
        ("cache=writeback,shared-primary", "exclude each other"),
    ] {
        let ran = scene
            .mount("primary", "mnt", "replica", &["-o", words])
            .code(USAGE);
        assert!(ran.err.contains(says), "{words}: lacks {says:?}: {ran}");
        assert!(!is_mounted(&scene.at("mnt")));
    }
}

/// `mount -o ro` refuses every change, and the flags of the mount are those asked for.
#[test]
fn mount_flags() {
    need_root!();
    need_product!();
    let mut mount = TestMount::new();
    std::fs::write(mount.at("f"), "content").expect("write");
    let flags = |mount: &TestMount| {
        let table = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let at = mount.mountpoint.to_str().expect("text").to_owned();
        let mut lines = table.lines();
        lines
            .find(|l| l.split(' ').nth(4) == Some(&at))
            .expect("mounted")
            .to_owned()
    };
    let line = flags(&mount);
    assert!(
        line.contains("default_permissions") && line.contains("allow_other"),
        "{line}"
    );
    assert!(
        !line.contains("nosuid") && !line.contains("nodev"),
        "{line}"
    );
    mount.umount();
    mount
        .try_mount(&["-o", "ro,nosuid,nodev,noexec,noatime"])
        .ok();
    let line = flags(&mount);
    for word in ["ro,", "nosuid", "nodev", "noexec", "noatime"] {
        assert!(line.contains(word), "{word} not in {line}");
    }
    assert_eq!(std::fs::read(mount.at("f")).expect("read"), b"content");
    let refused = std::fs::write(mount.at("f"), "x").expect_err("read-only");
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    mount.finish();
}

/// findmnt and df show the primary as it was typed, and the type fuse.mirrorfs.
#[test]
fn findmnt_shows_what_was_typed() {
    need_product!();
    need_programs!("findmnt");
    let scene = Scene::new();
    let mut command = Command::new(MIRRORFS);
    command.current_dir(scene.dir.path()).args([
        "mount",
        "./primary",
        "mnt",
        "--replica",
        "replica",
    ]);
    run(&mut command).ok();
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let at = scene.at("mnt").to_str().expect("text").to_owned();
    let line = table
        .lines()
        .find(|l| l.split(' ').nth(4) == Some(&at))
        .expect("mounted");
    let after: Vec<_> = line
        .split(" - ")
        .nth(1)
        .expect("a separator")
        .split(' ')
        .collect();
    assert_eq!(after[..2], ["fuse.mirrorfs", "./primary"], "{line}");
    let ran = run(Command::new("findmnt")
        .args(["-n", "-o", "FSTYPE"])
        .arg(scene.at("mnt")))
    .ok();
    assert_eq!(ran.out.trim(), "fuse.mirrorfs");
    mirrorfs(["umount".as_ref(), scene.at("mnt").as_os_str()]).ok();
}

/// Completions for three shells, help that fits, a version.
#[test]
fn words_on_request() {
    need_product!();
    for shell in ["bash", "zsh", "fish"] {
        let ran = mirrorfs(["completions", shell]).ok();
        assert!(
            ran.out.contains("mirrorfs") && ran.out.contains("replica"),
            "{ran}"
        );
    }
    for args in [
        &["--help"][..],
        &["-h"],
        &["mount", "-h"],
        &["mount", "--help"],
        &["status", "--help"],
        &["--version"],
    ] {
        let ran = mirrorfs(args).ok();
        assert!(!ran.out.is_empty() && ran.err.is_empty(), "{ran}");
    }
}
