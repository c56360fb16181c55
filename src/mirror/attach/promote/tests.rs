// SPDX-License-Identifier: MIT
//! Who may become a primary, as a table; and what the old primary is then.

use super::*;
use crate::mirror::attach::identity::{Epoch, MirrorId};
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

fn stamp(epochs: u64, life: Life, verdict: Verdict) -> Stamp {
    Stamp {
        id: MirrorId(7 << 96),
        history: (1..=epochs)
            .map(|number| Epoch { number, began: 100 })
            .collect(),
        session: 9,
        life,
        verdict,
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

fn typed() -> Typed {
    Typed {
        replica: b"/backup/data".to_vec(),
        ..Typed::default()
    }
}

/// `yes`, or the number of the page; for no flag, `--primary-lost`, `--force`.
fn check(story: &str, r: &Stamp, is: Match, primary: Option<&Stamp>, row: [&str; 3]) {
    let replica = Root {
        found: Found::Stamped(Box::new(r.clone())),
        is,
        empty: false,
    };
    for (flags, want) in ["", "l", "f"].iter().zip(row) {
        let asked = Asked {
            force: flags.contains('f'),
            primary_lost: flags.contains('l'),
        };
        let word = match may_promote(&replica, r, primary, asked, &typed()) {
            Ok(_) => "yes".to_owned(),
            Err(refusal) => (refusal.id as u16).to_string(),
        };
        assert_eq!(word, want, "{story}, flags {flags:?}");
    }
}

#[test]
fn who_may_become_a_primary() {
    let doubt = || Verdict::Doubt {
        reason: "No space left on device".into(),
        errno: 28,
    };
    let clean = stamp(3, Life::Clean, Verdict::InSync);
    let open = stamp(3, Life::Open, Verdict::InSync);
    let is = Match::Replica;
    check("at rest", &clean, is, Some(&clean), ["yes"; 3]);
    check("primary away", &clean, is, None, ["28", "yes", "yes"]);
    check(
        "primary lost while mounted",
        &open,
        is,
        None,
        ["28", "yes", "yes"],
    );
    check("killed", &open, is, Some(&open), ["20", "20", "yes"]);
    let alone = stamp(4, Life::Clean, doubt());
    check("stale", &clean, is, Some(&alone), ["19", "19", "yes"]);
    let mut later = clean.clone();
    later.session = 10;
    check(
        "an older copy",
        &clean,
        is,
        Some(&later),
        ["19", "19", "yes"],
    );
    let mut forked = alone.clone();
    forked.history[2].began = 5;
    check("diverged", &clean, is, Some(&forked), ["21", "21", "yes"]);
    let failed = stamp(3, Life::Open, doubt());
    check(
        "failed, primary seen",
        &failed,
        is,
        Some(&alone),
        ["19", "19", "yes"],
    );
    check(
        "failed, primary away",
        &failed,
        is,
        None,
        ["19", "19", "yes"],
    );
    let half = stamp(3, Life::Open, Verdict::Inconsistent);
    for primary in [Some(&alone), None] {
        check("half a resync", &half, is, primary, ["20"; 3]);
    }
    check(
        "a clone",
        &clean,
        Match::Neither,
        Some(&clean),
        ["17", "17", "yes"],
    );
}

#[test]
fn it_is_told_as_the_interface_says() {
    let replica = stamp(3, Life::Clean, Verdict::InSync);
    let mut primary = stamp(4, Life::Clean, Verdict::InSync);
    primary.history[3].began = 1_795_126_000;
    let root = Root {
        found: Found::Stamped(Box::new(replica.clone())),
        is: Match::Replica,
        empty: false,
    };
    let no = may_promote(&root, &replica, Some(&primary), Asked::default(), &typed());
    let no = no.expect_err("refused");
    assert_eq!(
        no.why,
        "/backup/data is stale: it lacks changes made after epoch 3 (2026-11-19 22:06 UTC). \
         Not promoted."
    );
    assert_eq!(
        no.commands().collect::<Vec<_>>(),
        ["To promote it anyway and lose them:    mirrorfs promote --force /backup/data"]
    );
}

/// Whatever the clocks say, the old primary is never taken for the new one's equal.
#[test]
fn the_new_history_forks_from_every_other() {
    let replica = stamp(3, Life::Open, Verdict::InSync);
    let new = promoted(&replica, None, REPLICA, b"/backup/data", 200);
    assert_eq!((new.epoch(), new.history.len(), new.session), (5, 4, 10));
    assert_eq!(new.role_of(&REPLICA), Match::Primary);
    assert_eq!(new.role_of(&PRIMARY), Match::Neither);
    let mut old = replica.clone();
    assert_eq!(new.compare_history(&old), History::Stale { since: 3 });
    for _ in 0..3 {
        // It went on alone in the same second.
        old.next_epoch(200);
        assert_eq!(new.compare_history(&old), History::Diverged { since: 3 });
    }
}
