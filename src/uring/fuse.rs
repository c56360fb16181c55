// SPDX-License-Identifier: MIT
//! FUSE over io_uring: requests come through rings, each on the processor of the program that asks.
//!
//! The kernel has one queue for each processor. Several threads of ours serve it, each with a ring
//! and an entry of its own, and stay on that processor. A thread that has an answer hands it back
//! and waits for the next request in one system call. The kernel takes the entry that became free
//! last, so one warm thread serves a queue until it has to wait for something; then the next one
//! wakes up.
//!
//! **No request waits for another that has not begun.** A thread takes one request and ends it
//! before it takes the next, so whoever holds a turn is being carried out and not queued; how many
//! threads a queue has decides how many of its requests may wait for a disk at once, and not
//! whether they end.
//!
//! Order: [`Queues::prepare`] before the FUSE handshake, so that all that can fail has been done
//! when the kernel is asked for it; [`Queues::begin`] after it. Dropping ends the threads.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use io_uring::squeue::Entry128;
use io_uring::{IoUring, opcode, types};
use rustix::event::{EventfdFlags, eventfd};

use super::kernel::errno;
use crate::sys::Errno;

mod cpus;
mod elsewhere;
mod entry;

use cpus::{Home, Post};
pub use elsewhere::{Elsewhere, Late};
use elsewhere::{Hangs, Shop};
use entry::Entry;
pub use entry::{Answer, Incoming};

/// Who answers the requests; called from many threads at once. `None` where another thread answers
/// ([`Elsewhere::keep`]).
pub type Serve = dyn Fn(Incoming<'_>) -> Option<Answer> + Send + Sync;

/// `FUSE_IO_URING_CMD_REGISTER`: an entry is there for requests.
const REGISTER: u32 = 1;
/// `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`: an answer, and the entry is there for the next.
const COMMIT_AND_FETCH: u32 = 2;
/// The key of the wish to end; entries have their index.
const END: u64 = u64::MAX;

/// The threads and their rings.
#[derive(Debug)]
pub struct Queues {
    threads: Vec<Thread>,
    shop: Arc<Shop>,
}

#[derive(Debug)]
struct Thread {
    /// Asks it to offer its entries to the kernel; it ends when nobody can any more.
    begin: Option<Sender<()>>,
    /// How that went, and before it how making them went.
    said: Receiver<Result<(), String>>,
    /// It serves the queue that comes last.
    last: bool,
    /// Another one has its entry.
    hangs: Hangs,
    handle: Option<JoinHandle<()>>,
}

impl Queues {
    /// Threads for every processor, with everything they need for requests of up to `payload` bytes
    /// on `device`, an open `/dev/fuse`.
    ///
    /// # Errors
    /// Why not, for people.
    pub fn prepare(device: OwnedFd, payload: usize, serve: Arc<Serve>) -> Result<Self, String> {
        let posts = cpus::posts().ok_or("the processors cannot be counted")?;
        let end = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let shop = Arc::new(Shop {
            device,
            end: end.map_err(|errno| format!("no eventfd: {errno}"))?,
            serve,
            again: parking_lot::Mutex::default(),
        });
        let mut queues = Self {
            threads: Vec::with_capacity(posts.len()),
            shop,
        };
        let last_queues = posts
            .last()
            .map(|post| post.queues.clone())
            .unwrap_or_default();
        for post in posts {
            let (begin, begun) = bounded(1);
            let (say, said) = bounded(1);
            let (shop, hangs) = (queues.shop.clone(), Hangs::default());
            let own = hangs.clone();
            let name = match post.queues[..] {
                [queue] => format!("fuse-{queue}"),
                _ => "fuse-spare".to_owned(),
            };
            let last = post.queues == last_queues;
            let handle = std::thread::Builder::new()
                .name(name)
                .spawn(move || attend((&post, own), payload, &shop, &begun, &say))
                .map_err(|error| format!("no thread: {error}"))?;
            queues.threads.push(Thread {
                begin: Some(begin),
                said,
                last,
                hangs,
                handle: Some(handle),
            });
        }
        for thread in &queues.threads {
            thread.hear()?;
        }
        Ok(queues)
    }

    /// How many threads there are.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// Offers the entries to the kernel, which has agreed to use them and holds back all requests
    /// until it has an entry for every queue, or has refused one.
    ///
    /// # Errors
    /// Why it refused, for people. It then sends all requests to the device.
    pub fn begin(&mut self) -> Result<(), String> {
        let mut begun = false;
        for thread in &self.threads {
            // A thread that ended has said why.
            _ = thread.begin.as_ref().map(|begin| begin.send(()));
            match thread.hear() {
                Ok(()) => begun |= thread.last,
                Err(why) if begun => tracing::warn!("a thread fewer for requests: {why}"),
                Err(why) => {
                    self.decline();
                    return Err(why);
                }
            }
        }
        Ok(())
    }

    /// Offers an entry for a queue that there is not. That is refused, and frees the kernel from
    /// waiting for us, whatever it was that failed.
    fn decline(&self) {
        let nowhere = Post {
            queues: vec![u16::MAX],
            cpu: None,
        };
        let declined = Desk::new((&nowhere, Hangs::default()), 1, &self.shop, None)
            .map_err(|error| errno(&error))
            .and_then(|mut desk| desk.offer());
        tracing::debug!("rings for requests declined: {declined:?}");
    }
}

impl Thread {
    fn hear(&self) -> Result<(), String> {
        let said = self.said.recv();
        said.unwrap_or_else(|_| Err("a thread ended before it began".to_owned()))
    }
}

impl Drop for Queues {
    fn drop(&mut self) {
        // It cannot fail: the counter is far from full.
        _ = rustix::io::write(&self.shop.end, &1_u64.to_le_bytes()).is_ok();
        let mut handles = Vec::new();
        for thread in &mut self.threads {
            thread.begin = None;
            let handle = thread.handle.take();
            handles.extend(handle.map(|handle| (handle, thread.hangs.clone())));
        }
        handles.append(&mut self.shop.again.lock());
        for (handle, hangs) in handles {
            // One that hangs ends when it can; its requests have been answered.
            if !hangs.load(Ordering::Acquire) {
                // A panic ends the process (Cargo.toml).
                _ = handle.join().is_ok();
            }
        }
    }
}

/// The life of a thread.
fn attend(
    post: (&Post, Hangs),
    payload: usize,
    shop: &Arc<Shop>,
    begun: &Receiver<()>,
    say: &Sender<Result<(), String>>,
) {
    let home = post.0.cpu.and_then(Home::settle);
    let mut desk = match Desk::new(post, payload, shop, home) {
        Ok(desk) => desk,
        Err(error) => return drop(say.send(Err(format!("no ring for requests: {error}")))),
    };
    // Nobody listens any more when it was given up meanwhile.
    drop(say.send(Ok(())));
    if begun.recv().is_err() {
        return;
    }
    if let Err(errno) = desk.offer() {
        let why = format!("the kernel refused a ring for requests: {errno}");
        return drop(say.send(Err(why)));
    }
    drop(say.send(Ok(())));
    desk.work(&*shop.serve);
}

/// A thread's ring and what it has offered to the kernel.
struct Desk<'a> {
    /// Dropped before the entries: the kernel lets go of them then.
    ring: IoUring<Entry128>,
    entries: Vec<Entry>,
    /// Entries that the kernel has or that are being answered.
    live: usize,
    /// Completions to be looked at: key and result.
    reaped: Vec<(u64, i32)>,
    shop: &'a Arc<Shop>,
    /// Another thread has its entry.
    hangs: Hangs,
    home: Option<Home>,
}

impl<'a> Desk<'a> {
    fn new(
        (post, hangs): (&Post, Hangs),
        payload: usize,
        shop: &'a Arc<Shop>,
        home: Option<Home>,
    ) -> io::Result<Self> {
        let entries: crate::sys::Result<_> = post
            .queues
            .iter()
            .map(|&queue| Entry::new(queue, payload))
            .collect();
        Self::with(entries?, shop, hangs, home)
    }

    /// In the stead of a thread that hangs: hands its answer back, and has its entry.
    fn instead(entry: Entry, commit: u64, shop: &'a Arc<Shop>, hangs: Hangs) -> io::Result<Self> {
        let mut desk = Self::with(vec![entry], shop, hangs, None)?;
        let command = desk.command(0, COMMIT_AND_FETCH, commit);
        // SAFETY: it points to nothing; the memory of the entry outlives the ring.
        unsafe { desk.push(&command) };
        desk.live = 1;
        Ok(desk)
    }

    fn with(
        entries: Vec<Entry>,
        shop: &'a Arc<Shop>,
        hangs: Hangs,
        home: Option<Home>,
    ) -> io::Result<Self> {
        let depth = u32::try_from(entries.len() + 1).unwrap_or(u32::MAX);
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(depth)?;
        let mut desk = Self {
            ring,
            live: 0,
            reaped: Vec::with_capacity(entries.len() + 1),
            entries,
            shop,
            hangs,
            home,
        };
        let end = types::Fd(shop.end.as_raw_fd());
        let listen = opcode::PollAdd::new(end, libc::POLLIN as u32)
            .build()
            .user_data(END);
        // SAFETY: it points to nothing, and the descriptor outlives the thread.
        unsafe { desk.push(&listen.into()) };
        desk.ring.submit()?;
        Ok(desk)
    }

    /// # Safety
    /// What it points to must stay valid until it is submitted, and what that points to until
    /// its completion.
    unsafe fn push(&mut self, command: &Entry128) {
        // SAFETY: passed on to the caller.
        let pushed = unsafe { self.ring.submission().push(command) };
        assert!(pushed.is_ok(), "each entry has one command at most");
    }

    fn command(&self, index: usize, kind: u32, commit: u64) -> Entry128 {
        let queue = self.entries[index].queue;
        // `fuse_uring_cmd_req`: flags, commit id, queue.
        let mut arguments = [0; 80];
        arguments[8..16].copy_from_slice(&commit.to_le_bytes());
        arguments[16..18].copy_from_slice(&queue.to_le_bytes());
        opcode::UringCmd80::new(types::Fd(self.shop.device.as_raw_fd()), kind)
            .cmd(arguments)
            .build()
            .user_data(index as u64)
    }

    /// Offers all entries to the kernel.
    fn offer(&mut self) -> Result<(), Errno> {
        for index in 0..self.entries.len() {
            let buffers = self.entries[index].buffers();
            let mut command = self.command(index, REGISTER, 0);
            describe(&mut command, &buffers);
            // SAFETY: the buffers live until the next line, where the kernel copies what they
            // say; the entry outlives the ring.
            unsafe { self.push(&command) };
            self.ring.submit().map_err(|error| errno(&error))?;
            self.live += 1;
        }
        // A refusal is there at once. A request is only if the kernel has begun.
        self.reap();
        match self.reaped.iter().find(|(_, result)| *result < 0) {
            Some((_, refused)) => Err(Errno::from_raw_os_error(-refused)),
            None => Ok(()),
        }
    }

    fn reap(&mut self) {
        let all = self.ring.completion();
        let told = all.map(|completion| (completion.user_data(), completion.result()));
        self.reaped.extend(told);
    }

    /// Answers requests until the connection is over or we are to end.
    fn work(mut self, serve: &Serve) {
        let mut ending = false;
        loop {
            for at in 0..self.reaped.len() {
                match self.reaped[at] {
                    (END, _) => ending = true,
                    (_, lost) if lost < 0 => self.lose(Errno::from_raw_os_error(-lost)),
                    (index, _) => self.answer(usize::try_from(index).unwrap_or(0), serve),
                }
            }
            self.reaped.clear();
            if self.live == 0 {
                return;
            }
            // The last answers are still handed back.
            let entered = self.ring.submit_and_wait(usize::from(!ending));
            match entered.map_err(|error| errno(&error)) {
                _ if ending => return,
                Ok(_) | Err(Errno::INTR) => self.reap(),
                Err(errno) => return tracing::error!("requests cannot be had: {errno}"),
            }
        }
    }

    fn answer(&mut self, index: usize, serve: &Serve) {
        // SAFETY: its command has completed, and it gets the next one below.
        let answered = unsafe { self.entries[index].answer(serve, self.shop, &self.hangs) };
        let Some((commit, awaited)) = answered else {
            self.live -= 1;
            return;
        };
        if let Some(home) = &mut self.home {
            home.answered(awaited);
        }
        let command = self.command(index, COMMIT_AND_FETCH, commit);
        // SAFETY: it points to nothing; the memory of the entry outlives the ring.
        unsafe { self.push(&command) };
    }

    /// An entry is gone: the connection is over, or what it had could not be handed back.
    fn lose(&mut self, errno: Errno) {
        self.live -= 1;
        match errno {
            Errno::NOTCONN | Errno::CONNABORTED | Errno::CANCELED => {}
            errno => tracing::error!("an answer was refused by the kernel: {errno}"),
        }
    }
}

/// Tells in a command where the buffers are. The crate has no word for how many.
fn describe(command: &mut Entry128, buffers: &[libc::iovec; 2]) {
    /// `io_uring_sqe.addr` and `io_uring_sqe.len` of include/uapi/linux/io_uring.h.
    const ADDRESS: usize = 16;
    const LENGTH: usize = 24;
    const { assert!(size_of::<Entry128>() == 128) };
    // SAFETY: an Entry128 is the 128 bytes of an io_uring_sqe (repr(C)), all of them integers.
    let bytes = unsafe { &mut *std::ptr::from_mut(command).cast::<[u8; 128]>() };
    let (address, count) = (buffers.as_ptr() as u64, 2_u32);
    bytes[ADDRESS..ADDRESS + 8].copy_from_slice(&address.to_le_bytes());
    bytes[LENGTH..LENGTH + 4].copy_from_slice(&count.to_le_bytes());
}

#[cfg(test)]
mod tests;
