//! The stripe store: drives, codecs, buffers, options, and what writers, readers and repair share.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use granary_drive::api::DriveHealth;
use granary_drive::buf::BufPool;
use granary_types::{DriveNo, PartLocation, Placement, Scheme, ShardId};
use tokio::sync::Semaphore;

use crate::codec::{Codec, Codecs};
use crate::drives::{DriveEntry, DriveSet};
use crate::error::{Result, StripeError};
use crate::layout::PartLayout;
use crate::placement::Candidate;
use crate::stats::{DamageKind, DamageReport, StripeStats, count};

/// Unit of the rebuild budget's semaphore, in bytes.
const BUDGET_UNIT_BYTES: usize = 4096;

/// What can be set.
pub struct StripeOptions {
    /// Bytes of chunks that one reader asks for ahead of what was taken.
    pub read_ahead_bytes: usize,
    /// Stripes of one writer that may wait for drives, the one being filled left out.
    pub stripes_in_flight: usize,
    /// A drive's read is hedged after its 99th percentile, but never sooner than this.
    pub hedge_floor: Duration,
    /// ... and never later than this.
    pub hedge_ceiling: Duration,
    /// A read that no drive has answered by then is an error.
    pub read_timeout: Duration,
    /// A drive that takes longer over a create, append or commit is given up for that part.
    pub write_timeout: Duration,
    /// Bytes of blocks that all rebuilding together may hold.
    pub rebuild_bytes_max: usize,
    /// Told of every damaged shard met. Must not block; the same damage may be told many times.
    pub on_damage: Arc<dyn Fn(DamageReport) + Send + Sync>,
}

impl Default for StripeOptions {
    fn default() -> Self {
        Self {
            read_ahead_bytes: 6 * 1024 * 1024,
            stripes_in_flight: 2,
            hedge_floor: Duration::from_millis(20),
            hedge_ceiling: Duration::from_secs(2),
            read_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            rebuild_bytes_max: 256 * 1024 * 1024,
            on_damage: Arc::new(|_| {}),
        }
    }
}

impl fmt::Debug for StripeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StripeOptions")
            .field("read_ahead_bytes", &self.read_ahead_bytes)
            .field("stripes_in_flight", &self.stripes_in_flight)
            .field("hedge_floor", &self.hedge_floor)
            .field("rebuild_bytes_max", &self.rebuild_bytes_max)
            .finish_non_exhaustive()
    }
}

/// Parts on drives. Cheap to clone: clones share everything.
///
/// - write: [`StripeStore::begin`] → [`crate::PartWriter`]
/// - read: [`StripeStore::read_chunks`] → [`crate::ChunkStream`]; [`StripeStore::rebuild_chunk`] on a bad tag
/// - repair: [`StripeStore::repair_part`], [`StripeStore::free_part`], [`StripeStore::orphans`]
#[derive(Clone)]
pub struct StripeStore {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) drives: Arc<DriveSet>,
    pub(crate) pool: Arc<BufPool>,
    pub(crate) options: StripeOptions,
    pub(crate) codecs: Codecs,
    pub(crate) stats: StripeStats,
    budget: Arc<Semaphore>,
    budget_units: usize,
}

impl StripeStore {
    /// A store over these drives, with buffers from this pool.
    #[must_use]
    pub fn new(drives: Arc<DriveSet>, pool: Arc<BufPool>, options: StripeOptions) -> Self {
        let budget_units = (options.rebuild_bytes_max / BUDGET_UNIT_BYTES).clamp(1, Semaphore::MAX_PERMITS);
        let inner = Inner {
            drives,
            pool,
            options,
            codecs: Codecs::default(),
            stats: StripeStats::default(),
            budget: Arc::new(Semaphore::new(budget_units)),
            budget_units,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The drive table.
    #[must_use]
    pub fn drives(&self) -> &Arc<DriveSet> {
        &self.inner.drives
    }

    /// The buffer pool.
    #[must_use]
    pub fn pool(&self) -> &Arc<BufPool> {
        &self.inner.pool
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> &StripeStats {
        &self.inner.stats
    }
}

impl fmt::Debug for StripeStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StripeStore").field("drives", &self.inner.drives).finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn codec(&self, scheme: Scheme) -> Arc<Codec> {
        self.codecs.get(scheme)
    }

    /// All drives as placement sees them, where one part in `share` of their space is left alone.
    pub(crate) fn candidates(&self, share: u64) -> Vec<Candidate> {
        self.drives
            .all()
            .iter()
            .map(|d| Candidate { no: d.no(), health: d.store().health(), space: d.store().space() }.leaving(share))
            .collect()
    }

    /// Waits for room to hold this many bytes of blocks. More than the whole budget counts as all of it.
    pub(crate) async fn rebuild_budget(&self, bytes: usize) -> tokio::sync::OwnedSemaphorePermit {
        let units = bytes.div_ceil(BUDGET_UNIT_BYTES).min(self.budget_units);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        Arc::clone(&self.budget).acquire_many_owned(units).await.expect("the semaphore is never closed")
    }

    /// Reports damage to a shard.
    pub(crate) fn damage(&self, target: &Target, index: usize, kind: DamageKind, why: String) {
        count(&self.stats.damage_found, 1);
        let drive = target.placement.drives[index];
        tracing::warn!(part = %target.part, shard = index, %drive, ?kind, why, "damaged shard");
        let index = index as u8;
        (self.options.on_damage)(DamageReport { part: target.part, index, drive, kind, why });
    }
}

/// A part that is being read or repaired: its location, checked, and its layout.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) part: granary_types::PartId,
    pub(crate) placement: Placement,
    pub(crate) layout: PartLayout,
}

impl Target {
    /// # Errors
    /// [`StripeError::Invalid`] if the location contradicts itself.
    pub(crate) fn new(location: &PartLocation) -> Result<Self> {
        let placement = location.placement.clone();
        let layout = PartLayout::new(location.payload_bytes, placement.scheme)?;
        let width = placement.scheme.width();
        if placement.drives.len() != width {
            let why = format!("{} drives for {width} shards", placement.drives.len());
            return Err(StripeError::Invalid(format!("placement of part {}: {why}", location.part)));
        }
        Ok(Self { part: location.part, placement, layout })
    }

    pub(crate) fn shard(&self, index: usize) -> ShardId {
        ShardId { part: self.part, index: index as u8 }
    }

    pub(crate) fn k(&self) -> usize {
        self.placement.scheme.k.into()
    }

    pub(crate) fn width(&self) -> usize {
        self.placement.scheme.width()
    }

    /// The drive to read a shard from; `None` if it was never written or its drive is not there.
    pub(crate) fn readable(&self, index: usize, drives: &DriveSet) -> Option<Arc<DriveEntry>> {
        if self.placement.is_missing(index) {
            return None;
        }
        drives.get(self.placement.drives[index]).filter(|d| d.store().health().readable())
    }
}

/// Whether a drive takes new shards.
pub(crate) fn is_writable(drives: &DriveSet, no: DriveNo) -> bool {
    drives.get(no).is_some_and(|d| matches!(d.store().health(), DriveHealth::Online))
}
