// SPDX-License-Identifier: MIT
//! Locks: flock and fcntl, shared and exclusive, ranges, waiting, release by close.

use std::os::fd::OwnedFd;

use rustix::fs::{FlockOperation, flock};

use crate::support::ground::parity;
use crate::support::sys::{Range, lock};

const READ: i32 = libc::F_RDLCK;
const WRITE: i32 = libc::F_WRLCK;
const NONE: i32 = libc::F_UNLCK;

fn range(kind: i32, start: i64, len: i64) -> Range {
    Range { kind, start, len }
}

/// flock between open files; duplicates share it; close lets go.
#[test]
fn whole_files() {
    parity(|g| {
        g.file("f", 0o644, "");
        let (a, b) = (g.fd("f", "rw"), g.fd("f", "r"));
        use FlockOperation::{
            NonBlockingLockExclusive as Ex, NonBlockingLockShared as Sh, Unlock as Un,
        };
        g.did("a shared", flock(&a, Sh));
        g.did("b shared", flock(&b, Sh));
        g.did("a exclusive", flock(&a, Ex));
        g.did("b unlock", flock(&b, Un));
        g.did("a exclusive", flock(&a, Ex));
        g.did("b shared", flock(&b, Sh));
        let twin = a.try_clone().expect("dup");
        drop(a);
        g.did("held by the duplicate", flock(&b, Sh));
        drop(twin);
        g.did("released by close", flock(&b, Ex));
        // fcntl locks and flock do not meet.
        let c = g.fd("f", "rw");
        g.did(
            "record lock",
            lock(&c, libc::F_OFD_SETLK, range(WRITE, 0, 0)),
        );
    });
}

/// Open-file-description locks over ranges: conflict, split, merge, query.
#[test]
fn ranges() {
    parity(|g| {
        g.file("f", 0o644, "0123456789");
        let (a, b) = (g.fd("f", "rw"), g.fd("f", "rw"));
        let set = |fd: &OwnedFd, kind, start, len| {
            lock(fd, libc::F_OFD_SETLK, range(kind, start, len)).map(drop)
        };
        let get =
            |fd: &OwnedFd, kind, start, len| lock(fd, libc::F_OFD_GETLK, range(kind, start, len));
        g.did("a writes 0-100", set(&a, WRITE, 0, 100));
        g.did("b reads 50", set(&b, READ, 50, 1));
        g.did("b asks 50", get(&b, READ, 50, 1).map(|k| k == WRITE));
        g.did("b asks 100", get(&b, WRITE, 100, 10).map(|k| k == NONE));
        g.did("b writes 100-", set(&b, WRITE, 100, 0));
        g.did("a leaves 40-60", set(&a, NONE, 40, 20));
        g.did("b reads 45", set(&b, READ, 45, 10));
        g.did("a reads 50", set(&a, READ, 50, 1));
        g.did("a writes 50", set(&a, WRITE, 50, 1));
        g.did("far", set(&a, WRITE, 1 << 40, 1 << 20));
        drop(b);
        g.did("a takes all", set(&a, WRITE, 0, 0));
        let read_only = g.fd("f", "r");
        g.did("write lock on read-only", set(&read_only, WRITE, 0, 1));
    });
}

/// Traditional locks belong to the process: one's own never conflict, another's do.
#[test]
fn process_locks() {
    crate::need_programs!("flock");
    parity(|g| {
        g.file("f", 0o644, "");
        let (a, b) = (g.fd("f", "rw"), g.fd("f", "rw"));
        let set = |fd: &OwnedFd, kind| lock(fd, libc::F_SETLK, range(kind, 0, 0)).map(drop);
        g.did("a", set(&a, WRITE));
        g.did("b, the same process", set(&b, WRITE));
        drop(b);
        g.did("a again", set(&a, READ));
        g.did(
            "flock held here",
            flock(&a, FlockOperation::NonBlockingLockExclusive),
        );
        let other = crate::support::run::run(
            std::process::Command::new("flock")
                .arg("-n")
                .arg(g.at("f"))
                .arg("true"),
        );
        g.note(format_args!("another process gets it: {:?}", other.code));
        drop(a);
        let other = crate::support::run::run(
            std::process::Command::new("flock")
                .arg("-n")
                .arg(g.at("f"))
                .arg("true"),
        );
        g.note(format_args!("another process gets it: {:?}", other.code));
    });
}

/// A waiter gets the lock when it is let go, blocking kinds of both families.
#[test]
fn waiting() {
    parity(|g| {
        g.file("f", 0o644, "");
        let (a, b) = (g.fd("f", "rw"), g.fd("f", "rw"));
        for family in ["flock", "ofd"] {
            let take = |fd: &OwnedFd, wait: bool| match (family, wait) {
                ("flock", false) => flock(fd, FlockOperation::NonBlockingLockExclusive),
                ("flock", true) => flock(fd, FlockOperation::LockExclusive),
                (_, false) => lock(fd, libc::F_OFD_SETLK, range(WRITE, 0, 0)).map(drop),
                (_, true) => lock(fd, libc::F_OFD_SETLKW, range(WRITE, 0, 0)).map(drop),
            };
            let leave = |fd: &OwnedFd| match family {
                "flock" => flock(fd, FlockOperation::Unlock),
                _ => lock(fd, libc::F_OFD_SETLK, range(NONE, 0, 0)).map(drop),
            };
            take(&a, false).expect("free");
            let order = parking_lot::Mutex::new(Vec::new());
            std::thread::scope(|scope| {
                let (order, b) = (&order, &b);
                let waiter = scope.spawn(move || {
                    take(b, true).expect("granted");
                    order.lock().push("granted");
                    leave(b).expect("left");
                });
                assert!(take(b, false).is_err() || waiter.is_finished());
                order.lock().push("let go");
                leave(&a).expect("left");
                waiter.join().expect("join");
            });
            g.note(format_args!("{family}: {:?}", order.into_inner()));
        }
    });
}

/// A signal ends the waiting for a lock: the waiting process can be killed.
#[test]
fn waiting_can_be_interrupted() {
    crate::need_programs!("flock");
    parity(|g| {
        g.file("f", 0o644, "");
        let held = g.fd("f", "rw");
        flock(&held, FlockOperation::LockExclusive).expect("free");
        let mut waiting = std::process::Command::new("flock");
        let waiter = waiting.arg(g.at("f")).arg("true").spawn().expect("spawn");
        let mut waiter = crate::support::run::Guarded(waiter);
        let pid = waiter.0.id();
        crate::support::wait_until("it waits", || {
            let syscall =
                std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
            syscall.starts_with(&format!("{} ", libc::SYS_flock))
        });
        let id = rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("kill");
        crate::support::wait_until("its end", || waiter.0.try_wait().expect("wait").is_some());
        g.did("still ours", flock(&held, FlockOperation::Unlock));
    });
}
