//! See `granary_fuzz::targets::chunked`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| granary_fuzz::targets::chunked(data));
