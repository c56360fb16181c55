// SPDX-License-Identifier: MIT
//! How requests reach us: through rings where the kernel offers that, from `/dev/fuse` where not.
//!
//! fuser keeps `/dev/fuse` in both cases: it does the handshake, and FORGET and INTERRUPT never come
//! through a ring.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::config::Io;
use crate::fs::{Incoming, MAX_IO, MirrorFs};
use crate::sys::files;
use crate::uring::fuse::{self, Queues};

/// The kernel's switch, read when a mount begins. We do not turn it: it is the whole machine's.
const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";

/// The way that is taken, for whoever shows it.
#[derive(Clone, Debug, Default)]
pub(super) struct Transport(Arc<Mutex<Stand>>);

#[derive(Clone, Debug, Default)]
struct Stand {
    rings: bool,
    /// Why not.
    reason: Option<String>,
}

impl Transport {
    /// Its name in status, and why it is not the better one.
    pub(super) fn stand(&self) -> (&'static str, Option<String>) {
        let stand = self.0.lock().clone();
        (
            if stand.rings { "io_uring" } else { "device" },
            stand.reason,
        )
    }

    fn without(&self, why: String) {
        tracing::debug!("requests come from /dev/fuse: {why}");
        self.0.lock().reason = Some(why);
    }

    /// Before the handshake: rings, if this kernel might use them.
    pub(super) fn prepare(&self, io: Io, device: OwnedFd, fs: &MirrorFs) -> Option<Queues> {
        let prepared = wanted(io).and_then(|()| {
            let answering = fs.clone();
            let serve = move |request: fuse::Incoming<'_>| {
                let elsewhere = request.elsewhere;
                answering.answer(Incoming {
                    header: request.header,
                    arguments: request.arguments,
                    payload: request.payload,
                    bytes: request.bytes,
                    elsewhere: &|| elsewhere.keep(),
                })
            };
            Queues::prepare(device, MAX_IO as usize, Arc::new(serve))
        });
        match prepared {
            Ok(queues) => {
                fs.kernel().want_rings();
                Some(queues)
            }
            Err(why) => {
                self.without(why);
                None
            }
        }
    }

    /// After the handshake: the rings go into service, if the kernel has agreed. Without them it
    /// sends everything to the device, and the mount is as good.
    pub(super) fn begin(&self, queues: Option<Queues>, fs: &crate::fs::Kernel) -> Option<Queues> {
        let mut queues = queues?;
        let begun = if fs.waits_for_rings() {
            queues.begin()
        } else {
            Err("this kernel does not offer FUSE over io_uring (Linux 6.14)".to_owned())
        };
        match begun {
            Ok(()) => {
                self.0.lock().rings = true;
                tracing::debug!("requests come through {} rings", queues.threads());
                Some(queues)
            }
            Err(why) => {
                self.without(why);
                None
            }
        }
    }
}

/// Whether to try at all.
fn wanted(io: Io) -> Result<(), String> {
    if io == Io::Threads {
        return Err("io=threads".to_owned());
    }
    match files::read(Path::new(SWITCH)) {
        Ok(value) if value.starts_with(b"Y") => Ok(()),
        Ok(_) => Err("the kernel's switch is off (fuse.enable_uring)".to_owned()),
        Err(_) => Err("this kernel does not know FUSE over io_uring (Linux 6.14)".to_owned()),
    }
}
