// SPDX-License-Identifier: MIT
//! Are the oracles any good? Each fault that they are there for is built into the mirror
//! ([`super::sabotage`]), and then they must find it: the same histories that are green in their own
//! tests turn red, one of a bounded number of them at least.
//!
//! | fault | found by |
//! |---|---|
//! | a mark is cleared before the sync | `lost`, whose power fails in the middle of a checkpoint |
//! | a mark is dropped | `lost`, whatever it is that the replica loses |
//! | a turn is skipped | `crowd`, in both modes; `heal::tests::live`, where healing has turns, too |
//! | a call that was given up writes after all | `late`, in both modes |
//!
//! An oracle that stays green here is to be mended, not the switch.

use super::crowd::crowd;
use super::late::come_late;
use super::lost::{End, lose};
use super::sabotage::{Drops, Switch};
use super::*;

/// Most histories that are played until one is red. On average it takes less than two of them.
const HISTORIES: u64 = 400;

/// Plays histories until one is red, and says which.
#[track_caller]
fn must_turn_red(what: &str, play: impl Fn(u64) -> Vec<String>) -> u64 {
    let red = (1..=HISTORIES).find(|&seed| !play(seed).is_empty());
    let red = red.unwrap_or_else(|| panic!("{what}, and {HISTORIES} histories are green"));
    eprintln!("{what}: history {red} is red");
    red
}

fn intent(mirror: &Mirror) -> &Intent {
    mirror.intent.as_ref().expect("a log")
}

#[test]
fn a_mark_cleared_before_the_sync_is_found() {
    let end = End::Cut;
    let red = must_turn_red("marks are cleared before the sync", |seed| {
        lose(seed, end, |mirror| intent(mirror).clears_early.turn_on(1))
    });
    assert_eq!(lose(red, end, |_| ()), [""; 0], "without the switch");
}

/// Each kind of mark, always; then all of them, now and then.
#[test]
fn a_dropped_mark_is_found() {
    type Which = fn(&Drops) -> &Switch;
    let kinds: [(&str, Which); 4] = [
        ("contents", |drops| &drops.data),
        ("attributes", |drops| &drops.node),
        ("names", |drops| &drops.dir),
        ("contents of a crowd", |drops| &drops.dir_data),
    ];
    for (kind, which) in kinds {
        let what = format!("marks for {kind} are dropped");
        let red = must_turn_red(&what, |seed| {
            lose(seed, End::of(seed), |mirror| {
                which(&intent(mirror).drops).turn_on(1);
            })
        });
        assert_eq!(
            lose(red, End::of(red), |_| ()),
            [""; 0],
            "without the switch"
        );
    }
    for end in [End::Stopped, End::Unsynced, End::Cut] {
        let what = format!("every third mark is dropped, {end:?}");
        let red = must_turn_red(&what, |seed| {
            lose(seed, end, |mirror| {
                for (_, which) in kinds {
                    which(&intent(mirror).drops).turn_on(3);
                }
            })
        });
        assert_eq!(lose(red, end, |_| ()), [""; 0], "without the switch");
    }
}

#[test]
fn a_skipped_turn_is_found() {
    for limits in [None, Some(WIDE)] {
        let red = must_turn_red("turns are skipped", |seed| {
            crowd(seed, limits, |mirror| mirror.order.skips.turn_on(2))
        });
        assert_eq!(crowd(red, limits, |_| ()), [""; 0], "without the switch");
    }
}

/// Nothing about it is random.
#[test]
fn a_write_after_a_timeout_is_found() {
    for limits in [None, Some(WIDE)] {
        let found = come_late(limits, |mirror| mirror.watch.is_blind.turn_on(1));
        assert!(!found.is_empty());
    }
}
