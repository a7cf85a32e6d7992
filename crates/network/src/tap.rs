//! A TAP interface of the host as what is behind a port: the host's own network reaches the guests.
//!
//! ```text
//!   Switch ── Port ─▶ Sink ─▶ write to a queue's file        (on the thread of who sends)
//!                  ◀── a thread for each queue ◀── read
//! ```
//!
//! What is left to be done of a frame crosses in both directions as `virtio_net_hdr` says (Virtio 1.2, section 5.1.6), so
//! that neither the host nor the guest makes checksums or cuts.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use doorbell::Doorbell;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use crate::frame::{Checksum, Frame, HEADER, Segments, TcpOver};
use crate::port::{Port, PortSettings, Sent, Sink};
use crate::steering::{KEY, Steering};
use crate::switch::Switch;

pub use tap::Name;

/// Bytes of a `virtio_net_hdr` without the number of buffers.
const VNET: usize = 10;
/// Bytes of a frame at the most: a packet of IP, with a VLAN tag before it.
const LONGEST: usize = HEADER + 4 + 0xffff;
/// Frames that are read before the thread looks whether it is to stop.
const BATCH: usize = 64;

/// How long it is left alone when more wait for the guest than it takes.
const MOMENT: Duration = Duration::from_millis(1);

const NEEDS_CHECKSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const WHOLE: u8 = 0;
const CUT_TCP4: u8 = 1;
const CUT_TCP6: u8 = 4;
const CUT_ECN: u8 = 0x80;

/// The `virtio_net_hdr` of a frame.
fn header_of(frame: &Frame) -> [u8; VNET] {
    let mut header = [0; VNET];
    let mut put = |at: usize, value: u16| {
        if let Some(slot) = header.get_mut(at..at + 2) {
            slot.copy_from_slice(&value.to_le_bytes());
        }
    };
    let mut cut = WHOLE;
    if let Some(segments) = frame.segments {
        cut = match segments.tcp {
            TcpOver::V4 => CUT_TCP4,
            TcpOver::V6 => CUT_TCP6,
        };
        put(2, segments.header);
        put(4, segments.size);
    }
    if let Some(checksum) = frame.checksum {
        put(6, checksum.start);
        put(8, checksum.offset);
    }
    let [flags, kind, ..] = &mut header;
    (*flags, *kind) = (if frame.checksum.is_some() { NEEDS_CHECKSUM } else { 0 }, cut);
    header
}

/// The frame that comes with a `virtio_net_hdr`. `None` if it says what there is no word for here.
fn frame_of(header: &[u8; VNET], data: &[u8]) -> Option<Frame> {
    let half = |at: usize| Some(u16::from_le_bytes(*header.get(at..)?.first_chunk()?));
    let [flags, kind, ..] = *header;
    let needed = flags & NEEDS_CHECKSUM != 0;
    let start = half(6)?;
    let checksum = if needed { Some(Checksum { start, offset: half(8)? }) } else { None };
    let segments = match kind & !CUT_ECN {
        WHOLE => None,
        kind @ (CUT_TCP4 | CUT_TCP6) if needed => {
            // How long the headers are said to be is a hint alone.
            let words = data.get(usize::from(start) + 12)? >> 4;
            let tcp = if kind == CUT_TCP4 { TcpOver::V4 } else { TcpOver::V6 };
            let header = start.checked_add(4 * u16::from(words))?;
            Some(Segments { tcp, size: half(4)?, header })
        }
        _ => return None,
    };
    let verified = needed || flags & DATA_VALID != 0;
    Some(Frame { data: data.to_vec(), checksum, segments, verified })
}

struct Queues {
    files: Vec<OwnedFd>,
    /// Which of them a frame is written to.
    steering: Steering,
    name: Name,
    /// It has been said that the interface is gone.
    told: AtomicBool,
}

impl Queues {
    fn tell(&self, error: &io::Error) {
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::error!(interface = %self.name, %error, "the host's interface takes and gives no frames");
        }
    }

    fn write(&self, frame: &Frame) -> bool {
        let Some(file) = self.files.get(self.steering.queue(frame)).or(self.files.first()) else {
            return false;
        };
        let header = header_of(frame);
        match rustix::io::writev(file, &[IoSlice::new(&header), IoSlice::new(&frame.data)]) {
            Ok(_) => true,
            // It is full, or the user has set it down.
            Err(Errno::AGAIN | Errno::IO | Errno::INVAL) => false,
            Err(error) => {
                self.tell(&error.into());
                false
            }
        }
    }
}

struct Out(Arc<Queues>);

impl Sink for Out {
    fn take(&self, frame: Frame) -> Sent {
        // What is cut by the host has to say how long it is until then.
        let frame = if frame.segments.is_some() { frame.coalesce() } else { Some(frame) };
        if frame.is_some_and(|frame| self.0.write(&frame)) { Sent::Gone } else { Sent::Dropped }
    }
}

/// A TAP interface at a port. Dropping it lets the interface go.
pub struct Tap {
    stop: Arc<Doorbell>,
    threads: Vec<JoinHandle<()>>,
}

impl Tap {
    /// Begins to carry frames between an interface of the host and a new port of `switch`, by so many queues if the
    /// interface has been made for several.
    ///
    /// # Errors
    /// When there is no such interface, it is in use, this process may not use it, or the host gives no thread.
    pub fn start(switch: &Switch, settings: PortSettings, name: &Name, queues: usize) -> io::Result<Self> {
        let files = tap::open_queues(name, queues)?;
        let table = (0..files.len().next_power_of_two()).map(|index| (index % files.len()) as u8).collect();
        // Who might want to guess the queue of a connection gains nothing by it.
        let steering =
            Steering { key: std::array::from_fn::<u8, KEY, _>(|index| (index * 37 + 11) as u8), table };
        let count = files.len();
        let queues = Queues { files, steering, name: name.clone(), told: AtomicBool::new(false) };
        let queues = Arc::new(queues);
        let port = Arc::new(switch.sink(settings, Box::new(Out(Arc::clone(&queues))))?);
        let mut this = Self { stop: Arc::new(Doorbell::new()?), threads: Vec::new() };
        for index in 0..count {
            let (queues, port, stop) = (Arc::clone(&queues), Arc::clone(&port), Arc::clone(&this.stop));
            let thread = std::thread::Builder::new().name(format!("{name}-{index}")).spawn(move || {
                if let Some(file) = queues.files.get(index)
                    && let Err(error) = carry(file, &port, &stop)
                {
                    queues.tell(&error);
                }
            })?;
            this.threads.push(thread);
        }
        Ok(this)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stop.ring();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of an interface has panicked");
            }
        }
    }
}

/// Carries frames from a queue to a port until it is to stop.
fn carry(file: &OwnedFd, port: &Port, stop: &Doorbell) -> io::Result<()> {
    let mut buffer = vec![0; VNET + LONGEST];
    let mut crowded = false;
    loop {
        // What the host's interface holds keeps the host's programs from sending more.
        let (wanted, patience) =
            if crowded { (PollFlags::empty(), Some(MOMENT)) } else { (PollFlags::IN, None) };
        let mut fds = [PollFd::new(file, wanted), PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN)];
        doorbell::wait(&mut fds, patience)?;
        // The doorbell is not answered: it is for all threads.
        if !fds[1].revents().is_empty() {
            return Ok(());
        }
        crowded = false;
        for _ in 0..BATCH {
            let length = match rustix::io::read(file, &mut buffer) {
                Ok(length) => length,
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(error) => return Err(error.into()),
            };
            let frame = buffer.get(..length).and_then(|bytes| {
                let (header, data) = bytes.split_first_chunk::<VNET>()?;
                frame_of(header, data)
            });
            match frame {
                Some(frame) => crowded = port.send(frame) == Sent::Crowded,
                None => port.dropped().count(),
            }
            if crowded {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_to_be_done_crosses_as_it_is() {
        let mut data = vec![0; 200];
        data[34 + 12] = 0x80;
        let whole = Frame::new(data.clone());
        let checksum = Some(Checksum { start: 34, offset: 16 });
        let unsummed = Frame { checksum, verified: true, ..whole.clone() };
        let segments = |tcp| Some(Segments { tcp, size: 1448, header: 66 });
        for frame in [
            whole,
            Frame { segments: segments(TcpOver::V4), ..unsummed.clone() },
            Frame { segments: segments(TcpOver::V6), ..unsummed.clone() },
            unsummed,
        ] {
            assert_eq!(frame_of(&header_of(&frame), &frame.data), Some(frame));
        }
        assert_eq!(header_of(&Frame { checksum, ..Frame::new(data) }), [1, 0, 0, 0, 0, 0, 34, 0, 16, 0]);
    }

    #[test]
    fn headers_that_say_something_else_bring_no_frame() {
        let data = [0; 60];
        assert!(frame_of(&[DATA_VALID, 0, 0, 0, 0, 0, 0, 0, 0, 0], &data).unwrap().verified);
        // UDP's cuts; a cut without a checksum, or beyond the end.
        for header in [
            [NEEDS_CHECKSUM, 3, 0, 0, 8, 0, 34, 0, 6, 0],
            [0, CUT_TCP4, 0, 0, 8, 0, 34, 0, 16, 0],
            [NEEDS_CHECKSUM, CUT_TCP4, 0, 0, 8, 0, 60, 0, 16, 0],
        ] {
            assert_eq!(frame_of(&header, &data), None);
        }
    }
}
