// SPDX-License-Identifier: MIT
//! `mirrorfs sync PRIMARY REPLICA`: makes a replica equal while nothing is mounted.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use super::complain;
use super::exit::Exit;
use super::units::{show_count, show_size};
use crate::mirror::attach::decide::{Asked, Typed};
use crate::mirror::attach::refusal::Id;
use crate::mirror::attach::{self, AttachError, MetadataLoss, Options};
use crate::mirror::failure::{Shown, show_path};
use crate::mirror::resync::progress::Line;
use crate::mirror::resync::{How, Progress, Summary};
use crate::session::refusal::Refusal;
use crate::session::signals::Signals;
use crate::session::{confine, pair};
use crate::sys::Errno;

/// How long a daemon that is just ending may keep us from the copies.
const ENDING: Duration = Duration::from_secs(2);
/// Differences listed; the rest are counted.
const LISTED_MAX: usize = 1000;
/// 128 + SIGINT.
const INTERRUPTED: u8 = 130;

/// What was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words<'a> {
    /// `--dry-run`
    pub(super) dry_run: bool,
    /// `--init`
    pub(super) init: bool,
    /// `--discard DIR`
    pub(super) discard: Option<&'a Path>,
    /// `--full`
    pub(super) full: bool,
    /// `--max-delete=N`
    pub(super) max_delete: Option<u64>,
    /// `--metadata-loss=fail|warn`
    pub(super) metadata_loss: MetadataLoss,
    /// `--one-file-system`
    pub(super) one_file_system: bool,
    /// `--bwlimit=RATE`, bytes per second
    pub(super) bwlimit: Option<u64>,
}

pub(super) fn run(primary: &Path, replica: &Path, words: Words<'_>) -> Exit {
    let signals = match Signals::start() {
        Ok(signals) => signals,
        Err(no) => return refused(replica, &no),
    };
    let roots = pair::roots(primary, replica).and_then(|(p, r)| {
        if !words.one_file_system {
            return Ok((p, r));
        }
        let no = |errno: Errno| Refusal::from_io("cannot look below mounts", &errno.into());
        Ok((pair::view(p).map_err(no)?, pair::view(r).map_err(no)?))
    });
    let (root_p, root_r) = match roots {
        Ok(roots) => roots,
        Err(no) => return refused(replica, &no),
    };
    if let Some(no) = words
        .discard
        .and_then(|dir| wrong_discard(dir, primary, replica))
    {
        return refused(replica, &no);
    }
    confine::stay_in([root_p.as_fd(), root_r.as_fd()]);
    let typed = Typed::offline(primary, replica);
    let options = Options {
        asked: Asked {
            degraded: false,
            adopt: true,
            init: words.init,
            discard: words.discard.is_some(),
        },
        metadata_loss: words.metadata_loss,
        patience: ENDING,
        how: How {
            quick: !words.full,
            locates: true,
            kept_max: LISTED_MAX,
            deletions_max: words.max_delete,
            one_file_system: words.one_file_system,
            bytes_per_second: words.bwlimit,
            stop: Some(signals.stop_switch()),
            ..How::default()
        },
        ..Options::default()
    };
    let terminal = std::io::stderr().is_terminal();
    let mut line = Line::new(std::io::stderr(), terminal);
    let (p, r) = (root_p.as_fd(), root_r.as_fd());
    let mut show = |phase, progress: &Progress| line.update(phase, progress);
    let done = if words.dry_run {
        let found = attach::preview(p, r, &typed, &options, &mut show);
        line.finish();
        found.map(|summary| differences(&summary))
    } else {
        let attached = attach::attach(p, Ok(r), &typed, &options, &mut show);
        line.finish();
        attached.map(|attached| {
            let closed = attached.close_clean();
            closed.map_or_else(
                |failure| {
                    complain(&format!("the copies are equal, but: {failure}"));
                    Exit::Unknown
                },
                |()| equal(replica, attached.summary.as_deref()),
            )
        })
    };
    done.unwrap_or_else(|error| {
        if signals.stopping() {
            complain("interrupted. To go on: the same command");
            return Exit::Child(INTERRUPTED);
        }
        no(&error)
    })
}

/// Copies go from PRIMARY to REPLICA: only the replica's changes can be thrown away.
fn wrong_discard(dir: &Path, primary: &Path, replica: &Path) -> Option<Refusal> {
    let same = |other: &Path| {
        let (a, b) = (dir.canonicalize(), other.canonicalize());
        a.is_ok_and(|a| b.is_ok_and(|b| a == b))
    };
    if same(replica) {
        return None;
    }
    let (p, r) = (primary.shown(), replica.shown());
    let shown = dir.shown();
    let no = if same(primary) {
        Refusal::usage(format!(
            "{p} is named as the primary: it is what is copied."
        ))
        .next("To keep the other one's changes, make it the primary first:")
        .next(format!("mirrorfs promote --force {}", replica.quoted()))
        .next(format!(
            "mirrorfs sync --discard {0} {1} {0}",
            primary.quoted(),
            replica.quoted()
        ))
    } else {
        Refusal::usage(format!("--discard {shown} is neither {p} nor {r}."))
    };
    Some(no)
}

fn refused(replica: &Path, no: &Refusal) -> Exit {
    complain(&format!("cannot sync {}: {no}", replica.shown()));
    match no.id.as_deref() {
        Some("MF-0043") => Exit::MountRefused,
        Some(_) => Exit::No,
        None => Exit::Unknown,
    }
}

fn no(error: &AttachError) -> Exit {
    if let Some(summary) = &error.summary {
        list(summary, &mut std::io::stderr(), true);
    }
    complain(&error.to_string());
    match error.refusal.id {
        Id::InUse => Exit::MountRefused,
        Id::CopyFailed | Id::StampFailed => Exit::Unknown,
        _ => Exit::No,
    }
}

/// What the replica does without (`--metadata-loss=warn`).
fn lost(summary: &Summary) {
    for loss in &summary.losses {
        complain(&format!("loss: {}: {}", show_path(&loss.path), loss.detail));
    }
    let more = summary.losses_total - summary.losses.len() as u64;
    if more > 0 {
        complain(&format!("... and {} more losses", show_count(more)));
    }
}

/// What `--dry-run` found.
fn differences(summary: &Summary) -> Exit {
    let mut out = std::io::stdout();
    let is_terminal = out.is_terminal();
    list(summary, &mut out, is_terminal);
    let total = summary.differences_total;
    let (shown, names) = (show_count(total), show_count(summary.entries));
    let text = format!("{shown} differences in {names} names.");
    _ = writeln!(std::io::stderr(), "{text}").is_ok();
    if total == 0 { Exit::Success } else { Exit::No }
}

/// Names are raw bytes, as `verify` writes them, unless they are to be escaped.
fn list(summary: &Summary, out: &mut dyn Write, escape: bool) {
    for found in &summary.differences {
        let path = if escape || found.path.is_empty() {
            show_path(&found.path).into_bytes()
        } else {
            found.path.clone()
        };
        let mut line = format!("{:<9} ", found.kind.word()).into_bytes();
        line.extend_from_slice(&path);
        line.extend_from_slice(format!("  {}\n", found.detail).as_bytes());
        // A closed pipe is no reason to complain.
        _ = out.write_all(&line).is_ok();
    }
    let more = summary.differences_total - summary.differences.len() as u64;
    if more > 0 {
        _ = writeln!(out, "... and {more} more").is_ok();
    }
}

fn equal(replica: &Path, summary: Option<&Summary>) -> Exit {
    if let Some(summary) = summary {
        lost(summary);
    }
    let (bytes, files) = summary.map_or((0, 0), |summary| (summary.bytes, summary.files));
    let text = format!(
        "Replica {} is in-sync: {} in {} files.",
        replica.shown(),
        show_size(bytes),
        show_count(files)
    );
    _ = writeln!(std::io::stdout(), "{text}").is_ok();
    Exit::Success
}
