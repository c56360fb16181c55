// SPDX-License-Identifier: MIT
//! The control socket: one request, one answer, a line of JSON each.
//!
//! It is named by the device number of the mount, which mountinfo tells without touching the
//! mount, and lives where only the daemon's own user can put a socket. Anyone who reaches it may
//! ask for status; to unmount takes root or the daemon's own user.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use crate::mirror::report::Report;
use crate::sys::files;
use crate::sys::mountinfo::Mount;

/// How long either side may take to say its line.
const LINE_TIMEOUT: Duration = Duration::from_secs(10);
/// No request is longer.
const REQUEST_MAX: u64 = 64 * 1024;
/// Conversations at one time; more are turned away by closing.
const CONVERSATIONS_MAX: usize = 32;

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

/// What is asked over the socket.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
enum Request {
    /// How are you?
    Status,
    /// Drain and unmount.
    Umount {
        /// Hide the mount at once, end when the last file is closed.
        lazy: bool,
    },
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
enum Answer {
    /// To `Status`.
    Report { report: Box<Report> },
    /// Unmounted; the daemon ends when the last file is closed.
    Done,
    /// No.
    Refused { refusal: Refusal },
}

/// What the server calls.
pub(super) trait Handler: Send + Sync {
    fn report(&self) -> Report;
    fn unmount(&self, lazy: bool) -> Result<(), Refusal>;
}

/// The listening end; the socket's name goes away with it.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) path: PathBuf,
    /// Which socket of that name is ours: once unmounted, the next mount may be given the device
    /// number, and its daemon the name, before we are gone.
    own: Option<(u64, u64)>,
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
        std::thread::Builder::new()
            .name("control".into())
            .spawn(move || listen(&listener, &handler))?;
        let own = files::identity(&path);
        Ok(Self { path, own })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.own.is_none() || files::identity(&self.path) != self.own {
            return;
        }
        if let Err(e) = files::remove_socket(&self.path) {
            tracing::debug!("the socket {} stays behind: {e}", self.path.display());
        }
    }
}

fn listen(listener: &UnixListener, handler: &Arc<dyn Handler>) {
    let talking = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            tracing::debug!("the control socket could not accept");
            continue;
        };
        if talking.fetch_add(1, Ordering::AcqRel) >= CONVERSATIONS_MAX {
            talking.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let (handler, counter) = (Arc::clone(handler), Arc::clone(&talking));
        let thread = std::thread::Builder::new().name("control-1".into());
        let started = thread.spawn(move || {
            if let Err(e) = converse(&stream, &*handler) {
                tracing::debug!("a control conversation broke off: {e}");
            }
            counter.fetch_sub(1, Ordering::AcqRel);
        });
        if started.is_err() {
            talking.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

fn converse(stream: &UnixStream, handler: &dyn Handler) -> io::Result<()> {
    stream.set_read_timeout(Some(LINE_TIMEOUT))?;
    stream.set_write_timeout(Some(LINE_TIMEOUT))?;
    let mut line = String::new();
    BufReader::new(stream.take(REQUEST_MAX)).read_line(&mut line)?;
    let answer = match serde_json::from_str(&line) {
        Ok(Request::Status) => Answer::Report {
            report: Box::new(handler.report()),
        },
        Ok(Request::Umount { lazy }) => {
            match allowed(stream).and_then(|()| handler.unmount(lazy)) {
                Ok(()) => Answer::Done,
                Err(refusal) => Answer::Refused { refusal },
            }
        }
        Err(_) => Answer::Refused {
            refusal: Refusal::usage("the daemon does not know this request.")
                .next("Daemon and command may be of different versions: mount again."),
        },
    };
    say(stream, &answer)
}

fn allowed(stream: &UnixStream) -> Result<(), Refusal> {
    let peer = socket_peercred(stream)
        .map_err(|e| Refusal::from_io("the caller is not known", &e.into()))?;
    if peer.uid.is_root() || peer.uid == rustix::process::geteuid() {
        return Ok(());
    }
    Err(
        Refusal::usage("only root or the user who mounted it may do that.")
            .next("Try again as root."),
    )
}

fn say<T: Serialize>(mut stream: &UnixStream, message: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// The asking end.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    pid: Option<rustix::process::Pid>,
}

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
        let path = directory.join(name((mount.major, mount.minor)));
        let stream = UnixStream::connect(path)?;
        let peer = socket_peercred(&stream)?;
        if peer.uid.as_raw() != owner && !peer.uid.is_root() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(Self {
            stream,
            pid: Some(peer.pid),
        })
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
        match self.ask(&Request::Status, Some(LINE_TIMEOUT))? {
            Answer::Report { report } => Ok(*report),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Asks it to drain and unmount, and waits that long for the answer.
    ///
    /// # Errors
    /// Outside: it does not answer (a timeout is `WouldBlock`); inside: it says no.
    pub fn unmount(self, lazy: bool, timeout: Duration) -> io::Result<Result<(), Refusal>> {
        match self.ask(&Request::Umount { lazy }, Some(timeout))? {
            Answer::Done => Ok(Ok(())),
            Answer::Refused { refusal } => Ok(Err(refusal)),
            Answer::Report { .. } => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn ask(self, request: &Request, timeout: Option<Duration>) -> io::Result<Answer> {
        self.stream.set_write_timeout(Some(LINE_TIMEOUT))?;
        self.stream.set_read_timeout(timeout)?;
        say(&self.stream, request)?;
        let mut line = String::new();
        BufReader::new(&self.stream).read_line(&mut line)?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&line)?)
    }
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
