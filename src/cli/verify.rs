// SPDX-License-Identifier: MIT
//! `mirrorfs verify`: compares the copies, mounted or not; repairs only when asked.
//!
//! Differences go to stdout like those of diff(1): names are raw bytes in a pipe.

use std::io::{IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{Mode, OFlags};
use serde::Serialize;

use super::args::VerifyArgs;
use super::complain;
use super::exit::Exit;
use super::interrupt::Interrupt;
use super::line::Line;
use super::reach::{self, Silence};
use super::render::as_seen;
use super::units::{show_count, show_size};
use crate::mirror::attach::decide::{Asked, Typed};
use crate::mirror::attach::refusal::Id;
use crate::mirror::attach::stamp::{self, Lock};
use crate::mirror::attach::{self, Options};
use crate::mirror::failure::{Named, Shown, show_path};
use crate::mirror::resync::{How, Lacks, Progress, Summary, reconcile};
use crate::session::control::{Found, Verified, Verify, Verifying};
use crate::session::mountpoint::find;
use crate::session::refusal::Refusal;
use crate::session::{confine, pair};
use crate::sys::mountinfo::{self, Mount};
use crate::sys::{Errno, Result as SysResult};

/// Differences that are listed; the rest are counted.
const LISTED_MAX: usize = 100_000;
/// How long a daemon that is ending may keep us from its trees.
const ENDING: Duration = Duration::from_secs(5);
/// Columns of the kind and of the path, the gap included.
const KIND: usize = 10;
const PATH: usize = 26;

/// Why there is nothing to say about differences.
enum Stop {
    /// Control-C.
    Interrupted,
    /// A no, and the exit code for it.
    No(Exit, Refusal),
}

impl From<Silence> for Stop {
    fn from(silence: Silence) -> Self {
        match silence {
            Silence::No(refusal) => Self::No(Exit::answer(refusal.kind), refusal),
            Silence::Nobody(refusal) => Self::No(Exit::Unknown, refusal),
        }
    }
}

/// What a comparison came to.
struct Outcome {
    sum: Verified,
    found: Vec<Found>,
    /// The command that repairs it.
    repair: String,
    /// Size and time were believed.
    quick: bool,
}

pub(super) fn run(args: &VerifyArgs) -> Exit {
    let interrupt = match Interrupt::start() {
        Ok(interrupt) => interrupt,
        Err(no) => return refuse(args, Exit::Unknown, &no),
    };
    let mut line = Line::new(std::io::stderr(), std::io::stderr().is_terminal());
    let began = Instant::now();
    let mut show = |seen: &Progress| line.update(|| progress(None, seen, began.elapsed()));
    let done = match &args.replica {
        None => live(args, &interrupt, &mut show),
        Some(replica) => offline(args, replica, &interrupt, &mut show),
    };
    let outcome = match done {
        Ok(outcome) => outcome,
        Err(stop) => {
            line.finish(None);
            return match stop {
                Stop::Interrupted => Exit::Interrupted,
                Stop::No(exit, no) => refuse(args, exit, &no),
            };
        }
    };
    let seen = Progress {
        files: outcome.sum.files,
        bytes: outcome.sum.bytes,
        ..Progress::default()
    };
    line.finish(Some(&progress(Some(100), &seen, began.elapsed())));
    let mut out = std::io::stdout();
    let text = if args.json {
        json(&outcome).into_bytes()
    } else {
        text(&outcome, out.is_terminal())
    };
    // A closed pipe is no reason to complain.
    _ = out.write_all(&text).is_ok();
    if outcome.sum.differences == 0 || outcome.sum.repaired {
        Exit::Success
    } else {
        Exit::No
    }
}

fn refuse(args: &VerifyArgs, exit: Exit, no: &Refusal) -> Exit {
    complain(&format!("cannot verify {}: {no}", args.place.shown()));
    exit
}

/// By the daemon, while the mirror is in use.
fn live(
    args: &VerifyArgs,
    interrupt: &Interrupt,
    show: &mut dyn FnMut(&Progress),
) -> Result<Outcome, Stop> {
    let mount = reach::one(&args.place).map_err(|no| {
        let no = no.next("To compare two directories: mirrorfs verify PRIMARY REPLICA");
        Stop::No(Exit::Unknown, no)
    })?;
    let how = Verify {
        quick: args.quick,
        repair: args.repair,
    };
    let mut found = Vec::new();
    let mut hear = |told| {
        match told {
            Verifying::Progress(seen) => show(&seen),
            Verifying::Found(one) if found.len() < LISTED_MAX => found.push(one),
            Verifying::Found(_) => {}
        }
        !interrupt.came()
    };
    let asked = reach::ask(&mount, |client| client.verify(how, &mut hear));
    if interrupt.came() {
        return Err(Stop::Interrupted);
    }
    Ok(Outcome {
        sum: asked?,
        found,
        repair: format!("mirrorfs verify --repair {}", mount.target.quoted()),
        quick: args.quick,
    })
}

/// Two directories that nobody uses.
fn offline(
    args: &VerifyArgs,
    replica: &Path,
    interrupt: &Interrupt,
    show: &mut dyn FnMut(&Progress),
) -> Result<Outcome, Stop> {
    let unknown = |no| Stop::No(Exit::Unknown, no);
    let root = |path| {
        let root = open(path)?;
        if args.one_file_system {
            return Ok(pair::view(root)?);
        }
        Ok(root)
    };
    let roots = [&*args.place, replica].map(|path| root(path).map_err(|no| (path, no)));
    let [primary, replica_fd] = roots.map(|root| {
        root.map_err(|(path, no)| match no {
            Closed::Mirror => Stop::No(Exit::MountRefused, is_mirror(path)),
            Closed::Errno(errno) => unknown(Refusal::refused(format!(
                "{} cannot be opened: {}.",
                path.shown(),
                Named(errno)
            ))),
        })
    });
    let (primary, replica_fd) = (primary?, replica_fd?);
    if args.repair {
        // Neither in the other, and what else two copies must be.
        pair::roots(&args.place, replica).map_err(unknown)?;
    }
    confine::stay_in([primary.as_fd(), replica_fd.as_fd()]);
    if args.repair {
        return repair(args, replica, [&primary, &replica_fd], interrupt, show);
    }
    let _locks = [(&primary, &*args.place), (&replica_fd, replica)]
        .into_iter()
        .map(|(fd, path)| Lock::take(fd.as_fd(), ENDING).map_err(|errno| held(path, errno)))
        .collect::<Result<Vec<_>, _>>()?;
    let how = How {
        quick: args.quick,
        locates: true,
        kept_max: LISTED_MAX,
        one_file_system: args.one_file_system,
        bytes_per_second: args.bwlimit,
        ignore: known_lacks(&primary),
        stop: Some(Arc::clone(interrupt.switch())),
        ..How::default()
    };
    let summary = reconcile(primary.as_fd(), replica_fd.as_fd(), how, show).map_err(|failure| {
        if interrupt.came() {
            return Stop::Interrupted;
        }
        unknown(Refusal::refused(format!("{failure}.")).id("MF-0025"))
    })?;
    Ok(outcome(args, replica, summary, false))
}

fn outcome(args: &VerifyArgs, replica: &Path, summary: Summary, repaired: bool) -> Outcome {
    let (primary, replica) = (args.place.quoted(), replica.quoted());
    Outcome {
        sum: Verified {
            files: summary.files,
            bytes: summary.bytes,
            differences: summary.differences_total,
            repaired,
        },
        found: summary.differences.into_iter().map(Found::from).collect(),
        repair: format!("mirrorfs verify --repair {primary} {replica}"),
        quick: args.quick,
    }
}

/// Makes the replica equal, as a mount with `--adopt` would: only where that is known to be a copy,
/// or nothing differs.
fn repair(
    args: &VerifyArgs,
    replica: &Path,
    roots: [&OwnedFd; 2],
    interrupt: &Interrupt,
    show: &mut dyn FnMut(&Progress),
) -> Result<Outcome, Stop> {
    let unknown = |no: Refusal| Stop::No(Exit::Unknown, no);
    let typed = Typed::offline(&args.place, replica);
    let options = Options {
        asked: Asked {
            degraded: false,
            adopt: true,
            init: false,
            discard: false,
        },
        patience: ENDING,
        how: How {
            quick: args.quick,
            kept_max: LISTED_MAX,
            one_file_system: args.one_file_system,
            bytes_per_second: args.bwlimit,
            stop: Some(Arc::clone(interrupt.switch())),
            ..How::default()
        },
        ..Options::default()
    };
    let [p, r] = roots.map(|root| root.as_fd());
    let attached = attach::attach(p, Ok(r), &typed, &options, &mut |_, seen| show(seen));
    let attached = attached.map_err(|error| {
        if interrupt.came() {
            return Stop::Interrupted;
        }
        let exit = match error.refusal.id {
            Id::InUse => Exit::MountRefused,
            Id::CopyFailed | Id::StampFailed => Exit::Unknown,
            _ => Exit::No,
        };
        let no = &error.refusal;
        let mut refusal = Refusal::refused(no.why.clone()).id(&no.id.to_string());
        refusal.next.clone_from(&no.more);
        refusal.next.extend(no.commands());
        Stop::No(exit, refusal)
    })?;
    let summary = attached.summary.as_deref().cloned().unwrap_or_default();
    attached.close_clean().map_err(|failure| {
        let why = format!("the copies are equal, but: {failure}.");
        unknown(Refusal::refused(why).id("MF-0026"))
    })?;
    Ok(outcome(args, replica, summary, true))
}

/// What this mirror was told to do without is no difference.
fn known_lacks(primary: &OwnedFd) -> Lacks {
    match stamp::read(primary.as_fd()) {
        Ok(Some(stamp)) => stamp.lacks,
        // Without a stamp that can be read everything counts.
        _ => Lacks::default(),
    }
}

/// Why a root was not opened.
enum Closed {
    /// It is shown by a mirror.
    Mirror,
    Errno(Errno),
}

impl From<Errno> for Closed {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// Opens a root, unless it is in a mirror's mount, dead or alive: that is asked of mountinfo first.
fn open(path: &Path) -> Result<OwnedFd, Closed> {
    if let Ok(Some(mount)) = find(path)
        && mount.is_mirror()
    {
        return Err(Closed::Mirror);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty())?;
    if in_mirror(&root)? {
        return Err(Closed::Mirror);
    }
    Ok(root)
}

fn in_mirror(root: &OwnedFd) -> SysResult<bool> {
    let id = mountinfo::id_of(root.as_fd())?;
    let mounts = mountinfo::read().map_err(|_| Errno::NOSYS)?;
    Ok(mountinfo::by_id(&mounts, id).is_some_and(Mount::is_mirror))
}

fn is_mirror(path: &Path) -> Refusal {
    let typed = path.quoted();
    Refusal::refused(format!("{} is in a mirrorfs mount.", path.shown()))
        .next(format!("While it is mounted:   mirrorfs verify {typed}"))
        .next(format!("Or unmount it first:   mirrorfs umount {typed}"))
        .id("MF-0043")
}

fn held(path: &Path, errno: Errno) -> Stop {
    let shown = show_path(path.as_os_str().as_bytes());
    if errno == Errno::WOULDBLOCK {
        let no = Refusal::refused(format!("{shown} is in use by another mirrorfs."))
            .next("See which:                        mirrorfs status")
            .next("To compare while it is mounted:   mirrorfs verify MOUNTPOINT");
        return Stop::No(Exit::MountRefused, no.id("MF-0023"));
    }
    let why = format!("{shown} cannot be locked: {}.", Named(errno));
    Stop::No(Exit::Unknown, Refusal::refused(why).id("MF-0025"))
}

/// As `text`, of what a daemon said.
#[cfg(any(test, fuzzing))]
pub(super) fn told(found: Vec<Found>, sum: Verified, escape: bool) -> Vec<u8> {
    let outcome = Outcome {
        sum,
        found,
        repair: "mirrorfs verify --repair /data".to_owned(),
        quick: false,
    };
    serde_json::from_str::<serde_json::Value>(&json(&outcome)).expect("json");
    text(&outcome, escape)
}

/// `verify  100%  812 GiB  1,204,118 files  640 MiB/s`.
///
/// How much there is to do is not known before the end, so a percentage is shown only then.
pub(super) fn progress(percent: Option<u32>, seen: &Progress, took: Duration) -> String {
    let percent = percent.map_or(String::new(), |n| format!("{n:>3}%  "));
    let ms = took.as_millis().max(1);
    let rate = u64::try_from(u128::from(seen.bytes) * 1000 / ms).unwrap_or(u64::MAX);
    format!(
        "verify  {percent}{}  {}  {}/s",
        show_size(seen.bytes),
        files(seen.files),
        show_size(rate)
    )
}

fn files(n: u64) -> String {
    match n {
        1 => "1 file".to_owned(),
        n => format!("{} files", show_count(n)),
    }
}

/// A line for each difference, and a sentence.
fn text(outcome: &Outcome, escape: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for found in &outcome.found {
        let path = match found.path.as_slice() {
            b"" => b".".to_vec(),
            path if escape => show_path(path).into_bytes(),
            path => path.to_vec(),
        };
        let columns = String::from_utf8_lossy(&path).chars().count();
        let gap = PATH.saturating_sub(columns) + 2;
        let kind = as_seen(&found.kind, escape);
        out.extend_from_slice(format!("{kind:KIND$}").as_bytes());
        out.extend_from_slice(&path);
        out.extend(std::iter::repeat_n(b' ', gap));
        out.extend_from_slice(as_seen(&found.detail, escape).as_bytes());
        out.push(b'\n');
    }
    let total = outcome.sum.differences;
    let unlisted = total.saturating_sub(outcome.found.len() as u64);
    if unlisted > 0 {
        out.extend_from_slice(format!("... and {} more\n", show_count(unlisted)).as_bytes());
    }
    let of = files(outcome.sum.files);
    let count = match total {
        0 => "No differences".to_owned(),
        1 => "1 difference".to_owned(),
        n => format!("{} differences", show_count(n)),
    };
    let then = match (total, outcome.sum.repaired) {
        (0, _) => String::new(),
        (_, true) => " Repaired.".to_owned(),
        (_, false) => format!(" To repair: {}", outcome.repair),
    };
    let believed = if outcome.quick {
        " Content was not read where size and time agree."
    } else {
        ""
    };
    out.extend_from_slice(format!("{count} in {of}.{believed}{then}\n").as_bytes());
    out
}

#[derive(Serialize)]
struct View<'a> {
    schema: u32,
    compared_files: u64,
    compared_bytes: u64,
    differences: Vec<FoundView<'a>>,
    differences_total: u64,
    repaired: bool,
    quick: bool,
}

#[derive(Serialize)]
struct FoundView<'a> {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    kind: &'a str,
    offset: Option<u64>,
    detail: &'a str,
}

/// A name for JSON: as text, and where it is none, as base64 too.
pub(super) fn json_path(path: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(path) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (
            String::from_utf8_lossy(path).into_owned(),
            Some(STANDARD.encode(path)),
        ),
    }
}

fn json(outcome: &Outcome) -> String {
    let view = View {
        schema: 1,
        compared_files: outcome.sum.files,
        compared_bytes: outcome.sum.bytes,
        differences: outcome
            .found
            .iter()
            .map(|found| {
                let (path, path_bytes) = json_path(&found.path);
                FoundView {
                    path,
                    path_bytes,
                    kind: &found.kind,
                    offset: found.offset,
                    detail: &found.detail,
                }
            })
            .collect(),
        differences_total: outcome.sum.differences,
        repaired: outcome.sum.repaired,
        quick: outcome.quick,
    };
    // Strings and integers only: there is nothing that could fail.
    serde_json::to_string(&view).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &[u8], kind: &str, offset: Option<u64>, detail: &str) -> Found {
        Found {
            path: path.to_vec(),
            kind: kind.into(),
            offset,
            detail: detail.into(),
        }
    }

    fn sample() -> Outcome {
        Outcome {
            sum: Verified {
                files: 1_204_118,
                bytes: 871_878_361_088,
                differences: 3,
                repaired: false,
            },
            found: vec![
                found(
                    b"photos/2024/img_0417.raw",
                    "data",
                    Some(12_582_912),
                    "64 KiB differ at 12582912",
                ),
                found(
                    b"bin/backup.sh",
                    "metadata",
                    None,
                    "mode 0755 on primary, 0644 on replica",
                ),
                found(b"tmp/old", "entry", None, "on replica only"),
            ],
            repair: "mirrorfs verify --repair /data".into(),
            quick: false,
        }
    }

    /// The sample of the interface, word for word.
    #[test]
    fn the_sample_of_the_interface() {
        let golden = "\
data      photos/2024/img_0417.raw    64 KiB differ at 12582912
metadata  bin/backup.sh               mode 0755 on primary, 0644 on replica
entry     tmp/old                     on replica only
3 differences in 1,204,118 files. To repair: mirrorfs verify --repair /data
";
        assert_eq!(String::from_utf8_lossy(&text(&sample(), false)), golden);
        let seen = Progress {
            files: 1_204_118,
            bytes: 871_878_361_088,
            ..Progress::default()
        };
        assert_eq!(
            progress(Some(100), &seen, Duration::from_millis(1_299_208)),
            "verify  100%  812 GiB  1,204,118 files  640 MiB/s"
        );
    }

    #[test]
    fn silence_is_not_an_answer() {
        let mut outcome = sample();
        outcome.found.truncate(1);
        assert!(String::from_utf8_lossy(&text(&outcome, false)).contains("... and 2 more\n3 diff"));
        outcome.sum.repaired = true;
        assert!(text(&outcome, false).ends_with(b"files. Repaired.\n"));
        outcome.found.clear();
        outcome.sum.differences = 0;
        outcome.sum.files = 1;
        assert_eq!(text(&outcome, false), b"No differences in 1 file.\n");
    }

    /// Raw in a pipe, harmless on a terminal, exact in JSON.
    #[test]
    fn names_of_any_bytes() {
        let mut outcome = sample();
        outcome.found = vec![
            found(b"caf\xe9\x1b", "entry", None, "on replica only"),
            found(b"", "meta\x1bdata", None, "mode\x1b"),
        ];
        let raw = text(&outcome, false);
        assert!(raw.windows(5).any(|w| w == b"caf\xe9\x1b"));
        assert!(!text(&outcome, true).contains(&0x1b));
        let json: serde_json::Value = serde_json::from_str(&json(&outcome)).expect("json");
        assert_eq!(json["schema"], 1);
        assert_eq!(json["compared_files"], 1_204_118);
        let one = &json["differences"][0];
        assert_eq!(one["path_bytes"], STANDARD.encode(b"caf\xe9\x1b"));
        assert!(one["offset"].is_null() && one["kind"] == "entry");
        assert_eq!(json["differences"][1]["path"], "");
        assert!(json["differences"][1].get("path_bytes").is_none());
    }
}
