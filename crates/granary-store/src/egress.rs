//! The way out: parts become verified plaintext. A chunk whose tag does not match is rebuilt from the other
//! shards; what cannot be rebuilt ends the body with an error, never with wrong or missing bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use granary_crypto::{BucketKey, ChunkCipher};
use granary_meta::records::{PartPlace, PartRecord};
use granary_stripe::{ChunkStream, PartLayout, SealedRun};
use granary_types::limits::TAG_BYTES;
use granary_types::{ByteRange, PartLocation};

use crate::active::ActiveGuard;
use crate::api::{BodyOut, Result};
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

/// A part being read from drives.
struct Reading {
    opener: Opener,
    stream: ChunkStream,
    _guard: Option<ActiveGuard>,
}

/// What opening a part's chunks takes.
struct Opener {
    location: PartLocation,
    layout: PartLayout,
    cipher: ChunkCipher,
    range: ByteRange,
}

struct Egress {
    inner: Arc<Inner>,
    key: Arc<BucketKey>,
    lock: OpenLock,
    pieces: VecDeque<Piece>,
    reading: Option<Reading>,
    ready: VecDeque<Bytes>,
    left_bytes: u64,
}

/// The pieces' bytes, in order. The first frame is read before this returns, so that a part that cannot be
/// read at all is an error answer and not a cut connection.
pub(crate) async fn body(
    inner: &Arc<Inner>,
    key: Arc<BucketKey>,
    lock: OpenLock,
    pieces: VecDeque<Piece>,
) -> Result<BodyOut> {
    let left_bytes = pieces.iter().map(|piece| piece.range.len()).sum();
    let mut egress =
        Egress { inner: Arc::clone(inner), key, lock, pieces, reading: None, ready: VecDeque::new(), left_bytes };
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
                match reading.stream.next().await {
                    Some(run) => {
                        reading.opener.open_run(&self.inner, run.map_err(from_stripe)?, &mut self.ready).await?;
                    }
                    None => self.reading = None,
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
                let stream = self.inner.stripes.read_chunks(&location, chunks).map_err(from_stripe)?;
                let opener = Opener { location, layout, cipher, range };
                self.reading = Some(Reading { opener, stream, _guard: guard });
            }
        }
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
