// SPDX-License-Identifier: MIT
//! Regions: how a file's bytes are cut, so that one file never has too many marks. Pure.
//!
//! 4 MiB below 2 GiB; from there on each doubling of the offset has 128 regions. A file of 1 TiB
//! has fewer than 2048. Where many of one file are wanted in a short time they are cut coarser.

/// Regions below `SMALL_END` are this large (bytes).
const SMALL: u64 = 4 << 20;
/// Where regions begin to grow (bytes).
const SMALL_END: u64 = 2 << 30;
/// Log2 of the regions in each doubling beyond.
const PER_DOUBLING: u32 = 7;

/// How coarse regions are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cut {
    /// As above.
    Fine,
    /// 64 MiB at least.
    Coarse,
    /// 1 GiB at least.
    Huge,
    /// All of the file is one.
    Whole,
}

impl Cut {
    /// From the finest to the coarsest.
    pub const ALL: [Self; 4] = [Self::Fine, Self::Coarse, Self::Huge, Self::Whole];

    /// The least size of a region (bytes).
    const fn least(self) -> u64 {
        match self {
            Self::Fine => SMALL,
            Self::Coarse => SMALL << 4,
            Self::Huge => SMALL << 8,
            Self::Whole => u64::MAX,
        }
    }
}

/// The region that holds the byte at `offset`: its first byte and the byte after its last. The very
/// last region has no end but `u64::MAX`.
#[must_use]
pub fn region(offset: u64, cut: Cut) -> (u64, u64) {
    if cut == Cut::Whole {
        return (0, u64::MAX);
    }
    let size = if offset < SMALL_END {
        SMALL
    } else {
        1 << (offset.ilog2() - PER_DOUBLING)
    };
    let size = size.max(cut.least());
    let start = offset - offset % size;
    (start, start.saturating_add(size))
}

/// The regions that hold `len` bytes from `start`, in order; none if `len` is 0.
pub fn regions(start: u64, len: u64, cut: Cut) -> impl Iterator<Item = (u64, u64)> {
    let end = start.saturating_add(len);
    let mut at = start;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let found = region(at, cut);
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
        let all: Vec<_> = regions(0, 1 << 40, Cut::Fine).collect();
        assert_eq!(all.first(), Some(&(0, 4 << 20)));
        assert_eq!(all.last().map(|r| r.1), Some(1 << 40));
        assert!(all.len() < 2048, "{}", all.len());
        for pair in all.windows(2) {
            assert_eq!(pair[0].1, pair[1].0);
        }
        for &(start, end) in &all {
            assert_eq!(region(start, Cut::Fine), (start, end));
            assert_eq!(region(end - 1, Cut::Fine), (start, end));
        }
    }

    #[test]
    fn coarse_regions_hold_fine_ones() {
        let (mut offset, far) = (1_u64, 1 << 44);
        while offset < far {
            let cuts = Cut::ALL.map(|cut| region(offset, cut));
            for pair in cuts.windows(2) {
                assert!(pair[1].0 <= pair[0].0 && pair[1].1 >= pair[0].1, "{cuts:?}");
            }
            offset = offset * 5 / 3 + 1;
        }
        let of = |cut| regions(0, 20 << 30, cut).count();
        assert_eq!(
            [of(Cut::Coarse), of(Cut::Huge), of(Cut::Whole)],
            [288, 20, 1]
        );
    }

    #[test]
    fn regions_of_spans() {
        const MIB: u64 = 1 << 20;
        let of = |start, len| regions(start, len, Cut::Fine).collect::<Vec<_>>();
        assert_eq!(of(0, 0), []);
        assert_eq!(of(5, 1), [(0, 4 * MIB)]);
        assert_eq!(of(4 * MIB - 1, 1), [(0, 4 * MIB)]);
        assert_eq!(of(4 * MIB - 1, 2), [(0, 4 * MIB), (4 * MIB, 8 * MIB)]);
        assert_eq!(region(2 << 30, Cut::Fine), (2 << 30, (2 << 30) + 16 * MIB));
        assert_eq!(region(u64::MAX, Cut::Fine).1, u64::MAX);
        assert_eq!(of(u64::MAX - 1, 9).len(), 1);
    }
}
