//! What the two scratch registers, S0 and S1, hold between instructions.
//!
//! Guest registers 13 and 14 live in their homes in memory, and each result goes there at once. A chain of
//! instructions that each needs the last one's result would wait for memory at every link; so the value also
//! stays in a scratch register where it is needed soon, until somebody else needs that register.

use super::super::block::Guest;
use super::super::classify::{Kind, has_home, memory_operand};
use super::super::emit::host;
use super::super::plan::Plan;
use super::{Writer, home, number};

/// What a scratch register holds besides what the present instruction needs it for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    Nothing,
    /// The contents of a slot.
    Slot(u8),
    /// The value of a guest register that has a home. The home has it, too.
    Guest(u8),
}

/// The scratch registers, in the order of [`Writer::held`].
const SCRATCH: [u8; 2] = [host::S0, host::S1];
/// Instructions that are looked ahead.
const NEAR: u8 = 8;

/// Which of the guest registers that have homes the next few instructions use, while scratch registers may still
/// hold them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Soon([bool; 2]);

impl Soon {
    /// What is so behind each of the instructions.
    pub fn of(guests: &[Guest], plans: &[Plan]) -> Vec<Self> {
        let mut distances = [u8::MAX; 2];
        let mut all = vec![Self::default(); guests.len()];
        for ((guest, plan), soon) in guests.iter().zip(plans).zip(&mut all).rev() {
            *soon = Self(distances.map(|distance| distance <= NEAR));
            let instruction = &guest.instruction;
            let looked_up = memory_operand(instruction).is_some() && plan.operand.is_none();
            let keeps = leaves_scratch(guest.kind) && !(looked_up && guest.kind != Kind::Lea);
            distances = distances.map(|distance| if keeps { distance.saturating_add(1) } else { u8::MAX });
            if leaves_scratch(guest.kind) {
                let operands = (0..instruction.op_count()).map(|n| instruction.op_register(n));
                for register in operands.chain([instruction.memory_base(), instruction.memory_index()]) {
                    if has_home(register) {
                        distances[place(number(register))] = 1;
                    }
                }
            }
        }
        all
    }

    /// Whether guest register `n` is used.
    pub fn uses(self, n: u8) -> bool {
        self.0[place(n)]
    }
}

/// The scratch register, as an index, that has the number of guest register `n`.
fn place(n: u8) -> usize {
    usize::from(n != host::S0)
}

/// Whether the code of such an instruction keeps account of what it does to the scratch registers.
pub fn leaves_scratch(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Nothing | Kind::Plain | Kind::Vector(_) | Kind::X87(_) | Kind::Lea | Kind::Branch(..)
    )
}

impl Writer<'_> {
    /// Neither scratch register holds a guest register's value any more, nor S1 anything.
    pub fn release_scratch(&mut self) {
        if let [Held::Guest(_), _] = self.held {
            self.held[0] = Held::Nothing;
        }
        self.held[1] = Held::Nothing;
    }

    /// Whether a scratch register holds guest register `n`.
    pub fn holds(&self, n: u8) -> bool {
        self.held.contains(&Held::Guest(n))
    }

    /// Makes scratch registers hold guest registers that have homes, up to two, and answers which; loads a value
    /// unless it is held already, or not wanted (false).
    pub fn hold(&mut self, wanted: [Option<(u8, bool)>; 2]) -> [u8; 2] {
        let mut places = wanted
            .map(|register| register.and_then(|(n, _)| self.held.iter().position(|&h| h == Held::Guest(n))));
        for index in 0..2 {
            let (Some((n, load)), None) = (wanted[index], places[index]) else { continue };
            let other = places[1 - index];
            let free = match (other, self.held) {
                // The same register twice.
                (Some(other), held) if held[other] == Held::Guest(n) => {
                    places[index] = Some(other);
                    continue;
                }
                (Some(other), _) => 1 - other,
                (None, [Held::Nothing, Held::Nothing]) => place(n),
                (None, [Held::Nothing, _] | [Held::Slot(_), Held::Guest(_)]) => 0,
                (None, [_, Held::Nothing] | [Held::Guest(_), Held::Slot(_)]) => 1,
                (None, _) => place(n),
            };
            places[index] = Some(free);
            self.held[free] = Held::Guest(n);
            if load {
                self.e.load(SCRATCH[free], home(n));
            }
        }
        places.map(|place| SCRATCH[place.unwrap_or(0)])
    }
}

#[cfg(test)]
mod tests {
    use iced_x86::InstructionInfoFactory;
    use iced_x86::code_asm::*;

    use super::*;
    use crate::testing::assemble;
    use crate::translate::block::{PAGE, scan};
    use crate::translate::mode::Mode;
    use crate::translate::plan::plan;

    /// Which of R13 and R14 are used soon behind each instruction.
    fn soon(write: impl FnOnce(&mut CodeAssembler)) -> Vec<[bool; 2]> {
        let code = assemble(64, 0, write);
        let mut page = [0; PAGE];
        page[..code.len()].copy_from_slice(&code);
        let guests = scan(&page, 0, Mode::KERNEL).guests;
        let plans = plan(&guests, &mut InstructionInfoFactory::new());
        Soon::of(&guests, &plans).into_iter().map(|soon| [soon.uses(13), soon.uses(14)]).collect()
    }

    #[test]
    fn a_register_is_worth_holding_up_to_its_last_use() {
        let soon = soon(|a| {
            a.mov(r13, rax).unwrap();
            a.add(r13, rbx).unwrap();
            a.lea(rcx, qword_ptr(r13 + r14)).unwrap();
            a.ret().unwrap();
        });
        assert_eq!(soon, [[true, true], [true, true], [false; 2], [false; 2]]);
    }

    #[test]
    fn what_needs_the_scratch_registers_for_itself_ends_it() {
        let soon = soon(|a| {
            a.mov(r13, rax).unwrap();
            a.mov(rdx, qword_ptr(rsi)).unwrap();
            a.mov(r14, rdx).unwrap();
            a.push(rbx).unwrap();
            a.add(r13, r14).unwrap();
            a.ret().unwrap();
        });
        assert_eq!(soon[0], [false; 2], "a look-up lies between");
        assert_eq!(soon[2], [false; 2], "a push lies between");
        assert_eq!(soon[3], [true; 2]);
    }

    #[test]
    fn an_access_off_a_register_uses_it() {
        let soon = soon(|a| {
            a.add(r14, 8).unwrap();
            a.mov(rax, qword_ptr(r14)).unwrap();
            a.ret().unwrap();
        });
        assert_eq!(soon[0], [false, true]);
    }
}
