// SPDX-License-Identifier: MIT
//! Putting the house together: two roots, their stamps, two trees, a lane, the mirror, and what
//! `status` says of them.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::config::{Cache, Fsync, Io, Mode as When, MountConfig, OnCongestion};
use super::control::Controlled;
use super::refusal::{Kind, Refusal};
use super::signals::Signals;
use super::transport::Transport;
use crate::fs::{Caching, MirrorFs};
use crate::metrics::Requests;
use crate::mirror::attach::decide::{Asked, Typed};
use crate::mirror::attach::refusal::Id;
use crate::mirror::attach::{self, AttachError, Attached, Options};
use crate::mirror::failure::{Named, errno_name, show_path};
use crate::mirror::lane::Lane;
use crate::mirror::replica::{self, Fault};
use crate::mirror::report::{Primary, Reason, Replica, Report, Scan};
use crate::mirror::resync::progress::Line;
use crate::mirror::resync::{How, Summary};
use crate::mirror::state::{MirrorState, ReplicaState};
use crate::mirror::window::Limits;
use crate::mirror::{Degraded, Health, Mirror, Parts, Record};
use crate::store::{Nodes, Side, Source, Target, Tree};
use crate::sys::{Errno, clock, creds};
use crate::uring::{Engine, Rung, Wish};

/// Descriptors kept free for sockets, logs, /dev/fuse and what is between two rings.
const SPARE_DESCRIPTORS: u64 = 32;
/// How long a daemon that is ending may keep us from its trees.
const ENDING: Duration = Duration::from_secs(5);
/// Differences listed on the terminal; the rest are counted.
const LISTED_MAX: usize = 1000;

/// A mirror ready to be mounted.
pub(super) struct House {
    /// What the kernel talks to.
    pub(super) fs: MirrorFs,
    /// What the session talks to.
    pub(super) keeper: Arc<Keeper>,
    /// How requests come to be asked.
    pub(super) transport: Transport,
}

/// Opens both trees, attaches them (seeding, comparing or repairing as asked) and builds the
/// mirror on top.
///
/// # Errors
/// Every reason not to mount, with the next command to type.
pub(super) fn assemble(config: &MountConfig, signals: &Signals) -> Result<House, Refusal> {
    if config.privileged {
        creds::keep_capabilities().map_err(|errno| {
            Refusal::system(format!(
                "the capabilities cannot be kept: {}.",
                Named(errno)
            ))
            .next("root needs CAP_SETPCAP to act for the users of the mount.")
        })?;
    }
    let began = std::time::Instant::now();
    let primary_root = open_root(&config.primary.path, config).map_err(|errno| {
        let path = config.primary.typed.display();
        Refusal::refused(format!(
            "the primary {path} cannot be opened: {}.",
            Named(errno)
        ))
    })?;
    let replica = &config.replicas[0];
    let replica_root = match replica.missing {
        Some(errno) => Err(errno),
        None => open_root(&replica.place.path, config),
    };
    let attached = attach_roots(config, signals, &primary_root, &replica_root)?;
    if let Some(why) = &attached.degraded {
        say(&format!(
            "mounting without the replica: {}  [{}]",
            why.why, why.id
        ));
    }
    let scan = scan_of(config, &attached, began);
    let attached = Arc::new(attached);

    let engine = engine_of(config)?;
    let allowed = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let each = allowed.unwrap_or(1 << 20).saturating_sub(SPARE_DESCRIPTORS) / 2;
    let each = usize::try_from(each).unwrap_or(usize::MAX);
    let primary = Arc::new(Tree::new(Side::Primary, primary_root, each));
    let open = attached.is_in_sync();
    let target: Arc<dyn Target> = match replica_root {
        Ok(root) => Arc::new(Tree::new(Side::Replica, root, each).with_engine(engine.clone())),
        // Never asked for anything: its lane is closed from the start.
        Err(_) => primary.clone(),
    };
    let root = primary.root_stat().map_err(|errno| {
        Refusal::refused(format!("the primary cannot be read: {}.", Named(errno)))
    })?;
    let nodes = Nodes::new(&root);
    let nodes = Arc::new(if config.shared_primary {
        nodes.shared()
    } else {
        nodes
    });
    if !open {
        nodes.leave(Side::Replica);
    }
    let source: Arc<dyn Source> = primary.clone();
    let mirror = Arc::new(Mirror::new(Parts {
        source: source.clone(),
        primary,
        lane: Lane::new(
            replica::Replica::new(target, attached.lacks()),
            limits_of(config),
            open,
        ),
        nodes: nodes.clone(),
        record: attached.clone(),
        policy: config.on_replica_error,
        sync_both: config.fsync == Fsync::Both,
        health: health_of(&attached),
    }));
    start("times", &mirror, Mirror::settle_times)?;
    if config.mode == When::Async {
        start("lane-1", &mirror, Mirror::carry_queued)?;
    }
    let caching = Caching {
        shared_primary: config.shared_primary,
        writeback: config.cache == Cache::Writeback,
    };
    let fs = MirrorFs::new(source, mirror.clone(), nodes, caching);
    let transport = Transport::default();
    let ways = (engine, transport.clone());
    let keeper = Keeper::new(config, mirror, &attached, scan, fs.requests(), ways);
    Ok(House {
        fs,
        keeper: Arc::new(keeper),
        transport,
    })
}

/// Starts one of the mirror's own threads.
fn start(name: &str, mirror: &Arc<Mirror>, work: fn(&Mirror)) -> Result<(), Refusal> {
    let mirror = mirror.clone();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || work(&mirror))
        .map(drop)
        .map_err(|e| Refusal::system(format!("cannot start a thread: {e}.")))
}

/// The way to the disks that was asked for.
fn engine_of(config: &MountConfig) -> Result<Arc<Engine>, Refusal> {
    let wish = match config.io {
        Io::Auto => Wish::Auto,
        Io::Uring => Wish::Uring,
        Io::Threads => Wish::Threads,
    };
    let engine = Engine::new(wish).map_err(|why| {
        Refusal::system(format!("there is no io_uring: {why}."))
            .next("To do without: io=auto, or leave io=uring out.")
    })?;
    if let (_, Some(why)) = engine.stand() {
        tracing::info!("{why}");
    }
    Ok(Arc::new(engine))
}

/// The bounds of what may wait for the replica; nothing may with `mode=sync`.
fn limits_of(config: &MountConfig) -> Option<Limits> {
    (config.mode == When::Async).then_some(Limits {
        bytes: config.max_lag,
        pull_ahead: config.on_congestion == OnCongestion::PullAhead,
        patience: config.replica_timeout,
    })
}

/// A root directory, open for reading. With `one-file-system` it is a private view of the tree
/// without what is mounted below it, where the kernel lets us have one.
fn open_root(path: &Path, config: &MountConfig) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if config.one_file_system && config.privileged {
        use rustix::mount::OpenTreeFlags as Flags;
        let flags_of_view = Flags::OPEN_TREE_CLONE | Flags::OPEN_TREE_CLOEXEC;
        let view = rustix::mount::open_tree(rustix::fs::CWD, path, flags_of_view)?;
        return rustix::fs::openat(&view, c".", flags, Mode::empty());
    }
    rustix::fs::open(path, flags, Mode::empty())
}

fn attach_roots(
    config: &MountConfig,
    signals: &Signals,
    primary: &OwnedFd,
    replica: &Result<OwnedFd, Errno>,
) -> Result<Attached, Refusal> {
    let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
    let typed = Typed {
        primary: bytes(&config.primary.typed),
        mountpoint: bytes(&config.mountpoint.typed),
        replica: bytes(&config.replicas[0].place.typed),
    };
    let asked = Asked {
        degraded: config.degraded,
        adopt: config.adopt,
        init: config.init,
    };
    let how = How {
        kept_max: LISTED_MAX,
        deletions_max: config.max_delete,
        one_file_system: config.one_file_system,
        stop: Some(signals.stop_switch()),
        ..How::default()
    };
    let options = Options {
        asked,
        metadata_loss: config.metadata_loss,
        patience: ENDING,
        how,
    };
    let stderr = std::io::stderr();
    let terminal = stderr.is_terminal();
    let mut line = Line::new(stderr, terminal);
    let attached = attach::attach(
        primary.as_fd(),
        replica.as_ref().map(AsFd::as_fd).map_err(|&errno| errno),
        &typed,
        &options,
        &mut |phase, progress| line.update(phase, progress),
    );
    line.finish();
    attached.map_err(|error| {
        if signals.stopping() {
            return Refusal::new(
                Kind::Interrupted,
                "interrupted; the replica is not complete.",
            )
            .next("To go on: the same command with --adopt");
        }
        refuse(&error)
    })
}

/// Says what a comparison found, and turns the mirror's no into the session's.
fn refuse(error: &AttachError) -> Refusal {
    if let Some(summary) = &error.summary {
        list(summary);
    }
    let no = &error.refusal;
    let mut refusal = Refusal::refused(no.why.clone()).id(&no.id.to_string());
    refusal.next.clone_from(&no.more);
    refusal.next.extend(no.commands());
    refusal
}

/// The differences a comparison found, one line each as `verify` prints them.
fn list(summary: &Summary) {
    for difference in &summary.differences {
        let kind = difference.kind.word();
        say_plainly(&format!(
            "{kind:<9} {}  {}",
            show_path(&difference.path),
            difference.detail
        ));
    }
    let listed = summary.differences.len() as u64;
    if summary.differences_total > listed {
        say_plainly(&format!(
            "... and {} more",
            summary.differences_total - listed
        ));
    }
    for loss in &summary.losses {
        say_plainly(&format!(
            "loss      {}  {}",
            show_path(&loss.path),
            loss.detail
        ));
    }
}

fn say(text: &str) {
    say_plainly(&format!("mirrorfs: {text}"));
}

fn say_plainly(text: &str) {
    // Without a standard error there is nobody to tell.
    let _unheard = writeln!(std::io::stderr(), "{text}");
}

/// What `status` shows as the last scan: a full comparison made for this mount.
fn scan_of(config: &MountConfig, attached: &Attached, began: std::time::Instant) -> Option<Scan> {
    let summary = attached.summary.as_ref().filter(|_| config.adopt)?;
    Some(Scan {
        kind: "adopt".to_owned(),
        differences: summary.differences_total,
        files: summary.files,
        bytes: summary.bytes,
        duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        ended: clock::now().tv_sec,
    })
}

fn health_of(attached: &Attached) -> Health {
    let since = clock::now().tv_sec;
    let degraded = attached.degraded.as_ref().map(|refusal| Degraded {
        fault: Fault {
            errno: None,
            doing: refusal.why.clone(),
        },
        id: refusal.id,
        since,
    });
    Health {
        epoch: attached.epoch(),
        epoch_before: None,
        degraded,
    }
}

impl Record for Attached {
    fn degraded(&self, fault: &Fault) -> crate::sys::Result<u64> {
        self.mark_degraded(fault.errno, &fault.doing)
            .map_err(|failure| failure.errno)?;
        Ok(self.epoch())
    }

    fn closed(&self, in_sync: bool) -> Result<(), String> {
        if self.is_in_sync() && !in_sync {
            return Err("the replica failed and no note of it could be made".to_owned());
        }
        self.close_clean().map_err(|failure| failure.to_string())
    }
}

/// What the session asks of the mirror, answered from the mirror's own counts.
pub(super) struct Keeper {
    mirror: Arc<Mirror>,
    /// What does not change while mounted.
    frame: Report,
    mountpoint: String,
    requests: Arc<Requests>,
    engine: Arc<Engine>,
    transport: Transport,
}

impl Keeper {
    fn new(
        config: &MountConfig,
        mirror: Arc<Mirror>,
        attached: &Attached,
        scan: Option<Scan>,
        requests: Arc<Requests>,
        (engine, transport): (Arc<Engine>, Transport),
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
        };
        Self {
            mirror,
            frame,
            mountpoint: text(&config.mountpoint.typed),
            requests,
            engine,
            transport,
        }
    }

    /// Why it is degraded, and what to do about it.
    fn explain(&self, report: &mut Report, degraded: &Degraded) {
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
        let text = match (state, errno) {
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
        let lag = self.mirror.lag();
        let health = self.mirror.health();
        report.epoch = health.epoch;
        report.epoch_before = health.epoch_before;
        let (bytes, errors) = self.mirror.primary_counts();
        report.primary.written_bytes = bytes;
        report.primary.errors = errors;
        let (bytes, errors) = self.mirror.replica_counts();
        let replica = &mut report.replicas[0];
        replica.written_bytes = bytes;
        replica.errors = errors;
        replica.lag_ops = lag.ops;
        replica.lag_bytes = lag.bytes;
        replica.lag_ms = u64::try_from(lag.age.as_millis()).unwrap_or(u64::MAX);
        report.requests = self.requests.by_name();
        let (rung, why) = self.engine.stand();
        let io = if rung == Rung::Threads {
            "threads"
        } else {
            "io_uring"
        };
        io.clone_into(&mut report.io);
        report.io_reason = why;
        report.io_counters = self.engine.counters().by_name();
        let (transport, why) = self.transport.stand();
        transport.clone_into(&mut report.transport);
        report.transport_reason = why;
        if let Some(degraded) = &health.degraded {
            self.explain(&mut report, degraded);
        }
        report
    }

    fn drain(&self) -> Result<(), String> {
        self.mirror.settle_now();
        Ok(())
    }

    fn close(&self) {
        self.mirror.drain();
    }

    fn finish(&self) -> Result<(), String> {
        self.mirror.close()
    }
}
