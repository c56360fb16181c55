// SPDX-License-Identifier: MIT
//! Where an object is: found by what a mark knows of it, followed while it moves, held in place.
//!
//! A mark knows an object by its inode number, its handle and the paths it may have. Once it is
//! found it is a node, and a node is followed through every rename by the ops themselves. Before
//! anything is compared or changed the way to it is held (a turn on the attributes of every
//! directory above, which any rename of one needs too) and walked again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags};

use super::{Ground, Halt, Outcome};
use crate::journal::Object;
use crate::mirror::attach::stamp;
use crate::mirror::failure::Copy;
use crate::mirror::resync::content::On;
use crate::mirror::resync::object::make_readable;
use crate::store::node::{Link, Node, Side};
use crate::store::nodes::ROOT_ID;
use crate::store::op::{Claim, Claims};
use crate::store::{Ident, Name, Nodes, Stat, walk};
use crate::sys::{Errno, Result, at};

/// Directories above an object, at most.
const ABOVE_MAX: usize = 1 << 16;

/// A node that is kept in the table, so that ops that move its object move it, too.
#[derive(Debug)]
pub(super) struct Held {
    nodes: Arc<Nodes>,
    node: Option<Arc<Node>>,
    /// Lookups to give back.
    count: u64,
}

impl Held {
    /// Looks up `name` in `parent`, where `stat` was found.
    pub(super) fn new(nodes: &Arc<Nodes>, stat: &Stat, parent: &Arc<Node>, name: &Name) -> Self {
        Self {
            nodes: nodes.clone(),
            node: Some(nodes.remember(stat, parent, name)),
            count: 1,
        }
    }

    /// A node that is known already: it stays as long as it is held.
    pub(super) fn known(nodes: &Arc<Nodes>, node: &Arc<Node>) -> Self {
        Self {
            nodes: nodes.clone(),
            node: Some(node.clone()),
            count: 0,
        }
    }

    pub(super) fn node(&self) -> &Arc<Node> {
        self.node.as_ref().expect("taken by drop only")
    }

    /// Who it is on the primary.
    pub(super) fn ident(&self) -> Ident {
        self.node().place(Side::Primary).ident().unwrap_or_default()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(node) = self.node.take() {
            let id = node.id;
            drop(node);
            self.nodes.forget(id, self.count);
        }
    }
}

/// The names that lead from the root to an object, and the directories they are in.
#[derive(Clone, Debug)]
pub(super) struct Way {
    links: Vec<Link>,
    node: Arc<Node>,
}

impl Way {
    /// The present way to `node`; `None` when no name leads to it any more. Of several names one
    /// that `prefer` likes.
    pub(super) fn to(node: &Arc<Node>, prefer: impl Fn(&Arc<Node>) -> bool) -> Option<Self> {
        let mut links = Vec::new();
        let mut id = node.id;
        let mut link = {
            let all = node.place(Side::Primary).links().to_vec();
            let liked = all.iter().position(|link| prefer(&link.parent));
            all.into_iter().nth(liked.unwrap_or(0))
        };
        while id != ROOT_ID {
            let step = link.take()?;
            id = step.parent.id;
            link = step.parent.place(Side::Primary).links().first().cloned();
            links.push(step);
            if links.len() > ABOVE_MAX {
                return None;
            }
        }
        links.reverse();
        let node = node.clone();
        Some(Self { links, node })
    }

    /// The directory it is in, and the name in it; `None` for the root.
    pub(super) fn last(&self) -> Option<&Link> {
        self.links.last()
    }

    /// The directories above it, from the root on.
    pub(super) fn above(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.links.iter().map(|link| &link.parent)
    }

    /// The directories above it but the root, each with its name in the one above.
    pub(super) fn below_root(&self) -> &[Link] {
        &self.links[..self.links.len().saturating_sub(1)]
    }

    /// Whether this directory is above it.
    pub(super) fn leads_through(&self, dir: Ident) -> bool {
        let mut above = self.above();
        above.any(|node| node.place(Side::Primary).ident() == Some(dir))
    }

    pub(super) fn is_root(&self) -> bool {
        self.links.is_empty()
    }

    /// Claims on the attributes of every directory above it: none of them moves meanwhile.
    pub(super) fn claims(&self) -> impl Iterator<Item = Claim> {
        self.above().map(|dir| Claim::attributes(dir))
    }

    /// What to hold for its names, if it is a directory, and its attributes.
    pub(super) fn for_names(&self) -> Claims {
        let own = [Claim::all_names(&self.node), Claim::attributes(&self.node)];
        Claim::together(self.claims().chain(own))
    }

    /// What to hold for its content and attributes.
    pub(super) fn for_content(&self) -> Claims {
        Claim::together(self.claims().chain(Claim::whole(&self.node)))
    }

    /// Whether this is still the way, now that it is held.
    pub(super) fn is_still(&self) -> bool {
        let link = |node: &Arc<Node>, step: &Link| {
            let links = node.place(Side::Primary).links().to_vec();
            links
                .iter()
                .any(|l| Arc::ptr_eq(&l.parent, &step.parent) && l.name == step.name)
        };
        let below = self.above().skip(1).chain([&self.node]);
        below.zip(&self.links).all(|(node, step)| link(node, step))
    }

    /// Relative to the root.
    pub(super) fn path(&self) -> Vec<u8> {
        let names = self.links.iter().map(|l| l.name.as_c_str().to_bytes());
        names.collect::<Vec<_>>().join(&b'/')
    }

    /// The directories that hold the last name (for the root: the root itself), on both copies.
    ///
    /// # Errors
    /// `Lost` when the primary's directories are others by now, `Unlike` when the replica lacks one.
    pub(super) fn open_parents(&self, ground: &dyn Ground) -> Outcome<Pair> {
        let above = self.links.len().saturating_sub(1);
        let names = self.links[..above].iter().map(|link| &link.name);
        let mut primary = walk::reopen(ground.primary_root()).on(Copy::Primary, "openat2")?;
        for (name, below) in names.clone().zip(self.above().skip(1)) {
            primary = step(primary.as_fd(), name).on(Copy::Primary, "openat2")?;
            let stat = Stat::of(primary.as_fd()).on(Copy::Primary, "statx")?;
            if below.place(Side::Primary).ident() != Some(stat.ident) {
                return Err(Halt::Lost);
            }
        }
        let mut replica = walk::reopen(ground.replica_root()).on(Copy::Replica, "openat2")?;
        for name in names {
            replica = step(replica.as_fd(), name).on(Copy::Replica, "openat2")?;
        }
        Ok(Pair { primary, replica })
    }

    /// The object itself, a directory, on both copies, as a place only: nothing is changed to get
    /// there.
    ///
    /// # Errors
    /// As [`Self::open_parents`].
    pub(super) fn open_places(&self, ground: &dyn Ground) -> Outcome<Pair> {
        let above = self.open_parents(ground)?;
        let Some(Link { name, .. }) = self.last() else {
            return Ok(above);
        };
        let primary = step(above.primary.as_fd(), name).on(Copy::Primary, "openat2")?;
        let stat = Stat::of(primary.as_fd()).on(Copy::Primary, "statx")?;
        if self.node.place(Side::Primary).ident() != Some(stat.ident) {
            return Err(Halt::Lost);
        }
        let replica = step(above.replica.as_fd(), name).on(Copy::Replica, "openat2")?;
        Ok(Pair { primary, replica })
    }

    /// The object itself, a directory, on both copies, open for listing.
    ///
    /// # Errors
    /// As [`Self::open_parents`].
    pub(super) fn open_dirs(&self, ground: &dyn Ground) -> Outcome<Pair> {
        let Some(Link { name, .. }) = self.last() else {
            return self.open_parents(ground);
        };
        let above = self.open_parents(ground)?;
        let name = name.as_c_str();
        let primary = walk::open_dir(above.primary.as_fd(), name).on(Copy::Primary, "openat2")?;
        let stat = Stat::of(primary.as_fd()).on(Copy::Primary, "statx")?;
        if self.node.place(Side::Primary).ident() != Some(stat.ident) {
            return Err(Halt::Lost);
        }
        let replica = match walk::open_dir(above.replica.as_fd(), name) {
            Err(Errno::ACCESS) => {
                make_readable(above.replica.as_fd(), name, 0o700)?;
                walk::open_dir(above.replica.as_fd(), name)
            }
            opened => opened,
        };
        let replica = replica.on(Copy::Replica, "openat2")?;
        Ok(Pair { primary, replica })
    }
}

/// The same directory on both copies.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) primary: OwnedFd,
    pub(super) replica: OwnedFd,
}

/// One directory down, as a place only.
fn step(dir: BorrowedFd<'_>, name: &Name) -> Result<OwnedFd> {
    walk::open(dir, name.as_c_str(), OFlags::PATH | OFlags::DIRECTORY, 0)
}

/// What became of the object of a mark.
#[derive(Debug)]
pub(super) enum Found {
    At(Held),
    /// There is no such object any more.
    Gone,
    /// It cannot be told where it is, or whether it is.
    Unknown,
}

/// Finds the object of a mark on the primary: at one of the paths it may have, at the names its
/// node has, or through its handle.
pub(super) fn find(ground: &dyn Ground, object: &Object, paths: &[Box<[u8]>]) -> Outcome<Found> {
    let nodes = ground.nodes();
    let root = nodes.root().place(Side::Primary).ident();
    if object.path.is_empty() && (object.ino == 0 || root.is_some_and(|r| r.ino == object.ino)) {
        return Ok(Found::At(Held::known(nodes, nodes.root())));
    }
    for path in paths {
        if let Some(held) = at_path(ground, object, path)? {
            return Ok(Found::At(held));
        }
    }
    let dev = root.map_or(0, |root| root.dev);
    let ino = object.ino;
    if let Some(node) = nodes.find(Ident { dev, ino }) {
        let path = Way::to(&node, |_| true).map(|way| way.path());
        drop(node);
        if let Some(path) = path
            && let Some(held) = at_path(ground, object, &path)?
        {
            return Ok(Found::At(held));
        }
    }
    if object.handle.is_empty() {
        return Ok(Found::Unknown);
    }
    let root = walk::reopen(ground.primary_root()).on(Copy::Primary, "openat2")?;
    let fd = match at::open_handle(root.as_fd(), &object.handle) {
        Err(Errno::STALE) => return Ok(Found::Gone),
        // ENOMEM is seen on ext4 while names around it come and go, with memory in plenty.
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NOMEM) => {
            return Ok(Found::Unknown);
        }
        opened => opened.on(Copy::Primary, "open_by_handle_at")?,
    };
    let stat = Stat::of(fd.as_fd()).on(Copy::Primary, "statx")?;
    if stat.nlink == 0 || stat.ident.ino != object.ino {
        return Ok(Found::Gone);
    }
    if !stat.is_dir() {
        return Ok(Found::Unknown);
    }
    let root = Stat::of(root.as_fd()).on(Copy::Primary, "statx")?.ident;
    match climb(fd, root).on(Copy::Primary, "openat")? {
        Some(path) => Ok(at_path(ground, object, &path)?.map_or(Found::Unknown, Found::At)),
        // It lives on, but not in this tree.
        None => Ok(Found::Gone),
    }
}

/// The object of a mark, if it is what `path` leads to.
fn at_path(ground: &dyn Ground, object: &Object, path: &[u8]) -> Outcome<Option<Held>> {
    use std::os::unix::ffi::OsStrExt as _;
    let nodes = ground.nodes();
    let mut held = Held::known(nodes, nodes.root());
    let mut dir = walk::reopen(ground.primary_root()).on(Copy::Primary, "openat2")?;
    for part in path
        .split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty())
    {
        let Ok(name) = Name::new(std::ffi::OsStr::from_bytes(part)) else {
            return Ok(None);
        };
        if held.node().id == ROOT_ID && stamp::is_ours(&name) {
            return Ok(None);
        }
        if !held.node().is_dir() {
            return Ok(None);
        }
        let found = ground.source().lookup(held.node(), &name);
        let next = walk::open(dir.as_fd(), name.as_c_str(), OFlags::PATH, 0);
        let (stat, next) = match (found, next) {
            (Ok(stat), Ok(next)) => (stat, next),
            (Err(errno), _) | (_, Err(errno)) if is_elsewhere(errno) => return Ok(None),
            // Something is mounted there: what is below is no part of the tree.
            (Err(Errno::XDEV), _) | (_, Err(Errno::XDEV)) => return Ok(None),
            (Err(errno), _) | (_, Err(errno)) => {
                return Err(errno).on(Copy::Primary, "openat2").map_err(Halt::from);
            }
        };
        if Stat::of(next.as_fd()).on(Copy::Primary, "statx")?.ident != stat.ident {
            return Ok(None);
        }
        held = Held::new(nodes, &stat, held.node(), &name);
        dir = next;
    }
    let is_it = held.ident().ino == object.ino
        && (object.handle.is_empty() || at::file_handle(dir.as_fd()) == object.handle);
    Ok(is_it.then_some(held))
}

/// A name that leads nowhere, or elsewhere: no failure of the file system.
pub(super) fn is_elsewhere(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::NOENT | Errno::STALE | Errno::NOTDIR | Errno::LOOP
    )
}

/// The path of a directory that is known by its descriptor only; `None` when it is not below
/// `root`.
fn climb(from: OwnedFd, root: Ident) -> Result<Option<Vec<u8>>> {
    let mut names: Vec<Name> = Vec::new();
    let mut here = from;
    let mut ident = Stat::of(here.as_fd())?.ident;
    while ident != root {
        // Not openat2: `..` is what RESOLVE_BENEATH forbids. Nothing is done there but looking.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let up = rustix::fs::openat(&here, c"..", flags, Mode::empty())?;
        let above = Stat::of(up.as_fd())?.ident;
        if above == ident || names.len() > ABOVE_MAX {
            return Ok(None);
        }
        let is_it = |name: &Name| {
            let stat = Stat::of_name(up.as_fd(), name.as_c_str());
            stat.is_ok_and(|stat| stat.ident == ident && stat.kind() == FileType::Directory)
        };
        let Some(name) = walk::names(up.as_fd())?.into_iter().find(is_it) else {
            return Ok(None);
        };
        names.push(name);
        (here, ident) = (up, above);
    }
    names.reverse();
    let names = names.iter().map(|name| name.as_c_str().to_bytes());
    Ok(Some(names.collect::<Vec<_>>().join(&b'/')))
}
