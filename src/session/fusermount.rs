// SPDX-License-Identifier: MIT
//! Mounting as an ordinary user: fusermount3 opens /dev/fuse and sends it back over a socket.

use std::ffi::OsString;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
    recvmsg, socketpair,
};

use super::config::{Atime, MountConfig};
use super::mountpoint::Unmount;
use super::refusal::Refusal;

/// Looked for in `PATH`, then where distributions put it.
const PROGRAMS: [&str; 3] = ["fusermount3", "/usr/bin/fusermount3", "/bin/fusermount3"];

/// Runs fusermount3 and answers the device it opened.
pub(super) fn mount(config: &MountConfig) -> Result<OwnedFd, Refusal> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|e| Refusal::from_io("cannot make a socket pair", &e.into()))?;
    // The child must inherit this one. Nothing else of ours starts programs at this time.
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())
        .map_err(|e| Refusal::from_io("cannot pass a socket", &e.into()))?;
    let number = theirs.as_raw_fd().to_string();
    let child = run(|command| {
        command
            .arg("-o")
            .arg(options(config))
            .arg("--")
            .arg(&config.mountpoint.path)
            .env("_FUSE_COMMFD", &number);
    })?;
    drop(theirs);
    let device = receive(&ours);
    drop(ours);
    let output = child
        .wait_with_output()
        .map_err(|e| Refusal::from_io("fusermount3 was lost", &e))?;
    match device {
        Some(device) if output.status.success() => Ok(device),
        _ => Err(explain(&String::from_utf8_lossy(&output.stderr))),
    }
}

/// Unmounts through fusermount3.
pub(super) fn unmount(target: &Path, lazy: bool) -> Result<(), Unmount> {
    let child = run(|command| {
        command.arg("-u");
        if lazy {
            command.arg("-z");
        }
        command.arg("--").arg(target);
    })
    .map_err(|e| Unmount::Failed(e.to_string()))?;
    let output = child
        .wait_with_output()
        .map_err(|e| Unmount::Failed(e.to_string()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(())
    } else if said.contains("busy") {
        Err(Unmount::Busy)
    } else if said.contains("not found in") || said.contains("Invalid argument") {
        Err(Unmount::Gone)
    } else {
        Err(Unmount::Failed(said.trim().to_owned()))
    }
}

fn run(arrange: impl Fn(&mut Command)) -> Result<std::process::Child, Refusal> {
    for program in PROGRAMS {
        let mut command = Command::new(program);
        arrange(&mut command);
        command
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        match command.spawn() {
            Ok(child) => return Ok(child),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Refusal::from_io(&format!("cannot run {program}"), &e)),
        }
    }
    Err(
        Refusal::system("fusermount3 was not found; an ordinary user cannot mount without it.")
            .next("Install the package fuse3, or mount as root.")
            .id("MF-0050"),
    )
}

/// The `-o` of fusermount3. Commas and backslashes in the source are escaped as it wants them.
fn options(config: &MountConfig) -> OsString {
    let mut text = b"fsname=".to_vec();
    for byte in config.primary.typed.as_os_str().as_bytes() {
        if matches!(byte, b',' | b'\\') {
            text.push(b'\\');
        }
        text.push(*byte);
    }
    text.extend_from_slice(b",subtype=mirrorfs,default_permissions,nosuid,nodev");
    let flags = &config.flags;
    for (set, word) in [
        (flags.allow_other == Some(true), ",allow_other"),
        (flags.read_only, ",ro"),
        (flags.exec == Some(false), ",noexec"),
        (flags.atime == Atime::Never, ",noatime"),
        (flags.sync, ",sync"),
        (flags.dirsync, ",dirsync"),
    ] {
        if set {
            text.extend_from_slice(word.as_bytes());
        }
    }
    OsString::from_vec(text)
}

/// The descriptor that comes over the socket with one byte; none when fusermount3 gave up.
fn receive(socket: &OwnedFd) -> Option<OwnedFd> {
    let mut byte = [0_u8; 1];
    let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut vectors = [IoSliceMut::new(&mut byte)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    loop {
        match recvmsg(socket, &mut vectors, &mut control, flags) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    })
}

/// What fusermount3 said, and what to do about it.
fn explain(said: &str) -> Refusal {
    let said = said.trim().trim_start_matches("fusermount3: ");
    let why = format!("fusermount3 refused: {said}.");
    if said.contains("user_allow_other") {
        return Refusal::usage(why)
            .next("Ask root to put a line `user_allow_other` into /etc/fuse.conf,")
            .next("or mount without allow_other: then only you see the mount.");
    }
    if said.contains("/dev/fuse") {
        return Refusal::system(why)
            .next("Ask root to let users open /dev/fuse (mode 0666).")
            .id("MF-0049");
    }
    // "Permission denied", "Operation not permitted", "user has no write access to".
    if said.contains("ermi") || said.contains("no write access") {
        return Refusal::usage(why)
            .next("A user may mount only on a directory that is theirs to write to.");
    }
    Refusal::refused(why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::refusal::Kind;

    #[test]
    fn what_fusermount_says_is_sorted() {
        for (said, kind) in [
            (
                "fusermount3: failed to open /dev/fuse: Permission denied\n",
                Kind::System,
            ),
            (
                "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf",
                Kind::Usage,
            ),
            (
                "fusermount3: user has no write access to mountpoint /x",
                Kind::Usage,
            ),
            (
                "fusermount3: too many FUSE filesystems mounted",
                Kind::Refused,
            ),
        ] {
            assert_eq!(explain(said).kind, kind, "{said}");
        }
    }
}
