// SPDX-License-Identifier: MIT
//! FLOOR 0: what the Linux kernel offers and rustix does not, plainly.
//!
//! Imports nothing of ours. One of the two rooms in which `unsafe` is allowed. Every function
//! returns the raw `Errno`; nothing here decides anything.

pub mod at;
pub mod clock;
pub mod confine;
pub mod creds;
pub mod files;
pub mod localtime;
pub mod mountinfo;
pub mod process;
pub mod random;
pub mod signals;

pub use rustix::io::Errno;

/// The result of a system call: the raw errno travels unchanged up to `fs/reply.rs`.
pub type Result<T> = std::result::Result<T, Errno>;
