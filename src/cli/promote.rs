// SPDX-License-Identifier: MIT
//! `mirrorfs promote REPLICA`: makes a replica the primary, unmounted.

use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::args::PromoteArgs;
use super::complain;
use super::exit::Exit;
use crate::mirror::attach::decide::Typed;
use crate::mirror::attach::promote::{Asked, Promoted, promote};
use crate::mirror::attach::refusal::{Id, Refusal};
use crate::mirror::failure::Shown;
use crate::session::pair;

/// How long a daemon that is just ending may keep us from the copies.
const ENDING: Duration = Duration::from_secs(2);

pub(super) fn run(args: &PromoteArgs) -> Exit {
    let path = args.replica.as_path();
    let root = match pair::root(path) {
        Ok(root) => root,
        Err(no) => {
            complain(&format!("cannot promote {}: {no}", path.shown()));
            return no.id.map_or(Exit::Unknown, |_| Exit::MountRefused);
        }
    };
    let typed = Typed {
        replica: path.as_os_str().as_bytes().to_vec(),
        offline: true,
        ..Typed::default()
    };
    let asked = Asked {
        force: args.force,
        primary_lost: args.primary_lost,
    };
    let look = |path: &[u8]| pair::look(Path::new(OsStr::from_bytes(path)));
    match promote(root.as_fd(), &look, &typed, ENDING, asked) {
        Ok(promoted) => tell(path, &promoted),
        Err(refusal) => refuse(&refusal),
    }
}

fn tell(path: &Path, promoted: &Promoted) -> Exit {
    for note in &promoted.notes {
        say(note);
    }
    say(&format!(
        "{} is a primary now, epoch {}. Its old primary is a stale copy.",
        path.shown(),
        promoted.epoch
    ));
    say(&format!(
        "To mount it with a new replica: mirrorfs mount {} MOUNTPOINT --replica DIR",
        path.quoted()
    ));
    Exit::Success
}

fn refuse(refusal: &Refusal) -> Exit {
    let mut text = refusal.why.clone();
    for line in refusal.more.iter().cloned().chain(refusal.commands()) {
        text += "\n";
        text += &line;
    }
    say(&format!("{text}  [{}]", refusal.id));
    match refusal.id {
        Id::InUse => Exit::MountRefused,
        Id::NoStamp | Id::BadStamp | Id::CopyFailed | Id::StampFailed => Exit::Unknown,
        _ => Exit::No,
    }
}

fn say(text: &str) {
    _ = writeln!(std::io::stderr(), "{text}").is_ok();
}
