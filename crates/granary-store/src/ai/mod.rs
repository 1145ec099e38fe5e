//! What AI teams would otherwise build around an object store: members of tar shards, batches of reads, the latest
//! checkpoint. All of it stands on [`crate::ObjectStore`], so every check, conditional read and verification
//! of a plain GET holds here too. What each does for a client is in `docs/ai.md`.

pub mod batch;
pub mod dataset;
pub mod epoch;
pub mod error;
pub mod keeper;
pub mod latest;
pub mod manifest;
mod open_shards;
pub mod shard;
pub mod shard_cache;
pub mod source;
pub mod tar;
pub mod tar_out;
pub mod warm;

pub use error::AiError;
