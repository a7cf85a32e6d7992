//! Sets of virtual processors as hypercalls name them: masks, and sparse sets of banks of 64 (HV_VP_SET).
//! Processors that do not exist are in no set.

use tlfs::HvStatus;
use tlfs::hypercall::VpSetHeader;

use super::Call;

/// Processors in a bank.
const BANK: u32 = 64;

/// All processors of the partition.
pub(super) fn all(call: &Call<'_>) -> Vec<u32> {
    (0..call.enlightenment.processor_count()).collect()
}

/// The processors of a mask.
pub(super) fn of_mask(call: &Call<'_>, mask: u64) -> Vec<u32> {
    let mut set = Vec::new();
    add_bank(call, 0, mask, &mut set);
    set
}

/// The processors of a set whose banks are the variable header. Without banks the set is empty: the
/// hypercall does nothing.
///
/// # Errors
/// When the format is unknown, or the variable header does not hold just the banks that are valid.
pub(super) fn of_header(call: &Call<'_>, header: VpSetHeader) -> Result<Vec<u32>, HvStatus> {
    match header.format {
        VpSetHeader::ALL => Ok(all(call)),
        VpSetHeader::SPARSE => {
            if call.variable_header_len() != header.valid_bank_mask.count_ones() as usize {
                return Err(HvStatus::INVALID_HYPERCALL_INPUT);
            }
            let mut set = Vec::new();
            let banks = (0..u64::BITS).filter(|bank| header.valid_bank_mask & (1 << bank) != 0);
            for (index, bank) in banks.enumerate() {
                add_bank(call, bank, call.variable_header(index)?, &mut set);
            }
            Ok(set)
        }
        _ => Err(HvStatus::INVALID_PARAMETER),
    }
}

fn add_bank(call: &Call<'_>, bank: u32, mask: u64, set: &mut Vec<u32>) {
    let count = call.enlightenment.processor_count();
    let processors = (0..BANK).filter(|bit| mask & (1 << bit) != 0).map(|bit| bank * BANK + bit);
    set.extend(processors.filter(|&vp| vp < count));
}
