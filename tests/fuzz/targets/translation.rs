//! Programs on packets, three times.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| capwarden_fuzz::translation(data));
