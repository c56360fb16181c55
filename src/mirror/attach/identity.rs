// SPDX-License-Identifier: MIT
//! `Stamp`: who a root directory is, which mirror it belongs to, and whether its copy can be trusted.
//!
//! Pure: values in, values out; [`super::stamp`] reads and writes them. One stamp tells both roots
//! apart by their own identities (file system, inode, birth), so that at rest the stamps of two
//! equal copies are equal to the byte. Text, one `key=value` per line in a fixed order, closed by a
//! CRC: whatever is not exactly what [`Stamp::encode`] writes is no stamp. A mirror without a
//! write-intent log is spelled as version 1, one with a log as version 2.

use std::fmt;
use std::os::fd::BorrowedFd;

pub use crate::journal::LogId;
use crate::mirror::resync::{Lack, Lacks};
use crate::store::stat::{Stat, Time};
use crate::sys::{Errno, Result as SysResult, at};

/// The first line of a stamp that names no write-intent log.
const HEAD_1: &str = "mirrorfs-stamp 1";
/// The first line of one that does.
const HEAD_2: &str = "mirrorfs-stamp 2";
/// Epochs kept by name; older ones are only implied. Keeps the stamp inside one xattr block.
const HISTORY_MAX: usize = 32;
/// Bytes of a typed path or a reason that are kept.
pub(super) const TEXT_MAX: usize = 256;
/// No number that mounts and failures count up is larger: the next ones must fit, too.
pub(super) const COUNT_MAX: u64 = u64::MAX >> 1;

/// The identity of a mirror: 128 random bits, shown as the first eight hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MirrorId(pub u128);

impl fmt::Display for MirrorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0 >> 96)
    }
}

/// Which directory this is, wherever it is mounted and whatever its path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootIdentity {
    /// UUID of the file system, where it has one.
    pub uuid: Option<u128>,
    /// Inode number.
    pub ino: u64,
    /// Birth, where the file system keeps it.
    pub btime: Option<Time>,
}

impl RootIdentity {
    /// The identity of an open root directory.
    pub fn of(root: BorrowedFd<'_>) -> SysResult<Self> {
        let stat = Stat::of(root)?;
        Ok(Self {
            // A file system made without one answers zeros.
            uuid: at::fs_uuid(root).map(number).filter(|&uuid| uuid != 0),
            ino: stat.ident.ino,
            btime: stat.btime,
        })
    }

    /// Whether an equal identity means next to nothing.
    #[must_use]
    pub fn is_weak(&self) -> bool {
        self.uuid.is_none() && self.btime.is_none()
    }
}

/// The sixteen bytes as they are written, first byte first.
fn number(uuid: [u8; 16]) -> u128 {
    uuid.iter()
        .fold(0, |sum, &byte| sum << 8 | u128::from(byte))
}

/// What a root is in its mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Serves reads and decides.
    Primary,
    /// Receives every op.
    Replica,
}

/// Whether the mount that wrote the stamp has said goodbye.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// A mount is, or was when it died, using this root.
    Open,
    /// Unmounted in order; what the verdict says holds.
    Clean,
}

/// Whether the replica can be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing acknowledged was missing.
    InSync,
    /// The primary went on alone, or something went wrong.
    Doubt {
        /// In words.
        reason: String,
        /// The errno behind it; 0 for none.
        errno: i32,
    },
    /// A seeding or resync had begun and not ended.
    Inconsistent,
}

/// One epoch: the number grows when the primary goes on alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Its number.
    pub number: u64,
    /// When it began, wall-clock seconds: for messages, and to tell two forks apart.
    pub began: i64,
}

/// How one history of epochs relates to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// They are the same.
    Same,
    /// The other one ends earlier, after this epoch.
    Stale {
        /// The last epoch in common.
        since: u64,
    },
    /// The other one goes on where this one ends.
    Newer {
        /// The last epoch in common.
        since: u64,
    },
    /// They forked.
    Diverged {
        /// The last epoch in common, 0 for none.
        since: u64,
    },
}

/// The write-intent log that remembers where the copies may differ, and since when the replica
/// is what that log is about.
///
/// An intake is counted whenever the replica is taken in, so that an older copy of it (restored,
/// cloned) carries another one: what the log has forgotten since may be missing there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Covered {
    /// The log.
    pub log: LogId,
    /// The intake at which the replica was last taken in.
    pub intake: u64,
    /// The intake before, on the primary only, until the replica's own stamp says the new one.
    pub intake_before: Option<u64>,
}

impl Covered {
    /// The replica is taken in anew; until its own stamp says so, either intake is right. An intake that
    /// was begun and not ended is begun again: nothing has changed on the replica since.
    #[must_use]
    pub fn next(self) -> Self {
        match self.intake_before {
            Some(_) => self,
            None => Self {
                intake: self.intake + 1,
                intake_before: Some(self.intake),
                ..self
            },
        }
    }

    /// The replica's stamp says the new intake: an older one is an older copy's.
    #[must_use]
    pub fn settled(self) -> Self {
        Self {
            intake_before: None,
            ..self
        }
    }
}

/// Everything a root carries to be recognised by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Which mirror.
    pub id: MirrorId,
    /// All epochs that are remembered; the last one is the present one.
    pub history: Vec<Epoch>,
    /// Grows with every mount.
    pub session: u64,
    /// Open or clean.
    pub life: Life,
    /// Whether the replica can be trusted.
    pub verdict: Verdict,
    /// What this mirror does without (`--metadata-loss=warn`).
    pub lacks: Lacks,
    /// The primary's root.
    pub primary: RootIdentity,
    /// The replicas' roots; at most one today.
    pub replicas: Vec<RootIdentity>,
    /// What remembers where the replica may differ; `None`: nothing does.
    pub covered: Option<Covered>,
    /// Only where the identities cannot tell the roots apart.
    pub role: Option<Role>,
    /// The primary as typed.
    pub primary_path: Vec<u8>,
    /// The replica as typed.
    pub replica_path: Vec<u8>,
    /// When this was written, wall-clock seconds.
    pub written: i64,
}

/// Why some bytes are no stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corrupt {
    /// Not what any version writes.
    Damaged,
    /// Whole, but of a version this program does not know.
    Newer,
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Damaged => "damaged",
            Self::Newer => "written by a newer mirrorfs",
        })
    }
}

/// Which roots of a stamp a directory could be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// The primary.
    Primary,
    /// A replica.
    Replica,
    /// None that this stamp knows: a copy of one, or moved to another disk.
    Neither,
    /// The identities do not tell.
    Unknown,
}

impl Stamp {
    /// The present epoch.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.history.last().map_or(0, |epoch| epoch.number)
    }

    /// Begins the next epoch.
    pub fn next_epoch(&mut self, began: i64) {
        let number = self.epoch() + 1;
        self.history.push(Epoch { number, began });
        let excess = self.history.len().saturating_sub(HISTORY_MAX);
        self.history.drain(..excess);
    }

    /// How `other` relates to this one: [`History::Stale`] says `other` is behind.
    #[must_use]
    pub fn compare_history(&self, other: &Self) -> History {
        let (a, b) = (&self.history, &other.history);
        // What one has forgotten at the beginning cannot be compared.
        let from = |list: &[Epoch]| list.first().map_or(u64::MAX, |epoch| epoch.number);
        let start = from(a).max(from(b));
        let known = |list: &[Epoch]| -> Vec<Epoch> {
            list.iter()
                .copied()
                .filter(|epoch| epoch.number >= start)
                .collect()
        };
        let (a, b) = (known(a), known(b));
        let common = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
        let since = common.checked_sub(1).map_or(0, |last| a[last].number);
        match (a.len() - common, b.len() - common) {
            _ if common == 0 => History::Diverged { since },
            (0, 0) => History::Same,
            (_, 0) => History::Stale { since },
            (0, _) => History::Newer { since },
            _ => History::Diverged { since },
        }
    }

    /// Whether the log this stamp names remembers everything that a replica with stamp `other` may
    /// lack.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let (Some(ours), Some(theirs)) = (self.covered, other.covered) else {
            return false;
        };
        ours.log.id == theirs.log.id
            && (ours.intake == theirs.intake || ours.intake_before == Some(theirs.intake))
    }

    /// Whether the copies were equal and durable when this was written, and nothing since.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.life == Life::Clean && self.verdict == Verdict::InSync
    }

    /// Whether the identities alone say which root is which.
    #[must_use]
    pub fn tells_apart(&self) -> bool {
        !self.primary.is_weak()
            && self
                .replicas
                .iter()
                .all(|replica| !replica.is_weak() && *replica != self.primary)
    }

    /// What the directory that carries this stamp, and has this identity, is.
    #[must_use]
    pub fn role_of(&self, root: &RootIdentity) -> Match {
        let is_primary = *root == self.primary;
        let is_replica = self.replicas.contains(root);
        match (is_primary, is_replica, self.role) {
            (false, false, _) => Match::Neither,
            (_, _, Some(Role::Primary)) => Match::Primary,
            (_, _, Some(Role::Replica)) => Match::Replica,
            (true, false, None) => Match::Primary,
            (false, true, None) => Match::Replica,
            (true, true, None) => Match::Unknown,
        }
    }

    /// The same stamp as one of the two roots carries it.
    #[must_use]
    pub fn for_role(&self, role: Role) -> Self {
        let role = (!self.tells_apart()).then_some(role);
        Self {
            role,
            ..self.clone()
        }
    }

    /// As text.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let head = if self.covered.is_some() {
            HEAD_2
        } else {
            HEAD_1
        };
        let mut text = format!("{head}\nid={:032x}\nhistory=", self.id.0);
        for (i, epoch) in self.history.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            text += &format!("{comma}{}:{}", epoch.number, epoch.began);
        }
        text += &format!("\nsession={}\nstate=", self.session);
        text += match self.life {
            Life::Open => "open",
            Life::Clean => "clean",
        };
        text += "\nverdict=";
        match &self.verdict {
            Verdict::InSync => text += "in-sync",
            Verdict::Inconsistent => text += "inconsistent",
            Verdict::Doubt { reason, errno } => {
                text += &format!("doubt:{errno}:{}", escape(reason.as_bytes()));
            }
        }
        text += &format!("\nlacks={}\nprimary={}\n", self.lacks, root(&self.primary));
        for replica in &self.replicas {
            text += &format!("replica={}\n", root(replica));
        }
        if let Some(covered) = self.covered {
            let LogId { id, generation } = covered.log;
            text += &format!(
                "journal={id:016x}:{generation}\nattached={}",
                covered.intake
            );
            if let Some(before) = covered.intake_before {
                text += &format!(",{before}");
            }
            text.push('\n');
        }
        if let Some(role) = self.role {
            text += match role {
                Role::Primary => "role=primary\n",
                Role::Replica => "role=replica\n",
            };
        }
        text += &format!(
            "primary-path={}\nreplica-path={}\nwritten={}\n",
            escape(&self.primary_path),
            escape(&self.replica_path),
            self.written
        );
        let crc = crc32fast::hash(text.as_bytes());
        text += &format!("crc32={crc:08x}\n");
        text.into_bytes()
    }

    /// Reads what [`Stamp::encode`] wrote, and nothing else.
    ///
    /// # Errors
    /// [`Corrupt`] for every other sequence of bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Corrupt> {
        let text = std::str::from_utf8(bytes).map_err(|_| Corrupt::Damaged)?;
        let body_len = text.len().checked_sub("crc32=01234567\n".len());
        let (body, crc) = body_len
            .and_then(|len| text.split_at_checked(len))
            .ok_or(Corrupt::Damaged)?;
        if crc != format!("crc32={:08x}\n", crc32fast::hash(body.as_bytes())) {
            return Err(Corrupt::Damaged);
        }
        let mut lines = body.lines();
        match lines.next() {
            Some(HEAD_1 | HEAD_2) => {}
            Some(other) if other.starts_with("mirrorfs-stamp ") => return Err(Corrupt::Newer),
            _ => return Err(Corrupt::Damaged),
        }
        let stamp = Self::fields(lines).ok_or(Corrupt::Damaged)?;
        // Every stamp has one spelling, its version included.
        if stamp.encode() == bytes {
            Ok(stamp)
        } else {
            Err(Corrupt::Damaged)
        }
    }

    fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut lines = lines.peekable();
        let mut field = |key: &str| {
            let line = lines.next_if(|line| {
                line.strip_prefix(key)
                    .is_some_and(|rest| rest.starts_with('='))
            })?;
            Some(&line[key.len() + 1..])
        };
        let stamp = Self {
            id: MirrorId(u128::from_str_radix(field("id")?, 16).ok()?),
            history: field("history")?
                .split(',')
                .map(epoch)
                .collect::<Option<_>>()?,
            session: counted(field("session")?)?,
            life: match field("state")? {
                "open" => Life::Open,
                "clean" => Life::Clean,
                _ => return None,
            },
            verdict: match field("verdict")? {
                "in-sync" => Verdict::InSync,
                "inconsistent" => Verdict::Inconsistent,
                other => {
                    let (errno, reason) = other.strip_prefix("doubt:")?.split_once(':')?;
                    Verdict::Doubt {
                        reason: String::from_utf8(unescape(reason)?).ok()?,
                        errno: errno.parse().ok()?,
                    }
                }
            },
            lacks: lacks(field("lacks")?)?,
            primary: parse_root(field("primary")?)?,
            replicas: std::iter::from_fn(|| field("replica"))
                .map(parse_root)
                .collect::<Option<_>>()?,
            covered: match field("journal") {
                Some(log) => Some(parse_covered(log, field("attached")?)?),
                None => None,
            },
            role: match field("role") {
                Some("primary") => Some(Role::Primary),
                Some("replica") => Some(Role::Replica),
                Some(_) => return None,
                None => None,
            },
            primary_path: unescape(field("primary-path")?)?,
            replica_path: unescape(field("replica-path")?)?,
            written: field("written")?.parse().ok()?,
        };
        lines.next().is_none().then_some(stamp)
    }
}

/// Shortens a text to what a stamp keeps.
#[must_use]
pub fn clipped(text: &str) -> String {
    let mut end = text.len().min(TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Shortens a path to what a stamp keeps.
#[must_use]
pub fn clipped_path(path: &[u8]) -> Vec<u8> {
    path[..path.len().min(TEXT_MAX)].to_vec()
}

/// A number that will be counted up.
fn counted(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number| *number <= COUNT_MAX)
}

fn epoch(text: &str) -> Option<Epoch> {
    let (number, began) = text.split_once(':')?;
    Some(Epoch {
        number: counted(number)?,
        began: began.parse().ok()?,
    })
}

fn lacks(text: &str) -> Option<Lacks> {
    let mut lacks = Lacks::default();
    for word in text.split(',').filter(|word| !word.is_empty()) {
        lacks.insert(Lack::ALL.into_iter().find(|lack| lack.word() == word)?);
    }
    Some(lacks)
}

fn root(root: &RootIdentity) -> String {
    let uuid = root
        .uuid
        .map_or_else(|| "-".to_owned(), |uuid| format!("{uuid:032x}"));
    let btime = root.btime.map_or_else(
        || "-".to_owned(),
        |time| format!("{}.{:09}", time.seconds, time.nanos),
    );
    format!("{uuid},{},{btime}", root.ino)
}

fn parse_root(text: &str) -> Option<RootIdentity> {
    let mut parts = text.split(',');
    let uuid = match parts.next()? {
        "-" => None,
        hex => Some(u128::from_str_radix(hex, 16).ok()?),
    };
    let ino = parts.next()?.parse().ok()?;
    let btime = match parts.next()? {
        "-" => None,
        time => {
            let (seconds, nanos) = time.split_once('.')?;
            Some(Time {
                seconds: seconds.parse().ok()?,
                nanos: nanos.parse().ok()?,
            })
        }
    };
    parts
        .next()
        .is_none()
        .then_some(RootIdentity { uuid, ino, btime })
}

fn parse_covered(log: &str, attached: &str) -> Option<Covered> {
    let (id, generation) = log.split_once(':')?;
    let (intake, before) = match attached.split_once(',') {
        Some((intake, before)) => (intake, Some(counted(before)?)),
        None => (attached, None),
    };
    Some(Covered {
        log: LogId {
            id: u64::from_str_radix(id, 16).ok()?,
            generation: counted(generation)?,
        },
        intake: counted(intake)?,
        intake_before: before,
    })
}

/// Bytes outside printable ASCII, and `%`, as `%xx`.
fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'%' | 0..=0x1f | 0x7f.. => out += &format!("%{byte:02x}"),
            byte => out.push(char::from(byte)),
        }
    }
    out
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let value = digit(bytes.next())? * 16 + digit(bytes.next())?;
        out.push(u8::try_from(value).ok()?);
    }
    Some(out)
}

/// Why a stamp could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// There is one, but it says nothing.
    Corrupt(Corrupt),
    /// It could not be read.
    Errno(Errno),
}

impl From<Errno> for ReadError {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

#[cfg(test)]
mod tests;
