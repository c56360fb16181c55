// SPDX-License-Identifier: MIT
//! How fast a resync goes, and how long it will take: from counts to the numbers of a report.
//!
//! The rate is that of the last ten seconds, so that a disk that got slow is seen; the time left is a
//! guess from it, and none is made where nothing moved.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::report::Resync;

/// How far back the rate looks.
const WINDOW: Duration = Duration::from_secs(10);
/// Counts within this long of each other are one: what is kept is bounded.
const STEP: Duration = Duration::from_millis(100);

/// What was done, and what is known to be left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Files compared or copied.
    pub files_done: u64,
    /// Files known to be left.
    pub files_left: u64,
    /// Bytes compared or copied.
    pub bytes_done: u64,
    /// Bytes known to be left.
    pub bytes_left: u64,
}

/// One resync, from its begin to its end.
#[derive(Clone, Debug)]
pub struct Pace {
    began: Instant,
    /// Seconds since 1970.
    since: i64,
    ended: Option<Instant>,
    /// The oldest in the window first.
    seen: VecDeque<(Instant, Counts)>,
    last: Counts,
}

impl Pace {
    /// A resync that begins at `now`, which is `since` by the wall clock (seconds since 1970).
    #[must_use]
    pub fn new(now: Instant, since: i64) -> Self {
        Self {
            began: now,
            since,
            ended: None,
            seen: VecDeque::from([(now, Counts::default())]),
            last: Counts::default(),
        }
    }

    /// Notes how far it is.
    pub fn note(&mut self, now: Instant, counts: Counts) {
        self.last = counts;
        let newest = self.seen.back().map_or(self.began, |(at, _)| *at);
        if now.saturating_duration_since(newest) >= STEP {
            self.seen.push_back((now, counts));
        }
        // The oldest kept is just outside the window: the rate is that of the whole window.
        while self.seen.len() > 2 && now.saturating_duration_since(self.seen[1].0) >= WINDOW {
            self.seen.pop_front();
        }
    }

    /// It is over.
    pub fn end(&mut self, now: Instant) {
        self.ended = Some(now);
    }

    /// The numbers to show.
    #[must_use]
    pub fn shown(&self, now: Instant) -> Resync {
        let until = self.ended.unwrap_or(now);
        let took = until.saturating_duration_since(self.began);
        let Counts {
            files_done,
            files_left,
            bytes_done,
            bytes_left,
        } = self.last;
        let (from, then) = match self.ended {
            // At the end: all of it.
            Some(_) => (self.began, Counts::default()),
            None => *self
                .seen
                .front()
                .unwrap_or(&(self.began, Counts::default())),
        };
        let time = until.saturating_duration_since(from);
        let bytes = per_second(bytes_done.saturating_sub(then.bytes_done), time);
        let files = bytes_left == 0;
        let (moved, left) = if files {
            (files_done.saturating_sub(then.files_done), files_left)
        } else {
            (bytes_done.saturating_sub(then.bytes_done), bytes_left)
        };
        let millis = u128::from(left) * time.as_millis();
        let eta = millis.checked_div(u128::from(moved));
        let eta = eta.map(|ms| u64::try_from(ms / 1000).unwrap_or(u64::MAX));
        Resync {
            running: self.ended.is_none(),
            files_done,
            dirs_done: 0,
            files_left,
            bytes_done,
            bytes_left,
            bytes_per_second: bytes,
            eta_seconds: eta.filter(|_| self.ended.is_none()),
            is_counting: false,
            since: self.since,
            elapsed_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

fn per_second(amount: u64, time: Duration) -> u64 {
    let rate = u128::from(amount) * 1000 / time.as_millis().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(second: u64, rate: u64, all: u64) -> Counts {
        let done = (second * rate).min(all);
        Counts {
            files_done: done / 100,
            files_left: (all - done) / 100,
            bytes_done: done,
            bytes_left: all - done,
        }
    }

    #[test]
    fn rate_and_time_left() {
        let began = Instant::now();
        let at = |second| began + Duration::from_secs(second);
        let mut pace = Pace::new(began, 77);
        let nothing = pace.shown(began);
        assert_eq!((nothing.bytes_per_second, nothing.eta_seconds), (0, None));
        for second in 1..=30 {
            pace.note(at(second), counts(second, 1000, 100_000));
        }
        let shown = pace.shown(at(30));
        assert_eq!(
            (shown.bytes_per_second, shown.eta_seconds),
            (1000, Some(70))
        );
        assert_eq!((shown.files_done, shown.files_left), (300, 700));
        assert_eq!(
            (shown.since, shown.elapsed_ms, shown.running),
            (77, 30_000, true)
        );
        // It hangs: the rate falls, and in the end no guess is made.
        for second in 31..=45 {
            pace.note(at(second), counts(30, 1000, 100_000));
        }
        let shown = pace.shown(at(45));
        assert_eq!((shown.bytes_per_second, shown.eta_seconds), (0, None));
        pace.note(at(46), counts(100, 1000, 100_000));
        pace.end(at(50));
        let shown = pace.shown(at(99));
        assert_eq!((shown.bytes_per_second, shown.eta_seconds), (2000, None));
        assert_eq!((shown.elapsed_ms, shown.running), (50_000, false));
    }

    /// Names only: the time left is that of the files.
    #[test]
    fn files_without_bytes() {
        let began = Instant::now();
        let mut pace = Pace::new(began, 0);
        let done = Counts {
            files_done: 10,
            files_left: 90,
            ..Counts::default()
        };
        let now = began + Duration::from_secs(1);
        pace.note(now, done);
        assert_eq!(pace.shown(now).eta_seconds, Some(9));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let began = Instant::now();
        let mut pace = Pace::new(began, 0);
        for ms in 0..60_000 {
            pace.note(began + Duration::from_millis(ms), Counts::default());
        }
        let most = WINDOW.as_millis() / STEP.as_millis() + 2;
        assert!(pace.seen.len() as u128 <= most, "{}", pace.seen.len());
    }
}
