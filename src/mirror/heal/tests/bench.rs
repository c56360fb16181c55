// SPDX-License-Identifier: MIT
//! Two trees, a log, and a mirror small enough to be seen through: ops are marked, carried out on
//! the primary, and followed on the replica only while it is there and healing admits them.

use std::cell::Cell;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rustix::fs::{Mode, OFlags};

use crate::journal::{Aspect, Intent, Journal, Key, Mark, Object, Origin, Pins, Twin, Want};
use crate::mirror::heal::{Ground, Healing, Stop, Summary};
use crate::mirror::order::Order;
use crate::mirror::replica::Fault;
use crate::mirror::resync::{How, reconcile};
use crate::mirror::watch::{Hold, Standstill};
use crate::store::descriptor::Access;
use crate::store::node::Node;
use crate::store::op::{Action, Claims, Op};
use crate::store::{Applied, Ident, Made, Name, Nodes, Side, Source, Stat, Target, Time, Tree};
use crate::sys::creds::Needs;
use crate::sys::{Errno, Result, at};

/// Where ops go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To both copies.
    Both,
    /// To the primary: the replica is away.
    Primary,
    /// To both where healing admits them.
    Healing,
    /// To the primary, and then the daemon dies.
    Last,
}

pub(super) struct Bench {
    pub(super) dir: Arc<tempfile::TempDir>,
    roots: [OwnedFd; 2],
    pub(super) source: Arc<Tree>,
    pub(super) replica: Arc<Tree>,
    pub(super) nodes: Arc<Nodes>,
    pub(super) order: Arc<Order>,
    pub(super) journal: Journal,
    pub(super) healing: Mutex<Arc<Healing>>,
    pub(super) way: Mutex<Way>,
    touched: Mutex<Vec<Arc<Node>>>,
    pub(super) vouches: AtomicBool,
    /// Ends healing.
    pub(super) stop: AtomicBool,
    /// What is skipped while it is healed is noted in detail; else its marks are made dirty.
    pub(super) notes: AtomicBool,
    /// What happens right before a hold: before how many more, and what.
    pub(super) before_hold: Mutex<Option<(u32, Hook)>>,
    /// What the replica did not follow: it counts as a difference.
    went_wrong: Mutex<Vec<String>>,
    /// How often this healing wanted everything to stand still since nobody is at work any more.
    pub(super) stills: AtomicUsize,
    /// Clients that go on while it is healed.
    pub(super) working: AtomicUsize,
    /// Held by whoever is in the middle of an op; all of it by healing while everything stands still.
    still: RwLock<()>,
}

/// Healing that wants this more often does not come to an end.
const STILLS_MAX: usize = 100;

thread_local! {
    /// What is done now is done by healing's own thread, before a hold.
    static IS_HOOK: Cell<bool> = const { Cell::new(false) };
}

pub(super) type Hook = Box<dyn FnOnce(&Bench) + Send>;

fn open(path: &Path) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).expect("open")
}

pub(super) fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

impl Bench {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for name in ["p", "r", "log"] {
            rustix::fs::mkdir(dir.path().join(name), Mode::RWXU).expect("mkdir");
        }
        Self::over(Arc::new(dir))
    }

    /// As a daemon that knows nothing yet finds them.
    pub(super) fn over(dir: Arc<tempfile::TempDir>) -> Self {
        Self::with(dir, |log| {
            Journal::create(log, 0, 7, Intent::Crash).expect("a log")
        })
    }

    /// The daemon dies; this is the next one.
    pub(super) fn dies(self) -> Self {
        let known = self.journal.log_id();
        Self::with(self.dir.clone(), |log| {
            Journal::open(log, 0, 7, known, Intent::Crash).expect("the log")
        })
    }

    fn with(dir: Arc<tempfile::TempDir>, journal: impl FnOnce(OwnedFd) -> Journal) -> Self {
        let [p, r, log] = ["p", "r", "log"].map(|name| open(&dir.path().join(name)));
        let roots = [&p, &r].map(|fd| fd.try_clone().expect("dup"));
        let source = Arc::new(Tree::new(Side::Primary, p, 4096));
        let replica = Arc::new(Tree::new(Side::Replica, r, 4096));
        let nodes = Arc::new(Nodes::new(&source.root_stat().expect("statx")));
        let journal = journal(log);
        Self {
            dir,
            roots,
            source,
            replica,
            nodes,
            order: Arc::default(),
            journal,
            healing: Mutex::new(Arc::new(Healing::new())),
            way: Mutex::new(Way::Both),
            touched: Mutex::default(),
            vouches: AtomicBool::new(true),
            stop: AtomicBool::new(false),
            notes: AtomicBool::new(false),
            before_hold: Mutex::default(),
            went_wrong: Mutex::default(),
            stills: AtomicUsize::new(0),
            working: AtomicUsize::new(0),
            still: RwLock::new(()),
        }
    }

    pub(super) fn p(&self, path: &str) -> PathBuf {
        self.dir.path().join("p").join(path)
    }

    pub(super) fn r(&self, path: &str) -> PathBuf {
        self.dir.path().join("r").join(path)
    }

    /// Does something right before the hold after `holds` others.
    pub(super) fn before_hold(&self, holds: u32, run: impl FnOnce(&Self) + Send + 'static) {
        *self.before_hold.lock() = Some((holds, Box::new(run)));
    }

    pub(super) fn go(&self, way: Way) {
        *self.way.lock() = way;
    }

    /// The node at a path, which the kernel knows from now on.
    pub(super) fn look(&self, path: &str) -> Result<Arc<Node>> {
        let mut node = self.nodes.root().clone();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let part = name(part);
            let stat = self.source.lookup(&node, &part)?;
            node = self.nodes.remember(&stat, &node, &part);
        }
        Ok(node)
    }

    pub(super) fn at(&self, path: &str) -> Arc<Node> {
        self.look(path).expect(path)
    }

    /// The directory of a path, and the name in it.
    pub(super) fn split(&self, path: &str) -> (Arc<Node>, Name) {
        self.try_split(path).expect(path)
    }

    fn try_split(&self, path: &str) -> Result<(Arc<Node>, Name)> {
        let (dir, last) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.look(dir)?, name(last)))
    }

    fn object(&self, node: &Arc<Node>) -> Object {
        let fd = self.source.open(node, Access::Path);
        let ino = node.place(Side::Primary).ident().map_or(0, |i| i.ino);
        Object {
            ino,
            handle: fd.map_or_else(|_| Box::default(), |fd| at::file_handle(fd.as_fd())),
            path: path_of(node).into(),
        }
    }

    /// Pins the marks of an op, as the mirror does before it begins.
    pub(super) fn mark(&self, op: &Op<'_>) -> Pins {
        let mut wanted: Vec<(Arc<Node>, Aspect)> = Vec::new();
        let all = Aspect::CONTENT;
        let mut origins: Vec<(u64, Origin)> = Vec::new();
        let mut renamed = None;
        match &op.action {
            Action::Write { node, offset, .. } => {
                let start = offset - offset % (4 << 20);
                let end = (offset + op.data.len() as u64).next_multiple_of(4 << 20);
                wanted.push((node.clone(), Aspect::Data { start, end }));
            }
            Action::Truncate { node, .. } => wanted.push((node.clone(), all)),
            Action::SetAttr { node, .. }
            | Action::SetXattr { node, .. }
            | Action::RemoveXattr { node, .. }
            | Action::SetFlags { node, .. } => wanted.push((node.clone(), Aspect::Node)),
            Action::Create { parent, .. }
            | Action::Mkdir { parent, .. }
            | Action::Mknod { parent, .. }
            | Action::Symlink { parent, .. }
            | Action::Unlink { parent, .. }
            | Action::Rmdir { parent, .. } => wanted.push((parent.clone(), Aspect::Dir)),
            Action::Link { node, parent, .. } => {
                wanted.push((parent.clone(), Aspect::Dir));
                wanted.push((node.clone(), Aspect::Node));
            }
            Action::Rename {
                from,
                to,
                flags,
                moved,
                victim,
            } => {
                wanted.push((from.0.clone(), Aspect::Dir));
                wanted.push((to.0.clone(), Aspect::Dir));
                let join = |(dir, name): &(Arc<Node>, Name)| {
                    let dir = path_of(dir);
                    let name = name.as_c_str().to_bytes();
                    if dir.is_empty() {
                        name.to_vec()
                    } else {
                        [&dir, &b"/"[..], name].concat()
                    }
                };
                let (old, new) = (join(from), join(to));
                for (node, path) in [(moved, &old), (victim, &new)] {
                    let swaps = flags & rustix::fs::RenameFlags::EXCHANGE.bits() != 0;
                    if let Some(node) = node
                        && (Arc::ptr_eq(node, moved.as_ref().expect("known")) || swaps)
                    {
                        wanted.push((node.clone(), Aspect::Moved));
                        let path = path.clone().into();
                        origins.push((
                            node.serial,
                            Origin {
                                path,
                                twin: self.twin(node),
                            },
                        ));
                    }
                }
                renamed = Some((old, new));
            }
            other => panic!("{other:?} is not used here"),
        }
        let describe: Vec<_> = wanted
            .iter()
            .map(|(node, aspect)| {
                let origin = origins.iter().find(|(serial, _)| *serial == node.serial);
                let origin = origin.map(|(_, origin)| origin.clone());
                let origin = origin.filter(|_| *aspect == Aspect::Moved);
                move || (self.object(node), origin.clone())
            })
            .collect();
        let wants: Vec<_> = wanted
            .iter()
            .zip(&describe)
            .map(|((node, aspect), describe)| Want {
                key: Key {
                    serial: node.serial,
                    aspect: *aspect,
                },
                describe,
            })
            .collect();
        let renamed = renamed.as_ref().map(|(old, new)| (&old[..], &new[..]));
        self.journal.pin(&wants, renamed).expect("pinned")
    }

    /// Who it is on the replica: only if that is known, never by a name that may be wrong.
    fn twin(&self, node: &Arc<Node>) -> Option<Twin> {
        let known = node.place(Side::Replica).ident();
        if known.is_none() && *self.way.lock() != Way::Both {
            return None;
        }
        let fd = self.replica.open(node, Access::Path).ok()?;
        let stat = Stat::of(fd.as_fd()).ok()?;
        let btime = stat.btime.map(|time| (time.seconds, time.nanos));
        Some(Twin {
            ino: stat.ident.ino,
            btime,
        })
    }

    /// Carries out one op: on the primary, and where it may be on the replica.
    pub(super) fn apply(&self, action: Action, data: &[u8]) -> Result<Option<Arc<Node>>> {
        let _going = (!IS_HOOK.get()).then(|| self.still.read());
        let op = Op {
            needs: Needs::DAEMON,
            action,
            data,
        };
        let turn = self.order.enter(&op.claims());
        let pins = self.mark(&op);
        let mut applied = self.source.apply(&op)?;
        let node = self.remember(&op, &mut applied);
        self.touched
            .lock()
            .extend(op.directories().into_iter().chain(op.content()).cloned());
        let way = *self.way.lock();
        let healing = self.healing.lock().clone();
        if way == Way::Healing {
            // Between the two copies there is time for healing.
            (0..8).for_each(|_| std::thread::yield_now());
        }
        let carried = match way {
            Way::Both => true,
            Way::Primary | Way::Last => false,
            Way::Healing => healing.admits(&op),
        };
        if carried {
            match self.follow(&op, node.as_ref(), applied) {
                Ok(()) => {}
                Err(
                    Errno::NOENT
                    | Errno::STALE
                    | Errno::EXIST
                    | Errno::NOTDIR
                    | Errno::ISDIR
                    | Errno::NOTEMPTY,
                ) if way == Way::Healing => {
                    healing.missed(&op);
                    self.align(&op);
                    self.skip(&op, &pins);
                }
                Err(errno) => {
                    let wrong = format!("{} on the replica: {errno:?}", op.verb());
                    self.went_wrong.lock().push(wrong);
                }
            }
        } else if way != Way::Last {
            self.align(&op);
            self.skip(&op, &pins);
        }
        drop(turn);
        Ok(node)
    }

    /// An op that went to the primary only.
    fn skip(&self, op: &Op<'_>, pins: &Pins) {
        let healing = *self.way.lock() == Way::Healing && self.notes.load(Ordering::Relaxed);
        if healing {
            self.healing.lock().skipped(op, pins);
        } else {
            pins.soil();
        }
    }

    /// The replica will have these under the names of the primary, once it is healed.
    fn align(&self, op: &Op<'_>) {
        match &op.action {
            Action::Link { node, .. } => node.align_names(),
            Action::Unlink { victim, .. } | Action::Rmdir { victim, .. } => {
                victim.iter().for_each(|node| node.align_names());
            }
            Action::Rename { moved, victim, .. } => {
                moved
                    .iter()
                    .chain(victim)
                    .for_each(|node| node.align_names());
            }
            _ => {}
        }
    }

    fn follow(&self, op: &Op<'_>, node: Option<&Arc<Node>>, primary: Applied) -> Result<()> {
        let applied = self.replica.apply(op)?;
        if let (Some(node), Some(made)) = (node, applied.made) {
            self.replica.adopt(node, made);
            let like = primary.made.map(|made| made.stat);
            if let Some(like) = like {
                self.replica.set_times(node, like.atime, like.mtime)?;
            }
        }
        Ok(())
    }

    fn remember(&self, op: &Op<'_>, applied: &mut Applied) -> Option<Arc<Node>> {
        let (parent, name) = match &op.action {
            Action::Create { parent, name, .. }
            | Action::Mkdir { parent, name, .. }
            | Action::Mknod { parent, name, .. }
            | Action::Symlink { parent, name, .. }
            | Action::Link { parent, name, .. } => (parent, name),
            _ => return None,
        };
        let made = applied.made.as_mut()?;
        let node = self.nodes.remember(&made.stat, parent, name);
        let fd = made.fd.take();
        self.source.adopt(
            &node,
            Made {
                stat: made.stat,
                fd,
            },
        );
        Some(node)
    }

    pub(super) fn mkdir(&self, path: &str) {
        let (parent, name) = self.split(path);
        let action = Action::Mkdir {
            parent,
            name,
            mode: 0o755,
        };
        drop(self.apply(action, &[]).expect(path));
    }

    /// Creates a file if there is none, and writes to it.
    pub(super) fn put(&self, path: &str, offset: u64, data: &[u8]) {
        let node = self.look(path).unwrap_or_else(|_| {
            let (parent, name) = self.split(path);
            let action = Action::Create {
                parent,
                name,
                mode: 0o644,
            };
            self.apply(action, &[]).expect(path).expect("made")
        });
        if !data.is_empty() {
            let action = Action::Write {
                node,
                offset,
                appending: false,
            };
            drop(self.apply(action, data).expect(path));
        }
    }

    pub(super) fn symlink(&self, path: &str, target: &str) {
        let (parent, name) = self.split(path);
        let target = CString::new(target).expect("a target");
        drop(
            self.apply(
                Action::Symlink {
                    parent,
                    name,
                    target,
                },
                &[],
            )
            .expect(path),
        );
    }

    pub(super) fn link(&self, old: &str, path: &str) {
        let (parent, name) = self.split(path);
        let action = Action::Link {
            node: self.at(old),
            parent,
            name,
        };
        drop(self.apply(action, &[]).expect(path));
    }

    pub(super) fn unlink(&self, path: &str) {
        let (parent, name) = self.split(path);
        let victim = Some(self.at(path));
        drop(
            self.apply(
                Action::Unlink {
                    parent,
                    name,
                    victim,
                },
                &[],
            )
            .expect(path),
        );
    }

    pub(super) fn rmdir(&self, path: &str) {
        let (parent, name) = self.split(path);
        let victim = Some(self.at(path));
        drop(
            self.apply(
                Action::Rmdir {
                    parent,
                    name,
                    victim,
                },
                &[],
            )
            .expect(path),
        );
    }

    pub(super) fn rename_with(&self, old: &str, new: &str, flags: u32) -> Result<()> {
        let moved = Some(self.look(old)?);
        let victim = self.look(new).ok();
        let (from, to) = (self.try_split(old)?, self.try_split(new)?);
        let action = Action::Rename {
            from,
            to,
            flags,
            moved,
            victim,
        };
        self.apply(action, &[]).map(drop)
    }

    pub(super) fn rename(&self, old: &str, new: &str) {
        self.rename_with(old, new, 0).expect(old);
    }

    pub(super) fn swap(&self, old: &str, new: &str) {
        let flags = rustix::fs::RenameFlags::EXCHANGE.bits();
        self.rename_with(old, new, flags).expect(old);
    }

    pub(super) fn chmod(&self, path: &str, mode: u32) {
        let action = Action::SetAttr {
            node: self.at(path),
            uid: None,
            gid: None,
            mode: Some(mode),
            atime: None,
            mtime: None,
        };
        drop(self.apply(action, &[]).expect(path));
    }

    pub(super) fn set_xattr(&self, path: &str, value: &[u8]) {
        let action = Action::SetXattr {
            node: self.at(path),
            name: c"user.mirrorfs-test".to_owned(),
            how: 0,
        };
        drop(self.apply(action, value).expect(path));
    }

    /// Heals, and tells what that did.
    pub(super) fn heal(&self) -> Summary {
        self.try_heal().expect("healed")
    }

    pub(super) fn try_heal(&self) -> std::result::Result<Summary, Stop> {
        let healing = Arc::new(Healing::new());
        *self.healing.lock() = healing;
        self.go_on_healing()
    }

    /// With the healing that whoever uses the mount asks already.
    pub(super) fn go_on_healing(&self) -> std::result::Result<Summary, Stop> {
        let healing = self.healing.lock().clone();
        self.stills.store(0, Ordering::Relaxed);
        self.stop.store(false, Ordering::Relaxed);
        healing.run(self, &self.stop, None)
    }

    pub(super) fn opened(&self) -> (u64, u64) {
        let progress = self.healing.lock().progress();
        (progress.files_opened, progress.dirs_opened)
    }

    /// Both copies are made durable, and the marks that are clean are cleared.
    pub(super) fn checkpoint(&self) {
        let checkpoint = self.journal.begin_checkpoint();
        self.journal.end_checkpoint(checkpoint).expect("cleared");
        let checkpoint = self.journal.begin_checkpoint();
        self.journal.end_checkpoint(checkpoint).expect("cleared");
        assert_eq!(
            self.journal.counts().alive,
            0,
            "{:?}",
            self.journal.counts()
        );
    }

    /// The times that live ops leave to be carried over.
    pub(super) fn settle(&self) {
        for node in std::mem::take(&mut *self.touched.lock()) {
            let Ok(stat) = self.source.stat(&node) else {
                continue;
            };
            if stat.nlink > 0 && path_leads_to(&self.source, &node) {
                let set = self.replica.set_times(&node, stat.atime, stat.mtime);
                let wrong = |errno| format!("times of {}: {errno:?}", node.display_path());
                self.went_wrong.lock().extend(set.err().map(wrong));
            }
        }
    }

    pub(super) fn differences(&self) -> Vec<String> {
        let [p, r] = &self.roots;
        let summary = reconcile(p.as_fd(), r.as_fd(), How::default(), &mut |_| {});
        let found = summary.expect("compared").differences;
        let show = |d: crate::mirror::resync::Difference| {
            format!("{}: {}", String::from_utf8_lossy(&d.path), d.detail)
        };
        let wrong = self.went_wrong.lock().clone();
        wrong
            .into_iter()
            .chain(found.into_iter().map(show))
            .collect()
    }

    /// Waits until everything there is so old that no mistrust of the clock takes it for new.
    pub(super) fn ages(&self) {
        let now = Time::of_clock().since_1970();
        let step = crate::mirror::heal::CLOCK_STEP.as_nanos();
        let old = now + i128::try_from(step).expect("a moment");
        while Time::of_clock().since_1970() <= old {
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    pub(super) fn assert_equal(&self) {
        assert_eq!(self.differences(), Vec::<String>::new());
        assert!(self.journal.dirty().is_empty());
    }

    /// Every file of both copies, so that a test starts with both copies equal and no mark.
    pub(super) fn start(&self) {
        self.settle();
        self.assert_equal();
        self.checkpoint();
        // What is born from now on is born after this.
        let now = crate::sys::clock::inode_now();
        while crate::sys::clock::inode_now() == now {
            std::thread::yield_now();
        }
        self.go(Way::Primary);
    }
}

fn path_leads_to(tree: &Tree, node: &Arc<Node>) -> bool {
    let links = node.place(Side::Primary).links().to_vec();
    links.is_empty()
        || links
            .iter()
            .any(|l| tree.lookup(&l.parent, &l.name).is_ok())
}

pub(super) fn path_of(node: &Arc<Node>) -> Vec<u8> {
    let mut parts = Vec::new();
    let mut link = node.place(Side::Primary).links().first().cloned();
    while let Some(step) = link {
        parts.push(step.name.as_os_str().as_bytes().to_vec());
        link = step.parent.place(Side::Primary).links().first().cloned();
    }
    parts.reverse();
    parts.join(&b'/')
}

impl Ground for Bench {
    fn source(&self) -> &dyn Source {
        &*self.source
    }
    fn nodes(&self) -> &Arc<Nodes> {
        &self.nodes
    }
    fn primary_root(&self) -> BorrowedFd<'_> {
        self.roots[0].as_fd()
    }
    fn replica_root(&self) -> BorrowedFd<'_> {
        self.roots[1].as_fd()
    }
    fn hold(&self, claims: Claims) -> std::result::Result<Hold<'_>, Fault> {
        let mut hook = self.before_hold.lock();
        let due = match hook.as_mut() {
            Some((0, _)) => hook.take(),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        };
        drop(hook);
        if let Some((_, run)) = due {
            IS_HOOK.set(true);
            run(self);
            IS_HOOK.set(false);
        }
        Ok(self.order.enter(&claims).into())
    }
    fn stand_still(&self) -> std::result::Result<Standstill<'_>, Fault> {
        let standstill = Standstill::keeping(self.still.write());
        let is_over = self.working.load(Ordering::Acquire) == 0;
        if is_over && self.stills.fetch_add(1, Ordering::Relaxed) > STILLS_MAX {
            let doing = "healing, which does not come to an end".to_owned();
            return Err(Fault::new(Errno::TIMEDOUT, doing));
        }
        Ok(standstill)
    }
    fn journal(&self) -> &Journal {
        &self.journal
    }
    fn clear(&self, marks: Vec<Arc<Mark>>) {
        let point = self.journal.begin_clearing(marks);
        self.journal.end_checkpoint(point).expect("cleared");
    }
    fn divides_at_once(&self) -> bool {
        true
    }
    fn twin_replaced(&self, primary: Ident) {
        if let Some(node) = self.nodes.find(primary) {
            drop(node.forget_twin());
        }
    }
    fn vouches(&self) -> bool {
        self.vouches.load(Ordering::Relaxed)
    }
}
