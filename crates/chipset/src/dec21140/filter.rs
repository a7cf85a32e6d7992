//! Which frames are received: what setup frames say.

use super::check::crc;
use super::registers::{FILTER_KIND, OperationMode};

/// Bytes of a setup frame.
pub(super) const SETUP_FRAME: usize = 192;

/// Addresses of a table.
const PERFECT: usize = 16;
/// Where the only address beside a hash table is, in longwords.
const ADDRESS_BESIDE_HASH: usize = 39;
const HASH_WORDS: usize = 32;
const HASH_MASK: u32 = 0x1ff;

type Address = [u8; 6];

/// How addresses are filtered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Filter {
    /// No setup frame has come yet.
    None,
    /// The addresses of a table.
    Perfect([Address; PERFECT]),
    /// All but the addresses of a table.
    Inverse([Address; PERFECT]),
    /// Group addresses by a hash table, and one other.
    HashPerfect([u16; HASH_WORDS], Address),
    /// All addresses by a hash table.
    HashOnly([u16; HASH_WORDS]),
}

/// What the filter says of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is for somebody else.
    Unwanted,
    /// It is wanted.
    Wanted,
    /// It is for somebody else, and comes all the same.
    Overheard,
}

/// Of each longword of a setup frame the lower half is valid.
fn word(frame: &[u8; SETUP_FRAME], index: usize) -> [u8; 2] {
    [frame[4 * index], frame[4 * index + 1]]
}

fn address(frame: &[u8; SETUP_FRAME], first: usize) -> Address {
    let [[a, b], [c, d], [e, f]] = [0, 1, 2].map(|index| word(frame, first + index));
    [a, b, c, d, e, f]
}

fn hashed(table: &[u16; HASH_WORDS], address: Address) -> bool {
    let index = (crc(&address) & HASH_MASK) as usize;
    table[index / 16] >> (index % 16) & 1 != 0
}

impl Filter {
    /// What a setup frame says whose descriptor has these bits FT1 and FT0.
    pub fn new(frame: &[u8; SETUP_FRAME], kind: (bool, bool)) -> Self {
        let table = || std::array::from_fn(|index| address(frame, 3 * index));
        let hash = || std::array::from_fn(|index| u16::from_le_bytes(word(frame, index)));
        match kind {
            (false, false) => Self::Perfect(table()),
            (false, true) => Self::HashPerfect(hash(), address(frame, ADDRESS_BESIDE_HASH)),
            (true, false) => Self::Inverse(table()),
            (true, true) => Self::HashOnly(hash()),
        }
    }

    /// The bits of CSR6 that tell of it.
    pub fn mode(&self) -> u32 {
        let mode = OperationMode::new();
        let mode = match self {
            Self::None | Self::Perfect(_) => mode,
            Self::Inverse(_) => mode.with_inverse(true),
            Self::HashPerfect(..) => mode.with_hash_perfect(true),
            Self::HashOnly(_) => mode.with_hash_perfect(true).with_hash_only(true),
        };
        mode.into_bits() & FILTER_KIND
    }

    fn matches(&self, address: Address) -> bool {
        match self {
            Self::None => false,
            Self::Perfect(table) => table.contains(&address),
            Self::Inverse(table) => !table.contains(&address),
            Self::HashPerfect(table, _) if is_group(address) => hashed(table, address),
            Self::HashPerfect(_, own) => *own == address,
            Self::HashOnly(table) => hashed(table, address),
        }
    }

    /// Whether a frame to `address` is received.
    pub fn verdict(&self, address: Address, mode: OperationMode) -> Verdict {
        if self.matches(address) || mode.all_multicast() && is_group(address) {
            Verdict::Wanted
        } else if mode.promiscuous() || mode.receive_all() {
            Verdict::Overheard
        } else {
            Verdict::Unwanted
        }
    }
}

/// Whether it stands for several adapters.
pub(super) fn is_group(address: Address) -> bool {
    address[0] & 1 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Address = [0x00, 0x15, 0x5d, 0x01, 0x02, 0x03];
    const OTHER: Address = [0x00, 0x15, 0x5d, 0x01, 0x02, 0x04];
    const GROUP: Address = [0x01, 0x00, 0x5e, 0x00, 0x00, 0xfb];
    const EVERYBODY: Address = [0xff; 6];

    fn put(frame: &mut [u8; SETUP_FRAME], first: usize, address: Address) {
        for (index, pair) in address.chunks_exact(2).enumerate() {
            // The upper half is not looked at.
            let at = 4 * (first + index);
            frame[at..at + 4].copy_from_slice(&[pair[0], pair[1], 0xee, 0xee]);
        }
    }

    fn table(addresses: &[Address]) -> [u8; SETUP_FRAME] {
        let mut frame = [0xff; SETUP_FRAME];
        for (index, address) in addresses.iter().enumerate() {
            put(&mut frame, 3 * index, *address);
        }
        frame
    }

    fn hash(addresses: &[Address]) -> [u8; SETUP_FRAME] {
        let mut frame = [0; SETUP_FRAME];
        for address in addresses {
            let index = (crc(address) & 0x1ff) as usize;
            frame[4 * (index / 16) + index % 16 / 8] |= 1 << (index % 8);
        }
        put(&mut frame, 39, OWN);
        frame
    }

    fn wanted(filter: &Filter, mode: OperationMode) -> [bool; 4] {
        [OWN, OTHER, GROUP, EVERYBODY].map(|address| filter.verdict(address, mode) == Verdict::Wanted)
    }

    #[test]
    fn a_perfect_filter_takes_the_addresses_of_its_table() {
        let filter = Filter::new(&table(&[OWN, GROUP]), (false, false));
        assert_eq!(wanted(&filter, OperationMode::new()), [true, false, true, true]);
        // Broadcast is an address like any.
        let mut frame = table(&[OWN; 16]);
        put(&mut frame, 45, GROUP);
        let filter = Filter::new(&frame, (false, false));
        assert_eq!(wanted(&filter, OperationMode::new()), [true, false, true, false]);
    }

    #[test]
    fn an_inverse_filter_takes_all_others() {
        let filter = Filter::new(&table(&[OWN, GROUP]), (true, false));
        assert_eq!(wanted(&filter, OperationMode::new()), [false, true, false, false]);
        assert_eq!(filter.mode(), 0x10);
    }

    #[test]
    fn a_hash_filter_takes_groups_by_their_hash_and_one_address() {
        let filter = Filter::new(&hash(&[GROUP]), (false, true));
        assert_eq!(wanted(&filter, OperationMode::new()), [true, false, true, false]);
        assert_eq!(filter.mode(), 0x01);
        let filter = Filter::new(&hash(&[OTHER, EVERYBODY]), (true, true));
        assert_eq!(wanted(&filter, OperationMode::new()), [false, true, false, true]);
        assert_eq!(filter.mode(), 0x05);
    }

    #[test]
    fn the_mode_adds_groups_or_everything() {
        let filter = Filter::new(&table(&[OWN; 16]), (false, false));
        let mode = OperationMode::new().with_all_multicast(true);
        assert_eq!(wanted(&filter, mode), [true, false, true, true]);
        for mode in [OperationMode::new().with_promiscuous(true), OperationMode::new().with_receive_all(true)]
        {
            assert_eq!(filter.verdict(OTHER, mode), Verdict::Overheard);
            assert_eq!(filter.verdict(OWN, mode), Verdict::Wanted);
        }
        assert_eq!(Filter::None.verdict(OWN, OperationMode::new()), Verdict::Unwanted);
    }
}
