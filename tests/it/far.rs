// SPDX-License-Identifier: MIT
//! A replica on a file system that follows symlinks, as sshfs does: what a symlink points to is nobody's
//! copy, wherever it is, and nothing is ever set on it.

use std::os::unix::fs::{MetadataExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, CWD, RenameFlags, Timespec, Timestamps, renameat_with};

use crate::support::far::Far;
use crate::support::mount::{TestMount, Wish};
use crate::support::run::mirrorfs;
use crate::support::wait_until;
use crate::{need_product, need_root};

/// What whoever does without says.
const WARN: [&str; 1] = ["--metadata-loss=warn"];

/// Sets the time of a symlink itself.
fn set_time(link: &Path, seconds: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, link, &times, AtFlags::SYMLINK_NOFOLLOW).expect("utimensat");
}

/// A file that a symlink on the replica points to, and what must stay as it is of it.
struct Outside {
    file: PathBuf,
    was: (i64, i64, u32, u32, u32),
}

impl Outside {
    fn new(far: &Far) -> Self {
        let file = far.outside().join("somebody-elses");
        std::fs::write(&file, "not a copy").expect("write");
        std::os::unix::fs::chown(&file, Some(7), Some(8)).expect("chown");
        set_time(&file, 1_234_567_890);
        let was = Self::look(&file);
        Self { file, was }
    }

    fn look(file: &Path) -> (i64, i64, u32, u32, u32) {
        let stat = std::fs::metadata(file).expect("stat");
        let time = (stat.mtime(), stat.mtime_nsec());
        (time.0, time.1, stat.uid(), stat.gid(), stat.mode())
    }

    #[track_caller]
    fn is_as_it_was(&self) {
        assert_eq!(Self::look(&self.file), self.was);
    }

    /// Two symlinks of somebody else's, of another time: to the file, and to nothing.
    fn make_links(&self, dir: &Path, name: &str) {
        let nowhere = self.file.with_file_name("nothing");
        for (end, target) in [("", &self.file), ("-nowhere", &nowhere)] {
            let link = dir.join(format!("{name}{end}"));
            symlink(target, &link).expect("symlink");
            lchown(&link, Some(5), Some(6)).expect("lchown");
            set_time(&link, 1_000_000_000);
        }
    }
}

/// A primary with symlinks to a file outside of both copies, and a replica that follows them.
fn scene(far: &Far, options: &str) -> (TestMount, Outside) {
    let replica = far.path().join("replica");
    std::fs::create_dir(&replica).expect("mkdir");
    let outside = Outside::new(far);
    let mount = Wish::default().replica(&replica).arg("-o").arg(options);
    let mount = mount.prepare();
    std::fs::write(mount.primary.join("file"), "a copy").expect("write");
    outside.make_links(&mount.primary, "before");
    (mount, outside)
}

/// The same, mounted by whoever does without, and filled.
fn filled(far: &Far, options: &str) -> (TestMount, Outside) {
    let (mut mount, outside) = scene(far, options);
    mount.try_mount(&WARN).ok();
    wait_until("filled", || mount.state() == "in-sync");
    (mount, outside)
}

/// It does follow: otherwise the stories below are about nothing.
#[test]
fn it_follows() {
    need_root!();
    let far = Far::new();
    let outside = Outside::new(&far);
    let link = far.path().join("link");
    symlink(&outside.file, &link).expect("symlink");
    set_time(&link, 1);
    assert_eq!(std::fs::metadata(&outside.file).expect("stat").mtime(), 1);
    assert_ne!(std::fs::symlink_metadata(&link).expect("stat").mtime(), 1);
}

/// Such a replica is refused unless somebody says to do without, and nothing of the question is left.
#[test]
fn a_replica_that_follows_symlinks_is_refused() {
    need_root!();
    need_product!();
    let far = Far::new();
    let (mut mount, outside) = scene(&far, "mode=sync");
    let dirs = [&mount.primary, &mount.replica];
    let offline = |words: &[&str]| {
        let dirs = dirs.map(|dir| dir.to_str().expect("text"));
        mirrorfs([&["sync"], words, &dirs].concat())
    };
    let ran = offline(&[]).code(1).says("[MF-0024]");
    assert!(ran.err.contains("symlinks"), "{ran}");
    assert_eq!(std::fs::read_dir(&mount.replica).expect("list").count(), 0);
    offline(&["--metadata-loss=warn"]).ok();
    outside.is_as_it_was();
    mount.try_mount(&[]).code(32).says("[MF-0024]");
    mount.try_mount(&["--metadata-loss=warn"]).ok();
    mount.umount();
    let ran = mount.try_mount(&["-o", "degraded"]).ok();
    assert!(ran.err.contains("MF-0024"), "{ran}");
    outside.make_links(&mount.mountpoint, "alone");
    // It is not taken in later, either, though the log knows what it misses.
    mount.product("sync", &[]).code(1);
    let log = mount.log_text();
    let no = "cannot be taken in: the replica cannot hold everything: symlinks. [MF-0024]";
    assert!(log.contains(no), "{log}");
    mount.umount();
    outside.is_as_it_was();
}

/// Made, changed, healed, filled: no way of a symlink's time and owner leads to what it points to, and none
/// of it degrades the mirror.
#[test]
fn what_a_symlink_points_to_is_left_alone() {
    need_root!();
    need_product!();
    for mode in ["mode=sync", "mode=async"] {
        let far = Far::new();
        let (mut mount, outside) = filled(&far, mode);
        outside.is_as_it_was();
        outside.make_links(&mount.mountpoint, "live");
        set_time(&mount.at("before"), 999_999_998);
        lchown(mount.at("before-nowhere"), Some(9), Some(9)).expect("lchown");
        // As mv does it.
        let (from, to) = (mount.at("live"), mount.at("moved"));
        renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).expect("rename");
        mount.product("sync", &[]).ok();
        mount.product("verify", &[]).ok();
        outside.is_as_it_was();
        let log = mount.log_text();
        assert!(!log.contains("degraded"), "{log}");
        mount.product("pause", &[]).ok();
        outside.make_links(&mount.mountpoint, "missed");
        set_time(&mount.at("moved"), 999_999_996);
        mount.product("resume", &[]).ok();
        mount.product("sync", &[]).ok();
        assert_eq!(mount.state(), "in-sync");
        mount.product("verify", &["--repair"]).ok();
        outside.is_as_it_was();
        mount.umount();
        mount.try_mount(&WARN).ok();
        assert_eq!(mount.state(), "in-sync");
        mount.umount();
        let dirs = [&mount.primary, &mount.replica].map(|dir| dir.to_str().expect("text"));
        mirrorfs([&["verify"], &dirs[..]].concat()).ok();
        mirrorfs([&["sync"], &WARN[..], &dirs[..]].concat()).ok();
        outside.is_as_it_was();
    }
}

/// A disk too full to ask is believed to be what it was, whatever is done to it.
#[test]
fn one_that_is_full_is_not_forgotten_to_follow() {
    need_root!();
    need_product!();
    let far = Far::new();
    let (mut mount, outside) = filled(&far, "mode=sync");
    mount.umount();
    far.is_full.store(true, Ordering::Relaxed);
    set_time(&mount.primary.join("before"), 999_999_990);
    mount.try_mount(&[]).code(32).says("[MF-0024]");
    let dirs = [&mount.primary, &mount.replica].map(|dir| dir.to_str().expect("text"));
    mirrorfs([&["sync", "--dry-run"], &WARN[..], &dirs[..]].concat()).ok();
    mirrorfs([&["sync", "--full"], &WARN[..], &dirs[..]].concat()).ok();
    mount.try_mount(&[&WARN[..], &["--adopt"]].concat()).ok();
    set_time(&mount.at("before"), 999_999_991);
    mount.product("sync", &["--full"]).ok();
    mount.umount();
    outside.is_as_it_was();
}

/// What stands at the new name of a rename that replaces nothing is not replaced there, either: somebody
/// else has put it there, and the mirror says so.
#[test]
fn a_stranger_is_not_replaced_in_silence() {
    need_root!();
    need_product!();
    let far = Far::new();
    let (mut mount, _outside) = filled(&far, "mode=sync");
    std::fs::write(mount.replica.join("taken"), "a stranger's").expect("write");
    let (from, to) = (mount.at("file"), mount.at("taken"));
    renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).expect("rename");
    wait_until("noticed", || mount.log_text().contains("EEXIST"));
    // Not taken back while a call is still in it.
    wait_until("healed", || mount.product("sync", &[]).code == Some(0));
    let copy = std::fs::read(mount.replica.join("taken")).expect("read");
    assert_eq!(copy, b"a copy");
    mount.umount();
}
