//! The way in for a part that is cut into blocks: each block is gathered in memory, named, looked up, and written only if the
//! bucket has none of its name. A few blocks are written at once while the next is gathered.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use granary_crypto::{BucketKeys, ChunkCipher, DataKey, Lock};
use granary_meta::records::{BlockName, BlockUse, BucketRecord, FreshBlock, SharedPlace};
use granary_stripe::StripeStore;
use granary_types::limits::BLOCK_BYTES;
use granary_types::{ChecksumAlgorithm, ChecksumHasher, ObjectKey, PartId, Placement, Scheme};

use super::cut::{Cutter, Limits};
use super::recipe;
use crate::active::ActiveGuard;
use crate::api::{BodyIn, Claims, Result};
use crate::digest::{Digested, Digests};
use crate::error::StoreError;
use crate::header::{PartOf, ShardMeta};
use crate::inner::{Inner, from_meta, from_stripe};
use crate::stats::StoreStats;

/// Blocks of one part that are being written at once.
const WRITES_IN_FLIGHT: u64 = 3;
/// What the headers of a block's shards have for a key: it belongs to none.
const BLOCK_KEY: &str = ".granary/block";

/// A part to be cut.
pub(crate) struct SharedSpec<'a> {
    pub(crate) bucket: &'a BucketRecord,
    pub(crate) keys: &'a Arc<BucketKeys>,
    pub(crate) id: PartId,
    /// Seals the recipe.
    pub(crate) cipher: &'a ChunkCipher,
    pub(crate) limits: Limits,
    pub(crate) size_bytes: u64,
}

/// A part that was cut. The guards keep the reaper and the sweep away from its blocks until its command is applied.
pub(crate) struct Shared {
    pub(crate) place: SharedPlace,
    pub(crate) digested: Digested,
    pub(crate) guards: Vec<ActiveGuard>,
}

/// Blocks that this body has brought. Unless they are taken, their shards are freed: no command will name them.
struct Fresh {
    stripes: StripeStore,
    blocks: Vec<FreshBlock>,
}

impl Fresh {
    fn take(mut self) -> Vec<FreshBlock> {
        std::mem::take(&mut self.blocks)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let blocks = std::mem::take(&mut self.blocks);
        // Without a runtime the node is ending: the sweep frees them.
        if let (false, Ok(runtime)) = (blocks.is_empty(), tokio::runtime::Handle::try_current()) {
            let stripes = self.stripes.clone();
            runtime.spawn(async move {
                for block in blocks {
                    stripes.free_part(block.id, &block.placement).await;
                }
            });
        }
    }
}

/// The blocks of a part so far.
struct Gathered<'a> {
    inner: &'a Inner,
    spec: &'a SharedSpec<'a>,
    uses: Vec<BlockUse>,
    known: HashMap<BlockName, PartId>,
    guards: Vec<ActiveGuard>,
    writes: FuturesUnordered<BoxFuture<'a, Result<Written>>>,
    fresh: Fresh,
    /// Buffers of blocks that are done with: memory that is new to the process costs more than what is copied into it.
    spare: Vec<Vec<u8>>,
}

/// A block that was written, and the buffer that it was in.
type Written = (FreshBlock, Vec<u8>);

impl Inner {
    /// Takes in a body of exactly `spec.size_bytes` as blocks. `meta` makes the recipe's header; its bytes are the argument.
    ///
    /// # Errors
    /// As [`Inner::ingest`]; nothing of the body stays then.
    pub(crate) async fn ingest_shared(
        &self,
        spec: SharedSpec<'_>,
        mut digests: Digests,
        claims: Claims,
        body: &mut BodyIn,
        meta: impl FnOnce(&Digested, u64) -> ShardMeta,
    ) -> Result<Shared> {
        let namer = spec.keys.block_namer(spec.bucket.id);
        let _memory = self.reserve_bytes(self.shared_memory(&spec)).await?;
        let fresh = Fresh { stripes: self.stripes.clone(), blocks: Vec::new() };
        let mut gathered = Gathered {
            inner: self,
            spec: &spec,
            uses: Vec::new(),
            known: HashMap::new(),
            guards: Vec::new(),
            writes: FuturesUnordered::new(),
            fresh,
            spare: Vec::new(),
        };
        let mut cutter = Cutter::new(namer.gear(), spec.limits, spec.size_bytes);
        let mut open = gathered.buffer();
        let mut got_bytes = 0u64;
        while let Some(frame) = gathered.next_frame(body).await? {
            got_bytes += frame.len() as u64;
            if got_bytes > spec.size_bytes {
                return Err(StoreError::IncompleteBody { want_bytes: spec.size_bytes, got_bytes });
            }
            digests.update_md5(&frame).await;
            let mut rest: &[u8] = &frame;
            while !rest.is_empty() {
                let (taken, ends) = cutter.take(rest);
                let (now, later) = rest.split_at(taken);
                open.extend_from_slice(now);
                digests.update_checksum(now);
                rest = later;
                if ends {
                    // At once: in pieces, as frames come, it takes half as long again.
                    gathered.add(namer.name(&open), open).await?;
                    open = gathered.buffer();
                }
            }
        }
        if got_bytes < spec.size_bytes {
            return Err(StoreError::IncompleteBody { want_bytes: spec.size_bytes, got_bytes });
        }
        gathered.finish_writes().await?;
        let digested = digests.finish(claims).await?;
        let Gathered { uses, guards, fresh, .. } = gathered;

        let recipe = recipe::encode(&uses)?;
        let recipe_bytes = recipe.len() as u64;
        let sealed_meta = meta(&digested, recipe_bytes).seal(self)?;
        let scheme = self.scheme(spec.bucket, recipe_bytes);
        let placement = self.write_sealed(spec.id, scheme, spec.cipher, &recipe, sealed_meta).await?;
        StoreStats::add(&self.stats.shared_parts, 1);
        let place = SharedPlace { recipe: placement, recipe_bytes, blocks: uses, fresh: fresh.take() };
        Ok(Shared { place, digested, guards })
    }

    /// Memory that a part which is being cut holds: the open block, those being written, and their stripes.
    fn shared_memory(&self, spec: &SharedSpec<'_>) -> u64 {
        let scheme = self.scheme(spec.bucket, spec.limits.average);
        let blocks = spec.limits.block_bytes_max().saturating_mul(WRITES_IN_FLIGHT + 1);
        let stripes = (scheme.width() * BLOCK_BYTES) as u64 * WRITES_IN_FLIGHT;
        blocks.min(spec.size_bytes.saturating_mul(2)).saturating_add(stripes)
    }

    /// A block of that name that the bucket has, kept from being freed.
    fn find_block(&self, spec: &SharedSpec<'_>, name: &BlockName, len: u64) -> Result<Option<(PartId, ActiveGuard)>> {
        let index = self.index()?;
        let Some(id) = index.block_named(spec.bucket.id, name).map_err(from_meta)? else { return Ok(None) };
        // Guarded first, looked at again then: the reaper looks at guards before it retires.
        let guard = self.active.enter(id);
        let block = index.block(id).map_err(from_meta)?;
        let is_it = block
            .is_some_and(|block| block.bucket == spec.bucket.id && block.payload_bytes == len && block.name == *name);
        Ok(is_it.then_some((id, guard)))
    }

    /// Seals `payload` and makes it durable as the shards of part `id`.
    async fn write_sealed(
        &self,
        id: PartId,
        scheme: Scheme,
        cipher: &ChunkCipher,
        payload: &[u8],
        sealed_meta: Bytes,
    ) -> Result<Placement> {
        let mut writer = self.stripes.begin(id, payload.len() as u64, scheme).await.map_err(from_stripe)?;
        for chunk in 0..writer.layout().chunks() {
            let place = writer.layout().chunk(chunk);
            let start = usize::try_from(place.payload_start).unwrap_or(usize::MAX);
            let bytes = payload.get(start..start.saturating_add(place.payload_bytes));
            let bytes = bytes.ok_or_else(|| StoreError::Internal(format!("chunk {chunk} lies outside its block")))?;
            let slot = writer.slot_mut();
            slot[..bytes.len()].copy_from_slice(bytes);
            cipher.seal(chunk, slot);
            writer.advance().await.map_err(from_stripe)?;
        }
        let placement = writer.commit(sealed_meta).await.map_err(from_stripe)?;
        if !placement.is_whole() {
            self.heal.degraded_write.store(true, std::sync::atomic::Ordering::Release);
        }
        Ok(placement)
    }

    async fn write_block(
        &self,
        bucket: &BucketRecord,
        keys: Arc<BucketKeys>,
        name: BlockName,
        id: PartId,
        payload: Vec<u8>,
    ) -> Result<Written> {
        let payload_bytes = payload.len() as u64;
        let data_key = DataKey::generate();
        let key = keys.wrap_data_key(&data_key, id, &Lock::None);
        let cipher = ChunkCipher::new(&data_key, id);
        let mut checksum = ChecksumHasher::new(ChecksumAlgorithm::Crc64nvme);
        checksum.update(&payload);
        let meta = ShardMeta {
            part: id,
            bucket: bucket.id,
            bucket_name: bucket.name.clone(),
            key: ObjectKey::new(BLOCK_KEY).map_err(|error| StoreError::Internal(error.to_string()))?,
            of: PartOf::Block { name },
            payload_bytes,
            data_key: key.clone(),
            etag: String::new(),
            checksum: checksum.finish(),
            created: self.clock.now(),
            attributes: None,
        };
        let scheme = self.scheme(bucket, payload_bytes);
        let placement = self.write_sealed(id, scheme, &cipher, &payload, meta.seal(self)?).await?;
        StoreStats::add(&self.stats.blocks_written_bytes, payload_bytes);
        Ok((FreshBlock { name, id, payload_bytes, key, placement }, payload))
    }
}

impl<'a> Gathered<'a> {
    /// The body's next frame, while blocks are being written.
    async fn next_frame(&mut self, body: &mut BodyIn) -> Result<Option<Bytes>> {
        loop {
            tokio::select! {
                biased;
                Some(written) = self.writes.next(), if !self.writes.is_empty() => self.keep(written?),
                frame = body.next() => return Ok(frame.transpose()?),
            }
        }
    }

    /// Adds a block to the part: one that is known, or that is written from here on.
    async fn add(&mut self, name: BlockName, payload: Vec<u8>) -> Result<()> {
        let payload_bytes = payload.len() as u64;
        let known = match self.known.get(&name) {
            Some(id) => Some(*id),
            None => self.inner.find_block(self.spec, &name, payload_bytes)?.map(|(id, guard)| {
                self.guards.push(guard);
                id
            }),
        };
        let block = match known {
            Some(id) => {
                StoreStats::add(&self.inner.stats.blocks_found_bytes, payload_bytes);
                self.spare.push(payload);
                id
            }
            None => {
                let id = PartId::random();
                self.guards.push(self.inner.active.enter(id));
                while self.writes.len() as u64 >= WRITES_IN_FLIGHT {
                    self.write_one().await?;
                }
                let (inner, bucket, keys) = (self.inner, self.spec.bucket, Arc::clone(self.spec.keys));
                self.writes.push(Box::pin(inner.write_block(bucket, keys, name, id, payload)));
                id
            }
        };
        self.known.insert(name, block);
        self.uses.push(BlockUse { block, payload_bytes });
        Ok(())
    }

    async fn write_one(&mut self) -> Result<()> {
        if let Some(written) = self.writes.next().await {
            self.keep(written?);
        }
        Ok(())
    }

    fn keep(&mut self, (block, buffer): Written) {
        self.fresh.blocks.push(block);
        self.spare.push(buffer);
    }

    /// An empty buffer that a block fits into. Pages that are not written to take no memory.
    fn buffer(&mut self) -> Vec<u8> {
        let mut buffer = self.spare.pop().unwrap_or_else(|| {
            let most = self.spec.limits.block_bytes_max().min(self.spec.size_bytes);
            Vec::with_capacity(usize::try_from(most).unwrap_or(0))
        });
        buffer.clear();
        buffer
    }

    async fn finish_writes(&mut self) -> Result<()> {
        while !self.writes.is_empty() {
            self.write_one().await?;
        }
        Ok(())
    }
}
