//! Bucket notifications: what a bucket asks for, and the events that `apply` enqueues for it.
//!
//! The document (`notification` among a bucket's documents) and the events are kept as a version byte and postcard; the
//! S3 forms of both (XML in, JSON out) are made above. Names: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-how-to-event-types-and-destinations.html>.

use granary_types::{BucketName, ObjectKey, Timestamp, VersionId};
use serde::{Deserialize, Serialize};

use crate::command::Origin;

/// Name of the bucket's document.
pub const NOTIFICATION_DOCUMENT: &str = "notification";
/// Events of one target that wait at most; then the oldest are dropped, and counted.
pub const EVENTS_PER_TARGET_MAX: u64 = 1_000_000;

const VERSION: u8 = 1;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventKind {
    /// A configuration was set: is the target there?
    Test,
    /// PutObject, or an append.
    CreatedPut,
    /// An HTML form.
    CreatedPost,
    /// CopyObject, or the new name of a renamed object.
    CreatedCopy,
    /// CompleteMultipartUpload.
    CreatedComplete,
    /// A version was removed for good, or the old name of a renamed object.
    RemovedDelete,
    /// A delete marker was added.
    RemovedMarkerCreated,
    /// Tags were set.
    TaggingPut,
    /// Tags were removed.
    TaggingDelete,
    /// Grants were set.
    AclPut,
    /// Lifecycle removed a version for good.
    ExpirationDelete,
    /// Lifecycle added a delete marker.
    ExpirationMarkerCreated,
    /// Lifecycle changed the storage class.
    Transition,
}

impl EventKind {
    /// All that a configuration can name.
    pub const ALL: [Self; 12] = [
        Self::CreatedPut,
        Self::CreatedPost,
        Self::CreatedCopy,
        Self::CreatedComplete,
        Self::RemovedDelete,
        Self::RemovedMarkerCreated,
        Self::TaggingPut,
        Self::TaggingDelete,
        Self::AclPut,
        Self::ExpirationDelete,
        Self::ExpirationMarkerCreated,
        Self::Transition,
    ];

    /// S3's name for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Test => "s3:TestEvent",
            Self::CreatedPut => "s3:ObjectCreated:Put",
            Self::CreatedPost => "s3:ObjectCreated:Post",
            Self::CreatedCopy => "s3:ObjectCreated:Copy",
            Self::CreatedComplete => "s3:ObjectCreated:CompleteMultipartUpload",
            Self::RemovedDelete => "s3:ObjectRemoved:Delete",
            Self::RemovedMarkerCreated => "s3:ObjectRemoved:DeleteMarkerCreated",
            Self::TaggingPut => "s3:ObjectTagging:Put",
            Self::TaggingDelete => "s3:ObjectTagging:Delete",
            Self::AclPut => "s3:ObjectAcl:Put",
            Self::ExpirationDelete => "s3:LifecycleExpiration:Delete",
            Self::ExpirationMarkerCreated => "s3:LifecycleExpiration:DeleteMarkerCreated",
            Self::Transition => "s3:LifecycleTransition",
        }
    }

    /// Whether a configured name (`s3:ObjectCreated:*`) means it.
    #[must_use]
    pub fn is_meant_by(self, pattern: &str) -> bool {
        match pattern.strip_suffix('*') {
            Some(group) => self != Self::Test && self.name().starts_with(group),
            None => self.name() == pattern,
        }
    }
}

/// Which element of S3's document a rule was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuleForm {
    /// `TopicConfiguration`.
    Topic,
    /// `QueueConfiguration`.
    Queue,
    /// `CloudFunctionConfiguration`.
    Function,
    /// `EventBridgeConfiguration`: everything.
    EventBridge,
}

/// One configuration of a bucket's notifications.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotificationRule {
    /// Its id.
    pub id: String,
    /// How it was given.
    pub form: RuleForm,
    /// ARN of the target.
    pub target: String,
    /// Event names as given, `*` among them.
    pub events: Vec<String>,
    /// Only keys that begin with this.
    pub prefix: Option<String>,
    /// Only keys that end with this.
    pub suffix: Option<String>,
}

impl NotificationRule {
    /// Whether the rule wants to hear of `kind` at `key`.
    #[must_use]
    pub fn wants(&self, kind: EventKind, key: &str) -> bool {
        self.prefix.as_deref().is_none_or(|prefix| key.starts_with(prefix))
            && self.suffix.as_deref().is_none_or(|suffix| key.ends_with(suffix))
            && (self.form == RuleForm::EventBridge || self.events.iter().any(|pattern| kind.is_meant_by(pattern)))
    }
}

/// A bucket's notifications.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NotificationRules {
    /// All of them, in the order given.
    pub rules: Vec<NotificationRule>,
}

impl NotificationRules {
    /// As it is kept.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("rules hold no type that postcard cannot encode")
    }

    /// From how it is kept; `None` where this program cannot read it.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first() {
            Some((&VERSION, body)) => postcard::from_bytes(body).ok(),
            _ => None,
        }
    }
}

/// An event on its way to a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Its number: grows with every event of the store, so along each key.
    pub sequence: u64,
    /// When.
    pub at: Timestamp,
    /// Bucket.
    pub bucket: BucketName,
    /// Canonical id of the bucket's owner.
    pub owner: String,
    /// Region of the bucket.
    pub region: String,
    /// Id of the rule that asked for it.
    pub rule: String,
    /// What.
    pub kind: EventKind,
    /// At which key; `None` of a test event.
    pub object: Option<EventObject>,
    /// By whom, where that is known.
    pub origin: Option<Origin>,
}

/// What an event tells of the object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventObject {
    /// Key.
    pub key: ObjectKey,
    /// Version id, where the bucket gives them.
    pub version: Option<VersionId>,
    /// Size; 0 for delete markers.
    pub size_bytes: u64,
    /// ETag without quotes; `None` for delete markers.
    pub etag: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_and_filters() {
        assert!(EventKind::CreatedPut.is_meant_by("s3:ObjectCreated:*"));
        assert!(EventKind::CreatedPut.is_meant_by("s3:ObjectCreated:Put"));
        assert!(!EventKind::CreatedCopy.is_meant_by("s3:ObjectCreated:Put"));
        assert!(!EventKind::RemovedDelete.is_meant_by("s3:ObjectCreated:*"));
        assert!(!EventKind::Test.is_meant_by("s3:*"));
        let rule = NotificationRule {
            id: "r".into(),
            form: RuleForm::Queue,
            target: "arn".into(),
            events: vec!["s3:ObjectRemoved:*".into()],
            prefix: Some("in/".into()),
            suffix: Some(".jpg".into()),
        };
        assert!(rule.wants(EventKind::RemovedDelete, "in/a.jpg"));
        assert!(!rule.wants(EventKind::RemovedDelete, "in/a.png"));
        assert!(!rule.wants(EventKind::RemovedDelete, "out/a.jpg"));
        assert!(!rule.wants(EventKind::CreatedPut, "in/a.jpg"));
        let rules = NotificationRules { rules: vec![rule] };
        assert_eq!(NotificationRules::decode(&rules.encode()), Some(rules));
        assert_eq!(NotificationRules::decode(&[9]), None);
    }
}
