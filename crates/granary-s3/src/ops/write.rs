//! PutObject.

use granary_store::api::{AppendRequest, PutRequest, PutResponse};
use granary_types::limits::PART_BYTES_MAX;
use http::HeaderMap;
use s3s::dto::{PutObjectInput, PutObjectOutput, StreamingBlob};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response};

use crate::checksums::{self, Fields};
use crate::context::Cx;
use crate::error::Fail;
use crate::front::{FrontDoor, Outcome};
use crate::ops::lifecycle::Lifetimes;
use crate::ops::{append, attributes, lock, sse, write_condition};
use crate::{body, convert};

pub(crate) async fn put_object(
    front: &FrontDoor,
    cx: &Cx,
    request: S3Request<PutObjectInput>,
) -> Outcome<PutObjectOutput> {
    let S3Request { input, headers, trailing_headers, uri, .. } = request;
    if append::is_rename(uri.query()) {
        append::rename(front, &input.bucket, input.expected_bucket_owner.as_deref(), input.key, &headers).await?;
        return Ok(S3Response::new(PutObjectOutput::default()));
    }
    let offset = append::offset(input.write_offset_bytes)?;
    let bucket = front.named(&input.bucket, input.expected_bucket_owner.as_deref())?;
    let record = front.bucket(&bucket, None)?;
    let mut attributes = attributes::of_request(front, cx, &record, &headers, input.metadata)?;
    let encryption = sse::of_write(front, &record, &headers)?;
    attributes.sse = encryption.sse;
    lock::check_allowed(front, &bucket, &attributes)?;
    let size_bytes = announced_bytes(input.body.as_ref(), &headers)?;
    let key = convert::object_key(input.key)?;
    let lifetimes = Lifetimes::of(front, &bucket).map(|lifetimes| (lifetimes, key.clone(), attributes.tags.clone()));
    // What is appended gets the object's algorithm where the client names none.
    let algorithm = if offset.is_none() { Some(checksums::DEFAULT_ALGORITHM) } else { None };
    let put = PutRequest {
        bucket,
        key,
        size_bytes,
        attributes,
        claims: checksums::claims(&headers, trailing_headers, algorithm)?,
        condition: write_condition(&headers)?,
        customer_key: encryption.key,
        body: body::incoming(input.body, cx.trace.clone()),
    };
    let put = match offset {
        None => front.store.put(put).await?,
        Some(offset) => front.store.append(AppendRequest { put, offset }).await?,
    };
    let expiration =
        lifetimes.and_then(|(of, key, tags)| of.expiration(key.as_str(), put.size_bytes, &tags, put.created));
    let size = offset.map(|_| convert::size(put.size_bytes));
    Ok(S3Response::new(PutObjectOutput { expiration, size, ..output(&put) }))
}

fn output(put: &PutResponse) -> PutObjectOutput {
    let sums = Fields::of(put.checksum.as_ref());
    let encryption = sse::Fields::of(&put.sse);
    PutObjectOutput {
        bucket_key_enabled: encryption.bucket_key_enabled,
        checksum_crc32: sums.crc32,
        checksum_crc32c: sums.crc32c,
        checksum_crc64nvme: sums.crc64nvme,
        checksum_sha1: sums.sha1,
        checksum_sha256: sums.sha256,
        checksum_type: sums.kind,
        e_tag: Some(convert::etag(&put.etag)),
        server_side_encryption: encryption.method,
        sse_customer_algorithm: encryption.customer_algorithm,
        sse_customer_key_md5: encryption.customer_key_md5,
        ssekms_encryption_context: encryption.context,
        ssekms_key_id: encryption.kms_key_id,
        version_id: put.version.map(|version| version.to_string()),
        ..PutObjectOutput::default()
    }
}

/// S3 wants to know the length before the bytes: `Content-Length`, or `x-amz-decoded-content-length` of an
/// aws-chunked body (which s3s puts in the stream's length).
pub(crate) fn announced_bytes(blob: Option<&StreamingBlob>, headers: &HeaderMap) -> Result<u64, Fail> {
    let from_header = || {
        let value = headers.get(http::header::CONTENT_LENGTH)?;
        value.to_str().ok()?.parse::<u64>().ok()
    };
    let size_bytes = body::exact_len(blob).or_else(from_header).ok_or_else(|| {
        // SigV2 has no word for a body in aws-chunked form; later botocore sends checksums as headers with it.
        let is_unsaid = headers.contains_key("x-amz-decoded-content-length") && !headers.contains_key("x-amz-content-sha256");
        let message = if is_unsaid {
            "You must provide the Content-Length HTTP header. (An aws-chunked body wants x-amz-content-sha256 to say so, which \
             only Signature Version 4 has: sign with it, or send the checksum as a header.)"
        } else {
            "You must provide the Content-Length HTTP header."
        };
        S3Error::with_message(S3ErrorCode::MissingContentLength, message)
    })?;
    if size_bytes > PART_BYTES_MAX {
        // Before a byte of it is read.
        return Err(granary_store::StoreError::EntityTooLarge { size_bytes, max_bytes: PART_BYTES_MAX }.into());
    }
    Ok(size_bytes)
}
