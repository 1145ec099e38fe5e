//! What lifecycle does, one version at a time. The worker looks, time passes, then the command is applied: so
//! everything that it rests on is looked at again here, and whatever has changed meanwhile wins.

use granary_types::{BucketId, ObjectKey, Timestamp, VersionId};
use md5::{Digest as _, Md5};

use super::{Cx, Step};
use crate::command::{ExpireAction, Outcome, Refusal};
use crate::events::EventKind;
use crate::records::VersionRecord;

/// Name of the bucket's document that holds its lifecycle rules.
pub const LIFECYCLE_DOCUMENT: &str = "lifecycle";

/// Tells two lifecycle documents apart.
#[must_use]
pub fn document_digest(document: &[u8]) -> [u8; 16] {
    Md5::digest(document).into()
}

impl Cx<'_, '_> {
    pub(super) fn expire(
        &mut self,
        bucket: BucketId,
        key: &ObjectKey,
        (version, created): (VersionId, Timestamp),
        rules: &[u8; 16],
        action: &ExpireAction,
    ) -> Step<Outcome> {
        let slot = self.slot(bucket, key)?;
        let document = slot.bucket.documents.get(LIFECYCLE_DOCUMENT).ok_or(Refusal::Stale)?;
        if document_digest(document) != *rules {
            return Err(Refusal::Stale.into());
        }
        self.check_not_frozen(&slot.bucket, key.as_str())?;
        // What the upstream does not have yet must not go before it does.
        if !matches!(action, ExpireAction::Transition { .. }) && self.index.is_unwritten(bucket, key.as_str())? {
            return Err(Refusal::Stale.into());
        }
        let is_it = |there: &VersionRecord| there.version == version && there.created == created;
        let current = slot.current.as_ref().filter(|there| is_it(there)).cloned();
        match (action, current) {
            (ExpireAction::Current { nonce }, Some(current)) if !current.is_delete_marker() => {
                let kinds = [EventKind::ExpirationDelete, EventKind::ExpirationMarkerCreated];
                self.delete_current(&slot, *nonce, false, kinds)
            }
            (ExpireAction::Marker, Some(marker)) if marker.is_delete_marker() => {
                if self.index.newest_older(bucket, key)?.is_some() {
                    return Err(Refusal::Stale.into());
                }
                self.remove(&slot, &marker)?;
                self.notify(&slot.bucket, key, EventKind::ExpirationDelete, &marker);
                Ok(Outcome::Deleted { version: Some(version), delete_marker: true })
            }
            (ExpireAction::Noncurrent, None) if slot.current.is_some() => {
                let there = self.index.older_version(bucket, key, version)?.filter(is_it).ok_or(Refusal::Stale)?;
                self.check_unlocked(&there, false)?;
                self.remove(&slot, &there)?;
                self.notify(&slot.bucket, key, EventKind::ExpirationDelete, &there);
                Ok(Outcome::Deleted { version: Some(version), delete_marker: there.is_delete_marker() })
            }
            (ExpireAction::Transition { class }, current) => {
                let is_current = current.is_some();
                let older =
                    if is_current { None } else { self.index.older_version(bucket, key, version)?.filter(is_it) };
                let mut there = current.or(older).ok_or(Refusal::Stale)?;
                let object = there.object_mut().ok_or(Refusal::Stale)?;
                object.attributes.headers.storage_class.clone_from(class);
                self.put_back(&slot, &there, is_current);
                self.notify(&slot.bucket, key, EventKind::Transition, &there);
                Ok(Outcome::Done)
            }
            _ => Err(Refusal::Stale.into()),
        }
    }
}
