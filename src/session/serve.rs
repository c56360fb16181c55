// SPDX-License-Identifier: MIT
//! Serving a mount: from the made file system to the last word.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::EXIT_INTERRUPTED;
use super::config::{Cache, Io, MountConfig};
use super::control::{Controlled, Handler, Server};
use super::mountpoint::{Mounted, Prepared, Unmount};
use super::notify::{is_heard, notify};
use super::refusal::{Kind, Refusal};
use super::signals::{Signals, Wish};
use super::transport::Transport;
use super::{confine, limits};
use crate::fs::MirrorFs;
use crate::mirror::events::{Listener, Told};
use crate::mirror::failure::Shown;
use crate::mirror::report::Report;
use crate::sys::files;
use crossbeam_channel::{Receiver, Sender, bounded};

/// Events that wait to be decided on; a sender beyond that waits.
const EVENTS_MAX: usize = 16;
/// How long after an unmount the kernel may take to let go; another mount namespace may hold on.
const LETTING_GO: Duration = Duration::from_secs(10);
/// The same where threads hang on the replica: the session cannot end by itself then.
const LETTING_GO_ALONE: Duration = Duration::from_secs(1);

/// How long the kernel may take to hand over what programs have stored in mapped files.
const WRITING_BACK: Duration = Duration::from_secs(30);
/// The same where it collects everything they write.
const WRITING_BACK_ALL: Duration = Duration::from_secs(300);

/// How often who follows the changes looks by himself.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// What may happen to a mount.
enum Event {
    /// The FUSE handshake is over.
    Shaken,
    /// The session ended: unmounted, by whomever.
    Ended(io::Result<()>),
    /// SIGTERM or SIGINT.
    Stop,
    /// The control socket: `mirrorfs umount`.
    Unmount {
        lazy: bool,
        reply: Sender<Result<(), Refusal>>,
    },
}

/// What answers the kernel, and how requests reach it.
pub(super) struct Session {
    pub(super) fs: MirrorFs,
    pub(super) transport: Transport,
    /// Threads on `/dev/fuse`.
    pub(super) threads: usize,
}

/// Mounts a file system and serves it until it is unmounted.
///
/// Order: the file system is made, handshake, workers, attached, control socket, `on_ready`. At the
/// end: `control.drain()`, unmount, `control.finish()`, the socket goes away. A plain umount(8)
/// comes without `drain`. When files are open at SIGTERM: `drain`, `close`, lazy unmount, `finish`,
/// and the process should exit without waiting for `fs`.
///
/// # Errors
/// Why it could not be mounted, or did not end well.
pub(super) fn serve(
    config: &MountConfig,
    signals: &Signals,
    session: Session,
    control: Arc<dyn Controlled>,
    on_ready: impl FnOnce(),
) -> Result<(), Refusal> {
    if signals.stopping() {
        return Err(Refusal::new(Kind::Interrupted, "it was asked to stop."));
    }
    let prepared = Prepared::make(config)?;
    let (events, arriving) = bounded(EVENTS_MAX);
    let device = prepared
        .device
        .try_clone()
        .map_err(|e| Refusal::from_io("cannot keep /dev/fuse", &e))?;
    let shaken = start_session(session, device, config.io, events.clone())
        .and_then(|()| await_handshake(&arriving, config.ready_timeout));
    if let Err(no) = shaken {
        prepared.give_up();
        return Err(no);
    }
    let mounted = prepared.attach()?;
    if config.cache == Cache::Writeback {
        limits::collect_freely(mounted.device);
    }
    limits::read_ahead(mounted.device);
    if config.privileged {
        confine::forbid_calls();
    }
    let live = Arc::new(Live {
        control,
        mounted,
        writing_back: match config.cache {
            Cache::Writethrough => WRITING_BACK,
            Cache::Writeback => WRITING_BACK_ALL,
        },
        events: events.clone(),
    });
    let server = Server::start(live.mounted.device, Arc::clone(&live) as Arc<dyn Handler>);
    if let Err(e) = &server {
        tracing::warn!("no control socket, so no status and no umount command: {e}");
    }
    let socket = server.as_ref().ok().map(|server| server.path.clone());
    listen_to_signals(signals, &live, socket);
    if let Err(e) = rustix::process::chdir("/") {
        tracing::debug!("cannot leave the working directory: {e}");
    }
    announce(config, &live);
    on_ready();
    let ended = live.decide(&arriving);
    notify("STOPPING=1\nEXTEND_TIMEOUT_USEC=300000000");
    if let Ok(server) = &server {
        server.streams.stop_verify();
    }
    let finished = live.control.finish();
    if let Ok(events) = live.control.events() {
        events.close();
    }
    drop(server);
    let place = config.mountpoint.path.shown();
    match (ended, finished) {
        (Ok(()), Ok(())) => {
            tracing::info!("unmounted {place}");
            Ok(())
        }
        (_, Err(why)) => {
            tracing::error!("unmounted {place}, but not cleanly: {why}; the next mount compares");
            Err(Refusal::refused(format!("it did not end cleanly: {why}.")))
        }
        (Err(e), Ok(())) => {
            tracing::error!("the FUSE session of {place} ended with an error: {e}");
            Err(Refusal::new(
                Kind::System,
                format!("the FUSE session failed: {e}."),
            ))
        }
    }
}

fn announce(config: &MountConfig, live: &Arc<Live>) {
    // From before the report on: no change is between the two.
    let events = live.control.events().ok().filter(|_| is_heard());
    let changes = events.map(|events| events.listen());
    let report = live.control.report();
    let replicas: Vec<_> = report
        .replicas
        .iter()
        .map(|r| format!("replica {} {}", r.path.shown(), r.state))
        .collect();
    tracing::info!(
        "mounted {} at {}, {}, epoch {}",
        config.primary.typed.shown(),
        config.mountpoint.path.shown(),
        replicas.join(", "),
        report.epoch
    );
    let state = report.state.word();
    notify(&format!("READY=1\nSTATUS={state}"));
    let Some(changes) = changes else { return };
    let live = Arc::downgrade(live);
    let follower = std::thread::Builder::new().name("notify".into());
    if let Err(e) = follower.spawn(move || keep_told(changes, &live, state)) {
        tracing::warn!("the service manager is not told of changes: {e}");
    }
}

/// Tells the service manager how the mirror is, after each change: what `systemctl status` shows must
/// not be what was true at the mount. Not every state is told of (a healing that comes and goes, say): where
/// nothing changes for a while it is asked for.
fn keep_told(mut changes: Listener, live: &Weak<Live>, mut last: &'static str) {
    loop {
        let told = changes.hear(LOOK_AGAIN);
        let Some(live) = live.upgrade() else { return };
        let state = live.state();
        match told {
            Told::Ended => return,
            Told::Quiet if state == last => {}
            Told::Change(_) | Told::Lost(_) | Told::Quiet => say_state(state),
        }
        last = state;
    }
}

fn say_state(state: &str) {
    notify(&format!("STATUS={state}"));
}

/// The FUSE session on a thread of its own: handshake, then its workers until the unmount.
fn start_session(
    session: Session,
    device: OwnedFd,
    io: Io,
    events: Sender<Event>,
) -> Result<(), Refusal> {
    let Session {
        fs,
        transport,
        threads,
    } = session;
    let mut options = fuser::Config::default();
    options.n_threads = Some(threads.max(1));
    // Who may ask is the kernel's business (allow_other, default_permissions).
    options.acl = fuser::SessionACL::All;
    let kernel = fs.kernel();
    let for_rings = device
        .try_clone()
        .map_err(|e| Refusal::from_io("cannot keep /dev/fuse", &e))?;
    let run = move || {
        let acl = fuser::SessionACL::All;
        let queues = transport.prepare(io, for_rings, &fs);
        let done = fuser::Session::from_fd(fs, device, acl, options).and_then(|session| {
            kernel.connect(session.notifier());
            let queues = transport.begin(queues, &kernel);
            // If nobody listens the mount was given up and the next read ends.
            drop(events.send(Event::Shaken));
            let done = session.run();
            // What is under way there ends before the copies are called complete.
            drop(queues);
            done
        });
        drop(events.send(Event::Ended(done)));
    };
    std::thread::Builder::new()
        .name("session".into())
        .spawn(run)
        .map(drop)
        .map_err(|e| Refusal::system(format!("cannot start the session: {e}.")))
}

fn await_handshake(arriving: &Receiver<Event>, timeout: Duration) -> Result<(), Refusal> {
    match arriving.recv_timeout(timeout) {
        Ok(Event::Shaken) => Ok(()),
        Ok(Event::Ended(Err(e))) => {
            Err(Refusal::system(format!("the FUSE handshake failed: {e}.")))
        }
        Ok(_) => Err(Refusal::new(
            Kind::Bug,
            "the session ended before it began.",
        )),
        Err(_) => Err(Refusal::system(format!(
            "the kernel did not begin to talk within {} s.",
            timeout.as_secs()
        ))
        .next("Give it longer: --ready-timeout")),
    }
}

fn listen_to_signals(signals: &Signals, live: &Arc<Live>, socket: Option<PathBuf>) {
    let live = Arc::clone(live);
    signals.listen(Box::new(move |wish| {
        match wish {
            Wish::Report => tracing::info!("{}", one_line(&live.control.report())),
            // The channel is read until the end; only a session that is over drops it.
            Wish::Stop => drop(live.events.try_send(Event::Stop)),
            Wish::StopNow => {
                tracing::warn!("stopping at once: the next mount compares");
                _ = live.mounted.unmount(true).is_ok();
                drop(socket.as_deref().map(files::remove_socket));
                std::process::exit(EXIT_INTERRUPTED);
            }
        }
    }));
}

/// Status for the log.
fn one_line(report: &Report) -> String {
    let mut text = format!("status: {} {}", report.mirror.shown(), report.state.word());
    for replica in &report.replicas {
        let lag = replica.lag_bytes;
        text += &format!(
            ", replica {} {}, lag {lag} bytes",
            replica.path.shown(),
            replica.state
        );
    }
    text + &format!(", epoch {}", report.epoch)
}

/// A mount that is being served.
struct Live {
    control: Arc<dyn Controlled>,
    mounted: Mounted,
    writing_back: Duration,
    events: Sender<Event>,
}

impl Live {
    /// Decides on every event until the mount is over.
    fn decide(&self, arriving: &Receiver<Event>) -> io::Result<()> {
        loop {
            match arriving.recv() {
                Ok(Event::Ended(done)) => return done,
                Ok(Event::Shaken) => {}
                Ok(Event::Unmount { lazy, reply }) => {
                    let done = self.unmount_when_asked(lazy);
                    let over = done.is_ok() && !lazy;
                    // The asker may have given up waiting; the unmount stands.
                    drop(reply.send(done));
                    if over {
                        return self.let_go(arriving);
                    }
                }
                Ok(Event::Stop) => return self.stop(arriving),
                Err(_) => return Ok(()),
            }
        }
    }

    /// The word for how the mirror is.
    fn state(&self) -> &'static str {
        self.control.report().state.word()
    }

    fn drain(&self) {
        notify("STATUS=draining\nEXTEND_TIMEOUT_USEC=300000000");
        if let Err(why) = self.control.drain() {
            tracing::warn!("draining failed: {why}");
        }
    }

    fn unmount_when_asked(&self, lazy: bool) -> Result<(), Refusal> {
        self.drain();
        let refused = match self.mounted.unmount(lazy) {
            Ok(()) | Err(Unmount::Gone) => return Ok(()),
            Err(Unmount::Busy) => "it is busy: files are open in it.".to_owned(),
            Err(Unmount::Failed(why)) => format!("{why}."),
        };
        // It goes on, and is not draining any more.
        say_state(self.state());
        Err(Refusal::refused(refused))
    }

    /// SIGTERM: unmount if nobody minds; else shut the gate, hide the mount and leave.
    fn stop(&self, arriving: &Receiver<Event>) -> io::Result<()> {
        tracing::info!("asked to stop: draining");
        notify("STOPPING=1\nEXTEND_TIMEOUT_USEC=300000000");
        self.drain();
        match self.mounted.unmount(false) {
            Ok(()) => return self.let_go(arriving),
            Err(Unmount::Busy) => {
                tracing::warn!("files are still open in the mount; they are cut off");
                self.mounted.write_back(self.writing_back);
            }
            Err(Unmount::Gone) => {}
            Err(Unmount::Failed(why)) => tracing::warn!("cannot unmount: {why}"),
        }
        self.control.close();
        if let Err(Unmount::Failed(why)) = self.mounted.unmount(true) {
            tracing::error!("cannot detach the mount: {why}");
        }
        Ok(())
    }

    /// After an unmount the session ends by itself, unless another mount namespace holds on.
    fn let_go(&self, arriving: &Receiver<Event>) -> io::Result<()> {
        let hangs = self.control.hangs();
        let patience = if hangs { LETTING_GO_ALONE } else { LETTING_GO };
        let limit = std::time::Instant::now() + patience;
        loop {
            match arriving.recv_deadline(limit) {
                Ok(Event::Ended(done)) => return done,
                Ok(Event::Unmount { reply, .. }) => drop(reply.send(Ok(()))),
                Ok(Event::Shaken | Event::Stop) => {}
                Err(_) => {
                    if hangs {
                        tracing::warn!(
                            "the replica does not answer; until it does both copies stay locked"
                        );
                    } else {
                        tracing::warn!("the kernel still holds the mount; it is cut off");
                    }
                    self.control.close();
                    return Ok(());
                }
            }
        }
    }
}

impl Handler for Live {
    fn mirror(&self) -> &dyn Controlled {
        &*self.control
    }

    fn unmount(&self, lazy: bool) -> Result<(), Refusal> {
        let (reply, answer) = bounded(1);
        let gone = || Refusal::refused("the daemon is ending already.");
        self.events
            .send(Event::Unmount { lazy, reply })
            .map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }
}
