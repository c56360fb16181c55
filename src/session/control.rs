// SPDX-License-Identifier: MIT
//! The control socket: one request, one answer or a stream of them, a line of JSON each.
//!
//! It is named by the device number of the mount, which mountinfo tells without touching the
//! mount, and lives where only the daemon's own user can put a socket. Anyone who reaches it may
//! ask for status, which names nothing that mountinfo does not; everything else takes root or the
//! daemon's own user.
//!
//! `wire` is what is said, `client` the asking end, `session/events.rs` the streams. What `sync`,
//! `pause` and `resume` began goes on when the asker is gone; a comparison ends with whoever wanted
//! to see it.

mod client;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
#[cfg(test)]
mod tests;
pub(super) mod wire;

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::net::sockopt::socket_peercred;

use super::events::Streams;
use super::refusal::Refusal;
use crate::mirror::events::Events;
use crate::mirror::failure::Shown;
use crate::mirror::report::{DirtyList, Report};
use crate::mirror::resync::{Progress, Summary};
use crate::sys::files;
pub use client::{Asked, Changes, Client, Heard, Verifying};
use wire::{Answer, Line, Lines, REQUEST_MAX, Request, say};
pub use wire::{Found, Verified, Verify};

/// How long either side may take to say its line.
pub(super) const LINE_TIMEOUT: Duration = Duration::from_secs(10);
/// A stream says something that often, if only that it is still there.
pub(super) const STILL_THERE: Duration = Duration::from_secs(10);
/// Conversations at one time with those who may do everything; more are turned away by closing.
const CONVERSATIONS_MAX: usize = 32;
/// The same with everyone else together, and with one of them: nobody is kept out by a stranger.
const STRANGERS_MAX: usize = 16;
const STRANGER_MAX: usize = 4;
/// Dirty objects in one answer.
const DIRTY_MAX: usize = 10_000;

/// What the session asks of the mirror it serves. The mirror never unmounts: the session does.
pub trait Controlled: Send + Sync {
    /// Everything there is to say about the mirror now. Called at any time, from any thread.
    fn report(&self) -> Report;

    /// Waits until nothing acknowledged is on its way to a replica any more. The mount is still
    /// in use. Called before an unmount is tried, perhaps several times.
    ///
    /// # Errors
    /// In words, for the log: it does not stop the unmount.
    fn drain(&self) -> Result<(), String> {
        Ok(())
    }

    /// The objects that may differ, as many as `max`: what `status --dirty` lists.
    ///
    /// # Errors
    /// Why that cannot be told.
    fn dirty(&self, max: usize) -> Result<DirtyList, Refusal> {
        _ = max;
        Err(not_yet("status --dirty"))
    }

    /// Begins to make the replica equal to the primary where it is marked, or everywhere if `full`,
    /// then both durable and every mark cleared. Tries a failed replica at once. Returns at once
    /// with the number under which the end is found in the report's `syncs`; goes on whoever asked.
    ///
    /// # Errors
    /// Why it cannot begin: paused, split-brain, ending.
    fn sync(&self, full: bool) -> Result<u64, Refusal> {
        _ = full;
        Err(not_yet("sync"))
    }

    /// Sets the replica aside: when this returns nothing of ours touches it, and what it misses is
    /// remembered. Pausing twice is no error.
    ///
    /// # Errors
    /// Why it cannot be: nothing could remember what it misses.
    fn pause(&self) -> Result<(), Refusal> {
        Err(not_yet("pause"))
    }

    /// Takes a paused replica back and begins to bring it up to date. Without a pause it tries a
    /// failed one at once.
    ///
    /// # Errors
    /// Why it cannot be.
    fn resume(&self) -> Result<(), Refusal> {
        Err(not_yet("resume"))
    }

    /// Where the changes of state are published. They are closed after [`Self::finish`].
    ///
    /// # Errors
    /// When nobody publishes them.
    fn events(&self) -> Result<Arc<Events>, Refusal> {
        Err(not_yet("events"))
    }

    /// Compares the copies while they are in use, on the caller's thread, and repairs the replica if
    /// asked. One at a time. Notes the result as the report's `scan`. Differences are reported that
    /// are still there when nothing is on its way: no false alarm.
    ///
    /// # Errors
    /// Why nothing was found out. When `stop` is set, soon after, of the kind `Interrupted`.
    fn verify(
        &self,
        how: Verify,
        stop: &Arc<AtomicBool>,
        progress: &mut dyn FnMut(&Progress),
    ) -> Result<Summary, Refusal> {
        _ = (how, stop, progress);
        Err(not_yet("verify of a mounted mirror"))
    }

    /// Shuts the gate: when this returns no change is under way and none will begin. Called when
    /// the daemon must stop although files are still open.
    fn close(&self) {}

    /// Whether the replica holds threads that may never come back.
    fn hangs(&self) -> bool {
        false
    }

    /// The last words: no request can come any more. Makes both copies durable and stamps them.
    ///
    /// # Errors
    /// In words, for the log; the next mount compares.
    fn finish(&self) -> Result<(), String> {
        Ok(())
    }
}

/// What no part of this version does.
fn not_yet(what: &str) -> Refusal {
    Refusal::usage(format!("{what} is not in this version yet."))
        .next("What can be done instead: mirrorfs help")
}

/// What the server calls.
pub(super) trait Handler: Send + Sync {
    fn mirror(&self) -> &dyn Controlled;
    fn unmount(&self, lazy: bool) -> Result<(), Refusal>;
}

/// The listening end; the socket's name goes away with it.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) path: PathBuf,
    /// Which socket of that name is ours: once unmounted, the next mount may be given the device
    /// number, and its daemon the name, before we are gone.
    own: Option<(u64, u64)>,
    pub(super) streams: Arc<Streams>,
}

impl Server {
    /// Listens for the mount with this device number.
    pub(super) fn start(device: (u32, u32), handler: Arc<dyn Handler>) -> io::Result<Self> {
        let uid = rustix::process::geteuid().as_raw();
        let mode = if uid == 0 { 0o755 } else { 0o700 };
        let mut made = Err(io::Error::from(io::ErrorKind::NotFound));
        for directory in directories(uid) {
            made = files::own_directory(&directory, mode, uid).map(|()| directory);
            if made.is_ok() {
                break;
            }
        }
        let path = made?.join(name(device));
        // The device number is ours now: a socket of that name is a dead daemon's.
        files::remove_socket(&path)?;
        let listener = UnixListener::bind(&path)?;
        files::set_mode(&path, 0o666)?;
        let streams = Arc::new(Streams::default());
        let talked = Arc::clone(&streams);
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || listen(&listener, &handler, &talked))?;
        let own = files::identity(&path);
        Ok(Self { path, own, streams })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.streams.say_goodbye();
        if self.own.is_none() || files::identity(&self.path) != self.own {
            return;
        }
        if let Err(e) = files::remove_socket(&self.path) {
            tracing::debug!("the socket {} stays behind: {e}", self.path.shown());
        }
    }
}

fn listen(listener: &UnixListener, handler: &Arc<dyn Handler>, streams: &Arc<Streams>) {
    let talks = Arc::new(Talks::default());
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            tracing::debug!("the control socket could not accept");
            continue;
        };
        let Some(talk) = asker(&stream).ok().and_then(|uid| talks.begin(uid)) else {
            continue;
        };
        let handler = Arc::clone(handler);
        let streams = Arc::clone(streams);
        let thread = std::thread::Builder::new().name("control-1".into());
        let started = thread.spawn(move || {
            let _talk = talk;
            if let Err(e) = converse(&stream, &*handler, &streams) {
                tracing::debug!("a control conversation broke off: {e}");
            }
        });
        if let Err(e) = started {
            tracing::debug!("a control conversation could not begin: {e}");
        }
    }
}

/// Who is being talked to.
#[derive(Debug, Default)]
struct Talks(Mutex<Vec<u32>>);

/// One conversation, while it lasts.
#[derive(Debug)]
struct Talk {
    talks: Arc<Talks>,
    uid: u32,
}

impl Talks {
    /// A conversation with `uid`, if there is room for one more of its kind.
    fn begin(self: &Arc<Self>, uid: u32) -> Option<Talk> {
        let mut all = self.0.lock();
        let count = |of: &dyn Fn(u32) -> bool| all.iter().filter(|&&uid| of(uid)).count();
        let room = if is_owner(uid) {
            count(&is_owner) < CONVERSATIONS_MAX
        } else {
            count(&|other| !is_owner(other)) < STRANGERS_MAX
                && count(&|other| other == uid) < STRANGER_MAX
        };
        room.then(|| {
            all.push(uid);
            Talk {
                talks: Arc::clone(self),
                uid,
            }
        })
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let mut all = self.talks.0.lock();
        let own = all.iter().position(|&uid| uid == self.uid);
        own.map(|at| all.swap_remove(at));
    }
}

fn converse(stream: &UnixStream, handler: &dyn Handler, streams: &Streams) -> io::Result<()> {
    stream.set_write_timeout(Some(LINE_TIMEOUT))?;
    let (Line::Whole(line) | Line::Broken(line)) =
        Lines::of(stream).next(REQUEST_MAX, LINE_TIMEOUT)?;
    let asked = Request::read(&line).and_then(|request| match request {
        Request::Status => Ok(request),
        other => allowed(stream).map(|()| other),
    });
    let mirror = handler.mirror();
    let answered = match asked {
        Ok(Request::Status) => Ok(Answer::Report {
            report: Box::new(mirror.report()),
        }),
        Ok(Request::Umount { lazy }) => handler.unmount(lazy).map(|()| Answer::Done),
        Ok(Request::Dirty { max }) => mirror
            .dirty(max.min(DIRTY_MAX))
            .map(|list| Answer::Dirty { list }),
        Ok(Request::Sync { full }) => mirror.sync(full).map(|number| Answer::Begun { number }),
        Ok(Request::Pause) => mirror.pause().map(|()| Answer::Done),
        Ok(Request::Resume) => mirror.resume().map(|()| Answer::Done),
        Ok(Request::Events) => match mirror.events() {
            Ok(events) => return streams.listen(stream, &events),
            Err(refusal) => Err(refusal),
        },
        Ok(Request::Verify { how }) => return streams.verify(stream, mirror, how),
        Err(refusal) => Err(refusal),
    };
    let answer = answered.unwrap_or_else(|refusal| Answer::Refused { refusal });
    say(stream, &answer)
}

/// The user at the other end.
fn asker(stream: &UnixStream) -> io::Result<u32> {
    Ok(socket_peercred(stream)?.uid.as_raw())
}

/// Root, and the user who mounted it.
fn is_owner(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

fn allowed(stream: &UnixStream) -> Result<(), Refusal> {
    let uid = asker(stream).map_err(|e| Refusal::from_io("the caller is not known", &e))?;
    if is_owner(uid) {
        return Ok(());
    }
    Err(
        Refusal::usage("only root or the user who mounted it may do that.")
            .next("Try again as root."),
    )
}

fn name((major, minor): (u32, u32)) -> String {
    format!("{major}-{minor}.sock")
}

/// `$XDG_RUNTIME_DIR`, unless it is somebody else's (su and sudo may leave it behind).
fn runtime_directory() -> Option<PathBuf> {
    let runtime = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    let uid = rustix::process::geteuid().as_raw();
    let ours = files::owned_directory(&runtime, uid).unwrap_or(false);
    ours.then(|| runtime.join("mirrorfs"))
}

/// Where a daemon of `uid` puts its socket: the first of these that can be made.
fn directories(uid: u32) -> Vec<PathBuf> {
    if uid == 0 {
        return vec![PathBuf::from("/run/mirrorfs")];
    }
    let mut list = Vec::new();
    if uid == rustix::process::geteuid().as_raw() {
        list.extend(runtime_directory());
    }
    list.push(PathBuf::from(format!("/run/user/{uid}/mirrorfs")));
    list.push(PathBuf::from(format!("/tmp/mirrorfs-{uid}")));
    // Where even /tmp is closed to users.
    list.extend(home_of(uid).map(|home| home.join(".mirrorfs")));
    list
}

/// The home directory that /etc/passwd gives a user: the same for whoever asks.
fn home_of(uid: u32) -> Option<PathBuf> {
    let passwd = files::read(Path::new("/etc/passwd")).ok()?;
    let passwd = String::from_utf8_lossy(&passwd);
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let this: u32 = fields.next()?.parse().ok()?;
        let home = fields.nth(2)?;
        (this == uid && home.starts_with('/')).then(|| PathBuf::from(home))
    })
}
