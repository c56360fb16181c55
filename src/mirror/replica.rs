// SPDX-License-Identifier: MIT
//! `Replica`: makes one copy do exactly what the primary did.
//!
//! The primary's result is the answer the application got; here it is what the replica must come
//! to. Short writes are continued, a new object that came out different is a failure, and every
//! failure says what was being done to what.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::attach::refusal::Id;
use super::failure::Named;
use super::resync::{Lack, Lacks};
use crate::store::op::{Action, Op};
use crate::store::{Applied, Node, Piece, Scope, Space, Stat, Target, Time};
use crate::sys::creds::Needs;
use crate::sys::{Errno, Result};

/// Why a replica is not followed any more.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What the replica answered, or `None` when the primary went on without waiting for it.
    pub errno: Option<Errno>,
    /// What was being done, to what: "write to photos/img.raw".
    pub doing: String,
    /// Whose fault it is.
    pub whose: Whose,
}

/// Why the replica is not followed: not always because it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The replica's.
    Replica,
    /// The primary was not to wait for it.
    Congestion,
    /// Its file system cannot hold something, and nobody said to do without.
    Lack,
    /// The write-intent log cannot be written: what may differ is not known any more.
    Log,
    /// Someone asked for it.
    Pause,
}

impl Fault {
    /// A call that answered `errno`.
    #[must_use]
    pub fn new(errno: Errno, doing: String) -> Self {
        Self {
            errno: Some(errno),
            doing,
            whose: Whose::Replica,
        }
    }

    /// One without a call that failed.
    #[must_use]
    pub fn without_errno(whose: Whose, doing: &str) -> Self {
        Self {
            errno: None,
            doing: doing.to_owned(),
            whose,
        }
    }

    /// The write-intent log could not be written: what may differ is not known any more.
    #[must_use]
    pub fn of_log(errno: Errno) -> Self {
        Self {
            errno: Some(errno),
            doing: "writing the write-intent log".to_owned(),
            whose: Whose::Log,
        }
    }

    /// The page of the manual.
    #[must_use]
    pub fn id(&self) -> Id {
        match self.whose {
            Whose::Replica => Id::ReplicaFailed,
            Whose::Congestion => Id::PulledAhead,
            Whose::Lack => Id::MetadataLoss,
            Whose::Log => Id::LogLost,
            Whose::Pause => Id::Paused,
        }
    }

    /// Whether something is not where it was looked for, or something else is: no failure while a
    /// replica is being healed, which is known to lack things.
    #[must_use]
    pub fn is_about_names(&self) -> bool {
        let about_names = |errno| {
            matches!(
                errno,
                Errno::NOENT
                    | Errno::STALE
                    | Errno::EXIST
                    | Errno::NOTDIR
                    | Errno::ISDIR
                    | Errno::NOTEMPTY
                    | Errno::NODATA
            )
        };
        self.errno.is_some_and(about_names)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let doing = &self.doing;
        match (self.whose, self.errno) {
            (Whose::Replica | Whose::Congestion, Some(errno)) => {
                write!(f, "replica failed: {} ({doing})", Named(errno))
            }
            (Whose::Replica | Whose::Congestion, None) => {
                write!(f, "replica left behind: {doing}")
            }
            (Whose::Log, Some(errno)) => write!(f, "{doing} failed: {}", Named(errno)),
            (Whose::Lack, _) => write!(f, "the replica cannot hold everything: {doing}"),
            (Whose::Log | Whose::Pause, _) => f.write_str(doing),
        }
    }
}

/// What the primary made of an op: all that the replica has to come to.
#[derive(Clone, Debug)]
pub struct Done {
    /// Bytes written or copied.
    pub written: usize,
    /// The new object's node, and its attributes right after.
    pub made: Option<(Arc<Node>, Stat)>,
}

/// One replica.
pub struct Replica {
    target: Arc<dyn Target>,
    /// What it was accepted without (`--metadata-loss=warn`).
    lacks: Mutex<Lacks>,
    written_bytes: AtomicU64,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica")
            .field("lacks", &*self.lacks.lock())
            .finish_non_exhaustive()
    }
}

impl Replica {
    /// The copy that `target` reaches.
    #[must_use]
    pub fn new(target: Arc<dyn Target>, lacks: Lacks) -> Self {
        Self {
            target,
            lacks: Mutex::new(lacks),
            written_bytes: AtomicU64::new(0),
        }
    }

    /// It was seen to lack these, too, and that is accepted.
    pub fn accept(&self, lacks: Lacks) {
        let mut known = self.lacks.lock();
        *known = known.union(lacks);
    }

    /// What it is known to lack, all of it accepted.
    #[must_use]
    pub fn lacks(&self) -> Lacks {
        *self.lacks.lock()
    }

    /// Whether attributes of a node are not set here: neither time nor owner of a symlink that the
    /// replica's file system would follow.
    fn leaves_alone(&self, node: &Node) -> bool {
        self.lacks().leaves_alone(node.kind)
    }

    /// Bytes written to it.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Ordering::Relaxed)
    }

    /// Carries out on the replica what the primary did, and exactly that.
    ///
    /// # Errors
    /// A fault when the replica failed or did something else: from then on it is behind.
    pub fn follow(&self, op: &Op<'_>, primary: &Done) -> std::result::Result<(), Fault> {
        let done = match &op.action {
            Action::Write {
                node,
                offset,
                appending,
            } => self.write(op, node, *offset, *appending, 0..primary.written),
            Action::CopyRange {
                from,
                from_offset,
                to,
                to_offset,
                ..
            } => self.copy_range(op, from, *from_offset, to, *to_offset, primary.written),
            Action::SetAttr { node, .. }
            | Action::SetXattr { node, .. }
            | Action::RemoveXattr { node, .. }
                if self.leaves_alone(node) =>
            {
                Ok(())
            }
            _ => self
                .target
                .apply(op)
                .and_then(|applied| self.adopt(op, primary, applied)),
        };
        match self.and_behind(done) {
            Err(errno) if self.does_without(op, errno) => Ok(()),
            done => done.map_err(|errno| Fault::new(errno, describe(op))),
        }
    }

    /// What came of a call, and of anything that ran behind it.
    fn and_behind(&self, done: Result<()>) -> Result<()> {
        done.and_then(|()| self.target.fault().map_or(Ok(()), Err))
    }

    /// Carries out a write while `primary` runs, then whatever is left of what the primary took.
    /// Returns how many bytes the replica has taken, which may be more than the primary has.
    ///
    /// # Errors
    /// As [`Self::follow`]. What both refuse in the same words is missing nowhere.
    pub fn write_beside(
        &self,
        op: &Op<'_>,
        primary: &mut dyn FnMut() -> Result<usize>,
    ) -> std::result::Result<usize, Fault> {
        let mut wanted = Err(Errno::IO);
        let begun = self
            .target
            .write_beside(op, &mut || wanted = primary())
            .map(|applied| applied.written);
        let written = match (begun, wanted) {
            (Ok(written), _) => written,
            // Two full disks, or a file that is locked on both (`chattr +i`).
            (Err(errno), Err(refused)) if errno == refused => 0,
            (Err(errno), _) => return Err(Fault::new(errno, describe(op))),
        };
        self.written_bytes
            .fetch_add(written as u64, Ordering::Relaxed);
        let wanted = wanted.unwrap_or(0);
        let rest = match &op.action {
            Action::Write {
                node,
                offset,
                appending,
            } if written < wanted => self.write(op, node, *offset, *appending, written..wanted),
            _ => Ok(()),
        };
        match self.and_behind(rest) {
            Ok(()) => Ok(written.max(wanted)),
            Err(errno) => Err(Fault::new(errno, describe(op))),
        }
    }

    /// Whether the file that is to be written is open there for it.
    #[must_use]
    pub fn has_open(&self, op: &Op<'_>) -> bool {
        op.content().is_some_and(|node| self.target.has_open(node))
    }

    /// Writes as many of `pieces` as can be written in one go, in order, and says how many.
    ///
    /// # Errors
    /// A fault of the one after those that were written.
    pub fn write_chain(
        &self,
        needs: Needs,
        pieces: &[Piece<'_>],
    ) -> (usize, std::result::Result<(), Fault>) {
        let (done, end) = self.target.write_chain(needs, pieces);
        let bytes = pieces[..done].iter().map(|piece| piece.data.len() as u64);
        self.written_bytes.fetch_add(bytes.sum(), Ordering::Relaxed);
        let end = self.and_behind(end).map_err(|errno| {
            let doing = match pieces.get(done) {
                Some(piece) => format!("write to {}", piece.node.display_path()),
                None => "large writes".to_owned(),
            };
            Fault::new(errno, doing)
        });
        (done, end)
    }

    /// Whether large writes are handed over many at once.
    #[must_use]
    pub fn has_chains(&self) -> bool {
        self.target.has_chains()
    }

    /// Whether this is a loss that was accepted at mount.
    fn does_without(&self, op: &Op<'_>, errno: Errno) -> bool {
        let refused = matches!(errno, Errno::OPNOTSUPP | Errno::PERM | Errno::NOTTY);
        let lack = match &op.action {
            Action::SetXattr { .. } | Action::RemoveXattr { .. } => Lack::Xattr,
            Action::SetFlags { .. } => Lack::Flags,
            _ => return false,
        };
        refused && self.lacks().contains(lack)
    }

    /// Ties the replica's new object to its node, with the primary's times.
    fn adopt(&self, op: &Op<'_>, primary: &Done, replica: Applied) -> Result<()> {
        let (Some((node, first)), Some(made)) = (&primary.made, replica.made) else {
            return Ok(());
        };
        let is_left_alone = self.leaves_alone(node) && made.stat.kind() == node.kind;
        let same_owner = (made.stat.uid, made.stat.gid) == (first.uid, first.gid);
        let same = is_left_alone || (made.stat.mode == first.mode && same_owner);
        let times = (first.atime, first.mtime);
        let replica_times = (made.stat.atime, made.stat.mtime);
        self.target.adopt(node, made);
        if !same && matches!(op.action, Action::Link { .. }) {
            // Nothing new: it is another object, or not healed yet.
            return Err(Errno::STALE);
        }
        if !same {
            // Another file system, another idea of what a new object looks like.
            return Err(Errno::OPNOTSUPP);
        }
        if is_left_alone || times == replica_times {
            return Ok(());
        }
        self.target.set_times(node, times.0, times.1)
    }

    /// Writes a part of the op's data: what the primary took in one call, the replica takes in as
    /// many as it needs. `offset` is that of the whole.
    fn write(
        &self,
        op: &Op<'_>,
        node: &Arc<Node>,
        offset: u64,
        appending: bool,
        part: Range<usize>,
    ) -> Result<()> {
        let end = part.end.min(op.data.len());
        self.fully(end - part.start, |done| {
            let from = part.start + done;
            Op {
                needs: op.needs,
                action: Action::Write {
                    node: node.clone(),
                    offset: offset + from as u64,
                    appending,
                },
                data: &op.data[from..end],
            }
        })
    }

    /// Copies exactly `length` bytes within the replica.
    fn copy_range(
        &self,
        op: &Op<'_>,
        from: &Arc<Node>,
        from_offset: u64,
        to: &Arc<Node>,
        to_offset: u64,
        length: usize,
    ) -> Result<()> {
        self.fully(length, |done| {
            let action = Action::CopyRange {
                from: from.clone(),
                from_offset: from_offset + done as u64,
                to: to.clone(),
                to_offset: to_offset + done as u64,
                length: (length - done) as u64,
            };
            Op::new(op.needs, action)
        })
    }

    /// Carries out what is left of an op after `done` bytes until all `length` are done.
    fn fully<'a>(&self, length: usize, rest: impl Fn(usize) -> Op<'a>) -> Result<()> {
        let mut done = 0;
        while done < length {
            match self.target.apply(&rest(done))?.written {
                0 => return Err(Errno::IO),
                n => done += n,
            }
        }
        self.written_bytes.fetch_add(done as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Carries a node's times over.
    ///
    /// # Errors
    /// A fault when the replica could not take them.
    pub fn set_times(
        &self,
        node: &Arc<Node>,
        atime: Time,
        mtime: Time,
    ) -> std::result::Result<(), Fault> {
        if self.leaves_alone(node) {
            return Ok(());
        }
        let done = self.target.set_times(node, atime, mtime);
        self.heard(done, "carry times over to", node)
    }

    /// What came of a call on a node, and of anything that ran behind it.
    fn heard(&self, done: Result<()>, doing: &str, node: &Node) -> std::result::Result<(), Fault> {
        self.and_behind(done)
            .map_err(|errno| Fault::new(errno, format!("{doing} {}", node.display_path())))
    }

    /// Makes size and permission bits follow the primary after an op that failed there.
    ///
    /// # Errors
    /// A fault when the replica could not follow.
    pub fn conform(&self, node: &Arc<Node>, like: &Stat) -> std::result::Result<(), Fault> {
        if self.leaves_alone(node) {
            return Ok(());
        }
        let done = self.target.conform(node, like);
        self.heard(done, "follow a failed change of", node)
    }

    /// Makes a node durable on the replica, while `primary` runs.
    ///
    /// # Errors
    /// A fault when it is not.
    pub fn barrier_beside(
        &self,
        node: &Arc<Node>,
        scope: Scope,
        primary: &mut dyn FnMut(),
    ) -> std::result::Result<(), Fault> {
        let done = self.target.barrier_beside(node, scope, primary);
        self.heard(done, "fsync of", node)
    }

    /// Makes everything on it durable.
    ///
    /// # Errors
    /// A fault when it is not.
    pub fn sync_all(&self) -> std::result::Result<(), Fault> {
        let done = self.target.sync_all();
        self.and_behind(done)
            .map_err(|errno| Fault::new(errno, "making everything durable".to_owned()))
    }

    /// What a node is like there, where it can be reached.
    #[must_use]
    pub fn stat(&self, node: &Arc<Node>) -> Option<Stat> {
        self.target.twin(node)
    }

    /// Sizes of the replica's file system.
    ///
    /// # Errors
    /// The replica's own.
    pub fn space(&self) -> Result<Space> {
        self.target.space()
    }
}

/// "write to photos/img.raw", for messages.
fn describe(op: &Op<'_>) -> String {
    let verb = op.verb();
    let below = |parent: &Node, name: &crate::store::Name| {
        let name = name
            .as_os_str()
            .to_string_lossy()
            .escape_debug()
            .to_string();
        match parent.display_path().as_str() {
            "." => name,
            dir => format!("{dir}/{name}"),
        }
    };
    let object = match &op.action {
        Action::Write { node, .. }
        | Action::Truncate { node, .. }
        | Action::Allocate { node, .. }
        | Action::CopyRange { to: node, .. }
        | Action::SetAttr { node, .. }
        | Action::SetFlags { node, .. }
        | Action::SetXattr { node, .. }
        | Action::RemoveXattr { node, .. } => node.display_path(),
        Action::Create { parent, name, .. }
        | Action::Mkdir { parent, name, .. }
        | Action::Mknod { parent, name, .. }
        | Action::Symlink { parent, name, .. }
        | Action::Link { parent, name, .. }
        | Action::Unlink { parent, name, .. }
        | Action::Rmdir { parent, name, .. } => below(parent, name),
        Action::Rename { from, .. } => below(&from.0, &from.1),
    };
    format!("{verb} {object}")
}
