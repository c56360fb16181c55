// SPDX-License-Identifier: MIT
//! Set-id bits that survived a plain user's write.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::support::mount::TestMount;
use crate::support::tamper::Tampered;
use crate::support::user::{self, ALICE};
use crate::support::{Work, together};
use crate::{need_product, need_programs, need_root};

/// The daemon remembers of a file that it has no set-id bits, so that writes need no care. A listing
/// that had looked at the file before the chmod brought that knowledge back:
///
/// ```text
///   ls:     stat(f): 0777                                             f has no set-id bits
///   root:                   chmod(f, 04777): f has set-id bits
///   alice:                                                                         write(f): kept
/// ```
///
/// The daemon's looks are made slow here, so that they are older when they arrive. (Linux 6.18 asks
/// for the bits to be cleared in a request of its own as well; the daemon's own part is held by
/// `store::nodes::tests::an_older_look_does_not_take_away_what_is_known_of_set_id_bits`.)
#[test]
fn listed_while_the_bits_are_set() {
    const ROUNDS: usize = 120;
    need_root!();
    need_product!();
    need_programs!("strace");
    let mount = TestMount::new();
    let (dir, primary, replica) = (
        mount.at("d"),
        mount.primary.join("d/f"),
        mount.replica.join("d/f"),
    );
    std::fs::create_dir(&dir).expect("mkdir");
    // Directly: with buffered writes the kernel sees to the bits itself, as far as it knows of them.
    let mut options = File::options();
    let options = options
        .write(true)
        .create(true)
        .custom_flags(libc::O_DIRECT);
    let file = options.truncate(true).open(dir.join("f")).expect("create");
    let memory = vec![7_u8; 8192];
    let aligned = memory.as_ptr().align_offset(4096);
    rustix::fs::fchmod(&file, 0o777.into()).expect("chmod");
    let slowly = Tampered::slow(&mount, "statx", false, 1000);
    let stop = Arc::new(AtomicBool::new(false));
    let over = stop.clone();
    let list = move || {
        while !over.load(Ordering::Acquire) {
            // The kernel keeps listings until something changes; then it asks with a READDIRPLUS,
            // which looks every name up.
            let other = dir.join("other");
            std::fs::remove_file(&other)
                .or_else(|_| std::fs::write(&other, ""))
                .expect("change");
            let names = std::fs::read_dir(&dir).expect("readdir");
            names.for_each(|entry| drop(entry.expect("an entry")));
        }
    };
    let write = move || {
        let mut kept = Vec::new();
        for round in 0..ROUNDS {
            rustix::fs::fchmod(&file, 0o4777.into()).expect("chmod");
            let written = user::with(ALICE, || file.write_at(&memory[aligned..aligned + 4096], 0));
            assert_eq!(written.expect("write"), 4096);
            for copy in [&primary, &replica] {
                let mode = copy.metadata().expect("stat").mode();
                if mode & 0o6000 != 0 {
                    kept.push((round, mode));
                }
            }
        }
        stop.store(true, Ordering::Release);
        kept
    };
    let kept = Arc::new(Mutex::new(Vec::new()));
    let found = kept.clone();
    let work: Vec<Work> = vec![Box::new(list), Box::new(move || *found.lock() = write())];
    together("listings and writes", work);
    drop(slowly);
    let kept = std::mem::take(&mut *kept.lock());
    let (times, first) = (kept.len(), kept.first());
    assert_eq!(
        first, None,
        "set-id bits survived {times} times in {ROUNDS} rounds"
    );
    mount.finish();
}
