// SPDX-License-Identifier: MIT
//! Mounting and unmounting, as root by the new mount API, as a user by fusermount3.
//!
//! As root the file system is made first and attached last: the FUSE handshake is over and the
//! workers run before anybody can see the mount, and a failure leaves nothing behind.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use rustix::fs::{CWD, Gid, Mode, OFlags, Uid};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags as OldFlags, MoveMountFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount,
    move_mount, unmount,
};
use rustix::thread::{set_thread_res_gid, set_thread_res_uid};

use super::config::{Atime, MountConfig};
use super::control::Client;
use super::fusermount;
use super::refusal::{Refusal, errno_text};
use crate::mirror::failure::Shown;
use crate::sys::Errno;
use crate::sys::mountinfo::{self, Mount};

/// The longest string fsconfig(2) takes; longer sources go through mount(2).
const FSCONFIG_STRING_MAX: usize = 255;
/// How long a mount that may be dead gets to answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a worker may take to begin with a request it has taken; what has begun is waited for.
const BEGINNING: Duration = Duration::from_millis(100);
/// Between two looks at what the kernel still waits for.
const BREATH: Duration = Duration::from_millis(5);

/// A file system that is made and not yet to be seen.
#[derive(Debug)]
pub(super) struct Prepared {
    /// `/dev/fuse`, on which the kernel now asks.
    pub(super) device: OwnedFd,
    /// The mount to attach; `None` when it is attached already.
    detached: Option<OwnedFd>,
    target: PathBuf,
    privileged: bool,
}

/// A mount that is there for all to see.
#[derive(Clone, Debug)]
pub(super) struct Mounted {
    target: PathBuf,
    /// `st_dev` of the mount: names the control socket.
    pub(super) device: (u32, u32),
    privileged: bool,
    /// `/dev/fuse`, to see whether the kernel asks.
    asking: Arc<OwnedFd>,
    /// What is mounted. Opened in good time: the end must come without new descriptors.
    table: Arc<mountinfo::Table>,
}

/// Why an unmount did not happen.
#[derive(Debug)]
pub(super) enum Unmount {
    /// Someone has files open there, or works in it.
    Busy,
    /// It is not there (any more).
    Gone,
    /// Anything else, in words.
    Failed(String),
}

impl Prepared {
    /// Makes the file system.
    ///
    /// # Errors
    /// No `/dev/fuse`, no permission, options the kernel will not take.
    pub(super) fn make(config: &MountConfig) -> Result<Self, Refusal> {
        let (device, detached) = if !config.privileged {
            (fusermount::mount(config)?, None)
        } else {
            let device = open_device()?;
            let long = config.primary.typed.as_os_str().len() > FSCONFIG_STRING_MAX;
            let made = if long {
                attach_old(config, &device).map(|()| None)
            } else {
                make_new(config, &device).map(Some)
            };
            (
                device,
                made.map_err(|e| failed("the kernel refused to mount", e))?,
            )
        };
        Ok(Self {
            device,
            detached,
            target: config.mountpoint.path.clone(),
            privileged: config.privileged,
        })
    }

    /// Takes away what is attached already, when it will not be served.
    pub(super) fn give_up(self) {
        if self.detached.is_none()
            && let Err(e) = unmount_corpse(&self.target)
        {
            tracing::warn!("a dead mount stays behind: {e}");
        }
    }

    /// Shows it at the mountpoint. The device must be served by now, or soon.
    ///
    /// # Errors
    /// The mountpoint went away.
    pub(super) fn attach(self) -> Result<Mounted, Refusal> {
        let mut id = None;
        if let Some(detached) = &self.detached {
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(detached, c"", CWD, &self.target, flags)
                .map_err(|e| failed("the mount could not be attached", e))?;
            id = mountinfo::id_of(detached.as_fd()).ok();
        }
        let unreadable = |e: io::Error| Refusal::from_io("cannot read mountinfo", &e);
        let table = mountinfo::Table::open().map_err(unreadable)?;
        let mounts = table.read().map_err(unreadable)?;
        let found = id
            .and_then(|id| mountinfo::by_id(&mounts, id))
            .or_else(|| mountinfo::at(&mounts, &self.target));
        match found {
            Some(m) if m.is_mirror() => Ok(Mounted {
                target: self.target,
                device: m.device(),
                privileged: self.privileged,
                asking: Arc::new(self.device),
                table: Arc::new(table),
            }),
            _ => Err(Refusal::refused(
                "the mount vanished as soon as it was made.",
            )),
        }
    }
}

impl Mounted {
    /// Has the kernel hand over the dirty pages of files, which no unmount will: they are still
    /// open. On a thread of its own, since it is us who have to take them.
    pub(super) fn write_back(&self, limit: Duration) {
        let (done, finished) = crossbeam_channel::bounded(1);
        let target = self.target.clone();
        let sync = move || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let synced =
                rustix::fs::open(&target, flags, Mode::empty()).and_then(rustix::fs::syncfs);
            // Whoever waited may have given up.
            let _unheard = done.send(synced);
        };
        let started = std::thread::Builder::new()
            .name("write-back".into())
            .spawn(sync);
        let until = Instant::now() + limit;
        let answer = started.map(|_| finished.recv_timeout(limit));
        // The kernel's syncfs does not wait for what it has sent to a FUSE file system.
        // First come, first served: once nothing waits, all of that has been taken.
        while self.requests_waiting() && Instant::now() < until {
            std::thread::park_timeout(BREATH);
        }
        std::thread::park_timeout(BEGINNING);
        if !matches!(answer, Ok(Ok(Ok(())))) || Instant::now() >= until {
            tracing::warn!("what programs have just stored in files may be lost");
        }
    }

    /// Whether the kernel has requests that no worker has taken yet. (It holds none back behind them:
    /// it sends more at a time than there are workers.)
    fn requests_waiting(&self) -> bool {
        let mut device = [PollFd::new(&self.asking, PollFlags::IN)];
        poll(&mut device, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// Unmounts: plainly, which fails while it is in use, or lazily, which hides it at once and
    /// ends it when the last user has gone.
    pub(super) fn unmount(&self, lazy: bool) -> Result<(), Unmount> {
        let mounts = self.table.read();
        let mounts = mounts.map_err(|e| Unmount::Failed(e.to_string()))?;
        let ours = |m: &Mount| m.device() == self.device;
        match mountinfo::at(&mounts, &self.target) {
            Some(top) if ours(top) => {}
            Some(top) if mounts.iter().any(|m| ours(m) && m.target == self.target) => {
                return Err(Unmount::Failed(format!(
                    "another file system ({}) is mounted over it",
                    top.fstype
                )));
            }
            _ => return Err(Unmount::Gone),
        }
        if self.privileged {
            unmount_root(&self.target, lazy)
        } else {
            fusermount::unmount(&self.target, lazy)
        }
    }
}

fn unmount_root(target: &Path, lazy: bool) -> Result<(), Unmount> {
    let lazily = if lazy {
        UnmountFlags::DETACH
    } else {
        UnmountFlags::empty()
    };
    match unmount(target, UnmountFlags::NOFOLLOW | lazily) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(Unmount::Busy),
        Err(Errno::INVAL) => Err(Unmount::Gone),
        Err(e) => Err(Unmount::Failed(errno_text(&e.into()))),
    }
}

/// Unmounts a mount whose daemon is gone: there is nobody to ask and nothing to wait for.
///
/// # Errors
/// Permission, mostly.
pub fn unmount_corpse(target: &Path) -> Result<(), Refusal> {
    let done = if rustix::process::geteuid().is_root() {
        unmount_root(target, true)
    } else {
        fusermount::unmount(target, true)
    };
    match done {
        Ok(()) | Err(Unmount::Gone) => Ok(()),
        Err(Unmount::Busy) => Err(Refusal::refused("it is busy.")),
        Err(Unmount::Failed(why)) => Err(Refusal::refused(format!("{why}."))),
    }
}

fn failed(what: &str, errno: Errno) -> Refusal {
    let no = Refusal::from_io(what, &errno.into());
    match errno {
        Errno::PERM => no.next("In a container, it needs CAP_SYS_ADMIN."),
        Errno::NODEV => Refusal::system("this kernel has no FUSE.").next("Try: modprobe fuse"),
        _ => no,
    }
}

fn open_device() -> Result<OwnedFd, Refusal> {
    rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|e| {
        Refusal::system(format!("cannot open /dev/fuse: {}.", errno_text(&e.into())))
            .next("Is FUSE there? Try: modprobe fuse (in a container: --device /dev/fuse)")
            .id("MF-0049")
    })
}

fn ids() -> (u32, u32) {
    let uid = rustix::process::geteuid().as_raw();
    (uid, rustix::process::getegid().as_raw())
}

/// fsopen and fsmount: a mount that is attached to nothing yet.
fn make_new(config: &MountConfig, device: &OwnedFd) -> Result<OwnedFd, Errno> {
    let (uid, gid) = ids();
    let fs = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let fs = fs.as_fd();
    fsconfig_set_string(fs, "source", &config.primary.typed)?;
    fsconfig_set_string(fs, "subtype", "mirrorfs")?;
    fsconfig_set_string(fs, "fd", device.as_raw_fd().to_string())?;
    fsconfig_set_string(fs, "rootmode", "40000")?;
    fsconfig_set_string(fs, "user_id", uid.to_string())?;
    fsconfig_set_string(fs, "group_id", gid.to_string())?;
    fsconfig_set_flag(fs, "default_permissions")?;
    let flags = &config.flags;
    for (set, word) in [
        (flags.allow_other == Some(true), "allow_other"),
        (flags.read_only, "ro"),
        (flags.sync, "sync"),
        (flags.dirsync, "dirsync"),
    ] {
        if set {
            fsconfig_set_flag(fs, word)?;
        }
    }
    fsconfig_create(fs)?;
    let mut attr = match flags.atime {
        Atime::Relative => MountAttrFlags::empty(),
        Atime::Never => MountAttrFlags::MOUNT_ATTR_NOATIME,
        Atime::Strict => MountAttrFlags::MOUNT_ATTR_STRICTATIME,
    };
    attr.set(MountAttrFlags::MOUNT_ATTR_RDONLY, flags.read_only);
    attr.set(MountAttrFlags::MOUNT_ATTR_NOSUID, flags.suid == Some(false));
    attr.set(MountAttrFlags::MOUNT_ATTR_NODEV, flags.dev == Some(false));
    attr.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, flags.exec == Some(false));
    attr.set(MountAttrFlags::MOUNT_ATTR_NODIRATIME, flags.no_diratime);
    attr.set(MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW, flags.no_symfollow);
    fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, attr)
}

/// mount(2), for sources that fsconfig(2) finds too long. Attached at once.
fn attach_old(config: &MountConfig, device: &OwnedFd) -> Result<(), Errno> {
    let (uid, gid) = ids();
    let set = &config.flags;
    let mut flags = match set.atime {
        Atime::Relative => OldFlags::RELATIME,
        Atime::Never => OldFlags::NOATIME,
        Atime::Strict => OldFlags::STRICTATIME,
    };
    flags.set(OldFlags::RDONLY, set.read_only);
    flags.set(OldFlags::NOSUID, set.suid == Some(false));
    flags.set(OldFlags::NODEV, set.dev == Some(false));
    flags.set(OldFlags::NOEXEC, set.exec == Some(false));
    flags.set(OldFlags::NODIRATIME, set.no_diratime);
    flags.set(OldFlags::SYNCHRONOUS, set.sync);
    flags.set(OldFlags::DIRSYNC, set.dirsync);
    let mut data = format!(
        "fd={},rootmode=40000,user_id={uid},group_id={gid},default_permissions",
        device.as_raw_fd()
    );
    if set.allow_other == Some(true) {
        data.push_str(",allow_other");
    }
    let data = std::ffi::CString::new(data).map_err(|_| Errno::INVAL)?;
    let source = &config.primary.typed;
    mount(
        source,
        &config.mountpoint.path,
        "fuse.mirrorfs",
        flags,
        data.as_c_str(),
    )
}

/// Where a mountpoint that may be dead is: nothing at the name itself is touched.
///
/// # Errors
/// When mountinfo cannot be read.
pub fn find(typed: &Path) -> io::Result<Option<Mount>> {
    let mounts = mountinfo::read()?;
    let full = std::path::absolute(typed)?;
    let plain = |p: &Path| mountinfo::at(&mounts, p).cloned();
    if let Some(found) = plain(&full) {
        return Ok(Some(found));
    }
    let parent = full.parent().and_then(|p| p.canonicalize().ok());
    if let (Some(parent), Some(name)) = (parent, full.file_name())
        && let Some(found) = plain(&parent.join(name))
    {
        return Ok(Some(found));
    }
    // A symlink to a mountpoint, then; looking at it touches the link's target, and a dead mirror
    // answers that with an error.
    Ok(full.canonicalize().ok().and_then(|p| plain(&p)))
}

/// Whether the daemon behind a mirror is gone. `None`: it does not answer either way.
#[must_use]
pub fn is_dead(mount: &Mount) -> Option<bool> {
    if Client::connect(mount).is_ok() {
        return Some(false);
    }
    let (tell, told) = crossbeam_channel::bounded(1);
    let mount = mount.clone();
    // A probe may hang on a mount that is served badly; the thread is then left behind.
    let probe = std::thread::Builder::new().name("probe".into());
    probe
        .spawn(move || {
            become_owner(&mount);
            let answer = rustix::fs::statfs(&mount.target);
            // Nobody waits any more: too late, and no harm.
            _ = tell.send(answer).is_ok();
        })
        .ok()?;
    match told.recv_timeout(PROBE_TIMEOUT) {
        Ok(Err(Errno::NOTCONN | Errno::CONNABORTED)) => Some(true),
        Ok(Ok(_) | Err(Errno::ACCESS)) => Some(false),
        _ => None,
    }
}

/// Lets the calling thread, and no other, ask as the user who mounted: without allow_other the
/// kernel tells root nothing, dead or alive.
fn become_owner(mount: &Mount) {
    let (Some(uid), Some(gid)) = (mount.user_id(), mount.group_id()) else {
        return;
    };
    if uid == 0 || !rustix::process::geteuid().is_root() {
        return;
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let done = set_thread_res_gid(gid, gid, gid).and_then(|()| set_thread_res_uid(uid, uid, uid));
    if let Err(e) = done {
        tracing::debug!("cannot ask as the owner of the mount: {e}");
    }
}

/// Takes away dead mirrors at `typed`, and refuses to mount over a live one.
///
/// # Errors
/// A live mirror, or a dead one that may not be unmounted.
pub(super) fn clear_dead(typed: &Path) -> Result<Vec<String>, Refusal> {
    let mut notes = Vec::new();
    loop {
        let found = find(typed).map_err(|e| Refusal::from_io("cannot read mountinfo", &e))?;
        let Some(mount) = found.filter(Mount::is_mirror) else {
            return Ok(notes);
        };
        let (place, typed) = (mount.target.shown(), mount.target.quoted());
        match is_dead(&mount) {
            Some(true) => {
                unmount_corpse(&mount.target).map_err(|mut e| {
                    e.why = format!("a dead mirror is still mounted there: {}", e.why);
                    e.next(format!("Unmount it first: umount -l {typed}"))
                })?;
                notes.push(format!(
                    "unmounted a dead mirror at {place}: its daemon had ended without stopping"
                ));
            }
            Some(false) => {
                return Err(Refusal::refused("a mirror is mounted there already.")
                    .next(format!("See it:      mirrorfs status {typed}"))
                    .next(format!("Unmount it:  mirrorfs umount {typed}"))
                    .id("MF-0045"));
            }
            None => {
                return Err(
                    Refusal::refused("a mirror is mounted there that does not answer.")
                        .next(format!(
                            "If its daemon hangs, end it and: umount -l {typed}"
                        ))
                        .id("MF-0045"),
                );
            }
        }
    }
}
