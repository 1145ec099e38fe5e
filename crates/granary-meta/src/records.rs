//! The records of the index: what a bucket, a version, a part and an upload are. Everything here is
//! serialised with postcard into RocksDB values and log frames. Variants are only ever appended; a new field
//! makes a new format (`index::open::FORMAT`), and golden files in `tests/golden` hold each.

use granary_types::{
    BucketId, BucketName, Checksum, ChecksumAlgorithm, ChecksumKind, ObjectKey, PartId, PartLocation, Placement,
    Scheme, Timestamp, UploadId, VersionId, WrappedKey,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// S3's versioning state of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Versioning {
    /// Never enabled: every write is the null version.
    #[default]
    Off,
    /// Every write adds a version.
    Enabled,
    /// Writes replace the null version; older versions stay.
    Suspended,
}

/// How ETags of new objects are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum EtagMode {
    /// The MD5 of the payload, as S3 does for plain objects.
    #[default]
    Md5,
    /// An opaque value in the `-N` form: no MD5 on the hot path.
    Opaque,
}

/// Settings of a bucket that the engine itself acts on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BucketOptions {
    /// How ETags are made.
    pub etag: EtagMode,
    /// A second PUT of an existing key is refused.
    pub write_once: bool,
    /// Erasure scheme of new parts; the node's default when `None`.
    pub scheme: Option<Scheme>,
    /// Object lock was enabled when the bucket was created.
    pub object_lock: bool,
    /// Retention put on new versions when the request names none: mode and seconds.
    pub default_retention: Option<(RetentionMode, u64)>,
    /// Logical quota in bytes, if any.
    pub quota_bytes: Option<u64>,
    /// Quota of objects (all versions and delete markers), if any.
    pub quota_objects: Option<u64>,
    /// Regions in which the bucket's bytes may lie; empty: wherever the cluster is.
    pub regions: Vec<String>,
}

/// A bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketRecord {
    /// Identity; chosen at random by the proposer.
    pub id: BucketId,
    /// Name.
    pub name: BucketName,
    /// When it was created.
    pub created: Timestamp,
    /// Canonical id of the owner.
    pub owner: String,
    /// Region it was created in.
    pub region: String,
    /// The bucket's keys, wrapped by its lock (which is not in the index).
    pub key: WrappedKey,
    /// Versioning state.
    pub versioning: Versioning,
    /// Settings the engine acts on.
    pub options: BucketOptions,
    /// Configuration documents by S3 subresource name (`policy`, `cors`, `lifecycle`, `tagging`...), as validated above.
    pub documents: BTreeMap<String, Vec<u8>>,
    /// Frozen datasets, sorted by prefix; none lies within another.
    pub frozen: Vec<FrozenPrefix>,
}

/// Where the manifests of a bucket's frozen datasets are.
pub const DATASETS_FOLDER: &str = ".granary/datasets/";

/// A prefix under which nothing changes any more: a frozen dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrozenPrefix {
    /// The prefix, ending in a slash.
    pub prefix: String,
    /// Since when.
    pub since: Timestamp,
    /// Its manifest; `None` until it is written (the prefix refuses changes already).
    pub manifest: Option<FrozenManifest>,
}

/// The manifest of a frozen dataset, as it was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrozenManifest {
    /// Its key, in [`DATASETS_FOLDER`] of the same bucket.
    pub key: ObjectKey,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
    /// Objects it names.
    pub objects: u64,
    /// Bytes of them together.
    pub bytes: u64,
    /// Samples in it (WebDataset groups of its tar files' members, and one for each other object).
    pub samples: u64,
}

impl BucketRecord {
    /// The frozen dataset that `key` belongs to, as one of its objects or as its manifest.
    #[must_use]
    pub fn frozen(&self, key: &str) -> Option<&FrozenPrefix> {
        if self.frozen.is_empty() {
            return None;
        }
        // No prefix lies within another, so only the greatest that is not behind the key can hold it.
        let holds = |key: &str| {
            let at = self.frozen.partition_point(|frozen| frozen.prefix.as_str() <= key);
            self.frozen[..at].last().filter(|frozen| key.starts_with(&frozen.prefix))
        };
        holds(key).or_else(|| holds(key.strip_prefix(DATASETS_FOLDER)?).filter(|frozen| frozen.manifest.is_some()))
    }
}

/// Object lock retention modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RetentionMode {
    /// May be lifted by those with the bypass right.
    Governance,
    /// Nobody lifts it before its time.
    Compliance,
}

/// Retention of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Mode.
    pub mode: RetentionMode,
    /// Until when the version can be neither deleted nor overwritten.
    pub until: Timestamp,
}

/// Headers that S3 stores with an object and gives back as they were.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SystemHeaders {
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// `Content-Encoding`, `aws-chunked` removed.
    pub content_encoding: Option<String>,
    /// `Content-Disposition`.
    pub content_disposition: Option<String>,
    /// `Content-Language`.
    pub content_language: Option<String>,
    /// `Cache-Control`.
    pub cache_control: Option<String>,
    /// `Expires`.
    pub expires: Option<String>,
    /// `x-amz-website-redirect-location`.
    pub website_redirect: Option<String>,
    /// `x-amz-storage-class` when not `STANDARD`.
    pub storage_class: Option<String>,
}

/// Encryption that the client asked for beyond the default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Sse {
    /// The bucket key; reported as SSE-S3.
    #[default]
    S3,
    /// A named key of the key provider.
    Kms {
        /// The key's id.
        key_id: String,
        /// Encryption context as the client sent it (base64 JSON), bound into the wrapping of the data key.
        context: Option<String>,
        /// `x-amz-server-side-encryption-bucket-key-enabled`, given back as it was.
        bucket_key_enabled: bool,
    },
    /// A key the client brings with every request; only its MD5 is kept (base64).
    Customer {
        /// Base64 MD5 of the key.
        key_md5: String,
    },
}

/// Everything about an object but its size, bytes and identity.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attributes {
    /// System headers.
    pub headers: SystemHeaders,
    /// `x-amz-meta-*`, names in lower case without the prefix, in the order sent.
    pub user_metadata: Vec<(String, String)>,
    /// Object tags.
    pub tags: Vec<(String, String)>,
    /// Object lock retention.
    pub retention: Option<Retention>,
    /// Object lock legal hold.
    pub legal_hold: bool,
    /// Encryption asked for.
    pub sse: Sse,
    /// Canonical id of the owner.
    pub owner: String,
    /// Grants beyond the owner's, as `granary-access` encodes them; `None` where ACLs are off or private.
    pub acl: Option<Vec<u8>>,
}

/// Where a part's sealed bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PartPlace {
    /// In the index's `inline` column family, under the part id, as one sealed chunk.
    Inline,
    /// On drives.
    Drives(Placement),
    /// In blocks that the parts of a bucket share (`docs/adr/0014-deduplication.md`).
    Shared(Box<SharedPlace>),
}

/// How a part is made of blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedPlace {
    /// Where the recipe is: `blocks` once more, sealed with the part's own data key, as a part of its own on drives under
    /// the part's id. It is read by the last resort only.
    pub recipe: Placement,
    /// Payload bytes of the recipe.
    pub recipe_bytes: u64,
    /// The blocks, in the order of the part's bytes; never empty.
    pub blocks: Vec<BlockUse>,
    /// Blocks among these that the index may not have. In commands only: `apply` moves them into the index, or gives them up
    /// where the index has a block of the same name.
    pub fresh: Vec<FreshBlock>,
}

/// One block of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockUse {
    /// The block: a part of its own on drives.
    pub block: PartId,
    /// Its payload bytes, all of which the part uses.
    pub payload_bytes: u64,
}

/// A block's name within its bucket: a hash of its payload, keyed with the bucket's key.
pub type BlockName = [u8; 32];

/// A block that was just written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreshBlock {
    /// Its name.
    pub name: BlockName,
    /// Its id.
    pub id: PartId,
    /// Plaintext bytes.
    pub payload_bytes: u64,
    /// Its data key, wrapped by the bucket key.
    pub key: WrappedKey,
    /// Where it is.
    pub placement: Placement,
}

/// A block, and how many uses it has. It lives while a part of any version, upload or manifest uses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRecord {
    /// The only bucket whose parts may use it.
    pub bucket: BucketId,
    /// Its name there.
    pub name: BlockName,
    /// Plaintext bytes.
    pub payload_bytes: u64,
    /// Its data key, wrapped by the bucket key.
    pub key: WrappedKey,
    /// Where it is.
    pub placement: Placement,
    /// Uses: a part that has it twice counts twice.
    pub uses: u64,
    /// Since when there are none. Then it may be retired.
    pub idle_since: Option<Timestamp>,
}

/// A part: bytes uploaded at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    /// Identity.
    pub id: PartId,
    /// Plaintext bytes.
    pub payload_bytes: u64,
    /// The part's data key, wrapped by the bucket key.
    pub key: WrappedKey,
    /// Where it is.
    pub place: PartPlace,
    /// Its ETag without quotes: 32 hex digits of MD5, or opaque.
    pub etag: String,
    /// Its checksum, if one was asked for or made.
    pub checksum: Option<Checksum>,
    /// When it was written.
    pub created: Timestamp,
}

impl PartRecord {
    /// What lies on drives under its id: its bytes, or the recipe of a part made of shared blocks; `None` for inline parts.
    #[must_use]
    pub fn location(&self) -> Option<PartLocation> {
        match &self.place {
            PartPlace::Inline => None,
            PartPlace::Drives(placement) => {
                Some(PartLocation { part: self.id, payload_bytes: self.payload_bytes, placement: placement.clone() })
            }
            PartPlace::Shared(shared) => Some(PartLocation {
                part: self.id,
                payload_bytes: shared.recipe_bytes,
                placement: shared.recipe.clone(),
            }),
        }
    }
}

/// An object's parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Parts {
    /// A zero-byte object.
    Empty,
    /// A plain PUT: one part.
    One(Box<PartRecord>),
    /// A multipart object: the parts are in the `manifests` column family under this id.
    Manifest {
        /// Key of the manifest: the id of the upload that made it.
        id: UploadId,
        /// Number of parts.
        count: u32,
    },
}

/// An object's bytes and attributes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRecord {
    /// Plaintext bytes.
    pub size_bytes: u64,
    /// Without quotes; `…-N` for multipart and opaque ones.
    pub etag: String,
    /// Whole-object checksum, if known.
    pub checksum: Option<Checksum>,
    /// Its parts.
    pub parts: Parts,
    /// The rest.
    pub attributes: Attributes,
}

/// What held of an object's bytes when they came from an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verified {
    /// A checksum of all bytes that the upstream gave, and its length.
    Checksum,
    /// The MD5 that is the upstream's ETag, and its length.
    Md5,
    /// The length alone: the upstream gave nothing else.
    Length,
}

/// Where a fetched object came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// The upstream's ETag, without quotes.
    pub etag: String,
    /// The upstream's `Last-Modified`.
    pub modified: Timestamp,
    /// When it was fetched.
    pub at: Timestamp,
    /// What held.
    pub verified: Verified,
}

/// An object that a bucket has because its upstream has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchedObject {
    /// The object.
    pub object: ObjectRecord,
    /// Where it came from.
    pub source: Fetched,
}

/// What a version is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VersionBody {
    /// An object.
    Object(Box<ObjectRecord>),
    /// A delete marker.
    DeleteMarker,
    /// A copy of an upstream's object (`docs/adr/0015-upstream-buckets.md`).
    Fetched(Box<FetchedObject>),
}

/// One immutable state of a key. (Tags, retention and legal hold are the exceptions that S3 makes.)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRecord {
    /// Its id; `VersionId::NULL` for null versions.
    pub version: VersionId,
    /// When it was created: strictly increasing along a key's history.
    pub created: Timestamp,
    /// Object or delete marker.
    pub body: VersionBody,
}

impl VersionRecord {
    /// The object, unless this is a delete marker.
    #[must_use]
    pub fn object(&self) -> Option<&ObjectRecord> {
        match &self.body {
            VersionBody::Object(object) => Some(object),
            VersionBody::Fetched(fetched) => Some(&fetched.object),
            VersionBody::DeleteMarker => None,
        }
    }

    /// The object, to be changed.
    pub fn object_mut(&mut self) -> Option<&mut ObjectRecord> {
        match &mut self.body {
            VersionBody::Object(object) => Some(object),
            VersionBody::Fetched(fetched) => Some(&mut fetched.object),
            VersionBody::DeleteMarker => None,
        }
    }

    /// Where it came from, if it is a copy of an upstream's object.
    #[must_use]
    pub fn fetched(&self) -> Option<&Fetched> {
        match &self.body {
            VersionBody::Fetched(fetched) => Some(&fetched.source),
            VersionBody::Object(_) | VersionBody::DeleteMarker => None,
        }
    }

    /// The same as an object of the bucket's own: it changed here.
    #[must_use]
    pub fn into_own(mut self) -> Self {
        if let VersionBody::Fetched(fetched) = self.body {
            self.body = VersionBody::Object(Box::new(fetched.object));
        }
        self
    }

    /// `Last-Modified` as clients see it: the upstream's where it is a copy of an upstream's object.
    #[must_use]
    pub fn modified(&self) -> Timestamp {
        self.fetched().map_or(self.created, |source| source.modified)
    }

    /// Whether this is a delete marker.
    #[must_use]
    pub const fn is_delete_marker(&self) -> bool {
        matches!(self.body, VersionBody::DeleteMarker)
    }
}

/// An open multipart upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadRecord {
    /// Its id.
    pub id: UploadId,
    /// The key it will become.
    pub key: ObjectKey,
    /// When it was begun.
    pub created: Timestamp,
    /// What the object will have.
    pub attributes: Attributes,
    /// Checksum algorithm the client announced.
    pub checksum_algorithm: Option<ChecksumAlgorithm>,
    /// Full-object or composite.
    pub checksum_kind: Option<ChecksumKind>,
    /// How ETags of its parts are made (fixed when it begins).
    pub etag: EtagMode,
}

/// Who refers to a part that lies on drives. Kept for every such part so that repair can walk the parts
/// and the orphan sweep can tell a live shard from a dead one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRef {
    /// Bucket of the object or upload.
    pub bucket: BucketId,
    /// Plaintext bytes.
    pub payload_bytes: u64,
    /// Where its shards are now.
    pub placement: Placement,
    /// Who holds it.
    pub owner: PartOwner,
}

/// The holder of a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PartOwner {
    /// A plain object's version (`created` finds its place among the key's versions).
    Version {
        /// Key.
        key: ObjectKey,
        /// Version id.
        version: VersionId,
        /// Its creation time.
        created: Timestamp,
    },
    /// An open upload.
    Upload {
        /// Key.
        key: ObjectKey,
        /// Upload.
        upload: UploadId,
        /// Part number.
        number: u16,
    },
    /// A completed upload's manifest.
    Manifest {
        /// Manifest.
        id: UploadId,
        /// Position in it, from 0.
        position: u32,
    },
    /// Nobody any more: its shards are to be freed, then the reference forgotten.
    Garbage {
        /// Since when.
        since: Timestamp,
    },
    /// It is a block that parts of the bucket share (`BlockRecord`).
    Block,
}
