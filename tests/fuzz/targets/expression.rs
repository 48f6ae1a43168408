//! Text, through libpcap.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| capwarden_fuzz::expression(data));
