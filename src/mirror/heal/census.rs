// SPDX-License-Identifier: MIT
//! `Census`: how much there is when whole trees are to be healed, so that somebody can be told how long
//! it will take. A thread of its own counts while healing goes on; trees that move under it may keep
//! it from its end, and then nobody is told.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::store::walk::{self, Descent};
use crate::store::{Name, Stat};
use crate::sys::{Errno, Result};

/// What there is.
#[derive(Debug, Default)]
pub(super) struct Census {
    files: AtomicU64,
    bytes: AtomicU64,
    is_done: AtomicBool,
    is_counting: AtomicBool,
}

impl Census {
    /// Files, and the bytes they use; once all are counted.
    pub(super) fn counted(&self) -> Option<(u64, u64)> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let done = self.is_done.load(Ordering::Acquire);
        done.then(|| (read(&self.files), read(&self.bytes)))
    }

    /// Whether it is not known yet how much there is.
    pub(super) fn is_counting(&self) -> bool {
        self.is_counting.load(Ordering::Relaxed)
    }

    /// Runs `work`, and counts meanwhile what is at and below these paths, relative to `root`.
    pub(super) fn during<T>(
        &self,
        root: BorrowedFd<'_>,
        paths: &[Box<[u8]>],
        work: impl FnOnce() -> T,
    ) -> T {
        let over = AtomicBool::new(false);
        self.is_counting.store(true, Ordering::Relaxed);
        std::thread::scope(|scope| {
            let count = || {
                let mut paths = paths.iter();
                let all = paths.all(|path| matches!(self.count_at(root, path, &over), Ok(true)));
                self.is_done.store(all, Ordering::Release);
                self.is_counting.store(false, Ordering::Relaxed);
            };
            let thread = std::thread::Builder::new().name("census".to_owned());
            if thread.spawn_scoped(scope, count).is_err() {
                // Without it nobody knows how long it takes.
                self.is_counting.store(false, Ordering::Relaxed);
            }
            let done = work();
            over.store(true, Ordering::Relaxed);
            done
        })
    }

    /// Counts one object and what is below it. Whether it came to the end.
    fn count_at(&self, root: BorrowedFd<'_>, path: &[u8], over: &AtomicBool) -> Result<bool> {
        if path.is_empty() {
            return self.count(root, over);
        }
        let (dir, name) = walk::open_parent(root, path)?;
        match walk::open_dir(dir.as_fd(), name.as_c_str()) {
            Ok(top) => return self.count(top.as_fd(), over),
            Err(Errno::NOTDIR | Errno::LOOP) => {}
            Err(errno) => return Err(errno),
        }
        self.add(&Stat::of_name(dir.as_fd(), name.as_c_str())?);
        Ok(true)
    }

    fn add(&self, file: &Stat) {
        self.files.fetch_add(1, Ordering::Relaxed);
        let used = file.size.min(file.blocks.saturating_mul(512));
        self.bytes.fetch_add(used, Ordering::Relaxed);
    }

    /// The same of what is below a directory.
    fn count(&self, root: BorrowedFd<'_>, over: &AtomicBool) -> Result<bool> {
        let mut descent = Descent::new(root)?;
        let mut lists = vec![walk::names(descent.top())?.into_iter()];
        while let Some(list) = lists.last_mut() {
            if over.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let Some(name) = list.next() else {
                lists.pop();
                if !lists.is_empty() {
                    descent.pop()?;
                }
                continue;
            };
            // What has gone is not to be copied.
            let Ok(stat) = Stat::of_name(descent.top(), name.as_c_str()) else {
                continue;
            };
            if !stat.is_dir() {
                self.add(&stat);
            } else if let Ok(names) = down(&mut descent, &name) {
                lists.push(names.into_iter());
            }
        }
        Ok(true)
    }
}

fn down(descent: &mut Descent, name: &Name) -> Result<Vec<Name>> {
    let dir = walk::open_dir(descent.top(), name.as_c_str())?;
    let names = walk::names(dir.as_fd())?;
    descent.push(dir)?;
    Ok(names)
}
