// SPDX-License-Identifier: MIT
//! Soft-POSIX parity, one file per operation: what a native directory answers, the mount answers.

mod access;
mod acl;
mod capabilities;
mod chown;
mod copy_range;
mod create;
mod exec;
mod fallocate;
mod flags;
mod link;
mod locks;
mod lookup;
mod mkdir;
mod mknod;
mod mmap;
mod names;
mod poll;
mod readdir;
mod rename;
mod rmdir;
mod seek;
mod setgid;
mod sparse;
mod statfs;
mod suid;
mod symlink;
mod sync;
mod truncate;
mod unlink;
mod utimens;
mod write;
mod xattr;
