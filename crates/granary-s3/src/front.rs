//! The front door: s3s's trait, operation by operation, each handed to the module that does it.
//!
//! What is not here answers `501 NotImplemented` with the operation's name (s3s's default).

use std::collections::HashSet;
use std::sync::Arc;

use granary_access::Decision;
use granary_access::identity::account_id;
use granary_access::policy::Key;
use granary_meta::command::Refusal;
use granary_meta::records::BucketRecord;
use granary_store::ai::AiError;
use granary_store::{ObjectStore, StoreError};
use granary_types::BucketName;
use http::{HeaderMap, Uri};
use s3s::dto;
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use crate::access::gate::Target;
use crate::access::{Gate, View};
use crate::context::Cx;
use crate::error::Fail;
use crate::ops::{
    access, acl, bucket, copy, cors, delete, encryption, lifecycle, list, lock, logging, multipart, notification, read,
    restore, select, session, settings, tagging, write,
};
use crate::service::FrontConfig;

/// S3's operations over a store.
#[derive(Clone)]
pub struct FrontDoor {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) region: Arc<str>,
    pub(crate) any_region: bool,
    pub(crate) open_new_buckets: bool,
    pub(crate) allow_customer_keys: bool,
    pub(crate) gate: Arc<Gate>,
    pub(crate) notify_targets: Arc<HashSet<String>>,
    #[cfg(feature = "select")]
    pub(crate) selects: Arc<tokio::sync::Semaphore>,
    #[cfg(feature = "select")]
    pub(crate) select_limits: granary_select::Limits,
}

/// What an operation ends with.
pub(crate) type Outcome<T> = Result<S3Response<T>, Fail>;

impl FrontDoor {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, gate: Arc<Gate>, config: &FrontConfig) -> Self {
        Self {
            store,
            region: config.region.as_str().into(),
            any_region: config.any_region,
            open_new_buckets: config.open_new_buckets,
            allow_customer_keys: config.allow_customer_keys,
            gate,
            notify_targets: Arc::new(config.notify_targets.iter().cloned().collect()),
            #[cfg(feature = "select")]
            selects: Arc::new(tokio::sync::Semaphore::new(config.select.queries_max)),
            #[cfg(feature = "select")]
            select_limits: config.select.limits,
        }
    }

    /// Whether the caller may do something that the operation alone did not ask for: the other keys of a multi-delete,
    /// the bypass of governance. What decided is left with the request.
    pub(crate) async fn ask(
        &self,
        cx: &Cx,
        (headers, uri): (&HeaderMap, &Uri),
        action: &str,
        record: &Arc<BucketRecord>,
        target: &Target<'_>,
    ) -> Result<Decision, Fail> {
        let mut view = View::new(headers, uri, cx.trace.peer, cx.auth, &self.region, self.gate.iam.now());
        self.gate.ask(&cx.caller, &mut view, action, record, target).await
    }

    /// Whether a canonical id is an account's here, or one of those that AWS documents.
    pub(crate) fn is_somebody(&self, id: &str) -> bool {
        self.gate.iam.has_canonical(id)
    }

    /// Whether the caller may list a bucket, or of it what begins as `key` does.
    pub(crate) fn may_list(&self, cx: &Cx, record: &Arc<BucketRecord>, key: Option<&str>) -> bool {
        let (headers, uri) = (HeaderMap::new(), Uri::default());
        let mut view = View::new(&headers, &uri, cx.trace.peer, cx.auth, &self.region, self.gate.iam.now());
        view.said.extend(key.map(|key| (Key::Prefix, key.to_owned())));
        self.gate.may_list(&cx.caller, &mut view, record)
    }

    /// As AWS: who may not list a bucket is not told that a key is not there.
    pub(crate) fn hide(&self, cx: &Cx, fail: Fail) -> Fail {
        let is_missing = matches!(
            &fail,
            Fail::Store(error) | Fail::Ai(AiError::Store(error)) if matches!(
                error,
                StoreError::NoSuchKey { .. }
                    | StoreError::NoSuchVersion
                    | StoreError::IsDeleteMarker { .. }
                    | StoreError::Refused(Refusal::NoSuchKey | Refusal::NoSuchVersion)
            )
        );
        let may_list = |bucket: &Arc<BucketRecord>| {
            // Conditions on a listing's prefix hold where they would for one of the key itself.
            self.may_list(cx, bucket, None) || cx.trace.key().is_some_and(|key| self.may_list(cx, bucket, Some(key)))
        };
        if !is_missing || cx.caller.is_root || cx.trace.bucket().is_none_or(may_list) {
            return fail;
        }
        S3Error::with_message(S3ErrorCode::AccessDenied, "Access Denied").into()
    }

    /// The bucket, which must be the expected owner's where the client says whose it expects.
    pub(crate) fn bucket(&self, name: &BucketName, expected: Option<&str>) -> Result<Arc<BucketRecord>, Fail> {
        let bucket = self.store.bucket(name)?;
        if expected.is_some_and(|expected| expected != bucket.owner && expected != account_id(&bucket.owner)) {
            return Err(S3Error::with_message(S3ErrorCode::AccessDenied, "Access Denied").into());
        }
        Ok(bucket)
    }

    /// The name, and the check of `x-amz-expected-bucket-owner` where it is given.
    pub(crate) fn named(&self, name: &str, expected: Option<&str>) -> Result<BucketName, Fail> {
        let name = crate::convert::bucket_name(name)?;
        if expected.is_some() {
            self.bucket(&name, expected)?;
        }
        Ok(name)
    }
}

macro_rules! operations {
    ($($method:ident: $module:ident, $input:ident => $output:ident;)*) => {
        #[async_trait::async_trait]
        impl S3 for FrontDoor {
            $(
                async fn $method(&self, request: S3Request<dto::$input>) -> S3Result<S3Response<dto::$output>> {
                    let cx = Cx::of(&request)?;
                    let work = $module::$method(self, &cx, request);
                    granary_store::origin::serve(cx.origin(), work).await.map_err(|fail| cx.refuse(self.hide(&cx, fail)))
                }
            )*
        }
    };
}

operations! {
    list_buckets: bucket, ListBucketsInput => ListBucketsOutput;
    create_bucket: bucket, CreateBucketInput => CreateBucketOutput;
    create_session: session, CreateSessionInput => CreateSessionOutput;
    list_directory_buckets: session, ListDirectoryBucketsInput => ListDirectoryBucketsOutput;
    head_bucket: bucket, HeadBucketInput => HeadBucketOutput;
    get_bucket_location: bucket, GetBucketLocationInput => GetBucketLocationOutput;
    delete_bucket: bucket, DeleteBucketInput => DeleteBucketOutput;
    get_bucket_versioning: bucket, GetBucketVersioningInput => GetBucketVersioningOutput;
    put_bucket_versioning: bucket, PutBucketVersioningInput => PutBucketVersioningOutput;

    put_object: write, PutObjectInput => PutObjectOutput;
    copy_object: copy, CopyObjectInput => CopyObjectOutput;
    get_object: read, GetObjectInput => GetObjectOutput;
    head_object: read, HeadObjectInput => HeadObjectOutput;
    get_object_attributes: read, GetObjectAttributesInput => GetObjectAttributesOutput;
    select_object_content: select, SelectObjectContentInput => SelectObjectContentOutput;
    delete_object: delete, DeleteObjectInput => DeleteObjectOutput;
    delete_objects: delete, DeleteObjectsInput => DeleteObjectsOutput;

    list_objects: list, ListObjectsInput => ListObjectsOutput;
    list_objects_v2: list, ListObjectsV2Input => ListObjectsV2Output;
    list_object_versions: list, ListObjectVersionsInput => ListObjectVersionsOutput;

    create_multipart_upload: multipart, CreateMultipartUploadInput => CreateMultipartUploadOutput;
    upload_part: multipart, UploadPartInput => UploadPartOutput;
    upload_part_copy: copy, UploadPartCopyInput => UploadPartCopyOutput;
    complete_multipart_upload: multipart, CompleteMultipartUploadInput => CompleteMultipartUploadOutput;
    abort_multipart_upload: multipart, AbortMultipartUploadInput => AbortMultipartUploadOutput;
    list_parts: multipart, ListPartsInput => ListPartsOutput;
    list_multipart_uploads: multipart, ListMultipartUploadsInput => ListMultipartUploadsOutput;

    get_object_tagging: tagging, GetObjectTaggingInput => GetObjectTaggingOutput;
    put_object_tagging: tagging, PutObjectTaggingInput => PutObjectTaggingOutput;
    delete_object_tagging: tagging, DeleteObjectTaggingInput => DeleteObjectTaggingOutput;
    get_bucket_tagging: tagging, GetBucketTaggingInput => GetBucketTaggingOutput;
    put_bucket_tagging: tagging, PutBucketTaggingInput => PutBucketTaggingOutput;
    delete_bucket_tagging: tagging, DeleteBucketTaggingInput => DeleteBucketTaggingOutput;

    restore_object: restore, RestoreObjectInput => RestoreObjectOutput;

    get_object_retention: lock, GetObjectRetentionInput => GetObjectRetentionOutput;
    put_object_retention: lock, PutObjectRetentionInput => PutObjectRetentionOutput;
    get_object_legal_hold: lock, GetObjectLegalHoldInput => GetObjectLegalHoldOutput;
    put_object_legal_hold: lock, PutObjectLegalHoldInput => PutObjectLegalHoldOutput;
    get_object_lock_configuration: lock, GetObjectLockConfigurationInput => GetObjectLockConfigurationOutput;
    put_object_lock_configuration: lock, PutObjectLockConfigurationInput => PutObjectLockConfigurationOutput;

    get_bucket_acl: acl, GetBucketAclInput => GetBucketAclOutput;
    put_bucket_acl: acl, PutBucketAclInput => PutBucketAclOutput;
    get_object_acl: acl, GetObjectAclInput => GetObjectAclOutput;
    put_object_acl: acl, PutObjectAclInput => PutObjectAclOutput;

    get_bucket_policy: access, GetBucketPolicyInput => GetBucketPolicyOutput;
    get_bucket_policy_status: access, GetBucketPolicyStatusInput => GetBucketPolicyStatusOutput;
    get_bucket_cors: cors, GetBucketCorsInput => GetBucketCorsOutput;
    get_bucket_lifecycle_configuration: lifecycle,
        GetBucketLifecycleConfigurationInput => GetBucketLifecycleConfigurationOutput;
    put_bucket_lifecycle_configuration: lifecycle,
        PutBucketLifecycleConfigurationInput => PutBucketLifecycleConfigurationOutput;
    delete_bucket_lifecycle: lifecycle, DeleteBucketLifecycleInput => DeleteBucketLifecycleOutput;
    delete_bucket_website: settings, DeleteBucketWebsiteInput => DeleteBucketWebsiteOutput;
    delete_bucket_replication: settings, DeleteBucketReplicationInput => DeleteBucketReplicationOutput;
    list_bucket_analytics_configurations: settings,
        ListBucketAnalyticsConfigurationsInput => ListBucketAnalyticsConfigurationsOutput;
    get_bucket_analytics_configuration: settings,
        GetBucketAnalyticsConfigurationInput => GetBucketAnalyticsConfigurationOutput;
    delete_bucket_analytics_configuration: settings,
        DeleteBucketAnalyticsConfigurationInput => DeleteBucketAnalyticsConfigurationOutput;
    list_bucket_inventory_configurations: settings,
        ListBucketInventoryConfigurationsInput => ListBucketInventoryConfigurationsOutput;
    get_bucket_inventory_configuration: settings,
        GetBucketInventoryConfigurationInput => GetBucketInventoryConfigurationOutput;
    delete_bucket_inventory_configuration: settings,
        DeleteBucketInventoryConfigurationInput => DeleteBucketInventoryConfigurationOutput;
    list_bucket_metrics_configurations: settings,
        ListBucketMetricsConfigurationsInput => ListBucketMetricsConfigurationsOutput;
    get_bucket_metrics_configuration: settings,
        GetBucketMetricsConfigurationInput => GetBucketMetricsConfigurationOutput;
    delete_bucket_metrics_configuration: settings,
        DeleteBucketMetricsConfigurationInput => DeleteBucketMetricsConfigurationOutput;
    list_bucket_intelligent_tiering_configurations: settings,
        ListBucketIntelligentTieringConfigurationsInput => ListBucketIntelligentTieringConfigurationsOutput;
    get_bucket_intelligent_tiering_configuration: settings,
        GetBucketIntelligentTieringConfigurationInput => GetBucketIntelligentTieringConfigurationOutput;
    delete_bucket_intelligent_tiering_configuration: settings,
        DeleteBucketIntelligentTieringConfigurationInput => DeleteBucketIntelligentTieringConfigurationOutput;
    get_object_torrent: settings, GetObjectTorrentInput => GetObjectTorrentOutput;
    get_bucket_website: settings, GetBucketWebsiteInput => GetBucketWebsiteOutput;
    get_bucket_replication: settings, GetBucketReplicationInput => GetBucketReplicationOutput;
    get_bucket_encryption: encryption, GetBucketEncryptionInput => GetBucketEncryptionOutput;
    get_bucket_ownership_controls: access, GetBucketOwnershipControlsInput => GetBucketOwnershipControlsOutput;
    get_public_access_block: access, GetPublicAccessBlockInput => GetPublicAccessBlockOutput;
    get_bucket_logging: logging, GetBucketLoggingInput => GetBucketLoggingOutput;
    put_bucket_logging: logging, PutBucketLoggingInput => PutBucketLoggingOutput;
    get_bucket_notification_configuration: notification,
        GetBucketNotificationConfigurationInput => GetBucketNotificationConfigurationOutput;
    put_bucket_notification_configuration: notification,
        PutBucketNotificationConfigurationInput => PutBucketNotificationConfigurationOutput;
    get_bucket_request_payment: access, GetBucketRequestPaymentInput => GetBucketRequestPaymentOutput;
    get_bucket_accelerate_configuration: settings,
        GetBucketAccelerateConfigurationInput => GetBucketAccelerateConfigurationOutput;

    put_bucket_policy: access, PutBucketPolicyInput => PutBucketPolicyOutput;
    delete_bucket_policy: access, DeleteBucketPolicyInput => DeleteBucketPolicyOutput;
    put_public_access_block: access, PutPublicAccessBlockInput => PutPublicAccessBlockOutput;
    delete_public_access_block: access, DeletePublicAccessBlockInput => DeletePublicAccessBlockOutput;
    put_bucket_ownership_controls: access, PutBucketOwnershipControlsInput => PutBucketOwnershipControlsOutput;
    delete_bucket_ownership_controls: access, DeleteBucketOwnershipControlsInput => DeleteBucketOwnershipControlsOutput;
    put_bucket_request_payment: access, PutBucketRequestPaymentInput => PutBucketRequestPaymentOutput;
    put_bucket_cors: cors, PutBucketCorsInput => PutBucketCorsOutput;
    delete_bucket_cors: cors, DeleteBucketCorsInput => DeleteBucketCorsOutput;
    put_bucket_encryption: encryption, PutBucketEncryptionInput => PutBucketEncryptionOutput;
    delete_bucket_encryption: encryption, DeleteBucketEncryptionInput => DeleteBucketEncryptionOutput;
}
