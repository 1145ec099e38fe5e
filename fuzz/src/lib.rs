//! The fuzz targets' library: the same files that `crates/granary-s3/tests/fuzz` drives without a fuzzer.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::type_complexity)]

#[path = "../../crates/granary-s3/tests/front/client.rs"]
mod client;
#[path = "../../crates/granary-s3/tests/front/harness.rs"]
mod harness;
#[path = "../../crates/granary-s3/tests/front/sign.rs"]
mod sign;
#[path = "../../crates/granary-s3/tests/fuzz/targets.rs"]
pub mod targets;
#[path = "../../crates/granary-s3/tests/front/twin.rs"]
mod twin;
