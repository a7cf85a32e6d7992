//! BT, BTS, BTR and BTC of a string of bits in memory.

use iced_x86::{Instruction, Mnemonic, Register};

use super::super::block::Guest;
use super::super::classify::has_home;
use super::super::emit::{Mem, host};
use super::data::set_operand;
use super::{Writer, home, number, resident, sized};

impl Writer<'_> {
    /// The bit's number, signed, may lead far from the operand: the word that has it is what is looked up. The host's
    /// instruction goes there by itself, from the host address where the string would begin. False, and nothing
    /// written, if there is no such instruction with these operands.
    pub fn bit_string(&mut self, guest: &Guest, live: u32) -> bool {
        let mut instruction: Instruction = guest.instruction;
        let bit = instruction.op1_register();
        set_operand(&mut instruction, host::S0, 0);
        if has_home(bit) {
            instruction.set_op_register(1, sized(host::S1, bit.size()));
        }
        let Some(bytes) = self.encode(&instruction) else { return false };
        let after = self.e.label();
        let write = instruction.mnemonic() != Mnemonic::Bt;
        self.point(guest, None, (bit.size(), write), after, |writer, beyond| {
            writer.address(&guest.instruction, beyond);
            writer.distance(bit);
            writer.e.lea(host::S0, Mem::indexed(Some(host::S0), host::S1, 0, 0));
        });
        self.distance(bit);
        self.e.sub(host::S0, host::S1);
        self.prepare_flags(guest, live);
        if has_home(bit) {
            self.e.load(host::S1, home(number(bit)));
        }
        self.e.bytes(&bytes);
        self.finish_flags(guest);
        self.bind_after(after);
        true
    }

    /// Puts the distance in bytes of the word that has bit number `bit` into S1. The host's flags are overwritten.
    fn distance(&mut self, bit: Register) {
        let wide = bit.size() == 8;
        let register = resident(number(bit)).unwrap_or_else(|| {
            self.e.load(host::S1, home(number(bit)));
            host::S1
        });
        if wide {
            self.e.mov(host::S1, register);
        } else {
            self.e.sign_extend(host::S1, register);
        }
        // Words of 64 or 32 bits.
        let (bits, bytes) = if wide { (6, 3) } else { (5, 2) };
        self.e.sar(true, host::S1, bits);
        self.e.shl(host::S1, bytes);
    }
}
