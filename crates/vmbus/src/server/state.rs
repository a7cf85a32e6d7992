//! The connection, the channels and the messages: the protocol itself.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use guest_memory::{GuestMemory, PAGE_SIZE};
use vm_memory::{GuestAddress, GuestMemoryBackend};
use zerocopy::FromBytes;

use super::gpadl::{Gpadls, Progress};
use super::{CHANNEL_CONNECTION_ID, Hub, OfferError, Synic};
use crate::channel::Line;
use crate::protocol::*;
use crate::ring::{GuestPages, IncomingRing, OutgoingRing, RingError};
use crate::{Channel, Device, Doorbell, Guid, Offer};

/// Where messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Target {
    vp: u32,
    sint: u8,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    version: Version,
    target: Target,
    offers_requested: bool,
}

/// What happens when all channels have been given back.
#[derive(Debug, Clone, Copy)]
enum Then {
    Rest,
    AnswerUnload(Target),
    Connect(InitiateContact),
}

#[derive(Debug, Clone, Copy)]
enum Connection {
    Disconnected,
    Connected(Link),
    Leaving(Then),
}

/// A channel, offered or not.
struct Entry {
    device: Arc<dyn Device>,
    offer: Arc<Offer>,
    /// Zero for the primary channel.
    subchannel: u16,
    /// The guest knows of it.
    offered: bool,
    /// It is to go when the guest has forgotten it and the device has given it back.
    rescinded: bool,
    /// While the device has it.
    line: Option<Arc<Line>>,
    ring_gpadl: u32,
}

impl Entry {
    fn message(&self, relid: u32) -> Encoded {
        Encoded::new(&OfferChannel {
            interface: self.offer.interface,
            instance: self.offer.instance,
            reserved: [0; 4],
            flags: self.offer.flags,
            mmio_megabytes: self.offer.mmio_megabytes,
            user_data: self.offer.user_data,
            subchannel_index: self.subchannel,
            mmio_megabytes_optional: 0,
            relid,
            monitor_id: 0xff,
            monitor_allocated: 0,
            dedicated_interrupt: 1,
            connection_id: CHANNEL_CONNECTION_ID + relid,
        })
    }
}

/// A channel that a device is to open, and the guest's request.
pub type ToOpen = (Arc<dyn Device>, Channel, OpenChannel);

/// What a message of the guest asks of others than the bus.
pub enum Wanted {
    Open(Box<ToOpen>),
    Socket(TlConnectRequest),
}

pub struct State {
    /// Number of virtual processors.
    processors: u32,
    connection: Connection,
    channels: BTreeMap<u32, Entry>,
    gpadls: Gpadls,
    /// Messages that wait for delivery, in order.
    waiting: VecDeque<(Target, Encoded)>,
    /// Devices that have gone.
    gone: Vec<Arc<dyn Device>>,
}

impl State {
    pub fn new(processors: u32) -> Self {
        Self {
            processors,
            connection: Connection::Disconnected,
            channels: BTreeMap::new(),
            gpadls: Gpadls::default(),
            waiting: VecDeque::new(),
            gone: Vec::new(),
        }
    }

    pub fn version(&self) -> Option<Version> {
        self.link().map(|link| link.version)
    }

    pub fn waiting_messages(&self) -> usize {
        self.waiting.len()
    }

    pub fn take_gone(&mut self) -> Vec<Arc<dyn Device>> {
        std::mem::take(&mut self.gone)
    }

    /// Whether no device has a channel.
    pub fn is_idle(&self) -> bool {
        self.channels.values().all(|entry| entry.line.is_none())
    }

    /// Delivers what can be delivered.
    pub fn send(&mut self, synic: &dyn Synic) {
        while let Some((target, message)) = self.waiting.front() {
            if !synic.post_message(target.vp, target.sint, SYNIC_MESSAGE_TYPE, message.bytes()) {
                return;
            }
            self.waiting.pop_front();
        }
    }

    fn link(&self) -> Option<&Link> {
        match &self.connection {
            Connection::Connected(link) => Some(link),
            Connection::Disconnected | Connection::Leaving(_) => None,
        }
    }

    /// Queues a message for a connected guest.
    fn post(&mut self, message: Encoded) {
        if let Some(target) = self.link().map(|link| link.target) {
            self.waiting.push_back((target, message));
        }
    }

    fn free_relid(&self) -> Result<u32, OfferError> {
        (1..MAX_RELIDS).find(|relid| !self.channels.contains_key(relid)).ok_or(OfferError::Full)
    }

    fn remove_entry(&mut self, relid: u32) {
        self.gpadls.remove_channel(relid);
        if let Some(entry) = self.channels.remove(&relid) {
            self.gone.push(entry.device);
        }
    }

    // Devices.

    pub fn add_device(&mut self, device: Arc<dyn Device>, offer: Offer) -> Result<(), OfferError> {
        let mut present = self.channels.values().filter(|entry| !entry.rescinded);
        if present.any(|entry| entry.offer.instance == offer.instance) {
            return Err(OfferError::Duplicate(offer.instance));
        }
        self.add_entry(device, Arc::new(offer), 0)
    }

    fn add_entry(
        &mut self,
        device: Arc<dyn Device>,
        offer: Arc<Offer>,
        subchannel: u16,
    ) -> Result<(), OfferError> {
        let relid = self.free_relid()?;
        let offered = self.link().is_some_and(|link| link.offers_requested);
        let entry = Entry { device, offer, subchannel, offered, rescinded: false, line: None, ring_gpadl: 0 };
        if offered {
            self.post(entry.message(relid));
        }
        self.channels.insert(relid, entry);
        Ok(())
    }

    pub fn add_subchannels(&mut self, primary: u32, count: u16) -> Result<(), OfferError> {
        let Some(entry) = self.channels.get(&primary).filter(|entry| !entry.rescinded) else {
            return Ok(());
        };
        if entry.line.as_ref().is_none_or(|line| line.closing.load(Ordering::Relaxed)) {
            return Ok(());
        }
        let (device, offer) = (Arc::clone(&entry.device), Arc::clone(&entry.offer));
        for index in 1..=count {
            let mut siblings = self.channels.values().filter(|other| Arc::ptr_eq(&other.offer, &offer));
            if !siblings.any(|other| other.subchannel == index && !other.rescinded) {
                self.add_entry(Arc::clone(&device), Arc::clone(&offer), index)?;
            }
        }
        Ok(())
    }

    pub fn remove_device(&mut self, instance: Guid) -> bool {
        let of_device = |(&relid, entry): (&u32, &Entry)| {
            (entry.offer.instance == instance && !entry.rescinded).then_some((entry.subchannel, relid))
        };
        let mut channels: Vec<_> = self.channels.iter().filter_map(of_device).collect();
        // The primary channel goes last.
        channels.sort_unstable_by(|a, b| b.cmp(a));
        for &(_, relid) in &channels {
            self.rescind(relid);
        }
        !channels.is_empty()
    }

    fn rescind_subchannels(&mut self, offer: &Arc<Offer>) {
        let of_device = |(&relid, entry): (&u32, &Entry)| {
            let subchannel = entry.subchannel != 0 && Arc::ptr_eq(&entry.offer, offer);
            (subchannel && !entry.rescinded).then_some(relid)
        };
        let relids: Vec<_> = self.channels.iter().filter_map(of_device).collect();
        relids.into_iter().for_each(|relid| self.rescind(relid));
    }

    fn rescind(&mut self, relid: u32) {
        let Some(entry) = self.channels.get_mut(&relid) else { return };
        entry.rescinded = true;
        if let Some(line) = &entry.line {
            line.close();
        }
        if entry.offered {
            self.post(Encoded::new(&RescindChannelOffer { relid }));
        }
        self.remove_if_gone(relid);
    }

    fn remove_if_gone(&mut self, relid: u32) {
        let gone = |entry: &Entry| entry.rescinded && !entry.offered && entry.line.is_none();
        if self.channels.get(&relid).is_some_and(gone) {
            self.remove_entry(relid);
        }
    }

    // Messages.

    /// Acts on a message of the guest. Answers a channel that is to be opened, if it was about that.
    pub fn message(&mut self, payload: &[u8], hub: &Arc<Hub>) -> Option<Wanted> {
        let Some((message_type, body)) = decode(payload) else {
            tracing::warn!(bytes = payload.len(), "guest message without a header");
            return None;
        };
        if message_type != MessageType::INITIATE_CONTACT && self.link().is_none() {
            tracing::debug!(?message_type, "guest message without a connection");
            return None;
        }
        let mut wanted = None;
        let understood = match message_type {
            MessageType::INITIATE_CONTACT => parse(body).map(|message| self.initiate_contact(message)),
            MessageType::REQUEST_OFFERS => {
                self.request_offers();
                Some(())
            }
            MessageType::OPEN_CHANNEL => parse(body)
                .map(|message| wanted = self.open(message, hub).map(|open| Wanted::Open(Box::new(open)))),
            MessageType::CLOSE_CHANNEL => parse(body).map(|message| self.close(message)),
            MessageType::GPADL_HEADER => GpadlHeader::read_from_prefix(body).ok().map(|(header, rest)| {
                self.gpadl_header(&header, rest, &hub.settings.memory);
            }),
            MessageType::GPADL_BODY => GpadlBody::read_from_prefix(body).ok().map(|(header, rest)| {
                let memory = &hub.settings.memory;
                let progress = self.gpadls.extend(header.gpadl, rest, |frame| is_ram(memory, frame));
                self.gpadl_progress(header.gpadl, progress);
            }),
            MessageType::GPADL_TEARDOWN => parse(body).map(|message| self.gpadl_teardown(message)),
            MessageType::RELID_RELEASED => parse(body).map(|message| self.relid_released(message)),
            MessageType::UNLOAD => {
                self.unload();
                Some(())
            }
            MessageType::MODIFY_CHANNEL => parse(body).map(|message| self.modify(message)),
            MessageType::TL_CONNECT_REQUEST => {
                parse(body).map(|message| wanted = Some(Wanted::Socket(message)))
            }
            _ => None,
        };
        if understood.is_none() {
            tracing::warn!(?message_type, bytes = payload.len(), "guest message is not understood");
        }
        wanted
    }

    fn initiate_contact(&mut self, message: InitiateContact) {
        match &mut self.connection {
            Connection::Disconnected => {}
            // A guest that comes anew without having unloaded: a kernel after a crash.
            Connection::Connected(_) => return self.leave(Then::Connect(message)),
            Connection::Leaving(then) => {
                *then = Then::Connect(message);
                return;
            }
        }
        self.connect(message);
    }

    fn connect(&mut self, message: InitiateContact) {
        if message.target_vp >= self.processors {
            tracing::warn!(vp = message.target_vp, "guest wants messages on a processor that is not there");
            return;
        }
        let version = message.version;
        let [sint, vtl, ..] = message.interrupt_page_or_target.to_le_bytes();
        let names_target = version >= Version::WIN10_V5_0;
        let sane = !names_target || (usize::from(sint) < 16 && vtl == 0);
        let sint = if names_target && sane { sint } else { DEFAULT_SINT };
        let target = Target { vp: message.target_vp, sint };
        let supported = sane && Version::SUPPORTED.contains(&version);
        let connection_id_or_version = match supported {
            true if names_target => MESSAGE_CONNECTION_ID_5,
            true => version.0,
            false => 0,
        };
        if supported {
            tracing::info!(%version, "guest connects to VMBus");
            self.connection = Connection::Connected(Link { version, target, offers_requested: false });
        }
        let response = VersionResponse {
            supported: u8::from(supported),
            connection_state: 0,
            padding: 0,
            connection_id_or_version,
        };
        self.waiting.push_back((target, Encoded::new(&response)));
    }

    fn request_offers(&mut self) {
        let Connection::Connected(link) = &mut self.connection else { return };
        link.offers_requested = true;
        let target = link.target;
        for (&relid, entry) in &mut self.channels {
            if !entry.offered && !entry.rescinded {
                entry.offered = true;
                self.waiting.push_back((target, entry.message(relid)));
            }
        }
        self.waiting.push_back((target, Encoded::without_body(MessageType::ALL_OFFERS_DELIVERED)));
    }

    fn open(&mut self, request: OpenChannel, hub: &Arc<Hub>) -> Option<ToOpen> {
        match self.prepare(&request, hub) {
            Ok((device, channel)) => Some((device, channel, request)),
            Err(status) => {
                tracing::warn!(relid = request.relid, status, "guest cannot open a channel");
                let OpenChannel { relid, open_id, .. } = request;
                self.post(Encoded::new(&OpenChannelResult { relid, open_id, status }));
                None
            }
        }
    }

    fn prepare(&mut self, request: &OpenChannel, hub: &Arc<Hub>) -> Result<(Arc<dyn Device>, Channel), u32> {
        let link = *self.link().ok_or(STATUS_UNSUCCESSFUL)?;
        let relid = request.relid;
        let frames = self.gpadls.pages(request.ring_gpadl, relid).ok_or(STATUS_INVALID_PARAMETER)?;
        let entry = self.channels.get_mut(&relid).ok_or(STATUS_INVALID_PARAMETER)?;
        if !entry.offered || entry.rescinded || entry.line.is_some() {
            return Err(STATUS_UNSUCCESSFUL);
        }
        let downstream = request.downstream_page_offset as usize;
        if request.target_vp >= self.processors || downstream > frames.len() {
            return Err(STATUS_INVALID_PARAMETER);
        }
        let (upstream, downstream) = frames.split_at(downstream);
        let rings = || -> Result<_, RingError> {
            let pages = |frames| GuestPages::new(&hub.settings.memory, &hub.settings.code, frames);
            Ok((IncomingRing::new(pages(upstream)?)?, OutgoingRing::new(pages(downstream)?)?))
        };
        let (incoming, outgoing) = rings().map_err(|error| {
            tracing::warn!(relid, %error, "channel has bad rings");
            STATUS_INVALID_PARAMETER
        })?;
        let doorbell = Doorbell::counted(entry.offer.counters.exits.clone()).map_err(|error| {
            tracing::error!(relid, %error, "channel gets no doorbell");
            STATUS_INSUFFICIENT_RESOURCES
        })?;
        let line = Arc::new(Line {
            relid,
            subchannel: entry.subchannel,
            sint: link.target.sint,
            target_vp: AtomicU32::new(request.target_vp),
            closing: AtomicBool::new(false),
            doorbell,
            counters: entry.offer.counters.clone(),
        });
        entry.line = Some(Arc::clone(&line));
        entry.ring_gpadl = request.ring_gpadl;
        hub.set_line(relid, Some(Arc::clone(&line)));
        let channel = Channel {
            incoming,
            outgoing,
            line,
            user_data: request.user_data,
            synic: Arc::clone(&hub.settings.synic),
            memory: hub.settings.memory.clone(),
            code: Arc::clone(&hub.settings.code),
            hub: Arc::downgrade(hub),
        };
        Ok((Arc::clone(&entry.device), channel))
    }

    /// The frames that the guest has described to the channel `relid` under `gpadl`.
    pub fn pages_of(&self, gpadl: u32, relid: u32) -> Option<&[u64]> {
        self.gpadls.pages(gpadl, relid)
    }

    /// A device has answered an open request.
    pub fn opened(&mut self, request: &OpenChannel, line: &Arc<Line>, status: u32) {
        // Not if the guest has connected anew meanwhile: then the request is of the past.
        let same = self.channels.get(&request.relid).is_some_and(|entry| {
            status != STATUS_SUCCESS || entry.line.as_ref().is_some_and(|open| Arc::ptr_eq(open, line))
        });
        if same {
            let OpenChannel { relid, open_id, .. } = *request;
            self.post(Encoded::new(&OpenChannelResult { relid, open_id, status }));
        }
    }

    fn close(&mut self, message: CloseChannel) {
        let Some(entry) = self.channels.get(&message.relid) else { return };
        if let Some(line) = &entry.line {
            line.close();
        }
        if entry.subchannel == 0 {
            let offer = Arc::clone(&entry.offer);
            self.rescind_subchannels(&offer);
        }
    }

    /// A device has given a channel back.
    pub fn released(&mut self, line: &Arc<Line>, hub: &Hub) {
        let relid = line.relid;
        let Some(entry) = self.channels.get_mut(&relid) else { return };
        if !entry.line.as_ref().is_some_and(|open| Arc::ptr_eq(open, line)) {
            return;
        }
        entry.line = None;
        hub.set_line(relid, None);
        let gpadl = entry.ring_gpadl;
        if self.gpadls.is_torn_down(gpadl) {
            self.finish_teardown(gpadl);
        }
        self.remove_if_gone(relid);
        self.finish_leaving();
    }

    fn gpadl_header(&mut self, header: &GpadlHeader, body: &[u8], memory: &GuestMemory) {
        let known = |entry: &Entry| entry.offered && !entry.rescinded;
        let progress = if self.channels.get(&header.relid).is_some_and(known) {
            self.gpadls.create(header, body, |frame| is_ram(memory, frame))
        } else {
            Progress::Done { relid: header.relid, status: STATUS_INVALID_PARAMETER }
        };
        self.gpadl_progress(header.gpadl, progress);
    }

    fn gpadl_progress(&mut self, gpadl: u32, progress: Progress) {
        if let Progress::Done { relid, status } = progress {
            self.post(Encoded::new(&GpadlCreated { relid, gpadl, status }));
        }
    }

    fn gpadl_teardown(&mut self, message: GpadlTeardown) {
        let gpadl = message.gpadl;
        if !self.gpadls.contains(gpadl) {
            tracing::warn!(gpadl, "guest tears down a GPADL that is not there");
            return;
        }
        if self.channels.values().any(|entry| entry.line.is_some() && entry.ring_gpadl == gpadl) {
            self.gpadls.tear_down_later(gpadl);
        } else {
            self.finish_teardown(gpadl);
        }
    }

    fn finish_teardown(&mut self, gpadl: u32) {
        self.gpadls.remove(gpadl);
        self.post(Encoded::new(&GpadlTorndown { gpadl }));
    }

    fn relid_released(&mut self, message: RelidReleased) {
        let Some(entry) = self.channels.get_mut(&message.relid) else { return };
        if entry.line.is_some() && !entry.rescinded {
            tracing::warn!(relid = message.relid, "guest releases the number of an open channel");
            return;
        }
        // A channel that was not rescinded is offered again when the guest connects anew.
        entry.offered = false;
        if entry.line.is_none() {
            self.gpadls.remove_channel(message.relid);
        }
        self.remove_if_gone(message.relid);
    }

    fn modify(&mut self, message: ModifyChannel) {
        let Some(version) = self.version() else { return };
        let relid = message.relid;
        let line = self.channels.get(&relid).and_then(|entry| entry.line.as_ref());
        let status = match line {
            Some(line) if version >= Version::WIN10_V4_1 && message.target_vp < self.processors => {
                line.target_vp.store(message.target_vp, Ordering::Relaxed);
                STATUS_SUCCESS
            }
            _ => STATUS_INVALID_PARAMETER,
        };
        if version >= Version::WIN10_V5_3 {
            self.post(Encoded::new(&ModifyChannelResponse { relid, status }));
        }
    }

    /// Nobody on this bus serves sockets.
    pub fn refuse_socket(&mut self, message: TlConnectRequest) {
        let TlConnectRequest { endpoint, service } = message;
        let status = STATUS_CONNECTION_REFUSED;
        self.post(Encoded::new(&TlConnectResult { endpoint, service, status }));
    }

    // The end of a connection.

    fn unload(&mut self) {
        if let Some(target) = self.link().map(|link| link.target) {
            self.leave(Then::AnswerUnload(target));
        }
    }

    pub fn reset(&mut self) {
        self.waiting.clear();
        self.leave(Then::Rest);
    }

    fn leave(&mut self, then: Then) {
        self.connection = Connection::Leaving(then);
        self.waiting.clear();
        for line in self.channels.values().filter_map(|entry| entry.line.as_ref()) {
            line.close();
        }
        self.finish_leaving();
    }

    fn finish_leaving(&mut self) {
        let Connection::Leaving(then) = self.connection else { return };
        if !self.is_idle() {
            return;
        }
        self.connection = Connection::Disconnected;
        self.gpadls.clear();
        let goes = |entry: &Entry| entry.rescinded || entry.subchannel != 0;
        let gone: Vec<_> =
            self.channels.iter().filter(|(_, entry)| goes(entry)).map(|(&relid, _)| relid).collect();
        gone.into_iter().for_each(|relid| self.remove_entry(relid));
        self.channels.values_mut().for_each(|entry| entry.offered = false);
        match then {
            Then::Rest => {}
            Then::AnswerUnload(target) => {
                tracing::info!("guest disconnects from VMBus");
                self.waiting.push_back((target, Encoded::without_body(MessageType::UNLOAD_RESPONSE)));
            }
            Then::Connect(message) => self.connect(message),
        }
    }
}

fn parse<M: Message>(body: &[u8]) -> Option<M> {
    M::read_from_prefix(body).ok().map(|(message, _)| message)
}

fn is_ram(memory: &GuestMemory, frame: u64) -> bool {
    frame
        .checked_mul(PAGE_SIZE)
        .is_some_and(|address| memory.check_range(GuestAddress(address), PAGE_SIZE as usize))
}
