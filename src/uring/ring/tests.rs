// SPDX-License-Identifier: MIT
//! A ring whose kernel is a stand-in: it answers short, late, in any order, or not at all, and it
//! keeps to the links of a chain, or does not.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::super::buffer::Buffers;
use super::super::io::How;
use super::*;

/// What the stand-in does to an operation instead of doing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Short(usize),
    Errno(Errno),
    /// Never answers; when told to stop, it does or it does not.
    Hang {
        obeys: bool,
    },
}

#[derive(Default)]
struct Script {
    /// For each operation as it is begun; nothing more is wrong when it is empty.
    faults: VecDeque<Fault>,
    /// Stirs the order in which completions arrive.
    seed: u64,
    ignores_links: bool,
    /// How often `enter` itself answers with an error first.
    interrupted: VecDeque<Errno>,
    /// Key, whether it obeys, and the descriptor it was given.
    hanging: Vec<(u64, bool, i32)>,
    answers: Vec<(u64, i32)>,
    longest_round: usize,
}

struct Stand {
    depth: usize,
    queued: Vec<Sqe>,
    script: Rc<RefCell<Script>>,
}

impl Stand {
    fn begin(script: &mut Script, sqe: &Sqe) -> Option<i32> {
        // SAFETY: the tests keep their files open.
        let fd = unsafe { BorrowedFd::borrow_raw(sqe.fd.max(0)) };
        if let What::Cancel { target } = sqe.what {
            let at = script.hanging.iter().position(|(key, ..)| *key == target);
            return Some(match at {
                None => -Errno::NOENT.raw_os_error(),
                Some(at) if script.hanging[at].1 => {
                    script.hanging.remove(at);
                    script
                        .answers
                        .push((target, -Errno::CANCELED.raw_os_error()));
                    0
                }
                Some(_) => -Errno::ALREADY.raw_os_error(),
            });
        }
        let fault = script.faults.pop_front().unwrap_or(Fault::None);
        match (fault, sqe.what) {
            (Fault::Errno(errno), _) => Some(-errno.raw_os_error()),
            (Fault::Hang { obeys }, _) => {
                script.hanging.push((sqe.key, obeys, sqe.fd));
                None
            }
            (
                fault,
                What::Write {
                    from, len, offset, ..
                },
            ) => {
                // SAFETY: that this is still what it was is what the ring promises.
                let data = unsafe { std::slice::from_raw_parts(from, len as usize) };
                let short = match fault {
                    Fault::Short(n) => data.len().min(n),
                    _ => data.len(),
                };
                let done = rustix::io::pwrite(fd, &data[..short], offset);
                Some(done.map_or_else(|e| -e.raw_os_error(), |n| i32::try_from(n).expect("small")))
            }
            _ => Some(0),
        }
    }

    fn whole(sqe: &Sqe) -> i32 {
        match sqe.what {
            What::Write { len, .. } => i32::try_from(len).expect("small"),
            _ => 0,
        }
    }
}

impl Queue for Stand {
    fn depth(&self) -> usize {
        self.depth
    }

    /// # Safety
    /// As a ring's kernel asks.
    unsafe fn push(&mut self, sqe: &Sqe) {
        assert!(self.queued.len() < self.depth, "more than fits");
        self.queued.push(*sqe);
    }

    fn enter(&mut self, want: usize, limit: Option<Duration>) -> Result<()> {
        let script = &mut *self.script.borrow_mut();
        if let Some(errno) = script.interrupted.pop_front() {
            return Err(errno);
        }
        script.longest_round = script.longest_round.max(self.queued.len());
        // What is not linked may run in any order: the last chain goes first here.
        let mut chains: Vec<Vec<Sqe>> = vec![Vec::new()];
        for sqe in self.queued.drain(..) {
            chains.last_mut().expect("one at least").push(sqe);
            if !sqe.link || script.ignores_links {
                chains.push(Vec::new());
            }
        }
        for chain in chains.iter().rev() {
            let mut broken = false;
            for sqe in chain {
                if broken {
                    script
                        .answers
                        .push((sqe.key, -Errno::CANCELED.raw_os_error()));
                    continue;
                }
                match Self::begin(script, sqe) {
                    Some(result) => {
                        broken = result != Self::whole(sqe);
                        script.answers.push((sqe.key, result));
                    }
                    None => broken = true,
                }
            }
        }
        if script.answers.len() < want {
            assert!(
                limit.is_some() || !script.hanging.is_empty(),
                "nothing will ever come"
            );
            assert!(limit.is_some(), "waits without a limit for what hangs");
            return Err(Errno::TIME);
        }
        Ok(())
    }

    fn reap(&mut self) -> Option<(u64, i32)> {
        let script = &mut *self.script.borrow_mut();
        let len = script.answers.len();
        (len > 0).then(|| {
            script.seed = script
                .seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let at = usize::try_from(script.seed >> 33).expect("31 bits") % len;
            script.answers.swap_remove(at)
        })
    }

    fn register_table(&mut self, _slots: u32) -> Result<()> {
        Ok(())
    }

    /// # Safety
    /// None needed: nothing is done.
    unsafe fn register(&mut self, _slot: u32, _at: *mut u8, _len: usize) -> Result<()> {
        Ok(())
    }
}

struct Case {
    ring: Ring<Stand>,
    script: Rc<RefCell<Script>>,
    counters: Arc<Counters>,
    file: File,
}

fn case(depth: usize, faults: &[Fault]) -> Case {
    let script = Rc::new(RefCell::new(Script {
        faults: faults.iter().copied().collect(),
        seed: 1,
        ..Script::default()
    }));
    let counters = Arc::new(Counters::default());
    let stand = Stand {
        depth,
        queued: Vec::new(),
        script: Rc::clone(&script),
    };
    Case {
        ring: Ring::new(stand, Arc::clone(&counters), true),
        script,
        counters,
        file: tempfile::tempfile().expect("a file"),
    }
}

fn write<'a>(file: &'a File, data: &'a [u8], offset: u64) -> Io<'a, &'a [u8]> {
    Io::Write {
        fd: file.as_fd(),
        data,
        offset,
        how: How::default(),
    }
}

fn content(file: &File) -> Vec<u8> {
    let mut all = vec![0; 1 << 16];
    let len = file.read_at(&mut all, 0).expect("read");
    all.truncate(len);
    all
}

#[test]
fn a_short_write_is_finished_before_the_next_one_begins() {
    let mut case = case(32, &[Fault::None, Fault::Short(3), Fault::Short(1)]);
    let file = &case.file;
    let ops = [
        write(file, b"aaaaaaaa", 0),
        write(file, b"bbbbbbbb", 2),
        write(file, b"cc", 4),
    ];
    let outcomes = case.ring.chain(&ops);
    assert_eq!(
        outcomes,
        [Outcome::Done(8), Outcome::Done(8), Outcome::Done(2)]
    );
    assert_eq!(content(&case.file), b"aabbccbbbb");
    assert_eq!(case.counters.get(Count::ResubmittedShort), 2);
    assert_eq!(case.counters.get(Count::OutOfOrder), 0);
    assert_eq!(
        case.counters.get(Count::Submitted),
        case.counters.get(Count::Completed)
    );
}

#[test]
fn a_passing_refusal_is_asked_again_and_a_lasting_one_ends() {
    let again = [
        Fault::Errno(Errno::INTR),
        Fault::None,
        Fault::Errno(Errno::AGAIN),
    ];
    let mut first = case(32, &again);
    first.script.borrow_mut().interrupted =
        VecDeque::from([Errno::INTR, Errno::AGAIN, Errno::NOMEM]);
    let ops = [write(&first.file, b"one", 0), write(&first.file, b"two", 3)];
    assert_eq!(first.ring.chain(&ops), [Outcome::Done(3), Outcome::Done(3)]);
    assert_eq!(content(&first.file), b"onetwo");
    assert_eq!(first.counters.get(Count::Retried), 2);

    let mut lasting = case(32, &[Fault::Errno(Errno::AGAIN); 5000]);
    let ops = [
        write(&lasting.file, b"one", 0),
        write(&lasting.file, b"two", 3),
    ];
    let failed = Outcome::Failed {
        errno: Errno::AGAIN,
        written: 0,
    };
    assert_eq!(lasting.ring.chain(&ops), [failed, Outcome::NotRun]);
}

#[test]
fn nothing_is_run_after_a_failure_wherever_it_comes() {
    for at in 0..5 {
        for (fault, errno, written) in [
            (vec![Fault::Errno(Errno::IO)], Errno::IO, 0),
            (
                vec![Fault::Short(2), Fault::Errno(Errno::NOSPC)],
                Errno::NOSPC,
                2,
            ),
            (vec![Fault::Short(0)], Errno::IO, 0),
        ] {
            let faults = [vec![Fault::None; at], fault].concat();
            let mut case = case(32, &faults);
            let ops: Vec<_> = (0..5).map(|i| write(&case.file, b"xyz", 3 * i)).collect();
            let outcomes = case.ring.chain(&ops);
            for (i, outcome) in outcomes.iter().enumerate() {
                let expected = match i.cmp(&at) {
                    std::cmp::Ordering::Less => Outcome::Done(3),
                    std::cmp::Ordering::Equal => Outcome::Failed { errno, written },
                    std::cmp::Ordering::Greater => Outcome::NotRun,
                };
                assert_eq!(*outcome, expected, "{faults:?}");
            }
            assert_eq!(content(&case.file).len(), 3 * at + written);
            // Everything was reaped: the next chain is not confused.
            assert_eq!(case.ring.chain(&ops[..1]), [Outcome::Done(3)]);
        }
    }
}

#[test]
fn a_kernel_that_breaks_the_order_is_found_out() {
    // Links are not kept: the three writes to one place run last one first.
    let mut wrong = case(32, &[]);
    wrong.script.borrow_mut().ignores_links = true;
    let ops = [
        write(&wrong.file, b"1", 0),
        write(&wrong.file, b"2", 0),
        write(&wrong.file, b"3", 0),
    ];
    wrong.ring.chain(&ops);
    assert_eq!(
        content(&wrong.file),
        b"1",
        "the stand-in is able to show a wrong order"
    );

    // Where an answer betrays it, it is counted, and the order made good.
    let mut mended = case(32, &[Fault::None, Fault::None, Fault::Short(1)]);
    mended.script.borrow_mut().ignores_links = true;
    let ops = [
        write(&mended.file, b"11", 0),
        write(&mended.file, b"22", 0),
        write(&mended.file, b"33", 0),
    ];
    assert_eq!(mended.ring.chain(&ops), [Outcome::Done(2); 3]);
    assert_eq!(mended.counters.get(Count::OutOfOrder), 2);
}

#[test]
fn a_chain_longer_than_the_ring_goes_in_rounds() {
    let mut case = case(4, &[]);
    let data: Vec<u8> = (0..=255).collect();
    let ops: Vec<_> = (0..256)
        .map(|i| write(&case.file, &data[i..=i], i as u64))
        .collect();
    assert_eq!(case.ring.chain(&ops), [Outcome::Done(1); 256]);
    assert_eq!(content(&case.file), data);
    assert_eq!(case.counters.get(Count::Entered), 64);
    assert_eq!(case.script.borrow().longest_round, 4);
}

#[test]
fn what_is_too_long_for_one_submission_goes_in_parts() {
    let mut case = case(32, &[]);
    let long = vec![1; 5 << 20];
    let ops = [
        write(&case.file, b"0", 0),
        write(&case.file, &long, 0),
        write(&case.file, b"2", 0),
    ];
    assert_eq!(case.ring.chain(&ops), [1, 5 << 20, 1].map(Outcome::Done));
    assert_eq!(content(&case.file)[..2], [b'2', 1]);
    assert_eq!(case.counters.get(Count::ResubmittedShort), 2);
    assert_eq!(case.counters.get(Count::OutOfOrder), 0);
}

#[test]
fn what_hangs_and_obeys_is_stopped_and_nothing_after_it_is_run() {
    let mut case = case(
        32,
        &[Fault::None, Fault::Short(1), Fault::Hang { obeys: true }],
    );
    let buffers = Buffers::new(CHUNK, Arc::clone(&case.counters)).expect("buffers");
    let ops = [b"ab", b"cd", b"ef"].map(|data| Io::Write {
        fd: case.file.as_fd(),
        data: buffers.fill(data).expect("room"),
        offset: 0,
        how: How::default(),
    });
    let outcomes = case.ring.chain_within(&ops, Duration::from_millis(1));
    let late = Outcome::Failed {
        errno: Errno::TIMEDOUT,
        written: 1,
    };
    assert_eq!(outcomes, [Outcome::Done(2), late, Outcome::NotRun]);
    assert_eq!(case.counters.get(Count::Cancelled), 1);
    assert_eq!(case.ring.held(), 0);
    drop(ops);
    assert_eq!(buffers.usage().used_bytes, 0);
}

#[test]
fn what_hangs_for_good_keeps_its_bytes_until_it_ends() {
    let mut case = case(32, &[Fault::Hang { obeys: false }; 2]);
    let buffers = Buffers::new(CHUNK, Arc::clone(&case.counters)).expect("buffers");
    let hang = |case: &mut Case| {
        let ops = [b"ab", b"cd"].map(|data| Io::Write {
            fd: case.file.as_fd(),
            data: buffers.fill(data).expect("room"),
            offset: 0,
            how: How::default(),
        });
        case.ring.chain_within(&ops, Duration::from_millis(1))
    };
    assert_eq!(hang(&mut case), [Outcome::Held, Outcome::NotRun]);
    assert_eq!(case.ring.held(), 1);
    assert_eq!(buffers.usage().used_bytes, CHUNK, "the kernel has them");
    // The ring goes on serving others meanwhile.
    let op = [write(&case.file, b"zz", 0)];
    case.script.borrow_mut().faults.clear();
    assert_eq!(case.ring.chain(&op), [Outcome::Done(2)]);
    // It comes loose: its bytes are free, and its late answer is taken for nobody else's.
    let (key, _, fd) = case.script.borrow_mut().hanging.remove(0);
    // SAFETY: the ring keeps it open.
    let late = unsafe { BorrowedFd::borrow_raw(fd) };
    assert_ne!(
        fd,
        case.file.as_raw_fd(),
        "the caller may close his own and open another file"
    );
    rustix::io::pwrite(late, b"ab", 0).expect("still open");
    case.script.borrow_mut().answers.push((key, 2));
    assert_eq!(case.ring.held(), 0);
    assert_eq!(buffers.usage().used_bytes, 0);
    // An answer that comes twice finds another generation.
    case.script.borrow_mut().answers.push((key, -5));
    assert_eq!(case.ring.chain(&op), [Outcome::Done(2)]);
    // Dropped while the kernel has some: they are given up, not given back.
    case.script.borrow_mut().faults = VecDeque::from([Fault::Hang { obeys: false }]);
    assert_eq!(hang(&mut case), [Outcome::Held, Outcome::NotRun]);
    drop(case);
    assert_eq!(buffers.usage().used_bytes, CHUNK);
}

#[test]
fn overlapped_work_may_panic() {
    let mut case = case(32, &[Fault::Short(2)]);
    let data = b"lent for a while".to_vec();
    let op = write(&case.file, &data, 0);
    let ring = &mut case.ring;
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        ring.overlap(&op, || panic!("on purpose"));
    }));
    assert!(panicked.is_err());
    assert_eq!(
        case.counters.get(Count::Submitted),
        case.counters.get(Count::Completed)
    );
    let ((), outcome) = case.ring.overlap(&op, || ());
    assert_eq!(outcome, Outcome::Done(16));
    assert_eq!(content(&case.file), data);
}

#[test]
fn depth_follows_the_machine() {
    assert_eq!([1, 2, 16, 64, 1024].map(depth), [32, 32, 64, 256, 512]);
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        6 => Just(Fault::None),
        2 => (1_usize..64).prop_map(Fault::Short),
        1 => Just(Fault::Errno(Errno::INTR)),
        1 => Just(Fault::Errno(Errno::AGAIN)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random chains, random trouble, random order of answers: what is in the file is what a
    /// model gets that carries out the list up to the failure, byte for byte.
    #[test]
    fn a_chain_leaves_a_prefix_of_the_list(
        list in prop::collection::vec((0_u64..2000, 0_usize..300, any::<u8>(), 0_u8..8), 0..40),
        mut faults in prop::collection::vec(fault(), 0..60),
        end in prop::option::of(0_usize..60),
        depth in 1_usize..12,
        seed in any::<u64>(),
    ) {
        if let Some(end) = end.filter(|end| *end < faults.len()) {
            faults[end] = Fault::Errno(Errno::IO);
        }
        let mut case = case(depth, &faults);
        case.script.borrow_mut().seed = seed;
        let payloads: Vec<_> = list.iter().map(|(_, len, fill, _)| vec![*fill; *len]).collect();
        let ops: Vec<Io<'_, &[u8]>> = list.iter().zip(&payloads).map(|((offset, _, _, kind), data)| {
            if *kind == 0 {
                Io::Fsync { fd: case.file.as_fd(), data_only: true }
            } else {
                write(&case.file, data, *offset)
            }
        }).collect();
        let outcomes = case.ring.chain(&ops);
        let mut model = Vec::new();
        let mut ended = false;
        for (op, outcome) in ops.iter().zip(&outcomes) {
            let written = match outcome {
                Outcome::Done(n) => {
                    prop_assert!(!ended);
                    prop_assert_eq!(*n, op.len());
                    *n
                }
                Outcome::Failed { errno, written } => {
                    prop_assert!(!ended);
                    prop_assert_eq!(*errno, Errno::IO);
                    ended = true;
                    *written
                }
                Outcome::NotRun => {
                    prop_assert!(ended);
                    0
                }
                Outcome::Held => return Err(TestCaseError::fail("held")),
            };
            if let (Io::Write { data, offset, .. }, 1..) = (op, written) {
                let start = usize::try_from(*offset).expect("small");
                model.resize(model.len().max(start + written), 0);
                model[start..start + written].copy_from_slice(&data[..written]);
            }
        }
        prop_assert_eq!(content(&case.file), model);
        prop_assert_eq!(case.counters.get(Count::OutOfOrder), 0);
        prop_assert_eq!(case.counters.get(Count::Submitted), case.counters.get(Count::Completed));
    }
}
