//! Shared blocks: how many parts use each, kept in the same batch as the parts themselves.
//!
//! A block is made by the command whose part brings it, and lives while any part of its bucket uses it: of a current or
//! older version, of a manifest, of an open upload. Without a use it is *idle*: it keeps its name, so that a write that found it
//! may still use it, until [`crate::command::Command::RetireBlocks`] makes it garbage. A part never names a block that the index
//! does not have: its command is refused then.
//!
//! A command may drop and add uses of one block (an overwrite), so changes are gathered and written once, at its end.

use std::collections::{BTreeMap, BTreeSet};

use granary_types::{BucketId, PartId, Timestamp};

use super::{Cx, Step};
use crate::command::{Outcome, Refusal};
use crate::error::Result;
use crate::index::layout::{block_name_key, block_usage_key, garbage_key};
use crate::index::{BlockUsage, Family};
use crate::records::{
    BlockName, BlockRecord, BlockUse, FreshBlock, PartOwner, PartPlace, PartRecord, PartRef, SharedPlace,
};

/// Blocks that a command touches, as it leaves them.
#[derive(Default)]
pub(crate) struct Pending {
    blocks: BTreeMap<PartId, Touched>,
    /// Names of the blocks that it makes.
    names: BTreeMap<(BucketId, BlockName), PartId>,
    usage: BTreeMap<BucketId, BlockUsage>,
}

struct Touched {
    /// As the index has it; `None` for a new one.
    before: Option<BlockRecord>,
    now: BlockRecord,
}

impl Cx<'_, '_> {
    /// The block as this command leaves it.
    fn block(&mut self, id: PartId) -> Result<Option<&mut BlockRecord>> {
        if !self.blocks.blocks.contains_key(&id) {
            let Some(there) = self.index.block(id)? else { return Ok(None) };
            self.blocks.blocks.insert(id, Touched { before: Some(there.clone()), now: there });
        }
        Ok(self.blocks.blocks.get_mut(&id).map(|touched| &mut touched.now))
    }

    fn block_usage(&mut self, bucket: BucketId) -> Result<&mut BlockUsage> {
        if !self.blocks.usage.contains_key(&bucket) {
            let usage = self.index.block_usage(bucket)?;
            self.blocks.usage.insert(bucket, usage);
        }
        Ok(self.blocks.usage.entry(bucket).or_default())
    }

    /// Takes in the blocks that a new part brings and counts its uses of all its blocks. Returns the part as it is kept: with
    /// nothing fresh, and with the blocks that were there instead of fresh ones of the same name.
    pub(super) fn use_blocks(&mut self, bucket: BucketId, part: &PartRecord, place: &SharedPlace) -> Step<PartRecord> {
        let sum = place.blocks.iter().try_fold(0u64, |sum, used| sum.checked_add(used.payload_bytes));
        if place.blocks.is_empty() || sum != Some(part.payload_bytes) {
            return Err(Refusal::InvalidState("the part's blocks do not make its size").into());
        }
        let mut instead = BTreeMap::new();
        for fresh in &place.fresh {
            if let Some(there) = self.take_in(bucket, fresh)? {
                instead.insert(fresh.id, there);
            }
        }
        let mut blocks = Vec::with_capacity(place.blocks.len());
        for used in &place.blocks {
            let id = instead.get(&used.block).copied().unwrap_or(used.block);
            let block = self.block(id)?.ok_or(Refusal::BlockGone)?;
            if block.bucket != bucket || block.payload_bytes != used.payload_bytes {
                return Err(Refusal::InvalidState("a block of the part is another's").into());
            }
            block.uses += 1;
            blocks.push(BlockUse { block: id, payload_bytes: used.payload_bytes });
        }
        self.block_usage(bucket)?.logical_bytes += part.payload_bytes;
        let place = SharedPlace { blocks, fresh: Vec::new(), ..place.clone() };
        Ok(PartRecord { place: PartPlace::Shared(Box::new(place)), ..part.clone() })
    }

    /// Makes a block, unless there is one of its name: that one is returned, and the fresh one becomes garbage.
    fn take_in(&mut self, bucket: BucketId, fresh: &FreshBlock) -> Step<Option<PartId>> {
        let named = match self.blocks.names.get(&(bucket, fresh.name)) {
            Some(id) => Some(*id),
            None => self.index.block_named(bucket, &fresh.name)?,
        };
        if let Some(there) = named {
            let size = self.block(there)?.ok_or(Refusal::BlockGone)?.payload_bytes;
            if size != fresh.payload_bytes {
                return Err(Refusal::InvalidState("two blocks of one name differ in size").into());
            }
            if there == fresh.id {
                return Ok(None);
            }
            if self.index.part_ref(fresh.id)?.is_some() || self.blocks.blocks.contains_key(&fresh.id) {
                return Err(Refusal::InvalidState("the block is in use already").into());
            }
            self.discard(bucket, fresh.id, fresh.payload_bytes, fresh.placement.clone());
            return Ok(Some(there));
        }
        if self.index.part_ref(fresh.id)?.is_some() || self.blocks.blocks.contains_key(&fresh.id) {
            return Err(Refusal::InvalidState("the block is in use already").into());
        }
        let now = BlockRecord {
            bucket,
            name: fresh.name,
            payload_bytes: fresh.payload_bytes,
            key: fresh.key.clone(),
            placement: fresh.placement.clone(),
            uses: 0,
            idle_since: None,
        };
        self.blocks.blocks.insert(fresh.id, Touched { before: None, now });
        self.blocks.names.insert((bucket, fresh.name), fresh.id);
        let usage = self.block_usage(bucket)?;
        usage.blocks += 1;
        usage.stored_bytes += fresh.payload_bytes;
        Ok(None)
    }

    /// A part with these blocks is given up.
    pub(super) fn leave_blocks(&mut self, bucket: BucketId, payload_bytes: u64, place: &SharedPlace) -> Result<()> {
        for used in &place.blocks {
            // One that is not there cannot be given up; `use_blocks` lets no part have such.
            if let Some(block) = self.block(used.block)? {
                block.uses = block.uses.saturating_sub(1);
            }
        }
        let usage = self.block_usage(bucket)?;
        usage.logical_bytes = usage.logical_bytes.saturating_sub(payload_bytes);
        Ok(())
    }

    /// Writes what the command did to blocks.
    pub(super) fn settle_blocks(&mut self) -> Step<()> {
        let Pending { blocks, usage, .. } = std::mem::take(&mut self.blocks);
        for (id, Touched { before, mut now }) in blocks {
            let was_idle = before.as_ref().and_then(|block| block.idle_since);
            now.idle_since = if now.uses > 0 { None } else { was_idle.or(Some(self.at)) };
            if before.as_ref() == Some(&now) {
                continue;
            }
            if let Some(since) = was_idle.filter(|since| now.idle_since != Some(*since)) {
                self.batch.delete(Family::IdleBlocks, &garbage_key(since, id));
            }
            if let Some(since) = now.idle_since {
                self.batch.put_raw(Family::IdleBlocks, &garbage_key(since, id), &[]);
            }
            if before.is_none() {
                let BlockRecord { bucket, payload_bytes, ref placement, .. } = now;
                self.batch.put_raw(Family::BlockNames, &block_name_key(bucket, &now.name), &id.0);
                let placement = placement.clone();
                let reference = PartRef { bucket, payload_bytes, placement, owner: PartOwner::Block };
                self.batch.put(Family::PartRefs, &id.0, &reference);
            }
            self.batch.put(Family::Blocks, &id.0, &now);
        }
        for (bucket, usage) in usage {
            if self.index.bucket_by_id(bucket).is_some() {
                self.batch.put(Family::Sys, &block_usage_key(bucket), &usage);
            }
        }
        Ok(())
    }

    pub(super) fn retire_blocks(&mut self, blocks: &[(PartId, Timestamp)]) -> Step<Outcome> {
        let mut done = BTreeSet::new();
        for (id, since) in blocks {
            let Some(block) = self.index.block(*id)? else { continue };
            if block.uses > 0 || block.idle_since != Some(*since) || !done.insert(*id) {
                continue;
            }
            self.batch.delete(Family::Blocks, &id.0);
            self.batch.delete(Family::IdleBlocks, &garbage_key(*since, *id));
            self.batch.delete(Family::BlockNames, &block_name_key(block.bucket, &block.name));
            self.discard(block.bucket, *id, block.payload_bytes, block.placement);
            let usage = self.block_usage(block.bucket)?;
            usage.blocks = usage.blocks.saturating_sub(1);
            usage.stored_bytes = usage.stored_bytes.saturating_sub(block.payload_bytes);
        }
        Ok(Outcome::Done)
    }
}
