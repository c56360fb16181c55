// SPDX-License-Identifier: MIT
//! The manual, held to the product: every verb and option is in it, and nothing else.

use std::collections::BTreeSet;

use clap::{CommandFactory, Parser};

use super::super::mount::known;
use super::super::options::other_words;
use super::*;

const MOUNT: &str = include_str!("../../../docs/man/mount.mirrorfs.8");
const IDEAS: &str = include_str!("../../../docs/man/mirrorfs.7");

/// The text of a page as it is read: no fonts, no escapes, one blank between words.
fn read(page: &str) -> String {
    let mut text = page.replace("\\-", "-").replace("\\*(Aq", "'");
    for font in ["\\fB", "\\fI", "\\fR", "\\&"] {
        text = text.replace(font, "");
    }
    text.replace("\\\\", "\\")
        .replace("\\e", "\\")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn built() -> Command {
    let mut command = Cli::command();
    command.build();
    command
}

/// What stands below `.SS name` of mount.mirrorfs(8), or `.SH name`.
fn part<'a>(page: &'a str, name: &str) -> &'a str {
    let begin = page.find(&format!("{name}\n"));
    let rest = &page[begin.unwrap_or_else(|| panic!("no part {name}"))..];
    let end = rest.find("\n.S").map_or(rest.len(), |at| at + 1);
    &rest[..end]
}

/// The entries of a part: name, words of the value, what is said of it. Lines that begin with a font
/// and follow `.TP` or `.TQ` are their heads.
fn entries(part: &str) -> Vec<(String, String, String)> {
    let mut found: Vec<(String, String, String)> = Vec::new();
    let mut is_head = false;
    for line in part.lines() {
        if matches!(line, ".TP" | ".TQ") {
            is_head = true;
            continue;
        }
        if is_head {
            let words: Vec<_> = line.split(' ').skip(1).collect();
            let name = words[0].replace("\\-", "-");
            let value = words[1..].join(" ").replace("\\-", "-");
            found.push((name.trim_end_matches('=').to_owned(), value, String::new()));
        } else if let Some((_, _, said)) = found.last_mut() {
            *said += &(read(line) + "\n");
        }
        is_head = false;
    }
    found
}

fn names(parts: &[&str]) -> Vec<String> {
    let mut all: Vec<_> = parts
        .iter()
        .flat_map(|name| entries(part(MOUNT, &format!(".SS {name}"))))
        .map(|(name, _, _)| name)
        .collect();
    all.sort_unstable();
    all
}

fn sorted(words: &[&str]) -> Vec<String> {
    let mut words: Vec<_> = words.iter().map(|w| (*w).to_owned()).collect();
    words.sort_unstable();
    words
}

const OURS: [&str; 3] = ["Replication", "Caching", "The daemon"];

#[test]
fn every_verb_and_option_is_in_the_first_page() {
    let page = read(&super::page());
    for verb in verbs(&built()) {
        assert!(page.contains(&format!(".SS \"mirrorfs {}\"", verb.get_name())));
        for arg in verb.get_arguments().filter(|arg| is_shown(arg)) {
            if let Some(long) = arg.get_long() {
                assert!(page.contains(&format!("--{long} ")), "{long}");
            }
            let help = arg.get_long_help().or(arg.get_help());
            let help = read(&help.map(ToString::to_string).unwrap_or_default());
            assert!(!help.is_empty(), "{}", arg.get_id());
            let help = help.replace('`', "");
            let shown = page.replace(".IP ", "");
            assert!(shown.contains(&help), "{}: {help}", arg.get_id());
        }
    }
}

/// What --help teaches is what the page says: the long texts are not hidden by short ones.
#[test]
fn verbs_with_two_ways_explain_them() {
    for mut verb in built().get_subcommands().cloned() {
        let name = verb.get_name().to_owned();
        if ["mount", "sync", "verify", "promote", "pause"].contains(&name.as_str()) {
            let text = verb.render_long_help().to_string();
            assert!(text.find("Usage:") > Some(150), "{name}: {text}");
        }
    }
}

#[test]
fn the_examples_are_right() {
    for (_, line) in EXAMPLES {
        let parsed = Cli::try_parse_from(line.split(' '));
        assert!(parsed.is_ok(), "{line}");
    }
}

#[test]
fn each_option_of_mount_is_in_the_second_page_and_no_other() {
    let known = known();
    let known: Vec<_> = known.iter().map(String::as_str).collect();
    assert_eq!(names(&OURS), sorted(&known));
    let [flags, dropped, declined] = other_words();
    // `_` and `-` are the same; the page has them as mount(8) spells them.
    let plain = |parts: &[&str]| -> Vec<String> {
        let mut words: Vec<_> = names(parts).iter().map(|w| w.replace('_', "-")).collect();
        words.sort_unstable();
        words
    };
    assert_eq!(plain(&["Words of mount(8)"]), sorted(&flags));
    assert_eq!(plain(&["Left to others"]), sorted(&dropped));
    assert_eq!(plain(&["Refused"]), sorted(&declined));
}

/// The words that an option takes, and what it is without being given.
#[test]
fn values_and_defaults_of_the_second_page() {
    let command = built();
    let mount = command.find_subcommand("mount").expect("the verb");
    for (name, value, said) in OURS
        .iter()
        .flat_map(|name| entries(part(MOUNT, &format!(".SS {name}"))))
    {
        let arg = mount
            .get_arguments()
            .find(|arg| arg.get_long() == Some(&name));
        let arg = arg.expect("an option");
        let words: Vec<_> = values(arg)
            .into_iter()
            .map(|word| match word {
                Inline::Bold(text) | Inline::Italic(text) | Inline::Roman(text) => text,
                Inline::LineBreak => String::new(),
            })
            .collect();
        assert_eq!(value, words.concat(), "{name}");
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let default = help.split("[default: ").nth(1);
        let default = default.and_then(|rest| rest.split(']').next());
        if let Some(default) = default {
            let shown = format!("Default: {default}");
            assert!(said.contains(&shown), "{name} lacks {shown:?}: {said}");
        } else {
            assert!(!said.contains("Default:"), "{name}: {said}");
        }
    }
}

/// The tables of exit codes of the first and the second page.
#[test]
fn exit_codes_of_the_second_page() {
    let (_, ours) = exit::MEANINGS[0];
    let codes: Vec<_> = ours.iter().map(|(e, _)| e.code().to_string()).collect();
    let shown = entries(part(MOUNT, ".SH EXIT STATUS"));
    let shown: Vec<_> = shown.into_iter().map(|(code, _, _)| code).collect();
    assert_eq!(shown, codes);
}

/// Whatever the pages written by hand mention exists: verbs, long options, options with a value.
#[test]
fn nothing_is_mentioned_that_does_not_exist() {
    let command = built();
    let longs: BTreeSet<_> = verbs(&command)
        .flat_map(|verb| verb.get_arguments().filter_map(Arg::get_long))
        .collect();
    let known = known();
    for page in [MOUNT, IDEAS] {
        let text: Vec<_> = page.lines().filter(|l| !l.starts_with(".\\\"")).collect();
        let text = read(&text.join("\n"));
        for bold in page.lines().filter_map(|l| l.strip_prefix(".B mirrorfs ")) {
            let verb = bold.split(' ').next().unwrap_or_default();
            assert!(command.find_subcommand(verb).is_some(), "mirrorfs {verb}");
        }
        for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || "-_=.".contains(c))) {
            if let Some(long) = word.strip_prefix("--") {
                assert!(longs.contains(long), "--{long}");
            }
            let Some((name, _)) = word.split_once('=') else {
                continue;
            };
            let is_others = name.starts_with("x-") || name == "comment";
            let name = name.strip_prefix("--").unwrap_or(name);
            assert!(is_others || known.iter().any(|k| k == name), "{word}");
        }
    }
}

/// All three were gone through on one day; scripts and people read it off any of them.
#[test]
fn pages_have_one_date() {
    for page in [MOUNT, IDEAS] {
        assert!(page.contains(&format!(" {DATE} mirrorfs mirrorfs\n")));
    }
}

/// The states that mirrorfs(7) explains are those that status says.
#[test]
fn states_of_the_ideas() {
    let shown = entries(part(IDEAS, ".SH STATES"));
    let shown: BTreeSet<_> = shown.into_iter().map(|(name, _, _)| name).collect();
    let abi = include_str!("../../../docs/CLI_ABI.md");
    let row = abi.lines().find(|l| l.starts_with("| `state` |"));
    let row = row.unwrap_or_default().split(';').next();
    let promised = row.unwrap_or_default().split('`').skip(3).step_by(2);
    assert_eq!(shown, promised.map(str::to_owned).collect::<BTreeSet<_>>());
}
