// SPDX-License-Identifier: MIT
//! FLOOR 6: words in, words out, exit code.
//!
//! `args` is what was typed, `options` the fstab grammar, `config` what was meant; one file per
//! verb does it; `reach` finds the daemon to ask; `render`, `json` and `prometheus` are views of one report;
//! `exit` names every exit code.

mod args;
mod config;
mod events;
mod exit;
mod explain;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod helper;
mod interrupt;
mod json;
mod line;
mod man;
mod mount;
mod options;
mod pause;
mod prometheus;
mod promote;
mod reach;
mod render;
mod status;
mod sync;
mod sync_offline;
mod umount;
mod units;
mod verify;
mod watch;

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command};
use exit::{Exit, Family};
use render::harmless;

/// The whole program: from `argv` to the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().collect();
    run(&argv).into()
}

fn run(argv: &[OsString]) -> Exit {
    let words = argv.get(2..).unwrap_or_default();
    let verb = argv.get(1).map(OsString::as_os_str);
    match verb.and_then(OsStr::to_str) {
        Some("mount-helper") => return helper::mount(words),
        Some("umount-helper") => return helper::umount(words),
        Some("mount") => return mount::typed(argv),
        _ => {}
    }
    match Cli::try_parse_from(argv) {
        Ok(cli) => match cli.command {
            // Only reached when the verb is abbreviated or preceded by something.
            Command::Mount(_) => mount::typed(argv),
            Command::Umount(args) => umount::run(&args),
            Command::Status(args) => status::run(&args),
            Command::Sync(args) => sync::run(&args),
            Command::Verify(args) => verify::run(&args),
            Command::Pause(args) => pause::pause(&args.mountpoint),
            Command::Resume(args) => pause::resume(&args.mountpoint),
            Command::Events(args) => events::run(&args),
            Command::Promote(args) => promote::run(&args),
            Command::Completions { shell } => completions(shell),
            Command::Man => answer(man::page().as_bytes()),
            Command::Help { topic } => explain::run(topic.as_deref()),
        },
        Err(e) => clap_error(&e, Family::of(verb)),
    }
}

/// Prints what clap has to say: help on stdout with success, a complaint on stderr without.
fn clap_error(error: &clap::Error, family: Family) -> Exit {
    // A closed pipe is no reason to complain.
    _ = error.print().is_ok();
    if error.use_stderr() {
        family.usage()
    } else {
        Exit::Success
    }
}

fn completions(shell: args::Shell) -> Exit {
    let mut command = Cli::command();
    let mut text = Vec::new();
    clap_complete::generate(shell.generator(), &mut command, "mirrorfs", &mut text);
    answer(&text)
}

/// Prints what was asked for. A closed pipe is no reason to complain.
fn answer(text: &[u8]) -> Exit {
    _ = std::io::stdout().write_all(text).is_ok();
    Exit::Success
}

/// One message to whoever typed the command.
fn complain(text: &str) {
    _ = std::io::stderr()
        .write_all(complaint(text).as_bytes())
        .is_ok();
}

/// Much of it was said by a daemon, or stands on a disk: its lines stay, and nothing in them steers a
/// terminal.
fn complaint(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(harmless).collect();
    format!("mirrorfs: {}\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    /// A refusal of a daemon's, which may be anybody's, is shown to root.
    #[test]
    fn a_complaint_steers_no_terminal() {
        let said = super::complaint("cannot sync /a: \x1b]0;x\x07no.\n  next\r\u{9b}2J");
        let shown = "mirrorfs: cannot sync /a: \\u{1b}]0;x\\u{7}no.\n  next\\r\\u{9b}2J\n";
        assert_eq!(said, shown);
    }
}
