//! Exceptions on their way to the guest (SDM volume 3, chapter 7).

use crate::vcpu::Vcpu;

/// Exception vectors.
pub mod vector {
    pub const DIVIDE_ERROR: u8 = 0;
    pub const DEBUG: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BREAKPOINT: u8 = 3;
    pub const OVERFLOW: u8 = 4;
    pub const BOUND_RANGE: u8 = 5;
    pub const INVALID_OPCODE: u8 = 6;
    pub const DEVICE_NOT_AVAILABLE: u8 = 7;
    pub const DOUBLE_FAULT: u8 = 8;
    pub const INVALID_TSS: u8 = 10;
    pub const SEGMENT_NOT_PRESENT: u8 = 11;
    pub const STACK_FAULT: u8 = 12;
    pub const GENERAL_PROTECTION: u8 = 13;
    pub const PAGE_FAULT: u8 = 14;
    pub const FLOATING_POINT: u8 = 16;
    pub const ALIGNMENT_CHECK: u8 = 17;
    pub const SIMD_FLOATING_POINT: u8 = 19;
}

/// An exception that waits for delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    pub vector: u8,
    pub error_code: Option<u32>,
    /// For a page fault: the linear address for CR2.
    pub address: u64,
    /// For a debug exception: the bits to set in DR6.
    pub dr6: u64,
}

/// Proof that an exception has been put into [`Vcpu::exception`]. It is empty, so that
/// `Result<T, Fault>` travels in registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Fault(());

impl Vcpu {
    /// Raises an exception without error code.
    #[cold]
    pub fn raise(&mut self, vector: u8) -> Fault {
        self.raise_exception(Exception { vector, error_code: None, address: 0, dr6: 0 })
    }

    /// Raises an exception with an error code.
    #[cold]
    pub fn raise_code(&mut self, vector: u8, error_code: u32) -> Fault {
        self.raise_exception(Exception { vector, error_code: Some(error_code), address: 0, dr6: 0 })
    }

    /// Raises #GP(0).
    #[cold]
    pub fn general_protection(&mut self) -> Fault {
        self.raise_code(vector::GENERAL_PROTECTION, 0)
    }

    /// Raises #UD.
    #[cold]
    pub fn invalid_opcode(&mut self) -> Fault {
        self.raise(vector::INVALID_OPCODE)
    }

    /// The fault of the exception that waits, if one does.
    pub fn pending_fault(&self) -> Option<Fault> {
        self.exception.map(|_| Fault(()))
    }

    /// Raises `exception`.
    #[cold]
    pub fn raise_exception(&mut self, exception: Exception) -> Fault {
        self.exception = Some(exception);
        Fault(())
    }
}
