// SPDX-License-Identifier: MIT
//! `Squeeze`: how the rounds of a healing come to an end under a heavy load.
//!
//! A few rounds go by while the application goes on, each of which leaves what was skipped meanwhile;
//! with many busy directories that is never nothing. So after these the application stands still for a
//! moment while healing goes on, takes a breath, and stands still again: longer and longer, with less
//! and less breath between, until more is healed than is skipped. Nothing that was healed is lost
//! between two of these, and none of them is as long as the patience with a replica. Nobody stands
//! still for the content of a large file: what is written to it meanwhile is carried.
//!
//! ```text
//!   healing      round  round  round  round ......................... round, last look
//!   application  ===================      =====        ===       ==               ====
//! ```

use std::time::{Duration, Instant};

use super::worker::Worker;
use super::{Fault, Stop};
use crate::mirror::watch::{Owed, Standstill};
use crate::sys::Errno;

/// Rounds while the application goes on.
const ROUNDS: u64 = 3;
/// How long the application stands still at first; twice as long each time, if its ground lets it.
const STILL: Duration = Duration::from_millis(250);
const STILL_MAX: Duration = Duration::from_secs(60);
/// How long it goes on after that; half as long each time, but not less than the least.
const BREATH: Duration = Duration::from_secs(1);
const BREATH_MIN: Duration = Duration::from_millis(100);

/// Whether the application stands still, and for how long.
#[derive(Debug)]
pub(super) struct Squeeze<'a> {
    standstill: Option<(Standstill<'a>, Instant)>,
    /// Not before then.
    next: Option<Instant>,
    still: Duration,
    breath: Duration,
}

impl Default for Squeeze<'_> {
    fn default() -> Self {
        Self {
            standstill: None,
            next: None,
            still: STILL,
            breath: BREATH,
        }
    }
}

impl Worker<'_> {
    /// Between two holds: lets the application stand still, or go on.
    pub(super) fn squeeze(&mut self) -> Result<(), Stop> {
        let now = Instant::now();
        match &self.squeeze.standstill {
            Some((_, until)) if now >= *until => {
                self.go_on()?;
                // It was too short for what is left.
                self.squeeze.still = (self.squeeze.still * 2).min(STILL_MAX);
                self.squeeze.breath = (self.squeeze.breath / 2).max(BREATH_MIN);
            }
            None if self.summary.rounds > ROUNDS
                && self.squeeze.next.is_none_or(|at| now >= at) =>
            {
                self.stand_still()?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the application stands still.
    pub(super) fn is_standing(&self) -> bool {
        self.squeeze.standstill.is_some()
    }

    /// Lets the application stand still, if it does not.
    pub(super) fn stand_still(&mut self) -> Result<(), Stop> {
        if self.is_standing() {
            return Ok(());
        }
        let standstill = self.ground.stand_still().map_err(Stop::Fault)?;
        let until = Instant::now() + self.squeeze.still.min(standstill.limit());
        self.squeeze.standstill = Some((standstill, until));
        Ok(())
    }

    /// Whether nothing is missing any more, now that everything stands still. It goes on after that.
    pub(super) fn is_healed(&mut self) -> Result<bool, Stop> {
        let standing = self.end_standstill()?;
        let healed = self.ground.is_healed();
        drop(standing);
        Ok(healed)
    }

    /// Lets the application go on, for a breath at least.
    pub(super) fn go_on(&mut self) -> Result<(), Stop> {
        if self.is_standing() {
            drop(self.end_standstill()?);
            self.squeeze.next = Some(Instant::now() + self.squeeze.breath);
        }
        Ok(())
    }

    /// The end of a standstill, if there is one: everything goes on once what this returns is dropped.
    fn end_standstill(&mut self) -> Result<Option<Owed>, Stop> {
        let Some((standstill, _)) = self.squeeze.standstill.take() else {
            return Ok(None);
        };
        standstill.end().ok_or_else(|| {
            // The replica hung meanwhile, and the application goes on already.
            let doing = "the end of healing".to_owned();
            Stop::Fault(Fault::new(Errno::TIMEDOUT, doing))
        })
    }
}
