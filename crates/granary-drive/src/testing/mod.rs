//! Twins and the conformance suite, for the tests of this crate and of those above (feature `testing`).
//!
//! - [`MemoryDrive`]: a [`crate::ShardStore`] without files.
//! - [`FaultDrive`]: wraps any shard store and makes chosen calls fail, wait, or flip bits.
//! - [`SimEngine`]: an [`crate::io::IoEngine`] whose unsynced writes are lost, torn and reordered by a crash.
//! - [`conformance`]: what every shard store must do.

pub mod conformance;
mod fault;
mod memory;
mod sim;

pub use fault::{Fault, FaultDrive, FaultOp};
pub use memory::MemoryDrive;
pub use sim::{CrashStyle, SimEngine};
