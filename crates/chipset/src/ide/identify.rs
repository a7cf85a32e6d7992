//! What IDENTIFY DEVICE and IDENTIFY PACKET DEVICE say (ATA/ATAPI-7, sections 6.16 and 6.17).

use super::Attachment;
use super::ata::{LBA28_SECTORS, MOST_TRIM_BLOCKS};
use super::drive::{Drive, HEADS, MOST_MULTIPLE, SECTORS_PER_TRACK};

const FIRMWARE: &str = "1.1.0";
const DISK_MODEL: &str = "Virtual HD";
const OPTICAL_MODEL: &str = "Virtual CD";
/// Bit 14 set and bit 15 clear: the word is valid.
const VALID: u16 = 0x4000;
/// IORDY, LBA, DMA.
const CAPABILITIES: u16 = 0x0f00;
/// Major versions ATA/ATAPI-4 to 7.
const MAJOR_VERSIONS: u16 = 0x00f0;
/// Cycle times in nanoseconds: multiword DMA and PIO.
const CYCLE_TIME: u16 = 120;

/// Puts text into words: first character in the upper byte, padded with spaces.
fn text(words: &mut [u16], text: &str) {
    let mut bytes = text.bytes().filter(|byte| matches!(byte, b' '..=b'~')).chain(std::iter::repeat(b' '));
    for word in words {
        let high = bytes.next().unwrap_or(b' ');
        *word = u16::from_be_bytes([high, bytes.next().unwrap_or(b' ')]);
    }
}

/// The words that disks and optical drives share.
fn base(drive: &Drive, model: &str, serial: &str) -> [u16; 256] {
    let mut words = [0; 256];
    text(&mut words[10..20], serial);
    text(&mut words[23..27], FIRMWARE);
    text(&mut words[27..47], model);
    // The data register takes 32 bits at a time.
    words[48] = 1;
    words[49] = CAPABILITIES;
    words[50] = VALID;
    words[53] = 0x0007;
    let mode = drive.transfer_mode;
    let selected = |base: u8, count: u8| match mode.checked_sub(base) {
        Some(number) if number < count => 0x0100 << number,
        _ => 0,
    };
    words[63] = 0x0007 | selected(0x20, 3);
    words[88] = 0x003f | selected(0x40, 6);
    // PIO modes 3 and 4.
    words[64] = 0x0003;
    words[65..69].fill(CYCLE_TIME);
    words[80] = MAJOR_VERSIONS;
    // Result of the hardware reset: CBLID high, the device passed.
    words[93] = 0x6000 | if drive.number == 0 { 0x0009 } else { 0x0b00 };
    words
}

/// Adds the checksum.
fn sealed(mut words: [u16; 256]) -> [u16; 256] {
    let bytes = words[..255].iter().flat_map(|word| word.to_le_bytes());
    let sum = bytes.fold(0xa5_u8, u8::wrapping_add);
    words[255] = u16::from_le_bytes([0xa5, sum.wrapping_neg()]);
    words
}

/// IDENTIFY DEVICE.
pub(super) fn disk(drive: &Drive) -> [u16; 256] {
    let Attachment::Disk(shared) = &drive.attachment else { return [0; 256] };
    let info = shared.disk.info();
    let sectors = drive.sectors();
    let mut words = base(drive, DISK_MODEL, &info.serial);
    let cylinders = |heads: u8, per_track: u8| {
        (sectors / (u64::from(heads) * u64::from(per_track)).max(1)).min(16383) as u16
    };
    let put = |words: &mut [u16; 256], at: usize, value: u64, count: usize| {
        (0..count).for_each(|index| words[at + index] = (value >> (16 * index)) as u16);
    };
    // A fixed drive.
    words[0] = 0x0040;
    words[1] = cylinders(HEADS, SECTORS_PER_TRACK);
    words[3] = HEADS.into();
    words[6] = SECTORS_PER_TRACK.into();
    words[47] = 0x8000 | u16::from(MOST_MULTIPLE);
    let current = cylinders(drive.heads, drive.sectors_per_track);
    words[54] = current;
    words[55] = drive.heads.into();
    words[56] = drive.sectors_per_track.into();
    let capacity = u64::from(current) * u64::from(drive.heads) * u64::from(drive.sectors_per_track);
    put(&mut words, 57, capacity, 2);
    words[59] = if drive.multiple > 0 { 0x0100 | u16::from(drive.multiple) } else { 0 };
    put(&mut words, 60, sectors.min(LBA28_SECTORS), 2);
    put(&mut words, 100, sectors, 4);
    // NOP, look-ahead, write cache, power management.
    const FEATURES_1: u16 = 0x4068;
    const WRITE_CACHE: u16 = 0x0020;
    // FLUSH CACHE and its long form, 48-bit addresses.
    const FEATURES_2: u16 = 0x3400;
    // World wide name, WRITE DMA FUA EXT and WRITE MULTIPLE FUA EXT.
    const FEATURES_3: u16 = 0x0140;
    words[82] = FEATURES_1;
    words[83] = VALID | FEATURES_2;
    words[84] = VALID | FEATURES_3;
    words[85] = if drive.write_cache { FEATURES_1 } else { FEATURES_1 & !WRITE_CACHE };
    words[86] = FEATURES_2;
    words[87] = VALID | FEATURES_3;
    let ratio = (u64::from(info.physical_block) / 512).max(1).ilog2() as u16;
    words[106] = VALID | if ratio > 0 { 0x2000 | ratio } else { 0 };
    // A name of type NAA 5 with the company id of Microsoft's disks, most significant word first.
    let tail = info.identity.iter().take(5).fold(0_u64, |name, byte| name << 8 | u64::from(*byte));
    let name = 0x5002_2480_0000_0000 | tail & 0xf_ffff_ffff;
    (0..4).for_each(|index| words[108 + index] = (name >> (48 - 16 * index)) as u16);
    if info.discard_granularity > 0 {
        // Trimmed sectors read as zeroes.
        words[69] = 0x4020;
        words[105] = MOST_TRIM_BLOCKS;
        words[169] = 0x0001;
    }
    // Nothing rotates.
    words[217] = 0x0001;
    sealed(words)
}

/// IDENTIFY PACKET DEVICE.
pub(super) fn optical(drive: &Drive, serial: &str) -> [u16; 256] {
    // PACKET, DEVICE RESET, NOP.
    const FEATURES_1: u16 = 0x4210;
    let mut words = base(drive, OPTICAL_MODEL, serial);
    // An optical drive with a removable medium; asks for the packet of 12 bytes without an interrupt.
    words[0] = 0x85c0;
    words[71] = 30;
    words[72] = 30;
    words[82] = FEATURES_1;
    words[83] = VALID;
    words[84] = VALID;
    words[85] = FEATURES_1;
    words[87] = VALID;
    sealed(words)
}
