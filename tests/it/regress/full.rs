// SPDX-License-Identifier: MIT
//! A full primary: what fails there half done is followed by the replica, and nothing more.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::support::image::Image;
use crate::support::mount::{TestMount, Wish};
use crate::support::sys::Map;
use crate::support::user::{self, ALICE};
use crate::support::{base, temp_in, wait_until};
use crate::{need_product, need_root};

/// A mirror whose primary is on a small file system of its own, and what it stands on.
struct Small {
    mount: TestMount,
    // Dropped after the mount.
    _replica: tempfile::TempDir,
    _image: Image,
}

fn small() -> Small {
    let image = Image::new("ext4", 24, &[]);
    rustix::fs::chmod(image.path(), 0o755.into()).expect("chmod");
    let replica = temp_in(&base());
    // The log has a disk of its own.
    let state = replica.path().with_extension("state");
    let wish = Wish::default().base(&image.path()).replica(replica.path());
    let wish = wish.arg("--state-dir").arg(&state);
    Small {
        mount: wish.mount(),
        _replica: replica,
        _image: image,
    }
}

fn open(path: &Path) -> File {
    let mut options = File::options();
    let options = options.read(true).write(true).create(true);
    options.truncate(false).open(path).expect("open")
}

/// Fills the file system up, root's reserve included.
fn fill(path: &Path) -> File {
    let file = open(path);
    let (mut at, mut size) = (0, 1 << 20);
    while size > 0 {
        match file.write_at(&vec![b'x'; size], at) {
            Ok(n) => at += n as u64,
            Err(e) => {
                assert_eq!(e.raw_os_error(), Some(libc::ENOSPC), "{e}");
                size /= 4;
            }
        }
    }
    file
}

/// The copies are equal, the mirror says so, and the next mount needs no --adopt.
fn stays_together(mut small: Small) {
    let mount = &mut small.mount;
    assert_eq!(mount.state(), "in-sync");
    mount.assert_equal();
    mount.umount();
    mount.mount();
    assert_eq!(mount.state(), "in-sync");
    small.mount.finish();
}

/// ext4 extends the file chunk by chunk and leaves it as long as it got when the disk is full:
/// ENOSPC, and a longer file with a new mtime. The replica was not asked, since the primary had
/// failed, and kept the old size and time.
#[test]
fn fallocate_into_a_full_disk() {
    need_root!();
    need_product!();
    let small = small();
    let mount = &small.mount;
    for (name, user) in [("f", None), ("g", Some(ALICE))] {
        let path = mount.at(name);
        std::fs::write(&path, "before").expect("write");
        std::os::unix::fs::chown(&path, Some(ALICE.uid), Some(ALICE.gid)).expect("chown");
        mount.assert_equal();
        let file = open(&path);
        let body = || fallocate(&file, FallocateFlags::empty(), 0, 64 << 20);
        let answer = match user {
            Some(user) => user::with(user, body),
            None => body(),
        };
        assert_eq!(answer, Err(Errno::NOSPC));
        assert_eq!(mount.state(), "in-sync");
        mount.assert_equal();
        let kept = FallocateFlags::KEEP_SIZE;
        assert_eq!(fallocate(&file, kept, 0, 64 << 20), Err(Errno::NOSPC));
        mount.assert_equal();
        file.set_len(6).expect("truncate");
    }
    stays_together(small);
}

/// What the mount shows of a file is what the primary has, also after a call that failed half done:
/// the kernel keeps the attributes it was told for ever, and is told nothing with an error.
#[test]
fn what_failed_half_way_is_shown() {
    need_root!();
    need_product!();
    let small = small();
    let mount = &small.mount;
    let full = open(&mount.at("f"));
    let answer = fallocate(&full, FallocateFlags::empty(), 0, 64 << 20);
    assert_eq!(answer, Err(Errno::NOSPC));
    fill(&mount.at("filler"));
    let tool = open(&mount.at("tool"));
    rustix::fs::chmod(mount.at("tool"), 0o6777.into()).expect("chmod");
    let answer = user::with(ALICE, || tool.write_at(&[1; 4096], 8 << 20));
    answer.expect_err("it is full");
    mount.assert_equal();
    let facts = |top: &Path, name: &str| {
        let stat = top.join(name).metadata().expect("stat");
        let mtime = (stat.mtime(), stat.mtime_nsec());
        (stat.size(), stat.mode(), stat.blocks(), mtime)
    };
    for name in ["f", "tool"] {
        let (seen, stored) = (facts(&mount.mountpoint, name), facts(&mount.primary, name));
        assert_eq!(seen, stored, "{name}: size, mode, blocks, mtime");
    }
    drop((full, tool));
    stays_together(small);
}

/// A plain user's write to a 6777 file on a full disk: the bits fall and the time moves although not
/// a byte was written. The replica kept both, as it was not asked.
#[test]
fn writes_to_a_full_disk() {
    need_root!();
    need_product!();
    let small = small();
    let mount = &small.mount;
    std::fs::write(mount.at("suid"), "tool").expect("write");
    std::fs::write(mount.at("grown"), "").expect("write");
    let full = fill(&mount.at("filler"));
    assert_eq!(mount.state(), "in-sync");
    for (name, at) in [("suid", 8 << 20), ("grown", 0)] {
        let path = mount.at(name);
        rustix::fs::chmod(&path, 0o6777.into()).expect("chmod");
        mount.assert_equal();
        let file = open(&path);
        let answer = user::with(ALICE, || file.write_at(&[1; 4096], at));
        let errno = answer.expect_err("it is full").raw_os_error();
        assert_eq!(errno, Some(libc::ENOSPC));
        assert_eq!(mount.state(), "in-sync");
        mount.assert_equal();
        let sizes = [&mount.primary, &mount.replica]
            .map(|copy| copy.join(name).metadata().expect("stat").size());
        assert_eq!(sizes[0], sizes[1]);
    }
    // Room for a part of a write: it is short, then it fails.
    full.set_len(full.metadata().expect("stat").len() - 40_000)
        .expect("truncate");
    let path = mount.at("suid");
    rustix::fs::chmod(&path, 0o6777.into()).expect("chmod");
    let file = open(&path);
    // As root: a plain user has no part in the reserve.
    let mut at = 0;
    while let Ok(n) = file.write_at(&[2; 100_000], at) {
        at += n as u64;
    }
    mount.assert_equal();
    drop((file, full));
    stays_together(small);
}

/// Stores into a hole, written out of the page cache in one request that the disk has room for a part
/// of only. The kernel looks at the error of such a write and never at its length: answered with its
/// length, msync said 0 and what had been stored was zeros.
#[test]
fn stores_that_a_full_disk_takes_a_part_of() {
    need_root!();
    need_product!();
    const LEN: usize = 1 << 20;
    let small = small();
    let mount = &small.mount;
    let stored = open(&mount.at("stored"));
    stored.set_len(LEN as u64).expect("truncate");
    stored.sync_all().expect("fsync");
    let full = fill(&mount.at("filler"));
    let len = full.metadata().expect("stat").len();
    full.set_len(len - 40_000).expect("truncate");
    full.sync_all().expect("fsync");
    let map = Map::new(&stored, 0, LEN, true, true).expect("mmap");
    // Not from an even offset: ext4 takes what is aligned all at once, or not at all.
    map.put(4096, &vec![7; LEN - 4096]);
    let said = map.sync();
    let seen = std::fs::read(mount.primary.join("stored")).expect("read");
    let kept = seen.iter().filter(|&&byte| byte == 7).count();
    assert!(
        0 < kept && kept < LEN,
        "{kept} of {LEN} bytes: not the case this is about"
    );
    assert_eq!(said, Err(Errno::NOSPC), "{kept} bytes");
    drop((map, full, stored));
    // The msync that failed waited for no lane.
    let other = || std::fs::read(mount.replica.join("stored")).expect("read");
    wait_until("both copies have the same", || seen == other());
    // Blocks of zeros may be left behind the failed part, on the primary only.
    std::fs::remove_file(mount.at("stored")).expect("unlink");
    stays_together(small);
}

/// Names on a full disk: what could not be made is on neither copy.
#[test]
fn names_on_a_full_disk() {
    need_root!();
    need_product!();
    let small = small();
    let mount = &small.mount;
    let full = fill(&mount.at("filler"));
    let mut made = 0;
    for n in 0..400 {
        let name = format!("{n}-{}", "n".repeat(200));
        let done = match n % 3 {
            0 => std::fs::create_dir(mount.at(&name)),
            1 => File::create(mount.at(&name)).map(drop),
            _ => std::os::unix::fs::symlink("t".repeat(1000), mount.at(&name)),
        };
        match done {
            Ok(()) => made += 1,
            Err(e) => assert_eq!(e.raw_os_error(), Some(libc::ENOSPC), "{e}"),
        }
    }
    assert!(made < 400, "the disk was not full");
    wait_until("equal names", || mount.state() == "in-sync");
    full.set_len(0).expect("truncate");
    drop(full);
    stays_together(small);
}

/// Two disks of one size are full at the same write: the primary says so, the replica was asked at
/// the same time and says so too, and misses nothing.
#[test]
fn both_are_full() {
    need_root!();
    need_product!();
    let images = [(); 2].map(|()| Image::new("ext4", 24, &[]));
    let replica = images[1].path().join("copy");
    std::fs::create_dir(&replica).expect("mkdir");
    let wish = Wish::default().base(&images[0].path()).replica(&replica);
    let mount = wish.mount();
    let file = open(&mount.at("f"));
    let mut at = 0;
    let full = loop {
        match file.write_at(&vec![b'x'; 1 << 20], at) {
            Ok(n) => at += n as u64,
            Err(e) => break e,
        }
    };
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    drop(file);
    assert_eq!(mount.state(), "in-sync");
    mount.finish();
}
