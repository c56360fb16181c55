// SPDX-License-Identifier: MIT
//! What is read from a log that anybody may have written: for the fuzz targets and the test that
//! runs their corpora (crate::fuzzing).
//!
//! Checksums would keep a fuzzer out, so most ways in begin behind them: the input is records, or a
//! header and records, or records and what is done to the sectors of the file that holds them.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::file::Disk;
use super::frame::{HEADER, Header, SECTOR, scan};
use super::log::{COUNT_MAX, Owner, RECORDS_MAX};
use super::record::{Bytes, Record};
use super::renames::CANDIDATES_MAX;
use super::{Aspect, Intent, Journal, Limits, LogId};
use crate::sys::Result;

const LIMITS: Limits = Limits {
    size: 16 << 10,
    crowd: 64,
    hard: 256,
};

/// A log in memory, and the new one. Clones are the same disk.
#[derive(Clone, Debug, Default)]
struct Memory(Arc<Mutex<[Vec<u8>; 2]>>);

impl Memory {
    fn put(&self, which: usize, at: u64, bytes: &[u8]) {
        let file = &mut self.0.lock()[which];
        let at = usize::try_from(at).expect("a small file");
        file.resize(file.len().max(at + bytes.len()), 0);
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

impl Disk for Memory {
    fn read(&mut self) -> Result<Option<Vec<u8>>> {
        Ok(Some(self.0.lock()[0].clone()))
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        self.put(0, at, bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn begin_new(&mut self) -> Result<()> {
        self.0.lock()[1].clear();
        Ok(())
    }

    fn write_new(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        self.put(1, at, bytes);
        Ok(())
    }

    fn flush_new(&mut self) -> Result<()> {
        Ok(())
    }

    fn publish(&mut self) -> Result<()> {
        self.0.lock().swap(0, 1);
        Ok(())
    }

    fn flush_dir(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The first byte says what the rest is.
pub(crate) fn log(data: &[u8]) {
    let Some((way, rest)) = data.split_first() else {
        return;
    };
    match way % 4 {
        0 => drop(opened(rest)),
        1 => records(&plain(), rest),
        2 => damaged(rest),
        _ => headed(rest),
    }
}

fn plain() -> Header {
    Header {
        mirror: 7,
        replica: 1,
        log: LogId {
            id: 9,
            generation: 3,
        },
        epoch: 5,
        size: 0,
        next_seq: 1,
        intent: Intent::Power,
        sealed: true,
        boot: 11,
    }
}

/// What a mark that was read is known by.
type Known = (Aspect, u64, Box<[u8]>);

/// The marks of the log in the file `bytes`, if it is one. They are written anew as the next
/// generation: that one must hold the same marks.
fn opened(bytes: &[u8]) -> Option<BTreeMap<u64, Known>> {
    let header = Header::decode(bytes).ok()?;
    let owner = Owner {
        mirror: header.mirror,
        replica: header.replica,
        intent: header.intent,
        // An unknown boot is never the same.
        boot: header.boot.max(1),
    };
    let disk = Memory::default();
    disk.put(0, 0, bytes);
    let open = |known| Journal::open_on(Box::new(disk.clone()), &owner, known, LIMITS);
    let journal = open(header.log).ok()?;
    let first = marks(&journal);
    let counts = [header.log.generation, header.epoch, header.next_seq];
    let last = first.keys().next_back().copied().unwrap_or(0);
    if counts
        .into_iter()
        .chain([last])
        .all(|count| count < COUNT_MAX)
    {
        let again = open(journal.log_id()).expect("what was written a moment ago is read");
        assert_eq!(first, marks(&again), "a log written anew holds other marks");
    }
    Some(first)
}

fn marks(journal: &Journal) -> BTreeMap<u64, Known> {
    let dirty = journal.dirty();
    assert_eq!(
        journal.counts().alive,
        dirty.len() as u64,
        "not all is dirty"
    );
    let largest = dirty.iter().filter_map(|(mark, _)| mark.aspect.bytes());
    assert!(journal.counts().dirty_bytes >= largest.max().unwrap_or(0));
    let known = dirty.into_iter().map(|(mark, paths)| {
        assert!((1..=CANDIDATES_MAX).contains(&paths.len()), "{paths:?}");
        (mark.seq, (mark.aspect, mark.object.ino, paths[0].clone()))
    });
    known.collect()
}

/// Records of a log whose header is `header`: their bytes are the only ones that say this, and the
/// log that holds them is read as they say.
fn records(header: &Header, payload: &[u8]) {
    let Some(records) = Record::decode_all(payload) else {
        return;
    };
    let encoded: Vec<_> = records.iter().map(Record::encode).collect();
    assert_eq!(encoded.concat(), payload, "records have two spellings");
    let Some(file) = file(header, &encoded, 0) else {
        return;
    };
    let header = Header::decode(&file).expect("our own header");
    let seen = scan(&header, &file).expect("our own frames");
    assert_eq!((&seen.records, seen.torn), (&records, false));
    let Some(marks) = opened(&file) else {
        let lost = header.intent == Intent::Crash && !header.sealed && header.boot == 0;
        assert!(
            lost || is_used_up(&header, &records),
            "a whole log is refused"
        );
        return;
    };
    let mut wanted = BTreeMap::new();
    for record in &records {
        match record {
            Record::Marked(marked) => {
                wanted.insert(marked.seq, (marked.aspect, marked.object.ino));
            }
            Record::Cleared(seqs) => wanted.retain(|seq, _| !seqs.contains(seq)),
            Record::Renamed(_) => {}
        }
    }
    let marks: BTreeMap<_, _> = marks
        .into_iter()
        .map(|(seq, (aspect, ino, _))| (seq, (aspect, ino)))
        .collect();
    assert_eq!(marks, wanted, "not the marks that are on record");
}

/// Whether a number cannot be counted up.
fn is_used_up(header: &Header, records: &[Record]) -> bool {
    let mut numbers = records.iter().map(|record| match record {
        Record::Marked(marked) => marked.seq,
        Record::Renamed(renamed) => renamed.seq,
        Record::Cleared(_) => 0,
    });
    let counts = [header.log.generation, header.epoch, header.next_seq];
    header.next_seq == 0
        || counts.into_iter().any(|count| count > COUNT_MAX)
        || numbers.any(|number| number >= COUNT_MAX)
}

/// A file with as many frames as there are records, and `free` sectors behind them.
fn file(header: &Header, records: &[Vec<u8>], free: usize) -> Option<Vec<u8>> {
    if records.iter().any(|record| record.len() > RECORDS_MAX) {
        return None;
    }
    let frames = records.iter().map(|r| Header::frame_len(r.len()));
    let size = HEADER + frames.sum::<usize>() + free * SECTOR;
    let header = Header {
        size: size as u64,
        ..*header
    };
    let mut file = header.encode();
    for (number, record) in (0..).zip(records) {
        file.extend(header.frame(number, record)?);
    }
    file.resize(size, 0);
    Some(file)
}

/// A header made of the first bytes, then records.
fn headed(data: &[u8]) {
    let mut bytes = Bytes(data);
    let Some(header) = header(&mut bytes) else {
        return;
    };
    assert_eq!(Header::decode(&header.encode()), Ok(header));
    records(&header, bytes.0);
}

fn header(bytes: &mut Bytes<'_>) -> Option<Header> {
    Some(Header {
        mirror: u128::from(bytes.u64()?),
        replica: bytes.u32()?,
        log: LogId {
            id: bytes.u64()?,
            generation: bytes.u64()?,
        },
        epoch: bytes.u64()?,
        size: 0,
        next_seq: bytes.u64()?,
        intent: if bytes.u8()? & 1 == 0 {
            Intent::Power
        } else {
            Intent::Crash
        },
        sealed: bytes.u8()? & 1 == 1,
        boot: u128::from(bytes.u64()?),
    })
}

/// Up to seven blows to sectors, then records: what is read of a damaged log is what was written
/// first. Where no more than sectors of the last frame are missing it is read.
fn damaged(data: &[u8]) {
    let mut bytes = Bytes(data);
    let Some(blows) = bytes.u8().and_then(|n| bytes.take(usize::from(n % 8) * 3)) else {
        return;
    };
    let Some(records) = Record::decode_all(bytes.0) else {
        return;
    };
    let encoded: Vec<_> = records.iter().map(Record::encode).collect();
    let Some(mut file) = file(&plain(), &encoded, 2) else {
        return;
    };
    let header = Header::decode(&file).expect("our own header");
    let last = encoded.last().map_or(0, |r| Header::frame_len(r.len()));
    let last = file.len() - 2 * SECTOR - last;
    let mut only_torn = true;
    for blow in blows.chunks(3) {
        let sectors = file.len() / SECTOR - HEADER / SECTOR;
        let at = HEADER + usize::from(blow[0]) % sectors * SECTOR;
        let sector = &mut file[at..at + SECTOR];
        match blow[1] {
            0 => {
                sector.fill(0);
                only_torn &= at >= last;
            }
            how => {
                sector[usize::from(blow[2]) * 2] ^= how;
                only_torn = false;
            }
        }
    }
    match scan(&header, &file) {
        Ok(seen) => {
            let len = seen.records.len();
            assert_eq!(seen.frames, len as u64);
            assert_eq!(
                seen.records,
                records[..len],
                "what was never written is read"
            );
        }
        Err(why) => assert!(!only_torn, "a torn frame is no damage: {why}"),
    }
}

#[cfg(test)]
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    use super::record::Marked;
    use super::renames::Renamed;
    use super::{Object, Origin, Twin};

    let mark = |seq, aspect, path: &[u8]| {
        Record::Marked(Marked {
            seq,
            since: seq,
            aspect,
            object: Object {
                ino: 40 + seq,
                handle: [1, 0, 0, 0, 7].into(),
                path: path.into(),
            },
            others: Vec::new(),
            origin: None,
            stamp: (1_795_183_331, 5),
        })
    };
    let renamed = |seq, from: &[u8], to: &[u8]| {
        Record::Renamed(Renamed {
            seq,
            from: from.into(),
            to: to.into(),
        })
    };
    let mut moved = mark(3, Aspect::Moved, b"b/f");
    if let Record::Marked(marked) = &mut moved {
        marked.others = vec![b"a/f".as_slice().into(), b"c".as_slice().into()];
        marked.origin = Some(Origin {
            path: b"a/f".as_slice().into(),
            twin: Some(Twin {
                ino: 77,
                btime: Some((1_795_000_000, 1)),
            }),
        });
    }
    let region = Aspect::Data {
        start: 4 << 20,
        end: 8 << 20,
    };
    let few = vec![
        mark(1, Aspect::Node, b"a"),
        renamed(2, b"a", b"b"),
        moved,
        mark(4, region, b"b/film"),
    ];
    let many = vec![
        mark(1, Aspect::CONTENT, b"d/x"),
        mark(2, Aspect::Dir, b"d"),
        mark(3, Aspect::DirData, b"d/e"),
        mark(4, Aspect::Tree, b""),
        mark(5, Aspect::Fill, b"new"),
        Record::Cleared(vec![1, 3]),
        renamed(6, b"d", b"d/e"),
        renamed(7, b"d/e", b"d"),
    ];
    let bytes =
        |records: &[Record]| -> Vec<u8> { records.iter().flat_map(Record::encode).collect() };
    let whole = |records: &[Record]| {
        let encoded: Vec<_> = records.iter().map(Record::encode).collect();
        file(&plain(), &encoded, 1).expect("a small log")
    };
    let with = |first: &[u8], rest: Vec<u8>| [first, &rest].concat();
    let head = [
        7_u64.to_le_bytes().as_slice(),
        &1_u32.to_le_bytes(),
        &9_u64.to_le_bytes(),
        &3_u64.to_le_bytes(),
        &5_u64.to_le_bytes(),
        &100_u64.to_le_bytes(),
        &[1, 1],
        &11_u64.to_le_bytes(),
    ]
    .concat();
    vec![
        ("file-few", with(&[0], whole(&few))),
        ("file-empty", with(&[0], whole(&[]))),
        ("records-few", with(&[1], bytes(&few))),
        ("records-many", with(&[1], bytes(&many))),
        ("torn", with(&[2, 1, 3, 0, 0], bytes(&few))),
        ("flipped", with(&[2, 2, 0, 8, 20, 2, 0, 0], bytes(&many))),
        ("header", with(&[3], with(&head, bytes(&few)))),
    ]
}
