//! Key-value exchange: strings that host and guest leave for each other, and what the guest tells of itself.
//!
//! The guest's driver passes requests on to a program of the guest (`hv_kvp_daemon`), and does not even agree on a
//! version before that runs.
//!
//! Linux `include/uapi/linux/hyperv.h` (`hv_kvp_msg`), `drivers/hv/hv_kvp.c`, `tools/hv/hv_kvp_daemon.c`.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use vmbus::Guid;

use crate::conversation::Service;
use crate::message::{MessageType, STATUS_NO_MORE, STATUS_OK, Version};

pub(crate) const INTERFACE: Guid =
    Guid::new(0xa9a0_f4e7, 0x5a45, 0x4d96, [0xb8, 0x27, 0x8a, 0x84, 0x1e, 0x8c, 0x03, 0xe6]);
pub(crate) const INSTANCE: Guid =
    Guid::new(0x242f_f919, 0x07db, 0x4180, [0x9c, 0x2e, 0xb8, 0x6c, 0xb6, 0x8c, 0x8c, 0x55]);

/// Bytes of a key and of a value in a message, each with its terminating zero, in UTF-16.
const KEY: usize = 512;
const VALUE: usize = 2048;
/// The longest key and value, in units of UTF-16: Linux leaves room for two zeroes.
pub(crate) const KEY_UNITS: usize = KEY / 2 - 2;
pub(crate) const VALUE_UNITS: usize = VALUE / 2 - 2;
/// A string.
const TYPE_STRING: u32 = 1;
/// The most pairs of a pool that are read.
const MOST: u32 = 1024;

/// Operations.
const SET: u8 = 1;
const DELETE: u8 = 2;
const ENUMERATE: u8 = 3;

/// Where pairs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Pool {
    /// What the host has put there for the guest.
    External = 0,
    /// What the guest has put there for the host.
    Guest = 1,
    /// What the guest tells of itself.
    Auto = 2,
}

/// What is known of a guest's pairs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct KeyValues {
    /// What the host has put there for the guest.
    pub host: BTreeMap<String, String>,
    /// What the guest has put there for the host.
    pub guest: BTreeMap<String, String>,
    /// What the guest tells of itself: name, system, addresses.
    pub facts: BTreeMap<String, String>,
}

impl KeyValues {
    fn pool(&mut self, pool: Pool) -> &mut BTreeMap<String, String> {
        match pool {
            Pool::External => &mut self.host,
            Pool::Guest => &mut self.guest,
            Pool::Auto => &mut self.facts,
        }
    }
}

#[derive(Debug, Clone)]
enum Wish {
    Set(String, String),
    Delete(String),
    /// Read all pools.
    Read,
}

enum Asked {
    Change(u64),
    /// Which pair of which pool is asked for, and what has been read before it.
    Read {
        number: u64,
        pool: Pool,
        index: u32,
        found: KeyValues,
    },
}

/// What became of a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Refused(u32),
    Gone,
}

/// The service.
#[derive(Default)]
pub(crate) struct KeyValueService {
    wanted: VecDeque<(u64, Wish)>,
    asked: Option<Asked>,
    next: u64,
    outcomes: VecDeque<(u64, Outcome)>,
    /// What was there when it was read last.
    known: KeyValues,
}

/// Outcomes that nobody has fetched are kept up to this number.
const KEPT: usize = 64;

impl KeyValueService {
    fn ask(&mut self, wish: Wish) -> u64 {
        self.next += 1;
        self.wanted.push_back((self.next, wish));
        self.next
    }

    /// Notes that a pair is to be put into the host's pool. Key and value are as long as they may be at the most.
    pub fn set(&mut self, key: &str, value: &str) -> u64 {
        self.ask(Wish::Set(key.to_owned(), value.to_owned()))
    }

    /// Notes that a pair is to be taken from the host's pool.
    pub fn delete(&mut self, key: &str) -> u64 {
        self.ask(Wish::Delete(key.to_owned()))
    }

    /// Notes that all pools are to be read.
    pub fn read(&mut self) -> u64 {
        self.ask(Wish::Read)
    }

    /// What became of a wish, once it is known.
    pub fn outcome(&mut self, number: u64) -> Option<Outcome> {
        let at = self.outcomes.iter().position(|(n, _)| *n == number)?;
        self.outcomes.remove(at).map(|(_, outcome)| outcome)
    }

    /// Takes a wish back that has not been sent.
    pub fn withdraw(&mut self, number: u64) {
        self.wanted.retain(|(n, _)| *n != number);
    }

    /// What was there when it was read last.
    pub fn known(&self) -> &KeyValues {
        &self.known
    }

    fn settle(&mut self, number: u64, outcome: Outcome) {
        if self.outcomes.len() == KEPT {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back((number, outcome));
    }
}

impl Service for KeyValueService {
    const MESSAGE: MessageType = MessageType::KEY_VALUE;
    // 5.0 is what Hyper-V offers first; no Linux knows it, and what it adds is not here.
    const VERSIONS: &'static [Version] = &[Version::new(4, 0), Version::new(3, 0), Version::new(1, 0)];

    fn begin(&mut self, _: Version, _: u64) {}

    fn request(&mut self, _: u64) -> Option<Vec<u8>> {
        if let Some(Asked::Read { pool, index, .. }) = &self.asked {
            return Some(enumerate(*pool, *index));
        }
        let (number, wish) = self.wanted.pop_front()?;
        let (asked, body) = match wish {
            Wish::Set(key, value) => (Asked::Change(number), set(&key, &value)),
            Wish::Delete(key) => (Asked::Change(number), delete(&key)),
            Wish::Read => {
                let pool = Pool::External;
                let found = KeyValues::default();
                (Asked::Read { number, pool, index: 0, found }, enumerate(pool, 0))
            }
        };
        self.asked = Some(asked);
        Some(body)
    }

    fn due(&self) -> Option<u64> {
        // The rest of what is being read, at once.
        matches!(self.asked, Some(Asked::Read { .. })).then_some(0)
    }

    fn answer(&mut self, status: u32, body: &[u8], _: u64) {
        match self.asked.take() {
            None => {}
            Some(Asked::Change(number)) => {
                let outcome = if status == STATUS_OK { Outcome::Done } else { Outcome::Refused(status) };
                self.settle(number, outcome);
            }
            Some(Asked::Read { number, pool, index, mut found }) => {
                let pair = (status == STATUS_OK).then(|| pair(body)).flatten();
                let more = pair.is_some() && index + 1 < MOST;
                if let Some((key, value)) = pair {
                    found.pool(pool).insert(key, value);
                }
                let next = match pool {
                    _ if more => Some((pool, index + 1)),
                    Pool::External => Some((Pool::Guest, 0)),
                    Pool::Guest => Some((Pool::Auto, 0)),
                    Pool::Auto => None,
                };
                match next {
                    Some((pool, index)) => self.asked = Some(Asked::Read { number, pool, index, found }),
                    None => {
                        let nothing = found == KeyValues::default();
                        self.known = found;
                        // A guest without the program answers everything with an error.
                        let failed = nothing && status != STATUS_OK && status != STATUS_NO_MORE;
                        self.settle(number, if failed { Outcome::Refused(status) } else { Outcome::Done });
                    }
                }
            }
        }
    }

    fn end(&mut self) {
        let asked = self.asked.take().map(|asked| match asked {
            Asked::Change(number) | Asked::Read { number, .. } => number,
        });
        let wanted: Vec<u64> = asked.into_iter().chain(self.wanted.drain(..).map(|(n, _)| n)).collect();
        for number in wanted {
            self.settle(number, Outcome::Gone);
        }
        self.known = KeyValues::default();
    }
}

/// `text` in UTF-16, with its terminating zero, in `room` bytes; and how many of them it takes.
fn text(text: &str, room: usize) -> (Vec<u8>, u32) {
    let mut bytes: Vec<u8> = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    let length = bytes.len() as u32;
    bytes.resize(room, 0);
    (bytes, length)
}

fn header(operation: u8, pool: Pool) -> Vec<u8> {
    vec![operation, pool as u8, 0, 0]
}

fn set(key: &str, value: &str) -> Vec<u8> {
    let ((key, key_size), (value, value_size)) = (text(key, KEY), text(value, VALUE));
    let mut body = header(SET, Pool::External);
    body.extend([TYPE_STRING, key_size, value_size].into_iter().flat_map(u32::to_le_bytes));
    body.extend(key);
    body.extend(value);
    body
}

fn delete(key: &str) -> Vec<u8> {
    let (key, key_size) = text(key, KEY);
    let mut body = header(DELETE, Pool::External);
    body.extend(key_size.to_le_bytes());
    body.extend(key);
    body
}

fn enumerate(pool: Pool, index: u32) -> Vec<u8> {
    let mut body = header(ENUMERATE, pool);
    body.extend(index.to_le_bytes());
    // Room for type, sizes, key and value.
    body.resize(body.len() + 12 + KEY + VALUE, 0);
    body
}

/// The pair in the answer to [`enumerate`]; `None` if it is not well-formed. Units that are no UTF-16 are replaced.
fn pair(body: &[u8]) -> Option<(String, String)> {
    let (_, data) = body.split_at_checked(8)?;
    let (sizes, strings) = data.split_at_checked(12)?;
    let size = |at: usize| {
        let bytes = sizes.get(at..at + 4)?.first_chunk()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    let (key_size, value_size) = (size(4)?, size(8)?);
    let (key, value) = strings.split_at_checked(KEY)?;
    let text = |bytes: &[u8]| {
        let units = bytes.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit));
        let units = units.take_while(|&unit| unit != 0);
        char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect::<String>()
    };
    let key = text(key.get(..key_size)?);
    let value = text(value.get(..VALUE)?.get(..value_size)?);
    (!key.is_empty()).then_some((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest's program with these pools.
    fn serve(service: &mut KeyValueService, pools: &mut [BTreeMap<String, String>; 3]) {
        while let Some(body) = service.request(0) {
            let (operation, pool) = (body[0], usize::from(body[1]));
            let (status, answer) = match operation {
                SET => {
                    // An index where SET has none: the strings begin four bytes earlier.
                    let mut shifted = body[..4].to_vec();
                    shifted.extend([0; 4]);
                    shifted.extend(&body[4..]);
                    let (key, value) = pair(&shifted).unwrap();
                    pools[pool].insert(key, value);
                    (STATUS_OK, body)
                }
                ENUMERATE => {
                    let index = u32::from_le_bytes(body[4..8].try_into().unwrap()) as usize;
                    match pools[pool].iter().nth(index) {
                        Some((key, value)) => {
                            let filled = set(key, value);
                            let mut answer = body[..8].to_vec();
                            answer.extend(&filled[4..]);
                            (STATUS_OK, answer)
                        }
                        None => (STATUS_NO_MORE, body),
                    }
                }
                _ => {
                    assert_eq!(operation, DELETE);
                    let length = u32::from_le_bytes(body[4..8].try_into().unwrap()) as usize;
                    let units =
                        body[8..8 + length].as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit));
                    let key: String = char::decode_utf16(units).map(Result::unwrap).collect();
                    let there = pools[pool].remove(key.trim_end_matches('\0')).is_some();
                    (if there { STATUS_OK } else { STATUS_NO_MORE }, body)
                }
            };
            service.answer(status, &answer, 0);
        }
    }

    fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    #[test]
    fn all_pools_are_read_to_their_ends() {
        let mut service = KeyValueService::default();
        let mut pools =
            [pairs([]), pairs([("état", "prêt"), ("b", "2")]), pairs([("OSName", "Debian"), ("x", "")])];
        let number = service.read();
        serve(&mut service, &mut pools);
        assert_eq!(service.outcome(number), Some(Outcome::Done));
        let [host, guest, facts] = pools;
        assert_eq!(service.known(), &KeyValues { host, guest, facts });
    }

    #[test]
    fn the_host_s_pairs_are_set_and_deleted() {
        let mut service = KeyValueService::default();
        let mut pools = [pairs([]), pairs([]), pairs([])];
        let numbers =
            [service.set("a", "1"), service.set("b", "ü"), service.delete("a"), service.delete("c")];
        serve(&mut service, &mut pools);
        assert_eq!(pools[0], pairs([("b", "ü")]));
        let outcomes = numbers.map(|number| service.outcome(number).unwrap());
        assert_eq!(outcomes[..3], [Outcome::Done, Outcome::Done, Outcome::Done]);
        assert_eq!(outcomes[3], Outcome::Refused(STATUS_NO_MORE));
    }

    #[test]
    fn a_pool_without_end_is_read_in_part() {
        let mut service = KeyValueService::default();
        let number = service.read();
        let mut asked = 0;
        while let Some(body) = service.request(0) {
            asked += 1;
            let mut answer = body[..8].to_vec();
            answer.extend(&set("always", "the same")[4..]);
            service.answer(STATUS_OK, &answer, 0);
        }
        assert_eq!((asked, service.outcome(number)), (3 * MOST, Some(Outcome::Done)));
    }

    #[test]
    fn sizes_beyond_the_message_and_broken_text_do_no_harm() {
        let mut body = enumerate(Pool::Guest, 0);
        assert_eq!(pair(&body), None);
        body[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(pair(&body), None);
        body[12..16].copy_from_slice(&4_u32.to_le_bytes());
        body[16..20].copy_from_slice(&(VALUE as u32 + 1).to_le_bytes());
        body[20..24].copy_from_slice(&[0x00, 0xd8, 0x61, 0x00]);
        assert_eq!(pair(&body), None);
        body[16..20].copy_from_slice(&3_u32.to_le_bytes());
        assert_eq!(pair(&body), Some(("\u{fffd}a".to_owned(), String::new())));
        for length in 0..body.len() {
            pair(&body[..length]);
        }
    }

    #[test]
    fn a_guest_that_only_fails_is_told_so() {
        let mut service = KeyValueService::default();
        let number = service.read();
        while service.request(0).is_some() {
            service.answer(0x8000_4005, &[], 0);
        }
        assert_eq!(service.outcome(number), Some(Outcome::Refused(0x8000_4005)));
    }
}
