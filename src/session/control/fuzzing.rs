// SPDX-License-Identifier: MIT
//! Lines that anybody may say to a daemon, and that a daemon of anybody's may answer: for the fuzz
//! target and the test that runs its corpus (crate::fuzzing).

use std::fmt::Debug;

use super::wire::{Answer, Found, PROTOCOL, Request, Verified};
use crate::mirror::events::Change;
use crate::mirror::report::{DirtyList, Report};
use crate::session::refusal::Refusal;

/// What an answer holds that is shown to somebody.
#[derive(Debug)]
pub(crate) enum Shown {
    Report(Box<Report>),
    Dirty(DirtyList),
    Refusal(Refusal),
    Change(Change),
    Lost(u64),
    Found(Found),
    Verified(Verified),
    Progress(u64, u64),
    Nothing,
}

/// What a daemon reads.
pub(crate) fn request(line: &[u8]) {
    match Request::read(line) {
        Ok(request) => {
            let said = request.line().expect("it can be said");
            let number = said["protocol"].as_u64();
            assert!(number.is_some_and(|number| number <= PROTOCOL));
            let heard = Request::read(said.to_string().as_bytes()).expect("it is understood");
            same(&request, &heard);
        }
        Err(no) => assert_eq!(no.id.as_deref(), Some("MF-0035")),
    }
}

/// What a client hears, up to what it does not understand.
pub(crate) fn answers(lines: &[u8]) -> Vec<Shown> {
    let mut all = Vec::new();
    let whole = lines.split_inclusive(|&byte| byte == b'\n');
    let whole = whole.map_while(|line| line.strip_suffix(b"\n"));
    for answer in whole.map_while(|line| Answer::read(line).ok()) {
        let said = serde_json::to_vec(&answer).expect("it can be said");
        same(&answer, &Answer::read(&said).expect("it is understood"));
        all.push(match answer {
            Answer::Report { report } => Shown::Report(report),
            Answer::Dirty { list } => Shown::Dirty(list),
            Answer::Refused { refusal } => Shown::Refusal(refusal),
            Answer::Change { change } => Shown::Change(change),
            Answer::Lost { count } => Shown::Lost(count),
            Answer::Found { found } => Shown::Found(found),
            Answer::Verified { verified } => Shown::Verified(verified),
            Answer::Progress { files, bytes } => Shown::Progress(files, bytes),
            Answer::Done
            | Answer::Begun { .. }
            | Answer::Listening
            | Answer::Alive
            | Answer::Ended => Shown::Nothing,
        });
    }
    all
}

fn same(said: &impl Debug, heard: &impl Debug) {
    assert_eq!(
        format!("{said:?}"),
        format!("{heard:?}"),
        "it changes on the way"
    );
}

/// Every request and every kind of answer but reports.
#[cfg(test)]
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    use super::Verify;
    use crate::mirror::report::Dirty;
    use crate::mirror::state::ReplicaState;

    let requests = [
        ("status", Request::Status),
        ("umount", Request::Umount { lazy: true }),
        ("dirty", Request::Dirty { max: 7 }),
        ("sync", Request::Sync { full: true }),
        ("pause", Request::Pause),
        ("events", Request::Events),
        (
            "verify",
            Request::Verify {
                how: Verify::default(),
            },
        ),
    ];
    let mut seeds: Vec<_> = requests
        .into_iter()
        .map(|(name, request)| {
            let line = request.line().expect("it can be said").to_string();
            (name, [b"?", line.as_bytes()].concat())
        })
        .collect();
    let line = |answer: Answer| serde_json::to_string(&answer).expect("it can be said") + "\n";
    let mut change = Change::now("/backup/data", ReplicaState::InSync, ReplicaState::Failed);
    change.at_ms = 1_795_183_331_402;
    change.errno = Some("ENOSPC".to_owned());
    change.epoch = Some(8);
    change.why = "No space left on device (ENOSPC)".to_owned();
    let found = Found {
        path: b"d/caf\xe9".to_vec(),
        kind: "data".to_owned(),
        offset: Some(4096),
        detail: "differs at 4096".to_owned(),
    };
    let list = DirtyList {
        objects: vec![Dirty {
            path: b"d/film".to_vec(),
            aspect: "data".to_owned(),
            range: Some((4096, Some(8192))),
        }],
        total: 3,
    };
    let told = [
        line(Answer::Listening),
        line(Answer::Change { change }),
        line(Answer::Lost { count: 3 }),
        line(Answer::Alive),
        line(Answer::Ended),
    ];
    let verified = [
        line(Answer::Progress {
            files: 1204,
            bytes: 1 << 30,
        }),
        line(Answer::Found { found }),
        line(Answer::Verified {
            verified: Verified::default(),
        }),
    ];
    let rest = [
        line(Answer::Done),
        line(Answer::Begun { number: 3 }),
        line(Answer::Dirty { list }),
        line(Answer::Refused {
            refusal: Refusal::refused("the mirror is degraded.")
                .next("mirrorfs status /data")
                .id("MF-0030"),
        }),
    ];
    for (name, lines) in [
        ("told", told.concat()),
        ("verified", verified.concat()),
        ("rest", rest.concat()),
    ] {
        seeds.push((name, [b"!", lines.as_bytes()].concat()));
    }
    seeds
}

/// The line of a report.
#[cfg(test)]
pub(crate) fn report(report: Report) -> Vec<u8> {
    let answer = Answer::Report {
        report: Box::new(report),
    };
    let mut line = serde_json::to_vec(&answer).expect("it can be said");
    line.push(b'\n');
    line
}
