//! Rebuilding chunks from the other shards, by reads whose checksums the drives check.
//!
//! [`gather`] collects `k` good blocks of a stripe, going on to other shards where one fails or is slow.
//! [`StripeStore::rebuild_chunk`] is for a chunk whose tag failed although its drive said nothing: it
//! tries what the other shards decode to, in all combinations, until one is authentic.

use std::ops::Range;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use granary_drive::api::DriveError;
use granary_drive::buf::AlignedBuf;
use granary_types::PartLocation;
use granary_types::limits::CHUNK_BYTES;

use crate::error::{Result, StripeError};
use crate::read::shard_failed;
use crate::stats::{DamageKind, count};
use crate::store::{Inner, StripeStore, Target};
use crate::write::within;

/// Blocks of a stripe that were read and whose checksums match.
pub(crate) struct Gathered {
    /// One entry per shard.
    pub(crate) blocks: Vec<Option<AlignedBuf>>,
    /// Shards that could not be asked, or answered that their drive is down: they may come back.
    pub(crate) down: usize,
}

impl Gathered {
    pub(crate) fn present(&self) -> usize {
        self.blocks.iter().flatten().count()
    }

    /// Why there are fewer blocks than needed.
    pub(crate) fn too_few(&self, target: &Target, stripe: u64) -> StripeError {
        let (have, need) = (self.present(), target.k());
        if have + self.down >= need {
            return StripeError::Unavailable { what: "reading a part", have, need };
        }
        StripeError::Corrupt { part: target.part, stripe, have, need }
    }
}

/// Widens a range of a block to whole 64 KiB, as verified reads want it.
pub(crate) fn widened(target: &Target, stripe: u64, range: &Range<usize>) -> Range<usize> {
    let block_bytes = target.layout.stripe(stripe).block_bytes;
    range.start / CHUNK_BYTES * CHUNK_BYTES..range.end.next_multiple_of(CHUNK_BYTES).min(block_bytes)
}

/// One shard's range of a stripe's block, verified.
pub(crate) async fn read_verified(
    inner: &Inner,
    target: &Target,
    stripe: u64,
    range: Range<usize>,
    index: usize,
) -> std::result::Result<AlignedBuf, DriveError> {
    let shard = target.shard(index);
    let drive = target.readable(index, &inner.drives).ok_or_else(|| DriveError::Offline {
        drive: granary_types::DriveId([0; 16]),
        why: "not in the drive table, or the shard is missing".into(),
    })?;
    let _in_flight = drive.begin_read();
    let offset = target.layout.stripe(stripe).shard_offset + range.start as u64;
    let read = drive.store().read_verified(shard, offset, range.len());
    let buf = within(inner.options.read_timeout, read).await?;
    if buf.len() != range.len() {
        return Err(DriveError::Format(format!("shard {shard}: {} bytes came of {}", buf.len(), range.len())));
    }
    Ok(buf)
}

/// Reads the same range of a stripe's block from shards until `enough` are there, quick drives and data
/// blocks first; shards in `exclude` (bits) are not asked. Where one fails the next is asked; where one
/// is slow, all the rest; after the longest patience `settle` blocks will do. May return fewer.
pub(crate) async fn gather(
    inner: &Inner,
    target: &Target,
    stripe: u64,
    range: Range<usize>,
    exclude: u32,
    enough: usize,
    settle: usize,
) -> Gathered {
    let width = target.width();
    let mut gathered = Gathered { blocks: (0..width).map(|_| None).collect(), down: 0 };
    let mut candidates = Vec::with_capacity(width);
    for index in (0..width).filter(|i| exclude & 1 << i == 0) {
        match target.readable(index, &inner.drives) {
            // A drive far slower than the hedging floor goes behind parity; else data first, which decodes cheaper.
            Some(drive) => {
                let slow = drive.latency().mean() > inner.options.hedge_floor;
                candidates.push((slow, index, drive.latency().p99()));
            }
            None if !target.placement.is_missing(index) => gathered.down += 1,
            None => {}
        }
    }
    candidates.sort_by_key(|(slow, index, _)| (*slow, *index));
    let patience = candidates.iter().take(enough).map(|(.., p99)| *p99).max().unwrap_or_default();
    let patience = patience.max(inner.options.hedge_floor).min(inner.options.hedge_ceiling);
    let mut candidates = candidates.into_iter().map(|(_, index, _)| index);
    let read = |index: usize| {
        let range = range.clone();
        async move { (index, read_verified(inner, target, stripe, range, index).await) }
    };
    let mut reads: FuturesUnordered<_> = candidates.by_ref().take(enough).map(read).collect();
    let slow = tokio::time::sleep(patience);
    let very_slow = tokio::time::sleep(patience + inner.options.hedge_ceiling);
    tokio::pin!(slow, very_slow);
    let (mut hurried, mut settling) = (false, false);
    while gathered.present() < if settling { settle } else { enough } {
        tokio::select! {
            biased;
            answer = reads.next() => match answer {
                None => break,
                Some((index, Ok(block))) => gathered.blocks[index] = Some(block),
                Some((index, Err(error))) => {
                    if crate::stats::damage_kind(&error).is_none() {
                        gathered.down += 1;
                    }
                    shard_failed(inner, target, index, &error);
                    reads.extend(candidates.next().map(read));
                }
            },
            () = &mut slow, if !hurried => {
                hurried = true;
                reads.extend(candidates.by_ref().map(read));
            }
            () = &mut very_slow, if !settling => settling = true,
        }
    }
    gathered
}

/// A range of one data block, from the other shards (and from this one too, if `exclude` does not name it).
/// Runs as a task of its own, so that it goes on and gives its memory back however slow the reader is.
pub(crate) async fn rebuild_range(
    inner: &Arc<Inner>,
    target: &Arc<Target>,
    stripe: u64,
    block: usize,
    range: Range<usize>,
    exclude: Option<usize>,
) -> Result<AlignedBuf> {
    let (inner, target) = (Arc::clone(inner), Arc::clone(target));
    let task = tokio::spawn(async move {
        let k = target.k();
        let wide = widened(&target, stripe, &range);
        let _budget = inner.rebuild_budget((k + 1) * wide.len()).await;
        // With whole copies another copy will do, so only the one that failed is left out.
        let mut left_out = exclude.map_or(0, |index| 1u32 << index);
        if k > 1 {
            left_out |= 1 << block;
        }
        let mut gathered = gather(&inner, &target, stripe, wide.clone(), left_out, k, k).await;
        if !target.placement.is_missing(block) && target.readable(block, &inner.drives).is_none() {
            gathered.down += 1; // the block itself may come back
        }
        let codec = inner.codec(target.placement.scheme);
        if !codec.rebuild(&mut gathered.blocks, 1 << block, &inner.pool) {
            return Err(gathered.too_few(&target, stripe));
        }
        let whole = gathered.blocks[block].take().ok_or_else(|| gathered.too_few(&target, stripe))?;
        Ok(cut(&inner, whole, range.start - wide.start..range.end - wide.start))
    });
    AbortOnDrop(task).await
}

/// A buffer that holds just `range` of `whole`.
fn cut(inner: &Inner, whole: AlignedBuf, range: Range<usize>) -> AlignedBuf {
    if range.start == 0 && range.end == whole.len() {
        return whole;
    }
    let mut buf = inner.pool.take(range.len());
    buf.copy_from_slice(&whole[range]);
    buf
}

/// A task that ends when nobody waits for it any more.
struct AbortOnDrop<T>(tokio::task::JoinHandle<Result<T>>);

impl<T> Future for AbortOnDrop<T> {
    type Output = Result<T>;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut self.0).poll(cx).map(|joined| {
            joined.unwrap_or_else(|error| Err(StripeError::Invalid(format!("rebuilding ended early: {error}"))))
        })
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl StripeStore {
    /// A chunk whose tag failed, from the other shards. `accept` opens the candidate in place and says
    /// whether it was authentic; what it leaves in the buffer is what is returned (one slot). The chunk's
    /// own shard is read again first (the fault may have been on the way), then the others are decoded, in
    /// all combinations of `k` if need be. Shards found wrong are reported.
    ///
    /// # Errors
    /// [`StripeError::Unauthentic`] if nothing passes, [`StripeError::Corrupt`] or
    /// [`StripeError::Unavailable`] if fewer than `k` shards can be read.
    pub async fn rebuild_chunk<F>(&self, location: &PartLocation, chunk: u64, mut accept: F) -> Result<AlignedBuf>
    where
        F: FnMut(&mut [u8]) -> bool + Send,
    {
        let (inner, target) = (&self.inner, Target::new(location)?);
        if chunk >= target.layout.chunks() {
            return Err(StripeError::Invalid(format!("chunk {chunk} of {}", target.layout.chunks())));
        }
        let place = target.layout.chunk(chunk);
        let (width, k) = (target.width(), target.k());
        let start = (place.shard_offset - target.layout.stripe(place.stripe).shard_offset) as usize;
        let range = start..start + place.slot_bytes;
        let wide = widened(&target, place.stripe, &range);
        let slot = range.start - wide.start..range.end - wide.start;
        let _budget = inner.rebuild_budget(2 * width * wide.len()).await;
        let gathered = gather(inner, &target, place.stripe, wide.clone(), 0, width, k).await;
        let mut attempt = |block: &AlignedBuf| {
            let mut candidate = inner.pool.take(place.slot_bytes);
            candidate.copy_from_slice(&block[slot.clone()]);
            accept(&mut candidate).then_some(candidate)
        };
        // As it lies: this shard's own block, and with whole copies every other one.
        let blocks = &gathered.blocks;
        let own = if k == 1 { 0..width } else { place.block..place.block + 1 };
        for index in own {
            let Some(good) = blocks[index].as_ref().and_then(&mut attempt) else { continue };
            if k == 1 {
                let truth = blocks[index].as_ref();
                self.report_differing(&target, blocks, |i| blocks[i].as_deref() == truth.map(|b| &b[..]));
            }
            count(&inner.stats.chunks_rebuilt, 1);
            return Ok(good);
        }
        let others: Vec<usize> = (0..width).filter(|i| *i != place.block && blocks[*i].is_some()).collect();
        if k == 1 {
            return Err(if gathered.present() == 0 {
                gathered.too_few(&target, place.stripe)
            } else {
                StripeError::Unauthentic { part: target.part, chunk }
            });
        }
        if others.len() < k {
            return Err(gathered.too_few(&target, place.stripe));
        }
        let codec = inner.codec(target.placement.scheme);
        for chosen in Combinations::new(others.len(), k) {
            let mut trial: Vec<Option<AlignedBuf>> = (0..width).map(|_| None).collect();
            for index in chosen.iter().map(|at| others[*at]) {
                trial[index] = blocks[index].as_ref().map(|block| {
                    let mut copy = inner.pool.take(block.len());
                    copy.copy_from_slice(block);
                    copy
                });
            }
            if !codec.rebuild(&mut trial, 1 << place.block, &inner.pool) {
                continue;
            }
            let Some(good) = trial[place.block].as_ref().and_then(&mut attempt) else { continue };
            // Authentic, so these k are right, and all others follow from them.
            if codec.rebuild(&mut trial, u32::MAX >> (32 - width), &inner.pool) {
                self.report_differing(&target, blocks, |i| blocks[i].as_deref() == trial[i].as_deref());
            }
            count(&inner.stats.chunks_rebuilt, 1);
            return Ok(good);
        }
        Err(StripeError::Unauthentic { part: target.part, chunk })
    }

    /// Reports shards that were read, with good checksums, and are wrong nevertheless.
    fn report_differing(&self, target: &Target, blocks: &[Option<AlignedBuf>], is_right: impl Fn(usize) -> bool) {
        for index in (0..blocks.len()).filter(|i| blocks[*i].is_some() && !is_right(*i)) {
            let why = "the checksum matches, but the bytes are not those of the part".to_owned();
            self.inner.damage(target, index, DamageKind::Corrupt, why);
        }
    }
}

/// All ways to choose `k` of `0..n`, in lexicographic order.
struct Combinations {
    n: usize,
    next: Option<Vec<usize>>,
}

impl Combinations {
    fn new(n: usize, k: usize) -> Self {
        Self { n, next: (k <= n).then(|| (0..k).collect()) }
    }
}

impl Iterator for Combinations {
    type Item = Vec<usize>;

    fn next(&mut self) -> Option<Vec<usize>> {
        let current = self.next.take()?;
        let k = current.len();
        let mut following = current.clone();
        if let Some(at) = (0..k).rev().find(|at| following[*at] < self.n - k + at) {
            following[at] += 1;
            for later in at + 1..k {
                following[later] = following[later - 1] + 1;
            }
            self.next = Some(following);
        }
        Some(current)
    }
}

#[cfg(test)]
mod tests {
    use super::Combinations;

    #[test]
    fn combinations_are_all_and_distinct() {
        for (n, k, expected) in [(5, 2, 10), (4, 4, 1), (19, 16, 969), (3, 0, 1), (2, 3, 0)] {
            let all: Vec<Vec<usize>> = Combinations::new(n, k).collect();
            assert_eq!(all.len(), expected, "{n} over {k}");
            assert!(all.windows(2).all(|w| w[0] < w[1]));
            assert!(all.iter().flatten().all(|i| *i < n));
        }
    }
}
