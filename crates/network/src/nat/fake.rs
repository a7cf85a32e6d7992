//! A host without sockets: peers that refuse, or send back whatever they get.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::host::{Datagrams, Host, Key, Stream};

/// What a peer has not read of its own echo at the most.
const ROOM: usize = 32 << 10;

/// Counts itself for as long as it is there.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The host.
#[derive(Default)]
pub(super) struct FakeHost {
    /// What is open.
    pub open: Arc<AtomicUsize>,
    /// The keys of what has been opened.
    pub keys: Vec<Key>,
    /// How often another name server was asked for.
    pub next_resolver: usize,
}

/// A peer by its port: the remainder by four says what it does.
fn peer(to: SocketAddr) -> io::Result<bool> {
    match to.port() % 4 {
        0 => Ok(true),
        1 => Ok(false),
        2 => Err(ErrorKind::ConnectionRefused.into()),
        _ => Err(ErrorKind::NetworkUnreachable.into()),
    }
}

/// A connection whose peer sends back what it gets, or refuses it later.
pub(super) struct FakeStream {
    echo: VecDeque<u8>,
    accepts: bool,
    ended: std::cell::Cell<bool>,
    _open: Counted,
}

impl Stream for FakeStream {
    fn connected(&self) -> io::Result<()> {
        if self.accepts { Ok(()) } else { Err(ErrorKind::ConnectionRefused.into()) }
    }

    fn read(&mut self, data: &mut [u8]) -> io::Result<usize> {
        if self.echo.is_empty() && !self.ended.get() {
            return Err(ErrorKind::WouldBlock.into());
        }
        io::Read::read(&mut self.echo, data)
    }

    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let taken = data.len().min(ROOM - self.echo.len());
        if taken == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.echo.extend(&data[..taken]);
        Ok(taken)
    }

    fn finish(&self) -> io::Result<()> {
        self.ended.set(true);
        Ok(())
    }

    fn reset(self) {}
}

/// A socket whose peer sends back what it gets.
pub(super) struct FakeDatagrams {
    echo: RefCell<VecDeque<(Vec<u8>, SocketAddr)>>,
    to: SocketAddr,
    _open: Counted,
}

impl Datagrams for FakeDatagrams {
    fn send(&self, data: &[u8]) -> io::Result<usize> {
        self.send_to(data, self.to)
    }

    fn receive(&self, data: &mut [u8]) -> io::Result<usize> {
        self.receive_from(data).map(|(len, _)| len)
    }

    fn send_to(&self, data: &[u8], to: SocketAddr) -> io::Result<usize> {
        let mut echo = self.echo.borrow_mut();
        if echo.len() == 16 {
            return Err(ErrorKind::WouldBlock.into());
        }
        echo.push_back((data.to_vec(), to));
        Ok(data.len())
    }

    fn receive_from(&self, data: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (message, from) = self.echo.borrow_mut().pop_front().ok_or(ErrorKind::WouldBlock)?;
        let len = message.len().min(data.len());
        data[..len].copy_from_slice(&message[..len]);
        Ok((len, from))
    }
}

impl FakeHost {
    fn stream(&mut self, accepts: bool, key: Key) -> FakeStream {
        self.keys.push(key);
        let ended = std::cell::Cell::new(false);
        FakeStream { echo: VecDeque::new(), accepts, ended, _open: Counted::new(&self.open) }
    }

    fn socket(&mut self, to: SocketAddr, key: Key) -> FakeDatagrams {
        self.keys.push(key);
        FakeDatagrams { echo: RefCell::default(), to, _open: Counted::new(&self.open) }
    }
}

impl Host for FakeHost {
    type Stream = FakeStream;
    /// Whose connections are as many as it says.
    type Listener = std::cell::Cell<usize>;
    type Datagrams = FakeDatagrams;

    fn connect(&mut self, to: SocketAddr, key: Key) -> io::Result<FakeStream> {
        let accepts = peer(to)?;
        Ok(self.stream(accepts, key))
    }

    fn listen(&mut self, at: SocketAddr, key: Key) -> io::Result<Self::Listener> {
        self.keys.push(key);
        Ok(std::cell::Cell::new(at.port().into()))
    }

    fn accept(&mut self, listener: &Self::Listener, key: Key) -> io::Result<FakeStream> {
        listener.set(listener.get().checked_sub(1).ok_or(ErrorKind::WouldBlock)?);
        Ok(self.stream(true, key))
    }

    fn datagrams(&mut self, to: SocketAddr, key: Key) -> io::Result<FakeDatagrams> {
        peer(to)?;
        Ok(self.socket(to, key))
    }

    fn bind(&mut self, at: SocketAddr, key: Key) -> io::Result<FakeDatagrams> {
        Ok(self.socket(at, key))
    }

    fn echo(&mut self, to: IpAddr, key: Key) -> io::Result<FakeDatagrams> {
        Ok(self.socket((to, 0).into(), key))
    }

    fn resolver(&mut self) -> Option<SocketAddr> {
        Some(([9, 9, 9, 9], 53 * 4).into())
    }

    fn next_resolver(&mut self) {
        self.next_resolver += 1;
    }
}
