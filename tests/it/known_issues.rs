// SPDX-License-Identifier: MIT
//! What docs/KNOWN_ISSUES.md says cannot be done: each test notices the day it can. A failure here
//! is good news: implement it, move the sentence, delete the test.

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, IFlags, OFlags, StatxFlags, Timespec, Timestamps, UTIME_OMIT,
    statx,
};
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
    std::fs::read(mount.at("f")).expect("read");
    // So long ago that even relatime would move it.
    let old = Timespec {
        tv_sec: 1,
        tv_nsec: 2,
    };
    let omit = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_OMIT,
    };
    let times = Timestamps {
        last_access: old,
        last_modification: omit,
    };
    rustix::fs::utimensat(CWD, mount.at("f"), &times, AtFlags::empty()).expect("utimens");
    std::fs::read(mount.at("f")).expect("read");
    let after = rustix::fs::lstat(mount.at("f")).expect("stat").st_atime;
    assert_eq!(after, 1, "atime moves now");
    mount.finish();
}

/// The kernel's FUSE client takes no other fallocate modes than KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE.
#[test]
fn no_collapse_and_no_insert() {
    need_product!();
    let mount = TestMount::new();
    std::fs::write(mount.at("f"), vec![1; 65_536]).expect("write");
    let file = std::fs::File::options()
        .write(true)
        .open(mount.at("f"))
        .expect("open");
    for mode in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
        let answer = rustix::fs::fallocate(&file, mode, 0, 4096);
        assert_eq!(answer, Err(Errno::OPNOTSUPP), "{mode:?} works now");
    }
    drop(file);
    mount.finish();
}

/// Without OPEN requests an immutable file can be opened for writing; only the write is refused.
#[test]
fn immutable_files_can_be_opened() {
    crate::need_root!();
    need_product!();
    let mount = TestMount::new();
    std::fs::write(mount.at("f"), "content").expect("write");
    let chattr = |flags| {
        let file = std::fs::File::open(mount.at("f")).expect("open");
        rustix::fs::ioctl_setflags(file, flags).expect("chattr");
    };
    chattr(IFlags::IMMUTABLE);
    let open = std::fs::File::options().write(true).open(mount.at("f"));
    let written = open.as_ref().map(|f| rustix::io::write(f, b"x"));
    chattr(IFlags::empty());
    assert_eq!(written.ok(), Some(Err(Errno::PERM)), "open is refused now");
    drop(open);
    mount.finish();
}
