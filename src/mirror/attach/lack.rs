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

/// What a replica lacks that must not be found out by trying: a symlink's time and owner, where they would be
/// set on what it points to. Whoever does not do without has no use for it, symlinks or none: the
/// first one that is made would do the harm.
///
/// # Errors
/// Why it is not taken in.
pub(super) fn known(
    say: Say<'_>,
    replica: BorrowedFd<'_>,
    loss: MetadataLoss,
) -> Result<Lacks, Refusal> {
    let mut lacks = Lacks::default();
    let follows = stamp::follows_symlinks(replica).map_err(|errno| {
        let why = format!("the replica cannot be written: {}.", Named(errno));
        say.refusal(Id::StampFailed, why)
    })?;
    if !follows {
        return Ok(lacks);
    }
    lacks.insert(Lack::Symlinks);
    let what = "time and owner of a symlink would be set on what it points to";
    match loss {
        MetadataLoss::Warn => Ok(lacks),
        MetadataLoss::Fail => Err(refused(say, lacks, vec![what.to_owned()])),
    }
}

/// The replica lacks what is not done without, found out by carrying it there.
pub(super) fn found(say: Say<'_>, summary: &Summary) -> Refusal {
    let first = summary.losses.iter().take(3);
    let shown = first.map(|loss| format!("{}: {}", show_path(&loss.path), loss.detail));
    refused(say, summary.lacks, shown.collect())
}

fn refused(say: Say<'_>, lacks: Lacks, more: Vec<String>) -> Refusal {
    let why = format!("the replica cannot hold everything: {lacks}.");
    let mut refusal = say.refusal(Id::MetadataLoss, why);
    refusal.more = more;
    refusal.next = vec![say.alone()];
    if lacks.refused(true).is_none() {
        let (_, command) = say.compared();
        let without = format!("{command} --metadata-loss=warn");
        refusal.next.push(("To do without".to_owned(), without));
    }
    refusal
}
