// SPDX-License-Identifier: MIT
//! The model: a directory tree in memory, read from a real one or grown op by op.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::io::Errno;

use super::op::{Op, bytes};

/// What a node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    File(Vec<u8>),
    Dir(BTreeMap<String, usize>),
    Symlink(String),
}

/// One inode.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) body: Body,
    mode: u32,
    owner: (u32, u32),
    xattrs: BTreeMap<String, Vec<u8>>,
    /// Where it is known: set by utimens and not touched since, or read from a tree.
    mtime: Option<(i64, i64)>,
    names: u32,
    /// A call that changes its bytes failed half way: size and content are not known.
    unsure: bool,
}

/// Inodes by number; 0 is the top, whose own attributes are not looked at.
#[derive(Clone, Debug)]
pub(crate) struct Model(Vec<Node>);

fn node(body: Body, mode: u32) -> Node {
    Node {
        body,
        mode,
        owner: (0, 0),
        xattrs: BTreeMap::new(),
        mtime: None,
        names: 1,
        unsure: false,
    }
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl Model {
    /// An empty directory.
    pub(crate) fn new() -> Self {
        Self(vec![node(Body::Dir(BTreeMap::new()), 0o755)])
    }

    /// What is below `root` now.
    pub(crate) fn scan(root: &Path) -> std::io::Result<Self> {
        let mut model = Self::new();
        model.scan_into(0, root, &mut BTreeMap::new())?;
        Ok(model)
    }

    fn scan_into(
        &mut self,
        dir: usize,
        path: &Path,
        linked: &mut BTreeMap<u64, usize>,
    ) -> std::io::Result<()> {
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            let (at, facts) = (entry.path(), entry.path().symlink_metadata()?);
            let name = entry.file_name().to_string_lossy().into_owned();
            let known = linked.get(&facts.ino()).copied();
            let id = match known {
                Some(id) if !facts.is_dir() => {
                    self.0[id].names += 1;
                    id
                }
                _ => {
                    let body = if facts.is_dir() {
                        Body::Dir(BTreeMap::new())
                    } else if facts.file_type().is_symlink() {
                        Body::Symlink(std::fs::read_link(&at)?.to_string_lossy().into_owned())
                    } else if facts.file_type().is_fifo() {
                        Body::Symlink("a fifo".to_owned())
                    } else {
                        Body::File(std::fs::read(&at)?)
                    };
                    let mut new = node(body, facts.mode() & 0o7777);
                    new.owner = (facts.uid(), facts.gid());
                    new.mtime = Some((facts.mtime(), facts.mtime_nsec()));
                    if facts.is_file() {
                        new.xattrs = xattrs(&at)?;
                    }
                    self.0.push(new);
                    linked.insert(facts.ino(), self.0.len() - 1);
                    self.0.len() - 1
                }
            };
            self.entries_mut(dir).insert(name, id);
            if facts.is_dir() {
                self.scan_into(id, &at, linked)?;
            }
        }
        Ok(())
    }

    /// A node by its number.
    pub(crate) fn node(&self, id: usize) -> &Node {
        &self.0[id]
    }

    fn entries(&self, id: usize) -> Option<&BTreeMap<String, usize>> {
        match &self.0[id].body {
            Body::Dir(entries) => Some(entries),
            _ => None,
        }
    }

    fn entries_mut(&mut self, id: usize) -> &mut BTreeMap<String, usize> {
        match &mut self.0[id].body {
            Body::Dir(entries) => entries,
            _ => unreachable!("a directory"),
        }
    }

    /// The node at a path.
    pub(crate) fn find(&self, path: &str) -> Option<usize> {
        path.split('/')
            .filter(|name| !name.is_empty())
            .try_fold(0, |id, name| self.entries(id)?.get(name).copied())
    }

    /// The bytes of a file.
    pub(crate) fn content(&self, id: usize) -> Option<&Vec<u8>> {
        match &self.0[id].body {
            Body::File(data) => Some(data),
            _ => None,
        }
    }

    /// The size of the file at a path.
    pub(crate) fn size(&self, path: &str) -> usize {
        let data = self.find(path).and_then(|id| self.content(id));
        data.map_or(0, Vec::len)
    }

    /// Every name below the top, in order.
    pub(crate) fn paths(&self) -> Vec<(String, usize)> {
        let mut found = Vec::new();
        let mut todo = vec![(String::new(), 0)];
        while let Some((path, id)) = todo.pop() {
            for (name, &below) in self.entries(id).into_iter().flatten() {
                let child = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}/{name}")
                };
                found.push((child.clone(), below));
                todo.push((child, below));
            }
        }
        found
    }

    /// What is in a directory.
    pub(crate) fn children(&self, dir: usize) -> Vec<usize> {
        let entries = self.entries(dir).into_iter();
        entries.flat_map(|e| e.values().copied()).collect()
    }

    /// Whether the model foretells success.
    pub(crate) fn permits(&self, op: &Op) -> bool {
        self.check(op).is_ok()
    }

    fn parent(&self, path: &str) -> Result<usize, Errno> {
        let dir = self.find(split(path).0).ok_or(Errno::NOENT)?;
        self.entries(dir).map(|_| dir).ok_or(Errno::NOTDIR)
    }

    fn free(&self, path: &str) -> Result<(), Errno> {
        let dir = self.parent(path)?;
        let taken = self
            .entries(dir)
            .is_some_and(|e| e.contains_key(split(path).1));
        if taken { Err(Errno::EXIST) } else { Ok(()) }
    }

    fn file(&self, path: &str) -> Result<usize, Errno> {
        let id = self.find(path).ok_or(Errno::NOENT)?;
        self.content(id).map(|_| id).ok_or(Errno::INVAL)
    }

    fn dir(&self, path: &str) -> Result<usize, Errno> {
        let id = self.find(path).ok_or(Errno::NOENT)?;
        self.entries(id).map(|_| id).ok_or(Errno::NOTDIR)
    }

    fn check(&self, op: &Op) -> Result<(), Errno> {
        match op {
            Op::Create(path, _) | Op::Mkdir(path, _) | Op::Symlink(path, _) => self.free(path),
            Op::Write {
                path, at, len, how, ..
            } => {
                let id = self.file(path)?;
                let end = usize::try_from(*at).expect("small") + len;
                let size = self.content(id).map_or(0, Vec::len);
                if *how == super::op::How::Mapped && end > size {
                    return Err(Errno::NXIO);
                }
                Ok(())
            }
            // One with other names could be seen half done there.
            Op::Orphan(path, _) => match self.file(path)? {
                id if self.0[id].names == 1 => Ok(()),
                _ => Err(Errno::MLINK),
            },
            Op::Append { path, .. }
            | Op::Truncate(path, _)
            | Op::Punch(path, ..)
            | Op::Chmod(path, _)
            | Op::Chown(path, ..)
            | Op::SetXattr(path, ..)
            | Op::Times(path, ..)
            | Op::Fsync(path) => self.file(path).map(drop),
            Op::RemoveXattr(path, name) => {
                let id = self.file(path)?;
                let there = self.0[id].xattrs.contains_key(name);
                if there { Ok(()) } else { Err(Errno::NODATA) }
            }
            Op::Rename(from, to) => self.check_rename(from, to),
            Op::Exchange(a, b) => {
                self.file(a)?;
                self.file(b).map(drop)
            }
            Op::Link(from, to) => {
                self.file(from)?;
                self.free(to)
            }
            Op::Unlink(path) => match self.find(path).ok_or(Errno::NOENT)? {
                id if self.entries(id).is_some() => Err(Errno::ISDIR),
                _ => Ok(()),
            },
            Op::Rmdir(path) => {
                let id = self.dir(path)?;
                let empty = self.entries(id).is_some_and(BTreeMap::is_empty);
                if empty { Ok(()) } else { Err(Errno::NOTEMPTY) }
            }
            Op::SyncDir(path) => self.dir(path).map(drop),
        }
    }

    fn check_rename(&self, from: &str, to: &str) -> Result<(), Errno> {
        let id = self.find(from).ok_or(Errno::NOENT)?;
        let is_dir = self.entries(id).is_some();
        if is_dir && (to == from || to.starts_with(&format!("{from}/"))) {
            return Err(Errno::INVAL);
        }
        self.parent(to)?;
        match self.find(to) {
            None => Ok(()),
            Some(old) => match (is_dir, self.entries(old)) {
                (true, Some(entries)) if entries.is_empty() => Ok(()),
                (true, Some(_)) => Err(Errno::NOTEMPTY),
                (true, None) => Err(Errno::NOTDIR),
                (false, Some(_)) => Err(Errno::ISDIR),
                (false, None) => Ok(()),
            },
        }
    }

    fn unname(&mut self, path: &str) -> usize {
        let dir = self.parent(path).expect("checked");
        let id = self.entries_mut(dir).remove(split(path).1);
        let id = id.expect("checked");
        self.0[id].names -= 1;
        id
    }

    fn name(&mut self, path: &str, id: usize) {
        let dir = self.parent(path).expect("checked");
        let old = self.entries_mut(dir).insert(split(path).1.to_owned(), id);
        if let Some(old) = old {
            self.0[old].names -= 1;
        }
        self.0[id].names += 1;
    }

    fn born(&mut self, path: &str, body: Body, mode: u32) {
        let mut new = node(body, mode);
        new.names = 0;
        self.0.push(new);
        self.name(path, self.0.len() - 1);
    }

    /// The bytes of a file, about to be changed.
    fn data(&mut self, path: &str) -> &mut Vec<u8> {
        let id = self.file(path).expect("checked");
        self.0[id].mtime = None;
        match &mut self.0[id].body {
            Body::File(data) => data,
            _ => unreachable!("checked"),
        }
    }

    /// Does the op; or says how it has to fail, and does nothing.
    pub(crate) fn apply(&mut self, op: &Op) -> Result<(), Errno> {
        self.check(op)?;
        match op {
            Op::Create(path, mode) => self.born(path, Body::File(Vec::new()), *mode),
            Op::Mkdir(path, mode) => self.born(path, Body::Dir(BTreeMap::new()), *mode),
            Op::Symlink(path, target) => self.born(path, Body::Symlink(target.clone()), 0o777),
            Op::Write {
                path,
                at,
                len,
                seed,
                ..
            } => put(
                self.data(path),
                usize::try_from(*at).expect("small"),
                &bytes(*seed, *len),
            ),
            Op::Append { path, len, seed } => {
                self.data(path).extend_from_slice(&bytes(*seed, *len));
            }
            Op::Truncate(path, len) => {
                self.data(path)
                    .resize(usize::try_from(*len).expect("small"), 0);
            }
            Op::Punch(path, at, len) => {
                let data = self.data(path);
                let start = usize::try_from(*at).expect("small").min(data.len());
                let end = usize::try_from(at + len).expect("small").min(data.len());
                data[start..end].fill(0);
            }
            Op::Rename(from, to) => {
                let id = self.find(from).expect("checked");
                // Two names of one file: POSIX says that nothing happens.
                if self.find(to) != Some(id) {
                    self.unname(from);
                    self.name(to, id);
                }
            }
            Op::Exchange(a, b) => {
                let (x, y) = (
                    self.find(a).expect("checked"),
                    self.find(b).expect("checked"),
                );
                let (dir_a, dir_b) = (self.parent(a)?, self.parent(b)?);
                self.entries_mut(dir_a).insert(split(a).1.to_owned(), y);
                self.entries_mut(dir_b).insert(split(b).1.to_owned(), x);
            }
            Op::Link(from, to) => {
                let id = self.find(from).expect("checked");
                self.name(to, id);
            }
            Op::Unlink(path) | Op::Rmdir(path) | Op::Orphan(path, _) => {
                self.unname(path);
            }
            Op::Chmod(path, mode) => self.change(path, |n| n.mode = *mode),
            Op::Chown(path, uid, gid) => self.change(path, |n| n.owner = (*uid, *gid)),
            Op::SetXattr(path, name, len, seed) => self.change(path, |n| {
                n.xattrs.insert(name.clone(), bytes(*seed, *len));
            }),
            Op::RemoveXattr(path, name) => self.change(path, |n| {
                n.xattrs.remove(name);
            }),
            Op::Times(path, s, ns) => self.change(path, |n| n.mtime = Some((*s, *ns))),
            Op::Fsync(_) | Op::SyncDir(_) => {}
        }
        Ok(())
    }

    fn change(&mut self, path: &str, how: impl FnOnce(&mut Node)) {
        let id = self.find(path).expect("checked");
        how(&mut self.0[id]);
    }

    /// Takes note of an op that failed, though the model did not foretell it: names are as they
    /// were, bytes are not known any more.
    pub(crate) fn failed(&mut self, op: &Op) {
        if let (true, Some(path)) = (op.is_of_bytes(), op.file())
            && let Some(id) = self.find(path)
        {
            self.0[id].unsure = true;
            self.0[id].mtime = None;
        }
    }

    /// Everything in which a tree is not as this model says. `half` is the model after an op of
    /// bytes that may be done in part.
    pub(crate) fn differences(&self, actual: &Self, half: Option<&Self>) -> Vec<String> {
        let mut found = Vec::new();
        let mut twins = BTreeMap::new();
        let mut todo = vec![(String::new(), 0, 0)];
        while let Some((path, mine, theirs)) = todo.pop() {
            let (Some(expected), Some(there)) = (self.entries(mine), actual.entries(theirs)) else {
                continue;
            };
            let names: BTreeSet<_> = expected.keys().chain(there.keys()).collect();
            for name in names {
                let child = format!("{path}/{name}");
                let (Some(&a), Some(&b)) = (expected.get(name), there.get(name)) else {
                    let lost = expected.contains_key(name);
                    found.push(format!(
                        "{child}: {}",
                        if lost { "lost" } else { "unheard of" }
                    ));
                    continue;
                };
                if *twins.entry(a).or_insert(b) != b {
                    found.push(format!("{child}: not one file with its other names"));
                }
                self.compare(&child, a, &actual.0[b], half, &mut found);
                todo.push((child, a, b));
            }
        }
        found
    }

    fn compare(
        &self,
        path: &str,
        id: usize,
        there: &Node,
        half: Option<&Self>,
        found: &mut Vec<String>,
    ) {
        let mine = &self.0[id];
        let mut differ = |what: String| found.push(format!("{path}: {what}"));
        match (&mine.body, &there.body) {
            (Body::File(_), Body::File(_)) if mine.unsure => {}
            (Body::File(a), Body::File(b)) => {
                let after = half.and_then(|half| half.content(id)).unwrap_or(a);
                let sizes = a.len().min(after.len())..=a.len().max(after.len());
                if !sizes.contains(&b.len()) {
                    differ(format!("{} bytes, not {sizes:?}", b.len()));
                } else if a != b && after != b {
                    let of = |v: &[u8], at: usize| v.get(at).copied().unwrap_or(0);
                    let odd = (0..b.len()).find(|&at| {
                        let byte = b[at];
                        byte != of(a, at) && byte != of(after, at)
                    });
                    if let Some(at) = odd {
                        differ(format!("at {at} {:#x}, not {:#x}", b[at], of(a, at)));
                    }
                }
            }
            (Body::Dir(_), Body::Dir(_)) => {}
            (a, b) if a == b => {}
            _ => differ("another kind of thing".to_owned()),
        }
        if matches!(mine.body, Body::Symlink(_)) {
            return;
        }
        if mine.mode != there.mode {
            differ(format!("mode {:o}, not {:o}", there.mode, mine.mode));
        }
        if mine.owner != there.owner {
            differ(format!("owner {:?}, not {:?}", there.owner, mine.owner));
        }
        if mine.xattrs != there.xattrs {
            let keys = |n: &Node| n.xattrs.keys().cloned().collect::<Vec<_>>();
            differ(format!("xattrs {:?}, not {:?}", keys(there), keys(mine)));
        }
        if matches!(mine.body, Body::File(_)) {
            if mine.names != there.names {
                differ(format!("{} names, not {}", there.names, mine.names));
            }
            let after = half.map(|half| half.0[id].mtime);
            if let Some(mtime) = mine.mtime
                && there.mtime != Some(mtime)
                && after.is_none_or(|after| after.is_some())
            {
                differ(format!("mtime {:?}, not {mtime:?}", there.mtime));
            }
        }
    }
}

fn put(data: &mut Vec<u8>, at: usize, content: &[u8]) {
    if content.is_empty() {
        return;
    }
    let end = at + content.len();
    if data.len() < end {
        data.resize(end, 0);
    }
    data[at..end].copy_from_slice(content);
}

fn xattrs(path: &Path) -> std::io::Result<BTreeMap<String, Vec<u8>>> {
    let mut names = vec![0; 65536];
    let len = rustix::fs::llistxattr(path, &mut names[..])?;
    let mut found = BTreeMap::new();
    for name in names[..len].split(|&b| b == 0) {
        if !name.starts_with(b"user.") {
            continue;
        }
        let mut value = vec![0; 65536];
        let len = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        value.truncate(len);
        found.insert(String::from_utf8_lossy(name).into_owned(), value);
    }
    Ok(found)
}
