#![no_main]
//! See `granary_fuzz::targets::sigv4`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| granary_fuzz::targets::sigv4(data));
