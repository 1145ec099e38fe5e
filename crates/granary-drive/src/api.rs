//! The contract between a drive and those above it. A local drive, another node's drive, the memory
//! twin and the fault-injecting twin all implement [`ShardStore`]; one conformance suite runs on all.
//!
//! A drive knows nothing of S3: it keeps *shards*, opaque sealed bytes with a self-describing header.

use bytes::Bytes;
use futures::future::BoxFuture;
use granary_types::{DriveId, ErrorKind, Scheme, ShardId};
use serde::{Deserialize, Serialize};

use crate::buf::AlignedBytes;

/// What a shard is, said when it is created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardSpec {
    /// Which shard.
    pub shard: ShardId,
    /// The scheme its part is coded with.
    pub scheme: Scheme,
    /// Plaintext bytes of the whole part (with `scheme`, this fixes the layout).
    pub payload_bytes: u64,
    /// Exact bytes of this shard on disk; a multiple of 4096. Space for it is reserved by `create`.
    pub shard_bytes: u64,
}

/// What is known of a stored shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardInfo {
    /// What was said when it was created.
    pub spec: ShardSpec,
    /// When it was committed, microseconds since the epoch (for the orphan sweep's grace period).
    pub committed_us: u64,
}

/// What `verify` found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VerifyReport {
    /// Bytes read and checked.
    pub checked_bytes: u64,
    /// Offsets (in the shard, multiples of 64 KiB) of chunks whose CRC-32C did not match or that could not be read.
    pub bad_chunks: Vec<u64>,
    /// The self-describing header could not be read back as written.
    pub header_bad: bool,
}

impl VerifyReport {
    /// Whether nothing was wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.bad_chunks.is_empty() && !self.header_bad
    }
}

/// Whether a drive can be used, and for what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DriveHealth {
    /// Reads and writes.
    Online,
    /// Reads and frees only: the space left is the reserve.
    Full,
    /// Reads at best; no writes until it is reopened and checked. Says why.
    Poisoned(String),
    /// Gone: not mounted, or removed under us. Says why.
    Offline(String),
}

impl DriveHealth {
    /// Whether new shards may be created.
    #[must_use]
    pub const fn writable(&self) -> bool {
        matches!(self, Self::Online)
    }

    /// Whether reads are worth trying.
    #[must_use]
    pub const fn readable(&self) -> bool {
        !matches!(self, Self::Offline(_))
    }
}

/// A drive's space, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DriveSpace {
    /// Of the file system, or of the configured limit.
    pub total_bytes: u64,
    /// Held by committed and in-flight shards, headers included.
    pub used_bytes: u64,
    /// Still allocatable for shards, the reserve left out.
    pub free_bytes: u64,
    /// Kept back so that deletes, metadata and shutdown work on a full drive.
    pub reserve_bytes: u64,
}

/// Errors of a drive.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DriveError {
    /// No such shard here.
    #[error("shard {0} is not on this drive")]
    NotFound(ShardId),
    /// The shard exists already; ids are never reused.
    #[error("shard {0} is on this drive already")]
    Exists(ShardId),
    /// A range outside the shard, a length that is not aligned, more or fewer bytes than announced.
    #[error("{0}")]
    Invalid(String),
    /// Too little space, the reserve left out.
    #[error("drive {drive} is full: {wanted_bytes} bytes wanted, {free_bytes} free beside the reserve")]
    Full {
        /// Which drive.
        drive: DriveId,
        /// Bytes asked for.
        wanted_bytes: u64,
        /// Bytes left.
        free_bytes: u64,
    },
    /// A checksum did not match; the bytes must not be used.
    #[error("shard {shard} is corrupt at offset {offset}")]
    Corrupt {
        /// Which shard.
        shard: ShardId,
        /// Where in it.
        offset: u64,
    },
    /// After a failed sync: no writes until reopened.
    #[error("drive {drive} takes no writes: {why}")]
    Poisoned {
        /// Which drive.
        drive: DriveId,
        /// What happened.
        why: String,
    },
    /// The drive is gone.
    #[error("drive {drive} is offline: {why}")]
    Offline {
        /// Which drive.
        drive: DriveId,
        /// What happened.
        why: String,
    },
    /// What the operating system answered.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The system's error.
        source: std::sync::Arc<std::io::Error>,
    },
    /// A record on the drive makes no sense (format, version, foreign ids).
    #[error("{0}")]
    Format(String),
}

impl DriveError {
    /// The small kind.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Exists(_) => ErrorKind::Conflict,
            Self::Invalid(_) => ErrorKind::Invalid,
            Self::Full { .. } | Self::Poisoned { .. } | Self::Offline { .. } => ErrorKind::Unavailable,
            Self::Corrupt { .. } | Self::Format(_) => ErrorKind::Corrupt,
            Self::Io { .. } => ErrorKind::Internal,
        }
    }
}

/// The result of drive calls.
pub type Result<T> = std::result::Result<T, DriveError>;

/// A drive as those above see it.
///
/// # Contract
/// - `commit` returns only when the shard's bytes, header and findability survive power loss. Concurrent
///   commits share one sync. Before `commit` returns, the shard is invisible to `read`, `scan` and recovery
///   *may* still find it after a crash (an orphan, which the sweep above removes).
/// - A dropped writer, or one whose future is dropped, frees its space; no buffer is touched after free.
/// - `read` returns exactly the bytes that were appended, or an error; it does not check CRCs (chunks carry
///   their own tags). `read_verified` does, and fails with `Corrupt` on any mismatch.
/// - `free` is idempotent, durable only lazily (a freed shard may reappear after a crash), and space is
///   reused only when no read begun before it is still running and no crash can bring the old index back.
/// - After a failed sync the drive is poisoned: every later `create`, `append`, `commit` fails.
pub trait ShardStore: Send + Sync + 'static {
    /// The drive's identity.
    fn id(&self) -> DriveId;

    /// Whether it can be used.
    fn health(&self) -> DriveHealth;

    /// Its space.
    fn space(&self) -> DriveSpace;

    /// Reserves space for a shard and returns its writer.
    fn create(&self, spec: ShardSpec) -> BoxFuture<'_, Result<Box<dyn ShardWriter>>>;

    /// Bytes `offset..offset + len_bytes` of a committed shard; both multiples of 4096.
    fn read(&self, shard: ShardId, offset: u64, len_bytes: usize) -> BoxFuture<'_, Result<crate::buf::AlignedBuf>>;

    /// As `read`, checking the CRC-32C of every 64 KiB chunk touched (offset a multiple of 64 KiB).
    fn read_verified(
        &self,
        shard: ShardId,
        offset: u64,
        len_bytes: usize,
    ) -> BoxFuture<'_, Result<crate::buf::AlignedBuf>>;

    /// What is known of one shard, with the sealed metadata given to `commit`.
    fn header(&self, shard: ShardId) -> BoxFuture<'_, Result<(ShardInfo, Bytes)>>;

    /// Removes shards; those not here are passed over.
    fn free(&self, shards: Vec<ShardId>) -> BoxFuture<'_, Result<()>>;

    /// Up to `limit` committed shards with ids after `after`, in id order.
    fn scan(&self, after: Option<ShardId>, limit: usize) -> BoxFuture<'_, Result<Vec<ShardInfo>>>;

    /// Reads a whole shard and checks every CRC and the header.
    fn verify(&self, shard: ShardId) -> BoxFuture<'_, Result<VerifyReport>>;

    /// Stops taking writes, finishes what runs, flushes the drive's index.
    fn close(&self) -> BoxFuture<'_, Result<()>>;
}

/// A shard being written.
pub trait ShardWriter: Send {
    /// Writes the next bytes (a multiple of 4096). Offsets are assigned when this is *called*, in call
    /// order; the returned future may be polled with others in any order. Not durable yet. `crcs`: the CRC-32C of
    /// every 64 KiB of `data`, where the caller took them while the bytes were warm; the drive takes its own where
    /// they are not given (empty) or do not fit its chunks. Wrong ones are found by `read_verified`.
    fn append(&mut self, data: AlignedBytes, crcs: &[u32]) -> BoxFuture<'static, Result<()>>;

    /// Seals the shard: all appends must have completed and sum to `shard_bytes`. `sealed_meta` (at most
    /// 8 KiB) goes into the self-describing header. Durable when the future resolves.
    fn commit(self: Box<Self>, sealed_meta: Bytes) -> BoxFuture<'static, Result<()>>;
}
