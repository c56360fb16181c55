// SPDX-License-Identifier: MIT
//! Names that led to something else by the time they were used.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags, mknodat, renameat_with};

use crate::support::mount::{TestMount, Wish};
use crate::support::tamper::Tampered;
use crate::support::{Work, together};
use crate::{need_product, need_programs, need_root};

/// Reads from the daemon, not from what the kernel has kept.
fn read_directly(file: &File) -> std::io::Result<usize> {
    let mut memory = vec![0_u8; 8192];
    let aligned = memory.as_ptr().align_offset(4096);
    file.read_at(&mut memory[aligned..aligned + 4096], 0)
}

fn open_directly(path: &Path) -> File {
    let mut options = File::options();
    let options = options.read(true).custom_flags(libc::O_DIRECT);
    options.open(path).expect("open")
}

/// Reads many other files, so that descriptors of the few are closed and have to be opened again.
fn crowd_out(dir: &Path, round: usize) {
    for n in 0..100 {
        let name = format!("crowd/{}", (round * 37 + n) % 300);
        assert!(read_directly(&open_directly(&dir.join(name))).expect("read") > 0);
    }
}

fn make_crowd(mount: &TestMount) {
    std::fs::create_dir(mount.at("crowd")).expect("mkdir");
    for n in 0..300 {
        std::fs::write(mount.at(format!("crowd/{n}")), n.to_string()).expect("write");
    }
}

/// A call that met the other object, or none.
#[track_caller]
fn harmless<T>(what: &str, done: std::io::Result<T>) -> Option<T> {
    // Never ESTALE and never EIO: the object is there, under one of two names.
    let usual = [
        libc::ENXIO,
        libc::EAGAIN,
        libc::EISDIR,
        libc::ESPIPE,
        libc::EINVAL,
        libc::ENODEV,
        libc::ENOTDIR,
        libc::EACCES,
        libc::EPERM,
    ];
    match done {
        Ok(value) => Some(value),
        Err(e) => {
            let raw = e.raw_os_error().unwrap_or_default();
            assert!(usual.contains(&raw), "{what}: {e}");
            None
        }
    }
}

/// The daemon opened a file by name before it looked what it was. Somebody exchanged it with a fifo:
///
/// ```text
///   A: read(f)    its descriptor was closed for room          open(f, O_RDONLY)   a fifo: for ever
///   B:                          exchange(f, fifo) on the primary
/// ```
///
/// A worker hung, holding its turn; a device would have been opened, and a socket or directory
/// degraded the mirror. The time between the two halves of an exchange is made longer here.
#[test]
fn files_exchanged_with_other_kinds() {
    const ROUNDS: usize = 60;
    need_root!();
    need_product!();
    need_programs!("prlimit", "strace");
    let mount = Wish::default().descriptors(128).mount();
    make_crowd(&mount);
    std::fs::create_dir(mount.at("dir")).expect("mkdir");
    let kinds = [
        ("fifo", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        (
            "device",
            FileType::CharacterDevice,
            rustix::fs::makedev(1, 3),
        ),
    ];
    for (name, kind, device) in kinds {
        mknodat(CWD, mount.at(name), kind, 0o666.into(), device).expect("mknod");
    }
    let slowly = Tampered::slow(&mount, "renameat2", false, 2000);
    for other in ["fifo", "socket", "device", "dir"] {
        std::fs::write(mount.at("f"), "content").expect("write");
        let stop = Arc::new(AtomicBool::new(false));
        let top = mount.mountpoint.clone();
        let (exchanger, over) = (top.clone(), stop.clone());
        let mut work: Vec<Work> = vec![Box::new(move || {
            for _ in 0..ROUNDS {
                let (f, other) = (exchanger.join("f"), exchanger.join(other));
                renameat_with(CWD, f, CWD, other, RenameFlags::EXCHANGE).expect("exchange");
            }
            over.store(true, Ordering::Release);
        })];
        for name in ["f", other] {
            let (path, over) = (top.join(name), stop.clone());
            let held = File::options()
                .read(true)
                .write(true)
                .open(top.join("f"))
                .expect("open");
            let only_read = open_directly(&top.join("f"));
            let (top, mut turn) = (top.clone(), 0);
            work.push(Box::new(move || {
                while !over.load(Ordering::Acquire) {
                    crowd_out(&top, turn);
                    turn += 1;
                    // The file itself, through a descriptor: always there.
                    assert_eq!(read_directly(&only_read).expect("read"), 7);
                    held.write_all_at(b"content", 0).expect("write");
                    // Whatever has the name now. (The application's own open does not wait either.)
                    std::fs::symlink_metadata(&path).expect("stat");
                    let mut options = File::options();
                    options.read(true).custom_flags(libc::O_NONBLOCK);
                    if let Some(file) = harmless("open", options.open(&path)) {
                        harmless(
                            "read",
                            rustix::io::read(&file, &mut [0; 64]).map_err(Into::into),
                        );
                    }
                    let written = options
                        .write(true)
                        .open(&path)
                        .and_then(|mut file| file.write(b"x"));
                    harmless("write", written);
                    // What is not synced is not closed.
                    held.sync_all().expect("fsync");
                }
            }));
        }
        together(&format!("nothing hangs on a {other}"), work);
        assert_eq!(mount.state(), "in-sync", "{other}");
        // An even number of exchanges: everything has its own name again.
        assert!(mount.at("f").symlink_metadata().expect("stat").is_file());
    }
    drop(slowly);
    mount.assert_equal();
    mount.finish();
}

/// The replica's side of a node had no descriptor and was looked for by name, late; by then the
/// directory above had been moved away on the replica, too, and another stood there:
///
/// ```text
///   A: create(A/sub/x)   primary: into the old A/sub            replica: opens A/sub, the new one
///   B:                                  rename(A, A1); mkdir(A/sub)
/// ```
///
/// x was in one directory on the primary and in the other on the replica, and nobody noticed.
#[test]
fn ancestors_renamed_while_the_replica_is_cold() {
    const ROUNDS: usize = 120;
    need_product!();
    need_programs!("prlimit");
    let mut mount = Wish::default().descriptors(128).mount();
    make_crowd(&mount);
    std::fs::create_dir_all(mount.at("A/sub")).expect("mkdir");
    for round in 0..2 {
        // A new daemon: nothing of the replica is open.
        mount.umount();
        mount.mount();
        let stop = Arc::new(AtomicBool::new(false));
        let (top, over) = (mount.mountpoint.clone(), stop.clone());
        let mut work: Vec<Work> = vec![Box::new(move || {
            for n in 0..ROUNDS {
                std::fs::rename(top.join("A"), top.join(format!("A-{round}-{n}"))).expect("rename");
                std::fs::create_dir_all(top.join("A/sub")).expect("mkdir");
                // Mutations use the replica's descriptors, too: these push the others out.
                for m in 0..20 {
                    let name = format!("crowd/{}", (n * 20 + m) % 300);
                    let mode = 0o600 + (n as u32 % 2) * 0o44;
                    rustix::fs::chmod(top.join(name), mode.into()).expect("chmod");
                }
            }
            over.store(true, Ordering::Release);
        })];
        for worker in 0..3 {
            let (top, over) = (mount.mountpoint.clone(), stop.clone());
            work.push(Box::new(move || {
                for n in 0.. {
                    if over.load(Ordering::Acquire) {
                        return;
                    }
                    let dir = top.join("A/sub");
                    let path = dir.join(format!("{worker}-{n}"));
                    let done = match n % 3 {
                        0 => std::fs::write(&path, format!("{worker} {n}")),
                        1 => std::fs::create_dir(&path),
                        _ => std::fs::rename(dir.join(format!("{worker}-{}", n - 2)), &path),
                    };
                    let errno = done.err().and_then(|e| e.raw_os_error());
                    assert!(matches!(errno, None | Some(libc::ENOENT)), "{errno:?}");
                }
            }));
        }
        together("creating and renaming come to their end", work);
        assert_eq!(mount.state(), "in-sync");
        mount.assert_equal();
    }
    mount.finish();
}

/// The same from the inside: the op has read the names that lead to the replica's directory, and
/// uses them after the rename. Nothing of the replica was ever seen, so nobody knew better than
/// that the new A is the old one. The daemon's opens are made to come late here.
#[test]
fn ancestors_renamed_between_the_look_and_the_open() {
    const DIRS: usize = 20;
    need_root!();
    need_product!();
    need_programs!("strace");
    let mut mount = TestMount::new();
    for n in 0..DIRS {
        std::fs::create_dir_all(mount.at(format!("A{n}/sub"))).expect("mkdir");
    }
    mount.umount();
    mount.mount();
    let slowly = Tampered::slow(&mount, "openat2", true, 4000);
    for n in 0..DIRS {
        let at = |name: &str| mount.at(format!("{name}{n}"));
        let (old, new, sub) = (at("A"), at("B"), at("A").join("sub"));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, &sub, flags, Mode::empty()).expect("open");
        let (ready, go) = std::sync::mpsc::channel();
        let make: Work = Box::new(move || {
            ready.send(()).expect("send");
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&dir, "x", flags, Mode::RUSR).expect("create");
        });
        let other: Work = Box::new(move || {
            go.recv().expect("recv");
            // Sooner or later while the other is at it: opens of the primary come first.
            std::thread::park_timeout(std::time::Duration::from_micros(1500 * (n as u64 % 8)));
            std::fs::rename(&old, &new).expect("rename");
            std::fs::create_dir(&old).expect("mkdir");
            std::fs::create_dir(&sub).expect("mkdir");
        });
        together("creating and renaming", vec![make, other]);
        assert_eq!(mount.state(), "in-sync");
    }
    drop(slowly);
    mount.assert_equal();
    mount.finish();
}

/// A directory whose twin on the replica was never seen is moved; another takes its name. The twin
/// was looked for under the first name and was the wrong one.
#[test]
fn moved_before_it_was_ever_seen_on_the_replica() {
    need_product!();
    let mut mount = TestMount::new();
    for n in 0..20 {
        for dir in ["old", "new"] {
            std::fs::create_dir_all(mount.at(format!("{n}/{dir}"))).expect("mkdir");
            std::fs::write(mount.at(format!("{n}/{dir}/f")), dir).expect("write");
            std::fs::write(mount.at(format!("{n}/{dir}-file")), dir).expect("write");
        }
    }
    mount.umount();
    mount.mount();
    for n in 0..20 {
        let at = |name: &str| mount.at(format!("{n}/{name}"));
        // Looked up on the primary, and open; the replica has not been asked.
        let file = File::options()
            .write(true)
            .open(at("old-file"))
            .expect("open");
        std::fs::metadata(at("old/f")).expect("stat");
        match n % 4 {
            0 => {
                std::fs::rename(at("old"), at("moved")).expect("rename");
                std::fs::rename(at("new"), at("old")).expect("rename");
                std::fs::rename(at("old-file"), at("moved-file")).expect("rename");
                std::fs::rename(at("new-file"), at("old-file")).expect("rename");
            }
            1 => {
                for (a, b) in [("old", "new"), ("old-file", "new-file")] {
                    renameat_with(CWD, at(a), CWD, at(b), RenameFlags::EXCHANGE).expect("exchange");
                }
            }
            2 => {
                std::fs::remove_file(at("old-file")).expect("unlink");
                std::fs::rename(at("new-file"), at("old-file")).expect("rename");
            }
            _ => std::fs::rename(at("new-file"), at("old-file")).expect("rename over"),
        }
        file.write_all_at(b"WRITTEN", 0).expect("write");
        std::fs::write(at("old/f"), "again").expect("write");
        std::fs::write(at("old-file"), "again, and longer").expect("write");
    }
    assert_eq!(mount.state(), "in-sync");
    mount.assert_equal();
    mount.finish();
}
