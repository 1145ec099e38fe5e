//! The drive's own limits, in one place.

use granary_types::limits::{ALIGN_BYTES, BLOCK_BYTES, CHUNK_BYTES, EXTENT_BYTES_MAX, SEGMENT_BYTES_MIN};

use crate::api::{DriveError, Result, ShardSpec};

/// Longest sealed metadata in a shard's header.
pub const META_BYTES_MAX: usize = 8 * 1024;
/// Longest single read.
pub const READ_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest shard: the shard of the largest part kept as one copy, and room for tags.
pub const SHARD_BYTES_MAX: u64 = 6 * 1024 * 1024 * 1024;
/// Shards of at most this are held in memory until `commit` and written with one call.
pub(crate) const SMALL_BYTES_MAX: u64 = BLOCK_BYTES as u64;
/// Front of a segment file that holds its own header (two copies).
pub(crate) const SEGMENT_HEAD_BYTES: u64 = 2 * ALIGN_BYTES as u64;
/// Bytes of committed data after which the drive's index is flushed.
pub(crate) const FLUSH_BYTES: u64 = 256 * 1024 * 1024;
/// CRCs kept in the shard's own index record; longer shards have a record per extent for them.
pub(crate) const CRCS_INLINE_MAX: usize = BLOCK_BYTES / CHUNK_BYTES;

const _: () = {
    assert!(READ_BYTES_MAX.is_multiple_of(CHUNK_BYTES));
    assert!(EXTENT_BYTES_MAX.is_multiple_of(CHUNK_BYTES as u64));
    assert!(SMALL_BYTES_MAX + SEGMENT_HEAD_BYTES + 64 * 1024 < SEGMENT_BYTES_MIN);
};

/// What every store asks of a spec: a length that is not zero, aligned, and bounded.
pub(crate) fn check_spec(spec: &ShardSpec) -> Result<()> {
    let bytes = spec.shard_bytes;
    if bytes == 0 || !bytes.is_multiple_of(ALIGN_BYTES as u64) || bytes > SHARD_BYTES_MAX {
        return Err(DriveError::Invalid(format!(
            "shard {} of {bytes} bytes: must be a multiple of {ALIGN_BYTES}, not zero, at most {SHARD_BYTES_MAX}",
            spec.shard
        )));
    }
    Ok(())
}
