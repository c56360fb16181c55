// SPDX-License-Identifier: MIT
//! `mode=async`: acknowledged by the primary, on the replica in order and soon; what fsync, a full
//! window, a replica that hangs and a killed daemon mean.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use crate::support::image::{Frozen, Image};
use crate::support::mount::{TestMount, Wish};
use crate::support::rng::{Rng, seed};
use crate::support::wait_until;
use crate::{need_product, need_programs, need_root};

fn on_image(image: &Image, options: &str) -> TestMount {
    let replica = image.path().join("copy");
    std::fs::create_dir(&replica).expect("mkdir");
    let options = format!("mode=async,{options}");
    let wish = Wish::default().replica(&replica).arg("-o").arg(options);
    wish.mount()
}

fn replica(mount: &TestMount) -> Value {
    mount.status_json()["replicas"][0].clone()
}

fn lag(mount: &TestMount, what: &str) -> u64 {
    replica(mount)[what].as_u64().expect("a number")
}

/// The file that held "before", written to and still open.
fn overwritten(mount: &TestMount) -> File {
    let file = OpenOptions::new()
        .write(true)
        .open(mount.at("f"))
        .expect("open");
    file.write_all_at(b"after.", 0).expect("write");
    file
}

/// The lag is shown while the replica does not move, and gone once it does.
#[test]
fn what_waits_is_shown_and_fsync_waits_for_it() {
    need_root!();
    need_product!();
    need_programs!("fsfreeze");
    let image = Image::new("ext4", 64, &[]);
    let mount = on_image(&image, "replica-timeout=60s");
    let mut file = File::create(mount.at("f")).expect("create");
    file.sync_all().expect("fsync");
    let frozen = Frozen::new(&image);
    file.write_all(&[7; 100_000]).expect("write");
    std::fs::rename(mount.at("f"), mount.at("g")).expect("rename");
    wait_until("a lag", || {
        lag(&mount, "lag_ops") >= 2 && lag(&mount, "lag_ms") >= 1
    });
    assert!(lag(&mount, "lag_bytes") >= 100_000);
    let status = mount.status().out;
    assert!(
        status.contains("mode: async, fsync waits for both, up to 256 MiB behind"),
        "{status}"
    );
    assert_eq!(
        mount.primary.join("g").metadata().expect("stat").len(),
        100_000
    );
    let waiting = std::thread::spawn(move || file.sync_all());
    // It cannot return: its bytes cannot be on the replica.
    assert_eq!(
        std::fs::metadata(mount.replica.join("f"))
            .expect("the old name")
            .len(),
        0
    );
    assert!(!waiting.is_finished());
    drop(frozen);
    waiting.join().expect("join").expect("fsync");
    assert_eq!(
        mount.replica.join("g").metadata().expect("stat").len(),
        100_000
    );
    wait_until("no lag", || lag(&mount, "lag_ops") == 0);
    assert_eq!(mount.state(), "in-sync");
    mount.finish();
}

/// With `fsync=primary` nobody waits for the replica but umount.
#[test]
fn fsync_of_the_primary_only() {
    need_root!();
    need_product!();
    need_programs!("fsfreeze");
    let image = Image::new("ext4", 64, &[]);
    let mount = on_image(&image, "fsync=primary,replica-timeout=60s");
    std::fs::write(mount.at("f"), "before").expect("write");
    wait_until("no lag", || lag(&mount, "lag_ops") == 0);
    let frozen = Frozen::new(&image);
    let file = overwritten(&mount);
    file.sync_all().expect("fsync");
    assert!(lag(&mount, "lag_ops") >= 1);
    drop((frozen, file));
    mount.finish();
}

/// A window of 4 MiB: the writer stands still while the replica does, and goes on with it.
#[test]
fn a_full_window_blocks() {
    need_root!();
    need_product!();
    need_programs!("fsfreeze");
    let image = Image::new("ext4", 128, &[]);
    let mount = on_image(&image, "max-lag=4M,replica-timeout=60s");
    let file = File::create(mount.at("f")).expect("create");
    let frozen = Frozen::new(&image);
    let written = Arc::new(AtomicU64::new(0));
    let count = written.clone();
    let writer = std::thread::spawn(move || {
        for n in 0..16_u64 {
            file.write_all_at(&vec![n as u8; 1 << 20], n << 20)
                .expect("write");
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    wait_until("a full window", || lag(&mount, "lag_bytes") >= 3 << 20);
    assert!(lag(&mount, "lag_bytes") <= 4 << 20);
    assert!(written.load(Ordering::SeqCst) < 6);
    drop(frozen);
    writer.join().expect("the writer");
    assert_eq!(mount.state(), "in-sync");
    mount.finish();
}

/// The same window, and an application that is not to wait.
#[test]
fn a_full_window_leaves_the_replica_behind() {
    need_root!();
    need_product!();
    need_programs!("fsfreeze");
    let image = Image::new("ext4", 128, &[]);
    let mut mount = on_image(
        &image,
        "max-lag=4M,on-congestion=pull-ahead,replica-timeout=60s",
    );
    let file = File::create(mount.at("f")).expect("create");
    let frozen = Frozen::new(&image);
    for n in 0..16_u64 {
        file.write_all_at(&vec![n as u8; 1 << 20], n << 20)
            .expect("write");
    }
    drop(file);
    let json = mount.status_json();
    assert_eq!(json["state"], "behind", "{json}");
    assert_eq!(json["reason"]["id"], "MF-0005", "{json}");
    assert_eq!(replica(&mount)["lag_ops"], 0);
    assert_eq!(mount.status().code, Some(1));
    drop(frozen);
    mount.umount();
    mount.mount_and_heal(&[]);
    mount.finish();
}

/// A replica that hangs costs the application nothing, and is given up after `replica-timeout`.
#[test]
fn a_replica_that_hangs() {
    need_root!();
    need_product!();
    need_programs!("fsfreeze");
    let image = Image::new("ext4", 64, &[]);
    let mut mount = on_image(&image, "replica-timeout=300ms");
    std::fs::write(mount.at("f"), "before").expect("write");
    wait_until("no lag", || lag(&mount, "lag_ops") == 0);
    let frozen = Frozen::new(&image);
    let file = overwritten(&mount);
    file.sync_all().expect("fsync goes on without it");
    let json = mount.status_json();
    assert_eq!(json["state"], "degraded", "{json}");
    assert_eq!(json["reason"]["errno"], "ETIMEDOUT", "{json}");
    std::fs::write(mount.at("g"), "and on").expect("write");
    drop((frozen, file));
    mount.umount();
    mount.mount_and_heal(&[]);
    mount.finish();
}

/// Numbered lines in numbered files, each made by create, write and rename: where the copy ends
/// tells how far it came.
fn step(dir: &Path, n: u64) {
    let (new, old) = (dir.join("new"), dir.join(format!("{}", n % 7)));
    let mut file = File::create(&new).expect("create");
    write!(file, "{n}").expect("write");
    drop(file);
    std::fs::rename(&new, &old).expect("rename");
}

/// What is there after the first `done` of the three operations of each step.
fn after(done: u64) -> Vec<(String, String)> {
    let (steps, part) = (done / 3, done % 3);
    let mut all: Vec<_> = (steps.saturating_sub(7)..steps)
        .map(|n| (format!("{}", n % 7), n.to_string()))
        .collect();
    if part > 0 {
        let text = if part == 2 {
            steps.to_string()
        } else {
            String::new()
        };
        all.push(("new".to_owned(), text));
    }
    all.sort();
    all
}

fn seen(dir: &Path) -> Vec<(String, String)> {
    let list = dir.read_dir().expect("readdir");
    let mut all: Vec<_> = list
        .map(|entry| {
            let entry = entry.expect("an entry");
            let name = entry.file_name().into_string().expect("text");
            (name, std::fs::read_to_string(entry.path()).expect("read"))
        })
        .collect();
    all.sort();
    all
}

/// SIGKILL at random moments: the replica is a state the primary had, and never ahead of it.
#[test]
fn killed_the_replica_is_a_state_the_primary_had() {
    const KILLS: u64 = 12;
    need_root!();
    need_product!();
    let mut rng = Rng::new(seed("killed behind"));
    for _ in 0..KILLS {
        let mut mount = Wish::default().arg("-o").arg("mode=async").mount();
        std::fs::create_dir(mount.at("d")).expect("mkdir");
        let acknowledged = Arc::new(AtomicU64::new(0));
        let (dir, count) = (mount.at("d"), acknowledged.clone());
        let writer = std::thread::spawn(move || {
            // Until the mount is gone.
            let work = || {
                for n in 0.. {
                    step(&dir, n);
                    count.store(n + 1, Ordering::SeqCst);
                }
            };
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err()
        });
        let enough = 1 + rng.below(400) as u64;
        wait_until("some steps", || {
            acknowledged.load(Ordering::SeqCst) >= enough
        });
        mount.kill();
        assert!(writer.join().expect("join"), "the mount was gone");
        let steps = acknowledged.load(Ordering::SeqCst);
        let (first, second) = (
            seen(&mount.primary.join("d")),
            seen(&mount.replica.join("d")),
        );
        let place =
            |state: &[(String, String)]| (0..=3 * steps + 3).rev().find(|&n| after(n) == state);
        let ahead = place(&first).expect("the primary is in a state we know");
        let behind =
            place(&second).unwrap_or_else(|| panic!("no state of the primary: {second:?}"));
        assert!(
            ahead >= 3 * steps,
            "acknowledged {steps} steps, the primary has {first:?}"
        );
        assert!(behind <= ahead, "{behind} > {ahead}");
        mount.mount_and_heal(&[]);
        mount.finish();
    }
}
