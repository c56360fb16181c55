// SPDX-License-Identifier: MIT
//! The start-up decision as a table: two roots, three flags, one answer.

use super::*;
use crate::mirror::attach::identity::RootIdentity;
use crate::mirror::resync::Lacks;

const PRIMARY: RootIdentity = RootIdentity {
    uuid: Some(1),
    ino: 2,
    btime: None,
};
const REPLICA: RootIdentity = RootIdentity {
    uuid: Some(2),
    ino: 2,
    btime: None,
};

fn stamp(epochs: u64, session: u64, life: Life) -> Stamp {
    Stamp {
        id: MirrorId(7 << 96),
        history: (1..=epochs)
            .map(|number| Epoch { number, began: 100 })
            .collect(),
        session,
        life,
        verdict: Verdict::InSync,
        lacks: Lacks::default(),
        primary: PRIMARY,
        replicas: vec![REPLICA],
        role: None,
        primary_path: b"/srv/data".to_vec(),
        replica_path: b"/backup/data".to_vec(),
        written: 1_795_126_000,
    }
}

fn clean() -> Stamp {
    stamp(3, 9, Life::Clean)
}

fn root(found: Option<Stamp>, is: Match, empty: bool) -> Root {
    let found = found.map_or(Found::Unstamped, |stamp| Found::Stamped(Box::new(stamp)));
    Root { found, is, empty }
}

fn typed() -> Typed {
    Typed {
        primary: b"/srv/data".to_vec(),
        mountpoint: b"/data".to_vec(),
        replica: b"/backup/data".to_vec(),
    }
}

/// The decision in one word: `seed`, `attach`, `repair`, `compare`, `alone:NN` or `NN`.
fn word(primary: &Root, replica: Result<&Root, Errno>, flags: &str) -> String {
    let asked = Asked {
        degraded: flags.contains('d'),
        adopt: flags.contains('a'),
        init: flags.contains('i'),
    };
    match decide(primary, replica, asked, &typed()) {
        Decision::Seed => "seed".into(),
        Decision::Attach => "attach".into(),
        Decision::AdoptCompareRepair => "repair".into(),
        Decision::AdoptCompareOnly => "compare".into(),
        Decision::DegradedWithout(refusal) => format!("alone:{}", refusal.id as u16),
        Decision::Refuse(refusal) => (refusal.id as u16).to_string(),
    }
}

/// Flags of the columns below: none, degraded, adopt, init, adopt and init.
const FLAGS: [&str; 5] = ["", "d", "a", "i", "ai"];

fn check(story: &str, primary: &Root, replica: Result<&Root, Errno>, row: [&str; 5]) {
    for (flags, want) in FLAGS.iter().zip(row) {
        assert_eq!(
            word(primary, replica, flags),
            want,
            "{story}, flags {flags:?}"
        );
    }
}

#[test]
fn the_first_mount() {
    let (full, empty) = (
        root(None, Match::Unknown, false),
        root(None, Match::Unknown, true),
    );
    check("empty replica", &full, Ok(&empty), ["seed"; 5]);
    check("both empty", &empty, Ok(&empty), ["seed"; 5]);
    check(
        "full replica",
        &full,
        Ok(&full),
        ["13", "alone:13", "compare", "13", "repair"],
    );
    check("blank primary", &empty, Ok(&full), ["14"; 5]);
    check(
        "no replica",
        &full,
        Err(Errno::NOENT),
        ["12", "alone:12", "12", "12", "12"],
    );
}

#[test]
fn a_known_pair() {
    let primary = root(Some(clean()), Match::Primary, false);
    let replica = root(Some(clean()), Match::Replica, false);
    check(
        "clean",
        &primary,
        Ok(&replica),
        ["attach", "attach", "repair", "attach", "repair"],
    );
    let again = ["20", "alone:20", "repair", "20", "repair"];
    let open = |which: &Root| {
        let is = which.is;
        root(Some(stamp(3, 9, Life::Open)), is, false)
    };
    check("killed", &open(&primary), Ok(&open(&replica)), again);
    check("killed in close", &primary, Ok(&open(&replica)), again);
    check(
        "killed in open",
        &root(Some(stamp(3, 10, Life::Open)), Match::Primary, false),
        Ok(&replica),
        again,
    );
    for verdict in [
        Verdict::Inconsistent,
        Verdict::Doubt {
            reason: "No space left on device".into(),
            errno: 28,
        },
    ] {
        let mut doubtful = clean();
        doubtful.verdict = verdict;
        check(
            "doubt",
            &root(Some(doubtful.clone()), Match::Primary, false),
            Ok(&replica),
            again,
        );
        check(
            "doubt",
            &primary,
            Ok(&root(Some(doubtful), Match::Replica, false)),
            again,
        );
    }
    let gone = ["12", "alone:12", "12", "12", "12"];
    check("replica gone", &primary, Err(Errno::NOENT), gone);
    let emptied = root(Some(clean()), Match::Replica, true);
    check(
        "replica emptied",
        &primary,
        Ok(&emptied),
        ["attach", "attach", "repair", "seed", "seed"],
    );
}

/// P7: nothing that is not this mirror's own replica, at its present epoch, is ever believed.
#[test]
fn stale_ahead_and_diverged_copies() {
    let primary = root(Some(clean()), Match::Primary, false);
    let at = |stamp| root(Some(stamp), Match::Replica, false);
    let stale = ["19", "alone:19", "repair", "19", "repair"];
    check(
        "older epoch",
        &primary,
        Ok(&at(stamp(2, 8, Life::Clean))),
        stale,
    );
    check(
        "older session",
        &primary,
        Ok(&at(stamp(3, 8, Life::Clean))),
        stale,
    );
    check(
        "newer epoch",
        &primary,
        Ok(&at(stamp(4, 9, Life::Clean))),
        ["21"; 5],
    );
    check(
        "newer session",
        &primary,
        Ok(&at(stamp(3, 10, Life::Clean))),
        ["21"; 5],
    );
    let mut forked = clean();
    forked.history[2].began = 1;
    check("forked", &primary, Ok(&at(forked.clone())), ["21"; 5]);
    let emptied = root(Some(forked), Match::Replica, true);
    check(
        "forked, emptied",
        &primary,
        Ok(&emptied),
        ["21", "21", "21", "seed", "seed"],
    );
}

#[test]
fn foreign_swapped_and_cloned_directories() {
    let primary = root(Some(clean()), Match::Primary, false);
    let mut other = clean();
    other.id = MirrorId(8 << 96);
    let foreign = root(Some(other.clone()), Match::Replica, false);
    check(
        "foreign",
        &primary,
        Ok(&foreign),
        ["16", "alone:16", "16", "16", "16"],
    );
    let emptied = root(Some(other), Match::Replica, true);
    check(
        "foreign, emptied",
        &primary,
        Ok(&emptied),
        ["16", "alone:16", "16", "seed", "seed"],
    );
    let (p, r) = (
        root(Some(clean()), Match::Replica, false),
        root(Some(clean()), Match::Primary, false),
    );
    check("swapped", &p, Ok(&r), ["15"; 5]);
    check(
        "a replica as primary",
        &p,
        Ok(&root(None, Match::Neither, true)),
        ["15"; 5],
    );
    check(
        "a primary as replica",
        &root(None, Match::Unknown, false),
        Ok(&r),
        ["15"; 5],
    );
    let clone = root(Some(clean()), Match::Neither, false);
    check(
        "cloned replica",
        &primary,
        Ok(&clone),
        ["17", "alone:17", "repair", "17", "repair"],
    );
    let replica = root(Some(clean()), Match::Replica, false);
    check(
        "cloned primary",
        &clone,
        Ok(&replica),
        ["17", "17", "repair", "17", "repair"],
    );
}

/// The classic accident: a disk that is not mounted looks like an empty directory.
#[test]
fn unmounted_disks() {
    let primary = root(Some(clean()), Match::Primary, false);
    let replica = root(Some(clean()), Match::Replica, false);
    let bare = root(None, Match::Neither, true);
    check(
        "replica's",
        &primary,
        Ok(&bare),
        ["11", "alone:11", "11", "seed", "seed"],
    );
    let other = root(None, Match::Neither, false);
    let row = ["11", "alone:11", "compare", "11", "repair"];
    check("another directory in its place", &primary, Ok(&other), row);
    check("primary's", &bare, Ok(&replica), ["14"; 5]);
    check(
        "primary's, replica never filled",
        &bare,
        Ok(&root(Some(clean()), Match::Replica, true)),
        ["14", "14", "14", "seed", "seed"],
    );
    check("both", &bare, Ok(&bare), ["seed"; 5]);
    check(
        "primary's, and no replica",
        &bare,
        Err(Errno::NOENT),
        ["12", "alone:12", "12", "12", "12"],
    );
    let emptied = root(Some(clean()), Match::Primary, true);
    let row = ["14", "attach", "14", "14", "repair"];
    check("everything deleted", &emptied, Ok(&replica), row);
}

#[test]
fn lost_and_damaged_stamps() {
    let primary = root(Some(clean()), Match::Primary, false);
    let replica = root(Some(clean()), Match::Replica, false);
    let bad = |empty| Root {
        found: Found::Corrupt(Corrupt::Damaged),
        is: Match::Unknown,
        empty,
    };
    check(
        "replica's",
        &primary,
        Ok(&bad(false)),
        ["18", "alone:18", "18", "18", "repair"],
    );
    check(
        "replica's, emptied",
        &primary,
        Ok(&bad(true)),
        ["18", "alone:18", "18", "seed", "seed"],
    );
    check(
        "primary's",
        &bad(false),
        Ok(&replica),
        ["18", "18", "18", "18", "repair"],
    );
    let lost = root(None, Match::Primary, false);
    let row = ["20", "alone:20", "repair", "20", "repair"];
    check("primary lost it", &lost, Ok(&replica), row);
    let unknown = root(None, Match::Neither, false);
    let row = ["16", "alone:16", "compare", "16", "repair"];
    check("another primary", &unknown, Ok(&replica), row);
}

#[test]
fn the_unmounted_disk_is_told_as_the_interface_says() {
    let primary = root(Some(clean()), Match::Primary, false);
    let bare = root(None, Match::Neither, true);
    let Decision::Refuse(refusal) = decide(&primary, Ok(&bare), Asked::default(), &typed()) else {
        panic!("refused");
    };
    assert_eq!(
        refusal.to_string(),
        "cannot mount /data: the replica /backup/data carries no mirrorfs stamp.\n  \
         This mirror last wrote there at 2026-11-19 22:06 UTC. Is the disk mounted?\n  \
         To run on one copy for now:     mirrorfs mount /srv/data /data --replica /backup/data -o degraded\n  \
         To start over with this one:    \
         mirrorfs mount /srv/data /data --replica /backup/data --init  [MF-0011]"
    );
}
