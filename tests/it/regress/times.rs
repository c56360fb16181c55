// SPDX-License-Identifier: MIT
//! Times that were never carried over.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::support::mount::Wish;
use crate::support::tamper::Tampered;
use crate::{need_product, need_programs, need_root};

/// f and g are one file from before the mount, and only f was ever looked up. Write f and unlink f
/// at once: the node had no names left, was taken for gone, and its mtime was not carried over.
/// But g is still there, and kept the time of the replica's own write until the next one.
///
/// The daemon's calls are made slow here: both copies stamp a clock that ticks every 4 ms.
#[test]
fn other_names_that_were_never_looked_up() {
    need_root!();
    need_product!();
    need_programs!("strace");
    let mut mount = Wish::default().prepare();
    let each = ["written", "cut", "allocated", "renamed-over", "appended"];
    for dir in ["f", "g"] {
        std::fs::create_dir(mount.primary.join(dir)).expect("mkdir");
    }
    for name in each {
        std::fs::write(mount.primary.join("f").join(name), "before").expect("write");
        let (f, g) = (
            mount.primary.join("f").join(name),
            mount.primary.join("g").join(name),
        );
        std::fs::hard_link(f, g).expect("link");
    }
    std::fs::write(mount.primary.join("other"), "x").expect("write");
    mount.mount();
    let slowly = Tampered::slow(&mount, "pwrite64,ftruncate,fallocate", true, 10_000);
    for name in each {
        let path = mount.at("f").join(name);
        let append = name == "appended";
        let file = File::options()
            .write(!append)
            .append(append)
            .open(&path)
            .expect("open");
        match name {
            "cut" => file.set_len(3).expect("truncate"),
            "allocated" => {
                let mode = rustix::fs::FallocateFlags::ZERO_RANGE;
                rustix::fs::fallocate(&file, mode, 0, 100).expect("fallocate");
            }
            "appended" => std::io::Write::write_all(&mut &file, b"more").expect("append"),
            _ => file.write_all_at(b"AFTER", 0).expect("write"),
        }
        if name == "renamed-over" {
            std::fs::rename(mount.at("other"), &path).expect("rename");
        } else {
            std::fs::remove_file(&path).expect("unlink");
        }
    }
    drop(slowly);
    mount.assert_equal();
    assert_eq!(mount.state(), "in-sync");
    mount.umount();
    // The comparison at mount reads times.
    mount.mount();
    mount.finish();
}
