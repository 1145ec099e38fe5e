//! Epochs over a frozen dataset: every sample once, in an order that looks random and is the same for the same arguments.
//!
//! The order is made of two keyed permutations, so that nothing has to be remembered: of the dataset's objects, and of
//! the samples within a block of consecutive objects in that order. A block holds at least [`BLOCK_SAMPLES`] samples (or
//! whatever there is), so that small datasets are shuffled as a whole, and large ones touch few tar files at a time, whose
//! indexes and chunks stay in memory. Rank `r` of `w` has positions `r, r + w, r + 2w, ...`; its batch `b` of size `n` the
//! `n` positions from `b × n` of these on.

use std::sync::Arc;

use granary_meta::records::BucketRecord;
use granary_types::{BucketId, BucketName, ObjectKey};
use parking_lot::Mutex;

use crate::ai::AiError;
use crate::ai::batch::Item;
use crate::ai::dataset::read_manifest;
use crate::ai::manifest::Entry;
use crate::ai::shard::Shards;
use crate::ai::source::Found;
use crate::error::StoreError;

/// Samples in a block of the shuffle.
pub const BLOCK_SAMPLES: u64 = 1 << 18;
/// Samples in one batch, at most.
pub const BATCH_SAMPLES_MAX: u64 = 4096;
/// Ranks, at most.
pub const WORLD_SIZE_MAX: u64 = 1 << 20;
/// Datasets, and orders of epochs, kept in memory.
const KEPT: usize = 8;
/// Memory that a dataset's list of objects may take.
const DATASET_BYTES_MAX: usize = 256 << 20;

/// A permutation of `0..n`, by a key: a Feistel network over the next power of four, walked until it is within.
#[derive(Debug, Clone, Copy)]
pub struct Permutation {
    n: u64,
    half_bits: u32,
    keys: [u64; 6],
}

impl Permutation {
    /// The permutation of `0..n` that belongs to `words`.
    #[must_use]
    pub fn new(n: u64, words: [u64; 3]) -> Self {
        let bits = 64 - n.saturating_sub(1).leading_zeros();
        let mut state = words.into_iter().fold(0x6772_616e_6172_7931, |state: u64, word| mix(state ^ word));
        let keys = std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(state)
        });
        Self { n, half_bits: bits.div_ceil(2).max(1), keys }
    }

    /// Where `i` goes. `i` must be below `n`.
    #[must_use]
    pub fn at(&self, i: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let mut x = i;
        loop {
            let (mut left, mut right) = (x >> self.half_bits, x & mask);
            for key in self.keys {
                (left, right) = (right, left ^ (mix(right ^ key) & mask));
            }
            x = (left << self.half_bits) | right;
            if x < self.n {
                return x;
            }
        }
    }
}

/// The finaliser of SplitMix64.
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochRequest {
    /// Names the run's order.
    pub seed: u64,
    /// Which pass over the dataset.
    pub epoch: u64,
    /// Which of the readers.
    pub rank: u64,
    /// How many readers there are.
    pub world_size: u64,
    /// Which batch of this rank.
    pub batch: u64,
    /// Samples in a batch.
    pub batch_size: u64,
}

/// How many samples and batches a rank has in every epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Samples of all ranks.
    pub samples_total: u64,
    /// Samples of this rank.
    pub samples: u64,
    /// Batches of this rank; the last one may be short.
    pub batches: u64,
}

impl EpochRequest {
    fn check(&self) -> Result<(), AiError> {
        let bad = |what: String| Err(AiError::Invalid(what));
        if self.world_size == 0 || self.world_size > WORLD_SIZE_MAX || self.rank >= self.world_size {
            return bad(format!("`world-size` is 1 to {WORLD_SIZE_MAX}, and `rank` below it"));
        }
        if self.batch_size == 0 || self.batch_size > BATCH_SAMPLES_MAX {
            return bad(format!("`batch-size` is 1 to {BATCH_SAMPLES_MAX}"));
        }
        Ok(())
    }

    /// This rank's share of `samples`.
    #[must_use]
    pub fn share(&self, samples_total: u64) -> Share {
        let samples = samples_total.saturating_sub(self.rank).div_ceil(self.world_size);
        Share { samples_total, samples, batches: samples.div_ceil(self.batch_size) }
    }

    /// The positions of the batch in the epoch's order.
    fn positions(&self, samples_total: u64) -> impl Iterator<Item = u64> + use<> {
        let (share, request) = (self.share(samples_total), *self);
        let from = request.batch.saturating_mul(request.batch_size).min(share.samples);
        let to = from.saturating_add(request.batch_size).min(share.samples);
        (from..to).map(move |i| i * request.world_size + request.rank)
    }
}

/// A dataset's objects, as sampling needs them.
pub struct Samples {
    names: String,
    /// Where each name begins, and whether the object is a shard.
    objects: Vec<(u32, bool)>,
    /// Samples in each.
    counts: Vec<u32>,
    total: u64,
}

impl Samples {
    fn name(&self, object: usize) -> &str {
        let start = self.objects[object].0 as usize;
        let end = self.objects.get(object + 1).map_or(self.names.len(), |next| next.0 as usize);
        &self.names[start..end]
    }
}

/// The objects of one epoch in order, and the samples before each.
struct Order {
    objects: Vec<u32>,
    /// `objects.len() + 1` sums.
    before: Vec<u64>,
    /// First object of each block.
    blocks: Vec<usize>,
    seed: u64,
    epoch: u64,
}

impl Order {
    fn new(samples: &Samples, seed: u64, epoch: u64) -> Self {
        let n = samples.counts.len() as u64;
        let permutation = Permutation::new(n, [seed, epoch, u64::MAX]);
        let objects: Vec<u32> = (0..n).map(|i| permutation.at(i) as u32).collect();
        let mut before = Vec::with_capacity(objects.len() + 1);
        let (mut sum, mut block_start, mut blocks) = (0u64, 0u64, vec![0usize]);
        before.push(0);
        for (i, object) in objects.iter().enumerate() {
            sum += u64::from(samples.counts[*object as usize]);
            before.push(sum);
            if sum - block_start >= BLOCK_SAMPLES && i + 1 < objects.len() {
                block_start = sum;
                blocks.push(i + 1);
            }
        }
        Self { objects, before, blocks, seed, epoch }
    }

    /// The object and the sample in it at a position of the epoch.
    fn at(&self, position: u64) -> (usize, u64) {
        let block = self.blocks.partition_point(|first| self.before[*first] <= position) - 1;
        let first = self.before[self.blocks[block]];
        let end = self.blocks.get(block + 1).map_or_else(|| self.before[self.objects.len()], |next| self.before[*next]);
        let permutation = Permutation::new(end - first, [self.seed, self.epoch, block as u64]);
        let sample = first + permutation.at(position - first);
        let i = self.before.partition_point(|before| *before <= sample) - 1;
        (self.objects[i] as usize, sample - self.before[i])
    }
}

type DatasetKey = (BucketId, String, [u8; 32]);
type OrderKey = (DatasetKey, u64, u64);

/// Serves epochs.
#[derive(Clone)]
pub struct Epochs {
    shards: Shards,
    #[allow(clippy::type_complexity)] // A small cache: newest last.
    datasets: Arc<Mutex<Vec<(DatasetKey, Arc<Samples>)>>>,
    #[allow(clippy::type_complexity)]
    orders: Arc<Mutex<Vec<(OrderKey, Arc<Order>)>>>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

fn kept<K: PartialEq, V: Clone>(table: &Mutex<Vec<(K, V)>>, key: &K) -> Option<V> {
    let mut table = table.lock();
    let at = table.iter().position(|(other, _)| other == key)?;
    let found = table.remove(at);
    let value = found.1.clone();
    table.push(found);
    Some(value)
}

fn keep<K, V>(table: &Mutex<Vec<(K, V)>>, key: K, value: V) {
    let mut table = table.lock();
    if table.len() >= KEPT {
        table.remove(0);
    }
    table.push((key, value));
}

impl Epochs {
    /// Over these shards.
    #[must_use]
    pub fn new(shards: Shards) -> Self {
        Self { shards, datasets: Arc::default(), orders: Arc::default(), turn: Arc::default() }
    }

    /// The items of a batch, a sample's together and in the sample's order, and this rank's share.
    ///
    /// # Errors
    /// [`AiError::Invalid`] for arguments and prefixes that cannot be, the store's.
    pub async fn batch(
        &self,
        bucket: &BucketRecord,
        prefix: &str,
        request: EpochRequest,
    ) -> Result<(Vec<Item>, Share), AiError> {
        request.check()?;
        let (key, samples) = self.samples(bucket, prefix).await?;
        let order = self.order(key, &samples, request.seed, request.epoch).await?;
        let share = request.share(samples.total);
        if request.batch >= share.batches {
            return Err(AiError::NoSuchBatch { batch: request.batch, batches: share.batches });
        }
        let mut items = Vec::new();
        for position in request.positions(samples.total) {
            let (object, sample) = order.at(position);
            self.items_of(&bucket.name, prefix, &samples, object, sample, &mut items).await?;
        }
        Ok((items, share))
    }

    async fn items_of(
        &self,
        bucket: &BucketName,
        prefix: &str,
        samples: &Samples,
        object: usize,
        sample: u64,
        items: &mut Vec<Item>,
    ) -> Result<(), AiError> {
        let name = samples.name(object);
        let key = ObjectKey::new(name.to_owned()).map_err(|error| AiError::Invalid(error.to_string()))?;
        let short = name.strip_prefix(prefix).unwrap_or(name);
        let item = |place, name| Item {
            key: key.clone(),
            version: None,
            member: None,
            range: None,
            place,
            name,
            denied: false,
        };
        if !samples.objects[object].1 {
            items.push(item(None, short.to_owned()));
            return Ok(());
        }
        let found = Found::look_up(&**self.shards.store(), bucket, &key, None).await?;
        let index = self.shards.index(&found).await?;
        let stem = short.strip_suffix(".tar").unwrap_or(short);
        let before = items.len();
        for member in index.sample(usize::try_from(sample).unwrap_or(usize::MAX)) {
            let place = Some((member.offset, member.offset + member.size_bytes));
            items.push(item(place, format!("{stem}/{}", member.name)));
        }
        if items.len() == before {
            let why = format!("{bucket}/{name} has fewer samples than its manifest says");
            return Err(StoreError::Corrupt(why).into());
        }
        Ok(())
    }

    async fn samples(&self, bucket: &BucketRecord, prefix: &str) -> Result<(DatasetKey, Arc<Samples>), AiError> {
        let frozen = bucket.frozen.iter().find(|frozen| frozen.prefix == prefix);
        let frozen = frozen.ok_or_else(|| {
            AiError::Invalid(format!("{}/{prefix} is not a frozen dataset: epochs are served over those", bucket.name))
        })?;
        let sha256 = frozen.manifest.as_ref().map_or([0; 32], |manifest| manifest.sha256);
        let key = (bucket.id, prefix.to_owned(), sha256);
        if let Some(samples) = kept(&self.datasets, &key) {
            return Ok((key, samples));
        }
        let _turn = self.turn.lock().await;
        if let Some(samples) = kept(&self.datasets, &key) {
            return Ok((key, samples));
        }
        let mut samples = Samples { names: String::new(), objects: Vec::new(), counts: Vec::new(), total: 0 };
        let mut is_too_large = false;
        read_manifest(&**self.shards.store(), &bucket.name, frozen, |entry| {
            let Entry::Object(line) = entry else { return };
            let taken = samples.names.len() + line.key.len() + samples.objects.len() * 24;
            let (start, count) = (u32::try_from(samples.names.len()), u32::try_from(line.samples));
            match (start, count) {
                (Ok(start), Ok(count)) if taken <= DATASET_BYTES_MAX => {
                    samples.names.push_str(&line.key);
                    samples.objects.push((start, line.shard));
                    samples.counts.push(count);
                    samples.total += u64::from(count);
                }
                _ => is_too_large = true,
            }
        })
        .await?;
        if is_too_large {
            return Err(AiError::Invalid(format!(
                "the dataset has too many objects to be sampled (its list takes over {DATASET_BYTES_MAX} bytes): pack samples into tar shards"
            )));
        }
        let samples = Arc::new(samples);
        keep(&self.datasets, key.clone(), Arc::clone(&samples));
        Ok((key, samples))
    }

    async fn order(
        &self,
        dataset: DatasetKey,
        samples: &Arc<Samples>,
        seed: u64,
        epoch: u64,
    ) -> Result<Arc<Order>, AiError> {
        let key = (dataset, seed, epoch);
        if let Some(order) = kept(&self.orders, &key) {
            return Ok(order);
        }
        let _turn = self.turn.lock().await;
        if let Some(order) = kept(&self.orders, &key) {
            return Ok(order);
        }
        let samples = Arc::clone(samples);
        // Millions of objects take some time: not on a thread that serves others.
        let order = tokio::task::spawn_blocking(move || Arc::new(Order::new(&samples, seed, epoch)))
            .await
            .map_err(|error| StoreError::Internal(error.to_string()))?;
        keep(&self.orders, key, Arc::clone(&order));
        Ok(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn permutations_are_bijections_and_differ_by_key() {
        for n in [1, 2, 3, 4, 5, 16, 17, 1000, 4097] {
            let all: BTreeSet<u64> = (0..n).map(|i| Permutation::new(n, [1, 2, 3]).at(i)).collect();
            assert_eq!(all.len() as u64, n);
            assert!(all.iter().all(|x| *x < n));
        }
        let order = |words| (0..100).map(|i| Permutation::new(100, words).at(i)).collect::<Vec<_>>();
        assert_eq!(order([1, 2, 3]), order([1, 2, 3]));
        for other in [[2, 2, 3], [1, 3, 3], [1, 2, 4], [2, 1, 3]] {
            assert_ne!(order([1, 2, 3]), order(other));
        }
        let stays = (0..10_000u64).filter(|i| Permutation::new(10_000, [7, 7, 7]).at(*i) == *i).count();
        assert!(stays < 20, "{stays} of 10,000 stay where they are");
    }

    /// The order is part of the interface: a run that resumes on a later version must see the same samples.
    #[test]
    fn the_order_is_fixed() {
        let order: Vec<u64> = (0..10).map(|i| Permutation::new(10, [42, 0, u64::MAX]).at(i)).collect();
        assert_eq!(order, FIXED);
    }
    const FIXED: [u64; 10] = [0, 1, 7, 4, 8, 5, 6, 9, 3, 2];

    fn samples(counts: &[u32]) -> Samples {
        Samples {
            names: String::new(),
            objects: counts.iter().map(|_| (0, true)).collect(),
            counts: counts.to_vec(),
            total: counts.iter().map(|n| u64::from(*n)).sum(),
        }
    }

    #[test]
    fn every_sample_once_over_all_ranks() {
        let samples = samples(&[5, 0, 1, 100, 7, 0]);
        let order = Order::new(&samples, 1, 2);
        for (world_size, batch_size) in [(1, 1), (3, 4), (7, 100), (200, 3)] {
            let mut seen = BTreeSet::new();
            let mut count = 0;
            for rank in 0..world_size {
                let request = EpochRequest { seed: 1, epoch: 2, rank, world_size, batch: 0, batch_size };
                for batch in 0..request.share(samples.total).batches {
                    for position in (EpochRequest { batch, ..request }).positions(samples.total) {
                        seen.insert(order.at(position));
                        count += 1;
                    }
                }
            }
            assert_eq!((seen.len() as u64, count), (samples.total, samples.total));
            assert!(seen.iter().all(|(object, sample)| *sample < u64::from(samples.counts[*object])));
        }
    }

    #[test]
    fn large_datasets_are_shuffled_in_blocks() {
        let samples = samples(&[100_000; 10]);
        let order = Order::new(&samples, 9, 9);
        assert_eq!(order.blocks, [0, 3, 6, 9]);
        let first: BTreeSet<usize> = (0..300_000).map(|position| order.at(position).0).collect();
        assert_eq!(first.len(), 3);
        let all: BTreeSet<(usize, u64)> = (0..1_000_000).map(|position| order.at(position)).collect();
        assert_eq!(all.len(), 1_000_000);
    }
}
