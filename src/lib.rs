// SPDX-License-Identifier: MIT
//! mirrorfs keeps a second copy of a directory, live.
#![deny(unsafe_code)]

pub mod mirror;
pub mod store;
#[allow(unsafe_code)]
pub mod sys;
