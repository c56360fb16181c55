// SPDX-License-Identifier: MIT
//! A disk whose power can be cut: one image that holds the file systems of the primary, of the
//! replica and of the state directory side by side, on XFS, so that one reflink copy of it is one
//! instant of all three. (Copies taken one after the other would be three instants, and so a state
//! that no cut leaves behind, such as a log older than the data it covers.)
//!
//! A copy holds what had been written to the disk by then, in the order it was: unwritten pages and
//! uncommitted transactions are lost, as they are with power.

use std::path::PathBuf;
use std::process::Command;

use crate::support::image::Image;
use crate::support::mount::is_mounted;
use crate::support::run::{find, run};
use crate::support::wait_until;

/// How many file systems share the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Primary, replica and state directory each have one.
    Three,
    /// All are directories of one.
    One,
}

const NAMES: [&str; 3] = ["primary", "replica", "state"];

/// The disk, mounted.
#[derive(Debug)]
pub(crate) struct Disk {
    layout: Layout,
    mib: u64,
    /// The image that is mounted; at first `disk0`.
    file: PathBuf,
    copies: usize,
    places: tempfile::TempDir,
    // Unmounted last.
    store: Image,
}

impl Disk {
    /// Each file system has `mib` MiB.
    pub(crate) fn new(layout: Layout, mib: u64) -> Self {
        let store = Image::new("xfs", 4096, &["-m", "reflink=1"]);
        let file = store.path().join("disk0");
        let count = if layout == Layout::Three { 3 } else { 1 };
        let image = std::fs::File::create(&file).expect("an image");
        image.set_len(count * (mib << 20)).expect("its size");
        for number in 0..count {
            let settings = format!(
                "offset={},lazy_itable_init=0,lazy_journal_init=0",
                number * (mib << 20)
            );
            run(Command::new(find("mkfs.ext4").expect("mkfs.ext4"))
                .args(["-q", "-F", "-b", "4096", "-E", &settings])
                .arg(&file)
                .arg(format!("{}k", mib << 10)))
            .ok();
        }
        let places = crate::support::temp_in(&crate::support::base());
        for name in NAMES {
            std::fs::create_dir(places.path().join(name)).expect("mkdir");
        }
        let disk = Self {
            layout,
            mib,
            file,
            copies: 0,
            places,
            store,
        };
        disk.mount();
        for place in [disk.primary(), disk.replica(), disk.state()] {
            std::fs::create_dir_all(&place).expect("mkdir");
            rustix::fs::chmod(&place, 0o755.into()).expect("chmod");
        }
        disk
    }

    fn place(&self, name: &str) -> PathBuf {
        match self.layout {
            Layout::Three => self.places.path().join(name).join("dir"),
            Layout::One => self.places.path().join("primary").join(name),
        }
    }

    /// Where the primary, the mount point and the log go.
    pub(crate) fn primary(&self) -> PathBuf {
        self.place("primary")
    }

    /// The replica.
    pub(crate) fn replica(&self) -> PathBuf {
        self.place("replica")
    }

    /// The state directory.
    pub(crate) fn state(&self) -> PathBuf {
        self.place("state")
    }

    fn mount(&self) {
        let count = if self.layout == Layout::Three { 3 } else { 1 };
        for (number, name) in NAMES.into_iter().enumerate().take(count) {
            let bytes = self.mib << 20;
            let at = number as u64 * bytes;
            run(Command::new("mount")
                .args(["-o", &format!("loop,offset={at},sizelimit={bytes}")])
                .arg(&self.file)
                .arg(self.places.path().join(name)))
            .ok();
        }
    }

    fn unmount(&self, lazily: bool) {
        for name in NAMES {
            let place = self.places.path().join(name);
            if !is_mounted(&place) {
                continue;
            }
            let how: &[&str] = if lazily { &["-l"] } else { &[] };
            // The kernel closes the rings of a killed process a little after it has gone.
            wait_until(format_args!("umount {}", place.display()), || {
                let ran = run(Command::new("umount").args(how).arg(&place));
                let is_busy = ran.err.contains("busy");
                if !is_busy {
                    ran.ok();
                }
                !is_busy
            });
        }
    }

    /// Everything written so far is on the disk.
    pub(crate) fn sync(&self) {
        for place in [self.primary(), self.replica(), self.state()] {
            run(Command::new("sync").arg("-f").arg(place)).ok();
        }
    }

    /// What a power cut in this instant would leave.
    pub(crate) fn copy(&mut self) -> PathBuf {
        self.copies += 1;
        let copy = self.store.path().join(format!("disk{}", self.copies));
        run(Command::new("cp")
            .arg("--reflink=always")
            .arg(&self.file)
            .arg(&copy))
        .ok();
        copy
    }

    /// The power is back: a copy takes the disk's place, under the same paths. The mirror must not
    /// be mounted.
    pub(crate) fn restart_from(&mut self, copy: PathBuf) {
        self.unmount(false);
        let old = std::mem::replace(&mut self.file, copy);
        std::fs::remove_file(old).expect("unlink");
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount(true);
    }
}
