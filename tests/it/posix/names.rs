// SPDX-License-Identifier: MIT
//! Names of any bytes, up to 255 of them, and paths deeper than PATH_MAX.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, OFlags};

use crate::support::ground::parity;

/// Every byte but NUL and the slash, alone and 255 times.
#[test]
fn any_bytes() {
    parity(|g| {
        g.mkdir("d", 0o755);
        for byte in 1..=255_u8 {
            if byte == b'/' {
                continue;
            }
            for len in [2, 255] {
                let path = g.at("d").join(OsStr::from_bytes(&vec![byte; len]));
                let made = std::fs::write(&path, [byte]).map_err(|e| e.raw_os_error());
                if made.is_err() || byte % 16 == 3 {
                    g.note(format_args!("{byte:02x} {len}: {made:?}"));
                }
                if byte % 3 == 0 && made.is_ok() {
                    let to = path.with_extension("x");
                    g.note(format_args!(
                        "{:?}",
                        std::fs::rename(&path, to).map_err(|e| e.raw_os_error())
                    ));
                }
            }
        }
        g.list("d");
        for len in [254, 255, 256, 300] {
            let name = "n".repeat(len);
            g.file(&name, 0o644, "");
            g.mkdir(&format!("{name}-"), 0o755);
            g.stat(&name);
            g.symlink("x", &name);
            g.link("d/\u{1}\u{1}", &name);
            g.unlink(&name);
            g.rename("d", &name, rustix::fs::RenameFlags::NOREPLACE);
            g.rename(&name, "d", rustix::fs::RenameFlags::NOREPLACE);
        }
    });
}

/// Sixty levels of 200 bytes: made, used, moved and removed one step at a time.
#[test]
fn deeper_than_path_max() {
    parity(|g| {
        let name = "d".repeat(200);
        let top = g.fd(".", "r dir");
        let mut stack = vec![top];
        for depth in 0..60 {
            let here = stack.last().expect("never empty");
            rustix::fs::mkdirat(here, &name, 0o755.into()).expect("mkdir");
            let file =
                rustix::fs::openat(here, "file", OFlags::CREATE | OFlags::RDWR, 0o644.into());
            rustix::io::write(file.expect("open"), format!("depth {depth}").as_bytes())
                .expect("write");
            let below =
                rustix::fs::openat(here, &name, OFlags::DIRECTORY, 0o000.into()).expect("open");
            stack.push(below);
        }
        let bottom = stack.last().expect("never empty");
        g.did("symlink", rustix::fs::symlinkat("x", bottom, "link"));
        let flags = rustix::fs::RenameFlags::empty();
        g.did(
            "rename up",
            rustix::fs::renameat_with(bottom, "link", &stack[3], "link", flags),
        );
        g.did(
            "rename down",
            rustix::fs::renameat_with(&stack[2], "file", bottom, "moved", flags),
        );
        let stat = rustix::fs::statat(bottom, "moved", AtFlags::empty()).map(|s| s.st_size);
        g.did("stat", stat);
        g.did(
            "rename a deep tree",
            rustix::fs::renameat_with(&stack[5], &name, &stack[0], "tree", flags),
        );
        let path = format!("tree/{}", [name.as_str(); 30].join("/"));
        g.did("too long a path", rustix::fs::lstat(g.at(path)).map(drop));
    });
}

/// Names that differ only in case or in normal form are different names.
#[test]
fn no_folding() {
    parity(|g| {
        for name in [
            "Name", "name", "NAME", "\u{e9}", "e\u{301}", " ", "  ", ".a", "...", "a ", "a\n",
            "-rf", "*", "\\",
        ] {
            g.file(name, 0o644, name);
        }
        g.list(".");
        g.cat("NAME");
        g.cat("e\u{301}");
        g.stat("nAME");
    });
}
