// SPDX-License-Identifier: MIT
//! File capabilities: kept, shown, and lost when the file is written or given away.

use crate::need_root;
use crate::support::ground::parity;
use crate::support::user::{self, ALICE};

const NAME: &str = "security.capability";

fn value() -> Vec<u8> {
    [0x0200_0001_u32, 1 << 10, 0, 0, 0]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect()
}

/// Written by anyone, truncated, given away: gone as natively; read or renamed: kept.
#[test]
fn lost_when_changed() {
    need_root!();
    parity(|g| {
        g.file("f", 0o755, "#!/bin/true");
        let again = || g.setxattr("f", NAME, &value());
        again();
        g.getxattr("f", NAME);
        g.listxattr("f");
        g.cat("f");
        g.chmod("f", 0o711);
        g.link("f", "g");
        g.getxattr("g", NAME);
        g.rename("g", "h", rustix::fs::RenameFlags::empty());
        g.getxattr("h", NAME);
        let fd = g.fd("f", "rw");
        g.did("write", rustix::io::write(&fd, b"x"));
        g.getxattr("f", NAME);
        again();
        g.truncate("f", 3);
        g.getxattr("f", NAME);
        again();
        g.chown("f", 1, 1);
        g.getxattr("f", NAME);
        again();
        g.chown("f", -1, -1);
        g.getxattr("f", NAME);
        again();
        let mode = rustix::fs::FallocateFlags::empty();
        g.did("fallocate", rustix::fs::fallocate(&fd, mode, 0, 5000));
        g.getxattr("f", NAME);
        again();
        g.utimens("f", (1, 2), (3, 4));
        g.getxattr("f", NAME);
        g.setxattr("f", NAME, b"rubbish");
        g.removexattr("f", NAME);
        g.getxattr("f", NAME);
    });
}

/// A user cannot grant one, and loses it by writing.
#[test]
fn by_a_user() {
    need_root!();
    parity(|g| {
        g.file("f", 0o777, "#!/bin/true");
        g.chmod("f", 0o777);
        g.chown("f", ALICE.uid.into(), ALICE.gid.into());
        user::with(ALICE, || g.setxattr("f", NAME, &value()));
        g.setxattr("f", NAME, &value());
        user::with(ALICE, || {
            let fd = g.fd("f", "w append");
            g.did("write", rustix::io::write(&fd, b"x"));
        });
        g.getxattr("f", NAME);
        g.setxattr("f", NAME, &value());
        user::with(ALICE, || g.removexattr("f", NAME));
        g.getxattr("f", NAME);
    });
}

/// setcap and getcap agree with the native file.
#[test]
fn setcap() {
    need_root!();
    crate::need_programs!("setcap", "getcap");
    parity(|g| {
        let script = "cp /bin/true t; setcap cap_net_raw,cap_net_admin+ep t; getcap t; cp -a t u; getcap u; echo x >> u; getcap u";
        g.note(crate::support::run::shell(&g.root, script));
        // Binaries differ in nothing but need not stay.
        g.unlink("u");
    });
}
