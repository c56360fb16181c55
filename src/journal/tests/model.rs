// SPDX-License-Identifier: MIT
//! A model against thousands of random steps, with the daemon killed or the power cut anywhere.

use std::collections::HashMap;

use super::*;

/// What must be on record, and what may be as well.
struct Run {
    random: Random,
    disk: Memory,
    journal: Journal,
    /// The marks whose pin returned and that no checkpoint cleared.
    must: HashMap<u64, (Aspect, u64)>,
    /// Clears that were begun and did not return.
    may: HashMap<u64, (Aspect, u64)>,
    held: Vec<Pins>,
    begun: Option<Checkpoint>,
    steps: [u64; 12],
}

fn aspect(random: &mut Random) -> Aspect {
    match random.below(8) {
        0 => Aspect::Node,
        1 => Aspect::Dir,
        2 => Aspect::DirData,
        3 => Aspect::Moved,
        4 => Aspect::Tree,
        5 => Aspect::CONTENT,
        _ => {
            let (start, end) = region(random.below(12) << 22, Cut::Fine);
            Aspect::Data { start, end }
        }
    }
}

impl Run {
    fn new(seed: u64) -> Self {
        let disk = Memory::default();
        Self {
            journal: create(&disk, SMALL).expect("create"),
            random: Random::new(seed),
            disk,
            must: HashMap::new(),
            may: HashMap::new(),
            held: Vec::new(),
            begun: None,
            steps: [0; 12],
        }
    }

    fn pin(&mut self) -> Result<()> {
        // Marks of an earlier session are not found by serial: another object, another number.
        let base = self.journal.log_id().generation * 1000;
        let serial = base + self.random.below(30);
        let aspect = aspect(&mut self.random);
        let rename = self.random.one_in(5).then_some(("dir", "other"));
        let describe = || (object(serial, &format!("dir/{serial}")), None);
        let want = Want {
            key: Key { serial, aspect },
            describe: &describe,
        };
        let before = self.journal.counts().appended;
        let hot = self.journal.table.pin(&want.key);
        let was_hot = hot.is_some();
        let mut guard = Pins::default();
        if let Some(mark) = hot {
            guard.push(mark);
        }
        let renamed = rename.map(|(from, to)| (from.as_bytes(), to.as_bytes()));
        let pins = self.journal.pin(&[want], renamed)?;
        let after = self.journal.counts().appended;
        let expected = u64::from(!was_hot || rename.is_some());
        assert_eq!(after - before, expected, "hot pins cost nothing");
        let [mark] = pins.marks() else {
            panic!("one want, one pin");
        };
        assert!(mark.aspect.covers(&aspect) && mark.object.ino == serial);
        self.must.insert(mark.seq, (mark.aspect, mark.object.ino));
        if self.random.one_in(3) {
            self.held.push(pins);
        }
        Ok(())
    }

    fn end(&mut self, checkpoint: Checkpoint) -> Result<()> {
        let pinned: BTreeSet<_> = self
            .held
            .iter()
            .flat_map(Pins::marks)
            .map(|mark| mark.seq)
            .collect();
        let noted: Vec<_> = checkpoint.marks.clone();
        let dirty: BTreeSet<_> = noted
            .iter()
            .filter(|mark| mark.is_dirty())
            .map(|mark| mark.seq)
            .collect();
        let before = alive(&self.journal);
        let done = self.journal.end_checkpoint(checkpoint);
        let after = alive(&self.journal);
        let mut gone = 0;
        for mark in noted {
            if before.contains(&mark.seq) && !after.contains(&mark.seq) {
                gone += 1;
                assert!(!pinned.contains(&mark.seq) && !dirty.contains(&mark.seq));
                let known = self.must.remove(&mark.seq).expect("it was on record");
                self.may.insert(mark.seq, known);
            }
        }
        assert_eq!(done?, gone);
        // It returned: they are gone for good.
        self.may.clear();
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        let kind = self.random.below(12);
        self.steps[usize::try_from(kind).expect("small")] += 1;
        match kind {
            0..=4 => self.pin()?,
            5 if !self.held.is_empty() => {
                let at = self.random.index(self.held.len());
                drop(self.held.swap_remove(at));
            }
            6 if !self.held.is_empty() => {
                let at = self.random.index(self.held.len());
                self.held[at].soil();
            }
            7 => {
                for (mark, paths) in self.journal.dirty() {
                    assert!(!paths.is_empty());
                    let _held = Pins::of(&mark).expect("alive");
                    assert!(mark.take_dirty());
                }
            }
            8 if self.begun.is_none() => self.begun = Some(self.journal.begin_checkpoint()),
            9 => {
                if let Some(checkpoint) = self.begun.take() {
                    self.end(checkpoint)?;
                }
            }
            10 => {
                let all = self.journal.table.all();
                if !all.is_empty() {
                    let mark = &all[self.random.index(all.len())];
                    let id = mark.id();
                    assert!(self.journal.pin_cover(id).is_some());
                    self.journal.retire_cover(id);
                    assert!(self.journal.pin_cover(id).is_none());
                    assert!(self.journal.pin_cover(mark.id()).is_some());
                }
            }
            11 if self.random.one_in(8) => self.journal.soil_all(),
            _ => {}
        }
        Ok(())
    }

    /// The daemon is dead. What is on record must be what the model says.
    fn reopen(&mut self, left: Option<Vec<u8>>) {
        let known = self.journal.log_id();
        self.held.clear();
        self.begun = None;
        self.disk = Memory::with(left);
        self.journal = open(&self.disk, known, SMALL).expect("a log to be believed");
        assert_eq!(self.journal.log_id().generation, known.generation + 1);
        let found: HashMap<_, _> = self
            .journal
            .table
            .all()
            .iter()
            .map(|mark| (mark.seq, (mark.aspect, mark.object.ino)))
            .collect();
        for (seq, mark) in &self.must {
            assert_eq!(found.get(seq), Some(mark), "mark {seq} is lost");
        }
        for (seq, mark) in &found {
            let known = self.must.get(seq).or_else(|| self.may.get(seq));
            // A pin that did not return may have left its mark.
            let in_flight = known.is_none() && self.steps == [0; 12];
            assert!(in_flight || known == Some(mark), "mark {seq} from nowhere");
        }
        assert_eq!(self.journal.dirty().len(), found.len());
        self.must = found;
        self.may.clear();
    }
}

#[test]
fn the_log_is_what_the_model_says() {
    let mut steps = 0;
    let mut rewrites = 0;
    for seed in 0..150 {
        let mut run = Run::new(seed);
        for _life in 0..6 {
            let cut = run.random.one_in(2);
            if cut {
                let calls = run.random.below(120);
                run.disk.trouble(calls, Trouble::Cut);
            }
            let mut done = Ok(());
            for _ in 0..run.random.below(150) {
                steps += 1;
                done = run.step();
                if done.is_err() {
                    break;
                }
            }
            rewrites += run.journal.counts().rewrites;
            let left = match (cut, done) {
                (false, done) => {
                    done.expect("no trouble");
                    run.disk.seen()
                }
                (true, done) => {
                    if done.is_err() {
                        assert!(run.disk.is_dead());
                        // Whatever the last step was about may be there or not.
                        run.steps = [0; 12];
                    }
                    run.disk.cut(&mut run.random.clone())
                }
            };
            run.reopen(left);
            run.steps = [1; 12];
        }
    }
    assert!(steps > 30_000 && rewrites > 100, "{steps} {rewrites}");
}
