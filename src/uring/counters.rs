// SPDX-License-Identifier: MIT
//! What was asked of the disk, counted: read by status from other threads, bumped with relaxed
//! atomic additions.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted beside the operations themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Rings made: one for each thread that asked, never one for each file.
    Rings,
    /// System calls that carried operations: `io_uring_enter`, or the plain calls of the threads rung.
    Entered,
    /// Operations handed over.
    Submitted,
    /// Operations answered.
    Completed,
    /// Writes whose rest had to be asked for again.
    ResubmittedShort,
    /// Operations asked again after `EINTR`, `EAGAIN` or a cancellation that was not ours.
    Retried,
    /// Operations that ran although one before them in their chain had not succeeded. They ran
    /// again in order; a kernel that keeps its word never makes this more than 0.
    OutOfOrder,
    /// Operations of ours that were cancelled because their time was over.
    Cancelled,
    /// Operations the kernel would not let go of when their time was over.
    Held,
    /// Bytes copied into buffers.
    BytesCopied,
    /// File systems that cannot be written past the page cache.
    CacheOnly,
}

const NAMES: [&str; 11] = [
    "rings",
    "entered",
    "submitted",
    "completed",
    "resubmitted_short",
    "retried",
    "out_of_order",
    "cancelled",
    "held",
    "bytes_copied",
    "cache_only",
];

/// The few operations there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// A write from anywhere.
    Write,
    /// A write from a registered buffer.
    WriteFixed,
    /// An fsync or fdatasync.
    Fsync,
    /// Our own request to stop another operation.
    Cancel,
}

const OPCODES: [&str; 4] = ["write", "write_fixed", "fsync", "cancel"];

/// Cumulative since mount.
#[derive(Debug)]
pub struct Counters {
    counts: [AtomicU64; NAMES.len()],
    opcodes: [AtomicU64; OPCODES.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            opcodes: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl Counters {
    /// One more.
    pub fn count(&self, count: Count) {
        self.add(count, 1);
    }

    /// `n` more.
    pub(super) fn add(&self, count: Count, n: u64) {
        self.counts[count as usize].fetch_add(n, Ordering::Relaxed);
    }

    /// One more operation handed over.
    pub(super) fn submit(&self, opcode: Opcode) {
        self.count(Count::Submitted);
        self.opcodes[opcode as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often so far.
    #[must_use]
    pub fn get(&self, count: Count) -> u64 {
        self.counts[count as usize].load(Ordering::Relaxed)
    }

    /// How many operations of this kind so far.
    #[must_use]
    pub fn of(&self, opcode: Opcode) -> u64 {
        self.opcodes[opcode as usize].load(Ordering::Relaxed)
    }

    /// Those that are not 0, by name; operations as `op_write` and so on.
    #[must_use]
    pub fn by_name(&self) -> BTreeMap<String, u64> {
        let counts = NAMES.iter().map(|name| (*name).to_owned());
        let opcodes = OPCODES.iter().map(|name| format!("op_{name}"));
        let values = self.counts.iter().chain(&self.opcodes);
        counts
            .chain(opcodes)
            .zip(values.map(|value| value.load(Ordering::Relaxed)))
            .filter(|(_, value)| *value > 0)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_counted_has_its_own_name() {
        let counters = Counters::default();
        counters.submit(Opcode::Cancel);
        counters.submit(Opcode::Write);
        counters.add(Count::BytesCopied, 7);
        let named: Vec<_> = counters.by_name().into_iter().collect();
        let expected = [
            ("bytes_copied", 7),
            ("op_cancel", 1),
            ("op_write", 1),
            ("submitted", 2),
        ];
        assert_eq!(named, expected.map(|(name, n)| (name.to_owned(), n)));
        assert_eq!(Count::CacheOnly as usize + 1, NAMES.len());
        assert_eq!(Opcode::Cancel as usize + 1, OPCODES.len());
    }
}
