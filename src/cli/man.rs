// SPDX-License-Identifier: MIT
//! mirrorfs(1), written from the definitions that `--help` shows, so that the two cannot disagree.
//!
//! `mirrorfs man` prints it; scripts/install puts it in its place. The pages beside it, in docs/man/,
//! are written by hand and held to the product by the tests below.

#[cfg(test)]
mod tests;

use clap::{Arg, Command, CommandFactory};
use roff::{Inline, Roff, bold, italic, roman};

use super::args::Cli;
use super::exit;

/// When the pages were last gone through.
const DATE: &str = "2026-11-21";

const FILES: [(&str, &str); 6] = [
    (
        "/var/lib/mirrorfs",
        "The write-intent logs, a directory for each mirror; those of an ordinary user are in \
         ~/.local/state/mirrorfs. See --state-dir.",
    ),
    (
        "/run/mirrorfs",
        "The sockets at which the daemons are asked; an ordinary user's are in $XDG_RUNTIME_DIR/mirrorfs.",
    ),
    (
        "trusted.mirrorfs.stamp",
        "The extended attribute on both roots by which a mirror knows its copies (user.mirrorfs.stamp, or \
         the file .mirrorfs-stamp, where that cannot be set).",
    ),
    ("/etc/fstab", "Mounts at boot: see mount.mirrorfs(8)."),
    (
        "/etc/fuse.conf",
        "user_allow_other there lets ordinary users mount with allow_other.",
    ),
    ("/dev/fuse", "Without it nothing can be mounted."),
];

const ENVIRONMENT: [(&str, &str); 5] = [
    (
        "STATE_DIRECTORY",
        "Where the write-intent logs are, in a systemd service with StateDirectory=.",
    ),
    (
        "XDG_STATE_HOME",
        "The same for ordinary users, instead of ~/.local/state.",
    ),
    (
        "XDG_RUNTIME_DIR",
        "Where an ordinary user's sockets are; without it /run/user/UID.",
    ),
    (
        "NOTIFY_SOCKET",
        "Where a service of Type=notify says that it is ready, and in which state it is.",
    ),
    (
        "JOURNAL_STREAM",
        "Where it names the file that stderr is, lines of the log begin with the level that journald reads.",
    ),
];

const EXAMPLES: [(&str, &str); 9] = [
    (
        "Mount a mirror over its primary (recommended):",
        "mirrorfs mount /srv/data /srv/data --replica /backup/data",
    ),
    (
        "The primary answers at once, the replica follows, at most 64 MiB behind:",
        "mirrorfs mount /srv/data /srv/data --replica /backup/data --mode async --max-lag 64M",
    ),
    ("How is it?", "mirrorfs status /srv/data"),
    (
        "Wait until both copies are equal:",
        "mirrorfs sync /srv/data",
    ),
    (
        "Compare them to the last byte:",
        "mirrorfs verify /srv/data",
    ),
    (
        "The replica's disk is to be unplugged for a while; then mirrorfs resume /srv/data:",
        "mirrorfs pause /srv/data",
    ),
    ("Stop:", "mirrorfs umount /srv/data"),
    (
        "The primary's disk is lost; go on with the replica:",
        "mirrorfs promote --primary-lost /backup/data",
    ),
    ("What does [MF-0003] mean?", "mirrorfs help MF-0003"),
];

const SEE_ALSO: &str =
    "`mirrorfs`(7), `mount.mirrorfs`(8), `mount`(8), `umount`(8), `fstab`(5), `fuse`(4)";

/// mirrorfs(1), for man(1).
pub(super) fn page() -> String {
    let mut command = Cli::command();
    command.build();
    let version = format!("mirrorfs {}", env!("CARGO_PKG_VERSION"));
    let about = command.get_about().map(ToString::to_string);
    let about = about.unwrap_or_default().trim_end_matches('.').to_owned();
    let mut out = Roff::new();
    out.control("TH", ["MIRRORFS", "1", DATE, &version, "mirrorfs"]);
    section(&mut out, "NAME");
    out.text([roman(format!("mirrorfs - {}", decapitalized(&about)))]);

    section(&mut out, "SYNOPSIS");
    out.control("nf", []);
    for verb in verbs(&command) {
        out.text(usage(verb));
    }
    out.control("fi", []);

    section(&mut out, "DESCRIPTION");
    for (at, part) in long_about(&command).iter().enumerate() {
        if at == 0 {
            out.text(inlines(part));
        } else {
            paragraph(&mut out, part);
        }
    }
    paragraph(
        &mut out,
        "`mirrorfs`(7) says what a mirror promises and explains the words; `mount.mirrorfs`(8) is about \
         /etc/fstab. Sizes are 64K, 256M, 1G (powers of 1024); durations 90s, 5m, 1h. Answers go to \
         stdout; messages, progress and complaints to stderr. A message that someone may have to act on \
         ends with an id such as [MF-0003], which `mirrorfs help` explains.",
    );

    section(&mut out, "COMMANDS");
    out.text([roman("Each takes "), bold("--help"), roman(" too.")]);
    for verb in verbs(&command) {
        describe(&mut out, verb);
    }

    section(&mut out, "EXIT STATUS");
    out.text([roman(
        "There are two families, and they mean different things by the same number.",
    )]);
    for (family, codes) in exit::MEANINGS {
        paragraph(&mut out, family);
        for (exit, meaning) in codes {
            entry(&mut out, vec![bold(exit.code().to_string())], meaning);
        }
    }
    for (title, list) in [("ENVIRONMENT", &ENVIRONMENT[..]), ("FILES", &FILES)] {
        section(&mut out, title);
        for (name, what) in list {
            entry(&mut out, vec![bold(*name)], what);
        }
    }
    section(&mut out, "EXAMPLES");
    out.text([roman(
        "The primary is /srv/data, the replica /backup/data on another disk.",
    )]);
    for (what, line) in EXAMPLES {
        paragraph(&mut out, what);
        example(&mut out, line);
    }
    section(&mut out, "SEE ALSO");
    out.text(inlines(SEE_ALSO));
    out.render()
}

/// The verbs that are shown, in the order of `--help`.
fn verbs(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|verb| !verb.is_hide_set())
}

/// What is said of one verb.
fn describe(out: &mut Roff, verb: &Command) {
    out.control("SS", [format!("mirrorfs {}", verb.get_name()).as_str()]);
    out.text(usage(verb));
    for part in long_about(verb) {
        paragraph(out, &part);
    }
    let mut heading = None;
    for arg in verb.get_arguments().filter(|arg| is_shown(arg)) {
        if arg.get_help_heading() != heading {
            heading = arg.get_help_heading();
            out.control("PP", []);
            out.text([italic(heading.unwrap_or("General"))]);
        }
        argument(out, arg);
    }
    let after = verb.get_after_help().map(ToString::to_string);
    for line in after.unwrap_or_default().lines() {
        match line.strip_prefix("  ") {
            Some(text) => example(out, text),
            None => paragraph(out, line),
        }
    }
}

/// Whether an argument has a place in the manual. `--help` is the same everywhere.
fn is_shown(arg: &Arg) -> bool {
    !arg.is_hide_set() && arg.get_id() != "help"
}

fn argument(out: &mut Roff, arg: &Arg) {
    let mut head = Vec::new();
    let short = arg.get_short().map(|letter| format!("-{letter}"));
    let long = arg.get_long().map(|word| format!("--{word}"));
    for (at, name) in short.into_iter().chain(long).enumerate() {
        if at > 0 {
            head.push(roman(", "));
        }
        head.push(bold(name));
    }
    let value = values(arg);
    if !value.is_empty() {
        if !head.is_empty() {
            head.push(roman(" "));
        }
        head.extend(value);
    }
    let help = arg.get_long_help().or(arg.get_help());
    let mut help = help.map(ToString::to_string).unwrap_or_default();
    let takes_values = arg.get_action().takes_values();
    for default in arg.get_default_values().iter().filter(|_| takes_values) {
        help += &format!(" [default: {}]", default.to_string_lossy());
    }
    let mut parts = help.split("\n\n");
    entry(out, head, parts.next().unwrap_or_default());
    for part in parts {
        out.control("IP", []);
        out.text(inlines(part));
    }
}

/// What an argument may be: its words, or the name of its value. Empty for a switch.
fn values(arg: &Arg) -> Vec<Inline> {
    if !arg.get_action().takes_values() {
        return Vec::new();
    }
    let words = arg.get_possible_values();
    let words: Vec<_> = words.iter().map(|word| word.get_name()).collect();
    if !words.is_empty() {
        return vec![bold(words.join("|"))];
    }
    let names = arg.get_value_names().unwrap_or_default();
    names.iter().map(|name| italic(name.as_str())).collect()
}

/// The line that says how a verb is called.
fn usage(verb: &Command) -> Vec<Inline> {
    let line = verb.clone().render_usage().to_string();
    let line = line.trim_start_matches("Usage: ").trim();
    let mut out = Vec::new();
    for (at, word) in line.split(' ').enumerate() {
        if at > 0 {
            out.push(roman(" "));
        }
        let inner = word.trim_start_matches('<').trim_end_matches('>');
        out.push(match word.as_bytes().first() {
            Some(b'<') => italic(inner),
            Some(b'[') => roman(word),
            _ => bold(word),
        });
    }
    out
}

fn long_about(command: &Command) -> Vec<String> {
    let text = command.get_long_about().or(command.get_about());
    let text = text.map(ToString::to_string).unwrap_or_default();
    text.split("\n\n").map(ends_with_a_stop).collect()
}

/// clap takes the last full stop of a short text away.
fn ends_with_a_stop(text: &str) -> String {
    let text = text.trim();
    let stop = if text.ends_with(['.', ':', ')']) {
        ""
    } else {
        "."
    };
    format!("{text}{stop}")
}

fn decapitalized(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}

fn section(out: &mut Roff, name: &str) {
    out.control("SH", [name]);
}

fn paragraph(out: &mut Roff, text: &str) {
    out.control("PP", []);
    out.text(inlines(text));
}

fn entry(out: &mut Roff, head: Vec<Inline>, text: &str) {
    out.control("TP", []);
    out.text(head);
    out.text(inlines(text));
}

fn example(out: &mut Roff, line: &str) {
    out.control("PP", []);
    out.control("RS", ["4"]);
    out.control("nf", []);
    out.text([roman(line)]);
    out.control("fi", []);
    out.control("RE", []);
}

/// Text in which what stands between backticks is to be typed.
fn inlines(text: &str) -> Vec<Inline> {
    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let parts = joined.split('`').enumerate();
    parts
        .filter(|(_, part)| !part.is_empty())
        .map(
            |(at, part)| {
                if at % 2 == 1 { bold(part) } else { roman(part) }
            },
        )
        .collect()
}
