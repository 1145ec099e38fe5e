//! Upstream buckets: what a bucket reads through to, as it is kept, and the queue of what is to be written back.
//!
//! The document (`granary-upstream` among a bucket's documents) is a version byte and postcard. The secret in it is sealed above;
//! nothing here can open it. What is to be written back waits as events of a target of the bucket's own, so it is durable exactly
//! when the change is, and in order along each key. See `docs/adr/0015-upstream-buckets.md`.

use granary_types::BucketId;
use serde::{Deserialize, Serialize};

use crate::records::BucketRecord;

/// Name of the bucket's document.
pub const UPSTREAM_DOCUMENT: &str = "granary-upstream";
/// What the targets of write-back queues begin with; no ARN does.
pub const UPSTREAM_TARGETS: &str = "upstream:";

const VERSION: u8 = 1;

/// Where a bucket reads through to.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamRule {
    /// Told apart from what was set before.
    pub id: u64,
    /// `https://host[:port]` or `http://host[:port]`.
    pub endpoint: String,
    /// The bucket there.
    pub bucket: String,
    /// What keys there have before the key here.
    pub prefix: String,
    /// Region that requests are signed for.
    pub region: String,
    /// Regions that bytes of the upstream lie in, as the operator declares; never empty.
    pub declared_regions: Vec<String>,
    /// Name the bucket in the path, not in the host.
    pub path_style: bool,
    /// Access key; empty: requests are not signed.
    pub access_key: String,
    /// Its secret, sealed.
    pub secret: Vec<u8>,
    /// Certificates (PEM) to trust instead of the system's; empty: the system's.
    pub ca: Vec<u8>,
    /// What changes here is written there, too.
    pub write_back: bool,
    /// A copy older than so many seconds is checked with the upstream before it is served; `None`: never.
    pub revalidate_s: Option<u64>,
    /// For so many seconds it is remembered that the upstream does not have a key.
    pub absent_s: u64,
}

impl std::fmt::Debug for UpstreamRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamRule")
            .field("endpoint", &self.endpoint)
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("write_back", &self.write_back)
            .finish_non_exhaustive()
    }
}

impl UpstreamRule {
    /// As it is kept.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("a rule holds no type that postcard cannot encode")
    }

    /// From how it is kept; `None` where this program cannot read it.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first() {
            Some((&VERSION, body)) => postcard::from_bytes(body).ok(),
            _ => None,
        }
    }

    /// The first region that bytes of the upstream lie in and the bucket's may not.
    #[must_use]
    pub fn outside<'r>(&'r self, pins: &[String]) -> Option<&'r str> {
        if pins.is_empty() {
            return None;
        }
        self.declared_regions.iter().find(|region| !pins.contains(region)).map(String::as_str)
    }
}

/// What a bucket's document says of its upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstreamed {
    /// It has none.
    No,
    /// It has this one.
    Yes(Box<UpstreamRule>),
    /// It has one that a newer program set.
    Unreadable,
}

impl Upstreamed {
    /// Of a bucket.
    #[must_use]
    pub fn of(bucket: &BucketRecord) -> Self {
        match bucket.documents.get(UPSTREAM_DOCUMENT).map(|document| UpstreamRule::decode(document)) {
            None => Self::No,
            Some(Some(rule)) => Self::Yes(Box::new(rule)),
            Some(None) => Self::Unreadable,
        }
    }
}

/// The target of a bucket's write-back queue.
#[must_use]
pub fn upstream_target(bucket: BucketId) -> String {
    format!("{UPSTREAM_TARGETS}{:016x}", bucket.0)
}

/// The bucket of a write-back queue.
#[must_use]
pub fn bucket_of_target(target: &str) -> Option<BucketId> {
    let id = target.strip_prefix(UPSTREAM_TARGETS)?;
    u64::from_str_radix(id, 16).ok().map(BucketId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_read_back_and_say_what_lies_outside() {
        let rule = UpstreamRule {
            id: 1,
            endpoint: "https://s3.example".to_owned(),
            bucket: "b".to_owned(),
            prefix: "p/".to_owned(),
            region: "eu-1".to_owned(),
            declared_regions: vec!["eu-1".to_owned(), "eu-2".to_owned()],
            path_style: true,
            access_key: "AK".to_owned(),
            secret: b"sealed".to_vec(),
            ca: Vec::new(),
            write_back: true,
            revalidate_s: Some(60),
            absent_s: 0,
        };
        assert_eq!(UpstreamRule::decode(&rule.encode()), Some(rule.clone()));
        assert_eq!(UpstreamRule::decode(&[9, 9]), None);
        assert_eq!(rule.outside(&[]), None);
        assert_eq!(rule.outside(&["eu-1".to_owned(), "eu-2".to_owned(), "eu-3".to_owned()]), None);
        assert_eq!(rule.outside(&["eu-1".to_owned()]), Some("eu-2"));
        assert!(!format!("{rule:?}").contains("sealed"));
        let target = upstream_target(BucketId(7));
        assert_eq!(bucket_of_target(&target), Some(BucketId(7)));
        assert_eq!(bucket_of_target("arn:granary:webhook:eu::a"), None);
    }
}
