//! Checkpoints: the index as it was at one position, on as many drives as the log.
//!
//! A checkpoint is complete on a drive once its manifest is there, which is written last. The log is cut only up to
//! what every checkpoint folder holds, so index and log can be lost on any `m` drives at once.

mod copy;
pub(crate) mod folder;
pub(crate) mod make;
pub(crate) mod manifest;
pub(crate) mod restore;
