//! A queue over io_uring (Linux `io_uring(7)`).
//!
//! The image is not a registered file: the kernel takes a ring apart some time after its process has ended, and
//! until then the image would stay open and locked, so that a machine that was killed could not start again.
//!
//! Every request owns one slot, and a slot has at most one entry in the rings at a time; so rings as large
//! as the number of slots never overflow. A slot holds what its request needs to go on after a short
//! transfer or in several steps; nothing is allocated per request once a slot's lists have grown to the
//! request's size.
//!
//! ```text
//! Transfer ──▶ done            WriteZeroes: Allocate ──▶ [Sync] ──▶ done
//!    └─short─▶ Transfer                        └─no such operation─▶ Fill … ──▶ [Sync] ──▶ done
//! ```

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use guest_memory::GuestMemory;
use io_uring::{IoUring, Probe, opcode, squeue, types};

use super::{MOST_PIECES, ZEROES, lacks_operation, zero_mode};
use crate::disk::check_range;
use crate::memory::{GuestRange, mark_written, resolve};
use crate::{DiskInfo, DiskQueue, Op, Request, SubmitError, thread_queue};

/// Pieces of [`ZEROES`] written at once where the host cannot zero a range itself.
const FILL_PIECES: usize = 16;

/// The step that a slot's entry in the ring carries out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Read,
    Write { fua: bool },
    Allocate { mode: i32, fua: bool },
    Fill { fua: bool },
    Sync,
}

struct Slot {
    token: u64,
    step: Step,
    /// Byte on the disk where the step begins.
    offset: u64,
    /// Bytes left, and bytes done.
    left: u64,
    done: u64,
    /// Host memory, from `first` on; that one shrinks as it is transferred.
    iovecs: Vec<libc::iovec>,
    first: usize,
    /// Guest memory of a read, to be marked when it is done.
    ranges: Vec<GuestRange>,
}

pub(super) struct UringQueue {
    ring: IoUring,
    event: OwnedFd,
    file: Arc<File>,
    info: DiskInfo,
    memory: GuestMemory,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// What a fill writes.
    fill: Box<[libc::iovec; FILL_PIECES]>,
    /// Entries pushed since the last kick.
    pushed: bool,
}

// SAFETY: the raw addresses in slots are of guest memory, which `memory` keeps mapped, and of a static;
// the rings are used by whoever owns the queue alone.
unsafe impl Send for UringQueue {}

impl UringQueue {
    pub(super) fn new(
        file: Arc<File>,
        info: DiskInfo,
        depth: usize,
        memory: GuestMemory,
    ) -> io::Result<Self> {
        let depth = depth.clamp(1, 4096);
        let ring = IoUring::new(depth.next_power_of_two() as u32)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed =
            [opcode::Readv::CODE, opcode::Writev::CODE, opcode::Fsync::CODE, opcode::Fallocate::CODE];
        if !needed.iter().all(|code| probe.is_supported(*code)) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let event = thread_queue::eventfd()?;
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        let slot = || Slot {
            token: 0,
            step: Step::Sync,
            offset: 0,
            left: 0,
            done: 0,
            iovecs: Vec::with_capacity(32),
            first: 0,
            ranges: Vec::with_capacity(32),
        };
        let zeroes = libc::iovec { iov_base: ZEROES.as_ptr().cast_mut().cast(), iov_len: ZEROES.len() };
        Ok(Self {
            ring,
            event,
            file,
            info,
            memory,
            slots: (0..depth).map(|_| slot()).collect(),
            free: (0..depth).rev().collect(),
            fill: Box::new([zeroes; FILL_PIECES]),
            pushed: false,
        })
    }

    fn check(&self, offset: u64, len: u64, write: bool) -> Result<(), SubmitError> {
        check_range(&self.info, offset, len)?;
        if write && self.info.read_only { Err(SubmitError::ReadOnly) } else { Ok(()) }
    }

    /// Fills in slot `index` from the request.
    fn prepare(&mut self, index: usize, op: Op<'_>) -> Result<(), SubmitError> {
        let (step, offset, left) = match op {
            Op::Read { offset, ranges } => {
                let slot = &mut self.slots[index];
                let len = resolve(&self.memory, ranges, &mut slot.iovecs)?;
                slot.ranges.clear();
                slot.ranges.extend_from_slice(ranges);
                self.check(offset, len, false)?;
                (Step::Read, offset, len)
            }
            Op::Write { offset, ranges, fua } => {
                let len = resolve(&self.memory, ranges, &mut self.slots[index].iovecs)?;
                self.check(offset, len, true)?;
                (Step::Write { fua }, offset, len)
            }
            Op::Flush => (Step::Sync, 0, 0),
            Op::Discard { offset, len } => {
                self.check(offset, len, true)?;
                (Step::Allocate { mode: zero_mode(&self.info, true), fua: false }, offset, len)
            }
            Op::WriteZeroes { offset, len, unmap, fua } => {
                self.check(offset, len, true)?;
                (Step::Allocate { mode: zero_mode(&self.info, unmap), fua }, offset, len)
            }
        };
        let slot = &mut self.slots[index];
        (slot.step, slot.offset, slot.left) = (step, offset, left);
        (slot.done, slot.first) = (0, 0);
        Ok(())
    }

    /// Puts the present step of slot `index` into the submission queue.
    fn push(&mut self, index: usize) {
        let file = types::Fd(self.file.as_raw_fd());
        let slot = &self.slots[index];
        let pieces = slot.iovecs.get(slot.first..).unwrap_or_default();
        let count = pieces.len().min(MOST_PIECES) as u32;
        let dsync = |fua: bool| if fua { libc::RWF_DSYNC } else { 0 };
        let entry = match slot.step {
            Step::Read => opcode::Readv::new(file, pieces.as_ptr(), count).offset(slot.offset).build(),
            Step::Write { fua } => opcode::Writev::new(file, pieces.as_ptr(), count)
                .offset(slot.offset)
                .rw_flags(dsync(fua))
                .build(),
            Step::Allocate { mode, .. } => {
                opcode::Fallocate::new(file, slot.left).offset(slot.offset).mode(mode).build()
            }
            Step::Fill { fua } => {
                let whole = slot.left / ZEROES.len() as u64;
                // Whole pieces first; a rest shorter than a piece goes alone, in `iovecs`.
                let (base, count) = match whole {
                    0 => (slot.iovecs.as_ptr(), 1),
                    whole => (self.fill.as_ptr(), whole.min(FILL_PIECES as u64) as u32),
                };
                opcode::Writev::new(file, base, count).offset(slot.offset).rw_flags(dsync(fua)).build()
            }
            Step::Sync => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build(),
        };
        self.push_entry(entry.user_data(index as u64));
    }

    fn push_entry(&mut self, entry: squeue::Entry) {
        // SAFETY: the slot's lists and the memory they name stay as they are until the completion of the
        // entry: slots are reused only after it, and drop waits for it.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            // As many entries as slots fit; only ones that have been consumed can be in the way.
            if let Err(error) = self.ring.submit() {
                tracing::debug!(%error, "io_uring submission deferred");
                std::thread::yield_now();
            }
        }
        self.pushed = true;
    }

    /// Acts on the result of slot `index`'s step: `None` if another step has been submitted.
    fn advance(&mut self, index: usize, result: i32) -> Option<io::Result<usize>> {
        let slot = &mut self.slots[index];
        if matches!(-result, libc::EINTR | libc::EAGAIN) {
            self.push(index);
            return None;
        }
        match slot.step {
            Step::Allocate { fua, .. } if lacks_operation((result < 0).then_some(-result)) => {
                slot.step = Step::Fill { fua };
                let rest = slot.left as usize % ZEROES.len();
                slot.iovecs.clear();
                slot.iovecs.push(libc::iovec { iov_base: ZEROES.as_ptr().cast_mut().cast(), iov_len: rest });
            }
            _ if result < 0 => return Some(Err(io::Error::from_raw_os_error(-result))),
            Step::Allocate { fua: true, .. } => slot.step = Step::Sync,
            Step::Allocate { fua: false, .. } | Step::Sync => return Some(Ok(slot.done as usize)),
            Step::Read | Step::Write { .. } | Step::Fill { .. } => {
                if result == 0 && slot.left > 0 {
                    return Some(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                let moved = result as u64;
                slot.offset += moved;
                slot.left = slot.left.saturating_sub(moved);
                if let Step::Fill { .. } = slot.step {
                    if let Some(rest) = slot.iovecs.first_mut() {
                        rest.iov_len = slot.left as usize % ZEROES.len();
                    }
                    if slot.left == 0 {
                        return Some(Ok(0));
                    }
                } else {
                    slot.done += moved;
                    if slot.left == 0 {
                        return Some(Ok(slot.done as usize));
                    }
                    slot.skip(result as usize);
                }
            }
        }
        self.push(index);
        None
    }
}

impl Slot {
    /// Drops the first `moved` bytes of the memory list.
    fn skip(&mut self, mut moved: usize) {
        while let Some(piece) = self.iovecs.get_mut(self.first) {
            if moved < piece.iov_len {
                piece.iov_base = piece.iov_base.cast::<u8>().wrapping_add(moved).cast();
                piece.iov_len -= moved;
                return;
            }
            moved -= piece.iov_len;
            self.first += 1;
        }
    }
}

impl DiskQueue for UringQueue {
    fn submit(&mut self, request: Request<'_>) -> Result<(), SubmitError> {
        let index = *self.free.last().ok_or(SubmitError::Full)?;
        self.prepare(index, request.op)?;
        self.free.pop();
        self.slots[index].token = request.token;
        self.push(index);
        Ok(())
    }

    fn kick(&mut self) -> io::Result<()> {
        if self.pushed {
            self.ring.submit()?;
            self.pushed = false;
        }
        Ok(())
    }

    fn complete(&mut self, done: &mut dyn FnMut(u64, io::Result<usize>)) -> usize {
        thread_queue::reset(&self.event);
        let mut count = 0;
        loop {
            let next = self.ring.completion().next();
            let Some(entry) = next else { break };
            let index = entry.user_data() as usize;
            let Some(result) = self.advance(index, entry.result()) else { continue };
            let slot = &self.slots[index];
            if slot.step == Step::Read {
                mark_written(&self.memory, &slot.ranges);
            }
            self.free.push(index);
            count += 1;
            done(self.slots[index].token, result);
        }
        // Steps that follow a completed one start at once: the caller may have nothing more to submit.
        if let Err(error) = self.kick() {
            tracing::warn!(%error, file = ?self.file, "io_uring submission deferred");
        }
        count
    }

    fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

impl Drop for UringQueue {
    fn drop(&mut self) {
        // The kernel writes to guest memory and reads the slots' lists until every entry has completed.
        while self.in_flight() > 0 {
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::debug!(%error, "waiting for disk requests");
                    std::thread::yield_now();
                }
            }
            self.complete(&mut |_, _| {});
        }
    }
}
