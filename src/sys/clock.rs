// SPDX-License-Identifier: MIT
//! The clocks: wall time for people and stamps, monotonic time for everything that waits.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Wall-clock time, for stamps and messages only: never for ordering.
#[must_use]
pub fn now() -> Timespec {
    clock_gettime(ClockId::Realtime)
}

/// The time the kernel would write into an inode now (`current_time()`: the coarse clock).
///
/// Used to resolve `UTIME_NOW` once, so that both copies get the same nanosecond and that it is
/// never ahead of what the kernel itself writes next.
#[must_use]
pub fn inode_now() -> Timespec {
    clock_gettime(ClockId::RealtimeCoarse)
}

/// Seconds and microseconds-free RFC 3339 text in UTC, e.g. `2026-11-19T14:02:11Z`.
#[must_use]
pub fn rfc3339(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
}

/// Days since 1970-01-01 to (year, month, day), proleptic Gregorian.
///
/// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn rfc3339_of_known_instants() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_183_331, "2026-11-20T14:02:11Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }
}
