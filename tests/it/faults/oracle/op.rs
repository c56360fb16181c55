// SPDX-License-Identifier: MIT
//! One op of the load: as data, as a choice among what the model holds, and as system calls.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, Gid, OFlags, RenameFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::{Errno, Result};
use serde::{Deserialize, Serialize};

use super::model::{Body, Model};
use crate::support::rng::Rng;
use crate::support::sys::Map;

/// How bytes get into a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum How {
    Plain,
    /// Through a descriptor with `O_SYNC`.
    Synchronous,
    /// Stored through a shared mapping, then `msync`.
    Mapped,
}

/// Paths are relative to the thread's subtree. Content is `bytes(seed, len)`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Op {
    Create(String, u32),
    Write {
        path: String,
        at: u64,
        len: usize,
        seed: u64,
        how: How,
    },
    Append {
        path: String,
        len: usize,
        seed: u64,
    },
    Truncate(String, u64),
    Punch(String, u64, u64),
    Rename(String, String),
    Exchange(String, String),
    Link(String, String),
    Unlink(String),
    /// Unlinked while open, and written to after that.
    Orphan(String, usize),
    Mkdir(String, u32),
    Rmdir(String),
    Chmod(String, u32),
    Chown(String, u32, u32),
    SetXattr(String, String, usize, u64),
    RemoveXattr(String, String),
    Symlink(String, String),
    Times(String, i64, i64),
    Fsync(String),
    /// fsync of a directory.
    SyncDir(String),
}

/// What the bytes of an op are.
pub(crate) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    Rng::new(seed).bytes(len)
}

const FILES_MAX: usize = 60;
const DIRS_MAX: usize = 16;
const DEPTH_MAX: usize = 4;
/// Most files stay below this.
const SMALL: usize = 160 << 10;
/// The file called `big` may be written up to here: more than two regions of 4 MiB.
const BIG: usize = 9 << 20;

/// What may be chosen from.
struct Choices {
    files: Vec<String>,
    /// Without the root.
    dirs: Vec<String>,
    others: Vec<String>,
}

impl Choices {
    fn of(model: &Model) -> Self {
        let mut all = Self {
            files: Vec::new(),
            dirs: Vec::new(),
            others: Vec::new(),
        };
        for (path, id) in model.paths() {
            match &model.node(id).body {
                Body::File(_) => all.files.push(path),
                Body::Dir(_) => all.dirs.push(path),
                Body::Symlink(_) => all.others.push(path),
            }
        }
        all
    }

    fn file(&self, rng: &mut Rng) -> String {
        self.files[rng.below(self.files.len())].clone()
    }

    /// A name that may or may not be taken, in any directory, the root included.
    fn name(&self, rng: &mut Rng, letter: char) -> String {
        let name = format!("{letter}{}", rng.below(24));
        match rng.below(self.dirs.len() + 1).checked_sub(1) {
            Some(dir) => format!("{}/{name}", self.dirs[dir]),
            None => name,
        }
    }
}

impl Op {
    /// Chooses one that the model says will succeed. `syncs` of 100 are fsyncs.
    pub(crate) fn choose(rng: &mut Rng, model: &Model, syncs: usize) -> Self {
        let all = Choices::of(model);
        loop {
            let op = if rng.below(100) < syncs {
                Self::a_sync(rng, &all)
            } else {
                Self::any(rng, model, &all)
            };
            if let Some(op) = op
                && model.permits(&op)
            {
                return op;
            }
        }
    }

    fn a_sync(rng: &mut Rng, all: &Choices) -> Option<Self> {
        if rng.below(4) == 0 && !all.dirs.is_empty() {
            Some(Self::SyncDir(all.dirs[rng.below(all.dirs.len())].clone()))
        } else {
            (!all.files.is_empty()).then(|| Self::Fsync(all.file(rng)))
        }
    }

    fn any(rng: &mut Rng, model: &Model, all: &Choices) -> Option<Self> {
        if all.files.len() < 4 {
            let name = if rng.below(4) == 0 {
                "big".to_owned()
            } else {
                all.name(rng, 'f')
            };
            return Some(Self::Create(name, 0o644));
        }
        let mode = [0o644, 0o600, 0o755, 0o640][rng.below(4)];
        Some(match rng.below(100) {
            0..10 if all.files.len() < FILES_MAX => Self::Create(all.name(rng, 'f'), mode),
            10..36 => Self::write(rng, model, all),
            36..44 => Self::Append {
                path: Self::with_room(rng, model, all)?,
                len: 1 + rng.below(9000),
                seed: rng.next(),
            },
            44..49 => {
                let path = all.file(rng);
                let len = rng.below(if path == "big" { BIG } else { SMALL });
                Self::Truncate(path, len as u64)
            }
            49..52 => {
                let path = all.file(rng);
                let size = model.size(&path).max(1);
                Self::Punch(
                    path,
                    rng.below(size) as u64,
                    1 + rng.below(size.min(60_000)) as u64,
                )
            }
            52..64 => Self::Rename(all.file(rng), all.name(rng, 'f')),
            64..67 if !all.dirs.is_empty() => {
                let from = all.dirs[rng.below(all.dirs.len())].clone();
                Self::Rename(from, all.name(rng, 'd'))
            }
            67..68 => Self::Exchange(all.file(rng), all.file(rng)),
            68..72 => Self::Link(all.file(rng), all.name(rng, 'f')),
            72..78 => Self::Unlink(match rng.below(all.files.len() + all.others.len()) {
                n if n < all.files.len() => all.files[n].clone(),
                n => all.others[n - all.files.len()].clone(),
            }),
            78..79 => Self::Orphan(all.file(rng), rng.below(9000)),
            79..83 if all.dirs.len() < DIRS_MAX => {
                let name = all.name(rng, 'd');
                if name.matches('/').count() >= DEPTH_MAX {
                    return None;
                }
                Self::Mkdir(name, 0o755)
            }
            83..85 if !all.dirs.is_empty() => {
                Self::Rmdir(all.dirs[rng.below(all.dirs.len())].clone())
            }
            85..88 => Self::Chmod(all.file(rng), mode),
            88..89 => Self::Chown(
                all.file(rng),
                u32::try_from(rng.below(3)).ok()?,
                u32::try_from(rng.below(3)).ok()?,
            ),
            89..92 => Self::SetXattr(
                all.file(rng),
                format!("user.x{}", rng.below(3)),
                rng.below(300),
                rng.next(),
            ),
            92..93 => Self::RemoveXattr(all.file(rng), format!("user.x{}", rng.below(3))),
            93..95 if all.others.len() < 10 => {
                Self::Symlink(all.name(rng, 's'), format!("to/{}", rng.below(1000)))
            }
            95..97 => Self::Times(
                all.file(rng),
                rng.below(2_000_000_000) as i64,
                rng.below(1_000_000_000) as i64,
            ),
            97..100 => Self::Fsync(all.file(rng)),
            _ => return None,
        })
    }

    fn with_room(rng: &mut Rng, model: &Model, all: &Choices) -> Option<String> {
        let path = all.file(rng);
        (model.size(&path) < SMALL).then_some(path)
    }

    fn write(rng: &mut Rng, model: &Model, all: &Choices) -> Self {
        let path = all.file(rng);
        let (size, seed) = (model.size(&path), rng.next());
        let len = match rng.below(10) {
            0 => 1 + rng.below(66_000),
            1..4 => 4096,
            _ => 1 + rng.below(5000),
        };
        if size > len && rng.below(8) == 0 {
            let at = rng.below(size - len) as u64;
            return Self::Write {
                path,
                at,
                len,
                seed,
                how: How::Mapped,
            };
        }
        let limit = if path == "big" { BIG } else { SMALL };
        let at = if rng.below(2) == 0 {
            rng.below(size + 1)
        } else {
            rng.below(limit)
        };
        let how = if rng.below(12) == 0 {
            How::Synchronous
        } else {
            How::Plain
        };
        Self::Write {
            path,
            at: at.min(limit) as u64,
            len,
            seed,
            how,
        }
    }

    /// Whether it changes bytes of a file, and so can be seen half done.
    pub(crate) fn is_of_bytes(&self) -> bool {
        matches!(
            self,
            Self::Write { .. } | Self::Append { .. } | Self::Truncate(..) | Self::Punch(..)
        )
    }

    /// The file whose bytes it changes or syncs.
    pub(crate) fn file(&self) -> Option<&str> {
        match self {
            Self::Write { path, .. }
            | Self::Append { path, .. }
            | Self::Truncate(path, _)
            | Self::Punch(path, ..)
            | Self::Fsync(path) => Some(path),
            _ => None,
        }
    }
}

impl Op {
    /// The paths whose objects get or lose a name by it.
    pub(crate) fn renames(&self) -> Vec<&str> {
        match self {
            Self::Exchange(a, b) => vec![a, b],
            Self::Rename(path, _)
            | Self::Link(path, _)
            | Self::Unlink(path)
            | Self::Orphan(path, _) => vec![path],
            _ => Vec::new(),
        }
    }
}

/// Descriptors that stay open between ops, by node of the model: what was renamed or unlinked since
/// is written to through them.
pub(crate) type Held = BTreeMap<usize, File>;

fn open(path: &Path, flags: OFlags) -> Result<File> {
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC | flags, 0o644.into()).map(File::from)
}

fn on_file<T>(
    held: &Held,
    id: Option<usize>,
    path: &Path,
    call: impl Fn(&File) -> Result<T>,
) -> Result<T> {
    match id.and_then(|id| held.get(&id)) {
        Some(file) => call(file),
        None => call(&open(path, OFlags::empty())?),
    }
}

/// Writes everything. After a short write the rest is tried, which says why it was short: the disk
/// is full, or the kernel had made two requests of it and the daemon died between them.
fn whole(mut write: impl FnMut(&[u8], u64) -> std::io::Result<usize>, bytes: &[u8]) -> Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match write(&bytes[done..], done as u64) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(n) => done += n,
            Err(e) => return Err(Errno::from_io_error(&e).unwrap_or(Errno::IO)),
        }
    }
    Ok(())
}

fn store(file: &File, at: u64, content: &[u8]) -> Result<()> {
    let start = at / 4096 * 4096;
    let skip = usize::try_from(at - start).expect("less than a page");
    let map = Map::new(file, start, skip + content.len(), true, true)?;
    map.put(skip, content);
    map.sync()
}

impl Op {
    /// Does it below `root`. `id` is the node that the model has for its (first) path.
    pub(crate) fn carry_out(&self, root: &Path, held: &Held, id: Option<usize>) -> Result<()> {
        let at = |path: &str| root.join(path);
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        match self {
            Self::Create(path, mode) => {
                let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                rustix::fs::open(at(path), flags, (*mode).into()).map(drop)
            }
            Self::Write {
                path,
                at: offset,
                len,
                seed,
                how,
            } => {
                let content = bytes(*seed, *len);
                match how {
                    How::Plain => on_file(held, id, &at(path), |f| {
                        whole(|rest, done| f.write_at(rest, offset + done), &content)
                    }),
                    How::Synchronous => {
                        let file = open(&at(path), OFlags::SYNC)?;
                        whole(|rest, done| file.write_at(rest, offset + done), &content)
                    }
                    How::Mapped => on_file(held, id, &at(path), |f| store(f, *offset, &content)),
                }
            }
            Self::Append { path, len, seed } => {
                let file = open(&at(path), OFlags::APPEND)?;
                let append = |rest: &[u8], _| std::io::Write::write(&mut &file, rest);
                whole(append, &bytes(*seed, *len))
            }
            Self::Truncate(path, len) => {
                on_file(held, id, &at(path), |f| rustix::fs::ftruncate(f, *len))
            }
            Self::Punch(path, offset, len) => {
                let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                on_file(held, id, &at(path), |f| {
                    rustix::fs::fallocate(f, mode, *offset, *len)
                })
            }
            Self::Rename(from, to) => rustix::fs::rename(at(from), at(to)),
            Self::Exchange(a, b) => {
                rustix::fs::renameat_with(CWD, at(a), CWD, at(b), RenameFlags::EXCHANGE)
            }
            Self::Link(from, to) => rustix::fs::link(at(from), at(to)),
            Self::Unlink(path) => rustix::fs::unlink(at(path)),
            Self::Orphan(path, len) => {
                let file = open(&at(path), OFlags::empty())?;
                rustix::fs::unlink(at(path))?;
                match whole(|rest, done| file.write_at(rest, done), &vec![b'o'; *len]) {
                    Err(Errno::NOSPC | Errno::DQUOT) => Ok(()),
                    other => other,
                }
            }
            Self::Mkdir(path, mode) => rustix::fs::mkdir(at(path), (*mode).into()),
            Self::Rmdir(path) => rustix::fs::rmdir(at(path)),
            Self::Chmod(path, mode) => rustix::fs::chmod(at(path), (*mode).into()),
            Self::Chown(path, uid, gid) => {
                let (uid, gid) = (Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)));
                rustix::fs::chownat(CWD, at(path), uid, gid, nofollow)
            }
            Self::SetXattr(path, name, len, seed) => {
                let value = bytes(*seed, *len);
                rustix::fs::lsetxattr(at(path), &**name, &value, XattrFlags::empty())
            }
            Self::RemoveXattr(path, name) => rustix::fs::lremovexattr(at(path), &**name),
            Self::Symlink(path, target) => rustix::fs::symlink(&**target, at(path)),
            Self::Times(path, tv_sec, tv_nsec) => {
                let time = Timespec {
                    tv_sec: *tv_sec,
                    tv_nsec: *tv_nsec,
                };
                let times = Timestamps {
                    last_access: time,
                    last_modification: time,
                };
                rustix::fs::utimensat(CWD, at(path), &times, nofollow)
            }
            Self::Fsync(path) => on_file(held, id, &at(path), |f| rustix::fs::fsync(f)),
            Self::SyncDir(path) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                rustix::fs::fsync(rustix::fs::open(at(path), flags, 0o000.into())?)
            }
        }
    }
}
