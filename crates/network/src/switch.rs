//! The switch.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use crate::frame::{Frame, Mac};
use crate::port::{Port, PortSettings, Sent, Sink, Socket};

/// Addresses that a switch knows at the most; one that is full forgets all.
const ADDRESSES: usize = 4096;

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
    seen: Arc<RwLock<HashMap<Mac, u64>>>,
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
        self.add(settings, None)
    }

    /// The same, at which nothing waits: `sink` takes what comes.
    ///
    /// # Errors
    /// When the host gives no eventfd.
    pub fn sink(&self, settings: PortSettings, sink: Box<dyn Sink>) -> io::Result<Port> {
        self.add(settings, Some(sink))
    }

    fn add(&self, settings: PortSettings, sink: Option<Box<dyn Sink>>) -> io::Result<Port> {
        let mut sockets = self.sockets.write().unwrap_or_else(PoisonError::into_inner);
        sockets.next += 1;
        let socket = Arc::new(Socket::new(sockets.next, settings, sink)?);
        sockets.list.push(Arc::clone(&socket));
        Ok(Port::new(self.clone(), socket))
    }

    pub(crate) fn remove(&self, number: u64) {
        let mut sockets = self.sockets.write().unwrap_or_else(PoisonError::into_inner);
        sockets.list.retain(|socket| socket.number != number);
        self.seen.write().unwrap_or_else(PoisonError::into_inner).retain(|_, at| *at != number);
    }

    /// `address` has been seen at port `number`.
    fn learn(&self, address: Mac, number: u64) {
        if self.seen.read().unwrap_or_else(PoisonError::into_inner).get(&address) == Some(&number) {
            return;
        }
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= ADDRESSES {
            seen.clear();
        }
        seen.insert(address, number);
    }

    /// Takes a frame from a port to where it goes.
    pub(crate) fn carry(&self, from: &Socket, frame: Frame) -> Sent {
        let (Some(source), Some(destination)) = (frame.source(), frame.destination()) else {
            return from.drop_frame();
        };
        if !from.admit(source, &frame) {
            return from.drop_frame();
        }
        self.learn(source, from.number);
        let to = if destination.is_group() {
            None
        } else {
            self.seen.read().unwrap_or_else(PoisonError::into_inner).get(&destination).copied()
        };
        let sockets = self.sockets.read().unwrap_or_else(PoisonError::into_inner);
        let others = || sockets.list.iter().filter(|socket| socket.number != from.number);
        match to {
            Some(number) => {
                let to = others().find(|socket| socket.number == number);
                to.map_or(Sent::Gone, |socket| socket.deliver(frame))
            }
            None => {
                let mut others = others().peekable();
                while let Some(socket) = others.next() {
                    if others.peek().is_none() {
                        return socket.deliver(frame);
                    }
                    socket.deliver(frame.clone());
                }
                Sent::Gone
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use counters::Counter;

    use crate::limit::RateLimit;
    use crate::port::WAITING_FRAMES;
    use crate::steering::Steering;

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
        let arp = |sender: u8| {
            let mut arp = frame(2, 1);
            arp.data[12..14].copy_from_slice(&[0x08, 0x06]);
            arp.data[27] = sender;
            arp
        };
        a.send(arp(3));
        assert_eq!((b.receive(), a.dropped().value()), (None, 3));
        a.send(arp(1));
        a.send(frame(2, 1));
        assert_eq!((b.receive(), b.receive()), (Some(arp(1)), Some(frame(2, 1))));
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
    fn a_sink_takes_what_would_wait() {
        struct Count(Counter);
        impl Sink for Count {
            fn take(&self, frame: Frame) -> Sent {
                self.0.count();
                if frame.data.len() < 61 { Sent::Gone } else { Sent::Dropped }
            }
        }
        let (switch, count) = (Switch::new(), Counter::default());
        let sink = switch.sink(PortSettings::default(), Box::new(Count(count.clone()))).unwrap();
        let port = switch.port(PortSettings::default()).unwrap();
        port.send(frame(2, 1));
        let mut long = frame(2, 1);
        long.data.push(0);
        port.send(long);
        assert_eq!((count.value(), sink.dropped().value(), sink.receive()), (2, 1, None));
        sink.send(frame(1, 2));
        assert_eq!(port.receive(), Some(frame(1, 2)));
    }

    #[test]
    fn frames_wait_where_the_steering_says() {
        let switch = Switch::new();
        let a = switch.port(PortSettings::default()).unwrap();
        let b = switch.port(PortSettings { queues: 2, ..PortSettings::default() }).unwrap();
        let second = b.queue(1).unwrap();
        assert!(b.queue(2).is_none());
        a.send(frame(2, 1));
        assert_eq!((b.receive(), second.receive()), (Some(frame(2, 1)), None));
        // What is no IP goes to the first entry.
        b.steer(Some(Steering { key: [0; 40], table: vec![1] }));
        a.send(frame(2, 1));
        assert!(second.doorbell().answer());
        assert_eq!((b.receive(), second.receive()), (None, Some(frame(2, 1))));
        b.steer(Some(Steering { key: [0; 40], table: vec![9] }));
        a.send(frame(2, 1));
        assert_eq!(b.receive(), Some(frame(2, 1)));
    }

    #[test]
    fn what_a_port_lets_through_is_limited_both_ways() {
        let switch = Switch::new();
        let limit = RateLimit { bits: None, frames: Some(1), burst: Duration::ZERO };
        let a = switch.port(PortSettings { limit: Some(limit), ..PortSettings::default() }).unwrap();
        let b = switch.port(PortSettings::default()).unwrap();
        assert_eq!((a.pause(), a.send(frame(2, 1))), (None, Sent::Gone));
        assert!(a.pause().is_some());
        assert_eq!((a.send(frame(2, 1)), a.dropped().value()), (Sent::Dropped, 1));
        let queue = a.queue(0).unwrap();
        assert_eq!((b.send(frame(1, 2)), b.send(frame(1, 2)), queue.pause()), (Sent::Gone, Sent::Gone, None));
        assert_eq!((a.receive(), a.receive()), (Some(frame(1, 2)), None));
        assert!(queue.pause().is_some());
    }

    #[test]
    fn who_sends_more_than_is_taken_is_told() {
        let [a, b] = ports();
        let crowd = WAITING_FRAMES / 4;
        let sent: Vec<_> = (0..crowd + 2).map(|_| a.send(frame(2, 1))).collect();
        // Nobody has taken anything.
        assert!(sent.iter().all(|&sent| sent == Sent::Gone));
        b.receive();
        assert_eq!((a.send(frame(2, 1)), a.send(Frame::default())), (Sent::Crowded, Sent::Dropped));
        while b.receive().is_some() {}
        assert_eq!(a.send(frame(2, 1)), Sent::Gone);
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
