//! Generates thunks. A thunk is a native function that carries out one guest instruction on the guest's
//! register image:
//!
//! ```text
//! thunk(image, regs, memory):
//!     load what the instruction reads (x87, MXCSR, flags, vectors, masks, general registers)
//!     the instruction itself, its memory operand replaced by [memory]
//!     store what it writes
//! ```
//!
//! A legacy SSE instruction leaves the upper bits of its destination alone, so only the XMM part is loaded
//! and stored; a VEX or EVEX one zeroes them, so the destination is stored in full width after the
//! processor has zeroed it.

use iced_x86::{
    Code, CpuidFeature, Encoder, EncodingKind, FlowControl, IcedError, Instruction, InstructionInfoFactory,
    MemoryOperand, OpAccess, OpKind, Register,
};

use super::host::{Host, VectorWidth};
use super::image::offset;

/// What must be enabled for an instruction to run, and how it reports exceptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// General registers only.
    General,
    X87,
    Mmx,
    Sse,
    Avx,
    Avx512,
}

/// How an instruction reaches its memory operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// All of it, always.
    Plain,
    /// Element by element, as an opmask register says. Some instructions mask their result only: an operand
    /// that they read must be accessible as a whole.
    Opmask { register: u8, element: u8, lanes: bool },
    /// One element for all, unless an opmask register has none of its first `count` bits.
    Repeated { register: u8, count: u8, element: u8 },
    /// As many elements as the opmask register has bits, close together.
    Compressed { register: u8, element: u8 },
    /// Element by element, as the sign bits of a vector register say.
    SignMask { register: u8, element: u8 },
}

/// What the handler must know of a thunk's instruction.
#[derive(Debug, Clone, Copy)]
pub struct Traits {
    pub class: Class,
    /// Uses x87 or MMX registers, whatever its class.
    pub x87: bool,
    /// Uses MXCSR.
    pub mxcsr: bool,
    pub flags: bool,
    pub memory: bool,
    pub reads_memory: bool,
    pub writes_memory: bool,
    /// Bytes of the memory operand.
    pub size: u16,
    /// Alignment that the memory operand must have, or 1.
    pub alignment: u8,
    pub shape: Shape,
    /// Bytes of the guest's instruction.
    pub length: u8,
}

/// A thunk's code and what is known of it.
pub struct Built {
    pub code: Vec<u8>,
    pub traits: Traits,
}

/// Registers that hold the thunk's arguments while it runs.
struct Pinned {
    image: Register,
    regs: Register,
    memory: Register,
}

#[derive(Default)]
struct Uses {
    /// Bit n: general register n is used; is written.
    general: u16,
    general_written: u16,
    /// Bytes to load (0, 16, 32, 64) and to store, by vector register.
    load: [u8; 32],
    store: [u8; 32],
    masks: u8,
    masks_written: u8,
    x87: bool,
    vectors: bool,
}

/// Caller-saved registers that may hold arguments. RAX serves the flags.
const POOL: [Register; 8] = [
    Register::RDI,
    Register::RSI,
    Register::RDX,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::RCX,
];
const GENERAL: [Register; 16] = [
    Register::RAX,
    Register::RCX,
    Register::RDX,
    Register::RBX,
    Register::RSP,
    Register::RBP,
    Register::RSI,
    Register::RDI,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];
const CALLEE_SAVED: [usize; 6] = [3, 5, 12, 13, 14, 15];
const RSP: usize = 4;

/// Builds the thunk of `guest`; `None` if it cannot be run this way.
pub fn build(guest: &Instruction) -> Option<Built> {
    let mut instruction = *guest;
    let memory_operand = (0..guest.op_count()).find(|&n| guest.op_kind(n) == OpKind::Memory);
    let implicit = (0..guest.op_count())
        .any(|n| guest.op_kind(n) as u8 >= OpKind::MemorySegSI as u8 && guest.op_kind(n) != OpKind::Memory);
    if implicit || guest.is_vsib() {
        return None;
    }
    let plain =
        guest.flow_control() == FlowControl::Next && !guest.is_privileged() && !guest.is_stack_instruction();
    if !plain || !guest.cpuid_features().iter().any(|&feature| is_extension(feature)) {
        return None;
    }
    let mut factory = InstructionInfoFactory::new();
    let access = memory_operand.map(|n| factory.info(guest).op_access(n));
    instruction.set_memory_base(Register::None);
    instruction.set_memory_index(Register::None);
    instruction.set_segment_prefix(Register::None);
    let substitute = replace_stack_pointer(&mut instruction, &mut factory)?;
    let uses = uses(&instruction, &mut factory);
    let traits = traits(guest, &uses, access)?;
    let pinned = pin(&uses, substitute, &traits)?;
    if memory_operand.is_some() {
        instruction.set_memory_base(pinned.memory);
        instruction.set_memory_displacement64(0);
        instruction.set_memory_displ_size(0);
    }
    let code = emit(&instruction, &uses, &pinned, substitute, &traits).ok()?;
    Some(Built { code, traits })
}

/// Whether `feature` is an extension of the integer instruction set. What came with the basic processors is
/// not for thunks: control transfers and segment loads, for instance.
fn is_extension(feature: CpuidFeature) -> bool {
    use CpuidFeature as F;
    !matches!(
        feature,
        F::INTEL8086
            | F::INTEL8086_ONLY
            | F::INTEL186
            | F::INTEL286
            | F::INTEL286_ONLY
            | F::INTEL386
            | F::INTEL386_ONLY
            | F::INTEL386_A0_ONLY
            | F::INTEL486
            | F::INTEL486_A_ONLY
            | F::X64
            | F::CMOV
            | F::CX8
            | F::MSR
            | F::TSC
            | F::FSGSBASE
            | F::CMPXCHG16B
    )
}

/// What the translator must know to write an instruction as it is.
pub struct NativeForm {
    /// What it wants of the address of its memory operand; 1: nothing.
    pub alignment: u8,
    /// Whether it works on the x87 state, of which the MMX registers are part.
    pub x87: bool,
}

/// The form of an instruction on vector, mask, x87 or MMX registers, if it does the same with its memory
/// operand replaced and other registers loaded, and raises nothing but the faults of that operand as long as
/// MXCSR and FCW mask all exceptions and all of the operand is there, whatever a mask says. `None` if it is
/// not so simple.
pub fn native_form(guest: &Instruction) -> Option<NativeForm> {
    let memory_operand = (0..guest.op_count()).find(|&n| guest.op_kind(n) == OpKind::Memory);
    let implicit = (0..guest.op_count())
        .any(|n| guest.op_kind(n) as u8 >= OpKind::MemorySegSI as u8 && guest.op_kind(n) != OpKind::Memory);
    if implicit || guest.is_vsib() {
        return None;
    }
    let mut factory = InstructionInfoFactory::new();
    let access = memory_operand.map(|n| factory.info(guest).op_access(n));
    let mut instruction = *guest;
    instruction.set_memory_base(Register::None);
    instruction.set_memory_index(Register::None);
    instruction.set_segment_prefix(Register::None);
    let uses = uses(&instruction, &mut factory);
    let traits = traits(guest, &uses, access)?;
    let form = NativeForm { alignment: traits.alignment.max(1), x87: traits.x87 };
    (traits.class != Class::General).then_some(form)
}

/// RSP cannot be loaded with a guest's value: another register takes its place as an operand.
fn replace_stack_pointer(
    instruction: &mut Instruction,
    factory: &mut InstructionInfoFactory,
) -> Option<Option<usize>> {
    let operands = instruction.op_count();
    let is_rsp = |r: Register| r.is_gpr() && r.full_register() == Register::RSP;
    if !(0..operands)
        .any(|n| instruction.op_kind(n) == OpKind::Register && is_rsp(instruction.op_register(n)))
    {
        return Some(None);
    }
    let used: Vec<_> =
        factory.info(instruction).used_registers().iter().map(|u| u.register().full_register()).collect();
    let free = [12, 13, 14, 15].into_iter().find(|&n| !used.contains(&GENERAL[n]))?;
    for n in 0..operands {
        if instruction.op_kind(n) != OpKind::Register || !is_rsp(instruction.op_register(n)) {
            continue;
        }
        let register = match instruction.op_register(n).size() {
            8 => GENERAL[free],
            4 => GENERAL[free].full_register32(),
            _ => return None,
        };
        instruction.set_op_register(n, register);
    }
    Some(Some(free))
}

fn written(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

fn read(access: OpAccess) -> bool {
    !matches!(access, OpAccess::Write | OpAccess::None | OpAccess::NoMemAccess)
}

fn uses(instruction: &Instruction, factory: &mut InstructionInfoFactory) -> Uses {
    let mut uses = Uses::default();
    let legacy = instruction.encoding() == EncodingKind::Legacy;
    let full = match Host::get().width {
        VectorWidth::Xmm => 16,
        VectorWidth::Ymm => 32,
        VectorWidth::Zmm => 64,
    };
    for used in factory.info(instruction).used_registers() {
        let (register, access) = (used.register(), used.access());
        if register.is_gpr() {
            let bit = 1 << register.full_register().number();
            uses.general |= bit;
            if written(access) {
                uses.general_written |= bit;
            }
        } else if register.is_vector_register() {
            let (n, width) = (register.number(), register.size() as u8);
            uses.vectors = true;
            if read(access) {
                uses.load[n] = uses.load[n].max(width);
            }
            if written(access) {
                // A partial write keeps the rest of the register.
                uses.load[n] = uses.load[n].max(if legacy { 16 } else { 0 });
                uses.store[n] = uses.store[n].max(if legacy { 16 } else { full });
            }
        } else if register.is_k() {
            uses.masks |= 1 << register.number();
            if written(access) {
                uses.masks_written |= 1 << register.number();
            }
        } else if register.is_st() || register.is_mm() {
            uses.x87 = true;
        }
    }
    uses
}

fn traits(guest: &Instruction, uses: &Uses, access: Option<OpAccess>) -> Option<Traits> {
    let features = guest.cpuid_features();
    let name = format!("{:?}", guest.mnemonic());
    let fpu =
        features.iter().any(|f| matches!(f, CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387))
            || guest.mnemonic() == iced_x86::Mnemonic::Fisttp
            || name.starts_with('F') && uses.x87;
    let mmx_registers = (0..guest.op_count())
        .any(|n| guest.op_kind(n) == OpKind::Register && guest.op_register(n).is_mm())
        || guest.mnemonic() == iced_x86::Mnemonic::Emms;
    let opmask_only = uses.masks != 0 && !uses.vectors;
    let class = match guest.encoding() {
        EncodingKind::EVEX => Class::Avx512,
        EncodingKind::VEX if opmask_only => Class::Avx512,
        EncodingKind::VEX
            if !features.iter().all(|f| matches!(f, CpuidFeature::BMI1 | CpuidFeature::BMI2)) =>
        {
            Class::Avx
        }
        EncodingKind::Legacy if fpu => Class::X87,
        // A conversion to a general or MMX register may name no vector register.
        EncodingKind::Legacy if uses.vectors || name.starts_with("Cvt") => Class::Sse,
        EncodingKind::Legacy if mmx_registers => Class::Mmx,
        EncodingKind::Legacy | EncodingKind::VEX => Class::General,
        _ => return None,
    };
    let size = guest.memory_size();
    let element = if size.is_packed() || size.is_broadcast() { size.element_size() } else { size.size() };
    let bytes = if size.is_broadcast() { size.element_size() } else { size.size() };
    if access.is_some() && (bytes == 0 || bytes > 64) {
        return None;
    }
    let shape = shape(guest, &name, masked_element(&name, element), size.is_broadcast());
    let access = access.unwrap_or(OpAccess::None);
    Some(Traits {
        class,
        x87: uses.x87 || class == Class::X87 || mmx_registers,
        mxcsr: matches!(class, Class::Sse | Class::Avx | Class::Avx512) && uses_mxcsr(&name),
        flags: guest.rflags_read() | guest.rflags_modified() != 0,
        memory: access != OpAccess::None,
        reads_memory: read(access),
        writes_memory: written(access),
        size: bytes as u16,
        alignment: alignment(class, guest, &name, bytes),
        shape,
        length: guest.len() as u8,
    })
}

fn shape(guest: &Instruction, name: &str, element: usize, broadcast: bool) -> Shape {
    let (element, register) = (element as u8, guest.op_mask());
    if ["VMASKMOVPS", "VMASKMOVPD", "VPMASKMOVD", "VPMASKMOVQ"].contains(&name.to_uppercase().as_str()) {
        // Load: destination, mask, memory. Store: memory, mask, source. The mask is operand 1 in both.
        return Shape::SignMask { register: guest.op_register(1).number() as u8, element };
    }
    if register == Register::None {
        return Shape::Plain;
    }
    let register = register.number() as u8;
    // A shift by an immediate count works element by element, other than one by a count in a vector.
    let last = guest.op_kind(guest.op_count().saturating_sub(1));
    let shift = ["Vpsll", "Vpsrl", "Vpsra"].iter().any(|prefix| name.starts_with(prefix));
    let mixing = masks_result_only(name) && !(shift && last == OpKind::Immediate8);
    if broadcast && mixing {
        return Shape::Plain;
    }
    if broadcast {
        // `Broadcast512_Float64`: the element stands for 512 bits.
        let name = format!("{:?}", guest.memory_size());
        let bits = name.trim_start_matches("Broadcast").split('_').next().and_then(|bits| bits.parse().ok());
        let count = bits.map_or(64, |bits: usize| bits / 8 / usize::from(element.max(1))) as u8;
        return Shape::Repeated { register, count, element };
    }
    if name.contains("compress") || name.contains("expand") {
        Shape::Compressed { register, element }
    } else {
        Shape::Opmask { register, element, lanes: !mixing }
    }
}

/// Size of what one mask bit stands for, where the operand's elements are smaller.
fn masked_element(name: &str, element: usize) -> usize {
    if name.starts_with("Vpmuldq") || name.starts_with("Vpmuludq") {
        8
    } else if name.starts_with("Vpdp") || name.ends_with("cph") || name.ends_with("csh") {
        4
    } else {
        element
    }
}

/// Instructions that mix elements, so that a result's mask does not tell which parts of the operand count
/// (SDM volume 2, exception classes with the letters NF).
fn masks_result_only(name: &str) -> bool {
    const MIXING: [&str; 24] = [
        "Vpunpck",
        "Vunpck",
        "Vextract",
        "Vpbroadcast",
        "Vpconflict",
        "Vpack",
        "Vpshuf",
        "Vshuf",
        "Vpmadd",
        "Vdbpsad",
        "Vpalignr",
        "Valign",
        "Vperm",
        "Vbroadcast",
        "Vmovddup",
        "Vmovshdup",
        "Vmovsldup",
        "Vpsll",
        "Vpsrl",
        "Vpsra",
        "Vgf2p8affine",
        "Vpmultishift",
        "Vinsert",
        "Vcvtne2",
    ];
    // Shifts by a vector of counts work element by element.
    let elementwise =
        ["Vpsllv", "Vpsrlv", "Vpsrav", "Vpshufbit", "Vpmadd52"].iter().any(|free| name.starts_with(free));
    MIXING.iter().any(|prefix| name.starts_with(prefix)) && !elementwise
}

/// Vector instructions that neither read nor write MXCSR: moves, logic, integer arithmetic, shuffles.
fn uses_mxcsr(name: &str) -> bool {
    let name = name.strip_prefix('V').map_or_else(|| name.to_lowercase(), str::to_lowercase);
    const NOT: [&str; 26] = [
        "p",
        "mov",
        "and",
        "or",
        "xor",
        "shuf",
        "unpck",
        "blend",
        "insert",
        "extract",
        "perm",
        "broadcast",
        "gather",
        "scatter",
        "aes",
        "sha",
        "gf2",
        "k",
        "lddqu",
        "compress",
        "expand",
        "align",
        "maskmov",
        "zero",
        "test",
        "dbpsad",
    ];
    !NOT.iter().any(|prefix| name.starts_with(prefix))
}

/// Legacy SSE operands of 16 bytes are aligned but for those that say otherwise; VEX and EVEX ones are not
/// but for the explicitly aligned and the non-temporal moves.
fn alignment(class: Class, guest: &Instruction, name: &str, bytes: usize) -> u8 {
    let name = name.to_lowercase();
    let explicit = ["movaps", "movapd", "movdqa", "movntps", "movntpd", "movntdq"]
        .iter()
        .any(|aligned| name.trim_start_matches('v').starts_with(aligned));
    let unaligned =
        ["movup", "movdqu", "lddqu", "pcmpestr", "pcmpistr"].iter().any(|free| name.starts_with(free));
    match class {
        Class::Sse if bytes == 16 && !unaligned => 16,
        Class::Avx | Class::Avx512 if explicit && guest.memory_size().size() >= 16 => bytes as u8,
        _ => 1,
    }
}

fn pin(uses: &Uses, substitute: Option<usize>, traits: &Traits) -> Option<Pinned> {
    let taken = |register: &Register| {
        let n = register.number();
        uses.general >> n & 1 != 0 || substitute == Some(n) || traits.x87 && *register == Register::RDX
    };
    let free: Vec<Register> = POOL.into_iter().filter(|r| !taken(r)).collect();
    // An argument stays where it arrives, or moves to a register in which none arrives.
    let mut spare =
        free.iter().copied().filter(|r| !matches!(*r, Register::RDI | Register::RSI | Register::RDX));
    let mut place = |argument: Register| {
        if free.contains(&argument) { Some(argument) } else { spare.next() }
    };
    Some(Pinned { image: place(Register::RDI)?, regs: place(Register::RSI)?, memory: place(Register::RDX)? })
}

struct Emitter {
    encoder: Encoder,
}

impl Emitter {
    fn put(&mut self, instruction: &Instruction) -> Result<(), IcedError> {
        self.encoder.encode(instruction, 0).map(|_| ())
    }

    fn two(&mut self, code: Code, to: Register, from: Register) -> Result<(), IcedError> {
        self.put(&Instruction::with2(code, to, from)?)
    }

    fn load(&mut self, code: Code, to: Register, base: Register, at: usize) -> Result<(), IcedError> {
        self.put(&Instruction::with2(code, to, MemoryOperand::with_base_displ(base, at as i64))?)
    }

    fn store(&mut self, code: Code, base: Register, at: usize, from: Register) -> Result<(), IcedError> {
        self.put(&Instruction::with2(code, MemoryOperand::with_base_displ(base, at as i64), from)?)
    }

    fn memory(&mut self, code: Code, base: Register, at: usize) -> Result<(), IcedError> {
        self.put(&Instruction::with1(code, MemoryOperand::with_base_displ(base, at as i64))?)
    }

    fn x87_mask(&mut self) -> Result<(), IcedError> {
        self.put(&Instruction::with2(Code::Mov_r32_imm32, Register::EAX, 1_u32)?)?;
        self.two(Code::Xor_r32_rm32, Register::EDX, Register::EDX)
    }
}

fn vector_register(n: usize, width: u8) -> Register {
    let first = match width {
        16 => Register::XMM0,
        32 => Register::YMM0,
        _ => Register::ZMM0,
    };
    first + n as u32
}

/// Unaligned moves of a whole register: load and store.
fn vector_move(width: u8, legacy: bool) -> (Code, Code) {
    match width {
        _ if legacy => (Code::Movups_xmm_xmmm128, Code::Movups_xmmm128_xmm),
        16 if Host::get().width == VectorWidth::Zmm => {
            (Code::EVEX_Vmovups_xmm_k1z_xmmm128, Code::EVEX_Vmovups_xmmm128_k1z_xmm)
        }
        32 if Host::get().width == VectorWidth::Zmm => {
            (Code::EVEX_Vmovups_ymm_k1z_ymmm256, Code::EVEX_Vmovups_ymmm256_k1z_ymm)
        }
        16 => (Code::VEX_Vmovups_xmm_xmmm128, Code::VEX_Vmovups_xmmm128_xmm),
        32 => (Code::VEX_Vmovups_ymm_ymmm256, Code::VEX_Vmovups_ymmm256_ymm),
        _ => (Code::EVEX_Vmovups_zmm_k1z_zmmm512, Code::EVEX_Vmovups_zmmm512_k1z_zmm),
    }
}

fn emit(
    instruction: &Instruction,
    uses: &Uses,
    pinned: &Pinned,
    substitute: Option<usize>,
    traits: &Traits,
) -> Result<Vec<u8>, IcedError> {
    let mut e = Emitter { encoder: Encoder::new(64) };
    let saved: Vec<Register> = CALLEE_SAVED
        .into_iter()
        .filter(|&n| uses.general >> n & 1 != 0 || substitute == Some(n))
        .map(|n| GENERAL[n])
        .collect();
    // Masks need 64 bits where there is AVX512BW, which the host has if it has AVX-512 at all.
    let legacy = instruction.encoding() == EncodingKind::Legacy;
    let general: Vec<usize> = (0..16).filter(|&n| uses.general >> n & 1 != 0).collect();
    let home = |n: usize| if Some(n) == substitute { RSP * 8 } else { n * 8 };

    for &register in &saved {
        e.put(&Instruction::with1(Code::Push_r64, register)?)?;
    }
    let arguments =
        [(pinned.image, Register::RDI), (pinned.regs, Register::RSI), (pinned.memory, Register::RDX)];
    for (to, from) in arguments.into_iter().filter(|(to, from)| to != from) {
        e.two(Code::Mov_r64_rm64, to, from)?;
    }
    if traits.x87 {
        e.x87_mask()?;
        e.memory(Code::Xrstor64_mem, pinned.image, offset::X87)?;
    }
    if traits.mxcsr {
        e.memory(Code::Ldmxcsr_m32, pinned.image, offset::MXCSR)?;
    }
    if traits.flags {
        e.load(Code::Mov_r32_rm32, Register::EAX, pinned.image, offset::STATUS)?;
        // OF comes from the overflow of 1 + 127.
        e.put(&Instruction::with2(Code::And_AL_imm8, Register::AL, 1_u32)?)?;
        e.put(&Instruction::with2(Code::Add_AL_imm8, Register::AL, 0x7f_u32)?)?;
        e.put(&Instruction::with(Code::Sahf))?;
    }
    for n in (0..32).filter(|&n| uses.load[n] != 0) {
        let (load, _) = vector_move(uses.load[n], legacy);
        e.load(load, vector_register(n, uses.load[n]), pinned.image, offset::VECTORS + n * 64)?;
    }
    for n in (0..8).filter(|&n| uses.masks >> n & 1 != 0) {
        e.load(Code::VEX_Kmovq_kr_km64, Register::K0 + n, pinned.image, offset::MASKS + n as usize * 8)?;
    }
    for &n in &general {
        e.load(Code::Mov_r64_rm64, GENERAL[n], pinned.regs, home(n))?;
    }
    e.put(instruction)?;
    for &n in general.iter().filter(|&&n| uses.general_written >> n & 1 != 0) {
        e.store(Code::Mov_rm64_r64, pinned.regs, home(n), GENERAL[n])?;
    }
    for n in (0..32).filter(|&n| uses.store[n] != 0) {
        let (_, store) = vector_move(uses.store[n], legacy);
        e.store(store, pinned.image, offset::VECTORS + n * 64, vector_register(n, uses.store[n]))?;
    }
    for n in (0..8).filter(|&n| uses.masks_written >> n & 1 != 0) {
        e.store(Code::VEX_Kmovq_m64_kr, pinned.image, offset::MASKS + n as usize * 8, Register::K0 + n)?;
    }
    if traits.flags {
        e.put(&Instruction::with(Code::Lahf))?;
        e.put(&Instruction::with1(Code::Seto_rm8, Register::AL)?)?;
        e.store(Code::Mov_rm32_r32, pinned.image, offset::STATUS, Register::EAX)?;
    }
    if traits.mxcsr {
        e.memory(Code::Stmxcsr_m32, pinned.image, offset::MXCSR)?;
        e.memory(Code::Ldmxcsr_m32, pinned.image, offset::HOST_MXCSR)?;
    }
    if traits.x87 {
        e.x87_mask()?;
        e.memory(Code::Xsave64_mem, pinned.image, offset::X87)?;
        // A state that the processor found to be the initial one is loaded all the same.
        let header = MemoryOperand::with_base_displ(pinned.image, (offset::X87 + 512) as i64);
        e.put(&Instruction::with2(Code::Mov_rm64_imm32, header, 1_i32)?)?;
        e.put(&Instruction::with(Code::Fninit))?;
    }
    if uses.vectors && !legacy && Host::get().width >= VectorWidth::Ymm {
        e.put(&Instruction::with(Code::VEX_Vzeroupper))?;
    }
    for &register in saved.iter().rev() {
        e.put(&Instruction::with1(Code::Pop_r64, register)?)?;
    }
    e.put(&Instruction::with(Code::Retnq))?;
    Ok(e.encoder.take_buffer())
}
