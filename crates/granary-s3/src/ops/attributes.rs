//! What is stored beside an object's bytes, from the headers of the request that writes it.

use granary_meta::records::{Attributes, BucketRecord, Retention, RetentionMode, Sse, SystemHeaders};
use granary_types::limits::USER_METADATA_BYTES_MAX;
use http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, EXPIRES};
use http::{HeaderMap, HeaderName};
use s3s::dto;
use s3s::{S3Error, S3ErrorCode};

use crate::context::Cx;
use crate::convert;
use crate::error::{Fail, bad_request, invalid_argument};
use crate::front::FrontDoor;
use crate::ops::grants;

const STORAGE_CLASS: HeaderName = HeaderName::from_static("x-amz-storage-class");
const WEBSITE_REDIRECT: HeaderName = HeaderName::from_static("x-amz-website-redirect-location");
const TAGGING: HeaderName = HeaderName::from_static("x-amz-tagging");
const LOCK_MODE: HeaderName = HeaderName::from_static("x-amz-object-lock-mode");
const LOCK_UNTIL: HeaderName = HeaderName::from_static("x-amz-object-lock-retain-until-date");
const LOCK_HOLD: HeaderName = HeaderName::from_static("x-amz-object-lock-legal-hold");

/// Names of storage classes that mean no more than a label here. Those that would need a restore are refused.
const CLASSES: [&str; 4] = ["REDUCED_REDUNDANCY", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING"];

fn text(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, S3Error> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().map_err(|_| invalid_argument(format!("The {name} header is not visible ASCII")))?;
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// All attributes of a new object but its encryption, which [`super::sse::of_write`] tells.
pub(crate) fn of_request(
    front: &FrontDoor,
    cx: &Cx,
    bucket: &BucketRecord,
    headers: &HeaderMap,
    metadata: Option<dto::Metadata>,
) -> Result<Attributes, Fail> {
    let mut attributes = lock_of_request(headers)?;
    attributes.headers = system_headers(headers)?;
    attributes.user_metadata = user_metadata(metadata)?;
    attributes.tags = match text(headers, &TAGGING)? {
        Some(tags) => convert::tags_from_header(&tags)?,
        None => Vec::new(),
    };
    attributes.sse = Sse::S3;
    (attributes.owner, attributes.acl) =
        grants::of_write(bucket, Some(&cx.caller.owner.id), headers, &|id| front.is_somebody(id))?;
    Ok(attributes)
}

/// Retention and legal hold alone.
pub(crate) fn lock_of_request(headers: &HeaderMap) -> Result<Attributes, Fail> {
    let retention = match (text(headers, &LOCK_MODE)?, text(headers, &LOCK_UNTIL)?) {
        (None, None) => None,
        (Some(mode), Some(until)) => {
            let until = dto::Timestamp::parse(dto::TimestampFormat::DateTime, &until)
                .map_err(|_| invalid_argument("The retain until date must be provided in ISO 8601 format"))?;
            Some(Retention { mode: retention_mode(&mode)?, until: convert::from_timestamp(until) })
        }
        _ => {
            return Err(invalid_argument(
                "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied",
            )
            .into());
        }
    };
    let legal_hold = match text(headers, &LOCK_HOLD)?.as_deref() {
        None | Some("OFF") => false,
        Some("ON") => true,
        Some(_) => return Err(invalid_argument("Legal Hold must be either of 'ON' or 'OFF'").into()),
    };
    Ok(Attributes { retention, legal_hold, ..Attributes::default() })
}

pub(crate) fn retention_mode(text: &str) -> Result<RetentionMode, S3Error> {
    match text {
        "GOVERNANCE" => Ok(RetentionMode::Governance),
        "COMPLIANCE" => Ok(RetentionMode::Compliance),
        _ => Err(invalid_argument("Unknown wormMode directive.")),
    }
}

pub(crate) const fn retention_mode_name(mode: RetentionMode) -> &'static str {
    match mode {
        RetentionMode::Governance => "GOVERNANCE",
        RetentionMode::Compliance => "COMPLIANCE",
    }
}

fn system_headers(headers: &HeaderMap) -> Result<SystemHeaders, S3Error> {
    let storage_class = match text(headers, &STORAGE_CLASS)?.as_deref() {
        None | Some("STANDARD") => None,
        Some(class) if CLASSES.contains(&class) => Some(class.to_owned()),
        Some(_) => {
            return Err(S3Error::with_message(
                S3ErrorCode::InvalidStorageClass,
                "The storage class you specified is not valid",
            ));
        }
    };
    let website_redirect = text(headers, &WEBSITE_REDIRECT)?;
    if website_redirect.as_deref().is_some_and(|to| !["/", "http://", "https://"].iter().any(|p| to.starts_with(p))) {
        return Err(bad_request(
            "InvalidRedirectLocation",
            "The website redirect location must have a prefix of 'http://' or 'https://' or '/'.",
        ));
    }
    Ok(SystemHeaders {
        content_type: text(headers, &CONTENT_TYPE)?,
        content_encoding: text(headers, &CONTENT_ENCODING)?.and_then(|encoding| without_aws_chunked(&encoding)),
        content_disposition: text(headers, &CONTENT_DISPOSITION)?,
        content_language: text(headers, &CONTENT_LANGUAGE)?,
        cache_control: text(headers, &CACHE_CONTROL)?,
        expires: text(headers, &EXPIRES)?,
        website_redirect,
        storage_class,
    })
}

/// `aws-chunked` is how the bytes travelled, not what they are.
fn without_aws_chunked(encoding: &str) -> Option<String> {
    let kept: Vec<_> = encoding
        .split(',')
        .map(str::trim)
        .filter(|token| !token.is_empty() && !token.eq_ignore_ascii_case("aws-chunked"))
        .collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

fn user_metadata(metadata: Option<dto::Metadata>) -> Result<Vec<(String, String)>, S3Error> {
    let mut pairs: Vec<_> = metadata.unwrap_or_default().into_iter().collect();
    let bytes: usize = pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > USER_METADATA_BYTES_MAX {
        return Err(S3Error::with_message(
            S3ErrorCode::MetadataTooLarge,
            format!(
                "Your metadata headers exceed the maximum allowed metadata size: {bytes} of {USER_METADATA_BYTES_MAX} bytes"
            ),
        ));
    }
    pairs.sort();
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn aws_chunked_is_taken_off() {
        for (given, kept) in [
            ("aws-chunked", None),
            ("gzip", Some("gzip")),
            ("aws-chunked,gzip", Some("gzip")),
            ("gzip, AWS-Chunked , br", Some("gzip,br")),
            ("", None),
        ] {
            assert_eq!(without_aws_chunked(given).as_deref(), kept, "{given}");
        }
    }

    #[test]
    fn metadata_is_bounded() {
        let of = |bytes: usize| Some(std::iter::once(("k".to_owned(), "v".repeat(bytes - 1))).collect());
        assert_eq!(user_metadata(of(2048)).unwrap().len(), 1);
        assert_eq!(user_metadata(of(2049)).unwrap_err().code(), &S3ErrorCode::MetadataTooLarge);
    }

    #[test]
    fn what_is_not_there_is_refused() {
        assert!(system_headers(&headers(&[("x-amz-storage-class", "GLACIER")])).is_err());
        assert!(lock_of_request(&headers(&[("x-amz-object-lock-mode", "GOVERNANCE")])).is_err());
    }
}
