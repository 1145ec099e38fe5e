//! One fetch: ask the upstream, take the object in as any other, commit it only if everything it was said to be holds.
//!
//! Runs as a task of its own, so that a client that goes away does not stop what others wait for. What a crash leaves of it are
//! orphan shards, as of any write.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use granary_meta::command::{Command, Outcome, Refusal};
use granary_meta::records::{
    Attributes, BucketRecord, Fetched, FetchedObject, ObjectRecord, Parts, Verified, VersionBody, VersionRecord,
    Versioning,
};
use granary_types::limits::{KEY_BYTES_MAX, PART_BYTES_MAX};
use granary_types::{BucketId, ChecksumKind, ObjectKey, Timestamp, VersionId, hex};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::flights::{Landing, Part, Waiting};
use super::rule::Source;
use super::scope::FetchScope;
use super::tee::{self, Relay, Tee, Watch};
use super::{BucketStats, RemoteBody, RemoteGet, RemoteHead, UpstreamError, Wire};
use crate::api::{BodyError, Claims, Result};
use crate::audit::{AuditScope, part, scoped};
use crate::error::StoreError;
use crate::header::PartOf;
use crate::ingest::IngestSpec;
use crate::inner::{Inner, from_meta};
use crate::objects::with_default_retention;
use crate::origin;

/// Keys remembered as absent, and copies remembered as checked, at most.
const REMEMBERED_MAX: usize = 1 << 16;
/// Bytes of an object's user metadata that are taken over, at most.
const METADATA_BYTES_MAX: usize = 8 * 1024;
/// Characters of an ETag, at most.
const ETAG_CHARS_MAX: usize = 256;

/// A copy that is checked: its creation time and the ETag that it was fetched with.
pub(crate) type Copied = (Timestamp, String);

/// What is remembered of upstreams between requests; lost with the process, which only costs asking again.
#[derive(Default)]
pub(crate) struct Memory {
    /// Until when a key is taken to be absent, by the setting that was asked.
    absent: Mutex<HashMap<(BucketId, String), (u64, Timestamp)>>,
    /// When a copy was last found right.
    checked: Mutex<HashMap<(BucketId, String), Checked>>,
}

/// A copy's creation time, and when it was checked.
type Checked = (Timestamp, Timestamp);

fn remember<V>(map: &Mutex<HashMap<(BucketId, String), V>>, bucket: BucketId, key: &str, value: V) {
    let mut map = map.lock();
    if map.len() >= REMEMBERED_MAX {
        map.clear();
    }
    map.insert((bucket, key.to_owned()), value);
}

impl Memory {
    pub(crate) fn is_absent(&self, bucket: BucketId, key: &str, rule: u64, now: Timestamp) -> bool {
        let known = self.absent.lock().get(&(bucket, key.to_owned())).copied();
        known.is_some_and(|(of, until)| of == rule && now < until)
    }

    fn note_absent(&self, bucket: BucketId, key: &str, source: &Source, now: Timestamp) {
        if source.rule.absent_s > 0 {
            let until = Timestamp(now.0.saturating_add(source.rule.absent_s.saturating_mul(1_000_000)));
            remember(&self.absent, bucket, key, (source.rule.id, until));
        }
    }

    /// Since when a copy is known to be right.
    pub(crate) fn checked_at(&self, bucket: BucketId, key: &str, created: Timestamp) -> Option<Timestamp> {
        let known = self.checked.lock().get(&(bucket, key.to_owned())).copied();
        known.filter(|(of, _)| *of == created).map(|(_, at)| at)
    }
}

/// A fetch somebody takes part in: how it ends, and, for who started it, perhaps the bytes as they come.
pub(crate) struct Joined {
    pub(crate) waiting: Waiting,
    pub(crate) tee: Option<oneshot::Receiver<Tee>>,
}

/// What one fetch is about.
struct Fetch {
    inner: Arc<Inner>,
    wire: Wire,
    bucket: Arc<BucketRecord>,
    source: Arc<Source>,
    key: ObjectKey,
    replaces: Option<Copied>,
    request_id: String,
}

impl Inner {
    /// The client that talks to upstreams.
    pub(crate) fn wire(&self, bucket: &BucketRecord) -> Result<&Wire> {
        self.wire.get().ok_or_else(|| {
            StoreError::Unavailable(format!("this program cannot reach the upstream of bucket {}", bucket.name))
        })
    }

    /// Takes part in the fetch of `key`: starts it, unless it runs. `replaces`: the copy that is checked.
    pub(crate) fn fetch(
        self: &Arc<Self>,
        bucket: &Arc<BucketRecord>,
        source: &Arc<Source>,
        key: &ObjectKey,
        replaces: Option<Copied>,
        wants_tee: bool,
    ) -> Result<Joined> {
        let wire = self.wire(bucket)?.clone();
        match self.flights.join(bucket.id, key.as_str()) {
            Part::Waits(waiting) => Ok(Joined { waiting, tee: None }),
            Part::Leads(ticket, waiting) => {
                let (tee_in, tee_out) = oneshot::channel();
                let fetch = Fetch {
                    inner: Arc::clone(self),
                    wire,
                    bucket: Arc::clone(bucket),
                    source: Arc::clone(source),
                    key: key.clone(),
                    replaces,
                    request_id: origin::request_id(),
                };
                let tee_in = wants_tee.then_some(tee_in);
                let task = tokio::spawn(part("upstream", async move {
                    let landing = fetch.run(tee_in).await;
                    ticket.land(landing);
                }));
                self.flights.started(bucket.id, key.as_str(), task.abort_handle());
                Ok(Joined { waiting, tee: wants_tee.then_some(tee_out) })
            }
        }
    }

    /// Notes that the upstream does not have a key.
    pub(crate) fn note_absent(&self, bucket: &BucketRecord, key: &ObjectKey, source: &Source) {
        self.upstream_memory.note_absent(bucket.id, key.as_str(), source, self.clock.now());
    }
}

/// Counts and logs what an upstream did wrong, once, where it is noticed.
pub(crate) fn noticed(bucket: &BucketRecord, source: &Source, key: &str, error: &UpstreamError) {
    BucketStats::add(&source.stats.errors, 1);
    if matches!(error, UpstreamError::Lied(_)) {
        BucketStats::add(&source.stats.lies, 1);
    }
    tracing::warn!(bucket = %bucket.name, upstream = %source.site.shown(), key, %error, "the upstream did not do");
}

/// Whether what an upstream says of an object can be kept at all.
pub(crate) fn check_head(head: &RemoteHead) -> std::result::Result<(), UpstreamError> {
    let lied = |why: String| Err(UpstreamError::Lied(why));
    let etag_fits = !head.etag.is_empty()
        && head.etag.len() <= ETAG_CHARS_MAX
        && head.etag.bytes().all(|b| b.is_ascii_graphic() && b != b'"');
    if !etag_fits {
        return lied("its ETag is none".to_owned());
    }
    let metadata: usize = head.user_metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    if metadata > METADATA_BYTES_MAX {
        return lied(format!("its metadata has {metadata} bytes, at most {METADATA_BYTES_MAX} are taken"));
    }
    Ok(())
}

/// The object as it will be, without its parts.
pub(crate) fn object_of(head: &RemoteHead, attributes: Attributes) -> ObjectRecord {
    ObjectRecord {
        size_bytes: head.size_bytes,
        etag: head.etag.clone(),
        checksum: head.checksum.clone(),
        parts: Parts::Empty,
        attributes,
    }
}

/// A version that is not here (yet), as it is shown.
pub(crate) fn version_of(object: ObjectRecord, source: Fetched) -> VersionRecord {
    let created = source.modified;
    let body = VersionBody::Fetched(Box::new(FetchedObject { object, source }));
    VersionRecord { version: VersionId::NULL, created, body }
}

/// What will hold of an object's bytes once they are all here.
fn verified(head: &RemoteHead, claims: &Claims) -> Verified {
    match (&head.checksum, claims.md5) {
        (Some(_), _) => Verified::Checksum,
        (None, Some(_)) => Verified::Md5,
        (None, None) => Verified::Length,
    }
}

/// What the upstream said, as claims that are checked before anything is committed.
fn claims_of(head: &RemoteHead) -> Claims {
    let md5 = if head.etag_may_be_md5 { hex::decode_array::<16>(&head.etag) } else { None };
    let checksum = head.checksum.clone().filter(|checksum| checksum.kind == ChecksumKind::FullObject);
    Claims { md5, checksum, algorithm: None, trailer: None }
}

impl Fetch {
    async fn run(self, tee: Option<oneshot::Sender<Tee>>) -> Landing {
        let landing = self.ask(tee).await;
        match &landing {
            Landing::Upstream(error) => noticed(&self.bucket, &self.source, self.key.as_str(), error),
            Landing::Own(error) => {
                tracing::warn!(bucket = %self.bucket.name, key = self.key.as_str(), %error, "a fetch was not stored");
            }
            _ => {}
        }
        landing
    }

    async fn ask(&self, tee: Option<oneshot::Sender<Tee>>) -> Landing {
        let inner = &self.inner;
        let _permit = match inner.fetch_permit().await {
            Ok(permit) => permit,
            Err(error) => return Landing::Own(Arc::new(error)),
        };
        // Since the caller looked, it may have been changed; from here on a change cuts this task.
        match inner.index().and_then(|index| index.is_unwritten(self.bucket.id, self.key.as_str()).map_err(from_meta)) {
            Ok(false) => {}
            Ok(true) => return Landing::Overtaken,
            Err(error) => return Landing::Own(Arc::new(error)),
        }
        let remote = self.source.site.key(self.key.as_str());
        if remote.len() > KEY_BYTES_MAX {
            return Landing::Absent;
        }
        let unless = self.replaces.as_ref().map(|(_, etag)| etag.as_str());
        match self.wire.client.get(&self.source.site, &remote, unless).await {
            Err(error) => Landing::Upstream(error),
            Ok(RemoteGet::Object(head, body)) => match check_head(&head) {
                Ok(()) => self.store(*head, body, tee).await,
                Err(error) => Landing::Upstream(error),
            },
            Ok(RemoteGet::NotModified) => match &self.replaces {
                Some((created, _)) => {
                    self.found_right(*created);
                    BucketStats::add(&self.source.stats.revalidated, 1);
                    Landing::Current
                }
                None => Landing::Upstream(UpstreamError::Lied("304 to a request without a condition".to_owned())),
            },
            Ok(RemoteGet::Absent) => self.absent().await,
        }
    }

    fn found_right(&self, created: Timestamp) {
        let now = self.inner.clock.now();
        remember(&self.inner.upstream_memory.checked, self.bucket.id, self.key.as_str(), (created, now));
    }

    async fn absent(&self) -> Landing {
        self.inner.note_absent(&self.bucket, &self.key, &self.source);
        let Some((created, _)) = &self.replaces else { return Landing::Absent };
        let command = Command::DropFetched { bucket: self.bucket.id, key: self.key.clone(), created: *created };
        match self.propose("DropFetchedObject", Vec::new(), command).await {
            Ok(_) => Landing::Absent,
            Err(StoreError::Refused(Refusal::Conflict)) => Landing::Overtaken,
            Err(error) => Landing::Own(Arc::new(error)),
        }
    }

    async fn propose(&self, name: &'static str, more: Vec<(String, String)>, command: Command) -> Result<Outcome> {
        let mut parameters = vec![("upstream".to_owned(), self.source.site.shown())];
        parameters.extend(more);
        let scope: Arc<dyn AuditScope> = Arc::new(FetchScope {
            name,
            region: self.inner.options.region.clone(),
            at: self.inner.clock.now(),
            bucket: self.bucket.name.as_str().to_owned(),
            key: self.key.as_str().to_owned(),
            request_id: self.request_id.clone(),
            parameters,
        });
        scoped(scope, self.inner.propose(command)).await
    }

    async fn store(&self, head: RemoteHead, body: RemoteBody, tee: Option<oneshot::Sender<Tee>>) -> Landing {
        let watch = Arc::new(Watch::default());
        match self.take_in(head, body, tee, &watch).await {
            Ok(created) => {
                self.found_right(created);
                Landing::Landed { created }
            }
            Err(error) => match (watch.fault(), error) {
                (Some(fault), _) => Landing::Upstream(fault),
                (None, StoreError::Refused(Refusal::Conflict)) => Landing::Overtaken,
                (None, error) => match lie(&error) {
                    Some(fault) => Landing::Upstream(fault),
                    None => Landing::Own(Arc::new(error)),
                },
            },
        }
    }

    async fn take_in(
        &self,
        head: RemoteHead,
        body: RemoteBody,
        tee: Option<oneshot::Sender<Tee>>,
        watch: &Arc<Watch>,
    ) -> Result<Timestamp> {
        let (inner, bucket, key) = (&self.inner, &self.bucket, &self.key);
        if head.size_bytes > PART_BYTES_MAX {
            watch.set(UpstreamError::Rejected(format!(
                "it has {} bytes, and objects of more than {PART_BYTES_MAX} are not fetched",
                head.size_bytes
            )));
            return Err(StoreError::EntityTooLarge { size_bytes: head.size_bytes, max_bytes: PART_BYTES_MAX });
        }
        let is_first = self.replaces.is_none();
        inner.check_quota_before_body(bucket, key, if is_first { head.size_bytes } else { 0 })?;
        let attributes = Attributes {
            headers: head.headers.clone(),
            user_metadata: head.user_metadata.clone(),
            owner: bucket.owner.clone(),
            sse: (self.wire.default_sse)(bucket)?,
            ..Attributes::default()
        };
        let mut attributes = with_default_retention(bucket, attributes, inner.clock.now());
        inner.settle_sse(&mut attributes.sse).await?;
        let claims = claims_of(&head);
        let source = Fetched {
            etag: head.etag.clone(),
            modified: head.modified,
            at: inner.clock.now(),
            verified: verified(&head, &claims),
        };
        // Of a versioned bucket the answer names the version, which is not known yet.
        let is_large = head.size_bytes >= inner.options.upstream.tee_bytes_min.max(1);
        let relay = match tee.filter(|_| is_large && bucket.versioning == Versioning::Off) {
            None => None,
            Some(tee) => {
                let (frames_in, frames) = mpsc::channel::<Bytes>(tee::FRAMES_MAX);
                let record = version_of(object_of(&head, attributes.clone()), source.clone());
                // Nobody there any more: the fetch goes on.
                let is_taken = tee.send(Tee { record, frames }).is_ok();
                is_taken.then(|| Relay::new(frames_in, inner.options.upstream.tee_patience))
            }
        };
        let body = tee::watched(body, head.size_bytes, inner.options.upstream.stall, Arc::clone(watch), relay);
        let spec = IngestSpec {
            bucket,
            key,
            of: PartOf::Object,
            size_bytes: head.size_bytes,
            etag: bucket.options.etag,
            attributes: &attributes,
            customer_key: None,
        };
        let ingested = inner.ingest(spec, claims, body.boxed()).await?;
        let mut part = ingested.part;
        part.etag.clone_from(&head.etag);
        let checksum = part.checksum.clone();
        let parts = if head.size_bytes == 0 { Parts::Empty } else { Parts::One(Box::new(part)) };
        let object = Box::new(ObjectRecord { checksum, parts, ..object_of(&head, attributes) });
        let more = [
            ("bytes", head.size_bytes.to_string()),
            ("etag", head.etag.clone()),
            ("verified", format!("{:?}", source.verified).to_ascii_lowercase()),
        ];
        let more = more.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let command = Command::PutFetched {
            bucket: bucket.id,
            key: key.clone(),
            object,
            inline: ingested.inline,
            nonce: rand::random(),
            source,
            replaces: self.replaces.as_ref().map(|(created, _)| *created),
        };
        match self.propose("FetchObject", more, command).await? {
            Outcome::Put { created, .. } => {
                BucketStats::add(&self.source.stats.fetched, 1);
                BucketStats::add(&self.source.stats.fetched_bytes, head.size_bytes);
                Ok(created)
            }
            other => Err(crate::objects::unexpected(&other)),
        }
    }
}

/// What a body that failed its claims says of who sent it; `None`: it is not their fault.
fn lie(error: &StoreError) -> Option<UpstreamError> {
    Some(match error {
        StoreError::BadDigest => UpstreamError::Lied("the MD5 of what it sent is not its ETag".to_owned()),
        StoreError::BadChecksum { algorithm } => {
            UpstreamError::Lied(format!("the {} that it gave is not that of what it sent", algorithm.name()))
        }
        StoreError::IncompleteBody { want_bytes, got_bytes } => {
            UpstreamError::Lied(format!("it announced {want_bytes} bytes and sent {got_bytes}"))
        }
        StoreError::Body(BodyError::Read(why)) => UpstreamError::Unreachable(why.clone()),
        _ => return None,
    })
}
