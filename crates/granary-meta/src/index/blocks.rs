//! Reading what is known of shared blocks.

use granary_types::{BucketId, PartId, Timestamp};

use super::{BlockUsage, Family, Index, layout};
use crate::error::Result;
use crate::records::{BlockName, BlockRecord};

impl Index {
    /// A shared block.
    ///
    /// # Errors
    /// The index's.
    pub fn block(&self, block: PartId) -> Result<Option<BlockRecord>> {
        self.get(Family::Blocks, &block.0)
    }

    /// The block of that name in a bucket.
    ///
    /// # Errors
    /// The index's.
    pub fn block_named(&self, bucket: BucketId, name: &BlockName) -> Result<Option<PartId>> {
        let Some(id) = self.get_raw(Family::BlockNames, &layout::block_name_key(bucket, name))? else {
            return Ok(None);
        };
        let id = <[u8; 16]>::try_from(&id[..]).map_err(|_| self.undecodable(Family::BlockNames, "value length"))?;
        Ok(Some(PartId(id)))
    }

    /// Up to `limit` blocks without a use, the longest idle first, with the time since when.
    ///
    /// # Errors
    /// The index's.
    pub fn idle_blocks(&self, limit: usize) -> Result<Vec<(PartId, Timestamp)>> {
        let mut found = Vec::new();
        let mut iter = self.db().raw_iterator_cf(self.family(Family::IdleBlocks));
        iter.seek_to_first();
        while found.len() < limit {
            let Some(key) = iter.key() else { break };
            let since = key.get(..8).and_then(|since| since.try_into().ok()).map(u64::from_be_bytes);
            let block = key.get(8..24).and_then(|id| id.try_into().ok()).map(PartId);
            let (Some(since), Some(block)) = (since, block) else {
                return Err(self.undecodable(Family::IdleBlocks, "key length"));
            };
            found.push((block, Timestamp(since)));
            iter.next();
        }
        iter.status().map_err(|e| self.noticed(e))?;
        Ok(found)
    }

    /// What a bucket's parts made of shared blocks hold.
    ///
    /// # Errors
    /// The index's.
    pub fn block_usage(&self, bucket: BucketId) -> Result<BlockUsage> {
        Ok(self.get(Family::Sys, &layout::block_usage_key(bucket))?.unwrap_or_default())
    }
}
