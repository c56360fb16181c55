// SPDX-License-Identifier: MIT
//! Ends in the middle of something: of seeding, of mapped files, of acknowledging.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Stdio};

use rustix::fs::{CWD, FallocateFlags, RenameFlags, XattrFlags};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::compare::{Ignore, differences, report};
use crate::support::image::Image;
use crate::support::mount::{TestMount, Wish, is_mounted};
use crate::support::run::Guarded;
use crate::support::sys::Map;
use crate::support::wait_until;
use crate::{need_product, need_root};

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a pid"), signal).expect("kill");
}

/// Waits for a child of ours and tells its exit code.
fn code_of(child: &mut Child) -> Option<i32> {
    let mut status = None;
    wait_until("its end", || {
        status = child.try_wait().expect("wait");
        status.is_some()
    });
    status.and_then(|status| status.code())
}

/// The only child of a process.
fn child_of(pid: u32) -> u32 {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let mut child = None;
    wait_until("the daemon", || {
        let children = std::fs::read_to_string(&path).unwrap_or_default();
        child = children
            .split_whitespace()
            .next()
            .and_then(|pid| pid.parse().ok());
        child.is_some()
    });
    child.expect("a child")
}

/// Interrupted in the middle, seeding left a replica that the next mount took for the copy of
/// somebody else, or said that the same command goes on, which it refused to. It does go on.
#[test]
fn seeding_interrupted() {
    const LARGE: usize = 400 << 20;
    need_product!();
    for foreground in [true, false] {
        let mut mount = Wish::default().prepare();
        for dir in 0..10 {
            let dir = mount.primary.join(dir.to_string());
            std::fs::create_dir(&dir).expect("mkdir");
            for n in 0..100 {
                std::fs::write(dir.join(n.to_string()), format!("{n}")).expect("write");
            }
        }
        std::fs::write(mount.primary.join("large"), vec![7; LARGE]).expect("write");
        let words: &[&str] = if foreground { &["--foreground"] } else { &[] };
        let mut command = mount.command(words);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = Guarded(command.spawn().expect("spawn"));
        let pid = child.0.id();
        let daemon = if foreground { pid } else { child_of(pid) };
        // Some of it is there, and most is not.
        let large = || mount.replica.join("large").metadata();
        let copied = || large().map_or(0, |stat| stat.blocks() * 512);
        wait_until("seeding is under way", || copied() > 0);
        assert!(copied() < LARGE as u64, "it was too quick for this test");
        signal(daemon, Signal::TERM);
        assert_eq!(code_of(&mut child.0), Some(8), "foreground: {foreground}");
        assert!(!is_mounted(&mount.mountpoint));
        mount.mount_and_heal(&[]);
        mount.finish();
    }
}

/// SIGTERM while a program has a file mapped and written through the map, and others open: the
/// daemon waited for the program, or went while pages still arrived at one copy. Whether those pages
/// made it is nobody's promise; that they are on both copies or on neither is.
#[test]
fn terminated_under_a_shared_map() {
    need_product!();
    for round in 0..3_u8 {
        let mut mount = Wish::default().prepare();
        let mut command = mount.command(&["--foreground"]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = Guarded(command.spawn().expect("spawn"));
        wait_until("the mount", || is_mounted(&mount.mountpoint));
        wait_until("status", || mount.status().code == Some(0));
        let open = |name: &str| {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false);
            options.open(mount.at(name)).expect("open")
        };
        let (mapped, named, nameless) = (open("mapped"), open("named"), open("nameless"));
        mapped.set_len(4 << 20).expect("truncate");
        std::fs::remove_file(mount.at("nameless")).expect("unlink");
        let map = Map::new(&mapped, 0, 4 << 20, true, true).expect("mmap");
        map.put(0, &vec![round + 1; 4 << 20]);
        if round > 0 {
            map.sync().expect("msync");
        }
        named.write_all_at(&[round; 10_000], 0).expect("write");
        nameless.write_all_at(&[round; 10_000], 0).expect("write");
        // Dirty when the signal comes: every other page.
        for page in (0..1024).step_by(2) {
            map.put(page * 4096, &[0xdd; 4096]);
        }
        if round == 2 {
            // A mapping alone, without a descriptor.
            drop(mapped);
        }
        signal(child.0.id(), Signal::TERM);
        assert_eq!(
            code_of(&mut child.0),
            Some(0),
            "an orderly end\n{}",
            mount.log_text()
        );
        assert!(!is_mounted(&mount.mountpoint));
        let equal = || {
            let found = differences(&mount.primary, &mount.replica, Ignore::default());
            assert!(
                found.is_empty(),
                "{}",
                report(&mount.primary, &mount.replica, &found)
            );
        };
        equal();
        let content = std::fs::read(mount.primary.join("mapped")).expect("read");
        let whole = |page: &[u8]| page.iter().all(|byte| *byte == page[0]);
        assert!(content.chunks(4096).all(whole), "torn pages");
        drop((map, named, nameless));
        equal();
        mount.mount();
        assert_eq!(mount.state(), "in-sync");
        mount.finish();
    }
}

/// With on-replica-error=fail every change is refused from the first failure on, whatever it is, and
/// nothing else is: an fsync that had been acknowledged, reads, the end.
#[test]
fn every_change_fails_on_request() {
    need_root!();
    need_product!();
    let mut image = Image::new("ext4", 32, &[]);
    let replica = image.path().join("copy");
    std::fs::create_dir(&replica).expect("mkdir");
    let wish = Wish::default()
        .replica(&replica)
        .arg("--on-replica-error=fail");
    let mut mount: TestMount = wish.mount();
    std::fs::create_dir(mount.at("d")).expect("mkdir");
    for name in ["f", "d/g", "victim"] {
        std::fs::write(mount.at(name), "content").expect("write");
    }
    let file = File::options()
        .read(true)
        .write(true)
        .open(mount.at("f"))
        .expect("open");
    file.sync_all().expect("fsync");
    mount.assert_equal();
    image.shut_down();
    let at = |name: &str| mount.at(name);
    let rename = |from: &str, to: &str, flags| {
        rustix::fs::renameat_with(CWD, at(from), CWD, at(to), flags).map_err(Into::into)
    };
    let none = RenameFlags::empty();
    for round in 0..2 {
        let name = |kind: &str| at(&format!("{kind}-{round}"));
        let answers: [(&str, std::io::Result<()>); 14] = [
            ("write", file.write_at(b"AFTER", 0).map(drop)),
            ("truncate", file.set_len(3)),
            (
                "fallocate",
                rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 9000).map_err(Into::into),
            ),
            ("create", File::create(name("file")).map(drop)),
            ("mkdir", std::fs::create_dir(name("dir"))),
            ("symlink", std::os::unix::fs::symlink("f", name("symlink"))),
            ("link", std::fs::hard_link(at("f"), name("link"))),
            ("rename", rename("d/g", "d/h", none)),
            ("exchange", rename("f", "victim", RenameFlags::EXCHANGE)),
            ("unlink", std::fs::remove_file(at("victim"))),
            (
                "chmod",
                rustix::fs::chmod(at("d"), 0o700.into()).map_err(Into::into),
            ),
            ("utimens", file.set_modified(std::time::UNIX_EPOCH)),
            (
                "setxattr",
                rustix::fs::setxattr(at("f"), "user.x", b"1", XattrFlags::empty())
                    .map_err(Into::into),
            ),
            ("fsync", file.sync_all()),
        ];
        for (call, answer) in answers {
            let errno = answer.map_err(|e| e.raw_os_error());
            assert_eq!(errno, Err(Some(libc::EIO)), "{call}, round {round}");
        }
        assert_eq!(std::fs::read(at("d/g")).expect("read"), b"content");
        assert_eq!(std::fs::read_dir(at("d")).expect("readdir").count(), 1);
    }
    assert_eq!(mount.state(), "degraded");
    drop(file);
    mount.umount();
    image.unmount(true);
    image.mount();
    mount.mount_and_heal(&[]);
    assert_eq!(mount.state(), "in-sync");
    std::fs::write(mount.at("f"), "on both").expect("write");
    mount.finish();
}
