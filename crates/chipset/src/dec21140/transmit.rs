//! The transmit process.

use super::dma::{Descriptor, MasterAbort};
use super::filter::{Filter, SETUP_FRAME};
use super::registers::{OWN, SETUP_TAKEN, Status, TransmitControl, TransmitStatus};
use super::{Dec21140, LONGEST_FRAME, Process, SHORTEST_FRAME};

/// Descriptors that are taken at a time. More are no list but a loop that somebody fills.
const DESCRIPTORS: usize = 4096;
/// Bytes of a check sequence.
const CHECK: usize = 4;

/// Where the process goes from a descriptor.
enum Next {
    Descriptor,
    Stop,
}

impl Dec21140 {
    /// Sends what the list has, if the process has been started.
    pub(super) fn transmit(&mut self) {
        if !self.may_master() || self.transmitter == Process::Stopped {
            return;
        }
        let mut news = self.transmitter == Process::Running;
        self.transmitter = Process::Running;
        for _ in 0..DESCRIPTORS {
            match self.transmit_next() {
                Ok(Some(Next::Descriptor)) => news = true,
                Ok(Some(Next::Stop)) => {
                    self.transmitter = Process::Stopped;
                    return;
                }
                Ok(None) => {
                    self.transmitter = Process::Suspended;
                    // That there is still nothing is none.
                    self.raise(Status::new().with_transmit_unavailable(news));
                    return;
                }
                Err(MasterAbort) => return self.bus_error(),
            }
        }
    }

    /// Takes the next descriptor. None if it is the host's.
    fn transmit_next(&mut self) -> Result<Option<Next>, MasterAbort> {
        let at = self.transmit_list.next;
        let descriptor = self.dma.descriptor(at)?;
        if descriptor.status & OWN == 0 {
            return Ok(None);
        }
        let control = TransmitControl::from_bits(descriptor.control);
        let (status, next) = if control.setup() {
            self.setup(&descriptor, control)?;
            (SETUP_TAKEN, Next::Descriptor)
        } else {
            self.gather(&descriptor, control)?
        };
        self.dma.close(at, status)?;
        let skip = self.bus_mode.skip();
        self.transmit_list.next =
            self.transmit_list.behind(&descriptor, control.end_of_ring(), control.chained(), skip);
        if control.interrupt() && (control.last() || control.setup()) {
            self.raise(Status::new().with_transmit_interrupt(true));
        }
        Ok(Some(next))
    }

    fn setup(&mut self, descriptor: &Descriptor, control: TransmitControl) -> Result<(), MasterAbort> {
        if usize::from(control.size_1()) != SETUP_FRAME {
            self.unhandled.tell("dec21140", "a setup frame of another length", control.size_1().into());
            return Ok(());
        }
        let mut frame = [0; SETUP_FRAME];
        self.dma.read(descriptor.buffers[0], &mut frame)?;
        self.filter = Filter::new(&frame, (control.filter_1(), control.filter_0()));
        Ok(())
    }

    /// Adds the buffers of a descriptor to the frame, and sends it if that is all. What no frame has begun with is
    /// passed by.
    fn gather(
        &mut self,
        descriptor: &Descriptor,
        control: TransmitControl,
    ) -> Result<(u32, Next), MasterAbort> {
        if control.first() {
            self.frame.clear();
            self.begun = Some(control);
        }
        let Some(begun) = self.begun else { return Ok((0, Next::Descriptor)) };
        let second = if control.chained() { 0 } else { control.size_2() };
        for (buffer, size) in descriptor.buffers.into_iter().zip([control.size_1(), second]) {
            let (from, size) = (self.frame.len(), usize::from(size));
            if from + size > LONGEST_FRAME + CHECK {
                return Ok(self.jabber());
            }
            self.frame.resize(from + size, 0);
            self.dma.read(buffer, &mut self.frame[from..])?;
        }
        if !control.last() {
            return Ok((0, Next::Descriptor));
        }
        if begun.no_check_sequence() {
            self.frame.truncate(self.frame.len().saturating_sub(CHECK));
        } else if !begun.no_padding() && self.frame.len() < SHORTEST_FRAME {
            self.frame.resize(SHORTEST_FRAME, 0);
        }
        if self.frame.len() > LONGEST_FRAME {
            return Ok(self.jabber());
        }
        self.begun = None;
        let frame = std::mem::take(&mut self.frame);
        Ok((self.send(frame).into_bits(), Next::Descriptor))
    }

    fn send(&mut self, frame: Vec<u8>) -> TransmitStatus {
        self.counters.requests.count();
        self.counters.bytes_out.add(frame.len() as u64);
        if self.mode.loopback() != 0 {
            self.take(frame, true);
        } else if self.mii.link() {
            self.wire.send(frame);
        } else {
            self.dropped.count();
            // With full duplex nobody listens to the carrier.
            let lost = !self.mode.full_duplex();
            return TransmitStatus::new().with_no_carrier(lost).with_loss_of_carrier(lost).with_error(lost);
        }
        TransmitStatus::new()
    }

    /// A frame that does not end: the timer cuts it off, and stops the process.
    fn jabber(&mut self) -> (u32, Next) {
        self.frame.clear();
        self.begun = None;
        self.dropped.count();
        if self.watchdog.jabber_disable() {
            return (0, Next::Descriptor);
        }
        self.raise(Status::new().with_jabber(true));
        (TransmitStatus::new().with_jabber(true).with_error(true).into_bits(), Next::Stop)
    }
}
