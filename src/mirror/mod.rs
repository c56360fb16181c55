// SPDX-License-Identifier: MIT
//! FLOOR 3: replication.

pub mod report;
