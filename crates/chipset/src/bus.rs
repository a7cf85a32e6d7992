//! What a device is to the buses of the machine.

/// A device that answers I/O ports.
pub trait PortDevice: Send {
    /// `IN` from `port` (absolute) of 1, 2 or 4 bytes. `data` comes filled with ones: bytes that the device
    /// does not drive stay so.
    fn port_read(&mut self, port: u16, data: &mut [u8]);
    /// `OUT` to `port` (absolute) of 1, 2 or 4 bytes.
    fn port_write(&mut self, port: u16, data: &[u8]);
    /// One `IN` of `size` bytes (1, 2 or 4) after another from `port`, until `data`, a multiple of `size`, is full. It
    /// comes filled with ones.
    fn port_read_string(&mut self, port: u16, size: usize, data: &mut [u8]) {
        data.chunks_exact_mut(size).for_each(|part| self.port_read(port, part));
    }
    /// `data`, a multiple of `size` bytes (1, 2 or 4), by one `OUT` after another to `port`.
    fn port_write_string(&mut self, port: u16, size: usize, data: &[u8]) {
        data.chunks_exact(size).for_each(|part| self.port_write(port, part));
    }
}

/// A device that answers memory addresses.
pub trait MmioDevice: Send {
    /// A read of 1 to 64 bytes at `offset` into the device's range. `data` comes filled with ones.
    fn memory_read(&mut self, offset: u64, data: &mut [u8]);
    /// A write of 1 to 64 bytes at `offset` into the device's range.
    fn memory_write(&mut self, offset: u64, data: &[u8]);
}

/// Splits an access to byte-wide ports into single bytes, as the ISA bus does.
pub fn read_bytes(port: u16, data: &mut [u8], mut read: impl FnMut(u16) -> u8) {
    for (byte, port) in data.iter_mut().zip(port..=u16::MAX) {
        *byte = read(port);
    }
}

/// Splits an access to byte-wide ports into single bytes, as the ISA bus does.
pub fn write_bytes(port: u16, data: &[u8], mut write: impl FnMut(u16, u8)) {
    for (byte, port) in data.iter().zip(port..=u16::MAX) {
        write(port, *byte);
    }
}

/// The little-endian value of 1 to 4 bytes of `data`.
pub fn value_of(data: &[u8]) -> u32 {
    data.iter().take(4).rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

/// Puts `value` into `data`, little-endian, zero beyond its four bytes.
pub fn put_value(data: &mut [u8], value: u32) {
    let bytes = u64::from(value).to_le_bytes();
    for (index, byte) in data.iter_mut().enumerate() {
        *byte = bytes.get(index).copied().unwrap_or(0);
    }
}
