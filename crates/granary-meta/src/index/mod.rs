//! The index: RocksDB with what the log's commands have built so far.
//!
//! Every read method sees one consistent state and everything that was answered before it was called.
//! Nothing here changes the index but [`crate::apply`], through a [`Batch`] that also carries the
//! log position, so the two can never part.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use granary_types::{BucketId, BucketName, DriveId, DriveNo};
use parking_lot::Mutex;
use rocksdb::{ColumnFamily, DB};
use serde::de::DeserializeOwned;

use crate::error::{MetaError, Result};
use crate::records::BucketRecord;

pub mod audit;
pub mod batch;
mod blocks;
pub mod entries;
mod events;
mod handle;
pub mod layout;
pub mod list;
mod open;
mod read;
mod uploads;

pub use audit::{AuditSealed, AuditState};
pub use batch::Batch;
pub use entries::{BlockUsage, DriveEntry, EventQueue, Usage};
pub use handle::IndexHandle;
pub use layout::Family;
pub use open::IndexOptions;
pub use read::WithInline;
pub(crate) use read::bounded;

/// Buckets and drives, small enough to be held in memory whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tables {
    pub by_name: BTreeMap<BucketName, Arc<BucketRecord>>,
    pub by_id: HashMap<BucketId, Arc<BucketRecord>>,
    pub drives: BTreeMap<DriveNo, DriveEntry>,
    pub drive_numbers: HashMap<DriveId, DriveNo>,
}

/// The index, open.
pub struct Index {
    db: DB,
    tables: ArcSwap<Tables>,
    usage: Mutex<HashMap<BucketId, Usage>>,
    audit: Mutex<AuditState>,
    applied: std::sync::atomic::AtomicU64,
    log_id: [u8; 16],
    damaged: AtomicBool,
    write_options: rocksdb::WriteOptions,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("path", &self.db.path()).field("applied", &self.applied()).finish()
    }
}

impl Index {
    /// Position of the last applied command; 0 when there is none.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// Identity of the log that built this index.
    #[must_use]
    pub const fn log_id(&self) -> [u8; 16] {
        self.log_id
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.db.path()
    }

    /// Whether a read or write has found it unusable.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Acquire)
    }

    pub(crate) const fn db(&self) -> &DB {
        &self.db
    }

    pub(crate) fn family(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(family.name()).expect("every family is opened with the index")
    }

    /// Notes that RocksDB failed, so that the keeper restores the index elsewhere.
    pub(crate) fn noticed(&self, error: rocksdb::Error) -> MetaError {
        use rocksdb::ErrorKind::{Corruption, IOError};
        if matches!(error.kind(), Corruption | IOError) {
            self.damaged.store(true, Ordering::Release);
        }
        MetaError::Index(error)
    }

    pub(crate) fn undecodable(&self, family: Family, why: impl ToString) -> MetaError {
        self.damaged.store(true, Ordering::Release);
        MetaError::Record { family: family.name(), why: why.to_string() }
    }

    /// Decodes a record of `family`.
    pub(crate) fn decode<T: DeserializeOwned>(&self, family: Family, bytes: &[u8]) -> Result<T> {
        postcard::from_bytes(bytes).map_err(|e| self.undecodable(family, e))
    }

    /// The record of `family` under `key`.
    pub(crate) fn get<T: DeserializeOwned>(&self, family: Family, key: &[u8]) -> Result<Option<T>> {
        match self.db.get_pinned_cf(self.family(family), key) {
            Ok(None) => Ok(None),
            Ok(Some(bytes)) => self.decode(family, &bytes).map(Some),
            Err(e) => Err(self.noticed(e)),
        }
    }

    /// The raw value of `family` under `key`.
    pub(crate) fn get_raw(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.db.get_cf(self.family(family), key).map_err(|e| self.noticed(e))
    }
}
