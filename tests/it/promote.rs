// SPDX-License-Identifier: MIT
//! Failing over, and what becomes of the old primary: `promote` and `sync PRIMARY REPLICA`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::need_product;
use crate::support::compare::{Ignore, differences};
use crate::support::mount::{TestMount, Wish};
use crate::support::run::{MIRRORFS, Ran, run};

/// Exit codes: no, could not tell, in use.
const NO: i32 = 1;
const UNKNOWN: i32 = 2;
const REFUSED: i32 = 32;

fn product(verb: &str, words: &[&str], paths: &[&Path]) -> Ran {
    run(Command::new(MIRRORFS).arg(verb).args(words).args(paths))
}

fn promote(words: &[&str], replica: &Path) -> Ran {
    product("promote", words, &[replica])
}

fn sync(words: &[&str], primary: &Path, replica: &Path) -> Ran {
    product("sync", words, &[primary, replica])
}

/// The same mirror with other copies.
fn with(mount: &mut TestMount, primary: &Path, replica: &Path) {
    mount.primary = primary.to_path_buf();
    mount.replica = replica.to_path_buf();
}

fn beside(mount: &TestMount, name: &str) -> PathBuf {
    mount.dir().join(name)
}

fn assert_equal(primary: &Path, replica: &Path) {
    let found = differences(primary, replica, Ignore::default());
    assert!(found.is_empty(), "{found:?}");
}

/// Runs on the primary alone, writes `name` there, and gives the replica back.
fn alone(mount: &mut TestMount, name: &str) {
    let (here, away) = (mount.replica.clone(), beside(mount, "away"));
    std::fs::rename(&here, &away).expect("rename");
    mount.try_mount(&["-o", "degraded"]).ok();
    std::fs::write(mount.at(name), "on one copy").expect("write");
    mount.umount();
    std::fs::rename(&away, &here).expect("rename");
}

/// An in-sync replica becomes the primary of the same mirror; the old one comes back as a replica.
#[test]
fn a_replica_takes_over() {
    need_product!();
    let mut mount = TestMount::new();
    std::fs::write(mount.at("f"), "one").expect("write");
    mount.umount();
    let (old, new) = (mount.primary.clone(), mount.replica.clone());
    let ran = promote(&[], &new).code(0);
    assert!(
        ran.out.is_empty() && ran.err.contains("is a primary now"),
        "{ran}"
    );
    promote(&[], &new)
        .code(NO)
        .says("primary of its mirror already");
    let third = beside(&mount, "third");
    std::fs::create_dir(&third).expect("mkdir");
    with(&mut mount, &new, &third);
    mount.mount();
    assert_eq!(mount.state(), "in-sync");
    std::fs::write(mount.at("f"), "two").expect("write");
    mount.umount();
    assert_equal(&new, &third);
    // The old primary does not know: it must not be taken for the present one, either way round.
    with(&mut mount, &old, &new);
    mount.try_mount(&[]).code(REFUSED).says("MF-0021");
    mount
        .try_mount(&["--degraded"])
        .code(REFUSED)
        .says("MF-0021");
    with(&mut mount, &new, &old);
    let ran = mount.try_mount(&[]).code(REFUSED).says("MF-0019");
    assert!(
        ran.err.contains("was this mirror's primary until epoch 1"),
        "{ran}"
    );
    sync(&[], &new, &old).code(0);
    assert_eq!(std::fs::read(old.join("f")).expect("read"), b"two");
    mount.mount();
    assert_eq!(mount.state(), "in-sync");
    mount.finish();
}

/// A replica that lacks changes is refused; forced, the two have diverged, and somebody chooses.
#[test]
fn a_stale_replica_and_a_split_brain() {
    need_product!();
    let mut mount = TestMount::new();
    std::fs::write(mount.at("f"), "one").expect("write");
    mount.umount();
    alone(&mut mount, "f");
    let (old, new) = (mount.primary.clone(), mount.replica.clone());
    let ran = promote(&[], &new).code(NO).says("MF-0019");
    let shown = new.display();
    for words in [
        &format!("{shown} is stale: it lacks changes made after epoch 1 ("),
        &format!("mirrorfs promote --force {shown}"),
    ] {
        assert!(ran.err.contains(words.as_str()), "lacks {words:?}: {ran}");
    }
    promote(&["--primary-lost"], &new).code(NO).says("MF-0019");
    promote(&["--force"], &new).code(0).says("is stale");
    for (p, r) in [(&old, &new), (&new, &old)] {
        with(&mut mount, p, r);
        mount.try_mount(&[]).code(REFUSED).says("MF-0021");
        mount.try_mount(&["--adopt"]).code(REFUSED).says("MF-0021");
        mount
            .try_mount(&["--degraded"])
            .code(REFUSED)
            .says("MF-0021");
        sync(&[], p, r).code(NO).says("sync --discard");
        sync(&["--init"], p, r).code(NO).says("MF-0021");
    }
    assert_eq!(std::fs::read(new.join("f")).expect("read"), b"one");
    let discard = |dir: &Path| {
        let dir = dir.to_str().expect("text").to_owned();
        move |p: &Path, r: &Path| sync(&["--discard", &dir], p, r)
    };
    discard(&new)(&new, &old)
        .code(UNKNOWN)
        .says("promote --force");
    discard(mount.dir())(&new, &old)
        .code(UNKNOWN)
        .says("neither");
    discard(&old)(&new, &old).code(0);
    assert_equal(&new, &old);
    with(&mut mount, &new, &old);
    mount.mount();
    assert_eq!(mount.state(), "in-sync");
    assert_eq!(std::fs::read(mount.at("f")).expect("read"), b"one");
    mount.finish();
}

/// What a daemon holds is not promoted and not synced, with or without force.
#[test]
fn nothing_is_done_behind_a_daemon() {
    need_product!();
    let mut mount = Wish::default().mount();
    let (p, r) = (mount.primary.clone(), mount.replica.clone());
    for words in [&[][..], &["--force"], &["--primary-lost"]] {
        promote(words, &r).code(REFUSED).says("MF-0023");
    }
    sync(&[], &p, &r).code(REFUSED).says("MF-0023");
    sync(&["--dry-run"], &p, &r).code(REFUSED).says("MF-0023");
    sync(&[], &mount.mountpoint.clone(), &r)
        .code(REFUSED)
        .says("MF-0043");
    promote(&[], &mount.mountpoint.clone())
        .code(REFUSED)
        .says("MF-0043");
    assert_eq!(mount.state(), "in-sync");
    mount.umount();
    // The primary alone is served: its replica must not take its place.
    let away = beside(&mount, "away");
    std::fs::rename(&r, &away).expect("rename");
    mount.try_mount(&["-o", "degraded"]).ok();
    for words in [&[][..], &["--force"], &["--primary-lost"]] {
        promote(words, &away).code(REFUSED).says("MF-0023");
    }
    mount.umount();
}

/// As above with the mirror mounted over its primary, which then cannot be seen.
#[test]
fn a_served_primary_is_recognised_below_its_mount() {
    need_product!();
    let mut mount = Wish::default().over_primary().mount();
    mount.umount();
    let (r, away) = (mount.replica.clone(), beside(&mount, "away"));
    std::fs::rename(&r, &away).expect("rename");
    mount.try_mount(&["-o", "degraded"]).ok();
    promote(&["--primary-lost"], &away)
        .code(REFUSED)
        .says("MF-0023");
    mount.umount();
}

/// The machine died and the primary's disk with it: nothing proves what the replica has.
#[test]
fn the_primary_is_lost() {
    need_product!();
    let mut mount = TestMount::new();
    std::fs::write(mount.at("f"), "one").expect("write");
    mount.kill();
    mount.product("umount", &[]).ok();
    let (old, new) = (mount.primary.clone(), mount.replica.clone());
    promote(&[], &new).code(NO).says("MF-0020");
    std::fs::rename(&old, beside(&mount, "lost")).expect("rename");
    let ran = promote(&[], &new).code(NO).says("MF-0028");
    assert!(ran.err.contains("promote --primary-lost"), "{ran}");
    let ran = promote(&["--primary-lost"], &new)
        .code(0)
        .says("last mounted at");
    assert!(ran.err.contains("max-lag"), "{ran}");
    std::fs::create_dir(&old).expect("mkdir");
    with(&mut mount, &new, &old);
    mount.mount();
    assert_eq!(std::fs::read(mount.at("f")).expect("read"), b"one");
    mount.finish();
}

/// Half of a resync is neither the one state nor the other: no word makes it a primary.
#[test]
fn half_a_resync_is_never_promoted() {
    need_product!();
    let mut mount = TestMount::new();
    std::fs::write(mount.at("f"), "one").expect("write");
    mount.umount();
    let (p, r) = (mount.primary.clone(), mount.replica.clone());
    std::fs::write(r.join("extra"), "").expect("write");
    sync(&["--max-delete", "0"], &p, &r)
        .code(UNKNOWN)
        .says("MF-0025");
    for words in [&[][..], &["--force"], &["--primary-lost", "--force"]] {
        let ran = promote(words, &r).code(NO).says("inconsistent");
        assert!(ran.err.contains("mirrorfs sync"), "{ran}");
    }
    mount.try_mount(&[]).code(REFUSED).says("MF-0020");
    sync(&[], &p, &r).code(0);
    mount.mount();
    mount.finish();
}

/// Seeding, comparing and repairing without a mount.
#[test]
fn two_directories_are_synced_unmounted() {
    need_product!();
    let mut mount = Wish::default().prepare();
    let (p, r) = (mount.primary.clone(), mount.replica.clone());
    std::fs::write(p.join("f"), "one").expect("write");
    std::fs::create_dir(p.join("d")).expect("mkdir");
    let time = std::fs::metadata(&p).and_then(|m| m.modified());
    let root = std::fs::File::open(&r).expect("open");
    root.set_modified(time.expect("stat"))
        .expect("the same time");
    let ran = sync(&["--dry-run"], &p, &r).code(NO);
    assert_eq!(
        ran.out,
        "entry     d  on primary only\nentry     f  on primary only\n"
    );
    assert_eq!(
        std::fs::read_dir(&r).expect("list").count(),
        0,
        "only looked"
    );
    let ran = sync(&[], &p, &r).code(0);
    assert!(
        ran.out.contains("is in-sync") && ran.err.is_empty(),
        "{ran}"
    );
    assert_equal(&p, &r);
    sync(&["--dry-run"], &p, &r).code(0);
    mount.mount();
    assert_eq!(mount.state(), "in-sync");
    mount.umount();
    // An unmounted disk is not filled up, a stranger's directory not emptied.
    let other = beside(&mount, "other");
    std::fs::create_dir(&other).expect("mkdir");
    sync(&[], &p, &other).code(NO).says("MF-0011");
    assert_eq!(std::fs::read_dir(&other).expect("list").count(), 0);
    std::fs::write(other.join("theirs"), "x").expect("write");
    let ran = sync(&[], &p, &other).code(NO);
    assert!(!ran.err.contains("-o degraded"), "{ran}");
    assert!(other.join("theirs").exists());
    sync(&[], &p, &p).code(NO).says("MF-0040");
    sync(&[], &p, &p.join("d")).code(NO).says("MF-0041");
    sync(&[], &p, &beside(&mount, "nowhere")).code(UNKNOWN);
    promote(&[], &other).code(UNKNOWN).says("MF-0011");
    sync(&["--init"], &p, &other).code(0);
    assert!(!other.join("theirs").exists());
    assert_equal(&p, &other);
    mount.try_mount(&[]).code(REFUSED);
    mount.replica = other;
    mount.mount();
    mount.finish();
}
