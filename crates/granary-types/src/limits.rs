//! Every limit and size that more than one crate relies on, in one place, with the relations between
//! them checked at compile time. Units are in the names: `_bytes`, `_count`, `_ms`.
//!
//! S3's own limits: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>.

/// Bytes of one sealed chunk on disk: payload followed by the AES-GCM tag.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// Bytes of an AES-GCM tag.
pub const TAG_BYTES: usize = 16;
/// Bytes of plaintext in one full chunk.
pub const CHUNK_PAYLOAD_BYTES: usize = CHUNK_BYTES - TAG_BYTES;
/// Chunks in one block of a full stripe (one drive's share of a stripe).
pub const BLOCK_CHUNKS: usize = 8;
/// Bytes of one block of a full stripe.
pub const BLOCK_BYTES: usize = BLOCK_CHUNKS * CHUNK_BYTES;
/// Alignment of every O_DIRECT buffer, offset and length.
pub const ALIGN_BYTES: usize = 4096;

/// Objects of at most this payload travel inside their command and live in the index.
pub const INLINE_BYTES_MAX: usize = 16 * 1024;
/// Parts of at most this payload are kept as `m + 1` whole copies instead of stripes.
pub const COPIES_BYTES_MAX: u64 = 128 * 1024;

/// Data blocks per stripe, at most.
pub const DATA_BLOCKS_MAX: usize = 16;
/// Parity blocks per stripe, at most.
pub const PARITY_BLOCKS_MAX: usize = 4;

/// Default size of a segment file.
pub const SEGMENT_BYTES_DEFAULT: u64 = 1024 * 1024 * 1024;
/// Smallest segment file allowed (tests use it).
pub const SEGMENT_BYTES_MIN: u64 = 8 * 1024 * 1024;
/// Largest extent: a shard longer than this is laid out as several.
pub const EXTENT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Encoded bytes of one command, at most (inline payload, user metadata and a 10,000-part manifest fit).
pub const COMMAND_BYTES_MAX: usize = 8 * 1024 * 1024;

/// S3: parts in a multipart upload.
pub const PARTS_COUNT_MAX: u32 = 10_000;
/// S3: smallest part but the last.
pub const PART_BYTES_MIN: u64 = 5 * 1024 * 1024;
/// S3: largest part, and largest single PUT.
pub const PART_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;
/// S3: largest object.
pub const OBJECT_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024 * 1024;
/// S3: longest key, in UTF-8 bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// S3: user metadata, names and values together.
pub const USER_METADATA_BYTES_MAX: usize = 2048;
/// S3: keys in one multi-object delete.
pub const DELETE_KEYS_MAX: usize = 1000;
/// S3: entries in one listing page.
pub const LIST_KEYS_MAX: u32 = 1000;
/// S3: tags on an object.
pub const OBJECT_TAGS_MAX: usize = 10;
/// S3: buckets an account may own by default quota is 10,000; we keep the number as the limit.
pub const BUCKETS_COUNT_MAX: usize = 10_000;

/// One part in so many of each drive's space is the audit trail's alone: what clients write is refused before it is touched, so that
/// events can be sealed on drives that are full.
pub const AUDIT_SPACE_SHARE: u64 = 64;
/// Days that the audit trail is kept at least, whatever anybody asks for.
pub const AUDIT_KEEP_DAYS_MIN: u64 = 180;

const _: () = {
    assert!(CHUNK_BYTES.is_multiple_of(ALIGN_BYTES));
    assert!(BLOCK_BYTES.is_multiple_of(ALIGN_BYTES));
    assert!(INLINE_BYTES_MAX <= COPIES_BYTES_MAX as usize);
    assert!(INLINE_BYTES_MAX + 64 * 1024 < COMMAND_BYTES_MAX);
    assert!(EXTENT_BYTES_MAX <= SEGMENT_BYTES_DEFAULT);
    assert!(EXTENT_BYTES_MAX.is_multiple_of(BLOCK_BYTES as u64));
    assert!(DATA_BLOCKS_MAX + PARITY_BLOCKS_MAX <= 32);
    assert!(PARTS_COUNT_MAX as u64 * PART_BYTES_MAX >= OBJECT_BYTES_MAX);
};
