//! Settings of a bucket that are not there: answered as S3 answers for a bucket without them, because clients
//! ask as a matter of routine. Putting them is `501 NotImplemented`.

use s3s::dto::{
    GetBucketAccelerateConfigurationInput, GetBucketAccelerateConfigurationOutput, GetBucketReplicationInput,
    GetBucketReplicationOutput, GetBucketWebsiteInput, GetBucketWebsiteOutput,
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
    get_bucket_accelerate_configuration: GetBucketAccelerateConfigurationInput =>
        GetBucketAccelerateConfigurationOutput::default(), GetBucketAccelerateConfigurationOutput;
}
