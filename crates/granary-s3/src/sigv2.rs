//! Signature Version 2, verified ahead of s3s in constant time.
//!
//! s3s compares these signatures plainly, so that how long a refusal takes could tell how much of a guess is right. What does not hold
//! here is refused before s3s sees it; what holds is equal, and its comparison tells nothing. The text that is signed is made as s3s makes
//! it (<https://docs.aws.amazon.com/AmazonS3/latest/API/RESTAuthentication.html>); what is not a whole signature is left to s3s to
//! refuse in its words.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use granary_access::Secret;
use http::header::AUTHORIZATION;
use http::request::Parts;
use s3s::{S3Error, S3ErrorCode};

use crate::convert;

/// Parameters of a query that are signed, in the order in which they are.
const SIGNED: [&str; 35] = [
    "accelerate",
    "acl",
    "analytics",
    "cors",
    "defaultObjectAcl",
    "delete",
    "inventory",
    "lifecycle",
    "location",
    "logging",
    "metrics",
    "notification",
    "object-lock",
    "partNumber",
    "policy",
    "replication",
    "requestPayment",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
    "restore",
    "select",
    "select-type",
    "storageClass",
    "tagging",
    "torrent",
    "uploadId",
    "uploads",
    "versionId",
    "versioning",
    "versions",
    "website",
];

/// A query's parameters, decoded.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(text: &str) -> Self {
        let decoded = |text: &str| convert::form_decode(text).unwrap_or_default();
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        });
        Self(pairs.collect())
    }

    /// The value of a parameter that is there once.
    fn once(&self, name: &str) -> Option<&str> {
        let mut found = self.0.iter().filter(|(known, _)| known == name);
        let (_, value) = found.next()?;
        found.next().is_none().then_some(value.as_str())
    }
}

/// What a request claims.
struct Claim {
    access_key: String,
    signature: String,
    /// The second line but two: the date, or when a URL expires.
    date: String,
}

fn header<'a>(parts: &'a Parts, name: &str) -> Option<&'a str> {
    let mut all = parts.headers.get_all(name).iter();
    let first = all.next()?.to_str().ok()?;
    all.next().is_none().then_some(first)
}

impl Claim {
    fn of(parts: &Parts, query: &Query) -> Option<Self> {
        if query.0.iter().any(|(name, _)| name == "Signature") {
            // Decoded once more, as s3s does: a `+` that was signed comes as `%2B`.
            let signature = convert::path_decode(query.once("Signature")?)?;
            return Some(Self {
                access_key: query.once("AWSAccessKeyId")?.to_owned(),
                signature,
                date: query.once("Expires")?.to_owned(),
            });
        }
        let (access_key, signature) = header(parts, AUTHORIZATION.as_str())?.strip_prefix("AWS ")?.split_once(':')?;
        let date =
            if parts.headers.contains_key("x-amz-date") { "" } else { header(parts, "date").unwrap_or_default() };
        Some(Self { access_key: access_key.to_owned(), signature: signature.to_owned(), date: date.to_owned() })
    }
}

/// What is signed.
fn text(parts: &Parts, query: &Query, date: &str, virtual_bucket: Option<&str>) -> String {
    let plain = |name: &str| header(parts, name).unwrap_or_default();
    let mut text = format!("{}\n{}\n{}\n{date}\n", parts.method, plain("content-md5"), plain("content-type"));
    let mut names: Vec<&str> =
        parts.headers.keys().map(http::HeaderName::as_str).filter(|name| name.starts_with("x-amz-")).collect();
    names.sort_unstable();
    for name in names {
        let values = parts.headers.get_all(name).iter();
        let values: Vec<&str> = values.map(|value| value.to_str().unwrap_or_default().trim()).collect();
        text.push_str(&format!("{name}:{}\n", values.join(",")));
    }
    if let Some(bucket) = virtual_bucket {
        text.push('/');
        text.push_str(bucket);
    }
    text.push_str(parts.uri.path());
    let mut separator = '?';
    for name in SIGNED {
        if let Some(value) = query.once(name) {
            text.push(separator);
            text.push_str(name);
            if !value.is_empty() {
                text.push('=');
                text.push_str(value);
            }
            separator = '&';
        }
    }
    text
}

/// Refuses a request that is signed in this way, and wrongly. What is signed otherwise, or with a key that nobody has, is not its business.
///
/// # Errors
/// `SignatureDoesNotMatch`.
pub(crate) fn check(
    parts: &Parts,
    virtual_bucket: Option<&str>,
    secret_of: impl FnOnce(&str) -> Option<Secret>,
) -> Result<(), S3Error> {
    let by_header = parts.headers.get(AUTHORIZATION).is_some_and(|value| value.as_bytes().starts_with(b"AWS "));
    let query = parts.uri.query().unwrap_or_default();
    // Most requests are signed in the other way: nothing is read for them.
    if !by_header && !query.contains("AWSAccessKeyId") {
        return Ok(());
    }
    let query = Query::of(query);
    let Some(claim) = Claim::of(parts, &query) else { return Ok(()) };
    let Some(secret) = secret_of(&claim.access_key) else { return Ok(()) };
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.expose().as_bytes());
    let text = text(parts, &query, &claim.date, virtual_bucket);
    // Decoding takes as long as the guess is long, whatever is in it.
    let tag = BASE64.decode(&claim.signature).unwrap_or_default();
    match hmac::verify(&key, text.as_bytes(), &tag) {
        Ok(()) => Ok(()),
        Err(_) => Err(S3Error::new(S3ErrorCode::SignatureDoesNotMatch)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let request =
            headers.iter().fold(Request::builder().method(method).uri(uri), |r, (name, value)| r.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    fn holds(parts: &Parts, bucket: Option<&str>) -> bool {
        check(parts, bucket, |key| (key == "AKIAIOSFODNN7EXAMPLE").then(|| Secret::new(SECRET.into()).unwrap())).is_ok()
    }

    /// The examples of AWS's page.
    #[test]
    fn examples() {
        let bucket = Some("awsexamplebucket1");
        let get = |signature: &str| {
            let authorization = format!("AWS AKIAIOSFODNN7EXAMPLE:{signature}");
            parts(
                "GET",
                "/photos/puppy.jpg",
                &[("date", "Tue, 27 Mar 2007 19:36:42 +0000"), ("authorization", &authorization)],
            )
        };
        assert!(holds(&get("qgk2+6Sv9/oM7G3qLEjTH1a1l1g="), bucket));
        assert!(!holds(&get("qgk2+6Sv9/oM7G3qLEjTH1a1l1h="), bucket));
        assert!(!holds(&get("nonsense"), bucket));
        assert!(!holds(&get("qgk2+6Sv9/oM7G3qLEjTH1a1l1g="), Some("another")));
        let list = parts(
            "GET",
            "/?prefix=photos&max-keys=50&marker=puppy",
            &[
                ("user-agent", "Mozilla/5.0"),
                ("date", "Tue, 27 Mar 2007 19:42:41 +0000"),
                ("authorization", "AWS AKIAIOSFODNN7EXAMPLE:m0WP8eCtspQl5Ahe6L1SozdX9YA="),
            ],
        );
        assert!(holds(&list, bucket));
    }

    #[test]
    fn urls() {
        let url = |signature: &str| {
            format!("/b/k?AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE&Expires=1175139620&versionId=v&Signature={signature}")
        };
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, SECRET.as_bytes());
        let made = BASE64.encode(hmac::sign(&key, b"GET\n\n\n1175139620\n/b/k?versionId=v").as_ref());
        assert!(holds(&parts("GET", &url(&convert::percent_encode(&made)), &[]), None));
        assert!(!holds(&parts("PUT", &url(&convert::percent_encode(&made)), &[]), None));
        assert!(!holds(&parts("GET", &url("AAAA"), &[]), None));
    }

    #[test]
    fn what_is_no_whole_signature_of_a_known_key_is_left_alone() {
        for headers in [
            &[][..],
            &[("authorization", "AWS AKIAUNKNOWN:x")],
            &[("authorization", "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/x")],
            &[("authorization", "AWS nonsense")],
        ] {
            assert!(holds(&parts("GET", "/b/k", headers), None), "{headers:?}");
        }
        assert!(
            holds(&parts("GET", "/b/k?AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE&Signature=x", &[]), None),
            "it says no expiry"
        );
    }
}
