//! Who guesses keys is slowed down: what a request claims, and whether its signature turned out wrong.
//!
//! Counting and limits are [`granary_access::damping`]'s.

use granary_access::Iam;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{Response, StatusCode, Uri};
use s3s::Body;

use crate::access::view::parameter;
use crate::context::Trace;

/// What a request claims to be signed with. Kept as it is: it is read only when somebody fails.
pub(crate) struct Claimed {
    authorization: Option<HeaderValue>,
    uri: Uri,
}

impl Claimed {
    pub(crate) fn of(parts: &http::request::Parts) -> Self {
        Self { authorization: parts.headers.get(AUTHORIZATION).cloned(), uri: parts.uri.clone() }
    }

    /// The access key; `None` for anonymous requests.
    fn access_key(&self) -> Option<String> {
        if let Some(value) = self.authorization.as_ref().and_then(|value| value.to_str().ok()) {
            let v4 = value.split_once("Credential=").map(|(_, rest)| rest);
            let v2 = value.strip_prefix("AWS ");
            let end = |c: char| matches!(c, '/' | ',' | ':' | ' ');
            return Some(v4.or(v2).unwrap_or_default().split(end).next().unwrap_or_default().to_owned());
        }
        let query = self.uri.query()?;
        let v4 = parameter(query, "X-Amz-Credential");
        let claim = v4.or_else(|| parameter(query, "AWSAccessKeyId"))?;
        Some(claim.split('/').next().unwrap_or_default().to_owned())
    }

    /// Whether the request may be looked at.
    pub(crate) fn may_try(&self, iam: &Iam, trace: &Trace) -> bool {
        let Some(peer) = trace.peer.filter(|_| iam.damping().is_active()) else { return true };
        self.access_key().is_none_or(|key| iam.damping().may(peer.address.ip(), &key, iam.now()))
    }

    /// Counts how it ended.
    pub(crate) fn note(&self, iam: &Iam, trace: &Trace, answer: &Response<Body>) {
        let Some(peer) = trace.peer else { return };
        match trace.identity() {
            Some(identity) if !identity.is_anonymous() && iam.damping().is_active() => {
                iam.damping().succeeded(peer.address.ip(), &identity.access_key, iam.now());
            }
            None if answer.status() == StatusCode::FORBIDDEN => {
                let document = answer.body().bytes().unwrap_or_default();
                let says = |word: &str| document.windows(word.len()).any(|part| part == word.as_bytes());
                if says("SignatureDoesNotMatch") || says("InvalidAccessKeyId") || says("InvalidClientTokenId") {
                    let key = self.access_key().unwrap_or_default();
                    iam.damping().failed(peer.address.ip(), &key, iam.now());
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_keys() {
        let claim = |authorization: Option<&'static str>, uri: &'static str| {
            Claimed { authorization: authorization.map(HeaderValue::from_static), uri: Uri::from_static(uri) }
                .access_key()
        };
        let v4 = "AWS4-HMAC-SHA256 Credential=AK/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
        assert_eq!(claim(Some(v4), "/").as_deref(), Some("AK"));
        assert_eq!(claim(Some("AWS AK:sig"), "/").as_deref(), Some("AK"));
        assert_eq!(claim(None, "/b/k?X-Amz-Credential=AK%2F20260101%2Fx").as_deref(), Some("AK"));
        assert_eq!(claim(None, "/b/k?AWSAccessKeyId=AK&Signature=x").as_deref(), Some("AK"));
        assert_eq!(claim(None, "/b/k?list-type=2"), None);
    }
}
