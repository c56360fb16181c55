// SPDX-License-Identifier: MIT
//! What the session and `status` ask of the mirror while it is mounted.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::config::{Cache, Fsync, Mode as When, MountConfig};
use super::control::Controlled;
use super::transport::Transport;
use crate::metrics::Requests;
use crate::mirror::attach::Attached;
use crate::mirror::attach::refusal::Id;
use crate::mirror::failure::{Named, errno_name};
use crate::mirror::report::{Primary, Reason, Replica, Report, Scan};
use crate::mirror::state::{MirrorState, ReplicaState};
use crate::mirror::{Degraded, Mirror};
use crate::store::cache::Cache as StatCache;
use crate::sys::{Errno, clock};
use crate::uring::{Engine, Rung};

/// What the session asks of the mirror, answered from the mirror's own counts.
pub(super) struct Keeper {
    heard: Heard,
    /// What does not change while mounted.
    frame: Report,
    mountpoint: String,
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
        attached: &Attached,
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
            }],
            scan,
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
            stat_cache: None,
        };
        Self {
            heard,
            frame,
            mountpoint: text(&config.mountpoint.typed),
        }
    }

    /// Why it is degraded, and what to do about it.
    fn explain(&self, report: &mut Report, degraded: &Degraded) {
        let late = self.heard.mirror.late_calls();
        let replica = &mut report.replicas[0];
        let state = match degraded.id {
            Id::ReplicaFailed => ReplicaState::Failed,
            Id::PulledAhead => ReplicaState::Behind,
            _ => ReplicaState::Missing,
        };
        state.word().clone_into(&mut replica.state);
        report.state = MirrorState::of([state]);
        let errno = degraded.fault.errno;
        let doing = &degraded.fault.doing;
        let mut text = match (state, errno) {
            (ReplicaState::Failed, Some(errno)) => format!(
                "The replica stopped taking writes at {{since}}: {}.\n\
                 Files stay readable and writable. Changes since then are on the primary only;\n\
                 the next mount compares the copies. It happened during: {doing}",
                Named(errno)
            ),
            (ReplicaState::Behind, _) => {
                "The replica was left behind at {since}, when max-lag was \
                 reached (on-congestion=pull-ahead).\n\
                 Files stay readable and writable. Changes since then are on the primary only;\n\
                 the next mount compares the copies."
                    .to_owned()
            }
            _ => format!(
                "Mounted without the replica: {doing}\n\
                 Changes are on the primary only."
            ),
        };
        if late > 0 {
            text += &format!("\nIt still has {late} calls to answer, and may carry them out.");
        }
        let cure = match errno {
            Some(Errno::NOSPC | Errno::DQUOT) => format!("Free space under {}", replica.path),
            Some(Errno::ROFS) => format!("Make {} writable", replica.path),
            _ => format!("See what is wrong with {}", replica.path),
        };
        report.action = Some(format!(
            "{cure}, then: mirrorfs umount {at}\n\
             and mount again with --adopt, which makes the replica equal.",
            at = self.mountpoint
        ));
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
        if let Some(degraded) = &health.degraded {
            self.explain(&mut report, degraded);
        }
        report
    }

    fn drain(&self) -> Result<(), String> {
        self.heard.mirror.settle_now();
        Ok(())
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
