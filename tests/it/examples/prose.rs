// SPDX-License-Identifier: MIT
//! Commands in the running text: `mirrorfs VERB ...` between backquotes, or bold in a manual. They are not
//! executed but asked for their help, which mirrorfs gives only where it has understood all words before.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::file;
use crate::need_product;
use crate::support::run::mirrorfs;

/// What stands for something, and something that it may stand for.
const PLACEHOLDERS: [(&str, &str); 5] = [
    ("options", ""),
    ("N", "5"),
    ("DUR", "1h"),
    ("RATE", "10M"),
    ("...", ""),
];

/// Between backquotes, outside of blocks; a span may go on in the next line.
fn spans(markdown: &str) -> Vec<String> {
    let mut text = String::new();
    let mut is_fenced = false;
    for line in markdown.lines() {
        let is_fence = line.starts_with("```");
        is_fenced ^= is_fence;
        if !is_fenced && !is_fence && !line.starts_with("    ") {
            text.push_str(line.trim());
            text.push(' ');
        }
    }
    let odd = text.split('`').skip(1).step_by(2);
    odd.map(str::to_owned).collect()
}

/// Of `.B` everything, of `.BR` and its like the first argument.
fn bold(roff: &str) -> Vec<String> {
    let first = |text: &str| match text.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next().map(str::to_owned),
        None => text.split(' ').next().map(str::to_owned),
    };
    let of = |line: &str| match line.split_once(' ')? {
        (".B", all) => Some(all.replace('"', "")),
        (".BR" | ".BI", all) => first(all),
        _ => None,
    };
    let found = roff.lines().filter_map(of);
    found.map(|text| text.replace("\\-", "-")).collect()
}

/// The words after `mirrorfs`, as somebody could type them: options that are not necessary are typed, too, and of
/// alternatives the first.
fn words(span: &str) -> Option<Vec<String>> {
    let rest = span.strip_prefix("mirrorfs ")?;
    let mut words = Vec::new();
    for word in rest.split_whitespace() {
        let word = word.trim_matches(['[', ']']);
        let word = word.split(['|', '\\']).next().unwrap_or(word);
        let stands = PLACEHOLDERS.iter().find(|(for_, _)| *for_ == word);
        let word = stands.map_or(word, |(_, something)| something);
        if !word.is_empty() {
            words.push(word.to_owned());
        }
    }
    Some(words)
}

fn documents() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = vec!["README.md".to_owned(), "mount-helper/README.md".to_owned()];
    for dir in ["docs", "docs/decisions", "docs/man", "docs/monitoring"] {
        let entries = fs::read_dir(root.join(dir)).expect(dir);
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let names = names.map(|name| name.into_string().expect("a name"));
        paths.extend(names.map(|name| format!("{dir}/{name}")));
    }
    paths.retain(|path| [".md", ".7", ".8"].iter().any(|end| path.ends_with(end)));
    paths.sort();
    let read = paths.into_iter().map(|path| (file(&path), path));
    read.map(|(text, path)| (path, text)).collect()
}

/// `Err` with what it said where mirrorfs does not understand them.
fn understood(words: &[String]) -> Result<(), String> {
    let ran = mirrorfs(words.iter().map(String::as_str).chain(["--help"]));
    if ran.code == Some(0) && ran.out.contains("Usage:") {
        Ok(())
    } else {
        Err(ran.to_string())
    }
}

#[test]
fn commands_in_the_running_text_are_understood() {
    need_product!();
    let mut known = BTreeSet::new();
    for (path, text) in documents() {
        let found = if path.ends_with(".md") {
            spans(&text)
        } else {
            bold(&text)
        };
        for words in found.iter().filter_map(|span| words(span)) {
            if known.insert(words.clone()) {
                understood(&words).unwrap_or_else(|said| panic!("{path}: {words:?}: {said}"));
            }
        }
    }
    assert!(known.len() > 30, "{}", known.len());
}

#[test]
fn scripts_in_the_running_text_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut known = BTreeSet::new();
    for (path, text) in documents() {
        for span in spans(&text) {
            let mut words = span.split_whitespace();
            let script = words.next().unwrap_or_default();
            if !script.starts_with("scripts/") || !known.insert(span.clone()) {
                continue;
            }
            assert!(root.join(script).exists(), "{path}: {span}");
            if script == "scripts/bench" {
                continue;
            }
            let source = file(script);
            for option in words.filter(|word| word.starts_with("--")) {
                assert!(source.contains(option), "{path}: {span}: {option}");
            }
        }
    }
    assert!(known.len() > 10, "{}", known.len());
}

#[test]
fn what_is_not_understood_is_noticed() {
    need_product!();
    for wrong in [
        "mirrorfs verify --no-such /a",
        "mirrorfs nosuch",
        "mirrorfs umount --timeout soon /a",
    ] {
        let words = words(wrong).expect("a command");
        assert!(understood(&words).is_err(), "{wrong}");
    }
    assert_eq!(spans("a `b\nc` d\n```\n`no`\n```\n`e`"), ["b c", "e"]);
    assert_eq!(
        bold(".B mirrorfs sync \\-\\-full\n.BR \"mirrorfs mount\" :\nno"),
        ["mirrorfs sync --full", "mirrorfs mount"]
    );
    let typed =
        words("mirrorfs sync P [--max-delete N] [--metadata-loss fail\\|warn]").expect("a command");
    assert_eq!(
        typed,
        ["sync", "P", "--max-delete", "5", "--metadata-loss", "fail"]
    );
}
