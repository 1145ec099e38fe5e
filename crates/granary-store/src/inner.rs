//! What every operation of the store shares: the metadata, the stripes, the keys, the limits.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use granary_crypto::{BlobKey, BucketKeys, KeyProvider, KmsKey, Secret32};
use granary_meta::command::{Command, Outcome};
use granary_meta::records::{BucketRecord, PartRecord};
use granary_meta::{Index, MetaError, Proposer};
use granary_stripe::StripeStore;
use granary_types::limits::{COPIES_BYTES_MAX, INLINE_BYTES_MAX};
use granary_types::{BucketId, BucketName, Clock, Scheme, UploadId, WrappedKey};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Semaphore;

use crate::active::ActiveParts;
use crate::api::Result;
use crate::audit::{self, AuditOptions};
use crate::cache::ChunkCache;
use crate::dedup::Readers;
use crate::error::StoreError;
use crate::heal::HealState;
use crate::keys::SharedShelf;
use crate::md5_farm::Md5Farm;
use crate::meter::{self, waiting};
use crate::sse::SseError;
use crate::stats::StoreStats;
use crate::upstream::{Flights, Memory, Sources, UpstreamOptions, UpstreamStats, Wire};

/// Settings of the store.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Scheme of parts whose bucket names none.
    pub scheme: Scheme,
    /// Region of this node; what a bucket gets when the client names none.
    pub region: String,
    /// The law that this node is under, in its operator's words.
    pub jurisdiction: String,
    /// Take drives that were declared to be in another region: the node has moved.
    pub moved_region: bool,
    /// Payload of at most this travels in the command. At most [`INLINE_BYTES_MAX`].
    pub inline_bytes_max: usize,
    /// Payload of at most this is kept as copies. At most [`COPIES_BYTES_MAX`].
    pub copies_bytes_max: u64,
    /// Memory that all bodies on their way in may hold together; further ones wait, then get `SlowDown`.
    pub ingest_memory_bytes: u64,
    /// How long a body waits for that memory.
    pub ingest_wait: Duration,
    /// How long garbage rests before its shards are freed.
    pub garbage_quarantine: Duration,
    /// How often the reaper looks.
    pub reaper_interval: Duration,
    /// How long an unreferenced shard must have been seen before it is freed.
    pub orphan_grace: Duration,
    /// How often drives are swept for orphans.
    pub sweep_interval: Duration,
    /// How long an opened key is kept in memory before the key provider is asked again.
    pub key_cache: Duration,
    /// Memory for opened chunks; 0: none are kept.
    pub cache_bytes: u64,
    /// Between two rounds over buckets with rules about checkpoints and caches.
    pub keeper_interval: Duration,
    /// The audit trail.
    pub audit: AuditOptions,
    /// How long a day of lifecycle rules is: shorter than a day in tests only.
    pub lifecycle_day: Duration,
    /// How other endpoints are read through to.
    pub upstream: UpstreamOptions,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            scheme: Scheme { k: 4, m: 2 },
            region: "us-east-1".to_owned(),
            jurisdiction: String::new(),
            moved_region: false,
            inline_bytes_max: INLINE_BYTES_MAX,
            copies_bytes_max: COPIES_BYTES_MAX,
            ingest_memory_bytes: 1 << 30,
            ingest_wait: Duration::from_secs(20),
            garbage_quarantine: Duration::from_secs(5),
            reaper_interval: Duration::from_secs(1),
            orphan_grace: Duration::from_secs(3600),
            sweep_interval: Duration::from_secs(1800),
            key_cache: Duration::from_secs(300),
            cache_bytes: 0,
            keeper_interval: Duration::from_secs(60),
            audit: AuditOptions::default(),
            lifecycle_day: Duration::from_secs(86_400),
            upstream: UpstreamOptions::default(),
        }
    }
}

/// Manifests kept decoded in memory, at most.
const MANIFESTS_CACHED_MAX: usize = 256;

/// The shared state behind [`crate::Store`].
pub(crate) struct Inner {
    pub(crate) meta: Arc<dyn Proposer>,
    pub(crate) stripes: StripeStore,
    pub(crate) provider: Arc<dyn KeyProvider>,
    pub(crate) header_key: BlobKey,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: StoreOptions,
    pub(crate) active: Arc<ActiveParts>,
    /// Reads of parts made of shared blocks.
    pub(crate) readers: Arc<Readers>,
    pub(crate) stats: Arc<StoreStats>,
    pub(crate) ingest_memory: Arc<Semaphore>,
    pub(crate) md5_farm: Md5Farm,
    pub(crate) heal: Arc<HealState>,
    /// Drive folders, for the sealed tables kept beside the shards.
    pub(crate) folders: RwLock<Vec<PathBuf>>,
    pub(crate) table_lock: Mutex<()>,
    /// Opened keys, since when, and of what wrapped form.
    #[allow(clippy::type_complexity)]
    pub(crate) bucket_keys: RwLock<HashMap<BucketId, (Arc<BucketKeys>, Instant, WrappedKey)>>,
    pub(crate) shelf: SharedShelf,
    pub(crate) kms_keys: RwLock<HashMap<String, (Arc<KmsKey>, Instant)>>,
    /// One change of keys at a time.
    pub(crate) keys_turn: tokio::sync::Mutex<()>,
    /// Opened chunks.
    pub(crate) cache: ChunkCache,
    /// When objects of caches were read.
    pub(crate) uses: crate::ai::keeper::Uses,
    manifests: RwLock<HashMap<UploadId, Arc<Vec<PartRecord>>>>,
    /// The client that talks to upstreams, where there is one.
    pub(crate) wire: OnceLock<Wire>,
    /// Upstreams of buckets, open.
    pub(crate) sources: Sources,
    /// Fetches from upstreams, by key.
    pub(crate) flights: Arc<Flights>,
    /// How many may run.
    pub(crate) fetches: Arc<Semaphore>,
    pub(crate) upstream_memory: Memory,
    pub(crate) upstream_stats: UpstreamStats,
}

/// Unit of the ingest memory semaphore.
pub(crate) const INGEST_UNIT_BYTES: u64 = 4096;

impl Inner {
    #[allow(clippy::too_many_arguments)] // What a store is made of, each once.
    pub(crate) fn new(
        meta: Arc<dyn Proposer>,
        stripes: StripeStore,
        provider: Arc<dyn KeyProvider>,
        shelf: SharedShelf,
        header_key: &Secret32,
        clock: Arc<dyn Clock>,
        options: StoreOptions,
        heal: Arc<HealState>,
    ) -> Self {
        let units = usize::try_from(options.ingest_memory_bytes / INGEST_UNIT_BYTES)
            .unwrap_or(Semaphore::MAX_PERMITS)
            .clamp(1, Semaphore::MAX_PERMITS);
        let cache_bytes = options.cache_bytes;
        let fetches_max = options.upstream.fetches_max;
        Self {
            meta,
            stripes,
            provider,
            header_key: BlobKey::new(header_key),
            clock,
            options,
            active: Arc::default(),
            readers: Arc::default(),
            stats: Arc::default(),
            ingest_memory: Arc::new(Semaphore::new(units)),
            md5_farm: Md5Farm::start(),
            heal,
            folders: RwLock::default(),
            table_lock: Mutex::new(()),
            cache: ChunkCache::new(cache_bytes),
            uses: crate::ai::keeper::Uses::default(),
            bucket_keys: RwLock::default(),
            shelf,
            kms_keys: RwLock::default(),
            keys_turn: tokio::sync::Mutex::default(),
            manifests: RwLock::default(),
            wire: OnceLock::new(),
            sources: Sources::default(),
            flights: Arc::default(),
            fetches: Arc::new(Semaphore::new(fetches_max)),
            upstream_memory: Memory::default(),
            upstream_stats: UpstreamStats::default(),
        }
    }

    /// The live index; `Unavailable` while it is being restored.
    pub(crate) fn index(&self) -> Result<Arc<Index>> {
        self.meta.index().load().map_err(from_meta)
    }

    /// The bucket of that name, wherever its bytes may lie: to be looked at, changed or deleted.
    pub(crate) fn bucket_anywhere(&self, name: &BucketName) -> Result<Arc<BucketRecord>> {
        self.index()?.bucket(name).ok_or(StoreError::NoSuchBucket)
    }

    /// The bucket of that name, whose bytes may lie and be served here.
    pub(crate) fn bucket(&self, name: &BucketName) -> Result<Arc<BucketRecord>> {
        let bucket = self.bucket_anywhere(name)?;
        self.check_region(&bucket)?;
        Ok(bucket)
    }

    /// The parts of an object that has `count`, in order; more may have been appended since.
    pub(crate) fn manifest(&self, id: UploadId, count: u32) -> Result<Arc<Vec<PartRecord>>> {
        if let Some(parts) = self.manifests.read().get(&id)
            && parts.len() >= count as usize
        {
            return Ok(Arc::clone(parts));
        }
        // If it is not there, its owner went between the look-up of the version and this one.
        let parts = self.index()?.manifest(id).map_err(from_meta)?;
        let parts = Arc::new(parts.ok_or(StoreError::NoSuchKey { delete_marker: None })?);
        let mut cache = self.manifests.write();
        if cache.len() >= MANIFESTS_CACHED_MAX {
            cache.clear();
        }
        cache.insert(id, Arc::clone(&parts));
        Ok(parts)
    }

    /// Forgets decoded manifests, after parts have moved.
    pub(crate) fn forget_manifests(&self) {
        self.manifests.write().clear();
    }

    /// Proposes a command, with the audit event of the request that this runs in; a refusal becomes an error.
    pub(crate) async fn propose(&self, command: Command) -> Result<Outcome> {
        let _held = self.hold_changed(&command).await?;
        let scope = audit::current();
        let event = audit::event_of(scope.as_ref(), &command, &*self.index()?, &self.options.region, self.clock.now());
        let has_event = event.is_some();
        let proposed = self.meta.propose_audited(self.with_origin(command), event);
        let outcome = waiting(meter::current().as_ref(), proposed).await.map_err(from_meta)?;
        if let Some(scope) = scope.filter(|_| has_event) {
            scope.written(!matches!(outcome, Outcome::Refused(_)));
        }
        match outcome {
            Outcome::Refused(refusal) => Err(StoreError::Refused(refusal)),
            outcome => Ok(outcome),
        }
    }

    /// The scheme for a part of `payload_bytes` in `bucket`.
    pub(crate) fn scheme(&self, bucket: &BucketRecord, payload_bytes: u64) -> Scheme {
        let scheme = bucket.options.scheme.unwrap_or(self.options.scheme);
        if payload_bytes <= self.options.copies_bytes_max { scheme.copies() } else { scheme }
    }
}

/// Metadata errors as the store's.
pub(crate) fn from_meta(error: MetaError) -> StoreError {
    use granary_types::ErrorKind;
    match error.kind() {
        ErrorKind::Unavailable | ErrorKind::Conflict => StoreError::Unavailable(error.to_string()),
        ErrorKind::Corrupt => StoreError::Corrupt(error.to_string()),
        ErrorKind::Invalid => StoreError::Invalid(error.to_string()),
        ErrorKind::NotFound | ErrorKind::Denied | ErrorKind::Internal => StoreError::Internal(error.to_string()),
    }
}

/// Key errors as the store's: a provider that is away is a reason to try again.
pub(crate) fn from_crypto(error: granary_crypto::CryptoError) -> StoreError {
    use granary_types::ErrorKind;
    match error.kind() {
        ErrorKind::Unavailable => StoreError::KeysUnavailable(error.to_string()),
        ErrorKind::Corrupt => StoreError::Corrupt(error.to_string()),
        ErrorKind::Denied if matches!(error, granary_crypto::CryptoError::WrongKey) => SseError::KeyWrong.into(),
        _ => StoreError::Internal(error.to_string()),
    }
}

/// Stripe errors as the store's.
pub(crate) fn from_stripe(error: granary_stripe::StripeError) -> StoreError {
    use granary_types::ErrorKind;
    if matches!(error, granary_stripe::StripeError::Full { .. }) {
        return StoreError::Full;
    }
    match error.kind() {
        ErrorKind::Unavailable => StoreError::Unavailable(error.to_string()),
        ErrorKind::Corrupt | ErrorKind::NotFound => StoreError::Corrupt(error.to_string()),
        ErrorKind::Invalid => StoreError::Invalid(error.to_string()),
        _ => StoreError::Internal(error.to_string()),
    }
}
