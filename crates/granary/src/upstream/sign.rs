//! SigV4 of requests to upstreams: <https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>.
//!
//! `granary-access` has the keys and the hashing; here is what of a request is signed: its host and every `x-amz-*` header.

use aws_lc_rs::hmac;
use granary_access::sigv4::{sha256, signing_key};
use granary_store::upstream::Site;
use granary_types::{Clock as _, SystemClock, Timestamp, hex};
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");
/// The body is not part of the signature: its checksum is a header, which is.
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// Signs a request as it is sent. Without an access key it stays unsigned.
///
/// # Errors
/// In words, without the secret.
pub(super) fn sign(
    site: &Site,
    method: &Method,
    path: &str,
    query: &str,
    has_body: bool,
    headers: &mut HeaderMap,
) -> Result<(), String> {
    sign_at(SystemClock.now(), site, method, path, query, has_body, headers)
}

#[allow(clippy::too_many_arguments)] // What a request is made of, each once.
fn sign_at(
    now: Timestamp,
    site: &Site,
    method: &Method,
    path: &str,
    query: &str,
    has_body: bool,
    headers: &mut HeaderMap,
) -> Result<(), String> {
    let payload = if has_body { UNSIGNED.to_owned() } else { sha256(b"") };
    let value = |text: &str| HeaderValue::from_str(text).map_err(|error| error.to_string());
    headers.insert(CONTENT_SHA256, value(&payload)?);
    if site.access_key.is_empty() {
        return Ok(());
    }
    let time = granary_s3::amz_date(now);
    headers.insert(DATE, value(&time)?);
    let mut signed: Vec<(&str, String)> = headers
        .iter()
        .filter(|(name, _)| **name == HOST || name.as_str().starts_with("x-amz-"))
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()).trim().to_owned()))
        .collect();
    signed.sort();
    let names = signed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let lines: String = signed.iter().map(|(name, value)| format!("{name}:{}\n", folded(value))).collect();
    let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{payload}");
    let day = time.get(..8).unwrap_or_default();
    let scope = format!("{day}/{}/s3/aws4_request", site.region);
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", sha256(canonical.as_bytes()));
    let key = signing_key(&site.secret, day, &site.region, "s3");
    let signature = hex::encode(hmac::sign(&key, to_sign.as_bytes()));
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
        site.access_key
    );
    let mut authorization = value(&authorization)?;
    authorization.set_sensitive(true);
    headers.insert(AUTHORIZATION, authorization);
    Ok(())
}

/// Runs of spaces count as one.
fn folded(value: &str) -> String {
    value.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example "GET Bucket (List Objects)" of the S3 API reference, with its dates and keys.
    #[test]
    fn signatures_are_those_of_the_reference() {
        let site = Site {
            id: 1,
            is_tls: true,
            host: "s3.amazonaws.com".to_owned(),
            port: 443,
            bucket: "examplebucket".to_owned(),
            prefix: String::new(),
            region: "us-east-1".to_owned(),
            path_style: false,
            access_key: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned().into(),
            ca: Vec::new(),
        };
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("examplebucket.s3.amazonaws.com"));
        let at = Timestamp::from_secs(1_369_353_600);
        sign_at(at, &site, &Method::GET, "/", "max-keys=2&prefix=J", false, &mut headers).unwrap();
        let signed = headers[AUTHORIZATION].to_str().unwrap();
        assert_eq!(
            signed,
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
             SignedHeaders=host;x-amz-content-sha256;x-amz-date, \
             Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
        assert!(!format!("{headers:?}").contains("34b48302"), "what is sensitive is not shown");
        let mut unsigned = HeaderMap::new();
        let anonymous = Site { access_key: String::new(), ..site };
        sign_at(at, &anonymous, &Method::GET, "/", "", false, &mut unsigned).unwrap();
        assert!(!unsigned.contains_key(AUTHORIZATION));
    }
}
