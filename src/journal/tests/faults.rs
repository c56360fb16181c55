// SPDX-License-Identifier: MIT
//! Trouble at every call of a scripted run: what was promised before it is on record after it.

use super::*;

/// The most that may be on record, and the least that must be.
#[derive(Debug, Default)]
struct Promised {
    must: BTreeSet<u64>,
    may: BTreeSet<u64>,
}

impl Promised {
    fn pinned(&mut self, pins: &Pins) {
        self.must.extend(pins.marks().iter().map(|mark| mark.seq));
    }
}

/// Few marks are enough to collapse.
const TIGHT: Limits = Limits {
    size: 16 << 10,
    crowd: 8,
    hard: 24,
};

/// Pins, renames, clears, rewrites, collapses. Ends at the first error.
fn script(journal: &Journal, promised: &mut Promised) -> Result<()> {
    let data = |start| Aspect::Data {
        start,
        end: start + (4 << 20),
    };
    let held = pin(journal, 1000, Aspect::Tree)?;
    promised.pinned(&held);
    for round in 0..6u64 {
        for serial in 0..8 {
            promised.pinned(&pin(journal, round * 8 + serial + 1, Aspect::Dir)?);
            promised.pinned(&pin(journal, 500, data(serial << 22))?);
            let (from, to) = (format!("dir/{serial}"), format!("dir{round}/{serial}"));
            drop(renamed(journal, &from, &to)?);
            assert!(promised.must.is_subset(&alive(journal)) || journal.table.alive() < 24);
        }
        if round % 2 == 0 {
            let checkpoint = journal.begin_checkpoint();
            let cleared: Vec<_> = checkpoint.marks.iter().map(|mark| mark.seq).collect();
            // From here to the end of it either will do.
            promised.may.extend(&cleared);
            for seq in cleared {
                promised.must.remove(&seq);
            }
            journal.end_checkpoint(checkpoint)?;
        }
    }
    drop(held);
    Ok(())
}

/// Whatever must be on record is, or the whole tree is.
fn judge(bytes: Option<Vec<u8>>, known: Option<LogId>, promised: &Promised, what: &str) {
    let disk = Memory::with(bytes);
    let Some(known) = known else {
        return;
    };
    let journal = match open(&disk, known, SMALL) {
        Ok(journal) => journal,
        Err(why) => panic!("{what}: {why}"),
    };
    let marks = journal.table.all();
    assert!(marks.iter().all(|mark| mark.is_dirty()), "{what}");
    let whole = marks
        .iter()
        .any(|mark| mark.aspect == Aspect::Tree && mark.object.path.is_empty());
    let found = alive(&journal);
    assert!(
        whole || promised.must.is_subset(&found),
        "{what}: {:?} are lost",
        promised.must.difference(&found)
    );
}

/// Runs the script with trouble at call `at`; false once there were fewer calls.
fn run(at: u64, trouble: Trouble, seed: u64) -> bool {
    let disk = Memory::default();
    disk.trouble(at, trouble);
    let mut promised = Promised::default();
    let mut known = None;
    let made = create(&disk, TIGHT).and_then(|journal| {
        known = Some(journal.log_id());
        let done = script(&journal, &mut promised);
        if let Err(errno) = done {
            // Once broken it stays so, hot or cold.
            for serial in [1, 1000, 77_777] {
                let again = pin(&journal, serial, Aspect::Tree).map(|_| ());
                assert_eq!(again, Err(errno));
            }
            assert_eq!(checkpoint(&journal), Err(errno));
            assert!(journal.pin_cover(1).is_none());
        }
        done
    });
    let what = format!("{trouble:?} at call {at}, seed {seed}");
    assert_eq!(made.is_err(), disk.calls() > at, "{what}");
    if trouble == Trouble::Cut {
        for more in 0..12 {
            let left = disk.cut(&mut Random::new(seed * 1000 + more));
            judge(left, known, &promised, &format!("{what}, {more}"));
        }
    }
    judge(disk.seen(), known, &promised, &what);
    made.is_err()
}

#[test]
fn trouble_at_every_call_loses_nothing_promised() {
    for trouble in [
        Trouble::Cut,
        Trouble::Refuse(Errno::IO),
        Trouble::Refuse(Errno::NOSPC),
    ] {
        let mut at = 0;
        while run(at, trouble, at) {
            at += 1;
        }
        assert!(at > 150, "the script makes {at} calls");
    }
}

#[test]
fn trouble_while_opening_leaves_the_old_log_or_the_new() {
    let disk = Memory::default();
    let journal = create(&disk, SMALL).expect("create");
    for serial in 1..30 {
        drop(pin(&journal, serial, Aspect::DirData).expect("pin"));
    }
    let (known, marks) = (journal.log_id(), alive(&journal));
    let bytes = disk.seen();
    let mut at = 0;
    loop {
        let disk = Memory::with(bytes.clone());
        disk.trouble(at, Trouble::Cut);
        if open(&disk, known, SMALL).is_ok() {
            break;
        }
        assert!(disk.is_dead());
        for seed in 0..40 {
            let left = Memory::with(disk.cut(&mut Random::new(seed)));
            let again = open(&left, known, SMALL).expect("either log");
            assert_eq!(alive(&again), marks, "call {at}, seed {seed}");
        }
        at += 1;
    }
    assert!(at >= 5, "{at}");
}
