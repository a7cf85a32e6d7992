//! The host's side of the NAT: its sockets, behind traits, so that tests and fuzz targets need none.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::resolver::Resolver;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// A connection of TCP.
    Tcp(u64),
    /// A flow of UDP.
    Udp(u64),
    /// A flow of ICMP echoes.
    Echo(u64),
    /// What listens for a forwarded port of TCP.
    Listener(u64),
    /// What is bound to a forwarded port of UDP.
    Forward(u64),
    /// The port of the switch.
    Port,
    /// The end.
    Stop,
}

const KIND: u32 = 56;

impl Key {
    fn encode(self) -> u64 {
        let (kind, number) = match self {
            Self::Tcp(number) => (0, number),
            Self::Udp(number) => (1, number),
            Self::Echo(number) => (2, number),
            Self::Listener(number) => (3, number),
            Self::Forward(number) => (4, number),
            Self::Port => (5, 0),
            Self::Stop => (6, 0),
        };
        kind << KIND | number
    }

    fn decode(code: u64) -> Self {
        let number = code & ((1 << KIND) - 1);
        match code >> KIND {
            0 => Self::Tcp(number),
            1 => Self::Udp(number),
            2 => Self::Echo(number),
            3 => Self::Listener(number),
            4 => Self::Forward(number),
            5 => Self::Port,
            _ => Self::Stop,
        }
    }
}

/// Something that can be done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event {
    pub key: Key,
    /// Reading gives data, an end or an error.
    pub readable: bool,
    /// Writing, or what became of a connection can be asked.
    pub writable: bool,
}

/// A connection of TCP. Nothing blocks.
pub(super) trait Stream {
    /// Whether it has come to be, asked once it is said to be writable.
    fn connected(&self) -> io::Result<()>;
    fn read(&mut self, data: &mut [u8]) -> io::Result<usize>;
    fn write(&mut self, data: &[u8]) -> io::Result<usize>;
    /// Says that nothing more is written.
    fn finish(&self) -> io::Result<()>;
    /// Closes it with a reset.
    fn reset(self);
}

/// Who sends and receives messages. Nothing blocks.
pub(super) trait Datagrams {
    /// To whom it is connected.
    fn send(&self, data: &[u8]) -> io::Result<usize>;
    fn receive(&self, data: &mut [u8]) -> io::Result<usize>;
    fn send_to(&self, data: &[u8], to: SocketAddr) -> io::Result<usize>;
    fn receive_from(&self, data: &mut [u8]) -> io::Result<(usize, SocketAddr)>;
}

/// The host.
pub(super) trait Host {
    type Stream: Stream;
    type Listener;
    type Datagrams: Datagrams;

    /// Begins a connection. Its events come when they change.
    fn connect(&mut self, to: SocketAddr, key: Key) -> io::Result<Self::Stream>;
    /// Listens. Its events come when more connections do.
    fn listen(&mut self, at: SocketAddr, key: Key) -> io::Result<Self::Listener>;
    /// Takes a connection from `listener`.
    fn accept(&mut self, listener: &Self::Listener, key: Key) -> io::Result<Self::Stream>;
    /// Datagrams of UDP to and from one peer. Their events come for as long as they are true.
    fn datagrams(&mut self, to: SocketAddr, key: Key) -> io::Result<Self::Datagrams>;
    /// Datagrams of UDP at an address of the host.
    fn bind(&mut self, at: SocketAddr, key: Key) -> io::Result<Self::Datagrams>;
    /// Echo requests and replies of ICMP to and from one peer.
    fn echo(&mut self, to: IpAddr, key: Key) -> io::Result<Self::Datagrams>;
    /// The host's own name server: of several, the one that is asked now.
    fn resolver(&mut self) -> Option<SocketAddr>;
    /// That one does not answer: another is to be asked, if there is one.
    fn next_resolver(&mut self);
}

impl Stream for TcpStream {
    fn connected(&self) -> io::Result<()> {
        match self.take_error()? {
            Some(error) => Err(error),
            None => self.peer_addr().map(drop),
        }
    }

    fn read(&mut self, data: &mut [u8]) -> io::Result<usize> {
        Read::read(self, data)
    }

    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        Write::write(self, data)
    }

    fn finish(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn reset(self) {
        if let Err(error) = sockopt::set_socket_linger(&self, Some(Duration::ZERO)) {
            tracing::debug!(%error, "connection is closed without a reset");
        }
    }
}

impl Datagrams for UdpSocket {
    fn send(&self, data: &[u8]) -> io::Result<usize> {
        self.send(data)
    }

    fn receive(&self, data: &mut [u8]) -> io::Result<usize> {
        self.recv(data)
    }

    fn send_to(&self, data: &[u8], to: SocketAddr) -> io::Result<usize> {
        self.send_to(data, to)
    }

    fn receive_from(&self, data: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.recv_from(data)
    }
}

/// The host's sockets and what waits for them.
pub(super) struct Sockets {
    epoll: OwnedFd,
    resolver: Resolver,
}

/// Events that are taken at a time.
const EVENTS: usize = 256;

impl Sockets {
    /// Sockets of the host; none yet. The process may have as many descriptors from now on as it is allowed to allow
    /// itself: each connection of a guest is one.
    pub fn new() -> io::Result<Self> {
        let limit = getrlimit(Resource::Nofile);
        if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
            tracing::debug!(%error, "the limit of open files stays as it is");
        }
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, resolver: Resolver::default() })
    }

    /// Waits for `what` for as long as it is open.
    pub fn watch(&self, what: BorrowedFd<'_>, key: Key, flags: epoll::EventFlags) -> io::Result<()> {
        let data = epoll::EventData::new_u64(key.encode());
        Ok(epoll::add(&self.epoll, what, data, flags)?)
    }

    /// Waits for events, `timeout` at the most.
    pub fn wait(&self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let timeout = timeout.map(doorbell::timespec);
        let mut found = Vec::with_capacity(EVENTS);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut found), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let broken = epoll::EventFlags::ERR | epoll::EventFlags::HUP;
        events.extend(found.iter().map(|event| {
            let (flags, data) = (event.flags, event.data);
            Event {
                key: Key::decode(data.u64()),
                readable: flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP | broken),
                writable: flags.intersects(epoll::EventFlags::OUT | broken),
            }
        }));
        Ok(())
    }

    fn watch_stream(&self, stream: &TcpStream, key: Key) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let both = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP;
        self.watch(stream.as_fd(), key, both | epoll::EventFlags::ET)
    }

    fn watch_datagrams(&self, socket: UdpSocket, key: Key) -> io::Result<UdpSocket> {
        socket.set_nonblocking(true)?;
        self.watch(socket.as_fd(), key, epoll::EventFlags::IN)?;
        Ok(socket)
    }
}

fn family(of: IpAddr) -> AddressFamily {
    if of.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

fn socket(
    family: AddressFamily,
    kind: SocketType,
    protocol: Option<rustix::net::Protocol>,
) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(family, kind, flags, protocol)?)
}

impl Host for Sockets {
    type Stream = TcpStream;
    type Listener = TcpListener;
    type Datagrams = UdpSocket;

    fn connect(&mut self, to: SocketAddr, key: Key) -> io::Result<TcpStream> {
        let stream = socket(family(to.ip()), SocketType::STREAM, None)?;
        match rustix::net::connect(&stream, &to) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let stream = TcpStream::from(stream);
        self.watch_stream(&stream, key)?;
        Ok(stream)
    }

    fn listen(&mut self, at: SocketAddr, key: Key) -> io::Result<TcpListener> {
        let listener = TcpListener::bind(at)?;
        listener.set_nonblocking(true)?;
        self.watch(listener.as_fd(), key, epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        Ok(listener)
    }

    fn accept(&mut self, listener: &TcpListener, key: Key) -> io::Result<TcpStream> {
        let (stream, _) = listener.accept()?;
        stream.set_nonblocking(true)?;
        self.watch_stream(&stream, key)?;
        Ok(stream)
    }

    fn datagrams(&mut self, to: SocketAddr, key: Key) -> io::Result<UdpSocket> {
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(to)?;
        self.watch_datagrams(socket, key)
    }

    fn bind(&mut self, at: SocketAddr, key: Key) -> io::Result<UdpSocket> {
        self.watch_datagrams(UdpSocket::bind(at)?, key)
    }

    fn echo(&mut self, to: IpAddr, key: Key) -> io::Result<UdpSocket> {
        let protocol = if to.is_ipv4() { ipproto::ICMP } else { ipproto::ICMPV6 };
        let socket = socket(family(to), SocketType::DGRAM, Some(protocol))?;
        rustix::net::connect(&socket, &SocketAddr::from((to, 0)))?;
        self.watch_datagrams(UdpSocket::from(socket), key)
    }

    fn resolver(&mut self) -> Option<SocketAddr> {
        self.resolver.address()
    }

    fn next_resolver(&mut self) {
        self.resolver.next();
    }
}

/// Whether an error says that there is nothing to do now.
pub(super) fn is_idle(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Whether an error is the host's own want of something, which says nothing of the peer.
pub(super) fn is_want(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(
        errno,
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::NOSPC | Errno::ADDRNOTAVAIL)
    )
}

/// Whether an error says that there is no way to the peer.
pub(super) fn is_unreachable(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable)
        || matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::ACCESS | Errno::PERM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_they_were() {
        for key in [
            Key::Tcp(0),
            Key::Udp(7),
            Key::Echo((1 << KIND) - 1),
            Key::Listener(1),
            Key::Forward(2),
            Key::Port,
            Key::Stop,
        ] {
            assert_eq!(Key::decode(key.encode()), key);
        }
    }
}
