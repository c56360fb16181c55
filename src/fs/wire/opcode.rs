// SPDX-License-Identifier: MIT
//! The numbers of the requests (`enum fuse_opcode`), and under which name each is counted.

use crate::metrics::Request as Asked;

macro_rules! opcodes {
    ($($name:ident = $number:literal => $counted:expr,)*) => {
        $(pub(super) const $name: u32 = $number;)*

        /// Under which name a request is counted; those that fuser does not hand to us are not.
        pub(super) fn counted(opcode: u32) -> Option<Asked> {
            match opcode {
                $($name => $counted,)*
                _ => None,
            }
        }
    };
}

opcodes! {
    LOOKUP = 1 => Some(Asked::Lookup),
    GETATTR = 3 => Some(Asked::Getattr),
    SETATTR = 4 => Some(Asked::Setattr),
    READLINK = 5 => Some(Asked::Readlink),
    SYMLINK = 6 => Some(Asked::Symlink),
    MKNOD = 8 => Some(Asked::Mknod),
    MKDIR = 9 => Some(Asked::Mkdir),
    UNLINK = 10 => Some(Asked::Unlink),
    RMDIR = 11 => Some(Asked::Rmdir),
    RENAME = 12 => Some(Asked::Rename),
    LINK = 13 => Some(Asked::Link),
    OPEN = 14 => Some(Asked::Open),
    READ = 15 => Some(Asked::Read),
    WRITE = 16 => Some(Asked::Write),
    STATFS = 17 => Some(Asked::Statfs),
    RELEASE = 18 => None,
    FSYNC = 20 => Some(Asked::Fsync),
    SETXATTR = 21 => Some(Asked::Setxattr),
    GETXATTR = 22 => Some(Asked::Getxattr),
    LISTXATTR = 23 => Some(Asked::Listxattr),
    REMOVEXATTR = 24 => Some(Asked::Removexattr),
    FLUSH = 25 => Some(Asked::Flush),
    OPENDIR = 27 => Some(Asked::Opendir),
    READDIR = 28 => Some(Asked::Readdir),
    RELEASEDIR = 29 => None,
    FSYNCDIR = 30 => Some(Asked::Fsyncdir),
    CREATE = 35 => Some(Asked::Create),
    DESTROY = 38 => None,
    IOCTL = 39 => Some(Asked::Ioctl),
    FALLOCATE = 43 => Some(Asked::Fallocate),
    READDIRPLUS = 44 => Some(Asked::Readdirplus),
    RENAME2 = 45 => Some(Asked::Rename),
    LSEEK = 46 => Some(Asked::Lseek),
    COPY_FILE_RANGE = 47 => Some(Asked::CopyFileRange),
}
