//! PUT and DELETE of objects.
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/Versioning.html>

use granary_types::limits::PART_BYTES_MAX;
use granary_types::{BucketId, ObjectKey, VersionId};

use super::version::Slot;
use super::{Cx, Step};
use crate::command::{Cause, Condition, Outcome, Refusal};
use crate::events::EventKind;
use crate::records::{ObjectRecord, PartOwner, Parts, VersionBody, VersionRecord, Versioning};

impl Cx<'_, '_> {
    /// What every write of an object to `slot` must pass, whatever it writes.
    pub(super) fn check_overwrite(&self, slot: &Slot<'_>, condition: &Condition) -> Step<()> {
        self.check(condition, slot.current.as_ref())?;
        if slot.bucket.options.write_once && slot.current.as_ref().is_some_and(|c| !c.is_delete_marker()) {
            return Err(Refusal::WriteOnce.into());
        }
        Ok(())
    }

    /// Refuses to let the bucket grow over its quota by `more` bytes while `less` go.
    pub(super) fn check_quota(&mut self, slot_bucket: &crate::records::BucketRecord, more: u64, less: u64) -> Step<()> {
        let Some(quota) = slot_bucket.options.quota_bytes else { return Ok(()) };
        let usage = *self.batch.usage(slot_bucket.id);
        let then = (usage.bytes + usage.upload_bytes).saturating_add(more).saturating_sub(less);
        // A write that does not grow the bucket is allowed even over a quota that was lowered since.
        if more > less && then > quota {
            return Err(Refusal::QuotaExceeded.into());
        }
        Ok(())
    }

    /// Refuses one version more than the bucket may have. Deletes are never refused, though their markers count.
    pub(super) fn check_quota_objects(&mut self, bucket: &crate::records::BucketRecord, replaces: bool) -> Step<()> {
        let Some(quota) = bucket.options.quota_objects else { return Ok(()) };
        if !replaces && self.batch.usage(bucket.id).versions >= quota {
            return Err(Refusal::QuotaExceeded.into());
        }
        Ok(())
    }

    pub(super) fn put_version(
        &mut self,
        bucket: BucketId,
        key: &ObjectKey,
        object: &ObjectRecord,
        inline: Option<&[u8]>,
        nonce: [u8; 8],
        condition: &Condition,
    ) -> Step<Outcome> {
        let slot = self.slot(bucket, key)?;
        self.check_overwrite(&slot, condition)?;
        self.check_lockable(&slot.bucket, &object.attributes)?;
        let parts = match &object.parts {
            Parts::Empty if object.size_bytes == 0 && inline.is_none() => Parts::Empty,
            Parts::One(part) if part.payload_bytes == object.size_bytes => {
                if part.payload_bytes > PART_BYTES_MAX {
                    return Err(Refusal::EntityTooLarge.into());
                }
                Parts::One(Box::new(self.admit_part(bucket, part, inline)?))
            }
            _ => return Err(Refusal::InvalidState("the object's parts do not make its size").into()),
        };
        let replaced = self.replaced(&slot)?;
        if let Some(replaced) = &replaced {
            self.check_unlocked(replaced, false)?;
        }
        let replaced_bytes = replaced.as_ref().and_then(|r| r.object()).map_or(0, |o| o.size_bytes);
        self.check_quota(&slot.bucket, object.size_bytes, replaced_bytes)?;
        self.check_quota_objects(&slot.bucket, replaced.is_some())?;

        let created = slot.next_created(self.at);
        let version = slot.next_version(created, nonce);
        let mut object = ObjectRecord { parts, ..object.clone() };
        object.attributes.retention = self.retention_of_new(&slot.bucket, object.attributes.retention, created);
        let outcome = Outcome::Put {
            version,
            created,
            etag: object.etag.clone(),
            checksum: object.checksum.clone(),
            size_bytes: object.size_bytes,
        };
        let new = VersionRecord { version, created, body: VersionBody::Object(Box::new(object)) };
        self.install(&slot, replaced.as_ref(), &new)?;
        if let Some(Parts::One(part)) = new.object().map(|o| &o.parts) {
            self.hold_part(bucket, part, inline, PartOwner::Version { key: key.clone(), version, created });
        }
        let kind = match self.origin.map(|origin| origin.cause).unwrap_or_default() {
            Cause::Put => EventKind::CreatedPut,
            Cause::Copy => EventKind::CreatedCopy,
            Cause::Post => EventKind::CreatedPost,
        };
        self.write_back(&slot.bucket, key, &new)?;
        self.notify(&slot.bucket, key, kind, &new);
        Ok(outcome)
    }

    pub(super) fn delete_object(
        &mut self,
        bucket: BucketId,
        key: &ObjectKey,
        nonce: [u8; 8],
        condition: &Condition,
        bypass: bool,
    ) -> Step<Outcome> {
        let slot = self.slot(bucket, key)?;
        self.check(condition, slot.current.as_ref())?;
        // Also where nothing is here: the upstream may have it.
        self.write_back_removal(&slot.bucket, key)?;
        self.delete_current(&slot, nonce, bypass, [EventKind::RemovedDelete, EventKind::RemovedMarkerCreated])
    }

    /// As `DELETE key`, with the events that a removal and a new delete marker make.
    pub(super) fn delete_current(
        &mut self,
        slot: &Slot<'_>,
        nonce: [u8; 8],
        bypass: bool,
        [removed, marked]: [EventKind; 2],
    ) -> Step<Outcome> {
        let replaced = self.replaced(slot)?;
        if let Some(replaced) = &replaced {
            self.check_unlocked(replaced, bypass)?;
        }
        if slot.bucket.versioning == Versioning::Off {
            let Some(there) = replaced else { return Ok(Outcome::Deleted { version: None, delete_marker: false }) };
            self.remove(slot, &there)?;
            self.notify(&slot.bucket, slot.key, removed, &there);
            return Ok(Outcome::Deleted { version: Some(there.version), delete_marker: false });
        }
        let created = slot.next_created(self.at);
        let version = slot.next_version(created, nonce);
        let marker = VersionRecord { version, created, body: VersionBody::DeleteMarker };
        self.install(slot, replaced.as_ref(), &marker)?;
        self.notify(&slot.bucket, slot.key, marked, &marker);
        Ok(Outcome::Deleted { version: Some(version), delete_marker: true })
    }

    pub(super) fn delete_version(
        &mut self,
        bucket: BucketId,
        key: &ObjectKey,
        version: VersionId,
        condition: &Condition,
        bypass: bool,
    ) -> Step<Outcome> {
        let slot = self.slot(bucket, key)?;
        let there = match &slot.current {
            None => None,
            Some(current) if current.version == version => Some(current.clone()),
            Some(_) => self.index.older_version(bucket, key, version)?,
        };
        self.check(condition, there.as_ref())?;
        // Deleting what is not there succeeds, as everywhere in S3.
        let Some(there) = there else {
            return Ok(Outcome::Deleted { version: Some(version), delete_marker: false });
        };
        self.check_unlocked(&there, bypass)?;
        self.remove(&slot, &there)?;
        if slot.current.as_ref().is_some_and(|current| current.version == version) {
            self.write_back_removal(&slot.bucket, key)?;
        }
        self.notify(&slot.bucket, key, EventKind::RemovedDelete, &there);
        Ok(Outcome::Deleted { version: Some(version), delete_marker: there.is_delete_marker() })
    }
}
