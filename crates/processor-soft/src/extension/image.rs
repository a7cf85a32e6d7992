//! The guest's extension registers, laid out for the thunks.

/// Offset of the components in [`Image`], as thunks address them.
pub mod offset {
    use super::Image;

    pub const VECTORS: usize = std::mem::offset_of!(Image, vectors);
    pub const X87: usize = std::mem::offset_of!(Image, x87);
    pub const MASKS: usize = std::mem::offset_of!(Image, masks);
    pub const MXCSR: usize = std::mem::offset_of!(Image, mxcsr);
    pub const HOST_MXCSR: usize = std::mem::offset_of!(Image, host_mxcsr);
    pub const STATUS: usize = std::mem::offset_of!(Image, status);
}

/// MXCSR after reset and of Rust code.
pub const MXCSR_RESET: u32 = 0x1f80;
/// The exception masks of MXCSR.
pub const MXCSR_MASKS: u32 = 0x1f80;
/// The exception flags of MXCSR.
pub const MXCSR_FLAGS: u32 = 0x3f;
/// The bits of MXCSR that may be set: all but 16–31 (no MISALIGNSSE).
pub const MXCSR_VALID: u32 = 0xffff;
/// FCW after FNINIT.
pub const FCW_INIT: u16 = 0x37f;

/// x87, vector and mask registers of a guest, and what a thunk needs beside them.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct Image {
    /// ZMM0–ZMM31; the lower parts are the YMM and XMM registers.
    pub vectors: [[u8; 64]; 32],
    /// An XSAVE area of the x87 component alone: 512 bytes as FXSAVE64 has them, of which 0–23 and 32–159
    /// count, and the XSAVE header.
    pub x87: [u8; 576],
    /// K0–K7.
    pub masks: [u64; 8],
    /// The guest's MXCSR.
    pub mxcsr: u32,
    /// MXCSR of the code around the thunks.
    pub host_mxcsr: u32,
    /// Arithmetic flags in the layout of [`crate::vcpu::Vcpu::status`].
    pub status: u32,
}

impl Image {
    /// The state after reset (SDM volume 3, table 10-1): that of INIT of every component.
    pub fn new() -> Box<Self> {
        let mut image = Box::new(Self {
            vectors: [[0; 64]; 32],
            x87: [0; 576],
            masks: [0; 8],
            mxcsr: MXCSR_RESET,
            host_mxcsr: MXCSR_RESET,
            status: 0,
        });
        image.init_x87();
        // The x87 component is always loaded from the image, never from its initial state.
        image.x87[512] = 1;
        image
    }

    /// FNINIT.
    pub fn init_x87(&mut self) {
        self.x87[..160].fill(0);
        self.x87[..2].copy_from_slice(&FCW_INIT.to_le_bytes());
    }

    /// The x87 control word.
    pub fn fcw(&self) -> u16 {
        u16::from_le_bytes([self.x87[0], self.x87[1]])
    }

    /// Sets the x87 control word.
    pub fn set_fcw(&mut self, value: u16) {
        self.x87[..2].copy_from_slice(&value.to_le_bytes());
    }

    /// The x87 status word.
    pub fn fsw(&self) -> u16 {
        u16::from_le_bytes([self.x87[2], self.x87[3]])
    }

    /// Sets the x87 status word.
    pub fn set_fsw(&mut self, value: u16) {
        self.x87[2..4].copy_from_slice(&value.to_le_bytes());
    }

    /// Moves the top of the x87 stack. The image keeps the registers in stack order, so that they turn.
    pub fn set_x87_top(&mut self, top: u16) {
        let old = usize::from(self.fsw() >> 11 & 7);
        let registers: [u8; 128] = std::array::from_fn(|n| self.x87[32 + n]);
        for slot in 0..8 {
            // The physical register of the new slot, and where it was.
            let from = (slot + usize::from(top & 7) + 8 - old) % 8 * 16;
            self.x87[32 + slot * 16..48 + slot * 16].copy_from_slice(&registers[from..from + 16]);
        }
        self.set_fsw(self.fsw() & !(7 << 11) | (top & 7) << 11);
    }

    /// What every MMX instruction but EMMS does to the x87 state: the top is 0, all registers are valid.
    pub fn enter_mmx(&mut self) {
        self.set_x87_top(0);
        self.x87[4] = 0xff;
    }

    /// Whether an unmasked x87 exception is pending: ES is what FSW and FCW make it.
    pub fn x87_pending(&self) -> bool {
        self.fsw() & !self.fcw() & 0x3f != 0
    }

    /// Whether no x87 instruction can raise an exception: all are masked, and ES is clear.
    pub fn x87_masked(&self) -> bool {
        self.fcw() & 0x3f == 0x3f && self.fsw() & 0x80 == 0
    }

    /// FIP and FDP.
    pub fn x87_pointers(&self) -> [u64; 2] {
        [8, 16].map(|at| u64::from_le_bytes(std::array::from_fn(|n| self.x87[at + n])))
    }

    /// Sets FIP and, if given, FDP.
    pub fn set_x87_pointers(&mut self, rip: u64, data: Option<u64>) {
        self.x87[8..16].copy_from_slice(&rip.to_le_bytes());
        if let Some(data) = data {
            self.x87[16..24].copy_from_slice(&data.to_le_bytes());
        }
    }

    /// XMM register `index`.
    pub fn xmm(&self, index: usize) -> u128 {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.vectors[index & 31][..16]);
        u128::from_le_bytes(bytes)
    }

    /// Sets XMM register `index`, leaving the upper bits alone.
    pub fn set_xmm(&mut self, index: usize, value: u128) {
        self.vectors[index & 31][..16].copy_from_slice(&value.to_le_bytes());
    }
}
