// SPDX-License-Identifier: MIT
//! Buffers: the limit, what is reused, where payloads lie, and that none is touched by another.

use std::sync::mpsc;

use proptest::prelude::*;

use super::*;

fn buffers(chunks: usize) -> Buffers {
    Buffers::new(chunks * CHUNK, Arc::new(Counters::default())).expect("a mapping")
}

fn address(bytes: &Bytes) -> usize {
    bytes.as_ptr().addr()
}

#[test]
fn the_limit_holds_and_room_comes_back() {
    let buffers = buffers(2);
    let whole = vec![7; CHUNK];
    let first = buffers.fill(&whole).expect("room");
    let second = buffers.fill(&whole).expect("room");
    assert_eq!(buffers.fill(b"x").err(), Some(NoRoom::Full));
    let clone = first.clone();
    drop(first);
    assert_eq!(
        buffers.fill(b"x").err(),
        Some(NoRoom::Full),
        "a clone holds it"
    );
    assert_eq!(*clone, *whole);
    drop(clone);
    assert_eq!(&*buffers.fill(b"x").expect("room"), b"x");
    drop(second);
    let expected = Usage {
        cap_bytes: 2 * CHUNK,
        used_bytes: 0,
        peak_bytes: 2 * CHUNK,
    };
    assert_eq!(buffers.usage(), expected);
    assert_eq!(
        buffers.fill(&vec![0; CHUNK + 1]).err(),
        Some(NoRoom::TooLarge)
    );
    assert_eq!(
        buffers.0.counters.get(Count::BytesCopied),
        2 * CHUNK as u64 + 1
    );
}

#[test]
fn memory_follows_the_peak_and_not_the_history() {
    let buffers = buffers(64);
    let first = address(&buffers.fill(&[1; LARGE]).expect("room"));
    for round in 0..1000 {
        let bytes = buffers.fill(&vec![2; 1 + round * 1000]).expect("room");
        assert_eq!(
            address(&bytes) / CHUNK,
            first / CHUNK,
            "the chunk freed last is taken first"
        );
    }
    assert_eq!(buffers.usage().peak_bytes, CHUNK);
}

#[test]
fn payloads_lie_where_they_should() {
    let buffers = buffers(4);
    let small: Vec<_> = (1..100)
        .map(|len| buffers.fill(&vec![9; len]).expect("room"))
        .collect();
    assert!(
        small
            .iter()
            .all(|bytes| address(bytes).is_multiple_of(LINE))
    );
    let one_chunk = |set: &[Bytes]| set.iter().all(|bytes| bytes.home().1 == set[0].home().1);
    assert!(one_chunk(&small), "small ones share a chunk");
    let large: Vec<_> = (0..4)
        .map(|n| buffers.fill(&vec![8; LARGE + n]).expect("room"))
        .collect();
    assert!(
        large
            .iter()
            .all(|bytes| address(bytes).is_multiple_of(PAGE))
    );
    assert!(one_chunk(&large), "large ones do too");
    // A payload that needs a chunk to itself does not end the one that is being filled.
    let whole = buffers.fill(&vec![7; CHUNK]).expect("room");
    let next = buffers.fill(&vec![6; LARGE]).expect("room");
    assert_ne!(whole.home().1, next.home().1);
    assert_eq!(next.home().1, large[0].home().1);
    assert!(buffers.fill(b"").expect("room").is_empty());
}

#[test]
fn who_waits_for_room_gets_it_or_is_sent_away() {
    let buffers = buffers(1);
    let held = buffers.fill(&[1; CHUNK]).expect("room");
    let (told, tell) = mpsc::channel();
    let waiter = |data: u8| {
        let (buffers, told) = (buffers.clone(), told.clone());
        std::thread::spawn(move || {
            let got = buffers.fill_when_room(&[data; CHUNK]);
            told.send(got.map(|bytes| bytes[CHUNK - 1]))
                .expect("someone listens");
        })
    };
    let until_waiting = |n| {
        while buffers.0.state.lock().waiting < n {
            std::thread::yield_now();
        }
    };
    let threads = [waiter(2), waiter(3)];
    until_waiting(2);
    drop(held);
    // One takes the room and gives it up, which makes room for the other.
    let mut got = [tell.recv().expect("one"), tell.recv().expect("other")];
    got.sort_unstable_by_key(|got| got.ok());
    assert_eq!(got, [Ok(2), Ok(3)]);
    for thread in threads {
        thread.join().expect("no panic");
    }

    let _held = buffers.fill(&[1; CHUNK]).expect("room");
    let thread = waiter(4);
    until_waiting(1);
    buffers.close();
    assert_eq!(tell.recv().expect("an answer"), Err(NoRoom::Closed));
    thread.join().expect("no panic");
    assert_eq!(buffers.fill(b"x").err(), Some(NoRoom::Closed));
}

#[test]
fn bytes_outlive_their_buffers_and_travel() {
    let bytes = buffers(1).fill(b"still there").expect("room");
    let there = std::thread::spawn(move || bytes.to_vec())
        .join()
        .expect("no panic");
    assert_eq!(there, b"still there");
}

#[test]
fn many_threads_share_one_limit() {
    let buffers = buffers(3);
    let threads: Vec<_> = (1..=4_u8)
        .map(|id| {
            let buffers = buffers.clone();
            std::thread::spawn(move || {
                let mut kept = std::collections::VecDeque::new();
                for round in 0..500_usize {
                    let len = (round * 7919 * usize::from(id)) % (CHUNK / 3);
                    match buffers.fill(&vec![id; len]) {
                        Ok(bytes) => kept.push_back(bytes),
                        Err(_) => drop(kept.pop_front()),
                    }
                    if round % 3 == 0 {
                        kept.pop_front();
                    }
                    assert!(kept.iter().all(|bytes| bytes.iter().all(|b| *b == id)));
                    assert!(kept.len() < 5 || kept.pop_front().is_some());
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    assert_eq!(buffers.usage().used_bytes, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Fills and drops in any order: no payload overlaps another, each keeps what it was filled
    /// with, and everything is free in the end.
    #[test]
    fn payloads_never_meet(
        steps in prop::collection::vec((any::<bool>(), 0_usize..CHUNK, any::<u8>(), any::<prop::sample::Index>()), 1..80)
    ) {
        let buffers = buffers(4);
        let mut kept: Vec<(Bytes, u8)> = Vec::new();
        for (take, len, fill, which) in steps {
            if take || kept.is_empty() {
                let len = if fill < 128 { len % 5000 } else { len };
                match buffers.fill(&vec![fill; len]) {
                    Ok(bytes) => kept.push((bytes, fill)),
                    Err(refused) => prop_assert_eq!(refused, NoRoom::Full),
                }
            } else {
                kept.swap_remove(which.index(kept.len()));
            }
            let mut ranges: Vec<_> = kept.iter().map(|(bytes, _)| (address(bytes), bytes.len())).collect();
            ranges.sort_unstable();
            prop_assert!(ranges.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0));
            prop_assert!(kept.iter().all(|(bytes, fill)| bytes.first().is_none_or(|b| b == fill) && bytes.last() == bytes.first()));
        }
        prop_assert!(kept.iter().all(|(bytes, fill)| bytes.iter().all(|b| b == fill)));
        drop(kept);
        prop_assert_eq!(buffers.usage().used_bytes, 0);
    }
}
