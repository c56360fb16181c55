// SPDX-License-Identifier: MIT
//! The first look at two copies that are believed equal: while the mirror was not mounted anybody
//! could have changed either of them (02-safety rule 18).
//!
//! It is quick: names and metadata. A small tree is looked at before it is served. A large one is
//! served at once, as `unverified`, and looked at meanwhile: what seems to differ is looked at again
//! while everything stands still for a moment, so that no change under way is taken for a
//! difference.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::config::MountConfig;
use super::refusal::Refusal;
use crate::mirror::attach::Attached;
use crate::mirror::failure::show_path;
use crate::mirror::resync::{Difference, How, Summary, differs_at};
use crate::mirror::state::ReplicaState;
use crate::mirror::{Mirror, Verified};

/// So many names are looked at before serving them: a tenth of a second or so.
const BEFORE_MAX: u64 = 20_000;
/// Between two looks whether healing is over.
const HEALING: Duration = Duration::from_millis(100);
/// Differences that are looked at again.
const AGAIN_MAX: usize = 1000;

/// Looks at a small tree before it is served. What is to be healed first is looked at afterwards,
/// if anybody could have changed it: since the machine was `restarted` the primary has lain bare.
pub(super) fn before(attached: &Attached, config: &MountConfig, restarted: bool) -> Verified {
    if attached.is_resyncing() && restarted {
        return Verified::NotYet;
    }
    if attached.is_resyncing() || !attached.is_unverified() {
        return Verified::Yes;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let how = how(config, stop.clone());
    let looked = attached.quick_check(how, &mut |seen| {
        if seen.entries > BEFORE_MAX {
            stop.store(true, Ordering::Relaxed);
        }
    });
    match looked {
        Ok(summary) => verdict(attached, &summary.differences, summary.differences_total),
        // Too large, or unreadable: whoever looks at all of it will say so.
        Err(_) => Verified::NotYet,
    }
}

/// Looks at a large one while it is served, on a thread of its own.
///
/// # Errors
/// When there is no thread to be had.
pub(super) fn meanwhile(
    attached: Arc<Attached>,
    mirror: Arc<Mirror>,
    config: &MountConfig,
    roots: [OwnedFd; 2],
    stop: Arc<AtomicBool>,
) -> Result<(), Refusal> {
    let how = how(config, stop.clone());
    let look = move || {
        while mirror.replica_state() == ReplicaState::Resyncing {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(HEALING);
        }
        let summary = match attached.quick_check(how, &mut |_| {}) {
            Ok(summary) => summary,
            Err(failure) => {
                tracing::warn!("the copies could not be compared: {failure}");
                return;
            }
        };
        if let Some(verified) = again(&attached, &mirror, &roots, summary) {
            if let Verified::Differs { count, first } = &verified {
                tracing::warn!("the copies differ in {count} places, such as {first} [MF-0022]");
            }
            mirror.set_verified(verified);
        }
    };
    std::thread::Builder::new()
        .name("first-look".to_owned())
        .spawn(look)
        .map(drop)
        .map_err(|e| Refusal::system(format!("cannot start a thread: {e}.")))
}

fn how(config: &MountConfig, stop: Arc<AtomicBool>) -> How {
    How {
        kept_max: AGAIN_MAX,
        one_file_system: config.one_file_system,
        stop: Some(stop),
        ..How::default()
    }
}

/// Looks once more at what seemed to differ. `None` when the replica has gone meanwhile.
fn again(
    attached: &Attached,
    mirror: &Mirror,
    roots: &[OwnedFd; 2],
    summary: Summary,
) -> Option<Verified> {
    let more = summary.differences_total - summary.differences.len() as u64;
    let lacks = attached.lacks();
    let differs = |one: &Difference| {
        let [primary, replica] = roots;
        differs_at(primary.as_fd(), replica.as_fd(), &one.path, lacks)
    };
    let left: Vec<_> = mirror.stand_still(|| {
        let all = summary.differences.into_iter();
        all.filter(differs).collect()
    })?;
    let total = left.len() as u64 + more;
    Some(verdict(attached, &left, total))
}

fn verdict(attached: &Attached, differences: &[Difference], count: u64) -> Verified {
    match differences.first() {
        None if count == 0 => {
            attached.verified();
            Verified::Yes
        }
        first => Verified::Differs {
            count,
            first: first.map_or_else(String::new, |one| {
                format!("{}: {}", show_path(&one.path), one.detail)
            }),
        },
    }
}
