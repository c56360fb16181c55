// SPDX-License-Identifier: MIT
//! The protocol over a pair of sockets, with a mirror that only counts what is asked of it.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use super::wire::{ANSWER_MAX, LIST_MAX, PROTOCOL};
use super::*;
use crate::mirror::events::Change;
use crate::mirror::report::{Dirty, Primary, Syncs};
use crate::mirror::resync::{Difference, Kind};
use crate::mirror::state::{MirrorState, ReplicaState};
use crossbeam_channel::{Receiver, Sender, bounded};

/// A mirror that does nothing, and says so.
struct Fake {
    events: Arc<Events>,
    syncs: AtomicU64,
    /// A comparison says that it began, and waits here until it may end.
    begun: Sender<Arc<AtomicBool>>,
    may_end: Receiver<()>,
}

fn fake() -> (Arc<Fake>, Receiver<Arc<AtomicBool>>, Sender<()>) {
    let ((begun, began), (end, may_end)) = (bounded(8), bounded(8));
    let fake = Fake {
        events: Arc::default(),
        syncs: AtomicU64::new(0),
        begun,
        may_end,
    };
    (Arc::new(fake), began, end)
}

fn report() -> Report {
    Report {
        mirror: "/data".into(),
        id: "6f2c91ab".into(),
        state: MirrorState::Resyncing,
        mode: "sync".into(),
        fsync: None,
        max_lag_bytes: None,
        epoch: 1,
        epoch_before: None,
        reason: None,
        action: None,
        primary: Primary {
            path: "/srv/data".into(),
            state: "online".into(),
            written_bytes: 0,
            errors: 0,
        },
        replicas: Vec::new(),
        scan: None,
        mounted_since: 0,
        pid: 1,
        io: "threads".into(),
        io_reason: None,
        io_counters: Default::default(),
        transport: String::new(),
        transport_reason: None,
        shared_primary: false,
        cache: None,
        requests: Default::default(),
        request_times: Default::default(),
        read_bytes: None,
        version: None,
        stat_cache: None,
        paused: true,
        unverified: None,
        syncs: Syncs {
            done: 1,
            over: 2,
            why: Some("full".into()),
        },
    }
}

impl Controlled for Fake {
    fn report(&self) -> Report {
        report()
    }

    fn dirty(&self, max: usize) -> Result<DirtyList, Refusal> {
        let one = Dirty {
            path: b"caf\xe9\n".to_vec(),
            aspect: "data".into(),
            range: Some((0, None)),
        };
        let objects = vec![one; max.min(3)];
        Ok(DirtyList { objects, total: 3 })
    }

    fn sync(&self, full: bool) -> Result<u64, Refusal> {
        if full {
            return Err(Refusal::refused("it is paused.").id("MF-0030"));
        }
        Ok(self.syncs.fetch_add(1, Ordering::AcqRel) + 1)
    }

    fn pause(&self) -> Result<(), Refusal> {
        Ok(())
    }

    fn events(&self) -> Result<Arc<Events>, Refusal> {
        Ok(Arc::clone(&self.events))
    }

    fn verify(
        &self,
        how: Verify,
        stop: &Arc<AtomicBool>,
        progress: &mut dyn FnMut(&Progress),
    ) -> Result<Summary, Refusal> {
        assert_eq!(how, QUICK);
        let seen = Progress {
            files: 7,
            ..Progress::default()
        };
        progress(&seen);
        drop(self.begun.send(Arc::clone(stop)));
        let until = std::time::Instant::now() + LINE_TIMEOUT;
        while !stop.load(Ordering::Acquire) && std::time::Instant::now() < until {
            if self.may_end.recv_timeout(Duration::from_millis(20)).is_ok() {
                break;
            }
        }
        let difference = Difference {
            path: b"caf\xe9".to_vec(),
            kind: Kind::Data,
            offset: Some(4096),
            detail: "64 KiB differ at 4096".into(),
            other: None,
            trail: Vec::new(),
        };
        Ok(Summary {
            files: 9,
            bytes: 10,
            differences: vec![difference],
            differences_total: 2,
            ..Summary::default()
        })
    }
}

const QUICK: Verify = Verify {
    quick: true,
    repair: false,
};

impl Handler for Fake {
    fn mirror(&self) -> &dyn Controlled {
        self
    }

    fn unmount(&self, lazy: bool) -> Result<(), Refusal> {
        Err(Refusal::refused(format!("lazy: {lazy}")))
    }
}

/// What no version has overridden.
struct Bare;

impl Controlled for Bare {
    fn report(&self) -> Report {
        report()
    }
}

impl Handler for Bare {
    fn mirror(&self) -> &dyn Controlled {
        self
    }

    fn unmount(&self, _: bool) -> Result<(), Refusal> {
        Ok(())
    }
}

/// A client, and a conversation behind it on a thread of its own.
fn connect(handler: Arc<dyn Handler>, streams: &Arc<Streams>) -> Client {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let streams = Arc::clone(streams);
    std::thread::spawn(move || converse(&theirs, &*handler, &streams));
    Client::of(ours)
}

fn ask<T>(call: impl FnOnce(Client) -> Asked<T>) -> Result<T, Refusal> {
    let client = connect(fake().0, &Arc::default());
    call(client).expect("an answer")
}

/// Says one line to a fresh conversation and hears the answer.
fn raw(line: &[u8]) -> Answer {
    let (mut ours, theirs) = UnixStream::pair().expect("a pair");
    let talk = std::thread::spawn(move || converse(&theirs, &*fake().0, &Streams::default()));
    ours.write_all(line).expect("write");
    ours.shutdown(std::net::Shutdown::Write).expect("shutdown");
    let answer = Lines::of(ours)
        .answer(ANSWER_MAX, LINE_TIMEOUT)
        .expect("an answer");
    talk.join().expect("join").expect("talk");
    answer
}

fn words(answer: Answer) -> String {
    match answer {
        Answer::Refused { refusal } => refusal.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Every request arrives with its words, and every answer comes back whole.
#[test]
fn requests_and_answers() {
    let got = connect(fake().0, &Arc::default()).report();
    assert_eq!(got.expect("a report"), report());
    let no = ask(|client| client.unmount(true, LINE_TIMEOUT)).expect_err("refused");
    assert_eq!(no.why, "lazy: true");
    assert_eq!(ask(|client| client.sync(false)), Ok(1));
    let no = ask(|client| client.sync(true)).expect_err("refused");
    assert_eq!(no.id.as_deref(), Some("MF-0030"));
    assert_eq!(ask(|client| client.pause(LINE_TIMEOUT)), Ok(()));
    let list = ask(|client| client.dirty(2)).expect("a list");
    assert_eq!((list.objects.len(), list.total), (2, 3));
    assert_eq!(list.objects[0].path, b"caf\xe9\n");
}

/// What nobody has built yet is said in words, not by silence.
#[test]
fn what_is_not_there_yet_says_so() {
    let bare = || connect(Arc::new(Bare), &Arc::default());
    let answers = [
        bare().resume().expect("an answer").map(|()| 0),
        bare().pause(LINE_TIMEOUT).expect("an answer").map(|()| 0),
        bare().sync(false).expect("an answer"),
        bare().dirty(1).expect("an answer").map(|list| list.total),
        bare().listen().expect("an answer").map(|_| 0),
        bare()
            .verify(QUICK, &mut |_| true)
            .expect("an answer")
            .map(|v| v.files),
    ];
    for answer in answers {
        let no = answer.expect_err("refused");
        assert!(no.why.contains("not in this version yet"), "{no}");
    }
}

/// An older command is answered by a newer daemon; a newer one is told to mount again, and so is
/// whoever talks nonsense. Nothing is done in part.
#[test]
fn versions_understand_each_other() {
    // As the first version said it, without a number.
    assert!(matches!(
        raw(b"{\"request\":\"status\"}\n"),
        Answer::Report { .. }
    ));
    let no = words(raw(b"{\"request\":\"umount\",\"lazy\":true}\n"));
    assert_eq!(no, "lazy: true");
    let newer = format!(
        "{{\"request\":\"sync\",\"protocol\":{},\"gently\":true}}\n",
        PROTOCOL + 1
    );
    for line in [
        newer.as_bytes(),
        b"{\"request\":\"transmogrify\",\"protocol\":2}\n",
        b"{\"request\":\"status\",\"protocol\":\"two\"}\n",
        b"{\"request\":\"umount\"}\n",
        b"[]\n",
        b"\xff\n",
        b"",
    ] {
        let no = words(raw(line));
        assert!(no.contains("another version") && no.contains("mount again"));
    }
    let endless = vec![b'x'; 1 << 20];
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let talk = std::thread::spawn(move || converse(&theirs, &*fake().0, &Streams::default()));
    // It stops reading at the limit and hangs up.
    drop((&ours).write_all(&endless));
    drop(ours);
    drop(talk.join().expect("join"));
    // And what the first version would hear is what it knows, with a field it does not.
    let line = Request::Umount { lazy: false }.line().expect("a line");
    assert_eq!(
        line.to_string(),
        r#"{"lazy":false,"protocol":1,"request":"umount"}"#
    );
    let line = Request::Verify { how: QUICK }.line().expect("a line");
    assert_eq!(
        line.to_string(),
        r#"{"protocol":2,"quick":true,"repair":false,"request":"verify"}"#
    );
}

/// A line comes as a whole within its time, whatever the other side does with it.
#[test]
fn lines_have_a_length_and_a_time() {
    let (mut ours, theirs) = UnixStream::pair().expect("a pair");
    let mut lines = Lines::of(theirs);
    let mut next = |most, patience| match lines.next(most, patience) {
        Ok(Line::Whole(line)) => Ok(line),
        Ok(Line::Broken(line)) => Err((line, None)),
        Err(e) => Err((Vec::new(), Some(e.kind()))),
    };
    ours.write_all(b"one\n\ntwo").expect("write");
    assert_eq!(next(9, LINE_TIMEOUT), Ok(b"one".to_vec()));
    assert_eq!(next(9, LINE_TIMEOUT), Ok(Vec::new()));
    let late = Some(io::ErrorKind::TimedOut);
    assert_eq!(next(9, Duration::from_millis(1)), Err((Vec::new(), late)));
    // What came is not lost by that.
    ours.write_all(b"\n0123456789").expect("write");
    assert_eq!(next(9, LINE_TIMEOUT), Ok(b"two".to_vec()));
    assert_eq!(next(9, LINE_TIMEOUT), Err((b"0123456789".to_vec(), None)));
    drop(ours);
    assert_eq!(next(9, LINE_TIMEOUT), Err((Vec::new(), None)));
}

/// A listener hears of changes, of what it missed, and of the end.
#[test]
fn events_are_streamed() {
    let (fake, _, _) = fake();
    let mut changes = connect(fake.clone(), &Arc::default())
        .listen()
        .expect("an answer")
        .expect("listening");
    let change = Change::now("/r", ReplicaState::InSync, ReplicaState::Failed);
    fake.events.publish(change.clone());
    fake.events.close();
    assert_eq!(changes.hear().expect("heard"), Heard::Change(change));
    assert_eq!(changes.hear().expect("heard"), Heard::Ended);
    let end = changes.hear().expect_err("the end");
    assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
}

/// There is a limit to listeners; one that goes away makes room; `status` is never kept out.
#[test]
fn listeners_are_few_and_forgotten() {
    let ((fake, _, _), streams) = (fake(), Arc::default());
    let connect = || connect(fake.clone(), &streams);
    let mut all = Vec::new();
    let no = loop {
        match connect().listen().expect("an answer") {
            Ok(changes) => all.push(changes),
            Err(no) => break no,
        }
    };
    assert_eq!((all.len(), no.id.as_deref()), (8, Some("MF-0036")));
    connect().report().expect("status");
    all.pop();
    let until = std::time::Instant::now() + LINE_TIMEOUT;
    let again = std::iter::repeat_with(|| connect().listen().expect("an answer"));
    let heard = again
        .take_while(|_| std::time::Instant::now() < until)
        .find(|answer| answer.is_ok());
    assert!(heard.is_some(), "who went away is not forgotten");
}

/// Progress, differences, the sum.
#[test]
fn a_comparison_is_told() {
    let (fake, _, end) = fake();
    let client = connect(fake, &Arc::default());
    let (mut files, mut found) = (0, Vec::new());
    let verified = client.verify(QUICK, &mut |told| {
        match told {
            Verifying::Progress(seen) => {
                files = seen.files;
                // It may have been told already.
                _ = end.try_send(()).is_ok();
            }
            Verifying::Found(difference) => found.push(difference),
        }
        true
    });
    let verified = verified.expect("an answer").expect("verified");
    let sum = (verified.files, verified.bytes, verified.differences);
    assert_eq!((sum, verified.repaired, files), ((9, 10, 2), false, 7));
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].path.as_slice(), found[0].offset),
        (b"caf\xe9".as_slice(), Some(4096))
    );
}

/// Who goes away stops the comparison that he asked for; nobody else's; an unmount stops it too.
/// A sync goes on, whoever asked for it.
#[test]
fn who_goes_away_stops_his_comparison() {
    let (fake, began, _end) = fake();
    let streams = Arc::default();
    let connect = || connect(fake.clone(), &streams);
    let (first, second) = (connect(), connect());
    let gone = first.verify(QUICK, &mut |_| false).expect_err("left");
    assert_eq!(gone.kind(), io::ErrorKind::Interrupted);
    let stop = began.recv().expect("it began");
    let until = std::time::Instant::now() + LINE_TIMEOUT;
    while !stop.load(Ordering::Acquire) && std::time::Instant::now() < until {
        std::thread::yield_now();
    }
    assert!(stop.load(Ordering::Acquire), "nobody told it to stop");
    streams.stop_verify();
    let no = second.verify(QUICK, &mut |_| true).expect("an answer");
    assert_eq!(no.expect_err("refused").why, "the daemon is ending.");
}

/// Only one comparison at a time; an unmount stops it and waits for it.
#[test]
fn one_comparison_at_a_time() {
    let (fake, began, _end) = fake();
    let streams = Arc::default();
    let first = connect(fake.clone(), &streams);
    let compare = std::thread::spawn(move || first.verify(QUICK, &mut |_| true));
    began.recv().expect("it began");
    let no = connect(fake, &streams).verify(QUICK, &mut |_| true);
    let no = no.expect("an answer").expect_err("refused");
    assert!(no.why.contains("being compared already"), "{no}");
    streams.stop_verify();
    let ended = compare.join().expect("join").expect("an answer");
    assert_eq!(ended.expect("verified").differences, 2);
}

/// A daemon may be anybody's: one line of it does not fill the memory of who asks.
#[test]
fn an_answer_without_an_end_is_not_read_to_it() {
    let (mut ours, theirs) = UnixStream::pair().expect("a pair");
    let talk = std::thread::spawn(move || {
        // Until nobody listens any more.
        while ours.write_all(&[b' '; 4096]).is_ok() {}
    });
    let error = Lines::of(theirs)
        .answer(ANSWER_MAX, LINE_TIMEOUT)
        .expect_err("no line");
    talk.join().expect("join");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(Request::Status.answer_max(), ANSWER_MAX);
    assert_eq!(Request::Dirty { max: 7 }.answer_max(), LIST_MAX);
}
