//! Listings: objects, versions, uploads. A page is exact as far as its `next` says, or it is an error.
//!
//! A common prefix is stepped over with one seek, so a page costs what it shows, whatever lies behind
//! the prefixes and however large the bucket is. Rules of `prefix`, `delimiter` and markers:
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html>.

use granary_types::{BucketId, ObjectKey, Timestamp, UploadId, VersionId};
use rocksdb::{DBRawIterator, ReadOptions};

use super::layout::{self, after_prefix, key_of_group, key_of_object};
use super::read::created_of;
use super::{Family, Index};
use crate::error::Result;
use crate::records::{UploadRecord, VersionRecord};

/// A page of current objects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ObjectPage {
    /// Objects, in key order; delete markers are not among them.
    pub objects: Vec<(String, VersionRecord)>,
    /// Common prefixes, in order.
    pub common_prefixes: Vec<String>,
    /// `Some` if there is more: pass it as `after`.
    pub next_after: Option<String>,
}

/// A page of versions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VersionPage {
    /// Key, record, whether it is the latest; in key order, newest first.
    pub versions: Vec<(String, VersionRecord, bool)>,
    /// Common prefixes, in order.
    pub common_prefixes: Vec<String>,
    /// `Some((key marker, version marker))` if there is more.
    pub next: Option<(String, Option<VersionId>)>,
}

/// A page of open uploads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UploadPage {
    /// Uploads by key, then by when they were begun.
    pub uploads: Vec<UploadRecord>,
    /// Common prefixes, in order.
    pub common_prefixes: Vec<String>,
    /// `Some((key marker, upload marker))` if there is more. The upload marker beside a common prefix means nothing.
    pub next: Option<(String, UploadId)>,
}

/// The common prefix of `key`: up to and with the first `delimiter` behind `prefix`.
fn common_prefix<'k>(key: &'k str, prefix: &str, delimiter: Option<&str>) -> Option<&'k str> {
    let delimiter = delimiter.filter(|d| !d.is_empty())?;
    let at = key.get(prefix.len()..)?.find(delimiter)?;
    key.get(..prefix.len() + at + delimiter.len())
}

/// A walk through one bucket's entries of one family, within a prefix.
struct Walk<'i> {
    index: &'i Index,
    family: Family,
    bucket: BucketId,
    iter: DBRawIterator<'i>,
}

impl<'i> Walk<'i> {
    fn new(index: &'i Index, family: Family, bucket: BucketId, prefix: &str, mut options: ReadOptions) -> Self {
        let start = layout::object_key(bucket, prefix);
        if let Some(end) = after_prefix(&start) {
            options.set_iterate_upper_bound(end);
        }
        let mut iter = index.db().raw_iterator_cf_opt(index.family(family), options);
        iter.seek(&start);
        Self { index, family, bucket, iter }
    }

    /// Moves to the first entry at or behind `target` (whole entry), never backwards before the prefix.
    fn seek(&mut self, target: &[u8]) {
        if self.iter.key().is_some_and(|k| k < target) {
            self.iter.seek(target);
        }
    }

    /// Moves behind everything that begins with `text`.
    fn skip_prefix(&mut self, text: &str) -> Result<()> {
        match after_prefix(&layout::object_key(self.bucket, text)) {
            Some(end) => self.seek(&end),
            // A bucket id of all ones and a key of all 0xff bytes: keys are UTF-8, so this cannot be.
            None => return Err(self.index.undecodable(self.family, "prefix without end")),
        }
        Ok(())
    }

    /// The key at hand; `None` at the end. An error of the iterator is an error, not the end.
    fn key(&self) -> Result<Option<&str>> {
        let Some(entry) = self.iter.key() else {
            return self.iter.status().map(|()| None).map_err(|e| self.index.noticed(e));
        };
        let key = match self.family {
            Family::Current => key_of_object(entry),
            _ => key_of_group(entry),
        };
        key.map(Some).ok_or_else(|| self.index.undecodable(self.family, "key is not UTF-8"))
    }

    fn record<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        match self.iter.value() {
            Some(value) => self.index.decode(self.family, value),
            None => Err(self.index.undecodable(self.family, "entry without value")),
        }
    }
}

/// Where a walk begins: behind `after`, and behind the whole common prefix that `after` is.
fn begin(walk: &mut Walk<'_>, prefix: &str, delimiter: Option<&str>, after: &str) -> Result<()> {
    if common_prefix(after, prefix, delimiter) == Some(after) && after.starts_with(prefix) {
        return walk.skip_prefix(after);
    }
    let mut target = layout::object_key(walk.bucket, after);
    match walk.family {
        Family::Current => target.push(0),
        _ => target.push(1),
    }
    walk.seek(&target);
    Ok(())
}

impl Index {
    /// Up to `max` objects and common prefixes of `bucket`, behind `after`.
    ///
    /// # Errors
    /// The index's; never a short page in place of one.
    pub fn list(
        &self,
        bucket: BucketId,
        prefix: &str,
        delimiter: Option<&str>,
        after: Option<&str>,
        max: u32,
    ) -> Result<ObjectPage> {
        let mut page = ObjectPage::default();
        if max == 0 {
            return Ok(page);
        }
        let max = max as usize;
        let mut walk = Walk::new(self, Family::Current, bucket, prefix, ReadOptions::default());
        if let Some(after) = after {
            begin(&mut walk, prefix, delimiter, after)?;
        }
        let mut last: Option<String> = None;
        while let Some(key) = walk.key()? {
            let record: VersionRecord = walk.record()?;
            if record.is_delete_marker() {
                walk.iter.next();
                continue;
            }
            if page.objects.len() + page.common_prefixes.len() == max {
                page.next_after = last;
                break;
            }
            match common_prefix(key, prefix, delimiter).map(str::to_owned) {
                Some(common) => {
                    walk.skip_prefix(&common)?;
                    last = Some(common.clone());
                    page.common_prefixes.push(common);
                }
                None => {
                    last = Some(key.to_owned());
                    page.objects.push((key.to_owned(), record));
                    walk.iter.next();
                }
            }
        }
        Ok(page)
    }

    /// Up to `max` versions (delete markers among them) and common prefixes, behind version
    /// `version_marker` of `key_marker`, or behind all of `key_marker` when no version is named.
    /// A marker naming a null version that has gone meanwhile begins its key anew: entries may come twice, none is missed.
    ///
    /// # Errors
    /// The index's; never a short page in place of one.
    pub fn list_versions(
        &self,
        bucket: BucketId,
        prefix: &str,
        delimiter: Option<&str>,
        key_marker: Option<&str>,
        version_marker: Option<VersionId>,
        max: u32,
    ) -> Result<VersionPage> {
        let mut page = VersionPage::default();
        if max == 0 {
            return Ok(page);
        }
        let max = max as usize;
        let snapshot = self.db().snapshot();
        let options = || {
            let mut options = ReadOptions::default();
            options.set_snapshot(&snapshot);
            options
        };
        let mut walk = Walk::new(self, Family::Current, bucket, prefix, options());
        let mut older = Walk::new(self, Family::Versions, bucket, prefix, options());
        // What of the first key was shown already: everything at least as new as this.
        let mut resume: Option<(String, Timestamp)> = None;
        if let Some(marker) = key_marker {
            match version_marker.filter(|_| common_prefix(marker, prefix, delimiter).is_none()) {
                None => begin(&mut walk, prefix, delimiter, marker)?,
                Some(version) => {
                    walk.seek(&layout::object_key(bucket, marker));
                    resume = self.created(bucket, marker, version)?.map(|created| (marker.to_owned(), created));
                }
            }
        }
        let mut last: Option<(String, Option<VersionId>)> = None;
        let shown = |page: &VersionPage| page.versions.len() + page.common_prefixes.len();
        while let Some(key) = walk.key()?.map(str::to_owned) {
            if let Some(common) = common_prefix(&key, prefix, delimiter).map(str::to_owned) {
                if shown(&page) == max {
                    page.next = last;
                    return Ok(page);
                }
                walk.skip_prefix(&common)?;
                last = Some((common.clone(), None));
                page.common_prefixes.push(common);
                continue;
            }
            let behind = resume.take().filter(|(k, _)| *k == key).map(|(_, created)| created);
            let wanted = |created: Timestamp| behind.is_none_or(|behind| created < behind);
            let current: VersionRecord = walk.record()?;
            if wanted(current.created) {
                if shown(&page) == max {
                    page.next = last;
                    return Ok(page);
                }
                last = Some((key.clone(), Some(current.version)));
                page.versions.push((key.clone(), current, true));
            }
            let mut start = layout::group_prefix(bucket, &key);
            if let Some(behind) = behind {
                start.extend_from_slice(&(!behind.0).to_be_bytes());
            }
            older.seek(&start);
            while older.key()? == Some(key.as_str()) {
                let record: VersionRecord = older.record()?;
                if wanted(record.created) {
                    if shown(&page) == max {
                        page.next = last;
                        return Ok(page);
                    }
                    last = Some((key.clone(), Some(record.version)));
                    page.versions.push((key.clone(), record, false));
                }
                older.iter.next();
            }
            walk.iter.next();
        }
        Ok(page)
    }

    /// When a version was created; of the null version only if it is still there.
    fn created(&self, bucket: BucketId, key: &str, version: VersionId) -> Result<Option<Timestamp>> {
        if !version.is_null() {
            return Ok(Some(created_of(version)));
        }
        let Some(key) = layout::owned_key(key) else { return Ok(None) };
        Ok(self.version(bucket, &key, version)?.map(|v| v.created))
    }

    /// Up to `max` open uploads and common prefixes, behind `upload_marker` of `key_marker`, or behind all
    /// uploads of `key_marker` when none is named. A marker naming an upload that has ended meanwhile begins its key anew.
    ///
    /// # Errors
    /// The index's; never a short page in place of one.
    pub fn list_uploads(
        &self,
        bucket: BucketId,
        prefix: &str,
        delimiter: Option<&str>,
        key_marker: Option<&str>,
        upload_marker: Option<UploadId>,
        max: u32,
    ) -> Result<UploadPage> {
        let mut page = UploadPage::default();
        if max == 0 {
            return Ok(page);
        }
        let max = max as usize;
        let mut walk = Walk::new(self, Family::Uploads, bucket, prefix, ReadOptions::default());
        if let Some(marker) = key_marker {
            match upload_marker.filter(|_| common_prefix(marker, prefix, delimiter).is_none()) {
                None => begin(&mut walk, prefix, delimiter, marker)?,
                Some(upload) => {
                    let head = layout::owned_key(marker).map(|k: ObjectKey| self.upload_head(bucket, &k, upload));
                    match head.transpose()?.flatten() {
                        None => walk.seek(&layout::group_prefix(bucket, marker)),
                        Some(head) => {
                            let mut target = layout::upload_key(bucket, marker, head.created, upload);
                            target.push(0);
                            walk.seek(&target);
                        }
                    }
                }
            }
        }
        let mut last: Option<(String, UploadId)> = None;
        while let Some(key) = walk.key()? {
            if page.uploads.len() + page.common_prefixes.len() == max {
                page.next = last;
                break;
            }
            match common_prefix(key, prefix, delimiter).map(str::to_owned) {
                Some(common) => {
                    walk.skip_prefix(&common)?;
                    last = Some((common.clone(), UploadId([0; 16])));
                    page.common_prefixes.push(common);
                }
                None => {
                    let record: UploadRecord = walk.record()?;
                    last = Some((key.to_owned(), record.id));
                    page.uploads.push(record);
                    walk.iter.next();
                }
            }
        }
        Ok(page)
    }
}
