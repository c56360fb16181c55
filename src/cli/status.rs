// SPDX-License-Identifier: MIT
//! `mirrorfs status`: how a mirror is, for people, for machines, or as an exit code.
//!
//! Mirrors are found in mountinfo; a mount whose daemon is gone is never touched.

use std::io::{IsTerminal, Write};
use std::path::Path;

use super::args::StatusArgs;
use super::complain;
use super::exit::Exit;
use super::{json, render};
use crate::mirror::report::Report;
use crate::mirror::state::MirrorState;
use crate::session::control::Client;
use crate::session::mountpoint::{find, is_dead};
use crate::session::refusal::Refusal;
use crate::sys::clock;
use crate::sys::mountinfo::{self, Mount};

pub(super) fn run(args: &StatusArgs) -> Exit {
    let mounts = match wanted(args.mountpoint.as_deref()) {
        Ok(mounts) => mounts,
        Err(no) => {
            if !args.quiet {
                complain(&no.to_string());
            }
            return Exit::Unknown;
        }
    };
    let mut worst = Exit::Success;
    for (place, mount) in mounts.iter().enumerate() {
        let exit = match ask(mount) {
            Ok(report) => {
                show(args, &report, place);
                if report.state == MirrorState::InSync {
                    Exit::Success
                } else {
                    Exit::No
                }
            }
            Err(no) => {
                if !args.quiet {
                    complain(&no.to_string());
                }
                Exit::Unknown
            }
        };
        if exit.code() > worst.code() {
            worst = exit;
        }
    }
    worst
}

fn wanted(typed: Option<&Path>) -> Result<Vec<Mount>, Refusal> {
    let unreadable = |e| Refusal::from_io("cannot read mountinfo", &e);
    let Some(typed) = typed else {
        let mut all = mountinfo::read().map_err(unreadable)?;
        all.retain(Mount::is_mirror);
        if all.is_empty() {
            return Err(Refusal::refused("no mirror is mounted."));
        }
        return Ok(all);
    };
    match find(typed).map_err(unreadable)? {
        Some(mount) if mount.is_mirror() => Ok(vec![mount]),
        Some(mount) => Err(Refusal::refused(format!(
            "{} is not a mirror but {}.",
            typed.display(),
            mount.fstype
        ))),
        None => Err(Refusal::refused(format!(
            "{} is not a mirror: nothing is mounted there.",
            typed.display()
        ))
        .next("See all mirrors: mirrorfs status")),
    }
}

fn ask(mount: &Mount) -> Result<Report, Refusal> {
    let place = mount.target.display();
    let silent = || {
        Refusal::refused(format!("the daemon of {place} does not answer."))
            .next("Is it stopped, or waiting for a disk? See the log.")
            .id("MF-0047")
    };
    if let Ok(client) = Client::connect(mount) {
        return client.report().map_err(|_| silent());
    }
    Err(match is_dead(mount) {
        Some(true) => Refusal::refused(format!(
            "the daemon of {place} is gone: the mount is dead, and the copies must be compared."
        ))
        .next(format!(
            "Unmount it, then mount again: mirrorfs umount {place}"
        ))
        .id("MF-0047"),
        Some(false) => unreachable(mount),
        None => Refusal::refused(format!("the daemon of {place} does not answer.")).id("MF-0047"),
    })
}

/// It lives, but there is no talking to it.
pub(super) fn unreachable(mount: &Mount) -> Refusal {
    let place = mount.target.display();
    let me = rustix::process::geteuid();
    if me.is_root() || mount.user_id() == Some(me.as_raw()) {
        return Refusal::refused(format!("the daemon of {place} has no control socket."))
            .next(format!("To unmount it all the same: umount {place}"))
            .id("MF-0047");
    }
    Refusal::usage(format!("the daemon of {place} cannot be reached by you."))
        .next("Try again as root, or as the user who mounted it.")
}

fn show(args: &StatusArgs, report: &Report, place: usize) {
    if args.quiet {
        return;
    }
    let mut out = std::io::stdout().lock();
    let text = if args.json {
        json::line(report)
    } else {
        let gap = if place > 0 { "\n" } else { "" };
        let escape = out.is_terminal();
        gap.to_owned() + &render::status(report, clock::now().tv_sec, escape)
    };
    // A closed pipe is no reason to complain.
    _ = out.write_all(text.as_bytes()).is_ok();
}
