// SPDX-License-Identifier: MIT
//! `Worker`: walks both trees, one of several that do so together.
//!
//! A directory is entered, its names are handed out in small portions to whoever is free, and when
//! nobody is busy with one of them any more its own attributes are carried over. The directories
//! found in it wait until then or longer; the last one found is entered first.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::{FileType, Mode};

use super::attrs::{Attrs, Lack};
use super::branch::{Branch, Listed, Pair};
use super::content::{Content, On, Trouble};
use super::links::{Spot, Wrong};
use super::{How, Kind, Outcome, Progress, Shared, Task, object, word};
use crate::mirror::attach::stamp;
use crate::mirror::failure::{Copy, Named};
use crate::store::name::Name;
use crate::store::stat::Stat;
use crate::store::walk::{self, Entry};
use crate::sys::{Errno, Result, creds};

/// Names taken at a time, at most.
const PORTION_MAX: usize = 16;
/// While it waits because it is to be slow, whoever works looks so often whether to stop.
const TICK: Duration = Duration::from_millis(20);

/// Counts, shows progress, keeps to the rate, and hears a stop.
pub(super) struct Meter<'a> {
    shared: &'a Shared,
    /// Called by one worker only: the caller's own thread.
    show: Option<&'a mut dyn FnMut(&Progress)>,
}

impl Meter<'_> {
    /// So many more bytes were compared or copied.
    pub(super) fn step(&mut self, bytes: u64) -> Result<()> {
        self.shared.counts.bytes.add(bytes);
        self.show();
        self.shared.how.goes_on()?;
        match self.shared.how.bytes_per_second {
            Some(rate) if rate > 0 => self.pace(rate),
            _ => Ok(()),
        }
    }

    fn show(&mut self) {
        if let Some(show) = &mut self.show {
            show(&self.shared.progress());
        }
    }

    fn pace(&mut self, rate: u64) -> Result<()> {
        let millis = u128::from(self.shared.counts.bytes.get()) * 1000 / u128::from(rate);
        let until = Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX));
        loop {
            let left = until.saturating_sub(self.shared.began.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::park_timeout(left.min(TICK));
            self.show();
            self.shared.how.goes_on()?;
        }
    }
}

/// One of those who walk.
pub(super) struct Worker<'a> {
    pub(super) shared: &'a Shared,
    pub(super) meter: Meter<'a>,
    pub(super) content: Content,
    /// The directory it is in.
    pub(super) branch: Arc<Branch>,
    pub(super) pair: Arc<Pair>,
    /// The name in it that is being looked at; nothing for the directory itself.
    pub(super) name: Option<Name>,
    /// Directories found in the present portion.
    found: Vec<Task>,
}

impl<'a> Worker<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        root: &Arc<Pair>,
        show: Option<&'a mut dyn FnMut(&Progress)>,
    ) -> Self {
        Self {
            shared,
            meter: Meter { shared, show },
            content: Content::new(),
            branch: Branch::root(root.clone()),
            pair: root.clone(),
            name: None,
            found: Vec::new(),
        }
    }

    /// Works until nothing is left, for anybody, or something failed.
    pub(super) fn run(&mut self) {
        loop {
            let meter = &mut self.meter;
            let Some(task) = self.shared.queue.next(&mut || meter.show()) else {
                return;
            };
            if let Err(trouble) = self.perform(task) {
                self.shared.fail(trouble.at(self.path()));
            }
            self.shared.queue.done();
        }
    }

    fn perform(&mut self, task: Task) -> Outcome<()> {
        match task {
            Task::Enter(branch) => match self.enter(&branch) {
                Ok(true) => self.names(),
                Ok(false) => Ok(()),
                Err(trouble) => self.moving(trouble),
            },
            Task::Names(branch) => {
                branch.state.lock().is_offered = false;
                self.go_to(&branch)?;
                self.names()
            }
        }
    }

    fn go_to(&mut self, branch: &Arc<Branch>) -> Outcome<()> {
        (self.branch, self.name) = (branch.clone(), None);
        self.pair = self.shared.opened.pair(branch)?;
        Ok(())
    }

    /// Relative to the roots, what is being looked at.
    pub(super) fn path(&self) -> Vec<u8> {
        self.branch.path(self.name.as_ref())
    }

    /// The name that is being looked at.
    pub(super) fn spot(&self, name: &Name) -> Spot {
        Spot {
            dir: self.branch.clone(),
            name: name.clone(),
        }
    }

    /// In a live tree an object may be another one by the time it is opened: a difference, not a
    /// failure.
    fn moving(&mut self, trouble: Trouble) -> Outcome<()> {
        let gone = matches!(
            trouble.errno,
            Errno::NOENT
                | Errno::STALE
                | Errno::NOTDIR
                | Errno::ISDIR
                | Errno::LOOP
                | Errno::NXIO
                | Errno::BUSY
                | Errno::NODATA
                | Errno::RANGE
        );
        if !self.shared.how.live || self.shared.how.repair || !gone {
            return Err(trouble);
        }
        let (copy, errno) = (trouble.copy, Named(trouble.errno));
        self.report(Kind::Entry, None, || {
            format!("changed on the {copy} while it was compared: {errno}")
        });
        Ok(())
    }

    /// Goes into a directory and lists it; false where something else is mounted and that is left out.
    fn enter(&mut self, branch: &Arc<Branch>) -> Outcome<bool> {
        let how = &self.shared.how;
        let mut mend = branch.is_new;
        if let Some((above, name)) = branch.above() {
            (self.branch, self.name) = (above.clone(), Some(name.clone()));
            let above = self.shared.opened.pair(above)?;
            let name = name.as_c_str();
            let primary = match walk::open_dir(above.primary(), name) {
                Err(Errno::XDEV) if how.one_file_system => return Ok(false),
                opened => opened.on(Copy::Primary, "openat2")?,
            };
            let replica = match walk::open_dir(above.replica(), name) {
                Err(Errno::ACCESS) if how.repair => {
                    object::make_readable(above.replica(), name, 0o700)?;
                    mend = true;
                    walk::open_dir(above.replica(), name)
                }
                opened => opened,
            };
            let replica = replica.on(Copy::Replica, "openat2")?;
            self.pair = self.shared.opened.keep(branch, Pair::new(primary, replica));
            (self.branch, self.name) = (branch.clone(), None);
        } else {
            self.go_to(branch)?;
        }
        let (pair, is_root) = (self.pair.clone(), branch.is_root());
        let want = Attrs::read(pair.primary(), Copy::Primary, is_root)?;
        let mut replica = None;
        if !branch.is_new {
            let have = Attrs::read(pair.replica(), Copy::Replica, is_root)?;
            mend |= self.report_attrs(&want, &have);
            replica = Some(have.stat.ident);
        }
        branch.is(want.stat.ident, replica);
        let list = |copy| -> Outcome<Vec<Entry>> {
            let listed = walk::entries(pair.of(copy)).on(copy, "getdents64")?;
            let ours = |entry: &Entry| is_root && stamp::is_ours(&entry.name);
            Ok(listed.into_iter().filter(|entry| !ours(entry)).collect())
        };
        let in_primary = list(Copy::Primary)?;
        let in_replica = if branch.is_new {
            Vec::new()
        } else {
            list(Copy::Replica)?
        };
        let (names, extra) = paired(in_primary, in_replica);
        {
            let mut state = branch.state.lock();
            (state.names, state.want) = (names.into_iter(), Some(want));
            state.mend |= mend;
        }
        // What goes makes room for what comes: a replica may have failed because it was full.
        for name in extra {
            self.name = Some(name.clone());
            self.extra(&name)?;
        }
        Ok(true)
    }

    /// Looks at names of the present directory, as long as there are any that nobody else has taken.
    fn names(&mut self) -> Outcome<()> {
        let (branch, shared) = (self.branch.clone(), self.shared);
        let mut portion = Vec::with_capacity(PORTION_MAX);
        branch.state.lock().busy += 1;
        loop {
            let mut state = branch.state.lock();
            let left = state.names.len();
            let most = match shared.how.workers {
                1 => PORTION_MAX,
                several => left.div_ceil(4 * several).min(PORTION_MAX),
            };
            portion.extend(state.names.by_ref().take(most));
            let offers = shared.how.workers > 1 && left > most && !state.is_offered;
            state.is_offered |= offers;
            if portion.is_empty() {
                state.busy -= 1;
                let is_last = state.busy == 0;
                let want = state.want.take_if(|_| is_last);
                let mend = state.mend;
                drop(state);
                self.name = None;
                return match want {
                    Some(want) if mend && shared.how.repair => self.leave(want),
                    _ => Ok(()),
                };
            }
            drop(state);
            if offers {
                shared.queue.push([Task::Names(branch.clone())]);
            }
            for listed in portion.drain(..) {
                shared.how.goes_on().on(Copy::Primary, "walk")?;
                self.name = Some(listed.primary.name.clone());
                let visited = self.visit(&listed);
                visited.or_else(|trouble| self.moving(trouble))?;
            }
            shared.queue.push(self.found.drain(..).rev());
        }
    }

    /// All names of a directory are done: now its own attributes, its times above all.
    fn leave(&mut self, want: Attrs) -> Outcome<()> {
        let locks_out = want.stat.permissions() & 0o700 != 0o700;
        if locks_out && !creds::privileged() {
            // Those below are still to come.
            self.shared.late.lock().push((self.branch.clone(), want));
            return Ok(());
        }
        self.carry_over(&want, None, self.branch.is_new)
    }

    /// The directories that would have locked us out.
    pub(super) fn leave_late(&mut self) -> Outcome<()> {
        let mut late = std::mem::take(&mut *self.shared.late.lock());
        late.sort_by_cached_key(|(branch, _)| std::cmp::Reverse(branch.depth()));
        for (branch, want) in late {
            self.go_to(&branch)?;
            self.carry_over(&want, None, branch.is_new)?;
        }
        Ok(())
    }

    /// One name of the present directory, which the primary has.
    fn visit(&mut self, listed: &Listed) -> Outcome<()> {
        let (shared, repair) = (self.shared, self.shared.how.repair);
        let name = &listed.primary.name;
        let replica = match &listed.replica {
            Some(entry) => self.kind(Copy::Replica, entry)?,
            None => None,
        };
        let Some(primary) = self.kind(Copy::Primary, &listed.primary)? else {
            return self.gone(name);
        };
        shared.counts.entries.add(1);
        if primary == FileType::RegularFile {
            shared.counts.files.add(1);
        }
        self.meter.show();
        let mut reported = self.branch.is_new;
        let is_other = replica.filter(|&other| other != primary);
        if (replica.is_none() || is_other.is_some()) && self.is_left_out(name, primary) {
            return Ok(());
        }
        if let Some(other) = is_other {
            let (p, r) = (word(primary), word(other));
            self.report(Kind::Entry, None, || {
                format!("{p} on primary, {r} on replica")
            });
            if !repair {
                return Ok(());
            }
            self.remove(name)?;
            reported = true;
        }
        if replica.is_none() || is_other.is_some() {
            // Files and directories are never among what a mirror may do without.
            let special = !matches!(primary, FileType::RegularFile | FileType::Directory);
            let lost = special && shared.how.ignore.contains(Lack::Entry) && !repair;
            if !reported && !lost {
                self.report(Kind::Entry, None, || "on primary only".to_owned());
            }
            if !repair {
                return Ok(());
            }
            self.unlock()?;
        }
        let source = match primary {
            FileType::Directory => None,
            kind => match object::open(self.pair.primary(), name.as_c_str(), kind) {
                Err(Errno::NOENT) => return self.gone(name),
                Err(Errno::XDEV) if shared.how.one_file_system => return Ok(()),
                opened => Some(opened.on(Copy::Primary, "openat2")?),
            },
        };
        if source.is_some() && shared.how.workers > 1 {
            // It may be a large one: others can go on.
            shared.queue.push(self.found.drain(..).rev());
        }
        match (source, replica.is_some() && is_other.is_none()) {
            (Some(source), true) => self.compare_object(name, primary, source.as_fd()),
            (Some(source), false) => self.create(name, primary, source.as_fd()),
            (None, true) => {
                self.go_below(name, false);
                Ok(())
            }
            (None, false) => self.create_dir(name),
        }
    }

    /// Whether something else is mounted on a name that is no directory, and that is left out.
    fn is_left_out(&self, name: &Name, kind: FileType) -> bool {
        let looks = self.shared.how.one_file_system && kind != FileType::Directory;
        let open = || object::open(self.pair.primary(), name.as_c_str(), kind);
        looks && matches!(open(), Err(Errno::XDEV))
    }

    /// The primary has lost a name since it was listed.
    fn gone(&self, name: &Name) -> Outcome<()> {
        match Stat::of_name(self.pair.replica(), name.as_c_str()) {
            Err(Errno::NOENT) => return Ok(()),
            found => found.on(Copy::Replica, "statx")?,
        };
        self.extra(name)
    }

    /// Only the replica has a name.
    fn extra(&self, name: &Name) -> Outcome<()> {
        self.report(Kind::Entry, None, || "on replica only".to_owned());
        if self.shared.how.repair {
            self.remove(name)?;
        }
        Ok(())
    }

    /// A directory is looked into later.
    fn go_below(&mut self, name: &Name, is_new: bool) {
        let below = Branch::below(&self.branch, name.clone(), is_new);
        self.found.push(Task::Enter(below));
    }

    fn kind(&self, copy: Copy, entry: &Entry) -> Outcome<Option<FileType>> {
        if let Some(kind) = entry.kind() {
            return Ok(Some(kind));
        }
        match Stat::of_name(self.pair.of(copy), entry.name.as_c_str()) {
            Err(Errno::NOENT) => Ok(None),
            found => Ok(Some(found.on(copy, "statx")?.kind())),
        }
    }

    /// Makes a directory of the replica.
    fn create_dir(&mut self, name: &Name) -> Outcome<()> {
        let made = rustix::fs::mkdirat(self.pair.replica(), name.as_c_str(), Mode::RWXU);
        made.on(Copy::Replica, "mkdirat")?;
        self.shared.counts.created.add(1);
        self.go_below(name, true);
        Ok(())
    }

    /// Before the first change in the replica's present directory.
    pub(super) fn unlock(&self) -> Outcome<()> {
        let mut state = self.branch.state.lock();
        if !state.is_unlocked {
            // A directory that we made is changeable.
            if !self.branch.is_new {
                walk::unlock(self.pair.replica()).on(Copy::Replica, "unlock")?;
            }
            state.is_unlocked = true;
        }
        state.mend = true;
        Ok(())
    }

    /// Removes a name, and everything below it, from the replica.
    fn remove(&self, name: &Name) -> Outcome<()> {
        self.unlock()?;
        let limit = self.shared.how.deletions_max.unwrap_or(u64::MAX);
        let removed = &self.shared.counts.removed;
        walk::remove(self.pair.replica(), name, &mut || removed.add(1) < limit)
            .on(Copy::Replica, "unlinkat")
    }

    /// Reports how the attributes differ; true when they do.
    pub(super) fn report_attrs(&self, want: &Attrs, have: &Attrs) -> bool {
        // A repair tries again what could not be held before; the disk may be a better one.
        let How { repair, ignore, .. } = self.shared.how;
        let ignore = if repair { ignore.never_tried() } else { ignore };
        let found = want.differences(have, ignore);
        let any = !found.is_empty();
        for detail in found {
            self.report(Kind::Metadata, None, || detail);
        }
        any
    }

    pub(super) fn report(&self, kind: Kind, offset: Option<u64>, detail: impl FnOnce() -> String) {
        if !self.shared.links_only {
            self.add(kind, offset, None, detail);
        }
    }

    /// Reports what two names have to do with each other; or that there is something to report, where
    /// what it is depends on who came first.
    pub(super) fn report_link(&self, (detail, other): Wrong) {
        let how = &self.shared.how;
        if self.shared.how.workers > 1 && !how.repair && !how.live {
            self.shared.has_uneven.store(true, Ordering::Relaxed);
            return;
        }
        self.add(Kind::Entry, None, Some(other), || detail);
    }

    fn add(
        &self,
        kind: Kind,
        offset: Option<u64>,
        other: Option<Vec<u8>>,
        detail: impl FnOnce() -> String,
    ) {
        let trail = if self.shared.how.live {
            self.trail()
        } else {
            Vec::new()
        };
        self.shared.found.lock().report(super::Difference {
            path: self.path(),
            kind,
            offset,
            detail: detail(),
            other,
            trail,
        });
    }

    /// The inode numbers that lead to the object we look at.
    fn trail(&self) -> Vec<u64> {
        let mut trail = self.branch.trail();
        if let Some(name) = &self.name
            && let Ok(stat) = Stat::of_name(self.pair.primary(), name.as_c_str())
        {
            trail.push(stat.ident.ino);
        }
        trail
    }

    pub(super) fn lose(&self, lack: Lack, detail: String) {
        self.shared.found.lock().lose(self.path(), lack, detail);
    }

    /// Carries attributes over to `fd`, or to the replica's present directory.
    pub(super) fn carry_over(
        &mut self,
        want: &Attrs,
        fd: Option<BorrowedFd<'_>>,
        is_new: bool,
    ) -> Outcome<()> {
        let is_root = fd.is_none() && self.branch.is_root();
        let (shared, branch, name) = (self.shared, &self.branch, &self.name);
        let mut lack = |lack, detail| {
            let path = branch.path(name.as_ref());
            shared.found.lock().lose(path, lack, detail);
        };
        let fd = fd.unwrap_or_else(|| self.pair.replica());
        if is_new {
            return want.carry_to_new(fd, &shared.proven, &mut lack);
        }
        self.shared.counts.repaired.add(1);
        want.carry_over(fd, is_root, &shared.proven, &mut lack)
    }
}

/// Two sorted lists as one of what the primary has, and one of what only the replica has.
fn paired(primary: Vec<Entry>, replica: Vec<Entry>) -> (Vec<Listed>, Vec<Name>) {
    let mut extra = Vec::new();
    let mut others = replica.into_iter().peekable();
    let pair = |primary: Entry| {
        while let Some(other) = others.next_if(|other| other.name < primary.name) {
            extra.push(other.name);
        }
        let replica = others.next_if(|other| other.name == primary.name);
        Listed { primary, replica }
    };
    let names = primary.into_iter().map(pair).collect();
    extra.extend(others.map(|other| other.name));
    (names, extra)
}
