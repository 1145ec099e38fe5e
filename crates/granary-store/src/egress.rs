//! The way out: parts become verified plaintext. A chunk whose tag does not match is rebuilt from the other
//! shards; what cannot be rebuilt ends the body with an error, never with wrong or missing bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use granary_crypto::{BucketKeys, ChunkCipher};
use granary_meta::records::{BlockUse, PartPlace, PartRecord};
use granary_stripe::{ChunkStream, PartLayout, SealedRun, StripeError};
use granary_types::limits::TAG_BYTES;
use granary_types::{BucketId, ByteRange, PartId, PartLocation, WrappedKey};

use crate::active::ActiveGuard;
use crate::api::{BodyOut, Result};
use crate::cache::{Admit, GROUP_CHUNKS};
use crate::dedup::ReadingGuard;
use crate::error::StoreError;
use crate::inner::{Inner, from_crypto, from_meta, from_stripe};
use crate::meter::{self, Meter, waiting};
use crate::sse::OpenLock;
use crate::stats::StoreStats;

/// A part and the bytes of its payload that are wanted.
pub(crate) struct Piece {
    pub(crate) part: PartRecord,
    pub(crate) range: ByteRange,
    /// The sealed chunk of an inline part.
    pub(crate) inline: Option<Bytes>,
    /// Keeps the reaper away from what is on drives.
    pub(crate) guard: Option<Kept>,
}

/// What keeps the reaper away; held, never looked at.
#[allow(dead_code)]
pub(crate) enum Kept {
    /// From one part.
    Part(ActiveGuard),
    /// From all blocks that were in use when the read began.
    Blocks(ReadingGuard),
}

/// A part being read: chunks that are in memory from there, runs of those that are not from drives.
struct Reading {
    opener: Opener,
    /// The next chunk, and one past the last.
    next: u64,
    end: u64,
    /// The run that is being read from drives, which ends before this chunk.
    stream: Option<(ChunkStream, u64)>,
    /// The run's first piece, where it came before it was asked for.
    first: Option<Option<Run>>,
    _guard: Option<Kept>,
}

type Run = std::result::Result<SealedRun, StripeError>;

/// A part made of shared blocks, being read: what is still to come of it.
struct Blocks {
    blocks: std::vec::IntoIter<BlockUse>,
    /// Where the next of them begins in the part.
    start: u64,
    /// What is wanted of the part.
    range: ByteRange,
    _guard: Option<Kept>,
}

/// Chunks that are looked up ahead to see how far a run goes that has to be read.
const LOOK_AHEAD_CHUNKS: u64 = 4096;

/// What opening a part's chunks takes.
struct Opener {
    location: PartLocation,
    layout: PartLayout,
    cipher: ChunkCipher,
    range: ByteRange,
    bucket: BucketId,
    admit: Admit,
}

struct Egress {
    inner: Arc<Inner>,
    key: Arc<BucketKeys>,
    lock: OpenLock,
    bucket: BucketId,
    admit: Admit,
    pieces: VecDeque<Piece>,
    reading: Option<Reading>,
    /// Blocks that follow the one that is being read.
    blocks: Option<Blocks>,
    /// The next of them, already being read.
    ahead: Option<Reading>,
    ready: VecDeque<Bytes>,
    left_bytes: u64,
    meter: Option<Arc<dyn Meter>>,
}

/// The pieces' bytes, in order. The first frame is read before this returns, so that a part that cannot be
/// read at all is an error answer and not a cut connection.
pub(crate) async fn body(
    inner: &Arc<Inner>,
    bucket: BucketId,
    key: Arc<BucketKeys>,
    lock: OpenLock,
    pieces: VecDeque<Piece>,
    admit: Admit,
) -> Result<BodyOut> {
    // What a customer's key opens is not kept.
    let admit = if matches!(lock, OpenLock::Customer(_)) { Admit::Never } else { admit };
    let left_bytes = pieces.iter().map(|piece| piece.range.len()).sum();
    let inner = Arc::clone(inner);
    let ready = VecDeque::new();
    let meter = meter::current();
    let (reading, blocks, ahead) = (None, None, None);
    let mut egress =
        Egress { inner, key, lock, bucket, admit, pieces, reading, blocks, ahead, ready, left_bytes, meter };
    let Some(first) = egress.next().await? else { return Ok(stream::empty().boxed()) };
    if egress.left_bytes == 0 {
        return Ok(stream::once(std::future::ready(Ok(first))).boxed());
    }
    let rest = stream::try_unfold(egress, |mut egress| async move {
        let frame = egress.next().await?;
        Ok(frame.map(|frame| (frame, egress)))
    });
    Ok(stream::once(std::future::ready(Ok(first))).chain(rest).boxed())
}

impl Egress {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                self.left_bytes -= frame.len() as u64;
                StoreStats::add(&self.inner.stats.served_bytes, frame.len() as u64);
                return Ok(Some(frame));
            }
            if let Some(reading) = &mut self.reading {
                if !reading.go_on(&self.inner, &mut self.ready, self.ahead.as_mut(), self.meter.as_ref()).await? {
                    self.reading = self.ahead.take();
                    self.ahead = self.next_block()?;
                }
                continue;
            }
            if self.blocks.is_some() {
                self.reading = self.next_block()?;
                self.ahead = self.next_block()?;
                if self.reading.is_none() {
                    self.blocks = None;
                }
                continue;
            }
            let Some(piece) = self.pieces.pop_front() else {
                if self.left_bytes > 0 {
                    return Err(StoreError::Internal(format!("{} bytes of the body are missing", self.left_bytes)));
                }
                return Ok(None);
            };
            self.begin(piece)?;
        }
    }

    fn begin(&mut self, piece: Piece) -> Result<()> {
        let Piece { part, range, inline, guard } = piece;
        if range.is_empty() {
            return Ok(());
        }
        match part.place {
            PartPlace::Inline => {
                let sealed = inline.ok_or(StoreError::NoSuchKey { delete_marker: None })?;
                let cipher = self.cipher(part.id, &part.key)?;
                self.ready.push_back(open_inline(&cipher, &part, sealed, range)?);
            }
            PartPlace::Drives(placement) => {
                let location = PartLocation { part: part.id, payload_bytes: part.payload_bytes, placement };
                self.reading = Some(self.reading(location, &part.key, range, guard)?);
            }
            PartPlace::Shared(shared) => {
                self.blocks = Some(Blocks { blocks: shared.blocks.into_iter(), start: 0, range, _guard: guard });
            }
        }
        Ok(())
    }

    fn cipher(&self, part: PartId, key: &WrappedKey) -> Result<ChunkCipher> {
        let data_key = self.key.unwrap_data_key(key, part, &self.lock.lock()).map_err(from_crypto)?;
        Ok(ChunkCipher::new(&data_key, part))
    }

    fn reading(
        &self,
        location: PartLocation,
        key: &WrappedKey,
        range: ByteRange,
        guard: Option<Kept>,
    ) -> Result<Reading> {
        let cipher = self.cipher(location.part, key)?;
        let layout = PartLayout::new(location.payload_bytes, location.placement.scheme).map_err(from_stripe)?;
        let chunks = layout.chunks_of(range.start..range.end);
        let opener = Opener { location, layout, cipher, range, bucket: self.bucket, admit: self.admit };
        let (next, end) = (chunks.start, chunks.end);
        Ok(Reading { opener, next, end, stream: None, first: None, _guard: guard })
    }

    /// Begins to read the next block that is wanted of the part made of blocks; `None` where there is none.
    fn next_block(&mut self) -> Result<Option<Reading>> {
        let Some(blocks) = &mut self.blocks else { return Ok(None) };
        let (used, range) = loop {
            let Some(used) = blocks.blocks.next() else { return Ok(None) };
            let start = blocks.start;
            blocks.start += used.payload_bytes;
            let from = blocks.range.start.max(start);
            let to = blocks.range.end.min(blocks.start);
            if from < to {
                break (used, ByteRange { start: from - start, end: to - start });
            }
            if start >= blocks.range.end {
                return Ok(None);
            }
        };
        let part = used.block;
        let block = self.inner.index()?.block(part).map_err(from_meta)?;
        let block = block.filter(|block| block.bucket == self.bucket && block.payload_bytes == used.payload_bytes);
        let Some(block) = block else {
            return Err(StoreError::Corrupt(format!("block {part} of the object is not what its part says")));
        };
        let location = PartLocation { part, payload_bytes: used.payload_bytes, placement: block.placement };
        let mut reading = self.reading(location, &block.key, range, None)?;
        // What is in memory needs no drive.
        if !self.inner.cache.has(part, reading.next) {
            reading.open_run(&self.inner)?;
        }
        Ok(Some(reading))
    }
}

impl Reading {
    /// Queues some more bytes; `false` at the end. While it waits for its drives, those of `ahead` work too.
    async fn go_on(
        &mut self,
        inner: &Inner,
        ready: &mut VecDeque<Bytes>,
        mut ahead: Option<&mut Self>,
        meter: Option<&Arc<dyn Meter>>,
    ) -> Result<bool> {
        if let Some((stream, until)) = &mut self.stream {
            let run = match self.first.take() {
                Some(run) => run,
                None => {
                    let next = std::future::poll_fn(|cx| {
                        if let Some(ahead) = &mut ahead {
                            ahead.poll_first(cx);
                        }
                        stream.poll_next_unpin(cx)
                    });
                    waiting(meter, next).await
                }
            };
            match run {
                Some(run) => {
                    let run = run.map_err(from_stripe)?;
                    if let Some(meter) = meter {
                        meter.chunks(0, run.chunks as u64);
                    }
                    self.opener.open_run(inner, run, ready).await?;
                }
                None => {
                    self.next = *until;
                    self.stream = None;
                }
            }
            return Ok(true);
        }
        if self.next >= self.end {
            return Ok(false);
        }
        let part = self.opener.location.part;
        if let Some(chunk) = inner.cache.get(self.opener.bucket, part, self.next) {
            self.opener.queue(self.next, &chunk, ready)?;
            if let Some(meter) = meter {
                meter.chunks(1, 0);
            }
            self.next += 1;
            return Ok(true);
        }
        self.open_run(inner)?;
        Ok(true)
    }

    /// Lets the drives work for the first piece of the run, without taking it.
    fn poll_first(&mut self, cx: &mut std::task::Context<'_>) {
        if let (Some((stream, _)), None) = (&mut self.stream, &self.first)
            && let std::task::Poll::Ready(run) = stream.poll_next_unpin(cx)
        {
            self.first = Some(run);
        }
    }

    /// Opens the run of chunks that have to be read from drives, from the next one on.
    fn open_run(&mut self, inner: &Inner) -> Result<()> {
        let part = self.opener.location.part;
        let mut until = self.next + 1;
        if inner.cache.is_on() {
            let most = self.end.min(self.next + LOOK_AHEAD_CHUNKS);
            // Within a group what is missing is read with its neighbours; long reads stop where a group is in memory.
            while until < most
                && !(inner.cache.has(part, until)
                    && (until.is_multiple_of(GROUP_CHUNKS) || most - until < GROUP_CHUNKS))
            {
                until += 1;
            }
        } else {
            until = self.end;
        }
        let stream = inner.stripes.read_chunks(&self.opener.location, self.next..until).map_err(from_stripe)?;
        self.stream = Some((stream, until));
        Ok(())
    }
}

fn open_inline(cipher: &ChunkCipher, part: &PartRecord, sealed: Bytes, range: ByteRange) -> Result<Bytes> {
    let mut slot = Vec::from(sealed);
    if slot.len() as u64 != part.payload_bytes + TAG_BYTES as u64 || range.end > part.payload_bytes {
        return Err(StoreError::Corrupt(format!("inline part {} has {} bytes", part.id, slot.len())));
    }
    cipher
        .open(0, &mut slot)
        .map_err(|_| StoreError::Corrupt(format!("inline part {} fails verification", part.id)))?;
    slot.truncate(slot.len() - TAG_BYTES);
    let payload = Bytes::from(slot);
    Ok(payload.slice(range.start as usize..range.end as usize))
}

impl Opener {
    /// Queues the wanted bytes of a chunk's payload that was in memory.
    fn queue(&self, chunk: u64, payload: &Bytes, ready: &mut VecDeque<Bytes>) -> Result<()> {
        let place = self.layout.chunk(chunk);
        let start = place.payload_start.max(self.range.start);
        let end = (place.payload_start + place.payload_bytes as u64).min(self.range.end);
        if payload.len() != place.payload_bytes {
            let why = format!("chunk {chunk} of part {} has {} bytes in memory", self.location.part, payload.len());
            return Err(StoreError::Internal(why));
        }
        if start < end {
            ready
                .push_back(payload.slice((start - place.payload_start) as usize..(end - place.payload_start) as usize));
        }
        Ok(())
    }

    /// Opens a run's chunks in place and queues the wanted bytes of each, uncopied.
    async fn open_run(&self, inner: &Inner, run: SealedRun, ready: &mut VecDeque<Bytes>) -> Result<()> {
        let SealedRun { first_chunk, chunks, slot_bytes, mut buf } = run;
        let mut bad = Vec::new();
        for (i, slot) in buf.chunks_exact_mut(slot_bytes).take(chunks).enumerate() {
            if self.cipher.open(first_chunk + i as u64, slot).is_err() {
                bad.push(i);
            }
        }
        let mut rebuilt = Vec::with_capacity(bad.len());
        for i in bad {
            rebuilt.push((i, self.rebuild(inner, first_chunk + i as u64).await?));
        }
        let whole = buf.freeze();
        for i in 0..chunks {
            let place = self.layout.chunk(first_chunk + i as u64);
            if inner.cache.is_on() {
                let slot = rebuilt.iter().find(|(bad, _)| *bad == i).map(|(_, chunk)| &chunk[..]);
                let slot = slot.unwrap_or(&whole[i * slot_bytes..(i + 1) * slot_bytes]);
                let payload = &slot[..place.payload_bytes];
                inner.cache.offer(self.bucket, self.location.part, first_chunk + i as u64, payload, self.admit);
            }
            let start = place.payload_start.max(self.range.start);
            let end = (place.payload_start + place.payload_bytes as u64).min(self.range.end);
            if start >= end {
                continue;
            }
            let from = (start - place.payload_start) as usize;
            let to = (end - place.payload_start) as usize;
            ready.push_back(match rebuilt.iter().find(|(bad, _)| *bad == i) {
                Some((_, chunk)) => chunk.slice(from..to),
                None => whole.slice_bytes(i * slot_bytes + from..i * slot_bytes + to),
            });
        }
        Ok(())
    }

    /// Rebuilds one chunk from the other shards and opens it.
    async fn rebuild(&self, inner: &Inner, chunk: u64) -> Result<Bytes> {
        let part = self.location.part;
        let accept = |slot: &mut [u8]| self.cipher.open(chunk, slot).is_ok();
        let opened = inner.stripes.rebuild_chunk(&self.location, chunk, accept).await.map_err(from_stripe);
        match opened {
            Ok(slot) => {
                StoreStats::add(&inner.stats.rebuilt_chunks, 1);
                tracing::warn!(%part, chunk, "a chunk failed verification and was rebuilt from the other shards");
                Ok(slot.into_bytes())
            }
            Err(error) => {
                StoreStats::add(&inner.stats.lost_chunks, 1);
                tracing::error!(%part, chunk, %error, "a chunk cannot be rebuilt");
                Err(error)
            }
        }
    }
}
