// SPDX-License-Identifier: MIT
//! POSIX ACLs: set, read, inherited, masked, obeyed.

use crate::need_root;
use crate::support::acl::{ACCESS, Ace, DEFAULT, encode};
use crate::support::ground::{Ground, parity};
use crate::support::user::{self, ALICE, BOB, CAROL, SHARED};
use Ace::{Group, Mask, Other, Owner, OwningGroup, User};

fn show(g: &Ground, path: &str) {
    g.stat(path);
    g.getxattr(path, ACCESS);
    g.getxattr(path, DEFAULT);
}

/// An ACL changes the mode, chmod changes the ACL, and both show the same.
#[test]
fn acl_and_mode() {
    need_root!();
    parity(|g| {
        g.file("f", 0o640, "content");
        g.setxattr(
            "f",
            ACCESS,
            &encode(&[
                Owner(7),
                User(ALICE.uid, 6),
                OwningGroup(4),
                Mask(6),
                Other(0),
            ]),
        );
        show(g, "f");
        for mode in [0o600, 0o677, 0o644, 0o7777, 0o2000] {
            g.watch("f", || g.chmod("f", mode));
            show(g, "f");
        }
        // One that says no more than a mode becomes a mode.
        g.watch("f", || {
            g.setxattr("f", ACCESS, &encode(&[Owner(6), OwningGroup(4), Other(1)]));
        });
        show(g, "f");
        g.setxattr("f", ACCESS, &encode(&[Owner(6), User(1, 6)]));
        g.setxattr("f", ACCESS, b"rubbish");
        g.setxattr("f", DEFAULT, &encode(&[Owner(7), OwningGroup(5), Other(5)]));
        g.setxattr(
            "f",
            ACCESS,
            &encode(&[
                Owner(7),
                Group(SHARED, 6),
                OwningGroup(4),
                Mask(7),
                Other(0),
            ]),
        );
        g.removexattr("f", ACCESS);
        show(g, "f");
        g.removexattr("f", ACCESS);
        g.listxattr("f");
    });
}

/// Default ACLs are inherited by everything that is made, and then the umask does not count.
#[test]
fn inheritance_and_umask() {
    need_root!();
    parity(|g| {
        let acls: [&[Ace]; 3] = [
            &[Owner(7), OwningGroup(5), Other(5)],
            &[
                Owner(7),
                User(ALICE.uid, 7),
                OwningGroup(5),
                Mask(7),
                Other(0),
            ],
            &[
                Owner(6),
                User(BOB.uid, 4),
                OwningGroup(4),
                Group(SHARED, 6),
                Mask(4),
                Other(4),
            ],
        ];
        for (n, acl) in acls.iter().enumerate() {
            let dir = format!("d{n}");
            g.mkdir(&dir, 0o755);
            g.setxattr(&dir, DEFAULT, &encode(acl));
            show(g, &dir);
            for mask in [0o000, 0o022, 0o077, 0o777] {
                g.umask(mask);
                for mode in [0o777, 0o666, 0o640, 0o600, 0o000] {
                    let name = format!("{dir}/{mask:o}-{mode:o}");
                    g.file(&name, mode, "");
                    show(g, &name);
                    g.mkdir(&format!("{name}d"), mode);
                    show(g, &format!("{name}d"));
                    g.mknod(&format!("{name}p"), 0o010_000 | mode, 0);
                    show(g, &format!("{name}p"));
                }
                g.symlink("x", &format!("{dir}/{mask:o}s"));
                g.stat(&format!("{dir}/{mask:o}s"));
            }
            g.umask(0o022);
        }
    });
}

/// The ACL decides who reads and writes.
#[test]
fn obeyed() {
    need_root!();
    parity(|g| {
        g.file("f", 0o600, "content");
        g.chown("f", CAROL.uid.into(), CAROL.gid.into());
        let acls: [&[Ace]; 4] = [
            &[
                Owner(6),
                User(ALICE.uid, 6),
                OwningGroup(0),
                Mask(6),
                Other(0),
            ],
            &[
                Owner(6),
                User(ALICE.uid, 6),
                OwningGroup(0),
                Mask(4),
                Other(0),
            ],
            &[
                Owner(4),
                OwningGroup(0),
                Group(SHARED, 6),
                Mask(6),
                Other(0),
            ],
            &[
                Owner(0),
                User(BOB.uid, 0),
                OwningGroup(0),
                Group(SHARED, 6),
                Mask(6),
                Other(4),
            ],
        ];
        for acl in acls {
            g.setxattr("f", ACCESS, &encode(acl));
            for user in [ALICE, BOB, CAROL] {
                user::with(user, || {
                    drop(g.open("f", "r", 0));
                    drop(g.open("f", "w", 0));
                    g.did(
                        "access",
                        rustix::fs::access(g.at("f"), rustix::fs::Access::READ_OK),
                    );
                });
            }
        }
        g.mkdir("d", 0o700);
        g.setxattr(
            "d",
            ACCESS,
            &encode(&[
                Owner(7),
                User(ALICE.uid, 7),
                OwningGroup(0),
                Mask(7),
                Other(0),
            ]),
        );
        user::with(ALICE, || g.file("d/a", 0o644, ""));
        user::with(BOB, || g.file("d/b", 0o644, ""));
        user::with(BOB, || g.stat("d/a"));
        user::with(BOB, || {
            g.setxattr("d", ACCESS, &encode(&[Owner(7), OwningGroup(0), Other(7)]));
        });
    });
}

/// Set-gid falls when someone outside the group sets an ACL, as with chmod.
#[test]
fn setgid_and_acls() {
    need_root!();
    parity(|g| {
        for gid in [ALICE.gid, SHARED, BOB.gid] {
            let path = format!("f{gid}");
            g.file(&path, 0o644, "");
            g.chown(&path, ALICE.uid.into(), gid.into());
            g.chmod(&path, 0o2755);
            let acl = encode(&[
                Owner(7),
                User(BOB.uid, 5),
                OwningGroup(5),
                Mask(5),
                Other(5),
            ]);
            user::with(ALICE, || g.setxattr(&path, ACCESS, &acl));
            g.stat(&path);
            g.chmod(&path, 0o2755);
            g.setxattr(&path, ACCESS, &acl);
            g.stat(&path);
            let dir = format!("d{gid}");
            g.mkdir(&dir, 0o755);
            g.chown(&dir, ALICE.uid.into(), gid.into());
            g.chmod(&dir, 0o2755);
            user::with(ALICE, || g.setxattr(&dir, DEFAULT, &acl));
            user::with(ALICE, || g.setxattr(&dir, ACCESS, &acl));
            show(g, &dir);
            user::with(ALICE, || g.mkdir(&format!("{dir}/sub"), 0o770));
            show(g, &format!("{dir}/sub"));
        }
    });
}

/// The tools people use see what they see natively.
#[test]
fn setfacl_and_getfacl() {
    need_root!();
    crate::need_programs!("setfacl", "getfacl");
    parity(|g| {
        let out = crate::support::run::shell(
            &g.root,
            "mkdir d; touch d/f
            setfacl -m u:1234:rwx,g:4321:r-x d/f; setfacl -d -m u:1234:rw d
            mkdir d/sub; touch d/sub/g; chmod g-w d/f; cp -a d e; setfacl -R -x u:1234 e
            getfacl -R -n d e; setfacl -b d/f; getfacl -n d/f",
        );
        g.note(out);
    });
}
