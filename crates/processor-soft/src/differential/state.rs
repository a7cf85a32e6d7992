//! The state that host and interpreter start from and arrive at.

use super::native::{DATA, PAGE};

/// Registers of 64-bit user code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub general: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    /// XSAVE area in the standard format of the host, all components of the guest.
    pub area: Vec<u8>,
}

/// How an instruction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out.
    Done,
    /// It raised an exception: vector, error code, address of a page fault.
    Fault(u8, u32, u64),
}

impl Outcome {
    /// From what the kernel puts into a signal frame.
    pub fn from_trap(trap: i64, error: i64, address: u64) -> Self {
        match trap {
            3 => Self::Done,
            14 => Self::Fault(14, error as u32, address),
            _ => Self::Fault(trap as u8, error as u32, 0),
        }
    }
}

impl Outcome {
    /// Away from the pages of the test the host may have mapped some where the guest has none; and of a
    /// vector operand processors report different bytes.
    pub fn comparable(self, vector: bool) -> Self {
        match self {
            Self::Fault(14, code, address) => {
                let near = (DATA..DATA + 4 * PAGE as u64).contains(&address);
                let code = if near { code } else { code & !1 };
                Self::Fault(14, code, if vector { address & !0xfff } else { address })
            }
            other => other,
        }
    }
}

/// A small pseudo-random generator (SplitMix64): seeds can be printed and repeated.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    /// A value of the kind that finds mistakes: small, negative, at a boundary, or anything.
    pub fn value(&mut self) -> u64 {
        match self.below(8) {
            0 => self.below(4),
            1 => self.below(256).wrapping_neg(),
            2 => 1_u64 << self.below(64),
            3 => (1_u64 << self.below(64)).wrapping_sub(1),
            4 => [0x7f, 0x80, 0x7fff, 0x8000, 0x7fff_ffff, 0x8000_0000, i64::MAX as u64, 1 << 63]
                [self.below(8) as usize],
            _ => self.next(),
        }
    }
}
