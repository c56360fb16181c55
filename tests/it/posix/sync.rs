// SPDX-License-Identifier: MIT
//! fsync, fdatasync, O_SYNC, O_DSYNC, directory fsync: they answer, and nothing is lost after.

use rustix::fs::{fdatasync, fsync};
use rustix::io::{pwrite, write};

use crate::support::ground::parity;

/// On files, read-only descriptors, directories, fifos, unlinked files.
#[test]
fn everything_can_be_synced() {
    parity(|g| {
        g.file("f", 0o644, "content");
        g.mkdir("d", 0o755);
        g.mknod("p", 0o010_644, 0);
        for (path, flags) in [
            ("f", "rw"),
            ("f", "r"),
            ("d", "r dir"),
            (".", "r dir"),
            ("p", "rw nonblock"),
        ] {
            let fd = g.fd(path, flags);
            g.did(format_args!("fsync {path} {flags}"), fsync(&fd));
            g.did(format_args!("fdatasync {path} {flags}"), fdatasync(&fd));
        }
        let fd = g.fd("f", "rw");
        g.unlink("f");
        g.did("write", write(&fd, b"x"));
        g.did("fsync of the unlinked", fsync(&fd));
        g.did("sync_file_range", rustix::fs::fdatasync(&fd));
    });
}

/// Synchronous writes of many sizes.
#[test]
fn synchronous_writes() {
    parity(|g| {
        for flags in [
            "rw creat sync",
            "rw creat dsync",
            "rw creat sync append",
            "rw creat dsync direct",
        ] {
            let path = flags.replace(' ', "-");
            let fd = g.open(&path, flags, 0o644).expect("open");
            for len in [1, 100, 4096, 100_000] {
                let buffer = vec![b'x'; len + 8192];
                let at = if flags.contains("direct") {
                    buffer.as_ptr().align_offset(4096)
                } else {
                    0
                };
                let len = if flags.contains("direct") {
                    len.next_multiple_of(4096).min(4096)
                } else {
                    len
                };
                g.did(
                    format_args!("{flags} {len}"),
                    pwrite(&fd, &buffer[at..at + len], 4096),
                );
            }
            g.cat(&path);
        }
    });
}
