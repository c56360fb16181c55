// SPDX-License-Identifier: MIT
//! Set-gid directories: what is made in them belongs to their group.

use crate::need_root;
use crate::support::ground::parity;
use crate::support::user::{self, ALICE, BOB, CAROL, SHARED};

/// Group and set-gid bit of everything made below, by members and strangers.
#[test]
fn inherited_groups() {
    need_root!();
    parity(|g| {
        for gid in [SHARED, ALICE.gid, 0] {
            let dir = format!("d{gid}");
            g.mkdir(&dir, 0o777);
            g.chown(&dir, 0, gid.into());
            g.chmod(&dir, 0o2777);
            for user in [ALICE, BOB, CAROL] {
                let made = |suffix: &str| format!("{dir}/{}{suffix}", user.uid);
                user::with(user, || {
                    g.umask(0o002);
                    g.file(&made("f"), 0o666, "");
                    g.file(&made("g"), 0o2775, "");
                    g.file(&made("h"), 0o6775, "");
                    g.mkdir(&made("d"), 0o770);
                    g.mkdir(&made("d/sub"), 0o2770);
                    g.mknod(&made("p"), 0o010_660, 0);
                    g.symlink("x", &made("s"));
                });
                for suffix in ["f", "g", "h", "d", "d/sub", "p", "s"] {
                    g.stat(&made(suffix));
                }
                g.umask(0o022);
            }
            g.mkdir(&format!("{dir}/roots"), 0o755);
            g.stat(&format!("{dir}/roots"));
        }
    });
}
