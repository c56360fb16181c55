// SPDX-License-Identifier: MIT
//! The reader's own time zone, for status text.

/// A moment as the C library splits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// Full year.
    pub year: i32,
    /// 1 to 12.
    pub month: i32,
    /// 1 to 31.
    pub day: i32,
    /// 0 (Sunday) to 6.
    pub weekday: i32,
    /// 0 to 23.
    pub hour: i32,
    /// 0 to 59.
    pub minute: i32,
    /// 0 to 60.
    pub second: i32,
}

/// Splits seconds since 1970 in the zone of `$TZ` or `/etc/localtime`.
#[must_use]
pub fn local(seconds: i64) -> Local {
    // SAFETY: `tm` is plain integers and a pointer that may be null; all zeroes is a value of it.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    let time: libc::time_t = seconds;
    // SAFETY: both pointers lead to live values of the right type for the duration of the call.
    unsafe { libc::localtime_r(&raw const time, &raw mut tm) };
    Local {
        year: tm.tm_year.saturating_add(1900),
        month: tm.tm_mon + 1,
        day: tm.tm_mday,
        weekday: tm.tm_wday,
        hour: tm.tm_hour,
        minute: tm.tm_min,
        second: tm.tm_sec,
    }
}

#[cfg(test)]
mod tests {
    use super::local;

    /// Daemons say when something was, and a hostile one says anything.
    #[test]
    fn every_number_is_some_moment() {
        for seconds in [i64::MIN, -1, 67_768_036_191_600_000, i64::MAX] {
            assert!((0..24).contains(&local(seconds).hour));
        }
        // The last year that the C library counts.
        assert_eq!(local(67_768_036_191_600_000).year, i32::MAX);
    }

    #[test]
    fn a_known_day_lies_in_its_month_in_every_zone() {
        let mid = local(1_795_183_331);
        assert_eq!((mid.year, mid.month), (2026, 11));
        assert!(mid.day == 20 || mid.day == 21 || mid.day == 19);
    }
}
