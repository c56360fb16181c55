// SPDX-License-Identifier: MIT
//! What was typed. clap derive only: no I/O, and no default that needs the machine.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use super::units;

/// Keeps a second copy of a directory, live.
///
/// Every change made through the mount is made to both copies; if one goes away the mount keeps
/// working.
#[derive(Debug, Parser)]
#[command(name = "mirrorfs", version, disable_help_subcommand = true)]
#[command(args_override_self = true, max_term_width = 100)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one, at start-up")]
pub(super) enum Command {
    // What is said of a verb stands at its arguments: a comment here would hide it from --help.
    Mount(MountArgs),
    Umount(UmountArgs),
    Status(StatusArgs),
    Sync(SyncArgs),
    Verify(VerifyArgs),
    /// Set the replica aside, for maintenance on its disk
    ///
    /// While it is paused nothing of mirrorfs touches the replica: unmount its disk, check it,
    /// replace a cable. What it misses is remembered; `mirrorfs resume` copies that.
    Pause(PauseArgs),
    /// Take the replica back after a pause
    ///
    /// What it missed is copied while the mirror is in use; `mirrorfs sync` waits for that.
    Resume(PauseArgs),
    Events(EventsArgs),
    Promote(PromoteArgs),
    /// Print a completion script
    Completions {
        /// For which shell
        shell: Shell,
    },
    /// Print mirrorfs(1), for `man -l -`
    #[command(hide = true)]
    Man,
    /// Explain a message by its id (MF-0003), or print help
    Help {
        /// An id such as MF-0003, or a command
        topic: Option<String>,
    },
}

const MOUNT_AFTER: &str = "\
Every --long=x is also -o long=x, with - and _ the same, so that /etc/fstab says what you type:
  /srv/data  /srv/data  mirrorfs  replica=/backup/data  0 0
Also the usual words: -o ro,nosuid,nodev,noexec,noatime,allow_other,...
Exit: 0 mounted, 1 usage or permission, 2 system error, 32 refused.";

/// Mount a mirror, in the background, once it is true.
///
/// PRIMARY is the directory that serves reads and decides; the replica receives every change.
/// Mount over the primary (`mirrorfs mount /srv/data /srv/data --replica /backup/data`): then
/// nothing can change it behind the mirror's back. The command returns when the mirror is mounted,
/// or says why it is not. An empty replica is filled while the mount is in use; `mirrorfs sync`
/// waits for that.
#[derive(Args, Clone, Debug)]
#[command(after_help = MOUNT_AFTER)]
pub(super) struct MountArgs {
    /// The directory to mirror
    #[arg(value_name = "PRIMARY", value_hint = ValueHint::DirPath)]
    pub(super) primary: PathBuf,
    /// Where to show it; may be PRIMARY itself
    #[arg(value_name = "MOUNTPOINT", value_hint = ValueHint::DirPath)]
    pub(super) mountpoint: PathBuf,

    /// Where the second copy lives (required)
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    #[arg(help_heading = "Replication")]
    pub(super) replica: Vec<PathBuf>,
    /// sync: a write returns when both copies have it; async: when the primary has [default: sync]
    #[arg(long, value_name = "MODE", help_heading = "Replication")]
    pub(super) mode: Option<ModeWord>,
    /// degrade: keep serving; fail: EIO to the application [default: degrade]
    #[arg(long, value_name = "WHAT", help_heading = "Replication")]
    pub(super) on_replica_error: Option<OnReplicaErrorWord>,
    /// Mount even without the replica
    #[arg(long, help_heading = "Replication")]
    pub(super) degraded: bool,
    /// DIR already holds a copy: compare first, repair if it is this mirror's own
    #[arg(long, help_heading = "Replication")]
    pub(super) adopt: bool,
    /// Start over with an empty DIR
    #[arg(long, help_heading = "Replication")]
    pub(super) init: bool,
    /// When the replica cannot hold all metadata [default: fail]
    #[arg(long, value_name = "WHAT", help_heading = "Replication")]
    pub(super) metadata_loss: Option<MetadataLossWord>,
    /// Leave out what is mounted below the two trees
    #[arg(long, help_heading = "Replication")]
    pub(super) one_file_system: bool,
    /// The most names that --adopt may delete from the replica [default: no limit]
    #[arg(
        long,
        value_name = "N",
        help_heading = "Replication",
        hide_short_help = true
    )]
    pub(super) max_delete: Option<u64>,
    /// A replica that does not answer for this long is degraded [default: 5s]
    #[arg(long, value_name = "DUR", value_parser = units::duration)]
    #[arg(help_heading = "Replication", hide_short_help = true)]
    pub(super) replica_timeout: Option<Duration>,
    /// async only: what fsync(2) waits for [default: both]
    #[arg(
        long,
        value_name = "WHAT",
        help_heading = "Replication",
        hide_short_help = true
    )]
    pub(super) fsync: Option<FsyncWord>,
    /// async only: how far the replica may be behind [default: 256M]
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    #[arg(help_heading = "Replication", hide_short_help = true)]
    pub(super) max_lag: Option<u64>,
    /// async only: at --max-lag, wait, or go on and remember [default: block]
    #[arg(
        long,
        value_name = "WHAT",
        help_heading = "Replication",
        hide_short_help = true
    )]
    pub(super) on_congestion: Option<OnCongestionWord>,
    /// Whether what was missed is copied by itself [default: auto]
    #[arg(
        long,
        value_name = "WHEN",
        help_heading = "Replication",
        hide_short_help = true
    )]
    pub(super) resync: Option<ResyncWord>,
    /// Resync and verify only, bytes per second [default: none]
    #[arg(long, value_name = "RATE", value_parser = units::size)]
    #[arg(help_heading = "Replication", hide_short_help = true)]
    pub(super) bwlimit: Option<u64>,

    /// Options as in /etc/fstab, comma separated; `\,` is a comma
    #[arg(short = 'o', value_name = "OPT[,OPT...]", help_heading = "Mount")]
    pub(super) options: Vec<OsString>,
    /// Stay in the foreground
    #[arg(short = 'f', long, help_heading = "Mount")]
    pub(super) foreground: bool,
    /// Check everything, mount nothing
    #[arg(long, help_heading = "Mount", hide_short_help = true)]
    pub(super) fake: bool,

    /// auto, stderr, syslog or a FILE [default: auto]
    #[arg(long, value_name = "WHERE", help_heading = "Logging", value_hint = ValueHint::FilePath)]
    pub(super) log: Option<PathBuf>,
    /// [default: info]
    #[arg(long, value_name = "LEVEL", help_heading = "Logging")]
    pub(super) log_level: Option<LevelWord>,
    /// Say what is done; log at debug level
    #[arg(short = 'v', long, help_heading = "Logging")]
    pub(super) verbose: bool,

    /// PRIMARY may also change behind the mount: seen within a second or so; slower
    ///
    /// The replica does not get such changes: the next mount finds them, --adopt repairs. A change
    /// through the mount that needs what the replica lacks degrades the mirror.
    #[arg(long, help_heading = "Advanced", hide_short_help = true)]
    pub(super) shared_primary: bool,
    /// What the kernel may hold back [default: writethrough]
    ///
    /// writeback: it collects small writes; they reach both copies later, at the latest on close and
    /// fsync. If the daemon is killed before that they are lost.
    #[arg(
        long,
        value_name = "HOW",
        help_heading = "Advanced",
        hide_short_help = true
    )]
    pub(super) cache: Option<CacheWord>,
    /// What the write-intent log survives [default: power]
    #[arg(
        long,
        value_name = "WHAT",
        help_heading = "Advanced",
        hide_short_help = true
    )]
    pub(super) intent: Option<IntentWord>,
    /// How the disks are asked [default: auto]
    #[arg(
        long,
        value_name = "HOW",
        help_heading = "Advanced",
        hide_short_help = true
    )]
    pub(super) io: Option<IoWord>,
    /// Journal and history [default: /var/lib/mirrorfs]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    #[arg(help_heading = "Advanced", hide_short_help = true)]
    pub(super) state_dir: Option<PathBuf>,
    /// How long the kernel may take to begin [default: 30s]
    #[arg(long, value_name = "DUR", value_parser = units::duration)]
    #[arg(help_heading = "Advanced", hide_short_help = true)]
    pub(super) ready_timeout: Option<Duration>,
    /// The descriptor on which the parent waits
    #[arg(long, value_name = "N", hide = true)]
    pub(super) ready_fd: Option<i32>,
}

/// Drain, unmount, and wait for the daemon to end.
#[derive(Args, Clone, Debug)]
pub(super) struct UmountArgs {
    /// The mountpoint of a mirror
    #[arg(value_name = "MOUNTPOINT", value_hint = ValueHint::DirPath)]
    pub(super) mountpoint: PathBuf,
    /// Hide the mount now; end when the last file in it is closed
    #[arg(short = 'l', long)]
    pub(super) lazy: bool,
    /// How long draining may take
    #[arg(long, value_name = "DUR", default_value = "5m", value_parser = units::duration)]
    pub(super) timeout: Duration,
}

/// Say how a mirror is.
///
/// Exit: 0 in-sync, 1 not in-sync, 2 not a mirror or could not tell.
#[derive(Args, Clone, Debug)]
pub(super) struct StatusArgs {
    /// The mountpoint of a mirror; all of them without it
    #[arg(value_name = "MOUNTPOINT", value_hint = ValueHint::DirPath)]
    pub(super) mountpoint: Option<PathBuf>,
    /// For machines: one object per line; the same as --format json
    #[arg(long, conflicts_with_all = ["quiet", "format"])]
    pub(super) json: bool,
    /// text: for people; json: for machines; prometheus: metrics [default: text]
    #[arg(long, value_name = "FORMAT", conflicts_with = "quiet")]
    pub(super) format: Option<FormatWord>,
    /// Say nothing: the exit code tells
    #[arg(short, long, conflicts_with_all = ["watch", "dirty"])]
    pub(super) quiet: bool,
    /// Show rates, lag and events, again every second, until Control-C
    #[arg(short, long)]
    pub(super) watch: bool,
    /// List what may differ
    #[arg(long)]
    pub(super) dirty: bool,
}

impl StatusArgs {
    /// What to print: `--json` is the old word for one of them.
    pub(super) fn format(&self) -> FormatWord {
        let json = self.json.then_some(FormatWord::Json);
        json.or(self.format).unwrap_or(FormatWord::Text)
    }
}

/// Bring the replica in-sync; return when it is.
///
/// With MOUNTPOINT: copies what the replica missed, then makes both copies durable and clears every
/// mark. A replica that failed is tried at once. If this command ends early the daemon goes on.
///
/// With PRIMARY and REPLICA, unmounted: everything is compared and what differs is copied to REPLICA;
/// names that only REPLICA has are deleted there. Both are stamped as equal. Content is compared too,
/// unless the copies were equal when they were last in use: then size and time are believed.
///
/// Exit: 0 in-sync, 1 not in-sync, refused or (--dry-run) different, 2 could not tell, 32 in use,
/// 130 Control-C.
#[derive(Args, Clone, Debug)]
pub(super) struct SyncArgs {
    /// The mountpoint of a mirror; or PRIMARY, unmounted: the copy that is right
    #[arg(value_name = "MOUNTPOINT|PRIMARY", value_hint = ValueHint::DirPath)]
    pub(super) place: PathBuf,
    /// The replica, unmounted: the copy that is to become equal
    #[arg(value_name = "REPLICA", value_hint = ValueHint::DirPath)]
    pub(super) replica: Option<PathBuf>,
    /// Compare everything, not only what is known to be dirty; unmounted, all content
    #[arg(long)]
    pub(super) full: bool,
    /// Begin, and do not wait for the end
    #[arg(long, conflicts_with = "replica")]
    pub(super) no_wait: bool,
    /// Only say what differs
    #[arg(long, requires = "replica")]
    pub(super) dry_run: bool,
    /// Start over with REPLICA, whatever it holds: what PRIMARY does not have is deleted there
    #[arg(long, requires = "replica")]
    pub(super) init: bool,
    /// Both changed without each other: throw away what only this copy (REPLICA) has
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, requires = "replica")]
    pub(super) discard: Option<PathBuf>,
    /// The most names that may be deleted from REPLICA [default: no limit]
    #[arg(long, value_name = "N", requires = "replica")]
    pub(super) max_delete: Option<u64>,
    /// When REPLICA cannot hold all metadata [default: fail]
    #[arg(long, value_name = "WHAT", requires = "replica")]
    pub(super) metadata_loss: Option<MetadataLossWord>,
    /// Leave out what is mounted below PRIMARY
    #[arg(long, requires = "replica")]
    pub(super) one_file_system: bool,
    /// Bytes per second that are compared or copied, at most [default: no limit]
    #[arg(long, value_name = "RATE", value_parser = units::size, requires = "replica")]
    pub(super) bwlimit: Option<u64>,
}

/// Compare the copies; repair only when asked.
///
/// Reads everything on both copies and lists each difference, like diff(1). With MOUNTPOINT the
/// daemon compares while the mirror is in use; with PRIMARY and REPLICA nothing may be mounted.
/// --repair makes the replica equal to the primary; what only the replica has is deleted there.
///
/// Exit: 0 no differences (or all repaired), 1 differences, 2 could not tell, 32 the directories
/// are in use, 130 Control-C.
#[derive(Args, Clone, Debug)]
pub(super) struct VerifyArgs {
    /// The mountpoint of a mirror; or PRIMARY, unmounted
    #[arg(value_name = "MOUNTPOINT|PRIMARY", value_hint = ValueHint::DirPath)]
    pub(super) place: PathBuf,
    /// The replica, unmounted
    #[arg(value_name = "REPLICA", value_hint = ValueHint::DirPath)]
    pub(super) replica: Option<PathBuf>,
    /// Believe size and time: read content only where they differ
    #[arg(long)]
    pub(super) quick: bool,
    /// Make the replica equal to the primary
    #[arg(long)]
    pub(super) repair: bool,
    /// For machines: one object
    #[arg(long)]
    pub(super) json: bool,
    /// Leave out what is mounted below the two trees
    #[arg(long, requires = "replica", hide_short_help = true)]
    pub(super) one_file_system: bool,
    /// Bytes per second that are compared, at most; of a mirror its own --bwlimit [default: no limit]
    #[arg(long, value_name = "RATE", value_parser = units::size)]
    #[arg(requires = "replica", hide_short_help = true)]
    pub(super) bwlimit: Option<u64>,
}

// No doc comment: each of the two verbs has its own.
#[derive(Args, Clone, Debug)]
pub(super) struct PauseArgs {
    /// The mountpoint of a mirror
    #[arg(value_name = "MOUNTPOINT", value_hint = ValueHint::DirPath)]
    pub(super) mountpoint: PathBuf,
}

/// Print changes of state as they happen.
///
/// A line each, until the mirror is unmounted.
#[derive(Args, Clone, Debug)]
pub(super) struct EventsArgs {
    /// The mountpoint of a mirror; all mirrors of yours without it
    #[arg(value_name = "MOUNTPOINT", value_hint = ValueHint::DirPath)]
    pub(super) mountpoint: Option<PathBuf>,
    /// For machines: one object per line
    #[arg(long)]
    pub(super) json: bool,
}

/// Make a replica the primary, unmounted.
///
/// The replica must have everything: its primary is looked at where it was last. Afterwards mount
/// it as PRIMARY with a new replica; the old primary is a stale copy.
///
/// Exit: 0 done, 1 refused, 2 could not tell, 32 in use.
#[derive(Args, Clone, Debug)]
pub(super) struct PromoteArgs {
    /// The copy that is to become the primary
    #[arg(value_name = "REPLICA", value_hint = ValueHint::DirPath)]
    pub(super) replica: PathBuf,
    /// The primary is lost for good and cannot be asked
    #[arg(long)]
    pub(super) primary_lost: bool,
    /// Lose what the replica is known to lack
    #[arg(long)]
    pub(super) force: bool,
}

/// Shells for which a completion script can be printed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Shell {
    pub(super) fn generator(self) -> clap_complete::Shell {
        match self {
            Self::Bash => clap_complete::Shell::Bash,
            Self::Zsh => clap_complete::Shell::Zsh,
            Self::Fish => clap_complete::Shell::Fish,
        }
    }
}

/// Enumerations of words, as clap reads and prints them.
macro_rules! words {
    ($($name:ident: $($variant:ident),+;)+) => {$(
        #[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
        pub(super) enum $name { $($variant),+ }
    )+};
}

words! {
    ModeWord: Sync, Async;
    OnReplicaErrorWord: Degrade, Fail;
    MetadataLossWord: Fail, Warn;
    FsyncWord: Both, Primary;
    OnCongestionWord: Block, PullAhead;
    ResyncWord: Auto, Manual;
    CacheWord: Writethrough, Writeback;
    IntentWord: Power, Crash;
    IoWord: Auto, Uring, Threads;
    FormatWord: Text, Json, Prometheus;
    LevelWord: Error, Warn, Info, Debug, Trace;
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn short_help_fits_a_screen() {
        let mut command = Cli::command();
        command.build();
        for verb in command.get_subcommands_mut() {
            let lines = verb.render_help().to_string().lines().count();
            assert!(lines <= 48, "{}: {lines} lines", verb.get_name());
        }
    }
}
