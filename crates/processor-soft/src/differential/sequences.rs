//! Sequences of random instructions, each with an operand of its own.

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, RflagsBits};

use super::generate::{self, Case};
use super::native::{CODE, DATA, PAGE};
use super::state::{Outcome, Random, State};
use super::{DATA_GPA, Interpreted, Tier, describe, difference, number, random_state, report, vector};
use crate::registers::flag;

/// Sequences in an ordinary test run.
const SEQUENCES: u64 = 200_000;

/// Which flags are undefined in a sequence of instructions.
#[derive(Default, Clone)]
pub struct Undefined {
    /// Now.
    now: u32,
    /// Where a branch may have left the sequence.
    left: u32,
}

impl Undefined {
    /// Whether `instruction` depends on none of them.
    pub fn allows(&self, instruction: &Instruction) -> bool {
        instruction.rflags_read() & self.now == 0
    }

    pub fn note(&mut self, instruction: &Instruction) {
        let settled = instruction.rflags_written() | instruction.rflags_cleared() | instruction.rflags_set();
        // A shift by CL may leave them as they are, and so may a repetition.
        let last = instruction.op_count().wrapping_sub(1);
        let by_cl = last < 5
            && instruction.op_kind(last) == OpKind::Register
            && instruction.op_register(last) == iced_x86::Register::CL;
        if !(by_cl || instruction.has_rep_prefix() || instruction.has_repne_prefix()) {
            self.now &= !settled;
        }
        self.now |= undefined(instruction);
        if instruction.flow_control() != FlowControl::Next {
            self.left |= self.now;
        }
    }

    /// Where two ways join.
    pub fn join(&mut self) {
        self.now |= self.left;
    }

    /// At the end.
    pub fn flags(&self) -> u32 {
        self.now | self.left
    }

    /// Whether there are any.
    pub fn none(&self) -> bool {
        self.flags() == 0
    }
}

/// The flags that `instruction` leaves undefined, bits of [`RflagsBits`].
pub fn undefined(instruction: &Instruction) -> u32 {
    // Whether a rotation through CF by a multiple of all bits leaves OF alone or makes it anew is up to the processor.
    let through_carry = matches!(instruction.mnemonic(), Mnemonic::Rcl | Mnemonic::Rcr);
    let counted = instruction.op1_kind() == OpKind::Immediate8 && instruction.immediate8() & 0x1f > 1;
    instruction.rflags_undefined() | if through_carry && counted { RflagsBits::OF } else { 0 }
}

/// The arithmetic flags of `rflags` but for those that are `undefined`.
pub fn defined(rflags: u64, undefined: u32) -> u64 {
    [
        (RflagsBits::OF, flag::OF),
        (RflagsBits::SF, flag::SF),
        (RflagsBits::ZF, flag::ZF),
        (RflagsBits::AF, flag::AF),
        (RflagsBits::CF, flag::CF),
        (RflagsBits::PF, flag::PF),
    ]
    .into_iter()
    .filter(|(bit, _)| undefined & bit != 0)
    .fold(rflags & (flag::ARITHMETIC | flag::DF), |rflags, (_, flag)| rflags & !flag)
}

/// A random sequence of instructions: none of them depends on flags that an earlier one leaves undefined.
/// The undefined flags at its end are those of the last answer.
fn sequence(random: &mut Random, codes: &[iced_x86::Code], state: &mut State, bits: u32) -> (Vec<Case>, u32) {
    let count = 2 + random.below(12);
    let mut rip = if random.chance(4) { CODE + PAGE as u64 - 1 - random.below(40) } else { CODE + 64 };
    let mut cases: Vec<Case> = Vec::new();
    let mut undefined = Undefined::default();
    for _ in 0..count {
        let code = codes[random.below(codes.len() as u64) as usize];
        let Some(case) = generate::case(random, code, state, bits) else { continue };
        // Anywhere is nowhere in particular, and may take for ever.
        let anywhere = matches!(
            case.instruction.flow_control(),
            FlowControl::Return | FlowControl::IndirectBranch | FlowControl::IndirectCall
        );
        let mut encoder = iced_x86::Encoder::new(bits);
        if anywhere || !undefined.allows(&case.instruction) || encoder.encode(&case.instruction, rip).is_err()
        {
            continue;
        }
        let bytes = encoder.take_buffer();
        undefined.note(&case.instruction);
        let length = bytes.len() as u64;
        cases.push(Case { instruction: case.instruction, bytes, rip });
        rip += length;
    }
    (cases, undefined.flags())
}

/// One sequence through both tiers.
fn compare_sequence(
    interpreted: &mut Interpreted,
    translated: &mut Interpreted,
    codes: &[iced_x86::Code],
    (seed, bits): (u64, u32),
) -> Option<String> {
    let mut random = Random(seed);
    let mut state = random_state(&mut random);
    if bits == 32 {
        state.general[4] = DATA + 64 + random.below(2 * PAGE as u64 - 128);
    }
    let (cases, undefined) = sequence(&mut random, codes, &mut state, bits);
    let bytes: Vec<u8> = cases.iter().flat_map(|case| case.bytes.clone()).collect();
    state.rip = cases.first()?.rip;
    let mut data = vec![0_u8; 2 * PAGE];
    data.chunks_mut(64).for_each(|chunk| chunk.copy_from_slice(&vector(&mut random)));
    let mut results = Vec::new();
    for (guest, tier) in [(&mut *interpreted, Tier::Interpreter), (&mut *translated, Tier::Translator)] {
        guest.vcpu.poke(DATA_GPA, &data);
        guest.load(&state, &bytes);
        let outcome = guest.run(tier);
        let mut after = guest.save();
        if bits == 32 {
            // What the upper halves hold is not defined.
            after.general[..8].iter_mut().for_each(|value| *value &= 0xffff_ffff);
        }
        after.rflags = defined(after.rflags, undefined);
        // FOP, FIP and FDP, which translated code does not keep.
        after.area[6..24].fill(0);
        if outcome != Outcome::Done {
            after.rflags &= flag::DF;
        }
        results.push((outcome, after, guest.vcpu.peek::<{ 2 * PAGE }>(DATA_GPA)));
    }
    if results[0] == results[1] {
        return None;
    }
    let text: Vec<_> = cases.iter().map(describe).collect();
    Some(format!(
        "seed {seed}:\n    {}\n  interpreter {:x?}, translator {:x?}{}\n  {}",
        text.join("\n    "),
        results[0].0,
        results[1].0,
        if results[0].2 == results[1].2 { "" } else { ", memory differs" },
        difference(&results[0].1, &results[1].1)
    ))
}

/// Compares sequences of 64-bit or 32-bit code, on two guests that run it.
fn agree(mut interpreted: Interpreted, mut translated: Interpreted, bits: u32) {
    let codes = generate::integer_codes(bits);
    let all = generate::codes(bits);
    let (cases, first) =
        (number("BODHI_DIFFERENTIAL_CASES", SEQUENCES), number("BODHI_DIFFERENTIAL_SEED", 1));
    report((first..first + cases).filter_map(|seed| {
        let codes = if seed % 4 == 0 { &all } else { &codes };
        compare_sequence(&mut interpreted, &mut translated, codes, (seed, bits))
    }));
}

#[test]
fn random_sequences_agree_between_the_tiers() {
    agree(Interpreted::new(), Interpreted::new(), 64);
}

#[test]
fn random_sequences_of_32_bit_code_agree_between_the_tiers() {
    agree(Interpreted::compatible(), Interpreted::compatible(), 32);
}
