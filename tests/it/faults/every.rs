// SPDX-License-Identifier: MIT
//! The daemon dies, or the power fails, at the n-th call, for every n: strace delivers SIGKILL as the
//! call begins. `MIRRORFS_NTH` calls, spread evenly over the first so many in a short run.

use std::process::{Command, Stdio};

use super::disk::{Disk, Layout};
use super::oracle::client::Load;
use super::power::{Cut, promises_kept, rig_on};
use super::rig::{Rig, honest};
use crate::support::mount::{Wish, alive, end_all_below};
use crate::support::rng::seed;
use crate::support::run::{Guarded, run};
use crate::support::tamper::Tampered;
use crate::support::{breathe, healing_is_there, setting, wait_until};
use crate::{need_healing, need_product, need_programs, need_root};

const THREADS: usize = 3;
/// strace sees no calls that go through a ring.
const VISIBLE: &str = "io=threads";
const CHANGES: &str = "pwrite64,openat,renameat2,linkat,unlinkat,mkdirat,symlinkat,ftruncate,\
    fallocate,fchmod,fchmodat,utimensat,fsetxattr,setxattr";
const SYNCS: &str = "fsync,fdatasync,syncfs,sync_file_range";
/// Calls of one kind in one thread that a short run reaches.
const REACH: u64 = 60;

/// The n that are tried.
fn numbers() -> impl Iterator<Item = u64> {
    let count = setting("MIRRORFS_NTH", 6).min(REACH);
    (0..count).map(move |n| 1 + n * REACH / count)
}

fn killing(calls: &str, n: u64) -> [String; 4] {
    let inject = format!("inject={calls}:signal=SIGKILL:when={n}");
    ["-e".into(), format!("trace={calls}"), "-e".into(), inject]
}

/// A load under which the daemon dies at the n-th of these calls, or which ends before.
fn dies(rig: &mut Rig, calls: &str, n: u64) -> Option<std::path::PathBuf> {
    let words = killing(calls, n);
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let tampered = Tampered::with(&rig.mount, &words);
    let mut orders = rig.orders();
    (orders.ops, orders.syncs) = (200, 15);
    let mut load = Load::start(orders);
    let pid = rig.mount.pid();
    while load.runs() && alive(pid) {
        breathe();
    }
    let notes = load.ended();
    // The load may know of the death before the last thread of the daemon is gone.
    let answers = rig.mount.product("status", &["--json"]).out;
    let died = !answers.contains("\"pid\"");
    drop(tampered);
    if died {
        wait_until("the daemon's end", || !alive(pid));
        rig.mount.ended();
        return Some(notes);
    }
    rig.judge_notes(&notes, &[]);
    None
}

/// SIGKILL as the n-th call that changes something begins, on whichever copy or on the log.
#[test]
fn killed_at_the_nth_call() {
    need_root!();
    need_product!();
    need_programs!("strace");
    let wish = Wish::default().arg("-o").arg(VISIBLE);
    let mut rig = Rig::new(wish, THREADS, seed("every"));
    let mut deaths = 0;
    for n in numbers() {
        for calls in [CHANGES, SYNCS] {
            let Some(notes) = dies(&mut rig, calls, n) else {
                continue;
            };
            deaths += 1;
            let (primary, replica) = (rig.mount.primary.clone(), rig.mount.replica.clone());
            let gone = [rustix::io::Errno::IO];
            rig.judge.look(&notes, &primary, Some(&replica), &gone);
            rig.remount();
            rig.heals_by_itself();
            rig.is_equal();
        }
    }
    assert!(deaths > 0, "no call was ever reached");
    rig.finish();
}

/// A load during which the n-th of these calls of each thread fails, on whichever copy or on the log.
/// Whether any did.
fn fails(rig: &mut Rig, calls: &str, n: u64) -> bool {
    let trace = format!("trace={calls}");
    let inject = format!("inject={calls}:error=EIO:when={n}");
    let log = rig.mount.scratch.join("strace.log");
    let tampered = Tampered::with(&rig.mount, &["-e", &trace, "-e", &inject]);
    let mut orders = rig.orders();
    (orders.ops, orders.syncs) = (200, 15);
    let notes = Load::start(orders).ended();
    drop(tampered);
    rig.judge_notes(&notes, &[rustix::io::Errno::IO]);
    let log = std::fs::read_to_string(log).unwrap_or_default();
    log.contains("(INJECTED)")
}

/// The n-th call of a thread fails, on whichever copy or on the log: the application gets an error for
/// what the primary could not do, and the copies are made equal again.
#[test]
fn failed_at_the_nth_call() {
    need_root!();
    need_product!();
    need_programs!("strace");
    need_healing!();
    let wish = Wish::default().arg("-o").arg(VISIBLE);
    let mut rig = Rig::new(wish, THREADS, seed("every"));
    let mut failures = 0;
    for n in numbers() {
        for calls in [CHANGES, SYNCS] {
            failures += usize::from(fails(&mut rig, calls, n));
            let json = rig.mount.status_json();
            honest(&json);
            if json["reason"]["id"] == "MF-0029" {
                // The log could not be written: nobody knows what differs.
                rig.mount.umount();
                rig.remount_in_doubt();
            }
            rig.is_made_sure();
        }
    }
    assert!(failures > 0, "no call was ever reached");
    rig.finish();
}

/// The power fails as the n-th sync begins.
#[test]
fn power_cut_at_the_nth_sync() {
    need_root!();
    need_product!();
    need_programs!("strace", "mkfs.xfs", "mkfs.ext4");
    let seed = seed("every");
    let mut disk = Disk::new(Layout::Three, 192);
    let mut rig = rig_on(&disk, &[VISIBLE], THREADS, seed);
    let mut deaths = 0;
    for n in numbers() {
        disk.sync();
        let base = rig.judge.base().to_vec();
        let Some(notes) = dies(&mut rig, SYNCS, n) else {
            continue;
        };
        deaths += 1;
        // What was in memory is lost: nothing was written since, but by the kernel of its own accord.
        let cut = Cut::of_all(disk.copy());
        run(Command::new("umount").arg("-l").arg(&rig.mount.mountpoint)).ok();
        disk.restart_from(cut.copy().expect("a copy"));
        let copies = [&*rig.mount.primary, &*rig.mount.replica];
        promises_kept(&cut, &base, &notes, &copies);
        rig.judge.believe(&rig.mount.primary);
        rig.remount();
        rig.heals_by_itself();
        rig.is_equal();
    }
    assert!(deaths > 0, "no sync was ever reached");
    rig.finish();
}

/// Mounts with strace on everything that the mount command starts. Whether it died of it.
fn mount_dying(rig: &Rig, calls: &str, n: u64) -> bool {
    let adopt: &[&str] = if healing_is_there() {
        &[]
    } else {
        &["--adopt"]
    };
    let command = rig.mount.command(adopt);
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-o"]).arg("/dev/null");
    traced.args(killing(calls, n));
    traced.arg(command.get_program()).args(command.get_args());
    let mut strace = Guarded(traced.stdin(Stdio::null()).spawn().expect("strace"));
    let (mut ended, mut mounted) = (false, false);
    wait_until("it is mounted, or dead", || {
        ended = strace.0.try_wait().expect("wait").is_some();
        mounted = rig
            .mount
            .product("status", &["--json"])
            .out
            .contains("\"pid\"");
        ended || mounted
    });
    // strace goes on as long as the daemon does. It may die a moment later, or lives on unharmed.
    drop(strace);
    end_all_below(rig.mount.dir());
    !mounted
}

/// SIGKILL while it mounts after a SIGKILL: stamps and log are being written. The next mount works.
#[test]
fn killed_at_the_nth_call_of_mount() {
    need_root!();
    need_product!();
    need_programs!("strace");
    let mut rig = Rig::new(Wish::default(), THREADS, seed("every"));
    let mut deaths = 0;
    for calls in [
        "fsync,fdatasync,syncfs",
        "fsetxattr,setxattr,renameat,renameat2",
        "pwrite64,write",
    ] {
        for n in 1..=setting("MIRRORFS_NTH", 6) {
            let mut load = rig.load();
            load.wait_for(100);
            rig.kill(load, true);
            deaths += usize::from(mount_dying(&rig, calls, n));
            rig.judge.still(&rig.mount.primary);
            rig.remount();
            honest(&rig.mount.status_json());
            rig.heals_by_itself();
            rig.is_equal();
        }
    }
    assert!(deaths > 0, "it never died while it mounted");
    rig.finish();
}
