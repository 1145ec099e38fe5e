//! A store in memory: S3's object semantics over maps, simple enough to be believed.
//!
//! Keys that begin with `fault-` are read with an error in the middle, those with `short-` end early.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::StreamExt;
use granary_meta::command::{BucketChange, Condition, EtagMatch, Refusal, VersionChange};
use granary_meta::records::{
    Attributes, BucketRecord, EtagMode, ObjectRecord, PartPlace, PartRecord, Parts, Retention, RetentionMode,
    UploadRecord, VersionBody, VersionRecord, Versioning,
};
use granary_store::StoreError;
use granary_store::api::{
    BodyIn, BodyOut, Claims, CompleteRequest, CopyRequest, CopyResponse, CopySource, CreateBucketRequest,
    CreateUploadRequest, CustomerKey, DeleteRequest, DeleteResponse, GetRequest, ListPage, ListPartsPage, ListRequest,
    ListUploadsPage, ListUploadsRequest, ListVersionsPage, ListVersionsRequest, ObjectInfo, ObjectParts, ObjectReader,
    ObjectStore, Portion, PutRequest, PutResponse, ReadCondition, Result, UploadPartRequest, UploadedPart,
};
use granary_types::{
    BucketId, BucketName, ByteRange, Checksum, ChecksumAlgorithm, ChecksumHasher, ObjectKey, PartId, Timestamp,
    UploadId, VersionId, WrappedKey,
};
use md5::{Digest, Md5};
use parking_lot::Mutex;

use crate::harness::roll;

/// Bytes of one frame of a read.
const FRAME_BYTES: usize = 10_000;

#[derive(Clone)]
struct Version {
    record: VersionRecord,
    bytes: Bytes,
    /// Length and checksum of each part of a multipart object.
    parts: Vec<(u64, Option<Checksum>)>,
}

struct Upload {
    record: UploadRecord,
    parts: BTreeMap<u16, (PartRecord, Bytes)>,
}

struct Bucket {
    record: BucketRecord,
    /// Newest first.
    keys: BTreeMap<String, Vec<Version>>,
    uploads: BTreeMap<UploadId, Upload>,
}

#[derive(Default)]
pub struct Twin {
    buckets: Mutex<BTreeMap<BucketName, Bucket>>,
    ticks: AtomicU64,
    /// Held while an upload is ended: completing takes two steps here.
    ending: Mutex<()>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// An upload, of this key.
fn upload_of<'a>(bucket: &'a Bucket, id: UploadId, key: &ObjectKey) -> Result<&'a Upload> {
    bucket.uploads.get(&id).filter(|upload| upload.record.key == *key).ok_or(StoreError::NoSuchUpload)
}

fn matches(condition: &EtagMatch, etag: &str) -> bool {
    match condition {
        EtagMatch::Any => true,
        EtagMatch::OneOf(tags) => tags.iter().any(|tag| tag == etag),
    }
}

impl Bucket {
    fn current(&self, key: &str) -> Option<&Version> {
        self.keys.get(key).and_then(|versions| versions.first())
    }

    fn shown(&self, version: VersionId) -> Option<VersionId> {
        (self.record.versioning != Versioning::Off).then_some(version)
    }

    fn check(&self, key: &str, condition: &Condition) -> Result<()> {
        let current = self.current(key).and_then(|version| version.record.object().map(|o| (o, version)));
        if let Some(wanted) = &condition.if_match {
            match current {
                None => return Err(Refusal::NoSuchKey.into()),
                Some((object, _)) if !matches(wanted, &object.etag) => {
                    return Err(Refusal::Precondition("If-Match").into());
                }
                Some(_) => {}
            }
        }
        if let (Some(unwanted), Some((object, _))) = (&condition.if_none_match, current)
            && matches(unwanted, &object.etag)
        {
            return Err(Refusal::Precondition("If-None-Match").into());
        }
        if let (Some(size), Some((object, _))) = (condition.if_match_size, current)
            && size != object.size_bytes
        {
            return Err(Refusal::Precondition("x-amz-if-match-size").into());
        }
        if let (Some(at), Some((_, version))) = (condition.if_match_last_modified, current)
            && at.as_secs() != version.record.created.as_secs()
        {
            return Err(Refusal::Precondition("x-amz-if-match-last-modified-time").into());
        }
        Ok(())
    }

    fn add(
        &mut self,
        key: &str,
        created: Timestamp,
        body: VersionBody,
        bytes: Bytes,
        parts: Vec<(u64, Option<Checksum>)>,
    ) -> VersionId {
        let version = match self.record.versioning {
            Versioning::Enabled => VersionId::new(created.as_micros()),
            Versioning::Off | Versioning::Suspended => VersionId::NULL,
        };
        let versions = self.keys.entry(key.to_owned()).or_default();
        if version.is_null() {
            versions.retain(|old| !old.record.version.is_null());
        }
        versions.insert(0, Version { record: VersionRecord { version, created, body }, bytes, parts });
        version
    }

    fn find(&self, key: &str, version: Option<VersionId>) -> Result<&Version> {
        let found = match version {
            None => self.current(key).ok_or(StoreError::NoSuchKey { delete_marker: None })?,
            Some(wanted) => self
                .keys
                .get(key)
                .and_then(|versions| versions.iter().find(|v| v.record.version == wanted))
                .ok_or(StoreError::NoSuchVersion)?,
        };
        match (found.record.is_delete_marker(), version) {
            (false, _) => Ok(found),
            (true, None) => Err(StoreError::NoSuchKey { delete_marker: Some(found.record.version) }),
            (true, Some(version)) => Err(StoreError::IsDeleteMarker { version, created: found.record.created }),
        }
    }

    fn info(&self, request: &GetRequest) -> Result<(ObjectInfo, Bytes)> {
        let found = self.find(request.key.as_str(), request.version)?;
        let object = found.record.object().expect("find returns objects").clone();
        check_read(&request.condition, &object.etag, found.record.created, self.shown(found.record.version))?;
        let size = object.size_bytes;
        let parts_count = (!found.parts.is_empty()).then(|| u32::try_from(found.parts.len()).unwrap());
        let (range, partial, part_checksum) = match request.portion {
            Portion::Whole => (ByteRange::whole(size), false, None),
            Portion::Range(spec) => {
                (spec.resolve(size).ok_or(StoreError::InvalidRange { size_bytes: size })?, true, None)
            }
            Portion::Part(1) if found.parts.is_empty() => (ByteRange::whole(size), true, object.checksum.clone()),
            Portion::Part(number) => {
                let index = usize::from(number) - 1;
                let part = found.parts.get(index).ok_or(StoreError::NoSuchPart(u32::from(number)))?;
                let start: u64 = found.parts[..index].iter().map(|(len, _)| len).sum();
                (ByteRange { start, end: start + part.0 }, true, part.1.clone())
            }
        };
        let bytes = found.bytes.slice(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap());
        let version = self.shown(found.record.version);
        let created = found.record.created;
        Ok((ObjectInfo { version, created, object, range, partial, parts_count, part_checksum, fetched: None }, bytes))
    }
}

fn check_read(c: &ReadCondition, etag: &str, created: Timestamp, version: Option<VersionId>) -> Result<()> {
    let not_modified = || StoreError::NotModified { etag: etag.to_owned(), created, version };
    match &c.if_match {
        Some(wanted) if !matches(wanted, etag) => return Err(StoreError::Precondition("If-Match")),
        Some(_) => {}
        None if c.if_unmodified_since.is_some_and(|at| created.as_secs() > at.as_secs()) => {
            return Err(StoreError::Precondition("If-Unmodified-Since"));
        }
        None => {}
    }
    match &c.if_none_match {
        Some(unwanted) if matches(unwanted, etag) => return Err(not_modified()),
        Some(_) => {}
        None if c.if_modified_since.is_some_and(|at| created.as_secs() <= at.as_secs()) => return Err(not_modified()),
        None => {}
    }
    Ok(())
}

/// Reads a body and checks every claim about it.
async fn take(
    mut body: BodyIn,
    size_bytes: u64,
    claims: Claims,
    fallback: Option<ChecksumAlgorithm>,
) -> Result<(Bytes, Option<Checksum>)> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.next().await {
        bytes.extend_from_slice(&frame?);
    }
    let bytes = bytes.freeze();
    if bytes.len() as u64 != size_bytes {
        return Err(StoreError::IncompleteBody { want_bytes: size_bytes, got_bytes: bytes.len() as u64 });
    }
    if claims.md5.is_some_and(|md5| md5[..] != Md5::digest(&bytes)[..]) {
        return Err(StoreError::BadDigest);
    }
    let claimed = match claims.trailer {
        Some(trailer) => trailer()?,
        None => claims.checksum,
    };
    let Some(algorithm) = claimed.as_ref().map(|c| c.algorithm).or(claims.algorithm).or(fallback) else {
        return Ok((bytes, None));
    };
    let mut hasher = ChecksumHasher::new(algorithm);
    hasher.update(&bytes);
    let checksum = hasher.finish();
    if claimed.is_some_and(|claimed| claimed != checksum) {
        return Err(StoreError::BadChecksum { algorithm });
    }
    Ok((bytes, Some(checksum)))
}

impl Twin {
    fn now(&self) -> Timestamp {
        // Strictly increasing, near the wall clock.
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let wall = u64::try_from(wall.as_micros()).unwrap();
        let mut last = self.ticks.load(Ordering::SeqCst);
        loop {
            let next = wall.max(last + 1);
            match self.ticks.compare_exchange(last, next, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return Timestamp(next),
                Err(seen) => last = seen,
            }
        }
    }

    fn with<T>(&self, name: &BucketName, f: impl FnOnce(&mut Bucket) -> Result<T>) -> Result<T> {
        f(self.buckets.lock().get_mut(name).ok_or(StoreError::NoSuchBucket)?)
    }

    fn part(&self, bytes: &Bytes, checksum: Option<Checksum>) -> PartRecord {
        PartRecord {
            id: PartId::random(),
            payload_bytes: bytes.len() as u64,
            key: WrappedKey(Vec::new()),
            place: PartPlace::Inline,
            etag: hex(&Md5::digest(bytes)),
            checksum,
            created: self.now(),
        }
    }

    fn source(&self, source: &CopySource) -> Result<(ObjectInfo, Bytes)> {
        let portion = Portion::Whole;
        let condition = source.condition.clone();
        let request = GetRequest {
            bucket: source.bucket.clone(),
            key: source.key.clone(),
            version: source.version,
            portion,
            condition,
            unlock: source.unlock.clone(),
        };
        self.with(&source.bucket, |bucket| bucket.info(&request))
    }

    fn finish(
        &self,
        name: &BucketName,
        key: &str,
        condition: &Condition,
        object: ObjectRecord,
        bytes: Bytes,
        parts: Vec<(u64, Option<Checksum>)>,
    ) -> Result<PutResponse> {
        let created = self.now();
        self.with(name, |bucket| {
            bucket.check(key, condition)?;
            let (etag, checksum, size_bytes) = (object.etag.clone(), object.checksum.clone(), object.size_bytes);
            let sse = object.attributes.sse.clone();
            let version = bucket.add(key, created, VersionBody::Object(Box::new(object)), bytes, parts);
            Ok(PutResponse { version: bucket.shown(version), etag, checksum, size_bytes, created, sse })
        })
    }
}

fn object(bytes: &Bytes, etag: String, checksum: Option<Checksum>, attributes: Attributes) -> ObjectRecord {
    ObjectRecord { size_bytes: bytes.len() as u64, etag, checksum, parts: Parts::Empty, attributes }
}

fn check_retention(retention: Option<Retention>, hold: bool, now: Timestamp, bypass: bool) -> Result<()> {
    if hold {
        return Err(Refusal::Locked("legal hold").into());
    }
    match retention {
        Some(r) if r.until > now && (r.mode == RetentionMode::Compliance || !bypass) => {
            Err(Refusal::Locked("retention").into())
        }
        _ => Ok(()),
    }
}

struct Opened {
    info: ObjectInfo,
    bytes: Bytes,
}

impl ObjectReader for Opened {
    fn info(&self) -> &ObjectInfo {
        &self.info
    }

    fn read(&self, start: u64, end: u64) -> BoxFuture<'_, Result<BodyOut>> {
        let bytes = self.bytes.slice(usize::try_from(start).unwrap()..usize::try_from(end).unwrap());
        Box::pin(std::future::ready(Ok(futures::stream::iter([Ok(bytes)]).boxed())))
    }
}

impl ObjectStore for Twin {
    fn create_bucket(&self, request: CreateBucketRequest) -> BoxFuture<'_, Result<()>> {
        let created = self.now();
        let mut buckets = self.buckets.lock();
        let result = match buckets.get(&request.name) {
            Some(bucket) => Err(Refusal::BucketExists { owner: bucket.record.owner.clone() }.into()),
            None => {
                let versioning = if request.options.object_lock { Versioning::Enabled } else { Versioning::Off };
                let record = BucketRecord {
                    id: BucketId(created.as_micros()),
                    name: request.name.clone(),
                    created,
                    owner: request.owner,
                    region: request.region.unwrap_or_else(|| "us-east-1".to_owned()),
                    key: WrappedKey(Vec::new()),
                    versioning,
                    options: request.options,
                    documents: request.documents,
                    frozen: Vec::new(),
                };
                let bucket = Bucket { record, keys: BTreeMap::new(), uploads: BTreeMap::new() };
                buckets.insert(request.name, bucket);
                Ok(())
            }
        };
        Box::pin(async move { result })
    }

    fn bucket(&self, name: &BucketName) -> Result<Arc<BucketRecord>> {
        self.with(name, |bucket| Ok(Arc::new(bucket.record.clone())))
    }

    fn list_buckets(&self) -> Result<Vec<Arc<BucketRecord>>> {
        Ok(self.buckets.lock().values().map(|bucket| Arc::new(bucket.record.clone())).collect())
    }

    fn delete_bucket<'a>(&'a self, name: &'a BucketName) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut buckets = self.buckets.lock();
            let bucket = buckets.get(name).ok_or(StoreError::NoSuchBucket)?;
            if !bucket.keys.is_empty() {
                return Err(Refusal::BucketNotEmpty.into());
            }
            buckets.remove(name);
            Ok(())
        })
    }

    fn change_bucket<'a>(&'a self, name: &'a BucketName, change: BucketChange) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.with(name, |bucket| {
                match change {
                    BucketChange::Versioning(state) => bucket.record.versioning = state,
                    BucketChange::Document { name, value: Some(value) } => {
                        bucket.record.documents.insert(name, value);
                    }
                    BucketChange::Document { name, value: None } => {
                        bucket.record.documents.remove(&name);
                    }
                    BucketChange::Quota { bytes, objects } => {
                        bucket.record.options.quota_bytes = bytes;
                        bucket.record.options.quota_objects = objects;
                    }
                    BucketChange::Options(options) => bucket.record.options = options,
                    BucketChange::Key(key) => bucket.record.key = key,
                    BucketChange::ObjectLock { default_retention, document } => {
                        if bucket.record.versioning != Versioning::Enabled {
                            return Err(Refusal::InvalidState("object lock needs versioning").into());
                        }
                        bucket.record.options.object_lock = true;
                        bucket.record.options.default_retention = default_retention;
                        bucket.record.documents.insert("object-lock".to_owned(), document);
                    }
                }
                Ok(())
            })
        })
    }

    fn put(&self, request: PutRequest) -> BoxFuture<'_, Result<PutResponse>> {
        Box::pin(async move {
            self.with(&request.bucket, |_| Ok(()))?;
            let (bytes, checksum) = take(request.body, request.size_bytes, request.claims, None).await?;
            let etag = hex(&Md5::digest(&bytes));
            let record = object(&bytes, etag, checksum, request.attributes);
            self.finish(&request.bucket, request.key.as_str(), &request.condition, record, bytes, Vec::new())
        })
    }

    fn get(&self, request: GetRequest) -> BoxFuture<'_, Result<(ObjectInfo, BodyOut)>> {
        Box::pin(async move {
            let (info, bytes) = self.with(&request.bucket, |bucket| bucket.info(&request))?;
            let key = request.key.as_str();
            let (is_faulty, is_short) = (key.starts_with("fault-"), key.starts_with("short-"));
            let served = if is_faulty || is_short { bytes.slice(..bytes.len() / 2) } else { bytes };
            let frames = (0..served.len()).step_by(FRAME_BYTES);
            let mut frames: Vec<Result<Bytes>> =
                frames.map(|at| Ok(served.slice(at..served.len().min(at + FRAME_BYTES)))).collect();
            if is_faulty {
                frames.push(Err(StoreError::Corrupt("three shards of six are rotten".into())));
            }
            Ok((info, futures::stream::iter(frames).boxed()))
        })
    }

    fn open(&self, request: GetRequest) -> BoxFuture<'_, Result<Arc<dyn ObjectReader>>> {
        let found = self.with(&request.bucket, |bucket| bucket.info(&request));
        Box::pin(async move { found.map(|(info, bytes)| Arc::new(Opened { info, bytes }) as Arc<dyn ObjectReader>) })
    }

    fn head(&self, request: GetRequest) -> BoxFuture<'_, Result<ObjectInfo>> {
        Box::pin(async move { self.with(&request.bucket, |bucket| bucket.info(&request)).map(|(info, _)| info) })
    }

    fn copy(&self, request: CopyRequest) -> BoxFuture<'_, Result<CopyResponse>> {
        Box::pin(async move {
            let (info, bytes) = self.source(&request.source)?;
            let is_onto_itself = request.source.bucket == request.bucket
                && request.source.key == request.key
                && request.source.version.is_none();
            if is_onto_itself && request.replace_attributes.is_none() && !request.sse_asked && !request.class_asked {
                return Err(StoreError::CopyOntoItself);
            }
            let tags = request.replace_tags.unwrap_or_else(|| info.object.attributes.tags.clone());
            let mut attributes = request.replace_attributes.unwrap_or(info.object.attributes);
            attributes.tags = tags;
            attributes.retention = request.lock.retention;
            attributes.legal_hold = request.lock.legal_hold;
            attributes.owner = request.lock.owner;
            attributes.acl = request.lock.acl;
            attributes.sse = request.sse;
            let algorithm = request
                .algorithm
                .or(info.object.checksum.as_ref().map(|c| c.algorithm))
                .unwrap_or(ChecksumAlgorithm::Crc64nvme);
            let mut hasher = ChecksumHasher::new(algorithm);
            hasher.update(&bytes);
            let record = object(&bytes, hex(&Md5::digest(&bytes)), Some(hasher.finish()), attributes);
            let put =
                self.finish(&request.bucket, request.key.as_str(), &request.condition, record, bytes, Vec::new())?;
            Ok(CopyResponse { put, source_version: info.version })
        })
    }

    fn delete(&self, request: DeleteRequest) -> BoxFuture<'_, Result<DeleteResponse>> {
        Box::pin(async move {
            let now = self.now();
            let key = request.key.as_str();
            self.with(&request.bucket, |bucket| {
                bucket.check(key, &request.condition)?;
                let Some(version) = request.version else {
                    if bucket.record.versioning == Versioning::Off {
                        bucket.keys.remove(key);
                        return Ok(DeleteResponse { version: None, delete_marker: false });
                    }
                    let version = bucket.add(key, now, VersionBody::DeleteMarker, Bytes::new(), Vec::new());
                    return Ok(DeleteResponse { version: Some(version), delete_marker: true });
                };
                let versions = bucket.keys.entry(key.to_owned()).or_default();
                let at = versions.iter().position(|v| v.record.version == version);
                let mut delete_marker = false;
                if let Some(at) = at {
                    if let Some(object) = versions[at].record.object() {
                        let attributes = &object.attributes;
                        check_retention(attributes.retention, attributes.legal_hold, now, request.bypass)?;
                    }
                    delete_marker = versions.remove(at).record.is_delete_marker();
                }
                if versions.is_empty() {
                    bucket.keys.remove(key);
                }
                Ok(DeleteResponse { version: Some(version), delete_marker })
            })
        })
    }

    fn change_version<'a>(
        &'a self,
        bucket: &'a BucketName,
        key: &'a ObjectKey,
        version: Option<VersionId>,
        change: VersionChange,
    ) -> BoxFuture<'a, Result<Option<VersionId>>> {
        let now = self.now();
        Box::pin(async move {
            self.with(bucket, |bucket| {
                let found = bucket.find(key.as_str(), version)?.record.version;
                let versions = bucket.keys.get_mut(key.as_str()).expect("just found");
                let record = versions.iter_mut().find(|v| v.record.version == found).expect("just found");
                let VersionBody::Object(object) = &mut record.record.body else { unreachable!("find returns objects") };
                let attributes = &mut object.attributes;
                match change {
                    VersionChange::Tags(tags) => attributes.tags = tags,
                    VersionChange::Retention { retention, bypass } => {
                        if retention.is_none_or(|new| attributes.retention.is_some_and(|old| new.until < old.until)) {
                            check_retention(attributes.retention, false, now, bypass)?;
                        }
                        attributes.retention = retention;
                    }
                    VersionChange::LegalHold(hold) => attributes.legal_hold = hold,
                    VersionChange::Acl(acl) => attributes.acl = acl,
                }
                Ok(bucket.shown(found))
            })
        })
    }

    fn object_parts<'a>(&'a self, info: &'a ObjectInfo, after: u32, limit: u32) -> BoxFuture<'a, Result<ObjectParts>> {
        Box::pin(async move {
            let buckets = self.buckets.lock();
            let found = buckets
                .values()
                .flat_map(|bucket| bucket.keys.values().flatten())
                .find(|v| v.record.created == info.created)
                .ok_or(StoreError::NoSuchKey { delete_marker: None })?;
            let all: Vec<_> =
                found.parts.iter().zip(1u32..).map(|((len, checksum), n)| (n, *len, checksum.clone())).collect();
            let parts: Vec<_> = all.iter().filter(|(n, ..)| *n > after).take(limit as usize).cloned().collect();
            let last = parts.last().map_or(after, |(n, ..)| *n);
            let next = all.last().is_some_and(|(n, ..)| *n > last).then_some(last);
            Ok(ObjectParts { total: u32::try_from(all.len()).unwrap(), parts, next })
        })
    }

    fn list<'a>(&'a self, bucket: &'a BucketName, request: &'a ListRequest) -> BoxFuture<'a, Result<ListPage>> {
        Box::pin(async move {
            self.with(bucket, |bucket| {
                let names = bucket.keys.iter().filter(|(_, v)| v[0].record.object().is_some()).map(|(k, _)| k.as_str());
                let delimiter = request.delimiter.as_deref();
                let after = request.after.as_deref();
                let (entries, next_after) = roll(names, &request.prefix, delimiter, after, request.max_keys as usize);
                let mut page = ListPage { next_after, ..ListPage::default() };
                for (name, is_group) in entries {
                    if is_group {
                        page.common_prefixes.push(name);
                    } else {
                        let record = bucket.keys[&name][0].record.clone();
                        page.objects.push((name, record));
                    }
                }
                Ok(page)
            })
        })
    }

    fn list_versions<'a>(
        &'a self,
        bucket: &'a BucketName,
        request: &'a ListVersionsRequest,
    ) -> BoxFuture<'a, Result<ListVersionsPage>> {
        Box::pin(async move {
            self.with(bucket, |bucket| {
                let mut page = ListVersionsPage::default();
                let limit = request.max_keys as usize;
                let delimiter = request.delimiter.as_deref();
                let names = bucket.keys.keys().map(String::as_str);
                let (entries, _) = roll(names, &request.prefix, delimiter, None, usize::MAX);
                let mut shown: Vec<(String, Option<VersionId>)> = Vec::new();
                for (name, is_group) in entries {
                    let marker = request.key_marker.as_deref().unwrap_or_default();
                    if name.as_str() < marker || (name == marker && (is_group || request.version_marker.is_none())) {
                        continue;
                    }
                    let mut skipping = name == marker;
                    let versions: &[Version] = if is_group { &[] } else { &bucket.keys[&name] };
                    if is_group {
                        if shown.len() == limit {
                            page.next = shown.last().cloned();
                            return Ok(page);
                        }
                        page.common_prefixes.push(name.clone());
                        shown.push((name.clone(), None));
                    }
                    for (at, version) in versions.iter().enumerate() {
                        if skipping {
                            skipping = Some(version.record.version) != request.version_marker;
                            continue;
                        }
                        if shown.len() == limit {
                            page.next = shown.last().cloned();
                            return Ok(page);
                        }
                        page.versions.push((name.clone(), version.record.clone(), at == 0));
                        shown.push((name.clone(), Some(version.record.version)));
                    }
                }
                Ok(page)
            })
        })
    }

    fn create_upload(&self, request: CreateUploadRequest) -> BoxFuture<'_, Result<UploadRecord>> {
        let record = UploadRecord {
            id: UploadId::random(),
            key: request.key,
            created: self.now(),
            attributes: request.attributes,
            checksum_algorithm: request.checksum_algorithm,
            checksum_kind: request.checksum_kind,
            etag: EtagMode::Md5,
        };
        let result = self.with(&request.bucket, |bucket| {
            bucket.uploads.insert(record.id, Upload { record: record.clone(), parts: BTreeMap::new() });
            Ok(record)
        });
        Box::pin(async move { result })
    }

    fn upload_part(&self, request: UploadPartRequest) -> BoxFuture<'_, Result<UploadedPart>> {
        Box::pin(async move {
            let algorithm = self.with(&request.bucket, |bucket| {
                let upload = upload_of(bucket, request.upload, &request.key)?;
                Ok(upload.record.checksum_algorithm.or(Some(ChecksumAlgorithm::Crc64nvme)))
            })?;
            let (bytes, checksum) = take(request.body, request.size_bytes, request.claims, algorithm).await?;
            let part = self.part(&bytes, checksum);
            self.with(&request.bucket, |bucket| {
                upload_of(bucket, request.upload, &request.key)?;
                let upload = bucket.uploads.get_mut(&request.upload).ok_or(StoreError::NoSuchUpload)?;
                upload.parts.insert(request.number, (part.clone(), bytes));
                Ok(UploadedPart { part, sse: upload.record.attributes.sse.clone(), source_version: None })
            })
        })
    }

    fn upload_part_copy<'a>(
        &'a self,
        source: CopySource,
        bucket: &'a BucketName,
        key: &'a ObjectKey,
        upload: UploadId,
        number: u16,
        _customer_key: Option<CustomerKey>,
    ) -> BoxFuture<'a, Result<UploadedPart>> {
        Box::pin(async move {
            let (info, mut bytes) = self.source(&source)?;
            if let Some((first, last)) = source.range {
                if last >= bytes.len() as u64 {
                    return Err(StoreError::InvalidRange { size_bytes: bytes.len() as u64 });
                }
                bytes = bytes.slice(usize::try_from(first).unwrap()..=usize::try_from(last).unwrap());
            }
            self.with(bucket, |bucket| {
                upload_of(bucket, upload, key)?;
                let upload = bucket.uploads.get_mut(&upload).ok_or(StoreError::NoSuchUpload)?;
                let checksum =
                    upload.record.checksum_algorithm.or(Some(ChecksumAlgorithm::Crc64nvme)).map(|algorithm| {
                        let mut hasher = ChecksumHasher::new(algorithm);
                        hasher.update(&bytes);
                        hasher.finish()
                    });
                let part = self.part(&bytes, checksum);
                upload.parts.insert(number, (part.clone(), bytes));
                let sse = upload.record.attributes.sse.clone();
                Ok(UploadedPart { part, sse, source_version: info.version })
            })
        })
    }

    fn complete_upload(&self, request: CompleteRequest) -> BoxFuture<'_, Result<PutResponse>> {
        Box::pin(async move {
            let _ending = self.ending.lock();
            let (record, bytes, parts) = self.with(&request.bucket, |bucket| {
                let upload = upload_of(bucket, request.upload, &request.key)?;
                if !request.parts.is_sorted_by(|a, b| a.number < b.number) {
                    return Err(Refusal::InvalidPartOrder.into());
                }
                let (mut bytes, mut md5s) = (BytesMut::new(), Vec::new());
                let mut parts: Vec<(u64, Option<Checksum>)> = Vec::new();
                for (at, named) in request.parts.iter().enumerate() {
                    let found = upload.parts.get(&named.number).filter(|(part, _)| part.etag == named.etag);
                    let found = found.filter(|(part, _)| named.checksum.is_none() || part.checksum == named.checksum);
                    let (part, part_bytes) = found.ok_or(Refusal::InvalidPart { number: named.number })?;
                    if at + 1 < request.parts.len() && part.payload_bytes < granary_types::limits::PART_BYTES_MIN {
                        let size_bytes = part.payload_bytes;
                        return Err(Refusal::EntityTooSmall { number: named.number, size_bytes }.into());
                    }
                    bytes.extend_from_slice(part_bytes);
                    md5s.extend_from_slice(&Md5::digest(part_bytes));
                    parts.push((part.payload_bytes, part.checksum.clone()));
                }
                let bytes = bytes.freeze();
                if request.size_bytes.is_some_and(|size| size != bytes.len() as u64) {
                    return Err(Refusal::BadSize.into());
                }
                let known: Option<Vec<_>> = parts.iter().map(|(len, c)| c.as_ref().map(|c| (c, *len))).collect();
                let checksum = known.and_then(|known| {
                    let algorithm = upload.record.checksum_algorithm.unwrap_or(ChecksumAlgorithm::Crc64nvme);
                    let kind = upload.record.checksum_kind.unwrap_or(algorithm.default_kind());
                    Checksum::of_parts(algorithm, kind, &known)
                });
                if request.checksum.is_some() && request.checksum != checksum {
                    return Err(Refusal::BadChecksum.into());
                }
                let etag = format!("{}-{}", hex(&Md5::digest(&md5s)), parts.len());
                Ok((object(&bytes, etag, checksum, upload.record.attributes.clone()), bytes, parts))
            })?;
            let put = self.finish(&request.bucket, request.key.as_str(), &request.condition, record, bytes, parts)?;
            self.with(&request.bucket, |bucket| {
                bucket.uploads.remove(&request.upload);
                Ok(put)
            })
        })
    }

    fn abort_upload<'a>(
        &'a self,
        bucket: &'a BucketName,
        key: &'a ObjectKey,
        upload: UploadId,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let _ending = self.ending.lock();
            self.with(bucket, |bucket| {
                upload_of(bucket, upload, key)?;
                bucket.uploads.remove(&upload).map(drop).ok_or(StoreError::NoSuchUpload)
            })
        })
    }

    fn list_parts<'a>(
        &'a self,
        bucket: &'a BucketName,
        key: &'a ObjectKey,
        upload: UploadId,
        marker: u16,
        limit: u32,
    ) -> BoxFuture<'a, Result<ListPartsPage>> {
        Box::pin(async move {
            self.with(bucket, |bucket| {
                let found = upload_of(bucket, upload, key)?;
                let after: Vec<_> = found.parts.range(marker.saturating_add(1)..).collect();
                let parts: Vec<_> =
                    after.iter().take(limit as usize).map(|(n, (part, _))| (**n, part.clone())).collect();
                let next = (after.len() > parts.len()).then(|| parts.last().map(|(n, _)| *n)).flatten();
                Ok(ListPartsPage { upload: found.record.clone(), parts, next })
            })
        })
    }

    fn list_uploads<'a>(
        &'a self,
        bucket: &'a BucketName,
        request: &'a ListUploadsRequest,
    ) -> BoxFuture<'a, Result<ListUploadsPage>> {
        Box::pin(async move {
            self.with(bucket, |bucket| {
                let mut all: Vec<_> = bucket.uploads.values().map(|u| &u.record).collect();
                all.sort_by(|a, b| (&a.key, a.created).cmp(&(&b.key, b.created)));
                let names: Vec<_> = all.iter().map(|u| u.key.as_str()).collect();
                let (entries, _) =
                    roll(names.iter().copied(), &request.prefix, request.delimiter.as_deref(), None, usize::MAX);
                let mut page = ListUploadsPage::default();
                let mut past = request.upload_marker.is_none();
                let mut count = 0;
                let mut last = None;
                for (name, is_group) in entries {
                    let marker = request.key_marker.as_deref().unwrap_or_default();
                    if name.as_str() < marker || (name == marker && past) {
                        continue;
                    }
                    if is_group {
                        page.common_prefixes.push(name);
                        continue;
                    }
                    // `roll` names a key once per upload of it: take them one at a time.
                    let upload =
                        all.iter().find(|u| u.key.as_str() == name && !page.uploads.iter().any(|s| s.id == u.id));
                    let Some(upload) = upload.copied() else { continue };
                    if name == marker && !past {
                        past = Some(upload.id) == request.upload_marker;
                        all.retain(|u| u.id != upload.id);
                        continue;
                    }
                    if count == request.max_uploads {
                        page.next = last;
                        return Ok(page);
                    }
                    count += 1;
                    last = Some((name, upload.id));
                    page.uploads.push(upload.clone());
                }
                Ok(page)
            })
        })
    }
}
