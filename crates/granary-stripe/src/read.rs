//! Reading a part's chunks: only those asked for, in order, ahead of the reader by a bounded window.
//!
//! The healthy path reads data blocks only, without checksums (chunks carry tags, which the store checks)
//! and never decodes. A drive that is missing or fails is passed over: its chunks are rebuilt from the
//! others. A drive that is slow is hedged: after about its 99th percentile the others are asked too, and
//! whichever comes first is taken.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, Stream};
use granary_drive::api::DriveError;
use granary_drive::buf::AlignedBuf;
use granary_types::PartLocation;
use tokio::time::{Duration, Instant};

use crate::drives::DriveEntry;
use crate::error::{Result, StripeError};
use crate::rebuild::rebuild_range;
use crate::stats::{count, damage_kind};
use crate::store::{Inner, StripeStore, Target};
use crate::write::within;

/// Sealed chunks that follow each other, in one buffer that the store can open in place.
#[derive(Debug)]
pub struct SealedRun {
    /// Index of the first chunk.
    pub first_chunk: u64,
    /// Number of chunks.
    pub chunks: usize,
    /// Bytes of each one's slot, tag included.
    pub slot_bytes: usize,
    /// The slots, one after the other: `chunks × slot_bytes` bytes.
    pub buf: AlignedBuf,
}

impl SealedRun {
    /// Chunk indexes and their slots.
    pub fn slots_mut(&mut self) -> impl Iterator<Item = (u64, &mut [u8])> {
        (self.first_chunk..).zip(self.buf.chunks_exact_mut(self.slot_bytes)).take(self.chunks)
    }
}

/// A run to read: chunks of one block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) first_chunk: u64,
    pub(crate) chunks: usize,
    pub(crate) slot_bytes: usize,
    pub(crate) stripe: u64,
    pub(crate) block: usize,
    /// Offset of the run in its block.
    pub(crate) block_offset: usize,
}

impl Run {
    pub(crate) const fn len_bytes(&self) -> usize {
        self.chunks * self.slot_bytes
    }
}

/// Cuts a range of chunks into runs, one at a time.
#[derive(Debug)]
struct Plan {
    next: u64,
    end: u64,
}

impl Plan {
    fn next_run(&mut self, target: &Target) -> Option<Run> {
        if self.next >= self.end {
            return None;
        }
        let stripe = target.layout.stripe_of_chunk(self.next);
        let place = target.layout.stripe(stripe);
        let position = (self.next - place.first_chunk) as usize;
        let (block, in_block) = (position / place.block_chunks, position % place.block_chunks);
        let stripe_left = place.chunks - position;
        let wanted = usize::try_from(self.end - self.next).unwrap_or(usize::MAX);
        let chunks = (place.block_chunks - in_block).min(stripe_left).min(wanted);
        let run = Run {
            first_chunk: self.next,
            chunks,
            slot_bytes: place.slot_bytes,
            stripe,
            block,
            block_offset: in_block * place.slot_bytes,
        };
        self.next += chunks as u64;
        Some(run)
    }
}

impl StripeStore {
    /// Reads chunks of a part, in order. Dropping the stream ends the reading.
    ///
    /// # Errors
    /// [`StripeError::Invalid`] if the location contradicts itself or the range goes past its end.
    pub fn read_chunks(&self, location: &PartLocation, chunks: Range<u64>) -> Result<ChunkStream> {
        let target = Target::new(location)?;
        if chunks.end > target.layout.chunks() || chunks.start > chunks.end {
            let why = format!("chunks {chunks:?} of {}", target.layout.chunks());
            return Err(StripeError::Invalid(why));
        }
        Ok(ChunkStream {
            inner: Arc::clone(&self.inner),
            target: Arc::new(target),
            plan: Plan { next: chunks.start, end: chunks.end },
            reads: FuturesOrdered::new(),
            lengths: VecDeque::new(),
            ahead_bytes: 0,
            idle: Arc::new(AtomicU64::new(0)),
            returned: None,
            failed: false,
        })
    }
}

/// Runs of sealed chunks, in order, until the range asked for ends or an error does.
pub struct ChunkStream {
    inner: Arc<Inner>,
    target: Arc<Target>,
    plan: Plan,
    reads: FuturesOrdered<BoxFuture<'static, Result<SealedRun>>>,
    lengths: VecDeque<usize>,
    ahead_bytes: usize,
    /// Microseconds in which the reader was busy elsewhere and reads could not be noticed to have ended.
    idle: Arc<AtomicU64>,
    returned: Option<Instant>,
    failed: bool,
}

impl Stream for ChunkStream {
    type Item = Result<SealedRun>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.failed {
            return Poll::Ready(None);
        }
        if let Some(returned) = this.returned.take() {
            this.idle.fetch_add(returned.elapsed().as_micros() as u64, Ordering::Relaxed);
        }
        // At least one run, however small the window.
        while this.reads.is_empty() || this.ahead_bytes < this.inner.options.read_ahead_bytes {
            let Some(run) = this.plan.next_run(&this.target) else { break };
            this.ahead_bytes += run.len_bytes();
            this.lengths.push_back(run.len_bytes());
            let read = read_run(Arc::clone(&this.inner), Arc::clone(&this.target), run, Arc::clone(&this.idle));
            this.reads.push_back(Box::pin(read));
        }
        let Poll::Ready(item) = Pin::new(&mut this.reads).poll_next(cx) else { return Poll::Pending };
        this.ahead_bytes -= this.lengths.pop_front().unwrap_or(0);
        this.returned = Some(Instant::now());
        if matches!(item, Some(Err(_))) {
            // Never more after an error: a gap must not look like data.
            this.failed = true;
            this.reads = FuturesOrdered::new();
        }
        Poll::Ready(item)
    }
}

impl std::fmt::Debug for ChunkStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChunkStream")
            .field("part", &self.target.part)
            .field("plan", &self.plan)
            .field("ahead_bytes", &self.ahead_bytes)
            .finish_non_exhaustive()
    }
}

/// Reads one run, from its drive or from the others.
async fn read_run(inner: Arc<Inner>, target: Arc<Target>, run: Run, idle: Arc<AtomicU64>) -> Result<SealedRun> {
    count(&inner.stats.runs_read, 1);
    let finish = |buf: AlignedBuf| SealedRun {
        first_chunk: run.first_chunk,
        chunks: run.chunks,
        slot_bytes: run.slot_bytes,
        buf,
    };
    let Some((index, drive)) = pick(&inner, &target, run.block) else {
        return rebuild_run(&inner, &target, run, None).await.map(finish);
    };
    let delay = drive.latency().p99().max(inner.options.hedge_floor).min(inner.options.hedge_ceiling);
    let read = read_shard(&inner, &target, run, index, &drive, &idle);
    tokio::pin!(read);
    let first =
        if target.width() > target.k() { tokio::time::timeout(delay, &mut read).await } else { Ok((&mut read).await) };
    match first {
        Ok(Ok(buf)) => Ok(finish(buf)),
        Ok(Err(error)) => {
            shard_failed(&inner, &target, index, &error);
            if target.width() == target.k() {
                return Err(StripeError::Drive(error));
            }
            rebuild_run(&inner, &target, run, Some(index)).await.map(finish)
        }
        Err(_slow) => {
            count(&inner.stats.runs_hedged, 1);
            let rebuild = rebuild_run(&inner, &target, run, Some(index));
            tokio::pin!(rebuild);
            tokio::select! {
                biased;
                answer = &mut read => match answer {
                    Ok(buf) => Ok(finish(buf)),
                    Err(error) => {
                        shard_failed(&inner, &target, index, &error);
                        rebuild.await.map(finish)
                    }
                },
                rebuilt = &mut rebuild => match rebuilt {
                    Ok(buf) => {
                        count(&inner.stats.runs_hedge_won, 1);
                        // The slow read's true length is not known, but it took this long at least.
                        drive.latency().record(delay.saturating_mul(2));
                        Ok(finish(buf))
                    }
                    // The others cannot help; the slow drive may still.
                    Err(error) => read.await.map(finish).map_err(|_| error),
                },
            }
        }
    }
}

/// The drive to read a block from: its own, or with whole copies the least busy one that has a copy.
fn pick(inner: &Inner, target: &Target, block: usize) -> Option<(usize, Arc<DriveEntry>)> {
    if target.k() > 1 {
        return target.readable(block, &inner.drives).map(|drive| (block, drive));
    }
    (0..target.width())
        .filter_map(|index| target.readable(index, &inner.drives).map(|drive| (index, drive)))
        .min_by_key(|(_, drive)| drive.in_flight())
}

/// Reads a run from one shard and takes note of how long it took.
async fn read_shard(
    inner: &Inner,
    target: &Target,
    run: Run,
    index: usize,
    drive: &Arc<DriveEntry>,
    idle: &AtomicU64,
) -> std::result::Result<AlignedBuf, DriveError> {
    let offset = target.layout.stripe(run.stripe).shard_offset + run.block_offset as u64;
    let (begun, idle_before) = (Instant::now(), idle.load(Ordering::Relaxed));
    let in_flight = drive.begin_read();
    let shard = target.shard(index);
    let buf = within(inner.options.read_timeout, drive.store().read(shard, offset, run.len_bytes())).await?;
    drop(in_flight);
    if buf.len() != run.len_bytes() {
        let why = format!("shard {shard}: {} bytes came of {}", buf.len(), run.len_bytes());
        return Err(DriveError::Format(why));
    }
    // Not the drive's doing, if the reader was away meanwhile: such a reading is worth nothing.
    let away = Duration::from_micros(idle.load(Ordering::Relaxed) - idle_before);
    let took = begun.elapsed();
    if away * 8 < took {
        drive.latency().record(took);
    }
    Ok(buf)
}

async fn rebuild_run(inner: &Arc<Inner>, target: &Arc<Target>, run: Run, exclude: Option<usize>) -> Result<AlignedBuf> {
    count(&inner.stats.runs_rebuilt, 1);
    let range = run.block_offset..run.block_offset + run.len_bytes();
    rebuild_range(inner, target, run.stripe, run.block, range, exclude).await
}

/// Reports a shard that could not be read, unless it is the drive that is down.
pub(crate) fn shard_failed(inner: &Inner, target: &Target, index: usize, error: &DriveError) {
    match damage_kind(error) {
        Some(kind) => inner.damage(target, index, kind, error.to_string()),
        None => tracing::debug!(part = %target.part, shard = index, %error, "drive cannot be read"),
    }
}
