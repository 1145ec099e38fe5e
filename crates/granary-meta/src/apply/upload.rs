//! Multipart uploads.
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html>

use granary_types::hex;
use granary_types::limits::{OBJECT_BYTES_MAX, PART_BYTES_MAX, PART_BYTES_MIN, PARTS_COUNT_MAX};
use granary_types::{BucketId, Checksum, ChecksumAlgorithm, ObjectKey, Timestamp, UploadId};
use md5::{Digest as _, Md5};

use super::{Cx, Step};
use crate::command::{CompletedPart, Condition, Outcome, Refusal};
use crate::events::EventKind;
use crate::index::Family;
use crate::index::entries::{Completion, UploadHead};
use crate::index::layout::{
    COMPLETION_COUNT, COMPLETION_QUEUE, completion_key, completion_queue_key, manifest_key, part_key, upload_key,
};
use crate::records::{
    EtagMode, ObjectRecord, PartOwner, PartPlace, PartRecord, Parts, UploadRecord, VersionBody, VersionRecord,
};

/// How long the answer to a completed upload is remembered for repeats.
const COMPLETION_KEPT_US: u64 = 24 * 3600 * 1_000_000;
/// How many answers are remembered at most.
const COMPLETIONS_COUNT_MAX: u64 = 100_000;
/// Completions forgotten with each new one, at most: more than one, so that the memory shrinks.
const COMPLETIONS_FORGOTTEN: usize = 4;

/// What CompleteMultipartUpload says.
pub(super) struct Complete<'c> {
    pub bucket: BucketId,
    pub key: &'c ObjectKey,
    pub upload: UploadId,
    pub parts: &'c [CompletedPart],
    pub checksum: Option<&'c Checksum>,
    pub size_bytes: Option<u64>,
    pub nonce: [u8; 8],
    pub condition: &'c Condition,
}

impl Cx<'_, '_> {
    pub(super) fn create_upload(&mut self, bucket: BucketId, upload: &UploadRecord) -> Step<Outcome> {
        let record = self.bucket(bucket)?;
        self.check_not_frozen(&record, upload.key.as_str())?;
        self.check_lockable(&record, &upload.attributes)?;
        if let (Some(algorithm), Some(kind)) = (upload.checksum_algorithm, upload.checksum_kind)
            && !algorithm.allows(kind)
        {
            return Err(Refusal::InvalidState("the checksum algorithm does not go with the checksum type").into());
        }
        let known = self.index.get::<UploadHead>(Family::Parts, &part_key(upload.id, 0))?.is_some();
        if known || self.completion(upload.id)?.is_some() || self.index.any(Family::Manifests, &upload.id.0)? {
            return Err(Refusal::InvalidState("the upload id is taken").into());
        }
        let head = UploadHead { bucket, key: upload.key.clone(), created: upload.created };
        self.batch.put(Family::Parts, &part_key(upload.id, 0), &head);
        self.batch.put(Family::Uploads, &upload_key(bucket, upload.key.as_str(), upload.created, upload.id), upload);
        self.batch.usage(bucket).uploads += 1;
        Ok(Outcome::Done)
    }

    pub(super) fn put_part(
        &mut self,
        bucket: BucketId,
        key: &ObjectKey,
        upload: UploadId,
        number: u16,
        part: &PartRecord,
        inline: Option<&[u8]>,
    ) -> Step<Outcome> {
        let record = self.bucket(bucket)?;
        self.index.upload_head(bucket, key, upload)?.ok_or(Refusal::NoSuchUpload)?;
        if number == 0 || u32::from(number) > PARTS_COUNT_MAX {
            return Err(Refusal::InvalidState("part numbers are 1 to 10,000").into());
        }
        if part.payload_bytes > PART_BYTES_MAX {
            return Err(Refusal::EntityTooLarge.into());
        }
        let part = &self.admit_part(bucket, part, inline)?;
        let old = self.index.part(upload, number)?;
        let old_bytes = old.as_ref().map_or(0, |p| p.payload_bytes);
        self.check_quota(&record, part.payload_bytes, old_bytes)?;
        if let Some(old) = &old {
            self.drop_part(bucket, old)?;
        }
        self.batch.put(Family::Parts, &part_key(upload, number), part);
        self.hold_part(bucket, part, inline, PartOwner::Upload { key: key.clone(), upload, number });
        let usage = self.batch.usage(bucket);
        usage.upload_bytes = usage.upload_bytes.saturating_sub(old_bytes) + part.payload_bytes;
        Ok(Outcome::Done)
    }

    pub(super) fn abort_upload(&mut self, bucket: BucketId, key: &ObjectKey, upload: UploadId) -> Step<Outcome> {
        self.bucket(bucket)?;
        let head = self.index.upload_head(bucket, key, upload)?.ok_or(Refusal::NoSuchUpload)?;
        let mut bytes = 0;
        for (number, part) in self.index.parts(upload, 0, usize::MAX)? {
            self.drop_part(bucket, &part)?;
            self.batch.delete(Family::Parts, &part_key(upload, number));
            bytes += part.payload_bytes;
        }
        self.end_upload(bucket, key, head.created, upload, bytes);
        Ok(Outcome::Done)
    }

    fn end_upload(&mut self, bucket: BucketId, key: &ObjectKey, created: Timestamp, upload: UploadId, bytes: u64) {
        self.delete_upload_record(bucket, key.as_str(), created, upload);
        let usage = self.batch.usage(bucket);
        usage.uploads = usage.uploads.saturating_sub(1);
        usage.upload_bytes = usage.upload_bytes.saturating_sub(bytes);
    }

    pub(super) fn complete_upload(&mut self, wanted: Complete<'_>) -> Step<Outcome> {
        let Complete { bucket, key, upload, .. } = wanted;
        let slot = self.slot(bucket, key)?;
        let digest = digest_of(wanted.parts);
        let Some(head) = self.index.upload_head(bucket, key, upload)? else {
            return match self.completion(upload)? {
                Some(c) if c.bucket == bucket && c.key == *key && c.parts_digest == digest => Ok(Outcome::Put {
                    version: c.version,
                    created: c.created,
                    etag: c.etag,
                    checksum: c.checksum,
                    size_bytes: c.size_bytes,
                }),
                _ => Err(Refusal::NoSuchUpload.into()),
            };
        };
        let record = self.index.upload(bucket, key, upload)?.ok_or(Refusal::NoSuchUpload)?;
        let (named, unnamed) = choose(wanted.parts, self.index.parts(upload, 0, usize::MAX)?)?;
        let size_bytes = size_of(&named)?;
        if wanted.size_bytes.is_some_and(|claimed| claimed != size_bytes) {
            return Err(Refusal::BadSize.into());
        }
        let checksum = checksum_of(&record, &named);
        check_claim(wanted.checksum, checksum.as_ref(), &named)?;
        self.check_overwrite(&slot, wanted.condition)?;
        let replaced = self.replaced(&slot)?;
        if let Some(replaced) = &replaced {
            self.check_unlocked(replaced, false)?;
        }
        self.check_quota_objects(&slot.bucket, replaced.is_some())?;

        let created = slot.next_created(self.at);
        let version = slot.next_version(created, wanted.nonce);
        let mut attributes = record.attributes;
        attributes.retention = self.retention_of_new(&slot.bucket, attributes.retention, created);
        let count = named.len() as u32;
        let etag = etag_of(record.etag, &named);
        let object = ObjectRecord {
            size_bytes,
            etag: etag.clone(),
            checksum: checksum.clone(),
            parts: Parts::Manifest { id: upload, count },
            attributes,
        };
        let new = VersionRecord { version, created, body: VersionBody::Object(Box::new(object)) };
        self.install(&slot, replaced.as_ref(), &new)?;

        let mut upload_bytes = size_bytes;
        for (position, (number, part)) in (0u32..).zip(&named) {
            self.batch.delete(Family::Parts, &part_key(upload, *number));
            self.batch.put(Family::Manifests, &manifest_key(upload, position), part);
            if part.place != PartPlace::Inline {
                self.hold_part(bucket, part, None, PartOwner::Manifest { id: upload, position });
            }
        }
        for (number, part) in &unnamed {
            self.batch.delete(Family::Parts, &part_key(upload, *number));
            self.drop_part(bucket, part)?;
            upload_bytes += part.payload_bytes;
        }
        self.end_upload(bucket, key, head.created, upload, upload_bytes);
        let at = self.at;
        let remembered = Completion {
            bucket,
            key: key.clone(),
            parts_digest: digest,
            version,
            created,
            etag: etag.clone(),
            checksum: checksum.clone(),
            size_bytes,
            at,
        };
        self.remember(upload, &remembered)?;
        self.write_back(&slot.bucket, key, &new)?;
        self.notify(&slot.bucket, key, EventKind::CreatedComplete, &new);
        Ok(Outcome::Put { version, created, etag, checksum, size_bytes })
    }

    fn completion(&self, upload: UploadId) -> crate::error::Result<Option<Completion>> {
        self.index.get(Family::Sys, &completion_key(upload))
    }

    /// Remembers what a completed upload was answered and forgets some that are too old.
    fn remember(&mut self, upload: UploadId, completion: &Completion) -> Step<()> {
        let mut iter = self
            .index
            .db()
            .raw_iterator_cf_opt(self.index.family(Family::Sys), crate::index::bounded(COMPLETION_QUEUE));
        iter.seek(COMPLETION_QUEUE);
        let mut count: u64 = self.index.get(Family::Sys, COMPLETION_COUNT)?.unwrap_or(0);
        for _ in 0..COMPLETIONS_FORGOTTEN {
            let Some(entry) = iter.key() else { break };
            let (Some(at), Some(id)) = (entry.get(2..10), entry.get(10..26)) else {
                return Err(self.index.undecodable(Family::Sys, "completion queue key").into());
            };
            let at = u64::from_be_bytes(at.try_into().expect("eight bytes were taken"));
            if at.saturating_add(COMPLETION_KEPT_US) > self.at.0 && count < COMPLETIONS_COUNT_MAX {
                break;
            }
            count = count.saturating_sub(1);
            let id = UploadId(id.try_into().expect("sixteen bytes were taken"));
            self.batch.delete(Family::Sys, entry);
            self.batch.delete(Family::Sys, &completion_key(id));
            iter.next();
        }
        iter.status().map_err(|e| self.index.noticed(e))?;
        drop(iter);
        self.batch.put(Family::Sys, COMPLETION_COUNT, &(count + 1));
        self.batch.put(Family::Sys, &completion_key(upload), completion);
        self.batch.put_raw(Family::Sys, &completion_queue_key(completion.at, upload), &[]);
        Ok(())
    }
}

type Numbered = Vec<(u16, PartRecord)>;

/// The parts that were named, in order, and those that were not.
fn choose(wanted: &[CompletedPart], there: Numbered) -> Step<(Numbered, Numbered)> {
    if wanted.is_empty() {
        return Err(Refusal::InvalidState("at least one part must be named").into());
    }
    if wanted.windows(2).any(|w| w[0].number >= w[1].number) {
        return Err(Refusal::InvalidPartOrder.into());
    }
    let mut named = Vec::with_capacity(wanted.len());
    let mut unnamed = Vec::new();
    let mut there = there.into_iter().peekable();
    for want in wanted {
        while let Some(part) = there.next_if(|(number, _)| *number < want.number) {
            unnamed.push(part);
        }
        let wrong = Refusal::InvalidPart { number: want.number };
        let (number, part) = there.next_if(|(number, _)| *number == want.number).ok_or(wrong.clone())?;
        if want.etag.trim_matches('"') != part.etag {
            return Err(wrong.into());
        }
        if let Some(claimed) = &want.checksum {
            let same =
                part.checksum.as_ref().is_some_and(|c| c.algorithm == claimed.algorithm && c.value == claimed.value);
            if !same {
                return Err(wrong.into());
            }
        }
        named.push((number, part));
    }
    unnamed.extend(there);
    Ok((named, unnamed))
}

fn size_of(parts: &Numbered) -> Step<u64> {
    let mut total = 0u64;
    for (at, (number, part)) in parts.iter().enumerate() {
        if part.payload_bytes < PART_BYTES_MIN && at + 1 < parts.len() {
            return Err(Refusal::EntityTooSmall { number: *number, size_bytes: part.payload_bytes }.into());
        }
        total = total.checked_add(part.payload_bytes).ok_or(Refusal::EntityTooLarge)?;
    }
    if total > OBJECT_BYTES_MAX {
        return Err(Refusal::EntityTooLarge.into());
    }
    Ok(total)
}

fn checksums(parts: &Numbered) -> Option<Vec<(&Checksum, u64)>> {
    parts.iter().map(|(_, p)| p.checksum.as_ref().map(|c| (c, p.payload_bytes))).collect()
}

/// The object's checksum: of the algorithm and kind the upload announced; if it announced none, CRC-64/NVME
/// where all parts have that.
fn checksum_of(upload: &UploadRecord, parts: &Numbered) -> Option<Checksum> {
    let algorithm = upload.checksum_algorithm.unwrap_or(ChecksumAlgorithm::Crc64nvme);
    let kind = upload.checksum_kind.filter(|k| algorithm.allows(*k)).unwrap_or(algorithm.default_kind());
    Checksum::of_parts(algorithm, kind, &checksums(parts)?)
}

/// Refuses a claimed checksum that is not the parts'. One of an algorithm the upload did not announce is
/// computed from the parts' checksums, where they are of that algorithm.
fn check_claim(claimed: Option<&Checksum>, made: Option<&Checksum>, parts: &Numbered) -> Step<()> {
    let Some(claimed) = claimed else { return Ok(()) };
    let same = |c: &Checksum| c.algorithm == claimed.algorithm && c.value == claimed.value;
    if made.is_some_and(same) {
        return Ok(());
    }
    let of_parts = checksums(parts).and_then(|all| Checksum::of_parts(claimed.algorithm, claimed.kind, &all));
    if made.is_none() && of_parts.is_some_and(|c| same(&c)) {
        return Ok(());
    }
    Err(Refusal::BadChecksum.into())
}

/// `-N` ETag: MD5 over the parts' MD5s as S3 makes it, or an opaque hash over what identifies the parts.
fn etag_of(mode: EtagMode, parts: &Numbered) -> String {
    let mut hash = Md5::new();
    for (_, part) in parts {
        match (mode, unhex(&part.etag)) {
            (EtagMode::Md5, Some(md5)) => hash.update(md5),
            _ => {
                hash.update(part.etag.as_bytes());
                hash.update(part.id.0);
            }
        }
    }
    format!("{}-{}", hex::encode(hash.finalize()), parts.len())
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    text.parse::<granary_types::PartId>().ok().map(|id| id.0)
}

fn digest_of(parts: &[CompletedPart]) -> [u8; 16] {
    let mut hash = Md5::new();
    for part in parts {
        hash.update(part.number.to_le_bytes());
        hash.update((part.etag.len() as u64).to_le_bytes());
        hash.update(part.etag.as_bytes());
    }
    hash.finalize().into()
}
