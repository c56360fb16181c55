// SPDX-License-Identifier: MIT
//! `Name`: one component of a path, the only thing that is ever looked up.
//!
//! A `Name` holds no `/` and no NUL and is neither empty nor `.` nor `..`; any other bytes are
//! welcome. That it is valid was checked when it was made, so that nothing relative to a
//! directory descriptor can leave that directory. Up to 15 bytes of it are kept in place: there are
//! as many names as the kernel knows objects.

use std::ffi::{CStr, OsStr};
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use smallvec::SmallVec;

use crate::sys::{Errno, Result};

/// One component of a path: no `/`, no NUL, not empty, not `.` or `..`; with a NUL at its end.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(SmallVec<[u8; 16]>);

impl Name {
    /// Checks one component.
    ///
    /// # Errors
    /// `EINVAL` for anything that is not exactly one component. Length is left to the file
    /// system, whose limit it is.
    pub fn new(bytes: impl AsRef<OsStr>) -> Result<Self> {
        let bytes = bytes.as_ref().as_bytes();
        if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') {
            return Err(Errno::INVAL);
        }
        if bytes.contains(&0) {
            return Err(Errno::INVAL);
        }
        let mut name = SmallVec::with_capacity(bytes.len() + 1);
        name.extend_from_slice(bytes);
        name.push(0);
        Ok(Self(name))
    }

    /// As the kernel wants it.
    #[must_use]
    pub fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_with_nul(&self.0).unwrap_or_default()
    }

    /// As the standard library wants it.
    #[must_use]
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(self.as_c_str().to_bytes())
    }
}

impl Name {
    /// What it takes beside its place: nothing if it is short.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        if self.0.spilled() {
            self.0.capacity()
        } else {
            0
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_os_str().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_single_components_are_names() {
        for bad in [&b""[..], b".", b"..", b"/", b"a/b", b"/a", b"a/", b"a\0b"] {
            assert_eq!(
                Name::new(OsStr::from_bytes(bad)),
                Err(Errno::INVAL),
                "{bad:?}"
            );
        }
        let mut long = vec![0xff_u8; 255];
        long[7] = b'\n';
        for good in [&b"a"[..], b"...", b"..a", b" ", b"\xff\xfe", &long] {
            let name = Name::new(OsStr::from_bytes(good)).expect("a valid name");
            assert_eq!(name.as_os_str().as_bytes(), good);
        }
    }
}
