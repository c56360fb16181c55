// SPDX-License-Identifier: MIT
//! mirrorfs keeps a second copy of a directory, live.
//!
//! Every change made through the mount is one [`store::Op`], goes through one door,
//! [`mirror::Mirror::apply_then`], and is made on both copies. The rooms of the house, from the top
//! floor down; a room may use the floors below it, as `tests/tidy.rs` checks:
//!
//! | floor | room | job |
//! |---|---|---|
//! | 6 | [`cli`] | words in, words out, exit code |
//! | 5 | [`session`] | build the house, keep it, close it |
//! | 4 | [`fs`] | answer the kernel |
//! | 3 | [`mirror`] | make every change twice, and know when it could not |
//! | 2 | [`journal`] | say what may differ, before it does |
//! | 2 | [`store`] | one tree, safely walked |
//! | 1 | [`uring`] | many disk operations at once, none lost |
//! | 0 | [`sys`] | what the kernel offers and rustix does not |
//! | side | [`metrics`] | count |
#![deny(unsafe_code)]

pub mod cli;
pub mod fs;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod journal;
pub mod metrics;
pub mod mirror;
pub mod session;
pub mod store;
#[allow(unsafe_code)]
pub mod sys;
#[allow(unsafe_code)]
pub mod uring;
