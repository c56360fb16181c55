// SPDX-License-Identifier: MIT
//! TEMPORARY: an empty file system, so that mounting can be tried before the mirror exists.
//!
//! To be replaced by `fs::MirrorFs` and `mirror::Mirror`; delete this file then.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileHandle, FileType, Filesystem, INodeNo, ReplyAttr, Request};

use super::config::MountConfig;
use super::control::Controlled;
use crate::mirror::report::{Primary, Replica, Report, State};
use crate::sys::clock;

/// An empty directory.
#[derive(Debug)]
pub(super) struct Empty;

impl Filesystem for Empty {
    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        if ino != INodeNo::ROOT {
            reply.error(Errno::ENOENT);
            return;
        }
        let attr = FileAttr {
            ino,
            size: 0,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: FileType::Directory,
            perm: 0o755,
            nlink: 2,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        reply.attr(&Duration::from_secs(1), &attr);
    }
}

/// A mirror that is always in-sync, having nothing.
#[derive(Debug)]
pub(super) struct Idle {
    report: Report,
    closed: AtomicBool,
}

impl Idle {
    pub(super) fn new(config: &MountConfig) -> Self {
        let text = |p: &std::path::Path| p.to_string_lossy().into_owned();
        let report = Report {
            mirror: text(&config.mountpoint.path),
            id: "00000000".into(),
            state: State::InSync,
            mode: "sync".into(),
            fsync: None,
            max_lag_bytes: None,
            epoch: 1,
            epoch_before: None,
            reason: None,
            action: None,
            primary: Primary {
                path: text(&config.primary.typed),
                state: "online".into(),
                written_bytes: 0,
                errors: 0,
            },
            replicas: config
                .replicas
                .iter()
                .map(|r| Replica {
                    path: text(&r.place.typed),
                    state: "in-sync".into(),
                    carrier: "inline".into(),
                    lag_ops: 0,
                    lag_bytes: 0,
                    lag_ms: 0,
                    dirty_files: 0,
                    dirty_bytes: 0,
                    resync_files_opened: 0,
                    written_bytes: 0,
                    errors: 0,
                })
                .collect(),
            scan: None,
            mounted_since: clock::now().tv_sec,
            pid: std::process::id(),
            io: "threads".into(),
        };
        Self {
            report,
            closed: AtomicBool::new(false),
        }
    }
}

impl Controlled for Idle {
    fn report(&self) -> Report {
        self.report.clone()
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }
}
