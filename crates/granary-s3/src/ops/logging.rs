//! Logging configuration of a bucket.
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutBucketLogging.html>

use granary_meta::command::BucketChange;
use granary_store::StoreError;
use s3s::dto::{self, GetBucketLoggingInput, GetBucketLoggingOutput, PutBucketLoggingInput, PutBucketLoggingOutput};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response};

use crate::access_log::{KeyFormat, LOGGING_DOCUMENT, LoggingRules};
use crate::context::Cx;
use crate::convert;
use crate::error::{Fail, invalid_argument};
use crate::front::{FrontDoor, Outcome};
use crate::ops::grants;

/// Bytes of a prefix, at most: keys of log objects must stay keys.
const PREFIX_BYTES_MAX: usize = 512;

fn invalid_target(message: &'static str) -> S3Error {
    S3Error::with_message(S3ErrorCode::InvalidTargetBucketForLogging, message)
}

fn key_format(format: Option<dto::TargetObjectKeyFormat>) -> Result<Option<KeyFormat>, S3Error> {
    let Some(format) = format else { return Ok(None) };
    match (format.simple_prefix, format.partitioned_prefix) {
        (Some(_), None) => Ok(Some(KeyFormat::Simple)),
        (None, Some(partitioned)) => match partitioned.partition_date_source.as_ref().map(|source| source.as_str()) {
            None | Some("DeliveryTime") => Ok(Some(KeyFormat::ByDelivery)),
            Some("EventTime") => Ok(Some(KeyFormat::ByEvent)),
            Some(_) => Err(S3Error::with_message(
                S3ErrorCode::MalformedXML,
                "PartitionDateSource is EventTime or DeliveryTime",
            )),
        },
        _ => Err(S3Error::with_message(
            S3ErrorCode::MalformedXML,
            "TargetObjectKeyFormat has one of SimplePrefix and PartitionedPrefix",
        )),
    }
}

pub(crate) async fn put_bucket_logging(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<PutBucketLoggingInput>,
) -> Outcome<PutBucketLoggingOutput> {
    let input = request.input;
    let name = convert::bucket_name(&input.bucket)?;
    let source = front.bucket(&name, input.expected_bucket_owner.as_deref())?;
    let value = match input.bucket_logging_status.logging_enabled {
        None => None,
        Some(enabled) => {
            if enabled.target_grants.is_some_and(|grants| !grants.is_empty()) {
                return Err(grants::not_supported().into());
            }
            // A name that no bucket can have is a bucket that is not there.
            let target = convert::bucket_name(&enabled.target_bucket)
                .map_err(|_| invalid_target("The target bucket for logging does not exist"))?;
            let there = match front.store.bucket(&target) {
                Ok(there) => there,
                Err(StoreError::NoSuchBucket) => {
                    return Err(invalid_target("The target bucket for logging does not exist").into());
                }
                Err(error) => return Err(error.into()),
            };
            if there.owner != source.owner {
                return Err(invalid_target(
                    "The owner for the bucket to be logged and the target bucket must be the same.",
                )
                .into());
            }
            if enabled.target_prefix.len() > PREFIX_BYTES_MAX {
                let message = format!("TargetPrefix has at most {PREFIX_BYTES_MAX} bytes");
                return Err(invalid_argument(message).into());
            }
            let format = key_format(enabled.target_object_key_format)?;
            Some(LoggingRules { target, prefix: enabled.target_prefix, format }.encode())
        }
    };
    front.store.change_bucket(&name, BucketChange::Document { name: LOGGING_DOCUMENT.to_owned(), value }).await?;
    Ok(S3Response::new(PutBucketLoggingOutput::default()))
}

pub(crate) async fn get_bucket_logging(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<GetBucketLoggingInput>,
) -> Outcome<GetBucketLoggingOutput> {
    let input = request.input;
    let bucket = front.bucket(&convert::bucket_name(&input.bucket)?, input.expected_bucket_owner.as_deref())?;
    let Some(document) = bucket.documents.get(LOGGING_DOCUMENT) else {
        return Ok(S3Response::new(GetBucketLoggingOutput::default()));
    };
    let rules = LoggingRules::decode(document).ok_or_else(|| {
        Fail::Store(StoreError::Internal(format!("the logging settings of bucket {} cannot be read", bucket.name)))
    })?;
    let partitioned = |source: &'static str| dto::TargetObjectKeyFormat {
        partitioned_prefix: Some(dto::PartitionedPrefix {
            partition_date_source: Some(dto::PartitionDateSource::from_static(source)),
        }),
        simple_prefix: None,
    };
    Ok(S3Response::new(GetBucketLoggingOutput {
        logging_enabled: Some(dto::LoggingEnabled {
            target_bucket: rules.target.as_str().to_owned(),
            target_grants: None,
            target_object_key_format: rules.format.map(|format| match format {
                KeyFormat::Simple => dto::TargetObjectKeyFormat {
                    partitioned_prefix: None,
                    simple_prefix: Some(dto::SimplePrefix::default()),
                },
                KeyFormat::ByDelivery => partitioned("DeliveryTime"),
                KeyFormat::ByEvent => partitioned("EventTime"),
            }),
            target_prefix: rules.prefix,
        }),
    }))
}
