// SPDX-License-Identifier: MIT
//! The room as its users see it, on the kernel that is here, with a ring and without.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::CapabilitySet;

use super::*;
use crate::sys::Errno;

/// Says that a test, or a part of it, cannot run here; scripts/check counts that.
fn skip(reason: impl std::fmt::Display) {
    let thread = std::thread::current();
    let line = format!("SKIPPED {}: {reason}\n", thread.name().unwrap_or("uring"));
    eprint!("{line}");
    if let Some(log) = std::env::var_os("MIRRORFS_SKIP_LOG") {
        let log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(log);
        log.and_then(|mut log| log.write_all(line.as_bytes()))
            .expect("the skip log");
    }
}

/// Runs a story once with a ring, if there is one to be had, and once without.
fn on_both(story: impl Fn(&Arc<Engine>)) {
    for wish in [Wish::Uring, Wish::Threads] {
        match Engine::new(wish) {
            Ok(engine) => story(&Arc::new(engine)),
            Err(why) => skip(why),
        }
    }
}

/// An engine with a ring.
fn with_ring(story: impl FnOnce(&Arc<Engine>)) {
    match Engine::new(Wish::Uring) {
        Ok(engine) => story(&Arc::new(engine)),
        Err(why) => skip(why),
    }
}

fn file() -> File {
    tempfile::tempfile().expect("a file")
}

fn write<'a, P>(file: &'a impl AsFd, data: P, offset: u64) -> Io<'a, P> {
    Io::Write {
        fd: file.as_fd(),
        data,
        offset,
        how: How::default(),
    }
}

fn content(file: &File) -> Vec<u8> {
    let len = usize::try_from(file.metadata().expect("stat").len()).expect("fits");
    let mut all = vec![0; len];
    file.read_exact_at(&mut all, 0).expect("read");
    all
}

/// A tmpfs of `size`, attached nowhere; `None` for ordinary users.
fn small_filesystem(size: &str) -> Option<OwnedFd> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
    rustix::mount::fsconfig_set_string(&context, "size", size).ok()?;
    rustix::mount::fsconfig_create(&context).ok()?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    rustix::mount::fsmount(&context, flags, MountAttrFlags::empty()).ok()
}

#[test]
fn writes_of_a_chain_happen_in_order_many_for_one_call() {
    on_both(|engine| {
        let threads: Vec<_> = (0..4_u8)
            .map(|id| {
                let engine = Arc::clone(engine);
                std::thread::spawn(move || {
                    let (file, mut disk) = (file(), engine.disk());
                    for round in 0..20_u8 {
                        // All to the same place: the last one has to win, and by its tail one can
                        // tell that each of them has been there.
                        let data: Vec<_> = (0..32_u8)
                            .map(|n| vec![id ^ round ^ n; 4096 - 64 * usize::from(n)])
                            .collect();
                        let mut ops: Vec<_> = data
                            .iter()
                            .map(|data| write(&file, data.as_slice(), 0))
                            .collect();
                        ops.push(Io::Fsync {
                            fd: file.as_fd(),
                            data_only: true,
                        });
                        let outcomes = disk.chain(&ops);
                        let full = |n: usize| Outcome::Done(4096 - 64 * n);
                        assert!(
                            outcomes[..32]
                                .iter()
                                .enumerate()
                                .all(|(n, o)| *o == full(n))
                        );
                        assert_eq!(outcomes[32], Outcome::Done(0));
                        let mut expected = data[0].clone();
                        for data in &data {
                            expected[..data.len()].copy_from_slice(data);
                        }
                        assert_eq!(content(&file), expected);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("no panic");
        }
        let counters = engine.counters();
        assert_eq!(counters.get(Count::Submitted), 4 * 20 * 33);
        assert_eq!(counters.get(Count::Completed), 4 * 20 * 33);
        assert_eq!(counters.of(Opcode::Fsync), 4 * 20);
        assert_eq!(counters.get(Count::OutOfOrder), 0);
        let entered = counters.get(Count::Entered);
        if engine.stand().0 == Rung::Threads {
            assert_eq!(entered, 4 * 20 * 33);
        } else {
            assert!(
                entered * 8 <= 4 * 20 * 33,
                "{entered} calls for {}",
                4 * 20 * 33
            );
            assert_eq!(counters.get(Count::Rings), 4);
        }
    });
}

#[test]
fn nothing_is_run_after_a_failure() {
    on_both(|engine| {
        let file = file();
        let closed = rustix::fs::open("/dev/null", OFlags::RDONLY, Mode::empty()).expect("null");
        let mut ops: Vec<_> = (0..9).map(|n| write(&file, &b"abc"[..], 3 * n)).collect();
        ops[4] = write(&closed, b"abc", 0);
        let outcomes = engine.disk().chain(&ops);
        assert_eq!(outcomes[..4], [Outcome::Done(3); 4]);
        let failed = Outcome::Failed {
            errno: Errno::BADF,
            written: 0,
        };
        assert_eq!(outcomes[4], failed);
        assert_eq!(outcomes[5..], [Outcome::NotRun; 4]);
        assert_eq!(content(&file).len(), 12);
    });
}

#[test]
fn a_full_disk_ends_a_chain_where_it_was_full() {
    let Some(root) = small_filesystem("64k") else {
        return skip("only root may make a file system");
    };
    on_both(|engine| {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC;
        let fd = rustix::fs::openat(&root, "full", flags, Mode::RUSR | Mode::WUSR).expect("open");
        let file = File::from(fd);
        let data: Vec<_> = (1..=8_u8).map(|n| vec![n; 24 << 10]).collect();
        let ops: Vec<_> = (0_u64..)
            .zip(&data)
            .map(|(n, data)| write(&file, data.as_slice(), n * (24 << 10)))
            .collect();
        let outcomes = engine.disk().chain(&ops);
        // The third one is short by a third; its rest finds the disk full.
        assert_eq!(outcomes[..2], [Outcome::Done(24 << 10); 2]);
        let failed = Outcome::Failed {
            errno: Errno::NOSPC,
            written: 16 << 10,
        };
        assert_eq!(outcomes[2], failed);
        assert_eq!(outcomes[3..], [Outcome::NotRun; 5]);
        assert_eq!(content(&file), data.concat()[..64 << 10]);
        assert_eq!(engine.counters().get(Count::ResubmittedShort), 1);
    });
}

#[test]
fn short_writes_and_refusals_lose_no_byte() {
    // A pipe that does not block takes what fits and then says "try again".
    on_both(|engine| {
        let (reader, writer) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("pipe");
        rustix::fs::fcntl_setfl(&writer, OFlags::NONBLOCK).expect("fcntl");
        let data: Vec<_> = (0..64_u8).map(|n| vec![n; 10_000]).collect();
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            File::from(reader).read_to_end(&mut all).expect("read");
            all
        });
        let mut outcomes = Vec::new();
        if engine.stand().0 == Rung::Threads {
            // pwrite has no place in a pipe, so that the plain calls say so.
            outcomes = engine
                .disk()
                .chain(&[write(&writer, data[0].as_slice(), 0)]);
            let failed = Outcome::Failed {
                errno: Errno::SPIPE,
                written: 0,
            };
            assert_eq!(outcomes, [failed]);
        } else {
            for part in data.chunks(16) {
                let ops: Vec<_> = part
                    .iter()
                    .map(|d| write(&writer, d.as_slice(), 0))
                    .collect();
                outcomes.extend(engine.disk().chain(&ops));
            }
            assert_eq!(outcomes, [Outcome::Done(10_000); 64]);
            assert!(engine.counters().get(Count::ResubmittedShort) > 0);
        }
        drop(writer);
        let arrived = reading.join().expect("no panic");
        assert!(arrived == data.concat() || engine.stand().0 == Rung::Threads);
    });
}

#[test]
fn work_goes_on_while_an_operation_runs() {
    on_both(|engine| {
        let (primary, replica) = (file(), file());
        let mut data = vec![1; CHUNK];
        for round in 0..50 {
            let op = write(&replica, data.as_slice(), 0);
            let (first, second) =
                engine.with_disk(|disk| disk.overlap(&op, || primary.write_at(&data, 0)));
            assert_eq!(
                (first.expect("primary"), second),
                (CHUNK, Outcome::Done(CHUNK))
            );
            assert_eq!(content(&replica), data);
            // Whoever lent the bytes may do with them as he likes again.
            data.fill(round);
        }
        let sync: Io<'_> = Io::Fsync {
            fd: replica.as_fd(),
            data_only: false,
        };
        let (first, second) = engine.with_disk(|disk| disk.overlap(&sync, || primary.sync_all()));
        first.expect("primary");
        assert_eq!(second, Outcome::Done(0));
    });
}

#[test]
fn lent_bytes_come_back_when_the_work_panics() {
    on_both(|engine| {
        let file = file();
        for round in 0..50_u8 {
            let mut data = vec![round; CHUNK];
            let op = write(&file, data.as_slice(), 0);
            let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                engine.with_disk(|disk| disk.overlap(&op, || panic!("on purpose")))
            }));
            assert!(panicked.is_err());
            // Were it still being read, some of this would be seen.
            data.fill(255);
            if engine.stand().0 != Rung::Threads {
                assert_eq!(content(&file), vec![round; CHUNK]);
            }
        }
    });
}

#[test]
fn a_thread_has_one_ring_and_plain_calls_inside_of_its_own_work() {
    with_ring(|engine| {
        let (one, two) = (file(), file());
        for _ in 0..100 {
            let op = write(&one, &b"outer"[..], 0);
            let inner = || {
                engine.with_disk(|disk| {
                    assert!(!disk.overlaps());
                    disk.chain(&[write(&two, &b"inner"[..], 0)])
                })
            };
            let (inner, outer) = engine.with_disk(|disk| disk.overlap(&op, inner));
            assert_eq!(
                (inner.as_slice(), outer),
                (&[Outcome::Done(5)][..], Outcome::Done(5))
            );
        }
        assert_eq!(engine.counters().get(Count::Rings), 1);
        // Another engine's disk is another one.
        let other = Arc::new(Engine::new(Wish::Threads).expect("plain calls"));
        assert!(!other.with_disk(|disk| disk.overlaps()));
        assert!(engine.with_disk(|disk| disk.overlaps()));
    });
}

#[test]
fn what_takes_too_long_is_stopped() {
    with_ring(|engine| {
        let (_reader, writer) = rustix::pipe::pipe().expect("pipe");
        let (file, buffers) = (file(), buffers(engine));
        let fill = |len| buffers.fill(&vec![1; len]).expect("room");
        // The second one fits in part only, and nobody reads.
        let ops = [
            write(&writer, fill(60_000), 0),
            write(&writer, fill(60_000), 0),
            write(&file, fill(5), 0),
        ];
        let mut disk = engine.disk();
        let outcomes = disk.chain_within(&ops, Duration::from_millis(50));
        assert_eq!(outcomes[0], Outcome::Done(60_000));
        assert!(
            matches!(
                outcomes[1],
                Outcome::Failed {
                    errno: Errno::TIMEDOUT,
                    ..
                }
            ),
            "{outcomes:?}"
        );
        assert_eq!(outcomes[2], Outcome::NotRun);
        assert_eq!((disk.held(), content(&file)), (0, Vec::new()));
        drop(ops);
        assert_eq!(buffers.usage().used_bytes, 0);
        // In time, everything is as without a limit.
        let ops = [
            write(&file, fill(5), 0),
            Io::Fsync {
                fd: file.as_fd(),
                data_only: false,
            },
        ];
        let outcomes = disk.chain_within(&ops, Duration::from_secs(600));
        assert_eq!(outcomes, [Outcome::Done(5), Outcome::Done(0)]);
    });
}

fn buffers(engine: &Engine) -> Buffers {
    Buffers::new(8 * CHUNK, Arc::clone(engine.counters())).expect("a mapping")
}

/// Direct writes of three chunks and of lent bytes.
fn write_direct(engine: &Arc<Engine>) -> (Rung, Option<String>) {
    let (file, buffers) = (file(), buffers(engine));
    let mut disk = engine.disk();
    let how = How {
        direct: true,
        ..How::default()
    };
    for round in 0..3 {
        let data: Vec<_> = (0..3).map(|n| vec![3 * round + n; CHUNK]).collect();
        let ops: Vec<_> = (0..)
            .zip(&data)
            .map(|(n, data)| Io::Write {
                fd: file.as_fd(),
                data: buffers.fill(data).expect("room"),
                offset: n * CHUNK as u64,
                how,
            })
            .collect();
        assert_eq!(disk.chain(&ops), [Outcome::Done(CHUNK); 3]);
        assert_eq!(content(&file), data.concat());
    }
    // Lent bytes lie in no registered buffer, and buffered writes do better without.
    let lent = Io::Write {
        fd: file.as_fd(),
        data: &b"lent"[..],
        offset: 0,
        how,
    };
    assert_eq!(disk.chain(&[lent]), [Outcome::Done(4)]);
    assert_eq!(
        disk.chain(&[write(&file, buffers.fill(b"five!").expect("room"), 0)]),
        [Outcome::Done(5)]
    );
    engine.stand()
}

#[test]
fn direct_writes_use_registered_buffers() {
    with_ring(|engine| {
        let (rung, why) = write_direct(engine);
        if rung != Rung::Fixed {
            return skip(format!("{why:?}"));
        }
        let counters = engine.counters();
        assert_eq!(
            (counters.of(Opcode::WriteFixed), counters.of(Opcode::Write)),
            (9, 2)
        );
    });
}

#[test]
fn without_memory_to_lock_it_goes_on_and_says_why() {
    let before = getrlimit(Resource::Memlock);
    let little = Rlimit {
        current: Some(64 << 10),
        ..before
    };
    setrlimit(Resource::Memlock, little).expect("setrlimit");
    // Who may lock as much as he likes gives that up, in a thread of his own.
    let stand = std::thread::spawn(|| {
        let mut sets = rustix::thread::capabilities(None).expect("capget");
        sets.effective.remove(CapabilitySet::IPC_LOCK);
        rustix::thread::set_capabilities(None, sets).expect("capset");
        let mut stand = None;
        with_ring(|engine| {
            let after = write_direct(engine);
            stand = Some((after, engine.counters().of(Opcode::WriteFixed)));
        });
        stand
    });
    let stand = stand.join().expect("no panic");
    setrlimit(Resource::Memlock, before).expect("setrlimit");
    if let Some(((rung, why), fixed)) = stand {
        assert_eq!((rung, fixed), (Rung::Plain, 0));
        assert!(why.is_some_and(|why| why.contains("RLIMIT_MEMLOCK")));
    }
}

#[test]
fn operations_wear_the_credentials_of_the_thread() {
    // Who may not keep set-id bits clears them by writing, wherever the kernel does the writing.
    on_both(|engine| {
        let engine = Arc::clone(engine);
        let thread = std::thread::spawn(move || {
            let mut sets = rustix::thread::capabilities(None).expect("capget");
            if !sets.effective.contains(CapabilitySet::FSETID) {
                return skip("an ordinary user has nothing to give up");
            }
            let mut disk = engine.disk();
            for (may, expected) in [(true, 0o6777), (false, 0o777), (true, 0o6777)] {
                sets.effective.set(CapabilitySet::FSETID, may);
                rustix::thread::set_capabilities(None, sets).expect("capset");
                let files = [(); 8].map(|()| file());
                for file in &files {
                    rustix::fs::fchmod(file, Mode::from_bits_retain(0o6777)).expect("fchmod");
                }
                let ops: Vec<_> = files.iter().map(|file| write(file, &b"x"[..], 0)).collect();
                assert_eq!(disk.chain(&ops[1..]), [Outcome::Done(1); 7]);
                assert_eq!(disk.overlap(&ops[0], || ()), ((), Outcome::Done(1)));
                for file in &files {
                    let mode = rustix::fs::fstat(file).expect("fstat").st_mode & 0o7777;
                    assert_eq!(mode, expected, "{:?}", engine.stand());
                }
            }
        });
        thread.join().expect("no panic");
    });
}

/// From now on the calling thread is refused `call` with EPERM.
fn forbid(call: libc::c_long) {
    let op = |code: u32, jt, k| libc::sock_filter {
        code: u16::try_from(code).expect("16 bits"),
        jt,
        jf: 0,
        k,
    };
    let call = u32::try_from(call).expect("a number of a system call");
    let errno = u32::try_from(libc::EPERM).expect("small");
    let mut filter = [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, call),
        op(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW),
        op(
            libc::BPF_RET | libc::BPF_K,
            0,
            libc::SECCOMP_RET_ERRNO | errno,
        ),
    ];
    let program = libc::sock_fprog {
        len: 4,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: plain numbers.
    let done = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(done, 0);
    // SAFETY: the program is read during the call and lives longer.
    let done = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    assert_eq!(done, 0);
}

#[test]
fn where_it_is_forbidden_plain_calls_do_the_same() {
    let calls = [
        (libc::SYS_io_uring_setup, "io_uring_setup"),
        (libc::SYS_io_uring_register, "io_uring_register"),
        (libc::SYS_io_uring_enter, "io_uring_enter"),
    ];
    for (call, name) in calls {
        let thread = std::thread::spawn(move || {
            if matches!(probe(), Probe::Unavailable(_)) {
                return skip("io_uring is forbidden already");
            }
            forbid(call);
            let why = Engine::new(Wish::Uring).expect_err("forbidden");
            assert!(why.contains("seccomp") && why.contains(name), "{why}");
            let engine = Arc::new(Engine::new(Wish::Auto).expect("another way"));
            assert_eq!(write_direct(&engine), (Rung::Threads, Some(why)));
        });
        thread.join().expect("no panic");
    }
}

#[test]
fn a_thread_that_gets_no_ring_makes_plain_calls() {
    with_ring(|engine| {
        let engine = Arc::clone(engine);
        let thread = std::thread::spawn(move || {
            forbid(libc::SYS_io_uring_setup);
            let (rung, why) = write_direct(&engine);
            assert_eq!(rung, Rung::Threads);
            assert!(why.is_some_and(|why| why.contains("no ring")));
        });
        thread.join().expect("no panic");
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random chains, from memory of either kind, leave what a model has that carries them out.
    #[test]
    fn a_file_is_what_its_chains_say(
        chains in prop::collection::vec(
            prop::collection::vec((0_u16..30_000, 0_usize..20_000, any::<u8>(), 0_u8..10), 1..80), 1..4)
    ) {
        on_both(|engine| {
            let (file, buffers, mut disk) = (file(), buffers(engine), engine.disk());
            let mut model = Vec::new();
            for list in &chains {
                let ops: Vec<_> = list.iter().map(|(offset, len, fill, kind)| {
                    if *kind == 0 {
                        return Io::Fsync { fd: file.as_fd(), data_only: true };
                    }
                    let start = usize::from(*offset);
                    if *len > 0 {
                        model.resize(model.len().max(start + len), 0);
                        model[start..start + len].fill(*fill);
                    }
                    Io::Write {
                        fd: file.as_fd(),
                        data: buffers.fill(&vec![*fill; *len]).expect("room"),
                        offset: u64::from(*offset),
                        how: How { direct: *kind == 1, ..How::default() },
                    }
                }).collect();
                let outcomes = disk.chain(&ops);
                assert!(ops.iter().zip(&outcomes).all(|(op, o)| *o == Outcome::Done(op.len())));
                assert_eq!(content(&file), model);
            }
        });
    }
}
