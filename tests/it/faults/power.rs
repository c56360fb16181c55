// SPDX-License-Identifier: MIT
//! The power fails at a random moment of a mixed load: everything whose fsync was answered is on
//! both copies, the mirror becomes in-sync by healing, and then the copies are equal.

use std::path::{Path, PathBuf};

use super::disk::{Disk, Layout};
use super::oracle::client::Load;
use super::oracle::judge::{Record, read_notes, subtree};
use super::oracle::model::Model;
use super::oracle::power;
use super::rig::Rig;
use crate::support::mount::Wish;
use crate::support::rng::{Rng, seed};
use crate::support::setting;
use crate::{need_product, need_programs, need_root};

const THREADS: usize = 4;
/// Cuts of one load.
const AT_ONCE: u64 = 4;

/// What is left of the disk, and how far each thread's notes were before and after.
pub(crate) struct Cut {
    copy: Option<PathBuf>,
    /// `None`: all of them, as far as they went.
    before: Option<Vec<u64>>,
    after: Option<Vec<u64>>,
}

impl Cut {
    /// How far the notes of each thread are.
    pub(crate) fn lengths(load: &Load) -> Vec<u64> {
        let notes = &load.orders.notes;
        let length = |n: usize| notes.join(n.to_string()).metadata().map_or(0, |m| m.len());
        (0..load.orders.threads).map(length).collect()
    }

    /// Cuts the power under a load that goes on.
    pub(crate) fn under(disk: &mut Disk, load: &Load) -> Self {
        let before = Some(Self::lengths(load));
        let copy = Some(disk.copy());
        let after = Some(Self::lengths(load));
        Self {
            copy,
            before,
            after,
        }
    }

    /// A cut after the load had ended.
    pub(crate) fn of_all(copy: PathBuf) -> Self {
        Self {
            copy: Some(copy),
            before: None,
            after: None,
        }
    }

    /// A disk that died when the notes were so long; the load ended by that.
    pub(crate) fn without_copy(before: Vec<u64>) -> Self {
        Self {
            copy: None,
            before: Some(before),
            after: None,
        }
    }

    /// What is left of the disk.
    pub(crate) fn copy(&self) -> Option<PathBuf> {
        self.copy.clone()
    }
}

/// Whether the copies hold what had been promised when the power failed; how much that was.
#[track_caller]
pub(crate) fn promises_kept(cut: &Cut, base: &[Model], notes: &Path, copies: &[&Path]) -> usize {
    let mut looked_for = 0;
    for (thread, base) in base.iter().enumerate() {
        let until = |lengths: &Option<Vec<u64>>| {
            read_notes(notes, thread, lengths.as_ref().map(|all| all[thread]))
        };
        let answered = |r: &&Record| r.answer.is_some();
        let sure = until(&cut.before).iter().filter(answered).count();
        let history = until(&cut.after);
        for copy in copies {
            let top = subtree(copy, thread);
            let actual = Model::scan(&top).unwrap_or_else(|e| panic!("{}: {e}", top.display()));
            match power::check(base, &history, sure, &actual) {
                Ok(count) => looked_for += count,
                Err(wrong) => panic!(
                    "{}: lost by a power cut after {sure} ops, though synced:\n  {}",
                    top.display(),
                    wrong[..wrong.len().min(20)].join("\n  ")
                ),
            }
        }
    }
    looked_for
}

/// A mirror on such a disk.
pub(crate) fn rig_on(disk: &Disk, options: &[&str], threads: usize, seed: u64) -> Rig {
    let wish = Wish::default()
        .base(&disk.primary())
        .replica(&disk.replica());
    let wish = options.iter().fold(wish, |w, o| w.arg("-o").arg(*o));
    Rig::on(wish, &disk.state(), threads, seed)
}

fn cuts(layout: Layout, options: &[&str], total: u64) {
    let seed = seed("power");
    let mut rng = Rng::new(seed);
    let mut disk = Disk::new(layout, 192);
    let mut rig = rig_on(&disk, options, THREADS, seed);
    let (mut done, mut looked_for) = (0, 0);
    while done < total {
        disk.sync();
        let base = rig.judge.base().to_vec();
        let mut orders = rig.orders();
        orders.syncs = [2, 10, 30][rng.below(3)];
        let mut load = Load::start(orders);
        let mut cuts = Vec::new();
        for _ in 0..AT_ONCE.min(total - done) {
            load.wait_for(40 + rng.below(250));
            cuts.push(Cut::under(&mut disk, &load));
        }
        let notes = load.stop();
        rig.judge_notes(&notes, &[]);
        rig.mount.umount();
        for cut in cuts {
            disk.restart_from(cut.copy().expect("a copy"));
            let copies = [&*rig.mount.primary, &*rig.mount.replica];
            looked_for += promises_kept(&cut, &base, &notes, &copies);
            rig.judge.believe(&rig.mount.primary);
            rig.remount();
            rig.heals_by_itself();
            rig.is_equal();
            rig.mount.umount();
            rig.copies_are_equal();
            done += 1;
        }
        rig.mount.mount();
        assert_eq!(rig.mount.state(), "in-sync");
    }
    eprintln!("power: {total} cuts, {looked_for} synced files and names looked for");
    assert!(looked_for > 0, "nothing was ever synced");
    rig.finish();
}

/// Primary, replica and state directory on file systems of their own, mode=sync.
#[test]
fn sync() {
    need_root!();
    need_product!();
    need_programs!("mkfs.xfs", "mkfs.ext4");
    cuts(Layout::Three, &[], setting("MIRRORFS_CUTS", 8) / 2);
}

/// The same, mode=async: what fsync waits for is on both.
#[test]
fn asynchronous() {
    need_root!();
    need_product!();
    need_programs!("mkfs.xfs", "mkfs.ext4");
    cuts(
        Layout::Three,
        &["mode=async"],
        setting("MIRRORFS_CUTS", 8) / 4,
    );
}

/// Everything on one file system.
#[test]
fn one_file_system() {
    need_root!();
    need_product!();
    need_programs!("mkfs.xfs", "mkfs.ext4");
    cuts(Layout::One, &[], setting("MIRRORFS_CUTS", 8) / 4);
}
