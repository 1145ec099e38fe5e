//! Parts: who holds them, and how they become garbage.

use granary_types::{BucketId, PartId, PartLocation, Placement};

use super::{Cx, Step};
use crate::command::{Outcome, Refusal};
use crate::error::Result;
use crate::index::Family;
use crate::index::layout::{garbage_key, manifest_key, object_key, part_key, upload_key, version_key};
use crate::records::{ObjectRecord, PartOwner, PartPlace, PartRecord, PartRef, Parts, VersionRecord};

impl Cx<'_, '_> {
    /// Takes a new part in: refuses one that is in use already (a command that was proposed twice), and one whose inline
    /// payload is missing or superfluous; counts its uses of shared blocks. Returns it as it is to be kept.
    pub(super) fn admit_part(
        &mut self,
        bucket: BucketId,
        part: &PartRecord,
        inline: Option<&[u8]>,
    ) -> Step<PartRecord> {
        let family = match (&part.place, inline) {
            (PartPlace::Inline, Some(_)) => Family::Inline,
            (PartPlace::Drives(_) | PartPlace::Shared(_), None) => Family::PartRefs,
            _ => return Err(Refusal::InvalidState("the command's inline payload does not fit its part").into()),
        };
        match self.index.db().get_pinned_cf(self.index.family(family), part.id.0) {
            Ok(None) => {}
            Ok(Some(_)) => return Err(Refusal::InvalidState("the part is in use already").into()),
            Err(e) => return Err(self.index.noticed(e).into()),
        }
        match &part.place {
            PartPlace::Shared(shared) => self.use_blocks(bucket, part, shared),
            PartPlace::Inline | PartPlace::Drives(_) => Ok(part.clone()),
        }
    }

    /// Notes who holds a new part, and keeps its inline payload.
    pub(super) fn hold_part(&mut self, bucket: BucketId, part: &PartRecord, inline: Option<&[u8]>, owner: PartOwner) {
        match (&part.place, inline) {
            (PartPlace::Inline, Some(chunk)) => self.batch.put_raw(Family::Inline, &part.id.0, chunk),
            (PartPlace::Inline, None) => {}
            (PartPlace::Drives(_) | PartPlace::Shared(_), _) => {
                let Some(PartLocation { part, payload_bytes, placement }) = part.location() else { return };
                self.batch.put(Family::PartRefs, &part.0, &PartRef { bucket, payload_bytes, placement, owner });
            }
        }
    }

    /// Gives a part up: its inline payload goes, its shards become garbage, its shared blocks lose a use.
    pub(super) fn drop_part(&mut self, bucket: BucketId, part: &PartRecord) -> Result<()> {
        match &part.place {
            PartPlace::Inline => self.batch.delete(Family::Inline, &part.id.0),
            PartPlace::Drives(placement) => self.discard(bucket, part.id, part.payload_bytes, placement.clone()),
            PartPlace::Shared(shared) => {
                self.discard(bucket, part.id, shared.recipe_bytes, shared.recipe.clone());
                self.leave_blocks(bucket, part.payload_bytes, shared)?;
            }
        }
        Ok(())
    }

    /// Makes what lies on drives under `id` garbage.
    pub(super) fn discard(&mut self, bucket: BucketId, id: PartId, payload_bytes: u64, placement: Placement) {
        let owner = PartOwner::Garbage { since: self.at };
        self.batch.put(Family::PartRefs, &id.0, &PartRef { bucket, payload_bytes, placement, owner });
        self.batch.put_raw(Family::Garbage, &garbage_key(self.at, id), &[]);
    }

    /// Gives up all parts of an object.
    pub(super) fn drop_parts(&mut self, bucket: BucketId, object: &ObjectRecord) -> Result<()> {
        match &object.parts {
            Parts::Empty => {}
            Parts::One(part) => self.drop_part(bucket, part)?,
            Parts::Manifest { id, .. } => {
                for (position, part) in (0u32..).zip(self.index.manifest(*id)?.unwrap_or_default()) {
                    self.drop_part(bucket, &part)?;
                    self.batch.delete(Family::Manifests, &manifest_key(*id, position));
                }
            }
        }
        Ok(())
    }

    pub(super) fn forget_garbage(&mut self, parts: &[PartId]) -> Step<Outcome> {
        for part in parts {
            if let Some(PartRef { owner: PartOwner::Garbage { since }, .. }) = self.index.part_ref(*part)? {
                self.batch.delete(Family::PartRefs, &part.0);
                self.batch.delete(Family::Garbage, &garbage_key(since, *part));
            }
        }
        Ok(Outcome::Done)
    }

    pub(super) fn move_part(&mut self, part: PartId, from: &Placement, to: &Placement) -> Step<Outcome> {
        let mut reference = self.index.part_ref(part)?.ok_or(Refusal::Stale)?;
        if reference.placement != *from {
            return Err(Refusal::Stale.into());
        }
        let moved = |record: &mut PartRecord| {
            let held = record.id == part;
            if held {
                match &mut record.place {
                    PartPlace::Shared(shared) => shared.recipe = to.clone(),
                    place => *place = PartPlace::Drives(to.clone()),
                }
            }
            held.then_some(()).ok_or(Refusal::Stale)
        };
        match &reference.owner {
            PartOwner::Garbage { .. } => return Err(Refusal::Stale.into()),
            PartOwner::Block => {
                let mut record = self.index.block(part)?.ok_or(Refusal::Stale)?;
                record.placement = to.clone();
                self.batch.put(Family::Blocks, &part.0, &record);
            }
            PartOwner::Upload { upload, number, .. } => {
                let key = part_key(*upload, *number);
                let mut record: PartRecord = self.index.get(Family::Parts, &key)?.ok_or(Refusal::Stale)?;
                moved(&mut record)?;
                self.batch.put(Family::Parts, &key, &record);
            }
            PartOwner::Manifest { id, position } => {
                let key = manifest_key(*id, *position);
                let mut record: PartRecord = self.index.get(Family::Manifests, &key)?.ok_or(Refusal::Stale)?;
                moved(&mut record)?;
                self.batch.put(Family::Manifests, &key, &record);
            }
            PartOwner::Version { key, version, created } => {
                let bucket = reference.bucket;
                let now = object_key(bucket, key.as_str());
                let then = version_key(bucket, key.as_str(), *created, *version);
                let current: Option<VersionRecord> = self.index.get(Family::Current, &now)?;
                let (family, place, mut record) = match current {
                    Some(v) if v.version == *version && v.created == *created => (Family::Current, now, v),
                    _ => (
                        Family::Versions,
                        then.clone(),
                        self.index.get(Family::Versions, &then)?.ok_or(Refusal::Stale)?,
                    ),
                };
                match record.object_mut().map(|object| &mut object.parts) {
                    Some(Parts::One(one)) => moved(one)?,
                    _ => return Err(Refusal::Stale.into()),
                }
                self.batch.put(family, &place, &record);
            }
        }
        reference.placement = to.clone();
        self.batch.put(Family::PartRefs, &part.0, &reference);
        Ok(Outcome::Done)
    }

    /// Removes an open upload's own record (its parts are dealt with by the caller).
    pub(super) fn delete_upload_record(
        &mut self,
        bucket: BucketId,
        key: &str,
        created: granary_types::Timestamp,
        upload: granary_types::UploadId,
    ) {
        self.batch.delete(Family::Uploads, &upload_key(bucket, key, created, upload));
        self.batch.delete(Family::Parts, &part_key(upload, 0));
    }
}
