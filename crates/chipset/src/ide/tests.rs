use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use storage::scsi::DvdUnit;
use storage::{OpenOptions, Owner, SharedDisk};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::line::tests::Probe;
use crate::pci::{self, BarListener, FunctionAddress, PciBus, SOUTH_BRIDGE};

const ADDRESS: FunctionAddress = pci::ide(SOUTH_BRIDGE);
const SECTORS: u64 = 4096;
const BUS_MASTER: u16 = 0xc000;

const BSY: u8 = 0x80;
const DRDY: u8 = 0x40;
const DF: u8 = 0x20;
const DSC: u8 = 0x10;
const DRQ: u8 = 0x08;
const ERR: u8 = 0x01;

/// A machine with a controller: a disk as primary master, an optical drive as secondary master.
struct Rig {
    ide: IdeController,
    irqs: [Arc<Probe>; 2],
    memory: GuestMemory,
    disk: SharedDisk,
    dvd: Arc<DvdUnit>,
    counters: DeviceCounters,
    _files: [tempfile::NamedTempFile; 2],
}

fn contents(sector: u64) -> Vec<u8> {
    (0..512_u64).map(|at| (sector.wrapping_mul(31) ^ at) as u8).collect()
}

fn image() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), (0..SECTORS).flat_map(contents).collect::<Vec<_>>()).unwrap();
    file
}

fn rig() -> Rig {
    rig_with(OpenOptions::default())
}

fn rig_with(options: OpenOptions) -> Rig {
    let files = [image(), image()];
    let disk = SharedDisk::new(storage::open(files[0].path(), &options).unwrap());
    let disc = storage::open(files[1].path(), &OpenOptions::optical()).unwrap();
    let dvd = Arc::new(DvdUnit::new(Some(disc)));
    let (memory, _) = guest_memory::allocate(4 << 20).unwrap();
    let irqs = [Probe::new(), Probe::new()];
    let mut ide = IdeController::new([irqs[0].clone(), irqs[1].clone()], memory.clone());
    let counters = DeviceCounters::default();
    ide.attach(0, 0, Attachment::Disk(disk.clone()), counters.clone());
    ide.attach(1, 0, Attachment::Optical(dvd.clone()), DeviceCounters::default());
    ide.config_write(0x20, u32::from(BUS_MASTER), u32::MAX);
    ide.config_write(0x04, 5, 0xffff);
    Rig { ide, irqs, memory, disk, dvd, counters, _files: files }
}

impl Rig {
    fn port(&mut self, channel: usize, register: u16) -> u8 {
        let mut data = [0xff];
        self.ide.port_read(CHANNEL_PORTS[channel].0 + register, &mut data);
        data[0]
    }

    fn set(&mut self, channel: usize, register: u16, value: u8) {
        self.ide.port_write(CHANNEL_PORTS[channel].0 + register, &[value]);
    }

    fn alternate_status(&mut self, channel: usize) -> u8 {
        let mut data = [0xff];
        self.ide.port_read(CHANNEL_PORTS[channel].1, &mut data);
        data[0]
    }

    fn control(&mut self, channel: usize, value: u8) {
        self.ide.port_write(CHANNEL_PORTS[channel].1, &[value]);
    }

    fn data(&mut self, channel: usize, bytes: usize) -> Vec<u8> {
        let mut all = vec![0; bytes];
        for word in all.chunks_mut(4) {
            self.ide.port_read(CHANNEL_PORTS[channel].0, word);
        }
        all
    }

    fn put(&mut self, channel: usize, data: &[u8]) {
        for word in data.chunks(2) {
            self.ide.port_write(CHANNEL_PORTS[channel].0, word);
        }
    }

    /// A 28-bit command to the disk.
    fn lba28(&mut self, lba: u64, count: u8, command: u8) {
        let bytes = lba.to_le_bytes();
        self.set(0, 6, 0x40 | bytes[3] & 0x0f);
        self.set(0, 2, count);
        (0..3).for_each(|index| self.set(0, 3 + index as u16, bytes[index]));
        self.set(0, 7, command);
    }

    /// A 48-bit command to the disk.
    fn lba48(&mut self, lba: u64, count: u16, command: u8) {
        let bytes = lba.to_le_bytes();
        self.set(0, 6, 0x40);
        self.set(0, 2, (count >> 8) as u8);
        (0..3).for_each(|index| self.set(0, 3 + index as u16, bytes[index + 3]));
        self.set(0, 2, count as u8);
        (0..3).for_each(|index| self.set(0, 3 + index as u16, bytes[index]));
        self.set(0, 7, command);
    }

    /// Waits for the interrupt as a driver does: the line has risen; the status is read.
    fn interrupt(&mut self, channel: usize) -> u8 {
        assert!(self.irqs[channel].is_high(), "no interrupt, status {:#x}", self.alternate_status(channel));
        let status = self.port(channel, 7);
        assert!(!self.irqs[channel].is_high());
        status
    }

    fn table(&mut self, channel: usize, descriptors: &[(u32, u32)]) {
        const TABLE: u64 = 0x1000;
        for (index, (base, control)) in descriptors.iter().enumerate() {
            let descriptor = u64::from(*control) << 32 | u64::from(*base);
            self.memory.write_obj(descriptor, GuestAddress(TABLE + 8 * index as u64)).unwrap();
        }
        self.ide.port_write(BUS_MASTER + 8 * channel as u16 + 4, &(TABLE as u32).to_le_bytes());
    }

    fn master(&mut self, channel: usize, command: u8) {
        self.ide.port_write(BUS_MASTER + 8 * channel as u16, &[command]);
    }

    fn master_status(&mut self, channel: usize) -> u8 {
        let mut data = [0xff];
        self.ide.port_read(BUS_MASTER + 8 * channel as u16 + 2, &mut data);
        data[0]
    }

    /// Sends a command packet and checks the handshake.
    fn packet(&mut self, cdb: &[u8], dma: bool, limit: u16) {
        let mut packet = [0; 12];
        packet[..cdb.len()].copy_from_slice(cdb);
        let [low, high] = limit.to_le_bytes();
        for (register, value) in [(6, 0xa0), (1, u8::from(dma)), (4, low), (5, high), (7, 0xa0)] {
            self.set(1, register, value);
        }
        assert!(!self.irqs[1].is_high());
        assert_eq!((self.port(1, 7), self.port(1, 2)), (DRDY | DSC | DRQ, 0x01));
        self.put(1, &packet);
    }

    /// Reads the portions of a packet command to its end.
    fn packet_data(&mut self) -> Vec<u8> {
        let mut data = Vec::new();
        loop {
            let status = self.interrupt(1);
            if status & DRQ == 0 {
                assert_eq!((status & ERR, self.port(1, 2)), (0, 0x03));
                return data;
            }
            assert_eq!(self.port(1, 2), 0x02);
            let count = usize::from(u16::from_le_bytes([self.port(1, 4), self.port(1, 5)]));
            let mut portion = self.data(1, count.next_multiple_of(2));
            portion.truncate(count);
            data.extend(portion);
        }
    }
}

fn words(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
}

fn text(words: &[u16]) -> String {
    words.iter().flat_map(|word| word.to_be_bytes()).map(char::from).collect()
}

#[test]
fn a_string_of_accesses_to_the_data_port_reads_and_writes_what_single_ones_do() {
    const READ_SECTORS: u8 = 0x20;
    const WRITE_SECTORS: u8 = 0x30;
    let mut rig = rig();
    // Two blocks, more than is there, from the middle of the first one on.
    rig.lba28(7, 2, READ_SECTORS);
    let begin = rig.data(0, 4);
    let mut rest = [0xff; 1024];
    rig.ide.port_read_string(0x1f0, 2, &mut rest);
    let expected = [contents(7), contents(8), vec![0xff; 4]].concat();
    assert_eq!([begin, rest.to_vec()].concat(), expected);
    assert_eq!(rig.port(0, 7) & (BSY | DRQ | ERR), 0);

    rig.lba28(9, 2, WRITE_SECTORS);
    rig.ide.port_write_string(0x1f0, 4, &[0xa5; 512]);
    assert_eq!(rig.port(0, 7) & (DRQ | ERR), DRQ);
    rig.ide.port_write_string(0x1f0, 4, &[0x5a; 516]);
    assert_eq!(rig.port(0, 7) & (DRQ | ERR), 0);
    rig.lba28(9, 3, READ_SECTORS);
    let mut all = [0; 3 * 512];
    rig.ide.port_read_string(0x1f0, 4, &mut all);
    assert_eq!(all.to_vec(), [vec![0xa5; 512], vec![0x5a; 512], contents(11)].concat());
    // Where no drive is, nothing answers; other registers have no strings.
    let mut nobody = [0xff; 8];
    rig.set(0, 6, 0x10);
    rig.ide.port_read_string(0x1f0, 2, &mut nobody);
    assert_eq!(nobody, [0; 8]);
    rig.set(0, 6, 0);
    let mut status = [0xff; 3];
    rig.ide.port_read_string(0x1f7, 1, &mut status);
    assert_eq!(status, [DRDY | DSC; 3]);
}

#[test]
fn identify_names_a_virtual_hd_with_48_bit_addresses_and_dma() {
    let mut rig = rig();
    rig.lba28(0, 0, 0xec);
    assert_eq!(rig.interrupt(0), DRDY | DSC | DRQ);
    let bytes = rig.data(0, 512);
    assert_eq!(rig.port(0, 7), DRDY | DSC);
    let words = words(&bytes);
    assert_eq!(words[0], 0x0040);
    assert_eq!(text(&words[27..47]).trim_end(), "Virtual HD");
    assert_eq!(text(&words[10..20]), rig.disk.disk.info().serial);
    assert_eq!((words[60], words[61], words[100], words[101]), (4096, 0, 4096, 0));
    assert_eq!(words[49] & 0x0300, 0x0300);
    assert_eq!((words[83] & 0xf400, words[86] & 0x3400), (0x7400, 0x3400));
    assert_eq!((words[63], words[88]), (0x0007, 0x003f));
    assert_eq!(bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    assert_eq!(bytes[510], 0xa5);
}

#[test]
fn the_selected_transfer_mode_shows_in_identify() {
    let mut rig = rig();
    rig.set(0, 1, 0x03);
    rig.lba28(0, 0x42, 0xef);
    assert_eq!(rig.interrupt(0), DRDY | DSC);
    rig.lba28(0, 0, 0xec);
    rig.interrupt(0);
    assert_eq!(words(&rig.data(0, 512))[88], 0x043f);
    rig.set(0, 1, 0x03);
    rig.lba28(0, 0x46, 0xef);
    assert_eq!((rig.interrupt(0), rig.port(0, 1)), (DRDY | DSC | ERR, 0x04));
}

#[test]
fn read_sectors_interrupts_for_every_sector_and_not_after_the_last() {
    let mut rig = rig();
    rig.lba28(5, 2, 0x20);
    for sector in [5, 6] {
        assert_eq!(rig.interrupt(0), DRDY | DSC | DRQ);
        assert_eq!(rig.data(0, 512), contents(sector));
    }
    assert!(!rig.irqs[0].is_high());
    assert_eq!(rig.port(0, 7), DRDY | DSC);
    assert_eq!(rig.irqs[0].take_edges(), 2);
    assert_eq!((rig.counters.requests.value(), rig.counters.bytes_in.value()), (1, 1024));
}

#[test]
fn write_sectors_asks_for_the_first_sector_silently() {
    let mut rig = rig();
    rig.lba28(7, 2, 0x30);
    assert!(!rig.irqs[0].is_high());
    assert_eq!(rig.alternate_status(0), DRDY | DSC | DRQ);
    rig.put(0, &[0x11; 512]);
    assert_eq!(rig.interrupt(0), DRDY | DSC | DRQ);
    rig.put(0, &[0x22; 512]);
    assert_eq!(rig.interrupt(0), DRDY | DSC);
    let mut back = [0; 1024];
    rig.disk.disk.read_at(7 * 512, &mut back).unwrap();
    assert_eq!((&back[..512], &back[512..]), (&[0x11; 512][..], &[0x22; 512][..]));
}

#[test]
fn read_multiple_ext_moves_blocks() {
    let mut rig = rig();
    rig.lba48(0, 1, 0x29);
    assert_eq!((rig.interrupt(0), rig.port(0, 1)), (DRDY | DSC | ERR, 0x04));
    rig.lba28(0, 16, 0xc6);
    assert_eq!(rig.interrupt(0), DRDY | DSC);
    rig.lba48(100, 20, 0x29);
    rig.interrupt(0);
    let mut data = rig.data(0, 16 * 512);
    rig.interrupt(0);
    data.extend(rig.data(0, 4 * 512));
    assert_eq!(data, (100..120).flat_map(contents).collect::<Vec<_>>());
    assert_eq!(rig.port(0, 7), DRDY | DSC);
}

#[test]
fn sector_count_zero_means_256_or_65536() {
    let mut rig = rig();
    rig.lba28(SECTORS - 256, 0, 0x40);
    assert_eq!(rig.interrupt(0), DRDY | DSC);
    rig.lba28(SECTORS - 255, 0, 0x40);
    assert_eq!((rig.interrupt(0), rig.port(0, 1)), (DRDY | DSC | ERR, 0x10));
    rig.lba48(0, 0, 0x42);
    assert_eq!((rig.interrupt(0), rig.port(0, 1)), (DRDY | DSC | ERR, 0x10));
}

#[test]
fn cylinders_heads_and_sectors_are_translated() {
    let mut rig = rig();
    // Cylinder 1, head 2, sector 3 of 16 heads and 63 sectors.
    for (register, value) in [(6, 0x02), (2, 1), (3, 3), (4, 1), (5, 0), (7, 0x20)] {
        rig.set(0, register, value);
    }
    rig.interrupt(0);
    assert_eq!(rig.data(0, 512), contents((16 + 2) * 63 + 2));
    for (register, value) in [(6, 0x00), (2, 1), (3, 0), (4, 0), (5, 0), (7, 0x20)] {
        rig.set(0, register, value);
    }
    assert_eq!((rig.interrupt(0), rig.port(0, 1)), (DRDY | DSC | ERR, 0x10));
}

#[test]
fn read_dma_fills_the_regions_of_the_table() {
    let mut rig = rig();
    rig.table(0, &[(0x1_0000, 512), (0x2_0000, 0x8000_0000 | 1536)]);
    rig.master(0, 0x08);
    rig.lba48(10, 4, 0x25);
    assert_eq!(rig.alternate_status(0), BSY | DRQ);
    assert!(!rig.irqs[0].is_high());
    rig.master(0, 0x09);
    assert_eq!(rig.master_status(0) & 0x07, 0x04);
    rig.master(0, 0x08);
    assert_eq!(rig.interrupt(0), DRDY | DSC);
    let mut data = vec![0; 2048];
    rig.memory.read_slice(&mut data[..512], GuestAddress(0x1_0000)).unwrap();
    rig.memory.read_slice(&mut data[512..], GuestAddress(0x2_0000)).unwrap();
    assert_eq!(data, (10..14).flat_map(contents).collect::<Vec<_>>());
    rig.ide.port_write(BUS_MASTER + 2, &[0x64]);
    assert_eq!(rig.master_status(0), 0x60);
}

#[test]
fn write_dma_waits_for_its_command_when_started_first() {
    let mut rig = rig();
    rig.memory.write_slice(&[0x33; 1024], GuestAddress(0x1_0000)).unwrap();
    rig.table(0, &[(0x1_0000, 0x8000_0000 | 1024)]);
    rig.master(0, 0x01);
    assert_eq!(rig.master_status(0) & 0x07, 0x01);
    rig.lba48(20, 2, 0x3d);
    assert_eq!(rig.interrupt(0), DRDY | DSC);
    assert_eq!(rig.master_status(0) & 0x07, 0x04);
    let mut back = [0; 1024];
    rig.disk.disk.read_at(20 * 512, &mut back).unwrap();
    assert_eq!(back, [0x33; 1024]);
}

#[test]
fn a_longer_table_leaves_the_bus_master_active_and_a_shorter_one_leaves_the_drive_waiting() {
    let mut rig = rig();
    rig.table(0, &[(0x1_0000, 0x8000_0000)]);
    rig.lba28(0, 1, 0xc8);
    rig.master(0, 0x09);
    assert_eq!(rig.master_status(0) & 0x07, 0x05);
    rig.interrupt(0);
    rig.master(0, 0x08);
    rig.ide.port_write(BUS_MASTER + 2, &[0x04]);

    rig.table(0, &[(0x1_0000, 0x8000_0000 | 1024)]);
    rig.lba28(0, 3, 0xc8);
    rig.master(0, 0x09);
    assert_eq!(rig.master_status(0) & 0x07, 0x00);
    assert!(!rig.irqs[0].is_high());
    assert_eq!(rig.alternate_status(0), BSY | DRQ);
    rig.master(0, 0x08);
    rig.master(0, 0x09);
    assert_eq!(rig.interrupt(0), DRDY | DSC);
    let mut data = [0; 512];
    rig.memory.read_slice(&mut data, GuestAddress(0x1_0000)).unwrap();
    assert_eq!(data[..], contents(2));
}

#[test]
fn a_region_or_table_outside_memory_is_a_bus_error() {
    let mut rig = rig();
    for region in [0x7fff_0000, 0x003f_ff00] {
        rig.table(0, &[(region, 0x8000_0000 | 512)]);
        rig.lba28(0, 1, 0xc8);
        rig.master(0, 0x09);
        assert_eq!(rig.master_status(0) & 0x03, 0x02);
        assert_eq!(rig.interrupt(0), DRDY | DSC | ERR);
        rig.master(0, 0);
        rig.ide.port_write(BUS_MASTER + 2, &[0x06]);
    }
    rig.ide.port_write(BUS_MASTER + 4, &0x7fff_0000_u32.to_le_bytes());
    rig.lba28(0, 1, 0xc8);
    rig.master(0, 0x09);
    assert_eq!(rig.master_status(0) & 0x03, 0x02);
}

#[test]
fn a_table_without_an_end_is_a_bus_error() {
    let mut rig = rig();
    rig.table(0, &vec![(0x8_0000, 2); 8192 + 8]);
    rig.lba28(0, 64, 0xc8);
    rig.master(0, 0x09);
    assert_eq!(rig.master_status(0) & 0x03, 0x02);
    assert_eq!(rig.interrupt(0), DRDY | DSC | ERR);
}

#[test]
fn without_the_bus_master_bit_nothing_moves() {
    let mut rig = rig();
    rig.ide.config_write(0x04, 1, 0xffff);
    rig.table(0, &[(0x1_0000, 0x8000_0000 | 512)]);
    rig.lba28(0, 1, 0xc8);
    rig.master(0, 0x09);
    assert_eq!(rig.alternate_status(0), BSY | DRQ);
}

#[test]
fn data_set_management_trims() {
    let mut rig = rig();
    let entry = 8_u64 | 16 << 48;
    rig.memory.write_slice(&[0; 512], GuestAddress(0x1_0000)).unwrap();
    rig.memory.write_obj(entry, GuestAddress(0x1_0000)).unwrap();
    rig.table(0, &[(0x1_0000, 0x8000_0000 | 512)]);
    rig.set(0, 1, 0x01);
    rig.lba48(0, 1, 0x06);
    rig.master(0, 0x01);
    assert_eq!(rig.interrupt(0), DRDY | DSC);
    let mut back = vec![0; 32 * 512];
    rig.disk.disk.read_at(0, &mut back).unwrap();
    assert!(back[8 * 512..24 * 512].iter().all(|byte| *byte == 0));
    assert_eq!(back[7 * 512..8 * 512], contents(7));
    assert_eq!(back[24 * 512..25 * 512], contents(24));

    rig.master(0, 0);
    rig.memory.write_obj(SECTORS | 1 << 48, GuestAddress(0x1_0000)).unwrap();
    rig.set(0, 1, 0x01);
    rig.lba48(0, 1, 0x06);
    rig.master(0, 0x01);
    assert_eq!(rig.interrupt(0), DRDY | DSC | ERR);
}

#[test]
fn a_software_reset_shows_busy_then_the_signature() {
    let mut rig = rig();
    rig.lba28(0, 1, 0x20);
    rig.control(0, 0x04);
    assert_eq!(rig.alternate_status(0), BSY);
    assert!(!rig.irqs[0].is_high());
    rig.control(0, 0x00);
    assert_eq!(rig.alternate_status(0), DRDY | DSC);
    let signature: Vec<u8> = (1..7).map(|register| rig.port(0, register)).collect();
    assert_eq!(signature, [0x01, 0x01, 0x01, 0x00, 0x00, 0xa0]);
    rig.control(1, 0x04);
    rig.control(1, 0x00);
    let signature: Vec<u8> = (1..6).map(|register| rig.port(1, register)).collect();
    assert_eq!(signature, [0x01, 0x01, 0x01, 0x14, 0xeb]);
}

#[test]
fn a_command_ends_an_interrupt_that_nobody_took_and_makes_a_new_edge() {
    let mut rig = rig();
    rig.lba28(0, 1, 0x20);
    assert_eq!(rig.irqs[0].take_edges(), 1);
    rig.data(0, 512);
    rig.lba28(1, 1, 0x20);
    assert_eq!(rig.irqs[0].take_edges(), 1);
}

#[test]
fn a_disabled_interrupt_appears_when_it_is_enabled() {
    let mut rig = rig();
    rig.control(0, 0x02);
    rig.lba28(0, 1, 0x40);
    assert!(!rig.irqs[0].is_high());
    rig.control(0, 0x00);
    assert!(rig.irqs[0].is_high());
    assert_eq!(rig.interrupt(0), DRDY | DSC);
}

#[test]
fn an_absent_second_drive_reads_as_zeroes_and_an_empty_cable_floats() {
    let mut rig = rig();
    rig.set(0, 6, 0xb0);
    rig.set(0, 2, 0x55);
    rig.set(0, 3, 0xaa);
    assert_eq!([rig.port(0, 2), rig.port(0, 3), rig.port(0, 7)], [0; 3]);
    rig.set(0, 7, 0xec);
    assert!(!rig.irqs[0].is_high());
    let (memory, _) = guest_memory::allocate(1 << 20).unwrap();
    rig.ide = IdeController::new([Probe::new(), Probe::new()], memory);
    assert_eq!([rig.port(0, 2), rig.port(0, 7), rig.alternate_status(0)], [0x7f; 3]);
}

#[test]
fn the_high_order_byte_shows_what_was_written_before() {
    let mut rig = rig();
    rig.lba48(0x1234, 1, 0x42);
    rig.interrupt(0);
    rig.set(0, 3, 0x11);
    rig.set(0, 3, 0x22);
    assert_eq!(rig.port(0, 3), 0x22);
    rig.control(0, 0x80);
    assert_eq!(rig.port(0, 3), 0x11);
    rig.set(0, 2, 1);
    assert_eq!(rig.port(0, 3), 0x22);
}

#[test]
fn flush_and_power_commands_end_well_and_unknown_ones_are_aborted() {
    let mut rig = rig();
    for command in [0xe7, 0xea, 0xe0, 0xe1, 0x10, 0x91] {
        rig.lba28(0, 63, command);
        assert_eq!(rig.interrupt(0), DRDY | DSC, "{command:#x}");
    }
    rig.lba28(0, 0, 0xe0);
    rig.interrupt(0);
    rig.lba28(0, 0, 0xe5);
    assert_eq!((rig.interrupt(0), rig.port(0, 2)), (DRDY | DSC, 0x00));
    for command in [0x00, 0xb0, 0xa0, 0xa1, 0xf1, 0x08] {
        rig.lba28(0, 0, command);
        assert_eq!((rig.interrupt(0), rig.port(0, 1)), (DRDY | DSC | ERR, 0x04), "{command:#x}");
    }
    rig.lba28(0, 0, 0xf8);
    rig.interrupt(0);
    assert_eq!([rig.port(0, 3), rig.port(0, 4)], [0xff, 0x0f]);
}

#[test]
fn device_diagnostic_interrupts_with_the_signature() {
    let mut rig = rig();
    rig.set(0, 6, 0xb0);
    rig.set(0, 7, 0x90);
    assert_eq!(rig.interrupt(0), DRDY | DSC);
    assert_eq!([rig.port(0, 1), rig.port(0, 2), rig.port(0, 6)], [0x01, 0x01, 0xa0]);
}

#[test]
fn a_disk_that_the_synthetic_side_owns_is_named_but_not_touched() {
    let mut rig = rig();
    rig.disk.ownership.take(Owner::Synthetic);
    for command in [0x20, 0x30, 0xc8, 0xca, 0x40, 0xe7] {
        rig.lba28(0, 1, command);
        assert_eq!(rig.interrupt(0) & (DRQ | ERR), ERR, "{command:#x}");
        assert_eq!(rig.port(0, 1), 0x04);
    }
    rig.lba28(0, 0, 0xec);
    assert_eq!(rig.interrupt(0), DRDY | DSC | DRQ);
    rig.data(0, 512);
    assert_eq!(rig.counters.requests.value(), 0);
    rig.disk.ownership.take(Owner::Emulated);
    rig.lba28(0, 1, 0x20);
    assert_eq!(rig.interrupt(0), DRDY | DSC | DRQ);
}

#[test]
fn a_transfer_that_is_under_way_ends_when_the_disk_is_taken_over() {
    let mut rig = rig();
    rig.lba28(0, 2, 0x30);
    rig.disk.ownership.take(Owner::Synthetic);
    rig.put(0, &[0xee; 512]);
    assert_eq!(rig.interrupt(0) & (DRQ | ERR), ERR);
    let mut back = [0; 512];
    rig.disk.disk.read_at(0, &mut back).unwrap();
    assert_eq!(back[..], contents(0));
}

#[test]
fn writes_to_a_read_only_disk_are_aborted() {
    let mut rig = rig_with(OpenOptions { read_only: true, ..OpenOptions::default() });
    rig.lba28(0, 1, 0x30);
    assert_eq!((rig.interrupt(0), rig.port(0, 1)), (DRDY | DSC | ERR, 0x04));
}

#[test]
fn an_error_of_the_host_is_an_uncorrectable_sector() {
    let mut rig = rig();
    std::fs::OpenOptions::new().write(true).open(rig._files[0].path()).unwrap().set_len(512).unwrap();
    rig.lba28(1, 1, 0x20);
    assert_eq!((rig.interrupt(0) & (DRQ | ERR | DF), rig.port(0, 1), rig.port(0, 3)), (ERR, 0x40, 1));
}

#[test]
fn identify_device_to_an_optical_drive_is_aborted_with_its_signature() {
    let mut rig = rig();
    rig.set(1, 6, 0xa0);
    rig.set(1, 7, 0xec);
    assert_eq!(rig.interrupt(1) & (DRQ | ERR), ERR);
    assert_eq!([rig.port(1, 1), rig.port(1, 4), rig.port(1, 5)], [0x04, 0x14, 0xeb]);
    rig.set(1, 7, 0xa1);
    assert_eq!(rig.interrupt(1), DRDY | DSC | DRQ);
    let words = words(&rig.data(1, 512));
    assert_eq!(words[0], 0x85c0);
    assert_eq!(text(&words[27..47]).trim_end(), "Virtual CD");
}

#[test]
fn a_packet_reads_in_portions_of_the_byte_count() {
    let mut rig = rig();
    rig.packet(&[0x28, 0, 0, 0, 0, 4, 0, 0, 40, 0], false, 3000);
    let data = rig.packet_data();
    assert_eq!(data, (16..16 + 160).flat_map(contents).collect::<Vec<_>>());
}

#[test]
fn a_packet_reads_by_dma() {
    let mut rig = rig();
    rig.table(1, &[(0x1_0000, 0x8000_0000 | 4096)]);
    rig.packet(&[0x28, 0, 0, 0, 0, 1, 0, 0, 2, 0], true, 0);
    assert_eq!(rig.alternate_status(1), BSY | DRQ);
    rig.master(1, 0x09);
    assert_eq!(rig.master_status(1) & 0x07, 0x04);
    assert_eq!((rig.interrupt(1), rig.port(1, 2)), (DRDY | DSC, 0x03));
    let mut data = vec![0; 4096];
    rig.memory.read_slice(&mut data, GuestAddress(0x1_0000)).unwrap();
    assert_eq!(data, (4..12).flat_map(contents).collect::<Vec<_>>());
}

#[test]
fn an_inquiry_by_dma_is_shorter_than_its_table() {
    let mut rig = rig();
    rig.table(1, &[(0x1_0000, 0x8000_0000 | 96)]);
    rig.packet(&[0x12, 0, 0, 0, 36, 0], true, 0);
    rig.master(1, 0x09);
    assert_eq!(rig.master_status(1) & 0x07, 0x05);
    assert_eq!(rig.interrupt(1), DRDY | DSC);
    let mut data = [0; 40];
    rig.memory.read_slice(&mut data, GuestAddress(0x1_0000)).unwrap();
    assert_eq!(&data[8..32], b"Msft    Virtual DVD-ROM ");
    assert_eq!(data[36..], [0; 4]);
}

#[test]
fn a_failed_packet_keeps_its_sense_for_request_sense() {
    let mut rig = rig();
    rig.packet(&[0x28, 0, 0xff, 0, 0, 0, 0, 0, 1, 0], false, 2048);
    assert_eq!(rig.interrupt(1) & (DRQ | ERR), ERR);
    assert_eq!((rig.port(1, 1), rig.port(1, 2)), (0x54, 0x03));
    rig.packet(&[0x03, 0, 0, 0, 18, 0], false, 18);
    let sense = rig.packet_data();
    assert_eq!((sense[2] & 0x0f, sense[12], sense[13]), (5, 0x21, 0));
    rig.packet(&[0x03, 0, 0, 0, 18, 0], false, 18);
    assert_eq!(rig.packet_data()[2] & 0x0f, 0);
}

#[test]
fn a_changed_medium_is_a_unit_attention() {
    let mut rig = rig();
    let medium = rig.dvd.remove().unwrap();
    rig.packet(&[0; 6], false, 0);
    assert_eq!((rig.interrupt(1) & ERR, rig.port(1, 1)), (ERR, 0x20));
    rig.dvd.insert(medium);
    rig.packet(&[0; 6], false, 0);
    assert_eq!((rig.interrupt(1) & ERR, rig.port(1, 1)), (ERR, 0x60));
    rig.packet(&[0; 6], false, 0);
    assert_eq!(rig.interrupt(1), DRDY | DSC);
}

#[test]
fn mode_select_brings_its_parameters_after_the_packet() {
    let mut rig = rig();
    rig.packet(&[0x5a, 0, 0x01, 0, 0, 0, 0, 0, 255, 0], false, 254);
    let mut list = rig.packet_data();
    list[..8].fill(0);
    rig.packet(&[0x55, 0x10, 0, 0, 0, 0, 0, 0, list.len() as u8, 0], false, 10);
    let mut sent = 0;
    while sent < list.len() {
        assert_eq!((rig.interrupt(1), rig.port(1, 2)), (DRDY | DSC | DRQ, 0x00));
        let count = usize::from(rig.port(1, 4));
        rig.put(1, &list[sent..sent + count]);
        sent += count;
    }
    assert_eq!((rig.interrupt(1), rig.port(1, 2)), (DRDY | DSC, 0x03));
}

#[test]
fn device_reset_ends_a_packet_command() {
    let mut rig = rig();
    rig.packet(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0], false, 2048);
    rig.set(1, 7, 0x08);
    assert_eq!(rig.alternate_status(1), 0);
    assert_eq!([rig.port(1, 4), rig.port(1, 5)], [0x14, 0xeb]);
    assert!(!rig.irqs[1].is_high());
}

#[test]
fn the_ports_follow_the_command_and_timing_registers() {
    #[derive(Default)]
    struct Recorder(Mutex<Vec<BarMapping>>);
    impl BarListener for Recorder {
        fn bars_changed(&self, _: FunctionAddress, mappings: &[BarMapping]) {
            *self.0.lock().unwrap() = mappings.to_vec();
        }
    }
    let recorder = Arc::new(Recorder::default());
    let mut bus = PciBus::new(recorder.clone());
    let ide = Arc::new(Mutex::new(rig().ide));
    bus.add(ADDRESS, ide.clone());
    let bases = || recorder.0.lock().unwrap().iter().map(|mapping| mapping.base).collect::<Vec<_>>();
    assert_eq!(bases(), [u64::from(BUS_MASTER), 0x1f0, 0x3f6, 0x170, 0x376]);
    ide.lock().unwrap().config_write(0x40, 0x0000_8000, u32::MAX);
    bus.tell(ADDRESS);
    assert_eq!(bases(), [u64::from(BUS_MASTER), 0x1f0, 0x3f6]);
    ide.lock().unwrap().config_write(0x04, 0, 0xffff);
    bus.tell(ADDRESS);
    assert!(bases().is_empty());
    assert_eq!(ide.lock().unwrap().config_read(0), 0x7111_8086);
    assert_eq!(ide.lock().unwrap().config_read(8), 0x0101_8001);
}

/// Drives a controller by the accesses that `data` stands for: four bytes each, for port, value and
/// how the access is made.
fn fuzz_accesses(ide: &mut IdeController, data: &[u8]) {
    // Commands that a random byte finds too rarely.
    const COMMANDS: [u8; 16] =
        [0x06, 0x20, 0x24, 0x25, 0x29, 0x30, 0x35, 0x39, 0x91, 0xa0, 0xa1, 0xc6, 0xc8, 0xca, 0xec, 0xef];
    ide.config_write(0x20, BUS_MASTER.into(), u32::MAX);
    ide.config_write(0x04, 5, 0xffff);
    for access in data.chunks_exact(4) {
        let (how, value) = (access[0], [access[1], access[2], access[3], access[1] ^ access[2]]);
        let (command, control) = CHANNEL_PORTS[usize::from(how >> 7)];
        match how & 0x7f {
            register @ 0..=7 => ide.port_write(command + u16::from(register), &value[..1]),
            8..=15 => ide.port_write(command + 7, &[COMMANDS[usize::from(value[0] & 15)]]),
            16..=19 => ide.port_write(control, &value[..1]),
            20..=51 => {
                ide.port_write(BUS_MASTER + u16::from(how & 15), &value[..1 + usize::from(value[1] & 3)])
            }
            52..=55 => (0..=value[0]).for_each(|_| ide.port_write(command, &value)),
            56..=59 => (0..=value[0]).for_each(|_| ide.port_read(command, &mut [0xff; 4])),
            60..=63 => ide.config_write(value[0] & 0xfc, u32::from_le_bytes(value), u32::MAX),
            register => ide.port_read(command + u16::from(register & 7), &mut [0xff; 4]),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_accesses_panics(data in prop::collection::vec(any::<u8>(), 0..4000)) {
        fuzz_accesses(&mut rig().ide, &data);
    }
}
