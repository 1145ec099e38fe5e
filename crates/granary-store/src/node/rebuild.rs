//! The last resort: an index rebuilt from the shards alone, when no drive has a log or a checkpoint left.
//!
//! What comes back: buckets (from the sealed table on each drive), objects and versions whose parts lie on drives, with
//! their keys, attributes, checksums and ETags, under the names they were written by (a rename is in the log only); what was appended to
//! them, as far as no part is missing; open uploads, and completed ones as open uploads again (or, where asked for, completed anew if
//! their parts are contiguous). What does not: objects and appends of at most the inline size (they live in the log and the index
//! only: an object whose last appends were that small comes back without them), tags and locks changed after the write, deletes whose shards
//! were not freed yet, creation times.

use std::collections::{BTreeMap, VecDeque};

use futures::StreamExt as _;
use granary_drive::api::ShardStore as _;
use granary_meta::command::{Command, CompletedPart, Condition, Refusal};
use granary_meta::records::{
    BlockName, BlockUse, EtagMode, FreshBlock, ObjectRecord, PartPlace, PartRecord, Parts, SharedPlace, UploadRecord,
};
use granary_types::{BucketId, ByteRange, DriveNo, ObjectKey, PartId, Placement, Scheme, Timestamp, UploadId};
use serde::Serialize;

use super::{Node, NodeError};
use crate::StoreError;
use crate::cache::Admit;
use crate::dedup::{RECIPE_BYTES_MAX, decode_recipe};
use crate::egress::{self, Piece};
use crate::header::{PartOf, ShardMeta};
use crate::sse::OpenLock;
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
    /// Appended parts that are with their objects again.
    pub appended: u64,
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
    /// Where its bytes are, of a part that is made of shared blocks.
    shared: Option<SharedPlace>,
}

/// What was appended to a key's object, by number, under the id that its parts share.
type Appends = BTreeMap<(BucketId, ObjectKey, UploadId), BTreeMap<u16, FoundPart>>;
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
        let mut appends = Appends::new();
        let mut blocks = BTreeMap::new();
        let mut parts = Vec::new();
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
                PartOf::Block { name } => {
                    blocks.insert(part.meta.part, self.fresh_block(&part, name));
                }
                _ => parts.push(part),
            }
        }
        for part in parts {
            let part = match self.part_of_blocks(part, &blocks).await {
                Ok(part) => part,
                Err(why) => {
                    report.lost_parts += 1;
                    report.note(why);
                    continue;
                }
            };
            match part.meta.of {
                PartOf::Object => objects.push(part),
                // Told apart above, and what a recipe is of took its place.
                PartOf::Block { .. } | PartOf::Recipe { .. } => {}
                PartOf::Append { manifest, number } => {
                    appends
                        .entry((part.meta.bucket, part.meta.key.clone(), manifest))
                        .or_default()
                        .insert(number, part);
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
        let mut written = BTreeMap::new();
        for part in objects {
            written.insert((part.meta.bucket, part.meta.key.clone()), part.meta.created);
            self.rebuild_object(part, &mut report).await?;
        }
        for ((bucket, key, manifest), parts) in appends {
            let base = written.get(&(bucket, key.clone())).copied();
            self.rebuild_appends((bucket, &key), base, manifest, parts, &mut report).await?;
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
                            found
                                .insert(shard.part, FoundPart { meta, scheme: info.spec.scheme, shards, shared: None });
                        }
                        Err(error) => report.note(format!("shard {shard} on {}: {error}", open.no)),
                    }
                }
            }
        }
        Ok(found)
    }

    fn fresh_block(&self, part: &FoundPart, name: BlockName) -> FreshBlock {
        let meta = &part.meta;
        let (payload_bytes, key) = (meta.payload_bytes, meta.data_key.clone());
        FreshBlock { name, id: meta.part, payload_bytes, key, placement: self.placement(part) }
    }

    /// A part whose recipe was found becomes what it is of, in the blocks that were found. Others are left as they are.
    ///
    /// # Errors
    /// Why it cannot be brought back, in words.
    async fn part_of_blocks(
        &self,
        mut part: FoundPart,
        found: &BTreeMap<PartId, FreshBlock>,
    ) -> Result<FoundPart, String> {
        let PartOf::Recipe { of, recipe_bytes } = &part.meta.of else { return Ok(part) };
        let (of, recipe_bytes) = ((**of).clone(), *recipe_bytes);
        let name = format!("part {} of {}/{}", part.meta.part, part.meta.bucket_name, part.meta.key);
        let recipe = self.placement(&part);
        let read = self.read_recipe(&part.meta, &recipe, recipe_bytes).await;
        let blocks = read.map_err(|error| format!("{name}: its recipe cannot be read: {error}"))?;
        let mut fresh = BTreeMap::new();
        for used in &blocks {
            match found.get(&used.block) {
                Some(block) if block.payload_bytes == used.payload_bytes => fresh.insert(block.id, block.clone()),
                _ => return Err(format!("{name}: block {} of it was not found", used.block)),
            };
        }
        let fresh = fresh.into_values().collect();
        part.shared = Some(SharedPlace { recipe, recipe_bytes, blocks, fresh });
        part.meta.of = of;
        Ok(part)
    }

    async fn read_recipe(
        &self,
        meta: &ShardMeta,
        placement: &Placement,
        recipe_bytes: u64,
    ) -> Result<Vec<BlockUse>, StoreError> {
        let inner = &self.store.inner;
        if recipe_bytes == 0 || recipe_bytes > RECIPE_BYTES_MAX as u64 {
            return Err(StoreError::Corrupt(format!("{recipe_bytes} bytes are no recipe")));
        }
        let bucket = inner.index()?.bucket_by_id(meta.bucket).ok_or(StoreError::NoSuchBucket)?;
        let part = PartRecord {
            id: meta.part,
            payload_bytes: recipe_bytes,
            key: meta.data_key.clone(),
            place: PartPlace::Drives(placement.clone()),
            etag: String::new(),
            checksum: None,
            created: meta.created,
        };
        let range = ByteRange { start: 0, end: recipe_bytes };
        let pieces = VecDeque::from([Piece { part, range, inline: None, guard: None }]);
        let keys = inner.bucket_keys(&bucket).await?;
        let mut body = egress::body(inner, bucket.id, keys, OpenLock::None, pieces, Admit::Never).await?;
        let mut bytes = Vec::new();
        while let Some(frame) = body.next().await {
            bytes.extend_from_slice(&frame?);
        }
        decode_recipe(&bytes, meta.payload_bytes)
    }

    /// The part's record.
    fn part_record(&self, part: &FoundPart) -> PartRecord {
        let meta = &part.meta;
        let place = match &part.shared {
            Some(shared) => PartPlace::Shared(Box::new(shared.clone())),
            None => PartPlace::Drives(self.placement(part)),
        };
        PartRecord {
            id: meta.part,
            payload_bytes: meta.payload_bytes,
            key: meta.data_key.clone(),
            place,
            etag: meta.etag.clone(),
            checksum: Some(meta.checksum.clone()),
            created: meta.created,
        }
    }

    /// Where the shards are, those that were not found marked as missing.
    fn placement(&self, part: &FoundPart) -> Placement {
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
        Placement { scheme: part.scheme, drives, missing }
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

    /// Appends what was appended to a key's object, in order, up to the first part that is missing. `base`: when the object that is
    /// current now was written.
    async fn rebuild_appends(
        &self,
        (bucket, key): (BucketId, &ObjectKey),
        base: Option<Timestamp>,
        manifest: UploadId,
        parts: BTreeMap<u16, FoundPart>,
        report: &mut RebuildReport,
    ) -> Result<(), NodeError> {
        let inner = &self.store.inner;
        let count = parts.len() as u64;
        let is_of_it = parts.first_key_value().zip(base).is_some_and(|((_, first), base)| first.meta.created >= base);
        if !is_of_it {
            report.lost_parts += count;
            report.note(format!("{count} parts that were appended to {key}: the object they belong to is not there"));
            return Ok(());
        }
        let mut done = 0;
        // The object itself is the first part.
        for ((number, part), wanted) in parts.into_iter().zip(2u16..) {
            let current = inner.index()?.current(bucket, key).map_err(crate::inner::from_meta)?;
            let Some((created, offset)) =
                current.as_ref().and_then(|record| record.object().map(|object| (record.created, object.size_bytes)))
            else {
                break;
            };
            if number != wanted {
                break;
            }
            let command = Command::Append {
                bucket,
                key: key.clone(),
                offset,
                base: created,
                part: Box::new(self.part_record(&part)),
                inline: None,
                manifest,
                condition: Condition::default(),
            };
            match inner.propose(command).await {
                Ok(_) => done += 1,
                Err(StoreError::Refused(refusal)) => {
                    report.note(format!("part {number} appended to {key}: {refusal}"));
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        report.appended += done;
        if done < count {
            report.lost_parts += count - done;
            report.note(format!("{} parts appended to {key} come behind one that is missing", count - done));
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
