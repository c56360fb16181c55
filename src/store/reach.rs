// SPDX-License-Identifier: MIT
//! How a tree reaches the object of a node: one name at a time, and never a guess.
//!
//! Names are opened relative to a directory descriptor with
//! `openat2(RESOLVE_BENEATH | NO_SYMLINKS | NO_MAGICLINKS | NO_XDEV)`, first as `O_PATH`, which
//! does nothing to whatever is there. Only when device and inode number are those of the node is
//! it opened for more, through the descriptor just checked (`/proc/self/fd/N` leads to that very
//! object): a fifo or device that has taken a file's name is never touched.
//!
//! A check that fails may only mean that a rename is under way: then the name is tried once more
//! when none is (`names`), and only then is the node stale.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags};

use super::descriptor::{Access, Descriptor, Room};
use super::node::{Link, Node, Side};
use super::nodes::ROOT_ID;
use super::walk::BENEATH;
use super::{Name, Stat, Tree};
use crate::sys::{Errno, Result};

/// How often room is made for one descriptor before the call fails.
const ROOM_ATTEMPTS: usize = 16;
/// Before another attempt.
const ROOM_PAUSE: Duration = Duration::from_millis(1);

impl Tree {
    /// A descriptor of `node` that allows at least `access`.
    ///
    /// # Errors
    /// `ESTALE` when no known name leads to it any more: the tree was changed behind our back.
    pub fn open(&self, node: &Arc<Node>, access: Access) -> Result<Arc<Descriptor>> {
        match self.open_once(node, access) {
            // Healing has replaced it meanwhile: now it is the other one.
            Err(Errno::STALE) if self.side == Side::Replica => self.open_once(node, access),
            done => done,
        }
    }

    fn open_once(&self, node: &Arc<Node>, access: Access) -> Result<Arc<Descriptor>> {
        if let Some(open) = self.opened(node, access) {
            return Ok(open);
        }
        let held = match self.with_room(|| self.hold(node)) {
            // EXDEV too: moved out of its directory between the walk and the kernel's last look.
            Err(Errno::STALE | Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {
                let _quiet = self.names.write();
                self.with_room(|| self.hold(node))
                    .map_err(|errno| match errno {
                        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Errno::STALE,
                        other => other,
                    })?
            }
            other => other?,
        };
        if access == Access::Path {
            return Ok(held);
        }
        let descriptor = self.with_room(|| open_held(held.as_fd(), node.kind, access))?;
        self.install(node, descriptor.of(held.ident))
    }

    /// Runs a call that opens something, again with room made if there are no descriptors.
    pub(super) fn with_room<T>(&self, mut open: impl FnMut() -> Result<T>) -> Result<T> {
        for attempt in 0..ROOM_ATTEMPTS {
            match open() {
                Err(Errno::MFILE | Errno::NFILE) => {}
                done => return done,
            }
            if attempt > 0 {
                // Others took what was closed, or hold all there is: for as long as their calls take.
                std::thread::park_timeout(ROOM_PAUSE);
            }
            if self.ring.shrink() == Room::NeedsSync {
                self.sync_for_room();
            }
        }
        open()
    }

    /// A descriptor for extended attributes, whose calls work best on one that is really open.
    pub(super) fn object(&self, node: &Arc<Node>) -> Result<Arc<Descriptor>> {
        match node.kind {
            FileType::RegularFile | FileType::Directory => self
                .open(node, Access::Read)
                .or_else(|_| self.open(node, Access::Path)),
            _ => self.open(node, Access::Path),
        }
    }

    /// The descriptor a node already has, if it allows `access`.
    pub(super) fn opened(&self, node: &Arc<Node>, access: Access) -> Option<Arc<Descriptor>> {
        let place = node.place(self.side);
        let open = place.open().filter(|open| open.access >= access)?;
        open.touch();
        Some(open.clone())
    }

    /// Makes `new` the node's descriptor, unless another thread was first with as good a one.
    ///
    /// # Errors
    /// `ESTALE` when the node's object has become another one since it was opened.
    pub(super) fn install(&self, node: &Arc<Node>, new: Descriptor) -> Result<Arc<Descriptor>> {
        let mut place = node.place(self.side);
        if self.side == Side::Replica && new.ident.is_some() && new.ident != place.ident() {
            return Err(Errno::STALE);
        }
        if let Some(open) = place.open().filter(|open| open.access >= new.access) {
            return Ok(open.clone());
        }
        let fresh = Arc::new(new);
        let replaced = place.replace_open(fresh.clone());
        let in_ring = replaced.is_some() || place.is_pinned();
        drop(place);
        drop(replaced);
        if !in_ring && self.ring.insert(node) == Room::NeedsSync {
            self.sync_for_room();
        }
        Ok(fresh)
    }

    /// All descriptors carry unsynced writes: makes everything durable at once, so that they may
    /// be closed without losing the error that a failed writeback would report.
    fn sync_for_room(&self) {
        let sync = || rustix::fs::syncfs(self.root.as_fd());
        if let Err(errno) = self.ring.sync_once(sync) {
            self.sync_failed(&self.ring.unsynced(), errno);
        }
        // What is still too much after a sync is in use this very moment: over the limit for now.
        let _ = self.ring.make_room();
    }

    /// Makes everything done to this tree durable.
    pub(super) fn sync_everything(&self) -> Result<()> {
        let sync = || rustix::fs::syncfs(self.root.as_fd());
        self.ring.sync_now(sync).inspect_err(|&errno| {
            if self.side == Side::Primary {
                let unsynced = self.ring.unsynced();
                unsynced.iter().for_each(|node| node.keep_sync_error(errno));
            }
        })
    }

    /// A sync failed that no application waits for: on the primary every later fsync of these
    /// nodes says so, on either side the mirror hears of it with the next op.
    fn sync_failed(&self, nodes: &[Arc<Node>], errno: Errno) {
        if self.side == Side::Primary {
            nodes.iter().for_each(|node| node.keep_sync_error(errno));
        }
        self.note_fault(errno);
    }

    /// Lets go of a writable descriptor, so that the next write is checked against what the file
    /// has become.
    pub(super) fn close_writable(&self, node: &Arc<Node>) {
        let mut place = node.place(self.side);
        let writable = |open: &Arc<Descriptor>| open.access == Access::Write;
        if place.is_pinned() || !place.open().is_some_and(writable) {
            return;
        }
        let closing = place.take_open();
        drop(place);
        if let Some(open) = closing
            && let Err(errno) = open.sync(&self.ring, || rustix::fs::fsync(open.as_fd()))
        {
            self.sync_failed(std::slice::from_ref(node), errno);
        }
    }

    /// Any descriptor of `node`: the one it has, else an `O_PATH` one found under its names.
    fn hold(&self, node: &Arc<Node>) -> Result<Arc<Descriptor>> {
        if let Some(open) = self.opened(node, Access::Path) {
            return Ok(open);
        }
        if node.id == ROOT_ID || node.is_dir() {
            return self.dir(node);
        }
        let links = node.place(self.side).links().to_vec();
        let mut last = Errno::STALE;
        for Link { parent, name } in &links {
            let found = self
                .dir(parent)
                .and_then(|dir| self.open_child(dir.as_fd(), name.as_c_str(), node));
            match found {
                Ok(descriptor) => return self.install(node, descriptor),
                Err(errno) => last = errno,
            }
        }
        Err(last)
    }

    /// A directory's descriptor for names relative to it. Climbs to the nearest ancestor that has
    /// one and comes down again, without recursion: trees are deeper than stacks.
    fn dir(&self, node: &Arc<Node>) -> Result<Arc<Descriptor>> {
        let mut missing = Vec::new();
        let mut here = node.clone();
        // Behind the mount directories can be moved into each other: then the names that are known
        // of them go round in a ring (Brent's way to notice).
        let (mut passed, mut steps) = (node.clone(), 1_usize);
        let mut open = loop {
            if let Some(open) = self.opened(&here, Access::Path) {
                break open;
            }
            if here.id == ROOT_ID {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let fd = open_beneath(self.root.as_fd(), c".", flags)?;
                break self.install(&here, Descriptor::new(fd, Access::Path))?;
            }
            let link = {
                let place = here.place(self.side);
                place.links().first().cloned().ok_or(Errno::STALE)?
            };
            missing.push((here, link.name));
            here = link.parent;
            if Arc::ptr_eq(&here, &passed) {
                return Err(Errno::STALE);
            }
            if missing.len() == steps {
                passed = here.clone();
                steps *= 2;
            }
        };
        while let Some((child, name)) = missing.pop() {
            let descriptor = self.open_child(open.as_fd(), name.as_c_str(), &child)?;
            open = self.install(&child, descriptor)?;
        }
        Ok(open)
    }

    /// Holds `name` in `dir` if it is `node`.
    fn open_child(&self, dir: BorrowedFd<'_>, name: &CStr, node: &Node) -> Result<Descriptor> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = open_beneath(dir, name, flags)?;
        let stat = Stat::of(fd.as_fd())?;
        self.verify(node, &stat)?;
        Ok(Descriptor::new(fd, Access::Path).of(Some(stat.ident)))
    }

    /// Whether `stat` is of `node`, on this side. The first sight of a replica's object, under a
    /// name that it shares with its twin, settles who it is; no name changes before that
    /// ([`Self::identify`]).
    fn verify(&self, node: &Node, stat: &Stat) -> Result<()> {
        let same = match self.side {
            Side::Primary => node.is(stat),
            Side::Replica => stat.kind() == node.kind,
        };
        if !same {
            return Err(Errno::STALE);
        }
        let mut place = node.place(self.side);
        match place.ident() {
            Some(ident) if ident != stat.ident => Err(Errno::STALE),
            Some(_) => Ok(()),
            None => {
                place.set_ident(stat.ident);
                Ok(())
            }
        }
    }

    /// Settles who `node` is on this side while it still has the name it was first seen under:
    /// after a rename another object may stand there.
    pub(super) fn identify(
        &self,
        dir: BorrowedFd<'_>,
        name: &Name,
        node: Option<&Arc<Node>>,
    ) -> Result<()> {
        match node {
            Some(node) if node.place(self.side).ident().is_none() => {
                self.verify(node, &Stat::of_name(dir, name.as_c_str())?)
            }
            _ => Ok(()),
        }
    }

    /// Opens what is about to lose a name and keeps it open: without a name there is no way back
    /// to it, and its number must not be given to another object while the kernel knows it.
    ///
    /// # Errors
    /// `ENFILE` when too many are kept already; nothing has happened then.
    pub(super) fn pin(&self, node: &Arc<Node>) -> Result<()> {
        // Whatever it has: from an O_PATH descriptor it can still be opened for more.
        let open = self.open(node, Access::Path)?;
        let mut place = node.place(self.side);
        if !place.is_pinned() {
            // The primary decides for both: its places are given back first.
            if self.side == Side::Primary && !self.ring.can_pin() {
                return Err(Errno::NFILE);
            }
            place.set_pin(self.ring.pin());
        }
        if place.open().is_none() {
            place.replace_open(open);
        }
        Ok(())
    }

    /// Gives a descriptor back to the ring, if there still is a name to find the object by.
    pub(super) fn unpin(&self, node: &Arc<Node>) {
        let mut place = node.place(self.side);
        if !place.links().is_empty() && place.take_pin().is_some() {
            drop(place);
            // Whatever room this takes, the next one to open something makes.
            let _ = self.ring.insert(node);
        }
    }
}

/// `openat2` of one name, never out of `dir`, never through a link.
pub(super) fn open_beneath(dir: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd> {
    loop {
        match rustix::fs::openat2(dir, name, flags, Mode::empty(), BENEATH) {
            // A rename somewhere else made the walk uncertain (openat2(2), ERRORS).
            Err(Errno::AGAIN) => {}
            done => return done,
        }
    }
}

/// Opens the very object that `held` holds, for more than holding it.
fn open_held(held: BorrowedFd<'_>, kind: FileType, access: Access) -> Result<Descriptor> {
    let path = format!("/proc/self/fd/{}", held.as_raw_fd());
    let open = |flags| rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty());
    match (kind, access) {
        (FileType::Directory, Access::Write) => Err(Errno::ISDIR),
        (FileType::Directory, _) => {
            open(OFlags::RDONLY | OFlags::DIRECTORY).map(|fd| Descriptor::new(fd, Access::Read))
        }
        (FileType::RegularFile, Access::Write) => match open(OFlags::RDWR) {
            // An append-only file (chattr +a) opens for appending only.
            Err(Errno::PERM) => {
                let fd = open(OFlags::RDWR | OFlags::APPEND)?;
                let mut descriptor = Descriptor::new(fd, Access::Write);
                descriptor.append_only = true;
                Ok(descriptor)
            }
            fd => fd.map(|fd| Descriptor::new(fd, Access::Write)),
        },
        (FileType::RegularFile, _) => {
            open(OFlags::RDONLY).map(|fd| Descriptor::new(fd, Access::Read))
        }
        // Opening a fifo or a device would do something.
        _ => Err(Errno::OPNOTSUPP),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::Nodes;
    use super::super::op::{Action, Op};
    use super::super::{Source, Target};
    use super::*;
    use crate::sys::creds::Needs;

    /// The kernel looks once more, at the end of a scoped walk, whether what it found still lies
    /// beneath the directory (fs/namei.c, `complete_walk`). When a rename has moved it out between
    /// the two, openat2 says EXDEV: no other answer than ENOENT a moment later, and as little the
    /// application's business. Ten minutes of random operations showed one to a program.
    #[test]
    fn looked_for_while_it_is_moved_out_of_its_directory() {
        const MOVES: usize = 40_000;
        let tmp = tempfile::tempdir().expect("a temporary directory");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(tmp.path(), flags, Mode::empty()).expect("open");
        for dir in [c"a", c"b", c"a/d"] {
            rustix::fs::mkdirat(&root, dir, Mode::RWXU).expect("mkdir");
        }
        let tree = Tree::new(Side::Primary, root, 64);
        let nodes = Nodes::new(&tree.root_stat().expect("statx"));
        let look_up = |parent: &Arc<Node>, name: &str| {
            let name = Name::new(name).expect("a name");
            let stat = tree.lookup(parent, &name).expect("lookup");
            nodes.remember(&stat, parent, &name)
        };
        let dirs = ["a", "b"].map(|name| look_up(nodes.root(), name));
        let moved = look_up(&dirs[0], "d");
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let look = || {
                while !over.load(Ordering::Acquire) {
                    // As the ring does when others need the room.
                    drop(moved.place(Side::Primary).take_open());
                    let seen = tree.stat(&moved).map(|stat| stat.kind());
                    if seen != Ok(FileType::Directory) {
                        return seen.err();
                    }
                }
                None
            };
            let lookers = [scope.spawn(look), scope.spawn(look)];
            for n in 0..MOVES {
                let name = || Name::new("d").expect("a name");
                let action = Action::Rename {
                    from: (dirs[n % 2].clone(), name()),
                    to: (dirs[(n + 1) % 2].clone(), name()),
                    flags: 0,
                    moved: Some(moved.clone()),
                    victim: None,
                };
                let needs = Needs::DAEMON;
                drop(tree.apply(&Op::new(needs, action)).expect("rename"));
            }
            over.store(true, Ordering::Release);
            for looker in lookers {
                assert_eq!(
                    looker.join().expect("join"),
                    None,
                    "it was there all the time"
                );
            }
        });
    }
}
