//! Buckets.

use std::sync::Arc;

use granary_types::limits::BUCKETS_COUNT_MAX;
use granary_types::{BucketId, BucketName};

use super::{Cx, Step};
use crate::command::{BucketChange, Outcome, Refusal};
use crate::events::NOTIFICATION_DOCUMENT;
use crate::index::Family;
use crate::index::layout::bucket_key;
use crate::records::{BucketOptions, BucketRecord, Versioning};

impl Cx<'_, '_> {
    pub(super) fn bucket(&self, id: BucketId) -> Step<Arc<BucketRecord>> {
        self.index.bucket_by_id(id).ok_or_else(|| Refusal::NoSuchBucket.into())
    }

    fn bucket_named(&self, name: &BucketName) -> Step<Arc<BucketRecord>> {
        self.index.bucket(name).ok_or_else(|| Refusal::NoSuchBucket.into())
    }

    pub(super) fn create_bucket(&mut self, record: &BucketRecord) -> Step<Outcome> {
        if let Some(there) = self.index.bucket(&record.name) {
            return Err(Refusal::BucketExists { owner: there.owner.clone() }.into());
        }
        if self.index.buckets_count() >= BUCKETS_COUNT_MAX {
            return Err(Refusal::TooManyBuckets.into());
        }
        if self.index.bucket_by_id(record.id).is_some() {
            return Err(Refusal::InvalidState("the bucket id is taken").into());
        }
        let mut record = record.clone();
        if record.options.object_lock {
            record.versioning = Versioning::Enabled;
        }
        *self.batch.usage(record.id) = crate::index::Usage::default();
        self.batch.put_bucket(record);
        Ok(Outcome::Done)
    }

    pub(super) fn delete_bucket(&mut self, name: &BucketName) -> Step<Outcome> {
        let record = self.bucket_named(name)?;
        let prefix = bucket_key(record.id);
        for family in [Family::Current, Family::Versions, Family::Uploads] {
            if self.index.any(family, &prefix)? {
                return Err(Refusal::BucketNotEmpty.into());
            }
        }
        self.check_written_back(&record)?;
        self.batch.delete_bucket(&record);
        Ok(Outcome::Done)
    }

    pub(super) fn change_bucket(&mut self, name: &BucketName, change: &BucketChange) -> Step<Outcome> {
        let mut record = (*self.bucket_named(name)?).clone();
        match change {
            BucketChange::Versioning(to) => {
                check_versioning(&record, *to)?;
                record.versioning = *to;
            }
            BucketChange::Document { name, value: Some(value) } => {
                record.documents.insert(name.clone(), value.clone());
            }
            BucketChange::Document { name, value: None } => {
                record.documents.remove(name);
            }
            BucketChange::Options(options) => {
                check_options(&record, options)?;
                record.options = options.clone();
            }
            BucketChange::Key(key) => record.key = key.clone(),
            BucketChange::ObjectLock { default_retention, document } => {
                let mut options = record.options.clone();
                options.object_lock = true;
                options.default_retention = *default_retention;
                check_options(&record, &options)?;
                record.options = options;
                record.documents.insert("object-lock".to_owned(), document.clone());
            }
            BucketChange::Quota { bytes, objects } => {
                record.options.quota_bytes = *bytes;
                record.options.quota_objects = *objects;
            }
        }
        self.check_upstream(&record)?;
        if let BucketChange::Document { name, value: Some(_) } = change
            && name == NOTIFICATION_DOCUMENT
        {
            self.notify_test(&record);
        }
        self.batch.put_bucket(record);
        Ok(Outcome::Done)
    }
}

fn check_versioning(record: &BucketRecord, to: Versioning) -> Step<()> {
    match to {
        Versioning::Off if record.versioning != Versioning::Off => {
            Err(Refusal::InvalidState("versioning can be suspended, not switched off again").into())
        }
        Versioning::Suspended if record.options.object_lock => {
            Err(Refusal::InvalidState("versioning cannot be suspended while object lock is enabled").into())
        }
        _ => Ok(()),
    }
}

fn check_options(record: &BucketRecord, to: &BucketOptions) -> Step<()> {
    if record.options.object_lock && !to.object_lock {
        return Err(Refusal::InvalidState("object lock cannot be disabled").into());
    }
    // A pin is never lifted and never widened, by nobody.
    let pins = &record.options.regions;
    if !pins.is_empty() && (to.regions.is_empty() || !to.regions.iter().all(|region| pins.contains(region))) {
        return Err(Refusal::InvalidState("the regions that a bucket is pinned to can only be narrowed").into());
    }
    if to.object_lock && record.versioning != Versioning::Enabled {
        return Err(Refusal::InvalidState(
            "Versioning must be 'Enabled' on the bucket to apply a Object Lock configuration",
        )
        .into());
    }
    if to.default_retention.is_some() && !to.object_lock {
        return Err(Refusal::InvalidState("object lock is not enabled for the bucket").into());
    }
    Ok(())
}
