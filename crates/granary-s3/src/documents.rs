//! XML documents on their way in and out: claims that s3s does not check, and error documents made whole.

use granary_types::hex;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use granary_types::{Checksum, ChecksumAlgorithm, ChecksumHasher};
use http::header::CONTENT_LENGTH;
use http::request::Parts;
use http::{HeaderName, Method};
use http_body::{Body, Frame, SizeHint};
use md5::{Digest, Md5};
use s3s::{S3Error, S3ErrorCode, StdError};

use crate::checksums;
use crate::context::Trace;
use crate::error::bad_request;
use crate::subject::Detail;

const CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");

/// Subresources whose PUT carries a document.
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

/// Whether the request's body is a document and not an object's payload.
pub(crate) fn is_document(parts: &Parts) -> bool {
    let query = parts.uri.query().unwrap_or_default();
    let names_one = || query.split('&').any(|pair| SUBRESOURCES.contains(&pair.split('=').next().unwrap_or_default()));
    parts.method == Method::POST || (parts.method == Method::PUT && names_one())
}

/// A document on its way to s3s, checked as it passes: its size, `Content-MD5`, checksum and SHA-256. s3s would answer
/// each of these with `500 InternalError`; the right answer is left with the request's trace, and takes that one's
/// place. (Gathering the document here instead would let anybody fill memory, for s3s has not authenticated yet.)
pub(crate) struct Checked<B> {
    body: B,
    trace: Arc<Trace>,
    bytes_max: u64,
    announced_bytes: Option<u64>,
    seen_bytes: u64,
    md5: Option<(Md5, [u8; 16])>,
    checksum: Option<(ChecksumHasher, Checksum)>,
    sha256: Option<(ChecksumHasher, [u8; 32])>,
}

impl<B> Checked<B> {
    /// # Errors
    /// Claims that are malformed in themselves.
    pub(crate) fn new(parts: &Parts, body: B, trace: Arc<Trace>, bytes_max: usize) -> Result<Self, S3Error> {
        // The checksum header of CompleteMultipartUpload and its kin is about the object.
        let is_about_object = parts.uri.query().is_some_and(|query| query.contains("uploadId="));
        let claims = if is_about_object { None } else { Some(checksums::claims(&parts.headers, None, None)?) };
        let (md5, checksum) = claims.map_or((None, None), |claims| (claims.md5, claims.checksum));
        let announced = parts.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        let sha256 = parts.headers.get(CONTENT_SHA256).and_then(hex::decode_array);
        Ok(Self {
            body,
            trace,
            bytes_max: bytes_max as u64,
            announced_bytes: announced,
            seen_bytes: 0,
            md5: md5.map(|md5| (Md5::new(), md5)),
            checksum: checksum.map(|claimed| (ChecksumHasher::new(claimed.algorithm), claimed)),
            sha256: sha256.map(|claimed| (ChecksumHasher::new(ChecksumAlgorithm::Sha256), claimed)),
        })
    }

    fn take_in(&mut self, bytes: &[u8]) -> Result<(), S3Error> {
        self.seen_bytes += bytes.len() as u64;
        if self.seen_bytes > self.bytes_max || self.announced_bytes.is_some_and(|n| n > self.bytes_max) {
            return Err(S3Error::new(S3ErrorCode::MaxMessageLengthExceeded));
        }
        if let Some((hasher, _)) = &mut self.md5 {
            hasher.update(bytes);
        }
        for hasher in self.checksum.iter_mut().map(|(h, _)| h).chain(self.sha256.iter_mut().map(|(h, _)| h)) {
            hasher.update(bytes);
        }
        // With the last announced byte rather than at the end: what comes next may stop before the end.
        if self.announced_bytes == Some(self.seen_bytes) { self.check() } else { Ok(()) }
    }

    /// Compares what is claimed, once.
    fn check(&mut self) -> Result<(), S3Error> {
        let bad = |code: S3ErrorCode, message: String| Err(S3Error::with_message(code, message));
        if let Some((hasher, claimed)) = self.sha256.take()
            && hasher.finish().value[..] != claimed
        {
            let message = "The provided 'x-amz-content-sha256' header does not match what was computed.";
            return Err(bad_request("XAmzContentSHA256Mismatch", message));
        }
        if let Some((hasher, claimed)) = self.md5.take()
            && hasher.finalize()[..] != claimed[..]
        {
            let message = "The Content-MD5 you specified did not match what we received.";
            return bad(S3ErrorCode::BadDigest, message.to_owned());
        }
        if let Some((hasher, claimed)) = self.checksum.take()
            && hasher.finish() != claimed
        {
            let name = claimed.algorithm.name();
            return bad(
                S3ErrorCode::BadDigest,
                format!("The {name} you specified did not match the calculated checksum."),
            );
        }
        Ok(())
    }
}

/// Why a body ended before its end: [`crate::rechunk`]'s words, else the client is gone.
fn broken(error: &StdError) -> S3Error {
    let text = error.to_string();
    if text.ends_with("SignatureMismatch") {
        S3Error::new(S3ErrorCode::SignatureDoesNotMatch)
    } else if text.ends_with("ChecksumMismatch") {
        let message = "The checksum behind the body did not match what we received, or did not come.";
        S3Error::with_message(S3ErrorCode::BadDigest, message)
    } else {
        S3Error::new(S3ErrorCode::IncompleteBody)
    }
}

impl<B> Body for Checked<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<StdError>,
{
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let checked = match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => match frame.data_ref() {
                Some(bytes) => self.take_in(bytes).map(|()| Some(frame)),
                None => Ok(Some(frame)),
            },
            Some(Err(error)) => Err(broken(&error.into())),
            None => self.check().map(|()| None),
        };
        match checked {
            Ok(frame) => Poll::Ready(frame.map(Ok)),
            Err(error) => {
                let text = error.to_string();
                self.trace.set_verdict(error);
                Poll::Ready(Some(Err(text.into())))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A page of versions with its versions and delete markers in one order, as S3 sends it: s3s writes the ones behind
/// the others. `markers` says of each entry which it is.
pub(crate) fn interleave(document: &[u8], markers: &[bool]) -> Option<Vec<u8>> {
    if !markers.contains(&true) || !markers.contains(&false) {
        return None;
    }
    let text = std::str::from_utf8(document).ok()?;
    let run = |open: &str, close: &str, count: usize| {
        let start = text.find(open)?;
        let mut entries = Vec::with_capacity(count);
        let mut at = start;
        while text[at..].starts_with(open) {
            let end = at + text[at..].find(close)? + close.len();
            entries.push(&text[at..end]);
            at = end;
        }
        (entries.len() == count).then_some((start, at, entries))
    };
    let marked = markers.iter().filter(|is_marker| **is_marker).count();
    let (marker_start, marker_end, marker_entries) = run("<DeleteMarker>", "</DeleteMarker>", marked)?;
    let (start, end, entries) = run("<Version>", "</Version>", markers.len() - marked)?;
    let (mut marker_entries, mut entries) = (marker_entries.into_iter(), entries.into_iter());
    let merged: Option<Vec<&str>> =
        markers.iter().map(|is_marker| if *is_marker { marker_entries.next() } else { entries.next() }).collect();
    let ((first_start, first_end), (last_start, last_end)) = if marker_start < start {
        ((marker_start, marker_end), (start, end))
    } else {
        ((start, end), (marker_start, marker_end))
    };
    let mut out = String::with_capacity(text.len());
    out.push_str(&text[..first_start]);
    out.push_str(&text[first_end..last_start]);
    merged?.into_iter().for_each(|entry| out.push_str(entry));
    out.push_str(&text[last_end..]);
    Some(out.into_bytes())
}

/// The code of an error document.
pub(crate) fn error_code(document: &[u8]) -> &str {
    let text = std::str::from_utf8(document).unwrap_or_default();
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    code.map_or("", |(code, _)| code)
}

/// An error document with `Message`, `Resource`, `RequestId` and `HostId`, whatever s3s left out, and `details` before these.
pub(crate) fn whole_error(
    document: &[u8],
    details: Vec<Detail>,
    resource: &str,
    request_id: &str,
    host_id: &str,
) -> Vec<u8> {
    let mut text = String::from_utf8_lossy(document).into_owned();
    let Some(end) = text.rfind("</Error>") else { return document.to_vec() };
    let mut tail = String::new();
    let last = [("Resource", resource), ("RequestId", request_id), ("HostId", host_id)];
    for (name, value) in details.iter().map(|(name, value)| (*name, value.as_str())).chain(last) {
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

/// Text for a document.
pub(crate) fn escape(text: &str) -> String {
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

/// GetObjectAttributes, alone in S3, shows the ETag without quotes; s3s writes them always. `None` where there is none.
pub(crate) fn bare_etag(document: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(document).ok()?;
    text.contains("<ETag>\"").then(|| text.replace("<ETag>\"", "<ETag>").replace("\"</ETag>", "</ETag>").into_bytes())
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
        let whole =
            String::from_utf8(whole_error(bare, vec![("Key", "a&b".to_owned())], "/b/a&b", "ID", "host")).unwrap();
        assert!(whole.contains("<Message>The request signature we calculated"), "{whole}");
        assert!(whole.ends_with(
            "<Key>a&amp;b</Key><Resource>/b/a&amp;b</Resource><RequestId>ID</RequestId><HostId>host</HostId></Error>"
        ));
        let told = b"<Error><Code>NoSuchKey</Code><Message>m</Message></Error>";
        let whole = String::from_utf8(whole_error(told, Vec::new(), "/", "ID", "h")).unwrap();
        assert_eq!(whole.matches("<Message>").count(), 1);
        assert_eq!(error_code(told), "NoSuchKey");
        assert_eq!(error_code(b"not xml"), "");
        assert_eq!(whole_error(b"not xml", Vec::new(), "/", "ID", "h"), b"not xml");
    }

    #[test]
    fn attributes_show_a_bare_etag() {
        assert_eq!(
            bare_etag(b"<ETag>\"a-1\"</ETag><ObjectSize>1</ObjectSize>").unwrap(),
            b"<ETag>a-1</ETag><ObjectSize>1</ObjectSize>"
        );
        assert_eq!(bare_etag(b"<ObjectSize>1</ObjectSize>"), None);
    }

    #[test]
    fn controls_become_references() {
        assert_eq!(escape_controls(b"<Key>a\nb\tc</Key>"), None);
        assert_eq!(escape_controls(b"<Key>a\rb\x01</Key>").unwrap(), b"<Key>a&#xD;b&#x1;</Key>");
    }

    #[test]
    fn versions_and_markers_in_one_order() {
        let page = "<?xml?><L><DeleteMarker>a2</DeleteMarker><DeleteMarker>b1</DeleteMarker><Name>n</Name>\
                    <Version>a3</Version><Version>a1</Version></L>";
        let out = interleave(page.as_bytes(), &[false, true, false, true]).unwrap();
        let wanted = "<?xml?><L><Name>n</Name><Version>a3</Version><DeleteMarker>a2</DeleteMarker>\
                      <Version>a1</Version><DeleteMarker>b1</DeleteMarker></L>";
        assert_eq!(String::from_utf8(out).unwrap(), wanted);
        assert_eq!(interleave(page.as_bytes(), &[true, true]), None);
        assert_eq!(interleave(page.as_bytes(), &[false, true]), None);
    }
}
