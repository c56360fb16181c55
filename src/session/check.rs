// SPDX-License-Identifier: MIT
//! How the directories of a mount may lie to each other. Pure refusals; nothing is changed.
//!
//! The daemon must never wait for itself, and a copy must never contain the other.

use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, accessat};

use super::config::{Log, MountConfig};
use super::place::{Relation, Spot};
use super::refusal::Refusal;
use crate::mirror::failure::Shown;
use crate::sys::mountinfo::{self, Mount};

/// The mount through which a directory is seen.
pub(super) fn mount_of(path: &Path, mounts: &[Mount]) -> Option<Mount> {
    Spot::of(path, mounts).ok()?.mount
}

/// Everything that can be wrong with where things are.
pub(super) fn trees(config: &MountConfig, mounts: &[Mount]) -> Result<(), Refusal> {
    let primary = spot(&config.primary.path, mounts)?;
    let mountpoint = spot(&config.mountpoint.path, mounts)?;
    let shown = config.primary.typed.shown();
    let place = config.mountpoint.typed.shown();

    if primary.mount.as_ref().is_some_and(Mount::is_mirror) {
        return Err(Refusal::refused(format!(
            "PRIMARY {shown} is in a mirrorfs mount itself."
        ))
        .next("Name the directory behind that mount (its SOURCE in findmnt), or unmount it first.")
        .id("MF-0043"));
    }
    match (mountpoint.to(&primary), primary.to(&mountpoint)) {
        (Relation::Inside, _) => {
            return Err(
                waits(format!("MOUNTPOINT {place} is inside PRIMARY {shown}")).next(format!(
                    "Mount over the primary instead: mirrorfs mount {typed} {typed} ...",
                    typed = config.primary.typed.quoted()
                )),
            );
        }
        (_, Relation::Inside) => {
            return Err(waits(format!(
                "PRIMARY {shown} is inside MOUNTPOINT {place}"
            )));
        }
        _ => {}
    }
    for replica in config.replicas.iter().filter(|r| r.missing.is_none()) {
        let name = replica.place.typed.shown();
        let spot = spot(&replica.place.path, mounts)?;
        copies(&spot, &primary, &name.to_string(), &shown.to_string())?;
        match (spot.to(&mountpoint), mountpoint.to(&spot)) {
            (Relation::Apart, Relation::Apart) => {}
            (Relation::Same, _) => {
                return Err(waits(format!("MOUNTPOINT {place} is the replica itself")));
            }
            (Relation::Inside, _) => {
                return Err(waits(format!(
                    "the replica {name} is inside MOUNTPOINT {place}"
                )));
            }
            _ => {
                return Err(waits(format!(
                    "MOUNTPOINT {place} is inside the replica {name}"
                )));
            }
        }
        // With `degraded` a replica that cannot be written is one that is away.
        if !config.degraded {
            may_use(&replica.place.path, "the replica", Access::WRITE_OK)?;
        }
        nothing_below(config, &replica.place.path, mounts)?;
    }
    may_use(&config.primary.path, "PRIMARY", Access::READ_OK)?;
    nothing_below(config, &config.primary.path, mounts)?;
    ours_outside(config, &mountpoint, mounts)
}

fn spot(path: &Path, mounts: &[Mount]) -> Result<Spot, Refusal> {
    Spot::of(path, mounts)
        .map_err(|e| Refusal::from_io(&format!("cannot look at {}", path.shown()), &e.into()))
}

fn waits(why: String) -> Refusal {
    Refusal::refused(format!("{why}: the mirror would wait for itself."))
        .next("Choose directories of which neither contains the other.")
        .id("MF-0042")
}

/// Neither copy may contain the other.
pub(super) fn copies(
    replica: &Spot,
    primary: &Spot,
    name: &str,
    shown: &str,
) -> Result<(), Refusal> {
    let refusal = match (replica.to(primary), primary.to(replica)) {
        (Relation::Same, _) => Refusal::refused(format!(
            "the replica {name} is the same directory as PRIMARY {shown}."
        ))
        .next("A copy of itself is no copy: name a directory on another disk.")
        .id("MF-0040"),
        (Relation::Inside, _) => Refusal::refused(format!(
            "the replica {name} is inside PRIMARY {shown}: it would contain itself."
        ))
        .next("Name a directory outside the primary, best on another disk.")
        .id("MF-0041"),
        (_, Relation::Inside) => Refusal::refused(format!(
            "PRIMARY {shown} is inside the replica {name}: the copy would contain the original."
        ))
        .next("Name a directory that holds nothing else, best on another disk.")
        .id("MF-0041"),
        _ => return Ok(()),
    };
    Err(refusal)
}

fn may_use(path: &Path, role: &str, access: Access) -> Result<(), Refusal> {
    let access = access | Access::READ_OK | Access::EXEC_OK;
    match accessat(CWD, path, access, AtFlags::EACCESS) {
        Ok(()) => Ok(()),
        Err(crate::sys::Errno::ROFS) => Err(Refusal::refused(format!(
            "{role} {} is on a read-only file system.",
            path.shown()
        ))
        .next("Remount it read-write, or run on one copy for now: --degraded")),
        Err(e) => Err(Refusal::from_io(
            &format!("no permission to use {role} {}", path.shown()),
            &e.into(),
        )
        .next("Mount as root, or as the owner of both directories.")),
    }
}

fn nothing_below(config: &MountConfig, tree: &Path, mounts: &[Mount]) -> Result<(), Refusal> {
    if config.one_file_system {
        return Ok(());
    }
    let Some(other) = mountinfo::below(mounts, tree).next() else {
        return Ok(());
    };
    Err(Refusal::refused(format!(
        "{} ({}) is mounted below {}; a mirror is of one file system.",
        other.target.shown(),
        other.fstype,
        tree.shown()
    ))
    .next("Unmount it, or leave what is mounted below out of the mirror: --one-file-system")
    .id("MF-0044"))
}

/// The state directory and the log must stay reachable without asking ourselves.
fn ours_outside(config: &MountConfig, mountpoint: &Spot, mounts: &[Mount]) -> Result<(), Refusal> {
    let mut ours = vec![("the state directory", config.state_dir.as_path())];
    if let Log::File(path) = &config.log {
        ours.push(("the log", path));
    }
    for (role, path) in ours {
        // What does not exist yet will be made below its nearest ancestor that does.
        let there = path.ancestors().find(|p| p.is_dir());
        let Some(spot) = there.and_then(|p| Spot::of(p, mounts).ok()) else {
            continue;
        };
        if spot.to(mountpoint) != Relation::Apart {
            return Err(waits(format!(
                "{role} {} is inside MOUNTPOINT {}",
                path.shown(),
                config.mountpoint.typed.shown()
            )));
        }
    }
    Ok(())
}
