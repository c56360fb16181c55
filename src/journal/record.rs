// SPDX-License-Identifier: MIT
//! Records and their bytes. Pure. docs/FORMAT.md draws them; numbers are little-endian.

use super::mark::{Aspect, Object, Origin, Twin};
use super::renames::Renamed;

/// The most paths written for one mark: the likeliest, and what else is possible.
pub(crate) const PATHS_MAX: usize = 4;
/// The longest handle written (bytes); a longer one is left out.
const HANDLE_MAX: usize = 255;
/// Numbers in one `Cleared` record.
pub(crate) const CLEARED_MAX: usize = 8192;

const MARKED: u8 = 1;
const RENAMED: u8 = 2;
const CLEARED: u8 = 3;

/// A mark, as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Marked {
    pub(crate) seq: u64,
    /// The last rename that is in its paths.
    pub(crate) since: u64,
    pub(crate) aspect: Aspect,
    /// Its path is the likeliest.
    pub(crate) object: Object,
    /// More paths, likeliest first.
    pub(crate) others: Vec<Box<[u8]>>,
    pub(crate) origin: Option<Origin>,
    pub(crate) stamp: (i64, u32),
}

/// What a frame is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// A mark was made.
    Marked(Marked),
    /// A rename is about to be made.
    Renamed(Renamed),
    /// These marks are no longer needed.
    Cleared(Vec<u64>),
}

impl Record {
    /// Its bytes. Every run of zeros in them is far shorter than a sector (frame.rs relies on it):
    /// handles are short, paths have none, and no number that is written in rows is 0.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        match self {
            Self::Marked(marked) => marked.encode(&mut out),
            Self::Renamed(renamed) => {
                out.push(RENAMED);
                out.extend(renamed.seq.to_le_bytes());
                put_path(&mut out, &renamed.from);
                put_path(&mut out, &renamed.to);
            }
            Self::Cleared(seqs) => {
                out.push(CLEARED);
                out.extend(length(seqs.len()).to_le_bytes());
                for seq in seqs {
                    out.extend(seq.to_le_bytes());
                }
            }
        }
        out
    }

    /// All records of a payload; `None` unless it is records from end to end.
    pub(crate) fn decode_all(payload: &[u8]) -> Option<Vec<Self>> {
        let mut bytes = Bytes(payload);
        let mut records = Vec::new();
        while !bytes.0.is_empty() {
            records.push(Self::decode(&mut bytes)?);
        }
        Some(records)
    }

    fn decode(bytes: &mut Bytes<'_>) -> Option<Self> {
        Some(match bytes.u8()? {
            MARKED => Self::Marked(Marked::decode(bytes)?),
            RENAMED => Self::Renamed(Renamed {
                seq: bytes.u64()?,
                from: bytes.path()?,
                to: bytes.path()?,
            }),
            CLEARED => {
                let count = bytes.u32()?;
                let seqs = (0..count).map(|_| bytes.u64());
                Self::Cleared(seqs.collect::<Option<_>>()?)
            }
            _ => return None,
        })
    }
}

impl Marked {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(MARKED);
        out.extend(self.seq.to_le_bytes());
        out.extend(self.since.to_le_bytes());
        let kind = match self.aspect {
            Aspect::Node => 1,
            Aspect::Data { .. } => 2,
            Aspect::Dir => 3,
            Aspect::DirData => 4,
            Aspect::Moved => 5,
            Aspect::Tree => 6,
            Aspect::Fill => 7,
        };
        out.push(kind);
        if let Aspect::Data { start, end } = self.aspect {
            out.extend(start.to_le_bytes());
            out.extend(end.to_le_bytes());
        }
        out.extend(self.object.ino.to_le_bytes());
        out.extend(self.stamp.0.to_le_bytes());
        out.extend(self.stamp.1.to_le_bytes());
        let handle = &self.object.handle;
        let handle = handle
            .get(..handle.len().min(HANDLE_MAX + 1))
            .unwrap_or_default();
        let handle = if handle.len() > HANDLE_MAX {
            &[]
        } else {
            handle
        };
        out.push(u8::try_from(handle.len()).unwrap_or(0));
        out.extend(handle);
        let others = &self.others[..self.others.len().min(PATHS_MAX - 1)];
        out.push(u8::try_from(1 + others.len()).unwrap_or(1));
        put_path(out, &self.object.path);
        for path in others {
            put_path(out, path);
        }
        match &self.origin {
            None => out.push(0),
            Some(Origin { path, twin }) => {
                out.push(match twin {
                    None => 1,
                    Some(Twin { btime: None, .. }) => 2,
                    Some(Twin { btime: Some(_), .. }) => 3,
                });
                put_path(out, path);
                if let Some(twin) = twin {
                    out.extend(twin.ino.to_le_bytes());
                    if let Some((seconds, nanos)) = twin.btime {
                        out.extend(seconds.to_le_bytes());
                        out.extend(nanos.to_le_bytes());
                    }
                }
            }
        }
    }

    fn decode(bytes: &mut Bytes<'_>) -> Option<Self> {
        let (seq, since) = (bytes.u64()?, bytes.u64()?);
        let aspect = match bytes.u8()? {
            1 => Aspect::Node,
            2 => Aspect::Data {
                start: bytes.u64()?,
                end: bytes.u64()?,
            },
            3 => Aspect::Dir,
            4 => Aspect::DirData,
            5 => Aspect::Moved,
            6 => Aspect::Tree,
            7 => Aspect::Fill,
            _ => return None,
        };
        let ino = bytes.u64()?;
        let stamp = bytes.time()?;
        let len = bytes.u8()?;
        let handle = bytes.take(usize::from(len))?.into();
        let count = bytes.u8()?;
        let mut paths = (0..count)
            .map(|_| bytes.path())
            .collect::<Option<Vec<_>>>()?;
        if paths.is_empty() || paths.len() > PATHS_MAX {
            return None;
        }
        let path = paths.remove(0);
        let origin = match bytes.u8()? {
            0 => None,
            kind @ 1..=3 => Some(Origin {
                path: bytes.path()?,
                twin: match kind {
                    1 => None,
                    _ => Some(Twin {
                        ino: bytes.u64()?,
                        btime: if kind == 3 { Some(bytes.time()?) } else { None },
                    }),
                },
            }),
            _ => return None,
        };
        Some(Self {
            seq,
            since,
            aspect,
            object: Object { ino, handle, path },
            others: paths,
            origin,
            stamp,
        })
    }
}

fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn put_path(out: &mut Vec<u8>, path: &[u8]) {
    out.extend(length(path.len()).to_le_bytes());
    out.extend(path);
}

/// What is left to read.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn time(&mut self) -> Option<(i64, u32)> {
        Some((self.array().map(i64::from_le_bytes)?, self.u32()?))
    }

    fn path(&mut self) -> Option<Box<[u8]>> {
        let len = self.u32()?;
        self.take(usize::try_from(len).ok()?).map(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn aspects() -> impl Strategy<Value = Aspect> {
        prop_oneof![
            Just(Aspect::Node),
            any::<(u64, u64)>().prop_map(|(start, end)| Aspect::Data { start, end }),
            Just(Aspect::Dir),
            Just(Aspect::DirData),
            Just(Aspect::Moved),
            Just(Aspect::Tree),
            Just(Aspect::Fill),
        ]
    }

    fn path() -> impl Strategy<Value = Box<[u8]>> {
        proptest::collection::vec(1u8.., 0..300).prop_map(Into::into)
    }

    fn origin() -> impl Strategy<Value = Option<Origin>> {
        let twin = any::<(u64, Option<(i64, u32)>)>().prop_map(|(ino, btime)| Twin { ino, btime });
        proptest::option::of(
            (path(), proptest::option::of(twin)).prop_map(|(path, twin)| Origin { path, twin }),
        )
    }

    pub(crate) fn records() -> impl Strategy<Value = Record> {
        let handle = proptest::collection::vec(any::<u8>(), 0..255);
        let others = proptest::collection::vec(path(), 0..PATHS_MAX);
        let object = (any::<u64>(), handle, path()).prop_map(|(ino, handle, path)| Object {
            ino,
            handle: handle.into(),
            path,
        });
        let numbers = (any::<u64>(), any::<u64>(), any::<(i64, u32)>());
        prop_oneof![
            (numbers, aspects(), object, others, origin()).prop_map(
                |((seq, since, stamp), aspect, object, others, origin)| Record::Marked(Marked {
                    seq,
                    since,
                    aspect,
                    object,
                    others,
                    origin,
                    stamp
                })
            ),
            (any::<u64>(), path(), path()).prop_map(|(seq, from, to)| Record::Renamed(Renamed {
                seq,
                from,
                to
            })),
            proptest::collection::vec(1u64.., 0..200).prop_map(Record::Cleared),
        ]
    }

    proptest! {
        #[test]
        fn records_are_read_as_they_were_written(
            records in proptest::collection::vec(records(), 0..8)
        ) {
            let payload: Vec<u8> = records.iter().flat_map(Record::encode).collect();
            prop_assert_eq!(Record::decode_all(&payload), Some(records));
        }

        #[test]
        fn half_a_record_is_none(record in records(), cut in any::<prop::sample::Index>()) {
            let payload = record.encode();
            let cut = 1 + cut.index(payload.len());
            if cut < payload.len() {
                prop_assert_eq!(Record::decode_all(&payload[..cut]), None);
            }
        }

        #[test]
        fn noise_is_read_without_panic(noise in proptest::collection::vec(any::<u8>(), 0..400)) {
            drop(Record::decode_all(&noise));
        }
    }

    #[test]
    fn a_handle_that_is_too_long_is_left_out() {
        let mut marked = Marked {
            seq: 1,
            since: 1,
            aspect: Aspect::Node,
            object: Object {
                ino: 7,
                handle: vec![9; 256].into(),
                path: b"a".as_slice().into(),
            },
            others: Vec::new(),
            origin: None,
            stamp: (1, 2),
        };
        let read = Record::decode_all(&Record::Marked(marked.clone()).encode());
        marked.object.handle = Box::default();
        assert_eq!(read, Some(vec![Record::Marked(marked)]));
    }
}
