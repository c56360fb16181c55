// SPDX-License-Identifier: MIT
//! The memory of one request: where the kernel puts it and takes the answer from.
//!
//! `struct fuse_uring_req_header` of include/uapi/linux/fuse.h on a page of its own, and the
//! payload on the pages behind it. Touched by the kernel only while the thread that the entry
//! belongs to is in `io_uring_enter`: it copies in that thread's context.
//!
//! The payload is mapped twice, once where the kernel looks and once for us. If a thread hangs in a
//! call that reads from it, another one puts new pages where the kernel looks ([`Entry::take_over`]):
//! the call goes on with the old ones, whatever comes meanwhile.

use std::ptr::NonNull;
use std::sync::Arc;

use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};

use super::elsewhere::{Elsewhere, Hangs, Kept, Shop};
use crate::sys::Result;

/// The page in front of the payload, which holds the header.
const PAGE: usize = 4096;
/// `fuse_in_header` on the way in, `fuse_out_header` on the way out.
const IN_OUT: usize = 0;
/// The fixed arguments of the operation.
const ARGUMENTS: usize = 128;
/// `fuse_uring_ent_in_out`: flags, commit id, payload size.
const RING: usize = 256;
/// Of all three.
const HEADER: usize = 288;
/// `fuse_out_header`.
const OUT: u32 = 16;

/// A request as it came.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// `fuse_in_header`.
    pub header: &'a [u8; 40],
    /// The fixed arguments of the operation.
    pub arguments: &'a [u8; 128],
    /// Names and data, and the room for the answer. It begins on a page.
    pub payload: &'a mut [u8],
    /// How much of the payload is of the request.
    pub bytes: usize,
    /// For an answer by another thread.
    pub elsewhere: Elsewhere<'a>,
}

impl Incoming<'_> {
    /// Whether a program waits for the answer, as far as one can tell. For large reads into the page
    /// cache and large writes out of it that is unlikely: the kernel is ahead of the program or
    /// behind it.
    fn is_awaited(&self) -> bool {
        const READ: u32 = 15;
        const WRITE: u32 = 16;
        /// `FUSE_WRITE_CACHE`.
        const DELAYED: u32 = 1;
        /// A smaller one is over before anybody could go elsewhere.
        const LARGE: u32 = 64 << 10;
        let number = |bytes: &[u8], at: usize| {
            let four = bytes.get(at..).and_then(|rest| rest.first_chunk());
            four.map_or(0, |four| u32::from_le_bytes(*four))
        };
        // fuse_read_in and fuse_write_in have size and flags of the open file at the same places.
        let large = number(self.arguments, 16) >= LARGE;
        let direct = number(self.arguments, 32) & libc::O_DIRECT.cast_unsigned() != 0;
        match number(self.header, 4) {
            READ => !large || direct,
            WRITE => !large || number(self.arguments, 20) & DELAYED == 0,
            _ => true,
        }
    }
}

/// An answer: 0 or a negated errno, and how many bytes of the payload it has.
pub type Answer = (i32, usize);

pub(super) struct Entry {
    base: NonNull<u8>,
    /// The payload, for us.
    ours: NonNull<u8>,
    payload: usize,
    /// Another one has `base` now.
    given: bool,
    /// The queue it belongs to: the number of a CPU.
    pub(super) queue: u16,
}

// SAFETY: the mappings belong to the entry alone.
unsafe impl Send for Entry {}

/// New pages at `at`, which is replaced, and the same pages elsewhere.
///
/// # Safety
/// `at` is the beginning of `len` bytes of a mapping of ours that nobody refers to, the kernel apart.
unsafe fn doubled(at: *mut u8, len: usize) -> Result<NonNull<u8>> {
    let pages = rustix::fs::memfd_create(c"fuse-request", MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&pages, len as u64)?;
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let fixed = MapFlags::SHARED | MapFlags::FIXED;
    // SAFETY: passed on to the caller.
    unsafe { rustix::mm::mmap(at.cast(), len, protection, fixed, &pages, 0) }?;
    let anywhere = std::ptr::null_mut();
    // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
    let ours = unsafe { rustix::mm::mmap(anywhere, len, protection, MapFlags::SHARED, &pages, 0) }?;
    NonNull::new(ours.cast()).ok_or(rustix::io::Errno::NOMEM)
}

/// The size of a payload buffer for requests of up to `bytes`: the kernel insists on whole pages,
/// and on two at least.
fn whole(bytes: usize) -> usize {
    bytes.next_multiple_of(PAGE).max(2 * PAGE)
}

fn number<const N: usize>(bytes: &[u8; HEADER], at: usize) -> [u8; N] {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    *found.expect("the header is longer than what is in it")
}

impl Entry {
    /// An entry for a queue. Memory is used only as requests come that need it.
    pub(super) fn new(queue: u16, payload: usize) -> Result<Self> {
        let payload = whole(payload);
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), PAGE + payload, protection, flags)
        }?;
        let base = NonNull::new(base.cast::<u8>()).ok_or(rustix::io::Errno::NOMEM)?;
        // SAFETY: fresh memory, behind its first page.
        let ours = unsafe { doubled(base.as_ptr().wrapping_add(PAGE), payload) }?;
        Ok(Self {
            base,
            ours,
            payload,
            given: false,
            queue,
        })
    }

    /// The entry of a request whose thread hangs, with new pages for what comes next.
    ///
    /// # Errors
    /// When there is no memory; then the request stays without an answer.
    ///
    /// # Safety
    /// The thread that had the entry gives it away ([`Self::give_away`]) and leaves it alone from now
    /// on, except for its own view of the payload.
    pub(super) unsafe fn take_over(kept: &Kept) -> Result<Self> {
        let base = kept.base();
        // SAFETY: it lies behind the header's page, and the caller keeps everybody else away.
        let ours = unsafe { doubled(base.as_ptr().wrapping_add(PAGE), kept.payload) }?;
        Ok(Self {
            base,
            ours,
            payload: kept.payload,
            given: false,
            queue: kept.queue,
        })
    }

    /// Puts an answer where the kernel looks for it.
    ///
    /// # Safety
    /// As for [`Self::answer`].
    pub(super) unsafe fn put(&mut self, unique: [u8; 8], errno: i32, bytes: &[u8]) {
        let len = bytes.len().min(self.payload);
        // SAFETY: the mapping has `payload` bytes, and belongs to the entry.
        let room = unsafe { std::slice::from_raw_parts_mut(self.ours.as_ptr(), len) };
        room.copy_from_slice(&bytes[..len]);
        // SAFETY: passed on to the caller.
        unsafe { self.seal(unique, errno, len) };
    }

    /// # Safety
    /// As for [`Self::answer`].
    unsafe fn seal(&mut self, unique: [u8; 8], errno: i32, bytes: usize) {
        // SAFETY: the caller keeps the kernel away; `self` is borrowed as long as this is.
        let header = unsafe { &mut *self.base.as_ptr().cast::<[u8; HEADER]>() };
        let bytes = u32::try_from(bytes).unwrap_or(0);
        header[IN_OUT..4].copy_from_slice(&(OUT + bytes).to_le_bytes());
        header[4..8].copy_from_slice(&errno.to_le_bytes());
        header[8..16].copy_from_slice(&unique);
        header[RING + 16..RING + 20].copy_from_slice(&bytes.to_le_bytes());
    }

    /// Somebody else has answered, and has the entry.
    pub(super) fn give_away(&mut self) {
        self.given = true;
    }

    /// What the kernel wants to know of it: header and payload.
    pub(super) fn buffers(&self) -> [libc::iovec; 2] {
        [
            libc::iovec {
                iov_base: self.base.as_ptr().cast(),
                iov_len: HEADER,
            },
            libc::iovec {
                iov_base: self.payload_at().cast(),
                iov_len: self.payload,
            },
        ]
    }

    fn payload_at(&self) -> *mut u8 {
        // SAFETY: the mapping is one page and the payload.
        unsafe { self.base.as_ptr().add(PAGE) }
    }

    /// Has the request answered that the kernel has put here, and puts the answer in its place.
    /// What is returned names the request when it is handed back, and tells whether a program waits
    /// for it. `None` if another thread answers: it has the entry from now on.
    ///
    /// # Safety
    /// The kernel has completed the entry's command, and has not got a new one: it leaves the memory
    /// alone meanwhile.
    pub(super) unsafe fn answer(
        &mut self,
        serve: &super::Serve,
        shop: &Arc<Shop>,
        hangs: &Hangs,
    ) -> Option<(u64, bool)> {
        // SAFETY: the caller keeps the kernel away; what is read is copied.
        let header: [u8; HEADER] = unsafe { *self.base.as_ptr().cast() };
        // SAFETY: as above, and nobody else knows where our view of the payload is.
        let payload = unsafe { std::slice::from_raw_parts_mut(self.ours.as_ptr(), self.payload) };
        let unique: [u8; 8] = number(&header, IN_OUT + 8);
        let commit = u64::from_le_bytes(number(&header, RING + 8));
        let bytes = u32::from_le_bytes(number(&header, RING + 16)) as usize;
        let kept = Kept::new(self.base, self.payload, self.queue, (unique, commit));
        let request = Incoming {
            header: &number(&header, IN_OUT),
            arguments: &number(&header, ARGUMENTS),
            bytes: bytes.min(payload.len()),
            payload,
            elsewhere: Elsewhere::new(shop, hangs, kept),
        };
        let awaited = request.is_awaited();
        let Some((errno, bytes)) = serve(request) else {
            self.give_away();
            return None;
        };
        // SAFETY: as above.
        unsafe { self.seal(unique, errno, bytes) };
        Some((commit, awaited))
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // SAFETY: nobody reads through it any more.
        let ours = unsafe { rustix::mm::munmap(self.ours.as_ptr().cast(), self.payload) };
        debug_assert!(ours.is_ok(), "munmap of our own mapping: {ours:?}");
        if self.given {
            return;
        }
        // SAFETY: the ring that had the entry is gone, and with it the kernel's interest in it.
        let unmapped =
            unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), PAGE + self.payload) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping: {unmapped:?}");
    }
}
