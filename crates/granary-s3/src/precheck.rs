//! What s3s does not refuse but S3 does, or we have to: looked at before s3s sees the request.

use http::header::{AUTHORIZATION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, Uri, Version};
use s3s::{Body, S3Error, S3ErrorCode};

use crate::context::Trace;
use crate::convert;
use crate::error::{bad_request, invalid_argument, invalid_request};
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
const CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const AMZ_DATE: HeaderName = HeaderName::from_static("x-amz-date");
const COPY_SOURCE: HeaderName = HeaderName::from_static("x-amz-copy-source");
const USER_METADATA: &str = "x-amz-meta-";
const V2: &str = "AWS ";
const V4: &str = "AWS4-HMAC-SHA256";

/// `skew_s`: seconds that the time of a SigV2 request may be away; s3s looks at SigV4's.
pub(crate) fn check(parts: &Parts, allow_sigv2: bool, skew_s: u64) -> Result<(), S3Error> {
    if !METHODS.contains(&parts.method) {
        return Err(S3Error::new(S3ErrorCode::MethodNotAllowed));
    }
    check_length(parts)?;
    check_authorization(parts)?;
    let by_header = parts.headers.get(AUTHORIZATION).is_some_and(|value| value.as_bytes().starts_with(V2.as_bytes()));
    let by_query = parts.uri.query().is_some_and(|query| query.split('&').any(|p| p.starts_with("Signature=")));
    check_v4_query(parts)?;
    check_overrides(parts)?;
    if (by_header || by_query) && !allow_sigv2 {
        return Err(refuse_sigv2());
    }
    if by_header {
        check_v2_date(parts, skew_s)?;
    }
    Ok(())
}

/// An object's bytes have an announced length; HTTP/1 takes a request without one for an empty one.
fn check_length(parts: &Parts) -> Result<(), S3Error> {
    let is_object = parts.uri.path().trim_start_matches('/').split_once('/').is_some_and(|(_, key)| !key.is_empty());
    let is_told = [CONTENT_LENGTH, TRANSFER_ENCODING, COPY_SOURCE].iter().any(|name| parts.headers.contains_key(name));
    let has_own_body = parts.method == Method::PUT && is_object && !crate::documents::is_document(parts);
    if has_own_body && !is_told && parts.version < Version::HTTP_2 && !is_bare_rename(parts) {
        return Err(S3Error::new(S3ErrorCode::MissingContentLength));
    }
    Ok(())
}

/// RenameObject is a PUT of a key without a body.
fn is_bare_rename(parts: &Parts) -> bool {
    parts.uri.query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("renameObject")))
}

/// An `Authorization` that is none in its form: s3s answers all of these with codes of its own.
fn check_authorization(parts: &Parts) -> Result<(), S3Error> {
    let Some(value) = parts.headers.get(AUTHORIZATION) else { return Ok(()) };
    let text = value.to_str().unwrap_or_default();
    if let Some(pair) = text.strip_prefix(V2) {
        return match pair.split_once(':') {
            Some((key, signature)) if !key.is_empty() && !signature.is_empty() => Ok(()),
            _ => Err(invalid_argument("AWS authorization header is invalid.  Expected AwsAccessKeyId:signature")),
        };
    }
    let Some(fields) = text.strip_prefix(V4).filter(|rest| rest.starts_with([' ', ','])) else {
        return Err(invalid_argument("Unsupported Authorization Type"));
    };
    check_v4_fields(fields)?;
    let date = parts.headers.get(AMZ_DATE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !is_amz_date(date) {
        return Err(no_date());
    }
    Ok(())
}

fn check_v4_fields(fields: &str) -> Result<(), S3Error> {
    let malformed = |why: &str| {
        bad_request("AuthorizationHeaderMalformed", format!("The authorization header is malformed; {why}"))
    };
    let field = |name: &str| {
        let found = fields.split(',').map(str::trim).find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        found.filter(|value| !value.is_empty())
    };
    for name in ["Credential", "SignedHeaders", "Signature"] {
        if field(name).is_none() {
            return Err(malformed(&format!("the authorization component \"{name}\" is missing.")));
        }
    }
    // An access key may itself contain a slash; the scope's four parts are the last.
    let scope: Vec<_> = field("Credential").unwrap_or_default().rsplitn(5, '/').collect();
    if scope.len() < 5 || scope[0] != "aws4_request" || scope.iter().any(|part| part.is_empty()) {
        let shape = "\"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\"";
        return Err(malformed(&format!("the Credential is mal-formed; expecting {shape}.")));
    }
    let is_day = |text: &str| text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit());
    if !is_day(scope[3]) {
        return Err(malformed(
            "incorrect date format. This date in the credential must be in the format \"yyyyMMdd\".",
        ));
    }
    Ok(())
}

/// `20130524T000000Z`, in form.
fn is_amz_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_digits = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_digit);
    bytes.len() == 16 && bytes[8] == b'T' && bytes[15] == b'Z' && is_digits(&bytes[..8]) && is_digits(&bytes[9..15])
}

fn no_date() -> S3Error {
    S3Error::with_message(S3ErrorCode::AccessDenied, "AWS authentication requires a valid Date or x-amz-date header")
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
                trace.set_condition(Some("Bucket POST must be of the enclosure-type multipart/form-data"));
                S3Error::with_message(
                    S3ErrorCode::PreconditionFailed,
                    "At least one of the pre-conditions you specified did not hold",
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

/// SigV2 signs a bucket's resource as `/bucket/`. boto3 does so too where its request says `/bucket`, and s3s signs what the
/// request says: so the request is made to say it. Path style only: elsewhere the path is a key.
pub(crate) fn end_bucket_path(parts: &mut Parts) {
    let by_header = parts.headers.get(AUTHORIZATION).is_some_and(|value| value.as_bytes().starts_with(b"AWS "));
    let query = parts.uri.query();
    let by_query = query.is_some_and(|query| query.split('&').any(|pair| pair.starts_with("AWSAccessKeyId=")));
    let path = parts.uri.path();
    if !(by_header || by_query) || path.len() < 2 || path[1..].contains('/') {
        return;
    }
    let target = query.map_or_else(|| format!("{path}/"), |query| format!("{path}/?{query}"));
    let mut uri = parts.uri.clone().into_parts();
    uri.path_and_query = target.parse().ok();
    if let Ok(uri) = http::Uri::from_parts(uri) {
        parts.uri = uri;
    }
}

/// curl's `--aws-sigv4` signs the hash of an empty payload without sending it as a header, which s3s (and AWS) ask
/// for. Saying it in the client's place is safe: it is verified as part of the signature all the same.
pub(crate) fn complete(parts: &mut Parts) {
    const EMPTY: HeaderValue =
        HeaderValue::from_static("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    // An empty header is none: the request is anonymous.
    if parts.headers.get(AUTHORIZATION).is_some_and(HeaderValue::is_empty) {
        parts.headers.remove(AUTHORIZATION);
    }
    let is_bare = matches!(parts.method, Method::GET | Method::HEAD | Method::DELETE);
    let is_v4 = parts.headers.get(AUTHORIZATION).is_some_and(|value| value.as_bytes().starts_with(V4.as_bytes()));
    if is_v4
        && !parts.headers.contains_key(AMZ_DATE)
        && let Some(date) = parts.headers.get(DATE).and_then(|value| convert::parse_rfc2822(value.to_str().ok()?))
        && let Ok(date) = HeaderValue::try_from(convert::amz_date(date))
    {
        // A signature over `Date` is made of the same instant in the form of `x-amz-date`.
        parts.headers.insert(AMZ_DATE, date);
    }
    join_metadata(&mut parts.headers);
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

/// One header per name: S3 joins the values of user metadata that comes in several lines, as signatures do.
fn join_metadata(headers: &mut HeaderMap) {
    let is_split =
        |name: &&HeaderName| name.as_str().starts_with(USER_METADATA) && headers.get_all(*name).iter().nth(1).is_some();
    let split: Vec<HeaderName> = headers.keys().filter(is_split).cloned().collect();
    for name in split {
        let values: Vec<_> = headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&values.join(&b',')) {
            headers.insert(name, joined);
        }
    }
}

/// s3s verifies the signature over the date of a SigV2 request, but not that the date is near: without this
/// a request could be replayed for ever.
fn check_v2_date(parts: &Parts, skew_s: u64) -> Result<(), S3Error> {
    let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let date = text(AMZ_DATE).or_else(|| text(DATE)).and_then(convert::parse_rfc2822).ok_or_else(no_date)?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    if now.abs_diff(date.as_secs()) > skew_s {
        return Err(S3Error::with_message(
            S3ErrorCode::RequestTimeTooSkewed,
            "The difference between the request time and the current time is too large.",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn parts(headers: &[(&'static str, &'static str)]) -> Parts {
        let mut request = Request::put("/bucket/key").header("content-length", "0");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn code(headers: &[(&'static str, &'static str)]) -> Option<String> {
        let mut parts = parts(headers);
        complete(&mut parts);
        check(&parts, true, 900).err().map(|error| error.code().as_str().to_owned())
    }

    const GOOD: &str =
        "AWS4-HMAC-SHA256 Credential=AK/20130524/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=00";

    #[test]
    fn authorization_by_its_form() {
        for (value, wanted) in [
            ("", None),
            ("AWS HAHAHA", Some("InvalidArgument")),
            ("AWS :", Some("InvalidArgument")),
            ("AWS4 HAHAHA", Some("InvalidArgument")),
            ("Bearer x", Some("InvalidArgument")),
            ("AWS4-HMAC-SHA256 Credential=HAHAHA", Some("AuthorizationHeaderMalformed")),
            (
                "AWS4-HMAC-SHA256 Credential=a/b/c/d/aws4_request,SignedHeaders=host,Signature=0",
                Some("AuthorizationHeaderMalformed"),
            ),
            (GOOD, Some("AccessDenied")),
        ] {
            assert_eq!(code(&[("authorization", value)]).as_deref(), wanted, "{value}");
        }
        assert_eq!(code(&[("authorization", GOOD), ("x-amz-date", "20130524T000000Z")]), None);
        assert_eq!(code(&[("authorization", GOOD), ("date", "Fri, 24 May 2013 00:00:00 GMT")]), None);
        assert_eq!(code(&[("authorization", GOOD), ("x-amz-date", "Bad Date")]).as_deref(), Some("AccessDenied"));
    }

    #[test]
    fn metadata_in_several_lines_is_joined() {
        let mut parts = parts(&[("x-amz-meta-a", "1"), ("x-amz-meta-a", "2"), ("x-amz-meta-b", "3")]);
        complete(&mut parts);
        assert_eq!(parts.headers.get("x-amz-meta-a").unwrap(), "1,2");
        assert_eq!(parts.headers.get_all("x-amz-meta-a").iter().count(), 1);
        assert_eq!(parts.headers.get("x-amz-meta-b").unwrap(), "3");
    }

    #[test]
    fn buckets_end_in_a_slash_where_sigv2_signs_them() {
        let said = |target: &str, header: Option<&'static str>| {
            let mut request = http::Request::builder().uri(target);
            if let Some(header) = header {
                request = request.header(AUTHORIZATION, header);
            }
            let (mut parts, ()) = request.body(()).unwrap().into_parts();
            end_bucket_path(&mut parts);
            parts.uri.to_string()
        };
        assert_eq!(said("/bucket?list-type=2", Some("AWS key:signature")), "/bucket/?list-type=2");
        assert_eq!(said("/bucket", Some("AWS key:signature")), "/bucket/");
        assert_eq!(said("/bucket?AWSAccessKeyId=a&Signature=b", None), "/bucket/?AWSAccessKeyId=a&Signature=b");
        for same in ["/", "/bucket/", "/bucket/key", "/bucket/key?acl"] {
            assert_eq!(said(same, Some("AWS key:signature")), same);
        }
        assert_eq!(said("/bucket", Some("AWS4-HMAC-SHA256 ...")), "/bucket");
        assert_eq!(said("/bucket", None), "/bucket");
    }
}
