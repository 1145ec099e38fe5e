//! Appending: an object of a bucket that is not versioned gets one part more. No byte that is there is touched.
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/directory-buckets-objects-append.html>

use granary_types::limits::{OBJECT_BYTES_MAX, PART_BYTES_MAX, PARTS_COUNT_MAX};
use granary_types::{BucketId, Checksum, ChecksumKind, ObjectKey, Timestamp, UploadId};
use md5::{Digest as _, Md5};

use super::{Cx, Step};
use crate::command::{Condition, Outcome, Refusal};
use crate::error::Result;
use crate::events::EventKind;
use crate::index::Family;
use crate::index::layout::manifest_key;
use crate::records::{ObjectRecord, PartOwner, PartPlace, PartRecord, Parts, VersionBody, VersionRecord, Versioning};
use granary_types::hex;

/// What an append says.
pub(super) struct Append<'c> {
    pub bucket: BucketId,
    pub key: &'c ObjectKey,
    pub offset: u64,
    pub base: Timestamp,
    pub part: &'c PartRecord,
    pub inline: Option<&'c [u8]>,
    pub manifest: UploadId,
    pub condition: &'c Condition,
}

impl Cx<'_, '_> {
    pub(super) fn append(&mut self, wanted: Append<'_>) -> Step<Outcome> {
        let Append { bucket, key, offset, base, part, inline, manifest, condition } = wanted;
        let slot = self.slot(bucket, key)?;
        self.check_not_frozen(&slot.bucket, key.as_str())?;
        self.check(condition, slot.current.as_ref())?;
        let Some(current) = slot.current.clone() else { return Err(Refusal::NoSuchKey.into()) };
        let VersionBody::Object(mut object) = current.clone().into_own().body else {
            return Err(Refusal::NoSuchKey.into());
        };
        if slot.bucket.versioning == Versioning::Enabled || !current.version.is_null() {
            return Err(Refusal::InvalidState("objects of versioned buckets cannot be appended to").into());
        }
        if slot.bucket.options.write_once {
            return Err(Refusal::WriteOnce.into());
        }
        if object.size_bytes != offset {
            return Err(Refusal::InvalidWriteOffset { size_bytes: object.size_bytes }.into());
        }
        if current.created != base {
            return Err(Refusal::Conflict.into());
        }
        self.check_unlocked(&current, false)?;
        if part.payload_bytes == 0 {
            return Err(Refusal::InvalidState("nothing is appended").into());
        }
        let size_bytes = offset.checked_add(part.payload_bytes).filter(|size| *size <= OBJECT_BYTES_MAX);
        let size_bytes = size_bytes.filter(|_| part.payload_bytes <= PART_BYTES_MAX).ok_or(Refusal::EntityTooLarge)?;
        let part = &self.admit_part(bucket, part, inline)?;
        self.check_quota(&slot.bucket, part.payload_bytes, 0)?;

        let created = slot.next_created(self.at);
        let version = current.version;
        let checksum = self.appended_checksum(&object, part)?;
        let (parts, owner) = match &object.parts {
            Parts::Empty => {
                (Parts::One(Box::new(part.clone())), PartOwner::Version { key: key.clone(), version, created })
            }
            Parts::One(first) => {
                if self.index.any(Family::Manifests, &manifest.0)? {
                    return Err(Refusal::InvalidState("the manifest's id is taken").into());
                }
                self.batch.put(Family::Manifests, &manifest_key(manifest, 0), first);
                if first.place != PartPlace::Inline {
                    self.hold_part(bucket, first, None, PartOwner::Manifest { id: manifest, position: 0 });
                }
                self.batch.put(Family::Manifests, &manifest_key(manifest, 1), part);
                (Parts::Manifest { id: manifest, count: 2 }, PartOwner::Manifest { id: manifest, position: 1 })
            }
            Parts::Manifest { count, .. } if *count >= PARTS_COUNT_MAX => return Err(Refusal::TooManyParts.into()),
            Parts::Manifest { id, count } => {
                self.batch.put(Family::Manifests, &manifest_key(*id, *count), part);
                (Parts::Manifest { id: *id, count: count + 1 }, PartOwner::Manifest { id: *id, position: *count })
            }
        };
        self.hold_part(bucket, part, inline, owner);
        object.etag = match &parts {
            Parts::One(_) | Parts::Empty => part.etag.clone(),
            Parts::Manifest { count, .. } => {
                let mut hash = Md5::new();
                hash.update(object.etag.as_bytes());
                hash.update(part.etag.as_bytes());
                hash.update(part.id.0);
                format!("{}-{count}", hex::encode(hash.finalize()))
            }
        };
        object.size_bytes = size_bytes;
        object.checksum = checksum;
        object.parts = parts;
        let outcome =
            Outcome::Put { version, created, etag: object.etag.clone(), checksum: object.checksum.clone(), size_bytes };
        let new = VersionRecord { version, created, body: VersionBody::Object(object) };
        self.batch.put(Family::Current, &slot.object_key(), &new);
        self.batch.usage(bucket).bytes += part.payload_bytes;
        self.write_back(&slot.bucket, key, &new)?;
        self.notify(&slot.bucket, key, EventKind::CreatedPut, &new);
        Ok(outcome)
    }

    /// The checksum of the object and its new part together: CRCs of the whole combine; of SHAs one over the parts'
    /// is made, as of multipart objects. None where a part has another algorithm, or none.
    fn appended_checksum(&self, object: &ObjectRecord, part: &PartRecord) -> Result<Option<Checksum>> {
        let (Some(old), Some(new)) = (&object.checksum, &part.checksum) else { return Ok(None) };
        if object.parts == Parts::Empty {
            return Ok(Some(new.clone()));
        }
        let whole = [(old, object.size_bytes), (new, part.payload_bytes)];
        if old.kind == ChecksumKind::FullObject
            && let Some(combined) = Checksum::of_parts(old.algorithm, ChecksumKind::FullObject, &whole)
        {
            return Ok(Some(combined));
        }
        let mut parts = match &object.parts {
            Parts::Empty => Vec::new(),
            Parts::One(first) => vec![(**first).clone()],
            Parts::Manifest { id, .. } => self.index.manifest(*id)?.unwrap_or_default(),
        };
        parts.push(part.clone());
        let of: Option<Vec<_>> = parts.iter().map(|p| p.checksum.as_ref().map(|c| (c, p.payload_bytes))).collect();
        Ok(of.and_then(|of| Checksum::of_parts(old.algorithm, ChecksumKind::Composite, &of)))
    }
}
