// SPDX-License-Identifier: MIT
//! What is said for longer than one answer: the stream of changes, and a comparison.
//!
//! Each runs on the thread of its conversation and ends with it. Whoever listens and goes away is
//! noticed within [`TICK`]; who is slow blocks that thread alone, and is cut off after the time a
//! line may take.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::control::wire::{Answer, Verified, Verify, say};
use super::control::{Controlled, STILL_THERE};
use super::refusal::Refusal;
use crate::mirror::events::{Events, Told};
use crate::mirror::resync::{Progress, Summary};

/// How soon it is noticed that the other side went away.
const TICK: Duration = Duration::from_millis(500);
/// Listeners at one time: each keeps a thread, and there must be some left for `status`.
const LISTENERS_MAX: usize = 8;
/// How long an ending daemon waits for a comparison to notice that it is to stop.
const STOPPING: Duration = Duration::from_secs(30);
/// How long an ending daemon waits for its last words to be said.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Who listens, and who compares: how many, and how they are sent home.
#[derive(Debug, Default)]
pub(super) struct Streams {
    state: Mutex<State>,
    /// One of them ended.
    fewer: Condvar,
}

#[derive(Debug, Default)]
struct State {
    listeners: usize,
    /// Stops the comparison that runs.
    verify: Option<Arc<AtomicBool>>,
    /// The daemon ends: no comparison begins.
    ending: bool,
}

impl Streams {
    /// Stops a comparison and waits until it has ended: what it does to a copy must be over before
    /// the copies are stamped. None begins any more.
    pub(super) fn stop_verify(&self) {
        let until = Instant::now() + STOPPING;
        let mut state = self.state.lock();
        state.ending = true;
        while let Some(stop) = &state.verify {
            stop.store(true, Ordering::Release);
            if self.fewer.wait_until(&mut state, until).timed_out() {
                tracing::warn!("a comparison does not end; it ends with the daemon");
                return;
            }
        }
    }

    /// Waits until every listener was told of the end, for a moment.
    pub(super) fn say_goodbye(&self) {
        let until = Instant::now() + LAST_WORDS;
        let mut state = self.state.lock();
        while state.listeners > 0 {
            if self.fewer.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }

    /// Tells `stream` of every change, until either side ends.
    pub(super) fn listen(&self, stream: &UnixStream, events: &Arc<Events>) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.listeners >= LISTENERS_MAX {
            drop(state);
            let refusal = Refusal::refused(format!(
                "{LISTENERS_MAX} programs listen to this mirror already."
            ))
            .next("End one of them, or ask with: mirrorfs status")
            .id("MF-0036");
            return say(stream, &Answer::Refused { refusal });
        }
        state.listeners += 1;
        drop(state);
        let told = tell(stream, events);
        self.state.lock().listeners -= 1;
        self.fewer.notify_all();
        told
    }

    /// Lets the mirror compare its copies and tells `stream` how that goes. One at a time.
    pub(super) fn verify(
        &self,
        stream: &UnixStream,
        mirror: &dyn Controlled,
        how: Verify,
    ) -> io::Result<()> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut state = self.state.lock();
        if state.ending || state.verify.is_some() {
            let why = if state.ending {
                "the daemon is ending."
            } else {
                "the copies are being compared already."
            };
            drop(state);
            let refusal = Refusal::refused(why).id("MF-0036");
            return say(stream, &Answer::Refused { refusal });
        }
        state.verify = Some(Arc::clone(&stop));
        drop(state);
        let told = compare(stream, mirror, how, &stop);
        self.state.lock().verify = None;
        self.fewer.notify_all();
        told
    }
}

fn tell(stream: &UnixStream, events: &Arc<Events>) -> io::Result<()> {
    let mut listener = events.listen();
    say(stream, &Answer::Listening)?;
    let mut said = Instant::now();
    while !is_gone(stream) {
        let answer = match listener.hear(TICK) {
            Told::Change(change) => Answer::Change { change },
            Told::Lost(count) => Answer::Lost { count },
            Told::Ended => return say(stream, &Answer::Ended),
            Told::Quiet if said.elapsed() < STILL_THERE => continue,
            Told::Quiet => Answer::Alive,
        };
        say(stream, &answer)?;
        said = Instant::now();
    }
    Ok(())
}

fn compare(
    stream: &UnixStream,
    mirror: &dyn Controlled,
    how: Verify,
    stop: &Arc<AtomicBool>,
) -> io::Result<()> {
    let seen = Mutex::new(Progress::default());
    let (done, ended) = bounded(1);
    std::thread::scope(|scope| {
        let (seen, mirror) = (&seen, mirror);
        let work = move || {
            let found = mirror.verify(how, stop, &mut |progress| *seen.lock() = *progress);
            // Received below, whatever happens there.
            drop(done.send(found));
        };
        let thread = std::thread::Builder::new().name("verify".into());
        thread.spawn_scoped(scope, work)?;
        let found = loop {
            match ended.recv_timeout(TICK) {
                Ok(found) => break found,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            let seen = *seen.lock();
            if is_gone(stream) || say(stream, &Answer::from(&seen)).is_err() {
                stop.store(true, Ordering::Release);
            }
        };
        match found {
            Ok(summary) => say_all(stream, summary, how),
            Err(refusal) => say(stream, &Answer::Refused { refusal }),
        }
    })
}

fn say_all(stream: &UnixStream, summary: Summary, how: Verify) -> io::Result<()> {
    let verified = Verified {
        files: summary.files,
        bytes: summary.bytes,
        differences: summary.differences_total,
        repaired: how.repair,
    };
    for difference in summary.differences {
        let found = difference.into();
        say(stream, &Answer::Found { found })?;
    }
    say(stream, &Answer::Verified { verified })
}

/// Whether the other side has closed its end. It has nothing more to say, so that anything that
/// can be read is the end, or a mistake.
fn is_gone(stream: &UnixStream) -> bool {
    let fd = stream.as_fd();
    let mut fds = [PollFd::new(&fd, PollFlags::IN | PollFlags::RDHUP)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    !matches!(
        poll(&mut fds, Some(&now)),
        Ok(0) | Err(rustix::io::Errno::INTR)
    )
}
