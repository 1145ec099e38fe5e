//! Small records that only the index keeps. As in `records.rs`, fields are only ever appended.

use granary_types::{BucketId, Checksum, DriveId, DriveNo, ObjectKey, Timestamp, VersionId};
use serde::{Deserialize, Serialize};

/// What a bucket holds, kept in step by `apply`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Keys whose current version is an object.
    pub objects: u64,
    /// Versions, delete markers among them.
    pub versions: u64,
    /// Payload bytes of all versions.
    pub bytes: u64,
    /// Open multipart uploads.
    pub uploads: u64,
    /// Payload bytes of the parts of open uploads.
    pub upload_bytes: u64,
}

/// What a bucket's parts made of shared blocks hold, kept in step by `apply`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BlockUsage {
    /// Payload bytes of the parts: what clients see.
    pub logical_bytes: u64,
    /// Payload bytes of the blocks: what is stored, before parity.
    pub stored_bytes: u64,
    /// The blocks, those without a use among them.
    pub blocks: u64,
}

/// A row of the drive table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveEntry {
    /// Its number, used in placements.
    pub number: DriveNo,
    /// Its identity.
    pub drive: DriveId,
    /// Gone for good: takes no new placements.
    pub retired: bool,
}

/// Where an open upload's record is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UploadHead {
    pub bucket: BucketId,
    pub key: ObjectKey,
    pub created: Timestamp,
}

/// What a completed upload was answered, so that a repeat gets the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Completion {
    pub bucket: BucketId,
    pub key: ObjectKey,
    /// MD5 over the encoded list of parts.
    pub parts_digest: [u8; 16],
    pub version: VersionId,
    pub created: Timestamp,
    pub etag: String,
    pub checksum: Option<Checksum>,
    pub size_bytes: u64,
    /// Its place in the queue.
    pub at: Timestamp,
}

/// A target's queue of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EventQueue {
    /// Events that wait.
    pub count: u64,
    /// Events that were dropped, oldest first, because too many waited.
    pub dropped: u64,
}

/// What a client token stood for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TokenUse {
    pub bucket: BucketId,
    pub source: ObjectKey,
    pub destination: ObjectKey,
}
