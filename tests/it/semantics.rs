// SPDX-License-Identifier: MIT
//! docs/SEMANTICS.md, held to its word: every example in it is typed on a fresh mirror and must
//! print what stands below it; every promise names tests, and every test it names exists.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::mount::TestMount;
use crate::support::run::{MIRRORFS, run};
use crate::{need_product, need_programs, need_root};

/// So many blocks, commands and promises there are at least: a document whose form changed under
/// the reader below must not pass because nothing was found in it.
const BLOCKS_MIN: usize = 16;
const COMMANDS_MIN: usize = 46;
const PROMISES_MIN: usize = 48;

/// Printed after each command's output.
const MARK: &str = "--- the end of a command's output ---";

fn file(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What is typed, and what it prints.
#[derive(Debug, Default, PartialEq, Eq)]
struct Typed {
    command: String,
    output: String,
}

/// One block of the document.
#[derive(Debug, Default, PartialEq, Eq)]
struct Block {
    line: usize,
    /// The copies differ on purpose in the end.
    degraded: bool,
    typed: Vec<Typed>,
}

/// The blocks between "```sh" and "```".
fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in text.lines().enumerate() {
        match &mut open {
            None if line.starts_with("```sh") => {
                open = Some(Block {
                    line: number + 1,
                    degraded: line == "```sh degraded",
                    typed: Vec::new(),
                });
            }
            None => {}
            Some(_) if line == "```" => found.extend(open.take()),
            Some(block) => match line.strip_prefix("$ ") {
                Some(command) => block.typed.push(Typed {
                    command: command.to_owned(),
                    output: String::new(),
                }),
                None => {
                    let last = block.typed.last_mut();
                    let last = last.unwrap_or_else(|| panic!("line {}: no `$ `", number + 1));
                    last.output += line;
                    last.output.push('\n');
                }
            },
        }
    }
    assert_eq!(open, None, "a block is not closed");
    found
}

/// Types a block's commands into one shell. The complaint says what differs.
fn play(block: &Block) -> Result<(), String> {
    let mut mount = TestMount::new();
    let mut script = String::from("exec 2>&1\n");
    for typed in &block.typed {
        writeln!(script, "{}\nprintf '\\n%s\\n' \"{MARK}\"", typed.command).expect("text");
    }
    let product = Path::new(MIRRORFS).parent().expect("a directory");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = Command::new("bash");
    shell.arg("-c").arg(&script).current_dir(&mount.mountpoint);
    shell
        .env("PATH", format!("{}:{path}", product.display()))
        .env("PRIMARY", &mount.primary)
        .env("REPLICA", &mount.replica)
        .env("MNT", &mount.mountpoint)
        .env("STATE_DIRECTORY", mount.dir().join("state"))
        .env("LC_ALL", "C")
        .env("TZ", "UTC");
    let ran = run(&mut shell);
    let mark = format!("\n{MARK}\n");
    let outputs: Vec<_> = ran.out.split(&mark).collect();
    for (typed, got) in block.typed.iter().zip(&outputs) {
        // The mark stands on a line of its own, whether the output ended with a newline or not.
        if got.trim_end_matches('\n') != typed.output.trim_end_matches('\n') {
            return Err(format!(
                "$ {}\n--- expected\n{}--- printed\n{got}\n--- all of it\n{ran}",
                typed.command, typed.output
            ));
        }
    }
    if outputs.len() != block.typed.len() + 1 {
        return Err(format!("the shell ended before the block did: {ran}"));
    }
    if block.degraded {
        mount.umount();
    } else {
        mount.finish();
    }
    Ok(())
}

/// The examples.
#[test]
fn examples() {
    need_root!();
    need_product!();
    need_programs!("setfattr", "setfacl", "setpriv", "flock");
    let blocks = blocks(&file("docs/SEMANTICS.md"));
    let commands: usize = blocks.iter().map(|block| block.typed.len()).sum();
    assert!(blocks.len() >= BLOCKS_MIN, "{} blocks", blocks.len());
    assert!(commands >= COMMANDS_MIN, "{commands} commands");
    for block in &blocks {
        if let Err(complaint) = play(block) {
            panic!("docs/SEMANTICS.md, line {}: {complaint}", block.line);
        }
    }
}

/// A wrong example is noticed, and so is one that never ran.
#[test]
fn wrong_examples_are_noticed() {
    need_root!();
    need_product!();
    let play_text = |text: &str| play(&blocks(text)[0]);
    assert_eq!(play_text("```sh\n$ echo a; echo b\na\nb\n```\n"), Ok(()));
    for wrong in [
        "```sh\n$ echo a\nb\n```\n",
        "```sh\n$ echo a\n```\n",
        "```sh\n$ true\na\n```\n",
        "```sh\n$ exit\n$ true\n```\n",
    ] {
        assert!(play_text(wrong).is_err(), "{wrong}");
    }
}

/// The paragraphs that begin with "**S1.", "**S2.", ...: all that belongs to each promise.
fn promises(text: &str) -> Vec<&str> {
    text.split("\n**S").skip(1).collect()
}

/// The names in backquotes that are paths of tests.
fn tests_named(text: &str) -> Vec<&str> {
    let spans = text.split('`').skip(1).step_by(2);
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    let lower = |span: &str| span.starts_with(|c: char| c.is_ascii_lowercase());
    spans
        .filter(|span| span.contains("::") && span.chars().all(is_name) && lower(span))
        .collect()
}

/// Where a test of that path would be: in this binary, or beside the code.
fn places(module: &str) -> Vec<PathBuf> {
    let inner = module.replace("::", "/");
    let beside = inner.strip_suffix("/tests").unwrap_or(&inner);
    [
        format!("tests/it/{inner}.rs"),
        format!("tests/it/{inner}/mod.rs"),
        format!("src/{inner}.rs"),
        format!("src/{inner}/mod.rs"),
        format!("src/{beside}.rs"),
        format!("src/{beside}/mod.rs"),
    ]
    .map(PathBuf::from)
    .into()
}

/// Whether there is such a test, or a room with tests in it.
fn exists(test: &str) -> bool {
    let Some((module, name)) = test.rsplit_once("::") else {
        return false;
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let says = |place: &PathBuf, wanted: &str| {
        let text = std::fs::read_to_string(root.join(place)).unwrap_or_default();
        let flush: Vec<_> = text.lines().map(str::trim_start).collect();
        flush.join("\n").contains(wanted)
    };
    let wanted = format!("#[test]\nfn {name}()");
    let is_there = |module, wanted: &str| places(module).iter().any(|place| says(place, wanted));
    is_there(module, &wanted) || is_there(test, "#[test]\n")
}

/// Promises are numbered without a gap, and what stands behind them exists.
#[test]
fn promises_name_their_tests() {
    let text = file("docs/SEMANTICS.md");
    let promises = promises(&text);
    assert!(promises.len() >= PROMISES_MIN, "{}", promises.len());
    let mut bare = Vec::new();
    for (place, promise) in promises.iter().enumerate() {
        let number = promise.split('.').next().unwrap_or_default();
        assert_eq!(number, (place + 1).to_string(), "S{number}");
        if tests_named(promise).is_empty() {
            bare.push(place + 1);
        }
    }
    // S29 promises nothing.
    assert_eq!(bare, [29], "promises without a test");
    for document in [
        "docs/SEMANTICS.md",
        "docs/SAFETY.md",
        "docs/KNOWN_ISSUES.md",
    ] {
        let text = file(document);
        let missing: Vec<_> = tests_named(&text)
            .into_iter()
            .filter(|test| !exists(test))
            .collect();
        assert!(missing.is_empty(), "{document} names no tests: {missing:?}");
    }
    assert!(!exists("posix::rename::no_such_test") && !exists("rename"));
}
