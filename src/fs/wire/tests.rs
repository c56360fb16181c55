// SPDX-License-Identifier: MIT
//! Offsets and sizes as include/uapi/linux/fuse.h has them, on bytes that differ everywhere.

use std::ffi::OsStr;

use fuser::INodeNo;
use rustix::fs::FileType;

use super::super::dir::Listed;
use super::super::reply::Caching;
use super::encode::{Answer, Room};
use super::{Caller, Question, string, u32_at, u64_at};
use crate::store::{Ident, Space, Stat, Time};

const YEAR: u64 = 365 * 24 * 3600;

fn stat() -> Stat {
    let time = |seconds, nanos| Time { seconds, nanos };
    Stat {
        ident: Ident { dev: 1, ino: 2 },
        mode: 0o104_751,
        nlink: 3,
        uid: 4,
        gid: 5,
        rdev: rustix::fs::makedev(8, 300),
        size: 6 << 33,
        blocks: 7,
        blksize: 4096,
        atime: time(-2, 500_000_000),
        mtime: time(11, 12),
        ctime: time(13, 14),
        btime: Some(time(15, 16)),
    }
}

/// `struct fuse_attr`.
#[track_caller]
fn is_attr(bytes: &[u8], id: u64) {
    assert_eq!(u64_at(bytes, 0), id);
    assert_eq!(u64_at(bytes, 8), 6 << 33);
    assert_eq!(u64_at(bytes, 16), 7);
    let seconds = [24, 32, 40].map(|at| u64_at(bytes, at).cast_signed());
    assert_eq!(seconds, [-2, 11, 13]);
    assert_eq!(
        [48, 52, 56].map(|at| u32_at(bytes, at)),
        [500_000_000, 12, 14]
    );
    assert_eq!(u32_at(bytes, 60), 0o104_751);
    assert_eq!([64, 68, 72].map(|at| u32_at(bytes, at)), [3, 4, 5]);
    // new_encode_dev: minor 300 is 0x12c.
    assert_eq!(u32_at(bytes, 76), 0x0010_082c);
    assert_eq!(u32_at(bytes, 80), 4096);
}

#[test]
fn attributes_are_where_the_kernel_looks() {
    let mut room = [0xff; 256];
    let len = Room(&mut room).attributes(Caching::default(), &(9, stat()));
    assert_eq!(len, 104);
    assert_eq!((u64_at(&room, 0), u32_at(&room, 8)), (YEAR, 0));
    is_attr(&room[16..], 9);
}

#[test]
fn nothing_has_node_id_0_and_is_remembered() {
    let mut room = [0xff; 256];
    let shared = Caching {
        shared_primary: true,
        writeback: false,
    };
    assert_eq!(Room(&mut room).nothing(shared), 128);
    let head = [0, 8, 16, 24].map(|at| u64_at(&room, at));
    assert_eq!(head, [0, 0, 1, 1]);
    assert_eq!(u32_at(&room, 40 + 60), 0o100_000);
    let rest = room[40..100].iter().chain(&room[104..128]);
    assert!(rest.into_iter().all(|&byte| byte == 0));
}

#[test]
fn small_answers() {
    let mut room = [0xff; 256];
    assert_eq!(Room(&mut room).written(5), 8);
    assert_eq!(u64_at(&room, 0), 5);
    assert_eq!(Room(&mut room).offset(-1), 8);
    assert_eq!(u64_at(&room, 0), u64::MAX);
    assert_eq!(Room(&mut room).control(b"four").ok(), Some(20));
    assert_eq!(&room[16..20], b"four");
    assert!(Room(&mut room).bytes(&[0; 257]).is_err());
    let space = Space {
        blocks: [1, 2, 3],
        inodes: [4, 5],
        io_bytes: 6,
        block_bytes: 8,
        name_max: 7,
    };
    assert_eq!(Room(&mut room).space(&space), 80);
    let numbers = [0, 8, 16, 24, 32].map(|at| u64_at(&room, at));
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    assert_eq!([40, 44, 48].map(|at| u32_at(&room, at)), [6, 7, 8]);
}

fn listed(name: &str) -> Listed<'_> {
    Listed {
        name: OsStr::new(name),
        next: 77,
        ino: 9,
        kind: FileType::Symlink,
    }
}

#[test]
fn listings_are_aligned_and_end_where_there_is_no_room() {
    let mut room = [0xff; 4096];
    // 24 + 3 makes 32, 24 + 8 is 32, and nothing more fits into 64.
    let mut answer = Answer::new(&mut room, 64);
    assert!(answer.listed(&listed("abc")));
    assert!(answer.listed(&listed("eight888")));
    assert!(!answer.listed(&listed("x")));
    assert_eq!(answer.len(), 64);
    assert_eq!((u64_at(&room, 0), u64_at(&room, 8)), (9, 77));
    // DT_LNK.
    assert_eq!((u32_at(&room, 16), u32_at(&room, 20)), (3, 10));
    assert_eq!(&room[24..32], b"abc\0\0\0\0\0");
    assert_eq!(&room[56..64], b"eight888");
}

#[test]
fn listings_with_attributes() {
    let mut room = [0xff; 4096];
    let mut answer = Answer::new(&mut room, 319);
    let keep = Caching::default();
    let entry = listed("abc");
    assert!(answer.listed_with_attributes(keep, &entry, Some(&stat())));
    assert!(!answer.listed_with_attributes(keep, &entry, None));
    assert_eq!(answer.len(), 160);
    assert_eq!((u64_at(&room, 0), u64_at(&room, 8)), (9, 0));
    assert_eq!((u64_at(&room, 16), u64_at(&room, 24)), (YEAR, YEAR));
    is_attr(&room[40..], 9);
    assert_eq!((u64_at(&room, 128), u64_at(&room, 136)), (9, 77));
    assert_eq!(&room[152..160], b"abc\0\0\0\0\0");
}

#[test]
fn what_setattr_asks_for() {
    let mut arguments = [0; 128];
    let mut put = |at: usize, bytes: &[u8]| arguments[at..at + bytes.len()].copy_from_slice(bytes);
    // Mode, group, size, both times, the second of them now.
    let valid: u32 = 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8;
    put(0, &valid.to_le_bytes());
    put(16, &9_u64.to_le_bytes());
    put(32, &(-2_i64).to_le_bytes());
    put(56, &500_000_000_u32.to_le_bytes());
    put(68, &0o640_u32.to_le_bytes());
    put(76, &1_u32.to_le_bytes());
    put(80, &2_u32.to_le_bytes());
    let question = Question {
        elsewhere: &|| Box::new(|_, _| ()),
        answered: std::cell::Cell::new(false),
        asked: std::cell::Cell::new(None),
        opcode: 4,
        ino: INodeNo(1),
        caller: Caller::DAEMON,
        arguments: &arguments,
    };
    let change = question.setattr();
    assert_eq!((change.mode, change.uid), (Some(0o640), None));
    assert_eq!((change.gid, change.size), (Some(2), Some(9)));
    let before_1970 = Time {
        seconds: -2,
        nanos: 500_000_000,
    };
    assert_eq!(change.times.0, Some(before_1970));
    assert!(
        change
            .times
            .1
            .is_some_and(|now| now.seconds > 1_700_000_000)
    );
}

#[test]
fn strings_end_at_their_zero_byte() {
    let mut payload: &[u8] = b"one\0two\0rest";
    assert_eq!(string(&mut payload).ok(), Some(OsStr::new("one")));
    assert_eq!(string(&mut payload).ok(), Some(OsStr::new("two")));
    assert!(string(&mut payload).is_err());
}
