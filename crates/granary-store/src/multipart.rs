//! Multipart uploads. Parts are independent bodies; completing is a metadata act.

use std::sync::Arc;

use granary_meta::command::{Command, CompletedPart, Condition, Outcome, Refusal};
use granary_meta::records::{Sse, UploadRecord};
use granary_types::limits::PARTS_COUNT_MAX;
use granary_types::{BucketName, ChecksumKind, ObjectKey, UploadId};

use crate::api::{
    Claims, CompleteRequest, CopySource, CreateUploadRequest, CustomerKey, ListPartsPage, PutResponse, Result,
    UploadPartRequest, UploadedPart,
};
use crate::error::StoreError;
use crate::header::PartOf;
use crate::ingest::IngestSpec;
use crate::inner::{Inner, from_meta};
use crate::objects::{FoundSource, copy_body, put_response, shown, unexpected, with_default_retention};
use crate::sse::{SseError, check_part};

impl Inner {
    pub(crate) async fn create_upload(&self, request: CreateUploadRequest) -> Result<UploadRecord> {
        let bucket = self.bucket(&request.bucket)?;
        self.check_before_body(&bucket, &request.key, &Condition::default())?;
        if let (Some(algorithm), Some(kind)) = (request.checksum_algorithm, request.checksum_kind)
            && !algorithm.allows(kind)
        {
            return Err(StoreError::Invalid(format!(
                "the {kind:?} checksum type cannot be used with the {} checksum algorithm",
                algorithm.name()
            )));
        }
        let created = self.clock.now();
        let mut attributes = with_default_retention(&bucket, request.attributes, created);
        self.settle_sse(&mut attributes.sse).await?;
        let upload = UploadRecord {
            id: UploadId::random(),
            key: request.key,
            created,
            attributes,
            checksum_algorithm: request.checksum_algorithm,
            checksum_kind: request.checksum_kind,
            etag: bucket.options.etag,
        };
        self.propose(Command::CreateUpload { bucket: bucket.id, upload: Box::new(upload.clone()) }).await?;
        Ok(upload)
    }

    fn upload(&self, bucket: granary_types::BucketId, key: &ObjectKey, upload: UploadId) -> Result<UploadRecord> {
        self.index()?.upload(bucket, key, upload).map_err(from_meta)?.ok_or(StoreError::NoSuchUpload)
    }

    pub(crate) async fn upload_part(&self, request: UploadPartRequest) -> Result<UploadedPart> {
        let bucket = self.bucket(&request.bucket)?;
        check_number(request.number)?;
        let upload = self.upload(bucket.id, &request.key, request.upload)?;
        if let Some(quota) = bucket.options.quota_bytes {
            let usage = self.index()?.usage(bucket.id);
            let then = usage.bytes.saturating_add(usage.upload_bytes).saturating_add(request.size_bytes);
            let replaces = self.index()?.part(upload.id, request.number).map_err(from_meta)?.is_some();
            // Only a courtesy, as in `check_quota_before_body`.
            if then > quota && !replaces {
                return Err(Refusal::QuotaExceeded.into());
            }
        }
        let UploadPartRequest { key, number, size_bytes, mut claims, customer_key, body, .. } = request;
        check_part(&upload.attributes.sse, customer_key.as_ref())?;
        if let Some(announced) = upload.checksum_algorithm {
            // S3 stores every part's checksum in the upload's algorithm; a claim in another is an error.
            match &claims.checksum {
                Some(claimed) if claimed.algorithm != announced => {
                    return Err(StoreError::Contradiction(format!(
                        "Checksum Type mismatch occurred, expected checksum Type: {}, actual checksum Type: {}",
                        announced.name().to_ascii_lowercase(),
                        claimed.algorithm.name().to_ascii_lowercase()
                    )));
                }
                _ => claims.algorithm = Some(announced),
            }
        }
        let of = PartOf::Upload { upload: upload.id, number };
        let attributes = &upload.attributes;
        let customer_key = customer_key.as_ref();
        let spec =
            IngestSpec { bucket: &bucket, key: &key, of, size_bytes, etag: upload.etag, attributes, customer_key };
        let ingested = self.ingest(spec, claims, body).await?;
        let part = ingested.part;
        let command = Command::PutPart {
            bucket: bucket.id,
            key,
            upload: upload.id,
            number,
            part: Box::new(part.clone()),
            inline: ingested.inline,
        };
        self.propose(command).await?;
        Ok(UploadedPart { part, sse: upload.attributes.sse, source_version: None })
    }

    pub(crate) async fn upload_part_copy(
        self: &Arc<Self>,
        source: CopySource,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: UploadId,
        number: u16,
        customer_key: Option<CustomerKey>,
    ) -> Result<UploadedPart> {
        check_number(number)?;
        self.ensure_here(&source.bucket, &source.key, source.version).await?;
        let FoundSource { bucket: source_bucket, record, inline, range } = self.copy_source(&source)?;
        let object = record.object().ok_or(StoreError::NoSuchKey { delete_marker: None })?;
        let target = self.bucket(bucket)?;
        let begun = self.upload(target.id, key, upload)?;
        check_part(&begun.attributes.sse, customer_key.as_ref())?;
        let body = self.read(&source_bucket, object, inline, range, &source.unlock).await?;
        let request = UploadPartRequest {
            bucket: bucket.clone(),
            key: key.clone(),
            upload,
            number,
            size_bytes: range.len(),
            claims: Claims { md5: None, checksum: None, algorithm: None, trailer: None },
            customer_key,
            body: copy_body(body),
        };
        let uploaded = self.upload_part(request).await?;
        Ok(UploadedPart { source_version: shown(&source_bucket, record.version), ..uploaded })
    }

    pub(crate) async fn complete_upload(&self, request: CompleteRequest) -> Result<PutResponse> {
        let bucket = self.bucket(&request.bucket)?;
        if request.parts.is_empty() {
            return Err(StoreError::Invalid("a multipart upload is completed with at least one part".to_owned()));
        }
        if request.parts.len() > PARTS_COUNT_MAX as usize {
            return Err(StoreError::Invalid(format!("a multipart upload has at most {PARTS_COUNT_MAX} parts")));
        }
        let CompleteRequest { key, upload, parts, checksum, size_bytes, condition, customer_key, .. } = request;
        // Of an upload that was completed before, the answer is repeated: what it was begun with is in its object.
        if let Some(begun) = self.index()?.upload(bucket.id, &key, upload).map_err(from_meta)? {
            check_composite(&begun, &parts)?;
            match (&begun.attributes.sse, &customer_key) {
                (Sse::Customer { .. }, None) if begun.checksum_algorithm.is_some() => {
                    return Err(SseError::CompleteNeedsKey.into());
                }
                (Sse::Customer { .. }, None) => {}
                (sse, key) => check_part(sse, key.as_ref())?,
            }
        }
        let completed = key.clone();
        let command = Command::CompleteUpload {
            bucket: bucket.id,
            key,
            upload,
            parts,
            checksum,
            size_bytes,
            nonce: rand::random(),
            condition,
        };
        let outcome = self.propose(command).await?;
        let sse = match &outcome {
            Outcome::Put { version, .. } => {
                let record = self.index()?.version(bucket.id, &completed, *version).map_err(from_meta)?;
                record.and_then(|record| record.object().map(|object| object.attributes.sse.clone()))
            }
            _ => None,
        };
        put_response(&bucket, outcome, sse.unwrap_or_default())
    }

    pub(crate) async fn abort_upload(&self, bucket: &BucketName, key: &ObjectKey, upload: UploadId) -> Result<()> {
        let bucket = self.bucket(bucket)?;
        let command = Command::AbortUpload { bucket: bucket.id, key: key.clone(), upload };
        match self.propose(command).await {
            Ok(Outcome::Done) => Ok(()),
            Ok(other) => Err(unexpected(&other)),
            Err(StoreError::Refused(Refusal::NoSuchUpload)) => Err(StoreError::NoSuchUpload),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn list_parts(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: UploadId,
        marker: u16,
        limit: u32,
    ) -> Result<ListPartsPage> {
        let bucket = self.bucket(bucket)?;
        let upload = self.upload(bucket.id, key, upload)?;
        let limit = limit.min(granary_types::limits::LIST_KEYS_MAX) as usize;
        // One more than asked tells whether there is more.
        let mut parts = self.index()?.parts(upload.id, marker, limit + 1).map_err(from_meta)?;
        let more = parts.len() > limit;
        parts.truncate(limit);
        let next = if more { parts.last().map(|(number, _)| *number).or(Some(marker)) } else { None };
        Ok(ListPartsPage { upload, parts, next })
    }
}

/// A composite checksum is made of its parts', and S3 asks for each of them again.
fn check_composite(begun: &UploadRecord, parts: &[CompletedPart]) -> Result<()> {
    let Some(algorithm) = begun.checksum_algorithm.filter(|_| begun.checksum_kind == Some(ChecksumKind::Composite))
    else {
        return Ok(());
    };
    match parts.iter().find(|part| part.checksum.is_none()) {
        None => Ok(()),
        Some(part) => Err(StoreError::Contradiction(format!(
            "The upload was created using a {} checksum. The complete request must include the checksum for each part. \
             It was missing for part {} in the request.",
            algorithm.name().to_ascii_lowercase(),
            part.number
        ))),
    }
}

fn check_number(number: u16) -> Result<()> {
    if number == 0 || u32::from(number) > PARTS_COUNT_MAX {
        return Err(StoreError::Invalid(format!("part number {number} is not between 1 and {PARTS_COUNT_MAX}")));
    }
    Ok(())
}
