//! Settings of a bucket that are not there: answered as S3 answers for a bucket without them, because clients
//! ask as a matter of routine. What is always so (encryption, ownership, no public access) is told.

use s3s::dto::{
    self, GetBucketAccelerateConfigurationInput, GetBucketAccelerateConfigurationOutput, GetBucketCorsInput,
    GetBucketCorsOutput, GetBucketEncryptionInput, GetBucketEncryptionOutput, GetBucketLifecycleConfigurationInput,
    GetBucketLifecycleConfigurationOutput, GetBucketLoggingInput, GetBucketLoggingOutput,
    GetBucketNotificationConfigurationInput, GetBucketNotificationConfigurationOutput, GetBucketOwnershipControlsInput,
    GetBucketOwnershipControlsOutput, GetBucketPolicyInput, GetBucketPolicyOutput, GetBucketPolicyStatusInput,
    GetBucketPolicyStatusOutput, GetBucketReplicationInput, GetBucketReplicationOutput, GetBucketRequestPaymentInput,
    GetBucketRequestPaymentOutput, GetBucketWebsiteInput, GetBucketWebsiteOutput, GetPublicAccessBlockInput,
    GetPublicAccessBlockOutput,
};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response};

use crate::context::Cx;
use crate::convert;
use crate::error::Fail;
use crate::front::{FrontDoor, Outcome};

/// The bucket has to exist before anything can be said of it.
fn check(front: &FrontDoor, name: &str, owner: Option<&str>) -> Result<(), Fail> {
    front.bucket(&convert::bucket_name(name)?, owner).map(drop)
}

macro_rules! absent {
    ($($method:ident: $input:ident => $output:ident, $code:ident, $message:literal;)*) => {
        $(
            pub(crate) async fn $method(front: &FrontDoor, _cx: &Cx, request: S3Request<$input>) -> Outcome<$output> {
                check(front, &request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
                Err(S3Error::with_message(S3ErrorCode::$code, $message).into())
            }
        )*
    };
}

absent! {
    get_bucket_policy: GetBucketPolicyInput => GetBucketPolicyOutput,
        NoSuchBucketPolicy, "The bucket policy does not exist";
    get_bucket_policy_status: GetBucketPolicyStatusInput => GetBucketPolicyStatusOutput,
        NoSuchBucketPolicy, "The bucket policy does not exist";
    get_bucket_cors: GetBucketCorsInput => GetBucketCorsOutput,
        NoSuchCORSConfiguration, "The CORS configuration does not exist";
    get_bucket_lifecycle_configuration:
        GetBucketLifecycleConfigurationInput => GetBucketLifecycleConfigurationOutput,
        NoSuchLifecycleConfiguration, "The lifecycle configuration does not exist";
    get_bucket_website: GetBucketWebsiteInput => GetBucketWebsiteOutput,
        NoSuchWebsiteConfiguration, "The specified bucket does not have a website configuration";
    get_bucket_replication: GetBucketReplicationInput => GetBucketReplicationOutput,
        ReplicationConfigurationNotFoundError, "The replication configuration was not found";
}

macro_rules! present {
    ($($method:ident: $input:ident => $output:expr, $type:ident;)*) => {
        $(
            pub(crate) async fn $method(front: &FrontDoor, _cx: &Cx, request: S3Request<$input>) -> Outcome<$type> {
                check(front, &request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
                Ok(S3Response::new($output))
            }
        )*
    };
}

present! {
    get_bucket_encryption: GetBucketEncryptionInput => encryption(), GetBucketEncryptionOutput;
    get_bucket_ownership_controls: GetBucketOwnershipControlsInput => ownership(), GetBucketOwnershipControlsOutput;
    get_public_access_block: GetPublicAccessBlockInput => nothing_public(), GetPublicAccessBlockOutput;
    get_bucket_logging: GetBucketLoggingInput => GetBucketLoggingOutput::default(), GetBucketLoggingOutput;
    get_bucket_notification_configuration: GetBucketNotificationConfigurationInput =>
        GetBucketNotificationConfigurationOutput::default(), GetBucketNotificationConfigurationOutput;
    get_bucket_request_payment: GetBucketRequestPaymentInput => owner_pays(), GetBucketRequestPaymentOutput;
    get_bucket_accelerate_configuration: GetBucketAccelerateConfigurationInput =>
        GetBucketAccelerateConfigurationOutput::default(), GetBucketAccelerateConfigurationOutput;
}

fn encryption() -> GetBucketEncryptionOutput {
    let aes256 = dto::ServerSideEncryption::from_static(dto::ServerSideEncryption::AES256);
    GetBucketEncryptionOutput {
        server_side_encryption_configuration: Some(dto::ServerSideEncryptionConfiguration {
            rules: vec![dto::ServerSideEncryptionRule {
                apply_server_side_encryption_by_default: Some(dto::ServerSideEncryptionByDefault {
                    kms_master_key_id: None,
                    sse_algorithm: aes256,
                }),
                bucket_key_enabled: Some(false),
            }],
        }),
    }
}

fn ownership() -> GetBucketOwnershipControlsOutput {
    let enforced = dto::ObjectOwnership::from_static(dto::ObjectOwnership::BUCKET_OWNER_ENFORCED);
    GetBucketOwnershipControlsOutput {
        ownership_controls: Some(dto::OwnershipControls {
            rules: vec![dto::OwnershipControlsRule { object_ownership: enforced }],
        }),
    }
}

fn nothing_public() -> GetPublicAccessBlockOutput {
    GetPublicAccessBlockOutput {
        public_access_block_configuration: Some(dto::PublicAccessBlockConfiguration {
            block_public_acls: Some(true),
            block_public_policy: Some(true),
            ignore_public_acls: Some(true),
            restrict_public_buckets: Some(true),
        }),
    }
}

fn owner_pays() -> GetBucketRequestPaymentOutput {
    GetBucketRequestPaymentOutput { payer: Some(dto::Payer::from_static(dto::Payer::BUCKET_OWNER)) }
}
