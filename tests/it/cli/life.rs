// SPDX-License-Identifier: MIT
//! The life of a mount: its beginning, signals, unmounting, a dead daemon, an ordinary user.

use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use super::{REFUSED, USAGE};
use crate::support::compare::{Ignore, differences, report};
use crate::support::mount::{TestMount, Wish, alive, is_mounted};
use crate::support::run::{Guarded, MIRRORFS, mirrorfs};
use crate::support::user::{self, NOBODY};
use crate::support::wait_until;
use crate::{need_product, need_programs, need_root};

/// Mounted over the primary: everything there is seen, changed, and still there afterwards.
#[test]
fn over_the_primary() {
    need_root!();
    need_product!();
    let mut mount = Wish::default().over_primary().prepare();
    std::fs::write(mount.primary.join("before"), "was here").expect("write");
    mount.mount();
    assert_eq!(
        std::fs::read(mount.at("before")).expect("read"),
        b"was here"
    );
    std::fs::create_dir(mount.at("d")).expect("mkdir");
    std::fs::write(mount.at("d/f"), "made").expect("write");
    std::fs::rename(mount.at("before"), mount.at("d/after")).expect("rename");
    assert_eq!(mount.state(), "in-sync");
    mount.umount();
    assert_eq!(
        std::fs::read(mount.primary.join("d/after")).expect("read"),
        b"was here"
    );
    mount.mount();
    std::fs::remove_file(mount.at("d/f")).expect("unlink");
    mount.finish();
}

/// The command returns when the mount is there, every time, and lets go of its pipes.
#[test]
fn background_returns_when_mounted() {
    need_product!();
    let mut mount = Wish::default().prepare();
    for round in 0..10 {
        let mut command = mount.command(&[]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command.spawn().expect("spawn");
        // With pipes, this only ends when nobody holds their other ends any more.
        let (send, receive) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn(move || send.send(child.wait_with_output()));
        let limit = crate::support::PATIENCE;
        let output = receive
            .recv_timeout(limit)
            .expect("the daemon keeps the pipes open");
        waiter.join().expect("join").expect("sent");
        let output = output.expect("output");
        assert!(
            output.status.success() && output.stdout.is_empty(),
            "{output:?}"
        );
        assert!(
            is_mounted(&mount.mountpoint),
            "round {round}: not mounted yet"
        );
        std::fs::write(mount.at(format!("f{round}")), "x").expect("usable at once");
        mirrorfs(["umount".as_ref(), mount.mountpoint.as_os_str()]).ok();
        assert!(!is_mounted(&mount.mountpoint));
    }
    mount.mount();
    mount.finish();
}

/// SIGTERM and SIGINT: drain, unmount, exit 0, two equal copies.
#[test]
fn signals_end_it_gently() {
    need_product!();
    for signal in [Signal::TERM, Signal::INT] {
        let mut mount = TestMount::new();
        for n in 0..200 {
            std::fs::write(mount.at(format!("f{n}")), vec![b'x'; n * 100]).expect("write");
        }
        let pid = mount.pid();
        mount.signal(signal);
        wait_until("the daemon's end", || !alive(pid));
        assert!(!is_mounted(&mount.mountpoint), "a gentle end unmounts");
        mount.ended();
        let found = differences(&mount.primary, &mount.replica, Ignore::default());
        assert!(
            found.is_empty(),
            "{}",
            report(&mount.primary, &mount.replica, &found)
        );
        // It was an orderly end: the next mount needs no comparison.
        mount.mount();
        assert_eq!(mount.state(), "in-sync");
        mount.finish();
    }
}

/// --foreground stays, logs to stderr, and exits 0 when told to stop.
#[test]
fn foreground() {
    need_product!();
    let mut mount = Wish::default().prepare();
    let mut command = Command::new(MIRRORFS);
    command
        .args(["mount", "--foreground"])
        .arg(&mount.primary)
        .arg(&mount.mountpoint);
    command.arg("--replica").arg(&mount.replica);
    command.arg("--state-dir").arg(mount.dir().join("state"));
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = Guarded(command.spawn().expect("spawn"));
    wait_until("the mount", || is_mounted(&mount.mountpoint));
    wait_until("status", || mount.status().code == Some(0));
    std::fs::write(mount.at("f"), "x").expect("write");
    let json = mount.status_json();
    assert_eq!(json["pid"].as_u64(), Some(child.0.id().into()));
    let pid = i32::try_from(child.0.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("a pid"), Signal::TERM).expect("kill");
    let mut status = None;
    wait_until("its end", || {
        status = child.0.try_wait().expect("wait");
        status.is_some()
    });
    assert_eq!(status.and_then(|s| s.code()), Some(0));
    assert!(!is_mounted(&mount.mountpoint));
    mount.mount();
    mount.finish();
}

/// umount waits for the daemon; a busy mount is refused with 32 and stays; --lazy lets go.
#[test]
fn umount() {
    need_product!();
    let mut mount = TestMount::new();
    std::fs::write(mount.at("f"), "x").expect("write");
    let held = std::fs::File::open(mount.at("f")).expect("open");
    let ran = mount.product("umount", &[]).code(REFUSED);
    assert!(ran.err.starts_with("mirrorfs: "), "{ran}");
    assert!(is_mounted(&mount.mountpoint));
    assert_eq!(mount.state(), "in-sync");
    std::fs::write(mount.at("g"), "still serving").expect("write");
    let mut back = [0; 1];
    held.read_exact_at(&mut back, 0).expect("read");
    drop(held);
    mount.umount();
    let ran = mirrorfs(["umount".as_ref(), mount.mountpoint.as_os_str()]);
    assert!(
        matches!(ran.code, Some(USAGE | REFUSED)),
        "not mounted: {ran}"
    );
    mount.mount();
    let held = std::fs::File::open(mount.at("f")).expect("open");
    let pid = mount.pid();
    mount.product("umount", &["--lazy"]).ok();
    assert!(!is_mounted(&mount.mountpoint));
    drop(held);
    wait_until("the daemon's end", || !alive(pid));
    mount.ended();
    mount.mount();
    mount.finish();
}

/// A dead daemon's mount is in nobody's way: the next mount replaces it, and what may differ is
/// not called in-sync before it was compared.
#[test]
fn a_dead_mount_is_replaced() {
    need_product!();
    let mut mount = TestMount::new();
    std::fs::write(mount.at("f"), "x").expect("write");
    mount.kill();
    assert!(is_mounted(&mount.mountpoint), "the kernel still shows it");
    let dead = std::fs::metadata(mount.at("f")).expect_err("nobody answers");
    // ECONNABORTED where the kernel has not finished giving the connection up.
    let dead = dead.raw_os_error();
    assert!(
        matches!(dead, Some(libc::ENOTCONN | libc::ECONNABORTED)),
        "{dead:?}"
    );
    mount.mount_and_heal(&[]);
    assert_eq!(std::fs::read(mount.at("f")).expect("read"), b"x");
    mount.finish();
}

/// An ordinary user mounts through fusermount3 and is told what such a mount cannot have.
#[test]
fn an_ordinary_user() {
    need_root!();
    need_product!();
    need_programs!("fusermount3", "setpriv");
    crate::need_fuse_for_users!();
    let mut mount = Wish::default().user(NOBODY).prepare();
    let ran = mount.try_mount(&[]).ok();
    assert!(!ran.err.is_empty(), "the note about what is missing: {ran}");
    let at = mount.mountpoint.clone();
    user::with(NOBODY, || {
        std::fs::create_dir(at.join("d")).expect("mkdir");
        std::fs::write(at.join("d/f"), "content").expect("write");
        std::fs::hard_link(at.join("d/f"), at.join("d/g")).expect("link");
        std::os::unix::fs::symlink("f", at.join("d/s")).expect("symlink");
        rustix::fs::setxattr(
            at.join("d/f"),
            "user.x",
            b"1",
            rustix::fs::XattrFlags::empty(),
        )
        .expect("setxattr");
        std::fs::rename(at.join("d/g"), at.join("h")).expect("rename");
    });
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let at = mount.mountpoint.to_str().expect("text").to_owned();
    let line = table
        .lines()
        .find(|l| l.split(' ').nth(4) == Some(&at))
        .expect("mounted");
    assert!(
        line.contains("default_permissions") && !line.contains("allow_other"),
        "{line}"
    );
    assert_eq!(mount.state(), "in-sync");
    mount.finish();
}

/// umount(8) returns before the daemon has made both copies durable and stamped them; whoever mounts
/// again in the same breath was told that the trees are in use.
#[test]
fn unmounted_and_mounted_in_one_breath() {
    need_root!();
    need_product!();
    let mut mount = TestMount::new();
    for round in 0..5 {
        let pid = mount.pid();
        std::fs::write(mount.at(format!("f{round}")), vec![1; 8 << 20]).expect("write");
        let plain = std::process::Command::new("umount")
            .arg(&mount.mountpoint)
            .status();
        assert!(plain.expect("umount").success());
        mount.ended();
        mount.mount();
        assert_ne!(mount.pid(), pid);
        assert_eq!(mount.state(), "in-sync");
    }
    mount.finish();
}
