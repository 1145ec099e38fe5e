//! Twins and the conformance suite, for the tests of this crate and of those above (feature `testing`).
//!
//! - [`MemoryDrive`]: a [`crate::ShardStore`] without files.

mod memory;

pub use memory::MemoryDrive;
