//! Instructions that compute: the same on the host, with other operands.

use iced_x86::{Instruction, Mnemonic, OpAccess, OpCodeOperandKind, OpKind, Register};

use super::super::block::Guest;
use super::super::classify::{Kind, accessed_size, has_home, is_high_byte, memory_operand, writes};
use super::super::emit::{Mem, condition, host};
use super::super::plan::Plan;
use super::super::state::{self, reason};
use super::{Flags, Held, Late, Writer, home, number, resident, sized};

/// Registers that an instruction may be lent if it does not use them itself.
const LENDERS: [u8; 8] = [3, 5, 6, 7, 8, 9, 10, 11];
/// The first ones can be named without a REX prefix.
const LEGACY: usize = 4;

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
        let memory = memory_operand(&instruction);
        let homeless = |n| !has_home(instruction.op_register(n));
        if memory.is_none() && (0..count).all(|n| instruction.op_kind(n) != OpKind::Register || homeless(n)) {
            // As it is.
            let Some(bytes) = self.encode(&instruction) else { return false };
            self.prepare_flags(guest, live);
            self.e.bytes(&bytes);
            self.finish_flags(guest);
            return true;
        }
        let mut used: [Option<Used>; 2] = [None; 2];
        let info = self.tools.info.info(&guest.instruction);
        let write = memory.is_some_and(|n| writes(info.op_access(n)));
        for n in 0..count {
            if instruction.op_kind(n) != OpKind::Register || !has_home(instruction.op_register(n)) {
                continue;
            }
            let register = instruction.op_register(n);
            let access = info.op_access(n);
            let guest_register = number(register);
            let place = used.iter_mut().find(|u| u.is_none_or(|u| u.register == guest_register));
            let Some(place) = place else { return false };
            let place = place.get_or_insert(Used { register: guest_register, load: false, store: false });
            place.load |= access != OpAccess::Write || register.size() < 4;
            place.store |= writes(access);
        }
        if memory.is_some() {
            return self.with_memory(guest, plan, live, instruction, (used, write));
        }
        self.prepare_flags(guest, live);
        // A single operand may be used where it is.
        if let ([Some(only), None], Kind::Plain) = (used, guest.kind)
            && !self.holds(only.register)
            && !(only.store && self.soon.uses(only.register))
            && let Some(direct) = in_place(&guest.instruction, only)
            && let Some(bytes) = self.encode(&direct)
        {
            self.e.bytes(&bytes);
            self.finish_flags(guest);
            return true;
        }
        let places = self.hold(used.map(|used| used.map(|used| (used.register, used.load))));
        for (used, place) in used.into_iter().zip(places) {
            if let Some(used) = used {
                replace(&mut instruction, &guest.instruction, used.register, place);
            }
        }
        let bytes = self.encode(&instruction);
        if let Some(bytes) = &bytes {
            self.e.bytes(bytes);
            self.store_used(used, places);
            self.finish_flags(guest);
        } else {
            // What is held need not have been loaded.
            self.release_scratch();
        }
        bytes.is_some()
    }

    /// Puts results into the homes of their registers.
    fn store_used(&mut self, used: [Option<Used>; 2], places: [u8; 2]) {
        for (used, place) in used.into_iter().zip(places) {
            if let Some(used) = used.filter(|used| used.store) {
                self.e.store(home(used.register), place);
            }
        }
    }

    /// [`Self::plain`] of an instruction with a memory operand, of which `used` are the operands with homes; `write`
    /// if the memory operand is written.
    fn with_memory(
        &mut self,
        guest: &Guest,
        plan: &Plan,
        live: u32,
        mut instruction: Instruction,
        (used, write): ([Option<Used>; 2], bool),
    ) -> bool {
        // S0 is needed for the address: another register is lent for a second operand that has a home, or for the
        // address itself if S0 cannot be named beside an operand.
        let mut places = [host::S1, host::S0];
        let high = (0..instruction.op_count())
            .any(|n| instruction.op_kind(n) == OpKind::Register && is_high_byte(instruction.op_register(n)));
        let mut lent = None;
        if used[1].is_some() || high {
            let taken =
                self.tools.info.info(&guest.instruction).used_registers().iter().fold(0, |set, used| {
                    set | if used.register().is_gpr() { 1_u32 << number(used.register()) } else { 0 }
                });
            let lenders = if high { &LENDERS[..LEGACY] } else { &LENDERS };
            let Some(&free) = lenders.iter().find(|&n| taken >> n & 1 == 0) else { return false };
            places[1] = free;
            lent = Some(free);
        }
        let base = if high { places[1] } else { host::S0 };
        for (used, place) in used.into_iter().zip(places) {
            if let Some(used) = used {
                replace(&mut instruction, &guest.instruction, used.register, place);
            }
        }
        let distance = plan.operand.map_or(0, |share| share.offset);
        set_operand(&mut instruction, base, distance);
        let Some(mut bytes) = self.encode(&instruction) else { return false };
        let after = self.e.label();
        let alignment = match guest.kind {
            Kind::Vector(alignment @ 2..) | Kind::X87(alignment @ 2..) => alignment,
            _ if instruction.mnemonic() == Mnemonic::Cmpxchg16b => 16,
            _ => 0,
        };
        // While the flags stay where they are, S1 does, too.
        let known = plan.operand.filter(|share| self.filled >> share.slot & 1 != 0);
        let known = known.filter(|_| self.flags != Flags::Saved);
        let mut pointed = false;
        match (known, used[0]) {
            (Some(_), Some(first)) if first.load && self.held[0] == Held::Guest(first.register) => {
                self.e.mov(host::S1, host::S0);
                self.held[1] = self.held[0];
            }
            (Some(share), None) if alignment == 0 && !high => {
                // S0 may have something better to hold.
                let there = Held::Slot(share.slot);
                let better = match self.held {
                    [Held::Guest(n), Held::Nothing | Held::Slot(_)] => self.soon.uses(n),
                    _ => false,
                };
                if self.held[0] != there && (better || self.held[1] == there) {
                    set_operand(&mut instruction, host::S1, distance);
                    if let Some(code) = self.encode(&instruction) {
                        bytes = code;
                        pointed = true;
                        if self.held[1] != there {
                            self.e.load(host::S1, state::slot(share.slot));
                            self.held[1] = there;
                        }
                    }
                }
            }
            _ => {}
        }
        if !pointed {
            let offset = self.operand(guest, plan.operand, (accessed_size(&guest.instruction), write), after);
            debug_assert_eq!(offset, distance, "the operand is where its plan says");
            if alignment != 0 {
                self.check_alignment(guest, offset, alignment);
            }
        }
        self.prepare_flags(guest, live);
        if let Some(lent) = lent {
            self.e.store(state::target(), lent);
        }
        if high {
            self.e.mov(base, host::S0);
        }
        if let Some(first) = used[0] {
            if first.load && self.held[1] != Held::Guest(first.register) {
                self.e.load(host::S1, home(first.register));
            }
            self.held[1] = Held::Guest(first.register);
        }
        if let Some(second) = used[1].filter(|second| second.load) {
            self.e.load(places[1], home(second.register));
        }
        self.e.bytes(&bytes);
        self.store_used(used, places);
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
            self.held[1] = Held::Nothing;
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
        if let (Some(_), Some(_)) = (resident(to), resident(from)) {
            return false;
        }
        match (resident(to), resident(from)) {
            (Some(to), None) if !self.holds(from) => {
                self.e.load_sized(wide, to, home(from));
                return true;
            }
            (None, Some(from)) if wide && !self.holds(to) && !self.soon.uses(to) => {
                self.e.store(home(to), from);
                return true;
            }
            _ => {}
        }
        let with_home = |n, load| resident(n).is_none().then_some((n, load));
        let places = self.hold([with_home(to, to == from), with_home(from, true)]);
        let from = resident(from).unwrap_or(places[1]);
        self.e.mov_sized(wide, resident(to).unwrap_or(places[0]), from);
        if resident(to).is_none() {
            self.e.store(home(to), places[0]);
        }
        true
    }

    pub fn lea(&mut self, guest: &Guest) {
        let instruction = &guest.instruction;
        let to = number(instruction.op0_register());
        let wide = instruction.op0_register().size() == 8;
        let target =
            |writer: &mut Self| resident(to).unwrap_or_else(|| writer.hold([Some((to, false)), None])[0]);
        let target = if instruction.memory_base() == Register::RIP {
            let target = target(self);
            self.e.load(target, state::page());
            self.e.lea(target, Mem::base(target, instruction.memory_displacement64() as i32));
            target
        } else {
            let mem = self.address_operand(instruction, 0);
            let target = target(self);
            if wide {
                self.e.lea(target, mem)
            } else {
                self.e.lea_32(target, mem)
            }
            target
        };
        if resident(to).is_none() {
            self.e.store(home(to), target);
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
            self.held[0] = Held::Nothing;
            self.e.mov_sized(wide, host::S0, host::RAX);
            self.e.sar(wide, host::S0, if wide { 63 } else { 31 });
            self.e.cmp(wide, host::S0, host::RDX);
            self.e.jump_if(condition::NOT_EQUAL, label);
            self.e.lea(host::S0, Mem::base(host::S1, 1));
            self.e.cmp_imm_sized(wide, host::S0, 1);
            self.e.jump_if(condition::BELOW_OR_EQUAL, label);
        }
        self.e.divide(wide, instruction.mnemonic() == Mnemonic::Idiv, host::S1);
        self.flags = Flags::Host;
        self.bind_after(after);
        // What the interpreter may do, nobody knows.
        self.late.push(Late::Interpreted { label, after, site: Self::site(guest, 0, false), which });
        self.forget_slots();
    }
}

/// Makes `[base + offset]` the memory operand.
pub fn set_operand(instruction: &mut Instruction, base: u8, offset: i32) {
    instruction.set_memory_base(Register::RAX + u32::from(base));
    instruction.set_memory_index(Register::None);
    instruction.set_memory_index_scale(1);
    instruction.set_memory_displacement64(offset as u64);
    instruction.set_memory_displ_size(u32::from(offset != 0));
    instruction.set_segment_prefix(Register::None);
}

/// A register that has a home, as an operand.
#[derive(Clone, Copy)]
struct Used {
    register: u8,
    load: bool,
    store: bool,
}

/// Puts host register `place` into `instruction` wherever `original` has guest register `register`.
fn replace(instruction: &mut Instruction, original: &Instruction, register: u8, place: u8) {
    for n in 0..original.op_count() {
        let operand = original.op_register(n);
        if original.op_kind(n) == OpKind::Register && has_home(operand) && number(operand) == register {
            instruction.set_op_register(n, sized(place, operand.size()));
        }
    }
}

/// `instruction` with its only operand that has a home replaced by that home, if it may be a memory operand. A
/// result of 32 bits would have to clear the upper half, which a store does not.
fn in_place(instruction: &Instruction, used: Used) -> Option<Instruction> {
    let code = instruction.op_code();
    let mut direct = *instruction;
    direct.set_has_rep_prefix(false);
    direct.set_has_repne_prefix(false);
    let mut replaced = false;
    for n in 0..instruction.op_count() {
        if instruction.op_kind(n) != OpKind::Register || !has_home(instruction.op_register(n)) {
            continue;
        }
        let memory_kind = matches!(
            code.op_kind(n),
            OpCodeOperandKind::r8_or_mem
                | OpCodeOperandKind::r16_or_mem
                | OpCodeOperandKind::r32_or_mem
                | OpCodeOperandKind::r64_or_mem
        );
        let register = instruction.op_register(n);
        if replaced || !memory_kind || used.store && register.size() == 4 {
            return None;
        }
        replaced = true;
        direct.set_op_kind(n, OpKind::Memory);
        direct.set_memory_base(Register::None);
        direct.set_memory_index(Register::None);
        direct.set_memory_displ_size(8);
        direct.set_memory_displacement64(state::register_offset(usize::from(used.register)) as u64);
        direct.set_segment_prefix(Register::GS);
    }
    // XCHG with memory is a locked operation, and a bit string in memory reaches beyond its operand.
    use Mnemonic as M;
    let different = matches!(instruction.mnemonic(), M::Xchg | M::Bt | M::Bts | M::Btr | M::Btc);
    (replaced && !different).then_some(direct)
}
