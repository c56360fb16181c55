// SPDX-License-Identifier: MIT
//! The write-intent log fails. The application notices nothing, and nothing is called in-sync that
//! was not compared: what becomes in-sync afterwards is equal.

use super::{Replugged, THREADS, ext4};
use crate::faults::rig::{Ballast, Rig, honest};
use crate::support::image::Image;
use crate::support::mount::Wish;
use crate::support::rng::{Rng, seed};
use crate::{need_healing, need_product, need_programs, need_root};

/// A mirror whose state directory has a file system of its own.
fn rig_on(image: &Image, options: &[&str]) -> Rig {
    let state = image.path().join("state");
    std::fs::create_dir(&state).expect("mkdir");
    let wish = options
        .iter()
        .fold(Wish::default(), |w, o| w.arg("-o").arg(*o));
    Rig::on(wish, &state, THREADS, seed("matrix"))
}

/// Its disk is full.
#[test]
fn journal_full() {
    need_root!();
    need_product!();
    need_healing!();
    let image = ext4(96);
    let mut rig = rig_on(&image, &[]);
    let ballast = Ballast::new(&image.path());
    let mut load = rig.load();
    load.wait_for(2000);
    honest(&rig.mount.status_json());
    rig.kill(load, false);
    drop(ballast);
    rig.remount_in_doubt();
    rig.is_made_sure();
    rig.finish();
}

/// Bytes of it are flipped, its end is cut off, it is gone: each while it was needed.
#[test]
fn journal_damaged() {
    need_root!();
    need_product!();
    need_healing!();
    let image = ext4(96);
    let mut rig = rig_on(&image, &["mode=async"]);
    let mut rng = Rng::new(seed("journal_damaged"));
    for round in 0..6 {
        let mut load = rig.load();
        load.wait_for(200 + rng.below(500));
        rig.kill(load, false);
        let mut spoiled = 0;
        let mut todo = vec![image.path().join("state")];
        while let Some(path) = todo.pop() {
            if path.is_dir() {
                let below = std::fs::read_dir(&path).expect("readdir");
                todo.extend(below.map(|e| e.expect("an entry").path()));
                continue;
            }
            let mut bytes = std::fs::read(&path).expect("read");
            match round % 3 {
                0 if !bytes.is_empty() => {
                    let at = rng.below(bytes.len().min(20_000));
                    bytes[at] ^= 1 << rng.below(8);
                    std::fs::write(&path, bytes).expect("write");
                }
                1 if !bytes.is_empty() => {
                    bytes.truncate(rng.below(bytes.len()));
                    std::fs::write(&path, bytes).expect("write");
                }
                2 => std::fs::remove_file(&path).expect("unlink"),
                _ => continue,
            }
            spoiled += 1;
        }
        assert!(spoiled > 0, "there was no journal");
        rig.remount_in_doubt();
        rig.is_made_sure();
    }
    rig.finish();
}

/// Its disk dies under the load, and is back for the next mount.
#[test]
fn journal_disk_fails() {
    need_root!();
    need_product!();
    need_programs!("xfs_io");
    need_healing!();
    let mut image = ext4(96);
    let mut rig = rig_on(&image, &["mode=async"]);
    rig.sync();
    let mut load = rig.load();
    load.wait_for(300);
    image.shut_down();
    load.wait_for(2000);
    honest(&rig.mount.status_json());
    rig.kill(load, false);
    image.unmount(true);
    let plugged = Replugged::new(&image);
    rig.remount_in_doubt();
    rig.is_made_sure();
    rig.finish();
    drop(plugged);
}
