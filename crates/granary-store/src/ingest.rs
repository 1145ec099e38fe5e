//! The way in: a body becomes a sealed part, inline or on drives, with its digests taken and every claim
//! checked before anything is proposed.
//!
//! Guarantees: when this returns `Ok`, a part on drives is durable on its placement; when it returns `Err`
//! or its future is dropped, nothing of the body stays (what a crash leaves behind is an orphan).

use bytes::Bytes;
use futures::StreamExt as _;
use granary_crypto::{ChunkCipher, CustomerKey, DataKey};
use granary_meta::records::{Attributes, BucketRecord, EtagMode, PartPlace, PartRecord, Sse};
use granary_types::limits::{AUDIT_SPACE_SHARE, BLOCK_BYTES, PART_BYTES_MAX, TAG_BYTES};
use granary_types::names::AUDIT_BUCKET;
use granary_types::{ObjectKey, PartId, Placement, Scheme};

use crate::active::ActiveGuard;
use crate::api::{BodyIn, Claims, Result};
use crate::dedup::{self, Shared, SharedSpec};
use crate::digest::{Digested, Digests};
use crate::error::StoreError;
use crate::header::{PartOf, ShardMeta};
use crate::inner::{INGEST_UNIT_BYTES, Inner, from_stripe};
use crate::meter::{self, waiting};
use crate::stats::StoreStats;

/// A body that has become a part. The guards keep the orphan sweep and the reaper away until the part's command is applied.
pub(crate) struct Ingested {
    pub(crate) part: PartRecord,
    pub(crate) inline: Option<Bytes>,
    pub(crate) digested: Digested,
    pub(crate) _guards: Vec<ActiveGuard>,
}

/// What a body is for.
pub(crate) struct IngestSpec<'a> {
    pub(crate) bucket: &'a BucketRecord,
    pub(crate) key: &'a ObjectKey,
    pub(crate) of: PartOf,
    pub(crate) size_bytes: u64,
    pub(crate) etag: EtagMode,
    pub(crate) attributes: &'a Attributes,
    /// The customer's key, where `attributes.sse` names one.
    pub(crate) customer_key: Option<&'a CustomerKey>,
}

impl Inner {
    /// Takes in a body of exactly `spec.size_bytes`.
    ///
    /// # Errors
    /// `IncompleteBody`, `Body`, `BadDigest`, `BadChecksum`, `EntityTooLarge`, `Full`, `Unavailable`.
    pub(crate) async fn ingest(&self, spec: IngestSpec<'_>, claims: Claims, mut body: BodyIn) -> Result<Ingested> {
        // No byte of it is placed before this is asked, whoever brings it.
        self.check_region(spec.bucket)?;
        let size_bytes = spec.size_bytes;
        if size_bytes > PART_BYTES_MAX {
            return Err(StoreError::EntityTooLarge { size_bytes, max_bytes: PART_BYTES_MAX });
        }
        // What is left for the trail is nobody else's: writes are refused before events cannot be sealed.
        let share = if spec.bucket.name.as_str() == AUDIT_BUCKET { 0 } else { AUDIT_SPACE_SHARE };
        let id = PartId::random();
        let mut guards = vec![self.active.enter(id)];
        let bucket_keys = self.bucket_keys(spec.bucket).await?;
        let sse = &spec.attributes.sse;
        let lock = self.open_lock(sse, spec.customer_key).await?;
        let data_key = DataKey::generate();
        let wrapped = bucket_keys.wrap_data_key(&data_key, id, &lock.lock());
        let cipher = ChunkCipher::new(&data_key, id);
        let digests = Digests::new(&claims, spec.etag, *sse != Sse::S3, size_bytes, &self.md5_farm);
        let created = self.clock.now();

        let meta = |digested: &Digested| ShardMeta {
            part: id,
            bucket: spec.bucket.id,
            bucket_name: spec.bucket.name.clone(),
            key: spec.key.clone(),
            etag: match spec.of {
                PartOf::Object => digested.object_etag(spec.etag, id),
                _ => digested.part_etag(spec.etag, id),
            },
            of: spec.of.clone(),
            payload_bytes: size_bytes,
            data_key: wrapped.clone(),
            checksum: digested.checksum.clone(),
            created,
            attributes: Some(spec.attributes.clone()),
        };

        let (place, inline, digested) = if size_bytes == 0 {
            let digested = drain_empty(&mut body, digests, claims).await?;
            // A part of an upload is a part even when it is empty; a plain object without bytes has none.
            let is_upload = matches!(spec.of, PartOf::Upload { .. });
            (PartPlace::Inline, is_upload.then(Bytes::new), digested)
        } else if size_bytes <= self.options.inline_bytes_max as u64 {
            // It will lie in the log and in the index, which are on the same drives. How many of these are there is theirs to judge.
            let room = self.stripes.check_room(size_bytes, self.scheme(spec.bucket, size_bytes), share);
            if let Err(full @ granary_stripe::StripeError::Full { .. }) = room {
                return Err(from_stripe(full));
            }
            let (sealed, digested) = ingest_inline(&cipher, size_bytes, digests, claims, &mut body).await?;
            StoreStats::add(&self.stats.inline_parts, 1);
            (PartPlace::Inline, Some(sealed), digested)
        } else if let Some(limits) = dedup::limits_for(spec.bucket, sse, size_bytes) {
            let (bucket, keys, cipher) = (spec.bucket, &bucket_keys, &cipher);
            let meta = |digested: &Digested, recipe_bytes| ShardMeta {
                of: PartOf::Recipe { of: Box::new(spec.of.clone()), recipe_bytes },
                ..meta(digested)
            };
            let shared = SharedSpec { bucket, keys, id, cipher, limits, size_bytes };
            let Shared { place, digested, guards: more } =
                self.ingest_shared(shared, digests, claims, &mut body, meta).await?;
            guards.extend(more);
            (PartPlace::Shared(Box::new(place)), None, digested)
        } else {
            let scheme = self.scheme(spec.bucket, size_bytes);
            let _memory = self.reserve_memory(scheme, size_bytes).await?;
            let (placement, digested) =
                self.ingest_drives(id, scheme, share, &cipher, size_bytes, digests, claims, &mut body, meta).await?;
            StoreStats::add(&self.stats.drive_parts, 1);
            if !placement.is_whole() {
                self.heal.degraded_write.store(true, std::sync::atomic::Ordering::Release);
            }
            (PartPlace::Drives(placement), None, digested)
        };
        StoreStats::add(&self.stats.ingested_bytes, size_bytes);
        let etag = digested.part_etag(spec.etag, id);
        let checksum = Some(digested.checksum.clone());
        let part = PartRecord { id, payload_bytes: size_bytes, key: wrapped, place, etag, checksum, created };
        Ok(Ingested { part, inline, digested, _guards: guards })
    }

    /// Waits for the memory that this body's stripes in flight will hold.
    async fn reserve_memory(&self, scheme: Scheme, size_bytes: u64) -> Result<tokio::sync::OwnedSemaphorePermit> {
        let stripe_bytes = (scheme.width() * BLOCK_BYTES) as u64;
        let whole = size_bytes.saturating_mul(scheme.width() as u64) / u64::from(scheme.k);
        self.reserve_bytes(whole.min(stripe_bytes * 3)).await
    }

    /// Waits for so much of the memory that bodies may hold together, or for all of it.
    pub(crate) async fn reserve_bytes(&self, bytes: u64) -> Result<tokio::sync::OwnedSemaphorePermit> {
        let wanted = bytes.div_ceil(INGEST_UNIT_BYTES);
        let total = (self.options.ingest_memory_bytes / INGEST_UNIT_BYTES).max(1);
        let units = u32::try_from(wanted.min(total)).unwrap_or(u32::MAX);
        let acquire = std::sync::Arc::clone(&self.ingest_memory).acquire_many_owned(units);
        match tokio::time::timeout(self.options.ingest_wait, acquire).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(StoreError::Unavailable("the node is shutting down".to_owned())),
            Err(_) => Err(StoreError::Unavailable("too many uploads at once: please reduce the rate".to_owned())),
        }
    }

    #[allow(clippy::too_many_arguments)]
    async fn ingest_drives(
        &self,
        id: PartId,
        scheme: Scheme,
        share: u64,
        cipher: &ChunkCipher,
        size_bytes: u64,
        mut digests: Digests,
        claims: Claims,
        body: &mut BodyIn,
        meta: impl FnOnce(&Digested) -> ShardMeta,
    ) -> Result<(Placement, Digested)> {
        let meter = meter::current();
        let begin = self.stripes.begin_leaving(id, size_bytes, scheme, share);
        let mut writer = waiting(meter.as_ref(), begin).await.map_err(from_stripe)?;
        let chunks = writer.layout().chunks();
        let mut chunk = 0u64;
        let mut filled = 0usize;
        let mut room = writer.layout().chunk(0).payload_bytes;
        let mut got_bytes = 0u64;
        while let Some(frame) = body.next().await {
            let whole = frame?;
            let mut frame: &[u8] = &whole;
            got_bytes += frame.len() as u64;
            if got_bytes > size_bytes {
                return Err(StoreError::IncompleteBody { want_bytes: size_bytes, got_bytes });
            }
            digests.update_md5(&whole).await;
            while !frame.is_empty() {
                let (now, later) = frame.split_at(frame.len().min(room - filled));
                let slot = writer.slot_mut();
                slot[filled..filled + now.len()].copy_from_slice(now);
                digests.update_checksum(now);
                filled += now.len();
                frame = later;
                if filled == room {
                    cipher.seal(chunk, slot);
                    waiting(meter.as_ref(), writer.advance()).await.map_err(from_stripe)?;
                    chunk += 1;
                    filled = 0;
                    room = if chunk < chunks { writer.layout().chunk(chunk).payload_bytes } else { 0 };
                }
            }
        }
        if got_bytes < size_bytes {
            return Err(StoreError::IncompleteBody { want_bytes: size_bytes, got_bytes });
        }
        let digested = digests.finish(claims).await?;
        let sealed_meta = meta(&digested).seal(self)?;
        let placement = waiting(meter.as_ref(), writer.commit(sealed_meta)).await.map_err(from_stripe)?;
        Ok((placement, digested))
    }
}

async fn drain_empty(body: &mut BodyIn, digests: Digests, claims: Claims) -> Result<Digested> {
    while let Some(frame) = body.next().await {
        let got_bytes = frame?.len() as u64;
        if got_bytes > 0 {
            return Err(StoreError::IncompleteBody { want_bytes: 0, got_bytes });
        }
    }
    digests.finish(claims).await
}

async fn ingest_inline(
    cipher: &ChunkCipher,
    size_bytes: u64,
    mut digests: Digests,
    claims: Claims,
    body: &mut BodyIn,
) -> Result<(Bytes, Digested)> {
    let size = usize::try_from(size_bytes).unwrap_or(usize::MAX);
    let mut slot = Vec::with_capacity(size + TAG_BYTES);
    while let Some(frame) = body.next().await {
        let frame = frame?;
        if slot.len() + frame.len() > size {
            return Err(StoreError::IncompleteBody {
                want_bytes: size_bytes,
                got_bytes: (slot.len() + frame.len()) as u64,
            });
        }
        digests.update_md5(&frame).await;
        digests.update_checksum(&frame);
        slot.extend_from_slice(&frame);
    }
    if slot.len() < size {
        return Err(StoreError::IncompleteBody { want_bytes: size_bytes, got_bytes: slot.len() as u64 });
    }
    slot.resize(size + TAG_BYTES, 0);
    cipher.seal(0, &mut slot);
    Ok((Bytes::from(slot), digests.finish(claims).await?))
}
