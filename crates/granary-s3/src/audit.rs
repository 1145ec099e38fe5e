//! A request's audit event: made of what is known when a command of it is proposed, or when it has ended.
//!
//! Only what is named here goes in: no signature, no token, no key of SSE-C, no user metadata, no payload.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use granary_audit::{Actor, Event, EventTls, Signature, Source};
use granary_store::audit::{AuditLog, AuditRoom, AuditScope, Subject};
use granary_types::Timestamp;
use granary_types::hex;
use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue, RANGE, USER_AGENT};
use http::request::Parts;
use http::{Method, Uri};
use parking_lot::Mutex;

use crate::auth::Domains;
use crate::context::Trace;
use crate::convert::shown_decode;

/// Query parameters that are kept, beside names of subresources (which have no value).
const QUERY: [&str; 16] = [
    "prefix",
    "delimiter",
    "marker",
    "start-after",
    "max-keys",
    "list-type",
    "uploadId",
    "partNumber",
    "key-marker",
    "version-id-marker",
    "upload-id-marker",
    "max-uploads",
    "max-parts",
    "part-number-marker",
    "encoding-type",
    "attributes",
];
/// Headers that are kept.
const HEADERS: [&str; 17] = [
    "x-amz-copy-source",
    "x-amz-copy-source-range",
    "x-amz-acl",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-storage-class",
    "x-amz-bypass-governance-retention",
    "x-amz-object-lock-mode",
    "x-amz-object-lock-retain-until-date",
    "x-amz-object-lock-legal-hold",
    "x-amz-metadata-directive",
    "x-amz-tagging-directive",
    "x-amz-expected-bucket-owner",
    "x-amz-bucket-object-lock-enabled",
    "if-match",
    "if-none-match",
];

/// How a request ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct End {
    pub(crate) status: u16,
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

/// One request, as its events need it.
pub(crate) struct RequestAudit {
    log: Arc<AuditLog>,
    trace: Arc<Trace>,
    region: Arc<str>,
    at: Timestamp,
    method: Method,
    uri: Uri,
    headers: Vec<(&'static str, HeaderValue)>,
    user_agent: Option<HeaderValue>,
    host: Option<HeaderValue>,
    authorization: Option<HeaderValue>,
    bucket: String,
    key: String,
    room: Mutex<Option<AuditRoom>>,
    steps: AtomicU16,
    /// Its event is in the log.
    is_written: AtomicBool,
    /// What was written last was carried out.
    is_done: AtomicBool,
}

impl RequestAudit {
    /// For a request that has been given room.
    pub(crate) fn new(
        log: Arc<AuditLog>,
        room: AuditRoom,
        trace: Arc<Trace>,
        parts: &Parts,
        region: Arc<str>,
        domains: Option<&Domains>,
    ) -> Self {
        let host = parts
            .headers
            .get(HOST)
            .cloned()
            .or_else(|| parts.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()));
        let virtual_bucket = host.as_ref().and_then(|host| host.to_str().ok()).and_then(|host| domains?.bucket(host));
        let (bucket, key) = subject(virtual_bucket, parts.uri.path());
        let micros = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_micros());
        Self {
            log,
            trace,
            region,
            at: Timestamp(u64::try_from(micros).unwrap_or(u64::MAX)),
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            headers: kept_headers(&parts.headers),
            user_agent: parts.headers.get(USER_AGENT).cloned(),
            host,
            authorization: parts.headers.get(AUTHORIZATION).cloned(),
            bucket,
            key,
            room: Mutex::new(Some(room)),
            steps: AtomicU16::new(0),
            is_written: AtomicBool::new(false),
            is_done: AtomicBool::new(false),
        }
    }

    /// Whether a request may bring something, by its head alone. What only takes away is let through as long as reads are: it may be
    /// what makes room again.
    pub(crate) fn is_write(method: &Method, query: &str) -> bool {
        match *method {
            Method::GET | Method::HEAD | Method::OPTIONS | Method::DELETE => false,
            Method::POST => !query.split('&').any(|pair| pair == "delete" || pair == "delete="),
            _ => true,
        }
    }

    /// The request has ended: tells its event, unless that is in the log already.
    pub(crate) fn end(&self, end: End) {
        let is_told =
            self.is_written.load(Ordering::Relaxed) && (end.status < 400 || !self.is_done.load(Ordering::Relaxed));
        let room = self.room.lock().take();
        if let Some(room) = room.filter(|_| !is_told) {
            room.tell(self.make(end, None).encode().into());
        }
    }

    fn make(&self, end: End, subject: Option<&Subject<'_>>) -> Event {
        let trace = &self.trace;
        let text = |value: &Option<HeaderValue>| {
            value.as_ref().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).unwrap_or_default()
        };
        let query = self.uri.query().unwrap_or_default();
        let (signature, access_key) = signature(self.authorization.as_ref(), query);
        let (mut parameters, version) = parameters(query, &self.headers);
        let call = trace.call();
        let name = match (subject, &call) {
            (Some(subject), _) => subject.name.to_owned(),
            (None, Some(call)) => call.name.clone(),
            (None, None) => self.name(),
        };
        let read_only = match &call {
            Some(call) => call.is_read_only(),
            None => ["Get", "Head", "List", "Select", "REST.GET", "REST.HEAD", "REST.OPTIONS"]
                .iter()
                .any(|start| name.starts_with(start)),
        };
        let source = call.as_ref().map_or(Source::S3, |call| call.source);
        parameters.extend(call.into_iter().flat_map(|call| call.parameters));
        let peer = trace.peer;
        Event {
            id: rand::random(),
            at: self.at,
            source,
            name,
            request_id: trace.id.clone(),
            actor: actor(trace, access_key),
            address: peer.map(|peer| peer.address.ip()),
            user_agent: text(&self.user_agent),
            host: text(&self.host),
            tls: peer.and_then(|peer| {
                Some(EventTls {
                    version: format!("TLSv{}", peer.tls?),
                    cipher: peer.cipher.unwrap_or_default().to_owned(),
                    client_certificate: peer.client_certificate.map(hex::encode).unwrap_or_default(),
                })
            }),
            signature,
            region: self.region.to_string(),
            bucket: self.bucket.clone(),
            key: subject.map_or_else(|| self.key.clone(), |subject| subject.key.to_owned()),
            version: subject.map_or(version, |subject| subject.version.to_owned()),
            parameters,
            read_only,
            bytes_in: end.bytes_in,
            bytes_out: end.bytes_out,
            status: end.status,
            // What s3s says of a signature that does not match may quote what was signed.
            error_message: if end.code == "SignatureDoesNotMatch" { String::new() } else { end.message },
            error_code: end.code,
            decision: trace.decision().map(|decision| decided(&decision)).unwrap_or_default(),
            step: self.steps.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// S3's operation; of a request that was refused before that was known, its kind as S3's access logs name it.
    fn name(&self) -> String {
        match self.trace.operation() {
            "Unknown" | "Other" => {
                let kind = match (self.bucket.is_empty(), self.key.is_empty()) {
                    (true, _) => "SERVICE",
                    (_, true) => "BUCKET",
                    _ => "OBJECT",
                };
                format!("REST.{}.{kind}", self.method)
            }
            name => name.to_owned(),
        }
    }
}

impl AuditScope for RequestAudit {
    fn event(&self, subject: Option<&Subject<'_>>) -> Bytes {
        let end = End { bytes_in: self.trace.bytes_in(), ..End::default() };
        self.make(end, subject).encode().into()
    }

    fn written(&self, is_done: bool) {
        self.is_done.store(is_done, Ordering::Relaxed);
        self.is_written.store(true, Ordering::Relaxed);
    }

    fn refused<'a>(&'a self, subject: Subject<'a>, code: &'a str) -> BoxFuture<'a, ()> {
        async move {
            let end = End { status: 403, code: code.to_owned(), ..End::default() };
            let event = self.make(end, Some(&subject)).encode();
            // Waits for as long as it takes: the request is being served.
            while let Err(error) = self.log.room(false).await.map(|room| room.tell(event.clone().into())) {
                tracing::warn!(%error, "an audit event waits");
            }
        }
        .boxed()
    }
}

fn decided(decision: &granary_access::Decision) -> String {
    format!("{} by {}", if decision.allowed { "allowed" } else { "denied" }, decision.by)
}

fn actor(trace: &Trace, claimed: String) -> Actor {
    match trace.identity() {
        Some(identity) => Actor {
            kind: identity.kind.trail_type().to_owned(),
            access_key: identity.access_key.clone(),
            account: identity.account.clone(),
            principal_id: identity.id.clone(),
            arn: identity.arn.clone(),
            name: identity.name.clone(),
            session_issuer: identity.session.as_ref().map(|session| session.issuer.clone()).unwrap_or_default(),
        },
        // Whose it says it is; that it is theirs was not shown.
        None if !claimed.is_empty() => Actor { kind: "Unknown".to_owned(), access_key: claimed, ..Actor::default() },
        None => Actor { kind: "AWSAccount".to_owned(), name: "anonymous".to_owned(), ..Actor::default() },
    }
}

/// Bucket and key from a path, as s3s reads it.
fn subject(virtual_bucket: Option<String>, path: &str) -> (String, String) {
    let path = path.strip_prefix('/').unwrap_or(path);
    match virtual_bucket {
        Some(bucket) => (bucket, shown_decode(path)),
        None => {
            let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
            (shown_decode(bucket), shown_decode(key))
        }
    }
}

fn kept_headers(headers: &HeaderMap) -> Vec<(&'static str, HeaderValue)> {
    let mut kept = Vec::new();
    if let Some(range) = headers.get(RANGE) {
        kept.push(("range", range.clone()));
    }
    // Most requests have few headers: one look at each of theirs beats one for each of ours.
    for (name, value) in headers {
        if (name.as_str().starts_with("x-amz-") || name.as_str().starts_with("if-"))
            && let Some(known) = HEADERS.iter().find(|known| **known == name.as_str())
        {
            kept.push((known, value.clone()));
        }
    }
    kept
}

/// The parameters that are kept, and the version that is named.
fn parameters(query: &str, headers: &[(&'static str, HeaderValue)]) -> (Vec<(String, String)>, String) {
    let mut kept = Vec::new();
    let mut version = String::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if name == "versionId" {
            version = shown_decode(value);
        } else if QUERY.contains(&name) {
            kept.push((name.to_owned(), shown_decode(&value.replace('+', " "))));
        } else if value.is_empty() && name.len() <= 32 && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') {
            kept.push((name.to_owned(), String::new()));
        }
    }
    for (name, value) in headers {
        kept.push(((*name).to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    }
    (kept, version)
}

/// How a request is signed, and with which access key by its own word.
fn signature(authorization: Option<&HeaderValue>, query: &str) -> (Signature, String) {
    let key =
        |text: &str, end: &[char]| text.split(end).next().unwrap_or_default().chars().take(128).collect::<String>();
    if let Some(text) = authorization.and_then(|value| value.to_str().ok()) {
        if let Some(rest) = text.strip_prefix("AWS4-HMAC-SHA256") {
            let credential = rest.split_once("Credential=").map_or("", |(_, rest)| rest);
            return (Signature::V4Header, key(credential, &['/', ',', ' ']));
        }
        if let Some(rest) = text.strip_prefix("AWS ") {
            return (Signature::V2Header, key(rest, &[':']));
        }
    }
    let parameter =
        |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(shown_decode);
    if let Some(credential) = parameter("X-Amz-Credential") {
        return (Signature::V4Query, key(&credential, &['/']));
    }
    match parameter("AWSAccessKeyId") {
        Some(access_key) => (Signature::V2Query, key(&access_key, &[])),
        None => (Signature::None, String::new()),
    }
}

/// Code and message of an error document.
pub(crate) fn error_of(document: &[u8]) -> (String, String) {
    let text = String::from_utf8_lossy(document);
    let between = |open: &str, close: &str| {
        text.split_once(open).and_then(|(_, rest)| rest.split_once(close)).map(|(inner, _)| inner.to_owned())
    };
    (between("<Code>", "</Code>").unwrap_or_default(), between("<Message>", "</Message>").unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_takes_away_is_no_write() {
        for (method, query, want) in [
            (Method::PUT, "", true),
            (Method::POST, "uploads", true),
            (Method::POST, "uploadId=delete", true),
            (Method::POST, "delete", false),
            (Method::POST, "x-id=DeleteObjects&delete=", false),
            (Method::DELETE, "", false),
            (Method::GET, "", false),
        ] {
            assert_eq!(RequestAudit::is_write(&method, query), want, "{method} {query}");
        }
    }

    #[test]
    fn nothing_secret_is_kept_of_a_query_or_headers() {
        let query = "prefix=a%2Fb&X-Amz-Signature=deadbeef&X-Amz-Security-Token=tok&X-Amz-Credential=AKIA%2F2026%2Fx&acl&versionId=v1&Signature=s";
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-amz-server-side-encryption-customer-key", "c2VjcmV0"),
            ("x-amz-security-token", "tok"),
            ("x-amz-acl", "private"),
            ("x-amz-meta-a", "b"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let (kept, version) = parameters(query, &kept_headers(&headers));
        let kept: Vec<(&str, &str)> = kept.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(kept, [("prefix", "a/b"), ("acl", ""), ("x-amz-acl", "private")]);
        assert_eq!(version, "v1");
        assert_eq!(signature(None, query), (Signature::V4Query, "AKIA".to_owned()));
    }

    #[test]
    fn who_a_request_says_it_is() {
        let header = |text: &'static str| HeaderValue::from_static(text);
        let v4 = header("AWS4-HMAC-SHA256 Credential=AK/20261120/r/s3/aws4_request, SignedHeaders=host, Signature=ab");
        assert_eq!(signature(Some(&v4), ""), (Signature::V4Header, "AK".to_owned()));
        assert_eq!(signature(Some(&header("AWS AK:c2ln")), ""), (Signature::V2Header, "AK".to_owned()));
        assert_eq!(signature(None, "AWSAccessKeyId=AK&Signature=x"), (Signature::V2Query, "AK".to_owned()));
        assert_eq!(signature(None, "list-type=2"), (Signature::None, String::new()));
    }

    #[test]
    fn subjects() {
        assert_eq!(subject(None, "/b/k%20%C3%A9/x"), ("b".to_owned(), "k é/x".to_owned()));
        assert_eq!(subject(None, "/"), (String::new(), String::new()));
        assert_eq!(subject(Some("v".to_owned()), "/k"), ("v".to_owned(), "k".to_owned()));
        assert_eq!(shown_decode("%zz%4"), "%zz%4");
    }
}
