// SPDX-License-Identifier: MIT
//! What the primary did in part, or not at all: the replica is made to follow.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::intent::Marked;
use super::lane::Way;
use super::replica::Fault;
use super::settle::Carried;
use super::watch::{Rest, What};
use super::{Mirror, unreadable};
use crate::store::Node;
use crate::store::op::{Claim, Op};
use crate::sys::Errno;

/// How much of a file is copied at a time, in bytes.
const COPIED: usize = 128 << 10;

impl Mirror {
    /// An op that failed on the primary may have been done there in part: a full disk leaves a
    /// longer file, new times, cleared set-id bits. The replica is made to follow; where the
    /// content itself is in question, the mirror says so.
    pub(super) fn failed(
        &self,
        op: &Op<'_>,
        errno: Errno,
        ahead: Option<Range<u64>>,
        marks: (Option<&Arc<Way>>, &Marked),
        rest: Rest,
    ) {
        // A rename that ext4 takes back leaves new times on the directories.
        for dir in op.directories() {
            self.times.touch(dir);
        }
        if matches!(errno, Errno::IO | Errno::NODEV | Errno::UCLEAN) {
            self.primary_errors.fetch_add(1, Ordering::Relaxed);
            let doing = format!("the primary failed in the middle of {}", op.verb());
            self.doubt(errno, doing);
        }
        self.put_right(op, ahead, marks, rest);
    }

    /// Makes the replica's file like the primary's after an op that was done in part: its size and
    /// permissions, and the bytes in `ahead` that the replica may have and the primary not.
    pub(super) fn put_right(
        &self,
        op: &Op<'_>,
        ahead: Option<Range<u64>>,
        (way, marked): (Option<&Arc<Way>>, &Marked),
        rest: Rest,
    ) {
        let admits = |way: &Way| way.healing().is_none_or(|healing| healing.admits(op));
        let Some(way) = way.filter(|way| way.is_open() && admits(way)) else {
            // Also where only a name was at stake: times of directories are not carried there.
            marked.pins.soil();
            return rest(Carried::Done);
        };
        let Some(node) = op.content() else {
            return rest(Carried::Done);
        };
        // The whole file: a write at its end that reached one copy only would look like a leftover.
        let turn = self.order.enter(&Claim::whole(node));
        if self.nodes.is_shared() && matches!(self.source.stat(node), Err(Errno::STALE)) {
            // Removed behind the mount, as it may be; nothing was done to it.
            drop(turn);
            return rest(Carried::Done);
        }
        let what = What::of(op);
        let errand = self.watch.begin(Some(way), what, Some(turn), Some(rest));
        Self::wait_in_line(way, &errand);
        let conformed = self
            .put_back(node, ahead.unwrap_or_default(), way)
            .and_then(|()| {
                let stat = self.source.stat(node);
                stat.map_err(|errno| unreadable(errno, "size", node))
            })
            .and_then(|stat| way.conform(node, &stat, &marked.pins));
        self.times.touch(node);
        let owed = errand.end();
        if owed.is_none() || conformed.is_err() {
            marked.pins.soil();
        }
        if let Some(owed) = owed {
            owed.settle(conformed.map_or_else(|fault| self.fail(fault, way), |()| Carried::Done));
        }
    }

    /// Copies a part of the primary's file to the replica.
    fn put_back(
        &self,
        node: &Arc<Node>,
        part: Range<u64>,
        way: &Way,
    ) -> std::result::Result<(), Fault> {
        let mut block = vec![0; COPIED];
        let mut at = part.start;
        while at < part.end {
            let most = usize::try_from(part.end - at).map_or(COPIED, |left| left.min(COPIED));
            let read = self.source.read(node, &mut block[..most], at);
            match read.map_err(|errno| unreadable(errno, "content", node))? {
                0 => break,
                n => {
                    way.put_back(node, at, &block[..n])?;
                    at += n as u64;
                }
            }
        }
        Ok(())
    }
}
