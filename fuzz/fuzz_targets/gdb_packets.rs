//! What a debugger sends.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gdb::fuzzing::packets(data));
