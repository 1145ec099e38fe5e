//! The live index, wherever it is at the moment.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use granary_types::{BucketId, BucketName, DriveId, DriveNo, ObjectKey, PartId, Timestamp, UploadId, VersionId};

use super::list::{ObjectPage, UploadPage, VersionPage};
use super::{DriveEntry, EventQueue, Index, Usage, WithInline};
use crate::error::{MetaError, Result};
use crate::events::EventRecord;
use crate::records::{BucketRecord, PartRecord, PartRef, UploadRecord, VersionRecord};

/// The live index: cheap to clone, loads without a lock, and follows the index when it is restored elsewhere
/// after a failure. While that goes on, everything here fails with [`MetaError::Unavailable`].
#[derive(Debug, Clone, Default)]
pub struct IndexHandle(Arc<ArcSwapOption<Index>>);

impl IndexHandle {
    /// A handle to `index`.
    #[must_use]
    pub fn new(index: Arc<Index>) -> Self {
        Self(Arc::new(ArcSwapOption::from(Some(index))))
    }

    /// The index as it is now. Hold it for one request, not longer: a restore waits for all holders.
    ///
    /// # Errors
    /// [`MetaError::Unavailable`] while it is being restored.
    pub fn load(&self) -> Result<Arc<Index>> {
        self.0.load_full().ok_or_else(|| MetaError::Unavailable("the index is being restored".to_owned()))
    }

    pub(crate) fn set(&self, index: Arc<Index>) {
        self.0.store(Some(index));
    }

    pub(crate) fn take(&self) -> Option<Arc<Index>> {
        self.0.swap(None)
    }
}

/// Reads through the handle: each is [`Index`]'s method of the same name, with its errors, on the index of the moment.
macro_rules! reads {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) -> $out:ty, $how:ident;)*) => {
        impl IndexHandle {
            $($(#[$doc])*
            ///
            /// # Errors
            /// [`MetaError::Unavailable`] while the index is being restored; the index's own.
            pub fn $name(&self, $($arg: $type),*) -> Result<$out> {
                let guard = self.0.load();
                let Some(index) = guard.as_ref() else {
                    return Err(MetaError::Unavailable("the index is being restored".to_owned()));
                };
                reads!(@$how index.$name($($arg),*))
            })*
        }
    };
    (@plain $e:expr) => { Ok($e) };
    (@fallible $e:expr) => { $e };
}

reads! {
    /// A bucket by name.
    bucket(name: &BucketName) -> Option<Arc<BucketRecord>>, plain;
    /// A bucket by id.
    bucket_by_id(id: BucketId) -> Option<Arc<BucketRecord>>, plain;
    /// All buckets in name order.
    list_buckets() -> Vec<Arc<BucketRecord>>, plain;
    /// What a bucket holds.
    usage(bucket: BucketId) -> Usage, plain;
    /// The drive table in number order, retired drives among them.
    drives() -> Vec<DriveEntry>, plain;
    /// A drive by number.
    drive(number: DriveNo) -> Option<DriveEntry>, plain;
    /// A drive's number.
    drive_number(drive: DriveId) -> Option<DriveNo>, plain;
    /// The current version of a key.
    current(bucket: BucketId, key: &ObjectKey) -> Option<VersionRecord>, fallible;
    /// One version of a key.
    version(bucket: BucketId, key: &ObjectKey, version: VersionId) -> Option<VersionRecord>, fallible;
    /// The current version with its inline chunk, read from one state.
    current_with_inline(bucket: BucketId, key: &ObjectKey) -> Option<WithInline>, fallible;
    /// One version with its inline chunk, read from one state.
    version_with_inline(bucket: BucketId, key: &ObjectKey, version: VersionId) -> Option<WithInline>, fallible;
    /// The sealed chunk of an inline part; `None` if its owner is gone.
    inline(part: PartId) -> Option<Bytes>, fallible;
    /// A multipart object's parts; `None` if its owner is gone.
    manifest(id: UploadId) -> Option<Vec<PartRecord>>, fallible;
    /// Up to `limit` parts of a manifest from position `from`.
    manifest_range(id: UploadId, from: u32, limit: usize) -> Vec<PartRecord>, fallible;
    /// Who refers to a part on drives.
    part_ref(part: PartId) -> Option<PartRef>, fallible;
    /// Up to `limit` references after part `after`, in id order.
    part_refs(after: Option<PartId>, limit: usize) -> Vec<(PartId, PartRef)>, fallible;
    /// Up to `limit` garbage parts after `after`, oldest first.
    garbage(after: Option<(Timestamp, PartId)>, limit: usize) -> Vec<(PartId, PartRef)>, fallible;
    /// A system record.
    system(name: &str) -> Option<Bytes>, fallible;
    /// System records whose names begin with `prefix`.
    systems(prefix: &str) -> Vec<(String, Bytes)>, fallible;
    /// Up to `limit` events of a target behind number `after`.
    events(target: &str, after: u64, limit: usize) -> Vec<EventRecord>, fallible;
    /// What is known of a target's queue.
    event_queue(target: &str) -> EventQueue, fallible;
    /// All targets that events were ever enqueued for.
    event_queues() -> Vec<(String, EventQueue)>, fallible;
    /// An open upload of this bucket and key.
    upload(bucket: BucketId, key: &ObjectKey, upload: UploadId) -> Option<UploadRecord>, fallible;
    /// One part of an open upload.
    part(upload: UploadId, number: u16) -> Option<PartRecord>, fallible;
    /// Up to `limit` parts of an open upload with numbers over `after`.
    parts(upload: UploadId, after: u16, limit: usize) -> Vec<(u16, PartRecord)>, fallible;
    /// A page of current objects.
    list(bucket: BucketId, prefix: &str, delimiter: Option<&str>, after: Option<&str>, max: u32) -> ObjectPage, fallible;
    /// A page of versions.
    list_versions(bucket: BucketId, prefix: &str, delimiter: Option<&str>, key_marker: Option<&str>, version_marker: Option<VersionId>, max: u32) -> VersionPage, fallible;
    /// A page of open uploads.
    list_uploads(bucket: BucketId, prefix: &str, delimiter: Option<&str>, key_marker: Option<&str>, upload_marker: Option<UploadId>, max: u32) -> UploadPage, fallible;
}
