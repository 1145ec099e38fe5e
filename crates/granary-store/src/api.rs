//! What those above the store say to it and hear from it: plain values, no HTTP and no S3 XML.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use granary_meta::command::{CompletedPart, Condition, EtagMatch, RenameCondition};
use granary_meta::records::{
    Attributes, BucketOptions, Fetched, ObjectRecord, PartRecord, Sse, UploadRecord, VersionRecord,
};
use granary_types::{
    BucketName, ByteRange, Checksum, ChecksumAlgorithm, ChecksumKind, ObjectKey, RangeSpec, Timestamp, UploadId,
    VersionId,
};

pub use granary_crypto::{CustomerKey, Secret32};

use crate::ai::AiError;
use crate::ai::warm::{CacheAct, Warmed};
use crate::error::StoreError;

/// The result of store calls.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Payload on its way in: plaintext, in frames of any size. An error ends the request with nothing kept.
pub type BodyIn = BoxStream<'static, std::result::Result<Bytes, BodyError>>;

/// Payload on its way out: verified plaintext. An error mid-way means the connection must be cut, never
/// that short data passes for whole.
pub type BodyOut = BoxStream<'static, Result<Bytes>>;

/// Why a request body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client went away or the framing was wrong.
    #[error("the request body could not be read: {0}")]
    Read(String),
    /// A chunk's signature, or the payload's SHA-256, did not match.
    #[error("the request body does not match its signature")]
    Signature,
}

/// How a read opens what it reads.
#[derive(Debug, Clone, Default)]
pub enum Unlock {
    /// No key is brought: what was stored with a customer's key is refused.
    #[default]
    Plain,
    /// A customer's key is brought (SSE-C): what was stored with another, or with none, is refused.
    Key(CustomerKey),
    /// Only what is known without the key is wanted (tags, locks, grants): nothing is refused, no byte is read.
    Unneeded,
}

/// What the client claims about the bytes it sends; each claim is checked before anything is acknowledged.
pub struct Claims {
    /// `Content-MD5`, raw.
    pub md5: Option<[u8; 16]>,
    /// `x-amz-checksum-*` header.
    pub checksum: Option<Checksum>,
    /// Algorithm to compute and store when there is no header value (trailer to come, or
    /// `x-amz-sdk-checksum-algorithm` alone).
    pub algorithm: Option<ChecksumAlgorithm>,
    /// Called once the body has ended: the checksum from the trailer, if one was announced.
    #[allow(clippy::type_complexity)]
    pub trailer: Option<Box<dyn FnOnce() -> Result<Option<Checksum>> + Send>>,
}

/// `PutObject`.
pub struct PutRequest {
    /// Bucket.
    pub bucket: BucketName,
    /// Key.
    pub key: ObjectKey,
    /// Exact payload bytes (S3 requires a length).
    pub size_bytes: u64,
    /// What is stored beside the bytes.
    pub attributes: Attributes,
    /// Claims to check.
    pub claims: Claims,
    /// Preconditions.
    pub condition: Condition,
    /// The customer's key, where `attributes.sse` names one.
    pub customer_key: Option<CustomerKey>,
    /// The bytes.
    pub body: BodyIn,
}

/// `PutObject` at the end of what is there (`x-amz-write-offset-bytes`).
pub struct AppendRequest {
    /// What is appended. Its attributes count only where the append makes the object.
    pub put: PutRequest,
    /// The size that the object must have.
    pub offset: u64,
}

/// `RenameObject`.
pub struct RenameRequest {
    /// Bucket.
    pub bucket: BucketName,
    /// From.
    pub source: ObjectKey,
    /// To.
    pub destination: ObjectKey,
    /// Preconditions on the source.
    pub source_condition: RenameCondition,
    /// Preconditions on the destination.
    pub condition: RenameCondition,
    /// `x-amz-client-token`.
    pub token: Option<String>,
}

/// What a write made.
#[derive(Debug, Clone)]
pub struct PutResponse {
    /// Version id, where the bucket is or was versioned (`None`: say nothing of versions).
    pub version: Option<VersionId>,
    /// ETag, without quotes.
    pub etag: String,
    /// Checksum stored.
    pub checksum: Option<Checksum>,
    /// Bytes of the object.
    pub size_bytes: u64,
    /// When.
    pub created: Timestamp,
    /// What it is encrypted with.
    pub sse: Sse,
}

/// Preconditions of a read.
#[derive(Debug, Clone, Default)]
pub struct ReadCondition {
    /// `If-Match`.
    pub if_match: Option<EtagMatch>,
    /// `If-None-Match`.
    pub if_none_match: Option<EtagMatch>,
    /// `If-Modified-Since`.
    pub if_modified_since: Option<Timestamp>,
    /// `If-Unmodified-Since`.
    pub if_unmodified_since: Option<Timestamp>,
}

/// What part of an object is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Portion {
    /// All of it.
    #[default]
    Whole,
    /// A byte range.
    Range(RangeSpec),
    /// One part, as uploaded (`partNumber=`).
    Part(u16),
}

/// `GetObject` and `HeadObject`.
#[derive(Debug, Clone)]
pub struct GetRequest {
    /// Bucket.
    pub bucket: BucketName,
    /// Key.
    pub key: ObjectKey,
    /// A version, or the current one.
    pub version: Option<VersionId>,
    /// What of it.
    pub portion: Portion,
    /// Preconditions.
    pub condition: ReadCondition,
    /// How it is opened.
    pub unlock: Unlock,
}

/// What `get` and `head` tell of an object.
#[derive(Debug, Clone)]
pub struct ObjectInfo {
    /// Version id to show, where the bucket is or was versioned.
    pub version: Option<VersionId>,
    /// `Last-Modified`.
    pub created: Timestamp,
    /// The record: size, etag, checksum, attributes.
    pub object: ObjectRecord,
    /// The bytes that the answer covers.
    pub range: ByteRange,
    /// Whether only a portion was asked for (206).
    pub partial: bool,
    /// Number of parts, where the object was uploaded in parts (`x-amz-mp-parts-count`).
    pub parts_count: Option<u32>,
    /// For a part read, that part's own checksum.
    pub part_checksum: Option<Checksum>,
    /// Where it came from, if it is a copy of an upstream's object.
    pub fetched: Option<Fetched>,
}

impl ObjectInfo {
    /// Since when it is here, which is what rules about age count from.
    #[must_use]
    pub fn stored(&self) -> Timestamp {
        self.fetched.as_ref().map_or(self.created, |fetched| fetched.at)
    }
}

/// `CopyObject` and the source side of `UploadPartCopy`.
pub struct CopySource {
    /// Bucket.
    pub bucket: BucketName,
    /// Key.
    pub key: ObjectKey,
    /// Version, or the current one.
    pub version: Option<VersionId>,
    /// `x-amz-copy-source-if-*`.
    pub condition: ReadCondition,
    /// `x-amz-copy-source-range` (UploadPartCopy): `first..=last`; must lie within the source.
    pub range: Option<(u64, u64)>,
    /// How it is opened.
    pub unlock: Unlock,
}

/// `CopyObject`.
pub struct CopyRequest {
    /// From.
    pub source: CopySource,
    /// To: bucket.
    pub bucket: BucketName,
    /// To: key.
    pub key: ObjectKey,
    /// New attributes (`x-amz-metadata-directive: REPLACE`), or the source's.
    pub replace_attributes: Option<Attributes>,
    /// New tags (`x-amz-tagging-directive: REPLACE`), or the source's.
    pub replace_tags: Option<Vec<(String, String)>>,
    /// Checksum algorithm asked for the copy.
    pub algorithm: Option<ChecksumAlgorithm>,
    /// Retention, hold, owner, list, website redirect and storage class of the copy come from the request, never from the source.
    pub lock: Attributes,
    /// The copy's storage class, which is the request's or `STANDARD`, never the source's; and whether the request names
    /// it: enough of a change for a copy onto itself.
    pub storage_class: Option<String>,
    /// See `storage_class`.
    pub class_asked: bool,
    /// What the copy is encrypted with: the request's or the bucket's, never the source's.
    pub sse: Sse,
    /// The request (or the bucket's configuration) says so: enough of a change for a copy onto itself.
    pub sse_asked: bool,
    /// The customer's key for the copy, where `sse` names one.
    pub customer_key: Option<CustomerKey>,
    /// Preconditions on the destination.
    pub condition: Condition,
}

/// What a copy made.
#[derive(Debug, Clone)]
pub struct CopyResponse {
    /// The new object.
    pub put: PutResponse,
    /// The version copied from, where its bucket is or was versioned.
    pub source_version: Option<VersionId>,
}

/// `DeleteObject`, and one entry of a multi-delete.
#[derive(Debug, Clone)]
pub struct DeleteRequest {
    /// Bucket.
    pub bucket: BucketName,
    /// Key.
    pub key: ObjectKey,
    /// A version to remove for good, or the current state.
    pub version: Option<VersionId>,
    /// Preconditions.
    pub condition: Condition,
    /// The caller holds and used the governance bypass right.
    pub bypass: bool,
}

/// What a delete did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeleteResponse {
    /// The removed version or the added delete marker.
    pub version: Option<VersionId>,
    /// A delete marker was added or removed.
    pub delete_marker: bool,
}

/// A listing of current objects.
#[derive(Debug, Clone, Default)]
pub struct ListRequest {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Roll up what lies behind this, counted from the end of the prefix.
    pub delimiter: Option<String>,
    /// Begin after this key or common prefix (exclusive): v1 marker, v2 start-after, or a token's content.
    pub after: Option<String>,
    /// Entries at most (keys and common prefixes together); at most 1,000.
    pub max_keys: u32,
}

/// A page of a listing. Either right and complete as far as `next_after`, or an error instead.
#[derive(Debug, Clone, Default)]
pub struct ListPage {
    /// Objects, in key order.
    pub objects: Vec<(String, VersionRecord)>,
    /// Common prefixes, in order.
    pub common_prefixes: Vec<String>,
    /// `Some` if there is more: pass it as `after`.
    pub next_after: Option<String>,
}

/// A listing of versions.
#[derive(Debug, Clone, Default)]
pub struct ListVersionsRequest {
    /// As in [`ListRequest`].
    pub prefix: String,
    /// As in [`ListRequest`].
    pub delimiter: Option<String>,
    /// `key-marker`.
    pub key_marker: Option<String>,
    /// `version-id-marker`: begin after this version of `key_marker`.
    pub version_marker: Option<VersionId>,
    /// Entries at most.
    pub max_keys: u32,
}

/// A page of versions.
#[derive(Debug, Clone, Default)]
pub struct ListVersionsPage {
    /// Key, record, whether it is the latest; key order, newest first.
    pub versions: Vec<(String, VersionRecord, bool)>,
    /// Common prefixes.
    pub common_prefixes: Vec<String>,
    /// `Some((key-marker, version-id-marker))` if there is more.
    pub next: Option<(String, Option<VersionId>)>,
}

/// A listing of open uploads.
#[derive(Debug, Clone, Default)]
pub struct ListUploadsRequest {
    /// As in [`ListRequest`].
    pub prefix: String,
    /// As in [`ListRequest`].
    pub delimiter: Option<String>,
    /// `key-marker`.
    pub key_marker: Option<String>,
    /// `upload-id-marker`.
    pub upload_marker: Option<UploadId>,
    /// Entries at most.
    pub max_uploads: u32,
}

/// A page of uploads.
#[derive(Debug, Clone, Default)]
pub struct ListUploadsPage {
    /// Uploads by key, then by when they were begun.
    pub uploads: Vec<UploadRecord>,
    /// Common prefixes.
    pub common_prefixes: Vec<String>,
    /// `Some((key-marker, upload-id-marker))` if there is more.
    pub next: Option<(String, UploadId)>,
}

/// `CreateMultipartUpload`.
pub struct CreateUploadRequest {
    /// Bucket.
    pub bucket: BucketName,
    /// Key.
    pub key: ObjectKey,
    /// What the object will have.
    pub attributes: Attributes,
    /// Announced algorithm.
    pub checksum_algorithm: Option<ChecksumAlgorithm>,
    /// Announced kind.
    pub checksum_kind: Option<ChecksumKind>,
}

/// `UploadPart`.
pub struct UploadPartRequest {
    /// Bucket.
    pub bucket: BucketName,
    /// Key.
    pub key: ObjectKey,
    /// Upload.
    pub upload: UploadId,
    /// `1..=10_000`.
    pub number: u16,
    /// Exact payload bytes.
    pub size_bytes: u64,
    /// Claims to check.
    pub claims: Claims,
    /// The customer's key, where the upload was begun with one.
    pub customer_key: Option<CustomerKey>,
    /// The bytes.
    pub body: BodyIn,
}

/// What an uploaded part became.
#[derive(Debug, Clone)]
pub struct UploadedPart {
    /// The part.
    pub part: PartRecord,
    /// What the upload is encrypted with.
    pub sse: Sse,
    /// Of a copy: the source's version, where its bucket is or was versioned.
    pub source_version: Option<VersionId>,
}

/// `CompleteMultipartUpload`.
pub struct CompleteRequest {
    /// Bucket.
    pub bucket: BucketName,
    /// Key.
    pub key: ObjectKey,
    /// Upload.
    pub upload: UploadId,
    /// Parts in the order given.
    pub parts: Vec<CompletedPart>,
    /// Whole-object checksum claimed.
    pub checksum: Option<Checksum>,
    /// Size claimed.
    pub size_bytes: Option<u64>,
    /// Preconditions.
    pub condition: Condition,
    /// The customer's key, where one is sent.
    pub customer_key: Option<CustomerKey>,
}

/// A page of parts.
#[derive(Debug, Clone)]
pub struct ListPartsPage {
    /// The upload.
    pub upload: UploadRecord,
    /// Number and part, ascending.
    pub parts: Vec<(u16, PartRecord)>,
    /// `Some(number)` if there is more: pass it as the marker.
    pub next: Option<u16>,
}

/// Parts of a completed object, for `GetObjectAttributes`.
#[derive(Debug, Clone)]
pub struct ObjectParts {
    /// Total number.
    pub total: u32,
    /// Number (from 1), size, checksum.
    pub parts: Vec<(u32, u64, Option<Checksum>)>,
    /// `Some(number)` if there is more.
    pub next: Option<u32>,
}

/// `CreateBucket`.
pub struct CreateBucketRequest {
    /// Name.
    pub name: BucketName,
    /// Canonical id of the owner.
    pub owner: String,
    /// Region asked for, or the node's.
    pub region: Option<String>,
    /// Engine settings.
    pub options: BucketOptions,
    /// Configuration documents that it has from the start, as validated above.
    pub documents: std::collections::BTreeMap<String, Vec<u8>>,
}

/// A version of an object that stays open. Reads see that version whatever becomes of its key.
pub trait ObjectReader: Send + Sync + 'static {
    /// What it is.
    fn info(&self) -> &ObjectInfo;
    /// Its bytes from `start` up to, but not with, `end`, which must lie in it.
    fn read(&self, start: u64, end: u64) -> BoxFuture<'_, Result<BodyOut>>;
}

/// The face of the store. One implementation ([`crate::Store`]); a trait so that the front door can be
/// tested against a twin in memory.
pub trait ObjectStore: Send + Sync + 'static {
    /// Creates a bucket (durable on return). `BucketExists` tells the owner.
    fn create_bucket(&self, request: CreateBucketRequest) -> BoxFuture<'_, Result<()>>;
    /// A bucket's record.
    fn bucket(&self, name: &BucketName) -> Result<std::sync::Arc<granary_meta::records::BucketRecord>>;
    /// All buckets in name order.
    fn list_buckets(&self) -> Result<Vec<std::sync::Arc<granary_meta::records::BucketRecord>>>;
    /// Deletes an empty bucket.
    fn delete_bucket<'a>(&'a self, name: &'a BucketName) -> BoxFuture<'a, Result<()>>;
    /// Changes a bucket's record.
    fn change_bucket<'a>(
        &'a self,
        name: &'a BucketName,
        change: granary_meta::command::BucketChange,
    ) -> BoxFuture<'a, Result<()>>;

    /// How long a day of lifecycle rules is.
    fn lifecycle_day(&self) -> std::time::Duration {
        std::time::Duration::from_secs(86_400)
    }

    /// Warms, pins or evicts everything under a prefix in the read cache.
    fn tend_cache<'a>(
        &'a self,
        bucket: &'a BucketName,
        prefix: &'a str,
        act: CacheAct,
    ) -> BoxFuture<'a, std::result::Result<Warmed, AiError>> {
        let _ = (bucket, prefix, act);
        let why = AiError::Invalid("this store has no read cache".to_owned());
        Box::pin(std::future::ready(Err(why)))
    }

    /// Writes an object.
    fn put(&self, request: PutRequest) -> BoxFuture<'_, Result<PutResponse>>;
    /// Writes at the end of an object.
    fn append(&self, request: AppendRequest) -> BoxFuture<'_, Result<PutResponse>> {
        drop(request);
        Box::pin(std::future::ready(Err(StoreError::Internal("this store takes no appends".to_owned()))))
    }
    /// Gives an object another key.
    fn rename(&self, request: RenameRequest) -> BoxFuture<'_, Result<()>> {
        drop(request);
        Box::pin(std::future::ready(Err(StoreError::Internal("this store renames nothing".to_owned()))))
    }
    /// Reads an object: what it is, and its bytes.
    fn get(&self, request: GetRequest) -> BoxFuture<'_, Result<(ObjectInfo, BodyOut)>>;
    /// Opens an object to be read here and there. The request's portion does not count.
    fn open(&self, request: GetRequest) -> BoxFuture<'_, Result<std::sync::Arc<dyn ObjectReader>>>;
    /// What an object is.
    fn head(&self, request: GetRequest) -> BoxFuture<'_, Result<ObjectInfo>>;
    /// Copies an object.
    fn copy(&self, request: CopyRequest) -> BoxFuture<'_, Result<CopyResponse>>;
    /// Deletes an object or a version.
    fn delete(&self, request: DeleteRequest) -> BoxFuture<'_, Result<DeleteResponse>>;
    /// Changes a version's tags, retention or hold; returns the version changed.
    fn change_version<'a>(
        &'a self,
        bucket: &'a BucketName,
        key: &'a ObjectKey,
        version: Option<VersionId>,
        change: granary_meta::command::VersionChange,
    ) -> BoxFuture<'a, Result<Option<VersionId>>>;
    /// A completed object's parts, after part number `after`.
    fn object_parts<'a>(&'a self, info: &'a ObjectInfo, after: u32, limit: u32) -> BoxFuture<'a, Result<ObjectParts>>;

    /// Lists current objects.
    fn list<'a>(&'a self, bucket: &'a BucketName, request: &'a ListRequest) -> BoxFuture<'a, Result<ListPage>>;
    /// Lists versions.
    fn list_versions<'a>(
        &'a self,
        bucket: &'a BucketName,
        request: &'a ListVersionsRequest,
    ) -> BoxFuture<'a, Result<ListVersionsPage>>;

    /// Begins an upload.
    fn create_upload(&self, request: CreateUploadRequest) -> BoxFuture<'_, Result<UploadRecord>>;
    /// Writes a part.
    fn upload_part(&self, request: UploadPartRequest) -> BoxFuture<'_, Result<UploadedPart>>;
    /// Writes a part from an object. `customer_key`: the upload's, where it was begun with one.
    fn upload_part_copy<'a>(
        &'a self,
        source: CopySource,
        bucket: &'a BucketName,
        key: &'a ObjectKey,
        upload: UploadId,
        number: u16,
        customer_key: Option<CustomerKey>,
    ) -> BoxFuture<'a, Result<UploadedPart>>;
    /// Completes an upload.
    fn complete_upload(&self, request: CompleteRequest) -> BoxFuture<'_, Result<PutResponse>>;
    /// Aborts an upload.
    fn abort_upload<'a>(
        &'a self,
        bucket: &'a BucketName,
        key: &'a ObjectKey,
        upload: UploadId,
    ) -> BoxFuture<'a, Result<()>>;
    /// Lists an upload's parts after `marker`.
    fn list_parts<'a>(
        &'a self,
        bucket: &'a BucketName,
        key: &'a ObjectKey,
        upload: UploadId,
        marker: u16,
        limit: u32,
    ) -> BoxFuture<'a, Result<ListPartsPage>>;
    /// Lists open uploads.
    fn list_uploads<'a>(
        &'a self,
        bucket: &'a BucketName,
        request: &'a ListUploadsRequest,
    ) -> BoxFuture<'a, Result<ListUploadsPage>>;
}
