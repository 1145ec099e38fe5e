//! Events: enqueued in the same batch as the change they tell of, so that they are durable exactly when it is.

use std::collections::BTreeMap;

use granary_types::ObjectKey;

use super::{Cx, Step};
use crate::command::Outcome;
use crate::events::{
    EVENTS_PER_TARGET_MAX, EventKind, EventObject, EventRecord, NOTIFICATION_DOCUMENT, NotificationRules,
};
use crate::index::layout::{EVENT_SEQUENCE, event_key, event_queue_key};
use crate::index::{EventQueue, Family};
use crate::records::{BucketRecord, VersionRecord, Versioning};
use crate::upstream::bucket_of_target;

/// Events that a command has made so far, each with its target.
#[derive(Default)]
pub(crate) struct Pending(Vec<(String, EventRecord)>);

impl Cx<'_, '_> {
    /// Makes the events that the bucket asks for when `kind` happens to `version` of `key`.
    pub(super) fn notify(&mut self, bucket: &BucketRecord, key: &ObjectKey, kind: EventKind, version: &VersionRecord) {
        let Some(document) = bucket.documents.get(NOTIFICATION_DOCUMENT) else { return };
        // What cannot be read was written by a newer program: writes go on without events.
        let Some(rules) = NotificationRules::decode(document) else { return };
        for rule in rules.rules.into_iter().filter(|rule| rule.wants(kind, key.as_str())) {
            let object = version.object();
            let object = EventObject {
                key: key.clone(),
                version: (bucket.versioning != Versioning::Off).then_some(version.version),
                size_bytes: object.map_or(0, |o| o.size_bytes),
                etag: object.map(|o| o.etag.clone()),
            };
            self.event(bucket, rule.target, rule.id, kind, Some(object));
        }
    }

    /// One test event for each target of the bucket's notifications.
    pub(super) fn notify_test(&mut self, bucket: &BucketRecord) {
        let document = bucket.documents.get(NOTIFICATION_DOCUMENT);
        let Some(rules) = document.and_then(|document| NotificationRules::decode(document)) else { return };
        let targets: BTreeMap<String, String> = rules.rules.into_iter().map(|rule| (rule.target, rule.id)).collect();
        for (target, rule) in targets {
            self.event(bucket, target, rule, EventKind::Test, None);
        }
    }

    pub(super) fn event(
        &mut self,
        bucket: &BucketRecord,
        target: String,
        rule: String,
        kind: EventKind,
        object: Option<EventObject>,
    ) {
        let record = EventRecord {
            sequence: 0,
            at: self.at,
            bucket: bucket.name.clone(),
            owner: bucket.owner.clone(),
            region: bucket.region.clone(),
            rule,
            kind,
            object,
            origin: self.origin.cloned(),
        };
        self.events.0.push((target, record));
    }

    /// Gives the command's events their numbers and puts them into the batch.
    pub(super) fn enqueue(&mut self) -> Step<()> {
        if self.events.0.is_empty() {
            return Ok(());
        }
        let mut sequence: u64 = self.index.get(Family::Sys, EVENT_SEQUENCE)?.unwrap_or(0);
        let mut queues: BTreeMap<String, EventQueue> = BTreeMap::new();
        for (target, mut record) in std::mem::take(&mut self.events.0) {
            sequence += 1;
            record.sequence = sequence;
            self.batch.put(Family::Events, &event_key(&target, sequence), &record);
            let upstream = bucket_of_target(&target);
            if let (Some(bucket), Some(object)) = (upstream, &record.object) {
                self.mark_unwritten(bucket, &object.key, sequence);
            }
            let queue = match queues.get_mut(&target) {
                Some(queue) => queue,
                None => {
                    let queue = self.index.event_queue(&target)?;
                    queues.entry(target.clone()).or_insert(queue)
                }
            };
            queue.count += 1;
            // One goes for each command that adds one: a command makes a handful, so the queue stays near its bound.
            if upstream.is_none()
                && queue.count > EVENTS_PER_TARGET_MAX
                && let Some(oldest) = self.index.oldest_event(&target)?
            {
                self.batch.delete(Family::Events, &oldest);
                queue.count -= 1;
                queue.dropped += 1;
            }
        }
        for (target, queue) in &queues {
            self.batch.put(Family::Sys, &event_queue_key(target), queue);
        }
        self.batch.put(Family::Sys, EVENT_SEQUENCE, &sequence);
        Ok(())
    }

    pub(super) fn ack_events(&mut self, target: &str, through: u64) -> Step<Outcome> {
        let mut queue = self.index.event_queue(target)?;
        // What a proposer read in one page; more than that is acknowledged with the next command.
        for event in self.index.events(target, 0, ACKED_MAX)? {
            if event.sequence > through {
                break;
            }
            self.batch.delete(Family::Events, &event_key(target, event.sequence));
            if let (Some(bucket), Some(object)) = (bucket_of_target(target), &event.object) {
                self.unmark_unwritten(bucket, &object.key, event.sequence)?;
            }
            queue.count = queue.count.saturating_sub(1);
        }
        self.batch.put(Family::Sys, &event_queue_key(target), &queue);
        Ok(Outcome::Done)
    }
}

/// Events forgotten by one command, at most.
const ACKED_MAX: usize = 1024;
