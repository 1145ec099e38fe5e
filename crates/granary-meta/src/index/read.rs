//! Point reads.

use std::sync::Arc;

use bytes::Bytes;
use granary_types::{BucketId, BucketName, DriveId, DriveNo, ObjectKey, PartId, Timestamp, UploadId, VersionId};
use rocksdb::ReadOptions;

use super::layout::{self, after_prefix};
use super::{DriveEntry, Family, Index, Usage};
use crate::error::Result;
use crate::records::{BucketRecord, PartOwner, PartPlace, PartRecord, PartRef, Parts, VersionRecord};

/// A version with the sealed chunk of its inline part, read from one state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WithInline {
    /// The version.
    pub version: VersionRecord,
    /// The sealed chunk, where the version is an object with one inline part.
    pub inline: Option<Bytes>,
}

/// How often a read that lost a race with an overwrite is begun anew.
const RACES_MAX: usize = 64;

impl Index {
    /// A bucket by name.
    #[must_use]
    pub fn bucket(&self, name: &BucketName) -> Option<Arc<BucketRecord>> {
        self.tables.load().by_name.get(name).cloned()
    }

    /// A bucket by id.
    #[must_use]
    pub fn bucket_by_id(&self, id: BucketId) -> Option<Arc<BucketRecord>> {
        self.tables.load().by_id.get(&id).cloned()
    }

    /// All buckets in name order.
    #[must_use]
    pub fn list_buckets(&self) -> Vec<Arc<BucketRecord>> {
        self.tables.load().by_name.values().cloned().collect()
    }

    /// Number of buckets.
    #[must_use]
    pub fn buckets_count(&self) -> usize {
        self.tables.load().by_id.len()
    }

    /// What a bucket holds; zeros for one that does not exist.
    #[must_use]
    pub fn usage(&self, bucket: BucketId) -> Usage {
        self.usage.lock().get(&bucket).copied().unwrap_or_default()
    }

    /// The drive table in number order, retired drives among them.
    #[must_use]
    pub fn drives(&self) -> Vec<DriveEntry> {
        self.tables.load().drives.values().copied().collect()
    }

    /// A drive by number.
    #[must_use]
    pub fn drive(&self, number: DriveNo) -> Option<DriveEntry> {
        self.tables.load().drives.get(&number).copied()
    }

    /// A drive's number.
    #[must_use]
    pub fn drive_number(&self, drive: DriveId) -> Option<DriveNo> {
        self.tables.load().drive_numbers.get(&drive).copied()
    }

    /// The current version of a key: an object or a delete marker.
    ///
    /// # Errors
    /// The index's.
    pub fn current(&self, bucket: BucketId, key: &ObjectKey) -> Result<Option<VersionRecord>> {
        self.get(Family::Current, &layout::object_key(bucket, key.as_str()))
    }

    /// One version of a key; [`VersionId::NULL`] for the null version.
    ///
    /// # Errors
    /// The index's.
    pub fn version(&self, bucket: BucketId, key: &ObjectKey, version: VersionId) -> Result<Option<VersionRecord>> {
        // A version moves only from `current` to `versions` (by a write) or back (by removal of what was
        // newer), so looking in this order and once more in `current` misses none that is there throughout.
        for last in [false, true] {
            match self.current(bucket, key)? {
                None if last => return Ok(None),
                Some(current) if current.version == version => return Ok(Some(current)),
                _ => {}
            }
            if let Some(older) = self.older_version(bucket, key, version)? {
                return Ok(Some(older));
            }
        }
        Ok(None)
    }

    /// A version among those that are not current.
    pub(crate) fn older_version(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        version: VersionId,
    ) -> Result<Option<VersionRecord>> {
        let created = if version.is_null() {
            match self.get::<Timestamp>(Family::Nulls, &layout::object_key(bucket, key.as_str()))? {
                Some(created) => created,
                None => return Ok(None),
            }
        } else {
            created_of(version)
        };
        self.get(Family::Versions, &layout::version_key(bucket, key.as_str(), created, version))
    }

    /// The newest version that is not current.
    pub(crate) fn newest_older(&self, bucket: BucketId, key: &ObjectKey) -> Result<Option<VersionRecord>> {
        let prefix = layout::group_prefix(bucket, key.as_str());
        let mut iter = self.db().raw_iterator_cf_opt(self.family(Family::Versions), bounded(&prefix));
        iter.seek(&prefix);
        match iter.value() {
            Some(value) => self.decode(Family::Versions, value).map(Some),
            None => iter.status().map(|()| None).map_err(|e| self.noticed(e)),
        }
    }

    /// Whether anything of `family` begins with `prefix`.
    pub(crate) fn any(&self, family: Family, prefix: &[u8]) -> Result<bool> {
        let mut iter = self.db().raw_iterator_cf_opt(self.family(family), bounded(prefix));
        iter.seek(prefix);
        iter.status().map_err(|e| self.noticed(e))?;
        Ok(iter.valid())
    }

    /// The sealed chunk of an inline part. `None` if its owner is gone: look the object up again.
    ///
    /// # Errors
    /// The index's.
    pub fn inline(&self, part: PartId) -> Result<Option<Bytes>> {
        Ok(self.get_raw(Family::Inline, &part.0)?.map(Bytes::from))
    }

    /// The current version and, where it has one, its inline chunk.
    ///
    /// # Errors
    /// The index's.
    pub fn current_with_inline(&self, bucket: BucketId, key: &ObjectKey) -> Result<Option<WithInline>> {
        self.with_inline(|| self.current(bucket, key))
    }

    /// One version and, where it has one, its inline chunk.
    ///
    /// # Errors
    /// The index's.
    pub fn version_with_inline(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        version: VersionId,
    ) -> Result<Option<WithInline>> {
        self.with_inline(|| self.version(bucket, key, version))
    }

    fn with_inline(&self, read: impl Fn() -> Result<Option<VersionRecord>>) -> Result<Option<WithInline>> {
        for _ in 0..RACES_MAX {
            let Some(version) = read()? else { return Ok(None) };
            let part = version.object().and_then(|o| match &o.parts {
                Parts::One(part) if part.place == PartPlace::Inline => Some(part.id),
                _ => None,
            });
            let Some(part) = part else { return Ok(Some(WithInline { version, inline: None })) };
            if let Some(inline) = self.inline(part)? {
                return Ok(Some(WithInline { version, inline: Some(inline) }));
            }
        }
        Err(self.undecodable(Family::Inline, "a version names an inline part that is not there"))
    }

    /// A multipart object's parts in order. `None` if its owner is gone: look the object up again.
    ///
    /// # Errors
    /// The index's.
    pub fn manifest(&self, id: UploadId) -> Result<Option<Vec<PartRecord>>> {
        Ok(Some(self.manifest_range(id, 0, usize::MAX)?).filter(|parts| !parts.is_empty()))
    }

    /// Up to `limit` parts of a manifest from position `from` (the first is 0).
    ///
    /// # Errors
    /// The index's.
    pub fn manifest_range(&self, id: UploadId, from: u32, limit: usize) -> Result<Vec<PartRecord>> {
        let mut parts = Vec::new();
        let mut iter = self.db().raw_iterator_cf_opt(self.family(Family::Manifests), bounded(&id.0));
        iter.seek(layout::manifest_key(id, from));
        while let Some(value) = iter.value() {
            if parts.len() == limit {
                break;
            }
            parts.push(self.decode(Family::Manifests, value)?);
            iter.next();
        }
        iter.status().map_err(|e| self.noticed(e))?;
        Ok(parts)
    }

    /// Who refers to a part on drives (its owner may be garbage).
    ///
    /// # Errors
    /// The index's.
    pub fn part_ref(&self, part: PartId) -> Result<Option<PartRef>> {
        self.get(Family::PartRefs, &part.0)
    }

    /// Up to `limit` references after part `after`, in id order.
    ///
    /// # Errors
    /// The index's.
    pub fn part_refs(&self, after: Option<PartId>, limit: usize) -> Result<Vec<(PartId, PartRef)>> {
        let mut found = Vec::new();
        let mut iter = self.db().raw_iterator_cf(self.family(Family::PartRefs));
        match after {
            None => iter.seek_to_first(),
            Some(after) => {
                iter.seek(after.0);
                if iter.key() == Some(&after.0) {
                    iter.next();
                }
            }
        }
        while found.len() < limit {
            let Some((key, value)) = iter.item() else { break };
            let key = <[u8; 16]>::try_from(key).map_err(|_| self.undecodable(Family::PartRefs, "key length"))?;
            found.push((PartId(key), self.decode(Family::PartRefs, value)?));
            iter.next();
        }
        iter.status().map_err(|e| self.noticed(e))?;
        Ok(found)
    }

    /// Up to `limit` garbage parts after `after`, those that became garbage first at the front. The owner in
    /// each reference is [`PartOwner::Garbage`]; its `since` with the part's id is the next cursor.
    ///
    /// # Errors
    /// The index's.
    pub fn garbage(&self, after: Option<(Timestamp, PartId)>, limit: usize) -> Result<Vec<(PartId, PartRef)>> {
        let mut found = Vec::new();
        let mut iter = self.db().raw_iterator_cf(self.family(Family::Garbage));
        match after {
            None => iter.seek_to_first(),
            Some((since, part)) => {
                let key = layout::garbage_key(since, part);
                iter.seek(key);
                if iter.key() == Some(&key) {
                    iter.next();
                }
            }
        }
        while found.len() < limit {
            let Some(key) = iter.key() else { break };
            let part = key.get(8..24).and_then(|id| id.try_into().ok()).map(PartId);
            let part = part.ok_or_else(|| self.undecodable(Family::Garbage, "key length"))?;
            // One that was forgotten since the iterator was made has no reference any more.
            if let Some(reference) = self.part_ref(part)?
                && matches!(reference.owner, PartOwner::Garbage { .. })
            {
                found.push((part, reference));
            }
            iter.next();
        }
        iter.status().map_err(|e| self.noticed(e))?;
        Ok(found)
    }

    /// A system record.
    ///
    /// # Errors
    /// The index's.
    pub fn system(&self, name: &str) -> Result<Option<Bytes>> {
        Ok(self.get_raw(Family::Sys, &layout::system_key(name))?.map(Bytes::from))
    }

    /// All system records whose names begin with `prefix`, in name order.
    ///
    /// # Errors
    /// The index's.
    pub fn systems(&self, prefix: &str) -> Result<Vec<(String, Bytes)>> {
        let start = layout::system_key(prefix);
        let mut found = Vec::new();
        let mut iter = self.db().raw_iterator_cf_opt(self.family(Family::Sys), bounded(&start));
        iter.seek(&start);
        while let Some((key, value)) = iter.item() {
            let name = std::str::from_utf8(&key[layout::SYSTEM_PREFIX.len()..]);
            let name = name.map_err(|e| self.undecodable(Family::Sys, e))?;
            found.push((name.to_owned(), Bytes::copy_from_slice(value)));
            iter.next();
        }
        iter.status().map_err(|e| self.noticed(e))?;
        Ok(found)
    }

    /// Every entry of every family, for tests and for comparing two indexes.
    ///
    /// # Errors
    /// The index's.
    #[allow(clippy::type_complexity)]
    pub fn dump(&self) -> Result<Vec<(Family, Vec<u8>, Vec<u8>)>> {
        let mut all = Vec::new();
        for family in Family::ALL {
            let mut iter = self.db().raw_iterator_cf(self.family(family));
            iter.seek_to_first();
            while let Some((key, value)) = iter.item() {
                all.push((family, key.to_vec(), value.to_vec()));
                iter.next();
            }
            iter.status().map_err(|e| self.noticed(e))?;
        }
        Ok(all)
    }
}

/// When a version that is not null was created: its id says so.
pub(crate) fn created_of(version: VersionId) -> Timestamp {
    let mut time = [0u8; 8];
    time.copy_from_slice(&version.0[..8]);
    Timestamp(!u64::from_be_bytes(time))
}

/// Read options that end where `prefix` ends.
pub(crate) fn bounded(prefix: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    if let Some(end) = after_prefix(prefix) {
        options.set_iterate_upper_bound(end);
    }
    options
}
