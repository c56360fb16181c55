// SPDX-License-Identifier: MIT
//! Mounts whose requests come through rings: the kernel's switch, and staying on one processor.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::mount::{TestMount, Wish};

/// The kernel's switch, for the whole machine. It is looked at when a mount begins.
pub(crate) const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";

/// Holds the switch in a position: on (`Y`) or off (`N`). One test at a time, so that it ends as it
/// was found.
pub(crate) struct Held {
    before: String,
    _lock: File,
}

impl Held {
    pub(crate) fn at(position: &str) -> Self {
        let lock = File::open(SWITCH).expect("the switch");
        flock(&lock, FlockOperation::LockExclusive).expect("flock");
        let before = std::fs::read_to_string(SWITCH).expect("the switch");
        std::fs::write(SWITCH, position).expect("the switch");
        Self {
            before,
            _lock: lock,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        std::fs::write(SWITCH, &self.before).expect("the switch");
    }
}

/// Mounts while the switch is on (`Y`) or off (`N`).
#[track_caller]
pub(crate) fn mount_with(switch: &str, wish: Wish) -> TestMount {
    let held = Held::at(switch);
    let mount = wish.mount();
    drop(held);
    mount
}

/// How requests come to a mount, and why not through rings.
pub(crate) fn transport(mount: &TestMount) -> (String, Option<String>) {
    let json = mount.status_json();
    let text = |key: &str| json[key].as_str().map(str::to_owned);
    (
        text("transport").expect("a transport"),
        text("transport_reason"),
    )
}

/// Whether this kernel has the switch.
pub(crate) fn known() -> bool {
    Path::new(SWITCH).exists()
}

/// Keeps this thread, and those it starts, on one processor: their requests all go to one queue.
pub(crate) fn stay_on_one_cpu() {
    let allowed = sched_getaffinity(None).expect("affinity");
    let one = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu));
    let mut only = CpuSet::new();
    only.set(one.expect("a processor"));
    sched_setaffinity(None, &only).expect("affinity");
}
