//! The memory twin: a shard store in a `BTreeMap`.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use granary_types::frame::{ChunkCrcs, crc32c};
use granary_types::limits::{ALIGN_BYTES, CHUNK_BYTES};
use granary_types::{Clock, DriveId, ShardId, SystemClock};
use parking_lot::Mutex;

use crate::api::{
    DriveError, DriveHealth, DriveSpace, Result, ShardInfo, ShardSpec, ShardStore, ShardWriter, VerifyReport,
};
use crate::buf::{AlignedBuf, AlignedBytes};
use crate::limits::META_BYTES_MAX;
use crate::reader::{check_chunk_offset, check_range};

struct Stored {
    info: ShardInfo,
    meta: Bytes,
    data: Vec<u8>,
    /// CRC-32C of each 64 KiB, as it was committed.
    crcs: Vec<u32>,
}

fn crcs_of(data: &[u8]) -> Vec<u32> {
    data.chunks(CHUNK_BYTES).map(crc32c).collect()
}

struct State {
    shards: BTreeMap<ShardId, Stored>,
    writing: HashSet<ShardId>,
    used_bytes: u64,
    health: DriveHealth,
}

struct Inner {
    id: DriveId,
    total_bytes: u64,
    reserve_bytes: u64,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

/// A [`ShardStore`] in memory. Clones share it.
#[derive(Clone)]
pub struct MemoryDrive {
    inner: Arc<Inner>,
}

impl MemoryDrive {
    /// An empty drive of `total_bytes`, no reserve, the machine's clock.
    #[must_use]
    pub fn new(total_bytes: u64) -> Self {
        Self::with(DriveId::random(), total_bytes, 0, Arc::new(SystemClock))
    }

    /// An empty drive with everything chosen.
    #[must_use]
    pub fn with(id: DriveId, total_bytes: u64, reserve_bytes: u64, clock: Arc<dyn Clock>) -> Self {
        let state =
            State { shards: BTreeMap::new(), writing: HashSet::new(), used_bytes: 0, health: DriveHealth::Online };
        Self { inner: Arc::new(Inner { id, total_bytes, reserve_bytes, clock, state: Mutex::new(state) }) }
    }

    /// Sets its health by hand (offline, poisoned).
    pub fn set_health(&self, health: DriveHealth) {
        self.inner.state.lock().health = health;
    }

    /// Flips one bit of a stored shard, as a rotten disk does. `false` where there is no such byte.
    pub fn flip_bit(&self, shard: ShardId, offset: usize) -> bool {
        let mut state = self.inner.state.lock();
        let Some(byte) = state.shards.get_mut(&shard).and_then(|s| s.data.get_mut(offset)) else { return false };
        *byte ^= 1;
        true
    }

    /// Number of committed shards.
    #[must_use]
    pub fn shards_count(&self) -> usize {
        self.inner.state.lock().shards.len()
    }
}

impl Inner {
    fn writable(&self, state: &State) -> Result<()> {
        match &state.health {
            DriveHealth::Online | DriveHealth::Full => Ok(()),
            DriveHealth::Poisoned(why) => Err(DriveError::Poisoned { drive: self.id, why: why.clone() }),
            DriveHealth::Offline(why) => Err(DriveError::Offline { drive: self.id, why: why.clone() }),
        }
    }

    fn readable(&self, state: &State) -> Result<()> {
        match &state.health {
            DriveHealth::Offline(why) => Err(DriveError::Offline { drive: self.id, why: why.clone() }),
            _ => Ok(()),
        }
    }

    fn read(&self, shard: ShardId, offset: u64, len_bytes: usize) -> Result<AlignedBuf> {
        let state = self.state.lock();
        self.readable(&state)?;
        let stored = state.shards.get(&shard).ok_or(DriveError::NotFound(shard))?;
        check_range(&stored.info.spec, offset, len_bytes)?;
        let start = usize::try_from(offset).expect("inside a vector");
        Ok(AlignedBuf::copy_from(&stored.data[start..start + len_bytes]))
    }
}

impl ShardStore for MemoryDrive {
    fn id(&self) -> DriveId {
        self.inner.id
    }

    fn health(&self) -> DriveHealth {
        let health = self.inner.state.lock().health.clone();
        if health == DriveHealth::Online && self.space().free_bytes < ALIGN_BYTES as u64 {
            return DriveHealth::Full;
        }
        health
    }

    fn space(&self) -> DriveSpace {
        let used_bytes = self.inner.state.lock().used_bytes;
        let (total_bytes, reserve_bytes) = (self.inner.total_bytes, self.inner.reserve_bytes);
        DriveSpace {
            total_bytes,
            used_bytes,
            free_bytes: total_bytes.saturating_sub(reserve_bytes).saturating_sub(used_bytes),
            reserve_bytes,
        }
    }

    fn create(&self, spec: ShardSpec) -> BoxFuture<'_, Result<Box<dyn ShardWriter>>> {
        async move {
            crate::limits::check_spec(&spec)?;
            let free_bytes = self.space().free_bytes;
            let mut state = self.inner.state.lock();
            self.inner.writable(&state)?;
            if state.shards.contains_key(&spec.shard) || state.writing.contains(&spec.shard) {
                return Err(DriveError::Exists(spec.shard));
            }
            if spec.shard_bytes > free_bytes {
                let drive = self.inner.id;
                return Err(DriveError::Full { drive, wanted_bytes: spec.shard_bytes, free_bytes });
            }
            state.writing.insert(spec.shard);
            state.used_bytes += spec.shard_bytes;
            let writer = Writer {
                inner: Arc::clone(&self.inner),
                spec,
                data: Vec::new(),
                crcs: ChunkCrcs::with_room(0),
                committed: false,
            };
            Ok(Box::new(writer) as Box<dyn ShardWriter>)
        }
        .boxed()
    }

    fn read(&self, shard: ShardId, offset: u64, len_bytes: usize) -> BoxFuture<'_, Result<AlignedBuf>> {
        async move { self.inner.read(shard, offset, len_bytes) }.boxed()
    }

    fn read_verified(&self, shard: ShardId, offset: u64, len_bytes: usize) -> BoxFuture<'_, Result<AlignedBuf>> {
        async move {
            check_chunk_offset(offset)?;
            let read = self.inner.read(shard, offset, len_bytes)?;
            let first = usize::try_from(offset).expect("inside a vector") / CHUNK_BYTES;
            let state = self.inner.state.lock();
            let stored = state.shards.get(&shard).ok_or(DriveError::NotFound(shard))?;
            for chunk in first..(first * CHUNK_BYTES + len_bytes).div_ceil(CHUNK_BYTES) {
                let start = chunk * CHUNK_BYTES;
                let end = (start + CHUNK_BYTES).min(stored.data.len());
                if crc32c(&stored.data[start..end]) != stored.crcs[chunk] {
                    return Err(DriveError::Corrupt { shard, offset: start as u64 });
                }
            }
            Ok(read)
        }
        .boxed()
    }

    fn header(&self, shard: ShardId) -> BoxFuture<'_, Result<(ShardInfo, Bytes)>> {
        async move {
            let state = self.inner.state.lock();
            self.inner.readable(&state)?;
            let stored = state.shards.get(&shard).ok_or(DriveError::NotFound(shard))?;
            Ok((stored.info.clone(), stored.meta.clone()))
        }
        .boxed()
    }

    fn free(&self, shards: Vec<ShardId>) -> BoxFuture<'_, Result<()>> {
        async move {
            let mut state = self.inner.state.lock();
            self.inner.readable(&state)?;
            for shard in shards {
                if let Some(stored) = state.shards.remove(&shard) {
                    state.used_bytes -= stored.info.spec.shard_bytes;
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn scan(&self, after: Option<ShardId>, limit: usize) -> BoxFuture<'_, Result<Vec<ShardInfo>>> {
        use std::ops::Bound;
        async move {
            let state = self.inner.state.lock();
            self.inner.readable(&state)?;
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            Ok(state.shards.range((from, Bound::Unbounded)).take(limit).map(|(_, s)| s.info.clone()).collect())
        }
        .boxed()
    }

    fn verify(&self, shard: ShardId) -> BoxFuture<'_, Result<VerifyReport>> {
        async move {
            let state = self.inner.state.lock();
            self.inner.readable(&state)?;
            let stored = state.shards.get(&shard).ok_or(DriveError::NotFound(shard))?;
            let bad_chunks = crcs_of(&stored.data)
                .iter()
                .zip(&stored.crcs)
                .enumerate()
                .filter(|(_, (now, then))| now != then)
                .map(|(chunk, _)| (chunk * CHUNK_BYTES) as u64)
                .collect();
            Ok(VerifyReport { checked_bytes: stored.data.len() as u64, bad_chunks, header_bad: false })
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        async move {
            self.inner.state.lock().health = DriveHealth::Offline("closed".to_owned());
            Ok(())
        }
        .boxed()
    }
}

struct Writer {
    inner: Arc<Inner>,
    spec: ShardSpec,
    data: Vec<u8>,
    crcs: ChunkCrcs,
    committed: bool,
}

impl ShardWriter for Writer {
    fn append(&mut self, data: AlignedBytes, crcs: &[u32]) -> BoxFuture<'static, Result<()>> {
        let ends = self.data.len() as u64 + data.len() as u64 == self.spec.shard_bytes;
        if !self.crcs.adopt(crcs, data.len(), ends) {
            self.crcs.update(&data);
        }
        let result = self.take(&data);
        async move { result }.boxed()
    }

    fn commit(mut self: Box<Self>, sealed_meta: Bytes) -> BoxFuture<'static, Result<()>> {
        async move {
            if self.data.len() as u64 != self.spec.shard_bytes || sealed_meta.len() > META_BYTES_MAX {
                return Err(DriveError::Invalid(format!(
                    "commit of shard {}: {} bytes of {} appended, {} of metadata",
                    self.spec.shard,
                    self.data.len(),
                    self.spec.shard_bytes,
                    sealed_meta.len()
                )));
            }
            let inner = Arc::clone(&self.inner);
            let mut state = inner.state.lock();
            inner.writable(&state)?;
            let info = ShardInfo { spec: self.spec.clone(), committed_us: inner.clock.now().as_micros() };
            let data = std::mem::take(&mut self.data);
            let crcs = std::mem::replace(&mut self.crcs, ChunkCrcs::with_room(0)).finish();
            state.writing.remove(&self.spec.shard);
            state.shards.insert(self.spec.shard, Stored { info, meta: sealed_meta, crcs, data });
            self.committed = true;
            Ok(())
        }
        .boxed()
    }
}

impl Writer {
    fn take(&mut self, data: &[u8]) -> Result<()> {
        self.inner.writable(&self.inner.state.lock())?;
        let after = self.data.len() as u64 + data.len() as u64;
        if !data.len().is_multiple_of(ALIGN_BYTES) || after > self.spec.shard_bytes {
            return Err(DriveError::Invalid(format!(
                "append of {} bytes to shard {}: not aligned, or past its {} bytes",
                data.len(),
                self.spec.shard,
                self.spec.shard_bytes
            )));
        }
        self.data.extend_from_slice(data);
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.committed {
            let mut state = self.inner.state.lock();
            state.writing.remove(&self.spec.shard);
            state.used_bytes -= self.spec.shard_bytes;
        }
    }
}
