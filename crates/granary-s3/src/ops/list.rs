//! ListObjects (v1 and v2) and ListObjectVersions.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use granary_meta::records::VersionRecord;
use granary_store::api::{ListPage, ListRequest, ListVersionsPage, ListVersionsRequest};
use granary_types::frame::crc32c;
use s3s::dto::{
    self, ListObjectVersionsInput, ListObjectVersionsOutput, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input,
    ListObjectsV2Output,
};
use s3s::{S3Error, S3Request, S3Response};

use crate::context::Cx;
use crate::convert::{self, Encoder};
use crate::error::invalid_argument;
use crate::front::{FrontDoor, Outcome};
use crate::ops::owner;
use crate::ops::read::listed_checksum;

/// First byte of a continuation token.
const TOKEN_VERSION: u8 = 1;

/// A continuation token: a version byte, the CRC-32C of the rest, and where to go on after. Opaque to
/// clients; the checksum tells one that was cut or made up from one of ours.
fn token(after: &str) -> String {
    let mut raw = vec![TOKEN_VERSION];
    raw.extend_from_slice(&crc32c(after.as_bytes()).to_le_bytes());
    raw.extend_from_slice(after.as_bytes());
    BASE64.encode(raw)
}

fn from_token(token: &str) -> Result<String, S3Error> {
    let bad = || invalid_argument("The continuation token provided is incorrect");
    let raw = BASE64.decode(token).map_err(|_| bad())?;
    let Some((head, after)) = raw.split_first_chunk::<5>() else { return Err(bad()) };
    if head[0] != TOKEN_VERSION || head[1..] != crc32c(after).to_le_bytes() {
        return Err(bad());
    }
    String::from_utf8(after.to_vec()).map_err(|_| bad())
}

fn some(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

fn objects(
    cx: &Cx,
    page: Vec<(String, VersionRecord)>,
    encoder: &Encoder,
    with_owner: bool,
) -> Option<Vec<dto::Object>> {
    let objects: Vec<_> = page
        .into_iter()
        .filter_map(|(key, record)| {
            let object = record.object()?;
            let (checksum_algorithm, checksum_type) = listed_checksum(Some(object));
            let class = object.attributes.headers.storage_class.as_deref().unwrap_or("STANDARD");
            Some(dto::Object {
                checksum_algorithm,
                checksum_type,
                e_tag: Some(convert::etag(&object.etag)),
                key: Some(encoder.text(key)),
                last_modified: Some(convert::timestamp(record.created)),
                owner: with_owner.then(|| owner(cx, &object.attributes.owner)),
                restore_status: None,
                size: Some(convert::size(object.size_bytes)),
                storage_class: Some(dto::ObjectStorageClass::from(class.to_owned())),
            })
        })
        .collect();
    (!objects.is_empty()).then_some(objects)
}

async fn page(
    front: &FrontDoor,
    bucket: &str,
    expected_owner: Option<&str>,
    request: &ListRequest,
) -> Result<ListPage, crate::error::Fail> {
    let bucket = convert::bucket_name(bucket)?;
    front.bucket(&bucket, expected_owner)?;
    // S3 answers a page of nothing as one that is complete.
    Ok(if request.max_keys == 0 { ListPage::default() } else { front.store.list(&bucket, request).await? })
}

pub(crate) async fn list_objects(
    front: &FrontDoor,
    cx: &Cx,
    request: S3Request<ListObjectsInput>,
) -> Outcome<ListObjectsOutput> {
    let input = request.input;
    let encoder = Encoder::new(input.encoding_type.as_ref())?;
    let delimiter = some(input.delimiter);
    let marker = input.marker.unwrap_or_default();
    let asked = ListRequest {
        prefix: input.prefix.unwrap_or_default(),
        delimiter: delimiter.clone(),
        after: some(Some(marker.clone())),
        max_keys: convert::page_size("max-keys", input.max_keys)?,
    };
    let page = page(front, &input.bucket, input.expected_bucket_owner.as_deref(), &asked).await?;
    Ok(S3Response::new(ListObjectsOutput {
        name: Some(input.bucket),
        // Never encoded in version 1, whose clients do not decode it.
        prefix: Some(asked.prefix),
        marker: Some(encoder.text(marker)),
        max_keys: i32::try_from(asked.max_keys).ok(),
        is_truncated: Some(page.next_after.is_some()),
        contents: objects(cx, page.objects, &encoder, true),
        common_prefixes: encoder.prefixes(page.common_prefixes),
        // S3 sends it only with a delimiter; without one, clients go on from the last key.
        next_marker: page.next_after.filter(|_| delimiter.is_some()).map(|next| encoder.text(next)),
        delimiter: delimiter.map(|delimiter| encoder.text(delimiter)),
        encoding_type: input.encoding_type,
        request_charged: None,
    }))
}

pub(crate) async fn list_objects_v2(
    front: &FrontDoor,
    cx: &Cx,
    request: S3Request<ListObjectsV2Input>,
) -> Outcome<ListObjectsV2Output> {
    let input = request.input;
    let encoder = Encoder::new(input.encoding_type.as_ref())?;
    let delimiter = some(input.delimiter);
    let after = match input.continuation_token.as_deref() {
        Some(token) if !token.is_empty() => Some(from_token(token)?),
        // An empty token is where a listing begins: clients send what they were not given.
        _ => some(input.start_after.clone()),
    };
    let asked = ListRequest {
        prefix: input.prefix.unwrap_or_default(),
        delimiter: delimiter.clone(),
        after,
        max_keys: convert::page_size("max-keys", input.max_keys)?,
    };
    let page = page(front, &input.bucket, input.expected_bucket_owner.as_deref(), &asked).await?;
    Ok(S3Response::new(ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: Some(encoder.text(asked.prefix)),
        max_keys: i32::try_from(asked.max_keys).ok(),
        key_count: Some(convert::count(page.objects.len() + page.common_prefixes.len())),
        continuation_token: input.continuation_token,
        is_truncated: Some(page.next_after.is_some()),
        next_continuation_token: page.next_after.as_deref().map(token),
        contents: objects(cx, page.objects, &encoder, input.fetch_owner.unwrap_or(false)),
        common_prefixes: encoder.prefixes(page.common_prefixes),
        delimiter: delimiter.map(|delimiter| encoder.text(delimiter)),
        encoding_type: input.encoding_type,
        start_after: some(input.start_after).map(|start| encoder.text(start)),
        request_charged: None,
    }))
}

pub(crate) async fn list_object_versions(
    front: &FrontDoor,
    cx: &Cx,
    request: S3Request<ListObjectVersionsInput>,
) -> Outcome<ListObjectVersionsOutput> {
    let input = request.input;
    let encoder = Encoder::new(input.encoding_type.as_ref())?;
    let delimiter = some(input.delimiter);
    let key_marker = some(input.key_marker);
    let version_marker_text = some(input.version_id_marker);
    if version_marker_text.is_some() && key_marker.is_none() {
        return Err(invalid_argument("A version-id marker cannot be specified without a key marker.").into());
    }
    let asked = ListVersionsRequest {
        prefix: input.prefix.unwrap_or_default(),
        delimiter: delimiter.clone(),
        key_marker: key_marker.clone(),
        version_marker: convert::version_id(version_marker_text.as_deref())?,
        max_keys: convert::page_size("max-keys", input.max_keys)?,
    };
    let name = convert::bucket_name(&input.bucket)?;
    let bucket = front.bucket(&name, input.expected_bucket_owner.as_deref())?;
    let page = match asked.max_keys {
        0 => ListVersionsPage::default(),
        _ => front.store.list_versions(&name, &asked).await?,
    };
    let (mut versions, mut delete_markers) = (Vec::new(), Vec::new());
    cx.trace.set_markers(page.versions.iter().map(|(_, record, _)| record.is_delete_marker()).collect());
    for (key, record, is_latest) in page.versions {
        let key = Some(encoder.text(key));
        let (last_modified, version_id) = (Some(convert::timestamp(record.created)), Some(record.version.to_string()));
        match record.object() {
            Some(object) => {
                let (checksum_algorithm, checksum_type) = listed_checksum(Some(object));
                let class = object.attributes.headers.storage_class.as_deref().unwrap_or("STANDARD");
                versions.push(dto::ObjectVersion {
                    checksum_algorithm,
                    checksum_type,
                    e_tag: Some(convert::etag(&object.etag)),
                    is_latest: Some(is_latest),
                    key,
                    last_modified,
                    owner: Some(owner(cx, &object.attributes.owner)),
                    restore_status: None,
                    size: Some(convert::size(object.size_bytes)),
                    storage_class: Some(dto::ObjectVersionStorageClass::from(class.to_owned())),
                    version_id,
                });
            }
            None => delete_markers.push(dto::DeleteMarkerEntry {
                is_latest: Some(is_latest),
                key,
                last_modified,
                owner: Some(owner(cx, &bucket.owner)),
                version_id,
            }),
        }
    }
    let (next_key, next_version) = page.next.unzip();
    Ok(S3Response::new(ListObjectVersionsOutput {
        common_prefixes: encoder.prefixes(page.common_prefixes),
        delete_markers: (!delete_markers.is_empty()).then_some(delete_markers),
        delimiter: delimiter.map(|delimiter| encoder.text(delimiter)),
        encoding_type: input.encoding_type,
        is_truncated: Some(next_key.is_some()),
        key_marker: Some(encoder.text(key_marker.unwrap_or_default())),
        max_keys: i32::try_from(asked.max_keys).ok(),
        name: Some(input.bucket),
        next_key_marker: next_key.map(|key| encoder.text(key)),
        next_version_id_marker: next_version.flatten().map(|version| version.to_string()),
        prefix: Some(encoder.text(asked.prefix)),
        request_charged: None,
        version_id_marker: Some(version_marker_text.unwrap_or_default()),
        versions: (!versions.is_empty()).then_some(versions),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_and_forgeries_fail() {
        for after in ["a", "photos/2026/ü \u{1}", &"k".repeat(1024)] {
            assert_eq!(from_token(&token(after)).unwrap(), after);
        }
        let good = token("photos/1");
        let mut cut = good.clone();
        cut.pop();
        let other = BASE64.encode(b"photos/1");
        for bad in ["", "x", "photos/1", &cut, &other, &format!("{good}AAAA")] {
            assert!(from_token(bad).is_err(), "{bad}");
        }
    }
}
