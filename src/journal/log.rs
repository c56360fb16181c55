// SPDX-License-Identifier: MIT
//! The log: frames appended to a file that is as large as it will ever be, and rewritten when full.

use std::collections::BTreeMap;

use super::file::Disk;
use super::frame::{FRAME_MAX, HEADER, Header, OVERHEAD, SECTOR, scan};
use super::record::{Marked, Record};
use super::renames::Renames;
use super::{Intent, LogId, Unreadable};
use crate::sys::{Errno, Result};

/// Zeros are written in pieces of this many bytes.
const PIECE: usize = 1 << 20;

/// No number that is counted up is larger: the next ones must fit, too.
pub(crate) const COUNT_MAX: u64 = u64::MAX >> 1;

/// The most bytes of records that a frame takes.
pub(crate) const RECORDS_MAX: usize = FRAME_MAX - OVERHEAD;

/// A log that takes appends. One thread at a time: whoever leads a commit.
#[derive(Debug)]
pub(crate) struct Log {
    disk: Box<dyn Disk>,
    header: Header,
    /// The number of the next frame.
    number: u64,
    /// Where it goes (bytes).
    at: u64,
    /// The smallest a log is made (bytes).
    size_min: u64,
}

/// What was found in a log.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) next_seq: u64,
    /// The marks that were not cleared, by number.
    pub(crate) marks: BTreeMap<u64, Marked>,
    pub(crate) renames: Renames,
}

/// Who may read a log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub(crate) mirror: u128,
    pub(crate) replica: u32,
    pub(crate) intent: Intent,
    /// The boot we run in; 0 if unknown.
    pub(crate) boot: u128,
}

impl Owner {
    fn header(&self, log: LogId, epoch: u64) -> Header {
        Header {
            mirror: self.mirror,
            replica: self.replica,
            log,
            epoch,
            size: 0,
            next_seq: 1,
            intent: self.intent,
            sealed: false,
            boot: self.boot,
        }
    }
}

/// Reads the log on `disk`, if it is the one that `known` names.
pub(crate) fn read(
    disk: &mut dyn Disk,
    owner: &Owner,
    known: LogId,
) -> std::result::Result<(Header, Found), Unreadable> {
    let bytes = match disk.read() {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err(Unreadable::Missing),
        Err(errno) => return Err(Unreadable::Io(errno)),
    };
    let header = Header::decode(&bytes).map_err(Unreadable::Damaged)?;
    let same =
        (header.mirror, header.replica, header.log.id) == (owner.mirror, owner.replica, known.id);
    if !same {
        return Err(Unreadable::Other);
    }
    if header.log.generation < known.generation {
        return Err(Unreadable::Older);
    }
    // One higher: the crash came between the log and the stamp that was to name it.
    if header.log.generation - known.generation > 1 {
        return Err(Unreadable::Other);
    }
    let restarted = owner.boot == 0 || header.boot != owner.boot;
    if header.intent == Intent::Crash && !header.sealed && restarted {
        return Err(Unreadable::Damaged(
            "it was written with intent=crash, and the machine was restarted since".to_owned(),
        ));
    }
    let scan = scan(&header, &bytes).map_err(Unreadable::Damaged)?;
    if scan.torn {
        tracing::debug!("the last frame of the log was torn after {}", scan.frames);
    }
    let mut found = Found {
        next_seq: header.next_seq,
        ..Found::default()
    };
    for record in scan.records {
        match record {
            Record::Marked(marked) => {
                found.next_seq = found.next_seq.max(marked.seq.saturating_add(1));
                found.marks.insert(marked.seq, marked);
            }
            Record::Renamed(renamed) => {
                found.next_seq = found.next_seq.max(renamed.seq.saturating_add(1));
                found.renames.push(renamed);
            }
            Record::Cleared(seqs) => {
                for seq in seqs {
                    found.marks.remove(&seq);
                }
            }
        }
    }
    let counts = [header.log.generation, header.epoch, found.next_seq];
    if found.next_seq == 0 || counts.into_iter().any(|count| count > COUNT_MAX) {
        let why = "its numbers are none that mirrorfs counts up to".to_owned();
        return Err(Unreadable::Damaged(why));
    }
    Ok((header, found))
}

impl Log {
    /// A new log on `disk`, in place of whatever is there, with `records` (each encoded) in it.
    pub(crate) fn create(
        disk: Box<dyn Disk>,
        owner: &Owner,
        (log, epoch): (LogId, u64),
        size_min: u64,
        records: &[Vec<u8>],
        next_seq: u64,
    ) -> Result<Self> {
        let mut log = Self {
            disk,
            header: owner.header(log, epoch),
            number: 0,
            at: 0,
            size_min,
        };
        log.write_anew(records, next_seq, 0, false)?;
        Ok(log)
    }

    pub(crate) fn id(&self) -> LogId {
        self.header.log
    }

    pub(crate) fn intent(&self) -> Intent {
        self.header.intent
    }

    /// Of the file (bytes).
    pub(crate) fn size(&self) -> u64 {
        self.header.size
    }

    /// Whether a frame with that many bytes of records still fits.
    pub(crate) fn has_room(&self, records: usize) -> bool {
        self.header.size - self.at >= Header::frame_len(records) as u64
    }

    /// Appends a frame, and makes it durable if the log is to survive power cuts.
    pub(crate) fn append(&mut self, records: &[u8]) -> Result<()> {
        let frame = self.header.frame(self.number, records);
        let frame = frame.ok_or(Errno::NAMETOOLONG)?;
        if self.header.size - self.at < frame.len() as u64 {
            return Err(Errno::NOSPC);
        }
        self.disk.write(self.at, &frame)?;
        if self.header.intent == Intent::Power {
            self.disk.flush()?;
        }
        self.number += 1;
        self.at += frame.len() as u64;
        Ok(())
    }

    /// A new file with `records` alone in it takes the place of the old one; a frame with `extra`
    /// bytes of records will fit.
    pub(crate) fn rewrite(
        &mut self,
        records: &[Vec<u8>],
        next_seq: u64,
        extra: usize,
        sealed: bool,
    ) -> Result<()> {
        self.header.epoch += 1;
        self.write_anew(records, next_seq, extra, sealed)
    }

    fn write_anew(
        &mut self,
        records: &[Vec<u8>],
        next_seq: u64,
        extra: usize,
        sealed: bool,
    ) -> Result<()> {
        let mut payloads: Vec<Vec<u8>> = Vec::new();
        for record in records {
            match payloads.last_mut() {
                Some(last) if last.len() + record.len() <= RECORDS_MAX => {
                    last.extend_from_slice(record);
                }
                _ => payloads.push(record.clone()),
            }
        }
        let used: usize = payloads.iter().map(|p| Header::frame_len(p.len())).sum();
        // As much room again for what is to come, or it would soon be rewritten once more.
        let needed = HEADER + 2 * used + Header::frame_len(extra) + SECTOR;
        self.header.size = (needed as u64).next_multiple_of(self.size_min);
        self.header.next_seq = next_seq;
        self.header.sealed = sealed;

        let mut image = self.header.encode();
        let mut number = 0;
        for payload in &payloads {
            let frame = self.header.frame(number, payload);
            image.extend(frame.ok_or(Errno::NAMETOOLONG)?);
            number += 1;
        }
        self.disk.begin_new()?;
        self.disk.write_new(0, &image)?;
        let mut at = image.len() as u64;
        let zeros = vec![0; PIECE];
        while at < self.header.size {
            let len = usize::try_from(self.header.size - at).map_or(PIECE, |left| left.min(PIECE));
            self.disk.write_new(at, &zeros[..len])?;
            at += len as u64;
        }
        self.disk.flush_new()?;
        self.disk.publish()?;
        self.disk.flush_dir()?;
        self.number = number;
        self.at = image.len() as u64;
        Ok(())
    }
}
