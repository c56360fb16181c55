// SPDX-License-Identifier: MIT
//! The start-up decision as a table: two roots, three flags, one answer.

use super::*;
use crate::mirror::attach::identity::{Covered, LogId, RootIdentity};
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
        covered: None,
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
        offline: false,
    }
}

/// The decision in one word: `seed`, `attach` (`walk`: after a comparison), `heal`, `repair`,
/// `compare`, `alone:NN` or `NN`.
fn word(primary: &Root, replica: Result<&Root, Errno>, flags: &str, log: &Log) -> String {
    let asked = Asked {
        degraded: flags.contains('d'),
        adopt: flags.contains('a'),
        init: flags.contains('i'),
        discard: flags.contains('x'),
    };
    match decide(primary, replica, asked, &typed(), log) {
        Decision::Seed => "seed".into(),
        Decision::Attach => "attach".into(),
        Decision::AttachCompared => "walk".into(),
        Decision::Heal => "heal".into(),
        Decision::AdoptCompareRepair => "repair".into(),
        Decision::AdoptCompareOnly => "compare".into(),
        Decision::DegradedWithout(refusal) => format!("alone:{}", refusal.id as u16),
        Decision::Refuse(refusal) => (refusal.id as u16).to_string(),
    }
}

/// Flags of the columns below: none, degraded, adopt, init, adopt and init.
const FLAGS: [&str; 5] = ["", "d", "a", "i", "ai"];

fn check(story: &str, primary: &Root, replica: Result<&Root, Errno>, row: [&str; 5]) {
    check_with(&Log::NotLooked, story, primary, replica, row);
}

fn check_with(
    log: &Log,
    story: &str,
    primary: &Root,
    replica: Result<&Root, Errno>,
    row: [&str; 5],
) {
    for (flags, want) in FLAGS.iter().zip(row) {
        assert_eq!(
            word(primary, replica, flags, log),
            want,
            "{story}, flags {flags:?}, log {log:?}"
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
        ["walk", "walk", "repair", "walk", "repair"],
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
        ["walk", "walk", "repair", "seed", "seed"],
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
    let row = ["14", "alone:14", "14", "14", "repair"];
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
    let Decision::Refuse(refusal) = decide(
        &primary,
        Ok(&bare),
        Asked::default(),
        &typed(),
        &Log::NotLooked,
    ) else {
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

/// A stamp whose replica a log covers since `intake`.
fn covered(mut stamp: Stamp, intake: u64, intake_before: Option<u64>) -> Stamp {
    let log = LogId {
        id: 0xabc,
        generation: 4,
    };
    stamp.covered = Some(Covered {
        log,
        intake,
        intake_before,
    });
    stamp
}

fn bad_logs() -> [Log; 5] {
    [
        Log::NotLooked,
        Log::Missing,
        Log::Damaged("its end is gone".into()),
        Log::Older,
        Log::Other,
    ]
}

/// Every pair that a good log brings back at once, and that no other log does.
#[test]
fn what_a_log_covers_is_healed() {
    let at = |stamp, is| root(Some(stamp), is, false);
    let p = |stamp| at(covered(stamp, 8, None), Match::Primary);
    let r = |stamp| at(covered(stamp, 8, None), Match::Replica);
    let with = |epochs, life, verdict: &Verdict| {
        let mut stamp = stamp(epochs, 9, life);
        stamp.verdict = verdict.clone();
        stamp
    };
    let in_sync = Verdict::InSync;
    let begun = Verdict::Inconsistent;
    let doubt = Verdict::Doubt {
        reason: "No space left on device".into(),
        errno: 28,
    };
    let open = |verdict| with(3, Life::Open, verdict);
    let healed = ["heal", "heal", "repair", "heal", "repair"];
    let again = ["20", "alone:20", "repair", "20", "repair"];
    let stale = ["19", "alone:19", "repair", "19", "repair"];
    let before = covered(clean(), 7, None);
    let begins = covered(stamp(3, 10, Life::Open), 8, Some(7));
    for (story, primary, replica, refused) in [
        ("killed", p(open(&in_sync)), r(open(&in_sync)), again),
        ("killed in close", p(open(&in_sync)), r(clean()), again),
        (
            "killed while the replica was taken in",
            at(begins, Match::Primary),
            at(before, Match::Replica),
            again,
        ),
        (
            "failed",
            p(open(&doubt)),
            r(with(2, Life::Open, &doubt)),
            stale,
        ),
        (
            "failed, nobody could tell it",
            p(open(&doubt)),
            r(with(2, Life::Open, &in_sync)),
            stale,
        ),
        (
            "failed, and the mount ended in order",
            p(with(3, Life::Clean, &doubt)),
            r(with(2, Life::Open, &doubt)),
            stale,
        ),
        (
            "gone at its end, alone since",
            p(with(4, Life::Clean, &doubt)),
            r(stamp(3, 8, Life::Clean)),
            stale,
        ),
        (
            "killed in a resync",
            p(open(&begun)),
            r(with(2, Life::Open, &begun)),
            stale,
        ),
        (
            "killed in a resync after a crash",
            p(open(&begun)),
            r(open(&begun)),
            again,
        ),
        (
            "killed at the end of a resync",
            p(open(&in_sync)),
            r(with(2, Life::Open, &begun)),
            stale,
        ),
    ] {
        check_with(&Log::Good, story, &primary, Ok(&replica), healed);
        for log in bad_logs() {
            check_with(&log, story, &primary, Ok(&replica), refused);
        }
        // An older copy of this replica: what the log has forgotten since may be missing there.
        let older = |found: &Root, intake| {
            let mut copy = found.clone();
            if let Found::Stamped(stamp) = &mut copy.found {
                **stamp = covered((**stamp).clone(), intake, None);
            }
            copy
        };
        let copy = older(&replica, 6);
        check_with(&Log::Good, story, &primary, Ok(&copy), refused);
        // No log in either stamp: as a mirror of the first version.
        let mut bare = (primary.clone(), replica.clone());
        for side in [&mut bare.0, &mut bare.1] {
            if let Found::Stamped(stamp) = &mut side.found {
                stamp.covered = None;
            }
        }
        check_with(&Log::Good, story, &bare.0, Ok(&bare.1), refused);
        check_with(&Log::Good, story, &bare.0, Ok(&replica), refused);
        check_with(&Log::Good, story, &primary, Ok(&bare.1), refused);
        // A clone stays a clone, a foreign one foreign.
        let clone = Root {
            is: Match::Neither,
            ..replica.clone()
        };
        let cloned = ["17", "alone:17", "repair", "17", "repair"];
        check_with(&Log::Good, story, &primary, Ok(&clone), cloned);
    }
}

/// A clean mirror is believed without a walk only when its log is there and speaks of this replica.
#[test]
fn a_clean_mirror_and_its_log() {
    let p = root(Some(covered(clean(), 8, None)), Match::Primary, false);
    let r = root(Some(covered(clean(), 8, None)), Match::Replica, false);
    let row = ["attach", "attach", "repair", "attach", "repair"];
    check_with(&Log::Good, "clean", &p, Ok(&r), row);
    let again = ["20", "alone:20", "repair", "20", "repair"];
    for log in bad_logs() {
        check_with(&log, "clean", &p, Ok(&r), again);
    }
    let older = root(Some(covered(clean(), 7, None)), Match::Replica, false);
    check_with(&Log::Good, "older copy", &p, Ok(&older), again);
    let mut open = covered(clean(), 8, None);
    open.life = Life::Open;
    let open = root(Some(open), Match::Replica, false);
    check_with(&Log::Good, "copied while mounted", &p, Ok(&open), again);
    let without = root(Some(clean()), Match::Replica, false);
    check_with(&Log::Good, "stamped without", &p, Ok(&without), again);
    let emptied = root(Some(covered(clean(), 8, None)), Match::Replica, true);
    let row = ["walk", "walk", "repair", "seed", "seed"];
    check_with(&Log::Good, "replica emptied", &p, Ok(&emptied), row);
}

/// P7: no log makes a fork, a swap or a blank directory good.
#[test]
fn a_good_log_excuses_no_wrong_directory() {
    let open = |epochs| covered(stamp(epochs, 9, Life::Open), 8, None);
    let p = root(Some(open(3)), Match::Primary, false);
    let r = |stamp| root(Some(stamp), Match::Replica, false);
    check_with(&Log::Good, "ahead", &p, Ok(&r(open(4))), ["21"; 5]);
    let mut forked = open(3);
    forked.history[2].began = 1;
    check_with(&Log::Good, "forked", &p, Ok(&r(forked.clone())), ["21"; 5]);
    assert_eq!(word(&p, Ok(&r(forked)), "ax", &Log::Good), "repair");
    let mut later = open(3);
    later.session = 10;
    check_with(&Log::Good, "later", &p, Ok(&r(later)), ["21"; 5]);
    let mut other = open(3);
    other.id = MirrorId(8 << 96);
    let row = ["16", "alone:16", "16", "16", "16"];
    check_with(&Log::Good, "foreign", &p, Ok(&r(other)), row);
    let bare = root(None, Match::Neither, true);
    let row = ["11", "alone:11", "11", "seed", "seed"];
    check_with(&Log::Good, "blank", &p, Ok(&bare), row);
    let emptied = root(Some(open(3)), Match::Primary, true);
    let row = ["14", "alone:14", "14", "14", "repair"];
    check_with(
        &Log::Good,
        "primary emptied",
        &emptied,
        Ok(&r(open(3))),
        row,
    );
    let gone = ["12", "alone:12", "12", "12", "12"];
    check_with(&Log::Good, "gone", &p, Err(Errno::NOENT), gone);
}

/// `promote` makes a replica a primary; the old one is recognised when it comes back.
#[test]
fn an_old_primary_comes_back() {
    let promoted = |history: Stamp| {
        let mut stamp = history;
        stamp.next_epoch(500);
        stamp.primary = REPLICA;
        stamp.replicas = Vec::new();
        stamp.session += 1;
        stamp
    };
    let new = root(Some(promoted(clean())), Match::Primary, false);
    let bare = root(None, Match::Neither, true);
    check("a new replica", &new, Ok(&bare), ["seed"; 5]);
    let other = root(None, Match::Neither, false);
    let row = ["11", "alone:11", "compare", "11", "repair"];
    check("a full one", &new, Ok(&other), row);
    let old = root(Some(clean()), Match::Primary, false);
    let row = ["19", "alone:19", "repair", "19", "repair"];
    check("the old one as replica", &new, Ok(&old), row);
    check("the old one as primary", &old, Ok(&new), ["21"; 5]);
    let mut alone = clean();
    alone.next_epoch(400);
    let alone = root(Some(alone), Match::Primary, false);
    check("it went on alone", &new, Ok(&alone), ["21"; 5]);
    assert_eq!(word(&new, Ok(&alone), "ax", &Log::NotLooked), "repair");
    // A mirror that was never whole asks, as ever.
    let mut never = clean();
    never.replicas.clear();
    never.verdict = Verdict::Doubt {
        reason: String::new(),
        errno: 0,
    };
    let never = root(Some(never), Match::Primary, false);
    let row = ["11", "alone:11", "11", "seed", "seed"];
    check("never had one", &never, Ok(&bare), row);
}

#[test]
fn a_refusal_says_what_is_wrong_with_the_log() {
    let p = root(Some(covered(clean(), 8, None)), Match::Primary, false);
    let r = root(Some(covered(clean(), 8, None)), Match::Replica, false);
    let told = |p: &Root, log: &Log| match decide(p, Ok(&r), Asked::default(), &typed(), log) {
        Decision::Refuse(refusal) => refusal.to_string(),
        other => panic!("{other:?}"),
    };
    let text = told(&p, &Log::Missing);
    let first = "cannot mount /data: the copies must be compared again: \
                 the write-intent log is missing.\n";
    assert!(text.starts_with(first), "{text}");
    assert!(text.contains("--adopt"), "{text}");
    let mut open = covered(clean(), 8, None);
    open.life = Life::Open;
    let open = root(Some(open), Match::Primary, false);
    let text = told(&open, &Log::Damaged("a hole".into()));
    assert!(text.contains("did not end in order."), "{text}");
    assert!(
        text.contains("And the write-intent log cannot be read: a hole."),
        "{text}"
    );
}

/// The replica's disk may have been anybody's; what is said of it goes to a terminal and to a log.
#[test]
fn a_reason_from_a_stamp_is_shown_as_one_line() {
    let mut failed = clean();
    failed.verdict = Verdict::Doubt {
        reason: "\x1b[2Jgone\nmirrorfs: all is well".to_owned(),
        errno: 5,
    };
    let p = root(Some(failed.clone()), Match::Primary, false);
    let r = root(Some(failed), Match::Replica, false);
    match decide(&p, Ok(&r), Asked::default(), &typed(), &Log::Missing) {
        Decision::Refuse(refusal) => {
            assert!(refusal.why.contains("gone") && !refusal.why.contains(char::is_control));
        }
        other => panic!("{other:?}"),
    }
}
