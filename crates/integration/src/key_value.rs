//! Key-value exchange: strings that host and guest leave for each other, and what the guest tells of itself.
//!
//! The guest's driver passes requests on to a program of the guest (`hv_kvp_daemon`), and does not even agree on a
//! version before that runs.
//!
//! Linux `include/uapi/linux/hyperv.h` (`hv_kvp_msg`), `drivers/hv/hv_kvp.c`, `tools/hv/hv_kvp_daemon.c`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vmbus::Guid;

use crate::addresses::{self, Addresses};
use crate::conversation::Service;
use crate::message::{MessageType, STATUS_NO_MORE, STATUS_OK, Version};
use crate::text;
use crate::wishes::{Asked, Outcome, Wishes};

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

/// What is wanted. Key and value are as long as they may be at the most.
pub(crate) enum Wish {
    /// Put a pair into the host's pool.
    Set(String, String),
    /// Take a pair from the host's pool.
    Delete(String),
    /// Read all pools.
    Read,
    /// Read the addresses of the adapter with this MAC address.
    Addresses(String),
    /// Set those of the adapter with this identifier.
    SetAddresses(String, Box<Addresses>),
}

/// Adapters whose addresses are remembered.
const ADAPTERS: usize = 64;

/// A pool that is being read: which pair is asked for, and what has been read before it.
struct Reading {
    pool: Pool,
    index: u32,
    found: KeyValues,
}

/// The service.
#[derive(Default)]
pub(crate) struct KeyValueService {
    wishes: Wishes<Wish>,
    reading: Option<Reading>,
    /// What was there when it was read last.
    known: KeyValues,
    /// The adapter whose addresses are asked for.
    asked: Option<String>,
    /// The addresses that were told last, by MAC address.
    addresses: BTreeMap<String, Addresses>,
}

impl KeyValueService {
    /// What was there when it was read last.
    pub fn known(&self) -> &KeyValues {
        &self.known
    }

    /// The addresses that the adapter with this MAC address had when it was asked last.
    pub fn addresses(&self, mac: &str) -> Option<&Addresses> {
        self.addresses.get(mac)
    }
}

impl Asked for KeyValueService {
    type Wish = Wish;

    fn wishes(&mut self) -> &mut Wishes<Wish> {
        &mut self.wishes
    }
}

impl Service for KeyValueService {
    const MESSAGE: MessageType = MessageType::KEY_VALUE;
    // 5.0 is what Hyper-V offers first; no Linux knows it, and what it adds is not here.
    const VERSIONS: &'static [Version] = &[Version::new(4, 0), Version::new(3, 0), Version::new(1, 0)];

    fn begin(&mut self, _: Version, _: u64) {}

    fn request(&mut self, _: u64) -> Option<Vec<u8>> {
        if let Some(Reading { pool, index, .. }) = &self.reading {
            return Some(enumerate(*pool, *index));
        }
        Some(match self.wishes.begin()? {
            Wish::Set(key, value) => set(&key, &value),
            Wish::Delete(key) => delete(&key),
            Wish::SetAddresses(adapter, wanted) => addresses::set(&adapter, &wanted),
            Wish::Addresses(mac) => {
                let body = addresses::get(&mac);
                self.asked = Some(mac);
                body
            }
            Wish::Read => {
                let (pool, index) = (Pool::External, 0);
                self.reading = Some(Reading { pool, index, found: KeyValues::default() });
                enumerate(pool, index)
            }
        })
    }

    fn due(&self) -> Option<u64> {
        // The rest of what is being read, at once.
        self.reading.is_some().then_some(0)
    }

    fn answer(&mut self, status: u32, body: &[u8], _: u64) {
        if let Some(mac) = self.asked.take() {
            self.addresses.remove(&mac);
            let told = (status == STATUS_OK).then(|| addresses::told(body)).flatten();
            if let Some(told) = told
                && self.addresses.len() < ADAPTERS
            {
                self.addresses.insert(mac, told);
            }
            return self.wishes.settle(Outcome::of(status));
        }
        let Some(Reading { pool, index, mut found }) = self.reading.take() else {
            return self.wishes.settle(Outcome::of(status));
        };
        let pair = (status == STATUS_OK).then(|| pair(body)).flatten();
        let more = pair.is_some() && index + 1 < MOST;
        if let Some((key, value)) = pair {
            found.pool(pool).insert(key, value);
        }
        let (pool, index) = match pool {
            _ if more => (pool, index + 1),
            Pool::External => (Pool::Guest, 0),
            Pool::Guest => (Pool::Auto, 0),
            Pool::Auto => {
                // A guest without the program answers everything with an error.
                let failed = found == KeyValues::default() && status != STATUS_NO_MORE;
                self.known = found;
                return self.wishes.settle(if failed { Outcome::of(status) } else { Outcome::Done });
            }
        };
        self.reading = Some(Reading { pool, index, found });
    }

    fn end(&mut self) {
        self.wishes.end();
        (self.reading, self.known, self.asked) = (None, KeyValues::default(), None);
        self.addresses.clear();
    }
}

fn header(operation: u8, pool: Pool) -> Vec<u8> {
    vec![operation, pool as u8, 0, 0]
}

fn set(key: &str, value: &str) -> Vec<u8> {
    let ((key, key_size), (value, value_size)) = (text::field(key, KEY), text::field(value, VALUE));
    let mut body = header(SET, Pool::External);
    body.extend([TYPE_STRING, key_size, value_size].into_iter().flat_map(u32::to_le_bytes));
    body.extend(key);
    body.extend(value);
    body
}

fn delete(key: &str) -> Vec<u8> {
    let (key, key_size) = text::field(key, KEY);
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
    let key = text::until_zero(key.get(..key_size)?);
    let value = text::until_zero(value.get(..VALUE)?.get(..value_size)?);
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
        let number = service.wishes.add(Wish::Read);
        serve(&mut service, &mut pools);
        assert_eq!(service.wishes.outcome(number), Some(Outcome::Done));
        let [host, guest, facts] = pools;
        assert_eq!(service.known(), &KeyValues { host, guest, facts });
    }

    #[test]
    fn the_host_s_pairs_are_set_and_deleted() {
        let mut service = KeyValueService::default();
        let mut pools = [pairs([]), pairs([]), pairs([])];
        let numbers = [
            service.wishes.add(Wish::Set("a".to_owned(), "1".to_owned())),
            service.wishes.add(Wish::Set("b".to_owned(), "ü".to_owned())),
            service.wishes.add(Wish::Delete("a".to_owned())),
            service.wishes.add(Wish::Delete("c".to_owned())),
        ];
        serve(&mut service, &mut pools);
        assert_eq!(pools[0], pairs([("b", "ü")]));
        let outcomes = numbers.map(|number| service.wishes.outcome(number).unwrap());
        assert_eq!(outcomes[..3], [Outcome::Done, Outcome::Done, Outcome::Done]);
        assert_eq!(outcomes[3], Outcome::Refused(STATUS_NO_MORE));
    }

    #[test]
    fn a_pool_without_end_is_read_in_part() {
        let mut service = KeyValueService::default();
        let number = service.wishes.add(Wish::Read);
        let mut asked = 0;
        while let Some(body) = service.request(0) {
            asked += 1;
            let mut answer = body[..8].to_vec();
            answer.extend(&set("always", "the same")[4..]);
            service.answer(STATUS_OK, &answer, 0);
        }
        assert_eq!((asked, service.wishes.outcome(number)), (3 * MOST, Some(Outcome::Done)));
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
        let number = service.wishes.add(Wish::Read);
        while service.request(0).is_some() {
            service.answer(0x8000_4005, &[], 0);
        }
        assert_eq!(service.wishes.outcome(number), Some(Outcome::Refused(0x8000_4005)));
    }
}
