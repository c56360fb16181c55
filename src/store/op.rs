// SPDX-License-Identifier: MIT
//! `Op`: every mutation, once, as data.
//!
//! The narrow waist of the house: the mirror, a lane, a test double and (later) the write-intent
//! log all speak this. An op names nodes and single-component names, never paths; it is complete,
//! so that the same value carried out on two equal trees leaves two equal trees. What is decided
//! at the moment of the call (the caller's identity, `UTIME_NOW`) is decided before the op is made.

use std::ffi::CString;
use std::sync::Arc;

use super::node::Node;
use super::{Name, Time};
use crate::sys::at::ExtendedFlags;
use crate::sys::creds::Needs;

/// One mutation, and on whose behalf.
#[derive(Debug)]
pub struct Op<'a> {
    /// Whose it is: owner of new objects, umask, whether set-id bits survive.
    pub needs: Needs,
    /// What to do.
    pub action: Action,
    /// What to write, or the value of an extended attribute; nothing for the other ops. Lent, so
    /// that it is copied only where it has to outlive the request.
    pub data: &'a [u8],
}

impl Op<'static> {
    /// An op that carries no data.
    #[must_use]
    pub fn new(needs: Needs, action: Action) -> Self {
        Self {
            needs,
            action,
            data: &[],
        }
    }
}

/// The two calls there are for inode flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flags {
    /// `FS_IOC_SETFLAGS`: what `chattr(1)` uses.
    Plain(u32),
    /// `FS_IOC_FSSETXATTR`: the same and project ids, extent size hints.
    Extended(ExtendedFlags),
}

impl Flags {
    /// The flags of the plain call; what else the extended one carries is not among them.
    #[must_use]
    pub fn plain(&self) -> u32 {
        match self {
            Self::Plain(flags) => *flags,
            Self::Extended(_) => 0,
        }
    }
}

/// What an op does. Every variant is applied to the primary first, then to each replica.
#[derive(Clone, Debug)]
pub enum Action {
    /// Write the op's data at `offset`; `appending` if the caller's descriptor can do nothing else, which
    /// is how an append-only file (`chattr +a`) has to be opened.
    Write {
        node: Arc<Node>,
        offset: u64,
        appending: bool,
    },
    /// Set the size; what is beyond is cut off or reads as zeros.
    Truncate { node: Arc<Node>, size: u64 },
    /// `fallocate(2)` with its own mode bits.
    Allocate {
        node: Arc<Node>,
        mode: u32,
        offset: u64,
        length: u64,
    },
    /// Copy within the tree, as `copy_file_range(2)`.
    CopyRange {
        from: Arc<Node>,
        from_offset: u64,
        to: Arc<Node>,
        to_offset: u64,
        length: u64,
    },
    /// Owner, then permission bits, then times; `None` leaves one as it is.
    SetAttr {
        node: Arc<Node>,
        uid: Option<u32>,
        gid: Option<u32>,
        mode: Option<u32>,
        atime: Option<Time>,
        mtime: Option<Time>,
    },
    /// Inode flags as `chattr(1)` sets them.
    SetFlags { node: Arc<Node>, flags: Flags },
    /// Set one to the op's data; `how` is 0, `XATTR_CREATE` or `XATTR_REPLACE`.
    SetXattr {
        node: Arc<Node>,
        name: CString,
        how: u32,
    },
    /// Remove one extended attribute.
    RemoveXattr { node: Arc<Node>, name: CString },
    /// A regular file, which must not exist yet.
    Create {
        parent: Arc<Node>,
        name: Name,
        mode: u32,
    },
    /// A directory.
    Mkdir {
        parent: Arc<Node>,
        name: Name,
        mode: u32,
    },
    /// A fifo, socket, device node or (by `mknod(2)`) regular file; `mode` has the type bits.
    Mknod {
        parent: Arc<Node>,
        name: Name,
        mode: u32,
        rdev: u64,
    },
    /// A symbolic link; `target` is not interpreted.
    Symlink {
        parent: Arc<Node>,
        name: Name,
        target: CString,
    },
    /// One more name for a node.
    Link {
        node: Arc<Node>,
        parent: Arc<Node>,
        name: Name,
    },
    /// Remove the name of something that is not a directory; `victim` if the kernel knows it.
    Unlink {
        parent: Arc<Node>,
        name: Name,
        victim: Option<Arc<Node>>,
    },
    /// Remove an empty directory.
    Rmdir {
        parent: Arc<Node>,
        name: Name,
        victim: Option<Arc<Node>>,
    },
    /// `renameat2(2)`. `moved` and `victim` (what stood at the new name) if the kernel knows them.
    Rename {
        from: (Arc<Node>, Name),
        to: (Arc<Node>, Name),
        flags: u32,
        moved: Option<Arc<Node>>,
        victim: Option<Arc<Node>>,
    },
}

/// What is written up to here (bytes) of a file that is not longer may be marked together with
/// other files of its directory; and only one such op, and no other change of content, is under way
/// in a file at a time: while one is, the file stays small.
pub const SMALL_FILE: u64 = 1 << 20;

const EXCHANGE: u32 = rustix::fs::RenameFlags::EXCHANGE.bits();
const COLLAPSE: u32 = rustix::fs::FallocateFlags::COLLAPSE_RANGE.bits();
const INSERT: u32 = rustix::fs::FallocateFlags::INSERT_RANGE.bits();

/// Whether `fallocate(2)` with these mode bits moves all content behind its range.
#[must_use]
pub fn moves_content(mode: u32) -> bool {
    mode & (COLLAPSE | INSERT) != 0
}

/// Whether `renameat2(2)` with these flags exchanges two names.
#[must_use]
pub fn swaps(flags: u32) -> bool {
    flags & EXCHANGE != 0
}

/// A part of the tree that an op needs to itself, for the time of its turn.
///
/// Everything is an interval on one aspect of one node, so that "overlaps" is the only question:
/// names are points (a hash) in the directory's name space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// The node's serial number.
    pub node: u64,
    /// Which aspect.
    pub aspect: Aspect,
    /// First point of the interval.
    pub start: u64,
    /// Last point of the interval, inclusive.
    pub last: u64,
}

/// The aspects of a node that turns are taken on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aspect {
    /// Owner, mode, times, extended attributes.
    Attributes,
    /// Bytes of content, by offset.
    Data,
    /// Names in a directory, by hash.
    Names,
}

impl Claim {
    /// The attributes of `node`.
    #[must_use]
    pub fn attributes(node: &Node) -> Self {
        Self {
            node: node.serial,
            aspect: Aspect::Attributes,
            start: 0,
            last: 0,
        }
    }

    /// Attributes and content of `node`, all of it.
    #[must_use]
    pub fn whole(node: &Node) -> Claims {
        smallvec::smallvec![Self::attributes(node), Self::data(node, 0, u64::MAX)]
    }

    /// What an op changes of the content of `node`.
    fn changed(node: &Node, start: u64, length: u64) -> Self {
        let claim = Self::data(node, start, length);
        let last = if claim.last < SMALL_FILE {
            u64::MAX
        } else {
            claim.last
        };
        Self { last, ..claim }
    }

    fn data(node: &Node, start: u64, length: u64) -> Self {
        let last = start.saturating_add(length.max(1) - 1);
        Self {
            node: node.serial,
            aspect: Aspect::Data,
            start,
            last,
        }
    }

    /// One name in `dir`.
    #[must_use]
    pub fn name(dir: &Node, name: &Name) -> Self {
        let hash = crc32fast::hash(name.as_c_str().to_bytes()).into();
        Self {
            node: dir.serial,
            aspect: Aspect::Names,
            start: hash,
            last: hash,
        }
    }

    /// Every name in `dir`.
    #[must_use]
    pub fn all_names(dir: &Node) -> Self {
        Self {
            node: dir.serial,
            aspect: Aspect::Names,
            start: 0,
            last: u64::MAX,
        }
    }

    /// Any claims in the one order common to all, each aspect of a node once.
    #[must_use]
    pub fn together(claims: impl IntoIterator<Item = Self>) -> Claims {
        let mut claims: Claims = claims.into_iter().collect();
        if !claims.is_empty() {
            merge(&mut claims);
        }
        claims
    }

    /// Whether two claims cannot be held at once.
    #[must_use]
    pub fn conflicts(&self, other: &Self) -> bool {
        (self.node, self.aspect) == (other.node, other.aspect)
            && self.start <= other.last
            && other.start <= self.last
    }
}

/// The claims of one op, sorted and free of overlaps among themselves.
pub type Claims = smallvec::SmallVec<[Claim; 4]>;

impl Op<'_> {
    /// What this op must have to itself while it runs.
    #[must_use]
    pub fn claims(&self) -> Claims {
        let mut claims = Claims::new();
        match &self.action {
            Action::Write { node, offset, .. } => {
                claims.push(Claim::changed(node, *offset, self.data.len() as u64));
                if !self.needs.fsetid {
                    claims.push(Claim::attributes(node)); // it may clear set-id bits
                }
            }
            Action::Truncate { node, size } => {
                claims.push(Claim::attributes(node));
                claims.push(Claim::data(node, *size, u64::MAX));
            }
            Action::Allocate {
                node,
                mode,
                offset,
                length,
            } => {
                claims.push(Claim::attributes(node));
                // Two modes move everything behind (the kernel's FUSE client refuses them today).
                let length = if moves_content(*mode) {
                    u64::MAX
                } else {
                    *length
                };
                claims.push(Claim::changed(node, *offset, length));
            }
            Action::CopyRange {
                from,
                from_offset,
                to,
                to_offset,
                length,
            } => {
                claims.push(Claim::data(from, *from_offset, *length));
                claims.push(Claim::changed(to, *to_offset, *length));
                claims.push(Claim::attributes(to));
            }
            Action::SetAttr { node, .. } | Action::SetFlags { node, .. } => {
                claims.push(Claim::attributes(node));
            }
            Action::SetXattr { node, name, .. } | Action::RemoveXattr { node, name } => {
                claims.push(Claim::attributes(node));
                if name.as_c_str() == c"security.capability" {
                    claims.push(Claim::data(node, 0, u64::MAX)); // every write removes it
                }
            }
            Action::Create { parent, name, .. }
            | Action::Mkdir { parent, name, .. }
            | Action::Mknod { parent, name, .. }
            | Action::Symlink { parent, name, .. } => claims.push(Claim::name(parent, name)),
            Action::Link { node, parent, name } => {
                claims.push(Claim::name(parent, name));
                claims.push(Claim::attributes(node));
            }
            Action::Unlink {
                parent,
                name,
                victim,
            }
            | Action::Rmdir {
                parent,
                name,
                victim,
            } => {
                claims.push(Claim::name(parent, name));
                claims.extend(victim.iter().flat_map(Self::removed));
            }
            Action::Rename {
                from,
                to,
                flags,
                moved,
                victim,
            } => {
                claims.push(Claim::name(&from.0, &from.1));
                claims.push(Claim::name(&to.0, &to.1));
                let swapped = victim.as_ref().filter(|_| swaps(*flags));
                if swapped.is_none() {
                    claims.extend(victim.iter().flat_map(Self::removed));
                }
                // They keep their content, and only move.
                for node in moved.iter().chain(swapped) {
                    claims.push(Claim::attributes(node));
                    if !node.is_dir() {
                        claims.push(Claim::changed(node, 0, 0)); // a small one stays small
                    }
                }
            }
        }
        merge(&mut claims);
        claims
    }

    /// A directory is removed only once everything removed from it is gone on every copy; a file
    /// is pinned, and its link count changes.
    fn removed(victim: &Arc<Node>) -> [Claim; 2] {
        [Claim::all_names(victim), Claim::attributes(victim)]
    }

    /// The directories in which this op names something: one, or for a rename between two, both.
    #[must_use]
    pub fn parents(&self) -> smallvec::SmallVec<[&Arc<Node>; 2]> {
        match &self.action {
            Action::Create { parent, .. }
            | Action::Mkdir { parent, .. }
            | Action::Mknod { parent, .. }
            | Action::Symlink { parent, .. }
            | Action::Link { parent, .. }
            | Action::Unlink { parent, .. }
            | Action::Rmdir { parent, .. } => smallvec::smallvec![parent],
            Action::Rename { from, to, .. } if Arc::ptr_eq(&from.0, &to.0) => {
                smallvec::smallvec![&from.0]
            }
            Action::Rename { from, to, .. } => smallvec::smallvec![&from.0, &to.0],
            _ => smallvec::SmallVec::new(),
        }
    }

    /// The directories whose times this op changes.
    #[must_use]
    pub fn directories(&self) -> smallvec::SmallVec<[&Arc<Node>; 2]> {
        let mut dirs = self.parents();
        if let Action::Rename { moved, victim, .. } = &self.action
            && dirs.len() > 1
        {
            // Some file systems update a moved directory's own time with its "..".
            // An exchange moves the other one as well; a victim that is gone is skipped.
            dirs.extend(moved.iter().chain(victim).filter(|node| node.is_dir()));
        }
        dirs
    }

    /// The node whose content this op changes, and with it its times.
    #[must_use]
    pub fn content(&self) -> Option<&Arc<Node>> {
        match &self.action {
            Action::Write { node, .. }
            | Action::Truncate { node, .. }
            | Action::Allocate { node, .. }
            | Action::CopyRange { to: node, .. } => Some(node),
            _ => None,
        }
    }

    /// The node that is changed itself, if the op is about one that need not have a name.
    #[must_use]
    pub fn object(&self) -> Option<&Arc<Node>> {
        match &self.action {
            Action::SetAttr { node, .. }
            | Action::SetFlags { node, .. }
            | Action::SetXattr { node, .. }
            | Action::RemoveXattr { node, .. } => Some(node),
            _ => self.content(),
        }
    }

    /// The object that it takes a name from.
    #[must_use]
    pub fn victim(&self) -> Option<&Arc<Node>> {
        match &self.action {
            Action::Unlink { victim, .. }
            | Action::Rmdir { victim, .. }
            | Action::Rename { victim, .. } => victim.as_ref(),
            _ => None,
        }
    }

    /// Whether it may give blocks or an inode back.
    #[must_use]
    pub fn frees(&self) -> bool {
        matches!(
            self.action,
            Action::Unlink { .. }
                | Action::Rmdir { .. }
                | Action::Truncate { .. }
                | Action::Allocate { .. }
                | Action::Rename {
                    victim: Some(_),
                    ..
                }
        )
    }

    /// The part of a file that a write was to fill.
    #[must_use]
    pub fn written_range(&self) -> Option<std::ops::Range<u64>> {
        match &self.action {
            Action::Write { offset, .. } => Some(*offset..offset + self.data.len() as u64),
            _ => None,
        }
    }

    /// The op's name for logs and messages, e.g. "rename".
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self.action {
            Action::Write { .. } => "write",
            Action::Truncate { .. } => "truncate",
            Action::Allocate { .. } => "fallocate",
            Action::CopyRange { .. } => "copy_file_range",
            Action::SetAttr { .. } => "setattr",
            Action::SetFlags { .. } => "setflags",
            Action::SetXattr { .. } => "setxattr",
            Action::RemoveXattr { .. } => "removexattr",
            Action::Create { .. } => "create",
            Action::Mkdir { .. } => "mkdir",
            Action::Mknod { .. } => "mknod",
            Action::Symlink { .. } => "symlink",
            Action::Link { .. } => "link",
            Action::Unlink { .. } => "unlink",
            Action::Rmdir { .. } => "rmdir",
            Action::Rename { .. } => "rename",
        }
    }
}

/// Sorts claims and joins all that an op has on one aspect of one node into the interval that
/// spans them: then ops take whole aspects of whole nodes in one common order, each at most once,
/// and turns cannot deadlock. (With two intervals on one aspect, an op that holds the first could
/// wait for the second behind another that spans both.)
fn merge(claims: &mut Claims) {
    claims.sort_unstable();
    let mut kept = 0;
    for next in 1..claims.len() {
        let (last, claim) = (claims[kept], claims[next]);
        if (last.node, last.aspect) == (claim.node, claim.aspect) {
            claims[kept].last = last.last.max(claim.last);
        } else {
            kept += 1;
            claims[kept] = claim;
        }
    }
    claims.truncate(kept + 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(node: u64, start: u64, last: u64) -> Claim {
        Claim {
            node,
            aspect: Aspect::Data,
            start,
            last,
        }
    }

    #[test]
    fn only_overlapping_claims_on_one_aspect_of_one_node_conflict() {
        let claim = data(1, 10, 19);
        for (other, conflict) in [
            (data(1, 19, 30), true),
            (data(1, 20, 30), false),
            (data(1, 0, 9), false),
            (data(1, 0, u64::MAX), true),
            (data(2, 10, 19), false),
            (
                Claim {
                    aspect: Aspect::Names,
                    ..claim
                },
                false,
            ),
        ] {
            assert_eq!(claim.conflicts(&other), conflict, "{other:?}");
            assert_eq!(other.conflicts(&claim), conflict, "{other:?}");
        }
    }

    #[test]
    fn an_op_never_stands_in_its_own_way() {
        let mut claims: Claims = [data(1, 5, 9), data(1, 0, 6), data(2, 0, 0), data(1, 20, 30)]
            .into_iter()
            .collect();
        merge(&mut claims);
        assert_eq!(claims.as_slice(), [data(1, 0, 30), data(2, 0, 0)]);
    }

    /// A rename inside one directory claimed two names of it, a copy within one file two ranges, one
    /// after the other. An op that claimed the whole of it in between waited for the first, and was
    /// waited for by the second:
    ///
    /// ```text
    ///   A: [x, y] of d   holds x                            waits for y, behind B
    ///   B: [all] of d              waits for x
    /// ```
    #[test]
    fn one_claim_on_each_aspect_of_a_node() {
        let tmp = tempfile::tempdir().expect("a temporary directory");
        let (flags, mode) = (rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
        let fd = rustix::fs::open(tmp.path(), flags, mode).expect("open");
        let mut stat = super::super::Stat::of(std::os::fd::AsFd::as_fd(&fd)).expect("statx");
        let nodes = super::super::Nodes::new(&stat);
        let name = |text: &str| Name::new(text).expect("a name");
        let mut node = |text: &str| {
            stat.ident.ino += 1;
            nodes.remember(&stat, nodes.root(), &name(text))
        };
        let all = [node("a"), node("b"), node("c")];
        let mut actions = Vec::new();
        // Every way to name one node twice.
        for (from, to) in [(0, 0), (0, 1), (1, 0)] {
            for (moved, victim) in [(1, 2), (2, 1), (0, 1), (1, 0), (2, 2)] {
                for flags in [0, EXCHANGE] {
                    actions.push(Action::Rename {
                        from: (all[from].clone(), name("x")),
                        to: (all[to].clone(), name("y")),
                        flags,
                        moved: Some(all[moved].clone()),
                        victim: Some(all[victim].clone()),
                    });
                }
            }
            for (from_offset, to_offset) in [(0, 1 << 20), (1 << 20, 0), (0, 10), (7, 7)] {
                actions.push(Action::CopyRange {
                    from: all[from].clone(),
                    from_offset,
                    to: all[to].clone(),
                    to_offset,
                    length: 4096,
                });
            }
            let (node, parent, victim) = (all[from].clone(), all[to].clone(), all[from].clone());
            let name = name("x");
            actions.push(Action::Link {
                node,
                parent: parent.clone(),
                name: name.clone(),
            });
            actions.push(Action::Rmdir {
                parent,
                name,
                victim: Some(victim),
            });
        }
        for action in actions {
            let needs = Needs {
                fsetid: false,
                ..Needs::DAEMON
            };
            let op = Op::new(needs, action);
            let claims = op.claims();
            let places: Vec<_> = claims
                .iter()
                .map(|claim| (claim.node, claim.aspect))
                .collect();
            // Strictly ascending: one order common to all, and each place once.
            assert!(
                places.is_sorted_by(|a, b| a < b),
                "{:?} of {op:?}",
                claims.as_slice()
            );
        }
    }
}
