// SPDX-License-Identifier: MIT
//! `mirrorfs events`: changes of state as they happen, a line each.
//!
//! The grammar is DRBD's: `time verb object key:value ...`, so that an eye and a script can read it.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use serde::Serialize;

use super::args::EventsArgs;
use super::complain;
use super::exit::Exit;
use super::interrupt::Interrupt;
use super::reach::{self, Silence};
use super::render::{as_seen, harmless};
use crate::mirror::events::Change;
use crate::session::control::{Changes, Heard};
use crate::session::refusal::Refusal;
use crate::sys::clock::{self, rfc3339};
use crate::sys::mountinfo::Mount;

/// Lines that wait to be written; the daemon keeps, and counts, what comes beyond that.
const WAITING_MAX: usize = 64;

/// What one mirror has to say.
pub(super) enum Said {
    Heard(Heard),
    /// It will say no more.
    Broken(io::Error),
}

pub(super) fn run(args: &EventsArgs) -> Exit {
    let (exit, no) = match listen(args) {
        Ok(exit) => return exit,
        Err(Silence::No(no)) => (Exit::answer(no.kind), no),
        Err(Silence::Nobody(no)) => (Exit::Unknown, no),
    };
    complain(&no.to_string());
    exit
}

fn listen(args: &EventsArgs) -> Result<Exit, Silence> {
    let interrupt = Interrupt::start().map_err(Silence::Nobody)?;
    let mounts = match &args.mountpoint {
        Some(typed) => vec![reach::one(typed).map_err(Silence::Nobody)?],
        None => ours().map_err(Silence::Nobody)?,
    };
    let (say, said) = bounded(WAITING_MAX);
    for (place, mount) in mounts.iter().enumerate() {
        let changes = reach::ask(mount, |client| client.listen())?;
        // From here on nothing is missed; scripts may wait for this line.
        complain(&format!("listening to {}", shown(mount)));
        let say = say.clone();
        let thread = std::thread::Builder::new().name("listener".into());
        let run = move || follow(changes, place, &say);
        if let Err(e) = thread.spawn(run) {
            let no = Refusal::system(format!("cannot listen: {e}."));
            return Err(Silence::Nobody(no));
        }
    }
    drop(say);
    let several = args.mountpoint.is_none();
    Ok(print(args.json, several, &mounts, &said, &interrupt))
}

/// The mirrors whose daemons answer us.
fn ours() -> Result<Vec<Mount>, Refusal> {
    let mut mounts = reach::all()?;
    let me = rustix::process::geteuid();
    mounts.retain(|mount| me.is_root() || mount.user_id() == Some(me.as_raw()));
    if mounts.is_empty() {
        return Err(Refusal::refused("no mirror of yours is mounted."));
    }
    Ok(mounts)
}

/// Says all that is heard, under the name of its place, until there is no more.
pub(super) fn follow<P: Copy>(mut changes: Changes, place: P, say: &Sender<(P, Said)>) {
    loop {
        let said = match changes.hear() {
            Ok(heard) => Said::Heard(heard),
            Err(e) => Said::Broken(e),
        };
        let last = matches!(said, Said::Heard(Heard::Ended) | Said::Broken(_));
        if say.send((place, said)).is_err() || last {
            return;
        }
    }
}

/// Prints until no mirror has anything to say any more, nobody reads, or Control-C.
fn print(
    json: bool,
    several: bool,
    mounts: &[Mount],
    said: &Receiver<(usize, Said)>,
    interrupt: &Interrupt,
) -> Exit {
    let mut exit = Exit::Success;
    let mut out = io::stdout();
    let escape = out.is_terminal();
    loop {
        let (place, said) = select! {
            recv(said) -> said => match said {
                Ok(said) => said,
                Err(_) => return exit,
            },
            recv(interrupt.pressed()) -> _ => return Exit::Interrupted,
        };
        let mount = &mounts[place];
        let mirror = mount.target.to_string_lossy();
        let heard = match said {
            Said::Heard(heard) => heard,
            Said::Broken(e) => {
                let no = if e.kind() == io::ErrorKind::UnexpectedEof {
                    reach::nobody(mount)
                } else {
                    reach::silent(mount, &e)
                };
                complain(&no.to_string());
                exit = Exit::Unknown;
                continue;
            }
        };
        let line = match &heard {
            Heard::Ended => {
                complain(&format!("{} was unmounted", shown(mount)));
                continue;
            }
            Heard::Change(change) if json => as_json(&View::of(change, &mirror)),
            Heard::Lost(count) if json => as_json(&View::lost(*count, &mirror)),
            Heard::Change(change) => text(change, several.then_some(&mirror), escape),
            Heard::Lost(count) => lost(*count, &mirror, escape),
        };
        if out
            .write_all(line.as_bytes())
            .and_then(|()| out.flush())
            .is_err()
        {
            return exit;
        }
    }
}

fn shown(mount: &Mount) -> String {
    harmless(&mount.target.to_string_lossy())
}

fn clock_ms() -> i64 {
    let now = clock::now();
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

/// `2026-11-19T14:02:11.402Z`.
fn time(ms: i64) -> String {
    let seconds = rfc3339(ms.div_euclid(1000));
    let seconds = seconds.trim_end_matches('Z');
    format!("{seconds}.{:03}Z", ms.rem_euclid(1000))
}

/// A name as a value: a blank or a line's end would begin another word or line.
fn value(name: &str, escape: bool) -> String {
    let name = as_seen(name, escape);
    name.replace(' ', "\\x20").replace('\n', "\\n")
}

/// One change as a line of words; `escape` makes names harmless on a terminal.
pub(super) fn text(change: &Change, mirror: Option<&impl AsRef<str>>, escape: bool) -> String {
    let mut line = format!(
        "{} change replica path:{} state:{}->{}",
        time(change.at_ms),
        value(&change.replica, escape),
        change.from,
        change.to
    );
    let mut add = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            _ = write!(line, " {key}:{value}").is_ok();
        }
    };
    add("errno", change.errno.as_deref().map(|e| value(e, escape)));
    add("epoch", change.epoch.map(|n| n.to_string()));
    add("dirty_bytes", change.dirty_bytes.map(|n| n.to_string()));
    add("mirror", mirror.map(|m| value(m.as_ref(), escape)));
    line + "\n"
}

/// Changes that nobody will hear of, as a line of words.
pub(super) fn lost(count: u64, mirror: &str, escape: bool) -> String {
    let at = time(clock_ms());
    let mirror = value(mirror, escape);
    format!("{at} lost events mirror:{mirror} count:{count}\n")
}

/// One change as a line for machines.
#[cfg(any(test, fuzzing))]
pub(super) fn json(change: &Change) -> String {
    as_json(&View::of(change, "/data"))
}

/// One line for machines.
#[derive(Serialize)]
struct View<'a> {
    schema: u32,
    at: String,
    event: &'a str,
    object: &'a str,
    mirror: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errno: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dirty_bytes: Option<u64>,
    #[serde(skip_serializing_if = "str::is_empty")]
    why: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
}

impl<'a> View<'a> {
    fn of(change: &'a Change, mirror: &'a str) -> Self {
        Self {
            path: Some(&change.replica),
            from: Some(change.from.word()),
            to: Some(change.to.word()),
            id: Some(&change.id),
            errno: change.errno.as_deref(),
            epoch: change.epoch,
            dirty_bytes: change.dirty_bytes,
            why: &change.why,
            count: None,
            event: "change",
            object: "replica",
            at: time(change.at_ms),
            ..Self::lost(0, mirror)
        }
    }

    fn lost(count: u64, mirror: &'a str) -> Self {
        Self {
            schema: 1,
            at: time(clock_ms()),
            event: "lost",
            object: "events",
            mirror,
            path: None,
            from: None,
            to: None,
            id: None,
            errno: None,
            epoch: None,
            dirty_bytes: None,
            why: "",
            count: Some(count),
        }
    }
}

fn as_json(view: &View<'_>) -> String {
    // Strings and integers only: there is nothing that could fail.
    serde_json::to_string(view).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::state::ReplicaState::{self, Failed, InSync, Resyncing};

    fn change(at_ms: i64, from: ReplicaState, to: ReplicaState) -> Change {
        Change {
            at_ms,
            ..Change::now("/backup/data", from, to)
        }
    }

    /// Whatever a daemon or a mountpoint is called: one event stays one line of words.
    #[test]
    fn what_is_hostile_begins_no_word_and_no_line() {
        let hostile = Change {
            errno: Some("E path:/x\n\x1b[2J".into()),
            ..change(0, InSync, Failed)
        };
        for escape in [false, true] {
            let line = text(&hostile, Some(&"/a b\nc"), escape);
            assert_eq!(
                (line.matches(' ').count(), line.matches('\n').count()),
                (6, 1)
            );
            let line = lost(3, "/a b\nc", escape);
            assert_eq!(
                (line.matches(' ').count(), line.matches('\n').count()),
                (4, 1)
            );
        }
        assert!(!text(&hostile, None::<&&str>, true).contains('\x1b'));
        assert!(!lost(3, "/\x1b[2J", true).contains('\x1b'));
    }

    /// The samples of the interface, word for word.
    #[test]
    fn the_lines_of_the_interface() {
        let failed = Change {
            errno: Some("ENOSPC".into()),
            epoch: Some(8),
            ..change(1_795_096_931_402, InSync, Failed)
        };
        let begun = Change {
            dirty_bytes: Some(19_542_101_196),
            ..change(1_795_098_003_118, Failed, Resyncing)
        };
        let equal = change(1_795_098_092_007, Resyncing, InSync);
        let lines = [&failed, &begun, &equal].map(|c| text(c, None::<&&str>, false));
        assert_eq!(
            lines.concat(),
            "\
2026-11-19T14:02:11.402Z change replica path:/backup/data state:in-sync->failed errno:ENOSPC epoch:8
2026-11-19T14:20:03.118Z change replica path:/backup/data state:failed->resyncing dirty_bytes:19542101196
2026-11-19T14:21:32.007Z change replica path:/backup/data state:resyncing->in-sync
"
        );
        let told = Change {
            why: "No space left on device (ENOSPC)".into(),
            ..failed.clone()
        };
        let told: serde_json::Value =
            serde_json::from_str(&as_json(&View::of(&told, "/data"))).expect("json");
        assert_eq!(told["why"], "No space left on device (ENOSPC)");
        assert_eq!(
            as_json(&View::of(&failed, "/data")),
            "{\"schema\":1,\"at\":\"2026-11-19T14:02:11.402Z\",\"event\":\"change\",\
             \"object\":\"replica\",\"mirror\":\"/data\",\"path\":\"/backup/data\",\
             \"from\":\"in-sync\",\"to\":\"failed\",\"id\":\"MF-0003\",\"errno\":\"ENOSPC\",\
             \"epoch\":8}\n"
        );
    }

    /// One change is one line of words, whatever the names are; several mirrors are told apart.
    #[test]
    fn names_stay_one_word() {
        let odd = Change {
            replica: "/a b\nc".into(),
            ..change(0, InSync, Failed)
        };
        assert_eq!(
            text(&odd, Some(&"/m"), false),
            "1970-01-01T00:00:00.000Z change replica path:/a\\x20b\\nc \
             state:in-sync->failed mirror:/m\n"
        );
        let lost = as_json(&View::lost(3, "/m"));
        assert!(lost.contains("\"event\":\"lost\"") && lost.contains("\"count\":3"));
    }
}
