// SPDX-License-Identifier: MIT
//! A disk in memory that knows what a power cut leaves: of every sector written and not flushed the
//! old or the new, of a rename not flushed either name. It refuses or stops at any call.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::journal::file::Disk;
use crate::journal::frame::SECTOR;
use crate::sys::{Errno, Result};

/// Numbers from a seed (xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift
/// generators, scrambled").
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(
            seed.wrapping_add(1)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .max(1),
        )
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % end
    }

    pub(super) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("below a length")
    }

    pub(super) fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
}

/// What happens at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It fails, half done if it writes; later ones work.
    Refuse(Errno),
    /// The power is cut: it may or may not have reached the disk, and nothing works any more.
    Cut,
}

#[derive(Clone, Debug, Default)]
struct Image {
    /// As programs see it.
    seen: Vec<u8>,
    /// As the platter has it, but for the sectors in `unflushed`.
    durable: Vec<u8>,
    unflushed: BTreeSet<usize>,
}

impl Image {
    fn write(&mut self, at: u64, bytes: &[u8]) {
        let at = usize::try_from(at).expect("small");
        let end = at + bytes.len();
        if self.seen.len() < end {
            self.seen.resize(end, 0);
        }
        self.seen[at..end].copy_from_slice(bytes);
        self.unflushed.extend(at / SECTOR..end.div_ceil(SECTOR));
    }

    fn flush(&mut self) {
        self.durable.clone_from(&self.seen);
        self.unflushed.clear();
    }

    /// What a power cut leaves.
    fn cut(&self, random: &mut Random) -> Vec<u8> {
        let mut left = self.durable.clone();
        if left.len() < self.seen.len() && random.one_in(2) {
            left.resize(self.seen.len(), 0);
        }
        // All, none, some: each of them often.
        let keep = random.below(4);
        for &sector in &self.unflushed {
            let (from, to) = (sector * SECTOR, ((sector + 1) * SECTOR).min(left.len()));
            let kept = match keep {
                0 => true,
                1 => false,
                _ => random.one_in(2),
            };
            if kept && from < to {
                left[from..to].copy_from_slice(&self.seen[from..to]);
            }
        }
        left
    }
}

#[derive(Debug, Default)]
struct State {
    log: Option<Image>,
    new: Option<Image>,
    /// The log that the directory still leads to on the platter, until it is flushed.
    before: Option<Option<Image>>,
    calls: u64,
    trouble: Option<(u64, Trouble)>,
    dead: bool,
}

/// Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory(Arc<Mutex<State>>);

impl Memory {
    /// One that holds this log already.
    pub(super) fn with(bytes: Option<Vec<u8>>) -> Self {
        let log = bytes.map(|bytes| Image {
            seen: bytes.clone(),
            durable: bytes,
            unflushed: BTreeSet::new(),
        });
        Self(Arc::new(Mutex::new(State {
            log,
            ..State::default()
        })))
    }

    /// The log as programs see it: what is left when the daemon dies.
    pub(super) fn seen(&self) -> Option<Vec<u8>> {
        self.0.lock().log.as_ref().map(|log| log.seen.clone())
    }

    /// What a power cut leaves.
    pub(super) fn cut(&self, random: &mut Random) -> Option<Vec<u8>> {
        let state = self.0.lock();
        let log = match &state.before {
            Some(before) if random.one_in(2) => before,
            _ => &state.log,
        };
        log.as_ref().map(|log| log.cut(random))
    }

    /// How many calls there were.
    pub(super) fn calls(&self) -> u64 {
        self.0.lock().calls
    }

    /// Trouble at the call after `calls` more.
    pub(super) fn trouble(&self, calls: u64, trouble: Trouble) {
        let mut state = self.0.lock();
        state.trouble = Some((state.calls + calls, trouble));
    }

    pub(super) fn is_dead(&self) -> bool {
        self.0.lock().dead
    }

    /// Does `work` unless there is trouble; with trouble perhaps a part of it.
    fn call(&self, work: impl FnOnce(&mut State, bool) -> Result<()>, writes: bool) -> Result<()> {
        let mut state = self.0.lock();
        if state.dead {
            return Err(Errno::IO);
        }
        let now = state.calls;
        state.calls += 1;
        match state.trouble {
            Some((at, trouble)) if at == now => {
                if writes {
                    work(&mut state, trouble != Trouble::Cut)?;
                }
                match trouble {
                    Trouble::Refuse(errno) => Err(errno),
                    Trouble::Cut => {
                        state.dead = true;
                        Err(Errno::IO)
                    }
                }
            }
            _ => work(&mut state, false),
        }
    }
}

/// All of it, or its first sectors.
fn part(bytes: &[u8], half: bool) -> &[u8] {
    if half {
        &bytes[..bytes.len() / 2 / SECTOR * SECTOR]
    } else {
        bytes
    }
}

impl Disk for Memory {
    fn read(&mut self) -> Result<Option<Vec<u8>>> {
        Ok(self.seen())
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let work = |state: &mut State, half: bool| {
            let log = state.log.as_mut().ok_or(Errno::BADF)?;
            log.write(at, part(bytes, half));
            Ok(())
        };
        self.call(work, true)
    }

    fn flush(&mut self) -> Result<()> {
        let work = |state: &mut State, _| {
            state.log.as_mut().ok_or(Errno::BADF)?.flush();
            Ok(())
        };
        self.call(work, false)
    }

    fn begin_new(&mut self) -> Result<()> {
        let work = |state: &mut State, _| {
            state.new = Some(Image::default());
            Ok(())
        };
        self.call(work, true)
    }

    fn write_new(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let work = |state: &mut State, half: bool| {
            let new = state.new.as_mut().ok_or(Errno::BADF)?;
            new.write(at, part(bytes, half));
            Ok(())
        };
        self.call(work, true)
    }

    fn flush_new(&mut self) -> Result<()> {
        let work = |state: &mut State, _| {
            state.new.as_mut().ok_or(Errno::BADF)?.flush();
            Ok(())
        };
        self.call(work, false)
    }

    fn publish(&mut self) -> Result<()> {
        let work = |state: &mut State, half: bool| {
            // A rename that is refused did nothing; one that was cut may have been done.
            if !half {
                let new = state.new.take().ok_or(Errno::BADF)?;
                let old = state.log.replace(new);
                state.before = Some(old);
            }
            Ok(())
        };
        self.call(work, true)
    }

    fn flush_dir(&mut self) -> Result<()> {
        let work = |state: &mut State, _| {
            state.before = None;
            Ok(())
        };
        self.call(work, false)
    }
}
