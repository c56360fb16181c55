// SPDX-License-Identifier: MIT
//! What a copy has to hold after a power cut: every file whose fsync was answered before the cut
//! began, under one of the names it had since, each byte as it was then or as some later op left it;
//! and every name in a directory whose fsync was answered, unless it was taken away since.
//!
//! An fsync makes durable what happened to the file itself, its own names among it, but no rename of a
//! directory above it: the names it had before that will do. (ext4 commits what the inode was part of.)

use std::collections::{BTreeMap, BTreeSet};

use super::judge::{History, Record};
use super::model::Model;
use super::op::{How, Op};

/// Files beyond this size are only looked for.
const CONTENT_MAX: usize = 1 << 20;

/// What was made durable.
struct Witness {
    /// The content then, and after each op since.
    versions: Option<Vec<Vec<u8>>>,
    paths: BTreeSet<String>,
    /// The op that made it durable.
    op: usize,
}

fn syncs(op: &Op) -> Option<&str> {
    match op {
        Op::Fsync(path)
        | Op::Write {
            path,
            how: How::Synchronous | How::Mapped,
            ..
        } => Some(path),
        _ => None,
    }
}

fn content(model: &Model, id: usize) -> Option<Vec<Vec<u8>>> {
    let data = model.content(id)?;
    (data.len() <= CONTENT_MAX).then(|| vec![data.clone()])
}

/// Holds a copy after a cut against what one thread had been promised. The first `sure` records were
/// answered before the cut began. Hands back how many files and names were looked for.
pub(crate) fn check(
    base: &Model,
    history: &History,
    sure: usize,
    copy: &Model,
) -> Result<usize, Vec<String>> {
    let mut model = base.clone();
    let mut witnesses: BTreeMap<usize, Witness> = BTreeMap::new();
    // The paths of each node since its own names changed last.
    let mut since: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    for (number, Record { op, answer }) in history.iter().enumerate() {
        let done = matches!(answer, Some((0, _)));
        let touched = op.file().and_then(|path| model.find(path));
        for id in op.renames().into_iter().filter_map(|path| model.find(path)) {
            since.remove(&id);
        }
        let full = [libc::ENOSPC, libc::EDQUOT];
        if !answer.is_some_and(|(errno, _)| full.contains(&errno)) {
            // One that was under way, or failed because the disk died, may have been done.
            let applied = model.apply(op);
            assert!(applied.is_ok() || !done, "impossible: {op:?}");
        }
        if op.is_of_bytes()
            && let Some(id) = touched
            && let Some(witness) = witnesses.get_mut(&id)
            && let (Some(versions), Some(data)) = (&mut witness.versions, model.content(id))
        {
            if data.len() <= CONTENT_MAX {
                versions.push(data.clone());
            } else {
                witness.versions = None;
            }
        }
        let mut paths: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        for (path, id) in model.paths() {
            since.entry(id).or_default().insert(path.clone());
            paths.entry(id).or_default().insert(path);
        }
        // What has no name any more need not be there.
        witnesses.retain(|id, witness| match paths.get(id) {
            Some(now) => {
                witness.paths.extend(now.iter().cloned());
                true
            }
            None => false,
        });
        if !done || number >= sure {
            continue;
        }
        if let Some(id) = syncs(op).and_then(|path| model.find(path)) {
            let witness = Witness {
                versions: content(&model, id),
                paths: since[&id].clone(),
                op: number,
            };
            witnesses.insert(id, witness);
        }
        if let Op::SyncDir(path) = op
            && let Some(dir) = model.find(path)
        {
            for id in model.children(dir) {
                witnesses.entry(id).or_insert_with(|| Witness {
                    versions: None,
                    paths: since[&id].clone(),
                    op: number,
                });
            }
        }
    }
    let wrong: Vec<_> = witnesses
        .values()
        .filter_map(|w| missing(w, copy))
        .collect();
    if wrong.is_empty() {
        Ok(witnesses.len())
    } else {
        Err(wrong)
    }
}

fn missing(witness: &Witness, copy: &Model) -> Option<String> {
    let mut seen = Vec::new();
    for path in &witness.paths {
        let Some(id) = copy.find(path) else {
            continue;
        };
        let (Some(versions), Some(data)) = (&witness.versions, copy.content(id)) else {
            return None;
        };
        match odd(versions, data) {
            None => return None,
            Some(what) => seen.push(format!("{path}: {what}")),
        }
    }
    if seen.is_empty() {
        seen.push(format!("{:?}: lost", witness.paths));
    }
    Some(format!("synced by op {}: {}", witness.op, seen.join("; ")))
}

fn odd(versions: &[Vec<u8>], data: &[u8]) -> Option<String> {
    let sizes = || versions.iter().map(Vec::len);
    let (least, most) = (sizes().min()?, sizes().max()?);
    if !(least..=most).contains(&data.len()) {
        return Some(format!("{} bytes, not {least} to {most}", data.len()));
    }
    let is_known = |at: usize| {
        let byte = data[at];
        versions
            .iter()
            .any(|v| v.get(at).copied().unwrap_or(0) == byte)
    };
    let at = (0..data.len()).find(|&at| !is_known(at))?;
    Some(format!(
        "at {at} {:#x}, which it never was in {} versions",
        data[at],
        versions.len()
    ))
}
