//! Tags of objects and buckets.

use granary_meta::command::{BucketChange, VersionChange};
use granary_types::limits::OBJECT_TAGS_MAX;
use s3s::dto::{
    DeleteBucketTaggingInput, DeleteBucketTaggingOutput, DeleteObjectTaggingInput, DeleteObjectTaggingOutput,
    GetBucketTaggingInput, GetBucketTaggingOutput, GetObjectTaggingInput, GetObjectTaggingOutput,
    PutBucketTaggingInput, PutBucketTaggingOutput, PutObjectTaggingInput, PutObjectTaggingOutput,
};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response};

use crate::context::Cx;
use crate::convert::{self, BUCKET_TAGS_MAX};
use crate::error::Fail;
use crate::front::{FrontDoor, Outcome};
use crate::ops::lock::version_info;

/// The bucket's document that holds its tags, as a form.
const DOCUMENT: &str = "tagging";

pub(crate) async fn get_object_tagging(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<GetObjectTaggingInput>,
) -> Outcome<GetObjectTaggingOutput> {
    let input = request.input;
    let bucket = front.named(&input.bucket, input.expected_bucket_owner.as_deref())?;
    let info = version_info(front, bucket, input.key, input.version_id.as_deref()).await?;
    Ok(S3Response::new(GetObjectTaggingOutput {
        tag_set: convert::tag_set(&info.object.attributes.tags),
        version_id: info.version.map(|version| version.to_string()),
    }))
}

pub(crate) async fn put_object_tagging(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<PutObjectTaggingInput>,
) -> Outcome<PutObjectTaggingOutput> {
    let input = request.input;
    let bucket = front.named(&input.bucket, input.expected_bucket_owner.as_deref())?;
    let key = convert::object_key(input.key)?;
    let version = convert::version_id(input.version_id.as_deref())?;
    let tags = convert::tags_from_set(input.tagging.tag_set, OBJECT_TAGS_MAX)?;
    let changed = front.store.change_version(&bucket, &key, version, VersionChange::Tags(tags)).await?;
    Ok(S3Response::new(PutObjectTaggingOutput { version_id: changed.map(|version| version.to_string()) }))
}

pub(crate) async fn delete_object_tagging(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<DeleteObjectTaggingInput>,
) -> Outcome<DeleteObjectTaggingOutput> {
    let input = request.input;
    let bucket = front.named(&input.bucket, input.expected_bucket_owner.as_deref())?;
    let key = convert::object_key(input.key)?;
    let version = convert::version_id(input.version_id.as_deref())?;
    let changed = front.store.change_version(&bucket, &key, version, VersionChange::Tags(Vec::new())).await?;
    Ok(S3Response::new(DeleteObjectTaggingOutput { version_id: changed.map(|version| version.to_string()) }))
}

pub(crate) async fn get_bucket_tagging(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<GetBucketTaggingInput>,
) -> Outcome<GetBucketTaggingOutput> {
    let input = request.input;
    let bucket = front.bucket(&convert::bucket_name(&input.bucket)?, input.expected_bucket_owner.as_deref())?;
    let form = bucket
        .documents
        .get(DOCUMENT)
        .ok_or_else(|| S3Error::with_message(S3ErrorCode::NoSuchTagSet, "The TagSet does not exist"))?;
    let pairs = String::from_utf8_lossy(form);
    let tags: Option<Vec<_>> = pairs
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((convert::form_decode(key)?, convert::form_decode(value)?))
        })
        .collect();
    let tags = tags.ok_or_else(|| {
        Fail::Store(granary_store::StoreError::Internal(format!("the tags of bucket {} cannot be read", bucket.name)))
    })?;
    Ok(S3Response::new(GetBucketTaggingOutput { tag_set: convert::tag_set(&tags) }))
}

pub(crate) async fn put_bucket_tagging(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<PutBucketTaggingInput>,
) -> Outcome<PutBucketTaggingOutput> {
    let input = request.input;
    let bucket = front.named(&input.bucket, input.expected_bucket_owner.as_deref())?;
    let tags = convert::tags_from_set(input.tagging.tag_set, BUCKET_TAGS_MAX)?;
    // A set of none is no set.
    let value = (!tags.is_empty()).then(|| convert::tags_to_form(&tags));
    front.store.change_bucket(&bucket, BucketChange::Document { name: DOCUMENT.to_owned(), value }).await?;
    Ok(S3Response::new(PutBucketTaggingOutput::default()))
}

pub(crate) async fn delete_bucket_tagging(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<DeleteBucketTaggingInput>,
) -> Outcome<DeleteBucketTaggingOutput> {
    let input = request.input;
    let bucket = front.named(&input.bucket, input.expected_bucket_owner.as_deref())?;
    front.store.change_bucket(&bucket, BucketChange::Document { name: DOCUMENT.to_owned(), value: None }).await?;
    Ok(S3Response::new(DeleteBucketTaggingOutput::default()))
}
