// SPDX-License-Identifier: MIT
//! mknod: fifos, sockets, devices, and plain files without open.

use crate::need_root;
use crate::support::ground::parity;
use crate::support::user::{self, ALICE};

/// Each type, with modes under the umask, large device numbers, and names that are taken.
#[test]
fn each_type() {
    need_root!();
    parity(|g| {
        g.mknod("fifo", 0o010_666, 0);
        g.mknod("sock", 0o140_666, 0);
        g.mknod("file", 0o100_666, 0);
        g.mknod("chr", 0o020_660, rustix::fs::makedev(1, 3));
        g.mknod("blk", 0o060_660, rustix::fs::makedev(7, 200));
        g.mknod("bigdev", 0o020_600, rustix::fs::makedev(4000, 1_000_000));
        g.mknod("suid", 0o106_755, 0);
        g.umask(0);
        g.mknod("open", 0o010_666, 0);
        for path in [
            "fifo", "sock", "file", "chr", "blk", "bigdev", "suid", "open",
        ] {
            g.stat(path);
            g.mknod(path, 0o010_666, 0);
        }
        g.mknod("none/fifo", 0o010_666, 0);
        g.chmod("fifo", 0o600);
        g.chown("chr", 3, 4);
        g.link("fifo", "fifo2");
        g.rename("sock", "sock2", rustix::fs::RenameFlags::empty());
        g.unlink("blk");
        g.list(".");
    });
}

/// A user makes fifos and sockets, and no devices.
#[test]
fn by_a_user() {
    need_root!();
    parity(|g| {
        g.mkdir("d", 0o777);
        g.chmod("d", 0o777);
        user::with(ALICE, || {
            g.mknod("d/fifo", 0o010_644, 0);
            g.mknod("d/sock", 0o140_644, 0);
            g.mknod("d/file", 0o100_644, 0);
            g.mknod("d/chr", 0o020_644, rustix::fs::makedev(1, 3));
            g.mknod("d/blk", 0o060_644, rustix::fs::makedev(7, 0));
        });
        for path in ["d/fifo", "d/sock", "d/file", "d/chr"] {
            g.stat(path);
        }
    });
}

/// Bytes go through a fifo on the mount, and a device is the device.
#[test]
fn fifos_carry_and_devices_are_devices() {
    need_root!();
    parity(|g| {
        g.mknod("fifo", 0o010_644, 0);
        let reader = g.fd("fifo", "r nonblock");
        let writer = g.fd("fifo", "w nonblock");
        g.did("write", rustix::io::write(&writer, b"through"));
        let mut buffer = [0; 16];
        let got = rustix::io::read(&reader, &mut buffer[..]);
        g.did("read", got.map(|n| buffer[..n].to_vec()));
        let path = g.at("server");
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
        let client = std::os::unix::net::UnixStream::connect(&path);
        g.note(format_args!("connected {}", client.is_ok()));
        drop(listener);
        g.stat("server");
    });
}
