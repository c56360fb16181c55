// SPDX-License-Identifier: MIT
//! Group commit: one frame for all that waits, one flush for all that wait.
//!
//! Whoever finds nobody leading takes everything that waits, writes it and makes it durable; the
//! others wait, and find on waking that theirs is done or that one of them has to lead. Nobody
//! lingers for company: while one flush runs, the next frame's company gathers by itself. A frame
//! is begun only when the one before it is durable, so that at most one can be torn.
//!
//! Lock order: `state` and `log` are never held together by one thread but for the leader taking
//! `log` with `state` free. `log` is held across I/O, by the leader alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};

use super::log::{Log, RECORDS_MAX};
use super::mark::{Mark, Whereabouts};
use super::{Intent, LogId};
use crate::sys::{Errno, Result};

/// All that a rewritten log must hold.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Encoded.
    pub(crate) records: Vec<Vec<u8>>,
    /// Where the marks are by now: renames are folded in.
    pub(crate) marks: Vec<(Arc<Mark>, Whereabouts)>,
    /// Renames numbered below are no longer needed.
    pub(crate) kept: u64,
    pub(crate) next_seq: u64,
}

/// Who knows what is alive.
pub(crate) trait Fold {
    /// Every mark alive whose record is on disk, and the renames still needed.
    fn snapshot(&self) -> Snapshot;
    /// The snapshot is on disk.
    fn adopt(&self, snapshot: Snapshot);
}

#[derive(Debug)]
struct Entry {
    ticket: u64,
    records: Vec<Vec<u8>>,
    marks: Vec<Arc<Mark>>,
}

#[derive(Debug, Default)]
struct State {
    queue: Vec<Entry>,
    leading: bool,
    /// The last ticket given, and the last one whose records are on disk.
    given: u64,
    done: u64,
}

/// What was done, since the log was opened.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) frames: AtomicU64,
    pub(crate) flushes: AtomicU64,
    pub(crate) rewrites: AtomicU64,
    pub(crate) log_bytes: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct Commit {
    state: Mutex<State>,
    moved: Condvar,
    log: Mutex<Log>,
    /// The errno that broke the log; 0 while it is whole.
    broken: AtomicI32,
    pub(crate) tally: Tally,
    id: LogId,
    intent: Intent,
}

impl Commit {
    pub(crate) fn new(log: Log) -> Self {
        let tally = Tally::default();
        tally.log_bytes.store(log.size(), Ordering::Relaxed);
        Self {
            state: Mutex::default(),
            moved: Condvar::new(),
            id: log.id(),
            intent: log.intent(),
            log: Mutex::new(log),
            broken: AtomicI32::new(0),
            tally,
        }
    }

    pub(crate) fn id(&self) -> LogId {
        self.id
    }

    /// # Errors
    /// What broke the log: nothing can be added or cleared any more.
    pub(crate) fn check(&self) -> Result<()> {
        match self.broken.load(Ordering::Acquire) {
            0 => Ok(()),
            raw => Err(Errno::from_raw_os_error(raw)),
        }
    }

    /// Puts records in the queue, none longer than `RECORDS_MAX`; the marks are theirs.
    pub(crate) fn submit(&self, records: Vec<Vec<u8>>, marks: Vec<Arc<Mark>>) -> u64 {
        let mut state = self.state.lock();
        state.given += 1;
        let ticket = state.given;
        state.queue.push(Entry {
            ticket,
            records,
            marks,
        });
        ticket
    }

    /// Waits until all up to `ticket` is on disk, and all of `marks`, or leads the way there.
    ///
    /// # Errors
    /// What broke the log.
    pub(crate) fn wait(&self, ticket: u64, marks: &[Arc<Mark>], fold: &dyn Fold) -> Result<()> {
        let mut state = self.state.lock();
        loop {
            self.check()?;
            if state.done >= ticket && !marks.iter().any(|mark| mark.is_pending()) {
                return Ok(());
            }
            if state.leading || state.queue.is_empty() {
                self.moved.wait(&mut state);
                continue;
            }
            state.leading = true;
            let batch = std::mem::take(&mut state.queue);
            drop(state);
            let written = self.write(&batch, fold);
            state = self.state.lock();
            self.led(&mut state, written);
            if written.is_ok() {
                state.done = batch.last().map_or(state.done, |entry| entry.ticket);
                for mark in batch.iter().flat_map(|entry| &entry.marks) {
                    mark.recorded();
                }
            }
            self.moved.notify_all();
        }
    }

    fn led(&self, state: &mut State, written: Result<()>) {
        state.leading = false;
        if let Err(errno) = written {
            // The first error stays: later ones follow from it.
            _ = self.broken.compare_exchange(
                0,
                errno.raw_os_error(),
                Ordering::AcqRel,
                Ordering::Acquire,
            );
        }
    }

    /// As few frames as hold the batch, each durable before the next.
    fn write(&self, batch: &[Entry], fold: &dyn Fold) -> Result<()> {
        let mut log = self.log.lock();
        let mut frame = Vec::new();
        for record in batch.iter().flat_map(|entry| &entry.records) {
            if frame.len() + record.len() > RECORDS_MAX {
                self.append(&mut log, &frame, fold)?;
                frame.clear();
            }
            frame.extend_from_slice(record);
        }
        if frame.is_empty() {
            return Ok(());
        }
        self.append(&mut log, &frame, fold)
    }

    fn append(&self, log: &mut Log, records: &[u8], fold: &dyn Fold) -> Result<()> {
        if !log.has_room(records.len()) {
            self.rewrite(log, records.len(), false, fold)?;
        }
        log.append(records)?;
        self.tally.frames.fetch_add(1, Ordering::Relaxed);
        if self.intent == Intent::Power {
            self.tally.flushes.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn rewrite(&self, log: &mut Log, extra: usize, sealed: bool, fold: &dyn Fold) -> Result<()> {
        let snapshot = fold.snapshot();
        log.rewrite(&snapshot.records, snapshot.next_seq, extra, sealed)?;
        fold.adopt(snapshot);
        self.tally.rewrites.fetch_add(1, Ordering::Relaxed);
        self.tally.log_bytes.store(log.size(), Ordering::Relaxed);
        Ok(())
    }

    /// Whether somebody leads, and so many entries wait.
    #[cfg(test)]
    pub(crate) fn is_led_with(&self, waiting: usize) -> bool {
        let state = self.state.lock();
        state.leading && state.queue.len() == waiting
    }

    /// Keeps the log from being written.
    #[cfg(test)]
    pub(crate) fn hold_log(&self) -> parking_lot::MutexGuard<'_, Log> {
        self.log.lock()
    }

    /// Writes what still waits; a log that was not flushed is made durable as a whole. Nothing can
    /// be added afterwards: `ESHUTDOWN`.
    pub(crate) fn close(&self, fold: &dyn Fold) -> Result<()> {
        let mut state = self.state.lock();
        while state.leading {
            self.moved.wait(&mut state);
        }
        self.check()?;
        state.leading = true;
        let batch = std::mem::take(&mut state.queue);
        drop(state);
        let mut written = self.write(&batch, fold);
        if written.is_ok() {
            for mark in batch.iter().flat_map(|entry| &entry.marks) {
                mark.recorded();
            }
        }
        if written.is_ok() && self.intent == Intent::Crash {
            written = self.rewrite(&mut self.log.lock(), 0, true, fold);
        }
        let mut state = self.state.lock();
        state.done = batch.last().map_or(state.done, |entry| entry.ticket);
        self.led(&mut state, written.and(Err(Errno::SHUTDOWN)));
        self.moved.notify_all();
        written
    }
}
