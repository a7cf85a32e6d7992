//! Registers by their architectural names.

/// The general registers in the encoding order of the instruction set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum GeneralRegister {
    Rax,
    Rcx,
    Rdx,
    Rbx,
    Rsp,
    Rbp,
    Rsi,
    Rdi,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
}

/// Attributes of a segment as in VMX: type in bits 0–3, S 4, DPL 5–6, P 7, AVL 12, L 13, D/B 14, G 15,
/// unusable 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SegmentAttributes(pub u32);

/// A segment register with its hidden part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// The visible selector.
    pub selector: u16,
    /// Base address.
    pub base: u64,
    /// Limit in bytes, granularity applied.
    pub limit: u32,
    /// Type and flags.
    pub attributes: SegmentAttributes,
}

/// GDTR or IDTR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DescriptorTable {
    /// Linear address of the table.
    pub base: u64,
    /// Last valid offset.
    pub limit: u16,
}

/// The registers that a loader (the Linux 64-bit or 32-bit boot protocol, PVH) or StartVirtualProcessor
/// gives a processor. General registers that are not named are 0.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StartRegisters {
    /// Instruction pointer.
    pub rip: u64,
    /// Flags; bit 1 is set in any case.
    pub rflags: u64,
    /// General registers in encoding order.
    pub general: [u64; 16],
    /// ES, CS, SS, DS, FS, GS.
    pub segments: [Segment; 6],
    /// Task register.
    pub tr: Segment,
    /// Local descriptor table register.
    pub ldtr: Segment,
    /// Global descriptor table.
    pub gdtr: DescriptorTable,
    /// Interrupt descriptor table.
    pub idtr: DescriptorTable,
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// IA32_PAT; `None` keeps the reset value.
    pub pat: Option<u64>,
}
