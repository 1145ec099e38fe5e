//! A batch of changes: what one command does to the index, or nothing of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use granary_types::{BucketId, BucketName};
use rocksdb::WriteBatch;
use serde::Serialize;

use super::{AuditState, DriveEntry, Family, Index, Usage, layout};
use crate::error::Result;
use crate::records::BucketRecord;

/// Changes on their way into an index: RocksDB's write batch, and what follows from it for the tables
/// that the index holds in memory.
pub struct Batch<'a> {
    index: &'a Index,
    writes: WriteBatch,
    scratch: Vec<u8>,
    buckets: Vec<(BucketId, BucketName, Option<Arc<BucketRecord>>)>,
    usage: BTreeMap<BucketId, Option<Usage>>,
    drives: Vec<DriveEntry>,
    audit: Option<AuditState>,
}

impl<'a> Batch<'a> {
    /// An empty batch for `index`.
    #[must_use]
    pub fn new(index: &'a Index) -> Self {
        Self {
            index,
            writes: WriteBatch::default(),
            scratch: Vec::new(),
            buckets: Vec::new(),
            usage: BTreeMap::new(),
            drives: Vec::new(),
            audit: None,
        }
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    pub(crate) fn put<T: Serialize>(&mut self, family: Family, key: &[u8], record: &T) {
        self.scratch.clear();
        let bytes = postcard::to_extend(record, std::mem::take(&mut self.scratch))
            .expect("records hold no type that postcard cannot encode");
        self.writes.put_cf(self.index.family(family), key, &bytes);
        self.scratch = bytes;
    }

    pub(crate) fn put_raw(&mut self, family: Family, key: &[u8], value: &[u8]) {
        self.writes.put_cf(self.index.family(family), key, value);
    }

    pub(crate) fn delete(&mut self, family: Family, key: &[u8]) {
        self.writes.delete_cf(self.index.family(family), key);
    }

    pub(crate) fn put_bucket(&mut self, record: BucketRecord) {
        self.put(Family::Buckets, &layout::bucket_key(record.id), &record);
        self.buckets.push((record.id, record.name.clone(), Some(Arc::new(record))));
    }

    pub(crate) fn delete_bucket(&mut self, record: &BucketRecord) {
        self.delete(Family::Buckets, &layout::bucket_key(record.id));
        self.delete(Family::Sys, &layout::usage_key(record.id));
        self.delete(Family::Sys, &layout::block_usage_key(record.id));
        self.buckets.push((record.id, record.name.clone(), None));
        self.usage.insert(record.id, None);
    }

    pub(crate) fn put_drive(&mut self, entry: DriveEntry) {
        self.put(Family::Drives, &layout::drive_key(entry.number), &entry);
        self.drives.push(entry);
    }

    /// The bucket's counters as this batch leaves them, to be changed. Written by `commit`.
    pub(crate) fn usage(&mut self, bucket: BucketId) -> &mut Usage {
        let index = self.index;
        self.usage.entry(bucket).or_insert(None).get_or_insert_with(|| index.usage(bucket))
    }

    /// Throws away what was collected (a command that was refused half-way changes nothing).
    pub(crate) fn clear(&mut self) {
        self.writes.clear();
        self.buckets.clear();
        self.usage.clear();
        self.drives.clear();
        self.audit = None;
    }

    /// The audit chain as this batch leaves it, to be changed.
    pub(crate) fn audit(&mut self) -> &mut AuditState {
        let index = self.index;
        self.audit.get_or_insert_with(|| index.audit_state())
    }

    /// Removes all entries from `from` up to, not including, `to`.
    pub(crate) fn delete_range(&mut self, family: Family, from: &[u8], to: &[u8]) {
        self.writes.delete_range_cf(self.index.family(family), from, to);
    }

    /// Writes everything and the position `applied` at once.
    ///
    /// # Errors
    /// RocksDB's; then nothing has changed.
    pub(crate) fn commit(mut self, applied: u64) -> Result<()> {
        let index = self.index;
        for (bucket, usage) in std::mem::take(&mut self.usage) {
            if let Some(usage) = usage {
                self.put(Family::Sys, &layout::usage_key(bucket), &usage);
            }
            self.usage.insert(bucket, usage);
        }
        self.writes.put_cf(index.family(Family::Sys), layout::SYS_APPLIED, applied.to_le_bytes());
        index.db.write_opt(self.writes, &index.write_options).map_err(|e| index.noticed(e))?;
        if !self.buckets.is_empty() || !self.drives.is_empty() {
            let mut tables = (**index.tables.load()).clone();
            for (id, name, record) in self.buckets {
                match record {
                    Some(record) => {
                        tables.by_name.insert(name, record.clone());
                        tables.by_id.insert(id, record);
                    }
                    None => {
                        tables.by_name.remove(&name);
                        tables.by_id.remove(&id);
                    }
                }
            }
            for entry in self.drives {
                tables.drive_numbers.insert(entry.drive, entry.number);
                tables.drives.insert(entry.number, entry);
            }
            index.tables.store(Arc::new(tables));
        }
        if !self.usage.is_empty() {
            let mut all = index.usage.lock();
            for (bucket, usage) in self.usage {
                match usage {
                    Some(usage) => all.insert(bucket, usage),
                    None => all.remove(&bucket),
                };
            }
        }
        if let Some(audit) = self.audit {
            *index.audit.lock() = audit;
        }
        index.applied.store(applied, Ordering::Release);
        Ok(())
    }
}
