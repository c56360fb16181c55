// SPDX-License-Identifier: MIT
//! readdir: complete, seekable, large, and right while the directory changes.

use std::collections::BTreeSet;

use rustix::fs::{Dir, FileType};

use crate::support::ground::{Ground, parity};

fn names(dir: &mut Dir) -> Vec<String> {
    let entries = dir.by_ref().map(|e| e.expect("an entry"));
    entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

fn open(g: &Ground, path: &str) -> Dir {
    Dir::new(g.fd(path, "r dir")).expect("a directory")
}

/// Dots, types and names.
#[test]
fn entries_and_types() {
    parity(|g| {
        g.mkdir("d", 0o755);
        g.mkdir("d/dir", 0o755);
        g.file("d/file", 0o644, "");
        g.symlink("x", "d/link");
        g.mknod("d/fifo", 0o010_644, 0);
        g.mknod("d/sock", 0o140_644, 0);
        let mut found: Vec<_> = open(g, "d")
            .map(|e| {
                let e = e.expect("an entry");
                // The root's own inode number differs, so the number is only checked against stat.
                let stat = rustix::fs::lstat(g.at("d").join(e.file_name().to_str().expect("text")));
                let same = stat.is_ok_and(|s| s.st_ino == e.ino());
                (
                    e.file_name().to_owned(),
                    e.file_type(),
                    same || e.file_name() == c"..",
                )
            })
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        g.note(format_args!("{found:?}"));
        let root: Vec<_> = open(g, ".")
            .map(|e| e.expect("an entry").file_type() == FileType::Directory)
            .collect();
        g.note(format_args!("{root:?}"));
        g.mkdir("empty", 0o755);
        g.note(format_args!("{:?}", {
            let mut n = names(&mut open(g, "empty"));
            n.sort();
            n
        }));
    });
}

/// Any position remembered can be gone back to; rewinding sees what is new.
#[test]
fn seeking() {
    parity(|g| {
        g.mkdir("d", 0o755);
        for n in 0..500 {
            g.file(&format!("d/f{n:03}"), 0o644, "");
        }
        let mut dir = open(g, "d");
        let mut all = Vec::new();
        let mut after = Vec::new();
        while let Some(entry) = dir.read() {
            let entry = entry.expect("an entry");
            all.push(entry.file_name().to_owned());
            after.push(entry.offset());
        }
        g.note(format_args!("{} entries", all.len()));
        let mut right = 0;
        for at in (0..all.len() - 1).step_by(37) {
            dir.seek(after[at]).expect("seekdir");
            let next = dir.read().expect("one more").expect("an entry");
            right += usize::from(next.file_name() == all[at + 1].as_c_str());
        }
        g.note(format_args!("{right} seeks went right"));
        g.file("d/new", 0o644, "");
        dir.rewind();
        let again: BTreeSet<_> = names(&mut dir).into_iter().collect();
        g.note(format_args!(
            "{} entries, new seen {}",
            again.len(),
            again.contains("new")
        ));
    });
}

/// What stays is seen exactly once, whatever is created, removed and renamed meanwhile.
#[test]
fn while_it_changes() {
    parity(|g| {
        g.mkdir("d", 0o755);
        for n in 0..3000 {
            std::fs::write(g.at(format!("d/stay{n:04}")), "").expect("write");
            std::fs::write(g.at(format!("d/go{n:04}")), "").expect("write");
        }
        let mut dir = open(g, "d");
        let mut seen = Vec::new();
        let mut step = 0;
        while let Some(entry) = dir.read() {
            let entry = entry.expect("an entry");
            seen.push(entry.file_name().to_string_lossy().into_owned());
            if step < 3000 {
                std::fs::remove_file(g.at(format!("d/go{step:04}"))).expect("unlink");
                std::fs::write(g.at(format!("d/come{step:04}")), "").expect("write");
            }
            step += 1;
        }
        let stayed: Vec<_> = seen.iter().filter(|n| n.starts_with("stay")).collect();
        let unique: BTreeSet<_> = stayed.iter().collect();
        g.note(format_args!(
            "{} of 3000 stayed, {} unique",
            stayed.len(),
            unique.len()
        ));
        let all: BTreeSet<_> = seen.iter().collect();
        g.note(format_args!("none twice: {}", all.len() == seen.len()));
        let now: BTreeSet<_> = names(&mut open(g, "d")).into_iter().collect();
        g.note(format_args!("{} entries afterwards", now.len()));
    });
}

/// A hundred thousand entries, listed by two readers while a third removes every tenth.
#[test]
fn a_hundred_thousand() {
    parity(|g| {
        g.mkdir("d", 0o755);
        let dir = g.fd("d", "r dir");
        for n in 0..100_000 {
            let name = format!("file-{n:06}");
            rustix::fs::mknodat(&dir, &name, FileType::RegularFile, 0o644.into(), 0)
                .expect("mknod");
        }
        g.note(format_args!("{} names", names(&mut open(g, "d")).len()));
        let whole = std::thread::scope(|scope| {
            let read = || {
                let found: BTreeSet<_> = names(&mut open(g, "d")).into_iter().collect();
                (0..100_000)
                    .filter(|n| n % 10 != 0)
                    .all(|n| found.contains(&format!("file-{n:06}")))
            };
            let readers = [scope.spawn(read), scope.spawn(read)];
            for n in (0..100_000).step_by(10) {
                let name = format!("file-{n:06}");
                rustix::fs::unlinkat(&dir, &name, rustix::fs::AtFlags::empty()).expect("unlink");
            }
            readers.map(|r| r.join().expect("join"))
        });
        g.note(format_args!("nothing that stayed was missed: {whole:?}"));
        g.note(format_args!("{} names", names(&mut open(g, "d")).len()));
    });
}

/// A removed tree is gone the moment rm says so.
#[test]
fn rm_rf() {
    parity(|g| {
        for d in 0..20 {
            for n in 0..50 {
                let dir = g.at(format!("t/d{d}/e{}", n % 5));
                std::fs::create_dir_all(&dir).expect("mkdir");
                std::fs::write(dir.join(format!("f{n}")), "x").expect("write");
            }
        }
        g.note(format_args!(
            "{:?}",
            std::fs::remove_dir_all(g.at("t")).is_ok()
        ));
        g.list(".");
        g.stat(".");
    });
}
