// SPDX-License-Identifier: MIT
//! Lines of mountinfo as anybody may make them: for the fuzz target and the test that runs its
//! corpus (crate::fuzzing).

use std::os::unix::ffi::OsStrExt;

use super::{Mount, at, below, by_id, parse};

pub(crate) fn mountinfo(data: &[u8]) {
    let mounts = parse(data);
    assert!(mounts.len() <= data.split(|byte| *byte == b'\n').count());
    for mount in &mounts {
        // The kernel escapes blanks, line ends and backslashes: written like that it reads the same.
        assert_eq!(parse(&line(mount)).as_slice(), std::slice::from_ref(mount));
        let seen = at(&mounts, &mount.target);
        assert!(seen.is_none_or(|seen| seen.target == mount.target));
        assert!(by_id(&mounts, mount.id).is_some());
        assert!(below(&mounts, &mount.target).all(|m| m.target != mount.target));
        _ = (mount.is_mirror(), mount.user_id(), mount.group_id());
        assert_eq!(
            mount.has("ro"),
            mount.options.split(',').any(|word| word == "ro")
        );
    }
}

fn line(mount: &Mount) -> Vec<u8> {
    let mut out = format!(
        "{} {} {}:{} ",
        mount.id, mount.parent, mount.major, mount.minor
    )
    .into_bytes();
    for path in [&mount.root, &mount.target] {
        escape(path.as_os_str().as_bytes(), &mut out);
    }
    out.extend(format!("{} - ", mount.options).into_bytes());
    escape(mount.fstype.as_bytes(), &mut out);
    escape(mount.source.as_bytes(), &mut out);
    out.extend(mount.super_options.as_bytes());
    out
}

fn escape(word: &[u8], out: &mut Vec<u8>) {
    for &byte in word {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => out.extend(format!("\\{byte:03o}").into_bytes()),
            byte => out.push(byte),
        }
    }
    out.push(b' ');
}

#[cfg(test)]
pub(crate) fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let lines = b"\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard\n\
30 22 0:40 / /data rw,nosuid,nodev,relatime - fuse.mirrorfs /srv/a\\040b,c rw,user_id=1000,group_id=1000\n\
31 30 0:41 / /data rw - fuse.mirrorfs /srv/top rw,user_id=0,group_id=0\n";
    let odd = b"\
32 22 254:0 /srv/x /mnt/sp\\040a\\134ce ro shared:7 master:2 - ext4 /dev/vda rw\n\
33 32 0:5 / /mnt/sp\\011t rw - fuse\\012 none\n\
34 33 0:x / /x rw - tmpfs tmpfs rw\n\
nonsense\n";
    vec![("mirrors", lines.to_vec()), ("odd", odd.to_vec())]
}
