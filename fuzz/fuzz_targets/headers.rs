#![no_main]
//! See `granary_fuzz::targets::headers`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| granary_fuzz::targets::headers(data));
