// SPDX-License-Identifier: MIT
//! From what was typed to what is asked of the session, and a clear no to what this version
//! cannot keep yet: an option that is silently not honoured would be a broken promise.

use super::args::{
    CacheWord, FsyncWord, IntentWord, IoWord, LevelWord, MetadataLossWord, ModeWord, MountArgs,
    OnCongestionWord, OnReplicaErrorWord, ResyncWord,
};
use super::options::Flags;
use crate::session::config::{
    Cache, Fsync, Intent, Io, Log, MetadataLoss, Mode, MountRequest, OnCongestion, OnReplicaError,
    Resync,
};
use crate::session::refusal::Refusal;

/// What the typed words ask for.
///
/// # Errors
/// An option that this version cannot honour.
pub(super) fn request(args: &MountArgs, flags: &Flags) -> Result<MountRequest, Refusal> {
    Ok(MountRequest {
        primary: args.primary.clone(),
        mountpoint: args.mountpoint.clone(),
        replicas: args.replica.clone(),
        mode: match args.mode {
            Some(ModeWord::Async) => Mode::Async,
            _ => Mode::Sync,
        },
        fsync: args.fsync.map(|word| match word {
            FsyncWord::Both => Fsync::Both,
            FsyncWord::Primary => Fsync::Primary,
        }),
        max_lag: args.max_lag,
        on_congestion: args.on_congestion.map(|word| match word {
            OnCongestionWord::Block => OnCongestion::Block,
            OnCongestionWord::PullAhead => OnCongestion::PullAhead,
        }),
        replica_timeout: args.replica_timeout,
        io: match args.io {
            Some(IoWord::Uring) => Io::Uring,
            Some(IoWord::Threads) => Io::Threads,
            _ => Io::Auto,
        },
        cache: match args.cache {
            Some(CacheWord::Writeback) => Cache::Writeback,
            _ => Cache::Writethrough,
        },
        shared_primary: args.shared_primary,
        on_replica_error: match args.on_replica_error {
            Some(OnReplicaErrorWord::Fail) => OnReplicaError::Fail,
            _ => OnReplicaError::Degrade,
        },
        degraded: args.degraded,
        adopt: args.adopt,
        init: args.init,
        metadata_loss: metadata_loss(args.metadata_loss),
        max_delete: args.max_delete,
        one_file_system: args.one_file_system,
        log: log(args),
        log_level: level(args),
        foreground: args.foreground,
        ready_fd: args.ready_fd,
        ready_timeout: args.ready_timeout,
        state_dir: args.state_dir.clone(),
        intent: match args.intent {
            Some(IntentWord::Crash) => Intent::Crash,
            _ => Intent::Power,
        },
        resync: match args.resync {
            Some(ResyncWord::Manual) => Resync::Manual,
            _ => Resync::Auto,
        },
        bwlimit: args.bwlimit,
        flags: flags.0.clone(),
        verbose: args.verbose,
        fake: args.fake,
    })
}

pub(super) fn metadata_loss(word: Option<MetadataLossWord>) -> MetadataLoss {
    match word {
        Some(MetadataLossWord::Warn) => MetadataLoss::Warn,
        _ => MetadataLoss::Fail,
    }
}

fn log(args: &MountArgs) -> Log {
    match args.log.as_deref().map(|p| (p, p.to_str())) {
        None | Some((_, Some("auto"))) => Log::Auto,
        Some((_, Some("stderr"))) => Log::Stderr,
        Some((_, Some("syslog"))) => Log::Syslog,
        Some((path, _)) => Log::File(path.to_owned()),
    }
}

fn level(args: &MountArgs) -> Option<tracing::Level> {
    let said = args.log_level.map(|word| match word {
        LevelWord::Error => tracing::Level::ERROR,
        LevelWord::Warn => tracing::Level::WARN,
        LevelWord::Info => tracing::Level::INFO,
        LevelWord::Debug => tracing::Level::DEBUG,
        LevelWord::Trace => tracing::Level::TRACE,
    });
    said.or(args.verbose.then_some(tracing::Level::DEBUG))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, Command};

    fn ask(words: &str) -> Result<MountRequest, String> {
        let words = format!("mirrorfs mount /p /m {words}");
        let cli = Cli::try_parse_from(words.split_whitespace()).map_err(|e| e.to_string())?;
        match cli.command {
            Command::Mount(args) => request(&args, &Flags::default()).map_err(|e| e.to_string()),
            _ => Err("not mount".into()),
        }
    }

    #[test]
    fn defaults_said_aloud_are_accepted() {
        let all = "--replica /r --mode sync --fsync both --max-lag 256M --on-congestion block \
                   --on-replica-error degrade --replica-timeout 5s --intent power \
                   --cache writethrough --resync auto --io auto --ready-timeout 30s --log auto";
        assert_eq!(ask(all).map(|r| r.replicas.len()), Ok(1));
    }

    #[test]
    fn every_word_arrives() {
        let words = "--mode async --fsync primary --max-lag 1G --on-congestion pull-ahead \
                     --replica-timeout 250ms --io uring --cache writeback --shared-primary";
        let asked = ask(words).map(|r| {
            let mode = (r.mode, r.fsync, r.max_lag, r.on_congestion);
            (mode, r.replica_timeout, r.io, r.cache, r.shared_primary)
        });
        let (fsync, ahead) = (Some(Fsync::Primary), Some(OnCongestion::PullAhead));
        let mode = (Mode::Async, fsync, Some(1 << 30), ahead);
        let timeout = Some(std::time::Duration::from_millis(250));
        assert_eq!(
            asked,
            Ok((mode, timeout, Io::Uring, Cache::Writeback, true))
        );
        let said = ask("--io threads --fsync both --on-congestion block")
            .map(|r| (r.io, r.fsync, r.on_congestion));
        assert_eq!(
            said,
            Ok((Io::Threads, Some(Fsync::Both), Some(OnCongestion::Block)))
        );
        let silent = ask("").map(|r| (r.mode, r.fsync, r.max_lag, r.on_congestion, r.io));
        assert_eq!(silent, Ok((Mode::Sync, None, None, None, Io::Auto)));
    }

    #[test]
    fn the_log_is_a_word_or_a_file() {
        assert_eq!(ask("--log syslog").map(|r| r.log), Ok(Log::Syslog));
        assert_eq!(ask("--log /x").map(|r| r.log), Ok(Log::File("/x".into())));
    }
}
