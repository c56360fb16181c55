// SPDX-License-Identifier: MIT
//! `status --format prometheus`: a report as metrics, for node_exporter's textfile collector.
//!
//! The text exposition format: <https://prometheus.io/docs/instrumenting/exposition_formats/>. Base
//! units only (bytes, seconds); what only grows ends in `_total`. Names and labels are part of the
//! interface (docs/CLI_ABI.md). Pure: reports in, text out.

use std::fmt::Write as _;

use crate::metrics::{Times, bound_us};
use crate::mirror::report::{Replica, Report};
use crate::mirror::state::{MirrorState, ReplicaState};

/// How a family's samples are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Gauge,
    Counter,
    Histogram,
}

use Kind::{Counter, Gauge, Histogram};

/// Every family there is, in the order in which they are printed.
const FAMILIES: [(&str, Kind, &str); 52] = [
    ("mirrorfs_mirrors", Gauge, "Mirrors that are mounted."),
    ("mirrorfs_up", Gauge, "Whether the mirror's daemon answers."),
    (
        "mirrorfs_build_info",
        Gauge,
        "1; the version of the daemon.",
    ),
    (
        "mirrorfs_info",
        Gauge,
        "1; the identity of the mirror, its primary and how it is mounted.",
    ),
    (
        "mirrorfs_mount_time_seconds",
        Gauge,
        "When it was mounted, in seconds since 1970.",
    ),
    (
        "mirrorfs_uptime_seconds",
        Gauge,
        "For how long it has been mounted.",
    ),
    (
        "mirrorfs_state",
        Gauge,
        "1 for the state the mirror is in, 0 for all others.",
    ),
    (
        "mirrorfs_reason",
        Gauge,
        "1; why the mirror is not in-sync. Absent while it is.",
    ),
    (
        "mirrorfs_reason_time_seconds",
        Gauge,
        "Since when it is not in-sync, in seconds since 1970.",
    ),
    (
        "mirrorfs_paused",
        Gauge,
        "Whether the replica is set aside.",
    ),
    (
        "mirrorfs_epoch",
        Gauge,
        "A number that grows when the primary goes on alone.",
    ),
    (
        "mirrorfs_max_lag_bytes",
        Gauge,
        "How much may wait for the replica; mode=async only.",
    ),
    (
        "mirrorfs_written_bytes_total",
        Counter,
        "Bytes written to a copy since mount.",
    ),
    (
        "mirrorfs_errors_total",
        Counter,
        "I/O errors of a copy since mount.",
    ),
    (
        "mirrorfs_read_bytes_total",
        Counter,
        "Bytes of files that the kernel was given since mount.",
    ),
    (
        "mirrorfs_ops_total",
        Counter,
        "Requests of the kernel since mount, by name.",
    ),
    (
        "mirrorfs_op_seconds",
        Histogram,
        "How long requests took to answer since mount, by name.",
    ),
    (
        "mirrorfs_replica_state",
        Gauge,
        "1 for the state the replica is in, 0 for all others.",
    ),
    (
        "mirrorfs_replica_lag_ops",
        Gauge,
        "Operations acknowledged and not yet on the replica.",
    ),
    (
        "mirrorfs_replica_lag_bytes",
        Gauge,
        "Bytes acknowledged and not yet on the replica.",
    ),
    (
        "mirrorfs_replica_lag_seconds",
        Gauge,
        "Age of the oldest operation not yet on the replica.",
    ),
    (
        "mirrorfs_replica_dirty_files",
        Gauge,
        "Files that may differ.",
    ),
    (
        "mirrorfs_replica_dirty_bytes",
        Gauge,
        "Bytes that may differ.",
    ),
    (
        "mirrorfs_replica_resync_running",
        Gauge,
        "Whether the replica is being made equal.",
    ),
    (
        "mirrorfs_replica_resync_files_done",
        Gauge,
        "Files that the resync has compared or copied.",
    ),
    (
        "mirrorfs_replica_resync_files_left",
        Gauge,
        "Files that are known to be left; may grow.",
    ),
    (
        "mirrorfs_replica_resync_bytes_done",
        Gauge,
        "Bytes that the resync has compared or copied.",
    ),
    (
        "mirrorfs_replica_resync_bytes_left",
        Gauge,
        "Bytes that are known to be left; may grow.",
    ),
    (
        "mirrorfs_replica_resync_bytes_per_second",
        Gauge,
        "Its speed of late.",
    ),
    (
        "mirrorfs_replica_resync_eta_seconds",
        Gauge,
        "How long it will take; absent if unknown.",
    ),
    (
        "mirrorfs_replica_resync_start_time_seconds",
        Gauge,
        "When it began, in seconds since 1970.",
    ),
    (
        "mirrorfs_replica_resync_elapsed_seconds",
        Gauge,
        "For how long it runs, or ran.",
    ),
    (
        "mirrorfs_replica_log_marks",
        Gauge,
        "Marks that are alive in the write-intent log.",
    ),
    (
        "mirrorfs_replica_log_dirty_marks",
        Gauge,
        "Those of them that must be healed.",
    ),
    (
        "mirrorfs_replica_log_bytes",
        Gauge,
        "Size of the write-intent log.",
    ),
    (
        "mirrorfs_replica_log_appended_total",
        Counter,
        "Marks appended since mount.",
    ),
    (
        "mirrorfs_replica_log_cleared_total",
        Counter,
        "Marks cleared since mount.",
    ),
    (
        "mirrorfs_replica_log_flushes_total",
        Counter,
        "Times the log was made durable since mount.",
    ),
    (
        "mirrorfs_stat_cache_hits_total",
        Counter,
        "Answers from memory since mount.",
    ),
    (
        "mirrorfs_stat_cache_misses_total",
        Counter,
        "Answers the primary had to give since mount.",
    ),
    (
        "mirrorfs_stat_cache_bytes",
        Gauge,
        "What the cache of attributes and names holds.",
    ),
    (
        "mirrorfs_stat_cache_capacity_bytes",
        Gauge,
        "What it may hold; 0 when it is off.",
    ),
    (
        "mirrorfs_io_operations_total",
        Counter,
        "Operations handed to io_uring or done instead.",
    ),
    (
        "mirrorfs_io_events_total",
        Counter,
        "What became of them, and of the rings, by name.",
    ),
    (
        "mirrorfs_io_copied_bytes_total",
        Counter,
        "Bytes copied into buffers.",
    ),
    (
        "mirrorfs_scan_differences",
        Gauge,
        "Differences that the last comparison found.",
    ),
    ("mirrorfs_scan_files", Gauge, "Files that it compared."),
    ("mirrorfs_scan_bytes", Gauge, "Bytes that it compared."),
    ("mirrorfs_scan_duration_seconds", Gauge, "How long it took."),
    (
        "mirrorfs_scan_end_time_seconds",
        Gauge,
        "When it ended, in seconds since 1970.",
    ),
    (
        "mirrorfs_shared_primary",
        Gauge,
        "Whether PRIMARY may change behind the mount.",
    ),
    ("mirrorfs_pid", Gauge, "The daemon's process."),
];

/// The last line, a comment to Prometheus: what was cut off lacks it.
const END: &str = "# EOF\n";

/// All families, filled bit by bit: the samples of one have to stand together.
struct Page {
    samples: [String; FAMILIES.len()],
    /// The labels that every sample has.
    common: String,
}

/// `\`, `"` and the end of a line would end the value.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out
}

fn label(name: &str, value: &str) -> String {
    format!("{name}=\"{}\"", escaped(value))
}

/// `8.388608` from 8,388,608 millionths: no digit is made up, none lost.
fn decimal(number: u64, digits: u32) -> String {
    let unit = 10_u64.pow(digits);
    let (whole, part) = (number / unit, number % unit);
    if part == 0 {
        return whole.to_string();
    }
    let text = format!("{whole}.{part:0width$}", width = digits as usize);
    text.trim_end_matches('0').to_owned()
}

impl Page {
    fn new() -> Self {
        Self {
            samples: std::array::from_fn(|_| String::new()),
            common: String::new(),
        }
    }

    /// One line. `family` is one of [`FAMILIES`]; `suffix` is a histogram's.
    fn line(&mut self, family: &str, suffix: &str, labels: &[(&str, &str)], value: &str) {
        let place = FAMILIES.iter().position(|(name, ..)| *name == family);
        debug_assert!(place.is_some(), "{family} is in no table");
        let Some(samples) = place.and_then(|place| self.samples.get_mut(place)) else {
            return;
        };
        let mut all = self.common.clone();
        for (name, value) in labels {
            if !all.is_empty() {
                all.push(',');
            }
            all += &label(name, value);
        }
        let labels = if all.is_empty() {
            all
        } else {
            format!("{{{all}}}")
        };
        _ = writeln!(samples, "{family}{suffix}{labels} {value}").is_ok();
    }

    fn put(&mut self, family: &str, labels: &[(&str, &str)], value: u64) {
        self.line(family, "", labels, &value.to_string());
    }

    fn millis(&mut self, family: &str, labels: &[(&str, &str)], ms: u64) {
        self.line(family, "", labels, &decimal(ms, 3));
    }

    /// Seconds since 1970; before that nothing of ours happened.
    fn time(&mut self, family: &str, labels: &[(&str, &str)], seconds: i64) {
        self.put(family, labels, u64::try_from(seconds).unwrap_or(0));
    }

    fn histogram(&mut self, family: &str, op: &str, times: &Times) {
        let mut below = 0;
        for (place, count) in times.buckets.iter().enumerate() {
            // What came between the reading of two buckets may be missing: the last one is the sum.
            below = u64::saturating_add(below, *count);
            let bound = bound_us(place).map_or("+Inf".to_owned(), |us| decimal(us, 6));
            let labels = [("op", op), ("le", bound.as_str())];
            self.line(family, "_bucket", &labels, &below.to_string());
        }
        let sum = decimal(times.total_us, 6);
        self.line(family, "_sum", &[("op", op)], &sum);
        self.line(family, "_count", &[("op", op)], &below.to_string());
    }

    fn text(self) -> String {
        let mut text = String::new();
        for ((name, kind, help), samples) in FAMILIES.iter().zip(self.samples) {
            if samples.is_empty() {
                continue;
            }
            let kind = match kind {
                Gauge => "gauge",
                Counter => "counter",
                Histogram => "histogram",
            };
            text += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}");
        }
        text + END
    }
}

/// The page for these mirrors, each under its mountpoint; without a report its daemon did not
/// answer. `now` is in seconds since 1970.
pub(super) fn page(mirrors: &[(String, Option<Report>)], now: i64) -> String {
    let mut page = Page::new();
    page.put("mirrorfs_mirrors", &[], mirrors.len() as u64);
    for (mirror, report) in mirrors {
        page.common = label("mirror", mirror);
        page.put("mirrorfs_up", &[], report.is_some().into());
        if let Some(report) = report {
            whole(&mut page, report, now);
            work(&mut page, report);
            for one in &report.replicas {
                replica(&mut page, one);
            }
        }
    }
    page.text()
}

/// What is said of the mirror as a whole.
fn whole(page: &mut Page, report: &Report, now: i64) {
    if let Some(version) = &report.version {
        page.put("mirrorfs_build_info", &[("version", version)], 1);
    }
    let info = [
        ("id", report.id.as_str()),
        ("primary", &report.primary.path),
        ("mode", &report.mode),
        ("io", &report.io),
        ("transport", &report.transport),
        ("cache", report.cache.as_deref().unwrap_or("writethrough")),
    ];
    page.put("mirrorfs_info", &info, 1);
    page.put("mirrorfs_pid", &[], report.pid.into());
    page.time("mirrorfs_mount_time_seconds", &[], report.mounted_since);
    let uptime = now.saturating_sub(report.mounted_since);
    page.time("mirrorfs_uptime_seconds", &[], uptime);
    for state in MirrorState::ALL {
        let labels = [("state", state.word())];
        page.put("mirrorfs_state", &labels, (state == report.state).into());
    }
    if let Some(reason) = &report.reason {
        let errno = reason.errno.as_deref().unwrap_or_default();
        let labels = [("id", reason.id.as_str()), ("errno", errno)];
        page.put("mirrorfs_reason", &labels, 1);
        page.time("mirrorfs_reason_time_seconds", &[], reason.since);
    }
    page.put("mirrorfs_paused", &[], report.paused.into());
    page.put("mirrorfs_shared_primary", &[], report.shared_primary.into());
    page.put("mirrorfs_epoch", &[], report.epoch);
    if let Some(bytes) = report.max_lag_bytes {
        page.put("mirrorfs_max_lag_bytes", &[], bytes);
    }
    if let Some(scan) = &report.scan {
        let kind = [("kind", scan.kind.as_str())];
        page.put("mirrorfs_scan_differences", &kind, scan.differences);
        page.put("mirrorfs_scan_files", &kind, scan.files);
        page.put("mirrorfs_scan_bytes", &kind, scan.bytes);
        page.millis("mirrorfs_scan_duration_seconds", &kind, scan.duration_ms);
        page.time("mirrorfs_scan_end_time_seconds", &kind, scan.ended);
    }
}

/// What it has done since mount.
fn work(page: &mut Page, report: &Report) {
    let primary = &report.primary;
    let copies = report
        .replicas
        .iter()
        .map(|r| ("replica", &r.path, r.written_bytes, r.errors));
    let first = (
        "primary",
        &primary.path,
        primary.written_bytes,
        primary.errors,
    );
    for (role, path, written, errors) in std::iter::once(first).chain(copies) {
        let labels = [("role", role), ("path", path.as_str())];
        page.put("mirrorfs_written_bytes_total", &labels, written);
        page.put("mirrorfs_errors_total", &labels, errors);
    }
    if let Some(bytes) = report.read_bytes {
        page.put("mirrorfs_read_bytes_total", &[], bytes);
    }
    for (op, count) in &report.requests {
        page.put("mirrorfs_ops_total", &[("op", op)], *count);
    }
    for (op, times) in &report.request_times {
        page.histogram("mirrorfs_op_seconds", op, times);
    }
    if let Some(cache) = &report.stat_cache {
        page.put("mirrorfs_stat_cache_hits_total", &[], cache.hits);
        page.put("mirrorfs_stat_cache_misses_total", &[], cache.misses);
        page.put("mirrorfs_stat_cache_bytes", &[], cache.bytes);
        let capacity = cache.capacity_bytes;
        page.put("mirrorfs_stat_cache_capacity_bytes", &[], capacity);
    }
    for (name, count) in &report.io_counters {
        if let Some(op) = name.strip_prefix("op_") {
            page.put("mirrorfs_io_operations_total", &[("op", op)], *count);
        } else if name == "bytes_copied" {
            page.put("mirrorfs_io_copied_bytes_total", &[], *count);
        } else {
            page.put("mirrorfs_io_events_total", &[("event", name)], *count);
        }
    }
}

fn replica(page: &mut Page, replica: &Replica) {
    let path = [("replica", replica.path.as_str())];
    for state in ReplicaState::ALL {
        let labels = [path[0], ("state", state.word())];
        let is = state.word() == replica.state;
        page.put("mirrorfs_replica_state", &labels, is.into());
    }
    page.put("mirrorfs_replica_lag_ops", &path, replica.lag_ops);
    page.put("mirrorfs_replica_lag_bytes", &path, replica.lag_bytes);
    page.millis("mirrorfs_replica_lag_seconds", &path, replica.lag_ms);
    page.put("mirrorfs_replica_dirty_files", &path, replica.dirty_files);
    page.put("mirrorfs_replica_dirty_bytes", &path, replica.dirty_bytes);
    let running = replica.resync.as_ref().is_some_and(|r| r.running);
    page.put("mirrorfs_replica_resync_running", &path, running.into());
    if let Some(resync) = &replica.resync {
        let mut put = |what: &str, value| {
            page.put(&format!("mirrorfs_replica_resync_{what}"), &path, value);
        };
        put("files_done", resync.files_done);
        put("files_left", resync.files_left);
        put("bytes_done", resync.bytes_done);
        put("bytes_left", resync.bytes_left);
        put("bytes_per_second", resync.bytes_per_second);
        if let Some(eta) = resync.eta_seconds {
            put("eta_seconds", eta);
        }
        let began = "mirrorfs_replica_resync_start_time_seconds";
        page.time(began, &path, resync.since);
        let elapsed = "mirrorfs_replica_resync_elapsed_seconds";
        page.millis(elapsed, &path, resync.elapsed_ms);
    }
    if let Some(log) = &replica.log {
        let mut put = |what: &str, value| {
            page.put(&format!("mirrorfs_replica_log_{what}"), &path, value);
        };
        put("marks", log.marks);
        put("dirty_marks", log.dirty_marks);
        put("bytes", log.bytes);
        put("appended_total", log.appended);
        put("cleared_total", log.cleared);
        put("flushes_total", log.flushes);
    }
}

#[cfg(test)]
mod tests;
