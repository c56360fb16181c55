// SPDX-License-Identifier: MIT
//! What is said over the control socket: one request, then one answer or a stream of them, each a
//! line of JSON.
//!
//! Every request names the protocol that it came with. A daemon refuses what is newer than itself in
//! words, rather than leave out a part of it; so does a daemon of the first protocol, which knows
//! neither the number nor the request. Fields are only ever added, each with a default.

use std::borrow::Borrow;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::mirror::events::Change;
use crate::mirror::report::{DirtyList, Report, raw};
use crate::mirror::resync::{Difference, Progress};
use crate::session::refusal::Refusal;

/// What this version speaks.
pub(in crate::session) const PROTOCOL: u64 = 2;
/// No request is longer.
pub(super) const REQUEST_MAX: usize = 64 * 1024;
/// No answer is longer but a list: a daemon may be anybody's, and what is read takes some twenty times
/// as much memory.
pub(super) const ANSWER_MAX: usize = 2 << 20;
/// Ten thousand dirty objects with long names.
pub(super) const LIST_MAX: usize = 64 << 20;
/// The field that holds the protocol's number.
const FIELD: &str = "protocol";

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub(super) enum Request {
    /// How are you?
    Status,
    /// Drain and unmount.
    Umount {
        /// Hide the mount at once, end when the last file is closed.
        lazy: bool,
    },
    /// Which objects may differ?
    Dirty {
        /// As many of them are wanted.
        max: usize,
    },
    /// Make the replica equal, and everything durable; answered at once.
    Sync {
        /// Compare the whole tree, not only what is marked.
        #[serde(default)]
        full: bool,
    },
    /// Set the replica aside.
    Pause,
    /// Take it back.
    Resume,
    /// Tell me of every change of state: a stream without an end.
    Events,
    /// Compare the copies: a stream that ends with what was found. Who goes away stops it.
    Verify {
        #[serde(flatten)]
        how: Verify,
    },
}

impl Request {
    /// The protocol in which it appeared: an older daemon does not know it.
    fn since(&self) -> u64 {
        match self {
            Self::Status | Self::Umount { .. } => 1,
            _ => 2,
        }
    }

    /// How long its answer may be (bytes).
    pub(super) fn answer_max(&self) -> usize {
        match self {
            Self::Dirty { .. } => LIST_MAX,
            _ => ANSWER_MAX,
        }
    }

    /// Its line, with the number of the protocol.
    pub(super) fn line(&self) -> io::Result<Value> {
        let mut value = serde_json::to_value(self)?;
        if let Value::Object(fields) = &mut value {
            fields.insert(FIELD.to_owned(), self.since().into());
        }
        Ok(value)
    }

    /// Reads a line.
    ///
    /// # Errors
    /// In words for the asker, which may be of another version.
    pub(super) fn read(line: &[u8]) -> Result<Self, Refusal> {
        let mut value: Value = serde_json::from_slice(line).map_err(|_| unknown())?;
        let fields = value.as_object_mut().ok_or_else(unknown)?;
        let spoken = fields
            .remove(FIELD)
            .map_or(Some(1), |number| number.as_u64());
        match spoken {
            Some(number) if number <= PROTOCOL => {}
            _ => return Err(unknown()),
        }
        serde_json::from_value(value).map_err(|_| unknown())
    }
}

fn unknown() -> Refusal {
    Refusal::usage("the daemon does not know this request: it is of another version.")
        .next("A daemon keeps the version it was mounted with: unmount and mount again.")
        .id("MF-0035")
}

/// How to compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verify {
    /// Believe size and mtime: content is looked at only where they differ.
    #[serde(default)]
    pub quick: bool,
    /// Make the replica equal where it differs.
    #[serde(default)]
    pub repair: bool,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub(in crate::session) enum Answer {
    /// To `Status`.
    Report { report: Box<Report> },
    /// To `Dirty`.
    Dirty { list: DirtyList },
    /// It is done.
    Done,
    /// To `Sync`: it has begun, and will be found under this number in the report.
    Begun { number: u64 },
    /// No.
    Refused { refusal: Refusal },
    /// To `Events`: from now on nothing is missed.
    Listening,
    /// Something changed.
    Change { change: Change },
    /// Changes were not told: the listener was too slow.
    Lost { count: u64 },
    /// Nothing to say; still there.
    Alive,
    /// Nothing more will be said.
    Ended,
    /// How far `Verify` is.
    Progress { files: u64, bytes: u64 },
    /// One difference.
    Found { found: Found },
    /// The end of `Verify`.
    Verified { verified: Verified },
}

/// One difference, as `verify` lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Relative to the roots; empty for the roots themselves.
    #[serde(with = "raw")]
    pub path: Vec<u8>,
    /// `data`, `metadata` or `entry`.
    pub kind: String,
    /// Of the first differing block, for data.
    #[serde(default)]
    pub offset: Option<u64>,
    /// In words.
    pub detail: String,
}

impl From<Difference> for Found {
    fn from(difference: Difference) -> Self {
        Self {
            path: difference.path,
            kind: difference.kind.word().to_owned(),
            offset: difference.offset,
            detail: difference.detail,
        }
    }
}

/// What a comparison came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Regular files compared.
    pub files: u64,
    /// Bytes compared.
    pub bytes: u64,
    /// All differences; not all of them need have been told one by one.
    pub differences: u64,
    /// Whether they were repaired.
    pub repaired: bool,
}

impl From<&Progress> for Answer {
    fn from(seen: &Progress) -> Self {
        Self::Progress {
            files: seen.files,
            bytes: seen.bytes,
        }
    }
}

/// Says one line.
pub(in crate::session) fn say<T: Serialize>(
    mut stream: &UnixStream,
    message: &T,
) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// What the other side says, line by line. It may be anybody's program: a line has a greatest length
/// and must come as a whole within its time, however it trickles.
#[derive(Debug)]
pub(super) struct Lines<S> {
    stream: S,
    /// What came after the last line.
    ahead: Vec<u8>,
}

impl<S: Borrow<UnixStream>> Lines<S> {
    pub(super) fn of(stream: S) -> Self {
        Self {
            stream,
            ahead: Vec::new(),
        }
    }

    /// The next line without its end, or what came before the other side hung up or the line
    /// became longer than `most` bytes.
    ///
    /// # Errors
    /// `TimedOut`.
    pub(super) fn next(&mut self, most: usize, patience: Duration) -> io::Result<Line> {
        let until = Instant::now() + patience;
        let mut part = vec![0_u8; 16 << 10];
        let mut searched = 0;
        loop {
            let end = self.ahead[searched..].iter().position(|&b| b == b'\n');
            if let Some(end) = end.map(|end| searched + end) {
                let rest = self.ahead.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.ahead, rest);
                line.truncate(end);
                return Ok(Line::Whole(line));
            }
            searched = self.ahead.len();
            if searched > most {
                return Ok(Line::Broken(std::mem::take(&mut self.ahead)));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let mut stream: &UnixStream = self.stream.borrow();
            stream.set_read_timeout(Some(left))?;
            match stream.read(&mut part) {
                Ok(0) => return Ok(Line::Broken(std::mem::take(&mut self.ahead))),
                Ok(length) => self.ahead.extend_from_slice(&part[..length]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The next answer, of `most` bytes at most.
    ///
    /// # Errors
    /// `UnexpectedEof` when there is none any more; `TimedOut`; `InvalidData` when it makes no sense.
    pub(super) fn answer(&mut self, most: usize, patience: Duration) -> io::Result<Answer> {
        match self.next(most, patience)? {
            Line::Whole(line) => Answer::read(&line),
            Line::Broken(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl Answer {
    /// Reads a line.
    ///
    /// # Errors
    /// `InvalidData` when it makes no sense.
    pub(super) fn read(line: &[u8]) -> io::Result<Self> {
        Ok(serde_json::from_slice(line)?)
    }
}

/// What [`Lines::next`] got.
#[derive(Debug)]
pub(super) enum Line {
    /// All of it.
    Whole(Vec<u8>),
    /// Its beginning: nothing follows.
    Broken(Vec<u8>),
}
