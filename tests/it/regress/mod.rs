// SPDX-License-Identifier: MIT
//! Faults that were found once, and must not come back: each story begins with what went wrong and
//! the order of events that showed it.

mod descriptors;
mod durable;
mod ends;
mod full;
mod locked;
mod names;
mod setid;
mod times;
mod turns;
