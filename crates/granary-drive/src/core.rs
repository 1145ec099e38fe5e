//! What all parts of an open drive share: its settings, books, index, queues and condition.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use aws_lc_rs::hmac;
use granary_types::{Clock, DriveId, ShardId};
use parking_lot::Mutex;

use crate::api::{DriveError, DriveHealth, DriveSpace, Result};
use crate::buf::BufPool;
use crate::chores::Chores;
use crate::identity::Identity;
use crate::index::{Index, ShardRecord};
use crate::io::IoEngine;
use crate::raw;
use crate::space::{Extent, Segment, Space};
use crate::stats::DriveStats;
use crate::sync::CommitQueue;

/// Below this much free space a drive calls itself full.
const FULL_BYTES: u64 = 1024 * 1024;
/// Records of shards kept decoded.
const CACHE_SLOTS: usize = 2048;

pub(crate) struct Core {
    pub(crate) id: DriveId,
    pub(crate) root: PathBuf,
    pub(crate) segment_bytes: u64,
    pub(crate) reserve_bytes: u64,
    pub(crate) limit_bytes: Option<u64>,
    pub(crate) engine: Arc<dyn IoEngine>,
    pub(crate) pool: Arc<BufPool>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) header_key: Option<hmac::Key>,
    pub(crate) index: Index,
    pub(crate) space: Space,
    pub(crate) stats: Arc<DriveStats>,
    pub(crate) condition: Condition,
    pub(crate) writing: Mutex<HashSet<ShardId>>,
    pub(crate) cache: RecordCache,
    pub(crate) epochs: Epochs,
    pub(crate) queue: CommitQueue,
    pub(crate) chores: Chores,
    pub(crate) writes_in_flight: AtomicUsize,
    pub(crate) fs_total_bytes: AtomicU64,
    pub(crate) fs_available_bytes: AtomicU64,
    pub(crate) lock: Mutex<Option<File>>,
    pub(crate) closing: AtomicBool,
}

impl Core {
    /// Where segment files are.
    pub(crate) fn segments_dir(&self) -> PathBuf {
        self.root.join("segments")
    }

    pub(crate) fn segment_path(&self, no: u32) -> PathBuf {
        self.segments_dir().join(format!("{no:08x}.seg"))
    }

    /// Asks the file system again how much it has.
    pub(crate) fn refresh_fs(&self) -> io::Result<()> {
        let space = raw::fs_space(&self.root)?;
        self.fs_total_bytes.store(space.total_bytes, Ordering::Relaxed);
        self.fs_available_bytes.store(space.available_bytes, Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn drive_space(&self) -> DriveSpace {
        let totals = self.space.totals();
        let used_bytes = totals.used();
        let fs_total = self.fs_total_bytes.load(Ordering::Relaxed);
        let fs_free = self.fs_available_bytes.load(Ordering::Relaxed).saturating_add(totals.unused);
        let fs_free = fs_free.saturating_sub(self.reserve_bytes).saturating_sub(totals.promised);
        let (total_bytes, free_bytes) = match self.limit_bytes {
            Some(limit) => {
                let free = limit.saturating_sub(self.reserve_bytes).saturating_sub(used_bytes);
                (limit.min(fs_total), free.min(fs_free))
            }
            None => (fs_total, fs_free),
        };
        DriveSpace { total_bytes, used_bytes, free_bytes, reserve_bytes: self.reserve_bytes }
    }

    pub(crate) fn health(&self) -> DriveHealth {
        match self.condition.get() {
            DriveHealth::Online if self.drive_space().free_bytes < FULL_BYTES => DriveHealth::Full,
            health => health,
        }
    }

    /// Refuses where nothing may be written any more.
    pub(crate) fn check_writable(&self) -> Result<()> {
        match self.condition.get() {
            DriveHealth::Online | DriveHealth::Full => Ok(()),
            DriveHealth::Poisoned(why) => Err(DriveError::Poisoned { drive: self.id, why }),
            DriveHealth::Offline(why) => Err(DriveError::Offline { drive: self.id, why }),
        }
    }

    /// Refuses new work where nothing may be written, or the drive is being closed.
    pub(crate) fn check_accepting(&self) -> Result<()> {
        if self.closing.load(Ordering::Acquire) {
            return Err(DriveError::Offline { drive: self.id, why: "closed".to_owned() });
        }
        self.check_writable()
    }

    /// Refuses where the drive is gone.
    pub(crate) fn check_readable(&self) -> Result<()> {
        match self.condition.get() {
            DriveHealth::Offline(why) => Err(DriveError::Offline { drive: self.id, why }),
            _ => Ok(()),
        }
    }

    /// No more writes until the drive is opened again.
    pub(crate) fn poison(&self, why: String) -> DriveError {
        if self.condition.worsen(POISONED, &why) {
            tracing::error!(drive = %self.id, path = %self.root.display(), why, "drive poisoned: it takes no more writes until reopened");
        }
        self.check_writable().err().unwrap_or(DriveError::Poisoned { drive: self.id, why })
    }

    /// The drive is gone.
    pub(crate) fn take_offline(&self, why: String) -> DriveError {
        if self.condition.worsen(OFFLINE, &why) {
            tracing::error!(drive = %self.id, path = %self.root.display(), why, "drive offline");
        }
        DriveError::Offline { drive: self.id, why }
    }

    /// The drive was closed in order.
    pub(crate) fn take_offline_quietly(&self) {
        self.condition.worsen(OFFLINE, "closed");
    }

    /// What a failed system call means for the drive. `writing`: bytes may be lost, so it is poisoned.
    pub(crate) fn fault(&self, what: &str, error: io::Error, writing: bool) -> DriveError {
        self.stats.io_errors.add(1);
        if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) {
            let _ = self.refresh_fs();
            let free_bytes = self.drive_space().free_bytes;
            return DriveError::Full { drive: self.id, wanted_bytes: self.segment_bytes, free_bytes };
        }
        let gone = matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO | libc::ESTALE));
        if gone || self.is_missing() {
            return self.take_offline(format!("{what}: {error}"));
        }
        if writing {
            return self.poison(format!("{what}: {error}"));
        }
        DriveError::Io { what: format!("drive {}: {what}", self.id), source: Arc::new(error) }
    }

    /// An index that cannot be written or read: the drive is taken out of service and rebuilds it when reopened.
    pub(crate) fn index_fault(&self, error: DriveError) -> DriveError {
        match self.condition.get() {
            DriveHealth::Offline(why) => DriveError::Offline { drive: self.id, why },
            _ => self.poison(error.to_string()),
        }
    }

    /// Whether the drive's folder is not there any more, or is another drive's.
    pub(crate) fn is_missing(&self) -> bool {
        match Identity::load(&self.root) {
            Ok(Some(identity)) => identity.drive != self.id,
            Ok(None) | Err(_) => true,
        }
    }

    /// The record of a committed shard. Take a pin of [`Epochs`] *before* asking.
    pub(crate) fn record(&self, shard: ShardId) -> Result<Arc<ShardRecord>> {
        let slot = self.cache.slot(shard);
        let version = {
            let slot = slot.lock();
            match &slot.record {
                Some(record) if record.spec.shard == shard => return Ok(Arc::clone(record)),
                _ => slot.version,
            }
        };
        let record = match self.index.shard(shard) {
            Ok(Some(record)) => Arc::new(record),
            Ok(None) => return Err(DriveError::NotFound(shard)),
            Err(error) => return Err(self.index_fault(error)),
        };
        let mut slot = slot.lock();
        // Unless a free went by meanwhile, which would make this record a lie.
        if slot.version == version {
            slot.record = Some(Arc::clone(&record));
        }
        drop(slot);
        Ok(record)
    }

    /// The segment an extent lies in.
    pub(crate) fn segment_of(&self, extent: &Extent) -> Result<Arc<Segment>> {
        self.space.segment(extent.segment).ok_or_else(|| {
            DriveError::Format(format!("drive {}: segment {:08x} is not there", self.id, extent.segment))
        })
    }
}

const ONLINE: u8 = 0;
const POISONED: u8 = 1;
const OFFLINE: u8 = 2;

/// Whether the drive can be used. It only gets worse while open.
#[derive(Default)]
pub(crate) struct Condition {
    level: AtomicU8,
    why: Mutex<String>,
}

impl Condition {
    /// `true` where it was better before.
    fn worsen(&self, level: u8, why: &str) -> bool {
        let mut text = self.why.lock();
        let worse = self.level.load(Ordering::Acquire) < level;
        if worse {
            why.clone_into(&mut text);
            self.level.store(level, Ordering::Release);
        }
        worse
    }

    fn get(&self) -> DriveHealth {
        match self.level.load(Ordering::Acquire) {
            ONLINE => DriveHealth::Online,
            POISONED => DriveHealth::Poisoned(self.why.lock().clone()),
            _ => DriveHealth::Offline(self.why.lock().clone()),
        }
    }

    pub(crate) fn is_online(&self) -> bool {
        self.level.load(Ordering::Acquire) == ONLINE
    }
}

/// Decoded records of recently read shards; one slot per hash.
pub(crate) struct RecordCache {
    slots: Box<[Mutex<Slot>]>,
}

#[derive(Default)]
pub(crate) struct Slot {
    version: u64,
    record: Option<Arc<ShardRecord>>,
}

impl RecordCache {
    pub(crate) fn new() -> Self {
        Self { slots: (0..CACHE_SLOTS).map(|_| Mutex::default()).collect() }
    }

    fn slot(&self, shard: ShardId) -> &Mutex<Slot> {
        let [a, b, ..] = shard.part.0;
        let last = usize::from(shard.part.0[15]);
        let hash = (usize::from(a) << 8 | usize::from(b)) ^ (last << 3) ^ usize::from(shard.index).wrapping_mul(0x9e5);
        &self.slots[hash % CACHE_SLOTS]
    }

    /// Forgets a shard. Call *after* it is gone from the index.
    pub(crate) fn forget(&self, shard: ShardId) {
        let mut slot = self.slot(shard).lock();
        slot.version += 1;
        slot.record = None;
    }
}

/// Readers and the extents they may be looking at.
///
/// A reader pins the current epoch *before* it looks a shard up. Extents freed (and flushed) under an epoch are
/// given back when nobody pins that epoch or an older one any more: later readers cannot have found them.
#[derive(Default)]
pub(crate) struct Epochs {
    current: Mutex<Arc<Epoch>>,
    retired: Mutex<VecDeque<(Arc<Epoch>, Vec<Extent>)>>,
}

/// A pin, while somebody holds it.
#[derive(Debug, Default)]
pub(crate) struct Epoch(());

impl Epochs {
    pub(crate) fn pin(&self) -> Arc<Epoch> {
        Arc::clone(&self.current.lock())
    }

    /// Ends the current epoch; `extents` wait for its readers.
    pub(crate) fn retire(&self, extents: Vec<Extent>) {
        let mut retired = self.retired.lock();
        let old = std::mem::take(&mut *self.current.lock());
        retired.push_back((old, extents));
    }

    /// Takes the extents that no reader can be looking at.
    pub(crate) fn take_unread(&self) -> Vec<Extent> {
        let mut retired = self.retired.lock();
        let mut free = Vec::new();
        // Nobody can pin an ended epoch anew, so a count of one (ours) stays one.
        while retired.front().is_some_and(|(epoch, _)| Arc::strong_count(epoch) == 1) {
            if let Some((_, extents)) = retired.pop_front() {
                free.extend(extents);
            }
        }
        std::sync::atomic::fence(Ordering::Acquire);
        free
    }
}

/// An extent in flight. Given up, with its space, unless it is committed before the last holder (the writer, and
/// every operation that writes to it) lets go.
pub(crate) struct Hold {
    pub(crate) core: Arc<Core>,
    pub(crate) segment: Arc<Segment>,
    pub(crate) extent: Extent,
    pub(crate) committed: AtomicBool,
}

impl Hold {
    pub(crate) fn new(core: &Arc<Core>, segment: Arc<Segment>, extent: Extent) -> Arc<Self> {
        Arc::new(Self { core: Arc::clone(core), segment, extent, committed: AtomicBool::new(false) })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.committed.load(Ordering::Acquire) {
            self.core.space.abandon(&self.segment, &self.extent);
        }
    }
}

/// What a running write keeps: its extent, and its place in the count that closing waits for.
pub(crate) struct WriteKeep {
    hold: Arc<Hold>,
}

impl WriteKeep {
    pub(crate) fn new(hold: &Arc<Hold>) -> Arc<Self> {
        hold.core.writes_in_flight.fetch_add(1, Ordering::AcqRel);
        Arc::new(Self { hold: Arc::clone(hold) })
    }
}

impl Drop for WriteKeep {
    fn drop(&mut self) {
        self.hold.core.writes_in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A shard's place among those being written.
pub(crate) struct Writing {
    core: Arc<Core>,
    shard: ShardId,
}

impl Writing {
    /// `None` where somebody writes that shard already.
    pub(crate) fn begin(core: &Arc<Core>, shard: ShardId) -> Option<Self> {
        core.writing.lock().insert(shard).then(|| Self { core: Arc::clone(core), shard })
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.core.writing.lock().remove(&self.shard);
    }
}

/// Space promised to a writer that allocates when it commits.
pub(crate) struct Promise {
    core: Arc<Core>,
    bytes: u64,
}

impl Promise {
    pub(crate) fn new(core: &Arc<Core>, bytes: u64) -> Self {
        core.space.promise(bytes);
        Self { core: Arc::clone(core), bytes }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.core.space.unpromise(self.bytes);
    }
}
