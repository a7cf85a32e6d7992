//! Memory-type range registers (SDM volume 3, section 13.11): kept and checked, without effect.

/// Variable ranges.
const VARIABLE: usize = 8;
/// MSR numbers of the eleven fixed ranges.
const FIXED: [u32; 11] = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];
const FIRST_VARIABLE: u32 = 0x200;
const LAST_VARIABLE: u32 = FIRST_VARIABLE + 2 * VARIABLE as u32 - 1;
const DEFAULT_TYPE: u32 = 0x2ff;
/// Enable, fixed-range enable.
const ENABLE: u64 = 1 << 11 | 1 << 10;
const WRITE_BACK: u64 = 6;
const VALID: u64 = 1 << 11;

/// The registers.
#[derive(Debug, Clone, Default)]
pub struct Mtrr {
    default_type: u64,
    fixed: [u64; 11],
    /// Base and mask, in turn.
    variable: [u64; 2 * VARIABLE],
}

fn known_type(kind: u64) -> bool {
    matches!(kind, 0 | 1 | 4 | 5 | 6)
}

impl Mtrr {
    /// IA32_MTRRCAP: eight variable ranges, fixed ranges, write combining.
    pub const CAPABILITIES: u64 = VARIABLE as u64 | 1 << 8 | 1 << 10;

    /// As firmware leaves them for an operating system: all memory write-back, the device hole below 4 GiB
    /// uncached.
    pub fn as_firmware_leaves(physical_bits: u32) -> Self {
        let mut variable = [0; 2 * VARIABLE];
        variable[0] = guest_memory::DEVICE_HOLE_START;
        let size = guest_memory::DEVICE_HOLE_END - guest_memory::DEVICE_HOLE_START;
        variable[1] = ((1 << physical_bits) - size) | VALID;
        Self { default_type: ENABLE | WRITE_BACK, fixed: [WRITE_BACK * 0x0101_0101_0101_0101; 11], variable }
    }

    /// Reads an MSR of 0x200–0x2ff; `None` if there is none.
    pub fn read(&self, number: u32) -> Option<u64> {
        match number {
            DEFAULT_TYPE => Some(self.default_type),
            FIRST_VARIABLE..=LAST_VARIABLE => self.variable.get((number - FIRST_VARIABLE) as usize).copied(),
            _ => FIXED.iter().position(|&fixed| fixed == number).map(|index| self.fixed[index]),
        }
    }

    /// Writes an MSR of 0x200–0x2ff; false if there is none or the value is not allowed.
    pub fn write(&mut self, number: u32, value: u64, physical_bits: u32) -> bool {
        let beyond = !((1 << physical_bits) - 1);
        match number {
            DEFAULT_TYPE => {
                let good = value & !(ENABLE | 0xff) == 0 && known_type(value & 0xff);
                if good {
                    self.default_type = value;
                }
                good
            }
            FIRST_VARIABLE..=LAST_VARIABLE => {
                let base = number.is_multiple_of(2);
                let good = if base {
                    value & (beyond | 0xf00) == 0 && known_type(value & 0xff)
                } else {
                    value & (beyond | 0x7ff) == 0
                };
                if good && let Some(register) = self.variable.get_mut((number - FIRST_VARIABLE) as usize) {
                    *register = value;
                }
                good
            }
            _ => {
                let good = value.to_le_bytes().iter().all(|&kind| known_type(u64::from(kind)));
                match FIXED.iter().position(|&fixed| fixed == number) {
                    Some(index) if good => {
                        self.fixed[index] = value;
                        true
                    }
                    _ => false,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_types_and_bits_are_refused() {
        let mut mtrr = Mtrr::default();
        assert!(mtrr.write(0x2ff, 0xc06, 40));
        assert!(!mtrr.write(0x2ff, 0xc02, 40));
        assert!(!mtrr.write(0x201, 1 << 40, 40));
        assert!(mtrr.write(0x200, 0xc000_0000, 40));
        assert!(!mtrr.write(0x250, 0x02, 40));
        assert!(!mtrr.write(0x251, 0, 40));
        assert_eq!(mtrr.read(0x2ff), Some(0xc06));
        assert_eq!(mtrr.read(0x210), None);
    }
}
