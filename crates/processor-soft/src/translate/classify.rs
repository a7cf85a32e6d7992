//! What becomes of an instruction: re-emitted, built from several host instructions, or interpreted.
//!
//! Anything that is not certain to mean the same on the host with translated operands is interpreted.

use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpAccess, OpKind, Register, RflagsBits};

use super::compat;
use super::mode::Mode;
use crate::extension::{Host, NativeForm, native_form};

/// The six arithmetic flags, as iced-x86 counts them.
pub const FLAGS: u32 =
    RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// How an instruction is translated. Targets are relative to the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing to do.
    Nothing,
    /// The same instruction with other operands.
    Plain,
    /// The same on vector or mask registers; the alignment of the memory operand.
    Vector(u8),
    /// The same on x87 or MMX registers, perhaps on vector registers as well; the alignment of the memory
    /// operand.
    X87(u8),
    /// FLDCW, which may unmask exceptions.
    LoadControlWord,
    Lea,
    Push,
    Pop,
    /// PUSHFQ.
    PushFlags,
    Leave,
    Jump(i32),
    Call(i32),
    /// Condition code and target.
    Branch(u8, i32),
    /// JRCXZ.
    CountZero(i32),
    JumpIndirect,
    CallIndirect,
    /// Bytes released behind the return address.
    Return(u16),
    /// DIV or IDIV, which may raise #DE.
    Divide,
    /// An instruction of the operating system, at privilege level 0.
    System(System),
    /// MOVS, STOS or LODS without a prefix that repeats it.
    Element(Element),
    /// MOVS or STOS with REP.
    Repeat(Element),
    /// BT, BTS, BTR or BTC of a string of bits in memory.
    BitString,
    /// By the interpreter's handler; whether the block goes on behind it.
    Interpret(bool),
}

/// Instructions of operating systems that are translated, most of them at privilege level 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    Cli,
    Sti,
    Swapgs,
    Stac,
    Clac,
    /// RDTSC, and with `true` RDTSCP, at any privilege level.
    ReadTime(bool),
    /// MOV from a segment register, at any privilege level.
    ReadSegment,
    /// MOV from CR2.
    ReadFaultAddress,
    /// CLD, at any privilege level.
    Cld,
}

/// One element of a string, of this many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// From one place to another.
    Move(u8),
    /// From rAX.
    Store(u8),
    /// Into rAX.
    Load(u8),
}

impl Kind {
    /// Whether the instruction ends a block.
    pub fn ends(self) -> bool {
        matches!(
            self,
            Self::Jump(_)
                | Self::Call(_)
                | Self::JumpIndirect
                | Self::CallIndirect
                | Self::Return(_)
                | Self::Interpret(false)
        )
    }

    /// Whether the instruction itself is written, with other operands.
    pub fn is_written(self) -> bool {
        matches!(self, Self::Plain | Self::Vector(_) | Self::X87(_) | Self::BitString)
    }
}

/// Decides for an instruction that has been decoded with its offset in the page as its address, and
/// [converted](compat::convert) if it is of 32-bit code.
pub fn classify(instruction: &Instruction, mode: Mode) -> Kind {
    let interpret = Kind::Interpret(instruction.flow_control() == FlowControl::Next);
    if instruction.is_invalid() {
        return interpret;
    }
    let transfer = if mode.long() {
        long_transfer(instruction, mode, interpret)
    } else {
        compat::transfer(instruction, || operands_fit(instruction, mode))
    };
    if let Some(kind) = transfer {
        return kind;
    }
    if instruction.is_jcc_short_or_near() {
        // Condition codes of iced-x86 count from 1 in the order of the architecture.
        return match instruction.op0_kind() {
            OpKind::NearBranch64 => match i32::try_from(instruction.near_branch64() as i64) {
                Ok(target) => Kind::Branch(condition(instruction), target),
                Err(_) => interpret,
            },
            OpKind::NearBranch32 if !mode.long() => {
                Kind::Branch(condition(instruction), instruction.near_branch32() as i32)
            }
            _ => interpret,
        };
    }
    if !instruction.code().op_code().mode64() {
        return interpret;
    }
    if let Some(kind) = string(instruction, mode) {
        return kind;
    }
    if is_bit_string(instruction) {
        let wide = instruction.op1_register().size() >= 4;
        return if mode.long() && wide && address_fits(instruction, mode) {
            Kind::BitString
        } else {
            interpret
        };
    }
    let fits = || operands_fit(instruction, mode);
    match instruction.mnemonic() {
        Mnemonic::Nop | Mnemonic::Endbr64 | Mnemonic::Endbr32 => Kind::Nothing,
        Mnemonic::Prefetchnta
        | Mnemonic::Prefetcht0
        | Mnemonic::Prefetcht1
        | Mnemonic::Prefetcht2
        | Mnemonic::Prefetchw => Kind::Nothing,
        Mnemonic::Div | Mnemonic::Idiv if fits() && accessed_size(instruction) >= 4 => Kind::Divide,
        Mnemonic::Cli if !mode.user => Kind::System(System::Cli),
        Mnemonic::Sti if !mode.user => Kind::System(System::Sti),
        Mnemonic::Swapgs if !mode.user && mode.long() => Kind::System(System::Swapgs),
        Mnemonic::Stac if !mode.user => Kind::System(System::Stac),
        Mnemonic::Clac if !mode.user => Kind::System(System::Clac),
        Mnemonic::Rdtsc => Kind::System(System::ReadTime(false)),
        Mnemonic::Rdtscp => Kind::System(System::ReadTime(true)),
        Mnemonic::Cld => Kind::System(System::Cld),
        Mnemonic::Mov if reads_segment(instruction) => Kind::System(System::ReadSegment),
        Mnemonic::Mov
            if !mode.user
                && instruction.code() == Code::Mov_r64_cr
                && instruction.op1_register() == Register::CR2 =>
        {
            Kind::System(System::ReadFaultAddress)
        }
        mnemonic if is_plain(mnemonic) && fits() && offered(instruction) => Kind::Plain,
        // The registers that 32-bit code has no names for stay as they are.
        Mnemonic::Vzeroupper | Mnemonic::Vzeroall if !mode.long() => interpret,
        Mnemonic::Fldcw if fits() => Kind::LoadControlWord,
        // The host's MXCSR is the guest's where vector registers are loaded.
        Mnemonic::Stmxcsr | Mnemonic::Vstmxcsr if fits() && offered(instruction) => Kind::Vector(0),
        mnemonic if is_x87_control(mnemonic) => interpret,
        _ if fits() && offered(instruction) => match native_form(instruction) {
            Some(NativeForm { alignment, x87: true }) => Kind::X87(alignment),
            Some(NativeForm { alignment, .. }) if uses_vectors(instruction) => Kind::Vector(alignment),
            _ => interpret,
        },
        _ => interpret,
    }
}

/// What deals with the x87 environment or with interrupts of a coprocessor.
fn is_x87_control(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Fldenv
            | M::Fnstenv
            | M::Fstenv
            | M::Fnsave
            | M::Fsave
            | M::Frstor
            | M::Feni
            | M::Fneni
            | M::Fdisi
            | M::Fndisi
            | M::Fsetpm
            | M::Fnsetpm
    )
}

/// MOVS, STOS or LODS by index registers as wide as addresses, in segments without a base.
fn string(instruction: &Instruction, mode: Mode) -> Option<Kind> {
    use Mnemonic as M;
    let (kind, size): (fn(u8) -> Element, u8) = match instruction.mnemonic() {
        // There is an SSE instruction of the name of MOVSD, which has other operands.
        M::Movsb => (Element::Move, 1),
        M::Movsw => (Element::Move, 2),
        M::Movsd => (Element::Move, 4),
        M::Movsq => (Element::Move, 8),
        M::Stosb => (Element::Store, 1),
        M::Stosw => (Element::Store, 2),
        M::Stosd => (Element::Store, 4),
        M::Stosq => (Element::Store, 8),
        M::Lodsb => (Element::Load, 1),
        M::Lodsw => (Element::Load, 2),
        M::Lodsd => (Element::Load, 4),
        M::Lodsq => (Element::Load, 8),
        _ => return None,
    };
    let (from, to) = match mode.long() {
        true => (OpKind::MemorySegRSI, OpKind::MemoryESRDI),
        false => (OpKind::MemorySegESI, OpKind::MemoryESEDI),
    };
    let kinds = (instruction.op0_kind(), instruction.op1_kind());
    let (fits, reads) = match kind(size) {
        Element::Move(_) => (kinds == (to, from), true),
        Element::Store(_) => (kinds == (to, OpKind::Register), false),
        Element::Load(_) => (kinds == (OpKind::Register, from), true),
    };
    let segment = instruction.memory_segment();
    let based = matches!(segment, Register::FS | Register::GS) || !mode.may_use(segment);
    if !fits || reads && based || instruction.has_repne_prefix() {
        return None;
    }
    match (kind(size), instruction.has_rep_prefix()) {
        (element, false) => Some(Kind::Element(element)),
        // As many as a register says that 32-bit code has but half of.
        (element @ (Element::Move(_) | Element::Store(_)), true) if mode.long() => {
            Some(Kind::Repeat(element))
        }
        _ => None,
    }
}

/// Whether the instruction moves a segment register to all of a general one.
fn reads_segment(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::Register
        && instruction.op0_register().size() >= 4
        && instruction.op1_kind() == OpKind::Register
        && instruction.op1_register().is_segment_register()
}

/// Whether the instruction is on a bit of memory that a register tells, within the operand or far from it.
fn is_bit_string(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(instruction.mnemonic(), M::Bt | M::Bts | M::Btr | M::Btc)
        && (instruction.op0_kind(), instruction.op1_kind()) == (OpKind::Memory, OpKind::Register)
}

/// Jumps, calls, returns, LEA and what uses the stack, of 64-bit code.
fn long_transfer(instruction: &Instruction, mode: Mode, interpret: Kind) -> Option<Kind> {
    let operands_fit = |instruction| operands_fit(instruction, mode);
    let address_fits = |instruction| address_fits(instruction, mode);
    let target = |kind: fn(i32) -> Kind| match i32::try_from(instruction.near_branch64() as i64) {
        Ok(target) => kind(target),
        Err(_) => interpret,
    };
    let near = instruction.op0_kind() == OpKind::NearBranch64;
    Some(match instruction.code() {
        Code::Jmp_rel8_64 | Code::Jmp_rel32_64 if near => target(Kind::Jump),
        Code::Jrcxz_rel8_64 if near => target(Kind::CountZero),
        Code::Call_rel32_64 if near => target(Kind::Call),
        Code::Jmp_rm64 if operands_fit(instruction) => Kind::JumpIndirect,
        Code::Call_rm64 if operands_fit(instruction) => Kind::CallIndirect,
        Code::Retnq => Kind::Return(0),
        Code::Retnq_imm16 => Kind::Return(instruction.immediate16()),
        Code::Push_r64 | Code::Push_rm64 | Code::Pushq_imm8 | Code::Pushq_imm32
            if operands_fit(instruction) =>
        {
            Kind::Push
        }
        Code::Pop_r64 | Code::Pop_rm64 if instruction.op0_kind() == OpKind::Register => Kind::Pop,
        Code::Pushfq => Kind::PushFlags,
        Code::Leaveq => Kind::Leave,
        Code::Lea_r64_m if instruction.memory_base() != Register::RIP || operands_fit(instruction) => {
            if address_fits(instruction) {
                Kind::Lea
            } else {
                interpret
            }
        }
        Code::Lea_r32_m if address_fits(instruction) && !instruction.is_ip_rel_memory_operand() => Kind::Lea,
        _ => return None,
    })
}

/// Whether the instruction names a vector or mask register, or is one that means them all.
fn uses_vectors(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Vzeroupper | Mnemonic::Vzeroall)
        || (0..instruction.op_count())
            .any(|n| instruction.op_kind(n) == OpKind::Register && is_vector(instruction.op_register(n)))
}

fn is_vector(register: Register) -> bool {
    register.is_vector_register() || register.is_k()
}

/// Whether a register is of x87, MMX or a vector extension.
fn is_extension(register: Register) -> bool {
    is_vector(register) || register.is_st() || register.is_mm()
}

fn condition(instruction: &Instruction) -> u8 {
    use iced_x86::ConditionCode as C;
    match instruction.condition_code() {
        C::o => 0,
        C::no => 1,
        C::b => 2,
        C::ae => 3,
        C::e => 4,
        C::ne => 5,
        C::be => 6,
        C::a => 7,
        C::s => 8,
        C::ns => 9,
        C::p => 10,
        C::np => 11,
        C::l => 12,
        C::ge => 13,
        C::le => 14,
        _ => 15,
    }
}

fn offered(instruction: &Instruction) -> bool {
    instruction.cpuid_features().iter().all(|&feature| Host::get().offers(feature))
}

/// Instructions on general registers that do the same on the host, memory operand and registers replaced,
/// and that raise nothing but the faults of that operand.
fn is_plain(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Mov
            | M::Movzx
            | M::Movsx
            | M::Movsxd
            | M::Add
            | M::Sub
            | M::And
            | M::Or
            | M::Xor
            | M::Cmp
            | M::Test
            | M::Adc
            | M::Sbb
            | M::Inc
            | M::Dec
            | M::Neg
            | M::Not
            | M::Shl
            | M::Sal
            | M::Shr
            | M::Sar
            | M::Rol
            | M::Ror
            | M::Rcl
            | M::Rcr
            | M::Shld
            | M::Shrd
            | M::Imul
            | M::Mul
            | M::Bswap
            | M::Xchg
            | M::Xadd
            | M::Cmpxchg
            | M::Cmpxchg8b
            | M::Cmpxchg16b
            | M::Bt
            | M::Bts
            | M::Btr
            | M::Btc
            | M::Bsf
            | M::Bsr
            | M::Tzcnt
            | M::Lzcnt
            | M::Popcnt
            | M::Andn
            | M::Bextr
            | M::Blsi
            | M::Blsr
            | M::Blsmsk
            | M::Bzhi
            | M::Shlx
            | M::Shrx
            | M::Sarx
            | M::Rorx
            | M::Pdep
            | M::Pext
            | M::Adcx
            | M::Adox
            | M::Mulx
            | M::Crc32
            | M::Movbe
            | M::Movnti
            | M::Cbw
            | M::Cwde
            | M::Cdqe
            | M::Cwd
            | M::Cdq
            | M::Cqo
            | M::Clc
            | M::Stc
            | M::Cmc
            | M::Lahf
            | M::Sahf
            | M::Lfence
            | M::Mfence
            | M::Sfence
            | M::Cmovo
            | M::Cmovno
            | M::Cmovb
            | M::Cmovae
            | M::Cmove
            | M::Cmovne
            | M::Cmovbe
            | M::Cmova
            | M::Cmovs
            | M::Cmovns
            | M::Cmovp
            | M::Cmovnp
            | M::Cmovl
            | M::Cmovge
            | M::Cmovle
            | M::Cmovg
            | M::Seto
            | M::Setno
            | M::Setb
            | M::Setae
            | M::Sete
            | M::Setne
            | M::Setbe
            | M::Seta
            | M::Sets
            | M::Setns
            | M::Setp
            | M::Setnp
            | M::Setl
            | M::Setge
            | M::Setle
            | M::Setg
    )
}

/// Registers 13 and 14, whose host namesakes have other duties.
pub fn has_home(register: Register) -> bool {
    register.is_gpr() && matches!(register.full_register().number(), 13 | 14)
}

/// The number of the memory operand, if there is one.
pub fn memory_operand(instruction: &Instruction) -> Option<u32> {
    (0..instruction.op_count()).find(|&n| instruction.op_kind(n) == OpKind::Memory)
}

/// Whether a register is the second byte of another one, which no instruction with a REX prefix can name.
pub fn is_high_byte(register: Register) -> bool {
    matches!(register, Register::AH | Register::CH | Register::DH | Register::BH)
}

/// Bytes of the memory operand, or of the first operand if there is none.
pub fn accessed_size(instruction: &Instruction) -> usize {
    let memory = instruction.memory_size();
    match memory.size() {
        0 => instruction.op0_register().size(),
        _ if memory.is_broadcast() => memory.element_size(),
        size => size,
    }
}

/// Whether an access changes its operand.
pub fn writes(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

/// Whether all operands are of the kinds that can be replaced.
fn operands_fit(instruction: &Instruction, mode: Mode) -> bool {
    let mut memory = false;
    let mut homes = [None; 3];
    for operand in 0..instruction.op_count() {
        match instruction.op_kind(operand) {
            OpKind::Register => {
                let register = instruction.op_register(operand);
                if is_extension(register) {
                    continue;
                }
                if !register.is_gpr() {
                    return false;
                }
                let number = register.full_register().number();
                if has_home(register) && !homes.contains(&Some(number)) {
                    let Some(free) = homes.iter_mut().find(|home| home.is_none()) else { return false };
                    *free = Some(number);
                }
            }
            OpKind::Memory => {
                if memory || !address_fits(instruction, mode) {
                    return false;
                }
                memory = true;
            }
            OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64 => {}
            _ => return false,
        }
    }
    homes.iter().flatten().count() <= 2
}

/// Whether the address of the memory operand can be computed by one LEA.
fn address_fits(instruction: &Instruction, mode: Mode) -> bool {
    if !mode.long() {
        return compat::address_fits(instruction) && mode.may_use(instruction.memory_segment());
    }
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    let wide = |register: Register| register == Register::None || register.is_gpr64();
    if base == Register::RIP {
        return i32::try_from(instruction.memory_displacement64() as i64).is_ok();
    }
    let absolute = base == Register::None && index == Register::None;
    wide(base)
        && wide(index)
        && (!absolute || instruction.memory_displ_size() == 8)
        && i32::try_from(instruction.memory_displacement64() as i64).is_ok()
}

/// The flags that `instruction` reads.
pub fn reads(instruction: &Instruction, kind: Kind) -> u32 {
    match kind {
        Kind::Branch(..) | Kind::Divide => instruction.rflags_read() & FLAGS,
        kind if kind.is_written() => instruction.rflags_read() & FLAGS,
        Kind::Interpret(_) | Kind::PushFlags => FLAGS,
        _ => 0,
    }
}

/// The flags that `instruction` may change.
pub fn modifies(instruction: &Instruction, kind: Kind) -> u32 {
    match kind {
        Kind::Divide => instruction.rflags_modified() & FLAGS,
        kind if kind.is_written() => instruction.rflags_modified() & FLAGS,
        _ => 0,
    }
}

/// The flags that `instruction` gives a new value whatever its operands are.
pub fn kills(instruction: &Instruction, kind: Kind) -> u32 {
    use Mnemonic as M;
    if kind == Kind::Divide {
        // Undefined, whatever the processor.
        return FLAGS;
    }
    if !kind.is_written() {
        return 0;
    }
    let certain = instruction.rflags_written() | instruction.rflags_cleared() | instruction.rflags_set();
    FLAGS
        & match instruction.mnemonic() {
            M::Rcl | M::Rcr => 0,
            M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Shld | M::Shrd => {
                let count = instruction.op_count() - 1;
                let by_cl = instruction.op_kind(count) == OpKind::Register;
                if by_cl || instruction.immediate(count) & 0x1f == 0 { 0 } else { certain }
            }
            // What is undefined by the architecture is written by every processor there is.
            M::And | M::Or | M::Xor | M::Test => instruction.rflags_modified(),
            _ => certain,
        }
}
