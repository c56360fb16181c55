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
    /// How far bringing it up to date is, or how far the last time went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resync: Option<Resync>,
    /// What its write-intent log did since mount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogCounts>,
}

/// How far bringing a replica up to date is. Of what is left only that much is known: it may grow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resync {
    /// Whether it is still going on.
    pub running: bool,
    /// Files compared or copied.
    pub files_done: u64,
    /// Directories listed.
    #[serde(default)]
    pub dirs_done: u64,
    /// Files known to be left.
    pub files_left: u64,
    /// Bytes compared or copied.
    pub bytes_done: u64,
    /// Bytes known to be left.
    pub bytes_left: u64,
    /// Of late.
    pub bytes_per_second: u64,
    /// How long it will take, where that can be told.
    pub eta_seconds: Option<u64>,
    /// What is left is being counted still: less is known than there is.
    #[serde(default)]
    pub is_counting: bool,
    /// When it began, in seconds since 1970.
    pub since: i64,
    /// How long it has taken so far, or took, in milliseconds.
    pub elapsed_ms: u64,
}

impl Resync {
    /// How much of how much is done: bytes, or files where there are none to copy.
    #[must_use]
    pub fn share(&self) -> (u64, u64) {
        match self.bytes_done.saturating_add(self.bytes_left) {
            0 => (
                self.files_done,
                self.files_done.saturating_add(self.files_left),
            ),
            bytes => (self.bytes_done, bytes),
        }
    }
}

/// What a write-intent log holds, and did since mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogCounts {
    /// Marks alive.
    pub marks: u64,
    /// Those of them whose objects may differ.
    pub dirty_marks: u64,
    /// Marks appended.
    pub appended: u64,
    /// Times the log was made durable.
    pub flushes: u64,
    /// Marks cleared.
    pub cleared: u64,
    /// Its size in bytes.
    pub bytes: u64,
}

/// What `mirrorfs sync` asked for, by the numbers that the daemon gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Syncs {
    /// All up to this one are honoured: the copies were equal and durable, and no mark was left.
    pub done: u64,
    /// All up to this one are over, honoured or given up.
    pub over: u64,
    /// Why the last one was given up.
    #[serde(default)]
    pub why: Option<String>,
}

/// Names as they are, whatever bytes they have: base64 on the wire.
pub mod raw {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Bytes as text.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    /// Text as bytes.
    ///
    /// # Errors
    /// When it is not base64.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map_err(serde::de::Error::custom)
    }
}

/// An object that may differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dirty {
    /// Relative to the roots, as it was last known; empty for the root. Any bytes but NUL.
    #[serde(with = "raw")]
    pub path: Vec<u8>,
    /// What of it: `node`, `data`, `dir`, `dirdata`, `moved`, `tree`.
    pub aspect: String,
    /// The bytes concerned, of `data`: offset and length; `None` to the end of the file.
    #[serde(default)]
    pub range: Option<(u64, Option<u64>)>,
}

/// The objects that may differ, as many as were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirtyList {
    /// The first of them.
    pub objects: Vec<Dirty>,
    /// All of them.
    pub total: u64,
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
    /// How long the answers took since mount, by the request's name.
    #[serde(default)]
    pub request_times: std::collections::BTreeMap<String, crate::metrics::Times>,
    /// Bytes of files read through the mount since then; those the kernel had are not asked for.
    #[serde(default)]
    pub read_bytes: Option<u64>,
    /// The daemon's version.
    #[serde(default)]
    pub version: Option<String>,
    /// What was answered from memory since mount.
    #[serde(default)]
    pub stat_cache: Option<crate::metrics::CacheCounts>,
    /// Whether the replica is set aside (`mirrorfs pause`).
    #[serde(default)]
    pub paused: bool,
    /// Why the copies are only believed to be equal, in a sentence.
    #[serde(default)]
    pub unverified: Option<String>,
    /// What became of each `mirrorfs sync`.
    #[serde(default)]
    pub syncs: Syncs,
}
