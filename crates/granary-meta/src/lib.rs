//! Commands, deterministic apply, the index, the log, checkpoints. Row 2.

pub mod command;
pub mod records;
