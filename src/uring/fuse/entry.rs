// SPDX-License-Identifier: MIT
//! The memory of one request: where the kernel puts it and takes the answer from.
//!
//! `struct fuse_uring_req_header` of include/uapi/linux/fuse.h on a page of its own, and the
//! payload on the pages behind it. Touched by the kernel only while the thread that the entry
//! belongs to is in `io_uring_enter`: it copies in that thread's context.

use std::ptr::NonNull;

use rustix::mm::{MapFlags, ProtFlags};

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
    payload: usize,
    /// The queue it belongs to: the number of a CPU.
    pub(super) queue: u16,
}

// SAFETY: the mapping belongs to the entry alone.
unsafe impl Send for Entry {}

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
        let base = NonNull::new(base.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        Ok(Self {
            base,
            payload,
            queue,
        })
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
    /// for it.
    ///
    /// # Safety
    /// The kernel has completed the entry's command, and has not got a new one: it leaves the memory
    /// alone meanwhile.
    pub(super) unsafe fn answer(&mut self, serve: &super::Serve) -> (u64, bool) {
        // SAFETY: the caller keeps the kernel away; `self` is borrowed as long as this is.
        let header = unsafe { &mut *self.base.as_ptr().cast::<[u8; HEADER]>() };
        // SAFETY: as above, and the payload begins behind the header's page.
        let payload = unsafe { std::slice::from_raw_parts_mut(self.payload_at(), self.payload) };
        let unique: [u8; 8] = number(header, IN_OUT + 8);
        let commit = u64::from_le_bytes(number(header, RING + 8));
        let bytes = u32::from_le_bytes(number(header, RING + 16)) as usize;
        let request = Incoming {
            header: &number(header, IN_OUT),
            arguments: &number(header, ARGUMENTS),
            bytes: bytes.min(payload.len()),
            payload,
        };
        let awaited = request.is_awaited();
        let (errno, bytes) = serve(request);
        let bytes = u32::try_from(bytes).unwrap_or(0);
        header[IN_OUT..4].copy_from_slice(&(OUT + bytes).to_le_bytes());
        header[4..8].copy_from_slice(&errno.to_le_bytes());
        header[8..16].copy_from_slice(&unique);
        header[RING + 16..RING + 20].copy_from_slice(&bytes.to_le_bytes());
        (commit, awaited)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // SAFETY: the ring that had the entry is gone, and with it the kernel's interest in it.
        let unmapped =
            unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), PAGE + self.payload) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping: {unmapped:?}");
    }
}
