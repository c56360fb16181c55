// SPDX-License-Identifier: MIT
//! Header and frames of a log, and reading what a crash left of them. Pure. docs/FORMAT.md draws
//! them and says why the rule below is safe.

use super::record::{Bytes, Record};
use super::{Intent, LogId};

/// The unit a disk writes whole (bytes).
pub(crate) const SECTOR: usize = 512;
/// The header, at the beginning of the file (bytes).
pub(crate) const HEADER: usize = 4096;
/// The largest frame (bytes).
pub(crate) const FRAME_MAX: usize = 1 << 20;
/// What a frame needs beside its records (bytes).
pub(crate) const OVERHEAD: usize = HEAD + TAIL.len();

const MAGIC: [u8; 8] = *b"MFlog\x1a\r\n";
const VERSION: u32 = 2;
const FRAME_MAGIC: [u8; 4] = *b"MFfr";
/// No sector of a frame is all zeros: the last one ends in this.
const TAIL: [u8; 4] = *b"rfFM";
/// Frame header: magic, CRC of the header, number, sectors, record bytes, CRC of the rest.
const HEAD: usize = 32;

/// What the first sector says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) mirror: u128,
    pub(crate) replica: u32,
    pub(crate) log: LogId,
    /// Grows with every rewrite within a generation: older frames are strangers.
    pub(crate) epoch: u64,
    /// Of the file (bytes).
    pub(crate) size: u64,
    /// Higher than any number in it.
    pub(crate) next_seq: u64,
    pub(crate) intent: Intent,
    /// Nothing was appended without a flush since: it can be believed whatever its intent.
    pub(crate) sealed: bool,
    /// The boot it was written in.
    pub(crate) boot: u128,
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER);
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend(self.replica.to_le_bytes());
        out.extend(self.mirror.to_le_bytes());
        out.extend(self.log.id.to_le_bytes());
        out.extend(self.log.generation.to_le_bytes());
        out.extend(self.epoch.to_le_bytes());
        out.extend(self.size.to_le_bytes());
        out.extend(self.next_seq.to_le_bytes());
        out.push(match self.intent {
            Intent::Power => 1,
            Intent::Crash => 2,
        });
        out.push(u8::from(self.sealed));
        out.extend(self.boot.to_le_bytes());
        out.resize(HEADER - 4, 0);
        out.extend(crc32fast::hash(&out).to_le_bytes());
        out
    }

    /// # Errors
    /// What is wrong with it, in words.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let short = || format!("it has {} bytes, not even a header", bytes.len());
        let (header, _) = bytes.split_at_checked(HEADER).ok_or_else(short)?;
        let (body, crc) = header.split_at(HEADER - 4);
        if crc != crc32fast::hash(body).to_le_bytes() {
            return Err("the checksum of its header is wrong".to_owned());
        }
        Self::fields(&mut Bytes(body))
            .ok_or_else(|| "its header is of another version of mirrorfs".to_owned())
    }

    fn fields(bytes: &mut Bytes<'_>) -> Option<Self> {
        if bytes.array()? != MAGIC || bytes.u32()? != VERSION {
            return None;
        }
        Some(Self {
            replica: bytes.u32()?,
            mirror: bytes.array().map(u128::from_le_bytes)?,
            log: LogId {
                id: bytes.u64()?,
                generation: bytes.u64()?,
            },
            epoch: bytes.u64()?,
            size: bytes.u64()?,
            next_seq: bytes.u64()?,
            intent: match bytes.u8()? {
                1 => Intent::Power,
                2 => Intent::Crash,
                _ => return None,
            },
            sealed: bytes.u8()? == 1,
            boot: bytes.array().map(u128::from_le_bytes)?,
        })
    }

    /// A checksum that is right in this log, generation and epoch only.
    fn crc(&self, parts: &[&[u8]]) -> [u8; 4] {
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.log.id.to_le_bytes());
        crc.update(&self.log.generation.to_le_bytes());
        crc.update(&self.epoch.to_le_bytes());
        for part in parts {
            crc.update(part);
        }
        crc.finalize().to_le_bytes()
    }

    /// How many bytes a frame with `records` bytes of records takes.
    pub(crate) fn frame_len(records: usize) -> usize {
        (records + OVERHEAD).next_multiple_of(SECTOR)
    }

    /// The frame of that number, or `None` if the records are too many for one.
    pub(crate) fn frame(&self, number: u64, records: &[u8]) -> Option<Vec<u8>> {
        let len = Self::frame_len(records.len());
        if len > FRAME_MAX {
            return None;
        }
        let sectors = u32::try_from(len / SECTOR).ok()?;
        let mut body = Vec::with_capacity(len - HEAD);
        body.extend(records);
        body.resize(len - HEAD - TAIL.len(), 0);
        body.extend(TAIL);
        let mut head = Vec::with_capacity(len);
        head.extend(number.to_le_bytes());
        head.extend(sectors.to_le_bytes());
        head.extend(u32::try_from(records.len()).ok()?.to_le_bytes());
        head.extend(self.crc(&[&head, &body]));
        head.extend([0; 4]);
        let crc = self.crc(&[&head]);
        let frame = [&FRAME_MAGIC, &crc, &*head, &body].concat();
        debug_assert!(frame.chunks(SECTOR).all(|sector| !is_zero(sector)));
        Some(frame)
    }

    /// What the sector at the beginning of `bytes` says of a frame, if it is the first of one.
    fn head(&self, bytes: &[u8]) -> Option<Head> {
        let mut fields = Bytes(bytes.get(..HEAD)?);
        let (magic, crc) = (fields.array::<4>()?, fields.array::<4>()?);
        if magic != FRAME_MAGIC || crc != self.crc(&[fields.0]) {
            return None;
        }
        let covered = fields.0.get(..16)?;
        let number = fields.u64()?;
        let sectors = usize::try_from(fields.u32()?).ok()?;
        let records = usize::try_from(fields.u32()?).ok()?;
        let crc = fields.array::<4>()?;
        let len = sectors.checked_mul(SECTOR)?;
        let fits = records.checked_add(OVERHEAD)? <= len && len <= FRAME_MAX;
        let body = bytes.get(HEAD..len).unwrap_or_default();
        let whole = fits && bytes.len() >= len && crc == self.crc(&[covered, body]);
        fits.then_some(Head {
            number,
            len,
            records: whole.then(|| body[..records].to_vec()),
        })
    }
}

/// The first sector of a frame.
struct Head {
    number: u64,
    /// Of the frame (bytes).
    len: usize,
    /// Its records, if all of it is there.
    records: Option<Vec<u8>>,
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// What a log holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Scan {
    /// In the order in which they were written.
    pub(crate) records: Vec<Record>,
    /// Whole frames.
    pub(crate) frames: u64,
    /// A last frame was torn: its flush never returned.
    pub(crate) torn: bool,
}

/// Reads the whole file `bytes` whose header is `header`.
///
/// # Errors
/// What is wrong with it, in words: then it proves nothing.
pub(crate) fn scan(header: &Header, bytes: &[u8]) -> Result<Scan, String> {
    let len = bytes.len();
    if u64::try_from(len) != Ok(header.size) || len < HEADER || !len.is_multiple_of(SECTOR) {
        return Err(format!("it has {len} bytes instead of {}", header.size));
    }
    let mut scan = Scan {
        records: Vec::new(),
        frames: 0,
        torn: false,
    };
    let mut at = HEADER;
    loop {
        let rest = &bytes[at..];
        let head = header.head(rest);
        let head = head.filter(|head| head.number == scan.frames);
        if let Some(Head {
            records: Some(records),
            len,
            ..
        }) = head
        {
            let records = Record::decode_all(&records)
                .ok_or_else(|| format!("frame {} holds no records", scan.frames))?;
            scan.records.extend(records);
            scan.frames += 1;
            at += len;
            continue;
        }
        if is_zero(rest) {
            return Ok(scan);
        }
        if !is_torn(header, rest, head.map(|head| head.len)) {
            return Err(format!(
                "frame {} at byte {at} is not what was written",
                scan.frames
            ));
        }
        scan.torn = true;
        return Ok(scan);
    }
}

/// Whether `rest`, which is not all zeros and begins with no whole frame, is what is left of one
/// frame whose writing was cut short. Sectors are written whole, onto zeros; no sector of a frame
/// is all zeros. So at least one of a torn frame's is, and nothing stands behind it. `len` is the
/// frame's, where its first sector is there to tell.
fn is_torn(header: &Header, rest: &[u8], len: Option<usize>) -> bool {
    let mut sectors = rest.chunks(SECTOR);
    let first = sectors.next().unwrap_or_default();
    let used = rest
        .rchunks(SECTOR)
        .position(is_used)
        .map_or(0, |zeros| rest.len() - zeros * SECTOR);
    if sectors.any(|sector| header.head(sector).is_some()) {
        return false;
    }
    match len {
        Some(len) => {
            let mut own = rest[..len.min(rest.len())].chunks(SECTOR);
            used <= len && len <= rest.len() && own.any(is_zero)
        }
        None => is_zero(first) && used <= FRAME_MAX,
    }
}

fn is_used(sector: &[u8]) -> bool {
    !is_zero(sector)
}
