//! AWS Signature Version 4 for request headers, as S3 asks for it.
//!
//! Guarantees: the `Authorization` value that AWS documents for a given request (checked against
//! the examples of the S3 API reference, "Signature Calculations for the Authorization Header").
//! The signing key is derived once a day, so one signature costs two short hashes and one HMAC.
//! Leaves to others: which headers are sent, and hashing of the payload.

use aws_lc_rs::{digest, hmac};
use std::fmt::{self, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

/// `x-amz-content-sha256` of a payload that is not part of the signature.
pub(crate) const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";
/// SHA-256 of no bytes at all, in hex.
pub(crate) const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A key pair. Its `Debug` never shows the secret.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// What is signed of one request.
pub(crate) struct Signable<'a> {
    pub(crate) method: &'a str,
    /// The path as sent: percent-encoded, once.
    pub(crate) path: &'a str,
    /// The query as sent: percent-encoded, sorted by name, `name=` for valueless parameters.
    pub(crate) query: &'a str,
    /// Lower-case names with trimmed values, sorted by name; must include host and `x-amz-*`.
    pub(crate) headers: &'a [(&'a str, &'a str)],
    /// Hex SHA-256 of the payload, or [`UNSIGNED_PAYLOAD`].
    pub(crate) payload_sha256: &'a str,
}

/// Signs requests of one key pair in one region.
pub(crate) struct Signer {
    credentials: Credentials,
    region: String,
    day: String,
    key: hmac::Key,
    scratch: String,
    names: String,
}

impl Signer {
    /// A signer for the service `s3` in `region`.
    pub(crate) fn new(credentials: Credentials, region: &str) -> Self {
        Self {
            credentials,
            region: region.to_owned(),
            day: String::new(),
            key: hmac::Key::new(hmac::HMAC_SHA256, b""),
            scratch: String::with_capacity(512),
            names: String::with_capacity(128),
        }
    }

    /// The `Authorization` header for `request`, sent at `amz_date` (`20130524T000000Z`).
    pub(crate) fn authorization(&mut self, request: &Signable<'_>, amz_date: &str) -> String {
        let day = amz_date.get(..8).unwrap_or(amz_date);
        if self.day != day {
            self.day = day.to_owned();
            self.key = signing_key(&self.credentials.secret_key, day, &self.region);
        }
        let canonical = &mut self.scratch;
        canonical.clear();
        self.names.clear();
        for part in [request.method, request.path, request.query] {
            canonical.push_str(part);
            canonical.push('\n');
        }
        for (i, (name, value)) in request.headers.iter().enumerate() {
            canonical.push_str(name);
            canonical.push(':');
            canonical.push_str(value);
            canonical.push('\n');
            if i > 0 {
                self.names.push(';');
            }
            self.names.push_str(name);
        }
        canonical.push('\n');
        canonical.push_str(&self.names);
        canonical.push('\n');
        canonical.push_str(request.payload_sha256);
        let hashed = digest::digest(&digest::SHA256, canonical.as_bytes());

        let mut to_sign = hmac::Context::with_key(&self.key);
        to_sign.update(b"AWS4-HMAC-SHA256\n");
        to_sign.update(amz_date.as_bytes());
        to_sign.update(b"\n");
        for part in [self.day.as_str(), "/", self.region.as_str(), "/s3/aws4_request\n"] {
            to_sign.update(part.as_bytes());
        }
        canonical.clear();
        push_hex(canonical, hashed.as_ref());
        to_sign.update(canonical.as_bytes());
        let signature = to_sign.sign();

        let mut value = String::with_capacity(256);
        for part in [
            "AWS4-HMAC-SHA256 Credential=",
            &self.credentials.access_key,
            "/",
            &self.day,
            "/",
            &self.region,
            "/s3/aws4_request,SignedHeaders=",
            &self.names,
            ",Signature=",
        ] {
            value.push_str(part);
        }
        push_hex(&mut value, signature.as_ref());
        value
    }
}

fn signing_key(secret: &str, day: &str, region: &str) -> hmac::Key {
    let mut key = hmac::Key::new(hmac::HMAC_SHA256, format!("AWS4{secret}").as_bytes());
    for part in [day, region, "s3", "aws4_request"] {
        let tag = hmac::sign(&key, part.as_bytes());
        key = hmac::Key::new(hmac::HMAC_SHA256, tag.as_ref());
    }
    key
}

/// Hex SHA-256 of `bytes`.
pub(crate) fn sha256_hex<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut hex = String::with_capacity(64);
    push_hex(&mut hex, context.finish().as_ref());
    hex
}

fn push_hex(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

/// Percent-encodes as SigV4 wants it: all but unreserved characters, and `/` only if `keep_slash`.
pub(crate) fn uri_encode(text: &str, keep_slash: bool) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            b'/' if keep_slash => out.push('/'),
            _ => {
                write!(out, "%{byte:02X}").expect("writing to a String cannot fail");
            }
        }
    }
    out
}

/// Formats the present as `x-amz-date`, again only when the second has changed.
#[derive(Default)]
pub(crate) struct AmzClock {
    second: u64,
    text: String,
}

impl AmzClock {
    /// Now, in UTC, as `20130524T000000Z`.
    pub(crate) fn now(&mut self) -> &str {
        let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        if second != self.second || self.text.is_empty() {
            self.second = second;
            self.text = amz_date(second);
        }
        &self.text
    }
}

/// `seconds` since 1970 in UTC as `20130524T000000Z`.
pub(crate) fn amz_date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to a civil date by the 400-year cycle (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", rest / 3600, rest % 3600 / 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The example key pair and requests of the S3 API reference, "Signature Calculations for the
    // Authorization Header: Transferring Payload in a Single Chunk".
    const HOST: (&str, &str) = ("host", "examplebucket.s3.amazonaws.com");
    const DATE: (&str, &str) = ("x-amz-date", "20130524T000000Z");

    fn sign(method: &str, path: &str, query: &str, headers: &[(&str, &str)], sha: &str) -> String {
        let credentials = Credentials {
            access_key: "AKIAIOSFODNN7EXAMPLE".into(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
        };
        let mut signer = Signer::new(credentials, "us-east-1");
        let request = Signable { method, path, query, headers, payload_sha256: sha };
        signer.authorization(&request, DATE.1)
    }

    #[test]
    fn documented_get_object_with_range() {
        let headers = [HOST, ("range", "bytes=0-9"), ("x-amz-content-sha256", EMPTY_SHA256), DATE];
        assert_eq!(
            sign("GET", "/test.txt", "", &headers, EMPTY_SHA256),
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
             SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
             Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
    }

    #[test]
    fn documented_put_object() {
        let sha = sha256_hex([b"Welcome to ".as_slice(), b"Amazon S3."]);
        assert_eq!(sha, "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072");
        let headers = [
            ("date", "Fri, 24 May 2013 00:00:00 GMT"),
            HOST,
            ("x-amz-content-sha256", sha.as_str()),
            DATE,
            ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        ];
        let path = format!("/{}", uri_encode("test$file.text", true));
        assert_eq!(path, "/test%24file.text");
        let value = sign("PUT", &path, "", &headers, &sha);
        assert!(
            value.ends_with("Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"),
            "{value}"
        );
    }

    #[test]
    fn documented_bucket_lifecycle_and_list() {
        let headers = [HOST, ("x-amz-content-sha256", EMPTY_SHA256), DATE];
        let lifecycle = sign("GET", "/", "lifecycle=", &headers, EMPTY_SHA256);
        assert!(lifecycle.ends_with("fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"), "{lifecycle}");
        let list = sign("GET", "/", "max-keys=2&prefix=J", &headers, EMPTY_SHA256);
        assert!(list.ends_with("34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"), "{list}");
    }

    #[test]
    fn signer_follows_the_day() {
        let credentials = Credentials { access_key: "a".into(), secret_key: "s".into() };
        let mut signer = Signer::new(credentials.clone(), "us-east-1");
        let headers = [("host", "h")];
        let request = Signable { method: "GET", path: "/", query: "", headers: &headers, payload_sha256: EMPTY_SHA256 };
        let first = signer.authorization(&request, "20260101T235959Z");
        let next = signer.authorization(&request, "20260102T000000Z");
        assert_ne!(first, next);
        let mut fresh = Signer::new(credentials.clone(), "us-east-1");
        assert_eq!(next, fresh.authorization(&request, "20260102T000000Z"));
        assert!(!format!("{credentials:?}").contains("secret_key: \"s\""));
    }

    #[test]
    fn dates() {
        assert_eq!(amz_date(0), "19700101T000000Z");
        assert_eq!(amz_date(1_369_353_600), "20130524T000000Z");
        assert_eq!(amz_date(951_782_399), "20000228T235959Z");
        assert_eq!(amz_date(951_868_799), "20000229T235959Z");
        assert_eq!(amz_date(1_735_689_599), "20241231T235959Z");
    }

    #[test]
    fn encoding_is_sigv4s() {
        assert_eq!(uri_encode("a b/c+d=é~", true), "a%20b/c%2Bd%3D%C3%A9~");
        assert_eq!(uri_encode("a/b", false), "a%2Fb");
    }
}
