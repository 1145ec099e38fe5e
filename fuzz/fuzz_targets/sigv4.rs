//! See `granary_fuzz::targets::sigv4`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| granary_fuzz::targets::sigv4(data));
