// SPDX-License-Identifier: MIT
//! Side room: named counters, which anyone may bump.
//!
//! Counters are cumulative since mount, never reset, and cost one relaxed atomic addition. Their
//! names are part of the interface (docs/CLI_ABI.md): stable unless it says otherwise.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// How often the kernel asked what.
#[derive(Debug)]
pub struct Requests([AtomicU64; NAMES.len()]);

impl Default for Requests {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Requests {
    /// One more.
    pub fn count(&self, request: Request) {
        self.0[request as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Those that were asked at all, by name.
    #[must_use]
    pub fn by_name(&self) -> BTreeMap<String, u64> {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        let named = NAMES.iter().map(|name| (*name).to_owned()).zip(counts);
        named.filter(|(_, count)| *count > 0).collect()
    }
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
}
