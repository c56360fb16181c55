// SPDX-License-Identifier: MIT
//! One integration binary: the real `mirrorfs` on real trees, looked at from outside.
//!
//! Every story makes its own mirror, does something to it, unmounts it and compares the two copies
//! completely. Settings from the environment: `MIRRORFS_TEST_DIR` (where trees are made),
//! `MIRRORFS_SEED` (repeats a random run), `MIRRORFS_CHURN`, `MIRRORFS_SECONDS`, `MIRRORFS_FSX`
//! (longer random runs), `MIRRORFS_TEST_OPTIONS` (more `-o` options for every mirror, such as
//! `cache=writeback`), `MIRRORFS_CHANGES` (of the stat cache), `MIRRORFS_KILLS`, `MIRRORFS_CUTS`,
//! `MIRRORFS_MILLION` (see `faults`), `MIRRORFS_VERIFIES` and `MIRRORFS_FLIPS` (see `verify`), `MIRRORFS_TEST_NATIVE=1` (no product: tries out the tests themselves),
//! `MIRRORFS_TEST_TELL=1` (prints what each parity story learned).
#![allow(
    clippy::disallowed_methods,
    reason = "tests look at the trees from outside, by path"
)]
#![allow(clippy::cast_possible_truncation, reason = "test data is small")]

mod asynchronous;
mod attack;
mod bench;
mod churn;
mod cli;
mod compare_itself;
mod degrade;
mod direct;
mod escape;
mod examples;
mod far;
mod faults;
mod hang;
mod known_issues;
mod limits;
mod posix;
mod promote;
mod random4;
mod regress;
mod requests;
mod semantics;
mod shared;
mod stat_cache;
mod support;
mod syscalls;
mod transport;
mod verify;
mod workloads;
mod writeback;
