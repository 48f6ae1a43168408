//! What the prover says, against the interpreter.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| capwarden_fuzz::prover(data));
