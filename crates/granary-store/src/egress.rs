//! The way out: parts become verified plaintext. A chunk whose tag does not match is rebuilt from the other
//! shards; what cannot be rebuilt ends the body with an error, never with wrong or missing bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use granary_crypto::{BucketKeys, ChunkCipher};
use granary_meta::records::{PartPlace, PartRecord};
use granary_stripe::{ChunkStream, PartLayout, SealedRun};
use granary_types::limits::TAG_BYTES;
use granary_types::{BucketId, ByteRange, PartLocation};

use crate::active::ActiveGuard;
use crate::api::{BodyOut, Result};
use crate::cache::{Admit, GROUP_CHUNKS};
use crate::error::StoreError;
use crate::inner::{Inner, from_crypto, from_stripe};
use crate::sse::OpenLock;
use crate::stats::StoreStats;

/// A part and the bytes of its payload that are wanted.
pub(crate) struct Piece {
    pub(crate) part: PartRecord,
    pub(crate) range: ByteRange,
    /// The sealed chunk of an inline part.
    pub(crate) inline: Option<Bytes>,
    /// Keeps the reaper away from a part on drives.
    pub(crate) guard: Option<ActiveGuard>,
}

/// A part being read: chunks that are in memory from there, runs of those that are not from drives.
struct Reading {
    opener: Opener,
    /// The next chunk, and one past the last.
    next: u64,
    end: u64,
    /// The run that is being read from drives, which ends before this chunk.
    stream: Option<(ChunkStream, u64)>,
    _guard: Option<ActiveGuard>,
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
    ready: VecDeque<Bytes>,
    left_bytes: u64,
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
    let mut egress = Egress { inner, key, lock, bucket, admit, pieces, reading: None, ready, left_bytes };
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
                if !reading.go_on(&self.inner, &mut self.ready).await? {
                    self.reading = None;
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
        let data_key = self.key.unwrap_data_key(&part.key, part.id, &self.lock.lock()).map_err(from_crypto)?;
        let cipher = ChunkCipher::new(&data_key, part.id);
        match &part.place {
            PartPlace::Inline => {
                let sealed = inline.ok_or(StoreError::NoSuchKey { delete_marker: None })?;
                self.ready.push_back(open_inline(&cipher, &part, sealed, range)?);
            }
            PartPlace::Drives(placement) => {
                let layout = PartLayout::new(part.payload_bytes, placement.scheme).map_err(from_stripe)?;
                let location =
                    PartLocation { part: part.id, payload_bytes: part.payload_bytes, placement: placement.clone() };
                let chunks = layout.chunks_of(range.start..range.end);
                let opener = Opener { location, layout, cipher, range, bucket: self.bucket, admit: self.admit };
                let (next, end) = (chunks.start, chunks.end);
                self.reading = Some(Reading { opener, next, end, stream: None, _guard: guard });
            }
        }
        Ok(())
    }
}

impl Reading {
    /// Queues some more bytes; `false` at the end.
    async fn go_on(&mut self, inner: &Inner, ready: &mut VecDeque<Bytes>) -> Result<bool> {
        if let Some((stream, until)) = &mut self.stream {
            match stream.next().await {
                Some(run) => self.opener.open_run(inner, run.map_err(from_stripe)?, ready).await?,
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
            self.next += 1;
            return Ok(true);
        }
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
        Ok(true)
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
