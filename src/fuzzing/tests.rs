// SPDX-License-Identifier: MIT
//! The corpora of tests/fuzz, and some thousand mutations of them, through the ways in that the fuzz
//! targets use: what was found once is not lost, with or without cargo-fuzz.
#![allow(
    clippy::disallowed_methods,
    reason = "a test reads its own corpora by path"
)]

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

/// Inputs of one target by name.
type Inputs = Vec<(String, Vec<u8>)>;
/// What the real encoders write.
type Seeds = Vec<(&'static str, Vec<u8>)>;

/// Numbers from a seed (xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift
/// generators, scrambled").
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        usize::try_from(high).expect("64 bits") % end.max(1)
    }

    fn byte(&mut self) -> u8 {
        // Those that begin, end, or are too large.
        const LIKELY: &[u8] = b"\0\x01\x7f\x80\xff\n,=\"\\:{}[]0-9/%\x1b";
        match self.below(3) {
            0 => u8::try_from(self.below(256)).expect("a byte"),
            _ => LIKELY[self.below(LIKELY.len())],
        }
    }

    /// A few changes to one input, with pieces of another.
    fn mutate(&mut self, input: &[u8], other: &[u8]) -> Vec<u8> {
        let mut out = input.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(out.len());
            let len = self.below(9).min(out.len() - at);
            match self.below(7) {
                0 if at < out.len() => out[at] ^= 1 << self.below(8),
                1 if at < out.len() => out[at] = self.byte(),
                2 => out.insert(at, self.byte()),
                3 => drop(out.drain(at..at + len)),
                4 => out.truncate(at),
                5 => {
                    let from = self.below(other.len());
                    let piece = &other[from..(from + self.below(64)).min(other.len())];
                    out.splice(at..at + len, piece.iter().copied())
                        .for_each(drop);
                }
                // All ones in a row: the largest number.
                _ => out[at..at + len].fill(0xff),
            }
        }
        out
    }
}

fn directory(target: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/fuzz/corpus").join(target)
}

fn corpus(target: &str) -> Inputs {
    let entries = std::fs::read_dir(directory(target)).expect("a corpus");
    let mut all: Inputs = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            (name, std::fs::read(&path).expect("an input"))
        })
        .collect();
    all.sort();
    all
}

/// Runs all inputs, and `times` mutations of each. The encoders' own files are among them, and are
/// what is written today: `MIRRORFS_WRITE_SEEDS=1` writes them anew.
fn run(target: &str, enter: fn(&[u8]), seeds: Seeds, times: usize) {
    for (name, bytes) in seeds {
        let path = directory(target).join(format!("seed-{name}"));
        if std::env::var_os("MIRRORFS_WRITE_SEEDS").is_some_and(|set| set == "1") {
            std::fs::write(&path, &bytes).expect("a seed is written");
        }
        let kept = std::fs::read(&path).unwrap_or_default();
        assert!(
            kept == bytes,
            "seed-{name} of {target} is another: MIRRORFS_WRITE_SEEDS=1"
        );
    }
    let inputs = corpus(target);
    let mut random = Random(0x6d69_7272_6f72_6673);
    for (name, input) in &inputs {
        tried(target, name, enter, input);
        for _ in 0..times {
            let other = &inputs[random.below(inputs.len())].1;
            let input = random.mutate(input, other);
            tried(target, name, enter, &input);
        }
    }
}

fn tried(target: &str, name: &str, enter: fn(&[u8]), input: &[u8]) {
    if catch_unwind(|| enter(input)).is_err() {
        let text = input.escape_ascii();
        panic!("{target}: {name}, or made of it: b\"{text}\"");
    }
}

#[test]
fn options_are_read_or_refused() {
    run(
        "options",
        super::options,
        crate::cli::fuzzing::options_seeds(),
        30,
    );
}

#[test]
fn logs_are_read_or_refused() {
    run("log", super::log, crate::journal::fuzzing::seeds(), 300);
}

#[test]
fn control_lines_are_read_or_refused_and_shown_harmlessly() {
    run(
        "control",
        super::control,
        crate::cli::fuzzing::control_seeds(),
        100,
    );
}

#[test]
fn stamps_are_read_or_refused() {
    let seeds = crate::mirror::attach::fuzzing::seeds();
    run("stamp", super::stamp, seeds, 300);
}

#[test]
fn lines_of_mountinfo_are_read_or_left_out() {
    let seeds = crate::sys::mountinfo::fuzzing::seeds();
    run("mountinfo", super::mountinfo, seeds, 300);
}
