//! Writing changes back: a durable queue of keys, each brought to the state that it has here.
//!
//! Guarantees: at least once, and in order along each key. What is queued is that a key has changed; what is sent is what it is by
//! then, so that doing it again does no harm and the last state always arrives. What fails is tried again for as long as it takes;
//! only what an upstream says that it will never take is given up, loudly. (`docs/adr/0009-notifications.md` has the queue.)

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt as _;
use granary_meta::command::Command;
use granary_meta::records::BucketRecord;
use granary_meta::upstream::{UPSTREAM_DOCUMENT, UPSTREAM_TARGETS, Upstreamed, bucket_of_target};
use granary_types::{ByteRange, ChecksumKind, ObjectKey};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::fetch::noticed;
use super::flights::Ticket;
use super::rule::Source;
use super::scope::FetchScope;
use super::{BucketStats, RemotePut, UpstreamError};
use crate::api::{Result, Unlock};
use crate::audit::{AuditScope as _, part};
use crate::inner::{Inner, from_meta};
use crate::store::Store;

/// Events looked at together, of one bucket.
const WINDOW_EVENTS: usize = 64;
/// Keys of a bucket on their way side by side.
const LANES_MAX: usize = 8;
/// Between two looks at the queues.
const POLL: Duration = Duration::from_millis(250);
/// How often a key is offered to an upstream that says it is wrong, before it is given up.
const REJECTIONS_MAX: u32 = 5;

/// What came of one key.
enum Pushed {
    Done,
    Failed(UpstreamError),
    /// This node could not read it, for now.
    Own(String),
}

/// One bucket's queue while it is worked at.
struct Worker {
    inner: Arc<Inner>,
    target: String,
    /// Written, though one before it is not.
    ahead: HashSet<u64>,
    rejections: BTreeMap<u64, u32>,
}

impl Store {
    /// Writes back what waits, until told to stop.
    pub async fn write_back_forever(&self, mut stop: watch::Receiver<bool>) {
        let mut running: HashMap<String, JoinHandle<()>> = HashMap::new();
        while !*stop.borrow() {
            running.retain(|_, task| !task.is_finished());
            match self.event_queues() {
                Ok(queues) => {
                    for (target, queue) in queues {
                        if queue.count > 0 && target.starts_with(UPSTREAM_TARGETS) && !running.contains_key(&target) {
                            let worker = Worker {
                                inner: Arc::clone(&self.inner),
                                target: target.clone(),
                                ahead: HashSet::new(),
                                rejections: BTreeMap::new(),
                            };
                            running.insert(target, tokio::spawn(part("upstream", worker.run())));
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "what waits to be written back cannot be read"),
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
        for (_, task) in running {
            task.abort();
            let _ended = task.await;
        }
    }
}

impl Worker {
    /// Until nothing waits.
    async fn run(mut self) {
        let (first, longest) = self.inner.options.upstream.retry;
        let mut pause = first;
        loop {
            match self.round().await {
                Ok(true) => pause = first,
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(target = %self.target, %error, pause_ms = pause.as_millis(), "changes wait to be written back");
                    let jitter = rand::random::<u64>() % (pause.as_millis() as u64 / 4 + 1);
                    tokio::time::sleep(pause + Duration::from_millis(jitter)).await;
                    pause = (pause * 2).min(longest);
                }
            }
        }
    }

    /// Writes a window. `false`: nothing waits.
    async fn round(&mut self) -> std::result::Result<bool, String> {
        let shown = |error: crate::error::StoreError| error.to_string();
        let index = self.inner.index().map_err(shown)?;
        let events = index.events(&self.target, 0, WINDOW_EVENTS).map_err(|error| error.to_string())?;
        let Some(last) = events.last().map(|event| event.sequence) else { return Ok(false) };
        let bucket = bucket_of_target(&self.target).and_then(|id| index.bucket_by_id(id));
        let source = match &bucket {
            Some(bucket) => self.inner.source(bucket).map_err(shown)?,
            None => None,
        };
        let (Some(bucket), Some(source)) = (bucket, source.filter(|source| source.rule.write_back)) else {
            // Nobody wants it written back any more; that was asked for when the setting was changed.
            tracing::warn!(target = %self.target, events = events.len(), "changes that waited for an upstream are given up");
            self.forget(last).await?;
            return Ok(true);
        };
        let mut keys: BTreeMap<String, (ObjectKey, Vec<u64>)> = BTreeMap::new();
        for event in &events {
            let Some(object) = &event.object else {
                self.ahead.insert(event.sequence);
                continue;
            };
            if !self.ahead.contains(&event.sequence) {
                let entry =
                    keys.entry(object.key.as_str().to_owned()).or_insert_with(|| (object.key.clone(), Vec::new()));
                entry.1.push(event.sequence);
            }
        }
        let (inner, of, from) = (&self.inner, &bucket, &source);
        let pushes = keys.into_values().map(|(key, sequences)| async move {
            let pushed = inner.push(of, from, &key).await;
            (key, sequences, pushed)
        });
        let outcomes: Vec<_> = futures::stream::iter(pushes).buffer_unordered(LANES_MAX).collect().await;
        let mut failure = None;
        let mut told = Vec::new();
        for (key, sequences, pushed) in outcomes {
            match pushed {
                Pushed::Done => {
                    BucketStats::add(&source.stats.written, 1);
                    told.push(self.event(&bucket, &source, &key));
                    self.ahead.extend(sequences);
                }
                Pushed::Own(why) => failure = Some(why),
                Pushed::Failed(error) => {
                    BucketStats::add(&source.stats.write_failures, 1);
                    noticed(&bucket, &source, key.as_str(), &error);
                    if matches!(error, UpstreamError::Rejected(_)) && self.is_given_up(&sequences) {
                        tracing::error!(bucket = %bucket.name, key = key.as_str(), %error, "this key is given up: the upstream refuses it");
                        source.stats.given_up.fetch_add(1, Ordering::Relaxed);
                        self.ahead.extend(sequences);
                    }
                    failure = Some(error.to_string());
                }
            }
        }
        if !told.is_empty() {
            self.inner.meta.propose(Command::Audit { events: told }).await.map_err(|error| error.to_string())?;
        }
        let through = events.iter().take_while(|event| self.ahead.contains(&event.sequence)).last();
        if let Some(through) = through.map(|event| event.sequence) {
            self.forget(through).await?;
        }
        failure.map_or(Ok(true), Err)
    }

    fn is_given_up(&mut self, sequences: &[u64]) -> bool {
        let Some(first) = sequences.first() else { return false };
        let times = self.rejections.entry(*first).or_insert(0);
        *times += 1;
        *times >= REJECTIONS_MAX
    }

    async fn forget(&mut self, through: u64) -> std::result::Result<(), String> {
        let command = Command::AckEvents { target: self.target.clone(), through };
        self.inner.propose(command).await.map_err(|error| error.to_string())?;
        self.ahead.retain(|sequence| *sequence > through);
        self.rejections.retain(|sequence, _| *sequence > through);
        Ok(())
    }

    fn event(&self, bucket: &BucketRecord, source: &Source, key: &ObjectKey) -> bytes::Bytes {
        let scope = FetchScope {
            name: "WriteBackObject",
            region: self.inner.options.region.clone(),
            at: self.inner.clock.now(),
            bucket: bucket.name.as_str().to_owned(),
            key: key.as_str().to_owned(),
            request_id: String::new(),
            parameters: vec![("upstream".to_owned(), source.site.shown())],
        };
        scope.event(None)
    }
}

impl Inner {
    /// Keeps fetches away from what a command changes, in buckets that write back: what was asked of the upstream before it
    /// knew of the change must not come in behind it.
    pub(crate) async fn hold_changed(&self, command: &Command) -> Result<Vec<Ticket>> {
        let (bucket, mut keys) = match command {
            Command::PutVersion { bucket, key, .. }
            | Command::DeleteObject { bucket, key, .. }
            | Command::DeleteVersion { bucket, key, .. }
            | Command::CompleteUpload { bucket, key, .. }
            | Command::Append { bucket, key, .. } => (*bucket, vec![key]),
            Command::Rename { bucket, source, destination, .. } => (*bucket, vec![source, destination]),
            _ => return Ok(Vec::new()),
        };
        let record = self.index()?.bucket_by_id(bucket);
        let Some(record) = record.filter(|record| record.documents.contains_key(UPSTREAM_DOCUMENT)) else {
            return Ok(Vec::new());
        };
        if !matches!(Upstreamed::of(&record), Upstreamed::Yes(rule) if rule.write_back) {
            return Ok(Vec::new());
        }
        // In one order, so that two who hold two never wait for each other.
        keys.sort_unstable();
        keys.dedup();
        let mut held = Vec::new();
        for key in keys {
            held.push(self.flights.hold(bucket, key.as_str()).await);
        }
        Ok(held)
    }

    /// Brings one key of the upstream to what it is here.
    async fn push(self: &Arc<Self>, bucket: &BucketRecord, source: &Source, key: &ObjectKey) -> Pushed {
        let put = match self.to_put(bucket, key).await {
            Ok(put) => put,
            Err(error) => return Pushed::Own(error.to_string()),
        };
        let client = match self.wire(bucket) {
            Ok(wire) => Arc::clone(&wire.client),
            Err(error) => return Pushed::Own(error.to_string()),
        };
        let remote = source.site.key(key.as_str());
        let done = match put {
            Some(put) => client.put(&source.site, &remote, put).await,
            None => client.delete(&source.site, &remote).await,
        };
        done.map_or_else(Pushed::Failed, |()| Pushed::Done)
    }

    /// The object as it is to be there; `None`: it is to be gone.
    async fn to_put(self: &Arc<Self>, bucket: &BucketRecord, key: &ObjectKey) -> Result<Option<RemotePut>> {
        self.check_region(bucket)?;
        let found = self.index()?.current_with_inline(bucket.id, key).map_err(from_meta)?;
        let Some(found) = found else { return Ok(None) };
        let Some(object) = found.version.object() else { return Ok(None) };
        let range = ByteRange::whole(object.size_bytes);
        let body = self.read(bucket, object, found.inline, range, &Unlock::Plain).await?;
        Ok(Some(RemotePut {
            size_bytes: object.size_bytes,
            headers: object.attributes.headers.clone(),
            user_metadata: object.attributes.user_metadata.clone(),
            checksum: object.checksum.clone().filter(|checksum| checksum.kind == ChecksumKind::FullObject),
            body,
        }))
    }
}
