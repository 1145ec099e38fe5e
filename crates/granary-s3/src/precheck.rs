//! What s3s does not refuse but S3 does, or we have to: looked at before s3s sees the request.

use http::header::{AUTHORIZATION, CONTENT_TYPE, DATE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method};
use s3s::{S3Error, S3ErrorCode};

use crate::convert;
use crate::service::{refuse_form, refuse_sigv2};

/// S3's allowance for clocks that differ.
const CLOCK_SKEW_SECS: u64 = 15 * 60;
const CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const AMZ_DATE: HeaderName = HeaderName::from_static("x-amz-date");

pub(crate) fn check(parts: &Parts, allow_sigv2: bool) -> Result<(), S3Error> {
    // s3s would gather a form's file in memory.
    if parts.method == Method::POST && is_form(parts) {
        return Err(refuse_form());
    }
    let by_header = parts.headers.get(AUTHORIZATION).is_some_and(|value| value.as_bytes().starts_with(b"AWS "));
    let by_query = parts.uri.query().is_some_and(|query| query.split('&').any(|p| p.starts_with("Signature=")));
    check_v4_query(parts.uri.query().unwrap_or_default())?;
    if (by_header || by_query) && !allow_sigv2 {
        return Err(refuse_sigv2());
    }
    if by_header {
        check_v2_date(parts)?;
    }
    Ok(())
}

/// A signature that cannot be one does not match; s3s would call its form an invalid request.
fn check_v4_query(query: &str) -> Result<(), S3Error> {
    let signature = query.split('&').find_map(|pair| pair.strip_prefix("X-Amz-Signature="));
    let is_digit = |b: u8| b.is_ascii_digit() || matches!(b, b'a'..=b'f');
    match signature {
        Some(text) if text.len() != 64 || !text.bytes().all(is_digit) => {
            Err(S3Error::new(S3ErrorCode::SignatureDoesNotMatch))
        }
        _ => Ok(()),
    }
}

/// curl's `--aws-sigv4` signs the hash of an empty payload without sending it as a header, which s3s (and AWS) ask
/// for. Saying it in the client's place is safe: it is verified as part of the signature all the same.
pub(crate) fn complete(parts: &mut Parts) {
    const EMPTY: HeaderValue =
        HeaderValue::from_static("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    let is_bare = matches!(parts.method, Method::GET | Method::HEAD | Method::DELETE);
    let is_v4 = parts.headers.get(AUTHORIZATION).is_some_and(|value| value.as_bytes().starts_with(b"AWS4-HMAC-SHA256"));
    if is_bare && is_v4 && !parts.headers.contains_key(CONTENT_SHA256) {
        parts.headers.insert(CONTENT_SHA256, EMPTY);
    }
    let query = parts.uri.query().unwrap_or_default();
    if query.contains("Signature=") && query.contains("x-amz-") && !query.contains("X-Amz-Signature=") {
        for (name, value) in headers_of_v2(query) {
            parts.headers.entry(name).or_insert(value);
        }
    }
}

/// What a URL presigned with SigV2 says in its query as `x-amz-*` is signed as headers, and means what they mean: boto3 puts
/// session tokens there.
fn headers_of_v2(query: &str) -> Vec<(HeaderName, HeaderValue)> {
    let read = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let name = HeaderName::from_bytes(name.as_bytes()).ok().filter(|name| name.as_str().starts_with("x-amz-"))?;
        Some((name, HeaderValue::try_from(convert::form_decode(value)?).ok()?))
    };
    query.split('&').filter_map(read).collect()
}

fn is_form(parts: &Parts) -> bool {
    let form = b"multipart/form-data";
    parts
        .headers
        .get(CONTENT_TYPE)
        .map(|value| value.as_bytes())
        .is_some_and(|value| value.get(..form.len()).is_some_and(|start| start.eq_ignore_ascii_case(form)))
}

/// s3s verifies the signature over the date of a SigV2 request, but not that the date is near: without this
/// a request could be replayed for ever.
fn check_v2_date(parts: &Parts) -> Result<(), S3Error> {
    let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let date = text(AMZ_DATE).or_else(|| text(DATE)).and_then(convert::parse_rfc2822).ok_or_else(|| {
        S3Error::with_message(
            S3ErrorCode::AccessDenied,
            "AWS authentication requires a valid Date or x-amz-date header",
        )
    })?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    if now.abs_diff(date.as_secs()) > CLOCK_SKEW_SECS {
        return Err(S3Error::with_message(
            S3ErrorCode::RequestTimeTooSkewed,
            "The difference between the request time and the current time is too large.",
        ));
    }
    Ok(())
}
