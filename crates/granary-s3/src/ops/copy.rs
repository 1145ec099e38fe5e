//! CopyObject and UploadPartCopy.

use granary_meta::records::BucketRecord;
use granary_store::StoreError;
use granary_store::api::{CopyRequest, CopySource, ReadCondition, UploadedPart};
use http::{HeaderMap, HeaderName, Uri};
use s3s::dto::{
    self, CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopyPartResult, UploadPartCopyInput,
    UploadPartCopyOutput,
};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response};

use crate::access::gate::{Target, denied};
use crate::checksums::{self, Fields};
use crate::context::Cx;
use crate::convert;
use crate::error::{Fail, invalid_argument, not_implemented};
use crate::front::{FrontDoor, Outcome};
use crate::ops::lifecycle::Lifetimes;
use crate::ops::{attributes, lock, sse, write_condition};

const SOURCE_IF_MATCH: HeaderName = HeaderName::from_static("x-amz-copy-source-if-match");
const SOURCE_IF_NONE_MATCH: HeaderName = HeaderName::from_static("x-amz-copy-source-if-none-match");

fn source(
    front: &FrontDoor,
    source: &dto::CopySource,
    owner: Option<&str>,
    headers: &HeaderMap,
    since: (Option<dto::Timestamp>, Option<dto::Timestamp>),
) -> Result<CopySource, Fail> {
    let dto::CopySource::Bucket { bucket, key, version_id } = source else {
        return Err(not_implemented("Copying from access points and outposts is not implemented").into());
    };
    Ok(CopySource {
        bucket: front.named(bucket, owner)?,
        key: convert::object_key(key.to_string())?,
        version: convert::version_id(version_id.as_deref())?,
        condition: ReadCondition {
            if_match: convert::etag_match(headers, &SOURCE_IF_MATCH)?,
            if_none_match: convert::etag_match(headers, &SOURCE_IF_NONE_MATCH)?,
            if_modified_since: since.0.map(convert::from_timestamp),
            if_unmodified_since: since.1.map(convert::from_timestamp),
        },
        range: None,
        unlock: sse::of_source(front, headers)?,
    })
}

/// `x-amz-copy-source-range`: `bytes=first-last`, both ends given.
fn source_range(text: &str) -> Result<(u64, u64), S3Error> {
    let bad = || {
        invalid_argument(
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the \
             zero-based offsets of the first and last bytes to copy",
        )
    };
    let (first, last) = text.strip_prefix("bytes=").and_then(|range| range.split_once('-')).ok_or_else(bad)?;
    let number = |text: &str| {
        (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse::<u64>().ok()).flatten()
    };
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err(bad()),
    }
}

/// What a directive says: take the request's (`true`) or the source's.
fn replaces(directive: Option<&str>, header: &str) -> Result<bool, S3Error> {
    match directive {
        None | Some("COPY") => Ok(false),
        Some("REPLACE") => Ok(true),
        Some(_) => Err(invalid_argument(format!("Unknown {header} directive."))),
    }
}

/// A copy that leaves its source's pin: its command carries an event of that, beside the request's own.
async fn keyed_copy<T>(cx: &Cx, key: &str, copy: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    granary_store::audit::keyed(LOOSENED, key, "", copy, |error| cx.store_error(error).code.as_str().to_owned()).await
}

/// A copy's source may have changed its answer: S3 answers 412 where a read would be answered 304.
fn source_fail(fail: granary_store::StoreError) -> Fail {
    match fail {
        granary_store::StoreError::NotModified { .. } => {
            granary_store::StoreError::Precondition("x-amz-copy-source-If-None-Match").into()
        }
        granary_store::StoreError::IsDeleteMarker { .. } => {
            let why = "The source of a copy request may not specifically refer to a delete marker by version id.";
            crate::error::invalid_request(why).into()
        }
        other => other.into(),
    }
}

/// What a policy calls the right to copy from a bucket's pin into a bucket with a laxer one, on the source; and the event.
const LOOSEN: &str = "granary:CopyToLaxerBucket";
const LOOSENED: &str = "CopyToLaxerBucket";

/// Whether bytes that were kept to `from` may lie elsewhere too, once they are kept to `to`. No regions: anywhere.
fn is_laxer(from: &[String], to: &[String]) -> bool {
    !from.is_empty() && (to.is_empty() || !to.iter().all(|region| from.contains(region)))
}

/// Whether a copy leaves the pin of its source's bucket. Then the caller must have a right to that, which being allowed to read
/// the source and to write the copy is not.
async fn leaves_pin(
    front: &FrontDoor,
    cx: &Cx,
    request: (&HeaderMap, &Uri),
    source: &CopySource,
    to: &BucketRecord,
) -> Result<bool, Fail> {
    let from = front.bucket(&source.bucket, None)?;
    if !is_laxer(&from.options.regions, &to.options.regions) {
        return Ok(false);
    }
    let version = source.version.map(|version| version.to_string());
    let target = Target { bucket: from.name.as_str(), key: Some(source.key.as_str()), version: version.as_deref() };
    let decision = front.ask(cx, request, LOOSEN, &from, &target).await?;
    let allowed = decision.allowed;
    cx.trace.set_last_decision(decision.clone());
    match allowed {
        true => Ok(true),
        false => Err(denied(&cx.caller, LOOSEN, &target.arn(), &decision.by).into()),
    }
}

pub(crate) async fn copy_object(
    front: &FrontDoor,
    cx: &Cx,
    request: S3Request<CopyObjectInput>,
) -> Outcome<CopyObjectOutput> {
    let S3Request { input, headers, uri, .. } = request;
    let bucket = front.named(&input.bucket, input.expected_bucket_owner.as_deref())?;
    let since = (input.copy_source_if_modified_since, input.copy_source_if_unmodified_since);
    let source = source(front, &input.copy_source, input.expected_source_bucket_owner.as_deref(), &headers, since)?;
    let record = front.bucket(&bucket, None)?;
    let leaves = leaves_pin(front, cx, (&headers, &uri), &source, &record).await?;
    let asked = attributes::of_request(front, cx, &record, &headers, input.metadata)?;
    lock::check_allowed(front, &bucket, &asked)?;
    let mut lock = attributes::lock_of_request(&headers)?;
    (lock.owner, lock.acl) = (asked.owner.clone(), asked.acl.clone());
    lock.headers.storage_class.clone_from(&asked.headers.storage_class);
    lock.headers.website_redirect.clone_from(&asked.headers.website_redirect);
    let (to_bucket, to_key) = (bucket.clone(), convert::object_key(input.key.clone())?);
    let directive = input.metadata_directive.as_ref().map(dto::MetadataDirective::as_str);
    let tagging_directive = input.tagging_directive.as_ref().map(dto::TaggingDirective::as_str);
    let replace_tags = replaces(tagging_directive, "tagging")?.then(|| asked.tags.clone());
    let encryption = sse::of_write(front, &record, &headers)?;
    let copy = front.store.copy(CopyRequest {
        source,
        bucket,
        key: convert::object_key(input.key)?,
        storage_class: asked.headers.storage_class.clone(),
        class_asked: headers.contains_key("x-amz-storage-class"),
        replace_attributes: replaces(directive, "metadata")?.then_some(asked),
        replace_tags,
        algorithm: checksums::asked_algorithm(&headers)?,
        lock,
        sse: encryption.sse,
        sse_asked: encryption.is_named,
        customer_key: encryption.key,
        condition: write_condition(&headers)?,
    });
    let copied = if leaves { keyed_copy(cx, to_key.as_str(), copy).await } else { copy.await }.map_err(source_fail)?;
    let expiration = Lifetimes::of_written(front, &to_bucket, &to_key).await;
    let sums = Fields::of(copied.put.checksum.as_ref());
    let encryption = sse::Fields::of(&copied.put.sse);
    Ok(S3Response::new(CopyObjectOutput {
        bucket_key_enabled: encryption.bucket_key_enabled,
        copy_object_result: Some(CopyObjectResult {
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            checksum_type: sums.kind,
            e_tag: Some(convert::etag(&copied.put.etag)),
            last_modified: Some(convert::timestamp(copied.put.created)),
        }),
        copy_source_version_id: copied.source_version.map(|version| version.to_string()),
        expiration,
        server_side_encryption: encryption.method,
        sse_customer_algorithm: encryption.customer_algorithm,
        sse_customer_key_md5: encryption.customer_key_md5,
        ssekms_encryption_context: encryption.context,
        ssekms_key_id: encryption.kms_key_id,
        version_id: copied.put.version.map(|version| version.to_string()),
        ..CopyObjectOutput::default()
    }))
}

pub(crate) async fn upload_part_copy(
    front: &FrontDoor,
    cx: &Cx,
    request: S3Request<UploadPartCopyInput>,
) -> Outcome<UploadPartCopyOutput> {
    let S3Request { input, headers, uri, .. } = request;
    let customer_key = sse::customer_key(front, &headers, &sse::OWN)?;
    let bucket = front.named(&input.bucket, input.expected_bucket_owner.as_deref())?;
    let since = (input.copy_source_if_modified_since, input.copy_source_if_unmodified_since);
    let mut source = source(front, &input.copy_source, input.expected_source_bucket_owner.as_deref(), &headers, since)?;
    source.range = input.copy_source_range.as_deref().map(source_range).transpose()?;
    let key = convert::object_key(input.key)?;
    let upload = convert::upload_id(&input.upload_id)?;
    let number = convert::part_number(input.part_number)?;
    let record = front.bucket(&bucket, None)?;
    let leaves = leaves_pin(front, cx, (&headers, &uri), &source, &record).await?;
    let copy = front.store.upload_part_copy(source, &bucket, &key, upload, number, customer_key);
    let copied = if leaves { keyed_copy(cx, key.as_str(), copy).await } else { copy.await };
    let UploadedPart { part, sse, source_version } = copied.map_err(|error| match error {
        // Of a copy, S3 calls a range outside the source an invalid argument.
        granary_store::StoreError::InvalidRange { size_bytes } => S3Error::with_message(
            S3ErrorCode::InvalidArgument,
            format!("Range specified is not valid for source object of size: {size_bytes}"),
        )
        .into(),
        other => source_fail(other),
    })?;
    let sums = Fields::of(part.checksum.as_ref());
    let encryption = sse::Fields::of(&sse);
    Ok(S3Response::new(UploadPartCopyOutput {
        bucket_key_enabled: encryption.bucket_key_enabled,
        copy_part_result: Some(CopyPartResult {
            checksum_crc32: sums.crc32,
            checksum_crc32c: sums.crc32c,
            checksum_crc64nvme: sums.crc64nvme,
            checksum_sha1: sums.sha1,
            checksum_sha256: sums.sha256,
            e_tag: Some(convert::etag(&part.etag)),
            last_modified: Some(convert::timestamp(part.created)),
        }),
        copy_source_version_id: source_version.map(|version| version.to_string()),
        server_side_encryption: encryption.method,
        sse_customer_algorithm: encryption.customer_algorithm,
        sse_customer_key_md5: encryption.customer_key_md5,
        ssekms_key_id: encryption.kms_key_id,
        ..UploadPartCopyOutput::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_left_where_bytes_may_lie_elsewhere() {
        let regions = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for (from, to, laxer) in [
            (&[][..], &[][..], false),
            (&[], &["eu"], false),
            (&["eu"], &["eu"], false),
            (&["eu", "de"], &["de"], false),
            (&["eu"], &[], true),
            (&["eu"], &["eu", "us"], true),
            (&["eu"], &["us"], true),
        ] {
            assert_eq!(is_laxer(&regions(from), &regions(to)), laxer, "{from:?} to {to:?}");
        }
    }

    #[test]
    fn source_ranges() {
        assert_eq!(source_range("bytes=0-9").unwrap(), (0, 9));
        for bad in ["0-9", "bytes=9-0", "bytes=-5", "bytes=5-", "bytes=a-b", "bytes=+1-2", "bytes=0-9,10-11"] {
            assert!(source_range(bad).is_err(), "{bad}");
        }
    }
}
