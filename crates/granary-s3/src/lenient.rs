//! Reads whose headers s3s refuses although HTTP says to ignore them.
//!
//! A `Range` that is malformed, of another unit or of several ranges, and an `If-Modified-Since` that is no
//! date, mean nothing (RFC 9110 sections 14.2 and 13.1.3), and AWS serves the whole object. s3s answers 400.
//! Such headers may be signed, so they can only be put right *after* the signature has been verified: this
//! route catches the request there, corrects it, and serves it again through a service that takes the identity that was
//! proven, and no other; what that identity may do is decided there.

use std::sync::{Arc, OnceLock};

use http::header::{AUTHORIZATION, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, RANGE};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Uri};
use s3s::route::S3Route;
use s3s::service::S3Service;
use s3s::{Body, S3Error, S3Request, S3Response, S3Result};

use crate::auth::Access;
use crate::context::{Trace, operation_index};
use crate::convert;

pub(crate) struct Lenient {
    pub(crate) access: Access,
    /// The same front door, which takes what was proven here for proven; reachable from here only.
    pub(crate) inner: Arc<OnceLock<S3Service>>,
}

const DATES: [HeaderName; 2] = [IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE];
const ETAGS: [HeaderName; 2] = [IF_MATCH, IF_NONE_MATCH];

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

fn is_fine_range(text: &str) -> bool {
    // s3s takes `bytes=-` for the last 0 bytes.
    text != "bytes=-" && s3s::dto::Range::parse(text).is_ok()
}

fn is_fine_date(text: &str) -> bool {
    s3s::dto::Timestamp::parse(s3s::dto::TimestampFormat::HttpDate, text).is_ok()
}

fn is_fine_etag(value: &HeaderValue) -> bool {
    s3s::dto::ETagCondition::parse_http_header(value.as_bytes()).is_ok()
}

/// Whether s3s would refuse a header that it should not.
pub(crate) fn needs_help(method: &Method, headers: &HeaderMap) -> bool {
    (method == Method::GET || method == Method::HEAD)
        && (text(headers, &RANGE).is_some_and(|range| !is_fine_range(range))
            || DATES.iter().any(|name| text(headers, name).is_some_and(|date| !is_fine_date(date)))
            || ETAGS.iter().any(|name| {
                let mut values = headers.get_all(name).iter();
                values.next().is_some_and(|value| !is_fine_etag(value)) || values.next().is_some()
            }))
}

/// Headers with an ETag in a request that writes.
const WRITE_ETAGS: [HeaderName; 4] = [
    IF_MATCH,
    IF_NONE_MATCH,
    HeaderName::from_static("x-amz-copy-source-if-match"),
    HeaderName::from_static("x-amz-copy-source-if-none-match"),
];

/// Whether a write signed with SigV4 names an ETag in a way that s3s refuses and S3 takes: with half its quotes, or with none.
pub(crate) fn has_odd_etags(parts: &http::request::Parts) -> bool {
    let is_odd = |name: &HeaderName| {
        let mut values = parts.headers.get_all(name).iter();
        values.next().is_some_and(|value| !is_fine_etag(value)) && values.next().is_none()
    };
    (parts.method == Method::PUT || parts.method == Method::POST || parts.method == Method::DELETE)
        && parts.headers.get(AUTHORIZATION).is_some_and(|value| value.as_bytes().starts_with(b"AWS4-HMAC-SHA256"))
        && WRITE_ETAGS.iter().any(is_odd)
}

/// Puts such ETags right: to be called once the signature over them has been verified.
pub(crate) fn straighten(headers: &mut HeaderMap) {
    for name in WRITE_ETAGS {
        let odd = headers.get(&name).filter(|value| !is_fine_etag(value));
        if let Some(value) = odd.and_then(|value| quoted(value.to_str().ok()?)) {
            headers.insert(name, value);
        }
    }
}

/// A single ETag between quotes, whatever quotes it came with. A list stays as it is, but for quotes around it.
fn quoted(text: &str) -> Option<HeaderValue> {
    let text = match text.contains(',') {
        false => format!("\"{}\"", text.trim().trim_matches('"')),
        // A list whose ends are not quoted: an empty first and last member, which match nothing, quote it.
        true => format!("\"\", {text}, \"\""),
    };
    HeaderValue::try_from(text).ok()
}

/// Drops what means nothing and rewrites dates to the one form s3s reads.
fn help(headers: &mut HeaderMap) {
    if text(headers, &RANGE).is_some_and(|range| !is_fine_range(range)) {
        headers.remove(RANGE);
    }
    for name in DATES {
        let Some(date) = text(headers, &name) else { continue };
        let date = convert::parse_http_date(date).map(convert::http_date);
        match date.and_then(|date| HeaderValue::try_from(date).ok()) {
            Some(date) => drop(headers.insert(name, date)),
            None => drop(headers.remove(name)),
        }
    }
    for name in ETAGS {
        // The operation reads the header itself, as a list; s3s only has to be kept from refusing it.
        let joined: Vec<_> = headers.get_all(&name).iter().filter_map(|value| value.to_str().ok()).collect();
        if joined.is_empty()
            || headers.get_all(&name).iter().count() == 1 && headers.get(&name).is_some_and(is_fine_etag)
        {
            continue;
        }
        let list = joined.join(", ");
        let is_quoted = list.contains(',') && list.starts_with('"') && list.ends_with('"');
        let value = if is_quoted { HeaderValue::try_from(list).ok() } else { quoted(&list) };
        match value {
            Some(value) => drop(headers.insert(name, value)),
            None => drop(headers.remove(name)),
        }
    }
}

/// The query without the parameters of a presigned URL: the inner service must not look for a signature.
pub(crate) fn without_signature(uri: &Uri) -> Option<Uri> {
    let is_auth = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.starts_with("x-amz-") || matches!(name.as_str(), "signature" | "awsaccesskeyid" | "expires")
    };
    let query = uri.query().map(|query| {
        let kept: Vec<_> =
            query.split('&').filter(|pair| !is_auth(pair.split('=').next().unwrap_or_default())).collect();
        kept.join("&")
    });
    let target = match query.as_deref() {
        None | Some("") => uri.path().to_owned(),
        Some(query) => format!("{}?{query}", uri.path()),
    };
    target.parse().ok()
}

#[async_trait::async_trait]
impl S3Route for Lenient {
    fn is_match(&self, method: &Method, _uri: &Uri, headers: &HeaderMap, _extensions: &mut Extensions) -> bool {
        needs_help(method, headers)
    }

    async fn check_access(&self, request: &mut S3Request<Body>) -> S3Result<()> {
        let proven = self.access.prove(request.credentials.as_ref(), &request.headers, &request.uri)?;
        if let Some(trace) = request.extensions.get::<Arc<Trace>>() {
            let name = if request.method == Method::HEAD { "HeadObject" } else { "GetObject" };
            trace.set_operation(operation_index(name));
            trace.set_identity(Arc::clone(&proven.who));
        }
        // Whether it may is decided within, where bucket and key are known: by the same check, on what was proven here.
        request.extensions.insert(proven);
        Ok(())
    }

    async fn call(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        serve_again(&self.inner, request.map_input(|_| Body::empty()), help).await
    }
}

/// Serves a request whose signature is proven once more, without it, by a service that takes the identity that was proven;
/// `mend` changes its headers.
pub(crate) async fn serve_again(
    inner: &OnceLock<S3Service>,
    request: S3Request<Body>,
    mend: impl FnOnce(&mut HeaderMap),
) -> S3Result<S3Response<Body>> {
    let internal = || S3Error::new(s3s::S3ErrorCode::InternalError);
    let service = inner.get().ok_or_else(internal)?;
    let mut again = http::Request::new(request.input);
    *again.method_mut() = request.method;
    *again.uri_mut() = without_signature(&request.uri).ok_or_else(internal)?;
    *again.headers_mut() = request.headers;
    *again.extensions_mut() = request.extensions;
    again.headers_mut().remove(AUTHORIZATION);
    mend(again.headers_mut());
    let (parts, body) = service.call(again).await.map_err(|_| internal())?.into_parts();
    Ok(S3Response { output: body, status: Some(parts.status), headers: parts.headers, extensions: parts.extensions })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn helped(name: HeaderName, value: &'static str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert(name.clone(), HeaderValue::from_static(value));
        assert!(needs_help(&Method::GET, &headers), "{value}");
        help(&mut headers);
        assert!(!needs_help(&Method::GET, &headers), "{value} -> {headers:?}");
        headers.get(&name).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn ranges_without_meaning_are_dropped() {
        for range in ["bytes=0-1,5-6", "bytes=5-2", "lines=1-2", "bytes=a-b", "bytes=-", "5-6"] {
            assert_eq!(helped(RANGE, range), None, "{range}");
        }
        let mut headers = HeaderMap::new();
        for range in ["bytes=0-1", "bytes=5-", "bytes=-5", "bytes=-0"] {
            headers.insert(RANGE, HeaderValue::from_static(range));
            assert!(!needs_help(&Method::GET, &headers), "{range}");
        }
        headers.insert(RANGE, HeaderValue::from_static("bytes=9-1"));
        assert!(!needs_help(&Method::PUT, &headers));
    }

    #[test]
    fn dates_are_rewritten_or_dropped() {
        let want = Some("Sun, 06 Nov 1994 08:49:37 GMT".to_owned());
        assert_eq!(helped(IF_MODIFIED_SINCE, "Sunday, 06-Nov-94 08:49:37 GMT"), want);
        assert_eq!(helped(IF_UNMODIFIED_SINCE, "soon"), None);
    }

    #[test]
    fn etag_lists_survive() {
        assert_eq!(helped(IF_NONE_MATCH, "b, \"c\"").as_deref(), Some("\"\", b, \"c\", \"\""));
    }

    #[test]
    fn etags_with_half_their_quotes() {
        for odd in ["abc\"", "\"abc", "abc def"] {
            let mut request =
                http::Request::put("/b/k").header("authorization", "AWS4-HMAC-SHA256 x").header(IF_MATCH, odd);
            assert!(has_odd_etags(&request.body(()).unwrap().into_parts().0), "{odd}");
            request = http::Request::put("/b/k").header(IF_MATCH, odd);
            let mut unsigned = request.body(()).unwrap().into_parts().0;
            assert!(!has_odd_etags(&unsigned), "{odd}");
            straighten(&mut unsigned.headers);
            assert_eq!(unsigned.headers[IF_MATCH], format!("\"{}\"", odd.trim_matches('"')));
        }
        for fine in ["abc", "\"abc\"", "*"] {
            let request =
                http::Request::put("/b/k").header("authorization", "AWS4-HMAC-SHA256 x").header(IF_MATCH, fine);
            assert!(!has_odd_etags(&request.body(()).unwrap().into_parts().0), "{fine}");
        }
    }

    #[test]
    fn signatures_are_taken_off() {
        let uri: Uri = "/b/k?X-Amz-Signature=1&versionId=2&X-Amz-Date=3&response-content-type=a%2Fb".parse().unwrap();
        assert_eq!(without_signature(&uri).unwrap(), "/b/k?versionId=2&response-content-type=a%2Fb");
        assert_eq!(without_signature(&"/b/k?X-Amz-Signature=1".parse().unwrap()).unwrap(), "/b/k");
    }
}
