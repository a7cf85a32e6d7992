//! What guests send to the user-mode NAT.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| network::nat::fuzzing::frames(data));
