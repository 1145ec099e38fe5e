//! A key's history: the current version, the older ones behind it, the null version wherever it is.

use std::sync::Arc;

use granary_types::{BucketId, ObjectKey, Timestamp, VersionId};

use super::{Cx, Step};
use crate::command::{Outcome, Refusal, VersionChange};
use crate::events::EventKind;
use crate::index::Family;
use crate::index::layout::{object_key, version_key};
use crate::records::{BucketRecord, VersionRecord, Versioning};

/// One key of one bucket, with its current version.
pub(super) struct Slot<'k> {
    pub bucket: Arc<BucketRecord>,
    pub key: &'k ObjectKey,
    pub current: Option<VersionRecord>,
}

impl<'k> Slot<'k> {
    pub(super) fn object_key(&self) -> Vec<u8> {
        object_key(self.bucket.id, self.key.as_str())
    }

    fn version_key(&self, version: &VersionRecord) -> Vec<u8> {
        version_key(self.bucket.id, self.key.as_str(), version.created, version.version)
    }

    /// When a version written now was created: after all that are there.
    pub(super) fn next_created(&self, at: Timestamp) -> Timestamp {
        match &self.current {
            Some(newest) => at.max(Timestamp(newest.created.0.saturating_add(1))),
            None => at,
        }
    }

    /// The id of a version created at `created`.
    pub(super) fn next_version(&self, created: Timestamp, nonce: [u8; 8]) -> VersionId {
        if self.bucket.versioning != Versioning::Enabled {
            return VersionId::NULL;
        }
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(!created.0).to_be_bytes());
        id[8..].copy_from_slice(&nonce);
        // All ones would be the null version.
        if id == VersionId::NULL.0 {
            id[15] = 0;
        }
        VersionId(id)
    }
}

impl Cx<'_, '_> {
    pub(super) fn slot<'k>(&self, bucket: BucketId, key: &'k ObjectKey) -> Step<Slot<'k>> {
        let bucket = self.bucket(bucket)?;
        let current = self.index.current(bucket.id, key)?;
        Ok(Slot { bucket, key, current })
    }

    /// The null version that a write to an unversioned or suspended bucket replaces, if there is one.
    pub(super) fn replaced(&self, slot: &Slot<'_>) -> Step<Option<VersionRecord>> {
        match (&slot.current, slot.bucket.versioning) {
            (_, Versioning::Enabled) | (None, _) => Ok(None),
            (Some(current), _) if current.version.is_null() => Ok(Some(current.clone())),
            _ => Ok(self.index.older_version(slot.bucket.id, slot.key, VersionId::NULL)?),
        }
    }

    /// Puts `new` on top of the key's history. `replaced` (see [`Cx::replaced`]) is removed for good, any
    /// other current version moves behind it.
    pub(super) fn install(
        &mut self,
        slot: &Slot<'_>,
        replaced: Option<&VersionRecord>,
        new: &VersionRecord,
    ) -> Step<()> {
        self.check_not_frozen(&slot.bucket, slot.key.as_str())?;
        let bucket = slot.bucket.id;
        let mut objects = 0i64;
        if let Some(current) = &slot.current {
            objects -= i64::from(!current.is_delete_marker());
            if replaced.is_none_or(|r| r.version != current.version) {
                self.batch.put(Family::Versions, &slot.version_key(current), current);
                if current.version.is_null() {
                    self.batch.put(Family::Nulls, &slot.object_key(), &current.created);
                }
            }
        }
        if let Some(replaced) = replaced {
            if slot.current.as_ref().is_none_or(|c| c.version != replaced.version) {
                self.batch.delete(Family::Versions, &slot.version_key(replaced));
                self.batch.delete(Family::Nulls, &slot.object_key());
            }
            self.give_up(bucket, replaced)?;
        }
        self.batch.put(Family::Current, &slot.object_key(), new);
        objects += i64::from(!new.is_delete_marker());
        let usage = self.batch.usage(bucket);
        usage.objects = usage.objects.saturating_add_signed(objects);
        usage.versions += 1;
        usage.bytes += new.object().map_or(0, |o| o.size_bytes);
        Ok(())
    }

    /// Drops a removed version's parts and counts it out (its place is the caller's business).
    pub(super) fn give_up(&mut self, bucket: BucketId, version: &VersionRecord) -> Step<()> {
        let mut bytes = 0;
        if let Some(object) = version.object() {
            self.drop_parts(bucket, object)?;
            bytes = object.size_bytes;
        }
        let usage = self.batch.usage(bucket);
        usage.versions = usage.versions.saturating_sub(1);
        usage.bytes = usage.bytes.saturating_sub(bytes);
        Ok(())
    }

    /// Removes `version`, which the key has, for good.
    pub(super) fn remove(&mut self, slot: &Slot<'_>, version: &VersionRecord) -> Step<()> {
        self.check_not_frozen(&slot.bucket, slot.key.as_str())?;
        let bucket = slot.bucket.id;
        if slot.current.as_ref().is_some_and(|c| c.version == version.version) {
            let next = self.index.newest_older(bucket, slot.key)?;
            let objects = i64::from(next.as_ref().is_some_and(|n| !n.is_delete_marker()))
                - i64::from(!version.is_delete_marker());
            match next {
                None => self.batch.delete(Family::Current, &slot.object_key()),
                Some(next) => {
                    self.batch.delete(Family::Versions, &slot.version_key(&next));
                    if next.version.is_null() {
                        self.batch.delete(Family::Nulls, &slot.object_key());
                    }
                    self.batch.put(Family::Current, &slot.object_key(), &next);
                }
            }
            let usage = self.batch.usage(bucket);
            usage.objects = usage.objects.saturating_add_signed(objects);
        } else {
            self.batch.delete(Family::Versions, &slot.version_key(version));
            if version.version.is_null() {
                self.batch.delete(Family::Nulls, &slot.object_key());
            }
        }
        self.give_up(bucket, version)
    }

    pub(super) fn change_version(
        &mut self,
        bucket: BucketId,
        key: &ObjectKey,
        version: Option<VersionId>,
        change: &VersionChange,
    ) -> Step<Outcome> {
        let slot = self.slot(bucket, key)?;
        let (current, record) = match (version, &slot.current) {
            (None, None) => return Err(Refusal::NoSuchKey.into()),
            (None, Some(current)) => (true, Some(current.clone())),
            (Some(id), Some(current)) if current.version == id => (true, Some(current.clone())),
            (Some(_), None) => (false, None),
            (Some(id), Some(_)) => (false, self.index.older_version(bucket, key, id)?),
        };
        let mut record = record.ok_or(Refusal::NoSuchVersion)?;
        let (version, created) = (record.version, record.created);
        let object = record.object_mut().ok_or(Refusal::IsDeleteMarker)?;
        let locks = slot.bucket.options.object_lock;
        match change {
            VersionChange::Tags(_) if slot.bucket.frozen(key.as_str()).is_some() => {
                self.check_not_frozen(&slot.bucket, key.as_str())?;
            }
            VersionChange::Tags(tags) => object.attributes.tags.clone_from(tags),
            VersionChange::Retention { .. } | VersionChange::LegalHold(_) if !locks => {
                return Err(Refusal::InvalidState("object lock is not enabled for the bucket").into());
            }
            VersionChange::Retention { retention, bypass } => {
                self.check_retention(object.attributes.retention, *retention, *bypass)?;
                object.attributes.retention = *retention;
            }
            VersionChange::LegalHold(on) => object.attributes.legal_hold = *on,
            VersionChange::Acl(acl) => object.attributes.acl.clone_from(acl),
        }
        let outcome = Outcome::Put {
            version,
            created,
            etag: object.etag.clone(),
            checksum: object.checksum.clone(),
            size_bytes: object.size_bytes,
        };
        self.put_back(&slot, &record, current);
        match change {
            VersionChange::Tags(tags) if tags.is_empty() => {
                self.notify(&slot.bucket, key, EventKind::TaggingDelete, &record);
            }
            VersionChange::Tags(_) => self.notify(&slot.bucket, key, EventKind::TaggingPut, &record),
            VersionChange::Acl(_) => self.notify(&slot.bucket, key, EventKind::AclPut, &record),
            VersionChange::Retention { .. } | VersionChange::LegalHold(_) => {}
        }
        Ok(outcome)
    }

    /// Writes a version that the key has, changed in place.
    pub(super) fn put_back(&mut self, slot: &Slot<'_>, record: &VersionRecord, current: bool) {
        if current {
            self.batch.put(Family::Current, &slot.object_key(), record);
        } else {
            self.batch.put(Family::Versions, &slot.version_key(record), record);
        }
    }
}
