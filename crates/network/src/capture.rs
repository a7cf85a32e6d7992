//! What goes through a port, written into a file for Wireshark and tcpdump (pcap).
//!
//! draft-ietf-opsawg-pcap, "PCAP Capture File Format".

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::frame::Frame;

/// The first word, of files with times in nanoseconds and in microseconds.
const NANOSECONDS: u32 = 0xa1b2_3c4d;
const MICROSECONDS: u32 = 0xa1b2_c3d4;
/// Version 2.4.
const VERSION: u32 = 2 | 4 << 16;
/// Bytes of a frame at the most, as tcpdump has it.
const LONGEST: u32 = 262_144;
/// What is captured: Ethernet.
const ETHERNET: u32 = 1;

struct Open {
    name: PathBuf,
    /// Nothing after an error.
    file: Mutex<Option<File>>,
}

fn words<const N: usize>(words: [u32; N]) -> Vec<u8> {
    words.map(u32::to_ne_bytes).concat()
}

/// A file for what goes through a port. Clones are the same one.
#[derive(Clone)]
pub struct Capture(Arc<Open>);

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Capture").field(&self.0.name).finish()
    }
}

impl Capture {
    /// Begins a file, in place of an older one of this kind.
    ///
    /// # Errors
    /// When it cannot be written, or is there and of another kind: it stays as it is then.
    pub fn create(file: &Path) -> io::Result<Self> {
        let mut opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(file)?;
        let mut magic = Vec::new();
        (&mut opened).take(4).read_to_end(&mut magic)?;
        let word = magic.first_chunk().map(|&bytes| [u32::from_le_bytes(bytes), u32::from_be_bytes(bytes)]);
        let known = |word: &u32| matches!(*word, NANOSECONDS | MICROSECONDS);
        if !magic.is_empty() && !word.is_some_and(|orders| orders.iter().any(known)) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "is there already, and no capture"));
        }
        opened.set_len(0)?;
        opened.rewind()?;
        opened.write_all(&words([NANOSECONDS, VERSION, 0, 0, LONGEST, ETHERNET]))?;
        Ok(Self(Arc::new(Open { name: file.to_owned(), file: Mutex::new(Some(opened)) })))
    }

    /// Writes a frame. After an error, which is told once, nothing is written any more.
    pub(crate) fn write(&self, frame: &Frame) {
        let mut slot = self.0.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = &mut *slot else { return };
        // What is to be cut has no length yet that a reader would understand.
        let whole = frame.segments.and_then(|_| frame.clone().coalesce());
        let data = &whole.as_ref().unwrap_or(frame).data;
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let length = data.len() as u32;
        let kept = data.get(..data.len().min(LONGEST as usize)).unwrap_or_default();
        let header = words([time.as_secs() as u32, time.subsec_nanos(), kept.len() as u32, length]);
        // At once: whoever reads along, or ends the process, has it.
        if let Err(error) = file.write_all(&[&header, kept].concat()) {
            tracing::error!(file = %self.0.name.display(), %error, "capture ends");
            *slot = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use pcap_file::pcap::PcapReader;

    use super::*;

    fn packets(file: &Path) -> Vec<Vec<u8>> {
        let mut reader = PcapReader::new(File::open(file).unwrap()).unwrap();
        let mut packets = Vec::new();
        while let Some(packet) = reader.next_packet() {
            packets.push(packet.unwrap().data.into_owned());
        }
        packets
    }

    #[test]
    fn frames_are_there_as_soon_as_they_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.pcap");
        let capture = Capture::create(&file).unwrap();
        capture.write(&Frame::new(vec![1; 60]));
        assert_eq!(packets(&file), [[1; 60]]);
        capture.write(&Frame::new(vec![2; 60]));
        assert_eq!(packets(&file), [[1; 60], [2; 60]]);
        // A new one takes its place.
        Capture::create(&file).unwrap();
        assert!(packets(&file).is_empty());
    }

    #[test]
    fn other_files_stay_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("letter");
        std::fs::write(&file, "Dear").unwrap();
        assert!(Capture::create(&file).is_err());
        assert_eq!(std::fs::read(&file).unwrap(), b"Dear");
        assert!(Capture::create(&folder.path().join("none/a.pcap")).is_err());
    }
}
