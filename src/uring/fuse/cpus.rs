// SPDX-License-Identifier: MIT
//! Which processors there are: the kernel has one queue for each that there might ever be.

use std::path::Path;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::sys::files;

/// Threads of each processor: so many requests of its programs may wait for a disk at once.
const THREADS_EACH: usize = 4;
/// More processors than any kernel is built for.
const CPUS_MAX: usize = 8192;

/// What one thread serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Post {
    pub(super) queues: Vec<u16>,
    /// The processor to stay on.
    pub(super) cpu: Option<usize>,
}

/// The posts of all threads. The last processor's come first, so that the kernel, which waits for
/// every queue to have somebody, begins only with processor 0's.
pub(super) fn posts() -> Option<Vec<Post>> {
    let read = |name| {
        let path = Path::new("/sys/devices/system/cpu").join(name);
        let text = files::read(&path).ok()?;
        members(String::from_utf8(text).ok()?.trim())
    };
    // The kernel numbers its queues from 0 to the number of possible processors.
    let queues = read("possible")?.len();
    Some(cover(queues, &read("online")?))
}

/// Each processor's queue has threads of its own; those that are switched off share theirs.
fn cover(queues: usize, online: &[usize]) -> Vec<Post> {
    let number = |queue: usize| u16::try_from(queue).ok();
    let (own, shared): (Vec<_>, Vec<_>) = (0..queues).partition(|queue| online.contains(queue));
    let shared = Post {
        queues: shared.into_iter().filter_map(number).collect(),
        cpu: None,
    };
    let own = own.into_iter().rev().map(|cpu| Post {
        queues: number(cpu).into_iter().collect(),
        cpu: Some(cpu),
    });
    let all = std::iter::once(shared).chain(own);
    all.filter(|post| !post.queues.is_empty())
        .flat_map(|post| std::iter::repeat_n(post, THREADS_EACH))
        .collect()
}

/// "0-3,5" in numbers.
fn members(list: &str) -> Option<Vec<usize>> {
    let mut found = Vec::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= CPUS_MAX {
            return None;
        }
        found.extend(first..=last);
    }
    Some(found)
}

/// The processor that a thread stays on, and those it may go to.
#[derive(Debug)]
pub(super) struct Home {
    here: CpuSet,
    elsewhere: CpuSet,
    away: bool,
    /// Requests in a row that nobody on this processor waits for.
    streak: u32,
}

/// After so many such requests in a row the thread goes elsewhere.
const STREAK: u32 = 3;

impl Home {
    /// Puts the calling thread there, if it may run there at all: whoever started us may have chosen
    /// other processors for us.
    pub(super) fn settle(cpu: usize) -> Option<Self> {
        let mut elsewhere = sched_getaffinity(None).ok()?;
        let mut here = CpuSet::new();
        here.set(cpu);
        if !elsewhere.is_set(cpu) || sched_setaffinity(None, &here).is_err() {
            tracing::debug!("the queue of processor {cpu} is served from others");
            return None;
        }
        elsewhere.unset(cpu);
        Some(Self {
            here,
            elsewhere,
            away: false,
            streak: 0,
        })
    }

    /// The thread has an answer. The pages that a program will want next are best read elsewhere
    /// while the program uses those it has; what it waits for is best answered where it is.
    pub(super) fn answered(&mut self, awaited: bool) {
        self.streak = if awaited { 0 } else { self.streak + 1 };
        if self.away == (self.streak >= STREAK) || self.elsewhere.count() == 0 {
            return;
        }
        self.away = !self.away;
        let set = if self.away {
            &self.elsewhere
        } else {
            &self.here
        };
        // A processor may have gone meanwhile; it is only a matter of speed.
        _ = sched_setaffinity(None, set).is_ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_read() {
        assert_eq!(members("0-3,5"), Some(vec![0, 1, 2, 3, 5]));
        assert_eq!(members("0"), Some(vec![0]));
        assert_eq!(members(""), None);
        assert_eq!(members("0-99999999"), None);
    }

    #[test]
    fn every_queue_has_threads_and_processor_0_is_last() {
        let posts = cover(4, &[0, 2]);
        assert_eq!(posts.len(), 3 * THREADS_EACH);
        let shared = Post {
            queues: vec![1, 3],
            cpu: None,
        };
        assert_eq!(posts[0], shared);
        assert_eq!(posts[THREADS_EACH].cpu, Some(2));
        assert_eq!(posts[3 * THREADS_EACH - 1].queues, [0]);
        assert_eq!(cover(1, &[0]).len(), THREADS_EACH);
    }
}
