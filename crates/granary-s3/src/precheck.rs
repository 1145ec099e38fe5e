//! What s3s does not refuse but S3 does, or we have to: looked at before s3s sees the request.

use http::header::{AUTHORIZATION, DATE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, Uri};
use s3s::{Body, S3Error, S3ErrorCode};

use crate::context::Trace;
use crate::convert;
use crate::error::invalid_request;
use crate::service::refuse_sigv2;

/// The methods that S3 knows on anything.
const METHODS: [Method; 6] = [Method::GET, Method::HEAD, Method::PUT, Method::POST, Method::DELETE, Method::OPTIONS];
/// Parameters that change headers of an answer.
const OVERRIDES: [&str; 6] = [
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
];
/// Seconds that a presigned URL may be good for (S3's limit, a week).
const PRESIGNED_SECS_MAX: i64 = 604_800;

/// S3's allowance for clocks that differ.
const CLOCK_SKEW_SECS: u64 = 15 * 60;
const CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const AMZ_DATE: HeaderName = HeaderName::from_static("x-amz-date");

pub(crate) fn check(parts: &Parts, allow_sigv2: bool) -> Result<(), S3Error> {
    if !METHODS.contains(&parts.method) {
        return Err(S3Error::new(S3ErrorCode::MethodNotAllowed));
    }
    let by_header = parts.headers.get(AUTHORIZATION).is_some_and(|value| value.as_bytes().starts_with(b"AWS "));
    let by_query = parts.uri.query().is_some_and(|query| query.split('&').any(|p| p.starts_with("Signature=")));
    check_v4_query(parts)?;
    check_overrides(parts)?;
    if (by_header || by_query) && !allow_sigv2 {
        return Err(refuse_sigv2());
    }
    if by_header {
        check_v2_date(parts)?;
    }
    Ok(())
}

/// What a presigned URL (SigV4) lacks or has wrong, in AWS's words; s3s would call all of it an invalid request.
fn check_v4_query(parts: &Parts) -> Result<(), S3Error> {
    let query = parts.uri.query().unwrap_or_default();
    if !query.split('&').any(|pair| pair.starts_with("X-Amz-Signature=") || pair.starts_with("X-Amz-Algorithm=")) {
        return Ok(());
    }
    let wrong = |message: String| S3Error::with_message(S3ErrorCode::AuthorizationQueryParametersError, message);
    let value = |name: &str| {
        let found = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        found.and_then(convert::form_decode).ok_or_else(|| {
            wrong(
                "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, \
                 X-Amz-Signature, X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters."
                    .to_owned(),
            )
        })
    };
    let (algorithm, credential) = (value("X-Amz-Algorithm")?, value("X-Amz-Credential")?);
    let (signature, date) = (value("X-Amz-Signature")?, value("X-Amz-Date")?);
    let (signed, expires) = (value("X-Amz-SignedHeaders")?, value("X-Amz-Expires")?);
    if algorithm != "AWS4-HMAC-SHA256" {
        return Err(wrong("X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\"".to_owned()));
    }
    let scope: Vec<_> = credential.rsplitn(5, '/').collect();
    let ["aws4_request", _, _, day, _] = scope[..] else {
        return Err(wrong(
            "Error parsing the X-Amz-Credential parameter; the Credential is mal-formed; expecting \
             \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\"."
                .to_owned(),
        ));
    };
    let is_date = date.len() == 16
        && date.bytes().enumerate().all(|(at, b)| match at {
            8 => b == b'T',
            15 => b == b'Z',
            _ => b.is_ascii_digit(),
        });
    if !is_date {
        return Err(wrong("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"".to_owned()));
    }
    if &date[..8] != day {
        return Err(wrong(format!(
            "Invalid credential date \"{day}\". This date is not the same as X-Amz-Date: \"{}\".",
            &date[..8]
        )));
    }
    match expires.parse::<i64>() {
        Err(_) => return Err(wrong("X-Amz-Expires should be a number".to_owned())),
        Ok(seconds) if seconds < 0 => return Err(wrong("X-Amz-Expires must be non-negative".to_owned())),
        Ok(seconds) if seconds > PRESIGNED_SECS_MAX => {
            return Err(wrong(format!(
                "X-Amz-Expires must be less than a week (in seconds); that is, the given X-Amz-Expires must be less \
                 than {PRESIGNED_SECS_MAX} seconds"
            )));
        }
        Ok(_) => {}
    }
    // A signature that cannot be one does not match.
    let is_digit = |b: u8| b.is_ascii_digit() || matches!(b, b'a'..=b'f');
    if signature.len() != 64 || !signature.bytes().all(is_digit) {
        return Err(S3Error::new(S3ErrorCode::SignatureDoesNotMatch));
    }
    // Else whoever is given a URL could add what its maker did not mean: a list, a lock, another encryption.
    let is_signed = |name: &str| signed.split(';').any(|signed| signed.eq_ignore_ascii_case(name));
    let unsigned: Vec<_> = parts
        .headers
        .keys()
        .map(HeaderName::as_str)
        .filter(|name| name.starts_with("x-amz-") && *name != CONTENT_SHA256.as_str() && !is_signed(name))
        .collect();
    if !unsigned.is_empty() {
        return Err(S3Error::with_message(
            S3ErrorCode::AccessDenied,
            format!("There were headers present in the request which were not signed: {}", unsigned.join(", ")),
        ));
    }
    Ok(())
}

/// What answers are to look like is for whoever signed to say.
fn check_overrides(parts: &Parts) -> Result<(), S3Error> {
    let query = parts.uri.query().unwrap_or_default();
    let is_signed = parts.headers.contains_key(AUTHORIZATION)
        || query.split('&').any(|pair| pair.starts_with("Signature=") || pair.starts_with("X-Amz-Signature="));
    let has_override = || query.split('&').any(|pair| OVERRIDES.contains(&pair.split('=').next().unwrap_or_default()));
    if parts.method == Method::GET && !is_signed && has_override() {
        return Err(invalid_request("Request specific response headers cannot be used for anonymous GET requests."));
    }
    Ok(())
}

/// Refusals of s3s that AWS words otherwise: a method that a resource does not have, and a list that is no list.
pub(crate) fn in_own_words(answer: Response<Body>, trace: &Trace, uri: &Uri, is_post: bool) -> Response<Body> {
    let (parts, body) = answer.into_parts();
    let has = |text: &str| body.bytes().is_some_and(|document| contains(&document, text));
    let error = match (parts.status.as_u16(), trace.operation()) {
        (501, "Unknown") if has("Unknown operation") => {
            let is_bucket = !uri.path().trim_matches('/').is_empty() && !uri.path().trim_matches('/').contains('/');
            if is_post && is_bucket {
                S3Error::with_message(
                    S3ErrorCode::PreconditionFailed,
                    "At least one of the pre-conditions you specified did not hold: Bucket POST must be of the \
                     enclosure-type multipart/form-data",
                )
            } else {
                S3Error::new(S3ErrorCode::MethodNotAllowed)
            }
        }
        (400, "PutBucketAcl" | "PutObjectAcl") if has("<Code>MalformedXML</Code>") => crate::ops::grants::malformed(),
        _ => return Response::from_parts(parts, body),
    };
    error.to_http_response().unwrap_or_else(|_| Response::from_parts(parts, body))
}

fn contains(document: &[u8], text: &str) -> bool {
    memchr::memmem::find(document, text.as_bytes()).is_some()
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
