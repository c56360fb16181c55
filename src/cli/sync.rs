// SPDX-License-Identifier: MIT
//! `mirrorfs sync MOUNTPOINT`: brings the replica in-sync, and returns when it is.
//!
//! The daemon does the work and goes on with it when this process is gone.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::args::SyncArgs;
use super::complain;
use super::config;
use super::exit::Exit;
use super::interrupt::Interrupt;
use super::line::Line;
use super::reach::{self, Silence};
use super::render::{self, harmless};
use super::sync_offline::{self, Words};
use super::units::{show_count, show_duration, show_size};
use crate::mirror::failure::Shown;
use crate::mirror::report::{Report, Resync};
use crate::mirror::state::MirrorState;
use crate::session::refusal::Refusal;
use crate::sys::clock;

/// How often the daemon is asked, at first and later.
const SOON: Duration = Duration::from_millis(10);
const LATER: Duration = Duration::from_millis(200);

pub(super) fn run(args: &SyncArgs) -> Exit {
    if let Some(replica) = &args.replica {
        let words = Words {
            dry_run: args.dry_run,
            init: args.init,
            discard: args.discard.as_deref(),
            full: args.full,
            max_delete: args.max_delete,
            metadata_loss: config::metadata_loss(args.metadata_loss),
            one_file_system: args.one_file_system,
            bwlimit: args.bwlimit,
        };
        return sync_offline::run(&args.place, replica, words);
    }
    live(args).unwrap_or_else(|silence| {
        let (exit, refusal) = match silence {
            Silence::No(refusal) => (Exit::answer(refusal.kind), refusal),
            Silence::Nobody(refusal) => (Exit::Unknown, refusal),
        };
        complain(&format!("cannot sync {}: {refusal}", args.place.shown()));
        exit
    })
}

fn live(args: &SyncArgs) -> Result<Exit, Silence> {
    let interrupt = Interrupt::start().map_err(Silence::Nobody)?;
    let mount = reach::one(&args.place).map_err(Silence::Nobody)?;
    let began = Instant::now();
    let number = reach::ask(&mount, |client| client.sync(args.full))?;
    if args.no_wait {
        return Ok(Exit::Success);
    }
    let mut line = Line::new(std::io::stderr(), std::io::stderr().is_terminal());
    let mut pause = SOON;
    let mut word = None;
    loop {
        let report = reach::report(&mount).map_err(Silence::Nobody)?;
        let resync = resync(&report);
        if report.syncs.over >= number {
            // The word for what it was: now the state is another.
            let word = word.unwrap_or_else(|| render::healing(&report));
            line.finish(resync.map(|resync| shown(word, resync)).as_deref());
            return Ok(end(&report, number, began.elapsed()));
        }
        let word = *word.insert(render::healing(&report));
        line.update(|| match resync {
            Some(resync) => shown(word, resync),
            None => word.to_owned(),
        });
        if interrupt.comes_within(pause) {
            line.finish(None);
            complain(&format!(
                "the resync of {} goes on. How far it is: mirrorfs status {}",
                mount.target.shown(),
                mount.target.quoted()
            ));
            return Ok(Exit::Interrupted);
        }
        pause = (pause * 2).min(LATER);
    }
}

fn resync(report: &Report) -> Option<&Resync> {
    report.replicas.first()?.resync.as_ref()
}

/// `resync   41%  7.4 of 18.2 GiB  498 of 1,204 files  210 MiB/s  00:52 left`.
fn shown(word: &str, resync: &Resync) -> String {
    format!("{word}  {}", render::resync(resync))
}

/// What became of it, said and as an exit code.
fn end(report: &Report, number: u64, took: Duration) -> Exit {
    let paths = report.replicas.iter().map(|r| harmless(&r.path));
    let replica = paths.collect::<Vec<_>>().join(", ");
    if report.syncs.done >= number && report.state == MirrorState::InSync {
        let sentence = sentence(&replica, resync(report), took);
        // A closed pipe is no reason to complain.
        _ = writeln!(std::io::stdout(), "{sentence}").is_ok();
        return Exit::Success;
    }
    complain(&outcome(report, clock::now().tv_sec).to_string());
    Exit::No
}

/// Why it came to nothing.
pub(super) fn outcome(report: &Report, now: i64) -> Refusal {
    let paths = report.replicas.iter().map(|r| harmless(&r.path));
    let replica = paths.collect::<Vec<_>>().join(", ");
    let mut why = match (&report.syncs.why, &report.reason) {
        (Some(why), _) => why.clone(),
        (None, Some(reason)) => render::reason(reason, now),
        (None, None) if report.state == MirrorState::InSync => "it was given up".to_owned(),
        (None, None) => format!("the mirror is {}", report.state),
    };
    why = why.trim_end_matches('.').to_owned();
    let mut no = Refusal::refused(format!("replica {replica} is not in-sync: {why}."));
    for action in report.action.iter().flat_map(|action| action.lines()) {
        no = no.next(action);
    }
    let id = report
        .reason
        .as_ref()
        .map_or("MF-0038", |reason| &reason.id);
    no.id(id)
}

/// `Replica /backup/data is in-sync: 18.2 GiB in 1,204 files, 00:01:29.`
pub(super) fn sentence(replica: &str, resync: Option<&Resync>, took: Duration) -> String {
    let Some(resync) = resync.filter(|r| r.files_done > 0 || r.bytes_done > 0) else {
        return format!("Replica {replica} is in-sync.");
    };
    // It may have begun before we asked.
    let took = took.as_secs().max(resync.elapsed_ms / 1000);
    let files = match resync.files_done {
        1 => "1 file".to_owned(),
        n => format!("{} files", show_count(n)),
    };
    format!(
        "Replica {replica} is in-sync: {} in {files}, {}.",
        show_size(resync.bytes_done),
        show_duration(took)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::tests::{healing, healing_report};

    #[test]
    fn the_line_and_the_sentence_of_the_interface() {
        assert_eq!(
            shown(render::healing(&healing_report()), &healing()),
            "resync   41%  7.4 of 18.2 GiB  498 of 1,204 files  210 MiB/s  00:52 left"
        );
        let done = Resync {
            running: false,
            files_done: 1204,
            files_left: 0,
            bytes_done: 19_542_101_196,
            bytes_left: 0,
            elapsed_ms: 89_400,
            ..healing()
        };
        assert_eq!(
            sentence("/backup/data", Some(&done), Duration::from_secs(3)),
            "Replica /backup/data is in-sync: 18.2 GiB in 1,204 files, 00:01:29."
        );
        assert_eq!(
            sentence("/r", Some(&Resync::default()), Duration::ZERO),
            "Replica /r is in-sync."
        );
    }

    /// Only a sync that was honoured, of a mirror that is in-sync still, is a success.
    #[test]
    fn in_sync_is_not_said_lightly() {
        let mut report = healing_report();
        report.syncs.over = 3;
        report.syncs.done = 2;
        report.state = MirrorState::InSync;
        assert_eq!(end(&report, 3, Duration::ZERO), Exit::No);
        report.syncs.done = 3;
        assert_eq!(end(&report, 3, Duration::ZERO), Exit::Success);
        report.state = MirrorState::Degraded;
        assert_eq!(end(&report, 3, Duration::ZERO), Exit::No);
    }
}
