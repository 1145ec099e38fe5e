//! `?granary-member=NAME`: one member of a tar file. `?granary-members`: what it holds.

use granary_store::ai::shard::{MemberInfo, MemberRead};
use granary_store::ai::tar::sample_key;
use granary_store::api::ReadCondition;
use granary_types::{ChecksumAlgorithm, RangeSpec};
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
};
use http::{Method, StatusCode};
use s3s::dto;
use s3s::{Body, S3Response};
use serde_json::json;

use crate::ai::{Answer, Call};
use crate::error::Fail;
use crate::{body, convert};

/// Members in one page, at most.
const PAGE_MAX: u64 = 10_000;
const PAGE_DEFAULT: u64 = 1_000;
const CHECKSUM_MODE: HeaderName = HeaderName::from_static("x-amz-checksum-mode");

/// A `Range` that can be served; others are ignored, as for objects.
fn range(headers: &HeaderMap) -> Option<RangeSpec> {
    parse_range(headers.get(RANGE)?.to_str().ok()?)
}

/// `bytes=a-b`, `bytes=a-`, `bytes=-n`.
pub(super) fn parse_range(text: &str) -> Option<RangeSpec> {
    match dto::Range::parse(text).ok().filter(|_| text != "bytes=-")? {
        dto::Range::Int { first, last } => Some(RangeSpec::From { first, last }),
        dto::Range::Suffix { length } => Some(RangeSpec::Suffix(length)),
    }
}

fn read(headers: &HeaderMap) -> Result<MemberRead, Fail> {
    let date = |name| headers.get(name).and_then(|value| value.to_str().ok()).and_then(convert::parse_http_date);
    let wants_checksum = headers
        .get(CHECKSUM_MODE)
        .is_some_and(|mode| mode.as_bytes().eq_ignore_ascii_case(dto::ChecksumMode::ENABLED.as_bytes()));
    let range = range(headers);
    Ok(MemberRead {
        range,
        condition: ReadCondition {
            if_match: convert::etag_match(headers, &IF_MATCH)?,
            if_none_match: convert::etag_match(headers, &IF_NONE_MATCH)?,
            if_modified_since: date(IF_MODIFIED_SINCE),
            if_unmodified_since: date(IF_UNMODIFIED_SINCE),
        },
        // Checksums are shown of exactly the bytes that are served, as for objects.
        checksum: (wants_checksum && range.is_none()).then_some(ChecksumAlgorithm::Crc64nvme),
    })
}

fn headers(info: &MemberInfo) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut put = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    put(ETAG, &convert::quoted(&info.etag));
    put(LAST_MODIFIED, &convert::http_date(info.shard.created));
    put(ACCEPT_RANGES, "bytes");
    put(CONTENT_TYPE, "binary/octet-stream");
    put(CONTENT_LENGTH, &info.range.len().to_string());
    put(HeaderName::from_static("x-granary-member-offset"), &info.member.offset.to_string());
    put(HeaderName::from_static("x-granary-member-size"), &info.member.size_bytes.to_string());
    put(HeaderName::from_static("x-granary-object-etag"), &convert::quoted(&info.shard.object.etag));
    if let Some(version) = info.shard.version {
        put(HeaderName::from_static("x-amz-version-id"), &version.to_string());
    }
    if info.partial && !info.range.is_empty() {
        let (first, last, size) = (info.range.start, info.range.end - 1, info.member.size_bytes);
        put(CONTENT_RANGE, &format!("bytes {first}-{last}/{size}"));
    }
    if let Some(checksum) = &info.checksum {
        let name = format!("x-amz-checksum-{}", checksum.algorithm.name().to_ascii_lowercase());
        if let Ok(name) = HeaderName::try_from(name) {
            put(name, &checksum.to_wire());
        }
        put(HeaderName::from_static("x-amz-checksum-type"), "FULL_OBJECT");
    }
    headers
}

pub(super) async fn member(call: Call<'_>) -> Answer {
    call.named("GranaryMember");
    call.method(&[Method::GET, Method::HEAD])?;
    let key = call.key()?;
    call.permit(if call.method == Method::HEAD { "HeadObject" } else { "GetObject" }, Some(key.as_str())).await?;
    let name = call.query.get("granary-member").unwrap_or_default();
    let version = convert::version_id(call.query.get("versionId"))?;
    let read = read(&call.headers)?;
    let shards = &call.route.shards;
    let (info, output) = if call.method == Method::HEAD {
        (shards.head(&call.bucket, &key, version, name, &read).await?, Body::empty())
    } else {
        let (info, bytes) = shards.get(&call.bucket, &key, version, name, &read).await?;
        let len = info.range.len();
        (info, Body::from(body::outgoing(bytes, len, call.cx.trace.clone())))
    };
    let mut response = S3Response::new(output);
    response.headers = headers(&info);
    response.status = Some(if info.partial { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK });
    Ok(response)
}

pub(super) async fn list(call: Call<'_>) -> Answer {
    call.named("GranaryMembers");
    call.method(&[Method::GET])?;
    let key = call.key()?;
    call.permit("GetObject", Some(key.as_str())).await?;
    let version = convert::version_id(call.query.get("versionId"))?;
    let limit = call.query.number("max-members", 1..=PAGE_MAX, PAGE_DEFAULT)?;
    let from = call.query.number("page", 0..=u64::MAX, 0)?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let page = call.route.shards.list(&call.bucket, &key, version, from, limit).await?;
    let members: Vec<_> = page
        .members
        .iter()
        .map(|member| {
            let (sample, field) = sample_key(&member.name);
            json!({ "name": member.name, "offset": member.offset, "size": member.size_bytes,
                    "sample": sample, "field": field })
        })
        .collect();
    Ok(super::json(&json!({
        "bucket": call.bucket.as_str(),
        "key": key.as_str(),
        "versionId": page.shard.version.map(|version| version.to_string()),
        "etag": page.shard.object.etag,
        "size": page.shard.object.size_bytes,
        "total": page.total,
        "members": members,
        "next": page.next.map(|next| next.to_string()),
    })))
}
