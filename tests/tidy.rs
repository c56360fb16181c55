// SPDX-License-Identifier: MIT
//! The rules of the house, enforced: which room may use which, where `unsafe` lives and what it
//! says, how long a file may be, how it begins, and that none is dead.
//!
//! Each rule is a function from text to complaints, so that it can be tested on bad text too.
#![allow(
    clippy::disallowed_methods,
    reason = "a test reads its own sources by path"
)]

mod dependencies;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The floors: each room, and the rooms it may use. `sys` and `metrics` are open to all but each
/// other's users below.
const ROOMS: [(&str, &[&str]); 10] = [
    ("fuzzing", &["cli", "mirror", "journal", "sys"]),
    ("cli", &["session", "mirror", "store", "sys", "metrics"]),
    (
        "session",
        &[
            "fs", "mirror", "journal", "store", "uring", "sys", "metrics",
        ],
    ),
    ("fs", &["mirror", "store", "sys", "metrics"]),
    ("mirror", &["journal", "store", "uring", "sys", "metrics"]),
    ("journal", &["sys", "metrics"]),
    ("store", &["uring", "sys", "metrics"]),
    ("uring", &["sys", "metrics"]),
    ("sys", &[]),
    ("metrics", &["sys"]),
];

/// Where `unsafe` may be written.
const UNSAFE: [&str; 3] = ["src/sys/", "src/uring/", "tests/it/support/sys.rs"];

/// Where the types of the transport may be named.
const FUSER: [&str; 2] = ["src/fs/", "src/session/"];

const LINES_MAX: usize = 800;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `dir` whose name ends with `ending`, relative to the root, in order.
fn files(dir: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![root().join(dir)];
    while let Some(dir) = todo.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                todo.push(path);
            } else if path.to_str().is_some_and(|p| p.ends_with(ending)) {
                found.push(
                    path.strip_prefix(root())
                        .expect("below the root")
                        .to_path_buf(),
                );
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Runs a rule over every source file; panics with all complaints.
fn enforce(rule: impl Fn(&str, &str) -> Vec<String>) {
    let mut complaints = Vec::new();
    for path in files("src", ".rs").into_iter().chain(files("tests", ".rs")) {
        let name = path.to_str().expect("file names are text");
        complaints.extend(rule(name, &read(&path)));
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// The code alone: comments, strings and characters become blanks, lines stay where they were.
fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    let is_word = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    while at < bytes.len() {
        let rest = &bytes[at..];
        let begins_word = !is_word(at.checked_sub(1).and_then(|i| bytes.get(i)));
        let len = if rest.starts_with(b"//") {
            rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            block_comment(rest)
        } else if let Some(len) = raw_string(rest).filter(|_| begins_word) {
            len
        } else if rest[0] == b'"' {
            quoted(rest)
        } else if let Some(len) = character(rest) {
            len
        } else {
            out.push(rest[0]);
            at += 1;
            continue;
        };
        out.extend(
            rest[..len]
                .iter()
                .map(|&b| if b == b'\n' { b'\n' } else { b' ' }),
        );
        at += len;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn raw_string(rest: &[u8]) -> Option<usize> {
    let start = rest.iter().position(|b| !matches!(b, b'b' | b'c'))?;
    let body = rest.get(start..)?.strip_prefix(b"r")?;
    let hashes = body.iter().position(|&b| b != b'#')?;
    if start > 1 || body[hashes] != b'"' {
        return None;
    }
    let end = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    let inner = start + 1 + hashes + 1;
    let close = rest[inner..].windows(end.len()).position(|w| w == end)?;
    Some(inner + close + end.len())
}

fn quoted(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// A character, as opposed to a lifetime.
fn character(rest: &[u8]) -> Option<usize> {
    let inner = rest.strip_prefix(b"'")?;
    if inner.first() == Some(&b'\\') {
        let close = inner.iter().skip(2).position(|&b| b == b'\'')?;
        return Some(close + 4);
    }
    (inner.get(1) == Some(&b'\'')).then_some(3)
}

/// The words of a line of code with their positions.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + code[at..].find(is_word)?;
        let len = code[start..]
            .find(|c| !is_word(c))
            .unwrap_or(code.len() - start);
        at = start + len;
        Some((start, &code[start..at]))
    })
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// The room a file belongs to.
fn room_of(path: &str) -> Option<&str> {
    let inner = path.strip_prefix("src/")?;
    let room = inner.split('/').next()?;
    let room = room.strip_suffix(".rs").unwrap_or(room);
    (!matches!(room, "lib" | "main")).then_some(room)
}

/// Every room named after `crate::`, alone or in braces.
fn rooms_used(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '$')) {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        if !rest.starts_with('{') {
            found.extend(words(rest).next().map(|(_, w)| (at, w.to_owned())));
            continue;
        }
        let (mut depth, mut expect) = (0, false);
        for (offset, c) in rest.char_indices() {
            match c {
                '{' => {
                    depth += 1;
                    expect = depth == 1;
                }
                '}' if depth == 1 => break,
                '}' => depth -= 1,
                ',' => expect = depth == 1,
                c if expect && !c.is_whitespace() => {
                    found.extend(
                        words(&rest[offset..])
                            .next()
                            .map(|(_, w)| (at, w.to_owned())),
                    );
                    expect = false;
                }
                _ => {}
            }
        }
    }
    found
}

/// The floors.
fn floors(path: &str, text: &str) -> Vec<String> {
    let Some(room) = room_of(path) else {
        return Vec::new();
    };
    let Some((_, may)) = ROOMS.iter().find(|(name, _)| *name == room) else {
        return vec![format!(
            "{path}: `{room}` is no room of the house (docs/DESIGN.md, tests/tidy.rs)"
        )];
    };
    let code = code(text);
    let mut complaints = Vec::new();
    for (at, used) in rooms_used(&code) {
        let known = ROOMS.iter().any(|(name, _)| *name == used);
        if known && used != room && !may.contains(&used.as_str()) {
            let line = line_of(&code, at);
            complaints.push(format!("{path}:{line}: `{room}` may not use `{used}`"));
        }
    }
    if room == "fs" {
        for (at, word) in words(&code) {
            if word == "Target" {
                let line = line_of(&code, at);
                complaints.push(format!(
                    "{path}:{line}: `fs` holds nothing that writes: no Target"
                ));
            }
        }
    }
    complaints
}

/// `unsafe` in its own rooms only, and with its reason.
fn unsafe_has_reasons(path: &str, text: &str) -> Vec<String> {
    let code = code(text);
    let lines: Vec<_> = text.lines().collect();
    let mut complaints = Vec::new();
    for (at, word) in words(&code) {
        if word != "unsafe" {
            continue;
        }
        let line = line_of(&code, at);
        if !UNSAFE.iter().any(|place| path.starts_with(place)) {
            complaints.push(format!("{path}:{line}: `unsafe` outside of {UNSAFE:?}"));
            continue;
        }
        // An `unsafe fn` states its contract for callers, a block says why the contract holds.
        let is_fn = words(&code[at + word.len()..])
            .next()
            .is_some_and(|(_, w)| w == "fn");
        let wanted = if is_fn { "# Safety" } else { "SAFETY:" };
        let statement = lines[..line - 1].iter().rev().take_while(|l| {
            let l = l.trim();
            l.starts_with("//")
                || l.starts_with('#')
                || !(l.is_empty() || l.ends_with([';', '}', '{']))
        });
        let same_line = lines[line - 1].contains(wanted);
        if !same_line
            && !statement
                .into_iter()
                .any(|l| l.trim().starts_with("//") && l.contains(wanted))
        {
            complaints.push(format!("{path}:{line}: `unsafe` without {wanted}"));
        }
    }
    complaints
}

/// Length, letters, license and opening words.
fn shape(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let lines: Vec<_> = text.lines().collect();
    if lines.len() > LINES_MAX {
        complaints.push(format!(
            "{path}: {} lines; {LINES_MAX} are the limit",
            lines.len()
        ));
    }
    if let Some(line) = lines.iter().position(|l| !l.is_ascii()) {
        complaints.push(format!("{path}:{}: not ASCII", line + 1));
    }
    if lines.first() != Some(&"// SPDX-License-Identifier: MIT") {
        complaints.push(format!("{path}:1: no SPDX line"));
    }
    if !lines.get(1).is_some_and(|l| l.starts_with("//! ")) {
        complaints.push(format!("{path}:2: no `//!` saying what this file is"));
    }
    if !text.ends_with('\n') || text.ends_with("\n\n") {
        complaints.push(format!("{path}: does not end with one newline"));
    }
    complaints
}

/// The transport's types end in `fs` and `session`.
fn transport(path: &str, text: &str) -> Vec<String> {
    if !path.starts_with("src/") || FUSER.iter().any(|place| path.starts_with(place)) {
        return Vec::new();
    }
    let code = code(text);
    let named = words(&code).filter(|(_, word)| *word == "fuser");
    named
        .map(|(at, _)| format!("{path}:{}: names fuser", line_of(&code, at)))
        .collect()
}

/// Modules that `text` declares in files of their own.
fn declared(text: &str) -> Vec<String> {
    let code = code(text);
    let mut found = Vec::new();
    for line in code.lines() {
        let mut rest = line.trim();
        for visibility in ["pub(crate) ", "pub(super) ", "pub "] {
            rest = rest.strip_prefix(visibility).unwrap_or(rest);
        }
        let name = rest.strip_prefix("mod ").and_then(|r| r.strip_suffix(';'));
        found.extend(name.map(|n| n.trim().to_owned()));
    }
    found
}

/// Files reachable from a crate root by `mod` lines.
fn reachable(crate_root: &Path, read: &dyn Fn(&Path) -> Option<String>) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut todo = vec![crate_root.to_path_buf()];
    while let Some(file) = todo.pop() {
        let Some(text) = read(&file) else { continue };
        let dir = file.parent().expect("a file is in a directory");
        let stem = file
            .file_stem()
            .and_then(|s| s.to_str())
            .expect("file names are text");
        let dir = if file == crate_root || stem == "mod" {
            dir.to_path_buf()
        } else {
            dir.join(stem)
        };
        for module in declared(&text) {
            todo.push(dir.join(format!("{module}.rs")));
            todo.push(dir.join(module).join("mod.rs"));
        }
        found.insert(file);
    }
    found
}

/// Names are anyone's to choose: what is printed of a path goes through `Shown`.
fn names_are_shown(path: &str, text: &str) -> Vec<String> {
    if !path.starts_with("src/") {
        return Vec::new();
    }
    let code = code(text);
    code.match_indices(".display()")
        .map(|(at, _)| {
            format!(
                "{path}:{}: .display() of a path: .shown()",
                line_of(&code, at)
            )
        })
        .collect()
}

/// A target of scripts/fuzz is no more than a way in, and has a corpus that `cargo test` runs.
#[test]
fn every_fuzz_target_has_its_corpus() {
    let manifest = read(Path::new("tests/fuzz/Cargo.toml"));
    let tests = read(Path::new("src/fuzzing/tests.rs"));
    let targets = files("tests/fuzz/targets", ".rs");
    assert!(!targets.is_empty());
    for path in &targets {
        let name = path.file_stem().and_then(|s| s.to_str()).expect("text");
        let corpus = files(&format!("tests/fuzz/corpus/{name}"), "");
        assert!((1..=64).contains(&corpus.len()), "{name}: {}", corpus.len());
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        assert!(tests.contains(&format!("\"{name}\"")), "{name} is not run");
    }
}

/// A script: strict, licensed, executable.
fn script(path: &str, text: &str, mode: u32) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut lines = text.lines();
    match lines.next() {
        Some("#!/usr/bin/env bash") if !text.contains("set -euo pipefail") => {
            complaints.push(format!("{path}: no `set -euo pipefail`"));
        }
        Some("#!/usr/bin/env bash" | "#!/bin/sh") => {}
        first => complaints.push(format!("{path}:1: begins with {first:?}")),
    }
    if lines.next() != Some("# SPDX-License-Identifier: MIT") {
        complaints.push(format!("{path}:2: no SPDX line"));
    }
    if mode & 0o111 != 0o111 {
        complaints.push(format!("{path}: not executable"));
    }
    complaints
}

/// What a file's tests name in `need_programs!`.
fn programs_needed(text: &str) -> Vec<String> {
    text.split("need_programs!(")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .flat_map(|(list, _)| list.split(','))
        .filter_map(|name| name.trim().strip_prefix('"')?.strip_suffix('"'))
        .map(str::to_owned)
        .collect()
}

/// Whether `scripts/lib.sh` knows the package of a program.
fn is_installed(program: &str, library: &str) -> bool {
    library
        .split(|c: char| c.is_whitespace() || c == '"')
        .any(|word| {
            word.split_once(':')
                .is_some_and(|(name, _)| name == program)
        })
}

#[test]
fn rooms_keep_to_their_floors() {
    enforce(floors);
}

#[test]
fn unsafe_stays_in_its_rooms_and_gives_reasons() {
    enforce(unsafe_has_reasons);
}

#[test]
fn files_have_their_shape() {
    enforce(shape);
}

#[test]
fn fuser_stays_in_its_rooms() {
    enforce(transport);
}

#[test]
fn names_do_not_reach_people_as_they_are() {
    enforce(names_are_shown);
}

#[test]
fn no_file_is_dead() {
    let mut alive = BTreeSet::new();
    let crates = [
        "src/lib.rs",
        "src/main.rs",
        "tests/it/main.rs",
        "tests/load/main.rs",
        "tests/tidy.rs",
    ];
    let fuzzed = files("tests/fuzz/targets", ".rs");
    for crate_root in crates.iter().map(PathBuf::from).chain(fuzzed) {
        let read = |path: &Path| std::fs::read_to_string(root().join(path)).ok();
        alive.extend(reachable(&crate_root, &read));
    }
    let all: BTreeSet<_> = files("src", ".rs")
        .into_iter()
        .chain(files("tests", ".rs"))
        .collect();
    let dead: Vec<_> = all.difference(&alive).collect();
    assert!(dead.is_empty(), "not part of any crate: {dead:?}");
}

#[test]
fn scripts_are_scripts() {
    let mut complaints = Vec::new();
    let names = ["scripts", "mount-helper", ".ci"]
        .into_iter()
        .flat_map(|dir| files(dir, ""));
    for path in names {
        let text = read(&path);
        let mode = std::fs::metadata(root().join(&path))
            .expect("metadata")
            .permissions()
            .mode();
        if text.starts_with("#!") {
            complaints.extend(script(path.to_str().expect("text"), &text, mode));
        } else if mode & 0o111 != 0 {
            complaints.push(format!("{}: executable, and no script", path.display()));
        }
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// A test that is skipped because a program is missing is skipped on each new machine.
#[test]
fn programs_that_tests_need_are_installed() {
    let installed = read(Path::new("scripts/lib.sh"));
    let missing: Vec<_> = files("tests/it", ".rs")
        .iter()
        .flat_map(|path| programs_needed(&read(path)))
        .filter(|program| !is_installed(program, &installed))
        .collect();
    assert!(missing.is_empty(), "not in scripts/lib.sh: {missing:?}");
}

mod the_rules_themselves {
    //! Each rule, fed with what it must complain about and with what it must leave alone.
    use super::*;

    #[test]
    fn code_is_told_from_words() {
        let text = "a /* unsafe /* nested */ */ b // unsafe\n\"unsafe \\\" x\" r#\"unsafe \" \"# 'u' '\\'' <'a> \
            b\"unsafe\" br\"unsafe\" c";
        let left: Vec<_> = code(text).split_whitespace().map(str::to_owned).collect();
        assert_eq!(left, ["a", "b", "<'a>", "b", "c"]);
        assert_eq!(code("1\n/* 2\n3 */\n4").lines().count(), 4);
        assert_eq!(code("var\"x\" rr"), "var    rr");
    }

    #[test]
    fn floors_complain() {
        let bad = [
            ("src/fs/node.rs", "use crate::session::Session;"),
            (
                "src/fs/node.rs",
                "use crate::{store::Tree, journal::Journal};",
            ),
            ("src/fs/node.rs", "use crate::store::Target;"),
            ("src/store/tree.rs", "fn f() { crate::mirror::go() }"),
            ("src/sys/at.rs", "use crate::{\n    metrics,\n};"),
            ("src/mirror/mod.rs", "pub(crate) use crate::fs as f;"),
            ("src/cellar/mod.rs", ""),
            ("src/metrics.rs", "use crate::store::Tree;"),
        ];
        for (path, text) in bad {
            assert_eq!(floors(path, text).len(), 1, "{path}: {text}");
        }
        let good = [
            (
                "src/fs/node.rs",
                "use crate::{mirror::{Mirror, session}, store::Source, sys};",
            ),
            (
                "src/fs/node.rs",
                "// use crate::session::Session;\nuse crate::fs::reply;",
            ),
            (
                "src/cli/mod.rs",
                "use crate::session::Session; use mycrate::fs::X;",
            ),
            ("src/lib.rs", "pub use crate::fs::MirrorFs;"),
            (
                "src/sys/at.rs",
                "macro_rules! m { () => { $crate::mirror::x } }",
            ),
        ];
        for (path, text) in good {
            assert_eq!(floors(path, text), [""; 0], "{path}: {text}");
        }
    }

    #[test]
    fn unsafe_complains() {
        let at = "src/sys/at.rs";
        let bad = [
            ("src/store/tree.rs", "// SAFETY: it is not.\nunsafe { x() }"),
            (at, "fn f() {\n    unsafe { x() }\n}"),
            (
                at,
                "// SAFETY: for the other one.\nlet a = 1;\nunsafe { x() }",
            ),
            (at, "// SAFETY: not this.\n\nunsafe impl Send for X {}"),
            (at, "/// Does.\npub unsafe fn f() {}"),
            ("tests/it/cli.rs", "// SAFETY: no.\nunsafe { x() }"),
        ];
        for (path, text) in bad {
            assert_eq!(unsafe_has_reasons(path, text).len(), 1, "{path}: {text}");
        }
        let good = [
            (at, "// SAFETY: it is.\nunsafe { x() }"),
            (
                at,
                "// SAFETY: it is,\n// really.\nlet x =\n    unsafe { x() };",
            ),
            (
                at,
                "/// # Safety\n/// Keep it alive.\n#[inline]\npub unsafe fn f() {}",
            ),
            (at, "#![deny(unsafe_code)] // unsafe\nlet x = \"unsafe\";"),
            ("src/lib.rs", "#![deny(unsafe_op_in_unsafe_fn)]"),
        ];
        for (path, text) in good {
            assert_eq!(unsafe_has_reasons(path, text), [""; 0], "{path}: {text}");
        }
    }

    #[test]
    fn shape_complains() {
        let good = "// SPDX-License-Identifier: MIT\n//! What it is.\n";
        assert_eq!(shape("a.rs", good), [""; 0]);
        assert_eq!(shape("a.rs", &good.repeat(400)), [""; 0]);
        assert_eq!(
            shape("a.rs", &format!("{good}{}", "//\n".repeat(799))).len(),
            1
        );
        assert_eq!(shape("a.rs", &format!("{good}// caf\u{e9}\n")).len(), 1);
        assert_eq!(
            shape("a.rs", "//! What it is.\n// SPDX-License-Identifier: MIT\n").len(),
            2
        );
        assert_eq!(shape("a.rs", good.trim_end()).len(), 1);
        assert_eq!(shape("a.rs", "").len(), 3);
    }

    #[test]
    fn transport_complains() {
        assert_eq!(
            transport("src/mirror/op.rs", "use fuser::FileType;").len(),
            1
        );
        assert_eq!(transport("src/fs/mod.rs", "use fuser::FileType;"), [""; 0]);
        assert_eq!(
            transport("src/cli/mod.rs", "// fuser\nlet fusermount = 1;"),
            [""; 0]
        );
    }

    #[test]
    fn dead_files_are_found() {
        let tree = [
            (
                "s/lib.rs",
                "mod a;\npub(crate) mod b;\n// mod dead;\nmod inline { }",
            ),
            ("s/a.rs", "mod c;"),
            ("s/a/c.rs", ""),
            ("s/b/mod.rs", "pub mod d;"),
            ("s/b/d.rs", ""),
            ("s/dead.rs", ""),
        ];
        let read = |path: &Path| {
            tree.iter()
                .find(|(p, _)| Path::new(p) == path)
                .map(|(_, text)| (*text).to_owned())
        };
        let found = reachable(Path::new("s/lib.rs"), &read);
        let found: Vec<_> = found.iter().map(|p| p.to_str().expect("text")).collect();
        assert_eq!(
            found,
            ["s/a/c.rs", "s/a.rs", "s/b/d.rs", "s/b/mod.rs", "s/lib.rs"]
        );
    }

    #[test]
    fn display_complains() {
        let text = "fn f() {\n    x.display()\n}";
        assert_eq!(names_are_shown("src/a.rs", text).len(), 1);
        assert!(names_are_shown("src/a.rs", "// x.display()").is_empty());
    }

    #[test]
    fn needs_are_found() {
        let text = "need_programs!(\"git\", \"mkfs.xfs\");\nneed_programs!(\"cp\");";
        assert_eq!(programs_needed(text), ["git", "mkfs.xfs", "cp"]);
        let library = "NEEDS=\"git:git\n    mkfs.xfs:xfsprogs\"";
        assert!(is_installed("git", library) && is_installed("mkfs.xfs", library));
        assert!(!is_installed("cp", library) && !is_installed("xfs", library));
    }

    #[test]
    fn scripts_complain() {
        let good = "#!/usr/bin/env bash\n# SPDX-License-Identifier: MIT\nset -euo pipefail\n";
        assert_eq!(script("check", good, 0o100_755), [""; 0]);
        assert_eq!(script("check", good, 0o100_644).len(), 1);
        assert_eq!(
            script("check", &good.replace("set -euo pipefail", ""), 0o755).len(),
            1
        );
        assert_eq!(
            script(
                "check",
                "#!/bin/sh\n# SPDX-License-Identifier: MIT\n",
                0o755
            ),
            [""; 0]
        );
        assert_eq!(script("check", "echo\n", 0o755).len(), 2);
    }
}
