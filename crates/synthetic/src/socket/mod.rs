//! Hyper-V sockets: streams between programs of the host, by Unix sockets, and programs of the guest, by AF_VSOCK.
//!
//! ```text
//!   host program ── connects to F, writes "CONNECT 1234\n" ──▶ listener ── offer ──▶ hv_sock ── listens on port 1234
//!                ◀─ "OK 5678\n", then the stream
//!   host program listens on F_1234 ◀── connection ◀── request ── hv_sock ── connects to (VMADDR_CID_HOST, 1234)
//! ```
//!
//! Each connection is a device of the bus with one channel: packets with a header and some of the stream, an empty one at
//! its end. The guest's port and the host's are in the first field of the device's interface and instance. One thread a
//! connection, and at most [`MOST`] of them.
//!
//! Specification: none is public. Linux `net/vmw_vsock/hyperv_transport.c`. The names on the host's side are those that
//! Firecracker's users know.
//!
//! Not done: services of the host with another GUID than one made of a port.

mod connection;
mod packet;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use counters::DeviceCounters;
use vmbus::{Channel, Guid, Server};

use connection::Connection;

/// The most connections at a time.
pub const MOST: usize = 64;
/// How long a guest may take to open the channel of a connection: one that does not listen never does.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a program may take to say which port it wants, and how many bytes it may use for it.
const GREETING: Duration = Duration::from_secs(10);
const LONGEST_GREETING: usize = 32;
/// Ports of the host's ends of connections that it begins, as far as the guest sees them.
const FIRST_PORT: u32 = 1 << 30;

/// The service of a port.
fn service(port: u32) -> Guid {
    Guid::new(port, 0xfacb, 0x11e6, [0xbd, 0x58, 0x64, 0x00, 0x6a, 0x79, 0x86, 0xd3])
}

/// The port of a service, if it is made of one.
fn port(service_id: Guid) -> Option<u32> {
    let [a, b, c, d, ..] = service_id.bytes();
    let port = u32::from_le_bytes([a, b, c, d]);
    (service(port) == service_id).then_some(port)
}

/// The sockets of a machine, across its resets.
pub struct Sockets {
    this: Weak<Self>,
    path: PathBuf,
    counters: DeviceCounters,
    /// The bus of the machine's present board.
    bus: Mutex<Option<Server>>,
    /// The instances of all connections.
    open: Mutex<BTreeSet<[u8; 16]>>,
    next_port: AtomicU32,
    ended: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection's place among [`MOST`].
struct Place<'a> {
    sockets: &'a Sockets,
    instance: Guid,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        lock(&self.sockets.open).remove(&self.instance.bytes());
    }
}

impl Sockets {
    /// Sockets below `path`, where programs of the host may connect from now on; the file must not be there. It is
    /// removed by [`Self::end`], or when nobody has the sockets any more.
    ///
    /// # Errors
    /// When the host gives no socket or thread.
    pub fn new(path: &Path, counters: DeviceCounters) -> io::Result<Arc<Self>> {
        let listener = UnixListener::bind(path)?;
        let sockets = Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            path: path.to_owned(),
            counters,
            bus: Mutex::default(),
            open: Mutex::default(),
            next_port: AtomicU32::new(FIRST_PORT),
            ended: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&sockets);
        let accept = move || {
            for stream in listener.incoming() {
                let Some(sockets) = weak.upgrade().filter(|sockets| !sockets.ended.load(Ordering::Relaxed))
                else {
                    return;
                };
                match stream {
                    Ok(stream) => sockets.thread(move |sockets| sockets.serve_host(stream)),
                    Err(error) => {
                        tracing::error!(%error, "a socket of the host cannot be accepted");
                        thread::sleep(Duration::from_millis(100));
                    }
                }
            }
        };
        thread::Builder::new().name("sockets".to_owned()).spawn(accept)?;
        Ok(sockets)
    }

    /// Serves the guest behind `bus` from now on.
    pub fn attach(&self, bus: &Server) {
        let this: Weak<dyn vmbus::Sockets> = Weak::<Self>::clone(&self.this);
        bus.serve_sockets(this);
        *lock(&self.bus) = Some(bus.clone());
    }

    /// What the device table says.
    pub fn state(&self) -> String {
        match lock(&self.open).len() {
            1 => "1 connection".to_owned(),
            count => format!("{count} connections"),
        }
    }

    /// Nobody is to connect any more: the file is removed.
    pub fn end(&self) {
        if self.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        // The listener looks whether there is still somebody to serve; it may be gone already.
        let _ = UnixStream::connect(&self.path);
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, "{}: cannot be removed", self.path.display());
        }
    }

    fn thread(&self, run: impl FnOnce(&Self) + Send + 'static) {
        let Some(this) = self.this.upgrade() else { return };
        let spawned = thread::Builder::new().name("socket".to_owned()).spawn(move || run(&this));
        if let Err(error) = spawned {
            tracing::error!(%error, "the host gives no thread for a socket");
        }
    }

    /// A place for a connection with this instance, unless there are too many or it is there.
    fn place(&self, instance: Guid) -> Option<Place<'_>> {
        let mut open = lock(&self.open);
        let free = open.len() < MOST && open.insert(instance.bytes());
        // Not made in vain: it takes the lock again when it goes, and the place of whoever has it.
        free.then(|| Place { sockets: self, instance })
    }

    /// A program of the host has connected.
    fn serve_host(&self, mut stream: UnixStream) {
        let port = match greeting(&mut stream) {
            Ok(port) => port,
            Err(error) => {
                return tracing::warn!(%error, "a program of the host does not say which port it wants");
            }
        };
        let own = self.next_port.fetch_add(1, Ordering::Relaxed) | FIRST_PORT;
        let Some(bus) = lock(&self.bus).clone() else { return };
        let (interface, instance) = (service(port), service(own));
        let Some(_place) = self.place(instance) else {
            return tracing::warn!("too many connections of sockets: at most {MOST}");
        };
        let serve = |channel: Channel, mut stream: UnixStream| {
            let said = stream.write_all(format!("OK {own}\n").as_bytes());
            said.and_then(|()| connection::serve(channel, &stream))
        };
        self.run(&bus, Connection::new(interface, instance, true, self.counters.clone()), stream, serve);
    }

    /// The guest wants to connect.
    fn serve_guest(&self, bus: &Server, endpoint: Guid, service: Guid) {
        let connect = || {
            let name = format!("{}_{}", self.path.display(), port(service)?);
            let place = self.place(endpoint)?;
            // Nobody there is as good an answer as any.
            Some((UnixStream::connect(name).ok()?, place))
        };
        let Some((stream, _place)) = connect() else { return bus.refuse_socket(endpoint, service) };
        let device = Connection::new(service, endpoint, false, self.counters.clone());
        self.run(bus, device, stream, |channel, stream| connection::serve(channel, &stream));
    }

    fn run(
        &self,
        bus: &Server,
        (device, opened): (Connection, Receiver<Channel>),
        stream: UnixStream,
        serve: impl FnOnce(Channel, UnixStream) -> io::Result<()>,
    ) {
        let instance = device.instance();
        if let Err(error) = bus.offer(Arc::new(device)) {
            return tracing::warn!(%error, "a connection of a socket cannot be offered");
        }
        match opened.recv_timeout(PATIENCE) {
            Ok(channel) => {
                self.counters.requests.count();
                if let Err(error) = serve(channel, stream) {
                    tracing::warn!(%error, "a connection of a socket ends");
                }
            }
            Err(RecvTimeoutError::Timeout) => tracing::debug!("nobody in the guest listens"),
            // The board has gone.
            Err(RecvTimeoutError::Disconnected) => {}
        }
        bus.rescind(instance);
    }
}

impl vmbus::Sockets for Sockets {
    fn connect(&self, bus: &Server, endpoint: Guid, service: Guid) {
        let bus = bus.clone();
        self.thread(move |sockets| sockets.serve_guest(&bus, endpoint, service));
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.end();
    }
}

/// The port in `CONNECT PORT\n`, of which not a byte more is read.
fn greeting(stream: &mut UnixStream) -> io::Result<u32> {
    stream.set_read_timeout(Some(GREETING))?;
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        match byte {
            [b'\n'] => break,
            _ if line.len() == LONGEST_GREETING => return Err(io::Error::other("too long a line")),
            [byte] => line.push(byte),
        }
    }
    let port = str::from_utf8(&line).ok().and_then(|line| line.strip_prefix("CONNECT ")?.trim().parse().ok());
    port.ok_or_else(|| io::Error::other(format!("{:?} is not CONNECT PORT", String::from_utf8_lossy(&line))))
}
