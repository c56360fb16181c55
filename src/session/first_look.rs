// SPDX-License-Identifier: MIT
//! The first look at two copies that are believed equal: while the mirror was not mounted anybody
//! could have changed either of them (docs/SAFETY.md, rule 18).
//!
//! It is quick: names and metadata. A small tree is looked at before it is served. A large one is
//! served at once, as `unverified`, and looked at meanwhile as `mirrorfs verify --quick` does: what
//! seems to differ is looked at again held in place, so that no change under way is taken for a
//! difference.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::config::MountConfig;
use super::control::Verify;
use super::refusal::{Kind, Refusal};
use super::verify::Comparison;
use crate::mirror::attach::Attached;
use crate::mirror::failure::Shown;
use crate::mirror::resync::{Difference, How};
use crate::mirror::state::ReplicaState;
use crate::mirror::{Mirror, Verified};

/// So many names are looked at before serving them: a tenth of a second or so.
const BEFORE_MAX: u64 = 20_000;
/// Between two looks whether the replica is there and healed.
const POLL: Duration = Duration::from_millis(100);
/// After a look that could not be finished.
const LATER: Duration = Duration::from_secs(60);

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

/// Looks at a large one while it is served, on a thread of its own, until all of it has been seen or
/// somebody else has compared the copies.
///
/// # Errors
/// When there is no thread to be had.
pub(super) fn meanwhile(
    attached: Arc<Attached>,
    mirror: Arc<Mirror>,
    config: &MountConfig,
    stop: Arc<AtomicBool>,
) -> Result<(), Refusal> {
    let mountpoint = config.mountpoint.path.quoted();
    let bytes_per_second = config.bwlimit;
    let look = move || {
        while wait_for_both(&mirror, &stop) {
            let comparison = Comparison {
                mirror: &mirror,
                ignore: attached.lacks(),
                mountpoint: &mountpoint,
                bytes_per_second,
                how: Verify {
                    quick: true,
                    repair: false,
                },
                stop: &stop,
            };
            let refusal = match comparison.run(&mut |_| {}) {
                Ok((summary, _)) => {
                    let count = summary.differences_total;
                    let verified = verdict(&attached, &summary.differences, count);
                    if let Verified::Differs { count, first } = &verified {
                        tracing::warn!(
                            "the copies differ; differences: {count}, such as {first} [MF-0022]"
                        );
                    }
                    return mirror.set_verified(verified);
                }
                Err(refusal) => refusal,
            };
            if refusal.kind == Kind::Interrupted {
                return;
            }
            tracing::info!(
                "the copies could not be compared: {} They will be, later.",
                refusal.why
            );
            let tried = Instant::now();
            while tried.elapsed() < LATER && !stop.load(Ordering::Relaxed) {
                mirror.await_change(POLL);
            }
        }
    };
    std::thread::Builder::new()
        .name("first-look".to_owned())
        .spawn(look)
        .map(drop)
        .map_err(|e| Refusal::system(format!("cannot start a thread: {e}.")))
}

/// Waits until the replica is followed and lacks nothing that is known. False when nobody needs to
/// look any more.
fn wait_for_both(mirror: &Mirror, stop: &AtomicBool) -> bool {
    while !stop.load(Ordering::Relaxed) && mirror.health().verified == Verified::NotYet {
        if mirror.replica_state() == ReplicaState::Unverified {
            return true;
        }
        mirror.await_change(POLL);
    }
    false
}

fn how(config: &MountConfig, stop: Arc<AtomicBool>) -> How {
    How {
        one_file_system: config.one_file_system,
        stop: Some(stop),
        ..How::default()
    }
}

fn verdict(attached: &Attached, differences: &[Difference], count: u64) -> Verified {
    match differences.first() {
        None if count == 0 => {
            attached.verified();
            Verified::Yes
        }
        first => Verified::Differs {
            count,
            first: first.map_or_else(String::new, ToString::to_string),
        },
    }
}
