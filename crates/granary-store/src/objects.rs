//! Objects: put, get, head, copy, delete, and changes to a version's attributes.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use granary_meta::command::{Cause, Command, Condition, Outcome, Refusal, VersionChange};
use granary_meta::records::{
    Attributes, BucketRecord, ObjectRecord, PartPlace, PartRecord, Parts, Retention, Sse, VersionBody, VersionRecord,
    Versioning,
};
use granary_types::limits::PART_BYTES_MAX;
use granary_types::{BucketName, ByteRange, ObjectKey, Timestamp, VersionId};

use crate::api::{
    BodyOut, Claims, CopyRequest, CopyResponse, CopySource, DeleteRequest, DeleteResponse, GetRequest, ObjectInfo,
    ObjectParts, Portion, PutRequest, PutResponse, Result, Unlock,
};
use crate::cache::Admit;
use crate::condition::{check_copy_source, check_read, etag_matches};
use crate::egress::{self, Kept, Piece};
use crate::error::StoreError;
use crate::header::PartOf;
use crate::ingest::IngestSpec;
use crate::inner::{Inner, from_meta};
use crate::origin::because;
use crate::sse::check_unlock;

/// The version id to show: none where the bucket never had versioning.
pub(crate) fn shown(bucket: &BucketRecord, version: VersionId) -> Option<VersionId> {
    (bucket.versioning != Versioning::Off).then_some(version)
}

/// Attributes with the bucket's default retention where the request names none.
pub(crate) fn with_default_retention(bucket: &BucketRecord, mut attributes: Attributes, now: Timestamp) -> Attributes {
    if attributes.retention.is_none()
        && let Some((mode, secs)) = bucket.options.default_retention
    {
        let until = Timestamp(now.0.saturating_add(secs.saturating_mul(1_000_000)));
        attributes.retention = Some(Retention { mode, until });
    }
    attributes
}

/// The source of a copy: its bucket, version, inline chunk, and the range to copy.
pub(crate) struct FoundSource {
    pub(crate) bucket: Arc<BucketRecord>,
    pub(crate) record: VersionRecord,
    pub(crate) inline: Option<Bytes>,
    pub(crate) range: ByteRange,
}

impl Inner {
    pub(crate) async fn put(&self, request: PutRequest) -> Result<PutResponse> {
        let bucket = self.bucket(&request.bucket)?;
        self.check_before_body(&bucket, &request.key, &request.condition)?;
        self.check_quota_before_body(&bucket, &request.key, request.size_bytes)?;
        let PutRequest { key, size_bytes, attributes, claims, condition, customer_key, body, .. } = request;
        let mut attributes = with_default_retention(&bucket, attributes, self.clock.now());
        self.settle_sse(&mut attributes.sse).await?;
        let etag_mode = bucket.options.etag;
        let spec = IngestSpec {
            bucket: &bucket,
            key: &key,
            of: PartOf::Object,
            size_bytes,
            etag: etag_mode,
            attributes: &attributes,
            customer_key: customer_key.as_ref(),
        };
        let ingested = self.ingest(spec, claims, body).await?;
        let mut part = ingested.part;
        let etag = ingested.digested.object_etag(etag_mode, part.id);
        part.etag.clone_from(&etag);
        let checksum = part.checksum.clone();
        let parts = if size_bytes == 0 { Parts::Empty } else { Parts::One(Box::new(part)) };
        let sse = attributes.sse.clone();
        let object = Box::new(ObjectRecord { size_bytes, etag, checksum, parts, attributes });
        let command = Command::PutVersion {
            bucket: bucket.id,
            key,
            object,
            inline: ingested.inline,
            nonce: rand::random(),
            condition,
        };
        put_response(&bucket, self.propose(command).await?, sse)
    }

    /// Preconditions that cannot hold are refused before the body is read. Only a courtesy: `apply` checks
    /// them again, and its answer is the one that counts.
    pub(crate) fn check_before_body(
        &self,
        bucket: &BucketRecord,
        key: &ObjectKey,
        condition: &Condition,
    ) -> Result<()> {
        if let Some(frozen) = bucket.frozen(key.as_str()) {
            return Err(Refusal::Frozen { prefix: frozen.prefix.clone() }.into());
        }
        if *condition == Condition::default() && !bucket.options.write_once {
            return Ok(());
        }
        let current = self.index()?.current(bucket.id, key).map_err(from_meta)?;
        let object = current.as_ref().and_then(VersionRecord::object);
        if bucket.options.write_once && object.is_some() {
            return Err(Refusal::WriteOnce.into());
        }
        if let Some(wanted) = &condition.if_match {
            let Some(object) = object else { return Err(Refusal::NoSuchKey.into()) };
            if !etag_matches(wanted, &object.etag) {
                return Err(Refusal::Precondition("If-Match").into());
            }
        }
        if let (Some(unwanted), Some(object)) = (&condition.if_none_match, object)
            && etag_matches(unwanted, &object.etag)
        {
            return Err(Refusal::Precondition("If-None-Match").into());
        }
        Ok(())
    }

    /// As [`Inner::check_before_body`], of the bucket's quotas: bytes that `apply` will refuse are not written to the
    /// drives first.
    pub(crate) fn check_quota_before_body(
        &self,
        bucket: &BucketRecord,
        key: &ObjectKey,
        size_bytes: u64,
    ) -> Result<()> {
        let (quota_bytes, quota_objects) = (bucket.options.quota_bytes, bucket.options.quota_objects);
        if quota_bytes.is_none() && quota_objects.is_none() {
            return Ok(());
        }
        let index = self.index()?;
        let usage = index.usage(bucket.id);
        let used_bytes = usage.bytes.saturating_add(usage.upload_bytes).saturating_add(size_bytes);
        let over = quota_bytes.is_some_and(|quota| used_bytes > quota)
            || quota_objects.is_some_and(|quota| usage.versions >= quota);
        // What replaces something may fit all the same: `apply` knows.
        let replaces = || {
            let may = bucket.versioning != granary_meta::records::Versioning::Enabled;
            Ok::<_, StoreError>(may && index.current(bucket.id, key).map_err(from_meta)?.is_some())
        };
        if over && !replaces()? { Err(Refusal::QuotaExceeded.into()) } else { Ok(()) }
    }

    /// The version that a read means, which must be an object.
    pub(crate) fn find(
        &self,
        bucket: &BucketRecord,
        key: &ObjectKey,
        version: Option<VersionId>,
    ) -> Result<VersionRecord> {
        let index = self.index()?;
        let found = match version {
            None => index.current(bucket.id, key),
            Some(version) => index.version(bucket.id, key, version),
        };
        must_be_object(found.map_err(from_meta)?, version)
    }

    /// As [`Inner::find`], with the inline chunk of an object that has one: read together, so that an
    /// overwrite in between cannot part them.
    pub(crate) fn find_with_inline(
        &self,
        bucket: &BucketRecord,
        key: &ObjectKey,
        version: Option<VersionId>,
    ) -> Result<(VersionRecord, Option<Bytes>)> {
        let index = self.index()?;
        let found = match version {
            None => index.current_with_inline(bucket.id, key),
            Some(version) => index.version_with_inline(bucket.id, key, version),
        };
        let (found, inline) = found.map_err(from_meta)?.map_or((None, None), |f| (Some(f.version), f.inline));
        Ok((must_be_object(found, version)?, inline))
    }

    pub(crate) async fn head(self: &Arc<Self>, request: &GetRequest) -> Result<ObjectInfo> {
        let bucket = self.bucket(&request.bucket)?;
        // Who asks without any wish to open it decides about what is here: tags, locks, grants.
        let is_through = request.version.is_none() && !matches!(request.unlock, Unlock::Unneeded);
        match if is_through { self.source(&bucket)? } else { None } {
            Some(source) => self.head_through(&bucket, &source, request).await,
            None => self.head_here(&bucket, request),
        }
    }

    pub(crate) fn head_here(&self, bucket: &BucketRecord, request: &GetRequest) -> Result<ObjectInfo> {
        let record = self.find(bucket, &request.key, request.version)?;
        self.info(bucket, record, request)
    }

    pub(crate) fn info(
        &self,
        bucket: &BucketRecord,
        record: VersionRecord,
        request: &GetRequest,
    ) -> Result<ObjectInfo> {
        let created = record.modified();
        let version = shown(bucket, record.version);
        let (object, fetched) = match record.body {
            VersionBody::Object(object) => (*object, None),
            VersionBody::Fetched(fetched) => (fetched.object, Some(fetched.source)),
            VersionBody::DeleteMarker => return Err(StoreError::NoSuchKey { delete_marker: None }),
        };
        check_unlock(&object.attributes.sse, &request.unlock)?;
        check_read(&request.condition, &object.etag, created, version)?;
        let parts_count = match object.parts {
            Parts::Manifest { count, .. } => Some(count),
            _ => None,
        };
        let mut part_checksum = None;
        let range = match request.portion {
            Portion::Whole => ByteRange::whole(object.size_bytes),
            Portion::Range(spec) => {
                spec.resolve(object.size_bytes).ok_or(StoreError::InvalidRange { size_bytes: object.size_bytes })?
            }
            Portion::Part(number) => {
                let (range, checksum) = self.part_range(&object, number)?;
                part_checksum = checksum;
                range
            }
        };
        let partial = request.portion != Portion::Whole;
        Ok(ObjectInfo { version, created, object, range, partial, parts_count, part_checksum, fetched })
    }

    fn part_range(&self, object: &ObjectRecord, number: u16) -> Result<(ByteRange, Option<granary_types::Checksum>)> {
        match &object.parts {
            Parts::Manifest { id, count } => {
                let parts = self.manifest(*id, *count)?;
                let parts = &parts[..parts.len().min(*count as usize)];
                let position = usize::from(number).wrapping_sub(1);
                let part = parts.get(position).ok_or(StoreError::NoSuchPart(u32::from(number)))?;
                let start: u64 = parts[..position].iter().map(|part| part.payload_bytes).sum();
                Ok((ByteRange { start, end: start + part.payload_bytes }, part.checksum.clone()))
            }
            _ if number == 1 => Ok((ByteRange::whole(object.size_bytes), object.checksum.clone())),
            _ => Err(StoreError::NoSuchPart(u32::from(number))),
        }
    }

    /// The pieces of an object that cover `range`.
    fn pieces(&self, object: &ObjectRecord, inline: Option<Bytes>, range: ByteRange) -> Result<VecDeque<Piece>> {
        let mut pieces = VecDeque::new();
        match &object.parts {
            Parts::Empty => {}
            Parts::One(part) => pieces.push_back(self.piece((**part).clone(), inline, range)?),
            Parts::Manifest { id, count } => {
                let mut start = 0u64;
                for part in self.manifest(*id, *count)?.iter() {
                    let end = start + part.payload_bytes;
                    let from = range.start.max(start);
                    let to = range.end.min(end);
                    if from < to {
                        let range = ByteRange { start: from - start, end: to - start };
                        pieces.push_back(self.piece(part.clone(), None, range)?);
                    }
                    start = end;
                    if start >= range.end {
                        break;
                    }
                }
            }
        }
        Ok(pieces)
    }

    /// A piece that its part's reaper leaves alone until it is read.
    fn piece(&self, part: PartRecord, inline: Option<Bytes>, range: ByteRange) -> Result<Piece> {
        match part.place {
            PartPlace::Inline => {
                let inline = match inline {
                    None if part.payload_bytes > 0 => self.index()?.inline(part.id).map_err(from_meta)?,
                    inline => inline,
                };
                Ok(Piece { part, range, inline, guard: None })
            }
            PartPlace::Drives(_) => {
                let guard = Some(Kept::Part(self.active.enter(part.id)));
                Ok(Piece { part, range, inline: None, guard })
            }
            PartPlace::Shared(_) => {
                let guard = Some(Kept::Blocks(self.readers.enter(self.clock.now())));
                Ok(Piece { part, range, inline: None, guard })
            }
        }
    }

    /// What `request` means, with what keeps the reaper away from all of it.
    pub(crate) fn look_up_kept(
        &self,
        bucket: &BucketRecord,
        request: &GetRequest,
    ) -> Result<(ObjectInfo, Option<Bytes>, Vec<Kept>)> {
        let (record, inline) = self.find_with_inline(bucket, &request.key, request.version)?;
        let info = self.info(bucket, record, request)?;
        if bucket.documents.contains_key(crate::ai::keeper::CACHE) {
            self.uses.touch(bucket.id, request.key.as_str(), self.clock.now());
        }
        let pieces = self.pieces(&info.object, inline.clone(), ByteRange::whole(info.object.size_bytes))?;
        let kept = pieces.into_iter().filter_map(|piece| piece.guard).collect();
        Ok((info, inline, kept))
    }

    pub(crate) async fn get(self: &Arc<Self>, request: GetRequest) -> Result<(ObjectInfo, BodyOut)> {
        let bucket = self.bucket(&request.bucket)?;
        match if request.version.is_none() { self.source(&bucket)? } else { None } {
            Some(source) => self.get_through(&bucket, &source, &request).await,
            None => self.get_here(&bucket, &request).await,
        }
    }

    pub(crate) async fn get_here(
        self: &Arc<Self>,
        bucket: &BucketRecord,
        request: &GetRequest,
    ) -> Result<(ObjectInfo, BodyOut)> {
        let (record, inline) = self.find_with_inline(bucket, &request.key, request.version)?;
        let info = self.info(bucket, record, request)?;
        if bucket.documents.contains_key(crate::ai::keeper::CACHE) {
            self.uses.touch(bucket.id, request.key.as_str(), self.clock.now());
        }
        let body = self.read(bucket, &info.object, inline, info.range, &request.unlock).await?;
        Ok((info, body))
    }

    /// An object's bytes in `range`.
    pub(crate) async fn read(
        self: &Arc<Self>,
        bucket: &BucketRecord,
        object: &ObjectRecord,
        inline: Option<Bytes>,
        range: ByteRange,
        unlock: &Unlock,
    ) -> Result<BodyOut> {
        self.read_as(bucket, object, inline, range, unlock, Admit::Policy).await
    }

    /// As [`Inner::read`]; `admit` says how what is read comes into the cache.
    pub(crate) async fn read_as(
        self: &Arc<Self>,
        bucket: &BucketRecord,
        object: &ObjectRecord,
        inline: Option<Bytes>,
        range: ByteRange,
        unlock: &Unlock,
        admit: Admit,
    ) -> Result<BodyOut> {
        let customer_key = match unlock {
            Unlock::Key(key) => Some(key),
            Unlock::Plain | Unlock::Unneeded => None,
        };
        // What only a customer's key opens is not kept open.
        let admit = if matches!(object.attributes.sse, Sse::Customer { .. }) { Admit::Never } else { admit };
        // Nothing is read before the keys are there: pieces keep the reaper away from their parts.
        let pieces = self.pieces(object, inline, range)?;
        let lock = self.open_lock(&object.attributes.sse, customer_key).await?;
        egress::body(self, bucket.id, self.bucket_keys(bucket).await?, lock, pieces, admit).await
    }

    /// Looks up the source of a copy and checks its conditions.
    pub(crate) fn copy_source(&self, source: &CopySource) -> Result<FoundSource> {
        let bucket = self.bucket(&source.bucket)?;
        let (record, inline) = self.find_with_inline(&bucket, &source.key, source.version)?;
        let object = record.object().ok_or(StoreError::NoSuchKey { delete_marker: None })?;
        check_unlock(&object.attributes.sse, &source.unlock)?;
        check_copy_source(&source.condition, &object.etag, record.modified())?;
        let range = match source.range {
            None => ByteRange::whole(object.size_bytes),
            Some((first, last)) if first <= last && last < object.size_bytes => {
                ByteRange { start: first, end: last + 1 }
            }
            Some(_) => return Err(StoreError::InvalidRange { size_bytes: object.size_bytes }),
        };
        if range.len() > PART_BYTES_MAX {
            return Err(StoreError::EntityTooLarge { size_bytes: range.len(), max_bytes: PART_BYTES_MAX });
        }
        Ok(FoundSource { bucket, record, inline, range })
    }

    pub(crate) async fn copy(self: &Arc<Self>, request: CopyRequest) -> Result<CopyResponse> {
        self.ensure_here(&request.source.bucket, &request.source.key, request.source.version).await?;
        let FoundSource { bucket: source_bucket, record, inline, range } = self.copy_source(&request.source)?;
        let source_version = shown(&source_bucket, record.version);
        let source = record.object().ok_or(StoreError::NoSuchKey { delete_marker: None })?;
        let onto_itself = request.source.bucket == request.bucket
            && request.source.key == request.key
            && request.source.version.is_none();
        let redirect = request.lock.headers.website_redirect;
        if onto_itself
            && request.replace_attributes.is_none()
            && !request.sse_asked
            && !request.class_asked
            && redirect.is_none()
        {
            return Err(StoreError::CopyOntoItself);
        }
        let mut attributes = request.replace_attributes.unwrap_or_else(|| source.attributes.clone());
        attributes.tags = request.replace_tags.unwrap_or_else(|| source.attributes.tags.clone());
        attributes.retention = request.lock.retention;
        attributes.legal_hold = request.lock.legal_hold;
        attributes.owner = request.lock.owner;
        attributes.acl = request.lock.acl;
        attributes.sse = request.sse;
        attributes.headers.storage_class = request.storage_class;
        attributes.headers.website_redirect = redirect;
        let algorithm = request.algorithm.or_else(|| source.checksum.as_ref().map(|checksum| checksum.algorithm));
        let body = self.read(&source_bucket, source, inline, range, &request.source.unlock).await?;
        let put = PutRequest {
            bucket: request.bucket,
            key: request.key,
            size_bytes: range.len(),
            attributes,
            claims: Claims { md5: None, checksum: None, algorithm, trailer: None },
            condition: request.condition,
            customer_key: request.customer_key,
            body: copy_body(body),
        };
        let put = because(Cause::Copy, self.put(put)).await?;
        Ok(CopyResponse { put, source_version })
    }

    pub(crate) async fn delete(&self, request: DeleteRequest) -> Result<DeleteResponse> {
        let bucket = self.bucket(&request.bucket)?;
        let DeleteRequest { key, version, condition, bypass, .. } = request;
        let command = match version {
            None => Command::DeleteObject { bucket: bucket.id, key, nonce: rand::random(), condition, bypass },
            Some(version) => Command::DeleteVersion { bucket: bucket.id, key, version, condition, bypass },
        };
        match self.propose(command).await? {
            Outcome::Deleted { version: removed, delete_marker } => Ok(DeleteResponse {
                version: removed.or(version).and_then(|version| shown(&bucket, version)),
                delete_marker,
            }),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) async fn change_version(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<VersionId>,
        change: VersionChange,
    ) -> Result<Option<VersionId>> {
        let bucket = self.bucket(bucket)?;
        let found = self.find(&bucket, key, version)?;
        let command = Command::ChangeVersion { bucket: bucket.id, key: key.clone(), version, change };
        self.propose(command).await?;
        Ok(shown(&bucket, found.version))
    }

    pub(crate) fn object_parts(&self, info: &ObjectInfo, after: u32, limit: u32) -> Result<ObjectParts> {
        let Parts::Manifest { id, count } = &info.object.parts else {
            return Ok(ObjectParts { total: 0, parts: Vec::new(), next: None });
        };
        let manifest = self.manifest(*id, *count)?;
        let parts: Vec<_> = (1u32..)
            .zip(manifest.iter().take(*count as usize))
            .skip(after as usize)
            .take(limit as usize)
            .map(|(number, part)| (number, part.payload_bytes, part.checksum.clone()))
            .collect();
        let last = parts.last().map_or(after, |part| part.0);
        let next = (last < *count && !parts.is_empty()).then_some(last);
        Ok(ObjectParts { total: *count, parts, next })
    }
}

/// A version found, as an object or the error that S3 gives instead.
fn must_be_object(found: Option<VersionRecord>, version: Option<VersionId>) -> Result<VersionRecord> {
    match (found, version) {
        (Some(record), None) if record.is_delete_marker() => {
            Err(StoreError::NoSuchKey { delete_marker: Some(record.version) })
        }
        (Some(record), Some(_)) if record.is_delete_marker() => {
            Err(StoreError::IsDeleteMarker { version: record.version, created: record.created })
        }
        (Some(record), _) => Ok(record),
        (None, None) => Err(StoreError::NoSuchKey { delete_marker: None }),
        (None, Some(_)) => Err(StoreError::NoSuchVersion),
    }
}

/// A body that was read here, as one to be written here.
pub(crate) fn copy_body(body: BodyOut) -> crate::api::BodyIn {
    use futures::StreamExt as _;
    body.map(|frame| frame.map_err(|error| crate::api::BodyError::Read(format!("the copy's source: {error}")))).boxed()
}

/// A put's outcome as its answer.
pub(crate) fn put_response(bucket: &BucketRecord, outcome: Outcome, sse: Sse) -> Result<PutResponse> {
    match outcome {
        Outcome::Put { version, created, etag, checksum, size_bytes } => {
            Ok(PutResponse { version: shown(bucket, version), etag, checksum, size_bytes, created, sse })
        }
        other => Err(unexpected(&other)),
    }
}

/// An outcome that the command cannot have.
pub(crate) fn unexpected(outcome: &Outcome) -> StoreError {
    StoreError::Internal(format!("the state machine answered {outcome:?}"))
}
