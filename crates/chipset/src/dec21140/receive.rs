//! The receive process.

use super::check;
use super::dma::MasterAbort;
use super::filter::{Verdict, is_group};
use super::registers::{OWN, ReceiveControl, ReceiveStatus, Status};
use super::{Dec21140, LONGEST_FRAME, Process, SHORTEST_FRAME};

/// What waits for descriptors at the most, in frames and bytes. The chip's own memory holds one or two frames.
const WAITING_FRAMES: usize = 4096;
const WAITING_BYTES: usize = 4 << 20;
/// Descriptors of a frame at the most: as many as its bytes fill, if each takes four.
const DESCRIPTORS: usize = LONGEST_FRAME / 4 + 2;
/// Bytes, check sequence included, from which on a frame is too long.
const TOO_LONG: usize = 1518;
/// Smaller values of the field behind the addresses are lengths.
const SMALLEST_TYPE: u16 = 1501;

/// A frame with its check sequence, and what is known of it.
pub(super) struct Received {
    data: Vec<u8>,
    status: ReceiveStatus,
}

impl Dec21140 {
    /// A frame has come over the wire.
    pub fn receive(&mut self, frame: Vec<u8>) {
        // One that loops back inside has no wire.
        if self.mode.loopback() == 0 && self.mii.link() {
            self.take(frame, false);
            self.update_line();
        }
    }

    /// The host says that it has descriptors.
    pub(super) fn receive_poll_demand(&mut self) {
        if self.may_master() && self.receiver == Process::Suspended {
            match self.dma.status(self.receive_list.next) {
                Ok(status) if status & OWN != 0 => self.receiver = Process::Running,
                Ok(_) => {}
                Err(MasterAbort) => self.bus_error(),
            }
        }
    }

    /// Puts a frame behind those that wait for descriptors, if it is wanted.
    pub(super) fn take(&mut self, mut frame: Vec<u8>, looped: bool) {
        let Some(address) = frame.first_chunk::<6>().copied() else { return self.dropped.count() };
        if self.receiver == Process::Stopped {
            return;
        }
        let verdict = self.filter.verdict(address, self.mode);
        if verdict == Verdict::Unwanted {
            return;
        }
        if frame.len() > LONGEST_FRAME {
            self.dropped.count();
            if !self.watchdog.receive_disable() {
                self.raise(Status::new().with_receive_watchdog(true));
            }
            return;
        }
        if frame.len() < SHORTEST_FRAME {
            // Whatever is on a wire has been padded.
            frame.resize(SHORTEST_FRAME, 0);
        }
        frame.extend(check::sequence(&frame));
        if self.waiting.len() >= WAITING_FRAMES || self.waiting_bytes + frame.len() > WAITING_BYTES {
            self.missed = self.missed.saturating_add(1);
            return self.dropped.count();
        }
        let kind = frame.get(12..14).map_or(0, |kind| u16::from_be_bytes([kind[0], kind[1]]));
        let status = ReceiveStatus::new()
            .with_multicast(is_group(address))
            .with_frame_type(kind >= SMALLEST_TYPE)
            .with_too_long(frame.len() > TOO_LONG)
            .with_data_type(looped.into())
            .with_filtering_fail(verdict == Verdict::Overheard)
            .with_length(frame.len() as u16);
        self.waiting_bytes += frame.len();
        self.waiting.push_back(Received { data: frame, status });
        self.deliver();
    }

    /// Puts waiting frames into the host's buffers.
    pub(super) fn deliver(&mut self) {
        if !self.may_master() || self.receiver == Process::Stopped {
            return;
        }
        while let Some(frame) = self.waiting.pop_front() {
            match self.store(&frame) {
                Ok(true) => {
                    self.receiver = Process::Running;
                    self.waiting_bytes -= frame.data.len();
                    self.counters.requests.count();
                    self.counters.bytes_in.add(frame.data.len() as u64);
                    self.raise(Status::new().with_receive_interrupt(true));
                }
                Ok(false) => {
                    self.waiting.push_front(frame);
                    return self.out_of_buffers();
                }
                Err(MasterAbort) => {
                    self.waiting_bytes -= frame.data.len();
                    self.dropped.count();
                    return self.bus_error();
                }
            }
        }
    }

    /// The next descriptor is the host's. That is told once, until there has been another.
    fn out_of_buffers(&mut self) {
        if self.receiver == Process::Running {
            self.receiver = Process::Suspended;
            self.raise(Status::new().with_receive_unavailable(true));
        }
        self.look_again();
    }

    /// Puts a frame into as many descriptors as it takes. False if there is none.
    fn store(&mut self, frame: &Received) -> Result<bool, MasterAbort> {
        let mut at = self.receive_list.next;
        if self.dma.status(at)? & OWN == 0 {
            return Ok(false);
        }
        let mut rest = frame.data.as_slice();
        for index in 1..=DESCRIPTORS {
            let descriptor = self.dma.descriptor(at)?;
            let control = ReceiveControl::from_bits(descriptor.control);
            let second = if control.chained() { 0 } else { control.size_2() };
            for (buffer, size) in descriptor.buffers.into_iter().zip([control.size_1(), second]) {
                let (part, behind) = rest.split_at(rest.len().min(size.into()));
                self.dma.write(buffer, part)?;
                rest = behind;
            }
            let skip = self.bus_mode.skip();
            self.receive_list.next =
                self.receive_list.behind(&descriptor, control.end_of_ring(), control.chained(), skip);
            let next = self.receive_list.next;
            // A frame ends here, too, if there is nothing for the rest of it.
            let truncated = !rest.is_empty() && (index == DESCRIPTORS || self.dma.status(next)? & OWN == 0);
            let last = rest.is_empty() || truncated;
            let status = if last { frame.status } else { ReceiveStatus::new() };
            let status =
                status.with_first(index == 1).with_last(last).with_truncated(truncated).with_error(truncated);
            self.dma.close(at, status.into_bits())?;
            if last {
                return Ok(true);
            }
            at = next;
        }
        Ok(true)
    }
}
