// SPDX-License-Identifier: MIT
//! A no that helps: what, why, what to do next, and an id that stays for ever.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whose fault it is; `cli/exit.rs` gives each a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The words make no sense, or the caller may not do this.
    Usage,
    /// The machine lacks something: no /dev/fuse, no memory.
    System,
    /// We made a mistake.
    Bug,
    /// A signal came first.
    Interrupted,
    /// It could be done but must not be, or it was tried and failed.
    Refused,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Whose fault it is.
    pub kind: Kind,
    /// What is wrong: a sentence, or a clause that continues "cannot mount X: ...".
    pub why: String,
    /// What to do next, a line each.
    pub next: Vec<String>,
    /// The page of the manual, `MF-0011`.
    pub id: Option<String>,
}

impl Refusal {
    /// A refusal of this kind with nothing but its reason.
    pub fn new(kind: Kind, why: impl Into<String>) -> Self {
        Self {
            kind,
            why: why.into(),
            next: Vec::new(),
            id: None,
        }
    }

    /// Exit 1: usage or permission.
    pub fn usage(why: impl Into<String>) -> Self {
        Self::new(Kind::Usage, why)
    }

    /// Exit 2: the system lacks something.
    pub fn system(why: impl Into<String>) -> Self {
        Self::new(Kind::System, why)
    }

    /// Exit 32: refused or failed.
    pub fn refused(why: impl Into<String>) -> Self {
        Self::new(Kind::Refused, why)
    }

    /// Adds a line that says what to do next.
    #[must_use]
    pub fn next(mut self, line: impl Into<String>) -> Self {
        self.next.push(line.into());
        self
    }

    /// Names the page of the manual.
    #[must_use]
    pub fn id(mut self, id: &str) -> Self {
        self.id = Some(id.to_owned());
        self
    }

    /// `EACCES` and `EPERM` are the caller's to solve, the rest is a failure.
    pub fn from_io(why: &str, error: &std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::PermissionDenied => Kind::Usage,
            std::io::ErrorKind::OutOfMemory => Kind::System,
            _ => Kind::Refused,
        };
        Self::new(kind, format!("{why}: {}.", errno_text(error)))
    }
}

/// An error as people read it: no "(os error 2)".
#[must_use]
pub fn errno_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.why)?;
        for line in &self.next {
            write!(f, "\n  {line}")?;
        }
        match &self.id {
            Some(id) => write!(f, "  [{id}]"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::Refusal;

    #[test]
    fn it_says_why_then_what_next_then_its_id() {
        let no = Refusal::refused("the replica carries no mirrorfs stamp.")
            .next("Is the disk mounted?")
            .id("MF-0011");
        assert_eq!(
            no.to_string(),
            "the replica carries no mirrorfs stamp.\n  Is the disk mounted?  [MF-0011]"
        );
    }
}
