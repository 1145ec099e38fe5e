//! See `granary_fuzz::targets::form`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| granary_fuzz::targets::form(data));
