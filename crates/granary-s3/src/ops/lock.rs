//! Object lock: retention and legal hold of versions, and the bucket's configuration.

use std::time::Duration;

use granary_meta::command::VersionChange;
use granary_meta::records::{Attributes, Retention};
use granary_store::api::{GetRequest, ObjectInfo, Portion, ReadCondition, Unlock};
use granary_types::BucketName;
use s3s::dto::{
    self, GetObjectLegalHoldInput, GetObjectLegalHoldOutput, GetObjectLockConfigurationInput,
    GetObjectLockConfigurationOutput, GetObjectRetentionInput, GetObjectRetentionOutput, PutObjectLegalHoldInput,
    PutObjectLegalHoldOutput, PutObjectRetentionInput, PutObjectRetentionOutput,
};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response};

use crate::context::Cx;
use crate::convert;
use crate::error::{Fail, invalid_argument, invalid_request};
use crate::front::{FrontDoor, Outcome};
use crate::ops::attributes::{retention_mode, retention_mode_name};
use crate::ops::delete::may_bypass;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn missing_configuration() -> S3Error {
    invalid_request("Bucket is missing Object Lock Configuration")
}

/// A lock can only be put on objects of buckets that were made for it.
pub(crate) fn check_allowed(front: &FrontDoor, bucket: &BucketName, attributes: &Attributes) -> Result<(), Fail> {
    if (attributes.retention.is_some() || attributes.legal_hold) && !front.bucket(bucket, None)?.options.object_lock {
        return Err(missing_configuration().into());
    }
    Ok(())
}

fn locking_bucket(front: &FrontDoor, name: &str, owner: Option<&str>) -> Result<BucketName, Fail> {
    let name = convert::bucket_name(name)?;
    if !front.bucket(&name, owner)?.options.object_lock {
        return Err(missing_configuration().into());
    }
    Ok(name)
}

/// A version as HeadObject knows it.
pub(crate) async fn version_info(
    front: &FrontDoor,
    bucket: BucketName,
    key: String,
    version: Option<&str>,
) -> Result<ObjectInfo, Fail> {
    let request = GetRequest {
        bucket,
        key: convert::object_key(key)?,
        version: convert::version_id(version)?,
        portion: Portion::Whole,
        condition: ReadCondition::default(),
        unlock: Unlock::Unneeded,
    };
    Ok(front.store.head(request).await?)
}

fn no_lock() -> S3Error {
    let code = S3ErrorCode::NoSuchObjectLockConfiguration;
    S3Error::with_message(code, "The specified object does not have a ObjectLock configuration")
}

pub(crate) async fn get_object_retention(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<GetObjectRetentionInput>,
) -> Outcome<GetObjectRetentionOutput> {
    let input = request.input;
    let bucket = locking_bucket(front, &input.bucket, input.expected_bucket_owner.as_deref())?;
    let info = version_info(front, bucket, input.key, input.version_id.as_deref()).await?;
    let retention = info.object.attributes.retention.ok_or_else(no_lock)?;
    Ok(S3Response::new(GetObjectRetentionOutput {
        retention: Some(dto::ObjectLockRetention {
            mode: Some(dto::ObjectLockRetentionMode::from_static(retention_mode_name(retention.mode))),
            retain_until_date: Some(convert::timestamp(retention.until)),
        }),
    }))
}

pub(crate) async fn put_object_retention(
    front: &FrontDoor,
    cx: &Cx,
    request: S3Request<PutObjectRetentionInput>,
) -> Outcome<PutObjectRetentionOutput> {
    let S3Request { input, headers, uri, .. } = request;
    let bucket = locking_bucket(front, &input.bucket, input.expected_bucket_owner.as_deref())?;
    let retention = match input.retention.map(|retention| (retention.mode, retention.retain_until_date)) {
        None | Some((None, None)) => None,
        Some((Some(mode), Some(until))) => {
            Some(Retention { mode: retention_mode(mode.as_str())?, until: convert::from_timestamp(until) })
        }
        Some(_) => return Err(S3Error::new(S3ErrorCode::MalformedXML).into()),
    };
    let now = std::time::SystemTime::now();
    if retention.is_some_and(|retention| convert::timestamp(retention.until) < dto::Timestamp::from(now)) {
        return Err(invalid_argument("The retain until date must be in the future!").into());
    }
    let bypass = input.bypass_governance_retention.unwrap_or(false)
        && may_bypass(front, cx, (&headers, &uri), &bucket, &input.key, input.version_id.as_deref()).await?;
    let change = VersionChange::Retention { retention, bypass };
    let key = convert::object_key(input.key)?;
    let version = convert::version_id(input.version_id.as_deref())?;
    front.store.change_version(&bucket, &key, version, change).await?;
    Ok(S3Response::new(PutObjectRetentionOutput::default()))
}

pub(crate) async fn get_object_legal_hold(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<GetObjectLegalHoldInput>,
) -> Outcome<GetObjectLegalHoldOutput> {
    let input = request.input;
    let bucket = locking_bucket(front, &input.bucket, input.expected_bucket_owner.as_deref())?;
    let info = version_info(front, bucket, input.key, input.version_id.as_deref()).await?;
    let status = if info.object.attributes.legal_hold { "ON" } else { "OFF" };
    Ok(S3Response::new(GetObjectLegalHoldOutput {
        legal_hold: Some(dto::ObjectLockLegalHold {
            status: Some(dto::ObjectLockLegalHoldStatus::from_static(status)),
        }),
    }))
}

pub(crate) async fn put_object_legal_hold(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<PutObjectLegalHoldInput>,
) -> Outcome<PutObjectLegalHoldOutput> {
    let input = request.input;
    let bucket = locking_bucket(front, &input.bucket, input.expected_bucket_owner.as_deref())?;
    let status = input.legal_hold.and_then(|hold| hold.status);
    let is_held = match status.as_ref().map(dto::ObjectLockLegalHoldStatus::as_str) {
        Some("ON") => true,
        Some("OFF") => false,
        _ => return Err(S3Error::new(S3ErrorCode::MalformedXML).into()),
    };
    let key = convert::object_key(input.key)?;
    let version = convert::version_id(input.version_id.as_deref())?;
    front.store.change_version(&bucket, &key, version, VersionChange::LegalHold(is_held)).await?;
    Ok(S3Response::new(PutObjectLegalHoldOutput::default()))
}

pub(crate) async fn get_object_lock_configuration(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<GetObjectLockConfigurationInput>,
) -> Outcome<GetObjectLockConfigurationOutput> {
    let input = request.input;
    let bucket = front.bucket(&convert::bucket_name(&input.bucket)?, input.expected_bucket_owner.as_deref())?;
    if !bucket.options.object_lock {
        return Err(S3Error::with_message(
            S3ErrorCode::ObjectLockConfigurationNotFoundError,
            "Object Lock configuration does not exist for this bucket",
        )
        .into());
    }
    let rule = bucket.options.default_retention.map(|(mode, secs)| dto::ObjectLockRule {
        default_retention: Some(dto::DefaultRetention {
            days: i32::try_from(secs / DAY.as_secs()).ok(),
            mode: Some(dto::ObjectLockRetentionMode::from_static(retention_mode_name(mode))),
            years: None,
        }),
    });
    let enabled = dto::ObjectLockEnabled::from_static(dto::ObjectLockEnabled::ENABLED);
    Ok(S3Response::new(GetObjectLockConfigurationOutput {
        object_lock_configuration: Some(dto::ObjectLockConfiguration { object_lock_enabled: Some(enabled), rule }),
    }))
}
