// SPDX-License-Identifier: MIT
//! FLOOR 3: replication.

pub mod attach;
mod attrs;
mod content;
pub mod decide;
pub mod failure;
pub mod identity;
pub mod progress;
pub mod refusal;
pub mod resync;
pub mod stamp;
pub mod state;
