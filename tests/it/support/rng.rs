// SPDX-License-Identifier: MIT
//! A small random number generator whose runs can be repeated from a printed seed (SplitMix64).

/// The generator; its whole state is one number.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    /// Starts from `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit` (which is not 0).
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).expect("a usize fits");
        usize::try_from(self.next() % limit).expect("below a usize")
    }

    /// `len` bytes.
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            out.extend_from_slice(&self.next().to_le_bytes());
        }
        out.truncate(len);
        out
    }
}

/// The seed of this run: `MIRRORFS_SEED`, or the clock. Printed, so that a failure can be repeated.
pub(crate) fn seed(what: &str) -> u64 {
    let seed = std::env::var("MIRRORFS_SEED")
        .ok()
        .and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        now.tv_nsec.unsigned_abs() ^ (now.tv_sec.unsigned_abs() << 30)
    });
    eprintln!("{what}: to repeat this run: MIRRORFS_SEED={seed}");
    seed
}
