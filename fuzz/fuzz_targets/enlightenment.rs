//! MSRs, hypercalls, SynIC pages and timers, by a guest that does whatever the input says.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| enlightenment::fuzzing::run(data));
