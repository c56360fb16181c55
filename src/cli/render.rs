// SPDX-License-Identifier: MIT
//! Status for people. `status:`, `action:` and `see:` only when something is wrong: silence is the
//! good news. Pure: a report in, text out.

use std::fmt::Write as _;

use super::units::{show_age, show_clock, show_count, show_duration, show_part, show_size};
use crate::mirror::failure::Shown;
pub(super) use crate::mirror::failure::harmless;
use crate::mirror::report::{DirtyList, Reason, Replica, Report, Resync, Scan};
use crate::mirror::state::MirrorState;
use crate::sys::localtime::local;

/// Continuation lines begin under the text, not under the label.
const INDENT: &str = "\n          ";
/// A time further back than this is shown with its day.
const DAY: i64 = 86_400;

/// What somebody else said: harmless if a terminal is to show it, which `escape` says, else as it is.
pub(super) fn as_seen(text: &str, escape: bool) -> String {
    if escape {
        harmless(text)
    } else {
        text.to_owned()
    }
}

/// The text of `mirrorfs status`; `escape` makes names harmless on a terminal.
pub(super) fn status(report: &Report, now: i64, escape: bool) -> String {
    let shown = |name: &str| as_seen(name, escape);
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        if !value.is_empty() {
            let lines: Vec<_> = value.lines().map(&shown).collect();
            _ = writeln!(text, "{label:>8}: {}", lines.join(INDENT)).is_ok();
        }
    };
    line("mirror", &shown(&report.mirror));
    line("state", &state(report.state));
    let told = told(report, now);
    line("status", &told.status);
    line("action", &told.action);
    line("see", &told.see);
    for resync in report.replicas.iter().filter_map(|r| r.resync.as_ref()) {
        if resync.running {
            line(healing(report), &self::resync(resync));
        }
    }
    line("mode", &mode(report));
    line("scan", &scan(report.scan.as_ref()));
    line("mounted", &mounted(report, now));
    text.push('\n');
    table(&mut text, report, &shown);
    text
}

/// What is to be said about a state that is not in-sync.
#[derive(Default)]
pub(super) struct Words {
    pub(super) status: String,
    pub(super) action: String,
    see: String,
}

/// The daemon's own words; where it gave none, what can be said of the state.
pub(super) fn told(report: &Report, now: i64) -> Words {
    let page = |id: &str| format!("mirrorfs help {id}");
    if let Some(reason) = &report.reason {
        return Words {
            status: reason.text.replace("{since}", &moment(reason.since, now)),
            action: report.action.clone().unwrap_or_default(),
            see: page(&reason.id),
        };
    }
    let at = report.mirror.quoted();
    match report.state {
        MirrorState::Paused => Words {
            status:
                "The replica is set aside (mirrorfs pause). Files stay readable and writable.\n\
                     Changes are on the primary only, and are remembered."
                    .to_owned(),
            action: format!("When the replica's disk is ready: mirrorfs resume {at}"),
            see: page("MF-0030"),
        },
        MirrorState::Unverified => Words {
            status: report
                .unverified
                .clone()
                .unwrap_or_else(|| "The copies are believed to be equal.".to_owned()),
            action: String::new(),
            see: page("MF-0033"),
        },
        _ => Words {
            action: report.action.clone().unwrap_or_default(),
            ..Words::default()
        },
    }
}

/// Why, in one sentence: the first line of what status says.
pub(super) fn reason(reason: &Reason, now: i64) -> String {
    let text = reason.text.lines().next().unwrap_or_default();
    text.replace("{since}", &moment(reason.since, now))
}

/// The word for what is being done to the replica.
pub(super) fn healing(report: &Report) -> &'static str {
    match report.state {
        MirrorState::Seeding => "seed",
        _ => "resync",
    }
}

/// `41%  7.4 of 18.2 GiB  498 of 1,204 files  210 MiB/s  00:52 left`, the percentage three wide; while all
/// there is is being counted `  ?%  7.4 GiB  498 files  210 MiB/s`.
pub(super) fn resync(resync: &Resync) -> String {
    if resync.running && resync.is_counting {
        return format!(
            "  ?%  {}  {} files  {}/s",
            show_size(resync.bytes_done),
            show_count(resync.files_done),
            show_size(resync.bytes_per_second)
        );
    }
    let bytes = resync.bytes_done.saturating_add(resync.bytes_left);
    let files = resync.files_done.saturating_add(resync.files_left);
    let (done, all) = resync.share();
    // Nothing is complete before it is.
    let most = if resync.running { 99 } else { 100 };
    let percent = (u128::from(done) * 100 + u128::from(all / 2)) / u128::from(all.max(1));
    let percent = if all == 0 && !resync.running {
        100
    } else {
        percent.min(most)
    };
    let mut text = format!(
        "{percent:>3}%  {}  {} of {} files  {}/s",
        show_part(resync.bytes_done, bytes),
        show_count(resync.files_done),
        show_count(files),
        show_size(resync.bytes_per_second)
    );
    if let Some(eta) = resync.eta_seconds.filter(|_| resync.running) {
        text += &format!("  {} left", show_clock(eta));
    }
    text
}

/// The table of `status --dirty`: names as they are, unless a terminal might obey them.
pub(super) fn dirty(list: &DirtyList, escape: bool) -> Vec<u8> {
    let mut out = b"\n   DIRTY    PATH\n".to_vec();
    for object in &list.objects {
        let aspect = as_seen(&object.aspect, escape);
        out.extend_from_slice(format!("   {aspect:7}  ").as_bytes());
        match object.path.as_slice() {
            b"" => out.push(b'.'),
            path if escape => {
                out.extend_from_slice(harmless(&String::from_utf8_lossy(path)).as_bytes());
            }
            path => out.extend_from_slice(path),
        }
        match object.range {
            Some((from, Some(length))) => {
                let range = format!("  {} at {from}", show_size(length));
                out.extend_from_slice(range.as_bytes());
            }
            Some((from, None)) if from > 0 => {
                out.extend_from_slice(format!("  from {from} on").as_bytes());
            }
            _ => {}
        }
        out.push(b'\n');
    }
    let unlisted = list.total.saturating_sub(list.objects.len() as u64);
    if unlisted > 0 {
        out.extend_from_slice(format!("   ... and {} more\n", show_count(unlisted)).as_bytes());
    } else if list.total == 0 {
        out.extend_from_slice(b"   nothing\n");
    }
    out
}

/// The state's word, in capitals when someone has to act.
pub(super) fn state(state: MirrorState) -> String {
    if state.needs_someone() {
        state.word().to_ascii_uppercase()
    } else {
        state.word().to_owned()
    }
}

pub(super) fn mode(report: &Report) -> String {
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

pub(super) fn mounted(report: &Report, now: i64) -> String {
    let age = u64::try_from(now.saturating_sub(report.mounted_since)).unwrap_or(0);
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
    if now.saturating_sub(seconds) < DAY {
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
            shown(&report.primary.state),
            "-".into(),
            show_size(report.primary.written_bytes),
            show_count(report.primary.errors),
        ],
    ];
    rows.extend(report.replicas.iter().map(|r| {
        [
            "replica".into(),
            shown(&r.path),
            shown(&r.state),
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

/// How far it is behind.
pub(super) fn lag(replica: &Replica) -> String {
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

/// What it may lack.
pub(super) fn missed(replica: &Replica) -> String {
    match (replica.dirty_files, replica.dirty_bytes) {
        (0, 0) => "-".into(),
        (0, bytes) => show_size(bytes),
        (1, bytes) => format!("1 file, {}", show_size(bytes)),
        (files, bytes) => format!("{} files, {}", show_count(files), show_size(bytes)),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::mirror::report::{Dirty, Primary};

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
            request_times: Default::default(),
            read_bytes: None,
            version: None,
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

    /// The resync of the interface's samples, at 41 %.
    pub(in crate::cli) fn healing() -> Resync {
        Resync {
            running: true,
            files_done: 498,
            dirs_done: 0,
            files_left: 706,
            bytes_done: 7_945_689_498,
            bytes_left: 11_596_411_698,
            bytes_per_second: 210 << 20,
            eta_seconds: Some(52),
            is_counting: false,
            since: 1_795_096_931,
            elapsed_ms: 36_000,
        }
    }

    /// The degraded mirror, being made equal.
    pub(in crate::cli) fn healing_report() -> Report {
        let before = degraded();
        Report {
            state: MirrorState::Resyncing,
            reason: None,
            action: None,
            replicas: vec![Replica {
                state: "resyncing".into(),
                dirty_files: 706,
                dirty_bytes: 11_596_411_698,
                resync: Some(healing()),
                ..before.replicas[0].clone()
            }],
            ..before
        }
    }

    /// Whatever a daemon says: no part of it steers the terminal, no number is too large to be shown.
    #[test]
    fn a_hostile_report_is_shown() {
        let mut report = degraded();
        report.primary.state = "\x1b[2J".into();
        report.replicas[0].state = "a\nb".into();
        report.mode = "\u{9b}1m".into();
        (report.mounted_since, report.epoch) = (i64::MIN, u64::MAX);
        if let Some(reason) = &mut report.reason {
            reason.since = i64::MIN;
        }
        let text = status(&report, 7, true);
        assert!(
            text.chars().all(|c| c == '\n' || !c.is_control()),
            "{text:?}"
        );
        let list = DirtyList {
            objects: vec![Dirty {
                path: b"a".to_vec(),
                aspect: "\x1b[2J".into(),
                range: None,
            }],
            total: 1,
        };
        assert!(!dirty(&list, true).contains(&0x1b));
    }

    #[test]
    fn healing_shows_how_far_it_is() {
        let report = healing_report();
        let now = report.mounted_since + 9 * 86_400 + 20 * 3600 + 40 * 60;
        let golden = "  mirror: /data
   state: resyncing
  resync:  41%  7.4 of 18.2 GiB  498 of 1,204 files  210 MiB/s  00:52 left
    mode: sync
    scan: none since mount
 mounted: 9 days 20:40, epoch 7 -> 8, io_uring, 6f2c91ab

   ROLE     PATH          STATE      DIRTY                      WRITTEN   ERRORS
   primary  /srv/data     online     -                          2.02 TiB       0
   replica  /backup/data  resyncing  706 files, 10.8 GiB        2.00 TiB       1
";
        assert_eq!(status(&report, now, false), golden);
    }

    /// A percentage is complete when the work is.
    #[test]
    fn percentages_are_honest() {
        let at = |running, bytes_done, bytes_left| {
            let all = Resync {
                running,
                bytes_done,
                bytes_left,
                ..Resync::default()
            };
            resync(&all)[..4].to_owned()
        };
        assert_eq!(at(true, 0, 0), "  0%");
        assert_eq!(at(true, 5, 0), " 99%");
        assert_eq!(at(true, 999, 1), " 99%");
        assert_eq!(at(false, 5, 0), "100%");
        assert_eq!(at(false, 0, 0), "100%");
        assert_eq!(at(true, u64::MAX, u64::MAX), " 99%");
        let counting = Resync {
            is_counting: true,
            ..healing()
        };
        assert_eq!(resync(&counting), "  ?%  7.4 GiB  498 files  210 MiB/s");
        let over = Resync {
            running: false,
            is_counting: true,
            ..Resync::default()
        };
        assert_eq!(resync(&over)[..4], *"100%");
    }

    /// Where the daemon gives no reason, the state explains itself.
    #[test]
    fn paused_and_unverified_explain_themselves() {
        let mut report = healthy();
        report.state = MirrorState::Paused;
        let text = status(&report, 0, false);
        assert!(text.contains("action: When the replica's disk is ready: mirrorfs resume /data"));
        assert!(text.contains("see: mirrorfs help MF-0030"));
        report.state = MirrorState::Unverified;
        report.unverified = Some("The primary lay bare.".into());
        let text = status(&report, 0, false);
        assert!(text.contains("status: The primary lay bare.\n     see: mirrorfs help MF-0033"));
    }

    #[test]
    fn dirty_objects_are_listed() {
        let one = |path: &[u8], aspect: &str, range| Dirty {
            path: path.to_vec(),
            aspect: aspect.into(),
            range,
        };
        let list = DirtyList {
            objects: vec![
                one(b"a/b\x1b", "data", Some((4 << 20, Some(4 << 20)))),
                one(b"a/c", "data", Some((4096, None))),
                one(b"", "dir", None),
            ],
            total: 1204,
        };
        let text = String::from_utf8(dirty(&list, true)).expect("text");
        assert_eq!(
            text,
            "
   DIRTY    PATH
   data     a/b\\u{1b}  4 MiB at 4194304
   data     a/c  from 4096 on
   dir      .
   ... and 1,201 more
"
        );
        assert!(dirty(&list, false).contains(&0x1b));
        assert!(dirty(&DirtyList::default(), false).ends_with(b"   nothing\n"));
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
