// SPDX-License-Identifier: MIT
//! Mirrors with a write-intent log: what is believed, healed and refused, at a mount and while one
//! serves.

use super::*;
use crate::mirror::attach::identity::LogId;
use crate::mirror::resync::Lacks;
use crate::mirror::resync::Progress;
use crate::store::walk;
use crate::sys::at;

fn logged() -> Pair {
    Pair {
        logged: true,
        ..Pair::new()
    }
}

/// A mirror that was mounted once and unmounted in order.
fn rested() -> Pair {
    let pair = logged();
    let mount = pair.attach("").expect("seeded");
    assert!(mount.take_journal().is_some() && mount.take_journal().is_none());
    assert!(
        mount.is_in_sync() && !mount.is_unverified(),
        "it was compared"
    );
    mount.close_clean().expect("closed");
    drop(mount);
    let [p, r] = pair.stamps();
    assert_eq!(p, r, "at rest both stamps are equal to the byte");
    assert!(p.expect("stamped").covered.is_some());
    pair
}

/// Everything of a directory that a refusal might have touched.
fn everything(root: &OwnedFd) -> (Vec<Vec<u8>>, Vec<Vec<u8>>, String) {
    let names = walk::names(root.as_fd()).expect("names");
    let names = names.iter().map(|name| name.as_c_str().to_bytes().to_vec());
    let xattrs = at::xattr_names(root.as_fd()).expect("xattrs");
    let xattrs = xattrs
        .iter()
        .map(|name| at::get_xattr_vec(root.as_fd(), name).expect("an xattr"));
    let times = format!("{:?}", Stat::of(root.as_fd()).expect("stat").mtime);
    (names.collect(), xattrs.collect(), times)
}

impl Pair {
    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn stamp(&self, root: &OwnedFd) -> Stamp {
        stamp::read(root.as_fd()).expect("readable").expect("there")
    }

    fn put_stamp(&self, root: &OwnedFd, stamp: &Stamp, role: Role) {
        stamp::write(root.as_fd(), stamp, role, Place::Xattr).expect("stamped");
    }

    fn reattach(&self, mount: &Attached, name: &str) -> Result<OwnedFd, Box<Refusal>> {
        let open = || {
            let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(self.path(name), flags, Mode::empty())
        };
        mount.reattach(&open, false)
    }

    /// Must not be taken back, and must be left as it is.
    #[track_caller]
    fn not_taken(&self, mount: &Attached, name: &str, id: Id) {
        let root = open(&self.path(name));
        let before = everything(&root);
        // A lock that was let go is held for a moment by what another test has just forked.
        let mut refusals =
            std::iter::repeat_with(|| self.reattach(mount, name).expect_err("refused"));
        let refusal = refusals.find(|refusal| id == Id::InUse || refusal.id != Id::InUse);
        let refusal = refusal.expect("one of them");
        assert_eq!(refusal.id, id, "{refusal}");
        assert!(
            refusal.what.contains("cannot take the replica"),
            "{refusal}"
        );
        assert!(!refusal.to_string().contains("-o degraded"), "{refusal}");
        assert_eq!(everything(&root), before, "nothing is written there");
    }
}

/// Clean and covered: no walk before the mount, and the quick check that follows finds what was
/// changed behind it.
#[test]
fn a_covered_mirror_is_believed_at_once_and_checked_later() {
    let pair = rested();
    pair.put("p/sub/new", b"behind the mount");
    let mount = pair.attach("").expect("believed");
    assert!(mount.is_in_sync() && mount.is_unverified() && mount.summary.is_none());
    let check = |mount: &Attached| {
        let how = How::default();
        mount
            .quick_check(how, &mut |_: &Progress| {})
            .expect("walked")
    };
    let summary = check(&mount);
    assert_eq!(
        summary.differences.first().map(|d| d.path.as_slice()),
        Some(&b"sub"[..])
    );
    assert!(summary.differences.iter().any(|d| d.path == b"sub/new"));
    assert!(
        Stat::of_name(pair.replica.as_fd(), c"sub/new").is_err(),
        "not repaired"
    );
    mount.verified();
    assert!(!mount.is_unverified());
    let [p, r] = pair.stamps().map(|stamp| stamp.expect("stamped"));
    let covered = p.covered.expect("covered");
    assert_eq!(
        (p.clone(), covered.intake, covered.intake_before),
        (r, 2, None)
    );
    assert_eq!(covered.log.generation, 2);
}

/// SIGKILL: the marks are healed, nothing is compared, and after that the copies are in-sync.
#[test]
fn a_killed_mirror_is_healed_by_its_log() {
    let pair = rested();
    for round in 0..3 {
        drop(pair.attach("").expect("mounted"));
        let mount = pair.attach("").expect("taken in");
        assert!(mount.is_resyncing() && !mount.is_in_sync() && mount.is_unverified());
        assert!(mount.take_journal().is_some());
        assert_eq!(mount.epoch(), 1, "round {round}: nobody went on alone");
        let [p, r] = pair.stamps().map(|stamp| stamp.expect("stamped"));
        for stamp in [&p, &r] {
            assert_eq!(
                stamp.verdict,
                Verdict::Inconsistent,
                "durable before the first byte"
            );
        }
        if round == 1 {
            // Killed again in the middle.
            continue;
        }
        mount.healed(Lacks::default()).expect("healed");
        assert!(mount.is_in_sync());
        assert_eq!(
            pair.stamps().map(|s| s.expect("stamped").verdict),
            [Verdict::InSync, Verdict::InSync]
        );
        mount.close_clean().expect("closed");
        let [p, r] = pair.stamps();
        assert_eq!(p, r);
    }
}

/// A log that is gone, damaged, older or another's leaves the whole tree in doubt.
#[test]
fn without_its_log_a_mirror_is_compared() {
    let pair = rested();
    let log = pair.path("state");
    let away = pair.path("away");
    rustix::fs::rename(&log, &away).expect("moved away");
    for open in [false, true] {
        let refusal = pair.attach("").expect_err("refused").refusal;
        assert_eq!(refusal.id, Id::CompareAgain);
        let text = refusal.to_string();
        assert!(text.contains("the write-intent log is missing"), "{text}");
        assert!(text.contains("--adopt"), "{text}");
        if !open {
            rustix::fs::rename(&away, &log).expect("moved back");
            drop(pair.attach("").expect("mounted"));
            rustix::fs::rename(&log, &away).expect("moved away");
        }
    }
    let alone = pair.attach("d").expect("alone");
    assert!(!alone.is_in_sync() && !alone.is_covered());
    assert!(alone.take_journal().is_some(), "about nothing, but there");
    drop(alone);
    // The old log comes back: too late, the primary has forgotten it.
    rustix::fs::rename(&log, pair.path("new")).expect("moved away");
    rustix::fs::rename(&away, &log).expect("moved back");
    assert_eq!(pair.refused(""), Id::Stale);
    let mount = pair.attach("a").expect("repaired");
    assert!(mount.is_in_sync() && mount.take_journal().is_some());
    drop(mount);
    assert!(pair.attach("").expect("covered again").is_resyncing());
}

/// failed -> healed -> failed -> healed: one epoch each, and equal stamps at the end.
#[test]
fn an_outage_is_one_epoch() {
    let pair = rested();
    let mount = pair.attach("").expect("mounted");
    for round in 0..3_u64 {
        mount
            .mark_degraded(Some(Errno::NOSPC), "full")
            .expect("marked");
        mount.leave_replica();
        assert_eq!((mount.epoch(), mount.is_in_sync()), (2 + round, false));
        // Twice in vain: it is the same outage.
        for _ in 0..2 {
            wait_for_messenger(&mount);
            pair.reattach(&mount, "r").expect("it is ours");
            mount.begin_resync().expect("begun");
            assert!(mount.is_resyncing());
            mount
                .mark_degraded(Some(Errno::NOSPC), "full again")
                .expect("marked");
            assert_eq!(mount.epoch(), 2 + round);
            let r = pair.stamp(&pair.replica);
            assert_eq!((r.epoch(), r.verdict), (1 + round, Verdict::Inconsistent));
        }
        pair.reattach(&mount, "r").expect("it is ours");
        mount.begin_resync().expect("begun");
        mount.healed(Lacks::default()).expect("healed");
        assert!(mount.is_in_sync());
    }
    assert!(mount.mark_degraded(None, "once more").is_ok());
    wait_for_messenger(&mount);
    mount.close_clean().expect("closed");
    drop(mount);
    let mount = pair.attach("").expect("healed at the mount");
    assert!(mount.is_resyncing());
    mount.healed(Lacks::default()).expect("healed");
    mount.close_clean().expect("closed");
    let [p, r] = pair.stamps();
    assert_eq!(p, r);
    assert_eq!(p.expect("stamped").epoch(), 5);
}

/// Whoever was sent to the replica is back.
fn wait_for_messenger(mount: &Attached) {
    if let Some(messenger) = mount.state.lock().messenger.take() {
        messenger.join().expect("joined");
    }
}

/// Every directory that is not the replica of the log is refused, by its own id, untouched.
#[test]
fn only_the_replica_itself_is_taken_back() {
    let pair = rested();
    let older = pair.stamp(&pair.replica);
    let mount = pair.attach("").expect("mounted");
    mount
        .mark_degraded(Some(Errno::IO), "it broke")
        .expect("marked");
    wait_for_messenger(&mount);
    mount.leave_replica();

    assert_eq!(
        pair.reattach(&mount, "nowhere").expect_err("refused").id,
        Id::ReplicaMissing
    );
    rustix::fs::mkdir(pair.path("blank"), Mode::RWXU).expect("mkdir");
    pair.not_taken(&mount, "blank", Id::NoStamp);
    pair.not_taken(&mount, "p", Id::InUse);

    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(pair.path("r"))
        .arg(pair.path("clone"))
        .status();
    assert!(copied.expect("cp").success());
    let clone = open(&pair.path("clone"));
    if stamp::read(clone.as_fd()) == Ok(None) {
        // cp took no trusted.* along: do it for it.
        pair.put_stamp(&clone, &pair.stamp(&pair.replica), Role::Replica);
    }
    pair.not_taken(&mount, "clone", Id::Clone);

    let real = pair.stamp(&pair.replica);
    let mut wrong = real.clone();
    wrong.id = MirrorId(9);
    pair.put_stamp(&pair.replica, &wrong, Role::Replica);
    pair.not_taken(&mount, "r", Id::Foreign);

    // A snapshot of it from before this mount: what the log has forgotten since may be missing.
    pair.put_stamp(&pair.replica, &older, Role::Replica);
    pair.not_taken(&mount, "r", Id::Stale);
    let mut wrong = real.clone();
    let log = LogId {
        id: 1,
        generation: 1,
    };
    wrong.covered = wrong.covered.map(|covered| Covered { log, ..covered });
    pair.put_stamp(&pair.replica, &wrong, Role::Replica);
    pair.not_taken(&mount, "r", Id::Stale);

    let mut wrong = real.clone();
    wrong.next_epoch(77);
    pair.put_stamp(&pair.replica, &wrong, Role::Replica);
    pair.not_taken(&mount, "r", Id::Diverged);
    wrong.next_epoch(78);
    pair.put_stamp(&pair.replica, &wrong, Role::Replica);
    pair.not_taken(&mount, "r", Id::Diverged);

    pair.put_stamp(&pair.replica, &real, Role::Replica);
    let lock = Lock::take(pair.replica.as_fd(), Duration::ZERO).expect("free");
    pair.not_taken(&mount, "r", Id::InUse);
    drop(lock);
    pair.reattach(&mount, "r").expect("itself");
    mount.begin_resync().expect("begun");
    assert_eq!(
        pair.reattach(&mount, "r").expect_err("refused").id,
        Id::InUse,
        "it is taken already"
    );
}

/// A snapshot taken while the replica was out, restored after it was healed, is an older copy too.
#[test]
fn healing_makes_every_other_copy_an_older_one() {
    let pair = rested();
    let mount = pair.attach("").expect("mounted");
    mount.mark_degraded(None, "gone").expect("marked");
    wait_for_messenger(&mount);
    mount.leave_replica();
    let snapshot = pair.stamp(&pair.replica);
    pair.reattach(&mount, "r").expect("itself");
    mount.begin_resync().expect("begun");
    mount.mark_degraded(None, "gone again").expect("marked");
    mount.leave_replica();
    let now = pair.stamp(&pair.replica);
    pair.put_stamp(&pair.replica, &snapshot, Role::Replica);
    pair.not_taken(&mount, "r", Id::Stale);
    pair.put_stamp(&pair.replica, &now, Role::Replica);
    pair.reattach(&mount, "r").expect("itself");
}

/// `-o degraded` without the replica: it is taken in when it comes.
#[test]
fn a_replica_that_comes_later() {
    let pair = rested();
    let mount = pair.attach_to(Err(Errno::NOENT), "d").expect("alone");
    assert_eq!((mount.epoch(), mount.is_in_sync()), (2, false));
    assert!(
        mount.take_journal().is_some(),
        "it remembers what is missed"
    );
    mount.mark_degraded(None, "nothing new").expect("noted");
    assert_eq!(mount.epoch(), 2);
    drop(mount);
    // Killed, and away once more: the same outage.
    let mount = pair.attach_to(Err(Errno::NOENT), "d").expect("alone");
    assert_eq!(mount.epoch(), 2);
    pair.reattach(&mount, "r").expect("itself");
    mount.begin_resync().expect("begun");
    mount.healed(Lacks::default()).expect("healed");
    mount.close_clean().expect("closed");
    drop(mount);
    let [p, r] = pair.stamps();
    assert_eq!(p, r);
    let mount = pair.attach("").expect("believed");
    assert!(mount.is_in_sync());
}

/// Rule 7: the log failed. Both stamps forget it, and nothing short of a comparison helps.
#[test]
fn whole_tree_doubt_is_on_both_copies() {
    let pair = rested();
    let mount = pair.attach("").expect("mounted");
    mount
        .doubt_all(Some(Errno::IO), "the log failed")
        .expect("noted");
    wait_for_messenger(&mount);
    let [p, r] = pair.stamps().map(|stamp| stamp.expect("stamped"));
    for stamp in [&p, &r] {
        assert_eq!(stamp.covered, None);
        assert!(matches!(&stamp.verdict, Verdict::Doubt { errno: 5, .. }));
    }
    assert_eq!((p.epoch(), r.epoch()), (2, 1));
    mount.leave_replica();
    pair.not_taken(&mount, "r", Id::Stale);
    drop(mount);
    assert_eq!(pair.refused(""), Id::Stale);
    assert!(pair.attach("a").expect("repaired").is_in_sync());
}

/// The log fails in the middle of a resync: the replica stays what it is, half the one and half the
/// other, and no resync of it begins any more.
#[test]
fn doubt_is_no_excuse_for_half_a_resync() {
    let pair = rested();
    let mount = pair.attach("").expect("mounted");
    mount.mark_degraded(None, "gone").expect("marked");
    wait_for_messenger(&mount);
    pair.reattach(&mount, "r").expect("itself");
    mount.begin_resync().expect("begun");
    mount.mark_degraded(None, "gone again").expect("marked");
    pair.reattach(&mount, "r").expect("itself");
    mount.doubt_all(None, "the log failed").expect("noted");
    wait_for_messenger(&mount);
    let r = pair.stamp(&pair.replica);
    assert_eq!((r.verdict, r.covered), (Verdict::Inconsistent, None));
    assert!(mount.begin_resync().is_err() && !mount.is_resyncing());
}

/// The power fails between any two stamps of taking the replica in: it is ours all the same, and
/// an older copy of it is not.
#[test]
fn killed_between_the_stamps() {
    let pair = rested();
    let before = pair.stamp(&pair.replica);
    drop(pair.attach("").expect("mounted"));
    // As if the replica had not been stamped any more.
    let mut p = pair.stamp(&pair.primary);
    p.covered = p.covered.map(|covered| Covered {
        intake_before: Some(covered.intake - 1),
        ..covered
    });
    pair.put_stamp(&pair.primary, &p, Role::Primary);
    pair.put_stamp(&pair.replica, &before, Role::Replica);
    let mount = pair.attach("").expect("taken in");
    assert!(mount.is_resyncing());
    drop(mount);
    // Now the primary knows that the replica says the new intake.
    pair.put_stamp(&pair.replica, &before, Role::Replica);
    let refusal = pair.attach("").expect_err("refused").refusal;
    assert!(refusal.to_string().contains("older copy"), "{refusal}");
}

/// Makes a root refuse every change; false where that cannot be had.
fn lock_down(root: &OwnedFd, on: bool) -> bool {
    let immutable = 0x10;
    let Ok(flags) = at::get_flags(root.as_fd()) else {
        return false;
    };
    let flags = if on {
        flags | immutable
    } else {
        flags & !immutable
    };
    at::set_flags(root.as_fd(), flags).is_ok()
}

/// A replica that takes no stamp is out, and the primary says so before anything else happens.
#[test]
fn a_replica_that_takes_no_stamp() {
    let pair = rested();
    let mount = pair.attach("").expect("mounted");
    if !lock_down(&pair.replica, true) {
        return;
    }
    let failure = mount.close_clean().expect_err("not on the replica");
    assert_eq!(failure.copy, Copy::Replica);
    drop(mount);
    let p = pair.stamp(&pair.primary);
    assert!(matches!(p.verdict, Verdict::Doubt { .. }) && p.life == Life::Clean);
    assert_eq!(p.epoch(), 2);
    // Covered, but it cannot be taken in: refused, or alone and once more an epoch ahead.
    // (Who was sent to the replica with its stamp may hold its lock a moment longer.)
    let mut ids = std::iter::repeat_with(|| pair.refused(""));
    let id = ids.find(|id| *id != Id::InUse);
    assert_eq!(id, Some(Id::StampFailed));
    let mount = pair.attach("d").expect("alone");
    let id = mount.degraded.as_ref().map(|refusal| refusal.id);
    assert_eq!((id, mount.is_resyncing()), (Some(Id::StampFailed), false));
    assert!(mount.epoch() > pair.stamp(&pair.replica).epoch());
    let refusal = pair.reattach(&mount, "r").expect_err("not writable");
    assert_eq!(refusal.id, Id::ReplicaFailed);
    assert!(lock_down(&pair.replica, false));
    pair.reattach(&mount, "r").expect("writable again");
    mount.begin_resync().expect("begun");
    mount.healed(Lacks::default()).expect("healed");
    mount.close_clean().expect("closed");
    let [p, r] = pair.stamps();
    assert_eq!(p, r);
}
