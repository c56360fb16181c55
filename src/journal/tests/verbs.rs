// SPDX-License-Identifier: MIT
//! What the journal is asked for, verb by verb.

use std::sync::Barrier;
use std::sync::atomic::AtomicBool;

use rustix::fs::{Mode, OFlags};

use super::*;

fn journal() -> (Memory, Journal) {
    let disk = Memory::default();
    let journal = create(&disk, SMALL).expect("create");
    (disk, journal)
}

const REGION: Aspect = Aspect::Data {
    start: 4 << 20,
    end: 8 << 20,
};
const ALL: Aspect = Aspect::CONTENT;

#[test]
fn what_is_hot_costs_no_call_to_the_disk() {
    for (first, then) in [
        (ALL, REGION),
        (ALL, Aspect::Node),
        (REGION, Aspect::Node),
        (Aspect::Dir, Aspect::Node),
        (Aspect::DirData, Aspect::Dir),
        (Aspect::Tree, REGION),
        (Aspect::Tree, Aspect::Moved),
    ] {
        let (disk, journal) = journal();
        drop(pin(&journal, 1, first).expect("cold"));
        let calls = disk.calls();
        let pins = pin(&journal, 1, then).expect("hot");
        assert_eq!(disk.calls(), calls, "{first:?} {then:?}");
        assert_eq!(pins.marks()[0].aspect, first);
        drop(pin(&journal, 2, then).expect("another object"));
        assert!(disk.calls() > calls);
    }
}

#[test]
fn describe_is_asked_for_cold_marks_only() {
    let (_disk, journal) = journal();
    drop(pin(&journal, 1, Aspect::Dir).expect("cold"));
    let describe = || -> (Object, Option<Origin>) { panic!("it is hot") };
    let key = Key {
        serial: 1,
        aspect: Aspect::Node,
    };
    let want = Want {
        key,
        describe: &describe,
    };
    assert_eq!(journal.pin(&[want], None).expect("hot").marks().len(), 1);
}

#[test]
fn many_regions_of_one_file_are_found() {
    let (_disk, journal) = journal();
    let all: Vec<_> = regions(0, 3 << 30, Cut::Fine).collect();
    for &(start, end) in all.iter().rev() {
        drop(pin(&journal, 1, Aspect::Data { start, end }).expect("cold"));
    }
    let before = journal.counts();
    assert_eq!(before.alive, all.len() as u64);
    for &(start, end) in &all {
        let pins = pin(&journal, 1, Aspect::Data { start, end }).expect("hot");
        assert_eq!(pins.marks()[0].aspect, Aspect::Data { start, end });
    }
    assert_eq!(journal.counts(), before);
    // To the end from somewhere is another thing than all regions there are.
    let rest = Aspect::Data {
        start: 4 << 20,
        end: u64::MAX,
    };
    drop(pin(&journal, 1, rest).expect("cold"));
    assert_eq!(journal.counts().alive, before.alive + 1);
    assert_eq!(checkpoint(&journal), Ok(all.len() + 1));
    assert_eq!(journal.counts().alive, 0);
    drop(pin(&journal, 1, REGION).expect("cold again"));
    assert_eq!(journal.counts().alive, 1);
}

#[test]
fn a_pin_while_its_mark_is_being_cleared_makes_another() {
    let (_disk, journal) = journal();
    drop(pin(&journal, 1, REGION).expect("pin"));
    let old = journal.table.all().remove(0);
    assert!(old.quiet() && old.retire());
    let pins = pin(&journal, 1, REGION).expect("pin");
    assert_ne!(pins.marks()[0].seq, old.seq);
    journal.table.remove(&old);
    assert_eq!(alive(&journal), BTreeSet::from([pins.marks()[0].seq]));
    let again = pin(&journal, 1, REGION).expect("pin");
    assert_eq!(again.marks()[0].seq, pins.marks()[0].seq);
}

#[test]
fn dirty_marks_are_found_where_renames_took_them() {
    let (disk, journal) = journal();
    let pins = pin(&journal, 7, REGION).expect("pin");
    drop(renamed(&journal, "dir", "other").expect("rename"));
    let late = pin(&journal, 8, Aspect::Dir).expect("pin");
    assert!(journal.dirty().is_empty());
    pins.soil();
    late.soil();
    assert_eq!(dirty_paths(&journal), ["other/7", "dir/8"]);
    // The log is rewritten, over and over: the renames are folded in, none is lost.
    for round in 0..400 {
        let names = ["other", "third"];
        let (from, to) = (names[round % 2], names[(round + 1) % 2]);
        drop(renamed(&journal, from, to).expect("rename"));
    }
    assert!(journal.counts().rewrites > 1);
    assert!(journal.renames.lock().from(0).count() < 100);
    assert_eq!(dirty_paths(&journal), ["other/7", "dir/8"]);
    drop(renamed(&journal, "other/7", "final").expect("rename"));
    assert_eq!(dirty_paths(&journal), ["final", "dir/8"]);
    let known = journal.log_id();
    drop((pins, late));
    let again = open(&disk, known, SMALL).expect("open");
    assert_eq!(dirty_paths(&again), ["final", "dir/8"]);
    let (mark, paths) = again.dirty().remove(0);
    assert_eq!(*mark.object.path, *b"final");
    assert!(paths.contains(&b"other/7".as_slice().into()), "{paths:?}");
    assert!(paths.len() <= 16);
    drop(renamed(&again, "final", "last").expect("rename"));
    assert_eq!(dirty_paths(&again), ["last", "dir/8"]);
}

#[test]
fn what_a_mark_says_survives() {
    let (disk, journal) = journal();
    let origin = Origin {
        path: b"before".as_slice().into(),
        twin: Some(Twin {
            ino: 9,
            btime: Some((-5, 6)),
        }),
    };
    let describe = || (object(3, "now"), Some(origin.clone()));
    let want = Want {
        key: Key {
            serial: 3,
            aspect: Aspect::Moved,
        },
        describe: &describe,
    };
    let start = sys::clock::inode_now();
    let pins = journal.pin(&[want], None).expect("pin");
    let first = &pins.marks()[0];
    assert!(first.stamp.0 >= start.tv_sec && first.stamp.0 <= start.tv_sec + 60);
    let again = open(&disk, journal.log_id(), SMALL).expect("open");
    let (mark, _) = again.dirty().remove(0);
    assert_eq!(mark.object, object(3, "now"));
    assert_eq!(mark.origin(), Some(&origin));
    assert_eq!(
        (mark.seq, mark.aspect, mark.stamp),
        (first.seq, Aspect::Moved, first.stamp)
    );
    let counts = again.counts();
    assert_eq!(
        (counts.alive, counts.dirty, counts.dirty_objects),
        (1, 1, 1)
    );
    // Healed, it is cleared by the next checkpoint, and stays so.
    let held = Pins::of(&mark).expect("alive");
    assert!(mark.take_dirty());
    assert_eq!(checkpoint(&again), Ok(0), "being healed");
    drop(held);
    assert_eq!(checkpoint(&again), Ok(1));
    assert!(Pins::of(&mark).is_none());
    let last = open(&disk, again.log_id(), SMALL).expect("open");
    assert_eq!(last.counts().alive, 0);
}

#[test]
fn covers_end_with_their_mark_or_by_word() {
    let (_disk, journal) = journal();
    let pins = pin(&journal, 1, Aspect::Dir).expect("pin");
    let id = pins.marks()[0].id();
    assert_ne!(id, 0);
    drop(pins);
    let child = journal.pin_cover(id).expect("alive");
    assert_eq!(checkpoint(&journal), Ok(0), "pinned through its cover");
    drop(child);
    journal.retire_cover(id);
    assert!(journal.pin_cover(id).is_none());
    let next = pin(&journal, 1, Aspect::Dir).expect("hot").marks()[0].id();
    assert_ne!(next, id);
    assert!(journal.pin_cover(next).is_some());
    assert_eq!(checkpoint(&journal), Ok(1));
    assert!(journal.pin_cover(next).is_none());
    journal.retire_cover(next);
    assert!(journal.table.pin_cover(next + 1).is_none());
}

#[test]
fn a_dirty_whole_tree_covers_everything_until_it_is_healed() {
    let (disk, journal) = journal();
    let before = pin(&journal, 1, Aspect::Dir).expect("pin");
    let tree = journal.mark_tree(Object::default()).expect("mark");
    assert!(tree.is_dirty());
    let calls = disk.calls();
    let pins = pin(&journal, 2, REGION).expect("covered");
    assert_eq!(
        (disk.calls(), pins.marks()),
        (calls, &[Arc::clone(&tree)][..])
    );
    assert!(journal.pin_cover(tree.id()).is_some());
    let held = Pins::of(&tree).expect("alive");
    assert!(tree.take_dirty());
    let fresh = pin(&journal, 2, REGION).expect("cold");
    assert_eq!(fresh.marks()[0].aspect, REGION);
    assert!(journal.pin_cover(tree.id()).is_none(), "spent");
    drop((held, pins, before, fresh));
    assert_eq!(checkpoint(&journal), Ok(3));
    let below = journal.mark_tree(object(5, "dir/5")).expect("mark");
    assert_eq!(below.aspect, Aspect::Tree);
    let pins = pin(&journal, 3, Aspect::Dir).expect("cold");
    assert_eq!(pins.marks()[0].object.ino, 3);
}

#[test]
fn too_many_marks_become_one_and_nothing_is_forgotten() {
    let limits = Limits { hard: 200, ..SMALL };
    let disk = Memory::default();
    let journal = create(&disk, limits).expect("create");
    let held = pin(&journal, 9999, Aspect::DirData).expect("pin");
    for serial in 0..200 {
        drop(pin(&journal, serial, Aspect::Dir).expect("pin"));
    }
    let dirty = journal.dirty();
    let [(tree, paths)] = &dirty[..] else {
        panic!("{dirty:?}");
    };
    assert_eq!((tree.aspect, &*tree.object.path), (Aspect::Tree, &b""[..]));
    assert_eq!(paths, &[Box::default()]);
    assert!(journal.counts().alive <= 2, "{:?}", journal.counts());
    // What was pinned then is answered for by the tree: it cannot be cleared, and is soiled.
    let healer = Pins::of(tree).expect("alive");
    assert!(tree.take_dirty());
    drop(healer);
    assert_eq!(checkpoint(&journal), Ok(0));
    assert!(alive(&journal).contains(&tree.seq));
    held.soil();
    assert!(tree.is_dirty());
    let again = open(&disk, journal.log_id(), SMALL).expect("open");
    assert!(alive(&again).contains(&tree.seq));
    assert!(tree.take_dirty());
    drop(held);
    checkpoint(&journal).expect("clear");
    assert_eq!(journal.counts().alive, 0);
}

#[test]
fn a_crowd_asks_for_a_checkpoint_and_only_once() {
    let (_disk, journal) = journal();
    assert!(!journal.is_due());
    let mut held = Vec::new();
    for serial in 0..40 {
        assert!(!journal.is_due(), "{serial}");
        held.push(pin(&journal, serial, Aspect::Dir).expect("pin"));
    }
    assert!(journal.is_due());
    assert!(!journal.is_due(), "said already");
    assert_eq!(checkpoint(&journal), Ok(0));
    assert!(!journal.is_due(), "what is pinned asks for nothing");
    for serial in 40..60 {
        assert!(!journal.is_due(), "{serial}");
        drop(pin(&journal, serial, Aspect::Dir).expect("pin"));
    }
    assert!(journal.is_due(), "half a limit more");
    assert_eq!(checkpoint(&journal), Ok(20));
    drop(held);
    assert_eq!(checkpoint(&journal), Ok(40));
    assert!(!journal.is_due());
    for serial in 60..100 {
        drop(pin(&journal, serial, Aspect::Dir).expect("pin"));
    }
    assert!(journal.is_due(), "as at first");
}

#[test]
fn a_log_that_was_not_flushed_is_believed_in_its_own_boot_or_when_closed() {
    let disk = Memory::default();
    let crash = owner(Intent::Crash);
    let journal = Journal::create_on(Box::new(disk.clone()), &crash, SMALL).expect("create");
    drop(pin(&journal, 1, Aspect::Dir).expect("pin"));
    assert_eq!(
        (journal.counts().appended, journal.counts().flushes),
        (1, 0)
    );
    let read = |intent, boot| {
        let mut disk = Memory::with(disk.seen());
        let owner = Owner {
            boot,
            ..owner(intent)
        };
        log::read(&mut disk, &owner, journal.log_id()).map(|(_, found)| found.marks.len())
    };
    assert_eq!(read(Intent::Crash, 77), Ok(1));
    for boot in [78, 0] {
        for intent in [Intent::Crash, Intent::Power] {
            assert!(matches!(read(intent, boot), Err(Unreadable::Damaged(_))));
        }
    }
    journal.close().expect("close");
    assert_eq!(read(Intent::Crash, 78), Ok(1));
    let late = pin(&journal, 2, Aspect::Dir).map(|_| ());
    assert_eq!(late, Err(Errno::SHUTDOWN));
}

#[test]
fn a_path_that_no_frame_holds_is_refused_and_nothing_is_broken() {
    let (_disk, journal) = journal();
    let long = "x".repeat(2 << 20);
    let describe = || (object(1, &long), None);
    let want = Want {
        key: Key {
            serial: 1,
            aspect: Aspect::Dir,
        },
        describe: &describe,
    };
    let refused = journal.pin(&[want], None).map(|_| ());
    assert_eq!(refused, Err(Errno::NAMETOOLONG));
    drop(pin(&journal, 1, Aspect::Dir).expect("another path"));
    assert_eq!(journal.counts().alive, 1);
}

#[test]
fn all_that_wait_share_one_frame_and_nobody_returns_before_it() {
    let (_disk, journal) = journal();
    let is_busy = AtomicBool::new(true);
    let returned = AtomicUsize::new(0);
    let wait = |done: &dyn Fn() -> bool| {
        while !done() && returned.load(Ordering::Acquire) == 0 {
            std::thread::yield_now();
        }
    };
    let pinned = |serial: u64| {
        let all = journal.table.all();
        let mut marks = all.iter().filter(|mark| mark.object.ino == serial);
        marks.next().map_or(0, |mark| mark.pins())
    };
    std::thread::scope(|scope| {
        let busy = journal.commit.hold_log();
        let (journal, is_busy, returned) = (&journal, &is_busy, &returned);
        let ask = move |serial| {
            let pins = pin(journal, serial, Aspect::Dir).expect("pin");
            let early = is_busy.load(Ordering::Acquire);
            returned.fetch_add(1, Ordering::AcqRel);
            assert!(!early && !pins.marks()[0].is_pending(), "{serial}");
        };
        scope.spawn(move || ask(0));
        wait(&|| journal.commit.is_led_with(0));
        scope.spawn(move || ask(0));
        for serial in 1..20 {
            // Half of them want the same.
            scope.spawn(move || ask(serial.min(10)));
        }
        wait(&|| pinned(0) == 2 && pinned(10) == 10);
        wait(&|| journal.commit.is_led_with(10));
        is_busy.store(false, Ordering::Release);
        drop(busy);
    });
    let counts = journal.counts();
    assert_eq!((counts.appended, counts.flushes, counts.alive), (2, 2, 11));
}

#[test]
fn directories_that_changed_places_are_told_apart_after_a_rewrite() {
    let (disk, journal) = journal();
    drop(pin(&journal, 7, Aspect::Dir).expect("pin"));
    for (from, to) in [("dir", "tmp"), ("other", "dir"), ("tmp", "other")] {
        drop(renamed(&journal, from, to).expect("rename"));
    }
    for serial in 100..400 {
        drop(pin(&journal, serial, Aspect::Dir).expect("pin"));
    }
    let counts = journal.counts();
    assert!(counts.rewrites > 1 && counts.dirty == 0);
    journal.soil_all();
    assert_eq!(journal.counts().dirty, counts.alive);
    assert_eq!(dirty_paths(&journal)[..2], ["other/7", "dir/100"]);
    let again = open(&disk, journal.log_id(), SMALL).expect("open");
    assert_eq!(dirty_paths(&again)[..2], ["other/7", "dir/100"]);
}

#[test]
fn a_checkpoint_is_ended_by_the_next() {
    let (_disk, journal) = journal();
    drop(pin(&journal, 1, Aspect::Dir).expect("pin"));
    let first = journal.begin_checkpoint();
    drop(pin(&journal, 1, Aspect::Dir).expect("used since"));
    let second = journal.begin_checkpoint();
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_eq!(journal.end_checkpoint(first), Ok(0));
    assert_eq!(journal.end_checkpoint(second), Ok(1));
}

#[test]
fn a_mark_described_while_a_rename_was_on_its_way_is_looked_for_behind_it() {
    let (_disk, journal) = journal();
    drop(renamed(&journal, "dir", "other").expect("rename"));
    // Recorded, not made yet: the mark's path is the old one.
    pin(&journal, 7, Aspect::Dir).expect("pin").soil();
    for serial in 100..400 {
        drop(pin(&journal, serial, Aspect::Dir).expect("pin"));
    }
    assert!(journal.counts().rewrites > 1);
    let (_, paths) = journal.dirty().remove(0);
    let paths: Vec<_> = paths.iter().map(|path| &**path).collect();
    assert_eq!(paths, [&b"dir/7"[..], b"other/7"]);
}

#[test]
fn no_thread_returns_before_its_mark_is_durable() {
    let (disk, journal) = journal();
    let threads = 8;
    let each = 60;
    let barrier = Barrier::new(threads);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clearing = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                checkpoint(&journal).expect("clear");
            }
        });
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (journal, disk, barrier) = (&journal, &disk, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    let mut random = Random::new(thread as u64);
                    for _ in 0..each {
                        let serial = random.below(20);
                        let pins = pin(journal, serial, Aspect::Dir).expect("pin");
                        // Whatever a power cut leaves now, the mark is in it.
                        let left = Memory::with(disk.cut(&mut random));
                        let mut left: Box<dyn Disk> = Box::new(left);
                        let owner = owner(Intent::Power);
                        let found = log::read(&mut *left, &owner, journal.log_id());
                        let (_, found) = found.expect("a log to be believed");
                        let seq = pins.marks()[0].seq;
                        assert!(found.marks.contains_key(&seq), "{seq}");
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().expect("no panic");
        }
        stop.store(true, Ordering::Relaxed);
        clearing.join().expect("no panic");
    });
    checkpoint(&journal).expect("clear");
    assert_eq!(journal.counts().alive, 0);
    assert!(journal.drafts.lock().is_empty());
}

#[test]
fn on_a_real_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let fd = || {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(dir.path(), flags, Mode::empty()).expect("open")
    };
    let nothing = LogId {
        id: 1,
        generation: 1,
    };
    let missing = Journal::open(fd(), 1, MIRROR, nothing, Intent::Power).map(|_| ());
    assert_eq!(missing, Err(Unreadable::Missing));
    let journal = Journal::create(fd(), 1, MIRROR, Intent::Power).expect("create");
    let pins = pin(&journal, 1, REGION).expect("pin");
    assert_eq!(
        (journal.counts().appended, journal.counts().flushes),
        (1, 1)
    );
    assert_eq!(journal.counts().log_bytes, 4 << 20);
    let known = journal.log_id();
    pins.soil();
    assert_eq!(journal.counts().dirty_bytes, 4 << 20);
    // The daemon dies.
    let again = Journal::open(fd(), 1, MIRROR, known, Intent::Power).expect("open");
    assert_eq!(dirty_paths(&again), ["dir/1"]);
    assert_eq!(again.log_id().generation, known.generation + 1);
    // An open that died before its stamp was written is known by the number before.
    let third = Journal::open(fd(), 1, MIRROR, known, Intent::Power).expect("open");
    assert_eq!(dirty_paths(&third), ["dir/1"]);
    let other = Journal::open(fd(), 1, MIRROR + 1, third.log_id(), Intent::Power).map(|_| ());
    assert_eq!(other, Err(Unreadable::Other));
    let names: Vec<_> = dir.path().read_dir().expect("list").collect();
    assert_eq!(names.len(), 1, "{names:?}");
}
