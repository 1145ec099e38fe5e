//! Deduplication within a bucket that asks for it: a part is cut into blocks by its content, each block is named by a keyed
//! hash, and a block that the bucket has already is used once more instead of written again.
//!
//! Guarantees: a part is acknowledged only when all its blocks are durable and its command, which counts their uses, is in the
//! log; a block is freed only when the log says that nothing uses it, and nobody here reads or is about to use it. What a
//! crash leaves between writing blocks and the command are orphans, as ever. Each block is sealed with a key of its own, wrapped
//! by the bucket's: destroying that shreds it. Objects under a named or a customer's key are never cut (their
//! keys may differ from one to the next). See `docs/adr/0014-deduplication.md`.

mod cut;
mod ingest;
mod readers;
mod recipe;

use granary_meta::records::{BucketRecord, Sse};
use granary_types::limits::{COMMAND_BYTES_MAX, COPIES_BYTES_MAX, PART_BYTES_MAX};
use serde::{Deserialize, Serialize};

pub(crate) use cut::Limits;
pub(crate) use ingest::{Shared, SharedSpec};
pub(crate) use readers::{Readers, ReadingGuard};
pub(crate) use recipe::{RECIPE_BYTES_MAX, decode as decode_recipe};

/// Name of the bucket document with [`Dedup`].
pub const DEDUP: &str = "granary-dedup";
/// What presets set (`docs/adr/0014-deduplication.md` has the measurements).
pub const BLOCK_BYTES_DEFAULT: u64 = 1 << 20;
/// The smallest average.
pub const BLOCK_BYTES_MIN: u64 = 1 << 20;
/// The largest.
pub const BLOCK_BYTES_MAX: u64 = 8 << 20;
/// Bytes that one new block may take in a command.
const COMMAND_BYTES_PER_BLOCK: u64 = 256;

const _: () = {
    // A part of nothing but the smallest blocks, all of them new, fits its command.
    assert!(PART_BYTES_MAX / Limits::of(BLOCK_BYTES_MIN).min * COMMAND_BYTES_PER_BLOCK < COMMAND_BYTES_MAX as u64);
    // Blocks are striped, not copied.
    assert!(Limits::of(BLOCK_BYTES_MIN).min > COPIES_BYTES_MAX);
    assert!(BLOCK_BYTES_DEFAULT >= BLOCK_BYTES_MIN && BLOCK_BYTES_DEFAULT <= BLOCK_BYTES_MAX);
};

/// How a bucket's parts are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dedup {
    /// Bytes of a block on average: a power of two from 1 to 8 MiB. Parts cut with another share little.
    pub block_bytes: u64,
}

impl Default for Dedup {
    fn default() -> Self {
        Self { block_bytes: BLOCK_BYTES_DEFAULT }
    }
}

impl Dedup {
    /// Checks it.
    ///
    /// # Errors
    /// What would be right.
    pub fn check(&self) -> Result<(), String> {
        let fits =
            (BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&self.block_bytes) && self.block_bytes.is_power_of_two();
        if fits {
            return Ok(());
        }
        Err(format!(
            "blocks are a power of two from {BLOCK_BYTES_MIN} to {BLOCK_BYTES_MAX} bytes on average, not {}",
            self.block_bytes
        ))
    }
}

/// How a part of `size_bytes` of this bucket is cut; `None`: not at all.
pub(crate) fn limits_for(bucket: &BucketRecord, sse: &Sse, size_bytes: u64) -> Option<Limits> {
    let document = bucket.documents.get(DEDUP)?;
    let rule = serde_json::from_slice::<Dedup>(document).map_err(|error| error.to_string());
    let rule = match rule.and_then(|rule| rule.check().map(|()| rule)) {
        Ok(rule) => rule,
        // Written by a newer program: what comes is kept whole.
        Err(error) => {
            tracing::warn!(bucket = %bucket.name, %error, "the deduplication setting cannot be read: nothing is shared");
            return None;
        }
    };
    let limits = Limits::of(rule.block_bytes);
    // What would be one block is worth sharing, what is below the smallest is not.
    (*sse == Sse::S3 && size_bytes >= limits.min).then_some(limits)
}
