// SPDX-License-Identifier: MIT
//! Whole attachments of temporary directories: what is written where, and what the next one says.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::*;
use crate::store::stat::Stat;

mod live;

struct Pair {
    dir: tempfile::TempDir,
    primary: OwnedFd,
    replica: OwnedFd,
    /// With a write-intent log.
    logged: bool,
}

fn open(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).expect("open")
}

impl Pair {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["p", "p/sub", "r"] {
            rustix::fs::mkdir(dir.path().join(name), Mode::RWXU).expect("mkdir");
        }
        let (primary, replica) = (open(&dir.path().join("p")), open(&dir.path().join("r")));
        let pair = Self {
            dir,
            primary,
            replica,
            logged: false,
        };
        pair.put("p/sub/file", b"content");
        pair
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let path = self.dir.path().join(path);
        let fd = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).expect("open");
        rustix::io::write(&fd, bytes).expect("write");
    }

    fn attach(&self, flags: &str) -> Result<Attached, AttachError> {
        self.attach_to(Ok(self.replica.as_fd()), flags)
    }

    fn attach_to(
        &self,
        replica: Result<BorrowedFd<'_>, Errno>,
        flags: &str,
    ) -> Result<Attached, AttachError> {
        let options = Options {
            asked: Asked {
                degraded: flags.contains('d'),
                adopt: flags.contains('a'),
                init: flags.contains('i'),
                discard: flags.contains('x'),
            },
            log: self.logged.then(|| self.keeping()),
            // A program that another test starts holds our locks until it is begun.
            patience: std::time::Duration::from_millis(300),
            ..Options::default()
        };
        attach(
            self.primary.as_fd(),
            replica,
            &Typed::default(),
            &options,
            &mut |_, _| {},
        )
    }

    fn keeping(&self) -> Keeping {
        Keeping {
            state_dir: self.dir.path().join("state"),
            intent: crate::journal::Intent::Power,
        }
    }

    fn refused(&self, flags: &str) -> Id {
        self.attach(flags).expect_err("refused").refusal.id
    }

    fn stamps(&self) -> [Option<Stamp>; 2] {
        [&self.primary, &self.replica].map(|root| stamp::read(root.as_fd()).expect("readable"))
    }
}

#[test]
fn seeded_closed_and_attached_again() {
    let pair = Pair::new();
    let mount = pair.attach("").expect("seeded");
    assert!(mount.is_in_sync() && mount.epoch() == 1 && mount.session == 1);
    assert_eq!(pair.refused(""), Id::InUse);
    mount.close_clean().expect("closed");
    drop(mount);
    let [p, r] = pair.stamps();
    assert_eq!(p, r, "at rest both stamps are equal to the byte");
    assert_eq!(p.map(|stamp| stamp.life), Some(Life::Clean));
    let mount = pair.attach("").expect("believed");
    assert_eq!((mount.session, mount.is_in_sync()), (2, true));
    let summary = mount.summary.as_ref().expect("a comparison");
    assert_eq!(
        (summary.differences_total, summary.entries, summary.bytes),
        (0, 2, 0)
    );
}

#[test]
fn an_unclean_stop_is_compared_again() {
    let pair = Pair::new();
    drop(pair.attach("").expect("seeded"));
    assert_eq!(pair.refused(""), Id::CompareAgain);
    pair.put("r/sub/file", b"CONTENT");
    pair.put("r/extra", b"");
    let mount = pair.attach("a").expect("repaired");
    let summary = mount.summary.as_ref().expect("a comparison");
    assert!(summary.differences_total >= 2 && summary.removed == 1);
    mount.close_clean().expect("closed");
    drop(mount);
    pair.attach("").expect("believed");
}

#[test]
fn a_failed_replica_is_not_believed_afterwards() {
    let pair = Pair::new();
    let mount = pair.attach("").expect("seeded");
    mount
        .mark_degraded(Some(Errno::NOSPC), "No space left on device")
        .expect("marked");
    mount
        .mark_degraded(Some(Errno::IO), "again")
        .expect("marked");
    assert_eq!((mount.epoch(), mount.is_in_sync()), (2, false));
    let messenger = mount.state.lock().messenger.take();
    messenger.expect("a thread").join().expect("joined");
    mount.close_clean().expect("closed");
    drop(mount);
    let [p, r] = pair.stamps().map(|stamp| stamp.expect("stamped"));
    assert_eq!((p.epoch(), r.epoch()), (2, 1));
    assert!(matches!(&r.verdict, Verdict::Doubt { errno: 28, .. }));
    assert_eq!(pair.refused(""), Id::Stale);
    let mount = pair.attach("d").expect("alone");
    assert!(!mount.is_in_sync() && mount.epoch() == 2);
    assert_eq!(
        mount.degraded.as_ref().map(|refusal| refusal.id),
        Some(Id::Stale)
    );
    drop(mount);
    let mount = pair.attach("a").expect("repaired");
    assert!(mount.is_in_sync());
    mount.close_clean().expect("closed");
    let [p, r] = pair.stamps();
    assert_eq!(p, r);
}

#[test]
fn a_change_behind_the_mount_is_noticed() {
    let pair = Pair::new();
    pair.attach("")
        .expect("seeded")
        .close_clean()
        .expect("closed");
    pair.put("p/sub/new", b"behind the mount");
    let error = pair.attach("").expect_err("refused");
    assert_eq!(error.refusal.id, Id::Differences);
    assert!(error.summary.expect("a list").differences_total > 0);
    assert!(!pair.attach("d").expect("alone").is_in_sync());
    assert_eq!(pair.refused(""), Id::Stale);
}

#[test]
fn an_unstamped_copy_is_compared_before_it_is_believed() {
    let pair = Pair::new();
    pair.put("r/stranger", b"");
    assert_eq!(pair.refused(""), Id::NotEmpty);
    assert_eq!(pair.refused("a"), Id::Differences);
    assert_eq!(pair.stamps(), [None, None]);
    pair.attach("ai")
        .expect("repaired")
        .close_clean()
        .expect("closed");
    let [p, r] = pair.stamps();
    assert_eq!(p, r);
}

#[test]
fn a_mirror_whose_replica_is_away() {
    let pair = Pair::new();
    pair.attach("")
        .expect("seeded")
        .close_clean()
        .expect("closed");
    let error = pair.attach_to(Err(Errno::NOENT), "").expect_err("refused");
    assert_eq!(error.refusal.id, Id::ReplicaMissing);
    let mount = pair.attach_to(Err(Errno::NOENT), "d").expect("alone");
    assert_eq!(mount.epoch(), 2);
    mount.close_clean().expect("closed");
    drop(mount);
    assert_eq!(pair.refused(""), Id::Stale);
    // An empty directory in its place is an unmounted disk.
    rustix::fs::mkdir(pair.dir.path().join("bare"), Mode::RWXU).expect("mkdir");
    let bare = open(&pair.dir.path().join("bare"));
    let error = pair.attach_to(Ok(bare.as_fd()), "").expect_err("refused");
    assert_eq!(error.refusal.id, Id::NoStamp);
    assert!(
        Stat::of_name(bare.as_fd(), c"sub").is_err(),
        "never filled up"
    );
    let mount = pair.attach_to(Ok(bare.as_fd()), "i").expect("started over");
    assert_eq!((mount.epoch(), mount.is_in_sync()), (3, true));
    drop(mount);
    // What the old replica holds is not this mirror's present any more.
    assert_eq!(pair.refused(""), Id::Stale);
}

#[test]
fn swapped_roots_are_recognised() {
    let pair = Pair::new();
    pair.attach("")
        .expect("seeded")
        .close_clean()
        .expect("closed");
    let options = Options::default();
    let swapped = attach(
        pair.replica.as_fd(),
        Ok(pair.primary.as_fd()),
        &Typed::default(),
        &options,
        &mut |_, _| {},
    );
    assert_eq!(swapped.expect_err("refused").refusal.id, Id::Swapped);
}
