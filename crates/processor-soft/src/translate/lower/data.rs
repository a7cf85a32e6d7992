//! Instructions that compute: the same on the host, with other operands.

use iced_x86::{Instruction, Mnemonic, OpAccess, OpCodeOperandKind, OpKind, Register};

use super::super::block::Guest;
use super::super::classify::{Kind, accessed_size, has_home, writes};
use super::super::emit::{Mem, condition, host};
use super::super::plan::Plan;
use super::super::state::{self, reason};
use super::{Late, Writer, home, number, resident, sized};

/// Registers that an instruction may be lent if it does not use them itself.
const LENDERS: [u8; 8] = [3, 5, 6, 7, 8, 9, 10, 11];

impl Writer<'_> {
    /// False, and nothing written, if there is no such instruction with these operands.
    pub fn plain(&mut self, guest: &Guest, plan: &Plan, live: u32) -> bool {
        if self.register_move(&guest.instruction) {
            return true;
        }
        let mut instruction = guest.instruction;
        instruction.set_has_rep_prefix(false);
        instruction.set_has_repne_prefix(false);
        let count = instruction.op_count();
        let memory = (0..count).find(|&n| instruction.op_kind(n) == OpKind::Memory);
        let homeless = |n| !has_home(instruction.op_register(n));
        if memory.is_none() && (0..count).all(|n| instruction.op_kind(n) != OpKind::Register || homeless(n)) {
            // As it is.
            let Some(bytes) = self.encode(&instruction) else { return false };
            self.prepare_flags(guest, live);
            self.e.bytes(&bytes);
            self.finish_flags(guest);
            return true;
        }
        let mut homes = [host::S1, host::S0];
        let mut used: [Option<u8>; 2] = [None; 2];
        let (mut load, mut store) = ([false; 2], [false; 2]);
        let info = self.tools.info.info(&guest.instruction);
        let write = memory.is_some_and(|n| writes(info.op_access(n)));
        for n in 0..count {
            if instruction.op_kind(n) != OpKind::Register || !has_home(instruction.op_register(n)) {
                continue;
            }
            let register = instruction.op_register(n);
            let access = info.op_access(n);
            let guest_register = number(register);
            let Some(place) = used.iter().position(|&u| u.is_none() || u == Some(guest_register)) else {
                return false;
            };
            used[place] = Some(guest_register);
            load[place] |= access != OpAccess::Write || register.size() < 4;
            store[place] |= writes(access);
            instruction.set_op_register(n, sized(homes[place], register.size()));
        }
        let mut lent = None;
        if memory.is_some() && used[1].is_some() {
            // S0 is needed for the address: another register is lent.
            let taken =
                self.tools.info.info(&guest.instruction).used_registers().iter().fold(0, |set, used| {
                    set | if used.register().is_gpr() { 1_u32 << number(used.register()) } else { 0 }
                });
            let Some(free) = LENDERS.into_iter().find(|&n| taken >> n & 1 == 0) else { return false };
            for n in 0..count {
                if instruction.op_kind(n) == OpKind::Register
                    && instruction.op_register(n) == sized(host::S0, instruction.op_register(n).size())
                {
                    instruction.set_op_register(n, sized(free, instruction.op_register(n).size()));
                }
            }
            homes[1] = free;
            lent = Some(free);
        }
        // A single operand with a home may be used where it is.
        if memory.is_none()
            && guest.kind == Kind::Plain
            && used[1].is_none()
            && let Some(only) = used[0]
            && let Some(direct) = in_place(&guest.instruction, only, store[0])
            && let Some(bytes) = self.encode(&direct)
        {
            self.prepare_flags(guest, live);
            self.e.bytes(&bytes);
            self.finish_flags(guest);
            return true;
        }
        let distance = plan.operand.map_or(0, |share| share.offset);
        if memory.is_some() {
            set_operand(&mut instruction, distance);
        }
        let Some(bytes) = self.encode(&instruction) else { return false };
        let after = self.e.label();
        if memory.is_some() {
            let offset = self.operand(guest, plan.operand, (accessed_size(&guest.instruction), write), after);
            match guest.kind {
                Kind::Vector(alignment @ 2..) | Kind::X87(alignment @ 2..) => {
                    self.check_alignment(guest, offset, alignment)
                }
                _ if instruction.mnemonic() == Mnemonic::Cmpxchg16b => {
                    self.check_alignment(guest, offset, 16);
                }
                _ => {}
            }
            debug_assert_eq!(offset, distance, "the operand is where its plan says");
        }
        self.prepare_flags(guest, live);
        if let Some(lent) = lent {
            self.e.store(state::target(), lent);
        }
        for place in 0..2 {
            if let Some(register) = used[place].filter(|_| load[place]) {
                self.e.load(homes[place], home(register));
            }
        }
        if used[1].is_some() && lent.is_none() {
            self.s0 = None;
        }
        self.e.bytes(&bytes);
        for place in 0..2 {
            if let Some(register) = used[place].filter(|_| store[place]) {
                self.e.store(home(register), homes[place]);
            }
        }
        if let Some(lent) = lent {
            self.e.load(lent, state::target());
        }
        self.finish_flags(guest);
        self.bind_after(after);
        true
    }

    /// Leaves the block if the operand is not aligned. The host's flags are overwritten.
    fn check_alignment(&mut self, guest: &Guest, offset: i32, alignment: u8) {
        self.clobber_flags(guest.live);
        let mut pointer = host::S0;
        if offset != 0 {
            self.e.lea(host::S1, Mem::base(host::S0, offset));
            pointer = host::S1;
        }
        let label = self.e.label();
        self.e.test_imm_8(pointer, alignment - 1);
        self.e.jump_if(condition::NOT_EQUAL, label);
        let target = i32::from(guest.start);
        self.late.push(Late::Exit { label, target, saved: true, reason: reason::STEP });
    }

    /// MOV between registers of which one has a home.
    fn register_move(&mut self, instruction: &Instruction) -> bool {
        use iced_x86::Code as C;
        let wide = match instruction.code() {
            C::Mov_rm64_r64 | C::Mov_r64_rm64 => true,
            C::Mov_rm32_r32 | C::Mov_r32_rm32 => false,
            _ => return false,
        };
        if instruction.op0_kind() != OpKind::Register || instruction.op1_kind() != OpKind::Register {
            return false;
        }
        let (to, from) = (number(instruction.op0_register()), number(instruction.op1_register()));
        match (resident(to), resident(from)) {
            (Some(_), Some(_)) => return false,
            (Some(to), None) => self.e.load_sized(wide, to, home(from)),
            (None, Some(from)) if wide => self.e.store(home(to), from),
            (None, Some(from)) => {
                self.e.mov_32(host::S1, from);
                self.e.store(home(to), host::S1);
            }
            (None, None) => {
                self.e.load_sized(wide, host::S1, home(from));
                self.e.store(home(to), host::S1);
            }
        }
        true
    }

    pub fn lea(&mut self, guest: &Guest) {
        let instruction = &guest.instruction;
        let to = number(instruction.op0_register());
        let wide = instruction.op0_register().size() == 8;
        let target = resident(to).unwrap_or(host::S1);
        if instruction.memory_base() == Register::RIP {
            self.e.load(target, state::page());
            self.e.lea(target, Mem::base(target, instruction.memory_displacement64() as i32));
        } else {
            // A base with a home comes by way of S0.
            if has_home(instruction.memory_base()) {
                self.s0 = None;
            }
            let mem = self.address_operand(instruction, 0);
            if wide { self.e.lea(target, mem) } else { self.e.lea_32(target, mem) }
        }
        if resident(to).is_none() {
            self.e.store(home(to), host::S1);
        }
    }

    /// DIV and IDIV: by the host if the quotient surely fits, else by the interpreter (`which`), which knows
    /// when to raise #DE.
    pub fn divide(&mut self, guest: &Guest, plan: &Plan, which: u16) {
        let instruction = &guest.instruction;
        let wide = accessed_size(instruction) == 8;
        let after = self.e.label();
        self.clobber_flags(guest.live);
        if instruction.op0_kind() == OpKind::Memory {
            let offset = self.operand(guest, plan.operand, (accessed_size(instruction), false), after);
            self.e.load_sized(wide, host::S1, Mem::base(host::S0, offset));
        } else {
            let value = self.value(instruction.op0_register(), host::S1);
            if value != host::S1 {
                self.e.mov_sized(wide, host::S1, value);
            }
        }
        let label = self.e.label();
        if instruction.mnemonic() == Mnemonic::Div {
            // Fits if the upper half is less than the divisor.
            self.e.cmp(wide, host::RDX, host::S1);
            self.e.jump_if(condition::ABOVE_OR_EQUAL, label);
        } else {
            // Fits if the dividend fits into its lower half and the divisor is neither 0 nor -1.
            self.s0 = None;
            self.e.mov_sized(wide, host::S0, host::RAX);
            self.e.sar(wide, host::S0, if wide { 63 } else { 31 });
            self.e.cmp(wide, host::S0, host::RDX);
            self.e.jump_if(condition::NOT_EQUAL, label);
            self.e.lea(host::S0, Mem::base(host::S1, 1));
            self.e.cmp_imm_sized(wide, host::S0, 1);
            self.e.jump_if(condition::BELOW_OR_EQUAL, label);
        }
        self.e.divide(wide, instruction.mnemonic() == Mnemonic::Idiv, host::S1);
        self.flags = super::Flags::Host;
        self.bind_after(after);
        // What the interpreter may do, nobody knows.
        self.late.push(Late::Interpreted { label, after, site: Self::site(guest, 0, false), which });
        self.forget_slots();
    }
}

/// Makes `[S0 + offset]` the memory operand.
fn set_operand(instruction: &mut Instruction, offset: i32) {
    instruction.set_memory_base(Register::RAX + u32::from(host::S0));
    instruction.set_memory_index(Register::None);
    instruction.set_memory_index_scale(1);
    instruction.set_memory_displacement64(offset as u64);
    instruction.set_memory_displ_size(u32::from(offset != 0));
    instruction.set_segment_prefix(Register::None);
}

/// `instruction` with its only operand that has a home replaced by that home, if it may be a memory operand.
/// A result of 32 bits would have to clear the upper half, which a store does not.
fn in_place(instruction: &Instruction, home: u8, writes: bool) -> Option<Instruction> {
    let code = instruction.op_code();
    let mut direct = *instruction;
    direct.set_has_rep_prefix(false);
    direct.set_has_repne_prefix(false);
    let mut replaced = false;
    for n in 0..instruction.op_count() {
        if instruction.op_kind(n) != OpKind::Register || !has_home(instruction.op_register(n)) {
            continue;
        }
        let register = instruction.op_register(n);
        let memory_kind = matches!(
            code.op_kind(n),
            OpCodeOperandKind::r8_or_mem
                | OpCodeOperandKind::r16_or_mem
                | OpCodeOperandKind::r32_or_mem
                | OpCodeOperandKind::r64_or_mem
        );
        if replaced || !memory_kind || writes && register.size() == 4 {
            return None;
        }
        replaced = true;
        direct.set_op_kind(n, OpKind::Memory);
        direct.set_memory_base(Register::None);
        direct.set_memory_index(Register::None);
        direct.set_memory_displ_size(8);
        direct.set_memory_displacement64(state::register_offset(usize::from(home)) as u64);
        direct.set_segment_prefix(Register::GS);
    }
    // XCHG with memory is a locked operation, and a bit string in memory reaches beyond its operand.
    use Mnemonic as M;
    let different = matches!(instruction.mnemonic(), M::Xchg | M::Bt | M::Bts | M::Btr | M::Btc);
    (replaced && !different).then_some(direct)
}
