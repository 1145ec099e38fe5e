//! GetObject, HeadObject, GetObjectAttributes.

use granary_meta::records::{ObjectRecord, Verified};
use granary_store::api::{GetRequest, ObjectInfo, Portion, ReadCondition};
use granary_types::{Checksum, ObjectKey, RangeSpec};
use http::header::{EXPIRES, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use s3s::dto::{
    self, GetObjectAttributesInput, GetObjectAttributesOutput, GetObjectInput, GetObjectOutput, HeadObjectInput,
    HeadObjectOutput,
};
use s3s::{S3Error, S3Request, S3Response};

use crate::checksums::{self, Fields};
use crate::context::Cx;
use crate::error::{Fail, invalid_argument, invalid_request};
use crate::front::{FrontDoor, Outcome};
use crate::ops::lifecycle::Lifetimes;
use crate::ops::{attributes, sse};
use crate::{body, convert};

/// Content type of objects stored without one.
const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";

/// What of a copy of an upstream's object was verified: `checksum`, `md5` or `length`.
const VERIFIED: HeaderName = HeaderName::from_static("x-granary-verified");
const TAGGING_COUNT: HeaderName = HeaderName::from_static("x-amz-tagging-count");

/// What GetObject and HeadObject have in common of their input.
struct Asked<'a> {
    bucket: &'a str,
    key: String,
    version: Option<&'a str>,
    owner: Option<&'a str>,
    range: Option<dto::Range>,
    part: Option<i32>,
    modified_since: Option<dto::Timestamp>,
    unmodified_since: Option<dto::Timestamp>,
}

fn get_request(front: &FrontDoor, asked: Asked<'_>, headers: &HeaderMap) -> Result<GetRequest, Fail> {
    let unlock = sse::of_read(front, headers)?;
    let portion = match (asked.range, asked.part) {
        (Some(_), Some(_)) => {
            return Err(invalid_request("Cannot specify both Range header and partNumber query parameter").into());
        }
        (Some(range), None) => Portion::Range(match range {
            dto::Range::Int { first, last } => RangeSpec::From { first, last },
            dto::Range::Suffix { length } => RangeSpec::Suffix(length),
        }),
        (None, Some(part)) => Portion::Part(convert::part_number(part)?),
        (None, None) => Portion::Whole,
    };
    Ok(GetRequest {
        bucket: front.named(asked.bucket, asked.owner)?,
        key: convert::object_key(asked.key)?,
        version: convert::version_id(asked.version)?,
        portion,
        condition: ReadCondition {
            if_match: convert::etag_match(headers, &IF_MATCH)?,
            if_none_match: convert::etag_match(headers, &IF_NONE_MATCH)?,
            if_modified_since: asked.modified_since.map(convert::from_timestamp),
            if_unmodified_since: asked.unmodified_since.map(convert::from_timestamp),
        },
        unlock,
    })
}

/// `Content-Range`, where only a portion is served. (The first part of an empty object is all of it.)
fn content_range(info: &ObjectInfo) -> Option<String> {
    (info.partial && !info.range.is_empty())
        .then(|| format!("bytes {}-{}/{}", info.range.start, info.range.end - 1, info.object.size_bytes))
}

/// The checksum of exactly the bytes that are served, if the client asked and there is one: clients verify
/// what they receive against it.
fn shown_checksum<'a>(info: &'a ObjectInfo, mode: Option<&dto::ChecksumMode>, is_part: bool) -> Option<&'a Checksum> {
    let asked = mode.is_some_and(|mode| mode.as_str().eq_ignore_ascii_case(dto::ChecksumMode::ENABLED));
    match (asked, is_part) {
        (false, _) => None,
        (true, true) => info.part_checksum.as_ref(),
        (true, false) if info.partial => None,
        (true, false) => info.object.checksum.as_ref(),
    }
}

/// Everything that both answers show of an object.
struct Shown {
    content_type: String,
    metadata: Option<dto::Metadata>,
    retention: Option<(dto::ObjectLockMode, dto::Timestamp)>,
    legal_hold: Option<dto::ObjectLockLegalHoldStatus>,
    encryption: sse::Fields,
    storage_class: Option<dto::StorageClass>,
    /// Sent as it was stored.
    expires: Option<HeaderValue>,
}

impl Shown {
    fn of(object: &ObjectRecord) -> Self {
        let attributes = &object.attributes;
        let metadata =
            (!attributes.user_metadata.is_empty()).then(|| attributes.user_metadata.iter().cloned().collect());
        let on = || dto::ObjectLockLegalHoldStatus::from_static(dto::ObjectLockLegalHoldStatus::ON);
        Self {
            content_type: attributes.headers.content_type.clone().unwrap_or_else(|| DEFAULT_CONTENT_TYPE.to_owned()),
            metadata,
            retention: attributes.retention.map(|retention| {
                let mode = attributes::retention_mode_name(retention.mode);
                (dto::ObjectLockMode::from_static(mode), convert::timestamp(retention.until))
            }),
            legal_hold: attributes.legal_hold.then(on),
            encryption: sse::Fields::of(&attributes.sse),
            storage_class: attributes.headers.storage_class.clone().map(dto::StorageClass::from),
            expires: attributes.headers.expires.as_deref().and_then(|text| HeaderValue::from_str(text).ok()),
        }
    }

    fn headers(&mut self, is_overridden: bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(expires) = self.expires.take().filter(|_| !is_overridden) {
            headers.insert(EXPIRES, expires);
        }
        headers
    }
}

/// Of a copy of an upstream's object: what of it was verified when it was fetched.
fn verified(info: &ObjectInfo) -> Option<(HeaderName, HeaderValue)> {
    let value = match info.fetched.as_ref()?.verified {
        Verified::Checksum => "checksum",
        Verified::Md5 => "md5",
        Verified::Length => "length",
    };
    Some((VERIFIED, HeaderValue::from_static(value)))
}

/// `x-amz-expiration` of what is served.
fn expiration(lifetimes: &Lifetimes, key: &ObjectKey, info: &ObjectInfo) -> Option<String> {
    lifetimes.expiration(key.as_str(), info.object.size_bytes, &info.object.attributes.tags, info.stored())
}

fn tag_count(object: &ObjectRecord) -> Option<i32> {
    let count = object.attributes.tags.len();
    (count > 0).then(|| convert::count(count))
}

pub(crate) async fn get_object(
    front: &FrontDoor,
    cx: &Cx,
    request: S3Request<GetObjectInput>,
) -> Outcome<GetObjectOutput> {
    let S3Request { input, headers, .. } = request;
    let is_part = input.part_number.is_some();
    let asked = Asked {
        bucket: &input.bucket,
        key: input.key,
        version: input.version_id.as_deref(),
        owner: input.expected_bucket_owner.as_deref(),
        range: input.range,
        part: input.part_number,
        modified_since: input.if_modified_since,
        unmodified_since: input.if_unmodified_since,
    };
    let is_current = asked.version.is_none();
    let asked = get_request(front, asked, &headers)?;
    let lifetimes =
        if is_current { Lifetimes::of(front, &asked.bucket).map(|of| (of, asked.key.clone())) } else { None };
    let (info, bytes) = front.store.get(asked).await?;
    let expiration = lifetimes.and_then(|(of, key)| expiration(&of, &key, &info));
    let sums = Fields::of(shown_checksum(&info, input.checksum_mode.as_ref(), is_part));
    let mut shown = Shown::of(&info.object);
    let mut headers = shown.headers(input.response_expires.is_some());
    headers.extend(verified(&info));
    let content_range = content_range(&info);
    let len = info.range.len();
    let tag_count = tag_count(&info.object);
    let system = info.object.attributes.headers;
    let (lock_mode, lock_until) = shown.retention.unzip();
    let output = GetObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        bucket_key_enabled: shown.encryption.bucket_key_enabled,
        body: Some(body::outgoing(bytes, len, cx.trace.clone())),
        cache_control: system.cache_control,
        checksum_crc32: sums.crc32,
        checksum_crc32c: sums.crc32c,
        checksum_crc64nvme: sums.crc64nvme,
        checksum_sha1: sums.sha1,
        checksum_sha256: sums.sha256,
        checksum_type: sums.kind,
        content_disposition: system.content_disposition,
        content_encoding: system.content_encoding,
        content_language: system.content_language,
        content_length: Some(convert::size(len)),
        content_range,
        content_type: Some(shown.content_type),
        e_tag: Some(dto::ETag::Strong(info.object.etag)),
        expiration,
        last_modified: Some(convert::timestamp(info.created)),
        metadata: shown.metadata,
        object_lock_legal_hold_status: shown.legal_hold,
        object_lock_mode: lock_mode,
        object_lock_retain_until_date: lock_until,
        parts_count: parts_count(info.parts_count, is_part),
        server_side_encryption: shown.encryption.method,
        sse_customer_algorithm: shown.encryption.customer_algorithm,
        sse_customer_key_md5: shown.encryption.customer_key_md5,
        ssekms_key_id: shown.encryption.kms_key_id,
        storage_class: shown.storage_class,
        tag_count,
        version_id: info.version.map(|version| version.to_string()),
        website_redirect_location: system.website_redirect,
        ..GetObjectOutput::default()
    };
    Ok(S3Response::with_headers(output, headers))
}

/// S3 tells the number of parts only to who asks for a part.
fn parts_count(count: Option<u32>, is_part: bool) -> Option<i32> {
    count.filter(|_| is_part).and_then(|count| i32::try_from(count).ok())
}

pub(crate) async fn head_object(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<HeadObjectInput>,
) -> Outcome<HeadObjectOutput> {
    let S3Request { input, headers, .. } = request;
    let is_part = input.part_number.is_some();
    let overrides = Overrides::of(&input);
    let asked = Asked {
        bucket: &input.bucket,
        key: input.key,
        version: input.version_id.as_deref(),
        owner: input.expected_bucket_owner.as_deref(),
        range: input.range,
        part: input.part_number,
        modified_since: input.if_modified_since,
        unmodified_since: input.if_unmodified_since,
    };
    let is_current = asked.version.is_none();
    let asked = get_request(front, asked, &headers)?;
    let lifetimes =
        if is_current { Lifetimes::of(front, &asked.bucket).map(|of| (of, asked.key.clone())) } else { None };
    let info = front.store.head(asked).await?;
    let expiration = lifetimes.and_then(|(of, key)| expiration(&of, &key, &info));
    let sums = Fields::of(shown_checksum(&info, input.checksum_mode.as_ref(), is_part));
    let mut shown = Shown::of(&info.object);
    let mut headers = shown.headers(overrides.expires.is_some());
    headers.extend(verified(&info));
    if let Some(count) = tag_count(&info.object) {
        // s3s knows it of GET only.
        headers.insert(TAGGING_COUNT, HeaderValue::from(count));
    }
    let content_range = content_range(&info);
    let system = info.object.attributes.headers;
    let (lock_mode, lock_until) = shown.retention.unzip();
    let output = HeadObjectOutput {
        accept_ranges: Some("bytes".to_owned()),
        bucket_key_enabled: shown.encryption.bucket_key_enabled,
        cache_control: overrides.cache_control.or(system.cache_control),
        checksum_crc32: sums.crc32,
        checksum_crc32c: sums.crc32c,
        checksum_crc64nvme: sums.crc64nvme,
        checksum_sha1: sums.sha1,
        checksum_sha256: sums.sha256,
        checksum_type: sums.kind,
        content_disposition: overrides.content_disposition.or(system.content_disposition),
        content_encoding: overrides.content_encoding.or(system.content_encoding),
        content_language: overrides.content_language.or(system.content_language),
        content_length: Some(convert::size(info.range.len())),
        content_range,
        content_type: Some(overrides.content_type.unwrap_or(shown.content_type)),
        e_tag: Some(dto::ETag::Strong(info.object.etag)),
        expiration,
        expires: overrides.expires,
        last_modified: Some(convert::timestamp(info.created)),
        metadata: shown.metadata,
        object_lock_legal_hold_status: shown.legal_hold,
        object_lock_mode: lock_mode,
        object_lock_retain_until_date: lock_until,
        parts_count: parts_count(info.parts_count, is_part),
        server_side_encryption: shown.encryption.method,
        sse_customer_algorithm: shown.encryption.customer_algorithm,
        sse_customer_key_md5: shown.encryption.customer_key_md5,
        ssekms_key_id: shown.encryption.kms_key_id,
        storage_class: shown.storage_class,
        version_id: info.version.map(|version| version.to_string()),
        website_redirect_location: system.website_redirect,
        ..HeadObjectOutput::default()
    };
    Ok(S3Response::with_headers(output, headers))
}

/// `response-*` of a HEAD: s3s applies them to GET only.
struct Overrides {
    cache_control: Option<String>,
    content_disposition: Option<String>,
    content_encoding: Option<String>,
    content_language: Option<String>,
    content_type: Option<String>,
    expires: Option<dto::Timestamp>,
}

impl Overrides {
    fn of(input: &HeadObjectInput) -> Self {
        Self {
            cache_control: input.response_cache_control.clone(),
            content_disposition: input.response_content_disposition.clone(),
            content_encoding: input.response_content_encoding.clone(),
            content_language: input.response_content_language.clone(),
            content_type: input.response_content_type.clone(),
            expires: input.response_expires.clone(),
        }
    }
}

pub(crate) async fn get_object_attributes(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<GetObjectAttributesInput>,
) -> Outcome<GetObjectAttributesOutput> {
    let S3Request { input, headers, .. } = request;
    let unlock = sse::of_read(front, &headers)?;
    let wanted = Wanted::of(&input.object_attributes)?;
    let info = front
        .store
        .head(GetRequest {
            bucket: front.named(&input.bucket, input.expected_bucket_owner.as_deref())?,
            key: convert::object_key(input.key)?,
            version: convert::version_id(input.version_id.as_deref())?,
            portion: Portion::Whole,
            condition: ReadCondition::default(),
            unlock,
        })
        .await?;
    let object_parts = match info.parts_count {
        Some(total) if wanted.parts => {
            let limit = convert::page_size("max-parts", input.max_parts)?;
            let after = part_marker(input.part_number_marker)?;
            Some(object_parts(front, &info, total, after, limit).await?)
        }
        _ => None,
    };
    let checksum = info.object.checksum.as_ref().filter(|_| wanted.checksum).map(|checksum| {
        let sums = Fields::bare(checksum);
        dto::Checksum {
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            checksum_type: sums.kind,
        }
    });
    let class = info.object.attributes.headers.storage_class.clone().unwrap_or_else(|| "STANDARD".to_owned());
    Ok(S3Response::new(GetObjectAttributesOutput {
        checksum,
        e_tag: wanted.etag.then(|| convert::etag(&info.object.etag)),
        last_modified: Some(convert::timestamp(info.created)),
        object_parts,
        object_size: wanted.size.then(|| convert::size(info.object.size_bytes)),
        storage_class: wanted.class.then(|| class.into()),
        version_id: info.version.map(|version| version.to_string()),
        ..GetObjectAttributesOutput::default()
    }))
}

/// A marker that lies behind every part is legal and lists nothing.
fn part_marker(marker: Option<i32>) -> Result<u32, S3Error> {
    u32::try_from(marker.unwrap_or(0)).map_err(|_| invalid_argument("part-number-marker must not be negative"))
}

async fn object_parts(
    front: &FrontDoor,
    info: &ObjectInfo,
    total: u32,
    after: u32,
    limit: u32,
) -> Result<dto::GetObjectAttributesParts, Fail> {
    let page = match limit {
        0 => granary_store::api::ObjectParts { total, parts: Vec::new(), next: None },
        _ => front.store.object_parts(info, after, limit).await?,
    };
    let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    let last = page.parts.last().map(|(n, ..)| *n);
    let parts = page
        .parts
        .iter()
        .map(|(part, size_bytes, checksum)| {
            let sums = checksum.as_ref().map_or_else(Fields::default, Fields::bare);
            dto::ObjectPart {
                checksum_crc32: sums.crc32,
                checksum_crc32c: sums.crc32c,
                checksum_crc64nvme: sums.crc64nvme,
                checksum_sha1: sums.sha1,
                checksum_sha256: sums.sha256,
                part_number: Some(number(*part)),
                size: Some(convert::size(*size_bytes)),
            }
        })
        .collect();
    Ok(dto::GetObjectAttributesParts {
        is_truncated: Some(page.next.is_some()),
        max_parts: Some(number(limit)),
        next_part_number_marker: page.next.or(last).map(number),
        part_number_marker: Some(number(after)),
        parts: Some(parts),
        total_parts_count: Some(number(page.total)),
    })
}

#[derive(Default)]
struct Wanted {
    etag: bool,
    checksum: bool,
    parts: bool,
    class: bool,
    size: bool,
}

impl Wanted {
    /// s3s takes each header line for one name; SDKs send one line with commas.
    fn of(names: &[dto::ObjectAttributes]) -> Result<Self, S3Error> {
        let mut wanted = Self::default();
        for name in names.iter().flat_map(|names| names.as_str().split(',')).map(str::trim) {
            match name {
                "ETag" => wanted.etag = true,
                "Checksum" => wanted.checksum = true,
                "ObjectParts" => wanted.parts = true,
                "StorageClass" => wanted.class = true,
                "ObjectSize" => wanted.size = true,
                _ => return Err(invalid_argument("Invalid attribute name specified.")),
            }
        }
        Ok(wanted)
    }
}

/// Algorithms as a listing shows them.
pub(crate) fn listed_checksum(
    object: Option<&ObjectRecord>,
) -> (Option<Vec<dto::ChecksumAlgorithm>>, Option<dto::ChecksumType>) {
    match object.and_then(|object| object.checksum.as_ref()) {
        Some(checksum) => {
            (Some(vec![checksums::algorithm_name(checksum.algorithm)]), Some(checksums::kind_name(checksum.kind)))
        }
        None => (None, None),
    }
}
