// SPDX-License-Identifier: MIT
//! The machine's view of a report. `schema` grows only by addition; bytes and milliseconds are
//! integers, times are RFC 3339.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::metrics::CacheCounts;
use crate::mirror::report::{Primary, Replica, Report, Scan};
use crate::mirror::state::MirrorState;
use crate::sys::clock::rfc3339;

#[derive(Serialize)]
struct View<'a> {
    schema: u32,
    mirror: &'a str,
    id: &'a str,
    state: MirrorState,
    mode: &'a str,
    epoch: u64,
    reason: Option<ReasonView<'a>>,
    primary: &'a Primary,
    replicas: &'a [Replica],
    scan: Option<ScanView<'a>>,
    pid: u32,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    shared_primary: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    io: Option<IoView<'a>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    transport: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    transport_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    requests: &'a BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stat_cache: Option<CacheCounts>,
}

#[derive(Serialize)]
struct ReasonView<'a> {
    id: &'a str,
    errno: Option<&'a str>,
    since: String,
}

#[derive(Serialize)]
struct ScanView<'a> {
    kind: &'a str,
    differences: u64,
    files: u64,
    bytes: u64,
    duration_ms: u64,
    ended: String,
}

impl<'a> From<&'a Scan> for ScanView<'a> {
    fn from(scan: &'a Scan) -> Self {
        Self {
            kind: &scan.kind,
            differences: scan.differences,
            files: scan.files,
            bytes: scan.bytes,
            duration_ms: scan.duration_ms,
            ended: rfc3339(scan.ended),
        }
    }
}

/// How the disks are asked, why not better, and how often.
#[derive(Serialize)]
struct IoView<'a> {
    backend: &'a str,
    reason: Option<&'a str>,
    counters: &'a BTreeMap<String, u64>,
}

/// One object, one line.
pub(super) fn line(report: &Report) -> String {
    let view = View {
        schema: 1,
        mirror: &report.mirror,
        id: &report.id,
        state: report.state,
        mode: &report.mode,
        epoch: report.epoch,
        reason: report.reason.as_ref().map(|r| ReasonView {
            id: &r.id,
            errno: r.errno.as_deref(),
            since: rfc3339(r.since),
        }),
        primary: &report.primary,
        replicas: &report.replicas,
        scan: report.scan.as_ref().map(ScanView::from),
        pid: report.pid,
        shared_primary: report.shared_primary,
        cache: report.cache.as_deref(),
        io: (!report.io_counters.is_empty()).then(|| IoView {
            backend: &report.io,
            reason: report.io_reason.as_deref(),
            counters: &report.io_counters,
        }),
        transport: &report.transport,
        transport_reason: report.transport_reason.as_deref(),
        requests: &report.requests,
        stat_cache: report.stat_cache,
    };
    // Strings and integers only: there is nothing that could fail.
    serde_json::to_string(&view).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use crate::cli::render::tests::degraded;

    /// The sample of the interface, word for word, and `pid`.
    const GOLDEN: &str = r#"{"schema":1,"mirror":"/data","id":"6f2c91ab","state":"degraded","mode":"sync","epoch":8,"reason":{"id":"MF-0003","errno":"ENOSPC","since":"2026-11-19T14:02:11Z"},"primary":{"path":"/srv/data","state":"online","written_bytes":2221013488107,"errors":0},"replicas":[{"path":"/backup/data","state":"failed","carrier":"inline","lag_ops":0,"lag_bytes":0,"lag_ms":0,"dirty_files":1204,"dirty_bytes":19542101196,"resync_files_opened":0,"written_bytes":2199023255552,"errors":1}],"scan":null,"pid":812}"#;

    #[test]
    fn the_sample_of_the_interface() {
        assert_eq!(super::line(&degraded()).trim_end(), GOLDEN);
    }
}
