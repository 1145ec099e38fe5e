#![no_main]
//! See `granary_fuzz::targets::policy`.
libfuzzer_sys::fuzz_target!(|data: &[u8]| granary_fuzz::targets::policy(data));
