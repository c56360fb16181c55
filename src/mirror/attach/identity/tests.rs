// SPDX-License-Identifier: MIT
//! Stamps written, bent, cut short and compared.

use super::*;

fn sample() -> Stamp {
    let mut lacks = Lacks::default();
    lacks.insert(Lack::Owner);
    lacks.insert(Lack::Entry);
    Stamp {
        id: MirrorId(0x6f2c_91ab_0000_0000_0000_0000_0000_0001),
        history: vec![
            Epoch {
                number: 1,
                began: 1_795_183_331,
            },
            Epoch {
                number: 2,
                began: -7,
            },
        ],
        session: 12,
        life: Life::Open,
        verdict: Verdict::Doubt {
            reason: "No space\nleft: 100 %".to_owned(),
            errno: 28,
        },
        lacks,
        primary: RootIdentity {
            uuid: Some(7),
            ino: 2,
            btime: Some(Time {
                seconds: -1,
                nanos: 5,
            }),
        },
        replicas: vec![
            RootIdentity {
                uuid: None,
                ino: 128,
                btime: None,
            },
            RootIdentity {
                uuid: Some(u128::MAX),
                ino: u64::MAX,
                btime: None,
            },
        ],
        covered: Some(Covered {
            log: LogId {
                id: 0xabc,
                generation: 7,
            },
            intake: 3,
            intake_before: Some(2),
        }),
        role: Some(Role::Replica),
        primary_path: b"/srv/\xff\n data".to_vec(),
        replica_path: b"".to_vec(),
        written: 1_795_183_400,
    }
}

#[test]
fn a_stamp_reads_back_as_it_was_written() {
    let mut stamp = sample();
    for (life, verdict, role) in [
        (Life::Open, stamp.verdict.clone(), Some(Role::Replica)),
        (Life::Clean, Verdict::InSync, None),
        (Life::Clean, Verdict::Inconsistent, Some(Role::Primary)),
    ] {
        (stamp.life, stamp.verdict, stamp.role) = (life, verdict, role);
        assert_eq!(Stamp::parse(&stamp.encode()), Ok(stamp.clone()));
        stamp.covered = stamp.covered.map(|covered| Covered {
            intake_before: None,
            ..covered
        });
        assert_eq!(Stamp::parse(&stamp.encode()), Ok(stamp.clone()));
    }
    assert_eq!(stamp.id.to_string(), "6f2c91ab");
}

/// What the version before wrote, byte by byte: such a mirror mounts today.
#[test]
fn a_stamp_of_the_first_version_is_read_and_kept() {
    let body = "mirrorfs-stamp 1\nid=6f2c91ab000000000000000000000001\nhistory=1:1795183331,2:-7\n\
                session=12\nstate=clean\nverdict=in-sync\nlacks=\n\
                primary=00000000000000000000000000000007,2,1795000000.000000005\n\
                replica=00000000000000000000000000000008,128,-\n\
                primary-path=/srv/data\nreplica-path=/backup/data\nwritten=1795183400\n";
    let seal = |body: &str| format!("{body}crc32={:08x}\n", crc32fast::hash(body.as_bytes()));
    let text = seal(body);
    let stamp = Stamp::parse(text.as_bytes()).expect("a stamp");
    assert_eq!((stamp.covered, stamp.session, stamp.epoch()), (None, 12, 2));
    assert!(stamp.is_at_rest());
    assert_eq!(stamp.encode(), text.as_bytes());
    // A version that does not fit what follows is nobody's spelling.
    let wrong = seal(&body.replace("mirrorfs-stamp 1", "mirrorfs-stamp 2"));
    assert_eq!(Stamp::parse(wrong.as_bytes()), Err(Corrupt::Damaged));
    let wrong = seal(&body.replace(
        "primary-path",
        "journal=0000000000000abc:7\nattached=3\nprimary-path",
    ));
    assert_eq!(Stamp::parse(wrong.as_bytes()), Err(Corrupt::Damaged));
}

/// The next mount, the next failure and the next log count on from what is read.
#[test]
fn a_number_that_cannot_grow_is_damage() {
    type Set = fn(&mut Stamp, u64);
    let fields: [(&str, Set); 5] = [
        ("session", |stamp, n| stamp.session = n),
        ("epoch", |stamp, n| stamp.history[1].number = n),
        ("generation", |stamp, n| {
            if let Some(covered) = &mut stamp.covered {
                covered.log.generation = n;
            }
        }),
        ("intake", |stamp, n| {
            if let Some(covered) = &mut stamp.covered {
                covered.intake = n;
            }
        }),
        ("intake before", |stamp, n| {
            if let Some(covered) = &mut stamp.covered {
                covered.intake_before = Some(n);
            }
        }),
    ];
    for (what, set) in fields {
        let mut stamp = sample();
        set(&mut stamp, COUNT_MAX);
        assert_eq!(Stamp::parse(&stamp.encode()), Ok(stamp.clone()), "{what}");
        for n in [COUNT_MAX + 1, u64::MAX] {
            set(&mut stamp, n);
            assert_eq!(
                Stamp::parse(&stamp.encode()),
                Err(Corrupt::Damaged),
                "{what}"
            );
        }
    }
}

/// A copy of the replica from before the log forgot something is not what the log is about.
#[test]
fn a_log_covers_only_the_replica_it_was_kept_for() {
    let primary = sample();
    let with = |id, generation, intake| {
        let mut stamp = sample();
        let log = LogId { id, generation };
        stamp.covered = Some(Covered {
            log,
            intake,
            intake_before: None,
        });
        stamp
    };
    assert!(primary.covers(&with(0xabc, 7, 3)));
    assert!(primary.covers(&with(0xabc, 6, 2)), "not stamped yet");
    assert!(!primary.covers(&with(0xabc, 5, 1)), "an older copy");
    assert!(!primary.covers(&with(0xabc, 8, 4)), "a newer one");
    assert!(!primary.covers(&with(0xabd, 7, 3)), "another log");
    let mut without = sample();
    without.covered = None;
    assert!(!primary.covers(&without) && !without.covers(&primary) && !without.covers(&without));
}

/// A stamp decides whether a replica is trusted: nothing that is not whole may pass for one.
#[test]
fn no_prefix_and_no_flipped_bit_is_a_stamp() {
    let whole = sample().encode();
    for len in 0..whole.len() {
        assert!(Stamp::parse(&whole[..len]).is_err(), "prefix of {len}");
    }
    for at in 0..whole.len() {
        for byte in 0..=255 {
            let mut bent = whole.clone();
            if bent[at] != byte {
                bent[at] = byte;
                assert!(Stamp::parse(&bent).is_err(), "byte {at} as {byte}");
            }
        }
    }
    let mut longer = whole.clone();
    longer.push(b'\n');
    assert_eq!(Stamp::parse(&longer), Err(Corrupt::Damaged));
}

#[test]
fn a_newer_format_is_named_as_such() {
    let body = "mirrorfs-stamp 3\nanything\n";
    let text = format!("{body}crc32={:08x}\n", crc32fast::hash(body.as_bytes()));
    assert_eq!(Stamp::parse(text.as_bytes()), Err(Corrupt::Newer));
}

#[test]
fn histories_compare_by_their_common_beginning() {
    let with = |epochs: &[(u64, i64)]| {
        let mut stamp = sample();
        stamp.history = epochs
            .iter()
            .map(|&(number, began)| Epoch { number, began })
            .collect();
        stamp
    };
    let here = with(&[(1, 10), (2, 20), (3, 30)]);
    for (other, relation) in [
        (&[(1, 10), (2, 20), (3, 30)][..], History::Same),
        (&[(2, 20), (3, 30)], History::Same),
        (&[(1, 10), (2, 20)], History::Stale { since: 2 }),
        (
            &[(1, 10), (2, 20), (3, 30), (4, 1)],
            History::Newer { since: 3 },
        ),
        (&[(1, 10), (2, 20), (3, 31)], History::Diverged { since: 2 }),
        (&[(1, 11)], History::Diverged { since: 0 }),
        (&[(9, 9)], History::Diverged { since: 0 }),
    ] {
        assert_eq!(here.compare_history(&with(other)), relation, "{other:?}");
    }
    let mut long = sample();
    (0..100).for_each(|at| long.next_epoch(at));
    assert_eq!((long.history.len(), long.epoch()), (HISTORY_MAX, 102));
}

#[test]
fn a_root_is_what_its_identity_says() {
    let at = |uuid, ino| RootIdentity {
        uuid,
        ino,
        btime: None,
    };
    let mut stamp = sample();
    stamp.role = None;
    stamp.primary = at(Some(1), 2);
    stamp.replicas = vec![at(Some(1), 3)];
    assert!(stamp.tells_apart());
    assert_eq!(
        stamp.for_role(Role::Replica),
        stamp,
        "equal to the byte on both roots"
    );
    assert_eq!(stamp.role_of(&at(Some(1), 2)), Match::Primary);
    assert_eq!(stamp.role_of(&at(Some(1), 3)), Match::Replica);
    assert_eq!(stamp.role_of(&at(Some(2), 3)), Match::Neither);
    stamp.replicas = vec![at(Some(1), 2)];
    assert!(!stamp.tells_apart());
    assert_eq!(stamp.role_of(&at(Some(1), 2)), Match::Unknown);
    let replica = stamp.for_role(Role::Replica);
    assert_eq!(replica.role_of(&at(Some(1), 2)), Match::Replica);
    stamp.replicas = vec![at(None, 3)];
    assert!(!stamp.tells_apart());
}
