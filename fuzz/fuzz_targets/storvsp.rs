//! Packets to StorVSP, with and without data, and rings that the guest overwrites. Whatever happens, the
//! channel can be closed and its memory comes back.
#![no_main]

use std::sync::{Arc, OnceLock};

use counters::DeviceCounters;
use fuzz::Input;
use libfuzzer_sys::fuzz_target;
use storage::scsi::{DiskUnit, DvdUnit};
use storage::{Disk, OpenOptions};
use synthetic::storage::{Controller, ScsiSettings, scsi_instance};
use vm_memory::{Bytes, GuestAddress};
use vmbus::loopback::{Guest, GuestChannel};
use vmbus::protocol::{OfferChannel, Version};
use vmbus::ring::{OutgoingPacket, PacketType};

const PAGES: u64 = 64;
const RING_PAGES: u64 = 3;
/// Requests for one input.
const REQUESTS: usize = 64;

fn disk() -> Arc<dyn Disk> {
    static DISK: OnceLock<(tempfile::NamedTempFile, Arc<dyn Disk>)> = OnceLock::new();
    let (_, disk) = DISK.get_or_init(|| {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let disk = storage::open(file.path(), &OpenOptions::default()).unwrap();
        (file, disk)
    });
    Arc::clone(disk)
}

/// A packet of 64 bytes: an operation, then for a command its address and the command itself.
fn packet(operation: u32, input: &mut Input<'_>) -> [u8; 64] {
    let mut packet = [0; 64];
    packet[..4].copy_from_slice(&operation.to_le_bytes());
    if operation == 3 {
        let choice = input.u8();
        packet[17] = choice & 1;
        packet[18] = choice >> 1 & 1;
        packet[19] = choice >> 2 & 3;
        packet[20] = input.u8() % 18;
        packet[21] = choice;
        packet[24..28].copy_from_slice(&(u32::from(input.u16()) * 64).to_le_bytes());
        let cdb = input.slice(16);
        packet[28..28 + cdb.len()].copy_from_slice(cdb);
    } else {
        let payload = input.slice(4);
        packet[12..12 + payload.len()].copy_from_slice(payload);
    }
    packet
}

fn send(channel: &mut GuestChannel, data: &[u8], pages: u8, input: &mut Input<'_>) {
    let offset = u64::from(input.u16() % 4096);
    let bytes = u64::from(pages) * 4096;
    let mut header = vec![1 << 32, offset << 32 | bytes.saturating_sub(offset)];
    for _ in 0..pages {
        // Mostly in memory, but not in the rings.
        let choice = input.u8();
        header.push(if choice < 250 { 16 + u64::from(choice) % (PAGES - 16) } else { input.u64() });
    }
    let kind = if pages == 0 { PacketType::IN_BAND } else { PacketType::GPA_DIRECT };
    let header = if pages == 0 { &[][..] } else { &header };
    let packet = OutgoingPacket { kind, completion_requested: true, transaction_id: 7, header, data };
    // A ring without room drops it.
    let _ = channel.outgoing.write(&packet);
    channel.outgoing.commit();
    channel.signal();
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let mut guest = Guest::new(2, PAGES);
    let settings = ScsiSettings {
        name: "fuzz".to_owned(),
        instance: scsi_instance(0),
        subchannels: 2,
        counters: DeviceCounters::default(),
    };
    let controller = Controller::scsi(settings);
    controller.attach(0, Arc::new(DiskUnit::new(disk())));
    controller.attach(1, Arc::new(DvdUnit::new(None)));
    guest.server.offer(controller.clone()).unwrap();
    guest.connect(Version::WIN10_V5_3);
    let offer: OfferChannel = guest.request_offers()[0];
    let mut channel = guest.open(&offer, RING_PAGES, 0).unwrap();
    if input.u8() % 8 != 0 {
        for operation in [7, 9, 10, 8] {
            let mut version = [0; 64];
            version[0] = operation;
            version[12..14].copy_from_slice(&0x0602_u16.to_le_bytes());
            send(&mut channel, &version, 0, &mut Input(&[]));
        }
    }
    for _ in 0..REQUESTS {
        if input.is_empty() {
            break;
        }
        match input.u8() {
            // The rings are the first pages of memory.
            0..4 => {
                let address = u64::from(input.u16()) % (2 * RING_PAGES * 4096) + 4096;
                guest.memory.write_slice(input.slice(8), GuestAddress(address)).unwrap();
                channel.signal();
            }
            4 => {
                controller.detach(1);
            }
            5 => {
                controller.attach(1, Arc::new(DiskUnit::new(disk())));
            }
            6..32 => {
                let operation = u32::from(input.u8() % 16);
                let packet = packet(operation, &mut input);
                let length = usize::from(input.u8()) % 65;
                send(&mut channel, &packet[..length], 0, &mut input);
            }
            32..64 => {
                let packet = packet(3, &mut input);
                send(&mut channel, &packet, 0, &mut input);
            }
            64..80 => {
                // Make room.
                if let Ok(mut batch) = channel.incoming.batch() {
                    while let Ok(Some(_)) = batch.next_packet() {}
                    let _ = batch.finish();
                }
                channel.signal();
            }
            choice => {
                let packet = packet(3, &mut input);
                send(&mut channel, &packet, choice % 16, &mut input);
            }
        }
    }
    while guest.mailbox.message().is_some() {}
    // The guest crashes and its next kernel comes: the answer says that the channel has been given back.
    assert_eq!(guest.connect(Version::WIN10_V5_3).supported, 1);
    assert_eq!(controller.state().text, "no driver");
});
