//! The SCSI command sets of a disk (SBC-3) and an optical drive (MMC-6), on the primary commands of SPC-4.
//!
//! Pure: a [`LogicalUnit`] parses a command and either answers it at once, or says by an [`Io`] what is to
//! be done with the medium. The transport (StorVSP, ATAPI) moves the data, through a [`crate::DiskQueue`]
//! or the medium's own methods, and turns an error into sense by [`Sense::of_error`].
//!
//! ```text
//!  cdb, data-out ─▶ LogicalUnit::execute ─┬─▶ Good, with data-in in `reply`
//!                                         ├─▶ Check(Sense)
//!                                         └─▶ Io(Read | Write | Flush | …) ─▶ transport ─▶ Disk
//! ```
//!
//! Not emulated: reservations, log pages, protection information, target port groups, asynchronous events,
//! VERIFY with a comparison, UNMAP of more than one extent, audio and writing on optical media. Such
//! commands end with ILLEGAL REQUEST, as for a device without them.

mod cdb;
mod command;
mod disk;
mod dvd;
mod inquiry;
mod mode;
mod sense;
mod target;

pub use disk::DiskUnit;
pub use dvd::DvdUnit;
pub use sense::{Sense, SenseKey};
pub use target::Target;

use std::io;
use std::sync::Arc;

use crate::{Disk, GuestRange, Op};

/// Longest command descriptor block that is looked at.
pub const CDB_MAX: usize = 16;
/// Most bytes of data-out that [`parameter_bytes`] asks for.
pub const PARAMETERS_MAX: usize = 4096;
/// Most bytes that a reply can have.
pub const REPLY_MAX: usize = 64 * 1024;

/// How a command ends, or how it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// GOOD; data-in is in the reply, not longer than the command's allocation length.
    Good,
    /// CHECK CONDITION.
    Check(Sense),
    /// GOOD once this has been done with the medium.
    Io(Io),
}

impl From<Result<(), Sense>> for Outcome {
    fn from(result: Result<(), Sense>) -> Self {
        match result {
            Ok(()) => Self::Good,
            Err(sense) => Self::Check(sense),
        }
    }
}

/// What is to be done with the medium. Ranges are in bytes, checked against the medium's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Io {
    /// Data-in comes from the medium.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Data-out goes to the medium.
    Write {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// To stable storage.
        fua: bool,
    },
    /// The write cache goes to stable storage.
    Flush,
    /// The range gives its space back.
    Discard {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// The range becomes zeroes.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// Its space may be given back.
        unmap: bool,
        /// To stable storage.
        fua: bool,
    },
    /// Every block of the range becomes the one block of data-out: see [`fill`].
    Fill {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// To stable storage.
        fua: bool,
    },
}

impl Io {
    /// The request for a [`crate::DiskQueue`], with `ranges` of exactly [`Self::transfer`] bytes. `None` for
    /// [`Io::Fill`], which a queue does not know.
    pub fn op<'a>(&self, ranges: &'a [GuestRange]) -> Option<Op<'a>> {
        Some(match *self {
            Self::Read { offset, .. } => Op::Read { offset, ranges },
            Self::Write { offset, fua, .. } => Op::Write { offset, ranges, fua },
            Self::Flush => Op::Flush,
            Self::Discard { offset, len } => Op::Discard { offset, len },
            Self::WriteZeroes { offset, len, unmap, fua } => Op::WriteZeroes { offset, len, unmap, fua },
            Self::Fill { .. } => return None,
        })
    }

    /// Bytes that move between the guest and the medium.
    pub fn transfer(&self) -> u64 {
        match *self {
            Self::Read { len, .. } | Self::Write { len, .. } => len,
            _ => 0,
        }
    }
}

/// One logical unit. Any thread may execute commands, several at once.
pub trait LogicalUnit: Send + Sync {
    /// Carries out or begins `cdb`. `parameters` is the data-out as far as [`parameter_bytes`] asks for it.
    /// `reply` is emptied first; it receives the data-in of a command that ends with [`Outcome::Good`].
    fn execute(&self, cdb: &[u8], parameters: &[u8], reply: &mut Vec<u8>) -> Outcome;

    /// The medium that an [`Io`] is for; `None` for an empty drive.
    fn medium(&self) -> Option<Arc<dyn Disk>>;

    /// A reset of the unit by the guest: default mode parameters, removal allowed, and a unit attention.
    fn reset(&self);
}

/// Bytes of data-out that [`LogicalUnit::execute`] must see. 0 for commands without data-out and for those
/// whose data goes to the medium unseen.
pub fn parameter_bytes(cdb: &[u8]) -> usize {
    let cdb = cdb::Cdb(cdb);
    let len = match cdb.u8(0) {
        command::MODE_SELECT_6 => usize::from(cdb.u8(4)),
        command::MODE_SELECT_10 | command::UNMAP => usize::from(cdb.be16(7)),
        // One block, unless the command says that there is none.
        command::WRITE_SAME_10 => PARAMETERS_MAX,
        command::WRITE_SAME_16 if cdb.u8(1) & 1 == 0 => PARAMETERS_MAX,
        _ => 0,
    };
    len.min(PARAMETERS_MAX)
}

/// Carries out [`Io::Fill`]: `block` again and again.
///
/// # Errors
/// As [`Disk::write`].
pub fn fill(disk: &dyn Disk, offset: u64, len: u64, block: &[u8], fua: bool) -> io::Result<()> {
    let unit = disk.info().logical_block as usize;
    let block = block.get(..unit).ok_or(io::ErrorKind::InvalidInput)?;
    let chunk = block.repeat((64 * 1024 / unit).max(1));
    let mut done = 0;
    while done < len {
        let piece = (chunk.len() as u64).min(len - done);
        disk.write(offset + done, &[crate::Segment::for_writing(&chunk[..piece as usize])], fua)?;
        done += piece;
    }
    Ok(())
}

/// Puts the data-in of a REQUEST SENSE for `sense` into `reply`: for transports that keep the sense of the
/// last command themselves, such as ATAPI.
pub fn request_sense(cdb: &[u8], sense: Sense, reply: &mut Vec<u8>) {
    let cdb = cdb::Cdb(cdb);
    reply.clear();
    match cdb.u8(1) & 1 {
        0 => reply.extend_from_slice(&sense.fixed()),
        _ => reply.extend_from_slice(&sense.descriptor()),
    }
    reply.truncate(cdb.u8(4).into());
}

/// Runs one command on a disk and on a drive, with and without a medium, and checks what the units promise
/// of their outcome. For fuzzing: `data` is a CDB of 16 bytes followed by data-out.
///
/// # Panics
/// When a promise is broken.
pub fn fuzz_cdb(data: &[u8]) {
    let split = data.len().min(CDB_MAX);
    let (cdb, parameters) = data.split_at(split);
    let units: [&dyn LogicalUnit; 4] = [
        &DiskUnit::new(Arc::new(fuzzing::Nothing::disk(false))),
        &DiskUnit::new(Arc::new(fuzzing::Nothing::disk(true))),
        &DvdUnit::new(None),
        &DvdUnit::new(Some(Arc::new(fuzzing::Nothing::disc()))),
    ];
    let mut reply = Vec::new();
    for unit in units {
        let wanted = parameter_bytes(cdb).min(parameters.len());
        for _ in 0..2 {
            let outcome = unit.execute(cdb, &parameters[..wanted], &mut reply);
            assert!(reply.len() <= REPLY_MAX, "reply of {} bytes", reply.len());
            let size = unit.medium().map_or(0, |medium| medium.info().size);
            if let Outcome::Io(
                Io::Read { offset, len }
                | Io::Write { offset, len, .. }
                | Io::Discard { offset, len }
                | Io::WriteZeroes { offset, len, .. }
                | Io::Fill { offset, len, .. },
            ) = outcome
            {
                let end = offset.checked_add(len).expect("the end is a number");
                assert!(end <= size, "{offset}+{len} beyond the medium");
            }
        }
    }
}

mod fuzzing {
    //! A disk that has a size and no contents.

    use std::io;
    use std::sync::Arc;

    use guest_memory::GuestMemory;

    use crate::{Disk, DiskInfo, DiskQueue, Error, Segment};

    pub(super) struct Nothing(DiskInfo);

    impl Nothing {
        pub(super) fn disk(read_only: bool) -> Self {
            Self(DiskInfo {
                size: 10 << 20,
                logical_block: 512,
                physical_block: 4096,
                read_only,
                discard_granularity: 4096,
                identity: [0x5a; 16],
                serial: "fuzz".to_owned(),
            })
        }

        pub(super) fn disc() -> Self {
            let Self(info) = Self::disk(true);
            Self(DiskInfo { logical_block: 2048, physical_block: 2048, discard_granularity: 0, ..info })
        }
    }

    impl Disk for Nothing {
        fn info(&self) -> &DiskInfo {
            &self.0
        }

        fn read(&self, _: u64, _: &[Segment<'_>]) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn write(&self, _: u64, _: &[Segment<'_>], _: bool) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn flush(&self) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn write_zeroes(&self, _: u64, _: u64, _: bool, _: bool) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn queue(self: Arc<Self>, _: usize, _: &GuestMemory) -> Result<Box<dyn DiskQueue>, Error> {
            Err(Error::Queue(io::ErrorKind::Unsupported.into()))
        }
    }
}

#[cfg(test)]
mod tests;
