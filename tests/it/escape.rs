// SPDX-License-Identifier: MIT
//! No operation can be steered out of the two trees: while a load runs on the mount, somebody swaps
//! directories for symlinks behind it, in both trees, and nothing outside ever changes.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{CWD, RenameFlags};

use crate::support::compare::{Ignore, differences, report};
use crate::support::mount::{Wish, alive};
use crate::support::rng::{Rng, seed};
use crate::support::{setting, wait_until};
use crate::{need_product, need_programs, need_root};

/// Something precious outside, with the same names as inside.
fn canary(root: &Path) {
    for dir in ["", "d0", "d1", "d0/e", "d1/e"] {
        std::fs::create_dir_all(root.join(dir)).expect("mkdir");
        for n in 0..8 {
            std::fs::write(
                root.join(dir).join(format!("f{n}")),
                format!("precious {n}"),
            )
            .expect("write");
        }
    }
}

/// Random work on the mount; errors are expected, for the trees are being pulled about.
fn work(root: &Path, mut rng: Rng, stop: &AtomicBool, done: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        let dir = ["d0", "d1", "d0/e", "d1/e", "d0/e/new"][rng.below(5)];
        let path = root.join(dir).join(format!("f{}", rng.below(8)));
        let other = root
            .join(["d0", "d1", "d0/e"][rng.below(3)])
            .join(format!("f{}", rng.below(8)));
        let outcome = match rng.below(10) {
            0..=2 => std::fs::write(&path, "from the mount"),
            3 => std::fs::remove_file(&path),
            4 => std::fs::rename(&path, &other),
            5 => std::fs::hard_link(&path, &other),
            6 => std::fs::create_dir(root.join(dir).join("new")),
            7 => std::fs::remove_dir(root.join(dir).join("new")),
            8 => rustix::fs::chmod(&path, 0o600.into()).map_err(Into::into),
            _ => std::fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|f| f.set_len(3)),
        };
        drop(outcome);
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// The story of the file's head. The daemon may answer with errors and may degrade; it may not die
/// and may not touch anything outside.
#[test]
fn nothing_outside_changes() {
    need_root!();
    need_product!();
    need_programs!("cp");
    // A symlink that the daemon is made to show is followed by the programs on the mount, as
    // anywhere: that is not the daemon leaving its trees. `nosymfollow` keeps the programs in.
    let mut mount = Wish::default().arg("-o").arg("nosymfollow").prepare();
    let (outside, copy) = (mount.scratch.join("outside"), mount.scratch.join("copy"));
    canary(&outside);
    crate::support::run::run(
        std::process::Command::new("cp")
            .arg("-a")
            .arg(&outside)
            .arg(&copy),
    )
    .ok();
    canary(&mount.primary);
    for tree in [&mount.primary, &mount.replica] {
        // What is swapped in: a link to the directory outside of the same name.
        std::fs::create_dir(mount.dir().join(format!(
            "swap-{}",
            tree.file_name().expect("a name").display()
        )))
        .expect("mkdir");
    }
    mount.mount();
    let (stop, done, swaps) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let seed = seed("escape");
    let wanted = setting("MIRRORFS_SWAPS", 20_000);
    std::thread::scope(|scope| {
        for n in 0..2 {
            let (root, stop, done) = (&mount.mountpoint, &stop, &done);
            scope.spawn(move || work(root, Rng::new(seed ^ n), stop, done));
        }
        for tree in [&mount.primary, &mount.replica] {
            let aside = mount.dir().join(format!(
                "swap-{}",
                tree.file_name().expect("a name").display()
            ));
            let (stop, swaps, outside) = (&stop, &swaps, &outside);
            scope.spawn(move || {
                for (n, dir) in ["d0", "d1"].into_iter().enumerate() {
                    std::os::unix::fs::symlink(outside.join(dir), aside.join(n.to_string()))
                        .expect("symlink");
                }
                let mut rng = Rng::new(seed ^ 77);
                while !stop.load(Ordering::Relaxed) {
                    let n = rng.below(2);
                    let (inside, link) = (tree.join(["d0", "d1"][n]), aside.join(n.to_string()));
                    // There and back again: the directory is away for a moment only.
                    for _ in 0..2 {
                        let swap = rustix::fs::renameat_with(
                            CWD,
                            &inside,
                            CWD,
                            &link,
                            RenameFlags::EXCHANGE,
                        );
                        if swap.is_err() {
                            continue;
                        }
                        swaps.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        wait_until("swaps under load", || {
            swaps.load(Ordering::Relaxed) >= wanted && done.load(Ordering::Relaxed) >= 2000
        });
        stop.store(true, Ordering::Relaxed);
    });
    eprintln!(
        "{} operations, {} swaps",
        done.into_inner(),
        swaps.into_inner()
    );
    let found = differences(&copy, &outside, Ignore::default());
    assert!(
        found.is_empty(),
        "something outside changed: {}",
        report(&copy, &outside, &found)
    );
    assert!(alive(mount.pid()), "the daemon died");
    std::fs::read_dir(&mount.mountpoint)
        .expect("the mount still serves")
        .count();
    mount.umount();
    let found = differences(&copy, &outside, Ignore::default());
    assert!(
        found.is_empty(),
        "something outside changed: {}",
        report(&copy, &outside, &found)
    );
}
