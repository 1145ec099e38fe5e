//! A drive in memory that can fail in every way a drive fails, and a stand-in for the store above:
//! chunks with a tag, payload that is a function of its offset.
#![allow(dead_code, unreachable_pub)] // each test file uses its part of it

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use granary_drive::api::{
    DriveError, DriveHealth, DriveSpace, Result as DriveResult, ShardInfo, ShardSpec, ShardStore, ShardWriter,
    VerifyReport,
};
use granary_drive::buf::{AlignedBuf, AlignedBytes, BufPool};
use granary_stripe::{DamageReport, DriveSet, PartLayout, StripeError, StripeOptions, StripeStore};
use granary_types::frame::crc32c;
use granary_types::{DriveId, DriveNo, PartId, PartLocation, Placement, Scheme, ShardId};
use parking_lot::Mutex;

pub const CRC_BYTES: usize = 64 * 1024;

/// What goes wrong on a drive.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    pub fail_reads: bool,
    pub fail_creates: bool,
    /// Appends that still succeed.
    pub appends_left: Option<usize>,
    pub fail_commits: bool,
    /// Commits report an error, but the shard is durable all the same.
    pub lying_commits: bool,
    pub read_delay: Duration,
    pub append_delay: Duration,
    pub commit_delay: Duration,
}

#[derive(Clone)]
struct Stored {
    spec: ShardSpec,
    data: Vec<u8>,
    crcs: Vec<u32>,
    meta: Bytes,
    committed_us: u64,
}

struct State {
    shards: BTreeMap<ShardId, Stored>,
    health: DriveHealth,
    faults: Faults,
    free_bytes: u64,
    now_us: u64,
}

pub struct TestDrive {
    id: DriveId,
    state: Arc<Mutex<State>>,
    pub reads: AtomicUsize,
    pub read_bytes: AtomicUsize,
}

impl TestDrive {
    pub fn new(no: u16) -> Arc<Self> {
        let mut id = [0u8; 16];
        id[..2].copy_from_slice(&no.to_le_bytes());
        Arc::new(Self {
            id: DriveId(id),
            state: Arc::new(Mutex::new(State {
                shards: BTreeMap::new(),
                health: DriveHealth::Online,
                faults: Faults::default(),
                free_bytes: 1 << 32,
                now_us: 1_000_000,
            })),
            reads: AtomicUsize::new(0),
            read_bytes: AtomicUsize::new(0),
        })
    }

    pub fn set_health(&self, health: DriveHealth) {
        self.state.lock().health = health;
    }

    pub fn offline(&self) {
        self.set_health(DriveHealth::Offline("unplugged".into()));
    }

    pub fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state.lock().faults);
    }

    pub fn set_free(&self, bytes: u64) {
        self.state.lock().free_bytes = bytes;
    }

    pub fn free_bytes(&self) -> u64 {
        self.state.lock().free_bytes
    }

    pub fn shards(&self) -> Vec<ShardId> {
        self.state.lock().shards.keys().copied().collect()
    }

    pub fn lose(&self, shard: ShardId) {
        self.state.lock().shards.remove(&shard).expect("the shard is here");
    }

    pub fn data(&self, shard: ShardId) -> Vec<u8> {
        self.state.lock().shards[&shard].data.clone()
    }

    /// Flips a bit; the drive's checksum finds it.
    pub fn rot(&self, shard: ShardId, offset: usize) {
        self.state.lock().shards.get_mut(&shard).expect("the shard is here").data[offset] ^= 0x10;
    }

    /// Changes a byte and the checksum with it: the drive finds nothing.
    pub fn deceive(&self, shard: ShardId, offset: usize) {
        let mut state = self.state.lock();
        let stored = state.shards.get_mut(&shard).expect("the shard is here");
        stored.data[offset] ^= 0x10;
        stored.crcs = crcs(&stored.data);
    }

    fn check_readable(&self) -> DriveResult<()> {
        let state = self.state.lock();
        if let DriveHealth::Offline(why) = &state.health {
            return Err(DriveError::Offline { drive: self.id, why: why.clone() });
        }
        if state.faults.fail_reads {
            return Err(io("read"));
        }
        Ok(())
    }

    async fn read_range(&self, shard: ShardId, offset: u64, len: usize, verified: bool) -> DriveResult<AlignedBuf> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.read_bytes.fetch_add(len, Ordering::Relaxed);
        let delay = self.state.lock().faults.read_delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        self.check_readable()?;
        let state = self.state.lock();
        let stored = state.shards.get(&shard).ok_or(DriveError::NotFound(shard))?;
        let start = offset as usize;
        if !start.is_multiple_of(4096) || !len.is_multiple_of(4096) || start + len > stored.data.len() || len == 0 {
            return Err(DriveError::Invalid(format!("{start}+{len} of {}", stored.data.len())));
        }
        if verified {
            let whole = len.is_multiple_of(CRC_BYTES) || start + len == stored.data.len();
            if !start.is_multiple_of(CRC_BYTES) || !whole {
                return Err(DriveError::Invalid(format!("unaligned verified read {start}+{len}")));
            }
            for (i, chunk) in stored.data[start..start + len].chunks(CRC_BYTES).enumerate() {
                if crc32c(chunk) != stored.crcs[start / CRC_BYTES + i] {
                    return Err(DriveError::Corrupt { shard, offset: (start + i * CRC_BYTES) as u64 });
                }
            }
        }
        Ok(AlignedBuf::copy_from(&stored.data[start..start + len]))
    }
}

fn io(what: &str) -> DriveError {
    DriveError::Io { what: what.into(), source: Arc::new(std::io::Error::other("injected")) }
}

fn crcs(data: &[u8]) -> Vec<u32> {
    data.chunks(CRC_BYTES).map(crc32c).collect()
}

impl ShardStore for TestDrive {
    fn id(&self) -> DriveId {
        self.id
    }

    fn health(&self) -> DriveHealth {
        self.state.lock().health.clone()
    }

    fn space(&self) -> DriveSpace {
        DriveSpace { total_bytes: 1 << 33, free_bytes: self.state.lock().free_bytes, ..Default::default() }
    }

    fn create(&self, spec: ShardSpec) -> BoxFuture<'_, DriveResult<Box<dyn ShardWriter>>> {
        Box::pin(async move {
            let mut state = self.state.lock();
            match &state.health {
                DriveHealth::Online => {}
                other => return Err(DriveError::Poisoned { drive: self.id, why: format!("{other:?}") }),
            }
            if state.faults.fail_creates {
                return Err(io("create"));
            }
            if state.shards.contains_key(&spec.shard) {
                return Err(DriveError::Exists(spec.shard));
            }
            if state.free_bytes < spec.shard_bytes {
                let (wanted_bytes, free_bytes) = (spec.shard_bytes, state.free_bytes);
                return Err(DriveError::Full { drive: self.id, wanted_bytes, free_bytes });
            }
            state.free_bytes -= spec.shard_bytes;
            let data = Arc::new(Mutex::new(vec![0; spec.shard_bytes as usize]));
            let writer =
                TestWriter { state: Arc::clone(&self.state), spec, data, at: 0, done: Arc::default(), kept: false };
            Ok(Box::new(writer) as Box<dyn ShardWriter>)
        })
    }

    fn read(&self, shard: ShardId, offset: u64, len_bytes: usize) -> BoxFuture<'_, DriveResult<AlignedBuf>> {
        Box::pin(self.read_range(shard, offset, len_bytes, false))
    }

    fn read_verified(&self, shard: ShardId, offset: u64, len_bytes: usize) -> BoxFuture<'_, DriveResult<AlignedBuf>> {
        Box::pin(self.read_range(shard, offset, len_bytes, true))
    }

    fn header(&self, shard: ShardId) -> BoxFuture<'_, DriveResult<(ShardInfo, Bytes)>> {
        Box::pin(async move {
            self.check_readable()?;
            let state = self.state.lock();
            let stored = state.shards.get(&shard).ok_or(DriveError::NotFound(shard))?;
            Ok((ShardInfo { spec: stored.spec.clone(), committed_us: stored.committed_us }, stored.meta.clone()))
        })
    }

    fn free(&self, shards: Vec<ShardId>) -> BoxFuture<'_, DriveResult<()>> {
        Box::pin(async move {
            let mut state = self.state.lock();
            if let DriveHealth::Offline(why) = &state.health {
                return Err(DriveError::Offline { drive: self.id, why: why.clone() });
            }
            for shard in shards {
                if let Some(stored) = state.shards.remove(&shard) {
                    state.free_bytes += stored.spec.shard_bytes;
                }
            }
            Ok(())
        })
    }

    fn scan(&self, after: Option<ShardId>, limit: usize) -> BoxFuture<'_, DriveResult<Vec<ShardInfo>>> {
        Box::pin(async move {
            self.check_readable()?;
            let state = self.state.lock();
            let infos = state.shards.values().map(|s| ShardInfo { spec: s.spec.clone(), committed_us: s.committed_us });
            Ok(infos.filter(|i| after.is_none_or(|after| i.spec.shard > after)).take(limit).collect())
        })
    }

    fn verify(&self, shard: ShardId) -> BoxFuture<'_, DriveResult<VerifyReport>> {
        Box::pin(async move {
            self.check_readable()?;
            let state = self.state.lock();
            let stored = state.shards.get(&shard).ok_or(DriveError::NotFound(shard))?;
            let found = crcs(&stored.data);
            let bad = found.iter().zip(&stored.crcs).enumerate().filter(|(_, (a, b))| a != b);
            Ok(VerifyReport {
                checked_bytes: stored.data.len() as u64,
                bad_chunks: bad.map(|(i, _)| (i * CRC_BYTES) as u64).collect(),
                header_bad: false,
            })
        })
    }

    fn close(&self) -> BoxFuture<'_, DriveResult<()>> {
        Box::pin(async { Ok(()) })
    }
}

struct TestWriter {
    state: Arc<Mutex<State>>,
    spec: ShardSpec,
    data: Arc<Mutex<Vec<u8>>>,
    at: usize,
    done: Arc<AtomicUsize>,
    kept: bool,
}

impl ShardWriter for TestWriter {
    fn append(&mut self, data: AlignedBytes, crcs: &[u32]) -> BoxFuture<'static, DriveResult<()>> {
        assert!(crcs.is_empty() || crcs == self::crcs(&data), "wrong CRCs are handed down");
        let start = self.at;
        self.at += data.len();
        let fits = data.len().is_multiple_of(4096) && self.at <= self.data.lock().len();
        let (buffer, state, done) = (Arc::clone(&self.data), Arc::clone(&self.state), Arc::clone(&self.done));
        Box::pin(async move {
            if !fits {
                return Err(DriveError::Invalid("append does not fit".into()));
            }
            let delay = {
                let mut state = state.lock();
                match &mut state.faults.appends_left {
                    Some(0) => return Err(io("append")),
                    Some(left) => *left -= 1,
                    None => {}
                }
                state.faults.append_delay
            };
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            buffer.lock()[start..start + data.len()].copy_from_slice(&data);
            done.fetch_add(data.len(), Ordering::Relaxed);
            Ok(())
        })
    }

    fn commit(mut self: Box<Self>, sealed_meta: Bytes) -> BoxFuture<'static, DriveResult<()>> {
        Box::pin(async move {
            let faults = self.state.lock().faults.clone();
            if !faults.commit_delay.is_zero() {
                tokio::time::sleep(faults.commit_delay).await;
            }
            if self.done.load(Ordering::Relaxed) as u64 != self.spec.shard_bytes {
                return Err(DriveError::Invalid("appends are missing".into()));
            }
            if faults.fail_commits {
                return Err(io("sync"));
            }
            let data = std::mem::take(&mut *self.data.lock());
            let mut state = self.state.lock();
            let stored = Stored {
                spec: self.spec.clone(),
                crcs: crcs(&data),
                data,
                meta: sealed_meta,
                committed_us: state.now_us,
            };
            state.shards.insert(self.spec.shard, stored);
            drop(state);
            self.kept = true;
            if faults.lying_commits { Err(io("sync")) } else { Ok(()) }
        })
    }
}

impl Drop for TestWriter {
    fn drop(&mut self) {
        if !self.kept {
            self.state.lock().free_bytes += self.spec.shard_bytes;
        }
    }
}

/// Drives with a stripe store over them.
pub struct Rig {
    pub drives: Vec<Arc<TestDrive>>,
    pub store: StripeStore,
    pub damage: Arc<Mutex<Vec<DamageReport>>>,
}

impl Rig {
    pub fn new(count: u16) -> Self {
        Self::with(count, |_| {})
    }

    pub fn with(count: u16, change: impl FnOnce(&mut StripeOptions)) -> Self {
        let set = Arc::new(DriveSet::new());
        let drives: Vec<_> = (0..count).map(TestDrive::new).collect();
        for (no, drive) in drives.iter().enumerate() {
            set.insert(DriveNo(no as u16), Arc::clone(drive) as Arc<dyn ShardStore>);
        }
        let damage: Arc<Mutex<Vec<DamageReport>>> = Arc::default();
        let sink = Arc::clone(&damage);
        let mut options =
            StripeOptions { on_damage: Arc::new(move |report| sink.lock().push(report)), ..StripeOptions::default() };
        change(&mut options);
        // A dirty pool: nothing may rely on buffers being zero.
        let pool = BufPool::new(64 << 20);
        for len in [4096, 65_536, 512 * 1024] {
            let mut dirty: Vec<_> = (0..8).map(|_| pool.take(len)).collect();
            dirty.iter_mut().for_each(|b| b.fill(0xdb));
        }
        Self { drives, store: StripeStore::new(set, pool, options), damage }
    }

    pub fn drive(&self, no: DriveNo) -> &TestDrive {
        &self.drives[usize::from(no.0)]
    }

    /// The drive that holds a shard.
    pub fn holder(&self, location: &PartLocation, index: usize) -> &TestDrive {
        self.drive(location.placement.drives[index])
    }

    pub async fn put(&self, len: u64, scheme: Scheme) -> Result<PartLocation, StripeError> {
        let part = PartId::random();
        let mut writer = self.store.begin(part, len, scheme).await?;
        let layout = *writer.layout();
        for chunk in 0..layout.chunks() {
            fill(&layout, part, chunk, writer.slot_mut());
            writer.advance().await?;
        }
        let placement = writer.commit(Bytes::from(format!("meta of {part}"))).await?;
        Ok(PartLocation { part, payload_bytes: len, placement })
    }

    /// Reads chunks as the store does: opens each, has those that fail rebuilt, compares the payload.
    pub async fn get(&self, location: &PartLocation, chunks: Range<u64>) -> Result<(), StripeError> {
        let layout = PartLayout::new(location.payload_bytes, location.placement.scheme).unwrap();
        let mut stream = self.store.read_chunks(location, chunks.clone())?;
        let mut next = chunks.start;
        while let Some(run) = stream.next().await {
            let mut run = run?;
            assert_eq!(run.buf.len(), run.chunks * run.slot_bytes);
            assert_eq!(run.first_chunk, next, "in order, without gaps");
            next += run.chunks as u64;
            for (chunk, slot) in run.slots_mut() {
                let place = layout.chunk(chunk);
                assert_eq!(slot.len(), place.slot_bytes);
                if !open(location.part, chunk, slot) {
                    let good =
                        self.store.rebuild_chunk(location, chunk, |slot| open(location.part, chunk, slot)).await?;
                    slot.copy_from_slice(&good);
                }
                let payload_end = place.payload_bytes;
                for (i, byte) in slot[..slot.len() - 16].iter().enumerate() {
                    let expected =
                        if i < payload_end { byte_at(location.part, place.payload_start + i as u64) } else { 0 };
                    assert_eq!(*byte, expected, "chunk {chunk} byte {i}");
                }
            }
        }
        assert_eq!(next, chunks.end, "all of it");
        Ok(())
    }

    pub async fn get_all(&self, location: &PartLocation) -> Result<(), StripeError> {
        let layout = PartLayout::new(location.payload_bytes, location.placement.scheme).unwrap();
        self.get(location, 0..layout.chunks()).await
    }

    pub fn shards_in_all(&self) -> usize {
        self.drives.iter().map(|d| d.shards().len()).sum()
    }

    pub fn stat(&self, name: &str) -> u64 {
        let found = self.store.stats().snapshot().into_iter().find(|(n, _)| *n == name);
        found.unwrap_or_else(|| panic!("no counter {name}")).1
    }
}

pub fn shard(location: &PartLocation, index: usize) -> ShardId {
    ShardId { part: location.part, index: index as u8 }
}

pub fn scheme(text: &str) -> Scheme {
    text.parse().unwrap()
}

pub fn missing(placement: &Placement) -> Vec<usize> {
    (0..placement.drives.len()).filter(|i| placement.is_missing(*i)).collect()
}

fn byte_at(part: PartId, offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 ^ part.0[(offset % 16) as usize]
}

/// Writes a chunk's payload and "seals" it: a stand-in for AES-GCM that leaves the payload readable.
fn fill(layout: &PartLayout, part: PartId, chunk: u64, slot: &mut [u8]) {
    let place = layout.chunk(chunk);
    assert_eq!(slot.len(), place.slot_bytes);
    for (i, byte) in slot[..place.payload_bytes].iter_mut().enumerate() {
        *byte = byte_at(part, place.payload_start + i as u64);
    }
    let payload_end = slot.len() - 16;
    assert!(slot[place.payload_bytes..payload_end].iter().all(|b| *b == 0), "zeros behind the payload");
    let tag = tag(part, chunk, &slot[..payload_end]);
    slot[payload_end..].copy_from_slice(&tag);
}

fn open(part: PartId, chunk: u64, slot: &mut [u8]) -> bool {
    let payload_end = slot.len() - 16;
    let tag = tag(part, chunk, &slot[..payload_end]);
    slot[payload_end..] == tag
}

fn tag(part: PartId, chunk: u64, payload: &[u8]) -> [u8; 16] {
    let mut tag = part.0;
    for (i, byte) in chunk.to_le_bytes().into_iter().enumerate() {
        tag[i] ^= byte;
    }
    for (i, byte) in crc32c(payload).to_le_bytes().into_iter().enumerate() {
        tag[8 + i] ^= byte;
    }
    tag
}
