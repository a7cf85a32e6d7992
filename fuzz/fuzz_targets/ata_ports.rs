//! Ports of the IDE controller, with a disk and an optical drive: any register, any command, any table of
//! the bus master, and the synthetic side taking the disk away meanwhile.
#![no_main]

use std::sync::{Arc, OnceLock};

use chipset::bus::PortDevice;
use chipset::ide::{Attachment, CHANNEL_PORTS, IdeController};
use chipset::pci::PciFunction;
use counters::DeviceCounters;
use fuzz::Input;
use interrupt::{Line, NotConnected};
use libfuzzer_sys::fuzz_target;
use storage::scsi::DvdUnit;
use storage::{Disk, OpenOptions, Owner, SharedDisk};
use vm_memory::{Bytes, GuestAddress};

const MEMORY: u64 = 0x1_0000;
const BUS_MASTER: u16 = 0xc000;
/// Commands of disks and drives, so that not all have to be found by chance.
const COMMANDS: [u8; 24] = [
    0x00, 0x08, 0x20, 0x24, 0x25, 0x29, 0x30, 0x34, 0x35, 0x39, 0x40, 0x90, 0xa0, 0xa1, 0xc4, 0xc5, 0xc6,
    0xc8, 0xca, 0xe7, 0xea, 0xec, 0xef, 0x06,
];

fn images() -> [Arc<dyn Disk>; 2] {
    type Images = [(tempfile::NamedTempFile, Arc<dyn Disk>); 2];
    static IMAGES: OnceLock<Images> = OnceLock::new();
    let open = |options: OpenOptions| {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let disk = storage::open(file.path(), &options).unwrap();
        (file, disk)
    };
    let images = IMAGES.get_or_init(|| [open(OpenOptions::default()), open(OpenOptions::optical())]);
    [Arc::clone(&images[0].1), Arc::clone(&images[1].1)]
}

fn write_register(ide: &mut IdeController, channel: usize, input: &mut Input<'_>) {
    let register = u16::from(input.u8() % 8);
    let value = match (register, input.u8()) {
        (7, choice) => COMMANDS.get(usize::from(choice)).copied().unwrap_or(choice),
        // Small addresses and counts hit the medium.
        (2..6, choice) => choice % 16,
        (_, choice) => choice,
    };
    ide.port_write(CHANNEL_PORTS[channel].0 + register, &[value]);
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (memory, _) = guest_memory::allocate(MEMORY).unwrap();
    let [disk, disc] = images();
    let shared = SharedDisk::new(disk);
    let line = || Arc::new(NotConnected) as Arc<dyn Line>;
    let mut ide = IdeController::new([line(), line()], memory.clone());
    ide.attach(0, 0, Attachment::Disk(shared.clone()), DeviceCounters::default());
    ide.attach(1, 0, Attachment::Optical(Arc::new(DvdUnit::new(Some(disc)))), DeviceCounters::default());
    ide.attach(1, 1, Attachment::Optical(Arc::new(DvdUnit::new(None))), DeviceCounters::default());
    ide.config_write(0x20, u32::from(BUS_MASTER), u32::MAX);
    ide.config_write(0x04, 5, 0xffff);
    while !input.is_empty() {
        let choice = input.u8();
        let channel = usize::from(choice & 1);
        let (command, control) = CHANNEL_PORTS[channel];
        let width = [1, 2, 4, 4][usize::from(choice >> 1 & 3)];
        let mut data = [0xff; 4];
        match choice >> 3 {
            0..8 => write_register(&mut ide, channel, &mut input),
            8..12 => {
                // As much of a block as the input says.
                for _ in 0..usize::from(input.u8()) * 2 {
                    ide.port_read(command, &mut data[..width]);
                }
            }
            12..16 => {
                for _ in 0..usize::from(input.u8()) {
                    ide.port_write(command, &data[..width]);
                }
                let packet = input.slice(12);
                packet.chunks_exact(2).for_each(|word| ide.port_write(command, word));
            }
            16..18 => ide.port_read(command + u16::from(input.u8() % 8), &mut data[..width]),
            18 => ide.port_write(control, &[input.u8()]),
            19 => ide.port_read(control, &mut data[..1]),
            20..24 => {
                let port = BUS_MASTER + u16::from(input.u8() % 16);
                let value = input.u32().to_le_bytes();
                ide.port_write(port, &value[..width]);
            }
            24 => ide.port_read(BUS_MASTER + u16::from(input.u8() % 16), &mut data[..width]),
            25..28 => {
                // A descriptor of the bus master's table at the start of memory.
                let descriptor = u64::from(input.u16())
                    | u64::from(input.u16() & 0xfffe) << 32
                    | u64::from(input.u8()) << 63;
                let at = u64::from(input.u8() % 16) * 8;
                memory.write_slice(&descriptor.to_le_bytes(), GuestAddress(at)).unwrap();
            }
            28 => {
                let owner = if input.u8() % 2 == 0 { Owner::Emulated } else { Owner::Synthetic };
                shared.ownership.take(owner);
            }
            29 => ide.config_write(input.u8() & 0xfc, input.u32(), input.u32()),
            30 => {
                ide.config_read(input.u8() & 0xfc);
            }
            _ => ide.reset(),
        }
    }
});
