// SPDX-License-Identifier: MIT
//! The workloads: each is prepared (paths made, files opened, caches warmed) and then done.

use std::collections::HashMap;
use std::ffi::CString;
use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

/// What went wrong, in words.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Failure {
    fn from(what: &str) -> Self {
        Self(what.to_owned())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self(errno.to_string())
    }
}

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) ops: u64,
    pub(crate) bytes: u64,
}

/// The timed part of a workload.
pub(crate) type Job<'a> = Box<dyn FnMut() -> Result<Done, Failure> + 'a>;

/// `files=5000 bytes=4096 ...`
#[derive(Debug, Default)]
pub(crate) struct Settings(HashMap<String, u64>);

impl Settings {
    pub(crate) fn parse<'a>(words: impl Iterator<Item = &'a str>) -> Result<Self, Failure> {
        let mut all = HashMap::new();
        for word in words {
            let (name, value) = word.split_once('=').ok_or("a setting is NAME=NUMBER")?;
            let value = value
                .parse()
                .map_err(|_| Failure(format!("{word}: no number")))?;
            let _ = all.insert(name.to_owned(), value);
        }
        Ok(Self(all))
    }

    fn get(&self, name: &str, default: u64) -> u64 {
        self.0.get(name).copied().unwrap_or(default)
    }

    fn size(&self, name: &str, default: u64) -> Result<usize, Failure> {
        usize::try_from(self.get(name, default)).map_err(|_| Failure(format!("{name}: too large")))
    }
}

/// This worker's directory in each tree.
#[derive(Debug)]
pub(crate) struct Trees {
    roots: Vec<PathBuf>,
}

impl Trees {
    pub(crate) fn new(roots: Vec<PathBuf>) -> Result<Self, Failure> {
        if roots.is_empty() {
            return Err("no tree given".into());
        }
        for root in &roots {
            std::fs::create_dir_all(root)?;
        }
        Ok(Self { roots })
    }

    /// A path in each tree.
    fn each(&self, relative: impl AsRef<Path>) -> Result<Vec<CString>, Failure> {
        let relative = relative.as_ref();
        let path = |root: &PathBuf| CString::new(root.join(relative).into_os_string().into_vec());
        let paths: Result<Vec<_>, _> = self.roots.iter().map(path).collect();
        paths.map_err(|_| "a path holds NUL".into())
    }

    fn open(&self, name: &str, flags: OFlags) -> Result<Vec<OwnedFd>, Failure> {
        let paths = self.each(name)?;
        let open = |path: &CString| rustix::fs::open(path, flags, FILE_MODE);
        Ok(paths.iter().map(open).collect::<Result<_, _>>()?)
    }
}

const FILE_MODE: Mode = Mode::from_raw_mode(0o644);
const DIR_MODE: Mode = Mode::from_raw_mode(0o755);

/// Names in one directory, at most: as in source trees, and unlike a mail spool.
const FAN: u64 = 1000;

/// Reproducible numbers (xorshift64).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }
}

/// Bytes that neither compress to nothing nor repeat within a block.
fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let words = std::iter::repeat_with(|| random.below(u64::MAX).to_le_bytes());
    words.flatten().take(len).collect()
}

/// Says what a workload does; the timed part is what it returns.
pub(crate) fn prepare<'a>(
    name: &str,
    trees: &'a Trees,
    settings: &Settings,
) -> Result<Job<'a>, Failure> {
    match name {
        "seqwrite" => seqwrite(trees, settings),
        "seqread" => seqread(trees, settings),
        "overwrite" => overwrite(trees, settings),
        "append" => append(trees, settings),
        "create" => create(trees, settings),
        "rewrite" => rewrite(trees, settings),
        "stat" => on_files(trees, settings, true, |p| {
            rustix::fs::statat(CWD, p, AtFlags::empty()).map(|_| 0)
        }),
        "read" => read(trees, settings),
        "chmod" => {
            let mode = u32::try_from(settings.get("mode", 0o600)).unwrap_or(0o600);
            on_files(trees, settings, false, move |p| {
                rustix::fs::chmod(p, Mode::from_raw_mode(mode)).map(|()| 0)
            })
        }
        "rename" => rename(trees, settings),
        "unlink" => on_files(trees, settings, false, |p| {
            rustix::fs::unlink(p).map(|()| 0)
        }),
        "mkdir" => mkdir(trees, settings),
        "rmdir" => on_names(trees, settings, "dirs", 'd', false, |p| {
            rustix::fs::rmdir(p).map(|()| 0)
        }),
        _ => Err(Failure(format!("{name}: no such workload"))),
    }
}

fn write_all(fd: &OwnedFd, mut bytes: &[u8], mut at: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let n = rustix::io::pwrite(fd, bytes, at)?;
        bytes = &bytes[n..];
        at += n as u64;
    }
    Ok(())
}

/// A new file of `total` bytes in blocks of `bs`, opened and closed within the time; with `fsync=1`
/// synced too.
fn seqwrite<'a>(trees: &'a Trees, settings: &Settings) -> Result<Job<'a>, Failure> {
    let block = pattern(settings.size("bs", 1 << 20)?, settings.get("seed", 1));
    let blocks = settings.get("total", 1 << 28) / block.len() as u64;
    let sync = settings.get("fsync", 0) == 1;
    let name = format!("seq-{}", block.len());
    for path in trees.each(&name)? {
        match rustix::fs::unlink(path) {
            Err(errno) if errno != Errno::NOENT => return Err(errno.into()),
            _ => {}
        }
    }
    Ok(Box::new(move || {
        let fds = trees.open(&name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
        for i in 0..blocks {
            for fd in &fds {
                write_all(fd, &block, i * block.len() as u64)?;
            }
        }
        if sync {
            fds.iter().try_for_each(rustix::fs::fsync)?;
        }
        Ok(Done {
            ops: blocks,
            bytes: blocks * block.len() as u64,
        })
    }))
}

/// Reads the file that `seqwrite` left, `bs` at a time; `warm=1` reads it once before.
fn seqread<'a>(trees: &'a Trees, settings: &Settings) -> Result<Job<'a>, Failure> {
    let mut buffer = vec![0; settings.size("bs", 1 << 20)?];
    let name = format!("seq-{}", settings.get("file", 1 << 20));
    let passes = settings.get("passes", 1);
    let mut pass = move || -> Result<Done, Failure> {
        let mut done = Done::default();
        let fds = trees.open(&name, OFlags::RDONLY)?;
        loop {
            let n = rustix::io::read(&fds[0], &mut buffer)?;
            if n == 0 {
                return Ok(done);
            }
            done.ops += 1;
            done.bytes += n as u64;
        }
    };
    if settings.get("warm", 1) == 1 {
        let _ = pass()?;
    }
    Ok(Box::new(move || {
        let mut all = Done::default();
        for _ in 0..passes {
            let done = pass()?;
            all.ops += done.ops;
            all.bytes += done.bytes;
        }
        Ok(all)
    }))
}

/// Writes `ops` blocks of `bs` into an existing, cached file of `total` bytes, one after the other
/// or (`random=1`) anywhere; with `fsync=1` each is synced before the next.
fn overwrite<'a>(trees: &'a Trees, settings: &Settings) -> Result<Job<'a>, Failure> {
    let bs = settings.size("bs", 4096)?;
    let (total, ops) = (settings.get("total", 64 << 20), settings.get("ops", 10_000));
    let (random, sync) = (
        settings.get("random", 0) == 1,
        settings.get("fsync", 0) == 1,
    );
    let sparse = settings.get("sparse", 0) == 1;
    let name = if sparse { "sparse" } else { "overwritten" };
    let large = pattern(1 << 20, 2);
    for path in trees.each(name)? {
        if rustix::fs::stat(&path).is_ok_and(|s| u64::try_from(s.st_size) == Ok(total)) {
            continue;
        }
        let fd = rustix::fs::open(&path, OFlags::WRONLY | OFlags::CREATE, FILE_MODE)?;
        if sparse {
            rustix::fs::ftruncate(&fd, total)?;
            continue;
        }
        for at in (0..total).step_by(large.len()) {
            write_all(&fd, &large, at)?;
        }
        rustix::fs::fsync(&fd)?;
    }
    let fds = trees.open(name, OFlags::RDWR)?;
    let mut buffer = large;
    let (buffer_len, blocks) = (buffer.len() as u64, total / bs as u64);
    for fd in fds.iter().filter(|_| !sparse) {
        for at in (0..total).step_by(buffer.len()) {
            let _ = rustix::io::pread(fd, &mut buffer, at.min(total - buffer_len))?;
        }
    }
    let block = pattern(bs, settings.get("seed", 3));
    let mut numbers = Random(0x2545_f491_4f6c_dd1d);
    Ok(Box::new(move || {
        for i in 0..ops {
            let index = if random {
                numbers.below(blocks)
            } else {
                i % blocks
            };
            for fd in &fds {
                write_all(fd, &block, index * bs as u64)?;
                if sync {
                    rustix::fs::fsync(fd)?;
                }
            }
        }
        Ok(Done {
            ops,
            bytes: ops * bs as u64,
        })
    }))
}

/// Appends `ops` lines of `bs` bytes to a new file.
fn append<'a>(trees: &'a Trees, settings: &Settings) -> Result<Job<'a>, Failure> {
    let bs = settings.size("bs", 100)?;
    let ops = settings.get("ops", 10_000);
    let mut line = vec![b'x'; bs];
    if let Some(last) = line.last_mut() {
        *last = b'\n';
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::TRUNC;
    let fds = trees.open("appended", flags)?;
    Ok(Box::new(move || {
        for _ in 0..ops {
            for fd in &fds {
                if rustix::io::write(fd, &line)? != bs {
                    return Err("a short append".into());
                }
            }
        }
        Ok(Done {
            ops,
            bytes: ops * bs as u64,
        })
    }))
}

/// The paths of numbered names, in directories of `FAN`; each in every tree. `pick=N` takes N of
/// them, spread over all, `from=N` leaves out the first N.
fn numbered(
    trees: &Trees,
    settings: &Settings,
    top: &str,
    letter: char,
) -> Result<Vec<Vec<CString>>, Failure> {
    let (files, from) = (settings.get("files", 5000), settings.get("from", 0));
    let pick = settings.get("pick", files).clamp(1, files.max(1));
    let path = |i: u64| {
        let i = from + i * files / pick;
        trees.each(format!("{top}/{}/{letter}{i}", i / FAN))
    };
    (0..pick).map(path).collect()
}

/// The directories that numbered names go to.
fn make_parents(trees: &Trees, settings: &Settings, top: &str) -> Result<(), Failure> {
    let (files, from) = (settings.get("files", 5000), settings.get("from", 0));
    for root in &trees.roots {
        for dir in from / FAN..=(from + files.max(1) - 1) / FAN {
            std::fs::create_dir_all(root.join(format!("{top}/{dir}")))?;
        }
    }
    Ok(())
}

/// `passes` times the same operation on every name; `warm` does it once before.
fn on_names<'a>(
    trees: &'a Trees,
    settings: &Settings,
    top: &str,
    letter: char,
    warm: bool,
    mut one: impl FnMut(&CString) -> Result<usize, Errno> + 'a,
) -> Result<Job<'a>, Failure> {
    let renamed = settings.get("renamed", 0) == 1;
    let names = numbered(trees, settings, top, if renamed { 'g' } else { letter })?;
    let passes = settings.get("passes", 1);
    let mut pass = move || -> Result<u64, Errno> {
        let mut bytes = 0;
        for path in names.iter().flatten() {
            bytes += one(path)? as u64;
        }
        Ok(bytes)
    };
    if warm && settings.get("warm", 1) == 1 {
        let _ = pass()?;
    }
    let ops = settings.get("pick", settings.get("files", 5000)) * passes;
    Ok(Box::new(move || {
        let mut done = Done { ops, bytes: 0 };
        for _ in 0..passes {
            done.bytes += pass()?;
        }
        Ok(done)
    }))
}

fn on_files<'a>(
    trees: &'a Trees,
    settings: &Settings,
    warm: bool,
    one: impl FnMut(&CString) -> Result<usize, Errno> + 'a,
) -> Result<Job<'a>, Failure> {
    on_names(trees, settings, "small", 'f', warm, one)
}

/// Creates, writes and closes small files; their directories are made before.
fn create<'a>(trees: &'a Trees, settings: &Settings) -> Result<Job<'a>, Failure> {
    make_parents(trees, settings, "small")?;
    let content = pattern(settings.size("bytes", 4096)?, 5);
    on_files(trees, settings, false, move |path| {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let fd = rustix::fs::open(path, flags, FILE_MODE)?;
        write_all(&fd, &content, 0)?;
        Ok(content.len())
    })
}

/// Writes small files anew that are there already, `fan` in each directory.
fn rewrite<'a>(trees: &'a Trees, settings: &Settings) -> Result<Job<'a>, Failure> {
    let (files, fan) = (settings.get("files", 1000), settings.get("fan", 10).max(1));
    let content = pattern(settings.size("bytes", 4096)?, 6);
    let mut all = Vec::new();
    for number in 0..files {
        if number % fan == 0 {
            for root in &trees.roots {
                std::fs::create_dir_all(root.join(format!("again/{}", number / fan)))?;
            }
        }
        let paths = trees.each(format!("again/{}/f{number}", number / fan))?;
        for path in &paths {
            let fd = rustix::fs::open(path, OFlags::WRONLY | OFlags::CREATE, FILE_MODE)?;
            write_all(&fd, &content[..content.len() / 2], 0)?;
        }
        all.push(paths);
    }
    Ok(Box::new(move || {
        for path in all.iter().flatten() {
            let fd = rustix::fs::open(path, OFlags::WRONLY, FILE_MODE)?;
            write_all(&fd, &content, 0)?;
        }
        let bytes = files * content.len() as u64;
        Ok(Done { ops: files, bytes })
    }))
}

fn read<'a>(trees: &'a Trees, settings: &Settings) -> Result<Job<'a>, Failure> {
    let mut buffer = vec![0; settings.size("bytes", 4096)? + 1];
    let expected = buffer.len() - 1;
    on_files(trees, settings, true, move |path| {
        let fd = rustix::fs::open(path, OFlags::RDONLY, Mode::empty())?;
        let n = rustix::io::read(&fd, &mut buffer)?;
        if n == expected { Ok(n) } else { Err(Errno::IO) }
    })
}

/// Renames within the directory: `f7` becomes `g7`, which `renamed=1` names from then on.
fn rename<'a>(trees: &'a Trees, settings: &Settings) -> Result<Job<'a>, Failure> {
    let from = numbered(trees, settings, "small", 'f')?;
    let to = numbered(trees, settings, "small", 'g')?;
    let ops = from.len() as u64;
    Ok(Box::new(move || {
        for (old, new) in from.iter().flatten().zip(to.iter().flatten()) {
            rustix::fs::rename(old, new)?;
        }
        Ok(Done { ops, bytes: 0 })
    }))
}

fn mkdir<'a>(trees: &'a Trees, settings: &Settings) -> Result<Job<'a>, Failure> {
    make_parents(trees, settings, "dirs")?;
    on_names(trees, settings, "dirs", 'd', false, |path| {
        rustix::fs::mkdir(path, DIR_MODE).map(|()| 0)
    })
}
