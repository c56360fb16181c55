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

/// Paths as they are written into messages and logs.
pub trait Shown {
    /// As [`show_path`] writes it, so that no name steers a terminal or begins a line of its own.
    fn shown(&self) -> String;

    /// As part of a command that is to be typed: what a shell takes for exactly this path, whatever is in it.
    fn quoted(&self) -> String;
}

impl Shown for [u8] {
    fn shown(&self) -> String {
        printable(self)
    }

    fn quoted(&self) -> String {
        quoted(self)
    }
}

impl Shown for Path {
    fn shown(&self) -> String {
        self.as_os_str().as_bytes().shown()
    }

    fn quoted(&self) -> String {
        self.as_os_str().as_bytes().quoted()
    }
}

impl Shown for str {
    fn shown(&self) -> String {
        self.as_bytes().shown()
    }

    fn quoted(&self) -> String {
        self.as_bytes().quoted()
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

/// Bash's and zsh's quoting; that with a dollar sign is in POSIX since 2024.
fn quoted(path: &[u8]) -> String {
    let plain = |ch: char| ch.is_alphanumeric() || "/._-+,:@%".contains(ch);
    let text = std::str::from_utf8(path).ok();
    let word = match text {
        Some(text) if !text.is_empty() && text.chars().all(plain) => text.to_owned(),
        Some(text) if !text.chars().any(|ch| steers(ch) || ch == '\'') => format!("'{text}'"),
        _ => format!("$'{}'", escaped(path)),
    };
    // No option.
    if path.starts_with(b"-") {
        return format!("./{word}");
    }
    word
}

/// What stands between `$'` and `'`. Three digits each: what follows cannot be taken for a fourth, in
/// any shell.
fn escaped(path: &[u8]) -> String {
    let octal = |out: &mut String, bytes: &[u8]| {
        for byte in bytes {
            let _ = write!(out, "\\{byte:03o}");
        }
    };
    let letter = |out: &mut String, ch: char| match ch {
        '\\' | '\'' => out.extend(['\\', ch]),
        ch if steers(ch) => octal(out, ch.encode_utf8(&mut [0; 4]).as_bytes()),
        ch => out.push(ch),
    };
    spelled(path, letter, octal)
}

fn printable(path: &[u8]) -> String {
    let letter = |out: &mut String, ch: char| {
        let _ = match ch {
            '\\' => write!(out, "\\\\"),
            ch if ch.is_ascii_control() => write!(out, "\\x{:02x}", u32::from(ch)),
            ch if steers(ch) => write!(out, "\\u{:04x}", u32::from(ch)),
            ch => write!(out, "{ch}"),
        };
    };
    spelled(path, letter, |out, bytes| {
        for byte in bytes {
            let _ = write!(out, "\\x{byte:02x}");
        }
    })
}

/// Letter by letter, and what are none.
fn spelled(
    path: &[u8],
    letter: impl Fn(&mut String, char),
    others: impl Fn(&mut String, &[u8]),
) -> String {
    let mut out = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        chunk.valid().chars().for_each(|ch| letter(&mut out, ch));
        others(&mut out, chunk.invalid());
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
            ("\u{85}".as_bytes(), "\\u0085"),
            (b"\x85", "\\x85"),
        ] {
            assert_eq!(show_path(path), text);
        }
    }

    #[test]
    fn plain_paths_are_typed_as_they_are() {
        for path in ["/srv/data", "a-b_c.d+e,f:g@h%i", "/gr\u{fc}n"] {
            assert_eq!(path.quoted(), path);
        }
    }

    #[test]
    fn a_shell_takes_what_is_quoted_for_the_very_path() {
        let paths = [
            &b"/a b"[..],
            b"",
            b"-o",
            b"- \n",
            b"~",
            b"/a;reboot",
            b"/$(id)`id`${HOME}*?[a]{b,c}!1 #\"\\",
            b"it's",
            b"it's \\x41 \x07",
            b"\xff\x1b[2J\n\\'\x0177",
            b"\xc2\x85\xc2",
            "\u{202e}\u{fc}9".as_bytes(),
        ];
        for path in paths {
            let typed = path.quoted();
            assert!(!typed.chars().any(steers), "{typed}");
            let script = format!("printf %s. {typed}");
            let echo = std::process::Command::new("bash")
                .args(["-c", &script])
                .output();
            let echo = echo.expect("bash runs").stdout;
            let is = echo.strip_suffix(b".").expect("printed");
            let is = is.strip_prefix(b"./").unwrap_or(is);
            assert_eq!((is, typed.starts_with('-')), (path, false), "{typed}");
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
