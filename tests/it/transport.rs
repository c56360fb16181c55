// SPDX-License-Identifier: MIT
//! Requests through rings (FUSE over io_uring): when they are used, that those which wait for a
//! disk do not hold up the others on their processor, and how they end. What they answer is what all
//! other stories are about: scripts/check runs those with the kernel's switch on, too.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::support::image::{Frozen, Image};
use crate::support::mount::{TestMount, Wish, alive};
use crate::support::rings::{Held, known, mount_with, stay_on_one_cpu, transport};
use crate::support::sys::Map;
use crate::support::tamper::Tampered;
use crate::support::{Work, skip, together, wait_until};
use crate::{need_product, need_programs, need_root};

/// Returns from the test when this kernel has no FUSE over io_uring.
macro_rules! need_rings {
    () => {
        need_root!();
        need_product!();
        if !known() {
            return skip("this kernel has no FUSE over io_uring");
        }
    };
}

fn with_rings(wish: Wish) -> TestMount {
    let mount = mount_with("Y", wish);
    assert_eq!(transport(&mount), ("io_uring".to_owned(), None));
    mount
}

/// So many requests of this name have come to the daemon.
fn asked(mount: &TestMount, name: &str) -> u64 {
    mount.status_json()["requests"][name].as_u64().unwrap_or(0)
}

/// Rings are used where the switch is on, and status says why not where they are not.
#[test]
fn status_tells_the_transport() {
    need_rings!();
    let mount = with_rings(Wish::default());
    std::fs::write(mount.at("f"), "through a ring").expect("write");
    assert_eq!(
        std::fs::read(mount.at("f")).expect("read"),
        b"through a ring"
    );
    mount.finish();

    let mount = mount_with("N", Wish::default());
    let (by, why) = transport(&mount);
    assert_eq!(by, "device");
    assert!(
        why.as_ref().is_some_and(|w| w.contains("enable_uring")),
        "{why:?}"
    );
    mount.finish();

    let mount = mount_with("Y", Wish::default().arg("-o").arg("io=threads"));
    let expected = ("device".to_owned(), Some("io=threads".to_owned()));
    assert_eq!(transport(&mount), expected);
    mount.finish();
}

/// Writes that wait for the replica hold up no other request of their processor; and where more of
/// them wait than the processor has threads, all come to their end.
#[test]
fn waiting_writes_hold_up_nobody() {
    const WAITING: usize = 3;
    const MORE: usize = 9;
    need_rings!();
    need_programs!("fsfreeze", "mkfs.ext4");
    let image = Image::new("ext4", 64, &[]);
    let replica = image.path().join("replica");
    std::fs::create_dir(&replica).expect("mkdir");
    let mount = with_rings(
        Wish::default()
            .replica(&replica)
            .arg("-o")
            .arg("replica-timeout=10m"),
    );
    std::fs::write(mount.at("other"), "to be read").expect("write");
    let open = |name: String| {
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(false)
            .open(mount.at(name));
        file.expect("open")
    };
    let files: Vec<_> = (0..WAITING + MORE).map(|n| open(format!("f{n}"))).collect();
    stay_on_one_cpu();
    let before = asked(&mount, "write");
    let done = Arc::new(AtomicUsize::new(0));
    let frozen = Frozen::new(&image);
    let mut threads = Vec::new();
    let mut writer = |file: File| {
        let done = done.clone();
        threads.push(std::thread::spawn(move || {
            file.write_all_at(b"waits", 0).expect("write");
            done.fetch_add(1, Ordering::Relaxed);
            file.sync_all().expect("fsync");
        }));
    };
    let mut files = files.into_iter();
    files.by_ref().take(WAITING).for_each(&mut writer);
    wait_until("the writes wait in the daemon", || {
        asked(&mount, "write") == before + WAITING as u64
    });
    let mut text = String::new();
    let mut other = File::open(mount.at("other")).expect("open");
    other.read_to_string(&mut text).expect("read");
    assert_eq!(text, "to be read");
    drop(other);
    let gone = std::fs::metadata(mount.at("not-there"));
    assert_eq!(
        gone.err().map(|e| e.kind()),
        Some(std::io::ErrorKind::NotFound)
    );
    assert_eq!(
        done.load(Ordering::Relaxed),
        0,
        "they were to wait meanwhile"
    );
    // More than there are threads: the rest wait in the kernel.
    files.for_each(&mut writer);
    drop(frozen);
    wait_until("all of them end", || {
        threads.iter().all(|t| t.is_finished())
    });
    assert_eq!(done.load(Ordering::Relaxed), WAITING + MORE);
    for thread in threads {
        thread.join().expect("a writer");
    }
    mount.finish();
}

/// fsync, writes, writeback of a map, copies and renames that overlap, all from one processor: each
/// holds what another waits for, and none waits behind a request that has not begun.
#[test]
fn overlapping_requests_of_one_processor_end() {
    const ROUNDS: usize = 100;
    const SIZE: usize = 256 * 1024;
    need_rings!();
    let mount = with_rings(Wish::default());
    std::fs::write(mount.at("f"), vec![1; SIZE]).expect("write");
    stay_on_one_cpu();
    let open = || {
        let file = File::options().read(true).write(true).open(mount.at("f"));
        file.expect("open")
    };
    let mut work: Vec<Work> = Vec::new();
    for writer in 0..4 {
        let file = open();
        work.push(Box::new(move || {
            for round in 0..ROUNDS {
                file.write_all_at(&[round as u8; 5000], writer * 3000)
                    .expect("write");
                file.sync_data().expect("fsync");
            }
        }));
    }
    for _ in 0..2 {
        let (source, target) = (open(), open());
        work.push(Box::new(move || {
            for _ in 0..ROUNDS {
                let (mut from, mut to) = (0, SIZE as u64 / 2);
                let (from, to) = (Some(&mut from), Some(&mut to));
                let copied = rustix::fs::copy_file_range(&source, from, &target, to, 4096);
                assert_eq!(copied, Ok(4096));
            }
        }));
        let file = open();
        work.push(Box::new(move || {
            let map = Map::new(&file, 0, SIZE, true, true).expect("mmap");
            for round in 0..ROUNDS {
                map.put(0, &vec![round as u8; SIZE]);
                map.sync().expect("msync");
            }
        }));
    }
    for name in ["x", "y"] {
        let (one, two) = (mount.at(name), mount.at("common"));
        work.push(Box::new(move || {
            for _ in 0..ROUNDS {
                std::fs::write(&one, name).expect("write");
                std::fs::rename(&one, &two).expect("rename");
            }
        }));
    }
    together("requests of one processor come to their end", work);
    assert_eq!(mount.state(), "in-sync");
    mount.finish();
}

/// Names that go faster than their FORGETs are read, of more files than there are descriptors for:
/// the remover waits, and gets no ENFILE.
#[test]
fn removing_faster_than_forgetting() {
    const FILES: usize = 400;
    need_rings!();
    need_programs!("prlimit", "strace");
    let mount = with_rings(Wish::default().descriptors(256));
    let name = |n: usize| mount.at(format!("f{n}"));
    for n in 0..FILES {
        std::fs::write(name(n), "short-lived").expect("write");
    }
    // What is forgotten is closed, and that takes its time.
    let words = ["-e", "trace=close", "-e", "inject=close:delay_enter=5000"];
    let slow = Tampered::threads(&mount, "fuser-", &words);
    for n in 0..FILES {
        std::fs::remove_file(name(n)).unwrap_or_else(|error| panic!("file {n}: {error}"));
    }
    drop(slow);
    assert_eq!(mount.state(), "in-sync");
    mount.finish();
}

/// The end while requests wait: the daemon killed, then the connection cut, each time with a write
/// under way. Nobody hangs, and the next mount works.
#[test]
fn an_end_with_requests_under_way() {
    need_rings!();
    need_programs!("fsfreeze", "mkfs.ext4");
    let image = Image::new("ext4", 64, &[]);
    let replica = image.path().join("replica");
    std::fs::create_dir(&replica).expect("mkdir");
    let mut mount = mount_with("Y", Wish::default().replica(&replica));
    std::fs::write(mount.at("f"), "before").expect("write");
    let file = OpenOptions::new()
        .write(true)
        .open(mount.at("f"))
        .expect("open");
    let idle = OpenOptions::new()
        .write(true)
        .open(mount.at("f"))
        .expect("open");
    let frozen = Frozen::new(&image);
    let before = asked(&mount, "write");
    let waiting = std::thread::spawn(move || file.write_all_at(b"cut", 0));
    wait_until("the write waits in the daemon", || {
        asked(&mount, "write") == before + 1
    });
    // Busy, and cut off all the same.
    let forced = rustix::mount::unmount(&mount.mountpoint, UnmountFlags::FORCE);
    assert_eq!(forced, Err(Errno::BUSY));
    let cut = waiting
        .join()
        .expect("no panic")
        .expect_err("it was cut off");
    let errno = Errno::from_io_error(&cut);
    assert!(
        matches!(errno, Some(Errno::CONNABORTED | Errno::NOTCONN | Errno::IO)),
        "{cut}"
    );
    let after = idle
        .write_all_at(b"nobody there", 0)
        .expect_err("it is over");
    assert_eq!(Errno::from_io_error(&after), Some(Errno::NOTCONN));
    drop(frozen);
    drop(idle);
    // The connection is gone, and the daemon follows it.
    let pid = mount.pid();
    wait_until("the daemon ends", || !alive(pid));
    mount.ended();

    let held = Held::at("Y");
    mount.mount();
    drop(held);
    assert_eq!(transport(&mount).0, "io_uring");
    let file = OpenOptions::new()
        .write(true)
        .open(mount.at("f"))
        .expect("open");
    let pid = mount.pid();
    let writer = std::thread::spawn(move || while file.write_all_at(b"again", 0).is_ok() {});
    wait_until("writes are under way", || asked(&mount, "write") > 100);
    mount.kill();
    writer.join().expect("no panic");
    assert!(!alive(pid));
    mount.mount_and_heal(&[]);
    mount.finish();
}
