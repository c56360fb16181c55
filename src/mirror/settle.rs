// SPDX-License-Identifier: MIT
//! `settle`: from what the primary and the replica did to the one answer the caller gets. Pure.
//!
//! The primary decides, the replica obeys. A replica that could not follow is never an error for
//! the application, unless it was asked to be (`on-replica-error=fail`); it is a reason to call
//! the mirror degraded.

use crate::sys::{Errno, Result};

/// What came of carrying an op to the replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// The replica did exactly what the primary did.
    Done,
    /// The replica is known to be behind; that is on record, and the op was not carried.
    Skipped,
    /// The replica failed just now, or did something else; that is on record.
    Failed,
    /// The replica is behind and no record of it could be made on any copy.
    Unrecorded,
}

/// What the application is to hear when the replica fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnReplicaError {
    #[default]
    /// Nothing: the mount goes on, degraded.
    Degrade,
    /// `EIO`.
    Fail,
}

/// The answer to an op whose primary result is `primary`.
///
/// # Errors
/// The primary's own error as it is. `EIO` when the doubt could not be recorded (docs/SAFETY.md, rule
/// 7), or when the user wants replica errors to be errors.
pub fn settle<T>(primary: Result<T>, carried: Carried, policy: OnReplicaError) -> Result<T> {
    let answer = primary?;
    match (carried, policy) {
        (Carried::Done, _) | (Carried::Skipped | Carried::Failed, OnReplicaError::Degrade) => {
            Ok(answer)
        }
        (Carried::Unrecorded, _) | (_, OnReplicaError::Fail) => Err(Errno::IO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination() {
        use Carried::{Done, Failed, Skipped, Unrecorded};
        use OnReplicaError::{Degrade, Fail};
        let full = Err(Errno::NOSPC);
        for (primary, carried, policy, answer) in [
            (Ok(1), Done, Degrade, Ok(1)),
            (Ok(1), Skipped, Degrade, Ok(1)),
            (Ok(1), Failed, Degrade, Ok(1)),
            (Ok(1), Unrecorded, Degrade, Err(Errno::IO)),
            (Ok(1), Done, Fail, Ok(1)),
            (Ok(1), Skipped, Fail, Err(Errno::IO)),
            (Ok(1), Failed, Fail, Err(Errno::IO)),
            (Ok(1), Unrecorded, Fail, Err(Errno::IO)),
            (full, Done, Degrade, full),
            (full, Unrecorded, Fail, full),
        ] {
            assert_eq!(
                settle(primary, carried, policy),
                answer,
                "{primary:?} {carried:?}"
            );
        }
    }
}
