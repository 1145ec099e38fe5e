//! What can go wrong in the reads for AI work.

use crate::ai::tar::TarError;
use crate::error::StoreError;

/// Errors of member reads, batches and checkpoint look-ups.
#[derive(Debug, thiserror::Error)]
pub enum AiError {
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The object is no tar file that members can be read from.
    #[error("the object is not a shard that members can be read from: {0}")]
    Shard(#[from] TarError),
    /// The shard has no member of that name.
    #[error("the shard has no member `{0}`")]
    NoSuchMember(String),
    /// The shard has several members of that name.
    #[error(
        "the shard has {count} members named `{name}`: list them with ?granary-members and read one by its byte range"
    )]
    Ambiguous {
        /// The name.
        name: String,
        /// How many have it.
        count: usize,
    },
    /// The index of the shard would take more memory than one shard may.
    #[error(
        "the shard has too many members for an index in memory (over {index_bytes_max} bytes): list it with ?granary-members, \
         which pages without an index, and read members by their byte ranges"
    )]
    TooManyMembers {
        /// Bytes that one index may take.
        index_bytes_max: u64,
    },
    /// The object was overwritten again and again while it was being read.
    #[error("the object changed while it was being read; try again")]
    Changed,
    /// An argument that cannot be; says which, and what would be right.
    #[error("{0}")]
    Invalid(String),
    /// A batch behind the epoch's end.
    #[error("the epoch has {batches} batches for this rank, numbered from 0: there is no batch {batch}")]
    NoSuchBatch {
        /// What was asked for.
        batch: u64,
        /// How many there are.
        batches: u64,
    },
    /// Nothing below the prefix is a complete checkpoint.
    #[error("there is no complete checkpoint under `{prefix}`{seen}")]
    NoCheckpoint {
        /// Where was looked.
        prefix: String,
        /// What was there instead, if anything.
        seen: String,
    },
}
