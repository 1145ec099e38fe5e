//! `BlockedEncryptionTypes`: a bucket may refuse new objects under customers' keys (SSE-C).
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/API_BlockedEncryptionTypes.html>
//!
//! s3s does not know the element and refuses documents that have it. So PutBucketEncryption is caught here once its signature
//! and its claims about the document are verified; the element is taken out, and the rest served again through a service
//! that takes the identity that was proven, and no other. What was taken out travels beside it, and is kept in the stored
//! document in its place.

use std::sync::{Arc, OnceLock};

use granary_types::ChecksumAlgorithm;
use http::header::CONTENT_LENGTH;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Uri};
use http_body_util::BodyExt as _;
use s3s::route::S3Route;
use s3s::service::S3Service;
use s3s::{Body, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use crate::auth::Access;
use crate::context::{Trace, operation_index};
use crate::lenient::serve_again;
use crate::ops::access::malformed_xml;

const OPEN: &str = "<BlockedEncryptionTypes";
const CLOSE: &str = "</BlockedEncryptionTypes>";
const RULE_END: &str = "</Rule>";
/// S3's name for encryption with customers' keys.
const CUSTOMER: &str = "SSE-C";
/// S3's name for blocking none.
const NONE: &str = "NONE";

/// What a bucket blocks, where its configuration says so: `true` for customers' keys, `false` for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blocked(pub(crate) bool);

impl Blocked {
    fn element(self) -> String {
        let kind = if self.0 { CUSTOMER } else { NONE };
        format!("{OPEN}><EncryptionType>{kind}</EncryptionType>{CLOSE}")
    }

    /// Puts the element into a configuration, at the end of its rule.
    pub(crate) fn put_into(self, document: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(document).ok()?;
        let end = text.find(RULE_END)?;
        Some([&text[..end], &self.element(), &text[end..]].concat().into_bytes())
    }
}

/// A configuration without the element, and what the element said.
///
/// # Errors
/// `MalformedXML` for an element that S3 would not take.
pub(crate) fn taken_out(document: &str) -> S3Result<(String, Option<Blocked>)> {
    let Some(start) = document.find(OPEN) else { return Ok((document.to_owned(), None)) };
    let wrong = || malformed_xml("BlockedEncryptionTypes holds EncryptionType elements, each SSE-C, or NONE alone");
    let (head, rest) = document.split_at(start);
    let (open, rest) = rest.split_once('>').ok_or_else(wrong)?;
    if open.ends_with('/') || rest.contains(OPEN) {
        return Err(wrong());
    }
    let (inner, tail) = rest.split_once(CLOSE).ok_or_else(wrong)?;
    let mut kinds = Vec::new();
    let mut left = inner.trim();
    while !left.is_empty() {
        let kind = left.strip_prefix("<EncryptionType>").and_then(|left| left.split_once("</EncryptionType>"));
        let (kind, after) = kind.ok_or_else(wrong)?;
        kinds.push(kind.trim());
        left = after.trim_start();
    }
    let blocked = match kinds[..] {
        [NONE] => Blocked(false),
        [CUSTOMER, ..] if kinds.iter().all(|kind| *kind == CUSTOMER) => Blocked(true),
        _ => return Err(wrong()),
    };
    Ok(([head, tail].concat(), Some(blocked)))
}

pub(crate) struct Blocking {
    pub(crate) access: Access,
    /// The same front door, which takes what was proven here for proven; reachable from here only.
    pub(crate) inner: Arc<OnceLock<S3Service>>,
    pub(crate) bytes_max: usize,
}

/// Claims about the document as it came, which were verified while it was read.
fn drop_claims(headers: &mut HeaderMap) {
    for name in ["content-md5", "x-amz-content-sha256", "x-amz-sdk-checksum-algorithm", "x-amz-trailer"] {
        headers.remove(name);
    }
    for algorithm in ChecksumAlgorithm::ALL {
        let name = format!("x-amz-checksum-{}", algorithm.name().to_ascii_lowercase());
        if let Ok(name) = HeaderName::try_from(name) {
            headers.remove(name);
        }
    }
}

#[async_trait::async_trait]
impl S3Route for Blocking {
    fn is_match(&self, method: &Method, uri: &Uri, _headers: &HeaderMap, _extensions: &mut Extensions) -> bool {
        let query = uri.query().unwrap_or_default();
        method == Method::PUT && query.split('&').any(|pair| pair.split('=').next() == Some("encryption"))
    }

    async fn check_access(&self, request: &mut S3Request<Body>) -> S3Result<()> {
        let proven = self.access.prove(request.credentials.as_ref(), &request.headers, &request.uri)?;
        if let Some(trace) = request.extensions.get::<Arc<Trace>>() {
            trace.set_operation(operation_index("PutBucketEncryption"));
            trace.set_identity(Arc::clone(&proven.who));
        }
        // Whether it may is decided within, by the same check, on what was proven here.
        request.extensions.insert(proven);
        Ok(())
    }

    async fn call(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let mut body = Body::empty();
        let request = request.map_input(|input| body = input);
        let read = http_body_util::Limited::new(body, self.bytes_max).collect().await;
        // Why it could not be read is with the trace, and takes this one's place.
        let document = read.map_err(|_| S3Error::new(S3ErrorCode::IncompleteBody))?.to_bytes();
        let text = std::str::from_utf8(&document).map_err(|_| malformed_xml("The document is not UTF-8"))?;
        let (text, blocked) = taken_out(text)?;
        let length = HeaderValue::from(text.len());
        let mut again = request.map_input(|()| Body::from(text));
        if let Some(blocked) = blocked {
            again.extensions.insert(blocked);
        }
        let mend = |headers: &mut HeaderMap| {
            drop_claims(headers);
            headers.insert(CONTENT_LENGTH, length);
        };
        serve_again(&self.inner, again, mend).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(element: &str) -> String {
        format!("<C><Rule><A>x</A>{element}</Rule></C>")
    }

    #[test]
    fn the_element_is_taken_out_and_put_back() {
        let bare = document("");
        assert_eq!(taken_out(&bare).unwrap(), (bare.clone(), None));
        for (kind, blocked) in [(CUSTOMER, Blocked(true)), (NONE, Blocked(false))] {
            let whole = document(&blocked.element());
            assert!(whole.contains(kind));
            assert_eq!(taken_out(&whole).unwrap(), (bare.clone(), Some(blocked)));
            assert_eq!(blocked.put_into(bare.as_bytes()).unwrap(), whole.as_bytes());
        }
        let spaced = document(
            "\n<BlockedEncryptionTypes>\n <EncryptionType>SSE-C</EncryptionType>\n </BlockedEncryptionTypes>\n",
        );
        assert_eq!(taken_out(&spaced).unwrap().1, Some(Blocked(true)));
    }

    #[test]
    fn elements_that_s3_does_not_take() {
        for inner in ["", "<EncryptionType>AES256</EncryptionType>", "SSE-C", "<EncryptionType>NONE"] {
            assert!(taken_out(&document(&format!("{OPEN}>{inner}{CLOSE}"))).is_err(), "{inner}");
        }
        let both = "<EncryptionType>SSE-C</EncryptionType><EncryptionType>NONE</EncryptionType>";
        assert!(taken_out(&document(&format!("{OPEN}>{both}{CLOSE}"))).is_err());
        assert!(taken_out(&document("<BlockedEncryptionTypes/>")).is_err());
        let twice = Blocked(true).element().repeat(2);
        assert!(taken_out(&document(&twice)).is_err());
        assert!(taken_out("<C><Rule><BlockedEncryptionTypes>").is_err());
    }
}
