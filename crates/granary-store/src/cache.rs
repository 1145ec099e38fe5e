//! Opened chunks in memory: what is read often is not read from drives again.
//!
//! Admission is what makes it survive epochs, which read everything once and then again in another order: a cache that takes
//! whatever comes (LRU) has always just thrown out what comes next, and hits nothing. This one, once full, takes a missed
//! group of chunks only now and then (one in [`ADMIT_ONE_IN`]) and gives up the least used of a few at random, so that a
//! cyclic scan over twice its size hits close to the half that fits. A chunk never changes (its part is written once), so nothing is
//! ever stale. Bytes were verified when they were opened; they stay in this process's memory and go when their bucket's key does.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use granary_types::{BucketId, PartId};
use parking_lot::{Mutex, RwLock};

/// Of the groups of chunks that miss a full cache, one in so many is taken in.
const ADMIT_ONE_IN: u64 = 16;
/// Chunks that come and go together: as many as a drive is read for at once, so that a long read is not broken into small ones.
pub(crate) const GROUP_CHUNKS: u64 = 8;
/// After so many misses, others are the lucky ones: at most; fewer where the cache is small.
const GENERATION_MISSES_MAX: u64 = 4096;
const GENERATION_MISSES_MIN: u64 = 64;
/// Chunks looked at to find one to give up.
const SAMPLED: usize = 5;
/// Uses are counted up to here.
const USES_MAX: u8 = 7;
/// Independent parts of the cache, each with a lock of its own, at most.
const SLICES_MAX: u64 = 16;
/// Bytes of one, at least: it has to hold many groups.
const SLICE_BYTES_MIN: u64 = 16 << 20;
/// Memory that an entry takes beside its bytes, about.
const ENTRY_BYTES: u64 = 128;

/// How a chunk comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Admit {
    /// As the policy says.
    #[default]
    Policy,
    /// Not at all.
    Never,
    /// In any case (warming).
    Always,
    /// In any case, and it stays until it is evicted by name.
    Pin,
}

/// Counters of one bucket.
#[derive(Debug, Default)]
pub struct BucketCounters {
    /// Chunks found.
    pub hits: AtomicU64,
    /// Chunks not found.
    pub misses: AtomicU64,
    /// Bytes held.
    pub bytes: AtomicU64,
}

struct Slot {
    key: (PartId, u64),
    bucket: BucketId,
    bytes: Bytes,
    uses: u8,
    is_pinned: bool,
}

#[derive(Default)]
struct Slice {
    places: HashMap<(PartId, u64), usize>,
    slots: Vec<Slot>,
    bytes: u64,
    pinned_bytes: u64,
    random: u64,
}

impl Slice {
    /// xorshift64*: which chunk goes need not be unpredictable.
    fn random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn remove(&mut self, at: usize) -> Slot {
        let slot = self.slots.swap_remove(at);
        self.places.remove(&slot.key);
        if let Some(moved) = self.slots.get(at) {
            self.places.insert(moved.key, at);
        }
        let cost = cost(&slot.bytes);
        self.bytes -= cost;
        if slot.is_pinned {
            self.pinned_bytes -= cost;
        }
        slot
    }

    /// The least used of a few unpinned ones at random; those that were spared are worth a little less.
    fn victim(&mut self) -> Option<usize> {
        let mut best: Option<usize> = None;
        for _ in 0..SAMPLED * 4 {
            let at = usize::try_from(self.random() % (self.slots.len().max(1) as u64)).ok()?;
            let slot = self.slots.get(at).filter(|slot| !slot.is_pinned);
            let Some(slot) = slot else { continue };
            if best.is_none_or(|best| slot.uses < self.slots[best].uses) {
                best = Some(at);
            }
            if slot.uses == 0 {
                break;
            }
        }
        if let Some(best) = best {
            let at = usize::try_from(self.random() % (self.slots.len() as u64)).ok()?;
            if at != best && self.slots[at].uses > 1 {
                self.slots[at].uses -= 1;
            }
        }
        best.or_else(|| self.slots.iter().position(|slot| !slot.is_pinned))
    }
}

fn cost(bytes: &Bytes) -> u64 {
    bytes.len() as u64 + ENTRY_BYTES
}

/// The cache. A budget of 0 switches it off.
pub struct ChunkCache {
    slice_bytes_max: u64,
    generation_misses: u64,
    slices: Vec<Mutex<Slice>>,
    misses: AtomicU64,
    buckets: RwLock<HashMap<BucketId, Arc<BucketCounters>>>,
}

impl std::fmt::Debug for ChunkCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChunkCache({} bytes)", self.bytes())
    }
}

impl ChunkCache {
    /// A cache that holds at most `budget_bytes`.
    #[must_use]
    pub fn new(budget_bytes: u64) -> Self {
        let slices = (budget_bytes / SLICE_BYTES_MIN).clamp(1, SLICES_MAX);
        let slice = |i| Mutex::new(Slice { random: 0x9e37_79b9_7f4a_7c15 ^ (i + 1), ..Slice::default() });
        Self {
            slice_bytes_max: budget_bytes / slices,
            generation_misses: (budget_bytes >> 18).clamp(GENERATION_MISSES_MIN, GENERATION_MISSES_MAX),
            slices: (0..slices).map(slice).collect(),
            misses: AtomicU64::new(0),
            buckets: RwLock::default(),
        }
    }

    /// Whether there is any.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.slice_bytes_max > 0
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.slices.iter().map(|slice| slice.lock().bytes).sum()
    }

    /// The counters of every bucket that was read.
    #[must_use]
    pub fn counters(&self) -> Vec<(BucketId, Arc<BucketCounters>)> {
        self.buckets.read().iter().map(|(bucket, counters)| (*bucket, Arc::clone(counters))).collect()
    }

    fn of_bucket(&self, bucket: BucketId) -> Arc<BucketCounters> {
        if let Some(counters) = self.buckets.read().get(&bucket) {
            return Arc::clone(counters);
        }
        Arc::clone(self.buckets.write().entry(bucket).or_default())
    }

    fn slice(&self, part: PartId, chunk: u64) -> &Mutex<Slice> {
        // Part ids are random.
        let mixed = (u64::from(part.0[15]) ^ (chunk / GROUP_CHUNKS)) as usize;
        &self.slices[mixed % self.slices.len()]
    }

    /// Whether a chunk is one of those that a full cache takes in now: the same for its whole group.
    fn is_lucky(&self, part: PartId, chunk: u64, misses: u64) -> bool {
        let mut low = [0; 8];
        low.copy_from_slice(&part.0[8..]);
        let mut x = u64::from_le_bytes(low) ^ (chunk / GROUP_CHUNKS).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x ^= (misses / self.generation_misses).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)).is_multiple_of(ADMIT_ONE_IN)
    }

    /// Whether a chunk is there, without counting it as a use.
    #[must_use]
    pub fn has(&self, part: PartId, chunk: u64) -> bool {
        self.is_on() && self.slice(part, chunk).lock().places.contains_key(&(part, chunk))
    }

    /// A chunk's payload. Counts a hit; misses are counted by [`ChunkCache::offer`].
    #[must_use]
    pub fn get(&self, bucket: BucketId, part: PartId, chunk: u64) -> Option<Bytes> {
        if !self.is_on() {
            return None;
        }
        let bytes = {
            let mut slice = self.slice(part, chunk).lock();
            let at = *slice.places.get(&(part, chunk))?;
            let slot = &mut slice.slots[at];
            slot.uses = slot.uses.saturating_add(1).min(USES_MAX);
            slot.bytes.clone()
        };
        self.of_bucket(bucket).hits.fetch_add(1, Ordering::Relaxed);
        Some(bytes)
    }

    /// Offers a chunk that was read from drives. Copied only if it is taken in.
    pub fn offer(&self, bucket: BucketId, part: PartId, chunk: u64, payload: &[u8], admit: Admit) {
        if !self.is_on() || admit == Admit::Never {
            return;
        }
        let counters = self.of_bucket(bucket);
        counters.misses.fetch_add(1, Ordering::Relaxed);
        let misses = self.misses.fetch_add(1, Ordering::Relaxed);
        let wanted = payload.len() as u64 + ENTRY_BYTES;
        let mut slice = self.slice(part, chunk).lock();
        if let Some(at) = slice.places.get(&(part, chunk)).copied() {
            if admit == Admit::Pin && !slice.slots[at].is_pinned {
                slice.slots[at].is_pinned = true;
                slice.pinned_bytes += wanted;
            }
            return;
        }
        // What is pinned takes at most half, so that the rest still has a cache.
        let is_pinned = admit == Admit::Pin && slice.pinned_bytes + wanted <= self.slice_bytes_max / 2;
        if wanted > self.slice_bytes_max {
            return;
        }
        let is_full = slice.bytes + wanted > self.slice_bytes_max;
        if is_full && admit == Admit::Policy && !self.is_lucky(part, chunk, misses) {
            return;
        }
        while slice.bytes + wanted > self.slice_bytes_max {
            let Some(at) = slice.victim() else { return };
            let (gone_part, gone_chunk) = slice.slots[at].key;
            let first = gone_chunk / GROUP_CHUNKS * GROUP_CHUNKS;
            for gone_chunk in first..first + GROUP_CHUNKS {
                if let Some(at) = slice.places.get(&(gone_part, gone_chunk)).copied()
                    && !slice.slots[at].is_pinned
                {
                    let gone = slice.remove(at);
                    self.of_bucket(gone.bucket).bytes.fetch_sub(cost(&gone.bytes), Ordering::Relaxed);
                }
            }
        }
        let key = (part, chunk);
        let at = slice.slots.len();
        slice.slots.push(Slot { key, bucket, bytes: Bytes::copy_from_slice(payload), uses: 0, is_pinned });
        slice.places.insert(key, at);
        slice.bytes += wanted;
        if is_pinned {
            slice.pinned_bytes += wanted;
        }
        counters.bytes.fetch_add(wanted, Ordering::Relaxed);
    }

    /// Gives up chunks `0..chunks` of a part, pinned ones too. Returns how many were there.
    pub fn evict_part(&self, part: PartId, chunks: u64) -> u64 {
        let mut count = 0;
        for chunk in 0..chunks {
            let mut slice = self.slice(part, chunk).lock();
            if let Some(at) = slice.places.get(&(part, chunk)).copied() {
                let gone = slice.remove(at);
                self.of_bucket(gone.bucket).bytes.fetch_sub(cost(&gone.bytes), Ordering::Relaxed);
                count += 1;
            }
        }
        count
    }

    /// Gives up all of a bucket: its key is gone, and so must be what it had sealed.
    pub fn evict_bucket(&self, bucket: BucketId) {
        for slice in &self.slices {
            let mut slice = slice.lock();
            let mut at = 0;
            while at < slice.slots.len() {
                if slice.slots[at].bucket == bucket {
                    slice.remove(at);
                } else {
                    at += 1;
                }
            }
        }
        self.buckets.write().remove(&bucket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUCKET: BucketId = BucketId(1);

    fn part(n: u64) -> PartId {
        let mut id = [0; 16];
        id[8..].copy_from_slice(&n.to_be_bytes());
        PartId(id)
    }

    /// Reads chunk `n`; whether it was a hit.
    fn read(cache: &ChunkCache, n: u64) -> bool {
        let (part, chunk) = (part(n / 7), n % 7);
        if let Some(bytes) = cache.get(BUCKET, part, chunk) {
            assert_eq!(bytes[..8], n.to_le_bytes());
            return true;
        }
        let mut payload = vec![0; 1000 - ENTRY_BYTES as usize];
        payload[..8].copy_from_slice(&n.to_le_bytes());
        cache.offer(BUCKET, part, chunk, &payload, Admit::Policy);
        false
    }

    #[test]
    fn a_cyclic_scan_over_twice_its_size_hits_what_fits() {
        let cache = ChunkCache::new(2_000 * 1000);
        let mut hits = 0;
        for round in 0..20 {
            for n in 0..4_000 {
                hits += u64::from(read(&cache, n) && round >= 5);
            }
            assert!(cache.bytes() <= 2_000 * 1000);
        }
        let ratio = hits as f64 / (15.0 * 4_000.0);
        assert!(ratio >= 0.45, "{ratio}");
        let (_, counters) = &cache.counters()[0];
        assert_eq!(counters.hits.load(Ordering::Relaxed) + counters.misses.load(Ordering::Relaxed), 20 * 4_000);
        assert_eq!(counters.bytes.load(Ordering::Relaxed), cache.bytes());
    }

    #[test]
    fn shuffled_epochs_hit_as_well() {
        let cache = ChunkCache::new(2_000 * 1000);
        let (mut hits, mut state) = (0, 1u64);
        for round in 0..20 {
            let mut order: Vec<u64> = (0..4_000).collect();
            for i in (1..order.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                order.swap(i, (state >> 33) as usize % (i + 1));
            }
            for n in order {
                hits += u64::from(read(&cache, n) && round >= 5);
            }
        }
        let ratio = hits as f64 / (15.0 * 4_000.0);
        assert!(ratio >= 0.45, "{ratio}");
    }

    #[test]
    fn a_hot_set_survives_a_scan() {
        let cache = ChunkCache::new(1_000 * 1000);
        for _ in 0..20 {
            for n in 0..300 {
                read(&cache, n);
            }
        }
        let mut hits = 0;
        for n in 0..30_000 {
            read(&cache, 1_000_000 + n);
            hits += u64::from(read(&cache, n % 300));
        }
        assert!(hits > 28_000, "{hits}");
    }

    #[test]
    fn pinned_chunks_stay_and_go_by_name() {
        let cache = ChunkCache::new(100 * 1000);
        for chunk in 0..3 {
            cache.offer(BUCKET, part(1), chunk, &[7; 100], Admit::Pin);
        }
        for n in 0..100_000 {
            read(&cache, 1000 + n);
        }
        assert!((0..3).all(|chunk| cache.has(part(1), chunk)));
        assert_eq!(cache.evict_part(part(1), 10), 3);
        assert!(!cache.has(part(1), 0));
        cache.evict_bucket(BUCKET);
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn switched_off_it_holds_nothing() {
        let cache = ChunkCache::new(0);
        assert!(!read(&cache, 1) && !read(&cache, 1));
        assert_eq!(cache.bytes(), 0);
        assert!(cache.counters().is_empty());
    }
}
