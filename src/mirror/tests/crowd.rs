// SPDX-License-Identifier: MIT
//! A few clients at the same few files: whatever the order in which their changes reach the primary,
//! they reach the replica in the same one, because overlapping ones take turns.

use super::lost::differences;
use super::*;

const CLIENTS: usize = 3;
const ROUNDS: u64 = 60;

/// All do this at once, each with a value of its own. What comes of a round is not overwritten by
/// later ones altogether.
fn change(bench: &Bench, files: &[(Name, Arc<Node>)], round: u64, kind: u64, value: u8) {
    let file = usize::try_from(kind >> 8).expect("64 bits") % files.len();
    let node = files[file].1.clone();
    let action = match kind % 4 {
        0 => Action::SetAttr {
            node,
            uid: None,
            gid: None,
            mode: Some(0o600 | u32::from(value)),
            atime: None,
            mtime: None,
        },
        1 => {
            let name = std::ffi::CString::new(format!("user.n{}", round % 16));
            let name = name.expect("a name");
            Action::SetXattr { node, name, how: 0 }
        }
        _ => Action::Write {
            node,
            offset: round * 512,
            appending: false,
        },
    };
    let length = if kind % 4 == 1 { 8 } else { 2000 };
    let op = Op {
        needs: Needs::DAEMON,
        action,
        data: &vec![value; length],
    };
    drop(bench.mirror.apply(&op).expect("it must succeed"));
}

/// Several clients at once on a mirror with this sabotage; tells in words what is different once
/// all is carried.
pub(super) fn crowd(
    seed: u64,
    limits: Option<window::Limits>,
    sabotage: impl FnOnce(&Mirror),
) -> Vec<String> {
    let bench = Bench::new(limits);
    sabotage(&bench.mirror);
    let mut client = bench.client("home");
    (0..6).for_each(|_| client.create());
    // Before and between the two copies there is time for somebody else.
    bench.first.state.lock().dawdles = true;
    let together = std::sync::Barrier::new(CLIENTS);
    std::thread::scope(|scope| {
        for value in [1, 2, 4] {
            let (bench, files, together) = (&bench, &client.files, &together);
            scope.spawn(move || {
                let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                for round in 0..ROUNDS {
                    together.wait();
                    change(bench, files, round, next(&mut random), value);
                }
            });
        }
    });
    bench.mirror.drain();
    let mut found = differences(&bench);
    if let Some(degraded) = bench.mirror.health().degraded {
        found.push(degraded.fault.to_string());
    }
    found
}

#[test]
fn overlapping_changes_reach_both_copies_in_one_order() {
    for seed in 1..=8 {
        for limits in [None, Some(WIDE)] {
            assert_eq!(crowd(seed, limits, |_| ()), [""; 0], "seed {seed}");
        }
    }
}
