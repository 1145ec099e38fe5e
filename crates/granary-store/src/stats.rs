//! Counters of the store, plain atomics; the binary turns them into metrics.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since start.
#[derive(Debug, Default)]
pub struct StoreStats {
    /// Plaintext bytes taken in.
    pub ingested_bytes: AtomicU64,
    /// Plaintext bytes given out.
    pub served_bytes: AtomicU64,
    /// Parts kept inline.
    pub inline_parts: AtomicU64,
    /// Parts written to drives.
    pub drive_parts: AtomicU64,
    /// Parts cut into shared blocks.
    pub shared_parts: AtomicU64,
    /// Plaintext bytes of blocks that had to be written.
    pub blocks_written_bytes: AtomicU64,
    /// Plaintext bytes of blocks that were there already.
    pub blocks_found_bytes: AtomicU64,
    /// Chunks whose tag did not match and that were rebuilt from other shards.
    pub rebuilt_chunks: AtomicU64,
    /// Chunks that could not be rebuilt.
    pub lost_chunks: AtomicU64,
    /// Garbage parts freed.
    pub reaped_parts: AtomicU64,
    /// Shared blocks that nothing used any more, made garbage.
    pub retired_blocks: AtomicU64,
    /// Orphan shards freed.
    pub orphan_shards: AtomicU64,
    /// Parts repaired.
    pub healed_parts: AtomicU64,
    /// Parts that repair could not make whole.
    pub heal_failures: AtomicU64,
    /// Rounds of the lifecycle worker.
    pub lifecycle_rounds: AtomicU64,
    /// Versions that it looked at.
    pub lifecycle_scanned: AtomicU64,
    /// Current versions that it deleted.
    pub lifecycle_expired: AtomicU64,
    /// Noncurrent versions that it removed.
    pub lifecycle_noncurrent: AtomicU64,
    /// Delete markers that it removed.
    pub lifecycle_markers: AtomicU64,
    /// Uploads that it aborted.
    pub lifecycle_uploads: AtomicU64,
    /// Versions that it moved to another storage class.
    pub lifecycle_transitions: AtomicU64,
    /// What object lock kept it from.
    pub lifecycle_locked: AtomicU64,
    /// What had changed before its command was applied.
    pub lifecycle_stale: AtomicU64,
    /// Commands that the log did not take; the next round tries again.
    pub lifecycle_failures: AtomicU64,
}

impl StoreStats {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}
