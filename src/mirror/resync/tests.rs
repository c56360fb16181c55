// SPDX-License-Identifier: MIT
//! Trees made, broken and repaired in temporary directories.

use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FallocateFlags, Mode, OFlags, Timespec, Timestamps, XattrFlags};

use super::*;

struct Trees {
    dir: tempfile::TempDir,
}

fn put(path: &Path, bytes: &[u8], at: u64) {
    let flags = OFlags::WRONLY | OFlags::CREATE;
    let fd = rustix::fs::open(path, flags, Mode::from(0o644)).expect("open");
    rustix::io::pwrite(&fd, bytes, at).expect("write");
}

fn set_mtime(path: &Path, tv_sec: i64, tv_nsec: i64) {
    let time = Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags).expect("utimens");
}

impl Trees {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["p", "r"] {
            rustix::fs::mkdir(dir.path().join(name), Mode::RWXU).expect("mkdir");
        }
        Self { dir }
    }

    fn p(&self, path: &str) -> PathBuf {
        self.dir.path().join("p").join(path)
    }

    fn r(&self, path: &str) -> PathBuf {
        self.dir.path().join("r").join(path)
    }

    fn mkdir(&self, path: &str) {
        rustix::fs::mkdir(self.p(path), Mode::RWXU).expect("mkdir");
    }

    fn run(&self, how: How) -> Result<Summary, Failure> {
        let open =
            |path: PathBuf| rustix::fs::open(path, OFlags::DIRECTORY, Mode::empty()).expect("open");
        let (p, r) = (open(self.p("")), open(self.r("")));
        reconcile(p.as_fd(), r.as_fd(), how, &mut |_| {})
    }

    fn repair(&self) -> Summary {
        let repair = true;
        self.run(How {
            repair,
            ..How::default()
        })
        .expect("repaired")
    }

    /// Nothing differs, by a full comparison.
    fn assert_equal(&self) {
        let summary = self.run(How::default()).expect("compared");
        assert_eq!(summary.differences, []);
    }

    /// A tree with one of everything an ordinary user can make.
    fn filled() -> Self {
        let trees = Self::new();
        for dir in ["d", "d/e", "links"] {
            trees.mkdir(dir);
        }
        put(&trees.p("d/file"), &[7; 100_000], 0);
        put(&trees.p("d/e/empty"), b"", 0);
        put(&trees.p("links/a"), b"linked", 0);
        for name in ["links/b", "d/e/c"] {
            rustix::fs::link(trees.p("links/a"), trees.p(name)).expect("link");
        }
        symlink("../nowhere", trees.p("links/sym")).expect("symlink");
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, trees.p("fifo"), fifo, Mode::RUSR, 0).expect("mknod");
        set_mtime(&trees.p("d/file"), -7, 999_999_999);
        set_mtime(&trees.p("links/sym"), -2_000_000_000, 1);
        set_mtime(&trees.p("d"), 3, 4);
        trees
    }
}

#[test]
fn an_empty_replica_becomes_equal_and_stays_so() {
    let trees = Trees::filled();
    let summary = trees.repair();
    assert_eq!(
        (summary.entries, summary.losses_total, summary.removed),
        (10, 0, 0)
    );
    trees.assert_equal();
    let inode = |path| {
        std::fs::symlink_metadata(trees.r(path))
            .expect("stat")
            .ino()
    };
    assert!(inode("links/a") == inode("links/b") && inode("links/a") == inode("d/e/c"));
    let again = trees.repair();
    assert_eq!(
        (again.created, again.repaired, again.differences_total),
        (0, 0, 0)
    );
}

#[test]
fn only_differing_blocks_are_written() {
    let trees = Trees::new();
    put(&trees.p("big"), &vec![1; 3 << 20], 0);
    trees.repair();
    let inode = std::fs::metadata(trees.r("big")).expect("stat").ino();
    put(&trees.r("big"), b"x", 2_500_000);
    put(&trees.r("big"), b"x", 10_000);
    let summary = trees.run(How::default()).expect("compared");
    let data = summary
        .differences
        .iter()
        .find(|d| d.kind == Kind::Data)
        .expect("found");
    assert_eq!(
        (data.offset, &*data.detail),
        (Some(8192), "8 KiB differ at 8192")
    );
    assert_eq!(trees.repair().bytes_repaired, 8192);
    assert_eq!(
        std::fs::metadata(trees.r("big")).expect("stat").ino(),
        inode
    );
    trees.assert_equal();
    // Longer and shorter.
    put(&trees.r("big"), b"tail", 4 << 20);
    trees.repair();
    trees.assert_equal();
    rustix::fs::truncate(trees.r("big"), 5000);
    trees.repair();
    trees.assert_equal();
}

/// `truncate(2)` by path, which rustix leaves out.
mod rustix {
    pub(super) use ::rustix::*;
    pub(super) mod fs {
        pub(in super::super) use ::rustix::fs::*;
        pub(in super::super) fn truncate(path: std::path::PathBuf, size: u64) {
            let fd = open(path, OFlags::WRONLY, Mode::empty()).expect("open");
            ftruncate(fd, size).expect("truncate");
        }
    }
}

#[test]
fn holes_stay_holes_and_data_stays_data() {
    let trees = Trees::new();
    put(&trees.p("sparse"), &[1; 4096], 1 << 20);
    put(&trees.p("sparse"), b"end", 5 << 30);
    put(&trees.p("zeros"), &vec![0; 1 << 20], 0);
    rustix::fs::truncate(trees.p("zeros"), 2 << 20);
    trees.repair();
    trees.assert_equal();
    let blocks = std::fs::metadata(trees.r("sparse")).expect("stat").blocks();
    assert!(blocks < 100, "{blocks} blocks");
    // Data where the primary has a hole, and a hole where it has (zero) data.
    put(&trees.r("sparse"), &vec![0; 1 << 20], 2 << 30);
    let fd = rustix::fs::open(trees.r("zeros"), OFlags::RDWR, Mode::empty()).expect("open");
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(&fd, punch, 8192, 65_536) {
        Err(Errno::OPNOTSUPP) => return eprintln!("skipped: no holes can be punched here"),
        done => done.expect("punched"),
    }
    let summary = trees.run(How::default()).expect("compared");
    let holes = summary
        .differences
        .iter()
        .filter(|d| d.detail == "holes differ");
    assert_eq!(holes.count(), 2);
    trees.repair();
    trees.assert_equal();
}

/// More holes than one map of a file takes, with long ones in between, and damage far behind them.
#[test]
fn files_of_many_holes_are_copied_and_compared_to_their_end() {
    let trees = Trees::new();
    let open = |path| {
        let flags = OFlags::RDWR | OFlags::CREATE;
        rustix::fs::open(path, flags, Mode::from(0o644)).expect("open")
    };
    let file = open(trees.p("f"));
    let blocks = (0..20_000).map(|n: u64| n * 8192);
    for at in blocks.chain([1 << 31, (1 << 34) + 12_288]) {
        rustix::io::pwrite(&file, &[7; 4096], at).expect("write");
    }
    rustix::fs::ftruncate(&file, (1 << 40) + 5).expect("truncate");
    let made = trees.repair();
    assert_eq!(made.bytes, 20_002 * 4096);
    trees.assert_equal();
    let copy = open(trees.r("f"));
    rustix::io::pwrite(&copy, b"x", (1 << 34) + 12_300).expect("write");
    rustix::io::pwrite(&copy, b"x", 1 << 39).expect("write");
    let found = trees.run(How::default()).expect("compared").differences;
    let data = found.iter().find(|one| one.kind == Kind::Data);
    assert_eq!(data.expect("found").offset, Some((1 << 34) + 12_288));
    assert_eq!(trees.repair().bytes_repaired, 8192);
    trees.assert_equal();
    rustix::fs::ftruncate(&copy, 1 << 20).expect("truncate");
    trees.repair();
    trees.assert_equal();
}

/// What has broken other copying programs: names that are no text, times before 1970 and after 2038,
/// large attributes, ACLs. The root of the replica keeps its own.
#[test]
fn metadata_of_every_kind_is_carried_over() {
    use std::os::unix::ffi::OsStrExt as _;
    let trees = Trees::new();
    let name = std::ffi::OsStr::from_bytes(b"\xff\xfe\n \\x");
    let times = [
        (-1, 500_000_000),
        (-2_147_483_648, 0),
        (0, 999_999_999),
        (2_147_483_648, 1),
        (8_589_934_592, 999_999_999),
    ];
    for (n, (seconds, nanos)) in times.into_iter().enumerate() {
        let dir = trees.p("").join(format!("{n}"));
        rustix::fs::mkdir(&dir, Mode::from(0o711)).expect("mkdir");
        put(&dir.join(name), b"x", 0);
        symlink("x", dir.join("link")).expect("symlink");
        for path in [dir.join(name), dir.join("link"), dir] {
            set_mtime(&path, seconds, nanos);
        }
    }
    // As much as the file system takes.
    let file = trees.p("0").join(name);
    let takes = [65_536, 4000, 1000].into_iter().find(|&size| {
        let value = vec![b'v'; size];
        rustix::fs::setxattr(&file, c"user.large", &value, XattrFlags::empty()).is_ok()
    });
    let many = (0..20).map(|n| std::ffi::CString::new(format!("user.{n}")).expect("a name"));
    for name in many {
        rustix::fs::setxattr(trees.p("1"), &name, &[0, 1, 2], XattrFlags::empty()).expect("xattr");
    }
    eprintln!("the largest attribute had {takes:?} bytes");
    let summary = trees.repair();
    assert_eq!(summary.losses, []);
    trees.assert_equal();
    let facts = |root: &Path| -> Vec<_> {
        let paths = (0..times.len()).flat_map(|n| {
            let dir = root.join(format!("{n}"));
            [dir.join(name), dir.join("link"), dir]
        });
        let stats = paths.map(|path| std::fs::symlink_metadata(path).expect("stat"));
        stats
            .map(|stat| (stat.mtime(), stat.mtime_nsec(), stat.mode()))
            .collect()
    };
    let (p, r) = (facts(&trees.p("")), facts(&trees.r("")));
    assert_eq!(p, r);
    for (n, (seconds, nanos)) in times.into_iter().enumerate() {
        let found = p[3 * n];
        assert_eq!(
            (found.0, found.1),
            (seconds, nanos),
            "this test's own file system"
        );
    }
}

#[test]
fn every_kind_of_damage_is_found_and_repaired() {
    let trees = Trees::filled();
    trees.repair();
    let user = c"user.mirrorfs-test";
    let broken: [(&str, &dyn Fn()); 13] = [
        ("mode", &|| {
            rustix::fs::chmod(trees.r("d/file"), Mode::RWXU).expect("chmod");
        }),
        ("mtime", &|| set_mtime(&trees.r("d/file"), -7, 999_999_998)),
        ("dir mtime", &|| set_mtime(&trees.r("links"), 1, 1)),
        ("symlink mtime", &|| set_mtime(&trees.r("links/sym"), 1, 1)),
        ("root mode", &|| {
            rustix::fs::chmod(trees.r(""), Mode::from(0o711)).expect("chmod");
        }),
        ("xattr", &|| {
            rustix::fs::setxattr(trees.r("d"), user, b"1", XattrFlags::empty()).expect("xattr");
        }),
        ("extra tree", &|| {
            rustix::fs::mkdir(trees.r("extra"), Mode::RWXU).expect("mkdir");
            put(&trees.r("extra/x"), b"x", 0);
        }),
        ("missing", &|| {
            rustix::fs::unlink(trees.r("d/e/empty")).expect("unlink");
        }),
        ("wrong type", &|| {
            rustix::fs::unlink(trees.r("fifo")).expect("unlink");
            rustix::fs::mkdir(trees.r("fifo"), Mode::RWXU).expect("mkdir");
            put(&trees.r("fifo/x"), b"x", 0);
        }),
        ("symlink target", &|| {
            rustix::fs::unlink(trees.r("links/sym")).expect("unlink");
            symlink("elsewhere", trees.r("links/sym")).expect("symlink");
        }),
        ("link broken", &|| {
            rustix::fs::unlink(trees.r("links/b")).expect("unlink");
            put(&trees.r("links/b"), b"linked", 0);
        }),
        // Replaced under its first name, and linked anew under the others.
        ("one inode of three names", &|| {
            rustix::fs::chmod(trees.r("links/b"), Mode::RWXU).expect("chmod");
        }),
        ("link too many", &|| {
            rustix::fs::unlink(trees.r("d/e/empty")).expect("unlink");
            rustix::fs::link(trees.r("links/a"), trees.r("d/e/empty")).expect("link");
        }),
    ];
    for (story, damage) in broken {
        damage();
        let found = trees.run(How::default()).expect("compared");
        assert!(found.differences_total > 0, "{story}");
        trees.repair();
        let left = trees.run(How::default()).expect("compared");
        assert_eq!(left.differences, [], "{story}");
    }
}

/// A replica made with `cp -al` holds the primary's own inodes: repairing in place would write
/// the primary.
#[test]
fn the_primary_is_never_written_through_a_shared_inode() {
    let trees = Trees::new();
    put(&trees.p("one"), b"one", 0);
    put(&trees.p("two"), b"two", 0);
    rustix::fs::link(trees.p("one"), trees.r("one")).expect("link");
    rustix::fs::link(trees.p("one"), trees.r("two")).expect("link");
    trees.repair();
    trees.assert_equal();
    let inode = |path: PathBuf| std::fs::metadata(path).expect("stat").ino();
    assert_ne!(inode(trees.p("one")), inode(trees.r("one")));
    for name in ["one", "two"] {
        assert_eq!(std::fs::read_to_string(trees.p(name)).expect("read"), name);
        assert_eq!(std::fs::read_to_string(trees.r(name)).expect("read"), name);
    }
}

#[test]
fn no_more_is_deleted_than_allowed() {
    let trees = Trees::new();
    for name in ["a", "b", "c"] {
        put(&trees.r(name), b"", 0);
    }
    let how = How {
        repair: true,
        deletions_max: Some(2),
        ..How::default()
    };
    let failure = trees.run(how).expect_err("stopped");
    assert_eq!(
        (failure.errno, &*failure.path),
        (Errno::CANCELED, &b"c"[..])
    );
    assert!(trees.r("c").exists());
}

#[test]
fn a_set_switch_stops_it() {
    let trees = Trees::filled();
    let stop = Some(Arc::new(AtomicBool::new(true)));
    let failure = trees
        .run(How {
            stop,
            ..How::default()
        })
        .expect_err("stopped");
    assert_eq!(failure.errno, Errno::INTR);
}

/// What only root can make: owners, devices, capabilities, flags, trusted xattrs.
#[test]
fn what_only_root_can_make() {
    if !::rustix::process::geteuid().is_root() {
        return eprintln!("skipped: needs root");
    }
    let trees = Trees::filled();
    let path = trees.p("d/file");
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(1000),
        rustix::fs::Gid::from_raw(50),
    );
    rustix::fs::chown(&path, Some(uid), Some(gid)).expect("chown");
    rustix::fs::chmod(&path, Mode::from(0o6755)).expect("chmod");
    let caps = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let plain = XattrFlags::empty();
    rustix::fs::setxattr(&path, c"security.capability", &caps, plain).expect("caps");
    rustix::fs::lsetxattr(trees.p("links/sym"), c"trusted.t", b"\0", plain).expect("xattr");
    // A default ACL (user::rwx user:33:r-x group::--- mask::r-x other::---) that everything made
    // below it on the replica inherits before it is told otherwise.
    let acl: Vec<u8> = [[2, 0, 0, 0].as_slice()]
        .into_iter()
        .chain(
            [
                (1u8, 7u8, None),
                (2, 5, Some(33u8)),
                (4, 0, None),
                (16, 5, None),
                (32, 0, None),
            ]
            .iter()
            .map(|&(tag, perm, id)| -> &[u8] {
                let id = id.map_or([0xff; 4], |id| [id, 0, 0, 0]);
                vec![tag, 0, perm, 0, id[0], id[1], id[2], id[3]].leak()
            }),
        )
        .flatten()
        .copied()
        .collect();
    rustix::fs::setxattr(trees.p("d"), c"system.posix_acl_default", &acl, plain).expect("acl");
    let device = rustix::fs::FileType::CharacterDevice;
    let null = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(rustix::fs::CWD, trees.p("null"), device, Mode::RUSR, null).expect("mknod");
    let chattr = |what: &str, path: PathBuf| {
        Command::new("chattr")
            .arg(what)
            .arg(path)
            .status()
            .is_ok_and(|status| status.success())
    };
    let flagged = chattr("+i", trees.p("links/a"))
        && chattr("+a", trees.p("d/e/empty"))
        && chattr("+i", trees.p("links"));
    let summary = trees.repair();
    assert_eq!(summary.losses, []);
    trees.assert_equal();
    // Damage that a locked directory and a locked file do not shield from repair.
    chattr("-i", trees.r("links"));
    put(&trees.r("links/extra"), b"", 0);
    chattr("+i", trees.r("links/extra"));
    chattr("+i", trees.r("links"));
    trees.repair();
    trees.assert_equal();
    for root in [trees.p(""), trees.r("")] {
        for name in ["links", "links/a", "d/e/empty"] {
            let undone = chattr("-ia", root.join(name));
            assert!(undone || !flagged);
        }
    }
}

/// Objects that go, come and turn into others while the walk is at them are differences to be looked
/// at again; without `live` they are failures.
#[test]
fn what_moves_while_it_is_compared_is_a_difference() {
    let walk = |live| {
        let trees = Trees::new();
        for name in ["a", "b", "c", "d", "d/deep", "e", "z"] {
            trees.mkdir(name);
        }
        for name in ["a/f", "b/f", "c/f", "d/deep/f", "f", "y", "z/f"] {
            put(&trees.p(name), b"x", 0);
        }
        trees.repair();
        let open =
            |path: PathBuf| rustix::fs::open(path, OFlags::DIRECTORY, Mode::empty()).expect("open");
        let (p, r) = (open(trees.p("")), open(trees.r("")));
        let how = How {
            quick: true,
            live,
            workers: 1,
            ..How::default()
        };
        let mut seen = 0;
        let found = reconcile(p.as_fd(), r.as_fd(), how, &mut |_| {
            seen += 1;
            match seen {
                // Listed and looked at, and then a file: on the primary first.
                1 => {
                    rustix::fs::unlink(trees.p("a/f")).expect("unlink");
                    rustix::fs::rmdir(trees.p("a")).expect("rmdir");
                    put(&trees.p("a"), b"a file now", 0);
                }
                2 => {
                    rustix::fs::rename(trees.p("b"), trees.p("e/b")).expect("rename");
                    rustix::fs::rename(trees.r("b"), trees.r("e/b")).expect("rename");
                }
                3 => {
                    rustix::fs::unlink(trees.p("f")).expect("unlink");
                    rustix::fs::unlink(trees.r("f")).expect("unlink");
                }
                4 => rustix::fs::rename(trees.r("z"), trees.r("e/z")).expect("rename"),
                _ => {}
            }
        });
        (found, seen)
    };
    let (found, seen) = walk(true);
    let found = found.expect("walked to the end");
    assert!(seen >= 8, "{seen}");
    let listed = |path: &str| found.differences.iter().any(|d| d.path == path.as_bytes());
    assert!(listed("a") && listed("z"), "{:?}", found.differences);
    assert!(
        !listed("c") && !listed("y") && !listed("d/deep"),
        "{:?}",
        found.differences
    );
    let failure = walk(false).0.expect_err("a failure");
    assert_eq!(failure.path, b"a");
}

/// Numbers from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % end
    }
}

/// A tree grown at random on the primary: directories, files and links of three names or so.
fn grown(random: &mut Random) -> (Trees, Vec<String>) {
    let trees = Trees::new();
    let (mut dirs, mut files) = (vec![String::new()], Vec::new());
    for n in 0..150 {
        let dir = dirs[random.below(dirs.len())].clone();
        let path = format!("{dir}n{n}");
        match random.below(5) {
            0 => {
                trees.mkdir(&path);
                dirs.push(path + "/");
                continue;
            }
            1 if !files.is_empty() => {
                let of: &String = &files[random.below(files.len())];
                rustix::fs::link(trees.p(of), trees.p(&path)).expect("link");
            }
            _ => put(&trees.p(&path), &vec![1; random.below(9000)], 0),
        }
        files.push(path);
    }
    (trees, files)
}

/// Breaks something on the replica.
fn damage(trees: &Trees, files: &[String], random: &mut Random) {
    let path = trees.r(&files[random.below(files.len())]);
    let other = trees.r(&files[random.below(files.len())]);
    match random.below(6) {
        0 => put(&path, b"x", 5000),
        1 => set_mtime(&path, 7, 7),
        2 => _ = rustix::fs::unlink(&path),
        3 => {
            _ = rustix::fs::unlink(&path);
            _ = rustix::fs::link(&other, &path);
        }
        4 => {
            _ = rustix::fs::unlink(&path);
            put(&path, b"another", 0);
        }
        _ => put(&path.with_extension("extra"), b"", 0),
    }
}

#[test]
fn however_many_walk_they_find_the_same() {
    for seed in 0..12 {
        let mut random = Random(seed);
        let (trees, files) = grown(&mut random);
        let by = |workers, repair| How {
            workers,
            repair,
            ..How::default()
        };
        trees.run(by(4, true)).expect("filled");
        assert_eq!(trees.run(by(1, false)).expect("compared").differences, []);
        for _ in 0..random.below(12) {
            damage(&trees, &files, &mut random);
        }
        let alone = trees.run(by(1, false)).expect("compared");
        let together = trees.run(by(4, false)).expect("compared");
        assert_eq!(alone.differences, together.differences, "seed {seed}");
        let counted = [&alone, &together].map(|s| (s.entries, s.files, s.bytes));
        assert_eq!(counted[0], counted[1], "seed {seed}");
        trees.run(by(4, true)).expect("repaired");
        assert_eq!(
            trees.run(by(1, false)).expect("compared").differences,
            [],
            "seed {seed}"
        );
    }
}

/// Deeper than paths may be long, and with something to come back to on every level.
#[test]
fn deep_trees_are_walked_to_their_end() {
    let trees = Trees::new();
    let name = "d".repeat(200);
    let mut here = rustix::fs::open(trees.p(""), OFlags::DIRECTORY, Mode::empty()).expect("open");
    for _ in 0..600 {
        for below in ["a", "z", &name] {
            rustix::fs::mkdirat(&here, below, Mode::RWXU).expect("mkdir");
        }
        here = rustix::fs::openat(&here, &*name, OFlags::DIRECTORY, Mode::empty()).expect("open");
    }
    for workers in [1, 3] {
        let how = |repair| How {
            workers,
            repair,
            ..How::default()
        };
        let made = trees.run(how(true)).expect("copied");
        assert_eq!(made.entries, 1800);
        let same = trees.run(how(false)).expect("compared");
        assert_eq!((same.entries, same.differences_total), (1800, 0));
        let top = rustix::fs::open(trees.r(""), OFlags::DIRECTORY, Mode::empty()).expect("open");
        for name in walk::names(top.as_fd()).expect("names") {
            walk::remove(top.as_fd(), &name, &mut || true).expect("removed");
        }
    }
    let top = rustix::fs::open(trees.p(""), OFlags::DIRECTORY, Mode::empty()).expect("open");
    for name in walk::names(top.as_fd()).expect("names") {
        walk::remove(top.as_fd(), &name, &mut || true).expect("removed");
    }
}
