//! The switch.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use counters::Counter;
use doorbell::Doorbell;

use crate::frame::{Frame, Mac};

/// Frames and bytes that wait at a port at the most.
const WAITING_FRAMES: usize = 4096;
const WAITING_BYTES: usize = 16 << 20;
/// Addresses that a switch knows at the most; one that is full forgets all.
const ADDRESSES: usize = 4096;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a port is made of.
#[derive(Debug, Clone, Default)]
pub struct PortSettings {
    /// Only frames from this address get in.
    pub only: Option<Mac>,
    /// Counts frames that there was no room or no permission for.
    pub dropped: Counter,
}

#[derive(Default)]
struct Inbox {
    frames: VecDeque<Frame>,
    bytes: usize,
}

/// A port's side of the switch.
struct Socket {
    number: u64,
    settings: PortSettings,
    inbox: Mutex<Inbox>,
    bell: Doorbell,
    link: AtomicBool,
}

impl Socket {
    fn deliver(&self, frame: Frame) {
        if !self.link.load(Ordering::Relaxed) {
            return self.settings.dropped.count();
        }
        let mut inbox = lock(&self.inbox);
        if inbox.frames.len() >= WAITING_FRAMES || inbox.bytes + frame.data.len() > WAITING_BYTES {
            return self.settings.dropped.count();
        }
        let was_empty = inbox.frames.is_empty();
        inbox.bytes += frame.data.len();
        inbox.frames.push_back(frame);
        drop(inbox);
        if was_empty {
            self.bell.ring();
        }
    }
}

#[derive(Default)]
struct Sockets {
    list: Vec<Arc<Socket>>,
    next: u64,
}

/// A switch. Clones are the same one.
#[derive(Clone, Default)]
pub struct Switch {
    sockets: Arc<RwLock<Sockets>>,
    /// Numbers of the ports at which addresses have been seen.
    seen: Arc<Mutex<HashMap<Mac, u64>>>,
}

impl Switch {
    /// A switch without ports.
    pub fn new() -> Self {
        Self::default()
    }

    /// A new port, whose link is up. It goes when it is dropped.
    ///
    /// # Errors
    /// When the host gives no eventfd.
    pub fn port(&self, settings: PortSettings) -> io::Result<Port> {
        let bell = Doorbell::new()?;
        let mut sockets = self.sockets.write().unwrap_or_else(PoisonError::into_inner);
        sockets.next += 1;
        let number = sockets.next;
        let (inbox, link) = (Mutex::default(), AtomicBool::new(true));
        let socket = Arc::new(Socket { number, settings, inbox, bell, link });
        sockets.list.push(Arc::clone(&socket));
        Ok(Port { switch: self.clone(), socket })
    }

    fn remove(&self, number: u64) {
        let mut sockets = self.sockets.write().unwrap_or_else(PoisonError::into_inner);
        sockets.list.retain(|socket| socket.number != number);
        lock(&self.seen).retain(|_, at| *at != number);
    }

    fn carry(&self, from: &Socket, frame: Frame) {
        let (Some(source), Some(destination)) = (frame.source(), frame.destination()) else {
            return from.settings.dropped.count();
        };
        if source.is_group() || from.settings.only.is_some_and(|only| only != source) {
            return from.settings.dropped.count();
        }
        let to = {
            let mut seen = lock(&self.seen);
            if seen.get(&source) != Some(&from.number) {
                if seen.len() >= ADDRESSES {
                    seen.clear();
                }
                seen.insert(source, from.number);
            }
            if destination.is_group() { None } else { seen.get(&destination).copied() }
        };
        let sockets = self.sockets.read().unwrap_or_else(PoisonError::into_inner);
        let others = || sockets.list.iter().filter(|socket| socket.number != from.number);
        match to {
            Some(number) if number == from.number => {}
            Some(number) => {
                if let Some(socket) = others().find(|socket| socket.number == number) {
                    socket.deliver(frame);
                }
            }
            None => {
                let mut others = others().peekable();
                while let Some(socket) = others.next() {
                    if others.peek().is_none() {
                        return socket.deliver(frame);
                    }
                    socket.deliver(frame.clone());
                }
            }
        }
    }
}

/// A NIC's connection to a switch.
pub struct Port {
    switch: Switch,
    socket: Arc<Socket>,
}

impl Port {
    /// Rings when there are frames to receive after there were none, and when the link has changed.
    pub fn doorbell(&self) -> &Doorbell {
        &self.socket.bell
    }

    /// Sends a frame.
    pub fn send(&self, frame: Frame) {
        if self.link() {
            self.switch.carry(&self.socket, frame);
        } else {
            self.socket.settings.dropped.count();
        }
    }

    /// Takes the next frame that has come.
    pub fn receive(&self) -> Option<Frame> {
        let mut inbox = lock(&self.socket.inbox);
        let frame = inbox.frames.pop_front()?;
        inbox.bytes -= frame.data.len();
        Some(frame)
    }

    /// Whether the port is connected.
    pub fn link(&self) -> bool {
        self.socket.link.load(Ordering::Relaxed)
    }

    /// Connects the port, or pulls its plug: frames are dropped in both directions then.
    pub fn set_link(&self, up: bool) {
        if self.socket.link.swap(up, Ordering::Relaxed) != up {
            self.socket.bell.ring();
        }
    }

    /// Counts frames that were dropped.
    pub fn dropped(&self) -> &Counter {
        &self.socket.settings.dropped
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.switch.remove(self.socket.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(to: u8, from: u8) -> Frame {
        let mut data = vec![0; 60];
        data[5] = to;
        data[11] = from;
        Frame::new(data)
    }

    fn ports<const N: usize>() -> [Port; N] {
        let switch = Switch::new();
        std::array::from_fn(|_| switch.port(PortSettings::default()).unwrap())
    }

    #[test]
    fn frames_go_everywhere_until_the_destination_has_been_seen() {
        let [a, b, c] = ports();
        a.send(frame(2, 1));
        assert!(b.doorbell().answer() && c.doorbell().answer() && !a.doorbell().answer());
        assert_eq!((b.receive(), c.receive(), a.receive()), (Some(frame(2, 1)), Some(frame(2, 1)), None));
        b.send(frame(1, 2));
        a.send(frame(2, 1));
        assert_eq!((a.receive(), b.receive(), c.receive()), (Some(frame(1, 2)), Some(frame(2, 1)), None));
    }

    #[test]
    fn a_port_with_an_address_sends_from_no_other() {
        let switch = Switch::new();
        let only = Some(Mac([0, 0, 0, 0, 0, 1]));
        let a = switch.port(PortSettings { only, ..PortSettings::default() }).unwrap();
        let b = switch.port(PortSettings::default()).unwrap();
        a.send(frame(2, 3));
        a.send(Frame::new(vec![0; 5]));
        assert_eq!(b.receive(), None);
        assert_eq!(a.dropped().value(), 2);
        a.send(frame(2, 1));
        assert_eq!(b.receive(), Some(frame(2, 1)));
    }

    #[test]
    fn a_port_without_a_link_has_no_traffic() {
        let [a, b] = ports();
        b.set_link(false);
        assert!(b.doorbell().answer());
        a.send(frame(2, 1));
        b.send(frame(1, 2));
        assert_eq!((a.receive(), b.receive()), (None, None));
        b.set_link(true);
        a.send(frame(2, 1));
        assert_eq!(b.receive(), Some(frame(2, 1)));
    }

    #[test]
    fn what_nobody_takes_is_dropped() {
        let [a, b] = ports();
        for _ in 0..2 * WAITING_FRAMES {
            a.send(frame(2, 1));
        }
        assert_eq!(b.dropped().value(), WAITING_FRAMES as u64);
        drop(b);
        a.send(frame(2, 1));
    }
}
