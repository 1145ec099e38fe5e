//! Copies of an upstream's objects, and the queue of what is to be written back to it.

use granary_types::limits::PART_BYTES_MAX;
use granary_types::{BucketId, ObjectKey, Timestamp};

use super::{Cx, Step};
use crate::command::{Outcome, Refusal};
use crate::events::{EVENTS_PER_TARGET_MAX, EventKind, EventObject};
use crate::index::Family;
use crate::index::layout::unwritten_key;
use crate::records::{
    BucketRecord, Fetched, FetchedObject, ObjectRecord, PartOwner, Parts, Sse, VersionBody, VersionRecord, Versioning,
};
use crate::upstream::{Upstreamed, upstream_target};

/// What `Command::PutFetched` says.
pub(super) struct PutFetched<'c> {
    pub bucket: BucketId,
    pub key: &'c ObjectKey,
    pub object: &'c ObjectRecord,
    pub inline: Option<&'c [u8]>,
    pub nonce: [u8; 8],
    pub source: &'c Fetched,
    pub replaces: Option<Timestamp>,
}

impl Cx<'_, '_> {
    /// What a bucket's document and its pins must be to each other: no byte comes from, or goes to, a region outside of them.
    pub(super) fn check_upstream(&self, record: &BucketRecord) -> Step<()> {
        match Upstreamed::of(record) {
            Upstreamed::Yes(rule) if rule.outside(&record.options.regions).is_some() => Err(Refusal::InvalidState(
                "the bucket's upstream declares a region that the bucket's bytes may not lie in",
            )
            .into()),
            Upstreamed::Yes(_) | Upstreamed::No | Upstreamed::Unreadable => Ok(()),
        }
    }

    /// Refuses to delete a bucket whose last changes its upstream does not have yet.
    pub(super) fn check_written_back(&self, record: &BucketRecord) -> Step<()> {
        if matches!(Upstreamed::of(record), Upstreamed::Yes(rule) if rule.write_back)
            && self.index.event_queue(&upstream_target(record.id))?.count > 0
        {
            return Err(Refusal::InvalidState(
                "changes of the bucket wait to be written to its upstream: wait for them, or clear the upstream",
            )
            .into());
        }
        Ok(())
    }

    /// A copy of an upstream's object. Only where nothing is, or the copy that it takes the place of: whatever happened
    /// to the key meanwhile wins. It makes no event: the bucket had the object all along, as its clients see it.
    pub(super) fn put_fetched(&mut self, wanted: PutFetched<'_>) -> Step<Outcome> {
        let PutFetched { bucket, key, object, inline, nonce, source, replaces } = wanted;
        let slot = self.slot(bucket, key)?;
        if !matches!(Upstreamed::of(&slot.bucket), Upstreamed::Yes(_)) {
            return Err(Refusal::Conflict.into());
        }
        let there = slot.current.as_ref();
        let is_expected = match replaces {
            None => there.is_none(),
            Some(created) => there.is_some_and(|there| there.fetched().is_some() && there.created == created),
        };
        if !is_expected || self.index.is_unwritten(bucket, key.as_str())? {
            return Err(Refusal::Conflict.into());
        }
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
        let body = VersionBody::Fetched(Box::new(FetchedObject { object, source: source.clone() }));
        let new = VersionRecord { version, created, body };
        self.install(&slot, replaced.as_ref(), &new)?;
        if let Some(Parts::One(part)) = new.object().map(|o| &o.parts) {
            self.hold_part(bucket, part, inline, PartOwner::Version { key: key.clone(), version, created });
        }
        Ok(outcome)
    }

    /// The upstream no longer has what this is a copy of.
    pub(super) fn drop_fetched(&mut self, bucket: BucketId, key: &ObjectKey, created: Timestamp) -> Step<Outcome> {
        let slot = self.slot(bucket, key)?;
        let there = slot.current.clone().filter(|there| there.fetched().is_some() && there.created == created);
        let there = there.ok_or(Refusal::Conflict)?;
        self.check_unlocked(&there, false)?;
        self.remove(&slot, &there)?;
        Ok(Outcome::Deleted { version: Some(there.version), delete_marker: false })
    }

    /// Queues a key that has something new for the upstream, where the bucket writes back.
    pub(super) fn write_back(&mut self, bucket: &BucketRecord, key: &ObjectKey, new: &VersionRecord) -> Step<()> {
        let customers = |o: &ObjectRecord| matches!(o.attributes.sse, Sse::Customer { .. });
        if !self.writes_back(bucket)? {
            return Ok(());
        }
        if new.object().is_some_and(customers) {
            return Err(Refusal::InvalidState(
                "the bucket writes back to its upstream, and what is under a customer's key cannot be read for that",
            )
            .into());
        }
        let object = EventObject {
            key: key.clone(),
            version: (bucket.versioning != Versioning::Off).then_some(new.version),
            size_bytes: new.object().map_or(0, |o| o.size_bytes),
            etag: new.object().map(|o| o.etag.clone()),
        };
        self.event(bucket, upstream_target(bucket.id), String::new(), EventKind::CreatedPut, Some(object));
        Ok(())
    }

    /// Queues a key that was deleted for the upstream, where the bucket writes back.
    pub(super) fn write_back_removal(&mut self, bucket: &BucketRecord, key: &ObjectKey) -> Step<()> {
        if self.writes_back(bucket)? {
            let object = EventObject { key: key.clone(), version: None, size_bytes: 0, etag: None };
            self.event(bucket, upstream_target(bucket.id), String::new(), EventKind::RemovedDelete, Some(object));
        }
        Ok(())
    }

    /// Whether changes go to the upstream. Nothing of this queue is ever dropped: when it is full, writes are refused.
    fn writes_back(&self, bucket: &BucketRecord) -> Step<bool> {
        match Upstreamed::of(bucket) {
            Upstreamed::No => Ok(false),
            Upstreamed::Yes(rule) if !rule.write_back => Ok(false),
            Upstreamed::Yes(_)
                if self.index.event_queue(&upstream_target(bucket.id))?.count < EVENTS_PER_TARGET_MAX =>
            {
                Ok(true)
            }
            Upstreamed::Yes(_) => Err(Refusal::UpstreamBehind.into()),
            Upstreamed::Unreadable => {
                Err(Refusal::InvalidState("a newer program set the bucket's upstream: this one cannot write here")
                    .into())
            }
        }
    }

    /// An event of a write-back queue was enqueued: until it is forgotten, what is here counts, not what the upstream has.
    pub(super) fn mark_unwritten(&mut self, bucket: BucketId, key: &ObjectKey, sequence: u64) {
        self.batch.put(Family::Sys, &unwritten_key(bucket, key.as_str()), &sequence);
    }

    /// It was forgotten; unless there is another behind it, the upstream is up to date.
    pub(super) fn unmark_unwritten(&mut self, bucket: BucketId, key: &ObjectKey, sequence: u64) -> Step<()> {
        let place = unwritten_key(bucket, key.as_str());
        if self.index.get::<u64>(Family::Sys, &place)? == Some(sequence) {
            self.batch.delete(Family::Sys, &place);
        }
        Ok(())
    }
}
