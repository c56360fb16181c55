// SPDX-License-Identifier: MIT
//! Churn: random sequences of operations, kept in a model in memory; after every step the model,
//! the mount, the primary and the replica are the same tree, and every answer is the one the
//! model foretold. `MIRRORFS_CHURN` sequences (200 by default); a failure prints its seed and the
//! shortest sequence that shows it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, OFlags, RenameFlags, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::Errno;

use crate::support::compare::{Ignore, wait_equal};
use crate::support::mount::TestMount;
use crate::support::rng::seed;
use crate::support::{native, setting};

/// One step. Paths are of one to three components out of four names.
#[derive(Clone, Debug)]
enum Step {
    Create(Where, u32),
    Write {
        at: Where,
        offset: u64,
        len: usize,
        byte: u8,
    },
    Append {
        at: Where,
        len: usize,
        byte: u8,
    },
    Truncate(Where, u64),
    Punch {
        at: Where,
        offset: u64,
        len: u64,
    },
    Mkdir(Where, u32),
    Fifo(Where),
    Symlink(Where, u8),
    Link(Where, Where),
    Unlink(Where),
    Rmdir(Where),
    Rename(Where, Where, Flag),
    Chmod(Where, u32),
    Chown(Where, u32, u32),
    Times(Where, i64, i64),
    SetXattr(Where, u8, usize),
    RemoveXattr(Where, u8),
}

#[derive(Clone, Copy, Debug)]
enum Flag {
    Plain,
    NoReplace,
    Exchange,
}

type Where = Vec<u8>;

fn place() -> impl Strategy<Value = Where> {
    prop::collection::vec(0..4_u8, 1..=3)
}

fn step() -> impl Strategy<Value = Step> {
    let mode = || prop::sample::select(vec![0o644, 0o600, 0o755, 0o4755, 0o2711, 0o000]);
    let flag = prop::sample::select(vec![
        Flag::Plain,
        Flag::Plain,
        Flag::NoReplace,
        Flag::Exchange,
    ]);
    prop_oneof![
        4 => (place(), mode()).prop_map(|(p, m)| Step::Create(p, m)),
        4 => (place(), 0..20_000_u64, 1..9000_usize, any::<u8>())
            .prop_map(|(at, offset, len, byte)| Step::Write { at, offset, len, byte }),
        2 => (place(), 1..5000_usize, any::<u8>()).prop_map(|(at, len, byte)| Step::Append { at, len, byte }),
        2 => (place(), 0..30_000_u64).prop_map(|(p, n)| Step::Truncate(p, n)),
        1 => (place(), 0..20_000_u64, 1..9000_u64).prop_map(|(at, offset, len)| Step::Punch { at, offset, len }),
        4 => (place(), mode()).prop_map(|(p, m)| Step::Mkdir(p, m)),
        1 => place().prop_map(Step::Fifo),
        1 => (place(), any::<u8>()).prop_map(|(p, t)| Step::Symlink(p, t)),
        3 => (place(), place()).prop_map(|(a, b)| Step::Link(a, b)),
        3 => place().prop_map(Step::Unlink),
        2 => place().prop_map(Step::Rmdir),
        5 => (place(), place(), flag).prop_map(|(a, b, f)| Step::Rename(a, b, f)),
        2 => (place(), mode()).prop_map(|(p, m)| Step::Chmod(p, m)),
        1 => (place(), 0..3_u32, 0..3_u32).prop_map(|(p, u, g)| Step::Chown(p, u, g)),
        2 => (place(), -2_000_000_000..4_000_000_000_i64, 0..1_000_000_000_i64)
            .prop_map(|(p, s, n)| Step::Times(p, s, n)),
        2 => (place(), 0..3_u8, 0..300_usize).prop_map(|(p, n, l)| Step::SetXattr(p, n, l)),
        1 => (place(), 0..3_u8).prop_map(|(p, n)| Step::RemoveXattr(p, n)),
    ]
}

/// What the model knows of one inode.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    kind: FileType,
    mode: u32,
    owner: (u32, u32),
    data: Vec<u8>,
    xattrs: BTreeMap<String, Vec<u8>>,
    /// Set when it was set explicitly and nothing happened since.
    mtime: Option<(i64, i64)>,
    names: u32,
    /// Entries, when it is a directory.
    below: BTreeMap<u8, usize>,
}

/// The model: inodes by number, 0 is the root.
#[derive(Clone, Debug)]
struct Model(Vec<Node>);

const NAMES: [&[u8]; 4] = [
    b"a",
    b"b b",
    b"\xff\n",
    b"dddddddddddddddddddddddddddddddddddddddd",
];

fn path(root: &Path, at: &Where) -> PathBuf {
    at.iter().fold(root.to_path_buf(), |p, &n| {
        p.join(OsStr::from_bytes(NAMES[usize::from(n)]))
    })
}

impl Model {
    fn new() -> Self {
        Self(vec![Self::node(FileType::Directory, 0o755)])
    }

    fn node(kind: FileType, mode: u32) -> Node {
        let (data, xattrs, below) = Default::default();
        Node {
            kind,
            mode,
            owner: (0, 0),
            data,
            xattrs,
            mtime: None,
            names: 1,
            below,
        }
    }

    /// The directory that holds the last component.
    fn parent(&self, at: &Where) -> Result<(usize, u8), Errno> {
        let (&last, dirs) = at.split_last().expect("not empty");
        let mut here = 0;
        for name in dirs {
            here = *self.0[here].below.get(name).ok_or(Errno::NOENT)?;
            match self.0[here].kind {
                FileType::Directory => {}
                // All symlinks dangle.
                FileType::Symlink => return Err(Errno::NOENT),
                _ => return Err(Errno::NOTDIR),
            }
        }
        Ok((here, last))
    }

    fn find(&self, at: &Where) -> Result<usize, Errno> {
        let (dir, name) = self.parent(at)?;
        self.0[dir].below.get(&name).copied().ok_or(Errno::NOENT)
    }

    fn insert(&mut self, at: &Where, mut node: Node) -> Result<(), Errno> {
        let (dir, name) = self.parent(at)?;
        let parent = &self.0[dir];
        if parent.below.contains_key(&name) {
            return Err(Errno::EXIST);
        }
        if parent.mode & 0o2000 != 0 {
            // A set-group-ID directory gives its group to what is made in it, and directories
            // the bit as well.
            node.owner.1 = parent.owner.1;
            if node.kind.is_dir() {
                node.mode |= 0o2000;
            }
        }
        let number = self.0.len();
        self.0.push(node);
        self.put(dir, name, number);
        Ok(())
    }

    fn put(&mut self, dir: usize, name: u8, number: usize) {
        self.0[dir].below.insert(name, number);
        self.0[dir].mtime = None;
    }

    fn take(&mut self, dir: usize, name: u8) {
        let number = self.0[dir].below.remove(&name).expect("present");
        self.0[dir].mtime = None;
        self.0[number].names -= 1;
    }

    /// A regular file that can be opened for writing without following links.
    fn file(&mut self, at: &Where) -> Result<&mut Node, Errno> {
        let number = self.find(at)?;
        match self.0[number].kind {
            FileType::RegularFile => Ok(&mut self.0[number]),
            FileType::Directory => Err(Errno::ISDIR),
            FileType::Symlink => Err(Errno::LOOP),
            _ => Err(Errno::NXIO),
        }
    }

    fn write(
        &mut self,
        at: &Where,
        offset: Option<u64>,
        len: usize,
        byte: u8,
    ) -> Result<(), Errno> {
        let node = self.file(at)?;
        let start = offset.map_or(node.data.len(), |o| usize::try_from(o).expect("small"));
        if node.data.len() < start + len {
            node.data.resize(start + len, 0);
        }
        node.data[start..start + len].fill(byte);
        node.mtime = None;
        node.xattrs.remove("security.capability");
        Ok(())
    }

    fn is_above(&self, dir: usize, below: usize) -> bool {
        dir == below
            || self.0[dir]
                .below
                .values()
                .any(|&n| self.0[n].kind.is_dir() && self.is_above(n, below))
    }

    fn rename(&mut self, from: &Where, to: &Where, flag: Flag) -> Result<(), Errno> {
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        let source = self.0[from_dir].below.get(&from_name).copied();
        let target = self.0[to_dir].below.get(&to_name).copied();
        // As the kernel goes about it: existence, flags, then who is inside whom.
        let source = source.ok_or(Errno::NOENT)?;
        match (flag, target) {
            (Flag::NoReplace, Some(_)) => return Err(Errno::EXIST),
            (Flag::Exchange, None) => return Err(Errno::NOENT),
            _ => {}
        }
        if self.0[source].kind.is_dir() && self.is_above(source, to_dir) {
            return Err(Errno::INVAL);
        }
        if let Some(target) = target
            && self.0[target].kind.is_dir()
            && self.is_above(target, from_dir)
        {
            return Err(if matches!(flag, Flag::Exchange) {
                Errno::INVAL
            } else {
                Errno::NOTEMPTY
            });
        }
        if target == Some(source) {
            return Ok(());
        }
        if let (Flag::Exchange, Some(target)) = (flag, target) {
            self.put(from_dir, from_name, target);
            self.put(to_dir, to_name, source);
            return Ok(());
        }
        if let Some(target) = target {
            match (self.0[source].kind.is_dir(), self.0[target].kind.is_dir()) {
                (true, false) => return Err(Errno::NOTDIR),
                (false, true) => return Err(Errno::ISDIR),
                (true, true) if !self.0[target].below.is_empty() => return Err(Errno::NOTEMPTY),
                _ => {}
            }
            self.take(to_dir, to_name);
        }
        self.put(to_dir, to_name, source);
        self.0[from_dir].below.remove(&from_name);
        self.0[from_dir].mtime = None;
        Ok(())
    }

    /// Foretells the answer and follows it.
    fn apply(&mut self, step: &Step) -> Result<(), Errno> {
        match step {
            Step::Create(at, mode) => self.insert(at, Self::node(FileType::RegularFile, *mode)),
            Step::Fifo(at) => self.insert(at, Self::node(FileType::Fifo, 0o640)),
            Step::Mkdir(at, mode) => {
                self.insert(at, Self::node(FileType::Directory, *mode & 0o1777))
            }
            Step::Symlink(at, target) => {
                let mut node = Self::node(FileType::Symlink, 0o777);
                node.data = format!("dangling/{target}").into_bytes();
                self.insert(at, node)
            }
            Step::Write {
                at,
                offset,
                len,
                byte,
            } => self.write(at, Some(*offset), *len, *byte),
            Step::Append { at, len, byte } => self.write(at, None, *len, *byte),
            Step::Truncate(at, len) => {
                let node = self.file(at)?;
                node.data.resize(usize::try_from(*len).expect("small"), 0);
                node.mtime = None;
                Ok(())
            }
            Step::Punch { at, offset, len } => {
                let node = self.file(at)?;
                let size = node.data.len();
                let [start, end] =
                    [*offset, offset + len].map(|n| usize::try_from(n).expect("small").min(size));
                node.data[start..end].fill(0);
                node.mtime = None;
                Ok(())
            }
            Step::Link(from, to) => {
                let number = self.find(from)?;
                let (dir, name) = self.parent(to)?;
                if self.0[dir].below.contains_key(&name) {
                    return Err(Errno::EXIST);
                }
                if self.0[number].kind.is_dir() {
                    return Err(Errno::PERM);
                }
                self.put(dir, name, number);
                self.0[number].names += 1;
                Ok(())
            }
            Step::Unlink(at) => {
                let (dir, name) = self.parent(at)?;
                let number = self.find(at)?;
                if self.0[number].kind.is_dir() {
                    return Err(Errno::ISDIR);
                }
                self.take(dir, name);
                Ok(())
            }
            Step::Rmdir(at) => {
                let (dir, name) = self.parent(at)?;
                let number = self.find(at)?;
                if !self.0[number].kind.is_dir() {
                    return Err(Errno::NOTDIR);
                }
                if !self.0[number].below.is_empty() {
                    return Err(Errno::NOTEMPTY);
                }
                self.take(dir, name);
                Ok(())
            }
            Step::Rename(from, to, flag) => self.rename(from, to, *flag),
            Step::Chmod(at, mode) => {
                // Follows links, and all of ours dangle.
                let number = self.find(at)?;
                if self.0[number].kind == FileType::Symlink {
                    return Err(Errno::NOENT);
                }
                self.0[number].mode = *mode;
                Ok(())
            }
            Step::Chown(at, uid, gid) => {
                let number = self.find(at)?;
                let node = &mut self.0[number];
                node.owner = (*uid, *gid);
                if !node.kind.is_dir() && node.kind != FileType::Symlink {
                    node.mode &= !0o4000;
                    if node.mode & 0o010 != 0 {
                        node.mode &= !0o2000;
                    }
                }
                Ok(())
            }
            Step::Times(at, seconds, nanos) => {
                let number = self.find(at)?;
                self.0[number].mtime = Some((*seconds, *nanos));
                Ok(())
            }
            Step::SetXattr(at, name, len) => {
                let number = self.find(at)?;
                self.0[number]
                    .xattrs
                    .insert(format!("trusted.{name}"), vec![b'v'; *len]);
                Ok(())
            }
            Step::RemoveXattr(at, name) => {
                let number = self.find(at)?;
                let gone = self.0[number].xattrs.remove(&format!("trusted.{name}"));
                gone.map(drop).ok_or(Errno::NODATA)
            }
        }
    }

    /// Compares with a real tree.
    fn assert_is(&self, root: &Path, what: &str) {
        self.assert_dir(0, root, what);
    }

    fn assert_dir(&self, number: usize, dir: &Path, what: &str) {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .expect("readdir")
            .map(|e| e.expect("an entry").file_name().as_bytes().to_vec())
            .collect();
        names.sort();
        let mut expected: Vec<_> = self.0[number]
            .below
            .keys()
            .map(|&n| NAMES[usize::from(n)].to_vec())
            .collect();
        expected.sort();
        assert_eq!(names, expected, "names on the {what} in {}", dir.display());
        for (&name, &number) in &self.0[number].below {
            let path = dir.join(OsStr::from_bytes(NAMES[usize::from(name)]));
            self.assert_node(number, &path, what);
            if self.0[number].kind.is_dir() {
                self.assert_dir(number, &path, what);
            }
        }
    }

    fn assert_node(&self, number: usize, path: &Path, what: &str) {
        let node = &self.0[number];
        let stat = rustix::fs::lstat(path).expect("stat");
        let at = format!("{} on the {what}", path.display());
        let kind = FileType::from_raw_mode(stat.st_mode);
        assert_eq!(kind, node.kind, "type of {at}");
        assert_eq!(stat.st_mode & 0o7777, node.mode, "mode of {at}");
        assert_eq!((stat.st_uid, stat.st_gid), node.owner, "owner of {at}");
        if let Some(mtime) = node.mtime {
            let nanos = i64::try_from(stat.st_mtime_nsec).expect("nanoseconds");
            assert_eq!((stat.st_mtime, nanos), mtime, "mtime of {at}");
        }
        match kind {
            FileType::RegularFile => {
                let data = std::fs::read(path).expect("read");
                assert_eq!(data.len(), node.data.len(), "size of {at}");
                assert!(data == node.data, "content of {at}");
            }
            FileType::Symlink => {
                let target = std::fs::read_link(path).expect("readlink");
                assert_eq!(target.as_os_str().as_bytes(), node.data, "target of {at}");
            }
            _ => {}
        }
        if !kind.is_dir() {
            assert_eq!(
                u32::try_from(stat.st_nlink).expect("links"),
                node.names,
                "links of {at}"
            );
        }
        for name in (0..3).map(|n| format!("trusted.{n}")) {
            let mut value = vec![0; 1024];
            let value =
                rustix::fs::lgetxattr(path, &*name, &mut value[..]).map(|n| value[..n].to_vec());
            assert_eq!(
                value.ok(),
                node.xattrs.get(&name).cloned(),
                "{name} of {at}"
            );
        }
    }
}

/// Carries a step out through the mount.
fn carry_out(root: &Path, step: &Step) -> Result<(), Errno> {
    let open = |at: &Where, flags| {
        let flags = flags | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::open(path(root, at), flags, 0o000.into())
    };
    match step {
        Step::Create(at, mode) => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            rustix::fs::open(path(root, at), flags, (*mode).into()).map(drop)
        }
        Step::Write {
            at,
            offset,
            len,
            byte,
        } => {
            let fd = open(at, OFlags::empty())?;
            rustix::io::pwrite(fd, &vec![*byte; *len], *offset).map(|n| assert_eq!(n, *len))
        }
        Step::Append { at, len, byte } => {
            let fd = open(at, OFlags::APPEND)?;
            rustix::io::write(fd, &vec![*byte; *len]).map(|n| assert_eq!(n, *len))
        }
        Step::Truncate(at, len) => rustix::fs::ftruncate(open(at, OFlags::empty())?, *len),
        Step::Punch { at, offset, len } => {
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(open(at, OFlags::empty())?, mode, *offset, *len)
        }
        Step::Mkdir(at, mode) => rustix::fs::mkdir(path(root, at), (*mode & 0o1777).into()),
        Step::Fifo(at) => rustix::fs::mknodat(CWD, path(root, at), FileType::Fifo, 0o640.into(), 0),
        Step::Symlink(at, target) => {
            rustix::fs::symlink(format!("dangling/{target}"), path(root, at))
        }
        Step::Link(from, to) => rustix::fs::link(path(root, from), path(root, to)),
        Step::Unlink(at) => rustix::fs::unlink(path(root, at)),
        Step::Rmdir(at) => rustix::fs::rmdir(path(root, at)),
        Step::Rename(from, to, flag) => {
            let flags = match flag {
                Flag::Plain => RenameFlags::empty(),
                Flag::NoReplace => RenameFlags::NOREPLACE,
                Flag::Exchange => RenameFlags::EXCHANGE,
            };
            rustix::fs::renameat_with(CWD, path(root, from), CWD, path(root, to), flags)
        }
        Step::Chmod(at, mode) => rustix::fs::chmod(path(root, at), (*mode).into()),
        Step::Chown(at, uid, gid) => {
            let (uid, gid) = (Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)));
            rustix::fs::chownat(CWD, path(root, at), uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        }
        Step::Times(at, tv_sec, tv_nsec) => {
            let time = Timespec {
                tv_sec: *tv_sec,
                tv_nsec: *tv_nsec,
            };
            let times = Timestamps {
                last_access: time,
                last_modification: time,
            };
            rustix::fs::utimensat(CWD, path(root, at), &times, AtFlags::SYMLINK_NOFOLLOW)
        }
        Step::SetXattr(at, name, len) => {
            let name = format!("trusted.{name}");
            rustix::fs::lsetxattr(
                path(root, at),
                &*name,
                &vec![b'v'; *len],
                XattrFlags::empty(),
            )
        }
        Step::RemoveXattr(at, name) => {
            rustix::fs::lremovexattr(path(root, at), &*format!("trusted.{name}"))
        }
    }
}

/// The story of the file's head.
#[test]
fn model_mount_primary_and_replica_agree_after_every_step() {
    crate::need_root!();
    let cases = u32::try_from(setting("MIRRORFS_CHURN", 200)).expect("a number of sequences");
    let config = Config {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed("churn")),
        max_shrink_iters: 500,
        ..Config::default()
    };
    let mount = TestMount::new();
    let sequence = AtomicU64::new(0);
    let outcome = std::thread::scope(|scope| {
        let runner = scope.spawn(|| {
            crate::support::sys::own_fs_state();
            rustix::process::umask(rustix::fs::Mode::empty());
            TestRunner::new(config).run(&prop::collection::vec(step(), 1..60), |steps| {
                let name = format!("s{}", sequence.fetch_add(1, Ordering::Relaxed));
                play(&mount, &name, &steps);
                Ok(())
            })
        });
        runner
            .join()
            .expect("the runner reports failures, it does not panic")
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    mount.finish();
}

fn play(mount: &TestMount, name: &str, steps: &[Step]) {
    let root = mount.at(name);
    std::fs::create_dir(&root).expect("mkdir");
    rustix::fs::chmod(&root, 0o755.into()).expect("chmod");
    let mut model = Model::new();
    for (number, step) in steps.iter().enumerate() {
        let mut next = model.clone();
        let foretold = next.apply(step);
        let answer = carry_out(&root, step);
        assert_eq!(answer, foretold, "step {number}: {step:?}");
        if foretold.is_ok() {
            model = next;
        }
        model.assert_is(&root, "mount");
        model.assert_is(&mount.primary.join(name), "primary");
        if !native() {
            model.assert_is(&mount.replica.join(name), "replica");
        }
    }
    if !native() {
        let copies = [&mount.primary, &mount.replica].map(|copy| copy.join(name));
        let patience = std::time::Duration::from_secs(10);
        wait_equal(&copies[0], &copies[1], patience, Ignore::default());
    }
    std::fs::remove_dir_all(&root).expect("rm -rf");
}
