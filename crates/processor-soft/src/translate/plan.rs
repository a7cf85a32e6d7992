//! Which memory accesses of a block share one look-up in the first level of the TLB.
//!
//! Accesses off the same base are near each other: a stack frame, the fields of a structure. The first
//! access of such a group checks the whole range that the group touches and keeps the host address of its
//! start in a slot of [`super::Shared`]; the others use it without a check of their own.
//!
//! ```text
//! push rbp            look up [rsp-8-0x20, rsp+8)    slot 0 = its host address
//! push rbx            [slot 0 + …]
//! sub rsp, 0x20
//! mov [rsp+8], rdi    [slot 0 + …]
//! mov rax, [rdi]      look up [rdi, rdi+0x18)        slot 1
//! mov rcx, [rdi+0x10] [slot 1 + …]
//! ```
//!
//! A register's value is followed symbolically: a version, which a write of unknown outcome makes new, and a
//! distance from the version's first value. Whatever calls Rust may change mappings: it ends all groups.

use iced_x86::{Code, Instruction, InstructionInfoFactory, OpKind, Register};

use super::block::Guest;
use super::classify::{Kind, System, accessed_size, memory_operand, writes};

/// Bytes that a group spans at most: the wider, the likelier it lies in two pages.
const SPAN: i64 = 512;
/// Displacements from which the start of a range is in reach of another one.
const FARTHEST: i64 = 1 << 30;
/// Groups of a block at most: slots of [`super::Shared`].
pub const SLOTS: usize = 16;

/// What an access shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub slot: u8,
    /// Distance of the operand from the start of the range.
    pub offset: i32,
    /// Bytes of the range.
    pub span: u16,
    /// Whether anything in the range is written.
    pub write: bool,
}

/// The accesses of an instruction: by its memory operand and by the stack pointer.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    pub operand: Option<Share>,
    pub stack: Option<Share>,
    /// Later instructions, by number, whose memory operand is looked up before this one, because flags are
    /// live between.
    pub early: Vec<usize>,
}

/// Symbolic value of a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Value {
    version: u32,
    distance: i64,
}

/// What accesses must have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Base {
    epoch: u32,
    version: u32,
    segment: Register,
}

struct Group {
    base: Base,
    min: i64,
    max: i64,
    write: bool,
    /// Instruction, whether by the stack pointer, distance.
    members: Vec<(usize, bool, i64)>,
}

/// Versions of what is no register: the page of the block, and nothing at all.
const PAGE: u32 = 0;
const ZERO: u32 = 1;
const FIRST: u32 = 2;

struct Planner {
    values: [Value; 16],
    next: u32,
    epoch: u32,
    groups: Vec<Group>,
}

/// The plans of the instructions of a block.
pub fn plan(guests: &[Guest], info: &mut InstructionInfoFactory) -> Vec<Plan> {
    let mut planner = Planner {
        values: std::array::from_fn(|n| Value { version: FIRST + n as u32, distance: 0 }),
        next: FIRST + 16,
        epoch: 0,
        groups: Vec::new(),
    };
    for (index, guest) in guests.iter().enumerate() {
        planner.instruction(index, guest, info);
    }
    let mut plans = vec![Plan::default(); guests.len()];
    let early: Vec<_> = planner.groups.iter().map(|group| earlier(guests, group, info)).collect();
    let shared = planner
        .groups
        .iter()
        .zip(early)
        .filter(|(group, early)| group.members.len() > 1 || early.is_some())
        .take(SLOTS);
    for (slot, (group, early)) in shared.enumerate() {
        if let (Some(early), Some(&(first, ..))) = (early, group.members.first()) {
            plans[early].early.push(first);
        }
        for &(index, stack, distance) in &group.members {
            let share = Share {
                slot: slot as u8,
                offset: (distance - group.min) as i32,
                span: (group.max - group.min) as u16,
                write: group.write,
            };
            let plan = &mut plans[index];
            *(if stack { &mut plan.stack } else { &mut plan.operand }) = Some(share);
        }
    }
    plans
}

/// An instruction before which no flags are live, or the first one of the block, and the address of the first access
/// of `group` is already what it will be, if flags are live before that access itself.
fn earlier(guests: &[Guest], group: &Group, info: &mut InstructionInfoFactory) -> Option<usize> {
    let &(first, stack, _) = group.members.first()?;
    let guest = &guests[first];
    if stack || guest.live == 0 {
        return None;
    }
    let address = 1_u32.checked_shl(register_bit(guest.instruction.memory_base())).unwrap_or(0)
        | 1_u32.checked_shl(register_bit(guest.instruction.memory_index())).unwrap_or(0);
    for (index, before) in guests[..first].iter().enumerate().rev() {
        let keeps = match before.kind {
            Kind::Nothing
            | Kind::Plain
            | Kind::Vector(_)
            | Kind::X87(_)
            | Kind::LoadControlWord
            | Kind::Lea => written(&before.instruction, info) & address == 0,
            Kind::Push | Kind::Pop => {
                address & 1 << RSP == 0 && written(&before.instruction, info) & address == 0
            }
            _ => false,
        };
        if !keeps {
            return None;
        }
        // At the beginning flags are saved once for all accesses.
        if before.live == 0 || index == 0 {
            return Some(index);
        }
    }
    None
}

/// The number of a general register, or one that no register has.
fn register_bit(register: Register) -> u32 {
    if register.is_gpr() { number(register) as u32 } else { u32::MAX }
}

/// The general registers that an instruction may write.
fn written(instruction: &Instruction, info: &mut InstructionInfoFactory) -> u32 {
    info.info(instruction)
        .used_registers()
        .iter()
        .filter(|used| writes(used.access()) && used.register().is_gpr())
        .fold(0, |set, used| set | 1 << number(used.register()))
}

fn number(register: Register) -> usize {
    register.full_register().number() & 15
}

const RSP: usize = 4;
const RBP: usize = 5;

impl Planner {
    fn instruction(&mut self, index: usize, guest: &Guest, info: &mut InstructionInfoFactory) {
        let instruction = &guest.instruction;
        match guest.kind {
            Kind::System(
                System::ReadTime(_) | System::ReadSegment | System::ReadFaultAddress | System::Cld,
            ) => self.forget(instruction, info),
            Kind::Interpret(_) | Kind::System(_) | Kind::Element(_) | Kind::Repeat(_) => {
                self.epoch += 1;
                self.forget(instruction, info);
            }
            Kind::Push | Kind::PushFlags => {
                if instruction.op0_kind() == OpKind::Memory {
                    self.operand(index, guest, 8, false);
                }
                self.stack(index, -8, true);
                self.values[RSP].distance -= 8;
            }
            Kind::Call(_) | Kind::CallIndirect => {
                if instruction.op0_kind() == OpKind::Memory {
                    self.operand(index, guest, 8, false);
                }
                self.stack(index, -8, true);
            }
            Kind::JumpIndirect => {
                if instruction.op0_kind() == OpKind::Memory {
                    self.operand(index, guest, 8, false);
                }
            }
            Kind::Pop => {
                self.stack(index, 0, false);
                self.values[RSP].distance += 8;
                self.renew(number(instruction.op0_register()));
            }
            Kind::Return(_) => self.stack(index, 0, false),
            Kind::Leave => {
                let frame = self.values[RBP];
                let base = self.base(frame.version, Register::None);
                self.add(base, frame.distance, 8, false, (index, true));
                self.values[RSP] = Value { distance: frame.distance + 8, ..frame };
                self.renew(RBP);
            }
            Kind::Lea => self.lea(instruction),
            Kind::Plain | Kind::Vector(_) | Kind::X87(_) | Kind::LoadControlWord | Kind::Divide => {
                if let Some(memory) = memory_operand(instruction) {
                    let size = accessed_size(instruction);
                    let write = writes(info.info(instruction).op_access(memory));
                    self.operand(index, guest, size, write);
                }
                self.computed(instruction, info);
            }
            Kind::Nothing | Kind::Jump(_) | Kind::Branch(..) | Kind::CountZero(_) | Kind::BitString => {}
        }
    }

    fn base(&self, version: u32, segment: Register) -> Base {
        let segment = match segment {
            Register::FS | Register::GS => segment,
            _ => Register::None,
        };
        Base { epoch: self.epoch, version, segment }
    }

    fn stack(&mut self, index: usize, displacement: i64, write: bool) {
        let rsp = self.values[RSP];
        let base = self.base(rsp.version, Register::None);
        self.add(base, rsp.distance + displacement, 8, write, (index, true));
    }

    fn operand(&mut self, index: usize, guest: &Guest, size: usize, write: bool) {
        let instruction = &guest.instruction;
        let displacement = instruction.memory_displacement64() as i64;
        if size == 0 || displacement.abs() > FARTHEST {
            return;
        }
        if instruction.memory_index() != Register::None {
            // Alone: nobody knows what is near.
            let base = Base { epoch: self.epoch, version: self.next, segment: Register::None };
            self.next += 1;
            self.groups.push(Group {
                base,
                min: 0,
                max: size as i64,
                write,
                members: vec![(index, false, 0)],
            });
            return;
        }
        let value = match instruction.memory_base() {
            Register::RIP => Value { version: PAGE, distance: 0 },
            Register::None => Value { version: ZERO, distance: 0 },
            register if register.is_gpr64() => self.values[number(register)],
            _ => return,
        };
        let base = self.base(value.version, instruction.memory_segment());
        self.add(base, value.distance.wrapping_add(displacement), size, write, (index, false));
    }

    fn add(&mut self, base: Base, distance: i64, size: usize, write: bool, member: (usize, bool)) {
        let end = distance.wrapping_add(size as i64);
        let member = (member.0, member.1, distance);
        let known = self.groups.iter_mut().rev().find(|group| {
            group.base == base && group.max.max(end).wrapping_sub(group.min.min(distance)) <= SPAN
        });
        match known {
            Some(group) => {
                (group.min, group.max) = (group.min.min(distance), group.max.max(end));
                group.write |= write;
                group.members.push(member);
            }
            None => {
                self.groups.push(Group { base, min: distance, max: end, write, members: vec![member] });
            }
        }
    }

    fn renew(&mut self, register: usize) {
        self.values[register] = Value { version: self.next, distance: 0 };
        self.next += 1;
    }

    fn lea(&mut self, instruction: &Instruction) {
        let to = number(instruction.op0_register());
        let base = instruction.memory_base();
        if instruction.op0_register().is_gpr64()
            && instruction.memory_index() == Register::None
            && base.is_gpr64()
        {
            let value = self.values[number(base)];
            let distance = value.distance.wrapping_add(instruction.memory_displacement64() as i64);
            self.values[to] = Value { distance, ..value };
        } else {
            self.renew(to);
        }
    }

    /// What an instruction on general registers makes of their values.
    fn computed(&mut self, instruction: &Instruction, info: &mut InstructionInfoFactory) {
        let step = match instruction.code() {
            Code::Add_rm64_imm8 | Code::Add_rm64_imm32 => Some(instruction.immediate(1) as i64),
            Code::Sub_rm64_imm8 | Code::Sub_rm64_imm32 => {
                Some((instruction.immediate(1) as i64).wrapping_neg())
            }
            Code::Inc_rm64 => Some(1),
            Code::Dec_rm64 => Some(-1),
            _ => None,
        };
        if let Some(step) = step
            && instruction.op0_kind() == OpKind::Register
        {
            let value = &mut self.values[number(instruction.op0_register())];
            value.distance = value.distance.wrapping_add(step);
            return;
        }
        if matches!(instruction.code(), Code::Mov_rm64_r64 | Code::Mov_r64_rm64)
            && instruction.op0_kind() == OpKind::Register
            && instruction.op1_kind() == OpKind::Register
        {
            self.values[number(instruction.op0_register())] = self.values[number(instruction.op1_register())];
            return;
        }
        self.forget(instruction, info);
    }

    /// Makes the values of all registers new that an instruction may write.
    fn forget(&mut self, instruction: &Instruction, info: &mut InstructionInfoFactory) {
        let written = written(instruction, info);
        for register in (0..16).filter(|n| written >> n & 1 != 0) {
            self.renew(register);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::assemble;
    use crate::translate::block::{PAGE as PAGE_SIZE, scan};
    use crate::translate::mode::Mode;
    use iced_x86::code_asm::*;

    fn plans(write: impl FnOnce(&mut CodeAssembler)) -> Vec<Plan> {
        let code = assemble(64, 0, write);
        let mut page = [0; PAGE_SIZE];
        page[..code.len()].copy_from_slice(&code);
        plan(&scan(&page, 0, Mode::KERNEL).guests, &mut InstructionInfoFactory::new())
    }

    #[test]
    fn a_stack_frame_is_one_group() {
        let plans = plans(|a| {
            a.push(rbp).unwrap();
            a.mov(rbp, rsp).unwrap();
            a.push(rbx).unwrap();
            a.sub(rsp, 0x20).unwrap();
            a.mov(qword_ptr(rsp + 8), rdi).unwrap();
            a.mov(rax, qword_ptr(rbp - 0x10)).unwrap();
            a.leave().unwrap();
            a.ret().unwrap();
        });
        let shares: Vec<_> = plans.iter().filter_map(|plan| plan.stack.or(plan.operand)).collect();
        let offsets: Vec<_> = shares.iter().map(|share| share.offset).collect();
        assert_eq!(offsets, [0x20, 0x18, 0, 0x10, 0x20, 0x28]);
        assert!(shares.iter().all(|share| share.slot == 0 && share.span == 0x30 && share.write));
    }

    #[test]
    fn a_register_with_a_new_value_begins_a_new_group() {
        let plans = plans(|a| {
            a.mov(rax, qword_ptr(rdi)).unwrap();
            a.mov(rcx, qword_ptr(rdi + 8)).unwrap();
            a.mov(rdi, qword_ptr(rdi + 16)).unwrap();
            a.mov(rdx, qword_ptr(rdi)).unwrap();
            a.ret().unwrap();
        });
        assert_eq!(plans[2].operand.unwrap().offset, 16);
        assert_eq!(plans[3].operand, None);
    }

    #[test]
    fn what_the_interpreter_does_ends_all_groups() {
        let plans = plans(|a| {
            a.mov(rax, qword_ptr(rdi)).unwrap();
            a.cpuid().unwrap();
            a.mov(rax, qword_ptr(rdi + 8)).unwrap();
            a.ret().unwrap();
        });
        assert!(plans.iter().all(|plan| plan.operand.is_none()));
    }

    #[test]
    fn an_access_between_a_comparison_and_its_branch_is_looked_up_before_the_comparison() {
        let plans = plans(|a| {
            let mut out = a.create_label();
            a.mov(eax, 1).unwrap();
            a.cmp(ecx, 5).unwrap();
            a.mov(rax, qword_ptr(rdi + rsi * 8)).unwrap();
            a.je(out).unwrap();
            a.xor(eax, eax).unwrap();
            a.set_label(&mut out).unwrap();
            a.xor(edx, edx).unwrap();
            a.ret().unwrap();
        });
        assert_eq!(plans[1].early, [2]);
        assert!(plans[2].operand.is_some());
    }

    #[test]
    fn far_fields_of_a_structure_are_looked_up_apart() {
        let plans = plans(|a| {
            a.mov(rax, qword_ptr(rdi)).unwrap();
            a.mov(rcx, qword_ptr(rdi + 0x400)).unwrap();
            a.mov(rdx, qword_ptr(rdi + 0x408)).unwrap();
            a.ret().unwrap();
        });
        assert_eq!(plans[0].operand, None);
        assert_eq!(plans[2].operand.unwrap().offset, 8);
    }
}
