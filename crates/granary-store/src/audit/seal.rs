//! The trail's life in a node: marked at start and end, sealed in between, expired when it is old enough.
//!
//! A segment and its seal are written to the drives as objects of the audit bucket, and one command
//! makes them visible and takes their events out of the index: there is no moment at which an event is in neither.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use granary_audit::{ClockState, SealInput, Sealer, write_segment};
use granary_meta::AUDIT_KEEP_DAYS;
use granary_meta::command::{Command, Refusal, SealAudit, SealedObject};
use granary_meta::records::{Attributes, BucketOptions, BucketRecord, ObjectRecord, Parts, SystemHeaders};
use granary_types::date;
use granary_types::limits::AUDIT_KEEP_DAYS_MIN;
use granary_types::names::AUDIT_BUCKET;
use granary_types::{BucketName, ObjectKey, Timestamp};
use tokio::sync::watch;

use super::{AuditLog, node_event, part};
use crate::api::{Claims, CreateBucketRequest, ListRequest, Result};
use crate::error::StoreError;
use crate::header::PartOf;
use crate::ingest::{IngestSpec, Ingested};
use crate::inner::{Inner, from_meta};

/// System record that is there while a node runs: found at a start, the last end was a crash.
const RUNNING: &str = "audit/running";
/// System record with what keys of segments begin with, where a trail had to begin anew beside an older one.
const PREFIX: &str = "audit/prefix";
/// Events and bytes of a segment, at most.
const SEGMENT_EVENTS_MAX: usize = 10_000;
const SEGMENT_BYTES_MAX: usize = 32 << 20;
/// How often it is looked whether there is something to do.
const TICK: Duration = Duration::from_millis(200);
/// How often old segments are looked for, beginning with the start.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(3600);
const DAY_US: u64 = 24 * 60 * 60 * 1_000_000;

/// What the trail of a node needs beside the store.
pub(crate) struct Trail {
    pub(crate) sealer: Sealer,
    pub(crate) cluster: String,
    pub(crate) log: Arc<AuditLog>,
    /// The clock's state, read from the system.
    pub(crate) clock: fn() -> ClockState,
    /// One seal at a time.
    pub(crate) turn: tokio::sync::Mutex<()>,
}

/// Makes the audit bucket (`owner` is the account whose root and auditors read it) if it is not there, and marks the start: with a gap, where the last end was none.
///
/// # Errors
/// When the log does not take it: then nothing may be served.
pub(crate) async fn begin(inner: &Arc<Inner>, version: &str, owner: &str) -> Result<()> {
    let name = BucketName::new(AUDIT_BUCKET).map_err(|error| StoreError::Internal(error.to_string()))?;
    if inner.index()?.bucket(&name).is_none() {
        let options = BucketOptions::default();
        let request = CreateBucketRequest {
            name: name.clone(),
            owner: owner.to_owned(),
            region: None,
            options,
            documents: std::collections::BTreeMap::new(),
        };
        part("audit", inner.create_bucket(request)).await?;
    }
    keep_longer(inner).await?;
    let state = inner.index()?.audit_state();
    if state.sealed.segment == 0
        && inner.system(PREFIX)?.is_none()
        && !inner
            .list_here(&*inner.bucket(&name)?, &ListRequest { max_keys: 1, ..ListRequest::default() })?
            .objects
            .is_empty()
    {
        // The index was lost and rebuilt from shards: a new chain beside the old one's segments.
        let prefix = format!("after-{}/", date::iso_micros(inner.clock.now()));
        part("audit", inner.set_system(PREFIX, Some(prefix.into()))).await?;
    }
    let now = inner.clock.now();
    let mut start = node_event("StartNode", &inner.options.region, now);
    start.parameters.push(("version".to_owned(), version.to_owned()));
    if let Some(before) = inner.system(RUNNING)? {
        let mut gap = node_event("AuditGap", &inner.options.region, now);
        gap.parameters = vec![
            ("since".to_owned(), String::from_utf8_lossy(&before).into_owned()),
            ("lost".to_owned(), "unknown".to_owned()),
            (
                "meaning".to_owned(),
                format!(
                    "the node ended without being stopped: events of reads and refused requests of its last {} ms, and of \
                     requests that were being served, may be missing; no event of a change that was answered is",
                    inner.options.audit.flush_interval.as_millis()
                ),
            ),
        ];
        start.parameters.push(("previousEnd".to_owned(), "crash".to_owned()));
        let events = vec![gap.encode().into()];
        inner.meta.propose(Command::Audit { events }).await.map_err(from_meta)?;
    } else {
        start.parameters.push(("previousEnd".to_owned(), "clean".to_owned()));
    }
    let command = Command::SetSystem { name: RUNNING.to_owned(), value: Some(date::iso_micros(now).into()) };
    inner.meta.propose_audited(command, Some(start.encode().into())).await.map_err(from_meta)?;
    Ok(())
}

/// The setting can only raise what has been promised before.
async fn keep_longer(inner: &Arc<Inner>) -> Result<()> {
    let promised = inner.keep_days()?;
    let wanted = inner.options.audit.keep_days;
    if wanted < promised {
        return Err(StoreError::Invalid(format!(
            "audit.keep_days is {wanted}, and the trail was promised to be kept {promised} days: it can only be raised"
        )));
    }
    if wanted > promised || inner.system(AUDIT_KEEP_DAYS)?.is_none() {
        part("audit", inner.set_system(AUDIT_KEEP_DAYS, Some(wanted.to_string().into()))).await?;
    }
    Ok(())
}

/// Marks the end in good order, after the last request.
pub(crate) async fn end(inner: &Arc<Inner>, trail: &Trail) -> Result<()> {
    trail.log.drain(inner).await;
    let stop = node_event("StopNode", &inner.options.region, inner.clock.now());
    let command = Command::SetSystem { name: RUNNING.to_owned(), value: None };
    inner.meta.propose_audited(command, Some(stop.encode().into())).await.map_err(from_meta)?;
    Ok(())
}

/// Writes, seals and expires until `stop` turns true.
pub(crate) async fn run(inner: Arc<Inner>, trail: Arc<Trail>, mut stop: watch::Receiver<bool>) {
    let options = inner.options.audit.clone();
    let writer = trail.log.run(&inner, options.flush_interval, stop.clone());
    let sealer = async {
        let mut sealed_at = tokio::time::Instant::now();
        let mut expired_at = None::<tokio::time::Instant>;
        loop {
            let tick = TICK.min(options.seal_interval);
            if tokio::time::timeout(tick, stop.wait_for(|stop| *stop)).await.is_ok() {
                break;
            }
            let Ok(index) = inner.index() else { continue };
            let unsealed = index.audit_state().unsealed();
            drop(index);
            trail.log.judge(unsealed, &options);
            if unsealed > 0 && (unsealed >= options.seal_events || sealed_at.elapsed() >= options.seal_interval) {
                match seal_all(&inner, &trail).await {
                    Ok(_) => sealed_at = tokio::time::Instant::now(),
                    Err(error) => {
                        tracing::warn!(%error, unsealed, "the audit trail is not sealed yet; it will be tried again");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
            }
            if expired_at.is_none_or(|at| at.elapsed() >= EXPIRY_INTERVAL) {
                expired_at = Some(tokio::time::Instant::now());
                if let Err(error) = part("audit", expire(&inner)).await {
                    tracing::warn!(%error, "old audit segments could not be removed; it will be tried again");
                }
            }
        }
    };
    tokio::join!(writer, sealer);
}

/// Seals everything that waits now. Returns how many segments were made.
pub(crate) async fn seal_all(inner: &Arc<Inner>, trail: &Trail) -> Result<u64> {
    let _turn = trail.turn.lock().await;
    let through = inner.index()?.audit_state().next - 1;
    let mut made = 0;
    while inner.index()?.audit_state().sealed.through < through {
        seal_one(inner, trail).await?;
        made += 1;
    }
    Ok(made)
}

async fn seal_one(inner: &Arc<Inner>, trail: &Trail) -> Result<()> {
    let name = BucketName::new(AUDIT_BUCKET).map_err(|error| StoreError::Internal(error.to_string()))?;
    let bucket = inner.bucket(&name)?;
    let index = inner.index()?;
    let state = index.audit_state();
    let first = state.sealed.through + 1;
    let records = index.audit_records(first, SEGMENT_EVENTS_MAX, SEGMENT_BYTES_MAX).map_err(from_meta)?;
    drop(index);
    let through = state.sealed.through + records.len() as u64;
    let now = inner.clock.now();
    let prefix = inner.system(PREFIX)?.map(|prefix| String::from_utf8_lossy(&prefix).into_owned()).unwrap_or_default();
    let day = date::iso_micros(now)[..10].replace('-', "/");
    let stem = format!("{prefix}{day}/{first:020}-{through:020}");
    let (parquet, records) = tokio::task::spawn_blocking(move || write_segment(&records).map(|file| (file, records)))
        .await
        .map_err(|error| StoreError::Internal(format!("sealing ended early: {error}")))?
        .map_err(|error| StoreError::Internal(format!("an audit segment could not be made: {error}")))?;
    let file = format!("{stem}.parquet");
    let input = SealInput {
        cluster: trail.cluster.clone(),
        region: inner.options.region.clone(),
        segment: state.sealed.segment + 1,
        file: file.clone(),
        parquet: &parquet,
        records: &records,
        previous_head: state.sealed.head,
        previous_seal: state.sealed.seal.clone(),
        now,
        clock: (trail.clock)(),
    };
    let (seal, statement) = trail
        .sealer
        .seal(&input)
        .map_err(|error| StoreError::Internal(format!("an audit segment could not be sealed: {error}")))?;
    let head = records.iter().fold(state.sealed.head, |head, record| head.extend(record));
    let mut objects = Vec::new();
    let mut guards = Vec::new();
    let parquet_type = "application/vnd.apache.parquet";
    for (key, kind, bytes) in
        [(file, parquet_type, parquet), (format!("{stem}.seal.json"), "application/json", seal.to_bytes())]
    {
        let (object, held) = ingest(inner, &bucket, &key, kind, bytes.into()).await?;
        objects.push(object);
        guards.extend(held);
    }
    let command = SealAudit {
        bucket: bucket.id,
        segment: state.sealed.segment + 1,
        first,
        through,
        head,
        seal: statement,
        objects,
    };
    inner.propose(Command::SealAudit(Box::new(command))).await?;
    drop(guards);
    Ok(())
}

async fn ingest(
    inner: &Inner,
    bucket: &BucketRecord,
    key: &str,
    kind: &str,
    bytes: Bytes,
) -> Result<(SealedObject, Vec<crate::active::ActiveGuard>)> {
    let key = ObjectKey::new(key).map_err(|error| StoreError::Internal(error.to_string()))?;
    let headers = SystemHeaders { content_type: Some(kind.to_owned()), ..SystemHeaders::default() };
    let attributes = Attributes { headers, owner: bucket.owner.clone(), ..Attributes::default() };
    let size_bytes = bytes.len() as u64;
    let spec = IngestSpec {
        bucket,
        key: &key,
        of: PartOf::Object,
        size_bytes,
        etag: bucket.options.etag,
        attributes: &attributes,
        customer_key: None,
    };
    let claims = Claims { md5: None, checksum: None, algorithm: None, trailer: None };
    let body = futures::stream::once(std::future::ready(Ok(bytes))).boxed();
    let Ingested { mut part, inline, digested, _guards: guards } = inner.ingest(spec, claims, body).await?;
    let etag = digested.object_etag(bucket.options.etag, part.id);
    part.etag.clone_from(&etag);
    let checksum = part.checksum.clone();
    let object = Box::new(ObjectRecord { size_bytes, etag, checksum, parts: Parts::One(Box::new(part)), attributes });
    Ok((SealedObject { key, object, inline, nonce: [0; 8] }, guards))
}

/// Removes segments that have been kept long enough. `apply` checks each once more. Returns how many objects went.
pub(crate) async fn expire(inner: &Arc<Inner>) -> Result<u64> {
    let name = BucketName::new(AUDIT_BUCKET).map_err(|error| StoreError::Internal(error.to_string()))?;
    let bucket = inner.bucket(&name)?;
    let oldest = Timestamp(inner.clock.now().0.saturating_sub(inner.keep_days()?.saturating_mul(DAY_US)));
    let request = ListRequest { max_keys: 1000, ..ListRequest::default() };
    let page = inner.list_here(&*inner.bucket(&name)?, &request)?;
    let mut gone = 0;
    for object in page.objects.iter().take_while(|object| object.1.created < oldest) {
        let key = ObjectKey::new(object.0.as_str()).map_err(|error| StoreError::Internal(error.to_string()))?;
        match inner.propose(Command::ExpireAudit { bucket: bucket.id, key }).await {
            Ok(_) => gone += 1,
            Err(StoreError::Refused(Refusal::Protected(_) | Refusal::NoSuchKey)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(gone)
}

impl Inner {
    pub(crate) fn system(&self, name: &str) -> Result<Option<Bytes>> {
        self.index()?.system(name).map_err(from_meta)
    }

    pub(crate) async fn set_system(&self, name: &str, value: Option<Bytes>) -> Result<()> {
        self.propose(Command::SetSystem { name: name.to_owned(), value }).await.map(|_| ())
    }

    /// Days that the trail has been promised to be kept.
    pub(crate) fn keep_days(&self) -> Result<u64> {
        let value = self.system(AUDIT_KEEP_DAYS)?;
        let days = value.and_then(|value| std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok()));
        Ok(days.unwrap_or(AUDIT_KEEP_DAYS_MIN))
    }
}
