//! Sequences with many memory operands off the same few registers, as code on a stack or a structure has them:
//! a translator may let them share what it checks. Pages around the operands are writable, read-only, absent,
//! the kernel's, devices or the same as others, at random; registers point near their borders.
//!
//! Each sequence runs twice, with a TLB that knows nothing and with what the first run has left in it.
//! Registers, flags, fault, memory and the accessed and dirty bits must agree between the tiers.

use iced_x86::code_asm::{CodeAssembler, CodeLabel};
use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, Formatter, Instruction, InstructionInfoFactory, IntelFormatter,
    MemoryOperand, OpAccess, OpKind, Register,
};

use super::native::{CODE, DATA, PAGE};
use super::sequences::{self, Undefined, defined};
use super::state::{Outcome, Random, State};
use super::{DATA_GPA, Interpreted, Tier, difference, generate, number, random_state, report, vector};
use crate::registers::flag;

/// Patterns in an ordinary test run.
const PATTERNS: u64 = 100_000;
/// Pages that patterns reach.
const PAGES: usize = 6;
/// Their page table entries.
const TABLE: u64 = 0x6000;
/// Where nothing is.
const DEVICE_GPA: u64 = 0x4000_0000;
const PRESENT_USER: u64 = 5;
const WRITABLE: u64 = 2;
/// Of a page table entry.
const ACCESSED_DIRTY: u64 = 0x60;

/// Instructions that ordinary code consists of, and those of flags that live long.
const USUAL: [Code; 35] = [
    Code::Mov_r64_rm64,
    Code::Mov_rm64_r64,
    Code::Mov_r32_rm32,
    Code::Mov_rm32_r32,
    Code::Mov_rm8_r8,
    Code::Mov_rm16_imm16,
    Code::Mov_rm64_imm32,
    Code::Movzx_r32_rm8,
    Code::Movsxd_r64_rm32,
    Code::Add_rm64_r64,
    Code::Add_r64_rm64,
    Code::Sub_rm32_imm8,
    Code::Adc_rm64_r64,
    Code::Adc_r64_rm64,
    Code::Sbb_r32_rm32,
    Code::Sbb_rm64_imm8,
    Code::Cmp_r64_rm64,
    Code::Cmp_rm8_imm8,
    Code::Xor_r64_rm64,
    Code::Inc_rm32,
    Code::Neg_rm64,
    Code::Cmovb_r64_rm64,
    Code::Cmovne_r32_rm32,
    Code::Cmovg_r64_rm64,
    Code::Setb_rm8,
    Code::Sete_rm8,
    Code::Setl_rm8,
    Code::Rcl_rm64_1,
    Code::Xadd_rm64_r64,
    Code::Cmpxchg_rm64_r64,
    Code::Adcx_r64_rm64,
    Code::Adox_r64_rm64,
    Code::Movups_xmm_xmmm128,
    Code::Movups_xmmm128_xmm,
    Code::VEX_Vmovdqu_ymmm256_ymm,
];

/// What the pages are, as page table entries.
fn layout(random: &mut Random) -> [u64; PAGES] {
    // Most of them writable, or many.
    let kinds = [24, 24, 100, 200][random.below(4) as usize];
    std::array::from_fn(|page| {
        let frame = DATA_GPA + ((page as u64 * 5 + 3) % PAGES as u64) * PAGE as u64;
        match random.below(kinds) {
            0..=2 => frame & !1 | WRITABLE,
            3..=5 => frame | PRESENT_USER,
            6 => frame | 1 | WRITABLE,
            7 => (DEVICE_GPA + page as u64 * PAGE as u64) | PRESENT_USER | WRITABLE,
            // That of another page, too.
            8 => DATA_GPA | PRESENT_USER | WRITABLE,
            _ => frame | PRESENT_USER | WRITABLE,
        }
    })
}

/// An address near the border of a page.
fn near_border(random: &mut Random) -> u64 {
    let outer = random.chance(8);
    let border = if outer { random.below(2) * PAGES as u64 } else { 1 + random.below(PAGES as u64 - 1) };
    let border = DATA + border * PAGE as u64;
    match random.below(4) {
        0 => border.wrapping_sub(random.below(16)),
        1 => border.wrapping_add(random.below(16)),
        2 => (border & !7).wrapping_add(8 * random.below(16)).wrapping_sub(64),
        _ => border.wrapping_add(random.below(300)).wrapping_sub(150),
    }
}

/// Makes the instructions of a pattern.
struct Maker<'a> {
    random: &'a mut Random,
    state: &'a mut State,
    codes: &'a [Code],
    /// Registers that hold addresses; RSP is the first.
    bases: Vec<Register>,
    /// A register that holds a small number.
    index: Register,
    /// Whether many register operands are the two registers that translated code keeps in memory.
    crowded: bool,
    undefined: Undefined,
    information: InstructionInfoFactory,
}

impl Maker<'_> {
    fn base(&mut self) -> Register {
        // The first but RSP is the most used.
        let last = self.bases.len() as u64;
        let n = if self.random.chance(3) { self.random.below(last) } else { 1 };
        self.bases[n as usize]
    }

    /// An operand off one of the bases.
    fn operand(&mut self) -> MemoryOperand {
        let base = self.base();
        let displacement = match self.random.below(4) {
            0 => 0,
            1 => 8 * (self.random.below(9) as i64 - 4),
            2 => self.random.below(64) as i64 - 32,
            _ => self.random.below(300) as i64 - 150,
        };
        if self.random.chance(6) {
            let scale = 1 << self.random.below(4);
            return MemoryOperand::with_base_index_scale_displ_size(base, self.index, scale, displacement, 1);
        }
        MemoryOperand::with_base_displ(base, displacement)
    }

    /// A step of a base register, as from one element to the next.
    fn step(&mut self) -> Instruction {
        let base = self.base();
        let distance = 8 * (self.random.below(9) as i32 - 4);
        let made = match self.random.below(4) {
            0 => Instruction::with2(Code::Add_rm64_imm8, base, distance),
            1 => Instruction::with2(Code::Sub_rm64_imm8, base, distance),
            2 => Instruction::with1(Code::Inc_rm64, base),
            _ => {
                let operand = MemoryOperand::with_base_displ(base, distance.into());
                Instruction::with2(Code::Lea_r64_m, base, operand)
            }
        };
        made.expect("a step is an instruction")
    }

    fn random_instruction(&mut self) -> Option<Instruction> {
        let code = match self.random.below(3) {
            0 => self.codes[self.random.below(self.codes.len() as u64) as usize],
            _ => USUAL[self.random.below(USUAL.len() as u64) as usize],
        };
        let operand = self.operand();
        let mut instruction =
            generate::case_with(self.random, code, self.state, 64, |_, instruction, _, _| {
                instruction.set_memory_base(operand.base);
                instruction.set_memory_index(operand.index);
                instruction.set_memory_index_scale(operand.scale);
                instruction.set_memory_displacement64(operand.displacement as u64);
                instruction.set_memory_displ_size(if operand.displacement == 0 { 0 } else { 8 });
            })?
            .instruction;
        // Not often: locks of operands in two cache lines are slow, and most lie so.
        if instruction.has_lock_prefix() && !self.random.chance(16) {
            instruction.set_has_lock_prefix(false);
        }
        // Where it has been decoded is nothing to the assembler.
        instruction.set_ip(0);
        Some(if self.crowded { self.crowd(instruction) } else { instruction })
    }

    /// `instruction` with R13 and R14 in place of some of its registers, if it can be had so.
    fn crowd(&mut self, instruction: Instruction) -> Instruction {
        let mut other = instruction;
        for n in 0..other.op_count() {
            let register = other.op_register(n);
            if other.op_kind(n) == OpKind::Register && register.is_gpr() && self.random.chance(2) {
                let from_rax = 13 + self.random.below(2) as u32;
                let first = match register.size() {
                    8 => Register::RAX,
                    4 => Register::EAX,
                    2 => Register::AX,
                    // R8L is the first of the bytes that need a prefix, and the registers are in order from it.
                    _ => Register::R8L,
                };
                let distance = if register.size() == 1 { from_rax - 8 } else { from_rax };
                other.set_op_register(n, first + distance);
            }
        }
        if Encoder::new(64).encode(&other, 0).is_ok() { other } else { instruction }
    }

    /// The next instruction, none that goes elsewhere, and rarely one that loses a base.
    fn instruction(&mut self) -> Option<Instruction> {
        let made = match self.random.below(10) {
            0 => self.step(),
            1 => {
                let register = Register::RAX + self.random.below(16) as u32;
                Instruction::with1(Code::Push_r64, register).ok()?
            }
            2 => {
                let register = Register::RAX + self.random.below(16) as u32;
                Instruction::with1(Code::Pop_r64, register).ok()?
            }
            3 => {
                let operand = self.operand();
                let code = if self.random.chance(2) { Code::Push_rm64 } else { Code::Pop_rm64 };
                Instruction::with1(code, operand).ok()?
            }
            _ => self.random_instruction()?,
        };
        let elsewhere = made.flow_control() != iced_x86::FlowControl::Next;
        let written = self.written(&made);
        let moves = made.is_stack_instruction() || made.mnemonic() == iced_x86::Mnemonic::Lea;
        let stepped = matches!(made.code(), Code::Add_rm64_imm8 | Code::Sub_rm64_imm8 | Code::Inc_rm64);
        let loses = written.iter().any(|register| self.bases.contains(register));
        let kept = !loses || moves || stepped || self.random.chance(24);
        let counts = written.contains(&self.index);
        (!elsewhere && kept && !counts && self.undefined.allows(&made)).then_some(made)
    }

    /// The registers that `instruction` writes.
    fn written(&mut self, instruction: &Instruction) -> Vec<Register> {
        let used = self.information.info(instruction).used_registers();
        let reads = |access| matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess);
        used.iter().filter(|used| !reads(used.access())).map(|used| used.register().full_register()).collect()
    }

    fn add(&mut self, assembler: &mut CodeAssembler, count: u64, plain: bool) -> u32 {
        let mut added = 0;
        for _ in 0..count {
            let Some(instruction) = self.instruction() else { continue };
            if plain && sequences::undefined(&instruction) != 0 {
                continue;
            }
            if assembler.add_instruction(instruction).is_ok() {
                self.undefined.note(&instruction);
                added += 1;
            }
        }
        added
    }

    /// A pattern's code: straight pieces, pieces that a condition skips, short loops, calls.
    fn code(&mut self) -> Vec<u8> {
        let mut a = CodeAssembler::new(64).expect("64 bits");
        for _ in 0..1 + self.random.below(4) {
            let mut label = a.create_label();
            match self.random.below(5) {
                0 => self.skipped(&mut a, &mut label),
                1 if self.undefined.none() => self.repeated(&mut a, &mut label),
                2 => {
                    // A call of what comes next leaves an address on the stack; what it skips is never run.
                    let undefined = self.undefined.clone();
                    let _infallible = a.call(label);
                    let count = self.random.below(3);
                    self.add(&mut a, count, false);
                    self.undefined = undefined;
                    let _infallible = a.set_label(&mut label);
                    let _infallible = a.nop();
                }
                _ => {}
            }
            let count = 1 + self.random.below(8);
            self.add(&mut a, count, false);
        }
        a.assemble(CODE + 64).expect("a pattern can be encoded")
    }

    fn skipped(&mut self, a: &mut CodeAssembler, label: &mut CodeLabel) {
        let condition = [Code::Jb_rel32_64, Code::Je_rel32_64, Code::Jl_rel32_64, Code::Jns_rel32_64]
            [self.random.below(4) as usize];
        let Ok(jump) = Instruction::with_branch(condition, 0) else { return };
        if !self.undefined.allows(&jump) {
            return;
        }
        self.undefined.note(&jump);
        let _infallible = match condition {
            Code::Jb_rel32_64 => a.jb(*label),
            Code::Je_rel32_64 => a.je(*label),
            Code::Jl_rel32_64 => a.jl(*label),
            _ => a.jns(*label),
        };
        let count = 1 + self.random.below(4);
        self.add(a, count, false);
        let _infallible = a.set_label(label);
        let _infallible = a.nop();
        self.undefined.join();
    }

    /// The loop's count is in the index register, which thus counts down too.
    fn repeated(&mut self, a: &mut CodeAssembler, label: &mut CodeLabel) {
        let Ok(count) = Instruction::with2(Code::Mov_r32_imm32, self.index.full_register32(), 3) else {
            return;
        };
        let Ok(down) = Instruction::with1(Code::Dec_rm32, self.index.full_register32()) else { return };
        let _infallible = a.add_instruction(count);
        let _infallible = a.set_label(label);
        let _infallible = a.nop();
        let length = 1 + self.random.below(4);
        self.add(a, length, true);
        let _infallible = a.add_instruction(down);
        let _infallible = a.jnz(*label);
    }
}

/// A pattern: registers, code, undefined flags at the end.
fn pattern(random: &mut Random, codes: &[Code]) -> (State, Vec<u8>, u32) {
    let mut state = random_state(random);
    let mut bases = vec![Register::RSP];
    for _ in 0..1 + random.below(2) {
        bases.push(
            [Register::RBX, Register::RBP, Register::RSI, Register::R12, Register::R13]
                [random.below(5) as usize],
        );
    }
    for base in &bases {
        state.general[base.number()] = near_border(random);
    }
    let index = [Register::RCX, Register::RDI, Register::R14][random.below(3) as usize];
    state.general[index.number()] = random.below(8);
    state.rflags &= !flag::DF;
    let (general, rflags) = (state.general, state.rflags);
    let crowded = random.chance(3);
    let (code, undefined) = {
        let mut maker = Maker {
            crowded,
            random,
            state: &mut state,
            codes,
            bases,
            index,
            undefined: Undefined::default(),
            information: InstructionInfoFactory::new(),
        };
        (maker.code(), maker.undefined.flags())
    };
    // What the generator has set for operands of its own is not for patterns.
    (state.general, state.rflags) = (general, rflags);
    state.rip = CODE + 64;
    (state, code, undefined)
}

/// All that a run has left behind.
#[derive(PartialEq)]
struct Left {
    outcome: Outcome,
    state: State,
    memory: Vec<u8>,
    entries: [u64; PAGES],
}

/// Runs the pattern twice.
fn run(
    guest: &mut Interpreted,
    tier: Tier,
    layout: &[u64; PAGES],
    case: &(State, Vec<u8>, u32),
    data: &[u8],
) -> [Left; 2] {
    let (state, code, undefined) = case;
    let table: Vec<u8> = layout.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    guest.vcpu.poke(TABLE, &table);
    guest.vcpu.paging_changed();
    std::array::from_fn(|_| {
        guest.vcpu.poke(DATA_GPA, data);
        guest.load(state, code);
        let outcome = guest.run(tier);
        let mut after = guest.save();
        after.rflags = defined(after.rflags, *undefined);
        if outcome != Outcome::Done {
            after.rflags &= flag::DF;
        }
        let entries = guest.vcpu.peek::<{ 8 * PAGES }>(TABLE);
        Left {
            outcome,
            state: after,
            memory: guest.vcpu.peek::<{ PAGES * PAGE }>(DATA_GPA).to_vec(),
            entries: std::array::from_fn(|n| {
                u64::from_le_bytes(std::array::from_fn(|byte| entries[8 * n + byte])) & ACCESSED_DIRTY
            }),
        }
    })
}

fn text(code: &[u8]) -> String {
    let mut formatter = IntelFormatter::new();
    let lines = Decoder::with_ip(64, code, CODE + 64, DecoderOptions::NONE).into_iter().map(|instruction| {
        let mut text = String::new();
        formatter.format(&instruction, &mut text);
        format!("{:#x} {text}", instruction.ip())
    });
    lines.collect::<Vec<_>>().join("\n    ")
}

fn compare_pattern(
    interpreted: &mut Interpreted,
    translated: &mut Interpreted,
    codes: &[Code],
    seed: u64,
) -> Option<String> {
    let mut random = Random(seed);
    let layout = layout(&mut random);
    let case = pattern(&mut random, codes);
    let mut data = vec![0_u8; PAGES * PAGE];
    data.chunks_mut(64).for_each(|chunk| chunk.copy_from_slice(&vector(&mut random)));
    let mut expected = run(interpreted, Tier::Interpreter, &layout, &case, &data);
    let found = run(translated, Tier::Translator, &layout, &case, &data);
    for (expected, found) in expected.iter_mut().zip(&found) {
        // A pattern may write itself x87 instructions: FOP, FIP and FDP read as 0 after them where they were
        // translated, and are the interpreter's else.
        if found.state.area[6..24].iter().all(|&byte| byte == 0) {
            expected.state.area[6..24].fill(0);
        }
    }
    let (n, (expected, found)) =
        expected.iter().zip(&found).enumerate().find(|(_, (expected, found))| expected != found)?;
    let differing = expected.memory.iter().zip(&found.memory).position(|(a, b)| a != b);
    Some(format!(
        "seed {seed}, run {n}, pages {layout:x?}, before {:x?}:\n    {}\n  interpreter {:x?}, translator {:x?}\n  \
         memory differs at {differing:x?}, entries {:x?} and {:x?}\n  {}",
        case.0.general,
        text(&case.1),
        expected.outcome,
        found.outcome,
        expected.entries,
        found.entries,
        difference(&expected.state, &found.state)
    ))
}

#[test]
fn random_patterns_of_operands_agree_between_the_tiers() {
    let codes: Vec<_> = generate::integer_codes(64)
        .into_iter()
        .filter(|code| {
            (0..code.op_code().op_count()).any(|n| generate::is_memory_kind(code.op_code().op_kind(n)))
        })
        .collect();
    let (cases, first) = (number("BODHI_DIFFERENTIAL_CASES", PATTERNS), number("BODHI_DIFFERENTIAL_SEED", 1));
    println!("{cases} patterns from seed {first}");
    let (mut interpreted, mut translated) = (Interpreted::new(), Interpreted::new());
    report(
        (first..first + cases)
            .filter_map(|seed| compare_pattern(&mut interpreted, &mut translated, &codes, seed)),
    );
}
