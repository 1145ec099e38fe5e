//! Which actions an operation needs, and on what: AWS's table of required permissions
//! (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-with-s3-policy-actions.html>), whole.

use http::HeaderMap;
use smallvec::SmallVec;

use super::view::View;

/// What an action is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum On {
    /// All buckets: the service.
    Service,
    /// A bucket that is to be created: its own policy cannot speak yet.
    NewBucket,
    /// The bucket of the request.
    Bucket,
    /// The object of the request.
    Object,
    /// The source of a copy.
    Source,
    /// The object that is renamed, in the bucket of the request.
    Renamed,
}

/// An action, and what it is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) action: &'static str,
    pub(crate) on: On,
}

/// All that an operation needs.
pub(crate) type Needs = SmallVec<[Need; 4]>;

/// When it is decided whether an operation may be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum When {
    /// Before its document is read.
    Now(Needs),
    /// When its document has been read: conditions may ask for what is in it (`Access`'s hook of the operation decides).
    Later(Needs),
    /// Key by key, by the operation itself (multi-delete).
    EachKey,
    /// Never: an operation that has no action is nobody's but the root keys'.
    Never,
}

fn has(headers: &HeaderMap, name: &str) -> bool {
    headers.contains_key(name)
}

fn has_acl(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name == "x-amz-acl" || name.as_str().starts_with("x-amz-grant-"))
}

/// Writing an object: what its headers ask for beside the bytes.
fn write(headers: &HeaderMap, needs: &mut Needs) {
    let mut object = |action| needs.push(Need { action, on: On::Object });
    object("s3:PutObject");
    if has_acl(headers) {
        object("s3:PutObjectAcl");
    }
    if has(headers, "x-amz-tagging") {
        object("s3:PutObjectTagging");
    }
    if has(headers, "x-amz-object-lock-mode") || has(headers, "x-amz-object-lock-retain-until-date") {
        object("s3:PutObjectRetention");
    }
    if has(headers, "x-amz-object-lock-legal-hold") {
        object("s3:PutObjectLegalHold");
    }
}

/// What the operation of that name needs.
pub(crate) fn of(operation: &str, view: &View<'_>) -> When {
    let headers = view.headers;
    let version = view.names_version();
    let source_version = view.copy_source().is_some_and(|source| source.2.is_some());
    let mut needs = Needs::new();
    let either = |versioned, plain| if version { versioned } else { plain };
    let (action, on) = match operation {
        "ListBuckets" => ("s3:ListAllMyBuckets", On::Service),
        "ListDirectoryBuckets" => ("s3express:ListAllMyDirectoryBuckets", On::Service),
        "WriteGetObjectResponse" => ("s3-object-lambda:WriteGetObjectResponse", On::Service),

        "GetObject" | "HeadObject" | "SelectObjectContent" => {
            (either("s3:GetObjectVersion", "s3:GetObject"), On::Object)
        }
        "GetObjectTorrent" => ("s3:GetObjectTorrent", On::Object),
        "GetObjectAcl" => (either("s3:GetObjectVersionAcl", "s3:GetObjectAcl"), On::Object),
        "GetObjectAttributes" => {
            needs.push(Need { action: either("s3:GetObjectVersion", "s3:GetObject"), on: On::Object });
            (either("s3:GetObjectVersionAttributes", "s3:GetObjectAttributes"), On::Object)
        }
        "GetObjectTagging" => (either("s3:GetObjectVersionTagging", "s3:GetObjectTagging"), On::Object),
        "GetObjectRetention" => ("s3:GetObjectRetention", On::Object),
        "GetObjectLegalHold" => ("s3:GetObjectLegalHold", On::Object),
        "ListParts" => ("s3:ListMultipartUploadParts", On::Object),
        "AbortMultipartUpload" => ("s3:AbortMultipartUpload", On::Object),
        "DeleteObject" => (either("s3:DeleteObjectVersion", "s3:DeleteObject"), On::Object),
        "DeleteObjectTagging" => (either("s3:DeleteObjectVersionTagging", "s3:DeleteObjectTagging"), On::Object),
        "PutObjectAcl" => (either("s3:PutObjectVersionAcl", "s3:PutObjectAcl"), On::Object),
        "RestoreObject" => ("s3:RestoreObject", On::Object),
        "UploadPart" | "CompleteMultipartUpload" => ("s3:PutObject", On::Object),
        // Whoever renames reads the object under its new name, and takes it from its old one.
        "PutObject" if crate::ops::append::is_rename(Some(view.query)) => {
            needs.push(Need { action: "s3:GetObject", on: On::Renamed });
            needs.push(Need { action: "s3:DeleteObject", on: On::Renamed });
            needs.push(Need { action: "s3:PutObject", on: On::Object });
            return When::Now(needs);
        }
        "PutObject" | "CreateMultipartUpload" => {
            write(headers, &mut needs);
            return When::Now(needs);
        }
        "CopyObject" | "UploadPartCopy" => {
            let action = if source_version { "s3:GetObjectVersion" } else { "s3:GetObject" };
            needs.push(Need { action, on: On::Source });
            write(headers, &mut needs);
            return When::Now(needs);
        }
        "PutObjectTagging" => {
            needs.push(Need { action: either("s3:PutObjectVersionTagging", "s3:PutObjectTagging"), on: On::Object });
            return When::Later(needs);
        }
        "PutObjectRetention" => {
            needs.push(Need { action: "s3:PutObjectRetention", on: On::Object });
            return When::Later(needs);
        }
        "PutObjectLegalHold" => {
            needs.push(Need { action: "s3:PutObjectLegalHold", on: On::Object });
            return When::Later(needs);
        }
        // The key is in the form.
        "PostObject" => {
            needs.push(Need { action: "s3:PutObject", on: On::Object });
            return When::Later(needs);
        }
        "DeleteObjects" => return When::EachKey,

        "CreateBucket" => {
            needs.push(Need { action: "s3:CreateBucket", on: On::NewBucket });
            if has_acl(headers) {
                needs.push(Need { action: "s3:PutBucketAcl", on: On::NewBucket });
            }
            if has(headers, "x-amz-object-ownership") {
                needs.push(Need { action: "s3:PutBucketOwnershipControls", on: On::NewBucket });
            }
            if headers
                .get("x-amz-bucket-object-lock-enabled")
                .is_some_and(|on| on.as_bytes().eq_ignore_ascii_case(b"true"))
            {
                needs.push(Need { action: "s3:PutBucketObjectLockConfiguration", on: On::NewBucket });
                needs.push(Need { action: "s3:PutBucketVersioning", on: On::NewBucket });
            }
            return When::Later(needs);
        }
        other => match of_bucket(other) {
            Some(action) => (action, On::Bucket),
            None => return When::Never,
        },
    };
    needs.push(Need { action, on });
    When::Now(needs)
}

/// Operations on buckets, which need one action each.
fn of_bucket(operation: &str) -> Option<&'static str> {
    Some(match operation {
        "HeadBucket" | "ListObjects" | "ListObjectsV2" => "s3:ListBucket",
        "ListObjectVersions" => "s3:ListBucketVersions",
        "ListMultipartUploads" => "s3:ListBucketMultipartUploads",
        "DeleteBucket" => "s3:DeleteBucket",
        "CreateSession" => "s3:CreateSession",

        "GetBucketAccelerateConfiguration" => "s3:GetAccelerateConfiguration",
        "GetBucketAcl" => "s3:GetBucketAcl",
        "GetBucketAnalyticsConfiguration" | "ListBucketAnalyticsConfigurations" => "s3:GetAnalyticsConfiguration",
        "GetBucketCors" => "s3:GetBucketCORS",
        "GetBucketEncryption" => "s3:GetEncryptionConfiguration",
        "GetBucketIntelligentTieringConfiguration" | "ListBucketIntelligentTieringConfigurations" => {
            "s3:GetIntelligentTieringConfiguration"
        }
        "GetBucketInventoryConfiguration" | "ListBucketInventoryConfigurations" => "s3:GetInventoryConfiguration",
        "GetBucketLifecycleConfiguration" => "s3:GetLifecycleConfiguration",
        "GetBucketLocation" => "s3:GetBucketLocation",
        "GetBucketLogging" => "s3:GetBucketLogging",
        "GetBucketMetadataTableConfiguration" => "s3:GetBucketMetadataTableConfiguration",
        "GetBucketMetricsConfiguration" | "ListBucketMetricsConfigurations" => "s3:GetMetricsConfiguration",
        "GetBucketNotificationConfiguration" => "s3:GetBucketNotification",
        "GetBucketOwnershipControls" => "s3:GetBucketOwnershipControls",
        "GetBucketPolicy" => "s3:GetBucketPolicy",
        "GetBucketPolicyStatus" => "s3:GetBucketPolicyStatus",
        "GetBucketReplication" => "s3:GetReplicationConfiguration",
        "GetBucketRequestPayment" => "s3:GetBucketRequestPayment",
        "GetBucketTagging" => "s3:GetBucketTagging",
        "GetBucketVersioning" => "s3:GetBucketVersioning",
        "GetBucketWebsite" => "s3:GetBucketWebsite",
        "GetObjectLockConfiguration" => "s3:GetBucketObjectLockConfiguration",
        "GetPublicAccessBlock" => "s3:GetBucketPublicAccessBlock",

        "PutBucketAccelerateConfiguration" => "s3:PutAccelerateConfiguration",
        "PutBucketAcl" => "s3:PutBucketAcl",
        "PutBucketAnalyticsConfiguration" | "DeleteBucketAnalyticsConfiguration" => "s3:PutAnalyticsConfiguration",
        "PutBucketCors" | "DeleteBucketCors" => "s3:PutBucketCORS",
        "PutBucketEncryption" | "DeleteBucketEncryption" => "s3:PutEncryptionConfiguration",
        "PutBucketIntelligentTieringConfiguration" | "DeleteBucketIntelligentTieringConfiguration" => {
            "s3:PutIntelligentTieringConfiguration"
        }
        "PutBucketInventoryConfiguration" | "DeleteBucketInventoryConfiguration" => "s3:PutInventoryConfiguration",
        "PutBucketLifecycleConfiguration" | "DeleteBucketLifecycle" => "s3:PutLifecycleConfiguration",
        "PutBucketLogging" => "s3:PutBucketLogging",
        "CreateBucketMetadataTableConfiguration" => "s3:CreateBucketMetadataTableConfiguration",
        "DeleteBucketMetadataTableConfiguration" => "s3:DeleteBucketMetadataTableConfiguration",
        "PutBucketMetricsConfiguration" | "DeleteBucketMetricsConfiguration" => "s3:PutMetricsConfiguration",
        "PutBucketNotificationConfiguration" => "s3:PutBucketNotification",
        "PutBucketOwnershipControls" | "DeleteBucketOwnershipControls" => "s3:PutBucketOwnershipControls",
        "PutBucketPolicy" => "s3:PutBucketPolicy",
        "DeleteBucketPolicy" => "s3:DeleteBucketPolicy",
        "PutBucketReplication" | "DeleteBucketReplication" => "s3:PutReplicationConfiguration",
        "PutBucketRequestPayment" => "s3:PutBucketRequestPayment",
        "PutBucketTagging" | "DeleteBucketTagging" => "s3:PutBucketTagging",
        "PutBucketVersioning" => "s3:PutBucketVersioning",
        "PutBucketWebsite" => "s3:PutBucketWebsite",
        "DeleteBucketWebsite" => "s3:DeleteBucketWebsite",
        "PutObjectLockConfiguration" => "s3:PutBucketObjectLockConfiguration",
        "PutPublicAccessBlock" | "DeletePublicAccessBlock" => "s3:PutBucketPublicAccessBlock",
        _ => return None,
    })
}
