//! A pool: a file of records of a key and a value, each a text with zeroes behind it.
//!
//! Other programs of the guest read and write it as well, under a lock on all of it (`fcntl`), so nothing of it is kept, and
//! it is not held open either: what is written to may not be mounted read-only.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::fields::{put_text, until_zero};

/// Bytes of a key and of a value, the zero behind each included.
pub(crate) const KEY: usize = 512;
pub(crate) const VALUE: usize = 2048;
const RECORD: usize = KEY + VALUE;
/// The most records that are read, so that a file of any length does no harm.
const MOST: u64 = 4096;

/// A pool.
pub(crate) struct Pool {
    path: PathBuf,
}

/// The file of a pool while it is locked.
struct Records(File);

type Pair = (Vec<u8>, Vec<u8>);

impl Records {
    fn get(&self, index: u64) -> io::Result<Option<[u8; RECORD]>> {
        let mut record = [0; RECORD];
        match self.0.read_exact_at(&mut record, index * RECORD as u64) {
            Ok(()) => Ok(Some(record)),
            // What is left at the end is no record.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn put(&self, index: u64, record: &[u8; RECORD]) -> io::Result<()> {
        self.0.write_all_at(record, index * RECORD as u64)
    }

    fn count(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len() / RECORD as u64)
    }

    /// Where `key` is.
    fn find(&self, key: &[u8]) -> io::Result<Option<(u64, [u8; RECORD])>> {
        for index in 0..MOST {
            match self.get(index)? {
                Some(record) if until_zero(&record[..KEY]) == key => return Ok(Some((index, record))),
                Some(_) => {}
                None => break,
            }
        }
        Ok(None)
    }
}

impl Pool {
    /// The pool in the file `path`, which is made if there is none.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let pool = Self { path: path.to_owned() };
        pool.locked(libc::F_RDLCK, |_| Ok(()))?;
        Ok(pool)
    }

    /// Does something while no other program reads or writes.
    fn locked<T>(&self, kind: libc::c_int, f: impl FnOnce(&Records) -> io::Result<T>) -> Result<T> {
        let (l_type, l_whence) = (kind as libc::c_short, libc::SEEK_SET as libc::c_short);
        let request = libc::flock { l_type, l_whence, l_start: 0, l_len: 0, l_pid: 0 };
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o644);
        // Closing unlocks.
        let file = options.open(&self.path).and_then(|file| {
            fcntl(&file, FcntlArg::F_SETLKW(&request))?;
            Ok(file)
        });
        file.and_then(|file| f(&Records(file))).with_context(|| self.path.display().to_string())
    }

    /// The pair with that number.
    pub(crate) fn nth(&self, index: u32) -> Result<Option<Pair>> {
        let record = self.locked(libc::F_RDLCK, |records| records.get(index.into()))?;
        Ok(record.map(|record| {
            let (key, value) = record.split_at(KEY);
            (until_zero(key).to_vec(), until_zero(value).to_vec())
        }))
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let found = self.locked(libc::F_RDLCK, |records| records.find(key))?;
        Ok(found.map(|(_, record)| until_zero(&record[KEY..]).to_vec()))
    }

    /// Sets the value of a key, which may be new.
    pub(crate) fn set(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let mut new = [0; RECORD];
        put_text(&mut new[..KEY], key);
        put_text(&mut new[KEY..], value);
        self.locked(libc::F_WRLCK, |records| {
            let index = match records.find(until_zero(&new[..KEY]))? {
                Some((index, _)) => index,
                None if records.count()? >= MOST => return Err(io::Error::other("the pool is full")),
                None => records.count()?,
            };
            records.put(index, &new)
        })
    }

    /// Takes a pair away. False if there is none.
    pub(crate) fn delete(&self, key: &[u8]) -> Result<bool> {
        self.locked(libc::F_WRLCK, |records| {
            let Some((index, _)) = records.find(key)? else { return Ok(false) };
            let count = records.count()?;
            for later in index + 1..count {
                if let Some(record) = records.get(later)? {
                    records.put(later - 1, &record)?;
                }
            }
            records.0.set_len((count - 1) * RECORD as u64)?;
            Ok(true)
        })
    }
}
