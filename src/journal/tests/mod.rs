// SPDX-License-Identifier: MIT
//! The log on a disk in memory: its verbs, every kind of damage, trouble at every call, and a model
//! of what must be on record.

mod damage;
mod disk;
mod faults;
mod model;
mod verbs;

use super::log::Owner;
use super::*;
use disk::{Memory, Random, Trouble};

const MIRROR: u128 = 0x1234_5678_9abc_def0;

/// Small enough that a log is rewritten often.
const SMALL: Limits = Limits {
    size: 16 << 10,
    crowd: 40,
    hard: 100_000,
};

fn owner(intent: Intent) -> Owner {
    Owner {
        mirror: MIRROR,
        replica: 1,
        intent,
        boot: 77,
    }
}

fn create(disk: &Memory, limits: Limits) -> Result<Journal> {
    Journal::create_on(Box::new(disk.clone()), &owner(Intent::Power), limits)
}

fn open(disk: &Memory, known: LogId, limits: Limits) -> std::result::Result<Journal, Unreadable> {
    let owner = owner(Intent::Power);
    Journal::open_on(Box::new(disk.clone()), &owner, known, limits)
}

fn object(ino: u64, path: &str) -> Object {
    Object {
        ino,
        handle: ino.to_le_bytes().into(),
        path: path.as_bytes().into(),
    }
}

/// Pins one aspect of one node, whose path is made of its number.
fn pin(journal: &Journal, serial: u64, aspect: Aspect) -> Result<Pins> {
    let describe = || (object(serial, &format!("dir/{serial}")), None);
    let want = Want {
        key: Key { serial, aspect },
        describe: &describe,
    };
    journal.pin(&[want], None)
}

fn renamed(journal: &Journal, from: &str, to: &str) -> Result<Pins> {
    journal.pin(&[], Some((from.as_bytes(), to.as_bytes())))
}

/// The numbers of the marks alive.
fn alive(journal: &Journal) -> BTreeSet<u64> {
    journal.table.all().iter().map(|mark| mark.seq).collect()
}

fn checkpoint(journal: &Journal) -> Result<usize> {
    let checkpoint = journal.begin_checkpoint();
    journal.end_checkpoint(checkpoint)
}

/// The first paths of what is dirty.
fn dirty_paths(journal: &Journal) -> Vec<String> {
    let first = |(_, paths): Dirty| String::from_utf8(paths[0].to_vec()).expect("text");
    journal.dirty().into_iter().map(first).collect()
}
