// SPDX-License-Identifier: MIT
//! `Branch`: one directory that both copies have, and the descriptors of those in use.
//!
//! A branch knows the one above it and its name there, nothing else: descriptors are kept of those that
//! were used last ([`KEPT`]), however deep the tree is and however many wait. One that has lost its
//! descriptors is found again from the nearest one above that has some, and must be the very
//! directory it was.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock, Weak};
use std::vec;

use lru::LruCache;
use parking_lot::Mutex;

use super::Outcome;
use super::attrs::Attrs;
use super::content::On;
use crate::mirror::failure::Copy;
use crate::store::name::Name;
use crate::store::stat::{Ident, Stat};
use crate::store::walk;
use crate::sys::{Errno, Result};

/// Directories whose descriptors are kept, the roots not counted.
const KEPT: NonZeroUsize = NonZeroUsize::new(32).unwrap();

/// The same directory on both copies.
#[derive(Debug)]
pub(super) struct Pair {
    primary: OwnedFd,
    replica: OwnedFd,
}

impl Pair {
    pub(super) fn new(primary: OwnedFd, replica: OwnedFd) -> Self {
        Self { primary, replica }
    }

    pub(super) fn primary(&self) -> BorrowedFd<'_> {
        self.primary.as_fd()
    }

    pub(super) fn replica(&self) -> BorrowedFd<'_> {
        self.replica.as_fd()
    }

    pub(super) fn of(&self, copy: Copy) -> BorrowedFd<'_> {
        match copy {
            Copy::Primary => self.primary(),
            Copy::Replica => self.replica(),
        }
    }
}

/// One name that the primary has.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) primary: walk::Entry,
    /// The same on the replica, if that has it.
    pub(super) replica: Option<walk::Entry>,
}

/// How far a directory is.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Names that nobody has looked at yet.
    pub(super) names: vec::IntoIter<Listed>,
    /// Workers that look at some.
    pub(super) busy: usize,
    /// Others were told that there is something to do here.
    pub(super) is_offered: bool,
    /// What the replica's directory must be like in the end; nothing once that is done.
    pub(super) want: Option<Attrs>,
    /// Its attributes differ, or we changed something in it: carry them over at the end.
    pub(super) mend: bool,
    /// Made changeable.
    pub(super) is_unlocked: bool,
}

/// A directory.
#[derive(Debug)]
pub(super) struct Branch {
    /// Nothing for the root.
    above: Option<(Arc<Self>, Name)>,
    /// Made by us: everything in it is new, and one difference was enough.
    pub(super) is_new: bool,
    /// Who it is on the primary, once it has been opened.
    primary: OnceLock<Ident>,
    /// And on the replica, at the latest when it loses its descriptors.
    replica: OnceLock<Ident>,
    open: Mutex<Option<Arc<Pair>>>,
    pub(super) state: Mutex<State>,
}

impl Drop for Branch {
    /// One after the other: a tree may be deeper than the stack.
    fn drop(&mut self) {
        let mut above = self.above.take();
        while let Some((branch, _)) = above {
            above = Arc::into_inner(branch).and_then(|mut branch| branch.above.take());
        }
    }
}

impl Branch {
    /// The root of both trees.
    pub(super) fn root(pair: Arc<Pair>) -> Arc<Self> {
        let root = Self::made(None, false);
        *root.open.lock() = Some(pair);
        root
    }

    /// A directory below `above`.
    pub(super) fn below(above: &Arc<Self>, name: Name, is_new: bool) -> Arc<Self> {
        Self::made(Some((above.clone(), name)), is_new)
    }

    fn made(above: Option<(Arc<Self>, Name)>, is_new: bool) -> Arc<Self> {
        Arc::new(Self {
            above,
            is_new,
            primary: OnceLock::new(),
            replica: OnceLock::new(),
            open: Mutex::default(),
            state: Mutex::default(),
        })
    }

    pub(super) fn above(&self) -> Option<&(Arc<Self>, Name)> {
        self.above.as_ref()
    }

    pub(super) fn is_root(&self) -> bool {
        self.above.is_none()
    }

    fn ancestry(&self) -> impl Iterator<Item = (&Self, &Name)> {
        let mut here = self;
        std::iter::from_fn(move || {
            let (above, name) = here.above.as_ref()?;
            Some((std::mem::replace(&mut here, above), name))
        })
    }

    /// Directories above it.
    pub(super) fn depth(&self) -> usize {
        self.ancestry().count()
    }

    /// Relative to the roots, of a name in it if there is one.
    pub(super) fn path(&self, name: Option<&Name>) -> Vec<u8> {
        let mut names: Vec<_> = self.ancestry().map(|(_, name)| name).collect();
        names.reverse();
        let names = names.into_iter().chain(name);
        let names = names.map(|name| name.as_c_str().to_bytes());
        names.collect::<Vec<_>>().join(&b'/')
    }

    /// The primary's inode numbers of the directories that lead here, this one included and the root
    /// not.
    pub(super) fn trail(&self) -> Vec<u64> {
        let of = |branch: &Self| branch.primary.get().map(|ident| ident.ino);
        let mut trail: Vec<_> = self.ancestry().map_while(|(b, _)| of(b)).collect();
        trail.reverse();
        trail
    }

    /// Notes who it is, on the replica if that is known already.
    pub(super) fn is(&self, primary: Ident, replica: Option<Ident>) {
        self.primary.get_or_init(|| primary);
        if let Some(replica) = replica {
            self.replica.get_or_init(|| replica);
        }
    }

    /// Gives its descriptors up. What cannot be known again by then is not found any more.
    fn close(&self) {
        // Held until it is known who it is: whoever finds it closed asks for that.
        let mut open = self.open.lock();
        if self.replica.get().is_none()
            && let Some(pair) = &*open
            && let Ok(stat) = Stat::of(pair.replica())
        {
            self.replica.get_or_init(|| stat.ident);
        }
        *open = None;
    }
}

/// The directories whose descriptors are kept.
#[derive(Debug)]
pub(super) struct Opened {
    recent: Mutex<LruCache<usize, Weak<Branch>>>,
}

impl Opened {
    pub(super) fn new() -> Self {
        Self {
            recent: Mutex::new(LruCache::new(KEPT)),
        }
    }

    /// Keeps what was opened, in the place of what was not used for longest.
    pub(super) fn keep(&self, branch: &Arc<Branch>, pair: Pair) -> Arc<Pair> {
        let pair = Arc::new(pair);
        *branch.open.lock() = Some(pair.clone());
        let key = Arc::as_ptr(branch).addr();
        let pushed = self.recent.lock().push(key, Arc::downgrade(branch));
        if let Some((other, last)) = pushed
            && other != key
            && let Some(last) = last.upgrade()
        {
            last.close();
        }
        pair
    }

    /// The descriptors of a directory that was open before.
    ///
    /// # Errors
    /// `ESTALE` when another one is in its place.
    pub(super) fn pair(&self, branch: &Arc<Branch>) -> Outcome<Arc<Pair>> {
        if let Some(pair) = branch.open.lock().clone() {
            self.recent.lock().promote(&Arc::as_ptr(branch).addr());
            return Ok(pair);
        }
        let mut way = Vec::new();
        let mut here = branch;
        let mut pair = loop {
            if let Some(pair) = here.open.lock().clone() {
                break pair;
            }
            let Some((above, name)) = here.above.as_ref() else {
                return Err(Errno::BADF).on(Copy::Primary, "openat2");
            };
            way.push((here, name));
            here = above;
        };
        for (branch, name) in way.into_iter().rev() {
            let again = |copy| {
                let fd = walk::open_dir(pair.of(copy), name.as_c_str());
                let who = match copy {
                    Copy::Primary => branch.primary.get(),
                    Copy::Replica => branch.replica.get(),
                };
                fd.and_then(|fd| same(fd, who)).on(copy, "openat2")
            };
            let (primary, replica) = (again(Copy::Primary)?, again(Copy::Replica)?);
            pair = self.keep(branch, Pair::new(primary, replica));
        }
        Ok(pair)
    }
}

fn same(fd: OwnedFd, who: Option<&Ident>) -> Result<OwnedFd> {
    match Stat::of(fd.as_fd())?.ident {
        ident if Some(&ident) == who => Ok(fd),
        _ => Err(Errno::STALE),
    }
}
