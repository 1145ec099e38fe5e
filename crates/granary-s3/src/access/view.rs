//! A request, as the conditions of policies see it. Nothing is read before a condition asks for it.

use std::borrow::Cow;

use granary_access::policy::{Context, Key, Values};
use granary_types::Timestamp;
use http::{HeaderMap, Uri};
use smallvec::SmallVec;

use crate::context::Peer;
use crate::convert;

/// How a request was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct AuthView {
    /// `s3:signatureversion`.
    pub(crate) version: Option<&'static str>,
    /// `s3:authType`.
    pub(crate) kind: Option<&'static str>,
    /// When it was signed, in seconds since 1970, for presigned URLs.
    pub(crate) signed_at_s: Option<u64>,
}

impl AuthView {
    /// Read from headers and query. The signature itself was verified by s3s.
    pub(crate) fn of(headers: &HeaderMap, query: &str) -> Self {
        if let Some(value) = headers.get(http::header::AUTHORIZATION) {
            let is_v4 = value.as_bytes().starts_with(b"AWS4-HMAC-SHA256");
            let version = if is_v4 { "AWS4-HMAC-SHA256" } else { "AWS" };
            return Self { version: Some(version), kind: Some("REST-HEADER"), signed_at_s: None };
        }
        if parameter(query, "X-Amz-Signature").is_some() {
            let date = parameter(query, "X-Amz-Date");
            let signed_at_s = date.as_deref().and_then(compact_date);
            return Self { version: Some("AWS4-HMAC-SHA256"), kind: Some("REST-QUERY-STRING"), signed_at_s };
        }
        if parameter(query, "Signature").is_some() {
            return Self { version: Some("AWS"), kind: Some("REST-QUERY-STRING"), signed_at_s: None };
        }
        Self::default()
    }
}

/// `20260131T010203Z`.
fn compact_date(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    if bytes.len() != 16 || !text.is_ascii() {
        return None;
    }
    let iso = format!("{}-{}-{}:{}:{}", &text[..4], &text[4..6], &text[6..11], &text[11..13], &text[13..]);
    granary_types::date::parse_secs(&iso)
}

/// The first value of a query parameter, decoded.
pub(crate) fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if key != name && convert::form_decode(key).as_deref() != Some(name) {
            return None;
        }
        if value.contains(['%', '+']) {
            convert::form_decode(value).map(Cow::Owned)
        } else {
            Some(Cow::Borrowed(value))
        }
    })
}

/// Keys of what a document says, for operations that are decided on after it was read.
pub(crate) type Said = SmallVec<[(Key, String); 4]>;

/// A request.
pub(crate) struct View<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) query: &'a str,
    pub(crate) peer: Option<Peer>,
    pub(crate) auth: AuthView,
    pub(crate) region: &'a str,
    pub(crate) now: Timestamp,
    /// From the request's document.
    pub(crate) said: Said,
    /// Tags of the object as it is, where they were asked for.
    pub(crate) tags: Vec<(String, String)>,
    /// Canonical id of the resource's owner.
    pub(crate) owner: Option<String>,
}

impl<'a> View<'a> {
    pub(crate) fn new(
        headers: &'a HeaderMap,
        uri: &'a Uri,
        peer: Option<Peer>,
        auth: AuthView,
        region: &'a str,
        now: Timestamp,
    ) -> Self {
        let query = uri.query().unwrap_or_default();
        Self { headers, query, peer, auth, region, now, said: Said::new(), tags: Vec::new(), owner: None }
    }

    fn header(&self, name: &str) -> Option<&'a str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn parameter(&self, name: &str) -> Option<Cow<'a, str>> {
        parameter(self.query, name)
    }

    /// The version that the request names.
    pub(crate) fn version(&self) -> Option<Cow<'a, str>> {
        self.query.contains("Id").then(|| self.parameter("versionId")).flatten().filter(|version| !version.is_empty())
    }

    /// Whether the request names a version.
    pub(crate) fn names_version(&self) -> bool {
        self.version().is_some()
    }

    /// Bucket, key and version that a copy is made from, read as s3s will read them for the operation. `None` where
    /// there is no header, or the operation will refuse it.
    pub(crate) fn copy_source(&self) -> Option<(String, String, Option<String>)> {
        match s3s::dto::CopySource::parse(self.header("x-amz-copy-source")?).ok()? {
            s3s::dto::CopySource::Bucket { bucket, key, version_id } => {
                Some((bucket.into(), key.into(), version_id.map(Into::into)))
            }
            _ => None,
        }
    }

    /// Tags that the request brings in its header.
    fn request_tags(&self) -> Vec<(String, String)> {
        self.header("x-amz-tagging").and_then(|tags| convert::tags_from_header(tags).ok()).unwrap_or_default()
    }
}

impl Context for View<'_> {
    fn values(&self, key: &Key) -> Values<'_> {
        let one = |value: Option<Cow<'_, str>>| -> SmallVec<[Cow<'_, str>; 1]> {
            value.into_iter().map(|value| Cow::Owned(value.into_owned())).collect()
        };
        let header = |name: &str| self.header(name).map(Cow::Borrowed);
        let said: Values<'_> =
            self.said.iter().filter(|(said, _)| said == key).map(|(_, value)| Cow::Borrowed(value.as_str())).collect();
        if !said.is_empty() {
            return said;
        }
        match key {
            Key::SourceIp => one(self.peer.map(|peer| Cow::Owned(peer.address.ip().to_canonical().to_string()))),
            Key::SecureTransport => one(Some(Cow::Borrowed(if self.peer.is_some_and(|peer| peer.tls.is_some()) {
                "true"
            } else {
                "false"
            }))),
            Key::TlsVersion => one(self.peer.and_then(|peer| peer.tls).map(Cow::Borrowed)),
            Key::UserAgent => one(header("user-agent")),
            Key::Referer => one(header("referer")),
            Key::RequestedRegion => one(Some(Cow::Borrowed(self.region))),
            Key::Prefix => one(self.parameter("prefix")),
            Key::Delimiter => one(self.parameter("delimiter")),
            Key::MaxKeys => one(self.parameter("max-keys")),
            Key::VersionId => match self.copy_source() {
                Some((_, _, version)) => one(version.map(Cow::Owned)),
                None => one(self.parameter("versionId")),
            },
            Key::Acl => one(header("x-amz-acl")),
            Key::GrantRead => one(header("x-amz-grant-read")),
            Key::GrantWrite => one(header("x-amz-grant-write")),
            Key::GrantReadAcp => one(header("x-amz-grant-read-acp")),
            Key::GrantWriteAcp => one(header("x-amz-grant-write-acp")),
            Key::GrantFullControl => one(header("x-amz-grant-full-control")),
            Key::Sse => one(header("x-amz-server-side-encryption")),
            Key::SseKmsKeyId => one(header("x-amz-server-side-encryption-aws-kms-key-id")),
            Key::SseCustomerAlgorithm => one(header("x-amz-server-side-encryption-customer-algorithm")),
            Key::CopySource => match self.copy_source() {
                // As AWS: decoded, with a slash before the bucket or without, as the policy's author wrote it in either form.
                Some((bucket, key, _)) => {
                    let mut both = Values::new();
                    both.push(Cow::Owned(format!("{bucket}/{key}")));
                    both.push(Cow::Owned(format!("/{bucket}/{key}")));
                    both
                }
                None => Values::new(),
            },
            Key::MetadataDirective => one(header("x-amz-metadata-directive")),
            Key::StorageClass => one(header("x-amz-storage-class")),
            Key::ObjectOwnership => one(header("x-amz-object-ownership")),
            Key::IfMatch => one(header("if-match")),
            Key::IfNoneMatch => one(header("if-none-match")),
            Key::ContentSha256 => {
                // What is not signed is not known: a presigned URL may say it in its query.
                one(header("x-amz-content-sha256").or_else(|| self.parameter("X-Amz-Content-Sha256")))
            }
            Key::ExistingObjectTag(tag) => {
                one(self.tags.iter().find(|(name, _)| name == tag).map(|(_, value)| Cow::Borrowed(value.as_str())))
            }
            Key::RequestObjectTag(tag) => {
                one(self.request_tags().into_iter().find(|(name, _)| name == tag).map(|(_, value)| Cow::Owned(value)))
            }
            Key::RequestObjectTagKeys => self.request_tags().into_iter().map(|(name, _)| Cow::Owned(name)).collect(),
            Key::ObjectLockMode => one(header("x-amz-object-lock-mode")),
            Key::ObjectLockLegalHold => one(header("x-amz-object-lock-legal-hold")),
            Key::ObjectLockRetainUntil => one(header("x-amz-object-lock-retain-until-date")),
            Key::ObjectLockRemainingDays => {
                let until = header("x-amz-object-lock-retain-until-date");
                one(until.and_then(|until| remaining_days(&until, self.now)).map(Cow::Owned))
            }
            Key::SignatureVersion => one(self.auth.version.map(Cow::Borrowed)),
            Key::AuthType => one(self.auth.kind.map(Cow::Borrowed)),
            Key::SignatureAge => {
                let age = self.auth.signed_at_s.map(|at| self.now.as_secs().saturating_sub(at).saturating_mul(1000));
                one(age.map(|age| Cow::Owned(age.to_string())))
            }
            Key::ResourceAccount | Key::ResourceAccountAws => {
                one(self.owner.as_deref().map(|owner| Cow::Owned(granary_access::identity::account_id(owner))))
            }
            _ => Values::new(),
        }
    }

    fn now(&self) -> Timestamp {
        self.now
    }
}

/// Whole days until a retention ends, as `s3:object-lock-remaining-retention-days` has it.
pub(crate) fn remaining_days(until: &str, now: Timestamp) -> Option<String> {
    let until = granary_types::date::parse_secs(until)?;
    Some(until.saturating_sub(now.as_secs()).div_ceil(86_400).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_signatures() {
        assert_eq!(compact_date("20261120T124000Z"), Some(1_795_178_400));
        assert_eq!(compact_date("20261120T1240"), None);
    }

    #[test]
    fn parameters() {
        assert_eq!(parameter("a=1&pre%66ix=x%2Fy+z&b", "prefix").as_deref(), Some("x/y z"));
        assert_eq!(parameter("a=1&b", "b").as_deref(), Some(""));
        assert_eq!(parameter("a=1", "b"), None);
    }
}
