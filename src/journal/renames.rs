// SPDX-License-Identifier: MIT
//! Renames: where a path recorded earlier may lead by now. Pure.
//!
//! A rename is on record before it is made, so the last ones may not have happened, and one that
//! the primary refused never did. Hence candidates instead of one answer: whoever uses them checks
//! who stands there.

use std::collections::HashMap;
use std::ops::Bound;

/// The most candidates for one mark.
pub(crate) const CANDIDATES_MAX: usize = 16;

/// One rename: paths relative to the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Renamed {
    pub(crate) seq: u64,
    pub(crate) from: Box<[u8]>,
    pub(crate) to: Box<[u8]>,
}

/// A rename that moved a path, and the path before it.
type Step = (u64, Box<[u8]>);

/// All that are on record, by number.
#[derive(Debug, Default)]
pub(crate) struct Renames {
    list: std::collections::BTreeMap<u64, Renamed>,
    /// The numbers of those that have this path as `from`, ascending.
    by_from: HashMap<Box<[u8]>, Vec<u64>>,
}

impl Renames {
    pub(crate) fn push(&mut self, renamed: Renamed) {
        // Nothing can be said about where everything went.
        if renamed.from.is_empty() || self.list.contains_key(&renamed.seq) {
            return;
        }
        let numbers = self.by_from.entry(renamed.from.clone()).or_default();
        let at = numbers.partition_point(|seq| *seq < renamed.seq);
        numbers.insert(at, renamed.seq);
        self.list.insert(renamed.seq, renamed);
    }

    /// Those numbered `floor` and higher.
    pub(crate) fn from(&self, floor: u64) -> impl Iterator<Item = &Renamed> {
        self.list.range(floor..).map(|(_, renamed)| renamed)
    }

    /// The number of the first of the newest `count`.
    pub(crate) fn newest(&self, count: usize) -> u64 {
        let last = self.list.len().min(count).checked_sub(1);
        let number = last.and_then(|last| self.list.keys().nth_back(last));
        number.copied().unwrap_or(u64::MAX)
    }

    /// Forgets those numbered below `floor`.
    pub(crate) fn drop_below(&mut self, floor: u64) {
        self.list = self.list.split_off(&floor);
        self.by_from.retain(|_, numbers| {
            numbers.retain(|seq| *seq >= floor);
            !numbers.is_empty()
        });
    }

    /// The first rename after `since` and before `until` that moves `path`.
    fn next(&self, path: &[u8], since: u64, until: u64) -> Option<&Renamed> {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let prefixes = slashes
            .map(|(at, _)| &path[..at])
            .chain(std::iter::once(path));
        let first = prefixes.filter_map(|prefix| {
            let numbers = self.by_from.get(prefix)?;
            let at = numbers.partition_point(|seq| *seq <= since);
            numbers.get(at).copied()
        });
        let seq = first.min().filter(|seq| *seq < until)?;
        self.list.get(&seq)
    }

    /// The path after every rename between the bounds but `skipped`; before it, what it was before
    /// each of them, with their numbers.
    fn follow(
        &self,
        path: &[u8],
        since: u64,
        until: u64,
        skipped: Option<u64>,
    ) -> (Vec<Step>, Box<[u8]>) {
        let mut path: Box<[u8]> = path.into();
        let mut steps = Vec::new();
        let mut at = since;
        while let Some(renamed) = self.next(&path, at, until) {
            at = renamed.seq;
            if Some(at) != skipped {
                steps.push((at, path.clone()));
                path = [&*renamed.to, &path[renamed.from.len()..]].concat().into();
            }
        }
        (steps, path)
    }

    /// Where what was at one of `paths` (likeliest first) may be after the renames numbered above
    /// `since` and below `until`, likeliest first, none twice, `CANDIDATES_MAX` at most: after all
    /// of them, after ever fewer, after all but one, and after all on record.
    pub(crate) fn candidates(&self, paths: &[Box<[u8]>], since: u64, until: u64) -> Vec<Box<[u8]>> {
        let mut found: Vec<Box<[u8]>> = Vec::new();
        let mut add = |path: Box<[u8]>| {
            if found.len() < CANDIDATES_MAX && !found.contains(&path) {
                found.push(path);
            }
            found.len() < CANDIDATES_MAX
        };
        let mut ways = Vec::new();
        for path in paths {
            let (steps, end) = self.follow(path, since, until, None);
            if !add(end) {
                return found;
            }
            ways.push((path, steps));
        }
        for (_, steps) in &ways {
            for (_, before) in steps.iter().rev() {
                if !add(before.clone()) {
                    return found;
                }
            }
        }
        for (path, steps) in &ways {
            for (seq, _) in steps.iter().rev().take(CANDIDATES_MAX) {
                if !add(self.follow(path, since, until, Some(*seq)).1) {
                    return found;
                }
            }
        }
        // A mark described while an earlier rename was still on its way.
        if self
            .list
            .range((Bound::Unbounded, Bound::Included(since)))
            .next()
            .is_some()
        {
            for path in paths {
                if !add(self.follow(path, 0, until, None).1) {
                    return found;
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renames(list: &[(u64, &str, &str)]) -> Renames {
        let mut renames = Renames::default();
        for &(seq, from, to) in list {
            let (from, to) = (from.as_bytes().into(), to.as_bytes().into());
            renames.push(Renamed { seq, from, to });
        }
        renames
    }

    fn candidates(renames: &Renames, path: &str, since: u64) -> Vec<String> {
        let found = renames.candidates(&[path.as_bytes().into()], since, u64::MAX);
        let text = |path: Box<[u8]>| String::from_utf8(path.into()).expect("text");
        found.into_iter().map(text).collect()
    }

    #[test]
    fn components_are_replaced_not_letters() {
        let list = renames(&[(5, "a/b", "c")]);
        assert_eq!(candidates(&list, "a/b/x", 1), ["c/x", "a/b/x"]);
        assert_eq!(candidates(&list, "a/b", 1), ["c", "a/b"]);
        assert_eq!(candidates(&list, "a/bc", 1), ["a/bc"]);
        assert_eq!(candidates(&list, "a", 1), ["a"]);
        assert_eq!(candidates(&list, "", 1), [""]);
    }

    #[test]
    fn renames_apply_in_order_and_only_later_ones_first() {
        let list = renames(&[(2, "a", "b"), (4, "b", "c"), (6, "c", "d/e")]);
        assert_eq!(
            candidates(&list, "a/x", 1),
            ["d/e/x", "c/x", "b/x", "a/x"],
            "all, then shorter prefixes"
        );
        assert_eq!(
            candidates(&list, "b/x", 3),
            ["d/e/x", "c/x", "b/x"],
            "what was made since the mark"
        );
        // Described while `a -> b` was on its way: the last resort.
        assert_eq!(candidates(&list, "a/x", 3), ["a/x", "d/e/x"]);
    }

    #[test]
    fn a_refused_rename_in_the_middle_is_thought_of() {
        let list = renames(&[(2, "a", "b"), (3, "a", "c")]);
        assert_eq!(candidates(&list, "a/x", 1), ["b/x", "a/x", "c/x"]);
    }

    #[test]
    fn circles_end_and_sixteen_are_enough() {
        let circle: Vec<_> = (0..60)
            .map(|i| {
                if i % 2 == 0 {
                    (i + 2, "a", "b")
                } else {
                    (i + 2, "b", "a")
                }
            })
            .collect();
        assert_eq!(candidates(&renames(&circle), "a/x", 1), ["a/x", "b/x"]);
        let names: Vec<_> = (0..40).map(|i| format!("n{i}")).collect();
        let chain: Vec<_> = (0u64..39)
            .map(|i| {
                let at = usize::try_from(i).expect("small");
                (i + 2, names[at].as_str(), names[at + 1].as_str())
            })
            .collect();
        let found = candidates(&renames(&chain), "n0/x", 1);
        assert_eq!(found.len(), CANDIDATES_MAX);
        assert_eq!(found[..3], ["n39/x", "n38/x", "n37/x"]);
    }

    #[test]
    fn what_is_dropped_is_forgotten() {
        let mut list = renames(&[(2, "a", "b"), (4, "b", "c"), (6, "a", "z")]);
        list.drop_below(4);
        assert_eq!(candidates(&list, "b/x", 1), ["c/x", "b/x"]);
        assert_eq!(candidates(&list, "a/x", 1), ["z/x", "a/x"]);
        assert_eq!(list.from(5).count(), 1);
        assert_eq!((list.newest(1), list.newest(2), list.newest(9)), (6, 4, 4));
        assert_eq!(Renames::default().newest(1), u64::MAX);
    }
}
