// SPDX-License-Identifier: MIT
//! Whatever happens to the file: all marks, or "damaged"; never fewer.

use super::*;
use crate::journal::frame::{HEADER, Header, SECTOR, scan};

/// A log with frames of one sector and of several, renames and clears in it.
fn real_log() -> (Vec<u8>, LogId, Vec<(u64, Aspect)>) {
    let disk = Memory::default();
    let journal = create(&disk, SMALL).expect("create");
    let mut kept = Vec::new();
    for serial in 1..8 {
        drop(pin(&journal, serial, Aspect::Dir).expect("pin"));
    }
    checkpoint(&journal).expect("clear");
    let long = "long".repeat(500);
    for serial in 10..14 {
        let describe = || (object(serial, &long), None);
        let want = |aspect| Want {
            key: Key { serial, aspect },
            describe: &describe,
        };
        let data = want(Aspect::Data {
            start: 0,
            end: 4 << 20,
        });
        let wants = [data, want(Aspect::Moved)];
        let pins = journal.pin(&wants, Some((b"a/b", b"c"))).expect("pin");
        kept.extend(pins.marks().iter().map(|mark| (mark.seq, mark.aspect)));
    }
    (disk.seen().expect("a log"), journal.log_id(), kept)
}

/// What a log says: its marks, or why it says nothing.
fn read(bytes: Vec<u8>, id: LogId) -> std::result::Result<Vec<(u64, Aspect)>, Unreadable> {
    let mut disk = Memory::with(Some(bytes));
    let (_, found) = log::read(&mut disk, &owner(Intent::Power), id)?;
    let marks = found.marks.values();
    Ok(marks.map(|mark| (mark.seq, mark.aspect)).collect())
}

/// A log is opened by counting on: one whose checksums are right and whose numbers leave no room for
/// that was written by nobody.
#[test]
fn numbers_that_cannot_grow_are_damage() {
    let (bytes, id, _) = real_log();
    let header = Header::decode(&bytes).expect("a header");
    let log = |generation| LogId { generation, ..id };
    for bad in [
        Header {
            log: log(u64::MAX),
            ..header
        },
        Header {
            epoch: u64::MAX,
            ..header
        },
        Header {
            next_seq: u64::MAX,
            ..header
        },
    ] {
        let size = HEADER as u64;
        let said = read(Header { size, ..bad }.encode(), bad.log);
        assert!(matches!(said, Err(Unreadable::Damaged(why)) if why.contains("numbers")));
    }
}

/// Where each frame begins, and the end of the last one.
fn frames(bytes: &[u8]) -> Vec<usize> {
    let mut starts = vec![HEADER];
    while let Some(at) = starts.last().copied().filter(|at| bytes[*at] != 0) {
        let sectors = u32::from_le_bytes(bytes[at + 16..at + 20].try_into().expect("four"));
        starts.push(at + usize::try_from(sectors).expect("small") * SECTOR);
    }
    starts
}

/// All marks, or damaged.
fn judge(bytes: Vec<u8>, id: LogId, kept: &[(u64, Aspect)], what: &str) -> bool {
    match read(bytes, id) {
        Ok(marks) => {
            assert_eq!(marks, kept, "{what}");
            true
        }
        Err(Unreadable::Damaged(_)) => false,
        Err(other) => panic!("{what}: {other:?}"),
    }
}

#[test]
fn every_byte_flipped_is_noticed_or_harmless() {
    let (bytes, id, kept) = real_log();
    assert!(judge(bytes.clone(), id, &kept, "as it was written"));
    let end = *frames(&bytes).last().expect("frames");
    for pattern in [0xff, 0x01, 0x80, 0x55] {
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= pattern;
            let believed = judge(flipped, id, &kept, &format!("byte {at} ^ {pattern:#x}"));
            assert!(
                !believed || at >= end,
                "byte {at} ^ {pattern:#x} is written"
            );
        }
    }
}

#[test]
fn every_length_but_its_own_is_damage() {
    let (bytes, id, kept) = real_log();
    for len in 0..bytes.len() {
        assert!(!judge(bytes[..len].to_vec(), id, &kept, "truncated"));
    }
    for more in [1, SECTOR, 4096, bytes.len()] {
        let mut longer = bytes.clone();
        longer.resize(bytes.len() + more, 0);
        assert!(!judge(longer, id, &kept, "longer"));
    }
}

#[test]
fn a_sector_lost_in_a_durable_frame_is_damage() {
    let (bytes, id, kept) = real_log();
    let frames = frames(&bytes);
    let last = frames[frames.len() - 2];
    for at in (0..last).step_by(SECTOR) {
        let mut lost = bytes.clone();
        lost[at..at + SECTOR].fill(0);
        let header_padding = (SECTOR..HEADER - SECTOR).contains(&at);
        let believed = judge(lost, id, &kept, &format!("sector at {at}"));
        assert_eq!(believed, header_padding, "sector at {at}");
    }
}

#[test]
fn every_way_to_tear_the_last_frame_ends_the_log_before_it() {
    let (bytes, id, kept) = real_log();
    let frames = frames(&bytes);
    let (last, end) = (frames[frames.len() - 2], frames[frames.len() - 1]);
    let sectors = (end - last) / SECTOR;
    assert!(sectors >= 5, "{sectors}");
    let before = &kept[..kept.len() - 2];
    for missing in 1u32..1 << sectors {
        let mut torn = bytes.clone();
        for sector in (0..sectors).filter(|sector| missing & (1 << sector) != 0) {
            let at = last + sector * SECTOR;
            torn[at..at + SECTOR].fill(0);
        }
        assert_eq!(read(torn, id).as_deref(), Ok(before), "{missing:#b}");
    }
    // A hole, and something behind it that no torn frame reaches.
    let mut far = bytes.clone();
    far[last..last + SECTOR].fill(0);
    let mut long = bytes[..end].to_vec();
    long.resize(HEADER + (2 << 20), 0);
    long[last..last + SECTOR].fill(0);
    let mut header = Header::decode(&long).expect("header");
    header.size = long.len() as u64;
    *long.last_mut().expect("long") = 1;
    assert!(scan(&header, &long).is_err());
    // The header says where the frame ends: beyond that nothing was written.
    let mut beyond = bytes;
    beyond[end - SECTOR..end].fill(0);
    beyond[end + SECTOR] = 1;
    assert!(!judge(beyond, id, &kept, "beyond"));
}

#[test]
fn a_whole_frame_behind_a_hole_is_damage() {
    let (bytes, id, kept) = real_log();
    let header = Header::decode(&bytes).expect("header");
    let starts = frames(&bytes);
    let end = *starts.last().expect("frames");
    let record = Record::Cleared(vec![kept[0].0]).encode();
    for number in [0, starts.len() as u64 - 1, starts.len() as u64, 999] {
        let mut hole = bytes.clone();
        let frame = header.frame(number, &record).expect("small");
        hole[end + SECTOR..end + SECTOR + frame.len()].copy_from_slice(&frame);
        assert!(!judge(hole, id, &kept, &format!("frame {number}")));
    }
    // The same at the end of the log, with a number that is not next.
    for number in [0, starts.len() as u64, 999] {
        let mut wrong = bytes.clone();
        let frame = header.frame(number, &record).expect("small");
        wrong[end..end + frame.len()].copy_from_slice(&frame);
        assert!(!judge(wrong, id, &kept, &format!("frame {number}")));
    }
}

#[test]
fn frames_of_another_time_are_not_believed() {
    let (bytes, id, kept) = real_log();
    let header = Header::decode(&bytes).expect("header");
    let starts = frames(&bytes);
    let end = *starts.last().expect("frames");
    let number = starts.len() as u64 - 1;
    let record = Record::Cleared(vec![kept[0].0]).encode();
    let mut next = bytes.clone();
    let frame = header.frame(number, &record).expect("small");
    next[end..end + frame.len()].copy_from_slice(&frame);
    assert_eq!(read(next, id).expect("this time's").len(), kept.len() - 1);
    let mut others = [header; 3];
    others[0].epoch += 1;
    others[1].log.generation -= 1;
    others[2].log.id ^= 1;
    for other in others {
        let mut stale = bytes.clone();
        let frame = other.frame(number, &record).expect("small");
        stale[end..end + frame.len()].copy_from_slice(&frame);
        assert!(!judge(stale, id, &kept, &format!("{other:?}")));
    }
}

#[test]
fn a_frame_that_holds_nonsense_is_damage() {
    let (bytes, id, kept) = real_log();
    let header = Header::decode(&bytes).expect("header");
    let starts = frames(&bytes);
    let end = *starts.last().expect("frames");
    let frame = header.frame(starts.len() as u64 - 1, &[9, 9, 9]);
    let mut nonsense = bytes;
    nonsense[end..end + SECTOR].copy_from_slice(&frame.expect("small"));
    assert!(!judge(nonsense, id, &kept, "nonsense"));
}

#[test]
fn only_the_log_that_is_known_is_read() {
    let (bytes, id, _) = real_log();
    let with = |more: u64, less: u64| LogId {
        generation: id.generation + more - less,
        ..id
    };
    assert!(read(bytes.clone(), id).is_ok());
    assert!(
        read(bytes.clone(), with(0, 1)).is_ok(),
        "one ahead of the stamp"
    );
    assert_eq!(read(bytes.clone(), with(1, 0)), Err(Unreadable::Older));
    let disk = Memory::with(Some(bytes.clone()));
    let mut log_id = id;
    for _ in 0..3 {
        log_id = open(&disk, log_id, SMALL).expect("open").log_id();
    }
    assert_eq!(log_id, with(3, 0));
    let opened = disk.seen().expect("a log");
    assert_eq!(
        read(opened.clone(), id),
        Err(Unreadable::Other),
        "three ahead"
    );
    assert_eq!(read(opened, with(4, 0)), Err(Unreadable::Older));
    let other = LogId {
        id: id.id ^ 1,
        ..id
    };
    assert_eq!(read(bytes.clone(), other), Err(Unreadable::Other));
    for change in [
        |owner: &mut Owner| owner.mirror ^= 1,
        |owner: &mut Owner| owner.replica += 1,
    ] {
        let mut owner = owner(Intent::Power);
        change(&mut owner);
        let mut disk = Memory::with(Some(bytes.clone()));
        let found = log::read(&mut disk, &owner, id).map(|_| ());
        assert_eq!(found, Err(Unreadable::Other));
    }
    // However often it dies before the stamp, it is known again.
    let disk = Memory::with(Some(bytes));
    let epochs = [1, 2, 3].map(|_| {
        let again = open(&disk, id, SMALL).expect("open");
        assert_eq!(again.log_id(), with(1, 0));
        Header::decode(&disk.seen().expect("a log"))
            .expect("header")
            .epoch
    });
    assert!(epochs.is_sorted_by(|a, b| a < b), "{epochs:?}");
    let mut nothing = Memory::default();
    let found = log::read(&mut nothing, &owner(Intent::Power), id).map(|_| ());
    assert_eq!(found, Err(Unreadable::Missing));
}
