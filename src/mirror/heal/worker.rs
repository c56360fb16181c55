// SPDX-License-Identifier: MIT
//! `Worker`: the rounds of one healing, and the work that is still to be done.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::divide::Division;
use super::item::{Depth, Item, Job, Next, Task};
use super::links::Links;
use super::place::{self, Found, Held, Pair, Way};
use super::skipped::What;
use super::still::Squeeze;
use super::{Ground, Halt, Healing, Outcome, Stop, Summary};
use crate::journal::{Aspect, Mark, Object, Pins};
use crate::mirror::failure::Copy;
use crate::mirror::intent::whole_tree;
use crate::mirror::replica::Fault;
use crate::mirror::resync::attrs::Proven;
use crate::mirror::resync::content::{Content, Trouble};
use crate::store::node::{Node, Side};
use crate::store::op::{Claim, Claims};
use crate::store::{Ident, Stat, Time};
use crate::sys::Errno;

/// How often one object is looked for again before its mark is left for another round.
const ATTEMPTS: u32 = 16;
/// Directories above an object, at most.
const ABOVE_MAX: usize = 1 << 16;
/// How often what is gone is let go.
const LET_GO: Duration = Duration::from_millis(500);
/// Objects in a row that could not be found where they are said to be.
const STUCK_MAX: u32 = 64;

/// One healing.
pub(super) struct Worker<'a> {
    pub(super) healing: &'a Healing,
    pub(super) ground: &'a dyn Ground,
    pub(super) stop: &'a AtomicBool,
    throttle: Option<u64>,
    pub(super) squeeze: Squeeze<'a>,
    pub(super) jobs: Vec<Job>,
    dirs: Vec<Item>,
    leaves: Vec<Item>,
    late: Vec<Item>,
    waiting: Vec<Item>,
    /// What was skipped since the round before.
    extra: Vec<Item>,
    pub(super) content: Content,
    pub(super) proven: Mutex<Proven>,
    /// The directory that was opened last for what is in it, on both copies.
    pub(super) above: Option<(Arc<Node>, Arc<Pair>)>,
    pub(super) links: Links,
    pub(super) twins: super::moves::Twins,
    /// Directories made on the way to what was moved, until they have been looked at: nothing is in
    /// them yet.
    pub(super) ways: HashSet<Ident>,
    /// What else was made on the replica, until its content and attributes have been carried.
    pub(super) bare: HashSet<Ident>,
    /// When the names in a directory were made equal the last time.
    pub(super) listed: HashMap<Ident, Time>,
    /// Directories of which everything is looked at in this round.
    pub(super) wholes: HashSet<Ident>,
    /// Marks of what moved, by the primary's inode number.
    pub(super) moving: HashMap<u64, SmallVec<[Arc<Mark>; 1]>>,
    /// Files with marks of their own for their content.
    pub(super) marked: HashSet<Ident>,
    pub(super) summary: Summary,
    /// All names of the tree are seen in this round.
    pub(super) is_whole: bool,
    /// Bytes read and written since the last pause.
    pub(super) moved_bytes: u64,
    /// Something cannot be healed before all names of the tree have been seen.
    pub(super) must_escalate: bool,
    /// The log says so, until this is dropped.
    pub(super) noted: Option<Pins>,
    /// Items that are done.
    ended: u64,
    /// When what is gone was let go the last time.
    let_go_at: Instant,
    stuck: u32,
    pub(super) division: Division,
    /// Skipped renames whose marks are known.
    renames: u64,
}

impl<'a> Worker<'a> {
    pub(super) fn new(
        healing: &'a Healing,
        ground: &'a dyn Ground,
        stop: &'a AtomicBool,
        throttle: Option<u64>,
    ) -> Self {
        Self {
            healing,
            ground,
            stop,
            throttle,
            squeeze: Squeeze::default(),
            jobs: Vec::new(),
            dirs: Vec::new(),
            leaves: Vec::new(),
            late: Vec::new(),
            waiting: Vec::new(),
            extra: Vec::new(),
            content: Content::new(),
            proven: Proven::lacking(ground.lacks()),
            above: None,
            links: Links::default(),
            twins: super::moves::Twins::default(),
            ways: HashSet::new(),
            bare: HashSet::new(),
            listed: HashMap::new(),
            wholes: HashSet::new(),
            moving: HashMap::new(),
            marked: HashSet::new(),
            summary: Summary::default(),
            is_whole: false,
            moved_bytes: 0,
            must_escalate: false,
            noted: None,
            ended: 0,
            let_go_at: Instant::now(),
            stuck: 0,
            division: Division::new(ground.divides_at_once()),
            renames: 0,
        }
    }

    pub(super) fn run(mut self) -> Result<Summary, Stop> {
        let done = self.rounds();
        // What is not healed is dirty: before its pins are dropped with us.
        let unhealed = self.jobs.iter_mut().filter(|job| job.pins.is_some());
        unhealed.for_each(|job| {
            let pins = job.pins.take();
            if let (Some((node, what)), Some(pins)) = (job.skipped.take(), &pins)
                && self.healing.remember(&node, what, pins)
            {
                return;
            }
            job.mark.set_dirty();
            pins.iter().for_each(Pins::soil);
        });
        if done.is_err() {
            self.names_agree()?;
        }
        done.map(|()| self.summary)
    }

    fn rounds(&mut self) -> Result<(), Stop> {
        loop {
            self.check_stop()?;
            let any = self.collect()? | self.take_skipped();
            if !any && !self.names_agree()? {
                continue; // what still waits may wait for that
            }
            self.show_left();
            if self.jobs.iter().all(|job| job.pins.is_none()) {
                if any {
                    continue;
                }
                if self.is_standing() && self.is_healed()? {
                    return Ok(());
                }
                // Something may be skipped right after the last look: nothing is, before the next.
                self.stand_still()?;
                continue;
            }
            self.summary.rounds += 1;
            self.wholes.clear();
            self.marked.clear();
            self.above = None;
            let before = self.ended;
            self.moves()?;
            self.begin();
            self.empty()?;
            self.count_names()?;
            self.division.doubts.clear();
            self.finish();
            if self.ended == before && !self.waiting.is_empty() {
                // They wait for each other. Nothing waits while all names of the tree are seen.
                self.escalate()?;
            }
        }
    }

    pub(super) fn check_stop(&self) -> Result<(), Stop> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Stop::Asked);
        }
        Ok(())
    }

    fn show_left(&self) {
        let left = self.jobs.iter().filter(|job| job.pins.is_some()).count();
        let left = u64::try_from(left).unwrap_or(u64::MAX);
        self.healing.marks_left.store(left, Ordering::Relaxed);
    }

    /// Finds the objects of all dirty marks, and puts in doubt what they cover. Says whether there
    /// was any.
    fn collect(&mut self) -> Result<bool, Stop> {
        let dirty = self.ground.journal().dirty();
        let any = !dirty.is_empty();
        let (mut unknown, mut pinned) = (Vec::new(), Vec::new());
        let known = self.jobs.len();
        for (mark, paths) in dirty {
            let Some(pins) = Pins::of(&mark) else {
                continue; // another mark stands for it by now, and is dirty in its place
            };
            if let Some(origin) = mark.origin() {
                self.twins.note(mark.object.ino, origin);
                let marks = self.moving.entry(mark.object.ino).or_default();
                if !marks.contains(&mark) {
                    marks.push(mark.clone());
                }
            }
            let begun = |job: &Job| job.pins.is_some() && Arc::ptr_eq(&job.mark, &mark);
            if self.jobs.iter().any(begun) {
                // Work on it waits already; what it is dirty for comes after that.
                continue;
            }
            let object = match place::find(self.ground, &mark.object, &paths) {
                Ok(Found::At(held)) => Some(held),
                Ok(Found::Gone) => None,
                Ok(Found::Unknown) | Err(Halt::Lost | Halt::Unlike) => {
                    unknown.push(mark);
                    pinned.push(pins);
                    continue;
                }
                Err(Halt::Trouble(trouble)) => return Err(self.halted(&trouble, None)),
            };
            self.summary.marks += 1;
            if object.is_none() {
                self.summary.gone += 1;
            }
            self.jobs.push(Job {
                mark,
                pins: Some(pins),
                left: 0,
                tops: Vec::new(),
                missed: 0,
                skipped: None,
                object,
            });
        }
        if !unknown.is_empty() {
            self.escalate()?;
            // The mark of the whole tree is durable: it stands for these, which are free to go.
            unknown.iter().for_each(|mark| take(mark));
            drop(pinned);
        }
        let jobs = &mut self.jobs[known..];
        let root = self.ground.nodes().root().place(Side::Primary).ident();
        self.healing.changed(|doubt| {
            for job in jobs {
                job.missed = doubt.missed;
                let Some(held) = &job.object else {
                    let ino = job.mark.object.ino;
                    let dev = root.map_or(0, |root| root.dev);
                    take(&job.mark);
                    doubt.lift(Ident { dev, ino });
                    continue;
                };
                let ident = held.ident();
                match job.mark.aspect {
                    Aspect::Dir | Aspect::DirData if held.node().is_dir() => {
                        doubt.soil(held.node());
                    }
                    Aspect::Tree | Aspect::Fill | Aspect::Moved if held.node().is_dir() => {
                        doubt.soil_below(ident);
                        job.tops.push(ident);
                    }
                    _ => {}
                }
            }
            doubt.is_open = true;
        });
        Ok(any)
    }

    /// Takes up what was skipped since the last round, for the sake of marks that cover it.
    fn take_skipped(&mut self) -> bool {
        let skipped = self.healing.skipped.lock().take();
        let any = !skipped.is_empty();
        let nodes = self.ground.nodes();
        for left in skipped {
            let Some(mark) = left.pins.marks().first().cloned() else {
                continue;
            };
            let held = Held::known(nodes, &left.node);
            let what = left.what.clone();
            let task = match left.what {
                What::Names if left.node.is_dir() => {
                    self.healing.changed(|doubt| doubt.soil(&left.node));
                    self.names_again(&left.node)
                }
                What::Content(range) if !left.node.is_dir() => Task::Content(range),
                _ => Task::Attributes,
            };
            self.extra.push(Item::new(self.jobs.len(), held, task));
            self.jobs.push(Job {
                mark,
                pins: Some(left.pins),
                left: 1,
                tops: Vec::new(),
                missed: self.healing.changed(|doubt| doubt.missed),
                skipped: Some((left.node, what)),
                object: None,
            });
        }
        any
    }

    /// What a mark of the whole tree is about.
    pub(super) fn whole_tree(&self) -> Result<Object, Stop> {
        whole_tree(self.ground.primary_root()).map_err(|errno| {
            let (copy, call) = (Copy::Primary, "statx");
            Stop::of(&Trouble { copy, call, errno }, ".")
        })
    }

    /// Marks the whole tree: what is in doubt cannot be told any closer.
    pub(super) fn escalate(&mut self) -> Result<(), Stop> {
        let object = self.whole_tree()?;
        let marked = self.ground.journal().mark_tree(object);
        self.summary.escalated += 1;
        marked.map(drop).map_err(Stop::of_log)
    }

    /// Turns the marks into items, directories from the top down.
    fn begin(&mut self) {
        let root = self.ground.nodes().root().clone();
        self.is_whole = self.jobs.iter().any(|job| {
            let held = job.object.as_ref();
            let is_root = held.is_some_and(|held| Arc::ptr_eq(held.node(), &root));
            is_root && job.mark.aspect.is_tree()
        });
        let mut dirs = Vec::new();
        for number in 0..self.jobs.len() {
            let Some(held) = self.jobs[number].object.take() else {
                continue;
            };
            let mark = self.jobs[number].mark.clone();
            let is_root = Arc::ptr_eq(held.node(), &root);
            if self.is_whole && !(is_root && mark.aspect.is_tree()) {
                // All of it is a part of the whole, which is looked at from now on.
                take(&mark);
                continue;
            }
            let (seconds, nanos) = mark.stamp;
            let since = Time { seconds, nanos };
            let depth = |leaves| Depth {
                whole: false,
                leaves,
                since: Some(since),
            };
            let is_dir = held.node().is_dir();
            let task = match mark.aspect {
                Aspect::Dir if is_dir => Task::Names(depth(false)),
                Aspect::DirData if is_dir => Task::Names(depth(true)),
                Aspect::Data { start, end } if !is_dir => Task::Content(start..end),
                Aspect::Node => Task::Attributes,
                _ if is_dir => Task::Names(Depth::WHOLE),
                _ => Task::Content(0..u64::MAX),
            };
            if matches!(task, Task::Content(_)) {
                self.marked.insert(held.ident());
            }
            let mut item = Item::new(number, held, task);
            item.is_top = true;
            self.jobs[number].left += 1;
            self.sort_in(item, &mut dirs);
        }
        for item in std::mem::take(&mut self.extra) {
            self.sort_in(item, &mut dirs);
        }
        let waiting = std::mem::take(&mut self.waiting);
        if let Some(job) = waiting
            .first()
            .map(|item| item.job)
            .filter(|_| dirs.is_empty())
        {
            // What they wait for is healed for their sake: nobody marked it, or not yet.
            for dir in self.healing.changed(super::doubt::Doubt::soiled) {
                let held = Held::known(self.ground.nodes(), &dir);
                let item = Item::new(job, held, self.names_again(&dir));
                self.jobs[job].left += 1;
                self.sort_in(item, &mut dirs);
            }
        }
        let (waiting, late) = waiting
            .into_iter()
            .partition::<Vec<_>, _>(|item| matches!(item.task, Task::Names(_)));
        self.late.extend(late);
        // The last one is taken first. What waited comes behind the marks: it may wait for them.
        dirs.sort_by_key(|(depth, _)| std::cmp::Reverse(*depth));
        self.dirs.extend(waiting);
        self.dirs.extend(dirs.into_iter().map(|(_, item)| item));
    }

    /// Puts names with how deep they are, everything else behind all of them.
    fn sort_in(&mut self, item: Item, dirs: &mut Vec<(usize, Item)>) {
        if matches!(item.task, Task::Names(_)) {
            let way = Way::to(item.held.node(), |_| true);
            dirs.push((way.map_or(0, |way| way.above().count()), item));
        } else {
            self.late.push(item);
        }
    }

    /// What was removed while it waited is let go: as long as it is held its number cannot be given to
    /// another object, and that takes a descriptor on each copy.
    fn let_go(&mut self) -> Result<(), Stop> {
        if self.let_go_at.elapsed() < LET_GO {
            return Ok(());
        }
        let source = self.ground.source();
        let mut gone = Vec::new();
        for items in [&mut self.dirs, &mut self.leaves, &mut self.late] {
            gone.extend(items.extract_if(.., |item| source.is_removed(item.held.node())));
        }
        for item in gone {
            self.attend(item)?;
        }
        let is_removed = |node: &Arc<Node>| source.is_removed(node);
        self.healing.skipped.lock().forget(is_removed);
        self.let_go_at = Instant::now();
        Ok(())
    }

    /// Works until nothing is left but what waits for the next round.
    fn empty(&mut self) -> Result<(), Stop> {
        loop {
            self.let_go()?;
            if self.leaves.is_empty() {
                self.divide()?;
            }
            let item = self.leaves.pop().or_else(|| self.dirs.pop());
            let Some(item) = item else {
                // Those with one name first: what has several may become clear meanwhile.
                let next = self.late.iter().position(|item| !item.is_late).unwrap_or(0);
                if self.late.is_empty() {
                    return Ok(());
                }
                let item = self.late.swap_remove(next);
                self.attend(item)?;
                continue;
            };
            self.attend(item)?;
        }
    }

    /// All that is to be done, but for what is in the directory that was looked at last.
    pub(super) fn pending(&self) -> impl Iterator<Item = &Item> {
        let lists = [&self.dirs, &self.late, &self.waiting];
        lists.into_iter().flatten()
    }

    pub(super) fn pending_mut(&mut self) -> impl Iterator<Item = &mut Item> {
        let lists = [&mut self.dirs, &mut self.late, &mut self.waiting];
        lists.into_iter().flatten()
    }

    /// One more thing to do.
    pub(super) fn push(&mut self, item: Item) {
        self.jobs[item.job].left += 1;
        self.put_back(item);
    }

    fn put_back(&mut self, item: Item) {
        match item.task {
            Task::Names(_) => self.dirs.push(item),
            _ if item.is_late => self.late.push(item),
            _ => self.leaves.push(item),
        }
    }

    fn done(&mut self, item: Item) {
        let number = item.job;
        drop(item);
        self.jobs[number].left = self.jobs[number].left.saturating_sub(1);
        self.stuck = 0;
        self.ended += 1;
        if self.jobs[number].left == 0 {
            self.end(number);
        }
    }

    /// All a mark covers has been looked at.
    pub(super) fn end(&mut self, number: usize) {
        let job = &mut self.jobs[number];
        if job.object.is_some() || job.pins.is_none() {
            return;
        }
        let (tops, missed) = (std::mem::take(&mut job.tops), job.missed);
        let seen = self.healing.changed(|doubt| {
            doubt.heal_below(&tops);
            doubt.missed == missed
        });
        // What was skipped while all its directories were still to come has been looked at since.
        if seen && !tops.is_empty() {
            take(&job.mark);
        }
        job.pins = None;
        if job.mark.aspect == Aspect::Fill {
            self.division.filled.push(job.mark.clone());
        }
        self.show_left();
    }

    fn finish(&mut self) {
        for number in 0..self.jobs.len() {
            if self.jobs[number].left == 0 {
                self.end(number);
            }
        }
        if self.waiting.is_empty() {
            self.jobs.retain(|job| job.pins.is_some());
        }
    }

    /// Does what is to be done with one object, wherever it is by now.
    fn attend(&mut self, mut item: Item) -> Result<(), Stop> {
        let mut with: Vec<Held> = Vec::new();
        let (mut attempts, mut is_long) = (0, false);
        while attempts < ATTEMPTS {
            self.check_stop()?;
            self.rest()?;
            if is_long {
                self.go_on()?;
            } else {
                self.squeeze()?;
            }
            let Some(way) = self.way_to(item.held.node()) else {
                if !self.is_gone(item.held.node())? {
                    continue; // a rename was under way
                }
                let ident = item.held.ident();
                self.healing.changed(|doubt| doubt.lift(ident));
                self.look_for_names(item.held.node());
                if item.is_top {
                    take(&self.jobs[item.job].mark);
                }
                self.done(item);
                return Ok(());
            };
            let others = ways(&with);
            let hold = self.ground.hold(claims(&item, &way, &others));
            let turn = hold.map_err(Stop::Fault)?;
            attempts += 1;
            if !way.is_still() || !others.iter().all(|(_, way)| way.is_still()) {
                drop(turn);
                continue;
            }
            let above = way.last().map(|link| &link.parent);
            if above.is_some_and(|dir| !self.healing.doubt.lock().is_clear(dir)) {
                drop(turn);
                self.wait(item);
                return Ok(());
            }
            let next = self.perform(&mut item, &way, &others);
            self.put_up(&item)?;
            if next.is_err() {
                self.above = None;
            }
            match next {
                // While nothing can be skipped there.
                Ok(Next::Done) => {
                    let ident = item.held.ident();
                    self.ways.remove(&ident);
                    self.bare.remove(&ident);
                    if matches!(item.task, Task::Names(_)) {
                        self.healing.skipped.lock().named(item.held.node());
                    }
                }
                Err(Halt::Lost) => self.unlearn(&way, &item),
                _ => {}
            }
            drop(turn);
            match next {
                Ok(Next::Done) => {
                    self.done(item);
                    return Ok(());
                }
                Ok(Next::More) => (attempts, is_long) = (0, true),
                Ok(Next::With(more)) => {
                    attempts = 0;
                    with = more;
                }
                Ok(Next::Late) => {
                    item.is_late = true;
                    self.late.push(item);
                    return Ok(());
                }
                Ok(Next::Wait) => {
                    self.wait(item);
                    return Ok(());
                }
                Err(Halt::Lost) => {}
                Err(Halt::Unlike) => return self.after_above(item, &way),
                Err(Halt::Trouble(trouble)) => return Err(self.halted(&trouble, Some(&item))),
            }
        }
        self.give_up(item)
    }

    /// Whether an object, or a directory above it, has no name any more. While a rename is under way
    /// it has none for a moment: that is waited for.
    pub(super) fn is_gone(&self, node: &Arc<Node>) -> Result<bool, Stop> {
        let mut here = node.clone();
        for _ in 0..ABOVE_MAX {
            if Arc::ptr_eq(&here, self.ground.nodes().root()) {
                return Ok(false);
            }
            let above = |node: &Arc<Node>| node.place(Side::Primary).links().first().cloned();
            let link = match above(&here) {
                Some(link) => Some(link),
                None => {
                    let claims = Claim::together([Claim::attributes(&here)]);
                    let turn = self.ground.hold(claims).map_err(Stop::Fault)?;
                    let link = above(&here);
                    drop(turn);
                    link
                }
            };
            match link {
                Some(link) => here = link.parent,
                None => return Ok(true),
            }
        }
        Ok(false)
    }

    /// No name of an object is known any more. If it has one all the same it is to be found: in a round that
    /// comes past all names it will be.
    pub(super) fn look_for_names(&mut self, node: &Arc<Node>) {
        self.must_escalate |= self.may_have_names(node);
    }

    /// Whether an object of which no name is known may have one that this round does not come past.
    pub(super) fn may_have_names(&self, node: &Arc<Node>) -> bool {
        !self.is_whole && !self.ground.source().is_removed(node)
    }

    /// A name that did not lead to the object although nothing could move is not its name.
    fn unlearn(&self, way: &Way, item: &Item) {
        let Some(link) = way.last() else { return };
        let found = self.ground.source().lookup(&link.parent, &link.name);
        if found.is_ok_and(|stat| stat.ident != item.held.ident()) {
            let node = item.held.node();
            node.remove_link(Side::Primary, &link.parent, &link.name);
        }
    }

    /// Learns whose the replica's objects are from the marks of renames that were skipped lately:
    /// those that touch what is held are dirty by now.
    fn recall(&mut self) {
        let renames = self.healing.doubt.lock().renames;
        if renames == self.renames {
            return;
        }
        self.renames = renames;
        for (mark, _) in self.ground.journal().dirty() {
            if let Some(origin) = mark.origin() {
                self.twins.note(mark.object.ino, origin);
            }
        }
    }

    fn perform(&mut self, item: &mut Item, way: &Way, others: &[(&Held, Way)]) -> Outcome<Next> {
        self.recall();
        if item.is_top && !item.is_begun {
            // Before anything is looked at, and while nothing can be skipped: what is skipped later
            // makes it dirty again. Once only for a file that is looked at part by part.
            take(&self.jobs[item.job].mark);
        }
        match &mut item.task {
            Task::Names(depth) => {
                self.above = None;
                let depth = *depth;
                self.names(item, way, depth, others)
            }
            Task::Attributes => self.attributes(item, way),
            Task::Content(range) => {
                let range = range.clone();
                self.bytes(item, way, range)
            }
        }
    }

    fn wait(&mut self, item: Item) {
        self.waiting.push(item);
    }

    /// The replica does not have an object where the primary has it: the directories above are
    /// healed first, from the top down.
    fn after_above(&mut self, mut item: Item, way: &Way) -> Result<(), Stop> {
        item.tries += 1;
        if item.tries > ATTEMPTS {
            return self.give_up(item);
        }
        let job = item.job;
        item.is_late |= !matches!(item.task, Task::Names(_));
        self.put_back(item);
        let above: Vec<_> = way.above().cloned().collect();
        for dir in above.iter().rev() {
            let held = Held::known(self.ground.nodes(), dir);
            self.healing.changed(|doubt| doubt.soil(dir));
            self.push(Item::new(job, held, self.names_again(dir)));
        }
        Ok(())
    }

    /// An object could not be found where all names say it is: its mark is left for another round. If
    /// it was come upon on the way, nobody but the mark of the whole tree is sure to lead there again.
    fn give_up(&mut self, item: Item) -> Result<(), Stop> {
        self.stuck += 1;
        let path = item.held.node().display_path();
        if self.stuck > STUCK_MAX {
            let doing = format!("healing of {path}: it is not where the mount knows it to be");
            return Err(Stop::Fault(Fault::new(Errno::STALE, doing)));
        }
        self.must_escalate |= !item.is_top;
        let job = &mut self.jobs[item.job];
        job.mark.set_dirty();
        job.pins.iter().for_each(Pins::soil);
        job.missed = u64::MAX;
        let stuck = self.stuck;
        self.done(item);
        self.stuck = stuck;
        Ok(())
    }

    /// Tells the node of a pair who its twin is, where it knows another one.
    pub(super) fn introduce(&self, primary: &Stat, replica: &Stat) {
        let node = self.ground.nodes().find(primary.ident);
        if node.is_some_and(|node| !node.has_twin(replica.ident)) {
            self.ground.twin_replaced(primary.ident);
        }
    }

    /// Between two holds: as slow as it is told to be.
    fn rest(&mut self) -> Result<(), Stop> {
        let mut left = std::mem::take(&mut self.moved_bytes);
        if self.is_standing() {
            return Ok(());
        }
        // So much at a time that what is gone meanwhile is let go in time.
        let part = self.throttle.map_or(u64::MAX, |rate| (rate / 2).max(1));
        while left > 0 {
            let bytes = left.min(part);
            left -= bytes;
            self.healing.pace(bytes, self.throttle, self.stop);
            self.let_go()?;
        }
        Ok(())
    }

    /// What a failed call means.
    pub(super) fn halted(&self, trouble: &Trouble, item: Option<&Item>) -> Stop {
        if trouble.errno == Errno::INTR && self.stop.load(Ordering::Relaxed) {
            return Stop::Asked;
        }
        let path = item.map_or_else(|| ".".to_owned(), |item| item.held.node().display_path());
        Stop::of(trouble, &path)
    }
}

/// What to hold for an item, and for those that are needed with it.
fn claims(item: &Item, way: &Way, others: &[(&Held, Way)]) -> Claims {
    let own = if item.held.node().is_dir() {
        way.for_names()
    } else {
        way.for_content()
    };
    let others = others.iter().flat_map(|(held, way)| {
        let node = Claim::attributes(held.node());
        way.claims().chain([node]).collect::<Vec<_>>()
    });
    Claim::together(own.into_iter().chain(others))
}

fn ways(with: &[Held]) -> Vec<(&Held, Way)> {
    let way = |held| Some((held, Way::to(Held::node(held), |_| true)?));
    with.iter().filter_map(way).collect()
}

/// From now on what is skipped is to be healed again, and what was before is looked at.
pub(super) fn take(mark: &Mark) {
    let _was_dirty = mark.take_dirty();
}
