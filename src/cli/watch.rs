// SPDX-License-Identifier: MIT
//! `status --watch`: a mirror, live. On a terminal a screen that is drawn again every second, and
//! when something happens; in a pipe a line a second, and one for each change of state.
//!
//! `screen` says what is to be seen (pure), `terminal` puts it there and takes it away again.

mod screen;
mod terminal;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};

use super::complain;
use super::events::{self, Said, follow};
use super::exit::Exit;
use super::reach;
use crate::session::control::Heard;
use crate::session::refusal::Refusal;
use crate::sys::clock;
use crate::sys::mountinfo::Mount;
use screen::{Event, Track};
use terminal::{Screen, Wish};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);
/// Changes that wait to be shown; the daemon keeps, and counts, what comes beyond that.
const WAITING_MAX: usize = 64;
/// Changes that are kept for the screen.
const EVENTS_MAX: usize = 32;

/// The device number of a mount.
type Device = (u32, u32);

/// What is known of the mirrors that are watched.
struct Watched<'a> {
    typed: Option<&'a Path>,
    tracks: BTreeMap<Device, Track>,
    /// Mirrors that are listened to, or that will not have us listen.
    heard: BTreeSet<Device>,
    events: Vec<Event>,
    say: Sender<(Device, Said)>,
}

/// Shows the mirror at `typed`, or all of them, until Control-C, or until there is nothing to see.
pub(super) fn run(typed: Option<&Path>, is_terminal: bool) -> Exit {
    let wishes = match terminal::listen(is_terminal) {
        Ok(wishes) => wishes,
        Err(no) => {
            complain(&no.to_string());
            return Exit::Unknown;
        }
    };
    let (say, said) = bounded(WAITING_MAX);
    let mut watched = Watched {
        typed,
        tracks: BTreeMap::new(),
        heard: BTreeSet::new(),
        events: Vec::new(),
        say,
    };
    // What there is to complain of is said when the screen is gone.
    let ended = if is_terminal {
        live(&mut watched, &wishes, &said)
    } else {
        lines(&mut watched, &wishes, &said)
    };
    ended.unwrap_or_else(|no| {
        complain(&no.to_string());
        Exit::Unknown
    })
}

impl Watched<'_> {
    /// Looks at all mirrors once.
    fn look(&mut self) -> Result<(), Refusal> {
        let mounts = reach::wanted(self.typed)?;
        self.tracks
            .retain(|known, _| mounts.iter().any(|mount| mount.device() == *known));
        for mount in &mounts {
            let place = mount.device();
            let seen = reach::report(mount);
            if let (Err(_), Some(_)) = (&seen, self.typed) {
                return seen.map(drop);
            }
            self.tracks
                .entry(place)
                .or_insert_with(|| Track::new(mount.target.to_string_lossy().into_owned()))
                .saw(Instant::now(), seen.map_err(|no| no.to_string()));
            if self.heard.insert(place) {
                self.listen(mount, place);
            }
        }
        Ok(())
    }

    /// Its events are shown, too, to whoever may hear them.
    fn listen(&self, mount: &Mount, place: Device) {
        let Ok(changes) = reach::ask(mount, |client| client.listen()) else {
            return;
        };
        let say = self.say.clone();
        let thread = std::thread::Builder::new().name("listener".into());
        // Without the thread there are no events to see; everything else is.
        _ = thread.spawn(move || follow(changes, place, &say)).is_ok();
    }

    /// One more event, if it is one.
    fn note(&mut self, place: Device, said: Said) -> Option<&Event> {
        let heard = match said {
            Said::Heard(heard) => heard,
            Said::Broken(_) => Heard::Ended,
        };
        let mirror = self.tracks.get(&place).map(|track| track.mirror.clone());
        let mirror = mirror.unwrap_or_default();
        let event = match heard {
            Heard::Change(change) => Event::Change { mirror, change },
            Heard::Lost(count) => Event::Lost { mirror, count },
            Heard::Ended => {
                // What is mounted there next is listened to again.
                self.heard.remove(&place);
                return None;
            }
        };
        if self.events.len() == EVENTS_MAX {
            self.events.remove(0);
        }
        self.events.push(event);
        self.events.last()
    }
}

/// What is seen of reports that come one after the other, and of changes: the lines of a screen, and
/// those in a pipe.
#[cfg(any(test, fuzzing))]
pub(super) fn seen(
    reports: &[crate::mirror::report::Report],
    changes: Vec<crate::mirror::events::Change>,
    now: i64,
) -> (Vec<String>, Vec<String>) {
    let mut track = Track::new("/da\x1bta\n".to_owned());
    for (at, report) in super::fuzzing::moments().zip(reports) {
        track.saw(at, Ok(report.clone()));
    }
    let events: Vec<_> = changes
        .into_iter()
        .map(|change| Event::Change {
            mirror: "/da\x1bta".to_owned(),
            change,
        })
        .collect();
    let view = screen::View {
        columns: 100,
        rows: 200,
        wide_letters: true,
    };
    let lines = screen::draw(std::iter::once(&track), &events, &view, now);
    let screen = lines.into_iter().map(|line| line.text).collect();
    (screen, vec![screen::plain(&track)])
}

/// The screen.
fn live(
    watched: &mut Watched<'_>,
    wishes: &Receiver<Wish>,
    said: &Receiver<(Device, Said)>,
) -> Result<Exit, Refusal> {
    // Before the screen is taken: what is no mirror is told where one looks for it.
    watched.look()?;
    let Ok(mut screen) = Screen::enter() else {
        return Ok(Exit::Success);
    };
    let mut next = Instant::now() + EVERY;
    loop {
        let view = screen.view();
        let now = clock::now().tv_sec;
        let lines = screen::draw(watched.tracks.values(), &watched.events, &view, now);
        if screen.show(&lines).is_err() {
            return Ok(Exit::Success);
        }
        let patience = next.saturating_duration_since(Instant::now());
        select! {
            recv(wishes) -> wish => match wish {
                // The loop draws anew.
                Ok(Wish::Resize) => {}
                Ok(Wish::Suspend) => {
                    if screen.suspend().is_err() {
                        return Ok(Exit::Success);
                    }
                }
                Ok(Wish::End) | Err(_) => return Ok(Exit::Interrupted),
            },
            recv(said) -> said => if let Ok((place, said)) = said {
                _ = watched.note(place, said).is_some();
            },
            default(patience) => {
                next = Instant::now() + EVERY;
                watched.look()?;
            }
        }
    }
}

/// A line a second and mirror, and one for each change.
fn lines(
    watched: &mut Watched<'_>,
    wishes: &Receiver<Wish>,
    said: &Receiver<(Device, Said)>,
) -> Result<Exit, Refusal> {
    let mut out = io::stdout();
    let mut say = |text: &str| out.write_all(text.as_bytes()).and_then(|()| out.flush());
    let mut next = Instant::now();
    loop {
        let patience = next.saturating_duration_since(Instant::now());
        let text = select! {
            recv(wishes) -> wish => match wish {
                Ok(Wish::Resize | Wish::Suspend) => String::new(),
                Ok(Wish::End) | Err(_) => return Ok(Exit::Interrupted),
            },
            recv(said) -> said => match said.ok().and_then(|(place, said)| watched.note(place, said)) {
                Some(Event::Change { mirror, change }) => events::text(change, Some(mirror), false),
                Some(Event::Lost { mirror, count }) => events::lost(*count, mirror, false),
                None => String::new(),
            },
            default(patience) => {
                next = Instant::now() + EVERY;
                watched.look()?;
                let now = clock::rfc3339(clock::now().tv_sec);
                let all = watched.tracks.values();
                all.map(|track| format!("{now} {}\n", screen::plain(track))).collect()
            }
        };
        // Nobody reads any more.
        if say(&text).is_err() {
            return Ok(Exit::Success);
        }
    }
}
