// SPDX-License-Identifier: MIT
//! Regions: how a file's bytes are cut, so that one file never has too many marks. Pure.
//!
//! 4 MiB below 2 GiB; from there on each doubling of the offset has 128 regions. A file of 1 TiB
//! has fewer than 2048.

/// Regions below `SMALL_END` are this large (bytes).
const SMALL: u64 = 4 << 20;
/// Where regions begin to grow (bytes).
const SMALL_END: u64 = 2 << 30;
/// Log2 of the regions in each doubling beyond.
const PER_DOUBLING: u32 = 7;

/// The region that holds the byte at `offset`: its first byte and the byte after its last. The very
/// last region has no end but `u64::MAX`.
#[must_use]
pub fn region(offset: u64) -> (u64, u64) {
    let size = if offset < SMALL_END {
        SMALL
    } else {
        1 << (offset.ilog2() - PER_DOUBLING)
    };
    let start = offset - offset % size;
    (start, start.saturating_add(size))
}

/// The regions that hold `len` bytes from `start`, in order; none if `len` is 0.
pub fn regions(start: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = start.saturating_add(len);
    let mut at = start;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let found = region(at);
            at = found.1;
            found
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_meet_and_keep_to_their_number() {
        let all: Vec<_> = regions(0, 1 << 40).collect();
        assert_eq!(all.first(), Some(&(0, 4 << 20)));
        assert_eq!(all.last().map(|r| r.1), Some(1 << 40));
        assert!(all.len() < 2048, "{}", all.len());
        for pair in all.windows(2) {
            assert_eq!(pair[0].1, pair[1].0);
        }
        for &(start, end) in &all {
            assert_eq!(region(start), (start, end));
            assert_eq!(region(end - 1), (start, end));
        }
    }

    #[test]
    fn regions_of_spans() {
        const MIB: u64 = 1 << 20;
        let of = |start, len| regions(start, len).collect::<Vec<_>>();
        assert_eq!(of(0, 0), []);
        assert_eq!(of(5, 1), [(0, 4 * MIB)]);
        assert_eq!(of(4 * MIB - 1, 1), [(0, 4 * MIB)]);
        assert_eq!(of(4 * MIB - 1, 2), [(0, 4 * MIB), (4 * MIB, 8 * MIB)]);
        assert_eq!(region(2 << 30), (2 << 30, (2 << 30) + 16 * MIB));
        assert_eq!(region(u64::MAX).1, u64::MAX);
        assert_eq!(of(u64::MAX - 1, 9).len(), 1);
    }
}
