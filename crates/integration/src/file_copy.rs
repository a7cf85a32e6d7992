//! File copy: the host puts a file into the guest.
//!
//! A program of the guest writes it: `hv_fcopy_daemon` behind the kernel's driver, or `hv_fcopy_uio_daemon`, which has
//! the channel itself (Linux 6.10).
//!
//! Linux `include/uapi/linux/hyperv.h` (`hv_start_fcopy`, `hv_do_fcopy`), `drivers/hv/hv_fcopy.c`.

use std::io::Read;

use vmbus::Guid;

use crate::conversation::Service;
use crate::message::{MessageType, STATUS_OK, Version};
use crate::text;
use crate::wishes::{Asked, Outcome, Wishes};

pub(crate) const INTERFACE: Guid =
    Guid::new(0x34d1_4be3, 0xdee4, 0x41c8, [0x9a, 0xe7, 0x6b, 0x17, 0x49, 0x77, 0xc1, 0x92]);
pub(crate) const INSTANCE: Guid =
    Guid::new(0xeb76_5408, 0x105f, 0x49b6, [0xb4, 0xaa, 0xc1, 0x23, 0xb6, 0x4d, 0x17, 0xd4]);

/// Operations.
const START: u32 = 0;
const WRITE: u32 = 1;
const COMPLETE: u32 = 2;
const CANCEL: u32 = 3;
/// A file that is there is overwritten.
const OVERWRITE: u32 = 1;
/// Folders that are missing are made.
const CREATE_PATH: u32 = 2;
/// The guest has such a file.
pub(crate) const STATUS_EXISTS: u32 = 0x8007_0050;
/// The guest's disk is full.
pub(crate) const STATUS_DISK_FULL: u32 = 0x8007_0070;

/// Bytes of a name, in UTF-16 with its terminating zero, and of data in a message.
const NAME: usize = 520;
const FRAGMENT: usize = 6 << 10;
/// The longest name of a file and of a folder, in units of UTF-16. Linux keeps each, in UTF-8, where it came.
pub(crate) const NAME_UNITS: usize = NAME / 2 - 1;
/// Bytes of an operation and two identifiers that nobody uses.
const HEADER: usize = 36;

/// A file for the guest.
pub(crate) struct Wish {
    /// Its name, and the folder it goes to.
    pub name: String,
    pub folder: String,
    pub size: u64,
    pub contents: Box<dyn Read + Send>,
    /// Whether a file that is there is overwritten.
    pub overwrite: bool,
}

enum Step {
    Begun,
    /// So much has been sent.
    Written(u64),
    Completed,
    /// The guest is told to forget the file, for this reason.
    Cancelled(Outcome),
}

/// The service.
#[derive(Default)]
pub(crate) struct FileCopyService {
    wishes: Wishes<Wish>,
    current: Option<(Wish, Step)>,
    abandoned: bool,
    fragment: Vec<u8>,
}

impl Asked for FileCopyService {
    type Wish = Wish;

    fn wishes(&mut self) -> &mut Wishes<Wish> {
        &mut self.wishes
    }

    fn abandon(&mut self) {
        self.abandoned = true;
    }
}

impl FileCopyService {
    /// The next message about the file that the guest has taken `sent` bytes of.
    fn go_on(&mut self, mut wish: Wish, sent: u64) -> Vec<u8> {
        if std::mem::take(&mut self.abandoned) {
            return self.cancel(wish, Outcome::Gone);
        }
        if sent == wish.size {
            self.current = Some((wish, Step::Completed));
            return message(COMPLETE);
        }
        let length = (wish.size - sent).min(FRAGMENT as u64) as usize;
        self.fragment.clear();
        self.fragment.resize(FRAGMENT, 0);
        if let Err(error) = wish.contents.read_exact(&mut self.fragment[..length]) {
            return self.cancel(wish, Outcome::Failed(error.to_string()));
        }
        let mut body = message(WRITE);
        body.extend([0; 4]);
        body.extend(sent.to_le_bytes());
        body.extend((length as u32).to_le_bytes());
        body.extend(&self.fragment);
        self.current = Some((wish, Step::Written(sent + length as u64)));
        body
    }

    fn cancel(&mut self, wish: Wish, outcome: Outcome) -> Vec<u8> {
        self.current = Some((wish, Step::Cancelled(outcome)));
        message(CANCEL)
    }
}

impl Service for FileCopyService {
    const MESSAGE: MessageType = MessageType::FILE_COPY;
    const VERSIONS: &'static [Version] = &[Version::new(1, 1)];

    fn begin(&mut self, _: Version, _: u64) {}

    fn request(&mut self, _: u64) -> Option<Vec<u8>> {
        match self.current.take() {
            Some((wish, Step::Begun)) => Some(self.go_on(wish, 0)),
            Some((wish, Step::Written(sent))) => Some(self.go_on(wish, sent)),
            Some((wish, Step::Cancelled(outcome))) => Some(self.cancel(wish, outcome)),
            Some((_, Step::Completed)) | None => {
                let wish = self.wishes.begin()?;
                self.abandoned = false;
                let body = start(&wish);
                self.current = Some((wish, Step::Begun));
                Some(body)
            }
        }
    }

    fn due(&self) -> Option<u64> {
        self.current.is_some().then_some(0)
    }

    fn answer(&mut self, status: u32, _: &[u8], _: u64) {
        let outcome = match self.current.take() {
            Some((_, Step::Cancelled(outcome))) => outcome,
            Some((_, Step::Begun | Step::Completed)) if status != STATUS_OK => Outcome::Refused(status),
            Some((_, Step::Completed)) | None => Outcome::of(status),
            // What is there of the file is to go.
            Some((wish, Step::Written(_))) if status != STATUS_OK => {
                self.current = Some((wish, Step::Cancelled(Outcome::Refused(status))));
                return;
            }
            going_on => {
                self.current = going_on;
                return;
            }
        };
        self.wishes.settle(outcome);
    }

    fn end(&mut self) {
        self.current = None;
        self.wishes.end();
    }
}

fn message(operation: u32) -> Vec<u8> {
    let mut body = operation.to_le_bytes().to_vec();
    body.resize(HEADER, 0);
    body
}

fn start(wish: &Wish) -> Vec<u8> {
    let mut body = message(START);
    body.extend(text::field(&wish.name, NAME).0);
    body.extend(text::field(&wish.folder, NAME).0);
    let flags = CREATE_PATH | if wish.overwrite { OVERWRITE } else { 0 };
    body.extend(flags.to_le_bytes());
    body.extend(wish.size.to_le_bytes());
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(data: &[u8], size: u64) -> Wish {
        let contents = Box::new(std::io::Cursor::new(data.to_vec()));
        Wish { name: "file".to_owned(), folder: "/tmp".to_owned(), size, contents, overwrite: false }
    }

    fn operation(body: &[u8]) -> u32 {
        u32::from_le_bytes(body[..4].try_into().unwrap())
    }

    #[test]
    fn a_file_goes_in_fragments_between_start_and_end() {
        let data: Vec<u8> = (0..10_000_u32).map(|n| n as u8).collect();
        let mut service = FileCopyService::default();
        let number = service.wishes.add(wish(&data, data.len() as u64));
        let (mut got, mut operations) = (Vec::<u8>::new(), Vec::new());
        while let Some(body) = service.request(0) {
            operations.push(operation(&body));
            if operation(&body) == WRITE {
                let size = u32::from_le_bytes(body[48..52].try_into().unwrap()) as usize;
                assert_eq!(u64::from_le_bytes(body[40..48].try_into().unwrap()), got.len() as u64);
                assert_eq!(body.len(), 52 + FRAGMENT);
                got.extend(&body[52..52 + size]);
            }
            service.answer(0, &[], 0);
        }
        assert_eq!(operations, [START, WRITE, WRITE, COMPLETE]);
        assert_eq!(got, data);
        assert_eq!(service.wishes.outcome(number), Some(Outcome::Done));
    }

    #[test]
    fn a_file_that_is_there_is_left_alone() {
        let mut service = FileCopyService::default();
        let number = service.wishes.add(wish(&[1], 1));
        assert_eq!(service.request(0).unwrap().len(), HEADER + 2 * NAME + 12);
        service.answer(STATUS_EXISTS, &[], 0);
        assert_eq!(service.wishes.outcome(number), Some(Outcome::Refused(STATUS_EXISTS)));
        assert_eq!(service.request(0), None);
    }

    #[test]
    fn what_cannot_be_written_or_read_to_the_end_is_taken_back() {
        for (size, status, outcome) in [
            (1, STATUS_DISK_FULL, Outcome::Refused(STATUS_DISK_FULL)),
            (5, 0, Outcome::Failed("failed to fill whole buffer".to_owned())),
        ] {
            let mut service = FileCopyService::default();
            let number = service.wishes.add(wish(&[1], size));
            service.request(0);
            service.answer(0, &[], 0);
            if operation(&service.request(0).unwrap()) == WRITE {
                service.answer(status, &[], 0);
                assert_eq!(operation(&service.request(0).unwrap()), CANCEL);
            }
            service.answer(0, &[], 0);
            assert_eq!(service.wishes.outcome(number), Some(outcome));
            assert_eq!(service.request(0), None);
        }
    }

    #[test]
    fn a_copy_that_nobody_waits_for_is_cancelled() {
        let mut service = FileCopyService::default();
        service.wishes.add(wish(&[1; 10], 10));
        service.request(0);
        service.abandon();
        service.answer(0, &[], 0);
        assert_eq!(operation(&service.request(0).unwrap()), CANCEL);
        service.answer(0, &[], 0);
        assert_eq!(service.request(0), None);
    }
}
