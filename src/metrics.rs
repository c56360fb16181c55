// SPDX-License-Identifier: MIT
//! Side room: named counters, which anyone may bump.
//!
//! Counters are cumulative since mount, never reset, and cost one relaxed atomic addition. Their
//! names are part of the interface (docs/CLI_ABI.md): stable unless it says otherwise.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// A question of the kernel's, by the name it has in the FUSE protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it all")]
pub enum Request {
    Lookup,
    Forget,
    Getattr,
    Setattr,
    Readlink,
    Mknod,
    Mkdir,
    Unlink,
    Rmdir,
    Symlink,
    Rename,
    Link,
    Open,
    Read,
    Write,
    Flush,
    Fsync,
    Opendir,
    Readdir,
    Readdirplus,
    Fsyncdir,
    Statfs,
    Setxattr,
    Getxattr,
    Listxattr,
    Removexattr,
    Create,
    Ioctl,
    Fallocate,
    Lseek,
    CopyFileRange,
}

const NAMES: [&str; 31] = [
    "lookup",
    "forget",
    "getattr",
    "setattr",
    "readlink",
    "mknod",
    "mkdir",
    "unlink",
    "rmdir",
    "symlink",
    "rename",
    "link",
    "open",
    "read",
    "write",
    "flush",
    "fsync",
    "opendir",
    "readdir",
    "readdirplus",
    "fsyncdir",
    "statfs",
    "setxattr",
    "getxattr",
    "listxattr",
    "removexattr",
    "create",
    "ioctl",
    "fallocate",
    "lseek",
    "copy_file_range",
];

/// Bounds of the histograms: powers of two of microseconds, from 1 to 2^23 (8.4 s).
pub const BOUNDS: usize = 24;

/// The upper bound of a bucket in microseconds, itself included; the last bucket has none.
#[must_use]
pub fn bound_us(bucket: usize) -> Option<u64> {
    (bucket < BOUNDS).then(|| 1 << bucket)
}

/// The bucket for an answer that took that long.
fn bucket_of(nanos: u64) -> usize {
    // Rounded up, so that what is longer than a bound is never counted below it.
    let us = nanos.div_ceil(1000);
    let power = u64::BITS - us.saturating_sub(1).leading_zeros();
    (power as usize).min(BOUNDS)
}

/// One kind of request.
#[derive(Debug, Default)]
struct Kind {
    asked: AtomicU64,
    total_ns: AtomicU64,
    buckets: [AtomicU64; BOUNDS + 1],
}

/// How often the kernel asked what, and how long it waited for the answers.
#[derive(Debug, Default)]
pub struct Requests {
    kinds: [Kind; NAMES.len()],
    read_bytes: AtomicU64,
}

impl Requests {
    /// One more, which has no answer.
    pub fn count(&self, request: Request) {
        self.kinds[request as usize]
            .asked
            .fetch_add(1, Ordering::Relaxed);
    }

    /// One more, which is answered when what this returns goes away: hand it to whoever answers.
    #[must_use]
    pub fn begin(self: &Arc<Self>, request: Request) -> Pending {
        self.count(request);
        Pending {
            requests: Arc::clone(self),
            request,
            began: Instant::now(),
        }
    }

    fn answered(&self, request: Request, after: Duration) {
        let nanos = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        let kind = &self.kinds[request as usize];
        kind.buckets[bucket_of(nanos)].fetch_add(1, Ordering::Relaxed);
        kind.total_ns.fetch_add(nanos, Ordering::Relaxed);
    }

    /// So many more bytes of files were handed to the kernel.
    pub fn has_read(&self, bytes: usize) {
        self.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes of files that were handed to the kernel.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    fn named(&self) -> impl Iterator<Item = (String, &Kind)> {
        NAMES.iter().map(|name| (*name).to_owned()).zip(&self.kinds)
    }

    /// Those that were asked at all, by name.
    #[must_use]
    pub fn by_name(&self) -> BTreeMap<String, u64> {
        let counts = self
            .named()
            .map(|(name, kind)| (name, kind.asked.load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// How long the answers took, of those requests that were answered at all.
    #[must_use]
    pub fn times(&self) -> BTreeMap<String, Times> {
        let times = self.named().map(|(name, kind)| {
            // The sum is read first: it is never more than what the buckets were given.
            let total_us = kind.total_ns.load(Ordering::Relaxed) / 1000;
            let buckets = kind.buckets.iter().map(|n| n.load(Ordering::Relaxed));
            let buckets: Vec<u64> = buckets.collect();
            let count = buckets.iter().sum();
            let times = Times {
                count,
                total_us,
                buckets,
            };
            (name, times)
        });
        times.filter(|(_, times)| times.count > 0).collect()
    }
}

/// A request that waits for its answer. When this goes away its time is taken.
#[derive(Debug)]
pub struct Pending {
    requests: Arc<Requests>,
    request: Request,
    began: Instant,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.requests.answered(self.request, self.began.elapsed());
    }
}

/// How long answers took since mount: from the moment a request was read to that at which it was
/// answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// Answers.
    pub count: u64,
    /// All of them together, in microseconds.
    pub total_us: u64,
    /// How many took at most 1, 2, 4, ... 2^23 us, and more than the bound before; then those that
    /// took longer. See [`bound_us`].
    pub buckets: Vec<u64>,
}

/// What the stat cache was good for, in answers since mount and in bytes now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheCounts {
    /// Answers given from memory.
    pub hits: u64,
    /// Answers the primary had to give.
    pub misses: u64,
    /// What it holds.
    pub bytes: u64,
    /// What it may hold; 0 when it is off.
    pub capacity_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_its_own_name() {
        let requests = Requests::default();
        requests.count(Request::Lookup);
        requests.count(Request::CopyFileRange);
        requests.count(Request::CopyFileRange);
        let counts: Vec<_> = requests.by_name().into_iter().collect();
        assert_eq!(
            counts,
            [("copy_file_range".to_owned(), 2), ("lookup".to_owned(), 1)]
        );
        assert_eq!(Request::CopyFileRange as usize + 1, NAMES.len());
    }

    /// A bound belongs to its own bucket; a nanosecond more does not.
    #[test]
    fn every_time_has_its_bucket() {
        for (nanos, bucket) in [
            (0, 0),
            (1, 0),
            (1000, 0),
            (1001, 1),
            (2000, 1),
            (2001, 2),
            (4000, 2),
            (1_000_000, 10),
            (1_024_001, 11),
            ((1 << 23) * 1000, 23),
            ((1 << 23) * 1000 + 1, 24),
            (u64::MAX, 24),
        ] {
            assert_eq!(bucket_of(nanos), bucket, "{nanos}");
            let longest = bound_us(bucket).map_or(u64::MAX, |us| us * 1000);
            let shortest = bucket.checked_sub(1).and_then(bound_us);
            assert!(nanos <= longest, "{nanos}");
            assert!(shortest.is_none_or(|us| nanos > us * 1000), "{nanos}");
        }
    }

    /// A request is timed when it is answered, whoever does it, and counted when it was asked.
    #[test]
    fn what_is_pending_is_not_timed() {
        let requests = Arc::new(Requests::default());
        let pending = requests.begin(Request::Write);
        assert_eq!(requests.by_name()["write"], 1);
        assert!(requests.times().is_empty());
        let elsewhere = std::thread::spawn(move || drop(pending));
        elsewhere.join().expect("a thread");
        let times = &requests.times()["write"];
        assert_eq!((times.count, times.buckets.iter().sum()), (1, 1));
        assert_eq!(times.buckets.len(), BOUNDS + 1);
        requests.answered(Request::Read, Duration::from_millis(3));
        let times = &requests.times()["read"];
        assert_eq!((times.total_us, times.buckets[12]), (3000, 1));
    }

    /// What taking the time of a request costs, in processor time: `cargo test --release --lib --
    /// --ignored --nocapture what_taking_the_time_costs`.
    #[test]
    #[ignore = "a measurement, which nothing depends on"]
    fn what_taking_the_time_costs() {
        use rustix::time::{ClockId, clock_gettime};
        const ROUNDS: u32 = 2_000_000;
        let spent = || {
            let time = clock_gettime(ClockId::ProcessCPUTime);
            time.tv_sec * 1_000_000_000 + time.tv_nsec
        };
        let requests = Arc::new(Requests::default());
        for threads in [1, 2] {
            let each = |timed: bool| {
                let before = spent();
                std::thread::scope(|scope| {
                    for _ in 0..threads {
                        scope.spawn(|| {
                            for _ in 0..ROUNDS {
                                if timed {
                                    drop(requests.begin(Request::Getattr));
                                } else {
                                    requests.count(Request::Getattr);
                                }
                            }
                        });
                    }
                });
                (spent() - before) / (i64::from(ROUNDS) * threads)
            };
            println!(
                "{threads} threads: counted {} ns, counted and timed {} ns a request",
                each(false),
                each(true)
            );
        }
    }
}
