// SPDX-License-Identifier: MIT
//! An entry without a kernel: what is read from its memory and what is put there.

use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use super::elsewhere::{Hangs, Shop};
use super::entry::{Entry, Incoming};

/// What threads have in common that have no kernel.
fn shop() -> Arc<Shop> {
    let nothing = || rustix::fs::open("/dev/null", OFlags::RDONLY, Mode::empty()).expect("open");
    Arc::new(Shop {
        device: nothing(),
        end: nothing(),
        serve: Arc::new(|_| None),
        again: parking_lot::Mutex::default(),
    })
}

/// Puts a request into an entry as the kernel would, has it answered, and hands back what is there.
fn answered(
    header: &[(usize, u64)],
    payload: &[u8],
    serve: &super::Serve,
) -> (u64, bool, Vec<u8>, Vec<u8>) {
    let mut entry = Entry::new(3, 1).expect("memory");
    let [head, body] = entry.buffers();
    assert_eq!(
        (head.iov_len, body.iov_len),
        (288, 8192),
        "what the kernel insists on"
    );
    assert_eq!(body.iov_base.addr() % 4096, 0);
    // SAFETY: memory of the entry, which nobody else has yet.
    let head = unsafe { std::slice::from_raw_parts_mut(head.iov_base.cast::<u8>(), 288) };
    // SAFETY: as above, and apart from the header.
    let body = unsafe { std::slice::from_raw_parts_mut(body.iov_base.cast::<u8>(), 8192) };
    for (at, number) in header {
        head[*at..at + 8].copy_from_slice(&number.to_le_bytes());
    }
    body[..payload.len()].copy_from_slice(payload);
    // SAFETY: no kernel has it.
    let answered = unsafe { entry.answer(serve, &shop(), &Hangs::default()) };
    let (commit, awaited) = answered.expect("an answer");
    (commit, awaited, head.to_vec(), body.to_vec())
}

#[test]
fn an_answer_lies_where_the_kernel_looks() {
    let serve = |request: Incoming<'_>| {
        assert_eq!(request.header[8..16], 0x1111_u64.to_le_bytes());
        assert_eq!(request.arguments[..8], 0x2222_u64.to_le_bytes());
        assert_eq!(&request.payload[..request.bytes], b"name\0");
        request.payload[..6].copy_from_slice(b"answer");
        Some((-2, 6))
    };
    let header = [(8, 0x1111), (128, 0x2222), (264, 0x3333), (272, 5)];
    let (commit, awaited, head, body) = answered(&header, b"name\0", &serve);
    assert_eq!((commit, awaited), (0x3333, true));
    assert_eq!(head[..4], 22_u32.to_le_bytes());
    assert_eq!(head[4..8], (-2_i32).to_le_bytes());
    assert_eq!(head[8..16], 0x1111_u64.to_le_bytes());
    assert_eq!(head[272..276], 6_u32.to_le_bytes());
    assert_eq!(&body[..6], b"answer");
}

/// Opcode, size with write flags, flags of the open file: whether somebody waits.
#[test]
fn reading_ahead_and_writing_back_are_awaited_by_nobody() {
    let large = 128 << 10;
    let direct = u64::from(libc::O_DIRECT.cast_unsigned());
    for (opcode, size, flags, awaited) in [
        (15, large, 0, false),
        (15, 4096, 0, true),
        (15, large, direct, true),
        (16, large, 0, true),
        (16, large | 1 << 32, 0, false),
        (16, 4096 | 1 << 32, 0, true),
        (12, large, 0, true),
    ] {
        let header = [(0, opcode << 32), (144, size), (160, flags)];
        let told = answered(&header, b"", &|_| Some((0, 0))).1;
        assert_eq!(told, awaited, "{opcode} {size} {flags}");
    }
}

/// A thread hangs with a request: another one answers it and has the entry from then on, while the data
/// of the request stays what it was for whoever still reads it.
#[test]
fn an_entry_is_taken_over_from_a_thread_that_hangs() {
    let mut entry = Entry::new(3, 1).expect("memory");
    let [head, body] = entry.buffers();
    let [head, body] = [head, body].map(|buffer| buffer.iov_base.expose_provenance());
    let at = |address: usize, len: usize| {
        let start = std::ptr::with_exposed_provenance_mut::<u8>(address);
        // SAFETY: memory of the entry, which the test alone plays the kernel of.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    };
    at(head, 288)[264..272].copy_from_slice(&0x77_u64.to_le_bytes());
    at(head, 288)[272..280].copy_from_slice(&3_u64.to_le_bytes());
    at(body, 3).copy_from_slice(b"old");
    let again = Arc::new(parking_lot::Mutex::new(None));
    let kept = again.clone();
    let late = move |request: Incoming<'_>| {
        // SAFETY: the request is given away below.
        let mut taken = unsafe { Entry::take_over(&request.elsewhere.kept()) }.expect("memory");
        // SAFETY: no kernel has it.
        unsafe { taken.put([9; 8], -5, b"late") };
        assert_eq!(at(body, 4), b"late");
        assert_eq!(at(head, 288)[4..8], (-5_i32).to_le_bytes());
        assert_eq!(at(head, 288)[8..16], [9; 8]);
        at(body, 3).copy_from_slice(b"new");
        assert_eq!(&request.payload[..3], b"old", "what the late call reads");
        *kept.lock() = Some(taken);
        None
    };
    // SAFETY: no kernel has it.
    let answered = unsafe { entry.answer(&late, &shop(), &Hangs::default()) };
    assert!(answered.is_none());
    drop(entry);
    assert_eq!(at(body, 3), b"new", "its memory is the other one's");
    assert!(again.lock().take().is_some());
}
