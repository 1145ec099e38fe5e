//! Appending to an object, and giving it another key. Both are acts of metadata: no byte that is there is read or written.

use futures::StreamExt as _;
use granary_meta::command::{Command, EtagMatch, Refusal};
use granary_meta::records::{EtagMode, ObjectRecord, Parts, VersionRecord, Versioning};
use granary_types::UploadId;
use granary_types::limits::PARTS_COUNT_MAX;

use crate::api::{AppendRequest, PutRequest, PutResponse, RenameRequest, Result};
use crate::digest::Digests;
use crate::error::StoreError;
use crate::header::PartOf;
use crate::ingest::IngestSpec;
use crate::inner::{Inner, from_meta};
use crate::objects::{put_response, shown};
use crate::sse::check_part;

impl Inner {
    pub(crate) async fn append(&self, request: AppendRequest) -> Result<PutResponse> {
        let AppendRequest { put, offset } = request;
        let bucket = self.bucket(&put.bucket)?;
        if bucket.versioning == Versioning::Enabled {
            return Err(Refusal::InvalidState("objects of versioned buckets cannot be appended to").into());
        }
        let current = self.index()?.current(bucket.id, &put.key).map_err(from_meta)?;
        let Some((record, object)) = current.as_ref().and_then(|record| record.object().map(|o| (record, o))) else {
            return if offset == 0 { self.append_first(put).await } else { Err(Refusal::NoSuchKey.into()) };
        };
        self.check_before_body(&bucket, &put.key, &put.condition)?;
        if object.size_bytes != offset {
            return Err(Refusal::InvalidWriteOffset { size_bytes: object.size_bytes }.into());
        }
        if put.size_bytes == 0 {
            return self.append_nothing(put, record, object, shown(&bucket, record.version)).await;
        }
        let (manifest, number) = match &object.parts {
            Parts::Empty | Parts::One(_) => (UploadId::random(), 2),
            Parts::Manifest { count, .. } if *count >= PARTS_COUNT_MAX => return Err(Refusal::TooManyParts.into()),
            Parts::Manifest { id, count } => (*id, u16::try_from(count + 1).unwrap_or(u16::MAX)),
        };
        self.check_quota_before_body(&bucket, &put.key, put.size_bytes)?;
        let PutRequest { key, size_bytes, mut claims, condition, customer_key, body, .. } = put;
        check_part(&object.attributes.sse, customer_key.as_ref())?;
        if let Some(stored) = &object.checksum {
            let named = claims.checksum.as_ref().map(|checksum| checksum.algorithm).or(claims.algorithm);
            if named.is_some_and(|named| named != stored.algorithm) {
                return Err(StoreError::Invalid(format!(
                    "the object's checksum is {}: what is appended must come with the same algorithm",
                    stored.algorithm.name()
                )));
            }
            claims.algorithm = Some(stored.algorithm);
        }
        let of = PartOf::Append { manifest, number };
        let attributes = &object.attributes;
        let customer_key = customer_key.as_ref();
        let etag = bucket.options.etag;
        let spec = IngestSpec { bucket: &bucket, key: &key, of, size_bytes, etag, attributes, customer_key };
        let ingested = self.ingest(spec, claims, body).await?;
        let command = Command::Append {
            bucket: bucket.id,
            key,
            offset,
            base: record.created,
            part: Box::new(ingested.part),
            inline: ingested.inline,
            manifest,
            condition,
        };
        put_response(&bucket, self.propose(command).await?, object.attributes.sse.clone())
    }

    /// An append at 0 to a key that has no object makes one, unless another request was faster.
    async fn append_first(&self, mut put: PutRequest) -> Result<PutResponse> {
        let asked = put.condition.if_none_match.is_some();
        put.condition.if_none_match = Some(EtagMatch::Any);
        match self.put(put).await {
            Err(StoreError::Refused(Refusal::Precondition("If-None-Match"))) if !asked => Err(Refusal::Conflict.into()),
            done => done,
        }
    }

    pub(crate) async fn rename(&self, request: RenameRequest) -> Result<()> {
        let bucket = self.bucket(&request.bucket)?;
        let RenameRequest { source, destination, source_condition, condition, token, .. } = request;
        let command = Command::Rename { bucket: bucket.id, source, destination, source_condition, condition, token };
        self.propose(command).await.map(drop)
    }

    /// Nothing is appended: the object is told as it is, once the claims about the nothing were checked.
    async fn append_nothing(
        &self,
        mut put: PutRequest,
        record: &VersionRecord,
        object: &ObjectRecord,
        version: Option<granary_types::VersionId>,
    ) -> Result<PutResponse> {
        while let Some(frame) = put.body.next().await {
            let got_bytes = frame?.len() as u64;
            if got_bytes > 0 {
                return Err(StoreError::IncompleteBody { want_bytes: 0, got_bytes });
            }
        }
        Digests::new(&put.claims, EtagMode::Md5, false, 0, &self.md5_farm).finish(put.claims).await?;
        Ok(PutResponse {
            version,
            etag: object.etag.clone(),
            checksum: object.checksum.clone(),
            size_bytes: object.size_bytes,
            created: record.created,
            sse: object.attributes.sse.clone(),
        })
    }
}
