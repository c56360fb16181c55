// SPDX-License-Identifier: MIT
//! The oracle is tested too: on a plain directory, without the product, a load is accepted; and each
//! thing that a mirror could do wrong is found.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::client::{Load, Orders};
use super::judge::{Judge, Record, play, read_notes, subtree};
use super::model::Model;
use super::op::{How, Op};
use super::power;
use crate::support::{base, temp_in};

const THREADS: usize = 2;

/// A load of `ops` ops per thread in a native directory; the directory and the notes.
fn played(seed: u64, ops: u64) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = temp_in(&base());
    let (copy, notes) = (dir.path().join("copy"), dir.path().join("notes"));
    for thread in 0..THREADS {
        std::fs::create_dir_all(subtree(&copy, thread)).expect("mkdir");
    }
    let load = Load::start(Orders {
        root: copy.clone(),
        notes: notes.clone(),
        seed,
        threads: THREADS,
        ops,
        syncs: 2,
        pause_us: 0,
    });
    load.ended();
    (dir, copy, notes)
}

fn judge(copy: &Path, notes: &Path) -> Result<(), Vec<String>> {
    (0..THREADS).try_for_each(|thread| {
        let history = read_notes(notes, thread, None);
        let actual = Model::scan(&subtree(copy, thread)).expect("scan");
        let outcome = play(Model::new(), &history);
        assert!(outcome.errors.is_empty(), "{:?}", outcome.errors);
        outcome.allows(&actual)
    })
}

/// A native directory does everything right.
#[test]
fn a_native_directory_is_accepted() {
    let (_dir, copy, notes) = played(1, 2500);
    judge(&copy, &notes).expect("native is right");
    let mut judge = Judge::new(THREADS);
    let tally = judge.look(&notes, &copy, None, &[]);
    assert_eq!(tally.ops, 2500 * THREADS);
    judge.still(&copy);
    // Every kind of op was among them.
    let all: Vec<_> = (0..THREADS)
        .flat_map(|t| read_notes(&notes, t, None))
        .collect();
    let kinds: std::collections::BTreeSet<_> = all
        .iter()
        .map(|r| {
            format!("{:?}", r.op)
                .split([' ', '('])
                .next()
                .map(str::to_owned)
        })
        .collect();
    assert!(kinds.len() >= 19, "{kinds:?}");
    let mapped = |r: &&Record| {
        matches!(
            r.op,
            Op::Write {
                how: How::Mapped,
                ..
            }
        )
    };
    assert!(all.iter().filter(mapped).count() > 10);
}

/// Each of these is found: an op left out, whichever it is; a byte, a mode, a name spoiled.
#[test]
fn what_is_wrong_is_found() {
    let (_dir, copy, notes) = played(2, 1200);
    let top = subtree(&copy, 0);
    let file = Model::scan(&top).expect("scan").paths();
    let is_large = |p: &Path| p.metadata().is_ok_and(|m| m.is_file() && m.len() > 5000);
    let victim = file.iter().map(|(p, _)| top.join(p)).find(|p| is_large(p));
    let victim = victim.expect("a file");
    let open = File::options()
        .read(true)
        .write(true)
        .open(&victim)
        .expect("open");
    let mut was = [0];
    open.read_at(&mut was, 4321).expect("read");
    open.write_at(&[was[0] ^ 1], 4321).expect("write");
    judge(&copy, &notes).expect_err("a flipped bit");
    open.write_at(&was, 4321).expect("write");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&victim.metadata().expect("stat").permissions());
    rustix::fs::chmod(&victim, (mode ^ 0o10).into()).expect("chmod");
    judge(&copy, &notes).expect_err("a mode");
    rustix::fs::chmod(&victim, (mode & 0o7777).into()).expect("chmod");
    std::fs::write(top.join("extra"), "").expect("write");
    judge(&copy, &notes).expect_err("an unheard of name");
    std::fs::rename(top.join("extra"), &victim).expect("rename");
    judge(&copy, &notes).expect_err("an old file replaced");
    std::fs::remove_file(&victim).expect("unlink");
    judge(&copy, &notes).expect_err("a lost name");

    // Leaving out the last acknowledged op that changed something.
    let history = read_notes(&notes, 1, None);
    let actual = Model::scan(&subtree(&copy, 1)).expect("scan");
    let shows = |keep: usize| {
        let fewer: Vec<_> = history[..keep].to_vec();
        play(Model::new(), &fewer).allows(&actual).is_err()
    };
    assert!(!shows(history.len()));
    let last_change = (0..history.len()).rev().find(|&n| shows(n));
    assert!(
        last_change.is_some_and(|n| n + 20 > history.len()),
        "{last_change:?}"
    );
}

use std::fs::File;

fn op_of(at: u64, len: usize, seed: u64, how: How) -> Op {
    let path = "f".to_owned();
    Op::Write {
        path,
        at,
        len,
        seed,
        how,
    }
}

fn done(op: Op) -> Record {
    let answer = Some((0, 0));
    Record { op, answer }
}

/// An op that was under way may be done, not done, or done in part; anything else may not be.
#[test]
fn what_was_under_way_may_be_half_done() {
    let before = vec![
        done(Op::Create("f".to_owned(), 0o644)),
        done(op_of(0, 10_000, 7, How::Plain)),
    ];
    let write = op_of(4000, 10_000, 8, How::Plain);
    let mut history = before.clone();
    history.push(Record {
        op: write.clone(),
        answer: None,
    });
    let outcome = play(Model::new(), &history);
    let old = play(Model::new(), &before).model;
    outcome.allows(&old).expect("not done");
    let mut new = old.clone();
    new.apply(&write).expect("apply");
    outcome.allows(&new).expect("done");
    let mut half = old.clone();
    half.apply(&op_of(4000, 3000, 8, How::Plain))
        .expect("apply");
    outcome.allows(&half).expect("done in part");
    half.apply(&op_of(0, 1, 9, How::Plain)).expect("apply");
    outcome.allows(&half).expect_err("a byte outside");
    let mut longer = new.clone();
    longer
        .apply(&Op::Truncate("f".to_owned(), 14_001))
        .expect("apply");
    outcome.allows(&longer).expect_err("longer than any");
    let mut other = old;
    other
        .apply(&Op::Chmod("f".to_owned(), 0o600))
        .expect("apply");
    outcome.allows(&other).expect_err("another change");
    // Acknowledged, it has to be there.
    history[2].answer = Some((0, 1));
    let outcome = play(Model::new(), &history);
    outcome
        .allows(&half)
        .expect_err("an acknowledged write in part");
}

/// What was synced has to survive the cut, as it was or newer.
#[test]
fn what_was_synced_has_to_be_there() {
    let name = || "f".to_owned();
    let history = vec![
        done(Op::Create(name(), 0o644)),
        done(op_of(0, 5000, 7, How::Plain)),
        done(Op::Fsync(name())),
        done(op_of(1000, 500, 8, How::Plain)),
        done(Op::Rename(name(), "g".to_owned())),
    ];
    let after = |n: usize| play(Model::new(), &history[..n].to_vec()).model;
    let check = |sure, copy: &Model| power::check(&Model::new(), &history, sure, copy);
    for n in 3..=5 {
        assert_eq!(check(3, &after(n)), Ok(1), "{n} ops");
    }
    check(3, &after(1)).expect_err("its content is lost");
    check(3, &after(0)).expect_err("its name is lost");
    assert_eq!(check(2, &after(0)), Ok(0), "nothing was promised");
    let mut torn = after(3);
    torn.apply(&op_of(1200, 10, 9, How::Plain)).expect("apply");
    check(3, &torn).expect_err("bytes that never were");
    let mut later = history.clone();
    later.push(done(Op::Unlink("g".to_owned())));
    let gone = power::check(&Model::new(), &later, 3, &after(0));
    assert_eq!(gone, Ok(0), "it was unlinked since");
}

/// fsync of a file makes its own rename durable, not that of the directory above it.
#[test]
fn which_names_an_fsync_makes_durable() {
    let text = str::to_owned;
    let begin = [
        done(Op::Mkdir(text("d"), 0o755)),
        done(Op::Create(text("d/f"), 0o644)),
        done(Op::Fsync(text("d/f"))),
    ];
    let old = play(Model::new(), &begin.to_vec()).model;
    let check = |more: [Op; 2]| {
        let history = begin.iter().cloned().chain(more.map(done)).collect();
        power::check(&Model::new(), &history, 5, &old)
    };
    let above = [Op::Rename(text("d"), text("e")), Op::Fsync(text("e/f"))];
    assert_eq!(check(above), Ok(1));
    let itself = [Op::Rename(text("d/f"), text("d/g")), Op::Fsync(text("d/g"))];
    check(itself).expect_err("the old name alone");
}
