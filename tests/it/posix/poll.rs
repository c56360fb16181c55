// SPDX-License-Identifier: MIT
//! poll: files are always ready; select-driven programs must not hang on the mount.

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::support::ground::parity;

/// Files, directories and fifos answer as they do natively.
#[test]
fn ready() {
    parity(|g| {
        g.file("f", 0o644, "content");
        g.mknod("p", 0o010_644, 0);
        let all = PollFlags::IN | PollFlags::OUT | PollFlags::PRI | PollFlags::ERR | PollFlags::HUP;
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        for (path, flags) in [
            ("f", "rw"),
            ("f", "r"),
            (".", "r dir"),
            ("p", "rw nonblock"),
        ] {
            let fd = g.fd(path, flags);
            let mut fds = [PollFd::new(&fd, all)];
            let ready = poll(&mut fds, Some(&at_once));
            g.did(format_args!("poll {path} {flags}"), ready);
            g.note(format_args!("{:?}", fds[0].revents()));
        }
    });
}
