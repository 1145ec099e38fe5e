//! `granary cache warm|pin|evict`: what is in the read cache, by name instead of by use.

use futures::StreamExt as _;
use granary_meta::records::{BucketRecord, ObjectRecord, PartPlace, Parts, Sse};
use granary_meta::upstream::UPSTREAM_DOCUMENT;
use granary_stripe::PartLayout;
use granary_types::{BucketName, ByteRange, ObjectKey};
use serde::Serialize;

use crate::ai::AiError;
use crate::api::{ListRequest, ObjectStore as _, Unlock};
use crate::cache::Admit;
use crate::inner::{from_meta, from_stripe};
use crate::store::Store;

/// What is done about what the cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheAct {
    /// Read it now, as much as fits.
    Warm,
    /// The same, and keep it.
    Pin,
    /// Give it up, pinned or not.
    Evict,
}

impl CacheAct {
    /// As people and requests call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Pin => "pin",
            Self::Evict => "evict",
        }
    }
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Warmed {
    /// Objects that were read, or whose chunks were given up.
    pub objects: u64,
    /// Their bytes; of an eviction, the chunks.
    pub amount: u64,
    /// The cache's size was reached before all was read.
    pub is_full: bool,
}

/// What a bucket has in the cache.
#[derive(Debug, Clone, Serialize)]
pub struct CacheStatus {
    /// Bucket.
    pub bucket: String,
    /// Chunks found in memory since the start.
    pub hits: u64,
    /// Chunks that had to be read.
    pub misses: u64,
    /// Bytes held now.
    pub bytes: u64,
}

impl Store {
    pub(crate) async fn tend(&self, bucket: &BucketName, prefix: &str, act: CacheAct) -> Result<Warmed, AiError> {
        match act {
            CacheAct::Warm => self.warm(bucket, prefix, Admit::Always).await,
            CacheAct::Pin => self.warm(bucket, prefix, Admit::Pin).await,
            CacheAct::Evict => self.evict(bucket, prefix).await,
        }
    }

    /// Reads everything under a prefix into the cache, or as much as it holds.
    async fn warm(&self, bucket: &BucketName, prefix: &str, admit: Admit) -> Result<Warmed, AiError> {
        let budget = self.inner.options.cache_bytes;
        if budget == 0 {
            return Err(AiError::Invalid("the read cache is switched off: ai.cache_bytes is 0".to_owned()));
        }
        // What is pinned takes at most half.
        let most = if admit == Admit::Pin { budget / 2 } else { budget };
        let mut done = Warmed::default();
        let mut list = ListRequest { prefix: prefix.to_owned(), max_keys: 1000, ..ListRequest::default() };
        loop {
            let page = self.list(bucket, &list).await?;
            for (name, version) in page.objects {
                let Some(object) = version.object() else { continue };
                if done.amount.saturating_add(object.size_bytes) > most {
                    done.is_full = true;
                    return Ok(done);
                }
                let Ok(key) = ObjectKey::new(name) else { continue };
                let record = self.inner.bucket(bucket)?;
                // What only the upstream has is fetched first.
                let wanted = if record.documents.contains_key(UPSTREAM_DOCUMENT) {
                    self.inner.ensure_here(bucket, &key, None).await?;
                    None
                } else {
                    Some(version.version)
                };
                let (version, inline) = self.inner.find_with_inline(&record, &key, wanted)?;
                let Some(object) = version.object() else { continue };
                if matches!(object.attributes.sse, Sse::Customer { .. }) {
                    continue;
                }
                let range = ByteRange::whole(object.size_bytes);
                let mut body = self.inner.read_as(&record, object, inline, range, &Unlock::Plain, admit).await?;
                while body.next().await.transpose()?.is_some() {}
                done.objects += 1;
                done.amount += object.size_bytes;
            }
            match page.next_after {
                Some(after) => list.after = Some(after),
                None => return Ok(done),
            }
        }
    }

    /// Gives up everything under a prefix, pinned or not.
    async fn evict(&self, bucket: &BucketName, prefix: &str) -> Result<Warmed, AiError> {
        let mut done = Warmed::default();
        let mut list = ListRequest { prefix: prefix.to_owned(), max_keys: 1000, ..ListRequest::default() };
        loop {
            let page = self.inner.list_here(&*self.inner.bucket(bucket)?, &list)?;
            for (_, version) in page.objects {
                let Some(object) = version.object() else { continue };
                done.amount += self.evict_object(object)?;
                done.objects += 1;
            }
            match page.next_after {
                Some(after) => list.after = Some(after),
                None => return Ok(done),
            }
        }
    }

    fn evict_object(&self, object: &ObjectRecord) -> Result<u64, AiError> {
        let parts = match &object.parts {
            Parts::Empty => Vec::new(),
            Parts::One(part) => vec![(**part).clone()],
            Parts::Manifest { id, count } => self.inner.manifest(*id, *count)?.to_vec(),
        };
        let mut count = 0;
        for part in parts {
            match &part.place {
                PartPlace::Inline => {}
                PartPlace::Drives(placement) => {
                    let layout = PartLayout::new(part.payload_bytes, placement.scheme).map_err(from_stripe)?;
                    count += self.inner.cache.evict_part(part.id, layout.chunks());
                }
                PartPlace::Shared(shared) => {
                    for used in &shared.blocks {
                        let Some(block) = self.inner.index()?.block(used.block).map_err(from_meta)? else { continue };
                        let scheme = block.placement.scheme;
                        let layout = PartLayout::new(used.payload_bytes, scheme).map_err(from_stripe)?;
                        count += self.inner.cache.evict_part(used.block, layout.chunks());
                    }
                }
            }
        }
        Ok(count)
    }

    /// What every bucket has in the cache.
    ///
    /// # Errors
    /// The store's.
    pub fn cache_status(&self) -> Result<Vec<CacheStatus>, AiError> {
        use std::sync::atomic::Ordering::Relaxed;
        let buckets = self.list_buckets()?;
        let name = |id| buckets.iter().find(|b: &&std::sync::Arc<BucketRecord>| b.id == id).map(|b| b.name.to_string());
        let mut all: Vec<_> = self
            .inner
            .cache
            .counters()
            .into_iter()
            .filter_map(|(id, counters)| {
                Some(CacheStatus {
                    bucket: name(id)?,
                    hits: counters.hits.load(Relaxed),
                    misses: counters.misses.load(Relaxed),
                    bytes: counters.bytes.load(Relaxed),
                })
            })
            .collect();
        all.sort_by(|a, b| a.bucket.cmp(&b.bucket));
        Ok(all)
    }
}
