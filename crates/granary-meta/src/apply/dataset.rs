//! Frozen datasets: prefixes under which nothing changes any more.
//!
//! The check is in [`Cx::install`] and [`Cx::remove`], through which every change of a key's history goes, so that no
//! command can go past it: whoever comes first in the log, a write or the freeze, is in the dataset or is refused.

use super::{Cx, Step};
use crate::command::{DatasetChange, Outcome, Refusal};
use crate::records::{BucketRecord, DATASETS_FOLDER, FrozenPrefix};

/// Frozen datasets in one bucket, at most.
const FROZEN_COUNT_MAX: usize = 1024;
/// Bytes of a dataset's prefix, at most.
const PREFIX_BYTES_MAX: usize = 900;

impl Cx<'_, '_> {
    pub(super) fn dataset(
        &mut self,
        bucket: &granary_types::BucketName,
        prefix: &str,
        change: &DatasetChange,
    ) -> Step<Outcome> {
        let mut record = (*self.index.bucket(bucket).ok_or(Refusal::NoSuchBucket)?).clone();
        let at = record.frozen.binary_search_by(|frozen| frozen.prefix.as_str().cmp(prefix));
        match (change, at) {
            (DatasetChange::Freeze, Ok(_)) => return Ok(Outcome::Done),
            (DatasetChange::Freeze, Err(at)) => {
                check_prefix(&record, prefix)?;
                let frozen = FrozenPrefix { prefix: prefix.to_owned(), since: self.at, manifest: None };
                record.frozen.insert(at, frozen);
            }
            (DatasetChange::Manifest(manifest), Ok(at)) => match &record.frozen[at].manifest {
                Some(there) if there == manifest => return Ok(Outcome::Done),
                Some(_) => return Err(Refusal::InvalidState("the dataset has another manifest already").into()),
                None => record.frozen[at].manifest = Some(manifest.clone()),
            },
            (DatasetChange::Thaw, Ok(at)) => drop(record.frozen.remove(at)),
            (DatasetChange::Manifest(_) | DatasetChange::Thaw, Err(_)) => {
                return Err(Refusal::InvalidState("the dataset is not frozen").into());
            }
        }
        self.batch.put_bucket(record);
        Ok(Outcome::Done)
    }

    /// Refuses a change of `key`, if it belongs to a frozen dataset.
    pub(super) fn check_not_frozen(&self, bucket: &BucketRecord, key: &str) -> Step<()> {
        match bucket.frozen(key) {
            Some(frozen) => Err(Refusal::Frozen { prefix: frozen.prefix.clone() }.into()),
            None => Ok(()),
        }
    }
}

fn check_prefix(record: &BucketRecord, prefix: &str) -> Step<()> {
    // Its manifest's key has to fit, too.
    if prefix.len() < 2 || !prefix.ends_with('/') || prefix.len() > PREFIX_BYTES_MAX {
        return Err(Refusal::InvalidState("a dataset is a prefix that ends in a slash, of at most 900 bytes").into());
    }
    if prefix.starts_with(DATASETS_FOLDER) || DATASETS_FOLDER.starts_with(prefix) {
        return Err(Refusal::InvalidState("the folder of manifests cannot be a dataset").into());
    }
    if record.frozen.len() >= FROZEN_COUNT_MAX {
        return Err(Refusal::InvalidState("the bucket has 1,024 frozen datasets, which is the most").into());
    }
    if record.frozen.iter().any(|f| f.prefix.starts_with(prefix) || prefix.starts_with(&f.prefix)) {
        return Err(Refusal::InvalidState("a frozen dataset lies within this prefix, or it within one").into());
    }
    Ok(())
}
