//! What is fuzzed, and what must hold whatever comes in: the front door answers, never with `500`, and every refusal is
//! a document with a code; decoders of what lies on disk take a record whole or refuse it.
//!
//! The same functions are driven by libFuzzer (`fuzz/`, which includes this file) and by `main.rs` beside it.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use granary_access::{Iam, Owner, Secret};
use granary_s3::{FrontConfig, S3Service, service};
use granary_types::ClusterId;
use http::{HeaderName, HeaderValue, Method, Request};
use http_body_util::BodyExt as _;
use s3s::Body;

use crate::harness::{ACCESS_KEY, SECRET_KEY};
use crate::sign;
use crate::twin::Twin;

/// A target by its name, as its folder in the corpus is called.
pub const TARGETS: [(&str, fn(&[u8])); 7] = [
    ("sigv4", sigv4),
    ("chunked", chunked),
    ("xml", xml),
    ("form", form),
    ("policy", policy),
    ("headers", headers),
    ("records", records),
];

thread_local! {
    static HEARD: Cell<u64> = const { Cell::new(0) };
}

/// What this thread's targets have answered since it was last asked: equal numbers for equal answers. A driver without coverage
/// keeps inputs whose answers nobody has heard yet.
pub fn heard() -> u64 {
    HEARD.replace(0)
}

fn hear(answer: impl std::hash::Hash) {
    let mut hasher = DefaultHasher::new();
    (HEARD.get(), answer).hash(&mut hasher);
    HEARD.set(hasher.finish());
}

const HOST: &str = "localhost";
const INPUT_BYTES_MAX: usize = 64 * 1024;

struct Door {
    runtime: tokio::runtime::Runtime,
    service: S3Service,
}

fn door() -> &'static Door {
    static DOOR: OnceLock<Door> = OnceLock::new();
    DOOR.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let secret = Secret::new(SECRET_KEY.to_owned()).unwrap();
        let owner = Owner::root(ClusterId([0xab; 16]));
        let credentials = Arc::new(Iam::with_root(ACCESS_KEY, secret, owner).unwrap());
        let service = service(Arc::new(Twin::default()), credentials, FrontConfig::default(), None).unwrap();
        let door = Door { runtime, service };
        for (method, target, body) in [("PUT", "/bucket", ""), ("PUT", "/bucket/key", "0123456789")] {
            let request = signed(method, target, &[], "UNSIGNED-PAYLOAD", body.as_bytes()).unwrap();
            let status = door.runtime.block_on(door.service.serve(request)).status();
            assert_eq!(status, 200, "{method} {target}");
        }
        door
    })
}

/// Serves a request and looks at the answer.
fn serve(request: Request<Body>) {
    let door = door();
    let is_head = request.method() == Method::HEAD;
    let shown = format!("{} {} {:?}", request.method(), request.uri(), request.headers());
    door.runtime.block_on(async {
        let answer = door.service.serve(request).await;
        let status = answer.status().as_u16();
        // A body that cannot be read to its end was cut on purpose (the twin has keys for that).
        let body = answer.into_body().collect().await.map(|body| body.to_bytes());
        assert_ne!(status, 500, "{shown}\n{body:?}");
        if let (400.., false, Ok(body)) = (status, is_head, body) {
            let text = String::from_utf8_lossy(&body);
            assert!(text.contains("<Code>") && text.contains("<RequestId>"), "{shown}\n{status}: {text}");
            // The code and how many words it comes with: which template it is, whatever of the input the text repeats.
            let (_, code) = text.split_once("<Code>").unwrap_or_default();
            let (_, message) = text.split_once("<Message>").unwrap_or_default();
            let words = message.split("</Message>").next().unwrap_or_default().split_whitespace().count();
            hear((status, code.split('<').next().unwrap_or_default(), words));
        } else {
            hear(status);
        }
    });
}

fn request(method: &str, target: &str, headers: &[(String, String)], body: &[u8]) -> Option<Request<Body>> {
    let mut builder = Request::builder().method(Method::from_bytes(method.as_bytes()).ok()?).uri(target);
    for (name, value) in headers {
        builder = builder
            .header(HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_bytes(value.as_bytes()).ok()?);
    }
    let request = builder.body(Body::from(Bytes::copy_from_slice(body))).ok()?;
    // What hyper lets through: a path that begins with a slash.
    request.uri().path().starts_with('/').then_some(request)
}

/// A request with a good signature over its date, its payload's word and its query; other headers are not signed.
fn signed(
    method: &str,
    target: &str,
    headers: &[(String, String)],
    payload: &str,
    body: &[u8],
) -> Option<Request<Body>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    let date = sign::amz_date(now);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut pairs: Vec<_> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.sort();
    let canonical = format!(
        "{method}\n{path}\n{}\nhost:{HOST}\nx-amz-content-sha256:{payload}\nx-amz-date:{date}\n\n\
         host;x-amz-content-sha256;x-amz-date\n{payload}",
        pairs.join("&")
    );
    let signature = sign::v4(SECRET_KEY, &date, &canonical);
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{}, SignedHeaders=host;x-amz-content-sha256;x-amz-date, \
         Signature={signature}",
        sign::scope(&date)
    );
    let mut every = vec![
        ("host".to_owned(), HOST.to_owned()),
        ("x-amz-date".to_owned(), date),
        ("x-amz-content-sha256".to_owned(), payload.to_owned()),
        ("authorization".to_owned(), authorization),
        ("content-length".to_owned(), body.len().to_string()),
    ];
    every.extend(headers.iter().filter(|(name, _)| !every_name(name)).cloned());
    request(method, target, &every, body)
}

fn every_name(name: &str) -> bool {
    ["host", "x-amz-date", "x-amz-content-sha256", "authorization", "content-length"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(name))
}

/// The first line, and the rest.
fn cut_line(data: &[u8]) -> (String, &[u8]) {
    let end = data.iter().position(|b| *b == b'\n');
    let (line, rest) = end.map_or((data, &[][..]), |end| (&data[..end], &data[end + 1..]));
    (String::from_utf8_lossy(line).trim().to_owned(), rest)
}

fn header_lines(mut data: &[u8]) -> (Vec<(String, String)>, &[u8]) {
    let mut headers = Vec::new();
    while !data.is_empty() {
        let (line, rest) = cut_line(data);
        data = rest;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.trim().to_owned(), value.trim().to_owned()));
    }
    (headers, data)
}

/// `METHOD TARGET`, header lines, an empty line, a body: as it is, signed however it says (headers, presigned queries,
/// SigV2, nothing).
pub fn sigv4(data: &[u8]) {
    let (line, rest) = cut_line(&data[..data.len().min(INPUT_BYTES_MAX)]);
    let Some((method, target)) = line.split_once(' ') else { return };
    let (headers, body) = header_lines(rest);
    if let Some(request) = request(method, target, &headers, body) {
        serve(request);
    }
}

/// A first line with the decoded length and the announced trailer, then an aws-chunked body.
pub fn chunked(data: &[u8]) {
    let (line, body) = cut_line(&data[..data.len().min(INPUT_BYTES_MAX)]);
    let (length, trailer) = line.split_once(' ').unwrap_or((&line, ""));
    let mut headers = vec![
        ("content-encoding".to_owned(), "aws-chunked".to_owned()),
        ("x-amz-decoded-content-length".to_owned(), length.to_owned()),
    ];
    if !trailer.is_empty() {
        headers.push(("x-amz-trailer".to_owned(), trailer.to_owned()));
    }
    for payload in ["STREAMING-UNSIGNED-PAYLOAD-TRAILER", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"] {
        if let Some(request) = signed("PUT", "/bucket/chunked", &headers, payload, body) {
            serve(request);
        }
    }
}

/// `METHOD TARGET`, then an XML document; signed.
pub fn xml(data: &[u8]) {
    let (line, body) = cut_line(&data[..data.len().min(INPUT_BYTES_MAX)]);
    let Some((method, target)) = line.split_once(' ') else { return };
    // Not the bucket that the other targets work in, but for what does not change it.
    if let Some(request) = signed(method, target, &[], "UNSIGNED-PAYLOAD", body) {
        serve(request);
    }
}

/// An HTML form with the boundary `b`.
pub fn form(data: &[u8]) {
    let body = &data[..data.len().min(INPUT_BYTES_MAX)];
    let headers = [
        ("host", HOST.to_owned()),
        ("content-type", "multipart/form-data; boundary=b".to_owned()),
        ("content-length", body.len().to_string()),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value));
    if let Some(request) = request("POST", "/bucket", &headers, body) {
        serve(request);
    }
}

/// A bucket policy.
pub fn policy(data: &[u8]) {
    let body = &data[..data.len().min(INPUT_BYTES_MAX)];
    if let Some(request) = signed("PUT", "/bucket?policy", &[], "UNSIGNED-PAYLOAD", body) {
        serve(request);
    }
    // Whatever it says, the root keys may take it away again.
    if let Some(request) = signed("DELETE", "/bucket?policy", &[], "UNSIGNED-PAYLOAD", b"") {
        serve(request);
    }
}

/// Header lines of a read, and of a copy.
pub fn headers(data: &[u8]) {
    let (mut headers, _) = header_lines(&data[..data.len().min(INPUT_BYTES_MAX)]);
    for method in ["GET", "HEAD"] {
        if let Some(request) = signed(method, "/bucket/key", &headers, "UNSIGNED-PAYLOAD", b"") {
            serve(request);
        }
    }
    headers.push(("x-amz-copy-source".to_owned(), "/bucket/key".to_owned()));
    if let Some(request) = signed("PUT", "/bucket/copy", &headers, "UNSIGNED-PAYLOAD", b"") {
        serve(request);
    }
}

/// What lies on disk. The first byte says which record it is taken for.
pub fn records(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    match kind % 4 {
        0 => granary_meta::fuzzing::log(bytes),
        1 => granary_meta::fuzzing::records(bytes),
        2 => granary_drive::fuzzing::headers(bytes),
        _ => {
            let _ = granary_types::frame::decode(*b"GRXT", 9, 1 << 20, bytes);
            let _ = granary_types::ShardId::from_bytes(bytes);
        }
    }
}
