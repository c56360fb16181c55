// SPDX-License-Identifier: MIT
//! The primary is changed while the replica is away; then the marks are healed and the copies
//! compared in full.
#![allow(
    clippy::disallowed_methods,
    reason = "a test spoils a copy behind the mirror's back, by path"
)]

use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Healing, Stop};
use crate::journal::{Aspect, Object};
use crate::store::Side;
use bench::{Bench, Way};

mod again;
mod bench;
mod fill;
mod live;

/// Some files and directories on both copies, without any mark.
fn filled() -> Bench {
    let bench = Bench::new();
    for dir in ["a", "a/b", "a/b/c", "d"] {
        bench.mkdir(dir);
    }
    for n in 0..20 {
        bench.put(&format!("a/f{n}"), 0, format!("file {n}").as_bytes());
        bench.put(&format!("a/b/g{n}"), 0, &vec![n; 10_000]);
    }
    bench.symlink("d/link", "../a/f1");
    bench.start();
    bench
}

#[test]
fn a_healed_mark_opens_what_it_covers_and_nothing_else() {
    let bench = filled();
    bench.put("a/f3", 2, b"changed");
    bench.chmod("a/f4", 0o600);
    bench.set_xattr("a/b/g1", b"value");
    assert!(!bench.differences().is_empty());
    bench.heal();
    assert_eq!(bench.opened(), (3, 0));
    bench.assert_equal();
    bench.checkpoint();
    bench.ages();
    // Names: the directories, and what is new in them.
    bench.put("a/b/new", 0, b"new");
    bench.unlink("a/b/g2");
    bench.mkdir("d/x");
    bench.mkdir("d/x/y");
    bench.put("d/x/y/z", 0, &[7; 5000]);
    bench.symlink("d/x/s", "z");
    bench.rmdir("a/b/c");
    let summary = bench.heal();
    bench.assert_equal();
    // The files new and z, and the symlink: for each mark that covers them.
    let (files, dirs) = bench.opened();
    assert!(files <= 8 && dirs <= 8, "{files} files, {dirs} directories");
    assert_eq!((summary.removed, summary.escalated), (2, 0));
    // Nothing is in doubt any more.
    assert_eq!(bench.heal().marks, 0);
    bench.checkpoint();
}

#[test]
fn only_the_marked_range_is_read_and_only_differing_blocks_are_written() {
    let bench = Bench::new();
    bench.put("big", 0, &vec![1; 12 << 20]);
    bench.start();
    bench.put("big", (5 << 20) + 100, b"here");
    bench.heal();
    bench.assert_equal();
    let progress = bench.healing.lock().progress();
    assert_eq!(progress.bytes_written, 4096);
    assert_eq!(progress.bytes_compared, 4 << 20);
    // Longer, shorter, sparse, and more than one hold long.
    for (at, data) in [
        (40_u64 << 20, &b"far"[..]),
        (5 << 30, b"farther"),
        (7, b"near"),
    ] {
        bench.put("big", at, data);
        bench.heal();
        bench.assert_equal();
    }
    assert!(std::fs::metadata(bench.r("big")).expect("stat").blocks() < 13 << 11);
    let node = bench.at("big");
    let cut = crate::store::Action::Truncate { node, size: 5000 };
    drop(bench.apply(cut, &[]).expect("truncate"));
    bench.heal();
    bench.assert_equal();
}

#[test]
fn a_renamed_directory_costs_nothing() {
    let bench = Bench::new();
    for dir in ["src", "dst", "src/many"] {
        bench.mkdir(dir);
    }
    for n in 0..1000 {
        bench.put(&format!("src/many/f{n}"), 0, b"x");
    }
    bench.start();
    bench.rename("src/many", "dst/moved");
    bench.put("dst/moved/f7", 0, b"y");
    let summary = bench.heal();
    bench.assert_equal();
    assert_eq!((summary.moved, summary.created, summary.removed), (1, 0, 0));
    assert_eq!(bench.opened().0, 1, "only the file that was written");
    // Into a directory that is new, and out of one that is gone.
    bench.go(Way::Both);
    bench.chmod("dst/moved", 0o700);
    bench.start();
    bench.mkdir("new");
    bench.mkdir("new/deep");
    bench.rename("dst/moved", "new/deep/again");
    bench.rmdir("dst");
    let summary = bench.heal();
    bench.assert_equal();
    assert_eq!((summary.moved, bench.opened().0), (1, 0));
    // Healed once more after a crash: everything is where it belongs.
    bench.journal.soil_all();
    let summary = bench.heal();
    bench.assert_equal();
    assert_eq!((summary.moved, summary.created, summary.removed), (0, 0, 0));
}

#[test]
fn chains_and_rings_of_renames() {
    let bench = filled();
    bench.go(Way::Both);
    bench.put("d/one", 0, b"same size 1");
    bench.put("d/two", 0, b"same size 2");
    bench.mkdir("x");
    bench.put("x/in", 0, b"x content");
    bench.mkdir("y");
    bench.put("y/in", 0, b"y content");
    bench.start();
    bench.swap("d/one", "d/two");
    bench.swap("x", "y");
    bench.rename("a/b", "x/b");
    bench.rename("x/b", "y/b2");
    bench.rename("a", "d/a");
    bench.rename("d/a/f1", "f1");
    bench.rename("d", "e");
    let summary = bench.heal();
    bench.assert_equal();
    assert!(summary.moved > 3, "{summary:?}");
    assert_eq!(summary.escalated, 0);
    // A ring of three.
    bench.checkpoint();
    bench.rename("x", "t");
    bench.rename("y", "x");
    bench.rename("t", "y");
    bench.heal();
    bench.assert_equal();
    bench.journal.soil_all();
    bench.heal();
    bench.assert_equal();
}

#[test]
fn a_name_becomes_another_kind_of_object() {
    let bench = filled();
    bench.unlink("a/f1");
    bench.mkdir("a/f1");
    bench.put("a/f1/inside", 0, b"in");
    bench.rmdir("a/b/c");
    bench.put("a/b/c", 0, b"a file now");
    bench.unlink("a/f2");
    bench.symlink("a/f2", "f3");
    bench.unlink("d/link");
    bench.symlink("d/link", "../a/f2");
    bench.unlink("a/f5");
    bench.put("a/f5", 0, b"FILE 5");
    bench.heal();
    bench.assert_equal();
}

#[test]
fn hard_links_are_links_on_the_replica() {
    let bench = filled();
    bench.go(Way::Both);
    bench.put("a/h", 0, &[1; 50_000]);
    bench.link("a/h", "d/h2");
    bench.start();
    // One more name, of a file nobody else marks.
    bench.link("a/f9", "d/f9");
    bench.link("a/h", "a/b/c/h3");
    bench.unlink("a/f8");
    bench.link("a/h", "a/f8");
    let summary = bench.heal();
    bench.assert_equal();
    assert_eq!(
        (summary.linked, summary.created, summary.escalated),
        (3, 0, 0)
    );
    bench.checkpoint();
    // One name less, renamed, written through another.
    bench.unlink("a/h");
    bench.rename("d/h2", "a/b/h4");
    bench.put("a/f8", 100, b"through a link");
    bench.put("d/f9", 0, b"both");
    bench.heal();
    bench.assert_equal();
    bench.checkpoint();
    // A link becomes a copy, and a copy becomes a link.
    bench.unlink("d/f9");
    bench.put("d/f9", 0, b"both");
    bench.unlink("a/b/c/h3");
    bench.link("a/f7", "a/b/c/h3");
    bench.heal();
    bench.assert_equal();
}

/// What the replica still has under a name is a link of a file that is in no doubt: nothing that
/// came in its place may be written to it.
#[test]
fn a_stale_link_is_never_written_to() {
    let bench = filled();
    bench.go(Way::Both);
    bench.link("a/f1", "d/stale");
    bench.start();
    bench.unlink("d/stale");
    bench.put("d/stale", 0, b"something else altogether");
    bench.go(Way::Healing);
    // Not admitted: nobody has healed the names yet.
    *bench.healing.lock() = std::sync::Arc::new(Healing::new());
    bench.put("d/stale", 0, b"SOMETHING");
    assert_eq!(std::fs::read(bench.r("a/f1")).expect("read"), b"file 1");
    bench.heal();
    bench.put("d/stale", 1, b"omething");
    bench.settle();
    bench.assert_equal();
    assert_eq!(std::fs::read(bench.r("a/f1")).expect("read"), b"file 1");
}

#[test]
fn deep_paths() {
    let bench = Bench::new();
    let mut path = "d".to_owned();
    bench.mkdir(&path);
    for _ in 0..150 {
        path.push_str("/d");
        bench.mkdir(&path);
    }
    bench.put(&format!("{path}/file"), 0, b"deep");
    bench.start();
    bench.put(&format!("{path}/file"), 0, b"DEEP");
    bench.mkdir(&format!("{path}/x"));
    bench.put(&format!("{path}/x/y"), 0, b"deeper");
    bench.rename("d/d/d", "e");
    bench.heal();
    bench.assert_equal();
}

#[test]
fn what_is_gone_needs_no_healing() {
    let bench = filled();
    bench.put("a/f1", 0, b"x");
    bench.unlink("a/f1");
    bench.put("a/b/c/in", 0, b"x");
    bench.unlink("a/b/c/in");
    bench.rmdir("a/b/c");
    let summary = bench.heal();
    bench.assert_equal();
    assert_eq!((summary.gone, summary.escalated), (3, 0));
}

/// A file moves while it is in doubt, into a directory whose names are healed right then: it is made
/// there, and its content is healed. Then its mark says where its old twin is, and that took the
/// place of the new one, without what had been healed.
#[test]
fn an_old_twin_does_not_replace_what_was_healed() {
    let bench = Bench::new();
    bench.mkdir("a");
    bench.mkdir("b");
    bench.put("a/f", 0, &[1; 20_000]);
    bench.start();
    bench.put("a/f", 12_000, &[2; 3000]);
    bench.put("b/new", 0, b"new");
    bench.before_hold(0, |bench| {
        bench.go(Way::Healing);
        bench.rename("a/f", "b/f");
    });
    bench.heal();
    bench.settle();
    assert_eq!(bench.differences(), Vec::<String>::new());
}

/// The name by which a mark leads to a file goes while it waits to be healed: another one is to be found.
#[test]
fn what_loses_the_only_name_that_is_known() {
    let bench = filled();
    bench.go(Way::Both);
    bench.link("a/f1", "a/b/c/other");
    bench.start();
    bench.put("a/f1", 0, b"changed");
    // All that is known to the next one is what the mark says.
    let bench = bench.dies();
    bench.go(Way::Healing);
    bench.before_hold(0, |bench| bench.unlink("a/f1"));
    bench.heal();
    bench.settle();
    bench.assert_equal();
}

/// As many names on both copies it will never have: that must not keep healing from its end.
#[test]
fn a_file_that_has_a_name_outside_the_tree() {
    let bench = filled();
    std::fs::hard_link(bench.p("a/f1"), bench.p("../outside")).expect("link");
    bench.put("a/f1", 0, b"changed");
    bench.put("a/new", 0, b"its directory is looked at, too");
    bench.before_hold(1000, |_| panic!("it does not come to its end"));
    bench.heal();
    bench.assert_equal();
}

/// Puts something in doubt.
fn mark(bench: &Bench, path: &str, aspect: Aspect) {
    let node = bench.at(path);
    let describe = || {
        let path = path.as_bytes().into();
        let ino = node.place(Side::Primary).ident().map_or(0, |i| i.ino);
        let object = Object {
            ino,
            handle: Box::default(),
            path,
        };
        (object, None)
    };
    let key = crate::journal::Key {
        serial: node.serial,
        aspect,
    };
    let want = crate::journal::Want {
        key,
        describe: &describe,
    };
    bench.journal.pin(&[want], None).expect("pinned").soil();
}

/// A large file has its content marked for itself. Whatever is marked around it, and though its
/// times differ, no more than that is read.
#[test]
fn large_files_among_marked_ones() {
    let bench = Bench::new();
    bench.mkdir("a");
    bench.put("a/big", 0, &vec![1; 12 << 20]);
    bench.put("a/other", 0, &vec![2; 3 << 20]);
    bench.put("a/small", 0, &[3; 1000]);
    bench.start();
    let compared = || {
        bench.heal();
        bench.assert_equal();
        bench.healing.lock().progress().bytes_compared
    };
    bench.put("a/big", 5 << 20, b"here");
    bench.put("a/new", 0, b"new");
    let region = 4 << 20;
    let read = compared();
    assert!((region..region + 4096).contains(&read), "{read}");
    bench.chmod("a/other", 0o600);
    bench.put("a/big", 9 << 20, b"there");
    mark(&bench, "a", Aspect::DirData);
    let read = compared();
    assert!((region..region + 4096).contains(&read), "{read}");
    // One that is large on one copy only.
    let node = bench.at("a/other");
    let cut = crate::store::Action::Truncate { node, size: 10 };
    drop(bench.apply(cut, &[]).expect("truncate"));
    mark(&bench, "a", Aspect::DirData);
    bench.heal();
    bench.assert_equal();
}

#[test]
fn whole_trees_and_whole_directories() {
    let bench = filled();
    // A directory that was born in the same tick as the mark would be looked at, too.
    bench.ages();
    let mark = |path: &str, aspect| mark(&bench, path, aspect);
    // Behind the mount, on the replica: only what the mark covers can be found.
    let spoil = |path: &str, bytes: &[u8]| std::fs::write(bench.r(path), bytes).expect(path);
    spoil("a/f1", b"FILE 1");
    spoil("a/extra", b"extra");
    mark("a", Aspect::DirData);
    bench.heal();
    bench.assert_equal();
    assert_eq!(bench.opened(), (20, 1));
    bench.checkpoint();
    spoil("a/b/g1", b"short");
    std::fs::remove_file(bench.r("a/b/g2")).expect("unlink");
    spoil("a/b/c/extra", b"extra");
    mark("a", Aspect::Tree);
    bench.heal();
    bench.assert_equal();
    assert_eq!(bench.opened().1, 3);
    bench.checkpoint();
    // An empty replica and one mark: seeding.
    for dir in ["a", "d"] {
        std::fs::remove_dir_all(bench.r(dir)).expect("removed");
    }
    for node in ["a", "d", "a/b", "a/b/c"] {
        drop(bench.at(node).forget_twin());
    }
    drop(bench.journal.mark_tree(Object::default()).expect("marked"));
    bench.heal();
    bench.assert_equal();
}

#[test]
fn who_cannot_be_found_by_a_path_is_found_by_handle_or_not_at_all() {
    let bench = filled();
    let marked = |path: &str| {
        let fd = std::fs::File::open(bench.p(path)).expect("open");
        Object {
            ino: fd.metadata().expect("stat").ino(),
            handle: crate::sys::at::file_handle(std::os::fd::AsFd::as_fd(&fd)),
            path: b"not/here".as_slice().into(),
        }
    };
    for path in ["a/b/c", "a/b/g3"] {
        let object = marked(path);
        if object.handle.is_empty() || !crate::sys::creds::privileged() {
            return eprintln!("skipped: no handles here");
        }
        std::fs::write(bench.r("a/b/c/extra"), b"extra").expect("write");
        std::fs::write(bench.r("a/b/g3"), b"spoiled").expect("write");
        // The kernel knows neither.
        let escalates = path == "a/b/g3";
        let fresh = Bench::over(bench.dir.clone());
        drop(fresh.journal.mark_tree(object).expect("marked"));
        let summary = fresh.heal();
        assert_eq!(summary.escalated, u64::from(escalates), "{path}");
        if escalates {
            fresh.assert_equal();
        } else {
            assert_eq!(fresh.differences().len(), 2, "{:?}", fresh.differences());
        }
    }
}

#[test]
fn nothing_is_removed_when_the_primary_is_not_itself() {
    let bench = filled();
    bench.unlink("a/f1");
    bench.vouches.store(false, Ordering::Relaxed);
    let Err(Stop::Fault(fault)) = bench.try_heal() else {
        panic!("it must fail");
    };
    assert_eq!(fault.errno, Some(crate::sys::Errno::NODEV));
    assert!(bench.r("a/f1").exists());
    assert!(!bench.journal.dirty().is_empty(), "dirty again");
    bench.vouches.store(true, Ordering::Relaxed);
    bench.heal();
    bench.assert_equal();
}

#[test]
fn whoever_stops_it_finds_the_rest_dirty() {
    let bench = filled();
    for n in 0..20 {
        bench.put(&format!("a/f{n}"), 0, b"changed");
    }
    let dirty = bench.journal.dirty().len();
    let healing = Healing::new();
    let stopped = healing.run(&bench, &AtomicBool::new(true), None);
    assert!(matches!(stopped, Err(Stop::Asked)));
    assert_eq!(bench.journal.dirty().len(), dirty);
    // A full disk, or what looks like one: a directory that cannot be written to.
    std::fs::remove_file(bench.r("a/f1")).expect("unlink");
    bench.heal();
    bench.assert_equal();
}

#[test]
fn a_clock_that_was_set_back_says_nothing() {
    let healing = Healing::new();
    let before = healing.since;
    let ago = |millis| before.minus(Duration::from_millis(millis));
    assert_eq!(healing.born_since(None), Some(ago(100)));
    assert_eq!(healing.born_since(Some(ago(7))), Some(ago(107)));
    // By a clock that cannot be set a second has gone; the other one knows nothing of it.
    let second = Duration::from_secs(1);
    let healing = Healing {
        began: healing.began.checked_sub(second).expect("up for a second"),
        ..healing
    };
    assert_eq!(healing.born_since(None), None);
    // Forwards is no harm: too much is looked at.
    let healing = Healing {
        since: before.minus(2 * second),
        ..healing
    };
    assert_eq!(
        healing.born_since(None),
        Some(before.minus(2 * second + Duration::from_millis(100)))
    );
}
