// SPDX-License-Identifier: MIT
//! Turns that deadlocked: an op held two claims on one aspect of one node.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, copy_file_range, openat, renameat_with};
use rustix::io::Errno;

use crate::need_product;
use crate::support::mount::TestMount;
use crate::support::sys::Map;
use crate::support::{Work, together};

/// Keeps all processors busy while it lives: whoever wakes, wakes late.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn new() -> Self {
        let busy = Self(Arc::new(AtomicBool::new(true)));
        for _ in 0..4 {
            let go_on = busy.0.clone();
            std::thread::spawn(move || {
                while go_on.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        busy
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// A rename inside a directory claimed its two names one after the other, an exchange of that
/// directory claimed all names in it at once:
///
/// ```text
///   A: rename(d/x, d/y)   holds name x of d                     waits for y behind B
///   B: exchange(p/a, p/d)                   waits for all of d, of which A holds x
/// ```
///
/// Both waited for ever, and after them everybody. The kernel lets the two meet: an exchange inside
/// one parent locks the parent, not what is exchanged. It takes a thread that waits and wakes late,
/// so the machine is kept busy; that claims are whole is held by
/// `store::op::tests::one_claim_on_each_aspect_of_a_node`.
#[test]
fn rename_inside_a_directory_that_is_exchanged() {
    const ROUNDS: usize = 1000;
    need_product!();
    let mount = TestMount::new();
    for dir in ["p", "p/a", "p/d"] {
        std::fs::create_dir(mount.at(dir)).expect("mkdir");
    }
    let open = |path: &str| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Arc::new(openat(CWD, mount.at(path), flags, Mode::empty()).expect("open"))
    };
    let (parent, dir) = (open("p"), open("p/d"));
    let mut work: Vec<Work> = Vec::new();
    for pair in [["x", "y"], ["u", "v"], ["longer-name", "z"]] {
        // By descriptor: it is that directory, under whichever name.
        let dir: Arc<OwnedFd> = dir.clone();
        std::fs::write(mount.at("p/d").join(pair[0]), pair[0]).expect("write");
        work.push(Box::new(move || {
            for round in 0..ROUNDS {
                let (old, new) = (pair[round % 2], pair[(round + 1) % 2]);
                renameat_with(&dir, old, &dir, new, RenameFlags::empty()).expect("rename");
            }
        }));
    }
    work.push(Box::new(move || {
        for round in 0..2 * ROUNDS {
            // The directory above is at the second name each time: it is the victim.
            let (one, two) = [("a", "d"), ("d", "a")][round % 2];
            renameat_with(&parent, one, &parent, two, RenameFlags::EXCHANGE).expect("exchange");
        }
    }));
    drop(dir);
    let busy = Busy::new();
    together("renames and exchanges come to their end", work);
    drop(busy);
    assert_eq!(mount.state(), "in-sync");
    mount.finish();
}

/// A copy within one file claimed what it reads and what it writes one after the other; pages of a
/// shared map, written back as one large write that spans both, came in between:
///
/// ```text
///   A: copy_file_range(0 -> 256K)   holds [0, 4K)                  waits for [256K, 260K) behind B
///   B: writeback of [0, 512K)                       waits for A
/// ```
#[test]
fn copies_within_a_file_and_writeback_of_a_map() {
    const ROUNDS: usize = 250;
    const SIZE: usize = 512 * 1024;
    need_product!();
    let mount = TestMount::new();
    std::fs::write(mount.at("f"), vec![1; SIZE]).expect("write");
    let open = || {
        let file = File::options().read(true).write(true).open(mount.at("f"));
        file.expect("open")
    };
    let mut work: Vec<Work> = Vec::new();
    for (from, to) in [(0, SIZE / 2), (SIZE / 2 + 8192, 4096)] {
        let (source, target) = (open(), open());
        work.push(Box::new(move || {
            for _ in 0..ROUNDS {
                let (mut from, mut to) = (from as u64, to as u64);
                let done = copy_file_range(&source, Some(&mut from), &target, Some(&mut to), 4096);
                assert_eq!(done, Ok(4096));
            }
        }));
    }
    let file = open();
    work.push(Box::new(move || {
        let map = Map::new(&file, 0, SIZE, true, true).expect("mmap");
        for round in 0..ROUNDS {
            map.put(0, &vec![round as u8; SIZE]);
            map.sync().expect("msync");
        }
    }));
    let file = open();
    work.push(Box::new(move || {
        for round in 0..ROUNDS {
            file.write_all_at(&[round as u8; 5000], 100_000)
                .expect("write");
        }
    }));
    let busy = Busy::new();
    together("copies and writeback come to their end", work);
    drop(busy);
    assert_eq!(mount.state(), "in-sync");
    mount.finish();
}

/// Everything that takes more than one turn at once, all over one small tree: nobody waits for
/// ever, whatever the order of arrival.
#[test]
fn links_unlinks_rmdirs_and_renames_across() {
    const ROUNDS: usize = 400;
    need_product!();
    let mount = TestMount::new();
    for dir in ["a", "b"] {
        std::fs::create_dir(mount.at(dir)).expect("mkdir");
    }
    let top = mount.mountpoint.clone();
    let step = Arc::new(
        move |worker: usize, round: usize| -> rustix::io::Result<()> {
            let at = |path: &str| top.join(path);
            let none = RenameFlags::empty();
            match (worker + round) % 8 {
                0 => rustix::fs::mkdir(at("a/d"), 0o755.into()),
                1 => openat(
                    CWD,
                    at("a/d/x"),
                    OFlags::CREATE | OFlags::RDWR,
                    0o644.into(),
                )
                .map(drop),
                2 => renameat_with(CWD, at("a/d"), CWD, at("b/d"), none),
                3 => renameat_with(CWD, at("b/d"), CWD, at("a/d"), RenameFlags::EXCHANGE),
                4 => rustix::fs::link(at("a/d/x"), at("b/x")),
                5 => renameat_with(CWD, at("b/x"), CWD, at("b/d/x"), none),
                6 => rustix::fs::unlink(at("b/d/x")),
                _ => rustix::fs::rmdir(at("b/d")).and_then(|()| rustix::fs::unlink(at("b/x"))),
            }
        },
    );
    let usual = [Errno::NOENT, Errno::EXIST, Errno::NOTEMPTY, Errno::NOTDIR];
    let work = (0..4).map(|worker| -> Work {
        let step = step.clone();
        Box::new(move || {
            for round in 0..ROUNDS {
                // Workers go through the steps at different paces.
                let done = step(worker, round * (worker + 1));
                let errno = done.err();
                assert!(errno.is_none_or(|e| usual.contains(&e)), "{errno:?}");
            }
        })
    });
    together("everybody comes to an end", work.collect());
    assert_eq!(mount.state(), "in-sync");
    mount.finish();
}
