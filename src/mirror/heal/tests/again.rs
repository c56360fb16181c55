// SPDX-License-Identifier: MIT
//! Looking again: what a walk through moving trees suspects is told from what differs.
#![allow(
    clippy::disallowed_methods,
    reason = "tests change the trees behind the mirror's back, by path"
)]

use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::atomic::AtomicBool;

use super::bench::{Bench, Way};
use super::filled;
use crate::journal::{Aspect, Mark};
use crate::mirror::heal::again::{Again, Broken};
use crate::mirror::resync::{Difference, Kind, Lacks};

fn suspect(bench: &Bench, path: &str, kind: Kind, other: Option<&str>) -> Difference {
    let parts: Vec<_> = path.split('/').collect();
    let above = (1..=parts.len()).map(|n| parts[..n].join("/"));
    let inos = above.map_while(|path| Some(std::fs::symlink_metadata(bench.p(&path)).ok()?.ino()));
    Difference {
        path: path.into(),
        kind,
        offset: None,
        detail: "suspected".to_owned(),
        other: other.map(|other| other.as_bytes().to_vec()),
        trail: inos.collect(),
    }
}

/// What of it differs: path, kind and words, the time of the flip itself left out.
fn again(bench: &Bench, found: &[Difference]) -> Vec<String> {
    let stop = AtomicBool::new(false);
    let left = Again::new(bench, false, Lacks::default(), &stop).look(found);
    let left = left.expect("looked").into_iter();
    left.filter(|one| !one.detail.starts_with("modified "))
        .map(|one| {
            let path = String::from_utf8(one.path).expect("text");
            format!("{} {path} {}", one.kind.word(), one.detail)
        })
        .collect()
}

fn flip(bench: &Bench, path: &str) {
    let options = std::fs::File::options().write(true).open(bench.r(path));
    options
        .expect("open")
        .write_all_at(b"!", 5000)
        .expect("write");
}

/// A suspicion that has no ground any more is dropped, of whatever kind it is.
#[test]
fn what_does_not_differ_is_not_reported() {
    let bench = filled();
    let suspects = [
        suspect(&bench, "a/f1", Kind::Data, None),
        suspect(&bench, "a/b", Kind::Entry, None),
        suspect(&bench, "d/link", Kind::Entry, None),
        suspect(&bench, "", Kind::Metadata, None),
        suspect(&bench, "gone", Kind::Entry, None),
        suspect(&bench, "gone/too", Kind::Metadata, None),
        suspect(&bench, "a/f1", Kind::Entry, Some("a/f2")),
    ];
    assert_eq!(again(&bench, &suspects), Vec::<String>::new());
}

/// What could not be compared because it was coming or going is compared to its last file.
#[test]
fn what_the_walk_passed_by_is_looked_into() {
    let bench = filled();
    flip(&bench, "a/b/g7");
    std::fs::write(bench.r("a/b/c/extra"), "").expect("write");
    std::fs::remove_file(bench.r("a/f2")).expect("unlink");
    let suspects = [suspect(&bench, "a", Kind::Entry, None)];
    assert_eq!(
        again(&bench, &suspects),
        [
            "entry a/b/c/extra on replica only",
            "data a/b/g7 4 KiB differ at 4096",
            "entry a/f2 on primary only",
        ]
    );
    // Of what is known to be a matter of attributes only those are looked at.
    let suspects = [suspect(&bench, "a/b", Kind::Metadata, None)];
    assert_eq!(again(&bench, &suspects), Vec::<String>::new());
}

/// What was moved since the walk, or lies below what was, is found where it is now.
#[test]
fn what_was_moved_is_followed() {
    let bench = filled();
    flip(&bench, "a/b/g7");
    flip(&bench, "a/b/g8");
    let suspects = [
        suspect(&bench, "a/b/g7", Kind::Data, None),
        suspect(&bench, "a/b/g8", Kind::Data, None),
    ];
    bench.go(Way::Both);
    bench.rename("a/b/g8", "d/g8");
    bench.rename("a/b", "d/moved");
    bench.rename("a", "z");
    assert_eq!(
        again(&bench, &suspects),
        [
            "data d/moved/g7 4 KiB differ at 4096",
            "data d/g8 4 KiB differ at 4096",
        ]
    );
}

/// What took the name of a directory has nothing below it; what was there is followed.
#[test]
fn a_directory_that_is_none_any_more() {
    let bench = filled();
    flip(&bench, "a/b/g7");
    let suspects = [
        suspect(&bench, "a/b/g7", Kind::Data, None),
        suspect(&bench, "a/b/g8", Kind::Data, None),
        suspect(&bench, "a/b/g8", Kind::Entry, Some("a/f2")),
    ];
    bench.go(Way::Both);
    bench.swap("a/b", "d/link");
    assert_eq!(
        again(&bench, &suspects),
        ["data d/link/g7 4 KiB differ at 4096"]
    );
    let stop = AtomicBool::new(false);
    let entry = [suspect(&bench, "a/b/g7", Kind::Entry, None)];
    let marked = Again::new(&bench, false, Lacks::default(), &stop).mark(&entry);
    assert!(marked.is_ok(), "{marked:?}");
    let dirty = bench.journal.dirty();
    let of_names = |mark: &Mark| mark.aspect == Aspect::Dir;
    assert!(!dirty.iter().any(|(mark, _)| of_names(mark)), "{dirty:?}");
}

/// Which names are one inode is a matter of both names.
#[test]
fn hard_links_are_compared_by_both_names() {
    let bench = filled();
    bench.go(Way::Both);
    bench.link("a/f1", "d/one");
    let link = |other: &str| suspect(&bench, "d/one", Kind::Entry, Some(other));
    assert_eq!(again(&bench, &[link("a/f1")]), Vec::<String>::new());
    std::fs::remove_file(bench.r("d/one")).expect("unlink");
    std::fs::copy(bench.r("a/f1"), bench.r("d/one")).expect("copy");
    assert_eq!(
        again(&bench, &[link("a/f1")]),
        ["entry d/one hard link of a/f1 on primary only"]
    );
    std::fs::remove_file(bench.r("d/one")).expect("unlink");
    std::fs::hard_link(bench.r("a/f2"), bench.r("d/one")).expect("link");
    assert_eq!(
        again(&bench, &[link("a/f2")]),
        ["entry d/one hard link of a/f2 on replica only"]
    );
    std::fs::remove_file(bench.r("d/one")).expect("unlink");
    std::fs::hard_link(bench.p("a/f3"), bench.r("d/one")).expect("link");
    assert_eq!(
        again(&bench, &[link("a/f3")]),
        ["entry d/one one inode in both copies"]
    );
}

#[test]
fn it_stops_when_it_is_asked_to() {
    let bench = filled();
    let suspects = [suspect(&bench, "a/f1", Kind::Data, None)];
    let stop = AtomicBool::new(true);
    let left = Again::new(&bench, false, Lacks::default(), &stop).look(&suspects);
    assert!(matches!(left, Err(Broken::Asked)));
}
