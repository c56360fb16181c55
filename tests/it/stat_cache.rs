// SPDX-License-Identifier: MIT
//! The stat cache against the tree it stands before: whatever it says is what the tree says.
//!
//! Writers make random changes through the cache while readers put each question to both. An
//! answer is wrong when the tree said something else both before and after it. No mount is
//! needed: this is `Cached<Tree>` as the mirror holds it. Writers hold the directories they change
//! names in, as the kernel does. `MIRRORFS_CHANGES` sets the number of changes.

use std::ffi::{CStr, CString};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use mirrorfs::store::cache::{Cache, Cached};
use mirrorfs::store::op::{Action, Op};
use mirrorfs::store::{Made, Name, Node, Nodes, Scope, Side, Source, Stat, Target, Time, Tree};
use mirrorfs::sys::creds::Needs;
use mirrorfs::sys::{Errno, Result};
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, FileType, Mode, OFlags, RenameFlags};

use crate::support::rng::{Rng, seed};
use crate::support::{acl, base, temp_in};

const DIRS: usize = 4;
const NAMES: usize = 6;
const WRITERS: usize = 2;
const READERS: usize = 2;
/// As many changes as a run makes that is not told otherwise; `scripts/soak` wants a million.
const CHANGES: u64 = 150_000;
const XATTRS: [&CStr; 5] = [
    c"security.capability",
    c"security.selinux",
    c"system.posix_acl_access",
    c"system.posix_acl_default",
    c"user.test",
];

struct World {
    tree: Arc<Tree>,
    cached: Cached<Tree>,
    cache: Arc<Cache>,
    nodes: Nodes,
    dirs: Vec<(Arc<Node>, Mutex<()>)>,
}

/// A node with one lookup, taken back when it goes.
struct Known<'a> {
    world: &'a World,
    node: Arc<Node>,
}

impl Drop for Known<'_> {
    fn drop(&mut self) {
        self.world.nodes.forget(self.node.id, 1);
    }
}

fn name(n: usize) -> Name {
    Name::new(n.to_string()).expect("a name")
}

/// Without what the file system changes by itself: it allocates blocks when it likes.
fn settled(stat: Stat) -> Stat {
    let blocks = if stat.is_dir() { stat.blocks } else { 0 };
    Stat { blocks, ..stat }
}

impl World {
    fn new(dir: &std::path::Path, cache_bytes: usize) -> Self {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(dir, flags, Mode::empty()).expect("open");
        for n in 0..DIRS {
            let name = name(n);
            rustix::fs::mkdirat(&root, name.as_c_str(), Mode::RWXU).expect("mkdir");
        }
        let tree = Arc::new(Tree::new(Side::Primary, root, 200));
        let cache = Arc::new(Cache::new(cache_bytes, tree.atime()));
        let nodes = Nodes::new(&tree.root_stat().expect("statx"));
        let look = |n| {
            let stat = tree.lookup(nodes.root(), &name(n)).expect("lookup");
            nodes.remember(&stat, nodes.root(), &name(n))
        };
        let dirs = (0..DIRS).map(|n| (look(n), Mutex::default())).collect();
        let cached = Cached::new(tree.clone(), cache.clone());
        Self {
            tree,
            cached,
            cache,
            nodes,
            dirs,
        }
    }

    fn known(&self, node: Arc<Node>) -> Known<'_> {
        Known { world: self, node }
    }

    fn look_up(&self, dir: usize, n: usize) -> Result<Known<'_>> {
        let parent = &self.dirs[dir].0;
        let stat = self.cached.lookup(parent, &name(n))?;
        Ok(self.known(self.nodes.remember(&stat, parent, &name(n))))
    }

    /// As the kernel looks up: not while somebody changes names in the directory.
    fn find(&self, dir: usize, n: usize) -> Result<Known<'_>> {
        let _held = self.dirs[dir].1.lock();
        self.look_up(dir, n)
    }

    fn apply(&self, action: Action) {
        self.apply_with(action, &[]);
    }

    fn apply_with(&self, action: Action, data: &[u8]) {
        let needs = Needs::DAEMON;
        let op = Op {
            needs,
            action,
            data,
        };
        // As the mirror does. That random changes fail is part of the test.
        let Ok(applied) = self.cached.apply(&op) else {
            return;
        };
        let (Action::Create { parent, name, .. }
        | Action::Mkdir { parent, name, .. }
        | Action::Mknod { parent, name, .. }
        | Action::Symlink { parent, name, .. }
        | Action::Link { parent, name, .. }) = &op.action
        else {
            return;
        };
        let Some(Made { stat, fd }) = applied.made else {
            return;
        };
        let made = self.known(self.nodes.remember(&stat, parent, name));
        self.cached.adopt(&made.node, Made { stat, fd });
        if stat.mode & 1 == 0 {
            // The kernel looks at what it made, some of the time.
            self.check_node(&made.node);
        }
    }

    fn change_names(&self, rng: &mut Rng) {
        let (dir, n, other, m) = (
            rng.below(DIRS),
            rng.below(NAMES),
            rng.below(DIRS),
            rng.below(NAMES),
        );
        let _first = self.dirs[dir.min(other)].1.lock();
        let _second = (dir != other).then(|| self.dirs[dir.max(other)].1.lock());
        let parent = self.dirs[dir].0.clone();
        let (from, to) = (
            (parent.clone(), name(n)),
            (self.dirs[other].0.clone(), name(m)),
        );
        let name = name(n);
        match rng.below(12) {
            0..3 => {
                let mode = 0o600 | (rng.below(64) as u32);
                self.apply(Action::Create { parent, name, mode });
            }
            3 => self.apply(Action::Mkdir {
                parent,
                name,
                mode: 0o755,
            }),
            4 => self.apply(Action::Mknod {
                parent,
                name,
                mode: 0o010_600,
                rdev: 0,
            }),
            5 => self.apply(Action::Symlink {
                parent,
                name,
                target: c"target".into(),
            }),
            6 => {
                if let Ok(found) = self.look_up(other, m) {
                    let node = found.node.clone();
                    self.apply(Action::Link { node, parent, name });
                }
            }
            7..9 => {
                let Ok(found) = self.look_up(dir, n) else {
                    return;
                };
                let victim = Some(found.node.clone());
                let action = if found.node.is_dir() {
                    Action::Rmdir {
                        parent,
                        name,
                        victim,
                    }
                } else {
                    Action::Unlink {
                        parent,
                        name,
                        victim,
                    }
                };
                self.apply(action);
                self.check_node(&found.node);
            }
            _ => {
                let Ok(moved) = self.look_up(dir, n) else {
                    return;
                };
                let victim = self.look_up(other, m).ok();
                let flags = [
                    RenameFlags::empty(),
                    RenameFlags::EXCHANGE,
                    RenameFlags::NOREPLACE,
                    RenameFlags::WHITEOUT,
                ];
                let flags = flags[rng.below(flags.len())].bits();
                self.apply(Action::Rename {
                    from,
                    to,
                    flags,
                    moved: Some(moved.node.clone()),
                    victim: victim.as_ref().map(|found| found.node.clone()),
                });
            }
        }
    }

    fn change_object(&self, rng: &mut Rng) {
        let Ok(found) = self.find(rng.below(DIRS), rng.below(NAMES)) else {
            return;
        };
        let node = found.node.clone();
        let offset = rng.below(20_000) as u64;
        match rng.below(12) {
            0..3 => {
                let appending = false;
                let action = Action::Write {
                    node,
                    offset,
                    appending,
                };
                self.apply_with(action, b"some bytes");
            }
            3 => self.apply(Action::Truncate { node, size: offset }),
            4 => {
                let modes = [
                    FallocateFlags::empty(),
                    FallocateFlags::KEEP_SIZE,
                    FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE,
                ];
                self.apply(Action::Allocate {
                    node,
                    mode: modes[rng.below(modes.len())].bits(),
                    offset,
                    length: 5000,
                });
            }
            5 => {
                if let Ok(to) = self.find(rng.below(DIRS), rng.below(NAMES)) {
                    self.apply(Action::CopyRange {
                        from: node,
                        from_offset: 0,
                        to: to.node.clone(),
                        to_offset: offset,
                        length: 3000,
                    });
                }
            }
            6 => {
                let mode = Some(rng.below(0o10000) as u32 | 0o600);
                self.set_attributes(node, mode, None);
            }
            7 => {
                let past = Time {
                    seconds: 1_000_000_000 + rng.below(1_000_000) as i64,
                    nanos: 5,
                };
                self.set_attributes(node, None, Some(past));
            }
            8 => {
                let xattr = rng.below(XATTRS.len());
                let value = Self::value(xattr, rng);
                let (name, how) = (XATTRS[xattr].into(), 0);
                self.apply_with(Action::SetXattr { node, name, how }, &value);
            }
            9 => self.apply(Action::RemoveXattr {
                node,
                name: CString::from(XATTRS[rng.below(XATTRS.len())]),
            }),
            10 if offset < 100 => drop(self.cached.barrier(&node, Scope::Node)),
            _ => self.read(&node),
        }
        self.check_node(&found.node);
    }

    fn set_attributes(&self, node: Arc<Node>, mode: Option<u32>, atime: Option<Time>) {
        self.apply(Action::SetAttr {
            node,
            uid: None,
            gid: None,
            mode,
            atime,
            mtime: atime.filter(|time| time.seconds % 2 == 0),
        });
    }

    fn value(xattr: usize, rng: &mut Rng) -> Vec<u8> {
        match xattr {
            0 => {
                // VFS_CAP_REVISION_2 and no capability in particular.
                let mut value = 0x0200_0000_u32.to_le_bytes().to_vec();
                value.extend([0; 16]);
                value
            }
            2 | 3 => acl::encode(&[
                acl::Ace::Owner(7),
                acl::Ace::User(1234, 5),
                acl::Ace::OwningGroup(rng.below(8) as u16),
                acl::Ace::Mask(rng.below(8) as u16),
                acl::Ace::Other(0),
            ]),
            _ => rng.bytes(10),
        }
    }

    fn read(&self, node: &Arc<Node>) {
        match node.kind {
            FileType::Directory => drop(self.cached.read_dir(node, 0, 4096, &mut |_| true)),
            FileType::Symlink => drop(self.cached.read_link(node)),
            FileType::RegularFile => drop(self.cached.read(node, &mut [0; 100], 0)),
            _ => {}
        }
    }

    /// Puts one question to both; the tree's answer counts when it is the same before and after.
    /// True if it was.
    fn check<T: PartialEq + std::fmt::Debug>(
        &self,
        what: &str,
        witness: &Arc<Node>,
        truth: impl Fn() -> T,
        cached: impl FnOnce() -> T,
    ) -> bool {
        // The answer alone could have been another one in between, and be the same again. (On tmpfs so
        // can the time: link and unlink give a directory that of the file.)
        let changed = || self.tree.stat(witness).map(|stat| stat.ctime);
        let before = (changed(), truth());
        let said = cached();
        let after = (truth(), changed());
        if before != (after.1, after.0) {
            return false;
        }
        let truth = before.1;
        assert_eq!(said, truth, "{what}: the cache (left) and the tree (right)");
        true
    }

    fn check_node(&self, node: &Arc<Node>) -> bool {
        self.check(
            "stat",
            node,
            || self.tree.stat(node).map(settled),
            || self.cached.stat(node).map(settled),
        )
    }

    fn check_name(&self, dir: usize, n: usize) -> bool {
        let (parent, name) = (&self.dirs[dir].0, name(n));
        self.check(
            "lookup",
            parent,
            || self.tree.lookup(parent, &name).map(settled),
            || self.cached.lookup(parent, &name).map(settled),
        )
    }

    fn check_xattr(&self, node: &Arc<Node>, xattr: usize) -> bool {
        let value = |source: &dyn Source| -> Result<Vec<u8>> {
            let mut value = vec![0; 256];
            let size = source.get_xattr(node, XATTRS[xattr], &mut value)?;
            value.truncate(size);
            Ok(value)
        };
        self.check(
            "getxattr",
            node,
            || value(&*self.tree),
            || value(&self.cached),
        )
    }

    /// One random question; true if it could be judged.
    fn ask(&self, rng: &mut Rng) -> bool {
        let (dir, n) = (rng.below(DIRS), rng.below(NAMES));
        let found = match rng.below(8) {
            0..3 => return self.check_name(dir, n),
            3 => return self.check_node(&self.dirs[dir].0),
            _ => self.find(dir, n),
        };
        match found {
            Ok(found) if rng.below(16) == 0 => {
                self.read(&found.node);
                false
            }
            Ok(found) if rng.below(3) == 0 => {
                self.check_xattr(&found.node, rng.below(XATTRS.len()))
            }
            Ok(found) => self.check_node(&found.node),
            Err(errno) => {
                assert_eq!(errno, Errno::NOENT);
                false
            }
        }
    }
}

fn stale_answers(what: &str, tmp: &tempfile::TempDir, cache_bytes: usize, changes: u64) {
    let world = World::new(tmp.path(), cache_bytes);
    let seed = seed(what);
    let (made, judged, over) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let world = &world;
        let (made, judged, over) = (&made, &judged, &over);
        let readers: Vec<_> = (0..READERS)
            .map(|n| {
                scope.spawn(move || {
                    let mut rng = Rng::new(seed ^ (n as u64 + 100));
                    while !over.load(Ordering::Acquire) {
                        let known = u64::from(world.ask(&mut rng));
                        judged.fetch_add(known, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let writers: Vec<_> = (0..WRITERS)
            .map(|n| {
                scope.spawn(move || {
                    let mut rng = Rng::new(seed ^ n as u64);
                    while made.fetch_add(1, Ordering::Relaxed) < changes {
                        match rng.below(2) {
                            0 => world.change_names(&mut rng),
                            _ => world.change_object(&mut rng),
                        }
                    }
                })
            })
            .collect();
        let done: Vec<_> = writers.into_iter().map(|thread| thread.join()).collect();
        over.store(true, Ordering::Release);
        let read: Vec<_> = readers.into_iter().map(|thread| thread.join()).collect();
        assert!(done.iter().chain(&read).all(|end| end.is_ok()), "see above");
    });
    for dir in 0..DIRS {
        assert!(world.check_node(&world.dirs[dir].0), "nobody changes it");
        for n in 0..NAMES {
            assert!(world.check_name(dir, n), "nobody changes it");
        }
    }
    let counts = world.cache.counts();
    eprintln!("{what}: {changes} changes, {judged:?} answers judged, {counts:?}");
    assert!(counts.bytes <= counts.capacity_bytes, "{counts:?}");
    assert!(
        counts.hits > changes / 10,
        "it was asked, and knew: {counts:?}"
    );
}

/// Everything fits. Inode numbers are soon used again.
#[test]
fn no_stale_answer() {
    let told = std::env::var("MIRRORFS_CHANGES").ok();
    let changes = told.and_then(|n| n.parse().ok()).unwrap_or(CHANGES);
    stale_answers("stat cache", &temp_in(&base()), 1 << 20, changes);
}

/// So small that it forgets all the time.
#[test]
fn no_stale_answer_from_a_small_one() {
    let tmp = temp_in(&base());
    stale_answers("small stat cache", &tmp, 16 * 1000, CHANGES / 5);
}

/// Switched off, for a primary that others change as well: it holds nothing.
#[test]
fn switched_off_it_asks_the_tree() {
    let tmp = temp_in(&base());
    let world = World::new(tmp.path(), 0);
    let dir = &world.dirs[0].0;
    let before = world.cached.stat(dir).expect("stat");
    std::fs::create_dir(tmp.path().join("0/new")).expect("mkdir behind its back");
    assert_ne!(world.cached.stat(dir).expect("stat"), before);
    let counts = world.cache.counts();
    assert_eq!(
        (counts.hits, counts.bytes, counts.capacity_bytes),
        (0, 0, 0)
    );
}
