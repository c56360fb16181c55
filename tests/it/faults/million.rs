// SPDX-License-Identifier: MIT
//! Resync is bounded by what is dirty, not by the tree: many files, ten being written, SIGKILL, mount.
//! `MIRRORFS_MILLION` files: 20,000 here, a million in `scripts/soak`.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::rig::honest;
use crate::support::image::Image;
use crate::support::mount::{TestMount, Wish};
use crate::support::run::run;
use crate::support::{breathe, setting, wait_until};
use crate::{need_healing, need_product, need_programs, need_root};

const PER_DIR: u64 = 1000;
const WRITTEN: u64 = 10;

fn path_of(number: u64) -> String {
    format!("tree/{}/f{number}", number / PER_DIR)
}

/// A mirror of many files, made beside the mount and adopted.
fn many(files: u64, base: &Path) -> TestMount {
    let state = base.join("state");
    std::fs::create_dir(&state).expect("mkdir");
    let wish = Wish::default().base(base).arg("--state-dir").arg(state);
    let mut mount = wish.prepare();
    for number in 0..files {
        let path = mount.primary.join(path_of(number));
        if number % PER_DIR == 0 {
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
        }
        let mut file = File::create(path).expect("create");
        if number % 100 == 7 {
            writeln!(file, "file {number}").expect("write");
        }
    }
    std::fs::remove_dir(&mount.replica).expect("rmdir");
    run(Command::new("cp")
        .arg("-a")
        .arg(&mount.primary)
        .arg(&mount.replica))
    .ok();
    mount.try_mount(&["--adopt"]).ok();
    mount
}

/// The story of the file's head.
#[test]
fn resync_is_bounded_by_what_is_dirty() {
    need_root!();
    need_product!();
    need_programs!("cp");
    need_healing!();
    let files = setting("MIRRORFS_MILLION", 20_000);
    // As many inodes as both copies need.
    let inodes = (2 * files + files / 4).to_string();
    let image = Image::new("ext4", 8192, &["-b", "4096", "-N", &inodes]);
    rustix::fs::chmod(image.path(), 0o755.into()).expect("chmod");
    let mut mount = many(files, &image.path());
    mount.umount();
    mount.mount();
    assert_eq!(mount.state(), "in-sync");
    let victims: Vec<_> = (0..WRITTEN)
        .map(|n| path_of(n * files / WRITTEN + 7))
        .collect();
    let at = mount.mountpoint.clone();
    let rounds = parking_lot::Mutex::new(0_u64);
    std::thread::scope(|scope| {
        for path in &victims {
            let (path, rounds) = (at.join(path), &rounds);
            scope.spawn(move || {
                let mut file = File::options().append(true).open(path).expect("open");
                while file.write_all(&[b'x'; 3000]).is_ok() {
                    *rounds.lock() += 1;
                }
            });
        }
        wait_until("all are being written", || *rounds.lock() > 500);
        mount.kill();
    });
    let began = Instant::now();
    mount.mount();
    let mounted = began.elapsed();
    let json = loop {
        let json = mount.status_json();
        honest(&json);
        if json["state"] == "in-sync" {
            break json;
        }
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "not in-sync: {json}"
        );
        breathe();
    };
    let healed = began.elapsed() - mounted;
    let opened = json["replicas"][0]["resync_files_opened"].as_u64();
    println!(
        "million: {files} files, {WRITTEN} being written, SIGKILL: mounted in {mounted:?}, in-sync \
         {healed:?} later, {opened:?} files and directories opened"
    );
    // The files, their directories, and those above.
    let most = 2 * WRITTEN + 2;
    assert!(
        opened.is_some_and(|n| n <= most),
        "{opened:?} opened: {json}"
    );
    assert!(healed < Duration::from_secs(2), "healing took {healed:?}");
    mount.assert_equal();
    mount.finish();
}
