// SPDX-License-Identifier: MIT
//! `mirrorfs mount`: in the background, once it is true.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};

use super::args::{Cli, Command, MountArgs};
use super::exit::{Exit, Family};
use super::options::{self, Flags};
use super::{clap_error, complain, config};
use crate::mirror::failure::Shown;
use crate::session::background::{self, Child, Ready};
use crate::session::config::{MountConfig, MountRequest};
use crate::session::confine;
use crate::session::refusal::Refusal;
use crate::session::signals::Signals;
use crate::session::{self};

/// Long options that make no sense in fstab.
const NOT_IN_FSTAB: [&str; 3] = ["help", "ready-fd", "fake"];

/// `argv` as typed: the words of `-o` are put before the others, so that what is typed out wins,
/// and all are parsed by one grammar.
pub(super) fn typed(argv: &[OsString]) -> Exit {
    match understood(argv) {
        Ok((args, flags)) => run(&args, &flags, words(argv).1),
        Err(Misunderstood::Words(e)) => clap_error(&e, Family::Mount),
        Err(Misunderstood::Option { mountpoint, no }) => refuse(&mountpoint, &no),
    }
}

/// Why words make no sense.
#[derive(Debug)]
pub(super) enum Misunderstood {
    /// The grammar says so, or they ask for help.
    Words(clap::Error),
    /// A word of `-o`.
    Option { mountpoint: PathBuf, no: Refusal },
}

impl From<clap::Error> for Misunderstood {
    fn from(e: clap::Error) -> Self {
        Self::Words(e)
    }
}

/// The program and its verb, and what follows them.
fn words(argv: &[OsString]) -> (&[OsString], &[OsString]) {
    argv.split_at(argv.len().min(2))
}

/// What the words ask for. Pure.
///
/// # Errors
/// Why they ask for nothing.
pub(super) fn understood(argv: &[OsString]) -> Result<(MountArgs, Flags), Misunderstood> {
    let parsed = parse(argv)?;
    let expanded = options::expand(&parsed.options, &known());
    let expanded = expanded.map_err(|no| Misunderstood::Option {
        mountpoint: parsed.mountpoint,
        no,
    })?;
    let (program, words) = words(argv);
    let all: Vec<OsString> = program
        .iter()
        .chain(&expanded.long)
        .chain(words)
        .cloned()
        .collect();
    Ok((parse(&all)?, expanded.flags))
}

fn parse(argv: &[OsString]) -> Result<MountArgs, clap::Error> {
    match Cli::try_parse_from(argv)?.command {
        Command::Mount(args) => Ok(args),
        _ => Err(Cli::command().error(clap::error::ErrorKind::InvalidSubcommand, "not mount")),
    }
}

/// The names that `-o` knows: every long option of `mount`.
pub(super) fn known() -> Vec<String> {
    let command = Cli::command();
    let mount = command.find_subcommand("mount");
    let longs = mount
        .into_iter()
        .flat_map(|m| m.get_arguments().filter_map(|a| a.get_long()));
    longs
        .filter(|name| !NOT_IN_FSTAB.contains(name))
        .map(str::to_owned)
        .collect()
}

/// Mounts. `words` are what follows the verb, for the daemon to be given again.
fn run(args: &MountArgs, flags: &Flags, words: &[OsString]) -> Exit {
    let request = match config::request(args, flags) {
        Ok(request) => request,
        Err(no) => return refuse(&args.mountpoint, &no),
    };
    let done = if request.fake {
        MountConfig::resolve(request).map(|_| Exit::Success)
    } else if request.foreground || request.ready_fd.is_some() {
        daemon(request)
    } else {
        background(args, words)
    };
    match done {
        Ok(exit) => exit,
        Err(no) => refuse(&args.mountpoint, &no),
    }
}

fn background(args: &MountArgs, words: &[OsString]) -> Result<Exit, Refusal> {
    match background::spawn("mount", words)? {
        Child::Ready(pid) => {
            if args.verbose {
                complain(&format!(
                    "mounted {} at {}, daemon {pid}",
                    args.primary.shown(),
                    args.mountpoint.shown()
                ));
            }
            Ok(Exit::Success)
        }
        Child::Ended(code) => Ok(Exit::Child(code)),
    }
}

/// The mount itself, in this process.
fn daemon(request: MountRequest) -> Result<Exit, Refusal> {
    confine::give_up()?;
    let signals = Signals::start()?;
    let ready = Ready::take(request.ready_fd)?;
    let config = MountConfig::resolve(request)?;
    for note in &config.notes {
        complain(note);
    }
    let lacks = config.cannot_have();
    if !lacks.is_empty() {
        complain("mounting as an ordinary user:");
        for what in lacks {
            complain(&format!("  - {what}"));
        }
    }
    session::run(&config, &signals, ready)?;
    Ok(Exit::Success)
}

fn refuse(mountpoint: &Path, no: &Refusal) -> Exit {
    complain(&format!("cannot mount {}: {no}", mountpoint.shown()));
    Exit::mount(no.kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_long_option_is_also_an_o_option() {
        let known = known();
        for name in [
            "replica",
            "mode",
            "on-replica-error",
            "degraded",
            "log",
            "adopt",
            "verbose",
        ] {
            assert!(known.iter().any(|k| k == name), "{name}");
        }
        assert!(!known.iter().any(|k| k == "ready-fd" || k == "help"));
    }
}
