// SPDX-License-Identifier: MIT
//! A replica that hangs, with `mode=sync`: nobody waits for it longer than `replica-timeout`, nobody who
//! only reads waits at all, and when it wakes up it is healed before it is taken for in-sync.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::image::{Frozen, Image};
use crate::support::mount::{TestMount, Wish, alive};
use crate::support::rings::{Held, known, transport};
use crate::support::{Work, skip, together, wait_until};
use crate::{need_product, need_programs, need_root};

/// So many programs change something while the replica hangs: more than the daemon has threads.
const MANY: usize = 24;
/// Larger than what goes to both copies one after the other.
const LARGE: usize = 1 << 20;

/// Something that makes a replica hang until it is dropped.
trait Hang {}

impl Hang for Frozen {}

/// A FUSE file system whose daemon is stopped.
struct Stopped(Pid);

impl Stopped {
    fn new(mount: &TestMount) -> Self {
        let pid = i32::try_from(mount.pid()).ok().and_then(Pid::from_raw);
        let pid = pid.expect("a pid");
        kill_process(pid, Signal::STOP).expect("SIGSTOP");
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        _ = kill_process(self.0, Signal::CONT).is_ok();
    }
}

impl Hang for Stopped {}

/// A mirror of files that were there before, so that nothing of them is in any cache.
fn mirror(replica: &Path, options: &str, rings: &str) -> TestMount {
    let wish = Wish::default().replica(replica).arg("-o").arg(options);
    let mut mount = wish.prepare();
    std::fs::create_dir(mount.primary.join("d")).expect("mkdir");
    for n in 0..MANY {
        let at = |what: &str| mount.primary.join(format!("d/{what}{n}"));
        for what in [
            "read", "write", "large", "move", "gone", "mode", "cut", "sync",
        ] {
            std::fs::write(at(what), format!("{what} {n}")).expect("write");
        }
    }
    if known() {
        let held = Held::at(rings);
        mount.mount();
        drop(held);
    } else {
        mount.mount();
    }
    mount
}

/// The replica on a file system that can be frozen.
fn on_image() -> (Image, PathBuf) {
    let image = Image::new("ext4", 128, &[]);
    let replica = image.path().join("copy");
    std::fs::create_dir(&replica).expect("mkdir");
    (image, replica)
}

fn open(mount: &TestMount, name: &str) -> File {
    let mut options = OpenOptions::new();
    options.write(true).open(mount.at(name)).expect("open")
}

/// Everything that changes something, each in many programs' stead at once.
fn changes(mount: &TestMount) -> Vec<Work> {
    let mut work: Vec<Work> = Vec::new();
    for n in 0..MANY / 4 {
        let at = |what: &str| mount.at(format!("d/{what}{n}"));
        let (write, large) = (
            open(mount, &format!("d/write{n}")),
            open(mount, &format!("d/large{n}")),
        );
        let (mode, cut, sync) = (at("mode"), at("cut"), open(mount, &format!("d/sync{n}")));
        let (from, to, gone, made, dir) =
            (at("move"), at("moved"), at("gone"), at("made"), at("dir"));
        work.push(Box::new(move || {
            write.write_all_at(b"overwritten", 0).expect("write");
        }));
        work.push(Box::new(move || {
            large.write_all_at(&vec![1; LARGE], 0).expect("large write");
        }));
        work.push(Box::new(move || std::fs::rename(from, to).expect("rename")));
        work.push(Box::new(move || {
            std::fs::remove_file(gone).expect("unlink");
        }));
        work.push(Box::new(move || {
            std::fs::write(made, "made").expect("create");
        }));
        work.push(Box::new(move || std::fs::create_dir(dir).expect("mkdir")));
        work.push(Box::new(move || {
            std::fs::set_permissions(mode, PermissionsExt::from_mode(0o640)).expect("chmod");
        }));
        work.push(Box::new(move || {
            OpenOptions::new()
                .write(true)
                .open(cut)
                .and_then(|f| f.set_len(1))
                .expect("truncate");
        }));
        work.push(Box::new(move || {
            sync.write_all_at(b"synced", 0).expect("write");
            sync.sync_all().expect("fsync");
        }));
    }
    work
}

/// The replica hangs for good: every change is done, the mirror says why it is degraded, later changes
/// do not wait, and it can be unmounted. What the replica did late is found at the next mount.
fn goes_on_without(mut mount: TestMount, hang: impl FnOnce() -> Box<dyn Hang>) {
    let work = changes(&mount);
    let hanging = hang();
    together("changes", work);
    let json = mount.status_json();
    assert_eq!(json["state"], "degraded", "{json}");
    assert_eq!(json["reason"]["errno"], "ETIMEDOUT", "{json}");
    for n in 0..MANY {
        let text = std::fs::read_to_string(mount.at(format!("d/read{n}"))).expect("read");
        assert_eq!(text, format!("read {n}"));
    }
    // If each of them waited, that would take minutes.
    let at = mount.at("later");
    let many = move || {
        std::fs::create_dir(&at).expect("mkdir");
        for n in 0..100 {
            let file = File::create(at.join(format!("{n}"))).expect("create");
            file.write_all_at(b"later", 0).expect("write");
            file.sync_all().expect("fsync");
        }
        rustix::fs::statvfs(&at).expect("statfs");
    };
    together("later changes", vec![Box::new(many)]);
    let said = mount.status();
    assert!(said.out.contains("calls to answer"), "{said}");
    let pid = mount.pid();
    mount.product("umount", &[]).ok();
    mount.ended();
    drop(hanging);
    wait_until("the daemon's last thread", || !alive(pid));
    mount.mount_and_heal(&[]);
    mount.finish();
}

#[test]
fn a_frozen_file_system() {
    need_root!();
    need_product!();
    need_programs!("fsfreeze", "mkfs.ext4");
    let (image, replica) = on_image();
    let mount = mirror(&replica, "replica-timeout=1s", "N");
    goes_on_without(mount, || Box::new(Frozen::new(&image)));
}

/// The answers of threads that hang go back through other rings.
#[test]
fn a_frozen_file_system_and_rings() {
    need_root!();
    need_product!();
    need_programs!("fsfreeze", "mkfs.ext4");
    if !known() {
        return skip("this kernel has no FUSE over io_uring");
    }
    let (image, replica) = on_image();
    let mount = mirror(&replica, "replica-timeout=1s", "Y");
    assert_eq!(transport(&mount).0, "io_uring");
    goes_on_without(mount, || Box::new(Frozen::new(&image)));
}

#[test]
fn a_stopped_daemon() {
    need_root!();
    need_product!();
    let below = TestMount::new();
    let replica = below.at("copy");
    std::fs::create_dir(&replica).expect("mkdir");
    let mount = mirror(&replica, "replica-timeout=1s", "N");
    goes_on_without(mount, || Box::new(Stopped::new(&below)));
    below.finish();
}

/// More programs wait for the replica than the daemon has threads: whoever only reads does not. It comes
/// back in time, and nothing has happened.
fn others_go_on(replica: &Path, hang: impl FnOnce() -> Box<dyn Hang>) {
    let mount = mirror(replica, "replica-timeout=10m", "N");
    let files: Vec<_> = (0..MANY)
        .map(|n| open(&mount, &format!("d/write{n}")))
        .collect();
    rustix::fs::statvfs(&mount.mountpoint).expect("statfs");
    let hanging = hang();
    let write = |file: File| std::thread::spawn(move || file.write_all_at(b"waits", 0));
    let writers: Vec<_> = files.into_iter().map(write).collect();
    let asked = || mount.status_json()["requests"]["write"].as_u64();
    wait_until("all writes to have come", || asked() >= Some(MANY as u64));
    for n in 0..MANY {
        let path = mount.at(format!("d/read{n}"));
        let read = move || {
            let text = std::fs::read_to_string(path).expect("read");
            assert_eq!(text, format!("read {n}"));
        };
        together("a read", vec![Box::new(read)]);
    }
    let (names, root) = (mount.at("d"), mount.at(""));
    let look = move || {
        assert!(std::fs::read_dir(&names).expect("readdir").count() > MANY);
        rustix::fs::statvfs(&root).expect("statfs");
    };
    together("a look", vec![Box::new(look)]);
    let waiting = writers.iter().all(|writer| !writer.is_finished());
    assert!(waiting, "it hangs");
    drop(hanging);
    for writer in writers {
        writer.join().expect("join").expect("write");
    }
    assert_eq!(mount.state(), "in-sync");
    mount.finish();
}

#[test]
fn reads_do_not_wait_for_a_frozen_file_system() {
    need_root!();
    need_product!();
    need_programs!("fsfreeze", "mkfs.ext4");
    let (image, replica) = on_image();
    others_go_on(&replica, || Box::new(Frozen::new(&image)));
}

#[test]
fn reads_do_not_wait_for_a_stopped_daemon() {
    need_root!();
    need_product!();
    let below = TestMount::new();
    let replica = below.at("copy");
    std::fs::create_dir(&replica).expect("mkdir");
    others_go_on(&replica, || Box::new(Stopped::new(&below)));
    below.finish();
}

/// Unmounted while nobody knows yet that the replica hangs: the stamp says so in the end.
#[test]
fn found_out_at_unmount() {
    need_root!();
    need_product!();
    need_programs!("fsfreeze", "mkfs.ext4");
    let (image, replica) = on_image();
    let mut mount = mirror(&replica, "replica-timeout=1s", "N");
    std::fs::write(mount.at("d/f"), "x").expect("write");
    let frozen = Frozen::new(&image);
    let pid = mount.pid();
    mount.product("umount", &[]).ok();
    mount.ended();
    drop(frozen);
    wait_until("the daemon's last thread", || !alive(pid));
    mount.mount_and_heal(&[]);
    mount.finish();
}

/// It hangs for a while, and is mounted all the time.
fn heals_by_itself(mount: TestMount, hang: impl FnOnce() -> Box<dyn Hang>) {
    let work = changes(&mount);
    let hanging = hang();
    together("changes", work);
    assert_eq!(mount.state(), "degraded");
    drop(hanging);
    wait_until("the replica is healed", || mount.state() == "in-sync");
    std::fs::write(mount.at("together"), "on both").expect("write");
    mount.finish();
}

#[test]
fn a_frozen_file_system_that_thaws() {
    need_root!();
    need_product!();
    need_programs!("fsfreeze", "mkfs.ext4");
    let (image, replica) = on_image();
    let mount = mirror(&replica, "replica-timeout=1s", "N");
    heals_by_itself(mount, || Box::new(Frozen::new(&image)));
}

#[test]
fn a_stopped_daemon_that_goes_on() {
    need_root!();
    need_product!();
    let below = TestMount::new();
    let replica = below.at("copy");
    std::fs::create_dir(&replica).expect("mkdir");
    let mount = mirror(&replica, "replica-timeout=1s", "N");
    heals_by_itself(mount, || Box::new(Stopped::new(&below)));
    below.finish();
}

/// It hangs while it is being healed: what healing holds is given back.
fn hangs_while_it_is_healed(end: impl FnOnce(TestMount, Box<dyn Hang>)) {
    let (image, replica) = on_image();
    let mount = mirror(&replica, "replica-timeout=1s,bwlimit=8M", "N");
    mount.product("pause", &[]).ok();
    for n in 0..MANY {
        let file = open(&mount, &format!("d/large{n}"));
        file.write_all_at(&vec![2; LARGE], 0).expect("write");
    }
    let work = changes(&mount);
    mount.product("resume", &[]).ok();
    let opened = || mount.status_json()["replicas"][0]["resync_files_opened"].as_u64();
    wait_until("healing", || opened() > Some(0));
    let hanging: Box<dyn Hang> = Box::new(Frozen::new(&image));
    together("changes", work);
    end(mount, hanging);
}

#[test]
fn while_it_is_healed() {
    need_root!();
    need_product!();
    need_programs!("fsfreeze", "mkfs.ext4");
    let end = |mount: TestMount, hanging: Box<dyn Hang>| {
        wait_until("it is given up", || mount.state() == "degraded");
        drop(hanging);
        wait_until("the replica is healed", || mount.state() == "in-sync");
        mount.finish();
    };
    hangs_while_it_is_healed(end);
}

#[test]
fn unmounted_while_it_is_healed() {
    need_root!();
    need_product!();
    need_programs!("fsfreeze", "mkfs.ext4");
    let end = |mut mount: TestMount, hanging: Box<dyn Hang>| {
        let pid = mount.pid();
        mount.product("umount", &[]).ok();
        mount.ended();
        drop(hanging);
        wait_until("the daemon's last thread", || !alive(pid));
        mount.mount_and_heal(&[]);
        mount.finish();
    };
    hangs_while_it_is_healed(end);
}

/// Not even looking for it comes back.
#[test]
fn unmounted_while_it_is_looked_for() {
    need_root!();
    need_product!();
    need_programs!("fsfreeze", "mkfs.ext4");
    let (image, replica) = on_image();
    let mut mount = mirror(&replica, "replica-timeout=1s", "N");
    mount.product("pause", &[]).ok();
    std::fs::write(mount.at("d/f"), "x").expect("write");
    let frozen = Frozen::new(&image);
    mount.product("resume", &[]).ok();
    wait_until("it hangs", || {
        mount.status().out.contains("calls to answer")
    });
    let work = changes(&mount);
    together("changes", work);
    let pid = mount.pid();
    mount.product("umount", &[]).ok();
    mount.ended();
    drop(frozen);
    wait_until("the daemon's last thread", || !alive(pid));
    mount.mount_and_heal(&[]);
    mount.finish();
}
