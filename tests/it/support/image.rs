// SPDX-License-Identifier: MIT
//! File systems of our own in loop images, mounted as long as the value lives.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::run::{find, run};

/// A file system on which every change waits; thawed when the value is dropped, whatever happens.
#[derive(Debug)]
pub(crate) struct Frozen(PathBuf);

impl Frozen {
    pub(crate) fn new(image: &Image) -> Self {
        run(Command::new("fsfreeze").arg("-f").arg(image.path())).ok();
        Self(image.path())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let thawed = run(Command::new("fsfreeze").arg("-u").arg(&self.0));
        if !std::thread::panicking() {
            thawed.ok();
        }
    }
}

/// A mounted loop image in a temporary directory.
#[derive(Debug)]
pub(crate) struct Image {
    dir: tempfile::TempDir,
    mounted: bool,
}

impl Image {
    /// `mib` MiB of the file system `kind` (`ext4`, `xfs`), made with `options`.
    pub(crate) fn new(kind: &str, mib: u64, options: &[&str]) -> Self {
        let dir = super::temp_in(&super::base());
        let mkfs = find(&format!("mkfs.{kind}")).expect("mkfs");
        let file = std::fs::File::create(dir.path().join("image")).expect("an image");
        file.set_len(mib << 20).expect("its size");
        std::fs::create_dir(dir.path().join("fs")).expect("a mount point");
        run(Command::new(mkfs)
            .arg("-q")
            .args(options)
            .arg(dir.path().join("image")))
        .ok();
        let mut image = Self {
            dir,
            mounted: false,
        };
        image.mount();
        image
    }

    /// Where its files are.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("fs")
    }

    /// The image file itself.
    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    /// Mounts it again.
    pub(crate) fn mount(&mut self) {
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(self.file())
            .arg(self.path()))
        .ok();
        self.mounted = true;
    }

    /// Unmounts it, lazily if someone holds it.
    pub(crate) fn unmount(&mut self, lazily: bool) {
        if std::mem::take(&mut self.mounted) {
            let how: &[&str] = if lazily { &["-l"] } else { &[] };
            run(Command::new("umount").args(how).arg(self.path())).ok();
        }
    }

    /// From now on every call on it fails with EIO, until it is unmounted (FS_IOC_SHUTDOWN).
    pub(crate) fn shut_down(&self) {
        let xfs_io = find("xfs_io").expect("xfs_io");
        run(Command::new(xfs_io)
            .args(["-x", "-c", "shutdown"])
            .arg(self.path()))
        .ok();
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.mounted {
            drop(run(Command::new("umount").arg("-l").arg(self.path())));
        }
    }
}

/// A bind mount of `from` at `to`, undone when the value is dropped.
#[derive(Debug)]
pub(crate) struct Bind(PathBuf);

impl Bind {
    pub(crate) fn new(from: &Path, to: &Path) -> Self {
        run(Command::new("mount").arg("--bind").arg(from).arg(to)).ok();
        Self(to.to_path_buf())
    }

    /// Makes this bind mount read-only, or writable again, whoever has files open there.
    pub(crate) fn read_only(&self, on: bool) {
        let how = if on {
            "remount,bind,ro"
        } else {
            "remount,bind,rw"
        };
        run(Command::new("mount").args(["-o", how]).arg(&self.0)).ok();
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        drop(run(Command::new("umount").arg("-l").arg(&self.0)));
    }
}
