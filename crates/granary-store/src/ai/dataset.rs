//! Datasets: freezing a prefix, checking it against its manifest, walking what was made from what.
//!
//! Freezing first closes the prefix (one command: whatever comes after it in the log is refused), then lists what is there,
//! writes and signs the manifest, and then names it in the bucket's record. A crash in between leaves a closed
//! prefix without a manifest; freezing it again finishes it, with the same bytes.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use granary_crypto::Signer;
use granary_meta::command::{Command, CompletedPart, Condition, DatasetChange, Refusal};
use granary_meta::records::{Attributes, BucketRecord, DATASETS_FOLDER, FrozenManifest, FrozenPrefix, SystemHeaders};
use granary_types::hex;
use granary_types::{BucketName, Checksum, ChecksumAlgorithm, ChecksumHasher, ChecksumKind, ObjectKey, VersionId};
use serde::Serialize;

use crate::ai::AiError;
use crate::ai::manifest::{Entry, FORMAT, Head, Line, Reader, SOURCES_MAX, SignatureFile, Source, Sums};
use crate::ai::shard::Shards;
use crate::ai::source::Found;
use crate::api::{
    Claims, CompleteRequest, CreateUploadRequest, GetRequest, ListRequest, ObjectStore as _, Portion, PutRequest,
    ReadCondition, Unlock, UploadPartRequest,
};
use crate::error::StoreError;
use crate::inner::{from_crypto, from_meta};
use crate::store::Store;

/// Name of the system record with the sealed signing key.
const SIGNING_KEY: &str = "dataset/signing-key";
/// Manifests above this are written in parts of as much.
const PART_BYTES: usize = 16 << 20;
/// Problems that a check tells one by one.
const PROBLEMS_MAX: usize = 100;
/// Datasets that a walk visits.
const WALK_MAX: usize = 1000;

/// Freezes, checks and walks datasets of a store.
pub struct Datasets {
    store: Store,
    shards: Shards,
    /// One at a time: two freezes of one prefix would write the same file.
    turn: tokio::sync::Mutex<()>,
}

/// A frozen dataset, for people and programs.
#[derive(Debug, Clone, Serialize)]
pub struct Shown {
    /// Bucket.
    pub bucket: String,
    /// Prefix.
    pub prefix: String,
    /// Since when: microseconds since 1970.
    pub frozen_us: u64,
    /// Whether the manifest is written.
    pub finished: bool,
    /// Key of the manifest.
    pub manifest: Option<String>,
    /// Its SHA-256, in hex.
    pub manifest_sha256: Option<String>,
    /// Objects in it.
    pub objects: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Samples in them.
    pub samples: u64,
}

/// What a check found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verified {
    /// Objects that are as the manifest says.
    pub objects: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// The key that signed the manifest, in hex.
    pub public_key: String,
    /// SHA-256 of the manifest, in hex.
    pub manifest_sha256: String,
    /// How many things are wrong.
    pub problems: u64,
    /// The first of them.
    pub messages: Vec<String>,
}

impl Verified {
    fn wrong(&mut self, what: String) {
        self.problems += 1;
        if self.messages.len() < PROBLEMS_MAX {
            self.messages.push(what);
        }
    }
}

/// A dataset and what it was made from.
#[derive(Debug, Clone, Serialize)]
pub struct Lineage {
    /// Bucket.
    pub bucket: String,
    /// Prefix.
    pub prefix: String,
    /// SHA-256 of the manifest: the one that is there, or the one named by what was made from it.
    pub manifest_sha256: Option<String>,
    /// `frozen`, `changed` (another manifest than the one named), or `missing`.
    pub state: &'static str,
    /// What it was made from.
    pub sources: Vec<Lineage>,
}

fn shown(bucket: &BucketRecord, frozen: &FrozenPrefix) -> Shown {
    let manifest = frozen.manifest.as_ref();
    Shown {
        bucket: bucket.name.to_string(),
        prefix: frozen.prefix.clone(),
        frozen_us: frozen.since.0,
        finished: manifest.is_some(),
        manifest: manifest.map(|m| m.key.as_str().to_owned()),
        manifest_sha256: manifest.map(|m| hex::encode(m.sha256)),
        objects: manifest.map_or(0, |m| m.objects),
        bytes: manifest.map_or(0, |m| m.bytes),
        samples: manifest.map_or(0, |m| m.samples),
    }
}

/// A checksum as a manifest names it.
fn named(checksum: &Checksum) -> String {
    format!("{}={}", checksum.algorithm.name(), checksum.to_wire())
}

fn sha256(hasher: ChecksumHasher) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(&hasher.finish().value);
    out
}

impl Datasets {
    /// Over a store, with `cache_bytes` for indexes of shards.
    #[must_use]
    pub fn new(store: Store, cache_bytes: u64) -> Self {
        let shards = Shards::new(Arc::new(store.clone()), cache_bytes);
        Self { store, shards, turn: tokio::sync::Mutex::new(()) }
    }

    /// The bucket's frozen datasets, or all buckets'.
    ///
    /// # Errors
    /// The store's.
    pub fn list(&self, bucket: Option<&BucketName>) -> Result<Vec<Shown>, AiError> {
        let buckets = match bucket {
            Some(name) => vec![self.store.bucket(name)?],
            None => self.store.list_buckets()?,
        };
        Ok(buckets.iter().flat_map(|bucket| bucket.frozen.iter().map(|frozen| shown(bucket, frozen))).collect())
    }

    fn frozen(&self, bucket: &BucketName, prefix: &str) -> Result<FrozenPrefix, AiError> {
        let record = self.store.bucket(bucket)?;
        let found = record.frozen.iter().find(|frozen| frozen.prefix == prefix);
        found.cloned().ok_or_else(|| AiError::Invalid(format!("{bucket}/{prefix} is not a frozen dataset")))
    }

    async fn change(&self, bucket: &BucketName, prefix: &str, change: DatasetChange) -> Result<(), AiError> {
        let command = Command::Dataset { bucket: bucket.clone(), prefix: prefix.to_owned(), change };
        self.store.inner.propose(command).await?;
        Ok(())
    }

    /// The key that signs manifests; made at the first use, kept sealed in the metadata.
    ///
    /// # Errors
    /// The store's.
    pub async fn signer(&self) -> Result<Signer, AiError> {
        let inner = &self.store.inner;
        if let Some(sealed) = inner.index()?.system(SIGNING_KEY).map_err(from_meta)? {
            return Ok(Signer::open(&inner.header_key, &sealed).map_err(from_crypto)?);
        }
        let signer = Signer::generate().map_err(from_crypto)?;
        let value = Some(Bytes::from(signer.seal(&inner.header_key).map_err(from_crypto)?));
        inner.propose(Command::SetSystem { name: SIGNING_KEY.to_owned(), value }).await?;
        Ok(signer)
    }

    /// Freezes a prefix. Freezing what is frozen already says so again.
    ///
    /// # Errors
    /// [`AiError::Invalid`] if there is nothing under it, a tar file of it cannot be read, or a source is not frozen:
    /// then the prefix is as it was.
    pub async fn freeze(
        &self,
        bucket: &BucketName,
        prefix: &str,
        sources: &[(BucketName, String)],
    ) -> Result<Shown, AiError> {
        let _turn = self.turn.lock().await;
        let mut named = Vec::with_capacity(sources.len());
        if sources.len() > SOURCES_MAX {
            return Err(AiError::Invalid(format!("a dataset names at most {SOURCES_MAX} sources")));
        }
        for (bucket, prefix) in sources {
            let source = self.frozen(bucket, prefix)?;
            let manifest = source
                .manifest
                .ok_or_else(|| AiError::Invalid(format!("{bucket}/{prefix} has no manifest yet: freeze it again")))?;
            named.push(Source {
                bucket: bucket.to_string(),
                prefix: prefix.clone(),
                manifest_sha256: hex::encode(manifest.sha256),
            });
        }
        self.change(bucket, prefix, DatasetChange::Freeze).await?;
        let frozen = self.frozen(bucket, prefix)?;
        if frozen.manifest.is_none()
            && let Err(error) = self.write(bucket, &frozen, named).await
        {
            // Nothing half done: unless the store itself fails, in which case freezing again finishes.
            if let Err(thaw) = self.change(bucket, prefix, DatasetChange::Thaw).await {
                tracing::error!(%bucket, prefix, error = %thaw, "a freeze failed and could not be taken back: freeze again");
            }
            return Err(error);
        }
        let record = self.store.bucket(bucket)?;
        Ok(shown(&record, &self.frozen(bucket, prefix)?))
    }

    /// Lets a frozen prefix change again. Its manifest stays, as an ordinary object.
    ///
    /// # Errors
    /// The store's.
    pub async fn thaw(&self, bucket: &BucketName, prefix: &str) -> Result<(), AiError> {
        let _turn = self.turn.lock().await;
        tracing::warn!(%bucket, prefix, "a frozen dataset is thawed");
        self.change(bucket, prefix, DatasetChange::Thaw).await
    }

    /// Writes the manifest of a closed prefix, its signature, and names it.
    async fn write(&self, bucket: &BucketName, frozen: &FrozenPrefix, sources: Vec<Source>) -> Result<(), AiError> {
        let record = self.store.bucket(bucket)?;
        let name = format!("{DATASETS_FOLDER}{}{}.manifest.jsonl", frozen.prefix, frozen.since.0);
        let key = ObjectKey::new(name.clone()).map_err(|error| AiError::Invalid(error.to_string()))?;
        let mut file = Writer::new(self.store.clone(), &record, key.clone());
        let head = Head {
            granary_dataset: FORMAT,
            bucket: bucket.to_string(),
            prefix: frozen.prefix.clone(),
            frozen_us: frozen.since.0,
            sources,
        };
        file.line(&head).await?;
        let mut sums = Sums::default();
        let mut list = ListRequest {
            prefix: frozen.prefix.clone(),
            delimiter: None,
            after: None,
            max_keys: granary_types::limits::LIST_KEYS_MAX,
        };
        loop {
            let page = self.store.list(bucket, &list).await?;
            for (name, version) in page.objects {
                let Some(object) = version.object() else { continue };
                let shard = name.ends_with(".tar");
                let samples = if shard { self.samples(bucket, &name).await? } else { 1 };
                let version = crate::objects::shown(&record, version.version).map(|version| version.to_string());
                let checksum = object.checksum.as_ref().map(named);
                sums.objects += 1;
                sums.bytes = sums.bytes.saturating_add(object.size_bytes);
                sums.samples = sums.samples.saturating_add(samples);
                let (size, etag) = (object.size_bytes, object.etag.clone());
                file.line(&Line { key: name, version, size, etag, checksum, samples, shard }).await?;
            }
            match page.next_after {
                Some(after) => list.after = Some(after),
                None => break,
            }
        }
        if sums.objects == 0 {
            return Err(AiError::Invalid(format!("there is nothing under {bucket}/{}", frozen.prefix)));
        }
        file.line(&sums).await?;
        let sha256 = file.finish().await?;
        let signature = SignatureFile::new(&self.signer().await?, &sha256);
        let sig_key = ObjectKey::new(format!("{name}.sig")).map_err(|error| AiError::Invalid(error.to_string()))?;
        let mut file = Writer::new(self.store.clone(), &record, sig_key);
        file.line(&signature).await?;
        file.finish().await?;
        let Sums { objects, bytes, samples } = sums;
        self.change(
            bucket,
            &frozen.prefix,
            DatasetChange::Manifest(FrozenManifest { key, sha256, objects, bytes, samples }),
        )
        .await
    }

    async fn samples(&self, bucket: &BucketName, name: &str) -> Result<u64, AiError> {
        let key = ObjectKey::new(name.to_owned()).map_err(|error| AiError::Invalid(error.to_string()))?;
        let found = Found::look_up(&self.store, bucket, &key, None).await?;
        match self.shards.index(&found).await {
            Ok(index) => Ok(index.samples() as u64),
            Err(AiError::Store(error)) => Err(error.into()),
            Err(error) => Err(AiError::Invalid(format!("{bucket}/{name}: {error}"))),
        }
    }

    /// Reads a frozen dataset's manifest, checking its bytes against the bucket's record.
    ///
    /// # Errors
    /// [`AiError::Invalid`] if it is not what was signed, the store's.
    pub async fn read(
        &self,
        bucket: &BucketName,
        prefix: &str,
        each: impl FnMut(Entry),
    ) -> Result<FrozenManifest, AiError> {
        read_manifest(&self.store, bucket, &self.frozen(bucket, prefix)?, each).await
    }

    /// Checks a frozen dataset: the manifest against its signature, every object against the manifest, and that there are
    /// no others. `deep` reads every byte.
    ///
    /// # Errors
    /// The store's; what does not agree is in the result.
    pub async fn verify(&self, bucket: &BucketName, prefix: &str, deep: bool) -> Result<Verified, AiError> {
        let frozen = self.frozen(bucket, prefix)?;
        let manifest = finished(bucket, &frozen)?;
        let mut found = Verified { public_key: hex::encode(self.signer().await?.public_key()), ..Verified::default() };
        found.manifest_sha256 = hex::encode(manifest.sha256);
        match self.signature(bucket, &manifest).await {
            Ok(file) => {
                if let Err(why) = file.check(&manifest.sha256, Some(&found.public_key)) {
                    found.wrong(why);
                }
            }
            Err(error) => found.wrong(format!("the signature cannot be read: {error}")),
        }
        // Manifest and listing are in the same order: one pass over both, however many there are.
        let (_, mut body) = self.store.get(get(bucket, manifest.key.clone())).await?;
        let (mut reader, mut hasher) = (Reader::default(), ChecksumHasher::new(ChecksumAlgorithm::Sha256));
        let mut others = Others::new(bucket.clone(), prefix.to_owned());
        let mut lines = Vec::new();
        while let Some(frame) = body.next().await.transpose()? {
            hasher.update(&frame);
            let fed = reader.feed(&frame, |entry| {
                if let Entry::Object(line) = entry {
                    lines.push(line);
                }
            });
            if let Err(why) = fed {
                found.wrong(why);
                return Ok(found);
            }
            for line in lines.drain(..) {
                others.up_to(&self.store, Some(&line.key), &mut found).await?;
                match self.check_object(bucket, &line, deep).await {
                    Ok(()) => {
                        found.objects += 1;
                        found.bytes += line.size;
                    }
                    Err(why) => found.wrong(format!("{}: {why}", line.key)),
                }
            }
        }
        others.up_to(&self.store, None, &mut found).await?;
        if sha256(hasher) != manifest.sha256 {
            found.wrong("the SHA-256 of the manifest is not the one that was signed".to_owned());
        }
        if let Err(why) = reader.finish() {
            found.wrong(why);
        }
        Ok(found)
    }

    async fn signature(&self, bucket: &BucketName, manifest: &FrozenManifest) -> Result<SignatureFile, String> {
        let key = ObjectKey::new(format!("{}.sig", manifest.key)).map_err(|error| error.to_string())?;
        let (_, mut body) = self.store.get(get(bucket, key)).await.map_err(|error| error.to_string())?;
        let mut text = BytesMut::new();
        while let Some(frame) = body.next().await.transpose().map_err(|error| error.to_string())? {
            text.extend_from_slice(&frame);
            if text.len() > crate::ai::manifest::LINE_BYTES_MAX {
                return Err("it is too long".to_owned());
            }
        }
        serde_json::from_slice(&text).map_err(|error| error.to_string())
    }

    async fn check_object(&self, bucket: &BucketName, line: &Line, deep: bool) -> Result<(), String> {
        let key = ObjectKey::new(line.key.clone()).map_err(|error| error.to_string())?;
        let mut request = get(bucket, key);
        request.version = match &line.version {
            Some(text) => Some(text.parse::<VersionId>().map_err(|_| "its version is not a version id".to_owned())?),
            None => None,
        };
        let info = self.store.head(request.clone()).await.map_err(|error| error.to_string())?;
        let object = &info.object;
        if object.size_bytes != line.size {
            return Err(format!("it has {} bytes, the manifest says {}", object.size_bytes, line.size));
        }
        if object.etag != line.etag || object.checksum.as_ref().map(named) != line.checksum {
            return Err("its ETag or checksum is not the one in the manifest".to_owned());
        }
        if !deep {
            return Ok(());
        }
        let claimed = object.checksum.clone().filter(|checksum| checksum.kind == ChecksumKind::FullObject);
        let mut hasher = claimed.as_ref().map(|checksum| ChecksumHasher::new(checksum.algorithm));
        let (_, mut body) = self.store.get(request).await.map_err(|error| error.to_string())?;
        while let Some(frame) = body.next().await.transpose().map_err(|error| error.to_string())? {
            if let Some(hasher) = &mut hasher {
                hasher.update(&frame);
            }
        }
        match (hasher.map(ChecksumHasher::finish), claimed) {
            (Some(found), Some(claimed)) if found.value != claimed.value => {
                Err("its bytes do not have the checksum in the manifest".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// The dataset and what it was made from, and so on.
    ///
    /// # Errors
    /// The store's; [`AiError::Invalid`] if the prefix is not frozen.
    pub async fn lineage(&self, bucket: &BucketName, prefix: &str) -> Result<Lineage, AiError> {
        self.frozen(bucket, prefix)?;
        let mut left = WALK_MAX;
        self.walk(bucket.to_string(), prefix.to_owned(), None, &mut left).await
    }

    fn walk<'a>(
        &'a self,
        bucket: String,
        prefix: String,
        named: Option<String>,
        left: &'a mut usize,
    ) -> futures::future::BoxFuture<'a, Result<Lineage, AiError>> {
        Box::pin(async move {
            *left = left
                .checked_sub(1)
                .ok_or_else(|| AiError::Invalid(format!("more than {WALK_MAX} datasets lie behind this one")))?;
            let name = BucketName::new(&bucket).ok();
            let frozen = name.as_ref().and_then(|name| self.frozen(name, &prefix).ok());
            let (Some(name), Some(frozen)) = (name, frozen) else {
                return Ok(Lineage { bucket, prefix, manifest_sha256: named, state: "missing", sources: Vec::new() });
            };
            let mut head = None;
            let manifest = read_manifest(&self.store, &name, &frozen, |entry| {
                if let Entry::Head(found) = entry {
                    head = Some(found);
                }
            })
            .await?;
            let sha256 = hex::encode(manifest.sha256);
            let state = if named.is_none_or(|named| named == sha256) { "frozen" } else { "changed" };
            let mut sources = Vec::new();
            for Source { bucket, prefix, manifest_sha256 } in head.map(|head| head.sources).unwrap_or_default() {
                sources.push(self.walk(bucket, prefix, Some(manifest_sha256), left).await?);
            }
            Ok(Lineage { bucket, prefix, manifest_sha256: Some(sha256), state, sources })
        })
    }
}

/// The manifest of a dataset whose freezing came to its end.
fn finished(bucket: &BucketName, frozen: &FrozenPrefix) -> Result<FrozenManifest, AiError> {
    frozen.manifest.clone().ok_or_else(|| {
        let prefix = &frozen.prefix;
        AiError::Invalid(format!("{bucket}/{prefix} is closed but has no manifest yet: freeze it again to finish"))
    })
}

/// A walk over what is under a prefix, beside a manifest's lines.
struct Others {
    bucket: BucketName,
    list: ListRequest,
    page: std::vec::IntoIter<String>,
    next: Option<String>,
    ended: bool,
}

impl Others {
    fn new(bucket: BucketName, prefix: String) -> Self {
        let list = ListRequest { prefix, max_keys: 1000, ..ListRequest::default() };
        Self { bucket, list, page: Vec::new().into_iter(), next: None, ended: false }
    }

    /// Goes on to `key` (or the end), and tells of keys before it, which the manifest does not name.
    async fn up_to(&mut self, store: &Store, key: Option<&str>, found: &mut Verified) -> Result<(), AiError> {
        loop {
            if self.next.is_none() {
                self.next = self.page.next();
            }
            match &self.next {
                Some(next) if key.is_some_and(|key| next.as_str() > key) => return Ok(()),
                Some(next) => {
                    if key != Some(next.as_str()) {
                        found.wrong(format!("{next}: it is not in the manifest"));
                    }
                    self.next = None;
                }
                None if self.ended => return Ok(()),
                None => {
                    let page = store.list(&self.bucket, &self.list).await?;
                    let keys: Vec<_> = page.objects.into_iter().map(|(key, _)| key).collect();
                    self.page = keys.into_iter();
                    self.ended = page.next_after.is_none();
                    self.list.after = page.next_after;
                }
            }
        }
    }
}

fn get(bucket: &BucketName, key: ObjectKey) -> GetRequest {
    GetRequest {
        bucket: bucket.clone(),
        key,
        version: None,
        portion: Portion::Whole,
        condition: ReadCondition::default(),
        unlock: Unlock::Plain,
    }
}

/// Reads the manifest of a frozen dataset and checks that it is the one in the bucket's record.
///
/// # Errors
/// [`AiError::Invalid`] if it is not finished or not the one, the store's.
pub async fn read_manifest(
    store: &dyn crate::api::ObjectStore,
    bucket: &BucketName,
    frozen: &FrozenPrefix,
    mut each: impl FnMut(Entry),
) -> Result<FrozenManifest, AiError> {
    let prefix = &frozen.prefix;
    let manifest = finished(bucket, frozen)?;
    let bad = |why: String| AiError::Invalid(format!("the manifest of {bucket}/{prefix}: {why}"));
    let (_, mut body) = store.get(get(bucket, manifest.key.clone())).await?;
    let (mut reader, mut hasher) = (Reader::default(), ChecksumHasher::new(ChecksumAlgorithm::Sha256));
    while let Some(frame) = body.next().await.transpose()? {
        hasher.update(&frame);
        reader.feed(&frame, &mut each).map_err(bad)?;
    }
    if sha256(hasher) != manifest.sha256 {
        return Err(bad("its SHA-256 is not the one that was signed".to_owned()));
    }
    reader.finish().map_err(bad)?;
    Ok(manifest)
}

/// An object written line by line: at once if it is small, in parts else.
struct Writer {
    store: Store,
    bucket: BucketName,
    key: ObjectKey,
    attributes: Attributes,
    buffer: Vec<u8>,
    hasher: ChecksumHasher,
    upload: Option<(granary_types::UploadId, Vec<CompletedPart>)>,
}

impl Writer {
    fn new(store: Store, bucket: &BucketRecord, key: ObjectKey) -> Self {
        let headers =
            SystemHeaders { content_type: Some("application/x-ndjson".to_owned()), ..SystemHeaders::default() };
        let attributes = Attributes { headers, owner: bucket.owner.clone(), ..Attributes::default() };
        let hasher = ChecksumHasher::new(ChecksumAlgorithm::Sha256);
        Self { store, bucket: bucket.name.clone(), key, attributes, buffer: Vec::new(), hasher, upload: None }
    }

    async fn line(&mut self, value: &impl Serialize) -> Result<(), AiError> {
        let from = self.buffer.len();
        serde_json::to_writer(&mut self.buffer, value).map_err(|error| StoreError::Internal(error.to_string()))?;
        self.buffer.push(b'\n');
        self.hasher.update(&self.buffer[from..]);
        if self.buffer.len() >= PART_BYTES { self.part().await } else { Ok(()) }
    }

    async fn part(&mut self) -> Result<(), AiError> {
        if self.upload.is_none() {
            let request = CreateUploadRequest {
                bucket: self.bucket.clone(),
                key: self.key.clone(),
                attributes: self.attributes.clone(),
                checksum_algorithm: None,
                checksum_kind: None,
            };
            self.upload = Some((self.store.create_upload(request).await?.id, Vec::new()));
        }
        let bytes = std::mem::take(&mut self.buffer);
        let Some((upload, parts)) = &mut self.upload else { return Ok(()) };
        let number = u16::try_from(parts.len() + 1)
            .map_err(|_| AiError::Invalid("the dataset has too many objects for one manifest".to_owned()))?;
        let request = UploadPartRequest {
            bucket: self.bucket.clone(),
            key: self.key.clone(),
            upload: *upload,
            number,
            size_bytes: bytes.len() as u64,
            claims: claims(),
            body: body(bytes),
            customer_key: None,
        };
        let part = self.store.upload_part(request).await?.part;
        parts.push(CompletedPart { number, etag: part.etag, checksum: None });
        Ok(())
    }

    async fn finish(mut self) -> Result<[u8; 32], AiError> {
        if self.upload.is_some() && !self.buffer.is_empty() {
            self.part().await?;
        }
        let sha256 = sha256(self.hasher);
        let (bucket, key) = (self.bucket.clone(), self.key.clone());
        let done = match self.upload {
            Some((upload, parts)) => {
                let condition = Condition::default();
                let (checksum, size_bytes) = (None, None);
                let request =
                    CompleteRequest { bucket, key, upload, parts, checksum, size_bytes, condition, customer_key: None };
                self.store.complete_upload(request).await
            }
            None => {
                let request = PutRequest {
                    bucket,
                    key,
                    size_bytes: self.buffer.len() as u64,
                    attributes: self.attributes,
                    claims: claims(),
                    condition: Condition::default(),
                    body: body(self.buffer),
                    customer_key: None,
                };
                self.store.put(request).await
            }
        };
        match done {
            Ok(_) => Ok(sha256),
            // A freeze that was cut off wrote it already: fine, if it is the same.
            Err(StoreError::Refused(Refusal::WriteOnce)) => {
                let (_, mut body) = self.store.get(get(&self.bucket, self.key.clone())).await?;
                let mut hasher = ChecksumHasher::new(ChecksumAlgorithm::Sha256);
                while let Some(frame) = body.next().await.transpose()? {
                    hasher.update(&frame);
                }
                if self::sha256(hasher) == sha256 {
                    return Ok(sha256);
                }
                Err(AiError::Invalid(format!("{} exists already with other bytes", self.key)))
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn claims() -> Claims {
    Claims { md5: None, checksum: None, algorithm: Some(ChecksumAlgorithm::Crc64nvme), trailer: None }
}

fn body(bytes: Vec<u8>) -> crate::api::BodyIn {
    futures::stream::once(std::future::ready(Ok(Bytes::from(bytes)))).boxed()
}
