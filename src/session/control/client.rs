// SPDX-License-Identifier: MIT
//! The asking end.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::wire::{ANSWER_MAX, Answer, Found, Lines, Request, Verified, Verify, say};
use super::{LINE_TIMEOUT, STILL_THERE, directories, name};
use crate::mirror::events::Change;
use crate::mirror::report::{DirtyList, Report};
use crate::mirror::resync::Progress;
use crate::session::refusal::Refusal;
use crate::sys::files;
use crate::sys::mountinfo::Mount;

/// A stream that is alive says something that soon.
const ALIVE: Duration = STILL_THERE.saturating_add(LINE_TIMEOUT);

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    pid: Option<rustix::process::Pid>,
}

/// Outside: it does not answer (`TimedOut`, or `WouldBlock` where many wait); inside: it says no.
pub type Asked<T> = io::Result<Result<T, Refusal>>;

impl Client {
    /// Reaches the daemon behind a mount.
    ///
    /// # Errors
    /// `ENOENT` or `ECONNREFUSED` when there is none.
    pub fn connect(mount: &Mount) -> io::Result<Self> {
        let owner = mount.user_id().unwrap_or(0);
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for directory in directories(owner) {
            match Self::connect_in(&directory, owner, mount) {
                Ok(client) => return Ok(client),
                Err(e) if last.kind() == io::ErrorKind::NotFound => last = e,
                Err(_) => {}
            }
        }
        Err(last)
    }

    fn connect_in(directory: &Path, owner: u32, mount: &Mount) -> io::Result<Self> {
        if !files::owned_directory(directory, owner)? {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let path = directory.join(name(mount.device()));
        let stream = reach(&path)?;
        let peer = socket_peercred(&stream)?;
        if peer.uid.as_raw() != owner && !peer.uid.is_root() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(Self {
            stream,
            pid: Some(peer.pid),
        })
    }

    /// A connection that was made elsewhere.
    #[cfg(test)]
    pub(super) fn of(stream: UnixStream) -> Self {
        Self { stream, pid: None }
    }

    /// The daemon's process.
    #[must_use]
    pub fn pid(&self) -> Option<rustix::process::Pid> {
        self.pid
    }

    /// Asks how it is.
    ///
    /// # Errors
    /// When the daemon does not answer in time.
    pub fn report(self) -> io::Result<Report> {
        match self.ask(&Request::Status, LINE_TIMEOUT)? {
            Answer::Report { report } => Ok(*report),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Asks it to drain and unmount, and waits that long for the answer.
    ///
    /// # Errors
    /// See [`Asked`].
    pub fn unmount(self, lazy: bool, timeout: Duration) -> Asked<()> {
        done(self.ask(&Request::Umount { lazy }, timeout)?)
    }

    /// Asks which objects may differ, as many as `max`.
    ///
    /// # Errors
    /// See [`Asked`].
    pub fn dirty(self, max: usize) -> Asked<DirtyList> {
        match self.ask(&Request::Dirty { max }, LINE_TIMEOUT)? {
            Answer::Dirty { list } => Ok(Ok(list)),
            other => refused(other),
        }
    }

    /// Asks it to make the replica equal, and everything durable. The number is found in the
    /// report's `syncs` when that is over; going away stops nothing.
    ///
    /// # Errors
    /// See [`Asked`].
    pub fn sync(self, full: bool) -> Asked<u64> {
        match self.ask(&Request::Sync { full }, LINE_TIMEOUT)? {
            Answer::Begun { number } => Ok(Ok(number)),
            other => refused(other),
        }
    }

    /// Asks it to set the replica aside; waits that long until it is.
    ///
    /// # Errors
    /// See [`Asked`].
    pub fn pause(self, timeout: Duration) -> Asked<()> {
        done(self.ask(&Request::Pause, timeout)?)
    }

    /// Asks it to take the replica back.
    ///
    /// # Errors
    /// See [`Asked`].
    pub fn resume(self) -> Asked<()> {
        done(self.ask(&Request::Resume, LINE_TIMEOUT)?)
    }

    /// Asks to be told of every change of state.
    ///
    /// # Errors
    /// See [`Asked`].
    pub fn listen(self) -> Asked<Changes> {
        self.begin(&Request::Events)?;
        let mut lines = Lines::of(self.stream);
        match lines.answer(ANSWER_MAX, ALIVE)? {
            Answer::Listening => Ok(Ok(Changes { lines })),
            other => refused(other),
        }
    }

    /// Asks it to compare the copies; `told` hears of progress and of differences. The comparison
    /// ends with this process, or when `told` says no.
    ///
    /// # Errors
    /// See [`Asked`]; `Interrupted` when `told` did not want to hear more.
    pub fn verify(self, how: Verify, told: &mut dyn FnMut(Verifying) -> bool) -> Asked<Verified> {
        self.begin(&Request::Verify { how })?;
        let mut lines = Lines::of(self.stream);
        loop {
            let say = match lines.answer(ANSWER_MAX, ALIVE)? {
                Answer::Progress { files, bytes } => Verifying::Progress(Progress {
                    files,
                    bytes,
                    ..Progress::default()
                }),
                Answer::Found { found } => Verifying::Found(found),
                Answer::Verified { verified } => return Ok(Ok(verified)),
                other => return refused(other),
            };
            if !told(say) {
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
    }

    fn ask(self, request: &Request, timeout: Duration) -> io::Result<Answer> {
        self.begin(request)?;
        Lines::of(&self.stream).answer(request.answer_max(), timeout)
    }

    /// Says what is wanted.
    fn begin(&self, request: &Request) -> io::Result<()> {
        self.stream.set_write_timeout(Some(LINE_TIMEOUT))?;
        say(&self.stream, &request.line()?)
    }
}

/// Connects, and does not wait longer than for a line where the daemon takes no more conversations.
fn reach(path: &Path) -> io::Result<UnixStream> {
    let kind = SocketType::STREAM;
    let socket = socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(LINE_TIMEOUT))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// What is heard while the copies are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verifying {
    /// How far it is.
    Progress(Progress),
    /// One difference.
    Found(Found),
}

/// What is heard of a mirror's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It changed.
    Change(Change),
    /// That many changes were missed: nobody read them in time.
    Lost(u64),
    /// The mirror was unmounted.
    Ended,
}

/// The changes of state of one mirror.
#[derive(Debug)]
pub struct Changes {
    lines: Lines<UnixStream>,
}

impl Changes {
    /// Waits for the next one.
    ///
    /// # Errors
    /// `UnexpectedEof` when the daemon is gone, `TimedOut` when it says nothing any more.
    pub fn hear(&mut self) -> io::Result<Heard> {
        loop {
            return Ok(match self.lines.answer(ANSWER_MAX, ALIVE)? {
                Answer::Alive => continue,
                Answer::Change { change } => Heard::Change(change),
                Answer::Lost { count } => Heard::Lost(count),
                Answer::Ended => Heard::Ended,
                _ => return Err(io::ErrorKind::InvalidData.into()),
            });
        }
    }
}

fn done(answer: Answer) -> Asked<()> {
    match answer {
        Answer::Done => Ok(Ok(())),
        other => refused(other),
    }
}

fn refused<T>(answer: Answer) -> Asked<T> {
    match answer {
        Answer::Refused { refusal } => Ok(Err(refusal)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
