//! SCSI commands to a disk and to an optical drive.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| storage::scsi::fuzz_cdb(data));
