//! Channel messages: a guest that says anything in any order, and a host that adds, removes and gives back
//! meanwhile. At the end the bus must still serve a guest that behaves.
#![no_main]

use std::sync::{Arc, Mutex};

use counters::DeviceCounters;
use fuzz::Input;
use libfuzzer_sys::fuzz_target;
use vmbus::loopback::Guest;
use vmbus::protocol::{InitiateContact, MessageType, USER_DATA_SIZE, Version};
use vmbus::{Channel, Device, Guid, Offer, OpenError};

const PROCESSORS: u32 = 3;
const PAGES: u64 = 32;

struct Shelf {
    number: u32,
    channels: Mutex<Vec<Channel>>,
}

impl Device for Shelf {
    fn offer(&self) -> Offer {
        Offer {
            interface: Guid::new(1, 0, 0, [0; 8]),
            instance: Guid::new(self.number, 0, 0, [0; 8]),
            flags: 0,
            mmio_megabytes: 0,
            user_data: [0; USER_DATA_SIZE],
            counters: DeviceCounters::default(),
        }
    }

    fn open(&self, channel: Channel) -> Result<(), OpenError> {
        if self.number == 2 {
            return Err("never".into());
        }
        self.channels.lock().unwrap().push(channel);
        Ok(())
    }
}

/// A message whose fields are mostly such as a guest would use.
fn message(input: &mut Input<'_>) -> Vec<u8> {
    let kind = u32::from(input.u8() % 26);
    let mut message = kind.to_le_bytes().to_vec();
    message.extend([0; 4]);
    let words = input.u8() % 60;
    for _ in 0..words {
        let word = match input.u8() {
            choice @ 0..64 => u32::from(choice),
            64..96 => 0x0005_0000 | u32::from(input.u8() % 5),
            // A range of some pages: bytes of words, one range.
            choice @ 96..128 => u32::from(choice) * 8 | 1 << 16,
            choice @ 128..192 => u32::from(choice - 128) << 12,
            _ => input.u32(),
        };
        message.extend(word.to_le_bytes());
    }
    message.truncate(message.len() - usize::from(input.u8() % 4));
    message
}

/// Memory and channels as Linux sets them up, so that the input gets past the first checks.
fn open_one(guest: &mut Guest, relid: u32, gpadl: u32, input: &mut Input<'_>) {
    let pages = 4 + u64::from(input.u8() % 8);
    let mut header = MessageType::GPADL_HEADER.0.to_le_bytes().to_vec();
    header.extend([0; 4]);
    header.extend(relid.to_le_bytes());
    header.extend(gpadl.to_le_bytes());
    header.extend((8 + 8 * pages as u16).to_le_bytes());
    header.extend(1_u16.to_le_bytes());
    header.extend((pages as u32 * 4096).to_le_bytes());
    header.extend([0; 4]);
    (1..=pages).for_each(|frame| header.extend(frame.to_le_bytes()));
    let _ = guest.server.message(&header);
    let mut open = MessageType::OPEN_CHANNEL.0.to_le_bytes().to_vec();
    open.extend([0; 4]);
    for field in [relid, 1, gpadl, u32::from(input.u8()) % PROCESSORS, pages as u32 / 2] {
        open.extend(field.to_le_bytes());
    }
    open.extend([0; USER_DATA_SIZE]);
    let _ = guest.server.message(&open);
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let mut guest = Guest::new(PROCESSORS, PAGES);
    let devices: Vec<_> =
        (0..4).map(|number| Arc::new(Shelf { number, channels: Mutex::default() })).collect();
    for device in &devices[..3] {
        guest.server.offer(device.clone()).unwrap();
    }
    if input.u8() % 8 != 0 {
        guest.connect(Version::SUPPORTED[usize::from(input.u8()) % Version::SUPPORTED.len()]);
        guest.request_offers();
    }
    while !input.is_empty() {
        let choice = input.u8();
        let device = &devices[usize::from(choice >> 6)];
        match choice % 16 {
            0 => open_one(&mut guest, u32::from(input.u8() % 8), u32::from(input.u8() % 4), &mut input),
            1 => {
                let _ = guest.server.event(0x2000 + u32::from(input.u8()), 0);
            }
            2 => {
                let _ = guest.server.event(input.u32(), input.u16());
            }
            3 => {
                guest.server.rescind(Guid::new(device.number, 0, 0, [0; 8]));
            }
            4 => {
                let _ = guest.server.offer(device.clone());
            }
            5 => {
                let channels = device.channels.lock().unwrap();
                if let Some(channel) = channels.first() {
                    let _ = channel.offer_subchannels(u16::from(input.u8() % 8));
                    channel.interrupt();
                }
            }
            6 => {
                let channel = device.channels.lock().unwrap().pop();
                drop(channel);
            }
            7 => guest.mailbox.set_full(input.u8() % 2 == 0),
            8 => guest.server.retry_messages(),
            _ => {
                let _ = guest.server.message(&message(&mut input));
            }
        }
    }
    // A kernel that has crashed and starts anew.
    guest.mailbox.set_full(false);
    guest.server.retry_messages();
    for device in &devices {
        let channels = std::mem::take(&mut *device.channels.lock().unwrap());
        drop(channels);
    }
    guest.server.reset();
    while guest.mailbox.message().is_some() {}
    assert_eq!(guest.connect(Version::WIN10_V5_3).supported, 1);
    for offer in guest.request_offers() {
        assert_eq!(offer.subchannel_index, 0);
    }
    let contact = InitiateContact {
        version: Version::WIN8,
        target_vp: 0,
        interrupt_page_or_target: 0,
        parent_to_child_monitor_page: 0,
        child_to_parent_monitor_page: 0,
    };
    guest.post(&contact, &[]).unwrap();
});
