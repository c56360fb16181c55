// SPDX-License-Identifier: MIT
//! Stamps that anybody may have put on a tree: for the fuzz target and the test that runs its corpus
//! (crate::fuzzing).

use super::decide::{self, Asked, Decision, Found, Log, Root, Typed};
use super::identity::{COUNT_MAX, History, Life, Match, Role, Stamp};
use super::promote;
use super::refusal::Refusal;
use crate::sys::Errno;

/// Three bytes of circumstances, then two stamps with a NUL between them. A missing checksum is
/// supplied: it would keep a fuzzer out.
pub(crate) fn stamp(data: &[u8]) {
    let Some((&[how, which, log], texts)) = data.split_first_chunk() else {
        return;
    };
    let mut texts = texts.splitn(2, |byte| *byte == 0).map(found);
    let (p, r) = (texts.next(), texts.next());
    let found = |found: Option<Found>| found.unwrap_or(Found::Unstamped);
    let (p, r) = (found(p), found(r));
    for one in [&p, &r] {
        if let Found::Stamped(stamp) = one {
            alone(stamp);
        }
    }
    if let (Found::Stamped(p), Found::Stamped(r)) = (&p, &r) {
        together(p, r);
    }
    let is = |bits: u8| match bits % 4 {
        0 => Match::Primary,
        1 => Match::Replica,
        2 => Match::Neither,
        _ => Match::Unknown,
    };
    let bit = |n: u8| how >> n & 1 == 1;
    let primary = Root {
        found: p,
        is: is(which),
        empty: bit(4),
    };
    let replica = Root {
        found: r,
        is: is(which >> 2),
        empty: bit(5),
    };
    let asked = Asked {
        degraded: bit(0),
        adopt: bit(1),
        init: bit(2),
        discard: bit(3),
    };
    let typed = Typed {
        primary: b"/srv/data".to_vec(),
        mountpoint: b"/srv/data".to_vec(),
        replica: b"/backup/data".to_vec(),
        offline: bit(6),
    };
    decided(&primary, &replica, asked, &typed, log);
    promoting(&primary, &replica, &typed, how);
}

/// What a root that carries these bytes is found with; and what is read is all there was.
fn found(text: &[u8]) -> Found {
    if text.is_empty() {
        return Found::Unstamped;
    }
    if let Ok(stamp) = Stamp::parse(text) {
        assert_eq!(stamp.encode(), text, "a stamp has two spellings");
        return Found::Stamped(Box::new(stamp));
    }
    let mut sealed = text.to_vec();
    sealed.extend(format!("crc32={:08x}\n", crc32fast::hash(text)).into_bytes());
    match Stamp::parse(&sealed) {
        Ok(stamp) => {
            assert_eq!(stamp.encode(), sealed, "a stamp has two spellings");
            Found::Stamped(Box::new(stamp))
        }
        Err(corrupt) => Found::Corrupt(corrupt),
    }
}

fn alone(stamp: &Stamp) {
    for role in [Role::Primary, Role::Replica] {
        let carried = stamp.for_role(role);
        assert_eq!(Stamp::parse(&carried.encode()), Ok(carried));
    }
    assert_eq!(stamp.compare_history(stamp), History::Same);
    assert_eq!(stamp.covers(stamp), stamp.covered.is_some());
    assert_ne!(stamp.role_of(&stamp.primary), Match::Neither);
    // What the next mounts make of it.
    let mut next = stamp.clone();
    for _ in 0..3 {
        next.next_epoch(stamp.written);
        next.session += 1;
        next.covered = next.covered.map(|covered| covered.next().settled());
    }
    assert_eq!(next.epoch(), stamp.epoch() + 3);
    assert!(next.history.len() <= 32);
    let intake = next.covered.map_or(0, |covered| covered.intake);
    if [next.session, next.epoch(), intake]
        .into_iter()
        .all(|count| count <= COUNT_MAX)
    {
        assert_eq!(Stamp::parse(&next.encode()), Ok(next));
    }
}

fn together(p: &Stamp, r: &Stamp) {
    let mirrored = match p.compare_history(r) {
        History::Stale { since } => History::Newer { since },
        History::Newer { since } => History::Stale { since },
        other => other,
    };
    assert_eq!(r.compare_history(p), mirrored);
}

/// The stakes of decide.rs: nothing is believed, begun or repaired without its reason.
fn decided(primary: &Root, replica: &Root, asked: Asked, typed: &Typed, log: u8) {
    let log = match log % 6 {
        0 => Log::NotLooked,
        1 => Log::Good,
        2 => Log::Missing,
        3 => Log::Damaged("its header is of another version of mirrorfs".to_owned()),
        4 => Log::Older,
        _ => Log::Other,
    };
    let stamps = match (&primary.found, &replica.found) {
        (Found::Stamped(p), Found::Stamped(r)) => Some((p, r)),
        _ => None,
    };
    match decide::decide(primary, Ok(replica), asked, typed, &log) {
        Decision::Seed => assert!(replica.empty, "a replica that holds something is seeded"),
        Decision::Attach | Decision::AttachCompared => {
            let (p, r) = stamps.expect("two stamps");
            assert!(p.id == r.id && p.is_at_rest() && r.is_at_rest());
            assert!(p.session == r.session && p.compare_history(r) == History::Same);
        }
        Decision::Heal => {
            let (p, r) = stamps.expect("two stamps");
            assert!(p.id == r.id && p.covers(r) && log == Log::Good);
            assert!(r.session <= p.session && p.life == Life::Open || !p.is_at_rest());
        }
        Decision::AdoptCompareRepair | Decision::AdoptCompareOnly => assert!(asked.adopt),
        Decision::DegradedWithout(refusal) => {
            assert!(asked.degraded);
            told(&refusal);
        }
        Decision::Refuse(refusal) => told(&refusal),
    }
    let missing = decide::decide(primary, Err(Errno::NOENT), asked, typed, &log);
    assert!(matches!(
        missing,
        Decision::Refuse(_) | Decision::DegradedWithout(_)
    ));
}

fn promoting(primary: &Root, replica: &Root, typed: &Typed, how: u8) {
    let Found::Stamped(r) = &replica.found else {
        return;
    };
    let p = match &primary.found {
        Found::Stamped(p) if p.id == r.id => Some(&**p),
        _ => None,
    };
    let asked = promote::Asked {
        force: how & 1 == 1,
        primary_lost: how & 2 == 2,
    };
    match promote::may_promote(replica, r, p, asked, typed) {
        Ok(notes) => {
            notes.iter().for_each(|note| harmless(note));
            let stamp = promote::promoted(r, p, r.primary, &typed.replica, 1_795_183_331);
            assert!(stamp.session > r.session && stamp.epoch() == r.epoch() + 2);
            assert!(p.is_none_or(|p| stamp.session > p.session));
        }
        Err(refusal) => told(&refusal),
    }
}

fn told(refusal: &Refusal) {
    harmless(&refusal.why);
    refusal.more.iter().for_each(|line| harmless(line));
    refusal.commands().for_each(|line| harmless(&line));
}

/// A line of a message: what stands on a tree neither steers a terminal nor begins another line.
fn harmless(line: &str) {
    assert!(!line.chars().any(char::is_control), "{line:?}");
}

#[cfg(test)]
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    use super::identity::{Covered, Epoch, LogId, MirrorId, RootIdentity, Verdict};
    use crate::mirror::resync::{Lack, Lacks};
    use crate::store::stat::Time;

    let root = |ino| RootIdentity {
        uuid: Some(0x1234_5678_9abc_def0_1122_3344_5566_7788),
        ino,
        btime: Some(Time {
            seconds: 1_795_000_000,
            nanos: 5,
        }),
    };
    let bare = Stamp {
        id: MirrorId(0x6f2c_91ab_0000_0000_0000_0000_0000_0001),
        history: vec![Epoch {
            number: 1,
            began: 1_795_183_331,
        }],
        session: 12,
        life: Life::Clean,
        verdict: Verdict::InSync,
        lacks: Lacks::default(),
        primary: root(2),
        replicas: vec![root(128)],
        covered: None,
        role: None,
        primary_path: b"/srv/data".to_vec(),
        replica_path: b"/backup/data".to_vec(),
        written: 1_795_183_400,
    };
    let covered = Stamp {
        covered: Some(Covered {
            log: LogId {
                id: 0xabc,
                generation: 7,
            },
            intake: 3,
            intake_before: Some(2),
        }),
        ..bare.clone()
    };
    let mut lacks = Lacks::default();
    lacks.insert(Lack::Owner);
    let mut failed = Stamp {
        life: Life::Open,
        verdict: Verdict::Doubt {
            reason: "write a\\x0ab: No space left on device (ENOSPC)".to_owned(),
            errno: 28,
        },
        lacks,
        role: Some(Role::Primary),
        primary_path: b"/srv/\xff\n data".to_vec(),
        ..covered.clone()
    };
    failed.next_epoch(1_795_183_500);
    let pair = |how: [u8; 3], p: &Stamp, r: &Stamp| {
        // Without the checksum, as a fuzzer can change it.
        let open = |stamp: &Stamp| {
            let text = stamp.encode();
            text[..text.len() - "crc32=01234567\n".len()].to_vec()
        };
        [&how[..], &open(p), &[0], &open(r)].concat()
    };
    let sealed = [&[0, 4, 1][..], &covered.encode(), &[0], &covered.encode()].concat();
    vec![
        ("bare", pair([0, 4, 0], &bare, &bare)),
        ("covered", sealed),
        ("failed", pair([1, 4, 1], &failed, &covered)),
        ("forked", pair([2, 4, 2], &failed, &bare)),
        ("doubted", pair([0, 4, 1], &failed, &failed)),
        ("lost", [&[0, 6, 0][..], &[0], &bare.encode()].concat()),
    ]
}
