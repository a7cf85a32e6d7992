//! Key-value exchange: strings that host and guest leave for each other, and what the guest tells of itself.
//!
//! Linux `drivers/hv/hv_kvp.c`, `include/uapi/linux/hyperv.h` (`hv_kvp_msg`). Texts end with a zero. In an answer the
//! first four bytes are a status.

mod addresses;
mod facts;
mod pool;

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::device::Service;
use crate::fields::{number, put_number, put_text, until_zero};
use crate::{FAILED, OK};
use facts::Facts;
use pool::Pool;

/// Where pools are, as other programs of a guest expect them.
const FOLDER: &str = "/var/lib/hyperv";
/// Pools that are kept in files: from the host, from the guest, what the guest tells of itself, and two more.
const POOLS: u8 = 5;
/// What the guest tells of itself, which is in no file.
const AUTO: u8 = 2;

/// Bytes of a message: those of the longest one, [addresses], in whole words.
const LENGTH: usize = 7432;
const KEY: usize = pool::KEY;
const VALUE: usize = pool::VALUE;

/// Operations.
const REGISTER: u8 = 100;
const GET: u8 = 0;
const SET: u8 = 1;
const DELETE: u8 = 2;
const ENUMERATE: u8 = 3;
const GET_ADDRESSES: u8 = 4;
const SET_ADDRESSES: u8 = 5;

/// There is nothing of that name, or no more.
const NO_MORE: u32 = 0x8007_0103;
/// There is no such adapter.
const NO_ADAPTER: u32 = 0x8004_1002;

/// Where a key and its value are in a request to set or get one.
const SET_KEY: usize = 16;
const SET_VALUE: usize = SET_KEY + KEY;
/// In a request to delete one.
const DELETE_KEY: usize = 8;
/// In an enumeration, behind an index; a value that was asked for by its key is expected here too.
const INDEX: usize = 4;
const ENUMERATED_KEY: usize = 20;
const ENUMERATED_VALUE: usize = ENUMERATED_KEY + KEY;

/// The service.
pub struct KeyValue {
    folder: PathBuf,
    pools: Vec<Pool>,
    /// The version of the driver.
    driver: String,
}

impl KeyValue {
    /// The service with the pools where other programs expect them.
    ///
    /// # Errors
    /// When the pools cannot be made or opened.
    pub fn new() -> Result<Self> {
        Self::in_folder(Path::new(FOLDER))
    }

    /// The service with its pools in `folder`.
    ///
    /// # Errors
    /// When the pools cannot be made or opened.
    pub fn in_folder(folder: &Path) -> Result<Self> {
        let open = |number| Pool::open(&folder.join(format!(".kvp_pool_{number}")));
        std::fs::create_dir_all(folder)?;
        let pools = (0..POOLS).map(open).collect::<Result<_>>()?;
        Ok(Self { folder: folder.to_owned(), pools, driver: String::new() })
    }

    /// Carries a request out on its message; returns the status.
    fn carry_out(&mut self, message: &mut [u8]) -> Result<u32> {
        let (operation, number_of_pool) = (message[0], message[1]);
        match operation {
            GET_ADDRESSES => return Ok(if addresses::get(message) { OK } else { FAILED }),
            SET_ADDRESSES => {
                return Ok(match addresses::Wanted::of(message).transpose()? {
                    Some(wanted) => {
                        wanted.set(&self.folder)?;
                        OK
                    }
                    None => NO_ADAPTER,
                });
            }
            _ => {}
        }
        let Some(pool) = self.pools.get(usize::from(number_of_pool)) else { return Ok(FAILED) };
        let text = |at: usize, room: usize| until_zero(&message[at..at + room]).to_vec();
        let found = match operation {
            SET => {
                pool.set(&text(SET_KEY, KEY), &text(SET_VALUE, VALUE))?;
                true
            }
            DELETE => pool.delete(&text(DELETE_KEY, KEY))?,
            GET => match pool.get(&text(SET_KEY, KEY))? {
                Some(value) => {
                    put_text(&mut message[ENUMERATED_VALUE..ENUMERATED_VALUE + VALUE], &value);
                    true
                }
                None => false,
            },
            ENUMERATE => {
                let index = number(message, INDEX).unwrap_or(u32::MAX);
                let pair = match number_of_pool {
                    AUTO => {
                        Facts::now(&self.driver).nth(index).map(|(key, value)| (key.into(), value.into()))
                    }
                    _ => pool.nth(index)?,
                };
                match pair {
                    Some((key, value)) => {
                        let (key, value): (Vec<u8>, Vec<u8>) = (key, value);
                        put_text(&mut message[ENUMERATED_KEY..ENUMERATED_KEY + KEY], &key);
                        put_text(&mut message[ENUMERATED_VALUE..ENUMERATED_VALUE + VALUE], &value);
                        true
                    }
                    None => false,
                }
            }
            _ => return Ok(FAILED),
        };
        Ok(if found { OK } else { NO_MORE })
    }
}

impl Service for KeyValue {
    const DEVICE: &'static str = "/dev/vmbus/hv_kvp";

    fn registration(&self) -> Vec<u8> {
        let mut message = vec![0; LENGTH];
        message[0] = REGISTER;
        message
    }

    fn registered(&mut self, answer: &[u8]) {
        let version = answer.get(INDEX..).map(until_zero).unwrap_or_default();
        self.driver = String::from_utf8_lossy(version).into_owned();
    }

    fn answer(&mut self, request: &[u8]) -> Option<Vec<u8>> {
        let mut message = request.get(..LENGTH)?.to_vec();
        let status = self.carry_out(&mut message).unwrap_or_else(|error| {
            eprintln!("bodhi-integration: {}: {error:#}", Self::DEVICE);
            FAILED
        });
        put_number(&mut message, 0, status);
        Some(message)
    }

    fn cut_off(&mut self) {}
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    struct Rig {
        service: KeyValue,
        _folder: tempfile::TempDir,
    }

    fn rig() -> Rig {
        let folder = tempfile::tempdir().unwrap();
        Rig { service: KeyValue::in_folder(folder.path()).unwrap(), _folder: folder }
    }

    impl Rig {
        fn ask(&mut self, operation: u8, pool: u8, fields: &[(usize, &[u8])]) -> (u32, Vec<u8>) {
            let mut request = vec![0; LENGTH];
            (request[0], request[1]) = (operation, pool);
            for (at, field) in fields {
                request[*at..at + field.len()].copy_from_slice(field);
            }
            let answer = self.service.answer(&request).unwrap();
            (number(&answer, 0).unwrap(), answer)
        }

        fn nth(&mut self, pool: u8, index: u8) -> Option<(String, String)> {
            let (status, answer) = self.ask(ENUMERATE, pool, &[(INDEX, &[index, 0, 0, 0])]);
            let text = |at: usize| String::from_utf8(until_zero(&answer[at..]).to_vec()).unwrap();
            (status == OK).then(|| (text(ENUMERATED_KEY), text(ENUMERATED_VALUE)))
        }
    }

    #[test]
    fn pairs_are_set_read_and_deleted() {
        let mut rig = rig();
        assert_eq!(rig.ask(SET, 0, &[(SET_KEY, b"a"), (SET_VALUE, b"one")]).0, OK);
        assert_eq!(rig.ask(SET, 0, &[(SET_KEY, b"b"), (SET_VALUE, b"two")]).0, OK);
        assert_eq!(rig.ask(SET, 0, &[(SET_KEY, b"a"), (SET_VALUE, b"1")]).0, OK);
        assert_eq!(rig.nth(0, 0), Some(("a".to_owned(), "1".to_owned())));
        assert_eq!(rig.nth(0, 1), Some(("b".to_owned(), "two".to_owned())));
        assert_eq!((rig.nth(0, 2), rig.nth(1, 0)), (None, None));
        let (status, answer) = rig.ask(GET, 0, &[(SET_KEY, b"b")]);
        assert_eq!((status, until_zero(&answer[ENUMERATED_VALUE..])), (OK, &b"two"[..]));
        assert_eq!(rig.ask(GET, 0, &[(SET_KEY, b"c")]).0, NO_MORE);
        assert_eq!(rig.ask(DELETE, 0, &[(DELETE_KEY, b"a")]).0, OK);
        assert_eq!(rig.ask(DELETE, 0, &[(DELETE_KEY, b"a")]).0, NO_MORE);
        assert_eq!(rig.nth(0, 0), Some(("b".to_owned(), "two".to_owned())));
    }

    #[test]
    fn the_guest_tells_of_itself() {
        let mut rig = rig();
        let mut version = vec![0; LENGTH];
        version[INDEX..INDEX + 3].copy_from_slice(b"3.1");
        rig.service.registered(&version);
        let facts: Vec<_> = (0..20).map_while(|index| rig.nth(AUTO, index)).collect();
        let names: Vec<_> = facts.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names[..2], ["FullyQualifiedDomainName", "IntegrationServicesVersion"]);
        assert_eq!((facts[1].1.as_str(), names.len()), ("3.1", 10));
    }

    #[test]
    fn what_nobody_knows_is_refused_and_what_is_too_short_is_no_request() {
        let mut rig = rig();
        assert_eq!(rig.ask(77, 0, &[]).0, FAILED);
        assert_eq!(rig.ask(SET, 9, &[(SET_KEY, b"a")]).0, FAILED);
        assert_eq!(rig.ask(GET_ADDRESSES, 0, &[(4, b"no such adapter")]).0, FAILED);
        assert_eq!(rig.ask(SET_ADDRESSES, 0, &[(4, b"no such adapter")]).0, NO_ADAPTER);
        assert_eq!(rig.service.answer(&[SET; LENGTH - 1]), None);
        // Fields without a zero are used up to their ends.
        assert_eq!(rig.ask(SET, 1, &[(SET_KEY, &[b'k'; KEY]), (SET_VALUE, &[b'v'; VALUE])]).0, OK);
        let (key, value) = rig.nth(1, 0).unwrap();
        assert_eq!((key.len(), value.len()), (KEY - 1, VALUE - 1));
    }

    #[test]
    fn a_pool_that_is_full_takes_no_further_pair_but_gives_room_for_one() {
        let mut rig = rig();
        let pool = File::options().write(true).open(rig.service.folder.join(".kvp_pool_0")).unwrap();
        pool.set_len(4096 * (KEY + VALUE) as u64).unwrap();
        pool.write_all_at(b"last", 4095 * (KEY + VALUE) as u64).unwrap();
        assert_eq!(rig.ask(SET, 0, &[(SET_KEY, b"new"), (SET_VALUE, b"1")]).0, FAILED);
        assert_eq!(rig.ask(SET, 0, &[(SET_KEY, b"last"), (SET_VALUE, b"1")]).0, OK);
        assert_eq!(rig.ask(DELETE, 0, &[(DELETE_KEY, b"last")]).0, OK);
        assert_eq!(rig.ask(SET, 0, &[(SET_KEY, b"new"), (SET_VALUE, b"2")]).0, OK);
        assert_eq!(rig.ask(SET, 0, &[(SET_KEY, b"more"), (SET_VALUE, b"1")]).0, FAILED);
        assert_eq!(pool.metadata().unwrap().len(), 4096 * (KEY + VALUE) as u64);
    }
}
