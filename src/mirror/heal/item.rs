// SPDX-License-Identifier: MIT
//! `Item` and `Job`: what is to be done with one object, and for which mark.

use std::ops::Range;
use std::sync::Arc;

use super::place::Held;
use super::skipped::What;
use crate::journal::{Mark, Pins};
use crate::store::node::Node;
use crate::store::{Ident, Time};

/// What is to be done with one object.
#[derive(Clone, Debug)]
pub(super) enum Task {
    /// The names in a directory and its attributes.
    Names(Depth),
    /// Attributes only.
    Attributes,
    /// The bytes in a range, then the attributes.
    Content(Range<u64>),
}

/// What beside its names is healed in a directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Depth {
    /// Everything below.
    pub(super) whole: bool,
    /// Everything in it but directories and the content of large files.
    pub(super) leaves: bool,
    /// What was born since, recursively.
    pub(super) since: Option<Time>,
}

impl Depth {
    /// Everything below.
    pub(super) const WHOLE: Self = Self {
        whole: true,
        leaves: true,
        since: None,
    };
    /// What the replica has not, or not as it should, and what was born since; `None`: everything.
    pub(super) fn names(since: Option<Time>) -> Self {
        Self {
            whole: false,
            leaves: false,
            since,
        }
    }
}

/// One object to heal, for one mark.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) job: usize,
    pub(super) held: Held,
    pub(super) task: Task,
    /// It is what the mark was made for: taking this up is taking the mark.
    pub(super) is_top: bool,
    /// It has several names: everything else comes first.
    pub(super) is_late: bool,
    /// It has been opened before.
    pub(super) is_begun: bool,
    /// Its directory had to be healed first so many times.
    pub(super) tries: u32,
}

impl Item {
    pub(super) fn new(job: usize, held: Held, task: Task) -> Self {
        Self {
            job,
            held,
            task,
            is_top: false,
            is_late: false,
            is_begun: false,
            tries: 0,
        }
    }
}

/// A mark under way.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) mark: Arc<Mark>,
    /// Keeps a checkpoint from clearing the mark before all it covers is healed.
    pub(super) pins: Option<Pins>,
    /// Items not done yet.
    pub(super) left: usize,
    /// Directories that were in doubt with everything below.
    pub(super) tops: Vec<Ident>,
    /// What was missed when it began.
    pub(super) missed: u64,
    /// It is no mark's own work, but this, which was skipped.
    pub(super) skipped: Option<(Arc<Node>, What)>,
    /// Its object, until it is taken up.
    pub(super) object: Option<Held>,
}

/// How the work on one item goes on.
pub(super) enum Next {
    Done,
    /// There is more of it.
    More,
    /// Once more, with these held too.
    With(Vec<Held>),
    /// When nothing else is left to do.
    Late,
    /// In the next round.
    Wait,
}
