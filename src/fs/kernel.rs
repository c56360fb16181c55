// SPDX-License-Identifier: MIT
//! What the session and the file system tell each other, and the kernel, beside requests.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use fuser::INodeNo;

/// What the session and the file system tell each other about the kernel.
#[derive(Clone, Debug, Default)]
pub struct Kernel(Arc<Talk>);

#[derive(Debug, Default)]
struct Talk {
    /// The way to tell the kernel something unasked, once the session has begun.
    notifier: OnceLock<fuser::Notifier>,
    /// Requests are to come through rings.
    rings_wanted: AtomicBool,
    /// The kernel will send them there, and waits for the rings.
    rings_agreed: AtomicBool,
}

impl Kernel {
    /// Hands over the session's notifier.
    pub fn connect(&self, notifier: fuser::Notifier) {
        // A second session on the same file system there is none.
        let _first = self.0.notifier.set(notifier);
    }

    /// Before the handshake: requests are to come through rings (FUSE over io_uring). Whoever asks
    /// must have them ready: once it has agreed the kernel waits for them.
    pub fn want_rings(&self) {
        self.0.rings_wanted.store(true, Ordering::Release);
    }

    /// In the handshake: whether rings are ready.
    pub(super) fn wants_rings(&self) -> bool {
        self.0.rings_wanted.load(Ordering::Acquire)
    }

    /// In the handshake: whether the kernel will send requests there.
    pub(super) fn agree_on_rings(&self, agreed: bool) {
        self.0.rings_agreed.store(agreed, Ordering::Release);
    }

    /// After the handshake: whether the kernel waits for the rings.
    #[must_use]
    pub fn waits_for_rings(&self) -> bool {
        self.0.rings_agreed.load(Ordering::Acquire)
    }

    /// Makes the kernel ask again for a node's attributes.
    pub(super) fn forget_attributes(&self, ino: INodeNo) {
        // A negative offset leaves the content alone (fuse_reverse_inval_inode).
        if let Some(Err(error)) = self
            .0
            .notifier
            .get()
            .map(|notifier| notifier.inval_inode(ino, -1, 0))
        {
            tracing::debug!("the kernel keeps old attributes of {ino}: {error}");
        }
    }
}
