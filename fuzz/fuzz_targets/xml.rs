#![no_main]
//! See `granary_fuzz::targets::xml`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| granary_fuzz::targets::xml(data));
