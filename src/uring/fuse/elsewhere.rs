// SPDX-License-Identifier: MIT
//! Answers by another thread than the one that has the request, because that one hangs.
//!
//! A ring may be entered by its own thread only. But the kernel takes an answer through any ring, and
//! the entry with it (`fuse_uring_commit_fetch` of fs/fuse/dev_uring.c notes the command that brought
//! it). So a new thread with a ring of its own hands the answer back, and serves the entry in the
//! stead of the one that hangs.

use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::entry::Entry;
use super::{Desk, Serve};

/// What all threads of a mount have in common.
pub(super) struct Shop {
    /// `/dev/fuse`.
    pub(super) device: OwnedFd,
    /// Readable when the threads are to end.
    pub(super) end: OwnedFd,
    pub(super) serve: Arc<Serve>,
    /// Those that came later, in the stead of others, and whether each hangs, too.
    pub(super) again: Mutex<Vec<(JoinHandle<()>, Hangs)>>,
}

impl std::fmt::Debug for Shop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shop").finish_non_exhaustive()
    }
}

/// Whether another thread has the entry of this one.
pub(super) type Hangs = Arc<AtomicBool>;

/// Where an entry is and which request it has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    base: usize,
    pub(super) payload: usize,
    pub(super) queue: u16,
    unique: [u8; 8],
    commit: u64,
}

impl Kept {
    pub(super) fn new(
        base: NonNull<u8>,
        payload: usize,
        queue: u16,
        (unique, commit): ([u8; 8], u64),
    ) -> Self {
        Self {
            base: base.as_ptr().expose_provenance(),
            payload,
            queue,
            unique,
            commit,
        }
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        let base = std::ptr::with_exposed_provenance_mut(self.base);
        NonNull::new(base).expect("it came from one")
    }
}

/// The way to answer a request from another thread.
#[derive(Clone, Copy, Debug)]
pub struct Elsewhere<'a> {
    shop: &'a Arc<Shop>,
    hangs: &'a Hangs,
    kept: Kept,
}

/// Answers a request: 0 or a negated errno, and the bytes of the answer.
pub type Late = Box<dyn FnOnce(i32, &[u8]) + Send>;

impl<'a> Elsewhere<'a> {
    pub(super) fn new(shop: &'a Arc<Shop>, hangs: &'a Hangs, kept: Kept) -> Self {
        Self { shop, hangs, kept }
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> Kept {
        self.kept
    }

    /// Something that answers the request, while the thread that has it hangs: who hands out this
    /// must see to it that the thread then leaves the request alone (`None` for an answer).
    #[must_use]
    pub fn keep(self) -> Late {
        let (shop, hangs, kept) = (self.shop.clone(), self.hangs.clone(), self.kept);
        Box::new(move |errno, bytes| {
            hangs.store(true, Ordering::Release);
            shop.answer(kept, errno, bytes.to_vec());
        })
    }
}

impl Shop {
    fn answer(self: Arc<Self>, kept: Kept, errno: i32, bytes: Vec<u8>) {
        let (shop, hangs) = (self.clone(), Hangs::default());
        let own = hangs.clone();
        let serve = move || {
            // SAFETY: the thread that hangs gives its entry away once it is back (`Entry::answer`).
            let taken = unsafe { Entry::take_over(&kept) };
            let begun = taken.map_err(Into::into).and_then(|mut entry| {
                // SAFETY: the kernel has completed its command, and gets the next one below.
                unsafe { entry.put(kept.unique, errno, &bytes) };
                Desk::instead(entry, kept.commit, &shop, own)
            });
            match begun {
                Ok(desk) => desk.work(&*shop.serve),
                Err(error) => tracing::error!("a request stays without an answer: {error}"),
            }
        };
        let thread = std::thread::Builder::new().name("fuse-again".to_owned());
        match thread.spawn(serve) {
            Ok(handle) => self.again.lock().push((handle, hangs)),
            Err(error) => tracing::error!("a request stays without an answer: {error}"),
        }
    }
}
