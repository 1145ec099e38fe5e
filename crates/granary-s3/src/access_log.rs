//! Bucket logging: one line per request in S3's server access log format, delivered as objects to the target bucket.
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/LogFormat.html>
//!
//! Lines are gathered in memory and written out every few minutes, when there are many, and when the server drains. As on AWS
//! delivery is best effort: a crash loses the lines of the last minutes. (What must be complete is the audit trail.)

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use granary_meta::command::Condition;
use granary_meta::records::{Attributes, BucketRecord, SystemHeaders};
use granary_store::ObjectStore;
use granary_store::api::{Claims, PutRequest};
use granary_types::date;
use granary_types::{BucketName, ObjectKey, Timestamp};
use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, REFERER, USER_AGENT};
use http::request::Parts;
use http::{Method, StatusCode};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use time::format_description::FormatItem;
use time::macros::format_description;
use tokio::sync::Notify;

use crate::context::Trace;
use crate::convert::percent_encode;

/// Name of the bucket's document.
pub(crate) const LOGGING_DOCUMENT: &str = "logging";
/// Bytes of one bucket's lines at which they are delivered early.
const BATCH_BYTES: usize = 1 << 20;
/// Bytes of all lines in memory, at most; further ones are dropped, and counted.
const GATHERED_BYTES_MAX: usize = 64 << 20;
/// Of one header, at most so much goes into a line.
const FIELD_BYTES_MAX: usize = 2048;
const VERSION: u8 = 1;

/// How the keys of log objects are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum KeyFormat {
    /// `[prefix]YYYY-MM-DD-hh-mm-ss-[unique]`
    Simple,
    /// By account, region, bucket and day of delivery.
    ByDelivery,
    /// By account, region, bucket and day of the requests.
    ByEvent,
}

/// Where a bucket's lines go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LoggingRules {
    pub(crate) target: BucketName,
    pub(crate) prefix: String,
    /// `None`: nothing was said, so simple.
    pub(crate) format: Option<KeyFormat>,
}

impl LoggingRules {
    pub(crate) fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("rules hold no type that postcard cannot encode")
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first() {
            Some((&VERSION, body)) => postcard::from_bytes(body).ok(),
            _ => None,
        }
    }
}

/// What of a request goes into its line, gathered when it comes.
pub(crate) struct Pending {
    log: Arc<AccessLog>,
    bucket: Arc<BucketRecord>,
    key: Option<String>,
    at: Timestamp,
    operation: String,
    request: String,
    referer: String,
    agent: String,
    host: String,
    version: String,
    signature: (&'static str, &'static str),
    error: Option<String>,
    object_bytes: Option<u64>,
    turnaround_ms: u128,
}

/// Lines that wait, by source bucket and day.
type Gathered = HashMap<(String, u64), Vec<u8>>;

/// The lines of all buckets, on their way.
pub struct AccessLog {
    store: Arc<dyn ObjectStore>,
    gathered: Mutex<(Gathered, usize)>,
    full: Notify,
    /// Lines written out.
    delivered: AtomicU64,
    /// Lines that were lost: too many waited, or the target refused them.
    dropped: AtomicU64,
}

const SECOND: &[FormatItem<'_>] = format_description!("[year]-[month]-[day]-[hour]-[minute]-[second]");
const DAY: &[FormatItem<'_>] = format_description!("[year]/[month]/[day]");
const LINE: &[FormatItem<'_>] = format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000");

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

fn text(headers: &HeaderMap, name: &HeaderName) -> String {
    headers.get(name).map(|value| quotable(&String::from_utf8_lossy(value.as_bytes()))).unwrap_or_default()
}

/// Nothing that a client sends may end its field or its line.
fn quotable(text: &str) -> String {
    let clean = text.chars().map(|c| if c == '"' || c.is_control() { '_' } else { c });
    let mut out = String::new();
    for c in clean {
        if out.len() + c.len_utf8() > FIELD_BYTES_MAX {
            break;
        }
        out.push(c);
    }
    out
}

fn dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

fn query_value<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').find_map(|pair| match pair.split_once('=') {
        Some((key, value)) if key == name => Some(value),
        None if pair == name => Some(""),
        _ => None,
    })
}

/// `REST.PUT.OBJECT` and its like.
fn operation(method: &Method, query: &str, has_key: bool, is_copy: bool) -> String {
    const OF_OBJECT: [(&str, &str); 9] = [
        ("acl", "ACL"),
        ("tagging", "OBJECT_TAGGING"),
        ("retention", "OBJECT_LOCK_RETENTION"),
        ("legal-hold", "OBJECT_LOCK_LEGALHOLD"),
        ("attributes", "OBJECT_ATTRIBUTES"),
        ("uploads", "UPLOADS"),
        ("partNumber", "PART"),
        ("uploadId", "UPLOAD"),
        ("renameObject", "RENAME"),
    ];
    const OF_BUCKET: [(&str, &str); 19] = [
        ("acl", "ACL"),
        ("cors", "CORS"),
        ("delete", "MULTI_OBJECT_DELETE"),
        ("encryption", "ENCRYPTION"),
        ("lifecycle", "LIFECYCLE"),
        ("location", "LOCATION"),
        ("logging", "LOGGING_STATUS"),
        ("notification", "NOTIFICATION"),
        ("object-lock", "OBJECT_LOCK_CONFIGURATION"),
        ("ownershipControls", "OWNERSHIP_CONTROLS"),
        ("policy", "BUCKETPOLICY"),
        ("publicAccessBlock", "PUBLIC_ACCESS_BLOCK"),
        ("replication", "REPLICATION"),
        ("requestPayment", "REQUEST_PAYMENT"),
        ("tagging", "TAGGING"),
        ("uploads", "UPLOADS"),
        ("versioning", "VERSIONING"),
        ("versions", "BUCKETVERSIONS"),
        ("website", "WEBSITE"),
    ];
    let named: &[(&str, &str)] = if has_key { &OF_OBJECT } else { &OF_BUCKET };
    let resource = named
        .iter()
        .find(|(name, _)| query_value(query, name).is_some())
        .map_or(if has_key { "OBJECT" } else { "BUCKET" }, |(_, resource)| *resource);
    let verb = if is_copy { "COPY" } else { method.as_str() };
    format!("REST.{verb}.{resource}")
}

fn signature(headers: &HeaderMap, query: &str) -> (&'static str, &'static str) {
    let header = headers.get(AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
    if header.starts_with(b"AWS4-") {
        ("SigV4", "AuthHeader")
    } else if header.starts_with(b"AWS ") {
        ("SigV2", "AuthHeader")
    } else if query_value(query, "X-Amz-Signature").is_some() {
        ("SigV4", "QueryString")
    } else if query_value(query, "Signature").is_some() {
        ("SigV2", "QueryString")
    } else {
        ("-", "-")
    }
}

/// The request's target without what signs it: a line must not let anybody repeat a presigned request.
fn without_secrets(parts: &Parts) -> String {
    let secret = |name: &str| {
        let name = name.to_ascii_lowercase();
        matches!(name.as_str(), "x-amz-signature" | "signature" | "x-amz-security-token")
    };
    let mut target = parts.uri.path().to_owned();
    if let Some(query) = parts.uri.query() {
        let pairs: Vec<String> = query
            .split('&')
            .map(|pair| match pair.split_once('=') {
                Some((name, _)) if secret(name) => format!("{name}=REDACTED"),
                _ => pair.to_owned(),
            })
            .collect();
        target.push('?');
        target.push_str(&pairs.join("&"));
    }
    quotable(&format!("{} {target} {:?}", parts.method, parts.version))
}

impl AccessLog {
    pub(crate) fn new(store: Arc<dyn ObjectStore>) -> Arc<Self> {
        Arc::new(Self {
            store,
            gathered: Mutex::default(),
            full: Notify::new(),
            delivered: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        })
    }

    /// Begins a line, where the bucket is logged.
    pub(crate) fn begin(self: &Arc<Self>, parts: &Parts, bucket: Option<&str>, key: Option<String>) -> Option<Pending> {
        let bucket = self.store.bucket(&BucketName::new(bucket?).ok()?).ok()?;
        if !bucket.documents.contains_key(LOGGING_DOCUMENT) {
            return None;
        }
        let query = parts.uri.query().unwrap_or_default();
        let is_copy = parts.headers.contains_key("x-amz-copy-source");
        Some(Pending {
            log: Arc::clone(self),
            at: now(),
            operation: operation(&parts.method, query, key.is_some(), is_copy),
            request: without_secrets(parts),
            referer: text(&parts.headers, &REFERER),
            agent: text(&parts.headers, &USER_AGENT),
            host: text(&parts.headers, &HOST),
            version: quotable(query_value(query, "versionId").unwrap_or_default()),
            signature: signature(&parts.headers, query),
            bucket,
            key,
            error: None,
            object_bytes: None,
            turnaround_ms: 0,
        })
    }

    fn push(&self, bucket: &str, at: Timestamp, line: &str) {
        let mut gathered = self.gathered.lock();
        let (buckets, total) = &mut *gathered;
        if *total + line.len() > GATHERED_BYTES_MAX {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        *total += line.len();
        let lines = buckets.entry((bucket.to_owned(), at.as_secs() / 86_400)).or_default();
        lines.extend_from_slice(line.as_bytes());
        if lines.len() >= BATCH_BYTES {
            self.full.notify_one();
        }
    }

    /// Lines written out, and lines lost, since start.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.delivered.load(Ordering::Relaxed), self.dropped.load(Ordering::Relaxed))
    }

    /// Writes out what waits, every `interval` and when there is much. Runs until dropped.
    pub async fn deliver_forever(&self, interval: Duration) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = self.full.notified() => {}
            }
            self.deliver().await;
        }
    }

    /// Writes out what waits, now.
    pub async fn deliver(&self) {
        let gathered = {
            let mut gathered = self.gathered.lock();
            gathered.1 = 0;
            std::mem::take(&mut gathered.0)
        };
        for ((bucket, day), lines) in gathered {
            let count = lines.iter().filter(|b| **b == b'\n').count() as u64;
            match self.write(&bucket, day, lines).await {
                Ok(()) => self.delivered.fetch_add(count, Ordering::Relaxed),
                Err(why) => {
                    tracing::warn!(bucket, why, lines = count, "the access log of this bucket could not be delivered");
                    self.dropped.fetch_add(count, Ordering::Relaxed)
                }
            };
        }
    }

    async fn write(&self, bucket: &str, day: u64, lines: Vec<u8>) -> Result<(), String> {
        let say = |error: &dyn std::fmt::Display| error.to_string();
        let name = BucketName::new(bucket).map_err(|error| say(&error))?;
        let source = self.store.bucket(&name).map_err(|error| say(&error))?;
        // Switched off meanwhile: the lines have nowhere to go.
        let Some(document) = source.documents.get(LOGGING_DOCUMENT) else { return Ok(()) };
        let rules = LoggingRules::decode(document).ok_or("its logging settings cannot be read")?;
        let target = self.store.bucket(&rules.target).map_err(|error| say(&error))?;
        if target.owner != source.owner {
            return Err("the target bucket has another owner now".to_owned());
        }
        let key = log_key(&rules, &source, day, now());
        let attributes = Attributes {
            owner: target.owner.clone(),
            headers: SystemHeaders { content_type: Some("text/plain".to_owned()), ..SystemHeaders::default() },
            ..Attributes::default()
        };
        let put = PutRequest {
            bucket: rules.target,
            key: ObjectKey::new(key).map_err(|error| say(&error))?,
            size_bytes: lines.len() as u64,
            attributes,
            claims: Claims { md5: None, checksum: None, algorithm: None, trailer: None },
            condition: Condition::default(),
            customer_key: None,
            body: futures::stream::once(std::future::ready(Ok(Bytes::from(lines)))).boxed(),
        };
        self.store.put(put).await.map(drop).map_err(|error| say(&error))
    }
}

fn log_key(rules: &LoggingRules, source: &BucketRecord, day: u64, now: Timestamp) -> String {
    let unique = format!("{:016X}", rand::random::<u64>());
    let at = match rules.format {
        Some(KeyFormat::ByEvent) => Timestamp::from_secs(day * 86_400),
        _ => now,
    };
    let stamp = date::utc(at).format(SECOND).unwrap_or_default();
    let folder = match rules.format {
        None | Some(KeyFormat::Simple) => String::new(),
        Some(KeyFormat::ByDelivery | KeyFormat::ByEvent) => {
            let date = date::utc(at).format(DAY).unwrap_or_default();
            format!("{}/{}/{}/{date}/", source.owner, source.region, source.name)
        }
    };
    format!("{}{folder}{stamp}-{unique}", rules.prefix)
}

impl Pending {
    /// What the answer's head tells.
    pub(crate) fn answered(&mut self, trace: &Trace, headers: &HeaderMap, error: Option<&[u8]>) {
        self.turnaround_ms = trace.started.elapsed().as_millis();
        self.error = error.and_then(|document| {
            let text = std::str::from_utf8(document).ok()?;
            let code = text.split_once("<Code>")?.1.split_once("</Code>")?.0;
            Some(quotable(code))
        });
        let number = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let total = number("content-range").and_then(|range| range.rsplit('/').next()?.parse().ok());
        self.object_bytes = total.or_else(|| number("content-length")?.parse().ok()).filter(|_| error.is_none());
        if self.version.is_empty() {
            self.version = number("x-amz-version-id").unwrap_or_default();
        }
    }

    /// The request is over.
    pub(crate) fn end(self, trace: &Trace, status: StatusCode, bytes_in: u64, bytes_out: u64, host_id: &str) {
        let is_read = self.operation.contains(".GET.") || self.operation.contains(".HEAD.");
        let object_bytes = if is_read { self.object_bytes } else { Some(bytes_in) };
        let count = |n: Option<u64>| n.filter(|n| *n > 0).map_or_else(|| "-".to_owned(), |n| n.to_string());
        let identity = trace.identity();
        let requester = identity.map(|identity| identity.owner.id.as_str()).unwrap_or_default();
        let peer = trace.peer.map(|peer| peer.address.ip().to_string()).unwrap_or_default();
        let tls = trace.peer.and_then(|peer| peer.tls);
        let line = format!(
            "{owner} {bucket} [{at}] {peer} {requester} {id} {operation} {key} \"{request}\" {status} {error} {sent} {size} \
             {total} {turnaround} \"{referer}\" \"{agent}\" {version} {host_id} {sigv} - {auth} {host} {tls} - -\n",
            owner = dash(&self.bucket.owner),
            bucket = self.bucket.name,
            at = date::utc(self.at).format(LINE).unwrap_or_default(),
            peer = dash(&peer),
            requester = dash(requester),
            id = trace.id,
            operation = self.operation,
            key = self.key.as_deref().map_or_else(|| "-".to_owned(), percent_encode),
            request = self.request,
            status = status.as_u16(),
            error = self.error.as_deref().unwrap_or("-"),
            sent = count(Some(bytes_out)),
            size = count(object_bytes.filter(|_| self.key.is_some())),
            total = trace.started.elapsed().as_millis(),
            turnaround = self.turnaround_ms,
            referer = dash(&self.referer),
            agent = dash(&self.agent),
            version = dash(&self.version),
            sigv = self.signature.0,
            auth = self.signature.1,
            host = dash(&self.host),
            tls = tls.map_or_else(|| "-".to_owned(), |version| format!("TLSv{version}")),
        );
        let bucket = self.bucket.name.as_str();
        self.log.push(bucket, self.at, &line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_named_as_s3_names_them() {
        let of = |method: Method, query: &str, key: bool| operation(&method, query, key, false);
        assert_eq!(of(Method::PUT, "", true), "REST.PUT.OBJECT");
        assert_eq!(of(Method::GET, "list-type=2&prefix=a", false), "REST.GET.BUCKET");
        assert_eq!(of(Method::GET, "logging", false), "REST.GET.LOGGING_STATUS");
        assert_eq!(of(Method::POST, "delete", false), "REST.POST.MULTI_OBJECT_DELETE");
        assert_eq!(of(Method::PUT, "partNumber=1&uploadId=x", true), "REST.PUT.PART");
        assert_eq!(of(Method::POST, "uploadId=x", true), "REST.POST.UPLOAD");
        assert_eq!(operation(&Method::PUT, "", true, true), "REST.COPY.OBJECT");
    }

    #[test]
    fn lines_hold_no_signatures_and_no_forged_fields() {
        let request = http::Request::builder()
            .uri("/b/k?X-Amz-Signature=abc&X-Amz-Security-Token=t&x=1")
            .header("user-agent", "evil\" 200 -")
            .body(())
            .unwrap();
        let (parts, ()) = request.into_parts();
        let shown = without_secrets(&parts);
        assert_eq!(shown, "GET /b/k?X-Amz-Signature=REDACTED&X-Amz-Security-Token=REDACTED&x=1 HTTP/1.1");
        assert_eq!(text(&parts.headers, &USER_AGENT), "evil_ 200 -");
        assert_eq!(quotable(&"x".repeat(5000)).len(), FIELD_BYTES_MAX);
    }

    #[test]
    fn keys_of_log_objects() {
        let source = BucketRecord {
            id: granary_types::BucketId(1),
            name: BucketName::new("source").unwrap(),
            created: Timestamp(0),
            owner: "owner".into(),
            region: "eu".into(),
            key: granary_types::WrappedKey(Vec::new()),
            versioning: Default::default(),
            options: Default::default(),
            documents: Default::default(),
            frozen: Default::default(),
        };
        let rules = |format| LoggingRules { target: BucketName::new("target").unwrap(), prefix: "p/".into(), format };
        let now = Timestamp::from_secs(86_400 * 365 + 3_661);
        let key = |format| {
            let key = log_key(&rules(format), &source, 10, now);
            key.rsplit_once('-').unwrap().0.to_owned()
        };
        assert_eq!(key(None), "p/1971-01-01-01-01-01");
        assert_eq!(key(Some(KeyFormat::Simple)), "p/1971-01-01-01-01-01");
        assert_eq!(key(Some(KeyFormat::ByDelivery)), "p/owner/eu/source/1971/01/01/1971-01-01-01-01-01");
        assert_eq!(key(Some(KeyFormat::ByEvent)), "p/owner/eu/source/1970/01/11/1970-01-11-00-00-00");
        let rules = rules(Some(KeyFormat::ByEvent));
        assert_eq!(LoggingRules::decode(&rules.encode()), Some(rules));
    }
}
