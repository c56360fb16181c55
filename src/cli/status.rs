// SPDX-License-Identifier: MIT
//! `mirrorfs status`: what the daemon says of itself, as text, as JSON, as metrics, or as an exit code.
//!
//! Mirrors are found in mountinfo; a mount whose daemon is gone is never touched.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use super::args::{FormatWord, StatusArgs};
use super::complain;
use super::exit::Exit;
use super::interrupt::Interrupt;
use super::{json, prometheus, reach, render, watch};
use crate::mirror::report::{DirtyList, Report};
use crate::mirror::state::MirrorState;
use crate::session::refusal::Refusal;
use crate::sys::clock;
use crate::sys::mountinfo::Mount;

/// Dirty objects that are asked for.
const DIRTY_MAX: usize = 10_000;
/// How often `--watch` looks.
const WATCHING: Duration = Duration::from_secs(1);
/// Cursor home, and everything below it gone.
const CLEAR: &[u8] = b"\x1b[H\x1b[J";

pub(super) fn run(args: &StatusArgs) -> Exit {
    let mut out = std::io::stdout();
    let terminal = out.is_terminal();
    if args.format() == FormatWord::Prometheus {
        return metrics(args, &mut out);
    }
    if args.watch && !args.dirty && args.format() == FormatWord::Text {
        return watch::run(args.mountpoint.as_deref(), terminal);
    }
    if !args.watch {
        let (text, exit) = look(args, terminal);
        // A closed pipe is no reason to complain.
        _ = out.write_all(&text).is_ok();
        return exit;
    }
    let interrupt = match Interrupt::start() {
        Ok(interrupt) => interrupt,
        Err(no) => {
            complain(&no.to_string());
            return Exit::Unknown;
        }
    };
    loop {
        let (mut text, exit) = look(args, terminal);
        if terminal {
            text.splice(..0, CLEAR.iter().copied());
        }
        // Nobody watches any more, or there is nothing more to see.
        if out.write_all(&text).and_then(|()| out.flush()).is_err() || exit == Exit::Unknown {
            return exit;
        }
        if interrupt.comes_within(WATCHING) {
            return Exit::Interrupted;
        }
    }
}

/// The page of metrics. No mirror, or a daemon that does not answer, is something to tell, too.
fn metrics(args: &StatusArgs, out: &mut impl Write) -> Exit {
    if args.watch || args.dirty {
        complain("--format prometheus goes with neither --watch nor --dirty.");
        return Exit::Unknown;
    }
    let mounts = match &args.mountpoint {
        Some(typed) => reach::one(typed).map(|mount| vec![mount]),
        None => reach::any(),
    };
    let mounts = match mounts {
        Ok(mounts) => mounts,
        Err(no) => {
            complain(&no.to_string());
            return Exit::Unknown;
        }
    };
    let mut worst = Exit::Success;
    let mut seen = Vec::new();
    for mount in mounts.iter().rev() {
        let mirror = mount.target.to_string_lossy().into_owned();
        // Two mounts at one place: only the upper one, the later, is to be seen; a sample stands once.
        if seen.iter().any(|(name, _)| *name == mirror) {
            continue;
        }
        let report = reach::report(mount);
        if let Err(no) = &report {
            complain(&no.to_string());
        }
        worst = worse(worst, report.as_ref().map(|report| report.state));
        seen.push((mirror, report.ok()));
    }
    let page = prometheus::page(&seen, clock::now().tv_sec);
    // A page that was cut off must not be taken for a whole one.
    match out.write_all(page.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => worst,
        Err(e) => {
            complain(&format!("cannot write the metrics: {e}."));
            Exit::Unknown
        }
    }
}

/// What is to be shown of all mirrors, and the worst of their codes.
fn look(args: &StatusArgs, terminal: bool) -> (Vec<u8>, Exit) {
    let mut text = Vec::new();
    let complain = |no: &Refusal| {
        if !args.quiet {
            complain(&no.to_string());
        }
    };
    let mounts = match reach::wanted(args.mountpoint.as_deref()) {
        Ok(mounts) => mounts,
        Err(no) => {
            complain(&no);
            return (text, Exit::Unknown);
        }
    };
    let mut worst = Exit::Success;
    for mount in &mounts {
        let state = of_one(args, mount, terminal, &mut text);
        if let Err(no) = &state {
            complain(no);
        }
        worst = worse(worst, state.as_ref().copied());
    }
    (text, worst)
}

/// The code for all mirrors so far, of which one more was asked for its state.
fn worse(worst: Exit, state: Result<MirrorState, &Refusal>) -> Exit {
    let exit = match state {
        Ok(MirrorState::InSync) => Exit::Success,
        Ok(_) => Exit::No,
        Err(_) => Exit::Unknown,
    };
    if exit.code() > worst.code() {
        exit
    } else {
        worst
    }
}

fn of_one(
    args: &StatusArgs,
    mount: &Mount,
    terminal: bool,
    text: &mut Vec<u8>,
) -> Result<MirrorState, Refusal> {
    let mut report = reach::report(mount)?;
    let mut dirty = if args.dirty {
        reach::ask(mount, |client| client.dirty(DIRTY_MAX)).map_err(reach::Silence::into_refusal)
    } else {
        Ok(DirtyList::default())
    };
    // Two questions, two moments: in-sync must not be shown beside something dirty.
    let some = dirty.as_ref().is_ok_and(|list| list.total > 0);
    if some && report.state == MirrorState::InSync {
        report = reach::report(mount)?;
        if report.state == MirrorState::InSync {
            // It was made equal in between.
            dirty = Ok(DirtyList::default());
        }
    }
    if !args.quiet {
        let list = dirty.as_ref().ok().filter(|_| args.dirty);
        show(args, &report, list, terminal, text);
    }
    dirty.map(|_| report.state)
}

fn show(
    args: &StatusArgs,
    report: &Report,
    dirty: Option<&DirtyList>,
    terminal: bool,
    text: &mut Vec<u8>,
) {
    if args.format() == FormatWord::Json {
        text.extend_from_slice(json::line(report, dirty).as_bytes());
        return;
    }
    if !text.is_empty() {
        text.push(b'\n');
    }
    let now = clock::now().tv_sec;
    text.extend_from_slice(render::status(report, now, terminal).as_bytes());
    if let Some(list) = dirty {
        text.extend_from_slice(&render::dirty(list, terminal));
    }
}
