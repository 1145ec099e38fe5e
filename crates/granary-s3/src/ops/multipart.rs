//! Multipart uploads.

use granary_meta::command::CompletedPart;
use granary_store::api::{
    CompleteRequest, CreateUploadRequest, ListPartsPage, ListUploadsPage, ListUploadsRequest, UploadPartRequest,
    UploadedPart,
};
use granary_types::{ChecksumAlgorithm, ChecksumKind};
use http::header::HOST;
use s3s::dto::{
    self, AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput, ListMultipartUploadsInput,
    ListMultipartUploadsOutput, ListPartsInput, ListPartsOutput, UploadPartInput, UploadPartOutput,
};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response};

use crate::body;
use crate::checksums::{self, Fields};
use crate::context::Cx;
use crate::convert::{self, Encoder};
use crate::error::{Fail, invalid_argument, invalid_request};
use crate::front::{FrontDoor, Outcome};
use crate::ops::lifecycle::Lifetimes;
use crate::ops::write::announced_bytes;
use crate::ops::{attributes, lock, owner, sse, write_condition};

fn standard() -> Option<dto::StorageClass> {
    Some(dto::StorageClass::from_static(dto::StorageClass::STANDARD))
}

fn initiator(cx: &Cx, id: &str) -> Option<dto::Initiator> {
    let dto::Owner { display_name, id } = owner(cx, id);
    Some(dto::Initiator { display_name, id })
}

/// The algorithm and kind asked for; S3's default (CRC-64/NVME of the whole object) where nothing is.
fn checksum_asked(
    algorithm: Option<ChecksumAlgorithm>,
    kind: Option<ChecksumKind>,
) -> Result<(ChecksumAlgorithm, ChecksumKind), S3Error> {
    let Some(algorithm) = algorithm else {
        return match kind {
            None => Ok((checksums::DEFAULT_ALGORITHM, checksums::DEFAULT_ALGORITHM.default_kind())),
            Some(_) => Err(invalid_request(
                "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.",
            )),
        };
    };
    let kind = kind.unwrap_or_else(|| algorithm.default_kind());
    if algorithm.allows(kind) {
        Ok((algorithm, kind))
    } else {
        let shown = checksums::kind_name(kind);
        Err(invalid_request(format!(
            "The {} checksum type cannot be used with the {} checksum algorithm.",
            shown.as_str(),
            algorithm.name()
        )))
    }
}

pub(crate) async fn create_multipart_upload(
    front: &FrontDoor,
    cx: &Cx,
    request: S3Request<CreateMultipartUploadInput>,
) -> Outcome<CreateMultipartUploadOutput> {
    let S3Request { input, headers, .. } = request;
    let bucket = front.named(&input.bucket, input.expected_bucket_owner.as_deref())?;
    let record = front.bucket(&bucket, None)?;
    let mut attributes = attributes::of_request(front, cx, &record, &headers, input.metadata)?;
    attributes.sse = sse::of_write(front, &record, &headers)?.sse;
    lock::check_allowed(front, &bucket, &attributes)?;
    let asked = checksums::asked_algorithm(&headers)?;
    let (algorithm, kind) = checksum_asked(asked, checksums::kind(input.checksum_type.as_ref())?)?;
    let upload = front
        .store
        .create_upload(CreateUploadRequest {
            bucket: bucket.clone(),
            key: convert::object_key(input.key.clone())?,
            attributes,
            // What is not asked for is not imposed: parts may then come with any algorithm, as on AWS.
            checksum_algorithm: asked.map(|_| algorithm),
            checksum_kind: asked.map(|_| kind),
        })
        .await?;
    let encryption = sse::Fields::of(&upload.attributes.sse);
    let abort = Lifetimes::of(front, &bucket).and_then(|of| of.abort(upload.key.as_str(), upload.created));
    let (abort_date, abort_rule_id) = abort.unzip();
    Ok(S3Response::new(CreateMultipartUploadOutput {
        abort_date,
        abort_rule_id,
        bucket_key_enabled: encryption.bucket_key_enabled,
        bucket: Some(input.bucket),
        // Told only to who asked: clients send part checksums of the algorithm they are told.
        checksum_algorithm: asked.map(checksums::algorithm_name),
        checksum_type: asked.map(|_| checksums::kind_name(kind)),
        key: Some(input.key),
        server_side_encryption: encryption.method,
        sse_customer_algorithm: encryption.customer_algorithm,
        sse_customer_key_md5: encryption.customer_key_md5,
        ssekms_encryption_context: encryption.context,
        ssekms_key_id: encryption.kms_key_id,
        upload_id: Some(upload.id.to_string()),
        ..CreateMultipartUploadOutput::default()
    }))
}

pub(crate) async fn upload_part(
    front: &FrontDoor,
    cx: &Cx,
    request: S3Request<UploadPartInput>,
) -> Outcome<UploadPartOutput> {
    let S3Request { input, headers, trailing_headers, .. } = request;
    let UploadedPart { part, sse, .. } = front
        .store
        .upload_part(UploadPartRequest {
            bucket: front.named(&input.bucket, input.expected_bucket_owner.as_deref())?,
            key: convert::object_key(input.key)?,
            upload: convert::upload_id(&input.upload_id)?,
            number: convert::part_number(input.part_number)?,
            size_bytes: announced_bytes(input.body.as_ref(), &headers)?,
            // Without a claim the store makes the checksum that the upload was begun with.
            claims: checksums::claims(&headers, trailing_headers, None)?,
            customer_key: sse::customer_key(front, &headers, &sse::OWN)?,
            body: body::incoming(input.body, cx.trace.clone()),
        })
        .await?;
    let sums = Fields::of(part.checksum.as_ref());
    let encryption = sse::Fields::of(&sse);
    Ok(S3Response::new(UploadPartOutput {
        bucket_key_enabled: encryption.bucket_key_enabled,
        checksum_crc32: sums.crc32,
        checksum_crc32c: sums.crc32c,
        checksum_crc64nvme: sums.crc64nvme,
        checksum_sha1: sums.sha1,
        checksum_sha256: sums.sha256,
        e_tag: Some(convert::etag(&part.etag)),
        server_side_encryption: encryption.method,
        sse_customer_algorithm: encryption.customer_algorithm,
        sse_customer_key_md5: encryption.customer_key_md5,
        ssekms_key_id: encryption.kms_key_id,
        ..UploadPartOutput::default()
    }))
}

fn malformed(message: &'static str) -> S3Error {
    S3Error::with_message(S3ErrorCode::MalformedXML, message)
}

fn completed_parts(list: Option<dto::CompletedMultipartUpload>) -> Result<Vec<CompletedPart>, Fail> {
    let parts = list.and_then(|list| list.parts).unwrap_or_default();
    if parts.is_empty() {
        return Err(malformed("You must specify at least one part").into());
    }
    if parts.len() > granary_types::limits::PARTS_COUNT_MAX as usize {
        return Err(malformed("An upload has at most 10000 parts").into());
    }
    parts
        .into_iter()
        .map(|part| {
            let checksum = checksums::of_completed_part(&part)?;
            let number = part.part_number.ok_or_else(|| malformed("A part lacks its PartNumber"))?;
            let etag = part.e_tag.ok_or_else(|| malformed("A part lacks its ETag"))?;
            Ok(CompletedPart { number: convert::part_number(number)?, etag: etag.into_value(), checksum })
        })
        .collect()
}

pub(crate) async fn complete_multipart_upload(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<CompleteMultipartUploadInput>,
) -> Outcome<CompleteMultipartUploadOutput> {
    let S3Request { input, headers, .. } = request;
    let kind = checksums::kind(input.checksum_type.as_ref())?;
    let mut checksum = checksums::from_headers(&headers, kind.or_else(|| composite_by_form(&headers)))?;
    let parts = completed_parts(input.multipart_upload)?;
    if let Some(checksum) = &mut checksum
        && checksum.kind == ChecksumKind::Composite
        && checksum.parts == 0
    {
        checksum.parts = u32::try_from(parts.len()).unwrap_or(u32::MAX);
    }
    let size_bytes = input
        .mpu_object_size
        .map(|size| u64::try_from(size).map_err(|_| invalid_argument("x-amz-mp-object-size must not be negative")))
        .transpose()?;
    let bucket = front.named(&input.bucket, input.expected_bucket_owner.as_deref())?;
    let key = convert::object_key(input.key.clone())?;
    let put = front
        .store
        .complete_upload(CompleteRequest {
            bucket: bucket.clone(),
            key: key.clone(),
            upload: convert::upload_id(&input.upload_id)?,
            parts,
            checksum,
            size_bytes,
            condition: write_condition(&headers)?,
            customer_key: sse::customer_key(front, &headers, &sse::OWN)?,
        })
        .await?;
    let expiration = Lifetimes::of_written(front, &bucket, &key).await;
    let sums = Fields::of(put.checksum.as_ref());
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let path = convert::percent_encode(&format!("{}/{}", input.bucket, input.key));
    let encryption = sse::Fields::of(&put.sse);
    let customer = encryption.customer_headers();
    let output = CompleteMultipartUploadOutput {
        bucket_key_enabled: encryption.bucket_key_enabled,
        bucket: Some(input.bucket),
        checksum_crc32: sums.crc32,
        checksum_crc32c: sums.crc32c,
        checksum_crc64nvme: sums.crc64nvme,
        checksum_sha1: sums.sha1,
        checksum_sha256: sums.sha256,
        checksum_type: sums.kind,
        e_tag: Some(convert::etag(&put.etag)),
        expiration,
        key: Some(input.key),
        location: Some(format!("http://{host}/{path}")),
        server_side_encryption: encryption.method,
        ssekms_key_id: encryption.kms_key_id,
        version_id: put.version.map(|version| version.to_string()),
        ..CompleteMultipartUploadOutput::default()
    };
    Ok(S3Response::with_headers(output, customer))
}

/// A value with `-N` says itself that it is composite.
fn composite_by_form(headers: &http::HeaderMap) -> Option<ChecksumKind> {
    headers
        .iter()
        .any(|(name, value)| {
            let name = name.as_str();
            name.starts_with("x-amz-checksum-")
                && !matches!(name, "x-amz-checksum-type" | "x-amz-checksum-algorithm")
                && value.as_bytes().contains(&b'-')
        })
        .then_some(ChecksumKind::Composite)
}

pub(crate) async fn abort_multipart_upload(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<AbortMultipartUploadInput>,
) -> Outcome<AbortMultipartUploadOutput> {
    let input = request.input;
    if input.if_match_initiated_time.is_some() {
        return Err(crate::error::not_implemented("x-amz-if-match-initiated-time is not implemented").into());
    }
    let bucket = front.named(&input.bucket, input.expected_bucket_owner.as_deref())?;
    let key = convert::object_key(input.key)?;
    front.store.abort_upload(&bucket, &key, convert::upload_id(&input.upload_id)?).await?;
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}

pub(crate) async fn list_parts(
    front: &FrontDoor,
    cx: &Cx,
    request: S3Request<ListPartsInput>,
) -> Outcome<ListPartsOutput> {
    let input = request.input;
    let bucket = front.named(&input.bucket, input.expected_bucket_owner.as_deref())?;
    let key = convert::object_key(input.key.clone())?;
    let upload = convert::upload_id(&input.upload_id)?;
    let limit = convert::page_size("max-parts", input.max_parts)?;
    let marker = match input.part_number_marker {
        None => 0,
        Some(marker) if marker < 0 => {
            return Err(
                invalid_argument("Argument part-number-marker must be an integer between 0 and 2147483647").into()
            );
        }
        Some(marker) => u16::try_from(marker).unwrap_or(u16::MAX),
    };
    // Asked for one at least: the upload itself is told in any case.
    let ListPartsPage { upload, mut parts, mut next } =
        front.store.list_parts(&bucket, &key, upload, marker, limit.max(1)).await?;
    if limit == 0 {
        parts.clear();
        next = None;
    }
    let last = parts.last().map(|(number, _)| *number);
    let shown: Vec<_> = parts
        .into_iter()
        .map(|(number, part)| {
            let sums = Fields::of(part.checksum.as_ref());
            dto::Part {
                checksum_crc32: sums.crc32,
                checksum_crc32c: sums.crc32c,
                checksum_crc64nvme: sums.crc64nvme,
                checksum_sha1: sums.sha1,
                checksum_sha256: sums.sha256,
                e_tag: Some(dto::ETag::Strong(part.etag)),
                last_modified: Some(convert::timestamp(part.created)),
                part_number: Some(i32::from(number)),
                size: Some(convert::size(part.payload_bytes)),
            }
        })
        .collect();
    let class = upload.attributes.headers.storage_class.clone();
    let abort = Lifetimes::of(front, &bucket).and_then(|of| of.abort(upload.key.as_str(), upload.created));
    let (abort_date, abort_rule_id) = abort.unzip();
    Ok(S3Response::new(ListPartsOutput {
        abort_date,
        abort_rule_id,
        bucket: Some(input.bucket),
        checksum_algorithm: upload.checksum_algorithm.map(checksums::algorithm_name),
        checksum_type: upload.checksum_kind.map(checksums::kind_name),
        initiator: initiator(cx, &upload.attributes.owner),
        is_truncated: Some(next.is_some()),
        key: Some(input.key),
        max_parts: i32::try_from(limit).ok(),
        next_part_number_marker: next.or(last).map(i32::from),
        owner: Some(owner(cx, &upload.attributes.owner)),
        part_number_marker: Some(input.part_number_marker.unwrap_or(0)),
        parts: (!shown.is_empty()).then_some(shown),
        storage_class: class.map(dto::StorageClass::from).or_else(standard),
        upload_id: Some(input.upload_id),
        ..ListPartsOutput::default()
    }))
}

pub(crate) async fn list_multipart_uploads(
    front: &FrontDoor,
    cx: &Cx,
    request: S3Request<ListMultipartUploadsInput>,
) -> Outcome<ListMultipartUploadsOutput> {
    let input = request.input;
    let encoder = Encoder::new(input.encoding_type.as_ref())?;
    let bucket = convert::bucket_name(&input.bucket)?;
    front.bucket(&bucket, input.expected_bucket_owner.as_deref())?;
    let some = |text: Option<String>| text.filter(|text| !text.is_empty());
    let (key_marker, upload_marker) = (some(input.key_marker), some(input.upload_id_marker));
    let delimiter = some(input.delimiter);
    let asked = ListUploadsRequest {
        prefix: input.prefix.unwrap_or_default(),
        delimiter: delimiter.clone(),
        // S3 ignores the upload's marker without the key's.
        upload_marker: match (&key_marker, &upload_marker) {
            (Some(_), Some(text)) => Some(text.parse().map_err(|_| invalid_argument("Invalid uploadId marker"))?),
            _ => None,
        },
        key_marker: key_marker.clone(),
        max_uploads: convert::page_size("max-uploads", input.max_uploads)?,
    };
    let page = match asked.max_uploads {
        0 => ListUploadsPage::default(),
        _ => front.store.list_uploads(&bucket, &asked).await?,
    };
    let uploads: Vec<_> = page
        .uploads
        .into_iter()
        .map(|upload| dto::MultipartUpload {
            checksum_algorithm: upload.checksum_algorithm.map(checksums::algorithm_name),
            checksum_type: upload.checksum_kind.map(checksums::kind_name),
            initiated: Some(convert::timestamp(upload.created)),
            initiator: initiator(cx, &upload.attributes.owner),
            key: Some(encoder.text(upload.key.into_string())),
            owner: Some(owner(cx, &upload.attributes.owner)),
            storage_class: upload.attributes.headers.storage_class.map(dto::StorageClass::from).or_else(standard),
            upload_id: Some(upload.id.to_string()),
        })
        .collect();
    let (next_key, next_upload) = page.next.unzip();
    Ok(S3Response::new(ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        common_prefixes: encoder.prefixes(page.common_prefixes),
        delimiter: delimiter.map(|delimiter| encoder.text(delimiter)),
        encoding_type: input.encoding_type,
        is_truncated: Some(next_key.is_some()),
        key_marker: Some(encoder.text(key_marker.unwrap_or_default())),
        max_uploads: i32::try_from(asked.max_uploads).ok(),
        next_key_marker: next_key.map(|key| encoder.text(key)),
        next_upload_id_marker: next_upload.map(|upload| upload.to_string()),
        prefix: Some(encoder.text(asked.prefix)),
        request_charged: None,
        upload_id_marker: Some(upload_marker.unwrap_or_default()),
        uploads: (!uploads.is_empty()).then_some(uploads),
    }))
}
