// SPDX-License-Identifier: MIT
//! `Again`: what seemed to differ while both trees were in use is looked at once more, held in place.
//!
//! A walk through two live trees sees changes under way: a name that is on the primary only for a
//! moment, bytes that are queued for the replica, a time that waits to be carried over. Here each
//! object is taken out of traffic while it is compared: a turn on its name, its content and its
//! attributes and on the attributes of all directories above, what is queued carried, its times
//! settled. What differs then differs.
//!
//! Nothing else stands still: a large file is held for one part of it at a time. What was moved since
//! the walk is followed to where it is now. What the walk could not look at, because it was just
//! coming or going, is compared here completely.
//!
//! Before anything is reported it is looked at twice: an op that failed half way on the primary is
//! put right in a turn of its own, and between the two turns the copies differ.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::FileType;

use super::content::PART;
use super::place::{Held, Pair, Way, is_elsewhere};
use super::{Ground, Halt};
use crate::journal::{Aspect, Key, Object, Want};
use crate::mirror::attach::stamp;
use crate::mirror::failure::{Copy, Failure};
use crate::mirror::replica::Fault;
use crate::mirror::resync::attrs::Attrs;
use crate::mirror::resync::content::{Content, File, On, Trouble, next_data};
use crate::mirror::resync::links::BOTH;
use crate::mirror::resync::object::open_as;
use crate::mirror::resync::{Difference, Kind, Lack, Lacks, progress, word};
use crate::store::node::Side;
use crate::store::op::{Claim, Claims};
use crate::store::{Ident, Name, Stat, walk};
use crate::sys::Errno;

/// How often an object that moves away under our eyes is looked for again.
const ATTEMPTS: u32 = 256;
/// How often an object is followed to another path.
const MOVES_MAX: u8 = 8;
/// How often an object waits until its directory has been looked at.
const TRIES_MAX: u8 = 3;
/// Between the two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Why looking ended before it was known what differs.
#[derive(Debug)]
pub enum Broken {
    /// It was asked to stop.
    Asked,
    /// The replica is not followed any more, or something is missing from it by now.
    Away(Option<Fault>),
    /// The log takes no mark.
    Log(Errno),
    /// A call failed.
    Failed(Failure),
}

/// Why an attempt at one object ended early.
enum End {
    Halt(Halt),
    Broken(Broken),
}

impl<T: Into<Halt>> From<T> for End {
    fn from(halt: T) -> Self {
        Self::Halt(halt.into())
    }
}

impl From<Broken> for End {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

type Outcome<T> = Result<T, End>;

/// How the work on one object goes on.
enum Next {
    Done,
    /// There is more of it.
    More,
}

/// An object to look at.
#[derive(Clone, Debug, Default)]
struct Suspect {
    path: Vec<u8>,
    trail: Vec<u64>,
    /// Nothing of it, or below it, was compared yet.
    whole: bool,
    /// Its content is looked at.
    content: bool,
    /// All that is in question is whether it has this other name, too.
    other: Option<Vec<u8>>,
    moves: u8,
    tries: u8,
    /// Where comparing the content goes on.
    at: u64,
    /// What differed before: where first, and how many bytes.
    first: Option<u64>,
    differing: u64,
    holes: bool,
}

/// Looks again.
#[allow(
    missing_debug_implementations,
    reason = "two buffers and a trait object"
)]
pub struct Again<'a> {
    ground: &'a dyn Ground,
    /// Size and mtime are believed.
    quick: bool,
    ignore: Lacks,
    stop: &'a AtomicBool,
    content: Content,
    todo: Vec<Suspect>,
    found: Vec<Difference>,
    said: HashSet<(Vec<u8>, String)>,
    /// Of what is being looked at.
    trail: Vec<u64>,
}

impl<'a> Again<'a> {
    /// Looks again at what a walk has found on this ground; `ignore` is no difference.
    #[must_use]
    pub fn new(ground: &'a dyn Ground, quick: bool, ignore: Lacks, stop: &'a AtomicBool) -> Self {
        Self {
            ground,
            quick,
            ignore,
            stop,
            content: Content::new(),
            todo: Vec::new(),
            found: Vec::new(),
            said: HashSet::new(),
            trail: Vec::new(),
        }
    }

    /// What of `found` differs still.
    ///
    /// # Errors
    /// Why that could not be found out.
    pub fn look(&mut self, found: &[Difference]) -> Result<Vec<Difference>, Broken> {
        let left = self.round(found)?;
        if left.is_empty() {
            return Ok(left);
        }
        std::thread::park_timeout(PAUSE);
        self.round(&left)
    }

    /// Marks what differs, durably, as to be healed.
    ///
    /// # Errors
    /// The log's, or a call on the primary that failed.
    pub fn mark(&mut self, found: &[Difference]) -> Result<(), Broken> {
        for one in found {
            self.check_stop()?;
            match one.kind {
                Kind::Entry => {
                    self.mark_one(parent(&one.path), Aspect::Dir)?;
                    if let Some(other) = &one.other {
                        self.mark_one(parent(other), Aspect::Dir)?;
                    }
                }
                // Where the time differs, quick has not looked at the content.
                Kind::Metadata if !self.quick => self.mark_one(&one.path, Aspect::Node)?,
                Kind::Metadata | Kind::Data => self.mark_one(&one.path, Aspect::CONTENT)?,
            }
        }
        Ok(())
    }

    fn mark_one(&self, path: &[u8], aspect: Aspect) -> Result<(), Broken> {
        let (held, _) = match self.resolve(path) {
            Ok(Some(found)) => found,
            // It is gone: whoever removed it removed it on both.
            Ok(None) | Err(End::Halt(Halt::Lost | Halt::Unlike)) => return Ok(()),
            Err(End::Halt(Halt::Trouble(trouble))) => return Err(failed(path, &trouble)),
            Err(End::Broken(broken)) => return Err(broken),
        };
        let node = held.node();
        if aspect == Aspect::Dir && !node.is_dir() {
            return Ok(()); // As if it were gone.
        }
        let aspect = match aspect {
            Aspect::Data { .. } if node.kind != FileType::RegularFile => Aspect::Node,
            aspect => aspect,
        };
        let key = Key {
            serial: node.serial,
            aspect,
        };
        let describe = || {
            let object = Object {
                ino: held.ident().ino,
                handle: self.ground.source().handle(node),
                path: node.path().unwrap_or_default().into(),
            };
            (object, None)
        };
        let want = Want {
            key,
            describe: &describe,
        };
        let pins = self.ground.journal().pin(&[want], None);
        pins.map_err(Broken::Log)?.soil();
        Ok(())
    }

    fn check_stop(&self) -> Result<(), Broken> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Broken::Asked);
        }
        Ok(())
    }

    /// Looks at each object once.
    fn round(&mut self, found: &[Difference]) -> Result<Vec<Difference>, Broken> {
        self.said.clear();
        self.found.clear();
        self.todo = suspects(found, self.quick);
        while let Some(suspect) = self.todo.pop() {
            self.one(suspect)?;
        }
        Ok(std::mem::take(&mut self.found))
    }

    fn one(&mut self, mut suspect: Suspect) -> Result<(), Broken> {
        let mut attempts = 0;
        self.trail.clone_from(&suspect.trail);
        while attempts < ATTEMPTS {
            self.check_stop()?;
            attempts += 1;
            let next = match suspect.other.clone() {
                Some(other) => self.links(&suspect.path, &other),
                None => self.attempt(&mut suspect),
            };
            match next {
                Ok(Next::Done) => return Ok(()),
                Ok(Next::More) => attempts = 0,
                Err(End::Broken(broken)) => return Err(broken),
                Err(End::Halt(Halt::Lost)) => {}
                Err(End::Halt(Halt::Unlike)) => {
                    // The replica does not have its directory: that is looked at first.
                    let above = Suspect {
                        path: parent(&suspect.path).to_vec(),
                        ..Suspect::default()
                    };
                    suspect.tries += 1;
                    if suspect.tries < TRIES_MAX {
                        self.todo.push(suspect);
                    }
                    self.todo.push(above);
                    return Ok(());
                }
                Err(End::Halt(Halt::Trouble(trouble))) => {
                    self.check_stop()?;
                    return Err(failed(&suspect.path, &trouble));
                }
            }
        }
        Err(Broken::Failed(Failure {
            copy: Copy::Primary,
            path: suspect.path,
            call: "openat2",
            errno: Errno::STALE,
        }))
    }

    /// Compares one object, or a part of its content, while it is held.
    fn attempt(&mut self, suspect: &mut Suspect) -> Outcome<Next> {
        let Some((above, name)) = split(&suspect.path)? else {
            return self.root(suspect);
        };
        let Some((dir, fd)) = self.resolve_dir(above)? else {
            return self.gone(suspect);
        };
        let object = self.child(&dir, fd.as_fd(), &name)?;
        let way = Way::to(dir.node(), |_| true).ok_or(Halt::Lost)?;
        let ground = self.ground;
        let _turn = self.hold(claims(&way, &dir, &name, object.as_ref()))?;
        if !way.is_still() {
            return Err(Halt::Lost.into());
        }
        suspect.path = joined(&way.path(), name.as_c_str().to_bytes());
        let pair = way.open_places(ground)?;
        let primary = look_up(pair.primary.as_fd(), &name).on(Copy::Primary, "statx")?;
        let replica = look_up(pair.replica.as_fd(), &name).on(Copy::Replica, "statx")?;
        let Some(primary) = primary else {
            if replica.is_some() {
                self.report(
                    &suspect.path,
                    Kind::Entry,
                    None,
                    "on replica only".to_owned(),
                )?;
            }
            return self.gone(suspect);
        };
        let Some(object) = object.filter(|object| object.ident() == primary.ident) else {
            return Err(Halt::Lost.into());
        };
        let kind = primary.kind();
        let Some(replica) = replica else {
            let special = !matches!(kind, FileType::RegularFile | FileType::Directory);
            if !(special && self.ignore.contains(Lack::Entry)) {
                self.report(
                    &suspect.path,
                    Kind::Entry,
                    None,
                    "on primary only".to_owned(),
                )?;
            }
            return Ok(Next::Done);
        };
        if kind != replica.kind() {
            let (p, r) = (word(kind), word(replica.kind()));
            let detail = format!("{p} on primary, {r} on replica");
            self.report(&suspect.path, Kind::Entry, None, detail)?;
            return Ok(Next::Done);
        }
        if primary.ident == replica.ident {
            self.report(&suspect.path, Kind::Entry, None, BOTH.to_owned())?;
            return Ok(Next::Done);
        }
        // If it cannot be done, the time differs, and that is said.
        let _not_settled = ground.settle_times(object.node());
        if kind == FileType::Directory {
            self.directory(suspect, &pair, &name)
        } else {
            self.leaf(suspect, &pair, &name, kind)
        }
    }

    /// The root itself.
    fn root(&mut self, suspect: &Suspect) -> Outcome<Next> {
        let root = self.ground.nodes().root().clone();
        let own = [Claim::all_names(&root), Claim::attributes(&root)];
        let _turn = self.hold(Claim::together(own))?;
        let _not_settled = self.ground.settle_times(&root);
        let want = Attrs::read(self.ground.primary_root(), Copy::Primary, true)?;
        let have = Attrs::read(self.ground.replica_root(), Copy::Replica, true)?;
        self.attributes(&suspect.path, &want, &have)?;
        Ok(Next::Done)
    }

    /// A directory on both copies: its attributes, and what is in it if nobody has looked there.
    fn directory(&mut self, suspect: &Suspect, pair: &Pair, name: &Name) -> Outcome<Next> {
        let c_name = name.as_c_str();
        let below = match walk::open_dir(pair.primary.as_fd(), c_name) {
            // Something is mounted there: what is below is no part of the tree.
            Err(Errno::XDEV) => return Ok(Next::Done),
            opened => opened.on(Copy::Primary, "openat2")?,
        };
        let other = walk::open_dir(pair.replica.as_fd(), c_name).on(Copy::Replica, "openat2")?;
        let want = Attrs::read(below.as_fd(), Copy::Primary, false)?;
        let have = Attrs::read(other.as_fd(), Copy::Replica, false)?;
        self.attributes(&suspect.path, &want, &have)?;
        if suspect.whole {
            let mut names = walk::names(below.as_fd()).on(Copy::Primary, "getdents64")?;
            names.extend(walk::names(other.as_fd()).on(Copy::Replica, "getdents64")?);
            names.sort_unstable();
            names.dedup();
            self.todo.extend(names.iter().rev().map(|name| Suspect {
                path: joined(&suspect.path, name.as_c_str().to_bytes()),
                whole: true,
                content: true,
                ..Suspect::default()
            }));
        }
        Ok(Next::Done)
    }

    /// Anything else on both copies.
    fn leaf(
        &mut self,
        suspect: &mut Suspect,
        pair: &Pair,
        name: &Name,
        kind: FileType,
    ) -> Outcome<Next> {
        let c_name = name.as_c_str();
        let source = open_as(pair.primary.as_fd(), c_name, kind, Copy::Primary)?;
        let held = open_as(pair.replica.as_fd(), c_name, kind, Copy::Replica)?;
        let want = Attrs::read(source.as_fd(), Copy::Primary, false)?;
        let have = Attrs::read(held.as_fd(), Copy::Replica, false)?;
        let (p, r) = (want.stat.size, have.stat.size);
        match kind {
            FileType::RegularFile if p != r => {
                let detail = format!("size {p} on primary, {r} on replica");
                self.report(&suspect.path, Kind::Data, None, detail)?;
            }
            FileType::RegularFile => {
                let believed = self.quick && want.stat.mtime == have.stat.mtime;
                if suspect.content
                    && !believed
                    && let Next::More = self.bytes(suspect, &source, &held, p)?
                {
                    return Ok(Next::More);
                }
            }
            FileType::Symlink => {
                let read = |fd: &OwnedFd, copy| {
                    rustix::fs::readlinkat(fd, c"", Vec::new()).on(copy, "readlinkat")
                };
                if read(&source, Copy::Primary)? != read(&held, Copy::Replica)? {
                    self.report(
                        &suspect.path,
                        Kind::Entry,
                        None,
                        "another symlink".to_owned(),
                    )?;
                }
            }
            _ if want.stat.rdev != have.stat.rdev => {
                let detail = format!("another {}", word(kind));
                self.report(&suspect.path, Kind::Entry, None, detail)?;
            }
            _ => {}
        }
        self.attributes(&suspect.path, &want, &have)?;
        Ok(Next::Done)
    }

    /// The next part of the content; with the last one, what of it differs.
    fn bytes(
        &mut self,
        suspect: &mut Suspect,
        primary: &OwnedFd,
        replica: &OwnedFd,
        size: u64,
    ) -> Outcome<Next> {
        let (p, r) = (
            File {
                fd: primary.as_fd(),
                size,
            },
            File {
                fd: replica.as_fd(),
                size,
            },
        );
        let stop = self.stop;
        let mut step = |_| match stop.load(Ordering::Relaxed) {
            true => Err(Errno::INTR),
            false => Ok(()),
        };
        let part = suspect.at..suspect.at.saturating_add(PART);
        let before = suspect.first;
        let found = self
            .content
            .compare_range(p, r, part.clone(), None, &mut step)?;
        suspect.first = suspect.first.or(found.first);
        suspect.differing += found.differing;
        suspect.holes |= found.holes;
        if let Some(next) = next_data(p, r, part.end)? {
            suspect.at = next;
            return Ok(Next::More);
        }
        if let Some(first) = before {
            // It was let go since: whether it differs now is what counts.
            let block = first..first.saturating_add(1);
            let again = self.content.compare_range(p, r, block, None, &mut step)?;
            if again.first.is_none() {
                (suspect.at, suspect.first) = (0, None);
                (suspect.differing, suspect.holes) = (0, false);
                return Err(Halt::Lost.into());
            }
        }
        if let Some(first) = suspect.first {
            let detail = format!("{} differ at {first}", progress::size(suspect.differing));
            self.report(&suspect.path, Kind::Data, Some(first), detail)?;
        } else if suspect.holes {
            self.report(&suspect.path, Kind::Data, None, "holes differ".to_owned())?;
        }
        Ok(Next::Done)
    }

    fn attributes(&mut self, path: &[u8], want: &Attrs, have: &Attrs) -> Result<(), Broken> {
        for detail in want.differences(have, self.ignore) {
            self.report(path, Kind::Metadata, None, detail)?;
        }
        Ok(())
    }

    /// Whether two names are one inode on one copy only, or one of both copies.
    fn links(&mut self, path: &[u8], other: &[u8]) -> Outcome<Next> {
        let mut sides = Vec::new();
        for path in [path, other] {
            let found = match split(path)? {
                Some((above, name)) => self.resolve_dir(above)?.map(|dir| (dir, name)),
                None => None,
            };
            let Some(((dir, fd), name)) = found else {
                return Ok(self.each_alone([path, other]));
            };
            let Some(object) = self.child(&dir, fd.as_fd(), &name)? else {
                return Ok(self.each_alone([path, other]));
            };
            let way = Way::to(dir.node(), |_| true).ok_or(Halt::Lost)?;
            sides.push((dir, name, object, way));
        }
        let all = sides
            .iter()
            .flat_map(|(dir, name, object, way)| claims(way, dir, name, Some(object)));
        let _turn = self.hold(Claim::together(all.collect::<Vec<_>>()))?;
        let (mut primary, mut replica) = (Vec::new(), Vec::new());
        for (_, name, object, way) in &sides {
            if !way.is_still() {
                return Err(Halt::Lost.into());
            }
            let pair = way.open_places(self.ground)?;
            let p = look_up(pair.primary.as_fd(), name).on(Copy::Primary, "statx")?;
            let r = look_up(pair.replica.as_fd(), name).on(Copy::Replica, "statx")?;
            let (Some(p), Some(r)) = (p, r) else {
                return Ok(self.each_alone([path, other]));
            };
            if p.ident != object.ident() {
                return Err(Halt::Lost.into());
            }
            primary.push(p.ident);
            replica.push(r.ident);
        }
        let on_primary = primary[0] == primary[1];
        let on_replica = replica[0] == replica[1];
        let detail = if primary.iter().any(|ident| replica.contains(ident)) {
            BOTH.to_owned()
        } else if on_primary == on_replica {
            return Ok(Next::Done);
        } else {
            let of = crate::mirror::failure::show_path(other);
            let copy = if on_primary {
                Copy::Primary
            } else {
                Copy::Replica
            };
            format!("hard link of {of} on {copy} only")
        };
        self.report(path, Kind::Entry, None, detail)?;
        if let Some(last) = self.found.last_mut().filter(|last| last.path == path) {
            last.other = Some(other.to_vec());
        }
        Ok(Next::Done)
    }

    /// One of two names is not there: each is looked at by itself.
    fn each_alone(&mut self, paths: [&[u8]; 2]) -> Next {
        self.todo.extend(paths.iter().map(|path| Suspect {
            path: path.to_vec(),
            whole: true,
            content: true,
            ..Suspect::default()
        }));
        Next::Done
    }

    /// The primary has no such object here: if it lives on elsewhere, it is looked at there.
    fn gone(&mut self, suspect: &Suspect) -> Outcome<Next> {
        let nodes = self.ground.nodes();
        let dev = nodes.root().place(Side::Primary).ident();
        let dev = dev.map_or(0, |root| root.dev);
        let parts: Vec<_> = suspect.path.split(|&byte| byte == b'/').collect();
        for (at, &ino) in suspect.trail.iter().enumerate().take(parts.len()).rev() {
            let Some(node) = nodes.find(Ident { dev, ino }) else {
                continue;
            };
            let Some(way) = Way::to(&node, |_| true) else {
                continue;
            };
            let mut path = way.path();
            for part in &parts[at + 1..] {
                path = joined(&path, part);
            }
            if path != suspect.path && suspect.moves < MOVES_MAX {
                self.todo.push(Suspect {
                    path,
                    moves: suspect.moves + 1,
                    at: 0,
                    first: None,
                    differing: 0,
                    holes: false,
                    ..suspect.clone()
                });
            }
            break;
        }
        Ok(Next::Done)
    }

    fn hold(&self, claims: Claims) -> Result<crate::mirror::watch::Hold<'a>, Broken> {
        self.ground
            .hold(claims)
            .map_err(|fault| Broken::Away(Some(fault)))
    }

    /// The directory or object at a path of the primary, kept in the table of nodes, and its place.
    fn resolve(&self, path: &[u8]) -> Outcome<Option<(Held, OwnedFd)>> {
        let nodes = self.ground.nodes();
        let mut held = Held::known(nodes, nodes.root());
        let mut fd = walk::reopen(self.ground.primary_root()).on(Copy::Primary, "openat2")?;
        for part in path.split(|&byte| byte == b'/').filter(|p| !p.is_empty()) {
            let name = Name::new(std::ffi::OsStr::from_bytes(part)).on(Copy::Primary, "openat2")?;
            if !held.node().is_dir() {
                return Ok(None);
            }
            let Some(next) = self.child(&held, fd.as_fd(), &name)? else {
                return Ok(None);
            };
            let flags = rustix::fs::OFlags::PATH;
            fd = match walk::open(fd.as_fd(), name.as_c_str(), flags, 0) {
                Err(Errno::XDEV) => return Ok(None),
                opened => opened.on(Copy::Primary, "openat2")?,
            };
            if Stat::of(fd.as_fd()).on(Copy::Primary, "statx")?.ident != next.ident() {
                return Err(Halt::Lost.into());
            }
            held = next;
        }
        Ok(Some((held, fd)))
    }

    /// The same if it is a directory by now: what was one may have given its name to something else.
    fn resolve_dir(&self, path: &[u8]) -> Outcome<Option<(Held, OwnedFd)>> {
        let found = self.resolve(path)?;
        Ok(found.filter(|(held, _)| held.node().is_dir()))
    }

    /// The object under a name of a directory on the primary.
    ///
    /// A node must not learn a name that is just being taken away: one that is not known under it
    /// yet is introduced in a turn on the name.
    fn child(&self, dir: &Held, fd: BorrowedFd<'_>, name: &Name) -> Outcome<Option<Held>> {
        let nodes = self.ground.nodes();
        let is_root = std::ptr::eq(&raw const **dir.node(), &raw const **nodes.root());
        if is_root && stamp::is_ours(name) {
            return Ok(None);
        }
        if Stat::of(fd).on(Copy::Primary, "statx")?.ident != dir.ident() {
            return Err(Halt::Lost.into());
        }
        let Some(stat) = look_up(fd, name).on(Copy::Primary, "statx")? else {
            return Ok(None);
        };
        if let Some(node) = nodes.find(stat.ident) {
            let links = node.place(Side::Primary).links().to_vec();
            let is_it = |link: &crate::store::node::Link| {
                std::sync::Arc::ptr_eq(&link.parent, dir.node()) && link.name == *name
            };
            if links.iter().any(is_it) {
                return Ok(Some(Held::known(nodes, &node)));
            }
        }
        let way = Way::to(dir.node(), |_| true).ok_or(Halt::Lost)?;
        let turn = self.ground.wait_turn(claims(&way, dir, name, None));
        let _turn = turn.map_err(|fault| Broken::Away(Some(fault)))?;
        if !way.is_still() {
            return Err(Halt::Lost.into());
        }
        let stat = look_up(fd, name).on(Copy::Primary, "statx")?;
        Ok(stat.map(|stat| Held::new(nodes, &stat, dir.node(), name)))
    }

    /// Notes a difference that was seen while its object is held.
    fn report(
        &mut self,
        path: &[u8],
        kind: Kind,
        offset: Option<u64>,
        detail: String,
    ) -> Result<(), Broken> {
        if !self.ground.is_whole() {
            return Err(Broken::Away(None));
        }
        if self.said.insert((path.to_vec(), detail.clone())) {
            self.found.push(Difference {
                path: path.to_vec(),
                kind,
                offset,
                detail,
                other: None,
                trail: self.trail.clone(),
            });
        }
        Ok(())
    }
}

/// What is to be looked at, the first one last.
fn suspects(found: &[Difference], quick: bool) -> Vec<Suspect> {
    let mut suspects: Vec<Suspect> = Vec::new();
    let mut known: HashMap<(&[u8], Option<&[u8]>), usize> = HashMap::new();
    for one in found {
        let other = one.other.as_deref().filter(|other| *other != one.path);
        let at = *known.entry((&one.path, other)).or_insert_with(|| {
            suspects.push(Suspect {
                path: one.path.clone(),
                trail: one.trail.clone(),
                other: other.map(<[u8]>::to_vec),
                ..Suspect::default()
            });
            suspects.len() - 1
        });
        let suspect = &mut suspects[at];
        suspect.whole |= one.kind == Kind::Entry;
        // Quick has looked at no content where the time differs.
        suspect.content |= one.kind != Kind::Metadata || quick;
    }
    suspects.reverse();
    suspects
}

/// What to hold for one name of a directory, and for what it means.
fn claims(way: &Way, dir: &Held, name: &Name, object: Option<&Held>) -> Claims {
    let own = [Claim::attributes(dir.node()), Claim::name(dir.node(), name)];
    let of_object = object.map_or_else(Claims::new, |object| {
        let node = object.node();
        let mut claims = Claim::whole(node);
        if node.is_dir() {
            claims.push(Claim::all_names(node));
        }
        claims
    });
    Claim::together(way.claims().chain(own).chain(of_object))
}

fn look_up(dir: BorrowedFd<'_>, name: &Name) -> crate::sys::Result<Option<Stat>> {
    match Stat::of_name(dir, name.as_c_str()) {
        Err(errno) if is_elsewhere(errno) => Ok(None),
        found => found.map(Some),
    }
}

/// The directory of a path, and the name in it; `None` for the root.
fn split(path: &[u8]) -> Result<Option<(&[u8], Name)>, Trouble> {
    if path.is_empty() {
        return Ok(None);
    }
    let above = parent(path);
    let from = if above.is_empty() { 0 } else { above.len() + 1 };
    let name = Name::new(std::ffi::OsStr::from_bytes(&path[from..]));
    Ok(Some((above, name.on(Copy::Primary, "openat2")?)))
}

fn parent(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|&byte| byte == b'/');
    &path[..end.unwrap_or(0)]
}

fn joined(above: &[u8], name: &[u8]) -> Vec<u8> {
    if above.is_empty() {
        return name.to_vec();
    }
    [above, name].join(&b'/')
}

fn failed(path: &[u8], trouble: &Trouble) -> Broken {
    let &Trouble { copy, call, errno } = trouble;
    Broken::Failed(Failure {
        copy,
        path: path.to_vec(),
        call,
        errno,
    })
}
