//! Read-only memory on the bus.

use crate::bus::MmioDevice;
use crate::unhandled::Unhandled;

/// Bytes that guests can read.
pub struct Rom {
    bytes: Vec<u8>,
    unhandled: Unhandled,
}

impl Rom {
    /// Memory that reads as `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, unhandled: Unhandled::default() }
    }
}

impl MmioDevice for Rom {
    fn memory_read(&mut self, offset: u64, data: &mut [u8]) {
        let from = usize::try_from(offset).ok().and_then(|offset| self.bytes.get(offset..)).unwrap_or(&[]);
        data.iter_mut().zip(from).for_each(|(to, byte)| *to = *byte);
    }

    fn memory_write(&mut self, offset: u64, _data: &[u8]) {
        // One line for each 64 KiB, and no more than a device may have.
        self.unhandled.tell("ROM", "a write to 64 KiB block", (offset >> 16) as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_as_its_bytes_and_keeps_no_write() {
        let mut rom = Rom::new(vec![1, 2, 3]);
        rom.memory_write(0, &[9; 3]);
        let mut data = [0xff; 4];
        rom.memory_read(0, &mut data);
        assert_eq!(data, [1, 2, 3, 0xff]);
        rom.memory_read(u64::MAX, &mut data[..1]);
        assert_eq!(data[0], 1, "what the device does not drive stays");
    }
}
