//! SigV4 of requests whose whole body is at hand: the query interfaces of IAM and STS (s3s verifies those of S3).
//!
//! Guarantees: the comparison takes constant time; host and time must be signed; the scope's date is the request's; clocks may
//! differ by as much as the caller says. What is written of it: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>

use aws_lc_rs::{digest, hmac};
use zeroize::Zeroizing;

use crate::credentials::Secret;
use granary_types::date;
use granary_types::hex;

/// Headers that may be signed, at most.
const HEADERS_MAX: usize = 64;

/// A request.
pub struct Request<'a> {
    /// Method.
    pub method: &'a str,
    /// Path, as sent.
    pub path: &'a str,
    /// Query, as sent.
    pub query: &'a str,
    /// Headers: names in lower case, in the order sent.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: &'a [u8],
}

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is no signature.
    #[error("Request is missing Authentication Token")]
    Missing,
    /// It is not in the form.
    #[error("The Authorization header is not a valid AWS4-HMAC-SHA256 signature")]
    Incomplete,
    /// It is not right.
    #[error(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method."
    )]
    Wrong,
    /// The clocks differ by too much.
    #[error("Signature expired: the request's time is too far from the server's")]
    Skewed,
}

/// What an `Authorization` header claims.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim<'a> {
    /// Access key.
    pub access_key: &'a str,
    /// Service of the scope.
    pub service: &'a str,
    date: &'a str,
    region: &'a str,
    signed: Vec<&'a str>,
    signature: &'a str,
}

impl<'a> Request<'a> {
    fn header(&self, name: &str) -> Option<&'a str> {
        self.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// Reads what the request claims.
    ///
    /// # Errors
    /// [`SignatureError::Missing`], [`SignatureError::Incomplete`].
    pub fn claim(&self) -> Result<Claim<'a>, SignatureError> {
        let header = self.header("authorization").ok_or(SignatureError::Missing)?;
        let rest = header.strip_prefix("AWS4-HMAC-SHA256").ok_or(SignatureError::Incomplete)?;
        let field = |name: &str| {
            rest.split(',')
                .find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='))
                .ok_or(SignatureError::Incomplete)
        };
        let mut scope = field("Credential")?.rsplitn(5, '/');
        let mut next = || scope.next().ok_or(SignatureError::Incomplete);
        let (end, service, region, date, access_key) = (next()?, next()?, next()?, next()?, next()?);
        let signed: Vec<&str> = field("SignedHeaders")?.split(';').collect();
        let sound = end == "aws4_request" && signed.len() <= HEADERS_MAX && signed.contains(&"host");
        if !sound {
            return Err(SignatureError::Incomplete);
        }
        Ok(Claim { access_key, service, date, region, signed, signature: field("Signature")? })
    }

    /// Verifies the claim with the secret of its access key. `now_s` in seconds since 1970; the request's time may be `skew_s` away.
    ///
    /// # Errors
    /// [`SignatureError`].
    pub fn verify(&self, claim: &Claim<'_>, secret: &Secret, now_s: u64, skew_s: u64) -> Result<(), SignatureError> {
        let time = self.header("x-amz-date").ok_or(SignatureError::Incomplete)?;
        if time.len() != 16 || !time.is_ascii() || time.get(..8) != Some(claim.date) {
            return Err(SignatureError::Incomplete);
        }
        let iso = format!("{}-{}-{}:{}:{}", &time[..4], &time[4..6], &time[6..11], &time[11..13], &time[13..]);
        let at_s = date::parse_secs(&iso).ok_or(SignatureError::Incomplete)?;
        let mut headers = String::new();
        for name in &claim.signed {
            let values: Vec<String> = self
                .headers
                .iter()
                .filter(|(known, _)| known == name)
                .map(|(_, value)| value.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect();
            if values.is_empty() {
                return Err(SignatureError::Wrong);
            }
            headers.push_str(&format!("{name}:{}\n", values.join(",")));
        }
        let mut query: Vec<&str> = self.query.split('&').filter(|pair| !pair.is_empty()).collect();
        query.sort_unstable();
        let canonical = format!(
            "{}\n{}\n{}\n{headers}\n{}\n{}",
            self.method,
            self.path,
            query.join("&"),
            claim.signed.join(";"),
            sha256(self.body)
        );
        let want = SigningKey::new(secret, claim.date, claim.region, claim.service).request(time, &canonical);
        if !equal(&want, claim.signature) {
            return Err(SignatureError::Wrong);
        }
        if !claim.signed.contains(&"x-amz-date") {
            return Err(SignatureError::Incomplete);
        }
        if at_s.abs_diff(now_s) > skew_s {
            return Err(SignatureError::Skewed);
        }
        Ok(())
    }
}

/// What signs within one credential scope.
#[derive(Clone)]
pub struct SigningKey {
    key: hmac::Key,
    scope: String,
}

impl SigningKey {
    /// The key of a secret for a day (`yyyyMMdd`), a region and a service.
    #[must_use]
    pub fn new(secret: &Secret, date: &str, region: &str, service: &str) -> Self {
        let scope = format!("{date}/{region}/{service}/aws4_request");
        Self { key: signing_key(secret.expose(), date, region, service), scope }
    }

    /// The signature of a request, of its canonical form and its `x-amz-date`.
    #[must_use]
    pub fn request(&self, time: &str, canonical: &str) -> String {
        self.sign(&format!("AWS4-HMAC-SHA256\n{time}\n{}\n{}", self.scope, sha256(canonical.as_bytes())))
    }

    /// The signature of a chunk whose SHA-256 is `hash`, after one that was signed with `before`
    /// (<https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html>).
    #[must_use]
    pub fn chunk(&self, time: &str, before: &str, hash: &str) -> String {
        self.sign(&format!("AWS4-HMAC-SHA256-PAYLOAD\n{time}\n{}\n{before}\n{}\n{hash}", self.scope, sha256(b"")))
    }

    /// The signature of trailers in their canonical form, after the last chunk's.
    #[must_use]
    pub fn trailers(&self, time: &str, before: &str, canonical: &[u8]) -> String {
        self.sign(&format!("AWS4-HMAC-SHA256-TRAILER\n{time}\n{}\n{before}\n{}", self.scope, sha256(canonical)))
    }

    fn sign(&self, text: &str) -> String {
        hex::encode(hmac::sign(&self.key, text.as_bytes()).as_ref())
    }
}

/// Whether two signatures are one, in constant time.
#[must_use]
pub fn equal(one: &str, other: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(one.as_bytes(), other.as_bytes()).is_ok()
}

/// SHA-256 in hexadecimal digits.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// The key that signatures of one day, region and service are made with.
#[must_use]
pub fn signing_key(secret: &str, date: &str, region: &str, service: &str) -> hmac::Key {
    let key = |bytes: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, bytes);
    let secret = Zeroizing::new(format!("AWS4{secret}"));
    let mut signing = hmac::sign(&key(secret.as_bytes()), date.as_bytes());
    for step in [region, service, "aws4_request"] {
        signing = hmac::sign(&key(signing.as_ref()), step.as_bytes());
    }
    key(signing.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_noticed() {
        let secret = Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into()).unwrap();
        let body = b"Action=GetCallerIdentity&Version=2011-06-15";
        let sign = |signature: &str| {
            format!(
                "AWS4-HMAC-SHA256 Credential=AK/20261120/us-east-1/sts/aws4_request, SignedHeaders=host;x-amz-date, Signature={signature}"
            )
        };
        let now_s = 1_795_178_400;
        let check = |signature: &str, body: &[u8], now_s: u64| {
            let authorization = sign(signature);
            let headers = [
                ("host", "127.0.0.1:9100"),
                ("x-amz-date", "20261120T124000Z"),
                ("authorization", authorization.as_str()),
            ];
            let request = Request { method: "POST", path: "/", query: "", headers: &headers, body };
            let claim = request.claim().unwrap();
            assert_eq!((claim.access_key, claim.service), ("AK", "sts"));
            request.verify(&claim, &secret, now_s, 900)
        };
        // Made as the page says, by hand in Python.
        let right = "087d4ab945418835c87f1478b59c15453efbc728a35e3d5c9fc3430286b06ae3";
        assert_eq!(check(right, body, now_s), Ok(()));
        assert_eq!(check(right, b"Action=Other", now_s), Err(SignatureError::Wrong));
        assert_eq!(check(&right.replace('a', "b"), body, now_s), Err(SignatureError::Wrong));
        assert_eq!(check(right, body, now_s + 901), Err(SignatureError::Skewed));
    }
}
