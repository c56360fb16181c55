// SPDX-License-Identifier: MIT
//! What the session and `status` ask of the mirror while it is mounted.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use parking_lot::Mutex;

use super::config::{Cache, Fsync, Mode as When, MountConfig};
use super::control::{Controlled, Verify};
use super::refusal::Refusal;
use super::transport::Transport;
use super::verify::Comparison;
use crate::journal::Aspect;
use crate::metrics::Requests;
use crate::mirror::attach::Attached;
use crate::mirror::attach::refusal::Id;
use crate::mirror::events::Events;
use crate::mirror::failure::{Named, Shown, errno_name};
use crate::mirror::replica::Whose;
use crate::mirror::report::{
    Dirty, DirtyList, LogCounts, Primary, Reason, Replica, Report, Scan, Syncs,
};
use crate::mirror::resync::{Difference, Progress, Summary};
use crate::mirror::state::{MirrorState, ReplicaState};
use crate::mirror::{Degraded, Mirror, Verified};
use crate::store::cache::Cache as StatCache;
use crate::sys::{Errno, clock};
use crate::uring::{Engine, Rung};

/// What the session asks of the mirror, answered from the mirror's own counts.
pub(super) struct Keeper {
    heard: Heard,
    attached: Arc<Attached>,
    /// What does not change while mounted.
    frame: Report,
    /// As it is typed in a shell.
    mountpoint: String,
    /// The most that a comparison may read, in bytes per second.
    bytes_per_second: Option<u64>,
    compared: Mutex<Compared>,
}

/// What the last comparison came to.
struct Compared {
    scan: Option<Scan>,
    /// The last one that read all content found differences.
    differed: bool,
}

/// Everyone who has something to say in a report.
pub(super) struct Heard {
    pub(super) mirror: Arc<Mirror>,
    pub(super) requests: Arc<Requests>,
    pub(super) cache: Arc<StatCache>,
    pub(super) engine: Arc<Engine>,
    pub(super) transport: Transport,
}

impl Keeper {
    pub(super) fn new(
        config: &MountConfig,
        heard: Heard,
        attached: Arc<Attached>,
        scan: Option<Scan>,
    ) -> Self {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let ahead = config.mode == When::Async;
        let fsync = match config.fsync {
            Fsync::Both => "both",
            Fsync::Primary => "primary",
        };
        let frame = Report {
            mirror: text(&config.mountpoint.path),
            id: attached.id.to_string(),
            state: MirrorState::InSync,
            mode: if ahead { "async" } else { "sync" }.to_owned(),
            fsync: ahead.then(|| fsync.to_owned()),
            max_lag_bytes: ahead.then_some(config.max_lag),
            epoch: attached.epoch(),
            epoch_before: None,
            reason: None,
            action: None,
            primary: Primary {
                path: text(&config.primary.typed),
                state: "online".to_owned(),
                written_bytes: 0,
                errors: 0,
            },
            replicas: vec![Replica {
                path: text(&config.replicas[0].place.typed),
                state: ReplicaState::InSync.word().to_owned(),
                carrier: "inline".to_owned(),
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
            }],
            scan: None,
            mounted_since: clock::now().tv_sec,
            pid: std::process::id(),
            io: "threads".to_owned(),
            io_reason: None,
            io_counters: BTreeMap::new(),
            transport: String::new(),
            transport_reason: None,
            shared_primary: config.shared_primary,
            cache: (config.cache == Cache::Writeback).then(|| "writeback".to_owned()),
            requests: BTreeMap::new(),
            request_times: BTreeMap::new(),
            read_bytes: None,
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            stat_cache: None,
            paused: false,
            unverified: None,
            syncs: Syncs::default(),
        };
        Self {
            heard,
            attached,
            frame,
            mountpoint: config.mountpoint.path.quoted(),
            bytes_per_second: config.bwlimit,
            compared: Mutex::new(Compared {
                scan,
                differed: false,
            }),
        }
    }

    /// Notes what a comparison has found, for status, and what that says about the mirror.
    fn note(&self, how: Verify, summary: &Summary, left: &[Difference], began: Instant) {
        let count = summary.differences_total;
        let kind = if how.quick {
            "verify --quick"
        } else {
            "verify"
        };
        let scan = Scan {
            kind: kind.to_owned(),
            differences: count,
            files: summary.files,
            bytes: summary.bytes,
            duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            ended: clock::now().tv_sec,
        };
        let mut compared = self.compared.lock();
        compared.scan = Some(scan);
        let first = left.first().or(summary.differences.first());
        let first = first.filter(|_| !how.repair || !left.is_empty());
        if let Some(first) = first {
            compared.differed |= !how.quick;
            let first = first.to_string();
            self.heard
                .mirror
                .set_verified(Verified::Differs { count, first });
        } else if !how.quick || !compared.differed {
            // What was found by reading everything is not believed away.
            compared.differed = false;
            self.attached.verified();
            self.heard.mirror.set_verified(Verified::Yes);
        }
    }

    /// Why nobody can say that the copies are equal, though nothing is known to be missing.
    fn explain_unverified(&self, report: &mut Report) {
        let Verified::Differs { count, first } = self.heard.mirror.health().verified else {
            return;
        };
        let at = &self.mountpoint;
        report.action = Some(format!(
            "Look:   mirrorfs verify {at}\nRepair: mirrorfs verify --repair {at}"
        ));
        report.reason = Some(Reason {
            id: Id::Differences.to_string(),
            errno: None,
            text: format!(
                "The copies differ although nothing is on its way.\n\
                 Differences: {count}, such as {first}"
            ),
            since: report.mounted_since,
        });
    }

    /// Why it is not in-sync, and what to do about it.
    fn explain(&self, report: &mut Report, state: ReplicaState, degraded: Option<Degraded>) {
        let replica = &report.replicas[0];
        let Some(degraded) = degraded else {
            return self.explain_unverified(report);
        };
        let errno = degraded.fault.errno;
        let (doing, at) = (&degraded.fault.doing, &self.mountpoint);
        let remembered = "Files stay readable and writable. Changes since then are on the primary only,\n\
                          and are remembered.";
        let mut text = match (degraded.id, errno) {
            (Id::ReplicaFailed, Some(errno)) => format!(
                "The replica stopped taking writes at {{since}}: {}.\n{remembered} \
                 It happened during: {doing}",
                Named(errno)
            ),
            (Id::PulledAhead, _) => format!(
                "The replica was left behind at {{since}}, when max-lag was \
                 reached (on-congestion=pull-ahead).\n{remembered}"
            ),
            (Id::LogLost, errno) => format!(
                "The write-intent log could not be written at {{since}}{}.\n\
                 Files stay readable and writable. Changes since then are on the primary only,\n\
                 and what may differ is not known any more: the copies have to be compared.",
                errno.map_or(String::new(), |errno| format!(": {}", Named(errno)))
            ),
            (Id::MetadataLoss, _) if degraded.fault.whose == Whose::Lack => format!(
                "The replica cannot hold everything that the primary has: {doing}.\n{remembered}"
            ),
            (Id::Paused, _) => format!("The replica was set aside at {{since}}.\n{remembered}"),
            _ => format!(
                "Mounted without the replica: {doing}\n\
                 Changes are on the primary only, and are remembered."
            ),
        };
        let late = self.heard.mirror.late_calls();
        if late > 0 {
            text += &format!("\nIt still has {late} calls to answer, and may carry them out.");
        }
        let mut action = match (degraded.id, errno) {
            (Id::LogLost, _) => Some(format!(
                "Make sure that there is room for the log, then: mirrorfs umount {at}\n\
                 and mount again with --adopt, which compares and makes the replica equal."
            )),
            (Id::MetadataLoss, _) => Some(format!(
                "Give the replica another file system. Or do without: mirrorfs umount {at}\n\
                 and mount again with --metadata-loss=warn, which does not help for links."
            )),
            (Id::Paused, _) => Some(format!("To take it in again: mirrorfs resume {at}")),
            (Id::PulledAhead, _) => Some(format!(
                "It is taken in again by itself. At once with: mirrorfs sync {at}"
            )),
            (_, Some(Errno::NOSPC | Errno::DQUOT)) => Some(format!(
                "Free space under {}, then run: mirrorfs sync {at}",
                replica.path
            )),
            (_, Some(Errno::ROFS)) => Some(format!(
                "Make {} writable, then run: mirrorfs sync {at}",
                replica.path
            )),
            _ => Some(format!(
                "See what is wrong with {}, then run: mirrorfs sync {at}",
                replica.path
            )),
        };
        if state == ReplicaState::Resyncing {
            action = None;
            text.push_str("\nIt is back, and is being made equal.");
        } else if let Some(no) = self.heard.mirror.why_away() {
            text.push_str(&format!("\nIt cannot be taken in: {} [{}]", no.why, no.id));
            let commands: Vec<_> = no.commands().collect();
            if !commands.is_empty() {
                action = Some(commands.join("\n"));
            }
        }
        report.action = action;
        report.reason = Some(Reason {
            id: degraded.id.to_string(),
            errno: errno.and_then(errno_name).map(str::to_owned),
            text,
            since: degraded.since,
        });
    }
}

impl Controlled for Keeper {
    fn report(&self) -> Report {
        let mut report = self.frame.clone();
        report.scan.clone_from(&self.compared.lock().scan);
        let lag = self.heard.mirror.lag();
        let health = self.heard.mirror.health();
        report.epoch = health.epoch;
        report.epoch_before = health.epoch_before;
        let (bytes, errors) = self.heard.mirror.primary_counts();
        report.primary.written_bytes = bytes;
        report.primary.errors = errors;
        let (bytes, errors) = self.heard.mirror.replica_counts();
        let replica = &mut report.replicas[0];
        replica.written_bytes = bytes;
        replica.errors = errors;
        self.heard.mirror.carrier().clone_into(&mut replica.carrier);
        replica.lag_ops = lag.ops;
        replica.lag_bytes = lag.bytes;
        replica.lag_ms = u64::try_from(lag.age.as_millis()).unwrap_or(u64::MAX);
        report.requests = self.heard.requests.by_name();
        report.request_times = self.heard.requests.times();
        report.read_bytes = Some(self.heard.requests.read_bytes());
        report.stat_cache = Some(self.heard.cache.counts());
        let (rung, why) = self.heard.engine.stand();
        let io = if rung == Rung::Threads {
            "threads"
        } else {
            "io_uring"
        };
        io.clone_into(&mut report.io);
        report.io_reason = why;
        report.io_counters = self.heard.engine.counters().by_name();
        let (transport, why) = self.heard.transport.stand();
        transport.clone_into(&mut report.transport);
        report.transport_reason = why;
        let state = self.heard.mirror.replica_state();
        report.state = MirrorState::of([state]);
        let replica = &mut report.replicas[0];
        state.word().clone_into(&mut replica.state);
        let marks = self.heard.mirror.dirty();
        replica.dirty_files = marks.dirty_objects;
        replica.dirty_bytes = marks.dirty_bytes;
        replica.log = Some(LogCounts {
            marks: marks.alive,
            dirty_marks: marks.dirty,
            appended: marks.appended,
            flushes: marks.flushes,
            cleared: marks.clears,
            bytes: marks.log_bytes,
        });
        replica.resync = self.heard.mirror.healing();
        replica.resync_files_opened = replica.resync.as_ref().map_or(0, |all| all.files_done);
        report.paused = self.heard.mirror.is_paused();
        report.syncs = self.heard.mirror.syncs();
        self.explain(&mut report, state, health.degraded);
        report
    }

    fn drain(&self) -> Result<(), String> {
        self.heard.mirror.settle_now();
        Ok(())
    }

    fn dirty(&self, max: usize) -> Result<DirtyList, Refusal> {
        let doubts = self.heard.mirror.doubts();
        let total = doubts.len() as u64;
        let objects = doubts.into_iter().take(max).map(|(mark, paths)| {
            let (aspect, range) = match mark.aspect {
                Aspect::Node => ("node", None),
                Aspect::Data { start, end } => {
                    let length = (end != u64::MAX).then(|| end.saturating_sub(start));
                    ("data", Some((start, length)))
                }
                Aspect::Dir => ("dir", None),
                Aspect::DirData => ("dirdata", None),
                Aspect::Moved => ("moved", None),
                Aspect::Tree | Aspect::Fill => ("tree", None),
            };
            Dirty {
                path: paths.first().map_or_else(Vec::new, |path| path.to_vec()),
                aspect: aspect.to_owned(),
                range,
            }
        });
        Ok(DirtyList {
            objects: objects.collect(),
            total,
        })
    }

    fn sync(&self, full: bool) -> Result<u64, Refusal> {
        if self.heard.mirror.is_paused() {
            return Err(Refusal::refused("the replica is set aside.").next(format!(
                "To take it in again: mirrorfs resume {}",
                self.mountpoint
            )));
        }
        self.heard.mirror.sync_soon(full).map_err(|errno| {
            let why = match errno {
                Errno::NODATA => "there is no write-intent log: what differs is not known.".into(),
                errno => format!("the write-intent log takes no mark: {}.", Named(errno)),
            };
            Refusal::refused(why).next(format!(
                "To compare everything: mirrorfs umount {}, and mount again with --adopt",
                self.mountpoint
            ))
        })
    }

    fn pause(&self) -> Result<(), Refusal> {
        self.heard.mirror.pause();
        self.heard.mirror.wait_until_left();
        Ok(())
    }

    fn resume(&self) -> Result<(), Refusal> {
        self.heard.mirror.resume();
        Ok(())
    }

    fn events(&self) -> Result<Arc<Events>, Refusal> {
        Ok(self.heard.mirror.events())
    }

    fn verify(
        &self,
        how: Verify,
        stop: &Arc<AtomicBool>,
        progress: &mut dyn FnMut(&Progress),
    ) -> Result<Summary, Refusal> {
        let began = Instant::now();
        let comparison = Comparison {
            mirror: &self.heard.mirror,
            ignore: self.attached.lacks(),
            mountpoint: &self.mountpoint,
            bytes_per_second: self.bytes_per_second,
            how,
            stop,
        };
        let (summary, left) = comparison.run(progress)?;
        self.note(how, &summary, &left, began);
        comparison.answer(summary, &left)
    }

    fn close(&self) {
        self.heard.mirror.drain();
    }

    fn hangs(&self) -> bool {
        self.heard.mirror.late_calls() > 0
    }

    fn finish(&self) -> Result<(), String> {
        self.heard.mirror.close()
    }
}
