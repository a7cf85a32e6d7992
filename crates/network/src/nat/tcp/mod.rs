//! Connections of TCP (RFC 9293): one of the guest's ends here, in a stack of the library's, and goes on as one of the
//! host's.
//!
//! ```text
//!   guest ── SYN ──▶ connect() of the host ── is there ──▶ SYN-ACK ──▶ guest
//!                                          └─ refused ───▶ RST
//!   guest ◀─ window of the guest ── send buffer ◀── read()  ── host's peer
//!         ── window of ours ──▶ receive buffer ──▶ write()
//! ```
//!
//! Nothing is taken from one side that the other has no room for: the buffers are the windows. Each connection is polled
//! by itself, when there is a packet or an event for it or its timer says so: what many idle ones cost is their memory.
//!
//! Not there: urgent data, the time after both have closed (a connection is forgotten when all is acknowledged), path MTU
//! discovery on the guest's side.

mod wire;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{HardwareAddress, IpEndpoint};

use super::addresses::{self, Ports, Route};
use super::host::{Host, Key, Stream, is_idle, is_unreachable, is_want};
use super::icmp;
use super::link::Link;
use super::packet::{Packet, set_length};
use crate::frame::Frame;
use wire::Wire;

/// A SYN that is longer is none: it waits for the host.
const LONGEST_SYN: usize = 2048;
/// Connections at the most.
const CONNECTIONS: usize = 8192;
/// Those among them that the host is still making, or the guest: what a flood of SYNs can hold.
const BEGINNING: usize = 1024;
/// A connection's buffers, each way: the first connections have large ones, and what they leave is divided. All together
/// they have `BUFFERS` + 2 * `CONNECTIONS` * `SMALLEST` bytes at the most.
const LARGEST: usize = 512 << 10;
const SMALLEST: usize = 8 << 10;
const BUFFERS: usize = 64 << 20;
/// The part of what is left that a new connection gets.
const PART: usize = 128;
/// How long the host may take to connect.
const CONNECT: Duration = Duration::from_secs(75);
/// How long the guest may take to answer.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// How long a guest may be silent that has been asked something; a machine may be paused for that long.
const SILENCE: Duration = Duration::from_secs(900);
/// How often a guest is asked whether it is still there: before small stacks have forgotten the router.
const KEEP_ALIVE: Duration = Duration::from_secs(50);
/// A timer that has come too early is not asked again before that.
const TICK: Duration = Duration::from_millis(1);

/// How far a connection is.
enum Phase {
    /// The host connects; the guest's SYN waits, as a frame.
    Connecting(Frame),
    /// Both sides are there, or nearly.
    Open(SocketHandle),
    /// The guest has said all and been told all; this is left to be written to the host's side.
    Draining(VecDeque<u8>),
}

/// A connection.
struct Flow<S> {
    guest: SocketAddr,
    /// The other side, as the guest calls it.
    peer: SocketAddr,
    stream: S,
    phase: Phase,
    sockets: SocketSet<'static>,
    /// Bytes of each buffer.
    buffer: usize,
    readable: bool,
    writable: bool,
    /// The host's peer has said all.
    peer_ends: bool,
    /// The guest has said all.
    guest_ends: bool,
    /// The host's peer has been told that.
    finished: bool,
    /// Whether one of the sides is not there yet.
    begins: bool,
    /// When it has to be further than it is.
    until: Option<Instant>,
    /// Where it is among the timers.
    timer: Option<Instant>,
    /// Whether it is among those to look after.
    dirty: bool,
}

/// The connections.
pub(super) struct Tcp<S> {
    interface: Interface,
    wire: Wire,
    flows: HashMap<u64, Flow<S>>,
    /// By the guest's and the other side's address, as the guest sees them.
    numbers: HashMap<(SocketAddr, SocketAddr), u64>,
    timers: BTreeSet<(Instant, u64)>,
    dirty: Vec<u64>,
    next: u64,
    /// How many are beginning.
    beginning: usize,
    /// Bytes of all buffers.
    buffers: usize,
    ports: Ports,
}

/// What became of a connection after it was looked after.
enum Fate {
    Goes,
    Ends,
    Breaks,
}

impl<S: Stream> Tcp<S> {
    /// No connections. `seed` is for sequence numbers, which nobody should guess.
    pub fn new(seed: u64) -> Self {
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        interface.set_any_ip(true);
        Self {
            interface,
            wire,
            flows: HashMap::new(),
            numbers: HashMap::new(),
            timers: BTreeSet::new(),
            dirty: vec![],
            next: 0,
            beginning: 0,
            buffers: 0,
            ports: Ports::new(),
        }
    }

    #[cfg(any(test, feature = "fuzzing"))]
    /// Connections that there are.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Takes a frame with a packet of TCP from a guest.
    pub fn frame<H: Host<Stream = S>>(
        &mut self,
        now: Instant,
        host: &mut H,
        link: &mut Link,
        host_reachable: bool,
        frame: Frame,
    ) {
        let Some(packet) = Packet::parse(&frame) else { return link.dropped.count() };
        let Some(segment) = packet.tcp() else { return link.dropped.count() };
        let guest = SocketAddr::new(packet.source, segment.src_port());
        let peer = SocketAddr::new(packet.destination, segment.dst_port());
        let (syn, ack) = (segment.syn(), segment.ack());
        let (rst, fin) = (segment.rst(), segment.fin());
        let len = packet.frame_len();
        let mut frame = frame;
        frame.data.truncate(len);
        set_length(&mut frame.data);
        if let Some(&number) = self.numbers.get(&(guest, peer)) {
            let Some(flow) = self.flows.get_mut(&number) else { return };
            match flow.phase {
                Phase::Open(_) => {
                    self.wire.incoming = Some(frame.data);
                    self.interface.poll_ingress_single(now, &mut self.wire, &mut flow.sockets);
                    self.soil(number);
                }
                // It has sent its SYN again, or does not want to wait.
                Phase::Connecting(_) if rst => self.remove(number),
                Phase::Connecting(_) | Phase::Draining(_) => {}
            }
            return self.flush(link);
        }
        if !syn || ack || rst || fin {
            return self.refuse(now, link, frame);
        }
        let to = match addresses::route(peer, host_reachable, || host.resolver()) {
            Route::To(to) => to,
            Route::Refused => return self.refuse(now, link, frame),
            Route::Nowhere => return link.dropped.count(),
        };
        if !self.has_room() || frame.data.len() > LONGEST_SYN {
            return link.dropped.count();
        }
        self.next += 1;
        let number = self.next;
        match host.connect(to, Key::Tcp(number)) {
            Ok(stream) => self.insert(number, (guest, peer), stream, Phase::Connecting(frame), now + CONNECT),
            Err(error) => self.fail(now, link, frame, &error),
        }
    }

    /// Takes a connection from `listener` and begins one with `guest`. False if there was none.
    ///
    /// # Errors
    /// The host's, for want of something.
    pub fn forward<H: Host<Stream = S>>(
        &mut self,
        now: Instant,
        host: &mut H,
        link: &Link,
        listener: &H::Listener,
        guest: SocketAddr,
    ) -> io::Result<bool> {
        self.next += 1;
        let number = self.next;
        let stream = match host.accept(listener, Key::Tcp(number)) {
            Ok(stream) => stream,
            Err(error) if is_idle(&error) => return Ok(false),
            Err(error) if is_want(&error) => return Err(error),
            Err(error) => {
                tracing::debug!(%error, %guest, "a connection to a forwarded port is not taken");
                return Ok(true);
            }
        };
        let peer = self.ports.free(guest, |key| self.numbers.contains_key(key));
        let Some(peer) = peer.filter(|_| self.has_room()) else {
            link.dropped.count();
            stream.reset();
            return Ok(true);
        };
        let mut socket = self.socket();
        let buffer = socket.recv_capacity();
        let (to, from) = (IpEndpoint::from(guest), IpEndpoint::from(peer));
        if let Err(error) = socket.connect(self.interface.context(), to, from) {
            tracing::debug!(?error, %guest, "a connection to a forwarded port goes nowhere");
            stream.reset();
            return Ok(true);
        }
        let mut sockets = SocketSet::new(vec![]);
        let handle = sockets.add(socket);
        self.insert(number, (guest, peer), stream, Phase::Open(handle), now + HANDSHAKE);
        if let Some(flow) = self.flows.get_mut(&number) {
            (flow.sockets, flow.buffer) = (sockets, buffer);
            self.buffers += 2 * buffer;
        }
        self.soil(number);
        Ok(true)
    }

    /// Something can be done with the host's side of a connection.
    pub fn ready(&mut self, number: u64, readable: bool, writable: bool) {
        if let Some(flow) = self.flows.get_mut(&number) {
            flow.readable |= readable;
            flow.writable |= writable;
            self.soil(number);
        }
    }

    /// Carries on whatever can be carried on, and says when it wants to be asked again.
    pub fn poll(&mut self, now: Instant, link: &mut Link) -> Option<Instant> {
        while let Some(&(when, number)) = self.timers.first().filter(|(when, _)| *when <= now) {
            self.timers.remove(&(when, number));
            if let Some(flow) = self.flows.get_mut(&number) {
                flow.timer = None;
            }
            self.soil(number);
        }
        for number in std::mem::take(&mut self.dirty) {
            if let Some(flow) = self.flows.get_mut(&number) {
                flow.dirty = false;
                self.look_after(now, link, number);
            }
        }
        self.timers.first().map(|(when, _)| *when)
    }

    fn has_room(&self) -> bool {
        self.flows.len() < CONNECTIONS && self.beginning < BEGINNING
    }

    fn soil(&mut self, number: u64) {
        if let Some(flow) = self.flows.get_mut(&number).filter(|flow| !flow.dirty) {
            flow.dirty = true;
            self.dirty.push(number);
        }
    }

    fn socket(&self) -> Socket<'static> {
        let size = (BUFFERS.saturating_sub(self.buffers) / PART).clamp(SMALLEST, LARGEST);
        let buffer = || SocketBuffer::new(vec![0; size]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_timeout(Some(SILENCE));
        socket.set_keep_alive(Some(KEEP_ALIVE));
        socket
    }

    fn insert(
        &mut self,
        number: u64,
        (guest, peer): (SocketAddr, SocketAddr),
        stream: S,
        phase: Phase,
        until: Instant,
    ) {
        let flow = Flow {
            guest,
            peer,
            stream,
            phase,
            sockets: SocketSet::new(vec![]),
            buffer: 0,
            readable: false,
            writable: false,
            peer_ends: false,
            guest_ends: false,
            finished: false,
            begins: true,
            until: Some(until),
            timer: None,
            dirty: false,
        };
        self.beginning += 1;
        self.flows.insert(number, flow);
        self.numbers.insert((guest, peer), number);
        self.set_timer(number, Some(until));
    }

    /// Takes a connection out of the books.
    fn take(&mut self, number: u64) -> Option<Flow<S>> {
        self.set_timer(number, None);
        let flow = self.flows.remove(&number)?;
        self.numbers.remove(&(flow.guest, flow.peer));
        self.beginning -= usize::from(flow.begins);
        self.buffers -= 2 * flow.buffer;
        Some(flow)
    }

    fn remove(&mut self, number: u64) {
        if let Some(flow) = self.take(number) {
            flow.stream.reset();
        }
    }

    fn set_timer(&mut self, number: u64, when: Option<Instant>) {
        let Some(flow) = self.flows.get_mut(&number) else { return };
        if flow.timer != when {
            if let Some(before) = flow.timer {
                self.timers.remove(&(before, number));
            }
            if let Some(when) = when {
                self.timers.insert((when, number));
            }
            flow.timer = when;
        }
    }

    /// Answers a segment that belongs to nothing with a reset.
    fn refuse(&mut self, now: Instant, link: &mut Link, frame: Frame) {
        self.wire.incoming = Some(frame.data);
        self.interface.poll_ingress_single(now, &mut self.wire, &mut SocketSet::new(vec![]));
        self.flush(link);
    }

    /// Tells the guest why its SYN has led to nothing.
    fn fail(&mut self, now: Instant, link: &mut Link, frame: Frame, error: &io::Error) {
        tracing::debug!(%error, "a guest's connection is not made");
        if is_want(error) {
            link.dropped.count();
        } else if is_unreachable(error) {
            if let Some(packet) = Packet::parse(&frame) {
                icmp::unreachable(link, &packet, icmp::Reason::Host);
            }
        } else if error.kind() != io::ErrorKind::TimedOut {
            self.refuse(now, link, frame);
        }
    }

    fn flush(&mut self, link: &mut Link) {
        for outgoing in self.wire.outgoing.drain(..) {
            let frame = outgoing.frame();
            let to = frame.as_ref().and_then(wire_destination);
            match (frame, to) {
                (Some(frame), Some(to)) => link.send(to, frame),
                _ => link.dropped.count(),
            }
        }
    }

    fn look_after(&mut self, now: Instant, link: &mut Link, number: u64) {
        let Some(flow) = self.flows.get_mut(&number) else { return };
        if matches!(flow.phase, Phase::Connecting(_)) && !self.opens(now, link, number) {
            return;
        }
        let Some(flow) = self.flows.get_mut(&number) else { return };
        let late = flow.until.is_some_and(|until| until <= now);
        let handle = match &mut flow.phase {
            Phase::Open(handle) => *handle,
            Phase::Draining(_) if late => return self.remove(number),
            Phase::Draining(rest) => {
                return match drain(rest, &mut flow.stream) {
                    Ok(true) => drop(self.take(number)),
                    Ok(false) => flow.writable = false,
                    Err(_) => self.remove(number),
                };
            }
            Phase::Connecting(_) => return,
        };
        let fate = flow.carry(handle, late);
        // One segment is sent each time.
        while self.interface.poll_egress(now, &mut self.wire, &mut flow.sockets)
            == smoltcp::iface::PollResult::SocketStateChanged
        {}
        let socket = flow.sockets.get_mut::<Socket>(handle);
        let state = socket.state();
        if !matches!(state, State::SynReceived | State::SynSent) && flow.begins {
            flow.begins = false;
            flow.until = None;
            self.beginning -= 1;
        }
        let until = flow.until;
        let at = self.interface.poll_at(now, &flow.sockets).map(|at| at.max(now + TICK));
        self.flush(link);
        match (fate, state) {
            (Fate::Ends, _) | (_, State::TimeWait) => self.end(now, number),
            (Fate::Breaks, _) | (_, State::Closed | State::Listen) => self.remove(number),
            _ => self.set_timer(number, [at, until].into_iter().flatten().min()),
        }
    }

    /// The guest's side is done: what the host's has not taken is kept, the rest goes.
    fn end(&mut self, now: Instant, number: u64) {
        let Some(flow) = self.flows.get_mut(&number) else { return };
        let Phase::Open(handle) = flow.phase else { return };
        let socket = flow.sockets.get_mut::<Socket>(handle);
        let mut rest = VecDeque::new();
        while socket.can_recv() {
            let taken = socket.recv(|data| (data.len(), rest.extend(&*data)));
            if taken.is_err() {
                break;
            }
        }
        if rest.is_empty() {
            return drop(self.take(number));
        }
        flow.phase = Phase::Draining(rest);
        flow.sockets = SocketSet::new(vec![]);
        flow.until = Some(now + SILENCE);
        self.set_timer(number, Some(now + SILENCE));
    }

    /// Answers the guest's SYN if the host's side is there. False if it is not, or never will be.
    fn opens(&mut self, now: Instant, link: &mut Link, number: u64) -> bool {
        let Some(flow) = self.flows.get_mut(&number) else { return false };
        let late = flow.until.is_some_and(|until| until <= now);
        if !flow.writable && !late {
            return false;
        }
        let result = if late { Err(io::ErrorKind::TimedOut.into()) } else { flow.stream.connected() };
        if let Err(error) = result {
            if let Some(Flow { phase: Phase::Connecting(frame), .. }) = self.take(number) {
                self.fail(now, link, frame, &error);
            }
            return false;
        }
        let mut socket = self.socket();
        let buffer = socket.recv_capacity();
        let Some(flow) = self.flows.get_mut(&number) else { return false };
        let listens = socket.listen(IpEndpoint::from(flow.peer));
        debug_assert!(listens.is_ok(), "the port is not 0 and the socket new");
        let handle = flow.sockets.add(socket);
        flow.buffer = buffer;
        self.buffers += 2 * buffer;
        flow.until = Some(now + HANDSHAKE);
        let Phase::Connecting(frame) = std::mem::replace(&mut flow.phase, Phase::Open(handle)) else {
            return false;
        };
        self.wire.incoming = Some(frame.data);
        self.interface.poll_ingress_single(now, &mut self.wire, &mut flow.sockets);
        true
    }
}

/// Writes what is left. True if that was all.
fn drain(rest: &mut VecDeque<u8>, stream: &mut impl Stream) -> io::Result<bool> {
    while !rest.is_empty() {
        match stream.write(rest.as_slices().0) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => drop(rest.drain(..written)),
            Err(error) if is_idle(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    stream.finish()?;
    Ok(true)
}

/// The address that a frame of the stack goes to.
fn wire_destination(frame: &Frame) -> Option<std::net::IpAddr> {
    let ip = frame.data.get(crate::frame::HEADER..)?;
    match ip.first()? >> 4 {
        4 => Some(std::net::IpAddr::from(*ip.get(16..)?.first_chunk::<4>()?)),
        _ => Some(std::net::IpAddr::from(*ip.get(24..)?.first_chunk::<16>()?)),
    }
}

impl<S: Stream> Flow<S> {
    /// Carries data between the buffers and the host.
    fn carry(&mut self, handle: SocketHandle, late: bool) -> Fate {
        let Self { stream, sockets, readable, writable, peer_ends, guest_ends, finished, .. } = self;
        let socket = sockets.get_mut::<Socket>(handle);
        let state = socket.state();
        if late && matches!(state, State::SynReceived | State::SynSent) {
            socket.abort();
            return Fate::Breaks;
        }
        *guest_ends |= matches!(state, State::CloseWait | State::LastAck | State::Closing | State::TimeWait);
        if state == State::Closed && !(*peer_ends && *guest_ends) {
            // The guest has reset it, or is silent.
            return Fate::Breaks;
        }
        while *writable && socket.can_recv() {
            let written = socket.recv(|data| match stream.write(data) {
                Ok(written) => (written, Ok(written)),
                Err(error) => (0, Err(error)),
            });
            match written {
                Ok(Ok(1..)) => {}
                Ok(Err(error)) if is_idle(&error) => *writable = false,
                Ok(Ok(0) | Err(_)) | Err(_) => {
                    socket.abort();
                    return Fate::Breaks;
                }
            }
        }
        if *guest_ends && !*finished && !socket.can_recv() {
            *finished = true;
            if let Err(error) = stream.finish() {
                // Then the host's peer is gone already, which reading tells.
                tracing::trace!(%error, "the host's side is not shut down");
            }
        }
        if state == State::Closed {
            return Fate::Ends;
        }
        while *readable && !*peer_ends && socket.can_send() {
            let read = socket.send(|room| match stream.read(room) {
                Ok(read) => (read, Ok(read)),
                Err(error) => (0, Err(error)),
            });
            match read {
                Ok(Ok(0)) => *peer_ends = true,
                Ok(Ok(_)) => {}
                Ok(Err(error)) if is_idle(&error) => *readable = false,
                Ok(Err(_)) | Err(_) => {
                    socket.abort();
                    return Fate::Breaks;
                }
            }
        }
        // The stack's last state does not hear of a wider window: nothing that needs one may be left by then.
        let may_close = !*guest_ends || socket.send_queue() == 0;
        if *peer_ends
            && may_close
            && matches!(state, State::SynReceived | State::Established | State::CloseWait)
        {
            socket.close();
        }
        Fate::Goes
    }
}
