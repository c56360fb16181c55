// SPDX-License-Identifier: MIT
//! The examples of README.md, docs/OPERATIONS.md, the manual and mount-helper/, typed one after the other.
//!
//! They are read from these very files and must be those that `stories` knows, in that order: one that
//! is added, changed or taken away fails here until its story is told. Paths are those of the
//! documents: each document is played in namespaces of its own, on an overlay of this machine with
//! file systems of its own at /srv, /backup, /net and /new. Nothing outside is touched, and
//! everything ends with the first process.

mod prose;
mod stories;

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::run::{MIRRORFS, mirrorfs, run_within};
use crate::support::sys::own_mounts;
use crate::support::{base, skip, temp_in};
use crate::{need_product, need_programs, need_root};

/// One line of an example.
#[derive(Clone, Copy, Debug)]
struct Step {
    line: &'static str,
    kind: Kind,
    /// What must have happened before, in bash.
    before: &'static str,
    /// What must be true afterwards.
    after: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A command, and its exit code.
    Typed(i32),
    /// A line that the command before it prints. Numbers, sizes and times may be others.
    Printed,
    /// A line of /etc/fstab, and its mount point.
    Fstab(&'static str),
    /// Not executed, and why.
    Not(&'static str),
}

impl Step {
    const fn new(line: &'static str, kind: Kind) -> Self {
        Self {
            line,
            kind,
            before: "true",
            after: "true",
        }
    }

    const fn before(mut self, script: &'static str) -> Self {
        self.before = script;
        self
    }

    const fn after(mut self, script: &'static str) -> Self {
        self.after = script;
        self
    }
}

const fn typed(line: &'static str) -> Step {
    Step::new(line, Kind::Typed(0))
}

const fn fails(line: &'static str, code: i32) -> Step {
    Step::new(line, Kind::Typed(code))
}

const fn printed(line: &'static str) -> Step {
    Step::new(line, Kind::Printed)
}

const fn fstab(line: &'static str, at: &'static str) -> Step {
    Step::new(line, Kind::Fstab(at))
}

const fn not(line: &'static str, why: &'static str) -> Step {
    Step::new(line, Kind::Not(why))
}

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What stands in fenced and in indented blocks of Markdown. Empty lines are left out.
fn of_markdown(text: &str) -> Vec<String> {
    let (mut found, mut is_fenced) = (Vec::new(), false);
    let mut before = "";
    for line in text.lines() {
        let is_indented =
            line.starts_with("    ") && (before.is_empty() || before.starts_with("    "));
        if line.starts_with("```") {
            is_fenced = !is_fenced;
        } else if (is_fenced || is_indented) && !line.trim().is_empty() {
            found.push(line.to_owned());
        }
        before = line;
    }
    assert!(!is_fenced, "a block is not closed");
    found
}

/// What stands between `.nf` and `.fi`, but for the synopsis, which is no example.
fn of_roff(text: &str) -> Vec<String> {
    let (mut found, mut is_open, mut section) = (Vec::new(), false, "");
    for line in text.lines() {
        if let Some(name) = line.strip_prefix(".SH ") {
            section = name;
        }
        match line {
            ".nf" | ".EX" => is_open = section != "SYNOPSIS",
            ".fi" | ".EE" => is_open = false,
            _ if is_open => found.push(line.replace("\\-", "-").replace("\\e", "\\")),
            _ => {}
        }
    }
    found
}

/// Lines that are no comment.
fn of_table(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .filter(|line| !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

/// The complaint when a document's examples are not those of its story.
fn compare(found: &[String], story: &[Step]) -> Result<(), String> {
    let mut told = story.iter();
    for line in found {
        let step = told.next();
        let known = step.map_or("nothing more", |step| step.line);
        if step.is_none_or(|step| step.line != line) {
            return Err(format!(
                "the document says\n  {line}\nand its story\n  {known}"
            ));
        }
    }
    let stale = told.next().map(|step| step.line);
    stale.map_or(Ok(()), |line| Err(format!("no example any more: {line}")))
}

/// In single quotes, for bash.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The script that plays a story, in order.
fn script(story: &[Step]) -> String {
    let mut script = String::from(stories::TOOLS);
    for step in story {
        let (line, before, after) = (quoted(step.line), quoted(step.before), quoted(step.after));
        let said = match step.kind {
            Kind::Typed(code) => format!("typed {line} {code}"),
            Kind::Printed => format!("printed {line}"),
            Kind::Fstab(at) => format!("fstab {line} {}", quoted(at)),
            Kind::Not(why) => {
                assert!(why.len() > 10, "{line}: a reason");
                continue;
            }
        };
        writeln!(script, "first {before}\n{said}\nthen_ {after}").expect("text");
    }
    script + "finish\n"
}

/// Plays a story in namespaces of its own. `None` when that cannot be done here.
fn play(story: &[Step]) -> Result<(), String> {
    let dir = temp_in(&base());
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("top")).expect("mkdir");
    std::fs::create_dir(at("built")).expect("mkdir");
    std::fs::create_dir(at("built/release")).expect("mkdir");
    std::fs::hard_link(MIRRORFS, at("built/release/mirrorfs"))
        .or_else(|_| std::fs::copy(MIRRORFS, at("built/release/mirrorfs")).map(drop))
        .expect("the product");
    std::fs::write(at("scene"), stories::SCENE).expect("write");
    std::fs::write(at("story"), script(story)).expect("write");
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child"]);
    command.arg("bash").arg(at("scene")).arg(dir.path());
    command
        .arg(env!("CARGO_MANIFEST_DIR"))
        .env("LC_ALL", "C")
        .env("TZ", "UTC");
    let ran = std::thread::scope(|scope| {
        let alone = scope.spawn(|| {
            own_mounts();
            run_within(&mut command, Duration::from_secs(180))
        });
        alone.join().expect("no panic")
    });
    if ran.code == Some(0) {
        Ok(())
    } else {
        Err(ran.to_string())
    }
}

/// One document: its examples are known, and do what it says.
fn document(name: &str, found: &[String], story: &[Step]) {
    if let Err(complaint) = compare(found, story) {
        panic!("{name}: {complaint}");
    }
    if let Err(complaint) = play(story) {
        panic!("{name}: {complaint}");
    }
}

macro_rules! need_scene {
    () => {
        need_root!();
        need_product!();
        need_programs!("unshare", "chroot", "mkfs.ext4", "findmnt");
        let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        if !known.contains("\toverlay\n") {
            return skip("this kernel has no overlayfs");
        }
    };
}

#[test]
fn readme() {
    need_scene!();
    document(
        "README.md",
        &of_markdown(&file("README.md")),
        &stories::README,
    );
}

#[test]
fn operations() {
    need_scene!();
    let found = of_markdown(&file("docs/OPERATIONS.md"));
    document("docs/OPERATIONS.md", &found, &stories::OPERATIONS);
}

#[test]
fn the_manual_of_the_program() {
    need_scene!();
    let page = mirrorfs(["man"]).ok().out;
    document("mirrorfs(1)", &of_roff(&page), &stories::MIRRORFS_1);
}

#[test]
fn the_manual_of_fstab() {
    need_scene!();
    let found = of_roff(&file("docs/man/mount.mirrorfs.8"));
    document("mount.mirrorfs(8)", &found, &stories::MOUNT_8);
}

#[test]
fn the_lines_for_fstab() {
    need_scene!();
    let found = of_table(&file("mount-helper/example.fstab"));
    document("mount-helper/example.fstab", &found, &stories::FSTAB);
}

/// What systemd does with a mount unit, typed.
#[test]
fn the_mount_unit() {
    need_scene!();
    let found = of_table(&file("mount-helper/example.mount"));
    document("mount-helper/example.mount", &found, &stories::MOUNT_UNIT);
}

/// Documents that have none are read, too: once they have one, it is to be executed.
#[test]
fn elsewhere_there_are_none() {
    assert!(of_roff(&file("docs/man/mirrorfs.7")).is_empty());
    for document in [
        "docs/TROUBLESHOOTING.md",
        "docs/KNOWN_ISSUES.md",
        "mount-helper/README.md",
    ] {
        assert!(of_markdown(&file(document)).is_empty(), "{document}");
    }
}

/// A wrong story is noticed: what a command answers, prints or leaves behind; and one that is no
/// example, or lacks one.
#[test]
fn wrong_stories_are_noticed() {
    need_scene!();
    assert_eq!(play(&[typed("echo a 12:30"), printed("a 14:02")]), Ok(()));
    for wrong in [
        vec![typed("false")],
        vec![fails("true", 1)],
        vec![typed("echo a"), printed("b")],
        vec![typed("true").before("false")],
        vec![typed("true").after("false")],
        vec![fstab(
            "/srv/data /srv/data mirrorfs replica=/backup/none 0 0",
            "/srv/data",
        )],
    ] {
        assert!(play(&wrong).is_err(), "{wrong:?}");
    }
    let (found, known) = (["a", "b"].map(str::to_owned), [typed("a"), typed("b")]);
    assert_eq!(compare(&found, &known), Ok(()));
    assert!(compare(&found, &known[..1]).is_err() && compare(&found[..1], &known).is_err());
    let markdown = "```\na\n\n  b\n```\ntext\n\n    c\n";
    assert_eq!(of_markdown(markdown), ["a", "  b", "    c"]);
    let roff = ".SH SYNOPSIS\n.nf\nno\n.fi\n.SH EXAMPLES\n.nf\nmount \\-o x\n.fi\nno\n";
    assert_eq!(of_roff(roff), ["mount -o x"]);
}
