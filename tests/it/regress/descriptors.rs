// SPDX-License-Identifier: MIT
//! Descriptors: more wanted than there are, and what they still lead to.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::degrade::heals_by_itself;
use crate::support::mount::{TestMount, Wish};
use crate::support::run::run;
use crate::support::tamper::Tampered;
use crate::support::{Work, together, wait_until};
use crate::{need_product, need_programs, need_root};

/// Makes a file and takes its name away while it is open. The daemon may be out of descriptors:
/// then nothing has happened.
fn nameless(dir: &Path, n: usize) -> Option<File> {
    let full = |e: std::io::Error| {
        let raw = e.raw_os_error();
        assert!(matches!(raw, Some(libc::ENFILE | libc::EMFILE)), "{e}");
    };
    let path = dir.join(n.to_string());
    let mut options = File::options();
    let options = options.read(true).write(true).create_new(true);
    let file = options.open(&path).map_err(full).ok()?;
    file.write_all_at(format!("content {n}").as_bytes(), 0)
        .map_err(full)
        .ok()?;
    std::fs::remove_file(&path).map_err(full).ok()?;
    Some(file)
}

/// How many descriptors the daemon has open.
fn descriptors(mount: &TestMount) -> usize {
    let open = std::fs::read_dir(format!("/proc/{}/fd", mount.pid()));
    open.expect("the daemon").count()
}

/// Every file without a name keeps a descriptor on each copy. The primary had one left and the
/// replica had none: the unlink was done on the primary, failed with EMFILE on the replica, and a
/// healthy replica was given up. Room is made, or refused, before the primary acts.
#[test]
fn more_files_without_a_name_than_descriptors() {
    need_product!();
    need_programs!("prlimit");
    for limit in [128, 255, 256, 257] {
        let mount = Wish::default().descriptors(limit).mount();
        let files: Vec<_> = (0..300)
            .map(|n| (n, nameless(&mount.mountpoint, n)))
            .collect();
        let mut kept = 0;
        for (n, file) in files {
            let Some(file) = file else { continue };
            let expected = format!("content {n}");
            let mut back = vec![0; expected.len()];
            file.read_exact_at(&mut back, 0).expect("read");
            assert_eq!(back, expected.as_bytes());
            file.write_all_at(b"more", 100).expect("write");
            kept += 1;
        }
        assert!(kept > limit as usize / 4, "{kept} of {limit}");
        let reason = mount.status_json()["reason"].to_string();
        assert_eq!(reason, "null", "with {limit} descriptors");
        assert_eq!(mount.state(), "in-sync");
        mount.assert_equal();
        // All are closed: everything can be done again.
        wait_until("room for new ones", || descriptors(&mount) < 100);
        drop(nameless(&mount.mountpoint, 1000).expect("there is room"));
        mount.finish();
    }
}

/// A file without a name is closed: its place is given back on the primary, its descriptor on the
/// replica is closed, and only then is its place given back there. Somebody who took the place on the
/// primary in between was refused on the replica:
///
/// ```text
///   A: close(f)                     a place on the primary                       one on the replica
///   B: unlink(g)    refused                                 primary: done   replica: ENFILE
/// ```
///
/// A healthy replica was given up. Closing takes its time here, as it does for a large file.
#[test]
fn a_place_given_back_on_one_copy_after_the_other() {
    need_root!();
    need_product!();
    need_programs!("prlimit", "strace");
    let mount = Wish::default().descriptors(128).mount();
    let mut files = Vec::new();
    while let Some(file) = nameless(&mount.mountpoint, files.len()) {
        files.push(file);
    }
    let refused = mount.at(files.len().to_string());
    let slowly = Tampered::slow(&mount, "close", true, 30_000);
    for file in files.drain(..3) {
        drop(file);
        wait_until("a place", || match std::fs::remove_file(&refused) {
            Ok(()) => true,
            Err(e) => {
                assert_eq!(e.raw_os_error(), Some(libc::ENFILE), "{e}");
                false
            }
        });
        assert_eq!(mount.status_json()["reason"].to_string(), "null");
        std::fs::write(&refused, "again").expect("write");
    }
    drop(slowly);
    drop(files);
    assert_eq!(mount.state(), "in-sync");
    mount.finish();
}

/// More dirty files than descriptors: none was closed, since each might still have to tell of a
/// failed writeback, and the daemon ran into its limit.
#[test]
fn more_unsynced_files_than_descriptors() {
    need_product!();
    need_programs!("prlimit");
    for limit in [128, 257] {
        let mount = Wish::default().descriptors(limit).mount();
        let work = (0..2).map(|worker| -> Work {
            let dir = mount.at(format!("d{worker}"));
            std::fs::create_dir(&dir).expect("mkdir");
            Box::new(move || {
                for n in 0..500 {
                    std::fs::write(dir.join(n.to_string()), format!("{n}")).expect("write");
                }
            })
        });
        together("unsynced files", work.collect());
        assert!(descriptors(&mount) <= limit as usize);
        assert_eq!(mount.state(), "in-sync");
        mount.finish();
    }
}

/// Removes everything below the replica's root.
fn empty(replica: &Path) {
    for entry in std::fs::read_dir(replica).expect("readdir") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            std::fs::remove_dir_all(path).expect("rm -rf");
        } else {
            std::fs::remove_file(path).expect("unlink");
        }
    }
}

/// Somebody ran `rm -rf` on the replica's content. The daemon had its files open and went on
/// writing to them, names or no names: every write succeeded, and the mirror was in-sync with an
/// empty replica.
#[test]
fn emptied_while_everything_is_open() {
    need_product!();
    type Change = fn(&TestMount, &File);
    let changes: [(&str, Change); 7] = [
        ("write", |_, file| {
            file.write_all_at(b"AFTER", 0).expect("write");
        }),
        ("truncate", |_, file| file.set_len(3).expect("truncate")),
        ("fsync", |_, file| {
            file.write_all_at(b"AFTER", 0).expect("write");
            file.sync_all().expect("fsync");
        }),
        ("create", |mount, _| {
            std::fs::write(mount.at("d/new"), "new").expect("write");
        }),
        ("mkdir", |mount, _| {
            std::fs::create_dir(mount.at("d/new")).expect("mkdir");
        }),
        ("rename", |mount, _| {
            std::fs::rename(mount.at("d/3"), mount.at("d/three")).expect("rename");
        }),
        ("unlink", |mount, _| {
            std::fs::remove_file(mount.at("d/3")).expect("unlink");
        }),
    ];
    for (name, change) in changes {
        let mut mount = TestMount::new();
        std::fs::create_dir(mount.at("d")).expect("mkdir");
        let files: Vec<_> = (0..10)
            .map(|n| {
                let file = File::create(mount.at(format!("d/{n}"))).expect("create");
                file.write_all_at(b"before", 0).expect("write");
                file
            })
            .collect();
        mount.assert_equal();
        empty(&mount.replica);
        change(&mount, &files[3]);
        wait_until(format_args!("DEGRADED after {name}"), || {
            mount.state() == "degraded"
        });
        // The application has noticed nothing.
        files[5].write_all_at(b"AFTER", 0).expect("write");
        drop(files);
        mount.umount();
        heals_by_itself(mount);
    }
}

/// The daemon had taken every descriptor it may have, and its unmount wanted one more to look what
/// is mounted: it was refused with EMFILE, and only closing files elsewhere in the tree would help.
#[test]
fn unmounted_without_descriptors() {
    need_root!();
    need_product!();
    need_programs!("prlimit");
    let mount = TestMount::new();
    std::fs::write(mount.at("f"), "content").expect("write");
    let pid = mount.pid();
    let is_free = |fd: &u32| !Path::new(&format!("/proc/{pid}/fd/{fd}")).exists();
    // The one for who asks, and no more.
    let one = (0..).find(is_free).expect("a free number") + 1;
    let limit = format!("--nofile={one}:");
    let pid = format!("--pid={pid}");
    run(Command::new("prlimit").args([&pid, &limit])).ok();
    mount.finish();
}

/// Files that are made, written and removed where the replica is not healed yet: each of them was kept
/// open on the primary until healing came past, and after some hundreds the application was told
/// `ENFILE`.
#[test]
fn more_files_removed_while_it_heals_than_descriptors() {
    need_root!();
    need_product!();
    need_programs!("prlimit");
    let mut mount = Wish::default().descriptors(300).prepare();
    // It comes first and takes its time; what is in the directory comes after it.
    std::fs::create_dir(mount.primary.join("dir")).expect("mkdir");
    std::fs::write(mount.primary.join("large"), vec![7; 5 << 20]).expect("write");
    mount.try_mount(&["--init", "-o", "bwlimit=1M"]).ok();
    for n in 0..1500 {
        let path = mount.at(format!("dir/{n}"));
        std::fs::write(&path, "content").unwrap_or_else(|e| panic!("{n}: {e}"));
        std::fs::remove_file(&path).unwrap_or_else(|e| panic!("{n}: {e}"));
    }
    assert_eq!(mount.state(), "seeding", "it was too quick for this test");
    mount.product("sync", &[]).ok();
    mount.finish();
}
