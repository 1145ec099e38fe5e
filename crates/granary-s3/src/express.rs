//! Requests that are signed for the service `s3express`, as SDKs sign whatever goes to a bucket named `NAME--ZONE--x-s3`
//! (adr/0017).
//!
//! s3s verifies the services `s3` and `sts` only. So the signature is verified here, and the request signed anew for `s3` with
//! the same secret, over the same host, path, query, time and payload: s3s then checks all else (clocks, payload, the
//! session's token in [`crate::auth`]) as for any request. Whoever has no secret gets nothing signed: what is wrong is refused
//! here, in constant time.
//!
//! The same way serves documents in aws-chunked form (DeleteObjects, CompleteMultipartUpload with a trailer), which s3s does not
//! read: their chunks are taken off in [`crate::rechunk`], and s3s is given the document as one unsigned payload.

use granary_access::Iam;
use granary_access::credentials::Secret;
use granary_access::sigv4::{self, SigningKey};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Method, Uri};
use s3s::{S3Error, S3ErrorCode};

use crate::auth::{Domains, unknown_key};
use crate::convert;
use crate::error::{bad_request, invalid_request};

/// The service that such requests are signed for.
const SERVICE: &str = "s3express";
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const AMZ_DATE: HeaderName = HeaderName::from_static("x-amz-date");
const DECODED_LENGTH: HeaderName = HeaderName::from_static("x-amz-decoded-content-length");
const TRAILER: HeaderName = HeaderName::from_static("x-amz-trailer");
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// A directory bucket's zone, by the bucket's name: `NAME--ZONE--x-s3`.
pub(crate) fn zone(bucket: &str) -> Option<&str> {
    let (name, zone) = bucket.strip_suffix("--x-s3")?.rsplit_once("--")?;
    (!name.is_empty() && !zone.is_empty()).then_some(zone)
}

/// How the signatures of a body's chunks are made to follow from the request's new one.
pub(crate) struct Resign {
    pub(crate) old: SigningKey,
    pub(crate) new: SigningKey,
    pub(crate) time: String,
    /// The signatures that the first chunk's follow from: the client's, and ours.
    pub(crate) old_before: String,
    pub(crate) new_before: String,
}

fn mismatch() -> S3Error {
    S3Error::new(S3ErrorCode::SignatureDoesNotMatch)
}

/// Whether a request is signed for `s3express`.
pub(crate) fn is_meant(parts: &Parts) -> bool {
    let scope = "/s3express/aws4_request";
    let by_header = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    by_header.is_some_and(|text| text.starts_with(ALGORITHM) && text.contains(scope))
        || parts.uri.query().is_some_and(|query| {
            query.contains("X-Amz-Credential=") && query.contains("s3express") && query.contains("X-Amz-Signature=")
        })
}

/// The parts of a credential: access key, day, region, service.
fn credential(text: &str) -> Result<(&str, &str, &str, &str), S3Error> {
    let parts: Vec<_> = text.rsplitn(5, '/').collect();
    match parts[..] {
        ["aws4_request", service, region, day, key] if matches!(service, SERVICE | "s3") => {
            Ok((key, day, region, service))
        }
        _ => Err(bad_request(
            "AuthorizationHeaderMalformed",
            "The authorization header is malformed; the Credential is mal-formed; expecting \
             \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\".",
        )),
    }
}

/// What a request signs.
struct Signed<'a> {
    method: &'a Method,
    /// Decoded.
    query: Vec<(String, String)>,
    host: &'a str,
    parts: &'a Parts,
    payload: &'a str,
}

impl Signed<'_> {
    fn canonical(&self, path: &str, query: &[(String, String)], names: &[&str]) -> Option<String> {
        let mut pairs: Vec<_> = query.iter().map(|(name, value)| (encoded(name, true), encoded(value, true))).collect();
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        let query: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut headers = String::new();
        for name in names {
            let mut values: Vec<String> = Vec::new();
            for value in self.parts.headers.get_all(*name) {
                values.push(value.to_str().ok()?.split_whitespace().collect::<Vec<_>>().join(" "));
            }
            if values.is_empty() && *name == "host" {
                values.push(self.host.to_owned());
            }
            if values.is_empty() {
                return None;
            }
            headers.push_str(&format!("{name}:{}\n", values.join(",")));
        }
        let (method, payload) = (self.method, self.payload);
        Some(format!("{method}\n{path}\n{}\n{headers}\n{}\n{payload}", query.join("&"), names.join(";")))
    }

    /// Verifies `signature`, in the two forms of a path that clients sign: encoded as S3 has it, or as sent.
    fn verify(&self, key: &SigningKey, time: &str, names: &[&str], signature: &str) -> Result<(), S3Error> {
        let sent = self.parts.uri.path();
        let decoded = convert::form_decode(&sent.replace('+', "%2B")).ok_or_else(mismatch)?;
        for path in [encoded(&decoded, false), sent.to_owned()] {
            let canonical = self.canonical(&path, &self.query, names).ok_or_else(mismatch)?;
            if sigv4::equal(&key.request(time, &canonical), signature) {
                return Ok(());
            }
        }
        Err(mismatch())
    }

    /// The signature in the form that s3s verifies.
    fn sign(
        &self,
        key: &SigningKey,
        time: &str,
        query: &[(String, String)],
        names: &[&str],
    ) -> Result<String, S3Error> {
        let decoded = convert::form_decode(&self.parts.uri.path().replace('+', "%2B")).ok_or_else(mismatch)?;
        let canonical = self.canonical(&encoded(&decoded, false), query, names).ok_or_else(mismatch)?;
        Ok(key.request(time, &canonical))
    }
}

/// As SigV4 encodes; a path keeps its slashes.
fn encoded(text: &str, slash_too: bool) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            b'/' if !slash_too => out.push('/'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn pairs(query: &str) -> Option<Vec<(String, String)>> {
    let read = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((convert::form_decode(name)?, convert::form_decode(value)?))
    };
    query.split('&').filter(|pair| !pair.is_empty()).map(read).collect()
}

fn with_query(uri: &Uri, query: &[(String, String)]) -> Option<Uri> {
    let query: Vec<_> = query.iter().map(|(n, v)| format!("{}={}", encoded(n, true), encoded(v, true))).collect();
    let mut parts = uri.clone().into_parts();
    let target = if query.is_empty() { uri.path().to_owned() } else { format!("{}?{}", uri.path(), query.join("&")) };
    parts.path_and_query = Some(target.parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// Whether a request's body is a document in chunks, or one of nobody's in chunks, which s3s would take for the payload.
pub(crate) fn is_in_chunks(parts: &Parts) -> bool {
    let is_v4 =
        || parts.headers.get(AUTHORIZATION).is_some_and(|value| value.as_bytes().starts_with(ALGORITHM.as_bytes()));
    let is_nobodys = || {
        !parts.headers.contains_key(AUTHORIZATION)
            && !parts.uri.query().is_some_and(|query| query.contains("Signature="))
            && parts
                .headers
                .get(CONTENT_SHA256)
                .is_some_and(|value| value.as_bytes() == b"STREAMING-UNSIGNED-PAYLOAD-TRAILER")
    };
    let is_chunked = parts.headers.get(CONTENT_SHA256).is_some_and(|value| value.as_bytes().starts_with(b"STREAMING-"));
    is_chunked && ((crate::documents::is_document(parts) && is_v4()) || is_nobodys())
}

/// Makes the headers of a request in chunks those of its payload.
fn flatten(parts: &mut Parts) -> Result<(), S3Error> {
    let bytes = parts.headers.remove(DECODED_LENGTH).ok_or_else(|| S3Error::new(S3ErrorCode::MissingContentLength))?;
    parts.headers.insert(CONTENT_LENGTH, bytes);
    parts.headers.remove(TRANSFER_ENCODING);
    parts.headers.remove(TRAILER);
    parts.headers.insert(CONTENT_SHA256, HeaderValue::from_static(UNSIGNED));
    Ok(())
}

/// Verifies a request that s3s would not, and makes it one that s3s verifies: for `s3`, and with `is_flat`, for the payload
/// that its chunks hold.
///
/// # Errors
/// The refusals of SigV4.
pub(crate) fn translate(
    parts: &mut Parts,
    iam: &Iam,
    domains: &Domains,
    is_flat: bool,
) -> Result<Option<Resign>, S3Error> {
    let authority = parts.uri.authority().map(|authority| authority.as_str().to_owned());
    let host = parts.headers.get(HOST).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let host = host.or(authority).unwrap_or_default();
    let query = pairs(parts.uri.query().unwrap_or_default()).ok_or_else(mismatch)?;
    let secret_of = |key: &str| iam.secret(key).ok_or_else(unknown_key);
    // Botocore says what it asks for by the service and host alone; s3s goes by the query.
    let is_listing = parts.method == Method::GET && parts.uri.path() == "/" && domains.bucket(&host).is_none();
    match parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).map(str::to_owned) {
        Some(text) => by_header(parts, &text, &host, query, secret_of, (is_listing, is_flat)),
        None if is_flat => flatten(parts).map(|()| None),
        None => by_query(parts, &host, query, secret_of, is_listing).map(|()| None),
    }
}

fn listing(query: &[(String, String)], is_listing: bool) -> Vec<(String, String)> {
    let mut query = query.to_vec();
    if is_listing && !query.iter().any(|(name, _)| name == "x-id") {
        query.push(("x-id".to_owned(), "ListDirectoryBuckets".to_owned()));
    }
    query
}

fn by_header(
    parts: &mut Parts,
    text: &str,
    host: &str,
    query: Vec<(String, String)>,
    secret_of: impl Fn(&str) -> Result<Secret, S3Error>,
    (is_listing, is_flat): (bool, bool),
) -> Result<Option<Resign>, S3Error> {
    let field = |name: &str| {
        let fields = text.strip_prefix(ALGORITHM).unwrap_or_default().split(',');
        fields.map(str::trim).find_map(|field| field.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
    };
    let (access_key, day, region, service) = credential(field("Credential"))?;
    let mut names: Vec<&str> = field("SignedHeaders").split(';').collect();
    names.sort_unstable();
    let said = |name: &HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let time = said(&AMZ_DATE).filter(|time| time.starts_with(day)).ok_or_else(mismatch)?;
    let payload = said(&CONTENT_SHA256).ok_or_else(|| invalid_request("missing header: x-amz-content-sha256"))?;
    // What is not signed could be another's.
    let is_date_signed = names.contains(&"x-amz-date") || names.contains(&"date");
    if !names.contains(&"host") || !is_date_signed {
        return Err(mismatch());
    }
    let secret = secret_of(access_key)?;
    let (old, new) = (SigningKey::new(&secret, day, region, service), SigningKey::new(&secret, day, region, "s3"));
    let signed = Signed { method: &parts.method, query, host, parts, payload: &payload };
    signed.verify(&old, &time, &names, field("Signature"))?;
    let query = listing(&signed.query, is_listing);
    let own = ["host", "x-amz-content-sha256", "x-amz-date"];
    if is_flat {
        flatten(parts)?;
    }
    let new_payload = if is_flat { UNSIGNED } else { &payload };
    let signed = Signed { method: &parts.method, query: Vec::new(), host, parts, payload: new_payload };
    let signature = signed.sign(&new, &time, &query, &own)?;
    let value = format!(
        "{ALGORITHM} Credential={access_key}/{day}/{region}/s3/aws4_request, SignedHeaders={}, Signature={signature}",
        own.join(";")
    );
    let is_chunk_signed = payload.starts_with("STREAMING-AWS4-");
    let resign = Resign { old, new, time, old_before: field("Signature").to_owned(), new_before: signature };
    if is_listing {
        parts.uri = with_query(&parts.uri, &query).ok_or_else(mismatch)?;
    }
    parts.headers.insert(AUTHORIZATION, HeaderValue::try_from(value).map_err(|_| mismatch())?);
    Ok(is_chunk_signed.then_some(resign))
}

fn by_query(
    parts: &mut Parts,
    host: &str,
    query: Vec<(String, String)>,
    secret_of: impl Fn(&str) -> Result<Secret, S3Error>,
    is_listing: bool,
) -> Result<(), S3Error> {
    let said = |name: &str| query.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let (Some(scope), Some(time), Some(names), Some(signature)) =
        (said("X-Amz-Credential"), said("X-Amz-Date"), said("X-Amz-SignedHeaders"), said("X-Amz-Signature"))
    else {
        return Err(mismatch());
    };
    let (access_key, day, region, _) = credential(&scope)?;
    let mut names: Vec<&str> = names.split(';').collect();
    names.sort_unstable();
    if !names.contains(&"host") || !time.starts_with(day) {
        return Err(mismatch());
    }
    let secret = secret_of(access_key)?;
    let (old, new) = (SigningKey::new(&secret, day, region, SERVICE), SigningKey::new(&secret, day, region, "s3"));
    let mut query = query;
    query.retain(|(name, _)| name != "X-Amz-Signature");
    let signed = Signed { method: &parts.method, query, host, parts, payload: UNSIGNED };
    signed.verify(&old, &time, &names, &signature)?;
    let mut query = listing(&signed.query, is_listing);
    for (name, value) in &mut query {
        match name.as_str() {
            "X-Amz-Credential" => *value = format!("{access_key}/{day}/{region}/s3/aws4_request"),
            "X-Amz-SignedHeaders" => "host".clone_into(value),
            _ => {}
        }
    }
    let signature = signed.sign(&new, &time, &query, &["host"])?;
    query.push(("X-Amz-Signature".to_owned(), signature));
    parts.uri = with_query(&parts.uri, &query).ok_or_else(mismatch)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_of_names() {
        assert_eq!(zone("data--use1-az4--x-s3"), Some("use1-az4"));
        for none in ["data", "data--x-s3", "--use1-az4--x-s3", "data----x-s3", "data--use1-az4--x-s33"] {
            assert_eq!(zone(none), None, "{none}");
        }
    }

    #[test]
    fn what_is_meant() {
        let parts = |uri: &str, authorization: &str| {
            let request = http::Request::get(uri).header(AUTHORIZATION, authorization);
            request.body(()).unwrap().into_parts().0
        };
        let header = |service: &str| format!("AWS4-HMAC-SHA256 Credential=a/20261120/r/{service}/aws4_request, x");
        assert!(is_meant(&parts("/b", &header("s3express"))));
        assert!(!is_meant(&parts("/b", &header("s3"))));
        assert!(is_meant(&parts("/b?X-Amz-Credential=a%2Fb%2Fc%2Fs3express%2Faws4_request&X-Amz-Signature=0", "")));
    }

    #[test]
    fn paths_and_queries_are_encoded() {
        assert_eq!(encoded("/a b/ü~", false), "/a%20b/%C3%BC~");
        assert_eq!(encoded("a/b=c", true), "a%2Fb%3Dc");
        let uri: Uri = "/b?a=1+2&c".parse().unwrap();
        let pairs = pairs(uri.query().unwrap()).unwrap();
        assert_eq!(with_query(&uri, &pairs).unwrap(), "/b?a=1%202&c=");
    }
}
