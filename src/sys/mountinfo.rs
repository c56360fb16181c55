// SPDX-License-Identifier: MIT
//! `/proc/self/mountinfo`: what is mounted where, asked without touching any of it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxFlags};

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;

/// One line of mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The id of this mount, unique while it exists.
    pub id: u64,
    /// The id of the mount it is mounted on.
    pub parent: u64,
    /// `st_dev` of the file system, major.
    pub major: u32,
    /// `st_dev` of the file system, minor.
    pub minor: u32,
    /// The directory of the file system that is the root of this mount.
    pub root: PathBuf,
    /// Where it is mounted.
    pub target: PathBuf,
    /// Options of the mount (`rw,nosuid,...`).
    pub options: String,
    /// Type, with its subtype (`fuse.mirrorfs`).
    pub fstype: String,
    /// What was mounted.
    pub source: OsString,
    /// Options of the file system (`rw,user_id=0,...`).
    pub super_options: String,
}

impl Mount {
    /// Whether this is one of our mounts.
    #[must_use]
    pub fn is_mirror(&self) -> bool {
        self.fstype == "fuse.mirrorfs"
    }

    /// Whether the mount itself carries `word` (`nosuid`, `ro`, ...).
    #[must_use]
    pub fn has(&self, word: &str) -> bool {
        self.options.split(',').any(|o| o == word)
    }

    /// The user who mounted a FUSE file system.
    #[must_use]
    pub fn user_id(&self) -> Option<u32> {
        self.number_of("user_id=")
    }

    /// The group of the user who mounted a FUSE file system.
    #[must_use]
    pub fn group_id(&self) -> Option<u32> {
        self.number_of("group_id=")
    }

    /// The number of its file system: the same for all mounts of it.
    #[must_use]
    pub fn device(&self) -> (u32, u32) {
        (self.major, self.minor)
    }

    fn number_of(&self, name: &str) -> Option<u32> {
        let mut words = self.super_options.split(',');
        words.find_map(|o| o.strip_prefix(name)?.parse().ok())
    }
}

/// Everything mounted in this mount namespace.
///
/// # Errors
/// When `/proc` is not there.
pub fn read() -> io::Result<Vec<Mount>> {
    Table::open()?.read()
}

/// The file with all mounts, kept open to be read again and again: even by a process that has
/// run out of descriptors.
#[derive(Debug)]
pub struct Table(File);

impl Table {
    /// Opens the table of this mount namespace.
    ///
    /// # Errors
    /// When `/proc` is not there.
    pub fn open() -> io::Result<Self> {
        super::files::open(Path::new("/proc/self/mountinfo")).map(Self)
    }

    /// Everything mounted now.
    ///
    /// # Errors
    /// Whatever read says.
    pub fn read(&self) -> io::Result<Vec<Mount>> {
        let mut text = Vec::new();
        let mut part = [0; 4096];
        loop {
            match self.0.read_at(&mut part, text.len() as u64)? {
                0 => return Ok(parse(&text)),
                n => text.extend_from_slice(&part[..n]),
            }
        }
    }
}

/// Reads the lines of a mountinfo file; a line that makes no sense is left out.
#[must_use]
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|b| *b == b'\n').filter_map(line).collect()
}

fn line(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|b| *b == b' ');
    let id = number(words.next()?)?;
    let parent = number(words.next()?)?;
    let device = std::str::from_utf8(words.next()?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let root = PathBuf::from(unescape(words.next()?));
    let target = PathBuf::from(unescape(words.next()?));
    let options = String::from_utf8_lossy(words.next()?).into_owned();
    words.by_ref().find(|w| *w == b"-")?;
    let fstype = unescape(words.next()?).to_string_lossy().into_owned();
    let source = unescape(words.next()?);
    let super_options = String::from_utf8_lossy(words.next().unwrap_or_default()).into_owned();
    Some(Mount {
        id,
        parent,
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        root,
        target,
        options,
        fstype,
        source,
        super_options,
    })
}

fn number(word: &[u8]) -> Option<u64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// Undoes the kernel's `\040` escapes.
fn unescape(word: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let [first, tail @ ..] = rest {
        if *first == b'\\' && tail.len() >= 3 && tail[..3].iter().all(|d| (b'0'..=b'7').contains(d))
        {
            out.push((tail[0] - b'0') << 6 | (tail[1] - b'0') << 3 | (tail[2] - b'0'));
            rest = &tail[3..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    OsString::from_vec(out)
}

/// The mount one sees at `target`: of several stacked there, the uppermost.
#[must_use]
pub fn at<'a>(mounts: &'a [Mount], target: &Path) -> Option<&'a Mount> {
    let here = |m: &&Mount| m.target.as_os_str() == target.as_os_str();
    let covered = |m: &Mount| {
        mounts
            .iter()
            .filter(here)
            .any(|o| o.parent == m.id && o.id != m.id)
    };
    mounts.iter().filter(here).rfind(|m| !covered(m))
}

/// The mount with this id.
#[must_use]
pub fn by_id(mounts: &[Mount], id: u64) -> Option<&Mount> {
    mounts.iter().find(|m| m.id == id)
}

/// Mounts strictly below `directory`.
pub fn below<'a>(mounts: &'a [Mount], directory: &Path) -> impl Iterator<Item = &'a Mount> {
    let directory = directory.to_owned();
    mounts
        .iter()
        .filter(move |m| m.target != directory && m.target.starts_with(&directory))
}

/// The id of the mount through which `fd` was opened.
///
/// # Errors
/// Whatever statx says.
pub fn id_of(fd: BorrowedFd<'_>) -> super::Result<u64> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(fd, OsStr::from_bytes(b""), flags, StatxFlags::MNT_ID)?;
    Ok(stat.stx_mnt_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[u8] = b"\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard\n\
30 22 0:40 / /data rw,nosuid,nodev,relatime - fuse.mirrorfs /srv/a\\040b,c rw,user_id=1000,group_id=1000\n\
31 30 0:41 / /data rw - fuse.mirrorfs /srv/top rw,user_id=0,group_id=0\n\
32 22 254:0 /srv/x /mnt/sp\\040ace ro - ext4 /dev/vda rw\n\
nonsense\n";

    #[test]
    fn lines_are_split_and_unescaped() {
        let mounts = parse(SAMPLE);
        assert_eq!(mounts.len(), 4);
        assert_eq!(mounts[1].source, "/srv/a b,c");
        assert_eq!(mounts[1].user_id(), Some(1000));
        assert!(mounts[1].is_mirror() && mounts[1].has("nodev") && !mounts[1].has("ro"));
        assert_eq!(mounts[3].target, Path::new("/mnt/sp ace"));
        assert_eq!(mounts[3].root, Path::new("/srv/x"));
    }

    #[test]
    fn the_uppermost_of_two_is_seen() {
        let mounts = parse(SAMPLE);
        assert_eq!(at(&mounts, Path::new("/data")).map(|m| m.id), Some(31));
        assert_eq!(at(&mounts, Path::new("/")).map(|m| m.id), Some(22));
        assert_eq!(at(&mounts, Path::new("/nowhere")), None);
    }

    #[test]
    fn below_is_by_component() {
        let mounts = parse(SAMPLE);
        let names: Vec<_> = below(&mounts, Path::new("/mnt")).map(|m| m.id).collect();
        assert_eq!(names, [32]);
        assert_eq!(below(&mounts, Path::new("/dat")).count(), 0);
    }
}
