// SPDX-License-Identifier: MIT
//! The fstab grammar: `-o replica=/b,ro,x-systemd.automount` becomes long options and mount flags.
//!
//! Every `--long=x` of `mount` is also `-o long=x`; `_` and `-` are the same. A comma in a value is
//! written `\,`, or the value is put in double quotes. What only mount(8) and systemd need is
//! dropped; anything else is refused by name.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use crate::session::config::{Atime, MountFlags};
use crate::session::refusal::Refusal;

/// Words of fstab that are not for us.
const DROPPED: [&str; 16] = [
    "defaults",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "auto",
    "noauto",
    "nofail",
    "fail",
    "-netdev",
    "loud",
    "silent",
    "nomand",
    "noiversion",
    "async",
];

/// Words that mean something elsewhere, and why they do not here.
const DECLINED: [(&str, &str); 10] = [
    (
        "remount",
        "a mirror is not remounted: umount it and mount it again",
    ),
    ("bind", "a mirror is not a bind mount"),
    ("rbind", "a mirror is not a bind mount"),
    ("move", "mount --move needs no help from mirrorfs"),
    (
        "allow-root",
        "use allow_other: default_permissions keeps others in their bounds",
    ),
    (
        "auto-unmount",
        "the daemon unmounts by itself; after a crash the next mount cleans up",
    ),
    ("fsname", "the source is always PRIMARY as typed"),
    ("subtype", "the type is always fuse.mirrorfs"),
    (
        "no-default-permissions",
        "the kernel always checks permissions on a mirror",
    ),
    ("mand", "mandatory locking is gone from Linux"),
];

/// What a word does to the flags.
type Set = fn(&mut MountFlags);

/// The words of mount(8) and what they set. Later words win, as in mount(8).
const FLAGS: [(&str, Set); 26] = [
    ("ro", |f| f.read_only = true),
    ("rw", |f| f.read_only = false),
    ("suid", |f| f.suid = Some(true)),
    ("nosuid", |f| f.suid = Some(false)),
    ("dev", |f| f.dev = Some(true)),
    ("nodev", |f| f.dev = Some(false)),
    ("exec", |f| f.exec = Some(true)),
    ("noexec", |f| f.exec = Some(false)),
    ("atime", |f| f.atime = Atime::Relative),
    ("noatime", |f| f.atime = Atime::Never),
    ("relatime", |f| f.atime = Atime::Relative),
    ("norelatime", |f| f.atime = Atime::Relative),
    ("strictatime", |f| f.atime = Atime::Strict),
    ("nostrictatime", |f| f.atime = Atime::Relative),
    ("diratime", |f| f.no_diratime = false),
    ("nodiratime", |f| f.no_diratime = true),
    ("lazytime", |_| {}),
    ("nolazytime", |_| {}),
    ("sync", |f| f.sync = true),
    ("dirsync", |f| f.dirsync = true),
    ("symfollow", |f| f.no_symfollow = false),
    ("nosymfollow", |f| f.no_symfollow = true),
    ("allow-other", |f| f.allow_other = Some(true)),
    ("noallow-other", |f| f.allow_other = Some(false)),
    ("no-allow-other", |f| f.allow_other = Some(false)),
    ("default-permissions", |_| {}),
];

/// The mount flags of all `-o`, in the order they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(pub(super) MountFlags);

/// What a list of options says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Expanded {
    /// `--replica=/b`, `--degraded`, ...: to be parsed like typed ones.
    pub(super) long: Vec<OsString>,
    /// The words of mount(8).
    pub(super) flags: Flags,
}

/// Expands the values of all `-o`; `known` are the names of the long options.
///
/// # Errors
/// Names the first word that is not known.
pub(super) fn expand(lists: &[OsString], known: &[String]) -> Result<Expanded, Refusal> {
    let mut expanded = Expanded::default();
    for list in lists {
        for item in split(list.as_bytes()) {
            one(&item, known, &mut expanded)?;
        }
    }
    Ok(expanded)
}

fn one(item: &[u8], known: &[String], out: &mut Expanded) -> Result<(), Refusal> {
    let (typed, value) = match item.iter().position(|b| *b == b'=') {
        Some(at) => (&item[..at], Some(&item[at + 1..])),
        None => (item, None),
    };
    let typed = String::from_utf8_lossy(typed);
    let name = typed.replace('_', "-");
    if name.is_empty() && value.is_none() {
        return Ok(());
    }
    if name.starts_with("x-") || name.starts_with("X-") || name == "comment" {
        return Ok(());
    }
    if value.is_none() {
        if DROPPED.contains(&name.as_str()) {
            return Ok(());
        }
        if let Some((_, set)) = FLAGS.iter().find(|(word, _)| *word == name) {
            set(&mut out.flags.0);
            return Ok(());
        }
    }
    if let Some((_, why)) = DECLINED.iter().find(|(word, _)| *word == name) {
        return Err(Refusal::usage(format!(
            "option `{typed}` is not taken: {why}."
        )));
    }
    if known.contains(&name) {
        let mut long = format!("--{name}").into_bytes();
        if let Some(value) = value {
            long.push(b'=');
            long.extend_from_slice(value);
        }
        out.long.push(OsString::from_vec(long));
        return Ok(());
    }
    if value.is_some() && (name_known(&name)) {
        return Err(Refusal::usage(format!("option `{typed}` takes no value.")));
    }
    let words = FLAGS.iter().map(|(word, _)| *word);
    let nearest = nearest(&name, known.iter().map(String::as_str).chain(words));
    let no = Refusal::usage(format!("unknown option `{typed}`."));
    Err(match nearest {
        Some(word) => no.next(format!("Did you mean `{word}`?")),
        None => no.next("See: mirrorfs mount --help"),
    })
}

/// The words that are not long options of `mount`: flags, those dropped without a word, those refused
/// with a reason. For the test of the manual.
#[cfg(test)]
pub(super) fn other_words() -> [Vec<&'static str>; 3] {
    [
        FLAGS.iter().map(|(word, _)| *word).collect(),
        DROPPED.to_vec(),
        DECLINED.iter().map(|(word, _)| *word).collect(),
    ]
}

fn name_known(name: &str) -> bool {
    DROPPED.contains(&name) || FLAGS.iter().any(|(word, _)| *word == name)
}

/// Splits at commas, but not at `\,` nor inside double quotes; takes both marks away.
fn split(list: &[u8]) -> Vec<Vec<u8>> {
    let mut items = vec![Vec::new()];
    let mut quoted = false;
    let mut bytes = list.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let Some(item) = items.last_mut() else { break };
        match byte {
            b'\\' if matches!(bytes.peek(), Some(b',' | b'\\')) => item.extend(bytes.next()),
            b'"' if quoted || item.ends_with(b"=") => quoted = !quoted,
            b',' if !quoted => items.push(Vec::new()),
            other => item.push(other),
        }
    }
    items
}

/// The word that is most like `name`, if any is like it.
pub(super) fn nearest<'a>(name: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let best = words.map(|w| (distance(name, w), w)).min()?;
    // A third of the letters may be wrong.
    (best.0 <= name.len().max(3) / 3).then_some(best.1)
}

/// Levenshtein's: how many letters must be changed, added or dropped.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let swap = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = swap.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(list: &str) -> Result<Expanded, Refusal> {
        let known = ["replica", "mode", "degraded", "max-lag", "log"].map(str::to_owned);
        expand(&[OsString::from(list)], &known)
    }

    #[test]
    fn lists_become_long_options() -> Result<(), Refusal> {
        let table: [(&str, &[&str]); 11] = [
            ("", &[]),
            ("replica=/b", &["--replica=/b"]),
            ("replica=/b,degraded", &["--replica=/b", "--degraded"]),
            ("max_lag=1G,max-lag=2G", &["--max-lag=1G", "--max-lag=2G"]),
            (
                r"replica=/a\,b,mode=sync",
                &["--replica=/a,b", "--mode=sync"],
            ),
            (r"replica=/a\\b", &[r"--replica=/a\b"]),
            (r"replica=/a\xb", &[r"--replica=/a\xb"]),
            (
                r#"replica="/a,b",degraded"#,
                &["--replica=/a,b", "--degraded"],
            ),
            ("replica=/a=b", &["--replica=/a=b"]),
            (
                "user,nofail,_netdev,noauto,x-systemd.automount,X-foo=1,comment=hi,defaults",
                &[],
            ),
            (",,degraded,", &["--degraded"]),
        ];
        for (list, long) in table {
            assert_eq!(run(list)?.long, long, "{list}");
        }
        Ok(())
    }

    #[test]
    fn words_of_mount_become_flags_and_the_last_one_wins() -> Result<(), Refusal> {
        let flags = run("rw,ro,nosuid,dev,noexec,noatime,nodiratime,allow_other")?
            .flags
            .0;
        let expected = MountFlags {
            read_only: true,
            suid: Some(false),
            dev: Some(true),
            exec: Some(false),
            atime: Atime::Never,
            no_diratime: true,
            allow_other: Some(true),
            ..MountFlags::default()
        };
        assert_eq!(flags, expected);
        assert!(!run("ro,rw")?.flags.0.read_only);
        assert!(run("sync")?.flags.0.sync);
        Ok(())
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        for (list, word, hint) in [
            ("replika=/b", "`replika`", "Did you mean `replica`?"),
            ("no_suid", "`no_suid`", "Did you mean `nosuid`?"),
            ("zzzzzz", "`zzzzzz`", "--help"),
            ("ro=1", "`ro`", "takes no value"),
            ("remount,ro", "`remount`", "umount"),
            ("allow_root", "`allow_root`", "allow_other"),
        ] {
            let text = run(list).map(|_| ()).map_err(|e| e.to_string());
            let text = text.err().unwrap_or_default();
            assert!(text.contains(word) && text.contains(hint), "{list}: {text}");
        }
    }
}
