//! How a debugger's breakpoints are kept: in the processor's debug registers (SDM volume 3, 17.2), which see linear
//! addresses, or as INT3 in the guest's memory.

use processor::{BreakOn, Breakpoint, Error};

/// How many debug registers there are for addresses.
pub const REGISTERS: usize = 4;
/// DR7: exact breakpoints, and the bit that is always set.
const DR7_BASE: u64 = 1 << 9 | 1 << 10;

/// What a debug register waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watched {
    /// The breakpoint that it is a part of.
    pub point: Breakpoint,
    address: u64,
    length: u64,
}

/// Where breakpoints are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// What is in debug registers, by their number.
    pub registers: Vec<Watched>,
    /// Guest physical addresses at which there is to be an INT3.
    pub patches: Vec<u64>,
    /// Whether any processor of the machine may come to an INT3.
    pub patched: bool,
}

impl Plan {
    /// Finds a place for all `points`. `ram` gives the guest physical address of a linear one, if there is RAM.
    /// `passed` is the address of an instruction that is to be carried out whatever waits there.
    ///
    /// # Errors
    /// When there are too few debug registers, or a point waits for reads only.
    pub fn new(
        points: &[Breakpoint],
        passed: Option<u64>,
        ram: impl Fn(u64) -> Option<u64>,
    ) -> Result<Self, Error> {
        let mut plan = Self::default();
        for point in points.iter().filter(|point| !point.on.is_execution()) {
            if point.on == BreakOn::Read {
                return Err(Error::Debug(
                    "the host's processor watches writes, or reads and writes together",
                ));
            }
            plan.registers.extend(pieces(*point));
        }
        let mut in_ram = Vec::new();
        let mut wanted = plan.registers.len();
        for point in points.iter().filter(|point| point.on.is_execution()) {
            wanted += 1;
            let gpa = if point.on == BreakOn::Code { ram(point.address) } else { None };
            match gpa {
                _ if Some(point.address) == passed => {}
                Some(gpa) => in_ram.push((*point, gpa)),
                None => plan.registers.push(Watched { point: *point, address: point.address, length: 1 }),
            }
        }
        if plan.registers.len() > REGISTERS {
            return Err(Error::Debug(
                "there are four debug registers, for watched data and hardware breakpoints",
            ));
        }
        // The same for every processor, whatever it passes.
        plan.patched = wanted > REGISTERS;
        for (point, gpa) in in_ram {
            if plan.registers.len() < REGISTERS {
                plan.registers.push(Watched { point, address: point.address, length: 1 });
            } else {
                plan.patches.push(gpa);
            }
        }
        Ok(plan)
    }

    /// DR0 to DR7.
    pub fn debug_registers(&self) -> [u64; 8] {
        let mut values = [0; 8];
        values[7] = DR7_BASE;
        for (number, watched) in self.registers.iter().enumerate().take(REGISTERS) {
            values[number] = watched.address;
            let kind = match watched.point.on {
                BreakOn::Execution | BreakOn::Code => 0,
                BreakOn::Write => 1,
                BreakOn::Read | BreakOn::Access => 3,
            };
            let length = match watched.length {
                8 => 2,
                4 => 3,
                2 => 1,
                _ => 0,
            };
            values[7] |= 2 << (2 * number) | (kind | length << 2) << (16 + 4 * number);
        }
        values
    }

    /// The first breakpoint that DR6 says has been hit.
    pub fn hit(&self, dr6: u64) -> Option<Breakpoint> {
        let mut numbered = (0..).zip(&self.registers);
        numbered.find(|(number, _)| dr6 >> number & 1 != 0).map(|(_, watched)| watched.point)
    }
}

/// Pieces of watched data that a debug register can have: 1, 2, 4 or 8 bytes at a multiple of that.
fn pieces(point: Breakpoint) -> Vec<Watched> {
    let (mut address, mut rest) = (point.address, point.length.max(1));
    let mut pieces = Vec::new();
    while rest > 0 && pieces.len() <= REGISTERS {
        let fits = |length: &u64| address.is_multiple_of(*length) && *length <= rest;
        let length = [8, 4, 2].into_iter().find(fits).unwrap_or(1);
        pieces.push(Watched { point, address, length });
        (address, rest) = (address.wrapping_add(length), rest - length);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(on: BreakOn, address: u64) -> Breakpoint {
        Breakpoint { on, address, length: 1 }
    }

    fn data(on: BreakOn, address: u64, length: u64) -> Breakpoint {
        Breakpoint { on, address, length }
    }

    /// RAM below 1 MiB, at the same guest physical addresses plus 1 GiB.
    fn plan(points: &[Breakpoint], passed: Option<u64>) -> Result<Plan, Error> {
        Plan::new(points, passed, |gva| (gva < 1 << 20).then_some(gva + (1 << 30)))
    }

    #[test]
    fn four_breakpoints_are_in_registers_and_leave_memory_alone() {
        let points = [1, 2, 3].map(|address| code(BreakOn::Code, address));
        let plan = plan(&[points.as_slice(), &[code(BreakOn::Execution, 1 << 40)]].concat(), None).unwrap();
        assert_eq!((plan.patches.len(), plan.patched), (0, false));
        let values = plan.debug_registers();
        assert_eq!((&values[..4], values[7]), (&[1 << 40, 1, 2, 3][..], 0x600 | 0b1010_1010));
        assert_eq!(plan.hit(0b10), Some(points[0]));
    }

    #[test]
    fn more_of_them_are_int3_where_there_is_code_and_others_have_registers() {
        let points: Vec<_> = (1..=3).map(|address| code(BreakOn::Code, address)).collect();
        let others = [code(BreakOn::Execution, 2), code(BreakOn::Code, 1 << 40), data(BreakOn::Write, 8, 8)];
        let plan = plan(&[points, others.to_vec()].concat(), None).unwrap();
        let addresses: Vec<_> = plan.registers.iter().map(|watched| watched.address).collect();
        assert_eq!(addresses, [8, 2, 1 << 40, 1]);
        assert_eq!(plan.patches, [2, 3].map(|gva| gva + (1 << 30)));
        assert!(plan.patched);
    }

    #[test]
    fn an_instruction_that_is_stepped_over_has_no_breakpoint_while_others_keep_theirs() {
        let points: Vec<_> = (1..=5).map(|address| code(BreakOn::Code, address)).collect();
        let plan = plan(&points, Some(5)).unwrap();
        assert_eq!((plan.registers.len(), plan.patches.len()), (4, 0));
        assert!(plan.patched, "other processors have it in memory");
    }

    #[test]
    fn data_is_watched_in_aligned_pieces() {
        let plan = plan(&[data(BreakOn::Write, 0x1006, 10), data(BreakOn::Access, 8, 1)], None).unwrap();
        let pieces: Vec<_> = plan.registers.iter().map(|piece| (piece.address, piece.length)).collect();
        assert_eq!(pieces, [(0x1006, 2), (0x1008, 8), (8, 1)]);
        // Kinds and lengths: write 2, write 8, access 1.
        assert_eq!(plan.debug_registers()[7] >> 16, 0b0011 << 8 | 0b1001 << 4 | 0b0101);
        assert_eq!(plan.hit(0b010), Some(data(BreakOn::Write, 0x1006, 10)));
        assert_eq!(plan.hit(0b100), Some(data(BreakOn::Access, 8, 1)));
        assert_eq!(plan.hit(1 << 14), None);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(plan(&[data(BreakOn::Read, 0, 4)], None).is_err());
        assert!(plan(&[data(BreakOn::Write, 0, 4096)], None).is_err());
        let nowhere: Vec<_> = (0..5).map(|n| code(BreakOn::Execution, n)).collect();
        assert!(plan(&nowhere, None).is_err());
    }
}
