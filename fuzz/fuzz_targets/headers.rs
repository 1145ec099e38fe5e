//! See `granary_fuzz::targets::headers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| granary_fuzz::targets::headers(data));
