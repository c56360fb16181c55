// SPDX-License-Identifier: MIT
//! The second thin wire: requests as the bytes of the FUSE protocol, for a transport that has no
//! fuser in front of it.
//!
//! It does what the callbacks of fuser in the parent do, with the same inner methods: decode, ask,
//! encode. What a request means is written down in neither of the two. Offsets and numbers are
//! those of include/uapi/linux/fuse.h, in the byte order of the machines we run on.

use std::cell::Cell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use fuser::{INodeNo, RenameFlags};

use super::{MirrorFs, entry, file, node, xattr};
use crate::metrics::Pending;
use crate::mirror::crew;
use crate::store::Time;
use crate::sys::creds::{Caller, Needs};
use crate::sys::{Errno, Result};

mod encode;
mod opcode;

use encode::{Answer, Room};

/// A request as it came. What comes in is taken out of `payload` before the answer goes in.
pub struct Incoming<'a> {
    /// `fuse_in_header`.
    pub header: &'a [u8; 40],
    /// The fixed arguments of the operation, from the beginning; what it does not use is anything.
    pub arguments: &'a [u8; 128],
    /// Names and data, `bytes` of them; and the room for the answer.
    pub payload: &'a mut [u8],
    /// How much of `payload` is of the request.
    pub bytes: usize,
    /// Makes a way to answer from another thread, when this one hangs.
    pub elsewhere: &'a dyn Fn() -> Late,
}

impl std::fmt::Debug for Incoming<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").finish_non_exhaustive()
    }
}

/// Answers a request from another thread: 0 or a negated errno, and the bytes of the answer.
pub type Late = Box<dyn FnOnce(i32, &[u8]) + Send>;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..).and_then(|rest| rest.first_chunk());
    four.map_or(0, |four| u32::from_le_bytes(*four))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let eight = bytes.get(at..).and_then(|rest| rest.first_chunk());
    eight.map_or(0, |eight| u64::from_le_bytes(*eight))
}

/// The next string of a payload, without the zero byte behind it.
fn string<'a>(payload: &mut &'a [u8]) -> Result<&'a OsStr> {
    let end = payload.iter().position(|&b| b == 0).ok_or(Errno::INVAL)?;
    let text = OsStr::from_bytes(&payload[..end]);
    *payload = &payload[end + 1..];
    Ok(text)
}

/// What is asked, of which node, by whom.
struct Question<'a> {
    opcode: u32,
    ino: INodeNo,
    caller: Caller,
    arguments: &'a [u8; 128],
    elsewhere: &'a dyn Fn() -> Late,
    /// Another thread has answered.
    answered: Cell<bool>,
    /// Its time is being taken; by whoever answers.
    asked: Cell<Option<Pending>>,
}

impl Question<'_> {
    fn u32(&self, at: usize) -> u32 {
        u32_at(self.arguments, at)
    }

    fn i32(&self, at: usize) -> i32 {
        self.u32(at).cast_signed()
    }

    fn u64(&self, at: usize) -> u64 {
        u64_at(self.arguments, at)
    }

    fn node(&self, at: usize) -> INodeNo {
        INodeNo(self.u64(at))
    }

    fn changing(&self) -> Needs {
        entry::changing(self.caller)
    }

    /// With the umask at an offset of the arguments.
    fn creating(&self, umask: usize) -> Needs {
        entry::creating(self.caller, self.u32(umask))
    }

    /// `fuse_setattr_in`.
    fn setattr(&self) -> node::Change {
        let valid = self.u32(0);
        let given = |bit: u32| valid & (1 << bit) != 0;
        let time = |seconds: usize, nanos: usize| Time {
            seconds: self.u64(seconds).cast_signed(),
            nanos: self.u32(nanos),
        };
        let now = node::now();
        let resolve = |asked: bool, is_now, sent| asked.then_some(if is_now { now } else { sent });
        node::Change {
            mode: given(0).then(|| self.u32(68)),
            uid: given(1).then(|| self.u32(76)),
            gid: given(2).then(|| self.u32(80)),
            size: given(3).then(|| self.u64(16)),
            times: (
                resolve(given(4), given(7), time(32, 56)),
                resolve(given(5), given(8), time(40, 60)),
            ),
        }
    }
}

impl MirrorFs {
    /// Answers one request: 0 or a negated errno, and how many bytes of the payload are the answer.
    /// `None` if another thread has answered it.
    pub fn answer(&self, request: Incoming<'_>) -> Option<(i32, usize)> {
        crew::stand_apart();
        let header = request.header;
        let opcode = u32_at(header, 4);
        let asked = opcode::counted(opcode).map(|what| self.requests.begin(what));
        let question = Question {
            opcode,
            ino: INodeNo(u64_at(header, 16)),
            caller: Caller {
                uid: u32_at(header, 24),
                gid: u32_at(header, 28),
                pid: u32_at(header, 32),
            },
            arguments: request.arguments,
            elsewhere: request.elsewhere,
            answered: Cell::new(false),
            asked: Cell::new(asked),
        };
        let bytes = request.bytes.min(request.payload.len());
        let done = self.decode(&question, request.payload, bytes);
        (!question.answered.get()).then(|| match done {
            Ok(bytes) => (0, bytes),
            Err(errno) => (-errno.raw_os_error(), 0),
        })
    }

    /// Takes a name away. What lost its last one keeps descriptors until FORGET, which comes to other
    /// threads: names may go faster than those get to it. Then this waits instead of failing with
    /// `ENFILE`, which says that nothing has happened yet. On `/dev/fuse` the kernel hands FORGETs to
    /// the very threads that remove names, and in between, so there is nothing to wait for.
    fn patiently(&self, remove: impl Fn() -> Result<()>) -> Result<()> {
        let limit = Instant::now() + TRYING;
        loop {
            let before = self.forgets.seen();
            match remove() {
                Err(Errno::NFILE) if Instant::now() < limit && self.forgets.wait_beyond(before) => {
                }
                removed => return removed,
            }
        }
    }

    /// Decodes, asks and encodes; answers the length of the answer.
    fn decode(&self, q: &Question<'_>, payload: &mut [u8], bytes: usize) -> Result<usize> {
        let mut sent = &payload[..bytes];
        let (ino, keep) = (q.ino, self.caching);
        let entry = move |room: Room<'_>, made: &_| Ok(room.entry(keep, made));
        let written = |room: Room<'_>, bytes: &usize| Ok(room.written(*bytes));
        let nothing = |_: Room<'_>, (): &()| Ok(0);
        match q.opcode {
            opcode::LOOKUP => {
                let found = self.look_up_or_nothing(ino, string(&mut sent)?)?;
                Ok(match found {
                    None => Room(payload).nothing(self.caching),
                    Some(found) => Room(payload).entry(self.caching, &found),
                })
            }
            opcode::GETATTR => {
                let found = self.get_attributes(ino)?;
                Ok(Room(payload).attributes(self.caching, &found))
            }
            opcode::SETATTR => {
                let attributes = move |room: Room<'_>, found: &_| Ok(room.attributes(keep, found));
                let set = |then| self.set_attributes(q.caller, ino, q.setattr(), then);
                let found = q.change(set, attributes)?;
                attributes(Room(payload), &found)
            }
            opcode::READLINK => Room(payload).bytes(&self.read_target(ino)?),
            opcode::SYMLINK => {
                let (name, target) = (string(&mut sent)?, string(&mut sent)?);
                let made = q.change(
                    |then| self.make_symlink(q.changing(), ino, name, target, then),
                    entry,
                )?;
                entry(Room(payload), &made)
            }
            opcode::MKNOD => {
                let (kind, name) = ((q.u32(0), q.u32(4)), string(&mut sent)?);
                let made = q.change(
                    |then| self.make_node(q.creating(8), ino, name, kind, then),
                    entry,
                )?;
                entry(Room(payload), &made)
            }
            opcode::MKDIR => {
                let name = string(&mut sent)?;
                let made = q.change(
                    |then| self.make_dir(q.creating(4), ino, name, q.u32(0), then),
                    entry,
                )?;
                entry(Room(payload), &made)
            }
            opcode::UNLINK | opcode::RMDIR => {
                let (name, dir) = (string(&mut sent)?, q.opcode == opcode::RMDIR);
                let remove = || {
                    q.change(
                        |then| self.remove(q.changing(), ino, name, dir, then),
                        nothing,
                    )
                };
                done(self.patiently(remove))
            }
            opcode::RENAME | opcode::RENAME2 => {
                let flags = match q.opcode {
                    opcode::RENAME2 => RenameFlags::from_bits_retain(q.u32(8)),
                    _ => RenameFlags::empty(),
                };
                let from = (ino, string(&mut sent)?);
                let to = (q.node(0), string(&mut sent)?);
                let rename = || {
                    let rename = |then| self.rename_entry(q.changing(), from, to, flags, then);
                    q.change(rename, nothing)
                };
                done(self.patiently(rename))
            }
            opcode::LINK => {
                let name = string(&mut sent)?;
                let made = q.change(
                    |then| self.link_node(q.changing(), q.node(0), ino, name, then),
                    entry,
                )?;
                entry(Room(payload), &made)
            }
            opcode::CREATE => {
                let (flags, mode) = (q.i32(0), q.u32(4));
                let name = string(&mut sent)?;
                let how = (mode, flags);
                let direct = self.is_direct(flags);
                let created = move |room: Room<'_>, made: &_| Ok(room.created(keep, made, direct));
                let create = |then| self.create_file(q.creating(8), ino, name, how, then);
                let made = q.change(create, created)?;
                created(Room(payload), &made)
            }
            opcode::READ => {
                let size = payload.len().min(q.u32(16) as usize);
                self.read_file(ino, q.u64(8), &mut payload[..size])
            }
            opcode::WRITE => {
                let write = file::Write {
                    offset: q.u64(8),
                    data: sent.get(..q.u32(16) as usize).ok_or(Errno::INVAL)?,
                    kill: q.u32(20) & WRITE_KILL_SUIDGID != 0,
                    delayed: q.u32(20) & WRITE_CACHE != 0,
                    open_flags: q.i32(32),
                };
                let begin = |then| self.write_file(q.changing(), ino, write, then);
                let bytes = q.change(begin, written)?;
                written(Room(payload), &bytes)
            }
            opcode::FSYNC | opcode::FSYNCDIR => {
                let data_only = q.u32(8) & FSYNC_DATA_ONLY != 0;
                done(q.change(|then| self.sync_node(ino, data_only, then), nothing))
            }
            opcode::FALLOCATE => {
                let (part, mode) = ((q.u64(8), q.u64(16)), q.i32(24));
                let begin = |then| self.allocate(q.changing(), ino, part, mode, then);
                done(q.change(begin, nothing))
            }
            opcode::COPY_FILE_RANGE => {
                let (from, to) = ((ino, q.u64(8)), (q.node(16), q.u64(32)));
                let length = q.u64(40);
                let begin = |then| self.copy_range(q.changing(), from, to, length, then);
                let bytes = q.change(begin, written)?;
                written(Room(payload), &bytes)
            }
            opcode::LSEEK => {
                let found = self.seek(ino, q.u64(8).cast_signed(), q.i32(16))?;
                Ok(Room(payload).offset(found))
            }
            opcode::READDIR => {
                let mut answer = Answer::new(payload, q.u32(16));
                self.list(ino, q.u64(8), &mut |listed| answer.listed(listed))?;
                Ok(answer.len())
            }
            opcode::READDIRPLUS => {
                let mut answer = Answer::new(payload, q.u32(16));
                self.list_with_attributes(ino, q.u64(8), &mut |listed, stat| {
                    answer.listed_with_attributes(self.caching, listed, stat)
                })?;
                Ok(answer.len())
            }
            opcode::STATFS => Ok(Room(payload).space(&self.mirror.space()?)),
            opcode::SETXATTR => {
                let (size, flags) = (q.u32(0) as usize, q.i32(4));
                let name = string(&mut sent)?;
                let value = sent.get(..size).ok_or(Errno::INVAL)?;
                let value = (value, flags);
                let begin = |then| self.set_xattr(q.caller, ino, name, value, then);
                done(q.change(begin, nothing))
            }
            opcode::GETXATTR => {
                let value = self.get_xattr(ino, string(&mut sent)?, q.u32(0))?;
                value_into(payload, &value)
            }
            opcode::LISTXATTR => {
                let value = self.list_xattr(q.caller, ino, q.u32(0))?;
                value_into(payload, &value)
            }
            opcode::REMOVEXATTR => {
                let name = string(&mut sent)?;
                let begin = |then| self.remove_xattr(q.changing(), ino, name, then);
                done(q.change(begin, nothing))
            }
            opcode::IOCTL if q.u32(8) & IOCTL_UNRESTRICTED == 0 => {
                let data = sent.get(..q.u32(24) as usize).ok_or(Errno::INVAL)?;
                let command = q.u32(12);
                let control = |room: Room<'_>, told: &Vec<u8>| room.control(told);
                let begin = |then| self.control(q.changing(), ino, command, data, then);
                let told = q.change(begin, control)?;
                control(Room(payload), &told)
            }
            // Nothing is kept for a handle, and the end needs no preparation.
            opcode::RELEASE | opcode::RELEASEDIR | opcode::DESTROY => Ok(0),
            // OPEN, OPENDIR and FLUSH (decision 1), and all that we do not know.
            _ => Err(Errno::NOSYS),
        }
    }
}

/// How long a name may take to go: others may have the files open that were removed before.
const TRYING: Duration = Duration::from_secs(10);
/// `FUSE_WRITE_KILL_SUIDGID`.
const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `FUSE_WRITE_CACHE`.
const WRITE_CACHE: u32 = 1;
/// `FUSE_FSYNC_FDATASYNC`.
const FSYNC_DATA_ONLY: u32 = 1;
/// `FUSE_IOCTL_UNRESTRICTED`.
const IOCTL_UNRESTRICTED: u32 = 1 << 1;

/// The longest answer to a change: `fuse_entry_out` and `fuse_open_out`.
const ANSWER_MAX: usize = 144;

/// Whom to tell how a change went.
type Tell<T> = Box<dyn FnOnce(Result<T>) + Send>;

impl Question<'_> {
    /// Begins a change, and returns what came of it. If this thread hangs on a replica, another one
    /// hears of the end: it encodes the answer by itself.
    fn change<T: Send + 'static>(
        &self,
        begin: impl FnOnce(Tell<T>),
        encode: impl FnOnce(Room<'_>, &T) -> Result<usize> + Send + 'static,
    ) -> Result<T> {
        let (tell, told) = bounded(1);
        let (here, late) = (std::thread::current().id(), (self.elsewhere)());
        let asked = self.asked.take();
        begin(Box::new(move |done: Result<T>| {
            if std::thread::current().id() == here {
                _ = tell.send((done, asked)).is_ok();
                return;
            }
            let mut room = [0; ANSWER_MAX];
            match done.and_then(|done| encode(Room(&mut room), &done)) {
                Ok(bytes) => late(0, room.get(..bytes).unwrap_or_default()),
                Err(errno) => late(-errno.raw_os_error(), &[]),
            }
            drop(asked);
        }));
        // Whoever has begun it returns once it has ended, one way or the other.
        if let Ok((done, asked)) = told.try_recv() {
            self.asked.set(asked);
            return done;
        }
        self.answered.set(true);
        Err(Errno::TIMEDOUT)
    }
}

fn done(done: Result<()>) -> Result<usize> {
    done.map(|()| 0)
}

fn value_into(payload: &mut [u8], value: &xattr::Value) -> Result<usize> {
    match value {
        xattr::Value::Size(bytes) => Ok(Room(payload).written(*bytes)),
        xattr::Value::Bytes(bytes) => Room(payload).bytes(bytes),
    }
}

#[cfg(test)]
mod tests;
