//! Freeing shards. The index forgets them at once; their space comes back later (`chores.rs`), when the free is
//! durable and no reader is left.

use granary_types::ShardId;

use crate::api::{DriveError, Result};
use crate::core::Core;
use crate::index::Changes;

/// Removes shards from the index; those not there are passed over.
pub(crate) fn free(core: &Core, shards: &[ShardId]) -> Result<()> {
    core.check_accepting()?;
    for shard in shards {
        // One at a time under the lock of those being written, so that two frees of a shard count it once.
        let writing = core.writing.lock();
        if writing.contains(shard) {
            // Not committed yet, as far as anybody was told.
            continue;
        }
        let record = match core.index.shard(*shard) {
            Ok(Some(record)) => record,
            Ok(None) => continue,
            Err(error @ DriveError::Format(_)) => {
                drop(writing);
                return Err(core.index_fault(error));
            }
            Err(error) => return Err(error),
        };
        let mut changes = Changes::default();
        changes.delete_shard(&record);
        core.index.apply(changes).map_err(|error| core.index_fault(error))?;
        core.cache.forget(*shard);
        drop(writing);
        core.space.free(&record.extents);
        core.chores.freed(&record.extents, core.segment_bytes);
        core.stats.frees.add(1);
    }
    Ok(())
}
