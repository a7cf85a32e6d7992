//! Accesses to the SynIC test port and to the memory of `--test-devices`.
#![no_main]

use std::sync::Arc;

use chipset::test_devices::{SYNIC_PORT, SynicError, SynicPort, SynicTest, TestMemory};
use chipset::{MmioDevice, PortDevice};
use fuzz::Input;

struct Two;

impl SynicTest for Two {
    fn check(&self, vp: u8, sint: u8) -> Result<(), SynicError> {
        (vp < 2 && sint < 16).then_some(()).ok_or(SynicError::Target)
    }
    fn raise(&self, vp: u8, sint: u8) {
        assert_eq!(self.check(vp, sint), Ok(()), "no such source");
    }
    fn connect_echo(&self, _connection: u8, vp: u8, sint: u8) -> Result<(), SynicError> {
        self.check(vp, sint)
    }
    fn connect_event(&self, _connection: u8, vp: u8, sint: u8) -> Result<(), SynicError> {
        self.check(vp, sint)
    }
    fn disconnect(&self, _connection: u8) -> Result<(), SynicError> {
        Ok(())
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (mut port, mut memory) = (SynicPort::new(Arc::new(Two)), TestMemory::new());
    while !input.is_empty() {
        let len = usize::from(input.u8() & 63) + 1;
        let offset = u64::from(input.u8()) << 8 | u64::from(input.u8());
        let bytes = input.slice(len);
        port.port_write(SYNIC_PORT, bytes);
        memory.memory_write(offset, bytes);
        memory.memory_read(offset, &mut vec![0; len]);
    }
});
