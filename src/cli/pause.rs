// SPDX-License-Identifier: MIT
//! `mirrorfs pause` and `mirrorfs resume`: maintenance on the replica's disk.

use std::path::Path;
use std::time::Duration;

use super::complain;
use super::exit::Exit;
use super::reach::{self, Silence};
use crate::mirror::failure::Shown;
use crate::session::control::{Asked, Client};

/// How long setting a replica aside may take: what is under way there has to end.
const PAUSING: Duration = Duration::from_secs(60);

pub(super) fn pause(mountpoint: &Path) -> Exit {
    ask(mountpoint, "pause", |client| client.pause(PAUSING))
}

pub(super) fn resume(mountpoint: &Path) -> Exit {
    ask(mountpoint, "resume", Client::resume)
}

/// Success is silent.
fn ask(mountpoint: &Path, verb: &str, question: impl FnOnce(Client) -> Asked<()>) -> Exit {
    let asked = reach::one(mountpoint).map_err(Silence::Nobody);
    let (exit, no) = match asked.and_then(|mount| reach::ask(&mount, question)) {
        Ok(()) => return Exit::Success,
        Err(Silence::No(no)) => (Exit::answer(no.kind), no),
        Err(Silence::Nobody(no)) => (Exit::Unknown, no),
    };
    complain(&format!("cannot {verb} {}: {no}", mountpoint.shown()));
    exit
}
