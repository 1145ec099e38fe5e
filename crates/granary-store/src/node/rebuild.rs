//! The last resort: an index rebuilt from the shards alone, when no drive has a log or a checkpoint left.
//!
//! What comes back: buckets (from the sealed table on each drive), objects and versions whose parts lie on drives, with
//! their keys, attributes, checksums and ETags (without what was appended to them, and under the names they were written by); open uploads, and completed ones as open uploads again (or, where asked for,
//! completed anew if their parts are contiguous). What does not: objects of at most the inline size (they live in the
//! log and the index only), tags and locks changed after the write, deletes whose shards were not freed yet, creation times.

use std::collections::BTreeMap;

use granary_drive::api::ShardStore as _;
use granary_meta::command::{Command, CompletedPart, Condition, Refusal};
use granary_meta::records::{EtagMode, ObjectRecord, PartPlace, PartRecord, Parts, UploadRecord};
use granary_types::{BucketId, DriveNo, ObjectKey, PartId, Placement, Scheme, Timestamp, UploadId};
use serde::Serialize;

use super::{Node, NodeError};
use crate::StoreError;
use crate::header::{PartOf, ShardMeta};
use crate::tables;

/// Shards asked for per scan call.
const SCAN_SHARDS_MAX: usize = 256;

/// What a rebuild brought back.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RebuildReport {
    /// Buckets created.
    pub buckets: u64,
    /// Objects and versions written.
    pub objects: u64,
    /// Uploads opened again.
    pub uploads: u64,
    /// Of these, completed anew.
    pub completed: u64,
    /// Parts with fewer than `k` shards, or headers that do not open: not brought back.
    pub lost_parts: u64,
    /// What was passed over and why, in words (the first of them).
    pub notes: Vec<String>,
}

impl RebuildReport {
    fn note(&mut self, note: String) {
        tracing::warn!(note, "rebuild");
        if self.notes.len() < 100 {
            self.notes.push(note);
        }
    }
}

/// A part as the drives know it.
struct FoundPart {
    meta: ShardMeta,
    scheme: Scheme,
    shards: BTreeMap<u8, DriveNo>,
}

type Uploads = BTreeMap<(BucketId, ObjectKey, UploadId), BTreeMap<u16, FoundPart>>;

impl Node {
    /// Rebuilds the index from the drives. The node must have been opened with
    /// [`super::NodeOptions::accept_lost_metadata`], and its index must be empty.
    ///
    /// # Errors
    /// [`NodeError::Config`] if the index is not empty, or the error of a drive or the log.
    pub async fn rebuild_index(&self, complete_uploads: bool) -> Result<RebuildReport, NodeError> {
        let inner = &self.store.inner;
        if inner.index()?.buckets_count() > 0 {
            return Err(NodeError::Config("the index is not empty: there is nothing to rebuild".to_owned()));
        }
        let mut report = RebuildReport::default();
        self.rebuild_buckets(&mut report).await?;
        let found = self.find_parts(&mut report).await?;
        let mut objects = Vec::new();
        let mut uploads = Uploads::new();
        for part in found.into_values() {
            if part.shards.len() < usize::from(part.scheme.k) {
                report.lost_parts += 1;
                report.note(format!(
                    "part {} of {}/{}: {} of the {} shards needed",
                    part.meta.part,
                    part.meta.bucket_name,
                    part.meta.key,
                    part.shards.len(),
                    part.scheme.k
                ));
                continue;
            }
            match part.meta.of {
                PartOf::Object => objects.push(part),
                PartOf::Append { number, .. } => {
                    report.lost_parts += 1;
                    report.note(format!(
                        "part {number} of {}/{} was appended: the object comes back as it was first written",
                        part.meta.bucket_name, part.meta.key
                    ));
                }
                PartOf::Upload { upload, number } => {
                    let parts = uploads.entry((part.meta.bucket, part.meta.key.clone(), upload)).or_default();
                    // A part that was uploaded twice: the later one counts.
                    match parts.get(&number) {
                        Some(other) if other.meta.created >= part.meta.created => {}
                        _ => {
                            parts.insert(number, part);
                        }
                    }
                }
            }
        }
        // In the order they were written, so that of a key's states the last one is current.
        objects.sort_by_key(|part| part.meta.created);
        for part in objects {
            self.rebuild_object(part, &mut report).await?;
        }
        for ((bucket, key, upload), parts) in uploads {
            self.rebuild_upload(bucket, key, upload, parts, complete_uploads, &mut report).await?;
        }
        Ok(report)
    }

    async fn rebuild_buckets(&self, report: &mut RebuildReport) -> Result<(), NodeError> {
        let folders: Vec<_> = self.open.lock().iter().map(|open| open.path.clone()).collect();
        let mut newest = None;
        for folder in folders {
            let path = folder.join(tables::BUCKET_TABLE_FILE);
            let written = std::fs::metadata(&path).and_then(|meta| meta.modified()).ok();
            match tables::read(&self.store.inner.header_key, &path) {
                // The table that opening this node has just written over an empty index does not count.
                Ok(table) if table.is_empty() => {}
                Ok(table) if newest.as_ref().is_none_or(|(when, _)| *when < written) => newest = Some((written, table)),
                Ok(_) => {}
                Err(error) => report.note(error.to_string()),
            }
        }
        let Some((_, table)) = newest else {
            return Err(NodeError::Config("no drive has a readable bucket table: nothing can be rebuilt".to_owned()));
        };
        for bucket in table {
            self.store.inner.propose(Command::CreateBucket(Box::new(bucket))).await?;
            report.buckets += 1;
        }
        Ok(())
    }

    async fn find_parts(&self, report: &mut RebuildReport) -> Result<BTreeMap<PartId, FoundPart>, NodeError> {
        let drives = self.open.lock().clone();
        let mut found: BTreeMap<PartId, FoundPart> = BTreeMap::new();
        for open in drives {
            let mut after = None;
            loop {
                let page = open.drive.scan(after, SCAN_SHARDS_MAX).await?;
                let Some(last) = page.last() else { break };
                after = Some(last.spec.shard);
                for info in page {
                    let shard = info.spec.shard;
                    if let Some(part) = found.get_mut(&shard.part) {
                        part.shards.insert(shard.index, open.no);
                        continue;
                    }
                    let opened = match open.drive.header(shard).await {
                        Ok((_, sealed)) => {
                            ShardMeta::open(&self.store.inner, shard.part, &sealed).map_err(NodeError::from)
                        }
                        Err(error) => Err(error.into()),
                    };
                    match opened {
                        Ok(meta) => {
                            let shards = BTreeMap::from([(shard.index, open.no)]);
                            found.insert(shard.part, FoundPart { meta, scheme: info.spec.scheme, shards });
                        }
                        Err(error) => report.note(format!("shard {shard} on {}: {error}", open.no)),
                    }
                }
            }
        }
        Ok(found)
    }

    /// The part's record, with the shards that were not found marked as missing.
    fn part_record(&self, part: &FoundPart) -> PartRecord {
        let width = part.scheme.width();
        let mut spare: Vec<DriveNo> = self
            .open
            .lock()
            .iter()
            .map(|open| open.no)
            .filter(|no| !part.shards.values().any(|used| used == no))
            .collect();
        let mut missing = 0u32;
        let drives = (0..width)
            .map(|index| {
                part.shards.get(&(index as u8)).copied().unwrap_or_else(|| {
                    missing |= 1 << index;
                    // Any number that is not in use: the shard is not there, and repair chooses a place for it.
                    spare.pop().unwrap_or(DriveNo(u16::MAX - index as u16))
                })
            })
            .collect();
        let meta = &part.meta;
        PartRecord {
            id: meta.part,
            payload_bytes: meta.payload_bytes,
            key: meta.data_key.clone(),
            place: PartPlace::Drives(Placement { scheme: part.scheme, drives, missing }),
            etag: meta.etag.clone(),
            checksum: Some(meta.checksum.clone()),
            created: meta.created,
        }
    }

    async fn rebuild_object(&self, part: FoundPart, report: &mut RebuildReport) -> Result<(), NodeError> {
        let record = self.part_record(&part);
        let meta = part.meta;
        let object = ObjectRecord {
            size_bytes: meta.payload_bytes,
            etag: meta.etag,
            checksum: Some(meta.checksum),
            parts: Parts::One(Box::new(record)),
            attributes: meta.attributes.unwrap_or_default(),
        };
        let command = Command::PutVersion {
            bucket: meta.bucket,
            key: meta.key.clone(),
            object: Box::new(object),
            inline: None,
            nonce: rand::random(),
            condition: Condition::default(),
        };
        match self.store.inner.propose(command).await {
            Ok(_) => report.objects += 1,
            Err(StoreError::Refused(refusal)) => {
                report.note(format!("{}/{}: {refusal}", meta.bucket_name, meta.key));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn rebuild_upload(
        &self,
        bucket: BucketId,
        key: ObjectKey,
        upload: UploadId,
        parts: BTreeMap<u16, FoundPart>,
        complete: bool,
        report: &mut RebuildReport,
    ) -> Result<(), NodeError> {
        let inner = &self.store.inner;
        let Some(first) = parts.values().next() else { return Ok(()) };
        let md5_etags = first.meta.etag != first.meta.part.to_string();
        let record = UploadRecord {
            id: upload,
            key: key.clone(),
            created: parts.values().map(|part| part.meta.created).min().unwrap_or(Timestamp(0)),
            attributes: first.meta.attributes.clone().unwrap_or_default(),
            checksum_algorithm: Some(first.meta.checksum.algorithm),
            checksum_kind: None,
            etag: if md5_etags { EtagMode::Md5 } else { EtagMode::Opaque },
        };
        match inner.propose(Command::CreateUpload { bucket, upload: Box::new(record) }).await {
            Ok(_) => report.uploads += 1,
            Err(StoreError::Refused(refusal)) => {
                report.note(format!("upload {upload} of {key}: {refusal}"));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        let contiguous = parts.keys().copied().eq(1..=parts.len() as u16);
        let mut named = Vec::new();
        for (number, part) in parts {
            let part = Box::new(self.part_record(&part));
            named.push(CompletedPart { number, etag: part.etag.clone(), checksum: None });
            inner.propose(Command::PutPart { bucket, key: key.clone(), upload, number, part, inline: None }).await?;
        }
        if !complete || !contiguous {
            return Ok(());
        }
        let command = Command::CompleteUpload {
            bucket,
            key: key.clone(),
            upload,
            parts: named,
            checksum: None,
            size_bytes: None,
            nonce: rand::random(),
            condition: Condition::default(),
        };
        match inner.propose(command).await {
            Ok(_) => report.completed += 1,
            Err(StoreError::Refused(refusal @ (Refusal::EntityTooSmall { .. } | Refusal::WriteOnce))) => {
                report.note(format!("upload {upload} of {key} stays open: {refusal}"));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}
