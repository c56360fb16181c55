// SPDX-License-Identifier: MIT
//! The last look of a round: whether hard links are the same on both copies under all their names.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::place::{Held, Way};
use super::worker::Worker;
use super::{Halt, Outcome, Stop};
use crate::mirror::failure::Copy;
use crate::mirror::resync::Lack;
use crate::mirror::resync::content::On;
use crate::store::node::{Link, Node, Side};
use crate::store::{Ident, Stat};

impl Worker<'_> {
    /// Hard links that were changed, or differed in number, must be as many on both copies after a
    /// round; else other names of theirs may be wrong somewhere, or are still to come. What was
    /// written by a wrong name changed another file, which no mark names: in the end the whole tree is
    /// looked at, even if all numbers are right by then.
    ///
    /// Where all names of the tree have just been seen the number says nothing more: one may be
    /// outside the tree. Nor does it on a replica that cannot hold hard links.
    pub(super) fn count_names(&mut self) -> Result<(), Stop> {
        let (mut uneven, lost) = self.links.take_uneven();
        if self.summary.lacks.contains(Lack::Links) {
            self.must_escalate = false;
            return Ok(());
        }
        let nodes = self.ground.nodes();
        for ident in lost {
            match nodes.find(ident) {
                Some(node) => uneven.push(Held::known(nodes, &node)),
                // Forgotten, or gone: whoever made its last name go has a mark for that.
                None => self.must_escalate |= !self.is_whole,
            }
        }
        if self.must_escalate {
            uneven.clear(); // they say no more
        }
        let same = self.have_same_names(uneven);
        self.must_escalate |= !matches!(same, Ok(true));
        if self.must_escalate && self.noted.is_none() {
            // Should the daemon die before the end.
            let noted = self.ground.journal().note_tree(self.whole_tree()?);
            self.noted = Some(noted.map_err(Stop::of_log)?);
        }
        same.map(drop)
    }

    /// When nothing else is left to begin with: whether no number of names was wrong on the way; if
    /// one was, the whole tree is marked.
    pub(super) fn names_agree(&mut self) -> Result<bool, Stop> {
        if std::mem::take(&mut self.must_escalate) {
            self.escalate()?;
            return Ok(false);
        }
        Ok(true)
    }

    fn have_same_names(&self, uneven: Vec<Held>) -> Result<bool, Stop> {
        for held in uneven {
            self.check_stop()?;
            let Some(way) = self.way_to(held.node()) else {
                if self.may_have_names(held.node()) {
                    return Ok(false);
                }
                continue;
            };
            let turn = self.ground.hold(way.for_content()).map_err(Stop::Fault)?;
            let same = self.has_same_names(&way, held.ident());
            drop(turn);
            match same {
                Ok(true) => {}
                Ok(false) | Err(Halt::Lost | Halt::Unlike) => return Ok(false),
                Err(Halt::Trouble(trouble)) => return Err(self.halted(&trouble, None)),
            }
        }
        Ok(true)
    }

    fn has_same_names(&self, way: &Way, ident: Ident) -> Outcome<bool> {
        let Some(link) = way.last() else {
            return Ok(true);
        };
        let pair = way.open_parents(self.ground)?;
        let name = link.name.as_c_str();
        let primary = Stat::of_name(pair.primary.as_fd(), name).on(Copy::Primary, "statx")?;
        let replica = Stat::of_name(pair.replica.as_fd(), name).on(Copy::Replica, "statx")?;
        if primary.ident != ident {
            return Ok(true);
        }
        // As many prove little: one too many somewhere may stand for one too few here.
        let node = self.ground.nodes().find(ident);
        let links = node.map(|node| node.place(Side::Primary).links().to_vec());
        for link in links.unwrap_or_default() {
            let Some((there, twin)) = self.look_at(&link)? else {
                return Ok(false);
            };
            let is_name = there.is_some_and(|there| there.ident == ident);
            if is_name && twin.is_none_or(|twin| twin.ident != replica.ident) {
                return Ok(false);
            }
        }
        Ok(self.is_whole || primary.nlink == replica.nlink)
    }

    /// What both copies have under one of an object's names; `None` when its directory has no name.
    pub(super) fn look_at(&self, link: &Link) -> Outcome<Option<(Option<Stat>, Option<Stat>)>> {
        let Some(way) = Way::to(&link.parent, |_| true) else {
            return Ok(None);
        };
        let (pair, name) = (way.open_dirs(self.ground)?, link.name.as_c_str());
        let there = Stat::of_name(pair.primary.as_fd(), name).ok();
        let twin = Stat::of_name(pair.replica.as_fd(), name).ok();
        Ok(Some((there, twin)))
    }

    /// The present way to an object, through directories in no doubt if there is one.
    pub(super) fn way_to(&self, node: &Arc<Node>) -> Option<Way> {
        Way::to(node, |dir| self.healing.doubt.lock().is_clear(dir))
    }
}
