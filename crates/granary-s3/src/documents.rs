//! XML documents on their way in and out: claims that s3s does not check, and error documents made whole.

use bytes::Bytes;
use granary_types::ChecksumHasher;
use http::header::HeaderMap;
use http::request::Parts;
use http::{HeaderName, Method};
use http_body_util::{BodyExt, Limited};
use md5::{Digest, Md5};
use s3s::{S3Error, S3ErrorCode, StdError};

use crate::checksums;

const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");

/// Subresources whose PUT (or, for `delete`, POST) carries a document. (CompleteMultipartUpload's checksum
/// header is about the object, not about the document.)
const SUBRESOURCES: [&str; 20] = [
    "accelerate",
    "acl",
    "cors",
    "delete",
    "encryption",
    "legal-hold",
    "lifecycle",
    "logging",
    "notification",
    "object-lock",
    "ownershipControls",
    "policy",
    "publicAccessBlock",
    "replication",
    "requestPayment",
    "retention",
    "tagging",
    "versioning",
    "website",
    "analytics",
];

/// Whether the request brings a document together with an MD5 or a checksum of it.
pub(crate) fn has_claims(parts: &Parts) -> bool {
    let Some(query) = parts.uri.query() else { return false };
    (parts.method == Method::PUT || parts.method == Method::POST)
        && query.split('&').any(|pair| SUBRESOURCES.contains(&pair.split('=').next().unwrap_or_default()))
        && has_claim(&parts.headers)
}

fn has_claim(headers: &HeaderMap) -> bool {
    headers.contains_key(CONTENT_MD5) || headers.keys().any(|name| name.as_str().starts_with("x-amz-checksum-"))
}

/// Gathers the document and checks it.
///
/// # Errors
/// What S3 says to a digest that differs, or to a document over `bytes_max`.
pub(crate) async fn verified<B>(parts: &Parts, body: B, bytes_max: usize) -> Result<Bytes, S3Error>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<StdError>,
{
    let document = Limited::new(body, bytes_max)
        .collect()
        .await
        .map_err(|error| match error.downcast_ref::<http_body_util::LengthLimitError>() {
            Some(_) => S3Error::new(S3ErrorCode::MaxMessageLengthExceeded),
            None => S3Error::new(S3ErrorCode::IncompleteBody),
        })?
        .to_bytes();
    let claims = checksums::claims(&parts.headers, None, None)?;
    if claims.md5.is_some_and(|md5| md5[..] != Md5::digest(&document)[..]) {
        return Err(S3Error::with_message(
            S3ErrorCode::BadDigest,
            "The Content-MD5 you specified did not match what we received.",
        ));
    }
    if let Some(claimed) = claims.checksum {
        let mut hasher = ChecksumHasher::new(claimed.algorithm);
        hasher.update(&document);
        if hasher.finish() != claimed {
            let name = claimed.algorithm.name();
            return Err(S3Error::with_message(
                S3ErrorCode::BadDigest,
                format!("The {name} you specified did not match the calculated checksum."),
            ));
        }
    }
    Ok(document)
}

/// An error document with `Message`, `Resource`, `RequestId` and `HostId`, whatever s3s left out.
pub(crate) fn whole_error(document: &[u8], resource: &str, request_id: &str, host_id: &str) -> Vec<u8> {
    let mut text = String::from_utf8_lossy(document).into_owned();
    let Some(end) = text.rfind("</Error>") else { return document.to_vec() };
    let mut tail = String::new();
    for (name, value) in [("Resource", resource), ("RequestId", request_id), ("HostId", host_id)] {
        if !text.contains(&format!("<{name}>")) {
            tail.push_str(&format!("<{name}>{}</{name}>", escape(value)));
        }
    }
    text.insert_str(end, &tail);
    let (open, close) = ("<Code>", "</Code>");
    if !text.contains("<Message>")
        && let (Some(start), Some(end)) = (text.find(open), text.find(close))
    {
        let message = default_message(&text[start + open.len()..end]);
        text.insert_str(end + close.len(), &format!("<Message>{}</Message>", escape(message)));
    }
    text.into_bytes()
}

/// S3's texts for the codes that s3s answers without one.
fn default_message(code: &str) -> &'static str {
    match code {
        "AccessDenied" => "Access Denied",
        "EntityTooLarge" => "Your proposed upload exceeds the maximum allowed object size.",
        "IncompleteBody" => "You did not provide the number of bytes specified by the Content-Length HTTP header",
        "InternalError" => "We encountered an internal error. Please try again.",
        "InvalidBucketName" => "The specified bucket is not valid.",
        "InvalidURI" => "Couldn't parse the specified URI.",
        "KeyTooLongError" => "Your key is too long",
        "MalformedXML" => "The XML you provided was not well-formed or did not validate against our published schema",
        "MaxMessageLengthExceeded" => "Your request was too big.",
        "MethodNotAllowed" => "The specified method is not allowed against this resource.",
        "MissingContentLength" => "You must provide the Content-Length HTTP header.",
        "MissingRequestBodyError" => "Request Body is empty",
        "NotImplemented" => "A header or query you provided implies functionality that is not implemented.",
        "RequestTimeTooSkewed" => "The difference between the request time and the current time is too large.",
        "SignatureDoesNotMatch" => {
            "The request signature we calculated does not match the signature you provided. Check your key and signing method."
        }
        _ => "The request could not be served.",
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c if (c as u32) < 0x20 => out.push_str(&format!("&#x{:X};", c as u32)),
            c => out.push(c),
        }
    }
    out
}

/// Control characters of keys as character references, as AWS sends them: a raw carriage return would
/// reach the client as a line feed, which is another key. `None` where there are none.
pub(crate) fn escape_controls(document: &[u8]) -> Option<Vec<u8>> {
    const fn is_control(byte: u8) -> bool {
        byte < 0x20 && byte != b'\n' && byte != b'\t'
    }
    // In blocks without an early way out, so that it runs at vector speed.
    if !document.chunks(256).any(|block| block.iter().fold(false, |found, byte| found | is_control(*byte))) {
        return None;
    }
    let mut out = Vec::with_capacity(document.len() + 64);
    for byte in document {
        if is_control(*byte) {
            out.extend_from_slice(format!("&#x{byte:X};").as_bytes());
        } else {
            out.push(*byte);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_documents_are_made_whole() {
        let bare = b"<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>SignatureDoesNotMatch</Code></Error>";
        let whole = String::from_utf8(whole_error(bare, "/b/a&b", "ID", "host")).unwrap();
        assert!(whole.contains("<Message>The request signature we calculated"), "{whole}");
        assert!(
            whole.ends_with("<Resource>/b/a&amp;b</Resource><RequestId>ID</RequestId><HostId>host</HostId></Error>")
        );
        let told = b"<Error><Code>NoSuchKey</Code><Message>m</Message></Error>";
        let whole = String::from_utf8(whole_error(told, "/", "ID", "h")).unwrap();
        assert_eq!(whole.matches("<Message>").count(), 1);
        assert_eq!(whole_error(b"not xml", "/", "ID", "h"), b"not xml");
    }

    #[test]
    fn controls_become_references() {
        assert_eq!(escape_controls(b"<Key>a\nb\tc</Key>"), None);
        assert_eq!(escape_controls(b"<Key>a\rb\x01</Key>").unwrap(), b"<Key>a&#xD;b&#x1;</Key>");
    }
}
