// SPDX-License-Identifier: MIT
//! Ways in for fuzzing, one for each target of tests/fuzz: bytes that anybody may have written, put
//! through what reads them. Not part of the product.
//!
//! Each asserts more than that nothing panics: what was read and is written again reads the same,
//! and nothing that is shown steers a terminal.

pub use crate::cli::fuzzing::{control, options};

/// What is said in the write-intent log.
pub fn log(data: &[u8]) {
    crate::journal::fuzzing::log(data);
}

/// What stands in the stamps of two roots.
pub fn stamp(data: &[u8]) {
    crate::mirror::attach::fuzzing::stamp(data);
}

/// What the kernel says is mounted: sources and options of FUSE mounts are anybody's to choose.
pub fn mountinfo(data: &[u8]) {
    crate::sys::mountinfo::fuzzing::mountinfo(data);
}

#[cfg(test)]
mod tests;
