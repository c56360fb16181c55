// SPDX-License-Identifier: MIT
//! Status for people. `status:`, `action:` and `see:` only when something is wrong: silence is the
//! good news. Pure: a report in, text out.

use std::fmt::Write as _;

use super::units::{show_age, show_count, show_duration, show_size};
use crate::mirror::report::{Replica, Report, Scan};
use crate::mirror::state::MirrorState;
use crate::sys::localtime::local;

/// Continuation lines begin under the text, not under the label.
const INDENT: &str = "\n          ";
/// A time further back than this is shown with its day.
const DAY: i64 = 86_400;

/// The text of `mirrorfs status`; `escape` makes names harmless on a terminal.
pub(super) fn status(report: &Report, now: i64, escape: bool) -> String {
    let shown = |name: &str| {
        if escape {
            harmless(name)
        } else {
            name.to_owned()
        }
    };
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        if !value.is_empty() {
            _ = writeln!(text, "{label:>8}: {}", value.replace('\n', INDENT)).is_ok();
        }
    };
    line("mirror", &shown(&report.mirror));
    line("state", &state(report.state));
    if let Some(reason) = &report.reason {
        line(
            "status",
            &reason.text.replace("{since}", &moment(reason.since, now)),
        );
    }
    line("action", report.action.as_deref().unwrap_or_default());
    if let Some(reason) = &report.reason {
        line("see", &format!("mirrorfs help {}", reason.id));
    }
    line("mode", &mode(report));
    line("scan", &scan(report.scan.as_ref()));
    line("mounted", &mounted(report, now));
    text.push('\n');
    table(&mut text, report, &shown);
    text
}

fn state(state: MirrorState) -> String {
    if state.needs_someone() {
        state.word().to_ascii_uppercase()
    } else {
        state.word().to_owned()
    }
}

fn mode(report: &Report) -> String {
    let mut text = report.mode.clone();
    match report.fsync.as_deref() {
        Some("both") => text += ", fsync waits for both",
        Some(one) => text += &format!(", fsync waits for the {one}"),
        None => {}
    }
    if let Some(lag) = report.max_lag_bytes {
        text += &format!(", up to {} behind", show_size(lag));
    }
    if let Some(cache) = &report.cache {
        text += &format!(", {cache} cache");
    }
    if report.shared_primary {
        text += ", shared primary";
    }
    text
}

fn scan(scan: Option<&Scan>) -> String {
    let Some(scan) = scan else {
        return "none since mount".into();
    };
    let found = match scan.differences {
        0 => "no differences".into(),
        1 => "1 difference".into(),
        n => format!("{} differences", show_count(n)),
    };
    format!(
        "{} found {found} in {}, {} files, {}, on {}",
        scan.kind,
        show_duration(scan.duration_ms / 1000),
        show_count(scan.files),
        show_size(scan.bytes),
        day(scan.ended)
    )
}

fn mounted(report: &Report, now: i64) -> String {
    let age = u64::try_from(now - report.mounted_since).unwrap_or(0);
    let before = report
        .epoch_before
        .map_or(String::new(), |e| format!("{e} -> "));
    format!(
        "{}, epoch {before}{}, {}, {}",
        show_duration(age),
        report.epoch,
        report.io,
        report.id
    )
}

/// `Sun Nov 15 03:12`.
fn day(seconds: i64) -> String {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let t = local(seconds);
    let name = |list: &[&'static str], n: i32| {
        usize::try_from(n)
            .ok()
            .and_then(|n| list.get(n))
            .copied()
            .unwrap_or("?")
    };
    let (weekday, month) = (name(&DAYS, t.weekday), name(&MONTHS, t.month - 1));
    format!("{weekday} {month} {} {:02}:{:02}", t.day, t.hour, t.minute)
}

/// `14:02:11`, and the day before it when it was not today.
fn moment(seconds: i64, now: i64) -> String {
    let t = local(seconds);
    let time = format!("{:02}:{:02}:{:02}", t.hour, t.minute, t.second);
    if now - seconds < DAY {
        time
    } else {
        format!("{:04}-{:02}-{:02} {time}", t.year, t.month, t.day)
    }
}

fn table(text: &mut String, report: &Report, shown: &dyn Fn(&str) -> String) {
    let dirty = report.state.needs_someone()
        || report
            .replicas
            .iter()
            .any(|r| r.dirty_files > 0 || r.dirty_bytes > 0);
    let title = if dirty { "DIRTY" } else { "LAG" };
    let mut rows = vec![
        ["ROLE", "PATH", "STATE", title, "WRITTEN", "ERRORS"].map(str::to_owned),
        [
            "primary".into(),
            shown(&report.primary.path),
            report.primary.state.clone(),
            "-".into(),
            show_size(report.primary.written_bytes),
            show_count(report.primary.errors),
        ],
    ];
    rows.extend(report.replicas.iter().map(|r| {
        [
            "replica".into(),
            shown(&r.path),
            r.state.clone(),
            if dirty { missed(r) } else { lag(r) },
            show_size(r.written_bytes),
            show_count(r.errors),
        ]
    }));
    // Columns stay where they are from one call to the next, unless a name is longer.
    let mut widths = [7, 4, 9, 25, 8, 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let [a, b, c, d, e, f] = widths;
    for [role, path, state, lag, written, errors] in &rows {
        let row =
            format!("   {role:a$}  {path:b$}  {state:c$}  {lag:d$}  {written:e$}  {errors:>f$}");
        text.push_str(&row);
        text.push('\n');
    }
}

fn lag(replica: &Replica) -> String {
    if replica.lag_ops == 0 && replica.lag_bytes == 0 {
        return "-".into();
    }
    format!(
        "{} ops, {}, {}",
        show_count(replica.lag_ops),
        show_size(replica.lag_bytes),
        show_age(replica.lag_ms)
    )
}

fn missed(replica: &Replica) -> String {
    match (replica.dirty_files, replica.dirty_bytes) {
        (0, 0) => "-".into(),
        (0, bytes) => show_size(bytes),
        (1, bytes) => format!("1 file, {}", show_size(bytes)),
        (files, bytes) => format!("{} files, {}", show_count(files), show_size(bytes)),
    }
}

/// A name with everything a terminal could obey shown as an escape.
pub(super) fn harmless(name: &str) -> String {
    name.chars()
        .flat_map(|c| {
            let plain = (!c.is_control()).then_some(c);
            let escaped = c.is_control().then(|| c.escape_default());
            plain.into_iter().chain(escaped.into_iter().flatten())
        })
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::mirror::report::{Primary, Reason};

    fn replica(state: &str) -> Replica {
        Replica {
            path: "/backup/data".into(),
            state: state.into(),
            carrier: "inline".into(),
            lag_ops: 0,
            lag_bytes: 0,
            lag_ms: 0,
            dirty_files: 0,
            dirty_bytes: 0,
            resync_files_opened: 0,
            written_bytes: 0,
            errors: 0,
            resync: None,
            log: None,
        }
    }

    fn healthy() -> Report {
        let written = 1_440_364_229_181;
        Report {
            mirror: "/data".into(),
            id: "6f2c91ab".into(),
            state: MirrorState::InSync,
            mode: "async".into(),
            fsync: Some("both".into()),
            max_lag_bytes: Some(256 << 20),
            epoch: 7,
            epoch_before: None,
            reason: None,
            action: None,
            primary: Primary {
                path: "/srv/data".into(),
                state: "online".into(),
                written_bytes: written,
                errors: 0,
            },
            replicas: vec![Replica {
                lag_ops: 12,
                lag_bytes: 3_565_158,
                lag_ms: 8,
                written_bytes: written,
                ..replica("in-sync")
            }],
            scan: None,
            mounted_since: 1_795_096_931,
            pid: 812,
            io: "io_uring".into(),
            io_reason: None,
            io_counters: Default::default(),
            transport: String::new(),
            transport_reason: None,
            shared_primary: false,
            cache: None,
            requests: Default::default(),
            stat_cache: None,
            paused: false,
            unverified: None,
            syncs: Default::default(),
        }
    }

    /// The degraded mirror of the interface's samples.
    pub(in crate::cli) fn degraded() -> Report {
        Report {
            state: MirrorState::Degraded,
            mode: "sync".into(),
            fsync: None,
            max_lag_bytes: None,
            epoch: 8,
            epoch_before: Some(7),
            reason: Some(Reason {
                id: "MF-0003".into(),
                errno: Some("ENOSPC".into()),
                text: "The replica stopped taking writes at {since}: No space left on device \
                       (ENOSPC).\nFiles stay readable and writable. Changes since then are on the \
                       primary only,\nand are remembered."
                    .into(),
                since: 1_795_096_931,
            }),
            action: Some("Free space under /backup/data, then run: mirrorfs sync /data".into()),
            primary: Primary {
                written_bytes: 2_221_013_488_107,
                ..healthy().primary
            },
            replicas: vec![Replica {
                dirty_files: 1204,
                dirty_bytes: 19_542_101_196,
                written_bytes: 2_199_023_255_552,
                errors: 1,
                ..replica("failed")
            }],
            ..healthy()
        }
    }

    #[test]
    fn healthy_as_in_the_manual() {
        let now = 1_795_096_931 + 4 * 86_400 + 2 * 3600 + 11 * 60;
        let golden = "  mirror: /data
   state: in-sync
    mode: async, fsync waits for both, up to 256 MiB behind
    scan: none since mount
 mounted: 4 days 02:11, epoch 7, io_uring, 6f2c91ab

   ROLE     PATH          STATE      LAG                        WRITTEN   ERRORS
   primary  /srv/data     online     -                          1.31 TiB       0
   replica  /backup/data  in-sync    12 ops, 3.4 MiB, 8 ms      1.31 TiB       0
";
        assert_eq!(status(&healthy(), now, false), golden);
    }

    #[test]
    fn degraded_as_in_the_manual() {
        let report = degraded();
        let now = report.mounted_since + 9 * 86_400 + 20 * 3600 + 40 * 60;
        let since = moment(1_795_096_931, now);
        let golden = format!(
            "  mirror: /data
   state: DEGRADED
  status: The replica stopped taking writes at {since}: No space left on device (ENOSPC).
          Files stay readable and writable. Changes since then are on the primary only,
          and are remembered.
  action: Free space under /backup/data, then run: mirrorfs sync /data
     see: mirrorfs help MF-0003
    mode: sync
    scan: none since mount
 mounted: 9 days 20:40, epoch 7 -> 8, io_uring, 6f2c91ab

   ROLE     PATH          STATE      DIRTY                      WRITTEN   ERRORS
   primary  /srv/data     online     -                          2.02 TiB       0
   replica  /backup/data  failed     1,204 files, 18.2 GiB      2.00 TiB       1
"
        );
        assert_eq!(status(&report, now, false), golden);
    }

    #[test]
    fn a_scan_is_one_sentence() {
        let found = Scan {
            kind: "verify".into(),
            differences: 0,
            files: 1_204_118,
            bytes: 871_878_361_088,
            duration_ms: 4_361_000,
            ended: 1_795_096_931,
        };
        let text = scan(Some(&found));
        assert!(
            text.starts_with(
                "verify found no differences in 01:12:41, 1,204,118 files, 812 GiB, on "
            )
        );
    }

    #[test]
    fn names_cannot_speak_to_the_terminal() {
        assert_eq!(harmless("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(harmless("gr\u{fc}n"), "gr\u{fc}n");
    }
}
