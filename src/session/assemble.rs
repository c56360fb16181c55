// SPDX-License-Identifier: MIT
//! Putting the house together: two roots, their stamps, two trees, a lane, the mirror.

use std::io::{IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::config::{Cache, Fsync, Io, Mode as When, MountConfig, OnCongestion, Resync};
use super::first_look;
use super::keeper::{Heard, Keeper};
use super::pair;
use super::refusal::{Kind, Refusal};
use super::signals::Signals;
use super::transport::Transport;
use crate::fs::{Caching, MirrorFs};
use crate::mirror::attach::decide::{Asked, Typed};
use crate::mirror::attach::log::Keeping;
use crate::mirror::attach::refusal::{Id, Refusal as MirrorRefusal};
use crate::mirror::attach::{self, AttachError, Attached, Options};
use crate::mirror::failure::{Copy, Failure, Named, Shown, show_path};
use crate::mirror::intent::Intent;
use crate::mirror::lane::Lane;
use crate::mirror::replica::{self, Fault, Whose};
use crate::mirror::report::Scan;
use crate::mirror::resync::progress::Line;
use crate::mirror::resync::{How, Lacks, Summary};
use crate::mirror::window::Limits;
use crate::mirror::{Degraded, Health, Mirror, Parts, Reached, Record, Verified, WayBack};
use crate::store::cache::{Cache as StatCache, Cached};
use crate::store::{Nodes, Side, Source, Target, Tree};
use crate::sys::{Errno, clock};
use crate::uring::{Buffers, Engine, Wish};

/// The most that buffers for what waits may take, in bytes; what more may wait is kept apart.
const BUFFERS_MAX: u64 = 4 << 30;
/// Descriptors kept free for sockets, logs, /dev/fuse and what is between two rings.
const SPARE_DESCRIPTORS: u64 = 32;
/// What the stat cache may hold: the attributes and names of about 90,000 files.
const STAT_CACHE_BYTES: usize = 32 << 20;
/// Files that the lane writes past the page cache have a second one: one in so many of all.
const DOUBLES_PART: u64 = 16;
/// How long a daemon that is ending may keep us from its trees.
const ENDING: Duration = Duration::from_secs(5);
/// Differences listed on the terminal; the rest are counted.
const LISTED_MAX: usize = 1000;
/// A mount waits so long for an empty replica to be filled: a small tree is in-sync when it is there.
const FILLS_FOR: Duration = Duration::from_secs(2);

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
    let began = std::time::Instant::now();
    let primary_root = open_root(&config.primary.path, config).map_err(|errno| {
        let path = config.primary.typed.shown();
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
    let mut attached = attach_roots(config, signals, &primary_root, &replica_root)?;
    attached.answers_within = config.replica_timeout;
    if let Some(why) = &attached.degraded {
        say(&format!(
            "mounting without the replica: {}  [{}]",
            why.why, why.id
        ));
    }
    if attached.is_seeding {
        let mountpoint = &config.mountpoint.path;
        say(&format!(
            "the replica is being filled while {} is in use. To wait for it: mirrorfs sync {}",
            mountpoint.shown(),
            mountpoint.quoted()
        ));
    }
    let scan = scan_of(config, &attached, began);
    let attached = Arc::new(attached);

    let engine = engine_of(config)?;
    let journal = attached.take_journal().map(Arc::new);
    let restarted = journal
        .as_ref()
        .is_none_or(|journal| journal.was_restarted());
    let verified = first_look::before(&attached, config, restarted);
    let allowed = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let allowed = allowed.unwrap_or(1 << 20).saturating_sub(SPARE_DESCRIPTORS);
    let ahead = config.mode == When::Async;
    let doubles = if ahead { allowed / DOUBLES_PART } else { 0 };
    let count = |n| usize::try_from(n).unwrap_or(usize::MAX);
    let each = count((allowed - doubles) / 2);
    let own = primary_root.try_clone();
    let own = own.map_err(|e| Refusal::system(e.to_string()))?;
    let primary = Arc::new(Tree::new(Side::Primary, own, each));
    let open = attached.is_in_sync();
    let there = There {
        attached: attached.clone(),
        config: config.clone(),
        engine: engine.clone(),
        descriptors: each,
        doubles: count(doubles),
    };
    let to_heal = attached.is_resyncing();
    let open = open || to_heal;
    let replica = replica_root
        .ok()
        .filter(|_| open)
        .map(|root| there.replica(root));
    let replica = replica.transpose().map_err(|errno| {
        Refusal::system(format!("the replica cannot be opened: {}.", Named(errno)))
    })?;
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
        nodes.leave_replica();
    }
    // Behind our back nothing stays true.
    let room = if config.shared_primary {
        0
    } else {
        STAT_CACHE_BYTES
    };
    let cache = Arc::new(StatCache::new(room, primary.atime()));
    let primary = Arc::new(Cached::new(primary, cache.clone()));
    let source: Arc<dyn Source> = primary.clone();
    let mirror = Arc::new(Mirror::new(Parts {
        source: source.clone(),
        primary,
        lane: lane_of(config, &engine),
        replica,
        to_heal,
        intent: journal.map(|journal| Intent::new(journal, source.clone())),
        way_back: Some(Box::new(there)),
        replica_path: config.replicas[0]
            .place
            .typed
            .to_string_lossy()
            .into_owned(),
        at_once: config.resync == Resync::Auto,
        does_without: config.metadata_loss.does_without(),
        bytes_per_second: config.bwlimit,
        primary_root,
        nodes: nodes.clone(),
        record: attached.clone(),
        policy: config.on_replica_error,
        sync_both: config.fsync == Fsync::Both,
        health: health_of(&attached, verified.clone()),
        patience: config.replica_timeout,
        workers: super::workers(),
    }));
    start("watchdog", &mirror, Mirror::watch)?;
    start("room", &mirror, Mirror::measure)?;
    start("times", &mirror, Mirror::settle_times)?;
    start("tend", &mirror, Mirror::tend)?;
    if verified == Verified::NotYet {
        let (attached, stop) = (attached.clone(), signals.stop_switch());
        first_look::meanwhile(attached, mirror.clone(), config, stop)?;
    }
    let caching = Caching {
        shared_primary: config.shared_primary,
        writeback: config.cache == Cache::Writeback,
    };
    let fs = MirrorFs::new(source, mirror.clone(), nodes, caching);
    let transport = Transport::default();
    let heard = Heard {
        mirror,
        requests: fs.requests(),
        cache,
        engine,
        transport: transport.clone(),
    };
    Ok(House {
        fs,
        keeper: Arc::new(Keeper::new(config, heard, attached, scan)),
        transport,
    })
}

/// The replica of a mirror, and how to get there.
struct There {
    attached: Arc<Attached>,
    config: MountConfig,
    engine: Arc<Engine>,
    /// Descriptors it may use, and how many more for writes past the page cache.
    descriptors: usize,
    doubles: usize,
}

impl There {
    /// The replica below `root`.
    fn replica(&self, root: OwnedFd) -> Result<Reached, Errno> {
        let own = rustix::io::fcntl_dupfd_cloexec(&root, 0)?;
        let tree = Tree::new(Side::Replica, own, self.descriptors).with_engine(self.engine.clone());
        let target: Arc<dyn Target> = Arc::new(if self.config.mode == When::Async {
            tree.past_cache(self.doubles)
        } else {
            tree
        });
        let replica = replica::Replica::new(target, self.attached.lacks());
        Ok(Reached { replica, root })
    }
}

impl WayBack for There {
    fn reach(&self, makes_room: bool) -> Result<Reached, MirrorRefusal> {
        let path = &self.config.replicas[0].place.path;
        let root = self
            .attached
            .reattach(&|| open_root(path, &self.config), makes_room);
        let root = root.map_err(|refusal| *refusal)?;
        let reached = self.replica(root).map_err(|errno| Failure {
            copy: Copy::Replica,
            path: Vec::new(),
            call: "dup",
            errno,
        });
        let begun = reached.and_then(|reached| self.attached.begin_resync().map(|()| reached));
        begun.map_err(|failure| MirrorRefusal {
            id: Id::StampFailed,
            what: String::new(),
            why: format!("{failure}."),
            more: Vec::new(),
            next: Vec::new(),
        })
    }
}

/// Starts one of the mirror's own threads.
fn start(name: &str, mirror: &Arc<Mirror>, work: fn(&Arc<Mirror>)) -> Result<(), Refusal> {
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

/// The way to the replica, and what waits on it.
fn lane_of(config: &MountConfig, engine: &Engine) -> Lane {
    let limits = limits_of(config);
    let lane = Lane::new(limits);
    let Some(limits) = limits else {
        return lane;
    };
    let bytes = usize::try_from(limits.bytes.min(BUFFERS_MAX)).unwrap_or(0);
    match Buffers::new(bytes, engine.counters().clone()) {
        Ok(buffers) => lane.with_buffers(buffers),
        Err(errno) => {
            tracing::warn!("no buffers for what waits: {}", Named(errno));
            lane
        }
    }
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
    let root = rustix::fs::open(path, flags, Mode::empty())?;
    if config.one_file_system {
        return pair::view(root);
    }
    Ok(root)
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
        offline: false,
    };
    let asked = Asked {
        degraded: config.degraded,
        adopt: config.adopt,
        init: config.init,
        discard: false,
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
        log: Some(Keeping {
            state_dir: config.state_dir.clone(),
            intent: config.intent,
        }),
        patience: ENDING,
        // Only healing keeps to a rate.
        fills_for: Some(if config.bwlimit.is_some() {
            Duration::ZERO
        } else {
            FILLS_FOR
        }),
        how,
    };
    let live = options.goes_on_live();
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
            .next(if live {
                "To go on: the same command"
            } else {
                "To go on: the same command with --adopt"
            });
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

fn health_of(attached: &Attached, verified: Verified) -> Health {
    let since = clock::now().tv_sec;
    let degraded = attached.degraded.as_ref().map(|refusal| Degraded {
        fault: Fault::without_errno(Whose::Replica, &refusal.why),
        id: refusal.id,
        since,
    });
    Health {
        epoch: attached.epoch(),
        epoch_before: None,
        verified,
        resyncing: false,
        seeding: attached.is_seeding,
        degraded,
    }
}

impl Record for Attached {
    fn log_lost(&self, fault: &Fault) -> crate::sys::Result<()> {
        self.doubt_all(fault.errno, &fault.doing)
            .map_err(|failure| failure.errno)
    }

    fn healed(&self, lacks: Lacks) -> Result<(), String> {
        // What was only skipped in between has not changed what the stamps say.
        if self.is_in_sync() {
            return Ok(());
        }
        Self::healed(self, lacks).map_err(|failure| failure.to_string())
    }

    fn vouches(&self) -> bool {
        self.is_primary_stamped()
    }

    fn leave(&self) {
        self.leave_replica();
    }

    fn has_left(&self) -> bool {
        Self::has_left(self)
    }

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
