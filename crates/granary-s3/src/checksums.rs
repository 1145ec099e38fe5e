//! Checksums between headers, XML and the store.
//!
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html>. A request carries
//! at most one checksum: in a header, or announced by `x-amz-trailer` and sent behind an aws-chunked body.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use granary_store::StoreError;
use granary_store::api::Claims;
use granary_types::{Checksum, ChecksumAlgorithm, ChecksumKind};
use http::{HeaderMap, HeaderName};
use s3s::dto;
use s3s::{S3Error, S3ErrorCode, TrailingHeaders};

use crate::error::invalid_request;

const PREFIX: &str = "x-amz-checksum-";
const TRAILER: HeaderName = HeaderName::from_static("x-amz-trailer");
const SDK_ALGORITHM: HeaderName = HeaderName::from_static("x-amz-sdk-checksum-algorithm");
const ALGORITHM: HeaderName = HeaderName::from_static("x-amz-checksum-algorithm");

/// What S3 computes for objects whose client asks for nothing.
pub(crate) const DEFAULT_ALGORITHM: ChecksumAlgorithm = ChecksumAlgorithm::Crc64nvme;

/// The algorithm that a header such as `x-amz-checksum-crc32` is for: `None` if it is none of these headers,
/// an error if S3 has no such algorithm here (never taken for "no checksum": the client wants a check).
fn algorithm_of(header: &str) -> Result<Option<ChecksumAlgorithm>, S3Error> {
    let Some(name) = header.strip_prefix(PREFIX) else { return Ok(None) };
    if matches!(name, "algorithm" | "mode" | "type") {
        return Ok(None);
    }
    ChecksumAlgorithm::from_name(name).map(Some).ok_or_else(|| {
        invalid_request(format!(
            "The algorithm type you specified in {header} is not supported: use CRC32, CRC32C, CRC64NVME, SHA1 or SHA256"
        ))
    })
}

/// The checksum in the headers. Composite ones (`…-N`) are allowed where a whole multipart object is meant.
pub(crate) fn from_headers(headers: &HeaderMap, kind: Option<ChecksumKind>) -> Result<Option<Checksum>, S3Error> {
    let mut found = None;
    for (name, value) in headers {
        let Some(algorithm) = algorithm_of(name.as_str())? else { continue };
        let text = value.to_str().unwrap_or_default();
        let checksum = parse(algorithm, text, kind)?;
        if found.replace(checksum).is_some() {
            return Err(invalid_request(
                "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
            ));
        }
    }
    Ok(found)
}

fn parse(algorithm: ChecksumAlgorithm, text: &str, kind: Option<ChecksumKind>) -> Result<Checksum, S3Error> {
    let bad = || {
        let name = algorithm.name().to_ascii_lowercase();
        invalid_request(format!("Value for {PREFIX}{name} header is invalid."))
    };
    let (value, parts) = match text.split_once('-') {
        Some((value, parts)) => (value, Some(parts.parse::<u32>().map_err(|_| bad())?)),
        None => (text, None),
    };
    let mut checksum = Checksum::from_base64(algorithm, value).ok_or_else(bad)?;
    match (kind, parts) {
        // A claim of a composite checksum may leave the count to the server; 0 means "as many as there are".
        (Some(ChecksumKind::Composite), parts) => {
            checksum.kind = ChecksumKind::Composite;
            checksum.parts = parts.unwrap_or(0);
        }
        (None | Some(ChecksumKind::FullObject), None) => {}
        (None | Some(ChecksumKind::FullObject), Some(_)) => return Err(bad()),
    }
    Ok(checksum)
}

/// What an upload of bytes claims: the MD5, the checksum, or the trailer to come.
pub(crate) fn claims(
    headers: &HeaderMap,
    trailing: Option<TrailingHeaders>,
    fallback: Option<ChecksumAlgorithm>,
) -> Result<Claims, S3Error> {
    let checksum = from_headers(headers, None)?;
    let announced = announced(headers)?;
    if checksum.is_some() && announced.is_some() {
        return Err(invalid_request("Expecting a single x-amz-checksum- header or trailer."));
    }
    let named = named_algorithm(headers, &SDK_ALGORITHM)?;
    if let (Some(named), Some(given)) = (named, checksum.as_ref().map(|c| c.algorithm).or(announced))
        && named != given
    {
        return Err(invalid_request("Value for x-amz-sdk-checksum-algorithm header is invalid."));
    }
    let algorithm = match &checksum {
        Some(_) => None,
        None => announced.or(named).or(fallback),
    };
    Ok(Claims { md5: content_md5(headers)?, checksum, algorithm, trailer: trailer(announced, trailing) })
}

fn content_md5(headers: &HeaderMap) -> Result<Option<[u8; 16]>, S3Error> {
    let Some(value) = headers.get("content-md5") else { return Ok(None) };
    BASE64
        .decode(value.as_bytes())
        .ok()
        .and_then(|raw| raw.try_into().ok())
        .map(Some)
        .ok_or_else(|| S3Error::with_message(S3ErrorCode::InvalidDigest, "The Content-MD5 you specified is not valid."))
}

/// The algorithm announced in `x-amz-trailer`.
pub(crate) fn announced(headers: &HeaderMap) -> Result<Option<ChecksumAlgorithm>, S3Error> {
    let mut found = None;
    for name in headers.get_all(TRAILER).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(',')) {
        let Some(algorithm) = algorithm_of(&name.trim().to_ascii_lowercase())? else { continue };
        if found.replace(algorithm).is_some() {
            return Err(invalid_request("Expecting a single x-amz-checksum- trailer."));
        }
    }
    Ok(found)
}

#[allow(clippy::type_complexity)]
fn trailer(
    announced: Option<ChecksumAlgorithm>,
    trailing: Option<TrailingHeaders>,
) -> Option<Box<dyn FnOnce() -> Result<Option<Checksum>, StoreError> + Send>> {
    let algorithm = announced?;
    Some(Box::new(move || {
        let name = format!("{PREFIX}{}", algorithm.name().to_ascii_lowercase());
        let text = trailing
            .and_then(|trailing| trailing.take())
            .and_then(|headers| headers.get(&name).and_then(|value| value.to_str().ok()).map(str::to_owned))
            .ok_or_else(|| StoreError::Invalid(format!("the trailer {name} was announced but did not come")))?;
        Checksum::from_base64(algorithm, &text)
            .map(Some)
            .ok_or_else(|| StoreError::Invalid(format!("the value of the trailer {name} is not a checksum")))
    }))
}

fn named_algorithm(headers: &HeaderMap, header: &HeaderName) -> Result<Option<ChecksumAlgorithm>, S3Error> {
    let Some(value) = headers.get(header) else { return Ok(None) };
    value.to_str().ok().and_then(ChecksumAlgorithm::from_name).map(Some).ok_or_else(|| {
        invalid_request("Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]")
    })
}

/// `x-amz-checksum-algorithm` of CreateMultipartUpload and CopyObject.
pub(crate) fn asked_algorithm(headers: &HeaderMap) -> Result<Option<ChecksumAlgorithm>, S3Error> {
    named_algorithm(headers, &ALGORITHM)
}

/// `x-amz-checksum-type`.
pub(crate) fn kind(text: Option<&dto::ChecksumType>) -> Result<Option<ChecksumKind>, S3Error> {
    match text.map(dto::ChecksumType::as_str) {
        None => Ok(None),
        Some(dto::ChecksumType::FULL_OBJECT) => Ok(Some(ChecksumKind::FullObject)),
        Some(dto::ChecksumType::COMPOSITE) => Ok(Some(ChecksumKind::Composite)),
        Some(_) => Err(invalid_request("Value for x-amz-checksum-type header is invalid.")),
    }
}

/// As S3 names a kind.
pub(crate) fn kind_name(kind: ChecksumKind) -> dto::ChecksumType {
    dto::ChecksumType::from_static(match kind {
        ChecksumKind::FullObject => dto::ChecksumType::FULL_OBJECT,
        ChecksumKind::Composite => dto::ChecksumType::COMPOSITE,
    })
}

/// As S3 names an algorithm.
pub(crate) fn algorithm_name(algorithm: ChecksumAlgorithm) -> dto::ChecksumAlgorithm {
    dto::ChecksumAlgorithm::from_static(algorithm.name())
}

/// The checksum fields that so many of S3's answers have.
#[derive(Default)]
pub(crate) struct Fields {
    pub(crate) crc32: Option<String>,
    pub(crate) crc32c: Option<String>,
    pub(crate) crc64nvme: Option<String>,
    pub(crate) sha1: Option<String>,
    pub(crate) sha256: Option<String>,
    pub(crate) kind: Option<dto::ChecksumType>,
}

impl Fields {
    pub(crate) fn of(checksum: Option<&Checksum>) -> Self {
        checksum.map_or_else(Self::default, |checksum| Self::with(checksum, checksum.to_wire()))
    }

    /// Without the `-N` of composite values, as GetObjectAttributes shows them.
    pub(crate) fn bare(checksum: &Checksum) -> Self {
        Self::with(checksum, BASE64.encode(&checksum.value))
    }

    fn with(checksum: &Checksum, text: String) -> Self {
        let mut fields = Self { kind: Some(kind_name(checksum.kind)), ..Self::default() };
        let field = match checksum.algorithm {
            ChecksumAlgorithm::Crc32 => &mut fields.crc32,
            ChecksumAlgorithm::Crc32c => &mut fields.crc32c,
            ChecksumAlgorithm::Crc64nvme => &mut fields.crc64nvme,
            ChecksumAlgorithm::Sha1 => &mut fields.sha1,
            ChecksumAlgorithm::Sha256 => &mut fields.sha256,
        };
        *field = Some(text);
        fields
    }
}

/// The checksum that CompleteMultipartUpload names for a part.
pub(crate) fn of_completed_part(part: &dto::CompletedPart) -> Result<Option<Checksum>, S3Error> {
    let given = [
        (ChecksumAlgorithm::Crc32, &part.checksum_crc32),
        (ChecksumAlgorithm::Crc32c, &part.checksum_crc32c),
        (ChecksumAlgorithm::Crc64nvme, &part.checksum_crc64nvme),
        (ChecksumAlgorithm::Sha1, &part.checksum_sha1),
        (ChecksumAlgorithm::Sha256, &part.checksum_sha256),
    ];
    let mut given = given.into_iter().filter_map(|(algorithm, text)| text.as_deref().map(|text| (algorithm, text)));
    let Some((algorithm, text)) = given.next() else { return Ok(None) };
    if given.next().is_some() {
        return Err(invalid_request("Expecting a single checksum per part."));
    }
    parse(algorithm, text, None).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn one_checksum_of_a_known_algorithm() {
        let one = headers(&[("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-checksum-mode", "ENABLED")]);
        assert_eq!(from_headers(&one, None).unwrap().unwrap().algorithm, ChecksumAlgorithm::Crc32);
        for bad in [
            &[("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-checksum-crc32c", "AAAAAA==")][..],
            &[("x-amz-checksum-crc32", "AAAA")],
            &[("x-amz-checksum-crc32", "AAAAAA==-2")],
            &[("x-amz-checksum-xxhash64", "AAAAAA==")],
        ] {
            assert!(from_headers(&headers(bad), None).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn composite_claims_need_the_type() {
        let wire = headers(&[("x-amz-checksum-crc32", "AAAAAA==-2")]);
        let claimed = from_headers(&wire, Some(ChecksumKind::Composite)).unwrap().unwrap();
        assert_eq!((claimed.kind, claimed.parts), (ChecksumKind::Composite, 2));
        assert!(from_headers(&wire, Some(ChecksumKind::FullObject)).is_err());
    }

    #[test]
    fn an_announced_trailer_must_come() {
        let announced = headers(&[("x-amz-trailer", "x-amz-checksum-crc64nvme")]);
        let claims = claims(&announced, None, None).unwrap();
        assert_eq!(claims.algorithm, Some(ChecksumAlgorithm::Crc64nvme));
        assert!(matches!((claims.trailer.unwrap())(), Err(StoreError::Invalid(_))));
    }

    #[test]
    fn contradictions_are_refused() {
        for bad in [
            &[("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-trailer", "x-amz-checksum-crc32")][..],
            &[("x-amz-checksum-crc32", "AAAAAA=="), ("x-amz-sdk-checksum-algorithm", "SHA1")],
            &[("x-amz-sdk-checksum-algorithm", "MD4")],
            &[("content-md5", "AAAA")],
        ] {
            assert!(claims(&headers(bad), None, None).is_err(), "{bad:?}");
        }
    }
}
