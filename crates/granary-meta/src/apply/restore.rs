//! The last resort: versions put back as they were, in any order.

use granary_types::{BucketId, ObjectKey};

use super::{Cx, Step};
use crate::command::{Outcome, Refusal};
use crate::index::Family;
use crate::index::layout::{manifest_key, object_key, version_key};
use crate::records::{PartOwner, PartPlace, PartRecord, Parts, VersionRecord};

impl Cx<'_, '_> {
    pub(super) fn restore_version(
        &mut self,
        bucket: BucketId,
        key: &ObjectKey,
        version: &VersionRecord,
        parts: &[PartRecord],
    ) -> Step<Outcome> {
        let slot = self.slot(bucket, key)?;
        let held: Vec<&PartRecord> = match version.object().map(|o| &o.parts) {
            Some(Parts::One(part)) => vec![part],
            Some(Parts::Manifest { count, .. }) if *count as usize == parts.len() => parts.iter().collect(),
            Some(Parts::Manifest { .. }) => return Err(Refusal::InvalidState("parts of the object are missing").into()),
            Some(Parts::Empty) | None => Vec::new(),
        };
        if held.iter().any(|part| part.place == PartPlace::Inline) {
            return Err(Refusal::InvalidState("inline parts cannot be restored").into());
        }
        let there = match &slot.current {
            Some(current) if current.version == version.version => Some(current.clone()),
            Some(_) => self.index.older_version(bucket, key, version.version)?,
            None => None,
        };
        // The same again; or one of several null versions: `rescue` asks for the newest first.
        if there.is_some() {
            return Ok(Outcome::Done);
        }
        let held = held.into_iter().map(|part| self.admit_part(bucket, part, None)).collect::<Step<Vec<_>>>()?;
        let mut version = version.clone();
        if let Some(object) = version.object_mut()
            && let (Parts::One(one), Some(admitted)) = (&mut object.parts, held.first())
        {
            **one = admitted.clone();
        }
        let version = &version;
        self.place(bucket, key, slot.current.as_ref(), version);
        for (position, part) in (0u32..).zip(&held) {
            let owner = match version.object().map(|o| &o.parts) {
                Some(Parts::Manifest { id, .. }) => {
                    self.batch.put(Family::Manifests, &manifest_key(*id, position), part);
                    PartOwner::Manifest { id: *id, position }
                }
                _ => PartOwner::Version { key: key.clone(), version: version.version, created: version.created },
            };
            self.hold_part(bucket, part, None, owner);
        }
        Ok(Outcome::Done)
    }

    /// Puts `version` where its creation time says, and counts it.
    fn place(&mut self, bucket: BucketId, key: &ObjectKey, current: Option<&VersionRecord>, version: &VersionRecord) {
        let now = object_key(bucket, key.as_str());
        let then = |v: &VersionRecord| version_key(bucket, key.as_str(), v.created, v.version);
        let newest = current.is_none_or(|c| version.created > c.created);
        let older = if newest { current } else { Some(version) };
        if let Some(older) = older {
            self.batch.put(Family::Versions, &then(older), older);
            if older.version.is_null() {
                self.batch.put(Family::Nulls, &now, &older.created);
            }
        }
        if newest {
            self.batch.put(Family::Current, &now, version);
        }
        let mut objects = 0i64;
        if newest {
            objects += i64::from(!version.is_delete_marker());
            objects -= i64::from(current.is_some_and(|c| !c.is_delete_marker()));
        }
        let usage = self.batch.usage(bucket);
        usage.objects = usage.objects.saturating_add_signed(objects);
        usage.versions += 1;
        usage.bytes += version.object().map_or(0, |o| o.size_bytes);
    }
}
