//! What can go wrong in the store. The S3 front door maps these to S3 codes in one exhaustive match.

use granary_drive::api::DriveError;
use granary_meta::command::Refusal;
use granary_types::{BucketName, ChecksumAlgorithm, ErrorKind, VersionId};

use crate::sse::SseError;
use crate::upstream::UpstreamError;

/// Errors of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The command was refused by the state machine.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No such bucket.
    #[error("no such bucket")]
    NoSuchBucket,
    /// No such key; `delete_marker` is the marker that hides it, if one does.
    #[error("no such key")]
    NoSuchKey {
        /// The current version, if it is a delete marker.
        delete_marker: Option<VersionId>,
    },
    /// No such version.
    #[error("no such version")]
    NoSuchVersion,
    /// The version asked for is a delete marker (405, `x-amz-delete-marker`).
    #[error("the version is a delete marker")]
    IsDeleteMarker {
        /// Its id.
        version: VersionId,
        /// When it was created.
        created: granary_types::Timestamp,
    },
    /// No such upload.
    #[error("no such upload")]
    NoSuchUpload,
    /// No such part (`partNumber=`).
    #[error("the object has no part {0}")]
    NoSuchPart(u32),
    /// A read precondition failed (412); names the header.
    #[error("precondition {0} failed")]
    Precondition(&'static str),
    /// `If-None-Match` or `If-Modified-Since` says the client has it (304).
    #[error("not modified")]
    NotModified {
        /// Current ETag, for the header.
        etag: String,
        /// `Last-Modified`.
        created: granary_types::Timestamp,
        /// Version to show.
        version: Option<VersionId>,
    },
    /// The range lies outside the object (416).
    #[error("the range is outside the object's {size_bytes} bytes")]
    InvalidRange {
        /// The object's size.
        size_bytes: u64,
    },
    /// Body shorter or longer than announced.
    #[error("the body had {got_bytes} bytes, {want_bytes} were announced")]
    IncompleteBody {
        /// Bytes announced.
        want_bytes: u64,
        /// Bytes that came.
        got_bytes: u64,
    },
    /// The body failed on its way in.
    #[error(transparent)]
    Body(#[from] crate::api::BodyError),
    /// `Content-MD5` differs.
    #[error("the Content-MD5 given is not that of the body")]
    BadDigest,
    /// `x-amz-checksum-*` differs.
    #[error("the {} given is not that of the body", .algorithm.name())]
    BadChecksum {
        /// Which algorithm.
        algorithm: ChecksumAlgorithm,
    },
    /// Over a size limit.
    #[error("{size_bytes} bytes is over the limit of {max_bytes}")]
    EntityTooLarge {
        /// What came.
        size_bytes: u64,
        /// What may.
        max_bytes: u64,
    },
    /// An argument out of bounds; says which and what would be right.
    #[error("{0}")]
    Invalid(String),
    /// A request that contradicts what it is about; says how.
    #[error("{0}")]
    Contradiction(String),
    /// A copy onto itself that changes nothing.
    #[error(
        "a copy of an object onto itself must change its metadata, storage class, website redirect location or encryption"
    )]
    CopyOntoItself,
    /// The encryption asked for, or the key brought, does not do.
    #[error(transparent)]
    Sse(crate::sse::SseError),
    /// The key provider does not answer: what needs it is refused until it does.
    #[error("the key provider does not answer: {0}")]
    KeysUnavailable(String),
    /// Too few drives, no space, draining, overloaded: try again.
    #[error("{0}")]
    Unavailable(String),
    /// No space left on the drives (the reserve stays for deletes).
    #[error("the drives are full")]
    Full,
    /// Bytes failed verification on more shards than parity can make good.
    #[error("{0}")]
    Corrupt(String),
    /// A drive's error that nothing above could make good.
    #[error(transparent)]
    Drive(#[from] DriveError),
    /// The bucket's bytes may not lie or be served in this node's region.
    #[error("the bucket is pinned to region {region}, which this node is not in")]
    WrongRegion {
        /// Where to ask.
        region: String,
    },
    /// The bucket's upstream did not do what was needed of it. Names the bucket, never where the upstream is.
    #[error("the upstream of bucket {bucket} {error}")]
    Upstream {
        /// Bucket.
        bucket: BucketName,
        /// Why.
        error: UpstreamError,
    },
    /// A promise broken inside.
    #[error("{0}")]
    Internal(String),
}

impl StoreError {
    /// The small kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused(refusal) => match refusal {
                Refusal::NoSuchBucket | Refusal::NoSuchKey | Refusal::NoSuchVersion | Refusal::NoSuchUpload => {
                    ErrorKind::NotFound
                }
                Refusal::Locked(_) | Refusal::Frozen { .. } | Refusal::Protected(_) => ErrorKind::Denied,
                Refusal::BucketExists { .. }
                | Refusal::BucketNotEmpty
                | Refusal::Precondition(_)
                | Refusal::WriteOnce
                | Refusal::Stale => ErrorKind::Conflict,
                Refusal::BlockGone | Refusal::UpstreamBehind => ErrorKind::Unavailable,
                _ => ErrorKind::Invalid,
            },
            Self::NoSuchBucket
            | Self::NoSuchKey { .. }
            | Self::NoSuchVersion
            | Self::NoSuchUpload
            | Self::NoSuchPart(_) => ErrorKind::NotFound,
            Self::WrongRegion { .. } => ErrorKind::Denied,
            Self::Precondition(_) | Self::NotModified { .. } => ErrorKind::Conflict,
            Self::IsDeleteMarker { .. }
            | Self::InvalidRange { .. }
            | Self::IncompleteBody { .. }
            | Self::Body(_)
            | Self::BadDigest
            | Self::BadChecksum { .. }
            | Self::EntityTooLarge { .. }
            | Self::Invalid(_)
            | Self::Contradiction(_)
            | Self::CopyOntoItself => ErrorKind::Invalid,
            Self::Sse(error) => match error {
                SseError::KeyWrong => ErrorKind::Denied,
                SseError::NoSuchKmsKey(_) => ErrorKind::NotFound,
                _ => ErrorKind::Invalid,
            },
            Self::Unavailable(_) | Self::KeysUnavailable(_) | Self::Full | Self::Upstream { .. } => {
                ErrorKind::Unavailable
            }
            Self::Corrupt(_) => ErrorKind::Corrupt,
            Self::Drive(error) => error.kind(),
            Self::Internal(_) => ErrorKind::Internal,
        }
    }
}
