// SPDX-License-Identifier: MIT
//! The oracle: what the trees have to hold after everything that was acknowledged.
//!
//! A *load* (a process of its own, `client`) changes disjoint subtrees with several threads and
//! notes each op before it begins and after it was answered, outside the mount. The *judge* applies
//! what was answered to a *model* and holds each copy against it. The op that was under way when the
//! daemon died may be done, not done, or, for bytes, done in part; nothing else may.

pub(crate) mod client;
pub(crate) mod judge;
pub(crate) mod model;
mod oneself;
pub(crate) mod op;
pub(crate) mod power;
