//! Object lock: retention and legal hold of versions, and the bucket's configuration.

use std::time::Duration;

use granary_meta::command::{BucketChange, VersionChange};
use granary_meta::records::{Attributes, BucketRecord, Retention, RetentionMode};
use granary_store::api::{GetRequest, ObjectInfo, Portion, ReadCondition, Unlock};
use granary_types::BucketName;
use s3s::dto::{
    self, GetObjectLegalHoldInput, GetObjectLegalHoldOutput, GetObjectLockConfigurationInput,
    GetObjectLockConfigurationOutput, GetObjectRetentionInput, GetObjectRetentionOutput, PutObjectLegalHoldInput,
    PutObjectLegalHoldOutput, PutObjectLockConfigurationInput, PutObjectLockConfigurationOutput,
    PutObjectRetentionInput, PutObjectRetentionOutput,
};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response};

use crate::context::Cx;
use crate::convert;
use crate::error::{Fail, bad_request, invalid_argument, invalid_request};
use crate::front::{FrontDoor, Outcome};
use crate::ops::attributes::{retention_mode, retention_mode_name};
use crate::ops::delete::may_bypass;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const YEAR_DAYS: u64 = 365;
/// The longest default retention (S3's limits).
const DAYS_MAX: i32 = 36_500;
const YEARS_MAX: i32 = 100;
/// The bucket's document that says how the default retention was given: `GOVERNANCE days 3`; empty without a rule.
const DOCUMENT: &str = "object-lock";

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
            let mode = retention_mode(mode.as_str()).map_err(|_| malformed())?;
            Some(Retention { mode, until: convert::from_timestamp(until) })
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
    let rule = default_retention(&bucket).map(|default| dto::ObjectLockRule { default_retention: Some(default) });
    let enabled = dto::ObjectLockEnabled::from_static(dto::ObjectLockEnabled::ENABLED);
    Ok(S3Response::new(GetObjectLockConfigurationOutput {
        object_lock_configuration: Some(dto::ObjectLockConfiguration { object_lock_enabled: Some(enabled), rule }),
    }))
}

/// The default retention in the unit it was given in; buckets without a document are told in days.
fn default_retention(bucket: &BucketRecord) -> Option<dto::DefaultRetention> {
    let (mode, secs) = bucket.options.default_retention?;
    let document = bucket.documents.get(DOCUMENT).and_then(|document| std::str::from_utf8(document).ok());
    let years = document
        .and_then(|text| text.split_once(" years "))
        .and_then(|(_, count)| count.parse::<i32>().ok())
        .filter(|_| secs % (YEAR_DAYS * DAY.as_secs()) == 0);
    Some(dto::DefaultRetention {
        days: if years.is_some() { None } else { i32::try_from(secs / DAY.as_secs()).ok() },
        mode: Some(dto::ObjectLockRetentionMode::from_static(retention_mode_name(mode))),
        years,
    })
}

fn malformed() -> S3Error {
    S3Error::new(S3ErrorCode::MalformedXML)
}

/// What a configuration says: the default retention, and how it was given.
fn asked_default(
    configuration: Option<dto::ObjectLockConfiguration>,
) -> Result<(Option<(RetentionMode, u64)>, String), S3Error> {
    let configuration = configuration
        .ok_or_else(|| S3Error::with_message(S3ErrorCode::MissingRequestBodyError, "Request Body is empty"))?;
    let enabled = configuration.object_lock_enabled.as_ref().map(dto::ObjectLockEnabled::as_str);
    if enabled != Some(dto::ObjectLockEnabled::ENABLED) {
        return Err(malformed());
    }
    let Some(rule) = configuration.rule else { return Ok((None, String::new())) };
    let default = rule.default_retention.ok_or_else(malformed)?;
    let mode = default.mode.as_ref().map(dto::ObjectLockRetentionMode::as_str).unwrap_or_default();
    let mode = retention_mode(mode).map_err(|_| malformed())?;
    let (count, unit, days, max) = match (default.days, default.years) {
        (Some(days), None) => (days, "days", 1, DAYS_MAX),
        (None, Some(years)) => (years, "years", YEAR_DAYS, YEARS_MAX),
        _ => return Err(malformed()),
    };
    let invalid = |why: String| bad_request("InvalidRetentionPeriod", why);
    let amount = match u64::try_from(count) {
        Ok(amount) if amount > 0 => amount,
        _ => return Err(invalid("Default retention period must be a positive integer value.".to_owned())),
    };
    if count > max {
        return Err(invalid(format!("Default retention period too large: at most {max} {unit}.")));
    }
    let document = format!("{} {unit} {count}", retention_mode_name(mode));
    Ok((Some((mode, amount * days * DAY.as_secs())), document))
}

pub(crate) async fn put_object_lock_configuration(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<PutObjectLockConfigurationInput>,
) -> Outcome<PutObjectLockConfigurationOutput> {
    let input = request.input;
    let bucket = front.named(&input.bucket, input.expected_bucket_owner.as_deref())?;
    let (default_retention, document) = asked_default(input.object_lock_configuration)?;
    let change = BucketChange::ObjectLock { default_retention, document: document.into_bytes() };
    front.store.change_bucket(&bucket, change).await?;
    Ok(S3Response::new(PutObjectLockConfigurationOutput::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(mode: &str, days: Option<i32>, years: Option<i32>) -> Option<dto::ObjectLockConfiguration> {
        Some(dto::ObjectLockConfiguration {
            object_lock_enabled: Some(dto::ObjectLockEnabled::from_static(dto::ObjectLockEnabled::ENABLED)),
            rule: Some(dto::ObjectLockRule {
                default_retention: Some(dto::DefaultRetention { days, mode: Some(mode.to_owned().into()), years }),
            }),
        })
    }

    #[test]
    fn configurations() {
        let code = |asked| asked_default(asked).unwrap_err().code().as_str().to_owned();
        let (default, document) = asked_default(configuration("GOVERNANCE", Some(3), None)).unwrap();
        assert_eq!((default, &*document), (Some((RetentionMode::Governance, 3 * 86_400)), "GOVERNANCE days 3"));
        let (default, document) = asked_default(configuration("COMPLIANCE", None, Some(2))).unwrap();
        assert_eq!((default, &*document), (Some((RetentionMode::Compliance, 730 * 86_400)), "COMPLIANCE years 2"));
        for (asked, wanted) in [
            (None, "MissingRequestBodyError"),
            (Some(dto::ObjectLockConfiguration::default()), "MalformedXML"),
            (configuration("governance", Some(1), None), "MalformedXML"),
            (configuration("GOVERNANCE", None, None), "MalformedXML"),
            (configuration("GOVERNANCE", Some(1), Some(1)), "MalformedXML"),
            (configuration("GOVERNANCE", Some(0), None), "InvalidRetentionPeriod"),
            (configuration("GOVERNANCE", None, Some(-1)), "InvalidRetentionPeriod"),
            (configuration("GOVERNANCE", Some(36_501), None), "InvalidRetentionPeriod"),
        ] {
            assert_eq!(code(asked), wanted);
        }
    }
}
