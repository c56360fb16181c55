// SPDX-License-Identifier: MIT
//! `--cache=writeback`: small writes come later, all of them come, and both copies are equal then.
//!
//! A program that is started, `mirrorfs status` too, closes what it inherited, and every close has
//! the kernel hand over what it collected. So between a write and a look nothing is started here.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::process::Signal;

use crate::support::image::Image;
use crate::support::mount::{TestMount, Wish, alive};
use crate::support::run::{find, run, shell};
use crate::support::user::{self, NOBODY};
use crate::support::{base, temp_in, wait_until};
use crate::{need_product, need_programs, need_root, workloads};

fn writeback() -> TestMount {
    Wish::default().arg("--cache=writeback").mount()
}

/// Both copies hold exactly this.
#[track_caller]
fn on_both(mount: &TestMount, name: &str, wanted: &[u8]) {
    for copy in [&mount.primary, &mount.replica] {
        let found = fs::read(copy.join(name)).expect("read");
        assert!(
            found == wanted,
            "{name} in {}: {} bytes",
            copy.display(),
            found.len()
        );
    }
}

fn append(path: &Path) -> File {
    let mut options = File::options();
    options.append(true).create(true).open(path).expect("open")
}

/// A thousand small appends are a handful of requests: that is what the option is for.
#[test]
fn a_thousand_appends_are_few_requests() {
    need_root!();
    need_product!();
    let mount = writeback();
    fs::write(mount.at("first"), "").expect("write");
    let writes = || {
        let json = mount.status_json();
        json["requests"]["write"].as_u64().unwrap_or(0)
    };
    let before = writes();
    let mut log = append(&mount.at("log"));
    (0..1000).for_each(|_| log.write_all(&[b'x'; 100]).expect("append"));
    drop(log);
    // One, unless the kernel's own clock comes in between.
    let asked = writes() - before;
    assert!((1..=20).contains(&asked), "{asked} WRITEs");
    let before = writes();
    let file = File::create(mount.at("blocks")).expect("create");
    (0..1024).for_each(|n| file.write_all_at(&[b'y'; 4096], n * 4096).expect("write"));
    drop(file);
    let asked = writes() - before;
    assert!((4..=40).contains(&asked), "{asked} WRITEs");
    assert_eq!(mount.status_json()["cache"], "writeback");
    let status = mount.status().ok();
    assert!(
        status.out.contains("mode: sync, writeback cache\n"),
        "{status}"
    );
    mount.finish();
}

/// fsync, fdatasync, close and O_SYNC: when they return, both copies have it. syncfs sends it.
#[test]
fn what_brings_it_to_both_copies() {
    need_root!();
    need_product!();
    let mount = writeback();
    let mut held = append(&mount.at("held"));
    let mut text = Vec::new();
    let mut put = |held: &mut File| {
        text.extend_from_slice(b"one more line\n");
        held.write_all(b"one more line\n").expect("append");
        text.clone()
    };
    let now = put(&mut held);
    held.sync_all().expect("fsync");
    on_both(&mount, "held", &now);
    let now = put(&mut held);
    held.sync_data().expect("fdatasync");
    on_both(&mount, "held", &now);
    let now = put(&mut held);
    // syncfs has it sent, and does not wait for it.
    rustix::fs::syncfs(&held).expect("syncfs");
    let there = |copy: &Path| fs::read(copy.join("held")).is_ok_and(|found| found == now);
    wait_until("what was sent", || {
        there(&mount.primary) && there(&mount.replica)
    });
    let now = put(&mut held);
    drop(File::open(mount.at("held")).expect("open"));
    on_both(&mount, "held", &now);
    let now = put(&mut held);
    drop(held);
    on_both(&mount, "held", &now);
    for flag in [libc::O_SYNC, libc::O_DSYNC] {
        let mut options = File::options();
        let file = options
            .write(true)
            .create(true)
            .custom_flags(flag)
            .open(mount.at("now"));
        file.as_ref()
            .expect("open")
            .write_all_at(b"at once", 0)
            .expect("write");
        on_both(&mount, "now", b"at once");
        fs::remove_file(mount.at("now")).expect("unlink");
    }
    mount.finish();
}

/// SIGTERM while a file is open with everything still to come: it comes.
#[test]
fn terminated_with_dirty_pages() {
    need_root!();
    need_product!();
    let mut mount = writeback();
    let (pid, data) = (mount.pid(), vec![b'd'; 3 << 20]);
    let mut file = File::create(mount.at("dirty")).expect("create");
    file.write_all(&data).expect("write");
    let mut log = append(&mount.at("log"));
    log.write_all(b"last words\n").expect("append");
    mount.signal(Signal::TERM);
    wait_until("the daemon's end", || !alive(pid));
    on_both(&mount, "dirty", &data);
    on_both(&mount, "log", b"last words\n");
    drop((file, log));
    mount.ended();
    mount.mount();
    assert_eq!(mount.state(), "in-sync");
    mount.finish();
}

/// What was stored in a map after its file was closed, and unmounted at once.
#[test]
fn unmounted_with_dirty_pages() {
    need_root!();
    need_product!();
    need_programs!("python3");
    let mut mount = writeback();
    let store = "
import mmap, os
f = open('map', 'w+b'); f.truncate(1 << 20)
m = mmap.mmap(f.fileno(), 1 << 20); f.close()
m[:] = b'm' * (1 << 20)
for n in range(100): os.write(os.open('many%d' % n, os.O_CREAT | os.O_WRONLY), b'x' * n)
os._exit(0)";
    shell(&mount.mountpoint, &format!("python3 -c \"{store}\""));
    mount.umount();
    on_both(&mount, "map", &vec![b'm'; 1 << 20]);
    for n in 0..100 {
        on_both(&mount, &format!("many{n}"), &vec![b'x'; n]);
    }
    mount.mount();
    mount.finish();
}

/// Times that are set stay set, to the nanosecond, whatever was still to be written.
#[test]
fn times_that_are_set_stay() {
    need_root!();
    need_product!();
    let mut mount = writeback();
    let modified = |path: &Path| {
        fs::metadata(path)
            .map(|m| (m.mtime(), m.mtime_nsec()))
            .expect("stat")
    };
    let mut file = append(&mount.at("f"));
    for (seconds, nanos) in [(1_000_000_000, 123_456_789), (-5, 1), (2_000_000_000, 0)] {
        file.write_all(&[b'x'; 5000]).expect("write");
        let time = rustix::time::Timespec {
            tv_sec: seconds,
            tv_nsec: nanos,
        };
        let times = rustix::fs::Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::futimens(&file, &times).expect("futimens");
        assert_eq!(modified(&mount.at("f")), (seconds, nanos));
        file.sync_all().expect("fsync");
        for copy in [&mount.primary, &mount.replica] {
            assert_eq!(
                modified(&copy.join("f")),
                (seconds, nanos),
                "{}",
                copy.display()
            );
        }
    }
    drop(file);
    mount.umount();
    assert_eq!(modified(&mount.primary.join("f")), (2_000_000_000, 0));
    mount.mount();
    mount.finish();
}

/// The kernel reads around what it writes, whoever may read the file, and writes for whoever may.
#[test]
fn others_write_too() {
    need_root!();
    need_product!();
    need_programs!("setpriv");
    let mount = writeback();
    for (name, mode) in [("secret", 0o200), ("open", 0o666), ("raised", 0o6777)] {
        fs::write(mount.at(name), "0123456789").expect("write");
        let chown = (NOBODY.uid, NOBODY.gid);
        if name == "secret" {
            std::os::unix::fs::chown(mount.at(name), Some(chown.0), Some(chown.1)).expect("chown");
        }
        fs::set_permissions(mount.at(name), fs::Permissions::from_mode(mode)).expect("chmod");
        let mut dd = user::command(NOBODY, find("dd").expect("dd").to_str().expect("text"));
        dd.arg("if=/proc/version")
            .arg(format!("of={}", mount.at(name).display()));
        run(dd.args([
            "bs=1",
            "count=2",
            "seek=3",
            "conv=notrunc,fsync",
            "status=none",
        ]))
        .ok();
        on_both(&mount, name, b"012Li56789");
    }
    let mode = fs::metadata(mount.at("raised")).expect("stat").mode() & 0o7777;
    assert_eq!(mode, 0o777, "a plain user's write clears set-id bits");
    mount.finish();
}

/// A full primary is told at fsync, not at write, and the copies are equal all the same.
#[test]
fn a_full_disk_is_told_late() {
    need_root!();
    need_product!();
    need_programs!("mkfs.ext4");
    let image = Image::new("ext4", 32, &[]);
    let aside = temp_in(&base());
    let replica = aside.path().join("replica");
    fs::create_dir(&replica).expect("mkdir");
    let wish = Wish::default().arg("--cache=writeback");
    let mount = wish.base(&image.path()).replica(&replica).mount();
    let file = File::create(mount.at("too-much")).expect("create");
    for n in 0..64 {
        file.write_all_at(&[7; 1 << 20], n << 20)
            .expect("the kernel takes it");
    }
    let told = file.sync_all().expect_err("it does not fit");
    assert_eq!(told.raw_os_error(), Some(libc::ENOSPC));
    file.set_len(1 << 20).expect("truncate");
    file.sync_all().expect("it fits");
    drop(file);
    on_both(&mount, "too-much", &vec![7; 1 << 20]);
    assert_eq!(mount.state(), "in-sync");
    mount.finish();
}

/// Programs at work; afterwards the copies are equal.
#[test]
fn fsx() {
    workloads::fsx_on(writeback);
}

#[test]
fn sqlite() {
    workloads::sqlite_on(writeback);
}

#[test]
fn git() {
    workloads::git_on(writeback);
}
