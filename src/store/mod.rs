// SPDX-License-Identifier: MIT
//! FLOOR 2: one directory tree.

pub mod name;
pub mod stat;
pub mod walk;
