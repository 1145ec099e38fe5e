//! Delivers events to the targets that the operator has configured: at least once, and in order along each key.
//!
//! One worker per target reads its queue from the index, delivers a window of events (events of different keys side by
//! side, those of one key one after the other), and forgets what was delivered with a command. What fails is tried
//! again with growing pauses, for as long as it takes; only what a target says it will never take is given up, loudly.
//! Where events go is decided by the settings alone: a bucket's configuration can name a target, never an address.

mod json;
#[cfg(feature = "nats")]
mod nats;
mod target;
mod webhook;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use granary_meta::events::EventRecord;
use granary_store::Store;
use tokio::sync::watch;

pub(crate) use target::{NatsTarget, Parts, Targets, WebhookTarget};

/// Events on their way at once, to one target: what is held in memory.
const WINDOW_EVENTS: usize = 64;
/// Keys whose events are on their way side by side.
const LANES_MAX: usize = 8;
/// Between two looks at an empty queue.
const POLL: Duration = Duration::from_millis(250);
/// Pauses after failures.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long one delivery may take.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(15);
/// How often an event is offered to a target that says it is wrong, before it is given up.
const REJECTIONS_MAX: u32 = 5;

/// Why an event was not delivered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeliveryError {
    /// The target cannot be reached, or says that it cannot now.
    #[error("{0}")]
    Unavailable(String),
    /// The target says that it will not take this event.
    #[error("{0}")]
    Rejected(String),
    /// It took too long.
    #[error("no answer within {} s", DELIVERY_TIMEOUT.as_secs())]
    Timeout,
}

/// What workers count, by target.
#[derive(Debug, Default)]
pub(crate) struct TargetStats {
    pub(crate) delivered: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) given_up: AtomicU64,
}

/// How a target takes events.
enum Sender {
    Webhook(Box<webhook::Webhook>),
    #[cfg(feature = "nats")]
    Nats(Box<nats::Nats>),
}

impl Sender {
    async fn send(&self, event: &EventRecord, host_id: &str) -> Result<(), DeliveryError> {
        let body = json::body(event, host_id);
        let sending = async {
            match self {
                Self::Webhook(webhook) => webhook.send(event, body).await,
                #[cfg(feature = "nats")]
                Self::Nats(nats) => nats.send(event, body).await,
            }
        };
        tokio::time::timeout(DELIVERY_TIMEOUT, sending).await.unwrap_or(Err(DeliveryError::Timeout))
    }
}

/// The workers, running. They end when the node drains.
pub(crate) struct Notifier {
    stats: BTreeMap<String, Arc<TargetStats>>,
}

impl Notifier {
    /// Starts a worker for each target.
    ///
    /// # Errors
    /// What is wrong with a target, in words.
    pub(crate) fn start(
        store: &Store,
        targets: &Targets,
        region: &str,
        host_id: &str,
        drained: &watch::Receiver<bool>,
    ) -> Result<Self, String> {
        let mut stats = BTreeMap::new();
        let mut start = |arn: String, sender: Sender| {
            let counters = Arc::new(TargetStats::default());
            stats.insert(arn.clone(), Arc::clone(&counters));
            let worker = Worker { store: store.clone(), arn, sender, counters, host_id: host_id.to_owned() };
            tokio::spawn(worker.run(drained.clone()));
        };
        for webhook in &targets.webhooks {
            start(webhook.arn(region), Sender::Webhook(Box::new(webhook::Webhook::new(webhook)?)));
        }
        #[cfg(feature = "nats")]
        for target in &targets.nats {
            start(target.arn(region), Sender::Nats(Box::new(nats::Nats::new(target)?)));
        }
        #[cfg(not(feature = "nats"))]
        if let Some(target) = targets.nats.first() {
            return Err(format!(
                "notify.nats.{}: this program was built without NATS (cargo feature `nats`)",
                target.name
            ));
        }
        Ok(Self { stats })
    }

    /// Counters by ARN.
    pub(crate) fn stats(&self) -> &BTreeMap<String, Arc<TargetStats>> {
        &self.stats
    }
}

struct Worker {
    store: Store,
    arn: String,
    sender: Sender,
    counters: Arc<TargetStats>,
    host_id: String,
}

impl Worker {
    async fn run(self, mut drained: watch::Receiver<bool>) {
        let mut pause = PAUSE_MIN;
        // Delivered, though one before it is not: not to be sent again as long as this process lives.
        let mut ahead: HashSet<u64> = HashSet::new();
        let mut rejections: BTreeMap<u64, u32> = BTreeMap::new();
        while !*drained.borrow() {
            let wait = match self.round(&mut ahead, &mut rejections).await {
                Ok(true) => {
                    pause = PAUSE_MIN;
                    continue;
                }
                Ok(false) => POLL,
                Err(error) => {
                    tracing::warn!(target_arn = %self.arn, %error, pause_ms = pause.as_millis(), "events wait");
                    let jitter = rand::random::<u64>() % (pause.as_millis() as u64 / 4 + 1);
                    let wait = pause + Duration::from_millis(jitter);
                    pause = (pause * 2).min(PAUSE_MAX);
                    wait
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = drained.wait_for(|drained| *drained) => return,
            }
        }
    }

    /// Delivers a window. `false`: nothing waits.
    async fn round(&self, ahead: &mut HashSet<u64>, rejections: &mut BTreeMap<u64, u32>) -> Result<bool, String> {
        let events = self.store.events(&self.arn, 0, WINDOW_EVENTS).map_err(|error| error.to_string())?;
        if events.is_empty() {
            return Ok(false);
        }
        let mut lanes: BTreeMap<(&str, &str), Vec<EventRecord>> = BTreeMap::new();
        for event in &events {
            let key = event.object.as_ref().map_or("", |object| object.key.as_str());
            lanes.entry((event.bucket.as_str(), key)).or_default().push(event.clone());
        }
        let known = &*ahead;
        let lanes: Vec<Vec<EventRecord>> = lanes.into_values().collect();
        let lanes = lanes.into_iter().map(|lane| async move {
            let mut done = Vec::new();
            for event in lane {
                if known.contains(&event.sequence) {
                    continue;
                }
                match self.sender.send(&event, &self.host_id).await {
                    Ok(()) => done.push(event.sequence),
                    Err(error) => return (done, Some((event.sequence, error))),
                }
            }
            (done, None)
        });
        let outcomes: Vec<_> = futures::stream::iter(lanes).buffer_unordered(LANES_MAX).collect().await;
        let mut failure = None;
        for (done, failed) in outcomes {
            self.counters.delivered.fetch_add(done.len() as u64, Ordering::Relaxed);
            ahead.extend(done);
            let Some((sequence, error)) = failed else { continue };
            self.counters.failed.fetch_add(1, Ordering::Relaxed);
            let gives_up = matches!(error, DeliveryError::Rejected(_)) && {
                let times = rejections.entry(sequence).or_insert(0);
                *times += 1;
                *times >= REJECTIONS_MAX
            };
            if gives_up {
                tracing::error!(target_arn = %self.arn, sequence, %error, "this event is given up: the target refuses it");
                self.counters.given_up.fetch_add(1, Ordering::Relaxed);
                ahead.insert(sequence);
            }
            failure = Some(error.to_string());
        }
        let delivered = events.iter().take_while(|event| ahead.contains(&event.sequence)).last();
        if let Some(last) = delivered {
            let through = last.sequence;
            self.store.acknowledge_events(&self.arn, through).await.map_err(|error| error.to_string())?;
            ahead.retain(|sequence| *sequence > through);
            rejections.retain(|sequence, _| *sequence > through);
        }
        failure.map_or(Ok(true), Err)
    }
}
