// SPDX-License-Identifier: MIT
//! xattrs: every namespace, every size, every flag, on every kind of file.

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::need_root;
use crate::support::ground::{Ground, parity, parity_with};
use crate::support::user::{self, ALICE, BOB};

fn each_kind(g: &Ground) -> [&'static str; 4] {
    g.file("file", 0o644, "");
    g.mkdir("dir", 0o755);
    g.symlink("file", "link");
    g.mknod("fifo", 0o010_644, 0);
    ["file", "dir", "link", "fifo"]
}

/// Namespaces: what each kind of file may carry.
#[test]
fn namespaces() {
    need_root!();
    parity(|g| {
        for path in each_kind(g) {
            for name in [
                "user.a",
                "trusted.a",
                "security.a",
                "system.a",
                "none.a",
                "user.",
                "a",
                "",
            ] {
                g.setxattr(path, name, b"value");
                g.getxattr(path, name);
            }
            g.listxattr(path);
            for name in ["user.a", "trusted.a", "security.a", "user.none"] {
                g.removexattr(path, name);
            }
            g.listxattr(path);
        }
    });
}

/// CREATE and REPLACE, empty and binary values, changes and removals; ctime moves, mtime does not.
#[test]
fn flags_and_values() {
    parity(|g| {
        g.file("f", 0o644, "");
        g.setxattr_with("f", "user.a", b"1", XattrFlags::REPLACE);
        g.setxattr_with("f", "user.a", b"1", XattrFlags::CREATE);
        g.setxattr_with("f", "user.a", b"2", XattrFlags::CREATE);
        g.getxattr("f", "user.a");
        g.setxattr_with("f", "user.a", b"3", XattrFlags::REPLACE);
        g.getxattr("f", "user.a");
        g.watch("f", || g.setxattr("f", "user.empty", b""));
        g.getxattr("f", "user.empty");
        let all: Vec<u8> = (0..=255).collect();
        g.setxattr("f", "user.binary", &all);
        g.getxattr("f", "user.binary");
        g.watch("f", || g.removexattr("f", "user.empty"));
        g.listxattr("f");
        let name = format!("user.{}", "n".repeat(250));
        g.setxattr("f", &name, b"long name");
        g.getxattr("f", &name);
        g.setxattr("f", &format!("{name}x"), b"too long");
        g.listxattr("f");
    });
}

/// Buffers: asking for the size, too small a buffer, exactly enough.
#[test]
fn buffers() {
    parity(|g| {
        g.file("f", 0o644, "");
        g.setxattr("f", "user.a", b"0123456789");
        g.setxattr("f", "user.bb", b"x");
        let path = g.at("f");
        g.did("size", rustix::fs::getxattr_query(&path, "user.a"));
        g.did("list size", rustix::fs::listxattr_query(&path));
        for len in [1, 9, 10, 11] {
            let mut buffer = vec![0; len];
            g.did(len, rustix::fs::getxattr(&path, "user.a", &mut buffer[..]));
            let mut buffer = vec![0; len];
            let listed = rustix::fs::listxattr(&path, &mut buffer[..]);
            g.note(format_args!(
                "list into {len}: {}",
                listed == Err(Errno::RANGE)
            ));
        }
        g.did("absent", rustix::fs::getxattr_query(&path, "user.none"));
        let fd = g.fd("f", "r");
        g.did("by descriptor", rustix::fs::fgetxattr_query(&fd, "user.a"));
        g.did("list by descriptor", rustix::fs::flistxattr_query(&fd));
    });
}

/// As large as this file system takes, and not a byte more.
#[test]
fn sizes_of_this_file_system() {
    parity(|g| {
        g.file("f", 0o644, "");
        for len in [100, 1000, 3000, 4000, 4096, 10_000, 65_535, 65_536, 65_537] {
            g.setxattr("f", "user.big", &vec![b'x'; len]);
            g.getxattr("f", "user.big");
            g.did("size", rustix::fs::getxattr_query(g.at("f"), "user.big"));
        }
        for n in 0..100 {
            g.setxattr("f", &format!("user.number{n}"), &[b'v'; 50]);
        }
        g.listxattr("f");
    });
}

/// On XFS a value may have 64 KiB: it goes through whole.
#[test]
fn sixty_four_kib() {
    need_root!();
    crate::need_programs!("mkfs.xfs");
    let image = crate::support::image::Image::new("xfs", 320, &[]);
    parity_with(
        crate::support::mount::Wish::default().base(&image.path()),
        |g| {
            g.file("f", 0o644, "");
            for len in [20_000, 65_535, 65_536, 65_537] {
                g.setxattr("f", &format!("user.big{len}"), &vec![b'x'; len]);
                g.getxattr("f", &format!("user.big{len}"));
            }
            for n in 0..1000 {
                g.setxattr("f", &format!("user.{n:04}{}", "n".repeat(40)), b"v");
            }
            g.listxattr("f");
            g.did("list size", rustix::fs::listxattr_query(g.at("f")));
        },
    );
}

/// What a user may read and write: user.* by permission, trusted.* never.
#[test]
fn permissions() {
    need_root!();
    parity(|g| {
        g.file("f", 0o644, "");
        g.mkdir("d", 0o1777);
        g.chmod("d", 0o1777);
        g.chown("f", ALICE.uid.into(), ALICE.gid.into());
        g.setxattr("f", "trusted.t", b"secret");
        g.setxattr("f", "user.u", b"open");
        for user in [ALICE, BOB] {
            user::with(user, || {
                g.listxattr("f");
                g.getxattr("f", "trusted.t");
                g.setxattr("f", "trusted.t", b"x");
                g.removexattr("f", "trusted.t");
                g.getxattr("f", "user.u");
                g.setxattr("f", "user.u", b"changed");
                g.setxattr("f", "security.s", b"x");
                g.getxattr("f", "security.s");
                g.setxattr("d", "user.sticky", b"x");
            });
        }
        g.chmod("f", 0o200);
        user::with(ALICE, || g.getxattr("f", "user.u"));
        g.listxattr("f");
    });
}

/// The mirror's own mark on its root is nobody's business on the mount.
#[test]
fn the_stamp_is_hidden() {
    crate::need_product!();
    let mount = crate::support::mount::TestMount::new();
    let mut names = vec![0; 65536];
    let len = rustix::fs::listxattr(&mount.mountpoint, &mut names[..]).expect("listxattr");
    let text = String::from_utf8_lossy(&names[..len]).into_owned();
    assert!(!text.contains("mirrorfs"), "the mount shows {text:?}");
    let hidden = std::fs::read_dir(&mount.mountpoint)
        .expect("readdir")
        .count();
    assert_eq!(hidden, 0, "an empty mirror looks empty");
    mount.finish();
}
