// SPDX-License-Identifier: MIT
//! What the replica's file system cannot hold: what is known before anything is carried there, and the
//! refusal of a replica that lacks what is not done without.

use std::os::fd::BorrowedFd;

use crate::mirror::attach::decide::Say;
use crate::mirror::attach::refusal::{Id, Refusal};
use crate::mirror::attach::stamp;
use crate::mirror::failure::{Named, show_path};
use crate::mirror::resync::{Lack, Lacks, Summary};

/// What to do when the replica's file system cannot hold some metadata.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MetadataLoss {
    /// Do not mount: the default, because a silent loss is found too late.
    #[default]
    Fail,
    /// Mount, say what is missing, and remember the kinds in the stamp.
    Warn,
}

impl MetadataLoss {
    /// Whether what the replica's file system cannot hold is done without, as far as that can be.
    #[must_use]
    pub fn does_without(self) -> bool {
        self == Self::Warn
    }
}

/// What a replica lacks that must not be found out by trying: a symlink's time and owner, where they would be
/// set on what it points to. Whoever does not do without has no use for it, symlinks or none: the
/// first one that is made would do the harm. Where it cannot be asked, what is on `record` holds.
///
/// # Errors
/// Why it is not taken in.
pub(super) fn known(
    say: Say<'_>,
    replica: BorrowedFd<'_>,
    loss: MetadataLoss,
    record: Lacks,
) -> Result<Lacks, Refusal> {
    let follows = stamp::follows_symlinks(replica).map_err(|errno| {
        let why = format!("the replica cannot be written: {}.", Named(errno));
        say.refusal(Id::StampFailed, why)
    })?;
    let mut lacks = Lacks::default();
    if follows.unwrap_or(record.contains(Lack::Symlinks)) {
        lacks.insert(Lack::Symlinks);
    }
    if lacks.refused(loss.does_without()).is_none() {
        return Ok(lacks);
    }
    let what = "time and owner of a symlink would be set on what it points to";
    Err(refused(say, lacks, vec![what.to_owned()], say.mount("")))
}

/// The replica lacks what is not done without, found out by carrying it there.
pub(super) fn found(say: Say<'_>, summary: &Summary) -> Refusal {
    let first = summary.losses.iter().take(3);
    let shown = first.map(|loss| format!("{}: {}", show_path(&loss.path), loss.detail));
    refused(say, summary.lacks, shown.collect(), say.compared().1)
}

fn refused(say: Say<'_>, lacks: Lacks, more: Vec<String>, command: String) -> Refusal {
    let why = format!("the replica cannot hold everything: {lacks}.");
    let mut refusal = say.refusal(Id::MetadataLoss, why);
    refusal.more = more;
    refusal.next = vec![say.alone()];
    if lacks.refused(true).is_none() {
        let without = format!("{} --metadata-loss=warn", command.trim_end());
        refusal.next.push(("To do without".to_owned(), without));
    }
    refusal
}
