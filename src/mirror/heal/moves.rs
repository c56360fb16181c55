// SPDX-License-Identifier: MIT
//! What was renamed is moved on the replica, too, where it can be told who it is there.
//!
//! A mark says which inode the object had on the replica, and when that was born. If it still stands
//! where it was, one rename puts it right, however much is in it; if it stands where it belongs,
//! nothing is left to do. Such an inode is never made another object's by writing to it: as long as
//! the mark lives it would be moved again after a crash, and with it what it became.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

use rustix::fs::{Mode, RenameFlags};

use super::item::{Item, Task};
use super::place::{Held, Way};
use super::worker::{Worker, take};
use super::{Halt, Outcome, Stop};
use crate::journal::{Aspect, Origin, Twin};
use crate::mirror::failure::Copy;
use crate::mirror::resync::content::On;
use crate::store::op::Claim;
use crate::store::{Ident, Name, Stat, Time, walk};
use crate::sys::{Errno, Result};

/// How often the way to a new place is looked at again.
const ATTEMPTS: u32 = 4;

/// Who the replica's inodes are, by the marks.
#[derive(Debug, Default)]
pub(super) struct Twins {
    /// The replica's inode number: when it was born, and the primary's inode number.
    known: HashMap<u64, (Time, u64)>,
}

impl Twins {
    /// Notes what a mark knows of the object with this inode number.
    pub(super) fn note(&mut self, primary: u64, origin: &Origin) {
        if let Some(Twin {
            ino,
            btime: Some((seconds, nanos)),
        }) = origin.twin
        {
            self.known.insert(ino, (Time { seconds, nanos }, primary));
        }
    }

    /// Whether the replica's object is known to be another's.
    pub(super) fn is_anothers(&self, replica: &Stat, primary: &Stat) -> bool {
        self.known
            .get(&replica.ident.ino)
            .is_some_and(|(born, owner)| {
                replica.btime == Some(*born) && *owner != primary.ident.ino
            })
    }
}

/// What became of a move.
enum Moved {
    /// It is where it belongs.
    There,
    /// Nobody knows where it is.
    Unknown,
    /// Where it belongs there is still something that has to be moved away itself.
    Later,
}

impl Worker<'_> {
    /// Moves what can be moved, in the order it was renamed, but nothing into a directory that is
    /// still to be moved itself. What is left is compared where it should be.
    pub(super) fn moves(&mut self) -> std::result::Result<(), Stop> {
        let mut left: Vec<usize> = (0..self.jobs.len())
            .filter(|&n| {
                let job = &self.jobs[n];
                job.object.is_some() && matches!(job.mark.aspect, Aspect::Moved)
            })
            .collect();
        left.sort_by_key(|&n| self.jobs[n].mark.seq);
        let ident = |worker: &Self, n: usize| worker.jobs[n].object.as_ref().map(Held::ident);
        let mut unmoved: HashSet<Ident> = left.iter().filter_map(|&n| ident(self, n)).collect();
        loop {
            let before = left.len();
            let mut next = Vec::new();
            for number in left {
                self.check_stop()?;
                let Some(held) = self.jobs[number].object.take() else {
                    continue;
                };
                let ident = held.ident();
                let way = Way::to(held.node(), |_| true);
                let Some(way) = way else {
                    if !self.is_gone(held.node())? {
                        self.jobs[number].object = Some(held); // a rename was under way
                        continue;
                    }
                    self.look_for_names(held.node());
                    take(&self.jobs[number].mark);
                    self.settle(number, &held);
                    unmoved.remove(&ident);
                    continue;
                };
                if unmoved
                    .iter()
                    .any(|&top| top != ident && way.leads_through(top))
                {
                    self.jobs[number].object = Some(held);
                    next.push(number);
                    continue;
                }
                match self.relocate(number, &held)? {
                    Moved::There => {
                        self.settle(number, &held);
                        unmoved.remove(&ident);
                        if held.node().is_dir() {
                            self.push(Item::new(number, held, Task::Attributes));
                        }
                    }
                    Moved::Unknown => self.jobs[number].object = Some(held),
                    Moved::Later => {
                        self.jobs[number].object = Some(held);
                        next.push(number);
                    }
                }
            }
            left = next;
            if left.is_empty() || left.len() == before {
                return Ok(());
            }
        }
    }

    /// An object has been made on the replica. Should a mark say that it moved, and its old twin be found
    /// yet, that must not take the place of what is healed from now on.
    pub(super) fn made_anew(&mut self, primary: Ident) {
        self.summary.created += 1;
        self.ground.twin_replaced(primary);
        if let Some(node) = self.ground.nodes().find(primary) {
            self.ground.journal().lose_twin(node.serial);
        }
        if let Some(marks) = self.moving.get(&primary.ino) {
            marks.iter().for_each(|mark| mark.lose_twin());
        }
    }

    /// Its place is known: nothing below it is in doubt for this.
    fn settle(&mut self, number: usize, held: &Held) {
        let job = &mut self.jobs[number];
        job.tops.clear();
        let ident = held.ident();
        self.healing.changed(|doubt| {
            doubt.lift(ident);
            doubt.found(ident);
        });
    }

    fn relocate(&mut self, number: usize, held: &Held) -> std::result::Result<Moved, Stop> {
        let mark = self.jobs[number].mark.clone();
        let Some(origin) = mark.origin() else {
            return Ok(Moved::Unknown);
        };
        let Some(Twin {
            ino,
            btime: Some((seconds, nanos)),
        }) = origin.twin
        else {
            return Ok(Moved::Unknown);
        };
        let is_twin =
            |stat: &Stat| stat.ident.ino == ino && stat.btime == Some(Time { seconds, nanos });
        for _ in 0..ATTEMPTS {
            let Some(way) = Way::to(held.node(), |_| true) else {
                return Ok(Moved::Unknown);
            };
            let Some(last) = way.last() else {
                return Ok(Moved::Unknown);
            };
            let own = [
                Claim::all_names(&last.parent),
                Claim::attributes(held.node()),
            ];
            let claims = Claim::together(way.claims().chain(own));
            let turn = self.ground.hold(claims).map_err(Stop::Fault)?;
            if !way.is_still() {
                drop(turn);
                continue;
            }
            // Under the hold: what is skipped later makes it dirty again.
            take(&mark);
            let moved = self.move_twin(&way, held.ident(), &origin.path, is_twin);
            drop(turn);
            match moved {
                Ok(Moved::There) => return Ok(Moved::There),
                Ok(Moved::Later) => {
                    mark.set_dirty();
                    return Ok(Moved::Later);
                }
                Ok(Moved::Unknown) | Err(Halt::Unlike) => break,
                Err(Halt::Lost) => {}
                Err(Halt::Trouble(trouble)) => return Err(self.halted(&trouble, None)),
            }
        }
        mark.set_dirty();
        Ok(Moved::Unknown)
    }

    /// Looks for the twin at both places of the replica, and moves it from the one to the other.
    fn move_twin(
        &mut self,
        way: &Way,
        ident: Ident,
        origin: &[u8],
        is_twin: impl Fn(&Stat) -> bool,
    ) -> Outcome<Moved> {
        let Some(last) = way.last() else {
            return Ok(Moved::Unknown);
        };
        if !self.make_way(way)? {
            return Ok(Moved::Later);
        }
        let pair = way.open_parents(self.ground)?;
        let (to, name) = (pair.replica.as_fd(), &last.name);
        let found = Stat::of_name(pair.primary.as_fd(), name.as_c_str());
        if found.on(Copy::Primary, "statx")?.ident != ident {
            return Err(Halt::Lost);
        }
        match Stat::of_name(to, name.as_c_str()) {
            Ok(stat) if is_twin(&stat) => return Ok(Moved::There),
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).on(Copy::Replica, "statx").map_err(Halt::from),
        }
        let Ok((from, old)) = walk::open_parent(self.ground.replica_root(), origin) else {
            return Ok(Moved::Unknown);
        };
        if !Stat::of_name(from.as_fd(), old.as_c_str()).is_ok_and(|stat| is_twin(&stat)) {
            return Ok(Moved::Unknown);
        }
        match rename(from.as_fd(), &old, to, name) {
            // A directory into itself, or something the file system cannot do: it is copied then.
            Err(Errno::INVAL | Errno::NOTDIR | Errno::NOENT | Errno::XDEV | Errno::OPNOTSUPP) => {
                return Ok(Moved::Unknown);
            }
            done => done.on(Copy::Replica, "renameat2")?,
        }
        self.summary.moved += 1;
        self.ground.twin_replaced(ident);
        Ok(Moved::There)
    }

    /// Makes the directories that lead to a place, where the replica lacks them: they are new, and
    /// will be filled as such. False when one that is there is another one's, and not moved yet:
    /// whatever came into it would go with it.
    fn make_way(&mut self, way: &Way) -> Outcome<bool> {
        let mut dir = walk::reopen(self.ground.replica_root()).on(Copy::Replica, "openat2")?;
        for link in way.below_root() {
            let name = link.name.as_c_str();
            let found = self.ground.source().lookup(&link.parent, &link.name);
            let primary = found.on(Copy::Primary, "statx")?;
            let below = match walk::open_dir(dir.as_fd(), name) {
                Err(Errno::NOENT) => {
                    let made = rustix::fs::mkdirat(&dir, name, Mode::RWXU);
                    made.on(Copy::Replica, "mkdirat")?;
                    self.made_anew(primary.ident);
                    self.ways.insert(primary.ident);
                    walk::open_dir(dir.as_fd(), name)
                }
                opened => opened,
            };
            dir = below.on(Copy::Replica, "openat2")?;
            let replica = Stat::of(dir.as_fd()).on(Copy::Replica, "statx")?;
            if self.twins.is_anothers(&replica, &primary) {
                return Ok(false);
            }
        }
        self.healing.dirs_opened.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }
}

/// Renames, in exchange for whatever stands there.
fn rename(from: BorrowedFd<'_>, old: &Name, to: BorrowedFd<'_>, new: &Name) -> Result<()> {
    let (old, new) = (old.as_c_str(), new.as_c_str());
    let attempt = || match rustix::fs::renameat_with(from, old, to, new, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => rustix::fs::renameat_with(from, old, to, new, RenameFlags::EXCHANGE),
        done => done,
    };
    match attempt() {
        Err(Errno::PERM | Errno::ACCESS) => {
            for dir in [from, to] {
                walk::unlock(dir)?;
            }
            attempt()
        }
        done => done,
    }
}
