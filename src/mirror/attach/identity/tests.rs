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
    }
    assert_eq!(stamp.id.to_string(), "6f2c91ab");
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
    let body = "mirrorfs-stamp 2\nanything\n";
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
