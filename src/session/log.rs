// SPDX-License-Identifier: MIT
//! Where `tracing` goes: standard error (with `<N>` for the journal), syslog, or a file.
//!
//! One line per event: `mirrorfs[812]: replica /backup/data failed: ... [MF-0003]`. A field `id`
//! becomes the bracket, other fields follow the message as `name=value`.

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
const FACILITY: u8 = 3 << 3;

enum Sink {
    Stderr {
        prefix: bool,
    },
    /// A background daemon without a syslog: only what went wrong, while the terminal is there.
    Complaints,
    Syslog(UnixDatagram),
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
        Log::Syslog => syslog().map_or(Sink::Complaints, Sink::Syslog),
        Log::Auto | Log::Stderr => stderr(),
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

fn syslog() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    // Asked once whether anyone listens; each line is sent by path, so a restarted syslog is found.
    std::path::Path::new("/dev/log").exists().then_some(())?;
    // A syslog that is stuck must not stop the mirror: the line is lost instead.
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
    fn write(&self, level: Level, text: &str) {
        let pid = std::process::id();
        let severity = severity(level);
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
                let line = format!("<{}>mirrorfs[{pid}]: {text}", FACILITY | severity);
                drop(socket.send_to(line.as_bytes(), "/dev/log"));
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
        self.sink.write(*event.metadata().level(), &line.finish());
    }
}

/// One event as text.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
    id: Option<String>,
}

impl Line {
    fn finish(self) -> String {
        // One event is one line, whatever names are in it.
        let mut text = (self.message + &self.fields).replace('\n', " ");
        if let Some(id) = self.id {
            _ = write!(text, " [{id}]");
        }
        text
    }

    fn take(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            "id" => self.id = Some(value),
            name => _ = write!(self.fields, " {name}={value}"),
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
}
