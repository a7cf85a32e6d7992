use std::collections::HashSet;
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use ::storage::scsi::{DiskUnit, DvdUnit};
use ::storage::{OpenOptions, Owner, SharedDisk, open};
use counters::DeviceCounters;
use tempfile::NamedTempFile;
use vm_memory::{Bytes, GuestAddress};
use vmbus::Guid;
use vmbus::loopback::{Guest, GuestChannel, Received};
use vmbus::protocol::{
    CloseChannel, GpadlTeardown, GpadlTorndown, OfferChannel, RescindChannelOffer, Version,
};
use vmbus::ring::{OutgoingPacket, PacketType};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::protocol::*;
use super::*;

const DISK_SIZE: u64 = 4 << 20;

const TEST_UNIT_READY: [u8; 6] = [0; 6];
const INQUIRY: [u8; 6] = [0x12, 0, 0, 0, 36, 0];

fn read_10(lba: u32, blocks: u16) -> [u8; 10] {
    let (lba, blocks) = (lba.to_be_bytes(), blocks.to_be_bytes());
    [0x28, 0, lba[0], lba[1], lba[2], lba[3], 0, blocks[0], blocks[1], 0]
}

fn write_10(lba: u32, blocks: u16) -> [u8; 10] {
    let mut cdb = read_10(lba, blocks);
    cdb[0] = 0x2a;
    cdb
}

/// A byte of a fresh image.
fn pattern(at: u64) -> u8 {
    (at / 512) as u8 ^ at as u8
}

fn image() -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&(0..DISK_SIZE).map(pattern).collect::<Vec<_>>()).unwrap();
    file
}

fn unit(file: &NamedTempFile, read_only: bool) -> Arc<DiskUnit> {
    let options = OpenOptions { read_only, ..OpenOptions::default() };
    Arc::new(DiskUnit::new(open(file.path(), &options).unwrap()))
}

/// Bytes in guest memory: offset in the first of some frames, and length.
struct Buffer {
    frames: Vec<u64>,
    offset: u32,
    len: u32,
}

impl Buffer {
    fn header(&self) -> Vec<u64> {
        let range = u64::from(self.offset) << 32 | u64::from(self.len);
        [1 << 32, range].into_iter().chain(self.frames.iter().copied()).collect()
    }
}

/// A guest with one controller, whose driver is at work.
struct Rig {
    guest: Guest,
    controller: Arc<Controller>,
    counters: DeviceCounters,
    offer: OfferChannel,
    channel: GuestChannel,
    next: u64,
}

impl Rig {
    fn scsi(ring_pages: u64) -> Self {
        let counters = DeviceCounters::default();
        let settings = ScsiSettings {
            name: "scsi0".to_owned(),
            instance: scsi_instance(0),
            subchannels: 3,
            counters: counters.clone(),
        };
        Self::with(Controller::scsi(settings), counters, ring_pages)
    }

    fn with(controller: Arc<Controller>, counters: DeviceCounters, ring_pages: u64) -> Self {
        let mut guest = Guest::new(4, 4096);
        guest.server.offer(controller.clone()).unwrap();
        guest.connect(Version::WIN10_V5_3);
        let offer = guest.request_offers()[0];
        let channel = guest.open(&offer, ring_pages, 0).unwrap();
        Self { guest, controller, counters, offer, channel, next: 1 }
    }

    /// With one disk, initialized.
    fn ready() -> (Self, NamedTempFile) {
        let (mut rig, file) = (Self::scsi(8), image());
        rig.controller.attach(0, unit(&file, false));
        rig.initialize(0x0602);
        (rig, file)
    }

    fn initialize(&mut self, version: u16) {
        assert_eq!(self.operate(Operation::BEGIN_INITIALIZATION, &[]).status, status::SUCCESS);
        let answer = self.operate(Operation::QUERY_PROTOCOL_VERSION, &version.to_le_bytes());
        assert_eq!(answer.status, status::SUCCESS);
        assert_eq!(self.operate(Operation::QUERY_PROPERTIES, &[]).status, status::SUCCESS);
        assert_eq!(self.operate(Operation::END_INITIALIZATION, &[]).status, status::SUCCESS);
    }

    fn buffer(&mut self, offset: u32, len: u32) -> Buffer {
        let pages = u64::from((offset + len).div_ceil(4096));
        // Every second frame, so that no two are neighbours.
        let frames = self.guest.allocate(2 * pages).into_iter().step_by(2).collect();
        Buffer { frames, offset, len }
    }

    fn write(&self, buffer: &Buffer, data: &[u8]) {
        let mut rest = data;
        let mut offset = u64::from(buffer.offset);
        for frame in &buffer.frames {
            let (now, later) = rest.split_at(rest.len().min(4096 - offset as usize));
            self.guest.memory.write_slice(now, GuestAddress(frame * 4096 + offset)).unwrap();
            (rest, offset) = (later, 0);
        }
    }

    fn read(&self, buffer: &Buffer) -> Vec<u8> {
        let mut data = vec![0; buffer.len as usize];
        let mut rest = &mut data[..];
        let mut offset = u64::from(buffer.offset);
        for frame in &buffer.frames {
            let len = rest.len().min(4096 - offset as usize);
            let (now, later) = rest.split_at_mut(len);
            self.guest.memory.read_slice(now, GuestAddress(frame * 4096 + offset)).unwrap();
            (rest, offset) = (later, 0);
        }
        data
    }

    fn send(&mut self, packet: &Packet, buffer: Option<&Buffer>) -> u64 {
        let header = buffer.map(Buffer::header).unwrap_or_default();
        let transaction_id = self.next;
        self.next += 1;
        let kind = if buffer.is_some() { PacketType::GPA_DIRECT } else { PacketType::IN_BAND };
        let data = packet.as_bytes();
        let packet =
            OutgoingPacket { kind, completion_requested: true, transaction_id, header: &header, data };
        while !self.channel.send(&packet) {
            std::thread::yield_now();
        }
        transaction_id
    }

    fn answer(&mut self) -> (u64, Packet) {
        let received = self.channel.wait_receive();
        assert_eq!((received.kind, received.data.len()), (PacketType::COMPLETION, PACKET));
        let packet = Packet::read_from_bytes(&received.data).unwrap();
        assert_eq!(packet.operation, Operation::COMPLETE_IO);
        (received.transaction_id, packet)
    }

    fn operate(&mut self, operation: Operation, payload: &[u8]) -> Packet {
        let mut packet = Packet { operation, flags: 1, ..Packet::new_zeroed() };
        packet.payload[..payload.len()].copy_from_slice(payload);
        let sent = self.send(&packet, None);
        let (answered, packet) = self.answer();
        assert_eq!(answered, sent);
        packet
    }

    fn send_srb(&mut self, address: [u8; 3], cdb: &[u8], buffer: Option<&Buffer>) -> u64 {
        let [path, target, lun] = address;
        let mut srb = ScsiRequest {
            length: 52,
            path,
            target,
            lun,
            cdb_length: cdb.len() as u8,
            sense_length: 20,
            data_length: buffer.map_or(0, |buffer| buffer.len),
            ..ScsiRequest::new_zeroed()
        };
        srb.cdb_or_sense[..cdb.len()].copy_from_slice(cdb);
        let mut packet = Packet { operation: Operation::EXECUTE_SRB, flags: 1, ..Packet::new_zeroed() };
        packet.payload.copy_from_slice(srb.as_bytes());
        self.send(&packet, buffer)
    }

    fn execute_at(&mut self, address: [u8; 3], cdb: &[u8], buffer: Option<&Buffer>) -> ScsiRequest {
        let sent = self.send_srb(address, cdb, buffer);
        let (answered, packet) = self.answer();
        assert_eq!((answered, packet.status), (sent, status::SUCCESS));
        ScsiRequest::read_from_bytes(&packet.payload).unwrap()
    }

    fn execute(&mut self, lun: u8, cdb: &[u8], buffer: Option<&Buffer>) -> ScsiRequest {
        self.execute_at([0, 0, lun], cdb, buffer)
    }

    fn unsolicited(&mut self) -> Operation {
        let Received { kind, transaction_id, data } = self.channel.wait_receive();
        assert_eq!((kind, transaction_id), (PacketType::IN_BAND, 0));
        Packet::read_from_bytes(&data).unwrap().operation
    }
}

fn assert_good(srb: &ScsiRequest, moved: u32) {
    assert_eq!((srb.srb_status, srb.scsi_status, srb.data_length), (srb_status::SUCCESS, SCSI_GOOD, moved));
}

/// Sense key and additional sense code of an answer that has sense data.
fn sense(srb: &ScsiRequest) -> (u8, u8) {
    assert_eq!(srb.srb_status, srb_status::ERROR | srb_status::AUTOSENSE_VALID);
    assert_eq!((srb.scsi_status, srb.sense_length), (SCSI_CHECK_CONDITION, 18));
    (srb.cdb_or_sense[2], srb.cdb_or_sense[12])
}

#[test]
fn a_driver_starts_with_every_version() {
    for version in VERSIONS {
        let mut rig = Rig::scsi(4);
        rig.initialize(version);
        assert_eq!(rig.controller.state().text, "driver bound; no units");
    }
}

#[test]
fn unknown_versions_are_a_revision_mismatch_and_the_next_may_do() {
    let mut rig = Rig::scsi(4);
    rig.operate(Operation::BEGIN_INITIALIZATION, &[]);
    for version in [0x0603_u16, 0x0700, 0, 0xffff] {
        let answer = rig.operate(Operation::QUERY_PROTOCOL_VERSION, &version.to_le_bytes());
        assert_eq!(answer.status, status::REVISION_MISMATCH);
    }
    rig.initialize(0x0600);
}

#[test]
fn properties_tell_of_subchannels_from_5_1_on() {
    for (version, expected) in [(0x0402_u16, (0, 0)), (0x0501, (3, SUPPORTS_MULTI_CHANNEL))] {
        let mut rig = Rig::scsi(4);
        rig.operate(Operation::BEGIN_INITIALIZATION, &[]);
        rig.operate(Operation::QUERY_PROTOCOL_VERSION, &version.to_le_bytes());
        let answer = rig.operate(Operation::QUERY_PROPERTIES, &[]);
        let (properties, _) = ChannelProperties::read_from_prefix(&answer.payload).unwrap();
        assert_eq!((properties.max_subchannels, properties.flags), expected);
        assert_eq!(properties.max_transfer, MAX_TRANSFER);
    }
}

#[test]
fn operations_out_of_turn_are_refused() {
    let mut rig = Rig::scsi(4);
    for operation in [
        Operation::QUERY_PROTOCOL_VERSION,
        Operation::QUERY_PROPERTIES,
        Operation::END_INITIALIZATION,
        Operation::CREATE_SUB_CHANNELS,
        Operation::EXECUTE_SRB,
    ] {
        assert_eq!(rig.operate(operation, &[]).status, status::INVALID_DEVICE_STATE, "{operation:?}");
    }
    for operation in [Operation::FCHBA_DATA, Operation(0), Operation(77)] {
        assert_eq!(rig.operate(operation, &[]).status, status::INVALID_DEVICE_REQUEST, "{operation:?}");
    }
}

#[test]
fn reads_and_writes_move_data_between_scattered_pages_and_the_image() {
    let (mut rig, file) = Rig::ready();
    let from = rig.buffer(0x200, 0x6000);
    let data: Vec<u8> = (0..0x6000_u32).map(|at| ((at * 13) >> 3) as u8).collect();
    rig.write(&from, &data);
    assert_good(&rig.execute(0, &write_10(100, 48), Some(&from)), 0x6000);
    let mut written = vec![0; 0x6000];
    file.as_file().read_exact_at(&mut written, 51200).unwrap();
    assert_eq!(written, data);
    let to = rig.buffer(0x600, 0x6400);
    assert_good(&rig.execute(0, &read_10(99, 50), Some(&to)), 0x6400);
    let read = rig.read(&to);
    assert_eq!(read[512..0x6200], data);
    assert_eq!(read[..512], (50688..51200).map(pattern).collect::<Vec<_>>());
    assert_eq!(rig.counters.requests.value(), 2);
    assert_eq!((rig.counters.bytes_out.value(), rig.counters.bytes_in.value()), (0x6000, 0x6400));
}

#[test]
fn a_read_ends_the_code_of_the_pages_it_fills() {
    let (mut rig, _file) = Rig::ready();
    let to = rig.buffer(0, 4096);
    let before = rig.guest.code.mark(to.frames[0]);
    assert_good(&rig.execute(0, &read_10(0, 8), Some(&to)), 4096);
    assert_ne!(rig.guest.code.state(to.frames[0]), before);
}

#[test]
fn cache_flush_and_write_same_carry_no_or_little_data() {
    let (mut rig, file) = Rig::ready();
    assert_good(&rig.execute(0, &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], None), 0);
    let block = rig.buffer(0, 512);
    rig.write(&block, &[0xa5; 512]);
    let srb = rig.execute(0, &[0x41, 0, 0, 0, 0, 3, 0, 0, 200, 0], Some(&block));
    assert_eq!(srb.srb_status, srb_status::SUCCESS);
    let mut written = vec![0; 200 * 512];
    file.as_file().read_exact_at(&mut written, 3 * 512).unwrap();
    assert!(written.iter().all(|byte| *byte == 0xa5));
}

#[test]
fn an_error_brings_sense_data() {
    let (mut rig, _file) = Rig::ready();
    let to = rig.buffer(0, 4096);
    let srb = rig.execute(0, &read_10((DISK_SIZE / 512) as u32, 8), Some(&to));
    assert_eq!(sense(&srb), (0x05, 0x21));
    assert_eq!(srb.data_length, 0);
}

#[test]
fn a_write_to_a_read_only_disk_is_write_protected() {
    let (mut rig, file) = Rig::ready();
    rig.controller.detach(0);
    assert_eq!(rig.unsolicited(), Operation::REMOVE_DEVICE);
    drop(file);
    let file = image();
    rig.controller.attach(1, unit(&file, true));
    assert_eq!(rig.unsolicited(), Operation::ENUMERATE_BUS);
    let from = rig.buffer(0, 512);
    let srb = rig.execute(1, &write_10(0, 1), Some(&from));
    assert_eq!(sense(&srb), (0x07, 0x27));
}

#[test]
fn a_buffer_shorter_than_the_transfer_overruns_and_a_longer_one_has_a_rest() {
    let (mut rig, _file) = Rig::ready();
    let short = rig.buffer(0, 1024);
    let srb = rig.execute(0, &read_10(0, 3), Some(&short));
    assert_eq!((srb.srb_status, srb.data_length), (srb_status::DATA_OVERRUN, 0));
    let long = rig.buffer(0, 4096);
    rig.write(&long, &[0xee; 4096]);
    assert_good(&rig.execute(0, &read_10(0, 3), Some(&long)), 1536);
    assert_eq!(rig.read(&long)[1536..], [0xee; 4096 - 1536]);
}

#[test]
fn a_standard_inquiry_of_nothing_says_so_and_other_commands_find_no_unit() {
    let (mut rig, _file) = Rig::ready();
    let data = rig.buffer(0, 36);
    assert_good(&rig.execute(0, &INQUIRY, Some(&data)), 36);
    assert_eq!(rig.read(&data)[0], 0x00);
    for address in [[0, 0, 1], [0, 1, 0], [3, 0, 0]] {
        assert_good(&rig.execute_at(address, &INQUIRY, Some(&data)), 36);
        assert_eq!(rig.read(&data)[0], 0x7f, "{address:?}");
        let srb = rig.execute_at(address, &TEST_UNIT_READY, None);
        assert_eq!((srb.srb_status, srb.scsi_status), (srb_status::INVALID_LUN, 0), "{address:?}");
    }
}

#[test]
fn luns_are_reported_by_the_only_target_and_none_by_others() {
    let (mut rig, _file) = Rig::ready();
    let other = image();
    rig.controller.attach(7, unit(&other, false));
    assert_eq!(rig.unsolicited(), Operation::ENUMERATE_BUS);
    let data = rig.buffer(0, 512);
    let report = [0xa0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0];
    assert_good(&rig.execute(3, &report, Some(&data)), 24);
    let luns = rig.read(&data);
    assert_eq!((luns[3], luns[9], luns[17]), (16, 0, 7));
    for address in [[0, 1, 0], [1, 0, 0], [7, 1, 0]] {
        rig.write(&data, &[0xee; 512]);
        assert_good(&rig.execute_at(address, &report, Some(&data)), 8);
        assert_eq!(rig.read(&data)[..8], [0; 8], "{address:?}");
    }
}

#[test]
fn many_requests_are_answered_once_each() {
    let (mut rig, _file) = Rig::ready();
    let to = rig.buffer(0, 512);
    let mut sent = HashSet::new();
    let mut answered = HashSet::new();
    for n in 0..2000 {
        sent.insert(rig.send_srb([0, 0, 0], &read_10(n, 1), Some(&to)));
        // Keep some hundred under way.
        if n > 400 {
            assert!(answered.insert(rig.answer().0));
        }
    }
    while answered.len() < sent.len() {
        assert!(answered.insert(rig.answer().0));
    }
    assert_eq!(sent, answered);
    assert!(rig.counters.interrupts.value() <= 2000 + 4);
}

#[test]
fn answers_wait_for_room_in_a_small_ring() {
    // One page of data holds 46 answers of 88 bytes.
    let (mut rig, file) = (Rig::scsi(2), image());
    rig.controller.attach(0, unit(&file, false));
    rig.initialize(0x0602);
    for _ in 0..40 {
        rig.send_srb([0, 0, 0], &TEST_UNIT_READY, None);
    }
    // Room for requests appears while the ring of answers is full.
    for _ in 40..120 {
        rig.send_srb([0, 0, 0], &TEST_UNIT_READY, None);
    }
    for expected in 5..125 {
        assert_eq!(rig.answer().0, expected);
    }
}

#[test]
fn subchannels_carry_requests_of_their_own() {
    let (mut rig, file) = Rig::ready();
    assert_eq!(
        rig.operate(Operation::CREATE_SUB_CHANNELS, &4_u16.to_le_bytes()).status,
        status::INVALID_PARAMETER
    );
    assert_eq!(rig.operate(Operation::CREATE_SUB_CHANNELS, &2_u16.to_le_bytes()).status, status::SUCCESS);
    let offers: [OfferChannel; 2] = [rig.guest.expect(), rig.guest.expect()];
    let primary = std::mem::replace(&mut rig.channel, rig.guest.open(&offers[1], 4, 3).unwrap());
    assert_eq!(rig.controller.state().text, "driver bound, 2 channels; units 0");
    let to = rig.buffer(0, 512);
    assert_good(&rig.execute(0, &read_10(1, 1), Some(&to)), 512);
    assert_eq!(rig.read(&to), (512..1024).map(pattern).collect::<Vec<_>>());
    assert_eq!(rig.operate(Operation::BEGIN_INITIALIZATION, &[]).status, status::INVALID_DEVICE_STATE);
    rig.guest.close(rig.channel);
    let (relid, gpadl) = (primary.relid, primary.gpadl);
    rig.guest.post(&CloseChannel { relid }, &[]).unwrap();
    let rescinded: [RescindChannelOffer; 2] = [rig.guest.expect(), rig.guest.expect()];
    assert_eq!(rescinded.map(|rescind| rescind.relid), offers.map(|offer| offer.relid));
    assert_eq!(rig.guest.call::<_, GpadlTorndown>(&GpadlTeardown { relid, gpadl }).gpadl, gpadl);
    drop(file);
}

#[test]
fn a_unit_that_has_gone_is_announced_and_its_image_is_free() {
    let (mut rig, file) = Rig::ready();
    let to = rig.buffer(0, 512);
    assert_good(&rig.execute(0, &read_10(0, 1), Some(&to)), 512);
    assert!(rig.controller.detach(0).is_some());
    assert_eq!(rig.unsolicited(), Operation::REMOVE_DEVICE);
    assert_eq!(rig.execute(0, &TEST_UNIT_READY, None).srb_status, srb_status::INVALID_LUN);
    // Nobody holds the lock of the image any more.
    rig.controller.attach(0, unit(&file, false));
    assert_eq!(rig.unsolicited(), Operation::ENUMERATE_BUS);
    assert_good(&rig.execute(0, &read_10(0, 1), Some(&to)), 512);
}

#[test]
fn a_drive_without_a_disc_is_not_ready() {
    let (mut rig, _file) = Rig::ready();
    rig.controller.attach(1, Arc::new(DvdUnit::new(None)));
    assert_eq!(rig.unsolicited(), Operation::ENUMERATE_BUS);
    assert_eq!(sense(&rig.execute(1, &TEST_UNIT_READY, None)).0, 0x02);
}

#[test]
fn a_reset_makes_units_say_so() {
    let (mut rig, _file) = Rig::ready();
    assert_eq!(rig.operate(Operation::RESET_BUS, &[]).status, status::SUCCESS);
    assert_eq!(sense(&rig.execute(0, &TEST_UNIT_READY, None)), (0x06, 0x29));
    assert_good(&rig.execute(0, &TEST_UNIT_READY, None), 0);
}

#[test]
fn memory_that_is_not_there_is_an_invalid_request() {
    let (mut rig, _file) = Rig::ready();
    for frame in [4096, 0xffff_ffff, u64::MAX] {
        let nowhere = Buffer { frames: vec![frame], offset: 0, len: 512 };
        for cdb in [&read_10(0, 1)[..], &write_10(0, 1), &INQUIRY, &[0x41, 0, 0, 0, 0, 0, 0, 0, 1, 0]] {
            let srb = rig.execute(0, cdb, Some(&nowhere));
            assert_eq!(srb.srb_status, srb_status::INVALID_REQUEST, "{frame:#x} {cdb:x?}");
        }
    }
    let mut short = rig.buffer(0, 8192);
    short.frames.pop();
    assert_eq!(rig.execute(0, &read_10(0, 16), Some(&short)).srb_status, srb_status::INVALID_REQUEST);
    let long = rig.buffer(0, MAX_TRANSFER + 4096);
    assert_eq!(rig.execute(0, &read_10(0, 8), Some(&long)).srb_status, srb_status::INVALID_REQUEST);
}

#[test]
fn an_old_short_packet_gets_a_short_answer() {
    let mut rig = Rig::scsi(4);
    let packet = Packet { operation: Operation::BEGIN_INITIALIZATION, flags: 1, ..Packet::new_zeroed() };
    let data = &packet.as_bytes()[..PACKET_WIN7];
    let kind = PacketType::IN_BAND;
    let packet = OutgoingPacket { kind, completion_requested: true, transaction_id: 9, header: &[], data };
    assert!(rig.channel.send(&packet));
    let received = rig.channel.wait_receive();
    assert_eq!((received.transaction_id, received.data.len()), (9, PACKET_WIN7));
}

#[test]
fn a_packet_that_wants_no_answer_gets_none() {
    let mut rig = Rig::scsi(4);
    let packet = Packet { operation: Operation::BEGIN_INITIALIZATION, ..Packet::new_zeroed() };
    assert!(rig.channel.send(&OutgoingPacket::in_band(5, packet.as_bytes())));
    let answer = rig.operate(Operation::QUERY_PROTOCOL_VERSION, &0x0602_u16.to_le_bytes());
    assert_eq!(answer.status, status::SUCCESS);
}

#[test]
fn closing_waits_for_requests_and_gives_the_rings_back() {
    let (mut rig, _file) = Rig::ready();
    let to = rig.buffer(0, 512);
    for n in 0..100 {
        rig.send_srb([0, 0, 0], &read_10(n, 1), Some(&to));
    }
    rig.guest.close(rig.channel);
    assert_eq!(rig.controller.state().text, "no driver; units 0");
    rig.channel = rig.guest.open(&rig.offer, 4, 1).unwrap();
    rig.initialize(0x0501);
}

#[test]
fn a_broken_ring_ends_the_channel_but_not_the_bus() {
    let (mut rig, _file) = Rig::ready();
    // A packet whose length is nothing but its descriptor's claim.
    let control = rig.channel.relid;
    let frames: Vec<u64> = (1..17).collect();
    rig.guest.memory.write_obj(0xffff_ffff_u32, GuestAddress(frames[0] * 4096)).unwrap();
    rig.channel.signal();
    rig.guest.post(&CloseChannel { relid: control }, &[]).unwrap();
    rig.guest.close(rig.channel);
    rig.channel = rig.guest.open(&rig.offer, 4, 1).unwrap();
    rig.initialize(0x0602);
}

#[test]
fn an_ide_disk_belongs_to_the_channel_while_it_is_open() {
    let file = image();
    let disk = SharedDisk::new(open(file.path(), &OpenOptions::default()).unwrap());
    let ownership = Arc::clone(&disk.ownership);
    let counters = DeviceCounters::default();
    let controller = Controller::ide("ide0-0", 1, 1, disk, counters.clone());
    assert_eq!(ownership.owner(), Owner::Emulated);
    let mut rig = Rig::with(controller, counters, 4);
    assert_eq!(ownership.owner(), Owner::Synthetic);
    assert_eq!(rig.offer.interface, IDE_INTERFACE);
    assert_eq!(rig.offer.instance.to_string(), "00000001-0001-8899-0000-000000000000");
    // Linux takes the target from bytes 5 and 4.
    assert_eq!(rig.offer.instance.bytes()[4..6], [1, 0]);
    assert_eq!(rig.offer.user_data[..12], [0, 0, 1, 1, 0, 0, 0, 0, 2, 0, 0, 0]);
    rig.initialize(0x0602);
    let to = rig.buffer(0, 512);
    assert_good(&rig.execute_at([0, 1, 0], &read_10(0, 1), Some(&to)), 512);
    rig.guest.close(rig.channel);
    assert_eq!(ownership.owner(), Owner::Emulated);
}

#[test]
fn scsi_controllers_have_different_instances() {
    let instances: HashSet<Guid> = (0..600).map(scsi_instance).collect();
    assert_eq!(instances.len(), 600);
}
