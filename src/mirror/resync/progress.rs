// SPDX-License-Identifier: MIT
//! `Progress`: how far a long comparison or copy is, and the one line that shows it.

use std::fmt::Write as _;
use std::io::Write;
use std::time::{Duration, Instant};

/// How far a reconciliation is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Names seen, directories and all.
    pub entries: u64,
    /// Regular files among them.
    pub files: u64,
    /// Bytes compared or copied.
    pub bytes: u64,
    /// Bytes in use on the primary's whole file system: an upper bound, never a promise.
    pub bytes_max: u64,
}

/// What the bytes are read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// An empty replica is being filled.
    Seed,
    /// Two copies are being compared; nothing is changed.
    Verify,
    /// The replica is being made equal.
    Resync,
}

impl Phase {
    /// The word that opens the line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Seed => "seed",
            Self::Verify => "verify",
            Self::Resync => "resync",
        }
    }
}

/// One line that rewrites itself on a terminal, or one line per minute in a pipe.
#[derive(Debug)]
pub struct Line<W: Write> {
    out: W,
    terminal: bool,
    began: Instant,
    shown: Instant,
    last: Option<(Phase, Progress)>,
    width: usize,
}

impl<W: Write> Line<W> {
    /// Nothing is written before the first interval is over: short work stays silent.
    pub fn new(out: W, terminal: bool) -> Self {
        let now = Instant::now();
        Self {
            out,
            terminal,
            began: now,
            shown: now,
            last: None,
            width: 0,
        }
    }

    /// Notes how far it is, and shows it when it is time to.
    pub fn update(&mut self, phase: Phase, progress: &Progress) {
        let now = Instant::now();
        if self.last.is_some_and(|(last, _)| last != phase) {
            self.finish();
            self.began = now;
            self.shown = now;
        }
        self.last = Some((phase, *progress));
        let every = if self.terminal { 200 } else { 60_000 };
        if now.duration_since(self.shown) >= Duration::from_millis(every) {
            self.shown = now;
            self.show();
        }
    }

    /// Shows the last state once more and ends the line, if anything was ever shown.
    pub fn finish(&mut self) {
        if self.width > 0 {
            self.show();
            if self.terminal {
                let _unseen = self.out.write_all(b"\n");
            }
        }
        self.width = 0;
        self.last = None;
    }

    fn show(&mut self) {
        let Some((phase, progress)) = self.last else {
            return;
        };
        let text = text(phase, &progress, self.began.elapsed());
        let line = if self.terminal {
            format!("\r{text:width$}", width = self.width)
        } else {
            format!("{text}\n")
        };
        self.width = text.len();
        // Nobody is left to tell when stderr is gone.
        let _unseen = self.out.write_all(line.as_bytes());
        let _unseen = self.out.flush();
    }
}

/// `seed  412,118 files  88.2 GiB  210 MiB/s`.
fn text(phase: Phase, progress: &Progress, elapsed: Duration) -> String {
    let millis = u64::try_from(elapsed.as_millis())
        .unwrap_or(u64::MAX)
        .max(1);
    let rate = u128::from(progress.bytes) * 1000 / u128::from(millis);
    format!(
        "{}  {} files  {}  {}/s",
        phase.word(),
        grouped(progress.files),
        size(progress.bytes),
        size(u64::try_from(rate).unwrap_or(u64::MAX)),
    )
}

/// A number with its thousands apart.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A size in IEC units, three digits at least unless fewer say it exactly.
#[must_use]
pub fn size(bytes: u64) -> String {
    let mut unit = 0;
    let mut scale = 1u64;
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    while bytes / scale >= 1024 {
        scale *= 1024;
        unit += 1;
    }
    let mut out = (bytes / scale).to_string();
    if unit > 0 && bytes / scale < 100 && !bytes.is_multiple_of(scale) {
        let tenths = (bytes % scale) / (scale / 1024) * 10 / 1024;
        let _ = write!(out, ".{tenths}");
    }
    format!("{out} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_reads_as_documented() {
        let progress = Progress {
            entries: 500_000,
            files: 412_118,
            bytes: 88 * (1 << 30) + (1 << 28),
            bytes_max: 0,
        };
        let line = text(Phase::Seed, &progress, Duration::from_secs(430));
        assert_eq!(line, "seed  412,118 files  88.2 GiB  210 MiB/s");
    }

    #[test]
    fn numbers_and_sizes() {
        for (number, shown) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), shown);
        }
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (64 << 10, "64 KiB"),
            (u64::MAX, "15.9 EiB"),
            (200 << 20, "200 MiB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
    }

    #[test]
    fn short_work_stays_silent() {
        let mut out = Vec::new();
        let mut line = Line::new(&mut out, true);
        line.update(Phase::Seed, &Progress::default());
        line.finish();
        assert!(out.is_empty());
    }
}
