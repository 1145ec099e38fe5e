//! What an upstream's answer says, read carefully.

use granary_meta::records::SystemHeaders;
use granary_store::upstream::{RemoteHead, UpstreamError};
use granary_types::{Checksum, ChecksumAlgorithm, hex};
use http::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_TYPE, ETAG,
    EXPIRES, HeaderMap, LAST_MODIFIED,
};
use http::{HeaderName, StatusCode};
use quick_xml::Reader;
use quick_xml::events::Event;

const SSE: HeaderName = HeaderName::from_static("x-amz-server-side-encryption");
const SSE_CUSTOMER: HeaderName = HeaderName::from_static("x-amz-server-side-encryption-customer-algorithm");
const WEBSITE: HeaderName = HeaderName::from_static("x-amz-website-redirect-location");
const STORAGE_CLASS: HeaderName = HeaderName::from_static("x-amz-storage-class");
const CHECKSUM_TYPE: HeaderName = HeaderName::from_static("x-amz-checksum-type");
const METADATA: &str = "x-amz-meta-";
/// Characters of an error code that are shown.
const CODE_CHARS_MAX: usize = 64;

/// An answer that is no object, for people: status and code, and nothing else of what the upstream says.
pub(super) fn shown(status: StatusCode, code: Option<&str>) -> String {
    match code {
        Some(code) => format!("it answered {} {code}", status.as_u16()),
        None => format!("it answered {}", status.as_u16()),
    }
}

/// The error that such an answer is.
pub(super) fn refused(status: StatusCode, code: Option<&str>) -> UpstreamError {
    let passes = status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
        || matches!(code, Some("SlowDown" | "RequestTimeTooSkewed"));
    match passes {
        true => UpstreamError::Unreachable(shown(status, code)),
        false => UpstreamError::Refused(shown(status, code)),
    }
}

/// The `Code` of an S3 error document, if it is one.
pub(super) fn code_of(document: &[u8]) -> Option<String> {
    let mut reader = Reader::from_reader(document);
    let mut path: Vec<Vec<u8>> = Vec::new();
    loop {
        match reader.read_event().ok()? {
            Event::Start(tag) => path.push(tag.local_name().as_ref().to_vec()),
            Event::End(_) => {
                path.pop();
            }
            Event::Text(text) if path.len() == 2 && path[0] == b"Error" && path[1] == b"Code" => {
                let code = text.decode().ok()?.trim().to_owned();
                let fits = (1..=CODE_CHARS_MAX).contains(&code.len())
                    && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.');
                return fits.then_some(code);
            }
            Event::Eof => return None,
            _ => {}
        }
    }
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, UpstreamError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => Ok(Some(text.to_owned())),
        Err(_) => Err(UpstreamError::Lied(format!("its header {name} is no text"))),
    }
}

/// The ETag without its quotes.
fn etag(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(ETAG)?.to_str().ok()?.trim();
    let text = text.strip_prefix("W/").unwrap_or(text);
    Some(text.trim_matches('"').to_owned())
}

/// The ETag may be an MD5: 32 hex digits, unless the encryption says that it is not.
fn may_be_md5(headers: &HeaderMap, etag: &str) -> bool {
    let is_hidden = headers.contains_key(SSE_CUSTOMER)
        || headers.get(SSE).is_some_and(|value| value.as_bytes().starts_with(b"aws:kms"));
    !is_hidden && etag.len() == 32 && hex::decode(etag).is_some()
}

/// The MD5 that an answer's ETag is, where it may be one.
pub(super) fn md5_of(headers: &HeaderMap) -> Option<[u8; 16]> {
    let etag = etag(headers)?;
    if may_be_md5(headers, &etag) { hex::decode_array(&etag) } else { None }
}

/// A checksum of the whole object; one over its parts says nothing of bytes in a row.
fn checksum(headers: &HeaderMap) -> Result<Option<Checksum>, UpstreamError> {
    if headers.get(CHECKSUM_TYPE).is_some_and(|kind| kind.as_bytes().eq_ignore_ascii_case(b"COMPOSITE")) {
        return Ok(None);
    }
    for algorithm in ChecksumAlgorithm::ALL {
        let name = format!("x-amz-checksum-{}", algorithm.name().to_ascii_lowercase());
        let Some(value) = headers.get(&name) else { continue };
        let text = value.to_str().unwrap_or_default();
        if text.contains('-') {
            continue;
        }
        let checksum = Checksum::from_base64(algorithm, text);
        return checksum.map(Some).ok_or_else(|| UpstreamError::Lied(format!("its {name} is none")));
    }
    Ok(None)
}

/// What the headers of an object say.
pub(super) fn head_of(headers: &HeaderMap) -> Result<RemoteHead, UpstreamError> {
    let lied = |why: &str| UpstreamError::Lied(why.to_owned());
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let size_bytes = length.ok_or_else(|| lied("it did not say how many bytes the object has"))?;
    let etag = etag(headers).ok_or_else(|| lied("it gave no ETag"))?;
    let modified = headers.get(LAST_MODIFIED).and_then(|value| value.to_str().ok());
    let modified = modified.and_then(granary_s3::parse_http_date).ok_or_else(|| lied("it gave no Last-Modified"))?;
    let mut user_metadata = Vec::new();
    for (name, _) in headers {
        if let Some(own) = name.as_str().strip_prefix(METADATA)
            && let Some(value) = text(headers, name)?
            && !user_metadata.iter().any(|(known, _)| known == own)
        {
            user_metadata.push((own.to_owned(), value));
        }
    }
    user_metadata.sort();
    Ok(RemoteHead {
        size_bytes,
        etag_may_be_md5: may_be_md5(headers, &etag),
        etag,
        modified,
        headers: SystemHeaders {
            content_type: text(headers, &CONTENT_TYPE)?,
            content_encoding: text(headers, &CONTENT_ENCODING)?,
            content_disposition: text(headers, &CONTENT_DISPOSITION)?,
            content_language: text(headers, &CONTENT_LANGUAGE)?,
            cache_control: text(headers, &CACHE_CONTROL)?,
            expires: text(headers, &EXPIRES)?,
            website_redirect: text(headers, &WEBSITE)?,
            storage_class: text(headers, &STORAGE_CLASS)?.filter(|class| class != "STANDARD"),
        },
        user_metadata,
        checksum: checksum(headers)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    const MD5: &str = "\"9e107d9d372bb6826bd81d3542a419d6\"";
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    #[test]
    fn heads() {
        let base = [("content-length", "7"), ("etag", MD5), ("last-modified", DATE)];
        let head = head_of(&headers(&base)).unwrap();
        assert_eq!((head.size_bytes, head.etag.as_str(), head.etag_may_be_md5), (7, &MD5[1..33], true));
        assert_eq!(head.modified.as_secs(), 784_111_777);
        let with = |more: &[(&str, &str)]| head_of(&headers(&[&base[..], more].concat()));
        assert!(!with(&[("x-amz-server-side-encryption", "aws:kms")]).unwrap().etag_may_be_md5);
        assert!(with(&[("x-amz-server-side-encryption", "AES256")]).unwrap().etag_may_be_md5);
        assert_eq!(with(&[("x-amz-meta-b", "2"), ("x-amz-meta-a", "1")]).unwrap().user_metadata[0].0, "a");
        assert_eq!(with(&[("x-amz-storage-class", "STANDARD")]).unwrap().headers.storage_class, None);
        let crc = with(&[("x-amz-checksum-crc32", "NSRBwg==")]).unwrap().checksum.unwrap();
        assert_eq!(crc.algorithm, ChecksumAlgorithm::Crc32);
        let composite = [("x-amz-checksum-crc32", "NSRBwg=="), ("x-amz-checksum-type", "COMPOSITE")];
        assert_eq!(with(&composite).unwrap().checksum, None);
        assert_eq!(with(&[("x-amz-checksum-sha256", "NSRBwg==-3")]).unwrap().checksum, None);
        assert!(matches!(with(&[("x-amz-checksum-crc32", "!")]), Err(UpstreamError::Lied(_))));
        for missing in 0..base.len() {
            let some: Vec<_> = base.iter().enumerate().filter(|(i, _)| *i != missing).map(|(_, pair)| *pair).collect();
            assert!(matches!(head_of(&headers(&some)), Err(UpstreamError::Lied(_))), "{missing}");
        }
    }

    #[test]
    fn codes() {
        let document = br#"<?xml version="1.0"?><Error><Code>NoSuchKey</Code><Message>x</Message></Error>"#;
        assert_eq!(code_of(document).as_deref(), Some("NoSuchKey"));
        for other in [&b""[..], b"<html><Code>NoSuchKey</Code></html>", b"<Error><Code>a b</Code></Error>", b"<Error"] {
            assert_eq!(code_of(other), None, "{}", String::from_utf8_lossy(other));
        }
        assert!(matches!(refused(StatusCode::SERVICE_UNAVAILABLE, None), UpstreamError::Unreachable(_)));
        assert!(matches!(refused(StatusCode::FORBIDDEN, Some("AccessDenied")), UpstreamError::Refused(_)));
    }
}
