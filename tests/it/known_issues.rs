// SPDX-License-Identifier: MIT
//! What docs/KNOWN_ISSUES.md says cannot be done: each test notices the day it can. A failure here
//! is good news: implement it, move the sentence, delete the test.

use rustix::fs::{AtFlags, CWD, OFlags, StatxFlags, statx};
use rustix::io::Errno;

use crate::need_product;
use crate::support::mount::TestMount;

/// fuser 0.18 does not know FUSE_TMPFILE.
#[test]
fn no_o_tmpfile() {
    need_product!();
    let mount = TestMount::new();
    let flags = OFlags::TMPFILE | OFlags::RDWR;
    let answer = rustix::fs::open(&mount.mountpoint, flags, 0o600.into()).map(drop);
    assert_eq!(answer, Err(Errno::OPNOTSUPP), "O_TMPFILE works now");
    mount.finish();
}

/// fuser 0.18 does not know FUSE_STATX: there is no birth time.
#[test]
fn no_birth_time() {
    need_product!();
    let mount = TestMount::new();
    std::fs::write(mount.at("f"), "").expect("write");
    let stat = statx(CWD, mount.at("f"), AtFlags::empty(), StatxFlags::BTIME).expect("statx");
    assert_eq!(
        stat.stx_mask & StatxFlags::BTIME.bits(),
        0,
        "btime is there now"
    );
    mount.finish();
}

/// FUSE_SYNCFS reaches only virtiofs and fuseblk: sync(2) and syncfs(2) answer without us.
#[test]
fn syncfs_answers_without_us() {
    need_product!();
    let mount = TestMount::new();
    std::fs::write(mount.at("f"), "x").expect("write");
    let dir = std::fs::File::open(&mount.mountpoint).expect("open");
    assert_eq!(rustix::fs::syncfs(&dir), Ok(()));
    drop(dir);
    mount.finish();
}

/// No file handles, hence no NFS export: a node could not be found again after FORGET.
#[test]
fn no_file_handles() {
    need_product!();
    let mount = TestMount::new();
    let path =
        std::ffi::CString::new(mount.mountpoint.as_os_str().as_encoded_bytes()).expect("no NUL");
    let answer = crate::support::sys::file_handle(&path);
    // Newer kernels answer with a handle that cannot be opened again; an exportable one is news.
    if answer.is_err() {
        assert_eq!(answer, Err(Errno::OPNOTSUPP));
    }
    mount.finish();
}

/// FIEMAP is not passed on: tools fall back to SEEK_DATA, which is.
#[test]
fn no_reflinks() {
    need_product!();
    let mount = TestMount::new();
    std::fs::write(mount.at("f"), vec![1; 8192]).expect("write");
    let from = std::fs::File::open(mount.at("f")).expect("open");
    let to = std::fs::File::create(mount.at("g")).expect("create");
    let answer = rustix::fs::ioctl_ficlone(&to, &from);
    assert!(answer.is_err(), "FICLONE works now");
    drop((from, to));
    mount.finish();
}

/// atime is not updated by reads that the kernel answers from its cache.
#[test]
fn cached_reads_leave_atime() {
    need_product!();
    let mount = TestMount::new();
    std::fs::write(mount.at("f"), "content").expect("write");
    let before = rustix::fs::lstat(mount.at("f")).map(|s| (s.st_atime, s.st_atime_nsec));
    for _ in 0..3 {
        std::fs::read(mount.at("f")).expect("read");
    }
    let after = rustix::fs::lstat(mount.at("f")).map(|s| (s.st_atime, s.st_atime_nsec));
    assert_eq!(before, after, "atime moves now");
    mount.finish();
}
