// SPDX-License-Identifier: MIT
//! Where `tracing` goes: the journal, standard error (with `<N>` where a journal reads it), syslog, or
//! a file.
//!
//! One line per event: `mirrorfs[812]: replica /backup/data failed: ... [MF-0003]`. A field `id`
//! becomes the bracket, what the message says in words anyway (`TOLD`) is left out, other fields
//! follow the message as `name=value`. The journal gets every field by itself as well, as
//! `MIRRORFS_NAME=value` (systemd's "Native Journal Protocol").

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::config::{Log, MountConfig};
use super::refusal::Refusal;
use crate::mirror::failure::Shown;
use crate::sys::{clock, files};

/// LOG_DAEMON of syslog(3).
const FACILITY: u8 = 3;
/// Where the journal takes entries with fields, and where it takes what a service writes.
const JOURNAL: &str = "/run/systemd/journal/socket";
const JOURNAL_STDOUT: &[u8] = b"/run/systemd/journal/stdout";
/// Fields of a change of state, whose message says them.
const TOLD: [&str; 3] = ["replica", "from", "to"];

enum Sink {
    Stderr {
        prefix: bool,
    },
    /// A background daemon without a syslog: only what went wrong, while the terminal is there.
    Complaints,
    Syslog(UnixDatagram),
    /// The journal, and which mirror this is.
    Journal(UnixDatagram, String),
    File(Mutex<File>),
}

struct Lines {
    sink: Sink,
    level: Level,
}

/// Sends everything logged from now on where the mount's options say.
///
/// # Errors
/// When the log file cannot be opened. A missing syslog is not worth failing for.
pub fn start(config: &MountConfig) -> Result<(), Refusal> {
    let sink = match &config.log {
        Log::File(path) => {
            let file = files::open_log(path).map_err(|e| {
                Refusal::from_io(&format!("cannot write the log {}", path.shown()), &e)
                    .next("Name another file, or --log=syslog.")
            })?;
            Sink::File(Mutex::new(file))
        }
        Log::Syslog => {
            let syslog = || datagrams("/dev/log").map_or(Sink::Complaints, Sink::Syslog);
            journal(config).unwrap_or_else(syslog)
        }
        Log::Auto | Log::Stderr => {
            let journal = is_read_by_the_journal().then(|| journal(config)).flatten();
            journal.unwrap_or_else(stderr)
        }
    };
    let level = config.log_level;
    let subscriber = tracing_subscriber::registry().with(Lines { sink, level });
    // A second call (tests) keeps the first subscriber.
    let _first = tracing::subscriber::set_global_default(subscriber).is_ok();
    Ok(())
}

fn stderr() -> Sink {
    let stat = rustix::fs::fstat(std::io::stderr()).ok();
    let prefix = stat.is_some_and(|stat| {
        let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        is_journal(&named, stat.st_dev, stat.st_ino)
    });
    Sink::Stderr { prefix }
}

/// Whether `$JOURNAL_STREAM` names this file, as `device:inode` (systemd.exec(5)): the variable is
/// still there when stderr was sent elsewhere.
fn is_journal(named: &str, device: u64, inode: u64) -> bool {
    let numbers = named.split_once(':');
    let numbers = numbers.and_then(|(d, i)| Some((d.parse().ok()?, i.parse().ok()?)));
    numbers == Some((device, inode))
}

fn journal(config: &MountConfig) -> Option<Sink> {
    let mirror = config.mountpoint.path.shown();
    Some(Sink::Journal(datagrams(JOURNAL)?, mirror))
}

/// Whether what we write to stderr goes to the journal itself, and not only to something that
/// `$JOURNAL_STREAM` names.
fn is_read_by_the_journal() -> bool {
    let Ok(Some(peer)) = rustix::net::getpeername(std::io::stderr()) else {
        return false;
    };
    let peer = rustix::net::SocketAddrUnix::try_from(peer);
    peer.is_ok_and(|peer| peer.path_bytes() == Some(JOURNAL_STDOUT))
}

/// A socket for those who listen at `path`. Asked once whether anyone does; each entry is sent by path,
/// so one who was restarted is found.
fn datagrams(path: &str) -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    std::path::Path::new(path).exists().then_some(())?;
    // One who is stuck must not stop the mirror: the line is lost instead.
    socket.set_nonblocking(true).ok()?;
    Some(socket)
}

/// The number syslog gives a level.
fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

impl Sink {
    fn write(&self, level: Level, line: &Line) {
        let pid = std::process::id();
        let severity = severity(level);
        let text = line.finish();
        // A log that cannot be written has nobody to tell: every result below is dropped.
        match self {
            Self::Stderr { prefix: true } => {
                drop(writeln!(std::io::stderr(), "<{severity}>{text}"));
            }
            Self::Stderr { prefix: false } => {
                drop(writeln!(std::io::stderr(), "mirrorfs[{pid}]: {text}"));
            }
            Self::Complaints if level > Level::WARN => {}
            Self::Complaints => drop(writeln!(std::io::stderr(), "mirrorfs: {text}")),
            Self::Syslog(socket) => {
                let line = format!("<{}>mirrorfs[{pid}]: {text}", FACILITY << 3 | severity);
                drop(socket.send_to(line.as_bytes(), "/dev/log"));
            }
            Self::Journal(socket, mirror) => {
                let entry = line.entry(&text, severity, mirror);
                drop(socket.send_to(entry.as_bytes(), JOURNAL));
            }
            Self::File(file) => {
                let time = clock::rfc3339(clock::now().tv_sec);
                let line = format!("{time} mirrorfs[{pid}]: {text}\n");
                drop(file.lock().write_all(line.as_bytes()));
            }
        }
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        *metadata.level() <= self.level
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        self.sink.write(*event.metadata().level(), &line);
    }
}

/// One event as text.
#[derive(Default)]
struct Line {
    message: String,
    id: Option<String>,
    fields: Vec<(&'static str, String)>,
}

impl Line {
    fn finish(&self) -> String {
        let mut text = self.message.clone();
        for (name, value) in &self.fields {
            if !TOLD.contains(name) {
                _ = write!(text, " {name}={value}");
            }
        }
        // One event is one line, whatever names are in it.
        let mut text = text.replace('\n', " ");
        if let Some(id) = &self.id {
            _ = write!(text, " [{id}]");
        }
        text
    }

    /// The same as an entry of the journal, whose message is `text`.
    fn entry(&self, text: &str, severity: u8, mirror: &str) -> String {
        let pid = std::process::id();
        let mut entry = format!(
            "MESSAGE={text}\nPRIORITY={severity}\nSYSLOG_FACILITY={FACILITY}\nSYSLOG_IDENTIFIER=mirrorfs\n\
             SYSLOG_PID={pid}\nMIRRORFS_MIRROR={mirror}\n"
        );
        let id = self.id.iter().map(|id| ("id", id));
        for (name, value) in id.chain(self.fields.iter().map(|(name, value)| (*name, value))) {
            let name = name.to_ascii_uppercase().replace('.', "_");
            _ = writeln!(entry, "MIRRORFS_{name}={}", value.replace('\n', " "));
        }
        entry
    }

    fn take(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            "id" => self.id = Some(value),
            name => self.fields.push((name, value)),
        }
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    struct Kept(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut line = Line::default();
            event.record(&mut line);
            self.0.lock().push(line.finish());
        }
    }

    #[test]
    fn only_the_file_that_is_named_is_the_journal() {
        assert!(is_journal("9:1234", 9, 1234));
        for named in [
            "", "9", "9:", ":1234", "9:1235", "8:1234", "9:1234:1", "x:1234",
        ] {
            assert!(!is_journal(named, 9, 1234), "{named}");
        }
    }

    #[test]
    fn the_id_goes_into_a_bracket_and_lines_stay_one() {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let subscriber = tracing_subscriber::registry().with(Kept(Arc::clone(&kept)));
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(id = "MF-0003", epoch = 8, "replica {} failed", "/b\nc");
        });
        assert_eq!(*kept.lock(), ["replica /b c failed epoch=8 [MF-0003]"]);
    }

    #[test]
    fn the_journal_gets_fields() {
        let line = Line {
            message: "replica /b\nMESSAGE=forged failed".to_owned(),
            id: Some("MF-0003".to_owned()),
            fields: vec![
                ("replica", "/b\nPRIORITY=7".to_owned()),
                ("epoch", "8".to_owned()),
            ],
        };
        let entry = line.entry(&line.finish(), 3, "/data");
        let pid = std::process::id();
        assert_eq!(
            entry.lines().collect::<Vec<_>>(),
            [
                "MESSAGE=replica /b MESSAGE=forged failed epoch=8 [MF-0003]",
                "PRIORITY=3",
                "SYSLOG_FACILITY=3",
                "SYSLOG_IDENTIFIER=mirrorfs",
                &format!("SYSLOG_PID={pid}"),
                "MIRRORFS_MIRROR=/data",
                "MIRRORFS_ID=MF-0003",
                "MIRRORFS_REPLICA=/b PRIORITY=7",
                "MIRRORFS_EPOCH=8",
            ]
        );
    }
}
