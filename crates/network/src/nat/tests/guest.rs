//! A guest at a port of a switch: the library's stack as a client, with a NIC that can cut, or not.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::time::{Duration, Instant as Moment};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{
    Checksum as Side, ChecksumCapabilities, Device, DeviceCapabilities, Medium, PacketMeta, RxToken,
    SegmentationCapabilities, TxToken,
};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpEndpoint};

use crate::frame::{Checksum, Frame, HEADER, Segments, TcpOver};
use crate::port::{Port, PortSettings};
use crate::switch::Switch;

const IP_HEADER: usize = 20;

/// Cuts a frame as a NIC does, and makes the checksums that are to be made.
pub(super) fn finish(frame: Frame) -> Vec<Vec<u8>> {
    if let Some(segments) = frame.segments {
        assert_eq!((segments.tcp, frame.checksum.is_some()), (TcpOver::V4, true));
    }
    let pieces: Vec<_> = frame.finish().into_iter().map(|frame| frame.data).collect();
    assert!(!pieces.is_empty(), "what is said of a frame is not true");
    for data in &pieces {
        assert!(data.len() <= HEADER + 1500, "a frame of {} bytes", data.len());
    }
    pieces
}

/// The guest's NIC.
pub(super) struct Nic {
    pub port: Port,
    offload: bool,
    pieces: VecDeque<Vec<u8>>,
    /// Frames to be cut that have come and gone.
    pub large: (usize, usize),
}

pub(super) struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

pub(super) struct Room<'a> {
    port: &'a Port,
    offload: bool,
    large: &'a mut usize,
    meta: PacketMeta,
}

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut data = vec![0; len];
        let result = fill(&mut data);
        let is_tcp = data[12..14] == [8, 0] && data[HEADER + 9] == 6;
        let header = || HEADER + IP_HEADER + usize::from(data[HEADER + IP_HEADER + 12] >> 4) * 4;
        let segments = self.meta.segmentation_offload_size;
        let segments =
            segments.map(|size| Segments { tcp: TcpOver::V4, size: size.get(), header: header() as u16 });
        let checksum = (self.offload && is_tcp).then_some(Checksum { start: 34, offset: 16 });
        if segments.is_some() {
            *self.large += 1;
            // As some drivers leave it.
            data[HEADER + 2..HEADER + 4].fill(0);
            data[HEADER + 10..HEADER + 12].fill(0);
        }
        self.port.send(Frame { data, checksum, segments, verified: false });
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.meta = meta;
    }
}

impl Nic {
    fn room(&mut self) -> Room<'_> {
        let Self { port, offload, large, .. } = self;
        Room { port, offload: *offload, large: &mut large.1, meta: PacketMeta::default() }
    }
}

impl Device for Nic {
    type RxToken<'a> = Received;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Room<'_>)> {
        if self.pieces.is_empty() {
            let frame = self.port.receive()?;
            self.large.0 += usize::from(frame.segments.is_some());
            self.pieces.extend(finish(frame));
        }
        let data = self.pieces.pop_front()?;
        Some((Received(data), self.room()))
    }

    fn transmit(&mut self, _: Instant) -> Option<Room<'_>> {
        Some(self.room())
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = HEADER + 1500;
        if self.offload {
            let mut checksum = ChecksumCapabilities::default();
            checksum.tcp = Side::Rx;
            let mut segmentation = SegmentationCapabilities::default();
            segmentation.tcpv4 = NonZeroUsize::new(65535);
            (capabilities.checksum, capabilities.segmentation) = (checksum, segmentation);
        }
        capabilities
    }
}

/// The guest.
pub(super) struct Guest {
    pub nic: Nic,
    pub interface: Interface,
    pub sockets: SocketSet<'static>,
    start: Moment,
    next_port: u16,
}

pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

impl Guest {
    /// A guest without an address.
    pub fn new(switch: &Switch, number: u8, offload: bool) -> Self {
        let port = switch.port(PortSettings::default()).unwrap();
        let mut nic = Nic { port, offload, pieces: VecDeque::new(), large: (0, 0) };
        let mac = EthernetAddress([0, 0x15, 0x5d, 0, 0, number]);
        let mut config = Config::new(HardwareAddress::Ethernet(mac));
        config.random_seed = number.into();
        let interface = Interface::new(config, &mut nic, Instant::ZERO);
        let sockets = SocketSet::new(vec![]);
        Self { nic, interface, sockets, start: Moment::now(), next_port: 10000 }
    }

    /// A guest that knows its address.
    pub fn with_address(switch: &Switch, offload: bool) -> Self {
        let mut guest = Self::new(switch, 1, offload);
        guest.set_address(ADDRESS);
        guest
    }

    pub fn set_address(&mut self, address: Ipv4Addr) {
        self.interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddress::Ipv4(address), 24)).unwrap();
        });
        self.interface.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
    }

    /// Carries on until `done`, in real time.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let begin = Moment::now();
        loop {
            let now = Instant::from_micros(self.start.elapsed().as_micros() as i64);
            self.nic.port.doorbell().answer();
            self.interface.poll(now, &mut self.nic, &mut self.sockets);
            if done(self) {
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "{what} does not come");
            let wait = self.interface.poll_delay(now, &self.sockets).map_or(5000, |left| left.total_micros());
            let timeout = Timespec { tv_sec: 0, tv_nsec: (wait.min(5000) * 1000) as i64 };
            poll(
                &mut [PollFd::from_borrowed_fd(self.nic.port.doorbell().as_fd(), PollFlags::IN)],
                Some(&timeout),
            )
            .unwrap();
        }
    }

    /// A socket of TCP with `size` bytes of buffer each way.
    pub fn socket(&mut self, size: usize) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; size]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        self.sockets.add(socket)
    }

    /// Begins a connection.
    pub fn connect(&mut self, to: (Ipv4Addr, u16), size: usize) -> SocketHandle {
        let handle = self.socket(size);
        self.next_port += 1;
        let to = IpEndpoint::new(IpAddress::Ipv4(to.0), to.1);
        let socket = self.sockets.get_mut::<tcp::Socket>(handle);
        socket.connect(self.interface.context(), to, self.next_port).unwrap();
        handle
    }

    pub fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub fn state(&mut self, handle: SocketHandle) -> tcp::State {
        self.tcp(handle).state()
    }

    /// What has come, until there is no more for now.
    pub fn take(&mut self, handle: SocketHandle, into: &mut Vec<u8>) {
        let socket = self.tcp(handle);
        while socket.can_recv() {
            socket.recv(|data| (data.len(), into.extend_from_slice(data))).unwrap();
        }
    }
}
