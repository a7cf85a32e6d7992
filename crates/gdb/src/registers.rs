//! Registers as GDB numbers them: those of `target.xml`, in its order.

use std::num::NonZeroUsize;

use gdbstub::arch::{Arch, RegId, Registers};
use processor::DebugRegisters;

/// The guest's architecture.
#[derive(Debug)]
pub struct X86;

impl Arch for X86 {
    type Usize = u64;
    type Registers = GdbRegisters;
    type BreakpointKind = usize;
    type RegId = Register;

    fn target_description_xml() -> Option<&'static str> {
        Some(include_str!("target.xml"))
    }
}

/// How many registers there are.
const COUNT: usize = 66;
/// The largest register, in bytes.
pub const LARGEST: usize = 16;
/// The general registers in GDB's order, as numbers of the instruction set.
const GENERAL: [usize; 16] = [0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15];
/// CS, SS, DS, ES, FS, GS as indices of [`processor::StartRegisters::segments`].
const SEGMENTS: [usize; 6] = [1, 2, 3, 0, 4, 5];
const FS: usize = 4;
const GS: usize = 5;

/// A register by GDB's number, which is below [`COUNT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(usize);

impl Register {
    /// All of them, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..COUNT).map(Self)
    }

    /// Its size in bytes.
    pub fn size(self) -> usize {
        match self.0 {
            0..=16 | 57.. => 8,
            24..=31 => 10,
            40..=55 => 16,
            17..=23 | 32..=39 | 56 => 4,
        }
    }

    /// Its value in `registers`, little-endian; [`Self::size`] bytes count.
    pub fn get(self, registers: &DebugRegisters) -> [u8; LARGEST] {
        let system = &registers.system;
        let value = match self.0 {
            number @ 0..=15 => system.general[GENERAL[number]].into(),
            16 => system.rip.into(),
            17 => u128::from(system.rflags as u32),
            number @ 18..=23 => system.segments[SEGMENTS[number - 18]].selector.into(),
            number @ 24..=31 => {
                let mut bytes = [0; LARGEST];
                bytes[..10].copy_from_slice(&registers.st[number - 24]);
                return bytes;
            }
            32 => registers.fcw.into(),
            33 => registers.fsw.into(),
            34 => full_tags(registers).into(),
            // Offsets of 32 bits and selectors, in the form of 64-bit code: the upper half in the selector.
            35 => registers.fip as u128 >> 32,
            36 => u128::from(registers.fip as u32),
            37 => registers.fdp as u128 >> 32,
            38 => u128::from(registers.fdp as u32),
            39 => registers.fop.into(),
            number @ 40..=55 => registers.xmm[number - 40],
            56 => registers.mxcsr.into(),
            57 => system.segments[FS].base.into(),
            58 => system.segments[GS].base.into(),
            59 => registers.kernel_gs_base.into(),
            60 => system.cr0.into(),
            61 => registers.cr2.into(),
            62 => system.cr3.into(),
            63 => system.cr4.into(),
            64 => registers.cr8.into(),
            _ => system.efer.into(),
        };
        value.to_le_bytes()
    }

    /// Puts a value of [`Self::size`] bytes into `registers`; fewer are extended by zeros.
    pub fn set(self, registers: &mut DebugRegisters, bytes: &[u8]) {
        let mut wide = [0; LARGEST];
        wide.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        let value = u128::from_le_bytes(wide);
        let (low, half, word) = (value as u64, value as u32, value as u16);
        let system = &mut registers.system;
        match self.0 {
            number @ 0..=15 => system.general[GENERAL[number]] = low,
            16 => system.rip = low,
            17 => system.rflags = u64::from(half),
            number @ 18..=23 => system.segments[SEGMENTS[number - 18]].selector = word,
            number @ 24..=31 => registers.st[number - 24].copy_from_slice(&wide[..10]),
            32 => registers.fcw = word,
            33 => registers.fsw = word,
            34 => registers.ftw = short_tags(word),
            35 => registers.fip = registers.fip & 0xffff_ffff | u64::from(half) << 32,
            36 => registers.fip = registers.fip & !0xffff_ffff | u64::from(half),
            37 => registers.fdp = registers.fdp & 0xffff_ffff | u64::from(half) << 32,
            38 => registers.fdp = registers.fdp & !0xffff_ffff | u64::from(half),
            39 => registers.fop = word,
            number @ 40..=55 => registers.xmm[number - 40] = value,
            56 => registers.mxcsr = half,
            57 => system.segments[FS].base = low,
            58 => system.segments[GS].base = low,
            59 => registers.kernel_gs_base = low,
            60 => system.cr0 = low,
            61 => registers.cr2 = low,
            62 => system.cr3 = low,
            63 => system.cr4 = low,
            64 => registers.cr8 = low,
            _ => system.efer = low,
        }
    }
}

impl RegId for Register {
    fn from_raw_id(id: usize) -> Option<(Self, Option<NonZeroUsize>)> {
        (id < COUNT).then(|| (Self(id), NonZeroUsize::new(Self(id).size())))
    }

    fn to_raw_id(&self) -> Option<usize> {
        Some(self.0)
    }
}

/// The x87 tag word: two bits for each physical register, of which 3 is empty, 2 special, 1 zero, 0 valid.
fn full_tags(registers: &DebugRegisters) -> u16 {
    let top = registers.fsw >> 11 & 7;
    (0..8_u16).fold(0, |tags, physical| {
        let value = registers.st[usize::from(physical.wrapping_sub(top) & 7)];
        let exponent = u16::from_le_bytes([value[8], value[9]]) & 0x7fff;
        let mantissa = value[..8].iter().any(|&byte| byte != 0);
        let tag = match exponent {
            _ if registers.ftw >> physical & 1 == 0 => 3,
            0 if !mantissa => 1,
            0 | 0x7fff => 2,
            _ if value[7] & 0x80 == 0 => 2,
            _ => 0,
        };
        tags | tag << (2 * physical)
    })
}

/// The tag word as FXSAVE has it.
fn short_tags(tags: u16) -> u8 {
    (0..8).fold(0, |short, physical| short | u8::from(tags >> (2 * physical) & 3 != 3) << physical)
}

/// All registers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GdbRegisters(pub DebugRegisters);

impl Registers for GdbRegisters {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.0.system.rip
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        for register in Register::all() {
            register.get(&self.0)[..register.size()].iter().for_each(|&byte| write_byte(Some(byte)));
        }
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        let mut rest = bytes;
        for register in Register::all() {
            let (value, behind) = rest.split_at_checked(register.size()).ok_or(())?;
            register.set(&mut self.0, value);
            rest = behind;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_register_reads_back_what_was_set_and_changes_no_other() {
        for register in Register::all() {
            let mut registers = DebugRegisters::default();
            let before: Vec<_> = Register::all().map(|other| other.get(&registers)).collect();
            // Selectors and x87 words have 16 bits of the 32 that GDB shows.
            let value: [u8; LARGEST] = std::array::from_fn(|n| if n < 2 { 0x5a } else { 0 });
            register.set(&mut registers, &value);
            // Of the tag word it counts what is empty: nothing here.
            let expected = if register == Register(34) { [0x55, 0x55] } else { [0x5a, 0x5a] };
            assert_eq!(register.get(&registers)[..2], expected, "{register:?}");
            for (other, before) in Register::all().zip(before).filter(|(other, _)| *other != register) {
                let after = other.get(&registers);
                // The tag word depends on the registers that it tells of.
                assert!(after == before || other == Register(34), "{register:?} changes {other:?}");
            }
        }
    }

    #[test]
    fn the_description_has_the_registers_that_are_sent() {
        let description = X86::target_description_xml().unwrap();
        let sizes: Vec<usize> = description
            .split("<reg ")
            .skip(1)
            .map(|reg| {
                let bits = reg.split("bitsize=\"").nth(1).unwrap().split('"').next().unwrap();
                bits.parse::<usize>().unwrap() / 8
            })
            .collect();
        assert_eq!(sizes, Register::all().map(Register::size).collect::<Vec<_>>());
    }

    #[test]
    fn all_registers_survive_the_way_to_the_debugger_and_back() {
        let mut registers = GdbRegisters::default();
        registers.0.system.general = std::array::from_fn(|n| n as u64 * 0x0101_0101_0101);
        registers.0.system.rip = 0xffff_ffff_8100_0000;
        registers.0.fip = 0xffff_8888_1234_5678;
        registers.0.xmm[15] = u128::MAX;
        registers.0.st[7] = [1, 2, 3, 4, 5, 6, 7, 0x88, 9, 10];
        registers.0.ftw = 0x81;
        let mut bytes = Vec::new();
        registers.gdb_serialize(|byte| bytes.push(byte.unwrap()));
        let mut back = GdbRegisters::default();
        back.gdb_deserialize(&bytes).unwrap();
        assert_eq!(back, registers);
        assert!(back.gdb_deserialize(&bytes[1..]).is_err());
    }
}
