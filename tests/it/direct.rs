// SPDX-License-Identifier: MIT
//! `mode=async` and large files: past the page cache where that can be, many writes for one system
//! call, blocks set aside and given back; and whatever happens to such a file meanwhile.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::image::Image;
use crate::support::mount::{TestMount, Wish};
use crate::support::rng::{Rng, seed};
use crate::support::run::run;
use crate::support::{skip, wait_until};
use crate::{need_product, need_programs, need_root};

const MIB: u64 = 1 << 20;

/// A mirror in `mode=async` whose replica is below `dir`.
fn behind(dir: &Path, options: &str) -> TestMount {
    let replica = dir.join("copy");
    std::fs::create_dir(&replica).expect("mkdir");
    let options = format!("mode=async,replica-timeout=60s{options}");
    let wish = Wish::default().replica(&replica);
    wish.arg("-o").arg(options).mount()
}

fn counter(json: &Value, name: &str) -> u64 {
    json["io"]["counters"][name].as_u64().unwrap_or(0)
}

fn has_ring(json: &Value) -> bool {
    json["io"]["backend"] == "io_uring"
}

/// Writes in blocks of 1 MiB, each unlike the others, from memory that begins on a page: from
/// other memory the kernel makes requests that are no multiple of a page.
fn fill(file: &File, from: u64, length: u64) {
    let mut memory = vec![0; MIB as usize + 4096];
    let start = memory.as_ptr().align_offset(4096);
    let mut at = from;
    while at < from + length {
        let part = MIB.min(from + length - at);
        let byte = (at / MIB + 1) as u8;
        let block = &mut memory[start..start + part as usize];
        block.fill(byte);
        file.write_all_at(block, at).expect("write");
        at += part;
    }
}

/// No file of the replica has more blocks than its twin, by more than one unit of allocation.
fn assert_no_more_blocks(mount: &TestMount, what: &str) {
    run(&mut Command::new("sync")).ok();
    for entry in mount.primary.read_dir().expect("readdir") {
        let name = entry.expect("an entry").file_name();
        let [first, second] = [&mount.primary, &mount.replica]
            .map(|dir| dir.join(&name).metadata().expect("metadata"));
        let (has, may) = (second.blocks() * 512, first.blocks() * 512 + 4096);
        assert!(has <= may, "{what}: {name:?} has {has} bytes, not {may}");
    }
}

/// Everything that large files go through.
fn make_files(mount: &TestMount) {
    let create = |name: &str| File::create(mount.at(name)).expect("create");
    // Sizes around what is written at once and what is set aside.
    for (n, size) in [
        (0, MIB),
        (1, 3 * MIB + 5),
        (2, 8 * MIB),
        (3, 9 * MIB + 4096),
        (4, 40 * MIB),
        (5, 30 * MIB + 100),
    ] {
        fill(&create(&format!("size-{n}")), 0, size);
    }
    // Longer, by a hole: what was set aside is not part of it.
    let file = create("longer");
    fill(&file, 0, 12 * MIB);
    file.set_len(20 * MIB).expect("truncate");
    let file = create("hole");
    fill(&file, 0, 12 * MIB);
    fill(&file, 60 * MIB, 2 * MIB);
    let file = create("shorter");
    fill(&file, 0, 12 * MIB);
    file.set_len(5 * MIB + 1).expect("truncate");
    fill(&file, 6 * MIB, 6 * MIB);
    // Large and small, in turns, and over what is there.
    let file = create("mixed");
    fill(&file, 0, 10 * MIB);
    for n in 0..10 {
        file.write_all_at(&[n; 100], 10 * MIB + u64::from(n) * 100)
            .expect("write");
        fill(&file, u64::from(n) * MIB, MIB);
        file.write_all_at(&[n; 3], u64::from(n) * MIB + 7)
            .expect("write");
    }
    fill(&file, 10 * MIB, 5 * MIB);
    file.sync_all().expect("fsync");
    let (dug, how) = (create("dug"), rustix::fs::FallocateFlags::PUNCH_HOLE);
    let how = how | rustix::fs::FallocateFlags::KEEP_SIZE;
    fill(&dug, 0, 12 * MIB);
    rustix::fs::fallocate(&dug, how, 2 * MIB, 3 * MIB).expect("punch");
    // Another name, and none.
    let file = create("old");
    fill(&file, 0, 10 * MIB);
    std::fs::rename(mount.at("old"), mount.at("new")).expect("rename");
    fill(&file, 10 * MIB, 10 * MIB);
    let file = create("gone");
    fill(&file, 0, 10 * MIB);
    std::fs::remove_file(mount.at("gone")).expect("unlink");
    fill(&file, 10 * MIB, 2 * MIB);
}

/// Large files on one file system.
fn story(dir: &Path, what: &str, past_cache: bool, options: &str) {
    let mut mount = behind(dir, options);
    make_files(&mount);
    let json = mount.status_json();
    assert_eq!(json["state"], "in-sync", "{json}");
    let chained = counter(&json, "op_write_fixed") + counter(&json, "op_write");
    assert_eq!(chained > 0, past_cache, "{what}: {json}");
    assert_eq!(counter(&json, "cache_only"), u64::from(!past_cache));
    if has_ring(&json) {
        let carrier = if past_cache { "ring" } else { "inline" };
        assert_eq!(json["replicas"][0]["carrier"], carrier, "{json}");
    }
    mount.umount();
    // XFS sets blocks aside for plain writes too, and keeps those that come to lie within a file.
    if what != "xfs" {
        assert_no_more_blocks(&mount, what);
    }
    mount.assert_equal();
}

#[test]
fn on_ext4() {
    need_root!();
    need_product!();
    let image = Image::new("ext4", 512, &[]);
    story(&image.path(), "ext4", true, "");
}

#[test]
fn on_ext4_without_a_ring() {
    need_root!();
    need_product!();
    let image = Image::new("ext4", 512, &[]);
    story(&image.path(), "ext4", true, ",io=threads");
}

#[test]
fn on_xfs() {
    need_root!();
    need_product!();
    need_programs!("mkfs.xfs");
    let image = Image::new("xfs", 512, &[]);
    story(&image.path(), "xfs", false, "");
}

#[test]
fn on_btrfs() {
    need_root!();
    need_product!();
    need_programs!("mkfs.btrfs");
    let image = Image::new("btrfs", 1024, &[]);
    story(&image.path(), "btrfs", false, "");
}

#[test]
fn on_tmpfs() {
    need_root!();
    need_product!();
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let found = rustix::fs::statfs(dir.path()).expect("statfs").f_type;
    if found != 0x0102_1994 {
        return skip("/dev/shm is no tmpfs");
    }
    story(dir.path(), "tmpfs", false, "");
}

/// While the replica stands still, writes collect; then they are carried many at a time.
#[test]
fn many_for_one_call() {
    need_root!();
    need_product!();
    need_programs!("fsfreeze");
    let image = Image::new("ext4", 256, &[]);
    let mount = behind(&image.path(), "");
    let freeze = |how| run(Command::new("fsfreeze").arg(how).arg(image.path())).ok();
    let file = File::create(mount.at("f")).expect("create");
    file.sync_all().expect("fsync");
    let before = mount.status_json();
    freeze("-f");
    fill(&file, 0, 96 * MIB);
    freeze("-u");
    let lag = || mount.status_json()["replicas"][0]["lag_ops"].clone();
    wait_until("no lag", || lag() == 0);
    let after = mount.status_json();
    let more = |name| counter(&after, name) - counter(&before, name);
    let written = more("op_write_fixed") + more("op_write");
    assert_eq!(written, 96, "{after}");
    if has_ring(&after) {
        assert!(written >= 8 * more("entered"), "{after}");
    } else {
        skip("there is no ring");
    }
    drop(file);
    mount.finish();
}

/// More large files than descriptors.
#[test]
fn with_few_descriptors() {
    need_root!();
    need_product!();
    let image = Image::new("ext4", 512, &[]);
    let replica = image.path().join("copy");
    std::fs::create_dir(&replica).expect("mkdir");
    let wish = Wish::default().replica(&replica).descriptors(80);
    let mount = wish.arg("-o").arg("mode=async").mount();
    let files: Vec<_> = (0..60)
        .map(|n| File::create(mount.at(n.to_string())).expect("create"))
        .collect();
    for at in 0..5 {
        files.iter().for_each(|file| fill(file, at * MIB, MIB));
    }
    assert_eq!(mount.state(), "in-sync");
    drop(files);
    mount.finish();
}

/// A replica that is full, and one that is broken, in the middle of a large file: the mount goes
/// on without it, and what is there is a part of the primary's.
#[test]
fn full_and_broken() {
    need_root!();
    need_product!();
    need_programs!("xfs_io");
    for (errno, broken) in [("ENOSPC", false), ("EIO", true)] {
        let image = Image::new("ext4", 64, &[]);
        let mut mount = behind(&image.path(), "");
        let file = File::create(mount.at("f")).expect("create");
        fill(&file, 0, 20 * MIB);
        file.sync_all().expect("fsync");
        if broken {
            image.shut_down();
        }
        fill(&file, 20 * MIB, 80 * MIB);
        wait_until("degraded", || mount.state() == "degraded");
        let json = mount.status_json();
        assert_eq!(json["reason"]["errno"], errno, "{json}");
        drop(file);
        if !broken {
            let [first, second] = [&mount.primary, &mount.replica]
                .map(|dir| std::fs::read(dir.join("f")).expect("read"));
            assert!(second.len() as u64 > 20 * MIB, "{} bytes", second.len());
            assert!(first.starts_with(&second));
        }
        mount.umount();
    }
}

/// A disk that takes all of it, but nothing more: what is set aside for one file is not missing
/// for others.
#[test]
fn just_enough_room() {
    need_root!();
    need_product!();
    let image = Image::new("ext4", 128, &["-m", "0"]);
    let mount = behind(&image.path(), "");
    let growing: Vec<_> = (0..4)
        .map(|n| File::create(mount.at(format!("g{n}"))).expect("create"))
        .collect();
    for at in 0..10 {
        growing.iter().for_each(|file| fill(file, at * MIB, MIB));
    }
    let free = || {
        let fs = rustix::fs::statvfs(image.path()).expect("statvfs");
        fs.f_bavail * fs.f_bsize
    };
    growing[0].sync_all().expect("fsync");
    let small = OpenOptions::new()
        .create_new(true)
        .write(true)
        .open(mount.at("small"))
        .expect("create");
    let mut rng = Rng::new(seed("just enough room"));
    let mut at = 0;
    // Blocks of its own are needed to find the blocks of a file.
    let spare = 2 * MIB;
    let left = free() - 4 * 10 * MIB - spare;
    for n in 10..20 {
        growing.iter().for_each(|file| fill(file, n * MIB, MIB));
        let until = left / 10 * (n - 9);
        while at < until {
            let part = (1 + rng.below(200_000) as u64).min(until - at);
            small
                .write_all_at(&vec![n as u8; part as usize], at)
                .expect("write");
            at += part;
        }
    }
    small.sync_all().expect("fsync");
    assert_eq!(mount.state(), "in-sync");
    drop((growing, small));
    mount.finish();
}
