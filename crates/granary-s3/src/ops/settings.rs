//! Settings of a bucket that are not there: answered as S3 answers for a bucket without them, because clients
//! ask as a matter of routine, and tools that describe infrastructure stop where they are not answered. Putting them is `501
//! NotImplemented`: nothing is taken that would do nothing. So there is nothing to delete either: where S3 says so, it is said.

use s3s::dto::{
    DeleteBucketAnalyticsConfigurationInput, DeleteBucketAnalyticsConfigurationOutput,
    DeleteBucketIntelligentTieringConfigurationInput, DeleteBucketIntelligentTieringConfigurationOutput,
    DeleteBucketInventoryConfigurationInput, DeleteBucketInventoryConfigurationOutput,
    DeleteBucketMetricsConfigurationInput, DeleteBucketMetricsConfigurationOutput, DeleteBucketReplicationInput,
    DeleteBucketReplicationOutput, DeleteBucketWebsiteInput, DeleteBucketWebsiteOutput,
    GetBucketAccelerateConfigurationInput, GetBucketAccelerateConfigurationOutput,
    GetBucketAnalyticsConfigurationInput, GetBucketAnalyticsConfigurationOutput,
    GetBucketIntelligentTieringConfigurationInput, GetBucketIntelligentTieringConfigurationOutput,
    GetBucketInventoryConfigurationInput, GetBucketInventoryConfigurationOutput, GetBucketMetricsConfigurationInput,
    GetBucketMetricsConfigurationOutput, GetBucketReplicationInput, GetBucketReplicationOutput, GetBucketWebsiteInput,
    GetBucketWebsiteOutput, GetObjectTorrentInput, GetObjectTorrentOutput, ListBucketAnalyticsConfigurationsInput,
    ListBucketAnalyticsConfigurationsOutput, ListBucketIntelligentTieringConfigurationsInput,
    ListBucketIntelligentTieringConfigurationsOutput, ListBucketInventoryConfigurationsInput,
    ListBucketInventoryConfigurationsOutput, ListBucketMetricsConfigurationsInput,
    ListBucketMetricsConfigurationsOutput,
};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response};

use crate::context::Cx;
use crate::convert;
use crate::error::{Fail, not_found};
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

/// Nothing is offered by BitTorrent (AWS has withdrawn it): there is no torrent of any object.
pub(crate) async fn get_object_torrent(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<GetObjectTorrentInput>,
) -> Outcome<GetObjectTorrentOutput> {
    check(front, &request.input.bucket, request.input.expected_bucket_owner.as_deref())?;
    Err(S3Error::with_message(S3ErrorCode::NoSuchKey, "There is no torrent of this object").into())
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
    // S3 answers these whether or not there was one.
    delete_bucket_website: DeleteBucketWebsiteInput => DeleteBucketWebsiteOutput::default(), DeleteBucketWebsiteOutput;
    delete_bucket_replication: DeleteBucketReplicationInput =>
        DeleteBucketReplicationOutput::default(), DeleteBucketReplicationOutput;
}

/// Configurations that a bucket can have many of, each with an id: an empty list, and none by that id.
macro_rules! none {
    ($($list:ident: $list_input:ident => $list_output:ident;
       $get:ident: $get_input:ident => $get_output:ident;
       $delete:ident: $delete_input:ident => $delete_output:ident, |$input:ident| $owner:expr;)*) => {
        $(
            pub(crate) async fn $list(
                front: &FrontDoor,
                _cx: &Cx,
                request: S3Request<$list_input>,
            ) -> Outcome<$list_output> {
                let $input = request.input;
                check(front, &$input.bucket, $owner)?;
                Ok(S3Response::new($list_output { is_truncated: Some(false), ..$list_output::default() }))
            }

            pub(crate) async fn $get(
                front: &FrontDoor,
                _cx: &Cx,
                request: S3Request<$get_input>,
            ) -> Outcome<$get_output> {
                let $input = request.input;
                check(front, &$input.bucket, $owner)?;
                Err(no_configuration())
            }

            pub(crate) async fn $delete(
                front: &FrontDoor,
                _cx: &Cx,
                request: S3Request<$delete_input>,
            ) -> Outcome<$delete_output> {
                let $input = request.input;
                check(front, &$input.bucket, $owner)?;
                Err(no_configuration())
            }
        )*
    };
}

fn no_configuration() -> Fail {
    not_found("NoSuchConfiguration", "The specified configuration does not exist.").into()
}

none! {
    list_bucket_analytics_configurations: ListBucketAnalyticsConfigurationsInput =>
        ListBucketAnalyticsConfigurationsOutput;
    get_bucket_analytics_configuration: GetBucketAnalyticsConfigurationInput => GetBucketAnalyticsConfigurationOutput;
    delete_bucket_analytics_configuration: DeleteBucketAnalyticsConfigurationInput =>
        DeleteBucketAnalyticsConfigurationOutput, |input| input.expected_bucket_owner.as_deref();
    list_bucket_inventory_configurations: ListBucketInventoryConfigurationsInput =>
        ListBucketInventoryConfigurationsOutput;
    get_bucket_inventory_configuration: GetBucketInventoryConfigurationInput => GetBucketInventoryConfigurationOutput;
    delete_bucket_inventory_configuration: DeleteBucketInventoryConfigurationInput =>
        DeleteBucketInventoryConfigurationOutput, |input| input.expected_bucket_owner.as_deref();
    list_bucket_metrics_configurations: ListBucketMetricsConfigurationsInput => ListBucketMetricsConfigurationsOutput;
    get_bucket_metrics_configuration: GetBucketMetricsConfigurationInput => GetBucketMetricsConfigurationOutput;
    delete_bucket_metrics_configuration: DeleteBucketMetricsConfigurationInput =>
        DeleteBucketMetricsConfigurationOutput, |input| input.expected_bucket_owner.as_deref();
    list_bucket_intelligent_tiering_configurations: ListBucketIntelligentTieringConfigurationsInput =>
        ListBucketIntelligentTieringConfigurationsOutput;
    get_bucket_intelligent_tiering_configuration: GetBucketIntelligentTieringConfigurationInput =>
        GetBucketIntelligentTieringConfigurationOutput;
    delete_bucket_intelligent_tiering_configuration: DeleteBucketIntelligentTieringConfigurationInput =>
        DeleteBucketIntelligentTieringConfigurationOutput, |_input| None;
}
