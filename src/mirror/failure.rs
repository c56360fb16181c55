// SPDX-License-Identifier: MIT
//! `Failure`: which copy, which path, which call, which errno; and how names are shown to people.

use std::fmt;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::sys::Errno;

/// One of the two copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Copy {
    /// The tree that serves reads and decides every outcome.
    Primary,
    /// The tree that receives every op.
    Replica,
}

impl fmt::Display for Copy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
        })
    }
}

/// A call on one of the copies that failed, with everything a person needs to look into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The copy it was made on.
    pub copy: Copy,
    /// The object, relative to the root of the copy; empty for the root.
    pub path: Vec<u8>,
    /// The system call.
    pub call: &'static str,
    /// What it answered.
    pub errno: Errno,
}

impl Failure {
    /// The likely cause, where the errno alone would puzzle.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match (self.call, self.errno) {
            ("openat2", Errno::XDEV) => Some("another file system is mounted there"),
            ("copy", Errno::BUSY) => Some("it keeps changing while it is being copied"),
            ("link", Errno::MLINK) => Some("the replica shares this file with the primary"),
            ("unlinkat", Errno::CANCELED) => Some("more deletions than --max-delete allows"),
            (_, Errno::CANCELED | Errno::INTR) => Some("interrupted"),
            (_, Errno::STALE) => Some("it was moved or replaced meanwhile"),
            _ => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, errno) = (show_path(&self.path), Named(self.errno));
        write!(f, "{} of {path} on the {}: {errno}", self.call, self.copy)?;
        match self.hint() {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

/// An errno as people read it: `No space left on device (ENOSPC)`.
#[derive(Clone, Copy, Debug)]
pub struct Named(pub Errno);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let raw = self.0.raw_os_error();
        let text = std::io::Error::from_raw_os_error(raw).to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        match errno_name(self.0) {
            Some(name) => write!(f, "{text} ({name})"),
            None => write!(f, "{text} (errno {raw})"),
        }
    }
}

/// The symbol of an errno that a copy may answer.
#[must_use]
pub fn errno_name(errno: Errno) -> Option<&'static str> {
    Some(match errno {
        Errno::ACCESS => "EACCES",
        Errno::AGAIN => "EAGAIN",
        Errno::BADF => "EBADF",
        Errno::BUSY => "EBUSY",
        Errno::CANCELED => "ECANCELED",
        Errno::DQUOT => "EDQUOT",
        Errno::EXIST => "EEXIST",
        Errno::FBIG => "EFBIG",
        Errno::HOSTDOWN => "EHOSTDOWN",
        Errno::INTR => "EINTR",
        Errno::INVAL => "EINVAL",
        Errno::IO => "EIO",
        Errno::ISDIR => "EISDIR",
        Errno::LOOP => "ELOOP",
        Errno::MFILE => "EMFILE",
        Errno::MLINK => "EMLINK",
        Errno::NAMETOOLONG => "ENAMETOOLONG",
        Errno::NODATA => "ENODATA",
        Errno::NODEV => "ENODEV",
        Errno::NOENT => "ENOENT",
        Errno::NOMEM => "ENOMEM",
        Errno::NOSPC => "ENOSPC",
        Errno::NOSYS => "ENOSYS",
        Errno::NOTCONN => "ENOTCONN",
        Errno::NOTDIR => "ENOTDIR",
        Errno::NOTEMPTY => "ENOTEMPTY",
        Errno::NXIO => "ENXIO",
        Errno::OPNOTSUPP => "EOPNOTSUPP",
        Errno::PERM => "EPERM",
        Errno::RANGE => "ERANGE",
        Errno::ROFS => "EROFS",
        Errno::STALE => "ESTALE",
        Errno::TIMEDOUT => "ETIMEDOUT",
        Errno::TXTBSY => "ETXTBSY",
        Errno::UCLEAN => "EUCLEAN",
        Errno::XDEV => "EXDEV",
        _ => return None,
    })
}

/// A relative path as unambiguous printable text; the root is `.`.
#[must_use]
pub fn show_path(path: &[u8]) -> String {
    if path.is_empty() {
        return ".".to_owned();
    }
    printable(path)
}

/// Paths as they are written into messages and logs: as [`show_path`] writes them, so that no name
/// steers a terminal or begins a line of its own.
pub trait Shown {
    /// The text.
    fn shown(&self) -> String;
}

impl Shown for Path {
    fn shown(&self) -> String {
        printable(self.as_os_str().as_bytes())
    }
}

impl Shown for str {
    fn shown(&self) -> String {
        printable(self.as_bytes())
    }
}

/// Whether a terminal obeys it, or it reorders or hides the text around it there.
fn steers(ch: char) -> bool {
    ch.is_control()
        || matches!(ch, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text that was made elsewhere, perhaps of names that were shown already, as one line: only what
/// steers a terminal is escaped.
#[must_use]
pub fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for ch in text.chars() {
        if steers(ch) {
            out.extend(ch.escape_default());
        } else {
            out.push(ch);
        }
    }
    out
}

fn printable(path: &[u8]) -> String {
    let mut out = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for ch in chunk.valid().chars() {
            match ch {
                '\\' => out.push_str("\\\\"),
                ch if ch.is_control() => {
                    let _ = write!(out, "\\x{:02x}", u32::from(ch));
                }
                ch if steers(ch) => {
                    let _ = write!(out, "\\u{:04x}", u32::from(ch));
                }
                ch => out.push(ch),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_without_ambiguity() {
        for (path, text) in [
            (&b""[..], "."),
            (b"a/b c", "a/b c"),
            (b"\xff\x1b[2J\n\\", "\\xff\\x1b[2J\\x0a\\\\"),
            ("\u{202e}x".as_bytes(), "\\u202ex"),
        ] {
            assert_eq!(show_path(path), text);
        }
    }

    #[test]
    fn a_text_made_elsewhere_steers_nothing() {
        for (text, shown) in [
            ("a\u{1b}[2Jb\n", "a\\u{1b}[2Jb\\n"),
            ("\u{202e}x\\x0a", "\\u{202e}x\\x0a"),
            ("gr\u{fc}n", "gr\u{fc}n"),
        ] {
            assert_eq!(harmless(text), shown);
        }
    }

    #[test]
    fn a_failure_says_which_copy_path_call_and_errno() {
        let failure = Failure {
            copy: Copy::Replica,
            path: b"a/\xffb".to_vec(),
            call: "pwrite",
            errno: Errno::NOSPC,
        };
        assert_eq!(
            failure.to_string(),
            "pwrite of a/\\xffb on the replica: No space left on device (ENOSPC)"
        );
    }
}
