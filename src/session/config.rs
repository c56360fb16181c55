// SPDX-License-Identifier: MIT
//! What was meant by a mount: every directory resolved, every promise checked, before anything
//! is touched.
//!
//! `cli` says what was typed (`MountRequest`); `MountConfig::resolve` says what that means on this
//! machine, or why it must not be done.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::check;
use super::mountpoint;
use super::refusal::{Refusal, errno_text};
pub use crate::journal::Intent;
pub use crate::mirror::attach::MetadataLoss;
use crate::mirror::failure::Shown;
pub use crate::mirror::settle::OnReplicaError;
use crate::sys::Errno;
use crate::sys::mountinfo;

/// When a write returns. Not bare `sync` and `async`: those words belong to mount(8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// When both copies have it.
    #[default]
    Sync,
    /// When the primary has it.
    Async,
}

/// What `fsync(2)` waits for when a write does not wait for the replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fsync {
    /// Both copies.
    #[default]
    Both,
    /// The primary.
    Primary,
}

/// What happens when the replica is `max-lag` behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnCongestion {
    /// Writes wait.
    #[default]
    Block,
    /// They go on, and what the replica lacks is remembered.
    PullAhead,
}

/// How the disks are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Io {
    /// With what this machine has.
    #[default]
    Auto,
    /// With `io_uring`, or not at all.
    Uring,
    /// With plain calls.
    Threads,
}

/// What the kernel may hold back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// Nothing: a write returns when it was made.
    #[default]
    Writethrough,
    /// Small writes: it collects them and makes them later.
    Writeback,
}

/// When a replica that lacks something is made equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resync {
    /// As soon as it is within reach.
    #[default]
    Auto,
    /// When `mirrorfs sync` or `mirrorfs resume` says so.
    Manual,
}

/// How far the replica may be behind, unless said otherwise, in bytes.
pub const MAX_LAG: u64 = 256 << 20;
/// The least that may be said: a few of the largest writes the kernel makes.
const MAX_LAG_MIN: u64 = 4 << 20;
/// How long a replica may take to answer, unless said otherwise.
pub const REPLICA_TIMEOUT: Duration = Duration::from_secs(5);
/// The least that may be said: a healthy disk takes this long on a bad day.
const REPLICA_TIMEOUT_MIN: Duration = Duration::from_millis(100);

/// Where log lines go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Log {
    /// Standard error in the foreground, syslog otherwise.
    #[default]
    Auto,
    /// Standard error.
    Stderr,
    /// `/dev/log`.
    Syslog,
    /// A file, appended to.
    File(PathBuf),
}

/// When the mount records that a file was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Atime {
    /// The kernel's own choice.
    #[default]
    Relative,
    /// Never.
    Never,
    /// Always.
    Strict,
}

/// The usual words of mount(8). `None`: as the primary's own mount has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountFlags {
    /// `ro`.
    pub read_only: bool,
    /// `suid`, `nosuid`.
    pub suid: Option<bool>,
    /// `dev`, `nodev`.
    pub dev: Option<bool>,
    /// `exec`, `noexec`.
    pub exec: Option<bool>,
    /// `noatime`, `relatime`, `strictatime`.
    pub atime: Atime,
    /// `nodiratime`.
    pub no_diratime: bool,
    /// `sync`, the one of mount(8): every write of every file is synchronous.
    pub sync: bool,
    /// `dirsync`.
    pub dirsync: bool,
    /// `nosymfollow`.
    pub no_symfollow: bool,
    /// `allow_other`, `noallow_other`. `None`: root yes, a user no.
    pub allow_other: Option<bool>,
}

/// What was typed, word for word, with the defaults that need no machine.
#[derive(Clone, Debug, Default)]
pub struct MountRequest {
    /// The directory to mirror.
    pub primary: PathBuf,
    /// Where to show it.
    pub mountpoint: PathBuf,
    /// Its copies. One, in this version.
    pub replicas: Vec<PathBuf>,
    /// When a write returns.
    pub mode: Mode,
    /// What `fsync(2)` waits for; async only.
    pub fsync: Option<Fsync>,
    /// How far the replica may be behind, in bytes; async only.
    pub max_lag: Option<u64>,
    /// What happens when it is that far behind; async only.
    pub on_congestion: Option<OnCongestion>,
    /// How long a replica may take to answer.
    pub replica_timeout: Option<Duration>,
    /// How the disks are asked.
    pub io: Io,
    /// What the kernel may hold back.
    pub cache: Cache,
    /// PRIMARY may also change behind the mount.
    pub shared_primary: bool,
    /// What the application is told when a replica fails.
    pub on_replica_error: OnReplicaError,
    /// Mount without the replica if need be.
    pub degraded: bool,
    /// The replica holds a copy already: compare.
    pub adopt: bool,
    /// Start the mirror's history over.
    pub init: bool,
    /// When the replica cannot hold all metadata.
    pub metadata_loss: MetadataLoss,
    /// The most names a comparison may delete from the replica.
    pub max_delete: Option<u64>,
    /// Leave out what is mounted below the trees.
    pub one_file_system: bool,
    /// Where log lines go.
    pub log: Log,
    /// Which ones.
    pub log_level: Option<tracing::Level>,
    /// Stay in the foreground.
    pub foreground: bool,
    /// The descriptor on which the parent waits for a byte.
    pub ready_fd: Option<i32>,
    /// How long the kernel may take to answer the FUSE handshake.
    pub ready_timeout: Option<Duration>,
    /// Journal and history.
    pub state_dir: Option<PathBuf>,
    /// What the write-intent log survives.
    pub intent: Intent,
    /// When a replica that lacks something is made equal.
    pub resync: Resync,
    /// The most that healing and comparing may read and write, in bytes per second.
    pub bwlimit: Option<u64>,
    /// Words of mount(8).
    pub flags: MountFlags,
    /// Say more.
    pub verbose: bool,
    /// Check everything, mount nothing.
    pub fake: bool,
}

/// A directory: as typed, for messages and `findmnt`; and where it really is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// As typed.
    pub typed: PathBuf,
    /// Absolute, symlinks resolved.
    pub path: PathBuf,
}

/// A replica, which may be away when `degraded` was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Where it is, or would be.
    pub place: Place,
    /// Why it cannot be opened (only with `degraded`).
    pub missing: Option<Errno>,
}

/// What was meant: resolved and checked.
#[derive(Clone, Debug)]
pub struct MountConfig {
    /// The directory to mirror.
    pub primary: Place,
    /// Where to show it; may be the primary itself.
    pub mountpoint: Place,
    /// Its copies: exactly one in this version.
    pub replicas: Vec<Replica>,
    /// When a write returns.
    pub mode: Mode,
    /// What `fsync(2)` waits for; with `Mode::Sync` always both.
    pub fsync: Fsync,
    /// How far the replica may be behind, in bytes; means nothing with `Mode::Sync`.
    pub max_lag: u64,
    /// What happens when it is that far behind; means nothing with `Mode::Sync`.
    pub on_congestion: OnCongestion,
    /// How long a replica may take to answer.
    pub replica_timeout: Duration,
    /// How the disks are asked.
    pub io: Io,
    /// What the kernel may hold back.
    pub cache: Cache,
    /// PRIMARY may also change behind the mount.
    pub shared_primary: bool,
    /// What the application is told when a replica fails.
    pub on_replica_error: OnReplicaError,
    /// Mount without the replica if need be.
    pub degraded: bool,
    /// The replica holds a copy already: compare.
    pub adopt: bool,
    /// Start the mirror's history over.
    pub init: bool,
    /// When the replica cannot hold all metadata.
    pub metadata_loss: MetadataLoss,
    /// The most names a comparison may delete from the replica.
    pub max_delete: Option<u64>,
    /// Leave out what is mounted below the trees.
    pub one_file_system: bool,
    /// Where log lines go; `Auto` is resolved already, a file is absolute.
    pub log: Log,
    /// Which ones.
    pub log_level: tracing::Level,
    /// The user asked for the foreground (a background daemon has `ready_fd` instead).
    pub foreground: bool,
    /// The descriptor on which the parent waits for a byte.
    pub ready_fd: Option<i32>,
    /// How long the kernel may take to answer the FUSE handshake.
    pub ready_timeout: Duration,
    /// Journal and history.
    pub state_dir: PathBuf,
    /// What the write-intent log survives.
    pub intent: Intent,
    /// When a replica that lacks something is made equal.
    pub resync: Resync,
    /// The most that healing and comparing may read and write, in bytes per second.
    pub bwlimit: Option<u64>,
    /// Words of mount(8), with the primary's own filled in: no `None` left.
    pub flags: MountFlags,
    /// We are root and mount by ourselves; otherwise fusermount3 does.
    pub privileged: bool,
    /// Say more.
    pub verbose: bool,
    /// Check everything, mount nothing.
    pub fake: bool,
    /// What was found and done on the way, to be said and logged.
    pub notes: Vec<String>,
}

impl MountConfig {
    /// Resolves and checks a request on this machine. A dead mirrorfs mount at the mountpoint is
    /// taken away first, since nothing behind it could be looked at.
    ///
    /// # Errors
    /// The first thing that is wrong, with what to do about it.
    pub fn resolve(request: MountRequest) -> Result<Self, Refusal> {
        let replica = one_replica(&request)?;
        go_together(&request)?;
        let notes = if request.fake {
            Vec::new()
        } else {
            mountpoint::clear_dead(&request.mountpoint)?
        };
        let primary = Place::existing(&request.primary, "PRIMARY")?;
        let mount_at = Place::existing(&request.mountpoint, "MOUNTPOINT")?;
        let replica = Replica::find(replica, request.degraded)?;
        let log = match request.log {
            Log::Auto if request.ready_fd.is_none() => Log::Stderr,
            Log::Auto => Log::Syslog,
            Log::File(path) => Log::File(absolute(&path)?),
            other => other,
        };
        let mounts =
            mountinfo::read().map_err(|e| Refusal::from_io("cannot read mountinfo", &e))?;
        let privileged = rustix::process::geteuid().is_root();
        let mut config = Self {
            primary,
            mountpoint: mount_at,
            replicas: vec![replica],
            mode: request.mode,
            fsync: request.fsync.unwrap_or_default(),
            max_lag: request.max_lag.unwrap_or(MAX_LAG),
            on_congestion: request.on_congestion.unwrap_or_default(),
            replica_timeout: request.replica_timeout.unwrap_or(REPLICA_TIMEOUT),
            io: request.io,
            cache: request.cache,
            shared_primary: request.shared_primary,
            on_replica_error: request.on_replica_error,
            degraded: request.degraded,
            adopt: request.adopt,
            init: request.init,
            metadata_loss: request.metadata_loss,
            max_delete: request.max_delete,
            one_file_system: request.one_file_system,
            log,
            log_level: request.log_level.unwrap_or(tracing::Level::INFO),
            foreground: request.foreground && request.ready_fd.is_none(),
            ready_fd: request.ready_fd,
            ready_timeout: request.ready_timeout.unwrap_or(Duration::from_secs(30)),
            state_dir: absolute(&request.state_dir.unwrap_or_else(default_state_dir))?,
            intent: request.intent,
            resync: request.resync,
            bwlimit: request.bwlimit,
            flags: request.flags,
            privileged,
            verbose: request.verbose,
            fake: request.fake,
            notes,
        };
        check::trees(&config, &mounts)?;
        config.fill_flags(&mounts);
        Ok(config)
    }

    /// A mirror should look like its primary: what was not said is as the primary's mount has it.
    fn fill_flags(&mut self, mounts: &[mountinfo::Mount]) {
        let own = check::mount_of(&self.primary.path, mounts);
        let lacks = |word: &str| own.as_ref().is_none_or(|m| !m.has(word));
        self.flags.suid = Some(self.flags.suid.unwrap_or(lacks("nosuid")) && self.privileged);
        self.flags.dev = Some(self.flags.dev.unwrap_or(lacks("nodev")) && self.privileged);
        self.flags.exec = Some(self.flags.exec.unwrap_or(lacks("noexec")));
        self.flags.allow_other = Some(self.flags.allow_other.unwrap_or(self.privileged));
    }

    /// What an ordinary user's mirror cannot have, to be said at mount.
    #[must_use]
    pub fn cannot_have(&self) -> Vec<&'static str> {
        if self.privileged {
            return Vec::new();
        }
        let mut list = vec![
            "every file in both copies belongs to you; owners cannot be changed",
            "no device files, no set-user-ID programs, no trusted.* attributes, no file capabilities",
        ];
        if self.flags.allow_other != Some(true) {
            list.insert(0, "only you can see the mount (root cannot either)");
        }
        list
    }
}

impl Place {
    /// A directory that has to be there.
    fn existing(typed: &Path, role: &str) -> Result<Self, Refusal> {
        let path = typed
            .canonicalize()
            .map_err(|e| not_there(typed, role, &e))?;
        if !path.is_dir() {
            return Err(
                Refusal::refused(format!("{role} {} is not a directory.", typed.shown()))
                    .next("mirrorfs mirrors directories: name the one that holds it."),
            );
        }
        Ok(Self {
            typed: typed.to_owned(),
            path,
        })
    }
}

impl Replica {
    fn find(typed: &Path, degraded: bool) -> Result<Self, Refusal> {
        match Place::existing(typed, "the replica") {
            Ok(place) => Ok(Self {
                place,
                missing: None,
            }),
            Err(_) if degraded => {
                let error = typed.canonicalize().err().and_then(|e| e.raw_os_error());
                let place = Place {
                    typed: typed.to_owned(),
                    path: absolute(typed)?,
                };
                let errno = error.map_or(Errno::NOTDIR, Errno::from_raw_os_error);
                Ok(Self {
                    place,
                    missing: Some(errno),
                })
            }
            Err(no) => Err(no.next("To run on one copy for now, add: --degraded")),
        }
    }
}

fn not_there(typed: &Path, role: &str, error: &std::io::Error) -> Refusal {
    let path = typed.shown();
    match error.kind() {
        std::io::ErrorKind::NotFound => Refusal::refused(format!("{role} {path} does not exist."))
            .next(format!(
                "Is its disk mounted? To make it: mkdir {}",
                typed.quoted()
            )),
        std::io::ErrorKind::NotADirectory => {
            Refusal::refused(format!("{role} {path} is not a directory."))
        }
        std::io::ErrorKind::PermissionDenied => {
            Refusal::usage(format!("no permission to reach {role} {path}."))
                .next("Mount as root, or as a user who may enter that directory.")
        }
        _ => Refusal::refused(format!(
            "{role} {path} cannot be used: {}.",
            errno_text(error)
        )),
    }
}

/// Whether what was asked makes sense together. What mode=sync does anyway may be said aloud.
fn go_together(request: &MountRequest) -> Result<(), Refusal> {
    let lag = request.max_lag.unwrap_or(MAX_LAG);
    let timeout = request.replica_timeout.unwrap_or(REPLICA_TIMEOUT);
    let sync = request.mode == Mode::Sync;
    let no = |why: &str, next: &str| Err(Refusal::usage(why).next(next));
    if sync && request.fsync == Some(Fsync::Primary) {
        return no(
            "fsync=primary is for mode=async: with mode=sync every write waits for both copies.",
            "Leave it out, or add: mode=async",
        );
    }
    if sync && lag != MAX_LAG {
        return no(
            "max-lag is for mode=async: with mode=sync the replica is never behind.",
            "Leave it out, or add: mode=async",
        );
    }
    if sync && request.on_congestion == Some(OnCongestion::PullAhead) {
        return no(
            "on-congestion is for mode=async: with mode=sync nothing queues up.",
            "Leave it out, or add: mode=async",
        );
    }
    if lag < MAX_LAG_MIN {
        return no(
            "max-lag is too small: a few of the largest writes must fit.",
            "Say 4M or more; 256M is the default.",
        );
    }
    if timeout < REPLICA_TIMEOUT_MIN {
        return no(
            "replica-timeout is too short: a healthy disk would be given up.",
            "Say 100ms or more; 5s is the default.",
        );
    }
    if request.shared_primary && request.cache == Cache::Writeback {
        return no(
            "shared-primary and cache=writeback exclude each other: with writeback the kernel \
             alone knows how long a file is.",
            "Leave one of them out.",
        );
    }
    Ok(())
}

fn one_replica(request: &MountRequest) -> Result<&Path, Refusal> {
    match request.replicas.as_slice() {
        [one] => Ok(one),
        [] => Err(Refusal::usage("no replica was named.")
            .next("Say where the second copy lives: --replica DIR (in fstab: replica=DIR)")),
        more => Err(Refusal::usage(format!(
            "{} replicas were named; this version keeps one.",
            more.len()
        ))
        .next("Name one --replica only.")),
    }
}

/// Absolute, with the part that exists resolved.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, Refusal> {
    let full = std::path::absolute(path)
        .map_err(|e| Refusal::from_io(&format!("cannot resolve {}", path.shown()), &e))?;
    let mut missing = Vec::new();
    let mut there = full.as_path();
    loop {
        if let Ok(real) = there.canonicalize() {
            return Ok(missing.iter().rev().fold(real, |p, name| p.join(name)));
        }
        match (there.parent(), there.file_name()) {
            (Some(parent), Some(name)) => {
                missing.push(name.to_owned());
                there = parent;
            }
            _ => return Ok(full),
        }
    }
}

/// As systemd says it to a service (`StateDirectory=`, systemd.exec(5)), else where such things are
/// kept.
fn default_state_dir() -> PathBuf {
    let said = std::env::var_os("STATE_DIRECTORY").map(PathBuf::from);
    if let Some(said) = said.filter(|path| path.is_absolute()) {
        return said;
    }
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/mirrorfs");
    }
    let home = || std::env::var_os("HOME").map(|h| Path::new(&h).join(".local/state"));
    std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|p| p.is_absolute())
        .or_else(home)
        .unwrap_or_else(|| PathBuf::from("/var/tmp"))
        .join("mirrorfs")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::refusal::Kind;

    /// What a request is refused for, or nothing.
    fn no(change: impl FnOnce(&mut MountRequest)) -> String {
        let mut request = MountRequest::default();
        change(&mut request);
        go_together(&request).err().map_or_else(String::new, |no| {
            assert_eq!(no.kind, Kind::Usage, "{no}");
            no.to_string()
        })
    }

    fn asynchronous(change: impl FnOnce(&mut MountRequest)) -> String {
        no(|r| {
            r.mode = Mode::Async;
            change(r);
        })
    }

    #[test]
    fn what_is_for_async_is_refused_with_sync() {
        let primary = |r: &mut MountRequest| r.fsync = Some(Fsync::Primary);
        let lag = |r: &mut MountRequest| r.max_lag = Some(1 << 30);
        let ahead = |r: &mut MountRequest| r.on_congestion = Some(OnCongestion::PullAhead);
        for (refused, taken, word) in [
            (no(primary), asynchronous(primary), "fsync=primary"),
            (no(lag), asynchronous(lag), "max-lag"),
            (no(ahead), asynchronous(ahead), "on-congestion"),
        ] {
            assert!(refused.starts_with(word), "{word}: {refused}");
            assert!(refused.contains("add: mode=async"), "{word}: {refused}");
            assert_eq!(taken, "", "{word}");
        }
    }

    #[test]
    fn what_sync_does_anyway_may_be_said() {
        let said = no(|r| {
            r.fsync = Some(Fsync::Both);
            r.max_lag = Some(MAX_LAG);
            r.on_congestion = Some(OnCongestion::Block);
            r.replica_timeout = Some(REPLICA_TIMEOUT);
        });
        assert_eq!(said, "");
    }

    #[test]
    fn numbers_have_a_least() {
        for (bytes, taken) in [(0, false), (MAX_LAG_MIN - 1, false), (MAX_LAG_MIN, true)] {
            let no = asynchronous(|r| r.max_lag = Some(bytes));
            assert_eq!(no.is_empty(), taken, "{bytes}: {no}");
            assert!(taken || no.contains("4M or more"), "{no}");
        }
        for (ms, taken) in [(0, false), (99, false), (100, true)] {
            let no = no(|r| r.replica_timeout = Some(Duration::from_millis(ms)));
            assert_eq!(no.is_empty(), taken, "{ms}: {no}");
            assert!(taken || no.contains("100ms or more"), "{no}");
        }
    }

    #[test]
    fn a_shared_primary_cannot_be_written_back_to() {
        let writeback = |r: &mut MountRequest| r.cache = Cache::Writeback;
        assert_eq!(no(writeback), "");
        let both = no(|r| {
            writeback(r);
            r.shared_primary = true;
        });
        assert!(both.contains("exclude each other"), "{both}");
    }
}
