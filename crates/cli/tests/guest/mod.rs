//! Guests of a few instructions, in ELF files that start by PVH: 32-bit protected mode without paging.
#![allow(dead_code, reason = "each file of tests uses a part of it")]

use std::path::PathBuf;

use tempfile::TempDir;

/// Where the code lies.
pub const ORIGIN: u32 = 16 << 20;

/// Instructions, one behind the other.
#[derive(Default)]
pub struct Code(Vec<u8>);

impl Code {
    pub fn new() -> Self {
        Self::default()
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// `mov dx, port; mov al, value; out dx, al`
    pub fn out8(self, port: u16, value: u8) -> Self {
        let [low, high] = port.to_le_bytes();
        self.raw(&[0x66, 0xba, low, high, 0xb0, value, 0xee])
    }

    /// `mov dx, port; mov ax, value; out dx, ax`
    pub fn out16(self, port: u16, value: u16) -> Self {
        let ([low, high], [v0, v1]) = (port.to_le_bytes(), value.to_le_bytes());
        self.raw(&[0x66, 0xba, low, high, 0x66, 0xb8, v0, v1, 0x66, 0xef])
    }

    /// `mov dx, port; in ax, dx; test ax, mask; jz` back to the `in`
    pub fn wait16(self, port: u16, mask: u16) -> Self {
        let ([low, high], [m0, m1]) = (port.to_le_bytes(), mask.to_le_bytes());
        self.raw(&[0x66, 0xba, low, high, 0x66, 0xed, 0x66, 0xa9, m0, m1, 0x74, 0xf8])
    }

    /// Writes `text` to the serial port.
    pub fn print(self, text: &str) -> Self {
        text.bytes().fold(self, |code, byte| code.out8(0x3f8, byte))
    }

    /// Soft off: sleep type 0 with the enable bit.
    pub fn power_off(self) -> Self {
        self.out16(0x604, 1 << 13).halt()
    }

    /// `cli; hlt; jmp` back to the `hlt`
    pub fn halt(self) -> Self {
        self.raw(&[0xfa, 0xf4, 0xeb, 0xfd])
    }

    /// `lidt [esp - 8]` of zeroes, `ud2`: an exception without a table.
    pub fn triple_fault(self) -> Self {
        // mov esp, 0x8000; push 0; push 0; lidt [esp]; ud2
        self.raw(&[0xbc, 0, 0x80, 0, 0, 0x6a, 0, 0x6a, 0, 0x0f, 0x01, 0x1c, 0x24, 0x0f, 0x0b])
    }

    /// `mov eax, address; jmp eax`
    pub fn jump(self, address: u32) -> Self {
        self.raw(&[0xb8]).raw(&address.to_le_bytes()).raw(&[0xff, 0xe0])
    }

    /// `mov ecx, msr; mov eax, low; mov edx, high; wrmsr`
    pub fn wrmsr(self, msr: u32, value: u64) -> Self {
        let (low, high) = (value as u32, (value >> 32) as u32);
        let code = self.raw(&[0xb9]).raw(&msr.to_le_bytes()).raw(&[0xb8]).raw(&low.to_le_bytes());
        code.raw(&[0xba]).raw(&high.to_le_bytes()).raw(&[0x0f, 0x30])
    }

    /// Sends back every byte that comes by the serial port, up to and with `last`.
    pub fn echo_until(self, last: u8) -> Self {
        // RTS: the guest is ready.
        self.out8(0x3fc, 0x02).raw(&[
            0x66, 0xba, 0xfd, 0x03, // again: mov dx, 0x3fd
            0xec, // wait: in al, dx
            0xa8, 0x01, // test al, 1
            0x74, 0xfb, // jz wait
            0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
            0xec, // in al, dx
            0xee, // out dx, al
            0x3c, last, // cmp al, last
            0x75, 0xed, // jne again
        ])
    }

    /// The file.
    pub fn elf(&self) -> Vec<u8> {
        let size = (self.0.len() as u64).next_multiple_of(16);
        let mut image = vec![0_u8; 0x1000 + size as usize];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"\x7fELF\x02\x01\x01");
        put(32, &64_u64.to_le_bytes());
        put(54, &56_u16.to_le_bytes());
        put(56, &2_u16.to_le_bytes());
        let mut segment = |index: usize, kind: u32, offset: u64, address: u64, size: u64| {
            let at = 64 + index * 56;
            put(at, &kind.to_le_bytes());
            put(at + 8, &offset.to_le_bytes());
            put(at + 24, &address.to_le_bytes());
            put(at + 32, &size.to_le_bytes());
            put(at + 40, &size.to_le_bytes());
        };
        segment(0, 1, 0x1000, u64::from(ORIGIN), size);
        segment(1, 4, 0x200, 0, 20);
        put(0x200, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
        put(0x20c, b"Xen\0");
        put(0x210, &ORIGIN.to_le_bytes());
        put(0x1000, &self.0);
        image
    }

    /// The file, in `directory`.
    pub fn file(&self, directory: &TempDir) -> PathBuf {
        let path = directory.path().join("guest.elf");
        std::fs::write(&path, self.elf()).unwrap();
        path
    }
}
