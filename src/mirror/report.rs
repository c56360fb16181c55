// SPDX-License-Identifier: MIT
//! The state of a mirror as one plain value: what `status` shows and `--json` prints.
//!
//! The daemon fills it in, the control socket carries it, `cli/render.rs` and `cli/json.rs` are
//! two views of it: they cannot disagree. Fields are only ever added, each with a default.

use serde::{Deserialize, Serialize};

use super::state::MirrorState;

/// Why the state is not in-sync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The page of the manual, `MF-0003`.
    pub id: String,
    /// The errno by name, `ENOSPC`, if there was one.
    pub errno: Option<String>,
    /// What happened, in sentences; `{since}` stands for the time, in the reader's zone.
    /// Lines are broken by hand with `\n`.
    pub text: String,
    /// Seconds since 1970.
    pub since: i64,
}

/// The primary as status shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Primary {
    /// As typed at mount.
    pub path: String,
    /// `online`, or what is wrong with it.
    pub state: String,
    /// Bytes written to it since mount.
    pub written_bytes: u64,
    /// I/O errors it gave since mount.
    pub errors: u64,
}

/// A replica as status shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// As typed at mount.
    pub path: String,
    /// `in-sync`, `failed`, `missing`, ...
    pub state: String,
    /// How its operations are carried: `inline` or `ring`.
    pub carrier: String,
    /// Operations acknowledged and not yet on it.
    pub lag_ops: u64,
    /// Bytes acknowledged and not yet on it.
    pub lag_bytes: u64,
    /// Age of the oldest of them.
    pub lag_ms: u64,
    /// Files that may differ.
    pub dirty_files: u64,
    /// Bytes that may differ.
    pub dirty_bytes: u64,
    /// Files the last resync had to open.
    pub resync_files_opened: u64,
    /// Bytes written to it since mount.
    pub written_bytes: u64,
    /// I/O errors it gave since mount.
    pub errors: u64,
}

/// The last full comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scan {
    /// What looked: `verify` or `adopt`.
    pub kind: String,
    /// What it found.
    pub differences: u64,
    /// Files compared.
    pub files: u64,
    /// Bytes compared.
    pub bytes: u64,
    /// How long it took.
    pub duration_ms: u64,
    /// When it ended, in seconds since 1970.
    pub ended: i64,
}

/// Everything there is to say about a mirror.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The mountpoint.
    pub mirror: String,
    /// The mirror's identity, shortened.
    pub id: String,
    /// In one word.
    pub state: MirrorState,
    /// `sync` or `async`.
    pub mode: String,
    /// What fsync waits for (`both`, `primary`); async only.
    #[serde(default)]
    pub fsync: Option<String>,
    /// The async window; async only.
    #[serde(default)]
    pub max_lag_bytes: Option<u64>,
    /// The history's number now.
    pub epoch: u64,
    /// The number at mount, when it has grown since.
    #[serde(default)]
    pub epoch_before: Option<u64>,
    /// Why it is not in-sync.
    #[serde(default)]
    pub reason: Option<Reason>,
    /// What to do about it; `\n` between lines.
    #[serde(default)]
    pub action: Option<String>,
    /// The copy that decides.
    pub primary: Primary,
    /// The copies that follow.
    pub replicas: Vec<Replica>,
    /// The last comparison since mount.
    #[serde(default)]
    pub scan: Option<Scan>,
    /// When it was mounted, in seconds since 1970.
    pub mounted_since: i64,
    /// The daemon.
    pub pid: u32,
    /// `io_uring` or `threads`.
    pub io: String,
    /// Why it is less than was hoped for.
    #[serde(default)]
    pub io_reason: Option<String>,
    /// What was asked of the disks through it.
    #[serde(default)]
    pub io_counters: std::collections::BTreeMap<String, u64>,
    /// How requests reach us: `io_uring` or `device`.
    #[serde(default)]
    pub transport: String,
    /// Why not through rings.
    #[serde(default)]
    pub transport_reason: Option<String>,
    /// Whether PRIMARY may also change behind the mount.
    #[serde(default)]
    pub shared_primary: bool,
    /// `writeback`; nothing is held back without it.
    #[serde(default)]
    pub cache: Option<String>,
    /// How often the kernel asked what since mount, by the request's name.
    #[serde(default)]
    pub requests: std::collections::BTreeMap<String, u64>,
    /// What was answered from memory since mount.
    #[serde(default)]
    pub stat_cache: Option<crate::metrics::CacheCounts>,
}
