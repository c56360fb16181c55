// SPDX-License-Identifier: MIT
//! Filling an empty replica may take hours, and whatever ends it, the next session goes on where it was.
//! So the mark it is done for is *divided* from time to time: what is still to come gets marks of its
//! own, both copies are made durable, and the mark that stood for all of it is cleared; and with it those
//! of what is complete.
//!
//! ```text
//!   .  Fill                  .
//!   +- a                     +- a
//!   +- b                     +- b
//!   |  +- x      becomes     |  +- x
//!   |  +- y                  |  +- y
//!   |  +- z  to come         |  +- z  Fill
//!   +- c     to come         +- c     Fill
//! ```
//!
//! Only a replica that was empty is healed like that. Where names on the replica may be wrong, what was
//! healed can be spoilt through them until the last of them is right; and who knows of it is memory that
//! is lost with the daemon. On a replica that was empty every name was put there by healing, or by an
//! op that has marks of its own: none of those is cleared before healing has ended.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Stop;
use super::item::{Item, Job, Task};
use super::place::Held;
use super::worker::Worker;
use crate::journal::{Aspect, Mark, Pins};
use crate::mirror::intent::object_of;
use crate::store::{Ident, Node};

/// Marks made at a time, at most.
const PARTS_MAX: usize = 4096;
/// A mark is not divided again before that.
const REST: Duration = Duration::from_secs(1);
/// Nor before the last time was this part of all the time since.
const SHARE: u32 = 20;

/// When marks are divided.
#[derive(Debug)]
pub(super) struct Division {
    next: Instant,
    rest: Duration,
    /// Marks of what has been filled, or was divided.
    pub(super) filled: Vec<Arc<Mark>>,
    /// Marks of files whose names are to be counted in the end: the one they were healed for may be gone
    /// by then.
    pub(super) doubts: HashMap<Ident, Pins>,
}

impl Division {
    /// Not before a moment has passed, or, in tests, whenever it is possible.
    pub(super) fn new(at_once: bool) -> Self {
        let rest = if at_once { Duration::ZERO } else { REST };
        let next = Instant::now() + rest;
        Self {
            next,
            rest,
            filled: Vec::new(),
            doubts: HashMap::new(),
        }
    }
}

impl Worker<'_> {
    /// Divides the marks of what is being filled, and clears them. No file is half looked at but those
    /// that come late.
    pub(super) fn divide(&mut self) -> Result<(), Stop> {
        let began = Instant::now();
        if began < self.division.next || self.must_escalate || self.is_standing() {
            return Ok(());
        }
        let fills = |job: &Job| job.pins.is_some() && job.mark.aspect == Aspect::Fill;
        let is_filling = self.jobs.iter().any(fills) || !self.division.filled.is_empty();
        if is_filling && self.note_doubts()? && self.note_parts()? {
            let filled = std::mem::take(&mut self.division.filled);
            if !filled.is_empty() {
                self.ground.clear(filled);
            }
        }
        let rest = self.division.rest;
        let cost = if rest.is_zero() {
            rest
        } else {
            began.elapsed() * SHARE
        };
        self.division.next = Instant::now() + rest.max(cost);
        Ok(())
    }

    /// Notes the files whose names are to be counted. False if that cannot be done.
    fn note_doubts(&mut self) -> Result<bool, Stop> {
        let known = &self.division.doubts;
        let new = self.links.uneven();
        let new: Vec<_> = new.filter(|(file, _)| !known.contains_key(file)).collect();
        if new.len() > PARTS_MAX {
            return Ok(false);
        }
        let find = |(file, held): &(Ident, Option<&Held>)| match held {
            Some(held) => Some(held.node().clone()),
            None => self.ground.nodes().find(*file),
        };
        let nodes: Option<Vec<_>> = new.iter().map(find).collect();
        let Some(nodes) = nodes else {
            return Ok(false);
        };
        let files: Vec<Ident> = new.into_iter().map(|(file, _)| file).collect();
        let noted = self.note_nodes(nodes.iter())?.into_iter();
        let pins = noted.map(|(_, pins)| pins);
        self.division.doubts.extend(files.into_iter().zip(pins));
        Ok(true)
    }

    fn note_nodes<'n>(
        &self,
        nodes: impl Iterator<Item = &'n Arc<Node>>,
    ) -> Result<Vec<(Arc<Mark>, Pins)>, Stop> {
        let source = self.ground.source();
        let objects = nodes.map(|node| move || object_of(source, node));
        let noted = self.ground.journal().note_missing(objects);
        noted.map_err(Stop::of_log)
    }

    /// Notes all that is still to come, for whichever mark: what one has been looked at for may be left
    /// to another by now. False if that cannot be said in so few marks.
    fn note_parts(&mut self) -> Result<bool, Stop> {
        // What has not been begun has a mark of its own.
        let parts = self.pending().filter(|item| !item.is_top);
        let parts: Vec<_> = parts.take(PARTS_MAX + 1).collect();
        let in_part = |item: &&Item| matches!(item.task, Task::Names(depth) if !depth.whole);
        if parts.len() > PARTS_MAX || parts.iter().any(in_part) {
            return Ok(false);
        }
        let noted = self.note_nodes(parts.iter().map(|item| item.held.node()))?;
        let missed = self.healing.changed(|doubt| doubt.missed);
        // Jobs that are over make room for new ones: there may be millions in the end.
        let jobs = self.jobs.iter().enumerate();
        let over = jobs.filter(|(_, job)| job.left == 0 && job.pins.is_none());
        let over: Vec<_> = over.map(|(number, _)| number).collect();
        let numbers = over.into_iter().chain(self.jobs.len()..);
        let (mut jobs, mut from) = (Vec::with_capacity(noted.len()), Vec::new());
        let parts = self.pending_mut().filter(|item| !item.is_top);
        for ((item, (mark, pins)), number) in parts.zip(noted).zip(numbers) {
            let is_dir = matches!(item.task, Task::Names(_));
            let top = is_dir.then(|| item.held.ident());
            from.push((item.job, top));
            (item.job, item.is_top) = (number, true);
            let job = Job {
                mark,
                pins: Some(pins),
                left: 1,
                tops: Vec::from_iter(top),
                missed,
                skipped: None,
                object: None,
            };
            jobs.push((number, job));
        }
        for (number, job) in jobs {
            match self.jobs.get_mut(number) {
                Some(over) => *over = job,
                None => self.jobs.push(job),
            }
        }
        for (number, top) in from {
            let job = &mut self.jobs[number];
            job.left = job.left.saturating_sub(1);
            job.tops.retain(|other| Some(*other) != top);
            if job.left == 0 {
                self.end(number);
            }
        }
        Ok(true)
    }
}
