// SPDX-License-Identifier: MIT
//! No fault at all: the load alone leaves the copies equal. What fails here has nothing to do with
//! faults.

use super::rig::Rig;
use crate::support::mount::Wish;
use crate::support::rng::seed;
use crate::support::setting;
use crate::{need_product, need_root};

fn calm(options: &[&str]) {
    let wish = options
        .iter()
        .fold(Wish::default(), |w, o| w.arg("-o").arg(*o));
    let mut rig = Rig::new(wish, 4, seed("calm"));
    let mut load = rig.load();
    load.wait_for(usize::try_from(setting("MIRRORFS_CALM", 6000)).expect("a number of ops"));
    let tally = rig.judge(load, &[]);
    eprintln!("calm: {tally:?}");
    assert_eq!(rig.mount.state(), "in-sync");
    rig.finish();
}

/// mode=sync.
#[test]
fn sync() {
    need_root!();
    need_product!();
    calm(&[]);
}

/// mode=async.
#[test]
fn asynchronous() {
    need_root!();
    need_product!();
    calm(&["mode=async"]);
}
