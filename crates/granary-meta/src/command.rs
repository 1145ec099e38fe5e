//! Every change of metadata, as a value. `apply` turns a command into a write batch and an outcome,
//! deterministically: times and ids are in the command.

use bytes::Bytes;
use granary_types::{
    BucketId, BucketName, DriveId, DriveNo, ObjectKey, PartId, Placement, Timestamp, UploadId, VersionId, WrappedKey,
};
use granary_types::{Checksum, Head};
use serde::{Deserialize, Serialize};

use crate::records::{
    BucketOptions, BucketRecord, Fetched, FrozenManifest, ObjectRecord, PartRecord, Retention, RetentionMode,
    UploadRecord, VersionRecord, Versioning,
};

/// A command with what the proposer adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The proposer's clock when it proposed.
    pub at: Timestamp,
    /// The command.
    pub command: Command,
    /// The audit event of the request that it is part of. It becomes a record of the chain in the same batch, whether the
    /// command is carried out or refused.
    pub audit: Option<Bytes>,
}

/// An ETag condition: `*`, or any of a list (without quotes).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EtagMatch {
    /// `*`
    Any,
    /// Any of these.
    OneOf(Vec<String>),
}

/// Preconditions of a write, checked inside `apply` against the key's current version.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Condition {
    /// `If-Match`.
    pub if_match: Option<EtagMatch>,
    /// `If-None-Match`.
    pub if_none_match: Option<EtagMatch>,
    /// `x-amz-if-match-size` (deletes).
    pub if_match_size: Option<u64>,
    /// `x-amz-if-match-last-modified-time` (deletes), whole seconds.
    pub if_match_last_modified: Option<Timestamp>,
}

/// One part named by CompleteMultipartUpload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletedPart {
    /// Part number, `1..=10_000`.
    pub number: u16,
    /// ETag as the client gave it, without quotes.
    pub etag: String,
    /// Checksum the client gave for the part, if any.
    pub checksum: Option<Checksum>,
}

/// A change to a bucket's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BucketChange {
    /// Versioning state (`Off` cannot be returned to).
    Versioning(Versioning),
    /// Put or remove a configuration document.
    Document {
        /// S3 subresource name.
        name: String,
        /// The document; `None` removes it.
        value: Option<Vec<u8>>,
    },
    /// Replace the engine settings.
    Options(BucketOptions),
    /// Replace the wrapped bucket keys: after a rotation.
    Key(WrappedKey),
    /// Enable object lock (which needs versioning, and cannot be undone) and say what new versions are retained by.
    ObjectLock {
        /// Retention of versions that name none: mode and seconds.
        default_retention: Option<(RetentionMode, u64)>,
        /// The configuration as it is shown, kept as the document `object-lock`.
        document: Vec<u8>,
    },
    /// Replace the quotas alone; `None`: none.
    Quota {
        /// Payload bytes of all versions and of the parts of open uploads.
        bytes: Option<u64>,
        /// Versions, delete markers among them.
        objects: Option<u64>,
    },
}

/// Whose request a command serves: told in the events that it makes, decides nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Origin {
    /// Canonical id of who asked.
    pub principal: String,
    /// Their address, as far as it is known.
    pub source_ip: String,
    /// `x-amz-request-id`.
    pub request_id: String,
    /// How an object came to be written.
    pub cause: Cause,
}

/// How an object came to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Cause {
    /// PutObject.
    #[default]
    Put,
    /// CopyObject.
    Copy,
    /// An HTML form.
    Post,
}

/// What lifecycle does to a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExpireAction {
    /// The version is current and an object: as `DELETE key`.
    Current {
        /// Random half of a delete marker's version id.
        nonce: [u8; 8],
    },
    /// The version is not current: removed for good.
    Noncurrent,
    /// The version is a delete marker with nothing behind it: removed.
    Marker,
    /// The object moves to another storage class (`None`: `STANDARD`).
    Transition {
        /// The class.
        class: Option<String>,
    },
}

/// Preconditions of one side of a rename.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RenameCondition {
    /// `If-Match`.
    pub if_match: Option<EtagMatch>,
    /// `If-None-Match`.
    pub if_none_match: Option<EtagMatch>,
    /// `If-Modified-Since`, whole seconds.
    pub if_modified_since: Option<Timestamp>,
    /// `If-Unmodified-Since`, whole seconds.
    pub if_unmodified_since: Option<Timestamp>,
}

/// A change to a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DatasetChange {
    /// From now on nothing under the prefix changes.
    Freeze,
    /// The manifest is written: from now on it does not change either.
    Manifest(FrozenManifest),
    /// The prefix may change again; its manifest is an ordinary object again.
    Thaw,
}

/// A change to a version's mutable attributes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VersionChange {
    /// Replace the tags.
    Tags(Vec<(String, String)>),
    /// Set or lift retention; `bypass` where the caller holds the governance bypass right.
    Retention {
        /// The new retention.
        retention: Option<Retention>,
        /// Governance may be shortened.
        bypass: bool,
    },
    /// Set or lift the legal hold.
    LegalHold(bool),
    /// Replace the grants, as `granary-access` encodes them.
    Acl(Option<Vec<u8>>),
}

/// One change of metadata. **Variants and fields are only ever appended** (postcard numbers them).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Nothing; moves the log on.
    Noop,
    /// Creates a bucket. Refused if the name is taken.
    CreateBucket(Box<BucketRecord>),
    /// Deletes an empty bucket (no versions, no open uploads).
    DeleteBucket {
        /// Name.
        name: BucketName,
    },
    /// Changes a bucket's record.
    ChangeBucket {
        /// Name.
        name: BucketName,
        /// What.
        change: BucketChange,
    },
    /// Adds or replaces an object.
    PutVersion {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: ObjectKey,
        /// The object.
        object: Box<ObjectRecord>,
        /// The sealed chunk of an inline part.
        inline: Option<Bytes>,
        /// Random half of the version id, where the bucket gives one.
        nonce: [u8; 8],
        /// Preconditions.
        condition: Condition,
    },
    /// `DELETE key`: removes the null version, or adds a delete marker, as the bucket's versioning says.
    DeleteObject {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: ObjectKey,
        /// Random half of a delete marker's version id.
        nonce: [u8; 8],
        /// Preconditions.
        condition: Condition,
        /// The caller holds (and used) the governance bypass right.
        bypass: bool,
    },
    /// `DELETE key?versionId=`: removes one version for good.
    DeleteVersion {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: ObjectKey,
        /// Which.
        version: VersionId,
        /// Preconditions, against that version.
        condition: Condition,
        /// The caller holds (and used) the governance bypass right.
        bypass: bool,
    },
    /// Changes a version's tags, retention or legal hold. Answered with `Outcome::Put`: the version changed.
    ChangeVersion {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: ObjectKey,
        /// Which; the current one when `None`.
        version: Option<VersionId>,
        /// What.
        change: VersionChange,
    },
    /// Begins a multipart upload.
    CreateUpload {
        /// Bucket.
        bucket: BucketId,
        /// The upload.
        upload: Box<UploadRecord>,
    },
    /// Adds or replaces a part of an open upload.
    PutPart {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: ObjectKey,
        /// Upload.
        upload: UploadId,
        /// Part number, `1..=10_000`.
        number: u16,
        /// The part.
        part: Box<PartRecord>,
        /// The sealed chunk of an inline part.
        inline: Option<Bytes>,
    },
    /// Makes the named parts an object; the others become garbage. A repeat of a complete that was
    /// acknowledged is answered as the first was.
    CompleteUpload {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: ObjectKey,
        /// Upload.
        upload: UploadId,
        /// Parts, ascending.
        parts: Vec<CompletedPart>,
        /// Whole-object checksum the client claims, if any: must match.
        checksum: Option<Checksum>,
        /// Object size the client claims (`x-amz-mp-object-size`): must match.
        size_bytes: Option<u64>,
        /// Random half of the version id.
        nonce: [u8; 8],
        /// Preconditions.
        condition: Condition,
    },
    /// Drops an open upload and its parts.
    AbortUpload {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: ObjectKey,
        /// Upload.
        upload: UploadId,
    },
    /// The shards of these garbage parts are freed: forget them.
    ForgetGarbage {
        /// Parts.
        parts: Vec<PartId>,
    },
    /// A part was repaired or moved. Refused if it is no longer at `from`.
    MovePart {
        /// The part.
        part: PartId,
        /// Where it was.
        from: Placement,
        /// Where it is now.
        to: Placement,
    },
    /// Gives a drive its number, or says that it has one. `Outcome::Drive` tells.
    RegisterDrive {
        /// The drive.
        drive: DriveId,
    },
    /// A drive is gone for good: it takes no new placements. Its number is never reused.
    RetireDrive {
        /// The drive.
        drive: DriveId,
    },
    /// Sets or removes a small named record of the system (repair cursors, settings, sealed credentials).
    SetSystem {
        /// Name, such as `heal/cursor`.
        name: String,
        /// Value; `None` removes it.
        value: Option<Bytes>,
    },
    /// Puts a version back into a key's history, exactly as it was, without any check but that it is not there
    /// yet: the last resort, when index and log are lost and versions come from shard headers.
    RestoreVersion {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: ObjectKey,
        /// The version. A multipart object's `Parts::Manifest` names the manifest that `parts` fill.
        version: Box<VersionRecord>,
        /// The parts of a multipart object, in order; empty for others.
        parts: Vec<PartRecord>,
    },
    /// Freezes a dataset, names its manifest, or thaws it.
    Dataset {
        /// Bucket.
        bucket: BucketName,
        /// Prefix, ending in a slash.
        prefix: String,
        /// What.
        change: DatasetChange,
    },
    /// What lifecycle does to one version. Refused with [`Refusal::Stale`] unless key and bucket are still as the
    /// worker saw them; object lock holds as for everybody.
    Expire {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: ObjectKey,
        /// Which version.
        version: VersionId,
        /// Its creation time (null versions are told apart by it).
        created: Timestamp,
        /// MD5 of the lifecycle document that was evaluated.
        rules: [u8; 16],
        /// What.
        action: ExpireAction,
    },
    /// Adds a part at the end of an object of a bucket that is not versioned.
    Append {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: ObjectKey,
        /// The size that the object must have.
        offset: u64,
        /// Creation time of the state that the writer saw.
        base: Timestamp,
        /// The part.
        part: Box<PartRecord>,
        /// The sealed chunk of an inline part.
        inline: Option<Bytes>,
        /// Name of the manifest that an object of one part gets.
        manifest: UploadId,
        /// Preconditions.
        condition: Condition,
    },
    /// Gives an object of a bucket that is not versioned another key.
    Rename {
        /// Bucket.
        bucket: BucketId,
        /// Its key.
        source: ObjectKey,
        /// The new one; what is there is replaced.
        destination: ObjectKey,
        /// Preconditions on the source.
        source_condition: RenameCondition,
        /// Preconditions on the destination.
        condition: RenameCondition,
        /// A repeat with the same token is answered as the first was.
        token: Option<String>,
    },
    /// Events were delivered: forget those of `target` up to and with `through`.
    AckEvents {
        /// ARN of the target.
        target: String,
        /// The last of them.
        through: u64,
    },
    /// A command with whose request it serves. Never nested.
    From {
        /// Whose.
        origin: Box<Origin>,
        /// The command.
        command: Box<Command>,
    },
    /// Events of requests that changed nothing (reads, refused requests), in the order they ended.
    Audit {
        /// As `granary-audit` encodes them.
        events: Vec<Bytes>,
    },
    /// Audit events are sealed: segment and seal become objects of the audit bucket, and the events leave the index. Refused
    /// as stale if the chain is not where the proposer saw it.
    SealAudit(Box<SealAudit>),
    /// Removes an object of the audit bucket that is older than the trail must be kept. Refused if it is not.
    ExpireAudit {
        /// The audit bucket.
        bucket: BucketId,
        /// Key.
        key: ObjectKey,
    },
    /// These shared blocks have had no use since the times named: they become garbage. Those that were used meanwhile stay.
    RetireBlocks {
        /// Blocks, and since when they are idle.
        blocks: Vec<(PartId, Timestamp)>,
    },
    /// Adds a copy of an upstream's object. Refused with [`Refusal::Conflict`] unless the key is as whoever fetched it saw it,
    /// and the upstream has its last change.
    PutFetched {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: ObjectKey,
        /// The object.
        object: Box<ObjectRecord>,
        /// The sealed chunk of an inline part.
        inline: Option<Bytes>,
        /// Random half of the version id, where the bucket gives one.
        nonce: [u8; 8],
        /// Where it came from.
        source: Fetched,
        /// Creation time of the copy that it takes the place of; `None`: nothing is there.
        replaces: Option<Timestamp>,
    },
    /// Removes a copy of what the upstream no longer has. Refused with [`Refusal::Conflict`] if it is no longer there.
    DropFetched {
        /// Bucket.
        bucket: BucketId,
        /// Key.
        key: ObjectKey,
        /// The copy's creation time.
        created: Timestamp,
    },
}

/// An object that the node puts into the audit bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedObject {
    /// Key.
    pub key: ObjectKey,
    /// The object.
    pub object: Box<ObjectRecord>,
    /// The sealed chunk of an inline part.
    pub inline: Option<Bytes>,
    /// Random half of a version id.
    pub nonce: [u8; 8],
}

/// A sealed segment of the audit trail takes its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealAudit {
    /// The audit bucket.
    pub bucket: BucketId,
    /// Number of the segment.
    pub segment: u64,
    /// First sequence number in it.
    pub first: u64,
    /// Last.
    pub through: u64,
    /// The chain's head after the last.
    pub head: Head,
    /// SHA-256 of its signed statement, which the next seal names.
    pub seal: String,
    /// Segment and seal.
    pub objects: Vec<SealedObject>,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done, nothing to tell.
    Done,
    /// A version was written.
    Put {
        /// Its id (`NULL` where the bucket gives none).
        version: VersionId,
        /// Its creation time as recorded.
        created: Timestamp,
        /// The object as recorded (etag and checksum of a completed upload are made in `apply`).
        etag: String,
        /// Whole-object checksum.
        checksum: Option<Checksum>,
        /// Size.
        size_bytes: u64,
    },
    /// A delete was carried out (also when there was nothing to delete).
    Deleted {
        /// The delete marker's or the removed version's id; `None` where nothing was there in an unversioned bucket.
        version: Option<VersionId>,
        /// A delete marker was added, or the removed version was one.
        delete_marker: bool,
    },
    /// A drive's number.
    Drive(DriveNo),
    /// Nothing was changed, and why.
    Refused(Refusal),
}

/// Why a command changed nothing. All are deterministic: part of the state machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Bucket name taken (`owner` has it).
    #[error("the bucket name is taken")]
    BucketExists {
        /// Canonical id of its owner.
        owner: String,
    },
    /// No such bucket.
    #[error("no such bucket")]
    NoSuchBucket,
    /// The bucket still has versions or uploads.
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    /// Too many buckets.
    #[error("too many buckets")]
    TooManyBuckets,
    /// No such key (also an `If-Match` on one that does not exist).
    #[error("no such key")]
    NoSuchKey,
    /// No such version.
    #[error("no such version")]
    NoSuchVersion,
    /// The version is a delete marker.
    #[error("the version is a delete marker")]
    IsDeleteMarker,
    /// A precondition failed; names it as in the request header.
    #[error("precondition {0} failed")]
    Precondition(&'static str),
    /// No such upload.
    #[error("no such upload")]
    NoSuchUpload,
    /// A named part does not exist or its ETag or checksum differs.
    #[error("part {number} is not what was uploaded")]
    InvalidPart {
        /// Part number.
        number: u16,
    },
    /// Parts not in ascending order.
    #[error("parts are not in ascending order")]
    InvalidPartOrder,
    /// A part but the last is under 5 MiB.
    #[error("part {number} has {size_bytes} bytes, under the minimum")]
    EntityTooSmall {
        /// Part number.
        number: u16,
        /// Its size.
        size_bytes: u64,
    },
    /// The object would be larger than 5 TiB.
    #[error("the object would be too large")]
    EntityTooLarge,
    /// The claimed whole-object checksum is not the parts'.
    #[error("the object's checksum is not the one claimed")]
    BadChecksum,
    /// The claimed object size is not the parts'.
    #[error("the object's size is not the one claimed")]
    BadSize,
    /// Object lock, retention or legal hold forbids it.
    #[error("object lock forbids it: {0}")]
    Locked(&'static str),
    /// The bucket's keys are written once.
    #[error("the bucket's keys are written once")]
    WriteOnce,
    /// The bucket's quota is used up.
    #[error("the bucket's quota is used up")]
    QuotaExceeded,
    /// The key belongs to a frozen dataset.
    #[error("the dataset {prefix} is frozen")]
    Frozen {
        /// Its prefix.
        prefix: String,
    },
    /// The bucket's state does not allow it.
    #[error("{0}")]
    InvalidState(&'static str),
    /// `MovePart` of a part that is elsewhere or gone; `Expire` of a version that is no longer as it was.
    #[error("the part is no longer there")]
    Stale,
    /// An append at another place than the end.
    #[error("the object has {size_bytes} bytes")]
    InvalidWriteOffset {
        /// The object's size.
        size_bytes: u64,
    },
    /// An append to an object that has as many parts as there may be.
    #[error("the object has the most parts there may be")]
    TooManyParts,
    /// The key changed while the request was on its way.
    #[error("the key was changed by another request meanwhile")]
    Conflict,
    /// A client token that stood for another request before.
    #[error("the client token was used for another request")]
    TokenReused,
    /// A shared block that the write relied on is gone: the write has to be sent again.
    #[error("a block that the write shares was removed meanwhile: please send it again")]
    BlockGone,
    /// Too much waits to be written to the bucket's upstream.
    #[error("too many changes of the bucket wait to be written to its upstream")]
    UpstreamBehind,
    /// What the node keeps for itself: nobody changes it, whatever their rights.
    #[error("{0}")]
    Protected(&'static str),
}

impl Refusal {
    /// S3's error code for it, as the front door answers (a test there compares).
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::BucketExists { .. } => "BucketAlreadyExists",
            Self::NoSuchBucket => "NoSuchBucket",
            Self::BucketNotEmpty => "BucketNotEmpty",
            Self::TooManyBuckets => "TooManyBuckets",
            Self::NoSuchKey => "NoSuchKey",
            Self::NoSuchVersion => "NoSuchVersion",
            Self::IsDeleteMarker => "MethodNotAllowed",
            Self::Precondition(_) | Self::WriteOnce => "PreconditionFailed",
            Self::NoSuchUpload => "NoSuchUpload",
            Self::InvalidPart { .. } => "InvalidPart",
            Self::InvalidPartOrder => "InvalidPartOrder",
            Self::EntityTooSmall { .. } => "EntityTooSmall",
            Self::EntityTooLarge => "EntityTooLarge",
            Self::BadChecksum => "BadDigest",
            Self::BadSize => "InvalidRequest",
            Self::Locked(_) | Self::Frozen { .. } | Self::Protected(_) => "AccessDenied",
            Self::QuotaExceeded => "QuotaExceeded",
            Self::InvalidState(_) => "InvalidBucketState",
            Self::InvalidWriteOffset { .. } => "InvalidWriteOffset",
            Self::TooManyParts => "TooManyParts",
            Self::Conflict => "ConditionalRequestConflict",
            Self::TokenReused => "IdempotencyParameterMismatch",
            Self::BlockGone | Self::UpstreamBehind => "SlowDown",
            Self::Stale => "InternalError",
        }
    }
}
