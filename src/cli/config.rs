// SPDX-License-Identifier: MIT
//! From what was typed to what is asked of the session, and a clear no to what this version
//! cannot keep yet: an option that is silently not honoured would be a broken promise.

use std::time::Duration;

use super::args::{
    CacheWord, FsyncWord, IntentWord, IoWord, LevelWord, MetadataLossWord, ModeWord, MountArgs,
    OnCongestionWord, OnReplicaErrorWord, ResyncWord,
};
use super::options::Flags;
use crate::session::config::{Log, MetadataLoss, Mode, MountRequest, OnReplicaError};
use crate::session::refusal::Refusal;

/// What the typed words ask for.
///
/// # Errors
/// An option that this version cannot honour.
pub(super) fn request(args: &MountArgs, flags: &Flags) -> Result<MountRequest, Refusal> {
    only_promises_we_keep(args)?;
    Ok(MountRequest {
        primary: args.primary.clone(),
        mountpoint: args.mountpoint.clone(),
        replicas: args.replica.clone(),
        mode: match args.mode {
            Some(ModeWord::Async) => Mode::Async,
            _ => Mode::Sync,
        },
        on_replica_error: match args.on_replica_error {
            Some(OnReplicaErrorWord::Fail) => OnReplicaError::Fail,
            _ => OnReplicaError::Degrade,
        },
        degraded: args.degraded,
        adopt: args.adopt,
        init: args.init,
        metadata_loss: match args.metadata_loss {
            Some(MetadataLossWord::Warn) => MetadataLoss::Warn,
            _ => MetadataLoss::Fail,
        },
        max_delete: args.max_delete,
        one_file_system: args.one_file_system,
        log: log(args),
        log_level: level(args),
        foreground: args.foreground,
        ready_fd: args.ready_fd,
        ready_timeout: args.ready_timeout,
        state_dir: args.state_dir.clone(),
        flags: flags.0.clone(),
        verbose: args.verbose,
        fake: args.fake,
    })
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

/// The defaults are accepted word for word; other values wait for the version that keeps them.
fn only_promises_we_keep(args: &MountArgs) -> Result<(), Refusal> {
    if args.io == Some(IoWord::Uring) {
        return Err(
            Refusal::system("io=uring is not available in this version yet.")
                .next("Leave it out: io=auto uses what there is."),
        );
    }
    let timeout = args
        .replica_timeout
        .is_some_and(|t| t != Duration::from_secs(5));
    for (asked, option, instead) in [
        (
            args.fsync == Some(FsyncWord::Primary),
            "fsync=primary",
            "fsync waits for both copies",
        ),
        (
            args.max_lag.is_some_and(|l| l != 256 << 20),
            "max-lag",
            "mode=sync has no lag",
        ),
        (
            args.on_congestion == Some(OnCongestionWord::PullAhead),
            "on-congestion=pull-ahead",
            "mode=sync has no queue that could fill",
        ),
        (
            timeout,
            "replica-timeout",
            "a replica is degraded when it answers with an error",
        ),
        (
            args.resync == Some(ResyncWord::Manual),
            "resync=manual",
            "after an outage, compare and repair with --adopt",
        ),
        (
            args.bwlimit.is_some(),
            "bwlimit",
            "copies run at full speed",
        ),
        (
            args.intent == Some(IntentWord::Crash),
            "intent=crash",
            "an unclean stop is always noticed",
        ),
        (
            args.cache == Some(CacheWord::Writeback),
            "cache=writeback",
            "writes go through at once",
        ),
        (
            args.shared_primary,
            "shared-primary",
            "while mounted, change the primary through the mount only; mount over it to be sure",
        ),
    ] {
        if asked {
            return Err(
                Refusal::usage(format!("{option} is not available in this version yet."))
                    .next(format!("Leave it out: {instead}.")),
            );
        }
    }
    Ok(())
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
    fn promises_of_later_versions_are_refused_by_name() {
        for words in [
            "--fsync primary",
            "--max-lag 1G",
            "--on-congestion pull-ahead",
            "--replica-timeout 1s",
            "--resync manual",
            "--bwlimit 1M",
            "--intent crash",
            "--io uring",
            "--cache writeback",
            "--shared-primary",
        ] {
            let no = ask(words).err().unwrap_or_default();
            assert!(
                no.contains("not available in this version"),
                "{words}: {no}"
            );
        }
    }

    #[test]
    fn the_log_is_a_word_or_a_file() {
        assert_eq!(ask("--log syslog").map(|r| r.log), Ok(Log::Syslog));
        assert_eq!(ask("--log /x").map(|r| r.log), Ok(Log::File("/x".into())));
    }
}
