//! See `granary_fuzz::targets::policy`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| granary_fuzz::targets::policy(data));
