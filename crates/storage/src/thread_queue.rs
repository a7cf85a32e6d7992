//! A queue served by one thread that uses a disk's synchronous methods: for hosts without io_uring and for
//! formats that need more than one access per request.
//!
//! Locks: `state` is held for moments only, never while the disk works.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use guest_memory::GuestMemory;

use crate::disk::check_range;
use crate::memory::{GuestRange, Segment, mark_written, resolve};
use crate::{Disk, DiskQueue, Error, Op, Request, SubmitError};

/// A new eventfd, not blocking, closed on exec.
pub(crate) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: plain system call; the descriptor it returns is ours alone.
    unsafe {
        match libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) {
            -1 => Err(io::Error::last_os_error()),
            descriptor => Ok(OwnedFd::from_raw_fd(descriptor)),
        }
    }
}

/// Makes an eventfd unreadable. One that is so already stays so.
pub(crate) fn reset(event: &OwnedFd) {
    let mut count = 0_u64;
    // SAFETY: reads eight bytes into a u64.
    unsafe { libc::read(event.as_raw_fd(), (&raw mut count).cast(), 8) };
}

/// Makes an eventfd readable. It can fail only where it is readable already.
fn signal(event: &OwnedFd) {
    let one = 1_u64;
    // SAFETY: writes eight bytes from a u64.
    unsafe { libc::write(event.as_raw_fd(), (&raw const one).cast(), 8) };
}

#[derive(Debug, Clone, Copy)]
enum Work {
    Read,
    Write { fua: bool },
    Flush,
    Zero { len: u64, unmap: bool, fua: bool },
}

/// One request: travels between the lists, so that its own lists are never freed.
struct Job {
    token: u64,
    work: Work,
    offset: u64,
    len: u64,
    iovecs: Vec<libc::iovec>,
    ranges: Vec<GuestRange>,
    result: io::Result<usize>,
}

// SAFETY: the raw addresses are of guest memory, which the queue keeps mapped; any thread may use it.
unsafe impl Send for Job {}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    finished: VecDeque<Job>,
    ended: bool,
}

struct Shared {
    disk: Arc<dyn Disk>,
    memory: GuestMemory,
    event: OwnedFd,
    state: Mutex<State>,
    work: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: until the queue is dropped and nothing waits any more.
    fn serve(&self) {
        let mut state = self.lock();
        loop {
            let Some(mut job) = state.waiting.pop_front() else {
                if state.ended {
                    return;
                }
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            job.result = self.perform(&job).map(|()| job.len as usize);
            state = self.lock();
            let first = state.finished.is_empty();
            state.finished.push_back(job);
            if first {
                signal(&self.event);
            }
        }
    }

    fn perform(&self, job: &Job) -> io::Result<()> {
        // SAFETY: `resolve` made the list from `self.memory`, which outlives this call.
        let segments = unsafe { Segment::from_iovecs(&job.iovecs) };
        match job.work {
            Work::Read => {
                let result = self.disk.read(job.offset, segments);
                mark_written(&self.memory, &job.ranges);
                result
            }
            Work::Write { fua } => self.disk.write(job.offset, segments, fua),
            Work::Flush => self.disk.flush(),
            Work::Zero { len, unmap, fua } => self.disk.write_zeroes(job.offset, len, unmap, fua),
        }
    }
}

pub(crate) struct ThreadQueue {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Submitted, not yet handed to the thread.
    batch: VecDeque<Job>,
    free: Vec<Job>,
    /// Completions being handed out.
    finished: VecDeque<Job>,
    depth: usize,
}

impl ThreadQueue {
    pub(crate) fn start(
        disk: Arc<dyn Disk>,
        depth: usize,
        memory: GuestMemory,
    ) -> Result<Box<dyn DiskQueue>, Error> {
        let depth = depth.max(1);
        let event = eventfd().map_err(Error::Queue)?;
        let state = State {
            waiting: VecDeque::with_capacity(depth),
            finished: VecDeque::with_capacity(depth),
            ended: false,
        };
        let shared = Arc::new(Shared { disk, memory, event, state: Mutex::new(state), work: Condvar::new() });
        let thread = std::thread::Builder::new()
            .name("disk".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.serve()
            })
            .map_err(Error::Queue)?;
        let job = || Job {
            token: 0,
            work: Work::Flush,
            offset: 0,
            len: 0,
            iovecs: Vec::with_capacity(32),
            ranges: Vec::with_capacity(32),
            result: Ok(0),
        };
        Ok(Box::new(Self {
            shared,
            thread: Some(thread),
            batch: VecDeque::with_capacity(depth),
            free: (0..depth).map(|_| job()).collect(),
            finished: VecDeque::with_capacity(depth),
            depth,
        }))
    }

    fn prepare(shared: &Shared, job: &mut Job, request: Request<'_>) -> Result<(), SubmitError> {
        let info = shared.disk.info();
        job.token = request.token;
        job.ranges.clear();
        job.iovecs.clear();
        job.len = 0;
        let (offset, len, write) = match request.op {
            Op::Read { offset, ranges } => {
                job.work = Work::Read;
                job.ranges.extend_from_slice(ranges);
                job.len = resolve(&shared.memory, ranges, &mut job.iovecs)?;
                (offset, job.len, false)
            }
            Op::Write { offset, ranges, fua } => {
                job.work = Work::Write { fua };
                job.len = resolve(&shared.memory, ranges, &mut job.iovecs)?;
                (offset, job.len, true)
            }
            Op::Flush => {
                job.work = Work::Flush;
                (0, 0, false)
            }
            Op::Discard { offset, len } => {
                job.work = Work::Zero { len, unmap: true, fua: false };
                (offset, len, true)
            }
            Op::WriteZeroes { offset, len, unmap, fua } => {
                job.work = Work::Zero { len, unmap, fua };
                (offset, len, true)
            }
        };
        job.offset = offset;
        check_range(info, offset, len)?;
        if write && info.read_only { Err(SubmitError::ReadOnly) } else { Ok(()) }
    }
}

impl DiskQueue for ThreadQueue {
    fn submit(&mut self, request: Request<'_>) -> Result<(), SubmitError> {
        let job = self.free.last_mut().ok_or(SubmitError::Full)?;
        Self::prepare(&self.shared, job, request)?;
        self.batch.extend(self.free.pop());
        Ok(())
    }

    fn kick(&mut self) -> io::Result<()> {
        if !self.batch.is_empty() {
            self.shared.lock().waiting.append(&mut self.batch);
            self.shared.work.notify_one();
        }
        Ok(())
    }

    fn complete(&mut self, done: &mut dyn FnMut(u64, io::Result<usize>)) -> usize {
        reset(&self.shared.event);
        std::mem::swap(&mut self.shared.lock().finished, &mut self.finished);
        let count = self.finished.len();
        while let Some(mut job) = self.finished.pop_front() {
            let result = std::mem::replace(&mut job.result, Ok(0));
            let token = job.token;
            self.free.push(job);
            done(token, result);
        }
        count
    }

    fn event(&self) -> BorrowedFd<'_> {
        self.shared.event.as_fd()
    }

    fn in_flight(&self) -> usize {
        self.depth - self.free.len()
    }
}

impl Drop for ThreadQueue {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.waiting.append(&mut self.batch);
            state.ended = true;
        }
        self.shared.work.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of a disk queue ended by a panic");
        }
    }
}
