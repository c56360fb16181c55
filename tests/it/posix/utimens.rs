// SPDX-License-Identifier: MIT
//! utimens: to the nanosecond, before 1970, now and omitted.

use rustix::fs::{UTIME_NOW, UTIME_OMIT};

use crate::need_root;
use crate::support::ground::parity;
use crate::support::user::{self, ALICE, BOB};

const NOW: (i64, i64) = (0, UTIME_NOW);
const OMIT: (i64, i64) = (0, UTIME_OMIT);

/// Every nanosecond counts, on every kind of file.
#[test]
fn exact_times() {
    parity(|g| {
        g.file("f", 0o644, "");
        g.mkdir("d", 0o755);
        g.symlink("f", "s");
        g.mknod("p", 0o010_644, 0);
        for path in ["f", "d", "s", "p"] {
            for nanos in [0, 1, 999_999_999, 123_456_789, 500_000_000] {
                for seconds in [
                    0,
                    1,
                    1_600_000_000,
                    (1 << 31) - 1,
                    1 << 31,
                    1 << 32,
                    1 << 33,
                ] {
                    g.utimens(path, (seconds, nanos), (seconds + 7, 999_999_999 - nanos));
                    g.times(path);
                }
            }
        }
        g.utimens("f", (1, 1_000_000_000), (1, 0));
        g.utimens("none", (1, 0), (1, 0));
    });
}

/// Times before 1970 keep their nanoseconds, counted upwards.
#[test]
fn before_the_epoch() {
    parity(|g| {
        g.file("f", 0o644, "");
        g.mkdir("d", 0o755);
        for path in ["f", "d"] {
            for (seconds, nanos) in [(-1, 0), (-1, 1), (-1, 999_999_999), (-2, 500_000_000)] {
                g.utimens(path, (seconds, nanos), (seconds, nanos));
                g.times(path);
            }
            for seconds in [-86_400, -1_000_000_000, i64::from(i32::MIN)] {
                g.utimens(path, (seconds, 250_000_000), (seconds + 1, 750_000_000));
                g.times(path);
            }
        }
        // The directory's own time must survive the file below it being looked at.
        g.list("d");
        let mtime = rustix::fs::lstat(g.at("d")).map(|s| (s.st_mtime, s.st_mtime_nsec));
        g.did("mtime of d", mtime);
    });
}

/// Now is one moment, and an omitted time stays.
#[test]
fn now_and_omit() {
    parity(|g| {
        g.file("f", 0o644, "");
        g.utimens("f", (1, 2), (3, 4));
        g.watch("f", || g.utimens("f", OMIT, OMIT));
        g.times("f");
        g.utimens("f", OMIT, (30, 40));
        g.times("f");
        g.utimens("f", (10, 20), OMIT);
        g.times("f");
        let recent = |what| {
            let stat = rustix::fs::lstat(g.at("f")).expect("stat");
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
            let (a, m) = (now - stat.st_atime, now - stat.st_mtime);
            let same = (stat.st_atime, stat.st_atime_nsec) == (stat.st_mtime, stat.st_mtime_nsec);
            g.note(format_args!(
                "{what}: atime is now {}, mtime is now {}, same {same}",
                a < 100,
                m < 100
            ));
        };
        g.utimens("f", NOW, OMIT);
        recent("NOW OMIT");
        g.utimens("f", OMIT, NOW);
        let stat = rustix::fs::lstat(g.at("f")).expect("stat");
        g.note(format_args!(
            "mtime is recent: {}",
            stat.st_mtime > 1_700_000_000
        ));
        g.utimens("f", NOW, NOW);
        recent("NOW NOW");
        g.utimens("f", NOW, (5, 6));
        let stat = rustix::fs::lstat(g.at("f")).expect("stat");
        g.note(format_args!(
            "mtime {} {}",
            stat.st_mtime, stat.st_mtime_nsec
        ));
    });
}

/// A time that was set stays set: nothing that only reads, closes or syncs moves it.
#[test]
fn set_times_stay() {
    parity(|g| {
        let fd = g.open("f", "rw creat", 0o644).expect("open");
        g.did("write", rustix::io::write(&fd, b"some data"));
        g.utimens("f", (1_000, 1), (2_000, 2));
        g.did("fsync", rustix::fs::fsync(&fd));
        drop(fd);
        g.cat("f");
        let mtime = rustix::fs::lstat(g.at("f")).map(|s| (s.st_mtime, s.st_mtime_nsec));
        g.did("mtime", mtime);
    });
}

/// Who may set which times.
#[test]
fn permissions() {
    need_root!();
    parity(|g| {
        g.file("f", 0o666, "");
        g.chmod("f", 0o666);
        g.chown("f", ALICE.uid.into(), ALICE.gid.into());
        user::with(ALICE, || g.utimens("f", (1, 2), (3, 4)));
        g.times("f");
        user::with(BOB, || g.utimens("f", (5, 6), (7, 8)));
        user::with(BOB, || g.utimens("f", NOW, OMIT));
        user::with(BOB, || g.utimens("f", NOW, NOW));
        user::with(BOB, || g.utimens("f", OMIT, OMIT));
        g.chmod("f", 0o644);
        user::with(BOB, || g.utimens("f", NOW, NOW));
    });
}
