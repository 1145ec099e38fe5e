//! DeleteObject and DeleteObjects.

use std::sync::Arc;

use futures::stream::{self, StreamExt};
use granary_meta::command::{Condition, EtagMatch};
use granary_meta::records::BucketRecord;
use granary_store::api::{DeleteRequest, DeleteResponse};
use granary_types::limits::DELETE_KEYS_MAX;
use granary_types::{BucketName, VersionId};
use http::{HeaderMap, Uri};
use s3s::dto::{self, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response};

use crate::access::gate::{Target, denied};
use crate::context::Cx;
use crate::convert;
use crate::error::{Fail, invalid_argument};
use crate::front::{FrontDoor, Outcome};
use crate::ops::write_condition;

/// Keys of one multi-delete that are under way at once: their commits share log writes.
const DELETES_AT_ONCE: usize = 64;

fn size(text: i64) -> Result<u64, S3Error> {
    u64::try_from(text).map_err(|_| invalid_argument("a size must not be negative"))
}

pub(crate) async fn delete_object(
    front: &FrontDoor,
    cx: &Cx,
    request: S3Request<DeleteObjectInput>,
) -> Outcome<DeleteObjectOutput> {
    let S3Request { input, headers, uri, .. } = request;
    let bucket = front.named(&input.bucket, input.expected_bucket_owner.as_deref())?;
    let bypass = input.bypass_governance_retention.unwrap_or(false)
        && may_bypass(front, cx, (&headers, &uri), &bucket, &input.key, input.version_id.as_deref()).await?;
    let mut condition = write_condition(&headers)?;
    condition.if_match_size = input.if_match_size.map(size).transpose()?;
    condition.if_match_last_modified = input.if_match_last_modified_time.map(convert::from_timestamp);
    let deleted = front
        .store
        .delete(DeleteRequest {
            bucket,
            key: convert::object_key(input.key)?,
            version: convert::version_id(input.version_id.as_deref())?,
            condition,
            bypass,
        })
        .await?;
    Ok(S3Response::new(DeleteObjectOutput {
        delete_marker: deleted.delete_marker.then_some(true),
        version_id: deleted.version.map(|version| version.to_string()),
        ..DeleteObjectOutput::default()
    }))
}

pub(crate) async fn delete_objects(
    front: &FrontDoor,
    cx: &Cx,
    request: S3Request<DeleteObjectsInput>,
) -> Outcome<DeleteObjectsOutput> {
    let S3Request { input, headers, uri, .. } = request;
    let objects = input.delete.objects;
    if objects.is_empty() || objects.len() > DELETE_KEYS_MAX {
        return Err(S3Error::with_message(
            S3ErrorCode::MalformedXML,
            format!("A multi-object delete names 1 to {DELETE_KEYS_MAX} objects; this one names {}", objects.len()),
        )
        .into());
    }
    let bucket = convert::bucket_name(&input.bucket)?;
    // A missing bucket is the request's error, not each key's.
    let record = front.bucket(&bucket, input.expected_bucket_owner.as_deref())?;
    cx.trace.set_bucket(&record);
    let asks_bypass = input.bypass_governance_retention.unwrap_or(false);
    let (bucket, record, request) = (&bucket, &record, (&headers, &uri));
    let results: Vec<_> = stream::iter(objects)
        .map(|object| async {
            let shown = (object.key.clone(), object.version_id.clone());
            let (key, version) = (shown.0.clone(), shown.1.clone().unwrap_or_default());
            let work = async {
                let target = Target {
                    bucket: bucket.as_str(),
                    key: Some(&shown.0),
                    version: shown.1.as_deref().filter(|v| !v.is_empty()),
                };
                let bypass = check_one(front, cx, request, record, &target, asks_bypass).await?;
                delete_one(front, bucket, object, bypass).await
            };
            let code = |fail: &Fail| fail_code(cx, fail);
            let done = granary_store::audit::keyed("DeleteObject", &key, &version, work, code).await;
            (shown, done)
        })
        .buffered(DELETES_AT_ONCE)
        .collect()
        .await;

    let is_quiet = input.delete.quiet.unwrap_or(false);
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    for ((key, version), result) in results {
        match result {
            Ok(_) if is_quiet => {}
            Ok((asked, done)) => deleted.push(deleted_object(key, asked, &done)),
            Err(fail) => errors.push(key_error(cx, key, version, fail)),
        }
    }
    Ok(S3Response::new(DeleteObjectsOutput {
        deleted: (!deleted.is_empty()).then_some(deleted),
        errors: (!errors.is_empty()).then_some(errors),
        ..DeleteObjectsOutput::default()
    }))
}

/// Whether the caller may pass over governance retention, and asks to.
pub(crate) async fn may_bypass(
    front: &FrontDoor,
    cx: &Cx,
    request: (&HeaderMap, &Uri),
    bucket: &BucketName,
    key: &str,
    version: Option<&str>,
) -> Result<bool, Fail> {
    let record = front.store.bucket(bucket)?;
    let target = Target { bucket: bucket.as_str(), key: Some(key), version };
    Ok(front.ask(cx, request, "s3:BypassGovernanceRetention", &record, &target).await?.allowed)
}

/// Decides on one key of a multi-delete; whether governance may be passed over.
async fn check_one(
    front: &FrontDoor,
    cx: &Cx,
    request: (&HeaderMap, &Uri),
    record: &Arc<BucketRecord>,
    target: &Target<'_>,
    asks_bypass: bool,
) -> Result<bool, Fail> {
    let action = if target.version.is_some() { "s3:DeleteObjectVersion" } else { "s3:DeleteObject" };
    let decision = front.ask(cx, request, action, record, target).await?;
    cx.trace.set_decision(decision.clone());
    if !decision.allowed {
        return Err(denied(&cx.caller, action, &target.arn(), &decision.by).into());
    }
    if !asks_bypass {
        return Ok(false);
    }
    Ok(front.ask(cx, request, "s3:BypassGovernanceRetention", record, target).await?.allowed)
}

async fn delete_one(
    front: &FrontDoor,
    bucket: &BucketName,
    object: dto::ObjectIdentifier,
    bypass: bool,
) -> Result<(Option<VersionId>, DeleteResponse), Fail> {
    let version = convert::version_id(object.version_id.as_deref())?;
    let condition = Condition {
        if_match: object.e_tag.map(|etag| match etag.into_value() {
            any if any == "*" => EtagMatch::Any,
            etag => EtagMatch::OneOf(vec![etag]),
        }),
        if_match_size: object.size.map(size).transpose()?,
        if_match_last_modified: object.last_modified_time.map(convert::from_timestamp),
        ..Condition::default()
    };
    let key = convert::object_key(object.key)?;
    let done = front.store.delete(DeleteRequest { bucket: bucket.clone(), key, version, condition, bypass }).await?;
    Ok((version, done))
}

fn fail_code(cx: &Cx, fail: &Fail) -> String {
    match fail {
        Fail::Store(error) => cx.store_error(error).code.as_str().to_owned(),
        Fail::S3(error) => error.code().as_str().to_owned(),
        Fail::Ai(error) => crate::error::ai_answer(error).code.as_str().to_owned(),
    }
}

fn deleted_object(key: String, asked: Option<VersionId>, done: &DeleteResponse) -> DeletedObject {
    let version = done.version.map(|version| version.to_string());
    DeletedObject {
        delete_marker: done.delete_marker.then_some(true),
        // The marker: the one just added, or the one that was named and is gone.
        delete_marker_version_id: version.filter(|_| done.delete_marker),
        key: Some(key),
        version_id: asked.map(|version| version.to_string()),
    }
}

fn key_error(cx: &Cx, key: String, version_id: Option<String>, fail: Fail) -> dto::Error {
    let (code, message) = match fail {
        Fail::Store(error) => {
            let answer = cx.store_error(&error);
            (answer.code.as_str().to_owned(), answer.message.into_owned())
        }
        other => {
            let error = cx.refuse(other);
            (error.code().as_str().to_owned(), error.message().unwrap_or_default().to_owned())
        }
    };
    dto::Error { code: Some(code), key: Some(key), message: Some(message), version_id }
}
