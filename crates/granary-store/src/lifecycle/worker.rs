//! The worker: walks the buckets that have rules, version by version, and proposes what the rules say.
//!
//! Guarantees: it goes on where it was after a restart (its cursor is a record of the index), takes at most half of the
//! time for itself, holds one page in memory, and never decides: each command is checked again where it is ordered, so
//! locks hold and a write that came between wins. Each round looks at everything anew, so what failed is tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use granary_meta::command::{Command, ExpireAction, Outcome, Refusal};
use granary_meta::records::{BucketRecord, VersionRecord};
use granary_meta::{LIFECYCLE_DOCUMENT, document_digest};
use granary_types::{BucketId, ObjectKey, Timestamp, UploadId, VersionId};
use serde::{Deserialize, Serialize};

use super::{Candidate, LifecycleRules, Verdict};
use crate::api::Result;
use crate::error::StoreError;
use crate::inner::{Inner, from_meta};
use crate::stats::StoreStats;

/// System record that holds the cursor.
const CURSOR_RECORD: &str = "lifecycle/cursor";
const CURSOR_VERSION: u8 = 1;
/// Versions or uploads looked at in one step.
const PAGE_ENTRIES: u32 = 1000;
/// Commands proposed at once, at most: they share the log's writes.
const PROPOSED_MAX: usize = 32;
/// Rounds a day.
const ROUNDS_PER_DAY: u32 = 24;
/// The shortest time between the beginnings of two rounds.
const INTERVAL_MIN: Duration = Duration::from_millis(500);
/// How long the cursor may be behind.
const CURSOR_SAVED_EVERY: Duration = Duration::from_secs(2);

/// Where the worker is. Only whole keys are behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    started: Timestamp,
    bucket: Option<BucketId>,
    after: Option<String>,
    done: bool,
}

/// A key of which not all versions were seen yet.
struct Open {
    key: String,
    latest: VersionRecord,
    /// Noncurrent versions seen.
    older: u32,
    /// When the version seen last was written: since then the next one is noncurrent.
    newer_created: Timestamp,
}

/// Something to do.
enum Act {
    Version { key: ObjectKey, version: VersionId, created: Timestamp, action: ExpireAction },
    Upload { key: ObjectKey, upload: UploadId },
}

/// What the rules of a bucket are, at the moment.
struct Current {
    bucket: Arc<BucketRecord>,
    rules: LifecycleRules,
    digest: [u8; 16],
}

impl Inner {
    fn day_us(&self) -> u64 {
        u64::try_from(self.options.lifecycle_day.as_micros()).unwrap_or(u64::MAX).max(1)
    }

    fn current_rules(&self, bucket: BucketId) -> Result<Option<Current>> {
        let Some(bucket) = self.index()?.bucket_by_id(bucket) else { return Ok(None) };
        let Some(document) = bucket.documents.get(LIFECYCLE_DOCUMENT) else { return Ok(None) };
        let digest = document_digest(document);
        match LifecycleRules::decode(document) {
            Some(rules) => Ok(Some(Current { bucket, rules, digest })),
            None => {
                tracing::error!(bucket = %bucket.name, "the lifecycle rules cannot be read and are not acted upon");
                Ok(None)
            }
        }
    }

    fn load_lifecycle_cursor(&self) -> Result<Option<Cursor>> {
        let record = self.index()?.system(CURSOR_RECORD).map_err(from_meta)?;
        Ok(record.and_then(|bytes| match bytes.split_first() {
            Some((&CURSOR_VERSION, body)) => postcard::from_bytes(body).ok(),
            _ => None,
        }))
    }

    async fn save_lifecycle_cursor(&self, cursor: &Cursor) -> Result<()> {
        let value = postcard::to_extend(cursor, vec![CURSOR_VERSION])
            .map_err(|error| StoreError::Internal(format!("the lifecycle cursor does not encode: {error}")))?;
        let command = Command::SetSystem { name: CURSOR_RECORD.to_owned(), value: Some(Bytes::from(value)) };
        self.propose(command).await.map(drop)
    }

    /// One round, or the rest of one that was interrupted.
    pub(crate) async fn lifecycle_round(self: &Arc<Self>) -> Result<()> {
        let resumed = self.load_lifecycle_cursor()?.filter(|cursor| !cursor.done);
        let mut cursor =
            resumed.unwrap_or(Cursor { started: self.clock.now(), bucket: None, after: None, done: false });
        let mut buckets: Vec<BucketId> = self
            .index()?
            .list_buckets()
            .iter()
            .filter(|bucket| bucket.documents.contains_key(LIFECYCLE_DOCUMENT))
            .map(|bucket| bucket.id)
            .collect();
        buckets.sort_unstable();
        for bucket in buckets {
            match cursor.bucket {
                Some(there) if bucket < there => continue,
                Some(there) if bucket == there => {}
                _ => (cursor.bucket, cursor.after) = (Some(bucket), None),
            }
            self.walk_versions(bucket, &mut cursor).await?;
            self.walk_uploads(bucket).await?;
        }
        StoreStats::add(&self.stats.lifecycle_rounds, 1);
        cursor = Cursor { done: true, bucket: None, after: None, ..cursor };
        self.save_lifecycle_cursor(&cursor).await
    }

    async fn walk_versions(self: &Arc<Self>, bucket: BucketId, cursor: &mut Cursor) -> Result<()> {
        let mut marker = cursor.after.clone();
        let mut version_marker = None;
        let mut open: Option<Open> = None;
        let mut saved = Instant::now();
        loop {
            let began = Instant::now();
            let Some(current) = self.current_rules(bucket)? else { return Ok(()) };
            let Some(prefix) = current.rules.common_prefix() else { return Ok(()) };
            let inner = Arc::clone(self);
            let from = marker.clone();
            let page = tokio::task::spawn_blocking(move || {
                let index = inner.index()?;
                let page = index.list_versions(bucket, &prefix, None, from.as_deref(), version_marker, PAGE_ENTRIES);
                page.map_err(from_meta)
            });
            let page = page.await.map_err(|error| StoreError::Internal(format!("a lifecycle page: {error}")))??;
            StoreStats::add(&self.stats.lifecycle_scanned, page.versions.len() as u64);
            let mut acts = Vec::new();
            let (now, day_us) = (self.clock.now(), self.day_us());
            for (key, record, is_latest) in page.versions {
                let is_same = open.as_ref().is_some_and(|open| open.key == key);
                if is_latest && !is_same {
                    if let Some(done) = open.take() {
                        lone_marker(&current.rules, &done, now, day_us, &mut acts);
                        cursor.after = Some(done.key);
                    }
                    of_latest(&current.rules, &key, &record, now, day_us, &mut acts);
                    let newer_created = record.created;
                    open = Some(Open { key, latest: record, older: 0, newer_created });
                } else if let Some(open) = open.as_mut().filter(|open| open.key == key) {
                    of_older(&current.rules, open, &record, now, day_us, &mut acts);
                }
                // What is of a key whose newest version was not seen (it was written while we looked) waits for the next round.
            }
            let is_end = page.next.is_none();
            if is_end && let Some(done) = open.take() {
                lone_marker(&current.rules, &done, now, day_us, &mut acts);
                cursor.after = Some(done.key);
            }
            self.act(&current, acts).await;
            if is_end {
                return Ok(());
            }
            if saved.elapsed() >= CURSOR_SAVED_EVERY {
                self.save_lifecycle_cursor(cursor).await?;
                saved = Instant::now();
            }
            (marker, version_marker) = page.next.map_or((None, None), |(key, version)| (Some(key), version));
            tokio::time::sleep(began.elapsed().max(Duration::from_millis(1))).await;
        }
    }

    async fn walk_uploads(self: &Arc<Self>, bucket: BucketId) -> Result<()> {
        let mut marker: Option<(String, UploadId)> = None;
        loop {
            let began = Instant::now();
            let Some(current) = self.current_rules(bucket)? else { return Ok(()) };
            if !current.rules.rules.iter().any(|rule| rule.enabled && rule.abort_uploads_days.is_some()) {
                return Ok(());
            }
            let (key, upload) = marker.as_ref().map(|(key, upload)| (key.as_str(), *upload)).unzip();
            let page = self.index()?.list_uploads(bucket, "", None, key, upload, PAGE_ENTRIES).map_err(from_meta)?;
            let now = self.clock.now();
            let due = page.uploads.iter().filter(|upload| {
                let abort = current.rules.abort(upload.key.as_str(), upload.created, self.day_us());
                abort.is_some_and(|abort| abort.at <= now)
            });
            let acts = due.map(|upload| Act::Upload { key: upload.key.clone(), upload: upload.id }).collect();
            self.act(&current, acts).await;
            marker = page.next;
            if marker.is_none() {
                return Ok(());
            }
            tokio::time::sleep(began.elapsed().max(Duration::from_millis(1))).await;
        }
    }

    async fn act(&self, current: &Current, acts: Vec<Act>) {
        let proposals = acts.into_iter().map(|act| {
            let bucket = current.bucket.id;
            let (counter, command) = match act {
                Act::Version { key, version, created, action } => {
                    let counter = match &action {
                        ExpireAction::Current { .. } => &self.stats.lifecycle_expired,
                        ExpireAction::Noncurrent => &self.stats.lifecycle_noncurrent,
                        ExpireAction::Marker => &self.stats.lifecycle_markers,
                        ExpireAction::Transition { .. } => &self.stats.lifecycle_transitions,
                    };
                    (counter, Command::Expire { bucket, key, version, created, rules: current.digest, action })
                }
                Act::Upload { key, upload } => {
                    (&self.stats.lifecycle_uploads, Command::AbortUpload { bucket, key, upload })
                }
            };
            async move {
                match self.meta.propose(command).await {
                    Ok(Outcome::Refused(Refusal::Locked(_) | Refusal::Frozen { .. })) => {
                        StoreStats::add(&self.stats.lifecycle_locked, 1)
                    }
                    // Somebody was faster.
                    Ok(Outcome::Refused(_)) => StoreStats::add(&self.stats.lifecycle_stale, 1),
                    Ok(_) => StoreStats::add(counter, 1),
                    Err(error) => {
                        StoreStats::add(&self.stats.lifecycle_failures, 1);
                        tracing::debug!(%error, "lifecycle: the next round tries again");
                    }
                }
            }
        });
        futures::stream::iter(proposals).for_each_concurrent(PROPOSED_MAX, |proposal| proposal).await;
    }
}

fn candidate<'a>(key: &'a str, record: &'a VersionRecord) -> Candidate<'a> {
    let object = record.object();
    Candidate {
        key,
        size_bytes: object.map(|object| object.size_bytes),
        tags: object.map_or(&[], |object| &object.attributes.tags),
        class: object.and_then(|object| object.attributes.headers.storage_class.as_deref()),
        created: record.created,
    }
}

fn push(key: &str, record: &VersionRecord, action: ExpireAction, acts: &mut Vec<Act>) {
    if let Ok(key) = ObjectKey::new(key) {
        acts.push(Act::Version { key, version: record.version, created: record.created, action });
    }
}

fn of_latest(
    rules: &LifecycleRules,
    key: &str,
    record: &VersionRecord,
    now: Timestamp,
    day_us: u64,
    acts: &mut Vec<Act>,
) {
    if record.is_delete_marker() {
        return;
    }
    match rules.of_current(&candidate(key, record), now, day_us) {
        Verdict::Keep => {}
        Verdict::Remove => push(key, record, ExpireAction::Current { nonce: rand::random() }, acts),
        Verdict::Transition(class) => push(key, record, ExpireAction::Transition { class: Some(class) }, acts),
    }
}

fn of_older(
    rules: &LifecycleRules,
    open: &mut Open,
    record: &VersionRecord,
    now: Timestamp,
    day_us: u64,
    acts: &mut Vec<Act>,
) {
    match rules.of_noncurrent(&candidate(&open.key, record), open.newer_created, open.older, now, day_us) {
        Verdict::Keep => {}
        Verdict::Remove => push(&open.key, record, ExpireAction::Noncurrent, acts),
        Verdict::Transition(class) => push(&open.key, record, ExpireAction::Transition { class: Some(class) }, acts),
    }
    open.older = open.older.saturating_add(1);
    open.newer_created = record.created;
}

fn lone_marker(rules: &LifecycleRules, done: &Open, now: Timestamp, day_us: u64, acts: &mut Vec<Act>) {
    let Open { key, latest, older, .. } = done;
    if *older == 0 && latest.is_delete_marker() && rules.removes_marker(key, latest.created, now, day_us) {
        push(key, latest, ExpireAction::Marker, acts);
    }
}

/// Runs rounds until `stop` is set.
pub(crate) async fn run(inner: Arc<Inner>, stop: Arc<AtomicBool>) {
    let interval = (inner.options.lifecycle_day / ROUNDS_PER_DAY).max(INTERVAL_MIN);
    let step = interval.min(Duration::from_secs(1));
    while !stop.load(Ordering::Acquire) {
        tokio::time::sleep(step).await;
        let is_due = match inner.load_lifecycle_cursor() {
            Ok(Some(cursor)) if cursor.done => {
                let next = cursor.started.0.saturating_add(u64::try_from(interval.as_micros()).unwrap_or(u64::MAX));
                inner.clock.now().0 >= next
            }
            Ok(_) => inner.has_lifecycle(),
            Err(_) => false,
        };
        if is_due && let Err(error) = inner.lifecycle_round().await {
            tracing::warn!(%error, "lifecycle goes on later where it was");
        }
    }
}

impl Inner {
    fn has_lifecycle(&self) -> bool {
        let has = |bucket: &Arc<BucketRecord>| bucket.documents.contains_key(LIFECYCLE_DOCUMENT);
        self.index().is_ok_and(|index| index.list_buckets().iter().any(has))
    }
}
