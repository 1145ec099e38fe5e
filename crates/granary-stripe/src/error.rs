//! What can go wrong with a part.

use granary_drive::api::DriveError;
use granary_types::{ErrorKind, PartId};

/// The result of calls on parts.
pub type Result<T> = std::result::Result<T, StripeError>;

/// Errors of a part.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StripeError {
    /// Too few drives can be written to, or read from, just now.
    #[error("{what}: {have} drives can be used, {need} are needed")]
    Unavailable {
        /// What was being done.
        what: &'static str,
        /// Drives that can be used.
        have: usize,
        /// Drives that are needed.
        need: usize,
    },
    /// Too few drives have space left.
    #[error("the drives are full: {have} have {shard_bytes} bytes left, {need} are needed")]
    Full {
        /// Drives with space.
        have: usize,
        /// Drives needed.
        need: usize,
        /// Space wanted on each, in bytes.
        shard_bytes: u64,
    },
    /// More shards are lost or damaged than parity can make good.
    #[error("part {part}, stripe {stripe}: {have} good blocks, {need} are needed")]
    Corrupt {
        /// Which part.
        part: PartId,
        /// Which of its stripes.
        stripe: u64,
        /// Blocks that could be read and whose checksums match.
        have: usize,
        /// Blocks needed.
        need: usize,
    },
    /// Enough blocks have good checksums, but what they decode to fails its tag, whichever are taken.
    #[error("part {part}, chunk {chunk}: no combination of blocks gives an authentic chunk")]
    Unauthentic {
        /// Which part.
        part: PartId,
        /// Which chunk.
        chunk: u64,
    },
    /// Blocks with good checksums contradict each other, and without keys it cannot be told which is wrong:
    /// reading the part (tags tell) finds out, and repair is then told the suspects.
    #[error("part {part}, stripe {stripe}: blocks with good checksums contradict each other")]
    Inconsistent {
        /// Which part.
        part: PartId,
        /// Which of its stripes.
        stripe: u64,
    },
    /// A repaired shard did not read back as it should.
    #[error("part {part}, shard {index}: what repair wrote does not verify")]
    Unverified {
        /// Which part.
        part: PartId,
        /// Which shard.
        index: u8,
    },
    /// An argument out of bounds, or calls in the wrong order; says which.
    #[error("{0}")]
    Invalid(String),
    /// A drive's error that nothing could make good.
    #[error(transparent)]
    Drive(#[from] DriveError),
}

impl StripeError {
    /// The small kind.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Unavailable { .. } | Self::Full { .. } => ErrorKind::Unavailable,
            Self::Corrupt { .. } | Self::Unauthentic { .. } | Self::Inconsistent { .. } | Self::Unverified { .. } => {
                ErrorKind::Corrupt
            }
            Self::Invalid(_) => ErrorKind::Invalid,
            Self::Drive(error) => error.kind(),
        }
    }
}
