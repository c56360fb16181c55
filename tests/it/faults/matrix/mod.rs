// SPDX-License-Identifier: MIT
//! One test for each row of the failure matrix (docs/SEMANTICS.md), named after the row. Each has a
//! load on the mirror while the fault lasts, and ends with the judge and the complete comparison.

mod daemon;
mod journal;
mod primary;
mod replica;
mod swapped;
mod timeout;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::io::Errno;

use super::oracle::client::Load;
use super::oracle::judge::Tally;
use super::rig::Rig;
use crate::support::healing_is_there;
use crate::support::image::Image;
use crate::support::mount::Wish;
use crate::support::rng::seed;
use crate::support::run::run;

const THREADS: usize = 3;
/// `--replica-timeout`, as it is by default.
const REPLICA_TIMEOUT: Duration = Duration::from_secs(5);

/// A mirror whose replica is on a file system of its own.
struct Scene {
    rig: Rig,
    image: Image,
}

/// ext4 with blocks of 4 KiB, as everything here has: small ones are made with blocks of 1 KiB, and
/// then holes differ from those of another one.
fn ext4(mib: u64) -> Image {
    Image::new("ext4", mib, &["-b", "4096"])
}

/// Where on its file system the replica is.
fn copy_on(fs: &Path) -> PathBuf {
    let copy = fs.join("copy");
    std::fs::create_dir(&copy).expect("mkdir");
    copy
}

/// `bwlimit`, once there is healing that can be slowed down.
fn slowly(options: &[&'static str]) -> Vec<&'static str> {
    let limit = healing_is_there().then_some("bwlimit=16M");
    options.iter().copied().chain(limit).collect()
}

/// Replica on ext4, with these mount options.
fn scene(mib: u64, options: &[&str]) -> Scene {
    let image = ext4(mib);
    let wish = Wish::default().replica(&copy_on(&image.path()));
    let wish = options.iter().fold(wish, |w, o| w.arg("-o").arg(*o));
    let rig = Rig::new(wish, THREADS, seed("matrix"));
    Scene { rig, image }
}

/// The fault is over: the mirror heals by itself while the load goes on, which never got an error but
/// those `foretold`.
#[track_caller]
fn recovers(rig: &mut Rig, mut load: Load, foretold: &[Errno]) -> Tally {
    if healing_is_there() {
        rig.heals_by_itself();
        load.wait_for(500);
    }
    let tally = rig.judge(load, foretold);
    rig.heals_by_itself();
    tally
}

/// An image plugged in again, as another device: the file system that is shut down lives on as long
/// as somebody holds it open, and must not be what is mounted now. Unplugged when dropped.
#[derive(Debug)]
struct Replugged {
    device: String,
    at: PathBuf,
}

impl Replugged {
    fn new(image: &Image) -> Self {
        let file = image.file();
        let device = run(Command::new("losetup").args(["--find", "--show"]).arg(file)).ok();
        let replugged = Self {
            device: device.out.trim().to_owned(),
            at: image.path(),
        };
        run(Command::new("mount")
            .arg(&replugged.device)
            .arg(&replugged.at))
        .ok();
        replugged
    }
}

impl Drop for Replugged {
    fn drop(&mut self) {
        drop(run(Command::new("umount").arg("-l").arg(&self.at)));
        // Freed by the kernel when nobody uses it any more.
        drop(run(Command::new("losetup").arg("-d").arg(&self.device)));
    }
}
