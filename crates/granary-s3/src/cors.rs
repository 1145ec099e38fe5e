//! Cross-origin requests of browsers: which rule of a bucket covers one, what a preflight is answered, and which
//! headers an actual answer (refusals included) carries.
//!
//! As AWS has it: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/cors.html>. A rule gives nobody a right: it
//! only lets a browser show the answer to the page. The configuration is put and got in [`crate::ops::cors`].

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use s3s::dto::{CORSConfiguration, CORSRule};
use s3s::xml::Deserialize;
use s3s::{S3Error, S3ErrorCode};

use crate::error::bad_request;

/// The bucket's document that holds the rules, as XML.
pub(crate) const DOCUMENT: &str = "cors";
const VARIES: HeaderValue =
    HeaderValue::from_static("Origin, Access-Control-Request-Headers, Access-Control-Request-Method");

/// Reads a stored configuration.
pub(crate) fn parse(document: &[u8]) -> Option<CORSConfiguration> {
    let mut xml = s3s::xml::Deserializer::new(document);
    CORSConfiguration::deserialize(&mut xml).ok()
}

/// Whether `text` is what `pattern` says, in which one `*` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.len() >= head.len() + tail.len() && text.starts_with(head) && text.ends_with(tail),
    }
}

/// What the headers of a request say to the rules.
struct Asked<'a> {
    origin: &'a str,
    method: &'a str,
    /// In lower case.
    headers: Vec<String>,
}

impl<'a> Asked<'a> {
    fn of(method: &'a Method, headers: &'a HeaderMap) -> Option<Self> {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let wanted = text(ACCESS_CONTROL_REQUEST_HEADERS).unwrap_or_default();
        let wanted = wanted.split(',').map(|name| name.trim().to_ascii_lowercase()).filter(|name| !name.is_empty());
        Some(Self {
            origin: text(ORIGIN)?,
            method: text(ACCESS_CONTROL_REQUEST_METHOD).unwrap_or_else(|| method.as_str()),
            headers: wanted.collect(),
        })
    }

    fn is_covered(&self, rule: &CORSRule) -> bool {
        let is_allowed = |name: &String| {
            rule.allowed_headers.iter().flatten().any(|pattern| matches(&pattern.to_ascii_lowercase(), name))
        };
        rule.allowed_origins.iter().any(|pattern| matches(pattern, self.origin))
            && rule.allowed_methods.iter().any(|method| method == self.method)
            && self.headers.iter().all(is_allowed)
    }

    /// The headers of an answer under the first rule that covers the request.
    fn answer(&self, configuration: &CORSConfiguration) -> Option<HeaderMap> {
        let rule = configuration.cors_rules.iter().find(|rule| self.is_covered(rule))?;
        let mut out = HeaderMap::new();
        let mut put = |name, text: &str| {
            if let Ok(value) = HeaderValue::from_str(text) {
                out.insert(name, value);
            }
        };
        // The first pattern that matches decides whether anybody may see the answer, or this origin.
        let pattern = rule.allowed_origins.iter().find(|pattern| matches(pattern, self.origin));
        if pattern.is_some_and(|pattern| pattern == "*") {
            put(ACCESS_CONTROL_ALLOW_ORIGIN, "*");
        } else {
            put(ACCESS_CONTROL_ALLOW_ORIGIN, self.origin);
            put(ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
        }
        put(ACCESS_CONTROL_ALLOW_METHODS, &rule.allowed_methods.join(", "));
        if !self.headers.is_empty() {
            put(ACCESS_CONTROL_ALLOW_HEADERS, &self.headers.join(", "));
        }
        if let Some(exposed) = rule.expose_headers.as_ref().filter(|exposed| !exposed.is_empty()) {
            put(ACCESS_CONTROL_EXPOSE_HEADERS, &exposed.join(", "));
        }
        if let Some(seconds) = rule.max_age_seconds {
            put(ACCESS_CONTROL_MAX_AGE, &seconds.to_string());
        }
        out.insert(VARY, VARIES);
        Some(out)
    }
}

/// The headers to add to the answer of an actual request; none where no rule covers it.
pub(crate) fn of_request(method: &Method, headers: &HeaderMap, document: Option<&[u8]>) -> Option<HeaderMap> {
    Asked::of(method, headers)?.answer(&parse(document?)?)
}

/// What a preflight finds where it asks.
pub(crate) enum Target<'a> {
    /// There is no such bucket (or none is named).
    Nothing,
    /// A bucket, and its configuration if it has one.
    Bucket(Option<&'a [u8]>),
}

/// Answers a preflight: nobody signs one, and it tells no more than the rules.
///
/// # Errors
/// `BadRequest` where it lacks what makes it one, `AccessForbidden` where nothing covers it.
pub(crate) fn preflight(headers: &HeaderMap, target: &Target<'_>) -> Result<HeaderMap, S3Error> {
    let bad = |message| bad_request("BadRequest", message);
    if !headers.contains_key(ORIGIN) {
        return Err(bad("Insufficient information. Origin request header needed."));
    }
    let method = headers.get(ACCESS_CONTROL_REQUEST_METHOD).and_then(|value| value.to_str().ok());
    if !method.is_some_and(|method| METHODS.contains(&method)) {
        let shown = method.unwrap_or("null");
        return Err(bad_request("BadRequest", format!("Invalid Access-Control-Request-Method: {shown}")));
    }
    let configuration = match target {
        Target::Nothing => return Err(forbidden("CORSResponse: Bucket not found")),
        Target::Bucket(document) => {
            document.and_then(parse).ok_or_else(|| forbidden("CORSResponse: CORS is not enabled for this bucket."))?
        }
    };
    let asked = Asked::of(&Method::OPTIONS, headers).ok_or_else(|| bad("The Origin header is not visible ASCII"))?;
    asked.answer(&configuration).ok_or_else(|| {
        forbidden(
            "CORSResponse: This CORS request is not allowed. This is usually because the evalution of Origin, request \
             method / Access-Control-Request-Method or Access-Control-Request-Headers are not whitelisted by the \
             resource's CORS spec.",
        )
    })
}

/// Methods that a rule can allow.
pub(crate) const METHODS: [&str; 5] = ["GET", "PUT", "HEAD", "POST", "DELETE"];

fn forbidden(message: &'static str) -> S3Error {
    let mut error = S3Error::with_message(S3ErrorCode::Custom("AccessForbidden".into()), message);
    error.set_status_code(StatusCode::FORBIDDEN);
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    const RULES: &[u8] = b"<CORSConfiguration>\
        <CORSRule><AllowedOrigin>http://*.example.com</AllowedOrigin><AllowedMethod>GET</AllowedMethod>\
        <AllowedMethod>HEAD</AllowedMethod><AllowedHeader>x-amz-*</AllowedHeader><ExposeHeader>ETag</ExposeHeader>\
        <MaxAgeSeconds>300</MaxAgeSeconds></CORSRule>\
        <CORSRule><AllowedOrigin>*</AllowedOrigin><AllowedMethod>PUT</AllowedMethod></CORSRule></CORSConfiguration>";

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn one_wildcard_stands_for_anything() {
        for (pattern, text, wanted) in [
            ("*", "http://a", true),
            ("http://a", "http://a", true),
            ("http://a", "http://A", false),
            ("start*end", "startend", true),
            ("start*end", "start-end", true),
            ("start*tend", "startend", false),
            ("ab*ba", "aba", false),
            ("*suffix", "my.suffix", true),
            ("*suffix", "my.suffix.get", false),
            ("prefix*", "prefix", true),
        ] {
            assert_eq!(matches(pattern, text), wanted, "{pattern} {text}");
        }
    }

    #[test]
    fn actual_requests() {
        let of = |method: Method, pairs: &[_]| of_request(&method, &headers(pairs), Some(RULES));
        let got = of(Method::GET, &[("origin", "http://www.example.com")]).unwrap();
        assert_eq!(got[ACCESS_CONTROL_ALLOW_ORIGIN], "http://www.example.com");
        assert_eq!(got[ACCESS_CONTROL_ALLOW_METHODS], "GET, HEAD");
        assert_eq!(got[ACCESS_CONTROL_EXPOSE_HEADERS], "ETag");
        assert_eq!(got[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        assert_eq!(got[VARY], VARIES);
        let got = of(Method::PUT, &[("origin", "null")]).unwrap();
        assert_eq!(got[ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert!(!got.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS));
        assert!(of(Method::GET, &[("origin", "http://example.org")]).is_none());
        assert!(of(Method::GET, &[]).is_none());
        // What the page says it will do counts for more than what it does.
        assert!(of(Method::DELETE, &[("origin", "o"), ("access-control-request-method", "PUT")]).is_some());
    }

    #[test]
    fn preflights() {
        let origin = ("origin", "http://www.example.com");
        let ask = |pairs: &[_], target: Target<'_>| preflight(&headers(pairs), &target);
        let code = |result: Result<HeaderMap, S3Error>| result.unwrap_err().code().as_str().to_owned();
        let get = ("access-control-request-method", "GET");
        let fine = [origin, get, ("access-control-request-headers", "X-Amz-Date, x-amz-meta-a")];
        let got = ask(&fine, Target::Bucket(Some(RULES))).unwrap();
        assert_eq!(got[ACCESS_CONTROL_ALLOW_HEADERS], "x-amz-date, x-amz-meta-a");
        assert_eq!(got[ACCESS_CONTROL_MAX_AGE], "300");
        assert_eq!(code(ask(&[], Target::Bucket(Some(RULES)))), "BadRequest");
        assert_eq!(code(ask(&[origin], Target::Bucket(Some(RULES)))), "BadRequest");
        let other = [origin, ("access-control-request-method", "PATCH")];
        assert_eq!(code(ask(&other, Target::Bucket(Some(RULES)))), "BadRequest");
        assert_eq!(code(ask(&[origin, get], Target::Bucket(None))), "AccessForbidden");
        assert_eq!(code(ask(&[origin, get], Target::Nothing)), "AccessForbidden");
        let header = [origin, get, ("access-control-request-headers", "content-type")];
        assert_eq!(code(ask(&header, Target::Bucket(Some(RULES)))), "AccessForbidden");
        let delete = [origin, ("access-control-request-method", "DELETE")];
        assert_eq!(code(ask(&delete, Target::Bucket(Some(RULES)))), "AccessForbidden");
    }
}
