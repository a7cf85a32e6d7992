//! A connection: a device of the bus, and the loop that moves what comes from one side to the other.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};

use counters::DeviceCounters;
use rustix::event::PollFlags;
use vmbus::protocol::{USER_DATA_SIZE, offer_flags};
use vmbus::ring::OutgoingPacket;
use vmbus::{Channel, Device, Guid, Offer, OpenError};

use super::packet::{LONGEST, MOST_TO_GUEST, decode, encode};

/// Where it is said, behind a pipe's mode, that the host has begun.
const FROM_HOST: usize = 4;

/// The device.
pub(super) struct Connection {
    interface: Guid,
    instance: Guid,
    from_host: bool,
    counters: DeviceCounters,
    opened: Sender<Channel>,
}

impl Connection {
    /// A connection, and where its channel comes when the guest has opened it.
    pub(super) fn new(
        interface: Guid,
        instance: Guid,
        from_host: bool,
        counters: DeviceCounters,
    ) -> (Self, Receiver<Channel>) {
        let (opened, receiver) = channel();
        (Self { interface, instance, from_host, counters, opened }, receiver)
    }

    pub(super) fn instance(&self) -> Guid {
        self.instance
    }
}

impl Device for Connection {
    fn offer(&self) -> Offer {
        let mut user_data = [0; USER_DATA_SIZE];
        user_data[FROM_HOST] = u8::from(self.from_host);
        Offer {
            interface: self.interface,
            instance: self.instance,
            flags: offer_flags::SOCKET | offer_flags::NAMED_PIPE_MODE,
            mmio_megabytes: 0,
            user_data,
            counters: self.counters.clone(),
        }
    }

    fn open(&self, channel: Channel) -> Result<(), OpenError> {
        self.opened.send(channel).map_err(|_| "nobody waits for it any more".into())
    }
}

/// A stream in one direction.
#[derive(Default)]
struct Way {
    /// What has come and not gone yet.
    waiting: Vec<u8>,
    /// Nothing more comes.
    ended: bool,
    /// The other side knows.
    told: bool,
}

/// Moves data until both directions have ended, or one side has gone.
pub(super) fn serve(mut channel: Channel, stream: &UnixStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let (mut to_guest, mut to_host) = (Way::default(), Way::default());
    let mut buffer = vec![0; LONGEST].into_boxed_slice();
    while !channel.closing() {
        channel.incoming.mask();
        let mut moved = from_guest(&mut channel, &mut to_host, &mut buffer)?;
        moved |= into_host(stream, &mut to_host)?;
        moved |= from_host(stream, &mut to_guest, &mut buffer)?;
        moved |= into_guest(&mut channel, &mut to_guest)?;
        if to_guest.told && to_host.told {
            break;
        }
        if moved {
            continue;
        }
        // What waits for the host keeps the ring from being read, so more of it need not wake anybody.
        let hold = !to_host.waiting.is_empty();
        if !hold && channel.incoming.unmask().map_err(io::Error::other)? {
            continue;
        }
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::OUT, hold);
        flags.set(PollFlags::IN, to_guest.waiting.is_empty() && !to_guest.ended);
        if flags.is_empty() {
            // A stream that nobody waits for would tell again and again that its other side has gone.
            channel.wait(&[], None)?;
        } else {
            channel.wait_for_file(stream, flags)?;
        }
    }
    Ok(())
}

/// Takes a packet from the guest if what came before has gone. True if there was one.
fn from_guest(channel: &mut Channel, way: &mut Way, buffer: &mut [u8]) -> io::Result<bool> {
    if way.ended || !way.waiting.is_empty() {
        return Ok(false);
    }
    let Some(length) = channel.receive(buffer).map_err(io::Error::other)? else { return Ok(false) };
    let data = buffer.get(..length).and_then(decode);
    let data = data.ok_or_else(|| io::Error::other("the guest sends what is no packet of a stream"))?;
    way.waiting.extend_from_slice(data);
    way.ended = data.is_empty();
    Ok(true)
}

fn into_host(mut stream: &UnixStream, way: &mut Way) -> io::Result<bool> {
    if way.waiting.is_empty() {
        if way.ended && !way.told {
            way.told = true;
            // It may have gone by itself.
            let _ = stream.shutdown(Shutdown::Write);
            return Ok(true);
        }
        return Ok(false);
    }
    match stream.write(&way.waiting) {
        Ok(written) => {
            way.waiting.drain(..written);
            Ok(written > 0)
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
        Err(error) => Err(error),
    }
}

fn from_host(mut stream: &UnixStream, way: &mut Way, buffer: &mut [u8]) -> io::Result<bool> {
    if way.ended || !way.waiting.is_empty() {
        return Ok(false);
    }
    match stream.read(&mut buffer[..MOST_TO_GUEST]) {
        Ok(length) => {
            way.waiting.extend_from_slice(&buffer[..length]);
            way.ended = length == 0;
            Ok(true)
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
        // A program that has gone without having read everything.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {
            way.ended = true;
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

fn into_guest(channel: &mut Channel, way: &mut Way) -> io::Result<bool> {
    let end = way.ended && !way.told;
    if way.waiting.is_empty() && !end {
        return Ok(false);
    }
    let packet = encode(&way.waiting);
    if !channel.send(&OutgoingPacket::in_band(0, &packet)).map_err(io::Error::other)? {
        return Ok(false);
    }
    way.told = way.waiting.is_empty();
    way.waiting.clear();
    Ok(true)
}
