//! Who signed a form's policy: Signature Version 4 and 2 over the policy as it was sent, in Base64.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use granary_access::sigv4::signing_key;
use granary_types::Timestamp;
use granary_types::hex;
use s3s::{S3Error, S3ErrorCode};

use super::form::Fields;
use crate::error::invalid_argument;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// A signing key is good for seven days.
const KEY_SECS_MAX: u64 = 7 * 24 * 60 * 60;

/// A signature that a form carries, and who it is said to be of.
#[derive(Debug)]
pub(crate) struct Signed<'a> {
    /// The access key.
    pub(crate) access_key: &'a str,
    /// The policy, in Base64.
    pub(crate) policy: &'a str,
    how: How<'a>,
}

#[derive(Debug)]
enum How<'a> {
    V2 { signature: &'a str },
    V4 { date: &'a str, region: &'a str, service: &'a str, signature: &'a str },
}

pub(crate) fn missing(name: &str) -> S3Error {
    invalid_argument(format!(
        "Bucket POST must contain a field named '{name}'.  If it is specified, please check the order of the fields."
    ))
}

impl<'a> Signed<'a> {
    /// What the form says; `None` if it is not signed at all. `skew_s`: how far in the future it may say that it was signed.
    ///
    /// # Errors
    /// `InvalidArgument` for a signature that is not whole.
    pub(crate) fn of(fields: &'a Fields, now: Timestamp, skew_s: u64) -> Result<Option<Self>, S3Error> {
        let v4 = ["x-amz-credential", "x-amz-signature", "x-amz-algorithm"];
        let v2 = ["awsaccesskeyid", "signature"];
        let is_v4 = v4.iter().any(|name| fields.get(name).is_some());
        let is_v2 = v2.iter().any(|name| fields.get(name).is_some());
        let Some(policy) = fields.get("policy") else {
            return if is_v4 || is_v2 { Err(missing("policy")) } else { Ok(None) };
        };
        if !is_v4 {
            let access_key = fields.get("awsaccesskeyid").ok_or_else(|| missing("AWSAccessKeyId"))?;
            let signature = fields.get("signature").ok_or_else(|| missing("signature"))?;
            return Ok(Some(Self { access_key, policy, how: How::V2 { signature } }));
        }
        let credential = fields.get("x-amz-credential").ok_or_else(|| missing("X-Amz-Credential"))?;
        let signature = fields.get("x-amz-signature").ok_or_else(|| missing("X-Amz-Signature"))?;
        let algorithm = fields.get("x-amz-algorithm").ok_or_else(|| missing("X-Amz-Algorithm"))?;
        let stamp = fields.get("x-amz-date").ok_or_else(|| missing("X-Amz-Date"))?;
        if algorithm != ALGORITHM {
            return Err(invalid_argument(format!("X-Amz-Algorithm only supports {ALGORITHM}")));
        }
        // The access key itself may have slashes in it elsewhere; here it has not.
        let scope: Vec<_> = credential.split('/').collect();
        let [access_key, date, region, service, "aws4_request"] = scope[..] else {
            return Err(invalid_argument(
                "The x-amz-credential field must be of the form ACCESS_KEY/DATE/REGION/SERVICE/aws4_request",
            ));
        };
        check_date(stamp, date, now, skew_s)?;
        Ok(Some(Self { access_key, policy, how: How::V4 { date, region, service, signature } }))
    }

    /// Whether it is of the old kind, which can be switched off.
    pub(crate) const fn is_v2(&self) -> bool {
        matches!(self.how, How::V2 { .. })
    }

    /// Compares with what the secret makes of the policy, in constant time.
    ///
    /// # Errors
    /// `SignatureDoesNotMatch`.
    pub(crate) fn verify(&self, secret: &str) -> Result<(), S3Error> {
        let matches = match &self.how {
            How::V2 { signature } => {
                let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
                BASE64
                    .decode(signature.trim())
                    .is_ok_and(|tag| hmac::verify(&key, self.policy.as_bytes(), &tag).is_ok())
            }
            How::V4 { date, region, service, signature } => {
                let key = signing_key(secret, date, region, service);
                hex::decode(signature).is_some_and(|tag| hmac::verify(&key, self.policy.as_bytes(), &tag).is_ok())
            }
        };
        if matches { Ok(()) } else { Err(S3Error::new(S3ErrorCode::SignatureDoesNotMatch)) }
    }
}

/// `20260102T030405Z`, on the credential's day, and neither in the future nor older than a signing key lasts.
fn check_date(stamp: &str, date: &str, now: Timestamp, skew_s: u64) -> Result<(), S3Error> {
    let bad = || invalid_argument("X-Amz-Date must be of the form YYYYMMDD'T'HHMMSS'Z', on the day of the credential");
    let bytes = stamp.as_bytes();
    let is_digit = |at: std::ops::Range<usize>| bytes[at].iter().all(u8::is_ascii_digit);
    if bytes.len() != 16 || bytes[8] != b'T' || bytes[15] != b'Z' || !is_digit(0..8) || !is_digit(9..15) {
        return Err(bad());
    }
    if &stamp[..8] != date {
        return Err(bad());
    }
    let iso = format!(
        "{}-{}-{}T{}:{}:{}Z",
        &stamp[..4],
        &stamp[4..6],
        &stamp[6..8],
        &stamp[9..11],
        &stamp[11..13],
        &stamp[13..15]
    );
    let at = s3s::dto::Timestamp::parse(s3s::dto::TimestampFormat::DateTime, &iso).map_err(|_| bad())?;
    let (at, now) = (crate::convert::from_timestamp(at).as_secs(), now.as_secs());
    if at > now + skew_s {
        return Err(S3Error::with_message(S3ErrorCode::AccessDenied, "Request is not valid yet"));
    }
    if at + KEY_SECS_MAX < now {
        return Err(S3Error::with_message(S3ErrorCode::AccessDenied, "Request has expired"));
    }
    Ok(())
}
