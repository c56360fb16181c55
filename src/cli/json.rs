// SPDX-License-Identifier: MIT
//! The machine's view of a report. `schema` grows only by addition; bytes and milliseconds are
//! integers, times are RFC 3339.

use std::collections::BTreeMap;

use serde::Serialize;

use super::verify::json_path;
use crate::metrics::{CacheCounts, Times};
use crate::mirror::report::{Dirty, DirtyList, LogCounts, Primary, Replica, Report, Resync, Scan};
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
    replicas: Vec<ReplicaView<'a>>,
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
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    request_times: &'a BTreeMap<String, Times>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stat_cache: Option<CacheCounts>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    paused: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    unverified: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dirty: Option<Vec<DirtyView<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dirty_total: Option<u64>,
}

#[derive(Serialize)]
struct ReplicaView<'a> {
    path: &'a str,
    state: &'a str,
    carrier: &'a str,
    lag_ops: u64,
    lag_bytes: u64,
    lag_ms: u64,
    dirty_files: u64,
    dirty_bytes: u64,
    resync_files_opened: u64,
    written_bytes: u64,
    errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    resync: Option<ResyncView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<LogCounts>,
}

impl<'a> From<&'a Replica> for ReplicaView<'a> {
    fn from(replica: &'a Replica) -> Self {
        Self {
            path: &replica.path,
            state: &replica.state,
            carrier: &replica.carrier,
            lag_ops: replica.lag_ops,
            lag_bytes: replica.lag_bytes,
            lag_ms: replica.lag_ms,
            dirty_files: replica.dirty_files,
            dirty_bytes: replica.dirty_bytes,
            resync_files_opened: replica.resync_files_opened,
            written_bytes: replica.written_bytes,
            errors: replica.errors,
            resync: replica.resync.as_ref().map(ResyncView::from),
            log: replica.log,
        }
    }
}

#[derive(Serialize)]
struct ResyncView {
    running: bool,
    files_done: u64,
    files_left: u64,
    bytes_done: u64,
    bytes_left: u64,
    bytes_per_second: u64,
    eta_seconds: Option<u64>,
    since: String,
    elapsed_ms: u64,
}

impl From<&Resync> for ResyncView {
    fn from(resync: &Resync) -> Self {
        Self {
            running: resync.running,
            files_done: resync.files_done,
            files_left: resync.files_left,
            bytes_done: resync.bytes_done,
            bytes_left: resync.bytes_left,
            bytes_per_second: resync.bytes_per_second,
            eta_seconds: resync.eta_seconds,
            since: rfc3339(resync.since),
            elapsed_ms: resync.elapsed_ms,
        }
    }
}

#[derive(Serialize)]
struct DirtyView<'a> {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    aspect: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<u64>,
}

impl<'a> From<&'a Dirty> for DirtyView<'a> {
    fn from(dirty: &'a Dirty) -> Self {
        let (path, path_bytes) = json_path(&dirty.path);
        Self {
            path,
            path_bytes,
            aspect: &dirty.aspect,
            offset: dirty.range.map(|(offset, _)| offset),
            length: dirty.range.and_then(|(_, length)| length),
        }
    }
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

/// One object, one line; with the dirty objects if they were asked for.
pub(super) fn line(report: &Report, dirty: Option<&DirtyList>) -> String {
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
        replicas: report.replicas.iter().map(ReplicaView::from).collect(),
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
        request_times: &report.request_times,
        read_bytes: report.read_bytes,
        version: report.version.as_deref(),
        stat_cache: report.stat_cache,
        paused: report.paused,
        unverified: report.unverified.as_deref(),
        dirty: dirty.map(|list| list.objects.iter().map(DirtyView::from).collect()),
        dirty_total: dirty.map(|list| list.total),
    };
    // Strings and integers only: there is nothing that could fail.
    serde_json::to_string(&view).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use crate::cli::render::tests::{degraded, healing_report};
    use crate::mirror::report::{Dirty, DirtyList, LogCounts};

    /// The sample of the interface, word for word, and `pid`.
    const GOLDEN: &str = r#"{"schema":1,"mirror":"/data","id":"6f2c91ab","state":"degraded","mode":"sync","epoch":8,"reason":{"id":"MF-0003","errno":"ENOSPC","since":"2026-11-19T14:02:11Z"},"primary":{"path":"/srv/data","state":"online","written_bytes":2221013488107,"errors":0},"replicas":[{"path":"/backup/data","state":"failed","carrier":"inline","lag_ops":0,"lag_bytes":0,"lag_ms":0,"dirty_files":1204,"dirty_bytes":19542101196,"resync_files_opened":0,"written_bytes":2199023255552,"errors":1}],"scan":null,"pid":812}"#;

    #[test]
    fn the_sample_of_the_interface() {
        assert_eq!(super::line(&degraded(), None).trim_end(), GOLDEN);
    }

    /// What the log and a resync add, and the dirty objects, with names of any bytes.
    #[test]
    fn what_was_added() {
        let mut report = healing_report();
        report.paused = true;
        report.unverified = Some("bare".into());
        report.replicas[0].log = Some(LogCounts {
            marks: 12,
            ..LogCounts::default()
        });
        let dirty = |path: &[u8], aspect: &str, range| Dirty {
            path: path.to_vec(),
            aspect: aspect.into(),
            range,
        };
        let list = DirtyList {
            objects: vec![
                dirty(b"d/caf\xe9", "data", Some((4096, Some(8192)))),
                dirty(b"", "tree", None),
            ],
            total: 7,
        };
        let line = super::line(&report, Some(&list));
        let json: serde_json::Value = serde_json::from_str(&line).expect("json");
        assert_eq!(json["state"], "resyncing");
        assert_eq!(json["paused"], true);
        assert_eq!(json["unverified"], "bare");
        let resync = &json["replicas"][0]["resync"];
        assert_eq!(resync["bytes_per_second"], 210 << 20);
        assert_eq!(resync["since"], "2026-11-19T14:02:11Z");
        assert_eq!(json["replicas"][0]["log"]["marks"], 12);
        assert_eq!(json["dirty_total"], 7);
        let one = &json["dirty"][0];
        assert_eq!(one["path_bytes"], "ZC9jYWbp");
        assert_eq!(
            (one["offset"].as_u64(), one["length"].as_u64()),
            (Some(4096), Some(8192))
        );
        assert_eq!(json["dirty"][1]["path"], "");
    }
}
