// SPDX-License-Identifier: MIT
//! The contracts of mount(8) and umount(8) with their helpers, for the two scripts in
//! `mount-helper/`.
//!
//! `mount.TYPE spec dir [-sfnv] [-N ns] [-o options] [-t type]` becomes `mirrorfs mount`;
//! `umount.TYPE dir [-flnrv] [-N ns] [-t type]` becomes `mirrorfs umount`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use super::args::UmountArgs;
use super::complain;
use super::exit::Exit;
use super::{mount as mount_verb, umount as umount_verb};

/// What a helper was called with.
#[derive(Debug, Default, PartialEq, Eq)]
struct Call {
    places: Vec<OsString>,
    /// Letters of options without a value.
    letters: Vec<u8>,
    /// The values of `-o`.
    options: Vec<OsString>,
}

/// `mirrorfs mount-helper spec dir ...`.
pub(super) fn mount(words: &[OsString]) -> Exit {
    match mount_argv(words) {
        Ok(argv) => mount_verb::typed(&argv),
        Err(why) => usage(
            &why,
            "mount.mirrorfs PRIMARY MOUNTPOINT [-sfnv] [-o options]",
        ),
    }
}

/// What `mirrorfs` is to be called with instead.
///
/// # Errors
/// Why the words are no call, in words.
pub(super) fn mount_argv(words: &[OsString]) -> Result<Vec<OsString>, String> {
    mount_words(&read(words, b"sfnv")?)
}

/// `mirrorfs umount-helper dir ...`.
pub(super) fn umount(words: &[OsString]) -> Exit {
    let call = match read(words, b"flnrvcdq") {
        Ok(call) => call,
        Err(why) => return usage(&why, "umount.fuse.mirrorfs MOUNTPOINT [-flnrv]"),
    };
    let [place] = call.places.as_slice() else {
        return usage(
            "it takes one mountpoint",
            "umount.fuse.mirrorfs MOUNTPOINT [-flnrv]",
        );
    };
    if call.letters.contains(&b'r') {
        return usage(
            "-r: a mirror is not remounted",
            "umount.fuse.mirrorfs MOUNTPOINT [-flnrv]",
        );
    }
    umount_verb::run(&UmountArgs {
        mountpoint: PathBuf::from(place),
        lazy: call.letters.contains(&b'l'),
        timeout: Duration::from_secs(300),
    })
}

fn usage(why: &str, how: &str) -> Exit {
    complain(&format!("{why}.\n  Usage: {how}"));
    Exit::MountUsage
}

/// The words of `mirrorfs mount` that say the same.
fn mount_words(call: &Call) -> Result<Vec<OsString>, String> {
    let [spec, dir] = call.places.as_slice() else {
        return Err("it takes what to mount and where".into());
    };
    let mut argv: Vec<OsString> = vec!["mirrorfs".into(), "mount".into()];
    for list in &call.options {
        argv.extend(["-o".into(), list.clone()]);
    }
    for (letter, word) in [(b'f', "--fake"), (b'v', "--verbose")] {
        if call.letters.contains(&letter) {
            argv.push(word.into());
        }
    }
    argv.extend(["--".into(), spec.clone(), dir.clone()]);
    Ok(argv)
}

/// Reads the words of a helper call: letters may be joined, values may be glued to theirs.
fn read(words: &[OsString], letters: &[u8]) -> Result<Call, String> {
    let mut call = Call::default();
    let mut words = words.iter();
    let mut only_places = false;
    while let Some(word) = words.next() {
        let bytes = word.as_bytes();
        if only_places || bytes.len() < 2 || bytes[0] != b'-' {
            call.places.push(word.clone());
            continue;
        }
        if bytes == b"--" {
            only_places = true;
            continue;
        }
        let mut rest = &bytes[1..];
        while let [letter, tail @ ..] = rest {
            rest = tail;
            if letters.contains(letter) {
                call.letters.push(*letter);
                continue;
            }
            if !b"oNt".contains(letter) {
                return Err(format!("unknown option -{}", char::from(*letter)));
            }
            let value = if rest.is_empty() {
                words.next().cloned()
            } else {
                Some(OsString::from_vec(rest.to_vec()))
            };
            let value = value.ok_or_else(|| format!("-{} needs a value", char::from(*letter)))?;
            if *letter == b'o' {
                call.options.push(value);
            }
            rest = &[];
        }
    }
    Ok(call)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> Result<String, String> {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let argv = read(&words, b"sfnv").and_then(|call| mount_words(&call))?;
        Ok(argv
            .join(std::ffi::OsStr::new(" "))
            .to_string_lossy()
            .into_owned())
    }

    #[test]
    fn the_contract_of_mount() {
        for (line, argv) in [
            ("/p /m", "mirrorfs mount -- /p /m"),
            (
                "/p /m -o rw,replica=/r",
                "mirrorfs mount -o rw,replica=/r -- /p /m",
            ),
            (
                "/p /m -sfnv -oro",
                "mirrorfs mount -o ro --fake --verbose -- /p /m",
            ),
            ("/p /m -N 7 -t fuse.mirrorfs -n", "mirrorfs mount -- /p /m"),
            ("-o a -- -p /m", "mirrorfs mount -o a -- -p /m"),
        ] {
            assert_eq!(run(line).as_deref(), Ok(argv), "{line}");
        }
        for line in ["/p", "/p /m /x", "/p /m -x", "/p /m -o"] {
            assert!(run(line).is_err(), "{line}");
        }
    }
}
