// SPDX-License-Identifier: MIT
//! Sizes and durations, both ways: `256M` and `90s` in, `18.2 GiB` and `01:12:41` out.

use std::time::Duration;

const STEPS: [(&str, u32); 5] = [("T", 40), ("G", 30), ("M", 20), ("K", 10), ("", 0)];

/// `90`, `90s`, `5m`, `2h`, `1d`, `250ms`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("`{text}` is not a duration such as 90s or 5m"))?;
    let seconds = match &text[digits.len()..] {
        "ms" => return Ok(Duration::from_millis(number)),
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        unit => return Err(format!("`{unit}` is no unit of time: use ms, s, m, h or d")),
    };
    number
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(|| format!("`{text}` is too long"))
}

/// `4096`, `64K`, `256M`, `1G`, `2T`; `KiB`, `MB` and so on mean the same powers of 1024.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size such as 64K, 256M or 1G");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text[digits.len()..].to_ascii_uppercase();
    let unit = unit
        .strip_suffix("IB")
        .or(unit.strip_suffix('B'))
        .unwrap_or(&unit);
    let step = STEPS.iter().find(|(name, _)| *name == unit);
    let (_, shift) = step.ok_or_else(wrong)?;
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

/// Bytes in IEC units: two decimals from TiB, one below 100, none where they would be zero.
pub(super) fn show_size(bytes: u64) -> String {
    let step = STEPS.iter().find(|(_, shift)| bytes >> shift > 0);
    let (name, shift) = step.copied().unwrap_or(("", 0));
    if shift == 0 {
        return format!("{bytes} B");
    }
    let unit = 1_u64 << shift;
    if shift == 40 {
        let hundredths = (u128::from(bytes) * 100 + u128::from(unit / 2)) >> shift;
        return format!("{}.{:02} {name}iB", hundredths / 100, hundredths % 100);
    }
    let tenths = (u128::from(bytes) * 10 + u128::from(unit / 2)) >> shift;
    if tenths >= 1000 || bytes.is_multiple_of(unit) {
        return format!("{} {name}iB", (bytes + unit / 2) >> shift);
    }
    format!("{}.{} {name}iB", tenths / 10, tenths % 10)
}

/// A part in the unit of its whole: `7.4 of 18.2 GiB`.
pub(super) fn show_part(part: u64, whole: u64) -> String {
    let whole_text = show_size(whole);
    let step = STEPS.iter().find(|(_, shift)| whole >> shift > 0);
    let shift = step.map_or(0, |(_, shift)| *shift);
    if shift == 0 {
        return format!("{part} of {whole_text}");
    }
    let tenths = (u128::from(part) * 10 + u128::from((1_u64 << shift) / 2)) >> shift;
    if tenths >= 1000 || part == 0 {
        format!("{} of {whole_text}", tenths / 10)
    } else {
        format!("{}.{} of {whole_text}", tenths / 10, tenths % 10)
    }
}

/// `1204118` as `1,204,118`.
pub(super) fn show_count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `01:12:41`, and from a day on `4 days 02:11`.
pub(super) fn show_duration(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (hours, minutes) = (rest / 3600, rest / 60 % 60);
    match days {
        0 => format!("{hours:02}:{minutes:02}:{:02}", rest % 60),
        1 => format!("1 day {hours:02}:{minutes:02}"),
        _ => format!("{days} days {hours:02}:{minutes:02}"),
    }
}

/// `00:52`, `01:12:41`: minutes and seconds, hours when there are any.
pub(super) fn show_clock(seconds: u64) -> String {
    match seconds {
        0..3600 => format!("{:02}:{:02}", seconds / 60, seconds % 60),
        _ => show_duration(seconds),
    }
}

/// `8 ms`, `2.5 s`, `01:12:41`.
pub(super) fn show_age(ms: u64) -> String {
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => show_duration(ms / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, seconds) in [
            ("90", 90),
            ("90s", 90),
            ("5m", 300),
            ("2h", 7200),
            ("1d", 86_400),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for text in ["", "s", "5 m", "-1", "5y", "99999999999999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("4096", 4096),
            ("64K", 65_536),
            ("256M", 256 << 20),
            ("1GiB", 1 << 30),
            ("1gb", 1 << 30),
            ("7B", 7),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "M", "1X", "1.5G", "99999999T", "-1"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_shown_as_in_the_manual() {
        for (bytes, text) in [
            (0, "0 B"),
            (812, "812 B"),
            (65_536, "64 KiB"),
            (3_565_158, "3.4 MiB"),
            (256 << 20, "256 MiB"),
            (19_542_101_196, "18.2 GiB"),
            (871_878_361_088, "812 GiB"),
            (2_221_013_488_107, "2.02 TiB"),
            (2_199_023_255_552, "2.00 TiB"),
        ] {
            assert_eq!(show_size(bytes), text);
        }
        assert_eq!(show_count(1_204_118), "1,204,118");
        assert_eq!(show_count(999), "999");
        assert_eq!(show_duration(4361), "01:12:41");
        assert_eq!(
            show_duration(4 * 86_400 + 2 * 3600 + 11 * 60),
            "4 days 02:11"
        );
        for (part, whole, text) in [
            (7_945_689_498, 19_542_101_196, "7.4 of 18.2 GiB"),
            (0, 19_542_101_196, "0 of 18.2 GiB"),
            (12, 812, "12 of 812 B"),
            (812 << 30, 1 << 40, "0.8 of 1.00 TiB"),
            (400 << 20, 812 << 20, "400 of 812 MiB"),
        ] {
            assert_eq!(show_part(part, whole), text);
        }
        assert_eq!(show_clock(52), "00:52");
        assert_eq!(show_clock(4361), "01:12:41");
        assert_eq!(show_age(8), "8 ms");
        assert_eq!(show_age(2540), "2.5 s");
    }
}
