// SPDX-License-Identifier: MIT
//! The judge: reads what the load noted and holds a copy against it.

use std::path::Path;

use rustix::io::Errno;

use super::client::is_the_end;
use super::model::Model;
use super::op::Op;

/// One op and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) op: Op,
    /// errno (0: done) and milliseconds; `None`: never answered.
    pub(crate) answer: Option<(i32, u64)>,
}

/// What one thread did, in order. Only the last one can be without an answer.
pub(crate) type History = Vec<Record>;

/// Reads the first `len` bytes of a thread's notes.
pub(crate) fn read_notes(notes: &Path, thread: usize, len: Option<u64>) -> History {
    let text = std::fs::read_to_string(notes.join(thread.to_string())).unwrap_or_default();
    let len = len.map_or(text.len(), |len| usize::try_from(len).expect("small"));
    // Half a line at the end was being written.
    let whole = text[..len].rfind('\n').map_or(0, |end| end + 1);
    let mut history: History = Vec::new();
    for line in text[..whole].lines() {
        let mut words = line.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("i"), Some(_), Some(json)) => history.push(Record {
                op: serde_json::from_str(json).expect("an op"),
                answer: None,
            }),
            (Some("a"), Some(number), Some(rest)) => {
                let (errno, ms) = rest.split_once(' ').expect("two numbers");
                let answer = (errno.parse().expect("errno"), ms.parse().expect("ms"));
                let last = history.len() - 1;
                assert_eq!(number.parse(), Ok(last), "notes in order");
                history[last].answer = Some(answer);
            }
            (Some("end"), ..) => {}
            _ => panic!("thread {thread} noted {line:?}"),
        }
    }
    history
}

/// A model after a history, and what may have come on top of it.
pub(crate) struct Outcome {
    pub(crate) model: Model,
    pub(crate) under_way: Option<Op>,
    /// Errors that the model did not foretell.
    pub(crate) errors: Vec<(Op, Errno)>,
    pub(crate) ops: usize,
    pub(crate) slowest_ms: u64,
}

/// Applies a history to `model`.
pub(crate) fn play(mut model: Model, history: &History) -> Outcome {
    let mut outcome = Outcome {
        model: Model::new(),
        under_way: None,
        errors: Vec::new(),
        ops: 0,
        slowest_ms: 0,
    };
    for Record { op, answer } in history {
        match answer {
            None => outcome.under_way = Some(op.clone()),
            Some((0, ms)) => {
                outcome.ops += 1;
                outcome.slowest_ms = outcome.slowest_ms.max(*ms);
                let done = model.apply(op);
                assert_eq!(done, Ok(()), "the load did what is impossible: {op:?}");
            }
            Some((errno, ms)) => {
                outcome.slowest_ms = outcome.slowest_ms.max(*ms);
                let (end, errno) = (is_the_end(*errno), Errno::from_raw_os_error(*errno));
                if end {
                    outcome.under_way = Some(op.clone());
                } else {
                    if !matches!(errno, Errno::NOSPC | Errno::DQUOT) {
                        // The thread has ended with it.
                        outcome.under_way = Some(op.clone());
                    }
                    model.failed(op);
                    outcome.errors.push((op.clone(), errno));
                }
            }
        }
    }
    outcome.model = model;
    outcome
}

impl Outcome {
    /// Whether a tree is what this outcome allows: with the op that was under way, without it, or
    /// with some of its bytes. Otherwise what is wrong.
    pub(crate) fn allows(&self, actual: &Model) -> Result<(), Vec<String>> {
        let without = self.model.differences(actual, None);
        if without.is_empty() {
            return Ok(());
        }
        let Some(op) = &self.under_way else {
            return Err(without);
        };
        let mut after = self.model.clone();
        if after.apply(op).is_err() {
            return Err(without);
        }
        let with = after.differences(actual, None);
        if with.is_empty() {
            return Ok(());
        }
        if op.is_of_bytes() && self.model.differences(actual, Some(&after)).is_empty() {
            return Ok(());
        }
        let mut wrong = if with.len() < without.len() {
            with
        } else {
            without
        };
        wrong.push(format!("(under way: {op:?})"));
        Err(wrong)
    }
}

/// What the load did in one round, for the report.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) ops: usize,
    pub(crate) under_way: usize,
    pub(crate) slowest_ms: u64,
}

/// Knows what each subtree held when it was last looked at.
#[derive(Debug)]
pub(crate) struct Judge {
    base: Vec<Model>,
}

/// The subtree of a thread.
pub(crate) fn subtree(copy: &Path, thread: usize) -> std::path::PathBuf {
    copy.join(format!("w{thread}"))
}

fn scan(copy: &Path, thread: usize) -> Model {
    Model::scan(&subtree(copy, thread))
        .unwrap_or_else(|e| panic!("{}: thread {thread}: {e}", copy.display()))
}

impl Judge {
    /// The subtrees are empty.
    pub(crate) fn new(threads: usize) -> Self {
        Self {
            base: vec![Model::new(); threads],
        }
    }

    /// What the threads began with.
    pub(crate) fn base(&self) -> &[Model] {
        &self.base
    }

    /// How many threads there are.
    pub(crate) fn threads(&self) -> usize {
        self.base.len()
    }

    /// Plays the notes and looks at the copies: each has to be what the notes allow. From now on
    /// what the primary has is what there has to be.
    #[track_caller]
    pub(crate) fn look(
        &mut self,
        notes: &Path,
        primary: &Path,
        replica: Option<&Path>,
        foretold: &[Errno],
    ) -> Tally {
        let mut tally = Tally::default();
        for thread in 0..self.base.len() {
            let history = read_notes(notes, thread, None);
            let outcome = play(self.base[thread].clone(), &history);
            let odd = outcome.errors.iter().find(|(_, e)| !foretold.contains(e));
            assert!(odd.is_none(), "the application got an error: {odd:?}");
            for copy in [Some(primary), replica].into_iter().flatten() {
                let actual = scan(copy, thread);
                if let Err(wrong) = outcome.allows(&actual) {
                    let last: Vec<_> = history.iter().rev().take(12).collect();
                    panic!(
                        "{} is not what was acknowledged, thread {thread}, {} ops:\n  {}\nlast ops, \
                         the latest first: {last:#?}",
                        subtree(copy, thread).display(),
                        history.len(),
                        wrong[..wrong.len().min(20)].join("\n  "),
                    );
                }
                if copy == primary {
                    self.base[thread] = actual;
                }
            }
            tally.ops += outcome.ops;
            tally.under_way += usize::from(outcome.under_way.is_some());
            tally.slowest_ms = tally.slowest_ms.max(outcome.slowest_ms);
        }
        tally
    }

    /// The copy is what it was when last looked at: nothing else changed it.
    #[track_caller]
    pub(crate) fn still(&self, copy: &Path) {
        for thread in 0..self.base.len() {
            let actual = scan(copy, thread);
            let wrong = self.base[thread].differences(&actual, None);
            assert!(
                wrong.is_empty(),
                "{}: changed though nobody changed it:\n  {}",
                subtree(copy, thread).display(),
                wrong[..wrong.len().min(20)].join("\n  ")
            );
        }
    }

    /// From now on what this copy has is what there has to be: a power cut may have taken what was
    /// not synced.
    pub(crate) fn believe(&mut self, copy: &Path) {
        for thread in 0..self.base.len() {
            self.base[thread] = scan(copy, thread);
        }
    }
}
