// SPDX-License-Identifier: MIT
//! `Buffers`: memory for bytes on their way, with a limit.
//!
//! One anonymous mapping, as large as the limit and touched only where used, cut into chunks of
//! 1 MiB. A payload lies within one chunk: large ones begin on a page, small ones follow each
//! other. A chunk is free again when its last payload is dropped, and the chunk freed last is
//! taken first, so that memory follows the peak and not the history.
//!
//! [`Bytes`] are written once, by [`Buffers::fill`], before anyone else can see them, and are
//! read-only from then on. That is what makes them safe to share with other threads and with the
//! kernel.

use std::fmt;
use std::ops::{Deref, Range};
use std::ptr::NonNull;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use rustix::mm::{MapFlags, ProtFlags};

use super::counters::{Count, Counters};
use crate::sys::Result;

/// The size of a chunk, and of the largest payload.
pub const CHUNK: usize = 1 << 20;
/// From here on a payload gets pages of its own.
const LARGE: usize = 64 << 10;
const PAGE: usize = 4096;
/// A cache line: two small payloads never share one.
const LINE: usize = 64;

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// The limit is reached; there will be room when something is dropped.
    Full,
    /// More than a [`CHUNK`]: there will never be room. Cut it.
    TooLarge,
    /// [`Buffers::close`] was called.
    Closed,
}

/// Memory for bytes on their way. Cheap to clone: all clones share one limit.
#[derive(Clone, Debug)]
pub struct Buffers(Arc<Arena>);

/// What an arena holds and held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The limit.
    pub cap_bytes: usize,
    /// In chunks that hold something now.
    pub used_bytes: usize,
    /// The most that was ever used, and so touched.
    pub peak_bytes: usize,
}

/// The mapping and who uses what of it.
pub(super) struct Arena {
    base: NonNull<u8>,
    chunks: usize,
    state: Mutex<State>,
    room: Condvar,
    counters: Arc<Counters>,
}

// SAFETY: the mapping belongs to the arena alone and is unmapped only when it is dropped; ranges of
// it are handed out once at a time, under the lock, and written only by whoever got them.
unsafe impl Send for Arena {}
// SAFETY: as above; everything else in it is Sync by itself.
unsafe impl Sync for Arena {}

#[derive(Default)]
struct State {
    /// Chunks that hold nothing; the last one is taken first.
    free: Vec<usize>,
    chunks: Vec<Chunk>,
    /// The chunks that take the next small and the next large payload.
    current: [Option<usize>; 2],
    peak: usize,
    waiting: usize,
    closed: bool,
}

#[derive(Clone, Copy, Default)]
struct Chunk {
    used: usize,
    live: usize,
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena")
            .field("chunks", &self.chunks)
            .finish_non_exhaustive()
    }
}

impl Buffers {
    /// Room for `cap_bytes`, at least one chunk.
    ///
    /// # Errors
    /// Whatever mmap says.
    pub fn new(cap_bytes: usize, counters: Arc<Counters>) -> Result<Self> {
        let chunks = (cap_bytes / CHUNK).max(1);
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), chunks * CHUNK, protection, flags)
        }?;
        let base = NonNull::new(base.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        let state = State {
            free: (0..chunks).rev().collect(),
            chunks: vec![Chunk::default(); chunks],
            ..State::default()
        };
        Ok(Self(Arc::new(Arena {
            base,
            chunks,
            state: Mutex::new(state),
            room: Condvar::new(),
            counters,
        })))
    }

    /// A copy of `data`.
    ///
    /// # Errors
    /// [`NoRoom`], at once.
    pub fn fill(&self, data: &[u8]) -> std::result::Result<Bytes, NoRoom> {
        let range = self.0.state.lock().take(data.len())?;
        Ok(self.copy(range, data))
    }

    /// A copy of `data`; waits for room while the limit is reached.
    ///
    /// # Errors
    /// [`NoRoom::TooLarge`], or [`NoRoom::Closed`] when it is closed while waiting.
    pub fn fill_when_room(&self, data: &[u8]) -> std::result::Result<Bytes, NoRoom> {
        let mut state = self.0.state.lock();
        let range = loop {
            match state.take(data.len()) {
                Err(NoRoom::Full) => {
                    state.waiting += 1;
                    self.0.room.wait(&mut state);
                    state.waiting -= 1;
                }
                taken => break taken?,
            }
        };
        drop(state);
        Ok(self.copy(range, data))
    }

    /// The one copy there is.
    fn copy(&self, (chunk, range): (usize, Range<usize>), data: &[u8]) -> Bytes {
        debug_assert_eq!(range.len(), data.len());
        let piece = Piece {
            arena: Arc::clone(&self.0),
            chunk,
            start: range.start,
            len: data.len(),
        };
        // SAFETY: the range lies within the mapping, and `take` has given it to us alone until
        // the piece is dropped; `data` cannot overlap it, since no one else refers to it.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), piece.address(), data.len()) };
        self.0.counters.add(Count::BytesCopied, data.len() as u64);
        Bytes(Arc::new(piece))
    }

    /// Nothing more is taken in; whoever waits for room is sent away.
    pub fn close(&self) {
        self.0.state.lock().closed = true;
        self.0.room.notify_all();
    }

    /// What is in use.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let state = self.0.state.lock();
        Usage {
            cap_bytes: self.0.chunks * CHUNK,
            used_bytes: (self.0.chunks - state.free.len()) * CHUNK,
            peak_bytes: state.peak * CHUNK,
        }
    }
}

impl State {
    /// A range of its own for `len` bytes: the chunk, and where in it.
    fn take(&mut self, len: usize) -> std::result::Result<(usize, Range<usize>), NoRoom> {
        if self.closed {
            return Err(NoRoom::Closed);
        }
        if len > CHUNK {
            return Err(NoRoom::TooLarge);
        }
        let large = len >= LARGE;
        let align = if large { PAGE } else { LINE };
        let begin = |chunk: &Chunk| chunk.used.next_multiple_of(align);
        let current = self.current[usize::from(large)];
        let fits = current.filter(|&index| begin(&self.chunks[index]) + len <= CHUNK);
        let index = match fits {
            Some(index) => index,
            None => {
                let index = self.free.pop().ok_or(NoRoom::Full)?;
                self.peak = self.peak.max(self.chunks.len() - self.free.len());
                // The one with more room left takes the next payload.
                if current.is_none_or(|old| self.chunks[old].used >= len) {
                    self.current[usize::from(large)] = Some(index);
                }
                index
            }
        };
        let chunk = &mut self.chunks[index];
        let start = begin(chunk);
        chunk.used = start + len;
        chunk.live += 1;
        Ok((index, start..start + len))
    }

    /// Gives back one payload of a chunk; true if that made room.
    fn give(&mut self, index: usize) -> bool {
        let chunk = &mut self.chunks[index];
        chunk.live -= 1;
        if chunk.live > 0 {
            return false;
        }
        chunk.used = 0;
        for current in &mut self.current {
            if *current == Some(index) {
                *current = None;
            }
        }
        self.free.push(index);
        true
    }
}

impl Arena {
    /// How many chunks there are.
    pub(super) fn chunks(&self) -> usize {
        self.chunks
    }

    /// Where a chunk begins. Its memory stays until the arena is dropped.
    pub(super) fn chunk(&self, index: usize) -> *mut u8 {
        assert!(index < self.chunks, "a chunk of this arena");
        // SAFETY: within the mapping, as just checked.
        unsafe { self.base.as_ptr().add(index * CHUNK) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: every piece holds the arena, so nothing refers to the mapping any more.
        let unmapped =
            unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.chunks * CHUNK) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping: {unmapped:?}");
    }
}

/// A range of an arena that is somebody's.
struct Piece {
    arena: Arc<Arena>,
    chunk: usize,
    start: usize,
    len: usize,
}

impl Piece {
    fn address(&self) -> *mut u8 {
        // SAFETY: `take` answers ranges within a chunk.
        unsafe { self.arena.chunk(self.chunk).add(self.start) }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut state = self.arena.state.lock();
        if state.give(self.chunk) && state.waiting > 0 {
            self.arena.room.notify_all();
        }
    }
}

/// Bytes in an arena, shared and read-only; their room is free again when the last clone is dropped.
#[derive(Clone)]
pub struct Bytes(Arc<Piece>);

impl Bytes {
    /// The arena and the chunk in which they lie.
    pub(super) fn home(&self) -> (&Arc<Arena>, usize) {
        (&self.0.arena, self.0.chunk)
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the range was written in full before these Bytes were made, is ours until the
        // last clone is dropped, and nobody writes to it until then.
        unsafe { std::slice::from_raw_parts(self.0.address(), self.0.len) }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Bytes({} at {}:{})",
            self.0.len, self.0.chunk, self.0.start
        )
    }
}

#[cfg(test)]
mod tests;
